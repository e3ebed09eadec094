//! The register form, and the field that every form is made of: checked as it is typed, by the very rules that the
//! server checks it by.

use std::{cell::RefCell, rc::Rc};

use leptos::prelude::*;
use rollcall_shared::{
    FieldError, KeyPrefix, Layout,
    api::{KeepAlive, RegisterRequest},
};
use wasm_bindgen_futures::spawn_local;
use web_sys::Event;

use super::{
    element::{El, button, el, said},
    sheet::framed,
};
use crate::{
    acts::why,
    app::Ui,
    browser,
    draft::{Draft, Field, default_prefix},
    route::Address,
    words::{self, Word},
};

thread_local! {
    /// What was typed into the register form and not done with.
    static KEPT: RefCell<Option<Draft>> = const { RefCell::new(None) };
}

/// A field of a form, with its label, and beside it what is wrong with it.
pub struct Line {
    /// Its name in the form.
    pub name: &'static str,
    /// What it is called.
    pub label: Word,
    /// Whether it takes several lines.
    pub is_long: bool,
    /// What is typed.
    pub value: Box<dyn Fn() -> String>,
    /// What is wrong with it.
    pub error: Rc<dyn Fn() -> Option<String>>,
    /// What is said where nothing is wrong.
    pub hint: Box<dyn Fn() -> &'static str>,
    /// Takes in what is typed.
    pub input: Box<dyn Fn(String)>,
}

impl Line {
    /// It, drawn.
    #[inline(never)]
    pub fn drawn(self) -> El {
        let Self { name, label, is_long, value, error, hint, input } = self;
        let control = if is_long {
            el("textarea").attr("rows", "2")
        } else {
            let mode = if matches!(name, "ttl_s" | "weight") { "numeric" } else { "text" };
            el("input").attr("type", "text").attr("inputmode", mode).attr("autocomplete", "off")
        };
        let why = ["why-", name].concat();
        let wrong = Rc::clone(&error);
        let control = control
            .attr("spellcheck", "false")
            .attr("aria-describedby", &why)
            .value_of(value)
            .attr_of("aria-invalid", move || wrong().map(|_| "true".to_owned()))
            .on("input", move |event| input(event_target_value(&event)));
        let wrong = Rc::clone(&error);
        let class = move || Some(if wrong().is_some() { "error" } else { "quiet" }.to_owned());
        let message = move || error().unwrap_or_else(|| hint().to_owned());
        let message = el("p").attr("id", &why).attr_of("class", class).text_of(message);
        labelled(name, label, control).child(message)
    }
}

/// A control with its label.
pub fn labelled(name: &str, label: Word, control: El) -> El {
    let id = ["field-", name].concat();
    let label = said("label", "", label.text()).attr("for", &id);
    el("div").class("field").child(label).child(control.attr("id", &id).attr("name", name))
}

/// The first error that stands at a field.
pub fn error_at(errors: &[FieldError], field: Field) -> Option<String> {
    errors.iter().find(|error| Field::of_pointer(&error.pointer) == field).map(|error| error.detail.clone())
}

/// Puts the focus on the first field that something is wrong with, once that is shown.
pub fn focus_first_wrong() {
    request_animation_frame(|| browser::focus("form [aria-invalid=true]"));
}

/// What the register form is at.
#[derive(Clone)]
struct State {
    draft: Draft,
    /// Where the layout's keys stand.
    prefix: String,
    /// What the server found wrong.
    refused: Vec<FieldError>,
    /// What nobody has touched yet is not called wrong.
    touched: Vec<Field>,
    all_touched: bool,
    working: bool,
}

impl State {
    fn request(&self) -> Result<RegisterRequest, Vec<FieldError>> {
        match KeyPrefix::new(&self.prefix) {
            Ok(prefix) => self.draft.request(&prefix),
            Err(error) => Err(vec![FieldError::new("", error.to_string())]),
        }
    }

    fn error(&self, field: Field) -> Option<String> {
        let is_shown = self.all_touched || self.touched.contains(&field);
        let own = is_shown.then(|| self.request().err()).flatten().and_then(|errors| error_at(&errors, field));
        own.or_else(|| error_at(&self.refused, field))
    }

    fn touch(&mut self, field: Field) {
        self.refused.retain(|error| Field::of_pointer(&error.pointer) != field);
        if !self.touched.contains(&field) {
            self.touched.push(field);
        }
    }
}

/// The form, in the sheet at the side.
pub fn register_form(ui: Ui) -> El {
    let fresh = Draft { layout: preset(ui), ..Draft::default() };
    let kept = KEPT.with_borrow(Option::clone);
    let was_kept = kept.is_some();
    let draft = kept.unwrap_or_else(|| fresh.clone());
    let chosen = draft.layout;
    let state = RwSignal::new(State {
        draft,
        prefix: prefix_of(ui, chosen),
        refused: Vec::new(),
        touched: Vec::new(),
        all_touched: false,
        working: false,
    });
    let change = move |field: Field, apply: &dyn Fn(&mut Draft)| {
        state.update(|state| {
            apply(&mut state.draft);
            state.touch(field);
        });
        KEPT.set(Some(state.with_untracked(|state| state.draft.clone())));
    };
    let submit = move |event: Event| {
        event.prevent_default();
        state.update(|state| state.all_touched = true);
        let Ok(request) = state.with_untracked(State::request) else { return focus_first_wrong() };
        if state.with_untracked(|state| state.working) {
            return;
        }
        state.update(|state| {
            state.working = true;
            state.refused.clear();
        });
        spawn_local(async move {
            match ui.client().register(&request).await {
                Ok(answer) => {
                    // Closed meanwhile, one has gone elsewhere.
                    if state.try_with_untracked(|_| ()).is_some() {
                        KEPT.set(None);
                        ui.form.set(false);
                        ui.at.set(Some(answer.record.key.clone()));
                        ui.go(Address::service(&answer.record.service));
                    }
                }
                Err(error) => {
                    let errors = match error.problem() {
                        Some(problem) if !problem.errors.is_empty() => problem.errors.clone(),
                        _ => vec![FieldError::new("", why(&error))],
                    };
                    state.try_update(|state| {
                        state.working = false;
                        state.refused = errors;
                    });
                    focus_first_wrong();
                }
            }
        });
    };
    let layout = move || state.with(|state| state.draft.layout);
    let line = move |field: Field, name: &'static str, label: Word, hint: fn(Layout) -> &'static str| {
        let line = Line {
            name,
            label,
            is_long: matches!(field, Field::Endpoints | Field::Metadata),
            value: Box::new(move || state.with(|state| slot(&state.draft, field).to_owned())),
            error: Rc::new(move || state.with(|state| state.error(field))),
            hint: Box::new(move || hint(layout())),
            input: Box::new(move |typed| change(field, &|draft| slot_mut(draft, field).clone_from(&typed))),
        };
        // What the layout has no place for is not offered.
        line.drawn().flag("hidden", move || !offers(layout(), field) || is_needless(&state, field))
    };
    let choose = move |event: Event| {
        if let Ok(layout) = event_target_value(&event).parse() {
            state.update_untracked(|state| state.prefix = prefix_of(ui, layout));
            change(Field::Layout, &|draft| draft.layout = layout);
        }
    };
    let renew = move |event: Event| {
        let by = if event_target_value(&event) == "caller" { KeepAlive::Caller } else { KeepAlive::Server };
        change(Field::KeepAlive, &|draft| draft.keep_alive = by);
    };
    let wrong = move |field: Field| state.with(|state| state.error(field));
    let of_form = move || wrong(Field::Form).unwrap_or_default();
    // A choice that the server does not take.
    let choice = move |field: Field, name: &'static str, label: Word, control: El| {
        let why = ["why-", name].concat();
        let control = control
            .attr("aria-describedby", &why)
            .attr_of("aria-invalid", move || wrong(field).map(|_| "true".to_owned()));
        let message = el("p").class("error").attr("id", &why).text_of(move || wrong(field).unwrap_or_default());
        labelled(name, label, control).child(message)
    };
    let endpoints_hint = |layout| match layout {
        Layout::Kratos => words::URLS_HINT.text(),
        Layout::GoKit => words::URL_OR_ADDRESS_HINT.text(),
        _ => words::ADDRESS_HINT.text(),
    };
    let option = |value: &str, name: &str| said("option", "", name).attr("value", value);
    let layouts = Layout::ALL.into_iter().map(|layout| {
        let selected = (layout == chosen).then_some("");
        option(layout.as_str(), words::layout(layout)).attr_if("selected", selected)
    });
    let layout_choice = el("select").on("change", choose).children(layouts);
    let by_caller = state.with_untracked(|state| state.draft.keep_alive == KeepAlive::Caller);
    let keep_alive = el("select")
        .on("change", renew)
        .child(option("server", words::KEEP_ALIVE_SERVER.text()))
        .child(option("caller", words::KEEP_ALIVE_CALLER.text()).attr_if("selected", by_caller.then_some("")));
    let keep_alive = choice(Field::KeepAlive, "keep_alive", words::KEEP_ALIVE, keep_alive)
        .flag("hidden", move || is_needless(&state, Field::KeepAlive));
    let is_working = move || state.with(|state| state.working);
    let submit_button = el("button")
        .class("primary")
        .attr("type", "submit")
        .attr("data-testid", "submit")
        .flag("disabled", is_working)
        .text_of(move || if is_working() { words::WORKING.text() } else { words::REGISTER.text() }.to_owned());
    let cancel = button("", words::CANCEL.text(), move |_| _ = ui.close_sheet());
    let start_over = move |_| {
        KEPT.set(None);
        // Drawn anew, from nothing.
        ui.form.notify();
    };
    let kept = was_kept.then(|| kept_note(start_over));
    let form = el("form")
        .class("register")
        .attr("novalidate", "")
        .on("submit", submit)
        .children(kept)
        .child(choice(Field::Layout, "layout", words::LAYOUT, layout_choice))
        .child(line(Field::Name, "name", words::NAME_LABEL, |_| ""))
        .child(line(Field::Endpoints, "endpoints", words::ENDPOINTS, endpoints_hint))
        .child(line(Field::Id, "id", words::ID, |_| words::ID_HINT.text()))
        .child(line(Field::Version, "version", words::VERSION, |_| ""))
        .child(line(Field::Metadata, "metadata", words::METADATA, |_| words::METADATA_HINT.text()))
        .child(line(Field::Ttl, "ttl_s", words::TTL, |_| words::TTL_HINT.text()))
        .child(keep_alive)
        .child(el("p").class("error").attr("role", "alert").text_of(of_form))
        .child(el("footer").child(cancel).child(submit_button));
    queue_microtask(|| browser::focus("form [name=name]"));
    framed(ui, words::REGISTER_TITLE.text(), said("h2", "", words::REGISTER_TITLE.text())).child(form)
}

/// Says that what was typed before is still there, and lets one begin anew.
pub fn kept_note(start_over: impl FnMut(Event) + 'static) -> El {
    said("p", "kept quiet", words::DRAFT_KEPT.text()).text(" ").child(button("", words::DISCARD.text(), start_over))
}

fn offers(layout: Layout, field: Field) -> bool {
    let carries = layout.carries();
    match field {
        Field::Version => carries.version,
        Field::Metadata => carries.metadata,
        Field::Id => !carries.id_is_address,
        _ => true,
    }
}

/// Nobody renews a permanent key.
fn is_needless(state: &RwSignal<State>, field: Field) -> bool {
    field == Field::KeepAlive && state.with(|state| state.draft.ttl_s.trim().is_empty())
}

/// The layout to begin with: kratos where it is watched, else one that is.
fn preset(ui: Ui) -> Layout {
    ui.store.read(|live| {
        let watched = |layout: &Layout| {
            default_prefix(*layout).is_some_and(|prefix| live.catalog().revisions().contains_key(prefix))
                || live.source_of(*layout).is_some()
        };
        Layout::ALL.into_iter().find(watched).unwrap_or(Layout::Kratos)
    })
}

/// Where a layout's keys stand: at its own prefix, where that is watched, else where others of it do.
fn prefix_of(ui: Ui, layout: Layout) -> String {
    let own = default_prefix(layout);
    let known = ui.store.read(|live| {
        let is_watched = own.is_some_and(|prefix| live.catalog().revisions().contains_key(prefix));
        if is_watched { None } else { live.source_of(layout) }
    });
    known.unwrap_or_else(|| own.unwrap_or("services/").to_owned())
}

fn slot(draft: &Draft, field: Field) -> &str {
    match field {
        Field::Id => &draft.id,
        Field::Version => &draft.version,
        Field::Endpoints => &draft.endpoints,
        Field::Metadata => &draft.metadata,
        Field::Ttl => &draft.ttl_s,
        _ => &draft.name,
    }
}

fn slot_mut(draft: &mut Draft, field: Field) -> &mut String {
    match field {
        Field::Id => &mut draft.id,
        Field::Version => &mut draft.version,
        Field::Endpoints => &mut draft.endpoints,
        Field::Metadata => &mut draft.metadata,
        Field::Ttl => &mut draft.ttl_s,
        _ => &mut draft.name,
    }
}
