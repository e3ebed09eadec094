//! All that is known of the registry, and the way from a change to everybody who reads the stream.
//!
//! Owns the catalog, the raw values, the leases' book and the ring of encoded frames, behind one short lock, so that
//! subscribing has neither a gap nor an overlap. One method takes changes in ([`Mirror::apply`]); a subscriber is a
//! position in the ring. Must not know HTTP. Of etcd it knows what the watchers say; [`history`] alone asks for more:
//! for what the ring has let go.

pub mod ahead;
pub mod frame;
pub mod history;
mod pace;
pub mod resume;
mod ring;
pub mod snapshot;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rollcall_registry::etcd::{
    entry::{Entry, EntryChange},
    source::SourceError,
    ttl::{LeaseBook, LeaseSample},
    watcher::{SourceEvent, WatchError},
};
use rollcall_shared::{
    Catalog, Cause, Change, Cursor, Delta, Departure, KeyPrefix, Layout, LeaseId, Progress, Record, RegistryEvent,
    Revision, Snapshot, SnapshotReason, SourcePosition,
    api::{EtcdState, StatusEvent},
    cursor::SourceId,
    record::{Decoded, Raw},
};
use tokio::{sync::watch, time::Instant};

use self::{
    frame::{Deleted, Frame, FrameKind},
    history::Histories,
    pace::{Pace, Wake},
    ring::{RING_BYTES_MAX, Ring},
    snapshot::SnapshotCell,
};

/// A source that has not been heard of for so long is stale. Quiet watches are asked every 3 s.
pub const STALE_AFTER: Duration = Duration::from_secs(7);

/// How long etcd may be lost before this server says that it is not ready.
pub const READY_GRACE: Duration = Duration::from_secs(10);

/// A source as it is configured: a layout and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// How the values below the prefix are written.
    pub layout: Layout,
    /// The prefix, which is the source's name.
    pub prefix: KeyPrefix,
}

/// Everything known of the registry.
pub struct Mirror {
    sources: Vec<SourceConfig>,
    state: Mutex<State>,
    /// The sequence number after the newest frame that may be told.
    tail: watch::Sender<u64>,
    status: watch::Sender<Status>,
    ready: watch::Sender<bool>,
    snapshot: SnapshotCell,
    histories: Histories,
}

struct State {
    cluster: u64,
    catalog: Catalog,
    values: HashMap<String, Bytes>,
    leases: LeaseBook,
    sources: Vec<SourceState>,
    ring: Ring,
    pace: Pace,
}

/// What is known of one source.
#[derive(Debug, Clone)]
struct SourceState {
    id: SourceId,
    /// `None` until its first snapshot stands.
    position: Option<SourcePosition>,
    /// The revision of its last change, or of its last snapshot: the next delta continues from here.
    changed_at: Revision,
    /// How many snapshots have replaced its view.
    epoch: u64,
    /// The keys that left, and whose cause is still being sought.
    unexplained: BTreeMap<Deleted, HashSet<String>>,
    /// When it was last heard of while it was up to date.
    heard_at: Option<Instant>,
    line: Line,
}

/// How it is with one source's watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// It stands and has caught up.
    Live,
    /// It stands again after a break, and what was missed is on its way.
    CatchingUp,
    /// It does not stand, and etcd answers.
    Refused,
    /// It does not stand, and etcd does not answer.
    Lost,
}

/// The state of the connection to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// How it is.
    pub etcd: EtcdState,
    /// Since when.
    pub since: Instant,
    /// When every source was last known to be up to date.
    pub fresh_at: Option<Instant>,
}

impl Status {
    /// As the stream tells it.
    pub fn event(&self) -> StatusEvent {
        StatusEvent { etcd: self.etcd, for_s: self.since.elapsed().as_secs() }
    }

    /// Whether the stream tells it as it tells `other`, but for the time that passes.
    pub fn tells_as(&self, other: &Self) -> bool {
        (self.etcd, self.since) == (other.etcd, other.since)
    }

    /// How old what is known may be, in seconds; `None` while it is live.
    pub fn stale_for_s(&self) -> Option<u64> {
        (self.etcd != EtcdState::Live).then(|| self.fresh_at.unwrap_or(self.since).elapsed().as_secs())
    }
}

/// A key that left, whose cause is to be found out.
#[derive(Debug, Clone)]
pub struct Left {
    /// The key.
    pub key: String,
    /// Its service.
    pub service: String,
    /// The revision that deleted it.
    pub revision: Revision,
    /// The lease it was on.
    pub lease: Option<LeaseId>,
    /// The last answer about that lease.
    pub before: Option<LeaseSample>,
    /// When the delete was seen.
    pub seen_at: Instant,
    /// Whether it was told as it happened.
    pub told_live: bool,
}

/// What a subscriber finds at its position.
pub enum Reading {
    /// These frames, in order.
    Frames(Vec<Arc<Frame>>),
    /// Nothing new.
    UpToDate,
    /// Its position has left the ring.
    Lagged,
}

/// A consistent look at everything: positions and a cursor to go on from.
pub struct View<T> {
    /// What was asked for.
    pub found: T,
    /// The cursor.
    pub cursor: String,
    /// The revisions, by prefix.
    pub revisions: BTreeMap<String, Revision>,
}

impl Mirror {
    /// A mirror of `sources`, empty until their snapshots come.
    pub fn new(sources: Vec<SourceConfig>) -> Self {
        Self::with_ring_bytes(sources, RING_BYTES_MAX)
    }

    /// The same, with so many bytes of frames kept.
    pub(crate) fn with_ring_bytes(sources: Vec<SourceConfig>, ring_bytes_max: usize) -> Self {
        let now = Instant::now();
        let states = sources
            .iter()
            .map(|source| SourceState {
                id: SourceId::new(source.layout, &source.prefix),
                position: None,
                changed_at: 0,
                epoch: 0,
                unexplained: BTreeMap::new(),
                heard_at: None,
                line: Line::CatchingUp,
            })
            .collect();
        let state = State {
            cluster: 0,
            catalog: Catalog::default(),
            values: HashMap::new(),
            leases: LeaseBook::default(),
            sources: states,
            ring: Ring::new(ring_bytes_max),
            pace: Pace::default(),
        };
        Self {
            sources,
            state: Mutex::new(state),
            tail: watch::Sender::new(0),
            status: watch::Sender::new(Status { etcd: EtcdState::Stale, since: now, fresh_at: None }),
            ready: watch::Sender::new(false),
            snapshot: SnapshotCell::default(),
            histories: Histories::default(),
        }
    }

    /// The sources, as configured.
    pub fn sources(&self) -> &[SourceConfig] {
        &self.sources
    }

    /// The source that has `key`: of overlapping prefixes the longest.
    pub fn source_of(&self, key: &str) -> Option<&SourceConfig> {
        source_of(&self.sources, key)
    }

    /// Follows the state of the connection.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Becomes `true` once every source's first snapshot stands.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Follows the end of the ring.
    pub fn tail(&self) -> watch::Receiver<u64> {
        self.tail.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the watcher of source number `index` says, and gives back the keys that left.
    pub fn apply(self: &Arc<Self>, index: usize, event: SourceEvent) -> Vec<Left> {
        let source = &self.sources[index];
        let records = match &event {
            SourceEvent::Snapshot { entries, .. } => {
                entries.iter().map(|entry| Arc::new(record(source, entry))).collect()
            }
            _ => Vec::new(),
        };
        self.apply_decoded(index, event, records)
    }

    /// The same, where the records that a snapshot's entries make are known already; they stand in the same order.
    pub fn apply_decoded(self: &Arc<Self>, index: usize, event: SourceEvent, records: Vec<Arc<Record>>) -> Vec<Left> {
        let source = &self.sources[index];
        let now = Instant::now();
        let left = match event {
            SourceEvent::Snapshot { reason, cluster, position, entries } => {
                let mut state = self.state();
                state.cluster = cluster;
                state.hear(index, Line::Live, now);
                state.replace(source, index, reason, position, records, entries, now);
                Vec::new()
            }
            SourceEvent::Delta { position, changes } => {
                let decoded: Vec<_> = changes
                    .into_iter()
                    .map(|change| match change {
                        EntryChange::Put(entry) => Decoding::Put(Arc::new(record(source, &entry)), entry.value),
                        EntryChange::Delete { key, .. } => Decoding::Delete(key_text(&key).into_owned()),
                    })
                    .collect();
                let mut state = self.state();
                let line = state.sources[index].line;
                state.hear(index, line, now);
                state.change(source, index, position, decoded, now)
            }
            SourceEvent::Progress(position) => {
                let mut state = self.state();
                state.hear(index, Line::Live, now);
                state.advance(source, index, position);
                Vec::new()
            }
            SourceEvent::Unchanged(position) => {
                let mut state = self.state();
                state.hear(index, Line::Live, now);
                state.advance(source, index, position);
                state.ring.pass_over(index, position);
                Vec::new()
            }
            SourceEvent::Opened => {
                let mut state = self.state();
                let line = match state.sources[index].line {
                    Line::Live => Line::Live,
                    Line::CatchingUp | Line::Refused | Line::Lost => Line::CatchingUp,
                };
                if line != Line::Live {
                    // Leases begin anew with a new leader: what was known of them before the break says nothing.
                    state.leases.ask_all(now);
                }
                state.hear(index, line, now);
                Vec::new()
            }
            SourceEvent::Heard => {
                let mut state = self.state();
                state.hear(index, Line::Live, now);
                Vec::new()
            }
        };
        self.update_status(now);
        self.wake_readers();
        left
    }

    /// Takes in that the watcher of source number `index` failed.
    pub fn fail(&self, index: usize, error: &WatchError) {
        let line = match error.source {
            SourceError::Canceled(_) => Line::Refused,
            SourceError::Request(ref error) if !rollcall_registry::etcd::lease::is_member_failure(error) => {
                Line::Refused
            }
            _ => Line::Lost,
        };
        self.state().sources[index].line = line;
        self.update_status(Instant::now());
    }

    /// Takes in what became known of deletes.
    pub fn tell_causes(self: &Arc<Self>, causes: Vec<(String, Cause)>) {
        {
            let mut state = self.state();
            for (service, cause) in causes {
                let source = source_of(&self.sources, &cause.key);
                if let Some(index) = self.sources.iter().position(|known| Some(known) == source) {
                    let of = state.sources[index].explain(&cause.key, cause.revision);
                    state.ring.push_cause(index, service, cause, of);
                }
            }
        }
        self.wake_readers();
    }

    /// Asks each source's clock how it is. Called often enough that silence shows in time.
    pub fn update_status(&self, now: Instant) {
        let (etcd, fresh_at, ready) = {
            let state = self.state();
            (state.etcd(now), state.fresh_at(), state.sources.iter().all(|source| source.position.is_some()))
        };
        self.histories.forget(now);
        self.ready.send_if_modified(|known| ready && !std::mem::replace(known, true));
        self.status.send_if_modified(|status| {
            status.fresh_at = fresh_at.max(status.fresh_at);
            let changed = status.etcd != etcd;
            if changed {
                *status = Status { etcd, since: now, fresh_at: status.fresh_at };
            }
            changed
        });
    }

    /// Lets readers know of new frames: at once where they have rested long enough, else as soon as they have.
    fn wake_readers(self: &Arc<Self>) {
        let wake = {
            let mut state = self.state();
            let end = state.ring.end();
            let wake = state.pace.wake(end, Instant::now());
            let told_until = state.pace.told_until();
            state.ring.tell(told_until);
            wake
        };
        match wake {
            Wake::Not => {}
            Wake::Now(end) => drop(self.tail.send_replace(end)),
            Wake::At(at) => {
                let mirror = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep_until(at).await;
                    let end = {
                        let mut state = mirror.state();
                        let end = state.ring.end();
                        state.ring.tell(end);
                        state.pace.woken(end, Instant::now())
                    };
                    mirror.tail.send_replace(end);
                });
            }
        }
    }

    /// Takes in how long it took to tell `frames` to all who follow together.
    pub fn told_in(&self, took: Duration, frames: usize) {
        self.state().pace.told_in(took, frames);
    }

    /// Up to where readers may read.
    pub fn told_until(&self) -> u64 {
        self.state().pace.told_until()
    }

    /// The record that `entry` makes; `None` where no source has its key.
    pub fn decode(&self, entry: &Entry) -> Option<Record> {
        let source = self.source_of(&key_text(&entry.key))?;
        Some(record(source, entry))
    }

    /// Looks at the catalog, with the cursor of that very moment. Keep `look` short: it holds the lock.
    pub fn view<T>(&self, look: impl FnOnce(&Catalog) -> T) -> View<T> {
        let state = self.state();
        let found = look(&state.catalog);
        View { found, cursor: state.cursor(), revisions: state.catalog.revisions().clone() }
    }

    /// The value under `key`, as it stands in etcd.
    pub fn value(&self, key: &str) -> Option<Bytes> {
        self.state().values.get(key).cloned()
    }

    /// Works on the leases' book. Keep it short: it holds the lock.
    pub fn leases<T>(&self, work: impl FnOnce(&mut LeaseBook) -> T) -> T {
        work(&mut self.state().leases)
    }

    /// The leases of what `services` selects (all, where empty).
    pub fn selected_leases(&self, services: &HashSet<String>) -> Vec<(LeaseId, LeaseSample)> {
        let state = self.state();
        if services.is_empty() {
            return state.leases.samples().collect();
        }
        let leases: HashSet<LeaseId> = services
            .iter()
            .filter_map(|service| state.catalog.service(service))
            .flat_map(|records| records.values().filter_map(|record| record.lease))
            .collect();
        leases.into_iter().filter_map(|lease| Some((lease, state.leases.sample(lease)?))).collect()
    }

    /// What stands in the ring from `position` on, as far as readers may read.
    pub fn read(&self, position: u64, bytes_max: usize) -> Reading {
        self.read_until(position, u64::MAX, bytes_max)
    }

    /// The same, before `until`.
    pub fn read_until(&self, position: u64, until: u64, bytes_max: usize) -> Reading {
        let state = self.state();
        state.ring.read(position, until.min(state.pace.told_until()), bytes_max)
    }

    /// Whether the next frame of each source goes on from what a reader at `position` was told.
    pub fn continues(&self, position: u64, told: &[Revision]) -> bool {
        let state = self.state();
        let mut sources = state.sources.iter().zip(told).enumerate();
        sources
            .all(|(index, (source, told))| *told >= state.ring.after_at(index, position).unwrap_or(source.changed_at))
    }

    /// The oldest position that can still be read, and the end.
    pub fn ring_bounds(&self) -> (u64, u64) {
        let state = self.state();
        (state.ring.start(), state.ring.end())
    }

    /// The bytes that the ring holds.
    pub fn ring_bytes(&self) -> usize {
        self.state().ring.bytes()
    }

    /// Where each source stands for a subscriber at `position`, who has read all before it; `None` where that has left
    /// the ring.
    pub fn positions_at(&self, position: u64) -> Option<Vec<SourcePosition>> {
        let state = self.state();
        let now = state.positions()?;
        if position < state.ring.start() {
            return None;
        }
        match state.ring.next_change(position) {
            None => Some(now),
            // What its id says of the other sources, and no more: ids do not go back.
            Some(next) => {
                let cursor = Cursor::decode(&next.cursor).expect("it was encoded here");
                let there = state.sources.iter().map(|source| cursor.sources.get(&source.id).copied());
                let mut positions = there.collect::<Option<Vec<_>>>()?;
                positions[next.source] = state.ring.position_before(next.source, next.sequence);
                Some(positions)
            }
        }
    }
}

enum Decoding {
    Put(Arc<Record>, Bytes),
    Delete(String),
}

impl SourceState {
    /// Takes in that it became known why `key` left at `revision`, and says which delete that is.
    fn explain(&mut self, key: &str, revision: Revision) -> Deleted {
        let oldest = self.unexplained.keys().next().map_or(self.epoch, |deleted| deleted.epoch);
        for epoch in oldest..=self.epoch {
            let deleted = Deleted { epoch, revision };
            if let Some(keys) = self.unexplained.get_mut(&deleted)
                && keys.remove(key)
            {
                if keys.is_empty() {
                    self.unexplained.remove(&deleted);
                }
                return deleted;
            }
        }
        Deleted { epoch: self.epoch, revision }
    }
}

impl State {
    fn hear(&mut self, index: usize, line: Line, now: Instant) {
        self.sources[index].line = line;
        if line == Line::Live {
            self.sources[index].heard_at = Some(now);
        }
    }

    fn etcd(&self, now: Instant) -> EtcdState {
        if self.sources.iter().any(|source| source.line == Line::Lost) {
            return EtcdState::Unreachable;
        }
        let live = self.sources.iter().all(|source| {
            source.line == Line::Live && source.heard_at.is_some_and(|at| now.duration_since(at) <= STALE_AFTER)
        });
        if live { EtcdState::Live } else { EtcdState::Stale }
    }

    /// When the source that was heard of longest ago was heard of; `None` where one never was.
    fn fresh_at(&self) -> Option<Instant> {
        self.sources.iter().map(|source| source.heard_at).min().flatten()
    }

    fn cursor(&self) -> String {
        let sources = self.sources.iter().filter_map(|source| Some((source.id, source.position?))).collect();
        Cursor { cluster: self.cluster, sources }.encode()
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one event, taken apart outside the lock")]
    fn replace(
        &mut self,
        source: &SourceConfig,
        index: usize,
        reason: SnapshotReason,
        position: SourcePosition,
        records: Vec<Arc<Record>>,
        entries: Vec<Entry>,
        now: Instant,
    ) {
        let name = source.prefix.as_str().to_owned();
        let revisions = BTreeMap::from([(name, position.revision)]);
        let event = RegistryEvent::Snapshot(Snapshot {
            reason,
            revisions: revisions.clone(),
            records: records.clone(),
            part: 0,
            more: false,
        });
        let changes = self.catalog.apply(&event).expect("a snapshot in one part fits onto anything");
        for change in &changes {
            // What a snapshot finds gone left while nobody looked: no event of etcd tells when, and no cause is sought.
            if let Change::Delete(departure) = change {
                self.values.remove(&departure.key);
            }
        }
        self.values.extend(entries.into_iter().map(|entry| (key_text(&entry.key).into_owned(), entry.value)));
        self.leases.recount(self.catalog.records().filter_map(|record| record.lease), now);
        let state = &mut self.sources[index];
        let first = state.position.is_none();
        state.position = Some(position);
        state.changed_at = position.revision;
        state.epoch += 1;
        let Some(positions) = self.positions() else { return };
        if first {
            self.ring.begin(positions);
        } else {
            let cursor = self.cursor();
            self.ring.push(index, position, FrameKind::Replaced { reason, records: records.into(), revisions }, cursor);
        }
    }

    /// Where each source stands; `None` until every one does.
    fn positions(&self) -> Option<Vec<SourcePosition>> {
        self.sources.iter().map(|source| source.position).collect()
    }

    fn change(
        &mut self,
        source: &SourceConfig,
        index: usize,
        position: SourcePosition,
        changes: Vec<Decoding>,
        now: Instant,
    ) -> Vec<Left> {
        let told_live = self.sources[index].line == Line::Live;
        let deleted = Deleted { epoch: self.sources[index].epoch, revision: position.revision };
        let mut left = Vec::new();
        let mut moved = Vec::new();
        let changes: Vec<Change> = changes
            .into_iter()
            .filter_map(|change| match change {
                Decoding::Put(record, value) => {
                    let before = self.catalog.get(&record.key).cloned();
                    let before_lease = before.as_ref().and_then(|before| before.lease);
                    if before_lease != record.lease || before.is_none() {
                        if let Some(lease) = record.lease {
                            self.leases.hold(lease, now);
                        }
                        if let Some(lease) = before_lease {
                            self.leases.release(lease);
                        }
                    }
                    self.values.insert(record.key.clone(), value);
                    if let Some(before) = before
                        && before.service != record.service
                    {
                        moved.push(before);
                    }
                    Some(Change::Put(record))
                }
                Decoding::Delete(key) => {
                    let last = Arc::clone(self.catalog.get(&key)?);
                    self.values.remove(&key);
                    let before = last.lease.and_then(|lease| self.leases.sample(lease));
                    if let Some(lease) = last.lease {
                        self.leases.release(lease);
                    }
                    self.sources[index].unexplained.entry(deleted).or_default().insert(key.clone());
                    left.push(Left {
                        key: key.clone(),
                        service: last.service.clone(),
                        revision: position.revision,
                        lease: last.lease,
                        before,
                        seen_at: now,
                        told_live,
                    });
                    Some(Change::Delete(Departure { key, service: last.service.clone(), last }))
                }
            })
            .collect();
        let after = self.sources[index].changed_at;
        let delta = Delta { source: source.prefix.as_str().to_owned(), after, revision: position.revision, changes };
        let event = RegistryEvent::Delta(delta);
        self.catalog.apply(&event).expect("the watcher tells deltas in order, after a snapshot");
        let RegistryEvent::Delta(delta) = event else { unreachable!("it was made a delta two lines above") };
        self.sources[index].position = Some(position);
        if delta.changes.is_empty() {
            return left;
        }
        self.sources[index].changed_at = position.revision;
        if self.positions().is_none() {
            // Nobody reads before every source stands.
            return left;
        }
        let cursor = self.cursor();
        self.ring.push(index, position, FrameKind::Changed { delta: Arc::new(delta), moved }, cursor);
        left
    }

    fn advance(&mut self, source: &SourceConfig, index: usize, position: SourcePosition) {
        let revisions = BTreeMap::from([(source.prefix.as_str().to_owned(), position.revision)]);
        self.catalog.apply(&RegistryEvent::Progress(Progress { revisions })).expect("progress fits onto anything");
        self.sources[index].position = Some(position);
    }
}

/// The record that `entry` of `source` makes.
fn record(source: &SourceConfig, entry: &Entry) -> Record {
    let key = key_text(&entry.key);
    let (service, decoded, warning) = match &key {
        std::borrow::Cow::Borrowed(key) => {
            let entry = source.layout.decode(&source.prefix, key, &entry.value);
            (entry.service, entry.decoded, entry.warning)
        }
        std::borrow::Cow::Owned(key) => {
            let rest = key.strip_prefix(source.prefix.as_str()).unwrap_or(key);
            let service = rest.rsplit_once('/').map_or(rest, |(service, _)| service).to_owned();
            let raw = Raw::from(&*entry.value);
            (service, Decoded::Malformed { why: "the key is no UTF-8".to_owned(), raw }, None)
        }
    };
    Record {
        key: key.into_owned(),
        source: source.prefix.as_str().to_owned(),
        layout: source.layout,
        service,
        lease: LeaseId::from_etcd(entry.lease),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        decoded,
        warning,
    }
}

/// The source that has `key`: of overlapping prefixes the longest.
pub fn source_of<'a>(sources: &'a [SourceConfig], key: &str) -> Option<&'a SourceConfig> {
    sources.iter().filter(|source| source.prefix.holds(key)).max_by_key(|source| source.prefix.as_str().len())
}

/// A key as text; what is no UTF-8 stands as `\xNN`.
pub fn key_text(key: &[u8]) -> std::borrow::Cow<'_, str> {
    match str::from_utf8(key) {
        Ok(text) => text.into(),
        Err(_) => key
            .utf8_chunks()
            .flat_map(|chunk| {
                let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
                std::iter::once(chunk.valid().to_owned()).chain(invalid)
            })
            .collect::<String>()
            .into(),
    }
}

#[cfg(test)]
mod tests;
