//! The checker: seven properties over everything that every reader was told, against what really happened.
//!
//! Owns what CONTRACT.md says of the stream, once more and in its own words. Must not know how the server does it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use rollcall_shared::{
    Catalog, CauseKind, Change, Cursor, Delta, Digest, Progress, Record, RegistryEvent, Revision, Snapshot,
    SnapshotReason,
};
use tokio::time::Instant;

use super::{
    reader::{Heard, Plan, Recording, Session},
    truth::{Fate, Selection, Told, View},
    writer::{Act, Deed, Granted, Memory},
};

/// How long after a delete, or after the end of trouble, its cause may take to be told.
pub const CAUSE_MAX: Duration = Duration::from_secs(8);

/// How young a lease may be for nobody to have asked it yet.
const LEASE_UNASKED_MAX: Duration = Duration::from_millis(1_200);

/// How long after a connection began, or after a revision, what is told of it is no replay.
const CAUSE_TRAIL: Duration = Duration::from_secs(3);

/// How much longer than the bound a reader may take that may be away when the bound begins.
const ROAM_SLACK: Duration = Duration::from_millis(1_500);

/// How much longer one may take that stopped reading and has tens of megabytes to catch up with.
const HALT_SLACK: Duration = Duration::from_secs(25);

/// How many failures of one property are told in words.
const FAILURES_TOLD_MAX: usize = 6;

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// Revisions of a source only rise.
    Ordered,
    /// No revision is told twice to one reader.
    Unique,
    /// A delta holds all that the revision changed in the source, a snapshot all that stood.
    Atomic,
    /// Every revision is told, or replaced by a snapshot.
    NoGap,
    /// Every cursor is taken, and a snapshot comes for the reason it says.
    Resumable,
    /// Every delete gets one cause, and the right one.
    Explained,
    /// What a reader knows at the end is what etcd holds, in time.
    Converged,
}

impl Property {
    /// All of them, in the table's order.
    pub const ALL: [Self; 7] =
        [Self::Ordered, Self::Unique, Self::Atomic, Self::NoGap, Self::Resumable, Self::Explained, Self::Converged];

    /// The heading of its column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Unique => "unique",
            Self::Atomic => "atomic",
            Self::NoGap => "no gap",
            Self::Resumable => "resumable",
            Self::Explained => "explained",
            Self::Converged => "converged",
        }
    }
}

/// A time in which readers are to see what was written.
#[derive(Debug, Clone, Copy)]
pub struct Marker {
    /// Its number.
    pub number: u64,
    /// From when on it is counted.
    pub since: Instant,
    /// How long it may take.
    pub bound: Duration,
}

/// What befell etcd and the line, so that the checker knows which reasons are true.
#[derive(Debug, Default)]
pub struct Facts {
    /// What was compacted away: when, in which epoch, up to which revision.
    pub compactions: Vec<(Instant, usize, Revision)>,
    /// When each further epoch began.
    pub restores: Vec<Instant>,
    /// When causes could not be found out.
    pub troubles: Vec<(Instant, Instant)>,
    /// What readers were to see, and when.
    pub markers: Vec<Marker>,
    /// What else was found wrong while it ran.
    pub complaints: Vec<(Property, String)>,
}

impl Facts {
    fn troubled(&self, at: Instant) -> bool {
        let before = Duration::from_secs(1);
        self.troubles.iter().any(|(from, to)| at + before >= *from && at <= *to + CAUSE_MAX)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, in words; only the first few of each property.
    pub failures: BTreeMap<Property, Vec<String>>,
    /// How often each property failed.
    pub failed: BTreeMap<Property, usize>,
    /// Readers.
    pub readers: usize,
    /// Revisions that changed something watched.
    pub revisions: usize,
    /// Deltas that were told.
    pub deliveries: usize,
    /// Connections with a cursor.
    pub reconnects: usize,
    /// Snapshots, by reason.
    pub snapshots: BTreeMap<SnapshotReason, usize>,
    /// Causes, by kind.
    pub causes: BTreeMap<&'static str, usize>,
    /// The longest that a reader which stayed took to see a marker.
    pub converged_in: Duration,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn holds(&self) -> bool {
        self.failed.is_empty()
    }

    /// Takes down what is wrong.
    pub fn fail(&mut self, property: Property, what: impl fmt::Display) {
        *self.failed.entry(property).or_default() += 1;
        let failures = self.failures.entry(property).or_default();
        if failures.len() < FAILURES_TOLD_MAX {
            failures.push(what.to_string());
        }
    }
}

type Wrong = (Property, String);

/// What the writer knows of why keys left.
struct Reasons<'a> {
    memory: &'a Memory,
    by_revision: HashMap<(usize, Revision), &'a Act>,
    times: BTreeMap<(usize, Revision), Instant>,
    uncertain: Vec<&'a Act>,
    revoked: HashMap<i64, Instant>,
}

impl<'a> Reasons<'a> {
    fn new(memory: &'a Memory) -> Self {
        let mut reasons = Self {
            memory,
            by_revision: HashMap::new(),
            times: BTreeMap::new(),
            uncertain: Vec::new(),
            revoked: HashMap::new(),
        };
        for act in &memory.acts {
            if let Some(revision) = act.revision {
                reasons.times.insert((act.epoch, revision), act.ended);
                // A write that changed nothing is answered with the revision of the one before.
                if act.deed != Deed::Other {
                    reasons.by_revision.entry((act.epoch, revision)).or_insert(act);
                }
            } else {
                reasons.uncertain.push(act);
            }
            if let Deed::Revokes(lease) = act.deed {
                reasons.revoked.insert(lease, act.started);
            }
        }
        reasons
    }

    /// When a revision had certainly been made.
    fn time(&self, epoch: usize, revision: Revision) -> Option<Instant> {
        self.times.range((epoch, revision)..=(epoch, Revision::MAX)).next().map(|(_, at)| *at)
    }

    /// The causes that may be told of a delete without being wrong.
    fn of(&self, facts: &Facts, epoch: usize, key: &str, revision: Revision, last: &Record) -> BTreeSet<CauseKind> {
        let mut legal = BTreeSet::new();
        let lease = last.lease.map(|lease| lease.0);
        let granted = lease.and_then(|lease| self.memory.leases.get(&lease));
        let time = self.time(epoch, revision);
        let troubled = time.is_none_or(|at| facts.troubled(at));
        let touches = |act: &Act| match &act.deed {
            Deed::Deletes(keys) => keys.iter().any(|of| {
                let of = super::truth::key_text(of);
                of == key || of.ends_with('/') && key.starts_with(&of)
            }),
            Deed::Revokes(of) => Some(*of) == lease,
            Deed::Other => false,
        };
        let kind = |act: &Act| match act.deed {
            Deed::Revokes(_) => CauseKind::Revoked,
            _ => CauseKind::Deregistered,
        };
        if let Some(act) = self.by_revision.get(&(epoch, revision)).filter(|act| touches(act)) {
            legal.insert(kind(act));
            // What happened to the lease before anybody could ask it hides what happened to the key.
            if kind(act) == CauseKind::Deregistered {
                let revoked = lease.and_then(|lease| self.revoked.get(&lease));
                if troubled && revoked.is_some_and(|at| *at >= act.started) {
                    legal.insert(CauseKind::Revoked);
                }
                let ran_out = |lease: &Granted| troubled || lease.at.elapsed_until(act.ended) > LEASE_UNASKED_MAX;
                if granted.is_some_and(|lease| lease.expires && ran_out(lease)) {
                    legal.insert(CauseKind::Expired);
                }
            }
        } else {
            if granted.is_some_and(|lease| lease.expires) {
                legal.insert(CauseKind::Expired);
            }
            legal.extend(self.uncertain.iter().filter(|act| touches(act)).map(|act| kind(act)));
        }
        let young = granted.zip(time).is_some_and(|(lease, at)| lease.at.elapsed_until(at) < LEASE_UNASKED_MAX);
        if troubled || young || legal.is_empty() {
            legal.insert(CauseKind::Unknown);
        }
        legal
    }
}

trait Until {
    /// How long it is from here to `later`.
    fn elapsed_until(&self, later: Instant) -> Duration;
}

impl Until for Instant {
    fn elapsed_until(&self, later: Instant) -> Duration {
        later.saturating_duration_since(*self)
    }
}

/// Looks at all that was told.
pub fn check(told: &Told, memory: &Memory, facts: &Facts, recordings: &[Recording], ended: Instant) -> Verdict {
    let mut verdict = Verdict { readers: recordings.len(), revisions: told.revisions(), ..Verdict::default() };
    for (property, complaint) in &facts.complaints {
        verdict.fail(*property, complaint);
    }
    let reasons = Reasons::new(memory);
    let mut digests = HashMap::new();
    for recording in recordings {
        check_reader(told, facts, &reasons, recording, ended, &mut digests, &mut verdict);
        check_times(facts, recording, &mut verdict);
    }
    verdict
}

fn check_times(facts: &Facts, recording: &Recording, verdict: &mut Verdict) {
    let plan = &recording.plan;
    for marker in &facts.markers {
        let bound = match plan {
            plan if plan.halts => marker.bound + HALT_SLACK,
            plan if plan.roams => marker.bound + ROAM_SLACK,
            _ => marker.bound,
        };
        match recording.markers.get(&marker.number) {
            None => {
                verdict.fail(Property::Converged, format!("{}: marker {} was never seen", plan.name, marker.number));
            }
            Some(at) => {
                let took = marker.since.elapsed_until(*at);
                if took > bound {
                    let what =
                        format!("{}: marker {} took {took:.1?}, and may take {bound:?}", plan.name, marker.number);
                    verdict.fail(Property::Converged, what);
                }
                if !plan.roams && !plan.halts {
                    verdict.converged_in = verdict.converged_in.max(took);
                }
            }
        }
    }
}

/// Which digests were told of which place; the epoch is the one in which the revision came to be.
type Digests = HashMap<(usize, usize, Revision), Digest>;

fn check_reader(
    told: &Told,
    facts: &Facts,
    reasons: &Reasons<'_>,
    recording: &Recording,
    ended: Instant,
    digests: &mut Digests,
    verdict: &mut Verdict,
) {
    let mut track = Track::new(told, facts, &recording.plan);
    let mut catalog = recording.plan.cursor.is_none().then(Catalog::default);
    let mut last_id: Option<&str> = None;
    for (number, session) in recording.sessions.iter().enumerate() {
        let name = |heard: Option<&Heard>| {
            let at = heard.map(|heard| heard.at.saturating_duration_since(session.opened)).unwrap_or_default();
            format!("{}, connection {number} to server {}, after {at:.2?}", recording.plan.name, session.server)
        };
        if let Some(broken) = &session.broken {
            verdict.fail(Property::Resumable, format!("{}: {broken}", name(None)));
        }
        verdict.reconnects += usize::from(session.cursor.is_some());
        if let Err((property, what)) = track.open(session, last_id) {
            verdict.fail(property, format!("{}: {what}", name(None)));
        }
        for heard in &session.heard {
            match &*heard.event {
                RegistryEvent::Delta(_) => verdict.deliveries += 1,
                RegistryEvent::Snapshot(snapshot) if !snapshot.more => {
                    *verdict.snapshots.entry(snapshot.reason).or_default() += 1;
                }
                RegistryEvent::Cause(cause) => *verdict.causes.entry(cause.cause.as_str()).or_default() += 1,
                _ => {}
            }
            if let Err((property, what)) = track.hear(heard) {
                verdict.fail(property, format!("{}: {what}", name(Some(heard))));
            }
            if let Some(id) = &heard.id {
                last_id = Some(id);
                if let Err((property, what)) = track.id(id, digests) {
                    verdict.fail(property, format!("{}: {what}", name(Some(heard))));
                }
            }
            if let Some(catalog) = &mut catalog
                && let Err(error) = catalog.apply(&heard.event)
            {
                verdict.fail(Property::NoGap, format!("{}: the fold refuses: {error}", name(Some(heard))));
            }
        }
        explain(told, facts, reasons, session, ended, &mut |what| {
            verdict.fail(Property::Explained, format!("{}: {what}", name(None)));
        });
    }
    let fold = catalog.as_ref();
    for (source, config) in told.sources.iter().enumerate() {
        let Some((epoch, at)) = track.place(source) else {
            verdict.fail(Property::Converged, format!("{}: knows nothing of {}", recording.plan.name, config.prefix));
            continue;
        };
        let expected = told.selected(epoch, source, at, &recording.plan.selection);
        let Some(fold) = fold else { continue };
        let of_source = |record: &&Arc<Record>| record.source == config.prefix.as_str();
        let folded: View =
            fold.records().filter(of_source).map(|record| (record.key.clone(), Arc::clone(record))).collect();
        if let Some(difference) = difference(&folded, &expected) {
            let what = format!("{}: its fold of {} at {at}: {difference}", recording.plan.name, config.prefix);
            verdict.fail(Property::Converged, what);
        }
    }
}

/// In what two views differ, in a few words.
fn difference(one: &View, other: &View) -> Option<String> {
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differing: Vec<String> = keys
        .into_iter()
        .filter(|key| one.get(*key) != other.get(*key))
        .map(|key| {
            let at = |view: &View| view.get(key).map_or("none".to_owned(), |record| record.mod_revision.to_string());
            format!("{key} is {} and ought to be {}", at(one), at(other))
        })
        .collect();
    let few = differing.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    (!differing.is_empty()).then(|| format!("{} keys differ: {few}", differing.len()))
}

/// Every delete of one connection, and what was said of it.
fn explain(
    told: &Told,
    facts: &Facts,
    reasons: &Reasons<'_>,
    session: &Session,
    ended: Instant,
    fail: &mut dyn FnMut(String),
) {
    let mut deletes: BTreeMap<(&str, Revision), (Instant, &Record)> = BTreeMap::new();
    let mut explained = HashSet::new();
    for heard in &session.heard {
        match &*heard.event {
            RegistryEvent::Delta(delta) => {
                for change in &delta.changes {
                    let Change::Delete(departure) = change else { continue };
                    deletes.insert((&departure.key, delta.revision), (heard.at, &departure.last));
                }
            }
            RegistryEvent::Cause(cause) => {
                // After a restore the same revision may delete the same key once more.
                let deletes_of = |epoch: &usize| told.fate(*epoch, &cause.key, cause.revision) == Some(Fate::Deleted);
                let again = (0..told.epochs()).filter(deletes_of).count() > 1;
                if !explained.insert((&*cause.key, cause.revision)) && !again {
                    fail(format!("two causes for {} at {}", cause.key, cause.revision));
                }
                let Some((_, last)) = deletes.get(&(&*cause.key, cause.revision)) else { continue };
                // Which history it was of: the one in which this revision deleted this key.
                let of_epoch = |epoch: &usize| told.fate(*epoch, &cause.key, cause.revision) == Some(Fate::Deleted);
                let epochs: Vec<usize> = (0..told.epochs()).filter(of_epoch).collect();
                let legal: BTreeSet<CauseKind> = epochs
                    .iter()
                    .flat_map(|epoch| reasons.of(facts, *epoch, &cause.key, cause.revision, last))
                    .collect();
                if !epochs.is_empty() && !legal.contains(&cause.cause) {
                    fail(format!(
                        "{} at {} is said to be {}, and was {legal:?}: {}",
                        cause.key,
                        cause.revision,
                        cause.cause.as_str(),
                        cause.evidence
                    ));
                }
            }
            RegistryEvent::Snapshot(_) | RegistryEvent::Progress(_) => {}
        }
    }
    // Only where the connection lasted can it be said that no cause came.
    let until = session.closed.unwrap_or(ended);
    for ((key, revision), (at, _)) in deletes {
        if explained.contains(&(key, revision)) {
            continue;
        }
        let fates = || (0..told.epochs()).map(|epoch| (epoch, told.fate(epoch, key, revision)));
        // A key that went to a service which is not selected has left this stream, and nothing else.
        let moved = fates().any(|(_, fate)| fate == Some(Fate::Put));
        let calm_from = facts.troubles.iter().map(|(_, to)| *to).max().unwrap_or(at);
        // What is told late, as to a reader that had stopped reading, may have left the server's memory with its cause.
        let happened = |epoch| {
            let time = reasons.time(epoch, revision);
            time.is_some_and(|time| time > session.opened + CAUSE_TRAIL && time.elapsed_until(at) < CAUSE_TRAIL)
        };
        let live = fates().any(|(epoch, fate)| fate == Some(Fate::Deleted) && happened(epoch));
        if !moved && live && calm_from.max(at) + CAUSE_MAX < until {
            fail(format!("no cause came for {key} at {revision}"));
        }
    }
}

/// Where one reader stands.
struct Track<'a> {
    told: &'a Told,
    facts: &'a Facts,
    selection: &'a Selection,
    sources: Vec<Standing>,
    /// The first ordered message of a connection is still to come.
    first: bool,
    cursor: Option<Cursor>,
    incoming: Option<(u32, Vec<Arc<Record>>)>,
    /// Which history the cursor is of that it came with for the first time.
    cursor_epoch: usize,
}

/// Where it stands in one source.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// The revision it knows; `None` before its first snapshot.
    at: Option<Revision>,
    /// What its last cursor covers.
    covered: Revision,
    /// The histories that what it was told fits to.
    epochs: BTreeSet<usize>,
    /// Whether this connection has taken it up.
    taken_up: bool,
    /// The revisions it was told deltas of.
    deltas: BTreeSet<Revision>,
}

impl<'a> Track<'a> {
    fn new(told: &'a Told, facts: &'a Facts, plan: &'a Plan) -> Self {
        let (selection, cursor_epoch) = (&plan.selection, plan.cursor_epoch);
        let sources = vec![Standing::default(); told.sources.len()];
        Self { told, facts, selection, sources, first: true, cursor: None, incoming: None, cursor_epoch }
    }

    /// The history and the revision it stands at.
    fn place(&self, source: usize) -> Option<(usize, Revision)> {
        let standing = &self.sources[source];
        Some((*standing.epochs.last()?, standing.at?))
    }

    fn open(&mut self, session: &Session, last_id: Option<&str>) -> Result<(), Wrong> {
        self.first = true;
        self.incoming = None;
        for standing in &mut self.sources {
            standing.taken_up = false;
        }
        self.cursor = None;
        let Some(text) = &session.cursor else { return Ok(()) };
        let cursor = Cursor::decode(text).map_err(|error| (Property::Resumable, format!("{error}: {text}")))?;
        for (index, source) in self.told.sources.iter().enumerate() {
            let Some(position) = cursor.sources.get(&source.id) else { continue };
            let standing = &mut self.sources[index];
            if last_id.is_none() {
                // It came with another's cursor, which later histories may share.
                let shared = |epoch: &usize| {
                    (self.cursor_epoch + 1..=*epoch).all(|later| position.revision <= self.told.begins_after(later))
                };
                standing.epochs = (self.cursor_epoch..self.told.epochs()).filter(shared).collect();
            }
            if last_id.is_some() && self.told.epochs() > 1 {
                // A cursor says a revision and a view: where histories share both, a server that has not noticed the
                // restore yet goes on in the one it knows, and tells of the other when it has.
                let view = |epoch| self.told.view(epoch, index, position.revision);
                let same: BTreeSet<usize> = (0..self.told.epochs())
                    .filter(|epoch| position.revision <= self.told.read_to(*epoch))
                    .filter(|epoch| standing.epochs.iter().any(|own| view(*own) == view(*epoch)))
                    .collect();
                standing.epochs.extend(same);
            }
            standing.at = Some(position.revision);
            standing.covered = position.revision;
        }
        self.cursor = Some(cursor);
        Ok(())
    }

    fn hear(&mut self, heard: &Heard) -> Result<(), Wrong> {
        if self.incoming.is_some() && !matches!(&*heard.event, RegistryEvent::Snapshot(_)) {
            self.incoming = None;
            return Err((Property::Atomic, "something came between the parts of a snapshot".into()));
        }
        let first = std::mem::take(&mut self.first);
        match &*heard.event {
            RegistryEvent::Snapshot(snapshot) => {
                if snapshot.part == 0 {
                    self.incoming = Some((0, Vec::new()));
                }
                let Some((next, records)) = &mut self.incoming else {
                    return Err((Property::Atomic, format!("part {} of a snapshot came alone", snapshot.part)));
                };
                if *next != snapshot.part {
                    return Err((Property::Atomic, format!("part {} came where {next} was due", snapshot.part)));
                }
                *next += 1;
                records.extend(snapshot.records.iter().cloned());
                self.first = first && snapshot.more;
                if snapshot.more {
                    return Ok(());
                }
                let (_, records) = self.incoming.take().expect("it is there");
                self.snapshot(snapshot, &records, heard.at)
            }
            RegistryEvent::Progress(progress) => {
                if first && let Some(cursor) = self.cursor.clone() {
                    self.take_up(&cursor, progress)?;
                }
                self.progress(progress, heard.at)
            }
            RegistryEvent::Delta(delta) => {
                let wrong = first.then(|| (Property::Resumable, "the first message is a delta".to_owned()));
                self.delta(delta, heard.at)?;
                wrong.map_or(Ok(()), Err)
            }
            RegistryEvent::Cause(_) => {
                self.first = first;
                Ok(())
            }
        }
    }

    /// The first message after a cursor: progress with the cursor's own revisions.
    fn take_up(&mut self, cursor: &Cursor, progress: &Progress) -> Result<(), Wrong> {
        for (prefix, revision) in &progress.revisions {
            let Some(source) = self.told.source(prefix) else { continue };
            let own = cursor.sources.get(&self.told.sources[source].id).map(|position| position.revision);
            if own != Some(*revision) {
                let what = format!("{prefix}: the cursor says {own:?}, and it was taken up at {revision}");
                return Err((Property::Resumable, what));
            }
            self.sources[source].taken_up = true;
        }
        Ok(())
    }

    /// Tries what came on every history that fits so far, and keeps those on which it is right.
    fn on_histories(
        &mut self,
        source: usize,
        on: impl Fn(&Self, usize, Revision) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let Some(at) = self.sources[source].at else {
            return Err((Property::NoGap, "it came before any snapshot of its source".into()));
        };
        let mut fitting = BTreeSet::new();
        let mut wrong = None;
        for epoch in &self.sources[source].epochs {
            match on(self, *epoch, at) {
                Ok(()) => drop(fitting.insert(*epoch)),
                Err(error) => wrong = Some(error),
            }
        }
        if fitting.is_empty() {
            return Err(wrong.unwrap_or((Property::Atomic, "it fits to no history".into())));
        }
        self.sources[source].epochs = fitting;
        Ok(())
    }

    /// Whether nothing selected happened after `after` and up to `to`, but for what a compaction took away and what
    /// left no trace.
    fn nothing_between(
        &self,
        epoch: usize,
        source: usize,
        after: Revision,
        to: Revision,
        now: Instant,
    ) -> Result<(), Revision> {
        let Some(missing) = self.told.first_between((epoch, source), after, to, self.selection) else { return Ok(()) };
        let compacted = self.facts.compactions.iter().any(|(at, of, revision)| {
            *at <= now && *of == epoch && *revision > self.sources[source].covered.min(after)
        });
        let selected = |revision| self.told.selected(epoch, source, revision, self.selection);
        if compacted && selected(after) == selected(to) { Ok(()) } else { Err(missing) }
    }

    fn progress(&mut self, progress: &Progress, now: Instant) -> Result<(), Wrong> {
        for (prefix, revision) in &progress.revisions {
            let Some(source) = self.told.source(prefix) else {
                return Err((Property::Atomic, format!("progress of {prefix}, which nobody watches")));
            };
            let outcome = self.on_histories(source, |track, epoch, at| {
                if *revision < at {
                    return Err((Property::Ordered, format!("{prefix}: progress goes back from {at} to {revision}")));
                }
                track.nothing_between(epoch, source, at, *revision, now).map_err(|missing| {
                    (Property::NoGap, format!("{prefix}: progress from {at} to {revision}, and {missing} was not told"))
                })
            });
            let standing = &mut self.sources[source];
            standing.at = Some(*revision);
            outcome?;
            if !standing.taken_up && self.cursor.is_some() {
                let what = format!("{prefix}: progress to {revision} before the source was taken up");
                return Err((Property::Resumable, what));
            }
        }
        Ok(())
    }

    fn delta(&mut self, delta: &Delta, now: Instant) -> Result<(), Wrong> {
        let Delta { source: prefix, after, revision, changes } = delta;
        let Some(source) = self.told.source(prefix) else {
            return Err((Property::Atomic, format!("a delta of {prefix}, which nobody watches")));
        };
        let outcome = self.on_histories(source, |track, epoch, at| {
            if *revision <= at {
                let twice = track.sources[source].deltas.contains(revision);
                let property = if twice { Property::Unique } else { Property::Ordered };
                return Err((property, format!("{prefix}: a delta of {revision} came at {at}")));
            }
            if *after > at {
                return Err((
                    Property::NoGap,
                    format!("{prefix}: a delta continues from {after}, and it stands at {at}"),
                ));
            }
            if let Err(missing) = track.nothing_between(epoch, source, at, revision - 1, now) {
                let what = format!("{prefix}: from {at} to {revision}, and {missing} was not told");
                return Err((Property::NoGap, what));
            }
            let expected = track.told.changes(epoch, source, *revision, track.selection);
            if expected == *changes {
                return Ok(());
            }
            let what = format!(
                "{prefix}: the delta of {revision} says {:?}, and etcd says {:?}",
                changes.iter().map(brief).collect::<Vec<_>>(),
                expected.iter().map(brief).collect::<Vec<_>>()
            );
            Err((Property::Atomic, what))
        });
        let standing = &mut self.sources[source];
        if standing.at.is_none_or(|at| at < *revision) {
            standing.at = Some(*revision);
        }
        standing.deltas.insert(*revision);
        outcome?;
        if standing.taken_up {
            return Ok(());
        }
        standing.taken_up = true;
        Err((Property::Resumable, format!("{prefix}: a delta came before the source was taken up")))
    }

    fn snapshot(&mut self, snapshot: &Snapshot, records: &[Arc<Record>], now: Instant) -> Result<(), Wrong> {
        let mut wrong = Ok(());
        for (prefix, revision) in &snapshot.revisions {
            let Some(source) = self.told.source(prefix) else {
                return Err((Property::Atomic, format!("a snapshot of {prefix}, which nobody watches")));
            };
            let view: View = records
                .iter()
                .filter(|record| record.source == *prefix)
                .map(|record| (record.key.clone(), Arc::clone(record)))
                .collect();
            let before = self.sources[source].clone();
            let oldest = before.epochs.first().copied().unwrap_or_default();
            let restored = snapshot.reason == SnapshotReason::Restored;
            let mut fitting = BTreeSet::new();
            let mut differing = String::from("no history had come so far");
            for epoch in oldest..self.told.epochs() {
                let begun = epoch == 0 || self.facts.restores[epoch - 1] <= now;
                if !begun || *revision > self.told.read_to(epoch) || (restored && epoch <= oldest) {
                    continue;
                }
                match difference(&view, &self.told.selected(epoch, source, *revision, self.selection)) {
                    None => drop(fitting.insert(epoch)),
                    Some(difference) => differing = difference,
                }
            }
            let reason = self.reason(source, &before, snapshot.reason, *revision, now);
            let standing = &mut self.sources[source];
            if restored || standing.epochs.is_disjoint(&fitting) {
                standing.deltas.clear();
            }
            let nothing_fits = fitting.is_empty();
            standing.epochs = if nothing_fits { (0..self.told.epochs()).collect() } else { fitting };
            standing.at = Some(*revision);
            standing.covered = *revision;
            standing.taken_up = true;
            if nothing_fits {
                wrong = Err((Property::Atomic, format!("{prefix}: the snapshot of {revision}: {differing}")));
            } else if let Err(what) = reason {
                let reason = snapshot.reason;
                wrong = Err((Property::Resumable, format!("{prefix}: a {reason:?} snapshot of {revision}: {what}")));
            } else if !restored && before.epochs.contains(&oldest) && before.covered > *revision {
                let what = format!("{prefix}: a snapshot goes back from {} to {revision}", before.covered);
                wrong = Err((Property::Ordered, what));
            }
        }
        wrong
    }

    /// Whether a snapshot's reason is the true one.
    fn reason(
        &self,
        source: usize,
        before: &Standing,
        reason: SnapshotReason,
        revision: Revision,
        now: Instant,
    ) -> Result<(), String> {
        match reason {
            SnapshotReason::Connected if before.at.is_some() => Err("it knew the source".into()),
            SnapshotReason::Connected => Ok(()),
            SnapshotReason::Compacted => {
                let of = |(at, _, compacted): &&(Instant, usize, Revision)| *at <= now && *compacted > before.covered;
                if !self.facts.compactions.iter().any(|compaction| of(&compaction)) {
                    return Err(format!("nothing after its {} was compacted", before.covered));
                }
                let epoch = *before.epochs.last().unwrap_or(&0);
                let same = self.told.view(epoch, source, before.covered) == self.told.view(epoch, source, revision);
                if same { Err("the view was still its own".into()) } else { Ok(()) }
            }
            SnapshotReason::Restored => {
                let oldest = before.epochs.first().copied().unwrap_or_default();
                let happened = (oldest + 1..self.told.epochs()).any(|epoch| {
                    self.facts.restores[epoch - 1] <= now && before.covered > self.told.begins_after(epoch)
                });
                if happened { Ok(()) } else { Err(format!("its {} is of etcd's present history", before.covered)) }
            }
            SnapshotReason::Lagged => Err("a reader that makes progress never lags".into()),
            SnapshotReason::UnknownCursor => Err("a server gave its cursor out".into()),
        }
    }

    /// A cursor covers all that was told, and nothing else.
    fn id(&mut self, id: &str, digests: &mut Digests) -> Result<(), Wrong> {
        let cursor = Cursor::decode(id).map_err(|error| (Property::Resumable, error.to_string()))?;
        let mut wrong = Ok(());
        for source in 0..self.sources.len() {
            let Some(at) = self.sources[source].at else { continue };
            let prefix = &self.told.sources[source].prefix;
            let Some(position) = cursor.sources.get(&self.told.sources[source].id) else {
                wrong = Err((Property::Resumable, format!("{prefix}: an id without it, though the reader knows it")));
                continue;
            };
            let covers = position.revision;
            let fits = |epoch: &usize| {
                covers <= self.told.read_to(*epoch)
                    && self
                        .told
                        .first_between((*epoch, source), at.min(covers), at.max(covers), self.selection)
                        .is_none()
            };
            let standing = &self.sources[source];
            if !standing.epochs.iter().any(fits) {
                let what = format!("{prefix}: an id covers up to {covers}, and the reader was told up to {at}");
                wrong = Err((Property::Resumable, what));
            }
            if let [epoch] = standing.epochs.iter().copied().collect::<Vec<_>>()[..] {
                let born = (1..=epoch).rev().find(|epoch| covers > self.told.begins_after(*epoch)).unwrap_or(0);
                let known = *digests.entry((born, source, covers)).or_insert(position.digest);
                if known != position.digest {
                    let what = format!("{prefix}: two ids for revision {covers}");
                    wrong = Err((Property::Resumable, what));
                }
            }
            self.sources[source].covered = covers.max(at);
        }
        wrong
    }
}

fn brief(change: &Change) -> String {
    match change {
        Change::Put(record) => format!("+{}@{}", record.key, record.service),
        Change::Delete(departure) => format!("-{}@{}", departure.key, departure.service),
    }
}
