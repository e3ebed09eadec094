//! The leases that this server renews for those who registered through it: until the instance is deregistered, and
//! through the minute in which that can be undone. They end with the server: it stops renewing, and they run out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rollcall_registry::etcd::{
    connect::Connection,
    keepalive::{LeaseKeeping, LeaseState},
    lease,
};
use rollcall_shared::{LeaseId, api::UNDO_S};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::mirror::Mirror;

/// How often it is looked which of the leases still hold an instance.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The leases that this server renews.
#[derive(Clone)]
pub struct KeptLeases {
    keeping: LeaseKeeping,
    held: Arc<Mutex<HashMap<LeaseId, Held>>>,
}

struct Held {
    state: watch::Receiver<LeaseState>,
    /// Since when no key is on it.
    empty_since: Option<Instant>,
}

impl KeptLeases {
    /// Renews nothing yet. Ends with `cancel`.
    pub fn start(connection: Connection, mirror: Arc<Mirror>, cancel: &CancellationToken) -> Self {
        let keeping = LeaseKeeping::start(connection, cancel);
        let kept = Self { keeping, held: Arc::default() };
        let (sweeper, cancel) = (kept.clone(), cancel.clone());
        tokio::spawn(async move {
            let mut clock = interval(SWEEP_INTERVAL);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = clock.tick() => sweeper.sweep(&mirror),
                }
            }
        });
        kept
    }

    /// Renews `lease` from now on.
    pub fn keep(&self, lease: LeaseId, granted_ttl_s: i64) {
        let state = self.keeping.keep(lease, granted_ttl_s);
        self.held().insert(lease, Held { state, empty_since: None });
    }

    /// Stops renewing `lease`, which was revoked.
    pub fn forget(&self, lease: LeaseId) {
        if self.held().remove(&lease).is_some() {
            self.keeping.release(lease);
        }
    }

    fn sweep(&self, mirror: &Mirror) {
        let now = Instant::now();
        let mut over = Vec::new();
        self.held().retain(|lease, held| {
            if matches!(*held.state.borrow(), LeaseState::Lost) {
                tracing::warn!(%lease, "a lease that this server renewed has ended: its instance has to be registered anew");
                over.push((*lease, false));
                return false;
            }
            if mirror.leases(|book| book.holds(*lease)) {
                held.empty_since = None;
                return true;
            }
            let since = *held.empty_since.get_or_insert(now);
            let keep = now.duration_since(since) <= Duration::from_secs(UNDO_S);
            if !keep {
                over.push((*lease, true));
            }
            keep
        });
        for (lease, lives) in over {
            self.keeping.release(lease);
            if lives {
                let connection = self.keeping.connection().clone();
                // Where that fails, the lease runs out by itself.
                tokio::spawn(async move { lease::revoke(&connection, lease).await });
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<LeaseId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
