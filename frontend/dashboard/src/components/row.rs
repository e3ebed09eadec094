//! One instance as a row.

use std::{collections::BTreeSet, sync::Arc};

use leptos::{prelude::*, reactive::graph::untrack};
use rollcall_shared::{Decoded, Record};
use wasm_bindgen::JsCast;

use super::{
    batch::pick_box,
    element::{El, button, el, link, said},
};
use crate::{
    app::Ui,
    browser, keys,
    live::{Live, Row, Why},
    route::Address,
    search::RowState,
    words,
};

/// Of how many records the names of metadata are gathered.
const RECORDS_MAX: usize = 2_000;

/// Metadata that says where an instance runs.
const PLACES: [&str; 3] = ["zone", "region", "cluster"];

pub use crate::view::short_id;

/// What an instance is called where others stand beside it: its service and its id, which often says the service, too.
pub fn full_name(record: &Record) -> String {
    let id = short_id(record);
    if id.starts_with(&record.service) { id.to_owned() } else { [&record.service, " / ", id].concat() }
}

/// The row of a record, for as long as there is something under its key or it has just left.
pub fn instance_row(ui: Ui, record: Arc<Record>, of_all: bool) -> El {
    let key: Arc<str> = record.key.as_str().into();
    let seen = ui.store.row(&key);
    // The list may be a moment behind: a row that is no more stays as it was last until the list drops it.
    let row = Memo::new(move |before: Option<&Option<Row>>| {
        seen.get().or_else(|| before.cloned().flatten()).or_else(|| {
            let record = Arc::clone(&record);
            Some(Row { record, state: RowState::Gone, why: None, clock: None, fresh: false, since_ms: None })
        })
    });
    let state = move || row.with(|row| row.as_ref().map_or(RowState::Gone, |row| row.state));
    // What is drawn of the record and of its leaving; a renewal is no reason to draw it anew.
    let drawn =
        Memo::new(move |_| row.get().map(|row| Row { clock: None, fresh: false, state: RowState::Live, ..row }));
    // What stands in cells that are made of several parts: an edit of what they do not show leaves them as they are.
    let cells = Memo::new(move |before: Option<&Option<Row>>| {
        let now = drawn.get();
        match (before, &now) {
            (Some(Some(was)), Some(is)) if shows_the_same(was, is) => Some(was.clone()),
            _ => now,
        }
    });
    let record = move || drawn.with(|row| row.as_ref().map(|row| Arc::clone(&row.record))).expect("a row has a record");
    let is_gone = Memo::new(move |_| state() == RowState::Gone);
    let state_word = move || match state() {
        RowState::Live if record().instance().is_none() => words::MALFORMED.text(),
        RowState::Live => words::LIVE.text(),
        RowState::Late => words::LATE.text(),
        RowState::Gone => words::GONE.text(),
    };
    let here = Arc::clone(&key);
    let open = move |event: web_sys::Event| {
        if ui.selects(&event, &here) {
            return;
        }
        let target = event.target().and_then(|target| target.dyn_into::<web_sys::Element>().ok());
        let on_control = target.is_some_and(|target| target.closest("a, button").ok().flatten().is_some());
        if !on_control {
            ui.go(ui.details_of(&here));
        }
    };
    let here = Arc::clone(&key);
    let href = move || {
        let key = Some(here.as_ref().to_owned());
        Some(ui.address.with(|address| Address { key, ..address.clone() }.href()))
    };
    let here = Arc::clone(&key);
    let is_at = move || ui.at.with(|at| at.as_deref() == Some(&*here));
    let here = Arc::clone(&key);
    let is_picked = move || ui.selected.with(|selected| selected.contains(&*here));
    let is_odd = move || record().warning.is_some();
    let box_name = untrack(record);
    let pick = pick_box(ui, &key, short_id(&box_name));
    let state_cell =
        el("td").class("c-state").child(pick).child(el("span").class("dot")).text_of(move || state_word().to_owned());
    let id = el("a").attr_of("href", href).attr("title", &key).text_of(move || short_id(&record()).to_owned());
    let service = of_all.then(|| {
        let name = untrack(record).service.clone();
        el("td").class("c-service").child(link("", &Address::service(&name).href(), &name))
    });
    let act = move || {
        let ask = move |_| {
            if let Some(row) = row.get_untracked() {
                ui.deregister(row.record);
            }
        };
        if is_gone.get() { Vec::new() } else { vec![button("act", words::DEREGISTER.text(), ask)] }
    };
    let lease = move || if is_gone.get() { Vec::new() } else { lease_left(ui, row) };
    let came = move || {
        if is_gone.get() { Vec::new() } else { ago(ui, cells.with(|row| row.as_ref().and_then(|row| row.since_ms))) }
    };
    let said = move || {
        if is_gone.get() {
            keys::hold_focus(ui);
        }
        let place = move || ui.column.with(|column| place(&record(), column));
        told(ui, &cells.get().expect("a row has a record"), is_gone.get(), place)
    };
    el("tr")
        .attr("data-testid", "instance")
        .attr("data-key", &key)
        .attr_of("data-state", move || Some(state().as_str().to_owned()))
        .flag("data-malformed", move || record().instance().is_none())
        .flag("data-fresh", move || row.with(|row| row.as_ref().is_some_and(|row| row.fresh)))
        .flag("data-at", is_at)
        .flag("data-picked", is_picked)
        .on("click", open)
        .child(state_cell)
        .child(el("td").class("c-id mono").flag("data-odd", is_odd).child(id).part(move || odd(&record())))
        .children(service)
        .part(said)
        .child(el("td").class("c-lease").flag("data-span", move || is_gone.get()).part(lease))
        .child(el("td").class("c-since").flag("data-span", move || is_gone.get()).part(came))
        .child(el("td").class("c-act").flag("data-span", move || is_gone.get()).part(act))
}

/// Whether two states of a row fill its cells alike.
fn shows_the_same(was: &Row, is: &Row) -> bool {
    let values = match (was.record.instance(), is.record.instance()) {
        (Some(was), Some(is)) => was.endpoints == is.endpoints && was.version == is.version,
        (None, None) => was.record.decoded == is.record.decoded,
        _ => false,
    };
    values && was.why == is.why && was.since_ms.map(f64::to_bits) == is.since_ms.map(f64::to_bits)
}

/// A mark where something is odd about what does decode.
fn odd(record: &Record) -> Vec<El> {
    let mark = |warning| said("span", "mark", words::ODD.text()).attr("data-mark", "odd").attr("title", warning);
    record.warning.as_deref().map(mark).into_iter().collect()
}

/// The columns that say what an instance says of itself; once it is gone, why it left stands in the last ones.
fn told(ui: Ui, row: &Row, is_gone: bool, place: impl Fn() -> String + 'static) -> Vec<El> {
    let record = &row.record;
    let endpoints = el("td").class("c-endpoints");
    if let (false, Decoded::Malformed { why, .. }) = (is_gone, &record.decoded) {
        // It says nothing that would fill the columns, but why that is.
        return vec![endpoints.attr("colspan", "3").child(said("span", "why evidence", why).attr("title", why))];
    }
    let instance = record.instance();
    let version = instance.map(|instance| instance.version.as_str()).unwrap_or_default();
    let last = el("td").class("c-meta");
    let last = if is_gone { last.attr("colspan", "4").child(cause(row.why.as_ref())) } else { last.text_of(place) };
    let endpoints = match instance {
        Some(instance) => some_endpoints(ui, endpoints, &instance.endpoints),
        None => endpoints,
    };
    vec![endpoints, said("td", "c-version mono", version).attr("title", version), last]
}

/// The first endpoint, how many more there are, and all of them for those who ask.
fn some_endpoints(ui: Ui, cell: El, endpoints: &[String]) -> El {
    let Some((first, rest)) = endpoints.split_first() else { return cell };
    let cell = cell.child(endpoint(ui, first));
    if rest.is_empty() {
        return cell;
    }
    let count = rest.len().to_string();
    let more =
        button("more", &["+", &count].concat(), |_| {}).attr("aria-label", &words::ENDPOINTS_MORE.with(&[&count]));
    let rest = rest.iter().map(|it| endpoint(ui, it));
    cell.attr("data-more", "").child(more).child(el("span").class("rest").children(rest))
}

fn endpoint(ui: Ui, full: &str) -> El {
    match full.split_once("://") {
        Some((scheme, address)) => copy_address(ui, Some(scheme), address, full),
        None => copy_address(ui, None, full, full),
    }
}

/// An address that a click copies.
pub fn copy_address(ui: Ui, scheme: Option<&str>, address: &str, full: &str) -> El {
    let copied = full.to_owned();
    let copy = move |_| {
        browser::copy(&copied);
        ui.tell([words::COPIED.text(), words::COLON.text(), &copied].concat(), None);
    };
    button("address mono", "", copy)
        .attr("title", &[words::COPY.text(), " ", full].concat())
        .children(scheme.map(|scheme| said("span", "scheme", scheme)))
        .text(address)
}

fn cause(why: Option<&Why>) -> El {
    let cause = el("span").attr("data-testid", "cause");
    match why {
        Some(why) => cause.attr("title", &why.evidence).child(said("b", "", words::cause_name(why.cause))).child(said(
            "span",
            "evidence",
            &[words::COLON.text(), &why.evidence].concat(),
        )),
        None => cause.text(words::JUST_GONE.text()),
    }
}

/// What an instance says under the key of metadata that was chosen, or where it runs.
fn place(record: &Record, column: &str) -> String {
    let Some(instance) = record.instance() else { return String::new() };
    let places = if column.is_empty() { &PLACES[..] } else { &[column][..] };
    places.iter().find_map(|name| instance.metadata.get(*name)).cloned().unwrap_or_default()
}

/// The header of the column of metadata: which key it shows is a choice.
pub fn place_header(ui: Ui, service: Option<String>) -> El {
    let asked = Trigger::new();
    let options = move || {
        asked.track();
        let chosen = ui.column.get();
        let mut names = BTreeSet::from([chosen.clone()]);
        ui.store.read(|live| {
            let of_it = |record: &&Arc<Record>| service.as_ref().is_none_or(|name| *name == record.service);
            let some = live.catalog().records().filter(of_it).take(RECORDS_MAX).filter_map(|record| record.instance());
            names.extend(some.flat_map(|instance| instance.metadata.keys().cloned()));
        });
        names.remove("");
        let option = |value: &str, name: &str| {
            said("option", "", name).attr("value", value).attr_if("selected", (chosen == value).then_some(""))
        };
        let mut options = vec![option("", words::PLACE.text())];
        options.extend(names.iter().map(|name| option(name, name)));
        options
    };
    let choose = move |event| {
        let chosen = event_target_value(&event);
        browser::remember("rollcall-column", &chosen);
        ui.column.set(chosen);
    };
    let choice = el("select")
        .class("inline")
        .attr("aria-label", words::COLUMN.text())
        .on("pointerenter", move |_| asked.notify())
        .on("focus", move |_| asked.notify())
        .on("change", choose)
        .part(options);
    el("th").class("c-meta").attr("scope", "col").child(choice)
}

/// How long ago a moment was, and the moment itself for those who point at it; without one, the page did not see it.
pub fn ago(ui: Ui, at_ms: Option<f64>) -> Vec<El> {
    let Some(at_ms) = at_ms else {
        let began_ms = ui.store.read(Live::began_ms);
        return vec![said("span", "quiet", &words::BEFORE.with(&[&browser::clock(began_ms)[..5]]))];
    };
    vec![
        el("time").class("rel").attr("datetime", &browser::datetime(at_ms)).text_of(move || since(ui, at_ms)),
        said("time", "abs", &browser::clock(at_ms)),
    ]
}

/// How long ago a moment was; moves as time does.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
pub fn since(ui: Ui, at_ms: f64) -> String {
    words::ago(((ui.store.now_ms.get() - at_ms) / 1_000.0).max(0.0) as u64)
}

/// What is left of a lease: a bar that drains by itself, and the seconds.
fn lease_left(ui: Ui, row: Memo<Option<Row>>) -> Vec<El> {
    let is_permanent = Memo::new(move |_| row.with(|row| row.as_ref().is_some_and(|row| row.record.lease.is_none())));
    let clock = Memo::new(move |_| row.with(|row| row.as_ref().and_then(|row| row.clock)));
    let bar = move || {
        if is_permanent.get() {
            return vec![said("span", "quiet", words::PERMANENT.text()).attr("title", words::NO_LEASE.text())];
        }
        let Some(clock) = clock.get() else { return Vec::new() };
        let left_ms = clock.deadline_ms - browser::now_ms();
        #[expect(clippy::cast_possible_truncation, reason = "a saturated length is as good as a century")]
        let passed_ms = clock.granted_s.saturating_mul(1_000) - left_ms as i64;
        let drained = el("i")
            .style("animation-duration", &[&*clock.granted_s.to_string(), "s"].concat())
            .style("animation-delay", &["-", &passed_ms.max(0).to_string(), "ms"].concat());
        let left = move || {
            ui.store.now_ms.track();
            words::SECONDS.with(&[&clock.remaining_s(browser::now_ms()).to_string()])
        };
        let ends = browser::datetime(clock.deadline_ms);
        vec![
            el("span").class("drain").attr("aria-hidden", "true").child(drained),
            el("time").attr("data-testid", "ttl").attr("datetime", &ends).attr("title", &ends).text_of(left),
        ]
    };
    vec![el("span").part(bar)]
}
