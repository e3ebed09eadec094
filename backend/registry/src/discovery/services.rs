//! What is known of each service, by name, so that reading it takes no lock and touches no line that another reader
//! writes but the list's own count.
//!
//! Owns: the table. Must not know: where lists come from, nor when a service is let go. The table is parted, so that a
//! change copies a small part of it, and each thread that asks keeps the table at hand that it saw last, so that asking
//! again costs no more than seeing that it is still the same.

use std::{
    cell::RefCell,
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwap, Cache};
use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table};
use tokio::sync::watch;

use super::{Instances, ServiceView};

/// How many parts the table has: a power of two.
const PARTS: usize = 64;

/// Of how many discoveries a thread keeps the table at hand. Until it asks again, or asks more others, or ends, it keeps
/// that table alive as it was then, also of a discovery that has ended.
const AT_HAND_MAX: usize = 4;

type Part = HashTable<Row>;
type Table = Vec<Arc<Part>>;

/// A table at hand, and which one it is.
type AtHand = (*const ArcSwap<Table>, Cache<Arc<ArcSwap<Table>>, Arc<Table>>);

thread_local! {
    static AT_HAND: RefCell<Vec<AtHand>> = const { RefCell::new(Vec::new()) };
}

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
    table: Arc<ArcSwap<Table>>,
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
            table: Arc::new(ArcSwap::from_pointee(vec![Arc::default(); PARTS])),
            hasher: RandomState::default(),
            len: AtomicUsize::new(0),
            notes_asked,
            writing: Mutex::new(()),
        }
    }

    /// The list of `name`, where it is known.
    #[inline]
    pub(super) fn known(&self, name: &str) -> Option<Instances> {
        AT_HAND.with_borrow_mut(|at_hand| {
            let this = Arc::as_ptr(&self.table);
            // The table at hand keeps its place in memory taken: no other can be mistaken for it.
            let place = match at_hand.iter().position(|(table, _)| *table == this) {
                Some(place) => place,
                None => self.take_at_hand(at_hand),
            };
            let row = self.find(at_hand[place].1.load(), name)?;
            if self.notes_asked {
                row.service.note_asked();
            }
            row.known.clone()
        })
    }

    #[cold]
    fn take_at_hand(&self, at_hand: &mut Vec<AtHand>) -> usize {
        if at_hand.len() == AT_HAND_MAX {
            at_hand.remove(0);
        }
        at_hand.push((Arc::as_ptr(&self.table), Cache::new(Arc::clone(&self.table))));
        at_hand.len() - 1
    }

    #[inline]
    fn find<'a>(&self, table: &'a Table, name: &str) -> Option<&'a Row> {
        let hash = self.hasher.hash_one(name);
        table[part_of(hash)].find(hash, |row| *row.name == *name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Service>> {
        self.find(&self.table.load(), name).map(|row| Arc::clone(&row.service))
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<Service>)> {
        let table = self.table.load();
        let rows = table.iter().flat_map(|part| part.iter());
        rows.map(|row| (Arc::clone(&row.name), Arc::clone(&row.service))).collect()
    }

    pub(super) fn write(&self) -> Writing<'_> {
        Writing { services: self, _alone: self.writing.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The part that holds names of this hash. The table in it goes by the lowest bits and the highest.
#[inline]
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
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

    /// Removes `name`, unless another service stands in its place by now.
    pub(super) fn remove_own(&self, name: &str, service: &Service) {
        self.change(name, |entry, _| {
            if let hash_table::Entry::Occupied(entry) = entry
                && std::ptr::eq(&raw const *entry.get().service, service)
            {
                drop(entry.remove());
            }
        });
    }

    fn change(&self, name: &str, change: impl FnOnce(hash_table::Entry<'_, Row>, u64)) {
        let services = self.services;
        let hash = services.hasher.hash_one(name);
        let mut table = Table::clone(&services.table.load());
        let rows = Arc::make_mut(&mut table[part_of(hash)]);
        let before = rows.len();
        change(rows.entry(hash, |row| *row.name == *name, |row| row.hash), hash);
        services.len.fetch_add(rows.len().wrapping_sub(before), Ordering::Relaxed);
        services.table.store(Arc::new(table));
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
    fn each_table_is_its_own_however_many_a_thread_has_asked() {
        let tables: Vec<Services> = (0..2 * AT_HAND_MAX).map(|_| Services::new(false)).collect();
        for _ in 0..3 {
            for (number, services) in tables.iter().enumerate() {
                let service = Arc::new(Service::new());
                services.write().insert("orders", Arc::clone(&service));
                let list: Instances = (0..number).map(|_| Arc::default()).collect();
                services.write().tell("orders", &service, known(&list));
            }
            for (number, services) in tables.iter().enumerate() {
                assert_eq!(services.known("orders").map(|list| list.len()), Some(number));
            }
            assert_eq!(AT_HAND.with_borrow(Vec::len), AT_HAND_MAX);
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
        services.write().remove_own("orders", &first);
        assert!(services.get("orders").is_some());
    }
}
