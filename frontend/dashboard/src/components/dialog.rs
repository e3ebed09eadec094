//! What is asked before everything else: whether an instance is meant to be taken out, and the frame of every dialog.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leptos::prelude::*;
use rollcall_shared::Record;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Event, Node};

use super::{
    batch::batch,
    element::{El, button, el, said},
    later::{self, Later},
    palette::{keys_help, palette},
    row::short_id,
    sheet::list_of_keys,
};
use crate::{
    acts::{is_only_one, request, send_one, tell_done},
    aftermath::{self, Act},
    app::Ui,
    browser, keys,
    search::RowState,
    words,
};

/// What a dialog is about.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Whether this one is to be taken out.
    Deregister(Arc<Record>),
    /// Whether this is to be done to all of these.
    Batch(Act, Vec<Arc<Record>>),
    /// Where to go, or what to do.
    Palette,
    /// Nothing: it tells what the keys do.
    Keys,
}

/// The dialog, where one is open.
pub fn dialog(ui: Ui) -> El {
    el("div").part(move || ui.dialog.get().and_then(|ask| later::draw(ui, Later::Dialog(ask))).into_iter().collect())
}

/// What a dialog shows.
pub fn asked(ui: Ui, ask: Ask) -> El {
    match ask {
        Ask::Deregister(record) => question(ui, record),
        Ask::Batch(act, records) => batch(ui, act, &records),
        Ask::Palette => palette(ui),
        Ask::Keys => keys_help(ui),
    }
}

/// Closes it; what had the focus before has it again.
pub fn close(ui: Ui) {
    browser::call("dialog", "close");
    ui.dialog.set(None);
    keys::keep_focus(ui);
}

/// A dialog around its form, shown as soon as it stands in the document. `focus` finds what has the focus then.
pub fn frame(ui: Ui, class: &str, form: El, focus: &'static str) -> El {
    queue_microtask(move || {
        browser::call("dialog", "showModal");
        browser::focus(focus);
    });
    let closed = move |event: Event| {
        // The browser may insist on closing it; one that another has followed stands nowhere any more.
        let node = event.target().and_then(|target| target.dyn_into::<Node>().ok());
        if node.is_some_and(|node| node.is_connected()) {
            ui.dialog.set(None);
            keys::keep_focus(ui);
        }
    };
    el("dialog")
        .class(class)
        .attr("role", "dialog")
        .attr("aria-modal", "true")
        .attr("aria-labelledby", "dialog-title")
        .on("cancel", move |event| {
            event.prevent_default();
            close(ui);
        })
        .on("close", closed)
        .child(form)
}

/// The title that names a dialog.
pub fn title(text: &str) -> El {
    said("h2", "", text).attr("id", "dialog-title")
}

/// The field in which something has to be typed before the act.
pub fn guard(typed: impl Fn(String) + 'static) -> El {
    el("input")
        .attr("type", "text")
        .attr("data-testid", "confirm-name")
        .attr("autocomplete", "off")
        .attr("spellcheck", "false")
        .on("input", move |event| typed(event_target_value(&event)))
}

/// The services of which the last live instance would be taken out, or more than half of them. Late ones count for as
/// little as callers can count on them.
pub fn guarded(ui: Ui, act: Act, records: &[Arc<Record>]) -> BTreeSet<String> {
    if act == Act::Undrain {
        return BTreeSet::new();
    }
    let mut services: BTreeMap<&str, Vec<&Arc<Record>>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.instance().is_some()) {
        services.entry(&record.service).or_default().push(record);
    }
    ui.store.read(|live| {
        let counts = |record: &Record, late: bool| {
            let is_there = live
                .row(&record.key)
                .is_some_and(|row| row.state == RowState::Live || (late && row.state == RowState::Late));
            is_there && record.instance().is_some() && !(act == Act::Drain && aftermath::is_drained(record))
        };
        let is_guarded = |(service, taken): &(&str, Vec<&Arc<Record>>)| {
            let all = || live.catalog().service(service).into_iter().flat_map(BTreeMap::values);
            // Where nothing is in time, the late ones are all there is.
            let late = !all().any(|record| counts(record, false));
            let there = all().filter(|record| counts(record, late)).count();
            aftermath::needs_the_name(there, taken.iter().filter(|record| counts(record, late)).count())
        };
        services.into_iter().filter(is_guarded).map(|(service, _)| service.to_owned()).collect()
    })
}

/// What changed between two records of one key, line by line.
pub fn changed_list(was: &Record, is: &Record) -> El {
    let nothing = |text: &str| if text.is_empty() { words::NOTHING_THERE.text().to_owned() } else { text.to_owned() };
    let lines = aftermath::changes(was, is).into_iter().map(|it| {
        el("li")
            .child(said("b", "", &it.field))
            .text(" ")
            .child(said("del", "mono", &nothing(&it.was)))
            .text(" → ")
            .child(said("ins", "mono", &nothing(&it.is)))
    });
    let lines: Vec<El> = lines.collect();
    let none = lines.is_empty().then(|| said("li", "", words::CONFLICT_SAME.text()));
    el("ul").class("changes").attr("data-testid", "changes").children(lines).children(none)
}

/// The revisions of what was shown and of what stands there now.
pub fn changed_words(was: &Record, is: &Record) -> String {
    let fields = words::fields(aftermath::changes(was, is).len());
    words::CONFLICT.with(&[&was.mod_revision.to_string(), &is.mod_revision.to_string(), &fields])
}

/// What the question is at.
#[derive(Clone)]
struct Asked {
    /// The record as it is shown, at its revision: what is taken out.
    shown: Arc<Record>,
    /// The record as it was shown before it changed.
    was: Option<Arc<Record>>,
    act: Act,
    typed: String,
    working: bool,
    error: String,
    /// The keys of its lease, once they are known.
    keys: Option<Vec<String>>,
}

impl Asked {
    /// Everything that would go.
    fn taken(&self, ui: Ui) -> Vec<Arc<Record>> {
        let others = self.keys.iter().flatten().filter(|key| self.act == Act::Revoke && **key != self.shown.key);
        let others =
            ui.store.read(|live| others.filter_map(|key| live.catalog().get(key).cloned()).collect::<Vec<_>>());
        [vec![Arc::clone(&self.shown)], others].concat()
    }

    fn is_guarded(&self, ui: Ui) -> bool {
        self.act != Act::Drain && !guarded(ui, self.act, &self.taken(ui)).is_empty()
    }

    fn is_ready(&self, ui: Ui) -> bool {
        let knows_what_goes = self.act != Act::Revoke || self.keys.is_some();
        !self.working && knows_what_goes && (!self.is_guarded(ui) || self.typed.trim() == self.shown.service)
    }
}

fn question(ui: Ui, record: Arc<Record>) -> El {
    let (service, key) = (record.service.clone(), record.key.clone());
    let name = words::deregister_title(short_id(&record), &record.service);
    let (lease, layout) = (record.lease, record.layout);
    let only_one = is_only_one(ui, &record);
    let drains = aftermath::can_drain(layout) && record.instance().is_some() && !aftermath::is_drained(&record);
    let can_edit = record.instance().is_some();
    let asked = Asked {
        shown: record,
        was: None,
        act: Act::Delete,
        typed: String::new(),
        working: false,
        error: String::new(),
        keys: None,
    };
    let asked = RwSignal::new(asked);
    let look_at_keys = move || {
        // It may hang on another lease by now than it did when this was opened.
        let Some(Some(lease)) = asked.try_with_untracked(|asked| asked.shown.lease) else { return };
        spawn_local(async move {
            if let Ok(answer) = ui.client().lease(lease).await {
                asked.try_update(|asked| asked.keys = answer.keys);
            }
        });
    };
    look_at_keys();
    let submit = move |event: Event| {
        event.prevent_default();
        let now = asked.get_untracked();
        if !now.is_ready(ui) {
            return;
        }
        asked.update(|asked| {
            asked.working = true;
            asked.error.clear();
        });
        spawn_local(async move {
            let keys = now.keys.as_ref().map_or(1, Vec::len);
            match send_one(ui, request(now.act, &now.shown, keys)).await {
                Ok(answer) => {
                    // Closed meanwhile, it may be another one that is open.
                    if asked.try_with_untracked(|_| ()).is_some() {
                        close(ui);
                    }
                    tell_done(ui, now.act, &now.shown, &answer, 0);
                }
                Err(refused) if asked.try_with_untracked(|_| ()).is_none() => _ = ui.tell(refused.text, None),
                Err(refused) => {
                    asked.try_update(|asked| {
                        asked.working = false;
                        asked.error = match (&refused.now, refused.status) {
                            (Some(_), _) => words::CONFLICT_AGAIN.text().to_owned(),
                            (None, 409) => words::LEASE_CHANGED.text().to_owned(),
                            _ => refused.text,
                        };
                        if refused.status == 409 {
                            asked.keys = None;
                        }
                        if let Some(now) = refused.now {
                            asked.was = Some(std::mem::replace(&mut asked.shown, now));
                        }
                    });
                    if refused.status == 409 {
                        look_at_keys();
                    }
                }
            }
        });
    };
    let choice = |act: Act, name: &str| {
        let choose = move |_| asked.update(|asked| asked.act = act);
        let radio = el("input").attr("type", "radio").attr("name", "act").on("change", choose);
        el("label").child(radio.attr_if("checked", (act == Act::Delete).then_some(""))).text(name)
    };
    let mut choices = vec![choice(Act::Delete, words::DELETE_KEY.text())];
    choices.extend(lease.map(|_| choice(Act::Revoke, words::REVOKE_LEASE.text())));
    choices.extend((drains && !only_one).then(|| choice(Act::Drain, words::DRAIN_INSTEAD.text())));
    let choices = (choices.len() > 1).then(|| el("fieldset").children(choices));
    let follows = move || asked.with(|asked| aftermath::sentence(layout, asked.act, lease.is_some()).to_owned());
    let last = move || {
        let is_last = asked.with(|asked| asked.act != Act::Drain) && only_one;
        let last = is_last.then(|| aftermath::last_one(layout)).flatten();
        last.map(|last| said("p", "", last)).into_iter().collect()
    };
    let going_along = move || {
        let keys = asked.with(|asked| (asked.act == Act::Revoke).then(|| asked.keys.clone()));
        match keys {
            None => Vec::new(),
            Some(None) => vec![said("p", "quiet", words::WORKING.text())],
            Some(Some(keys)) => {
                let shown = asked.with(|asked| asked.shown.key.clone());
                let others: Vec<String> = keys.into_iter().filter(|other| *other != shown).collect();
                if others.is_empty() {
                    vec![said("p", "quiet", words::REVOKE_ALONE.text())]
                } else {
                    vec![said("p", "", words::REVOKE_OTHERS.text()), list_of_keys(&others)]
                }
            }
        }
    };
    let conflict = move || {
        let conflict = asked.with(|asked| asked.was.clone().map(|was| (was, Arc::clone(&asked.shown))));
        let told = conflict.map(|(was, is)| {
            let what = said("p", "", &changed_words(&was, &is));
            el("div").class("conflict").child(what).child(changed_list(&was, &is))
        });
        told.into_iter().collect()
    };
    let can_undo = move || {
        let is_revoke = asked.with(|asked| asked.act == Act::Revoke);
        if is_revoke { words::AFTER_NO_UNDO.text() } else { words::AFTER_UNDO.text() }.to_owned()
    };
    let only_one_said = (drains && only_one).then(|| said("p", "quiet", words::ONLY_ONE.text()));
    let is_guarded = Memo::new(move |_| {
        ui.store.follow_anything();
        asked.with(|asked| asked.is_guarded(ui))
    });
    let ready = Memo::new(move |_| {
        is_guarded.track();
        asked.with(|asked| asked.is_ready(ui))
    });
    let what = said("span", "", words::TYPE_THE_NAME.text()).text(" ").child(said("b", "mono", &service));
    let guard = el("label")
        .class("guard")
        .flag("hidden", move || !is_guarded.get())
        .child(what)
        .child(guard(move |text| asked.update(|asked| asked.typed = text)));
    let verb = move || {
        let verb = asked.with(|asked| match asked {
            asked if asked.working => words::WORKING,
            asked if asked.act == Act::Drain => words::DRAIN,
            _ => words::DEREGISTER,
        });
        verb.text().to_owned()
    };
    let confirm = el("button")
        .class("danger")
        .attr("type", "submit")
        .attr("data-testid", "confirm")
        .flag("disabled", move || !ready.get())
        .text_of(verb);
    let cancel = button("", words::CANCEL.text(), move |_| close(ui)).attr("data-testid", "cancel");
    let edited = key.clone();
    let edit = move |_| {
        close(ui);
        ui.edit(edited.clone());
    };
    let edit = can_edit.then(|| button("aside", words::EDIT_INSTEAD.text(), edit));
    let form = el("form")
        .on("submit", submit)
        .child(title(&name))
        .child(said("p", "mono key", &key))
        .children(choices)
        .child(el("p").text_of(follows))
        .part(last)
        .part(going_along)
        .children(only_one_said)
        .child(el("p").class("quiet").text_of(can_undo))
        .part(conflict)
        .child(guard)
        .child(el("p").class("error").attr("role", "alert").text_of(move || asked.with(|asked| asked.error.clone())))
        .child(el("footer").children(edit).child(cancel).child(confirm));
    let focus = if is_guarded.get_untracked() { "[role=dialog] input[type=text]" } else { "[data-testid=cancel]" };
    frame(ui, "", form, focus)
}
