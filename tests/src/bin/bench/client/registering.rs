//! How fast instances are registered, beside what etcd itself takes: a grant and a put for each.

use std::time::Duration;

use etcd_client::PutOptions;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rollcall_registry::{Layout, Registrar, RegistrarConfig, ServiceInstance};
use rollcall_tests::Etcd;
use tokio::time::Instant;

use super::{connection, encoded, instance, prefix};
use crate::{
    Plan,
    table::{Table, Wanted, median, verdict},
    usage::cpu,
};

/// How many are registered.
pub const COUNT: u32 = 10_000;

/// How many at once.
pub const CONCURRENCY: usize = 64;

/// Longer than a run, so that no renewal is measured.
const TTL_S: i64 = 120;

/// How all registrars here write.
pub fn config() -> RegistrarConfig {
    RegistrarConfig { layout: Layout::Kratos, prefix: prefix(), ttl_s: Some(TTL_S), takeover: false }
}

struct Run {
    took: Duration,
    client: Duration,
    etcd: Duration,
}

/// A run that goes on.
struct Running {
    start: Instant,
    client: Duration,
    etcd: Duration,
}

impl Running {
    fn start(etcd: &Etcd) -> anyhow::Result<Self> {
        Ok(Self { start: Instant::now(), client: cpu(std::process::id())?, etcd: cpu(etcd.pid())? })
    }

    fn end(self, etcd: &Etcd) -> anyhow::Result<Run> {
        Ok(Run {
            took: self.start.elapsed(),
            client: cpu(std::process::id())?.saturating_sub(self.client),
            etcd: cpu(etcd.pid())?.saturating_sub(self.etcd),
        })
    }
}

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let rounds = plan.rounds();
    println!("registering {COUNT} instances, {CONCURRENCY} at once; {rounds} rounds by turns, medians");
    let instances: Vec<ServiceInstance> =
        (0..COUNT).map(|number| instance("pay", &format!("{number:06}"), "http://10.0.0.1:8000")).collect();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        raw.push(by_hand(&instances).await?);
        ours.push(registrar(&instances).await?);
    }
    let rate = |runs: &[Run]| median(runs.iter().map(|run| f64::from(COUNT) / run.took.as_secs_f64()));
    let mut table = Table::new(&["a second", "client µs", "etcd µs"]);
    for (name, runs) in [("Registrar", &ours), ("grant and put by hand, one connection", &raw)] {
        let us =
            |of: fn(&Run) -> Duration| median(runs.iter().map(|run| of(run).as_secs_f64() * 1e6 / f64::from(COUNT)));
        table.row(name, &[(rate(runs), 0), (us(|run| run.client), 0), (us(|run| run.etcd), 0)]);
    }
    table.print();
    println!("  CPU for each");
    verdict("the registrar's rate, of that by hand", rate(&ours) / rate(&raw), 0.9, Wanted::AtLeast);
    Ok(())
}

async fn registrar(instances: &[ServiceInstance]) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    let registrar = Registrar::new(connection(&etcd.url()), config());
    let registering = instances.iter().map(|instance| registrar.register(instance));
    let running = Running::start(&etcd)?;
    let kept: Vec<_> = stream::iter(registering).buffer_unordered(CONCURRENCY).try_collect().await?;
    let run = running.end(&etcd)?;
    stand(&etcd).await?;
    drop(kept);
    Ok(run)
}

async fn by_hand(instances: &[ServiceInstance]) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    let client = etcd.client().await;
    let registering = instances.iter().map(|instance| {
        let mut client = client.clone();
        async move {
            let (key, value) = encoded(instance);
            let lease = client.lease_grant(TTL_S, None).await?.id();
            client.put(key, value, Some(PutOptions::new().with_lease(lease))).await
        }
    });
    let running = Running::start(&etcd)?;
    let _written: Vec<_> = stream::iter(registering).buffer_unordered(CONCURRENCY).try_collect().await?;
    let run = running.end(&etcd)?;
    stand(&etcd).await?;
    Ok(run)
}

/// What was registered stands.
async fn stand(etcd: &Etcd) -> anyhow::Result<()> {
    let standing = etcd.keys("/microservices/").await.len();
    anyhow::ensure!(standing == COUNT as usize, "{standing} of {COUNT} stand");
    Ok(())
}
