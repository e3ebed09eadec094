//! How many there are of what, kept up to date change by change: of each service, and of all.
//!
//! Pure. Owns: the counts and their course over the last minutes. Must not know: records' contents beyond what is counted.

use std::collections::HashMap;

use rollcall_shared::Record;

/// How far back the course of a service's number goes, in milliseconds.
pub const CURVE_MS: f64 = 600_000.0;

/// How many points a course has at most; of what lies closer together, the last one counts.
const POINTS_MAX: usize = 120;

/// How close together two points of a course may lie, in milliseconds.
const POINT_MS: f64 = 1_000.0;

/// A service in short, as the list shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Instances that are registered and decode.
    pub instances: usize,
    /// Values that do not decode.
    pub malformed: usize,
    /// Instances whose renewal is overdue.
    pub late: usize,
    /// Instances without a lease.
    pub permanent: usize,
    /// Instances that have just left.
    pub gone: usize,
}

impl Summary {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is known of one service beside its records.
#[derive(Debug, Default)]
pub struct Tally {
    /// Its counts.
    pub summary: Summary,
    /// Tells which service changed last: greater is later.
    pub changed: u64,
    /// Its number of instances since when: the points at which it changed.
    pub curve: Vec<(f64, usize)>,
}

/// The counts of every service, and of all.
#[derive(Debug, Default)]
pub struct Tallies {
    services: HashMap<String, Tally>,
    totals: Summary,
    changes: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A record that stands.
    Record,
    /// One whose renewal is overdue.
    Late,
    /// One that has just left.
    Gone,
}

impl Tallies {
    /// Counts one more of a service, or one less.
    pub fn count(&mut self, record: &Record, what: Count, more: bool, now_ms: f64) {
        if !self.services.contains_key(&record.service) {
            self.services.insert(record.service.clone(), Tally::default());
        }
        let Some(tally) = self.services.get_mut(&record.service) else { return };
        let step = |count: &mut usize| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        for summary in [&mut tally.summary, &mut self.totals] {
            match what {
                Count::Record if record.instance().is_some() => step(&mut summary.instances),
                Count::Record => step(&mut summary.malformed),
                Count::Late => step(&mut summary.late),
                Count::Gone => step(&mut summary.gone),
            }
            if what == Count::Record && record.lease.is_none() {
                step(&mut summary.permanent);
            }
        }
        if what == Count::Record {
            self.changes += 1;
            tally.changed = self.changes;
            mark(&mut tally.curve, now_ms, tally.summary.instances);
        }
        if tally.summary.is_empty() && now_ms - tally.curve.last().map_or(0.0, |(at_ms, _)| *at_ms) > CURVE_MS {
            self.services.remove(&record.service);
        }
    }

    /// The counts of a service.
    pub fn summary(&self, name: &str) -> Summary {
        self.services.get(name).map(|tally| tally.summary).unwrap_or_default()
    }

    /// The counts of all.
    pub fn totals(&self) -> Summary {
        self.totals
    }

    /// Every service that there is or was not long ago, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tally)> {
        self.services.iter().map(|(name, tally)| (name.as_str(), tally))
    }

    /// What is known of one service.
    pub fn get(&self, name: &str) -> Option<&Tally> {
        self.services.get(name)
    }

    /// Lets go of services that have been empty for so long that nothing shows them.
    pub fn forget(&mut self, now_ms: f64) {
        self.services.retain(|_, tally| {
            !tally.summary.is_empty() || now_ms - tally.curve.last().map_or(0.0, |(at_ms, _)| *at_ms) <= CURVE_MS
        });
    }
}

fn mark(curve: &mut Vec<(f64, usize)>, now_ms: f64, count: usize) {
    match curve.last_mut() {
        Some((at_ms, last)) if now_ms - *at_ms < POINT_MS => *last = count,
        Some((_, last)) if *last == count => {}
        _ => curve.push((now_ms, count)),
    }
    if curve.len() > 1 && curve[curve.len() - 2].1 == count {
        curve.pop();
    }
    // The last one before the time that is shown says where the course begins.
    let old = curve.iter().take_while(|(at_ms, _)| now_ms - *at_ms > CURVE_MS).count().saturating_sub(1);
    let many = curve.len().saturating_sub(POINTS_MAX);
    curve.drain(..old.max(many));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_keeps_where_it_began_and_no_more_than_is_shown() {
        let mut curve = Vec::new();
        for second in 0..2_000 {
            mark(&mut curve, f64::from(second) * 500.0, usize::from(second % 4 < 2));
        }
        assert!(curve.len() <= POINTS_MAX);
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
        let mut quiet = Vec::new();
        mark(&mut quiet, 0.0, 3);
        mark(&mut quiet, 400.0, 4);
        assert_eq!(quiet, [(0.0, 4)]);
        mark(&mut quiet, 900_000.0, 5);
        assert_eq!(quiet, [(0.0, 4), (900_000.0, 5)]);
        mark(&mut quiet, 1_600_000.0, 6);
        assert_eq!(quiet, [(900_000.0, 5), (1_600_000.0, 6)]);
    }
}
