//! What nobody needs before the first row: a part of the program in a file of its own, which comes later.
//!
//! Built with the feature `split`, as `cargo xtask` does, [`draw_now`] and all that nothing else calls are taken out of
//! the page's first file (see `xtask/src/split.rs`); both files work in one memory, and what is called across is found by
//! its address. Built without, all of it is one file. Must not know: when what is drawn here is wanted.

#![expect(clippy::unnecessary_wraps, reason = "that it may fail to come is for the attribute to say")]

use std::{cell::RefCell, time::Duration};

use leptos::{prelude::*, wasm_split::SplitLoaderError};
use wasm_bindgen_futures::spawn_local;
use web_sys::Event;

use super::{
    activity::activity,
    announcer::announcer,
    batch::selection_bar,
    dialog::{Ask, asked},
    edit::edit_form,
    element::{El, el},
    empty::first_steps,
    folded::folded,
    form::register_form,
    sheet::details,
};
use crate::{acts, app::Ui, keys, pages::overview::glance, words};

/// How often it is looked whether the first rows stand, which until then have the line and the processor for themselves.
const QUIET: Duration = Duration::from_millis(100);

/// What is drawn by the part of the program that comes later.
#[derive(Debug)]
pub enum Later {
    /// The dialog.
    Dialog(Ask),
    /// Everything about one key.
    Details(String),
    /// The form that edits what stands under a key, or everything about it where that cannot be edited.
    Edit(String),
    /// The register form.
    Form,
    /// What stands where nothing is registered yet.
    FirstSteps,
    /// The overview, where no service is chosen and nothing is searched.
    Glance,
    /// The feed of everything.
    Activity,
    /// Those of a service, or of all, that left a while ago.
    Folded(Option<String>),
    /// What stands as long as the page does: the bar of what is selected, what is said aloud, and what watches over acts
    /// and the focus.
    Hands,
    /// Nothing: a key was pressed.
    Press(Event),
    /// Nothing: the note of this number is taken back.
    Undo(u64),
    /// Nothing: the row of this key is selected or let go of, or all from another row to it are selected.
    Pick(String, bool),
}

thread_local! {
    /// The keys that were pressed before the part that knows them stood.
    static PRESSED: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

#[cfg_attr(
    feature = "split",
    leptos::wasm_split::wasm_split(later, wasm_split_path = leptos::wasm_split, preload(load), fallible)
)]
fn draw_now(ui: Ui, what: Later) -> Result<El, SplitLoaderError> {
    Ok(match what {
        Later::Dialog(ask) => asked(ui, ask),
        Later::Details(key) => details(ui, &key),
        Later::Edit(key) => edit_form(ui, &key).unwrap_or_else(|| details(ui, &key)),
        Later::Form => register_form(ui),
        Later::FirstSteps => first_steps(ui),
        Later::Glance => glance(ui),
        Later::Activity => activity(ui),
        Later::Folded(service) => folded(ui, service),
        Later::Hands => {
            keys::keep_place(ui);
            acts::watch_for_returns(ui);
            for event in PRESSED.take() {
                keys::press(ui, &event);
            }
            el("div").child(selection_bar(ui)).child(announcer(ui))
        }
        Later::Press(event) => {
            keys::press(ui, &event);
            el("i")
        }
        Later::Undo(number) => {
            acts::undo(ui, number);
            el("i")
        }
        Later::Pick(key, range) => {
            ui.toggle(&key, range);
            el("i")
        }
    })
}

/// Draws what stands by itself as soon as it can, and is not what the part is fetched for.
pub fn when_it_stands(ui: Ui, what: Later) -> Vec<El> {
    if ui.later.get() { drawn(ui, what).into_iter().collect() } else { Vec::new() }
}

/// A key was pressed somewhere on the page.
pub fn press(ui: Ui, event: Event) {
    if ui.later.get_untracked() {
        drop(drawn(ui, Later::Press(event)));
    } else {
        PRESSED.with_borrow_mut(|pressed| pressed.push(event));
        fetch(ui, false);
    }
}

/// Selects the row of this key or lets go of it; with `range`, selects all from the row that the keyboard is at.
pub fn pick(ui: Ui, key: &str, range: bool) {
    if ui.later.get_untracked() {
        drop(drawn(ui, Later::Pick(key.to_owned(), range)));
    }
}

/// Takes back what the note of this number tells of.
pub fn undo(ui: Ui, number: u64) {
    drop(drawn(ui, Later::Undo(number)));
}

/// Draws it, or nothing while the part that can is on its way: whoever asks is drawn anew when it stands.
pub fn draw(ui: Ui, what: Later) -> Option<El> {
    if ui.later.get() {
        return drawn(ui, what);
    }
    fetch(ui, true);
    None
}

/// Fetches the part once the first rows stand, so that whoever opens something need not wait for it.
pub fn fetch_when_quiet(ui: Ui) {
    let next = move || if ui.store.ready.get_untracked() { fetch(ui, false) } else { fetch_when_quiet(ui) };
    set_timeout(next, QUIET);
}

fn fetch(ui: Ui, is_wanted: bool) {
    spawn_local(async move {
        match load().await {
            Ok(()) if ui.later.get_untracked() => {}
            Ok(()) => ui.later.set(true),
            // It is tried again when it is wanted.
            Err(_) if !is_wanted => {}
            Err(_) => {
                ui.tell(words::NOT_LOADED.text().to_owned(), None);
            }
        }
    });
}

/// The part stands, so that what waits for it is ready at once.
#[cfg(feature = "split")]
fn drawn(ui: Ui, what: Later) -> Option<El> {
    futures_util::FutureExt::now_or_never(draw_now(ui, what))?.ok()
}

#[cfg(not(feature = "split"))]
fn drawn(ui: Ui, what: Later) -> Option<El> {
    draw_now(ui, what).ok()
}

#[cfg(not(feature = "split"))]
fn load() -> std::future::Ready<Result<(), SplitLoaderError>> {
    std::future::ready(Ok(()))
}
