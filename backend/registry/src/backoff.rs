//! How long to rest between two tries: exponential, jittered, bounded, and never the last one.
//!
//! There is no cap on the number of tries: such caps are why services silently drop out of registries.

use std::time::Duration;

use tokio::time::Instant;

/// The first rest.
const REST_MIN: Duration = Duration::from_millis(100);

/// The longest rest. Together with a connection that takes its full time it keeps a recovery within 5 s of etcd's
/// return.
const REST_MAX: Duration = Duration::from_millis(1_500);

/// Longer than any program waits.
const EVER: Duration = Duration::from_hours(24 * 365);

/// So much later than `now`, or, where that is more than a year, a year: `Duration::MAX` is how people say for ever, and
/// no clock counts that far.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    now + by.min(EVER)
}

/// The rests between tries that fail one after the other.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Nothing has failed yet.
    pub(crate) fn new() -> Self {
        Self { next: REST_MIN }
    }

    /// How long to rest after one more failure: between half and all of a bound that doubles each time, so that many
    /// that failed at once do not come back at once.
    pub(crate) fn rest(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(REST_MAX);
        bound.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Something worked: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.next = REST_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_a_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new();
        let mut bound = REST_MIN;
        for _ in 0..20 {
            let rest = backoff.rest();
            assert!(rest >= bound / 2 && rest <= bound, "{rest:?} of {bound:?}");
            bound = (bound * 2).min(REST_MAX);
        }
        assert_eq!(bound, REST_MAX);
        backoff.reset();
        assert!(backoff.rest() <= REST_MIN);
    }
}
