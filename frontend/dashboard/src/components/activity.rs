//! What happened, as sentences, newest first.

use leptos::prelude::*;
use rollcall_shared::SnapshotReason;

use super::{
    element::{El, el, link, said},
    row::short_id,
};
use crate::{
    app::Ui,
    browser,
    difference::between,
    live::{Happening, What},
    route::Address,
    words,
};

/// How many happenings are shown.
const SHOWN_MAX: usize = 60;

/// The feed of everything.
pub fn activity(ui: Ui) -> El {
    let happened = ui.store.feed(SHOWN_MAX, None);
    let nothing_yet = move || {
        let is_empty = happened.with(Vec::is_empty);
        is_empty.then(|| said("p", "quiet", words::NO_ACTIVITY.text())).into_iter().collect()
    };
    el("aside")
        .class("activity")
        .attr("aria-label", words::ACTIVITY.text())
        .child(said("h2", "", words::ACTIVITY.text()))
        .part(nothing_yet)
        .child(feed(ui, happened))
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
    let at_ms = happening.at_ms;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both are clamped")]
    let ago = move || words::ago(((ui.store.now_ms.get() - at_ms) / 1_000.0).max(0.0) as u64);
    let (kind, subject, sentence, more) = told(&happening.what);
    let sentence = el("p")
        .children(subject.map(|(name, address)| link("mono", &address.href(), &name)))
        .text(" ")
        .text(&sentence)
        .children(more.map(|more| said("small", "", &more)));
    let time =
        el("time").attr("datetime", &browser::datetime(at_ms)).attr("title", &browser::clock(at_ms)).text_of(ago);
    el("li").attr("data-kind", kind).child(el("span").class("dot")).child(sentence).child(time)
}

/// A happening's kind, its subject with where that is, the rest of its sentence, and what that rests on.
fn told(what: &What) -> (&'static str, Option<(String, Address)>, String, Option<String>) {
    let subject = what.record().map(|record| {
        let address = Address { key: Some(record.key.clone()), ..Address::service(&record.service) };
        ([&record.service, " / ", short_id(record)].concat(), address)
    });
    match what {
        What::Appeared(record) => {
            let kind = if record.instance().is_some() { "appeared" } else { "malformed" };
            (kind, subject, words::APPEARED.text().to_owned(), None)
        }
        What::Changed { was, record } => {
            let parts: Vec<&str> = between(was, record).into_iter().map(|part| words::part(part)).collect();
            let parts = parts.join(words::LIST_COMMA.text());
            ("changed", subject, [words::CHANGED.text(), ": ", &parts].concat(), None)
        }
        What::Returned { how, .. } => ("appeared", subject, words::returned(*how).to_owned(), None),
        What::Vanished { why: None, .. } => ("vanished", subject, words::JUST_GONE.text().to_owned(), None),
        What::Vanished { why: Some(why), .. } => {
            (why.cause.as_str(), subject, words::cause(why.cause).to_owned(), Some(why.evidence.clone()))
        }
        What::Burst { appeared, vanished, changed, causes, service } => {
            let link = service.as_ref().map(|name| (name.clone(), Address::service(name)));
            let causes: Vec<String> =
                causes.iter().map(|(cause, count)| [&*words::number(*count), " ", cause.as_str()].concat()).collect();
            let more = (!causes.is_empty()).then(|| causes.join(", "));
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
