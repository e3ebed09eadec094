//! What it takes to keep registrations alive, beside etcd-client alone, which opens a stream for each lease.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rollcall_tests::Etcd;
use tokio::time::sleep;

use super::child;
use crate::{
    Plan,
    table::{Table, Wanted, median, verdict},
    usage::{cpu, memory},
};

/// How many are kept.
const COUNT: u32 = 10_000;

/// Renewals of the first moments are left out: registering has put them close together.
const SETTLE: Duration = Duration::from_secs(5);

struct Run {
    /// CPU in cores.
    client: f64,
    etcd: f64,
    streams: f64,
    client_mib: f64,
    kept: f64,
}

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let (rounds, length) = (plan.rounds(), Duration::from_secs(if plan.quick { 15 } else { 30 }));
    println!(
        "{COUNT} registrations kept alive at a TTL of {} s, by a process of its own, for {} s; {rounds} rounds by turns, medians",
        child::TTL_S,
        length.as_secs()
    );
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let run = kept("keep", length).await?;
        ensure!(run.kept >= f64::from(COUNT), "of {COUNT} registrations {} still stand", run.kept);
        ours.push(run);
        raw.push(kept("keep-by-hand", length).await?);
    }
    let mut table = Table::new(&["CPU %", "etcd CPU %", "streams", "MiB", "kept"]);
    let mut row = |name: &str, runs: &[Run]| {
        let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
        let (client, streams) = (of(|run| run.client * 100.0), of(|run| run.streams));
        let more = (of(|run| run.client_mib), of(|run| run.kept));
        table.row(name, &[(client, 1), (of(|run| run.etcd * 100.0), 1), (streams, 0), (more.0, 0), (more.1, 0)]);
        (client, streams)
    };
    let (cpu, streams) = row("Registrar", &ours);
    row("etcd-client alone, a stream a lease", &raw);
    table.print();
    verdict("per cent of a core", cpu, 10.0, Wanted::AtMost);
    verdict("streams to etcd", streams, 64.0, Wanted::AtMost);
    Ok(())
}

async fn kept(how: &str, length: Duration) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    let (process, _) = child::start(&[how, &etcd.url(), &COUNT.to_string()]).await?;
    sleep(SETTLE).await;
    let before = (cpu(process.pid())?, cpu(etcd.pid())?);
    sleep(length).await;
    let cores = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64() / length.as_secs_f64();
    let (client, server) = (cores(cpu(process.pid())?, before.0), cores(cpu(etcd.pid())?, before.1));
    let standing = u32::try_from(etcd.keys("/microservices/").await.len()).unwrap_or(u32::MAX);
    Ok(Run {
        client,
        etcd: server,
        streams: streams(&etcd).await?,
        client_mib: memory(process.pid())?.rss / 1_024.0,
        kept: f64::from(standing),
    })
}

/// How many streams of renewals etcd has open: those begun without those ended.
async fn streams(etcd: &Etcd) -> anyhow::Result<f64> {
    let text = reqwest::get(format!("{}/metrics", etcd.url())).await?.text().await?;
    let sum = |counter: &str| {
        let lines = text.lines().filter(|line| line.starts_with(counter) && line.contains("\"LeaseKeepAlive\""));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    let begun = sum("grpc_server_started_total");
    (begun > 0.0).then(|| begun - sum("grpc_server_handled_total")).context("etcd counts no streams of renewals")
}
