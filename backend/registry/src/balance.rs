//! Chooses which instance of a service takes a call.
//!
//! Owns the choice: which addresses may be called, in which order, and which are left out for a while because they do not
//! answer. Pure: it is told the instances, how calls ended, and the time; it must not know what a call is, nor etcd, nor
//! any runtime.
//!
//! All that a choice needs is worked out when the list changes, into a [`Snapshot`] that never changes: choosing is a
//! step of a counter and a look into a table, without a lock and without an allocation. What an address was seen to do
//! (its calls in flight, its latency, its refusals) belongs to the address and outlives changes of the list.

mod endpoint;
mod load;
mod schedule;
mod standing;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Cache};
use rollcall_shared::ServiceInstance;
use tokio::time::Instant;

pub use self::{
    endpoint::{Address, Member, Protocol, Security, WEIGHT, members},
    load::{FAILURE_COST, LATENCY_DECAY},
    schedule::SLOTS_MAX,
    standing::{EJECTION_LIMIT, EJECTION_MAX, EJECTION_MIN, Ejection, FAILURES_IN_A_ROW},
};
use self::{load::Load, standing::Standings};

/// How an address is chosen among those that may be called. A weight of 0 takes an address out under each of them, as
/// long as another one is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Picking {
    /// One after the other.
    #[default]
    RoundRobin,
    /// One after the other, each as often as its weight says, evenly spread.
    Weighted,
    /// The better of two drawn at random: the one with the lower product of latency and calls in flight. What an instance
    /// is really able to take decides, its weight does not.
    PowerOfTwoChoices,
}

/// How a call of an address ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, after this long.
    Answered(Duration),
    /// The address took no connection: it is left out at once.
    Refused,
    /// The connection broke before an answer, or the answer was that the instance is unavailable: it is left out after
    /// [`Ejection::failures_in_a_row`] of them.
    Failed,
    /// The caller gave it up after this long: if anything, the address is slow.
    GivenUp(Duration),
    /// Nothing is known of it: the call never reached the address.
    Unknown,
}

/// An address that may be called, what it was seen to do, and what the caller keeps with it (a connection, say).
pub struct Node<T> {
    address: Address,
    load: Load,
    kept: T,
}

impl<T> Node<T> {
    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What the caller keeps with it.
    pub fn kept(&self) -> &T {
        &self.kept
    }

    /// How many of its calls are in flight.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }
}

impl<T> fmt::Debug for Node<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Node").field("address", &self.address).field("load", &self.load).finish_non_exhaustive()
    }
}

/// One choice of a [`Snapshot`]: an address, and the instance that answers there.
pub struct Choice<T> {
    node: Arc<Node<T>>,
    instance: Arc<ServiceInstance>,
}

impl<T> Choice<T> {
    /// The instance that answers at the address.
    pub fn instance(&self) -> &Arc<ServiceInstance> {
        &self.instance
    }

    /// Counts one call in flight, until what is returned is dropped.
    pub fn start(&self) -> InFlight<T> {
        self.node.load.begin();
        InFlight { choice: self.clone() }
    }
}

impl<T> Clone for Choice<T> {
    fn clone(&self) -> Self {
        Self { node: Arc::clone(&self.node), instance: Arc::clone(&self.instance) }
    }
}

impl<T> Deref for Choice<T> {
    type Target = Node<T>;

    fn deref(&self) -> &Node<T> {
        &self.node
    }
}

impl<T> fmt::Debug for Choice<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Choice").field("node", &self.node).field("instance", &self.instance.id).finish()
    }
}

/// A call in flight at the address chosen.
pub struct InFlight<T> {
    choice: Choice<T>,
}

impl<T> Deref for InFlight<T> {
    type Target = Choice<T>;

    fn deref(&self) -> &Choice<T> {
        &self.choice
    }
}

impl<T> Drop for InFlight<T> {
    fn drop(&mut self) {
        self.choice.node.load.end();
    }
}

impl<T> fmt::Debug for InFlight<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("InFlight").field(&self.choice).finish()
    }
}

/// In which order the choices of a snapshot come.
enum Order {
    /// As they stand.
    Even,
    /// By a table of their positions.
    Table(Box<[u32]>),
    /// The better of two.
    BetterOfTwo,
}

/// The addresses that may be called now, and the order in which they are. Never changes, but for its counter.
pub struct Snapshot<T> {
    choices: Box<[Choice<T>]>,
    order: Order,
    turn: AtomicUsize,
    /// How late it was at the last report, in milliseconds since the balancer began: what latencies age by.
    clock: Arc<AtomicU64>,
}

impl<T> Snapshot<T> {
    fn new(choices: Box<[Choice<T>]>, weights: &[u64], picking: Picking, clock: Arc<AtomicU64>) -> Self {
        let order = match picking {
            Picking::RoundRobin => Order::Even,
            Picking::Weighted => schedule::table(weights).map_or(Order::Even, Order::Table),
            Picking::PowerOfTwoChoices => Order::BetterOfTwo,
        };
        // Callers that got the same list at the same moment must not all begin with the same instance.
        let turn = AtomicUsize::new(fastrand::usize(..=usize::from(u16::MAX)));
        Self { choices, order, turn, clock }
    }

    /// The next address to call; none where there is none.
    #[inline]
    pub fn pick(&self) -> Option<&Choice<T>> {
        match &self.order {
            Order::Even => self.choices.get(self.step(self.choices.len())?),
            Order::Table(table) => self.choices.get(table[self.step(table.len())?] as usize),
            Order::BetterOfTwo => self.better_of_two(),
        }
    }

    #[inline]
    fn step(&self, count: usize) -> Option<usize> {
        self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count)
    }

    #[inline]
    fn better_of_two(&self) -> Option<&Choice<T>> {
        let count = self.choices.len();
        if count < 2 {
            return self.choices.first();
        }
        let (first, mut second) = two_of(fastrand::u64(..), count);
        if second >= first {
            second += 1;
        }
        let (first, second) = (&self.choices[first], &self.choices[second]);
        let now_ms = self.clock.load(Ordering::Relaxed);
        Some(if second.node.load.cost(now_ms) < first.node.load.cost(now_ms) { second } else { first })
    }

    /// The next address to call that `tried` does not name; where it names all of them, any.
    pub fn pick_other(&self, tried: impl Fn(&Node<T>) -> bool) -> Option<&Choice<T>> {
        let next = self.pick()?;
        if !tried(next) {
            return Some(next);
        }
        // From a random one on, so that what one instance cannot take is not all given to its neighbour.
        let (before, after) = self.choices.split_at(fastrand::usize(..self.choices.len()));
        after.iter().chain(before).find(|choice| !tried(choice)).or(Some(next))
    }

    /// The addresses that may be called, sorted by the keys of their instances.
    pub fn choices(&self) -> &[Choice<T>] {
        &self.choices
    }
}

/// Of one random number two positions: one below `count`, and one below `count - 1`. (A list is shorter than 2³², so that
/// half of the number's bits are plenty for each.)
#[inline]
fn two_of(random: u64, count: usize) -> (usize, usize) {
    let (high, low, count) = (random >> 32, random & u64::from(u32::MAX), count as u64);
    (((high * count) >> 32) as usize, ((low * (count - 1)) >> 32) as usize)
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(&self.choices).finish()
    }
}

/// Chooses among the addresses of one service. `T` is what the caller keeps with each address, made when the address
/// comes and dropped when it has left and its last call has ended.
pub struct Balancer<T> {
    snapshot: Arc<ArcSwap<Snapshot<T>>>,
    standings: Mutex<Standings<T>>,
    clock: Arc<AtomicU64>,
    began: Instant,
}

impl<T> Balancer<T> {
    /// A balancer without any address.
    pub fn new(picking: Picking, ejection: Ejection, now: Instant) -> Self {
        let clock = Arc::new(AtomicU64::new(0));
        let none = Snapshot::new(Box::default(), &[], picking, Arc::clone(&clock));
        Self {
            snapshot: Arc::new(ArcSwap::from_pointee(none)),
            standings: Mutex::new(Standings::new(picking, ejection)),
            clock,
            began: now,
        }
    }

    /// The addresses that may be called now.
    #[inline]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot<T>>> {
        self.snapshot.load()
    }

    /// A handle that chooses even faster, since it keeps the last snapshot at hand: for who chooses in a loop. While it
    /// lives unused, so do the addresses that it saw last.
    pub fn picker(&self) -> Picker<T> {
        Picker { cache: Cache::new(Arc::clone(&self.snapshot)) }
    }

    /// The list is now this one. `make` gives what is kept with an address that was not there before; an address for
    /// which it gives nothing is left out.
    pub fn set(&self, members: Vec<Member>, make: impl FnMut(&Address) -> Option<T>) {
        let mut standings = self.standings();
        standings.set(members, make);
        self.publish(&standings);
    }

    /// A call that began at `node` has ended. Whether the address is left out from now on because of it.
    pub fn report(&self, node: &Node<T>, outcome: Outcome, now: Instant) -> bool {
        let now_ms = self.at_ms(now);
        if self.clock.load(Ordering::Relaxed) < now_ms {
            self.clock.store(now_ms, Ordering::Relaxed);
        }
        match outcome {
            Outcome::Answered(latency) => {
                node.load.answered(latency, now_ms);
                return false;
            }
            Outcome::GivenUp(after) => {
                node.load.given_up(after, now_ms);
                return false;
            }
            Outcome::Unknown => return false,
            Outcome::Refused | Outcome::Failed => node.load.failed(now_ms),
        }
        let mut standings = self.standings();
        let ejected = standings.failed(node, outcome == Outcome::Refused, now);
        if ejected {
            self.publish(&standings);
        }
        ejected
    }

    /// Those of the addresses whose time of being left out is over, to be tried now, and when the next one's will be (or
    /// was, where more than `most` are due). Each is given out once, and stays left out until [`Self::tried`] says how its
    /// trial went.
    pub fn due(&self, most: usize, now: Instant) -> (Vec<Arc<Node<T>>>, Option<Instant>) {
        self.standings().due(most, now)
    }

    /// How the trial of an address went: it takes calls again, or is left out for longer than before.
    pub fn tried(&self, node: &Node<T>, works: bool, now: Instant) {
        let mut standings = self.standings();
        standings.tried(node, works, now);
        self.publish(&standings);
    }

    fn publish(&self, standings: &Standings<T>) {
        self.snapshot.store(Arc::new(standings.snapshot(&self.clock)));
    }

    fn standings(&self) -> MutexGuard<'_, Standings<T>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

impl<T> fmt::Debug for Balancer<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Balancer").field("snapshot", &self.snapshot.load()).finish_non_exhaustive()
    }
}

/// Chooses from a snapshot that it keeps at hand until there is a newer one.
pub struct Picker<T> {
    cache: Cache<Arc<ArcSwap<Snapshot<T>>>, Arc<Snapshot<T>>>,
}

impl<T> Picker<T> {
    /// The next address to call; none where there is none.
    #[inline]
    pub fn pick(&mut self) -> Option<&Choice<T>> {
        self.cache.load().pick()
    }
}

impl<T> Clone for Picker<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<T> fmt::Debug for Picker<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Picker").finish_non_exhaustive()
    }
}
