//! A list of which only what is near the eye stands in the document.

use leptos::prelude::*;
use web_sys::Element;

use super::element::{El, el, follow};
use crate::{app::Ui, window::Window};

/// Where a scrolled box stands.
#[derive(Clone, Copy)]
pub struct Scroll {
    ui: Ui,
    top_px: RwSignal<usize>,
    height_px: RwSignal<usize>,
}

impl Scroll {
    /// A box that is yet to be drawn.
    pub fn new(ui: Ui) -> Self {
        Self { ui, top_px: RwSignal::new(0), height_px: RwSignal::new(900) }
    }

    /// The box, which is followed from now on.
    pub fn box_of(self, class: &str) -> El {
        let scrolled = el("div").class(class);
        let node = scrolled.node().clone();
        let measured = node.clone();
        follow(move || {
            self.ui.resized.track();
            self.ui.narrow.track();
            self.measure(&measured);
        });
        scrolled.on("scroll", move |_| self.follow(&node))
    }

    fn measure(self, node: &Element) {
        let height_px = usize::try_from(node.client_height()).unwrap_or_default();
        if height_px > 0 {
            self.height_px.set(height_px);
        }
        self.follow(node);
    }

    fn follow(self, node: &Element) {
        self.top_px.set(usize::try_from(node.scroll_top()).unwrap_or_default());
    }

    /// The rows that stand in the document, of `count` that are `row_px` high.
    pub fn window(self, count: Memo<usize>, row_px: Memo<usize>) -> Memo<Window> {
        Memo::new(move |_| Window::of(count.get(), row_px.get(), self.top_px.get(), self.height_px.get()))
    }
}

/// With the height of the rows before the window.
pub fn pad_before(pad: El, window: Memo<Window>, row_px: Memo<usize>) -> El {
    pad.style_of("height", move || px(window.get().start * row_px.get()))
}

/// With the height of the rows after the window, and of those in it that are still to be drawn: a page whose length
/// changes would be scrolled elsewhere.
pub fn pad_after(
    pad: El,
    window: Memo<Window>,
    count: Memo<usize>,
    row_px: Memo<usize>,
    missing: RwSignal<usize>,
) -> El {
    pad.style_of("height", move || px((count.get().saturating_sub(window.get().end) + missing.get()) * row_px.get()))
}

fn px(length: usize) -> String {
    [&*length.to_string(), "px"].concat()
}
