//! The sheet at the side: an instance's details, or the register form.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, LeaseId, Revision};
use wasm_bindgen_futures::spawn_local;

use super::{
    activity::Feed,
    form::RegisterForm,
    row::{CopyAddress, short_id},
};
use crate::{
    app::{Ui, why},
    live::Row,
    search::RowState,
    words,
};

/// How many of a lease's keys are listed.
pub const KEYS_MAX: usize = 12;

/// The sheet, where something is open.
#[component]
pub fn Sheet() -> impl IntoView {
    let ui = Ui::get();
    let key = Memo::new(move |_| ui.address.with(|address| address.key.clone()));
    move || {
        if ui.form.get() {
            view! { <RegisterForm /> }.into_any()
        } else if let Some(key) = key.get() {
            view! { <Details key_name=key /> }.into_any()
        } else {
            ().into_any()
        }
    }
}

/// Everything about one key.
#[component]
fn Details(key_name: String) -> impl IntoView {
    let ui = Ui::get();
    let row = ui.store.row(&key_name);
    let here = key_name.clone();
    let history = ui.store.feed(20, move |happening| happening.what.record().is_some_and(|record| record.key == here));
    let has_history = Memo::new(move |_| history.with(|history| !history.is_empty()));
    let title = key_name.clone();
    let heading =
        move || row.with(|row| row.as_ref().map_or_else(|| title.clone(), |row| short_id(&row.record).to_owned()));
    view! {
        <section class="sheet" aria-label=words::DETAILS>
            <header>
                <h2 class="mono">{heading}</h2>
                <button type="button" class="close" aria-label=words::CLOSE on:click=move |_| ui.close_sheet()>
                    "×"
                </button>
            </header>
            {move || match row.get() {
                Some(row) => view! { <Facts row /> }.into_any(),
                None if ui.store.ready.get() => view! { <p class="quiet">{words::NO_SUCH_KEY}</p> }.into_any(),
                None => view! { <p class="quiet">{words::WAITING}</p> }.into_any(),
            }}
            <Show when=move || has_history.get()>
                <h3>{words::HISTORY}</h3>
                <Feed feed=history />
            </Show>
        </section>
    }
}

#[component]
fn Facts(row: Row) -> impl IntoView {
    let ui = Ui::get();
    let record = Arc::clone(&row.record);
    let is_gone = row.state == RowState::Gone;
    let fact = |name: &'static str, value: String| {
        view! {
            <dt>{name}</dt>
            <dd class="mono">{value}</dd>
        }
    };
    let revisions = [
        &*words::CREATED.to_owned(),
        " ",
        &record.create_revision.to_string(),
        ", ",
        words::LAST_CHANGED,
        " ",
        &record.mod_revision.to_string(),
    ]
    .concat();
    let decoded = match &record.decoded {
        Decoded::Malformed { why, .. } => view! {
            <dt>{words::MALFORMED}</dt>
            <dd class="why">{why.clone()}</dd>
        }
        .into_any(),
        Decoded::Instance(instance) => {
            let endpoints = instance.endpoints.iter().map(|endpoint| {
                view! { <CopyAddress scheme=None address=endpoint.clone() text=endpoint.clone() /> }
            });
            let pairs = instance.metadata.iter().map(|(name, value)| {
                view! {
                    <div class="mono">
                        <i>{name.clone()}</i>
                        " = "
                        {value.clone()}
                    </div>
                }
            });
            view! {
                {fact(words::ID, instance.id.clone())}
                {(!instance.version.is_empty()).then(|| fact(words::VERSION, instance.version.clone()))}
                <dt>{words::ENDPOINTS}</dt>
                <dd>{endpoints.collect_view()}</dd>
                {(!instance.metadata.is_empty())
                    .then(|| {
                        view! {
                            <dt>{words::METADATA}</dt>
                            <dd>{pairs.collect_view()}</dd>
                        }
                    })}
            }
            .into_any()
        }
    };
    let warning = record.warning.clone().map(|warning| {
        view! {
            <dt>{words::WARNING}</dt>
            <dd class="why">{warning}</dd>
        }
    });
    let cause = is_gone.then(|| {
        let text = row
            .why
            .as_ref()
            .map_or_else(|| words::JUST_GONE.to_owned(), |why| [why.cause.as_str(), ": ", &why.evidence].concat());
        view! {
            <dt>{words::CAUSE}</dt>
            <dd>{text}</dd>
        }
    });
    let lease = record.lease.map_or_else(|| words::NO_LEASE.to_owned(), |lease| lease.to_string());
    let act = Arc::clone(&record);
    let button = (!is_gone).then(|| {
        view! {
            <p class="acts">
                <button type="button" class="danger" on:click=move |_| ui.dialog.set(Some(Arc::clone(&act)))>
                    {words::DEREGISTER}
                </button>
            </p>
        }
    });
    let (key, revision, lease_id) = (record.key.clone(), record.mod_revision, record.lease);
    view! {
        <dl>
            {cause} {fact(words::SERVICE, record.service.clone())} {decoded} {warning} {fact(words::KEY, record.key.clone())}
            {fact(words::LAYOUT, words::layout(record.layout).to_owned())} {fact(words::SOURCE, record.source.clone())}
            {fact(words::LEASE, lease)} {fact(words::REVISIONS, revisions)}
        </dl>
        {(!is_gone)
            .then(|| {
                view! {
                    {lease_id.map(|lease| view! { <OtherKeys lease key_name=key.clone() /> })}
                    <RawValue key_name=key revision />
                }
            })}
        {button}
    }
}

/// The value byte for byte, as etcd has it now.
#[component]
fn RawValue(key_name: String, revision: Revision) -> impl IntoView {
    let ui = Ui::get();
    let text = RwSignal::new(String::new());
    spawn_local(async move {
        let shown = match ui.client().raw(&key_name).await {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => hex(error.as_bytes()),
            },
            Err(error) => why(&error),
        };
        text.try_set(shown);
    });
    view! {
        <h3 data-revision=revision>{words::RAW}</h3>
        <pre class="mono">{text}</pre>
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte), ' ']).collect()
}

#[component]
fn OtherKeys(lease: LeaseId, key_name: String) -> impl IntoView {
    let ui = Ui::get();
    let others = RwSignal::new(Vec::<String>::new());
    spawn_local(async move {
        if let Ok(answer) = ui.client().lease(lease).await {
            let keys = answer.keys.unwrap_or_default();
            others.try_set(keys.into_iter().filter(|key| *key != key_name).collect());
        }
    });
    move || {
        let others = others.get();
        (!others.is_empty()).then(|| {
            view! {
                <h3>{words::OTHER_KEYS}</h3>
                <Keys keys=others />
            }
        })
    }
}

/// Some keys, and how many more there are.
#[component]
pub fn Keys(keys: Vec<String>) -> impl IntoView {
    let more = keys.len().saturating_sub(KEYS_MAX);
    view! {
        <ul class="keys mono">
            {keys.into_iter().take(KEYS_MAX).map(|key| view! { <li>{key}</li> }).collect_view()}
            {(more > 0).then(|| view! { <li>"+ " {words::number(more)}</li> })}
        </ul>
    }
}
