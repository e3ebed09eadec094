//! Elements, put together by calls instead of by type.
//!
//! `view!` makes a type of every piece of markup, and the framework compiles each of them anew: drawn that way this
//! page weighed 245 KB of compressed WebAssembly, of which Leptos itself is 26. What is reactive is Leptos' own (owners,
//! signals, memos, render effects), and an [`El`] is a view that Leptos mounts; only the markup is data here. Owns:
//! nodes, listeners and effects of what it draws, for as long as it stands. Must not know: what is drawn.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use leptos::{
    prelude::*,
    reactive::{effect::RenderEffect, graph::untrack, signal::ArcTrigger},
    tachys::{
        renderer::types,
        view::{Mountable, Render},
    },
};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{Element, Event, Node};

use crate::browser;

/// How long the entries of lists may hold a frame up, in milliseconds: those that are left over come with the next one.
const DRAW_MS_MAX: f64 = 6.0;

/// After so long the next frame has begun, in milliseconds.
const PAUSE_MS: f64 = 8.0;

/// An element with all that belongs to it. Dropped, it hears and changes nothing any more; taking its node out is its
/// owner's to do.
pub struct El {
    node: Element,
    kept: Vec<Kept>,
}

/// What lives as long as its element.
enum Kept {
    #[expect(dead_code, reason = "it is held, not read")]
    Effect(RenderEffect<()>),
    #[expect(dead_code, reason = "it is held, not read")]
    Child(El),
    Listener(#[expect(dead_code, reason = "it is held, not read")] Listener),
}

/// Shows a value on an element.
type Draw = Box<dyn Fn(&Element, Option<&str>)>;

/// Draws the entry of a list that has this name.
type DrawEntry = Box<dyn Fn(&str) -> Option<El>>;

struct Listener {
    node: Element,
    kind: &'static str,
    closure: Closure<dyn FnMut(Event)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.node.remove_event_listener_with_callback(self.kind, self.closure.as_ref().unchecked_ref());
    }
}

/// Does something now and whenever what it reads has changed, for as long as whoever asks is drawn. All share what an
/// effect is compiled to.
pub fn follow(act: impl FnMut() + 'static) {
    Effect::new(Box::new(act) as Box<dyn FnMut()>);
}

/// An element of this kind.
#[inline(never)]
pub fn el(tag: &str) -> El {
    let node = document().create_element(tag).expect("every tag that is written here is a name");
    El { node, kept: Vec::new() }
}

/// An element of a drawing.
#[inline(never)]
pub fn svg(tag: &str) -> El {
    const SVG: &str = "http://www.w3.org/2000/svg";
    let node = document().create_element_ns(Some(SVG), tag).expect("every tag that is written here is a name");
    El { node, kept: Vec::new() }
}

/// An element with a class and a text.
#[inline(never)]
pub fn said(tag: &str, class: &str, text: &str) -> El {
    el(tag).class(class).text(text)
}

/// A button of the kind that does nothing by itself.
pub fn button(class: &str, label: &str, press: impl FnMut(Event) + 'static) -> El {
    said("button", class, label).attr("type", "button").on("click", press)
}

/// A link to a place of the page.
#[inline(never)]
pub fn link(class: &str, href: &str, text: &str) -> El {
    said("a", class, text).attr("href", href)
}

impl El {
    /// Its node.
    pub fn node(&self) -> &Element {
        &self.node
    }

    /// With an attribute.
    #[inline(never)]
    pub fn attr(self, name: &str, value: &str) -> Self {
        set(&self.node, name, Some(value));
        self
    }

    /// With an attribute, where there is a value.
    #[inline(never)]
    pub fn attr_if(self, name: &str, value: Option<&str>) -> Self {
        set(&self.node, name, value);
        self
    }

    /// With a class.
    #[inline(never)]
    pub fn class(self, class: &str) -> Self {
        if !class.is_empty() {
            self.node.set_class_name(class);
        }
        self
    }

    /// With a property of its style: by way of the object model, which the page's policy allows.
    #[inline(never)]
    pub fn style(self, name: &str, value: &str) -> Self {
        set_style(&self.node, name, value);
        self
    }

    /// With a text.
    #[inline(never)]
    pub fn text(self, text: &str) -> Self {
        if !text.is_empty() {
            append(&self.node, &document().create_text_node(text));
        }
        self
    }

    /// With markup that is a constant of the program.
    pub fn markup(self, markup: &'static str) -> Self {
        self.node.set_inner_html(markup);
        self
    }

    /// With another element in it.
    #[inline(never)]
    pub fn child(mut self, child: El) -> Self {
        append(&self.node, &child.node);
        self.kept.push(Kept::Child(child));
        self
    }

    /// With other elements in it.
    pub fn children(self, children: impl IntoIterator<Item = El>) -> Self {
        children.into_iter().fold(self, El::child)
    }

    /// With something that happens on an event.
    pub fn on(self, kind: &'static str, act: impl FnMut(Event) + 'static) -> Self {
        self.listen(kind, Box::new(act))
    }

    #[inline(never)]
    fn listen(mut self, kind: &'static str, act: Box<dyn FnMut(Event)>) -> Self {
        let closure = Closure::wrap(act);
        let _ = self.node.add_event_listener_with_callback(kind, closure.as_ref().unchecked_ref());
        self.kept.push(Kept::Listener(Listener { node: self.node.clone(), kind, closure }));
        self
    }

    #[inline(never)]
    fn follow(mut self, act: Box<dyn FnMut()>) -> Self {
        let mut act = act;
        self.kept.push(Kept::Effect(RenderEffect::new(Box::new(move |_| act()) as Box<dyn FnMut(Option<()>)>)));
        self
    }

    /// With an attribute that follows what it is made of.
    pub fn attr_of(self, name: &'static str, value: impl Fn() -> Option<String> + 'static) -> Self {
        self.bind(Box::new(value), Box::new(move |node, value| set(node, name, value)))
    }

    /// With an attribute that is there or not.
    pub fn flag(self, name: &'static str, is_set: impl Fn() -> bool + 'static) -> Self {
        self.attr_of(name, move || is_set().then(String::new))
    }

    /// With a property of its style that follows what it is made of.
    pub fn style_of(self, name: &'static str, value: impl Fn() -> String + 'static) -> Self {
        let value = move || Some(value());
        self.bind(Box::new(value), Box::new(move |node, value| set_style(node, name, value.unwrap_or_default())))
    }

    /// With a value, as a person types it, that follows what it is made of.
    pub fn value_of(self, value: impl Fn() -> String + 'static) -> Self {
        let set_value = |node: &Element, value: Option<&str>| {
            let value = JsValue::from_str(value.unwrap_or_default());
            // What the person types is there already; setting it again would move the caret.
            if js_sys::Reflect::get(node, &"value".into()).as_ref() != Ok(&value) {
                let _ = js_sys::Reflect::set(node, &"value".into(), &value);
            }
        };
        self.bind(Box::new(move || Some(value())), Box::new(set_value))
    }

    /// With a text that follows what it is made of.
    pub fn text_of(self, text: impl Fn() -> String + 'static) -> Self {
        let shown = document().create_text_node("");
        append(&self.node, &shown);
        self.bind(Box::new(move || Some(text())), Box::new(move |_, text| shown.set_data(text.unwrap_or_default())))
    }

    /// Draws a value, anew where it is another one.
    #[inline(never)]
    fn bind(self, make: Box<dyn Fn() -> Option<String>>, draw: Draw) -> Self {
        let node = self.node.clone();
        let mut drawn = None;
        self.follow(Box::new(move || {
            let value = make();
            if drawn.as_ref() != Some(&value) {
                draw(&node, value.as_deref());
                drawn = Some(value);
            }
        }))
    }

    /// With a part in it that is drawn anew whenever what it is made of changes.
    pub fn part(self, make: impl Fn() -> Vec<El> + 'static) -> Self {
        self.redrawn(Box::new(make))
    }

    #[inline(never)]
    fn redrawn(self, make: Box<dyn Fn() -> Vec<El>>) -> Self {
        let end = self.end();
        let mut shown: Vec<El> = Vec::new();
        self.follow(Box::new(move || {
            let next = make();
            for old in std::mem::replace(&mut shown, next) {
                old.node.remove();
            }
            for new in &shown {
                insert(&new.node, &end);
            }
        }))
    }

    /// With a list in it of which only what comes, goes or moves is touched: `each` names its entries, `draw` draws one.
    pub fn keyed(self, each: impl Fn() -> Vec<String> + 'static, draw: impl Fn(&str) -> Option<El> + 'static) -> Self {
        self.list(Box::new(each), Box::new(draw), None)
    }

    /// The same, saying how many entries are still to come with the next frames, so that there is room for them.
    pub fn keyed_in(
        self,
        missing: RwSignal<usize>,
        each: impl Fn() -> Vec<String> + 'static,
        draw: impl Fn(&str) -> Option<El> + 'static,
    ) -> Self {
        self.list(Box::new(each), Box::new(draw), Some(missing))
    }

    #[inline(never)]
    fn list(self, each: Box<dyn Fn() -> Vec<String>>, draw: DrawEntry, missing: Option<RwSignal<usize>>) -> Self {
        let end = self.end();
        // Entries outlive the effect's runs, so they belong to whoever draws the list.
        let parent = Owner::current().unwrap_or_default();
        let mut shown: Vec<(String, El, Owner)> = Vec::new();
        let mut retired: Vec<(El, Owner)> = Vec::new();
        let again = ArcTrigger::new();
        self.follow(Box::new(move || {
            again.track();
            let mut before = std::mem::take(&mut shown);
            let mut left = 0;
            for key in each() {
                // Lists mostly stay as they are: what is wanted next is mostly the first that is left.
                if let Some(at) = before.iter().position(|(known, ..)| *known == key) {
                    shown.push(before.remove(at));
                    continue;
                }
                if !is_time_left() {
                    left += 1;
                    continue;
                }
                let owner = parent.with(Owner::new);
                if let Some(new) = owner.with(|| untrack(|| draw(&key))) {
                    shown.push((key, new, owner));
                }
            }
            for (_, old, owner) in before {
                old.node.remove();
                retired.push((old, owner));
            }
            while !retired.is_empty() && is_time_left() {
                if let Some((old, owner)) = retired.pop() {
                    drop(old);
                    owner.cleanup();
                }
            }
            if let Some(missing) = missing
                && missing.get_untracked() != left
            {
                missing.set(left);
            }
            if left > 0 || !retired.is_empty() {
                let again = again.clone();
                request_animation_frame(move || again.notify());
            }
            let mut next = end.clone();
            for (_, entry, _) in shown.iter().rev() {
                if entry.node.next_sibling().as_ref() != Some(&next) {
                    insert(&entry.node, &next);
                }
                next = entry.node.clone().into();
            }
        }))
    }

    /// A mark behind which nothing of a part stands.
    fn end(&self) -> Node {
        let end = document().create_text_node("");
        append(&self.node, &end);
        end.into()
    }
}

thread_local! {
    /// Until when lists may be drawn in this frame.
    static DRAWN_UNTIL_MS: Cell<f64> = const { Cell::new(0.0) };
}

/// Whether there is time left in this frame to draw one more entry of a list.
fn is_time_left() -> bool {
    let now_ms = browser::now_ms();
    let until_ms = DRAWN_UNTIL_MS.get();
    if now_ms > until_ms + PAUSE_MS {
        DRAWN_UNTIL_MS.set(now_ms + DRAW_MS_MAX);
        return true;
    }
    now_ms <= until_ms
}

fn set(node: &Element, name: &str, value: Option<&str>) {
    // It fails for names that are none.
    let _ = match value {
        Some(value) => node.set_attribute(name, value),
        None => node.remove_attribute(name),
    };
}

fn set_style(node: &Element, name: &str, value: &str) {
    if let Some(node) = node.dyn_ref::<web_sys::HtmlElement>() {
        let _ = node.style().set_property(name, value);
    }
}

fn append(parent: &Element, child: &Node) {
    // It fails for a node that holds the other.
    let _ = parent.append_child(child);
}

fn insert(node: &Element, before: &Node) {
    if let Some(parent) = before.parent_node() {
        let _ = parent.insert_before(node, Some(before));
    }
}

/// A mounted element.
pub struct Mounted(Rc<RefCell<El>>);

impl Render for El {
    type State = Mounted;

    fn build(self) -> Mounted {
        Mounted(Rc::new(RefCell::new(self)))
    }

    fn rebuild(self, state: &mut Mounted) {
        let old = state.0.replace(self);
        let _ = old.node.replace_with_with_node_1(&state.0.borrow().node);
    }
}

impl Mountable for Mounted {
    fn unmount(&mut self) {
        self.0.borrow().node.remove();
    }

    fn mount(&mut self, parent: &types::Element, marker: Option<&types::Node>) {
        let _ = parent.insert_before(&self.0.borrow().node, marker);
    }

    fn insert_before_this(&self, child: &mut dyn Mountable) -> bool {
        let node = self.0.borrow().node.clone();
        match node.parent_element() {
            Some(parent) => {
                child.mount(&parent, Some(&node));
                true
            }
            None => false,
        }
    }

    fn elements(&self) -> Vec<types::Element> {
        vec![self.0.borrow().node.clone()]
    }
}
