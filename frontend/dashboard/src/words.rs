//! Every word the page says, in one place, so that another language is another module like this one.

#![expect(missing_docs, reason = "the words say themselves")]

use rollcall_shared::{CauseKind, Layout};

pub const NAME: &str = "Rollcall";
pub const SERVICES: &str = "Services";
pub const OVERVIEW: &str = "Overview";
pub const ACTIVITY: &str = "Activity";
pub const SEARCH: &str = "Search";
pub const SEARCH_HINT: &str = "Search  name, zone:b, state:late, !not";
pub const REGISTER: &str = "Register";
pub const DEREGISTER: &str = "Deregister";
pub const CLOSE: &str = "Close";
pub const CANCEL: &str = "Cancel";
pub const UNDO: &str = "Undo";
pub const COPY: &str = "Copy";
pub const COPIED: &str = "Copied";
pub const THEME: &str = "Switch between light and dark";
pub const SKIP: &str = "Skip to the instances";

pub const STATE: &str = "State";
pub const ID: &str = "Id";
pub const SERVICE: &str = "Service";
pub const ENDPOINTS: &str = "Endpoints";
pub const VERSION: &str = "Version";
pub const METADATA: &str = "Metadata";
pub const LEASE: &str = "Lease";
pub const ACTIONS: &str = "Actions";
pub const KEY: &str = "Key";
pub const LAYOUT: &str = "Layout";
pub const SOURCE: &str = "Source";
pub const REVISIONS: &str = "Revisions";
pub const RAW: &str = "Value as it stands in etcd";
pub const HISTORY: &str = "What happened while this page was open";
pub const OTHER_KEYS: &str = "Other keys of this lease";
pub const WARNING: &str = "Odd";
pub const CAUSE: &str = "Cause";

pub const LIVE: &str = "live";
pub const LATE: &str = "late";
pub const GONE: &str = "gone";
pub const MALFORMED: &str = "malformed";
pub const PERMANENT: &str = "permanent";
pub const JUST_GONE: &str = "left just now";
pub const LATE_WHY: &str = "A renewal is overdue";
pub const NO_LEASE: &str = "No lease: the key stays until somebody deletes it";

pub const WAITING: &str = "Waiting for the first snapshot";
pub const CONNECTING: &str = "connecting";
pub const RECONNECTING: &str = "reconnecting";
pub const RELOAD: &str = "This page and its server are of different versions: reload the page.";
pub const EMPTY: &str = "Nothing is registered yet";
pub const EMPTY_WATCHED: &str =
    "These prefixes are watched. Whatever registers below one of them appears here at once.";
pub const EMPTY_SNIPPET: &str = "Register a first service from a shell:";
pub const SNIPPET: &str = "rollcall register --name hello --endpoint http://127.0.0.1:8000";
pub const NO_MATCH: &str = "Nothing matches this search";
pub const CLEAR_SEARCH: &str = "Clear the search";
pub const NO_ACTIVITY: &str = "Nothing has changed since this page was opened.";
pub const NO_SUCH_SERVICE: &str = "No instance of this service";
pub const NO_SUCH_SERVICE_MORE: &str = "It has none now. This page fills as soon as one registers.";
pub const NO_SUCH_KEY: &str = "Nothing stands under this key now.";
pub const ALL_WELL: &str = "Nothing looks wrong.";
pub const LOOKS_WRONG: &str = "What looks wrong";
pub const BIGGEST: &str = "Biggest services";

pub const AFTER_PERMANENT: &str =
    "The key is permanent: no lease stands behind it, so it stays gone until something registers it again.";
pub const AFTER_KRATOS_DELETE: &str =
    "A kratos program does not notice: it stays gone until its process restarts or loses its lease.";
pub const AFTER_KRATOS_REVOKE: &str =
    "A kratos program notices and registers again: it is back within about 5 s, a third of its TTL.";
pub const AFTER_GO_MICRO_DELETE: &str =
    "A go-micro program does not notice: it stays gone until its process restarts or loses its lease.";
pub const AFTER_GO_MICRO_REVOKE: &str =
    "A go-micro program comes back at its next round: within 30 s with v2 and v4, within 50 s with v5.";
pub const AFTER_GO_ZERO_DELETE: &str = "A go-zero program comes back at once, under the same key and lease: it watches its own key. This will not keep it out.";
pub const AFTER_GO_ZERO_REVOKE: &str =
    "A go-zero program comes back within 1 to 5 s under a new key (with an id of its own, under the same one).";
pub const AFTER_KITEX: &str = "A Kitex program polls its own key: it is back within 30 s, under a new lease.";
pub const AFTER_HERTZ: &str =
    "A Hertz program stays gone until it restarts; its retries fail and leave behind leases of 60 s.";
pub const AFTER_GO_KIT: &str = "A go-kit program never registers again by itself: it stays gone until it restarts.";
pub const AFTER_GRPC: &str =
    "What registered it through etcd's gRPC naming does not notice: it stays gone until that program restarts.";
pub const AFTER_PLAIN: &str =
    "What registered it does not notice: it stays gone until that program restarts or registers again.";
pub const AFTER_LAST_KEEPS_TRAFFIC: &str =
    "It is the last one: callers that run already keep calling its address, and new callers find nobody.";
pub const AFTER_UNDO: &str = "For 60 s this can be undone.";
pub const AFTER_NO_UNDO: &str = "A revoked lease cannot be put back.";
pub const DELETE_KEY: &str = "Delete the key";
pub const REVOKE_LEASE: &str = "Revoke the lease";
pub const REVOKE_OTHERS: &str = "These keys go with it:";
pub const REVOKE_ALONE: &str = "No other key hangs on this lease.";
pub const TYPE_THE_NAME: &str = "To confirm, type the service's name:";
pub const WORKING: &str = "Working";
pub const NOTHING_CHANGED: &str = "Nothing was changed.";
pub const CHANGED_MEANWHILE: &str =
    "It has changed since this was opened. What is shown now is as it stands; confirm again to take that out.";
pub const ALREADY_GONE: &str = "It is gone already.";

pub const REGISTER_TITLE: &str = "Register an instance";
pub const NAME_LABEL: &str = "Service name";
pub const ID_HINT: &str = "Left empty, one is made";
pub const URLS_HINT: &str = "One a line, or parted by commas, such as http://10.0.0.1:8000";
pub const ADDRESS_HINT: &str = "One host:port, such as 10.0.0.1:8000";
pub const URL_OR_ADDRESS_HINT: &str = "One URL or host:port, such as http://10.0.0.1:8000";
pub const METADATA_HINT: &str = "key=value, one a line";
pub const METADATA_LINE: &str = "each line is key=value, with a key";
pub const TTL: &str = "TTL in seconds";
pub const TTL_HINT: &str = "Empty: a permanent key without a lease";
pub const TTL_RANGE: &str = "a TTL is 2 to 9000000000 seconds; leave it empty for a permanent key";
pub const KEEP_ALIVE: &str = "Renewed by";
pub const KEEP_ALIVE_SERVER: &str = "this server, until it is deregistered";
pub const KEEP_ALIVE_CALLER: &str = "the program itself";

/// `1 instance`, `1,234 instances`.
pub fn instances(count: usize) -> String {
    counted(count, "instance", "instances")
}

/// `1 service`, `12 services`.
pub fn services(count: usize) -> String {
    counted(count, "service", "services")
}

fn counted(count: usize, one: &str, many: &str) -> String {
    [&*number(count), " ", if count == 1 { one } else { many }].concat()
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
        0..120 => (seconds, " s"),
        120..7_200 => (seconds / 60, " min"),
        7_200..172_800 => (seconds / 3_600, " h"),
        _ => (seconds / 86_400, " d"),
    };
    [&*count.to_string(), unit].concat()
}

/// How long ago something happened.
pub fn ago(seconds: u64) -> String {
    if seconds < 2 { "now".to_owned() } else { [&*about(seconds), " ago"].concat() }
}

/// What a cause means, after the instance's name.
pub fn cause(cause: CauseKind) -> &'static str {
    match cause {
        CauseKind::Deregistered => "was deregistered",
        CauseKind::Expired => "vanished: its lease expired (crashed or cut off)",
        CauseKind::Revoked => "was taken out: its lease was revoked",
        CauseKind::Unknown => "vanished, cause unknown",
    }
}

/// The connection's state while etcd is away.
pub fn etcd_away(stale: bool, for_s: u64, since: &str) -> String {
    let what = if stale { "etcd is silent for " } else { "etcd away for " };
    [what, &about(for_s), ": showing what was true at ", since].concat()
}

/// The label of a dialog.
pub fn deregister_title(id: &str, service: &str) -> String {
    ["Deregister ", id, " of ", service, "?"].concat()
}

/// Said when it was done.
pub fn deregistered(id: &str) -> String {
    [id, " was deregistered."].concat()
}

/// Said when a lease was revoked.
pub fn revoked(keys: usize) -> String {
    ["The lease was revoked; ", &counted(keys, "key", "keys"), " went with it."].concat()
}

/// Said when it was put back.
pub fn put_back(id: &str) -> String {
    [id, " is back."].concat()
}

/// Many changes within a second, as one line.
pub fn burst(appeared: usize, vanished: usize, changed: usize) -> String {
    let mut parts = Vec::new();
    for (count, what) in [(appeared, "appeared"), (vanished, "vanished"), (changed, "changed")] {
        if count > 0 {
            parts.push([&*instances(count), " ", what].concat());
        }
    }
    [&*parts.join(", "), " within moments"].concat()
}

/// How many records of a snapshot have come.
pub fn snapshot_progress(records: usize) -> String {
    [&*instances(records), " so far"].concat()
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

pub const APPEARED: &str = "appeared";
pub const CHANGED: &str = "changed";
pub const RESTORED: &str = "etcd came back from a backup: what is shown is its state now";
pub const STARTED_OVER: &str = "the page was brought up to date from a fresh snapshot";
pub const DETAILS: &str = "Details";
pub const CREATED: &str = "created at";
pub const LAST_CHANGED: &str = "last changed at";
