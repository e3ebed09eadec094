//! One service: its name, how it is doing, and its instances.

use leptos::prelude::*;

use crate::{app::Ui, components::instances::InstanceTable, route::Address, words};

/// The page of the service with this name.
#[component]
pub fn ServicePage(name: String) -> impl IntoView {
    let ui = Ui::get();
    let summary = ui.store.summary(&name);
    let count = move || summary.with(|summary| words::instances(summary.instances));
    let marks = move || {
        let summary = summary.get();
        [
            ("late", summary.late, words::LATE),
            ("malformed", summary.malformed, words::MALFORMED),
            ("permanent", summary.permanent, words::PERMANENT),
        ]
        .into_iter()
        .filter(|(_, count, _)| *count > 0)
        .map(|(kind, count, word)| view! { <span class="mark" data-mark=kind>{words::number(count)} " " {word}</span> })
        .collect_view()
    };
    view! {
        <header class="head">
            <a class="back" href=Address::default().href() aria-label=words::OVERVIEW>"←"</a>
            <h1>{name.clone()}</h1>
            <span class="quiet">{count}</span>
            <span class="marks">{marks}</span>
        </header>
        <InstanceTable service=Some(name) />
    }
}
