//! What readers missed whose cursors are older than the ring, read from etcd's own history: once for all who come with
//! the same cursor.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use rollcall_registry::etcd::{
    connect::Connection,
    entry::EntryChange,
    source::{EtcdSource, Source},
    watcher::{self, HistoryError},
};
use rollcall_shared::{Change, Delta, Departure, KeyPrefix, Record, Revision, SnapshotReason, SourcePosition};
use tokio::{
    sync::{Mutex, OnceCell, Semaphore},
    time::timeout,
};

use super::{Mirror, SourceConfig, frame::FrameKind, key_text, record};

/// How many histories are kept for those who come with the same cursor.
const HISTORIES_MAX: usize = 16;

/// How many histories are read at the same time.
const READS_MAX: usize = 2;

/// How long etcd may take to say at which revision it stands.
const STORE_REVISION_TIMEOUT: Duration = Duration::from_secs(2);

/// etcd, as far as readers who come back need it.
pub trait Past: Clone + Send + Sync + 'static {
    /// A prefix of it.
    type Source: Source;

    /// The source of `prefix`, less what the longer ones of `all` hold.
    fn source(&self, prefix: &KeyPrefix, all: &[KeyPrefix]) -> Self::Source;

    /// The revision at which etcd itself stands; `None` where it does not say.
    fn store_revision(&self) -> impl Future<Output = Option<Revision>> + Send;
}

impl Past for Connection {
    type Source = EtcdSource;

    fn source(&self, prefix: &KeyPrefix, all: &[KeyPrefix]) -> EtcdSource {
        EtcdSource::new(self.clone(), prefix.clone(), all)
    }

    async fn store_revision(&self) -> Option<Revision> {
        let client = self.client().await.ok()?;
        let options = etcd_client::GetOptions::new().with_count_only();
        let mut kv = client.kv();
        let asking = kv.get("\0", Some(options));
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

/// What was missed, or why it cannot be told.
pub type Told = Result<Arc<[Missed]>, SnapshotReason>;

type Key = (usize, SourcePosition, SourcePosition);

/// The histories that were read lately.
pub struct Histories {
    told: Mutex<HashMap<Key, Arc<OnceCell<Option<Told>>>>>,
    reads: Semaphore,
}

impl Default for Histories {
    fn default() -> Self {
        Self { told: Mutex::default(), reads: Semaphore::new(READS_MAX) }
    }
}

impl Mirror {
    /// What happened in source number `source` after `known`, up to where the ring knows it (up to now where
    /// the ring ought to know, and does not), and that position; `None`
    /// where etcd cannot be asked now.
    pub async fn missed(
        &self,
        past: &impl Past,
        source: usize,
        known: SourcePosition,
    ) -> Option<(Told, SourcePosition)> {
        let until = {
            let state = self.state();
            let since = state.ring.known_since(source);
            if known.revision < since.revision { since } else { state.sources[source].position? }
        };
        let key = (source, known, until);
        let cell = {
            let mut told = self.histories.told.lock().await;
            if told.len() >= HISTORIES_MAX && !told.contains_key(&key) {
                told.clear();
            }
            Arc::clone(told.entry(key).or_default())
        };
        let told = cell.get_or_init(|| self.read_history(past, key)).await.clone();
        if told.is_none() {
            // It failed in passing: the next one who asks tries again.
            self.histories.told.lock().await.remove(&key);
        }
        Some((told?, until))
    }

    /// Whether `known` is of etcd's present history; `None` where that cannot be told now.
    pub async fn is_of_history(&self, past: &impl Past, source: usize, known: SourcePosition) -> Option<bool> {
        match self.read_history(past, (source, known, known)).await? {
            Ok(_) => Some(true),
            Err(SnapshotReason::Restored) => Some(false),
            Err(_) => None,
        }
    }

    async fn read_history(&self, past: &impl Past, (index, known, until): Key) -> Option<Told> {
        let _place = self.histories.reads.acquire().await.expect("the semaphore is never closed");
        let config = &self.sources[index];
        let prefixes: Vec<KeyPrefix> = self.sources.iter().map(|source| source.prefix.clone()).collect();
        let source = past.source(&config.prefix, &prefixes);
        match Box::pin(watcher::history(source, known, until)).await {
            Ok(history) => Some(Ok(decode(config, known, history))),
            Err(HistoryError::Compacted) => Some(Err(SnapshotReason::Compacted)),
            Err(HistoryError::Other) => Some(Err(SnapshotReason::Restored)),
            Err(HistoryError::TooMuch) => Some(Err(SnapshotReason::Lagged)),
            Err(HistoryError::Source(error)) => {
                tracing::debug!(source = %config.prefix, %error, "history could not be read");
                None
            }
        }
    }
}

fn decode(source: &SourceConfig, known: SourcePosition, history: watcher::History) -> Arc<[Missed]> {
    let mut view: BTreeMap<String, Arc<Record>> =
        history.base.iter().map(|entry| (key_text(&entry.key).into_owned(), Arc::new(record(source, entry)))).collect();
    let mut after = known.revision;
    let deltas = history.deltas.into_iter().map(|(position, changes)| {
        let mut moved = Vec::new();
        let changes = changes.into_iter().filter_map(|change| match change {
            EntryChange::Put(entry) => {
                let record = Arc::new(record(source, &entry));
                let before = view.insert(record.key.clone(), Arc::clone(&record));
                moved.extend(before.filter(|before| before.service != record.service));
                Some(Change::Put(record))
            }
            EntryChange::Delete { key, .. } => {
                let key = key_text(&key).into_owned();
                let last = view.remove(&key)?;
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
    deltas.collect()
}
