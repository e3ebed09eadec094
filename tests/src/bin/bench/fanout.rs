//! `fanout` and `rapid`: what a delivery (one change on one stream) costs at 200 streams, at 100 and at 1,000 changes
//! a second, each change its own put, beside etcd's gateway and beside a bare loop that only sends the same bytes.

use std::time::Duration;

use crate::{
    Plan,
    bare::Sending,
    table::{Table, Wanted, median, verdict},
    ways::{COLUMNS, Run, Way, alone, rollcall, through_gateway, unread, whole},
};

const STREAMS: u64 = 200;

/// How long one change may wait for others where it may.
const GATHER: Duration = Duration::from_millis(20);

/// Measures at that rate, and prints.
pub async fn measure(plan: Plan, per_s: u32) -> anyhow::Result<()> {
    println!(
        "{STREAMS} streams, {per_s} changes/s, every change its own put; {} runs of {} s by turns, medians; \
         CPU µs and bytes a delivery, delay from put to message",
        plan.rounds(),
        plan.run().as_secs()
    );
    let (mut ours, mut gateway) = (Way::new("rollcall"), Way::new("etcd's /v3/watch gateway"));
    let (mut bare, mut gathered) = (Way::new("bare loop"), Way::new("bare loop, one write per 20 ms"));
    let mut unread_us = Vec::new();
    for _ in 0..plan.rounds() {
        unread_us.push(unread(per_s, plan.run()).await?);
        let run = rollcall(STREAMS, per_s, plan.run()).await?;
        let sending = Sending { per_s, bytes: whole(run.bytes_each()), gather: Duration::ZERO, length: plan.run() };
        ours.add(run);
        bare.add(alone(STREAMS, sending).await?);
        gathered.add(alone(STREAMS, Sending { gather: GATHER, ..sending }).await?);
        gateway.add(through_gateway(STREAMS, per_s, plan.run()).await?);
    }
    let mut table = Table::new(&COLUMNS);
    for way in [&ours, &bare, &gathered, &gateway] {
        way.row(&mut table, STREAMS);
    }
    table.print();
    let unread_us = median(unread_us);
    println!(
        "  where nobody reads, a change costs etcd {unread_us:.0} µs: part of each row's \"etcd µs\", by all streams"
    );
    let beside = ours.median(Run::sender_us) / bare.median(Run::sender_us);
    let target = if per_s < 1_000 {
        println!("  rollcall's own CPU in times of the bare loop's: {beside:.2}");
        5.0
    } else {
        verdict("rollcall's own CPU in times of the bare loop's", beside, 1.3, Wanted::AtMost);
        let gathered = ours.median(Run::sender_us) / gathered.median(Run::sender_us);
        println!("  rollcall's own CPU in times of the bare loop's with one write per 20 ms: {gathered:.2}");
        75.0
    };
    let ratio = gateway.median(Run::both_us) / ours.median(Run::both_us);
    verdict("the gateway takes, in times of the CPU of rollcall and etcd", ratio, target, Wanted::AtLeast);
    let pushing = |way: &Way| way.median(|run| run.pushing_us(unread_us));
    println!(
        "  without what the changes themselves cost etcd: rollcall {:.2} µs, the gateway {:.2} µs",
        pushing(&ours),
        pushing(&gateway)
    );
    verdict(
        "the gateway takes so counted, in times of rollcall",
        pushing(&gateway) / pushing(&ours),
        target,
        Wanted::AtLeast,
    );
    Ok(())
}
