//! etcd as a history of revisions, what a watcher would make of it, and a past that readers can ask.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use rollcall_registry::etcd::{
    entry::{Entry, EntryChange},
    source::{Page, Source, SourceError, Watch, WatchAnswer},
    watcher::SourceEvent,
};
use rollcall_shared::{Digest, KeyPrefix, Layout, Record, Revision, SnapshotReason, SourcePosition};

use crate::mirror::{SourceConfig, history::Past};

/// The sources, as the store numbers them.
pub const PREFIXES: [&str; 3] = ["/a/", "/b/", "/c/"];

/// The services.
pub const SERVICES: [&str; 3] = ["red", "green", "blue"];

/// The keys of one source at one revision.
pub type Keys = BTreeMap<Bytes, Entry>;

/// One thing done to a key: the service and lease it is put with, or nothing where it is deleted.
pub type Op = (usize, u16, Option<(usize, i64)>);

/// A key that only comes to go again.
const FLICKERING: u16 = 9_999;

/// The number of the service that `entry` is of.
fn service_of(entry: &Entry) -> usize {
    let value: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    SERVICES.iter().position(|service| *service == value["name"]).unwrap()
}

/// The number of the key of `entry`.
fn number_of(entry: &Entry) -> u16 {
    str::from_utf8(&entry.key[entry.key.len() - 4..]).unwrap().parse().unwrap()
}

pub fn config(source: usize) -> SourceConfig {
    SourceConfig { layout: Layout::Kratos, prefix: PREFIXES[source].parse().unwrap() }
}

pub fn number(prefix: &str) -> usize {
    PREFIXES.iter().position(|known| *known == prefix).unwrap()
}

pub fn digest<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Digest {
    let mut digest = Digest::default();
    for entry in entries {
        digest.add(entry.hash());
    }
    digest
}

#[derive(Clone)]
struct Revised {
    changes: [Vec<EntryChange>; 3],
    views: [Arc<View>; 3],
}

/// A source as it stood at some revision of some history.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub keys: Keys,
    pub digest: Digest,
    /// The last revision that changed it.
    pub changed_at: Revision,
    /// The one before that.
    pub changed_before: Revision,
    /// The same for each service: what came to it, changed in it or left it.
    touched: [(Revision, Revision); 3],
}

impl View {
    /// The last revision before `revision` that changed anything of `selected`, or of everything where that is empty.
    pub fn touched_before(&self, selected: &[&str], revision: Revision) -> Revision {
        let before = |(last, before): (Revision, Revision)| if last < revision { last } else { before };
        if selected.is_empty() {
            return before((self.changed_at, self.changed_before));
        }
        let services = SERVICES.iter().zip(self.touched).filter(|(service, _)| selected.contains(service));
        services.map(|(_, touched)| before(touched)).max().unwrap_or_default()
    }
}

/// What befalls the store between two calls of somebody who reads its past.
#[derive(Debug, Clone, Copy)]
pub enum Meanwhile {
    Compact(u8),
    Restore(u8),
    Away,
    Flicker(usize),
}

/// The store, in its present history, and all that was ever true in it.
pub struct Store {
    pub cluster: u64,
    history: Vec<Revised>,
    pub compacted: Revision,
    /// The furthest that was ever compacted.
    pub compacted_ever: Revision,
    pub restores: usize,
    ever: HashMap<(usize, SourcePosition), Vec<Arc<View>>>,
    by_version: HashMap<String, Entry>,
    versions: usize,
    /// Changes nobody: the history cannot be read now.
    pub away: bool,
    /// What befalls it after so many calls of somebody who reads its past.
    pub meanwhile: VecDeque<(u8, Meanwhile)>,
    /// How often its past was listed, and watched.
    pub lists: usize,
    pub watches: usize,
    /// It was before versions whose progress is proof.
    pub unproven: bool,
    /// Where a watcher was taken up anew without being told what came and went: the source, from where and to where.
    passed_over: Vec<(usize, Revision, Revision)>,
}

impl Store {
    pub fn new() -> Self {
        let mut store = Self {
            cluster: 77,
            history: Vec::new(),
            compacted: 0,
            compacted_ever: 0,
            restores: 0,
            ever: HashMap::new(),
            by_version: HashMap::new(),
            versions: 0,
            away: false,
            meanwhile: VecDeque::new(),
            lists: 0,
            watches: 0,
            unproven: false,
            passed_over: Vec::new(),
        };
        let nothing = Revised { changes: Default::default(), views: Default::default() };
        store.push(nothing.clone());
        store.push(nothing);
        store
    }

    fn push(&mut self, revised: Revised) {
        let revision = Revision::try_from(self.history.len()).unwrap();
        for (source, view) in revised.views.iter().enumerate() {
            let position = SourcePosition { revision, digest: view.digest };
            self.ever.entry((source, position)).or_default().push(Arc::clone(view));
        }
        self.history.push(revised);
    }

    fn at(&self, revision: Revision) -> Option<&Revised> {
        self.history.get(usize::try_from(revision).ok()?)
    }

    pub fn revision(&self) -> Revision {
        Revision::try_from(self.history.len()).unwrap() - 1
    }

    pub fn view(&self, source: usize) -> &View {
        &self.history.last().unwrap().views[source]
    }

    /// Where a source stands now.
    pub fn position(&self, source: usize) -> SourcePosition {
        SourcePosition { revision: self.revision(), digest: self.view(source).digest }
    }

    /// What stood at this position in any history: the same keys, on as many ways there as there were.
    pub fn ever(&self, source: usize, position: SourcePosition) -> &[Arc<View>] {
        self.ever.get(&(source, position)).map(|views| &**views).unwrap_or_default()
    }

    /// Whether a watcher was never told of `revision`.
    pub fn was_passed_over(&self, source: usize, revision: Revision) -> bool {
        self.passed_over.iter().any(|(of, from, to)| *of == source && *from < revision && revision <= *to)
    }

    /// Whether this position is of the present history.
    pub fn knows(&self, source: usize, position: SourcePosition) -> bool {
        self.at(position.revision).is_some_and(|revised| revised.views[source].digest == position.digest)
    }

    /// The entry that `record` was made of: each put has a version of its own.
    pub fn entry_of(&self, record: &Record) -> &Entry {
        &self.by_version[&record.instance().expect("every value decodes").version]
    }

    /// One transaction.
    pub fn txn(&mut self, ops: &[Op]) {
        let revision = self.revision() + 1;
        let mut changes: [Vec<EntryChange>; 3] = Default::default();
        let mut views = self.history.last().unwrap().views.clone();
        let mut touched = [[false; 3]; 3];
        for &(source, key, put) in ops {
            let id = format!("i{key:04}");
            let key = Bytes::from(format!("{}s/{id}", PREFIXES[source]));
            // etcd refuses a transaction that touches a key twice.
            if changes[source].iter().any(|change| *change.key() == key) {
                continue;
            }
            let keys = &mut Arc::make_mut(&mut views[source]).keys;
            match put {
                Some((service, lease)) => {
                    self.versions += 1;
                    let version = self.versions.to_string();
                    let value = format!(
                        r#"{{"id":"{id}","name":"{}","version":"{version}","endpoints":[]}}"#,
                        SERVICES[service]
                    );
                    touched[source][service] = true;
                    if let Some(before) = keys.get(&key) {
                        touched[source][service_of(before)] = true;
                    }
                    let create_revision = keys.get(&key).map_or(revision, |entry| entry.create_revision);
                    let value = Bytes::from(value);
                    let entry = Entry { key: key.clone(), value, lease, create_revision, mod_revision: revision };
                    self.by_version.insert(version, entry.clone());
                    keys.insert(key, entry.clone());
                    changes[source].push(EntryChange::Put(entry));
                }
                None => {
                    if let Some(before) = keys.remove(&key) {
                        touched[source][service_of(&before)] = true;
                        changes[source].push(EntryChange::Delete { key, revision });
                    }
                }
            }
        }
        if changes.iter().all(Vec::is_empty) {
            return;
        }
        for ((view, _), touched) in
            views.iter_mut().zip(&changes).zip(touched).filter(|((_, changes), _)| !changes.is_empty())
        {
            let view = Arc::make_mut(view);
            view.digest = digest(view.keys.values());
            view.changed_before = std::mem::replace(&mut view.changed_at, revision);
            for (known, _) in view.touched.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
                *known = (revision, known.0);
            }
        }
        self.push(Revised { changes, views });
    }

    /// A lease ends: all of its keys go in one revision, in every source.
    pub fn end_lease(&mut self, lease: i64) {
        let keys = |source: usize| self.view(source).keys.values().filter(|entry| entry.lease == lease);
        let ops: Vec<Op> =
            (0..3).flat_map(|source| keys(source).map(move |entry| (source, number_of(entry), None))).collect();
        self.txn(&ops);
    }

    /// A key comes, and goes again.
    pub fn flicker(&mut self, source: usize) {
        self.txn(&[(source, FLICKERING, Some((0, 0)))]);
        self.txn(&[(source, FLICKERING, None)]);
    }

    fn call(&mut self) {
        let Some((calls, _)) = self.meanwhile.front_mut() else { return };
        if let Some(left) = calls.checked_sub(1) {
            *calls = left;
            return;
        }
        match self.meanwhile.pop_front().expect("it was there").1 {
            Meanwhile::Compact(back) => self.compact(self.revision() - Revision::from(back)),
            Meanwhile::Restore(back) => self.restore(self.revision() - Revision::from(back)),
            Meanwhile::Away => self.away = true,
            Meanwhile::Flicker(source) => self.flicker(source),
        }
    }

    /// Somebody else's key.
    pub fn elsewhere(&mut self) {
        let views = self.history.last().unwrap().views.clone();
        self.push(Revised { changes: Default::default(), views });
    }

    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.min(self.revision()));
        self.compacted_ever = self.compacted_ever.max(self.compacted);
    }

    /// Back to a backup of `revision`.
    pub fn restore(&mut self, revision: Revision) {
        let length = usize::try_from(revision.clamp(1, self.revision())).unwrap() + 1;
        if length < self.history.len() {
            self.history.truncate(length);
            self.compacted = self.compacted.min(revision);
            self.restores += 1;
        }
    }
}

/// How a watcher goes on.
#[derive(Debug, Clone, Copy)]
pub enum Turn {
    /// It tells up to so many changes.
    Changes(u8),
    /// It tells how far it has come, if it told all changes up to there.
    Progress(u8),
    /// It tells of a revision in which nothing of its own was seen to change.
    Unseen,
    /// Its watch breaks, and stands again.
    Again,
}

/// A watcher of one source: what it has told, and so what its mirror knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watcher {
    pub position: Option<SourcePosition>,
}

impl Watcher {
    /// What it tells next.
    pub fn turn(&mut self, store: &mut Store, source: usize, turn: Turn) -> Vec<SourceEvent> {
        let now = SourcePosition { revision: store.revision(), digest: store.view(source).digest };
        let snapshot = |reason| SourceEvent::Snapshot {
            reason,
            cluster: store.cluster,
            position: now,
            entries: store.view(source).keys.values().cloned().collect(),
        };
        let Some(position) = &mut self.position else {
            self.position = Some(now);
            return vec![snapshot(SnapshotReason::Connected), SourceEvent::Opened];
        };
        if !store.knows(source, *position) {
            *position = now;
            return vec![snapshot(SnapshotReason::Restored), SourceEvent::Opened];
        }
        let again = matches!(turn, Turn::Again);
        if position.revision + 1 < store.compacted || again && position.revision < store.compacted {
            let same = position.digest == now.digest;
            let event = snapshot(SnapshotReason::Compacted);
            if same {
                store.passed_over.push((source, position.revision, now.revision));
            }
            *position = now;
            let event = if same { SourceEvent::Unchanged(now) } else { event };
            return vec![event, SourceEvent::Opened];
        }
        let next_change = |after: Revision| {
            (after + 1..=store.revision())
                .find(|revision| !store.at(*revision).unwrap().changes[source].is_empty())
                .map(|revision| (revision, store.at(revision).unwrap()))
        };
        let mut events = Vec::new();
        match turn {
            Turn::Changes(count) => {
                for _ in 0..count {
                    let Some((revision, revised)) = next_change(position.revision) else { break };
                    *position = SourcePosition { revision, digest: revised.views[source].digest };
                    let changes = revised.changes[source].clone();
                    events.push(SourceEvent::Delta { position: *position, changes });
                }
            }
            Turn::Progress(back) => {
                let last = next_change(position.revision).map_or(now.revision, |(revision, _)| revision - 1);
                position.revision = position.revision.max(last - Revision::from(back));
                events.push(SourceEvent::Progress(*position));
            }
            Turn::Unseen => {
                let next = position.revision + 1;
                if store.at(next).is_some_and(|revised| revised.changes[source].is_empty()) {
                    position.revision = next;
                    events.push(SourceEvent::Delta { position: *position, changes: Vec::new() });
                }
            }
            Turn::Again => events.extend([SourceEvent::Opened, SourceEvent::Heard]),
        }
        events
    }
}

/// The store, as readers and the test have it in their hands.
#[derive(Clone)]
pub struct Scripted(Arc<Mutex<Store>>);

impl Scripted {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Store::new())))
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }
}

impl Past for Scripted {
    type Source = ScriptedSource;

    fn source(&self, prefix: &KeyPrefix, _: &[KeyPrefix]) -> ScriptedSource {
        ScriptedSource { etcd: self.clone(), source: number(prefix.as_str()) }
    }

    async fn store_revision(&self, _: &KeyPrefix) -> Option<Revision> {
        let mut store = self.store();
        store.call();
        (!store.away).then(|| store.revision())
    }
}

/// One source of it.
pub struct ScriptedSource {
    etcd: Scripted,
    source: usize,
}

impl Source for ScriptedSource {
    type Watch = ScriptedWatch;

    async fn list(&self, _: Option<Bytes>, at: Option<Revision>) -> Result<Page, SourceError> {
        let mut store = self.etcd.store();
        store.call();
        store.lists += 1;
        if store.away {
            return Err(SourceError::Ended);
        }
        let at = at.unwrap_or(store.revision());
        if at < store.compacted {
            return Err(SourceError::Compacted(0));
        }
        let revised = store.at(at).ok_or(SourceError::Future)?;
        let entries = revised.views[self.source].keys.values().cloned().collect();
        Ok(Page { cluster: store.cluster, store_revision: store.revision(), entries, next: None })
    }

    async fn watch(&self, from: Revision) -> Result<ScriptedWatch, SourceError> {
        let mut store = self.etcd.store();
        store.call();
        store.watches += 1;
        if store.away {
            return Err(SourceError::Ended);
        }
        if from < store.compacted {
            return Err(SourceError::Compacted(store.compacted));
        }
        let mut answers = VecDeque::from([WatchAnswer::Created]);
        for revision in from..=store.revision() {
            let changes = store.at(revision).unwrap().changes[self.source].clone();
            if !changes.is_empty() {
                answers.push_back(WatchAnswer::Changes { changes, fragment: false });
            }
        }
        Ok(ScriptedWatch { answers, until: store.revision(), proof: !store.unproven })
    }
}

/// A watch that tells what had happened when it was opened.
pub struct ScriptedWatch {
    answers: VecDeque<WatchAnswer>,
    until: Revision,
    proof: bool,
}

impl Watch for ScriptedWatch {
    async fn next(&mut self) -> Result<WatchAnswer, SourceError> {
        match self.answers.pop_front() {
            Some(answer) => Ok(answer),
            None => std::future::pending().await,
        }
    }

    async fn request_progress(&mut self) -> Result<(), SourceError> {
        if self.proof {
            self.answers.push_back(WatchAnswer::Progress(self.until));
        } else {
            // It overtakes what is still to be told.
            self.answers.push_front(WatchAnswer::Progress(self.until));
        }
        Ok(())
    }

    fn blame(&self) {}

    fn progress_is_proof(&self) -> bool {
        self.proof
    }
}
