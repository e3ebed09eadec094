//! What happened, as sentences, newest first.

use leptos::prelude::*;
use rollcall_shared::SnapshotReason;

use super::row::short_id;
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
#[component]
pub fn Activity() -> impl IntoView {
    let ui = Ui::get();
    let feed = ui.store.feed(SHOWN_MAX, |_| true);
    let is_empty = Memo::new(move |_| feed.with(Vec::is_empty));
    view! {
        <aside class="activity" aria-label=words::ACTIVITY>
            <h2>{words::ACTIVITY}</h2>
            <Show when=move || is_empty.get()>
                <p class="quiet">{words::NO_ACTIVITY}</p>
            </Show>
            <Feed feed />
        </aside>
    }
}

/// A list of happenings.
#[component]
pub fn Feed(feed: Memo<Vec<Happening>>) -> impl IntoView {
    // What became of one later (its cause, a burst's numbers) makes it another one.
    let version = |happening: &Happening| match &happening.what {
        What::Vanished { why, .. } => usize::from(why.is_some()),
        What::Burst { appeared, vanished, changed, causes, .. } => {
            appeared + vanished + changed + causes.values().sum::<usize>()
        }
        _ => 0,
    };
    view! {
        <ol class="feed">
            <For each=move || feed.get() key=move |happening| (happening.number, version(happening)) let:happening>
                <Line happening />
            </For>
        </ol>
    }
}

#[component]
fn Line(happening: Happening) -> impl IntoView {
    let ui = Ui::get();
    let at_ms = happening.at_ms;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both are clamped")]
    let ago = move || words::ago(((ui.store.now_ms.get() - at_ms) / 1_000.0).max(0.0) as u64);
    let (kind, link, text, more) = told(&happening.what);
    view! {
        <li data-kind=kind>
            <span class="dot"></span>
            <p>
                {link.map(|(name, address)| view! { <a class="mono" href=address.href()>{name}</a> " " })}
                {text}
                {more.map(|more| view! { <small>{more}</small> })}
            </p>
            <time datetime=browser::datetime(at_ms) title=browser::clock(at_ms)>
                {ago}
            </time>
        </li>
    }
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
