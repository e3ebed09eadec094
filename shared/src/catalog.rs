//! The one fold of events into state, run by the server, the clients, the dashboard and the tests alike.
//!
//! Owns: what stands where, and which events fit onto it. Must not know: time, transport, or who is looking.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    event::{Change, Departure, RegistryEvent, Snapshot},
    instance::Revision,
    order::in_order,
    record::Record,
};

/// Everything known of some sources: fold events in with [`Catalog::apply`], read rows out.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    revisions: BTreeMap<String, Revision>,
    records: BTreeMap<String, Arc<Record>>,
    services: BTreeMap<String, BTreeMap<String, Arc<Record>>>,
    incoming: Option<Incoming>,
}

/// A snapshot of which some parts are still to come.
#[derive(Debug, Clone)]
struct Incoming {
    next_part: u32,
    records: Vec<Arc<Record>>,
}

/// An event that does not fit onto what is known: the reader has to start again from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// A delta for a source of which no snapshot was seen.
    #[error("a delta came for {0}, of which no snapshot was seen")]
    UnknownSource(String),
    /// Between the state and the delta something is missing.
    #[error(
        "{origin} stands at revision {at}, and the delta continues from {after}: something between them is missing"
    )]
    Gap {
        /// The source's prefix.
        origin: String,
        /// Where the state stands.
        at: Revision,
        /// From where the delta goes on.
        after: Revision,
    },
    /// A part of a snapshot is missing.
    #[error("part {got} of a snapshot came where part {expected} was due")]
    MissingPart {
        /// The part that was due.
        expected: u32,
        /// The part that came.
        got: u32,
    },
}

impl Catalog {
    /// Folds one event in and says what it changed, in order; nothing where it was known already.
    ///
    /// A snapshot says only what is different from what stood here before, so that a reader who reconnects redraws
    /// only that.
    ///
    /// # Errors
    /// Where the event does not fit; the state is then as it was.
    pub fn apply(&mut self, event: &RegistryEvent) -> Result<Vec<Change>, FoldError> {
        match event {
            RegistryEvent::Snapshot(snapshot) => self.apply_snapshot(snapshot),
            RegistryEvent::Delta(delta) => {
                let at =
                    *self.revisions.get(&delta.source).ok_or_else(|| FoldError::UnknownSource(delta.source.clone()))?;
                if delta.revision <= at {
                    return Ok(Vec::new());
                }
                if delta.after > at {
                    return Err(FoldError::Gap { origin: delta.source.clone(), at, after: delta.after });
                }
                self.revisions.insert(delta.source.clone(), delta.revision);
                for change in &delta.changes {
                    match change {
                        Change::Put(record) => self.put(record),
                        Change::Delete(departure) => drop(self.delete(&departure.key)),
                    }
                }
                Ok(delta.changes.clone())
            }
            RegistryEvent::Progress(progress) => {
                for (source, revision) in &progress.revisions {
                    if let Some(at) = self.revisions.get_mut(source) {
                        *at = (*at).max(*revision);
                    }
                }
                Ok(Vec::new())
            }
            RegistryEvent::Cause(_) => Ok(Vec::new()),
        }
    }

    fn apply_snapshot(&mut self, snapshot: &Snapshot) -> Result<Vec<Change>, FoldError> {
        if snapshot.part == 0 {
            self.incoming = None;
        }
        let expected = self.incoming.as_ref().map_or(0, |incoming| incoming.next_part);
        if snapshot.part != expected {
            return Err(FoldError::MissingPart { expected, got: snapshot.part });
        }
        if snapshot.more {
            let incoming = self.incoming.get_or_insert_with(|| Incoming { next_part: 0, records: Vec::new() });
            incoming.next_part += 1;
            incoming.records.extend(snapshot.records.iter().cloned());
            return Ok(Vec::new());
        }
        let earlier = self.incoming.take().map(|incoming| incoming.records).unwrap_or_default();
        // By key, and of one key what came last. A table of its own kind would be that much more of the page.
        let told: Vec<&Arc<Record>> = earlier.iter().chain(&snapshot.records).collect();
        let order = in_order(told.len(), &|a, b| told[a].key.cmp(&told[b].key));
        let mut after: Vec<&Arc<Record>> = order.into_iter().map(|place| told[place]).collect();
        after.dedup_by(|next, kept| {
            let is_same = next.key == kept.key;
            if is_same {
                *kept = *next;
            }
            is_same
        });
        let stands = |key: &str| after.binary_search_by(|record| record.key.as_str().cmp(key)).is_ok();
        let gone: Vec<String> = self
            .records
            .values()
            .filter(|record| snapshot.revisions.contains_key(&record.source) && !stands(&record.key))
            .map(|record| record.key.clone())
            .collect();
        let mut changes = Vec::new();
        for key in gone {
            if let Some(last) = self.delete(&key) {
                changes.push(Change::Delete(Departure { key, service: last.service.clone(), last }));
            }
        }
        for record in after {
            if self.records.get(&record.key).is_none_or(|known| known != record) {
                self.put(record);
                changes.push(Change::Put(Arc::clone(record)));
            }
        }
        self.revisions.extend(snapshot.revisions.iter().map(|(source, revision)| (source.clone(), *revision)));
        Ok(changes)
    }

    fn put(&mut self, record: &Arc<Record>) {
        let before = self.records.insert(record.key.clone(), Arc::clone(record));
        if let Some(before) = before
            && before.service != record.service
        {
            self.leave_service(&before);
        }
        self.services.entry(record.service.clone()).or_default().insert(record.key.clone(), Arc::clone(record));
    }

    fn delete(&mut self, key: &str) -> Option<Arc<Record>> {
        let last = self.records.remove(key)?;
        self.leave_service(&last);
        Some(last)
    }

    fn leave_service(&mut self, record: &Record) {
        if let Some(records) = self.services.get_mut(&record.service) {
            records.remove(&record.key);
            if records.is_empty() {
                self.services.remove(&record.service);
            }
        }
    }

    /// The revision of each source, by its prefix.
    pub fn revisions(&self) -> &BTreeMap<String, Revision> {
        &self.revisions
    }

    /// The record under `key`.
    pub fn get(&self, key: &str) -> Option<&Arc<Record>> {
        self.records.get(key)
    }

    /// Every record, sorted by key.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// Every record whose key sorts after `key`, sorted by key.
    pub fn records_after(&self, key: &str) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.records.range::<str, _>((Excluded(key), Unbounded)).map(|(_, record)| record)
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Every service with its records, sorted by name.
    pub fn services(&self) -> impl DoubleEndedIterator<Item = (&str, &BTreeMap<String, Arc<Record>>)> {
        self.services.iter().map(|(name, records)| (name.as_str(), records))
    }

    /// The records of one service, by key; `None` where it has none.
    pub fn service(&self, name: &str) -> Option<&BTreeMap<String, Arc<Record>>> {
        self.services.get(name)
    }

    /// How many records of a snapshot under way have come so far; `None` where none is under way.
    pub fn incoming_records(&self) -> Option<usize> {
        self.incoming.as_ref().map(|incoming| incoming.records.len())
    }
}

#[cfg(test)]
mod tests;
