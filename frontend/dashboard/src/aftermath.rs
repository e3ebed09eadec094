//! What follows when an instance is taken out, by what wrote its key: measured on the frameworks' own programs.
//!
//! Pure. The words are [`crate::words`]'; this decides which of them, and when a click is not enough.

use rollcall_shared::Layout;

use crate::words;

/// How an instance is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Its key is deleted; its lease lives on.
    Delete,
    /// Its lease is revoked, and all its keys go with it.
    Revoke,
}

/// What the person is told before the click.
pub fn sentence(layout: Layout, act: Act, has_lease: bool) -> &'static str {
    if !has_lease {
        return words::AFTER_PERMANENT.text();
    }
    match (layout, act) {
        (Layout::Kratos, Act::Delete) => words::AFTER_KRATOS_DELETE.text(),
        (Layout::Kratos, Act::Revoke) => words::AFTER_KRATOS_REVOKE.text(),
        (Layout::GoMicro, Act::Delete) => words::AFTER_GO_MICRO_DELETE.text(),
        (Layout::GoMicro, Act::Revoke) => words::AFTER_GO_MICRO_REVOKE.text(),
        (Layout::GoZero, Act::Delete) => words::AFTER_GO_ZERO_DELETE.text(),
        (Layout::GoZero, Act::Revoke) => words::AFTER_GO_ZERO_REVOKE.text(),
        (Layout::Kitex, _) => words::AFTER_KITEX.text(),
        (Layout::Hertz, _) => words::AFTER_HERTZ.text(),
        (Layout::GoKit, _) => words::AFTER_GO_KIT.text(),
        (Layout::Grpc, _) => words::AFTER_GRPC.text(),
        (Layout::Plain, _) => words::AFTER_PLAIN.text(),
    }
}

/// What else is to be said where it is the service's last instance.
pub fn last_one(layout: Layout) -> Option<&'static str> {
    matches!(layout, Layout::Kratos | Layout::Kitex).then_some(words::AFTER_LAST_KEEPS_TRAFFIC.text())
}

/// Whether the service's name has to be typed: the last live instance, or more than half of them.
pub fn needs_the_name(live: usize, taken: usize) -> bool {
    taken > 0 && (live <= taken || taken * 2 > live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_framework_has_its_own_sentence() {
        assert!(sentence(Layout::Kratos, Act::Delete, true).contains("restarts"));
        assert!(sentence(Layout::GoZero, Act::Delete, true).contains("at once"));
        assert!(sentence(Layout::Kitex, Act::Delete, true).contains("30 s"));
        assert_ne!(
            sentence(Layout::Kratos, Act::Delete, true),
            sentence(Layout::Kratos, Act::Revoke, true),
            "a kratos program comes back after a revoke"
        );
        for layout in Layout::ALL {
            for act in [Act::Delete, Act::Revoke] {
                let text = sentence(layout, act, true);
                assert!(text.ends_with('.') && !text.contains('!'), "{text}");
            }
            assert_eq!(sentence(layout, Act::Delete, false), words::AFTER_PERMANENT.text());
        }
        assert!(last_one(Layout::Kratos).is_some() && last_one(Layout::GoKit).is_none());
    }

    #[test]
    fn the_last_one_or_more_than_half_asks_for_the_name() {
        for (live, taken, expected) in
            [(1, 1, true), (2, 1, false), (3, 1, false), (3, 2, true), (4, 2, false), (2, 2, true), (5, 0, false)]
        {
            assert_eq!(needs_the_name(live, taken), expected, "{taken} of {live}");
        }
    }
}
