//! Many streams read in one thread that costs as little as it can, since it shares the machine with what is measured.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::ready,
    thread,
    time::Duration,
};

use anyhow::bail;
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::stamp;

/// One for all streams of a thread.
const BUFFER_BYTES: usize = 1024 * 1024;

/// How many streams may wait for their first byte while more are opened: less than any listener's backlog.
const OPENING_MAX: u64 = 64;

/// How long it may take until all streams stand.
const OPEN_MAX: Duration = Duration::from_mins(2);

/// How long nothing may come until all that stood before is taken to be read.
const QUIET: Duration = Duration::from_millis(500);

/// Linux throws away what is received so; elsewhere it is copied.
#[cfg(target_os = "linux")]
const DISCARD: RecvFlags = RecvFlags::TRUNC;
#[cfg(not(target_os = "linux"))]
const DISCARD: RecvFlags = RecvFlags::empty();

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// What a stream is asked with, and how a delivery looks on it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// The whole request.
    pub request: String,
    /// How a delivery is found.
    pub mark: Mark,
    /// One stream of so many is looked into; what comes on the others is thrown away unseen, for load that would
    /// otherwise be the readers' more than the sender's.
    pub one_of: u64,
}

/// What stands once in every delivery.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    needle: &'static [u8],
    /// How many bytes behind it hold the stamp.
    stamp_bytes: usize,
    stamp: fn(&[u8]) -> Option<u64>,
}

/// A delivery that holds the value as it is.
pub const PLAIN: Mark = Mark { needle: &[stamp::MARK], stamp_bytes: stamp::DIGITS, stamp: stamp::plain };

/// A delivery of the gateway, which holds the value in base64.
pub const BASE64: Mark = Mark { needle: b"\"value\":\"", stamp_bytes: stamp::BASE64_CHARS, stamp: stamp::in_base64 };

impl Mark {
    /// Tells of every delivery that is whole, and gives where what has to be seen again begins.
    fn scan(self, bytes: &[u8], mut found: impl FnMut(Option<u64>)) -> usize {
        let mut at = 0;
        while let Some(next) = position(&bytes[at..], self.needle[0]) {
            let start = at + next;
            let rest = &bytes[start..];
            if rest.len() < self.needle.len() + self.stamp_bytes
                && self.needle.starts_with(&rest[..rest.len().min(self.needle.len())])
            {
                return start;
            }
            if !rest.starts_with(self.needle) {
                at = start + 1;
                continue;
            }
            let end = self.needle.len() + self.stamp_bytes;
            found((self.stamp)(&rest[self.needle.len()..end]));
            at = start + end;
        }
        bytes.len()
    }
}

/// Where a byte is: by pieces, since `contains` looks at many bytes at once, which `position` does not.
fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    const PIECE: usize = 256;
    let piece = bytes.chunks(PIECE).position(|piece| piece.contains(&byte))? * PIECE;
    Some(piece + bytes[piece..].iter().position(|other| *other == byte)?)
}

/// What has come so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    /// Changes on streams that are looked into.
    pub deliveries: u64,
    /// Bytes on these, with HTTP's.
    pub bytes: u64,
    /// Bytes on the others.
    pub unseen: u64,
}

/// How long deliveries took, counted by steps of `STEP_US`.
#[derive(Debug, Clone)]
pub struct Delays {
    steps: Vec<u32>,
}

const STEP_US: u64 = 20;
const STEPS_MAX: usize = 500_000;

impl Default for Delays {
    fn default() -> Self {
        Self { steps: vec![0; STEPS_MAX] }
    }
}

impl Delays {
    fn add(&mut self, delay_us: u64) {
        let step = usize::try_from(delay_us / STEP_US).unwrap_or(STEPS_MAX).min(STEPS_MAX - 1);
        self.steps[step] += 1;
    }

    /// The delay in ms that so many percent of all deliveries did not exceed.
    pub fn percentile_ms(&self, percent: u64) -> f64 {
        let all: u64 = self.steps.iter().map(|count| u64::from(*count)).sum();
        let mut left = all * percent / 100;
        for (step, count) in (1_u32..).zip(&self.steps) {
            let count = u64::from(*count);
            if count > left {
                return f64::from(step) * 0.001 * f64::from(u32::try_from(STEP_US).expect("it is small"));
            }
            left -= count;
        }
        f64::NAN
    }
}

/// Open streams, and the thread that reads them.
#[derive(Debug)]
pub struct Readers {
    shared: Arc<Shared>,
    streams: u64,
    one_of: u64,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    answered: AtomicU64,
    closed: AtomicU64,
    deliveries: AtomicU64,
    bytes: AtomicU64,
    unseen: AtomicU64,
    delays: Mutex<Delays>,
    stop: AtomicBool,
}

impl Readers {
    /// Begins to open so many streams.
    pub fn start(target: &Target, streams: u64) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = {
            let (shared, target) = (Arc::clone(&shared), target.clone());
            thread::spawn(move || runtime.block_on(open_all(&target, streams, &shared)))
        };
        Ok(Self { shared, streams, one_of: target.one_of, thread: Some(thread) })
    }

    /// Opens so many streams and waits until all stand and nothing more comes of what stood before.
    pub async fn settled(target: &Target, streams: u64) -> anyhow::Result<Self> {
        let readers = Self::start(target, streams)?;
        let start = Instant::now();
        let mut seen = None;
        loop {
            let now = (readers.open(), readers.totals().deliveries);
            if now.0 >= streams && seen == Some(now) {
                return Ok(readers);
            }
            if start.elapsed() > OPEN_MAX {
                bail!("only {} of {streams} streams came to stand", now.0);
            }
            seen = Some(now);
            sleep(QUIET).await;
        }
    }

    /// How many streams have given anything.
    pub fn open(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// How many streams were closed by the other side.
    pub fn closed(&self) -> u64 {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// What has come so far.
    pub fn totals(&self) -> Totals {
        Totals {
            deliveries: self.shared.deliveries.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            unseen: self.shared.unseen.load(Ordering::Relaxed),
        }
    }

    /// The delays of what came since this was last called.
    pub fn take_delays(&self) -> Delays {
        std::mem::take(&mut *self.shared.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Deliveries and bytes on all streams since then. Those on streams that are not looked into are told by their
    /// bytes: every stream gets the same messages.
    pub fn since(&self, before: Totals) -> (u64, u64) {
        let now = self.totals();
        let (deliveries, bytes) = (now.deliveries - before.deliveries, now.bytes - before.bytes);
        let unseen = now.unseen - before.unseen;
        let more = u128::from(deliveries) * u128::from(unseen) / u128::from(bytes.max(1));
        (deliveries + u64::try_from(more).expect("no more than bytes"), bytes + unseen)
    }

    /// Waits until so many changes have come on all streams, or it takes too long.
    pub async fn trail(&self, before: Totals, changes: u64, within: Duration) {
        let start = Instant::now();
        let due = before.deliveries + changes * self.streams.div_ceil(self.one_of);
        let mut unseen = u64::MAX;
        while start.elapsed() < within {
            let now = self.totals();
            if now.deliveries >= due && (self.one_of == 1 || now.unseen == unseen) {
                return;
            }
            unseen = now.unseen;
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn open_all(target: &Target, streams: u64, shared: &Arc<Shared>) {
    for opened in 0..streams {
        while opened - shared.answered.load(Ordering::Relaxed) >= OPENING_MAX && !stopped(shared) {
            sleep(Duration::from_millis(1)).await;
        }
        let Ok(stream) = open(&target.address, &target.request).await else { break };
        if opened % target.one_of == 0 {
            tokio::spawn(read(stream, target.mark, Arc::clone(shared)));
        } else {
            tokio::spawn(discard(stream, Arc::clone(shared)));
        }
    }
    while !stopped(shared) {
        sleep(Duration::from_millis(50)).await;
    }
}

fn stopped(shared: &Shared) -> bool {
    shared.stop.load(Ordering::Relaxed)
}

/// A connection that has asked.
pub async fn open(address: &str, request: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

async fn read(mut stream: TcpStream, mark: Mark, shared: Arc<Shared>) {
    // What was read before and may be the beginning of a delivery.
    let mut kept = Vec::new();
    let mut answered = false;
    loop {
        let read = std::future::poll_fn(|context| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer[..kept.len()].copy_from_slice(&kept);
                let mut free = ReadBuf::new(&mut buffer[kept.len()..]);
                ready!(Pin::new(&mut stream).poll_read(context, &mut free))?;
                let read = free.filled().len();
                let filled = kept.len() + read;
                let (mut deliveries, now_us) = (0, stamp::now_us());
                let mut delays = shared.delays.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = mark.scan(&buffer[..filled], |stamp| {
                    deliveries += 1;
                    if let Some(stamp) = stamp {
                        delays.add(now_us.saturating_sub(stamp));
                    }
                });
                shared.deliveries.fetch_add(deliveries, Ordering::Relaxed);
                shared.bytes.fetch_add(read as u64, Ordering::Relaxed);
                kept.clear();
                kept.extend_from_slice(&buffer[seen..filled]);
                std::task::Poll::Ready(Ok::<usize, std::io::Error>(read))
            })
        });
        match read.await {
            Ok(0) | Err(_) => break,
            Ok(_) if !answered => {
                answered = true;
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
        }
    }
    shared.closed.fetch_add(1, Ordering::Relaxed);
}

/// Takes what comes without even copying it out of the kernel.
async fn discard(stream: TcpStream, shared: Arc<Shared>) {
    let mut answered = false;
    loop {
        let read = stream.async_io(Interest::READABLE, || {
            let taken = BUFFER.with_borrow_mut(|buffer| rustix::net::recv(&stream, &mut buffer[..], DISCARD));
            taken.map(|(_, taken)| taken).map_err(std::io::Error::from)
        });
        match read.await {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                shared.unseen.fetch_add(read as u64, Ordering::Relaxed);
                if !answered {
                    answered = true;
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    shared.closed.fetch_add(1, Ordering::Relaxed);
}
