//! Registers instances and keeps them registered.
//!
//! A [`Registration`] owns its key, its lease and the one task that tends both: a lost lease means another one and the
//! key put again, with jittered backoff, for ever. Must not know how a value is written (that is the layout's) nor when
//! a lease is renewed (that is [`keepalive`](crate::etcd::keepalive)'s). Many registrations of one process share one
//! [`LeaseKeeping`], and with it one connection and few streams.
//!
//! A key is only ever written over where it is this registration's own: nobody else's is taken by accident, and a value
//! that an operator deleted while its lease lives stays deleted, as with the Go frameworks.

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use rollcall_shared::{
    Decoded, FieldError, KeyPrefix, Layout, LeaseId, Revision, ServiceInstance,
    api::{TTL_S_MAX, TTL_S_MIN},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    etcd::{
        connect::{AskError, ConnectError, Connection, EtcdClient, is_member_failure},
        keepalive::{LeaseKeeping, LeaseState},
        lease::{self, LeaseError},
    },
};

/// How often a write is tried at once where the key changes between reading and writing it.
const WRITE_TRIES_MAX: usize = 4;

/// By how much each lease that is kept draws out the return after an outage: 1,000 a second.
const RETURN_SPREAD_PER_LEASE: Duration = Duration::from_millis(1);

/// Over how long they come back at the most: all within 5 s of etcd's return.
const RETURN_SPREAD_MAX: Duration = Duration::from_secs(2);

/// How many commands to a registration's task may wait.
const COMMANDS_MAX: usize = 4;

/// How instances are registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrarConfig {
    /// How values are written.
    pub layout: Layout,
    /// Below which prefix.
    pub prefix: KeyPrefix,
    /// How long a key outlives its program, in seconds, from [`TTL_S_MIN`] to [`TTL_S_MAX`]; `None` for keys that are
    /// permanent.
    pub ttl_s: Option<i64>,
    /// Whether a key that stands already, under a lease that is not the registration's own, is taken over. Without it
    /// that is [`RegisterError::Standing`].
    pub takeover: bool,
}

/// Why an instance is not registered, or not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The layout cannot carry the instance, or it makes no sound key.
    #[error("{}", .0.iter().map(|error| format!("{}: {}", error.pointer, error.detail)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// etcd grants no such TTL.
    #[error("a TTL is {TTL_S_MIN} to {TTL_S_MAX} s, not {0} s")]
    BadTtl(i64),
    /// The key stands already and is not this registration's.
    #[error("{key} stands already, {}{}", lease_in_words(*lease), holder_in_words(instance.as_deref()))]
    Standing {
        /// The key.
        key: String,
        /// The lease it stands under; `None` for a permanent key.
        lease: Option<LeaseId>,
        /// What stands there.
        value: Vec<u8>,
        /// What that says, where it decodes.
        instance: Option<Box<ServiceInstance>>,
    },
    /// An update may change anything but what the key is made of.
    #[error("the update would be written to {to}, and {from} is what stands")]
    KeyChanged {
        /// The key of the registration.
        from: String,
        /// The key that the update makes.
        to: String,
    },
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The lease could not be granted or revoked.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The key could not be written.
    #[error("etcd did not write {key}: {source}")]
    Write {
        /// The key.
        key: String,
        /// What etcd answered.
        source: Box<etcd_client::Error>,
    },
    /// Writing the key took longer than a request may.
    #[error("etcd did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The key changed with each try to write it.
    #[error("{key} changes too often to be written")]
    Contended {
        /// The key.
        key: String,
    },
    /// The registration has ended.
    #[error("the registration has ended")]
    Ended,
}

impl RegisterError {
    /// Whether it may pass by itself, and what was asked may have been carried out.
    fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout(_) | Self::Lease(LeaseError::Connect(_) | LeaseError::Timeout(_)) => true,
            Self::Write { source: error, .. } | Self::Lease(LeaseError::Request(error)) => is_member_failure(error),
            _ => false,
        }
    }
}

fn holder_in_words(instance: Option<&ServiceInstance>) -> String {
    instance.map_or_else(String::new, |instance| {
        format!(": it belongs to {} of {} at {}", instance.id, instance.name, instance.endpoints.join(", "))
    })
}

fn lease_in_words(lease: Option<LeaseId>) -> String {
    lease.map_or_else(|| "permanently".to_owned(), |lease| format!("under lease {lease}"))
}

/// What became of a registration. Changes are there to be watched by [`Registration::state`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationState {
    /// The key was written, and its lease is renewed.
    Alive,
    /// Renewing or writing fails. The key still stands, as long as its lease lives.
    Retrying {
        /// Since when.
        since: Instant,
        /// What went wrong last.
        why: Arc<str>,
    },
    /// The key does not stand: it is not written yet, or its lease is gone. It is being registered anew.
    Lost {
        /// Since when.
        since: Instant,
        /// What is in the way.
        why: Arc<str>,
    },
    /// The registration was given up, and is tended no more.
    Ended,
}

/// Registers instances in one layout below one prefix; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registrar {
    keeping: LeaseKeeping,
    config: Arc<RegistrarConfig>,
    nested_names: bool,
}

impl Registrar {
    /// A registrar with renewals of its own. Must be called within a tokio runtime.
    pub fn new(connection: Connection, config: RegistrarConfig) -> Self {
        Self::sharing(LeaseKeeping::start(connection, &CancellationToken::new()), config)
    }

    /// A registrar that shares the connection and the streams of `keeping`.
    pub fn sharing(keeping: LeaseKeeping, config: RegistrarConfig) -> Self {
        Self { keeping, config: Arc::new(config), nested_names: false }
    }

    /// The same registrar, for names and ids that may hold `/` where the framework lets them: see
    /// [`Layout::encode_nested`].
    #[must_use]
    pub fn with_nested_names(mut self) -> Self {
        self.nested_names = true;
        self
    }

    /// Registers `instance`, and answers when its key stands. Each member of etcd is asked. Given up while it is waited for,
    /// it may leave the key behind until its lease is over.
    ///
    /// # Errors
    /// Where the instance cannot be written in this layout, where its key stands already, or where etcd is away or
    /// refuses. Then neither key nor lease is left behind, as far as etcd can be reached.
    pub async fn register(&self, instance: &ServiceInstance) -> Result<Registration, RegisterError> {
        let mut tenure = self.tenure(instance)?;
        if let Err(error) = tenure.establish().await {
            if let Some(lease) = tenure.give_up_lease() {
                // Where this fails too, the lease runs out by itself.
                let _ = lease::revoke(tenure.keeping.connection(), lease).await;
            }
            return Err(error);
        }
        Ok(Registration::start(self.clone(), tenure, Phase::Standing, RegistrationState::Alive))
    }

    /// Registers `instance` as soon as it can be: also where etcd is away now, or the key stands under somebody else's
    /// lease. [`Registration::state`] tells when it has been.
    ///
    /// # Errors
    /// Only where trying would be in vain: [`RegisterError::Invalid`] and [`RegisterError::BadTtl`].
    pub fn register_eventually(&self, instance: &ServiceInstance) -> Result<Registration, RegisterError> {
        let lost = RegistrationState::Lost { since: Instant::now(), why: "it is being registered".into() };
        Ok(Registration::start(self.clone(), self.tenure(instance)?, Phase::Writing, lost))
    }

    /// Whether `instance` could be registered, without asking etcd.
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] and [`RegisterError::BadTtl`].
    pub fn check(&self, instance: &ServiceInstance) -> Result<(), RegisterError> {
        self.tenure(instance).map(drop)
    }

    fn tenure(&self, instance: &ServiceInstance) -> Result<Tenure, RegisterError> {
        if let Some(ttl_s) = self.config.ttl_s
            && !(TTL_S_MIN..=TTL_S_MAX).contains(&ttl_s)
        {
            return Err(RegisterError::BadTtl(ttl_s));
        }
        let (key, value) = self.encode(instance)?;
        Ok(Tenure {
            keeping: self.keeping.clone(),
            config: Arc::clone(&self.config),
            key,
            value,
            lease: None,
            former_lease: None,
            written: false,
            contested: false,
            uncertain: false,
            created: None,
            lease_out: watch::channel(None).0,
        })
    }

    fn encode(&self, instance: &ServiceInstance) -> Result<(String, Vec<u8>), RegisterError> {
        let RegistrarConfig { layout, prefix, .. } = &*self.config;
        let written =
            if self.nested_names { layout.encode_nested(prefix, instance) } else { layout.encode(prefix, instance) };
        written.map_err(RegisterError::Invalid)
    }
}

/// One registered instance. Dropping it stops the renewals, and the key vanishes when its lease has run out, as after a
/// crash; [`Self::deregister`] and [`Self::withdraw`] remove it at once.
#[derive(Debug)]
pub struct Registration {
    registrar: Registrar,
    key: String,
    state: watch::Receiver<RegistrationState>,
    lease: watch::Receiver<Option<LeaseId>>,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Update { value: Vec<u8>, done: oneshot::Sender<Result<(), RegisterError>> },
    Leave { how: Leaving, done: oneshot::Sender<Result<(), RegisterError>> },
}

#[derive(Debug, Clone, Copy)]
enum Leaving {
    RevokeLease,
    DeleteKey,
}

impl Registration {
    fn start(registrar: Registrar, tenure: Tenure, phase: Phase, state: RegistrationState) -> Self {
        let (state_out, state) = watch::channel(state);
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (key, lease) = (tenure.key.clone(), tenure.lease_out.subscribe());
        // The task ends with this handle, whose drop closes the channel.
        let runtime = tenure.keeping.runtime().clone();
        runtime.spawn(tend(tenure, phase, state_out, inbox));
        Self { registrar, key, state, lease, commands }
    }

    /// What becomes of the registration.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// The key of the instance.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The lease the key stands under now; another one after each loss. `None` for a permanent key, and before there is
    /// one.
    pub fn lease(&self) -> Option<LeaseId> {
        *self.lease.borrow()
    }

    /// Writes `instance` over what stands, under the same lease.
    ///
    /// # Errors
    /// Where the layout cannot carry it or its key is another one: then nothing changes. Where etcd is away, or refuses:
    /// then it goes on being tried, for ever.
    pub async fn update(&self, instance: &ServiceInstance) -> Result<(), RegisterError> {
        let (key, value) = self.registrar.encode(instance)?;
        if key != self.key {
            return Err(RegisterError::KeyChanged { from: self.key.clone(), to: key });
        }
        self.command(|done| Command::Update { value, done }).await
    }

    /// Ends the registration by revoking its lease, so that nothing is left of it; a permanent key is deleted. It goes on
    /// though it is not waited for any more.
    ///
    /// # Errors
    /// Where etcd refuses, or is away for longer than a request may take. The lease is renewed no longer in any case.
    pub async fn deregister(self) -> Result<(), RegisterError> {
        self.command(|done| Command::Leave { how: Leaving::RevokeLease, done }).await
    }

    /// Ends the registration by deleting its key, and leaves the lease to run out, as the Go frameworks do when their
    /// programs stop. Whoever looks sees that the program left by itself: its lease outlives its key.
    ///
    /// # Errors
    /// As [`Self::deregister`].
    pub async fn withdraw(self) -> Result<(), RegisterError> {
        self.command(|done| Command::Leave { how: Leaving::DeleteKey, done }).await
    }

    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), RegisterError>>) -> Command,
    ) -> Result<(), RegisterError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| RegisterError::Ended)?;
        answer.await.map_err(|_| RegisterError::Ended)?
    }
}

/// What the task of a registration is at.
#[derive(Debug)]
enum Phase {
    /// Writing the key, with a new lease where there is none.
    Writing,
    /// Waiting to write again.
    Resting { until: Instant },
    /// The key was written; the lease is watched.
    Standing,
}

/// What a task of a registration wakes up for.
enum Woken {
    Command(Option<Command>),
    Written(Result<(), RegisterError>),
    Rested,
    Lease(Option<LeaseState>),
}

async fn tend(
    mut tenure: Tenure,
    mut phase: Phase,
    state: watch::Sender<RegistrationState>,
    mut inbox: mpsc::Receiver<Command>,
) {
    let mut backoff = Backoff::new();
    loop {
        let woken = match phase {
            // A write that a command cuts short may still reach etcd: what follows is guarded by the lease alike.
            Phase::Writing => tokio::select! {
                biased;
                command = inbox.recv() => Woken::Command(command),
                // Boxed, as all that is rare here: what waits for nothing but its lease is small then.
                outcome = Box::pin(in_turn(&mut tenure)) => Woken::Written(outcome),
            },
            Phase::Resting { until } => tokio::select! {
                command = inbox.recv() => Woken::Command(command),
                () = sleep_until(until) => Woken::Rested,
            },
            Phase::Standing => tokio::select! {
                command = inbox.recv() => Woken::Command(command),
                lease = tenure.lease_changed() => Woken::Lease(lease),
            },
        };
        phase = match woken {
            Woken::Command(Some(Command::Leave { how, done })) => {
                // Nobody may wait for the answer any more.
                let _ = done.send(Box::pin(tenure.leave(how)).await);
                break;
            }
            Woken::Command(Some(Command::Update { value, done })) => {
                tenure.value = value;
                let outcome = Box::pin(tenure.establish()).await;
                let next = after_write(&tenure, outcome.as_ref().err(), &mut backoff, &state);
                let _ = done.send(outcome);
                next
            }
            Woken::Written(outcome) => after_write(&tenure, outcome.err().as_ref(), &mut backoff, &state),
            Woken::Rested => Phase::Writing,
            Woken::Lease(Some(LeaseState::Alive { .. })) => {
                say(&state, RegistrationState::Alive);
                Phase::Standing
            }
            Woken::Lease(Some(LeaseState::Retrying { since, why })) => {
                say(&state, RegistrationState::Retrying { since, why });
                Phase::Standing
            }
            Woken::Lease(Some(LeaseState::Lost)) => {
                if let Some(lease) = tenure.lose_lease() {
                    tracing::warn!(key = tenure.key, %lease, "the lease is gone; registering anew");
                }
                say(&state, RegistrationState::Lost { since: Instant::now(), why: "the lease is gone".into() });
                Phase::Resting { until: Instant::now() + spread(tenure.keeping.len()).mul_f64(fastrand::f64()) }
            }
            Woken::Command(None) => break,
            Woken::Lease(None) => {
                tracing::warn!(key = tenure.key, "renewals have ended; the key runs out with its lease");
                break;
            }
        };
    }
    tenure.give_up_lease();
    state.send_replace(RegistrationState::Ended);
}

/// Makes the key stand when its turn has come.
async fn in_turn(tenure: &mut Tenure) -> Result<(), RegisterError> {
    let keeping = tenure.keeping.clone();
    let _turn = keeping.turn().await;
    tenure.establish().await
}

/// Over how long those that lost their leases in one outage come back, where so many are kept.
fn spread(leases: usize) -> Duration {
    let leases = u32::try_from(leases).unwrap_or(u32::MAX);
    RETURN_SPREAD_PER_LEASE.saturating_mul(leases).min(RETURN_SPREAD_MAX)
}

fn after_write(
    tenure: &Tenure,
    error: Option<&RegisterError>,
    backoff: &mut Backoff,
    state: &watch::Sender<RegistrationState>,
) -> Phase {
    let Some(error) = error else {
        tracing::debug!(key = tenure.key, lease = tenure.lease_id().map(tracing::field::display), "registered");
        backoff.reset();
        say(state, RegistrationState::Alive);
        return Phase::Standing;
    };
    let since = match &*state.borrow() {
        RegistrationState::Retrying { since, .. } | RegistrationState::Lost { since, .. } => *since,
        RegistrationState::Alive | RegistrationState::Ended => Instant::now(),
    };
    let why: Arc<str> = error.to_string().into();
    tracing::debug!(key = tenure.key, why = &*why, "registering fails");
    say(
        state,
        if tenure.written {
            RegistrationState::Retrying { since, why }
        } else {
            RegistrationState::Lost { since, why }
        },
    );
    Phase::Resting { until: Instant::now() + backoff.rest() }
}

fn say(state: &watch::Sender<RegistrationState>, next: RegistrationState) {
    state.send_if_modified(|state| {
        let changed = *state != next;
        *state = next;
        changed
    });
}

/// A key, what shall stand under it, and the lease it is held by.
#[derive(Debug)]
struct Tenure {
    keeping: LeaseKeeping,
    config: Arc<RegistrarConfig>,
    key: String,
    value: Vec<u8>,
    lease: Option<(LeaseId, watch::Receiver<LeaseState>)>,
    /// The lease before this one: a thawing etcd shows its key for some milliseconds more.
    former_lease: Option<LeaseId>,
    /// Whether the key was written, under the lease of now.
    written: bool,
    /// Whether the last try found the key to be somebody else's.
    contested: bool,
    /// Whether a write was sent that was not answered: it may have been carried out.
    uncertain: bool,
    /// When the key that was written came to be: by this one's hand or, where it was taken over, by another's.
    created: Option<Revision>,
    lease_out: watch::Sender<Option<LeaseId>>,
}

/// What one transaction found.
enum Found {
    Written { revision: Revision },
    Other(Standing),
    Nothing,
}

/// What stands under the key.
struct Standing {
    lease: Option<LeaseId>,
    create_revision: Revision,
    mod_revision: Revision,
    value: Vec<u8>,
}

impl Tenure {
    fn lease_id(&self) -> Option<LeaseId> {
        self.lease.as_ref().map(|(lease, _)| *lease)
    }

    /// The next state of the lease; never for a permanent key. `None` where the hub has ended.
    async fn lease_changed(&mut self) -> Option<LeaseState> {
        match &mut self.lease {
            Some((_, state)) => {
                // The last state is read also where it came before the channel closed.
                let open = state.changed().await.is_ok();
                let last = state.borrow_and_update().clone();
                (open || last == LeaseState::Lost).then_some(last)
            }
            None => std::future::pending().await,
        }
    }

    /// Renews the lease no longer.
    fn give_up_lease(&mut self) -> Option<LeaseId> {
        let (lease, _) = self.lease.take()?;
        self.keeping.release(lease);
        self.former_lease = Some(lease);
        self.lease_out.send_replace(None);
        Some(lease)
    }

    /// The lease is gone, and with it the key.
    fn lose_lease(&mut self) -> Option<LeaseId> {
        self.written = false;
        self.give_up_lease()
    }

    /// Makes the key stand with the value wanted, under a living lease.
    async fn establish(&mut self) -> Result<(), RegisterError> {
        if self.lease.as_ref().is_some_and(|(_, state)| *state.borrow() == LeaseState::Lost) {
            self.lose_lease();
        }
        if let (Some(ttl_s), None) = (self.config.ttl_s, &self.lease) {
            // Once somebody else's key was met, it is asked for before a lease is granted: waiting for it to go leaves
            // no leases behind.
            if self.contested
                && let Found::Other(standing) = self.transact(Expected::Never).await?
            {
                self.check_owner(standing)?;
            }
            let (lease, granted_ttl_s) = lease::grant(self.keeping.connection(), ttl_s).await?;
            self.lease = Some((lease, self.keeping.keep(lease, granted_ttl_s)));
            self.lease_out.send_replace(Some(lease));
        }
        let mut expected = Expected::Absent;
        let mut met = None;
        for _ in 0..WRITE_TRIES_MAX {
            expected = match self.transact(expected).await {
                Ok(Found::Written { revision }) => {
                    self.created = met.or(Some(revision));
                    self.written = true;
                    self.contested = false;
                    return Ok(());
                }
                Ok(Found::Nothing) => {
                    met = None;
                    Expected::Absent
                }
                Ok(Found::Other(standing)) => {
                    let mod_revision = standing.mod_revision;
                    met = Some(standing.create_revision);
                    if let Err(error) = self.check_owner(standing) {
                        self.contested = true;
                        if !self.written
                            && let Some(lease) = self.give_up_lease()
                        {
                            // Where this fails, the lease runs out by itself.
                            let _ = lease::revoke(self.keeping.connection(), lease).await;
                        }
                        return Err(error);
                    }
                    Expected::Revision(mod_revision)
                }
                Err(error) => {
                    if is_lease_not_found(&error) {
                        self.lose_lease();
                    }
                    return Err(error);
                }
            };
        }
        Err(RegisterError::Contended { key: self.key.clone() })
    }

    fn check_owner(&self, standing: Standing) -> Result<(), RegisterError> {
        let Standing { lease, create_revision, value, .. } = standing;
        let own = match lease {
            Some(_) => lease == self.lease_id() || lease == self.former_lease,
            // Without a lease there is but the key itself to know it by.
            None if self.config.ttl_s.is_some() => false,
            None => self.created == Some(create_revision) || (self.uncertain && value == self.value),
        };
        if own || self.config.takeover {
            return Ok(());
        }
        let RegistrarConfig { layout, prefix, .. } = &*self.config;
        let instance = match layout.decode(prefix, &self.key, &value).decoded {
            Decoded::Instance(instance) => Some(Box::new(instance)),
            Decoded::Malformed { .. } => None,
        };
        Err(RegisterError::Standing { key: self.key.clone(), lease, value, instance })
    }

    /// Writes the key where it is as expected, and otherwise says what stands there.
    async fn transact(&mut self, expected: Expected) -> Result<Found, RegisterError> {
        let key = self.key.as_str();
        let compare = match expected {
            Expected::Absent => Compare::version(key, CompareOp::Equal, 0),
            Expected::Revision(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
            Expected::Never => Compare::version(key, CompareOp::Less, 0),
        };
        let put = self.lease_id().map_or_else(PutOptions::new, |lease| PutOptions::new().with_lease(lease.0));
        let txn = Txn::new()
            .when([compare])
            .and_then([TxnOp::put(key, self.value.as_slice(), Some(put))])
            .or_else([TxnOp::get(key, None)]);
        let answer = match expected {
            Expected::Never => self.send(txn).await?,
            Expected::Absent | Expected::Revision(_) => {
                // Also where nobody waits for the answer any more.
                self.uncertain = true;
                let answer = self.send(txn).await;
                self.uncertain = answer.as_ref().is_err_and(RegisterError::is_passing);
                answer?
            }
        };
        if answer.succeeded() {
            return Ok(Found::Written { revision: answer.header().map_or(0, etcd_client::ResponseHeader::revision) });
        }
        let standing = answer.op_responses().into_iter().find_map(|answer| match answer {
            TxnOpResponse::Get(answer) => answer.kvs().first().map(|kv| Standing {
                lease: LeaseId::from_etcd(kv.lease()),
                create_revision: kv.create_revision(),
                mod_revision: kv.mod_revision(),
                value: kv.value().to_vec(),
            }),
            _ => None,
        });
        Ok(standing.map_or(Found::Nothing, Found::Other))
    }

    /// Removes what this registration left in etcd, and nothing else. Tried as long as one request may take: a member that
    /// is just being changed for another is no reason to leave a key behind.
    async fn leave(&mut self, how: Leaving) -> Result<(), RegisterError> {
        let lease = self.give_up_lease();
        let deadline = Instant::now() + self.keeping.connection().request_timeout();
        let mut backoff = Backoff::new();
        loop {
            match self.remove(how, lease).await {
                Err(error) if error.is_passing() && Instant::now() < deadline => sleep(backoff.rest()).await,
                outcome => return outcome,
            }
        }
    }

    async fn remove(&self, how: Leaving, lease: Option<LeaseId>) -> Result<(), RegisterError> {
        let key = self.key.as_str();
        let own = match (how, lease) {
            // What was sent and not answered may come after a delete: only the end of the lease ends that, too.
            (Leaving::DeleteKey, Some(lease)) if !self.uncertain => {
                // The comparison leaves alone what somebody else has put there meanwhile.
                vec![Compare::lease(key, CompareOp::Equal, lease.0)]
            }
            (_, Some(lease)) => {
                return match lease::revoke(self.keeping.connection(), lease).await {
                    Ok(()) | Err(LeaseError::Gone(_)) => Ok(()),
                    Err(error) => Err(error.into()),
                };
            }
            (_, None) if self.config.ttl_s.is_some() => return Ok(()),
            (_, None) => match self.created {
                Some(created) => vec![Compare::create_revision(key, CompareOp::Equal, created)],
                None if self.uncertain => vec![
                    Compare::lease(key, CompareOp::Equal, 0),
                    Compare::value(key, CompareOp::Equal, self.value.as_slice()),
                ],
                None => return Ok(()),
            },
        };
        self.send(Txn::new().when(own).and_then([TxnOp::delete(key, None)])).await.map(drop)
    }

    async fn send(&self, txn: Txn) -> Result<etcd_client::TxnResponse, RegisterError> {
        let connection = self.keeping.connection();
        let answer = connection
            .ask(usize::MAX, |client: EtcdClient| {
                let txn = txn.clone();
                async move { client.kv().txn(txn).await }
            })
            .await;
        answer.map_err(|error| match error {
            AskError::Connect(error) => RegisterError::Connect(error),
            AskError::Request(source) => RegisterError::Write { key: self.key.clone(), source },
            AskError::Timeout(after) => RegisterError::Timeout(after),
        })
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.give_up_lease();
    }
}

/// What a transaction takes the key to be.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Absent,
    Revision(Revision),
    /// Nothing that can be: the transaction only reads.
    Never,
}

fn is_lease_not_found(error: &RegisterError) -> bool {
    match error {
        RegisterError::Write { source, .. } => {
            matches!(&**source, etcd_client::Error::GRpcStatus(status) if status.code() == tonic::Code::NotFound)
        }
        _ => false,
    }
}
