//! The question before an instance is taken out: what follows, what else goes, and whether it is meant.

use std::sync::Arc;

use leptos::{html, prelude::*};
use rollcall_shared::Record;
use wasm_bindgen_futures::spawn_local;

use super::{row::short_id, sheet::Keys};
use crate::{
    aftermath::{self, Act},
    app::{Ui, why},
    browser, words,
};

/// The dialog, where it is open.
#[component]
pub fn Dialog() -> impl IntoView {
    let ui = Ui::get();
    let is_open = Memo::new(move |_| ui.dialog.with(Option::is_some));
    move || is_open.get().then(|| ui.dialog.get_untracked()).flatten().map(|record| view! { <Question record /> })
}

#[component]
fn Question(record: Arc<Record>) -> impl IntoView {
    let ui = Ui::get();
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
    let error = RwSignal::new(None::<String>);
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
        error.set(None);
        spawn_local(async move {
            let done = take_out(ui, &record, act, keys).await;
            working.try_set(false);
            match done {
                Ok(()) => close(),
                Err(Refused { text, now }) => {
                    error.try_set(Some(text));
                    if let Some(now) = now {
                        shown.try_set(now);
                    }
                }
            }
        });
    };
    let choice = move |this: Act, name: &'static str| {
        view! {
            <label>
                <input
                    type="radio"
                    name="act"
                    prop:checked=move || act.get() == this
                    on:change=move |_| act.set(this)
                />
                {name}
            </label>
        }
    };
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
                <p class="mono key">{move || shown.with(|record| record.key.clone())}</p>
                {lease
                    .is_some()
                    .then(|| {
                        view! {
                            <fieldset>
                                {choice(Act::Delete, words::DELETE_KEY)} {choice(Act::Revoke, words::REVOKE_LEASE)}
                            </fieldset>
                        }
                    })} <p>{follows}</p> {last.map(|last| view! { <p>{last}</p> })}
                {move || {
                    (act.get() == Act::Revoke)
                        .then(|| match others() {
                            Some(others) if others.is_empty() => {
                                view! { <p class="quiet">{words::REVOKE_ALONE}</p> }.into_any()
                            }
                            Some(keys) => {
                                view! {
                                    <p>{words::REVOKE_OTHERS}</p>
                                    <Keys keys />
                                }
                                    .into_any()
                            }
                            None => view! { <p class="quiet">{words::WORKING}</p> }.into_any(),
                        })
                }}
                <p class="quiet">
                    {move || if act.get() == Act::Delete { words::AFTER_UNDO } else { words::AFTER_NO_UNDO }}
                </p>
                {guarded
                    .then(|| {
                        view! {
                            <label class="guard">
                                <span>{words::TYPE_THE_NAME} " " <b class="mono">{service.clone()}</b></span>
                                <input
                                    type="text"
                                    data-testid="confirm-name"
                                    autocomplete="off"
                                    spellcheck="false"
                                    prop:value=typed
                                    on:input=move |event| typed.set(event_target_value(&event))
                                />
                            </label>
                        }
                    })}
                <p class="error" role="alert">{error}</p>
                <footer>
                    <button type="button" data-testid="cancel" on:click=move |_| close()>
                        {words::CANCEL}
                    </button>
                    <button type="submit" class="danger" data-testid="confirm" disabled=move || !ready.get()>
                        {move || if working.get() { words::WORKING } else { words::DEREGISTER }}
                    </button>
                </footer>
            </form>
        </dialog>
    }
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
