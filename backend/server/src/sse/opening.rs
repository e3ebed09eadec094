//! How a reader that comes with a cursor, or without one, is taken up: until its first message.
//!
//! Owns the way from a [`Plan`] to what is sent of it. Must not know what happens once the reader follows the ring.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use rollcall_shared::{Progress, RegistryEvent, SnapshotReason};
use tokio::time::{sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::{Context, Reader};
use crate::mirror::{
    frame::{message, snapshot_parts},
    history::{Missed, Past},
    resume::{Plan, Resumed},
};

/// How often a server that lags behind a cursor looks whether it has caught up.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(200);

impl<P: Past> Reader<P> {
    /// Holds the line until it can be told where this reader goes on, and begins there.
    pub(super) async fn wait_until_known(&mut self) {
        let mirror = Arc::clone(&self.context.mirror);
        match &self.request.cursor {
            None => {
                if let Some(snapshot) = self.whole_snapshot(SnapshotReason::Connected).await {
                    self.outbox.extend(snapshot);
                    self.go_live();
                    return;
                }
            }
            Some(cursor) => {
                if self.settling.is_none()
                    && let Some(plan) = mirror.plan(cursor)
                {
                    if plan.ahead.is_empty() && plan.older.is_empty() {
                        self.resume(plan).await;
                        return;
                    }
                    let settling = Self::settle_or_wait(self.context.clone(), plan);
                    self.settling = Some(AbortOnDropHandle::new(tokio::spawn(settling)));
                }
            }
        }
        let mut ready = mirror.ready();
        let not_ready = !*ready.borrow();
        tokio::select! {
            () = self.context.shutdown.cancelled() => self.end(),
            _ = self.status.changed() => self.push_status(),
            () = sleep_until(self.status_due) => self.push_status(),
            _ = ready.changed(), if not_ready => {}
            plan = settled(&mut self.settling) => {
                self.settling = None;
                if let Some(plan) = plan {
                    self.resume(plan).await;
                }
            }
        }
    }

    async fn settle_or_wait(context: Context<P>, plan: Plan) -> Option<Plan> {
        let plan = Self::settle(&context, plan).await;
        if plan.is_none() {
            sleep(CATCH_UP_INTERVAL).await;
        }
        plan
    }

    /// Decides what the plan leaves open; `None` where that takes more waiting.
    async fn settle(context: &Context<P>, mut plan: Plan) -> Option<Plan> {
        for (source, known) in std::mem::take(&mut plan.ahead) {
            // A server that lags waits. But where etcd itself has not come so far, the cursor is of another history.
            match context.connection.store_revision().await {
                Some(revision) if revision < known.revision => plan.missing.push((source, SnapshotReason::Restored)),
                // It may be the very view that stands here, seen through a progress that has not come here yet, and
                // here may never come. A restored etcd's may look the same.
                Some(_) => {
                    if context.mirror.is_of_history(&context.connection, source, known).await? {
                        let from = context.mirror.same_as_now(source, known)?;
                        plan.resumed.push(Resumed { source, known, from, missed: Arc::default() });
                    } else {
                        plan.missing.push((source, SnapshotReason::Restored));
                    }
                }
                None => return None,
            }
        }
        for (source, known) in std::mem::take(&mut plan.older) {
            let mirror = &context.mirror;
            match mirror.missed(&context.connection, source, known).await? {
                (Ok(missed), until) => {
                    // The ring may have moved on meanwhile: then there is more to read.
                    let from = mirror.ring_after(source, until)?;
                    plan.resumed.push(Resumed { source, known, from, missed });
                }
                (Err(SnapshotReason::Compacted), until) if until.digest == known.digest => {
                    // What cancelled out cannot be told any more; the view is the reader's own.
                    let from = mirror.ring_after(source, until)?;
                    plan.resumed.push(Resumed { source, known, from, missed: Arc::default() });
                }
                (Err(reason), _) => plan.missing.push((source, reason)),
            }
        }
        Some(plan)
    }

    /// Goes on as planned: what the reader has already, then snapshots of what it cannot be told, then the ring.
    async fn resume(&mut self, plan: Plan) {
        let mirror = Arc::clone(&self.context.mirror);
        if plan.resumed.is_empty() && plan.missing.len() == mirror.sources().len() {
            let reason = plan.missing.first().map_or(SnapshotReason::Connected, |(_, reason)| *reason);
            if plan.missing.iter().all(|(_, other)| *other == reason) {
                if let Some(parts) = self.whole_snapshot(reason).await {
                    self.outbox.extend(parts);
                    self.go_live();
                }
                return;
            }
        }
        // A source whose snapshot is still to come stays where the reader left it, so that who is cut off before it
        // comes is told of it again.
        if let Some(Ok(cursor)) = &self.request.cursor {
            self.at = mirror.positions_in(cursor);
        }
        let mut revisions = BTreeMap::new();
        for Resumed { source, known, from, .. } in &plan.resumed {
            self.at[*source] = Some(*known);
            self.told[*source] = known.revision;
            self.known[*source] = known.revision;
            self.from[*source] = *from;
            revisions.insert(mirror.sources()[*source].prefix.as_str().to_owned(), known.revision);
        }
        if !revisions.is_empty() {
            let id = mirror.cursor_at(&self.at);
            self.outbox.push_back(message(Some(&id), &RegistryEvent::Progress(Progress { revisions })));
        }
        let mut by_reason: HashMap<SnapshotReason, Vec<usize>> = HashMap::new();
        for (source, reason) in plan.missing {
            by_reason.entry(reason).or_default().push(source);
        }
        for (reason, sources) in by_reason {
            let Some(picture) = mirror.picture(Some(&sources), &self.request.selected) else { continue };
            for source in sources {
                self.at[source] = Some(picture.positions[source]);
                self.told[source] = picture.positions[source].revision;
                self.from[source] = picture.sequence;
            }
            let id = mirror.cursor_at(&self.at);
            self.outbox.extend(snapshot_parts(reason, &picture.records, &picture.revisions, &id));
            self.context.metrics.snapshot_sent(reason);
        }
        for Resumed { source, missed, .. } in &plan.resumed {
            for Missed { position, kind } in &**missed {
                self.at[*source] = Some(*position);
                let id = mirror.cursor_at(&self.at);
                if let Some(bytes) = kind.encode_for(&self.request.selected, self.told[*source], &id) {
                    self.told[*source] = position.revision;
                    self.outbox.push_back(bytes);
                }
            }
        }
        self.next = self.from.iter().copied().min().unwrap_or_default();
        self.shared_from = mirror.ids_hold_from(&self.from);
        self.ahead = mirror.has_come_to(&self.known).is_none();
        self.go_live();
    }
}

/// What was found out; never, where nothing is being.
async fn settled(settling: &mut Option<AbortOnDropHandle<Option<Plan>>>) -> Option<Plan> {
    match settling {
        Some(settling) => settling.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
