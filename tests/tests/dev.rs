//! `rollcall dev --demo`: a real etcd of its own, a fleet in it, and nothing left of either at the end.

use std::collections::BTreeSet;

use reqwest::Method;
use rollcall_shared::{Layout, SnapshotReason};
use rollcall_tests::{Follower, Server, SseClient, eventually, process, seconds, server::rollcall};

async fn dev(args: &[&str]) -> Server {
    let mut all = vec!["dev", "--listen", "127.0.0.1:0"];
    all.extend_from_slice(args);
    let server = Server::of(rollcall(all)).await;
    server.ready().await;
    server
}

/// The etcd that runs below a server, found as whoever looks at the process list would: by its descent.
fn etcd_below(pid: u32) -> Option<u32> {
    process::children(pid).into_iter().find_map(|(child, line)| {
        let program = line.split_whitespace().next().unwrap_or_default();
        if program.rsplit('/').next() == Some("etcd") { Some(child) } else { etcd_below(child) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_shows_every_kind_of_cause_within_a_minute() {
    let server = dev(&["--demo"]).await;
    let mut follower = Follower::new(SseClient::open(server.request(Method::GET, "/events")).await);
    follower.until("some twenty instances stand", seconds(30), |follower| follower.catalog.len() >= 15).await;
    let layouts: BTreeSet<Layout> = follower.catalog.records().map(|record| record.layout).collect();
    for layout in [Layout::Kratos, Layout::GoMicro, Layout::Plain] {
        assert!(layouts.contains(&layout), "the fleet has no {layout} instances: {layouts:?}");
    }
    assert!(follower.catalog.records().any(|record| record.lease.is_some()), "the leases are real");
    follower
        .until("every kind of cause is seen", seconds(75), |follower| {
            let seen: BTreeSet<&str> = follower.causes.iter().map(|cause| cause.cause.as_str()).collect();
            ["deregistered", "expired", "revoked"].iter().all(|cause| seen.contains(cause))
        })
        .await;
    assert!(follower.reasons.iter().all(|reason| *reason == SnapshotReason::Connected), "{:?}", follower.reasons);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_etcd_ends_with_it_also_when_it_is_killed() {
    for signal in ["INT", "TERM", "KILL"] {
        let mut server = dev(&[]).await;
        let etcd = eventually("an etcd runs below it", seconds(10), || async {
            etcd_below(server.pid()).ok_or_else(|| process::children(server.pid()))
        })
        .await;
        if signal == "KILL" {
            server.kill();
        } else {
            assert_eq!(server.end(signal).await, Some(0), "SIG{signal}");
        }
        eventually(&format!("its etcd ends after SIG{signal}"), seconds(10), || async {
            if process::is_running(etcd) { Err(etcd) } else { Ok(()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_was_named_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let args = ["--data-dir", path.to_str().unwrap()];
    let mut server = dev(&args).await;
    let body = serde_json::json!({
        "layout": "kratos", "ttl_s": null, "instance": {"id": "kept", "name": "a", "endpoints": ["http://h:1"]}
    });
    server.post("/instances", &body).await.expect(201);
    assert_eq!(server.end("INT").await, Some(0));
    let server = dev(&args).await;
    server.shows("/microservices/a/kept").await;
}
