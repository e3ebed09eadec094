//! A list of which only what is near the eye stands in the document.

use leptos::{html::Div, prelude::*};

use crate::{app::Ui, window::Window};

/// Where a scrolled box stands.
#[derive(Clone, Copy)]
pub struct Scroll {
    /// The box.
    pub element: NodeRef<Div>,
    top_px: RwSignal<usize>,
    height_px: RwSignal<usize>,
}

impl Scroll {
    /// Follows the box that `element` becomes.
    pub fn new(ui: Ui) -> Self {
        let scroll = Self { element: NodeRef::new(), top_px: RwSignal::new(0), height_px: RwSignal::new(900) };
        Effect::new(move |_| {
            ui.resized.track();
            ui.narrow.track();
            if let Some(element) = scroll.element.get() {
                let height_px = usize::try_from(element.client_height()).unwrap_or_default();
                if height_px > 0 {
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
            self.top_px.set(usize::try_from(element.scroll_top()).unwrap_or_default());
        }
    }

    /// The rows that stand in the document, of `count` that are `row_px` high.
    pub fn window(self, count: Signal<usize>, row_px: Signal<usize>) -> Memo<Window> {
        Memo::new(move |_| Window::of(count.get(), row_px.get(), self.top_px.get(), self.height_px.get()))
    }
}

/// A height in pixels of so many rows, as the stylesheet takes it.
pub fn rows_px(rows: usize, row_px: usize) -> String {
    [&*(rows * row_px).to_string(), "px"].concat()
}
