//! The addresses of one service, kept up to date by a task of its own: it follows the list, and tries the addresses that
//! were left out.
//!
//! A trial is a connection and nothing more: no caller pays for it, and an address that takes none stays left out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{
    future::OptionFuture,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::retry::budget::{Budget as _, TpsBudget};
use tracing::{debug, info, warn};

use super::{CallConfig, CallError, FIRST_LIST_TIMEOUT, WhenEmpty, in_ms, ticker::Ticker};
use crate::{
    balance::{Address, Balancer, InFlight, Node, Outcome, Protocol, members},
    discovery::ServiceView,
};

/// How many addresses are tried at once.
const TRIALS_MAX: usize = 16;

/// How long an instance is waited for at the most, whatever is configured.
const WAIT_LIMIT: Duration = Duration::from_hours(24 * 365);

/// How long a trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How many calls the budget of retries is told of at once: a share of that many is plenty.
const DEPOSITS_MAX: u32 = 20_000;

/// Whether anybody can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Nothing is known yet; and why, where etcd cannot be asked.
    Unknown(Option<Arc<str>>),
    /// The list holds nobody that can be called, of so many instances.
    Empty(usize),
    /// Somebody.
    Somebody,
}

/// The addresses of one service. The task that follows its list ends when this is dropped.
pub(super) struct Pool<T> {
    shared: Arc<Shared<T>>,
    _follows: DropGuard,
}

impl<T> std::ops::Deref for Pool<T> {
    type Target = Shared<T>;

    fn deref(&self) -> &Shared<T> {
        &self.shared
    }
}

/// What the callers share with the task.
pub(super) struct Shared<T> {
    pub(super) service: Arc<str>,
    pub(super) config: CallConfig,
    pub(super) balancer: Balancer<T>,
    budget: TpsBudget,
    /// Calls that the budget does not know of yet. It has a lock, which those that need no second try do not wait for.
    calls: AtomicU32,
    protocol: Protocol,
    standing: watch::Sender<Standing>,
    /// An address was left out: its trial is to be thought of.
    ejected: Notify,
    pub(super) ticker: Ticker,
}

impl<T: Send + Sync + 'static> Pool<T> {
    /// Follows `view`, keeping with each address what `make` gives for it. `alive` is what keeps the view fresh. Must be
    /// called within a tokio runtime.
    pub(super) fn new(
        service: &str,
        protocol: Protocol,
        config: CallConfig,
        view: watch::Receiver<ServiceView>,
        alive: impl Send + 'static,
        make: impl FnMut(&Address) -> Option<T> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            service: service.into(),
            balancer: Balancer::new(config.picking, config.ejection, Instant::now()),
            budget: config.retry.budget.open(),
            calls: AtomicU32::new(0),
            config,
            protocol,
            standing: watch::channel(Standing::Unknown(None)).0,
            ejected: Notify::new(),
            ticker: Ticker::new(),
        });
        let cancel = CancellationToken::new();
        let following = follow(Arc::clone(&shared), view, make);
        let cancelled = cancel.clone();
        let end = End { shared: Arc::clone(&shared), cancelled: cancel.clone() };
        tokio::spawn(async move {
            let (_alive, _end) = (alive, end);
            cancelled.run_until_cancelled(following).await;
        });
        Self { shared, _follows: cancel.drop_guard() }
    }
}

/// Tells the callers that the task has ended, however it ended: also with the runtime in which the service was first asked
/// for, or by a panic of what the caller gave it.
struct End<T> {
    shared: Arc<Shared<T>>,
    cancelled: CancellationToken,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        self.shared.ticker.end();
        if !self.cancelled.is_cancelled() {
            warn!(service = %self.shared.service, "its instances are followed no longer: the runtime or the task ended");
        }
    }
}

/// Whom a call is made to.
pub(super) struct Chosen<T> {
    pub(super) call: InFlight<T>,
    /// Whether somebody had to come first.
    pub(super) waited: bool,
}

impl<T> Shared<T> {
    /// Somebody to call that `tried` does not name, if there is anybody; waits for somebody as configured, and no longer
    /// than `deadline`.
    pub(super) async fn choose(
        &self,
        tried: impl Fn(&Node<T>) -> bool,
        deadline: Option<Instant>,
    ) -> Result<Chosen<T>, CallError> {
        let mut waited = false;
        loop {
            if let Some(choice) = self.balancer.snapshot().pick_other(&tried) {
                return Ok(Chosen { call: choice.start(), waited });
            }
            Box::pin(self.somebody(deadline)).await?;
            waited = true;
        }
    }

    /// Waits until there is somebody to call.
    async fn somebody(&self, deadline: Option<Instant>) -> Result<(), CallError> {
        let began = Instant::now();
        let patience = match self.config.when_empty {
            WhenEmpty::Fail => FIRST_LIST_TIMEOUT,
            WhenEmpty::Wait(patience) => patience,
        };
        let until = began + deadline.map_or(patience, |deadline| patience.min(deadline - began)).min(WAIT_LIMIT);
        let mut standing = self.standing.subscribe();
        loop {
            let now = standing.borrow_and_update().clone();
            let (why, said) = match now {
                Standing::Somebody => return Ok(()),
                Standing::Unknown(why) => {
                    let said = why.is_some();
                    let why = why.unwrap_or_else(|| "etcd has not answered".into());
                    (CallError::NotKnownYet { service: Arc::clone(&self.service), why }, said)
                }
                Standing::Empty(0) => (CallError::NoInstance { service: Arc::clone(&self.service) }, true),
                Standing::Empty(instances) => {
                    let (service, scheme) = (Arc::clone(&self.service), self.protocol.scheme(self.config.security));
                    (CallError::NoEndpoint { service, instances, scheme }, true)
                }
            };
            if self.config.when_empty == WhenEmpty::Fail && said {
                return Err(why);
            }
            if timeout_at(until, standing.changed()).await.is_err() {
                return Err(match self.config.when_empty {
                    WhenEmpty::Fail => why,
                    WhenEmpty::Wait(_) => CallError::NoneInTime { waited_ms: in_ms(began.elapsed()), why: why.into() },
                });
            }
        }
    }

    /// Whether its list is followed still.
    #[cfg(feature = "http")]
    pub(super) fn is_followed(&self) -> bool {
        !self.ticker.has_ended()
    }

    /// Notes that a call begins, for the budget of retries.
    pub(super) fn begin(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.ticker.wind();
    }

    /// Whether the budget has a retry left, which is then taken.
    pub(super) fn may_retry(&self) -> bool {
        self.settle();
        self.budget.withdraw()
    }

    /// Tells the budget of the calls since the last time, which is a tick ago at the most.
    fn settle(&self) {
        for _ in 0..self.calls.swap(0, Ordering::Relaxed).min(DEPOSITS_MAX) {
            self.budget.deposit();
        }
    }

    /// Whether `tried` names everybody who could be called.
    pub(super) fn is_exhausted(&self, tried: impl Fn(&Node<T>) -> bool) -> bool {
        self.balancer.snapshot().choices().iter().all(|choice| tried(choice))
    }

    /// Notes how a call of `node` ended.
    pub(super) fn report(&self, node: &Node<T>, outcome: Outcome, now: Instant) {
        if self.balancer.report(node, outcome, now) {
            info!(service = %self.service, address = %node.address(), ?outcome, "left out for a while");
            self.ejected.notify_one();
        }
    }

    fn set(&self, view: &ServiceView, make: impl FnMut(&Address) -> Option<T>) {
        let standing = if view.known {
            let members = members(&view.instances, self.protocol, self.config.security);
            debug!(service = %self.service, addresses = members.len(), "the list changed");
            self.balancer.set(members, make);
            let somebody = !self.balancer.snapshot().choices().is_empty();
            if somebody { Standing::Somebody } else { Standing::Empty(view.instances.len()) }
        } else {
            Standing::Unknown(view.away.as_ref().map(|away| Arc::clone(&away.why)))
        };
        self.standing.send_if_modified(|now| {
            let changed = *now != standing;
            *now = standing;
            changed
        });
    }
}

/// Follows the list and tries who was left out, until it is dropped.
async fn follow<T>(
    shared: Arc<Shared<T>>,
    mut view: watch::Receiver<ServiceView>,
    mut make: impl FnMut(&Address) -> Option<T>,
) {
    let mut listed = None;
    let mut trials = FuturesUnordered::new();
    let mut watched = true;
    let mut ticking = None;
    loop {
        let seen = view.borrow_and_update().clone();
        // That etcd went away or came back changes nothing about who can be called.
        if listed.as_ref() != Some(&(seen.known, Arc::clone(&seen.instances))) || !seen.known {
            shared.set(&seen, &mut make);
            listed = Some((seen.known, seen.instances));
        }
        let (due, next) = shared.balancer.due(TRIALS_MAX - trials.len(), Instant::now());
        trials.extend(due.into_iter().map(attempt));
        let next = next.filter(|_| trials.len() < TRIALS_MAX);
        tokio::select! {
            changed = view.changed(), if watched => watched = changed.is_ok(),
            () = shared.ejected.notified() => {}
            () = shared.ticker.tick(&mut ticking) => shared.settle(),
            Some(()) = OptionFuture::from(next.map(sleep_until)) => {}
            Some((node, works)) = trials.next(), if !trials.is_empty() => {
                debug!(service = %shared.service, address = %Node::address(&node), works, "tried what was left out");
                shared.balancer.tried(&node, works, Instant::now());
            }
        }
    }
}

/// Whether the address takes a connection.
async fn attempt<T>(node: Arc<Node<T>>) -> (Arc<Node<T>>, bool) {
    let works = matches!(timeout(TRIAL_TIMEOUT, TcpStream::connect(node.address().as_str())).await, Ok(Ok(_)));
    (node, works)
}
