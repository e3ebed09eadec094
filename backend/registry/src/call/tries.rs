//! The tries of one call, whatever the protocol: whom to try next, how long, and whether at all.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{AnsweredBy, CallError, Repeat, Repeatable, in_ms, pool::Shared};
use crate::balance::{Address, InFlight, Node, Outcome};

/// How long at the most a call rests before it tries an instance for the second time, since there is no other.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How a try ended that brought no answer to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection stood.
    Refused,
    /// The call never reached the server, which speaks not against it: it closes its connection in good order, say.
    Unsent,
    /// The connection broke, and the call may have been carried out.
    Broken,
    /// The server answered that it is not available.
    Unavailable,
    /// Not for the instance's sake, or such that another would fare no better.
    Final,
}

/// Whether a request may be carried out twice.
pub(super) fn is_repeatable(repeat: Repeat, method: &http::Method, extensions: &http::Extensions) -> bool {
    match extensions.get::<Repeatable>() {
        Some(said) => said.0,
        None => repeat == Repeat::All || method.is_idempotent(),
    }
}

/// The tries of one call.
pub(super) struct Tries<'pool, T> {
    pool: &'pool Shared<T>,
    repeatable: bool,
    timeout: Option<Duration>,
    began: Instant,
    made: u32,
    tried: Vec<Address>,
}

/// One try. Dropped before it ended, it was given up.
pub(super) struct Try<'pool, T> {
    pool: &'pool Shared<T>,
    call: Option<InFlight<T>>,
    began: Instant,
}

impl<T> Try<'_, T> {
    /// The call that it is.
    pub(super) fn call(&self) -> &InFlight<T> {
        self.call.as_ref().expect("a try has its call until it ends")
    }

    /// Whom it asks.
    pub(super) fn answered_by(&self) -> AnsweredBy {
        let call = self.call();
        AnsweredBy { instance: Arc::clone(call.instance()), address: call.address().clone() }
    }

    /// It was answered. The call is in flight until what is given back is dropped.
    pub(super) fn answered(self) -> InFlight<T> {
        self.end(Outcome::Answered)
    }

    fn end(mut self, outcome: impl FnOnce(Duration) -> Outcome) -> InFlight<T> {
        let call = self.call.take().expect("a try ends once");
        let now = Instant::now();
        self.pool.report(&call, outcome(now - self.began), now);
        call
    }
}

impl<T> Drop for Try<'_, T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.pool.report(&call, Outcome::GivenUp(self.began.elapsed()), Instant::now());
        }
    }
}

impl<'pool, T> Tries<'pool, T> {
    /// The tries of a call that has its own time to be answered, besides the configured one.
    pub(super) fn new(pool: &'pool Shared<T>, repeatable: bool, timeout: Option<Duration>) -> Self {
        let timeout = pool.config.timeout.into_iter().chain(timeout).min();
        pool.begin();
        Self { pool, repeatable, timeout, began: Instant::now(), made: 0, tried: Vec::new() }
    }

    fn deadline(&self) -> Option<Instant> {
        self.began.checked_add(self.timeout?)
    }

    /// Whom to try now.
    pub(super) async fn next(&mut self) -> Result<Try<'pool, T>, CallError> {
        let chosen = self.pool.choose(is_among(&self.tried), self.deadline()).await?;
        self.made += 1;
        // What was waited for somebody to come is not that instance's doing.
        let at_once = self.made == 1 && !chosen.waited;
        let began = if at_once { self.began } else { Instant::now() };
        Ok(Try { pool: self.pool, call: Some(chosen.call), began })
    }

    /// What `answer` gives, if it gives it in time.
    pub(super) async fn in_time<F: Future + Unpin>(&self, one: &Try<'_, T>, answer: F) -> Result<F::Output, CallError> {
        let Some(deadline) = self.deadline() else { return Ok(answer.await) };
        self.pool.ticker.until(deadline, one.began, answer).await.ok_or_else(|| {
            // Who had less than half of the time, since it was waited for or others were tried before, is only slow.
            if one.began.saturating_duration_since(self.began) <= self.timeout.unwrap_or_default() / 2 {
                self.pool.report(one.call(), Outcome::Failed, Instant::now());
            }
            let after_ms = in_ms(self.timeout.unwrap_or_default());
            CallError::TimedOut { service: Arc::clone(&self.pool.service), after_ms }
        })
    }

    /// A try failed. Whether there is to be another one, if the request can be `sent_again` at all; it is then to be made at
    /// once.
    pub(super) async fn again(&mut self, one: Try<'_, T>, failure: Failure, sent_again: bool) -> bool {
        let allowed = match failure {
            Failure::Refused | Failure::Unsent => true,
            Failure::Broken | Failure::Unavailable => self.repeatable,
            Failure::Final => false,
        };
        let call = one.end(|after| match failure {
            Failure::Refused => Outcome::Refused,
            Failure::Unsent => Outcome::Unknown,
            Failure::Broken | Failure::Unavailable => Outcome::Failed,
            Failure::Final => Outcome::GivenUp(after),
        });
        if !(sent_again && allowed) || self.made >= self.pool.config.retry.attempts || !self.pool.may_retry() {
            return false;
        }
        self.tried.push(call.address().clone());
        drop(call);
        if self.pool.is_exhausted(is_among(&self.tried)) {
            Box::pin(sleep(PAUSE_MAX.mul_f64(fastrand::f64()))).await;
        }
        true
    }
}

fn is_among<T>(tried: &[Address]) -> impl Fn(&Node<T>) -> bool {
    |node| tried.contains(node.address())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rollcall_shared::ServiceInstance;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        balance::{Ejection, Protocol},
        call::{CallConfig, WhenEmpty, pool::Pool},
        discovery::ServiceView,
    };

    const TIME: Duration = Duration::from_secs(30);

    fn pool() -> (Pool<()>, watch::Sender<ServiceView>) {
        let (list, view) = watch::channel(ServiceView { known: true, ..ServiceView::default() });
        let config = CallConfig {
            when_empty: WhenEmpty::Wait(TIME),
            timeout: Some(TIME),
            ejection: Ejection { failures_in_a_row: 1, ..Ejection::default() },
            ..CallConfig::default()
        };
        (Pool::new("orders", Protocol::Grpc, config, view, (), |_| Some(())), list)
    }

    fn somebody() -> ServiceView {
        let instance = ServiceInstance { endpoints: vec!["grpc://h:1".into()], ..ServiceInstance::default() };
        ServiceView { known: true, instances: [Arc::new(instance)].into(), ..ServiceView::default() }
    }

    /// Whether anybody is left out.
    fn is_anybody_left_out(pool: &Pool<()>) -> bool {
        pool.balancer.due(1, Instant::now()).1.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_not_blamed_for_the_time_that_it_was_waited_for() {
        for (waited_s, blamed) in [(0, true), (29, false)] {
            let (pool, list) = pool();
            let began = Instant::now();
            tokio::spawn(async move {
                sleep(Duration::from_secs(waited_s)).await;
                list.send_replace(somebody());
                pending::<()>().await;
            });
            let mut tries = Tries::new(&pool, false, None);
            let one = tries.next().await.unwrap();
            assert_eq!((one.began - began).as_secs(), waited_s, "its latency counts from here on");
            assert!(matches!(tries.in_time(&one, pending::<()>()).await, Err(CallError::TimedOut { .. })));
            assert_eq!(began.elapsed().as_secs(), 30, "the deadline stays where it was");
            assert_eq!(is_anybody_left_out(&pool), blamed, "after {waited_s} s");
        }
    }
}
