//! Closures of a few kinds instead of one type each: every type that the framework draws costs kilobytes of code, and
//! how soon the first row stands is decided by size.

use leptos::prelude::*;

/// A text that follows what it is made of.
pub type Text = Box<dyn FnMut() -> String + Send>;

/// A word of an attribute, or its absence.
pub type Flag = Box<dyn FnMut() -> Option<&'static str> + Send>;

/// A part of the page that follows what it is made of.
pub type Part = Box<dyn FnMut() -> AnyView + Send>;

/// A text that follows what it is made of.
pub fn text<T: Into<String>>(mut make: impl FnMut() -> T + Send + 'static) -> Text {
    Box::new(move || make().into())
}

/// An attribute's word that follows what it is made of.
pub fn word(mut make: impl FnMut() -> &'static str + Send + 'static) -> Flag {
    Box::new(move || Some(make()))
}

/// An attribute that is there or not.
pub fn flag(mut is_set: impl FnMut() -> bool + Send + 'static) -> Flag {
    Box::new(move || is_set().then_some(""))
}

/// A part of the page that follows what it is made of.
pub fn part(make: impl FnMut() -> AnyView + Send + 'static) -> Part {
    Box::new(make)
}

/// Nothing.
pub fn nothing() -> AnyView {
    ().into_any()
}

/// A list of which only what comes, goes or moves is touched: `each` names its entries, `draw` draws one.
pub fn keyed(
    each: impl Fn() -> Vec<String> + Send + 'static,
    draw: impl Fn(String) -> AnyView + Send + Sync + 'static,
) -> AnyView {
    let each: Box<dyn Fn() -> Vec<String> + Send> = Box::new(each);
    let draw: std::sync::Arc<dyn Fn(String) -> AnyView + Send + Sync> = std::sync::Arc::new(draw);
    let children = move |name: String| draw(name);
    view! { <For each=each key=String::clone children /> }.into_any()
}
