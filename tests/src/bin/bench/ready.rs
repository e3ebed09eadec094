//! `ready`: how long a server takes from its start until it is ready over 100,000 instances, beside one raw range of
//! them; and how long a reader waits for its snapshot.

use std::time::Duration;

use anyhow::{Context as _, bail};
use etcd_client::GetOptions;
use rollcall_tests::{Etcd, Process, etcd::free_port, server::rollcall};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    Plan, load,
    readers::{PLAIN, Target, open},
    table::{Table, Wanted, median, verdict},
};

const INSTANCES: u32 = 100_000;

/// As many keys a page as the server asks for.
const PAGE_KEYS: i64 = 2_000;

const READY_MAX: Duration = Duration::from_mins(1);

/// How often it is asked whether it is ready.
const ASK: Duration = Duration::from_millis(2);

/// Times in ms.
#[derive(Debug, Default)]
struct Times {
    whole: Vec<f64>,
    paged: Vec<f64>,
    ready: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    mib: Vec<f64>,
}

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    println!("{INSTANCES} instances; {} rounds by turns, medians", plan.rounds());
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, INSTANCES).await?;
    let mut times = Times::default();
    for _ in 0..plan.rounds() {
        times.paged.push(ranged(&etcd, PAGE_KEYS).await?);
        times.whole.push(ranged(&etcd, 0).await?);
        serve(&etcd, &mut times).await?;
    }
    let mut table = Table::new(&["ms"]);
    let medians = [&times.paged, &times.whole, &times.ready, &times.first, &times.second]
        .map(|times| median(times.iter().copied()));
    let [paged, whole, ready, ..] = medians;
    let names = [
        "raw gRPC range, in pages of 2,000",
        "raw gRPC range, in one",
        "rollcall, from its start until it is ready",
        "the whole snapshot at the first reader",
        "the whole snapshot at the second reader",
    ];
    for (name, ms) in names.iter().zip(medians) {
        table.row(*name, &[(ms, 1)]);
    }
    table.print();
    println!("  a snapshot has {:.1} MiB", median(times.mib.iter().copied()));
    verdict("ready, in times of the paged range", ready / paged, 1.3, Wanted::AtMost);
    println!("  ready, in times of the range in one: {:.2}", ready / whole);
    Ok(())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Reads all instances at one revision, from connecting to the last.
async fn ranged(etcd: &Etcd, page_keys: i64) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut kv = etcd.client().await.kv_client().max_decoding_message_size(usize::MAX);
    let (mut from, mut revision, mut keys) = (load::PREFIX.as_bytes().to_vec(), 0, 0);
    let end = format!("{}0", load::PREFIX.trim_end_matches('/'));
    loop {
        let options = GetOptions::new().with_range(end.as_str()).with_limit(page_keys).with_revision(revision);
        let page = kv.get(from, Some(options)).await?;
        keys += page.kvs().len();
        revision = page.header().context("an answer without a header")?.revision();
        match page.kvs().last() {
            Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
            _ => break,
        }
    }
    if keys != usize::try_from(INSTANCES)? {
        bail!("the range has {keys} keys");
    }
    Ok(ms(start))
}

async fn serve(etcd: &Etcd, times: &mut Times) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{}", free_port());
    let watch = ["--watch", "kratos=/microservices/"];
    let mut command = rollcall(["serve", "--endpoints", &etcd.url(), "--listen", &address]);
    command.args(watch);
    let start = Instant::now();
    let _server = Process::start("rollcall", command, "build it: `cargo xtask build`").gently();
    while !is_ready(&address).await {
        if start.elapsed() > READY_MAX {
            bail!("the server is not ready after {} s", READY_MAX.as_secs());
        }
        sleep(ASK).await;
    }
    times.ready.push(ms(start));
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    let target = Target { address, request, mark: PLAIN, one_of: 1 };
    // The first stays open, as a reader does.
    let (_first, first_ms, bytes) = snapshot(&target).await?;
    let (_second, second_ms, _) = snapshot(&target).await?;
    times.first.push(first_ms);
    times.second.push(second_ms);
    times.mib.push(f64::from(u32::try_from(bytes)?) / 1024.0 / 1024.0);
    Ok(())
}

async fn is_ready(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer.ends_with(b" 200"))
    };
    matches!(timeout(Duration::from_secs(5), ask).await, Ok(Ok(true)))
}

/// Reads a snapshot to the end of its last part: how long that took in ms, and its bytes.
async fn snapshot(target: &Target) -> anyhow::Result<(TcpStream, f64, usize)> {
    const LAST: &[u8] = b"\"more\":false";
    let start = Instant::now();
    let mut stream = open(&target.address, &target.request).await?;
    let mut buffer = vec![0; 1024 * 1024];
    let (mut kept, mut bytes) = (0, 0);
    loop {
        let read = stream.read(&mut buffer[kept..]).await?;
        if read == 0 {
            bail!("the stream ended within the snapshot");
        }
        bytes += read;
        let filled = kept + read;
        if buffer[..filled].windows(LAST.len()).any(|window| window == LAST) {
            return Ok((stream, ms(start), bytes));
        }
        kept = filled.min(LAST.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
}
