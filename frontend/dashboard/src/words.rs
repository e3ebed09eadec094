//! Every word the page says, in one place: a table of sentences by name, in English here, in other languages as files.
//!
//! A word is an index into the table of the language that is spoken. English is part of the program; another language
//! is a text file of as many lines, `NAME = text` in the same order, which [`speak`] takes in. `{0}`, `{1}` stand for
//! what is put in. Must not know: where a file comes from, or who chose it.

#![expect(missing_docs, reason = "the words say themselves")]

use std::cell::Cell;

use rollcall_shared::{CauseKind, Layout};

use crate::{difference::Part, live::Return};

/// Something the page says, in the language that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(u16);

thread_local! {
    static SPOKEN: Cell<&'static [&'static str]> = const { Cell::new(&ENGLISH) };
}

impl Word {
    /// It, in the language that is spoken.
    pub fn text(self) -> &'static str {
        SPOKEN.get()[usize::from(self.0)]
    }

    /// It, with `parts` in place of `{0}`, `{1}` and so on.
    pub fn with(self, parts: &[&str]) -> String {
        let mut out = String::new();
        let mut rest = self.text();
        while let Some((before, after)) = rest.split_once('{') {
            let (index, after) = after.split_once('}').unwrap_or(("", after));
            out.push_str(before);
            out.push_str(index.parse().ok().and_then(|index: usize| parts.get(index)).unwrap_or(&""));
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

/// Speaks English from now on, or the language of a file. A file that is not complete is not taken.
///
/// It stays in memory: what was said in it may be held anywhere.
pub fn speak(file: Option<&str>) -> bool {
    let Some(file) = file else {
        SPOKEN.set(&ENGLISH);
        return true;
    };
    let words: Vec<&'static str> =
        file.lines().filter_map(|line| line.split_once(" = ")).map(|(_, text)| &*text.to_owned().leak()).collect();
    let is_complete = words.len() == ENGLISH.len();
    if is_complete {
        SPOKEN.set(words.leak());
    }
    is_complete
}

macro_rules! words {
    ($($name:ident = $text:literal;)+) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "they are the constants' names")]
        enum Place { $($name),+ }
        $(pub const $name: Word = Word(Place::$name as u16);)+
        static ENGLISH: [&str; [$(Place::$name as u16),+].len()] = [$($text),+];
        #[cfg(test)]
        const NAMES: [&str; ENGLISH.len()] = [$(stringify!($name)),+];
    };
}

words! {
    NAME = "Rollcall";
    SERVICES = "Services";
    OVERVIEW = "Overview";
    ACTIVITY = "Activity";
    SEARCH = "Search";
    SEARCH_HINT = "Search  name, zone:b, state:late, !not";
    REGISTER = "Register";
    DEREGISTER = "Deregister";
    CLOSE = "Close";
    CANCEL = "Cancel";
    UNDO = "Undo";
    COPY = "Copy";
    COPIED = "Copied";
    THEME = "Switch between light and dark";
    SKIP = "Skip to the instances";
    STATE = "State";
    ID = "Id";
    SERVICE = "Service";
    ENDPOINTS = "Endpoints";
    VERSION = "Version";
    METADATA = "Metadata";
    LEASE = "Lease";
    ACTIONS = "Actions";
    KEY = "Key";
    LAYOUT = "Layout";
    SOURCE = "Source";
    REVISIONS = "Revisions";
    RAW = "Value as it stands in etcd";
    HISTORY = "What happened while this page was open";
    OTHER_KEYS = "Other keys of this lease";
    WARNING = "Odd";
    CAUSE = "Cause";
    LIVE = "live";
    LATE = "late";
    GONE = "gone";
    MALFORMED = "malformed";
    PERMANENT = "permanent";
    JUST_GONE = "left just now";
    LATE_WHY = "A renewal is overdue";
    NO_LEASE = "No lease: the key stays until somebody deletes it";
    WAITING = "Waiting for the first snapshot";
    CONNECTING = "connecting";
    RECONNECTING = "reconnecting";
    RELOAD = "This page and its server are of different versions: reload the page.";
    EMPTY = "Nothing is registered yet";
    EMPTY_WATCHED = "These prefixes are watched. Whatever registers below one of them appears here at once.";
    EMPTY_SNIPPET = "Register a first service from a shell:";
    SNIPPET = "rollcall register --name hello --endpoint http://127.0.0.1:8000";
    NO_MATCH = "Nothing matches this search";
    CLEAR_SEARCH = "Clear the search";
    NO_ACTIVITY = "Nothing has changed since this page was opened.";
    NO_SUCH_SERVICE = "No instance of this service";
    NO_SUCH_SERVICE_MORE = "It has none now. This page fills as soon as one registers.";
    NO_SUCH_KEY = "Nothing stands under this key now.";
    ALL_WELL = "Nothing looks wrong.";
    LOOKS_WRONG = "What looks wrong";
    BIGGEST = "Biggest services";
    AFTER_PERMANENT = "The key is permanent: no lease stands behind it, so it stays gone until something registers it again.";
    AFTER_KRATOS_DELETE = "A kratos program does not notice: it stays gone until its process restarts or loses its lease.";
    AFTER_KRATOS_REVOKE = "A kratos program notices and registers again: it is back within about 5 s, a third of its TTL.";
    AFTER_GO_MICRO_DELETE = "A go-micro program does not notice: it stays gone until its process restarts or loses its lease.";
    AFTER_GO_MICRO_REVOKE = "A go-micro program comes back at its next round: within 30 s with v2 and v4, within 50 s with v5.";
    AFTER_GO_ZERO_DELETE = "A go-zero program comes back at once, under the same key and lease: it watches its own key. This will not keep it out.";
    AFTER_GO_ZERO_REVOKE = "A go-zero program comes back within 1 to 5 s under a new key (with an id of its own, under the same one).";
    AFTER_KITEX = "A Kitex program polls its own key: it is back within 30 s, under a new lease.";
    AFTER_HERTZ = "A Hertz program stays gone until it restarts; its retries fail and leave behind leases of 60 s.";
    AFTER_GO_KIT = "A go-kit program never registers again by itself: it stays gone until it restarts.";
    AFTER_GRPC = "What registered it through etcd's gRPC naming does not notice: it stays gone until that program restarts.";
    AFTER_PLAIN = "What registered it does not notice: it stays gone until that program restarts or registers again.";
    AFTER_LAST_KEEPS_TRAFFIC = "It is the last one: callers that run already keep calling its address, and new callers find nobody.";
    AFTER_UNDO = "For 60 s this can be undone.";
    AFTER_NO_UNDO = "A revoked lease cannot be put back.";
    DELETE_KEY = "Delete the key";
    REVOKE_LEASE = "Revoke the lease";
    REVOKE_OTHERS = "These keys go with it:";
    REVOKE_ALONE = "No other key hangs on this lease.";
    TYPE_THE_NAME = "To confirm, type the service's name:";
    WORKING = "Working";
    MAY_BE_DONE = "It is not known whether anything was changed.";
    NOT_LOADED = "A part of the page could not be loaded. Reload the page.";
    ALREADY_GONE = "It is gone already.";
    REGISTER_TITLE = "Register an instance";
    NAME_LABEL = "Service name";
    ID_HINT = "Left empty, one is made";
    URLS_HINT = "One a line, or parted by commas, such as http://10.0.0.1:8000";
    ADDRESS_HINT = "One host:port, such as 10.0.0.1:8000";
    URL_OR_ADDRESS_HINT = "One URL or host:port, such as http://10.0.0.1:8000";
    METADATA_HINT = "key=value, one a line";
    METADATA_LINE = "each line is key=value, with a key";
    TTL = "TTL in seconds";
    TTL_HINT = "Empty: a permanent key without a lease";
    TTL_RANGE = "a TTL is 2 to 9000000000 seconds; leave it empty for a permanent key";
    KEEP_ALIVE = "Renewed by";
    KEEP_ALIVE_SERVER = "this server, until it is deregistered";
    KEEP_ALIVE_CALLER = "the program itself";
    APPEARED = "appeared";
    CHANGED = "changed";
    RESTORED = "etcd came back from a backup: what is shown is its state now";
    STARTED_OVER = "the page was brought up to date from a fresh snapshot";
    DETAILS = "Details";
    CREATED = "created at";
    LAST_CHANGED = "last changed at";
    ONE_INSTANCE = "{0} instance";
    MANY_INSTANCES = "{0} instances";
    ONE_SERVICE = "{0} service";
    MANY_SERVICES = "{0} services";
    ONE_KEY = "{0} key";
    MANY_KEYS = "{0} keys";
    SECONDS = "{0} s";
    MINUTES = "{0} min";
    HOURS = "{0} h";
    DAYS = "{0} d";
    NOW = "now";
    AGO = "{0} ago";
    CAUSE_DEREGISTERED = "was deregistered";
    CAUSE_EXPIRED = "vanished: its lease expired (crashed or cut off)";
    CAUSE_REVOKED = "was taken out: its lease was revoked";
    CAUSE_UNKNOWN = "vanished, cause unknown";
    RETURNED_SAME_LEASE = "is back under the same key and lease: its key was put back";
    RETURNED_NEW_LEASE = "is back under a new lease: its program registered again";
    RETURNED_NEW_KEY = "is back under a new key: its program registered again";
    PART_VERSION = "version";
    PART_ENDPOINTS = "endpoints";
    PART_METADATA = "metadata";
    PART_ID = "id";
    PART_REPAIRED = "repaired value";
    PART_BROKEN = "value, which no longer decodes";
    PART_VALUE = "value";
    PART_LEASE = "lease";
    ETCD_SILENT = "etcd is silent for {0}: showing what was true at {1}";
    ETCD_AWAY = "etcd away for {0}: showing what was true at {1}";
    DEREGISTER_TITLE = "Deregister {0} of {1}?";
    DEREGISTERED = "{0} was deregistered.";
    REVOKED = "The lease was revoked; {0} went with it.";
    PUT_BACK = "{0} is back.";
    BURST_APPEARED = "{0} appeared";
    BURST_VANISHED = "{0} vanished";
    BURST_CHANGED = "{0} changed";
    BURST = "{0} within moments";
    LIST_COMMA = ", ";
    SO_FAR = "{0} so far";
    RELOAD_NOW = "Reload";
    LANGUAGE = "中文";
    ROWS = "Dense or comfortable rows";
    SORT = "Order of the services";
    BY_NAME = "by name";
    BY_SIZE = "by size";
    BY_CHANGE = "changed last";
    PLACE = "Zone";
    COLUMN = "Metadata in this column";
    SINCE = "Since";
    BEFORE = "before {0}";
    ENDPOINTS_MORE = "{0} more endpoints";
    ODD = "odd";
    RECENTLY_GONE = "Recently gone ({0})";
    ALL = "All";
    CAME = "Came";
    LEFT = "Left";
    CHANGES = "Changed";
    ODDITIES = "Odd";
    ONLY_HERE = "Only {0}";
    NOTHING_SUCH = "Nothing of this kind yet.";
    CHANGED_PARTS = "changed: {0}";
    COLON = ": ";
    FOUND = "{0} found";
    HEADLINE = "{0} of {1}";
    LATE_COUNT = "{0} late";
    MALFORMED_COUNT = "{0} malformed";
    GONE_COUNT = "{0} gone just now";
    PERMANENT_COUNT = "{0} permanent";
    RECENT = "Changed in the last minutes";
    NO_RECENT = "No service has changed since this page was opened.";
    SAID_CAME = "{0} appeared";
    SAID_LEFT = "{0} left";
    SAID_CHANGED = "{0} changed";
    SAID = "{0}: {1}";
    CAUSE_NAME_DEREGISTERED = "deregistered";
    CAUSE_NAME_EXPIRED = "expired";
    CAUSE_NAME_REVOKED = "revoked";
    CAUSE_NAME_UNKNOWN = "cause unknown";
    // What acts on the page.
    VALUE = "value";
    AFTER_DRAIN = "It stays registered with a weight of 0: callers send it nothing more, gRPC at once, HTTP within 0.2 s. This holds until its program registers anew.";
    AFTER_UNDRAIN = "It gets calls again, with the weight it had before.";
    CANNOT_DRAIN = "Nothing would be drained: programs that read this layout do not take a weight of 0 for that.";
    BACK_SAME_LEASE = "{0} is back under the same key and lease: its program watches the key and put it back, or somebody undid this.";
    BACK_NEW_LEASE = "{0} is back under a new lease: its program registered it again.";
    BACK_NEW_KEY = "{0} is back under another key: its program registered anew.";
    BACK_MANY = "Back again: {0}. Their programs registered them, or somebody undid this.";
    WEIGHT = "Weight";
    WEIGHT_HINT = "Empty means 100; 0 drains it";
    WEIGHT_WRONG = "a weight is a whole number, 0 or more; empty means 100";
    WEIGHT_HINT_10 = "Empty means 10; the least is 1: nothing drains by weight here";
    WEIGHT_WRONG_10 = "a weight is a whole number, 1 or more; empty means 10";
    WEIGHT_HAS_A_FIELD = "the weight has a field of its own above";
    DRAIN = "Drain";
    UNDRAIN = "Undrain";
    DRAIN_INSTEAD = "Drain it instead";
    DRAINED = "{0} is drained: it stays registered with a weight of 0.";
    UNDRAINED = "{0} gets calls again.";
    IS_DRAINED = "Drained: its weight is 0, so it gets no calls.";
    ONLY_ONE = "It is the only one that gets calls, and then a weight of 0 does nothing: callers go on calling it.";
    EDIT = "Edit";
    EDIT_INSTEAD = "Edit instead";
    EDIT_TITLE = "Edit {0}";
    EDITED = "{0} was changed.";
    EDIT_SAVE = "Save";
    EDIT_SAME = "Nothing is different yet.";
    EDIT_KEEPS = "The key, its lease and every byte that is not edited stay as they are. The change holds until the program registers anew.";
    EDIT_KEPT_ASIDE = "What fits no line (several lines, = in a name) is not shown here and stays as it is.";
    DRAFT_KEPT = "What was typed before is still here.";
    DISCARD = "Start over";
    CONFLICT = "It has changed since this was opened, in {2}: revision {0} became {1}.";
    ONE_FIELD = "{0} field";
    MANY_FIELDS = "{0} fields";
    CONFLICT_MERGED = "What changed is taken over where nothing was typed. Where both changed, choose; then save again.";
    CONFLICT_AGAIN = "Nothing was done. What is shown now is as it stands; confirm again to act on that.";
    CONFLICT_SAME = "No field of it is different: it was written again as it was.";
    WAS_IS = "{0}: {1} → {2}";
    NOTHING_THERE = "nothing";
    STANDS_NOW = "Stands there now: {0}";
    TAKE_THEIRS = "Take this";
    KEEP_MINE = "Keep mine";
    LEASE_CHANGED = "The lease holds other keys than were shown; nothing was done. Look at them and confirm again.";
    PUTTING_BACK = "Putting {0} back";
    DRAINING = "Draining {0}";
    UNDRAINING = "Undraining {0}";
    UNDONE = "{0} is as it was before.";
    SELECT = "Select {0}";
    SELECTED = "{0} selected";
    SELECT_ALL = "Select all {0}";
    CLEAR_SELECTION = "Clear the selection";
    BATCH_DELETE_TITLE = "Deregister {0}?";
    BATCH_DRAIN_TITLE = "Drain {0}?";
    BATCH_UNDRAIN_TITLE = "Undrain {0}?";
    OF_LIVE = "{0} of {1}";
    TYPE_THE_WORD = "For {0} this is the last one, or more than half. To confirm, type:";
    THE_WORD = "take out {0}";
    DONE_SO_FAR = "{0} of {1} done";
    BATCH_FAILED = "{0} of {1} failed.";
    BATCH_AGAIN = "Try those again";
    BATCH_DELETED = "Deregistered: {0}.";
    BATCH_DRAINED = "Drained: {0}.";
    BATCH_UNDRAINED = "Undrained: {0}.";
    BATCH_UNDONE = "As before: {0}.";
    SKIPPED = "left as it is: {0}";
    ALREADY_DRAINED = "it is drained already";
    NOT_DRAINED = "it is not drained";
    CHANGED_SHORT = "it has changed: {0}";
    DONE = "done";
    KEYS_TITLE = "Keys";
    KEY_SEARCH = "search";
    KEY_MOVE = "move through the rows";
    KEY_OPEN = "open the row's details";
    KEY_BACK = "back: clear the search, close the sheet, clear the selection";
    KEY_DEREGISTER = "deregister the row, or all that are selected";
    KEY_SELECT = "select the row; with shift-click, a range";
    KEY_REGISTER = "register an instance";
    KEY_EDIT = "edit the row";
    KEY_UNDO = "undo what was done last";
    KEY_THEME = "light or dark";
    KEY_PALETTE = "everywhere to go and everything to do";
    KEY_HELP = "this list";
    PALETTE = "Go to or do";
    PALETTE_HINT = "A service, an instance, or what to do";
    PALETTE_NONE = "Nothing is called that.";
    PLACE_SERVICE = "service, {0}";
    PLACE_INSTANCE = "instance of {0}";
    ACT_KIND = "act";
    PLACE_KIND = "place";
    THIS_DEREGISTER = "Deregister {0}";
    THIS_DRAIN = "Drain {0}";
    THIS_UNDRAIN = "Undrain {0}";
    THIS_EDIT = "Edit {0}";
    SHOW_LATE = "Show what is late";
    SHOW_MALFORMED = "Show what does not decode";
    SELECT_SHOWN = "Select all that are shown";
    OF_ALL = "For all of them: {0}";
}

/// `1 instance`, `1,234 instances`.
pub fn instances(count: usize) -> String {
    counted(count, ONE_INSTANCE, MANY_INSTANCES)
}

/// `1 service`, `12 services`.
pub fn services(count: usize) -> String {
    counted(count, ONE_SERVICE, MANY_SERVICES)
}

/// `1 key`, `12 keys`.
pub fn keys(count: usize) -> String {
    counted(count, ONE_KEY, MANY_KEYS)
}

fn counted(count: usize, one: Word, many: Word) -> String {
    if count == 1 { one } else { many }.with(&[&number(count)])
}

/// `1 field`, `3 fields`.
pub fn fields(count: usize) -> String {
    counted(count, ONE_FIELD, MANY_FIELDS)
}

/// A number with its thousands parted.
pub fn number(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12 s`, `3 min`, `2 h`: a length of time, roughly.
pub fn about(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, SECONDS),
        120..7_200 => (seconds / 60, MINUTES),
        7_200..172_800 => (seconds / 3_600, HOURS),
        _ => (seconds / 86_400, DAYS),
    };
    unit.with(&[&count.to_string()])
}

/// How long ago something happened.
pub fn ago(seconds: u64) -> String {
    if seconds < 2 { NOW.text().to_owned() } else { AGO.with(&[&about(seconds)]) }
}

/// What a cause means, after the instance's name.
pub fn cause(cause: CauseKind) -> &'static str {
    match cause {
        CauseKind::Deregistered => CAUSE_DEREGISTERED,
        CauseKind::Expired => CAUSE_EXPIRED,
        CauseKind::Revoked => CAUSE_REVOKED,
        CauseKind::Unknown => CAUSE_UNKNOWN,
    }
    .text()
}

/// How an instance came back, after its name.
pub fn returned(how: Return) -> &'static str {
    match how {
        Return::SameLease => RETURNED_SAME_LEASE,
        Return::NewLease => RETURNED_NEW_LEASE,
        Return::NewKey => RETURNED_NEW_KEY,
    }
    .text()
}

/// What is different between two records, by name.
pub fn part(part: Part) -> &'static str {
    match part {
        Part::Version => PART_VERSION,
        Part::Endpoints => PART_ENDPOINTS,
        Part::Metadata => PART_METADATA,
        Part::Id => PART_ID,
        Part::Repaired => PART_REPAIRED,
        Part::Broken => PART_BROKEN,
        Part::Value => PART_VALUE,
        Part::Lease => PART_LEASE,
    }
    .text()
}

/// A cause in a word or two.
pub fn cause_name(cause: CauseKind) -> &'static str {
    match cause {
        CauseKind::Deregistered => CAUSE_NAME_DEREGISTERED,
        CauseKind::Expired => CAUSE_NAME_EXPIRED,
        CauseKind::Revoked => CAUSE_NAME_REVOKED,
        CauseKind::Unknown => CAUSE_NAME_UNKNOWN,
    }
    .text()
}

/// The connection's state while etcd is away.
pub fn etcd_away(stale: bool, for_s: u64, since: &str) -> String {
    if stale { ETCD_SILENT } else { ETCD_AWAY }.with(&[&about(for_s), since])
}

/// The label of a dialog.
pub fn deregister_title(id: &str, service: &str) -> String {
    DEREGISTER_TITLE.with(&[id, service])
}

/// Said when it was done.
pub fn deregistered(id: &str) -> String {
    DEREGISTERED.with(&[id])
}

/// Said when a lease was revoked.
pub fn revoked(count: usize) -> String {
    REVOKED.with(&[&keys(count)])
}

/// Said when it was put back.
pub fn put_back(id: &str) -> String {
    PUT_BACK.with(&[id])
}

/// Many changes within a second, as one line.
pub fn burst(appeared: usize, vanished: usize, changed: usize) -> String {
    let mut parts = Vec::new();
    for (count, what) in [(appeared, BURST_APPEARED), (vanished, BURST_VANISHED), (changed, BURST_CHANGED)] {
        if count > 0 {
            parts.push(what.with(&[&instances(count)]));
        }
    }
    BURST.with(&[&parts.join(LIST_COMMA.text())])
}

/// How many records of a snapshot have come.
pub fn snapshot_progress(records: usize) -> String {
    SO_FAR.with(&[&instances(records)])
}

/// The layout's framework, as a person calls it.
pub fn layout(layout: Layout) -> &'static str {
    match layout {
        Layout::Kratos => "kratos",
        Layout::GoMicro => "go-micro",
        Layout::GoKit => "go-kit",
        Layout::Grpc => "gRPC naming",
        Layout::GoZero => "go-zero",
        Layout::Kitex => "Kitex",
        Layout::Hertz => "Hertz",
        Layout::Plain => "plain",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_take_their_places() {
        assert_eq!(burst(1, 0, 1_234), "1 instance appeared, 1,234 instances changed within moments");
        assert_eq!(etcd_away(false, 130, "14:02:11"), "etcd away for 2 min: showing what was true at 14:02:11");
        assert_eq!(deregister_title("{1}", "{0}"), "Deregister {1} of {0}?");
    }

    #[test]
    fn chinese_says_every_word_with_the_same_parts() {
        let lines: Vec<(&str, &str)> =
            include_str!("../words/zh.txt").lines().filter_map(|line| line.split_once(" = ")).collect();
        let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, NAMES);
        for ((name, text), english) in lines.iter().zip(ENGLISH) {
            let parts =
                |text: &str| (0..4).map(|n| text.matches(&["{", &n.to_string(), "}"].concat()).count()).collect();
            let (here, there): (Vec<usize>, Vec<usize>) = (parts(text), parts(english));
            assert_eq!(here, there, "{name}");
            assert!(!text.is_empty() && !text.contains('！'), "{name}");
        }
    }

    #[test]
    fn only_a_complete_language_is_spoken() {
        assert!(!speak(Some("NAME = x\n")));
        assert_eq!(SERVICES.text(), "Services");
        let file: String = NAMES.iter().zip(ENGLISH).map(|(name, text)| [name, " = ", text, "!\n"].concat()).collect();
        assert!(speak(Some(&file)));
        assert_eq!(SERVICES.text(), "Services!");
        assert!(speak(None));
        assert_eq!(SERVICES.text(), "Services");
    }
}
