//! Doing something: what is sent, what is told afterwards, how it is taken back, and what comes back by itself.
//!
//! Every write of the page but a registration goes through [`send`]. Must not know: how it was asked for.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leptos::prelude::*;
use rollcall_client::{ClientError, batches};
use rollcall_shared::{
    FieldError, Record,
    api::{self, ActAnswer, ActResult, UNDO_S},
};
use wasm_bindgen_futures::spawn_local;

use crate::{
    aftermath::{self, Act},
    app::{Toast, Ui, Undo},
    browser,
    components::row::short_id,
    keys, words,
};

/// How many acts go out in one request: few enough that the answers come row by row.
pub const CHUNK_ACTS: usize = 20;

/// An instance that this page took out, and that may come back by itself.
#[derive(Debug, Clone)]
struct Taken {
    record: Arc<Record>,
    until_ms: f64,
    /// The number of the note that tells of it.
    note: u64,
}

/// Why something was not done.
#[derive(Debug, Clone)]
pub struct Refused {
    /// In words.
    pub text: String,
    /// The HTTP status; 0 where there was no answer.
    pub status: u16,
    /// What is wrong with which field.
    pub errors: Vec<FieldError>,
    /// The record as it stands now, where it changed meanwhile.
    pub now: Option<Arc<Record>>,
}

thread_local! {
    /// What this page drained, by key, as it was before that.
    static DRAINED: RefCell<BTreeMap<String, Arc<Record>>> = const { RefCell::new(BTreeMap::new()) };
    /// What this page took out within the last minute.
    static TAKEN: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
}

/// The words for an error of a write, and whether it may have been done all the same.
pub fn why(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) if problem.status < 500 => problem.detail.clone(),
        error => [error.to_string().trim_end_matches('.'), ". ", words::MAY_BE_DONE.text()].concat(),
    }
}

/// What the server is asked for. `keys` is the number of keys that the lease was shown to hold.
pub fn request(act: Act, record: &Record, keys: usize) -> api::Act {
    let before = DRAINED.with_borrow(|drained| drained.get(&record.key).cloned());
    aftermath::request(act, record, keys, before.as_deref())
}

/// Sends acts, in as many requests as it takes, and says what became of each.
pub async fn send(ui: Ui, acts: Vec<api::Act>) -> Vec<Result<ActAnswer, Refused>> {
    let refused = |error: ClientError| {
        let text = why(&error);
        let ClientError::Problem(problem) = error else {
            return Refused { text, status: 0, errors: Vec::new(), now: None };
        };
        let text = match problem.status {
            404 => words::ALREADY_GONE.text().to_owned(),
            _ => text,
        };
        Refused { text, status: problem.status, errors: problem.errors, now: problem.record }
    };
    let mut results = Vec::new();
    for acts in batches(&acts) {
        match ui.client().batch(acts).await {
            Ok(answer) => results.extend(answer.results.into_iter().map(|result| match result {
                ActResult::Done { answer, .. } => Ok(answer),
                ActResult::Refused { problem, .. } => Err(refused(ClientError::Problem(problem))),
            })),
            Err(error) => {
                let refused = refused(error);
                results.extend(acts.iter().map(|_| Err(refused.clone())));
            }
        }
    }
    results
}

/// Sends one act.
pub async fn send_one(ui: Ui, act: api::Act) -> Result<ActAnswer, Refused> {
    let nothing = Refused { text: String::new(), status: 0, errors: Vec::new(), now: None };
    send(ui, vec![act]).await.pop().unwrap_or(Err(nothing))
}

/// What takes an act back, from its answer.
pub fn token(answer: &ActAnswer) -> Option<String> {
    match answer {
        ActAnswer::Deregistered(answer) => Some(answer.undo.clone()),
        ActAnswer::Edited(answer) => answer.undo.clone(),
        ActAnswer::Revoked(_) | ActAnswer::Registered(_) => None,
    }
}

/// What a note calls an instance: ids alone are numbers, often.
pub fn name_of(record: &Record) -> String {
    [&record.service, " / ", short_id(record)].concat()
}

/// Keeps in mind what was done, for what comes after: the weight there was, and that it may come back.
pub fn note(ui: Ui, act: Act, records: &[Arc<Record>], toast: u64) {
    match act {
        Act::Drain => DRAINED.with_borrow_mut(|drained| {
            let new = records.iter().filter(|record| !aftermath::is_drained(record));
            drained.extend(new.map(|record| (record.key.clone(), Arc::clone(record))));
        }),
        Act::Undrain => DRAINED.with_borrow_mut(|drained| {
            for record in records {
                drained.remove(&record.key);
            }
        }),
        Act::Delete | Act::Revoke => {
            #[expect(clippy::cast_precision_loss, reason = "it is a minute")]
            let until_ms = browser::now_ms() + UNDO_S as f64 * 1_000.0;
            let new = records.iter().map(|record| Taken { record: Arc::clone(record), until_ms, note: toast });
            TAKEN.with_borrow_mut(|taken| taken.extend(new));
            ui.waits.set(true);
        }
    }
}

/// Tells that an act on one record was done, in the place of a note that said that it is being done.
pub fn tell_done(ui: Ui, act: Act, record: &Arc<Record>, answer: &ActAnswer, instead: u64) {
    let name = name_of(record);
    let text = match (act, answer) {
        (Act::Drain, _) => words::DRAINED.with(&[&name]),
        (Act::Undrain, _) => words::UNDRAINED.with(&[&name]),
        (_, ActAnswer::Revoked(answer)) => words::revoked(answer.deleted.len()),
        _ => words::deregistered(&name),
    };
    let puts_back = act == Act::Delete;
    let undo = token(answer).map(|token| Undo { tokens: vec![token], name, puts_back });
    let toast = ui.tell_instead(instead, text, undo);
    note(ui, act, std::slice::from_ref(record), toast);
}

/// Whether there is no other instance of its service that gets calls.
pub fn is_only_one(ui: Ui, record: &Record) -> bool {
    ui.store.read(|live| {
        let others = live.catalog().service(&record.service).into_iter().flat_map(BTreeMap::values);
        let mut others = others.filter(|other| other.key != record.key && other.instance().is_some());
        !others.any(|other| !aftermath::is_drained(other))
    })
}

/// Drains an instance, or gives it calls again, at once: it can be taken back.
pub fn weigh(ui: Ui, record: Arc<Record>) {
    let act = if aftermath::is_drained(&record) { Act::Undrain } else { Act::Drain };
    if act == Act::Drain && is_only_one(ui, &record) {
        ui.tell(words::ONLY_ONE.text().to_owned(), None);
        return;
    }
    let doing = if act == Act::Drain { words::DRAINING } else { words::UNDRAINING };
    let toast = ui.tell(doing.with(&[&name_of(&record)]), None);
    spawn_local(async move {
        match send_one(ui, request(act, &record, 0)).await {
            Ok(answer) => tell_done(ui, act, &record, &answer, toast),
            Err(refused) => {
                let changed = refused.now.map(|now| words::CHANGED_SHORT.with(&[&in_short(&record, &now)]));
                ui.tell_instead(toast, changed.unwrap_or(refused.text), None);
            }
        }
    });
}

/// What differs between two records of one key, on one line.
pub fn in_short(was: &Record, is: &Record) -> String {
    let nothing = |text: &str| if text.is_empty() { words::NOTHING_THERE.text().to_owned() } else { text.to_owned() };
    let changes = aftermath::changes(was, is).into_iter();
    let lines: Vec<String> =
        changes.map(|it| words::WAS_IS.with(&[&it.field, &nothing(&it.was), &nothing(&it.is)])).collect();
    if lines.is_empty() { words::CONFLICT_SAME.text().to_owned() } else { lines.join(words::LIST_COMMA.text()) }
}

/// Takes back what the newest note that can be taken back tells of.
pub fn undo_newest(ui: Ui) {
    let newest = ui.toasts.with_untracked(|toasts| toasts.iter().find(|toast| toast.undo.is_some()).cloned());
    if let Some(toast) = newest {
        undo(ui, toast.number);
    }
}

/// Takes back what the note of this number tells of.
pub fn undo(ui: Ui, number: u64) {
    let toast = ui.toasts.with_untracked(|toasts| toasts.iter().find(|toast| toast.number == number).cloned());
    let Some(Toast { undo: Some(undo), until_ms, .. }) = toast else { return };
    // What is put back by this page does not come back by itself.
    forget(number);
    keys::keep_focus(ui);
    let note = ui.tell_instead(number, words::PUTTING_BACK.with(&[&undo.name]), None);
    spawn_local(async move {
        let mut failed: Vec<Refused> = Vec::new();
        // What the server could not be asked may be asked once more.
        let mut left = Vec::new();
        for tokens in undo.tokens.chunks(CHUNK_ACTS) {
            let acts = tokens.iter().map(|token| api::Act::Undo { token: token.clone() }).collect();
            for (token, result) in tokens.iter().zip(send(ui, acts).await) {
                if let Err(refused) = result {
                    left.extend(is_passing(refused.status).then(|| token.clone()));
                    failed.push(refused);
                }
            }
        }
        let text = match failed.first() {
            None if undo.tokens.len() > 1 => words::BATCH_UNDONE.with(&[&undo.name]),
            None if undo.puts_back => words::put_back(&undo.name),
            None => words::UNDONE.with(&[&undo.name]),
            Some(first) if undo.tokens.len() == 1 => first.text.clone(),
            Some(first) => {
                let count = words::number(failed.len());
                let told = words::BATCH_FAILED.with(&[&count, &words::number(undo.tokens.len())]);
                [&*told, " ", &first.text].concat()
            }
        };
        let name = if left.len() == undo.tokens.len() { undo.name } else { words::instances(left.len()) };
        let again = Undo { tokens: left, name, puts_back: undo.puts_back };
        ui.tell_until(note, text, (!again.tokens.is_empty()).then_some(again), Some(until_ms));
    });
}

/// Whether an answer of this status says nothing of what another try would be answered.
fn is_passing(status: u16) -> bool {
    status == 0 || status >= 500
}

/// What a note told of is told by another one, or is not expected any more.
pub fn forget(note: u64) {
    TAKEN.with_borrow_mut(|taken| taken.retain(|taken| taken.note != note));
}

/// Says so when something that this page took out comes back, and by whose hand.
pub fn watch_for_returns(ui: Ui) {
    Effect::new(move |_| {
        if !ui.waits.get() {
            return;
        }
        ui.store.follow_anything();
        let now_ms = browser::now_ms();
        let mut back: Vec<(Taken, Arc<Record>)> = Vec::new();
        let mut rest = TAKEN.take();
        ui.store.read(|live| {
            let services: BTreeSet<&str> = rest.iter().map(|taken| &*taken.record.service).collect();
            let there =
                services.iter().filter_map(|service| live.catalog().service(service)).flat_map(BTreeMap::values);
            // Nothing came anew that is older than the oldest of what was taken out.
            let oldest = rest.iter().map(|taken| taken.record.mod_revision).min().unwrap_or_default();
            let new = aftermath::by_address(there.filter(|record| record.create_revision > oldest));
            rest.retain(|taken| {
                let there = new.get(&aftermath::address(&taken.record)).copied();
                let now = live.catalog().get(&taken.record.key).into_iter().chain(there);
                let now = now.into_iter().find(|now| aftermath::is_return(&taken.record, now));
                back.extend(now.map(|now| (taken.clone(), Arc::clone(now))));
                now.is_none() && taken.until_ms > now_ms
            });
        });
        let is_over = rest.is_empty();
        TAKEN.set(rest);
        if is_over {
            ui.waits.set(false);
        }
        let text = match &*back {
            [] => return,
            [(taken, now)] => aftermath::returned(&taken.record, now).with(&[&name_of(&taken.record)]),
            several => words::BACK_MANY.with(&[&words::instances(several.len())]),
        };
        // What is back under its key cannot be put back: its note says so instead of offering it.
        let only = back.iter().all(|(taken, now)| taken.note == back[0].0.note && taken.record.key == now.key);
        let others = TAKEN.with_borrow(|rest| rest.iter().any(|taken| taken.note == back[0].0.note));
        ui.tell_instead(if only && !others { back[0].0.note } else { 0 }, text, None);
    });
}
