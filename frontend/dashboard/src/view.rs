//! The rows of one table: which records it shows and in which order, kept so change by change.
//!
//! Pure. What a search means is looked up in slices, so that a hundred thousand records hold nobody up: what has been
//! found so far is shown, in order, while the rest is looked through. Must not know: who draws, or where rows stand.

use std::{cmp::Ordering, collections::BTreeMap, ops::Bound, sync::Arc};

use rollcall_shared::{Record, order::in_order};

use crate::{
    live::{Dirty, Live},
    search::{RowState, Search},
};

/// What a table is sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Column {
    /// The keys: source, service, id.
    #[default]
    Key,
    /// What is wrong first.
    State,
    /// The instances' ids.
    Id,
    /// The services.
    Service,
    /// The endpoints.
    Endpoints,
    /// The versions.
    Version,
    /// How soon the leases run out.
    Lease,
    /// How long they have been there, the youngest first.
    Since,
}

/// What a table shows, and in which order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// The service, or all.
    pub service: Option<String>,
    /// What is meant.
    pub search: Search,
    /// What it is sorted by.
    pub column: Column,
    /// Whether from the greatest to the least.
    pub descending: bool,
}

/// The rows of one table.
#[derive(Debug, Default)]
pub struct View {
    query: Query,
    rows: Vec<Arc<Record>>,
    /// How many rows each service has, where all services are meant.
    services: BTreeMap<String, usize>,
    /// What is left to look through; while something is, the rows are in the order of their keys.
    rest: Rest,
    /// Whether rows may stand twice or in a wrong place until all has been looked through.
    is_untidy: bool,
    /// What stays in sight while something is looked for.
    before: Before,
}

/// What was shown before, as long as what is to be shown instead is not known.
#[derive(Debug, Default)]
struct Before {
    rows: Option<Arc<Vec<Arc<Record>>>>,
    services: Option<BTreeMap<String, usize>>,
}

/// What of the records has not been looked through.
#[derive(Debug, Clone, Default)]
enum Rest {
    /// Of all records, those whose keys sort after this one.
    After(String),
    /// Of what a wider search found, from this place on.
    Among(Arc<Vec<Arc<Record>>>, usize),
    #[default]
    Nothing,
}

/// What has become of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Whether rows came, went or changed places.
    pub rows: bool,
    /// Whether a service came or went.
    pub services: bool,
}

/// So many rows fill any window: the first ones that are found are shown, while the rest is looked for.
const SIGHT_ROWS: usize = 100;

/// How many records are looked through between two looks at the clock.
const SLICE_RECORDS: usize = 256;

impl View {
    /// Begins anew with another question. What is found comes by [`View::step`].
    pub fn ask(&mut self, query: Query) {
        // Who types on narrows down: what did not match before does not now, either.
        let narrows = !self.is_looking()
            && self.query.service == query.service
            && (self.query.column, self.query.descending) == (query.column, query.descending)
            && query.search.narrows(&self.query.search);
        let is_same_place = self.query.service == query.service;
        self.query = query;
        let found = Arc::new(std::mem::take(&mut self.rows));
        self.rest = if narrows { Rest::Among(Arc::clone(&found), 0) } else { Rest::After(String::new()) };
        self.keep(found, is_same_place);
    }

    /// Begins anew with the same question.
    fn ask_again(&mut self) {
        let rows = Arc::new(std::mem::take(&mut self.rows));
        self.rest = Rest::After(String::new());
        self.keep(rows, true);
    }

    /// Keeps what was shown in sight for a moment, and where it is scrolled to.
    fn keep(&mut self, rows: Arc<Vec<Arc<Record>>>, is_kept: bool) {
        let services = std::mem::take(&mut self.services);
        self.is_untidy = false;
        if !is_kept {
            self.before = Before::default();
        } else if !rows.is_empty() {
            self.before.rows.get_or_insert(rows);
            self.before.services.get_or_insert(services);
        }
    }

    /// Whether there is something left to look through.
    pub fn is_looking(&self) -> bool {
        !matches!(self.rest, Rest::Nothing)
    }

    /// Looks through what is left for as long as `is_time_left` says so, and at least through one slice.
    pub fn step(&mut self, live: &Live, mut is_time_left: impl FnMut() -> bool) {
        while self.is_looking() {
            let from = self.rows.len();
            let rest = std::mem::take(&mut self.rest);
            let rest = match rest {
                Rest::After(key) => self.look_after(&key, live),
                Rest::Among(found, at) => self.look_among(found, at, live),
                Rest::Nothing => Rest::Nothing,
            };
            self.count_from(from);
            let comes_in_order = matches!(rest, Rest::Among(..)) || self.is_by_key();
            if self.rows.len() >= SIGHT_ROWS && comes_in_order {
                self.before.rows = None;
            }
            if matches!(rest, Rest::Nothing) {
                self.finish(live);
            }
            self.rest = rest;
            if !is_time_left() {
                return;
            }
        }
    }

    fn look_after(&mut self, key: &str, live: &Live) -> Rest {
        let mut last = None;
        let mut looked = 0;
        let search = &self.query.search;
        let mut take = |record: &Arc<Record>| {
            looked += 1;
            if live.is_meant(record, search) {
                self.rows.push(Arc::clone(record));
            }
            if looked == SLICE_RECORDS {
                last = Some(record.key.clone());
            }
        };
        match &self.query.service {
            None => live.catalog().records_after(key).take(SLICE_RECORDS).for_each(&mut take),
            Some(name) => {
                if let Some(records) = live.catalog().service(name) {
                    let after = records.range::<str, _>((Bound::Excluded(key), Bound::Unbounded));
                    after.take(SLICE_RECORDS).for_each(|(_, record)| take(record));
                }
            }
        }
        last.map_or(Rest::Nothing, Rest::After)
    }

    fn look_among(&mut self, found: Arc<Vec<Arc<Record>>>, at: usize, live: &Live) -> Rest {
        let end = (at + SLICE_RECORDS).min(found.len());
        for record in &found[at..end] {
            // It may have changed since it was found; what has gone altogether is no longer shown.
            if let Some(record) = live.shown(&record.key)
                && self.is_of_it(record)
                && live.is_meant(record, &self.query.search)
            {
                self.rows.push(Arc::clone(record));
            }
        }
        if end < found.len() { Rest::Among(found, end) } else { Rest::Nothing }
    }

    /// Counts the rows from a place on by their services. Neighbours are mostly of the same one.
    fn count_from(&mut self, from: usize) {
        if self.query.service.is_some() {
            return;
        }
        for run in self.rows[from..].chunk_by(|a, b| a.service == b.service) {
            match self.services.get_mut(&run[0].service) {
                Some(count) => *count += run.len(),
                None => drop(self.services.insert(run[0].service.clone(), run.len())),
            }
        }
    }

    /// All has been looked through: those that have just left take their places, and the order is the one asked for.
    fn finish(&mut self, live: &Live) {
        self.before = Before::default();
        let mut ghosts: Vec<Arc<Record>> = live
            .ghosts()
            .filter(|ghost| self.is_of_it(ghost) && live.is_meant(ghost, &self.query.search))
            .cloned()
            .collect();
        self.is_untidy |= !ghosts.is_empty();
        self.rows.append(&mut ghosts);
        if self.is_untidy || !self.is_sorted(live) {
            self.sort(live);
            self.rows.dedup_by(|a, b| a.key == b.key);
            self.services.clear();
            self.count_from(0);
            self.is_untidy = false;
        }
    }

    fn is_by_key(&self) -> bool {
        self.query.column == Column::Key && !self.query.descending
    }

    fn is_sorted(&self, live: &Live) -> bool {
        // What came in the order of the keys is in it.
        self.is_by_key() || self.rows.is_sorted_by(|a, b| self.compare(a, b, live) == Ordering::Less)
    }

    fn sort(&mut self, live: &Live) {
        let order = in_order(self.rows.len(), &|a, b| self.compare(&self.rows[a], &self.rows[b], live));
        self.rows = order.into_iter().map(|place| Arc::clone(&self.rows[place])).collect();
    }

    fn is_of_it(&self, record: &Record) -> bool {
        self.query.service.as_ref().is_none_or(|name| *name == record.service)
    }

    /// Takes in what changed since it was drawn last.
    pub fn follow(&mut self, dirty: &Dirty, live: &Live) -> Moved {
        let mut moved = Moved { rows: false, services: false };
        if dirty.all {
            self.ask_again();
            return Moved { rows: true, services: true };
        }
        for (key, was) in &dirty.keys {
            if matches!(&self.rest, Rest::After(looked) if key > looked) {
                // It is looked at when its turn comes.
                continue;
            }
            // It may stand in what has not been looked through, too.
            self.is_untidy |= self.is_looking();
            let place = was.as_ref().and_then(|was| self.place(was, live));
            let is = live.shown(key).filter(|is| self.is_of_it(is) && live.is_meant(is, &self.query.search));
            match (place, is) {
                (Some(place), Some(is)) => {
                    let fits = |other: Option<&Arc<Record>>, order: Ordering| {
                        other.is_none_or(|other| self.compare(other, is, live) == order)
                    };
                    let before = place.checked_sub(1).and_then(|before| self.rows.get(before));
                    if fits(before, Ordering::Less) && fits(self.rows.get(place + 1), Ordering::Greater) {
                        let was = std::mem::replace(&mut self.rows[place], Arc::clone(is));
                        if was.service != is.service {
                            moved.services |= self.count(&was.service, false) | self.count(&is.service, true);
                        }
                        continue;
                    }
                    let (was, is) = (self.rows.remove(place), Arc::clone(is));
                    moved.services |= self.count(&was.service, false) | self.insert(is, live);
                    moved.rows = true;
                }
                (Some(place), None) => {
                    let was = self.rows.remove(place);
                    moved.services |= self.count(&was.service, false);
                    moved.rows = true;
                }
                (None, Some(is)) => {
                    moved.services |= self.insert(Arc::clone(is), live);
                    moved.rows = true;
                }
                (None, None) => {}
            }
        }
        moved
    }

    /// Puts those in order that are sorted by what time alone changes.
    pub fn settle(&mut self, live: &Live) -> bool {
        if self.is_looking() || !matches!(self.query.column, Column::State | Column::Lease) {
            return false;
        }
        let is_sorted = self.is_sorted(live);
        if !is_sorted {
            self.sort(live);
        }
        !is_sorted
    }

    fn count(&mut self, service: &str, more: bool) -> bool {
        if self.query.service.is_some() {
            return false;
        }
        let count = self.services.get(service).copied().unwrap_or_default();
        match (count, more) {
            (0, true) => {
                self.services.insert(service.to_owned(), 1);
                true
            }
            (0 | 1, false) => self.services.remove(service).is_some(),
            (count, _) => {
                self.services.insert(service.to_owned(), if more { count + 1 } else { count - 1 });
                false
            }
        }
    }

    /// Puts a record in its place, and says whether its service is new here.
    fn insert(&mut self, record: Arc<Record>, live: &Live) -> bool {
        let place = self.rows.partition_point(|other| self.compare(other, &record, live) == Ordering::Less);
        match self.rows.get_mut(place) {
            // It was looked at before it was told that it is new.
            Some(row) if row.key == record.key => {
                *row = record;
                false
            }
            _ => {
                let is_new = self.count(&record.service, true);
                self.rows.insert(place, record);
                is_new
            }
        }
    }

    /// Where a record stands that was drawn as `was`.
    fn place(&self, was: &Arc<Record>, live: &Live) -> Option<usize> {
        let stands = |place: &usize| self.rows.get(*place).is_some_and(|row| row.key == was.key);
        let place = self.rows.partition_point(|other| self.compare(other, was, live) == Ordering::Less);
        // By what time changes the rows are in order only as of when they were sorted.
        Some(place).filter(stands).or_else(|| {
            let may_be_elsewhere = matches!(self.query.column, Column::State | Column::Lease);
            if may_be_elsewhere { self.rows.iter().position(|row| row.key == was.key) } else { None }
        })
    }

    fn compare(&self, a: &Arc<Record>, b: &Arc<Record>, live: &Live) -> Ordering {
        // What is still being looked for comes in the order of the keys.
        let by_key = matches!(self.rest, Rest::After(_));
        let column = if by_key { Column::Key } else { self.query.column };
        let order = match column {
            Column::Key => Ordering::Equal,
            Column::State => gravity(a, live).cmp(&gravity(b, live)),
            Column::Id => short_id(a).cmp(short_id(b)),
            Column::Service => a.service.cmp(&b.service),
            Column::Endpoints => a.instance().map(|it| &it.endpoints).cmp(&b.instance().map(|it| &it.endpoints)),
            Column::Version => a.instance().map(|it| &it.version).cmp(&b.instance().map(|it| &it.version)),
            Column::Lease => {
                let left = |record| live.deadline_ms(record).unwrap_or(f64::INFINITY);
                left(a).total_cmp(&left(b))
            }
            Column::Since => b.create_revision.cmp(&a.create_revision),
        };
        let order = order.then_with(|| a.key.cmp(&b.key));
        if self.query.descending && !by_key { order.reverse() } else { order }
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[Arc<Record>] {
        self.before.rows.as_deref().unwrap_or(&self.rows)
    }

    /// The services of the rows with how many each has, by name, where all services are meant.
    pub fn services(&self) -> &BTreeMap<String, usize> {
        self.before.services.as_ref().unwrap_or(&self.services)
    }

    /// Whether what an instance says decides where it stands, or whether it is there at all.
    pub fn moves_with_words(&self) -> bool {
        !self.query.search.is_empty() || self.query.column != Column::Key
    }

    /// What is asked.
    pub fn query(&self) -> &Query {
        &self.query
    }
}

fn gravity(record: &Record, live: &Live) -> u8 {
    match live.state(&record.key) {
        _ if record.instance().is_none() => 0,
        RowState::Late => 1,
        RowState::Gone => 2,
        RowState::Live if record.warning.is_some() => 3,
        RowState::Live => 4,
    }
}

/// What a row calls its instance: its id, or the key's last segment where the value does not decode.
pub fn short_id(record: &Record) -> &str {
    match record.instance() {
        Some(instance) if !instance.id.is_empty() => &instance.id,
        _ => {
            let key = record.key.trim_end_matches('/');
            key.rsplit_once('/').map_or(key, |(_, last)| last)
        }
    }
}

#[cfg(test)]
mod tests;
