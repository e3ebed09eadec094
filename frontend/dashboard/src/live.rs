//! What the page knows: the catalog, the leases' clocks, who has just left and why, and what happened.
//!
//! Pure: the fold is `shared`'s, time comes in as an argument, and what changed is noted for whoever draws. What it
//! costs to take a change in does not grow with what stands: there may be 100,000 instances and a thousand changes a
//! second. Must not know: signals, the document, or how anything looks.

mod feed;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

pub use feed::{BURST_ROWS, FEED_MAX, Feed, Happening, Return, What, Why};
use rollcall_shared::{
    Catalog, Change, FoldError, Layout, LeaseId, Record, RegistryEvent, Revision, SnapshotReason, api::TtlEvent,
};
pub use tally::{CURVE_MS, Summary, Tally};
use tally::{Count, Tallies};

use crate::{
    lease::LeaseClock,
    search::{RowState, Search},
};

/// How long a row that is gone stays where it was, in milliseconds.
pub const GHOST_MS: f64 = 20_000.0;

/// How long a row counts as new, in milliseconds.
pub const FRESH_MS: f64 = 1_500.0;

/// After an outage the leases' samples are old; nobody is called late for so long, in milliseconds.
const JUDGE_AGAIN_MS: f64 = 15_000.0;

/// Where no timer runs, as in a hidden tab, messages do its work after so long, in milliseconds.
const TICK_MS_MAX: f64 = 5_000.0;

/// From so many changes at once on, everything is drawn anew instead of one by one.
const REDRAW_CHANGES: usize = 2_000;

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
    /// When it came to be, where the page saw that.
    pub since_ms: Option<f64>,
}

/// An instance that left and whose row has been folded away.
#[derive(Debug, Clone, PartialEq)]
pub struct Gone {
    /// As it was.
    pub record: Arc<Record>,
    /// Why it left, where that is known.
    pub why: Option<Why>,
    /// When the page heard of it.
    pub at_ms: f64,
}

/// What has to be drawn anew.
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the page of its own")]
#[derive(Debug, Default)]
pub struct Dirty {
    /// Whether so much changed that all has to be looked at anew.
    pub all: bool,
    /// The rows, each with what it showed when it was drawn last.
    pub keys: HashMap<String, Option<Arc<Record>>>,
    /// Whether an instance came, went, or is doing otherwise: more than its own row is of another look.
    pub moved: bool,
    /// The rows that were added to this since somebody asked last whether it is urgent.
    unseen: Vec<String>,
    /// The rows of which only the lease was renewed.
    pub renewed: HashSet<String>,
    /// Whether so many were renewed that all rows have to be looked at.
    pub all_renewed: bool,
    /// The services.
    pub services: HashSet<String>,
    /// Whether a service came or went.
    pub names: bool,
    /// Whether something happened.
    pub feed: bool,
}

impl Dirty {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        let is_renewed = self.all_renewed || !self.renewed.is_empty();
        !self.all && !is_renewed && self.keys.is_empty() && self.services.is_empty() && !self.names && !self.feed
    }
}

impl Dirty {
    /// Whether a row among those that are drawn has to be drawn anew, of those that were not asked about yet.
    fn shows(&mut self, is_drawn: impl Fn(&str) -> bool) -> bool {
        self.all_renewed || std::mem::take(&mut self.unseen).iter().any(|key| is_drawn(key))
    }

    fn renew(&mut self, key: &str) {
        if self.renewed.len() >= REDRAW_CHANGES {
            self.renewed.clear();
            self.all_renewed = true;
        }
        if !self.all_renewed && !self.renewed.contains(key) {
            self.renewed.insert(key.to_owned());
            self.unseen.push(key.to_owned());
        }
    }
}

/// One lease, as far as the page knows it.
#[derive(Debug, Default)]
struct Held {
    clock: Option<LeaseClock>,
    records: BTreeMap<String, Arc<Record>>,
}

/// Everything the page knows.
#[derive(Debug, Default)]
pub struct Live {
    catalog: Catalog,
    leases: HashMap<LeaseId, Held>,
    judge_from_ms: f64,
    etcd_away: bool,
    late: BTreeSet<String>,
    /// The keys of what is wrong whatever its lease says: undecodable, or odd.
    odd: BTreeSet<String>,
    ghosts: BTreeMap<String, Ghost>,
    fresh: HashMap<String, f64>,
    came: HashMap<String, f64>,
    began_ms: Option<f64>,
    tallies: Tallies,
    feed: Feed,
    dirty: Dirty,
    ticked_ms: f64,
}

impl Live {
    /// Folds one ordered message in.
    ///
    /// # Errors
    /// Where it does not fit; the reader has to start again from a snapshot.
    pub fn apply(&mut self, event: &RegistryEvent, now_ms: f64) -> Result<(), FoldError> {
        let first = !self.is_ready();
        if now_ms - self.ticked_ms > TICK_MS_MAX {
            self.tick(now_ms);
        }
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
                self.dirty.feed = true;
                self.feed.tell(What::Snapshot(snapshot.reason), now_ms);
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        if first {
            self.began_ms = Some(now_ms);
        }
        self.dirty.all |= first || changes.len() > REDRAW_CHANGES;
        if !first && let Some(began_ms) = self.feed.enter_second(changes.len(), now_ms) {
            self.calm(began_ms, now_ms);
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
        match change {
            Change::Put(record) => {
                let was = before.get(&record.key);
                let ghost = self.ghosts.remove(&record.key);
                if let Some(ghost) = &ghost {
                    self.tallies.count(&ghost.record, Count::Gone, false, now_ms);
                    self.touch_service(&ghost.record.service);
                }
                self.touch(&record.key, was.or(ghost.as_ref().map(|ghost| &ghost.record)));
                self.touch_service(&record.service);
                self.dirty.moved |= was.is_none_or(|was| was.service != record.service);
                if let Some(was) = was {
                    self.leave(was, record.lease, now_ms);
                    if was.service != record.service {
                        self.dirty.names = true;
                        self.touch_service(&was.service);
                    }
                }
                self.enter(&record, now_ms);
                if first {
                    return;
                }
                self.dirty.feed = true;
                if let Some(was) = was {
                    if differs(was, &record) {
                        self.feed.tell(What::Changed { was: Arc::clone(was), record }, now_ms);
                    } else {
                        self.dirty.feed = false;
                    }
                    return;
                }
                if self.catalog.service(&record.service).is_none_or(|records| records.len() == 1) {
                    self.dirty.names = true;
                }
                self.came.insert(record.key.clone(), now_ms);
                let what = if self.feed.in_burst() {
                    What::Appeared(record)
                } else {
                    self.fresh.insert(record.key.clone(), now_ms);
                    self.feed.arrival(&record, now_ms)
                };
                self.feed.tell(what, now_ms);
            }
            Change::Delete(departure) => {
                let record = departure.last;
                self.dirty.moved = true;
                self.touch(&departure.key, Some(&record));
                self.touch_service(&record.service);
                self.leave(&record, None, now_ms);
                self.fresh.remove(&departure.key);
                self.came.remove(&departure.key);
                if self.feed.in_burst() {
                    self.dirty.names |= self.catalog.service(&record.service).is_none();
                } else {
                    self.tallies.count(&record, Count::Gone, true, now_ms);
                    let ghost = Ghost { record: Arc::clone(&record), left_ms: now_ms, revision, why: None };
                    self.ghosts.insert(departure.key, ghost);
                }
                self.dirty.feed = true;
                self.feed.tell(What::Vanished { record, revision, why: None }, now_ms);
            }
        }
    }

    /// A record stands from now on.
    fn enter(&mut self, record: &Arc<Record>, now_ms: f64) {
        self.tallies.count(record, Count::Record, true, now_ms);
        if record.instance().is_none() || record.warning.is_some() {
            self.odd.insert(record.key.clone());
        }
        if let Some(lease) = record.lease {
            let held = self.leases.entry(lease).or_default();
            held.records.insert(record.key.clone(), Arc::clone(record));
            if let Some(clock) = held.clock {
                self.set_late(record, self.may_judge(now_ms) && is_late(&clock, record), now_ms);
            }
        }
    }

    /// A record stands no more, or another one does under its key, on the lease `next`.
    fn leave(&mut self, record: &Arc<Record>, next: Option<LeaseId>, now_ms: f64) {
        self.set_late(record, false, now_ms);
        self.tallies.count(record, Count::Record, false, now_ms);
        self.odd.remove(&record.key);
        if let Some(lease) = record.lease
            && let Some(held) = self.leases.get_mut(&lease)
        {
            held.records.remove(&record.key);
            // What is known of a lease outlives an edit.
            if held.records.is_empty() && next != Some(lease) {
                self.leases.remove(&lease);
            }
        }
    }

    fn touch(&mut self, key: &str, was: Option<&Arc<Record>>) {
        // What it showed when it was drawn last is what is heard first.
        if self.dirty.all || self.dirty.keys.contains_key(key) {
            return;
        }
        if self.dirty.keys.len() < REDRAW_CHANGES {
            self.dirty.keys.insert(key.to_owned(), was.cloned());
            self.dirty.unseen.push(key.to_owned());
        } else {
            // Nothing was drawn for long, as in a hidden tab.
            self.dirty.keys.clear();
            self.dirty.unseen.clear();
            self.dirty.all = true;
        }
    }

    fn touch_service(&mut self, name: &str) {
        if !self.dirty.services.contains(name) {
            self.dirty.services.insert(name.to_owned());
        }
    }

    /// So much happens that nothing of the second that began then is shown one by one.
    fn calm(&mut self, began_ms: f64, now_ms: f64) {
        let folded: Vec<String> =
            self.ghosts.iter().filter(|(_, ghost)| ghost.left_ms >= began_ms).map(|(key, _)| key.clone()).collect();
        for key in folded {
            self.fold_away(&key, now_ms);
        }
        self.fresh.retain(|_, at_ms| *at_ms < began_ms);
    }

    fn explain(&mut self, key: &str, revision: Revision, why: &Why) {
        if let Some(ghost) = self.ghosts.get_mut(key)
            && (ghost.revision == revision || ghost.revision == 0)
        {
            ghost.why = Some(why.clone());
            let record = Arc::clone(&ghost.record);
            self.touch(key, Some(&record));
        }
        self.dirty.feed |= self.feed.explain(key, revision, why);
    }

    /// Takes in what the server knows of some leases.
    pub fn hear_leases(&mut self, event: &TtlEvent, now_ms: f64) {
        let may_judge = self.may_judge(now_ms);
        let mut heard_of = Vec::new();
        for heard in &event.leases {
            // One that holds nothing that is shown is none of ours.
            let Some(held) = self.leases.get_mut(&heard.lease) else { continue };
            let before = held.clock;
            match &mut held.clock {
                Some(clock) => clock.hear(heard, now_ms),
                None => held.clock = Some(LeaseClock::new(heard, now_ms)),
            }
            let Some(clock) = held.clock else { continue };
            let shown = before.as_ref() != Some(&clock);
            for record in held.records.values() {
                let late = may_judge && is_late(&clock, record);
                if shown {
                    self.dirty.renew(&record.key);
                }
                if late != self.late.contains(&record.key) {
                    heard_of.push((Arc::clone(record), late));
                }
            }
        }
        for (record, late) in heard_of {
            self.set_late(&record, late, now_ms);
        }
    }

    fn may_judge(&self, now_ms: f64) -> bool {
        !self.etcd_away && now_ms >= self.judge_from_ms
    }

    fn set_late(&mut self, record: &Arc<Record>, late: bool, now_ms: f64) {
        let was_late = self.late.contains(&record.key);
        if late == was_late {
            return;
        }
        if late {
            self.late.insert(record.key.clone());
        } else {
            self.late.remove(&record.key);
        }
        self.dirty.moved = true;
        self.tallies.count(record, Count::Late, late, now_ms);
        self.touch(&record.key, Some(record));
        self.touch_service(&record.service);
    }

    /// Whether etcd can be heard: while it cannot, nobody is called late.
    pub fn set_etcd_away(&mut self, away: bool, now_ms: f64) {
        if self.etcd_away && !away {
            self.judge_from_ms = now_ms + JUDGE_AGAIN_MS;
        }
        self.etcd_away = away;
        if away {
            for key in self.late.clone() {
                if let Some(record) = self.catalog.get(&key).cloned() {
                    self.set_late(&record, false, now_ms);
                }
            }
        }
    }

    /// Time has passed: who has been gone for long enough?
    pub fn tick(&mut self, now_ms: f64) {
        self.ticked_ms = now_ms;
        let over: Vec<String> = self
            .ghosts
            .iter()
            .filter(|(_, ghost)| now_ms - ghost.left_ms >= GHOST_MS)
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.fold_away(&key, now_ms);
        }
        self.fresh.retain(|_, at_ms| now_ms - *at_ms < FRESH_MS);
        self.tallies.forget(now_ms);
    }

    fn fold_away(&mut self, key: &str, now_ms: f64) {
        if let Some(ghost) = self.ghosts.remove(key) {
            self.tallies.count(&ghost.record, Count::Gone, false, now_ms);
            self.dirty.moved = true;
            self.touch(key, Some(&ghost.record));
            self.touch_service(&ghost.record.service);
            self.dirty.names = true;
            self.dirty.feed = true;
        }
    }

    /// What has to be drawn, since this was asked last.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Whether anything has to be drawn.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether something has to be drawn with the next frame, where `is_drawn` says which rows are. What has not can wait
    /// for the clock's tick: an edit of a row that nobody sees, while much happens.
    pub fn is_urgent(&mut self, is_drawn: impl Fn(&str) -> bool) -> bool {
        let shows = self.dirty.shows(is_drawn);
        shows || self.dirty.all || self.dirty.moved || self.dirty.names || (self.is_dirty() && !self.feed.in_burst())
    }

    /// Whether the first snapshot stands.
    pub fn is_ready(&self) -> bool {
        !self.catalog.revisions().is_empty()
    }

    /// When the first snapshot stood: what stands since before then came the page does not know when.
    pub fn began_ms(&self) -> f64 {
        self.began_ms.unwrap_or_default()
    }

    /// The one fold's state.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Whether so much happens now that it is not told one by one.
    pub fn in_burst(&self) -> bool {
        self.feed.in_burst()
    }

    /// What happened, newest first.
    pub fn feed(&self) -> impl Iterator<Item = &Happening> {
        self.feed.iter()
    }

    /// The record that a key's row shows: what stands, or what has just left.
    pub fn shown(&self, key: &str) -> Option<&Arc<Record>> {
        self.catalog.get(key).or_else(|| self.ghosts.get(key).map(|ghost| &ghost.record))
    }

    /// The row of a key; `None` where there is nothing to show.
    pub fn row(&self, key: &str) -> Option<Row> {
        if let Some(record) = self.catalog.get(key) {
            return Some(Row {
                record: Arc::clone(record),
                state: self.state(key),
                why: None,
                clock: record.lease.and_then(|lease| self.leases.get(&lease)?.clock),
                fresh: self.fresh.contains_key(key),
                since_ms: self.came.get(key).copied(),
            });
        }
        let ghost = self.ghosts.get(key)?;
        let (record, why) = (Arc::clone(&ghost.record), ghost.why.clone());
        Some(Row { record, state: RowState::Gone, why, clock: None, fresh: false, since_ms: None })
    }

    /// How the instance is doing under a key that something is shown for.
    pub fn state(&self, key: &str) -> RowState {
        if self.late.contains(key) {
            RowState::Late
        } else if self.ghosts.contains_key(key) {
            RowState::Gone
        } else {
            RowState::Live
        }
    }

    /// How much is left of the lease of a record, in milliseconds of the page's clock; `None` where that is not known.
    pub fn deadline_ms(&self, record: &Record) -> Option<f64> {
        record.lease.and_then(|lease| self.leases.get(&lease)?.clock).map(|clock| clock.deadline_ms)
    }

    /// Whether a search means the row of a record.
    pub fn is_meant(&self, record: &Record, search: &Search) -> bool {
        search.is_empty() || search.matches(record, self.state(&record.key))
    }

    /// Those that have just left, by key.
    pub fn ghosts(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.ghosts.values().map(|ghost| &ghost.record)
    }

    /// The names of the services that have something to show, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.catalog.services().map(|(name, _)| name.to_owned()).collect();
        for ghost in self.ghosts() {
            if let Err(place) = names.binary_search(&ghost.service) {
                names.insert(place, ghost.service.clone());
            }
        }
        names
    }

    /// Those of a service, or of all, that left and whose rows have been folded away, newest first, at most so many.
    pub fn gone(&self, service: Option<&str>, most: usize) -> Vec<Gone> {
        let mut seen = HashSet::new();
        self.feed
            .iter()
            .filter_map(|happening| match &happening.what {
                What::Vanished { record, why, .. } => {
                    Some(Gone { record: Arc::clone(record), why: why.clone(), at_ms: happening.at_ms })
                }
                _ => None,
            })
            .filter(|gone| service.is_none_or(|name| gone.record.service == name))
            .filter(|gone| self.shown(&gone.record.key).is_none() && seen.insert(gone.record.key.clone()))
            .take(most)
            .collect()
    }

    /// One service in short.
    pub fn summary(&self, name: &str) -> Summary {
        self.tallies.summary(name)
    }

    /// All services in short.
    pub fn totals(&self) -> Summary {
        self.tallies.totals()
    }

    /// The points at which a service's number of instances changed, oldest first, as far back as [`CURVE_MS`].
    pub fn curve(&self, name: &str) -> &[(f64, usize)] {
        self.tallies.get(name).map_or(&[], |tally| &tally.curve)
    }

    /// Ranks services by when they changed last: the higher, the later.
    pub fn changed(&self, name: &str) -> u64 {
        self.tallies.get(name).map_or(0, |tally| tally.changed)
    }

    /// What is known of each service beside its records, in no order.
    pub fn tallies(&self) -> impl Iterator<Item = (&str, &Tally)> {
        self.tallies.iter()
    }

    /// Records that something is wrong with, at most so many: undecodable or odd, then late.
    pub fn wrong(&self, most: usize) -> Vec<Arc<Record>> {
        let malformed = |record: &&Arc<Record>| record.instance().is_none();
        let odd = || self.odd.iter().filter_map(|key| self.catalog.get(key));
        let late = self.late.iter().filter_map(|key| self.catalog.get(key));
        let gravest = odd().filter(malformed).take(most);
        let rest = late.take(most).chain(odd().filter(|record| !malformed(record)).take(most));
        let mut wrong: Vec<Arc<Record>> = Vec::new();
        for record in gravest.chain(rest) {
            if wrong.len() < most && wrong.iter().all(|other| other.key != record.key) {
                wrong.push(Arc::clone(record));
            }
        }
        wrong
    }

    /// The services with the most instances, at most so many, biggest first.
    pub fn biggest(&self, most: usize) -> Vec<(String, usize)> {
        let mut sizes: Vec<(String, usize)> = Vec::new();
        for (name, size) in self.catalog.services().map(|(name, _)| (name, self.summary(name).instances)) {
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

fn is_late(clock: &LeaseClock, record: &Record) -> bool {
    clock.is_late(record.layout == Layout::GoMicro)
}

/// Whether a person would say that something changed between two records of one key.
fn differs(was: &Record, is: &Record) -> bool {
    was.decoded != is.decoded || was.lease != is.lease
}

#[cfg(test)]
mod tests;
