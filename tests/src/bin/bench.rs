//! `cargo xtask bench`: what a change costs on its way out, measured beside another way of doing the same in one run.
//!
//! `latency`: put → message, at idle, on a raw gRPC watch and on the server's stream, both listening at once.
//! `fanout`: CPU of server and etcd a delivery (one change on one stream), beside etcd's own `/v3/watch` gateway.

use std::{
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use etcd_client::WatchOptions;
use rollcall_tests::{Etcd, Server, kratos};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

const PREFIX: &str = "/microservices/";

/// How many changes `latency` times, one after the other.
const LATENCY_SAMPLES: usize = 500;

/// Changes before that which are not timed: connections and code get warm.
const LATENCY_WARM_UP: usize = 20;

/// How long the line is left alone between two timed changes.
const LATENCY_REST: Duration = Duration::from_millis(8);

const FANOUT_STREAMS: usize = 200;
const FANOUT_CHANGES_PER_S: [u32; 2] = [1_000, 100];
const FANOUT_RUN: Duration = Duration::from_secs(10);

/// How often both ways are measured at each rate, by turns.
const FANOUT_ROUNDS: u32 = 2;

/// How long deliveries may trail behind the last change.
const FANOUT_TRAIL_MAX: Duration = Duration::from_secs(10);

/// How many instances change, in turn.
const FANOUT_KEYS: u32 = 200;

/// Linux counts CPU time in hundredths of a second, whatever the kernel's own tick is.
const CPU_TICKS_PER_S: u32 = 100;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("no runtime").and_then(|runtime| {
        runtime.block_on(async {
            match name.as_str() {
                "latency" => Box::pin(latency()).await,
                "fanout" => Box::pin(fanout()).await,
                other => bail!("there is no benchmark {other:?}; there are latency and fanout"),
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A value whose version is the change's number, so that either reader can tell which change it sees.
fn value(id: u32, number: u64) -> String {
    kratos("bench", &id.to_string(), "http://10.0.0.1:8000").replace("\"v1\"", &format!("\"n{number}n\""))
}

async fn latency() -> anyhow::Result<()> {
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
    let stream = open(&server.address(), &get(&server)).await?;
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
    for number in 0..LATENCY_WARM_UP + LATENCY_SAMPLES {
        sleep(LATENCY_REST).await;
        let start = Instant::now();
        client.put(format!("{PREFIX}bench/1"), value(1, number as u64), None).await?;
        let raw_at = arrival(&mut raw, number as u64).await.context("the raw watch is silent")?;
        let sse_at = arrival(&mut sse, number as u64).await.context("the stream is silent")?;
        if number >= LATENCY_WARM_UP {
            raw_times.push(micros(raw_at - start));
            sse_times.push(micros(sse_at - start));
            differences.push(micros(sse_at - start) - micros(raw_at - start));
        }
    }
    raw_reader.abort();
    sse_reader.abort();
    println!("put → message, {LATENCY_SAMPLES} changes at idle, in ms          p50      p99");
    for (what, times) in [
        ("raw gRPC watch", &mut raw_times),
        ("rollcall's stream", &mut sse_times),
        ("difference, pairwise", &mut differences),
    ] {
        times.sort_unstable();
        println!("  {what:<44} {:>8.3} {:>8.3}", millis(percentile(times, 50)), millis(percentile(times, 99)));
    }
    println!(
        "p50 of the stream − p50 of the raw watch: {:+.3} ms (the bound is +0.5 ms)",
        millis(percentile(&sse_times, 50) - percentile(&raw_times, 50))
    );
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

/// What one run of `fanout` gave.
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    changes: u64,
    deliveries: u64,
    bytes: u64,
    cpu: Duration,
}

impl Run {
    fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.deliveries += other.deliveries;
        self.bytes += other.bytes;
        self.cpu += other.cpu;
    }

    fn micros_a_delivery(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count(self.deliveries)
    }
}

fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX)).max(1.0)
}

async fn fanout() -> anyhow::Result<()> {
    let etcd = Etcd::spawn().await;
    let mut client = etcd.client().await;
    println!(
        "etcd {}; {FANOUT_STREAMS} streams, runs of {} s by turns; CPU is etcd's and the server's, the readers' is not",
        client.status().await?.version(),
        FANOUT_RUN.as_secs()
    );
    for id in 0..FANOUT_KEYS {
        client.put(format!("{PREFIX}bench/{id}"), value(id, 0), None).await?;
    }
    println!(
        "{:<34} {:>8} {:>12} {:>10} {:>10} {:>16} {:>14}",
        "", "changes", "deliveries", "missing", "CPU s", "µs a delivery", "bytes each"
    );
    for rate in FANOUT_CHANGES_PER_S {
        let (mut ours, mut gateway) = (Run::default(), Run::default());
        for _ in 0..FANOUT_ROUNDS {
            let server = Server::start_with(&etcd, &["--watch", "kratos=/microservices/"]).await;
            let request = get(&server);
            ours.add(run(&etcd, Some(&server), &server.address(), &request, b"{\"put\":", rate).await?);
            drop(server);
            let request = gateway_watch(&etcd);
            gateway.add(run(&etcd, None, &etcd.address(), &request, b"\"kv\":", rate).await?);
        }
        for (what, run) in [("rollcall", ours), ("etcd's /v3/watch gateway", gateway)] {
            let due = run.changes * FANOUT_STREAMS as u64;
            println!(
                "{:<34} {:>8} {:>12} {:>10} {:>10.2} {:>16.2} {:>14.0}",
                format!("{what}, {rate} changes/s"),
                run.changes,
                run.deliveries,
                due.saturating_sub(run.deliveries),
                run.cpu.as_secs_f64(),
                run.micros_a_delivery(),
                count(run.bytes / 100) * 100.0 / count(run.deliveries),
            );
        }
        println!(
            "  the gateway takes {:.1} times the CPU of rollcall for a delivery (the bound is 3)",
            gateway.micros_a_delivery() / ours.micros_a_delivery()
        );
    }
    Ok(())
}

async fn run(
    etcd: &Etcd,
    server: Option<&Server>,
    address: &str,
    request: &str,
    needle: &'static [u8],
    rate: u32,
) -> anyhow::Result<Run> {
    let pids: Vec<u32> = [Some(etcd.pid()), server.map(Server::pid)].into_iter().flatten().collect();
    let readers = Readers::start(address, request, needle)?;
    readers.settled().await?;
    let (cpu, deliveries, bytes) = (cpu_of(&pids)?, readers.deliveries(), readers.bytes());
    let changes = write(etcd, rate).await?;
    let due = deliveries + changes * FANOUT_STREAMS as u64;
    let trail = Instant::now();
    while readers.deliveries() < due && trail.elapsed() < FANOUT_TRAIL_MAX {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(Run {
        changes,
        deliveries: readers.deliveries() - deliveries,
        bytes: readers.bytes() - bytes,
        cpu: cpu_of(&pids)?.saturating_sub(cpu),
    })
}

/// Writes for the length of a run at a steady rate, as far as etcd keeps up, and gives the number of changes.
async fn write(etcd: &Etcd, rate: u32) -> anyhow::Result<u64> {
    const WRITERS: u32 = 10;
    let start = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let mut client = etcd.client().await;
        tasks.push(tokio::spawn(async move {
            // One writer after the other: changes that came in bursts would flatter whoever puts them together.
            let first = start + Duration::from_secs(1) * writer / rate;
            let mut ticks = interval_at(first, Duration::from_secs(1) * WRITERS / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut number = 0_u64;
            while start.elapsed() < FANOUT_RUN {
                ticks.tick().await;
                let id = (u32::try_from(number).unwrap_or_default() * WRITERS + writer) % FANOUT_KEYS;
                number += 1;
                client.put(format!("{PREFIX}bench/{id}"), value(id, number), None).await?;
            }
            Ok::<u64, etcd_client::Error>(number)
        }));
    }
    let mut changes = 0;
    for task in tasks {
        changes += task.await??;
    }
    Ok(changes)
}

/// Many sockets read in one thread, counting a needle in what comes.
struct Readers {
    deliveries: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Readers {
    fn start(address: &str, request: &str, needle: &'static [u8]) -> anyhow::Result<Self> {
        let readers =
            Self { deliveries: Arc::default(), bytes: Arc::default(), open: Arc::default(), stop: Arc::default() };
        let (deliveries, bytes) = (Arc::clone(&readers.deliveries), Arc::clone(&readers.bytes));
        let (open_count, stop) = (Arc::clone(&readers.open), Arc::clone(&readers.stop));
        let (address, request) = (address.to_owned(), request.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                for _ in 0..FANOUT_STREAMS {
                    let Ok(stream) = open(&address, &request).await else { return };
                    open_count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(read(stream, needle, Arc::clone(&deliveries), Arc::clone(&bytes)));
                }
                while !stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(50)).await;
                }
            });
        });
        Ok(readers)
    }

    /// Waits until every stream stands and nothing more comes of what stood before.
    async fn settled(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut bytes = u64::MAX;
        while self.open.load(Ordering::Relaxed) < FANOUT_STREAMS as u64 || bytes != self.bytes() {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("only {} of {FANOUT_STREAMS} streams came to stand", self.open.load(Ordering::Relaxed));
            }
            bytes = self.bytes();
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn read(stream: TcpStream, needle: &'static [u8], deliveries: Arc<AtomicU64>, bytes: Arc<AtomicU64>) {
    let mut buffer = vec![0; 256 * 1024];
    // The end of what was read before stands in front, so that a needle cut in two is found.
    let mut kept = 0;
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut buffer[kept..]) {
            Ok(0) => return,
            Ok(read) => {
                let filled = kept + read;
                bytes.fetch_add(read as u64, Ordering::Relaxed);
                deliveries.fetch_add(occurrences(&buffer[..filled], needle), Ordering::Relaxed);
                kept = filled.min(needle.len() - 1);
                buffer.copy_within(filled - kept..filled, 0);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> u64 {
    let (first, rest) = needle.split_first().expect("a needle is not empty");
    let mut found = 0;
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        found += u64::from(left.starts_with(rest));
    }
    found
}

async fn open(address: &str, request: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

fn get(server: &Server) -> String {
    format!("GET /api/v1/events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", server.address())
}

fn gateway_watch(etcd: &Etcd) -> String {
    let end = format!("{}0", PREFIX.trim_end_matches('/'));
    let body = format!(
        r#"{{"create_request":{{"key":"{}","range_end":"{}"}}}}"#,
        STANDARD.encode(PREFIX),
        STANDARD.encode(end)
    );
    format!(
        "POST /v3/watch HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        etcd.address(),
        body.len()
    )
}

/// The CPU time that these processes took so far, in user and in system mode.
fn cpu_of(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut ticks = 0_u32;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("CPU time is read from Linux' /proc")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime are the 14th and 15th field; the first two stand before the closing bracket.
        for field in [11, 12] {
            ticks += fields.get(field).and_then(|text| text.parse::<u32>().ok()).context("an odd /proc/PID/stat")?;
        }
    }
    Ok(Duration::from_secs(1) * ticks / CPU_TICKS_PER_S)
}
