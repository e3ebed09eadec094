//! What really happened: etcd's own history, read from etcd itself, and what a stream ought to say of it.
//!
//! Owns the epochs (each restore from a backup begins one) and the view at every revision. Must not know readers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use etcd_client::{Client, EventType, WatchOptions};
use rollcall_shared::{
    Change, Decoded, Departure, KeyPrefix, Layout, LeaseId, Raw, Record, Revision, cursor::SourceId,
};

use crate::wait::{eventually, seconds};

/// The largest message read from etcd, in bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// One prefix that the servers watch.
#[derive(Debug, Clone)]
pub struct Source {
    /// How its values are written.
    pub layout: Layout,
    /// Where it stands.
    pub prefix: KeyPrefix,
    /// As cursors name it.
    pub id: SourceId,
}

/// The prefixes that every server of the matrix watches.
pub fn sources() -> Vec<Source> {
    [(Layout::Kratos, "/microservices/"), (Layout::GoMicro, "/micro/registry/"), (Layout::Plain, "services/")]
        .into_iter()
        .map(|(layout, prefix)| {
            let prefix = KeyPrefix::new(prefix).expect("these are prefixes");
            Source { layout, id: SourceId::new(layout, &prefix), prefix }
        })
        .collect()
}

/// What a stream selects: these services, or everything where there is none.
pub type Selection = BTreeSet<String>;

/// Whether `selection` has `service`.
fn selects(selection: &Selection, service: &str) -> bool {
    selection.is_empty() || selection.contains(service)
}

/// One event of etcd's.
#[derive(Debug, Clone)]
enum Event {
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64, create_revision: Revision, mod_revision: Revision },
    Delete { key: Vec<u8> },
}

impl Event {
    fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A change of one key, and what stood there before.
#[derive(Debug, Clone)]
pub struct Step {
    /// The change.
    pub change: Change,
    /// What stood under the key before.
    pub before: Option<Arc<Record>>,
}

/// What happened in one source, by revision.
pub type Steps = BTreeMap<Revision, Vec<Step>>;

/// A source's records, by key.
pub type View = BTreeMap<String, Arc<Record>>;

/// One history of etcd: from its beginning, or from a backup of the one before.
#[derive(Debug, Clone, Default)]
struct Epoch {
    /// Up to here it is the history of the epoch before.
    begins_after: Revision,
    /// Up to here it was read.
    read_to: Revision,
    events: BTreeMap<Revision, Vec<Event>>,
}

/// All that happened, as etcd itself tells it.
#[derive(Debug)]
pub struct Truth {
    sources: Vec<Source>,
    epochs: Vec<Epoch>,
}

impl Default for Truth {
    fn default() -> Self {
        let first = Epoch { begins_after: 1, read_to: 1, events: BTreeMap::new() };
        Self { sources: sources(), epochs: vec![first] }
    }
}

impl Truth {
    /// Reads on up to etcd's present revision, which it gives.
    pub async fn read(&mut self, url: &str) -> Revision {
        let client = Client::connect([url], None).await.expect("etcd connects");
        let revision = eventually("etcd tells its revision", seconds(10), || async {
            let answer = client.kv_client().get("\0", None).await.map_err(|error| error.to_string())?;
            answer.header().map(etcd_client::ResponseHeader::revision).ok_or_else(String::new)
        })
        .await;
        let epoch = self.epochs.last_mut().expect("there is always one");
        if revision <= epoch.read_to {
            return epoch.read_to;
        }
        let options = WatchOptions::new().with_range("\0").with_start_revision(epoch.read_to + 1);
        let mut watches = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut watch = watches.watch("\0", Some(options)).await.expect("etcd takes a watch");
        while epoch.read_to < revision {
            let next = tokio::time::timeout(seconds(20), watch.message()).await;
            let response = next.expect("etcd tells its history").expect("the watch stands").expect("the watch goes on");
            assert!(!response.canceled(), "history was compacted before it was read: {response:?}");
            for event in response.events() {
                let kv = event.kv().expect("an event is about a key");
                let at = kv.mod_revision();
                let event = match event.event_type() {
                    EventType::Put => Event::Put {
                        key: kv.key().to_vec(),
                        value: kv.value().to_vec(),
                        lease: kv.lease(),
                        create_revision: kv.create_revision(),
                        mod_revision: at,
                    },
                    EventType::Delete => Event::Delete { key: kv.key().to_vec() },
                };
                epoch.events.entry(at).or_default().push(event);
                epoch.read_to = epoch.read_to.max(at);
            }
        }
        revision
    }

    /// etcd came back from a backup that was taken at `revision`.
    pub fn restored(&mut self, revision: Revision) {
        let last = self.epochs.last().expect("there is always one");
        let events = last.events.range(..=revision).map(|(at, events)| (*at, events.clone())).collect();
        self.epochs.push(Epoch { begins_after: revision, read_to: revision, events });
    }

    /// Checks that what was read adds up to what etcd holds now.
    pub async fn is_what_stands(&self, url: &str) {
        let mut folded = BTreeMap::new();
        let epoch = self.epochs.last().expect("there is always one");
        for event in epoch.events.values().flatten() {
            match event {
                Event::Put { key, value, lease, mod_revision, .. } => {
                    folded.insert(key.clone(), (value.clone(), *lease, *mod_revision));
                }
                Event::Delete { key } => drop(folded.remove(key)),
            }
        }
        let client = Client::connect([url], None).await.expect("etcd connects");
        let options = etcd_client::GetOptions::new().with_range("\0").with_revision(epoch.read_to);
        let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = kv.get("\0", Some(options)).await.expect("etcd answers a range");
        let ranged: BTreeMap<_, _> = answer
            .kvs()
            .iter()
            .map(|kv| (kv.key().to_vec(), (kv.value().to_vec(), kv.lease(), kv.mod_revision())))
            .collect();
        assert!(folded == ranged, "the history that was read is not what etcd holds");
    }

    /// What streams ought to say of it.
    pub fn told(&self) -> Told {
        let epochs = self.epochs.iter().map(|epoch| {
            let of_source: Vec<Steps> = self.sources.iter().map(|source| steps(source, epoch)).collect();
            let mut fates: HashMap<String, BTreeMap<Revision, Fate>> = HashMap::new();
            for (at, step) in
                of_source.iter().flatten().flat_map(|(at, steps)| steps.iter().map(move |step| (at, step)))
            {
                fates.entry(step.change.key().to_owned()).or_default().insert(*at, fate(&step.change));
            }
            ToldEpoch { begins_after: epoch.begins_after, read_to: epoch.read_to, fates, of_source }
        });
        Told { sources: self.sources.clone(), epochs: epochs.collect(), views: Mutex::default() }
    }

    /// The raw value under each key of a source at the end, by the key's text.
    pub fn values(&self) -> BTreeMap<String, Vec<u8>> {
        let mut values = BTreeMap::new();
        for event in self.epochs.last().expect("there is always one").events.values().flatten() {
            if !self.sources.iter().any(|source| source.owns(event.key())) {
                continue;
            }
            match event {
                Event::Put { key, value, .. } => drop(values.insert(key_text(key), value.clone())),
                Event::Delete { key } => drop(values.remove(&key_text(key))),
            }
        }
        values
    }
}

impl Source {
    fn owns(&self, key: &[u8]) -> bool {
        key.len() > self.prefix.as_str().len() && key.starts_with(self.prefix.as_str().as_bytes())
    }

    /// The record that a key and its value make, as CONTRACT's `Record` has it.
    fn record(&self, event: &Event) -> Option<Record> {
        let Event::Put { key, value, lease, create_revision, mod_revision } = event else { return None };
        let text = key_text(key);
        let (service, decoded, warning) = if str::from_utf8(key).is_ok() {
            let entry = self.layout.decode(&self.prefix, &text, value);
            (entry.service, entry.decoded, entry.warning)
        } else {
            let rest = text.strip_prefix(self.prefix.as_str()).unwrap_or(&text);
            let service = rest.rsplit_once('/').map_or(rest, |(service, _)| service).to_owned();
            let why = "the key is no UTF-8".to_owned();
            (service, Decoded::Malformed { why, raw: Raw::from(&**value) }, None)
        };
        Some(Record {
            key: text,
            source: self.prefix.as_str().to_owned(),
            layout: self.layout,
            service,
            lease: LeaseId::from_etcd(*lease),
            create_revision: *create_revision,
            mod_revision: *mod_revision,
            decoded,
            warning,
        })
    }
}

/// A key as text; bytes that are no UTF-8 stand as `\xNN`.
pub fn key_text(key: &[u8]) -> String {
    key.utf8_chunks()
        .flat_map(|chunk| {
            let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
            std::iter::once(chunk.valid().to_owned()).chain(invalid)
        })
        .collect()
}

fn steps(source: &Source, epoch: &Epoch) -> Steps {
    let mut view = View::new();
    let mut steps = Steps::new();
    for (revision, events) in &epoch.events {
        for event in events.iter().filter(|event| source.owns(event.key())) {
            let step = if let Some(record) = source.record(event) {
                let record = Arc::new(record);
                let before = view.insert(record.key.clone(), Arc::clone(&record));
                Step { change: Change::Put(record), before }
            } else {
                let key = key_text(event.key());
                let Some(last) = view.remove(&key) else { continue };
                let departure = Departure { key, service: last.service.clone(), last: Arc::clone(&last) };
                Step { change: Change::Delete(departure), before: Some(last) }
            };
            steps.entry(*revision).or_default().push(step);
        }
    }
    steps
}

#[derive(Debug)]
struct ToldEpoch {
    begins_after: Revision,
    read_to: Revision,
    of_source: Vec<Steps>,
    /// What each revision did to each key.
    fates: HashMap<String, BTreeMap<Revision, Fate>>,
}

/// What a revision did to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was put.
    Put,
    /// It was deleted.
    Deleted,
}

fn fate(change: &Change) -> Fate {
    match change {
        Change::Put(_) => Fate::Put,
        Change::Delete(_) => Fate::Deleted,
    }
}

/// Which epoch, which source, which revision.
type Place = (usize, usize, Revision);

/// The truth as streams ought to tell it. Epochs and sources go by their numbers.
#[derive(Debug)]
pub struct Told {
    /// The sources.
    pub sources: Vec<Source>,
    epochs: Vec<ToldEpoch>,
    views: Mutex<HashMap<Place, Arc<View>>>,
}

impl Told {
    /// How many epochs there are.
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// Up to here an epoch is the history of the one before it.
    pub fn begins_after(&self, epoch: usize) -> Revision {
        self.epochs[epoch].begins_after
    }

    /// The last revision of an epoch that was read.
    pub fn read_to(&self, epoch: usize) -> Revision {
        self.epochs[epoch].read_to
    }

    /// How many revisions changed something in the sources.
    pub fn revisions(&self) -> usize {
        let of_epoch = |(number, epoch): (usize, &ToldEpoch)| {
            let begins_after = if number == 0 { 0 } else { epoch.begins_after };
            let all: BTreeSet<Revision> = epoch.of_source.iter().flat_map(|steps| steps.keys().copied()).collect();
            all.range(begins_after + 1..).count()
        };
        self.epochs.iter().enumerate().map(of_epoch).sum()
    }

    /// The number of the source of that prefix.
    pub fn source(&self, prefix: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.prefix.as_str() == prefix)
    }

    /// All that happened in a source.
    pub fn steps(&self, epoch: usize, source: usize) -> &Steps {
        &self.epochs[epoch].of_source[source]
    }

    /// What a stream with that selection is to say of a revision; nothing where it touches nothing selected.
    pub fn changes(&self, epoch: usize, source: usize, revision: Revision, selection: &Selection) -> Vec<Change> {
        let steps = self.steps(epoch, source).get(&revision).map(Vec::as_slice).unwrap_or_default();
        steps.iter().filter_map(|step| seen(step, selection)).collect()
    }

    /// What a revision did to a key; `None` where nothing.
    pub fn fate(&self, epoch: usize, key: &str, revision: Revision) -> Option<Fate> {
        self.epochs[epoch].fates.get(key)?.get(&revision).copied()
    }

    /// The first revision after `after` and up to `to` that touches something selected.
    pub fn first_between(
        &self,
        (epoch, source): (usize, usize),
        after: Revision,
        to: Revision,
        selection: &Selection,
    ) -> Option<Revision> {
        if to <= after {
            return None;
        }
        let mut steps = self.steps(epoch, source).range(after + 1..=to);
        steps.find(|(_, steps)| steps.iter().any(|step| seen(step, selection).is_some())).map(|(at, _)| *at)
    }

    /// Everything in a source at a revision.
    pub fn view(&self, epoch: usize, source: usize, revision: Revision) -> Arc<View> {
        let steps = self.steps(epoch, source);
        // The view changes only where something happened.
        let at = steps.range(..=revision).next_back().map_or(0, |(at, _)| *at);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = views.entry((epoch, source, at)).or_insert_with(|| {
            let mut view = View::new();
            for step in steps.range(..=at).flat_map(|(_, steps)| steps) {
                match &step.change {
                    Change::Put(record) => drop(view.insert(record.key.clone(), Arc::clone(record))),
                    Change::Delete(departure) => drop(view.remove(&departure.key)),
                }
            }
            Arc::new(view)
        });
        Arc::clone(view)
    }

    /// What of a source is selected at a revision.
    pub fn selected(&self, epoch: usize, source: usize, revision: Revision, selection: &Selection) -> View {
        let view = self.view(epoch, source, revision);
        view.iter()
            .filter(|(_, record)| selects(selection, &record.service))
            .map(|(key, record)| (key.clone(), Arc::clone(record)))
            .collect()
    }
}

/// A key that went to a service which is not selected has left.
fn seen(step: &Step, selection: &Selection) -> Option<Change> {
    if selects(selection, step.change.service()) {
        return Some(step.change.clone());
    }
    let before = step.before.as_ref().filter(|before| selects(selection, &before.service))?;
    Some(Change::Delete(Departure {
        key: before.key.clone(),
        service: before.service.clone(),
        last: Arc::clone(before),
    }))
}
