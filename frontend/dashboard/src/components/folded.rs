//! Those that left a while ago: a line at the foot of the table, that opens.

use leptos::prelude::*;

use super::{
    element::{El, button, el, said},
    row::{ago, short_id},
};
use crate::{app::Ui, words};

/// How many are listed.
const LISTED_MAX: usize = 50;

/// The line for a service, or for all, where there is something to say.
pub fn folded(ui: Ui, service: Option<String>) -> El {
    let open = RwSignal::new(false);
    // What folds away folds at a tick.
    let gone = move || {
        ui.store.now_ms.track();
        ui.store.read(|live| live.gone(service.as_deref(), LISTED_MAX))
    };
    let count = gone.clone();
    let count = Memo::new(move |_| count().len());
    let list = move || {
        if !open.get() || count.get() == 0 {
            return Vec::new();
        }
        let entries = untrack(&gone).into_iter().map(|gone| {
            let (kind, sentence, evidence) = match &gone.why {
                Some(why) => (why.cause.as_str(), words::cause(why.cause), why.evidence.as_str()),
                None => ("vanished", words::JUST_GONE.text(), ""),
            };
            let what = el("p")
                .child(el("span").class("when").children(ago(ui, Some(gone.at_ms))))
                .child(said("span", "mono", short_id(&gone.record)))
                .text(" ")
                .text(sentence)
                .child(said("small", "evidence", evidence));
            el("li").attr("data-kind", kind).child(el("span").class("dot")).child(what)
        });
        vec![el("ul").class("feed").children(entries)]
    };
    let line = move || {
        if count.get() == 0 {
            return Vec::new();
        }
        let label = words::RECENTLY_GONE.with(&[&words::number(count.get())]);
        let line = button("", &label, move |_| open.update(|open| *open = !*open));
        vec![line.attr("data-testid", "folded").attr_of("aria-expanded", move || Some(open.get().to_string()))]
    };
    el("div").class("folded").flag("hidden", move || count.get() == 0).part(line).part(list)
}
