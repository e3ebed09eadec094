//! What a cursor is worth here: for each source, from where its reader goes on, or why it cannot.

use std::sync::Arc;

use rollcall_shared::{Cursor, CursorError, Revision, SnapshotReason, SourcePosition};

use super::{Mirror, SourceState, frame::Deleted, history::Roll};

/// How a reader that comes with a cursor goes on.
#[derive(Debug, Default)]
pub struct Plan {
    /// The sources that go on from the ring.
    pub resumed: Vec<Resumed>,
    /// The sources that need a snapshot, and why.
    pub missing: Vec<(usize, SnapshotReason)>,
    /// The sources whose history since the cursor the ring does not know, with the cursor's position.
    pub older: Vec<(usize, SourcePosition)>,
    /// The sources in which this server lags behind the cursor, with the cursor's position.
    pub ahead: Vec<(usize, SourcePosition)>,
}

/// A source that goes on from the ring.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// The source's number.
    pub source: usize,
    /// Where the reader stands.
    pub known: SourcePosition,
    /// The first frame that the reader does not know; `None` where the ring does not reach back to where `missed` ends,
    /// and is to be asked anew then.
    pub from: Option<u64>,
    /// What happened before that frame and the reader does not know either: a history, and a place in it.
    pub missed: Option<(Arc<Roll>, usize)>,
    /// Up to where what came and went is compacted, and so is told to nobody, while the view is the reader's own.
    pub untold_until: Option<SourcePosition>,
}

impl Mirror {
    /// What `cursor` is worth now; `None` until every source stands.
    pub fn plan(&self, cursor: &Result<Cursor, CursorError>) -> Option<Plan> {
        let state = self.state();
        let positions = state.positions()?;
        let mut plan = Plan::default();
        let cursor = match cursor {
            Ok(cursor) if cursor.cluster == state.cluster && may_be_ours(cursor) => cursor,
            _ => {
                let missing = (0..positions.len()).map(|source| (source, SnapshotReason::UnknownCursor));
                return Some(Plan { missing: missing.collect(), ..plan });
            }
        };
        for (index, now) in positions.iter().enumerate() {
            let Some(&known) = cursor.sources.get(&state.sources[index].id) else {
                plan.missing.push((index, SnapshotReason::Connected));
                continue;
            };
            if known.revision <= now.revision
                && let Some(from) = state.ring.after(index, known)
            {
                plan.resumed.push(Resumed { source: index, known, from: Some(from), missed: None, untold_until: None });
            } else if known.revision > now.revision {
                plan.ahead.push((index, known));
            } else {
                // Forgotten, or never seen: the watch may have been interrupted here, and only etcd knows whether there
                // was such a view.
                plan.older.push((index, known));
            }
        }
        Some(plan)
    }

    /// The first frame that a reader does not know whose view of `source` is `known`; `None` where the ring does not
    /// tell.
    pub fn ring_after(&self, source: usize, known: SourcePosition) -> Option<u64> {
        self.state().ring.after(source, known)
    }

    /// The first frame about `source` that a reader does not know who stands ahead at `known` with the very view that
    /// stands here; `None` where it is another view.
    pub fn same_as_now(&self, source: usize, known: SourcePosition) -> Option<u64> {
        let state = self.state();
        let now = state.sources[source].position?;
        (now.digest == known.digest).then(|| state.ring.after(source, known)).flatten()
    }

    /// For each source the first delete whose cause a reader may be told who goes on with the frame in `from`, and knows
    /// all that happened before it.
    pub fn deleted_from(&self, from: &[u64]) -> Vec<Deleted> {
        let state = self.state();
        let sources = state.sources.iter().zip(from).enumerate();
        sources
            .map(|(index, (source, from))| {
                let replaced = state.ring.replaced_since(index, *from);
                Deleted { epoch: source.epoch.saturating_sub(replaced), revision: 0 }
            })
            .collect()
    }

    /// Whether a cause may stand in the ring from `position` on, or come, of a delete before those that `since` says.
    pub fn may_explain_before(&self, position: u64, since: &[Deleted]) -> bool {
        let state = self.state();
        let unexplained = |(source, since): (&SourceState, &Deleted)| {
            source.unexplained.keys().next().is_some_and(|oldest| oldest < since)
        };
        state.sources.iter().zip(since).any(unexplained) || state.ring.has_cause_before(position, since)
    }

    /// Whether a source was taken up anew beyond its one of `revisions`, without being told what came and went on the way.
    pub fn has_passed_over(&self, revisions: &[Revision]) -> bool {
        let state = self.state();
        let mut sources = revisions.iter().enumerate();
        sources.any(|(source, revision)| *revision > 0 && state.ring.passed_over(source) > *revision)
    }

    /// Whether each source has come to `revisions`, and the ring's end then.
    pub fn has_come_to(&self, revisions: &[Revision]) -> Option<u64> {
        let state = self.state();
        let mut sources = state.sources.iter().zip(revisions);
        let there = |(source, revision): (&SourceState, &Revision)| {
            source.position.is_some_and(|position| position.revision >= *revision)
        };
        sources.all(there).then(|| state.ring.end())
    }

    /// From where on the frames' own ids hold for a reader who goes on, in each source, with the frame in `from`: they
    /// cover the other sources too.
    pub fn ids_hold_from(&self, from: &[u64]) -> u64 {
        let state = self.state();
        let firsts = from.iter().enumerate().map(|(source, from)| state.ring.first_change(source, *from));
        firsts.max().unwrap_or_default()
    }

    /// Where `source` stood before the frame `sequence`; `None` where it has left the ring.
    pub fn position_before(&self, source: usize, sequence: u64) -> Option<SourcePosition> {
        let state = self.state();
        (sequence >= state.ring.start()).then(|| state.ring.position_before(source, sequence))
    }

    /// Where `cursor` stands, in the mirror's order; `None` for the sources it does not know.
    pub fn positions_in(&self, cursor: &Cursor) -> Vec<Option<SourcePosition>> {
        self.state().sources.iter().map(|source| cursor.sources.get(&source.id).copied()).collect()
    }

    /// The cursor of a reader that stands at `positions`, which are in the mirror's order.
    pub fn cursor_at(&self, positions: &[Option<SourcePosition>]) -> String {
        let state = self.state();
        let sources = state.sources.iter().zip(positions);
        let sources = sources.filter_map(|(source, position)| Some((source.id, (*position)?))).collect();
        Cursor { cluster: state.cluster, sources }.encode()
    }
}

/// Whether a server may have given `cursor` out: it has sources, and etcd counts its revisions from 1.
fn may_be_ours(cursor: &Cursor) -> bool {
    !cursor.sources.is_empty() && cursor.sources.values().all(|position| position.revision > 0)
}
