//! `dashboard`: how good the page is in a real Chromium, beside a list written by hand without a framework
//! (`tests/assets/vanilla`) that is fed the same stream.
//!
//! The main thread's work is read from Chromium's own trace and not from `performance.now()`, which is a tenth of a
//! millisecond coarse and sees neither style nor layout nor paint. A frame's work is all that the thread did from its
//! beginning to the next one's, whatever it was done for, as CPU time: what else the machine does makes it no longer.
//! Where the machine was late with a frame, more has come by then: of that the share of a sixtieth of a second counts. A
//! page that has nothing to draw asks for no frames: so that there are frames to divide the work by, the probe asks for
//! each one, on an empty page too, whose median is what a frame costs before a page does anything. The page's own work
//! is what goes beyond that. Headless Chromium without a GPU paints by the CPU, on other threads: those are not
//! counted, but they share the machine with it, as do etcd, the server and the writers. The intervals of the empty
//! page's frames say how far those of the others can be trusted.

mod fleet;
mod front;
mod tab;
mod trace;

use std::{fs, time::Duration};

use anyhow::{Context as _, bail};
use rollcall_tests::{Etcd, Server, eventually, seconds};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    Plan, load,
    table::{Table, Wanted, float, median, verdict},
    usage::cpu,
};
use fleet::{Changes, Churn, Fleet};
use front::{Front, Root};
use tab::{TIMERS, Tab};

const ROOTS: [Root; 2] = [Root::Vanilla, Root::Dashboard];

/// The instances of the service that changes while it is looked at, and how many changes there are.
const BUSY_ROWS: u32 = 10_000;
const BUSY_PER_S: u32 = 1_000;

/// How long changes go on before what they cost is looked at, and after.
const LEAD: Duration = seconds(1);

/// The large registry.
const SERVICES: u32 = 2_000;
const EACH: u32 = 50;

/// What is typed there: first all of it matches, then less with each key.
const TYPED: &str = "fleet0731004";

/// The id of the registry's first instance.
const FIRST_ID: &str = "fleet00000000";

/// How long after a key the next one comes, at least.
const KEY: Duration = Duration::from_millis(250);

/// An hour of so many changes a second, to this many instances.
const LASTING_ROWS: u32 = 1_000;
const LASTING_PER_S: u32 = 200;

/// After so many changes it is waited until the page shows them.
const LASTING_STEP: u32 = 2_000;

/// How long what has left is shown, with something to spare.
const GONE: Duration = seconds(25);

/// What goes on before a hidden tab is come back to.
const HIDDEN_ROWS: u32 = 1_000;
const HIDDEN_PER_S: u32 = 200;

/// Measures one part of it, or all of it where `part` is empty, and prints.
pub async fn measure(plan: Plan, part: &str) -> anyhow::Result<()> {
    match part {
        "" => {
            for part in ["load", "busy", "large", "lasting", "hidden"] {
                Box::pin(measure(plan, part)).await?;
            }
            Ok(())
        }
        "load" => load_first(plan).await,
        "busy" => busy(plan).await,
        "large" => large(plan).await,
        "lasting" => lasting(plan).await,
        "hidden" => hidden(plan).await,
        other => bail!("there is no part {other:?}; there are load, busy, large, lasting and hidden"),
    }
}

/// A registry with the server over it, and the two pages.
struct Stage {
    etcd: Etcd,
    fleet: Fleet,
    server: Server,
    fronts: [Front; 2],
}

impl Stage {
    async fn set(services: u32, each: u32, per_lease: u32) -> anyhow::Result<Self> {
        let etcd = Etcd::spawn_with(&["--quota-backend-bytes", "8589934592"]).await;
        let fleet = Fleet::stand(&etcd, services, each, per_lease).await?;
        let server = load::server(&etcd).await;
        let [vanilla, dashboard] = ROOTS;
        let fronts =
            [Front::listen(vanilla, server.address()).await?, Front::listen(dashboard, server.address()).await?];
        Ok(Self { etcd, fleet, server, fronts })
    }

    fn front(&self, root: Root) -> &Front {
        &self.fronts[usize::from(root == Root::Dashboard)]
    }

    fn url(&self, root: Root, path: &str) -> String {
        format!("{}{path}", self.front(root).origin)
    }
}

fn name(root: Root) -> &'static str {
    match root {
        Root::Vanilla => "vanilla list",
        Root::Dashboard => "dashboard",
    }
}

/// The page of the first service.
fn service_path() -> String {
    format!("/services/{}", Fleet::service(0))
}

/// The value that so many hundredths of all do not exceed.
fn percentile(values: &[f64], hundredths: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = (values.len() * hundredths).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// How busy the machine is, as its kernel says.
fn machine() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, load {}", load.split(' ').next().unwrap_or("?"))
}

// ------------------------------------------------------------------------------------------------------------- load

/// What goes over the line before the first row stands.
async fn load_first(plan: Plan) -> anyhow::Result<()> {
    println!(
        "\neverything loaded before the first row, as it goes over the line: heads, files in brotli, and the stream so far"
    );
    let stage = Stage::set(1, 1, 1).await?;
    let mut table = Table::new(&["KB", "ms"]);
    let mut kilobytes = Vec::new();
    for root in ROOTS {
        let (mut bytes, mut times) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds() {
            let front = Front::listen(root, stage.server.address()).await?;
            let tab = Tab::open(&format!("{}{}", front.origin, service_path()), &[]).await;
            let (took_ms, at_ms) = tab.first_row().await;
            // The clock of the page is a millisecond coarse.
            bytes.push(float(u64::try_from(front.bytes_until(at_ms + 1.0))?) / 1_000.0);
            times.push(took_ms);
            tab.close().await;
        }
        kilobytes.push(median(bytes));
        table.row(name(root), &[(kilobytes[kilobytes.len() - 1], 1), (median(times), 0)]);
    }
    table.print();
    verdict("KB before the dashboard's first row", kilobytes[1], 110.0, Wanted::AtMost);
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------- busy

/// What a frame costs while ten thousand rows change.
struct Busy {
    work_ms: Vec<f64>,
    intervals_ms: Vec<f64>,
    behind: Duration,
    changes: u64,
    etcd: f64,
    server: f64,
    /// The share of the time that the main thread was on a core, in hundredths.
    thread: f64,
}

async fn busy(plan: Plan) -> anyhow::Result<()> {
    let length = seconds(if plan.quick { 5 } else { 20 });
    println!(
        "\n{BUSY_ROWS} rows of one service, {BUSY_PER_S} changes/s for {} s; the main thread's CPU a frame in ms, {}",
        length.as_secs(),
        machine()
    );
    let stage = Stage::set(1, BUSY_ROWS, 1).await?;
    let floor = frames(&stage, None, Changes::Edits, length).await?;
    let floor_ms = percentile(&floor.work_ms, 50);
    let columns =
        ["p50", "p95", "own p50", "own p95", "interval p99", "longest", "behind", "thread %", "etcd %", "server %"];
    let mut table = Table::new(&columns);
    let mut verdicts = Vec::new();
    let mut row = |name: String, busy: &Busy| {
        let work = |hundredths| percentile(&busy.work_ms, hundredths);
        let own = |hundredths| (work(hundredths) - floor_ms).max(0.0);
        let interval = percentile(&busy.intervals_ms, 99);
        let longest = percentile(&busy.intervals_ms, 100);
        let behind_ms = busy.behind.as_secs_f64() * 1_000.0;
        let figures = [
            (work(50), 2),
            (work(95), 2),
            (own(50), 2),
            (own(95), 2),
            (interval, 1),
            (longest, 1),
            (behind_ms, 0),
            (busy.thread, 0),
            (busy.etcd, 0),
            (busy.server, 0),
        ];
        table.row(name, &figures);
        (own(95), interval)
    };
    row("an empty page".into(), &floor);
    for (changes, what) in [(Changes::Edits, "edits"), (Changes::Mixed, "edits, comings, goings")] {
        let mut told = Vec::new();
        for root in ROOTS {
            let busy = frames(&stage, Some(root), changes, length).await?;
            let per_s = float(busy.changes) / (length + LEAD * 2).as_secs_f64();
            told.push(row(format!("{}: {what}, {per_s:.0}/s", name(root)), &busy));
        }
        verdicts.push((what, told));
    }
    table.print();
    for (what, told) in verdicts {
        let [vanilla, dashboard] = told[..] else { bail!("two pages give two figures") };
        verdict(
            &format!("{what}: own work p95, times the vanilla list's"),
            dashboard.0 / vanilla.0,
            2.0,
            Wanted::AtMost,
        );
        verdict(&format!("{what}: own work p95, ms"), dashboard.0, 1.0, Wanted::AtMost);
        verdict(&format!("{what}: frame interval p99, ms"), dashboard.1, 17.5, Wanted::AtMost);
    }
    Ok(())
}

/// Looks at a page (an empty one for `None`) while its fleet changes.
async fn frames(stage: &Stage, root: Option<Root>, changes: Changes, length: Duration) -> anyhow::Result<Busy> {
    let url = root.map_or("about:blank".to_owned(), |root| stage.url(root, &service_path()));
    let mut tab = Tab::open(&url, &[]).await;
    if root.is_some() {
        tab.first_row().await;
    }
    // Until compiling, the first leases and whatever else a page begins with are over.
    sleep(seconds(3)).await;
    let writing = stage.fleet.change(&stage.etcd, changes, BUSY_PER_S, length + LEAD * 2);
    let watching = async {
        sleep(LEAD).await;
        tab.watch().await;
        let (etcd, server) = (cpu(stage.etcd.pid())?, cpu(stage.server.pid())?);
        let start = Instant::now();
        sleep(length).await;
        let took = start.elapsed().as_secs_f64();
        let share = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / took * 100.0;
        let shares = (share(cpu(stage.etcd.pid())?, etcd), share(cpu(stage.server.pid())?, server));
        anyhow::Ok((tab.watched().await?, shares))
    };
    let (changes, watched) = tokio::try_join!(writing, watching)?;
    let ((trace, intervals_ms), (etcd, server)) = watched;
    let mut behind = Duration::ZERO;
    if root.is_some() {
        // Whoever draws nothing is quick: it has to be right in the end.
        let version = format!("v{}", fastrand::u32(..));
        stage.fleet.edit(&mut stage.etcd.client().await, 0, &version).await?;
        behind = tab.shows(&stage.fleet.key(0), &version).await;
    }
    tab.close().await;
    let work_ms = trace.work_ms();
    anyhow::ensure!(work_ms.len() * 10 >= intervals_ms.len() * 9, "the trace lacks frames");
    let thread = trace.cpu_ms() / intervals_ms.iter().sum::<f64>() * 100.0;
    Ok(Busy { work_ms, intervals_ms, behind, changes, etcd, server, thread })
}

// ------------------------------------------------------------------------------------------------------------ large

/// How soon a large registry stands, and what typing in its search costs.
async fn large(plan: Plan) -> anyhow::Result<()> {
    println!("\n{} instances in {SERVICES} services, {}", SERVICES * EACH, machine());
    let stage = Stage::set(SERVICES, EACH, EACH).await?;
    let mut table =
        Table::new(&["/: rows, ms", "service, ms", "key: block p95", "block max", "right p95", "right max"]);
    let mut told = Vec::new();
    for root in ROOTS {
        let (mut overview, mut service, mut blocks, mut rights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds() {
            let path = format!("/services/{}", Fleet::service(SERVICES / 2));
            let tab = Tab::open(&stage.url(root, &path), &[]).await;
            service.push(tab.first_row().await.0);
            tab.close().await;
            let mut tab = Tab::open(&stage.url(root, "/"), &[]).await;
            overview.push(tab.first_row().await.0);
            sleep(seconds(3)).await;
            for (block_ms, right_ms) in typed(&mut tab).await? {
                blocks.push(block_ms);
                rights.push(right_ms);
            }
            tab.close().await;
        }
        let figures = [
            median(overview),
            median(service),
            percentile(&blocks, 95),
            percentile(&blocks, 100),
            percentile(&rights, 95),
            percentile(&rights, 100),
        ];
        table.row(name(root), &figures.map(|figure| (figure, usize::from(figure < 100.0))));
        told.push(figures);
    }
    table.print();
    let dashboard = told[1];
    verdict("seconds until rows stand, /", dashboard[0] / 1_000.0, 2.0, Wanted::AtMost);
    verdict("seconds until rows stand, a service's page", dashboard[1] / 1_000.0, 2.0, Wanted::AtMost);
    verdict("longest block of a key, ms", dashboard[3], 16.0, Wanted::AtMost);
    Ok(())
}

/// Types key by key; for each the longest block until what it finds is drawn, and how long that takes, in milliseconds.
async fn typed(tab: &mut Tab) -> anyhow::Result<Vec<(f64, f64)>> {
    tab.browser.click("input[type=\"search\"]").await;
    tab.watch().await;
    let keys_before = tab.script("return probe.keys", vec![]).await.as_u64().unwrap_or_default();
    let mut numbers = Vec::new();
    for (number, (at, character)) in (1_u64..).zip(TYPED.char_indices()) {
        let text = &TYPED[..=at];
        // The first that matches, by its key.
        let first = format!("{text}{}", &FIRST_ID[text.len()..]);
        let wanted =
            json!({ "number": number, "text": text, "key": format!("{}{}/{first}", load::PREFIX, &first[..9]) });
        tab.script("probe.wanted = arguments[0]", vec![wanted]).await;
        tab.key(character).await;
        sleep(KEY).await;
        eventually(&format!("the page shows what {text} finds"), seconds(30), || async {
            let right = tab.script("return probe.right", vec![]).await;
            if right == number { Ok(()) } else { Err(right) }
        })
        .await;
        numbers.push(number);
    }
    let (trace, _) = tab.watched().await?;
    let mark = |name: String| trace.marks_us.get(&name).copied().with_context(|| format!("no mark {name}"));
    numbers
        .into_iter()
        .map(|number| {
            let (from, to) = (mark(format!("key {}", keys_before + number))?, mark(format!("right {number}"))?);
            Ok((trace.longest_ms(from, to), (to - from) / 1_000.0))
        })
        .collect()
}

// ---------------------------------------------------------------------------------------------------------- lasting

/// Whether an hour of changes leaves anything behind.
async fn lasting(plan: Plan) -> anyhow::Result<()> {
    let all = if plan.quick { 40_000 } else { LASTING_PER_S * 3_600 };
    println!(
        "\n{all} changes (an hour of {LASTING_PER_S}/s is {}) to {LASTING_ROWS} instances, as fast as the page shows them; \
         the tab's JavaScript heap and WebAssembly memory in MiB, {}",
        LASTING_PER_S * 3_600,
        machine()
    );
    let mut table = Table::new(&["0 %", "25 %", "50 %", "75 %", "100 %", "of it heap", "changes/s"]);
    let mut growth = f64::NAN;
    for root in ROOTS {
        let stage = Stage::set(1, LASTING_ROWS, 10).await?;
        let tab = Tab::open(&stage.url(root, &service_path()), &[]).await;
        tab.first_row().await;
        let mut churn = Churn::of(&stage.fleet, &stage.etcd).await;
        // Whatever fills up once, up to its bound.
        follow(&stage, &tab, &mut churn, 20_000).await?;
        sleep(GONE).await;
        let mut held = vec![tab.held().await?];
        let mut took = Duration::ZERO;
        for _ in 0..4 {
            took += follow(&stage, &tab, &mut churn, all / 4).await?;
            sleep(GONE).await;
            held.push(tab.held().await?);
        }
        tab.close().await;
        let mut figures: Vec<(f64, usize)> = held.iter().map(|held| (held.mib(), 1)).collect();
        figures.push((held[4].heap / 1_048_576.0, 1));
        figures.push((f64::from(all) / took.as_secs_f64(), 0));
        table.row(name(root), &figures);
        growth = held[4].mib() / held[0].mib();
    }
    table.print();
    verdict("the dashboard's memory in the end, times that in the beginning", growth, 1.1, Wanted::AtMost);
    Ok(())
}

/// Writes changes and waits, step by step, until the page shows them; gives how long that took.
async fn follow(stage: &Stage, tab: &Tab, churn: &mut Churn, changes: u32) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut client = stage.etcd.client().await;
    for step in 0..changes.div_ceil(LASTING_STEP) {
        churn.write(LASTING_STEP.min(changes - step * LASTING_STEP)).await?;
        let version = format!("v{}", fastrand::u32(..));
        stage.fleet.edit(&mut client, 0, &version).await?;
        tab.shows(&stage.fleet.key(0), &version).await;
    }
    Ok(start.elapsed())
}

// ----------------------------------------------------------------------------------------------------------- hidden

/// Whether a tab rests while nobody looks, and is right at once when somebody does.
async fn hidden(plan: Plan) -> anyhow::Result<()> {
    let length = seconds(if plan.quick { 10 } else { 60 });
    println!("\na tab hidden for {} s while {HIDDEN_PER_S} changes/s go on, {}", length.as_secs(), machine());
    let mut table = Table::new(&["hidden, s", "callbacks", "right, ms"]);
    let mut told = Vec::new();
    for root in ROOTS {
        let stage = Stage::set(1, HIDDEN_ROWS, 1).await?;
        let tab = Tab::open(&stage.url(root, &service_path()), &[TIMERS]).await;
        tab.first_row().await;
        sleep(seconds(2)).await;
        tab.script("probe.expect(...arguments)", vec![json!(stage.fleet.key(0)), json!("v-right")]).await;
        let client = &tab.browser.client;
        let page = client.window().await?;
        let other = client.new_window(true).await?.handle;
        client.switch_to_window(other).await?;
        stage.fleet.change(&stage.etcd, Changes::Mixed, HIDDEN_PER_S, length / 2).await?;
        stage.fleet.edit(&mut stage.etcd.client().await, 0, "v-right").await?;
        stage.fleet.change(&stage.etcd, Changes::Mixed, HIDDEN_PER_S, length / 2).await?;
        client.switch_to_window(page).await?;
        let right_ms = eventually("the page is right again", seconds(30), || async {
            tab.script("return probe.back", vec![]).await.as_f64().ok_or(())
        })
        .await;
        let hidden_s = tab.script("return hidden_ms / 1000", vec![]).await.as_f64().unwrap_or_default();
        let ran = tab.script("return ran", vec![]).await;
        let callbacks: u64 = ran.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        if callbacks > 0 {
            println!("  {} ran {ran}", name(root));
        }
        tab.close().await;
        table.row(name(root), &[(hidden_s, 1), (float(callbacks), 0), (right_ms, 1)]);
        told.push((float(callbacks), right_ms));
    }
    table.print();
    verdict("callbacks of the dashboard while hidden", told[1].0, 0.0, Wanted::AtMost);
    verdict("ms until the dashboard is right on return", told[1].1, 100.0, Wanted::AtMost);
    Ok(())
}
