//! The fold over generated histories, against a model that remembers every state there ever was.

use proptest::{collection, prelude::*, sample::Index};

use super::*;
use crate::{
    event::{Cause, CauseKind, Delta, Progress, SnapshotReason},
    instance::ServiceInstance,
    layout::Layout,
    record::Decoded,
};

const SOURCES: [&str; 2] = ["/one/", "two/"];

type Rows = BTreeMap<String, Arc<Record>>;

fn record(source: &str, key: u8, service: u8, revision: Revision) -> Arc<Record> {
    let name = format!("service-{service}");
    Arc::new(Record {
        // The service is the value's word and not the key's, so that a key can change sides.
        key: format!("{source}key-{key}"),
        source: source.to_owned(),
        layout: Layout::Kratos,
        service: name.clone(),
        lease: None,
        create_revision: revision,
        mod_revision: revision,
        decoded: Decoded::Instance(ServiceInstance { id: key.to_string(), name, ..ServiceInstance::default() }),
        warning: None,
    })
}

/// What happened to one key at one revision; `None` is a delete.
type Step = (usize, Vec<(u8, Option<u8>)>);

/// Everything that happened, and what stood at each revision.
#[derive(Debug)]
struct History {
    /// The rows of all sources at each revision, from 0.
    states: Vec<Rows>,
    /// The deltas in order; that of revision `r` stands at `r - 1`.
    deltas: Vec<Delta>,
}

impl History {
    fn new(steps: Vec<Step>) -> Self {
        let mut states = vec![Rows::new()];
        let mut deltas: Vec<Delta> = Vec::new();
        let mut last = [0; SOURCES.len()];
        for (source, touched) in steps {
            let revision = Revision::try_from(states.len()).unwrap();
            let mut rows = states.last().unwrap().clone();
            let mut changes = Vec::new();
            for (key, service) in touched {
                if let Some(service) = service {
                    let record = record(SOURCES[source], key, service, revision);
                    rows.insert(record.key.clone(), Arc::clone(&record));
                    changes.push(Change::Put(record));
                } else if let Some(last) = rows.remove(&format!("{}key-{key}", SOURCES[source])) {
                    changes.push(Change::Delete(Departure {
                        key: last.key.clone(),
                        service: last.service.clone(),
                        last,
                    }));
                }
            }
            states.push(rows);
            let after = std::mem::replace(&mut last[source], revision);
            deltas.push(Delta { source: SOURCES[source].to_owned(), after, revision, changes });
        }
        Self { states, deltas }
    }

    fn end(&self) -> usize {
        self.deltas.len()
    }

    fn rows(&self, at: usize, source: &str) -> Vec<Arc<Record>> {
        self.states[at].values().filter(|record| record.source == source).cloned().collect()
    }

    /// The snapshot of these sources, each at a revision of its own, in parts of so many records.
    fn snapshot(&self, at: &[(&str, usize)], part_records: usize) -> Vec<RegistryEvent> {
        let revisions: BTreeMap<_, _> =
            at.iter().map(|(source, at)| ((*source).to_owned(), Revision::try_from(*at).unwrap())).collect();
        let records: Vec<_> = at.iter().flat_map(|(source, at)| self.rows(*at, source)).collect();
        let mut parts: Vec<_> = records.chunks(part_records).map(<[_]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let count = parts.len();
        parts
            .into_iter()
            .enumerate()
            .map(|(part, records)| {
                RegistryEvent::Snapshot(Snapshot {
                    reason: SnapshotReason::Connected,
                    revisions: revisions.clone(),
                    records,
                    part: u32::try_from(part).unwrap(),
                    more: part + 1 < count,
                })
            })
            .collect()
    }
}

fn histories() -> impl Strategy<Value = History> {
    let touched = collection::vec((0u8..6, prop::option::weighted(0.7, 0u8..3)), 1..4);
    collection::vec((0..SOURCES.len(), touched), 0..30).prop_map(History::new)
}

/// That the catalog shows `rows`, and that its index of services says the same.
fn shows(catalog: &Catalog, rows: &Rows) -> Result<(), TestCaseError> {
    prop_assert_eq!(&catalog.records, rows);
    prop_assert_eq!(catalog.len(), rows.len());
    let mut services: BTreeMap<String, Rows> = BTreeMap::new();
    for (key, record) in rows {
        services.entry(record.service.clone()).or_default().insert(key.clone(), Arc::clone(record));
        prop_assert_eq!(catalog.get(key), Some(record));
    }
    prop_assert_eq!(&catalog.services, &services);
    Ok(())
}

/// Folds `event` in and does to `rows` what the catalog says it did.
fn follow(catalog: &mut Catalog, rows: &mut Rows, event: &RegistryEvent) -> Result<usize, TestCaseError> {
    let changes = catalog.apply(event).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let count = changes.len();
    for change in changes {
        match change {
            Change::Put(record) => drop(rows.insert(record.key.clone(), record)),
            Change::Delete(departure) => {
                let last = rows.remove(&departure.key);
                prop_assert_eq!(last, Some(departure.last), "what left is what stood there");
            }
        }
    }
    Ok(count)
}

/// The catalog as comparable parts.
fn state(catalog: &Catalog) -> (BTreeMap<String, Revision>, Rows, Option<usize>) {
    (catalog.revisions.clone(), catalog.records.clone(), catalog.incoming_records())
}

proptest! {
    #[test]
    fn a_snapshot_at_any_revision_and_the_deltas_after_it_fold_to_what_stands(
        history in histories(),
        starts in any::<[Index; SOURCES.len()]>(),
        part_records in 1usize..8,
        repeats in collection::vec(any::<Index>(), 0..4),
    ) {
        let starts: Vec<_> =
            SOURCES.iter().zip(starts).map(|(source, start)| (*source, start.index(history.end() + 1))).collect();
        let (mut catalog, mut rows) = (Catalog::default(), Rows::new());
        for event in history.snapshot(&starts, part_records) {
            follow(&mut catalog, &mut rows, &event)?;
        }
        let expected: Rows = starts.iter().flat_map(|(source, at)| history.rows(*at, source))
            .map(|record| (record.key.clone(), record)).collect();
        shows(&catalog, &expected)?;
        // All deltas are sent: those that a snapshot already covers change nothing.
        for delta in &history.deltas {
            let covered = delta.revision <= catalog.revisions()[&delta.source];
            let count = follow(&mut catalog, &mut rows, &RegistryEvent::Delta(delta.clone()))?;
            prop_assert_eq!(count, if covered { 0 } else { delta.changes.len() });
        }
        shows(&catalog, &history.states[history.end()])?;
        prop_assert_eq!(&rows, &history.states[history.end()]);
        for repeat in repeats.iter().filter(|_| history.end() > 0) {
            let delta = repeat.get(&history.deltas).clone();
            prop_assert_eq!(catalog.apply(&RegistryEvent::Delta(delta)), Ok(Vec::new()));
        }
        shows(&catalog, &history.states[history.end()])?;
    }

    #[test]
    fn a_gap_is_said_and_leaves_all_as_it_was(history in histories(), lost in any::<Index>()) {
        prop_assume!(history.end() > 0);
        let lost = lost.index(history.end());
        let mut catalog = Catalog::default();
        for event in history.snapshot(&SOURCES.map(|source| (source, 0)), 8) {
            catalog.apply(&event).unwrap();
        }
        let mut expected = history.states[0].clone();
        let source = &history.deltas[lost].source;
        for (index, delta) in history.deltas.iter().enumerate() {
            if index == lost {
                continue;
            }
            let before = state(&catalog);
            let result = catalog.apply(&RegistryEvent::Delta(delta.clone()));
            if index > lost && delta.source == *source {
                let at = before.0[source];
                prop_assert_eq!(result, Err(FoldError::Gap { origin: source.clone(), at, after: delta.after }));
                prop_assert_eq!(state(&catalog), before);
            } else {
                prop_assert_eq!(result.as_deref(), Ok(&*delta.changes));
                expected.retain(|_, record| record.source != delta.source);
                let at = usize::try_from(delta.revision).unwrap();
                expected.extend(history.rows(at, &delta.source).into_iter().map(|record| (record.key.clone(), record)));
            }
            shows(&catalog, &expected)?;
        }
        // A snapshot of that one source mends it, and says only what is different.
        let mut rows = expected;
        for event in history.snapshot(&[(source, history.end())], 3) {
            follow(&mut catalog, &mut rows, &event)?;
        }
        shows(&catalog, &history.states[history.end()])?;
        prop_assert_eq!(&rows, &history.states[history.end()]);
    }

    #[test]
    fn a_later_snapshot_says_only_what_is_different(
        history in histories(),
        from in any::<Index>(),
        to in any::<Index>(),
        part_records in 1usize..8,
    ) {
        // Also backwards: a restored etcd stands at an earlier revision.
        let (from, to) = (from.index(history.end() + 1), to.index(history.end() + 1));
        let (mut catalog, mut rows) = (Catalog::default(), Rows::new());
        for event in history.snapshot(&SOURCES.map(|source| (source, from)), part_records) {
            follow(&mut catalog, &mut rows, &event)?;
        }
        let mut count = 0;
        for event in history.snapshot(&SOURCES.map(|source| (source, to)), part_records) {
            count += follow(&mut catalog, &mut rows, &event)?;
        }
        let (one, other) = (&history.states[from], &history.states[to]);
        let gone = one.keys().filter(|key| !other.contains_key(*key)).count();
        let put = other.iter().filter(|(key, record)| one.get(*key) != Some(*record)).count();
        prop_assert_eq!(count, gone + put);
        shows(&catalog, other)?;
        prop_assert_eq!(&rows, other);
        prop_assert!(catalog.revisions().values().all(|at| usize::try_from(*at) == Ok(to)));
    }

    #[test]
    fn an_interrupted_snapshot_shows_nothing_and_the_next_begins_anew(
        history in histories(),
        at in any::<Index>(),
        cut in any::<Index>(),
    ) {
        let at = at.index(history.end() + 1);
        let mut catalog = Catalog::default();
        let starts = SOURCES.map(|source| (source, at));
        let parts = history.snapshot(&starts, 1);
        let cut = cut.index(parts.len());
        for (index, part) in parts[..cut].iter().enumerate() {
            prop_assert_eq!(catalog.apply(part), Ok(Vec::new()));
            prop_assert_eq!(catalog.incoming_records(), Some(index + 1));
        }
        prop_assert!(catalog.is_empty() && catalog.revisions().is_empty());
        // A part out of its order is refused, and the parts so far stay.
        if let Some(part) = parts.get(cut + 1) {
            let (expected, got) = (u32::try_from(cut).unwrap(), u32::try_from(cut + 1).unwrap());
            let before = state(&catalog);
            prop_assert_eq!(catalog.apply(part), Err(FoldError::MissingPart { expected, got }));
            prop_assert_eq!(state(&catalog), before);
        }
        for part in history.snapshot(&starts, 2) {
            catalog.apply(&part).unwrap();
        }
        shows(&catalog, &history.states[at])?;
        prop_assert_eq!(catalog.incoming_records(), None);
    }
}

#[test]
fn progress_raises_known_revisions_only_and_closes_what_lies_between() {
    let history = History::new(vec![(0, vec![(1, Some(1))]), (1, vec![(1, Some(2))])]);
    let mut catalog = Catalog::default();
    let delta = RegistryEvent::Delta(history.deltas[0].clone());
    assert_eq!(catalog.apply(&delta), Err(FoldError::UnknownSource(SOURCES[0].into())));
    for event in history.snapshot(&[(SOURCES[0], 0)], 1) {
        catalog.apply(&event).unwrap();
    }
    let progress = |at| {
        let revisions = SOURCES.iter().map(|source| ((*source).to_owned(), at)).collect();
        RegistryEvent::Progress(Progress { revisions })
    };
    assert_eq!(catalog.apply(&progress(7)), Ok(Vec::new()));
    assert_eq!(catalog.revisions(), &BTreeMap::from([(SOURCES[0].to_owned(), 7)]));
    assert_eq!(catalog.apply(&progress(3)), Ok(Vec::new()));
    assert_eq!(catalog.revisions()[SOURCES[0]], 7);
    let next = Delta { after: 7, revision: 9, ..history.deltas[0].clone() };
    assert_eq!(catalog.apply(&RegistryEvent::Delta(next)).unwrap().len(), 1);
    let cause = Cause { key: "k".into(), revision: 9, cause: CauseKind::Unknown, evidence: "none".into() };
    assert_eq!(catalog.apply(&RegistryEvent::Cause(cause)), Ok(Vec::new()));
    assert_eq!((catalog.len(), catalog.revisions()[SOURCES[0]]), (1, 9));
}

#[test]
fn records_go_on_after_a_key() {
    let history = History::new(vec![(0, vec![(1, Some(1)), (2, Some(1)), (3, Some(2))])]);
    let mut catalog = Catalog::default();
    for event in history.snapshot(&[(SOURCES[0], 1)], 9) {
        catalog.apply(&event).unwrap();
    }
    let after = |key: &str| catalog.records_after(key).map(|record| record.key.clone()).collect::<Vec<_>>();
    assert_eq!(after("/one/key-1"), ["/one/key-2", "/one/key-3"]);
    assert_eq!(after("/one/key-10"), ["/one/key-2", "/one/key-3"]);
    assert_eq!(after("").len(), 3);
    assert_eq!(catalog.service("service-1").map(BTreeMap::len), Some(2));
    assert_eq!(catalog.service("service-9"), None);
}
