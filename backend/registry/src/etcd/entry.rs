//! A key as etcd holds it, raw, and the digest of many. Knows nothing of layouts: what a value means is decided later.

use std::collections::HashMap;

use bytes::Bytes;
use etcd_client::proto::PbKeyValue;
use rollcall_shared::{Digest, Revision, SourcePosition};
use xxhash_rust::xxh3::Xxh3Default;

/// One key and value with its revisions and its lease, as etcd's `KeyValue` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease, 0 for none.
    pub lease: i64,
    /// The revision at which the key came to be.
    pub create_revision: Revision,
    /// The revision of its last change.
    pub mod_revision: Revision,
}

impl From<PbKeyValue> for Entry {
    fn from(kv: PbKeyValue) -> Self {
        Self {
            key: kv.key.into(),
            value: kv.value.into(),
            lease: kv.lease,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
        }
    }
}

impl Entry {
    /// The entry's share in the digest of a view: over everything that etcd tells of it.
    pub fn hash(&self) -> u64 {
        let mut hasher = Xxh3Default::new();
        hasher.update(&(self.key.len() as u64).to_le_bytes());
        hasher.update(&self.key);
        hasher.update(&self.lease.to_le_bytes());
        hasher.update(&self.create_revision.to_le_bytes());
        hasher.update(&self.mod_revision.to_le_bytes());
        hasher.update(&self.value);
        hasher.digest()
    }
}

/// What one event of a watch says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChange {
    /// The key holds this now.
    Put(Entry),
    /// The key is gone. etcd tells neither its value nor its lease.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl EntryChange {
    /// The revision that made the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// A source's view at a revision, as far as it takes to know its digest: one hash for each key.
#[derive(Debug, Clone, Default)]
pub struct View {
    position: SourcePosition,
    hashes: HashMap<Bytes, u64>,
}

impl View {
    /// The view of `entries` as they stood at `revision`.
    pub fn new(revision: Revision, entries: &[Entry]) -> Self {
        let mut view = Self {
            position: SourcePosition { revision, digest: Digest::default() },
            hashes: HashMap::with_capacity(entries.len()),
        };
        for entry in entries {
            view.put(entry);
        }
        view
    }

    /// Where it stands.
    pub fn position(&self) -> SourcePosition {
        self.position
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Takes in what `revision` changed. A delete of a key that is not here is left out of `changes`: it was put and
    /// deleted again where this view could not see it.
    pub fn apply(&mut self, revision: Revision, changes: &mut Vec<EntryChange>) {
        changes.retain(|change| match change {
            EntryChange::Put(entry) => {
                self.put(entry);
                true
            }
            EntryChange::Delete { key, .. } => match self.hashes.remove(key) {
                Some(hash) => {
                    self.position.digest.remove(hash);
                    true
                }
                None => false,
            },
        });
        self.position.revision = revision;
    }

    /// Nothing else has happened up to `revision`.
    pub fn advance(&mut self, revision: Revision) {
        self.position.revision = self.position.revision.max(revision);
    }

    fn put(&mut self, entry: &Entry) {
        let hash = entry.hash();
        if let Some(before) = self.hashes.insert(entry.key.clone(), hash) {
            self.position.digest.remove(before);
        }
        self.position.digest.add(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn entry(key: &str, value: &str, revision: Revision) -> Entry {
        Entry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            lease: 7,
            create_revision: revision,
            mod_revision: revision,
        }
    }

    #[test]
    fn a_view_that_was_walked_to_has_the_digest_of_one_that_was_listed() {
        let mut walked = View::new(5, &[entry("a", "1", 3), entry("b", "1", 5)]);
        walked.apply(6, &mut vec![EntryChange::Put(entry("b", "2", 6)), EntryChange::Put(entry("c", "1", 6))]);
        walked.apply(7, &mut vec![EntryChange::Delete { key: Bytes::from_static(b"a"), revision: 7 }]);
        let listed = View::new(7, &[entry("c", "1", 6), entry("b", "2", 6)]);
        assert_eq!(walked.position(), listed.position());
        assert_ne!(listed.position().digest, View::new(7, &[entry("b", "2", 6)]).position().digest);
    }

    #[test]
    fn every_field_counts_in_the_digest() {
        let original = entry("a", "1", 3);
        let others = [
            Entry { key: Bytes::from_static(b"b"), ..original.clone() },
            Entry { value: Bytes::from_static(b"2"), ..original.clone() },
            Entry { lease: 8, ..original.clone() },
            Entry { create_revision: 2, ..original.clone() },
            Entry { mod_revision: 4, ..original.clone() },
        ];
        for other in others {
            assert_ne!(original.hash(), other.hash(), "{other:?}");
        }
    }

    #[test]
    fn a_delete_of_what_was_never_seen_is_no_change() {
        let mut view = View::new(5, &[]);
        let mut changes = vec![EntryChange::Delete { key: Bytes::from_static(b"a"), revision: 6 }];
        view.apply(6, &mut changes);
        assert!(changes.is_empty());
        assert_eq!(view.position().revision, 6);
    }
}
