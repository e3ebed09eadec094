//! `memory`: what an idle stream takes in the server, beside an idle watch through etcd's gateway.

use std::time::Duration;

use rollcall_tests::Etcd;
use tokio::time::{Instant, sleep};

use crate::{
    Plan, gateway, load,
    readers::{Readers, Target},
    table::{Table, Wanted, float, median, verdict},
    usage::{Memory, memory},
};

const STREAMS: u64 = 5_000;

/// How many changes go to all streams before they are measured once more.
const CHANGES_PER_S: u32 = 10;

/// How long the memory must stand still, within `STILL_KIB`, and how long that may take.
const STILL: Duration = Duration::from_secs(2);
const STILL_KIB: f64 = 256.0;
const STILL_MAX: Duration = Duration::from_secs(30);

/// KiB a stream.
#[derive(Debug)]
struct Taken {
    opened: Memory,
    used: Memory,
}

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let rounds = plan.rounds();
    println!("{STREAMS} idle streams; growth in KiB a stream, {rounds} rounds by turns, medians");
    let (mut ours, mut gateways) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let etcd = Etcd::spawn().await;
        load::fill(&etcd, load::KEYS).await?;
        let server = load::server(&etcd).await;
        ours.push(taken(server.pid(), &load::stream(&server), &etcd).await?);
        drop(server);
        let etcd = Etcd::spawn().await;
        load::fill(&etcd, load::KEYS).await?;
        gateways.push(taken(etcd.pid(), &gateway::target(&etcd), &etcd).await?);
    }
    let mut table = Table::new(&["resident", "anonymous", "then, after 20 changes: resident", "anonymous"]);
    let mut row = |name: &str, all: &[Taken]| {
        let of = |figure: fn(&Taken) -> f64| median(all.iter().map(figure));
        let opened = of(|taken| taken.opened.rss);
        table.row(
            name,
            &[
                (opened, 1),
                (of(|taken| taken.opened.anonymous), 1),
                (of(|taken| taken.used.rss), 1),
                (of(|taken| taken.used.anonymous), 1),
            ],
        );
        opened
    };
    let (stream, watch) = (row("rollcall", &ours), row("etcd's /v3/watch gateway", &gateways));
    table.print();
    verdict("KiB of an idle stream", stream, 8.0, Wanted::AtMost);
    println!("  the gateway takes {:.1} times as much", watch / stream);
    Ok(())
}

async fn taken(pid: u32, target: &Target, etcd: &Etcd) -> anyhow::Result<Taken> {
    let before = still(pid).await?;
    let _readers = Readers::settled(target, STREAMS).await?;
    let opened = still(pid).await?;
    load::puts(etcd, CHANGES_PER_S, STILL).await?;
    let used = still(pid).await?;
    let each = |now: Memory| Memory {
        rss: (now.rss - before.rss) / float(STREAMS),
        anonymous: (now.anonymous - before.anonymous) / float(STREAMS),
    };
    Ok(Taken { opened: each(opened), used: each(used) })
}

/// The memory once it stands still.
async fn still(pid: u32) -> anyhow::Result<Memory> {
    let start = Instant::now();
    let mut seen = memory(pid)?;
    loop {
        sleep(STILL).await;
        let now = memory(pid)?;
        if (now.rss - seen.rss).abs() < STILL_KIB || start.elapsed() > STILL_MAX {
            return Ok(now);
        }
        seen = now;
    }
}
