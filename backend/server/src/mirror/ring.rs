//! The newest frames, bounded in bytes, and where each source stood before the oldest of them.
//!
//! Owns the frames, and for each source which of them are its own: they are looked through under the mirror's lock, by
//! every reader that comes back. Must not know who reads.

use std::{collections::VecDeque, sync::Arc};

use rollcall_shared::{Cause, Revision, SourcePosition};

use super::{
    Reading,
    frame::{Deleted, Frame, FrameKind},
};

/// How many bytes of frames are kept for readers that are behind or come back.
pub const RING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a frame costs beside its encoded bytes: its decoded form, roughly as large, and what holds both.
const FRAME_OVERHEAD_BYTES: usize = 512;

/// The ring.
pub struct Ring {
    frames: VecDeque<Arc<Frame>>,
    /// For each source, its own among them.
    own: Vec<Own>,
    start: u64,
    bytes: usize,
    bytes_max: usize,
    told_until: u64,
    /// Where each source stood before the oldest frame.
    base: Vec<SourcePosition>,
    /// For each source up to where it was last taken up anew without being told what came and went on the way there.
    passed_over: Vec<Option<SourcePosition>>,
}

/// The sequence numbers of one source's frames, in order.
#[derive(Default, Clone)]
struct Own {
    all: VecDeque<u64>,
    /// Those that are no causes.
    changes: VecDeque<u64>,
    /// Those that are snapshots. From each to the next, revisions only grow.
    replaced: VecDeque<u64>,
}

impl Own {
    fn each(&mut self, kind: &FrameKind) -> impl Iterator<Item = &mut VecDeque<u64>> {
        let changes = !matches!(kind, FrameKind::Cause { .. });
        let replaced = matches!(kind, FrameKind::Replaced { .. });
        let of_kind = [(&mut self.all, true), (&mut self.changes, changes), (&mut self.replaced, replaced)];
        of_kind.into_iter().filter_map(|(sequences, is)| is.then_some(sequences))
    }
}

/// How many of `sequences` come before `sequence`.
fn count_before(sequences: &VecDeque<u64>, sequence: u64) -> usize {
    sequences.partition_point(|own| *own < sequence)
}

fn cost(frame: &Frame) -> usize {
    frame.bytes.len() * 2 + FRAME_OVERHEAD_BYTES
}

impl Ring {
    /// An empty ring that keeps up to `bytes_max`, and the newest frame and those not yet told whatever their size.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            own: Vec::new(),
            start: 0,
            bytes: 0,
            bytes_max,
            told_until: 0,
            base: Vec::new(),
            passed_over: Vec::new(),
        }
    }

    /// Begins where every source stands for the first time.
    pub fn begin(&mut self, base: Vec<SourcePosition>) {
        self.passed_over = vec![None; base.len()];
        // There may be causes already.
        self.own.resize(self.own.len().max(base.len()), Own::default());
        self.base = base;
    }

    /// The sequence number of the oldest frame.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The sequence number that the next frame gets.
    pub fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    /// The bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in that source number `source` went on to `position` with its view as it was, and what came and went on the
    /// way there is not known.
    pub fn pass_over(&mut self, source: usize, position: SourcePosition) {
        if let Some(passed_over) = self.passed_over.get_mut(source) {
            *passed_over = Some(position);
        }
    }

    /// The revision to which source number `source` went on in that way last; 0 where it never did.
    pub fn passed_over(&self, source: usize) -> Revision {
        self.passed_over.get(source).copied().flatten().map_or(0, |passed_over| passed_over.revision)
    }

    /// Takes in a frame about source number `source`, after which it stands at `position` and everybody at `cursor`.
    pub fn push(&mut self, source: usize, position: SourcePosition, kind: FrameKind, cursor: String) {
        if matches!(kind, FrameKind::Replaced { .. }) {
            self.passed_over[source] = None;
        }
        let frame = Frame::new(self.end(), source, position, kind, cursor);
        self.bytes += cost(&frame);
        if self.own.len() <= source {
            self.own.resize(source + 1, Own::default());
        }
        for sequences in self.own[source].each(&frame.kind) {
            sequences.push_back(frame.sequence);
        }
        self.frames.push_back(Arc::new(frame));
        while self.bytes > self.bytes_max && self.frames.len() > 1 && self.start < self.told_until {
            let oldest = self.frames.pop_front().expect("there are two at the least");
            self.bytes -= cost(&oldest);
            self.start += 1;
            for sequences in self.own[oldest.source].each(&oldest.kind) {
                sequences.pop_front();
            }
            if !matches!(oldest.kind, FrameKind::Cause { .. }) {
                self.base[oldest.source] = oldest.position;
            }
        }
    }

    /// Takes in that readers may read up to `end`: what is newer stays, whatever its size.
    pub fn tell(&mut self, end: u64) {
        self.told_until = end;
    }

    /// Takes in why a key of `service` left source number `source` with the delete `of`.
    pub fn push_cause(&mut self, source: usize, service: String, cause: Cause, of: Deleted) {
        let kind = FrameKind::Cause { service, cause, of };
        self.push(source, SourcePosition::default(), kind, String::new());
    }

    /// What stands from `position` on, before `until`, up to `bytes_max` of encoded bytes and one frame at the least.
    pub fn read(&self, position: u64, until: u64, bytes_max: usize) -> Reading {
        let Some(skip) = position.checked_sub(self.start) else { return Reading::Lagged };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.frames.len());
        let mut bytes = 0;
        let mut frames = Vec::new();
        for frame in self.frames.range(skip..).take_while(|frame| frame.sequence < until) {
            if !frames.is_empty() && bytes + frame.bytes.len() > bytes_max {
                break;
            }
            bytes += frame.bytes.len();
            frames.push(Arc::clone(frame));
        }
        if frames.is_empty() { Reading::UpToDate } else { Reading::Frames(frames) }
    }

    fn frame(&self, sequence: u64) -> &Frame {
        let index = sequence.checked_sub(self.start).and_then(|index| usize::try_from(index).ok());
        &self.frames[index.expect("a source's own go with their frames")]
    }

    /// How many snapshots of `source` stand in the frames from `from` on.
    pub fn replaced_since(&self, source: usize, from: u64) -> u64 {
        let replaced = &self.own[source].replaced;
        (replaced.len() - count_before(replaced, from)) as u64
    }

    /// Whether a cause stands in the frames from `from` on of a delete before those that `since` says for its source.
    pub fn has_cause_before(&self, from: u64, since: &[Deleted]) -> bool {
        let latest = self.frames.iter().rev().take_while(|frame| frame.sequence >= from);
        latest.into_iter().any(|frame| matches!(&frame.kind, FrameKind::Cause { of, .. } if *of < since[frame.source]))
    }

    /// From where on the ring knows each change of `source`: its last snapshot, or where it stood before the oldest frame.
    pub fn known_since(&self, source: usize) -> SourcePosition {
        let replaced = self.own[source].replaced.back();
        let since = replaced.map_or(self.base[source], |sequence| self.frame(*sequence).position);
        self.passed_over[source].filter(|passed_over| passed_over.revision > since.revision).unwrap_or(since)
    }

    /// Where source number `source` stood before the frame `sequence`.
    pub fn position_before(&self, source: usize, sequence: u64) -> SourcePosition {
        let changes = &self.own[source].changes;
        let earlier = count_before(changes, sequence).checked_sub(1);
        earlier.map_or(self.base[source], |earlier| self.frame(changes[earlier]).position)
    }

    /// The first frame from `from` on, which has not left the ring, that changes anything.
    pub fn next_change(&self, from: u64) -> Option<&Frame> {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.frames.len());
        let mut frames = self.frames.range(skip..).map(|frame| &**frame);
        frames.find(|frame| !matches!(frame.kind, FrameKind::Cause { .. }))
    }

    /// The first frame from `from` on that changes source number `source`; the end where there is none.
    pub fn first_change(&self, source: usize, from: u64) -> u64 {
        let changes = &self.own[source].changes;
        changes.get(count_before(changes, from)).copied().unwrap_or(self.end())
    }

    /// The revision from which the first change of source number `source` from `from` on continues; none where there is
    /// no such change, and 0 where it is a snapshot.
    pub fn after_at(&self, source: usize, from: u64) -> Option<Revision> {
        let changes = &self.own[source].changes;
        let first = changes.get(count_before(changes, from))?;
        Some(if let FrameKind::Changed { delta, .. } = &self.frame(*first).kind { delta.after } else { 0 })
    }

    /// The first frame about `source`, a cause or another, that a reader does not know who knows it as of `known`, or
    /// the end where there is none; `None` where the ring does not tell.
    ///
    /// A position holds from the frame that made it until the source's next change, so that a revision which only
    /// progress went through is found too; the digest must be that of the view there.
    pub fn after(&self, source: usize, known: SourcePosition) -> Option<u64> {
        let Own { all, changes, replaced } = &self.own[source];
        let position = |index: usize| self.frame(changes[index]).position;
        // Back from snapshot to snapshot. What happened right before one the ring does not know.
        let mut end = changes.len();
        for begin in replaced.iter().rev().map(|sequence| Some(count_before(changes, *sequence))).chain([None]) {
            let begin_or_base = begin.unwrap_or_default();
            // Between two snapshots revisions grow: the one place where the reader may stand is the last not beyond it.
            let count = partition_point(begin_or_base..end, |index| position(index).revision <= known.revision);
            let there = match count.checked_sub(1) {
                Some(last) if last >= begin_or_base => Some((position(last), count_before(all, changes[last]) + 1)),
                _ => begin.is_none().then(|| (self.base[source], 0)),
            };
            let followed_by_snapshot = count == end && end < changes.len();
            if let Some((there, next)) = there
                && stands(there, known)
                && !followed_by_snapshot
            {
                // Between there and the next change something came and went of which the reader may know a part.
                let passed_over = self.passed_over[source].is_some_and(|until| {
                    there.revision < until.revision
                        && (count == end || position(count).revision > until.revision)
                        && known.revision < until.revision
                });
                return (!passed_over).then(|| all.get(next).copied().unwrap_or(self.end()));
            }
            end = begin_or_base;
        }
        None
    }
}

/// The first of `range` for which `before` does not hold, which holds for all those before it.
fn partition_point(range: std::ops::Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut start, mut end) = (range.start, range.end);
    while start < end {
        let middle = start.midpoint(end);
        if before(middle) { start = middle + 1 } else { end = middle }
    }
    start
}

fn stands(position: SourcePosition, known: SourcePosition) -> bool {
    position.digest == known.digest && position.revision <= known.revision
}
