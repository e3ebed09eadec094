//! One instance as a row.

use std::sync::Arc;

use leptos::{prelude::*, reactive::graph::untrack};
use rollcall_shared::{Decoded, Record};
use wasm_bindgen::JsCast;

use super::element::{El, button, el, link, said};
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

pub use crate::view::short_id;

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
    let state_cell = el("td").class("c-state").child(el("span").class("dot")).text_of(move || state_word().to_owned());
    let id = el("a").attr_of("href", href).attr("title", &key).text_of(move || short_id(&record()).to_owned());
    let service = of_all.then(|| {
        let name = untrack(record).service.clone();
        el("td").class("c-service").child(link("", &Address::service(&name).href(), &name))
    });
    let act = move || {
        let ask = move |_| {
            ui.dialog.set(drawn.with_untracked(|row| row.as_ref().map(|row| Arc::clone(&row.record))));
        };
        if is_gone.get() { Vec::new() } else { vec![button("act", words::DEREGISTER.text(), ask)] }
    };
    let lease = move || if is_gone.get() { Vec::new() } else { lease_left(ui, row) };
    el("tr")
        .attr("data-testid", "instance")
        .attr("data-key", &key)
        .attr_of("data-state", move || Some(state().as_str().to_owned()))
        .flag("data-malformed", move || record().instance().is_none())
        .flag("data-fresh", move || row.with(|row| row.as_ref().is_some_and(|row| row.fresh)))
        .flag("data-at", is_at)
        .on("click", open)
        .child(state_cell)
        .child(el("td").class("c-id mono").child(id))
        .children(service)
        .part(move || told(ui, &drawn.get().expect("a row has a record"), is_gone.get(), of_all))
        .child(el("td").class("c-lease").flag("data-span", move || is_gone.get()).part(lease))
        .child(el("td").class("c-act").flag("data-span", move || is_gone.get()).part(act))
}

/// The columns that say what an instance says of itself; once it is gone, why it left stands in the last ones.
fn told(ui: Ui, row: &Row, is_gone: bool, of_all: bool) -> Vec<El> {
    let record = &row.record;
    let endpoints = el("td").class("c-endpoints");
    if !is_gone && record.instance().is_none() {
        // It says nothing that would fill the columns, but why that is.
        return vec![endpoints.attr("colspan", if of_all { "2" } else { "3" }).children(notes(record))];
    }
    let mut cells = Vec::new();
    let instance = record.instance();
    cells.push(match instance {
        Some(instance) => endpoints.children(some_endpoints(ui, &instance.endpoints)),
        None => endpoints,
    });
    if !of_all {
        let version = instance.map(|instance| instance.version.as_str()).unwrap_or_default();
        cells.push(said("td", "c-version mono", version).attr("title", version));
    }
    let last = el("td").class("c-meta");
    cells.push(if is_gone {
        last.attr("colspan", "3").child(cause(row.why.as_ref()))
    } else {
        last.children(notes(record))
    });
    cells
}

/// The first endpoint, and how many more there are.
fn some_endpoints(ui: Ui, endpoints: &[String]) -> Vec<El> {
    let Some((first, rest)) = endpoints.split_first() else { return Vec::new() };
    let mut shown = vec![match first.split_once("://") {
        Some((scheme, address)) => copy_address(ui, Some(scheme), address, first),
        None => copy_address(ui, None, first, first),
    }];
    if !rest.is_empty() {
        shown.push(said("span", "more", &["+", &rest.len().to_string()].concat()).attr("title", &rest.join("\n")));
    }
    shown
}

/// An address that a click copies.
pub fn copy_address(ui: Ui, scheme: Option<&str>, address: &str, full: &str) -> El {
    let copied = full.to_owned();
    let copy = move |_| {
        browser::copy(&copied);
        ui.tell([words::COPIED.text(), ": ", &copied].concat(), None);
    };
    button("address mono", "", copy)
        .attr("title", &[words::COPY.text(), " ", full].concat())
        .children(scheme.map(|scheme| said("span", "scheme", scheme)))
        .text(address)
}

fn cause(why: Option<&Why>) -> El {
    let cause = el("span").attr("data-testid", "cause");
    match why {
        Some(why) => {
            cause.attr("title", &why.evidence).child(said("b", "", why.cause.as_str())).text(": ").text(&why.evidence)
        }
        None => cause.text(words::JUST_GONE.text()),
    }
}

/// What the value says beside where it answers: first what is odd, then the metadata, the zone before all.
fn notes(record: &Record) -> Vec<El> {
    let odd = |what: &str| said("span", "why", what).attr("title", what);
    let instance = match &record.decoded {
        Decoded::Instance(instance) => instance,
        Decoded::Malformed { why, .. } => return vec![odd(why)],
    };
    let mut notes: Vec<El> = record.warning.as_deref().map(odd).into_iter().collect();
    for places_first in [true, false] {
        for (name, value) in &instance.metadata {
            if PLACES.contains(&name.as_str()) == places_first && notes.len() < PAIRS_MAX {
                let pair = el("span").class("pair").attr("title", &[name, "=", value].concat());
                notes.push(pair.child(said("i", "", name)).text(" ").text(value));
            }
        }
    }
    notes
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
            [&*clock.remaining_s(browser::now_ms()).to_string(), " s"].concat()
        };
        vec![
            el("span").class("bar").attr("aria-hidden", "true").child(drained),
            el("time").attr("data-testid", "ttl").attr("datetime", &browser::datetime(clock.deadline_ms)).text_of(left),
        ]
    };
    vec![el("span").part(bar)]
}
