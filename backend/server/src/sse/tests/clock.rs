//! What a reader is sent by the clock, and around the beginning and the end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rollcall_registry::etcd::ttl::LeaseSample;
use rollcall_shared::{Cursor, Digest, LeaseId, RegistryEvent, SnapshotReason, SourcePosition, api::TtlEvent};
use tokio::time::{Instant, timeout};

use super::{
    super::{Context, Reader, Request},
    client::{Block, blocks, context, source_id},
    store::{self, Scripted, Turn, Watcher},
};
use crate::mirror::Mirror;

struct Scene {
    etcd: Scripted,
    mirror: Arc<Mirror>,
    context: Context<Scripted>,
}

impl Scene {
    /// A server of the first source, with a key on lease 1.
    fn new() -> Self {
        let etcd = Scripted::new();
        etcd.store().txn(&[(0, 0, Some((0, 1)))]);
        let mirror = Arc::new(Mirror::new(vec![store::config(0)]));
        let context = context(&mirror, &etcd);
        Self { etcd, mirror, context }
    }

    fn live() -> Self {
        let scene = Self::new();
        scene.list();
        scene
    }

    fn list(&self) {
        for event in Watcher::default().turn(&mut self.etcd.store(), 0, Turn::Changes(0)) {
            self.mirror.apply(0, event);
        }
    }

    fn reader(&self, cursor: Option<&str>, ttl: bool) -> Reader<Scripted> {
        let cursor = cursor.map(Cursor::decode);
        Reader::new(self.context.clone(), Request { selected: Arc::default(), cursor, ttl })
    }

    fn cursor(&self) -> String {
        self.mirror.view(|_| ()).cursor
    }
}

/// All that comes within `time`, each with when it came.
async fn hear(reader: &mut Reader<Scripted>, time: Duration) -> Vec<(Duration, Block)> {
    let start = Instant::now();
    let mut heard = Vec::new();
    while let Ok(Some(bytes)) = timeout(time.saturating_sub(start.elapsed()), reader.next()).await {
        heard.extend(blocks(&bytes).into_iter().map(|block| (start.elapsed(), block)));
    }
    heard
}

fn named(heard: &[(Duration, Block)], name: &str) -> Vec<Duration> {
    heard.iter().filter(|(_, block)| block.event.as_deref() == Some(name)).map(|(at, _)| *at).collect()
}

fn messages(heard: &[(Duration, Block)]) -> Vec<(Duration, RegistryEvent)> {
    let plain = heard.iter().filter(|(_, block)| block.event.is_none() && block.retry.is_none());
    plain.map(|(at, block)| (*at, block.message())).collect()
}

fn longest_gap(times: &[Duration]) -> Duration {
    times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().expect("it came twice at the least")
}

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn the_line_is_held_until_the_first_snapshot_stands() {
    let scene = Scene::new();
    for cursor in [None, Some(scene.cursor())] {
        let mut reader = scene.reader(cursor.as_deref(), false);
        let heard = hear(&mut reader, Duration::from_mins(1)).await;
        assert!(heard[0].1.retry.is_some());
        assert_eq!((heard[1].0, heard[1].1.event.as_deref()), (Duration::ZERO, Some("status")));
        assert!(longest_gap(&named(&heard, "status")) <= Duration::from_secs(10));
        assert_eq!(messages(&heard), []);
    }
    let mut reader = scene.reader(None, false);
    hear(&mut reader, SHORT).await;
    scene.list();
    let heard = hear(&mut reader, SHORT).await;
    let [(_, RegistryEvent::Snapshot(snapshot))] = &messages(&heard)[..] else { panic!("{heard:?}") };
    assert_eq!((snapshot.reason, snapshot.records.len()), (SnapshotReason::Connected, 1));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_tells_the_status_and_how_far_it_has_come() {
    let scene = Scene::live();
    let mut reader = scene.reader(None, false);
    let heard = hear(&mut reader, Duration::from_mins(5)).await;
    assert!(longest_gap(&named(&heard, "status")) <= Duration::from_secs(10));
    let told: Vec<_> = messages(&heard).into_iter().map(|(at, _)| at).collect();
    assert!(told.len() >= 5 && longest_gap(&told) <= Duration::from_mins(1), "{told:?}");
    assert_eq!(named(&heard, "ttl"), []);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_always_finds_something_to_read_keeps_its_clock_too() {
    let scene = Scene::live();
    let mut reader = scene.reader(None, true);
    hear(&mut reader, SHORT).await;
    let mut watcher = Watcher { position: Some(scene.etcd.store().position(0)) };
    let start = Instant::now();
    let mut heard = Vec::new();
    while start.elapsed() < Duration::from_secs(70) {
        // Whenever the reader has taken one piece, the next stands there.
        scene.etcd.store().txn(&[(0, 0, Some((0, 1)))]);
        let events = watcher.turn(&mut scene.etcd.store(), 0, Turn::Changes(1));
        for event in events {
            scene.mirror.apply(0, event);
        }
        let bytes = reader.next().await.unwrap();
        heard.extend(blocks(&bytes).into_iter().map(|block| (start.elapsed(), block)));
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!(longest_gap(&named(&heard, "status")) <= Duration::from_secs(10));
    assert!(longest_gap(&named(&heard, "ttl")) <= Duration::from_secs(5));
    let progress: Vec<_> = messages(&heard)
        .into_iter()
        .filter_map(|(at, event)| matches!(event, RegistryEvent::Progress(_)).then_some(at))
        .collect();
    assert!(progress.first().is_some_and(|at| *at <= Duration::from_mins(1)), "{progress:?}");
    scene.context.shutdown.cancel();
    let mut last = None;
    while let Some(bytes) = reader.next().await {
        last = blocks(&bytes).pop();
    }
    assert_eq!(last.unwrap().event.as_deref(), Some("bye"));
}

#[tokio::test(start_paused = true)]
async fn the_leases_times_come_to_who_asked_for_them() {
    let scene = Scene::live();
    let sample = LeaseSample { granted_s: 15, remaining_s: 9, asked_at: Instant::now(), answered_at: Instant::now() };
    scene.mirror.leases(|book| book.record(LeaseId(1), sample));
    let mut reader = scene.reader(None, true);
    let heard = hear(&mut reader, Duration::from_mins(1)).await;
    let times = named(&heard, "ttl");
    assert!(times[0] <= Duration::from_secs(5) && longest_gap(&times) <= Duration::from_secs(5), "{times:?}");
    let first = heard.iter().find(|(_, block)| block.event.as_deref() == Some("ttl")).unwrap();
    assert!(first.1.body.contains(r#""lease":"0000000000000001","granted_s":15,"remaining_s":9"#), "{first:?}");
    assert_eq!(first.1.id, None);
}

#[tokio::test(start_paused = true)]
async fn the_times_of_many_leases_come_in_pieces_each_lease_often_enough() {
    const LEASES: u64 = 1_700;
    let scene = Scene::live();
    let sample =
        LeaseSample { granted_s: 900, remaining_s: 900, asked_at: Instant::now(), answered_at: Instant::now() };
    for lease in 1..=LEASES {
        let lease = LeaseId(lease.cast_signed());
        scene.mirror.leases(|book| {
            book.hold(lease, Instant::now());
            book.record(lease, sample);
        });
    }
    let mut reader = scene.reader(None, true);
    let heard = hear(&mut reader, Duration::from_mins(1)).await;
    let mut told: HashMap<LeaseId, Vec<Duration>> = HashMap::new();
    for (at, block) in heard.iter().filter(|(_, block)| block.event.as_deref() == Some("ttl")) {
        let event: TtlEvent = serde_json::from_str(&block.body).unwrap();
        assert!(event.leases.len() <= 500, "{}", event.leases.len());
        for ttl in event.leases {
            told.entry(ttl.lease).or_default().push(*at);
        }
    }
    assert_eq!(told.len(), usize::try_from(LEASES).unwrap());
    let first = told.values().map(|times| times[0]).max().unwrap();
    assert!(first <= Duration::from_secs(5), "{first:?}");
    assert!(told.values().all(|times| longest_gap(times) <= Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn every_stream_ends_with_a_bye() {
    let scene = Scene::live();
    let waiting = Scene::new();
    for scene in [scene, waiting] {
        let mut reader = scene.reader(None, false);
        hear(&mut reader, SHORT).await;
        scene.context.shutdown.cancel();
        let bytes = reader.next().await.expect("a bye");
        let [bye] = &blocks(&bytes)[..] else { panic!("{bytes:?}") };
        assert_eq!((bye.event.as_deref(), bye.id.as_deref()), (Some("bye"), None));
        assert!(bye.body.starts_with(r#"{"reconnect_ms":"#), "{bye:?}");
        assert_eq!(reader.next().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn while_etcd_is_asked_the_status_is_told() {
    let scene = Scene::live();
    scene.etcd.store().away = true;
    // Ahead of this server: etcd has to be asked, and does not answer.
    let ahead = SourcePosition { revision: 9, digest: Digest(9) };
    let cursor = Cursor { cluster: 77, sources: [(source_id(0), ahead)].into() }.encode();
    let mut reader = scene.reader(Some(&cursor), false);
    let heard = hear(&mut reader, Duration::from_mins(1)).await;
    assert!(longest_gap(&named(&heard, "status")) <= Duration::from_secs(10));
    assert_eq!(messages(&heard), []);
    scene.etcd.store().away = false;
    let heard = hear(&mut reader, Duration::from_secs(1)).await;
    let [(_, RegistryEvent::Snapshot(snapshot))] = &messages(&heard)[..] else { panic!("{heard:?}") };
    assert_eq!(snapshot.reason, SnapshotReason::Restored, "etcd itself has not come so far");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_is_worth_what_it_knows() {
    let scene = Scene::live();
    let now = scene.etcd.store().position(0);
    let cursor = |cluster, sources: &[_]| Cursor { cluster, sources: sources.iter().copied().collect() }.encode();
    let other = SourcePosition { digest: Digest(1), ..now };
    let table = [
        (cursor(77, &[(source_id(0), now)]), None),
        (cursor(77, &[(source_id(0), now), (source_id(1), now)]), None),
        (cursor(77, &[(source_id(1), now)]), Some(SnapshotReason::Connected)),
        (cursor(78, &[(source_id(0), now)]), Some(SnapshotReason::UnknownCursor)),
        ("nothing".to_owned(), Some(SnapshotReason::UnknownCursor)),
        (cursor(77, &[(source_id(0), other)]), Some(SnapshotReason::Restored)),
    ];
    for (cursor, reason) in table {
        let heard = hear(&mut scene.reader(Some(&cursor), false), SHORT).await;
        match (&messages(&heard)[..], reason) {
            ([(_, RegistryEvent::Progress(progress))], None) => {
                assert_eq!(progress.revisions, [("/a/".to_owned(), now.revision)].into());
            }
            ([(_, RegistryEvent::Snapshot(snapshot))], Some(reason)) => assert_eq!(snapshot.reason, reason),
            (other, _) => panic!("{reason:?}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_the_cursor_does_not_know_comes_alone() {
    let etcd = Scripted::new();
    etcd.store().txn(&[(0, 0, Some((0, 1))), (1, 0, Some((0, 1)))]);
    let mirror = Arc::new(Mirror::new(vec![store::config(0), store::config(1)]));
    for source in 0..2 {
        for event in Watcher::default().turn(&mut etcd.store(), source, Turn::Changes(0)) {
            mirror.apply(source, event);
        }
    }
    let known = etcd.store().position(0);
    let cursor = Cursor { cluster: 77, sources: [(source_id(0), known)].into() };
    let request = Request { selected: Arc::default(), cursor: Some(Ok(cursor)), ttl: false };
    let mut reader = Reader::new(context(&mirror, &etcd), request);
    let heard = hear(&mut reader, SHORT).await;
    let [(_, RegistryEvent::Progress(progress)), (_, RegistryEvent::Snapshot(snapshot))] = &messages(&heard)[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(progress.revisions, [("/a/".to_owned(), known.revision)].into());
    assert_eq!((snapshot.reason, snapshot.records.len()), (SnapshotReason::Connected, 1));
    assert_eq!(snapshot.revisions.keys().collect::<Vec<_>>(), ["/b/"]);
}
