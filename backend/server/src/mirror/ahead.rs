//! Decodes the pages of a source's first list while the next ones are being read: a server that starts over a hundred
//! thousand keys would else decode them after etcd has done its work.
//!
//! Owns what was decoded until the list is complete. Must not know what becomes of it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rollcall_registry::etcd::{
    entry::Entry,
    source::{Page, Source, SourceError},
};
use rollcall_shared::{Record, Revision};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{SourceConfig, key_text, record};

/// A source whose first list is decoded as it comes.
pub struct DecodedAhead<S> {
    source: S,
    ahead: Arc<Ahead>,
}

/// One page, being decoded.
type Decoding = JoinHandle<Vec<Arc<Record>>>;

/// What was decoded.
pub struct Ahead {
    config: SourceConfig,
    /// `None` once the first list was taken.
    pages: Mutex<Option<Vec<Decoding>>>,
}

impl<S> DecodedAhead<S> {
    /// `source`, which is configured as `config` says, and where to take its records from.
    pub fn new(source: S, config: SourceConfig) -> (Self, Arc<Ahead>) {
        let ahead = Arc::new(Ahead { config, pages: Mutex::new(Some(Vec::new())) });
        (Self { source, ahead: Arc::clone(&ahead) }, ahead)
    }
}

impl Ahead {
    pub(super) fn decode(&self, begins: bool, entries: &[Entry]) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pages) = pages.as_mut() else { return };
        if begins {
            pages.clear();
        }
        let (config, entries) = (self.config.clone(), entries.to_vec());
        pages.push(spawn_blocking(move || entries.iter().map(|entry| Arc::new(record(&config, entry))).collect()));
    }

    /// The records of `entries`, in their order: as far as they were decoded ahead they are taken, else made now.
    pub async fn records_of(&self, entries: &[Entry]) -> Vec<Arc<Record>> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut ahead = Vec::with_capacity(entries.len());
        for page in pages.unwrap_or_default() {
            ahead.extend(page.await.unwrap_or_default());
        }
        let mut ahead = ahead.into_iter().peekable();
        let records = entries.iter().map(|entry| {
            ahead
                .next_if(|record| record.mod_revision == entry.mod_revision && record.key == key_text(&entry.key))
                .unwrap_or_else(|| Arc::new(record(&self.config, entry)))
        });
        records.collect()
    }
}

impl<S: Source> Source for DecodedAhead<S> {
    type Watch = S::Watch;

    async fn list(&self, from: Option<Bytes>, at: Option<Revision>) -> Result<Page, SourceError> {
        let begins = from.is_none();
        let page = self.source.list(from, at).await?;
        self.ahead.decode(begins, &page.entries);
        Ok(page)
    }

    async fn watch(&self, from: Revision) -> Result<S::Watch, SourceError> {
        self.source.watch(from).await
    }
}
