//! What their callers notice when one of two instances of ours leaves, or is killed. Cell 5.

use std::time::Duration;

use rollcall_tests::{Etcd, Process};
use tokio::time::sleep;

use crate::{
    framework::{Framework, Over},
    meet, ours,
    table::Cell,
    theirs::{self, PATIENCE, within},
};

/// The columns of this part.
pub const COLUMNS: [&str; 2] =
    ["one of two of ours leaves: their failed calls", "one of two of ours is killed: their failed calls"];

/// The pause between calls.
const EVERY_MS: u32 = 20;

/// How old a caller is before anybody departs.
const SETTLED: Duration = Duration::from_secs(2);

/// How long callers are watched after a departure: longer than the lease of ours.
const WATCHED: Duration = Duration::from_secs(9);

fn start(framework: &Framework, etcd: &Etcd, service: &str, id: &str) -> Result<Process, String> {
    if framework.overs == [Over::Mucp] {
        return Ok(meet::micro_greeter(etcd, service, id));
    }
    ours::greeter_process(framework, &etcd.address(), service, id)
}

/// Both cells of one framework.
pub async fn of(framework: &Framework, etcd: &Etcd) -> Vec<Cell> {
    match measured(framework, etcd).await {
        Ok(cells) => cells,
        Err(why) => vec![Cell::Wrong(why.clone()), Cell::Wrong(why)],
    }
}

async fn measured(framework: &Framework, etcd: &Etcd) -> Result<Vec<Cell>, String> {
    let service = format!("{}-callers", framework.name);
    let leaver = start(framework, etcd, &service, "ours-leaves")?;
    let mut killed = start(framework, etcd, &service, "ours-killed")?;
    stand(framework, etcd, &service, 2).await?;
    let callers: Vec<(Over, Process)> = framework
        .overs
        .iter()
        .map(|&over| (over, theirs::call(framework, etcd, &service, over, 0, EVERY_MS)))
        .collect();
    for (_, caller) in &callers {
        answered_by(caller, "ours-leaves").await?;
        answered_by(caller, "ours-killed").await?;
    }
    // go-micro's cache lists first and watches a moment later, not from the list's revision: it would miss what happens
    // in between.
    sleep(SETTLED).await;
    let before = counts(&callers);
    leaver.signal("TERM");
    sleep(WATCHED).await;
    let left = counts(&callers);
    let _fresh = start(framework, etcd, &service, "ours-fresh")?;
    for (_, caller) in &callers {
        answered_by(caller, "ours-fresh").await?;
    }
    let again = counts(&callers);
    killed.kill();
    sleep(WATCHED).await;
    let after = counts(&callers);
    let lines = |from: &[Count], to: &[Count]| -> (usize, String) {
        let each = callers.iter().zip(from.iter().zip(to)).map(|((over, caller), (from, to))| {
            let (made, failed) = (to.made - from.made, to.failed - from.failed);
            let why = theirs::calls(caller)[from.made..to.made].iter().find_map(|call| call.clone().err());
            let why = why.map_or_else(String::new, |why| format!(" ({})", shortened(&why)));
            (failed, format!("{} {failed} of {made}{why}", over.as_str()))
        });
        let (failed, texts): (Vec<_>, Vec<_>) = each.unzip();
        (failed.iter().sum(), texts.join(", "))
    };
    let (failed, text) = lines(&before, &left);
    let leaves = Cell::judged(failed == 0, text);
    let (_, text) = lines(&again, &after);
    Ok(vec![leaves, Cell::Measured(text)])
}

/// The beginning of an error, for a cell.
pub fn shortened(why: &str) -> String {
    const CHARS_MAX: usize = 90;
    let mut text: String = why.chars().take(CHARS_MAX).collect();
    if text.len() < why.len() {
        text.push('…');
    }
    text
}

/// What a caller made of it so far.
#[derive(Debug, Clone, Copy)]
struct Count {
    made: usize,
    failed: usize,
}

fn counts(callers: &[(Over, Process)]) -> Vec<Count> {
    let count = |(_, caller): &(Over, Process)| {
        let calls = theirs::calls(caller);
        Count { made: calls.len(), failed: calls.iter().filter(|call| call.is_err()).count() }
    };
    callers.iter().map(count).collect()
}

async fn answered_by(caller: &Process, id: &str) -> Result<(), String> {
    let suffix = format!(" from {id}");
    within(&format!("their caller reaches {id}"), PATIENCE, async || {
        theirs::calls(caller).iter().flatten().any(|answer| answer.ends_with(&suffix)).then_some(())
    })
    .await
}

async fn stand(framework: &Framework, etcd: &Etcd, service: &str, count: usize) -> Result<(), String> {
    within("ours register", PATIENCE, async || {
        (etcd.keys(&framework.keys_of(service)).await.len() == count).then_some(())
    })
    .await
}
