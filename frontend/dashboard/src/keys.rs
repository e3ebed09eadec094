//! The keyboard: what each key does, which row it is at, and that the focus is never lost.

use std::{cell::Cell, sync::Arc};

use leptos::prelude::*;
use rollcall_shared::Record;
use wasm_bindgen::JsCast;
use web_sys::{Element, Event, HtmlElement, KeyboardEvent};

use crate::{acts, aftermath::Act, app::Ui, browser, components::dialog::Ask, route::Address};

/// The keys there are, with what they do.
pub const KEYS: [(&str, crate::words::Word); 12] = {
    use crate::words::{
        KEY_BACK, KEY_DEREGISTER, KEY_EDIT, KEY_HELP, KEY_MOVE, KEY_OPEN, KEY_PALETTE, KEY_REGISTER, KEY_SEARCH,
        KEY_SELECT, KEY_THEME, KEY_UNDO,
    };
    [
        ("/", KEY_SEARCH),
        ("j k ↓ ↑", KEY_MOVE),
        ("Enter", KEY_OPEN),
        ("Esc", KEY_BACK),
        ("d", KEY_DEREGISTER),
        ("e", KEY_EDIT),
        ("x", KEY_SELECT),
        ("z", KEY_UNDO),
        ("r", KEY_REGISTER),
        ("t", KEY_THEME),
        ("Ctrl K :", KEY_PALETTE),
        ("?", KEY_HELP),
    ]
};

/// The row that the keyboard is at.
const ROW: &str = "tr[data-at]";

thread_local! {
    /// Where in the table that row was last: where it is gone, the next one stands there.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// A key was pressed somewhere on the page.
pub fn press(ui: Ui, event: &Event) {
    // While a word is being composed, keys belong to whoever composes it.
    let pressed = event.dyn_ref::<KeyboardEvent>().filter(|pressed| !pressed.is_composing());
    let Some(pressed) = pressed else { return };
    let key = pressed.key();
    let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
    let is = |selector: &str| target.as_ref().is_some_and(|target| target.matches(selector).unwrap_or(false));
    let within = |selector: &str| target.as_ref().is_some_and(|it| it.closest(selector).ok().flatten().is_some());
    if ui.dialog.with_untracked(Option::is_some) {
        return;
    }
    let with_control = pressed.ctrl_key() || pressed.meta_key();
    if with_control && key.eq_ignore_ascii_case("k") {
        event.prevent_default();
        ui.dialog.set(Some(Ask::Palette));
        return;
    }
    if with_control || pressed.alt_key() {
        return;
    }
    let typing = is("input, textarea, select");
    match key.as_str() {
        "Escape" if is("[type=search]") => {
            ui.search_for(String::new());
            keep_focus_at_row(ui);
        }
        "ArrowDown" | "Enter" if is("[type=search]") => step(ui, 0),
        "Escape" => back(ui),
        _ if typing => return,
        "/" => browser::focus("input[type=search]"),
        "t" => Ui::switch_theme(),
        "r" => ui.form.set(true),
        "z" => acts::undo_newest(ui),
        ":" => ui.dialog.set(Some(Ask::Palette)),
        "?" => ui.dialog.set(Some(Ask::Keys)),
        "j" => step(ui, 1),
        "k" => step(ui, -1),
        // In a list of links of its own, or a sheet that scrolls, arrows do what they do everywhere.
        "ArrowDown" if !within("nav, .sheet, .activity") => step(ui, 1),
        "ArrowUp" if !within("nav, .sheet, .activity") => step(ui, -1),
        "Enter" if !is("a, button") => {
            let Some(key) = ui.at.get_untracked() else { return };
            ui.go(ui.details_of(&key));
        }
        "x" => {
            let Some(key) = ui.at.get_untracked() else { return };
            ui.toggle(&key, false);
        }
        "d" if !ui.selected_records().is_empty() => ui.act_on_selected(Act::Delete),
        "d" => {
            let Some(record) = current(ui) else { return };
            ui.deregister(record);
        }
        "e" => {
            let Some(record) = current(ui).filter(|record| record.instance().is_some()) else { return };
            ui.edit(record.key.clone());
        }
        _ => return,
    }
    event.prevent_default();
}

/// One step back: the sheet closes, then the selection is cleared, then the search.
fn back(ui: Ui) {
    if ui.close_sheet() {
    } else if ui.selected.with_untracked(|selected| !selected.is_empty()) {
        ui.selected.update(std::collections::BTreeSet::clear);
    } else if ui.address.with_untracked(|address| !address.search.is_empty()) {
        ui.search_for(String::new());
    }
}

/// What keys act on: what the sheet shows, else the row that the keyboard is at.
pub fn current(ui: Ui) -> Option<Arc<Record>> {
    let key = ui.address.with_untracked(|address| address.key.clone()).or(ui.at.get_untracked());
    key.and_then(|key| ui.store.read(|live| live.catalog().get(&key).cloned()))
}

/// Moves the keyboard's row among all that the table has, drawn or not; from nowhere it comes to the first.
fn step(ui: Ui, by: isize) {
    let at = ui.at.get_untracked();
    let next = ui.store.with_rows(|rows| {
        let here = at.and_then(|at| place_of(rows, &at));
        let next = here.map_or(0, |here| here.saturating_add_signed(by).min(rows.len().saturating_sub(1)));
        rows.get(next).map(|row| (next, row.key.clone()))
    });
    if let Some((next, key)) = next {
        PLACE.set(next);
        reveal(next);
        if !focus_link(&key) {
            // Rows that come into sight are drawn with the next frame.
            request_animation_frame(move || request_animation_frame(|| focus_row("")));
        }
        ui.at.set(Some(key));
    }
}

fn place_of(rows: &[Arc<Record>], key: &str) -> Option<usize> {
    let is_it = |place: &usize| rows.get(*place).is_some_and(|row| row.key == key);
    let place = PLACE.get();
    // Mostly it is where it was.
    Some(place).filter(is_it).or_else(|| rows.iter().position(|row| row.key == key))
}

/// Scrolls the table so that the row at this place is in sight.
fn reveal(place: usize) {
    let find = |selector: &str| document().query_selector(selector).ok().flatten();
    let (Some(table), Some(row)) = (find(".table"), find("[data-testid=instance]")) else { return };
    let height = |node: &Element| node.get_bounding_client_rect().height();
    let head = find(".table thead").map_or(0.0, |head| height(&head));
    #[expect(clippy::cast_precision_loss, reason = "no table has 2^52 rows")]
    let top = place as f64 * height(&row);
    let (seen_from, seen) = (f64::from(table.scroll_top()), height(&table) - head);
    let to = if top < seen_from {
        top
    } else if top + height(&row) > seen_from + seen {
        top + height(&row) - seen
    } else {
        return;
    };
    #[expect(clippy::cast_possible_truncation, reason = "a length that the browser can scroll")]
    table.set_scroll_top(to.ceil() as i32);
}

/// Puts the focus on the row of a key, where that is drawn.
fn focus_link(key: &str) -> bool {
    let quoted = key.replace('\\', "\\\\").replace('"', "\\\"");
    let selector = ["[data-testid=instance][data-key=\"", &quoted, "\"] a[href]"].concat();
    let link = document().query_selector(&selector).ok().flatten();
    let link = link.and_then(|link| link.dyn_into::<HtmlElement>().ok());
    link.is_some_and(|link| link.focus().is_ok())
}

/// Puts the focus on the keyboard's row, or on the middle of the page where it is at none.
fn focus_row(instead: &str) {
    if document().query_selector(ROW).ok().flatten().is_some() {
        let link = document().query_selector("tr[data-at] a[href]").ok().flatten();
        if let Some(link) = link.and_then(|link| link.dyn_into::<HtmlElement>().ok()) {
            let _ = link.focus();
        }
    } else if !instead.is_empty() {
        browser::focus(instead);
    }
}

fn is_focus_lost() -> bool {
    document().active_element().is_none_or(|element| element.tag_name() == "BODY")
}

/// Where what had the focus has gone, the keyboard's row gets it, or the middle of the page, so that keys and screen
/// readers go on from there.
pub fn keep_focus(_: Ui) {
    request_animation_frame(|| {
        if is_focus_lost() {
            focus_row("#main");
        }
    });
}

/// The same, where what has the focus now is about to go. Where nothing has it, nothing gets it.
pub fn hold_focus(ui: Ui) {
    if !is_focus_lost() {
        keep_focus(ui);
    }
}

fn keep_focus_at_row(ui: Ui) {
    if let Some(active) = document().active_element().and_then(|active| active.dyn_into::<HtmlElement>().ok()) {
        let _ = active.blur();
    }
    keep_focus(ui);
}

/// When the keyboard's row leaves the table, the one that takes its place is next.
pub fn keep_place(ui: Ui) {
    Effect::new(move |before: Option<Address>| {
        let count = ui.store.row_count();
        let here = Address { key: None, ..ui.address.get_untracked() };
        let Some(at) = ui.at.get_untracked() else { return here };
        let is_same_table = before.is_none_or(|before| before == here);
        let next = ui.store.with_rows(|rows| {
            if let Some(place) = place_of(rows, &at) {
                PLACE.set(place);
                return Some(at);
            }
            let next = rows.get(PLACE.get().min(count.saturating_sub(1))).filter(|_| is_same_table);
            next.map(|row| row.key.clone())
        });
        if ui.at.with_untracked(|at| *at != next) {
            ui.at.set(next);
            keep_focus(ui);
        }
        here
    });
}
