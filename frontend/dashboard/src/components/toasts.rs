//! What is told in passing, and how to take it back.

use leptos::prelude::*;

use super::erased::{keyed, nothing, text};
use crate::{
    app::{Toast, Ui},
    words,
};

/// The notes at the page's foot.
pub fn toasts() -> AnyView {
    let ui = Ui::get();
    Effect::new(move |_| {
        let now_ms = ui.store.now_ms.get();
        if ui.toasts.with_untracked(|toasts| toasts.iter().any(|toast| toast.until_ms <= now_ms)) {
            ui.toasts.update(|toasts| toasts.retain(|toast| toast.until_ms > now_ms));
        }
    });
    let named = move || ui.toasts.with(|toasts| toasts.iter().map(|toast| toast.number.to_string()).collect());
    let drawn = move |wanted: String| {
        let toast =
            ui.toasts.with_untracked(|toasts| toasts.iter().find(|toast| toast.number.to_string() == wanted).cloned());
        toast.map_or_else(nothing, |toast| note(ui, &toast))
    };
    view! {
        <div class="toasts" aria-live="polite">
            {keyed(named, drawn)}
        </div>
    }
    .into_any()
}

fn note(ui: Ui, toast: &Toast) -> AnyView {
    let number = toast.number;
    let until_ms = toast.until_ms;
    let close = move |_| ui.toasts.update(|toasts| toasts.retain(|other| other.number != number));
    let undo = toast.undo.is_some().then(|| {
        let toast = toast.clone();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
        let left = move || words::about(((until_ms - ui.store.now_ms.get()) / 1_000.0).max(0.0) as u64);
        view! {
            <span class="count">{text(left)}</span>
            <button type="button" data-testid="undo" on:click=move |_| ui.undo(toast.clone())>
                {words::UNDO}
            </button>
        }
        .into_any()
    });
    view! {
        <div class="toast">
            <span>{toast.text.clone()}</span>
            {undo}
            <button type="button" class="close" aria-label=words::CLOSE on:click=close>
                "×"
            </button>
        </div>
    }
    .into_any()
}
