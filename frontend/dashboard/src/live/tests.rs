//! The store's rules, event by event.

use rollcall_shared::{Cause, CauseKind, Decoded, Delta, Departure, ServiceInstance, Snapshot, api::LeaseTtl};

use super::*;
use crate::view::{Query, View};

fn rows(live: &Live, query: Query) -> Vec<String> {
    let mut view = View::default();
    view.ask(query);
    view.step(live, || true);
    view.rows().iter().map(|record| record.key.clone()).collect()
}

const SOURCE: &str = "/microservices/";

fn record(service: &str, id: &str, revision: Revision) -> Arc<Record> {
    Arc::new(Record {
        key: [SOURCE, service, "/", id].concat(),
        source: SOURCE.into(),
        layout: Layout::Kratos,
        service: service.into(),
        lease: Some(LeaseId(7)),
        create_revision: revision,
        mod_revision: revision,
        decoded: Decoded::Instance(ServiceInstance {
            id: id.into(),
            name: service.into(),
            ..ServiceInstance::default()
        }),
        warning: None,
    })
}

fn snapshot(records: Vec<Arc<Record>>, revision: Revision) -> RegistryEvent {
    RegistryEvent::Snapshot(Snapshot {
        reason: SnapshotReason::Connected,
        revisions: [(SOURCE.to_owned(), revision)].into(),
        records,
        part: 0,
        more: false,
    })
}

fn delta(revision: Revision, changes: Vec<Change>) -> RegistryEvent {
    RegistryEvent::Delta(Delta { source: SOURCE.into(), after: revision - 1, revision, changes })
}

fn delete(record: &Arc<Record>) -> Change {
    Change::Delete(Departure { key: record.key.clone(), service: record.service.clone(), last: Arc::clone(record) })
}

fn live(records: Vec<Arc<Record>>) -> Live {
    let mut live = Live::default();
    live.apply(&snapshot(records, 10), 0.0).unwrap();
    live.take_dirty();
    live
}

#[test]
fn one_that_left_stays_where_it_was_with_its_cause_and_then_folds_away() {
    let (one, two) = (record("a", "1", 5), record("a", "2", 6));
    let mut live = live(vec![Arc::clone(&one), Arc::clone(&two)]);
    live.apply(&delta(11, vec![delete(&one)]), 1_000.0).unwrap();
    let why = RegistryEvent::Cause(Cause {
        key: one.key.clone(),
        revision: 11,
        cause: CauseKind::Expired,
        evidence: "why".into(),
    });
    live.apply(&why, 1_100.0).unwrap();
    let row = live.row(&one.key).unwrap();
    assert_eq!((row.state, row.why.unwrap().cause), (RowState::Gone, CauseKind::Expired));
    let keys = |live: &Live| rows(live, Query { service: Some("a".into()), ..Query::default() });
    assert_eq!(keys(&live), [one.key.clone(), two.key.clone()]);
    assert_eq!(live.summary("a"), Summary { instances: 1, gone: 1, ..Summary::default() });
    live.tick(20_999.0);
    assert_eq!(keys(&live).len(), 2);
    live.take_dirty();
    live.tick(21_000.0);
    assert_eq!(keys(&live), std::slice::from_ref(&two.key));
    assert!(live.take_dirty().services.contains("a"));
}

#[test]
fn one_that_comes_back_is_no_ghost() {
    let one = record("a", "1", 5);
    let mut live = live(vec![Arc::clone(&one)]);
    live.apply(&delta(11, vec![delete(&one)]), 0.0).unwrap();
    assert_eq!(live.names(), ["a"]);
    live.apply(&delta(12, vec![Change::Put(record("a", "1", 12))]), 0.0).unwrap();
    let row = live.row(&one.key).unwrap();
    assert_eq!((row.state, row.fresh), (RowState::Live, true));
    assert_eq!(rows(&live, Query::default()).len(), 1);
}

#[test]
fn a_burst_is_told_as_one_line() {
    let records: Vec<_> = (0..100).map(|n| record("a", &n.to_string(), 5)).collect();
    let mut live = live(records.clone());
    live.apply(&delta(11, vec![delete(&records[0])]), 0.0).unwrap();
    assert_eq!(live.feed().count(), 1);
    live.apply(&delta(12, records[1..60].iter().map(delete).collect()), 500.0).unwrap();
    for (record, revision) in records[..60].iter().zip([11].into_iter().chain(std::iter::repeat(12))) {
        let cause = Cause { key: record.key.clone(), revision, cause: CauseKind::Revoked, evidence: String::new() };
        live.apply(&RegistryEvent::Cause(cause), 600.0).unwrap();
    }
    let told: Vec<_> = live.feed().map(|happening| &happening.what).collect();
    let What::Burst { vanished: 60, causes, service, .. } = told[0] else { panic!("{told:?}") };
    assert_eq!((told.len(), causes[&CauseKind::Revoked], service.as_deref()), (1, 60, Some("a")));
    assert_eq!(rows(&live, Query { service: Some("a".into()), ..Query::default() }).len(), 40);
    live.apply(&delta(13, vec![delete(&records[60])]), 5_000.0).unwrap();
    assert_eq!(live.feed().count(), 2);
}

#[test]
fn the_first_snapshot_is_no_news_and_a_later_one_tells_what_changed() {
    let one = record("a", "1", 5);
    let mut live = live(vec![Arc::clone(&one)]);
    assert_eq!(live.feed().count(), 0);
    live.apply(&snapshot(vec![record("b", "1", 20)], 20), 9_000.0).unwrap();
    let told: Vec<_> = live.feed().map(|happening| happening.what.record().unwrap().service.clone()).collect();
    assert_eq!(told, ["b", "a"]);
    assert_eq!(live.names(), ["a", "b"]);
}

#[test]
fn only_what_changed_is_drawn() {
    let (one, two) = (record("a", "1", 5), record("b", "2", 6));
    let mut live = live(vec![one, Arc::clone(&two)]);
    live.apply(&delta(11, vec![Change::Put(record("b", "2", 11))]), 0.0).unwrap();
    let dirty = live.take_dirty();
    assert_eq!(dirty.keys, HashMap::from([(two.key.clone(), Some(two))]));
    assert_eq!(dirty.services, HashSet::from(["b".to_owned()]));
    assert!(!dirty.names && !dirty.feed && !live.is_dirty());
}

#[test]
fn who_stops_renewing_is_late_and_nobody_is_while_etcd_is_away() {
    let one = record("a", "1", 5);
    let mut live = live(vec![Arc::clone(&one)]);
    for second in (1..=15_i32).step_by(2) {
        let leases =
            vec![LeaseTtl { lease: LeaseId(7), granted_s: 15, remaining_s: 15 - i64::from(second), age_ms: 0 }];
        live.hear_leases(&TtlEvent { at_ms: 0, leases }, f64::from(second) * 1_000.0);
    }
    assert_eq!(live.row(&one.key).unwrap().state, RowState::Late);
    assert_eq!(rows(&live, Query { search: Search::parse("state:late", |_, _| None), ..Query::default() }).len(), 1);
    assert_eq!((live.totals().late, live.wrong(5).len()), (1, 1));
    live.take_dirty();
    live.set_etcd_away(true, 15_100.0);
    assert_eq!(live.row(&one.key).unwrap().state, RowState::Live);
    assert!(live.take_dirty().keys.contains_key(&one.key));
    live.set_etcd_away(false, 15_200.0);
    assert_eq!(live.row(&one.key).unwrap().state, RowState::Live);
}

#[test]
fn it_is_said_by_whose_hand_one_came_back() {
    let one = record("a", "1", 5);
    let told = |live: &Live| match &live.feed().next().unwrap().what {
        What::Returned { how, .. } => Some(*how),
        _ => None,
    };
    let leased = |lease, key: &str, revision| {
        let key = [SOURCE, "a/", key].concat();
        Arc::new(Record { lease: Some(LeaseId(lease)), key, mod_revision: revision, ..(*record("a", "1", 5)).clone() })
    };
    for (back, expected) in [
        (leased(7, "1", 12), Some(Return::SameLease)),
        (leased(8, "1", 12), Some(Return::NewLease)),
        (leased(8, "2", 12), Some(Return::NewKey)),
        (record("a", "3", 12), None),
        (record("b", "1", 12), None),
    ] {
        let mut live = live(vec![Arc::clone(&one), record("a", "9", 6)]);
        live.apply(&delta(11, vec![delete(&one)]), 0.0).unwrap();
        live.apply(&delta(12, vec![Change::Put(back)]), 30_000.0).unwrap();
        assert_eq!(told(&live), expected);
    }
    let mut live = live(vec![Arc::clone(&one)]);
    live.apply(&delta(11, vec![delete(&one)]), 0.0).unwrap();
    live.apply(&delta(12, vec![Change::Put(leased(7, "1", 12))]), 500_000.0).unwrap();
    assert_eq!(told(&live), None, "after so long it is another story");
}

#[test]
fn an_edit_keeps_what_is_known_of_the_lease_and_counts_nothing_twice() {
    let one = record("a", "1", 5);
    let mut live = live(vec![Arc::clone(&one)]);
    let heard = LeaseTtl { lease: LeaseId(7), granted_s: 15, remaining_s: 12, age_ms: 0 };
    live.hear_leases(&TtlEvent { at_ms: 0, leases: vec![heard] }, 1_000.0);
    live.apply(&delta(11, vec![Change::Put(record("a", "1", 11))]), 1_100.0).unwrap();
    assert!(live.row(&one.key).unwrap().clock.is_some());
    assert_eq!(live.totals(), Summary { instances: 1, ..Summary::default() });
    live.apply(&delta(12, vec![delete(&record("a", "1", 11))]), 1_200.0).unwrap();
    assert_eq!(live.totals(), Summary { gone: 1, ..Summary::default() });
    assert_eq!(live.curve("a"), [(0.0, 1), (1_200.0, 0)], "an edit is no point of it");
    live.tick(30_000.0);
    assert_eq!(live.totals(), Summary::default());
    assert_eq!(live.gone(Some("a"), 5).len(), 1);
}

#[test]
fn a_snapshot_that_changes_much_is_one_line_beside_its_reason() {
    let mut live = live(vec![record("a", "1", 5)]);
    let records = (0..50).map(|n| record("b", &n.to_string(), 20)).collect();
    let RegistryEvent::Snapshot(snapshot) = snapshot(records, 20) else { unreachable!() };
    let restored = Snapshot { reason: SnapshotReason::Restored, ..snapshot };
    live.apply(&RegistryEvent::Snapshot(restored), 9_000.0).unwrap();
    let told: Vec<_> = live.feed().map(|happening| &happening.what).collect();
    assert!(matches!(told[0], What::Burst { appeared: 50, vanished: 1, .. }), "{told:?}");
    assert!(matches!(told[1], What::Snapshot(SnapshotReason::Restored)), "{told:?}");
    assert_eq!(told.len(), 2);
}

#[test]
fn a_renewal_touches_its_row_and_no_list() {
    let one = record("a", "1", 5);
    let mut live = live(vec![Arc::clone(&one)]);
    let heard = |remaining_s| TtlEvent {
        at_ms: 0,
        leases: vec![LeaseTtl { lease: LeaseId(7), granted_s: 15, remaining_s, age_ms: 0 }],
    };
    live.hear_leases(&heard(12), 1_000.0);
    let dirty = live.take_dirty();
    assert_eq!((dirty.renewed.len(), dirty.keys.len()), (1, 0));
    live.hear_leases(&heard(11), 2_000.0);
    assert!(!live.is_dirty(), "it says the same");
}
