//! The live store: what the page knows, and signals for what changed of it.
//!
//! Messages are folded in as they come; what they changed is drawn at most once a frame, and only the rows, services
//! and lists that it concerns are touched. In a hidden tab there are no frames and no timers: folding goes on, and on
//! return everything is right at once. Must not know: components.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use leptos::{leptos_dom::helpers::IntervalHandle, prelude::*, reactive::signal::ArcTrigger};
use rollcall_client::{Client, Connection, EventsHandle, Message};
use rollcall_shared::{Record, RegistryEvent, api::EtcdState};
use wasm_bindgen_futures::spawn_local;

use crate::{
    browser,
    live::{Happening, Live, Row, Summary},
    search::Search,
};

/// The server speaks at least every 10 s; a line that is silent for longer than this is dead, in milliseconds.
const SILENCE_MS_MAX: f64 = 25_000.0;

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
    names: Trigger,
    anything: Trigger,
    feed: Trigger,
}

struct State {
    live: Live,
    rows: Watched,
    services: Watched,
    frame_due: bool,
    timer: Option<IntervalHandle>,
    events: Option<EventsHandle>,
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
            names: Trigger::new(),
            anything: Trigger::new(),
            feed: Trigger::new(),
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
            let due = state.live.is_dirty() && !state.frame_due;
            state.frame_due |= due;
            due
        });
        if due == Some(true) {
            request_animation_frame(move || self.draw());
        }
    }

    /// Tells everyone whose part has changed.
    fn draw(self) {
        let told = self.state.try_update_value(|state| {
            state.frame_due = false;
            let dirty = state.live.take_dirty();
            let mut told = Vec::new();
            if dirty.leases {
                told.extend(state.rows.values().map(|(trigger, _)| trigger.clone()));
            } else {
                told.extend(dirty.keys.iter().filter_map(|key| Some(state.rows.get(key)?.0.clone())));
            }
            told.extend(dirty.services.iter().filter_map(|name| Some(state.services.get(name)?.0.clone())));
            (dirty, told)
        });
        let Some((dirty, told)) = told else { return };
        for trigger in told {
            trigger.notify();
        }
        if dirty.names {
            self.names.notify();
        }
        if dirty.names || !dirty.keys.is_empty() {
            self.anything.notify();
        }
        if dirty.feed {
            self.feed.notify();
        }
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
        self.now_ms.set(now_ms);
        self.draw_soon();
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

    /// The rows of a service, or of all, that the search means.
    pub fn rows(self, service: Option<String>, search: Memo<Search>) -> Memo<Arc<Vec<Arc<Record>>>> {
        let trigger = service.as_ref().map(|name| self.watch(name, |state| &mut state.services));
        Memo::new_with_compare(
            move |_| {
                match &trigger {
                    Some(trigger) => trigger.track(),
                    None => self.anything.track(),
                }
                Arc::new(search.with(|search| self.read(|live| live.rows(service.as_deref(), search))))
            },
            |_, _| true,
        )
    }

    /// The names of the services that the search means.
    pub fn service_names(self, search: Memo<Search>) -> Memo<Arc<Vec<String>>> {
        Memo::new(move |_| {
            search.with(|search| {
                if search.is_empty() {
                    self.names.track();
                } else {
                    self.anything.track();
                }
                Arc::new(self.read(|live| live.service_names(search)))
            })
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

fn forget(watched: &mut Watched, name: &str) {
    if let Some((_, watchers)) = watched.get_mut(name) {
        *watchers -= 1;
        if *watchers == 0 {
            watched.remove(name);
        }
    }
}
