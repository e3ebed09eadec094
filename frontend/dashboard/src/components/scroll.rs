//! A list of which only what is near the eye stands in the document.

use leptos::{html::Div, prelude::*};

use crate::{app::Ui, window::Window};

/// Where a scrolled box stands.
#[derive(Clone, Copy)]
pub struct Scroll {
    /// The box.
    pub element: NodeRef<Div>,
    top_px: RwSignal<f64>,
    height_px: RwSignal<f64>,
}

impl Scroll {
    /// Follows the box that `element` becomes.
    pub fn new(ui: Ui) -> Self {
        let scroll = Self { element: NodeRef::new(), top_px: RwSignal::new(0.0), height_px: RwSignal::new(900.0) };
        Effect::new(move |_| {
            ui.resized.track();
            ui.narrow.track();
            if let Some(element) = scroll.element.get() {
                let height_px = f64::from(element.client_height());
                if height_px > 0.0 {
                    scroll.height_px.set(height_px);
                }
                scroll.follow();
            }
        });
        scroll
    }

    /// The box was scrolled.
    pub fn follow(self) {
        if let Some(element) = self.element.get_untracked() {
            self.top_px.set(f64::from(element.scroll_top()));
        }
    }

    /// The rows that stand in the document, of `count` that are `row_px` high.
    pub fn window(self, count: Signal<usize>, row_px: Signal<f64>) -> Memo<Window> {
        Memo::new(move |_| Window::of(count.get(), row_px.get(), self.top_px.get(), self.height_px.get()))
    }
}

/// A height in pixels of so many rows, as the stylesheet takes it.
#[expect(clippy::cast_precision_loss, reason = "a list has far fewer rows than 2^52")]
pub fn rows_px(rows: usize, row_px: f64) -> String {
    [&*(rows as f64 * row_px).to_string(), "px"].concat()
}
