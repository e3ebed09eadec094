//! Says what changed to those who do not see it: one sentence now and then.

use std::{cell::RefCell, collections::BTreeMap};

use leptos::prelude::*;

use super::element::{El, el};
use crate::{app::Ui, live::What, words};

/// How long it is silent after it has spoken, in milliseconds.
const PAUSE_MS: f64 = 5_000.0;

/// How many services one sentence names.
const SERVICES_MAX: usize = 3;

/// A place that is not seen, and read out when it changes.
pub fn announcer(ui: Ui) -> El {
    // What was said last, when, and up to which happening.
    let told = RefCell::new((String::new(), 0.0, newest(ui)));
    let sentence = move || {
        let now_ms = ui.store.now_ms.get();
        let mut told = told.borrow_mut();
        let newest = newest(ui);
        if newest > told.2 && now_ms - told.1 >= PAUSE_MS {
            *told = (since(ui, told.2), now_ms, newest);
        }
        told.0.clone()
    };
    el("p").class("hidden").attr("aria-live", "polite").attr("data-testid", "said").text_of(sentence)
}

fn newest(ui: Ui) -> u64 {
    ui.store.read(|live| live.feed().next().map_or(0, |happening| happening.number))
}

/// What happened after that happening, counted by service.
fn since(ui: Ui, number: u64) -> String {
    let mut counts = BTreeMap::<String, [usize; 3]>::new();
    ui.store.read(|live| {
        for happening in live.feed().take_while(|happening| happening.number > number) {
            let (service, [left, came, changed]) = counted(&happening.what);
            let sum = counts.entry(service.unwrap_or_default().to_owned()).or_default();
            *sum = [sum[0] + left, sum[1] + came, sum[2] + changed];
        }
    });
    let sentences: Vec<String> = counts
        .iter()
        .take(SERVICES_MAX)
        .map(|(service, counts)| {
            words::SAID.with(&[if service.is_empty() { words::SERVICES.text() } else { service }, &summed(*counts)])
        })
        .collect();
    sentences.join(". ")
}

/// Which service something happened to, and how many instances of it left, came and changed.
pub fn counted(what: &What) -> (Option<&str>, [usize; 3]) {
    let service = what.record().map(|record| record.service.as_str());
    match what {
        What::Vanished { .. } => (service, [1, 0, 0]),
        What::Changed { .. } => (service, [0, 0, 1]),
        What::Burst { appeared, vanished, changed, service, .. } => {
            (service.as_deref(), [*vanished, *appeared, *changed])
        }
        What::Snapshot(_) => (None, [0, 0, 0]),
        What::Appeared(_) | What::Returned { .. } => (service, [0, 1, 0]),
    }
}

/// `2 left, 1 appeared`.
pub fn summed(counts: [usize; 3]) -> String {
    let parts: Vec<String> = [words::SAID_LEFT, words::SAID_CAME, words::SAID_CHANGED]
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| what.with(&[&words::number(count)]))
        .collect();
    parts.join(words::LIST_COMMA.text())
}
