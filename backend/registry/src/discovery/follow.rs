//! The tasks that follow etcd and fold what it says into lists of instances.
//!
//! Owns: the records of one watched prefix, by service. Must not know who reads the lists.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rollcall_shared::{Decoded, ServiceInstance};
use tokio::time::{Instant, interval_at, sleep_until};

use super::{Away, DiscoveryConfig, IDLE, Service, ServiceView, State, guard::Guard};
use crate::etcd::{
    entry::{Entry, EntryChange},
    source::Source,
    watcher::{SourceEvent, WatchError, watcher, with_backoff},
};

/// How many events are taken in before the lists that they change are told, where more come than can be told one by one.
const EVENTS_TOGETHER_MAX: usize = 1_000;

/// Follows the keys of one service until nobody wants them any more.
pub(super) async fn one(source: impl Source, state: Arc<State>, name: String, service: Arc<Service>) {
    let events = pin!(with_backoff(watcher(source)));
    let mut fold = Fold::new(&state.config, Some(name.clone()));
    let mut idle = interval_at(Instant::now() + IDLE, IDLE);
    let _ending = Ending(|why| {
        let writing = state.services.write();
        let view = ServiceView { away: Some(why), ..service.view().borrow().clone() };
        writing.tell(&name, &service, view);
        if !state.cancel.is_cancelled() {
            // Who asks next begins anew.
            writing.remove_own(&name, &service);
        }
    });
    let following = async {
        let mut events = events;
        loop {
            tokio::select! {
                () = fold.next(events.as_mut()) => {
                    for (_, view) in fold.take_changed() {
                        state.services.write().tell(&name, &service, view);
                    }
                }
                _ = idle.tick() => if state.let_go(&name, &service) {
                    return;
                },
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = state.cancel.cancelled() => {}
    }
}

/// Says that nothing is followed any more when a task ends, however it does: closed, with its runtime, or by a panic. No
/// list goes stale in silence.
struct Ending<F: FnMut(Away)>(F);

impl<F: FnMut(Away)> Drop for Ending<F> {
    fn drop(&mut self) {
        (self.0)(Away { since: Instant::now(), why: "etcd is followed no more".into() });
    }
}

/// Follows everything below the prefix.
pub(super) async fn everything(source: impl Source, state: Arc<State>) {
    let events = pin!(with_backoff(watcher(source)));
    let mut fold = Fold::new(&state.config, None);
    let _ending = Ending(|why: Away| {
        let writing = state.services.write();
        for (name, service) in state.services.all() {
            let view = ServiceView { away: Some(why.clone()), ..service.view().borrow().clone() };
            writing.tell(&name, &service, view);
        }
        state.whole.send_modify(|view| view.away = Some(why));
    });
    let following = async {
        let mut events = events;
        loop {
            fold.next(events.as_mut()).await;
            publish(&state, &mut fold);
        }
    };
    tokio::select! {
        () = following => {}
        () = state.cancel.cancelled() => {}
    }
}

/// Tells what changed, puts new names up, and lets empty ones go that nobody watches.
fn publish(state: &State, fold: &mut Fold<'_>) {
    let writing = state.services.write();
    for (name, view) in fold.take_changed() {
        let service = match state.services.get(&name) {
            Some(service) => service,
            None if view.instances.is_empty() => continue,
            None => {
                let service = Arc::new(Service::new());
                writing.insert(&name, Arc::clone(&service));
                service
            }
        };
        writing.tell(&name, &service, view);
        if service.is_idle() {
            writing.remove(&name);
        }
    }
    if fold.take_standing_changed() {
        let standing = fold.standing();
        // Those that nothing is listed of hear of it too.
        for (name, service) in state.services.all().into_iter().filter(|(name, _)| !fold.lists(name)) {
            writing.tell(&name, &service, standing.clone());
        }
        // Whoever waits for the first list then finds the names.
        state.whole.send_replace(standing);
    }
}

/// What stands below one prefix, by service.
struct Fold<'a> {
    config: &'a DiscoveryConfig,
    /// The only service whose keys count, where there is one.
    only: Option<String>,
    /// Which service each key counts for.
    owners: HashMap<Bytes, String>,
    services: BTreeMap<String, Members>,
    known: bool,
    away: Option<Away>,
    changed: BTreeSet<String>,
    standing_changed: bool,
}

/// The instances of one service.
struct Members {
    by_key: BTreeMap<String, Arc<ServiceInstance>>,
    guard: Guard,
}

impl<'a> Fold<'a> {
    fn new(config: &'a DiscoveryConfig, only: Option<String>) -> Self {
        Self {
            config,
            only,
            owners: HashMap::new(),
            services: BTreeMap::new(),
            known: false,
            away: None,
            changed: BTreeSet::new(),
            standing_changed: false,
        }
    }

    /// Waits for the next event, or for the time that a held loss is to be believed, and takes in what is there.
    /// Cancel safe.
    async fn next(&mut self, mut events: impl Stream<Item = Result<SourceEvent, WatchError>> + Unpin) {
        let guarded = self.config.loss_guard.iter().flat_map(|_| self.services.values());
        let wakes_at = guarded.filter_map(|members| members.guard.wakes_at()).min();
        tokio::select! {
            // A watcher never ends.
            Some(event) = events.next() => self.take_in(event),
            () = sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {
                self.changed.extend(self.services.keys().cloned());
            }
        }
        for _ in 0..EVENTS_TOGETHER_MAX {
            let Some(Some(event)) = events.next().now_or_never() else { break };
            self.take_in(event);
        }
    }

    fn take_in(&mut self, event: Result<SourceEvent, WatchError>) {
        match event {
            Ok(event) => {
                if self.away.take().is_some() {
                    self.standing_changed();
                }
                match event {
                    SourceEvent::Snapshot { entries, .. } => self.replace(&entries),
                    SourceEvent::Delta { changes, .. } => changes.into_iter().for_each(|change| match change {
                        EntryChange::Put(entry) => self.put(&entry),
                        EntryChange::Delete { key, .. } => self.delete(&key),
                    }),
                    SourceEvent::Progress(_) | SourceEvent::Unchanged(_) | SourceEvent::Opened | SourceEvent::Heard => {
                    }
                }
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                let since = self.away.as_ref().map_or_else(Instant::now, |away| away.since);
                if self.away.as_ref().is_none_or(|away| away.why != why) {
                    tracing::debug!(why = &*why, "etcd cannot be followed; the last list stands");
                    self.away = Some(Away { since, why });
                    self.standing_changed();
                }
            }
        }
    }

    fn standing_changed(&mut self) {
        self.standing_changed = true;
        self.changed.extend(self.services.keys().cloned());
        self.changed.extend(self.only.clone());
    }

    fn replace(&mut self, entries: &[Entry]) {
        let mut gone: BTreeSet<Bytes> = self.owners.keys().cloned().collect();
        for entry in entries {
            gone.remove(&entry.key);
            self.put(entry);
        }
        for key in gone {
            self.delete(&key);
        }
        if !self.known {
            self.known = true;
            self.standing_changed();
        }
    }

    fn put(&mut self, entry: &Entry) {
        let Some((key, instance)) = self.decode(entry) else {
            // What stood there before is no instance any more.
            self.delete(&entry.key);
            return;
        };
        if self.owners.get(&entry.key).is_some_and(|owner| *owner != instance.name) {
            self.delete(&entry.key);
        }
        let name = instance.name.clone();
        let guard = self.config.loss_guard;
        let members = self
            .services
            .entry(name.clone())
            .or_insert_with(|| Members { by_key: BTreeMap::new(), guard: Guard::new(guard) });
        members.guard.came(&key);
        if members.by_key.get(&key).is_some_and(|known| **known == instance) {
            return;
        }
        members.by_key.insert(key, Arc::new(instance));
        self.owners.insert(entry.key.clone(), name.clone());
        self.changed.insert(name);
    }

    /// The instance that `entry` holds, where it holds one that counts.
    fn decode(&self, entry: &Entry) -> Option<(String, ServiceInstance)> {
        let DiscoveryConfig { layout, prefix, .. } = self.config;
        // A key that is no UTF-8 was written by none of the frameworks.
        let key = str::from_utf8(&entry.key).ok()?;
        let instance = match layout.decode(prefix, key, &entry.value).decoded {
            Decoded::Instance(instance) => instance,
            Decoded::Malformed { why, .. } => {
                tracing::warn!(key, why, "a value that is no instance is passed over");
                return None;
            }
        };
        if self.only.as_ref().is_some_and(|only| *only != instance.name) {
            return None;
        }
        // The frameworks find a service by its keys: a value that names another one is found by nobody.
        let narrow = layout.service_prefix(prefix, &instance.name);
        narrow.is_none_or(|narrow| narrow.holds(key)).then(|| (key.to_owned(), instance))
    }

    fn delete(&mut self, key: &Bytes) {
        let Some(name) = self.owners.remove(key) else { return };
        let key = String::from_utf8_lossy(key).into_owned();
        if let Some(members) = self.services.get_mut(&name)
            && let Some(instance) = members.by_key.remove(&key)
        {
            members.guard.departed(key, instance, Instant::now());
        }
        self.changed.insert(name);
    }

    /// Each service whose view changed since the last time, and the view.
    fn take_changed(&mut self) -> Vec<(String, ServiceView)> {
        let now = Instant::now();
        let mut views = Vec::new();
        for name in std::mem::take(&mut self.changed) {
            let mut view = self.standing();
            if let Some(members) = self.services.get_mut(&name) {
                if members.guard.settle(members.by_key.len(), now) && !members.guard.held().is_empty() {
                    let held = members.guard.held().len();
                    tracing::warn!(service = name, held, "most instances left at once: their loss is held back");
                }
                view.held_back = members.guard.held().len();
                view.instances = members.listed();
                if members.by_key.is_empty() && view.held_back == 0 {
                    self.services.remove(&name);
                }
            }
            views.push((name, view));
        }
        views
    }

    /// How it is with the watch, of a service without instances.
    fn standing(&self) -> ServiceView {
        ServiceView { known: self.known, away: self.away.clone(), ..ServiceView::default() }
    }

    fn take_standing_changed(&mut self) -> bool {
        std::mem::take(&mut self.standing_changed)
    }

    fn lists(&self, name: &str) -> bool {
        self.services.contains_key(name)
    }
}

impl Members {
    /// Who is there and who is held, by key.
    fn listed(&self) -> Arc<[Arc<ServiceInstance>]> {
        let held = self.guard.held();
        if held.is_empty() {
            return self.by_key.values().map(Arc::clone).collect();
        }
        let mut all: BTreeMap<&String, &Arc<ServiceInstance>> = held.iter().collect();
        all.extend(&self.by_key);
        all.into_values().map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests {
    use rollcall_shared::{KeyPrefix, Layout, SnapshotReason, SourcePosition};

    use super::*;
    use crate::{
        LossGuard,
        etcd::{
            source::SourceError,
            watcher::{Phase, WatchError},
        },
    };

    fn config() -> DiscoveryConfig {
        DiscoveryConfig::new(Layout::Kratos, KeyPrefix::new("/microservices").unwrap())
    }

    fn entry(key: &str, value: &str) -> Entry {
        let value = Bytes::copy_from_slice(value.as_bytes());
        Entry { key: Bytes::copy_from_slice(key.as_bytes()), value, lease: 1, create_revision: 1, mod_revision: 1 }
    }

    fn orders(id: usize) -> Entry {
        let key = format!("/microservices/orders/{id}");
        let value = format!(
            r#"{{"id":"{id}","name":"orders","version":"","metadata":null,"endpoints":["http://127.0.0.1:{id}"]}}"#
        );
        entry(&key, &value)
    }

    fn snapshot(entries: Vec<Entry>) -> SourceEvent {
        let position = SourcePosition::default();
        SourceEvent::Snapshot { reason: SnapshotReason::Connected, cluster: 1, position, entries }
    }

    fn delta(changes: Vec<EntryChange>) -> SourceEvent {
        SourceEvent::Delta { position: SourcePosition::default(), changes }
    }

    fn gone(key: &str) -> EntryChange {
        EntryChange::Delete { key: Bytes::copy_from_slice(key.as_bytes()), revision: 2 }
    }

    /// The views that changed, as names and ids.
    fn told(fold: &mut Fold<'_>) -> Vec<(String, Vec<String>)> {
        let ids = |view: &ServiceView| view.instances.iter().map(|instance| instance.id.clone()).collect();
        fold.take_changed().iter().map(|(name, view)| (name.clone(), ids(view))).collect()
    }

    #[tokio::test]
    async fn only_values_of_that_very_name_below_its_own_keys_count() {
        let config = config();
        let mut fold = Fold::new(&config, Some("orders".into()));
        fold.take_in(Ok(snapshot(vec![
            orders(1),
            entry("/microservices/orders/2", "null"),
            entry("/microservices/orders/3", "{"),
            entry("/microservices/orders/4", r#"{"id":"4","name":"payments","endpoints":[]}"#),
            entry("/microservices/orders/eu/5", r#"{"id":"5","name":"orders/eu","endpoints":[]}"#),
            orders(6),
        ])));
        assert_eq!(told(&mut fold), [("orders".to_owned(), vec!["1".to_owned(), "6".to_owned()])]);
        // A value that breaks is an instance less, and one that is mended is back.
        fold.take_in(Ok(delta(vec![EntryChange::Put(entry("/microservices/orders/6", "{}"))])));
        assert_eq!(told(&mut fold), [("orders".to_owned(), vec!["1".to_owned()])]);
        fold.take_in(Ok(delta(vec![EntryChange::Put(orders(6))])));
        assert_eq!(told(&mut fold)[0].1, ["1", "6"]);
    }

    #[tokio::test]
    async fn what_changes_nothing_is_not_told() {
        let config = config();
        let mut fold = Fold::new(&config, None);
        fold.take_in(Ok(snapshot(vec![orders(1)])));
        assert_eq!(told(&mut fold).len(), 1);
        fold.take_in(Ok(delta(vec![EntryChange::Put(orders(1))])));
        fold.take_in(Ok(delta(vec![gone("/microservices/orders/9")])));
        fold.take_in(Ok(snapshot(vec![orders(1)])));
        assert!(told(&mut fold).is_empty());
        fold.take_in(Ok(snapshot(vec![orders(2)])));
        assert_eq!(told(&mut fold), [("orders".to_owned(), vec!["2".to_owned()])]);
    }

    #[tokio::test]
    async fn the_last_list_outlives_etcd_and_says_so() {
        let config = config();
        let mut fold = Fold::new(&config, Some("orders".into()));
        fold.take_in(Ok(snapshot(vec![orders(1)])));
        fold.take_changed();
        let failure = || Err(WatchError { phase: Phase::Watch, source: SourceError::Ended });
        fold.take_in(failure());
        let view = fold.take_changed().remove(0).1;
        assert_eq!((view.known, view.instances.len(), view.away.is_some()), (true, 1, true), "{view:?}");
        fold.take_in(failure());
        assert!(fold.take_changed().is_empty(), "the same failure is told once");
        fold.take_in(Ok(SourceEvent::Opened));
        let view = fold.take_changed().remove(0).1;
        assert_eq!((view.instances.len(), view.away), (1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_that_is_held_back_is_believed_when_its_time_is_over() {
        let config = DiscoveryConfig { loss_guard: Some(LossGuard::default()), ..config() };
        let mut fold = Fold::new(&config, Some("orders".into()));
        fold.take_in(Ok(snapshot((1..=4).map(orders).collect())));
        fold.take_changed();
        fold.take_in(Ok(snapshot(vec![orders(4)])));
        let view = fold.take_changed().remove(0).1;
        assert_eq!((view.instances.len(), view.held_back), (4, 3));
        // Nothing else happens: the time alone ends it.
        fold.next(futures_util::stream::pending()).await;
        let view = fold.take_changed().remove(0).1;
        assert_eq!((view.instances.len(), view.held_back), (1, 0));
    }
}
