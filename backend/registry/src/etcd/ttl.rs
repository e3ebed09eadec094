//! When to ask which lease how long it has left, and what its answers say about why a key vanished.
//!
//! Pure: owns the schedule and the samples; time comes in as an argument, and who asks is somebody else. Leases are
//! asked, not rows: one question covers all keys of a lease.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use rollcall_shared::{CauseKind, LeaseId};
use tokio::time::Instant;

/// How many leases are asked in a second, at the most: some 3 % of what one etcd answers.
pub const LEASE_SAMPLES_PER_S_MAX: u32 = 1_000;

/// The shortest time between two questions about one lease.
pub const SAMPLE_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// The longest.
pub const SAMPLE_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Of how many leases without keys the last answer is remembered.
pub const IDLE_LEASES_MAX: usize = 10_000;

/// How much later than its deadline a lease may end unrenewed: etcd looks every 500 ms, revokes through raft, and
/// tells its remaining time in whole seconds, rounded down.
pub const EXPIRY_SLACK: Duration = Duration::from_millis(2_500);

/// One answer about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSample {
    /// The TTL it was granted, in seconds.
    pub granted_s: i64,
    /// The whole seconds it had left.
    pub remaining_s: i64,
    /// When the question went out.
    pub asked_at: Instant,
    /// When the answer came.
    pub answered_at: Instant,
}

impl LeaseSample {
    /// Until then the lease lives, unless it is revoked.
    fn lives_until(&self) -> Instant {
        self.asked_at + seconds(self.remaining_s)
    }

    /// By then it has ended, unless it was renewed after this sample.
    fn over_by(&self) -> Instant {
        self.answered_at + seconds(self.remaining_s) + EXPIRY_SLACK
    }

    /// After how long the lease is asked again: half of what is left, so that one near its end is watched closely.
    fn ask_again_in(&self) -> Duration {
        (seconds(self.remaining_s) / 2).clamp(SAMPLE_INTERVAL_MIN, SAMPLE_INTERVAL_MAX)
    }

    /// Whether it ought to have been renewed before: programs renew every third of the TTL.
    fn is_overdue(&self) -> bool {
        self.remaining_s.saturating_mul(2) <= self.granted_s
    }

    /// How long ago it was taken at `now`.
    pub fn age_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered_at)
    }

    /// What is left at `now`, in whole seconds, unless it was renewed.
    pub fn remaining_at(&self, now: Instant) -> i64 {
        let passed = i64::try_from(self.age_at(now).as_secs()).unwrap_or(i64::MAX);
        self.remaining_s.saturating_sub(passed).max(0)
    }
}

fn seconds(count: i64) -> Duration {
    // Beyond a century it makes no difference, and an `Instant` must not overflow.
    Duration::from_secs(u64::try_from(count).unwrap_or(0).min(3_000_000_000))
}

/// Which leases are in use, what is known of each, and which is to be asked next.
#[derive(Debug, Default)]
pub struct LeaseBook {
    held: HashMap<LeaseId, Held>,
    due: BTreeSet<(Instant, LeaseId)>,
    /// What is known of leases without keys: those whose last key left a moment ago, and those just granted.
    idle: HashMap<LeaseId, LeaseSample>,
    idle_order: VecDeque<LeaseId>,
}

#[derive(Debug)]
struct Held {
    keys: usize,
    sample: Option<LeaseSample>,
    due_at: Instant,
}

impl LeaseBook {
    /// A key on `lease` came to be. A lease that is new is asked at once.
    pub fn hold(&mut self, lease: LeaseId, now: Instant) {
        let held = self.held.entry(lease).or_insert_with(|| {
            self.due.insert((now, lease));
            Held { keys: 0, sample: self.idle.remove(&lease), due_at: now }
        });
        held.keys += 1;
    }

    /// A key on `lease` is gone. With its last key the lease is no longer asked.
    pub fn release(&mut self, lease: LeaseId) {
        let Some(held) = self.held.get_mut(&lease) else { return };
        held.keys -= 1;
        if held.keys == 0 {
            self.due.remove(&(held.due_at, lease));
            let sample = held.sample;
            self.held.remove(&lease);
            if let Some(sample) = sample {
                self.note(lease, sample);
            }
        }
    }

    /// Remembers `sample` of a lease that no key is on: one may come, or come back.
    pub fn note(&mut self, lease: LeaseId, sample: LeaseSample) {
        if self.idle.insert(lease, sample).is_none() {
            self.idle_order.push_back(lease);
        }
        while self.idle_order.len() > IDLE_LEASES_MAX {
            if let Some(oldest) = self.idle_order.pop_front() {
                self.idle.remove(&oldest);
            }
        }
    }

    /// Counts anew: `leases` names the lease of each key. Answers about leases that stay are kept.
    pub fn recount(&mut self, leases: impl IntoIterator<Item = LeaseId>, now: Instant) {
        for held in self.held.values_mut() {
            held.keys = 0;
        }
        for lease in leases {
            self.hold(lease, now);
        }
        self.held.retain(|lease, held| {
            if held.keys == 0 {
                self.due.remove(&(held.due_at, *lease));
            }
            held.keys > 0
        });
    }

    /// The lease to ask now; it is due again after [`SAMPLE_INTERVAL_MIN`] if no answer is recorded.
    pub fn take_due(&mut self, now: Instant) -> Option<LeaseId> {
        let &(due_at, lease) = self.due.first()?;
        if due_at > now {
            return None;
        }
        self.reschedule(lease, now + SAMPLE_INTERVAL_MIN.mul_f64(4.0));
        Some(lease)
    }

    /// When the next lease is due; `None` where there is no lease.
    pub fn next_due_at(&self) -> Option<Instant> {
        self.due.first().map(|&(due_at, _)| due_at)
    }

    /// Takes in an answer, and asks again when that is due.
    pub fn record(&mut self, lease: LeaseId, sample: LeaseSample) {
        let Some(held) = self.held.get_mut(&lease) else { return };
        held.sample = Some(sample);
        self.reschedule(lease, sample.answered_at + sample.ask_again_in());
    }

    /// Asks every lease anew: after an outage no earlier answer says anything.
    pub fn ask_all(&mut self, now: Instant) {
        let leases: Vec<LeaseId> = self.held.keys().copied().collect();
        for lease in leases {
            self.reschedule(lease, now);
        }
    }

    /// The last answer about `lease`.
    pub fn sample(&self, lease: LeaseId) -> Option<LeaseSample> {
        self.held.get(&lease).and_then(|held| held.sample)
    }

    /// Every lease with its last answer.
    pub fn samples(&self) -> impl Iterator<Item = (LeaseId, LeaseSample)> {
        self.held.iter().filter_map(|(lease, held)| Some((*lease, held.sample?)))
    }

    /// Whether a key is on `lease`.
    pub fn holds(&self, lease: LeaseId) -> bool {
        self.held.contains_key(&lease)
    }

    /// The number of leases in use.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no lease is in use.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn reschedule(&mut self, lease: LeaseId, due_at: Instant) {
        if let Some(held) = self.held.get_mut(&lease) {
            self.due.remove(&(held.due_at, lease));
            held.due_at = due_at;
            self.due.insert((due_at, lease));
        }
    }
}

/// What was found when a lease was asked right after a key on it had been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAfter {
    /// The key had none.
    None,
    /// It lives, with so many seconds left.
    Lives {
        /// The whole seconds left.
        remaining_s: i64,
    },
    /// It is gone.
    Gone,
    /// It could not be asked.
    Unasked,
}

/// A deleted key, and what is known of its lease.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// The lease that the key was on.
    pub lease: Option<LeaseId>,
    /// What the lease was found to be right after.
    pub after: LeaseAfter,
    /// The last answer about it before.
    pub before: Option<LeaseSample>,
    /// When the delete was seen.
    pub seen_at: Instant,
    /// When it was found what the lease is.
    pub found_at: Instant,
    /// Whether the delete was told as it happened; else it may have happened at any time before `seen_at`.
    pub told_live: bool,
}

/// Why the key vanished, and on what that rests, in one sentence.
///
/// - Its lease lives on → it was deleted: `deregistered`.
/// - Its lease is gone although it had time left → `revoked`. Where it was asked only after that time, the key may have
///   been deleted and the lease have run out since.
/// - Its lease is gone, the time it was last seen to have left had run out, and no more than that, and it had been seen
///   not to be renewed → `expired`. A lease that was last seen well renewed, and was due to be asked again since, may
///   have been renewed once more and revoked: that is how it looks where more leases are in use than can be asked.
/// - Anything else cannot be told apart → `unknown`.
pub fn cause(evidence: &Evidence) -> (CauseKind, String) {
    let Some(lease) = evidence.lease else {
        return (CauseKind::Deregistered, "the key was permanent, so nothing but a delete removes it".to_owned());
    };
    match evidence.after {
        LeaseAfter::None => {
            (CauseKind::Deregistered, "the key was permanent, so nothing but a delete removes it".to_owned())
        }
        LeaseAfter::Lives { remaining_s } => (
            CauseKind::Deregistered,
            format!("the key was deleted while its lease {lease} lives on, with {remaining_s} s left"),
        ),
        LeaseAfter::Unasked => {
            (CauseKind::Unknown, format!("its lease {lease} could not be asked after the key was deleted"))
        }
        LeaseAfter::Gone => gone(lease, evidence),
    }
}

fn gone(lease: LeaseId, evidence: &Evidence) -> (CauseKind, String) {
    let Some(before) = evidence.before else {
        let why = format!("its lease {lease} is gone and had not been asked before");
        return (CauseKind::Unknown, why);
    };
    let age = evidence.seen_at.saturating_duration_since(before.answered_at).as_secs_f64();
    let left = before.remaining_s;
    if evidence.found_at < before.lives_until() {
        return (
            CauseKind::Revoked,
            format!("its lease {lease} is gone although, asked {age:.1} s before, it had {left} s left"),
        );
    }
    if evidence.seen_at < before.lives_until() {
        let why = format!(
            "its lease {lease} had {left} s left {age:.1} s before the key was deleted, and was asked again too late to tell"
        );
        return (CauseKind::Unknown, why);
    }
    let kept_pace = evidence.seen_at <= before.answered_at + before.ask_again_in() + EXPIRY_SLACK;
    if evidence.told_live && kept_pace && before.is_overdue() && evidence.seen_at <= before.over_by() {
        return (
            CauseKind::Expired,
            format!("its lease {lease} ran out: asked {age:.1} s before, it had {left} s left and was not renewed"),
        );
    }
    (
        CauseKind::Unknown,
        format!(
            "its lease {lease} is gone; it was last asked {age:.1} s before, with {left} s left, too long ago to tell"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: LeaseId = LeaseId(7);

    fn sample(at: Instant, remaining_s: i64) -> LeaseSample {
        LeaseSample { granted_s: 15, remaining_s, asked_at: at, answered_at: at }
    }

    fn verdict(
        start: Instant,
        after: LeaseAfter,
        remaining_s: Option<i64>,
        seen_after_ms: u64,
        live: bool,
    ) -> CauseKind {
        let evidence = Evidence {
            lease: Some(LEASE),
            after,
            before: remaining_s.map(|remaining_s| sample(start, remaining_s)),
            seen_at: start + Duration::from_millis(seen_after_ms),
            found_at: start + Duration::from_millis(seen_after_ms),
            told_live: live,
        };
        cause(&evidence).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_asked_late_tells_nothing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut evidence = Evidence {
            lease: Some(LEASE),
            after: LeaseAfter::Gone,
            before: Some(sample(start, 9)),
            seen_at: at(3),
            found_at: at(8),
            told_live: true,
        };
        assert_eq!(cause(&evidence).0, CauseKind::Revoked);
        evidence.found_at = at(10);
        assert_eq!(cause(&evidence).0, CauseKind::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn causes_rest_on_the_lease_before_and_after() {
        let start = Instant::now();
        let lives = LeaseAfter::Lives { remaining_s: 9 };
        assert_eq!(verdict(start, lives, None, 0, true), CauseKind::Deregistered);
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(9), 3_000, true), CauseKind::Revoked);
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(1), 1_400, true), CauseKind::Expired);
        // Well renewed when it was last asked, and not asked again when that was due.
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(9), 9_400, true), CauseKind::Unknown);
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(7), 7_400, true), CauseKind::Unknown);
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(9), 20_000, true), CauseKind::Unknown);
        assert_eq!(verdict(start, LeaseAfter::Gone, None, 1_000, true), CauseKind::Unknown);
        assert_eq!(verdict(start, LeaseAfter::Unasked, Some(9), 1_000, true), CauseKind::Unknown);
        // Told after an outage: it may have happened at any time, but before its deadline it can only be a revoke.
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(9), 3_000, false), CauseKind::Revoked);
        assert_eq!(verdict(start, LeaseAfter::Gone, Some(1), 1_400, false), CauseKind::Unknown);
        let permanent = Evidence {
            lease: None,
            after: LeaseAfter::None,
            before: None,
            seen_at: start,
            found_at: start,
            told_live: true,
        };
        assert_eq!(cause(&permanent).0, CauseKind::Deregistered);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_asked_at_once_and_then_after_half_of_what_is_left() {
        let start = Instant::now();
        let mut book = LeaseBook::default();
        book.hold(LEASE, start);
        book.hold(LEASE, start);
        assert_eq!(book.take_due(start), Some(LEASE));
        assert_eq!(book.take_due(start), None);
        book.record(LEASE, sample(start, 14));
        assert_eq!(book.next_due_at(), Some(start + Duration::from_secs(7)));
        book.record(LEASE, sample(start, 0));
        assert_eq!(book.next_due_at(), Some(start + SAMPLE_INTERVAL_MIN));
        book.record(LEASE, sample(start, i64::MAX));
        assert_eq!(book.next_due_at(), Some(start + SAMPLE_INTERVAL_MAX));
        book.release(LEASE);
        assert_eq!(book.len(), 1);
        book.release(LEASE);
        assert!(book.is_empty() && book.next_due_at().is_none());
        book.record(LEASE, sample(start, 3));
        assert!(book.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_counts_down_to_nothing() {
        let start = Instant::now();
        let sample = sample(start, 9);
        assert_eq!(sample.remaining_at(start + Duration::from_millis(3_900)), 6);
        assert_eq!(sample.remaining_at(start + Duration::from_mins(1)), 0);
    }
}
