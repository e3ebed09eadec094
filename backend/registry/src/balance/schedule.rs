//! The order of a weighted round: a table in which each choice stands as often as its weight says, evenly spread.

/// The most rows a table has, unless there are more choices. Weights that would need more are rounded, each to at least
/// one row.
pub const SLOTS_MAX: usize = 16_384;

/// The table of positions for these weights; none where they are all alike, or where there are none. A weight of 0 has no
/// row.
pub(super) fn table(weights: &[u64]) -> Option<Box<[u32]>> {
    let counts = counts(weights);
    if counts.windows(2).all(|pair| pair[0] == pair[1]) {
        return None;
    }
    // The i-th of n rows of a choice belongs at (i + 1/2) / n of the whole, like a beat among beats.
    let mut rows: Vec<(f64, u32)> = Vec::with_capacity(counts.iter().sum());
    for (position, &count) in (0_u32..).zip(&counts) {
        rows.extend((0..count).map(|row| ((to_f64(row) + 0.5) / to_f64(count), position)));
    }
    rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    Some(rows.into_iter().map(|(_, position)| position).collect())
}

/// How many rows each weight gets.
fn counts(weights: &[u64]) -> Vec<usize> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight / divisor)).sum();
    let slots_max = SLOTS_MAX.max(weights.len()) as u128;
    let scaled = |weight: u64| {
        let weight = u128::from(weight / divisor);
        let rows = if sum <= slots_max { weight } else { (weight * slots_max / sum).max(u128::from(weight > 0)) };
        usize::try_from(rows).expect("a weight's share of the slots is no more than all of them")
    };
    weights.iter().map(|&weight| scaled(weight)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_round_is_interleaved() {
        assert_eq!(table(&[100, 100, 100]), None);
        assert_eq!(table(&[]), None);
        assert_eq!(table(&[7]), None);
        assert_eq!(*table(&[300, 100]).unwrap(), [0, 0, 1, 0]);
        assert_eq!(*table(&[50, 100, 0]).unwrap(), [1, 0, 1]);
        assert_eq!(*table(&[2, 1, 1]).unwrap(), [0, 1, 2, 0]);
    }

    #[test]
    fn weights_that_need_too_many_rows_are_rounded_and_none_is_lost() {
        let table = table(&[1, i64::MAX as u64, 3_000_000_000]).unwrap();
        assert!(table.len() <= SLOTS_MAX + 2, "{}", table.len());
        for position in 0..3 {
            assert!(table.contains(&position), "{position}");
        }
    }

    proptest! {
        #[test]
        fn every_stretch_of_a_round_is_fair(weights in prop::collection::vec(0_u64..50, 1..20)) {
            let Some(rows) = table(&weights) else { return Ok(()) };
            let sum: u64 = weights.iter().sum();
            let mut seen = vec![0_u64; weights.len()];
            for (turn, &row) in (1_u64..).zip(&rows) {
                seen[row as usize] += 1;
                // Wherever in the round one stops: nobody is further from its due than rounding all the others explains.
                let slack = (weights.len() as u64 / 2 + 2) * sum;
                for (&seen, &weight) in seen.iter().zip(&weights) {
                    prop_assert!((seen * sum).abs_diff(weight * turn) <= slack, "{seen} after {turn} of {weights:?}");
                }
            }
            let divisor = weights.iter().copied().fold(0, gcd);
            for (&seen, &weight) in seen.iter().zip(&weights) {
                prop_assert_eq!(seen, weight / divisor);
            }
        }
    }
}
