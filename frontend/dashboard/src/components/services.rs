//! The services, by name.

use leptos::prelude::*;

use super::{
    element::{El, el, said},
    scroll::{Scroll, pad},
};
use crate::{app::Ui, live::Summary, route::Address, words};

/// The list of services on the left, or on a narrow page's overview.
pub fn service_list(ui: Ui) -> El {
    let names = ui.store.service_names();
    let scroll = Scroll::new(ui);
    let count = Memo::new(move |_| names.with(|names| names.len()));
    let row_px = Memo::new(move |_| if ui.narrow.get() { 48 } else { 32 });
    let window = scroll.window(count, row_px);
    let shown = move || {
        let window = window.get();
        names.with(|names| names.get(window.start..window.end.min(names.len())).unwrap_or_default().to_vec())
    };
    let heading = said("h2", "", words::SERVICES.text())
        .child(el("span").class("count").text_of(move || words::number(count.get())));
    let list = scroll.box_of("scroll").child(pad(el("div"), window, count, row_px, true));
    let list = list.child(el("div").keyed(shown, move |name| Some(service(ui, name)))).child(pad(
        el("div"),
        window,
        count,
        row_px,
        false,
    ));
    el("nav").class("side").attr("aria-label", words::SERVICES.text()).child(heading).child(list)
}

fn service(ui: Ui, name: &str) -> El {
    let summary = ui.store.summary(name);
    let here = name.to_owned();
    let current = move || {
        let is_here = ui.address.with(|address| address.service.as_deref() == Some(&here));
        is_here.then(|| "page".to_owned())
    };
    let to = name.to_owned();
    // The search goes along: what was found is found there, too.
    let href = move || {
        Some(ui.address.with(|address| Address { search: address.search.clone(), ..Address::service(&to) }.href()))
    };
    let is_empty = move || summary.with(|summary| summary.instances + summary.malformed == 0);
    el("a")
        .class("service")
        .attr("data-testid", "service")
        .attr("data-service", name)
        .attr_of("href", href)
        .attr_of("aria-current", current)
        .flag("data-empty", is_empty)
        .child(said("span", "name", name).attr("title", name))
        .child(el("span").class("marks").part(move || marks(&summary.get(), 1)))
        .child(el("span").class("count").text_of(move || words::number(summary.with(|summary| summary.instances))))
}

/// What is odd about a service, or about all: at most so many marks, the gravest first.
pub fn marks(summary: &Summary, most: usize) -> Vec<El> {
    let marks = [
        ("malformed", summary.malformed, words::MALFORMED.text()),
        ("late", summary.late, words::LATE.text()),
        ("gone", summary.gone, words::GONE.text()),
        ("permanent", summary.permanent, words::PERMANENT.text()),
    ];
    let marks = marks.into_iter().filter(|(_, count, _)| *count > 0).take(most);
    marks
        .map(|(kind, count, name)| {
            said("span", "mark", &[&*words::number(count), " ", name].concat()).attr("data-mark", kind)
        })
        .collect()
}
