//! What a reader is sent of etcd's own history before it goes on from the ring, and how it is taken up anew.
//!
//! Owns a place in each history. The histories themselves are the mirror's to keep or to let go: where one has gone, the
//! reader, which has come further meanwhile, asks for it again.

use std::sync::{Arc, Weak};

use rollcall_shared::{Cursor, Revision, SnapshotReason};
use tokio_util::task::AbortOnDropHandle;

use super::{CHUNK_BYTES_MAX, Phase, Reader};
use crate::mirror::{
    frame::Deleted,
    history::{Ahead, Missed, Past, Roll},
    resume::Resumed,
};

/// How many revisions of history are looked at for one piece.
const PIECE_REVISIONS_MAX: usize = 1_000;

/// What of one source's history a reader is still to be sent.
pub(super) struct Replay {
    source: usize,
    roll: Weak<Roll>,
    next: usize,
}

/// What one source's history was when it was last replayed to a reader.
pub(super) struct Replayed {
    /// How many snapshots of the source had come by then: what comes after a later one is of another history, perhaps.
    epoch: u64,
    after: Revision,
    until: Revision,
    roll: Weak<Roll>,
}

impl<P: Past> Reader<P> {
    /// Whether this reader is to hear why `key` of source number `source` left with the delete `of`: whoever was not
    /// told that it left has no use for why. Of what was replayed, history itself says what was told: this server may have
    /// seen another one, where a restore left the view as it was.
    pub(super) fn was_told(&self, source: usize, key: &str, of: Deleted) -> bool {
        of >= self.deleted_from[source]
            && self.replayed[source].as_ref().is_none_or(|replayed| {
                of.epoch > replayed.epoch
                    || of.revision <= replayed.after
                    || of.revision > replayed.until
                    || replayed.roll.upgrade().is_some_and(|roll| roll.has_delete(key, of.revision))
            })
    }

    /// Whether a cause may come of which this reader is not to hear.
    pub(super) fn may_hear_too_much(&self) -> bool {
        let from = self.deleted_from.iter().zip(&self.replayed);
        let from: Vec<_> = from
            .map(|(from, replayed)| {
                replayed.as_ref().map_or(*from, |replayed| {
                    let until = Deleted { epoch: replayed.epoch, revision: replayed.until + 1 };
                    until.max(*from)
                })
            })
            .collect();
        self.context.mirror.may_explain_before(self.next, &from)
    }

    /// Takes in what `resumed` sources missed, and sends the beginning of each at once: however soon a history is let
    /// go, its readers have come further.
    pub(super) fn begin_replays(&mut self, resumed: Vec<Resumed>) {
        self.replays.clear();
        self.plans_anew = false;
        for Resumed { source, known, from, missed, .. } in resumed {
            self.plans_anew |= from.is_none();
            if let Some((roll, next)) = missed {
                let (after, until) = (known.revision, roll.end().revision);
                self.replayed[source] =
                    Some(Replayed { epoch: roll.epoch(), after, until, roll: Arc::downgrade(&roll) });
                self.send_history(source, &roll, next);
            }
        }
    }

    /// Whether there is history to be sent, or to be asked for.
    pub(super) fn is_replaying(&self) -> bool {
        self.plans_anew || !self.replays.is_empty()
    }

    /// Sends a piece of what there is.
    pub(super) fn replay(&mut self) {
        let Some(Replay { source, roll, next }) = self.replays.pop_front() else {
            return self.plan_anew();
        };
        match roll.upgrade() {
            Some(roll) => self.send_history(source, &roll, next),
            None => self.plan_anew(),
        }
    }

    fn send_history(&mut self, source: usize, roll: &Arc<Roll>, next: usize) {
        let mut bytes_sent = 0;
        let mut place = next;
        for Missed { position, kind } in roll.missed_from(next).iter().take(PIECE_REVISIONS_MAX) {
            if bytes_sent > CHUNK_BYTES_MAX {
                break;
            }
            place += 1;
            self.at[source] = Some(*position);
            let id = self.context.mirror.cursor_at(&self.at);
            if let Some(bytes) = kind.encode_for(&self.request.selected, self.told[source], &id) {
                self.told[source] = position.revision;
                self.context.metrics.deliveries.inc();
                bytes_sent += bytes.len();
                self.outbox.push_back(bytes);
            }
        }
        if !roll.missed_from(place).is_empty() {
            self.replays.push_front(Replay { source, roll: Arc::downgrade(roll), next: place });
        }
    }

    /// Goes on as a reader would that comes with this one's cursor.
    pub(super) fn plan_anew(&mut self) {
        self.replays.clear();
        self.plans_anew = false;
        self.request.cursor = Some(Cursor::decode(&self.context.mirror.cursor_at(&self.at)));
        self.phase = Phase::Waiting;
    }

    /// What stood at its position in the ring has been let go. Who has come further since it was taken up reads it from
    /// etcd's own history; who has not gets a snapshot, since it would hardly come further then.
    pub(super) async fn fall_behind(&mut self) {
        if self.at != self.taken_up_at {
            return self.plan_anew();
        }
        match self.whole_snapshot(SnapshotReason::Lagged).await {
            Some(parts) => self.outbox.extend(parts),
            None => self.phase = Phase::Waiting,
        }
    }

    /// Finds out whether etcd was restored to before this reader's revisions, of which a server that never came so far
    /// hears nothing.
    pub(super) fn check_for_restore(&mut self) {
        let context = self.context.clone();
        let at = self.at.clone();
        let known = self.known.clone();
        self.checking = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            for (source, at) in at.into_iter().enumerate() {
                if let Some(at) = at
                    && at.revision == known[source]
                    && context.mirror.same_as_now(source, at).is_some()
                    && context.mirror.ahead(&context.connection, source, at).await == Some(Ahead::Restored)
                {
                    return true;
                }
            }
            false
        })));
    }

    /// Takes in what was found out.
    pub(super) fn hear_of_restore(&mut self) {
        if let Some(checking) = self.checking.take_if(|checking| checking.is_finished()) {
            use futures_util::FutureExt as _;
            if checking.now_or_never().is_some_and(Result::unwrap_or_default) && self.phase == Phase::Live {
                self.plan_anew();
            }
        }
    }
}
