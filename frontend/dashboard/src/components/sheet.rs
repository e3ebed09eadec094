//! The sheet at the side: an instance's details, or the register form.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, LeaseId};
use wasm_bindgen_futures::spawn_local;

use super::{
    activity::feed,
    erased::{nothing, part, text},
    form::register_form,
    row::{copy_address, short_id},
};
use crate::{
    app::{Ui, why},
    live::Row,
    search::RowState,
    words,
};

/// How many happenings of an instance are shown.
const HISTORY_MAX: usize = 20;

/// How many of a lease's keys are listed.
pub const KEYS_MAX: usize = 12;

/// The sheet, where something is open.
pub fn sheet() -> AnyView {
    let ui = Ui::get();
    let key = Memo::new(move |_| ui.address.with(|address| address.key.clone()));
    part(move || {
        if ui.form.get() {
            register_form()
        } else if let Some(key) = key.get() {
            details(ui, &key)
        } else {
            nothing()
        }
    })
    .into_any()
}

/// A sheet with its heading and the button that closes it.
pub fn framed(ui: Ui, label: &'static str, heading: AnyView, body: AnyView) -> AnyView {
    view! {
        <section class="sheet" aria-label=label>
            <header>
                {heading}
                <button type="button" class="close" aria-label=words::CLOSE on:click=move |_| ui.close_sheet()>
                    "×"
                </button>
            </header>
            {body}
        </section>
    }
    .into_any()
}

/// Everything about one key.
fn details(ui: Ui, key: &str) -> AnyView {
    let row = ui.store.row(key);
    // A renewal is no reason to draw the facts anew.
    let facts_of = Memo::new(move |_| row.get().map(|row| Row { clock: None, fresh: false, ..row }));
    let happened = ui.store.feed(HISTORY_MAX, Some(key.to_owned()));
    let title = key.to_owned();
    let heading =
        move || facts_of.with(|row| row.as_ref().map_or_else(|| title.clone(), |row| short_id(&row.record).to_owned()));
    let what = move || match facts_of.get() {
        Some(row) => facts(ui, &row),
        None => {
            let said = if ui.store.ready.get() { words::NO_SUCH_KEY } else { words::WAITING };
            view! { <p class="quiet">{said}</p> }.into_any()
        }
    };
    let has_history = Memo::new(move |_| happened.with(|happened| !happened.is_empty()));
    let history = move || {
        if !has_history.get() {
            return nothing();
        }
        (view! { <h3>{words::HISTORY}</h3> }.into_any(), feed(happened)).into_any()
    };
    let heading = view! { <h2 class="mono">{text(heading)}</h2> }.into_any();
    framed(ui, words::DETAILS, heading, (part(what), part(history)).into_any())
}

fn fact(name: &'static str, value: AnyView) -> AnyView {
    view! {
        <dt>{name}</dt>
        <dd class="mono">{value}</dd>
    }
    .into_any()
}

fn facts(ui: Ui, row: &Row) -> AnyView {
    let record = &row.record;
    let is_gone = row.state == RowState::Gone;
    let said = |text: &str| text.to_owned().into_any();
    let mut facts = Vec::new();
    if is_gone {
        let why = row.why.as_ref().map(|why| [why.cause.as_str(), ": ", &why.evidence].concat());
        facts.push(fact(words::CAUSE, said(why.as_deref().unwrap_or(words::JUST_GONE))));
    }
    facts.push(fact(words::SERVICE, said(&record.service)));
    match &record.decoded {
        Decoded::Malformed { why, .. } => facts.push(fact(words::MALFORMED, odd(why))),
        Decoded::Instance(instance) => {
            facts.push(fact(words::ID, said(&instance.id)));
            if !instance.version.is_empty() {
                facts.push(fact(words::VERSION, said(&instance.version)));
            }
            let endpoints = instance.endpoints.iter();
            let endpoints = endpoints.map(|endpoint| copy_address(None, endpoint.clone(), endpoint.clone()));
            facts.push(fact(words::ENDPOINTS, endpoints.collect::<Vec<_>>().into_any()));
            if !instance.metadata.is_empty() {
                let pairs = instance.metadata.iter().map(|(name, value)| {
                    view! {
                        <div>
                            <i>{name.clone()}</i>
                            {[" = ", value].concat()}
                        </div>
                    }
                    .into_any()
                });
                facts.push(fact(words::METADATA, pairs.collect::<Vec<_>>().into_any()));
            }
        }
    }
    if let Some(warning) = &record.warning {
        facts.push(fact(words::WARNING, odd(warning)));
    }
    facts.push(fact(words::KEY, said(&record.key)));
    facts.push(fact(words::LAYOUT, said(words::layout(record.layout))));
    facts.push(fact(words::SOURCE, said(&record.source)));
    let lease = record.lease.map_or_else(|| words::NO_LEASE.to_owned(), |lease| lease.to_string());
    facts.push(fact(words::LEASE, lease.into_any()));
    let (created, changed) = (record.create_revision.to_string(), record.mod_revision.to_string());
    let revisions = [words::CREATED, " ", &created, ", ", words::LAST_CHANGED, " ", &changed].concat();
    facts.push(fact(words::REVISIONS, revisions.into_any()));
    let mut more = Vec::new();
    if !is_gone {
        if let Some(lease) = record.lease {
            more.push(other_keys(ui, lease, record.key.clone()));
        }
        more.push(raw_value(ui, record.key.clone()));
        let record = Arc::clone(record);
        let ask = move |_| ui.dialog.set(Some(Arc::clone(&record)));
        let button = view! {
            <p class="acts">
                <button type="button" class="danger" on:click=ask>
                    {words::DEREGISTER}
                </button>
            </p>
        };
        more.push(button.into_any());
    }
    (view! { <dl>{facts}</dl> }.into_any(), more).into_any()
}

fn odd(what: &str) -> AnyView {
    view! { <span class="why">{what.to_owned()}</span> }.into_any()
}

/// The value byte for byte, as etcd has it now.
fn raw_value(ui: Ui, key: String) -> AnyView {
    let value = RwSignal::new(String::new());
    spawn_local(async move {
        let shown = match ui.client().raw(&key).await {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => hex(error.as_bytes()),
            },
            Err(error) => why(&error),
        };
        value.try_set(shown);
    });
    view! {
        <h3>{words::RAW}</h3>
        <pre class="mono">{text(move || value.get())}</pre>
    }
    .into_any()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte), ' ']).collect()
}

fn other_keys(ui: Ui, lease: LeaseId, key: String) -> AnyView {
    let others = RwSignal::new(None::<Vec<String>>);
    spawn_local(async move {
        if let Ok(answer) = ui.client().lease(lease).await {
            let keys = answer.keys.unwrap_or_default();
            others.try_set(Some(keys.into_iter().filter(|other| *other != key).collect()));
        }
    });
    part(move || match others.get() {
        Some(others) if !others.is_empty() => {
            (view! { <h3>{words::OTHER_KEYS}</h3> }.into_any(), list_of_keys(others)).into_any()
        }
        _ => nothing(),
    })
    .into_any()
}

/// Some keys, and how many more there are.
pub fn list_of_keys(mut keys: Vec<String>) -> AnyView {
    let more = keys.len().saturating_sub(KEYS_MAX);
    keys.truncate(KEYS_MAX);
    if more > 0 {
        keys.push(["+ ", &words::number(more)].concat());
    }
    let keys = keys.into_iter().map(|key| view! { <li>{key}</li> }.into_any()).collect::<Vec<_>>();
    view! { <ul class="keys mono">{keys}</ul> }.into_any()
}
