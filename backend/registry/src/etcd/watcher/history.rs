//! What happened in a source between two positions, read from etcd's own history: for readers who come back with a
//! position that is no longer remembered.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt as _;
use rollcall_shared::SourcePosition;
use tokio::time::timeout;

use super::{SourceEvent, State, WatchError, list_whole, run};
use crate::etcd::{
    entry::{Entry, EntryChange},
    source::{Source, SourceError},
};

/// How many keys' worth of history is read for a reader who comes back, at the most.
pub const HISTORY_CHANGES_MAX: usize = 200_000;

/// How long reading it may take.
pub const HISTORY_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a watch whose progress answers prove nothing has to say nothing more, once it has come to the known view.
const QUIET: Duration = Duration::from_millis(250);

/// What happened between two positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Every key as it stood at the first position.
    pub base: Vec<Entry>,
    /// What each revision after it changed, up to the second position and it.
    pub deltas: Vec<(SourcePosition, Vec<EntryChange>)>,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// etcd has compacted it away.
    #[error("etcd has compacted the history since that position")]
    Compacted,
    /// etcd's history is another one: the view at that revision is not the one that was known.
    #[error("etcd's history is another one")]
    Other,
    /// There is more of it than [`HISTORY_CHANGES_MAX`].
    #[error("more than {HISTORY_CHANGES_MAX} changes have happened since")]
    TooMuch,
    /// etcd could not be asked.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Reads what happened in `source` after `known` and up to `until`. Where both are the same, it is nothing, and that it
/// can be told says that `known` is of etcd's history.
///
/// # Errors
/// As [`HistoryError`] says.
pub async fn history<S: Source>(
    source: S,
    known: SourcePosition,
    until: SourcePosition,
) -> Result<History, HistoryError> {
    timeout(HISTORY_TIMEOUT, read(source, known, until))
        .await
        .unwrap_or(Err(HistoryError::Source(SourceError::Timeout(HISTORY_TIMEOUT))))
}

async fn read<S: Source>(source: S, known: SourcePosition, until: SourcePosition) -> Result<History, HistoryError> {
    let (listed, base) = match list_whole(&source, Some(known.revision)).await {
        Ok(listed) => listed,
        Err(SourceError::Compacted(_)) => return Err(HistoryError::Compacted),
        Err(SourceError::Future) => return Err(HistoryError::Other),
        Err(error) => return Err(error.into()),
    };
    if listed.view.position().digest != known.digest {
        return Err(HistoryError::Other);
    }
    let mut position = known;
    // etcd may have gone another way than to where the caller stands.
    let told = |position: SourcePosition, base, deltas| {
        if position.digest == until.digest { Ok(History { base, deltas }) } else { Err(HistoryError::Other) }
    };
    if until.revision <= known.revision {
        return told(position, base, Vec::new());
    }
    let mut deltas = Vec::new();
    let mut changes_count = 0;
    let mut unproven = false;
    let mut events = pin!(run(source, State::Listed { known: listed, verified: true }));
    loop {
        // The last change on the way to `until` shows in the digest, but what cancels out after it does not.
        let arrived = unproven && position.digest == until.digest;
        let next = if arrived { timeout(QUIET, events.next()).await.ok() } else { Some(events.next().await) };
        match next {
            None | Some(None) => return Ok(History { base, deltas }),
            Some(Some(Ok(SourceEvent::Delta { position: next, .. }))) if next.revision > until.revision => {
                return told(position, base, deltas);
            }
            Some(Some(Ok(SourceEvent::Delta { position: next, changes }))) => {
                position = next;
                changes_count += changes.len();
                if changes_count > HISTORY_CHANGES_MAX {
                    return Err(HistoryError::TooMuch);
                }
                if !changes.is_empty() {
                    deltas.push((position, changes));
                }
                if position.revision == until.revision {
                    return told(position, base, deltas);
                }
            }
            Some(Some(Ok(SourceEvent::Progress(at)))) if at.revision >= until.revision => {
                return told(position, base, deltas);
            }
            // The watch says that it has caught up, at a member where that proves nothing.
            Some(Some(Ok(SourceEvent::Heard))) => unproven = true,
            Some(Some(Ok(SourceEvent::Progress(_) | SourceEvent::Opened))) => {}
            // The watch lists anew where it cannot go on: what was to be read is gone.
            Some(Some(Ok(SourceEvent::Snapshot { .. }))) => return Err(HistoryError::Compacted),
            Some(Some(Err(WatchError { source, .. }))) => return Err(source.into()),
        }
    }
}
