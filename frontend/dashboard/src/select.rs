//! Which rows are selected. Pure.

use std::collections::BTreeSet;

/// What a click or a key on a row selects: the row alone, turned over; or everything from the row that was turned last
/// to this one, in the order of the table.
pub fn toggle<'a>(
    selected: &mut BTreeSet<String>,
    rows: impl Iterator<Item = &'a str>,
    last: Option<&str>,
    key: &str,
    range: bool,
) {
    let Some(last) = last.filter(|last| range && *last != key) else {
        if !selected.remove(key) {
            selected.insert(key.to_owned());
        }
        return;
    };
    let mut between: Option<Vec<&str>> = None;
    for row in rows {
        let is_end = row == key || row == last;
        match &mut between {
            None if is_end => between = Some(vec![row]),
            None => {}
            Some(between) => {
                between.push(row);
                if is_end {
                    selected.extend(between.iter().map(|row| (*row).to_owned()));
                    return;
                }
            }
        }
    }
    // The other end is in the table no more.
    selected.insert(key.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_everything_between_in_either_direction() {
        let rows = ["d", "b", "a", "c"];
        let mut selected = BTreeSet::new();
        let mut press = |last: Option<&str>, key: &str, range: bool| {
            toggle(&mut selected, rows.into_iter(), last, key, range);
            selected.iter().map(String::as_str).collect::<Vec<_>>().concat()
        };
        assert_eq!(press(None, "b", false), "b");
        assert_eq!(press(Some("b"), "c", true), "abc");
        assert_eq!(press(Some("c"), "a", false), "bc");
        assert_eq!(press(Some("a"), "d", true), "abcd");
        assert_eq!(press(Some("d"), "d", true), "abc");
        assert_eq!(press(Some("gone"), "d", true), "abcd");
    }
}
