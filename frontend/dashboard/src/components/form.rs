//! The register form: checked as it is typed, by the very rules that the server checks it by.

use leptos::prelude::*;
use rollcall_shared::{FieldError, KeyPrefix, Layout, api::KeepAlive};
use wasm_bindgen_futures::spawn_local;

use super::{
    element::{El, button, el, said},
    sheet::framed,
};
use crate::{
    app::{Ui, why},
    browser,
    draft::{Draft, Field, default_prefix},
    route::Address,
    words,
};

/// The form, in the sheet at the side.
pub fn register_form(ui: Ui) -> El {
    let draft = RwSignal::new(Draft { layout: preset(ui), ..Draft::default() });
    let prefix = move |layout: Layout| {
        let known = ui.store.read(|live| live.source_of(layout));
        KeyPrefix::new(known.as_deref().or(default_prefix(layout)).unwrap_or("services/"))
    };
    let refused = RwSignal::new(Vec::<FieldError>::new());
    // What nobody has touched yet is not called wrong.
    let touched = RwSignal::new(Vec::<Field>::new());
    let all = RwSignal::new(false);
    let working = RwSignal::new(false);
    let read = Memo::new(move |_| {
        draft.with(|draft| match prefix(draft.layout) {
            Ok(prefix) => draft.request(&prefix),
            Err(error) => Err(vec![FieldError::new("", error.to_string())]),
        })
    });
    let error = move |field: Field| {
        let shown = all.get() || touched.with(|touched| touched.contains(&field));
        let here = |errors: &[FieldError]| {
            errors.iter().find(|error| Field::of_pointer(&error.pointer) == field).map(|error| error.detail.clone())
        };
        let own = read.with(|read| read.as_ref().err().and_then(|errors| here(errors))).filter(|_| shown);
        own.or_else(|| refused.with(|refused| here(refused)))
    };
    let change = move |field: Field, apply: &dyn Fn(&mut Draft)| {
        draft.update(apply);
        refused.update(|refused| refused.retain(|error| Field::of_pointer(&error.pointer) != field));
        touched.update(|touched| {
            if !touched.contains(&field) {
                touched.push(field);
            }
        });
    };
    let submit = move |event: web_sys::Event| {
        event.prevent_default();
        all.set(true);
        let Ok(request) = read.get_untracked() else {
            browser::focus("form [aria-invalid=true]");
            return;
        };
        working.set(true);
        refused.set(Vec::new());
        spawn_local(async move {
            let answer = ui.client().register(&request).await;
            working.try_set(false);
            match answer {
                Ok(answer) => {
                    ui.form.set(false);
                    ui.go(Address::service(&answer.record.service));
                }
                Err(error) => {
                    let errors = match error.problem() {
                        Some(problem) if !problem.errors.is_empty() => problem.errors.clone(),
                        _ => vec![FieldError::new("", why(&error))],
                    };
                    refused.try_set(errors);
                }
            }
        });
    };
    let line = move |field: Field, name: &'static str, label: &str, hint: fn(Layout) -> &'static str| {
        let is_wrong = Memo::new(move |_| error(field).is_some());
        let input = move |event: web_sys::Event| {
            let typed = event_target_value(&event);
            change(field, &|draft| typed.clone_into(slot_mut(draft, field)));
        };
        let is_long = matches!(field, Field::Endpoints | Field::Metadata);
        let control = if is_long {
            el("textarea").attr("rows", "2")
        } else {
            let mode = if field == Field::Ttl { "numeric" } else { "text" };
            el("input").attr("type", "text").attr("inputmode", mode).attr("autocomplete", "off")
        };
        let control = control
            .attr("spellcheck", "false")
            .value_of(move || draft.with(|draft| slot(draft, field).to_owned()))
            .attr_of("aria-invalid", move || is_wrong.get().then(|| "true".to_owned()))
            .on("input", input);
        let message = move || error(field).unwrap_or_else(|| hint(draft.with(|draft| draft.layout)).to_owned());
        let class = move || Some(if is_wrong.get() { "error" } else { "quiet" }.to_owned());
        labelled(name, label, control).child(el("p").attr_of("class", class).text_of(message))
    };
    let choose = move |event: web_sys::Event| {
        if let Ok(layout) = event_target_value(&event).parse() {
            change(Field::Layout, &|draft| draft.layout = layout);
        }
    };
    let renew = move |event: web_sys::Event| {
        let by = if event_target_value(&event) == "caller" { KeepAlive::Caller } else { KeepAlive::Server };
        change(Field::KeepAlive, &|draft| draft.keep_alive = by);
    };
    let of_form = move || error(Field::Form).or_else(|| error(Field::Layout)).unwrap_or_default();
    let endpoints_hint = |layout| match layout {
        Layout::Kratos => words::URLS_HINT.text(),
        Layout::GoKit => words::URL_OR_ADDRESS_HINT.text(),
        _ => words::ADDRESS_HINT.text(),
    };
    let option = |value: &str, name: &str| said("option", "", name).attr("value", value);
    let chosen = draft.with_untracked(|draft| draft.layout);
    let layouts = Layout::ALL.into_iter().map(|layout| {
        let selected = (layout == chosen).then_some("");
        option(layout.as_str(), words::layout(layout)).attr_if("selected", selected)
    });
    let layout = el("select").on("change", choose).children(layouts);
    let keep_alive = el("select")
        .on("change", renew)
        .child(option("server", words::KEEP_ALIVE_SERVER.text()))
        .child(option("caller", words::KEEP_ALIVE_CALLER.text()));
    let submit_button = said("button", "primary", words::REGISTER.text())
        .attr("type", "submit")
        .attr("data-testid", "submit")
        .flag("disabled", move || working.get());
    let cancel = button("", words::CANCEL.text(), move |_| ui.close_sheet());
    let form = el("form")
        .class("register")
        .attr("novalidate", "")
        .on("submit", submit)
        .child(labelled("layout", words::LAYOUT.text(), layout))
        .child(line(Field::Name, "name", words::NAME_LABEL.text(), |_| ""))
        .child(line(Field::Endpoints, "endpoints", words::ENDPOINTS.text(), endpoints_hint))
        .child(line(Field::Id, "id", words::ID.text(), |_| words::ID_HINT.text()))
        .child(line(Field::Version, "version", words::VERSION.text(), |_| ""))
        .child(line(Field::Metadata, "metadata", words::METADATA.text(), |_| words::METADATA_HINT.text()))
        .child(line(Field::Ttl, "ttl_s", words::TTL.text(), |_| words::TTL_HINT.text()))
        .child(labelled("keep_alive", words::KEEP_ALIVE.text(), keep_alive))
        .child(el("p").class("error").attr("role", "alert").text_of(of_form))
        .child(el("footer").child(cancel).child(submit_button));
    queue_microtask(|| browser::focus("form [name=name]"));
    framed(ui, words::REGISTER_TITLE.text(), said("h2", "", words::REGISTER_TITLE.text())).child(form)
}

fn labelled(name: &str, label: &str, control: El) -> El {
    let id = ["field-", name].concat();
    let label = said("label", "", label).attr("for", &id);
    el("div").class("field").child(label).child(control.attr("id", &id).attr("name", name))
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
