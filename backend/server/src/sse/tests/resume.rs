//! What it costs etcd that readers come back, and what a cursor gets that is worth nothing.

use std::{sync::Arc, time::Duration};

use rollcall_shared::{Catalog, Cause, CauseKind, Cursor, RegistryEvent, Revision, SnapshotReason, SourcePosition};
use tokio::time::timeout;

use super::{
    super::{Context, Reader, Request},
    client::{blocks, context, source_id},
    store::{self, Meanwhile, Scripted, Turn, Watcher},
};
use crate::mirror::{
    Mirror,
    history::{Ahead, Told},
};

/// A server of the first source that started just now.
fn started(etcd: &Scripted) -> Context<Scripted> {
    let mirror = Arc::new(Mirror::new(vec![store::config(0)]));
    for event in Watcher::default().turn(&mut etcd.store(), 0, Turn::Changes(0)) {
        mirror.apply(0, event);
    }
    context(&mirror, etcd)
}

fn cursor(position: SourcePosition) -> Cursor {
    Cursor { cluster: 77, sources: [(source_id(0), position)].into() }
}

/// What a reader with this cursor is told at once.
async fn told(context: &Context<Scripted>, cursor: Cursor) -> Vec<RegistryEvent> {
    let request = Request { selected: Arc::default(), cursor: Some(Ok(cursor)), ttl: false };
    let mut reader = Reader::new(context.clone(), request);
    let mut told = Vec::new();
    while let Ok(Some(bytes)) = timeout(Duration::from_secs(4), reader.next()).await {
        let plain = blocks(&bytes).into_iter().filter(|block| block.event.is_none() && block.retry.is_none());
        told.extend(plain.map(|block| block.message()));
    }
    told
}

/// An etcd in which each of `count` revisions changed something, and where the source stood at each.
fn busy(count: usize) -> (Scripted, Vec<SourcePosition>) {
    let etcd = Scripted::new();
    let positions = (0..count).map(|index| {
        etcd.store().txn(&[(0, u16::try_from(index % 7).unwrap(), (index % 5 > 0).then_some((index % 3, 1)))]);
        etcd.store().position(0)
    });
    let positions = positions.collect();
    (etcd, positions)
}

#[tokio::test(start_paused = true)]
async fn five_hundred_who_come_at_once_with_as_many_cursors_cost_one_list() {
    let (etcd, positions) = busy(500);
    let context = started(&etcd);
    let readers = positions.iter().map(|position| told(&context, cursor(*position)));
    let all = futures_util::future::join_all(readers).await;
    let asked = {
        let store = etcd.store();
        (store.lists, store.watches)
    };
    assert_eq!(asked, (1, 1));
    for (told, known) in all.iter().zip(&positions) {
        let mut at = known.revision;
        let [RegistryEvent::Progress(progress), deltas @ ..] = &told[..] else { panic!("{told:?}") };
        assert_eq!(progress.revisions["/a/"], at);
        for delta in deltas {
            let RegistryEvent::Delta(delta) = delta else { panic!("{delta:?}") };
            assert!(delta.after <= at && at < delta.revision, "{delta:?} for one at {at}");
            at = delta.revision;
        }
        assert!(at >= positions.last().unwrap().revision - 1 || deltas.is_empty(), "{at}");
        let missed = positions.iter().zip(positions.iter().skip(1));
        let missed = missed.filter(|(one, next)| one.revision >= known.revision && one.digest != next.digest);
        assert_eq!(deltas.len(), missed.count(), "after {known:?}");
    }
    // Whoever comes a little later with another cursor from there costs nothing.
    let later = SourcePosition { revision: positions[300].revision, ..positions[300] };
    assert!(told(&context, cursor(later)).await.len() > 1);
    assert_eq!(etcd.store().lists, 1);
}

#[tokio::test(start_paused = true)]
async fn each_of_those_who_come_together_gets_what_its_own_cursor_is_worth() {
    let (etcd, positions) = busy(60);
    let context = started(&etcd);
    etcd.store().compact(positions[20].revision);
    let other = |position: SourcePosition| SourcePosition {
        digest: rollcall_shared::Digest(position.digest.0 ^ 1),
        ..position
    };
    let table = [
        (positions[3], Some(SnapshotReason::Compacted)),
        (positions[19], Some(SnapshotReason::Compacted)),
        (positions[20], None),
        (other(positions[20]), Some(SnapshotReason::Restored)),
        (positions[40], None),
        (other(positions[41]), Some(SnapshotReason::Restored)),
        (positions[58], None),
    ];
    let all = futures_util::future::join_all(table.map(|(known, _)| told(&context, cursor(known)))).await;
    for (told, (known, reason)) in all.iter().zip(table) {
        match (&told[0], reason) {
            (RegistryEvent::Snapshot(snapshot), Some(reason)) => assert_eq!(snapshot.reason, reason, "{known:?}"),
            (RegistryEvent::Progress(_), None) => assert!(told.len() > 1, "{known:?}"),
            (other, _) => panic!("{known:?}, {reason:?}: {other:?}"),
        }
    }
    // One that finds the oldest compacted, one from where it is not.
    assert_eq!(etcd.store().lists, 2);
}

#[tokio::test(start_paused = true)]
async fn those_who_are_ahead_of_a_server_are_judged_together() {
    let (etcd, before) = busy(10);
    let context = started(&etcd);
    let last = *before.last().unwrap();
    let ahead: Vec<_> = (0..300)
        .map(|_| {
            etcd.store().elsewhere();
            etcd.store().position(0)
        })
        .collect();
    let of_none = SourcePosition { digest: rollcall_shared::Digest(1), ..ahead[7] };
    let future = SourcePosition { revision: 100_000, ..last };
    let all: Vec<_> = ahead.iter().copied().chain([of_none, future]).collect();
    let told = futures_util::future::join_all(all.iter().map(|known| told(&context, cursor(*known)))).await;
    for (told, known) in told.iter().zip(&all) {
        match &told[0] {
            RegistryEvent::Progress(_) => assert!(known.digest == last.digest && known.revision < 100_000, "{known:?}"),
            RegistryEvent::Snapshot(snapshot) => {
                assert_eq!(snapshot.reason, SnapshotReason::Restored);
                assert!(*known == of_none || *known == future, "{known:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(etcd.store().lists, 2, "at the first of them and at the last");
}

#[tokio::test(start_paused = true)]
async fn who_is_ahead_at_a_revision_that_is_compacted_since_does_not_wait_for_ever() {
    let (etcd, before) = busy(10);
    let context = started(&etcd);
    etcd.store().elsewhere();
    let same = etcd.store().position(0);
    etcd.store().elsewhere();
    etcd.store().elsewhere();
    etcd.store().compact(same.revision + 1);
    let told_same = told(&context, cursor(same)).await;
    assert!(matches!(&told_same[..], [RegistryEvent::Progress(_)]), "{told_same:?}");
    let other = SourcePosition { digest: before[3].digest, ..same };
    let told_other = told(&context, cursor(other)).await;
    let [RegistryEvent::Snapshot(snapshot)] = &told_other[..] else { panic!("{told_other:?}") };
    assert_eq!(snapshot.reason, SnapshotReason::Compacted);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_ahead_is_told_what_overtakes_it() {
    let (etcd, _) = busy(10);
    let context = started(&etcd);
    let mut watcher = Watcher { position: Some(etcd.store().position(0)) };
    // It came and went again before the reader's revision, and this server has not heard of it.
    etcd.store().flicker(0);
    etcd.store().elsewhere();
    let ahead = etcd.store().position(0);
    let request = Request { selected: Arc::default(), cursor: Some(Ok(cursor(ahead))), ttl: false };
    let mut reader = Reader::new(context.clone(), request);
    let mut at: Revision = 0;
    let mut catalog = Catalog::default();
    for round in 0..6 {
        while let Ok(Some(bytes)) = timeout(Duration::from_secs(1), reader.next()).await {
            for block in blocks(&bytes).into_iter().filter(|block| block.event.is_none() && block.retry.is_none()) {
                match block.message() {
                    RegistryEvent::Progress(progress) => at = at.max(progress.revisions["/a/"]),
                    RegistryEvent::Delta(delta) => {
                        assert!(delta.revision > ahead.revision, "it knew {delta:?}");
                        assert!(delta.after <= at && at < delta.revision, "{delta:?} for one at {at}");
                        at = delta.revision;
                    }
                    other => panic!("{other:?}"),
                }
                let _ = catalog.apply(&block.message());
            }
        }
        if round == 2 {
            etcd.store().txn(&[(0, 1, Some((0, 1)))]);
        }
        for event in watcher.turn(&mut etcd.store(), 0, Turn::Changes(1)) {
            context.mirror.apply(0, event);
        }
    }
    assert_eq!(at, ahead.revision + 1, "it was told what came after");
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_changes_nothing_here_is_told_to_who_was_ahead() {
    let (etcd, _) = busy(10);
    let context = started(&etcd);
    etcd.store().elsewhere();
    etcd.store().elsewhere();
    let ahead = etcd.store().position(0);
    let request = Request { selected: Arc::default(), cursor: Some(Ok(cursor(ahead))), ttl: false };
    let mut reader = Reader::new(context.clone(), request);
    let mut reasons = Vec::new();
    for restored in [false, true] {
        let end = tokio::time::Instant::now() + Duration::from_mins(1);
        while let Ok(Some(bytes)) = tokio::time::timeout_at(end, reader.next()).await {
            for block in blocks(&bytes).into_iter().filter(|block| block.event.is_none() && block.retry.is_none()) {
                if let RegistryEvent::Snapshot(snapshot) = block.message() {
                    reasons.push(snapshot.reason);
                }
            }
        }
        if !restored {
            assert_eq!(reasons, []);
            let back = etcd.store().revision() - 1;
            etcd.store().restore(back);
        }
    }
    assert_eq!(reasons, [SnapshotReason::Restored]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_not_noticed_a_restore_does_not_tell_of_the_history_that_is_gone() {
    let (etcd, positions) = busy(20);
    let mirror = Arc::new(Mirror::new(vec![store::config(0)]));
    let mut watcher = Watcher::default();
    for event in watcher.turn(&mut etcd.store(), 0, Turn::Changes(0)) {
        mirror.apply(0, event);
    }
    let context = context(&mirror, &etcd);
    etcd.store().restore(positions[5].revision);
    for key in 0..8 {
        etcd.store().txn(&[(0, key, Some((2, 0)))]);
    }
    // Told by another server, which had noticed.
    let known = etcd.store().position(0);
    etcd.store().txn(&[(0, 30, Some((1, 0)))]);
    let old = positions[12];
    assert!(told(&context, cursor(known)).await.is_empty(), "it waits");
    let comes = tokio::spawn({
        let context = context.clone();
        async move { told(&context, cursor(known)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    for event in watcher.turn(&mut etcd.store(), 0, Turn::Again) {
        mirror.apply(0, event);
    }
    let comes = comes.await.unwrap();
    assert!(matches!(comes[0], RegistryEvent::Progress(_)), "its history goes on here: {comes:?}");
    let told = told(&context, cursor(old)).await;
    let RegistryEvent::Snapshot(snapshot) = &told[0] else { panic!("{told:?}") };
    assert_eq!(snapshot.reason, SnapshotReason::Restored);
}

#[tokio::test(start_paused = true)]
async fn those_who_lack_the_same_sources_share_what_they_are_sent() {
    let etcd = Scripted::new();
    let many: Vec<_> = (0..1_200_u16).map(|key| (0, key, Some((0, 0)))).collect();
    let some = etcd.store().position(0);
    etcd.store().txn(&many);
    // The second source was quiet; they saw it at two revisions.
    let first = etcd.store().position(1);
    etcd.store().elsewhere();
    let second = etcd.store().position(1);
    let quiet = [first, first, second];
    let now = etcd.store().position(0);
    etcd.store().compact(first.revision);
    let mirror = Arc::new(Mirror::new(vec![store::config(0), store::config(1)]));
    for source in 0..2 {
        for event in Watcher::default().turn(&mut etcd.store(), source, Turn::Changes(0)) {
            mirror.apply(source, event);
        }
    }
    let context = context(&mirror, &etcd);
    let mut all = Vec::new();
    for quiet in quiet {
        let sources = [(source_id(0), some), (source_id(1), quiet)].into();
        let request =
            Request { selected: Arc::default(), cursor: Some(Ok(Cursor { cluster: 77, sources })), ttl: false };
        let mut reader = Reader::new(context.clone(), request);
        let mut parts = Vec::new();
        while let Ok(Some(bytes)) = timeout(Duration::from_secs(4), reader.next()).await {
            if blocks(&bytes)[0].body.starts_with(r#"{"type":"snapshot""#) {
                parts.push(bytes);
            }
        }
        assert_eq!(parts.len(), 2);
        let [early, last] = [0, 1].map(|part| blocks(&parts[part]).remove(0));
        assert_eq!(early.id, None);
        let RegistryEvent::Snapshot(snapshot) = early.message() else { panic!("{early:?}") };
        assert_eq!((snapshot.reason, snapshot.records.len()), (SnapshotReason::Compacted, 1_000));
        assert_eq!(snapshot.revisions.into_keys().collect::<Vec<_>>(), ["/a/"]);
        let id = Cursor::decode(&last.id.expect("the last has it")).unwrap();
        assert_eq!(id.sources[&source_id(0)], now);
        assert_eq!(id.sources[&source_id(1)], quiet);
        all.push((parts[0].as_ptr(), parts[1].as_ptr(), id));
    }
    assert_eq!(all[0].0, all[1].0, "encoded once");
    assert_eq!(all[0].0, all[2].0, "encoded once");
    assert_eq!((all[0].1, &all[0].2), (all[1].1, &all[1].2), "with the same id to its end");
    assert_ne!(all[0].2, all[2].2, "each with its own id");
}

#[tokio::test(start_paused = true)]
async fn old_cursors_do_not_keep_newer_ones_from_their_answer() {
    let (etcd, positions) = busy(300);
    // So little fits into memory that history takes many readings.
    let mirror = Arc::new(Mirror::new(vec![store::config(0)]).with_histories_bytes(60 * 1_024));
    for event in Watcher::default().turn(&mut etcd.store(), 0, Turn::Changes(0)) {
        mirror.apply(0, event);
    }
    let known: Vec<_> = positions.iter().copied().step_by(50).collect();
    let missed = known.iter().map(|known| mirror.missed(&etcd, 0, *known));
    for (told, known) in futures_util::future::join_all(missed).await.into_iter().zip(&known) {
        let Some(Told::Missed { roll, next }) = told else { panic!("{known:?}: {told:?}") };
        assert_eq!(roll.missed_from(next)[0].position.revision, known.revision + 1);
    }
    assert_eq!(etcd.store().lists, known.len(), "each lies beyond the end of what the one before read");
}

#[tokio::test(start_paused = true)]
async fn ahead_of_a_server_old_cursors_do_not_keep_newer_ones_from_their_answer() {
    let (etcd, positions) = busy(300);
    let mirror = Arc::new(Mirror::new(vec![store::config(0)]).with_histories_bytes(60 * 1_024));
    let known: Vec<_> = positions.iter().copied().step_by(50).collect();
    let ahead = known.iter().map(|known| mirror.ahead(&etcd, 0, *known));
    let ahead = futures_util::future::join_all(ahead).await;
    assert_eq!(ahead, vec![Some(Ahead::OfHistory); known.len()]);
}

#[tokio::test(start_paused = true)]
async fn the_cause_of_a_delete_of_the_history_after_a_restore_is_told_to_who_was_replayed_another() {
    let (etcd, positions) = busy(20);
    let context = started(&etcd);
    let mut watcher = Watcher { position: Some(etcd.store().position(0)) };
    let request = Request { selected: Arc::default(), cursor: Some(Ok(cursor(positions[3]))), ttl: false };
    let mut reader = Reader::new(context.clone(), request);
    let mut told = Vec::new();
    for round in 0..2 {
        while let Ok(Some(bytes)) = timeout(Duration::from_secs(4), reader.next()).await {
            let plain = blocks(&bytes).into_iter().filter(|block| block.event.is_none() && block.retry.is_none());
            told.extend(plain.map(|block| block.message()));
        }
        if round == 0 {
            assert!(matches!(told.last(), Some(RegistryEvent::Delta(_))), "it is replayed what it missed: {told:?}");
            etcd.store().restore(positions[8].revision);
            etcd.store().txn(&[(0, 40, Some((0, 0)))]);
            for event in watcher.turn(&mut etcd.store(), 0, Turn::Again) {
                context.mirror.apply(0, event);
            }
            etcd.store().txn(&[(0, 40, None)]);
            assert!(etcd.store().revision() < positions[19].revision);
            for event in watcher.turn(&mut etcd.store(), 0, Turn::Changes(9)) {
                for left in context.mirror.apply(0, event) {
                    let (cause, evidence) = (CauseKind::Deregistered, String::new());
                    let cause = Cause { key: left.key, revision: left.revision, cause, evidence };
                    context.mirror.tell_causes(vec![(left.service, cause)]);
                }
            }
        }
    }
    let [.., RegistryEvent::Snapshot(snapshot), RegistryEvent::Delta(delta), RegistryEvent::Cause(cause)] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(snapshot.reason, SnapshotReason::Restored);
    assert_eq!(cause.revision, delta.revision);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_history_hears_the_leases_times() {
    let (etcd, positions) = busy(20);
    let context = started(&etcd);
    etcd.store().away = true;
    let request = Request { selected: Arc::default(), cursor: Some(Ok(cursor(positions[3]))), ttl: true };
    let mut reader = Reader::new(context, request);
    let start = tokio::time::Instant::now();
    let mut heard = vec![start];
    while let Ok(Some(bytes)) = tokio::time::timeout_at(start + Duration::from_secs(20), reader.next()).await {
        for block in blocks(&bytes) {
            assert!(block.event.is_some() || block.retry.is_some(), "history cannot be read: {block:?}");
            if block.event.as_deref() == Some("ttl") {
                heard.push(tokio::time::Instant::now());
            }
        }
    }
    assert!(heard.len() > 4, "{heard:?}");
    assert!(heard.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_secs(5)), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn what_no_server_ever_gave_out_is_unknown() {
    let (etcd, positions) = busy(10);
    let context = started(&etcd);
    let position = *positions.last().unwrap();
    let table = [
        Cursor { cluster: 77, sources: [].into() },
        cursor(SourcePosition { revision: 0, ..position }),
        cursor(SourcePosition { revision: -5, ..position }),
        Cursor { cluster: 78, ..cursor(position) },
    ];
    for cursor in table {
        let told = told(&context, cursor).await;
        let [RegistryEvent::Snapshot(snapshot)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(snapshot.reason, SnapshotReason::UnknownCursor);
    }
    assert_eq!(etcd.store().lists, 0, "etcd is not asked for it");
}

#[tokio::test(start_paused = true)]
async fn a_compaction_between_list_and_watch_is_told_as_one() {
    let (etcd, positions) = busy(30);
    let context = started(&etcd);
    etcd.store().meanwhile.push_back((1, Meanwhile::Compact(2)));
    let told = told(&context, cursor(positions[5])).await;
    let RegistryEvent::Snapshot(snapshot) = &told[0] else { panic!("{told:?}") };
    assert_eq!(snapshot.reason, SnapshotReason::Compacted);
}
