//! What can be put back: the value of each key that was deregistered here within the last minute.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_registry::etcd::entry::Entry;
use rollcall_shared::api::UNDO_S;
use tokio::time::Instant;
use uuid::Uuid;

/// How many deregistrations can be undone at the same time; the oldest make room.
const UNDO_MAX: usize = 10_000;

/// The deregistrations that can be undone.
#[derive(Default)]
pub struct UndoBook {
    entries: Mutex<HashMap<String, (Instant, Entry)>>,
}

impl UndoBook {
    /// Remembers `entry`, and says what brings it back.
    pub fn remember(&self, entry: Entry) -> String {
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, (since, _)| now.duration_since(*since) <= Duration::from_secs(UNDO_S));
        if entries.len() >= UNDO_MAX
            && let Some(oldest) = entries.iter().min_by_key(|(_, (since, _))| *since).map(|(token, _)| token.clone())
        {
            entries.remove(&oldest);
        }
        let token = Uuid::new_v4().to_string();
        entries.insert(token.clone(), (now, entry));
        token
    }

    /// What `token` brings back; `None` where it is over [`UNDO_S`] old, or was never given out here.
    pub fn recall(&self, token: &str) -> Option<Entry> {
        let entries = self.entries();
        let (since, entry) = entries.get(token)?;
        (since.elapsed() <= Duration::from_secs(UNDO_S)).then(|| entry.clone())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, (Instant, Entry)>> {
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
        let token = book.remember(entry.clone());
        tokio::time::advance(Duration::from_secs(UNDO_S)).await;
        assert_eq!(book.recall(&token), Some(entry));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(book.recall(&token), None);
        assert_eq!(book.recall("another"), None);
    }
}
