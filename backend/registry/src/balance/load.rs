//! What an address was seen to do: its calls in flight, its latency, its failures in a row. Written by every call without
//! a lock: two calls that end at once may lose one sample, which the next one makes good.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// How long it takes until a latency counts e times less. A longer one than expected counts at once and in full, so that a
/// slow instance is noticed by its first slow answer and forgiven by time.
pub const LATENCY_DECAY: Duration = Duration::from_secs(5);

/// What a call that failed counts as, where its address is not slower anyway: to fail quickly must not look good.
pub const FAILURE_COST: Duration = Duration::from_secs(1);

/// The cost of an address that has calls in flight and has answered none yet: one call at a time until it is known.
const UNKNOWN_COST: u64 = u64::MAX / 2;

/// How long it takes until a latency that nothing was added to counts half.
const HALF_LIFE_MS: u64 = 3_466;

/// One to a cache line: two addresses that are called at once do not slow each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Load {
    in_flight: AtomicU32,
    failures: AtomicU32,
    /// The mean latency in nanoseconds, weighted by age; 0 for none known.
    latency_ns: AtomicU64,
    /// When it was last added to, in milliseconds since the balancer began.
    sampled_ms: AtomicU64,
}

impl Load {
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What one more call would cost: the latency times the calls in flight.
    #[inline]
    pub(super) fn cost(&self, now_ms: u64) -> u64 {
        let in_flight = u64::from(self.in_flight());
        match self.latency_ns.load(Ordering::Relaxed) {
            0 if in_flight == 0 => 0,
            0 => UNKNOWN_COST + in_flight,
            // In steps of halves, which a shift can do: while calls come in, each adds its share exactly.
            latency => {
                let age_ms = now_ms.saturating_sub(self.sampled_ms.load(Ordering::Relaxed));
                let halvings = u32::try_from(age_ms / HALF_LIFE_MS).unwrap_or(u32::MAX);
                latency.checked_shr(halvings).unwrap_or(0).saturating_mul(in_flight + 1)
            }
        }
    }

    pub(super) fn answered(&self, latency: Duration, now_ms: u64) {
        // Reading first leaves the line where it is in each core's cache.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.sample(latency, now_ms);
    }

    /// An answer would have taken longer than `after`, whether that is long or not.
    pub(super) fn given_up(&self, after: Duration, now_ms: u64) {
        if in_ns(after) > self.latency_ns.load(Ordering::Relaxed) {
            self.sample(after, now_ms);
        }
    }

    /// Notes a failure.
    pub(super) fn failed(&self, now_ms: u64) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.sample(FAILURE_COST, now_ms);
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Begins anew, after so many failures.
    pub(super) fn begin_anew(&self, failures: u32) {
        self.failures.store(failures, Ordering::Relaxed);
        self.latency_ns.store(0, Ordering::Relaxed);
    }

    fn sample(&self, latency: Duration, now_ms: u64) {
        let sample = in_ns(latency);
        let known = self.latency_ns.load(Ordering::Relaxed);
        let age_ms = now_ms.saturating_sub(self.sampled_ms.swap(now_ms, Ordering::Relaxed));
        let mean = if sample >= known { sample } else { blend(known, sample, age_ms) };
        self.latency_ns.store(mean, Ordering::Relaxed);
    }
}

/// At least 1: 0 is for what is not known.
fn in_ns(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// The mean of what was known and a lower sample, the more of the sample the older the knowledge.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of two latencies lies between them, and its last digits do not matter"
)]
fn blend(known: u64, sample: u64, age_ms: u64) -> u64 {
    // Calls that end within one millisecond of one another count as if a tenth of one lay between them.
    let age_s = (age_ms as f64).max(0.1) / 1_000.0;
    let keep = (-age_s / LATENCY_DECAY.as_secs_f64()).exp();
    (known as f64 * keep + sample as f64 * (1.0 - keep)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgiven_by_time() {
        let load = Load::default();
        load.answered(MS, 0);
        let calm = load.cost(0);
        load.answered(100 * MS, 10);
        assert_eq!(load.cost(10), 100 * calm);
        load.answered(MS, 20);
        assert!(load.cost(20) > 99 * calm, "one quick answer does not undo a slow one");
        for second in 1..=60 {
            load.answered(MS, second * 1_000);
        }
        assert!(load.cost(60_000) < 2 * calm, "{}", load.cost(60_000));
    }

    #[test]
    fn what_nobody_calls_is_forgiven_too() {
        let load = Load::default();
        load.answered(1_000 * MS, 0);
        let cost = load.cost(0);
        assert_eq!(load.cost(HALF_LIFE_MS), cost / 2);
        assert_eq!(load.cost(u64::MAX), 0);
    }

    #[test]
    fn calls_in_flight_make_an_address_dearer() {
        let load = Load::default();
        assert_eq!(load.cost(0), 0);
        load.begin();
        assert!(load.cost(0) >= UNKNOWN_COST, "one at a time until something is known");
        load.answered(MS, 0);
        let one = load.cost(0);
        load.begin();
        assert_eq!(load.cost(0), one / 2 * 3);
        load.end();
        load.end();
        assert_eq!(load.cost(0), one / 2);
    }

    #[test]
    fn what_was_given_up_late_counts_as_slow_and_early_as_nothing() {
        let load = Load::default();
        load.answered(10 * MS, 0);
        let calm = load.cost(0);
        load.given_up(MS, 0);
        assert_eq!(load.cost(0), calm);
        load.given_up(100 * MS, 0);
        assert_eq!(load.cost(0), 10 * calm);
    }

    #[test]
    fn to_fail_quickly_is_not_to_be_quick() {
        let load = Load::default();
        load.failed(0);
        assert_eq!(u128::from(load.cost(0)), FAILURE_COST.as_nanos());
        assert_eq!(load.failures(), 1);
        load.answered(MS, 1);
        assert_eq!(load.failures(), 0);
    }
}
