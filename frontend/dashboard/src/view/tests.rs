//! A view that is kept is the view that is made anew.

use std::collections::BTreeMap;

use rollcall_shared::{
    Change, Decoded, Delta, Departure, Layout, LeaseId, RegistryEvent, ServiceInstance, Snapshot, SnapshotReason,
};

use super::*;

const SOURCE: &str = "/microservices/";

fn record(key: &str, service: &str, version: &str, revision: i64) -> Arc<Record> {
    Arc::new(Record {
        key: key.to_owned(),
        source: SOURCE.into(),
        layout: Layout::Kratos,
        service: service.to_owned(),
        lease: Some(LeaseId(7)),
        create_revision: revision,
        mod_revision: revision,
        decoded: Decoded::Instance(ServiceInstance {
            id: key.rsplit('/').next().unwrap_or_default().to_owned(),
            name: service.to_owned(),
            version: version.to_owned(),
            endpoints: vec![["http://10.0.0.", version].concat()],
            ..ServiceInstance::default()
        }),
        warning: None,
    })
}

fn live_of(records: Vec<Arc<Record>>) -> Live {
    let mut live = Live::default();
    let snapshot = Snapshot {
        reason: SnapshotReason::Connected,
        revisions: [(SOURCE.to_owned(), 1)].into(),
        records,
        part: 0,
        more: false,
    };
    live.apply(&RegistryEvent::Snapshot(snapshot), 0.0).unwrap();
    live.take_dirty();
    live
}

fn search(text: &str) -> Search {
    Search::parse(text, |_, _| None)
}

fn all_of(view: &mut View, live: &Live) -> Vec<String> {
    view.step(live, || true);
    view.rows().iter().map(|record| record.key.clone()).collect()
}

fn fresh(query: &Query, live: &Live) -> View {
    let mut view = View::default();
    view.ask(query.clone());
    view.step(live, || true);
    view
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

fn some_record(dice: &mut Dice, revision: i64) -> Arc<Record> {
    let service = ["pay", "web", "mail"][dice.roll(3)];
    let id = dice.roll(40);
    // A value may name another service than its key.
    let named = if dice.roll(10) == 0 { "odd" } else { service };
    record(&format!("{SOURCE}{service}/{id:03}"), named, &dice.roll(5).to_string(), revision)
}

#[test]
fn a_view_that_is_kept_is_the_one_that_is_made_anew() {
    let columns = [
        Column::Key,
        Column::Id,
        Column::Service,
        Column::Endpoints,
        Column::Version,
        Column::Since,
        Column::State,
        Column::Lease,
    ];
    for seed in 0..400_u64 {
        let mut dice = Dice(seed);
        let mut stand: BTreeMap<String, Arc<Record>> = BTreeMap::new();
        for _ in 0..dice.roll(60) {
            let record = some_record(&mut dice, 1);
            stand.insert(record.key.clone(), record);
        }
        let mut live = live_of(stand.values().cloned().collect());
        let query = |dice: &mut Dice| Query {
            service: [None, Some("pay".to_owned()), Some("odd".to_owned())][dice.roll(3)].clone(),
            search: search(["", "1", "10.0.0.3", "!pay", "version:2 0"][dice.roll(5)]),
            column: columns[dice.roll(columns.len())],
            descending: dice.roll(2) == 1,
        };
        let mut view = View::default();
        view.ask(query(&mut dice));
        let mut now_ms = 0.0;
        for revision in 2..40 {
            now_ms += [1.0, 400.0, 9_000.0][dice.roll(3)];
            let mut changes = Vec::new();
            for _ in 0..=dice.roll(3) {
                let record = some_record(&mut dice, revision);
                if changes.iter().any(|other: &Change| other.key() == record.key) {
                    continue;
                }
                changes.push(match stand.remove(&record.key) {
                    Some(last) if dice.roll(2) == 0 => {
                        Change::Delete(Departure { key: last.key.clone(), service: last.service.clone(), last })
                    }
                    _ => {
                        stand.insert(record.key.clone(), Arc::clone(&record));
                        Change::Put(record)
                    }
                });
            }
            let delta = Delta { source: SOURCE.into(), after: revision - 1, revision, changes };
            live.apply(&RegistryEvent::Delta(delta), now_ms).unwrap();
            live.tick(now_ms);
            // What is drawn late finds several changes of one key as one.
            if dice.roll(3) == 0 {
                continue;
            }
            // Somebody may look before the changes are told.
            if dice.roll(4) == 0 {
                view.ask(query(&mut dice));
                view.step(&live, || false);
            }
            view.follow(&live.take_dirty(), &live);
            if dice.roll(2) == 0 {
                view.step(&live, || false);
            }
            if dice.roll(8) == 0 {
                view.ask(query(&mut dice));
            }
        }
        view.follow(&live.take_dirty(), &live);
        let expected = fresh(view.query(), &live);
        let keys = all_of(&mut view, &live);
        view.settle(&live);
        assert_eq!(view.rows(), expected.rows(), "seed {seed}, {:?}: {keys:?}", view.query());
        assert_eq!(view.services(), expected.services(), "seed {seed}");
    }
}

#[test]
fn who_types_on_looks_only_among_what_was_found() {
    let records: Vec<_> =
        (0..2_000).map(|n| record(&format!("{SOURCE}pay/{n:04}"), "pay", &(n % 7).to_string(), 1)).collect();
    let live = live_of(records);
    let ask = |text: &str| Query { search: search(text), ..Query::default() };
    let mut view = View::default();
    view.ask(ask("19"));
    view.step(&live, || false);
    assert!(view.is_looking(), "a slice is not all of it");
    view.step(&live, || true);
    let wide = view.rows().len();
    view.ask(ask("199"));
    assert!(matches!(&view.rest, Rest::Among(found, 0) if found.len() == wide));
    let keys = all_of(&mut view, &live);
    assert_eq!(keys.len(), fresh(&ask("199"), &live).rows().len());
    assert_eq!(view.services(), &BTreeMap::from([("pay".to_owned(), keys.len())]));
    view.ask(ask("2"));
    assert!(matches!(view.rest, Rest::After(_)), "what is wider is looked for anew");
}
