//! What happened: sentences' makings, newest first, with bursts folded into one line.
//!
//! Pure. Owns: which happenings are told, how long they are kept, what makes a burst, and by whose hand an instance came
//! back. Must not know: what stands now, words, or how a line looks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use rollcall_shared::{CauseKind, Record, Revision, SnapshotReason};

/// How many changes within a second are still told one by one.
pub const BURST_ROWS: usize = 30;

/// How long a second is, for a burst.
const BURST_MS: f64 = 1_000.0;

/// After so long without one, the next burst is another one.
const BURST_PAUSE_MS: f64 = 5_000.0;

/// How many happenings are kept.
pub const FEED_MAX: usize = 300;

/// For how long one that appears may be one that left before, in milliseconds.
const RETURN_MS: f64 = 120_000.0;

/// Why an instance left, and what that rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The cause.
    pub cause: CauseKind,
    /// The evidence, in one sentence.
    pub evidence: String,
}

/// Something that happened, for the activity feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    /// Tells it from the others.
    pub number: u64,
    /// When the page heard of it.
    pub at_ms: f64,
    /// What it was.
    pub what: What,
}

/// The kinds of happenings.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// An instance came to be.
    Appeared(Arc<Record>),
    /// An instance that had left is there again.
    Returned {
        /// As it is now.
        record: Arc<Record>,
        /// By whose hand.
        how: Return,
    },
    /// An instance's value or lease changed.
    Changed {
        /// As it was.
        was: Arc<Record>,
        /// As it is now.
        record: Arc<Record>,
    },
    /// An instance left.
    Vanished {
        /// As it was.
        record: Arc<Record>,
        /// The revision that deleted it.
        revision: Revision,
        /// Why.
        why: Option<Why>,
    },
    /// Many changes within a second.
    Burst {
        /// How many came to be.
        appeared: usize,
        /// How many left.
        vanished: usize,
        /// How many changed.
        changed: usize,
        /// The causes told of those that left.
        causes: BTreeMap<CauseKind, usize>,
        /// The one service that all of it is about, if it is one.
        service: Option<String>,
    },
    /// The stream began anew.
    Snapshot(SnapshotReason),
}

/// How an instance came back after it had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// Under the same key and lease: its key was put back, by a person or by a program that watches it.
    SameLease,
    /// Under the same key and a new lease: its program registered it anew.
    NewLease,
    /// Under another key, with the same id or the same endpoints: its program registered it anew.
    NewKey,
}

impl What {
    /// The record it is about, where it is about one.
    pub fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Appeared(record)
            | Self::Returned { record, .. }
            | Self::Changed { record, .. }
            | Self::Vanished { record, .. } => Some(record),
            Self::Burst { .. } | Self::Snapshot(_) => None,
        }
    }
}

/// What happened, newest first.
#[derive(Debug, Default)]
pub struct Feed {
    entries: VecDeque<Happening>,
    happened: u64,
    second_began_ms: f64,
    second_count: usize,
}

impl Feed {
    /// What happened, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Happening> {
        self.entries.iter()
    }

    /// Whether so much happens now that it is not told one by one.
    pub fn in_burst(&self) -> bool {
        self.second_count > BURST_ROWS
    }

    /// Counts what happens within a second. When it becomes too much, what was told one by one becomes one line: then
    /// this says from when on.
    pub fn enter_second(&mut self, changes: usize, now_ms: f64) -> Option<f64> {
        if now_ms - self.second_began_ms > BURST_MS {
            self.second_began_ms = now_ms;
            self.second_count = 0;
        }
        let was_burst = self.in_burst();
        self.second_count += changes;
        if was_burst || !self.in_burst() {
            return None;
        }
        let began_ms = self.second_began_ms;
        let mut burst = Vec::new();
        while self.entries.front().is_some_and(|happening| happening.at_ms >= began_ms) {
            burst.extend(self.entries.pop_front());
        }
        // What is of no instance is told beside it.
        let (told, rest): (Vec<_>, Vec<_>) = burst.into_iter().partition(|happening| happening.what.record().is_some());
        for happening in rest.into_iter().rev() {
            self.entries.push_front(happening);
        }
        // One that goes on is the same one.
        match self.entries.front_mut() {
            Some(Happening { at_ms, what: What::Burst { .. }, .. }) if now_ms - *at_ms < BURST_PAUSE_MS => {}
            _ => {
                let causes = BTreeMap::new();
                self.push(What::Burst { appeared: 0, vanished: 0, changed: 0, causes, service: None }, now_ms);
            }
        }
        for happening in told.into_iter().rev() {
            self.tell(happening.what, now_ms);
        }
        Some(began_ms)
    }

    /// Tells something, as a line of its own or as part of a burst.
    pub fn tell(&mut self, what: What, now_ms: f64) {
        if self.in_burst()
            && let Some(subject) = what.record()
            && let Some(Happening { at_ms, what: What::Burst { appeared, vanished, changed, causes, service }, .. }) =
                self.entries.front_mut()
        {
            *at_ms = now_ms;
            match service {
                None if *appeared + *vanished + *changed == 0 => *service = Some(subject.service.clone()),
                Some(name) if *name != subject.service => *service = None,
                _ => {}
            }
            match &what {
                What::Vanished { why, .. } => {
                    *vanished += 1;
                    if let Some(why) = why {
                        *causes.entry(why.cause).or_default() += 1;
                    }
                }
                What::Appeared(_) | What::Returned { .. } => *appeared += 1,
                _ => *changed += 1,
            }
            return;
        }
        self.push(what, now_ms);
    }

    fn push(&mut self, what: What, now_ms: f64) {
        self.happened += 1;
        self.entries.push_front(Happening { number: self.happened, at_ms: now_ms, what });
        self.entries.truncate(FEED_MAX);
    }

    /// What an instance that appears is: new, or one that left not long ago.
    pub fn arrival(&self, record: &Arc<Record>, now_ms: f64) -> What {
        let recent = || self.entries.iter().take_while(|happening| now_ms - happening.at_ms <= RETURN_MS);
        // The last word on the key decides: one that came back already and left again has left again.
        let same_key = recent().find_map(|happening| match &happening.what {
            What::Vanished { record: last, .. } if last.key == record.key => Some(last),
            _ => None,
        });
        let how = if let Some(last) = same_key {
            Some(if last.lease == record.lease { Return::SameLease } else { Return::NewLease })
        } else {
            let alike = |happening: &Happening| match &happening.what {
                What::Vanished { record: last, .. } => is_same_program(last, record),
                _ => false,
            };
            let claimed = |happening: &Happening| match &happening.what {
                What::Returned { record: back, .. } => is_same_program(back, record),
                _ => false,
            };
            recent()
                .find(|happening| alike(happening) || claimed(happening))
                .filter(|it| alike(it))
                .map(|_| Return::NewKey)
        };
        match how {
            Some(how) => What::Returned { record: Arc::clone(record), how },
            None => What::Appeared(Arc::clone(record)),
        }
    }

    /// Adds why an instance left to what was told of that. Says whether there was something to add it to.
    pub fn explain(&mut self, key: &str, revision: Revision, why: &Why) -> bool {
        let told = self.entries.iter_mut().find_map(|happening| match &mut happening.what {
            What::Vanished { record, revision: at, why } if record.key == key && (*at == revision || *at == 0) => {
                Some(why)
            }
            _ => None,
        });
        if let Some(told) = told {
            *told = Some(why.clone());
            return true;
        }
        let burst = self.entries.iter_mut().find_map(|happening| match &mut happening.what {
            What::Burst { causes, vanished, .. } if causes.values().sum::<usize>() < *vanished => Some(causes),
            _ => None,
        });
        let Some(causes) = burst else { return false };
        *causes.entry(why.cause).or_default() += 1;
        true
    }
}

/// Whether two records of different keys speak of the same program: the same id, or all the same endpoints.
fn is_same_program(one: &Record, other: &Record) -> bool {
    let (Some(a), Some(b)) = (one.instance(), other.instance()) else { return false };
    one.service == other.service
        && one.key != other.key
        && (a.id == b.id || (!a.endpoints.is_empty() && a.endpoints == b.endpoints))
}
