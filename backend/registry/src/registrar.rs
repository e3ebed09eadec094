//! Registers instances and keeps them registered.
//!
//! A [`Registration`] owns its key, its lease and the one task that tends both: a lost lease means another one and the
//! key put again, with jittered backoff, for ever. Must not know how a value is written (that is the layout's) nor when
//! a lease is renewed (that is [`keepalive`](crate::etcd::keepalive)'s). Many registrations of one process share one
//! [`LeaseKeeping`], and with it one connection and few streams.
//!
//! A key is only ever written over where it is this registration's own: nobody else's is taken by accident, and a value
//! that an operator deleted while its lease lives stays deleted, as with the Go frameworks.

mod tenure;

use std::{sync::Arc, time::Duration};

use rollcall_shared::{
    FieldError, KeyPrefix, Layout, LeaseId, ServiceInstance,
    api::{TTL_S_MAX, TTL_S_MIN},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::tenure::{Leaving, Tenure};
use crate::{
    backoff::Backoff,
    etcd::{
        connect::{ConnectError, Connection, is_member_failure},
        keepalive::{LeaseKeeping, LeaseState},
        lease::{self, LeaseError},
    },
};

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
        Ok(Tenure::new(self.keeping.clone(), Arc::clone(&self.config), key, value))
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

impl Registration {
    fn start(registrar: Registrar, tenure: Tenure, phase: Phase, state: RegistrationState) -> Self {
        let (state_out, state) = watch::channel(state);
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (key, lease) = (tenure.key.clone(), tenure.leases());
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
