//! Makes of lists and watches of one [`Source`] one stream that never ends and never loses an event.
//!
//! Owns the state machine `Empty → Listing → Listed → Watching`. Must not know layouts, readers or HTTP. Errors are
//! things that the stream says; it goes on after each, and [`with_backoff`] keeps it from going on too fast.
//!
//! - A list is read in pages that are all pinned to the first one's revision; the watch goes on from the next.
//! - A watch that breaks is resumed from the last revision taken in, once a list pinned to that revision has shown that
//!   etcd still has the history that was seen: after a restore from a backup the revision may stand anywhere while the
//!   cluster's id stays, and a watch from a revision of the old history would wait in silence.
//! - Compaction means that the view is listed again. Where that finds the known view, it is said how far
//!   that holds ([`SourceEvent::Unchanged`]); any other goes on as a snapshot with its reason, never as a made-up delta.
//! - All that one revision changed is one delta, however many answers it came in.

mod history;

pub use history::{
    HISTORY_CHANGES_MAX, HISTORY_TIMEOUT, History, HistoryError, Limits, compacted_to, history, position_at,
    position_now,
};

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use rollcall_shared::{Revision, SnapshotReason, SourcePosition};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    entry::{Entry, EntryChange, View},
    source::{Source, SourceError, Watch, WatchAnswer},
};

/// How often a quiet watch is asked for its progress.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);

/// A watch that says nothing for so long, though it was asked, is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(11);

/// How often the view is compared with a fresh list while the watch stands, at the least.
pub const ANTI_ENTROPY_INTERVAL: Duration = Duration::from_secs(20);

/// By how much each key draws that comparison out: a list costs etcd some 1.5 µs a key, so that all of them together stay
/// below 1 % of its time.
pub const ANTI_ENTROPY_PER_KEY: Duration = Duration::from_micros(200);

/// The first wait after an error; doubled up to [`BACKOFF_MAX`], with jitter.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest wait after an error.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What the watcher says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// All there is, replacing all that was known.
    Snapshot {
        /// Why it comes.
        reason: SnapshotReason,
        /// etcd's cluster id.
        cluster: u64,
        /// Where the source stands now.
        position: SourcePosition,
        /// Every key.
        entries: Vec<Entry>,
    },
    /// All that one revision changed.
    Delta {
        /// Where the source stands now.
        position: SourcePosition,
        /// The changes; may be empty, where a key came and went unseen.
        changes: Vec<EntryChange>,
    },
    /// Nothing else has happened up to here.
    Progress(SourcePosition),
    /// It was listed anew, since the history up to here is compacted, and the view is the known one. What came and went
    /// meanwhile is not known here.
    Unchanged(SourcePosition),
    /// A watch stands, from where the source stands; what happened while none stood follows.
    Opened,
    /// The watch answered; no more is known.
    Heard,
}

/// What the watcher was doing when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the list.
    List,
    /// Comparing a list with the known view.
    Verify,
    /// Opening the watch.
    Open,
    /// Watching.
    Watch,
}

/// Something failed; the watcher goes on by itself.
#[derive(Debug, thiserror::Error)]
#[error("{phase:?}: {source}")]
pub struct WatchError {
    /// What it was doing.
    pub phase: Phase,
    /// What went wrong.
    pub source: SourceError,
}

/// Where the watcher stands.
enum State<W> {
    /// Nothing is known, or what is known is not to be built on.
    Empty { reason: SnapshotReason, known: Option<Known> },
    /// A list is being read.
    Listing(Listing),
    /// A view is known, and no watch stands.
    Listed { known: Known, verified: bool },
    /// The watch stands.
    Watching(Box<Watching<W>>),
}

/// A view, and the cluster that it is of: after a restore into another one, all else may be the same.
struct Known {
    cluster: u64,
    view: View,
}

impl Known {
    fn revision(&self) -> Revision {
        self.view.position().revision
    }

    /// Whether it is of the same keys, in every byte, of the same cluster.
    fn is_same(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.view.position().digest == other.view.position().digest
    }
}

struct Listing {
    purpose: Purpose,
    cluster: u64,
    at: Option<Revision>,
    from: Option<Bytes>,
    entries: Vec<Entry>,
    /// The view before: a list that finds the same makes no snapshot.
    known: Option<Known>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To know what there is, for this reason.
    Snapshot(SnapshotReason),
    /// To see whether etcd still has the history of the known view.
    Verify,
}

struct Watching<W> {
    known: Known,
    watch: W,
    /// Changes of the last revision so far, more of which is to come.
    fragments: Vec<EntryChange>,
    /// Said one at a time.
    ready: VecDeque<SourceEvent>,
    heard_at: Instant,
    tick_at: Instant,
    verify_at: Instant,
    /// Where the view stood when the last comparison found that etcd's present differs.
    differed_at: Option<Revision>,
}

type Item = Result<SourceEvent, WatchError>;

/// Watches `source` for ever. Ends when dropped.
pub fn watcher<S: Source>(source: S) -> impl Stream<Item = Item> {
    run(source, State::Empty { reason: SnapshotReason::Connected, known: None })
}

fn run<S: Source>(source: S, start: State<S::Watch>) -> impl Stream<Item = Item> {
    stream::unfold((source, start), async |(source, mut state)| {
        loop {
            let (item, next) = step(&source, state).await;
            state = next;
            if let Some(item) = item {
                return Some((item, (source, state)));
            }
        }
    })
}

/// Waits after each error before the stream is asked again.
pub fn with_backoff(events: impl Stream<Item = Item>) -> impl Stream<Item = Item> {
    let events = Box::pin(events);
    stream::unfold((events, BACKOFF_MIN, false), async |(mut events, mut wait, failed)| {
        use futures_util::StreamExt as _;
        if failed {
            sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            wait = (wait * 2).min(BACKOFF_MAX);
        }
        let item = events.next().await?;
        match &item {
            // Each watch opens, also one that is canceled right after: only what it then says is a success.
            Ok(SourceEvent::Opened) | Err(_) => {}
            Ok(_) => wait = BACKOFF_MIN,
        }
        let failed = item.is_err();
        Some((item, (events, wait, failed)))
    })
}

async fn step<S: Source>(source: &S, state: State<S::Watch>) -> (Option<Item>, State<S::Watch>) {
    match state {
        State::Empty { reason, known } => {
            let purpose = Purpose::Snapshot(reason);
            (None, State::Listing(Listing { purpose, cluster: 0, at: None, from: None, entries: Vec::new(), known }))
        }
        State::Listing(listing) => list(source, listing).await,
        State::Listed { known, verified: false } => {
            let at = Some(known.revision());
            let known = Some(known);
            let purpose = Purpose::Verify;
            (None, State::Listing(Listing { purpose, cluster: 0, at, from: None, entries: Vec::new(), known }))
        }
        State::Listed { known, verified: true } => match source.watch(known.revision() + 1).await {
            Ok(watch) => (None, State::Watching(Box::new(Watching::new(known, watch)))),
            Err(source) => failed(Phase::Open, source, known),
        },
        State::Watching(watching) => watch(source, watching).await,
    }
}

fn anti_entropy_interval(view: &View) -> Duration {
    let keys = u32::try_from(view.len()).unwrap_or(u32::MAX);
    ANTI_ENTROPY_INTERVAL.max(ANTI_ENTROPY_PER_KEY.saturating_mul(keys))
}

/// Reads the next page, and at the last one says what the list is worth.
async fn list<S: Source>(source: &S, mut listing: Listing) -> (Option<Item>, State<S::Watch>) {
    let page = match source.list(listing.from.clone(), listing.at).await {
        Ok(page) => page,
        Err(error) => return list_failed(error, listing),
    };
    if listing.at.is_none() {
        listing.at = Some(page.store_revision);
    }
    listing.cluster = page.cluster;
    listing.entries.extend(page.entries);
    if page.next.is_some() {
        listing.from = page.next;
        return (None, State::Listing(listing));
    }
    let Listing { purpose, cluster, at, entries, known, .. } = listing;
    let listed = Known { cluster, view: View::new(at.unwrap_or_default(), &entries) };
    let position = listed.view.position();
    let same = known.as_ref().is_some_and(|known| known.is_same(&listed));
    // Nothing moves the revision back but a restore, whatever the view.
    let went_back = known.is_some_and(|known| known.revision() > position.revision);
    let reason = match purpose {
        Purpose::Verify if same => return (None, State::Listed { known: listed, verified: true }),
        Purpose::Verify => {
            // etcd has another history. Its state at the old revision is of no use to anybody: list it as of now.
            return (None, State::Empty { reason: SnapshotReason::Restored, known: None });
        }
        Purpose::Snapshot(_) if went_back => SnapshotReason::Restored,
        Purpose::Snapshot(SnapshotReason::Compacted) if same => {
            return (Some(Ok(SourceEvent::Unchanged(position))), State::Listed { known: listed, verified: true });
        }
        Purpose::Snapshot(reason) => reason,
    };
    let event = SourceEvent::Snapshot { reason, cluster, position, entries };
    (Some(Ok(event)), State::Listed { known: listed, verified: true })
}

fn list_failed<W>(error: SourceError, listing: Listing) -> (Option<Item>, State<W>) {
    let Listing { purpose, known, .. } = listing;
    match (purpose, error) {
        (Purpose::Verify, SourceError::Compacted(_)) => {
            (None, State::Empty { reason: SnapshotReason::Compacted, known })
        }
        (Purpose::Verify, SourceError::Future) => {
            (None, State::Empty { reason: SnapshotReason::Restored, known: None })
        }
        (Purpose::Verify, source) => {
            let error = WatchError { phase: Phase::Verify, source };
            let state = match known {
                Some(known) => State::Listed { known, verified: false },
                None => State::Empty { reason: SnapshotReason::Connected, known: None },
            };
            (Some(Err(error)), state)
        }
        // The pages read so far are of a revision that was compacted away, or of a member that is gone: begin again.
        (Purpose::Snapshot(reason), source) => {
            (Some(Err(WatchError { phase: Phase::List, source })), State::Empty { reason, known })
        }
    }
}

/// What follows a failure while a view is known.
fn failed<W>(phase: Phase, source: SourceError, known: Known) -> (Option<Item>, State<W>) {
    if let SourceError::Compacted(_) = source {
        return (None, State::Empty { reason: SnapshotReason::Compacted, known: Some(known) });
    }
    (Some(Err(WatchError { phase, source })), State::Listed { known, verified: false })
}

async fn watch<S: Source>(source: &S, mut watching: Box<Watching<S::Watch>>) -> (Option<Item>, State<S::Watch>) {
    if let Some(event) = watching.ready.pop_front() {
        return (Some(Ok(event)), State::Watching(watching));
    }
    // What has come is read before the clock is: it may have waited while nobody listened.
    let answer = tokio::select! {
        biased;
        answer = watching.watch.next() => answer,
        () = sleep_until(watching.tick_at) => return tick(source, watching).await,
    };
    match answer {
        Ok(answer) => {
            watching.heard_at = Instant::now();
            watching.take_in(answer);
            (None, State::Watching(watching))
        }
        Err(error) => failed(Phase::Watch, error, watching.known),
    }
}

/// Asks a quiet watch for its progress, gives up a silent one, and now and then compares the view with etcd's.
async fn tick<S: Source>(source: &S, mut watching: Box<Watching<S::Watch>>) -> (Option<Item>, State<S::Watch>) {
    let now = Instant::now();
    // While nobody listened, nothing was asked either: that is no silence of the watch.
    watching.heard_at += now.duration_since(watching.tick_at);
    if now.duration_since(watching.heard_at) > SILENCE_MAX {
        watching.watch.blame();
        return failed(Phase::Watch, SourceError::Timeout(SILENCE_MAX), watching.known);
    }
    watching.tick_at = now + PROGRESS_INTERVAL;
    // A queue of requests that nobody takes is one more way to be silent: it must not hold the clock up.
    let asking = tokio::time::timeout(PROGRESS_INTERVAL, watching.watch.request_progress()).await;
    if let Ok(Err(error)) = asking {
        return failed(Phase::Watch, error, watching.known);
    }
    if now >= watching.verify_at && watching.fragments.is_empty() {
        watching.verify_at = now + anti_entropy_interval(&watching.known.view);
        let revision = watching.known.revision();
        match compare(source, &watching.known).await {
            Ok(Comparison::Same) => watching.differed_at = None,
            Ok(Comparison::OtherHistory) => {
                return (None, State::Empty { reason: SnapshotReason::Restored, known: None });
            }
            // What differs may be on its way through the watch; but not for a whole round without a word of it.
            Ok(Comparison::OtherPresent) if watching.differed_at == Some(revision) => {
                return (None, State::Empty { reason: SnapshotReason::Compacted, known: Some(watching.known) });
            }
            Ok(Comparison::OtherPresent) => watching.differed_at = Some(revision),
            Err(error) => return failed(Phase::Verify, error, watching.known),
        }
    }
    (None, State::Watching(watching))
}

/// How etcd's keys compare with what is known.
enum Comparison {
    /// They are the same.
    Same,
    /// They are others at the same revision.
    OtherHistory,
    /// That revision is compacted, and now they are others.
    OtherPresent,
}

async fn compare<S: Source>(source: &S, known: &Known) -> Result<Comparison, SourceError> {
    let (listed, other) = match list_whole(source, Some(known.revision())).await {
        Err(SourceError::Compacted(_)) => (list_whole(source, None).await, Comparison::OtherPresent),
        listed => (listed, Comparison::OtherHistory),
    };
    match listed {
        Ok((listed, _)) if listed.is_same(known) => Ok(Comparison::Same),
        Ok(_) => Ok(other),
        Err(SourceError::Future) => Ok(Comparison::OtherHistory),
        // Compacted once more between two pages: the next round may be luckier.
        Err(SourceError::Compacted(_)) => Ok(Comparison::Same),
        Err(error) => Err(error),
    }
}

/// All pages of a list at one revision.
async fn list_whole<S: Source>(source: &S, mut at: Option<Revision>) -> Result<(Known, Vec<Entry>), SourceError> {
    let mut entries = Vec::new();
    let mut from = None;
    loop {
        let page = source.list(from, at).await?;
        let revision = *at.get_or_insert(page.store_revision);
        entries.extend(page.entries);
        if page.next.is_none() {
            return Ok((Known { cluster: page.cluster, view: View::new(revision, &entries) }, entries));
        }
        from = page.next;
    }
}

impl<W: Watch> Watching<W> {
    fn new(known: Known, watch: W) -> Self {
        let now = Instant::now();
        let verify_at = now + anti_entropy_interval(&known.view);
        Self {
            known,
            watch,
            fragments: Vec::new(),
            ready: VecDeque::new(),
            heard_at: now,
            tick_at: now,
            verify_at,
            differed_at: None,
        }
    }

    fn take_in(&mut self, answer: WatchAnswer) {
        match answer {
            WatchAnswer::Created => self.ready.push_back(SourceEvent::Opened),
            WatchAnswer::Progress(revision) => {
                if self.watch.progress_is_proof() && self.fragments.is_empty() {
                    self.known.view.advance(revision);
                    self.ready.push_back(SourceEvent::Progress(self.known.view.position()));
                } else {
                    self.ready.push_back(SourceEvent::Heard);
                }
            }
            WatchAnswer::Changes { changes, fragment } => {
                self.fragments.extend(changes);
                let mut changes = std::mem::take(&mut self.fragments);
                if fragment && let Some(last) = changes.last().map(EntryChange::revision) {
                    let rest = changes.iter().position(|change| change.revision() == last).unwrap_or_default();
                    self.fragments = changes.split_off(rest);
                }
                self.say(changes);
            }
        }
    }

    /// One delta for each revision. etcd before 3.4.24 may say events twice: what is known already is left out.
    fn say(&mut self, changes: Vec<EntryChange>) {
        let mut changes = changes.into_iter().peekable();
        while let Some(first) = changes.next() {
            let revision = first.revision();
            let mut together = vec![first];
            while let Some(change) = changes.next_if(|change| change.revision() == revision) {
                together.push(change);
            }
            if revision > self.known.view.position().revision {
                self.known.view.apply(revision, &mut together);
                self.ready.push_back(SourceEvent::Delta { position: self.known.view.position(), changes: together });
            }
        }
    }
}

#[cfg(test)]
mod tests;
