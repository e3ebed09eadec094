//! `cargo xtask interop`: services on the real Go frameworks and ours, on one real etcd, in a table.
//!
//! Owns the order of what is measured and what the process says and ends with. The programs it meets stand in
//! `tests/interop/`.

mod callers;
mod fates;
mod framework;
mod meet;
mod ours;
mod story;
mod table;
mod theirs;

use std::process::ExitCode;

use framework::{FRAMEWORKS, Framework, OURS};
use futures_util::future::join_all;
use rollcall_tests::Etcd;
use table::{Cell, Table};
use tokio::time::Instant;

const HELP: &str = "\
interop [--quick] [NAME…]

Registers, finds and calls across our registry client and each framework NAME (all of them without one), on a real etcd,
and prints what was seen as Markdown; ends with 1 where a cell is not as it should be. `kratos-story`: services of
go-kratos and ours under one name, through a killed etcd, killed instances and a rolling restart. --quick leaves out what
takes longer than half a minute, and the story unless it is named.";

/// The name of the story.
const STORY: &str = "kratos-story";

/// The notes below the tables.
const NOTES: &str = "\
¹ with v2's etcd registry behind an adapter of types: v3's own, which differs from it in one import path, was not to be had
when this was measured.

² with `grpc.WithAuthority`: of a name with a `/`, or beyond ASCII, grpc-go makes an `:authority` with `%2F`, which Rust's
HTTP/2 refuses (PROTOCOL_ERROR). Over HTTP it makes no difference.

³ the callers of go-kratos over HTTP, of go-micro v5 and of hertz go on calling the dead one until its lease is over, those
of go-micro v2 now and then; those of go-kratos over gRPC, of etcd naming, go-zero and kitex leave a broken connection out,
and go-kit's tries another.

⁴ ours drain for 1 s between being deregistered and ending, for kitex and hertz for 6 s: their callers ask etcd every 5 s,
and call who left until then. The defaults are less (0.5 s of `Lifecycle`, none of `rollcall register --drain`).";

struct Request {
    quick: bool,
    frameworks: Vec<Framework>,
    story: bool,
}

fn parse(args: &[String]) -> Result<Request, String> {
    let mut request = Request { quick: false, frameworks: Vec::new(), story: false };
    for arg in args {
        match arg.as_str() {
            "--quick" => request.quick = true,
            "--help" | "-h" => return Err(HELP.to_owned()),
            STORY => request.story = true,
            name => request.frameworks.push(Framework::named(name).filter(|one| one.name != OURS.name).ok_or_else(
                || {
                    let names: Vec<&str> = FRAMEWORKS.iter().map(|framework| framework.name).collect();
                    format!("there is no {name:?}; there are {} and {STORY}", names.join(", "))
                },
            )?),
        }
    }
    if request.frameworks.is_empty() && !request.story {
        request.frameworks = FRAMEWORKS.to_vec();
        request.story = !request.quick;
    }
    Ok(request)
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Started by itself, as an instance of ours that can be killed.
    if let Some(("greeter", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return match ours::greeter(rest).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("greeter: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let request = match parse(&args) {
        Ok(request) => request,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut tables = Vec::new();
    if !request.frameworks.is_empty() {
        tables.extend(Box::pin(matrix(&request)).await);
    }
    if request.story {
        eprintln!("interop: the story");
        tables.push(story::tell().await);
    }
    let mut wrong = Vec::new();
    for table in &tables {
        println!("{}", table.markdown());
        wrong.extend(table.wrong());
    }
    println!("{}\n\n{NOTES}", table::LEGEND);
    eprintln!("interop: {:.0} s", start.elapsed().as_secs_f64());
    for cell in &wrong {
        eprintln!("interop: {cell}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn matrix(request: &Request) -> Vec<Table> {
    let frameworks = &request.frameworks;
    let etcd = Etcd::spawn().await;
    let mut meetings = Table::new("Found and called", "framework", &meet::COLUMNS);
    eprintln!("interop: finding and calling each other");
    for framework in frameworks {
        meetings.row(framework.title, Box::pin(meet::meet(framework, &etcd)).await);
    }
    eprintln!("interop: departures, as their callers see them");
    let mut departures = Vec::new();
    // A few at a time: each calls as fast as a user would, and what is counted are failures.
    for some in frameworks.chunks(3) {
        departures.extend(join_all(some.iter().map(|framework| callers::of(framework, &etcd))).await);
    }
    let mut noticed = Table::new("Calls that fail when one of two instances departs", "framework", &callers::COLUMNS);
    for (framework, cells) in frameworks.iter().zip(departures) {
        noticed.row(framework.title, cells);
    }
    eprintln!("interop: what becomes of registrations");
    // Ours beside theirs.
    let frameworks: Vec<Framework> = [OURS].into_iter().chain(frameworks.iter().copied()).collect();
    let frameworks = &frameworks;
    let each = join_all(frameworks.iter().map(|framework| fates::of(framework, &etcd, request.quick)));
    let left_out = || vec![Cell::Not("left out by --quick".to_owned()); frameworks.len()];
    let away = async |outage| if request.quick { left_out() } else { fates::away(frameworks, outage).await };
    let (each, short, long) = tokio::join!(each, away(fates::SHORT_OUTAGE), away(fates::LONG_OUTAGE));
    let mut becoming = Table::new("What becomes of a registration", "framework", &fates::COLUMNS);
    for (framework, ((mut cells, short), long)) in frameworks.iter().zip(each.into_iter().zip(short).zip(long)) {
        cells.extend([short, long]);
        becoming.row(framework.title, cells);
    }
    vec![meetings, noticed, becoming]
}
