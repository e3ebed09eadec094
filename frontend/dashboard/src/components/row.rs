//! One instance as a row.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, Record};
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
    let href = move || {
        ui.address.with(|address| Address { key: Some(key.get_value()), ..address.clone() }.href())
    };
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
            <td class="c-endpoints">{move || endpoints(&shown.get())}</td>
            <td class="c-version mono">
                {move || {
                    shown.with(|record| record.instance().map(|instance| instance.version.clone()).unwrap_or_default())
                }}
            </td>
            <td class="c-meta">
                {move || if is_gone() { cause(why.get()).into_any() } else { notes(&shown.get()).into_any() }}
            </td>
            <td class="c-lease">{move || (!is_gone()).then(|| view! { <Lease clock record=shown /> })}</td>
            <td class="c-act">
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

fn endpoints(record: &Record) -> impl IntoView + use<> {
    let endpoints = record.instance().map(|instance| instance.endpoints.clone()).unwrap_or_default();
    endpoints
        .into_iter()
        .map(|endpoint| {
            let (scheme, address) = match endpoint.split_once("://") {
                Some((scheme, address)) => (Some(scheme.to_owned()), address.to_owned()),
                None => (None, endpoint.clone()),
            };
            view! { <CopyAddress scheme address text=endpoint /> }
        })
        .collect_view()
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

/// What the value says beside where it answers; for one that does not decode, why.
fn notes(record: &Record) -> impl IntoView + use<> {
    let instance = match &record.decoded {
        Decoded::Instance(instance) => instance,
        Decoded::Malformed { why, .. } => {
            return view! { <span class="why" title=why.clone()>{why.clone()}</span> }.into_any();
        }
    };
    let warning = record.warning.clone().map(|warning| {
        view! { <span class="why" title=warning.clone()>{warning.clone()}</span> }
    });
    let pairs = instance
        .metadata
        .iter()
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
    (warning, pairs).into_any()
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
