//! One message of the stream, made once and shared by all who read everything; encoded anew only for streams that
//! select services or still replay.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use rollcall_shared::{
    Cause, Change, Delta, Departure, Record, RegistryEvent, Revision, Snapshot, SnapshotReason, SourcePosition,
};
use serde::Serialize;

/// How many records one part of a snapshot holds.
pub const PART_RECORDS: usize = 1_000;

/// One message, or the parts of one snapshot.
#[derive(Debug)]
pub struct Frame {
    /// Its place in the ring.
    pub sequence: u64,
    /// The number of the source it is about.
    pub source: usize,
    /// Where that source stands after it.
    pub position: SourcePosition,
    /// The cursor after it, for those who were told everything before it.
    pub cursor: String,
    /// What it says.
    pub kind: FrameKind,
    /// The same as bytes of the stream, for those who read everything.
    pub bytes: Bytes,
}

/// What a frame says.
#[derive(Debug)]
pub enum FrameKind {
    /// A revision changed something.
    Changed {
        /// What.
        delta: Arc<Delta>,
        /// The records as they stood before, of keys that went from one service to another.
        moved: Vec<Arc<Record>>,
    },
    /// The source's whole view is another one.
    Replaced {
        /// Why.
        reason: SnapshotReason,
        /// All there is.
        records: Arc<[Arc<Record>]>,
        /// The source and its revision.
        revisions: BTreeMap<String, Revision>,
    },
    /// Why a key left.
    Cause {
        /// The service it counted for.
        service: String,
        /// Why.
        cause: Cause,
        /// Which delete it is of.
        of: Deleted,
    },
}

/// A delete in a source: the number of snapshots that had replaced the source's view by then, and its revision. A
/// revision alone may be of a history that a snapshot has put another one in the place of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deleted {
    /// How many snapshots came before it.
    pub epoch: u64,
    /// The revision that deleted.
    pub revision: Revision,
}

/// The services that a stream selects; everything where empty.
#[derive(Debug, Clone, Default)]
pub struct Selected(pub HashSet<String>);

impl Selected {
    /// Whether it selects everything.
    pub fn everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects `service`.
    pub fn has(&self, service: &str) -> bool {
        self.everything() || self.0.contains(service)
    }

    /// Of `delta` what is selected, continuing from `after`; `None` where nothing is. A key that went to a service
    /// which is not selected has left.
    pub fn of_delta(&self, delta: &Delta, moved: &[Arc<Record>], after: Revision) -> Option<Delta> {
        let changes: Vec<Change> = delta
            .changes
            .iter()
            .filter_map(|change| {
                if self.has(change.service()) {
                    return Some(change.clone());
                }
                let before = moved.iter().find(|before| before.key == change.key() && self.has(&before.service))?;
                Some(Change::Delete(Departure {
                    key: before.key.clone(),
                    service: before.service.clone(),
                    last: Arc::clone(before),
                }))
            })
            .collect();
        (!changes.is_empty()).then(|| Delta { source: delta.source.clone(), after, revision: delta.revision, changes })
    }
}

impl Frame {
    /// A frame with its bytes made.
    pub fn new(sequence: u64, source: usize, position: SourcePosition, kind: FrameKind, cursor: String) -> Self {
        let bytes = match &kind {
            FrameKind::Changed { delta, .. } => message(Some(&cursor), &Tagged::delta(delta)),
            FrameKind::Replaced { reason, records, revisions } => {
                let parts = snapshot_parts(*reason, records, revisions, Some(&cursor));
                let mut bytes = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                for part in &parts {
                    bytes.extend_from_slice(part);
                }
                bytes.freeze()
            }
            FrameKind::Cause { cause, .. } => message(None, &RegistryEvent::Cause(cause.clone())),
        };
        Self { sequence, source, position, cursor, kind, bytes }
    }

    /// The services that it is about; a snapshot is about all.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let (delta, moved, cause) = match &self.kind {
            FrameKind::Changed { delta, moved } => (Some(delta), &**moved, None),
            FrameKind::Replaced { .. } => (None, &[][..], None),
            FrameKind::Cause { service, .. } => (None, &[][..], Some(&**service)),
        };
        let changed = delta.into_iter().flat_map(|delta| delta.changes.iter().map(Change::service));
        changed.chain(moved.iter().map(|before| &*before.service)).chain(cause)
    }

    /// The frame for a stream of its own: with `id` in place of the shared cursor, and only what is `selected`,
    /// continuing from `after`. `None` where nothing of it is selected.
    pub fn encode_for(&self, selected: &Selected, after: Revision, id: &str) -> Option<Bytes> {
        self.kind.encode_for(selected, after, id)
    }
}

impl FrameKind {
    /// See [`Frame::encode_for`].
    pub fn encode_for(&self, selected: &Selected, after: Revision, id: &str) -> Option<Bytes> {
        match self {
            Self::Changed { delta, .. } if selected.everything() => Some(message(Some(id), &Tagged::delta(delta))),
            Self::Changed { delta, moved } => {
                let delta = selected.of_delta(delta, moved, after)?;
                Some(message(Some(id), &Tagged::delta(&delta)))
            }
            Self::Replaced { reason, records, revisions } => {
                let records: Vec<_> = records.iter().filter(|record| selected.has(&record.service)).cloned().collect();
                let parts = snapshot_parts(*reason, &records, revisions, Some(id));
                Some(parts.concat().into())
            }
            Self::Cause { service, cause, .. } => {
                selected.has(service).then(|| message(None, &RegistryEvent::Cause(cause.clone())))
            }
        }
    }
}

/// A delta as a message, without cloning it into a [`RegistryEvent`].
#[derive(Serialize)]
struct Tagged<'a> {
    r#type: &'static str,
    source: &'a str,
    after: Revision,
    revision: Revision,
    changes: &'a [Change],
}

impl<'a> Tagged<'a> {
    fn delta(delta: &'a Delta) -> Self {
        let Delta { source, after, revision, changes } = delta;
        Self { r#type: "delta", source, after: *after, revision: *revision, changes }
    }
}

/// One plain message of the stream: `id` where there is one, and the JSON of `body` in one `data` line, which it fits
/// since JSON escapes line ends.
pub fn message(id: Option<&str>, body: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(512);
    if let Some(id) = id {
        bytes.extend_from_slice(b"id: ");
        bytes.extend_from_slice(id.as_bytes());
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut bytes, body).expect("the model has string keys only, and a Vec takes every byte");
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// One named event of the stream, without an id.
pub fn named(name: &str, body: &impl Serialize) -> Bytes {
    let mut bytes = format!("event: {name}\ndata: ").into_bytes();
    serde_json::to_writer(&mut bytes, body).expect("the model has string keys only, and a Vec takes every byte");
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// `message`, which has no id, with `id`.
pub fn with_id(id: &str, message: &[u8]) -> Bytes {
    [b"id: ", id.as_bytes(), b"\n", message].concat().into()
}

/// A snapshot as messages: parts of [`PART_RECORDS`], of which only the last carries `id`, where there is one.
pub fn snapshot_parts(
    reason: SnapshotReason,
    records: &[Arc<Record>],
    revisions: &BTreeMap<String, Revision>,
    id: Option<&str>,
) -> Vec<Bytes> {
    let count = records.len().div_ceil(PART_RECORDS).max(1);
    (0..count)
        .map(|part| {
            let start = part * PART_RECORDS;
            let end = records.len().min(start + PART_RECORDS);
            let more = part + 1 < count;
            let event = RegistryEvent::Snapshot(Snapshot {
                reason,
                revisions: revisions.clone(),
                records: records[start..end].to_vec(),
                part: u32::try_from(part).expect("no etcd holds four billion thousands of keys"),
                more,
            });
            message(id.filter(|_| !more), &event)
        })
        .collect()
}
