//! The question before an instance is taken out: what follows, what else goes, and whether it is meant.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::Record;
use wasm_bindgen_futures::spawn_local;

use super::{
    element::{El, button, el, said},
    later::{self, Later},
    row::short_id,
    sheet::list_of_keys,
};
use crate::{
    aftermath::{self, Act},
    app::{Ui, why},
    browser, words,
};

/// The dialog, where it is open.
pub fn dialog(ui: Ui) -> El {
    let is_open = Memo::new(move |_| ui.dialog.with(Option::is_some));
    el("div").part(move || {
        let record = is_open.get().then(|| ui.dialog.get_untracked()).flatten();
        record.and_then(|record| later::draw(ui, Later::Dialog(record))).into_iter().collect()
    })
}

/// The question.
pub fn question(ui: Ui, record: Arc<Record>) -> El {
    let service = record.service.clone();
    let live = ui.store.read(|live| live.summary(&service).instances);
    let counts = record.instance().is_some();
    let guarded = counts && aftermath::needs_the_name(live, 1);
    let last = (counts && live <= 1).then(|| aftermath::last_one(record.layout)).flatten();
    let title = words::deregister_title(short_id(&record), &record.service);
    // What is taken out is the record as it is shown here, at its revision.
    let shown = RwSignal::new(record);
    let act = RwSignal::new(Act::Delete);
    let typed = RwSignal::new(String::new());
    let working = RwSignal::new(false);
    let error = RwSignal::new(String::new());
    let keys = RwSignal::new(None::<Vec<String>>);
    let lease = shown.with_untracked(|record| record.lease);
    if let Some(lease) = lease {
        spawn_local(async move {
            if let Ok(answer) = ui.client().lease(lease).await {
                keys.try_set(answer.keys);
            }
        });
    }
    let close = move || {
        // Closing it gives the focus back to what had it.
        browser::call("dialog", "close");
        ui.dialog.set(None);
        browser::keep_focus();
    };
    let key = move || shown.with(|record| record.key.clone());
    let expected = service.clone();
    let is_ready = move || !working.get() && (!guarded || typed.with(|typed| typed.trim() == expected));
    let ready = Memo::new(move |_| is_ready());
    let submit = move |event: web_sys::Event| {
        event.prevent_default();
        if !ready.get_untracked() {
            return;
        }
        let record = shown.get_untracked();
        let (act, keys) = (act.get_untracked(), keys.get_untracked());
        working.set(true);
        error.set(String::new());
        spawn_local(async move {
            let done = take_out(ui, &record, act, keys).await;
            working.try_set(false);
            match done {
                Ok(()) => close(),
                Err(Refused { text, now }) => {
                    error.try_set(text);
                    if let Some(now) = now {
                        shown.try_set(now);
                    }
                }
            }
        });
    };
    let choice = move |this: Act, name: &str| {
        let radio = el("input").attr("type", "radio").attr("name", "act").on("change", move |_| act.set(this));
        el("label").child(radio.attr_if("checked", (this == Act::Delete).then_some(""))).text(name)
    };
    let choices = lease.map(|_| {
        let both = [choice(Act::Delete, words::DELETE_KEY.text()), choice(Act::Revoke, words::REVOKE_LEASE.text())];
        el("fieldset").children(both)
    });
    let follows =
        move || shown.with(|record| aftermath::sentence(record.layout, act.get(), record.lease.is_some())).to_owned();
    let going_along = move || match (act.get(), keys.get()) {
        (Act::Delete, _) => Vec::new(),
        (Act::Revoke, None) => vec![said("p", "quiet", words::WORKING.text())],
        (Act::Revoke, Some(keys)) => {
            let others: Vec<String> = keys.into_iter().filter(|other| *other != key()).collect();
            if others.is_empty() {
                vec![said("p", "quiet", words::REVOKE_ALONE.text())]
            } else {
                vec![said("p", "", words::REVOKE_OTHERS.text()), list_of_keys(&others)]
            }
        }
    };
    let can_undo = move || {
        if act.get() == Act::Delete { words::AFTER_UNDO.text() } else { words::AFTER_NO_UNDO.text() }.to_owned()
    };
    let guard = guarded.then(|| {
        let input = el("input")
            .attr("type", "text")
            .attr("data-testid", "confirm-name")
            .attr("autocomplete", "off")
            .attr("spellcheck", "false")
            .on("input", move |event| typed.set(event_target_value(&event)));
        let what = said("span", "", words::TYPE_THE_NAME.text()).text(" ").child(said("b", "mono", &service));
        el("label").class("guard").child(what).child(input)
    });
    let confirm = el("button")
        .class("danger")
        .attr("type", "submit")
        .attr("data-testid", "confirm")
        .flag("disabled", move || !ready.get())
        .text_of(move || if working.get() { words::WORKING.text() } else { words::DEREGISTER.text() }.to_owned());
    let cancel = button("", words::CANCEL.text(), move |_| close()).attr("data-testid", "cancel");
    let form = el("form")
        .on("submit", submit)
        .child(said("h2", "", &title).attr("id", "dialog-title"))
        .child(el("p").class("mono key").text_of(key))
        .children(choices)
        .child(el("p").text_of(follows))
        .children(last.map(|last| said("p", "", last)))
        .part(going_along)
        .child(el("p").class("quiet").text_of(can_undo))
        .children(guard)
        .child(el("p").class("error").attr("role", "alert").text_of(move || error.get()))
        .child(el("footer").child(cancel).child(confirm));
    // It is shown as soon as it stands in the document.
    queue_microtask(move || {
        browser::call("dialog", "showModal");
        browser::focus(if guarded { "[role=dialog] input[type=text]" } else { "[data-testid=cancel]" });
    });
    el("dialog")
        .attr("role", "dialog")
        .attr("aria-modal", "true")
        .attr("aria-labelledby", "dialog-title")
        .on("cancel", move |event| {
            event.prevent_default();
            close();
        })
        .on("close", move |_| ui.dialog.set(None))
        .child(form)
}

/// What was refused, in words, and the record as it stands now where it changed meanwhile.
struct Refused {
    text: String,
    now: Option<Arc<Record>>,
}

async fn take_out(ui: Ui, record: &Record, act: Act, keys: Option<Vec<String>>) -> Result<(), Refused> {
    let client = ui.client();
    let id = short_id(record).to_owned();
    let done = match (act, record.lease) {
        (Act::Revoke, Some(lease)) => client.revoke(lease, keys.map_or(1, |keys| keys.len())).await.map(|answer| {
            ui.tell(words::revoked(answer.deleted.len()), None);
        }),
        _ => client.deregister(&record.key, record.mod_revision).await.map(|answer| {
            ui.tell(words::deregistered(&id), Some((answer.undo, id)));
        }),
    };
    done.map_err(|error| {
        let now = error.problem().and_then(|problem| problem.record.clone());
        let text = match error.problem().map(|problem| problem.status) {
            Some(404) => words::ALREADY_GONE.text().to_owned(),
            Some(409) if now.is_some() => words::CHANGED_MEANWHILE.text().to_owned(),
            _ => why(&error),
        };
        Refused { text, now }
    })
}
