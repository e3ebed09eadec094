//! What it costs to ask for a service's instances once they are known, beside a map in the program's own memory.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Arc, Barrier, RwLock},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use foldhash::fast::RandomState;
use rollcall_registry::{Discovery, DiscoveryConfig, Instances, Layout, Scope};
use rollcall_tests::{Etcd, eventually, seconds};
use tokio::runtime::Handle;

use super::{connection, prefix};
use crate::{
    Plan,
    table::{Table, Wanted, median, verdict},
};

const SERVICES: u32 = 1_000;
const INSTANCES: u32 = 100;

/// How often each thread asks in one run.
const LOOKUPS: u32 = 1_000_000;

/// Runs of each way for each of the plan's rounds: one lasts some tens of milliseconds.
const RUNS: usize = 7;

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let runs = plan.rounds() * RUNS;
    println!(
        "get_service from memory, {SERVICES} services × {INSTANCES} instances; ns a call, {runs} runs by turns, medians"
    );
    let etcd = Etcd::spawn().await;
    let names: Vec<String> = (0..SERVICES).map(|number| format!("service-{number:04}")).collect();
    for name in &names {
        etcd.fill(name, INSTANCES).await;
    }
    let config = DiscoveryConfig { scope: Scope::All, ..DiscoveryConfig::new(Layout::Kratos, prefix()) };
    let discovery = Discovery::new(connection(&etcd.url()), config);
    let mut map: HashMap<String, Instances> = HashMap::new();
    for name in &names {
        let found = eventually("the service is known", seconds(60), || async {
            match discovery.get_service(name).await {
                Ok(found) if found.len() == INSTANCES as usize => Ok(found),
                other => Err(other.map(|found| found.len())),
            }
        })
        .await;
        map.insert(name.clone(), found);
    }
    let handle = Handle::current();
    // Off the runtime's own threads, as callers of it would not be: the same for each way.
    let measured = thread::spawn(move || by_turns(runs, &names, &discovery, &map, &handle)).join();
    let [one, two] = measured.ok().context("a thread that measured panicked")?;
    for (threads, ways) in [("1 thread", one), ("2 threads, each", two)] {
        let mut table = Table::new(&["ns"]);
        table.row(format!("Discovery::get_service, {threads}"), &[(ways.ours, 1)]);
        table.row("HashMap of Arcs, std's hasher (SipHash)", &[(ways.map, 1)]);
        table.row("HashMap of Arcs, foldhash, as Discovery has it", &[(ways.folded, 1)]);
        table.row("HashMap of Arcs, std's hasher, in an RwLock", &[(ways.locked, 1)]);
        table.print();
        let target = if threads == "1 thread" { 1.1 } else { 1.25 };
        verdict("of the time of the HashMap with std's hasher", ways.ours / ways.map, target, Wanted::AtMost);
    }
    Ok(())
}

/// ns a lookup.
struct Ways {
    ours: f64,
    map: f64,
    folded: f64,
    locked: f64,
}

fn by_turns(
    runs: usize,
    names: &[String],
    discovery: &Discovery,
    map: &HashMap<String, Instances>,
    handle: &Handle,
) -> [Ways; 2] {
    let locked = Arc::new(RwLock::new(map.clone()));
    let folded: HashMap<String, Instances, RandomState> =
        map.iter().map(|(name, all)| (name.clone(), Arc::clone(all))).collect();
    let order = |thread: u64| {
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        fastrand::Rng::with_seed(thread).shuffle(&mut names);
        names
    };
    let orders = [order(1), order(2)];
    let ask = |names: &[&str]| {
        handle.block_on(async {
            for name in names.iter().cycle().take(LOOKUPS as usize) {
                drop(black_box(discovery.get_service(name).await));
            }
        });
    };
    let look = |names: &[&str]| {
        for name in names.iter().cycle().take(LOOKUPS as usize) {
            drop(black_box(map.get(*name).cloned()));
        }
    };
    let look_folded = |names: &[&str]| {
        for name in names.iter().cycle().take(LOOKUPS as usize) {
            drop(black_box(folded.get(*name).cloned()));
        }
    };
    let look_locked = |names: &[&str]| {
        for name in names.iter().cycle().take(LOOKUPS as usize) {
            let found = locked.read().expect("nobody panics while writing").get(*name).cloned();
            drop(black_box(found));
        }
    };
    [1, 2].map(|threads| {
        let [mut ours, mut of_map, mut of_folded, mut of_locked] = [const { Vec::new() }; 4];
        for _ in 0..runs {
            ours.push(timed(&orders[..threads], &ask));
            of_map.push(timed(&orders[..threads], &look));
            of_folded.push(timed(&orders[..threads], &look_folded));
            of_locked.push(timed(&orders[..threads], &look_locked));
        }
        let ns = |runs: Vec<Duration>| median(runs.iter().map(|took| took.as_secs_f64() * 1e9 / f64::from(LOOKUPS)));
        Ways { ours: ns(ours), map: ns(of_map), folded: ns(of_folded), locked: ns(of_locked) }
    })
}

/// The longest time that a thread took; all begin at once.
fn timed(orders: &[Vec<&str>], work: &(impl Fn(&[&str]) + Sync)) -> Duration {
    let barrier = Barrier::new(orders.len());
    thread::scope(|scope| {
        let threads: Vec<_> = orders
            .iter()
            .map(|names| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    work(names);
                    start.elapsed()
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    })
}
