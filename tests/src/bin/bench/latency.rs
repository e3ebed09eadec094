//! `latency`: put → message, at idle, on a raw gRPC watch and on the server's stream, both listening at once; then on
//! 200 streams under load, beside the gateway's.

use std::time::Duration;

use anyhow::Context as _;
use etcd_client::WatchOptions;
use rollcall_tests::{Etcd, Server, kratos};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    Plan,
    load::{self, PREFIX},
    readers::open,
    table::{Table, Wanted, verdict},
    ways::{Way, rollcall, through_gateway},
};

/// How many changes are timed, one after the other.
const SAMPLES: usize = 500;

/// Changes before that which are not timed: connections and code get warm.
const WARM_UP: usize = 20;

/// How long the line is left alone between two timed changes.
const REST: Duration = Duration::from_millis(8);

/// A value whose version is the change's number, so that either reader can tell which change it sees.
fn value(id: u32, number: u64) -> String {
    kratos("bench", &id.to_string(), "http://10.0.0.1:8000").replace("\"v1\"", &format!("\"n{number}n\""))
}

const STREAMS: u64 = 200;
const CHANGES_PER_S: u32 = 100;

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    Box::pin(one()).await?;
    println!(
        "put → message on {STREAMS} streams at {CHANGES_PER_S} changes/s; {} runs of {} s by turns, medians",
        plan.rounds(),
        plan.run().as_secs()
    );
    let (mut ours, mut gateway) = (Way::new("rollcall"), Way::new("etcd's /v3/watch gateway"));
    for _ in 0..plan.rounds() {
        ours.add(rollcall(STREAMS, CHANGES_PER_S, plan.run()).await?);
        gateway.add(through_gateway(STREAMS, CHANGES_PER_S, plan.run()).await?);
    }
    let mut table = Table::new(&["p50 ms", "p99 ms"]);
    let p99 = |way: &Way| way.median(|run| run.delays.percentile_ms(99));
    for way in [&ours, &gateway] {
        table.row(way.name, &[(way.median(|run| run.delays.percentile_ms(50)), 2), (p99(way), 2)]);
    }
    table.print();
    verdict("p99 of rollcall in times of the gateway's", p99(&ours) / p99(&gateway), 0.5, Wanted::AtMost);
    Ok(())
}

async fn one() -> anyhow::Result<()> {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let (raw_seen, mut raw) = mpsc::unbounded_channel();
    let (sse_seen, mut sse) = mpsc::unbounded_channel();

    let mut watcher = etcd.client().await;
    let mut watch = watcher.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    let raw_reader = tokio::spawn(async move {
        while let Ok(Some(response)) = watch.message().await {
            let now = Instant::now();
            for event in response.events() {
                if let Some(number) = event.kv().and_then(|kv| number_in(kv.value())) {
                    let _ = raw_seen.send((number, now));
                }
            }
        }
    });
    let target = load::stream(&server);
    let stream = open(&target.address, &target.request).await?;
    let sse_reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    let now = Instant::now();
                    if let Some(number) = number_in(&buffer[..read]) {
                        let _ = sse_seen.send((number, now));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    });

    let mut client = etcd.client().await;
    let (mut raw_times, mut sse_times, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM_UP + SAMPLES {
        sleep(REST).await;
        let start = Instant::now();
        client.put(format!("{PREFIX}bench/1"), value(1, number as u64), None).await?;
        let raw_at = arrival(&mut raw, number as u64).await.context("the raw watch is silent")?;
        let sse_at = arrival(&mut sse, number as u64).await.context("the stream is silent")?;
        if number >= WARM_UP {
            raw_times.push(micros(raw_at - start));
            sse_times.push(micros(sse_at - start));
            differences.push(micros(sse_at - start) - micros(raw_at - start));
        }
    }
    raw_reader.abort();
    sse_reader.abort();
    println!("put → message, {SAMPLES} changes at idle, in ms          p50      p99");
    for (what, times) in [
        ("raw gRPC watch", &mut raw_times),
        ("rollcall's stream", &mut sse_times),
        ("difference, pairwise", &mut differences),
    ] {
        times.sort_unstable();
        println!("  {what:<44} {:>8.3} {:>8.3}", millis(percentile(times, 50)), millis(percentile(times, 99)));
    }
    for (percent, target) in [(50, 0.25), (99, 0.5)] {
        let more = millis(percentile(&sse_times, percent) - percentile(&raw_times, percent));
        verdict(
            &format!("p{percent} of the stream − p{percent} of the raw watch, in ms"),
            more,
            target,
            Wanted::AtMost,
        );
    }
    Ok(())
}

async fn arrival(seen: &mut mpsc::UnboundedReceiver<(u64, Instant)>, number: u64) -> Option<Instant> {
    let wait = async {
        while let Some((seen, at)) = seen.recv().await {
            if seen == number {
                return Some(at);
            }
        }
        None
    };
    timeout(Duration::from_secs(10), wait).await.ok().flatten()
}

/// The last change's number in some bytes of a value or a message.
fn number_in(bytes: &[u8]) -> Option<u64> {
    let needle = b"\"version\":\"n";
    let start = bytes.windows(needle.len()).rposition(|window| window == needle)? + needle.len();
    let digits = bytes[start..].split(|byte| *byte == b'n').next()?;
    str::from_utf8(digits).ok()?.parse().ok()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis(micros: i64) -> f64 {
    f64::from(i32::try_from(micros).unwrap_or(i32::MAX)) / 1_000.0
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
