//! What callers notice when one of two instances leaves, or is killed: theirs of ours, and ours of theirs. Cell 5.

use std::time::Duration;

use rollcall_tests::{Etcd, Process};
use tokio::time::sleep;

use crate::{
    framework::{Framework, Over},
    meet,
    ours::{self, KeepsCalling},
    table::Cell,
    theirs::{self, PATIENCE, within},
};

/// The columns of this part: calls that failed.
pub const COLUMNS: [&str; 4] = [
    "their callers, one of two of ours leaves ⁴",
    "their callers, one of two of ours is killed ³",
    "our callers, one of two of theirs leaves",
    "our callers, one of two of theirs is killed",
];

/// The pause between calls, in milliseconds.
const EVERY_MS: u32 = 20;

/// How old a caller is before anybody departs.
const SETTLED: Duration = Duration::from_secs(2);

/// How long callers are watched after a departure: longer than the lease of ours.
const WATCHED: Duration = Duration::from_secs(8);

/// Somebody who calls all the time.
pub enum Caller {
    /// Through our discovery.
    Ours(KeepsCalling),
    /// Through theirs.
    Theirs(Process),
}

impl Caller {
    /// Who answered each call so far, or why nobody did.
    pub fn calls(&self) -> Vec<Result<String, String>> {
        match self {
            Self::Ours(calling) => calling.calls().into_iter().map(|call| call.map(|answer| answer.greeting)).collect(),
            Self::Theirs(process) => theirs::calls(process),
        }
    }
}

type Callers = Vec<(Over, Caller)>;

/// All cells of one framework.
pub async fn of(framework: &Framework, etcd: &Etcd) -> Vec<Cell> {
    let (of_ours, of_theirs) = tokio::join!(notice_ours(framework, etcd), notice_theirs(framework, etcd));
    let both =
        |cells: Result<[Cell; 2], String>| cells.unwrap_or_else(|why| [Cell::Wrong(why.clone()), Cell::Wrong(why)]);
    [both(of_ours), both(of_theirs)].concat()
}

/// Their callers, our instances.
async fn notice_ours(framework: &Framework, etcd: &Etcd) -> Result<[Cell; 2], String> {
    let service = format!("{}-callers", framework.name);
    let start = |id: &str| {
        if framework.overs == [Over::Mucp] {
            return Ok(meet::micro_greeter(etcd, &service, id));
        }
        ours::greeter_process(framework, &etcd.address(), &service, id)
    };
    let caller = |&over| (over, Caller::Theirs(theirs::call(framework, etcd, &service, over, 0, EVERY_MS)));
    let [left, killed] =
        departures(framework, etcd, &service, start, || Ok(framework.overs.iter().map(caller).collect())).await?;
    // What their callers do about somebody who was killed is theirs.
    Ok([Cell::judged(left.none_failed(), left.text), Cell::Measured(killed.text)])
}

/// Our callers, their instances.
async fn notice_theirs(framework: &Framework, etcd: &Etcd) -> Result<[Cell; 2], String> {
    let service = format!("{}-called", framework.name);
    let discovery = meet::discovery(framework, etcd)?;
    let caller = |&over| {
        let caller = ours::Caller::new(over, &discovery, &service)?;
        let calling = KeepsCalling::start(caller, Duration::from_millis(EVERY_MS.into()));
        Ok((over, Caller::Ours(calling)))
    };
    let start = |id: &str| Ok(theirs::serve(framework, etcd, &service, id));
    let gone = departures(framework, etcd, &service, start, || framework.overs.iter().map(caller).collect()).await?;
    Ok(gone.map(|gone| Cell::judged(gone.none_failed(), gone.text)))
}

/// How many calls failed.
struct Failures {
    failed: usize,
    /// The fewest that one caller made.
    fewest: usize,
    text: String,
}

impl Failures {
    /// Whether every caller went on calling, and none in vain.
    fn none_failed(&self) -> bool {
        self.failed == 0 && self.fewest > 0
    }
}

/// Starts two instances and the callers, lets one leave, starts another, and kills the second.
async fn departures(
    framework: &Framework,
    etcd: &Etcd,
    service: &str,
    start: impl Fn(&str) -> Result<Process, String>,
    callers: impl FnOnce() -> Result<Callers, String>,
) -> Result<[Failures; 2], String> {
    let leaver = start("leaver")?;
    let mut killed = start("killed")?;
    within("both register", PATIENCE, async || (etcd.keys(&framework.keys_of(service)).await.len() == 2).then_some(()))
        .await?;
    let callers = callers()?;
    reach(&callers, "leaver").await?;
    reach(&callers, "killed").await?;
    // go-micro's cache lists first and watches a moment later, not from the list's revision: it would miss what happens
    // in between.
    sleep(SETTLED).await;
    let before = made(&callers);
    leaver.signal("TERM");
    sleep(WATCHED).await;
    let left = failures(&callers, &before);
    let _fresh = start("fresh")?;
    reach(&callers, "fresh").await?;
    let before = made(&callers);
    killed.kill();
    sleep(WATCHED).await;
    Ok([left, failures(&callers, &before)])
}

/// How many calls each has made.
fn made(callers: &Callers) -> Vec<usize> {
    callers.iter().map(|(_, caller)| caller.calls().len()).collect()
}

/// What failed since.
fn failures(callers: &Callers, since: &[usize]) -> Failures {
    let each = callers.iter().zip(since).map(|((over, caller), &since)| {
        let calls = caller.calls();
        let (failed, text) = failed(&calls[since..]);
        (failed, (calls.len() - since, format!("{} {text}", over.as_str())))
    });
    let (failed, (made, texts)): (Vec<_>, (Vec<_>, Vec<_>)) = each.unzip();
    let fewest = made.into_iter().min().unwrap_or_default();
    Failures { failed: failed.iter().sum(), fewest, text: texts.join(", ") }
}

/// How many of these calls failed, also in words, with the first reason.
pub fn failed(calls: &[Result<String, String>]) -> (usize, String) {
    let failed = calls.iter().filter(|call| call.is_err()).count();
    let why = calls.iter().find_map(|call| call.as_ref().err());
    let why = why.map_or_else(String::new, |why| format!(" ({})", shortened(why)));
    (failed, format!("{failed} of {}{why}", calls.len()))
}

/// The beginning of an error, for a cell.
fn shortened(why: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut text: String = why.chars().take(CHARS_MAX).collect();
    if text.len() < why.len() {
        text.push('…');
    }
    text
}

async fn reach(callers: &Callers, id: &str) -> Result<(), String> {
    let suffix = format!(" from {id}");
    for (over, caller) in callers {
        within(&format!("a caller over {} reaches {id}", over.as_str()), PATIENCE, async || {
            caller.calls().iter().flatten().any(|answer| answer.ends_with(&suffix)).then_some(())
        })
        .await
        .map_err(|why| format!("{why}; last {:?}", caller.calls().last()))?;
    }
    Ok(())
}
