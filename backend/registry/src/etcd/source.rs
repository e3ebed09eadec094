//! One prefix of etcd as something that can be listed and watched: [`Source`], and [`EtcdSource`] that does it.
//!
//! Owns the translation of requests and of etcd's errors. Must not know what the watcher makes of them: it holds no
//! state between calls but how large a page had better be, so that a scripted source can stand in for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use etcd_client::{EventType, GetOptions, WatchOptions};
use rollcall_shared::{KeyPrefix, Revision};

use super::{
    connect::{ConnectError, Connection, EtcdClient, is_about_token, is_permission_denied},
    entry::{Entry, EntryChange},
};

/// How many keys the first page of a list holds, unless one failed. The next ones hold as many as 4 MiB take,
/// going by the page before: for each page etcd counts all keys of the prefix, so that small pages of a large prefix cost
/// it more than what is in them.
pub const PAGE_KEYS: i64 = 2_000;

/// How many keys a page may hold, at the least and at the most.
const PAGE_KEYS_BOUNDS: (i64, i64) = (100, 20_000);

/// How many times as many keys as the page before a page may hold: large values may follow small ones.
const PAGE_KEYS_GROWTH: i64 = 4;

/// How many keys a page may hold, at the least, however many have failed: of etcd's largest values, of 1.5 MiB, so many
/// are below the 1 GiB that an answer may take.
const PAGE_KEYS_FAILED_MIN: i64 = 500;

/// How many bytes of keys and values a page is to hold.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How long one page of a list may take, unless the connection has a limit of its own for all requests.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// etcd's cluster id.
    pub cluster: u64,
    /// The store's revision when the page was read.
    pub store_revision: Revision,
    /// The keys, sorted.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Bytes>,
}

/// One answer of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchAnswer {
    /// The watch stands.
    Created,
    /// Changes, sorted by revision.
    Changes {
        /// The changes.
        changes: Vec<EntryChange>,
        /// More of the last revision comes in the next answer.
        fragment: bool,
    },
    /// No change up to this revision will come any more, where progress can be trusted at this member.
    Progress(Revision),
}

/// What went wrong with a list or a watch.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The history at the revision asked for is gone.
    #[error("etcd has compacted its history up to revision {0}")]
    Compacted(Revision),
    /// The store has not come to the revision asked for: it was restored from a backup, or the member lags.
    #[error("the revision asked for is in etcd's future")]
    Future,
    /// The request failed.
    #[error("etcd: {}", super::connect::describe(.0))]
    Request(#[source] Box<etcd_client::Error>),
    /// etcd ended the watch.
    #[error("etcd ended the watch: {0}")]
    Canceled(String),
    /// The stream ended.
    #[error("the watch's stream ended")]
    Ended,
    /// No answer in time.
    #[error("etcd did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl From<etcd_client::Error> for SourceError {
    fn from(error: etcd_client::Error) -> Self {
        if let etcd_client::Error::GRpcStatus(status) = &error
            && status.code() == tonic::Code::OutOfRange
        {
            // `etcdserver: mvcc: required revision has been compacted` / `… is a future revision`. tonic says the same
            // code of a message that is too large.
            if status.message().contains("required revision has been compacted") {
                return Self::Compacted(0);
            }
            if status.message().contains("required revision is a future revision") {
                return Self::Future;
            }
        }
        Self::Request(Box::new(error))
    }
}

/// What can be listed and watched.
pub trait Source: Send + Sync {
    /// A watch that stands.
    type Watch: Watch;

    /// A page of the list: from `from` (the beginning where `None`), as of `at` (now where `None`).
    fn list(&self, from: Option<Bytes>, at: Option<Revision>)
    -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// A watch of everything from revision `from` on.
    fn watch(&self, from: Revision) -> impl Future<Output = Result<Self::Watch, SourceError>> + Send;
}

/// A watch that stands.
pub trait Watch: Send {
    /// The next answer. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<WatchAnswer, SourceError>> + Send;

    /// Asks for a [`WatchAnswer::Progress`], which comes once the watch has caught up.
    fn request_progress(&mut self) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Says that the watch has fallen silent, so that another member is tried next.
    fn blame(&self);

    /// Whether [`WatchAnswer::Progress`] proves that nothing is missing; else it only proves that the line lives.
    fn progress_is_proof(&self) -> bool;
}

/// A prefix of a real etcd. Each watch has a gRPC stream of its own: on a shared one, a slow watcher starves the
/// others' progress answers.
#[derive(Debug, Clone)]
pub struct EtcdSource {
    connection: Connection,
    prefix: KeyPrefix,
    /// Longer prefixes below this one, which own their keys.
    excluded: Vec<KeyPrefix>,
    page_keys: Arc<Mutex<PageKeys>>,
}

/// How many keys pages hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PageKeys {
    /// The next one of a list that has begun.
    next: i64,
    /// Any, since a larger one failed.
    max: i64,
}

impl Default for PageKeys {
    fn default() -> Self {
        Self { next: PAGE_KEYS, max: PAGE_KEYS_BOUNDS.1 }
    }
}

impl PageKeys {
    fn limit(self, first: bool) -> i64 {
        if first { PAGE_KEYS.min(self.max) } else { self.next }
    }

    /// Takes in that a page of up to `limit` held so many keys and bytes.
    fn read(&mut self, limit: i64, keys: usize, bytes: usize, more: bool) {
        if !more {
            // It may have failed for another reason, or what was large may be gone.
            self.max = (self.max * 2).min(PAGE_KEYS_BOUNDS.1);
        }
        let fit = PAGE_BYTES.saturating_mul(keys.max(1)) / bytes.max(1);
        let fit = i64::try_from(fit).unwrap_or(i64::MAX).clamp(PAGE_KEYS_BOUNDS.0, PAGE_KEYS_BOUNDS.1);
        self.next = fit.min(limit.saturating_mul(PAGE_KEYS_GROWTH)).min(self.max);
    }

    /// Takes in that a page of up to `limit` failed.
    fn failed(&mut self, limit: i64) {
        self.max = (limit / 2).max(PAGE_KEYS_FAILED_MIN).min(self.max);
        self.next = self.next.min(self.max);
    }
}

impl EtcdSource {
    /// The source of `prefix`, less what the longer ones of `all` hold.
    pub fn new(connection: Connection, prefix: KeyPrefix, all: &[KeyPrefix]) -> Self {
        let excluded = all
            .iter()
            .filter(|other| **other != prefix && other.as_str().starts_with(prefix.as_str()))
            .cloned()
            .collect();
        Self { connection, prefix, excluded, page_keys: Arc::default() }
    }

    fn owns(&self, key: &[u8]) -> bool {
        key.len() > self.prefix.as_str().len()
            && !self
                .excluded
                .iter()
                .any(|other| key.len() > other.as_str().len() && key.starts_with(other.as_str().as_bytes()))
    }

    fn page_keys(&self) -> MutexGuard<'_, PageKeys> {
        self.page_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in that a page of up to `limit` keys failed.
    fn page_failed(&self, client: &EtcdClient, limit: i64, error: SourceError) -> SourceError {
        if !matches!(error, SourceError::Compacted(_) | SourceError::Future) {
            self.page_keys().failed(limit);
        }
        self.failed(client, error)
    }

    /// Passes a failure on, and tells the connection of it where another member, or another token, may do better: not where
    /// who asks may not read this prefix, since others read others over the same connection.
    fn failed(&self, client: &EtcdClient, error: SourceError) -> SourceError {
        let is_for_cause = match &error {
            SourceError::Compacted(_) | SourceError::Future => true,
            SourceError::Request(error) => is_permission_denied(error),
            SourceError::Canceled(reason) => reason.contains("permission denied") && !is_about_token(reason),
            SourceError::Connect(_) | SourceError::Ended | SourceError::Timeout(_) => false,
        };
        if !is_for_cause {
            self.connection.report_failure(client);
        }
        error
    }
}

impl Source for EtcdSource {
    type Watch = EtcdWatch;

    async fn list(&self, from: Option<Bytes>, at: Option<Revision>) -> Result<Page, SourceError> {
        let client = self.connection.client().await?;
        let limit = self.page_keys().limit(from.is_none());
        let options =
            GetOptions::new().with_range(self.prefix.range_end()).with_limit(limit).with_revision(at.unwrap_or(0));
        let from = from.unwrap_or_else(|| Bytes::copy_from_slice(self.prefix.as_str().as_bytes()));
        let mut kv = client.kv();
        let after = self.connection.timeout().unwrap_or(PAGE_TIMEOUT);
        let response = match tokio::time::timeout(after, kv.get(from, Some(options))).await {
            Ok(Ok(response)) => response.0,
            Ok(Err(error)) => return Err(self.page_failed(&client, limit, error.into())),
            Err(_) => return Err(self.page_failed(&client, limit, SourceError::Timeout(after))),
        };
        let header = response.header.unwrap_or_default();
        let bytes = response.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        self.page_keys().read(limit, response.kvs.len(), bytes, response.more);
        let next = response.kvs.last().filter(|_| response.more).map(|last| {
            let mut next = last.key.clone();
            next.push(0);
            Bytes::from(next)
        });
        let entries = response.kvs.into_iter().filter(|kv| self.owns(&kv.key)).map(Entry::from).collect();
        Ok(Page { cluster: header.cluster_id, store_revision: header.revision, entries, next })
    }

    async fn watch(&self, from: Revision) -> Result<EtcdWatch, SourceError> {
        let client = self.connection.client().await?;
        let opening = async {
            // Progress answers overtook events before etcd 3.4.25 and 3.5.8.
            // Who may not ask for the version (in 3.6.2 only root may) watches all the same, and takes no progress for proof.
            let status = client.maintenance().status().await;
            let progress_is_proof = status.is_ok_and(|status| progress_is_proof(status.version()));
            // From late in 3.5 on, etcd tells no progress of a watch that begins above the store's own revision (mvcc's
            // `progressIfSync`): over an etcd that nobody writes to, one that began after what was listed would seem
            // dead. So it begins with what was listed last, which is left out.
            let start = (from - 1).max(1);
            let options =
                WatchOptions::new().with_range(self.prefix.range_end()).with_start_revision(start).with_fragment();
            let stream = client.watch().watch(self.prefix.as_str(), Some(options)).await?;
            Ok::<_, etcd_client::Error>((progress_is_proof, stream))
        };
        let after = self.connection.request_timeout();
        match tokio::time::timeout(after, opening).await {
            Ok(Ok((progress_is_proof, stream))) => {
                Ok(EtcdWatch { source: self.clone(), client, stream, from, progress_is_proof })
            }
            Ok(Err(error)) => Err(self.failed(&client, error.into())),
            Err(_) => Err(self.failed(&client, SourceError::Timeout(after))),
        }
    }
}

/// A watch of a real etcd.
pub struct EtcdWatch {
    source: EtcdSource,
    client: EtcdClient,
    stream: etcd_client::WatchStream,
    /// What is of an earlier revision is not told.
    from: Revision,
    progress_is_proof: bool,
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchAnswer, SourceError> {
        let response = match self.stream.message().await {
            Ok(Some(response)) => response.0,
            Ok(None) => return Err(self.source.failed(&self.client, SourceError::Ended)),
            Err(error) => return Err(self.source.failed(&self.client, error.into())),
        };
        if response.canceled {
            if response.compact_revision > 0 {
                return Err(SourceError::Compacted(response.compact_revision));
            }
            // A token that ran out shows here and as no status: the next client authenticates anew.
            return Err(self.source.failed(&self.client, SourceError::Canceled(response.cancel_reason)));
        }
        if response.created {
            return Ok(WatchAnswer::Created);
        }
        if response.events.is_empty() {
            return Ok(WatchAnswer::Progress(response.header.map_or(0, |header| header.revision)));
        }
        let changes = response
            .events
            .into_iter()
            .filter_map(|event| {
                let kv = event.kv?;
                if !self.source.owns(&kv.key) || kv.mod_revision < self.from {
                    return None;
                }
                Some(if event.r#type == EventType::Delete as i32 {
                    EntryChange::Delete { key: kv.key.into(), revision: kv.mod_revision }
                } else {
                    EntryChange::Put(kv.into())
                })
            })
            .collect();
        Ok(WatchAnswer::Changes { changes, fragment: response.fragment })
    }

    async fn request_progress(&mut self) -> Result<(), SourceError> {
        self.stream.request_progress().await.map_err(|error| self.source.failed(&self.client, error.into()))
    }

    fn blame(&self) {
        self.source.connection.report_failure(&self.client);
    }

    fn progress_is_proof(&self) -> bool {
        self.progress_is_proof
    }
}

/// Whether progress answers of this version of etcd never overtake events: from 3.4.25 and 3.5.8 on.
fn progress_is_proof(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next());
    match (major, minor, patch) {
        (Some(3), Some(4), Some(patch)) => patch >= 25,
        (Some(3), Some(5), Some(patch)) => patch >= 8,
        (Some(3), Some(minor), Some(_)) => minor > 5,
        (Some(major), ..) => major > 3,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_large_as_its_keys_are_small() {
        for (limit, keys, bytes, expected) in [
            (2_000, 2_000, 2_000 * 1_024, 4_096),
            (2_000, 2_000, 100_000, 8_000),
            (8_000, 8_000, 400_000, 20_000),
            (2_000, 10, 10 * 1_500_000, 100),
            (2_000, 0, 0, 8_000),
        ] {
            let mut page_keys = PageKeys::default();
            assert_eq!(page_keys.limit(true), PAGE_KEYS);
            page_keys.read(limit, keys, bytes, true);
            assert_eq!(page_keys.limit(false), expected, "{keys} keys of {bytes} bytes");
            assert_eq!(page_keys.limit(true), PAGE_KEYS);
        }
    }

    #[test]
    fn a_list_that_fails_on_large_values_after_small_ones_comes_through_in_the_end() {
        const ANSWER_BYTES_MAX: usize = 1 << 30;
        let values = |from: usize, to: usize| (from..to).map(|key| if key < 2_000 { 10 } else { 1_500_000 });
        let mut page_keys = PageKeys::default();
        let (mut lists, mut read) = (0, 0);
        while read < 5_000 {
            assert!(lists < 5, "{page_keys:?}");
            let limit = page_keys.limit(read == 0);
            let end = 5_000.min(read + usize::try_from(limit).unwrap());
            let bytes = values(read, end).sum();
            if bytes > ANSWER_BYTES_MAX {
                page_keys.failed(limit);
                (lists, read) = (lists + 1, 0);
            } else {
                page_keys.read(limit, end - read, bytes, end < 5_000);
                read = end;
            }
        }
        assert!(lists > 0, "nothing failed");
        for _ in 0..6 {
            page_keys.read(100, 100, 100, false);
        }
        assert_eq!(page_keys.max, PAGE_KEYS_BOUNDS.1, "whole lists make up for it");
        page_keys.failed(100);
        assert_eq!(page_keys.limit(true), PAGE_KEYS_FAILED_MIN);
    }

    #[test]
    fn out_of_range_is_told_apart_by_what_it_says() {
        let error = |text: &str| SourceError::from(etcd_client::Error::GRpcStatus(tonic::Status::out_of_range(text)));
        let compacted = error("etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(compacted, SourceError::Compacted(_)), "{compacted:?}");
        let future = error("etcdserver: mvcc: required revision is a future revision");
        assert!(matches!(future, SourceError::Future), "{future:?}");
        let large = error("Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes");
        assert!(matches!(large, SourceError::Request(_)), "{large:?}");
    }

    #[test]
    fn progress_is_trusted_from_the_versions_that_mended_it_on() {
        for (version, proof) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.6.16", true),
            ("3.7.0-rc.0", true),
            ("3.3.27", false),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(progress_is_proof(version), proof, "{version:?}");
        }
    }

    #[test]
    fn the_longest_of_overlapping_prefixes_has_the_key() {
        let connection = Connection::new(super::super::connect::ConnectConfig {
            endpoints: vec!["127.0.0.1:1".into()],
            ..Default::default()
        });
        let all: Vec<KeyPrefix> = ["/a/", "/a/b/", "/a/bc/"].iter().map(|text| KeyPrefix::new(text).unwrap()).collect();
        let source = EtcdSource::new(connection.unwrap(), all[0].clone(), &all);
        assert!(source.owns(b"/a/x"));
        assert!(source.owns(b"/a/b"));
        assert!(source.owns(b"/a/b/"));
        assert!(!source.owns(b"/a/b/x"));
        assert!(source.owns(b"/a/bcd"));
    }
}
