//! The services: how many instances each has, how that went, and what is odd about it.

use std::{collections::BTreeSet, sync::Arc};

use leptos::prelude::*;

use rollcall_shared::order::in_order;

use super::{
    element::{El, el, follow, said, svg},
    scroll::{Scroll, pad_after, pad_before},
};
use crate::{
    app::Ui,
    browser,
    live::{CURVE_MS, Summary},
    route::Address,
    words,
};

/// The orders of the list, as they are remembered.
const ORDERS: [(&str, words::Word); 3] =
    [("name", words::BY_NAME), ("size", words::BY_SIZE), ("changed", words::BY_CHANGE)];

/// The list of services on the left, or on a narrow page's overview.
pub fn service_list(ui: Ui) -> El {
    let recalled = browser::recalled("rollcall-order");
    let order = RwSignal::new(ORDERS.iter().position(|(name, _)| recalled.as_deref() == Some(name)).unwrap_or(0));
    let held = RwSignal::new(false);
    let names = names(ui, order, held);
    let scroll = Scroll::new(ui);
    let count = Memo::new(move |_| names.with(|names| names.len()));
    let row_px = Memo::new(move |_| {
        ui.resized.track();
        if ui.narrow.get() { 48 } else { browser::row_px() }
    });
    let window = scroll.window(count, row_px);
    let shown = move || {
        let window = window.get();
        names.with(|names| names.get(window.start..window.end.min(names.len())).unwrap_or_default().to_vec())
    };
    let choose = move |event| {
        let chosen = event_target_value(&event);
        browser::remember("rollcall-order", &chosen);
        order.set(ORDERS.iter().position(|(name, _)| *name == chosen).unwrap_or(0));
    };
    let choices = ORDERS.iter().enumerate().map(|(index, (name, word))| {
        let is_chosen = order.get_untracked() == index;
        said("option", "", word.text()).attr("value", name).attr_if("selected", is_chosen.then_some(""))
    });
    let heading = said("h2", "", words::SERVICES.text())
        .child(el("span").class("count").text_of(move || words::number(count.get())));
    let sort = el("select").class("inline").attr("aria-label", words::SORT.text()).on("change", choose);
    let missing = RwSignal::new(0);
    let list = scroll.box_of("scroll").child(pad_before(el("div"), window, row_px));
    let node = list.node().clone();
    // Nothing moves under the eye: while one points into the list, or goes through it by keys, it keeps its order.
    let hold = move |_| {
        let is_held = node.matches(":is(:hover, :has(:focus-visible))").unwrap_or(false);
        if held.get_untracked() != is_held {
            held.set(is_held);
        }
    };
    let mut list = list
        .child(el("div").keyed_in(missing, shown, move |name| Some(service(ui, name))))
        .child(pad_after(el("div"), window, count, row_px, missing));
    for kind in ["pointerenter", "pointerleave", "focusin", "focusout"] {
        list = list.on(kind, hold.clone());
    }
    el("nav")
        .class("side")
        .attr("aria-label", words::SERVICES.text())
        .child(el("div").class("bar").child(heading).child(sort.children(choices)))
        .child(list)
}

/// The names in their order; the order before, where that is held.
fn names(ui: Ui, order: RwSignal<usize>, held: RwSignal<bool>) -> Memo<Arc<Vec<String>>> {
    let found = ui.store.service_names();
    // What is searched anew is listed anew.
    follow(move || {
        ui.search.track();
        held.set(false);
    });
    Memo::new(move |before: Option<&Arc<Vec<String>>>| {
        let found = found.get();
        if held.get()
            && let Some(before) = before
        {
            let known: BTreeSet<String> = before.iter().cloned().collect();
            let is_new = |name: &&String| !known.contains(*name);
            let new: Vec<String> = found.iter().filter(is_new).cloned().collect();
            return if new.is_empty() { Arc::clone(before) } else { Arc::new([before.as_slice(), &new].concat()) };
        }
        let by = order.get();
        if by == 0 {
            return found;
        }
        // Once a second is often enough for eyes.
        ui.store.now_ms.track();
        let ranks: Vec<u64> = ui.store.read(|live| {
            let rank = |name: &String| if by == 1 { live.summary(name).instances as u64 } else { live.changed(name) };
            found.iter().map(rank).collect()
        });
        let order = in_order(ranks.len(), &|a, b| ranks[b].cmp(&ranks[a]));
        Arc::new(order.into_iter().map(|place| found[place].clone()).collect())
    })
}

fn service(ui: Ui, name: &str) -> El {
    let summary = ui.store.summary(name);
    let here = name.to_owned();
    let current = move || {
        let is_here = ui.address.with(|address| address.service.as_deref() == Some(&here));
        is_here.then(|| "page".to_owned())
    };
    let to = name.to_owned();
    // The search goes along: what was found is found there, too.
    let href = move || {
        Some(ui.address.with(|address| Address { search: address.search.clone(), ..Address::service(&to) }.href()))
    };
    let is_empty = move || summary.with(|summary| summary.instances + summary.malformed == 0);
    el("a")
        .class("service")
        .attr("data-testid", "service")
        .attr("data-service", name)
        .attr_of("href", href)
        .attr_of("aria-current", current)
        .flag("data-empty", is_empty)
        .child(said("span", "name", name).attr("title", name))
        .child(el("span").class("marks").part(move || marks(&summary.get(), true)))
        .child(spark(ui, name))
        .child(el("span").class("count").text_of(move || words::number(summary.with(|summary| summary.instances))))
}

/// The course of a service's number over the last minutes, as a line. It is drawn where something moved.
pub fn spark(ui: Ui, name: &str) -> El {
    let curve = ui.store.curve(name);
    let course = Memo::new(move |_| {
        // It moves when the number does; otherwise, it slides along now and then.
        ui.slow.track();
        curve.with(|curve| Some(line(curve, browser::now_ms())))
    });
    let path = svg("path").attr_of("d", move || course.get());
    svg("svg")
        .attr("class", "spark")
        .attr("viewBox", "0 0 48 16")
        .attr("aria-hidden", "true")
        .flag("data-still", move || course.with(|course| course.as_ref().is_none_or(|d| !d.contains('V'))))
        .child(path)
}

/// The steps of a curve in a box of 48 by 16, which is as long as the page has been there, up to ten minutes. They are
/// whole numbers: to write one with a fraction takes 3 KB of the page's first load.
fn line(curve: &[(f64, usize)], now_ms: f64) -> String {
    let counts = || curve.iter().map(|(_, count)| *count);
    let (least, most) = (counts().min().unwrap_or_default(), counts().max().unwrap_or_default());
    let span = (most - least).max(1);
    let span_ms = curve.first().map_or(0.0, |(at_ms, _)| now_ms - at_ms).clamp(60_000.0, CURVE_MS);
    let mut path = String::from("M0 ");
    for (index, (at_ms, count)) in curve.iter().enumerate() {
        if index > 0 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the box")]
            let x = (48.0 * (1.0 - (now_ms - at_ms) / span_ms)).round().max(0.0) as usize;
            path.push_str(&["H", &x.to_string(), "V"].concat());
        }
        path.push_str(&(14 - (12 * (count - least) + span / 2) / span).to_string());
    }
    if curve.is_empty() { String::new() } else { [&path, "H48"].concat() }
}

/// What is odd about a service, or about all, the gravest first: in words, or, where it is tight, the gravest as a
/// shape and a number.
pub fn marks(summary: &Summary, is_tight: bool) -> Vec<El> {
    let marks = [
        ("malformed", summary.malformed, words::MALFORMED_COUNT),
        ("late", summary.late, words::LATE_COUNT),
        ("gone", summary.gone, words::GONE_COUNT),
        ("permanent", summary.permanent, words::PERMANENT_COUNT),
    ];
    let mark = |(kind, count, what): (&str, usize, words::Word)| {
        let number = words::number(count);
        let said_whole = what.with(&[&number]);
        let mark = el("span").class("mark").attr("data-mark", kind).child(el("span").class("dot"));
        if is_tight {
            mark.attr("role", "img").attr("aria-label", &said_whole).attr("title", &said_whole).text(&number)
        } else {
            mark.text(&said_whole)
        }
    };
    let there = marks.into_iter().filter(|(_, count, _)| *count > 0);
    there.take(if is_tight { 1 } else { 4 }).map(mark).collect()
}
