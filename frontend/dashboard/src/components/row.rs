//! One instance as a row.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, Record};
use wasm_bindgen::JsCast;

use super::erased::{flag, nothing, part, text, word};
use crate::{
    app::Ui,
    browser,
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
pub fn instance_row(record: Arc<Record>, of_all: bool) -> AnyView {
    let ui = Ui::get();
    let key = StoredValue::new(record.key.clone());
    let seen = ui.store.row(&record.key);
    // The list may be a moment behind: a row that is no more stays as it was last until the list drops it.
    let row = Memo::new(move |before: Option<&Option<Row>>| {
        seen.get().or_else(|| before.cloned().flatten()).or_else(|| {
            let record = Arc::clone(&record);
            Some(Row { record, state: RowState::Gone, why: None, clock: None, fresh: false })
        })
    });
    let state = move || row.with(|row| row.as_ref().map_or(RowState::Gone, |row| row.state));
    let shown = Memo::new(move |_| row.with(|row| row.as_ref().map(|row| Arc::clone(&row.record))));
    let is_gone = Memo::new(move |_| state() == RowState::Gone);
    let record = move || shown.get().expect("a row has a record");
    let malformed = move || record().instance().is_none();
    let state_word = move || match state() {
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
    let service = move || {
        let name = record().service.clone();
        let href = Address::service(&name).href();
        view! { <a href=href>{name}</a> }.into_any()
    };
    let lease = move || if is_gone.get() { nothing() } else { lease_left(ui, row) };
    let act = move || {
        if is_gone.get() {
            return nothing();
        }
        let ask = move |_| ui.dialog.set(shown.get_untracked());
        view! {
            <button type="button" class="act" on:click=ask>
                {words::DEREGISTER}
            </button>
        }
        .into_any()
    };
    view! {
        <tr
            data-testid="instance"
            data-key=key.get_value()
            data-state=word(move || state().as_str())
            data-malformed=flag(malformed)
            data-fresh=flag(move || row.with(|row| row.as_ref().is_some_and(|row| row.fresh)))
            data-at=flag(is_at)
            on:click=open
        >
            <td class="c-state">
                <span class="dot"></span>
                {text(state_word)}
            </td>
            <td class="c-id mono">
                <a href=text(href) title=text(move || record().key.clone())>
                    {text(move || short_id(&record()).to_owned())}
                </a>
            </td>
            {of_all.then(|| view! { <td class="c-service">{part(service)}</td> }.into_any())}
            {part(move || told(&record(), is_gone.get(), of_all, row))}
            <td class="c-lease" data-span=flag(move || is_gone.get())>
                {part(lease)}
            </td>
            <td class="c-act" data-span=flag(move || is_gone.get())>
                {part(act)}
            </td>
        </tr>
    }
    .into_any()
}

/// The columns that say what an instance says of itself; once it is gone, why it left stands in the last ones.
fn told(record: &Record, is_gone: bool, of_all: bool, row: Memo<Option<Row>>) -> AnyView {
    if !is_gone && let Decoded::Malformed { .. } = &record.decoded {
        // It says nothing that would fill the columns, but why that is.
        let columns = if of_all { "2" } else { "3" };
        return view! {
            <td class="c-endpoints" colspan=columns>
                {notes(record)}
            </td>
        }
        .into_any();
    }
    let why = move || row.with(|row| row.as_ref().and_then(|row| row.why.clone()));
    let notes = if is_gone {
        view! { <td class="c-meta" colspan="3">{part(move || cause(why()))}</td> }.into_any()
    } else {
        view! { <td class="c-meta">{notes(record)}</td> }.into_any()
    };
    let (endpoints, version) = match &record.decoded {
        Decoded::Instance(instance) => (endpoints(&instance.endpoints), instance.version.clone()),
        Decoded::Malformed { .. } => (nothing(), String::new()),
    };
    let version =
        (!of_all).then(|| view! { <td class="c-version mono" title=version.clone()>{version.clone()}</td> }.into_any());
    view! {
        <td class="c-endpoints">{endpoints}</td>
        {version}
        {notes}
    }
    .into_any()
}

/// The first endpoint, and how many more there are.
fn endpoints(endpoints: &[String]) -> AnyView {
    let Some((first, rest)) = endpoints.split_first() else { return nothing() };
    let (scheme, address) = match first.split_once("://") {
        Some((scheme, address)) => (Some(scheme.to_owned()), address.to_owned()),
        None => (None, first.clone()),
    };
    let more = (!rest.is_empty()).then(|| {
        view! { <span class="more" title=rest.join("\n")>{["+", &rest.len().to_string()].concat()}</span> }.into_any()
    });
    (copy_address(scheme, address, first.clone()), more).into_any()
}

/// An address that a click copies.
pub fn copy_address(scheme: Option<String>, address: String, full: String) -> AnyView {
    let ui = Ui::get();
    let label = [words::COPY, " ", &full].concat();
    let copy = move |_| {
        browser::copy(&full);
        ui.tell([words::COPIED, ": ", &full].concat(), None);
    };
    let scheme = scheme.map(|scheme| view! { <span class="scheme">{scheme}</span> }.into_any());
    view! {
        <button type="button" class="address mono" title=label on:click=copy>
            {scheme}
            {address}
        </button>
    }
    .into_any()
}

fn cause(why: Option<Why>) -> AnyView {
    let (cause, evidence) = match why {
        Some(why) => (why.cause.as_str(), why.evidence),
        None => ("", words::JUST_GONE.to_owned()),
    };
    let sentence = if cause.is_empty() { evidence.clone() } else { [": ", &evidence].concat() };
    view! {
        <span data-testid="cause" title=evidence>
            <b>{cause}</b>
            {sentence}
        </span>
    }
    .into_any()
}

/// What the value says beside where it answers: first what is odd, then the metadata, the zone before all.
fn notes(record: &Record) -> AnyView {
    let odd = |what: &str| {
        let what = what.to_owned();
        view! { <span class="why" title=what.clone()>{what.clone()}</span> }.into_any()
    };
    let instance = match &record.decoded {
        Decoded::Instance(instance) => instance,
        Decoded::Malformed { why, .. } => return odd(why),
    };
    let is_place = |(name, _): &(&String, &String)| PLACES.contains(&name.as_str());
    let pairs = instance
        .metadata
        .iter()
        .filter(is_place)
        .chain(instance.metadata.iter().filter(|pair| !is_place(pair)))
        .take(PAIRS_MAX)
        .map(|(name, value)| {
            let title = [name, "=", value].concat();
            view! {
                <span class="pair" title=title>
                    <i>{name.clone()}</i>
                    {[" ", value].concat()}
                </span>
            }
            .into_any()
        });
    record.warning.as_deref().map(odd).into_iter().chain(pairs).collect::<Vec<_>>().into_any()
}

/// What is left of a lease: a bar that drains by itself, and the seconds.
fn lease_left(ui: Ui, row: Memo<Option<Row>>) -> AnyView {
    let is_permanent = row.with_untracked(|row| row.as_ref().is_some_and(|row| row.record.lease.is_none()));
    if is_permanent {
        return view! { <span class="quiet" title=words::NO_LEASE>{words::PERMANENT}</span> }.into_any();
    }
    let clock = Memo::new(move |_| row.with(|row| row.as_ref().and_then(|row| row.clock)));
    let mut turned = false;
    part(move || {
        let Some(clock) = clock.get() else { return nothing() };
        // An animation starts anew only under another name; two names take turns.
        turned = !turned;
        let left_s = (clock.deadline_ms - browser::now_ms()) / 1_000.0;
        let left = move || {
            ui.store.now_ms.track();
            [&*clock.remaining_s(browser::now_ms()).to_string(), " s"].concat()
        };
        #[expect(clippy::cast_possible_truncation, reason = "a saturated length is as good as a century")]
        let passed_ms = clock.granted_s.saturating_mul(1_000) - (left_s * 1_000.0) as i64;
        let delay = ["-", &passed_ms.max(0).to_string(), "ms"].concat();
        view! {
            <span class="bar" aria-hidden="true">
                <i
                    data-turn=if turned { "a" } else { "b" }
                    style:animation-duration=[&*clock.granted_s.to_string(), "s"].concat()
                    style:animation-delay=delay
                ></i>
            </span>
            <time data-testid="ttl" datetime=browser::datetime(clock.deadline_ms)>
                {text(left)}
            </time>
        }
        .into_any()
    })
    .into_any()
}
