//! What drives the mirror: one watcher for each source, the questions to leases, the search for causes, the clock of
//! the connection's state. Owns the tasks; each ends with its token and is joined. Must not know HTTP.

use std::{
    collections::HashMap,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use rollcall_registry::etcd::{
    connect::{Connection, REQUEST_TIMEOUT},
    lease,
    source::EtcdSource,
    ttl::{Evidence, LEASE_SAMPLES_PER_S_MAX, LeaseAfter, LeaseSample, cause},
    watcher::{SourceEvent, watcher, with_backoff},
};
use rollcall_shared::{Cause, KeyPrefix, LeaseId, Revision};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    metrics::Metrics,
    mirror::{Left, Mirror, ahead::DecodedAhead},
};

/// How many leases are asked at the same time.
const LEASE_LOOKUPS_MAX: usize = 32;

/// How many deletes may wait for their cause; beyond it, the watchers wait.
const LEFT_WAITING_MAX: usize = 4_096;

/// How often the connection's state is looked at though nothing happened.
const STATUS_CLOCK: Duration = Duration::from_millis(250);

/// How often a lease that could not be asked is asked again for a cause.
const CAUSE_TRIES: u32 = 5;

/// How long to wait between two such tries.
const CAUSE_RETRY: Duration = Duration::from_millis(400);

/// The tasks that drive a mirror.
pub struct Feed {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Feed {
    /// Starts to drive `mirror` from etcd.
    pub fn start(mirror: &Arc<Mirror>, connection: &Connection, metrics: &Arc<Metrics>) -> Self {
        let feed = Self { cancel: CancellationToken::new(), tasks: TaskTracker::new() };
        let prefixes: Vec<KeyPrefix> = mirror.sources().iter().map(|source| source.prefix.clone()).collect();
        let (left, leaving) = mpsc::channel(LEFT_WAITING_MAX);
        for (index, prefix) in prefixes.iter().enumerate() {
            let source = EtcdSource::new(connection.clone(), prefix.clone(), &prefixes);
            feed.spawn(watch(Arc::clone(mirror), Arc::clone(metrics), index, source, left.clone()));
        }
        feed.spawn(find_causes(Arc::clone(mirror), Arc::clone(metrics), connection.clone(), leaving));
        feed.spawn(ask_leases(Arc::clone(mirror), Arc::clone(metrics), connection.clone()));
        feed.spawn(keep_clock(Arc::clone(mirror)));
        feed.tasks.close();
        feed
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Ends every task and waits for it.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}

async fn watch(
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
    index: usize,
    source: EtcdSource,
    left: mpsc::Sender<Vec<Left>>,
) {
    let prefix = mirror.sources()[index].prefix.as_str().to_owned();
    let (source, ahead) = DecodedAhead::new(source, mirror.sources()[index].clone());
    let mut events = pin!(with_backoff(watcher(source)));
    let mut failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(source = prefix, "the watch goes on");
                }
                match &event {
                    SourceEvent::Delta { changes, .. } => metrics.changed(&prefix, changes.len()),
                    SourceEvent::Snapshot { reason, position, entries, .. } => {
                        tracing::info!(
                            source = prefix,
                            ?reason,
                            revision = position.revision,
                            keys = entries.len(),
                            "listed"
                        );
                    }
                    _ => {}
                }
                let records = match &event {
                    SourceEvent::Snapshot { entries, .. } => ahead.records_of(entries).await,
                    _ => Vec::new(),
                };
                let gone = mirror.apply_decoded(index, event, records);
                if !gone.is_empty() && left.send(gone).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Said once an outage: the watcher goes on trying by itself.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(source = prefix, %error, "the watch failed; trying again");
                }
                metrics.watch_failed(&prefix);
                mirror.fail(index, &error);
            }
        }
    }
}

async fn keep_clock(mirror: Arc<Mirror>) {
    let mut clock = interval(STATUS_CLOCK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        mirror.update_status(Instant::now());
    }
}

/// Asks each lease when it is due, at a bounded rate.
async fn ask_leases(mirror: Arc<Mirror>, metrics: Arc<Metrics>, connection: Connection) {
    /// How long to wait where no lease is due, before looking for new ones.
    const IDLE: Duration = Duration::from_millis(100);
    let gap = Duration::from_secs(1) / LEASE_SAMPLES_PER_S_MAX;
    let places = Arc::new(Semaphore::new(LEASE_LOOKUPS_MAX));
    let mut next_at = Instant::now();
    loop {
        let now = Instant::now();
        let Some(lease) = mirror.leases(|book| book.take_due(now)) else {
            let due_at = mirror.leases(|book| book.next_due_at());
            sleep_until(due_at.map_or(now + IDLE, |due_at| due_at.min(now + IDLE))).await;
            continue;
        };
        // The rate is kept over the last moments, so that what waited while the clock slept may go at once.
        next_at = next_at.max(now.checked_sub(IDLE).unwrap_or(now)) + gap;
        if next_at > now {
            sleep_until(next_at).await;
        }
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let (mirror, metrics, connection) = (Arc::clone(&mirror), Arc::clone(&metrics), connection.clone());
        tokio::spawn(async move {
            let _place = place;
            match look_up(&connection, lease).await {
                Ok(Some(sample)) => {
                    metrics.lease_asked("lives");
                    mirror.leases(|book| book.record(lease, sample));
                }
                Ok(None) => metrics.lease_asked("gone"),
                Err(_) => metrics.lease_asked("failed"),
            }
        });
    }
}

async fn look_up(connection: &Connection, lease: LeaseId) -> Result<Option<LeaseSample>, lease::LeaseError> {
    let asked_at = Instant::now();
    let terms = lease::time_to_live(connection, lease, false).await?;
    Ok(terms.map(|terms| LeaseSample {
        granted_s: terms.granted_s,
        remaining_s: terms.remaining_s,
        asked_at,
        answered_at: Instant::now(),
    }))
}

/// For each revision that deleted keys, asks each lease concerned once, and tells the causes together.
async fn find_causes(
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
    connection: Connection,
    mut leaving: mpsc::Receiver<Vec<Left>>,
) {
    let places = Arc::new(Semaphore::new(LEASE_LOOKUPS_MAX));
    while let Some(left) = leaving.recv().await {
        let mut by_lease: HashMap<(Option<LeaseId>, Revision), Vec<Left>> = HashMap::new();
        for left in left {
            by_lease.entry((left.lease, left.revision)).or_default().push(left);
        }
        for ((lease, _), left) in by_lease {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let (mirror, metrics, connection) = (Arc::clone(&mirror), Arc::clone(&metrics), connection.clone());
            tokio::spawn(async move {
                let _place = place;
                let after = match lease {
                    None => LeaseAfter::None,
                    Some(lease) => ask_after(&connection, lease).await,
                };
                let found_at = Instant::now();
                let causes = left.into_iter().map(|left| {
                    let evidence = Evidence {
                        lease: left.lease,
                        after,
                        before: left.before,
                        seen_at: left.seen_at,
                        found_at,
                        told_live: left.told_live,
                    };
                    let (kind, evidence) = cause(&evidence);
                    metrics.departed(kind);
                    tracing::debug!(key = left.key, revision = left.revision, cause = kind.as_str(), "left");
                    (left.service, Cause { key: left.key, revision: left.revision, cause: kind, evidence })
                });
                mirror.tell_causes(causes.collect());
            });
        }
    }
}

async fn ask_after(connection: &Connection, lease: LeaseId) -> LeaseAfter {
    for _ in 0..CAUSE_TRIES {
        if has_caught_up(connection).await {
            match lease::time_to_live(connection, lease, false).await {
                Ok(Some(terms)) => return LeaseAfter::Lives { remaining_s: terms.remaining_s },
                Ok(None) => return LeaseAfter::Gone,
                Err(_) => {}
            }
        }
        sleep(CAUSE_RETRY).await;
    }
    LeaseAfter::Unasked
}

/// Whether the member in use knows the leader and all that was written: a linearizable read succeeds only then. A
/// leader that was frozen answers for some moments after its thaw from what it knew before, also of leases: it takes
/// those for gone that were granted meanwhile, and those for living that were revoked.
async fn has_caught_up(connection: &Connection) -> bool {
    let Ok(client) = connection.client().await else { return false };
    let options = etcd_client::GetOptions::new().with_count_only();
    let mut kv = client.kv();
    match timeout(REQUEST_TIMEOUT, kv.get("\0", Some(options))).await {
        Ok(Ok(_)) => true,
        // Whether it may be read is decided once all is known.
        Ok(Err(error)) if !lease::is_member_failure(&error) => true,
        Ok(Err(_)) | Err(_) => {
            connection.report_failure(&client);
            false
        }
    }
}

/// Now, in milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
