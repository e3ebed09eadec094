//! A reader of the stream that folds what it is sent, and holds every message to the contract.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use rollcall_registry::etcd::entry::Entry;
use rollcall_shared::{Catalog, Change, Cursor, Record, RegistryEvent, Revision, SnapshotReason, cursor::SourceId};
use tokio::time::{Duration, Instant, timeout};

use super::{
    super::{Context, Reader, Request},
    store::{self, Keys, PREFIXES, Scripted, Store, View},
    stream::{Pipe, Stream},
};
use crate::{fanout::Fanout, mirror::frame::Selected};

/// One block of `text/event-stream`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    pub event: Option<String>,
    pub id: Option<String>,
    pub retry: Option<u64>,
    pub body: String,
}

impl Block {
    pub fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(": ").expect("every line is a field with a value");
            match field {
                "event" => block.event = Some(value.to_owned()),
                "id" => block.id = Some(value.to_owned()),
                "retry" => block.retry = Some(value.parse().unwrap()),
                "data" => block.body.push_str(value),
                other => panic!("{other} is no field"),
            }
        }
        block
    }

    pub fn message(&self) -> RegistryEvent {
        assert_eq!(self.event, None, "ordered messages have no name");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub fn blocks(bytes: &[u8]) -> Vec<Block> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with("\n\n"), "a piece holds whole messages: {text}");
    text.split_terminator("\n\n").map(Block::parse).collect()
}

/// The longest that may pass without a progress, and without a status.
const PROGRESS_S_MAX: u64 = 60;
const STATUS_S_MAX: u64 = 10;

/// What one connection was sent so far.
struct Connection {
    stream: Stream,
    /// Taken, and not looked at yet.
    blocks: std::collections::VecDeque<Block>,
    count: usize,
    /// Ordered messages so far.
    ordered: usize,
    cursor: Option<Result<Cursor, rollcall_shared::CursorError>>,
    parts: u32,
    /// Deltas since it was last taken up.
    deltas: usize,
    /// A progress that the next message has to be the reason for: the source, and where it went.
    due: Option<(String, Revision)>,
    causes: HashSet<(String, Revision)>,
    departed: HashSet<(String, Revision)>,
    /// The sources of which it got a snapshot.
    replaced: HashSet<usize>,
    progressed_at: Instant,
    status_at: Instant,
    began_at: Instant,
    /// When it last listened.
    listened_at: Instant,
}

pub struct Client {
    pub selected: &'static [&'static str],
    pub catalog: Catalog,
    pub last_id: Option<String>,
    /// Whether its server's ring is so small that it may lag.
    pub may_lag: bool,
    /// Whether it is told together with others.
    pub followed: bool,
    /// The number of the server that it came to last.
    pub server: usize,
    connection: Option<Connection>,
    /// Deletes that it was told, and their causes.
    pub departed: HashSet<(String, Revision)>,
    pub caused: HashSet<(String, Revision)>,
    /// What it was sent lately.
    log: Vec<String>,
}

impl Client {
    pub fn new(selected: &'static [&'static str], may_lag: bool, followed: bool) -> Self {
        Self {
            selected,
            catalog: Catalog::default(),
            last_id: None,
            may_lag,
            followed,
            server: 0,
            connection: None,
            departed: HashSet::new(),
            caused: HashSet::new(),
            log: Vec::new(),
        }
    }

    fn selected(&self) -> Selected {
        Selected(self.selected.iter().map(|service| (*service).to_owned()).collect())
    }

    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Comes, with the cursor it has or with `cursor` in its place.
    pub fn connect(&mut self, context: &Context<Scripted>, fanout: &Arc<Fanout<Pipe>>, cursor: Option<&str>) {
        let cursor = cursor.or(self.last_id.as_deref()).map(Cursor::decode);
        if cursor.is_none() {
            self.catalog = Catalog::default();
        }
        self.log.push(format!("connects with {cursor:?}"));
        let request = Request { selected: Arc::new(self.selected()), cursor: cursor.clone(), ttl: false };
        let reader = Reader::new(context.clone(), request);
        self.connection = Some(Connection {
            stream: if self.followed { Stream::followed(reader, fanout) } else { Stream::pulled(reader) },
            blocks: std::collections::VecDeque::default(),
            count: 0,
            ordered: 0,
            cursor,
            parts: 0,
            deltas: 0,
            due: None,
            causes: HashSet::new(),
            departed: HashSet::new(),
            replaced: HashSet::new(),
            progressed_at: Instant::now(),
            status_at: Instant::now(),
            began_at: Instant::now(),
            listened_at: Instant::now(),
        });
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Looks at up to `count` blocks, as far as some come within `patience`.
    pub async fn read(&mut self, etcd: &Scripted, count: usize, patience: Duration) {
        let end = Instant::now() + patience;
        if let Some(connection) = &mut self.connection
            && connection.listened_at.elapsed() > Duration::from_secs(1)
        {
            // Nothing was sent because nothing was taken.
            connection.status_at = Instant::now();
        }
        for _ in 0..count {
            let Some(connection) = &mut self.connection else { return };
            while connection.blocks.is_empty() {
                let left = end.saturating_duration_since(Instant::now());
                match timeout(left, connection.stream.next()).await {
                    Ok(Some(bytes)) => connection.blocks.extend(blocks(&bytes)),
                    Ok(None) => panic!("nobody ended the stream"),
                    Err(_) => {
                        connection.listened_at = Instant::now();
                        return;
                    }
                }
            }
            connection.listened_at = Instant::now();
            let block = connection.blocks.pop_front().unwrap();
            self.log.push(format!("{:?} {block:?}", connection.began_at.elapsed()));
            self.take_in(&etcd.store(), &block);
        }
    }

    fn revision(&self, source: &str) -> Option<Revision> {
        self.catalog.revisions().get(source).copied()
    }

    fn take_in(&mut self, store: &Store, block: &Block) {
        let connection = self.connection.as_mut().expect("it reads");
        connection.count += 1;
        let now = Instant::now();
        assert!(connection.status_at.elapsed().as_secs() <= STATUS_S_MAX, "a status at least every 10 s");
        match connection.count {
            1 => {
                let retry = block.retry.expect("it begins with when to try again");
                assert!((1_000..=1_500).contains(&retry), "{retry}");
                return;
            }
            2 => assert_eq!(block.event.as_deref(), Some("status"), "a status at once"),
            _ => {}
        }
        if connection.parts > 0 {
            assert!(
                block.event.is_none() && block.body.starts_with(r#"{"type":"snapshot""#),
                "between parts: {block:?}"
            );
        }
        if let Some(name) = &block.event {
            assert_eq!(name, "status");
            assert_eq!(block.id, None, "named events have no id");
            connection.status_at = now;
            return;
        }
        let event = block.message();
        connection.ordered += 1;
        if let Some((source, revision)) = connection.due.take() {
            let RegistryEvent::Delta(delta) = &event else { panic!("progress for no reason before {event:?}") };
            assert_eq!((&delta.source, delta.after), (&source, revision), "progress for another delta");
        }
        let first = connection.ordered == 1;
        if first {
            self.check_first(&event);
        }
        match &event {
            RegistryEvent::Snapshot(snapshot) => {
                let connection = self.connection.as_mut().unwrap();
                assert_eq!(snapshot.part, connection.parts, "parts follow each other");
                connection.parts = if snapshot.more { snapshot.part + 1 } else { 0 };
                assert_eq!(block.id.is_some(), !snapshot.more, "the last part has the id");
                for source in snapshot.revisions.keys() {
                    self.check_reason(store, source, snapshot.reason);
                }
                let connection = self.connection.as_mut().unwrap();
                connection.deltas = 0;
                connection.replaced.extend(snapshot.revisions.keys().map(|source| store::number(source)));
                for record in &snapshot.records {
                    assert!(snapshot.revisions.contains_key(&record.source));
                }
            }
            RegistryEvent::Delta(delta) => {
                let at = self.revision(&delta.source).expect("a delta follows a snapshot");
                assert!(delta.after <= at && at < delta.revision, "{delta:?} for a client at {at}");
                assert!(!delta.changes.is_empty());
                let source = store::number(&delta.source);
                let id = Cursor::decode(block.id.as_ref().unwrap()).unwrap();
                let views = store.ever(source, id.sources[&source_id(source)]);
                assert!(views.iter().any(|view| view.changed_at == delta.revision), "{views:?}");
                let before = views.iter().map(|view| view.touched_before(self.selected, delta.revision)).min();
                let before = before.expect("an id is of what was");
                // A restore that leaves a view as it was is seen by nobody, and so is what came and went on the way there.
                let unnoticed = store.restores > 0 || store.was_passed_over(source, before);
                assert!(
                    before <= delta.after || unnoticed,
                    "between {} and {} there was {before}",
                    delta.after,
                    delta.revision
                );
                if self.selected.is_empty() && store.restores == 0 {
                    assert!(
                        before <= at || at < store.compacted_ever,
                        "the delta of {before} is missing before that of {}",
                        delta.revision
                    );
                }
                let connection = self.connection.as_mut().unwrap();
                connection.deltas += 1;
                for change in &delta.changes {
                    if let Change::Delete(departure) = change {
                        let departure = (departure.key.clone(), delta.revision);
                        connection.departed.insert(departure.clone());
                        self.departed.insert(departure);
                    }
                }
            }
            RegistryEvent::Progress(progress) => {
                for (source, revision) in &progress.revisions {
                    let at = self.revision(source).expect("progress follows a snapshot");
                    assert!(*revision >= at, "{source} goes back from {at} to {revision}");
                }
                // One of every source may come at any time: it says how far all has come, and its id is checked below. So
                // may one of the client's own revisions: it was taken up anew. Any other is of a single source and comes
                // right before the delta that continues from there.
                // (What a selection leaves out has no message to tell how far its client has come.)
                let own = !self.selected.is_empty()
                    || progress.revisions.iter().all(|(source, at)| self.revision(source) == Some(*at));
                let compacted = |(source, _): (&String, &Revision)| self.revision(source) < Some(store.compacted_ever);
                let own = own || progress.revisions.iter().any(compacted);
                let connection = self.connection.as_mut().unwrap();
                if first || own {
                    connection.deltas = 0;
                }
                if first || own || progress.revisions.len() == PREFIXES.len() {
                    connection.progressed_at = now;
                } else {
                    assert_eq!(progress.revisions.len(), 1, "progress of some sources: {progress:?}");
                    connection.due = progress.revisions.clone().into_iter().next();
                }
            }
            RegistryEvent::Cause(cause) => {
                assert_eq!(block.id, None);
                let known = (cause.key.clone(), cause.revision);
                let source = PREFIXES.iter().position(|prefix| cause.key.starts_with(prefix)).unwrap();
                let cursor = self.connection.as_ref().unwrap().cursor.as_ref();
                let covered = cursor.and_then(|cursor| cursor.as_ref().ok()?.sources.get(&source_id(source)).copied());
                let covered = covered.is_some_and(|known| cause.revision <= known.revision);
                // After a restore that left the view as it was, a replay tells of the new history, and who saw the old
                // one cannot know.
                let connection = self.connection.as_ref().unwrap();
                let unnoticed = store.restores > 0
                    && matches!(connection.cursor, Some(Ok(_)))
                    && !connection.replaced.contains(&source)
                    && self.revision(PREFIXES[source]) >= Some(cause.revision);
                assert!(
                    self.departed.contains(&known) || covered || unnoticed,
                    "the cause of a delete that it was not told"
                );
                self.connection.as_mut().unwrap().causes.insert(known.clone());
                self.caused.insert(known);
            }
        }
        let before = self.catalog.revisions().clone();
        self.catalog.apply(&event).unwrap_or_else(|error| panic!("{error}: {event:?}"));
        if let Some(id) = &block.id {
            self.check_id(store, &event, &before, id);
            self.last_id = Some(id.clone());
        } else {
            let early = matches!(&event, RegistryEvent::Snapshot(snapshot) if snapshot.more);
            assert!(early || matches!(event, RegistryEvent::Cause(_)), "{event:?} has no id");
        }
    }

    fn check_first(&mut self, event: &RegistryEvent) {
        let connection = self.connection.as_ref().unwrap();
        match (&connection.cursor, event) {
            (None, RegistryEvent::Snapshot(snapshot)) => {
                assert_eq!(snapshot.reason, SnapshotReason::Connected);
                assert_eq!(snapshot.revisions.len(), PREFIXES.len());
            }
            (Some(Err(_)), RegistryEvent::Snapshot(snapshot)) => {
                assert_eq!(snapshot.reason, SnapshotReason::UnknownCursor);
            }
            (Some(Ok(cursor)), RegistryEvent::Progress(progress)) => {
                assert!(!progress.revisions.is_empty());
                for (source, revision) in &progress.revisions {
                    assert_eq!(cursor.sources[&source_id(store::number(source))].revision, *revision, "its own");
                }
            }
            // It was not taken for any source.
            (Some(Ok(_)), RegistryEvent::Snapshot(_)) => {}
            (_, other) => panic!("the first message is {other:?}"),
        }
    }

    fn check_reason(&self, store: &Store, source: &str, reason: SnapshotReason) {
        let connection = self.connection.as_ref().unwrap();
        let first = connection.ordered == 1;
        match reason {
            SnapshotReason::Connected => {
                let known = match &connection.cursor {
                    Some(Ok(cursor)) => cursor.sources.contains_key(&source_id(store::number(source))),
                    _ => false,
                };
                assert!(!known, "{source} was known to the cursor");
            }
            SnapshotReason::Compacted => {
                let at = self.revision(source).expect("it knew the source");
                assert!(at < store.compacted_ever, "nothing was compacted that a client at {at} had not read");
            }
            SnapshotReason::Restored => assert!(store.restores > 0, "nothing was restored"),
            SnapshotReason::Lagged => {
                assert!(self.may_lag && !first, "it did not lag");
                assert_eq!(connection.deltas, 0, "who comes further never lags");
            }
            SnapshotReason::UnknownCursor => {
                assert!(matches!(connection.cursor, Some(Err(_))), "its cursor was good");
            }
        }
    }

    /// An id tells where this client stands: no less than its revisions, and no other view than its own.
    fn check_id(&self, store: &Store, event: &RegistryEvent, before: &BTreeMap<String, Revision>, id: &str) {
        let cursor = Cursor::decode(id).expect("an id reads back");
        assert_eq!(cursor.cluster, store.cluster);
        let told: BTreeMap<&str, Revision> = match event {
            RegistryEvent::Snapshot(snapshot) => snapshot.revisions.iter().map(|(s, r)| (s.as_str(), *r)).collect(),
            RegistryEvent::Delta(delta) => BTreeMap::from([(delta.source.as_str(), delta.revision)]),
            _ => BTreeMap::new(),
        };
        for (source, prefix) in PREFIXES.iter().enumerate() {
            let Some(position) = cursor.sources.get(&source_id(source)) else {
                panic!("{prefix} is missing in {cursor:?}");
            };
            let views = store.ever(source, *position);
            let view = views.last().expect("an id is of what was");
            let selected = self.selected();
            let mine: BTreeMap<_, _> = self
                .catalog
                .records()
                .filter(|record| record.source == *prefix)
                .map(|record| (bytes::Bytes::from(record.key.clone()), entry_of(store, record)))
                .collect();
            let expected = expected(view, &selected);
            assert_eq!(mine, expected, "the id says {prefix} at {position:?}, which is another view");
            if let Some(revision) = told.get(prefix) {
                assert_eq!(position.revision, *revision, "{prefix}");
            }
            if let Some(at) = self.revision(prefix) {
                assert!(
                    position.revision >= at,
                    "the id has {prefix} at {}, the client stands at {at}",
                    position.revision
                );
            }
            if let Some(at) = before.get(*prefix)
                && self.selected.is_empty()
                && store.restores == 0
                && !told.contains_key(prefix)
            {
                assert!(
                    view.changed_at <= *at
                        || *at < store.compacted_ever
                        || store.was_passed_over(source, view.changed_at),
                    "the id covers the change of {prefix} at {} that was not told to a client at {at}",
                    view.changed_at
                );
            }
        }
    }

    /// Every delete that it was told on this connection has its cause, where its server told one.
    pub fn assert_explained(&self, explained: &HashSet<(String, Revision)>) {
        let connection = self.connection.as_ref().expect("it is connected");
        let unexplained: Vec<_> = connection.departed.intersection(explained).collect();
        let unexplained: Vec<_> = unexplained.iter().filter(|known| !connection.causes.contains(**known)).collect();
        assert!(unexplained.is_empty(), "deletes without a cause: {unexplained:?}");
    }

    /// At the end it knows what there is.
    pub fn assert_up_to_date(&self, store: &Store) {
        let selected = self.selected();
        for (source, prefix) in PREFIXES.iter().enumerate() {
            let expected: Vec<_> = expected(store.view(source), &selected).into_values().collect();
            let mine: Vec<_> = self
                .catalog
                .records()
                .filter(|record| record.source == *prefix)
                .map(|record| store.entry_of(record).clone())
                .collect();
            assert_eq!(mine, expected, "{prefix} at {:?}, etcd at {}", self.revision(prefix), store.revision());
            let at = self.revision(prefix).expect("it knows the source");
            // A restore that changes nothing here is told to nobody.
            let ahead = at > store.revision() && store.restores > 0;
            assert!(at == store.revision() || ahead, "{prefix} at {at} in spite of progress within {PROGRESS_S_MAX} s");
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let latest = &self.log[self.log.len().saturating_sub(40)..];
            println!("--- the client of {:?}\n{}", self.selected, latest.join("\n"));
        }
    }
}

/// The entry that `record` was made of, each of whose fields it shows.
fn entry_of(store: &Store, record: &Record) -> Entry {
    let entry = store.entry_of(record).clone();
    let shown = (record.key.as_bytes(), record.lease, record.create_revision, record.mod_revision);
    let lease = rollcall_shared::LeaseId::from_etcd(entry.lease);
    assert_eq!(shown, (&*entry.key, lease, entry.create_revision, entry.mod_revision));
    assert_eq!(record.service, record.instance().unwrap().name);
    entry
}

/// What of `view` is selected.
fn expected(view: &View, selected: &Selected) -> Keys {
    let chosen = |entry: &Entry| {
        let value: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        selected.has(value["name"].as_str().unwrap())
    };
    view.keys.iter().filter(|(_, entry)| chosen(entry)).map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

pub fn source_id(source: usize) -> SourceId {
    let config = store::config(source);
    SourceId::new(config.layout, &config.prefix)
}

/// What each test needs of a server.
pub fn context(mirror: &Arc<crate::mirror::Mirror>, etcd: &Scripted) -> Context<Scripted> {
    Context {
        mirror: Arc::clone(mirror),
        connection: etcd.clone(),
        metrics: crate::metrics::Metrics::new(),
        shutdown: tokio_util::sync::CancellationToken::new(),
    }
}
