//! The ways of pushing that are measured beside one another, and what a run of each gives.

use std::time::Duration;

use rollcall_tests::Etcd;
use tokio::time::Instant;

use crate::{
    bare::{Bare, Sending},
    gateway, load,
    readers::{Delays, Readers},
    table::{Table, float, median},
    usage::cpu,
};

/// How long deliveries may trail behind the last change.
const TRAIL_MAX: Duration = Duration::from_secs(5);

/// What one run of one way gave.
#[derive(Debug)]
pub struct Run {
    pub changes: u64,
    /// How long it took to make them.
    pub took: Duration,
    pub deliveries: u64,
    pub bytes: u64,
    /// Of the server, the hub or the bare loop.
    pub sender: Duration,
    /// Of etcd.
    pub etcd: Duration,
    pub delays: Delays,
    pub closed: u64,
}

impl Run {
    /// CPU of the sender alone, in µs a delivery.
    pub fn sender_us(&self) -> f64 {
        self.sender.as_secs_f64() * 1e6 / float(self.deliveries).max(1.0)
    }

    /// CPU of etcd alone, in µs a delivery.
    pub fn etcd_us(&self) -> f64 {
        self.etcd.as_secs_f64() * 1e6 / float(self.deliveries).max(1.0)
    }

    /// CPU of both, in µs a delivery.
    pub fn both_us(&self) -> f64 {
        self.sender_us() + self.etcd_us()
    }

    /// CPU of both beyond what the changes cost etcd where nobody reads, in µs a delivery.
    pub fn pushing_us(&self, unread_us: f64) -> f64 {
        self.both_us() - unread_us * float(self.changes) / float(self.deliveries).max(1.0)
    }

    /// Deliveries that did not come in time, had all changes gone to so many streams.
    pub fn missing(&self, streams: u64) -> f64 {
        float((self.changes * streams).saturating_sub(self.deliveries))
    }

    /// Bytes of a delivery.
    pub fn bytes_each(&self) -> f64 {
        float(self.bytes) / float(self.deliveries).max(1.0)
    }
}

/// The runs of one way.
#[derive(Debug)]
pub struct Way {
    /// What it is called.
    pub name: &'static str,
    runs: Vec<Run>,
}

impl Way {
    /// One that has not been measured yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, runs: Vec::new() }
    }

    /// Keeps a run.
    pub fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// The median of something of its runs.
    pub fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(of))
    }

    /// Its name, and how many streams were closed by the other side, if any.
    pub fn titled(&self) -> String {
        let closed: u64 = self.runs.iter().map(|run| run.closed).sum();
        if closed > 0 { format!("{} ({closed} streams were cut off)", self.name) } else { self.name.to_owned() }
    }

    /// Its row below `COLUMNS`.
    pub fn row(&self, table: &mut Table, streams: u64) {
        table.row(
            self.titled(),
            &[
                (self.median(|run| float(run.changes)), 0),
                (self.median(|run| run.missing(streams)), 0),
                (self.median(Run::sender_us), 2),
                (self.median(Run::etcd_us), 2),
                (self.median(Run::both_us), 2),
                (self.median(Run::bytes_each), 0),
                (self.median(|run| run.delays.percentile_ms(50)), 2),
                (self.median(|run| run.delays.percentile_ms(99)), 2),
            ],
        );
    }
}

/// What a row of deliveries shows. The CPU is in µs a delivery, delays in ms.
pub const COLUMNS: [&str; 8] = ["changes", "missing", "sender µs", "etcd µs", "both µs", "bytes", "p50 ms", "p99 ms"];

/// Bytes as a number that can be counted with.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a message's size")]
pub fn whole(bytes: f64) -> usize {
    bytes.round() as usize
}

/// Rollcall's stream.
pub async fn rollcall(streams: u64, per_s: u32, length: Duration) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let server = load::server(&etcd).await;
    let readers = Readers::settled(&load::stream(&server), streams).await?;
    run(&readers, &[server.pid()], Some(etcd.pid()), load::puts(&etcd, per_s, length)).await
}

/// The gateway's watches.
pub async fn through_gateway(streams: u64, per_s: u32, length: Duration) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let readers = Readers::settled(&gateway::target(&etcd), streams).await?;
    run(&readers, &[], Some(etcd.pid()), load::puts(&etcd, per_s, length)).await
}

/// The bare loop.
pub async fn alone(streams: u64, sending: Sending) -> anyhow::Result<Run> {
    let mut bare = Bare::start().await?;
    let readers = bare.readers(streams, 1).await?;
    let pid = bare.pid();
    let sent = async {
        bare.begin(sending).await?;
        bare.answer().await
    };
    run(&readers, &[pid], None, sent).await
}

/// Measures while changes are made; `senders` are the processes that push.
pub async fn run(
    readers: &Readers,
    senders: &[u32],
    etcd: Option<u32>,
    changes: impl Future<Output = anyhow::Result<u64>>,
) -> anyhow::Result<Run> {
    let sum = |pids: &[u32]| pids.iter().try_fold(Duration::ZERO, |sum, pid| anyhow::Ok(sum + cpu(*pid)?));
    let (sender_before, etcd_before, before) = (sum(senders)?, sum(etcd.as_slice())?, readers.totals());
    drop(readers.take_delays());
    let start = Instant::now();
    let changes = changes.await?;
    let took = start.elapsed();
    readers.trail(before, changes, TRAIL_MAX).await;
    let (deliveries, bytes) = readers.since(before);
    Ok(Run {
        changes,
        took,
        deliveries,
        bytes,
        sender: sum(senders)?.saturating_sub(sender_before),
        etcd: sum(etcd.as_slice())?.saturating_sub(etcd_before),
        delays: readers.take_delays(),
        closed: readers.closed(),
    })
}

/// What a change costs etcd alone, in µs, when nobody reads.
pub async fn unread(per_s: u32, length: Duration) -> anyhow::Result<f64> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let before = cpu(etcd.pid())?;
    let changes = load::puts(&etcd, per_s, length).await?;
    Ok(cpu(etcd.pid())?.saturating_sub(before).as_secs_f64() * 1e6 / float(changes).max(1.0))
}
