//! How soon readers are told of what has come: at once, unless telling them takes so much of the machine that changes
//! had better be told together.

use std::time::Duration;

use tokio::time::Instant;

/// Between two tellings there is at least so much rest, so that a burst is told together.
pub const REST_MIN: Duration = Duration::from_millis(1);

/// No change waits longer than this for others to go with it.
pub const REST_MAX: Duration = Duration::from_millis(50);

/// A telling is followed by so many times its own length of rest: all of them together take a third of a core.
const REST_FACTOR: u32 = 2;

/// Where several changes come in one rest, waiting a little longer spares most of the work: so many times the length of
/// a telling, but no longer than [`REST_BUSY_MAX`] unless the third of a core asks for it.
const REST_FACTOR_BUSY: u32 = 19;

/// See [`REST_FACTOR_BUSY`].
const REST_BUSY_MAX: Duration = Duration::from_millis(20);

/// So many frames in one telling are several.
const BUSY_FRAMES: usize = 3;

/// When readers were told, up to where, and how long they are to rest.
#[derive(Debug, Default)]
pub struct Pace {
    told_until: u64,
    told_at: Option<Instant>,
    rest: Duration,
    /// A wake-up is on its way.
    waking: bool,
}

/// What is to be done that readers hear of what has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing.
    Not,
    /// They may read up to here.
    Now(u64),
    /// They are to be woken then.
    At(Instant),
}

impl Pace {
    /// Takes in that the ring ends at `end` now.
    pub fn wake(&mut self, end: u64, now: Instant) -> Wake {
        if self.waking || self.told_until == end {
            return Wake::Not;
        }
        match self.told_at.map(|told_at| told_at + self.rest.max(REST_MIN)) {
            Some(at) if at > now => {
                self.waking = true;
                Wake::At(at)
            }
            _ => Wake::Now(self.woken(end, now)),
        }
    }

    /// Takes in that readers are woken now, and gives back up to where they may read.
    pub fn woken(&mut self, end: u64, now: Instant) -> u64 {
        self.waking = false;
        self.told_at = Some(now);
        self.told_until = end;
        end
    }

    /// Takes in how long it took to tell so many frames.
    pub fn told_in(&mut self, took: Duration, frames: usize) {
        let busy = if frames >= BUSY_FRAMES { took.saturating_mul(REST_FACTOR_BUSY) } else { Duration::ZERO };
        let rest = took.saturating_mul(REST_FACTOR).max(busy.min(REST_BUSY_MAX));
        // Counted from the telling's beginning on.
        self.rest = took + rest.min(REST_MAX);
    }

    /// Up to where readers may read.
    pub fn told_until(&self) -> u64 {
        self.told_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_at_once_and_those_that_come_in_a_rest_leave_together() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.wake(0, start), Wake::Not, "there is nothing");
        assert_eq!(pace.wake(1, start), Wake::Now(1));
        assert_eq!(pace.wake(1, start), Wake::Not, "it was told");
        assert_eq!(pace.wake(2, start), Wake::At(start + REST_MIN));
        assert_eq!(pace.wake(3, start), Wake::Not, "they are being woken");
        assert_eq!(pace.told_until(), 1);
        assert_eq!(pace.woken(3, start + REST_MIN), 3);
        assert_eq!(pace.wake(4, start + REST_MIN * 3), Wake::Now(4));
    }

    #[test]
    fn a_rest_is_as_long_as_telling_is_dear_and_never_longer_than_its_bound() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.woken(1, start);
        pace.told_in(Duration::from_millis(2), 1);
        assert_eq!(pace.wake(2, start), Wake::At(start + Duration::from_millis(6)));
        pace.woken(2, start);
        pace.told_in(Duration::from_millis(2), BUSY_FRAMES);
        assert_eq!(pace.wake(3, start), Wake::At(start + Duration::from_millis(22)), "several are worth waiting for");
        pace.woken(3, start);
        pace.told_in(Duration::from_micros(10), BUSY_FRAMES);
        assert_eq!(pace.wake(4, start), Wake::At(start + REST_MIN), "but not where telling them costs next to nothing");
        pace.woken(4, start);
        pace.told_in(Duration::from_millis(8), BUSY_FRAMES);
        assert_eq!(pace.wake(5, start), Wake::At(start + Duration::from_millis(28)));
        pace.woken(5, start);
        pace.told_in(Duration::from_secs(9), 1);
        assert_eq!(pace.wake(6, start), Wake::At(start + Duration::from_secs(9) + REST_MAX));
    }
}
