//! Readers who know all that was told so far, told together: each piece is made once, and one loop hands it to one
//! socket after the other. Those that select services wait here, and are given back when something concerns them.
//!
//! Owns the lines of those readers for as long as they follow, and nothing of what they are told: a reader whose socket
//! does not take a piece at once goes back to its own task with what is left, and joins again once it has caught up.
//! Must not know HTTP beyond the chunk that a piece is sent in.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use rollcall_shared::SourcePosition;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    metrics::Metrics,
    mirror::{
        Mirror, Reading, Status,
        frame::{Frame, FrameKind, Selected, named},
    },
    sse::CHUNK_BYTES_MAX,
};

/// After how many lines the loop lets others have the thread.
const LINES_A_TURN: usize = 256;

/// What it takes, roughly, to tell a reader that is not among these: one that selects, or that hyper serves.
const OTHERS_COST: Duration = Duration::from_micros(12);

/// How often at the most the loop looks for lines that are due for a status or a progress, or have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often a line hears how it is with etcd, though nothing changed; up to [`STATUS_JITTER`] later, so that not all
/// are due at once. A reader that has just joined may have waited as long by itself, and the contract allows 10 s.
const STATUS_INTERVAL: Duration = Duration::from_secs(4);
const STATUS_JITTER: Duration = Duration::from_secs(1);

/// Where bytes go: a socket, or what a test puts in its place.
pub trait Line: Send + Sync + 'static {
    /// Takes what it can at once.
    ///
    /// # Errors
    /// `WouldBlock` where it can take nothing now, anything else where it has ended.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// The same, also where little room is left: [`Line::writable`] waits for more than that.
    ///
    /// # Errors
    /// As [`Line::try_write`].
    fn insist(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until it may take something again.
    ///
    /// # Errors
    /// Where it has ended.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until the other end has gone.
    fn gone(&self) -> impl Future<Output = ()> + Send;
}

/// Where the readers' tasks leave their lines.
pub struct Fanout<L> {
    /// `None`: one of the lines has ended.
    joining: mpsc::UnboundedSender<Option<Member<L>>>,
    _task: AbortOnDropHandle<()>,
}

/// Where a reader stands that joins.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The position in the ring.
    pub next: u64,
    /// How it is with etcd, as the reader was told.
    pub status: Status,
    /// When it is to hear that again.
    pub status_due: Instant,
    /// When its reader has something else to say: how far it has come, or the times of leases.
    pub reader_due: Instant,
}

/// A line that follows.
struct Member<L> {
    line: Arc<L>,
    standing: Standing,
    /// `None`: everything.
    selected: Option<Arc<Selected>>,
    back: oneshot::Sender<Back>,
}

/// What a reader's task gets back.
#[derive(Debug)]
pub struct Back {
    /// What the line has not taken yet, framed as it is to be sent.
    pub rest: Bytes,
    /// Where its reader stands now.
    pub standing: Standing,
    /// For each source the last frame that was told, and where the source stood after it.
    pub last: Arc<Last>,
}

/// For each source the last frame that was told, and where the source stood after it.
type Last = [Option<(u64, SourcePosition)>];

/// What becomes of a line when others are told something.
enum Due<'a> {
    /// It is told this.
    Piece(&'a Bytes),
    /// It is told nothing.
    Nothing,
    /// Its reader is to see by itself.
    Back,
}

/// What a line did with a piece.
enum Taken {
    All,
    /// This is left.
    Part(Bytes),
    Ended,
}

impl<L: Line> Fanout<L> {
    /// Starts to tell what comes to `mirror`, until `shutdown`.
    pub fn start(mirror: Arc<Mirror>, metrics: Arc<Metrics>, shutdown: CancellationToken) -> Self {
        let (joining, joins) = mpsc::unbounded_channel();
        // From this moment on: what comes before the loop runs is seen by it.
        let (tail, mut status) = (mirror.tail(), mirror.status());
        let cohort = Cohort {
            next: mirror.told_until(),
            last: vec![None; mirror.sources().len()].into(),
            members: Vec::new(),
            due: Instant::now(),
            looked_at: Instant::now(),
            status: *status.borrow_and_update(),
            mirror,
            metrics,
        };
        let task = tokio::spawn(cohort.run(joins, tail, status, shutdown));
        Self { joining, _task: AbortOnDropHandle::new(task) }
    }

    /// Leaves `line` to be told what comes from where its reader stands, or to be given back as soon as something comes
    /// that is `selected`. The receiver gets it back; it fails where the line has ended.
    pub fn join(&self, line: Arc<L>, standing: Standing, selected: Option<Arc<Selected>>) -> oneshot::Receiver<Back> {
        let (back, received) = oneshot::channel();
        // Where the loop has ended, so has the server: the receiver fails, as for any line that ends.
        drop(self.joining.send(Some(Member { line, standing, selected, back })));
        received
    }

    /// Lets go, soon, of a line whose receiver was dropped.
    pub fn forget_ended(&self) {
        drop(self.joining.send(None));
    }
}

struct Cohort<L> {
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
    /// Up to here all were told who follow.
    next: u64,
    last: Arc<Last>,
    members: Vec<Member<L>>,
    /// How it is with etcd, as all of them were told.
    status: Status,
    /// When the first of them is due for something but news.
    due: Instant,
    looked_at: Instant,
}

impl<L: Line> Cohort<L> {
    async fn run(
        mut self,
        mut joins: mpsc::UnboundedReceiver<Option<Member<L>>>,
        mut tail: watch::Receiver<u64>,
        mut status: watch::Receiver<Status>,
        shutdown: CancellationToken,
    ) {
        loop {
            let look_at = self.look_at();
            let joined = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = tail.changed() => {
                    self.tell_news(&shutdown).await;
                    None
                }
                _ = status.changed() => None,
                Some(joined) = joins.recv() => Some(joined),
                () = sleep_until(look_at) => None,
            };
            // However much there is to tell, nothing of this waits until all of it is told. The status comes before
            // those who join, who may know it already: one that knows less goes back for it.
            let how_it_is = *status.borrow_and_update();
            self.follow_status(how_it_is).await;
            for joined in joined.into_iter().chain(std::iter::from_fn(|| joins.try_recv().ok())) {
                match joined {
                    Some(member) => self.take_in(member),
                    None => self.due = Instant::now(),
                }
            }
            if self.look_at() <= Instant::now() {
                self.look_around().await;
            }
        }
        // Each says goodbye by itself.
        joins.close();
        while let Some(member) = joins.recv().await {
            self.members.extend(member);
        }
        for member in std::mem::take(&mut self.members) {
            self.give_back(member, Bytes::new());
        }
    }

    /// A reader that was overtaken on its way here goes back at once.
    fn take_in(&mut self, member: Member<L>) {
        if member.standing.next < self.next || !member.standing.status.tells_as(&self.status) {
            self.give_back(member, Bytes::new());
        } else {
            self.due = self.due.min(member.standing.due());
            self.members.push(member);
        }
    }

    /// When to look around next.
    fn look_at(&self) -> Instant {
        self.due.max(self.looked_at + LOOK_INTERVAL)
    }

    fn give_back(&self, member: Member<L>, rest: Bytes) {
        Self::give_back_after(member, rest, &self.last);
    }

    /// `last`: what had been told where the member stands.
    fn give_back_after(member: Member<L>, rest: Bytes, last: &Arc<Last>) {
        let Member { standing, back, .. } = member;
        // Where nobody waits for it the reader has gone.
        drop(back.send(Back { rest, standing, last: Arc::clone(last) }));
    }

    /// Tells what stands in the ring and was not told yet; what comes meanwhile is told the next time.
    async fn tell_news(&mut self, shutdown: &CancellationToken) {
        let (started, until) = (Instant::now(), self.mirror.told_until());
        let mut told = 0;
        while self.next < until && !shutdown.is_cancelled() {
            match self.mirror.read_until(self.next, until, CHUNK_BYTES_MAX) {
                Reading::Frames(frames) => {
                    told += frames.len();
                    self.tell_frames(&frames).await;
                }
                Reading::UpToDate => break,
                Reading::Lagged => {
                    // Each is told so by itself.
                    self.next = until.max(self.mirror.ring_bounds().0);
                    for member in std::mem::take(&mut self.members) {
                        self.give_back(member, Bytes::new());
                    }
                }
            }
        }
        if told > 0 {
            let others = self.metrics.streams_open().saturating_sub(self.members.len());
            let others = OTHERS_COST.saturating_mul(u32::try_from(others).unwrap_or(u32::MAX));
            self.mirror.told_in(started.elapsed() + others, told);
        }
    }

    async fn tell_frames(&mut self, frames: &[Arc<Frame>]) {
        let from = self.next;
        let piece = piece_of(frames);
        let mut last = self.last.to_vec();
        let mut deltas = 0;
        for frame in frames {
            self.next = frame.sequence + 1;
            if !matches!(frame.kind, FrameKind::Cause { .. }) {
                last[frame.source] = Some((frame.sequence, frame.position));
                deltas += 1;
            }
        }
        // Who goes back now for these frames was told those before them.
        let before = std::mem::replace(&mut self.last, last.into());
        let next = self.next;
        let mut lines = 0;
        let concerned = Concerned::by(frames);
        self.each(&before, |member| {
            let chosen = member.selected.as_ref();
            if member.standing.next >= next {
                Due::Nothing
            } else if member.standing.next > from || chosen.is_some_and(|selected| concerned.has(selected)) {
                // It stands between two frames that are told together, or has its own way of telling them.
                Due::Back
            } else {
                member.standing.next = next;
                if chosen.is_some() {
                    return Due::Nothing;
                }
                lines += 1;
                Due::Piece(&piece)
            }
        })
        .await;
        self.metrics.deliveries.inc_by(deltas * lines);
        self.metrics.bytes_sent.inc_by(lines * piece.len() as u64);
    }

    /// Hands each line what is due to it; those that do not take all of it go back to their readers, as do those that are
    /// to see by themselves, who were told up to `before`.
    async fn each<'a>(&mut self, before: &Arc<Last>, mut due: impl FnMut(&mut Member<L>) -> Due<'a>) {
        let mut index = 0;
        while index < self.members.len() {
            let member = &mut self.members[index];
            let rest = match due(member) {
                Due::Nothing => None,
                Due::Back => {
                    let member = self.members.swap_remove(index);
                    Self::give_back_after(member, Bytes::new(), before);
                    continue;
                }
                Due::Piece(piece) => match member.take(piece) {
                    Taken::All => None,
                    Taken::Part(rest) => Some(rest),
                    Taken::Ended => {
                        drop(self.members.swap_remove(index));
                        continue;
                    }
                },
            };
            match rest {
                None => index += 1,
                Some(rest) => {
                    let member = self.members.swap_remove(index);
                    self.give_back(member, rest);
                }
            }
            if index % LINES_A_TURN == LINES_A_TURN - 1 {
                yield_now().await;
            }
        }
    }

    /// Tells everybody how it is with etcd, where that has changed.
    async fn follow_status(&mut self, status: Status) {
        if !status.tells_as(&self.status) {
            self.status = status;
            self.tell_status(|_, _| true).await;
        }
    }

    /// Tells those who are due how it is with etcd.
    async fn tell_status(&mut self, due: impl Fn(&Member<L>, Instant) -> bool) {
        let status = self.status;
        let piece = chunk(&[named("status", &status.event())]);
        let now = Instant::now();
        let last = Arc::clone(&self.last);
        self.each(&last, |member| {
            if !due(member, now) {
                return Due::Nothing;
            }
            member.standing.status = status;
            member.standing.status_due = now + STATUS_INTERVAL + STATUS_JITTER.mul_f32(fastrand::f32());
            Due::Piece(&piece)
        })
        .await;
    }

    /// Tells the status where it is due, gives back the lines whose readers have something to say by themselves, and
    /// forgets those that ended.
    async fn look_around(&mut self) {
        self.tell_status(|member, now| member.standing.status_due <= now).await;
        let now = Instant::now();
        self.looked_at = now;
        self.due = now + STATUS_INTERVAL;
        let mut index = 0;
        while let Some(member) = self.members.get(index) {
            if member.back.is_closed() {
                drop(self.members.swap_remove(index));
            } else if member.standing.reader_due <= now {
                let member = self.members.swap_remove(index);
                self.give_back(member, Bytes::new());
            } else {
                self.due = self.due.min(member.standing.due());
                index += 1;
            }
        }
    }
}

impl Standing {
    fn due(&self) -> Instant {
        self.status_due.min(self.reader_due)
    }
}

/// The services that some frames are about.
struct Concerned<'a> {
    all: bool,
    services: HashSet<&'a str>,
}

impl<'a> Concerned<'a> {
    fn by(frames: &'a [Arc<Frame>]) -> Self {
        let all = frames.iter().any(|frame| matches!(frame.kind, FrameKind::Replaced { .. }));
        Self { all, services: frames.iter().flat_map(|frame| frame.services()).collect() }
    }

    fn has(&self, selected: &Selected) -> bool {
        self.all
            || if selected.0.len() < self.services.len() {
                selected.0.iter().any(|service| self.services.contains(&**service))
            } else {
                self.services.iter().any(|service| selected.has(service))
            }
    }
}

impl<L: Line> Member<L> {
    fn take(&self, piece: &Bytes) -> Taken {
        match self.line.try_write(piece) {
            Ok(taken) if taken == piece.len() => Taken::All,
            Ok(taken) => Taken::Part(piece.slice(taken..)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Taken::Part(piece.clone())
            }
            Err(_) => Taken::Ended,
        }
    }
}

fn piece_of(frames: &[Arc<Frame>]) -> Bytes {
    let pieces: Vec<Bytes> = frames.iter().map(|frame| frame.bytes.clone()).collect();
    chunk(&pieces)
}

/// The bytes of `pieces` as one chunk of HTTP/1.1.
pub fn chunk(pieces: &[Bytes]) -> Bytes {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    if length == 0 {
        // An empty chunk would end the body.
        return Bytes::new();
    }
    let head = format!("{length:x}\r\n");
    let mut chunk = BytesMut::with_capacity(head.len() + length + 2);
    chunk.put_slice(head.as_bytes());
    for piece in pieces {
        chunk.put_slice(piece);
    }
    chunk.put_slice(b"\r\n");
    chunk.freeze()
}

/// What ends a body of chunks.
pub const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");
