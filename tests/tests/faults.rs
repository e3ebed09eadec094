//! What happens when etcd dies, freezes, forgets or comes back from a backup, and when the line breaks.

use rollcall_shared::SnapshotReason;
use rollcall_tests::{
    Etcd, FaultProxy, Follower, Server, eventually,
    faults::{self, Fault},
    kratos, seconds,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

const KEY: &str = "/microservices/pay/1";

fn pay(id: &str) -> String {
    kratos("pay", id, "http://10.0.0.1:80")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_etcd_is_told_survived_and_caught_up_with() {
    let mut etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    let server = Server::start(&etcd).await;
    let mut follower = server.follow("").await;
    follower.client().next_status("live", seconds(5)).await;

    etcd.kill();
    let died = Instant::now();
    follower.client().next_trouble(seconds(10)).await;
    assert!(died.elapsed() < seconds(6), "a dead etcd is told within 5 s: {:?}", died.elapsed());
    follower.client().next_status("unreachable", seconds(10)).await;

    let answer = eventually("reads say how old they are", seconds(10), || async {
        let answer = server.get("/instances").await.expect(200);
        if answer["stale_for_s"].is_u64() { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(answer["records"][0]["key"], KEY, "what was known stays");
    server.get("/services").await.expect(200);
    let body = json!({
        "layout": "kratos", "ttl_s": null, "instance": {"name": "a", "endpoints": ["http://h:1"]}
    });
    server.post("/instances", &body).await.problem(503);
    server.get("/leases/7b").await.problem(503);
    server.post_empty("/leases/7b/keepalive").await.problem(503);
    server.delete("/leases/7b?keys=0").await.problem(503);
    server.delete("/instances?key=%2Fmicroservices%2Fpay%2F1&mod_revision=2").await.problem(503);
    eventually("/readyz says so after 10 s", seconds(20), || async {
        let status = server.page("/readyz").await.status;
        if status == 503 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(server.page("/healthz").await.status, 200);

    etcd.start().await;
    let back = Instant::now();
    etcd.put("/microservices/pay/2", pay("2")).await;
    follower.until_stands("/microservices/pay/2", seconds(15)).await;
    assert!(back.elapsed() < seconds(6), "it converges within 5 s of etcd's return: {:?}", back.elapsed());
    follower.client().next_status("live", seconds(10)).await;
    assert_eq!(follower.snapshots(), 1, "nothing was lost, so nothing is said anew: {:?}", follower.reasons);
    assert!(server.get("/instances").await.expect(200).get("stale_for_s").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_etcd_is_told_and_caught_up_with() {
    let etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    let server = Server::start(&etcd).await;
    let mut follower = server.follow("").await;
    follower.client().next_status("live", seconds(5)).await;
    etcd.pause();
    let froze = Instant::now();
    follower.client().next_trouble(seconds(20)).await;
    assert!(froze.elapsed() < seconds(16), "a frozen etcd is told within 15 s: {:?}", froze.elapsed());
    let answer = server.get("/instances").await.expect(200);
    assert_eq!(answer["records"][0]["key"], KEY);
    etcd.resume();
    let back = Instant::now();
    etcd.put("/microservices/pay/2", pay("2")).await;
    follower.until_stands("/microservices/pay/2", seconds(15)).await;
    assert!(back.elapsed() < seconds(6), "it converges within 5 s of etcd's return: {:?}", back.elapsed());
    follower.client().next_status("live", seconds(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_behind_a_broken_line_comes_through() {
    let etcd = Etcd::spawn().await;
    let line = FaultProxy::to(&etcd.address()).await;
    etcd.put(KEY, pay("1")).await;
    let server = Server::launch(&line.url(), &[]).await;
    server.ready().await;
    let mut follower = server.follow("").await;
    for (number, stalled) in [(2, false), (3, true), (4, false)] {
        if stalled {
            line.stall();
        } else {
            line.sever();
        }
        follower.client().next_trouble(seconds(20)).await;
        etcd.put("/microservices/pay/brief", pay("brief")).await;
        etcd.delete("/microservices/pay/brief").await;
        let key = format!("/microservices/pay/{number}");
        etcd.put(&key, pay(&number.to_string())).await;
        line.heal();
        follower.until_stands(&key, seconds(15)).await;
        follower.client().next_status("live", seconds(15)).await;
    }
    assert_eq!(follower.changes_of("/microservices/pay/brief"), (3, 3), "also what cancels out, and once each");
    assert_eq!(follower.snapshots(), 1, "{:?}", follower.reasons);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_delays_and_loses_nothing() {
    let etcd = Etcd::spawn().await;
    let line = FaultProxy::to(&etcd.address()).await;
    let server = Server::launch(&line.url(), &[]).await;
    server.ready().await;
    let mut follower = server.follow("").await;
    line.slow(64 * 1024);
    for number in 0..200 {
        etcd.put(&format!("/microservices/pay/{number}"), pay(&number.to_string())).await;
    }
    follower.until_stands("/microservices/pay/199", seconds(60)).await;
    assert_eq!(follower.catalog.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_was_compacted_meanwhile_is_replaced_by_a_snapshot() {
    let etcd = Etcd::spawn().await;
    let line = FaultProxy::to(&etcd.address()).await;
    etcd.put(KEY, pay("1")).await;
    let server = Server::launch(&line.url(), &[]).await;
    server.ready().await;
    let mut follower = server.follow("").await;
    line.sever();
    follower.client().next_status("unreachable", seconds(10)).await;
    etcd.delete(KEY).await;
    etcd.put("/microservices/pay/2", pay("2")).await;
    etcd.compact(etcd.revision().await).await;
    line.heal();
    follower.until_stands("/microservices/pay/2", seconds(15)).await;
    assert!(follower.catalog.get(KEY).is_none());
    assert_eq!(follower.reasons.last(), Some(&SnapshotReason::Compacted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_etcd_is_noticed_by_server_and_readers() {
    let mut etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    let server = Server::start(&etcd).await;
    let mut follower = server.follow("").await;
    let saved = etcd.snapshot();
    for id in ["2", "3", "4"] {
        etcd.put(&format!("/microservices/pay/{id}"), pay(id)).await;
    }
    follower.until_stands("/microservices/pay/4", seconds(5)).await;
    let cursor = follower.cursor();
    etcd.restore(&saved).await;
    follower.until_gone("/microservices/pay/4", seconds(30)).await;
    assert_eq!(follower.reasons.last(), Some(&SnapshotReason::Restored));
    assert_eq!(follower.catalog.len(), 1);
    etcd.put("/microservices/pay/9", pay("9")).await;
    follower.until_stands("/microservices/pay/9", seconds(10)).await;
    let mut later = Follower::new(server.events_from(&cursor, "").await);
    later.until_stands("/microservices/pay/9", seconds(10)).await;
    assert_eq!(later.reasons.last(), Some(&SnapshotReason::Restored));
    assert!(later.catalog.get("/microservices/pay/4").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_revision_larger_than_four_mebibytes_comes_whole() {
    let etcd = Etcd::spawn_with(&["--max-request-bytes", "12000000"]).await;
    let server = Server::start(&etcd).await;
    let mut follower = server.follow("").await;
    let filler = "x".repeat(60_000);
    let value = pay("1").replace("\"a\"", &format!("\"{filler}\""));
    let puts: Vec<(String, &str)> = (0..100).map(|number| (format!("/microservices/big/{number}"), &*value)).collect();
    let puts: Vec<(&str, &str)> = puts.iter().map(|(key, value)| (&**key, *value)).collect();
    let revision = etcd.transact(&puts, &[]).await;
    follower.until_stands("/microservices/big/0", seconds(20)).await;
    let delta = follower.deltas.last().unwrap();
    assert_eq!((delta.revision, delta.changes.len()), (revision, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_the_server_keeps_outlive_a_restart_of_etcd() {
    let mut etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let body = json!({
        "layout": "kratos", "ttl_s": 4, "keep_alive": "server",
        "instance": {"id": "kept", "name": "pay", "endpoints": ["http://h:1"]}
    });
    server.post("/instances", &body).await.expect(201);
    etcd.restart().await;
    let until = Instant::now() + seconds(10);
    while Instant::now() < until {
        assert!(etcd.get("/microservices/pay/kept").await.is_some(), "the server stopped renewing");
        sleep(seconds(1) / 4).await;
    }
}

/// One round of the matrix for some faults; `cargo xtask faults` has them all, with other seeds.
async fn holds(played: &[Fault]) {
    for &fault in played {
        let verdict = faults::run(fault, 1).await.unwrap_or_else(|why| panic!("{}: {why}", fault.as_str()));
        assert!(verdict.deliveries > 500 && verdict.reconnects > 5, "too little happened: {verdict:?}");
        assert!(verdict.holds(), "{}:\n{}", fault.as_str(), faults::complaints(&verdict));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_property_holds_while_the_line_breaks_and_values_are_poison() {
    holds(&[Fault::LineReset, Fault::LineCut, Fault::Poison]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_property_holds_while_etcd_and_its_members_die() {
    holds(&[Fault::EtcdKill, Fault::LeaderKill, Fault::OwnMemberKill]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_property_holds_while_history_goes_or_is_another() {
    holds(&[Fault::CompactedAway, Fault::CompactedMidList, Fault::RestorePassed, Fault::RestoreServerDown]).await;
}
