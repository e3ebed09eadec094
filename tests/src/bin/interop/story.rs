//! The whole of it in one story: services of go-kratos and ours under one name, each side calling it all the time, through
//! a killed etcd, a killed instance of each side, and a rolling restart.
//!
//! Our callers must not fail once. What kratos' own callers do is told beside it.

use std::{env, path::PathBuf, process::Command, time::Duration};

use rollcall_registry::Registry;
use rollcall_tests::{Etcd, Process};
use tokio::time::sleep;

use crate::{
    framework::{Framework, Over},
    ours::{self, KeepsCalling},
    table::{Cell, Table},
    theirs::{self, PATIENCE, within},
};

/// The name they all have: that of the seeds' program.
const SERVICE: &str = "helloworld";

/// The pause between calls of one caller.
const EVERY: Duration = Duration::from_millis(10);

/// How long etcd is dead.
const ETCD_DEAD: Duration = Duration::from_secs(10);

/// How long callers are watched once it is back.
const ETCD_BACK: Duration = Duration::from_secs(8);

/// How long a killed instance may stay in etcd: kratos' TTL, and a little.
const KILLED_STAYS: Duration = Duration::from_secs(20);

/// Calls that failed, by what befell the service.
const COLUMNS: [&str; 5] = [
    "calls",
    "failed: etcd killed, back after 10 s",
    "failed: one instance of each side killed ³",
    "failed: all four restarted in turn",
    "answered by",
];

/// Somebody who calls all the time.
enum Caller {
    Ours { title: &'static str, calling: KeepsCalling },
    Theirs { title: &'static str, process: Process },
}

impl Caller {
    /// Who answered each call so far, or why nobody did.
    fn calls(&self) -> Vec<Result<String, String>> {
        match self {
            Self::Ours { calling, .. } => {
                calling.calls().into_iter().map(|call| call.map(|answer| answer.by)).collect()
            }
            Self::Theirs { process, .. } => theirs::calls(process),
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Ours { title, .. } | Self::Theirs { title, .. } => title,
        }
    }
}

/// An instance of either side, by the id in its key.
struct Instance {
    id: String,
    process: Process,
}

/// Tells the story, as a table.
pub async fn tell() -> Table {
    let mut table =
        Table::new("Two services of ours and two of go-kratos under one name, called all the time", "caller", &COLUMNS);
    match told().await {
        Ok(rows) => rows.into_iter().for_each(|(title, cells)| table.row(title, cells)),
        Err(why) => table.row("all", COLUMNS.map(|_| Cell::Wrong(why.clone())).to_vec()),
    }
    table
}

async fn told() -> Result<Vec<(&'static str, Vec<Cell>)>, String> {
    let mut etcd = Etcd::spawn().await;
    let kratos = Framework::named("kratos").ok_or("kratos is in the table")?;
    let mut ours = vec![start_ours(&etcd).await?, start_ours(&etcd).await?];
    let mut theirs = vec![start_theirs(&kratos, &etcd, "kratos-1"), start_theirs(&kratos, &etcd, "kratos-2")];
    within("four instances stand", PATIENCE, async || {
        (etcd.keys(&kratos.keys_of(SERVICE)).await.len() == 4).then_some(())
    })
    .await?;

    let registry = ours::registry(&kratos, &etcd.url(), Duration::from_secs(15))?;
    let callers = [
        ours_calling("ours, gRPC", Over::Grpc, &registry)?,
        ours_calling("ours, HTTP", Over::Http, &registry)?,
        Caller::Theirs { title: "go-kratos, gRPC", process: calling(&kratos, &etcd, Over::Grpc) },
        Caller::Theirs { title: "go-kratos, HTTP", process: calling(&kratos, &etcd, Over::Http) },
    ];
    for instance in ours.iter().chain(&theirs) {
        reached(&callers, &instance.id).await?;
    }
    for caller in &callers[2..] {
        reached_by(caller, "kratos-1").await?;
        // Our greeter does not say who it is.
        reached_by(caller, "Hello rollcall").await?;
    }

    let mut marks = vec![marks(&callers)];
    etcd.kill();
    sleep(ETCD_DEAD).await;
    etcd.start().await;
    sleep(ETCD_BACK).await;
    marks.push(self::marks(&callers));

    for side in [&mut ours, &mut theirs] {
        if let Some(mut instance) = side.pop() {
            instance.process.kill();
        }
    }
    within("the keys of the killed go", KILLED_STAYS, async || {
        (etcd.keys(&kratos.keys_of(SERVICE)).await.len() == 2).then_some(())
    })
    .await?;
    sleep(Duration::from_secs(1)).await;
    ours.push(start_ours(&etcd).await?);
    theirs.push(start_theirs(&kratos, &etcd, "kratos-3"));
    for instance in [&ours[1], &theirs[1]] {
        reached(&callers, &instance.id).await?;
    }
    marks.push(self::marks(&callers));

    for turn in 0..2 {
        ours[turn].process.signal("TERM");
        ours[turn].process.ended(PATIENCE).await;
        ours[turn] = start_ours(&etcd).await?;
        reached(&callers, &ours[turn].id).await?;
        theirs[turn].process.signal("TERM");
        theirs[turn].process.ended(PATIENCE).await;
        theirs[turn] = start_theirs(&kratos, &etcd, &format!("kratos-{}", 4 + turn));
        reached(&callers, &theirs[turn].id).await?;
    }
    sleep(Duration::from_secs(1)).await;
    marks.push(self::marks(&callers));
    Ok(callers.iter().enumerate().map(|(number, caller)| (caller.title(), row(caller, number, &marks))).collect())
}

/// How many calls each caller had made.
fn marks(callers: &[Caller]) -> Vec<usize> {
    callers.iter().map(|caller| caller.calls().len()).collect()
}

fn row(caller: &Caller, number: usize, marks: &[Vec<usize>]) -> Vec<Cell> {
    let calls = caller.calls();
    let mut cells = vec![Cell::Measured(format!("{}", marks[marks.len() - 1][number]))];
    for stage in marks.windows(2) {
        let part = &calls[stage[0][number]..stage[1][number]];
        let (failed, text) = crate::callers::failed(part);
        cells.push(match caller {
            Caller::Ours { .. } => Cell::judged(failed == 0 && !part.is_empty(), text),
            Caller::Theirs { .. } => Cell::Measured(text),
        });
    }
    let mut by: Vec<&str> = calls.iter().flatten().map(|answer| side(answer)).collect();
    by.sort_unstable();
    let share = |side: &str| by.iter().filter(|one| **one == side).count() * 100 / by.len().max(1);
    let (kratos, rust) = (share("kratos"), share("ours"));
    cells.push(Cell::judged(kratos > 0 && rust > 0, format!("ours {rust} %, go-kratos {kratos} %")));
    cells
}

/// Whose instance answered: ours are known by their ids, or by a greeting that says no more than hello.
fn side(answer: &str) -> &'static str {
    if answer.contains("kratos-") { "kratos" } else { "ours" }
}

async fn start_ours(etcd: &Etcd) -> Result<Instance, String> {
    let folder = env::var_os("ROLLCALL_EXAMPLES").map_or_else(|| "target/debug/examples".into(), PathBuf::from);
    let mut command = Command::new(folder.join("helloworld_server"));
    command.arg(etcd.address());
    let install = "`cargo build -p rollcall-registry --example helloworld_server` builds it";
    let process = Process::start("helloworld_server", command, install);
    let id = within("ours registers", PATIENCE, async || {
        let lines = process.stdout();
        let key = lines.iter().find_map(|line| line.strip_prefix("registered ")?.split(' ').next())?;
        key.rsplit('/').next().map(str::to_owned)
    })
    .await?;
    Ok(Instance { id, process })
}

fn start_theirs(kratos: &Framework, etcd: &Etcd, id: &str) -> Instance {
    Instance { id: id.to_owned(), process: theirs::serve(kratos, etcd, SERVICE, id) }
}

fn calling(kratos: &Framework, etcd: &Etcd, over: Over) -> Process {
    theirs::call(kratos, etcd, SERVICE, over, 0, 10)
}

fn ours_calling(title: &'static str, over: Over, registry: &Registry) -> Result<Caller, String> {
    let caller = ours::Caller::new(over, registry.discovery(), SERVICE)?;
    Ok(Caller::Ours { title, calling: KeepsCalling::start(caller, EVERY) })
}

/// Waits until both of our callers have been answered by `id`.
async fn reached(callers: &[Caller], id: &str) -> Result<(), String> {
    for caller in &callers[..2] {
        reached_by(caller, id).await?;
    }
    Ok(())
}

async fn reached_by(caller: &Caller, id: &str) -> Result<(), String> {
    let what = format!("{} reaches {id}", caller.title());
    within(&what, PATIENCE, async || {
        let calls = caller.calls();
        calls.iter().flatten().any(|answer| answer == id || answer.ends_with(&format!(" from {id}"))).then_some(())
    })
    .await
    .map_err(|why| format!("{why}; last {:?}", caller.calls().last()))
}
