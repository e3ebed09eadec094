//! The fault matrix: scenarios on real processes, each of one fault and one seed, judged by one checker.
//!
//! Owns the list of faults and the table. What is written is chosen by the seed; when things happen, by the machine.

pub mod causes;
pub mod check;
pub mod reader;
pub mod script;
pub mod truth;
pub mod world;
pub mod writer;

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use rollcall_shared::SnapshotReason;
use tokio::time::Instant;

use self::check::{Property, Verdict};
pub use self::script::Fault;

/// How long one scenario may take before it is given up.
const SCENARIO_MAX: Duration = Duration::from_mins(3);

/// What became of a fault over some rounds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How often it was tried.
    pub rounds: usize,
    /// How often each property failed to hold in a round.
    pub failed: BTreeMap<Property, usize>,
    /// Rounds that did not come to an end.
    pub broken: usize,
    /// The sums, and the worst convergence.
    pub sum: Verdict,
}

/// Runs one scenario; `Err` says why it did not come to an end.
pub async fn run(fault: Fault, seed: u64) -> Result<Verdict, String> {
    let scenario = tokio::spawn(tokio::time::timeout(SCENARIO_MAX, script::play(fault, seed)));
    match scenario.await {
        Ok(Ok(verdict)) => Ok(verdict),
        Ok(Err(_)) => Err(format!("it did not end within {SCENARIO_MAX:?}")),
        Err(panic) => Err(panic
            .try_into_panic()
            .ok()
            .and_then(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            })
            .unwrap_or_else(|| "it panicked".to_owned())),
    }
}

impl Outcome {
    /// Takes in one round.
    pub fn add(&mut self, verdict: &Verdict) {
        self.rounds += 1;
        for property in verdict.failed.keys() {
            *self.failed.entry(*property).or_default() += 1;
        }
        let sum = &mut self.sum;
        sum.readers += verdict.readers;
        sum.revisions += verdict.revisions;
        sum.deliveries += verdict.deliveries;
        sum.reconnects += verdict.reconnects;
        for (reason, count) in &verdict.snapshots {
            *sum.snapshots.entry(*reason).or_default() += count;
        }
        for (cause, count) in &verdict.causes {
            *sum.causes.entry(cause).or_default() += count;
        }
        sum.converged_in = sum.converged_in.max(verdict.converged_in);
    }

    /// Whether every round held.
    pub fn holds(&self) -> bool {
        self.failed.is_empty() && self.broken == 0
    }
}

/// What is wrong in a round, in words.
pub fn complaints(verdict: &Verdict) -> String {
    let mut text = String::new();
    for (property, failures) in &verdict.failures {
        let count = verdict.failed[property];
        let _ = writeln!(text, "  {} failed {count} times:", property.as_str());
        for failure in failures {
            let _ = writeln!(text, "    {}", failure.chars().take(600).collect::<String>());
        }
    }
    text
}

/// The table: a line for each fault.
pub fn table(outcomes: &BTreeMap<Fault, Outcome>, started: Instant) -> String {
    let mut text = format!("{:<20}", "fault");
    for property in Property::ALL {
        let _ = write!(text, " {:<10}", property.as_str());
    }
    text.push_str(" revisions deliveries reconnects worst s  snapshots; causes\n");
    for (fault, outcome) in outcomes {
        let _ = write!(text, "{:<20}", fault.as_str());
        for property in Property::ALL {
            let cell = match (outcome.failed.get(&property), outcome.broken) {
                (Some(failed), _) => format!("FAIL {failed}/{}", outcome.rounds),
                (None, 0) => "ok".to_owned(),
                (None, broken) => format!("? {broken}"),
            };
            let _ = write!(text, " {cell:<10}");
        }
        let sum = &outcome.sum;
        let reasons: Vec<String> =
            sum.snapshots.iter().map(|(reason, count)| format!("{} {count}", reason_text(*reason))).collect();
        let causes: Vec<String> = sum.causes.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        let worst = sum.converged_in.as_secs_f64();
        let _ = writeln!(
            text,
            " {:>9} {:>10} {:>10} {worst:>7.2}  {}; {}",
            sum.revisions,
            sum.deliveries,
            sum.reconnects,
            reasons.join(", "),
            causes.join(", ")
        );
    }
    let rounds: usize = outcomes.values().map(|outcome| outcome.rounds + outcome.broken).sum();
    let failed = outcomes.values().filter(|outcome| !outcome.holds()).count();
    let _ = writeln!(
        text,
        "{rounds} scenarios in {:.0} s; of {} faults {failed} failed",
        started.elapsed().as_secs_f64(),
        outcomes.len()
    );
    text
}

fn reason_text(reason: SnapshotReason) -> &'static str {
    match reason {
        SnapshotReason::Connected => "connected",
        SnapshotReason::Compacted => "compacted",
        SnapshotReason::Restored => "restored",
        SnapshotReason::Lagged => "lagged",
        SnapshotReason::UnknownCursor => "unknown_cursor",
    }
}
