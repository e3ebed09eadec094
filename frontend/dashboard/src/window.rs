//! Which rows of a long list stand in the document. Pure.

/// How many rows beyond the visible ones are kept on either side, so that scrolling never shows a blank.
pub const OVERSCAN_ROWS: usize = 16;

/// A stretch of rows, and the room that the others take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first row.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl Window {
    /// The rows of `count` that stand in the document when `viewport_px` are seen from `scroll_px` on.
    pub fn of(count: usize, row_px: usize, scroll_px: usize, viewport_px: usize) -> Self {
        let shown = viewport_px.div_ceil(row_px) + 1;
        // A list that has become shorter is scrolled to its end before the browser says so.
        let first = (scroll_px / row_px).min(count.saturating_sub(shown));
        let end = first.saturating_add(shown + OVERSCAN_ROWS).min(count);
        Self { start: first.saturating_sub(OVERSCAN_ROWS).min(end), end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_the_eye_stands_in_the_document() {
        assert_eq!(Window::of(0, 32, 0, 800), Window { start: 0, end: 0 });
        assert_eq!(Window::of(3, 32, 0, 800), Window { start: 0, end: 3 });
        assert_eq!(Window::of(10_000, 32, 0, 800), Window { start: 0, end: 42 });
        assert_eq!(Window::of(10_000, 32, 160_000, 800), Window { start: 4_984, end: 5_042 });
        assert_eq!(Window::of(10_000, 32, 319_200, 800), Window { start: 9_958, end: 10_000 });
        assert_eq!(Window::of(5, 32, 99_999, 800), Window { start: 0, end: 5 });
        assert_eq!(Window::of(5, 32, 0, 64), Window { start: 0, end: 5 });
    }
}
