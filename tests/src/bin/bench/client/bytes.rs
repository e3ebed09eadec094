//! What is read from etcd for each event of a service with many instances, beside go-kratos' watcher, which reads them all.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use etcd_client::{Client, GetOptions, WatchOptions};
use rollcall_registry::{Discovery, DiscoveryConfig, Layout};
use rollcall_tests::{Etcd, FaultProxy, Process, eventually, seconds};
use tokio::time::sleep;

use super::{connection, encoded, instance, prefix};
use crate::{
    Plan,
    table::{Table, Wanted, float, verdict},
};

const SERVICE: &str = "pay";
const INSTANCES: u32 = 1_000;

/// The time between two events: nobody may take two of them for one.
const PAUSE: Duration = Duration::from_millis(50);

/// For how long nothing must come before all is taken to have come. Less than the pings of an idle connection.
const QUIET: Duration = Duration::from_secs(1);

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let events = if plan.quick { 20 } else { 100 };
    println!("bytes read from etcd for an event, {INSTANCES} instances, {events} events");
    let ours = discovery(events).await?;
    let by_hand = Box::pin(watch_and_range(events)).await?;
    let program = kratos_program();
    let kratos = if program.is_file() { kratos(&program, events).await? } else { f64::NAN };
    let mut table = Table::new(&["bytes"]);
    table.row("Discovery", &[(ours, 0)]);
    let built = if kratos.is_nan() { " (wants a Go: `cargo xtask bench client` builds it)" } else { "" };
    table.row(format!("go-kratos v2's watcher{built}"), &[(kratos, 0)]);
    table.row("the same by hand: a watch of keys, and a range at each event", &[(by_hand, 0)]);
    table.print();
    let (name, theirs) = if kratos.is_nan() { ("the one by hand", by_hand) } else { ("go-kratos", kratos) };
    verdict(&format!("bytes of {name}, of Discovery's"), theirs / ours, 500.0, Wanted::AtLeast);
    Ok(())
}

async fn filled() -> (Etcd, FaultProxy) {
    let etcd = Etcd::spawn().await;
    etcd.fill(SERVICE, INSTANCES).await;
    let line = FaultProxy::to(&etcd.address()).await;
    (etcd, line)
}

async fn discovery(events: u32) -> anyhow::Result<f64> {
    let (etcd, line) = filled().await;
    let discovery = Discovery::new(connection(&line.url()), DiscoveryConfig::new(Layout::Kratos, prefix()));
    let listed = discovery.get_service(SERVICE).await?.len();
    anyhow::ensure!(listed == INSTANCES as usize, "{listed} instances are listed");
    let read = read(&line, &etcd, events).await;
    let last = changed(events - 1).version;
    eventually("the last event is known", seconds(10), || async {
        let seen = discovery.get_service(SERVICE).await.map(|all| all[0].version.clone());
        if seen.as_deref() == Ok(&last) { Ok(()) } else { Err(seen) }
    })
    .await;
    Ok(read)
}

/// What go-kratos' `contrib/registry/etcd` does, in a few lines.
async fn watch_and_range(events: u32) -> anyhow::Result<f64> {
    let (etcd, line) = filled().await;
    let mut client = Client::connect([line.url()], None).await?;
    let all = format!("/microservices/{SERVICE}/");
    let mut watch = client.watch(all.as_str(), Some(WatchOptions::new().with_prefix())).await?;
    let mut reading = client.clone();
    reading.get(all.as_str(), Some(GetOptions::new().with_prefix())).await?;
    let task = tokio::spawn(async move {
        while let Ok(Some(_)) = watch.message().await {
            if reading.get(all.as_str(), Some(GetOptions::new().with_prefix())).await.is_err() {
                return;
            }
        }
    });
    let read = read(&line, &etcd, events).await;
    task.abort();
    Ok(read)
}

/// The program of `tests/interop` on go-kratos, where it is built.
fn kratos_program() -> PathBuf {
    let beside_this = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/interop");
    env::var_os("ROLLCALL_INTEROP").map_or_else(beside_this, PathBuf::from).join("kratos")
}

/// The real one, in a program that calls the service by its name; that nobody answers does not stop its watcher.
async fn kratos(program: &Path, events: u32) -> anyhow::Result<f64> {
    let (etcd, line) = filled().await;
    let mut command = Command::new(program);
    command.args(["call", "--etcd", &line.address(), "--name", SERVICE, "--over", "grpc", "--count", "0"]);
    let mut process = Process::start("go-kratos", command, "build it: `cargo xtask bench client`");
    process.stdout_line("it calls", seconds(20), |line| line.starts_with("ERR").then_some(())).await;
    Ok(read(&line, &etcd, events).await)
}

/// The bytes that came for each of so many events.
async fn read(line: &FaultProxy, etcd: &Etcd, events: u32) -> f64 {
    let before = quiet(line).await;
    let mut client = etcd.client().await;
    for number in 0..events {
        let (key, value) = encoded(&changed(number));
        client.put(key, value, None).await.expect("etcd takes a put");
        sleep(PAUSE).await;
    }
    float(quiet(line).await - before) / f64::from(events)
}

/// The first instance, as an event leaves it.
fn changed(number: u32) -> rollcall_registry::ServiceInstance {
    rollcall_registry::ServiceInstance {
        version: format!("v{number:04}"),
        ..instance(SERVICE, "000000", "http://10.0.0.0:8000")
    }
}

/// How many bytes have come once no more do.
async fn quiet(line: &FaultProxy) -> u64 {
    loop {
        let before = line.came();
        sleep(QUIET).await;
        if line.came() == before {
            return before;
        }
    }
}
