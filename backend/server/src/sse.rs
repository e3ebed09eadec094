//! One reader of the stream: what it is sent, in which order, from its first byte to its last.
//!
//! Owns a position in the mirror's ring and what this reader was told so far. Must not know HTTP beyond the bytes of
//! `text/event-stream`, nor how etcd is asked: what is to be known of its past the mirror finds out, through the [`Past`]
//! that a reader hands to it.

mod opening;
mod replay;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rollcall_registry::etcd::{connect::Connection, ttl::LeaseSample};
use rollcall_shared::{
    Cursor, CursorError, LeaseId, Progress, RegistryEvent, Revision, SnapshotReason, SourcePosition,
    api::{ByeEvent, LeaseTtl, TtlEvent},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::replay::{Replay, Replayed};
use crate::{
    fanout::{Back, Standing},
    feed::now_ms,
    metrics::{Metrics, StreamGuard},
    mirror::{
        Mirror, Reading, Status,
        frame::{Deleted, Frame, FrameKind, Selected, message, named},
        history::Past,
        resume::Plan,
    },
};

/// How often a reader hears how it is with etcd, though nothing changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How often a quiet reader is told how far it has come, so that its cursor does not age.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(45);

/// How often the leases' times are sent to a reader that asked for them, by how many there are at the most.
const TTL_INTERVALS: [(usize, Duration); 3] =
    [(200, Duration::from_secs(1)), (1_000, Duration::from_secs(2)), (usize::MAX, TTL_ROUND_MAX)];

/// The longest round. A lease that comes to be when one has begun waits for its place in the next, and no more than 5 s
/// may pass.
const TTL_ROUND_MAX: Duration = Duration::from_millis(2_400);

/// The longest time between two of them; no more than 5 s may pass.
const TTL_INTERVAL_MAX: Duration = Duration::from_secs(4);

/// How many leases one message tells of: whoever draws them is not to be held up by a fleet of thousands at once.
const TTL_LEASES_MAX: usize = 500;

/// The longest time between two messages of a reader's first round.
const TTL_FIRST_GAP_MAX: Duration = Duration::from_millis(50);

/// How many bytes of frames go out in one piece.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// When a reader whose stream ends is to come back, in milliseconds; up to half as much again, at random, so that all
/// readers of a server do not come at once.
const RETRY_MS: u64 = 1_000;

/// What a reader asks for.
pub struct Request {
    /// The services it selects.
    pub selected: Arc<Selected>,
    /// Its cursor, where it came with one.
    pub cursor: Option<Result<Cursor, CursorError>>,
    /// Whether it wants the leases' times.
    pub ttl: bool,
}

/// What a reader needs from the server.
#[derive(Clone)]
pub struct Context<P = Connection> {
    /// What it reads from.
    pub mirror: Arc<Mirror>,
    /// Where etcd's history can be asked for.
    pub connection: P,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Ends every stream, each with a `bye`.
    pub shutdown: CancellationToken,
}

/// A reader, from which its bytes are pulled.
pub struct Reader<P = Connection> {
    context: Context<P>,
    request: Request,
    phase: Phase,
    outbox: VecDeque<Bytes>,
    /// The position in the ring.
    next: u64,
    /// For each source, the first frame that this reader does not know.
    from: Vec<u64>,
    /// From here on the frames' own ids hold for this reader.
    shared_from: u64,
    /// For each source, where this reader's cursor stands.
    at: Vec<Option<SourcePosition>>,
    /// For each source, the revision this reader was told.
    told: Vec<Revision>,
    /// For each source, the revision up to which it came knowing everything.
    known: Vec<Revision>,
    /// It knows more than this server: until that has caught up, the frames' own ids fall short of it.
    ahead: bool,
    /// Finds out whether what it knows more is still of etcd's history.
    checking: Option<AbortOnDropHandle<bool>>,
    /// For each source, the first delete whose cause is of interest to it.
    deleted_from: Vec<Deleted>,
    /// What of etcd's own history it is sent before the ring.
    replays: VecDeque<Replay>,
    /// For each source, what it was sent of it.
    replayed: Vec<Option<Replayed>>,
    /// The ring does not go on where the last of them ends.
    plans_anew: bool,
    /// Where it stood when it was last taken up.
    taken_up_at: Vec<Option<SourcePosition>>,
    tail: watch::Receiver<u64>,
    status: watch::Receiver<Status>,
    told_status: Status,
    status_due: Instant,
    progress_due: Instant,
    ttl_due: Option<Instant>,
    /// The leases of this round that are still to be told, the next ones last.
    ttl_left: Vec<(LeaseId, LeaseSample)>,
    /// How long there is until the next message of the round; `None` before the first one.
    ttl_gap: Option<Duration>,
    /// Finds out in etcd how to go on; ends with the reader.
    settling: Option<AbortOnDropHandle<Option<Plan>>>,
    _guard: StreamGuard,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was sent yet.
    Opening,
    /// The first snapshot does not stand yet, or this server lags behind the reader's cursor.
    Waiting,
    /// It is sent what happens.
    Live,
    /// It was told that the stream ends.
    Ended,
}

/// How far a reader has come.
#[derive(PartialEq, Eq)]
enum UpTo {
    /// There was something to send, and there may be more.
    Sent,
    /// It has read all there is.
    Now,
}

/// What a reader gives when it is asked for more.
pub enum Pulled {
    /// Bytes to send.
    Piece(Bytes),
    /// Nothing: from here on it can be told together with others.
    CaughtUp,
    /// Nothing any more.
    End,
}

impl<P: Past> Reader<P> {
    /// A reader that begins now.
    pub fn new(context: Context<P>, request: Request) -> Self {
        let count = context.mirror.sources().len();
        let status = context.mirror.status();
        let told_status = *status.borrow();
        let now = Instant::now();
        Self {
            phase: Phase::Opening,
            outbox: VecDeque::new(),
            next: 0,
            from: vec![0; count],
            shared_from: 0,
            at: vec![None; count],
            told: vec![0; count],
            known: vec![0; count],
            ahead: false,
            checking: None,
            deleted_from: vec![Deleted::default(); count],
            replays: VecDeque::new(),
            replayed: std::iter::repeat_with(|| None).take(count).collect(),
            plans_anew: false,
            taken_up_at: vec![None; count],
            tail: context.mirror.tail(),
            told_status,
            status,
            status_due: now,
            progress_due: now + PROGRESS_INTERVAL,
            ttl_due: None,
            ttl_left: Vec::new(),
            ttl_gap: None,
            settling: None,
            _guard: context.metrics.stream_opened(),
            context,
            request,
        }
    }

    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.pull().await {
                Pulled::Piece(bytes) => return Some(bytes),
                Pulled::CaughtUp => self.wait_for_news().await,
                Pulled::End => return None,
            }
        }
    }

    /// The next bytes; instead of waiting where others could tell this reader what comes, says so.
    pub async fn pull(&mut self) -> Pulled {
        loop {
            if let Some(bytes) = self.outbox.pop_front() {
                self.context.metrics.bytes_sent.inc_by(bytes.len() as u64);
                return Pulled::Piece(bytes);
            }
            match self.phase {
                Phase::Opening => {
                    let retry = RETRY_MS + fastrand::u64(..RETRY_MS / 2);
                    self.outbox.push_back(Bytes::from(format!("retry: {retry}\n\n")));
                    self.push_status();
                    self.phase = Phase::Waiting;
                }
                Phase::Waiting => Box::pin(self.wait_until_known()).await,
                Phase::Live => {
                    if self.read_on().await == UpTo::Now {
                        if self.may_join() {
                            return Pulled::CaughtUp;
                        }
                        self.wait_for_news().await;
                    }
                }
                Phase::Ended => return Pulled::End,
            }
        }
    }

    /// Whether what comes is the same for this reader as for every other that may, but for what it selects.
    fn may_join(&mut self) -> bool {
        self.look_ahead();
        self.phase == Phase::Live
            && !self.ahead
            && !self.is_replaying()
            && self.next >= self.shared_from
            && self.from.iter().all(|from| *from <= self.next)
            && (!self.request.selected.everything() || self.context.mirror.continues(self.next, &self.told))
            && !self.may_hear_too_much()
    }

    /// Where it stands, for those who tell it what comes.
    pub fn standing(&self) -> Standing {
        Standing {
            next: self.next,
            status: self.told_status,
            status_due: self.status_due,
            reader_due: self.ttl_due.map_or(self.progress_due, |ttl_due| ttl_due.min(self.progress_due)),
        }
    }

    /// What it selects, where that is not everything.
    pub fn selected(&self) -> Option<Arc<Selected>> {
        (!self.request.selected.everything()).then(|| Arc::clone(&self.request.selected))
    }

    /// Takes in what it was told among others.
    pub fn come_back(&mut self, back: &Back) {
        // One that was overtaken on its way there was told nothing: others were.
        let told = self.next..back.standing.next;
        for (source, last) in back.last.iter().enumerate() {
            if let Some((sequence, position)) = last
                && told.contains(sequence)
            {
                self.at[source] = Some(*position);
                self.known[source] = 0;
                if self.request.selected.everything() {
                    self.told[source] = position.revision;
                }
            }
        }
        self.next = back.standing.next;
        self.status_due = back.standing.status_due;
        self.told_status = back.standing.status;
        let status = *self.status.borrow_and_update();
        if !status.tells_as(&self.told_status) {
            self.status.mark_changed();
        }
    }

    /// Whether the server ends, which it is to be told.
    pub fn is_ending(&self) -> bool {
        self.context.shutdown.is_cancelled()
    }

    fn push_status(&mut self) {
        self.told_status = *self.status.borrow_and_update();
        self.outbox.push_back(named("status", &self.told_status.event()));
        self.status_due = Instant::now() + STATUS_INTERVAL;
    }

    fn end(&mut self) {
        self.outbox.push_back(named("bye", &ByeEvent { reconnect_ms: RETRY_MS + fastrand::u64(..RETRY_MS) }));
        self.phase = Phase::Ended;
    }

    fn go_live(&mut self) {
        self.phase = Phase::Live;
        self.ttl_due = self.request.ttl.then(Instant::now);
        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
    }

    /// A snapshot of everything selected, after which this reader goes on from the ring.
    async fn whole_snapshot(&mut self, reason: SnapshotReason) -> Option<Vec<Bytes>> {
        let encoded = self.context.mirror.snapshot(reason, None, &self.request.selected).await?;
        self.next = encoded.sequence;
        self.shared_from = encoded.sequence;
        self.from.fill(encoded.sequence);
        self.known.fill(0);
        self.ahead = false;
        self.deleted_from = encoded.deleted_from.to_vec();
        self.told = encoded.positions.iter().map(|position| position.revision).collect();
        self.at = encoded.positions.iter().copied().map(Some).collect();
        self.taken_up_at.clone_from(&self.at);
        self.context.metrics.snapshot_sent(reason);
        Some(encoded.parts(&encoded.cursor))
    }

    /// Sees whether this server has come as far as the reader had: what happens from there on has ids for both.
    fn look_ahead(&mut self) {
        if self.ahead
            && let Some(end) = self.context.mirror.has_come_to(&self.known)
        {
            if self.context.mirror.has_passed_over(&self.known) {
                // It came here without seeing what this reader may not have seen either.
                return self.plan_anew();
            }
            self.ahead = false;
            self.shared_from = end;
        }
    }

    /// Sends what stands in the ring, and says whether there was anything to send.
    async fn read_on(&mut self) -> UpTo {
        // A reader that never comes to an end of what there is hears the time, too, and that the server ends.
        if self.context.shutdown.is_cancelled() {
            self.end();
            return UpTo::Sent;
        }
        if self.status.has_changed().unwrap_or_default() {
            self.push_status();
        }
        self.send_what_is_due();
        if !self.outbox.is_empty() {
            return UpTo::Sent;
        }
        if self.is_replaying() {
            self.replay();
            return UpTo::Sent;
        }
        match self.context.mirror.read(self.next, CHUNK_BYTES_MAX) {
            Reading::Frames(frames) => self.send(&frames),
            Reading::Lagged => self.fall_behind().await,
            Reading::UpToDate => return UpTo::Now,
        }
        UpTo::Sent
    }

    async fn wait_for_news(&mut self) {
        let due = self.status_due.min(self.progress_due);
        let due = self.ttl_due.map_or(due, |ttl_due| due.min(ttl_due));
        tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => self.end(),
            _ = self.tail.changed() => {}
            _ = self.status.changed() => self.push_status(),
            () = sleep_until(due) => self.send_what_is_due(),
        }
    }

    fn send_what_is_due(&mut self) {
        let now = Instant::now();
        if self.status_due <= now {
            self.push_status();
        }
        if self.ttl_due.is_some_and(|due| due <= now) {
            self.push_ttl(now);
        }
        if self.progress_due <= now {
            self.push_progress(now);
        }
        self.hear_of_restore();
    }

    /// Tells how far all has come, as soon as this reader was sent everything up to there.
    fn push_progress(&mut self, now: Instant) {
        let mirror = Arc::clone(&self.context.mirror);
        let own = || self.at.iter().copied().collect();
        let Some(positions) = (if self.is_replaying() { own() } else { mirror.positions_at(self.next) }) else {
            return;
        };
        self.progress_due = now + PROGRESS_INTERVAL;
        self.look_ahead();
        if self.phase != Phase::Live {
            return;
        }
        let mut revisions = BTreeMap::new();
        for (index, position) in positions.into_iter().enumerate() {
            let at = self.at[index].map_or(0, |at| at.revision);
            if position.revision >= at.max(self.known[index]) {
                self.at[index] = Some(position);
                self.told[index] = position.revision;
            }
            revisions.insert(mirror.sources()[index].prefix.as_str().to_owned(), self.told[index]);
        }
        let id = mirror.cursor_at(&self.at);
        self.outbox.push_back(message(Some(&id), &RegistryEvent::Progress(Progress { revisions })));
        if self.ahead {
            self.check_for_restore();
        }
    }

    /// Tells the next leases of a round; a round tells of every lease, and then the next one begins.
    fn push_ttl(&mut self, now: Instant) {
        if self.ttl_left.is_empty() {
            let mut samples = self.context.mirror.selected_leases(&self.request.selected.0);
            samples.sort_by_key(|(lease, _)| std::cmp::Reverse(*lease));
            let interval = TTL_INTERVALS.iter().find(|(leases_max, _)| samples.len() <= *leases_max);
            let interval = interval.map_or(TTL_INTERVAL_MAX, |(_, interval)| *interval);
            let messages = samples.len().div_ceil(TTL_LEASES_MAX).max(1);
            let gap = interval / u32::try_from(messages).unwrap_or(u32::MAX);
            // Who is new waits for what he does not know yet.
            let is_first = self.ttl_gap.is_none() && messages > 1;
            self.ttl_gap = Some(if is_first { gap.min(TTL_FIRST_GAP_MAX) } else { gap });
            self.ttl_left = samples;
        }
        self.ttl_due = self.ttl_gap.map(|gap| now + gap);
        let from = self.ttl_left.len().saturating_sub(TTL_LEASES_MAX);
        let leases: Vec<LeaseTtl> = self
            .ttl_left
            .drain(from..)
            .rev()
            .map(|(lease, sample)| LeaseTtl {
                lease,
                granted_s: sample.granted_s,
                remaining_s: sample.remaining_at(now),
                age_ms: u64::try_from(sample.age_at(now).as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        self.outbox.push_back(named("ttl", &TtlEvent { at_ms: now_ms(), leases }));
    }

    /// Puts frames together into one piece.
    fn send(&mut self, frames: &[Arc<Frame>]) {
        self.look_ahead();
        if self.phase != Phase::Live {
            return;
        }
        let mut pieces: Vec<Bytes> = Vec::with_capacity(frames.len());
        for frame in frames {
            self.next = frame.sequence + 1;
            let source = frame.source;
            if frame.sequence < self.from[source] {
                continue;
            }
            if let FrameKind::Cause { service, cause, of } = &frame.kind {
                if self.request.selected.has(service) && self.was_told(source, &cause.key, *of) {
                    pieces.push(frame.bytes.clone());
                }
                continue;
            }
            match &frame.kind {
                FrameKind::Changed { .. } if frame.position.revision <= self.known[source] => {
                    // It cancels out before the reader's revision, or is of another history: that is to be asked anew.
                    self.plan_anew();
                    break;
                }
                FrameKind::Replaced { reason, .. }
                    if *reason != SnapshotReason::Restored && frame.position.revision < self.known[source] =>
                {
                    // What was compacted for this server was not for a reader ahead of it, whose history is another one.
                    self.plan_anew();
                    break;
                }
                FrameKind::Replaced { .. } => self.known[source] = 0,
                _ => {}
            }
            self.at[source] = Some(frame.position);
            let shares_ids = !self.ahead && frame.sequence >= self.shared_from;
            if let FrameKind::Changed { delta, .. } = &frame.kind
                && self.request.selected.everything()
                && delta.after > self.told[source]
            {
                // The reader knew this view before this server saw it for the first time.
                pieces.push(self.catch_up(source, delta.after, frame));
            }
            let everything = self.request.selected.everything();
            let bytes = if everything && shares_ids {
                Some(frame.bytes.clone())
            } else if shares_ids {
                frame.encode_for(&self.request.selected, self.told[source], &frame.cursor)
            } else {
                let id = self.context.mirror.cursor_at(&self.at);
                frame.encode_for(&self.request.selected, self.told[source], &id)
            };
            if let Some(bytes) = bytes {
                self.told[source] = frame.position.revision;
                self.context.metrics.deliveries.inc();
                pieces.push(bytes);
            }
        }
        match pieces.len() {
            0 => {}
            1 => self.outbox.extend(pieces),
            _ => {
                let mut together = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                for piece in &pieces {
                    together.extend_from_slice(piece);
                }
                self.outbox.push_back(together.freeze());
            }
        }
    }

    /// Progress of one source to the revision from which the next delta continues; its id covers no more than that.
    fn catch_up(&self, source: usize, revision: Revision, before: &Frame) -> Bytes {
        let mut at = self.at.clone();
        at[source] = self.context.mirror.position_before(source, before.sequence);
        let id = self.context.mirror.cursor_at(&at);
        let prefix = self.context.mirror.sources()[source].prefix.as_str().to_owned();
        message(Some(&id), &RegistryEvent::Progress(Progress { revisions: BTreeMap::from([(prefix, revision)]) }))
    }
}

#[cfg(test)]
mod tests;
