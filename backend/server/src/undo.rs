//! What can be put back: the value of each key that was deregistered or edited here within the last minute.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_registry::etcd::entry::Entry;
use rollcall_shared::{Revision, api::UNDO_S};
use tokio::time::Instant;
use uuid::Uuid;

/// How many writes can be undone at the same time; the oldest make room.
const UNDO_MAX: usize = 10_000;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// The key was deleted, as it stood here.
    Deregistered(Entry),
    /// The key got another value.
    Edited {
        /// As it stood before.
        before: Entry,
        /// The revision that the edit made.
        mod_revision: Revision,
    },
}

impl Undo {
    /// The key as it stood before.
    pub fn before(&self) -> &Entry {
        match self {
            Self::Deregistered(before) | Self::Edited { before, .. } => before,
        }
    }
}

/// The writes that can be undone.
#[derive(Default)]
pub struct UndoBook {
    entries: Mutex<HashMap<String, (Instant, Undo)>>,
}

impl UndoBook {
    /// Remembers what was done, and says what undoes it.
    pub fn remember(&self, undo: Undo) -> String {
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, (since, _)| now.duration_since(*since) <= Duration::from_secs(UNDO_S));
        if entries.len() >= UNDO_MAX
            && let Some(oldest) = entries.iter().min_by_key(|(_, (since, _))| *since).map(|(token, _)| token.clone())
        {
            entries.remove(&oldest);
        }
        let token = Uuid::new_v4().to_string();
        entries.insert(token.clone(), (now, undo));
        token
    }

    /// What `token` undoes; `None` where it is over [`UNDO_S`] old, or was never given out here.
    pub fn recall(&self, token: &str) -> Option<Undo> {
        let entries = self.entries();
        let (since, undo) = entries.get(token)?;
        (since.elapsed() <= Duration::from_secs(UNDO_S)).then(|| undo.clone())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, (Instant, Undo)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_holds_for_a_minute() {
        let book = UndoBook::default();
        let entry =
            Entry { key: Bytes::from_static(b"k"), value: Bytes::new(), lease: 1, create_revision: 1, mod_revision: 1 };
        let undo = Undo::Edited { before: entry, mod_revision: 2 };
        let token = book.remember(undo.clone());
        tokio::time::advance(Duration::from_secs(UNDO_S)).await;
        assert_eq!(book.recall(&token), Some(undo));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(book.recall(&token), None);
        assert_eq!(book.recall("another"), None);
    }
}
