//! `stalled`: what a thousand readers notice of ten more that stop reading, and what these take of the server's memory.

use std::time::Duration;

use rollcall_tests::Etcd;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    Plan, load,
    readers::{Readers, Target},
    table::{Table, Wanted, float, median, verdict},
    usage::memory,
    ways::{Run, run},
};

const STREAMS: u64 = 1_000;
const CHANGES_PER_S: u32 = 20;
const STALLED: usize = 10;

/// Large enough that the kernel's buffers of those who do not read are full within a second or two.
const PADDING_BYTES: usize = 8 * 1024;

/// The kernel makes at least a few KiB of it.
const STALLED_BUFFER_BYTES: u32 = 4 * 1024;

/// How long the end of a stream that was cut off may take to come.
const END_WAIT: Duration = Duration::from_millis(500);

struct Round {
    run: Run,
    grown_mib: f64,
    /// How many of those that did not read were cut off in the end.
    cut_off: u64,
}

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let (rounds, length) = if plan.quick { (1, 5) } else { (3, 20) };
    println!(
        "{STREAMS} readers, {CHANGES_PER_S} changes/s of {} KiB; {rounds} runs of {length} s by turns, medians",
        PADDING_BYTES / 1024
    );
    let (mut free, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        free.push(round(0, Duration::from_secs(length)).await?);
        beside.push(round(STALLED, Duration::from_secs(length)).await?);
    }
    let mut table = Table::new(&["missing", "p50 ms", "p99 ms", "cores", "cut off", "server's memory grew, MiB"]);
    let mut row = |name: &str, rounds: &[Round]| {
        let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
        let p99 = of(|round| round.run.delays.percentile_ms(99));
        table.row(
            name,
            &[
                (of(|round| round.run.missing(STREAMS)), 0),
                (of(|round| round.run.delays.percentile_ms(50)), 2),
                (p99, 2),
                (of(|round| round.run.sender.as_secs_f64() / round.run.took.as_secs_f64()), 3),
                (of(|round| float(round.cut_off)), 0),
                (of(|round| round.grown_mib), 1),
            ],
        );
        p99
    };
    let p99_free = row("all read", &free);
    let p99_beside = row("and ten that stopped reading", &beside);
    table.print();
    verdict("p99 of those who read, beside those who do not", p99_beside / p99_free, 1.1, Wanted::AtMost);
    Ok(())
}

async fn round(stalled: usize, length: Duration) -> anyhow::Result<Round> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let server = load::server(&etcd).await;
    let target = load::stream(&server);
    let readers = Readers::settled(&target, STREAMS).await?;
    let mut silent = Vec::new();
    for _ in 0..stalled {
        silent.push(stop_reading(&target).await?);
    }
    let before = memory(server.pid())?;
    let changes = load::padded_puts(&etcd, CHANGES_PER_S, length, PADDING_BYTES);
    let run = run(&readers, &[server.pid()], Some(etcd.pid()), changes).await?;
    let grown_mib = (memory(server.pid())?.rss - before.rss) / 1024.0;
    let mut cut_off = 0;
    for stream in silent {
        cut_off += u64::from(ends(stream).await);
    }
    Ok(Round { run, grown_mib, cut_off })
}

/// Whether a stream ends behind what of it waits to be read.
async fn ends(mut stream: TcpStream) -> bool {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match timeout(END_WAIT, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

/// A stream that is asked for and never read.
async fn stop_reading(target: &Target) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(STALLED_BUFFER_BYTES)?;
    let mut stream = socket.connect(target.address.parse()?).await?;
    stream.write_all(target.request.as_bytes()).await?;
    Ok(stream)
}
