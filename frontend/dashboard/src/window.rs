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
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both are clamped to the list")]
    pub fn of(count: usize, row_px: f64, scroll_px: f64, viewport_px: f64) -> Self {
        let first = (scroll_px.max(0.0) / row_px) as usize;
        let shown = (viewport_px.max(0.0) / row_px).ceil() as usize + 1;
        let end = first.saturating_add(shown + OVERSCAN_ROWS).min(count);
        Self { start: first.saturating_sub(OVERSCAN_ROWS).min(end), end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_the_eye_stands_in_the_document() {
        assert_eq!(Window::of(0, 32.0, 0.0, 800.0), Window { start: 0, end: 0 });
        assert_eq!(Window::of(3, 32.0, 0.0, 800.0), Window { start: 0, end: 3 });
        assert_eq!(Window::of(10_000, 32.0, 0.0, 800.0), Window { start: 0, end: 42 });
        assert_eq!(Window::of(10_000, 32.0, 160_000.0, 800.0), Window { start: 4_984, end: 5_042 });
        assert_eq!(Window::of(10_000, 32.0, 319_200.0, 800.0), Window { start: 9_959, end: 10_000 });
        assert_eq!(Window::of(5, 32.0, 99_999.0, 800.0), Window { start: 5, end: 5 });
        assert_eq!(Window::of(5, 32.0, -50.0, 64.0), Window { start: 0, end: 5 });
    }
}
