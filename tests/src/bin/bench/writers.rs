//! `writers`: how fast eight writers get on that put as fast as they can, while what they change goes to many streams:
//! beside an ideal sender, which only writes as many bytes to as many sockets.

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

const WRITERS: u32 = 8;
const STREAMS: u64 = 1_000;
const WATCHES: u64 = 200;

/// One stream of so many is looked into.
const ONE_OF: u64 = 50;

/// How often the ideal sender writes to each socket.
const WRITES_PER_S: u32 = 20;

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    println!(
        "{WRITERS} writers that put as fast as they can; {} runs of {} s by turns, medians",
        plan.rounds(),
        plan.run().as_secs()
    );
    let (mut none, mut ours) = (Way::new("no streams"), Way::new("rollcall, 1,000 streams"));
    let mut ideal = Way::new("ideal sender, 1,000 sockets");
    let mut gateways = Way::new("etcd's /v3/watch gateway, 200 watches");
    for _ in 0..plan.rounds() {
        none.add(without(plan).await?);
        let run = rollcall(plan).await?;
        let bytes_per_s = run.bytes_each() * float(run.changes) / run.took.as_secs_f64();
        ours.add(run);
        ideal.add(alone(plan, whole(bytes_per_s / f64::from(WRITES_PER_S))).await?);
        gateways.add(through_gateway(plan).await?);
    }
    let rate = |way: &Way| way.median(|run| float(run.changes) / run.took.as_secs_f64());
    let mut table = Table::new(&["puts/s", "of none", "MB/s", "sender CPU", "etcd CPU", "missing"]);
    for (way, streams) in [(&none, 0), (&ours, STREAMS), (&ideal, 0), (&gateways, WATCHES)] {
        table.row(
            way.titled(),
            &[
                (rate(way), 0),
                (rate(way) / rate(&none), 2),
                (way.median(|run| float(run.bytes) / 1e6 / run.took.as_secs_f64()), 0),
                (way.median(|run| run.sender.as_secs_f64() / run.took.as_secs_f64()), 2),
                (way.median(|run| run.etcd.as_secs_f64() / run.took.as_secs_f64()), 2),
                (way.median(|run| run.missing(streams)), 0),
            ],
        );
    }
    table.print();
    println!("  CPU in cores; the ideal sender writes as many bytes as rollcall did in the same round");
    let ratio = rate(&ours) / rate(&ideal);
    verdict("the writers' rate with rollcall, of what the ideal sender leaves", ratio, 0.9, Wanted::AtLeast);
    Ok(())
}

async fn filled() -> anyhow::Result<Etcd> {
    let etcd = Etcd::spawn().await;
    load::fill(&etcd, load::KEYS).await?;
    Ok(etcd)
}

async fn without(plan: Plan) -> anyhow::Result<Run> {
    let etcd = filled().await?;
    let target = gateway::target(&etcd);
    let readers = Readers::settled(&target, 0).await?;
    run(&readers, &[], Some(etcd.pid()), load::flat_out(&etcd, WRITERS, plan.run())).await
}

async fn rollcall(plan: Plan) -> anyhow::Result<Run> {
    let etcd = filled().await?;
    let server = load::server(&etcd).await;
    let target = Target { one_of: ONE_OF, ..load::stream(&server) };
    let readers = Readers::settled(&target, STREAMS).await?;
    run(&readers, &[server.pid()], Some(etcd.pid()), load::flat_out(&etcd, WRITERS, plan.run())).await
}

async fn through_gateway(plan: Plan) -> anyhow::Result<Run> {
    let etcd = filled().await?;
    let target = Target { one_of: ONE_OF, ..gateway::target(&etcd) };
    let readers = Readers::settled(&target, WATCHES).await?;
    run(&readers, &[], Some(etcd.pid()), load::flat_out(&etcd, WRITERS, plan.run())).await
}

async fn alone(plan: Plan, bytes: usize) -> anyhow::Result<Run> {
    let etcd = filled().await?;
    let mut bare = Bare::start().await?;
    let readers = bare.readers(STREAMS, ONE_OF).await?;
    let pid = bare.pid();
    let length = plan.run() + Duration::from_millis(200);
    bare.begin(Sending { per_s: WRITES_PER_S, bytes, gather: Duration::ZERO, length }).await?;
    let run = run(&readers, &[pid], Some(etcd.pid()), load::flat_out(&etcd, WRITERS, plan.run())).await?;
    bare.answer().await?;
    Ok(run)
}
