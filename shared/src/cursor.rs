//! Where a reader stands: for each source its revision and a digest of its whole view there. Any server that watches
//! the same sources can check it, and an etcd restored from a backup cannot pass for the same history.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    instance::{KeyPrefix, Revision},
    layout::Layout,
};

/// The longest text that is looked at as a cursor, in bytes: some 2,500 sources.
pub const CURSOR_BYTES_MAX: usize = 64 * 1024;

/// The first byte of every cursor, so that a later form can be told from this one.
const CURSOR_VERSION: u8 = 1;

/// A digest of a view, independent of order: the wrapping sum of one hash for each key, so that a change costs the
/// two hashes of the key that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

impl Digest {
    /// Takes in the hash of an entry that came to be.
    pub fn add(&mut self, entry_hash: u64) {
        self.0 = self.0.wrapping_add(entry_hash);
    }

    /// Takes out the hash of an entry that is no more.
    pub fn remove(&mut self, entry_hash: u64) {
        self.0 = self.0.wrapping_sub(entry_hash);
    }
}

/// A source in a cursor: a hash of its layout and prefix, since an id travels with every message. Servers that read a
/// prefix as different layouts do not watch the same source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

impl SourceId {
    /// The id of `prefix` read as `layout`: 32-bit FNV-1a over both names.
    pub fn new(layout: Layout, prefix: &KeyPrefix) -> Self {
        let bytes = layout.as_str().bytes().chain([b'=']).chain(prefix.as_str().bytes());
        Self(bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
    }
}

/// Where one source stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SourcePosition {
    /// The revision up to which everything is known.
    pub revision: Revision,
    /// The digest of the view at that revision.
    pub digest: Digest,
}

/// Where a reader stands in every source. As text it is opaque: base64url of a fixed form, equal for equal positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// etcd's cluster id.
    pub cluster: u64,
    /// The position of each source.
    pub sources: BTreeMap<SourceId, SourcePosition>,
}

/// Text that no server gave out as a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor")]
pub struct CursorError;

impl Cursor {
    /// The cursor as text: version, cluster id, then for each source in order its id, revision and digest.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(9 + self.sources.len() * 18);
        bytes.push(CURSOR_VERSION);
        bytes.extend_from_slice(&self.cluster.to_be_bytes());
        for (source, position) in &self.sources {
            bytes.extend_from_slice(&source.0.to_be_bytes());
            push_varint(&mut bytes, position.revision.cast_unsigned());
            bytes.extend_from_slice(&position.digest.0.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor back.
    ///
    /// # Errors
    /// Where `text` is none, is longer than [`CURSOR_BYTES_MAX`], or is not the one text of its positions.
    pub fn decode(text: &str) -> Result<Self, CursorError> {
        if text.len() > CURSOR_BYTES_MAX {
            return Err(CursorError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (&version, mut rest) = bytes.split_first().ok_or(CursorError)?;
        if version != CURSOR_VERSION {
            return Err(CursorError);
        }
        let cluster = u64::from_be_bytes(take(&mut rest)?);
        let mut sources = BTreeMap::new();
        while !rest.is_empty() {
            let source = SourceId(u32::from_be_bytes(take(&mut rest)?));
            let revision = take_varint(&mut rest)?.cast_signed();
            let digest = Digest(u64::from_be_bytes(take(&mut rest)?));
            sources.insert(source, SourcePosition { revision, digest });
        }
        let cursor = Self { cluster, sources };
        if cursor.encode() == text { Ok(cursor) } else { Err(CursorError) }
    }
}

/// Whether a reader at the cursor `here` has missed nothing of what a reader at `there` was told: no source of it is behind
/// there. Both are texts that a server gave out.
///
/// It compares the texts as they stand: the page has no other use for [`Cursor::decode`], which is ten times its size.
pub fn covers(here: &str, there: &str) -> bool {
    let (mut here, mut there) = (Text::new(here), Text::new(there));
    for _ in 0..9 {
        let byte = there.next();
        if byte.is_none() || here.next() != byte {
            return false;
        }
    }
    while let Some((source, revision)) = there.next_source() {
        loop {
            match here.next_source() {
                Some((own, _)) if own < source => {}
                Some((own, at)) if own == source && at >= revision => break,
                _ => return false,
            }
        }
    }
    true
}

/// The bytes of a cursor's text.
struct Text<'a> {
    digits: std::slice::Iter<'a, u8>,
    bits: u32,
    count: u32,
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Self {
        Self { digits: text.as_bytes().iter(), bits: 0, count: 0 }
    }

    /// The id and the revision of the next source.
    fn next_source(&mut self) -> Option<(u32, u64)> {
        let mut source = 0;
        for _ in 0..4 {
            source = source << 8 | u32::from(self.next()?);
        }
        let (mut revision, mut shift) = (0, 0);
        loop {
            let byte = self.next()?;
            revision |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        for _ in 0..8 {
            self.next()?;
        }
        Some((source, revision))
    }
}

impl Iterator for Text<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        while self.count < 8 {
            let digit = *self.digits.next()?;
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            self.bits = self.bits << 6 | u32::from(value);
            self.count += 6;
        }
        self.count -= 8;
        Some((self.bits >> self.count).to_le_bytes()[0])
    }
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, CursorError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CursorError)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CursorError)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], CursorError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(CursorError)?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_as_it_was_written(
            cluster: u64,
            sources in proptest::collection::btree_map(any::<u32>(), (0..i64::MAX, any::<u64>()), 0..6),
        ) {
            let sources = sources
                .into_iter()
                .map(|(source, (revision, digest))| (SourceId(source), SourcePosition { revision, digest: Digest(digest) }))
                .collect();
            let cursor = Cursor { cluster, sources };
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        }

        #[test]
        fn a_cursor_covers_what_its_positions_say(
            here in proptest::collection::btree_map(0_u32..4, 0..3_i64, 0..5),
            there in proptest::collection::btree_map(0_u32..4, 0..3_i64, 0..5),
        ) {
            let cursor = |revisions: &BTreeMap<u32, i64>| {
                let position = |revision| SourcePosition { revision: revision * 100, digest: Digest(7) };
                let sources = revisions.iter().map(|(&source, &at)| (SourceId(source), position(at))).collect();
                Cursor { cluster: 1, sources }.encode()
            };
            let expected = there.iter().all(|(source, at)| here.get(source).is_some_and(|own| own >= at));
            prop_assert_eq!(covers(&cursor(&here), &cursor(&there)), expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            covers(&text, &text);
            if let Ok(cursor) = Cursor::decode(&text) {
                prop_assert_eq!(cursor.encode(), text);
            }
        }
    }

    #[test]
    fn a_cursor_covers_what_is_behind_it_in_every_source() {
        let cursor = |cluster, sources: &[(u32, Revision)]| {
            let position = |revision| SourcePosition { revision, digest: Digest(u64::MAX) };
            let sources = sources.iter().map(|&(source, revision)| (SourceId(source), position(revision))).collect();
            Cursor { cluster, sources }.encode()
        };
        let here = cursor(1, &[(1, 10), (2, 300), (u32::MAX, i64::MAX)]);
        assert!(covers(&here, &here));
        assert!(covers(&here, &cursor(1, &[(1, 9), (2, 300)])) && covers(&here, &cursor(1, &[(2, 3)])));
        assert!(covers(&here, &cursor(1, &[])));
        assert!(!covers(&here, &cursor(1, &[(1, 9), (2, 301)])), "the second source is behind");
        assert!(!covers(&here, &cursor(1, &[(3, 1)])), "a source is not known here");
        assert!(!covers(&here, &cursor(2, &[(1, 9)])), "it is another cluster's");
        assert!(!covers(&here, "") && !covers("", &here) && !covers("?", "?"));
    }

    #[test]
    fn a_digest_does_not_know_order() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        one.add(u64::MAX);
        one.add(7);
        one.remove(u64::MAX);
        other.add(7);
        assert_eq!(one, other);
    }
}
