//! The newest frames, bounded in bytes, and where each source stood before the oldest of them.

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
    start: u64,
    bytes: usize,
    bytes_max: usize,
    told_until: u64,
    /// Where each source stood before the oldest frame.
    base: Vec<SourcePosition>,
    /// For each source up to where it was last taken up anew without being told what came and went on the way there.
    passed_over: Vec<Option<SourcePosition>>,
}

fn cost(frame: &Frame) -> usize {
    frame.bytes.len() * 2 + FRAME_OVERHEAD_BYTES
}

impl Ring {
    /// An empty ring that keeps up to `bytes_max`, and the newest frame and those not yet told whatever their size.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
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
        self.frames.push_back(Arc::new(frame));
        while self.bytes > self.bytes_max && self.frames.len() > 1 && self.start < self.told_until {
            let oldest = self.frames.pop_front().expect("there are two at the least");
            self.bytes -= cost(&oldest);
            self.start += 1;
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

    /// How many snapshots of `source` stand in the frames from `from` on.
    pub fn replaced_since(&self, source: usize, from: u64) -> u64 {
        let latest = self.frames.iter().rev().take_while(|frame| frame.sequence >= from);
        let replaced = |frame: &&Arc<Frame>| frame.source == source && matches!(frame.kind, FrameKind::Replaced { .. });
        latest.filter(replaced).count() as u64
    }

    /// Whether a cause stands in the frames from `from` on of a delete before those that `since` says for its source.
    pub fn has_cause_before(&self, from: u64, since: &[Deleted]) -> bool {
        let latest = self.frames.iter().rev().take_while(|frame| frame.sequence >= from);
        latest.into_iter().any(|frame| matches!(&frame.kind, FrameKind::Cause { of, .. } if *of < since[frame.source]))
    }

    /// From where on the ring knows each change of `source`: its last snapshot, or where it stood before the oldest frame.
    pub fn known_since(&self, source: usize) -> SourcePosition {
        let replaced = |frame: &&Arc<Frame>| frame.source == source && matches!(frame.kind, FrameKind::Replaced { .. });
        let since = self.frames.iter().rev().find(replaced).map_or(self.base[source], |frame| frame.position);
        self.passed_over[source].filter(|passed_over| passed_over.revision > since.revision).unwrap_or(since)
    }

    /// Where source number `source` stood before the frame `sequence`.
    pub fn position_before(&self, source: usize, sequence: u64) -> SourcePosition {
        let earlier = self.frames.iter().rev().find(|frame| {
            frame.sequence < sequence && frame.source == source && !matches!(frame.kind, FrameKind::Cause { .. })
        });
        earlier.map_or(self.base[source], |frame| frame.position)
    }

    /// The first frame from `from` on, which has not left the ring, that changes anything.
    pub fn next_change(&self, from: u64) -> Option<&Frame> {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.frames.len());
        let mut frames = self.frames.range(skip..).map(|frame| &**frame);
        frames.find(|frame| !matches!(frame.kind, FrameKind::Cause { .. }))
    }

    /// The first frame from `from` on that changes source number `source`; the end where there is none.
    pub fn first_change(&self, source: usize, from: u64) -> u64 {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.frames.len());
        let changes = |frame: &&Arc<Frame>| frame.source == source && !matches!(frame.kind, FrameKind::Cause { .. });
        self.frames.range(skip..).find(changes).map_or(self.end(), |frame| frame.sequence)
    }

    /// The revision from which the first change of source number `source` from `from` on continues; none where there is
    /// no such change, and 0 where it is a snapshot.
    pub fn after_at(&self, source: usize, from: u64) -> Option<Revision> {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.frames.len());
        self.frames.range(skip..).filter(|frame| frame.source == source).find_map(|frame| match &frame.kind {
            FrameKind::Changed { delta, .. } => Some(delta.after),
            FrameKind::Replaced { .. } => Some(0),
            FrameKind::Cause { .. } => None,
        })
    }

    /// The first frame about `source`, a cause or another, that a reader does not know who knows it as of `known`, or
    /// the end where there is none; `None` where the ring does not tell.
    ///
    /// A position holds from the frame that made it until the source's next change, so that a revision which only
    /// progress went through is found too; the digest must be that of the view there.
    pub fn after(&self, source: usize, known: SourcePosition) -> Option<u64> {
        let mut next: Option<&Frame> = None;
        let mut from = self.end();
        // Between `there` and the next frame something came and went of which the reader may know a part.
        let passed_over = |there: SourcePosition, next: Option<&Frame>| {
            self.passed_over[source].is_some_and(|until| {
                let between =
                    there.revision < until.revision && next.is_none_or(|next| next.position.revision > until.revision);
                between && known.revision < until.revision
            })
        };
        let before_next = |next: Option<&Frame>| match next {
            Some(Frame { kind: FrameKind::Changed { .. }, position, .. }) => known.revision < position.revision,
            // What happened before a snapshot the ring does not know.
            Some(_) => false,
            None => true,
        };
        for frame in self.frames.iter().rev().filter(|frame| frame.source == source) {
            if !matches!(frame.kind, FrameKind::Cause { .. }) {
                if stands(frame.position, known) && before_next(next) {
                    return (!passed_over(frame.position, next)).then_some(from);
                }
                next = Some(frame);
            }
            from = frame.sequence;
        }
        let there = self.base[source];
        (stands(there, known) && before_next(next) && !passed_over(there, next)).then_some(from)
    }
}

fn stands(position: SourcePosition, known: SourcePosition) -> bool {
    position.digest == known.digest && position.revision <= known.revision
}
