//! The mirror's parts, table by table; what the stream makes of them is held to the contract in `sse`'s tests.

use std::collections::HashSet;

use rollcall_shared::{CauseKind, Digest, ServiceInstance};

use super::{
    frame::{PART_RECORDS, Selected, snapshot_parts},
    pace::REST_MIN,
    *,
};

const PREFIX: &str = "/s/";

fn position(revision: Revision, digest: u64) -> SourcePosition {
    SourcePosition { revision, digest: Digest(digest) }
}

fn some_record(key: &str, service: &str) -> Arc<Record> {
    let instance = ServiceInstance { id: key.to_owned(), name: service.to_owned(), ..ServiceInstance::default() };
    Arc::new(Record {
        key: format!("{PREFIX}{key}"),
        source: PREFIX.to_owned(),
        layout: Layout::Kratos,
        service: service.to_owned(),
        lease: None,
        create_revision: 1,
        mod_revision: 1,
        decoded: Decoded::Instance(instance),
        warning: None,
    })
}

fn delta(after: Revision, revision: Revision, changes: Vec<Change>) -> Delta {
    Delta { source: PREFIX.to_owned(), after, revision, changes }
}

fn changed(revision: Revision) -> FrameKind {
    let delta = delta(revision - 1, revision, vec![Change::Put(some_record("a", "red"))]);
    FrameKind::Changed { delta: Arc::new(delta), moved: Vec::new() }
}

fn replaced() -> FrameKind {
    FrameKind::Replaced { reason: SnapshotReason::Compacted, records: Arc::default(), revisions: BTreeMap::new() }
}

fn cause_of(revision: Revision) -> Cause {
    Cause { key: format!("{PREFIX}a"), revision, cause: CauseKind::Unknown, evidence: String::new() }
}

fn deleted(epoch: u64, revision: Revision) -> Deleted {
    Deleted { epoch, revision }
}

/// Two sources at revision 5; then, by sequence: 0: the first at 10, 1: the second at 11, 2: the first at 12 with a
/// view that at 14 (3) cancels out, 4: a cause about the first.
fn ring() -> Ring {
    let mut ring = Ring::new(usize::MAX);
    ring.begin(vec![position(5, 1), position(5, 2)]);
    ring.push(0, position(10, 3), changed(10), String::new());
    ring.push(1, position(11, 4), changed(11), String::new());
    ring.push(0, position(12, 5), changed(12), String::new());
    ring.push(0, position(14, 3), changed(14), String::new());
    ring.push_cause(0, "red".to_owned(), cause_of(14), deleted(0, 14));
    ring
}

#[test]
fn a_reader_goes_on_with_the_first_frame_of_its_source_that_it_does_not_know() {
    let table = [
        // The first source: as of the base, of what only progress went through, and of each frame.
        (0, position(5, 1), Some(0)),
        (0, position(9, 1), Some(0)),
        (0, position(10, 3), Some(2)),
        (0, position(11, 3), Some(2)),
        (0, position(12, 5), Some(3)),
        (0, position(13, 5), Some(3)),
        (0, position(14, 3), Some(4)),
        (0, position(99, 3), Some(4)),
        // Views that never were, or not then.
        (0, position(4, 1), None),
        (0, position(10, 1), None),
        (0, position(12, 3), None),
        (0, position(14, 5), None),
        (0, position(10, 9), None),
        // The second: nothing after its frame.
        (1, position(10, 2), Some(1)),
        (1, position(11, 4), Some(5)),
        (1, position(11, 2), None),
    ];
    for (source, known, expected) in table {
        assert_eq!(ring().after(source, known), expected, "source {source} as of {known:?}");
    }
}

#[test]
fn nobody_resumes_across_a_snapshot() {
    let mut ring = ring();
    ring.push(0, position(20, 6), replaced(), String::new());
    assert_eq!(ring.after(0, position(14, 3)), None);
    assert_eq!(ring.after(0, position(12, 5)), Some(3), "what is followed by a change is known");
    assert_eq!(ring.after(0, position(20, 6)), Some(6));
    assert_eq!(ring.known_since(0), position(20, 6));
    assert_eq!(ring.known_since(1), position(5, 2));
}

#[test]
fn ids_hold_from_the_first_change_and_not_from_a_cause() {
    let mut ring = ring();
    assert_eq!(ring.first_change(0, 1), 2);
    assert_eq!(ring.first_change(0, 4), 5);
    ring.push(0, position(15, 7), changed(15), String::new());
    assert_eq!(ring.first_change(0, 4), 5);
    assert_eq!(ring.first_change(1, 2), 6);
}

#[test]
fn a_full_ring_lets_the_oldest_go_and_remembers_where_it_led() {
    let mut ring = ring();
    let one = ring.bytes() / 5;
    let mut ring_of_two = Ring::new(one * 2 + one / 2);
    ring_of_two.tell(1);
    ring_of_two.begin(vec![position(5, 1), position(5, 2)]);
    ring_of_two.push(0, position(10, 3), changed(10), String::new());
    ring_of_two.push(1, position(11, 4), changed(11), String::new());
    assert_eq!((ring_of_two.start(), ring_of_two.known_since(0)), (0, position(5, 1)));
    ring_of_two.push(0, position(12, 5), changed(12), String::new());
    assert_eq!((ring_of_two.start(), ring_of_two.end()), (1, 3));
    assert_eq!(ring_of_two.known_since(0), position(10, 3));
    assert_eq!(ring_of_two.known_since(1), position(5, 2), "the other one's is as it was");
    assert_eq!(ring_of_two.position_before(0, 2), position(10, 3));
    assert!(matches!(ring_of_two.read(0, u64::MAX, 1), Reading::Lagged));
    assert!(matches!(ring_of_two.read(3, u64::MAX, 1), Reading::UpToDate));
    let Reading::Frames(frames) = ring_of_two.read(1, u64::MAX, usize::MAX) else { panic!("two frames stand there") };
    assert_eq!(frames.iter().map(|frame| frame.sequence).collect::<Vec<_>>(), [1, 2]);
    let Reading::Frames(frames) = ring_of_two.read(1, u64::MAX, 1) else { panic!("one frame always fits") };
    assert_eq!(frames.len(), 1);
    let Reading::Frames(frames) = ring_of_two.read(1, 2, usize::MAX) else { panic!("one may be read") };
    assert_eq!(frames.len(), 1);
    assert!(matches!(ring_of_two.read(2, 2, usize::MAX), Reading::UpToDate), "the newest may not be read yet");
    // Causes lead nowhere.
    for _ in 0..4 {
        ring.push_cause(0, "red".to_owned(), cause_of(14), deleted(0, 14));
    }
    let mut ring_of_causes = Ring::new(1);
    ring_of_causes.tell(2);
    ring_of_causes.begin(vec![position(5, 1)]);
    for _ in 0..3 {
        ring_of_causes.push_cause(0, "red".to_owned(), cause_of(14), deleted(0, 14));
    }
    assert_eq!((ring_of_causes.start(), ring_of_causes.end()), (2, 3), "the newest stays whatever its size");
    assert_eq!(ring_of_causes.known_since(0), position(5, 1));
    assert!(ring_of_causes.bytes() > 0);
}

/// One thing that is put into a ring.
#[derive(Debug, Clone)]
enum Pushed {
    Changed(u8, u64),
    Replaced(i64, u64),
    Cause,
    PassedOver(u8),
}

/// What a look through everything that was pushed would find in `ring`.
struct Naive<'a> {
    ring: &'a Ring,
    /// The source, where it stood then, and whether it is a change and a snapshot.
    pushed: &'a [(usize, SourcePosition, bool, bool)],
    passed_over: Option<SourcePosition>,
}

impl Naive<'_> {
    fn own(&self, source: usize, changes: bool) -> impl DoubleEndedIterator<Item = (u64, SourcePosition, bool)> {
        let pushed = (0..).zip(self.pushed).filter(move |(_, pushed)| pushed.0 == source && (pushed.2 || !changes));
        pushed.map(|(sequence, pushed)| (sequence, pushed.1, pushed.3)).collect::<Vec<_>>().into_iter()
    }

    fn kept(&self, source: usize, changes: bool) -> impl DoubleEndedIterator<Item = (u64, SourcePosition, bool)> {
        let start = self.ring.start();
        self.own(source, changes).filter(move |(sequence, ..)| *sequence >= start)
    }

    fn base(&self, source: usize) -> SourcePosition {
        let gone = self.own(source, true).take_while(|(sequence, ..)| *sequence < self.ring.start());
        gone.last().map_or(position(5, 0), |(_, position, _)| position)
    }

    fn after(&self, source: usize, known: SourcePosition) -> Option<u64> {
        let base = (None, self.base(source), false);
        let kept = self.kept(source, true).map(|(sequence, there, snapshot)| (Some(sequence), there, snapshot));
        let all: Vec<_> = std::iter::once(base).chain(kept).collect();
        for (index, (sequence, there, _)) in all.iter().enumerate().rev() {
            let next = all.get(index + 1);
            let stands = there.digest == known.digest && there.revision <= known.revision;
            if stands && next.is_none_or(|(_, next, snapshot)| !snapshot && known.revision < next.revision) {
                let passed_over = self.passed_over.is_some_and(|until| {
                    there.revision < until.revision
                        && next.is_none_or(|(_, next, _)| next.revision > until.revision)
                        && known.revision < until.revision
                });
                let mut following = self.kept(source, false).map(|(sequence, ..)| Some(sequence));
                let first = following.find(|following| following > sequence).flatten();
                return (!passed_over).then(|| first.unwrap_or(self.ring.end()));
            }
        }
        None
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(8_420),
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_ring_finds_what_a_look_at_every_frame_finds(
        pushed in proptest::collection::vec((0..3_usize, pushed()), 0..40),
        kept in 1..30_usize,
        known in 4..60_i64,
    ) {
        let mut ring = Ring::new(kept * 1_100);
        ring.tell(u64::MAX);
        ring.begin(vec![position(5, 0); 3]);
        let mut naive = Vec::new();
        let mut at = [position(5, 0); 3];
        let mut passed_over = [None; 3];
        for (source, pushed) in pushed {
            let now = &mut at[source];
            match pushed {
                Pushed::Changed(by, digest) => {
                    *now = position(now.revision + i64::from(by), digest);
                    ring.push(source, *now, changed(now.revision), String::new());
                    naive.push((source, *now, true, false));
                }
                Pushed::Replaced(by, digest) => {
                    *now = position((now.revision + by).max(1), digest);
                    passed_over[source] = None;
                    ring.push(source, *now, replaced(), String::new());
                    naive.push((source, *now, true, true));
                }
                Pushed::Cause => {
                    ring.push_cause(source, "red".to_owned(), cause_of(now.revision), deleted(0, now.revision));
                    naive.push((source, *now, false, false));
                }
                Pushed::PassedOver(by) => {
                    now.revision += i64::from(by);
                    passed_over[source] = Some(*now);
                    ring.pass_over(source, *now);
                }
            }
        }
        for (source, passed_over) in passed_over.into_iter().enumerate() {
            let naive = Naive { ring: &ring, pushed: &naive, passed_over };
            for digest in 0..4 {
                for revision in known - 3..known + 3 {
                    let known = position(revision, digest);
                    proptest::prop_assert_eq!(ring.after(source, known), naive.after(source, known));
                }
            }
            let snapshot = naive.kept(source, true).rfind(|(.., snapshot)| *snapshot);
            let since = snapshot.map_or(naive.base(source), |(_, position, _)| position);
            let since = naive.passed_over.filter(|until| until.revision > since.revision).unwrap_or(since);
            proptest::prop_assert_eq!(ring.known_since(source), since);
            for sequence in ring.start()..=ring.end() {
                let earlier = naive.kept(source, true).take_while(|(earlier, ..)| *earlier < sequence).last();
                let before = earlier.map_or(naive.base(source), |(_, position, _)| position);
                proptest::prop_assert_eq!(ring.position_before(source, sequence), before);
                let later = || naive.kept(source, true).filter(|(later, ..)| *later >= sequence);
                let snapshots = later().filter(|(.., snapshot)| *snapshot).count() as u64;
                proptest::prop_assert_eq!(ring.replaced_since(source, sequence), snapshots);
                proptest::prop_assert_eq!(
                    ring.first_change(source, sequence),
                    later().next().map_or(ring.end(), |(first, ..)| first)
                );
                let after = later().next().map(|(_, there, snapshot)| if snapshot { 0 } else { there.revision - 1 });
                proptest::prop_assert_eq!(ring.after_at(source, sequence), after);
            }
        }
    }
}

fn pushed() -> impl proptest::strategy::Strategy<Value = Pushed> {
    use proptest::prelude::*;
    prop_oneof![
        6 => (1..4_u8, 0..4_u64).prop_map(|(by, digest)| Pushed::Changed(by, digest)),
        1 => (-9..9_i64, 0..4_u64).prop_map(|(by, digest)| Pushed::Replaced(by, digest)),
        2 => Just(Pushed::Cause),
        1 => (1..4_u8).prop_map(Pushed::PassedOver),
    ]
}

#[test]
fn a_cause_may_come_before_every_source_stands() {
    let mut ring = Ring::new(usize::MAX);
    ring.push_cause(1, "red".to_owned(), cause_of(14), deleted(0, 14));
    ring.begin(vec![position(5, 1), position(5, 2)]);
    ring.push(1, position(6, 3), changed(6), String::new());
    assert_eq!(ring.after(1, position(5, 2)), Some(0));
    assert_eq!(ring.after(1, position(6, 3)), Some(2));
    assert_eq!(ring.first_change(1, 0), 1);
}

fn selected(services: &[&str]) -> Selected {
    Selected(services.iter().map(|service| (*service).to_owned()).collect())
}

#[test]
fn a_stream_is_told_what_comes_to_its_services_stays_in_them_and_leaves_them() {
    let leave = |key: &str, service: &str| {
        let last = some_record(key, service);
        Change::Delete(Departure { key: last.key.clone(), service: service.to_owned(), last })
    };
    let put = |key: &str, service: &str| Change::Put(some_record(key, service));
    let delta = delta(7, 9, vec![put("a", "blue"), put("b", "red"), leave("c", "red"), put("d", "green")]);
    // a went from red to blue, b from blue to red, d from blue to green.
    let moved = vec![some_record("a", "red"), some_record("b", "blue"), some_record("d", "blue")];
    let table = [
        (&["red"][..], Some(vec![leave("a", "red"), put("b", "red"), leave("c", "red")])),
        (&["blue"], Some(vec![put("a", "blue"), leave("b", "blue"), leave("d", "blue")])),
        (&["green"], Some(vec![put("d", "green")])),
        (&["red", "blue"], Some(vec![put("a", "blue"), put("b", "red"), leave("c", "red"), leave("d", "blue")])),
        (&["yellow"], None),
        (&[], Some(delta.changes.clone())),
    ];
    for (services, expected) in table {
        let told = selected(services).of_delta(&delta, &moved, 3);
        if let Some(told) = &told {
            assert_eq!((told.after, told.revision, &*told.source), (3, 9, PREFIX));
        }
        assert_eq!(told.map(|delta| delta.changes), expected, "{services:?}");
    }
}

#[test]
fn a_snapshot_comes_in_parts_of_which_the_last_has_the_id() {
    for (count, sizes) in [
        (0, vec![0]),
        (1, vec![1]),
        (PART_RECORDS, vec![PART_RECORDS]),
        (PART_RECORDS + 1, vec![PART_RECORDS, 1]),
        (2_500, vec![1_000, 1_000, 500]),
    ] {
        let records: Vec<_> = (0..count).map(|index| some_record(&format!("{index:05}"), "red")).collect();
        let revisions = BTreeMap::from([(PREFIX.to_owned(), 9)]);
        let parts = snapshot_parts(SnapshotReason::Restored, &records, &revisions, Some("the-id"));
        let mut catalog = Catalog::default();
        for (index, (bytes, size)) in parts.iter().zip(&sizes).enumerate() {
            let last = index + 1 == sizes.len();
            let text = str::from_utf8(bytes).unwrap().strip_suffix("\n\n").expect("a message ends with an empty line");
            let body = text.strip_prefix(if last { "id: the-id\ndata: " } else { "data: " }).expect("its first lines");
            let event = serde_json::from_str(body).unwrap();
            let RegistryEvent::Snapshot(snapshot) = &event else { panic!("{event:?}") };
            assert_eq!((snapshot.part as usize, snapshot.more, snapshot.records.len()), (index, !last, *size));
            assert_eq!((snapshot.reason, &snapshot.revisions), (SnapshotReason::Restored, &revisions));
            catalog.apply(&event).unwrap();
        }
        assert_eq!(parts.len(), sizes.len());
        assert_eq!(catalog.records().cloned().collect::<Vec<_>>(), records);
    }
}

fn mirror() -> Arc<Mirror> {
    let source = |prefix: &str| SourceConfig { layout: Layout::Kratos, prefix: prefix.parse().unwrap() };
    Arc::new(Mirror::new(vec![source(PREFIX), source("/t/")]))
}

fn entry(key: &str, lease: i64, revision: Revision) -> Entry {
    Entry {
        key: Bytes::from(format!("{PREFIX}{key}")),
        value: Bytes::from(format!(r#"{{"id":"{key}","name":"red"}}"#)),
        lease,
        create_revision: revision,
        mod_revision: revision,
    }
}

fn snapshot(revision: Revision, entries: Vec<Entry>) -> SourceEvent {
    let position = position(revision, u64::try_from(revision).unwrap());
    SourceEvent::Snapshot { reason: SnapshotReason::Connected, cluster: 77, position, entries }
}

fn changes(revision: Revision, changes: Vec<EntryChange>) -> SourceEvent {
    SourceEvent::Delta { position: position(revision, u64::try_from(revision).unwrap()), changes }
}

fn gone(key: &str, revision: Revision) -> EntryChange {
    EntryChange::Delete { key: Bytes::from(format!("{PREFIX}{key}")), revision }
}

fn lost() -> WatchError {
    WatchError { phase: rollcall_registry::etcd::watcher::Phase::Watch, source: SourceError::Ended }
}

fn refused() -> WatchError {
    let source = SourceError::Canceled("permission denied".to_owned());
    WatchError { phase: rollcall_registry::etcd::watcher::Phase::Watch, source }
}

fn live() -> Arc<Mirror> {
    let mirror = mirror();
    mirror.apply(0, snapshot(5, vec![entry("a", 7, 2)]));
    mirror.apply(1, snapshot(5, Vec::new()));
    mirror
}

fn etcd(mirror: &Mirror) -> EtcdState {
    mirror.update_status(Instant::now());
    mirror.status().borrow().etcd
}

#[tokio::test(start_paused = true)]
async fn the_state_of_etcd_follows_every_source() {
    let mirror = mirror();
    let mut ready = mirror.ready();
    assert_eq!(etcd(&mirror), EtcdState::Stale);
    mirror.apply(0, snapshot(5, Vec::new()));
    assert_eq!((etcd(&mirror), *ready.borrow_and_update()), (EtcdState::Stale, false), "one is not known yet");
    mirror.apply(1, snapshot(5, Vec::new()));
    assert_eq!((etcd(&mirror), *ready.borrow()), (EtcdState::Live, true));
    assert_eq!(mirror.status().borrow().stale_for_s(), None);

    tokio::time::advance(STALE_AFTER).await;
    assert_eq!(etcd(&mirror), EtcdState::Live);
    mirror.apply(0, SourceEvent::Heard);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(etcd(&mirror), EtcdState::Stale, "the other one is silent");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(mirror.status().borrow().event().for_s, 3);
    assert_eq!(mirror.status().borrow().stale_for_s(), Some(10), "since that one was heard of last");
    mirror.apply(1, SourceEvent::Heard);
    assert_eq!(etcd(&mirror), EtcdState::Live);

    mirror.fail(1, &refused());
    assert_eq!(etcd(&mirror), EtcdState::Stale, "etcd answers");
    mirror.fail(0, &lost());
    assert_eq!(etcd(&mirror), EtcdState::Unreachable);
    mirror.apply(1, SourceEvent::Heard);
    assert_eq!(etcd(&mirror), EtcdState::Unreachable);
    tokio::time::advance(Duration::from_secs(5)).await;
    mirror.apply(1, SourceEvent::Heard);
    mirror.apply(0, SourceEvent::Opened);
    assert_eq!(etcd(&mirror), EtcdState::Stale, "what was missed is on its way");
    assert_eq!(mirror.status().borrow().stale_for_s(), Some(8), "and nothing newer is known until it has come");
    mirror.apply(0, changes(9, vec![EntryChange::Put(entry("b", 0, 9))]));
    assert_eq!(etcd(&mirror), EtcdState::Stale);
    assert_eq!(mirror.status().borrow().stale_for_s(), Some(8));
    mirror.apply(0, SourceEvent::Progress(position(9, 9)));
    assert_eq!(etcd(&mirror), EtcdState::Live);
    assert!(*ready.borrow(), "once ready, always ready");
}

#[tokio::test(start_paused = true)]
async fn the_first_change_is_told_at_once_and_the_next_ones_together() {
    let mirror = live();
    let mut tail = mirror.tail();
    tail.borrow_and_update();
    mirror.apply(0, changes(6, vec![EntryChange::Put(entry("b", 0, 6))]));
    assert!(tail.has_changed().unwrap());
    assert_eq!(*tail.borrow_and_update(), 1);
    let start = Instant::now();
    mirror.apply(0, changes(7, vec![EntryChange::Put(entry("c", 0, 7))]));
    mirror.apply(0, changes(8, vec![EntryChange::Put(entry("d", 0, 8))]));
    assert!(!tail.has_changed().unwrap());
    tail.changed().await.unwrap();
    assert_eq!((*tail.borrow_and_update(), start.elapsed()), (3, REST_MIN));
    mirror.apply(0, changes(9, vec![EntryChange::Put(entry("e", 0, 9))]));
    assert!(!tail.has_changed().unwrap(), "those together count as told");
    tokio::time::sleep(REST_MIN * 2).await;
    assert_eq!(*tail.borrow_and_update(), 4);
    mirror.apply(0, changes(10, vec![EntryChange::Put(entry("f", 0, 10))]));
    assert_eq!(*tail.borrow_and_update(), 5, "after a pause at once again");
    mirror.apply(0, SourceEvent::Progress(position(12, 10)));
    tokio::time::sleep(REST_MIN * 2).await;
    assert!(!tail.has_changed().unwrap(), "progress makes no frame");
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_told_live_only_while_the_watch_keeps_up() {
    let mirror = live();
    let leave = |mirror: &Arc<Mirror>, revision| {
        mirror.apply(0, changes(revision, vec![EntryChange::Put(entry("a", 7, revision))]));
        let left = mirror.apply(0, changes(revision + 1, vec![gone("a", revision + 1), gone("b", revision + 1)]));
        assert_eq!(left.len(), 1, "b was never there");
        assert_eq!((&*left[0].key, &*left[0].service), ("/s/a", "red"));
        assert_eq!((left[0].revision, left[0].lease), (revision + 1, Some(LeaseId(7))));
        left[0].told_live
    };
    assert!(leave(&mirror, 10));
    mirror.fail(0, &lost());
    mirror.apply(0, SourceEvent::Opened);
    assert!(!leave(&mirror, 20), "it may have happened at any time of the outage");
    mirror.apply(0, SourceEvent::Heard);
    assert!(leave(&mirror, 30));
    mirror.apply(0, SourceEvent::Opened);
    assert!(leave(&mirror, 40), "a watch that never broke opens");
}

#[tokio::test(start_paused = true)]
async fn the_leases_book_counts_the_keys_of_each_lease() {
    let mirror = live();
    let held = |mirror: &Mirror| {
        let holds = |lease| mirror.leases(|book| book.holds(LeaseId(lease)));
        (holds(7), holds(8), mirror.leases(|book| book.len()))
    };
    let put = |revision, key: &str, lease| {
        mirror.apply(0, changes(revision, vec![EntryChange::Put(entry(key, lease, revision))]));
    };
    let delete = |revision, key: &str| {
        mirror.apply(0, changes(revision, vec![gone(key, revision)]));
    };
    assert_eq!(held(&mirror), (true, false, 1));
    put(6, "b", 7);
    put(7, "b", 7);
    delete(8, "a");
    assert_eq!(held(&mirror), (true, false, 1), "b is on it still");
    put(9, "b", 8);
    assert_eq!(held(&mirror), (false, true, 1), "b went over");
    put(10, "b", 0);
    assert_eq!(held(&mirror), (false, false, 0), "b is permanent");
    put(11, "b", 8);
    put(12, "c", 7);
    assert_eq!(held(&mirror), (true, true, 2));
    let sample = LeaseSample { granted_s: 15, remaining_s: 9, asked_at: Instant::now(), answered_at: Instant::now() };
    mirror.leases(|book| book.record(LeaseId(8), sample));
    mirror.apply(0, snapshot(20, vec![entry("d", 8, 20), entry("e", 8, 20)]));
    assert_eq!(held(&mirror), (false, true, 1), "the snapshot has no key on 7");
    assert_eq!(mirror.selected_leases(&HashSet::from(["red".to_owned()])), [(LeaseId(8), sample)]);
    assert_eq!(mirror.selected_leases(&HashSet::from(["blue".to_owned()])), []);
    delete(21, "d");
    assert_eq!(held(&mirror), (false, true, 1));
    delete(22, "e");
    assert_eq!(held(&mirror), (false, false, 0));
    assert_eq!(mirror.value("/s/d"), None);
}

#[tokio::test]
async fn what_was_decoded_ahead_is_what_would_be_decoded_now() {
    let config = SourceConfig { layout: Layout::Kratos, prefix: PREFIX.parse().unwrap() };
    let entries: Vec<Entry> = (1..=6).map(|revision| entry(&format!("k{revision}"), 0, revision)).collect();
    let (_, ahead) = ahead::DecodedAhead::new((), config.clone());
    // A list that broke off, and another: of its third page the watch has seen a newer value since.
    ahead.decode(true, &entries[4..]);
    ahead.decode(true, &entries[..2]);
    ahead.decode(false, &entries[2..4]);
    let mut listed = entries.clone();
    listed[3] = entry("k4", 7, 9);
    let expected: Vec<_> = listed.iter().map(|entry| Arc::new(record(&config, entry))).collect();
    assert_eq!(ahead.records_of(&listed).await, expected);
    assert_eq!(ahead.records_of(&entries[..1]).await, expected[..1], "once they were taken they are made anew");
}
