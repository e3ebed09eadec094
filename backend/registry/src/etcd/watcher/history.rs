//! What happened in a source between two positions, read from etcd's own history: for readers who come back with a
//! position that is no longer remembered.

use std::{pin::pin, time::Duration};

use rollcall_shared::{Revision, SourcePosition};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Known, SourceEvent, Watching, list_whole};
use crate::etcd::{
    entry::{Entry, EntryChange},
    source::{Source, SourceError, Watch as _, WatchAnswer},
};

/// How many changes of keys are read at once, at the most, but for one revision that has more.
pub const HISTORY_CHANGES_MAX: usize = 100_000;

/// How long reading it may take.
pub const HISTORY_TIMEOUT: Duration = Duration::from_secs(20);

/// How often the watch is asked whether it has told all: etcd leaves out an answer while it has not.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a watch whose progress answers prove nothing has to say nothing more, once it has come to the known view.
const QUIET: Duration = Duration::from_millis(250);

/// What happened between two positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Where it begins: at the revision that was asked for.
    pub from: SourcePosition,
    /// Every key as it stood there.
    pub base: Vec<Entry>,
    /// What each revision after it changed, and where the source stood then.
    pub deltas: Vec<(SourcePosition, Vec<EntryChange>)>,
    /// Up to where it goes: to the end that was asked for, or less far where that is more than is read at once.
    pub end: SourcePosition,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// etcd has compacted it away.
    #[error("etcd has compacted the history since that revision")]
    Compacted,
    /// etcd's history is another one.
    #[error("etcd's history is another one")]
    Other,
    /// etcd could not be asked.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// How much of a history is read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In changes of keys.
    pub changes_max: usize,
    /// In bytes of keys and values.
    pub bytes_max: usize,
}

/// Reads what happened in `source` after the revision `from` and up to `until`: all of it, or so much from the beginning
/// as `limits` let through, and one revision at the least.
///
/// # Errors
/// As [`HistoryError`] says.
pub async fn history<S: Source>(
    source: &S,
    from: Revision,
    until: SourcePosition,
    limits: Limits,
) -> Result<History, HistoryError> {
    in_time(read(source, from, until, limits)).await
}

/// Where `source` stood at `revision`.
///
/// # Errors
/// As [`HistoryError`] says; a revision to which etcd has not come is of another history.
pub async fn position_at<S: Source>(source: &S, revision: Revision) -> Result<SourcePosition, HistoryError> {
    in_time(async { Ok(listed(source, Some(revision)).await?.0.view.position()) }).await
}

/// Where `source` stands now.
///
/// # Errors
/// As [`HistoryError`] says.
pub async fn position_now<S: Source>(source: &S) -> Result<SourcePosition, HistoryError> {
    in_time(async { Ok(listed(source, None).await?.0.view.position()) }).await
}

/// The revision up to which etcd has compacted its history, as it says to a watch from `revision`; `None` where that is
/// not compacted.
///
/// # Errors
/// Where etcd could not be asked.
pub async fn compacted_to<S: Source>(source: &S, revision: Revision) -> Result<Option<Revision>, HistoryError> {
    let asking = async {
        let mut watch = match source.watch(revision).await {
            Ok(watch) => watch,
            Err(SourceError::Compacted(revision)) => return Ok(Some(revision)),
            Err(error) => return Err(error.into()),
        };
        loop {
            match watch.next().await {
                Ok(WatchAnswer::Created) => watch.request_progress().await?,
                Ok(WatchAnswer::Changes { .. } | WatchAnswer::Progress(_)) => return Ok(None),
                Err(SourceError::Compacted(revision)) => return Ok(Some(revision)),
                Err(error) => return Err(error.into()),
            }
        }
    };
    in_time(asking).await
}

async fn in_time<T>(reading: impl Future<Output = Result<T, HistoryError>>) -> Result<T, HistoryError> {
    timeout(HISTORY_TIMEOUT, reading).await.unwrap_or(Err(HistoryError::Source(SourceError::Timeout(HISTORY_TIMEOUT))))
}

async fn listed<S: Source>(source: &S, at: Option<Revision>) -> Result<(Known, Vec<Entry>), HistoryError> {
    match list_whole(source, at).await {
        Ok(listed) => Ok(listed),
        Err(error) => Err(gone(error)),
    }
}

fn gone(error: SourceError) -> HistoryError {
    match error {
        SourceError::Compacted(_) => HistoryError::Compacted,
        SourceError::Future => HistoryError::Other,
        error => error.into(),
    }
}

async fn read<S: Source>(
    source: &S,
    from: Revision,
    until: SourcePosition,
    limits: Limits,
) -> Result<History, HistoryError> {
    let (known, base) = listed(source, Some(from)).await?;
    let from = known.view.position();
    let mut history = History { from, base, deltas: Vec::new(), end: from };
    // etcd may have gone another way than to where the caller stands.
    let whole = |mut history: History| {
        if history.end.digest != until.digest {
            return Err(HistoryError::Other);
        }
        history.end = until;
        Ok(history)
    };
    if until.revision <= from.revision {
        return whole(history);
    }
    let watch = source.watch(from.revision + 1).await.map_err(gone)?;
    let mut watching = Watching::new(known, watch);
    let (mut changes_count, mut bytes) = (0, 0);
    let mut asked_at = Instant::now();
    // The watch says that it has caught up, at a member where that proves nothing.
    let mut unproven = false;
    loop {
        while let Some(event) = watching.ready.pop_front() {
            match event {
                SourceEvent::Delta { position, .. } if position.revision > until.revision => return whole(history),
                SourceEvent::Delta { position, changes } => {
                    history.end = position;
                    changes_count += changes.len();
                    bytes += changes.iter().map(change_bytes).sum::<usize>();
                    if !changes.is_empty() {
                        history.deltas.push((position, changes));
                    }
                    if position.revision == until.revision {
                        return whole(history);
                    }
                    if changes_count >= limits.changes_max || bytes >= limits.bytes_max {
                        return Ok(history);
                    }
                }
                SourceEvent::Progress(at) if at.revision >= until.revision => return whole(history),
                // This member has not come so far: it lags, or came back from a backup that nobody here has noticed.
                SourceEvent::Progress(_) => return Err(SourceError::Future.into()),
                SourceEvent::Heard => unproven = true,
                SourceEvent::Opened | SourceEvent::Snapshot { .. } | SourceEvent::Unchanged(_) => {}
            }
        }
        // The last change on the way to `until` shows in the digest, but what cancels out after it does not.
        let arrived = unproven && history.end.digest == until.digest;
        let answer = {
            let quiet = Instant::now() + QUIET;
            let mut next = pin!(watching.watch.next());
            tokio::select! {
                biased;
                answer = &mut next => Some(answer),
                () = sleep_until(quiet), if arrived => return whole(history),
                () = sleep_until(asked_at), if !arrived => None,
            }
        };
        match answer {
            Some(Ok(answer)) => watching.take_in(answer),
            Some(Err(error)) => return Err(gone(error)),
            None => {
                asked_at = Instant::now() + ASK_INTERVAL;
                watching.watch.request_progress().await?;
            }
        }
    }
}

fn change_bytes(change: &EntryChange) -> usize {
    let value = match change {
        EntryChange::Put(entry) => entry.value.len(),
        EntryChange::Delete { .. } => 0,
    };
    change.key().len() + value
}
