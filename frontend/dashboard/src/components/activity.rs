//! What happened, as sentences, newest first.

use leptos::prelude::*;
use rollcall_shared::SnapshotReason;

use super::{
    erased::{keyed, nothing, part, text},
    row::short_id,
};
use crate::{
    app::Ui,
    browser,
    live::{Happening, What},
    route::Address,
    words,
};

/// How many happenings are shown.
const SHOWN_MAX: usize = 60;

/// The feed of everything.
pub fn activity() -> AnyView {
    let ui = Ui::get();
    let happened = ui.store.feed(SHOWN_MAX, None);
    let nothing_yet = move || {
        if happened.with(Vec::is_empty) {
            view! { <p class="quiet">{words::NO_ACTIVITY}</p> }.into_any()
        } else {
            nothing()
        }
    };
    view! {
        <aside class="activity" aria-label=words::ACTIVITY>
            <h2>{words::ACTIVITY}</h2>
            {part(nothing_yet)}
            {feed(happened)}
        </aside>
    }
    .into_any()
}

/// A list of happenings.
pub fn feed(happened: Memo<Vec<Happening>>) -> AnyView {
    let named = move || happened.with(|happened| happened.iter().map(name).collect());
    let drawn = move |wanted: String| {
        let happening = happened.with_untracked(|happened| happened.iter().find(|it| name(it) == wanted).cloned());
        happening.map_or_else(nothing, |happening| line(&happening))
    };
    view! { <ol class="feed">{keyed(named, drawn)}</ol> }.into_any()
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

fn line(happening: &Happening) -> AnyView {
    let ui = Ui::get();
    let at_ms = happening.at_ms;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both are clamped")]
    let ago = move || words::ago(((ui.store.now_ms.get() - at_ms) / 1_000.0).max(0.0) as u64);
    let (kind, link, sentence, more) = told(&happening.what);
    let link = link.map(|(name, address)| view! { <a class="mono" href=address.href()>{name}</a> }.into_any());
    let more = more.map(|more| view! { <small>{more}</small> }.into_any());
    view! {
        <li data-kind=kind>
            <span class="dot"></span>
            <p>{link} {[" ", &sentence].concat()} {more}</p>
            <time datetime=browser::datetime(at_ms) title=browser::clock(at_ms)>
                {text(ago)}
            </time>
        </li>
    }
    .into_any()
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
            (kind, subject, words::APPEARED.to_owned(), None)
        }
        What::Changed { fields, .. } => ("changed", subject, [words::CHANGED, ": ", fields].concat(), None),
        What::Vanished { why: None, .. } => ("vanished", subject, words::JUST_GONE.to_owned(), None),
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
                SnapshotReason::Restored => words::RESTORED,
                _ => words::STARTED_OVER,
            };
            ("snapshot", None, text.to_owned(), None)
        }
    }
}
