//! The bar above everything: the name, the search, how it is with the connection, and what can be done anywhere.

use leptos::prelude::*;
use rollcall_client::Connection;
use rollcall_shared::api::EtcdState;

use super::erased::{text, word};
use crate::{app::Ui, browser, route::Address, store::Status, words};

/// The connection's state, as `data-state` has it.
pub fn state(status: &Status) -> &'static str {
    match (status.connection, status.etcd) {
        (Connection::Open, Some((EtcdState::Live, _))) => "live",
        (Connection::Open, Some((EtcdState::Stale, _))) => "stale",
        (Connection::Open, Some((EtcdState::Unreachable, _))) => "unreachable",
        _ => "reconnecting",
    }
}

/// The top bar.
pub fn top_bar() -> AnyView {
    let ui = Ui::get();
    let search = move || ui.address.with(|address| address.search.clone());
    let typed = move |event| ui.search_for(event_target_value(&event));
    let pane = move |_| ui.activity.update(|shown| *shown = !*shown);
    view! {
        <header class="top">
            <a class="brand" href=Address::default().href()>
                <svg viewBox="0 0 16 16" width="18" height="18" aria-hidden="true">
                    <rect x="1" y="2" width="3" height="3" rx="1.5"></rect>
                    <rect x="1" y="6.5" width="3" height="3" rx="1.5"></rect>
                    <rect x="1" y="11" width="3" height="3" rx="1.5" class="off"></rect>
                    <rect x="6" y="2.5" width="9" height="2" rx="1"></rect>
                    <rect x="6" y="7" width="9" height="2" rx="1"></rect>
                    <rect x="6" y="11.5" width="6" height="2" rx="1" class="off"></rect>
                </svg>
                <span>{words::NAME}</span>
            </a>
            <input
                type="search"
                name="q"
                aria-label=words::SEARCH
                placeholder=words::SEARCH_HINT
                autocomplete="off"
                spellcheck="false"
                prop:value=text(search)
                on:input=typed
            />
            {status_words(ui)}
            <button type="button" class="pane" aria-pressed=word(move || if ui.activity.get() { "true" } else { "false" }) on:click=pane>
                {words::ACTIVITY}
            </button>
            <button type="button" class="primary" data-testid="register" on:click=move |_| ui.form.set(true)>
                {words::REGISTER}
            </button>
            <button type="button" class="theme" aria-label=words::THEME title=words::THEME on:click=move |_| {
                ui.switch_theme();
            }>
                <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
                    <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" stroke-width="1.5"></circle>
                    <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor"></path>
                </svg>
            </button>
        </header>
    }
    .into_any()
}

fn status_words(ui: Ui) -> AnyView {
    let status = ui.store.status;
    let sentence = move || {
        let status = status.get();
        if status.unreadable {
            return words::RELOAD.to_owned();
        }
        match (status.connection, status.etcd) {
            (Connection::Open, Some((EtcdState::Live, _))) => words::LIVE.to_owned(),
            (Connection::Open, Some((etcd, since_ms))) => {
                let passed_ms = (ui.store.now_ms.get() - since_ms).max(0.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
                let for_s = (passed_ms / 1_000.0) as u64;
                words::etcd_away(etcd == EtcdState::Stale, for_s, &browser::clock(since_ms))
            }
            (Connection::Connecting, _) => words::CONNECTING.to_owned(),
            _ => words::RECONNECTING.to_owned(),
        }
    };
    view! {
        <p class="status" role="status" data-testid="status" data-state=word(move || state(&status.get()))>
            <span class="dot"></span>
            <span>{text(sentence)}</span>
        </p>
    }
    .into_any()
}
