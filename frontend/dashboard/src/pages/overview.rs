//! The overview: how much there is, what looks wrong, what is biggest. While something is searched, what it means.

use leptos::prelude::*;
use rollcall_shared::{Decoded, Record};

use crate::{
    app::Ui,
    components::{
        empty::empty,
        erased::{part, text},
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
pub fn overview() -> AnyView {
    let ui = Ui::get();
    let searching = Memo::new(move |_| ui.search.with(|search| !search.is_empty()));
    let is_empty = ui.store.overall(|live| live.catalog().is_empty());
    part(move || {
        if searching.get() {
            instance_table(None)
        } else if is_empty.get() {
            empty()
        } else {
            glance(ui)
        }
    })
    .into_any()
}

fn glance(ui: Ui) -> AnyView {
    let totals = ui.store.overall(Live::totals);
    let headline = move || {
        let services = ui.store.read(|live| live.catalog().services().count());
        [&*words::instances(totals.get().instances), " · ", &words::services(services)].concat()
    };
    let wrong = move || {
        ui.store.follow_anything();
        let wrong = ui.store.read(|live| live.wrong(LINES_MAX));
        if wrong.is_empty() {
            return view! { <p class="quiet">{words::ALL_WELL}</p> }.into_any();
        }
        let lines = wrong.iter().map(|record| wrong_line(record)).collect::<Vec<_>>();
        view! { <ul class="lines">{lines}</ul> }.into_any()
    };
    let biggest = move || {
        ui.store.follow_anything();
        let biggest = ui.store.read(|live| live.biggest(LINES_MAX));
        let most = biggest.first().map_or(1, |(_, size)| *size).max(1);
        let lines = biggest.into_iter().map(|(name, size)| {
            view! {
                <li>
                    <a href=Address::service(&name).href()>
                        <span class="what">{name.clone()}</span>
                        <progress max=most.to_string() value=size.to_string() aria-hidden="true"></progress>
                        <span class="count">{words::number(size)}</span>
                    </a>
                </li>
            }
            .into_any()
        });
        lines.collect::<Vec<_>>().into_any()
    };
    view! {
        <div class="page">
            <h1>{text(headline)}</h1>
            <p class="marks">{part(move || marks(&totals.get(), 4))}</p>
            <section>
                <h2>{words::LOOKS_WRONG}</h2>
                {part(wrong)}
            </section>
            <section>
                <h2>{words::BIGGEST}</h2>
                <ul class="lines sizes">{part(biggest)}</ul>
            </section>
        </div>
    }
    .into_any()
}

fn wrong_line(record: &Record) -> AnyView {
    let (kind, what) = match (&record.decoded, &record.warning) {
        (Decoded::Malformed { why, .. }, _) => ("malformed", why.clone()),
        (_, Some(warning)) => ("odd", warning.clone()),
        _ => ("late", words::LATE_WHY.to_owned()),
    };
    let address = Address { key: Some(record.key.clone()), ..Address::service(&record.service) };
    view! {
        <li>
            <a href=address.href()>
                <span class="dot" data-mark=kind></span>
                <span class="mono">{[&record.service, " / ", short_id(record)].concat()}</span>
                <span class="what">{what}</span>
            </a>
        </li>
    }
    .into_any()
}
