//! The question before an instance is taken out: what follows, what else goes, and whether it is meant.

use std::sync::Arc;

use leptos::{html, prelude::*};
use rollcall_shared::Record;
use wasm_bindgen_futures::spawn_local;

use super::{
    erased::{nothing, part, text},
    row::short_id,
    sheet::list_of_keys,
};
use crate::{
    aftermath::{self, Act},
    app::{Ui, why},
    browser, words,
};

/// The dialog, where it is open.
pub fn dialog() -> AnyView {
    let ui = Ui::get();
    let is_open = Memo::new(move |_| ui.dialog.with(Option::is_some));
    part(move || {
        let record = is_open.get().then(|| ui.dialog.get_untracked()).flatten();
        record.map_or_else(nothing, |record| question(ui, record))
    })
    .into_any()
}

fn question(ui: Ui, record: Arc<Record>) -> AnyView {
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
    let element = NodeRef::<html::Dialog>::new();
    Effect::new(move |_| {
        if let Some(element) = element.get() {
            browser::call(&element, "showModal");
            browser::focus(if guarded { "[role=dialog] input[type=text]" } else { "[data-testid=cancel]" });
        }
    });
    let close = move || {
        // Closing it gives the focus back to what had it.
        if let Some(element) = element.get_untracked() {
            browser::call(&element, "close");
        }
        ui.dialog.set(None);
        browser::keep_focus();
    };
    let others = move || {
        let key = shown.with(|record| record.key.clone());
        keys.get().map(|keys| keys.into_iter().filter(|other| *other != key).collect::<Vec<_>>())
    };
    let ready = {
        let service = service.clone();
        Memo::new(move |_| !working.get() && (!guarded || typed.with(|typed| typed.trim() == service)))
    };
    let submit = move || {
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
    let choice = move |this: Act, name: &'static str| {
        let is_chosen: Box<dyn FnMut() -> bool + Send> = Box::new(move || act.get() == this);
        view! {
            <label>
                <input type="radio" name="act" prop:checked=is_chosen on:change=move |_| act.set(this) />
                {name}
            </label>
        }
        .into_any()
    };
    let choices = lease.map(|_| {
        let choices = [choice(Act::Delete, words::DELETE_KEY), choice(Act::Revoke, words::REVOKE_LEASE)];
        view! { <fieldset>{choices.into_iter().collect::<Vec<_>>()}</fieldset> }.into_any()
    });
    let said = |what: &'static str, class: &'static str| view! { <p class=class>{what}</p> }.into_any();
    let last = last.map(|last| said(last, ""));
    let going_along = move || match (act.get(), others()) {
        (Act::Delete, _) => nothing(),
        (Act::Revoke, None) => said(words::WORKING, "quiet"),
        (Act::Revoke, Some(keys)) if keys.is_empty() => said(words::REVOKE_ALONE, "quiet"),
        (Act::Revoke, Some(keys)) => (said(words::REVOKE_OTHERS, ""), list_of_keys(keys)).into_any(),
    };
    let guard = guarded.then(|| {
        view! {
            <label class="guard">
                <span>{words::TYPE_THE_NAME} " " <b class="mono">{service}</b></span>
                <input
                    type="text"
                    data-testid="confirm-name"
                    autocomplete="off"
                    spellcheck="false"
                    on:input=move |event| typed.set(event_target_value(&event))
                />
            </label>
        }
        .into_any()
    });
    let is_blocked: Box<dyn FnMut() -> bool + Send> = Box::new(move || !ready.get());
    let can_undo = move || if act.get() == Act::Delete { words::AFTER_UNDO } else { words::AFTER_NO_UNDO };
    let follows = move || shown.with(|record| aftermath::sentence(record.layout, act.get(), record.lease.is_some()));
    view! {
        <dialog
            node_ref=element
            role="dialog"
            aria-modal="true"
            aria-labelledby="dialog-title"
            on:cancel=move |event: leptos::ev::Event| {
                event.prevent_default();
                close();
            }
            on:close=move |_| close()
        >
            <form on:submit=move |event| {
                event.prevent_default();
                if ready.get_untracked() {
                    submit();
                }
            }>
                <h2 id="dialog-title">{title}</h2>
                <p class="mono key">{text(move || shown.with(|record| record.key.clone()))}</p>
                {choices}
                <p>{text(follows)}</p>
                {last}
                {part(going_along)}
                <p class="quiet">{text(can_undo)}</p>
                {guard}
                <p class="error" role="alert">
                    {text(move || error.get())}
                </p>
                <footer>
                    <button type="button" data-testid="cancel" on:click=move |_| close()>
                        {words::CANCEL}
                    </button>
                    <button type="submit" class="danger" data-testid="confirm" disabled=is_blocked>
                        {text(move || if working.get() { words::WORKING } else { words::DEREGISTER })}
                    </button>
                </footer>
            </form>
        </dialog>
    }
    .into_any()
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
            Some(404) => words::ALREADY_GONE.to_owned(),
            Some(409) if now.is_some() => words::CHANGED_MEANWHILE.to_owned(),
            _ => why(&error),
        };
        Refused { text, now }
    })
}
