//! The register form: checked as it is typed, by the very rules that the server checks it by.

use leptos::prelude::*;
use rollcall_shared::{FieldError, KeyPrefix, Layout, api::KeepAlive};
use wasm_bindgen_futures::spawn_local;

use super::{
    erased::{Flag, nothing, text, word},
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
pub fn register_form() -> AnyView {
    let ui = Ui::get();
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
    let submit = move |event: leptos::ev::SubmitEvent| {
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
    let line = move |field: Field, name: &'static str, label: &'static str, hint: Signal<&'static str>| {
        let id = ["field-", name].concat();
        let value = text(move || draft.with(|draft| slot(draft, field).to_owned()));
        let invalid = Box::new(move || error(field).map(|_| "true")) as Flag;
        let input: Box<dyn FnMut(leptos::ev::Event)> = Box::new(move |event| {
            let typed = event_target_value(&event);
            change(field, &|draft| typed.clone_into(slot_mut(draft, field)));
        });
        let control = if matches!(field, Field::Endpoints | Field::Metadata) {
            view! {
                <textarea
                    id=id.clone()
                    name=name
                    rows="2"
                    spellcheck="false"
                    prop:value=value
                    aria-invalid=invalid
                    on:input=input
                ></textarea>
            }
            .into_any()
        } else {
            let mode = if field == Field::Ttl { "numeric" } else { "text" };
            view! {
                <input
                    id=id.clone()
                    name=name
                    type="text"
                    inputmode=mode
                    autocomplete="off"
                    spellcheck="false"
                    prop:value=value
                    aria-invalid=invalid
                    on:input=input
                />
            }
            .into_any()
        };
        let message = move || error(field).unwrap_or_else(|| hint.get().to_owned());
        let class = word(move || if error(field).is_some() { "error" } else { "quiet" });
        labelled(id, label, control, view! { <p class=class>{text(message)}</p> }.into_any())
    };
    let layouts = Layout::ALL.into_iter().map(|layout| {
        let selected = draft.with_untracked(|draft| draft.layout == layout);
        view! {
            <option value=layout.as_str() selected=selected>
                {words::layout(layout)}
            </option>
        }
        .into_any()
    });
    let layouts = layouts.collect::<Vec<_>>();
    let choose = move |event| {
        if let Ok(layout) = event_target_value(&event).parse() {
            change(Field::Layout, &|draft| draft.layout = layout);
        }
    };
    let renew = move |event| {
        let by = if event_target_value(&event) == "caller" { KeepAlive::Caller } else { KeepAlive::Server };
        change(Field::KeepAlive, &|draft| draft.keep_alive = by);
    };
    let of_form = move || error(Field::Form).or_else(|| error(Field::Layout)).unwrap_or_default();
    let hint = Signal::derive(move || match draft.with(|draft| draft.layout) {
        Layout::Kratos => words::URLS_HINT,
        Layout::GoKit => words::URL_OR_ADDRESS_HINT,
        _ => words::ADDRESS_HINT,
    });
    Effect::new(move |_| browser::focus("form [name=name]"));
    let layout = view! {
        <select id="field-layout" name="layout" on:change=choose>
            {layouts}
        </select>
    };
    let keep_alive = view! {
        <select id="field-keep-alive" name="keep_alive" on:change=renew>
            <option value="server">{words::KEEP_ALIVE_SERVER}</option>
            <option value="caller">{words::KEEP_ALIVE_CALLER}</option>
        </select>
    };
    let is_working: Box<dyn FnMut() -> bool + Send> = Box::new(move || working.get());
    let fields = vec![
        labelled("field-layout".to_owned(), words::LAYOUT, layout.into_any(), nothing()),
        line(Field::Name, "name", words::NAME_LABEL, "".into()),
        line(Field::Endpoints, "endpoints", words::ENDPOINTS, hint),
        line(Field::Id, "id", words::ID, words::ID_HINT.into()),
        line(Field::Version, "version", words::VERSION, "".into()),
        line(Field::Metadata, "metadata", words::METADATA, words::METADATA_HINT.into()),
        line(Field::Ttl, "ttl_s", words::TTL, words::TTL_HINT.into()),
        labelled("field-keep-alive".to_owned(), words::KEEP_ALIVE, keep_alive.into_any(), nothing()),
    ];
    let form = view! {
        <form class="register" novalidate on:submit=submit>
            {fields}
            <p class="error" role="alert">
                {text(of_form)}
            </p>
            <footer>
                <button type="button" on:click=move |_| ui.close_sheet()>
                    {words::CANCEL}
                </button>
                <button type="submit" class="primary" data-testid="submit" disabled=is_working>
                    {words::REGISTER}
                </button>
            </footer>
        </form>
    };
    let heading = view! { <h2>{words::REGISTER_TITLE}</h2> };
    framed(ui, words::REGISTER_TITLE, heading.into_any(), form.into_any())
}

fn labelled(id: String, label: &'static str, control: AnyView, message: AnyView) -> AnyView {
    view! {
        <div class="field">
            <label for=id>{label}</label>
            {control}
            {message}
        </div>
    }
    .into_any()
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
