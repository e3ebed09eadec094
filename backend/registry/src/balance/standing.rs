//! How each address stands: whether it takes calls, or is left out, and until when. Pure; told the time.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use foldhash::fast::RandomState;
use rollcall_shared::ServiceInstance;
use tokio::time::Instant;

use super::{Address, Choice, Member, Node, Picking, Snapshot, load::Load};

/// After how many failures in a row an address is left out, unless configured otherwise.
pub const FAILURES_IN_A_ROW: u32 = 5;

/// For how long an address is left out the first time, unless configured otherwise.
pub const EJECTION_MIN: Duration = Duration::from_millis(500);

/// For how long an address is left out at the most before it is tried again, unless configured otherwise.
pub const EJECTION_MAX: Duration = Duration::from_secs(10);

/// For how long an address is left out at the most, whatever is configured.
pub const EJECTION_LIMIT: Duration = Duration::from_hours(1);

/// When an address is left out, and for how long. The time doubles as long as the address does not come back for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// After how many failures in a row; a refused connection is enough by itself. With 0 nothing is ever left out.
    pub failures_in_a_row: u32,
    /// For how long the first time.
    pub min: Duration,
    /// For how long at the most before it is tried again.
    pub max: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures_in_a_row: FAILURES_IN_A_ROW, min: EJECTION_MIN, max: EJECTION_MAX }
    }
}

impl Ejection {
    /// Nothing is ever left out.
    pub fn never() -> Self {
        Self { failures_in_a_row: 0, ..Self::default() }
    }

    /// For how long the `times`-th time in a row, between three quarters and all of a bound that doubles: what failed
    /// together is not tried together.
    fn spell(&self, times: u32) -> Duration {
        let bound = self.min.saturating_mul(1 << times.min(20)).min(self.max).min(EJECTION_LIMIT);
        bound.mul_f64(0.75 + fastrand::f64() / 4.0)
    }
}

enum Health {
    /// It takes calls, since then.
    Taking(Option<Instant>),
    /// It is left out until then.
    Ejected(Instant),
    /// It is left out, and being tried.
    OnTrial,
}

struct Standing<T> {
    node: Arc<Node<T>>,
    instance: Arc<ServiceInstance>,
    weight: u64,
    health: Health,
    /// How often it was left out without coming back for good in between.
    times: u32,
}

impl<T> Standing<T> {
    fn takes(&self) -> bool {
        matches!(self.health, Health::Taking(_))
    }

    fn eject(&mut self, ejection: &Ejection, now: Instant) {
        self.health = Health::Ejected(now + ejection.spell(self.times));
        self.times = self.times.saturating_add(1);
    }
}

/// All addresses of the list, in its order.
pub(super) struct Standings<T> {
    all: Vec<Standing<T>>,
    picking: Picking,
    ejection: Ejection,
}

impl<T> Standings<T> {
    pub(super) fn new(picking: Picking, ejection: Ejection) -> Self {
        Self { all: Vec::new(), picking, ejection }
    }

    pub(super) fn set(&mut self, members: Vec<Member>, mut make: impl FnMut(&Address) -> Option<T>) {
        let mut known: HashMap<Address, Standing<T>, RandomState> =
            self.all.drain(..).map(|standing| (standing.node.address.clone(), standing)).collect();
        self.all = members
            .into_iter()
            .filter_map(|Member { address, weight, instance }| {
                if let Some(standing) = known.remove(&address) {
                    return Some(Standing { instance, weight, ..standing });
                }
                let kept = make(&address)?;
                let node = Arc::new(Node { address, load: Load::default(), kept });
                Some(Standing { node, instance, weight, health: Health::Taking(None), times: 0 })
            })
            .collect();
    }

    fn find(&mut self, node: &Node<T>) -> Option<&mut Standing<T>> {
        self.all.iter_mut().find(|standing| std::ptr::eq(&raw const *standing.node, node))
    }

    /// Notes that a call failed. Whether its address is left out because of it.
    pub(super) fn failed(&mut self, node: &Node<T>, refused: bool, now: Instant) -> bool {
        let ejection = self.ejection;
        let enough = refused || node.load.failures() >= ejection.failures_in_a_row;
        if ejection.failures_in_a_row == 0 || !enough {
            return false;
        }
        let Some(standing) = self.find(node) else { return false };
        let Health::Taking(since) = standing.health else { return false };
        if since.is_none_or(|since| now.saturating_duration_since(since) >= ejection.max) {
            standing.times = 0;
        }
        standing.eject(&ejection, now);
        true
    }

    pub(super) fn due(&mut self, most: usize, now: Instant) -> (Vec<Arc<Node<T>>>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for standing in &mut self.all {
            match standing.health {
                Health::Ejected(until) if until <= now && due.len() < most => {
                    standing.health = Health::OnTrial;
                    due.push(Arc::clone(&standing.node));
                }
                Health::Ejected(until) => next = Some(next.map_or(until, |next| next.min(until))),
                Health::Taking(_) | Health::OnTrial => {}
            }
        }
        (due, next)
    }

    pub(super) fn tried(&mut self, node: &Node<T>, works: bool, now: Instant) {
        let ejection = self.ejection;
        let Some(standing) = self.find(node) else { return };
        if works {
            // A connection is no answer yet: the next failure is the last one.
            standing.node.load.begin_anew(ejection.failures_in_a_row.saturating_sub(1));
            standing.health = Health::Taking(Some(now));
        } else {
            standing.eject(&ejection, now);
        }
    }

    /// Who takes calls now. Never nobody, as long as there is anybody: first who is neither drained nor left out, then who
    /// is drained but answers, then everyone but the drained, then everyone.
    pub(super) fn snapshot(&self, clock: &Arc<AtomicU64>) -> Snapshot<T> {
        let circles: [fn(&Standing<T>) -> bool; 4] =
            [|it| it.weight > 0 && it.takes(), Standing::takes, |it| it.weight > 0, |_| true];
        let circle = circles.into_iter().find(|circle| self.all.iter().any(circle)).unwrap_or(|_| true);
        let (choices, weights): (Vec<_>, Vec<_>) = self
            .all
            .iter()
            .filter(|standing| circle(standing))
            .map(|it| (Choice { node: Arc::clone(&it.node), instance: Arc::clone(&it.instance) }, it.weight))
            .unzip();
        // Where all of them are drained, none is more so than another.
        Snapshot::new(choices.into(), &weights, self.picking, Arc::clone(clock))
    }
}
