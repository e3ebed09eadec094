//! What becomes of their instances: stopped, killed, deleted, revoked, and etcd away. Cell 4.

use std::time::Duration;

use rollcall_tests::Etcd;
use tokio::time::{Instant, sleep};

use crate::{
    framework::{Fates, Framework, OURS, Outage, Stop, Then},
    table::Cell,
    theirs::{self, Entry, PATIENCE, within},
};

/// The columns of this part.
pub const COLUMNS: [&str; 6] =
    ["SIGTERM", "SIGKILL", "key deleted, lease alive", "lease revoked", "etcd away 30 s", "etcd away 90 s"];

/// The shorter outage.
pub const SHORT_OUTAGE: Duration = Duration::from_secs(30);

/// The longer one: longer than any TTL here.
pub const LONG_OUTAGE: Duration = Duration::from_secs(90);

/// How long etcd's return is watched: the longest TTL here, which a restarted etcd gives anew, and half of it. The client of
/// a long outage may rest for 20 s and more before it tries again.
const BACK_MAX: Duration = Duration::from_secs(90);

/// What etcd's own clock and a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);

/// How long somebody who never comes back is waited for.
const STAYS_AWAY: Duration = Duration::from_secs(35);

/// The first four cells of one framework.
pub async fn of(framework: &Framework, etcd: &Etcd, quick: bool) -> Vec<Cell> {
    let left_out = || Ok(Cell::Not("left out by --quick".to_owned()));
    let long = quick && framework.fates.ttl_s > 15;
    let (stopped, killed, deleted, revoked) = tokio::join!(
        stopped(framework, etcd),
        async { if long { left_out() } else { killed(framework, etcd).await } },
        async { if quick { left_out() } else { deleted(framework, etcd).await } },
        async { if quick { left_out() } else { revoked(framework, etcd).await } },
    );
    [stopped, killed, deleted, revoked].map(Cell::from).to_vec()
}

async fn stopped(framework: &Framework, etcd: &Etcd) -> Result<Cell, String> {
    let service = format!("{}-term", framework.name);
    let process = theirs::serve(framework, etcd, &service, "theirs-term");
    let entry = theirs::registered(framework, etcd, &service).await?;
    settle().await;
    let start = Instant::now();
    process.signal("TERM");
    within("its key goes", PATIENCE, gone(framework, etcd, &service)).await?;
    let took = start.elapsed();
    let lives = etcd.ttl(entry.lease).await.is_some();
    let (stop, how) = if lives { (Stop::Deletes, "deletes it") } else { (Stop::Revokes, "revokes its lease") };
    Ok(seen(framework, stop == framework.fates.stop, format!("{how}, {}", told(took))))
}

async fn killed(framework: &Framework, etcd: &Etcd) -> Result<Cell, String> {
    let service = format!("{}-kill", framework.name);
    let mut process = theirs::serve(framework, etcd, &service, "theirs-kill");
    let entry = theirs::registered(framework, etcd, &service).await?;
    settle().await;
    let ttl_s = granted(etcd, entry.lease).await?;
    let ttl = Duration::from_secs(ttl_s.unsigned_abs());
    let start = Instant::now();
    process.kill();
    within("its key goes", ttl + SLACK, gone(framework, etcd, &service)).await?;
    let took = start.elapsed();
    // The last renewal was at most a third of the TTL ago.
    let good = ttl_s == framework.fates.ttl_s && took + SLACK >= ttl * 2 / 3;
    Ok(seen(framework, good, format!("gone after {} (TTL {ttl_s} s)", told(took))))
}

async fn deleted(framework: &Framework, etcd: &Etcd) -> Result<Cell, String> {
    let service = format!("{}-delete", framework.name);
    let _process = theirs::serve(framework, etcd, &service, "theirs-delete");
    let entry = theirs::registered(framework, etcd, &service).await?;
    settle().await;
    etcd.delete(&entry.key).await;
    Ok(comes_back(framework, etcd, &service, &entry, framework.fates.deleted).await)
}

async fn revoked(framework: &Framework, etcd: &Etcd) -> Result<Cell, String> {
    let service = format!("{}-revoke", framework.name);
    let _process = theirs::serve(framework, etcd, &service, "theirs-revoke");
    let entry = theirs::registered(framework, etcd, &service).await?;
    settle().await;
    etcd.revoke(entry.lease).await;
    Ok(comes_back(framework, etcd, &service, &entry, framework.fates.revoked).await)
}

/// Whether and when a key stands again, from now.
async fn comes_back(framework: &Framework, etcd: &Etcd, service: &str, before: &Entry, then: Then) -> Cell {
    let start = Instant::now();
    let patience = match then {
        Then::StaysAway => STAYS_AWAY,
        Then::Back(within_s) => Duration::from_secs(within_s) + SLACK,
    };
    let back = within("", patience, async || theirs::entry(framework, etcd, service).await).await;
    let took = start.elapsed();
    match back {
        Ok(now) => {
            let key = if now.key == before.key { "same key" } else { "new key" };
            let lease = if now.lease == before.lease { "same lease" } else { "new lease" };
            let good = matches!(then, Then::Back(within_s) if took <= Duration::from_secs(within_s) + SLACK);
            seen(framework, good, format!("back after {}, {key}, {lease}", told(took)))
        }
        Err(_) => seen(framework, then == Then::StaysAway, format!("stays away ({} s watched)", patience.as_secs())),
    }
}

/// One outage of an etcd, and what it leaves of an instance of each framework.
pub async fn away(frameworks: &[Framework], outage: Duration) -> Vec<Cell> {
    let mut etcd = Etcd::spawn().await;
    let service = |framework: &Framework| format!("{}-away", framework.name);
    let mut processes = Vec::new();
    let mut before = Vec::new();
    for framework in frameworks {
        processes.push(theirs::serve(framework, &etcd, &service(framework), "theirs-away"));
    }
    for framework in frameworks {
        before.push(theirs::registered(framework, &etcd, &service(framework)).await);
    }
    settle().await;
    etcd.kill();
    sleep(outage).await;
    etcd.start().await;
    let start = Instant::now();
    let etcd = &etcd;
    let watched = frameworks.iter().zip(before).map(|(framework, before)| async move {
        Cell::from(match before {
            Ok(before) => outcome(framework, etcd, &service(framework), &before, start, outage).await,
            Err(why) => Err(why),
        })
    });
    let cells = futures_util::future::join_all(watched).await;
    drop(processes);
    cells
}

/// What is seen of an instance until its old lease must be over.
async fn outcome(
    framework: &Framework,
    etcd: &Etcd,
    service: &str,
    before: &Entry,
    start: Instant,
    outage: Duration,
) -> Result<Cell, String> {
    let Fates { away, .. } = framework.fates;
    let mut missing: Option<Duration> = None;
    let mut returned: Option<Duration> = None;
    while start.elapsed() < BACK_MAX {
        match theirs::entry(framework, etcd, service).await {
            Some(_) if missing.is_some() && returned.is_none() => returned = Some(start.elapsed()),
            None if missing.is_none() => missing = Some(start.elapsed()),
            None if returned.is_some() => returned = None,
            _ => {}
        }
        sleep(Duration::from_millis(100)).await;
    }
    let now = theirs::entry(framework, etcd, service).await;
    let survives = now.is_some();
    let text = match (&now, missing, returned) {
        (Some(now), None, _) if now.lease == before.lease => "never gone, same lease".to_owned(),
        (Some(_), None, _) => "never gone, new lease".to_owned(),
        (Some(_), Some(_), Some(at)) => format!("back {} after etcd", told(at)),
        (Some(_), Some(_), None) => "back".to_owned(),
        (None, Some(at), _) => format!("lost: gone {} after etcd's return, for good", told(at)),
        (None, None, _) => "lost at last".to_owned(),
    };
    // WIRE's table speaks of outages that outlast what a framework tries; a shorter one is shown as it is.
    if away == Outage::Lost && outage < LONG_OUTAGE && survives {
        return Ok(Cell::Measured(text));
    }
    Ok(seen(framework, survives == (away == Outage::Survives), text))
}

/// What is known of theirs is measured, and wrong where it is otherwise; ours must be as it is.
fn seen(framework: &Framework, expected: bool, text: String) -> Cell {
    match expected {
        true if framework.name == OURS.name => Cell::Good(text),
        true => Cell::Measured(text),
        false => Cell::Wrong(text),
    }
}

/// A registration is older than a moment: what is measured is not the start of the program.
async fn settle() {
    sleep(Duration::from_secs(2)).await;
}

fn gone(framework: &Framework, etcd: &Etcd, service: &str) -> impl AsyncFnMut() -> Option<()> {
    async move || theirs::entry(framework, etcd, service).await.is_none().then_some(())
}

async fn granted(etcd: &Etcd, lease: i64) -> Result<i64, String> {
    let asked = etcd.client().await.lease_time_to_live(lease, None).await;
    asked.map(|answer| answer.granted_ttl()).map_err(|error| error.to_string())
}

/// A duration for people.
fn told(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}
