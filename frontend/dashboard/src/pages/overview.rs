//! The overview: how much there is, what looks wrong, what is biggest. While something is searched, what it means.

use leptos::prelude::*;

use crate::{
    app::Ui,
    components::{empty::Empty, instances::InstanceTable, row::short_id},
    route::Address,
    words,
};

/// How many lines each list has.
const LINES_MAX: usize = 8;

/// What stands in the middle where no service is chosen.
#[component]
pub fn Overview() -> impl IntoView {
    let ui = Ui::get();
    let searching = Memo::new(move |_| ui.search.with(|search| !search.is_empty()));
    move || {
        if searching.get() {
            view! { <InstanceTable service=None /> }.into_any()
        } else {
            view! { <Glance /> }.into_any()
        }
    }
}

#[component]
fn Glance() -> impl IntoView {
    let ui = Ui::get();
    let totals = ui.store.overall(|live| (live.totals(), live.catalog().services().count()));
    let is_empty = Memo::new(move |_| totals.with(|(totals, _)| totals.instances + totals.malformed == 0));
    let wrong = ui.store.overall(|live| live.wrong(LINES_MAX));
    let biggest = ui.store.overall(|live| live.biggest(LINES_MAX));
    let headline = move || {
        let (totals, services) = totals.get();
        [words::instances(totals.instances), words::services(services)].join(" · ")
    };
    let marks = move || {
        let (totals, _) = totals.get();
        [
            ("late", totals.late, words::LATE),
            ("malformed", totals.malformed, words::MALFORMED),
            ("permanent", totals.permanent, words::PERMANENT),
        ]
        .into_iter()
        .filter(|(_, count, _)| *count > 0)
        .map(|(kind, count, word)| {
            view! { <span class="mark" data-mark=kind>{words::number(count)} " " {word}</span> }
        })
        .collect_view()
    };
    let glance = move || {
        view! {
            <div class="page">
                <h1>{headline}</h1>
                <p class="marks">{marks}</p>
                <section>
                    <h2>{words::LOOKS_WRONG}</h2>
                    {move || {
                        let wrong = wrong.get();
                        if wrong.is_empty() {
                            return view! { <p class="quiet">{words::ALL_WELL}</p> }.into_any();
                        }
                        let lines = wrong.into_iter().map(|record| {
                            let (kind, what) = match (&record.decoded, &record.warning) {
                                (rollcall_shared::Decoded::Malformed { why, .. }, _) => ("malformed", why.clone()),
                                (_, Some(warning)) => ("odd", warning.clone()),
                                _ => ("late", words::LATE_WHY.to_owned()),
                            };
                            let address =
                                Address { key: Some(record.key.clone()), ..Address::service(&record.service) };
                            view! {
                                <li>
                                    <a href=address.href()>
                                        <span class="dot" data-mark=kind></span>
                                        <span class="mono">{[&record.service, " / ", short_id(&record)].concat()}</span>
                                        <span class="what">{what}</span>
                                    </a>
                                </li>
                            }
                        });
                        view! { <ul class="lines">{lines.collect_view()}</ul> }.into_any()
                    }}
                </section>
                <section>
                    <h2>{words::BIGGEST}</h2>
                    <ul class="lines sizes">
                        {move || {
                            let biggest = biggest.get();
                            let most = biggest.first().map_or(1, |(_, size)| *size).max(1);
                            biggest
                                .into_iter()
                                .map(|(name, size)| {
                                    view! {
                                        <li>
                                            <a href=Address::service(&name).href()>
                                                <span class="what">{name.clone()}</span>
                                                <progress max=most value=size aria-hidden="true"></progress>
                                                <span class="count">{words::number(size)}</span>
                                            </a>
                                        </li>
                                    }
                                })
                                .collect_view()
                        }}
                    </ul>
                </section>
            </div>
        }
    };
    move || {
        if is_empty.get() { view! { <Empty /> }.into_any() } else { glance().into_any() }
    }
}
