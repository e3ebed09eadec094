//! The watcher over a scripted source, in paused time: one test for each trap of watching etcd. What every event must
//! keep is checked by the reader, in all tests.

mod property;
mod scripted;

use self::scripted::{Call, Model, Reader, Scripted, put};
use super::*;

fn list(call: Call) -> bool {
    matches!(call, Call::List { .. })
}

fn later_page(call: Call) -> bool {
    matches!(call, Call::List { first: false, .. })
}

fn open(call: Call) -> bool {
    matches!(call, Call::Watch { .. })
}

fn unavailable() -> SourceError {
    SourceError::Request(Box::new(etcd_client::Error::GRpcStatus(tonic::Status::unavailable("no leader"))))
}

/// Enough for the watcher to come back after a failure and to read all there is.
const SOON: Duration = Duration::from_secs(5);

/// Enough for a comparison with a fresh list.
const ANTI_ENTROPY: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn pages_are_pinned_to_the_first_ones_revision_and_the_watch_goes_on_from_the_next() {
    let source = Scripted::with_keys(7);
    source.before_call(later_page, |etcd| {
        etcd.put("key-000", "changed behind the list");
        etcd.put("key-006", "changed before the list");
        etcd.delete("key-005");
        Ok(())
    });
    let mut reader = Reader::new(&source);
    reader.for_the_next(SOON).await;
    assert_eq!(
        reader.told_changes(),
        ["Connected at 8", "delta of 1 at 9", "delta of 1 at 10", "delta of 1 at 11"],
        "{:?}",
        reader.told
    );
    assert_eq!(
        source.calls(),
        [
            Call::List { first: true, at: None },
            Call::List { first: false, at: Some(8) },
            Call::List { first: false, at: Some(8) },
            Call::Watch { from: 9 }
        ]
    );
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn an_empty_prefix_is_a_snapshot_too() {
    let source = Scripted::new();
    let mut reader = Reader::caught_up(&source).await;
    assert_eq!(reader.position, Some(SourcePosition { revision: 1, ..SourcePosition::default() }));
    source.change(|etcd| etcd.put("first", "1"));
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_compaction_between_pages_starts_the_list_anew() {
    let source = Scripted::with_keys(7);
    source.before_call(later_page, |etcd| {
        etcd.put("key-000", "changed");
        etcd.compact(9);
        Ok(())
    });
    let mut reader = Reader::new(&source);
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Connected at 9"]);
    assert_eq!(reader.errors.len(), 1, "{:?}", reader.errors);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn a_compaction_between_pages_of_a_relist_still_tells_why() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    let mut pages = 0;
    source.before_calls(move |etcd, call| {
        if later_page(call) {
            pages += 1;
            if pages == 1 {
                let revision = etcd.put("key-003", "again");
                etcd.compact(revision);
            }
        }
        Ok(())
    });
    source.change(|etcd| {
        let revision = etcd.put("key-002", "changed");
        etcd.compact(revision);
        etcd.end_watches(|| SourceError::Ended);
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Compacted at 10"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn compacted_while_away_a_changed_view_is_a_snapshot_of_the_present() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.delete("key-001");
        let revision = etcd.put("key-002", "changed");
        etcd.compact(revision);
        etcd.put("key-003", "changed too");
        etcd.end_watches(|| SourceError::Ended);
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Compacted at 11"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn compacted_while_away_an_unchanged_view_is_nothing_but_progress() {
    let source = Scripted::with_keys(7);
    source.model().progress_is_proof = false;
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.put_elsewhere();
        let revision = etcd.put_elsewhere();
        etcd.compact(revision);
        etcd.end_watches(|| SourceError::Ended);
    });
    reader.until_opened().await;
    let position = SourcePosition { revision: 10, digest: reader.position.unwrap().digest };
    assert_eq!(reader.told, [SourceEvent::Unchanged(position), SourceEvent::Opened]);
    assert_eq!(source.calls().last(), Some(&Call::Watch { from: 11 }));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_compaction_overtook_lists_again() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.put("key-001", "changed");
        let revision = etcd.put("key-001", "changed again");
        etcd.compact(revision);
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Compacted at 10"]);
    assert_eq!(reader.errors, [] as [&str; 0]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn a_compaction_right_before_the_watch_opens_lists_again() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.before_call(open, |etcd| {
        etcd.delete("key-001");
        let revision = etcd.delete("key-002");
        etcd.compact(revision);
        Err(SourceError::Compacted(revision))
    });
    source.change(|etcd| etcd.end_watches(|| SourceError::Ended));
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Compacted at 10"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_resumes_from_the_last_revision_with_nothing_lost_nor_doubled() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| etcd.put("key-001", "seen"));
    reader.for_the_next(Duration::from_millis(1)).await;
    source.change(|etcd| {
        etcd.end_watches(|| SourceError::Ended);
        etcd.put("key-002", "missed");
        etcd.delete("key-003");
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 6", "delta of 1 at 7", "delta of 1 at 8"]);
    assert_eq!(reader.errors, ["Watch: the watch's stream ended"]);
    assert!(source.calls().contains(&Call::Watch { from: 7 }), "{:?}", source.calls());
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_within_a_revision_tells_it_whole_after_all() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.fragment_changes = 2;
        etcd.put("key-000", "before");
        etcd.txn((0..5).map(|index| put(&format!("new-{index}"), "together")));
    });
    // The first answer holds a revision and a piece of the next one.
    while reader.told_changes().is_empty() {
        reader.next().await.unwrap();
    }
    source.change(|etcd| etcd.end_watches(unavailable));
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 6", "delta of 5 at 7"]);
    assert_eq!(reader.errors.len(), 1, "{:?}", reader.errors);
    reader.assert_up_to_date();
}

/// Restored to revision `back`, changed so many times since, and the connections lost or not.
async fn restored(back: Revision, changes_since: u32, connections_lost: bool) -> Reader {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.restore(back);
        for _ in 0..changes_since {
            etcd.put("key-000", "of the new history");
        }
        if connections_lost {
            etcd.end_watches(|| SourceError::Ended);
        }
    });
    reader.for_the_next(if connections_lost { SOON } else { ANTI_ENTROPY }).await;
    reader.assert_up_to_date();
    reader
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_went_back_is_seen_on_reconnecting() {
    assert_eq!(restored(5, 0, true).await.told_changes(), ["Restored at 5"]);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_went_back_and_then_past_the_view_is_seen_on_reconnecting() {
    assert_eq!(restored(5, 3, true).await.told_changes(), ["Restored at 8"]);
    assert_eq!(restored(5, 9, true).await.told_changes(), ["Restored at 14"]);
}

#[tokio::test(start_paused = true)]
async fn a_restore_is_seen_by_a_watch_that_waits_in_silence() {
    assert_eq!(restored(5, 0, false).await.told_changes(), ["Restored at 5"]);
    assert_eq!(restored(5, 2, false).await.told_changes(), ["Restored at 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_restore_behind_a_living_watch_is_mended_by_a_snapshot() {
    let reader = restored(5, 9, false).await;
    assert_eq!(reader.told_changes().last().unwrap(), "Restored at 14");
}

#[tokio::test(start_paused = true)]
async fn a_restore_of_the_same_view_says_nothing() {
    let source = Scripted::with_keys(7);
    source.change(Model::put_elsewhere);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.restore(8);
        etcd.put_elsewhere();
        etcd.put("key-000", "changed");
        etcd.end_watches(|| SourceError::Ended);
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 10"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn another_cluster_with_the_same_view_is_told() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.cluster += 1;
        etcd.end_watches(|| SourceError::Ended);
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Restored at 8"]);
}

#[tokio::test(start_paused = true)]
async fn a_restore_between_the_comparison_and_the_watch_is_found() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.before_call(open, |etcd| {
        etcd.restore(5);
        Ok(())
    });
    source.change(|etcd| etcd.end_watches(|| SourceError::Ended));
    reader.for_the_next(ANTI_ENTROPY).await;
    assert_eq!(reader.told_changes(), ["Restored at 5"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn a_restore_whose_past_was_compacted_is_found_behind_a_quiet_watch() {
    let source = Scripted::with_keys(7);
    source.model().progress_is_proof = false;
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.restore(5);
        for _ in 0..10 {
            etcd.put_elsewhere();
        }
    });
    // The watch passes by what it has nothing to say of.
    reader.for_the_next(Duration::from_millis(1)).await;
    source.change(|etcd| etcd.compact(12));
    reader.for_the_next(ANTI_ENTROPY * 3).await;
    assert_eq!(reader.told_changes(), ["Compacted at 15"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn compaction_of_a_quiet_prefix_costs_neither_the_watch_nor_a_word() {
    let source = Scripted::with_keys(7);
    source.model().progress_is_proof = false;
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.put_elsewhere();
        etcd.put_elsewhere()
    });
    // The watch passes by what it has nothing to say of.
    reader.for_the_next(Duration::from_millis(1)).await;
    source.change(|etcd| etcd.compact(10));
    reader.for_the_next(ANTI_ENTROPY * 3).await;
    assert_eq!(reader.told, []);
    assert!(!source.calls().into_iter().any(open), "{:?}", source.calls());
    source.change(|etcd| etcd.put("key-000", "changed"));
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 11"]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_of_the_future_on_reconnecting_means_a_restore() {
    let source = Scripted::with_keys(7);
    let mut reader = Reader::caught_up(&source).await;
    source.before_call(list, |_| Err(SourceError::Future));
    source.change(|etcd| etcd.end_watches(|| SourceError::Ended));
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["Restored at 8"]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_one_delta() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.put("key-000", "before");
        etcd.txn([put("key-001", "together"), scripted::delete("key-002"), put("new", "together")]);
        etcd.put("key-000", "after");
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 6", "delta of 3 at 7", "delta of 1 at 8"]);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_5000_keys_in_fragments_is_one_delta() {
    let source = Scripted::new();
    source.model().page_keys = 2_000;
    let mut reader = Reader::caught_up(&source).await;
    for fragment_changes in [1_000, 1_001, 4_999, 5_000, 7] {
        source.change(|etcd| {
            etcd.fragment_changes = fragment_changes;
            etcd.put("before", "1");
            etcd.txn((0..5_000).map(|index| (format!("{}{index:04}", scripted::PREFIX), Some((String::new(), 9)))));
            etcd.put("between", "1");
            etcd.end_lease(9);
            etcd.put("after", "1");
        });
        let last = source.model().revision();
        reader.for_the_next(Duration::from_secs(1)).await;
        let expected = [(1, 4), (5_000, 3), (1, 2), (5_000, 1), (1, 0)];
        assert_eq!(
            reader.told_changes(),
            expected.map(|(count, back)| format!("delta of {count} at {}", last - back)),
            "in fragments of {fragment_changes}"
        );
        reader.assert_up_to_date();
        reader.forget();
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_5000_keys_over_many_pages_is_one_snapshot() {
    let source = Scripted::new();
    source.change(|etcd| {
        etcd.page_keys = 2_000;
        etcd.txn((0..5_000).map(|index| put(&format!("{index:04}"), "")))
    });
    let mut reader = Reader::new(&source);
    reader.until_opened().await;
    assert_eq!(reader.told_changes(), ["Connected at 2"]);
    assert_eq!(source.calls().into_iter().filter(|call| list(*call)).count(), 3);
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn doubled_events_are_left_out() {
    let source = Scripted::with_keys(4);
    source.model().doubles = true;
    let mut reader = Reader::caught_up(&source).await;
    for fragment_changes in [usize::MAX, 2, 1] {
        source.model().fragment_changes = fragment_changes;
        let last = source.model().revision();
        for _ in 0..3 {
            source.change(|etcd| etcd.txn([put("key-000", "one"), put("key-001", "two"), put("key-002", "three")]));
            reader.for_the_next(Duration::from_millis(1)).await;
        }
        assert_eq!(reader.told_changes(), [1, 2, 3].map(|more| format!("delta of 3 at {}", last + more)));
        reader.assert_up_to_date();
        reader.forget();
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_that_cancels_out_is_still_told() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.end_watches(|| SourceError::Ended);
        etcd.delete("key-001");
        etcd.put("key-001", "first");
        etcd.put("passing", "by");
        etcd.delete("passing");
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), [6, 7, 8, 9].map(|revision| format!("delta of 1 at {revision}")));
    reader.assert_up_to_date();
}

#[tokio::test(start_paused = true)]
async fn progress_that_is_proof_moves_the_position() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.change(Model::put_elsewhere);
    reader.for_the_next(SOON).await;
    assert_eq!(reader.position.unwrap().revision, 6);
    source.change(|etcd| etcd.end_watches(|| SourceError::Ended));
    reader.for_the_next(SOON).await;
    assert!(source.calls().contains(&Call::Watch { from: 7 }), "{:?}", source.calls());
}

#[tokio::test(start_paused = true)]
async fn progress_that_may_overtake_events_moves_nothing() {
    let source = Scripted::with_keys(4);
    source.model().progress_is_proof = false;
    let mut reader = Reader::caught_up(&source).await;
    source.change(Model::put_elsewhere);
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told, [], "nothing but signs of life");
    assert_eq!(reader.position.unwrap().revision, 5);
    // The next answer names a revision whose change is told only after it.
    source.change(|etcd| etcd.put("key-000", "overtaken"));
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_given_up_and_blamed() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    reader.for_the_next(Duration::from_mins(1)).await;
    assert_eq!(source.model().blamed, 0, "a quiet watch is no silent one");
    source.change(|etcd| {
        etcd.silent = true;
        etcd.put("key-000", "unheard")
    });
    let silent_since = Instant::now();
    while reader.errors.is_empty() {
        let _ = reader.next().await;
    }
    assert_eq!(reader.errors, ["Watch: etcd did not answer within 11 s"]);
    let silence = silent_since.elapsed();
    assert!(SILENCE_MAX <= silence + PROGRESS_INTERVAL && silence <= SILENCE_MAX + PROGRESS_INTERVAL, "{silence:?}");
    assert_eq!(source.model().blamed, 1);
    source.model().silent = false;
    reader.for_the_next(SOON).await;
    assert_eq!(reader.told_changes(), ["delta of 1 at 6"]);
    assert_eq!(source.model().watches_standing(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_does_not_make_the_watch_a_silent_one() {
    let source = Scripted::with_keys(4);
    for changed in [false, true] {
        let mut reader = Reader::caught_up(&source).await;
        reader.for_the_next(SOON).await;
        reader.forget();
        // Nobody asks the watch for anything meanwhile.
        sleep(SILENCE_MAX * 3).await;
        let mut expected = Vec::new();
        if changed {
            let revision = source.change(|etcd| etcd.put("key-000", "changed meanwhile"));
            expected.push(format!("delta of 1 at {revision}"));
        }
        reader.for_the_next(SOON).await;
        assert_eq!(reader.told_changes(), expected);
        assert_eq!(reader.errors, [] as [&str; 0]);
    }
    assert_eq!(source.model().blamed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_canceled_for_a_reason_is_an_error_and_a_fresh_watch() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.change(|etcd| {
        etcd.end_watches(|| SourceError::Canceled("rpc error: code = PermissionDenied".to_owned()));
        etcd.put("key-000", "meanwhile")
    });
    reader.for_the_next(SOON).await;
    assert_eq!(reader.errors, ["Watch: etcd ended the watch: rpc error: code = PermissionDenied"]);
    assert_eq!(reader.told_changes(), ["delta of 1 at 6"]);
    assert_eq!(source.model().watches_standing(), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_are_said_and_the_stream_goes_on() {
    let source = Scripted::with_keys(7);
    let mut failures = 0;
    source.before_calls(move |_, call| {
        failures += 1;
        match call {
            Call::List { .. } if failures % 4 != 0 => Err(unavailable()),
            Call::Watch { .. } if failures % 3 == 0 => Err(SourceError::Timeout(Duration::from_secs(5))),
            _ => Ok(()),
        }
    });
    source.model().page_keys = 100;
    let mut reader = Reader::new(&source);
    reader.for_the_next(ANTI_ENTROPY).await;
    let errors = reader.errors.join("\n");
    for phase in ["List: ", "Open: ", "Verify: "] {
        assert!(errors.contains(phase), "{phase} in {errors}");
    }
    source.before_calls(|_, _| Ok(()));
    source.change(|etcd| {
        etcd.end_watches(unavailable);
        etcd.put("key-000", "in the end")
    });
    reader.for_the_next(SOON).await;
    reader.assert_up_to_date();
    assert_eq!(reader.told_changes(), ["Connected at 8", "delta of 1 at 9"]);
}

/// When each of the next errors comes, with nothing but [`SourceEvent::Opened`] between them.
async fn waits(reader: &mut Reader, count: usize) -> Vec<Duration> {
    let mut waits = Vec::new();
    let mut last = Instant::now();
    while waits.len() < count {
        match reader.next().await {
            Err(_) => {
                waits.push(last.elapsed());
                last = Instant::now();
            }
            Ok(event) => assert_eq!(event, SourceEvent::Opened),
        }
    }
    waits
}

fn assert_doubles_up_to_the_longest(waits: &[Duration]) {
    let mut full = BACKOFF_MIN;
    for wait in &waits[1..] {
        // Timers tick in milliseconds.
        let least = full.mul_f64(0.5).saturating_sub(Duration::from_millis(1));
        assert!(least <= *wait && *wait <= full + Duration::from_millis(1), "{wait:?} of {full:?}: {waits:?}");
        full = (full * 2).min(BACKOFF_MAX);
    }
    assert_eq!(full, BACKOFF_MAX, "it was long enough to get there");
}

#[tokio::test(start_paused = true)]
async fn the_wait_after_errors_grows_and_begins_anew_after_success() {
    let source = Scripted::with_keys(4);
    for _ in 0..2 {
        source.before_calls(|_, _| Err(unavailable()));
        let mut reader = Reader::new(&source);
        assert_doubles_up_to_the_longest(&waits(&mut reader, 12).await);
        source.before_calls(|_, _| Ok(()));
        reader.for_the_next(SOON).await;
        reader.assert_up_to_date();
        source.before_calls(|_, _| Err(unavailable()));
        source.change(|etcd| etcd.end_watches(unavailable));
        assert_doubles_up_to_the_longest(&waits(&mut reader, 12).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_opens_only_to_be_canceled_is_no_success() {
    let source = Scripted::with_keys(4);
    let mut reader = Reader::caught_up(&source).await;
    source.before_calls(|_, _| Ok(()));
    source.model().silent = true;
    source.change(|etcd| etcd.end_watches(unavailable));
    let mut said = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        source.model().silent = false;
        let item = reader.next().await;
        if matches!(item, Ok(SourceEvent::Opened)) {
            source.change(|etcd| etcd.end_watches(|| SourceError::Canceled("no leader".to_owned())));
        }
        said.push(item.is_err());
    }
    let errors = said.into_iter().filter(|error| *error).count();
    assert!(errors < 60, "{errors} errors in 20 s");
}

#[tokio::test(start_paused = true)]
async fn a_large_view_is_compared_less_often() {
    let view = |count: usize| {
        let entries: Vec<Entry> = (0..count)
            .map(|index| Entry {
                key: Bytes::from(index.to_string()),
                value: Bytes::new(),
                lease: 0,
                create_revision: 1,
                mod_revision: 1,
            })
            .collect();
        View::new(1, &entries)
    };
    assert_eq!(anti_entropy_interval(&view(0)), ANTI_ENTROPY_INTERVAL);
    assert_eq!(anti_entropy_interval(&view(100_000)), ANTI_ENTROPY_INTERVAL);
    assert_eq!(anti_entropy_interval(&view(200_000)), Duration::from_secs(40));
}

/// Where the source stands now.
fn now(source: &Scripted) -> SourcePosition {
    let model = source.model();
    let entries: Vec<Entry> = model.keys().values().cloned().collect();
    View::new(model.revision(), &entries).position()
}

fn revisions(history: &History) -> Vec<(Revision, usize)> {
    history.deltas.iter().map(|(position, changes)| (position.revision, changes.len())).collect()
}

/// As much as there is.
const ALL: Limits = Limits { changes_max: usize::MAX, bytes_max: usize::MAX };

#[tokio::test(start_paused = true)]
async fn a_history_is_every_change_between_two_positions() {
    for proof in [true, false] {
        let source = Scripted::with_keys(7);
        source.model().progress_is_proof = proof;
        let known = now(&source);
        let base = source.model().keys().values().cloned().collect::<Vec<_>>();
        source.change(|etcd| etcd.put("a", "comes"));
        source.change(|etcd| etcd.delete("a"));
        source.change(Model::put_elsewhere);
        source.change(|etcd| etcd.txn([put("key-001", "other"), scripted::delete("key-002")]));
        let until = now(&source);
        source.change(|etcd| etcd.put("later", "is not asked for"));
        let history = history(&source, known.revision, until, ALL).await.unwrap();
        assert_eq!((history.from, &history.base), (known, &base), "proof: {proof}");
        assert_eq!(revisions(&history), [(9, 1), (10, 1), (12, 2)], "proof: {proof}");
        assert_eq!((history.deltas.last().unwrap().0, history.end), (until, until));
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_up_to_a_quiet_revision_ends() {
    for proof in [true, false] {
        let source = Scripted::with_keys(3);
        source.model().progress_is_proof = proof;
        let known = now(&source);
        source.change(|etcd| etcd.put("a", "comes"));
        source.change(|etcd| etcd.delete("a"));
        source.change(Model::put_elsewhere);
        let until = now(&source);
        let history = history(&source, known.revision, until, ALL).await.unwrap();
        assert_eq!((revisions(&history), history.end), (vec![(5, 1), (6, 1)], until), "proof: {proof}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_not_there_is_not_told() {
    let source = Scripted::with_keys(3);
    let known = now(&source);
    let outcome = history(&source, known.revision, known, ALL).await.unwrap();
    assert_eq!(revisions(&outcome), [], "it is of this history");
    assert_eq!(position_at(&source, known.revision).await.unwrap(), known);
    assert_eq!(position_now(&source).await.unwrap(), known);
    source.change(|etcd| etcd.put("a", "comes"));
    let until = now(&source);
    let other_end = SourcePosition { digest: rollcall_shared::Digest(1), ..until };
    assert!(matches!(history(&source, known.revision, other_end, ALL).await, Err(HistoryError::Other)));
    assert_eq!(compacted_to(&source, known.revision).await.unwrap(), None);
    source.change(|etcd| etcd.restore(2));
    assert!(
        matches!(history(&source, known.revision, until, ALL).await, Err(HistoryError::Other)),
        "a future revision"
    );
    assert!(matches!(position_at(&source, known.revision).await, Err(HistoryError::Other)));
    let known = now(&source);
    source.change(|etcd| {
        etcd.put("a", "1");
        let revision = etcd.put("a", "2");
        etcd.compact(revision);
    });
    let until = now(&source);
    assert!(matches!(history(&source, known.revision, until, ALL).await, Err(HistoryError::Compacted)));
    assert!(matches!(position_at(&source, known.revision).await, Err(HistoryError::Compacted)));
    assert_eq!(compacted_to(&source, known.revision).await.unwrap(), Some(until.revision));
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_compacted_between_list_and_watch_is_not_told_in_part() {
    let source = Scripted::with_keys(3);
    let known = now(&source);
    source.change(|etcd| etcd.put("passing", "by"));
    source.change(|etcd| etcd.delete("passing"));
    let until = now(&source);
    source.before_call(open, |etcd| {
        etcd.compact(6);
        Ok(())
    });
    assert!(matches!(history(&source, known.revision, until, ALL).await, Err(HistoryError::Compacted)));
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_too_long_is_told_in_pieces() {
    let source = Scripted::new();
    let known = now(&source);
    for value in ["1", "2", "3", "4"] {
        source.change(|etcd| etcd.txn((0..50).map(|index| put(&index.to_string(), value))));
    }
    let until = now(&source);
    let by_changes = Limits { changes_max: 60, bytes_max: usize::MAX };
    let by_bytes = Limits { changes_max: usize::MAX, bytes_max: 300 };
    let one = Limits { changes_max: 1, bytes_max: 1 };
    for (limits, first) in
        [(by_changes, vec![(2, 50), (3, 50)]), (by_bytes, vec![(2, 50), (3, 50)]), (one, vec![(2, 50)])]
    {
        let piece = history(&source, known.revision, until, limits).await.unwrap();
        assert_eq!(revisions(&piece), first, "{limits:?}");
        assert_eq!(piece.end, piece.deltas.last().unwrap().0);
        let rest = history(&source, piece.end.revision, until, ALL).await.unwrap();
        assert_eq!((rest.from, rest.end), (piece.end, until), "it goes on where that ends");
        assert_eq!(rest.deltas.len() + piece.deltas.len(), 4);
    }
}
