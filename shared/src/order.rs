//! The one sorting of the page. A sort is compiled anew for everything that is sorted, at 1.3 KB of every first load.

use std::cmp::Ordering;

/// The places `0..count` in the order that `compare` has of what stands there; what is equal stays as it stood.
pub fn in_order(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_stays_as_it_stood() {
        let words = ["b1", "a1", "b2", "a2"];
        let by_letter = |a: usize, b: usize| words[a][..1].cmp(&words[b][..1]);
        assert_eq!(in_order(words.len(), &by_letter), [1, 3, 0, 2]);
    }
}
