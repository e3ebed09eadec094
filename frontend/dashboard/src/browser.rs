//! The few things that the page asks the browser for. Must not know: the registry, or what the page shows.

use std::cell::RefCell;

use js_sys::{Array, Date, Function, Promise, Reflect, RegExp};
use leptos::prelude::{document, window};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

/// Milliseconds since the page was opened, by a clock that never jumps.
pub fn now_ms() -> f64 {
    window().performance().map_or(0.0, |clock| clock.now())
}

/// The wall clock at a moment of [`now_ms`].
fn date(at_ms: f64) -> Date {
    Date::new(&JsValue::from_f64(Date::now() - now_ms() + at_ms))
}

/// The moment as `<time datetime>` has it.
pub fn datetime(at_ms: f64) -> String {
    let date = date(at_ms);
    // A lease of centuries ends where no date is.
    if date.get_time().is_nan() { String::new() } else { date.to_iso_string().into() }
}

/// The moment as people read it, in their own clock: the hour to the second.
pub fn clock(at_ms: f64) -> String {
    let date = date(at_ms);
    let two = |number: u32| if number < 10 { ["0", &number.to_string()].concat() } else { number.to_string() };
    [&*two(date.get_hours()), ":", &two(date.get_minutes()), ":", &two(date.get_seconds())].concat()
}

/// Whether the page can be seen.
pub fn is_visible() -> bool {
    !document().hidden()
}

/// Where the page's base is, as `index.html` says it: an address that ends in `/`.
pub fn base() -> String {
    document().base_uri().ok().flatten().unwrap_or_default()
}

/// The cluster's name, as the server wrote it into the page; empty where it did not.
pub fn cluster_name() -> String {
    let meta = document().query_selector("meta[name='rollcall-cluster']").ok().flatten();
    meta.and_then(|meta| meta.get_attribute("content")).unwrap_or_default()
}

/// The script of the worker that holds the stream for all tabs, relative to the page's base.
pub fn stream_worker() -> String {
    let script = document().query_selector("script[type='worker']").ok().flatten();
    script.and_then(|script| script.get_attribute("src")).unwrap_or_default()
}

/// The path of the page's base.
pub fn base_path() -> String {
    let base = base();
    let rest = base.split_once("://").map_or(base.as_str(), |(_, rest)| rest);
    rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned())
}

/// Keeps a choice beyond this visit, where the browser lets it.
pub fn remember(name: &str, value: &str) {
    if let Ok(Some(storage)) = window().local_storage() {
        // A full or forbidden storage loses the choice, and nothing else.
        let _ = storage.set_item(name, value);
    }
}

/// A choice that was kept.
pub fn recalled(name: &str) -> Option<String> {
    window().local_storage().ok().flatten()?.get_item(name).ok().flatten()
}

/// An attribute of the document's root, where what is chosen for the whole page stands.
pub fn chosen(name: &str) -> Option<String> {
    document().document_element()?.get_attribute(name)
}

/// Sets an attribute of the document's root.
pub fn choose(name: &str, value: &str) {
    if let Some(root) = document().document_element() {
        // It fails for names that are none.
        let _ = root.set_attribute(name, value);
    }
}

/// How high a row is, in pixels. The stylesheet has the same numbers.
pub fn row_px() -> usize {
    if chosen("data-rows").as_deref() == Some("comfortable") { 44 } else { 32 }
}

/// A text of the server's, by its path from the page's base; `None` where it cannot be had.
pub async fn file(path: &str) -> Option<String> {
    let call = |on: &JsValue, method: &str, argument: &JsValue| -> Result<Promise, JsValue> {
        Reflect::get(on, &method.into())?.dyn_into::<Function>()?.call1(on, argument)?.dyn_into()
    };
    let answer = JsFuture::from(call(&window().into(), "fetch", &path.into()).ok()?).await.ok()?;
    if Reflect::get(&answer, &"ok".into()).ok()?.is_falsy() {
        return None;
    }
    JsFuture::from(call(&answer, "text", &JsValue::UNDEFINED).ok()?).await.ok()?.as_string()
}

/// Whether the system asks for a dark page.
pub fn prefers_dark() -> bool {
    window().match_media("(prefers-color-scheme: dark)").ok().flatten().is_some_and(|query| query.matches())
}

/// Copies a text, where the page may.
pub fn copy(text: &str) {
    // Without TLS, beyond loopback, there is no clipboard; the property is then undefined, and so nothing happens.
    let navigator: JsValue = window().navigator().into();
    let call = || -> Result<JsValue, JsValue> {
        let clipboard = Reflect::get(&navigator, &"clipboard".into())?;
        let write: Function = Reflect::get(&clipboard, &"writeText".into())?.dyn_into()?;
        write.call1(&clipboard, &text.into())
    };
    drop(call());
}

/// Calls a method without arguments, such as `showModal`, of the first element that a selector finds.
pub fn call(selector: &str, method: &str) {
    if let Ok(Some(element)) = document().query_selector(selector)
        && let Ok(method) = Reflect::get(&element, &method.into())
        && let Some(method) = method.dyn_ref::<Function>()
    {
        // It throws only where the element is in that state already.
        let _ = method.call0(&element);
    }
}

/// Puts the focus on the first element that a selector finds.
pub fn focus(selector: &str) {
    if let Ok(Some(element)) = document().query_selector(selector)
        && let Ok(element) = element.dyn_into::<web_sys::HtmlElement>()
    {
        let _ = element.focus();
    }
}

thread_local! {
    /// The last regular expression that was asked for, compiled; `None` where it is none.
    static EXPRESSION: RefCell<(String, Option<RegExp>)> = RefCell::default();
}

/// Whether a text holds what a regular expression means, by the browser's own engine and whatever the case; `None`
/// where it is none.
pub fn matches_pattern(expression: &str, text: &str) -> Option<bool> {
    EXPRESSION.with_borrow_mut(|(known, compiled)| {
        if known != expression {
            // Not by its own binding, in which an expression that is none throws where nothing catches it.
            let made = Reflect::get(&window(), &"RegExp".into()).and_then(|class| {
                Reflect::construct(class.unchecked_ref::<Function>(), &Array::of2(&expression.into(), &"im".into()))
            });
            *compiled = made.ok().map(JsCast::unchecked_into);
            expression.clone_into(known);
        }
        compiled.as_ref().map(|compiled| compiled.test(text))
    })
}
