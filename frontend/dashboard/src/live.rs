//! What the page knows: the catalog, the leases' clocks, who has just left and why, and what happened.
//!
//! Pure: the fold is `shared`'s, time comes in as an argument, and what changed is noted for whoever draws. Must not
//! know: signals, the document, or how anything looks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use rollcall_shared::{
    Catalog, CauseKind, Change, FoldError, Layout, LeaseId, Record, RegistryEvent, Revision, SnapshotReason,
    api::TtlEvent,
};

use crate::{
    lease::LeaseClock,
    search::{RowState, Search},
};

/// How long a row that is gone stays where it was, in milliseconds.
pub const GHOST_MS: f64 = 20_000.0;

/// How long a row counts as new, in milliseconds.
pub const FRESH_MS: f64 = 1_500.0;

/// How many changes within a second are still told one by one.
pub const BURST_ROWS: usize = 30;

/// How long a second is, for a burst.
const BURST_MS: f64 = 1_000.0;

/// After so long without one, the next burst is another one.
const BURST_PAUSE_MS: f64 = 5_000.0;

/// How many happenings are kept.
pub const FEED_MAX: usize = 200;

/// After an outage the leases' samples are old; nobody is called late for so long, in milliseconds.
const JUDGE_AGAIN_MS: f64 = 15_000.0;

/// Why an instance left, and what that rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The cause.
    pub cause: CauseKind,
    /// The evidence, in one sentence.
    pub evidence: String,
}

/// An instance that has left.
#[derive(Debug, Clone, PartialEq)]
struct Ghost {
    record: Arc<Record>,
    left_ms: f64,
    revision: Revision,
    why: Option<Why>,
}

/// A row as it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What stands, or stood, under the key.
    pub record: Arc<Record>,
    /// How it is doing.
    pub state: RowState,
    /// Why it left, where it did and that is known.
    pub why: Option<Why>,
    /// What is known of its lease.
    pub clock: Option<LeaseClock>,
    /// Whether it came to be just now.
    pub fresh: bool,
}

/// A service in short, as the list shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Instances that are registered and decode.
    pub instances: usize,
    /// Values that do not decode.
    pub malformed: usize,
    /// Instances whose renewal is overdue.
    pub late: usize,
    /// Instances without a lease.
    pub permanent: usize,
    /// Instances that have just left.
    pub gone: usize,
}

/// Something that happened, for the activity feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    /// Tells it from the others.
    pub number: u64,
    /// When the page heard of it.
    pub at_ms: f64,
    /// What it was.
    pub what: What,
}

/// The kinds of happenings.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// An instance came to be.
    Appeared(Arc<Record>),
    /// An instance's value or lease changed.
    Changed {
        /// As it is now.
        record: Arc<Record>,
        /// The names of what changed.
        fields: String,
    },
    /// An instance left.
    Vanished {
        /// As it was.
        record: Arc<Record>,
        /// The revision that deleted it.
        revision: Revision,
        /// Why.
        why: Option<Why>,
    },
    /// Many changes within a second.
    Burst {
        /// How many came to be.
        appeared: usize,
        /// How many left.
        vanished: usize,
        /// How many changed.
        changed: usize,
        /// The causes told of those that left.
        causes: BTreeMap<CauseKind, usize>,
        /// The one service that all of it is about, if it is one.
        service: Option<String>,
    },
    /// The stream began anew.
    Snapshot(SnapshotReason),
}

impl What {
    /// The record it is about, where it is about one.
    pub fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Appeared(record) | Self::Changed { record, .. } | Self::Vanished { record, .. } => Some(record),
            Self::Burst { .. } | Self::Snapshot(_) => None,
        }
    }
}

/// What has to be drawn anew.
#[derive(Debug, Default)]
pub struct Dirty {
    /// The rows.
    pub keys: HashSet<String>,
    /// The services.
    pub services: HashSet<String>,
    /// Whether a service came or went.
    pub names: bool,
    /// Whether something happened.
    pub feed: bool,
    /// Whether leases were heard of.
    pub leases: bool,
}

impl Dirty {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.services.is_empty() && !self.names && !self.feed && !self.leases
    }
}

/// Everything the page knows.
#[derive(Debug, Default)]
pub struct Live {
    catalog: Catalog,
    clocks: HashMap<LeaseId, LeaseClock>,
    judge_from_ms: f64,
    etcd_away: bool,
    late: BTreeSet<String>,
    ghosts: BTreeMap<String, Ghost>,
    fresh: HashMap<String, f64>,
    feed: VecDeque<Happening>,
    happened: u64,
    second_began_ms: f64,
    second_count: usize,
    dirty: Dirty,
}

impl Live {
    /// Folds one ordered message in.
    ///
    /// # Errors
    /// Where it does not fit; the reader has to start again from a snapshot.
    pub fn apply(&mut self, event: &RegistryEvent, now_ms: f64) -> Result<(), FoldError> {
        let first = !self.is_ready();
        let before: HashMap<String, Arc<Record>> = match event {
            RegistryEvent::Delta(delta) => delta
                .changes
                .iter()
                .filter_map(|change| self.catalog.get(change.key()))
                .map(|record| (record.key.clone(), Arc::clone(record)))
                .collect(),
            RegistryEvent::Snapshot(snapshot) if !snapshot.more && !first => {
                self.catalog.records().map(|record| (record.key.clone(), Arc::clone(record))).collect()
            }
            RegistryEvent::Cause(cause) => {
                let why = Why { cause: cause.cause, evidence: cause.evidence.clone() };
                self.explain(&cause.key, cause.revision, &why);
                return Ok(());
            }
            _ => HashMap::new(),
        };
        let changes = self.catalog.apply(event)?;
        let revision = match event {
            RegistryEvent::Delta(delta) => delta.revision,
            _ => 0,
        };
        if let RegistryEvent::Snapshot(snapshot) = event {
            self.dirty.names = true;
            if !first && !snapshot.more && snapshot.reason != SnapshotReason::Connected {
                self.tell(What::Snapshot(snapshot.reason), now_ms);
            }
        }
        if !first {
            self.enter_second(changes.len(), now_ms);
        }
        for change in changes {
            self.note(change, &before, revision, first, now_ms);
        }
        Ok(())
    }

    fn note(
        &mut self,
        change: Change,
        before: &HashMap<String, Arc<Record>>,
        revision: Revision,
        first: bool,
        now_ms: f64,
    ) {
        self.dirty.keys.insert(change.key().to_owned());
        self.dirty.services.insert(change.service().to_owned());
        match change {
            Change::Put(record) => {
                if let Some(ghost) = self.ghosts.remove(&record.key) {
                    self.dirty.services.insert(ghost.record.service.clone());
                }
                let Some(was) = before.get(&record.key) else {
                    self.dirty.names = true;
                    if !first {
                        if !self.in_burst() {
                            self.fresh.insert(record.key.clone(), now_ms);
                        }
                        self.tell(What::Appeared(record), now_ms);
                    }
                    return;
                };
                if was.service != record.service {
                    self.dirty.names = true;
                    self.dirty.services.insert(was.service.clone());
                }
                let fields = differences(was, &record);
                if !fields.is_empty() {
                    self.tell(What::Changed { record, fields }, now_ms);
                }
            }
            Change::Delete(departure) => {
                self.dirty.names = true;
                self.late.remove(&departure.key);
                self.fresh.remove(&departure.key);
                let record = departure.last;
                if !self.in_burst() {
                    let ghost = Ghost { record: Arc::clone(&record), left_ms: now_ms, revision, why: None };
                    self.ghosts.insert(departure.key, ghost);
                }
                self.tell(What::Vanished { record, revision, why: None }, now_ms);
            }
        }
    }

    /// Counts what happens within a second. When it becomes too much, what was told one by one becomes one line.
    fn enter_second(&mut self, changes: usize, now_ms: f64) {
        if now_ms - self.second_began_ms > BURST_MS {
            self.second_began_ms = now_ms;
            self.second_count = 0;
        }
        let was_burst = self.in_burst();
        self.second_count += changes;
        if was_burst || !self.in_burst() {
            return;
        }
        let began_ms = self.second_began_ms;
        let mut burst = Vec::new();
        while self.feed.front().is_some_and(|happening| happening.at_ms >= began_ms) {
            burst.extend(self.feed.pop_front());
        }
        // One that goes on is the same one.
        match self.feed.front_mut() {
            Some(Happening { at_ms, what: What::Burst { .. }, .. }) if now_ms - *at_ms < BURST_PAUSE_MS => {}
            _ => {
                let causes = BTreeMap::new();
                self.push(What::Burst { appeared: 0, vanished: 0, changed: 0, causes, service: None }, now_ms);
            }
        }
        for happening in burst.into_iter().rev() {
            self.tell(happening.what, now_ms);
        }
        let folded: Vec<String> =
            self.ghosts.iter().filter(|(_, ghost)| ghost.left_ms >= began_ms).map(|(key, _)| key.clone()).collect();
        for key in folded {
            self.fold_away(&key);
        }
        self.fresh.retain(|_, at_ms| *at_ms < began_ms);
    }

    fn in_burst(&self) -> bool {
        self.second_count > BURST_ROWS
    }

    fn tell(&mut self, what: What, now_ms: f64) {
        if self.in_burst()
            && let Some(subject) = what.record()
            && let Some(Happening { at_ms, what: What::Burst { appeared, vanished, changed, causes, service }, .. }) =
                self.feed.front_mut()
        {
            *at_ms = now_ms;
            match service {
                None if *appeared + *vanished + *changed == 0 => *service = Some(subject.service.clone()),
                Some(name) if *name != subject.service => *service = None,
                _ => {}
            }
            match &what {
                What::Vanished { why, .. } => {
                    *vanished += 1;
                    if let Some(why) = why {
                        *causes.entry(why.cause).or_default() += 1;
                    }
                }
                What::Appeared(_) => *appeared += 1,
                _ => *changed += 1,
            }
            self.dirty.feed = true;
            return;
        }
        self.push(what, now_ms);
    }

    fn push(&mut self, what: What, now_ms: f64) {
        self.happened += 1;
        self.feed.push_front(Happening { number: self.happened, at_ms: now_ms, what });
        self.feed.truncate(FEED_MAX);
        self.dirty.feed = true;
    }

    fn explain(&mut self, key: &str, revision: Revision, why: &Why) {
        if let Some(ghost) = self.ghosts.get_mut(key)
            && (ghost.revision == revision || ghost.revision == 0)
        {
            ghost.why = Some(why.clone());
            self.dirty.keys.insert(key.to_owned());
        }
        let told = self.feed.iter_mut().find_map(|happening| match &mut happening.what {
            What::Vanished { record, revision: at, why } if record.key == key && (*at == revision || *at == 0) => {
                Some(why)
            }
            _ => None,
        });
        if let Some(told) = told {
            *told = Some(why.clone());
            happening_changed(&mut self.dirty);
            return;
        }
        let burst = self.feed.iter_mut().find_map(|happening| match &mut happening.what {
            What::Burst { causes, vanished, .. } if causes.values().sum::<usize>() < *vanished => Some(causes),
            _ => None,
        });
        if let Some(causes) = burst {
            *causes.entry(why.cause).or_default() += 1;
            happening_changed(&mut self.dirty);
        }
    }

    /// Takes in what the server knows of the leases.
    pub fn hear_leases(&mut self, event: &TtlEvent, now_ms: f64) {
        let mut clocks = HashMap::with_capacity(event.leases.len());
        for heard in &event.leases {
            let clock = match self.clocks.remove(&heard.lease) {
                Some(mut clock) => {
                    clock.hear(heard, now_ms);
                    clock
                }
                None => LeaseClock::new(heard, now_ms),
            };
            clocks.insert(heard.lease, clock);
        }
        self.clocks = clocks;
        self.dirty.leases = true;
        self.judge(now_ms);
    }

    /// Whether etcd can be heard: while it cannot, nobody is called late.
    pub fn set_etcd_away(&mut self, away: bool, now_ms: f64) {
        if self.etcd_away && !away {
            self.judge_from_ms = now_ms + JUDGE_AGAIN_MS;
        }
        self.etcd_away = away;
        self.judge(now_ms);
    }

    /// Time has passed: who is late now, and who has been gone for long enough?
    pub fn tick(&mut self, now_ms: f64) {
        self.judge(now_ms);
        let over: Vec<String> = self
            .ghosts
            .iter()
            .filter(|(_, ghost)| now_ms - ghost.left_ms >= GHOST_MS)
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.fold_away(&key);
        }
        self.fresh.retain(|_, at_ms| now_ms - *at_ms < FRESH_MS);
    }

    fn fold_away(&mut self, key: &str) {
        if let Some(ghost) = self.ghosts.remove(key) {
            self.dirty.keys.insert(key.to_owned());
            self.dirty.services.insert(ghost.record.service.clone());
            self.dirty.names = true;
        }
    }

    fn judge(&mut self, now_ms: f64) {
        let mut late = BTreeSet::new();
        if !self.etcd_away && now_ms >= self.judge_from_ms {
            for record in self.catalog.records() {
                let Some(clock) = record.lease.and_then(|lease| self.clocks.get(&lease)) else { continue };
                if clock.is_late(record.layout == Layout::GoMicro) {
                    late.insert(record.key.clone());
                }
            }
        }
        for key in late.symmetric_difference(&self.late) {
            if let Some(record) = self.catalog.get(key) {
                self.dirty.services.insert(record.service.clone());
            }
            self.dirty.keys.insert(key.clone());
        }
        self.late = late;
    }

    /// What has to be drawn, since this was asked last.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Whether anything has to be drawn.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether the first snapshot stands.
    pub fn is_ready(&self) -> bool {
        !self.catalog.revisions().is_empty()
    }

    /// The one fold's state.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What happened, newest first.
    pub fn feed(&self) -> impl Iterator<Item = &Happening> {
        self.feed.iter()
    }

    /// The row of a key; `None` where there is nothing to show.
    pub fn row(&self, key: &str) -> Option<Row> {
        if let Some(record) = self.catalog.get(key) {
            return Some(Row {
                record: Arc::clone(record),
                state: self.state(record),
                why: None,
                clock: record.lease.and_then(|lease| self.clocks.get(&lease).copied()),
                fresh: self.fresh.contains_key(key),
            });
        }
        let ghost = self.ghosts.get(key)?;
        let (record, why) = (Arc::clone(&ghost.record), ghost.why.clone());
        Some(Row { record, state: RowState::Gone, why, clock: None, fresh: false })
    }

    fn state(&self, record: &Record) -> RowState {
        if self.late.contains(&record.key) { RowState::Late } else { RowState::Live }
    }

    /// The rows of one service, or of all, that a search means, by key; those that have just left among them.
    pub fn rows(&self, service: Option<&str>, search: &Search) -> Vec<Arc<Record>> {
        let wanted = |record: &Arc<Record>| search.is_empty() || search.matches(record, self.state(record));
        let mut rows: Vec<Arc<Record>> = match service {
            Some(name) => self
                .catalog
                .service(name)
                .into_iter()
                .flat_map(BTreeMap::values)
                .filter(|record| wanted(record))
                .cloned()
                .collect(),
            None => self.catalog.records().filter(|record| wanted(record)).cloned().collect(),
        };
        // Few have just left; each takes its place among those that stand.
        for ghost in self.ghosts.values().map(|ghost| &ghost.record) {
            if service.is_none_or(|name| ghost.service == name)
                && (search.is_empty() || search.matches(ghost, RowState::Gone))
            {
                let place = rows.partition_point(|record| record.key < ghost.key);
                rows.insert(place, Arc::clone(ghost));
            }
        }
        rows
    }

    /// The names of the services of which a search means something, sorted; those that have just left among them.
    pub fn service_names(&self, search: &Search) -> Vec<String> {
        let mut names: Vec<String> = self
            .catalog
            .services()
            .filter(|(_, records)| {
                search.is_empty() || records.values().any(|record| search.matches(record, self.state(record)))
            })
            .map(|(name, _)| name.to_owned())
            .collect();
        for ghost in self.ghosts.values().map(|ghost| &ghost.record) {
            if search.is_empty() || search.matches(ghost, RowState::Gone) {
                let place = names.partition_point(|name| *name < ghost.service);
                if names.get(place) != Some(&ghost.service) {
                    names.insert(place, ghost.service.clone());
                }
            }
        }
        names
    }

    /// One service in short.
    pub fn summary(&self, name: &str) -> Summary {
        let mut summary = Summary::default();
        for record in self.catalog.service(name).into_iter().flat_map(BTreeMap::values) {
            self.count(record, &mut summary);
        }
        summary.gone = self.ghosts.values().filter(|ghost| ghost.record.service == name).count();
        summary
    }

    /// All services in short.
    pub fn totals(&self) -> Summary {
        let mut totals = Summary { gone: self.ghosts.len(), ..Summary::default() };
        for record in self.catalog.records() {
            self.count(record, &mut totals);
        }
        totals
    }

    fn count(&self, record: &Record, summary: &mut Summary) {
        if record.instance().is_some() {
            summary.instances += 1;
        } else {
            summary.malformed += 1;
        }
        summary.late += usize::from(self.late.contains(&record.key));
        summary.permanent += usize::from(record.lease.is_none());
    }

    /// Records that something is wrong with, at most so many: undecodable, late, odd.
    pub fn wrong(&self, most: usize) -> Vec<Arc<Record>> {
        let malformed = self.catalog.records().filter(|record| record.instance().is_none());
        let late = self.late.iter().filter_map(|key| self.catalog.get(key));
        let odd = self.catalog.records().filter(|record| record.warning.is_some());
        let mut seen = HashSet::new();
        malformed.chain(late).chain(odd).filter(|record| seen.insert(record.key.clone())).take(most).cloned().collect()
    }

    /// The services with the most instances, at most so many, biggest first.
    pub fn biggest(&self, most: usize) -> Vec<(String, usize)> {
        let mut sizes: Vec<(String, usize)> = Vec::new();
        for (name, size) in self.catalog.services().map(|(name, records)| (name, records.len())) {
            let place = sizes.partition_point(|(_, other)| *other >= size);
            if place < most {
                sizes.insert(place, (name.to_owned(), size));
                sizes.truncate(most);
            }
        }
        sizes
    }

    /// The prefix whose keys are written in `layout`, as far as the records tell.
    pub fn source_of(&self, layout: Layout) -> Option<String> {
        self.catalog.records().find(|record| record.layout == layout).map(|record| record.source.clone())
    }
}

fn happening_changed(dirty: &mut Dirty) {
    dirty.feed = true;
}

/// The names of what differs between two records of one key, as a person lists them.
fn differences(was: &Record, is: &Record) -> String {
    let mut fields = Vec::new();
    match (was.instance(), is.instance()) {
        (Some(was), Some(is)) => {
            for (name, differs) in [
                ("version", was.version != is.version),
                ("endpoints", was.endpoints != is.endpoints),
                ("metadata", was.metadata != is.metadata),
                ("id", was.id != is.id),
            ] {
                if differs {
                    fields.push(name);
                }
            }
        }
        (None, Some(_)) => fields.push("repaired value"),
        (Some(_), None) => fields.push("value, which no longer decodes"),
        (None, None) => {
            if was.decoded != is.decoded {
                fields.push("value");
            }
        }
    }
    if was.lease != is.lease {
        fields.push("lease");
    }
    fields.join(", ")
}

#[cfg(test)]
mod tests {
    use rollcall_shared::{Cause, Decoded, Delta, Departure, ServiceInstance, Snapshot, api::LeaseTtl};

    use super::*;

    const SOURCE: &str = "/microservices/";

    fn record(service: &str, id: &str, revision: Revision) -> Arc<Record> {
        Arc::new(Record {
            key: [SOURCE, service, "/", id].concat(),
            source: SOURCE.into(),
            layout: Layout::Kratos,
            service: service.into(),
            lease: Some(LeaseId(7)),
            create_revision: revision,
            mod_revision: revision,
            decoded: Decoded::Instance(ServiceInstance {
                id: id.into(),
                name: service.into(),
                ..ServiceInstance::default()
            }),
            warning: None,
        })
    }

    fn snapshot(records: Vec<Arc<Record>>, revision: Revision) -> RegistryEvent {
        RegistryEvent::Snapshot(Snapshot {
            reason: SnapshotReason::Connected,
            revisions: [(SOURCE.to_owned(), revision)].into(),
            records,
            part: 0,
            more: false,
        })
    }

    fn delta(revision: Revision, changes: Vec<Change>) -> RegistryEvent {
        RegistryEvent::Delta(Delta { source: SOURCE.into(), after: revision - 1, revision, changes })
    }

    fn delete(record: &Arc<Record>) -> Change {
        Change::Delete(Departure { key: record.key.clone(), service: record.service.clone(), last: Arc::clone(record) })
    }

    fn live(records: Vec<Arc<Record>>) -> Live {
        let mut live = Live::default();
        live.apply(&snapshot(records, 10), 0.0).unwrap();
        live.take_dirty();
        live
    }

    #[test]
    fn one_that_left_stays_where_it_was_with_its_cause_and_then_folds_away() {
        let (one, two) = (record("a", "1", 5), record("a", "2", 6));
        let mut live = live(vec![Arc::clone(&one), Arc::clone(&two)]);
        live.apply(&delta(11, vec![delete(&one)]), 1_000.0).unwrap();
        let why = RegistryEvent::Cause(Cause {
            key: one.key.clone(),
            revision: 11,
            cause: CauseKind::Expired,
            evidence: "why".into(),
        });
        live.apply(&why, 1_100.0).unwrap();
        let row = live.row(&one.key).unwrap();
        assert_eq!((row.state, row.why.unwrap().cause), (RowState::Gone, CauseKind::Expired));
        let keys =
            |live: &Live| live.rows(Some("a"), &Search::default()).iter().map(|r| r.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&live), [one.key.clone(), two.key.clone()]);
        assert_eq!(live.summary("a"), Summary { instances: 1, gone: 1, ..Summary::default() });
        live.tick(20_999.0);
        assert_eq!(keys(&live).len(), 2);
        live.take_dirty();
        live.tick(21_000.0);
        assert_eq!(keys(&live), std::slice::from_ref(&two.key));
        assert!(live.take_dirty().services.contains("a"));
    }

    #[test]
    fn one_that_comes_back_is_no_ghost() {
        let one = record("a", "1", 5);
        let mut live = live(vec![Arc::clone(&one)]);
        live.apply(&delta(11, vec![delete(&one)]), 0.0).unwrap();
        assert_eq!(live.service_names(&Search::default()), ["a"]);
        live.apply(&delta(12, vec![Change::Put(record("a", "1", 12))]), 0.0).unwrap();
        let row = live.row(&one.key).unwrap();
        assert_eq!((row.state, row.fresh), (RowState::Live, true));
        assert_eq!(live.rows(None, &Search::default()).len(), 1);
    }

    #[test]
    fn a_burst_is_told_as_one_line() {
        let records: Vec<_> = (0..100).map(|n| record("a", &n.to_string(), 5)).collect();
        let mut live = live(records.clone());
        live.apply(&delta(11, vec![delete(&records[0])]), 0.0).unwrap();
        assert_eq!(live.feed().count(), 1);
        live.apply(&delta(12, records[1..60].iter().map(delete).collect()), 500.0).unwrap();
        for (record, revision) in records[..60].iter().zip([11].into_iter().chain(std::iter::repeat(12))) {
            let cause = Cause { key: record.key.clone(), revision, cause: CauseKind::Revoked, evidence: String::new() };
            live.apply(&RegistryEvent::Cause(cause), 600.0).unwrap();
        }
        let told: Vec<_> = live.feed().map(|happening| &happening.what).collect();
        let What::Burst { vanished: 60, causes, service, .. } = told[0] else { panic!("{told:?}") };
        assert_eq!((told.len(), causes[&CauseKind::Revoked], service.as_deref()), (1, 60, Some("a")));
        assert_eq!(live.rows(Some("a"), &Search::default()).len(), 40);
        live.apply(&delta(13, vec![delete(&records[60])]), 5_000.0).unwrap();
        assert_eq!(live.feed().count(), 2);
    }

    #[test]
    fn the_first_snapshot_is_no_news_and_a_later_one_tells_what_changed() {
        let one = record("a", "1", 5);
        let mut live = live(vec![Arc::clone(&one)]);
        assert_eq!(live.feed().count(), 0);
        live.apply(&snapshot(vec![record("b", "1", 20)], 20), 9_000.0).unwrap();
        let told: Vec<_> = live.feed().map(|happening| happening.what.record().unwrap().service.clone()).collect();
        assert_eq!(told, ["b", "a"]);
        assert_eq!(live.service_names(&Search::default()), ["a", "b"]);
    }

    #[test]
    fn only_what_changed_is_drawn() {
        let (one, two) = (record("a", "1", 5), record("b", "2", 6));
        let mut live = live(vec![one, Arc::clone(&two)]);
        live.apply(&delta(11, vec![Change::Put(record("b", "2", 11))]), 0.0).unwrap();
        let dirty = live.take_dirty();
        assert_eq!(dirty.keys, HashSet::from([two.key.clone()]));
        assert_eq!(dirty.services, HashSet::from(["b".to_owned()]));
        assert!(!dirty.names && !dirty.feed && !live.is_dirty());
    }

    #[test]
    fn who_stops_renewing_is_late_and_nobody_is_while_etcd_is_away() {
        let one = record("a", "1", 5);
        let mut live = live(vec![Arc::clone(&one)]);
        for second in (1..=15_i32).step_by(2) {
            let leases =
                vec![LeaseTtl { lease: LeaseId(7), granted_s: 15, remaining_s: 15 - i64::from(second), age_ms: 0 }];
            live.hear_leases(&TtlEvent { at_ms: 0, leases }, f64::from(second) * 1_000.0);
        }
        assert_eq!(live.row(&one.key).unwrap().state, RowState::Late);
        assert_eq!(live.rows(None, &Search::parse("state:late")).len(), 1);
        assert_eq!((live.totals().late, live.wrong(5).len()), (1, 1));
        live.take_dirty();
        live.set_etcd_away(true, 15_100.0);
        assert_eq!(live.row(&one.key).unwrap().state, RowState::Live);
        assert!(live.take_dirty().keys.contains(&one.key));
        live.set_etcd_away(false, 15_200.0);
        assert_eq!(live.row(&one.key).unwrap().state, RowState::Live);
    }
}
