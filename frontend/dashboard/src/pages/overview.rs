//! The overview: how much there is, what looks wrong, what is biggest. While something is searched, what it means.

use leptos::prelude::*;
use rollcall_shared::{Decoded, Record};

use crate::{
    app::Ui,
    components::{
        element::{El, el, link, said},
        empty::empty,
        instances::instance_table,
        row::short_id,
        services::marks,
    },
    live::Live,
    route::Address,
    words,
};

/// How many lines each list has.
const LINES_MAX: usize = 8;

/// What stands in the middle where no service is chosen.
pub fn overview(ui: Ui) -> Vec<El> {
    let searching = Memo::new(move |_| ui.search.with(|search| !search.is_empty()));
    let is_empty = ui.store.overall(|live| live.catalog().is_empty());
    let what = move || {
        vec![if searching.get() {
            instance_table(ui, None)
        } else if is_empty.get() {
            empty(ui)
        } else {
            glance(ui)
        }]
    };
    vec![el("div").class("fill").part(what)]
}

fn glance(ui: Ui) -> El {
    let totals = ui.store.overall(Live::totals);
    let headline = move || {
        let services = ui.store.read(|live| live.catalog().services().count());
        [&*words::instances(totals.get().instances), " · ", &words::services(services)].concat()
    };
    let wrong = move || {
        ui.store.follow_anything();
        let wrong = ui.store.read(|live| live.wrong(LINES_MAX));
        if wrong.is_empty() {
            return vec![said("p", "quiet", words::ALL_WELL.text())];
        }
        vec![el("ul").class("lines").children(wrong.iter().map(|record| wrong_line(record)))]
    };
    let biggest = move || {
        ui.store.follow_anything();
        let biggest = ui.store.read(|live| live.biggest(LINES_MAX));
        let most = biggest.first().map_or(1, |(_, size)| *size).max(1).to_string();
        let lines = biggest.iter().map(|(name, size)| {
            let bar = el("progress").attr("max", &most).attr("value", &size.to_string()).attr("aria-hidden", "true");
            let line = link("", &Address::service(name).href(), "").child(said("span", "what", name)).child(bar);
            el("li").child(line.child(said("span", "count", &words::number(*size))))
        });
        lines.collect()
    };
    el("div")
        .class("page")
        .child(el("h1").text_of(headline))
        .child(el("p").class("marks").part(move || marks(&totals.get(), 4)))
        .child(el("section").child(said("h2", "", words::LOOKS_WRONG.text())).part(wrong))
        .child(
            el("section")
                .child(said("h2", "", words::BIGGEST.text()))
                .child(el("ul").class("lines sizes").part(biggest)),
        )
}

fn wrong_line(record: &Record) -> El {
    let (kind, what) = match (&record.decoded, &record.warning) {
        (Decoded::Malformed { why, .. }, _) => ("malformed", why.as_str()),
        (_, Some(warning)) => ("odd", warning.as_str()),
        _ => ("late", words::LATE_WHY.text()),
    };
    let address = Address { key: Some(record.key.clone()), ..Address::service(&record.service) };
    let line = link("", &address.href(), "")
        .child(el("span").class("dot").attr("data-mark", kind))
        .child(said("span", "mono", &[&record.service, " / ", short_id(record)].concat()))
        .child(said("span", "what", what));
    el("li").child(line)
}
