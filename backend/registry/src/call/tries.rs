//! The tries of one call, whatever the protocol: whom to try next, how long, and whether at all.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tower::retry::budget::Budget as _;

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
    deadline: Option<Instant>,
    made: u32,
    tried: Vec<Address>,
}

/// One try.
pub(super) struct Try<T> {
    pub(super) call: InFlight<T>,
    began: Instant,
}

impl<'pool, T> Tries<'pool, T> {
    pub(super) fn new(pool: &'pool Shared<T>, repeatable: bool) -> Self {
        let deadline = pool.config.timeout.map(|timeout| Instant::now() + timeout);
        pool.budget.deposit();
        Self { pool, repeatable, deadline, made: 0, tried: Vec::new() }
    }

    /// Whom to try now.
    pub(super) async fn next(&mut self) -> Result<Try<T>, CallError> {
        let choice = self.pool.choose(is_among(&self.tried), self.deadline).await?;
        self.made += 1;
        Ok(Try { call: choice.start(), began: Instant::now() })
    }

    /// What `answer` gives, if it gives it in time.
    pub(super) async fn in_time<F: Future>(&self, one: &Try<T>, answer: F) -> Result<F::Output, CallError> {
        let Some(deadline) = self.deadline else { return Ok(answer.await) };
        timeout_at(deadline, answer).await.map_err(|_| {
            self.pool.report(&one.call, Outcome::Failed);
            let after = self.pool.config.timeout.unwrap_or_default();
            CallError::TimedOut { service: self.pool.service.clone(), after_ms: in_ms(after) }
        })
    }

    /// A try was answered.
    pub(super) fn answered(&self, one: &Try<T>) -> AnsweredBy {
        self.pool.report(&one.call, Outcome::Answered(one.began.elapsed()));
        AnsweredBy { instance: one.call.instance().clone(), address: one.call.address().clone() }
    }

    /// A try failed. Whether there is to be another one, if the request can be `sent_again` at all; it is then to be made at
    /// once.
    pub(super) async fn again(&mut self, one: Try<T>, failure: Failure, sent_again: bool) -> bool {
        let (outcome, allowed) = match failure {
            Failure::Refused => (Outcome::Refused, true),
            Failure::Unsent => (Outcome::Unknown, true),
            Failure::Broken | Failure::Unavailable => (Outcome::Failed, self.repeatable),
            Failure::Final => (Outcome::Unknown, false),
        };
        self.pool.report(&one.call, outcome);
        if !(sent_again && allowed) || self.made >= self.pool.config.retry.attempts || !self.pool.budget.withdraw() {
            return false;
        }
        self.tried.push(one.call.address().clone());
        drop(one);
        if self.pool.is_exhausted(is_among(&self.tried)) {
            sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await;
        }
        true
    }
}

fn is_among<T>(tried: &[Address]) -> impl Fn(&Node<T>) -> bool {
    |node| tried.contains(node.address())
}
