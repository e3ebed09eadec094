//! What stands where there are no rows: still waiting, nothing registered, nothing found.

use leptos::prelude::*;

use crate::{app::Ui, browser, route::Address, words};

/// Says why there is nothing to see, and what to do about it.
#[component]
pub fn Empty() -> impl IntoView {
    let ui = Ui::get();
    let searching = Memo::new(move |_| ui.search.with(|search| !search.is_empty()));
    let service = Memo::new(move |_| ui.address.with(|address| address.service.clone()));
    let clear = move |_| ui.search_for(String::new());
    view! {
        <div class="empty">
            {move || {
                if !ui.store.ready.get() {
                    let incoming = ui.store.incoming;
                    let progress = move || match incoming.get() {
                        0 => String::new(),
                        records => words::snapshot_progress(records),
                    };
                    view! {
                        <h2>{words::WAITING}</h2>
                        <p class="quiet">{progress}</p>
                    }
                    .into_any()
                } else if searching.get() {
                    view! {
                        <h2>{words::NO_MATCH}</h2>
                        <button type="button" on:click=clear>
                            {words::CLEAR_SEARCH}
                        </button>
                    }
                    .into_any()
                } else if service.get().is_some() {
                    view! {
                        <h2>{words::NO_SUCH_SERVICE}</h2>
                        <p>{words::NO_SUCH_SERVICE_MORE}</p>
                        <a href=Address::default().href()>{words::OVERVIEW}</a>
                    }
                    .into_any()
                } else {
                    view! { <FirstSteps /> }.into_any()
                }
            }}
        </div>
    }
}

#[component]
fn FirstSteps() -> impl IntoView {
    let ui = Ui::get();
    let sources: Vec<String> = ui.store.read(|live| live.catalog().revisions().keys().cloned().collect());
    let copied = RwSignal::new(false);
    let copy = move |_| {
        browser::copy(words::SNIPPET);
        copied.set(true);
    };
    view! {
        <h2>{words::EMPTY}</h2>
        <p>{words::EMPTY_WATCHED}</p>
        <ul class="prefixes mono">
            {sources.into_iter().map(|source| view! { <li>{source}</li> }).collect_view()}
        </ul>
        <p>{words::EMPTY_SNIPPET}</p>
        <p class="snippet mono">
            <code>{words::SNIPPET}</code>
            <button type="button" on:click=copy>
                {move || if copied.get() { words::COPIED } else { words::COPY }}
            </button>
        </p>
    }
}
