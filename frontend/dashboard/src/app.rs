//! The app: what its parts share, where it stands, and its keys.

use std::{ops::Deref, sync::Arc};

use leptos::{mount::mount_to_renderer, prelude::*};
use rollcall_client::{Client, ClientError};
use rollcall_shared::{Record, api::UNDO_S};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::spawn_local;
use web_sys::{Element, Event, HtmlElement, KeyboardEvent, MouseEvent};

use crate::{
    browser,
    components::{
        activity::activity,
        announcer::announcer,
        dialog::dialog,
        element::{El, el},
        later,
        services::service_list,
        sheet::sheet,
        toasts::toasts,
        top::{state, top_bar},
    },
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

/// Something to be told in passing.
#[derive(Debug, Clone, PartialEq)]
pub struct Toast {
    /// Tells it from the others.
    pub number: u64,
    /// What happened.
    pub text: String,
    /// What takes it back, and the instance's id.
    pub undo: Option<(String, String)>,
    /// When it goes.
    pub until_ms: f64,
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
    /// What the dialog would take out; it is open while there is something.
    pub dialog: RwSignal<Option<Arc<Record>>>,
    /// Whether the register form is open.
    pub form: RwSignal<bool>,
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
        window_event_listener_untyped("keydown", move |event| ui.press(&event));
        Effect::new(move |_| {
            let (column, descending) = ui.sort.get();
            let service = ui.address.with(|address| address.service.clone());
            ui.store.ask(Query { service, search: ui.search.get(), column, descending });
        });
        Effect::new(move |_| {
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

    /// Closes the sheet at the side.
    pub fn close_sheet(self) {
        if self.form.get_untracked() {
            self.form.set(false);
        } else if self.address.with_untracked(|address| address.key.is_some()) {
            self.go(Address { key: None, ..self.address.get_untracked() });
        }
    }

    /// Tells something in passing; `undo` is the token that takes it back, and the instance's id.
    pub fn tell(self, text: String, undo: Option<(String, String)>) {
        let now_ms = browser::now_ms();
        #[expect(clippy::cast_precision_loss, reason = "it is a minute")]
        let lasts_ms = if undo.is_some() { UNDO_S as f64 * 1_000.0 } else { 8_000.0 };
        self.toasts.update(|toasts| {
            let number = toasts.iter().map(|toast| toast.number).max().unwrap_or_default() + 1;
            toasts.insert(0, Toast { number, text, undo, until_ms: now_ms + lasts_ms });
            toasts.truncate(TOASTS_MAX);
        });
    }

    /// Takes a deregistration back.
    pub fn undo(self, toast: Toast) {
        let Some((token, id)) = toast.undo else { return };
        self.toasts.update(|toasts| toasts.retain(|other| other.number != toast.number));
        let client = self.client();
        spawn_local(async move {
            let text = match client.undo(&token).await {
                Ok(_) => words::put_back(&id),
                Err(error) => error.to_string(),
            };
            self.tell(text, None);
        });
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

    fn press(self, event: &Event) {
        let Some(event) = event.dyn_ref::<KeyboardEvent>() else { return };
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        let typing = target.as_ref().is_some_and(|target| target.matches("input, textarea, select").unwrap_or(false));
        if self.dialog.with_untracked(Option::is_some) || event.ctrl_key() || event.meta_key() || event.alt_key() {
            return;
        }
        match event.key().as_str() {
            "Escape"
                if typing && target.as_ref().is_some_and(|target| target.matches("[type=search]").unwrap_or(false)) =>
            {
                self.search_for(String::new());
                browser::focus("#main");
            }
            "Escape" => self.close_sheet(),
            _ if typing => return,
            "/" => browser::focus("input[type=search]"),
            "t" => Self::switch_theme(),
            "r" => self.form.set(true),
            "z" => {
                let newest =
                    self.toasts.with_untracked(|toasts| toasts.iter().find(|toast| toast.undo.is_some()).cloned());
                if let Some(toast) = newest {
                    self.undo(toast);
                }
            }
            "j" => self.step(1),
            "k" => self.step(-1),
            "Enter" if target.is_none_or(|target| !target.matches("a, button").unwrap_or(false)) => {
                if let Some(key) = self.at.get_untracked() {
                    self.go(self.details_of(&key));
                }
            }
            "d" => {
                let key = self.address.with_untracked(|address| address.key.clone()).or(self.at.get_untracked());
                let record = key.and_then(|key| self.store.read(|live| live.catalog().get(&key).cloned()));
                if record.is_some() {
                    self.dialog.set(record);
                }
            }
            _ => return,
        }
        event.prevent_default();
    }

    /// Moves the keyboard's row among those of the table that is shown.
    fn step(self, by: i32) {
        let Ok(rows) = document().query_selector_all("[data-testid=instance]") else { return };
        let row = |index: u32| rows.item(index).and_then(|row| row.dyn_into::<Element>().ok());
        let key = |index: u32| row(index).and_then(|row| row.get_attribute("data-key"));
        let at = self.at.get_untracked();
        let here = (0..rows.length()).find(|index: &u32| key(*index) == at && at.is_some());
        let next = match here {
            Some(here) => here.saturating_add_signed(by).min(rows.length().saturating_sub(1)),
            None => 0,
        };
        if let Some(row) = row(next) {
            self.at.set(row.get_attribute("data-key"));
            row.scroll_into_view_with_bool(false);
        }
    }
}

/// The words for an error, and whether nothing was changed.
pub fn why(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) if problem.status < 500 => problem.detail.clone(),
        error => [&*error.to_string(), ". ", words::NOTHING_CHANGED.text()].concat(),
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
        .child(activity(ui))
        .child(sheet(ui));
    el("div").child(frame).child(dialog(ui)).child(toasts(ui)).child(announcer(ui))
}
