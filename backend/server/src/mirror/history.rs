//! What readers missed whose cursors are older than the ring, read from etcd's own history: once for all who come
//! together, whatever their cursors are.
//!
//! A reading begins at the oldest of the cursors that wait, and the digests on its way judge each of the others. Owns
//! the readings and what is kept of them. Must not know what a reader is sent of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rollcall_registry::etcd::{
    connect::Connection,
    entry::{Entry, EntryChange},
    source::{EtcdSource, Source},
    watcher::{self, HISTORY_CHANGES_MAX, History, HistoryError, Limits},
};
use rollcall_shared::{Change, Delta, Departure, KeyPrefix, Record, Revision, SnapshotReason, SourcePosition};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{Mirror, SourceConfig, frame::FrameKind, key_text, record};

/// How many bytes the histories that are kept may take, over all sources, roughly.
pub const HISTORIES_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long a history is kept after somebody asked for it.
const KEPT: Duration = Duration::from_secs(30);

/// How many histories are read at the same time.
const READS_MAX: usize = 2;

/// How long a reading waits for others that come at the same time.
const GATHERING: Duration = Duration::from_millis(20);

/// What a change costs in memory beside its key and value, and how often these stand there once they are decoded.
const CHANGE_OVERHEAD_BYTES: usize = 1024;
const CHANGE_COPIES: usize = 3;

/// How long etcd may take to say at which revision it stands.
const STORE_REVISION_TIMEOUT: Duration = Duration::from_secs(2);

/// etcd, as far as readers who come back need it.
pub trait Past: Clone + Send + Sync + 'static {
    /// A prefix of it.
    type Source: Source;

    /// The source of `prefix`, less what the longer ones of `all` hold.
    fn source(&self, prefix: &KeyPrefix, all: &[KeyPrefix]) -> Self::Source;

    /// The revision at which etcd itself stands, asked at `prefix`, which may be read; `None` where it does not say.
    fn store_revision(&self, prefix: &KeyPrefix) -> impl Future<Output = Option<Revision>> + Send;
}

impl Past for Connection {
    type Source = EtcdSource;

    fn source(&self, prefix: &KeyPrefix, all: &[KeyPrefix]) -> EtcdSource {
        EtcdSource::new(self.clone(), prefix.clone(), all)
    }

    async fn store_revision(&self, prefix: &KeyPrefix) -> Option<Revision> {
        let client = self.client().await.ok()?;
        let options = etcd_client::GetOptions::new().with_count_only();
        let mut kv = client.kv();
        let asking = kv.get(prefix.as_str(), Some(options));
        let answer = timeout(STORE_REVISION_TIMEOUT, asking).await.ok()?.ok()?;
        answer.header().map(etcd_client::ResponseHeader::revision)
    }
}

/// What one revision changed.
#[derive(Debug)]
pub struct Missed {
    /// Where the source stands after it.
    pub position: SourcePosition,
    /// What it changed.
    pub kind: FrameKind,
}

/// A piece of a source's history.
#[derive(Debug)]
pub struct Roll {
    /// Since when the ring had no snapshot of the source when it was read.
    epoch: u64,
    from: SourcePosition,
    missed: Vec<Missed>,
    end: SourcePosition,
    /// It goes as far as it was to, and not only as far as fits into memory.
    whole: bool,
}

impl Roll {
    /// How many snapshots of the source had come when it was read.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Up to where it goes.
    pub fn end(&self) -> SourcePosition {
        self.end
    }

    /// Whether it goes as far as it was to, and not only as far as fits into memory.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it tells that `key` was deleted at `revision`.
    pub fn has_delete(&self, key: &str, revision: Revision) -> bool {
        let there = self.missed.binary_search_by_key(&revision, |missed| missed.position.revision);
        let Ok(there) = there else { return false };
        let FrameKind::Changed { delta, .. } = &self.missed[there].kind else { return false };
        delta.changes.iter().any(|change| matches!(change, Change::Delete(departure) if departure.key == key))
    }

    /// What it tells from the place `next` on.
    pub fn missed_from(&self, next: usize) -> &[Missed] {
        self.missed.get(next..).unwrap_or_default()
    }

    /// What it has for a reader that knows the source as of `known`; `None` where that lies outside of it.
    fn tells(self: &Arc<Self>, known: SourcePosition) -> Option<Told> {
        let within = if self.whole { known.revision <= self.end.revision } else { known.revision < self.end.revision };
        if !within || known.revision < self.from.revision {
            return None;
        }
        let next = self.missed.partition_point(|missed| missed.position.revision <= known.revision);
        let there = next.checked_sub(1).map_or(self.from, |last| self.missed[last].position);
        Some(if there.digest == known.digest {
            Told::Missed { roll: Arc::clone(self), next }
        } else {
            Told::Gone(SnapshotReason::Restored)
        })
    }
}

/// What was missed, or why it cannot be told.
#[derive(Debug, Clone)]
pub enum Told {
    /// It stands in the roll, from this place on.
    Missed {
        /// Where it stands.
        roll: Arc<Roll>,
        /// The first place that the reader does not know.
        next: usize,
    },
    /// What was missed is gone, and the view is the reader's own: it goes on from this position.
    Same(SourcePosition),
    /// It cannot be told, for this reason.
    Gone(SnapshotReason),
}

/// What a cursor is that is ahead of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Of etcd's history: what stands there will come here, too.
    OfHistory,
    /// Of another history.
    Restored,
    /// Of a revision that is compacted, and of another view than the present one.
    Compacted,
}

/// Those who wait for the answers of one reading after the other: each is told as soon as its own is known.
struct Answering<A>(Mutex<HashMap<SourcePosition, Vec<oneshot::Sender<A>>>>);

impl<A: Clone> Answering<A> {
    fn tell(&self, known: SourcePosition, answer: &A) {
        for waiting in lock(&self.0).remove(&known).unwrap_or_default() {
            // Where nobody waits for it any more, its reader has gone.
            drop(waiting.send(answer.clone()));
        }
    }
}

/// Readers with the same question about one source, who are answered together.
struct Meeting<A> {
    waiting: Mutex<Vec<(SourcePosition, oneshot::Sender<A>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl<A> Default for Meeting<A> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }
}

impl<A: Clone> Meeting<A> {
    /// The answer for `known`. The first who comes asks for all who come meanwhile; `None` where it went away, or got
    /// no answer.
    async fn ask<F: Future<Output = ()>>(
        &self,
        known: SourcePosition,
        ask_for: impl FnOnce(Vec<SourcePosition>, Arc<Answering<A>>) -> F,
    ) -> Option<A> {
        let (answer, mut answered) = oneshot::channel();
        lock(&self.waiting).push((known, answer));
        let _turn = self.turn.lock().await;
        match answered.try_recv() {
            Ok(answer) => return Some(answer),
            Err(oneshot::error::TryRecvError::Closed) => return None,
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        sleep(GATHERING).await;
        let mut waiting: HashMap<_, Vec<_>> = HashMap::new();
        for (known, answer) in std::mem::take(&mut *lock(&self.waiting)) {
            if !answer.is_closed() {
                waiting.entry(known).or_default().push(answer);
            }
        }
        let mut asked: Vec<SourcePosition> = waiting.keys().copied().collect();
        asked.sort_by_key(|known| (known.revision, known.digest.0));
        ask_for(asked, Arc::new(Answering(Mutex::new(waiting)))).await;
        answered.try_recv().ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What readers ask of one source.
#[derive(Default)]
struct OfSource {
    older: Meeting<Told>,
    ahead: Meeting<Ahead>,
    /// The last history that was read, and when somebody wanted it.
    kept: Mutex<Option<(Arc<Roll>, Instant)>>,
}

/// The histories that are being read or were lately.
pub struct Histories {
    sources: Mutex<HashMap<usize, Arc<OfSource>>>,
    reads: Semaphore,
    bytes_max: usize,
}

impl Default for Histories {
    fn default() -> Self {
        Self { sources: Mutex::default(), reads: Semaphore::new(READS_MAX), bytes_max: HISTORIES_BYTES_MAX }
    }
}

impl Histories {
    fn of(&self, source: usize) -> Arc<OfSource> {
        Arc::clone(lock(&self.sources).entry(source).or_default())
    }

    /// Lets go what nobody has wanted for long.
    pub fn forget(&self, now: Instant) {
        for of_source in lock(&self.sources).values() {
            lock(&of_source.kept).take_if(|(_, wanted_at)| now.duration_since(*wanted_at) > KEPT);
        }
    }
}

impl Mirror {
    /// The same, with so many bytes of histories kept.
    #[cfg(test)]
    pub(crate) fn with_histories_bytes(mut self, bytes_max: usize) -> Self {
        self.histories.bytes_max = bytes_max;
        self
    }

    /// What happened in source number `source` after `known`, as far as the ring does not know it; `None` where that
    /// cannot be told now.
    pub async fn missed(&self, past: &impl Past, source: usize, known: SourcePosition) -> Option<Told> {
        let of_source = self.histories.of(source);
        if let Some(told) = self.kept(&of_source, source, known) {
            return Some(told);
        }
        of_source
            .older
            .ask(known, |asked, answering| self.read_missed(past, source, &of_source, asked, answering))
            .await
    }

    /// What the history that was read last has for `known`.
    fn kept(&self, of_source: &OfSource, source: usize, known: SourcePosition) -> Option<Told> {
        let mut kept = lock(&of_source.kept);
        let (roll, wanted_at) = kept.as_mut()?;
        // A snapshot since may mean another history.
        let leads_on = |next: usize| next < roll.missed.len() || self.ring_after(source, roll.end).is_some();
        if roll.epoch != self.epoch(source) {
            *kept = None;
            return None;
        }
        let told = roll.tells(known)?;
        if let Told::Missed { next, .. } = told
            && !leads_on(next)
        {
            return None;
        }
        *wanted_at = Instant::now();
        Some(told)
    }

    /// Answers `asked`, which are sorted: one reading after the other, where one does not hold them all. Whoever is newer
    /// than the first one's end would else wait for as long as somebody with an old cursor comes.
    async fn read_missed(
        &self,
        past: &impl Past,
        index: usize,
        of_source: &OfSource,
        mut asked: Vec<SourcePosition>,
        answering: Arc<Answering<Told>>,
    ) {
        let source = self.past_source(past, index);
        while let (Some(oldest), Some(newest)) = (asked.first().copied(), asked.last().copied()) {
            let _place = self.histories.reads.acquire().await.expect("the semaphore is never closed");
            let Some((epoch, until)) = self.until(index, newest) else { break };
            match watcher::history(&source, oldest.revision, until, self.limits()).await {
                Ok(history) => {
                    let config = self.sources[index].clone();
                    let whole = history.end == until;
                    let decoding = tokio::task::spawn_blocking(move || decode(&config, history, epoch, whole));
                    let roll = decoding.await.expect("decoding does not panic, and the runtime outlives its readers");
                    let roll = Arc::new(roll);
                    *lock(&of_source.kept) = Some((Arc::clone(&roll), Instant::now()));
                    let count = asked.len();
                    asked.retain(|known| match roll.tells(*known) {
                        Some(told) => {
                            answering.tell(*known, &told);
                            false
                        }
                        None => true,
                    });
                    if whole || asked.len() == count {
                        break;
                    }
                }
                Err(HistoryError::Compacted) => {
                    let compacted = compacted_below(&source, oldest).await;
                    asked.retain(|known| {
                        let gone = known.revision < compacted;
                        if gone {
                            let told = if known.digest == until.digest {
                                Told::Same(until)
                            } else {
                                Told::Gone(SnapshotReason::Compacted)
                            };
                            answering.tell(*known, &told);
                        }
                        !gone
                    });
                }
                Err(HistoryError::Other) => {
                    // Either these cursors are of another history than etcd's, or what stands here is: then they wait
                    // until that has been noticed, since a snapshot would be of the history that is gone.
                    if !self.is_of_etcd(&source, index).await {
                        break;
                    }
                    for known in asked.drain(..) {
                        answering.tell(known, &Told::Gone(SnapshotReason::Restored));
                    }
                }
                Err(HistoryError::Source(error)) => {
                    tracing::debug!(source = %self.sources[index].prefix, %error, "history could not be read");
                    break;
                }
            }
        }
    }

    /// Whether what stands here of source number `index` is what stood in etcd at that revision.
    async fn is_of_etcd(&self, source: &impl Source, index: usize) -> bool {
        let Some(now) = self.state().sources[index].position else { return false };
        watcher::position_at(source, now.revision).await.is_ok_and(|there| there.digest == now.digest)
    }

    /// Up to where history is to be read: to where the ring knows it, or to now where the ring ought to know `newest`,
    /// and does not.
    fn until(&self, source: usize, newest: SourcePosition) -> Option<(u64, SourcePosition)> {
        let state = self.state();
        let since = state.ring.known_since(source);
        let until = if newest.revision < since.revision { since } else { state.sources[source].position? };
        Some((state.sources[source].epoch, until))
    }

    /// How much of a history is read at once: every source may keep as much.
    fn limits(&self) -> Limits {
        let bytes_max = self.histories.bytes_max / self.sources.len().max(1);
        Limits {
            changes_max: HISTORY_CHANGES_MAX.min(bytes_max / 2 / CHANGE_OVERHEAD_BYTES),
            bytes_max: bytes_max / 2 / CHANGE_COPIES,
        }
    }

    fn past_source<P: Past>(&self, past: &P, index: usize) -> P::Source {
        let prefixes: Vec<KeyPrefix> = self.sources.iter().map(|source| source.prefix.clone()).collect();
        past.source(&self.sources[index].prefix, &prefixes)
    }

    /// What `known` is, which lies ahead of this server; `None` where that cannot be told now.
    pub async fn ahead(&self, past: &impl Past, source: usize, known: SourcePosition) -> Option<Ahead> {
        let of_source = self.histories.of(source);
        of_source.ahead.ask(known, |asked, answering| self.judge_ahead(past, source, asked, answering)).await
    }

    async fn judge_ahead(
        &self,
        past: &impl Past,
        index: usize,
        mut asked: Vec<SourcePosition>,
        answering: Arc<Answering<Ahead>>,
    ) {
        let _place = self.histories.reads.acquire().await.expect("the semaphore is never closed");
        let Some(etcd) = past.store_revision(&self.sources[index].prefix).await else { return };
        asked.retain(|known| {
            // etcd itself has not come so far.
            let future = known.revision > etcd;
            if future {
                answering.tell(*known, &Ahead::Restored);
            }
            !future
        });
        let source = self.past_source(past, index);
        if let Err(error) = self.judge_by_history(&source, index, asked, &answering).await {
            tracing::debug!(source = %self.sources[index].prefix, %error, "history could not be read");
        }
    }

    async fn judge_by_history(
        &self,
        source: &impl Source,
        index: usize,
        mut asked: Vec<SourcePosition>,
        answering: &Answering<Ahead>,
    ) -> Result<(), HistoryError> {
        let judge = |of_history| if of_history { Ahead::OfHistory } else { Ahead::Restored };
        while let (Some(oldest), Some(newest)) = (asked.first().copied(), asked.last().copied()) {
            let reading = async {
                let until = watcher::position_at(source, newest.revision).await?;
                if oldest.revision == newest.revision {
                    return Ok(History { from: until, base: Vec::new(), deltas: Vec::new(), end: until });
                }
                watcher::history(source, oldest.revision, until, self.limits()).await
            };
            match Box::pin(reading).await {
                Ok(history) => {
                    let count = asked.len();
                    asked.retain(|known| {
                        let within = known.revision <= history.end.revision;
                        if within {
                            let next = history.deltas.partition_point(|(at, _)| at.revision <= known.revision);
                            let there = next.checked_sub(1).map_or(history.from, |last| history.deltas[last].0);
                            answering.tell(*known, &judge(there.digest == known.digest));
                        }
                        !within
                    });
                    if asked.len() == count {
                        return Ok(());
                    }
                }
                Err(HistoryError::Compacted) => {
                    let compacted = compacted_below(source, oldest).await;
                    let now = watcher::position_now(source).await?;
                    let Some(here) = self.position(index) else { return Ok(()) };
                    asked.retain(|known| {
                        let gone = known.revision < compacted;
                        if gone && here.digest == known.digest {
                            answering.tell(*known, &Ahead::OfHistory);
                        } else if gone && here.digest == now.digest {
                            // Here stands what stands in etcd, and the way there from the cursor is gone.
                            answering.tell(*known, &Ahead::Compacted);
                        }
                        !gone
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn position(&self, source: usize) -> Option<SourcePosition> {
        self.state().sources[source].position
    }

    /// How many snapshots of `source` have replaced what was known.
    fn epoch(&self, source: usize) -> u64 {
        self.state().sources[source].epoch
    }
}

/// The revision below which all is compacted, `oldest` at the least.
async fn compacted_below(source: &impl Source, oldest: SourcePosition) -> Revision {
    let told = watcher::compacted_to(source, oldest.revision).await.ok().flatten();
    told.unwrap_or_default().max(oldest.revision + 1)
}

/// Makes records of what was read, of those keys alone that changed.
fn decode(source: &SourceConfig, history: History, epoch: u64, whole: bool) -> Roll {
    let base: HashMap<Bytes, Entry> = history.base.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let mut changed: BTreeMap<Bytes, Option<Arc<Record>>> = BTreeMap::new();
    let mut replace = |key: &Bytes, now: Option<Arc<Record>>| match changed.insert(key.clone(), now) {
        Some(before) => before,
        None => base.get(key).map(|entry| Arc::new(record(source, entry))),
    };
    let mut after = history.from.revision;
    let missed = history.deltas.into_iter().map(|(position, changes)| {
        let mut moved = Vec::new();
        let changes = changes.into_iter().filter_map(|change| match change {
            EntryChange::Put(entry) => {
                let record = Arc::new(record(source, &entry));
                let before = replace(&entry.key, Some(Arc::clone(&record)));
                moved.extend(before.filter(|before| before.service != record.service));
                Some(Change::Put(record))
            }
            EntryChange::Delete { key, .. } => {
                let last = replace(&key, None)?;
                let key = key_text(&key).into_owned();
                Some(Change::Delete(Departure { key, service: last.service.clone(), last }))
            }
        });
        let delta = Delta {
            source: source.prefix.as_str().to_owned(),
            after,
            changes: changes.collect(),
            revision: position.revision,
        };
        after = position.revision;
        Missed { position, kind: FrameKind::Changed { delta: Arc::new(delta), moved } }
    });
    Roll { epoch, from: history.from, missed: missed.collect(), end: history.end, whole }
}
