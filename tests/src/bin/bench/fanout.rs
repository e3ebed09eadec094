//! `fanout` and `rapid`: what a delivery (one change on one stream) costs at 200 streams, at 100 and at 1,000 changes
//! a second, each change its own put, beside etcd's gateway and beside a bare loop that only sends the same bytes.

use std::time::Duration;

use rollcall_tests::Etcd;

use crate::{
    Plan,
    bare::{Bare, Sending},
    gateway, load,
    readers::{Delays, Readers},
    table::{Table, Wanted, float, median, verdict},
    usage::cpu,
};

const STREAMS: u64 = 200;

/// How long deliveries may trail behind the last change.
const TRAIL_MAX: Duration = Duration::from_secs(5);

/// How long one change may wait for others where it may.
const GATHER: Duration = Duration::from_millis(20);

/// What one run of one way gave.
#[derive(Debug)]
pub struct Run {
    pub changes: u64,
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

    /// Bytes of a delivery.
    pub fn bytes_each(&self) -> f64 {
        float(self.bytes) / float(self.deliveries).max(1.0)
    }
}

/// The runs of one way.
#[derive(Debug)]
pub struct Way {
    name: &'static str,
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

    /// Its row below `COLUMNS`.
    pub fn row(&self, table: &mut Table, streams: u64) {
        let closed: u64 = self.runs.iter().map(|run| run.closed).sum();
        let name =
            if closed > 0 { format!("{} ({closed} streams were cut off)", self.name) } else { self.name.to_owned() };
        table.row(
            name,
            &[
                (self.median(|run| float(run.changes)), 0),
                (self.median(|run| float((run.changes * streams).saturating_sub(run.deliveries))), 0),
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

/// Measures at that rate, and prints.
pub async fn measure(plan: Plan, per_s: u32) -> anyhow::Result<()> {
    println!(
        "{STREAMS} streams, {per_s} changes/s, every change its own put; {} runs of {} s by turns, medians; \
         CPU µs and bytes a delivery, delay from put to message",
        plan.rounds(),
        plan.run().as_secs()
    );
    let (mut ours, mut gateway) = (Way::new("rollcall"), Way::new("etcd's /v3/watch gateway"));
    let (mut bare, mut gathered) = (Way::new("bare loop"), Way::new("bare loop, one write per 20 ms"));
    for _ in 0..plan.rounds() {
        let run = rollcall(STREAMS, per_s, plan.run()).await?;
        let sending = Sending { per_s, bytes: whole(run.bytes_each()), gather: Duration::ZERO, length: plan.run() };
        ours.add(run);
        bare.add(alone(STREAMS, sending).await?);
        gathered.add(alone(STREAMS, Sending { gather: GATHER, ..sending }).await?);
        gateway.add(through_gateway(STREAMS, per_s, plan.run()).await?);
    }
    let mut table = Table::new(&COLUMNS);
    for way in [&ours, &bare, &gathered, &gateway] {
        way.row(&mut table, STREAMS);
    }
    table.print();
    let ratio = gateway.median(Run::both_us) / ours.median(Run::both_us);
    let beside = ours.median(Run::sender_us) / bare.median(Run::sender_us);
    if per_s < 1_000 {
        verdict("the gateway takes, in times of the CPU of rollcall and etcd", ratio, 5.0, Wanted::AtLeast);
        println!("  rollcall's own CPU in times of the bare loop's: {beside:.2}");
    } else {
        verdict("rollcall's own CPU in times of the bare loop's", beside, 1.3, Wanted::AtMost);
        let beside = ours.median(Run::sender_us) / gathered.median(Run::sender_us);
        println!("  rollcall's own CPU in times of the bare loop's with one write per 20 ms: {beside:.2}");
        verdict("the gateway takes, in times of the CPU of rollcall and etcd", ratio, 75.0, Wanted::AtLeast);
        let alone = gateway.median(Run::both_us) / ours.median(Run::sender_us);
        println!("  the gateway takes, in times of the CPU of rollcall alone: {alone:.2}");
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a message's size")]
fn whole(bytes: f64) -> usize {
    bytes.round() as usize
}

/// Rollcall's stream.
pub async fn rollcall(streams: u64, per_s: u32, length: Duration) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let server = load::server(&etcd).await;
    let readers = Readers::settled(&load::stream(&server), streams).await?;
    run(&readers, Some(server.pid()), Some(etcd.pid()), load::puts(&etcd, per_s, length)).await
}

/// The gateway's watches.
pub async fn through_gateway(streams: u64, per_s: u32, length: Duration) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let readers = Readers::settled(&gateway::target(&etcd), streams).await?;
    run(&readers, None, Some(etcd.pid()), load::puts(&etcd, per_s, length)).await
}

/// The bare loop.
pub async fn alone(streams: u64, sending: Sending) -> anyhow::Result<Run> {
    let mut bare = Bare::start().await?;
    let readers = bare.readers(streams).await?;
    let pid = bare.pid();
    let sent = async {
        bare.begin(sending).await?;
        bare.answer().await
    };
    run(&readers, Some(pid), None, sent).await
}

/// Measures while changes are made.
pub async fn run(
    readers: &Readers,
    sender: Option<u32>,
    etcd: Option<u32>,
    changes: impl Future<Output = anyhow::Result<u64>>,
) -> anyhow::Result<Run> {
    let cpu = |pid: Option<u32>| pid.map_or(Ok(Duration::ZERO), cpu);
    let (sender_before, etcd_before, before) = (cpu(sender)?, cpu(etcd)?, readers.totals());
    drop(readers.take_delays());
    let changes = changes.await?;
    readers.trail(before.deliveries + changes * readers.streams(), TRAIL_MAX).await;
    let now = readers.totals();
    Ok(Run {
        changes,
        deliveries: now.deliveries - before.deliveries,
        bytes: now.bytes - before.bytes,
        sender: cpu(sender)?.saturating_sub(sender_before),
        etcd: cpu(etcd)?.saturating_sub(etcd_before),
        delays: readers.take_delays(),
        closed: readers.closed(),
    })
}
