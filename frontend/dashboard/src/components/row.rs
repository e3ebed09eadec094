//! One instance as a row.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, Record, ServiceInstance};
use wasm_bindgen::JsCast;

use crate::{
    app::Ui,
    browser,
    lease::LeaseClock,
    live::{Row, Why},
    route::Address,
    search::RowState,
    words,
};

/// How many pairs of metadata a row shows.
const PAIRS_MAX: usize = 4;

/// Metadata that says where an instance runs.
const PLACES: [&str; 3] = ["zone", "region", "cluster"];

/// What a row calls its instance: its id, or the key's last segment where the value does not decode.
pub fn short_id(record: &Record) -> &str {
    match record.instance() {
        Some(instance) if !instance.id.is_empty() => &instance.id,
        _ => {
            let key = record.key.trim_end_matches('/');
            key.rsplit_once('/').map_or(key, |(_, last)| last)
        }
    }
}

/// The row of a record, for as long as there is something under its key or it has just left.
#[component]
pub fn InstanceRow(record: Arc<Record>, of_all: bool) -> impl IntoView {
    let ui = Ui::get();
    let key = StoredValue::new(record.key.clone());
    let seen = ui.store.row(&record.key);
    // The list may be a moment behind: a row that is no more stays as it was last until the list drops it.
    let row = Memo::new(move |before: Option<&Row>| {
        seen.get().or_else(|| before.cloned()).unwrap_or_else(|| Row {
            record: Arc::clone(&record),
            state: RowState::Gone,
            why: None,
            clock: None,
            fresh: false,
        })
    });
    let state = Memo::new(move |_| row.with(|row| row.state));
    let shown = Memo::new(move |_| row.with(|row| Arc::clone(&row.record)));
    let why = Memo::new(move |_| row.with(|row| row.why.clone()));
    let clock = Memo::new(move |_| row.with(|row| row.clock));
    let is_gone = move || state.get() == RowState::Gone;
    let malformed = move || shown.with(|record| record.instance().is_none());
    let spans_end = move || is_gone() && !malformed();
    let word = move || match state.get() {
        RowState::Live if malformed() => words::MALFORMED,
        RowState::Live => words::LIVE,
        RowState::Late => words::LATE,
        RowState::Gone => words::GONE,
    };
    let open = move |event: leptos::ev::MouseEvent| {
        let target = event.target().and_then(|target| target.dyn_into::<web_sys::Element>().ok());
        let on_control = target.is_some_and(|target| target.closest("a, button").ok().flatten().is_some());
        if !on_control {
            ui.go(ui.details_of(&key.get_value()));
        }
    };
    let href = move || ui.address.with(|address| Address { key: Some(key.get_value()), ..address.clone() }.href());
    let is_at = move || ui.at.with(|at| at.as_deref() == Some(&*key.get_value()));
    view! {
        <tr
            data-testid="instance"
            data-key=key.get_value()
            data-state=move || state.get().as_str()
            data-malformed=move || malformed().then_some("")
            data-fresh=move || row.with(|row| row.fresh).then_some("")
            data-at=move || is_at().then_some("")
            on:click=open
        >
            <td class="c-state">
                <span class="dot"></span>
                {word}
            </td>
            <td class="c-id mono">
                <a href=href title=move || shown.with(|record| record.key.clone())>
                    {move || shown.with(|record| short_id(record).to_owned())}
                </a>
            </td>
            {of_all
                .then(|| {
                    let service = move || shown.with(|record| record.service.clone());
                    let href = move || Address::service(&service()).href();
                    view! {
                        <td class="c-service">
                            <a href=href>{service}</a>
                        </td>
                    }
                })}
            {move || {
                shown.with(|record| match &record.decoded {
                    Decoded::Instance(instance) => told(record, instance, is_gone(), why).into_any(),
                    // It says nothing that would fill the columns, but why that is.
                    Decoded::Malformed { why: reason, .. } => {
                        let (text, title) = (reason.clone(), reason.clone());
                        view! {
                            <td class="c-endpoints" colspan="3">
                                {move || match is_gone() {
                                    true => cause(why.get()).into_any(),
                                    false => view! { <span class="why" title=title.clone()>{text.clone()}</span> }.into_any(),
                                }}
                            </td>
                        }
                        .into_any()
                    }
                })
            }}
            <td class="c-lease" hidden=spans_end>{move || (!is_gone()).then(|| view! { <Lease clock record=shown /> })}</td>
            <td class="c-act" hidden=spans_end>
                {move || {
                    (!is_gone()).then(|| {
                        view! {
                            <button
                                type="button"
                                class="act"
                                on:click=move |_| ui.dialog.set(Some(shown.get_untracked()))
                            >
                                {words::DEREGISTER}
                            </button>
                        }
                    })
                }}
            </td>
        </tr>
    }
}

/// The columns that say what an instance says of itself; once it is gone, why it left stands in the last ones.
fn told(record: &Record, instance: &ServiceInstance, is_gone: bool, why: Memo<Option<Why>>) -> impl IntoView + use<> {
    let more = instance.endpoints.len().saturating_sub(1);
    let rest = instance.endpoints.iter().skip(1).cloned().collect::<Vec<_>>().join("\n");
    let first = instance.endpoints.first().map(|endpoint| {
        let (scheme, address) = match endpoint.split_once("://") {
            Some((scheme, address)) => (Some(scheme.to_owned()), address.to_owned()),
            None => (None, endpoint.clone()),
        };
        view! { <CopyAddress scheme address text=endpoint.clone() /> }
    });
    let notes = if is_gone {
        let cause = move || cause(why.get());
        view! { <td class="c-meta" colspan="3">{cause}</td> }.into_any()
    } else {
        view! { <td class="c-meta">{notes(record, instance)}</td> }.into_any()
    };
    view! {
        <td class="c-endpoints">
            {first} {(more > 0).then(|| view! { <span class="more" title=rest>"+" {more}</span> })}
        </td>
        <td class="c-version mono" title=instance.version.clone()>{instance.version.clone()}</td>
        {notes}
    }
}

/// An address that a click copies.
#[component]
pub fn CopyAddress(scheme: Option<String>, address: String, text: String) -> impl IntoView {
    let ui = Ui::get();
    let label = [words::COPY, " ", &text].concat();
    let copy = move |_| {
        browser::copy(&text);
        ui.tell([words::COPIED, ": ", &text].concat(), None);
    };
    view! {
        <button type="button" class="address mono" title=label on:click=copy>
            {scheme.map(|scheme| view! { <span class="scheme">{scheme}</span> })}
            {address}
        </button>
    }
}

fn cause(why: Option<Why>) -> impl IntoView {
    match why {
        Some(why) => view! {
            <span data-testid="cause" title=why.evidence.clone()>
                <b>{why.cause.as_str()}</b>
                ": "
                {why.evidence.clone()}
            </span>
        }
        .into_any(),
        None => view! { <span data-testid="cause">{words::JUST_GONE}</span> }.into_any(),
    }
}

/// What the value says beside where it answers: first what is odd, then the metadata, the zone before all.
fn notes(record: &Record, instance: &ServiceInstance) -> impl IntoView + use<> {
    let warning = record.warning.clone().map(|warning| {
        view! { <span class="why" title=warning.clone()>{warning.clone()}</span> }
    });
    let (places, others): (Vec<_>, Vec<_>) =
        instance.metadata.iter().partition(|(name, _)| PLACES.contains(&name.as_str()));
    let pairs = places
        .into_iter()
        .chain(others)
        .take(PAIRS_MAX)
        .map(|(name, value)| {
            let title = [name, "=", value].concat();
            view! {
                <span class="pair" title=title>
                    <i>{name.clone()}</i>
                    " "
                    {value.clone()}
                </span>
            }
        })
        .collect_view();
    (warning, pairs)
}

/// What is left of a lease: a bar that drains by itself, and the seconds.
#[component]
pub fn Lease(clock: Memo<Option<LeaseClock>>, record: Memo<Arc<Record>>) -> impl IntoView {
    let ui = Ui::get();
    let is_permanent = Memo::new(move |_| record.with(|record| record.lease.is_none()));
    // An animation starts anew only under another name; two names take turns.
    let turn = Memo::new(move |before: Option<&(Option<LeaseClock>, bool)>| {
        let clock = clock.get();
        (clock, before.is_some_and(|(_, turn)| !turn))
    });
    move || {
        if is_permanent.get() {
            return view! { <span class="quiet" title=words::NO_LEASE>{words::PERMANENT}</span> }.into_any();
        }
        let (Some(clock), turned) = turn.get() else { return ().into_any() };
        #[expect(clippy::cast_precision_loss, reason = "etcd's longest TTL has ten digits")]
        let granted_s = clock.granted_s as f64;
        let passed_s = granted_s - (clock.deadline_ms - browser::now_ms()) / 1_000.0;
        let seconds = |count: f64| [&*count.to_string(), "s"].concat();
        let left = move || {
            ui.store.now_ms.track();
            [&*clock.remaining_s(browser::now_ms()).to_string(), " s"].concat()
        };
        view! {
            <span class="bar" aria-hidden="true">
                <i
                    data-turn=turned.to_string()
                    style:animation-duration=seconds(granted_s)
                    style:animation-delay=seconds(-passed_s)
                ></i>
            </span>
            <time data-testid="ttl" datetime=browser::datetime(clock.deadline_ms)>
                {left}
            </time>
        }
        .into_any()
    }
}
