//! What is told in passing, and how to take it back.

use leptos::prelude::*;

use super::{
    element::{El, button, el, follow, said},
    later,
};
use crate::{
    app::{Toast, Ui},
    keys, words,
};

/// How many are in sight at once; behind them wait the older ones that can still be taken back.
const SHOWN_MAX: usize = 6;

/// The notes at the page's foot.
pub fn toasts(ui: Ui) -> El {
    follow(move || {
        let now_ms = ui.store.now_ms.get();
        if ui.toasts.with_untracked(|toasts| toasts.iter().any(|toast| toast.until_ms <= now_ms)) {
            ui.toasts.update(|toasts| toasts.retain(|toast| toast.until_ms > now_ms));
        }
    });
    let named =
        move || ui.toasts.with(|toasts| toasts.iter().take(SHOWN_MAX).map(|toast| toast.number.to_string()).collect());
    let drawn = move |wanted: &str| {
        let found = |toast: &&Toast| toast.number.to_string() == wanted;
        ui.toasts.with_untracked(|toasts| toasts.iter().find(found).map(|toast| note(ui, toast)))
    };
    el("div").class("toasts").attr("aria-live", "polite").keyed(named, drawn)
}

fn note(ui: Ui, toast: &Toast) -> El {
    let (number, until_ms) = (toast.number, toast.until_ms);
    let close = move |_| {
        ui.toasts.update(|toasts| toasts.retain(|other| other.number != number));
        keys::keep_focus(ui);
    };
    let mut note = el("div").class("toast").child(said("span", "", &toast.text));
    if toast.undo.is_some() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
        let left = move || words::about(((until_ms - ui.store.now_ms.get()) / 1_000.0).max(0.0) as u64);
        let undo = button("", words::UNDO.text(), move |_| later::undo(ui, number))
            .attr("data-testid", "undo")
            .attr("aria-keyshortcuts", "z");
        let seconds = el("span").class("count").attr("aria-live", "off").text_of(left);
        note = note.child(seconds).child(undo.child(said("kbd", "", "z")));
    }
    note.child(button("close", "×", close).attr("aria-label", words::CLOSE.text()))
}
