//! Section 3 of the contract: the stream, its cursors, its deltas and its causes.

use std::{sync::Arc, time::Duration};

use rollcall_shared::{CauseKind, Change, RegistryEvent, SnapshotReason};
use rollcall_tests::{Etcd, Follower, Server, SseClient, http::encode, kratos, long, seconds};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

const KEY: &str = "/microservices/pay/1";
const SOURCE: &str = "/microservices/";

fn pay(id: &str) -> String {
    kratos("pay", id, "http://10.0.0.1:80")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_all_there_is_and_goes_on_with_what_changes() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    etcd.put(KEY, pay("1")).await;
    server.shows(KEY).await;
    let mut stream = server.events("").await;
    let header = |stream: &SseClient, name: &str| {
        stream.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    assert!(header(&stream, "content-type").starts_with("text/event-stream"));
    assert_eq!(header(&stream, "cache-control"), "no-store");
    assert_eq!(header(&stream, "x-accel-buffering"), "no");
    assert_eq!(header(&stream, "content-encoding"), "");

    let first = stream.next_message(seconds(5)).await;
    assert_eq!(
        (&first.json["type"], &first.json["reason"], &first.json["part"], &first.json["more"]),
        (&json!("snapshot"), &json!("connected"), &json!(0), &json!(false)),
    );
    assert_eq!(first.json["records"][0]["key"], KEY);
    let sources: Vec<&String> = first.json["revisions"].as_object().unwrap().keys().collect();
    assert_eq!(sources.len(), 5, "every source is covered: {sources:?}");
    let retry = stream.retry_ms().expect("the stream says when to come back");
    assert!((500..=2_000).contains(&retry), "1,000 with jitter: {retry}");

    let put = etcd.put("/microservices/pay/2", pay("2")).await;
    let message = stream.next_news(seconds(5)).await;
    let delta = &message.json;
    assert_eq!((&delta["type"], &delta["source"], &delta["revision"]), (&json!("delta"), &json!(SOURCE), &json!(put)));
    assert!(delta["after"].as_i64().unwrap() < put, "{delta}");
    assert_eq!(delta["changes"].as_array().unwrap().len(), 1);
    assert_eq!(delta["changes"][0]["put"]["key"], "/microservices/pay/2");
    assert_eq!(delta["changes"][0]["put"]["instance"]["id"], "2");

    let deleted = etcd.delete("/microservices/pay/2").await;
    let message = stream.next_news(seconds(5)).await;
    let departure = &message.json["changes"][0]["delete"];
    assert_eq!(message.json["revision"], deleted);
    assert_eq!((&departure["key"], &departure["service"]), (&json!("/microservices/pay/2"), &json!("pay")));
    assert_eq!(departure["last"], delta["changes"][0]["put"], "a delete says what stood there");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_revision_is_one_delta() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    etcd.put(KEY, pay("1")).await;
    server.shows(KEY).await;
    let mut stream = server.events("").await;
    stream.next_news(seconds(5)).await;
    let values: Vec<(String, String)> =
        (2..40).map(|id| (format!("/microservices/pay/{id}"), pay(&id.to_string()))).collect();
    let puts: Vec<(&str, &str)> = values.iter().map(|(key, value)| (&**key, &**value)).collect();
    let revision = etcd.transact(&puts, &[KEY]).await;
    let (_, delta) = stream.next_delta(seconds(5)).await;
    assert_eq!((delta.revision, delta.changes.len()), (revision, 39));
    let lease = etcd.grant(60).await;
    for id in 100..110 {
        etcd.put_leased(&format!("/microservices/pay/{id}"), pay(&id.to_string()), lease).await;
    }
    let mut follower = server.follow("").await;
    etcd.revoke(lease).await;
    follower.until_gone("/microservices/pay/100", seconds(5)).await;
    assert_eq!(follower.deltas.last().unwrap().changes.len(), 10, "a lease with ten keys is one revision");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_value_is_a_change_like_any_other() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut stream = server.events("").await;
    stream.next_news(seconds(5)).await;
    etcd.put(KEY, "{").await;
    let message = stream.next_news(seconds(5)).await;
    let record = &message.json["changes"][0]["put"];
    assert_eq!((&record["instance"], &record["raw"]), (&Value::Null, &json!("{")));
    assert!(record["malformed"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_why_an_instance_left() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut follower = server.follow("?ttl=1").await;

    let crashed = etcd.grant(3).await;
    etcd.put_leased("/microservices/pay/crashed", pay("crashed"), crashed).await;
    let leaving = etcd.grant(60).await;
    etcd.put_leased("/microservices/pay/leaving", pay("leaving"), leaving).await;
    let thrown = etcd.grant(60).await;
    etcd.put_leased("/microservices/pay/thrown", pay("thrown"), thrown).await;
    follower.until_stands("/microservices/pay/thrown", seconds(5)).await;
    sampled(&mut follower, thrown).await;

    let at = etcd.delete("/microservices/pay/leaving").await;
    let cause = follower.cause("/microservices/pay/leaving", seconds(8)).await;
    assert_eq!((cause.cause, cause.revision), (CauseKind::Deregistered, at));
    assert!(cause.evidence.len() > 10, "{cause:?}");

    etcd.revoke(thrown).await;
    let cause = follower.cause("/microservices/pay/thrown", seconds(8)).await;
    assert_eq!(cause.cause, CauseKind::Revoked, "{cause:?}");

    let cause = follower.cause("/microservices/pay/crashed", seconds(15)).await;
    assert_eq!(cause.cause, CauseKind::Expired, "{cause:?}");
}

/// Waits until the stream has told how much is left of a lease: a cause rests on such a sample.
async fn sampled(follower: &mut Follower, lease: i64) {
    let id = format!("{lease:016x}");
    let deadline = Instant::now() + seconds(15);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ttl = follower.client().next_named("ttl", left).await;
        assert!(ttl["at_ms"].as_u64().is_some_and(|at| at > 1_600_000_000_000), "{ttl}");
        let known = ttl["leases"].as_array().and_then(|leases| leases.iter().find(|known| known["lease"] == id));
        if let Some(known) = known {
            assert_eq!(known["granted_s"], 60, "{known}");
            assert!((0..=60).contains(&known["remaining_s"].as_i64().unwrap_or(-1)), "{known}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_told_again_and_again_to_who_asks() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    let other = etcd.grant(60).await;
    etcd.put_leased(KEY, pay("1"), lease).await;
    etcd.put_leased("/microservices/other/1", kratos("other", "1", "http://10.0.0.1:80"), other).await;
    server.shows("/microservices/other/1").await;
    let mut stream = server.events("?ttl=1&service=pay").await;
    let id = format!("{lease:016x}");
    let mut last = None;
    for _ in 0..3 {
        let start = Instant::now();
        loop {
            let ttl = stream.next_named("ttl", seconds(15)).await;
            let leases = ttl["leases"].as_array().unwrap();
            assert!(leases.iter().all(|known| known["lease"] == id), "only what is selected: {ttl}");
            if !leases.is_empty() {
                break;
            }
        }
        if last.is_some() {
            assert!(start.elapsed() < seconds(7), "at least every 5 s: {:?}", start.elapsed());
        }
        last = Some(start);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_gets_its_own_and_misses_nothing() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    etcd.put(KEY, pay("1")).await;
    etcd.put("/microservices/other/1", kratos("other", "1", "http://10.0.0.1:80")).await;
    server.shows("/microservices/other/1").await;
    let mut follower = server.follow("?service=pay&service=third").await;
    assert_eq!(follower.catalog.len(), 1, "only what is selected");
    for number in 0..20 {
        etcd.put("/microservices/other/1", kratos("other", "1", &format!("http://10.0.0.1:{number}"))).await;
    }
    etcd.put("/microservices/pay/2", pay("2")).await;
    etcd.put("/microservices/third/1", kratos("third", "1", "http://10.0.0.1:80")).await;
    // The fold fails wherever a delta's `after` lies above what was seen.
    follower.until_stands("/microservices/third/1", seconds(5)).await;
    let touched: Vec<&str> = follower.deltas.iter().flat_map(|delta| &delta.changes).map(Change::service).collect();
    assert_eq!(touched, ["pay", "third"]);
    let cursor = follower.cursor();
    drop(follower);
    etcd.put("/microservices/other/2", kratos("other", "2", "http://10.0.0.1:80")).await;
    let deleted = etcd.delete("/microservices/pay/2").await;
    let mut resumed = server.events_from(&cursor, "?service=pay&service=third").await;
    let (_, delta) = resumed.next_delta(seconds(5)).await;
    assert_eq!((delta.revision, delta.changes.len()), (deleted, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_exactly_what_was_missed() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    etcd.put(KEY, pay("1")).await;
    server.shows(KEY).await;
    let mut first = server.events("").await;
    first.next_news(seconds(5)).await;
    let cursor = first.last_id().unwrap().to_owned();
    drop(first);
    let from_rest = server.get("/services").await.expect(200)["cursor"].as_str().unwrap().to_owned();

    // What cancels out is told too.
    let mut revisions = vec![
        etcd.put("/microservices/pay/2", pay("2")).await,
        etcd.delete("/microservices/pay/2").await,
        etcd.put(KEY, kratos("pay", "1", "http://10.0.0.2:80")).await,
    ];
    server.lost("/microservices/pay/2", seconds(5)).await;
    let query = format!("?since={}", encode(&cursor));
    let rest = format!("?since={}", encode(&from_rest));
    let wrong = format!("?since={}", encode("nonsense"));
    for (how, mut stream) in [
        ("by header", server.events_from(&cursor, "").await),
        ("by query", server.events(&query).await),
        ("by the cursor of a read", server.events(&rest).await),
        ("by header over query", server.events_from(&cursor, &wrong).await),
    ] {
        let welcome = stream.next_message(seconds(5)).await;
        let RegistryEvent::Progress(_) = &welcome.event else { panic!("{how}: first comes progress: {welcome:?}") };
        if how != "by the cursor of a read" {
            assert_eq!(welcome.id.as_deref(), Some(&*cursor), "{how}: with the cursor's own revisions");
        }
        for revision in &revisions {
            let (_, delta) = stream.next_delta(seconds(5)).await;
            assert_eq!((delta.revision, delta.changes.len()), (*revision, 1), "{how}");
        }
    }
    let mut stream = server.events_from(&cursor, "").await;
    revisions.push(etcd.put("/microservices/pay/3", pay("3")).await);
    for revision in &revisions {
        assert_eq!(stream.next_delta(seconds(5)).await.1.revision, *revision, "missed and new come in order, once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_nobody_gave_out_gets_a_snapshot_that_says_so() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    etcd.put(KEY, pay("1")).await;
    server.shows(KEY).await;
    let other_etcd = Etcd::spawn().await;
    let other_server = Server::start(&other_etcd).await;
    let foreign = other_server.get("/services").await.expect(200)["cursor"].as_str().unwrap().to_owned();
    for cursor in ["nonsense", "0", &foreign] {
        let mut stream = server.events_from(cursor, "").await;
        let first = stream.next_message(seconds(5)).await;
        let RegistryEvent::Snapshot(snapshot) = &first.event else { panic!("{cursor}: {first:?}") };
        assert_eq!(snapshot.reason, SnapshotReason::UnknownCursor, "{cursor}");
        assert_eq!(snapshot.records.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_revisions_have_equal_ids_on_every_stream_and_replica() {
    let etcd = Etcd::spawn().await;
    // One source, so that a delta's revision is all there is to a cursor.
    let one_source = ["--watch", "kratos=/microservices/"];
    let one = Server::start_with(&etcd, &one_source).await;
    etcd.put(KEY, pay("1")).await;
    one.shows(KEY).await;
    let two = Server::start_with(&etcd, &one_source).await;
    let mut streams = [one.events("").await, one.events("").await, two.events("").await];
    for stream in &mut streams {
        stream.next_news(seconds(5)).await;
    }
    for id in 2..6 {
        let revision = etcd.put(&format!("/microservices/pay/{id}"), pay(&id.to_string())).await;
        let mut ids = Vec::new();
        for stream in &mut streams {
            let (id, delta) = stream.next_delta(seconds(5)).await;
            assert_eq!(delta.revision, revision);
            ids.push(id.unwrap());
        }
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    let cursor = streams[0].last_id().unwrap().to_owned();
    for server in [&one, &two] {
        assert_eq!(server.get("/services").await.expect(200)["cursor"], cursor, "reads say the same cursor");
    }
    let missed = etcd.put("/microservices/pay/9", pay("9")).await;
    let mut elsewhere = two.events_from(&cursor, "").await;
    let (_, delta) = elsewhere.next_delta(seconds(5)).await;
    assert_eq!(delta.revision, missed, "another replica goes on from the cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_history_is_gone_a_snapshot_says_so() {
    let etcd = Etcd::spawn().await;
    let mut server = Server::start(&etcd).await;
    etcd.put(KEY, pay("1")).await;
    let follower = {
        let mut follower = server.follow("").await;
        follower.until_stands(KEY, seconds(5)).await;
        follower
    };
    let cursor = follower.cursor();
    server.kill();
    etcd.put("/microservices/pay/2", pay("2")).await;
    etcd.delete(KEY).await;
    etcd.compact(etcd.revision().await).await;
    let later = Server::start(&etcd).await;
    let mut follower = follower;
    follower.reconnect(later.events_from(&cursor, "").await);
    follower.until_gone(KEY, seconds(5)).await;
    assert_eq!(follower.reasons.last(), Some(&SnapshotReason::Compacted));
    assert!(follower.catalog.get("/microservices/pay/2").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_the_line_is_told_at_once_and_regularly() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut stream = server.events("").await;
    stream.next_status("live", seconds(3)).await;
    let asked = Instant::now();
    stream.next_status("live", seconds(12)).await;
    assert!(asked.elapsed() < seconds(11), "at least every 10 s");
}

/// etcd 3.5.8 and later tell no progress of a watch that begins above their own revision: over one that nobody writes
/// to, a server that waits for it takes its watch for dead.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_nobody_writes_to_is_no_trouble() {
    let etcd = Etcd::spawn().await;
    etcd.put("/microservices/pay/1", kratos("pay", "1", "http://10.0.0.1:80")).await;
    let server = Server::start(&etcd).await;
    let mut stream = server.events("").await;
    stream.next_status("live", seconds(10)).await;
    let asked = Instant::now();
    while asked.elapsed() < seconds(17) {
        let status = stream.next_named("status", seconds(12)).await;
        assert_eq!(status["etcd"], "live", "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_says_goodbye_and_closes_every_stream() {
    let etcd = Etcd::spawn().await;
    let mut server = Server::start(&etcd).await;
    let mut streams = [server.events("").await, server.events("?service=pay").await];
    for stream in &mut streams {
        stream.next_news(seconds(5)).await;
    }
    assert_eq!(server.end("TERM").await, Some(0));
    for stream in &mut streams {
        let bye = stream.next_named("bye", seconds(5)).await;
        assert!(bye["reconnect_ms"].is_u64(), "{bye}");
        assert!(stream.closes(seconds(5)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_holds_the_line_before_the_first_snapshot() {
    let mut etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    etcd.kill();
    let server = Server::launch(&etcd.url(), &[]).await;
    let mut follower = Follower::new(server.events("").await);
    follower.client().next_status("unreachable", seconds(10)).await;
    etcd.start().await;
    follower.until_stands(KEY, seconds(15)).await;
    assert_eq!(follower.reasons, [SnapshotReason::Connected; 1].repeat(follower.reasons.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_registry_arrives_whole() {
    const RECORDS: usize = 3_000;
    let etcd = Etcd::spawn().await;
    let mut client = etcd.client().await;
    let filler = "x".repeat(1_000);
    for batch in 0..RECORDS / 100 {
        let ops = (batch * 100..(batch + 1) * 100).map(|number| {
            let value =
                kratos("large", &number.to_string(), "http://10.0.0.1:80").replace("\"a\"", &format!("\"{filler}\""));
            etcd_client::TxnOp::put(format!("/microservices/large/{number}"), value, None)
        });
        client.txn(etcd_client::Txn::new().and_then(ops.collect::<Vec<_>>())).await.unwrap();
    }
    let server = Server::start(&etcd).await;
    let follower = server.follow("").await;
    assert_eq!(follower.catalog.len(), RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_cut_off_and_slows_no_other() {
    let etcd = Arc::new(Etcd::spawn().await);
    let server = Server::start(&etcd).await;
    let mut good = server.follow("").await;
    let mut frozen = TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", server.address());
    frozen.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 64];
    frozen.read_exact(&mut start).await.unwrap();
    assert!(start.starts_with(b"HTTP/1.1 200"));
    // More than any socket's buffers take, and then some for as long as it takes to be cut off.
    let filler = "x".repeat(40_000);
    let writer = tokio::spawn({
        let etcd = Arc::clone(&etcd);
        async move {
            for number in 0..600 {
                let value =
                    kratos("pay", "1", "http://10.0.0.1:80").replace("\"a\"", &format!("\"{number} {filler}\""));
                etcd.put(KEY, value).await;
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    });
    let changes = |follower: &Follower| follower.changes_of(KEY).0;
    good.until("the good reader goes on", seconds(60), |follower| changes(follower) >= 600).await;
    writer.await.unwrap();
    // Reading on at once might save the stream just before its time is up, so that is let pass first.
    tokio::time::sleep(seconds(13)).await;
    let mut rest = vec![0; 1 << 20];
    let ended = timeout(seconds(30), async {
        loop {
            match frozen.read(&mut rest).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    assert!(ended.await.is_ok(), "the reader that took nothing for more than 10 s is still connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_cursors_do_not_age() {
    if !long() {
        // Takes more than a minute: `cargo xtask test --long`. What it checks in short stands in the next test.
        return;
    }
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut stream = server.events("").await;
    stream.next_news(seconds(5)).await;
    let message = stream.next_message(seconds(65)).await;
    assert!(matches!(message.event, RegistryEvent::Progress(_)), "{message:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fold_of_a_busy_stream_over_reconnects_is_what_etcd_holds() {
    let etcd = Arc::new(Etcd::spawn().await);
    let server = Server::start(&etcd).await;
    let mut follower = server.follow("").await;
    let writer = tokio::spawn({
        let etcd = Arc::clone(&etcd);
        async move {
            let mut client = etcd.client().await;
            for number in 0..1_500_u32 {
                let key = format!("/microservices/busy/{}", number % 37);
                if number % 5 == 4 {
                    client.delete(key, None).await.unwrap();
                } else {
                    let value = kratos("busy", &(number % 37).to_string(), &format!("http://10.0.0.1:{number}"));
                    client.put(key, value, None).await.unwrap();
                }
            }
            client.put("/microservices/busy/end", kratos("busy", "end", "http://10.0.0.1:80"), None).await.unwrap();
        }
    });
    for round in 1..20 {
        follower
            .until("some changes", seconds(20), |follower| {
                follower.deltas.len() >= round * 40 || follower.catalog.get("/microservices/busy/end").is_some()
            })
            .await;
        let cursor = follower.cursor();
        follower.reconnect(server.events_from(&cursor, "").await);
    }
    follower.until_stands("/microservices/busy/end", seconds(30)).await;
    writer.await.unwrap();
    assert_eq!(follower.snapshots(), 1, "every reconnect went on where it had stopped: {:?}", follower.reasons);
    let mut held = etcd.keys("/microservices/").await;
    held.sort_unstable();
    let folded: Vec<String> = follower.catalog.records().map(|record| record.key.clone()).collect();
    assert_eq!(folded, held);
    for key in held {
        let answer = etcd.client().await.get(&*key, None).await.unwrap();
        assert_eq!(follower.catalog.get(&key).unwrap().mod_revision, answer.kvs()[0].mod_revision(), "{key}");
    }
    let mut revisions: Vec<i64> = follower.deltas.iter().map(|delta| delta.revision).collect();
    let count = revisions.len();
    revisions.dedup();
    assert_eq!(revisions.len(), count, "no delta came twice");
}
