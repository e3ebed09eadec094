//! What it costs to choose an instance, beside a counter's modulo, and that nothing is allocated for it.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rollcall_registry::{
    ServiceInstance,
    balance::{Balancer, Ejection, Outcome, Picking, Protocol, Security, members},
};

use super::instance;
use crate::{
    Plan,
    table::{Table, Wanted, median, verdict},
};

const INSTANCES: u16 = 100;

/// How often is chosen in one run.
const PICKS: u32 = 5_000_000;

/// Runs of each way for each of the plan's rounds: one lasts some tens of milliseconds.
const RUNS: usize = 7;

const WAYS: [(&str, Picking); 3] = [
    ("round robin", Picking::RoundRobin),
    ("weighted, of ten weights", Picking::Weighted),
    ("power of two choices", Picking::PowerOfTwoChoices),
];

/// Measures, and prints.
pub fn measure(plan: Plan) {
    let runs = plan.rounds() * RUNS;
    println!("choosing one of {INSTANCES} instances; ns a choice, {runs} runs by turns, medians");
    let instances: Vec<Arc<ServiceInstance>> = (0..INSTANCES)
        .map(|number| {
            let mut instance = instance("pay", &number.to_string(), &format!("grpc://10.0.0.{number}:9000"));
            instance.metadata.insert("weight".to_owned(), (10 * (1 + number % 10)).to_string());
            Arc::new(instance)
        })
        .collect();
    let balancers = WAYS.map(|(_, picking)| balancer(picking, &instances));
    let turn = AtomicUsize::new(0);
    let mut modulo = Vec::new();
    let mut picked = WAYS.map(|_| (Vec::new(), Vec::new()));
    let mut allocations = [0; WAYS.len()];
    for _ in 0..runs {
        modulo.push(timed(|| {
            // As round robin is written by hand: the length is not known to the compiler.
            let all = black_box(&instances[..]);
            black_box(&all[turn.fetch_add(1, Ordering::Relaxed) % all.len()]);
        }));
        for ((balancer, runs), allocations) in balancers.iter().zip(&mut picked).zip(&mut allocations) {
            let mut picker = balancer.picker();
            let mut took = [Duration::ZERO; 2];
            let counted = allocation_counter::measure(|| {
                took[0] = timed(|| {
                    black_box(picker.pick());
                });
                took[1] = timed(|| {
                    black_box(balancer.snapshot().pick());
                });
            });
            *allocations += counted.count_total;
            runs.0.push(took[0]);
            runs.1.push(took[1]);
        }
    }
    let ns = |runs: &[Duration]| median(runs.iter().map(|took| took.as_secs_f64() * 1e9 / f64::from(PICKS)));
    let mut table = Table::new(&["Picker", "with the guard that a call takes", "allocations"]);
    let counter = ns(&modulo);
    table.row("an atomic counter's modulo", &[(counter, 2), (f64::NAN, 2), (0.0, 0)]);
    for (((name, _), (by_picker, by_balancer)), allocations) in WAYS.iter().zip(&picked).zip(&allocations) {
        let count = u32::try_from(*allocations).map_or(f64::INFINITY, f64::from);
        table.row(*name, &[(ns(by_picker), 2), (ns(by_balancer), 2), (count, 0)]);
    }
    table.print();
    for ((name, _), (by_picker, _)) in WAYS.iter().zip(&picked) {
        verdict(&format!("{name}, by a Picker, of the counter's time"), ns(by_picker) / counter, 2.0, Wanted::AtMost);
    }
    let most = allocations.iter().max().copied().unwrap_or_default();
    verdict("allocations", u32::try_from(most).map_or(f64::INFINITY, f64::from), 0.0, Wanted::AtMost);
}

/// A balancer whose addresses have been called: each with a latency of its own.
fn balancer(picking: Picking, instances: &[Arc<ServiceInstance>]) -> Balancer<()> {
    let now = tokio::time::Instant::now();
    let balancer = Balancer::new(picking, Ejection::default(), now);
    balancer.set(members(instances, Protocol::Grpc, Security::Plain), |_| Some(()));
    let snapshot = balancer.snapshot();
    for (choice, ms) in snapshot.choices().iter().zip(1..) {
        balancer.report(choice, Outcome::Answered(Duration::from_millis(ms)), now);
    }
    drop(snapshot);
    balancer
}

fn timed(mut choose: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..PICKS {
        choose();
    }
    start.elapsed()
}
