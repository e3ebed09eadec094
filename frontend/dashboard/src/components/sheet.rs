//! The sheet at the side: an instance's details, or a form.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::{Decoded, LeaseId, Record};
use wasm_bindgen_futures::spawn_local;

use super::{
    activity::feed,
    element::{El, button, el, said},
    later::{self, Later},
    row::{copy_address, short_id},
};
use crate::{acts, aftermath, app::Ui, live::Row, search::RowState, words};

/// How many happenings of an instance are shown.
const HISTORY_MAX: usize = 20;

/// How many of a lease's keys are listed.
pub const KEYS_MAX: usize = 12;

/// The sheet, where something is open.
pub fn sheet(ui: Ui) -> El {
    let key = Memo::new(move |_| ui.address.with(|address| address.key.clone()));
    el("div").part(move || {
        if ui.form.get() {
            return later::draw(ui, Later::Form).into_iter().collect();
        }
        let Some(key) = key.get() else { return Vec::new() };
        // Another place may have been gone to meanwhile.
        let is_edited = ui.editing.with(|editing| editing.as_ref() == Some(&key));
        let what = if is_edited { Later::Edit(key) } else { Later::Details(key) };
        later::draw(ui, what).into_iter().collect()
    })
}

/// A sheet with its heading and the button that closes it.
pub fn framed(ui: Ui, label: &str, heading: El) -> El {
    let close = button("close", "×", move |_| _ = ui.close_sheet()).attr("aria-label", words::CLOSE.text());
    el("section").class("sheet").attr("aria-label", label).child(el("header").child(heading).child(close))
}

/// Everything about one key.
pub fn details(ui: Ui, key: &str) -> El {
    let row = ui.store.row(key);
    // A renewal is no reason to draw the facts anew, nor is its being late.
    let drawn = Memo::new(move |_| {
        row.get().map(|row| {
            let state = if row.state == RowState::Gone { RowState::Gone } else { RowState::Live };
            Row { clock: None, fresh: false, state, ..row }
        })
    });
    let happened = ui.store.feed(HISTORY_MAX, Some(key.to_owned()));
    let title = key.to_owned();
    let heading =
        move || drawn.with(|row| row.as_ref().map_or_else(|| title.clone(), |row| short_id(&row.record).to_owned()));
    let what = move || match drawn.get() {
        Some(row) => facts(ui, &row),
        None => vec![said(
            "p",
            "quiet",
            if ui.store.ready.get() { words::NO_SUCH_KEY.text() } else { words::WAITING.text() },
        )],
    };
    let history = move || {
        let is_empty = happened.with(Vec::is_empty);
        if is_empty { Vec::new() } else { vec![said("h3", "", words::HISTORY.text())] }
    };
    framed(ui, words::DETAILS.text(), el("h2").class("mono").text_of(heading))
        .child(el("div").class("facts").part(what))
        .part(history)
        .child(feed(ui, happened))
}

fn facts(ui: Ui, row: &Row) -> Vec<El> {
    let record = &row.record;
    let is_gone = row.state == RowState::Gone;
    let mut list = el("dl");
    let mut fact = |name: &str, value: El| {
        let so_far = std::mem::replace(&mut list, el("dl"));
        list = so_far.child(said("dt", "", name)).child(value);
    };
    let plain = |text: &str| said("dd", "mono", text);
    if is_gone {
        let why = row.why.as_ref().map(|why| [why.cause.as_str(), ": ", &why.evidence].concat());
        fact(words::CAUSE.text(), said("dd", "", why.as_deref().unwrap_or(words::JUST_GONE.text())));
    }
    fact(words::SERVICE.text(), plain(&record.service));
    match &record.decoded {
        Decoded::Malformed { why, .. } => fact(words::MALFORMED.text(), said("dd", "why", why)),
        Decoded::Instance(instance) => {
            fact(words::ID.text(), plain(&instance.id));
            if !instance.version.is_empty() {
                fact(words::VERSION.text(), plain(&instance.version));
            }
            let endpoints = instance.endpoints.iter().map(|endpoint| copy_address(ui, None, endpoint, endpoint));
            fact(words::ENDPOINTS.text(), el("dd").children(endpoints));
            if !instance.metadata.is_empty() {
                let pairs = instance.metadata.iter();
                let pairs = pairs.map(|(name, value)| el("div").child(said("i", "", name)).text(" = ").text(value));
                fact(words::METADATA.text(), plain("").children(pairs));
            }
        }
    }
    if let Some(warning) = &record.warning {
        fact(words::WARNING.text(), said("dd", "why", warning));
    }
    fact(words::KEY.text(), plain(&record.key));
    fact(words::LAYOUT.text(), plain(words::layout(record.layout)));
    fact(words::SOURCE.text(), plain(&record.source));
    match record.lease {
        Some(lease) => fact(words::LEASE.text(), plain(&lease.to_string())),
        None => fact(words::LEASE.text(), said("dd", "", words::NO_LEASE.text())),
    }
    let (created, changed) = (record.create_revision.to_string(), record.mod_revision.to_string());
    let revisions =
        [words::CREATED.text(), " ", &created, words::LIST_COMMA.text(), words::LAST_CHANGED.text(), " ", &changed]
            .concat();
    fact(words::REVISIONS.text(), plain(&revisions));
    let mut parts = Vec::new();
    if !is_gone {
        parts.push(what_to_do(ui, record));
    }
    parts.push(list);
    if !is_gone {
        parts.extend(record.lease.map(|lease| other_keys(ui, lease, record.key.clone())));
        parts.push(said("h3", "", words::RAW.text()));
        parts.push(raw_value(ui, record.key.clone()));
    }
    parts
}

/// What one may do with it.
fn what_to_do(ui: Ui, record: &Arc<Record>) -> El {
    let (asked, weighed, key) = (Arc::clone(record), Arc::clone(record), record.key.clone());
    let is_drained = aftermath::is_drained(record);
    let edits = record.instance().is_some();
    let drain = (edits && aftermath::can_drain(record.layout)).then(|| {
        let (name, id) = if is_drained { (words::UNDRAIN, "undrain") } else { (words::DRAIN, "drain") };
        button("", name.text(), move |_| acts::weigh(ui, Arc::clone(&weighed))).attr("data-testid", id)
    });
    let edit = edits.then(|| button("", words::EDIT.text(), move |_| ui.edit(key.clone())).attr("data-testid", "edit"));
    let drained = is_drained.then(|| said("span", "quiet", words::IS_DRAINED.text()));
    el("div")
        .class("acts")
        .children(edit)
        .children(drain)
        .child(button("danger", words::DEREGISTER.text(), move |_| ui.deregister(Arc::clone(&asked))))
        .children(drained)
}

/// The value byte for byte, as etcd has it now.
fn raw_value(ui: Ui, key: String) -> El {
    let value = RwSignal::new(String::new());
    spawn_local(async move {
        let shown = match ui.client().raw(&key).await {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => hex(error.as_bytes()),
            },
            Err(error) => error.to_string(),
        };
        value.try_set(shown);
    });
    el("pre").class("mono").text_of(move || value.get())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte), ' ']).collect()
}

fn other_keys(ui: Ui, lease: LeaseId, key: String) -> El {
    let others = RwSignal::new(Vec::<String>::new());
    spawn_local(async move {
        if let Ok(answer) = ui.client().lease(lease).await {
            let keys = answer.keys.unwrap_or_default();
            others.try_set(keys.into_iter().filter(|other| *other != key).collect());
        }
    });
    el("div").part(move || {
        let others = others.get();
        if others.is_empty() {
            Vec::new()
        } else {
            vec![said("h3", "", words::OTHER_KEYS.text()), list_of_keys(&others)]
        }
    })
}

/// Some keys, and how many more there are.
pub fn list_of_keys(keys: &[String]) -> El {
    let more = keys.len().saturating_sub(KEYS_MAX);
    let more = (more > 0).then(|| said("li", "", &["+ ", &words::number(more)].concat()));
    el("ul").class("keys mono").children(keys.iter().take(KEYS_MAX).map(|key| said("li", "", key))).children(more)
}
