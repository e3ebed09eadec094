//! What stands where there are no rows: still waiting, nothing registered, nothing found.

use leptos::prelude::*;

use super::element::{El, button, el, link, said};
use crate::{app::Ui, browser, route::Address, words};

/// Says why there is nothing to see, and what to do about it.
pub fn empty(ui: Ui) -> El {
    let what = move || {
        let is_searching = ui.search.with(|search| !search.is_empty());
        if !ui.store.ready.get() {
            let progress = move || match ui.store.incoming.get() {
                0 => String::new(),
                records => words::snapshot_progress(records),
            };
            vec![said("h2", "", words::WAITING.text()), el("p").class("quiet").text_of(progress)]
        } else if is_searching {
            let clear = move |_| ui.search_for(String::new());
            vec![said("h2", "", words::NO_MATCH.text()), button("", words::CLEAR_SEARCH.text(), clear)]
        } else if ui.address.with(|address| address.service.is_some()) {
            vec![
                said("h2", "", words::NO_SUCH_SERVICE.text()),
                said("p", "", words::NO_SUCH_SERVICE_MORE.text()),
                link("", &Address::default().href(), words::OVERVIEW.text()),
            ]
        } else {
            first_steps(ui)
        }
    };
    el("div").class("empty").part(what)
}

fn first_steps(ui: Ui) -> Vec<El> {
    let sources = ui.store.read(|live| live.catalog().revisions().keys().cloned().collect::<Vec<_>>());
    let copy = move |_| {
        browser::copy(words::SNIPPET.text());
        ui.tell(words::COPIED.text().to_owned(), None);
    };
    vec![
        said("h2", "", words::EMPTY.text()),
        said("p", "", words::EMPTY_WATCHED.text()),
        el("ul").class("prefixes mono").children(sources.iter().map(|source| said("li", "", source))),
        said("p", "", words::EMPTY_SNIPPET.text()),
        el("p").class("snippet mono").child(said("code", "", words::SNIPPET.text())).child(button(
            "",
            words::COPY.text(),
            copy,
        )),
    ]
}
