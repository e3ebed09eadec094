//! The palette: every place and every act, found by a few letters. And the list of the keys.

use std::sync::Arc;

use leptos::prelude::*;
use rollcall_shared::Record;
use wasm_bindgen::JsCast;
use web_sys::{Event, KeyboardEvent};

use super::{
    dialog::{Ask, close, frame, title},
    element::{El, button, el, said},
    row::short_id,
};
use crate::{
    acts,
    aftermath::{self, Act},
    app::Ui,
    keys::{self, KEYS},
    palette::score,
    route::Address,
    words::{self, Word},
};

/// How many answers are shown.
const SHOWN_MAX: usize = 12;

/// How many instances are among them; they are looked for from so many letters on.
const INSTANCES_MAX: usize = 6;
const INSTANCE_LETTERS_MIN: usize = 2;

/// What an answer does.
#[derive(Clone)]
enum Deed {
    Go(Address),
    Search(&'static str),
    Deregister(Arc<Record>),
    Weigh(Arc<Record>),
    Edit(String),
    OfSelected(Act),
    SelectAll,
    Register,
    Undo,
    Theme,
    Rows,
    Language,
    Keys,
}

#[derive(Clone)]
struct Answer {
    name: String,
    kind: String,
    deed: Deed,
}

/// What is typed, and what answers that.
#[derive(Clone)]
struct State {
    answers: Vec<Answer>,
    at: usize,
    found: Found,
}

/// All instances whose ids hold what was typed, and that, where they are so few that all are known: who types on looks
/// only among them.
type Found = Option<(String, Vec<Arc<Record>>)>;

fn answers(ui: Ui, typed: &str, before: &Found) -> State {
    let mut all = None;
    let mut found: Vec<(i32, Answer)> = Vec::new();
    let mut offer = |bonus: i32, name: String, kind: String, deed: Deed| {
        if let Some(score) = score(&name, typed) {
            found.push((score + bonus, Answer { name, kind, deed }));
        }
    };
    let act = || words::ACT_KIND.text().to_owned();
    if let Some(record) = keys::current(ui) {
        let this = |word: Word| word.with(&[short_id(&record)]);
        offer(3, this(words::THIS_DEREGISTER), act(), Deed::Deregister(Arc::clone(&record)));
        if record.instance().is_some() {
            offer(3, this(words::THIS_EDIT), act(), Deed::Edit(record.key.clone()));
            if aftermath::can_drain(record.layout) {
                let is_drained = aftermath::is_drained(&record);
                let name = if is_drained { words::THIS_UNDRAIN } else { words::THIS_DRAIN };
                offer(3, this(name), act(), Deed::Weigh(Arc::clone(&record)));
            }
        }
    }
    let selected = ui.selected.with_untracked(std::collections::BTreeSet::len);
    if selected > 0 {
        let these = |word: Word| word.with(&[&words::instances(selected)]);
        offer(2, these(words::THIS_DEREGISTER), act(), Deed::OfSelected(Act::Delete));
        offer(2, these(words::THIS_DRAIN), act(), Deed::OfSelected(Act::Drain));
        offer(2, these(words::THIS_UNDRAIN), act(), Deed::OfSelected(Act::Undrain));
    }
    let plain = |word: Word| word.text().to_owned();
    offer(1, plain(words::OVERVIEW), plain(words::PLACE_KIND), Deed::Go(Address::default()));
    offer(1, plain(words::REGISTER_TITLE), act(), Deed::Register);
    if ui.toasts.with_untracked(|toasts| toasts.iter().any(|toast| toast.undo.is_some())) {
        offer(2, plain(words::UNDO), act(), Deed::Undo);
    }
    offer(0, plain(words::SHOW_LATE), act(), Deed::Search("state:late"));
    offer(0, plain(words::SHOW_MALFORMED), act(), Deed::Search("state:malformed"));
    if ui.address.with_untracked(|address| !address.search.is_empty()) {
        offer(1, plain(words::CLEAR_SEARCH), act(), Deed::Search(""));
    }
    if ui.store.with_rows(|rows| !rows.is_empty()) {
        offer(0, plain(words::SELECT_SHOWN), act(), Deed::SelectAll);
    }
    offer(0, plain(words::THEME), act(), Deed::Theme);
    offer(0, plain(words::ROWS), act(), Deed::Rows);
    offer(0, [words::LANGUAGE.text(), " · language · 语言"].concat(), act(), Deed::Language);
    offer(0, plain(words::KEYS_TITLE), act(), Deed::Keys);
    ui.store.read(|live| {
        for (name, records) in live.catalog().services() {
            let kind = words::PLACE_SERVICE.with(&[&words::instances(records.len())]);
            offer(if typed.is_empty() { -1 } else { 4 }, name.to_owned(), kind, Deed::Go(Address::service(name)));
        }
        if typed.len() >= INSTANCE_LETTERS_MIN {
            let is_meant = |record: &&Arc<Record>| holds(short_id(record), typed);
            let named: Vec<Arc<Record>> = match before {
                Some((before, found)) if typed.contains(&**before) => found.iter().filter(is_meant).cloned().collect(),
                _ => live.catalog().records().filter(is_meant).take(INSTANCES_MAX).cloned().collect(),
            };
            for record in &named {
                let address = Address { key: Some(record.key.clone()), ..Address::service(&record.service) };
                let kind = words::PLACE_INSTANCE.with(&[&record.service]);
                offer(0, short_id(record).to_owned(), kind, Deed::Go(address));
            }
            all = (named.len() < INSTANCES_MAX).then(|| (typed.to_owned(), named));
        }
    });
    // Stable: what is equally good stays in this order.
    found.sort_by_key(|(score, _)| -score);
    found.truncate(SHOWN_MAX);
    State { answers: found.into_iter().map(|(_, answer)| answer).collect(), at: 0, found: all }
}

fn holds(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

fn run(ui: Ui, deed: Deed) {
    close(ui);
    match deed {
        Deed::Go(address) => ui.go(address),
        Deed::Search(text) => ui.search_for(text.to_owned()),
        Deed::Deregister(record) => ui.deregister(record),
        Deed::Weigh(record) => acts::weigh(ui, record),
        Deed::Edit(key) => ui.edit(key),
        Deed::OfSelected(act) => ui.act_on_selected(act),
        Deed::SelectAll => ui.select_all(),
        Deed::Register => ui.form.set(true),
        Deed::Undo => acts::undo_newest(ui),
        Deed::Theme => Ui::switch_theme(),
        Deed::Rows => ui.switch_rows(),
        Deed::Language => ui.switch_language(),
        Deed::Keys => ui.dialog.set(Some(Ask::Keys)),
    }
}

/// The palette.
pub fn palette(ui: Ui) -> El {
    let state = RwSignal::new(answers(ui, "", &None));
    let choose = move |at: usize| {
        if let Some(answer) = state.with_untracked(|state| state.answers.get(at).cloned()) {
            run(ui, answer.deed);
        }
    };
    let input = move |event: Event| {
        let typed = event_target_value(&event).trim().to_ascii_lowercase();
        state.update(|state| *state = answers(ui, &typed, &state.found));
    };
    let press = move |event: Event| {
        // While a word is being composed, keys belong to whoever composes it.
        let pressed = event.dyn_ref::<KeyboardEvent>().filter(|pressed| !pressed.is_composing());
        let Some(key) = pressed.map(KeyboardEvent::key) else { return };
        let (at, count) = state.with_untracked(|state| (state.at, state.answers.len()));
        let next = match key.as_str() {
            "ArrowDown" if count > 0 => (at + 1) % count,
            "ArrowUp" if count > 0 => (at + count - 1) % count,
            "Home" => 0,
            "End" => count.saturating_sub(1),
            "Enter" => {
                event.prevent_default();
                return choose(at);
            }
            _ => return,
        };
        event.prevent_default();
        state.update(|state| state.at = next);
        request_animation_frame(|| {
            if let Ok(Some(at)) = document().query_selector("#palette-list [aria-selected=true]") {
                at.scroll_into_view_with_bool(false);
            }
        });
    };
    let at = move || Some(state.with(|state| option_id(state.at)));
    let field = el("input")
        .attr("type", "text")
        .attr("name", "palette")
        .attr("role", "combobox")
        .attr("aria-label", words::PALETTE.text())
        .attr("aria-autocomplete", "list")
        .attr("aria-expanded", "true")
        .attr("aria-controls", "palette-list")
        .attr("placeholder", words::PALETTE_HINT.text())
        .attr("autocomplete", "off")
        .attr("spellcheck", "false")
        .attr_of("aria-activedescendant", at)
        .on("input", input)
        .on("keydown", press);
    let options = move || {
        let state = state.get();
        let drawn = state.answers.iter().enumerate().map(|(index, answer)| {
            el("li")
                .attr("role", "option")
                .attr("id", &option_id(index))
                .attr("aria-selected", if index == state.at { "true" } else { "false" })
                .on("click", move |_| choose(index))
                .child(said("span", "what", &answer.name))
                .child(said("span", "quiet", &answer.kind))
        });
        drawn.collect()
    };
    let none = move || {
        let is_empty = state.with(|state| state.answers.is_empty());
        if is_empty { words::PALETTE_NONE.text().to_owned() } else { String::new() }
    };
    let list = el("ul")
        .attr("role", "listbox")
        .attr("id", "palette-list")
        .attr("aria-label", words::PALETTE.text())
        .part(options);
    let heading = title(words::PALETTE.text()).class("hidden");
    let form = el("div")
        .child(heading)
        .child(field)
        .child(list)
        .child(el("p").class("quiet").attr("role", "status").text_of(none));
    frame(ui, "palette", form, "[role=combobox]")
}

fn option_id(index: usize) -> String {
    ["palette-", &index.to_string()].concat()
}

/// The list of the keys.
pub fn keys_help(ui: Ui) -> El {
    let lines = KEYS.into_iter().flat_map(|(keys, what)| {
        let caps = keys.split(' ').map(|key| said("kbd", "", key));
        [el("dt").children(caps), said("dd", "", what.text())]
    });
    let done = button("", words::CLOSE.text(), move |_| close(ui)).attr("data-testid", "cancel");
    let form = el("div")
        .child(title(words::KEYS_TITLE.text()))
        .child(el("dl").class("keymap").children(lines))
        .child(el("footer").child(done));
    frame(ui, "", form, "[data-testid=cancel]")
}
