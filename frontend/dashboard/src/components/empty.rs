//! What stands where there are no rows: still waiting, nothing registered, nothing found.

use leptos::prelude::*;

use super::erased::{part, text};
use crate::{app::Ui, browser, route::Address, words};

/// Says why there is nothing to see, and what to do about it.
pub fn empty() -> AnyView {
    let ui = Ui::get();
    let searching = Memo::new(move |_| ui.search.with(|search| !search.is_empty()));
    let of_service = Memo::new(move |_| ui.address.with(|address| address.service.is_some()));
    let what = move || {
        if !ui.store.ready.get() {
            let progress = move || match ui.store.incoming.get() {
                0 => String::new(),
                records => words::snapshot_progress(records),
            };
            said(words::WAITING, view! { <p class="quiet">{text(progress)}</p> }.into_any())
        } else if searching.get() {
            let clear = move |_| ui.search_for(String::new());
            let button = view! {
                <button type="button" on:click=clear>
                    {words::CLEAR_SEARCH}
                </button>
            };
            said(words::NO_MATCH, button.into_any())
        } else if of_service.get() {
            let more = view! {
                <p>{words::NO_SUCH_SERVICE_MORE}</p>
                <a href=Address::default().href()>{words::OVERVIEW}</a>
            };
            said(words::NO_SUCH_SERVICE, more.into_any())
        } else {
            said(words::EMPTY, first_steps(ui))
        }
    };
    view! { <div class="empty">{part(what)}</div> }.into_any()
}

fn said(title: &'static str, more: AnyView) -> AnyView {
    view! {
        <h2>{title}</h2>
        {more}
    }
    .into_any()
}

fn first_steps(ui: Ui) -> AnyView {
    let sources = ui.store.read(|live| live.catalog().revisions().keys().cloned().collect::<Vec<_>>());
    let sources = sources.into_iter().map(|source| view! { <li>{source}</li> }.into_any()).collect::<Vec<_>>();
    let copied = RwSignal::new(false);
    let copy = move |_| {
        browser::copy(words::SNIPPET);
        copied.set(true);
    };
    view! {
        <p>{words::EMPTY_WATCHED}</p>
        <ul class="prefixes mono">{sources}</ul>
        <p>{words::EMPTY_SNIPPET}</p>
        <p class="snippet mono">
            <code>{words::SNIPPET}</code>
            <button type="button" on:click=copy>
                {text(move || if copied.get() { words::COPIED } else { words::COPY })}
            </button>
        </p>
    }
    .into_any()
}
