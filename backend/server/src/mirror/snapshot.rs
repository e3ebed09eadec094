//! Snapshots for readers: those of whole sources are encoded once and shared for as long as the ring reaches from them to
//! now, since a crowd that comes back lacks the same; one of some services is made for its reader.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rollcall_shared::{Record, Revision, SnapshotReason, SourcePosition};

use super::{
    Mirror,
    frame::{Deleted, Selected, snapshot_parts, with_id},
};

/// How many snapshots are kept to be shared.
const SHARED_MAX: usize = 4;

/// From this size on, a snapshot is shared though changes have come since: they follow from the ring.
const SHARED_BYTES_MIN: usize = 1024 * 1024;

/// All there is of some sources at one moment, to be encoded.
struct Picture {
    sequence: u64,
    /// In the mirror's order, as the next one.
    positions: Vec<SourcePosition>,
    deleted_from: Vec<Deleted>,
    cursor: String,
    /// The sources taken and their revisions.
    revisions: BTreeMap<String, Revision>,
    /// Their records that are selected.
    records: Vec<Arc<Record>>,
}

/// A snapshot as it goes out: the same for all its readers, but for the id at its end.
#[derive(Clone)]
pub struct Encoded {
    /// The position in the ring from which to go on.
    pub sequence: u64,
    /// Where each source stands.
    pub positions: Arc<[SourcePosition]>,
    /// For each source the first delete that a reader of it may be told of.
    pub deleted_from: Arc<[Deleted]>,
    /// The cursor of that moment.
    pub cursor: Arc<str>,
    /// The messages, without an id.
    parts: Arc<[Bytes]>,
    /// The last part with the id that it was last given: a crowd comes with few ids.
    last: Arc<Mutex<Option<(String, Bytes)>>>,
}

impl Encoded {
    /// The messages for a reader whose cursor after them is `id`.
    pub fn parts(&self, id: &str) -> Vec<Bytes> {
        let mut parts = self.parts.to_vec();
        if let Some(bare) = parts.last_mut() {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match &*last {
                Some((known, bytes)) if known == id => *bare = bytes.clone(),
                _ => {
                    *bare = with_id(id, bare);
                    *last = Some((id.to_owned(), bare.clone()));
                }
            }
        }
        parts
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// Why a snapshot is sent, and of which sources; of all where `None`.
type Wanted = (SnapshotReason, Option<Vec<usize>>);

/// The last snapshots of everything selected, for the next reader; the newest at the end.
#[derive(Default)]
pub struct SnapshotCell(tokio::sync::Mutex<Vec<(Wanted, Encoded)>>);

impl Mirror {
    /// Takes a picture of the sources numbered in `sources` (all where `None`); `None` until every source stands.
    fn picture(&self, sources: Option<&[usize]>, selected: &Selected) -> Option<Picture> {
        let state = self.state();
        let positions = state.positions()?;
        let taken = |name: &str| {
            sources.is_none_or(|sources| sources.iter().any(|index| self.sources[*index].prefix.as_str() == name))
        };
        let revisions: BTreeMap<_, _> = state
            .catalog
            .revisions()
            .iter()
            .filter(|(name, _)| taken(name))
            .map(|(name, revision)| (name.clone(), *revision))
            .collect();
        let records = if selected.everything() && sources.is_none() {
            state.catalog.records().cloned().collect()
        } else if selected.everything() {
            state.catalog.records().filter(|record| revisions.contains_key(&record.source)).cloned().collect()
        } else {
            let services = selected.0.iter().filter_map(|service| state.catalog.service(service));
            let mut records: Vec<_> = services
                .flat_map(BTreeMap::values)
                .filter(|record| revisions.contains_key(&record.source))
                .cloned()
                .collect();
            records.sort_by(|one, other| one.key.cmp(&other.key));
            records
        };
        let deleted_from = state.sources.iter().zip(&positions);
        let deleted_from = deleted_from
            .map(|(source, position)| Deleted { epoch: source.epoch, revision: position.revision + 1 })
            .collect();
        let cursor = state.cursor();
        Some(Picture { sequence: state.ring.end(), positions, deleted_from, cursor, revisions, records })
    }

    /// A snapshot of what is `selected` of `sources` (all where `None`), whose readers select everything or else have it
    /// for themselves; `None` until every source stands.
    pub async fn snapshot(
        &self,
        reason: SnapshotReason,
        sources: Option<&[usize]>,
        selected: &Selected,
    ) -> Option<Encoded> {
        if !selected.everything() {
            return Some(encode(reason, self.picture(sources, selected)?).await);
        }
        let wanted = (reason, sources.map(<[usize]>::to_vec));
        // Whoever comes while it is being encoded waits for it, and then has it for nothing.
        let mut cell = self.snapshot.0.lock().await;
        let (start, end) = self.ring_bounds();
        cell.retain(|(_, encoded)| {
            let reached = encoded.sequence == end || (encoded.sequence >= start && encoded.bytes() >= SHARED_BYTES_MIN);
            reached && !self.moved_on(encoded)
        });
        if let Some((_, encoded)) = cell.iter().find(|(known, _)| *known == wanted) {
            return Some(encoded.clone());
        }
        let encoded = encode(reason, self.picture(sources, selected)?).await;
        if cell.len() >= SHARED_MAX {
            cell.remove(0);
        }
        cell.push((wanted, encoded.clone()));
        Some(encoded)
    }

    /// Whether a picture is so old that its cursor could age: it is taken anew now and then also without changes. So is
    /// one of a view that another snapshot has replaced, of another history perhaps.
    fn moved_on(&self, encoded: &Encoded) -> bool {
        const AGED_REVISIONS: Revision = 10_000;
        let state = self.state();
        let then = encoded.positions.iter().zip(&*encoded.deleted_from);
        state.sources.iter().zip(then).any(|(source, (then, deleted_from))| {
            source.epoch != deleted_from.epoch
                || source.position.is_some_and(|now| {
                    now.revision < then.revision || now.revision.saturating_sub(then.revision) > AGED_REVISIONS
                })
        })
    }
}

/// Encodes off the threads that serve.
async fn encode(reason: SnapshotReason, picture: Picture) -> Encoded {
    let work = move || {
        let parts = snapshot_parts(reason, &picture.records, &picture.revisions, None);
        Encoded {
            sequence: picture.sequence,
            positions: picture.positions.into(),
            deleted_from: picture.deleted_from.into(),
            cursor: picture.cursor.into(),
            parts: parts.into(),
            last: Arc::default(),
        }
    };
    tokio::task::spawn_blocking(work).await.expect("encoding does not panic, and the runtime outlives its readers")
}
