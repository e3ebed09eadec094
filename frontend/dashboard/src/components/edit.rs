//! The edit form: only what the layout has a place for, over the very revision that is shown, and put together with
//! what changes meanwhile.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use leptos::prelude::*;
use rollcall_shared::{
    FieldError, Layout, Record, ServiceInstance,
    api::{Act, ActAnswer, InstanceEdit},
};
use wasm_bindgen_futures::spawn_local;
use web_sys::Event;

use super::{
    dialog::{changed_list, changed_words},
    element::{El, button, el, said},
    form::{Line, error_at, focus_first_wrong, kept_note},
    row::short_id,
    sheet::framed,
};
use crate::{
    acts::{name_of, send_one, token},
    aftermath::can_drain,
    app::{Ui, Undo},
    browser,
    draft::Field,
    edit::{EditDraft, FIELDS, offers},
    words::{self, Word},
};

thread_local! {
    /// What was typed into the form and not done with, over the record that it was typed over.
    static KEPT: RefCell<Option<(Arc<Record>, EditDraft)>> = const { RefCell::new(None) };
}

/// What the form is at.
#[derive(Clone)]
struct State {
    /// The record that the draft is an edit of.
    base: Arc<Record>,
    draft: EditDraft,
    /// The record as it was shown before it changed.
    was: Option<Arc<Record>>,
    /// What both sides changed.
    disputed: Vec<Field>,
    /// What the server found wrong.
    refused: Vec<FieldError>,
    working: bool,
}

impl State {
    fn instance(&self) -> ServiceInstance {
        self.base.instance().cloned().unwrap_or_default()
    }

    fn layout(&self) -> Layout {
        self.base.layout
    }

    fn edit(&self) -> Result<InstanceEdit, Vec<FieldError>> {
        self.draft.edit(self.layout(), &self.instance())
    }

    fn error(&self, field: Field) -> Option<String> {
        let own = self.edit().err().and_then(|errors| error_at(&errors, field));
        own.or_else(|| error_at(&self.refused, field))
    }

    fn is_same(&self) -> bool {
        self.edit() == Ok(InstanceEdit::default())
    }

    /// The record stands otherwise now: what was typed is kept, what was not follows.
    fn meet(&mut self, now: Arc<Record>) {
        let theirs = now.instance().cloned().unwrap_or_default();
        let (merged, disputed) = self.draft.merged(self.layout(), &self.instance(), &theirs);
        self.draft = merged;
        self.disputed = disputed;
        self.was = Some(std::mem::replace(&mut self.base, now));
    }

    /// What stands at a field now.
    fn theirs(&self, field: Field) -> String {
        EditDraft::of(self.layout(), &self.instance()).slot(field).clone()
    }
}

/// The form over what stands under `key`, in the sheet at the side; `None` where nothing does that could be edited.
pub fn edit_form(ui: Ui, key: &str) -> Option<El> {
    let record = ui.store.read(|live| live.catalog().get(key).cloned())?;
    let draft = EditDraft::of(record.layout, record.instance()?);
    let name = short_id(&record).to_owned();
    let layout = record.layout;
    let mut first = State {
        base: Arc::clone(&record),
        draft,
        was: None,
        disputed: Vec::new(),
        refused: Vec::new(),
        working: false,
    };
    let kept = KEPT.with_borrow(|kept| kept.clone().filter(|(base, _)| base.key == key));
    let was_kept = kept.is_some();
    if let Some((base, draft)) = kept {
        let has_changed = base.mod_revision != record.mod_revision;
        (first.base, first.draft) = (base, draft);
        if has_changed {
            first.meet(record);
        }
    }
    let has_odd = {
        let shown = first.draft.metadata.lines().count() + usize::from(!first.draft.weight.is_empty());
        first.instance().metadata.len() > shown && !was_kept
    };
    let state = RwSignal::new(first);
    let change = move |field: Field, typed: String| {
        state.update(|state| {
            *state.draft.slot_mut(field) = typed;
            state.refused.retain(|error| Field::of_pointer(&error.pointer) != field);
        });
        KEPT.set(Some(state.with_untracked(|state| (Arc::clone(&state.base), state.draft.clone()))));
    };
    let submit = move |event: Event| {
        event.prevent_default();
        let now = state.get_untracked();
        let Ok(instance) = now.edit() else { return focus_first_wrong() };
        if now.working || now.is_same() {
            return;
        }
        state.update(|state| {
            state.working = true;
            state.refused.clear();
        });
        spawn_local(async move {
            let (key, mod_revision) = (now.base.key.clone(), now.base.mod_revision);
            match send_one(ui, Act::Edit { key, mod_revision, instance }).await {
                Ok(answer) => {
                    // Closed meanwhile, it may be another one that is open.
                    if state.try_with_untracked(|_| ()).is_some() {
                        KEPT.set(None);
                        ui.close_sheet();
                    }
                    told(ui, &now.base, &answer);
                }
                Err(refused) if state.try_with_untracked(|_| ()).is_none() => _ = ui.tell(refused.text, None),
                Err(refused) => {
                    state.try_update(|state| {
                        state.working = false;
                        state.refused = refused.errors;
                        match refused.now {
                            Some(now) => state.meet(now),
                            None if state.refused.is_empty() => {
                                state.refused.push(FieldError::new("", refused.text));
                            }
                            None => {}
                        }
                    });
                    // What was typed is kept over what stands there now.
                    KEPT.set(state.try_with_untracked(|state| (Arc::clone(&state.base), state.draft.clone())));
                    focus_first_wrong();
                }
            }
        });
    };
    let line = |field: Field| {
        let (name, label, hint): (_, Word, fn() -> &'static str) = match field {
            Field::Weight if can_drain(layout) => ("weight", words::WEIGHT, || words::WEIGHT_HINT.text()),
            Field::Weight => ("weight", words::WEIGHT, || words::WEIGHT_HINT_10.text()),
            Field::Version => ("version", words::VERSION, || ""),
            Field::Endpoints => ("endpoints", words::ENDPOINTS, || ""),
            _ => ("metadata", words::METADATA, || words::METADATA_HINT.text()),
        };
        let line = Line {
            name,
            label,
            is_long: matches!(field, Field::Endpoints | Field::Metadata),
            value: Box::new(move || state.with(|state| state.draft.slot(field).clone())),
            error: Rc::new(move || state.with(|state| state.error(field))),
            hint: Box::new(hint),
            input: Box::new(move |typed| change(field, typed)),
        };
        line.drawn().part(move || dispute(state, field, change))
    };
    let conflict = move || {
        let conflict = state.with(|state| state.was.clone().map(|was| (was, Arc::clone(&state.base))));
        let told = conflict.map(|(was, is)| {
            el("div")
                .class("conflict")
                .attr("role", "alert")
                .child(said("p", "", &changed_words(&was, &is)))
                .child(changed_list(&was, &is))
                .child(said("p", "", words::CONFLICT_MERGED.text()))
        });
        told.into_iter().collect()
    };
    let key = key.to_owned();
    let start_over = move |_| {
        KEPT.set(None);
        // Drawn anew, from what stands there.
        ui.editing.set(Some(key.clone()));
    };
    let is_idle = move || state.with(|state| state.working || state.is_same());
    let verb =
        move || if state.with(|state| state.working) { words::WORKING } else { words::EDIT_SAVE }.text().to_owned();
    let save = el("button")
        .class("primary")
        .attr("type", "submit")
        .attr("data-testid", "submit")
        .flag("disabled", is_idle)
        .text_of(verb);
    let cancel = button("", words::CANCEL.text(), move |_| _ = ui.close_sheet());
    let of_form =
        move || state.with(|state| state.error(Field::Form).or_else(|| state.error(Field::Id))).unwrap_or_default();
    let told_before = move || {
        let is_same = state.with(State::is_same);
        if is_same { words::EDIT_SAME.text() } else { words::EDIT_KEEPS.text() }.to_owned()
    };
    let form = el("form")
        .class("edit")
        .attr("data-testid", "edit")
        .attr("novalidate", "")
        .on("submit", submit)
        .children(was_kept.then(|| kept_note(start_over)))
        .part(conflict)
        .children(FIELDS.into_iter().filter(|field| offers(layout, *field)).map(line))
        .children(has_odd.then(|| said("p", "quiet", words::EDIT_KEPT_ASIDE.text())))
        .child(el("p").class("quiet").text_of(told_before))
        .child(el("p").class("error").attr("role", "alert").text_of(of_form))
        .child(el("footer").child(cancel).child(save));
    queue_microtask(|| browser::focus("form input, form textarea"));
    let heading = words::EDIT_TITLE.with(&[&name]);
    Some(framed(ui, &heading, said("h2", "", &heading)).child(form))
}

/// What stands at a field that both sides changed, and which of them is meant.
fn dispute(state: RwSignal<State>, field: Field, change: impl Fn(Field, String) + Copy + 'static) -> Vec<El> {
    if !state.with(|state| state.disputed.contains(&field)) {
        return Vec::new();
    }
    let theirs = state.with_untracked(|state| state.theirs(field));
    let settle = move || state.update(|state| state.disputed.retain(|other| *other != field));
    let shown = if theirs.is_empty() { words::NOTHING_THERE.text() } else { theirs.trim_end() };
    let said_now = said("p", "mono", &words::STANDS_NOW.with(&[shown]));
    let taken = theirs.clone();
    let take = move |_| {
        change(field, taken.clone());
        settle();
    };
    let take = button("", words::TAKE_THEIRS.text(), take).attr("data-testid", "take");
    let keep = button("", words::KEEP_MINE.text(), move |_| settle()).attr("data-testid", "keep");
    vec![el("div").class("dispute").child(said_now).child(take).child(keep)]
}

fn told(ui: Ui, record: &Record, answer: &ActAnswer) {
    let name = name_of(record);
    let undo = token(answer).map(|token| Undo { tokens: vec![token], name: name.clone(), puts_back: false });
    ui.tell(words::EDITED.with(&[&name]), undo);
}
