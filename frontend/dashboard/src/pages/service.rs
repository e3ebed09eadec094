//! One service: its name, how it is doing, and its instances.

use leptos::prelude::*;

use crate::{
    app::Ui,
    components::{
        element::{El, el, link, said},
        instances::instance_table,
        services::marks,
    },
    route::Address,
    words,
};

/// The page of the service with this name.
pub fn service_page(ui: Ui, name: String) -> Vec<El> {
    let summary = ui.store.summary(&name);
    let count = move || summary.with(|summary| words::instances(summary.instances));
    let head = el("header")
        .class("head")
        .child(link("back", &Address::default().href(), "←").attr("aria-label", words::OVERVIEW.text()))
        .child(said("h1", "", &name))
        .child(el("span").class("quiet").text_of(count))
        .child(el("span").class("marks").part(move || marks(&summary.get(), false)));
    vec![head, instance_table(ui, Some(name))]
}
