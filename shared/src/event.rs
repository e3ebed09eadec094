//! What the stream says, message by message: the ordered part of `GET /api/v1/events`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{instance::Revision, record::Record};

/// One ordered message of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "Wire")]
pub enum RegistryEvent {
    /// All there is of some sources.
    Snapshot(Snapshot),
    /// What one etcd revision changed in one source.
    Delta(Delta),
    /// Nothing else has happened up to here.
    Progress(Progress),
    /// Why an instance left.
    Cause(Cause),
}

/// A message as it is read: all members that any kind has. `tag` alone would have serde keep each message in a form of
/// its own before it knows the kind, which a snapshot of thousands of records pays for twice, and so does the page's size.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: Kind,
    reason: Option<SnapshotReason>,
    revisions: Option<BTreeMap<String, Revision>>,
    records: Option<Vec<Arc<Record>>>,
    part: Option<u32>,
    more: Option<bool>,
    source: Option<String>,
    after: Option<Revision>,
    revision: Option<Revision>,
    changes: Option<Vec<Change>>,
    key: Option<String>,
    cause: Option<CauseKind>,
    evidence: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Snapshot,
    Delta,
    Progress,
    Cause,
}

impl TryFrom<Wire> for RegistryEvent {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        Ok(match wire.kind {
            Kind::Snapshot => Self::Snapshot(Snapshot {
                reason: wire.reason.ok_or("a snapshot has a `reason`")?,
                revisions: wire.revisions.ok_or("a snapshot has `revisions`")?,
                records: wire.records.ok_or("a snapshot has `records`")?,
                part: wire.part.ok_or("a snapshot has a `part`")?,
                more: wire.more.ok_or("a snapshot has `more`")?,
            }),
            Kind::Delta => Self::Delta(Delta {
                source: wire.source.ok_or("a delta has a `source`")?,
                after: wire.after.ok_or("a delta has `after`")?,
                revision: wire.revision.ok_or("a delta has a `revision`")?,
                changes: wire.changes.ok_or("a delta has `changes`")?,
            }),
            Kind::Progress => {
                Self::Progress(Progress { revisions: wire.revisions.ok_or("a progress has `revisions`")? })
            }
            Kind::Cause => Self::Cause(Cause {
                key: wire.key.ok_or("a cause has a `key`")?,
                revision: wire.revision.ok_or("a cause has a `revision`")?,
                cause: wire.cause.ok_or("a cause has a `cause`")?,
                evidence: wire.evidence.ok_or("a cause has `evidence`")?,
            }),
        })
    }
}

/// Replaces all that the reader had of the sources that `revisions` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Why it comes.
    pub reason: SnapshotReason,
    /// The sources it covers, by prefix, each at the revision it was read.
    pub revisions: BTreeMap<String, Revision>,
    /// This part's records.
    pub records: Vec<Arc<Record>>,
    /// The number of this part, from 0. Part 0 throws away what an interrupted snapshot left.
    pub part: u32,
    /// Whether more parts follow, with nothing between them.
    pub more: bool,
}

/// Why a reader gets a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotReason {
    /// It is new here, or the source is new to it.
    Connected,
    /// The history between its cursor and now is gone from etcd.
    Compacted,
    /// etcd came back from a backup: its history is another one than the reader saw.
    Restored,
    /// It read so slowly that what it had not read yet was let go.
    Lagged,
    /// Its cursor is another cluster's, or no server ever gave it out.
    UnknownCursor,
}

/// Everything that one etcd revision changed in one source, among what the stream selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The source, by its prefix.
    pub source: String,
    /// Nothing selected changed in the source after this revision and before `revision`.
    pub after: Revision,
    /// The revision that made the changes.
    pub revision: Revision,
    /// The changes, in etcd's order.
    pub changes: Vec<Change>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The key holds this now.
    Put(Arc<Record>),
    /// The key is gone.
    Delete(Departure),
}

/// A key that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The key.
    pub key: String,
    /// The service it counted for.
    pub service: String,
    /// What stood under it last: etcd's delete events carry neither value nor lease.
    pub last: Arc<Record>,
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(record) => &record.key,
            Self::Delete(departure) => &departure.key,
        }
    }

    /// The service it counts, or counted, for.
    pub fn service(&self) -> &str {
        match self {
            Self::Put(record) => &record.service,
            Self::Delete(departure) => &departure.service,
        }
    }
}

/// Nothing else has happened in these sources up to these revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The sources, by prefix.
    pub revisions: BTreeMap<String, Revision>,
}

/// Why an instance left; follows its delete as soon as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The key that was deleted.
    pub key: String,
    /// The revision that deleted it.
    pub revision: Revision,
    /// The cause.
    pub cause: CauseKind,
    /// What it rests on, in one sentence.
    pub evidence: String,
}

/// The causes an instance's leaving can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// The key was deleted while its lease lived on.
    Deregistered,
    /// Its lease ran out unrenewed: the program crashed or was cut off.
    Expired,
    /// Its lease was revoked before its time was up.
    Revoked,
    /// It cannot be known.
    Unknown,
}

impl CauseKind {
    /// The word of the stream.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deregistered => "deregistered",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
        }
    }
}
