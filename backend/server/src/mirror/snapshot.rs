//! Snapshots for readers: the one of everything is encoded once and shared for as long as the ring reaches from it to
//! now; any other is made for its reader.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rollcall_shared::{Record, Revision, SnapshotReason, SourcePosition};

use super::{
    Mirror,
    frame::{Deleted, Selected, snapshot_parts},
};

/// From this size on, a snapshot of everything is shared though changes have come since: they follow from the ring.
const SHARED_BYTES_MIN: usize = 1024 * 1024;

/// All there is of some sources at one moment.
pub struct Picture {
    /// The position in the ring from which to go on.
    pub sequence: u64,
    /// Where each source stands, in the mirror's order.
    pub positions: Vec<SourcePosition>,
    /// For each source the first delete that a reader of the picture may be told of.
    pub deleted_from: Vec<Deleted>,
    /// The cursor of that moment.
    pub cursor: String,
    /// The sources taken and their revisions.
    pub revisions: BTreeMap<String, Revision>,
    /// Their records that are selected.
    pub records: Vec<Arc<Record>>,
}

/// A snapshot as it goes out.
#[derive(Clone)]
pub struct Encoded {
    /// The position in the ring from which to go on.
    pub sequence: u64,
    /// Where each source stands.
    pub positions: Arc<[SourcePosition]>,
    /// For each source the first delete that a reader of it may be told of.
    pub deleted_from: Arc<[Deleted]>,
    /// The messages.
    pub parts: Arc<[Bytes]>,
}

/// The last snapshot of everything, for the next reader.
#[derive(Default)]
pub struct SnapshotCell(tokio::sync::Mutex<BTreeMap<SnapshotReason, Encoded>>);

impl Mirror {
    /// Takes a picture of the sources numbered in `sources` (all where `None`); `None` until every source stands.
    pub fn picture(&self, sources: Option<&[usize]>, selected: &Selected) -> Option<Picture> {
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

    /// The snapshot of everything, shared where it can be; `None` until every source stands.
    pub async fn shared_snapshot(&self, reason: SnapshotReason) -> Option<Encoded> {
        // Whoever comes while it is being encoded waits for it, and then has it for nothing.
        let mut cell = self.snapshot.0.lock().await;
        if let Some(encoded) = cell.get(&reason) {
            let (start, end) = self.ring_bounds();
            let bytes: usize = encoded.parts.iter().map(Bytes::len).sum();
            let reached = encoded.sequence == end || (encoded.sequence >= start && bytes >= SHARED_BYTES_MIN);
            if reached && !self.moved_on(encoded) {
                return Some(encoded.clone());
            }
        }
        let picture = self.picture(None, &Selected::default())?;
        let encoded = encode(reason, picture).await;
        cell.insert(reason, encoded.clone());
        Some(encoded)
    }

    /// Whether a picture is so old that its cursor could age: it is taken anew now and then also without changes.
    fn moved_on(&self, encoded: &Encoded) -> bool {
        const AGED_REVISIONS: Revision = 10_000;
        let state = self.state();
        state.sources.iter().zip(&*encoded.positions).any(|(source, then)| {
            source.position.is_some_and(|now| {
                now.revision < then.revision || now.revision.saturating_sub(then.revision) > AGED_REVISIONS
            })
        })
    }
}

/// Encodes off the threads that serve.
async fn encode(reason: SnapshotReason, picture: Picture) -> Encoded {
    let work = move || {
        let parts = snapshot_parts(reason, &picture.records, &picture.revisions, &picture.cursor);
        Encoded {
            sequence: picture.sequence,
            positions: picture.positions.into(),
            deleted_from: picture.deleted_from.into(),
            parts: parts.into(),
        }
    };
    tokio::task::spawn_blocking(work).await.expect("encoding does not panic, and the runtime outlives its readers")
}
