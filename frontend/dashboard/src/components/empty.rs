//! What stands where there are no rows: still waiting, nothing registered, nothing found.

use leptos::prelude::*;
use wasm_bindgen_futures::spawn_local;

use super::{
    element::{El, button, el, link, said},
    later::{self, Later},
};
use crate::{app::Ui, browser, route::Address, words};

/// Says why there is nothing to see, and what to do about it.
pub fn empty(ui: Ui) -> El {
    let what = move || {
        let is_searching = ui.search.with(|search| !search.is_empty());
        // Where no other heading stands, it is the page's.
        let title = |word: words::Word| {
            let is_alone = ui.address.with(|address| address.service.is_none()) && !is_searching;
            said(if is_alone { "h1" } else { "h2" }, "", word.text())
        };
        if !ui.store.ready.get() {
            let progress = move || match ui.store.incoming.get() {
                0 => String::new(),
                records => words::snapshot_progress(records),
            };
            vec![title(words::WAITING), el("p").class("quiet").text_of(progress)]
        } else if is_searching {
            let clear = move |_| ui.search_for(String::new());
            vec![title(words::NO_MATCH), button("", words::CLEAR_SEARCH.text(), clear)]
        } else if ui.address.with(|address| address.service.is_some()) {
            vec![
                title(words::NO_SUCH_SERVICE),
                said("p", "", words::NO_SUCH_SERVICE_MORE.text()),
                link("", &Address::default().href(), words::OVERVIEW.text()),
            ]
        } else {
            // Few ever see it.
            later::draw(ui, Later::FirstSteps).into_iter().collect()
        }
    };
    el("div").class("empty").part(what)
}

/// What is watched, and what registers a first service.
pub fn first_steps(ui: Ui) -> El {
    let sources = ui.store.read(|live| live.catalog().revisions().keys().cloned().collect::<Vec<_>>());
    // They are asked for where they are shown: few ever see them.
    let snippets = RwSignal::new(Vec::<String>::new());
    let chosen = RwSignal::new(0);
    spawn_local(async move {
        if let Some(file) = browser::file("words/snippets.txt").await {
            let origin = browser::base();
            let file = file.replace("{base}", origin.trim_end_matches('/'));
            snippets.try_set(file.split("\n---- ").map(|part| part.trim_start_matches("---- ").to_owned()).collect());
        }
    });
    // The first line of each is its name.
    let names = move || {
        let names =
            snippets.with(|all| all.iter().map(|one| one.lines().next().unwrap_or_default().to_owned()).collect());
        let names: Vec<String> = names;
        let tab = |(index, name): (usize, String)| {
            button("", &name, move |_| chosen.set(index))
                .attr_of("aria-pressed", move || Some((chosen.get() == index).to_string()))
        };
        names.into_iter().enumerate().map(tab).collect()
    };
    let text = move || {
        snippets.with(|all| {
            let text = all.get(chosen.get()).and_then(|one| one.split_once('\n'));
            text.map_or_else(String::new, |(_, text)| text.trim_end().to_owned())
        })
    };
    let copy = move |_| {
        browser::copy(&untrack(text));
        ui.tell(words::COPIED.text().to_owned(), None);
    };
    el("div").class("steps").children([
        said("h1", "", words::EMPTY.text()),
        said("p", "", words::EMPTY_WATCHED.text()),
        el("ul").class("prefixes mono").children(sources.iter().map(|source| said("li", "", source))),
        said("h2", "", words::EMPTY_SNIPPET.text()),
        el("div").class("tabs").part(names).child(button("copy", words::COPY.text(), copy)),
        el("div").class("snippet").child(el("pre").attr("tabindex", "0").text_of(text)),
    ])
}
