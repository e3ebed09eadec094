use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn member(address: &str, weight: u64) -> Member {
    let instance = ServiceInstance { id: address.into(), ..ServiceInstance::default() };
    Member { address: address.into(), weight, instance: Arc::new(instance) }
}

fn set(balancer: &Balancer<u32>, members: &[(&str, u64)]) -> u32 {
    let mut made = 0;
    let members = members.iter().map(|(address, weight)| member(address, *weight)).collect();
    balancer.set(members, |_| {
        made += 1;
        Some(made)
    });
    made
}

fn new(picking: Picking) -> Balancer<u32> {
    Balancer::new(picking, Ejection::default(), Instant::now())
}

fn picks(balancer: &Balancer<u32>, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let snapshot = balancer.snapshot();
        let Some(choice) = snapshot.pick() else { continue };
        *seen.entry(choice.address().to_string()).or_default() += 1;
    }
    seen
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(address, count)| ((*address).to_owned(), *count)).collect()
}

fn node(balancer: &Balancer<u32>, address: &str) -> Arc<Node<u32>> {
    let snapshot = balancer.snapshot();
    let choice = snapshot.choices().iter().find(|choice| choice.address().as_str() == address);
    Arc::clone(&choice.expect("the address takes calls").node)
}

const EVERY: [Picking; 3] = [Picking::RoundRobin, Picking::Weighted, Picking::PowerOfTwoChoices];

#[test]
fn a_round_reaches_everyone_once() {
    let balancer = new(Picking::RoundRobin);
    assert!(balancer.snapshot().pick().is_none());
    set(&balancer, &[("a", 100), ("b", 1), ("c", 7)]);
    assert_eq!(picks(&balancer, 30), counts(&[("a", 10), ("b", 10), ("c", 10)]));
}

#[test]
fn weights_are_kept_and_a_change_of_them_counts_at_once() {
    let balancer = new(Picking::Weighted);
    set(&balancer, &[("a", 300), ("b", 100)]);
    assert_eq!(picks(&balancer, 400), counts(&[("a", 300), ("b", 100)]));
    assert_eq!(set(&balancer, &[("a", 100), ("b", 100)]), 0, "no address is new");
    assert_eq!(picks(&balancer, 400), counts(&[("a", 200), ("b", 200)]));
}

#[test]
fn a_weight_of_0_drains_but_not_the_only_one() {
    for picking in EVERY {
        let balancer = new(picking);
        set(&balancer, &[("a", 0), ("b", 100)]);
        assert_eq!(picks(&balancer, 10), counts(&[("b", 10)]), "{picking:?}");
        set(&balancer, &[("a", 0)]);
        assert_eq!(picks(&balancer, 10), counts(&[("a", 10)]), "{picking:?}");
        set(&balancer, &[("a", 0), ("b", 0)]);
        assert_eq!(picks(&balancer, 1_000).len(), 2, "{picking:?}");
    }
}

#[test]
fn who_refuses_is_left_out_and_comes_back_by_a_trial() {
    for picking in EVERY {
        let balancer = new(picking);
        let mut now = Instant::now();
        set(&balancer, &[("a", 100), ("b", 100)]);
        let a = node(&balancer, "a");
        assert!(balancer.report(&a, Outcome::Refused, now));
        assert!(!balancer.report(&a, Outcome::Refused, now), "once is enough");
        assert_eq!(picks(&balancer, 10), counts(&[("b", 10)]));

        let (due, next) = balancer.due(8, now);
        assert!(due.is_empty());
        now = next.expect("the time is set");
        let (due, next) = balancer.due(8, now);
        assert_eq!((due.len(), next), (1, None));
        assert!(balancer.due(8, now).0.is_empty(), "a trial is made once");
        assert_eq!(picks(&balancer, 10), counts(&[("b", 10)]), "calls do not make the trial");
        balancer.tried(&a, true, now);
        assert_eq!(picks(&balancer, 1_000).len(), 2);
    }
}

#[test]
fn who_keeps_refusing_is_left_out_for_longer_up_to_a_bound() {
    let balancer = new(Picking::RoundRobin);
    let mut now = Instant::now();
    set(&balancer, &[("a", 100), ("b", 100)]);
    let a = node(&balancer, "a");
    balancer.report(&a, Outcome::Refused, now);
    let mut bound = EJECTION_MIN;
    for _ in 0..10 {
        let (_, next) = balancer.due(8, now);
        let rest = next.expect("it is left out") - now;
        assert!(rest >= bound.mul_f64(0.74) && rest <= bound, "{rest:?} of {bound:?}");
        bound = (bound * 2).min(EJECTION_MAX);
        now += rest;
        assert_eq!(balancer.due(8, now).0.len(), 1);
        balancer.tried(&a, false, now);
    }
    assert_eq!(bound, EJECTION_MAX);

    // Back for a moment is not back for good; back for long is.
    for (after, bound) in [(Duration::from_secs(1), EJECTION_MAX), (EJECTION_MAX, EJECTION_MIN)] {
        now = balancer.due(8, now).1.unwrap_or(now);
        balancer.due(8, now);
        balancer.tried(&a, true, now);
        now += after;
        assert!(balancer.report(&a, Outcome::Refused, now));
        let rest = balancer.due(8, now).1.expect("it is left out") - now;
        assert!(rest <= bound && rest >= bound.mul_f64(0.74), "{rest:?} of {bound:?}");
    }
}

#[test]
fn failures_in_a_row_count_and_an_answer_ends_the_row() {
    let balancer = new(Picking::RoundRobin);
    let now = Instant::now();
    set(&balancer, &[("a", 100), ("b", 100)]);
    let a = node(&balancer, "a");
    for _ in 0..3 {
        for _ in 1..FAILURES_IN_A_ROW {
            assert!(!balancer.report(&a, Outcome::Failed, now));
        }
        balancer.report(&a, Outcome::Answered(Duration::from_millis(1)), now);
        assert!(!balancer.report(&a, Outcome::Unknown, now));
    }
    for _ in 1..FAILURES_IN_A_ROW {
        assert!(!balancer.report(&a, Outcome::Failed, now));
    }
    assert!(balancer.report(&a, Outcome::Failed, now));

    // Back on trial, one failure is enough.
    let now = balancer.due(8, now).1.expect("it is left out");
    balancer.due(8, now);
    balancer.tried(&a, true, now);
    assert!(balancer.report(&a, Outcome::Failed, now));
}

#[test]
fn where_all_are_left_out_all_are_called() {
    let balancer = new(Picking::RoundRobin);
    let now = Instant::now();
    set(&balancer, &[("a", 100), ("b", 100)]);
    for address in ["a", "b"] {
        balancer.report(&node(&balancer, address), Outcome::Refused, now);
    }
    assert_eq!(picks(&balancer, 10), counts(&[("a", 5), ("b", 5)]));

    // A drained one that answers is better than one that does not.
    set(&balancer, &[("a", 100), ("b", 100), ("c", 0)]);
    assert_eq!(picks(&balancer, 10), counts(&[("c", 10)]));
}

#[test]
fn nothing_is_left_out_where_that_is_switched_off() {
    let balancer = Balancer::new(Picking::RoundRobin, Ejection::never(), Instant::now());
    set(&balancer, &[("a", 100), ("b", 100)]);
    let a = node(&balancer, "a");
    for _ in 0..100 {
        assert!(!balancer.report(&a, Outcome::Refused, Instant::now()));
    }
    assert_eq!(picks(&balancer, 10).len(), 2);
}

#[test]
fn an_endless_ejection_ends() {
    let endless = Ejection { min: Duration::MAX, max: Duration::MAX, ..Ejection::default() };
    let balancer = Balancer::new(Picking::RoundRobin, endless, Instant::now());
    set(&balancer, &[("a", 100), ("b", 100)]);
    let now = Instant::now();
    assert!(balancer.report(&node(&balancer, "a"), Outcome::Refused, now));
    assert!(balancer.due(8, now).1.unwrap() - now <= EJECTION_LIMIT);
}

#[test]
fn what_an_address_did_outlives_a_change_of_the_list() {
    let balancer = new(Picking::RoundRobin);
    let now = Instant::now();
    assert_eq!(set(&balancer, &[("a", 100), ("b", 100)]), 2);
    let a = node(&balancer, "a");
    let call = balancer.snapshot().choices()[1].start();
    balancer.report(&a, Outcome::Refused, now);

    assert_eq!(set(&balancer, &[("0", 100), ("a", 100), ("b", 100)]), 1, "only the new address is made");
    assert_eq!(picks(&balancer, 10), counts(&[("0", 5), ("b", 5)]), "a is still left out");
    assert_eq!(node(&balancer, "b").in_flight(), 1);

    // What left is forgotten, and what it kept is dropped with its last call.
    assert_eq!(set(&balancer, &[("a", 100)]), 0);
    let weak = Arc::downgrade(&call.node);
    drop(call);
    assert_eq!(weak.strong_count(), 0);
    assert_eq!(set(&balancer, &[("a", 100), ("b", 100)]), 1);
}

#[test]
fn a_retry_goes_elsewhere_as_long_as_there_is_an_elsewhere() {
    for picking in EVERY {
        let balancer = new(picking);
        set(&balancer, &[("a", 100), ("b", 100), ("c", 1)]);
        let snapshot = balancer.snapshot();
        for _ in 0..1_000 {
            let choice = snapshot.pick_other(|node| node.address().as_str() != "c").unwrap();
            assert_eq!(choice.address().as_str(), "c");
            assert!(snapshot.pick_other(|_| true).is_some(), "better the same one than none");
        }
    }
}

#[test]
fn the_better_of_two_shuns_the_slow_and_the_busy() {
    let balancer = new(Picking::PowerOfTwoChoices);
    let now = Instant::now();
    set(&balancer, &[("a", 100), ("b", 100), ("c", 100)]);
    for (address, latency_ms) in [("a", 1), ("b", 1), ("c", 100)] {
        balancer.report(&node(&balancer, address), Outcome::Answered(Duration::from_millis(latency_ms)), now);
    }
    let seen = picks(&balancer, 9_000);
    assert!(!seen.contains_key("c"), "{seen:?}: the slowest loses every draw");

    let snapshot = balancer.snapshot();
    let busy: Vec<_> = (0..500).map(|_| snapshot.choices()[0].start()).collect();
    let seen = picks(&balancer, 9_000);
    assert!(!seen.contains_key("a"), "{seen:?}: with 500 calls in flight it is worse than the slow one");
    drop(busy);
    assert!(picks(&balancer, 9_000).contains_key("a"));
}

#[test]
fn two_are_drawn_of_all_alike() {
    for count in [2, 3, 100] {
        let mut seen = vec![[0_u32; 2]; count];
        for _ in 0..count * 1_000 {
            let (first, second) = two_of(fastrand::u64(..), count);
            seen[first][0] += 1;
            seen[second][1] += 1;
        }
        assert_eq!(seen[count - 1][1], 0, "the second is drawn of one less");
        let off = |drawn: u32, due: usize| drawn.abs_diff(u32::try_from(due).unwrap()) > 250;
        assert!(!seen.iter().any(|drawn| off(drawn[0], 1_000)), "{count}: {seen:?}");
        assert!(!seen[..count - 1].iter().any(|drawn| off(drawn[1], count * 1_000 / (count - 1))), "{count}: {seen:?}");
    }
    assert_eq!(two_of(0, 1 << 20), (0, 0));
    assert_eq!(two_of(u64::MAX, 100), (99, 98));
}

#[test]
fn a_new_address_gets_one_call_until_it_has_answered() {
    let balancer = new(Picking::PowerOfTwoChoices);
    set(&balancer, &[("a", 100), ("b", 100)]);
    let now = Instant::now();
    balancer.report(&node(&balancer, "a"), Outcome::Answered(Duration::from_millis(1)), now);
    let snapshot = balancer.snapshot();
    let first = snapshot.pick().unwrap();
    assert_eq!(first.address().as_str(), "b");
    let _call = first.start();
    assert_eq!(picks(&balancer, 100), counts(&[("a", 100)]));
}

#[test]
fn a_picker_sees_the_new_list_at_its_next_pick() {
    let balancer = new(Picking::RoundRobin);
    let mut picker = balancer.picker();
    assert!(picker.pick().is_none());
    set(&balancer, &[("a", 100)]);
    assert_eq!(picker.pick().unwrap().address().as_str(), "a");
    set(&balancer, &[("b", 100)]);
    assert_eq!(picker.clone().pick().unwrap().address().as_str(), "b");
    assert_eq!(picker.pick().unwrap().address().as_str(), "b");
}

#[derive(Debug, Clone)]
enum Act {
    Set(Vec<(u8, u64)>),
    Report(u8, Outcome),
    Wait(u64),
    Try(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let members = prop::collection::btree_map(0_u8..6, 0_u64..3, 0..6);
    let outcome = prop_oneof![
        Just(Outcome::Refused),
        Just(Outcome::Failed),
        Just(Outcome::Unknown),
        Just(Outcome::GivenUp(Duration::from_secs(1))),
        Just(Outcome::Answered(Duration::from_millis(3))),
    ];
    prop_oneof![
        members.prop_map(|members| Act::Set(members.into_iter().collect())),
        (0_u8..6, outcome).prop_map(|(address, outcome)| Act::Report(address, outcome)),
        (0_u64..20_000).prop_map(Act::Wait),
        any::<bool>().prop_map(Act::Try),
    ]
}

proptest! {
    /// Whatever happens: who is on the list can be called, who is not cannot, and everyone comes back.
    #[test]
    fn there_is_always_somebody_to_call(acts in prop::collection::vec(act(), 1..60), picking in 0_usize..3) {
        let balancer = new(EVERY[picking]);
        let mut now = Instant::now();
        let mut list: Vec<(u8, u64)> = Vec::new();
        for act in acts {
            match act {
                Act::Set(members) => {
                    list = members;
                    let named = list.iter().map(|(address, weight)| member(&address.to_string(), *weight)).collect();
                    balancer.set(named, |_| Some(0));
                }
                Act::Report(address, outcome) => {
                    let snapshot = balancer.snapshot();
                    let address = address.to_string();
                    if let Some(choice) = snapshot.choices().iter().find(|it| it.address().as_str() == address) {
                        balancer.report(choice, outcome, now);
                    }
                }
                Act::Wait(ms) => now += Duration::from_millis(ms),
                Act::Try(works) => {
                    for node in balancer.due(8, now).0 {
                        balancer.tried(&node, works, now);
                    }
                }
            }
            let snapshot = balancer.snapshot();
            prop_assert_eq!(snapshot.pick().is_some(), !list.is_empty());
            for choice in snapshot.choices() {
                prop_assert!(list.iter().any(|(address, _)| address.to_string() == choice.address().as_str()));
            }
        }
        for _ in 0..2 {
            now += EJECTION_MAX;
            for node in balancer.due(8, now).0 {
                balancer.tried(&node, true, now);
            }
        }
        let undrained = list.iter().filter(|(_, weight)| *weight > 0).count();
        let expected = if undrained == 0 { list.len() } else { undrained };
        prop_assert_eq!(balancer.snapshot().choices().len(), expected);
    }
}
