//! The live store: what the page knows, and signals for what changed of it.
//!
//! Messages are folded in as they come; what they changed is drawn at most once a frame, and only the rows, services
//! and lists that it concerns are touched. In a hidden tab there are no frames and no timers: folding goes on, and on
//! return everything is right at once. Must not know: components.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use leptos::{leptos_dom::helpers::IntervalHandle, prelude::*, reactive::signal::ArcTrigger};
use rollcall_client::{Client, Connection, EventsHandle, Message};
use rollcall_shared::{Record, RegistryEvent, api::EtcdState};
use wasm_bindgen_futures::spawn_local;

use crate::{
    browser,
    live::{Happening, Live, Row, Summary},
    view::{Query, View},
};

/// The server speaks at least every 10 s; a line that is silent for longer than this is dead, in milliseconds.
const SILENCE_MS_MAX: f64 = 25_000.0;

/// How long a search may hold the page up before it gives way to a frame, in milliseconds.
const LOOK_MS_MAX: f64 = 5.0;

/// What counts everything is drawn anew at most so often, in milliseconds: nobody reads faster.
const OVERALL_MS_MIN: f64 = 500.0;

/// How it is with the line and with etcd.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Status {
    /// The line to the server.
    pub connection: Connection,
    /// etcd, and since when it has been so.
    pub etcd: Option<(EtcdState, f64)>,
    /// Whether the server says what this page does not understand.
    pub unreadable: bool,
}

/// The live store. A handle: copies are of the same store.
#[derive(Clone, Copy)]
pub struct Store {
    state: StoredValue<State, LocalStorage>,
    /// How it is with the line and with etcd.
    pub status: RwSignal<Status>,
    /// Whether the first snapshot stands.
    pub ready: RwSignal<bool>,
    /// How many records of a snapshot under way have come.
    pub incoming: RwSignal<usize>,
    /// The moment that everything that ticks shows, by [`browser::now_ms`]; moves once a second while the page is seen.
    pub now_ms: RwSignal<f64>,
    /// Whether a search is still being looked through.
    pub looking: RwSignal<bool>,
    names: Trigger,
    anything: Trigger,
    feed: Trigger,
    listed: Trigger,
}

struct State {
    live: Live,
    /// What the search means, of all services.
    found: View,
    /// The table of one service.
    table: View,
    due: Due,
    rows: Watched,
    services: Watched,
    frame_due: bool,
    timer: Option<IntervalHandle>,
    events: Option<EventsHandle>,
}

/// What is drawn only so often, and waits for its turn.
#[derive(Default)]
struct Due {
    drawn_ms: f64,
    anything: bool,
    feed: bool,
    services: HashSet<String>,
}

/// Who is drawn now, by key or name, with what tells them to draw anew.
type Watched = HashMap<String, (ArcTrigger, usize)>;

impl Store {
    /// The store of the page, fed by the stream of `client`.
    pub fn start(client: &Client) -> Self {
        let mut events = client.shared_events(&browser::stream_worker());
        let store = Self {
            state: StoredValue::new_local(State {
                live: Live::default(),
                found: View::default(),
                table: View::default(),
                due: Due::default(),
                rows: Watched::new(),
                services: Watched::new(),
                frame_due: false,
                timer: None,
                events: Some(events.handle()),
            }),
            status: RwSignal::new(Status { connection: Connection::Connecting, etcd: None, unreadable: false }),
            ready: RwSignal::new(false),
            incoming: RwSignal::new(0),
            now_ms: RwSignal::new(browser::now_ms()),
            looking: RwSignal::new(false),
            names: Trigger::new(),
            anything: Trigger::new(),
            feed: Trigger::new(),
            listed: Trigger::new(),
        };
        spawn_local(async move {
            while let Some(message) = events.next().await {
                store.take(message);
            }
        });
        store.follow_visibility();
        window_event_listener_untyped("visibilitychange", move |_| store.follow_visibility());
        store
    }

    fn take(self, message: Message) {
        let now_ms = browser::now_ms();
        match message {
            Message::Event { event, .. } => self.fold(&event, now_ms),
            Message::Ttl(event) => self.state.update_value(|state| state.live.hear_leases(&event, now_ms)),
            Message::Status(event) => {
                #[expect(clippy::cast_precision_loss, reason = "nothing lasts 2^52 seconds")]
                let since_ms = now_ms - event.for_s as f64 * 1_000.0;
                self.state.update_value(|state| state.live.set_etcd_away(event.etcd != EtcdState::Live, now_ms));
                self.set_status(|status| {
                    // Said every few seconds; the moment is kept where it is the same state.
                    if status.etcd.is_none_or(|(etcd, _)| etcd != event.etcd) {
                        status.etcd = Some((event.etcd, since_ms));
                    }
                });
            }
            Message::Connection(connection) => self.set_status(|status| status.connection = connection),
            Message::Unreadable(_) => self.set_status(|status| status.unreadable = true),
            Message::Bye(_) => {}
        }
        self.draw_soon();
    }

    fn fold(self, event: &RegistryEvent, now_ms: f64) {
        let folded = self
            .state
            .try_update_value(|state| {
                let folded = state.live.apply(event, now_ms);
                if folded.is_err()
                    && let Some(events) = &state.events
                {
                    // What came does not fit what is known: nothing but a fresh snapshot helps.
                    events.start_over();
                }
                folded.is_ok()
            })
            .unwrap_or(false);
        if folded && !self.ready.get_untracked() {
            let (ready, incoming) =
                self.read(|live| (live.is_ready(), live.catalog().incoming_records().unwrap_or_default()));
            self.incoming.set(incoming);
            if ready {
                self.ready.set(true);
            }
        }
    }

    fn set_status(self, change: impl FnOnce(&mut Status)) {
        let before = self.status.get_untracked();
        let mut after = before;
        change(&mut after);
        if after != before {
            self.status.set(after);
        }
    }

    fn draw_soon(self) {
        let due = self.state.try_update_value(|state| {
            let due = !state.frame_due && (state.is_urgent() || state.is_looking());
            state.frame_due |= due;
            due
        });
        if due == Some(true) {
            request_animation_frame(move || {
                self.state.update_value(|state| state.frame_due = false);
                self.draw();
            });
        }
    }

    /// Tells everyone whose part has changed, and looks on for what is searched.
    fn draw(self) {
        let now_ms = browser::now_ms();
        let told = self.state.try_update_value(|state| {
            let dirty = state.live.take_dirty();
            let (mut told, mut of_all) = (Vec::new(), Vec::new());
            if dirty.all_renewed && !dirty.all {
                told.extend(state.rows.values().map(|(trigger, _)| trigger.clone()));
            }
            if dirty.all {
                told.extend(state.rows.values().map(|(trigger, _)| trigger.clone()));
                told.extend(state.services.values().map(|(trigger, _)| trigger.clone()));
            } else {
                let changed = dirty.keys.keys().chain(&dirty.renewed);
                told.extend(changed.filter_map(|key| Some(state.rows.get(key)?.0.clone())));
                state.due.services.extend(dirty.services.iter().cloned());
            }
            // While much happens, what sums it up is drawn with the clock's tick: nobody reads faster.
            let is_calm = !state.live.in_burst();
            if is_calm {
                told.extend(state.take_services());
            }
            let (mut listed, mut names) = (false, dirty.names);
            for view in [&mut state.table, &mut state.found] {
                if is_asked(view.query()) {
                    let moved = view.follow(&dirty, &state.live);
                    listed |= moved.rows;
                    names |= moved.services;
                }
            }
            let found = state.look(now_ms);
            if listed || found {
                of_all.push(self.listed);
            }
            if names || found {
                of_all.push(self.names);
            }
            state.due.anything |= names || dirty.all || !dirty.keys.is_empty();
            state.due.feed |= dirty.feed;
            let is_time = is_calm && now_ms - state.due.drawn_ms >= OVERALL_MS_MIN;
            if state.due.anything && (names || is_time) {
                state.due.anything = false;
                state.due.drawn_ms = now_ms;
                of_all.push(self.anything);
            }
            if state.due.feed && is_calm {
                state.due.feed = false;
                of_all.push(self.feed);
            }
            (told, of_all, state.is_looking())
        });
        let Some((told, of_all, looking)) = told else { return };
        for trigger in told {
            trigger.notify();
        }
        for trigger in of_all {
            trigger.notify();
        }
        if self.looking.get_untracked() != looking {
            self.looking.set(looking);
        }
        self.draw_soon();
    }

    /// What the page shows from now on: which service, what is searched, and in which order.
    pub fn ask(self, query: Query) {
        self.state.update_value(|state| {
            let (table, found) = if query.service.is_some() {
                // Which services it means is asked beside the table of one.
                let found = Query { search: query.search.clone(), ..Query::default() };
                (query, found)
            } else {
                (Query::default(), query)
            };
            for (view, query) in [(&mut state.table, table), (&mut state.found, found)] {
                if *view.query() != query {
                    view.ask(query);
                }
            }
        });
        self.listed.notify();
        self.names.notify();
        // What has changed meanwhile is taken in before anything is looked at.
        self.draw();
    }

    /// One timer for all that ticks, and none in a hidden tab.
    fn follow_visibility(self) {
        let visible = browser::is_visible();
        if visible {
            self.tick();
        }
        self.state.update_value(|state| {
            if let Some(timer) = state.timer.take() {
                timer.clear();
            }
            if visible {
                state.timer = set_interval_with_handle(move || self.tick(), Duration::from_secs(1)).ok();
            }
        });
    }

    fn tick(self) {
        let now_ms = browser::now_ms();
        self.state.update_value(|state| {
            state.live.tick(now_ms);
            if let Some(events) = &state.events {
                events.check(SILENCE_MS_MAX);
            }
        });
        // What was not urgent waited for this.
        self.draw();
        let told = self.state.try_update_value(|state| {
            let services = state.take_services();
            let due = std::mem::take(&mut state.due);
            state.due.drawn_ms = now_ms;
            let State { live, table, found, .. } = state;
            (due, services, table.settle(live) | found.settle(live))
        });
        let (due, services, listed) = told.unwrap_or_default();
        for trigger in services {
            trigger.notify();
        }
        for (trigger, due) in [(self.anything, due.anything), (self.feed, due.feed), (self.listed, listed)] {
            if due {
                trigger.notify();
            }
        }
        self.now_ms.set(now_ms);
    }

    /// Reads what is known now, without following it.
    pub fn read<T>(self, read: impl FnOnce(&Live) -> T) -> T {
        self.state.with_value(|state| read(&state.live))
    }

    /// A row, for as long as whoever asks is drawn.
    pub fn row(self, key: &str) -> Memo<Option<Row>> {
        let trigger = self.watch(key, |state| &mut state.rows);
        let key = key.to_owned();
        Memo::new(move |_| {
            trigger.track();
            self.read(|live| live.row(&key))
        })
    }

    /// A service in short, for as long as whoever asks is drawn.
    pub fn summary(self, name: &str) -> Memo<Summary> {
        let trigger = self.watch(name, |state| &mut state.services);
        let name = name.to_owned();
        Memo::new(move |_| {
            trigger.track();
            self.read(|live| live.summary(&name))
        })
    }

    /// The points at which a service's number of instances changed, oldest first.
    pub fn curve(self, name: &str) -> Memo<Arc<Vec<(f64, usize)>>> {
        let trigger = self.watch(name, |state| &mut state.services);
        let name = name.to_owned();
        Memo::new(move |_| {
            trigger.track();
            Arc::new(self.read(|live| live.curve(&name).to_vec()))
        })
    }

    /// How many rows the table has.
    pub fn row_count(self) -> usize {
        self.listed.track();
        self.with_rows(<[_]>::len)
    }

    /// The keys of the rows from one place of the table to another.
    pub fn keys(self, start: usize, end: usize) -> Vec<String> {
        self.listed.track();
        self.with_rows(|rows| {
            let shown = rows.get(start..end.min(rows.len())).unwrap_or_default();
            shown.iter().map(|record| record.key.clone()).collect()
        })
    }

    /// Reads the rows of the table in their order, without following them.
    pub fn with_rows<T>(self, read: impl FnOnce(&[Arc<Record>]) -> T) -> T {
        self.state.with_value(|state| {
            let view = if state.table.query().service.is_some() { &state.table } else { &state.found };
            read(if is_asked(view.query()) { view.rows() } else { &[] })
        })
    }

    /// The names of the services that the search means.
    pub fn service_names(self) -> Memo<Arc<Vec<String>>> {
        Memo::new(move |_| {
            self.names.track();
            Arc::new(self.state.with_value(|state| {
                if is_asked(state.found.query()) {
                    state.found.services().keys().cloned().collect()
                } else {
                    state.live.names()
                }
            }))
        })
    }

    /// Whoever asks is drawn anew whenever anything changes.
    pub fn follow_anything(self) {
        self.anything.track();
    }

    /// Something about all there is, anew whenever anything changes.
    pub fn overall<T: Clone + PartialEq + Send + Sync + 'static>(
        self,
        read: impl Fn(&Live) -> T + Send + Sync + 'static,
    ) -> Memo<T> {
        Memo::new(move |_| {
            self.anything.track();
            self.read(&read)
        })
    }

    /// What happened, newest first, at most so many; with a key, only what happened to that.
    pub fn feed(self, most: usize, key: Option<String>) -> Memo<Vec<Happening>> {
        Memo::new(move |_| {
            self.feed.track();
            let wanted = |happening: &&Happening| {
                key.is_none() || happening.what.record().map(|record| &record.key) == key.as_ref()
            };
            self.read(|live| live.feed().filter(wanted).take(most).cloned().collect())
        })
    }

    fn watch(self, name: &str, watched: fn(&mut State) -> &mut Watched) -> ArcTrigger {
        let trigger = self.state.try_update_value(|state| {
            let (trigger, watchers) = watched(state).entry(name.to_owned()).or_insert_with(|| (ArcTrigger::new(), 0));
            *watchers += 1;
            trigger.clone()
        });
        let name = name.to_owned();
        on_cleanup(move || {
            self.state.try_update_value(|state| forget(watched(state), &name));
        });
        trigger.unwrap_or_default()
    }
}

impl State {
    fn is_urgent(&mut self) -> bool {
        // Where rows are sorted or searched by what they say, each change may move them.
        let moves_with_words = [&self.table, &self.found].into_iter().any(View::moves_with_words);
        let State { live, rows, .. } = self;
        live.is_urgent(|key| rows.contains_key(key)) || (moves_with_words && live.is_dirty())
    }

    /// Who draws the services that changed.
    fn take_services(&mut self) -> Vec<ArcTrigger> {
        let changed = std::mem::take(&mut self.due.services);
        changed.iter().filter_map(|name| Some(self.services.get(name)?.0.clone())).collect()
    }

    fn is_looking(&self) -> bool {
        [&self.table, &self.found].into_iter().any(|view| is_asked(view.query()) && view.is_looking())
    }

    /// Looks on for what is asked, the table first, for as long as a frame may be held up. Says whether it looked.
    fn look(&mut self, began_ms: f64) -> bool {
        let mut looked = false;
        for view in [&mut self.table, &mut self.found] {
            if is_asked(view.query()) && view.is_looking() {
                let is_time_left = || browser::now_ms() - began_ms < LOOK_MS_MAX;
                if !looked || is_time_left() {
                    view.step(&self.live, is_time_left);
                    looked = true;
                }
            }
        }
        looked
    }
}

/// Whether a table is shown for it: the overview lists no instances while nothing is searched.
fn is_asked(query: &Query) -> bool {
    query.service.is_some() || !query.search.is_empty()
}

fn forget(watched: &mut Watched, name: &str) {
    if let Some((_, watchers)) = watched.get_mut(name) {
        *watchers -= 1;
        if *watchers == 0 {
            watched.remove(name);
        }
    }
}
