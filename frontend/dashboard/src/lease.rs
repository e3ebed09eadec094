//! How much of a lease is left, counted down between the server's samples, and when a renewal is overdue.
//!
//! Pure: time comes in as an argument, in milliseconds of a clock that never jumps.
//!
//! What is heard may be old: the server asks each lease again after half of what it last had left, so what is left now
//! is no less than how old that answer is. Counting back, nothing was renewed for at least the TTL less twice what is
//! left, less what messages take. A program renews every third of its TTL (some go-micro versions every half); only
//! where it certainly passed that by is a renewal overdue: a false alarm is worse than a late one.

/// How far two estimates of one deadline may lie apart: etcd rounds what is left down to whole seconds, the server what
/// has passed since, so each is less than a second off on either side; and a message takes a moment.
const DEADLINE_SLACK_MS: f64 = 2_100.0;

/// What a sample's way to the page may take, in seconds.
const SAMPLE_TRIP_S: f64 = 0.7;

/// The longest time between two samples of one lease, in seconds.
const SAMPLE_INTERVAL_MAX_S: f64 = 30.0;

/// How much later than it should a healthy program may renew.
const RENEWAL_SLACK: f64 = 1.15;

/// How many leases a server samples in a second, at the most.
const LEASE_SAMPLES_PER_S: f64 = 1_000.0;

/// The rhythm in which the server speaks of leases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rhythm {
    /// The time between two messages about the leases, in seconds.
    pub interval_s: f64,
    /// How many leases they speak of.
    pub leases: usize,
    /// When the last of them came.
    pub heard_ms: f64,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { interval_s: 5.0, leases: 0, heard_ms: 0.0 }
    }
}

impl Rhythm {
    /// A message about `leases` leases came.
    pub fn hear(&mut self, leases: usize, now_ms: f64) {
        if self.heard_ms > 0.0 {
            let gap_s = (now_ms - self.heard_ms) / 1_000.0;
            // A gap that was longer than another is forgotten within a few.
            self.interval_s = gap_s.max(self.interval_s * 0.7).clamp(1.0, 10.0);
        }
        self.leases = leases;
        self.heard_ms = now_ms;
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 leases")]
    fn slack_s(&self) -> f64 {
        self.interval_s + SAMPLE_TRIP_S + self.leases as f64 / LEASE_SAMPLES_PER_S
    }
}

/// What is known of one lease.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeaseClock {
    /// The TTL it was granted, in seconds.
    pub granted_s: i64,
    /// When it runs out unless it is renewed; held still while what is heard means the same moment.
    pub deadline_ms: f64,
    /// The same by the last word alone.
    heard_deadline_ms: f64,
    /// Whether it was found overdue under this deadline. It stays so until it is renewed.
    is_overdue: bool,
}

impl LeaseClock {
    /// A lease of which `remaining_s` whole seconds were left at `now_ms`.
    pub fn new(granted_s: i64, remaining_s: i64, now_ms: f64) -> Self {
        let deadline_ms = now_ms + seconds(remaining_s) * 1_000.0;
        Self { granted_s, deadline_ms, heard_deadline_ms: deadline_ms, is_overdue: false }
    }

    /// Takes in a later sample; says whether it was renewed in between.
    pub fn hear(&mut self, granted_s: i64, remaining_s: i64, now_ms: f64) -> bool {
        let heard = Self::new(granted_s, remaining_s, now_ms);
        let same = granted_s == self.granted_s && (heard.deadline_ms - self.deadline_ms).abs() <= DEADLINE_SLACK_MS;
        if same {
            self.heard_deadline_ms = heard.heard_deadline_ms;
        } else {
            *self = heard;
        }
        !same
    }

    /// The whole seconds left, 0 where it is over.
    #[expect(clippy::cast_possible_truncation, reason = "etcd's longest TTL has ten digits")]
    pub fn remaining_s(&self, now_ms: f64) -> i64 {
        ((self.deadline_ms - now_ms) / 1_000.0).ceil().max(0.0) as i64
    }

    /// Whether a renewal is overdue. `every_half` for programs that renew only every half of their TTL.
    pub fn is_late(&mut self, rhythm: &Rhythm, every_half: bool, now_ms: f64) -> bool {
        let slack_s = rhythm.slack_s();
        if self.is_overdue {
            return true;
        }
        if now_ms - rhythm.heard_ms > (slack_s + 1.0) * 1_000.0 {
            return false;
        }
        let granted_s = seconds(self.granted_s);
        let left_s = (self.heard_deadline_ms - now_ms) / 1_000.0;
        let age_s_max = left_s.clamp(0.0, SAMPLE_INTERVAL_MAX_S) + slack_s;
        // What is left is said in whole seconds, so a second more may have been.
        let unrenewed_s = granted_s - (left_s + 1.0) - age_s_max;
        self.is_overdue = unrenewed_s > granted_s / (if every_half { 2.0 } else { 3.0 }) * RENEWAL_SLACK;
        self.is_overdue
    }
}

#[expect(clippy::cast_precision_loss, reason = "etcd's longest TTL has ten digits")]
fn seconds(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a program that renews at these times against a server that samples and speaks as ours does, and says when
    /// it was called late.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "minutes, and thousands of leases"
    )]
    fn play(ttl_s: i64, renewals_s: &[f64], until_s: f64, two_rounds: bool, leases: usize) -> Option<f64> {
        let renewed_at = |now: f64| renewals_s.iter().copied().filter(|at| *at <= now).fold(0.0, f64::max);
        let left = |now: f64| ((seconds(ttl_s) - (now - renewed_at(now))).floor() as i64).max(0);
        let (mut rhythm, mut clock) = (Rhythm::default(), None::<LeaseClock>);
        let (mut sample, mut next_sample, mut next_word) = ((0.0, ttl_s), 0.0, 0.1);
        let mut now = 0.0;
        while now < until_s {
            if now >= next_sample {
                sample = (now, left(now));
                next_sample = now + (seconds(sample.1) / 2.0).clamp(0.5, 30.0).max(leases as f64 / 1_000.0);
            }
            if now >= next_word {
                next_word = now + if leases > 1_000 { 4.5 } else { 2.0 };
                let remaining = (sample.1 - (now - sample.0).floor() as i64).max(0);
                rhythm.hear(leases, now * 1_000.0);
                clock.get_or_insert(LeaseClock::new(ttl_s, remaining, now * 1_000.0)).hear(
                    ttl_s,
                    remaining,
                    now * 1_000.0,
                );
            }
            if clock.as_mut().is_some_and(|clock| clock.is_late(&rhythm, two_rounds, now * 1_000.0)) {
                return Some(now);
            }
            now += 0.1;
        }
        None
    }

    fn every(interval_s: f64, until_s: f64) -> Vec<f64> {
        (1..10_000).map(|round| f64::from(round) * interval_s).take_while(|at| *at < until_s).collect()
    }

    #[test]
    fn a_healthy_program_is_never_called_late() {
        for (ttl_s, interval_s, two_rounds) in [
            (15, 5.0, false),
            (10, 3.4, false),
            (60, 20.0, false),
            (2, 0.7, false),
            (60, 30.0, true),
            (90, 30.0, true),
            (5, 1.7, false),
            (6, 2.0, false),
            (12, 4.0, false),
            (20, 6.7, false),
            (30, 10.0, false),
            (8, 2.7, false),
            (3600, 1200.0, false),
        ] {
            for leases in [1, 900, 10_000] {
                assert_eq!(play(ttl_s, &every(interval_s, 600.0), 600.0, two_rounds, leases), None, "{ttl_s} {leases}");
            }
        }
    }

    #[test]
    fn a_program_that_died_is_called_late_before_its_lease_ends() {
        for offset in (0..50).map(|tenth| f64::from(tenth) / 10.0) {
            for (ttl_s, interval_s, two_rounds) in
                [(10, 3.4, false), (15, 5.0, false), (60, 20.0, false), (60, 30.0, true)]
            {
                let mut renewals = every(interval_s, 100.0 + offset);
                renewals.push(100.0 + offset);
                let late = play(ttl_s, &renewals, 300.0, two_rounds, 20).unwrap_or(999.0);
                let end = 100.0 + offset + seconds(ttl_s);
                assert!(late < end && late > 100.0 + offset + seconds(ttl_s) / 3.0, "{ttl_s} {offset}: {late} {end}");
            }
        }
    }

    #[test]
    fn nothing_is_late_where_nobody_speaks_of_it() {
        let mut rhythm = Rhythm::default();
        rhythm.hear(1, 1_000.0);
        let mut clock = LeaseClock::new(15, 14, 1_000.0);
        assert!(!clock.is_late(&rhythm, false, 14_000.0));
        assert_eq!(clock.remaining_s(1_000.0), 14);
        assert_eq!(clock.remaining_s(2_500.0), 13);
        assert_eq!(clock.remaining_s(60_000.0), 0);
    }
}
