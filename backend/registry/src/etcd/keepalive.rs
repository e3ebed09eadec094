//! Keeps leases alive: many of them, over one connection and a few streams.
//!
//! Owns when each lease is renewed, and what becomes of it. Must not know what stands under a lease, nor ever grant or
//! revoke one: in doubt a lease is renewed until etcd itself says that it is gone, since while etcd is out of space
//! renewals work and grants fail.
//!
//! `Schedule` is the pure core: which lease is due, which waits for its reply, and what a reply or a broken stream
//! means for each. Around it one task a stream sends and reads. Every reply is read, since the one that says that a
//! lease is gone looks like the others but for its TTL. See
//! <https://etcd.io/docs/v3.6/learning/api/#keep-alives>.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper, proto::PbLeaseKeepAliveRequest};
use rollcall_shared::LeaseId;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connect::{Connection, EtcdClient};
use crate::backoff::Backoff;

/// How many streams a hub opens at most. A follower hands each renewal of a stream on to the leader before it reads
/// the next one, so that one stream alone would make many leases wait for one another.
pub const STREAMS_MAX: usize = 4;

/// How many that lost their leases are registered anew at once over one hub: after an outage etcd has other work, too.
pub const RETURNING_MAX: usize = 64;

/// The longest time between two renewals of a lease, so that one with a TTL of years is known to be lost the same day.
pub const RENEWAL_INTERVAL_MAX: Duration = Duration::from_hours(1);

/// The longest time a reply may take, however long the TTL is.
pub const REPLY_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// What is known of a lease that is kept alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// The last renewal was answered.
    Alive {
        /// When it was; at first, when the keeping began.
        renewed_at: Instant,
        /// How long the lease lives from then.
        ttl: Duration,
    },
    /// Renewals fail. The lease may still live: only etcd can say.
    Retrying {
        /// Since when.
        since: Instant,
        /// What went wrong last.
        why: Arc<str>,
    },
    /// etcd said that the lease is gone. Final.
    Lost,
}

/// A hub that keeps leases alive; cheap to clone. Ends with its last clone or when it is cancelled; the leases then run
/// out by themselves.
#[derive(Debug, Clone)]
pub struct LeaseKeeping {
    hub: Arc<Hub>,
}

#[derive(Debug)]
struct Hub {
    connection: Connection,
    shards: Vec<Arc<Shard>>,
    /// What those that register anew pass through.
    gate: Semaphore,
    tasks: TaskTracker,
    cancel: CancellationToken,
    runtime: Handle,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl LeaseKeeping {
    /// A hub over `connection`, whose tasks end when `cancel` is cancelled. Must be called within a tokio runtime.
    pub fn start(connection: Connection, cancel: &CancellationToken) -> Self {
        let cancel = cancel.child_token();
        let tasks = TaskTracker::new();
        let shards: Vec<_> = (0..STREAMS_MAX).map(|_| Arc::new(Shard::default())).collect();
        for shard in &shards {
            tasks.spawn(run(Arc::clone(shard), connection.clone(), cancel.clone()));
        }
        tasks.close();
        let gate = Semaphore::new(RETURNING_MAX);
        Self { hub: Arc::new(Hub { connection, shards, gate, tasks, cancel, runtime: Handle::current() }) }
    }

    /// The connection the leases are renewed over.
    pub fn connection(&self) -> &Connection {
        &self.hub.connection
    }

    /// The runtime that the renewals are sent by, where all that depends on them is to run, too.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.hub.runtime
    }

    /// How many leases are kept.
    pub fn len(&self) -> usize {
        self.hub.shards.iter().map(|shard| shard.schedule().leases.len()).sum()
    }

    /// Whether no lease is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leave to register anew, of which [`RETURNING_MAX`] are given at once. Lasts while what it answers is held.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.hub.gate.acquire().await.expect("it is never closed")
    }

    /// Keeps `lease`, granted just now for `granted_ttl_s` seconds, alive until [`Self::release`]. What becomes of it
    /// stands in the receiver, whose channel closes when the lease is released or the hub ends.
    ///
    /// A lease that is kept already goes on as it was.
    pub fn keep(&self, lease: LeaseId, granted_ttl_s: i64) -> watch::Receiver<LeaseState> {
        let shard = self.shard(lease);
        let mut schedule = shard.schedule();
        let first_due = schedule.first_due();
        let receiver = schedule.add(lease, granted_ttl_s, Instant::now());
        // The stream sleeps until the first is due: only another first is news to it. To wake it for each of thousands
        // would cost more than the rest of their registering here.
        if schedule.first_due() != first_due {
            shard.changed.notify_one();
        }
        receiver
    }

    /// Renews `lease` no longer. It runs out after its TTL, or is the caller's to revoke.
    pub fn release(&self, lease: LeaseId) {
        let shard = self.shard(lease);
        let mut schedule = shard.schedule();
        schedule.remove(lease);
        // It ends with its last lease; else it wakes for nothing at the worst.
        if schedule.is_empty() {
            shard.changed.notify_one();
        }
    }

    /// Ends the hub's tasks, for all its clones, and waits until they have ended.
    pub async fn stop(&self) {
        self.hub.cancel.cancel();
        self.hub.tasks.wait().await;
    }

    fn shard(&self, lease: LeaseId) -> &Arc<Shard> {
        let index = lease.0.rem_euclid(i64::try_from(STREAMS_MAX).expect("a small constant"));
        &self.hub.shards[usize::try_from(index).expect("a remainder of a small constant")]
    }
}

/// The leases of one stream.
#[derive(Debug, Default)]
struct Shard {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Shard {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of a shard, from one state to the next.
enum Link {
    /// No stream: nothing has been due since the last one ended.
    Closed,
    /// A stream that renews.
    Open(Box<Renewals>),
    /// The stream failed, or could not be opened.
    Broken { why: String },
}

struct Renewals {
    client: EtcdClient,
    keeper: LeaseKeeper,
    replies: LeaseKeepAliveStream,
}

async fn run(shard: Arc<Shard>, connection: Connection, cancel: CancellationToken) {
    let driving = async {
        let mut backoff = Backoff::new();
        let mut link = Link::Closed;
        loop {
            link = match link {
                Link::Closed => open(&shard, &connection).await,
                Link::Open(renewals) => pump(&shard, *renewals, &mut backoff, &connection).await,

                Link::Broken { why } => {
                    tracing::debug!(why, "renewing leases fails");
                    shard.schedule().broke(Instant::now(), &why.into());
                    tokio::time::sleep(backoff.rest()).await;
                    Link::Closed
                }
            };
        }
    };
    // Whatever ends this task, its runtime too: nobody is to believe that leases are kept.
    let _ending = Ending(&shard);
    tokio::select! {
        () = driving => {}
        () = cancel.cancelled() => {}
    }
}

struct Ending<'a>(&'a Shard);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        *self.0.schedule() = Schedule { ended: true, ..Schedule::default() };
    }
}

/// Waits until a lease is due, and opens a stream with its renewal: etcd-client has no other way.
async fn open(shard: &Shard, connection: &Connection) -> Link {
    let (lease, deadline) = loop {
        let wake_at = {
            let mut schedule = shard.schedule();
            let now = Instant::now();
            if let Some(lease) = schedule.next_due(now) {
                break (lease, schedule.sent(lease, now));
            }
            schedule.first_due()
        };
        tokio::select! {
            () = shard.changed.notified() => {}
            () = sleep_until_some(wake_at) => {}
        }
    };
    let client = match connection.client().await {
        Ok(client) => client,
        Err(error) => return Link::Broken { why: error.to_string() },
    };
    // Connecting took its own time; the reply has at least as long as any other.
    let deadline = deadline.max(Instant::now() + reply_timeout(Duration::ZERO));
    match timeout_at(deadline, client.lease().keep_alive(lease.0)).await {
        Ok(Ok((keeper, replies))) => {
            shard.schedule().renewed(lease, Instant::now());
            Link::Open(Box::new(Renewals { client, keeper, replies }))
        }
        Ok(Err(error)) if is_lease_not_found(&error) => {
            shard.schedule().lost(lease);
            Link::Closed
        }
        Ok(Err(error)) => {
            connection.report_failure(&client);
            Link::Broken { why: error.to_string() }
        }
        Err(_) => {
            connection.report_failure(&client);
            Link::Broken { why: "etcd did not answer a renewal in time".to_owned() }
        }
    }
}

/// etcd-client reads the first reply itself and makes this error of a TTL of 0.
fn is_lease_not_found(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::LeaseKeepAliveError(why) if why == "lease not found")
}

/// Sends what is due and reads what comes, until the stream breaks or no lease is left.
async fn pump(shard: &Shard, mut renewals: Renewals, backoff: &mut Backoff, connection: &Connection) -> Link {
    let why = loop {
        let (due, wake_at) = {
            let schedule = shard.schedule();
            let now = Instant::now();
            if schedule.is_empty() {
                return Link::Closed;
            }
            if schedule.is_overdue(now) {
                break "etcd did not answer a renewal in time".to_owned();
            }
            let due = schedule.next_due(now);
            // What is due already waits for room in the stream, not for the time.
            (due, if due.is_some() { schedule.first_deadline() } else { schedule.wake_at() })
        };
        tokio::select! {
            () = shard.changed.notified() => {}
            () = sleep_until_some(wake_at) => {}
            permit = renewals.keeper.sender.reserve(), if due.is_some() => match (permit, due) {
                (Ok(permit), Some(lease)) => {
                    shard.schedule().sent(lease, Instant::now());
                    permit.send(PbLeaseKeepAliveRequest { id: lease.0 });
                }
                _ => break "etcd closed the stream of renewals".to_owned(),
            },
            message = renewals.replies.message() => match message {
                Ok(Some(reply)) => {
                    shard.schedule().replied(LeaseId(reply.id()), reply.ttl(), Instant::now());
                    backoff.reset();
                }
                Ok(None) => break "etcd closed the stream of renewals".to_owned(),
                Err(error) => break error.to_string(),
            },
        }
    };
    connection.report_failure(&renewals.client);
    Link::Broken { why }
}

async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Renewals go out every TTL/3, as those of etcd's own client.
fn renewal_interval(ttl: Duration) -> Duration {
    (ttl / 3).min(RENEWAL_INTERVAL_MAX)
}

fn reply_timeout(ttl: Duration) -> Duration {
    (ttl / 3).clamp(REPLY_TIMEOUT_MIN, REPLY_TIMEOUT_MAX)
}

/// The shortest time a reply is waited for: etcd grants no TTL below 2 s, of which this is a third.
const REPLY_TIMEOUT_MIN: Duration = Duration::from_millis(660);

/// When each lease is to be renewed, and what is known of it. Pure: told the time, it never asks.
#[derive(Debug, Default)]
struct Schedule {
    leases: BTreeMap<LeaseId, Lease>,
    /// Those to be renewed, by when.
    due: BTreeSet<(Instant, LeaseId)>,
    /// Those whose renewal is under way, by when its reply must be there.
    in_flight: BTreeSet<(Instant, LeaseId)>,
    /// Nobody drives this any more.
    ended: bool,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    phase: Phase,
    state: watch::Sender<LeaseState>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Due { at: Instant },
    InFlight { deadline: Instant },
}

impl Schedule {
    fn add(&mut self, id: LeaseId, granted_ttl_s: i64, now: Instant) -> watch::Receiver<LeaseState> {
        if let Some(lease) = self.leases.get(&id) {
            return lease.state.subscribe();
        }
        let ttl = ttl_of(granted_ttl_s);
        let (state, receiver) = watch::channel(LeaseState::Alive { renewed_at: now, ttl });
        if !self.ended {
            let at = now + renewal_interval(ttl);
            self.due.insert((at, id));
            self.leases.insert(id, Lease { ttl, phase: Phase::Due { at }, state });
        }
        receiver
    }

    fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        match lease.phase {
            Phase::Due { at } => self.due.remove(&(at, id)),
            Phase::InFlight { deadline } => self.in_flight.remove(&(deadline, id)),
        };
        Some(lease)
    }

    fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn first_deadline(&self) -> Option<Instant> {
        self.in_flight.first().map(|(deadline, _)| *deadline)
    }

    /// When there is next something to do.
    fn wake_at(&self) -> Option<Instant> {
        self.first_due().into_iter().chain(self.first_deadline()).min()
    }

    /// The lease that has waited longest for its renewal.
    fn next_due(&self, now: Instant) -> Option<LeaseId> {
        self.due.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// Whether a reply has not come in time: then nothing that this stream carries can be relied on.
    fn is_overdue(&self, now: Instant) -> bool {
        self.first_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// A renewal of the lease went out. Answers by when its reply must be there.
    fn sent(&mut self, id: LeaseId, now: Instant) -> Instant {
        let Some(lease) = self.leases.get(&id) else { return now };
        let deadline = now + reply_timeout(lease.ttl);
        self.enter(id, Phase::InFlight { deadline });
        deadline
    }

    fn replied(&mut self, id: LeaseId, ttl_s: i64, now: Instant) {
        if ttl_s <= 0 {
            return self.lost(id);
        }
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.ttl = ttl_of(ttl_s);
        }
        self.renewed(id, now);
    }

    /// The renewal was answered, with the TTL known.
    fn renewed(&mut self, id: LeaseId, now: Instant) {
        // A lease that was released meanwhile still gets its reply.
        let Some(lease) = self.leases.get(&id) else { return };
        let ttl = lease.ttl;
        lease.state.send_replace(LeaseState::Alive { renewed_at: now, ttl });
        self.enter(id, Phase::Due { at: now + renewal_interval(ttl) });
    }

    fn lost(&mut self, id: LeaseId) {
        if let Some(lease) = self.remove(id) {
            lease.state.send_replace(LeaseState::Lost);
        }
    }

    /// The stream broke, or could not be made: what was under way must go out again, and what is due cannot.
    fn broke(&mut self, now: Instant, why: &Arc<str>) {
        while let Some(&(_, id)) = self.in_flight.first() {
            self.enter(id, Phase::Due { at: now });
        }
        for (_, id) in self.due.range(..=(now, LeaseId(i64::MAX))) {
            let Some(lease) = self.leases.get(id) else { continue };
            lease.state.send_modify(|state| {
                let since = match state {
                    LeaseState::Retrying { since, .. } => *since,
                    LeaseState::Alive { .. } | LeaseState::Lost => now,
                };
                *state = LeaseState::Retrying { since, why: Arc::clone(why) };
            });
        }
    }

    fn enter(&mut self, id: LeaseId, phase: Phase) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match lease.phase {
            Phase::Due { at } => self.due.remove(&(at, id)),
            Phase::InFlight { deadline } => self.in_flight.remove(&(deadline, id)),
        };
        match phase {
            Phase::Due { at } => self.due.insert((at, id)),
            Phase::InFlight { deadline } => self.in_flight.insert((deadline, id)),
        };
        lease.phase = phase;
    }
}

fn ttl_of(ttl_s: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::connect::ConnectConfig;

    const A: LeaseId = LeaseId(1);
    const B: LeaseId = LeaseId(2);

    fn after(start: Instant, s: u64) -> Instant {
        start + Duration::from_secs(s)
    }

    #[test]
    fn a_lease_is_renewed_every_third_of_its_ttl() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let state = schedule.add(A, 15, start);
        assert_eq!(schedule.wake_at(), Some(after(start, 5)));
        assert_eq!(schedule.next_due(after(start, 4)), None);
        assert_eq!(schedule.next_due(after(start, 5)), Some(A));
        schedule.sent(A, after(start, 5));
        assert_eq!(schedule.next_due(after(start, 6)), None, "not twice while its reply is awaited");
        schedule.replied(A, 15, after(start, 6));
        assert_eq!(*state.borrow(), LeaseState::Alive { renewed_at: after(start, 6), ttl: Duration::from_secs(15) });
        assert_eq!(schedule.wake_at(), Some(after(start, 11)));
    }

    #[test]
    fn a_reply_without_ttl_means_that_the_lease_is_gone() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let (a, b) = (schedule.add(A, 6, start), schedule.add(B, 6, start));
        schedule.sent(A, after(start, 2));
        schedule.replied(A, 0, after(start, 2));
        assert_eq!(*a.borrow(), LeaseState::Lost);
        assert!(matches!(*b.borrow(), LeaseState::Alive { .. }));
        assert_eq!(schedule.next_due(after(start, 9)), Some(B));
        assert!(a.has_changed().is_err(), "nothing more will be said of it");
    }

    #[test]
    fn a_missing_reply_breaks_the_stream_and_the_renewal_goes_out_again() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let (a, b) = (schedule.add(A, 9, start), schedule.add(B, 30, start));
        schedule.sent(A, after(start, 3));
        assert!(!schedule.is_overdue(after(start, 5)));
        assert!(schedule.is_overdue(after(start, 6)));
        schedule.broke(after(start, 6), &"no answer".into());
        let retrying = LeaseState::Retrying { since: after(start, 6), why: "no answer".into() };
        assert_eq!(*a.borrow(), retrying);
        assert!(matches!(*b.borrow(), LeaseState::Alive { .. }), "its renewal is not due yet");
        assert_eq!(schedule.next_due(after(start, 6)), Some(A));
        schedule.broke(after(start, 20), &"still none".into());
        assert_eq!(*a.borrow(), LeaseState::Retrying { since: after(start, 6), why: "still none".into() });
        assert!(matches!(*b.borrow(), LeaseState::Retrying { .. }), "by now it is due too, and cannot go out");
        schedule.sent(A, after(start, 21));
        schedule.replied(A, 9, after(start, 21));
        assert!(matches!(*a.borrow(), LeaseState::Alive { .. }));
    }

    #[test]
    fn an_outage_longer_than_the_ttl_gives_no_lease_up_before_etcd_does() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let state = schedule.add(A, 2, start);
        for s in 1..1_000 {
            schedule.sent(A, after(start, s));
            schedule.broke(after(start, s), &"away".into());
            assert!(matches!(*state.borrow(), LeaseState::Retrying { .. }), "after {s} s");
        }
        schedule.sent(A, after(start, 1_000));
        schedule.replied(A, -1, after(start, 1_000));
        assert_eq!(*state.borrow(), LeaseState::Lost);
    }

    #[test]
    fn a_released_lease_is_forgotten_also_while_its_reply_is_awaited() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let state = schedule.add(A, 3, start);
        schedule.sent(A, after(start, 1));
        schedule.remove(A);
        schedule.replied(A, 3, after(start, 2));
        assert!(schedule.is_empty() && schedule.wake_at().is_none());
        assert!(state.has_changed().is_err());
    }

    #[test]
    fn no_ttl_overflows_the_clock() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add(A, 9_000_000_000, start);
        assert_eq!(schedule.wake_at(), Some(start + RENEWAL_INTERVAL_MAX));
        assert_eq!(schedule.sent(A, start), start + REPLY_TIMEOUT_MAX);
        schedule.add(B, i64::MIN, start);
        assert!(schedule.first_due().is_some_and(|due| due > start));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_kept_on_trying_while_nobody_answers() {
        let config = ConnectConfig { endpoints: vec!["127.0.0.1:1".into()], ..ConnectConfig::default() };
        let keeping = LeaseKeeping::start(Connection::new(config).unwrap(), &CancellationToken::new());
        let mut state = keeping.keep(A, 6);
        let retrying = |state: &LeaseState| matches!(state, LeaseState::Retrying { .. });
        let begun = Instant::now();
        state.wait_for(retrying).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(2), "not before it was due");
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(retrying(&state.borrow()));
        keeping.stop().await;
        assert!(state.has_changed().is_err(), "the channel closes with the hub");
        assert!(keeping.keep(B, 6).has_changed().is_err(), "and a hub that has ended takes no more");
    }
}
