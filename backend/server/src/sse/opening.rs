//! How a reader that comes with a cursor, or without one, is taken up: until its first message.
//!
//! Owns the way from a [`Plan`] to what is sent of it. Must not know what happens once the reader follows the ring.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rollcall_shared::{Progress, RegistryEvent, SnapshotReason, SourcePosition};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::{Context, Reader, TTL_INTERVAL_MAX};
use crate::mirror::{
    frame::message,
    history::{Ahead, Past, Told},
    resume::{Plan, Resumed},
};

/// How often a server that lags behind a cursor looks whether it has caught up, and how long before it asks etcd again.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(50);
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// How long to wait before etcd is asked again that could not answer.
const SETTLE_RETRY: Duration = Duration::from_millis(200);

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
        if self.request.ttl && !not_ready && self.ttl_due.is_none() {
            // It has a view already, and history may take long to read.
            self.ttl_due = Some(Instant::now() + TTL_INTERVAL_MAX);
        }
        let ttl_due = self.ttl_due;
        tokio::select! {
            () = self.context.shutdown.cancelled() => self.end(),
            _ = self.status.changed() => self.push_status(),
            () = sleep_until(self.status_due) => self.push_status(),
            () = sleep_until(ttl_due.unwrap_or(self.status_due)), if ttl_due.is_some() => self.push_ttl(Instant::now()),
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
            sleep(SETTLE_RETRY).await;
        }
        plan
    }

    /// Decides what the plan leaves open; `None` where that takes more waiting.
    async fn settle(context: &Context<P>, mut plan: Plan) -> Option<Plan> {
        let ahead = std::mem::take(&mut plan.ahead).into_iter();
        let older = std::mem::take(&mut plan.older).into_iter();
        let settled = tokio::join!(
            join_all(ahead.map(|(source, known)| Self::settle_ahead(context, source, known))),
            join_all(older.map(|(source, known)| Self::settle_older(context, source, known))),
        );
        for settled in settled.0.into_iter().chain(settled.1) {
            match settled? {
                Settled::Resumed(resumed) => plan.resumed.push(resumed),
                Settled::Missing(source, reason) => plan.missing.push((source, reason)),
            }
        }
        Some(plan)
    }

    /// A server that lags waits. But a cursor to which etcd itself has not come, or where it had another view, is of
    /// another history.
    async fn settle_ahead(context: &Context<P>, source: usize, known: SourcePosition) -> Option<Settled> {
        let mirror = &context.mirror;
        match mirror.ahead(&context.connection, source, known).await? {
            Ahead::Restored => Some(Settled::Missing(source, SnapshotReason::Restored)),
            Ahead::Compacted => Some(Settled::Missing(source, SnapshotReason::Compacted)),
            Ahead::OfHistory => {
                let end = Instant::now() + CATCH_UP_MAX;
                loop {
                    // It may be the very view that stands here, seen through a progress that has not come here yet, and
                    // may never come.
                    if let Some(from) = mirror.same_as_now(source, known).or_else(|| mirror.ring_after(source, known)) {
                        return Some(Settled::Resumed(Resumed {
                            source,
                            known,
                            from: Some(from),
                            missed: None,
                            untold_until: None,
                        }));
                    }
                    if Instant::now() >= end {
                        return None;
                    }
                    sleep(CATCH_UP_INTERVAL).await;
                }
            }
        }
    }

    async fn settle_older(context: &Context<P>, source: usize, known: SourcePosition) -> Option<Settled> {
        let mirror = &context.mirror;
        let resumed =
            |from, missed, untold_until| Some(Settled::Resumed(Resumed { source, known, from, missed, untold_until }));
        match mirror.missed(&context.connection, source, known).await? {
            Told::Missed { roll, next } => {
                // The ring may have moved on meanwhile: then there is more to read.
                let from = mirror.ring_after(source, roll.end()).filter(|_| roll.is_whole());
                if from.is_none() && roll.missed_from(next).is_empty() {
                    return None;
                }
                resumed(from, Some((roll, next)), None)
            }
            // What cancelled out cannot be told any more; the view is the reader's own.
            Told::Same(until) => resumed(Some(mirror.ring_after(source, until)?), None, Some(until)),
            Told::Gone(reason) => Some(Settled::Missing(source, reason)),
        }
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
        let mut by_reason: BTreeMap<SnapshotReason, Vec<usize>> = BTreeMap::new();
        for (source, reason) in plan.missing {
            by_reason.entry(reason).or_default().push(source);
        }
        // Before anything of it is sent: who stops asking meanwhile is planned for anew.
        let mut snapshots = Vec::new();
        for (reason, sources) in by_reason {
            if let Some(encoded) = mirror.snapshot(reason, Some(&sources), &self.request.selected).await {
                snapshots.push((reason, sources, encoded));
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
            self.from[*source] = from.unwrap_or_default();
            revisions.insert(mirror.sources()[*source].prefix.as_str().to_owned(), known.revision);
        }
        if !revisions.is_empty() {
            let id = mirror.cursor_at(&self.at);
            self.outbox.push_back(message(Some(&id), &RegistryEvent::Progress(Progress { revisions })));
        }
        for (source, until) in plan.resumed.iter().filter_map(|resumed| Some((resumed.source, resumed.untold_until?))) {
            // No delta will go on from where it stands.
            self.at[source] = Some(until);
            self.told[source] = until.revision;
            let id = mirror.cursor_at(&self.at);
            let prefix = mirror.sources()[source].prefix.as_str().to_owned();
            let progress = Progress { revisions: BTreeMap::from([(prefix, until.revision)]) };
            self.outbox.push_back(message(Some(&id), &RegistryEvent::Progress(progress)));
        }
        // What is known of causes at each place, before those places have moved on.
        let deleted_from = mirror.deleted_from(&self.from);
        for Resumed { source, untold_until, .. } in &plan.resumed {
            let mut from = deleted_from[*source];
            if let Some(until) = untold_until {
                from.revision = until.revision + 1;
            }
            self.deleted_from[*source] = self.deleted_from[*source].max(from);
        }
        for (reason, sources, encoded) in snapshots {
            for source in sources {
                self.at[source] = Some(encoded.positions[source]);
                self.told[source] = encoded.positions[source].revision;
                self.known[source] = 0;
                self.from[source] = encoded.sequence;
                self.deleted_from[source] = encoded.deleted_from[source];
            }
            let id = mirror.cursor_at(&self.at);
            self.outbox.extend(encoded.parts(&id));
            self.context.metrics.snapshot_sent(reason);
        }
        self.taken_up_at.clone_from(&self.at);
        self.next = self.from.iter().copied().min().unwrap_or_default();
        self.shared_from = mirror.ids_hold_from(&self.from);
        self.ahead = mirror.has_come_to(&self.known).is_none();
        self.begin_replays(plan.resumed);
        self.go_live();
    }
}

/// How a source goes on.
enum Settled {
    Resumed(Resumed),
    Missing(usize, SnapshotReason),
}

/// What was found out; never, where nothing is being.
async fn settled(settling: &mut Option<AbortOnDropHandle<Option<Plan>>>) -> Option<Plan> {
    match settling {
        Some(settling) => settling.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
