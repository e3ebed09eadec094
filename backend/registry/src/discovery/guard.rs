//! Holds back the loss of most of a service's instances at once, where whoever discovers asked for it.
//!
//! Owns: which of those that left are still listed, and until when. Pure: told the time, it never asks. Must not know
//! why they left: etcd cannot tell a fleet that died from one whose leases were lost in a network's fault, and neither
//! can this. The idea is the self-preservation of Netflix's Eureka.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use rollcall_shared::ServiceInstance;
use tokio::time::Instant;

use crate::backoff::later;

/// When the loss of instances is not believed at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossGuard {
    /// Which share of a service's instances may leave within [`Self::window`] and be believed, from 0 to 1.
    pub share_max: f64,
    /// How far apart departures may be and still be one loss.
    pub window: Duration,
    /// How long those that left are still listed, from the last departure on.
    pub hold: Duration,
    /// Services of fewer instances than this are not guarded: of two, one is no sudden loss of most.
    pub instances_min: usize,
}

impl Default for LossGuard {
    /// More than half of at least three within 15 s, held for 60 s.
    fn default() -> Self {
        Self { share_max: 0.5, window: Duration::from_secs(15), hold: Duration::from_mins(1), instances_min: 3 }
    }
}

/// The instances of one service that have left, as far as they matter.
#[derive(Debug, Default)]
pub(super) struct Guard {
    rules: Option<LossGuard>,
    /// Who left within the window, in order.
    left: VecDeque<Departure>,
    /// Who is listed though gone.
    held: BTreeMap<String, Arc<ServiceInstance>>,
    held_until: Option<Instant>,
}

#[derive(Debug)]
struct Departure {
    at: Instant,
    key: String,
    instance: Arc<ServiceInstance>,
}

impl Guard {
    pub(super) fn new(rules: Option<LossGuard>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Takes in that `key` holds an instance again.
    pub(super) fn came(&mut self, key: &str) {
        self.held.remove(key);
        self.left.retain(|departure| departure.key != key);
    }

    /// Takes in that the instance under `key` left. [`Self::settle`] says what is to be made of it.
    pub(super) fn departed(&mut self, key: String, instance: Arc<ServiceInstance>, now: Instant) {
        if self.rules.is_some() {
            self.left.push_back(Departure { at: now, key, instance });
        }
    }

    /// Judges what has left, beside `present` instances that are there. Answers whether who is held changed.
    pub(super) fn settle(&mut self, present: usize, now: Instant) -> bool {
        let Some(rules) = self.rules else { return false };
        let before = self.held.len();
        if self.held_until.is_some_and(|until| now >= until) {
            self.held.clear();
            self.left.clear();
            self.held_until = None;
        }
        while self.left.front().is_some_and(|departure| now.duration_since(departure.at) > rules.window) {
            self.left.pop_front();
        }
        let gone = self.left.len().max(self.held.len());
        let all = present + gone;
        #[expect(clippy::cast_precision_loss, reason = "counts of instances are far below 2^52")]
        let too_many = gone as f64 > all as f64 * rules.share_max;
        if let Some(last) = self.left.back()
            && too_many
            && all >= rules.instances_min
        {
            self.held_until = Some(later(last.at, rules.hold));
            self.held
                .extend(self.left.iter().map(|departure| (departure.key.clone(), Arc::clone(&departure.instance))));
        } else if !too_many && !self.held.is_empty() {
            // Most are back: what is still missing is believed.
            self.held.clear();
            self.held_until = None;
        }
        before != self.held.len()
    }

    /// Who is listed though gone, by key.
    pub(super) fn held(&self) -> &BTreeMap<String, Arc<ServiceInstance>> {
        &self.held
    }

    /// When [`Self::settle`] is to be asked again, though nothing happens.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.held_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: usize) -> Arc<ServiceInstance> {
        Arc::new(ServiceInstance { id: id.to_string(), name: "orders".into(), ..ServiceInstance::default() })
    }

    fn lose(guard: &mut Guard, ids: std::ops::Range<usize>, present: usize, now: Instant) -> bool {
        for id in ids {
            guard.departed(format!("key-{id}"), instance(id), now);
        }
        guard.settle(present, now)
    }

    #[test]
    fn the_loss_of_most_is_held_back_and_believed_in_the_end() {
        let mut guard = Guard::new(Some(LossGuard::default()));
        let start = Instant::now();
        assert!(!lose(&mut guard, 0..5, 5, start), "half of ten is believed");
        assert!(lose(&mut guard, 5..6, 4, start + Duration::from_secs(5)), "six of ten within the window is not");
        assert_eq!(guard.held().len(), 6);
        assert_eq!(guard.wakes_at(), Some(start + Duration::from_secs(65)));
        assert!(!guard.settle(4, start + Duration::from_secs(64)));
        assert!(guard.settle(4, start + Duration::from_secs(65)));
        assert!(guard.held().is_empty() && guard.wakes_at().is_none());
    }

    #[test]
    fn who_comes_back_is_held_no_more_and_the_rest_is_believed_once_most_are_there() {
        let mut guard = Guard::new(Some(LossGuard::default()));
        let start = Instant::now();
        assert!(lose(&mut guard, 0..9, 1, start));
        guard.came("key-0");
        guard.settle(2, start);
        assert_eq!(guard.held().len(), 8);
        for id in 1..5 {
            guard.came(&format!("key-{id}"));
        }
        guard.settle(6, start);
        assert!(guard.held().is_empty(), "{:?}", guard.held());
    }

    #[test]
    fn a_rolling_restart_slower_than_the_window_and_a_small_service_are_believed() {
        let mut guard = Guard::new(Some(LossGuard::default()));
        let start = Instant::now();
        for id in 0..10 {
            let now = start + Duration::from_secs(16 * id);
            let id = usize::try_from(id).unwrap();
            assert!(!lose(&mut guard, id..id + 1, 9, now));
        }
        let mut guard = Guard::new(Some(LossGuard::default()));
        assert!(!lose(&mut guard, 0..2, 0, start), "two are too few to guard");
        let mut guard = Guard::new(None);
        assert!(!lose(&mut guard, 0..100, 0, start), "nobody asked for it");
    }
}
