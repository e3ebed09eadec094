//! What is known of each service, by name, so that reading it takes no lock and touches no line that another reader
//! writes but the list's own count.
//!
//! Owns: the table. Must not know: where lists come from, nor when a service is let go. The table is parted, so that a
//! change copies a small part of it.

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table};
use tokio::sync::watch;

use super::{Instances, ServiceView};

/// How many parts the table has: a power of two.
const PARTS: usize = 256;

/// One service that is watched.
pub(super) struct Service {
    /// All that is known, for who waits for changes.
    view: watch::Sender<ServiceView>,
    /// Whether somebody asked since the last look.
    asked: AtomicBool,
}

impl Service {
    pub(super) fn new() -> Self {
        Self { view: watch::channel(ServiceView::default()).0, asked: AtomicBool::new(true) }
    }

    pub(super) fn view(&self) -> &watch::Sender<ServiceView> {
        &self.view
    }

    /// Whether nobody watches it, and it has no instances.
    pub(super) fn is_idle(&self) -> bool {
        self.view.receiver_count() == 0 && self.view.borrow().instances.is_empty()
    }

    pub(super) fn note_asked(&self) {
        // Reading first leaves the line where it is in each core's cache.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody asked since this was asked last.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Row {
    hash: u64,
    name: Arc<str>,
    /// The list, once it is known.
    known: Option<Instances>,
    service: Arc<Service>,
}

/// The table.
pub(super) struct Services {
    parts: Box<[ArcSwap<HashTable<Row>>]>,
    hasher: RandomState,
    len: AtomicUsize,
    /// Whether it is noted who was asked for.
    notes_asked: bool,
    writing: Mutex<()>,
}

/// Leave to write.
pub(super) struct Writing<'a> {
    services: &'a Services,
    _alone: MutexGuard<'a, ()>,
}

impl Services {
    pub(super) fn new(notes_asked: bool) -> Self {
        Self {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            hasher: RandomState::default(),
            len: AtomicUsize::new(0),
            notes_asked,
            writing: Mutex::new(()),
        }
    }

    /// The list of `name`, where it is known.
    #[inline]
    pub(super) fn known(&self, name: &str) -> Option<Instances> {
        let hash = self.hasher.hash_one(name);
        let part = self.part(hash).load();
        let row = part.find(hash, |row| *row.name == *name)?;
        if self.notes_asked {
            row.service.note_asked();
        }
        row.known.clone()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Service>> {
        let hash = self.hasher.hash_one(name);
        self.part(hash).load().find(hash, |row| *row.name == *name).map(|row| Arc::clone(&row.service))
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<Service>)> {
        let rows = |part: &ArcSwap<HashTable<Row>>| {
            let part = part.load();
            part.iter().map(|row| (Arc::clone(&row.name), Arc::clone(&row.service))).collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(rows).collect()
    }

    pub(super) fn write(&self) -> Writing<'_> {
        Writing { services: self, _alone: self.writing.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    #[inline]
    fn part(&self, hash: u64) -> &ArcSwap<HashTable<Row>> {
        // The table in it goes by the lowest bits and the highest.
        &self.parts[(hash >> 32) as usize % PARTS]
    }
}

impl Writing<'_> {
    /// Adds `name`, or puts another service in its place.
    pub(super) fn insert(&self, name: &str, service: Arc<Service>) {
        let name: Arc<str> = name.into();
        self.change(&name, |entry, hash| {
            let row = Row { hash, name: Arc::clone(&name), known: None, service };
            match entry {
                hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = row,
                hash_table::Entry::Vacant(entry) => drop(entry.insert(row)),
            }
        });
    }

    /// Tells a view that differs from the one before, if the service stands in the table.
    pub(super) fn tell(&self, name: &str, service: &Service, next: ServiceView) {
        let before = service.view.borrow().clone();
        if before == next {
            return;
        }
        if next.known && (!before.known || before.instances != next.instances) {
            let instances = Arc::clone(&next.instances);
            self.change(name, |entry, _| {
                if let hash_table::Entry::Occupied(mut entry) = entry
                    && std::ptr::eq(&raw const *entry.get().service, service)
                {
                    entry.get_mut().known = Some(instances);
                }
            });
        }
        service.view.send_replace(next);
    }

    pub(super) fn remove(&self, name: &str) {
        self.change(name, |entry, _| {
            if let hash_table::Entry::Occupied(entry) = entry {
                drop(entry.remove());
            }
        });
    }

    fn change(&self, name: &str, change: impl FnOnce(hash_table::Entry<'_, Row>, u64)) {
        let services = self.services;
        let hash = services.hasher.hash_one(name);
        let part = services.part(hash);
        let mut rows = HashTable::clone(&part.load());
        let before = rows.len();
        change(rows.entry(hash, |row| *row.name == *name, |row| row.hash), hash);
        services.len.fetch_add(rows.len().wrapping_sub(before), Ordering::Relaxed);
        part.store(Arc::new(rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(instances: &Instances) -> ServiceView {
        ServiceView { known: true, instances: Arc::clone(instances), ..ServiceView::default() }
    }

    #[test]
    fn what_was_told_is_known_until_it_is_removed() {
        let services = Services::new(true);
        let list: Instances = Arc::from([Arc::default()]);
        for number in 0..1_000 {
            let name = number.to_string();
            let service = Arc::new(Service::new());
            let writing = services.write();
            writing.insert(&name, Arc::clone(&service));
            assert!(services.known(&name).is_none());
            writing.tell(&name, &service, known(&list));
        }
        assert_eq!(services.len(), 1_000);
        assert_eq!(services.all().len(), 1_000);
        for number in (0..1_000).step_by(2) {
            services.write().remove(&number.to_string());
        }
        services.write().remove("nobody");
        assert_eq!(services.len(), 500);
        for number in 0..1_000 {
            let name = number.to_string();
            assert_eq!(services.known(&name).is_some(), number % 2 == 1, "{name}");
            assert_eq!(services.get(&name).is_some(), number % 2 == 1, "{name}");
        }
    }

    #[test]
    fn a_service_that_was_let_go_tells_nothing_to_the_one_in_its_place() {
        let services = Services::new(true);
        let (first, second) = (Arc::new(Service::new()), Arc::new(Service::new()));
        services.write().insert("orders", Arc::clone(&first));
        services.write().remove("orders");
        services.write().insert("orders", second);
        services.write().tell("orders", &first, known(&Arc::from([Arc::default()])));
        assert!(services.known("orders").is_none());
    }
}
