//! How much of a lease is left, counted down between the server's samples, and when a renewal is overdue.
//!
//! Pure: time comes in as an argument, in milliseconds of a clock that never jumps.
//!
//! When etcd was asked, the lease had certainly not been renewed for what was missing from its TTL. A program renews
//! every third of its TTL (some go-micro versions every half); only where it certainly passed that by is a renewal
//! overdue: a false alarm is worse than a late one.

use rollcall_shared::api::LeaseTtl;

/// How far two estimates of one deadline may lie apart: etcd rounds what is left down to whole seconds, the server what
/// has passed since, so each is less than a second off on either side; and a message takes a moment.
const DEADLINE_SLACK_MS: f64 = 2_100.0;

/// How much later than it should a healthy program may renew.
const RENEWAL_SLACK: f64 = 1.15;

/// What is known of one lease.
#[derive(Debug, Clone, Copy)]
pub struct LeaseClock {
    /// The TTL it was granted, in seconds.
    pub granted_s: i64,
    /// When it runs out unless it is renewed; held still while what is heard means the same moment.
    pub deadline_ms: f64,
    /// For how long it had certainly not been renewed when etcd was asked last.
    unrenewed_s: i64,
}

impl PartialEq for LeaseClock {
    /// Whether both show the same: a sample between two renewals is no news.
    fn eq(&self, other: &Self) -> bool {
        self.granted_s == other.granted_s && self.deadline_ms.total_cmp(&other.deadline_ms).is_eq()
    }
}

impl LeaseClock {
    /// A lease of which the server says `heard` at `now_ms`.
    pub fn new(heard: &LeaseTtl, now_ms: f64) -> Self {
        // The server takes the whole seconds since the answer off what etcd said, and etcd says no fractions.
        let left_then_s = heard.remaining_s.saturating_add(i64::try_from(heard.age_ms / 1_000).unwrap_or(i64::MAX));
        Self {
            granted_s: heard.granted_s,
            deadline_ms: now_ms + seconds(heard.remaining_s) * 1_000.0,
            unrenewed_s: heard.granted_s.saturating_sub(left_then_s).saturating_sub(1),
        }
    }

    /// Takes in what the server says later.
    pub fn hear(&mut self, heard: &LeaseTtl, now_ms: f64) {
        let held_ms = self.deadline_ms;
        let same_ttl = heard.granted_s == self.granted_s;
        *self = Self::new(heard, now_ms);
        if same_ttl && (self.deadline_ms - held_ms).abs() <= DEADLINE_SLACK_MS {
            self.deadline_ms = held_ms;
        }
    }

    /// The whole seconds left, 0 where it is over.
    #[expect(clippy::cast_possible_truncation, reason = "etcd's longest TTL has ten digits")]
    pub fn remaining_s(&self, now_ms: f64) -> i64 {
        ((self.deadline_ms - now_ms) / 1_000.0).ceil().max(0.0) as i64
    }

    /// Whether a renewal is overdue. `every_half` for programs that renew only every half of their TTL.
    pub fn is_late(&self, every_half: bool) -> bool {
        let interval_s = seconds(self.granted_s) / if every_half { 2.0 } else { 3.0 };
        seconds(self.unrenewed_s) > interval_s * RENEWAL_SLACK
    }
}

#[expect(clippy::cast_precision_loss, reason = "etcd's longest TTL has ten digits")]
fn seconds(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use rollcall_shared::LeaseId;

    use super::*;

    /// Plays a program that renews at these times against a server that samples and speaks as ours does, and says when
    /// it was called late.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "minutes, and thousands of leases"
    )]
    fn play(ttl_s: i64, renewals_s: &[f64], until_s: f64, two_rounds: bool, leases: usize) -> Option<f64> {
        let renewed_at = |now: f64| renewals_s.iter().copied().filter(|at| *at <= now).fold(0.0, f64::max);
        let left = |now: f64| ((seconds(ttl_s) - (now - renewed_at(now))).floor() as i64).max(0);
        let mut clock = None::<LeaseClock>;
        let (mut sample, mut next_sample, mut next_word) = ((0.0, ttl_s), 0.0, 0.1);
        let mut now = 0.0;
        while now < until_s {
            if now >= next_sample {
                sample = (now, left(now));
                next_sample = now + (seconds(sample.1) / 2.0).clamp(0.5, 30.0).max(leases as f64 / 1_000.0);
            }
            if now >= next_word {
                next_word = now + if leases > 1_000 { 4.5 } else { 1.0 };
                let heard = LeaseTtl {
                    lease: LeaseId(7),
                    granted_s: ttl_s,
                    remaining_s: (sample.1 - (now - sample.0).floor() as i64).max(0),
                    age_ms: ((now - sample.0) * 1_000.0) as u64,
                };
                clock.get_or_insert(LeaseClock::new(&heard, now * 1_000.0)).hear(&heard, now * 1_000.0);
            }
            if clock.is_some_and(|clock| clock.is_late(two_rounds)) {
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
                [(5, 1.7, false), (10, 3.4, false), (15, 5.0, false), (60, 20.0, false), (60, 30.0, true)]
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
    fn what_is_left_counts_down_and_stands_still_while_the_same_is_heard() {
        let heard = |remaining_s, age_ms| LeaseTtl { lease: LeaseId(7), granted_s: 15, remaining_s, age_ms };
        let mut clock = LeaseClock::new(&heard(14, 0), 1_000.0);
        assert_eq!(clock.remaining_s(1_000.0), 14);
        assert_eq!(clock.remaining_s(2_500.0), 13);
        assert_eq!(clock.remaining_s(60_000.0), 0);
        clock.hear(&heard(12, 2_000), 3_400.0);
        assert!((clock.deadline_ms - 15_000.0).abs() < 0.1);
        clock.hear(&heard(14, 0), 6_000.0);
        assert!((clock.deadline_ms - 20_000.0).abs() < 0.1);
    }
}
