//! The services, by name.

use leptos::prelude::*;

use super::scroll::{Scroll, rows_px};
use crate::{app::Ui, route::Address, words};

/// The list of services on the left, or on a narrow page's overview.
#[component]
pub fn ServiceList() -> impl IntoView {
    let ui = Ui::get();
    let names = ui.store.service_names(ui.search);
    let scroll = Scroll::new(ui);
    let count = Signal::derive(move || names.with(|names| names.len()));
    let row_px = Signal::derive(move || if ui.narrow.get() { 48.0 } else { 32.0 });
    let window = scroll.window(count, row_px);
    let shown = move || {
        let window = window.get();
        names.with(|names| names.get(window.start..window.end.min(names.len())).unwrap_or_default().to_vec())
    };
    view! {
        <nav class="side" aria-label=words::SERVICES>
            <h2>
                {words::SERVICES} <span class="count">{move || words::number(count.get())}</span>
            </h2>
            <div class="scroll" node_ref=scroll.element on:scroll=move |_| scroll.follow()>
                <div class="pad" style:height=move || rows_px(window.get().start, row_px.get())></div>
                <For each=shown key=String::clone let:name>
                    <Service name />
                </For>
                <div
                    class="pad"
                    style:height=move || rows_px(count.get().saturating_sub(window.get().end), row_px.get())
                ></div>
            </div>
        </nav>
    }
}

#[component]
fn Service(name: String) -> impl IntoView {
    let ui = Ui::get();
    let summary = ui.store.summary(&name);
    let here = name.clone();
    let is_here = move || ui.address.with(|address| address.service.as_deref() == Some(&here));
    let to = name.clone();
    // The search goes along: what was found is found there, too.
    let href =
        move || ui.address.with(|address| Address { search: address.search.clone(), ..Address::service(&to) }.href());
    let mark = move || {
        summary.with(|summary| {
            [
                ("malformed", summary.malformed, words::MALFORMED),
                ("late", summary.late, words::LATE),
                ("gone", summary.gone, words::GONE),
                ("permanent", summary.permanent, words::PERMANENT),
            ]
            .into_iter()
            .find(|(_, count, _)| *count > 0)
        })
    };
    view! {
        <a
            class="service"
            data-testid="service"
            data-service=name.clone()
            href=href
            aria-current=move || is_here().then_some("page")
            data-empty=move || summary.with(|summary| summary.instances + summary.malformed == 0).then_some("")
        >
            <span class="name" title=name.clone()>{name.clone()}</span>
            {move || {
                mark().map(|(kind, count, word)| {
                    view! { <span class="mark" data-mark=kind>{words::number(count)} " " {word}</span> }
                })
            }}
            <span class="count">{move || words::number(summary.with(|summary| summary.instances))}</span>
        </a>
    }
}
