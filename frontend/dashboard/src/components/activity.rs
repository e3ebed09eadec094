//! What happened, as sentences, newest first.

use leptos::prelude::*;
use rollcall_shared::{CauseKind, SnapshotReason};

use super::{
    announcer::counted,
    element::{El, button, el, link, said},
    row::{ago, full_name},
};
use crate::{
    app::Ui,
    difference::between,
    live::{Happening, What},
    route::Address,
    words,
};

/// How many happenings are shown.
const SHOWN_MAX: usize = 60;

/// What may be picked out.
const KINDS: [words::Word; 5] = [words::ALL, words::CAME, words::LEFT, words::CHANGES, words::ODDITIES];

/// The feed of everything, or of what is picked out.
pub fn activity(ui: Ui) -> El {
    let kind = RwSignal::new(0);
    let only_here = RwSignal::new(false);
    let service = Memo::new(move |_| ui.address.with(|address| address.service.clone()));
    let all = ui.store.feed(usize::MAX, None);
    let happened = Memo::new(move |_| {
        let (kind, service) = (kind.get(), service.get().filter(|_| only_here.get()));
        let wanted = |it: &&Happening| is_wanted(it, kind, service.as_deref());
        all.with(|all| all.iter().filter(wanted).take(SHOWN_MAX).cloned().collect::<Vec<_>>())
    });
    let kinds = KINDS.iter().enumerate().map(|(index, name)| {
        button("", name.text(), move |_| kind.set(index))
            .attr_of("aria-pressed", move || Some((kind.get() == index).to_string()))
    });
    let here = move || {
        let only = |name: String| {
            button("", &words::ONLY_HERE.with(&[&name]), move |_| only_here.update(|only| *only = !*only))
                .attr_of("aria-pressed", move || Some(only_here.get().to_string()))
        };
        service.get().map(only).into_iter().collect()
    };
    let nothing = move || {
        let why = if all.with(Vec::is_empty) { words::NO_ACTIVITY } else { words::NOTHING_SUCH };
        let is_empty = happened.with(Vec::is_empty);
        is_empty.then(|| said("p", "quiet", why.text())).into_iter().collect()
    };
    el("aside")
        .class("activity")
        .attr("aria-label", words::ACTIVITY.text())
        .child(el("div").class("bar").child(said("h2", "", words::ACTIVITY.text())).part(here))
        .child(el("div").class("tabs").children(kinds))
        .part(nothing)
        .child(feed(ui, happened))
}

/// Whether a happening is of a kind, by its place in [`KINDS`], and of a service.
fn is_wanted(happening: &Happening, kind: usize, service: Option<&str>) -> bool {
    let (name, [left, came, changed]) = counted(&happening.what);
    let is_odd = match &happening.what {
        What::Appeared(record) => record.instance().is_none() || record.warning.is_some(),
        What::Vanished { why: Some(why), .. } => matches!(why.cause, CauseKind::Expired | CauseKind::Unknown),
        What::Burst { .. } | What::Snapshot(SnapshotReason::Restored) => true,
        _ => false,
    };
    let counts = [1, came, left, changed, usize::from(is_odd)];
    counts[kind] > 0 && (service.is_none() || name == service)
}

/// A list of happenings.
pub fn feed(ui: Ui, happened: Memo<Vec<Happening>>) -> El {
    let named = move || happened.with(|happened| happened.iter().map(name).collect());
    let drawn = move |wanted: &str| {
        let happening = happened.with_untracked(|happened| happened.iter().find(|it| name(it) == wanted).cloned());
        happening.map(|happening| line(ui, &happening))
    };
    el("ol").class("feed").keyed(named, drawn)
}

/// What became of one later (its cause, a burst's numbers) makes it another one.
fn name(happening: &Happening) -> String {
    let version = match &happening.what {
        What::Vanished { why, .. } => usize::from(why.is_some()),
        What::Burst { appeared, vanished, changed, causes, .. } => {
            appeared + vanished + changed + causes.values().sum::<usize>()
        }
        _ => 0,
    };
    [&*happening.number.to_string(), ".", &version.to_string()].concat()
}

fn line(ui: Ui, happening: &Happening) -> El {
    let (kind, subject, sentence, more) = told(&happening.what);
    let sentence = el("p")
        .child(el("span").class("when").children(ago(ui, Some(happening.at_ms))))
        .children(subject.map(|(name, address)| link("mono", &address.href(), &name)))
        .text(" ")
        .text(&sentence)
        .children(more.map(|more| said("small", "evidence", &more)));
    el("li").attr("data-kind", kind).child(el("span").class("dot")).child(sentence)
}

/// A happening's kind, its subject with where that is, the rest of its sentence, and what that rests on.
fn told(what: &What) -> (&'static str, Option<(String, Address)>, String, Option<String>) {
    let subject = what.record().map(|record| {
        let address = Address { key: Some(record.key.clone()), ..Address::service(&record.service) };
        (full_name(record), address)
    });
    match what {
        What::Appeared(record) => {
            let kind = if record.instance().is_some() { "appeared" } else { "malformed" };
            (kind, subject, words::APPEARED.text().to_owned(), None)
        }
        What::Changed { was, record } => {
            let parts: Vec<&str> = between(was, record).into_iter().map(|part| words::part(part)).collect();
            let parts = parts.join(words::LIST_COMMA.text());
            ("changed", subject, words::CHANGED_PARTS.with(&[&parts]), None)
        }
        What::Returned { how, .. } => ("appeared", subject, words::returned(*how).to_owned(), None),
        What::Vanished { why: None, .. } => ("vanished", subject, words::JUST_GONE.text().to_owned(), None),
        What::Vanished { why: Some(why), .. } => {
            (why.cause.as_str(), subject, words::cause(why.cause).to_owned(), Some(why.evidence.clone()))
        }
        What::Burst { appeared, vanished, changed, causes, service } => {
            let link = service.as_ref().map(|name| (name.clone(), Address::service(name)));
            let causes: Vec<String> = causes
                .iter()
                .map(|(cause, count)| [&*words::number(*count), " ", words::cause_name(*cause)].concat())
                .collect();
            let more = (!causes.is_empty()).then(|| causes.join(words::LIST_COMMA.text()));
            ("burst", link, words::burst(*appeared, *vanished, *changed), more)
        }
        What::Snapshot(reason) => {
            let text = match reason {
                SnapshotReason::Restored => words::RESTORED.text(),
                _ => words::STARTED_OVER.text(),
            };
            ("snapshot", None, text.to_owned(), None)
        }
    }
}
