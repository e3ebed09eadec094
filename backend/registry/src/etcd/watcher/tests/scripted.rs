//! A model of etcd's key space with a script of faults, and a reader that checks all that the watcher says against it.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::*;
use crate::etcd::source::Page;

/// What the source holds; all other keys are somebody else's and only raise the revision.
pub const PREFIX: &str = "/s/";

/// The keys as they stood at one revision.
pub type Keys = BTreeMap<Bytes, Entry>;

/// One call of the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A page, the first one or a later one, as of a revision.
    List { first: bool, at: Option<Revision> },
    /// A watch from a revision.
    Watch { from: Revision },
}

/// Runs before each call; its error is the call's outcome.
type Hook = Box<dyn FnMut(&mut Model, Call) -> Result<(), SourceError> + Send>;

struct Revised {
    changes: Vec<EntryChange>,
    keys: Arc<Keys>,
}

/// etcd, as far as a watcher can see.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own that tests set")]
pub struct Model {
    pub cluster: u64,
    pub compacted: Revision,
    /// By revision.
    history: Vec<Revised>,
    watches: BTreeMap<u64, Watched>,
    watches_opened: u64,
    hook: Option<Hook>,
    pub calls: Vec<Call>,
    pub blamed: usize,
    /// Restored since the reader's view was last seen to be one of this history.
    pub suspect: bool,
    pub page_keys: usize,
    /// How many changes one answer holds at the most.
    pub fragment_changes: usize,
    /// How many revisions one answer holds at the most.
    pub batch_revisions: i64,
    /// Every answer says again what the one before said, as etcd before 3.4.24 may.
    pub doubles: bool,
    /// Progress answers wait until the watch has caught up.
    pub progress_is_proof: bool,
    /// Watches say nothing.
    pub silent: bool,
}

#[derive(Default)]
struct Watched {
    next: Revision,
    queue: VecDeque<WatchAnswer>,
    before: Vec<EntryChange>,
    progress_asked: bool,
    broken: Option<SourceError>,
    /// It was opened before a restore, and may be past what it ought to tell of the new history.
    of_old_history: bool,
}

pub fn put(key: &str, value: &str) -> (String, Option<(String, i64)>) {
    (format!("{PREFIX}{key}"), Some((value.to_owned(), 0)))
}

pub fn delete(key: &str) -> (String, Option<(String, i64)>) {
    (format!("{PREFIX}{key}"), None)
}

impl Model {
    pub fn revision(&self) -> Revision {
        Revision::try_from(self.history.len()).unwrap() - 1
    }

    /// The keys of the source at `revision`; `None` where this history has no such revision.
    pub fn keys_at(&self, revision: Revision) -> Option<Arc<Keys>> {
        let revised = self.history.get(usize::try_from(revision).ok()?)?;
        Some(revised.keys.clone())
    }

    pub fn keys(&self) -> Arc<Keys> {
        self.keys_at(self.revision()).unwrap()
    }

    /// One transaction: each key with its value and lease, or without where it is deleted. Gives the revision.
    pub fn txn(&mut self, ops: impl IntoIterator<Item = (String, Option<(String, i64)>)>) -> Revision {
        let revision = self.revision() + 1;
        let mut keys = Keys::clone(&self.keys());
        let mut changes = Vec::new();
        for (key, op) in ops {
            let key = Bytes::from(key);
            let ours = key.starts_with(PREFIX.as_bytes());
            match op {
                Some((value, lease)) => {
                    let create_revision = keys.get(&key).map_or(revision, |entry| entry.create_revision);
                    let value = Bytes::from(value);
                    let entry = Entry { key: key.clone(), value, lease, create_revision, mod_revision: revision };
                    if ours {
                        keys.insert(key, entry.clone());
                        changes.push(EntryChange::Put(entry));
                    }
                }
                None => {
                    if keys.remove(&key).is_some() {
                        changes.push(EntryChange::Delete { key, revision });
                    }
                }
            }
        }
        self.history.push(Revised { changes, keys: Arc::new(keys) });
        revision
    }

    pub fn put(&mut self, key: &str, value: &str) -> Revision {
        self.txn([put(key, value)])
    }

    pub fn delete(&mut self, key: &str) -> Revision {
        self.txn([delete(key)])
    }

    /// Somebody else's key.
    pub fn put_elsewhere(&mut self) -> Revision {
        self.txn([("/t/other".to_owned(), Some((String::new(), 0)))])
    }

    /// A lease ends: all of its keys go in one revision.
    pub fn end_lease(&mut self, lease: i64) {
        let gone: Vec<_> = self.keys().values().filter(|entry| entry.lease == lease).map(|e| e.key.clone()).collect();
        if !gone.is_empty() {
            self.txn(gone.into_iter().map(|key| (String::from_utf8(key.to_vec()).unwrap(), None)));
        }
    }

    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.min(self.revision()));
    }

    /// Back to a backup of `revision`. The watches that stand go on, as through a proxy that hides the restart.
    pub fn restore(&mut self, revision: Revision) {
        self.history.truncate(usize::try_from(revision).unwrap() + 1);
        self.compacted = self.compacted.min(revision);
        self.suspect = true;
        for watched in self.watches.values_mut() {
            watched.of_old_history = true;
        }
    }

    /// Ends every watch that stands.
    pub fn end_watches(&mut self, error: impl Fn() -> SourceError) {
        for watched in self.watches.values_mut() {
            watched.broken = Some(error());
        }
    }

    /// How many watches stand.
    pub fn watches_standing(&self) -> usize {
        self.watches.len()
    }

    fn call(&mut self, call: Call) -> Result<(), SourceError> {
        self.calls.push(call);
        let Some(mut hook) = self.hook.take() else { return Ok(()) };
        let outcome = hook(self, call);
        self.hook.get_or_insert(hook);
        outcome
    }

    fn changes_of(&self, revisions: RangeInclusive<Revision>) -> Vec<EntryChange> {
        revisions.flat_map(|revision| self.history[usize::try_from(revision).unwrap()].changes.clone()).collect()
    }

    fn answer(&mut self, id: u64) -> Option<Result<WatchAnswer, SourceError>> {
        let mut watched = self.watches.remove(&id).expect("the watch stands");
        let outcome = self.answer_of(&mut watched);
        self.watches.insert(id, watched);
        outcome
    }

    fn answer_of(&self, watched: &mut Watched) -> Option<Result<WatchAnswer, SourceError>> {
        if let Some(error) = watched.broken.take() {
            return Some(Err(error));
        }
        if self.silent {
            return None;
        }
        if watched.progress_asked && !self.progress_is_proof {
            // It overtakes what is still to be told.
            watched.progress_asked = false;
            return Some(Ok(WatchAnswer::Progress(self.revision())));
        }
        while watched.queue.is_empty() && watched.next <= self.revision() {
            if watched.next < self.compacted {
                return Some(Err(SourceError::Compacted(self.compacted)));
            }
            let last = self.revision().min(watched.next + self.batch_revisions - 1);
            let changes = self.changes_of(watched.next..=last);
            watched.next = last + 1;
            if changes.is_empty() {
                continue;
            }
            let mut said = changes.clone();
            if self.doubles {
                said.splice(0..0, std::mem::replace(&mut watched.before, changes));
            }
            let mut pieces = said.chunks(self.fragment_changes).peekable();
            while let Some(piece) = pieces.next() {
                let fragment = pieces.peek().is_some();
                watched.queue.push_back(WatchAnswer::Changes { changes: piece.to_vec(), fragment });
            }
        }
        if let Some(answer) = watched.queue.pop_front() {
            return Some(Ok(answer));
        }
        if watched.progress_asked {
            watched.progress_asked = false;
            return Some(Ok(WatchAnswer::Progress(self.revision())));
        }
        None
    }
}

/// The model as a source.
#[derive(Clone)]
pub struct Scripted {
    model: Arc<Mutex<Model>>,
    changed: Arc<Notify>,
}

impl Scripted {
    /// An empty etcd at revision 1.
    pub fn new() -> Self {
        let nothing = || Revised { changes: Vec::new(), keys: Arc::default() };
        let model = Model {
            cluster: 77,
            compacted: 0,
            history: vec![nothing(), nothing()],
            watches: BTreeMap::new(),
            watches_opened: 0,
            hook: None,
            calls: Vec::new(),
            blamed: 0,
            suspect: false,
            page_keys: 3,
            fragment_changes: usize::MAX,
            batch_revisions: 1_000,
            doubles: false,
            progress_is_proof: true,
            silent: false,
        };
        Self { model: Arc::new(Mutex::new(model)), changed: Arc::default() }
    }

    /// One with so many keys.
    pub fn with_keys(count: usize) -> Self {
        let scripted = Self::new();
        for index in 0..count {
            scripted.change(|etcd| etcd.put(&format!("key-{index:03}"), "first"));
        }
        scripted
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// Does something to etcd; watches hear of it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        let outcome = change(&mut self.model());
        self.changed.notify_waiters();
        outcome
    }

    /// Does something before each call from now on.
    pub fn before_calls(&self, hook: impl FnMut(&mut Model, Call) -> Result<(), SourceError> + Send + 'static) {
        self.model().hook = Some(Box::new(hook));
    }

    /// Does something once, before the first call that is `wanted`.
    pub fn before_call(
        &self,
        wanted: impl Fn(Call) -> bool + Send + 'static,
        action: impl FnOnce(&mut Model) -> Result<(), SourceError> + Send + 'static,
    ) {
        let mut action = Some(action);
        self.before_calls(move |model, call| {
            if wanted(call)
                && let Some(action) = action.take()
            {
                action(model)
            } else {
                Ok(())
            }
        });
    }

    pub fn calls(&self) -> Vec<Call> {
        self.model().calls.clone()
    }
}

impl Source for Scripted {
    type Watch = ScriptedWatch;

    async fn list(&self, from: Option<Bytes>, at: Option<Revision>) -> Result<Page, SourceError> {
        let outcome = {
            let mut model = self.model();
            let outcome = model.call(Call::List { first: from.is_none(), at });
            outcome.and_then(|()| {
                let at = at.unwrap_or(model.revision());
                if at < model.compacted {
                    return Err(SourceError::Compacted(0));
                }
                let keys = model.keys_at(at).ok_or(SourceError::Future)?;
                let mut rest = keys.range(from.unwrap_or_default()..).map(|(_, entry)| entry.clone());
                let entries: Vec<Entry> = rest.by_ref().take(model.page_keys).collect();
                let next = rest.next().is_some().then(|| {
                    let mut next = entries.last().expect("a page holds keys").key.to_vec();
                    next.push(0);
                    Bytes::from(next)
                });
                Ok(Page { cluster: model.cluster, store_revision: model.revision(), entries, next })
            })
        };
        self.changed.notify_waiters();
        outcome
    }

    async fn watch(&self, from: Revision) -> Result<ScriptedWatch, SourceError> {
        let mut model = self.model();
        model.call(Call::Watch { from })?;
        let id = model.watches_opened;
        model.watches_opened += 1;
        let queue = VecDeque::from([WatchAnswer::Created]);
        model.watches.insert(id, Watched { next: from, queue, ..Watched::default() });
        Ok(ScriptedWatch { source: self.clone(), id })
    }
}

/// A watch of the model.
pub struct ScriptedWatch {
    source: Scripted,
    id: u64,
}

impl Drop for ScriptedWatch {
    fn drop(&mut self) {
        // Where a test failed under the lock, its own words are the ones to hear.
        if let Ok(mut model) = self.source.model.lock() {
            model.watches.remove(&self.id);
        }
    }
}

impl Watch for ScriptedWatch {
    async fn next(&mut self) -> Result<WatchAnswer, SourceError> {
        loop {
            let changed = self.source.changed.notified();
            let answer = self.source.model().answer(self.id);
            if let Some(answer) = answer {
                return answer;
            }
            changed.await;
        }
    }

    async fn request_progress(&mut self) -> Result<(), SourceError> {
        let mut model = self.source.model();
        let watched = model.watches.get_mut(&self.id).expect("the watch stands");
        watched.progress_asked = true;
        drop(model);
        self.source.changed.notify_waiters();
        Ok(())
    }

    fn blame(&self) {
        self.source.model().blamed += 1;
    }

    fn progress_is_proof(&self) -> bool {
        self.source.model().progress_is_proof
    }
}

/// Reads what the watcher says, checks it, and keeps what it makes of it.
pub struct Reader {
    source: Scripted,
    events: Pin<Box<dyn Stream<Item = Item>>>,
    pub keys: Keys,
    pub position: Option<SourcePosition>,
    /// All that was said since [`Reader::forget`], but for signs of life.
    pub told: Vec<SourceEvent>,
    /// What went wrong since then.
    pub errors: Vec<String>,
}

impl Reader {
    pub fn new(source: &Scripted) -> Self {
        let events = Box::pin(with_backoff(watcher(source.clone())));
        let source = source.clone();
        Self { source, events, keys: Keys::new(), position: None, told: Vec::new(), errors: Vec::new() }
    }

    /// One that has read all there is, and watches.
    pub async fn caught_up(source: &Scripted) -> Self {
        let mut reader = Self::new(source);
        reader.until_opened().await;
        reader.forget();
        reader
    }

    pub fn forget(&mut self) {
        self.told.clear();
        self.errors.clear();
        self.source.model().calls.clear();
    }

    /// The next thing said, checked.
    pub async fn next(&mut self) -> Item {
        let item = self.events.next().await.expect("the watcher never ends");
        match &item {
            Ok(event) => self.take_in(event),
            Err(error) => self.errors.push(error.to_string()),
        }
        item
    }

    pub async fn until_opened(&mut self) {
        while !matches!(self.next().await, Ok(SourceEvent::Opened)) {}
    }

    /// Reads until nothing but signs of life have come for so long.
    pub async fn for_the_next(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while tokio::time::timeout_at(end, self.next()).await.is_ok() {}
    }

    /// Snapshots and deltas that were told, shortly.
    pub fn told_changes(&self) -> Vec<String> {
        let told = self.told.iter().filter_map(|event| match event {
            SourceEvent::Snapshot { reason, position, .. } => Some(format!("{reason:?} at {}", position.revision)),
            SourceEvent::Delta { position, changes } => {
                Some(format!("delta of {} at {}", changes.len(), position.revision))
            }
            SourceEvent::Progress(_) | SourceEvent::Unchanged(_) | SourceEvent::Opened | SourceEvent::Heard => None,
        });
        told.collect()
    }

    fn take_in(&mut self, event: &SourceEvent) {
        let before = self.position;
        match event {
            SourceEvent::Snapshot { position, entries, cluster, .. } => {
                assert!(entries.is_sorted_by(|one, other| one.key < other.key), "sorted, and each key once");
                assert_eq!(*cluster, self.source.model().cluster);
                self.keys = entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
                self.position = Some(*position);
            }
            SourceEvent::Delta { position, changes } => {
                let before = before.expect("a snapshot comes first");
                assert!(position.revision > before.revision, "{position:?} after {before:?}");
                let mut seen = HashSet::new();
                for change in changes {
                    assert_eq!(change.revision(), position.revision, "a delta is of one revision");
                    assert!(seen.insert(change.key().clone()), "{change:?} is told twice");
                    match change {
                        EntryChange::Put(entry) => self.keys.insert(entry.key.clone(), entry.clone()),
                        EntryChange::Delete { key, .. } => {
                            Some(self.keys.remove(key).expect("what is deleted was told of before"))
                        }
                    };
                }
                self.position = Some(*position);
            }
            SourceEvent::Progress(position) | SourceEvent::Unchanged(position) => {
                let before = before.expect("a snapshot comes first");
                assert!(position.revision >= before.revision, "{position:?} after {before:?}");
                assert_eq!(position.digest, before.digest, "progress changes nothing");
                self.position = Some(*position);
            }
            SourceEvent::Heard => return,
            SourceEvent::Opened => {
                self.told.push(event.clone());
                return;
            }
        }
        self.told.push(event.clone());
        self.check();
    }

    /// What is told to stand at a revision is what stood there: every byte of it, and the digest is its own.
    fn check(&mut self) {
        let position = self.position.expect("something was told");
        let entries: Vec<Entry> = self.keys.values().cloned().collect();
        assert_eq!(position, View::new(position.revision, &entries).position(), "the digest is the view's");
        let mut model = self.source.model();
        let there = model.keys_at(position.revision);
        if there.as_deref() == Some(&self.keys) {
            model.suspect = model.watches.values().any(|watched| watched.of_old_history);
        } else {
            let told = (position.revision, &self.keys);
            assert!(model.suspect, "told: {told:#?}, where etcd at {} had {there:#?}", model.revision());
        }
    }

    /// The reader knows what etcd holds.
    pub fn assert_up_to_date(&self) {
        let model = self.source.model();
        assert_eq!(self.keys, *model.keys(), "etcd stands at {}, the reader at {:?}", model.revision(), self.position);
        let position = self.position.expect("something was told");
        assert!(position.revision <= model.revision(), "{position:?}, where etcd stands at {}", model.revision());
    }
}
