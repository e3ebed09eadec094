//! One service: its name, how it is doing, and its instances.

use leptos::prelude::*;

use crate::{
    app::Ui,
    components::{
        erased::{part, text},
        instances::instance_table,
        services::marks,
    },
    route::Address,
    words,
};

/// The page of the service with this name.
pub fn service_page(name: String) -> AnyView {
    let ui = Ui::get();
    let summary = ui.store.summary(&name);
    let count = move || summary.with(|summary| words::instances(summary.instances));
    view! {
        <header class="head">
            <a class="back" href=Address::default().href() aria-label=words::OVERVIEW>
                "←"
            </a>
            <h1>{name.clone()}</h1>
            <span class="quiet">{text(count)}</span>
            <span class="marks">{part(move || marks(&summary.get(), 4))}</span>
        </header>
        {instance_table(Some(name))}
    }
    .into_any()
}
