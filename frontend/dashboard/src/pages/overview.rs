//! The overview: how much there is, what looks wrong, what changed last, what is biggest. While something is searched,
//! what it means.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, Record};

use crate::{
    app::Ui,
    components::{
        announcer::{counted, summed},
        element::{El, el, link, said},
        empty::empty,
        instances::instance_table,
        later::{self, Later},
        row::{full_name, since},
        services::{marks, spark},
    },
    live::Live,
    route::Address,
    words,
};

/// How many lines each list has.
const LINES_MAX: usize = 8;

/// How far back what is told reaches, in milliseconds.
const RECENT_MS: f64 = 600_000.0;

/// What stands in the middle where no service is chosen.
pub fn overview(ui: Ui) -> Vec<El> {
    let searching = Memo::new(move |_| ui.search.with(|search| !search.is_empty()));
    let is_empty = ui.store.overall(|live| live.catalog().is_empty());
    let what = move || {
        if searching.get() {
            let count = move || words::FOUND.with(&[&words::number(ui.store.row_count())]);
            return vec![el("header").class("head").child(el("h1").text_of(count)), instance_table(ui, None)];
        }
        if is_empty.get() { vec![empty(ui)] } else { later::when_it_stands(ui, Later::Glance) }
    };
    vec![el("div").class("fill").part(what)]
}

/// How it is with everything.
pub fn glance(ui: Ui) -> El {
    let totals = ui.store.overall(Live::totals);
    let headline = move || {
        let services = ui.store.read(|live| live.catalog().services().count());
        words::HEADLINE.with(&[&words::instances(totals.get().instances), &words::services(services)])
    };
    // What a line says of a record follows from its revision, or from its being late, which comes after all else.
    let wrong = ui.store.overall(|live| {
        let name = |record: &Arc<Record>| [&*record.mod_revision.to_string(), " ", &record.key].concat();
        live.wrong(LINES_MAX).iter().map(name).collect::<Vec<_>>()
    });
    let wrong_lines = move |name: &str| {
        let (_, key) = name.split_once(' ')?;
        ui.store.read(|live| live.catalog().get(key).map(|record| wrong_line(record)))
    };
    let wrong_lines = el("ul").class("lines").keyed(move || wrong.get(), wrong_lines);
    let nothing = |list: Memo<Vec<String>>, what: words::Word| {
        move || list.with(Vec::is_empty).then(|| said("p", "quiet", what.text())).into_iter().collect()
    };
    let section = |name: words::Word| el("section").child(said("h2", "", name.text()));
    let list = |names: Memo<Vec<String>>, line: fn(Ui, &str) -> El| {
        el("ul").class("lines").keyed(move || names.get(), move |name| Some(line(ui, name)))
    };
    // Where the eye is, nothing changes places oftener than it can follow.
    let biggest = Memo::new(move |_| {
        ui.slow.track();
        ui.store.ready.track();
        ui.store.read(|live| live.biggest(LINES_MAX).into_iter().map(|(name, _)| name).collect::<Vec<_>>())
    });
    let recent = Memo::new(move |_| {
        ui.store.now_ms.track();
        changed_last(ui)
    });
    el("div")
        .class("page")
        .child(el("h1").text_of(headline))
        .child(el("p").class("marks lede").part(move || marks(&totals.get(), false)))
        .child(section(words::LOOKS_WRONG).part(nothing(wrong, words::ALL_WELL)).child(wrong_lines))
        .child(
            el("div")
                .class("pairs")
                .child(section(words::RECENT).part(nothing(recent, words::NO_RECENT)).child(list(recent, recent_line)))
                .child(section(words::BIGGEST).child(list(biggest, size_line))),
        )
}

/// The services in which something happened within the last minutes, the latest first.
fn changed_last(ui: Ui) -> Vec<String> {
    let since_ms = ui.store.now_ms.get_untracked() - RECENT_MS;
    let mut names = Vec::new();
    ui.store.read(|live| {
        for happening in live.feed().take_while(|happening| happening.at_ms > since_ms) {
            let (name, _) = counted(&happening.what);
            if let Some(name) = name
                && names.len() < LINES_MAX
                && !names.iter().any(|other| other == name)
            {
                names.push(name.to_owned());
            }
        }
    });
    names
}

/// What happened to a service within the last minutes: how many instances left, came and changed, and when that was last.
fn course(ui: Ui, wanted: &str) -> ([usize; 3], f64) {
    let since_ms = ui.store.now_ms.get_untracked() - RECENT_MS;
    let (mut sum, mut last_ms) = ([0; 3], 0.0_f64);
    ui.store.read(|live| {
        for happening in live.feed().take_while(|happening| happening.at_ms > since_ms) {
            let (name, counts) = counted(&happening.what);
            if name == Some(wanted) {
                sum = [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]];
                last_ms = last_ms.max(happening.at_ms);
            }
        }
    });
    (sum, last_ms)
}

fn recent_line(ui: Ui, name: &str) -> El {
    let (of, of_it) = (name.to_owned(), name.to_owned());
    let told = move || {
        ui.store.now_ms.track();
        summed(course(ui, &of).0)
    };
    let time = move || since(ui, course(ui, &of_it).1);
    let line = link("", &Address::service(name).href(), "")
        .child(said("span", "name", name))
        .child(el("span").class("what").text_of(told))
        .child(spark(ui, name))
        .child(el("time").text_of(time));
    el("li").child(line)
}

fn size_line(ui: Ui, name: &str) -> El {
    let summary = ui.store.summary(name);
    let most = move || {
        ui.slow.track();
        ui.store.read(|live| live.biggest(1).first().map(|(_, size)| size.to_string()))
    };
    let bar = el("progress")
        .attr("aria-hidden", "true")
        .attr_of("max", most)
        .attr_of("value", move || Some(summary.with(|summary| summary.instances.to_string())));
    let line = link("", &Address::service(name).href(), "")
        .child(said("span", "what", name))
        .child(spark(ui, name))
        .child(bar)
        .child(el("span").class("count").text_of(move || words::number(summary.with(|summary| summary.instances))));
    el("li").child(line)
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
        .child(said("span", "mono", &full_name(record)))
        .child(said("span", if kind == "late" { "what" } else { "what evidence" }, what));
    el("li").child(line)
}
