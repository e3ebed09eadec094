//! `cargo xtask faults`: the fault matrix, seeded and repeatable. See [`rollcall_tests::faults`].

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use rollcall_tests::faults::{
    self, Fault, Outcome,
    causes::{self, Planting},
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

const HELP: &str = "\
faults [--seed N] [--rounds N] [--jobs N] [FAULT…]
faults [--seed N] causes

Each round plays every FAULT (all of them without one) with a seed of its own, from --seed on (1), two scenarios at a
time (--jobs). Prints what failed with the command that repeats it, then a table; fails where a property did not hold.
`causes` plants 1,000 departures of each kind, then 5,000 leases more than can be asked in time, and prints what was
said of each.";

/// Scenarios that have the machine to themselves: they measure nothing, but 500 readers leave others no time.
fn is_crowded(fault: Fault) -> bool {
    matches!(fault, Fault::ServerKill | Fault::ServerTerm | Fault::Return500 | Fault::Return500Apart)
}

struct Request {
    seed: u64,
    rounds: u64,
    jobs: usize,
    causes: bool,
    faults: Vec<Fault>,
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<Request, String> {
    let mut request = Request { seed: 1, rounds: 1, jobs: 2, causes: false, faults: Vec::new() };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut number = || {
            let text = args.next().ok_or_else(|| format!("{arg} takes a number"))?;
            text.parse::<u64>().map_err(|_| format!("{arg} takes a number, and {text:?} is none"))
        };
        match arg.as_str() {
            "--seed" => request.seed = number()?,
            "--rounds" => request.rounds = number()?,
            "--jobs" => request.jobs = usize::try_from(number()?).unwrap_or(1).max(1),
            "--help" | "-h" => {
                let list: Vec<String> =
                    Fault::ALL.iter().map(|fault| format!("  {:<20} {}", fault.as_str(), fault.story())).collect();
                return Err(format!("{HELP}\n\n{}", list.join("\n")));
            }
            "causes" => request.causes = true,
            name => request.faults.push(Fault::named(name).ok_or_else(|| {
                format!("there is no fault {name:?}; there are {}", Fault::ALL.map(Fault::as_str).join(", "))
            })?),
        }
    }
    if request.faults.is_empty() {
        request.faults = Fault::ALL.to_vec();
    }
    Ok(request)
}

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    if request.causes { runtime.block_on(count_causes(request.seed)) } else { runtime.block_on(matrix(request)) }
}

async fn count_causes(seed: u64) -> ExitCode {
    let within = Planting { of_each: 1_000, at_once: 250, ttl_s: (5, 15), above_bound: false };
    let above = Planting { of_each: 1_700, at_once: 1_700, ttl_s: (5, 5), above_bound: true };
    let mut complaints = Vec::new();
    for (what, planting) in [("within the sampling bound", within), ("5,000 leases at once, above it", above)] {
        let started = Instant::now();
        let confusion = causes::plant(seed, planting).await;
        println!("{what}, {:.0} s:\n{}", started.elapsed().as_secs_f64(), confusion.table());
        complaints.extend(confusion.complaints(&planting));
    }
    for complaint in &complaints {
        println!("FAIL  {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn matrix(request: Request) -> ExitCode {
    let started = Instant::now();
    let outcomes: Arc<Mutex<BTreeMap<Fault, Outcome>>> = Arc::default();
    let places = Arc::new(Semaphore::new(request.jobs));
    let jobs = u32::try_from(request.jobs).unwrap_or(1);
    let mut running = JoinSet::new();
    for seed in request.seed..request.seed + request.rounds {
        for &fault in &request.faults {
            let wanted = if is_crowded(fault) { jobs } else { 1 };
            let place = Arc::clone(&places).acquire_many_owned(wanted).await.expect("it is never closed");
            let outcomes = Arc::clone(&outcomes);
            running.spawn(async move {
                let _place = place;
                let begun = Instant::now();
                let result = faults::run(fault, seed).await;
                let took = begun.elapsed().as_secs_f64();
                let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                let outcome = outcomes.entry(fault).or_default();
                let name = fault.as_str();
                match result {
                    Ok(verdict) => {
                        outcome.add(&verdict);
                        if verdict.holds() {
                            println!("ok    {name} --seed {seed} ({took:.0} s)");
                        } else {
                            println!("FAIL  {name} --seed {seed} ({took:.0} s)\n{}", faults::complaints(&verdict));
                            println!("  again: cargo xtask faults --seed {seed} {name}");
                        }
                    }
                    Err(why) => {
                        outcome.broken += 1;
                        println!("BROKE {name} --seed {seed} ({took:.0} s): {why}");
                        println!("  again: cargo xtask faults --seed {seed} {name}");
                    }
                }
            });
        }
    }
    while running.join_next().await.is_some() {}
    let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
    println!("\n{}", faults::table(&outcomes, started));
    if outcomes.values().all(Outcome::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
