//! What a caller sees of an instance that is killed: beside tonic's own balancing over the same addresses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rollcall_helloworld::greeter_client::GreeterClient;
use rollcall_registry::{
    Discovery, DiscoveryConfig, Layout,
    call::{CallConfig, Retry, grpc},
};
use rollcall_tests::{Etcd, Process};
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};
use tonic::transport::{Channel, Endpoint};

use super::{
    calls::{request, target},
    child, connection, prefix,
};
use crate::{
    Plan,
    table::{Table, Wanted, float, verdict},
};

const INSTANCES: usize = 3;
const CALLS_PER_S: u32 = 1_000;

/// How many calls may wait for their answers; more would be a caller's own fault.
const WAITING_MAX: usize = 10_000;

/// What became of the calls.
#[derive(Default)]
struct Run {
    calls: u64,
    failed: u64,
    slowest: Duration,
    first_failure: Option<String>,
}

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let rounds = plan.rounds();
    let length = plan.run() * 2;
    println!(
        "{INSTANCES} instances, {CALLS_PER_S} calls/s for {} s, two of the instances killed meanwhile; {rounds} rounds by turns, sums",
        length.as_secs()
    );
    let (mut ours, mut theirs) = (Run::default(), Run::default());
    for _ in 0..rounds {
        let (etcd, servers) = servers().await?;
        let discovery = Discovery::new(connection(&etcd.url()), DiscoveryConfig::new(Layout::Kratos, prefix()));
        let config = CallConfig { retry: Retry::all(), ..CallConfig::default() };
        let client = GreeterClient::new(grpc::Channel::connect(&target(), &discovery, config)?);
        let call = move || {
            let mut client = client.clone();
            async move { client.say_hello(request()).await.map(drop).map_err(|status| status.to_string()) }
        };
        ours.add(calls(length, servers, call).await);
        let (_etcd, servers) = self::servers().await?;
        let endpoints: Result<Vec<_>, _> =
            servers.iter().map(|(_, address)| Endpoint::from_shared(format!("http://{address}"))).collect();
        let client = GreeterClient::new(Channel::balance_list(endpoints?.into_iter()));
        let call = move || {
            let mut client = client.clone();
            async move { client.say_hello(request()).await.map(drop).map_err(|status| status.to_string()) }
        };
        theirs.add(calls(length, servers, call).await);
    }
    let mut table = Table::new(&["calls", "failed", "slowest ms"]);
    for (name, run) in [("discovery:///, with retry", &ours), ("tonic's balance_list, without", &theirs)] {
        let slowest = run.slowest.as_secs_f64() * 1e3;
        table.row(name, &[(float(run.calls), 0), (float(run.failed), 0), (slowest, 0)]);
    }
    table.print();
    for (name, run) in [("discovery:///", &ours), ("tonic", &theirs)] {
        if let Some(why) = &run.first_failure {
            println!("  {name}: the first failure was {why}");
        }
    }
    verdict("calls that failed by name", float(ours.failed), 0.0, Wanted::AtMost);
    Ok(())
}

async fn servers() -> anyhow::Result<(Etcd, Vec<(Process, String)>)> {
    let etcd = Etcd::spawn().await;
    let mut servers = Vec::new();
    for id in 0..INSTANCES {
        servers.push(child::start(&["greet", &etcd.url(), &id.to_string()]).await?);
    }
    Ok((etcd, servers))
}

impl Run {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.slowest = self.slowest.max(other.slowest);
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

/// Calls at their times, whether or not those before are answered, and kills all of `servers` but the last meanwhile.
async fn calls<F>(length: Duration, mut servers: Vec<(Process, String)>, call: impl Fn() -> F) -> Run
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    // What the first calls do is connect: that is not what is measured.
    for _ in 0..INSTANCES * 10 {
        drop(call().await);
    }
    let waiting = Arc::new(Semaphore::new(WAITING_MAX));
    let mut ticks = interval(Duration::from_secs(1) / CALLS_PER_S);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let kills = servers.len() - 1;
    let kill_every = length / u32::try_from(servers.len()).unwrap_or(1);
    let start = Instant::now();
    let mut made = Vec::new();
    while start.elapsed() < length {
        ticks.tick().await;
        let killed = INSTANCES - servers.len();
        if killed < kills && start.elapsed() > kill_every * u32::try_from(killed + 1).unwrap_or(1) {
            servers.remove(0).0.kill();
        }
        let permit = Arc::clone(&waiting).acquire_owned().await;
        let calling = call();
        made.push(tokio::spawn(async move {
            let begun = Instant::now();
            let outcome = calling.await;
            drop(permit);
            (outcome, begun.elapsed())
        }));
    }
    let mut run = Run::default();
    for made in made {
        let (outcome, took) = made.await.unwrap_or_else(|error| (Err(error.to_string()), Duration::ZERO));
        run.add(Run { calls: 1, failed: u64::from(outcome.is_err()), slowest: took, first_failure: outcome.err() });
    }
    run
}
