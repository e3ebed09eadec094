//! The app: what its parts share, and where it stands.

use std::{collections::BTreeSet, ops::Deref, sync::Arc};

use leptos::{mount::mount_to_renderer, prelude::*};
use rollcall_client::Client;
use rollcall_shared::{Record, api::UNDO_S};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::spawn_local;
use web_sys::{Element, Event, HtmlElement, MouseEvent};

use crate::{
    browser,
    components::{
        dialog::{Ask, dialog},
        element::{El, el, follow},
        later::{self, Later},
        services::service_list,
        sheet::sheet,
        toasts::toasts,
        top::{state, top_bar},
    },
    keys,
    pages::{overview::overview, service::service_page},
    route::Address,
    search::Search,
    store::Store,
    view::{Column, Query},
    words,
};

/// The widest window that is shown as one column, in pixels. The stylesheet has the same number.
const NARROW_PX: f64 = 700.0;

/// How many notes are kept in sight at once.
const TOASTS_MAX: usize = 3;

/// How long a note stays that takes nothing back, in milliseconds.
const TOAST_MS: f64 = 8_000.0;

/// Something to be told in passing.
#[derive(Debug, Clone, PartialEq)]
pub struct Toast {
    /// Tells it from the others.
    pub number: u64,
    /// What happened.
    pub text: String,
    /// What takes it back.
    pub undo: Option<Undo>,
    /// When it goes.
    pub until_ms: f64,
}

/// What takes something back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    /// The server's tokens, one an act.
    pub tokens: Vec<String>,
    /// What it was done to, as a person calls it.
    pub name: String,
    /// Whether it puts back what was taken out.
    pub puts_back: bool,
}

/// What the parts of the page share. A handle, as small as a handle can be: every listener and every effect holds one.
#[derive(Clone, Copy)]
pub struct Ui(&'static Shared);

impl Deref for Ui {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        self.0
    }
}

/// What the parts of the page share.
pub struct Shared {
    /// What is known.
    pub store: Store,
    client: StoredValue<Client>,
    /// Where the page stands.
    pub address: RwSignal<Address>,
    /// What is searched.
    pub search: Memo<Search>,
    /// What the table is sorted by, and whether from the greatest to the least.
    pub sort: RwSignal<(Column, bool)>,
    /// What the dialog asks; it is open while there is something.
    pub dialog: RwSignal<Option<Ask>>,
    /// Whether the register form is open.
    pub form: RwSignal<bool>,
    /// The key whose details are being edited.
    pub editing: RwSignal<Option<String>>,
    /// The keys of the rows that are selected.
    pub selected: RwSignal<BTreeSet<String>>,
    /// Whether something that this page took out within the last minute might come back by itself.
    pub waits: RwSignal<bool>,
    /// What is told in passing, newest first.
    pub toasts: RwSignal<Vec<Toast>>,
    /// Whether the window is shown as one column.
    pub narrow: RwSignal<bool>,
    /// Moves when the window's size does.
    pub resized: Trigger,
    /// Whether a narrow page shows the activity.
    pub activity: RwSignal<bool>,
    /// The row that the keyboard is at.
    pub at: RwSignal<Option<String>>,
    /// Whether the part of the program that comes later stands.
    pub later: RwSignal<bool>,
    /// Whether Chinese is spoken instead of English.
    pub chinese: RwSignal<bool>,
    /// The key of the metadata that the table shows; empty for where an instance runs.
    pub column: RwSignal<String>,
    /// Moves every ten seconds while the page is seen.
    pub slow: Memo<usize>,
}

/// Mounts the app in place of the page's frame, as soon as the words are there.
pub fn start() {
    spawn_local(async {
        let chinese = browser::chosen("lang").is_some_and(|lang| lang.starts_with("zh"));
        let chinese = chinese && speak(true).await;
        let root: HtmlElement = document()
            .get_element_by_id("app")
            .and_then(|root| root.dyn_into().ok())
            .expect("index.html has an element #app");
        root.set_inner_html("");
        mount_to_renderer(&root, move || app(chinese)).forget();
    });
}

/// Speaks Chinese from now on, or English. Says whether that is Chinese.
async fn speak(chinese: bool) -> bool {
    let file = if chinese { browser::file("words/zh.txt").await } else { None };
    let chinese = words::speak(file.as_deref()) && file.is_some();
    browser::choose("lang", if chinese { "zh-CN" } else { "en" });
    chinese
}

impl Ui {
    fn start(chinese: bool) -> Self {
        let client = Client::new(&browser::base());
        let address = RwSignal::new(here());
        let store = Store::start(&client);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
        let slow = Memo::new(move |_| (store.now_ms.get() / 10_000.0) as usize);
        let shared = Shared {
            store,
            client: StoredValue::new(client),
            address,
            search: Memo::new(move |_| {
                address.with(|address| Search::parse(&address.search, browser::matches_pattern))
            }),
            sort: RwSignal::new((Column::Key, false)),
            dialog: RwSignal::new(None),
            form: RwSignal::new(false),
            editing: RwSignal::new(None),
            selected: RwSignal::new(BTreeSet::new()),
            waits: RwSignal::new(false),
            toasts: RwSignal::new(Vec::new()),
            narrow: RwSignal::new(is_narrow()),
            resized: Trigger::new(),
            activity: RwSignal::new(false),
            at: RwSignal::new(None),
            later: RwSignal::new(false),
            chinese: RwSignal::new(chinese),
            column: RwSignal::new(browser::recalled("rollcall-column").unwrap_or_default()),
            slow,
        };
        // It is there for as long as the page is.
        let ui = Self(Box::leak(Box::new(shared)));
        window_event_listener_untyped("popstate", move |_| ui.address.set(here()));
        window_event_listener_untyped("resize", move |_| {
            if ui.narrow.get_untracked() != is_narrow() {
                ui.narrow.set(is_narrow());
            }
            ui.resized.notify();
        });
        window_event_listener_untyped("click", move |event| ui.follow_link(&event));
        window_event_listener_untyped("keydown", move |event| later::press(ui, event));
        follow(move || {
            let (column, descending) = ui.sort.get();
            let service = ui.address.with(|address| address.service.clone());
            ui.store.ask(Query { service, search: ui.search.get(), column, descending });
        });
        follow(move || {
            let title = ui.address.with(|address| match &address.service {
                Some(name) => [name, " · ", words::NAME.text()].concat(),
                None => words::NAME.text().to_owned(),
            });
            document().set_title(&title);
        });
        ui
    }

    /// The client, to ask and to act.
    pub fn client(self) -> Client {
        self.client.get_value()
    }

    /// Goes to an address; the browser's back button comes back.
    pub fn go(self, address: Address) {
        if self.address.with_untracked(|here| *here != address) {
            Self::write(&address, false);
            self.activity.set(false);
            if self.editing.with_untracked(|editing| editing.is_some() && *editing != address.key) {
                self.editing.set(None);
            }
            self.address.set(address);
        }
    }

    /// The search has changed: the same place, with another query.
    pub fn search_for(self, text: String) {
        let mut address = self.address.get_untracked();
        address.search = text;
        Self::write(&address, true);
        self.address.set(address);
    }

    fn write(address: &Address, replace: bool) {
        let Ok(history) = window().history() else { return };
        let href = Some(address.href());
        // It fails for an address of another origin, which ours never is.
        let _ = if replace {
            history.replace_state_with_url(&JsValue::NULL, "", href.as_deref())
        } else {
            history.push_state_with_url(&JsValue::NULL, "", href.as_deref())
        };
    }

    /// The address of an instance's details, from here.
    pub fn details_of(self, key: &str) -> Address {
        Address { key: Some(key.to_owned()), ..self.address.get_untracked() }
    }

    /// Closes the sheet at the side, if one is open.
    pub fn close_sheet(self) -> bool {
        if self.form.get_untracked() {
            self.form.set(false);
        } else if self.editing.with_untracked(Option::is_some) {
            self.editing.set(None);
        } else if self.address.with_untracked(|address| address.key.is_some()) {
            self.go(Address { key: None, ..self.address.get_untracked() });
        } else {
            return false;
        }
        keys::keep_focus(self);
        true
    }

    /// Opens the form that edits what stands under a key.
    pub fn edit(self, key: String) {
        self.form.set(false);
        self.go(self.details_of(&key));
        self.editing.set(Some(key));
    }

    /// Asks whether an instance is to be taken out.
    pub fn deregister(self, record: Arc<Record>) {
        self.dialog.set(Some(Ask::Deregister(record)));
    }

    /// Tells something in passing, and gives the note's number.
    pub fn tell(self, text: String, undo: Option<Undo>) -> u64 {
        self.tell_instead(0, text, undo)
    }

    /// Tells something in the place of the note of that number, if it is still there.
    pub fn tell_instead(self, number: u64, text: String, undo: Option<Undo>) -> u64 {
        self.tell_until(number, text, undo, None)
    }

    /// The same; what can be taken back can be so until then, and for a minute where nothing is said.
    pub fn tell_until(self, number: u64, text: String, undo: Option<Undo>, until_ms: Option<f64>) -> u64 {
        let now_ms = browser::now_ms();
        #[expect(clippy::cast_precision_loss, reason = "it is a minute")]
        let until_ms = match undo {
            Some(_) => until_ms.unwrap_or(now_ms + UNDO_S as f64 * 1_000.0),
            None => 0.0,
        };
        let until_ms = until_ms.max(now_ms + TOAST_MS);
        let mut toasts = self.toasts.get_untracked();
        let next = toasts.iter().map(|toast| toast.number).max().unwrap_or_default() + 1;
        let at = toasts.iter().position(|toast| toast.number == number);
        // A note that says something else is another one, in the same place.
        let toast = Toast { number: next, text, undo, until_ms };
        match at {
            Some(at) => toasts[at] = toast,
            None => toasts.insert(0, toast),
        }
        // What can be taken back stays for as long as it can.
        while toasts.len() > TOASTS_MAX {
            let Some(place) = toasts.iter().rposition(|toast| toast.undo.is_none()) else { break };
            toasts.remove(place);
        }
        self.toasts.set(toasts);
        next
    }

    /// Light or dark, from now on as chosen.
    pub fn switch_theme() {
        let chosen = browser::chosen("data-theme");
        let dark = chosen.map_or_else(browser::prefers_dark, |theme| theme == "dark");
        let theme = if dark { "light" } else { "dark" };
        browser::choose("data-theme", theme);
        browser::remember("rollcall-theme", theme);
    }

    /// Dense rows or comfortable ones, from now on as chosen.
    pub fn switch_rows(self) {
        let rows = if browser::row_px() == 32 { "comfortable" } else { "dense" };
        browser::choose("data-rows", rows);
        browser::remember("rollcall-rows", rows);
        self.resized.notify();
    }

    /// The other language, from now on as chosen. All is drawn anew; what is known stays.
    pub fn switch_language(self) {
        spawn_local(async move {
            let wanted = !self.chinese.get_untracked();
            let chinese = speak(wanted).await;
            if chinese == wanted {
                browser::remember("rollcall-language", if chinese { "zh" } else { "en" });
                self.chinese.set(chinese);
                browser::focus("button.language");
            }
        });
    }

    /// Our own links lead to places of the page, without asking the server.
    fn follow_link(self, event: &Event) {
        let Some(click) = event.dyn_ref::<MouseEvent>() else { return };
        if click.default_prevented() || click.button() != 0 || click.ctrl_key() || click.meta_key() || click.shift_key()
        {
            return;
        }
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        let link = target.and_then(|target| target.closest("a[href]").ok().flatten());
        if let Some(href) = link.and_then(|link| link.get_attribute("href")) {
            event.prevent_default();
            let (path, query) = href.split_once('?').unwrap_or((&href, ""));
            self.go(Address::parse(path.trim_start_matches("./"), query));
        }
    }
}

fn here() -> Address {
    let location = window().location();
    let path = location.pathname().unwrap_or_default();
    let base = browser::base_path();
    let path = path.strip_prefix(&base).unwrap_or(&path);
    let query = location.search().unwrap_or_default();
    Address::parse(path, query.trim_start_matches('?'))
}

fn is_narrow() -> bool {
    window().inner_width().ok().and_then(|width| width.as_f64()).is_some_and(|width| width <= NARROW_PX)
}

fn app(chinese: bool) -> El {
    let ui = Ui::start(chinese);
    later::fetch_when_quiet(ui);
    el("div").part(move || {
        ui.chinese.track();
        vec![page(ui)]
    })
}

fn page(ui: Ui) -> El {
    let service = Memo::new(move |_| ui.address.with(|address| address.service.clone()));
    let kind = move || Some(if service.with(Option::is_some) { "service" } else { "overview" }.to_owned());
    let pane = move || Some(if ui.activity.get() { "activity" } else { "list" }.to_owned());
    let is_stale = move || ui.store.ready.get() && state(&ui.store.status.get()) != "live";
    let is_empty = ui.store.overall(|live| live.catalog().is_empty());
    let middle = move || match service.get() {
        Some(name) => service_page(ui, name),
        None => overview(ui),
    };
    let frame = el("div")
        .class("app")
        .attr_of("data-page", kind)
        .attr_of("data-pane", pane)
        .flag("data-stale", is_stale)
        .flag("data-empty", move || is_empty.get())
        .child(top_bar(ui))
        .child(service_list(ui))
        .child(el("main").class("main").attr("id", "main").attr("tabindex", "-1").part(middle))
        .part(move || later::when_it_stands(ui, Later::Activity))
        .child(sheet(ui));
    // The bar comes before the notes, so that they know to stand above it.
    let hands = move || later::when_it_stands(ui, Later::Hands);
    let is_selecting = move || ui.selected.with(|selected| !selected.is_empty());
    el("div").flag("data-selecting", is_selecting).child(frame).child(dialog(ui)).part(hands).child(toasts(ui))
}
