//! `flood`: 20,000 changes a second, a hundred in a transaction: how many deliveries a core makes in a second.

use std::time::Duration;

use rollcall_tests::Etcd;

use crate::{
    Plan,
    bare::{Bare, Sending},
    gateway, load,
    readers::{Readers, Target},
    table::{Table, Wanted, float, verdict},
    ways::{Run, Way, run, whole},
};

const STREAMS: u64 = 200;
const CHANGES_PER_S: u32 = 20_000;

/// One stream of so many is looked into: beside this load the readers would take the machine.
const ONE_OF: u64 = 50;

/// A transaction's worth of changes at this rate.
const GATHER: Duration = Duration::from_millis(5);

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    println!(
        "{STREAMS} streams, {CHANGES_PER_S} changes/s in transactions of {}; {} runs of {} s by turns, medians",
        load::TXN_KEYS,
        plan.rounds(),
        plan.run().as_secs()
    );
    let (mut ours, mut bare) = (Way::new("rollcall"), Way::new("bare loop, one write a transaction"));
    let mut gateway = Way::new("etcd's /v3/watch gateway");
    for _ in 0..plan.rounds() {
        let run = rollcall(plan).await?;
        let bytes = whole(run.bytes_each());
        ours.add(run);
        bare.add(alone(plan, bytes).await?);
        gateway.add(through_gateway(plan).await?);
    }
    let mut table =
        Table::new(&["changes", "changes/s", "missing", "M/core s", "with etcd", "bytes", "MB/s", "p50 ms", "p99 ms"]);
    for way in [&ours, &bare, &gateway] {
        table.row(
            way.titled(),
            &[
                (way.median(|run| float(run.changes)), 0),
                (way.median(|run| float(run.changes) / run.took.as_secs_f64()), 0),
                (way.median(|run| run.missing(STREAMS)), 0),
                (way.median(|run| if run.sender.is_zero() { f64::NAN } else { 1.0 / run.sender_us() }), 2),
                (way.median(|run| 1.0 / run.both_us()), 2),
                (way.median(Run::bytes_each), 0),
                (way.median(|run| float(run.bytes) / 1e6 / run.took.as_secs_f64()), 0),
                (way.median(|run| run.delays.percentile_ms(50)), 2),
                (way.median(|run| run.delays.percentile_ms(99)), 2),
            ],
        );
    }
    table.print();
    let (alone, both) = (1.0 / ours.median(Run::sender_us), 1.0 / ours.median(Run::both_us));
    verdict("millions of deliveries per core and second, of rollcall's CPU", alone, 4.0, Wanted::AtLeast);
    verdict("millions of deliveries per core and second, of rollcall's and etcd's", both, 4.0, Wanted::AtLeast);
    Ok(())
}

fn sampled(target: Target) -> Target {
    Target { one_of: ONE_OF, ..target }
}

async fn rollcall(plan: Plan) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let server = load::server(&etcd).await;
    let readers = Readers::settled(&sampled(load::stream(&server)), STREAMS).await?;
    run(&readers, &[server.pid()], Some(etcd.pid()), load::txns(&etcd, CHANGES_PER_S, plan.run())).await
}

async fn through_gateway(plan: Plan) -> anyhow::Result<Run> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    let readers = Readers::settled(&sampled(gateway::target(&etcd)), STREAMS).await?;
    run(&readers, &[], Some(etcd.pid()), load::txns(&etcd, CHANGES_PER_S, plan.run())).await
}

async fn alone(plan: Plan, bytes: usize) -> anyhow::Result<Run> {
    let mut bare = Bare::start().await?;
    let readers = bare.readers(STREAMS, ONE_OF).await?;
    let pid = bare.pid();
    let sent = async {
        bare.begin(Sending { per_s: CHANGES_PER_S, bytes, gather: GATHER, length: plan.run() }).await?;
        bare.answer().await
    };
    run(&readers, &[pid], None, sent).await
}
