//! The services, by name.

use leptos::prelude::*;

use super::{
    erased::{Flag, flag, keyed, part, text},
    scroll::{Scroll, rows_px},
};
use crate::{app::Ui, live::Summary, route::Address, words};

/// The list of services on the left, or on a narrow page's overview.
pub fn service_list() -> AnyView {
    let ui = Ui::get();
    let names = ui.store.service_names(ui.search);
    let scroll = Scroll::new(ui);
    let count = Signal::derive(move || names.with(|names| names.len()));
    let row_px = Signal::derive(move || if ui.narrow.get() { 48 } else { 32 });
    let window = scroll.window(count, row_px);
    let shown = move || {
        let window = window.get();
        names.with(|names| names.get(window.start..window.end.min(names.len())).unwrap_or_default().to_vec())
    };
    let before = text(move || rows_px(window.get().start, row_px.get()));
    let after = text(move || rows_px(count.get().saturating_sub(window.get().end), row_px.get()));
    view! {
        <nav class="side" aria-label=words::SERVICES>
            <h2>
                {words::SERVICES} <span class="count">{text(move || words::number(count.get()))}</span>
            </h2>
            <div class="scroll" node_ref=scroll.element on:scroll=move |_| scroll.follow()>
                <div class="pad" style:height=before></div>
                {keyed(shown, service)}
                <div class="pad" style:height=after></div>
            </div>
        </nav>
    }
    .into_any()
}

fn service(name: String) -> AnyView {
    let ui = Ui::get();
    let summary = ui.store.summary(&name);
    let here = name.clone();
    let current =
        Box::new(move || ui.address.with(|address| address.service.as_deref() == Some(&here)).then_some("page"))
            as Flag;
    let to = name.clone();
    // The search goes along: what was found is found there, too.
    let href =
        move || ui.address.with(|address| Address { search: address.search.clone(), ..Address::service(&to) }.href());
    let is_empty = move || summary.with(|summary| summary.instances + summary.malformed == 0);
    view! {
        <a
            class="service"
            data-testid="service"
            data-service=name.clone()
            href=text(href)
            aria-current=current
            data-empty=flag(is_empty)
        >
            <span class="name" title=name.clone()>{name.clone()}</span>
            {part(move || marks(&summary.get(), 1))}
            <span class="count">{text(move || words::number(summary.with(|summary| summary.instances)))}</span>
        </a>
    }
    .into_any()
}

/// What is odd about a service, or about all: at most so many marks, the gravest first.
pub fn marks(summary: &Summary, most: usize) -> AnyView {
    [
        ("malformed", summary.malformed, words::MALFORMED),
        ("late", summary.late, words::LATE),
        ("gone", summary.gone, words::GONE),
        ("permanent", summary.permanent, words::PERMANENT),
    ]
    .into_iter()
    .filter(|(_, count, _)| *count > 0)
    .take(most)
    .map(|(kind, count, name)| {
        let text = [&*words::number(count), " ", name].concat();
        view! { <span class="mark" data-mark=kind>{text}</span> }.into_any()
    })
    .collect::<Vec<_>>()
    .into_any()
}
