//! The stream of events as one ordered queue, whatever becomes of its line.
//!
//! Owns: the `EventSource`, the cursor, and coming back. Must not know: what the events mean.
//!
//! The browser's own `EventSource` comes back by itself after a broken line, with the cursor in `Last-Event-ID`, but
//! gives up after any answer other than 200; then a new one is opened here with `?since=`. It is used directly, with
//! one closure for all kinds of events: gloo-net's wrapper keeps a queue for each kind, which loses their order, and
//! does not say when it connects. How the tabs of one browser share a stream stands in [`shared`].

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use futures_util::Stream;
use rollcall_shared::{
    RegistryEvent,
    api::{ByeEvent, StatusEvent, TtlEvent},
};
use serde::de::DeserializeOwned;
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{Event, EventSource, MessageEvent};

use self::shared::Shared;
use crate::json;

mod shared;

/// The first wait before the line is opened anew, in milliseconds; it doubles with every failure.
const BACKOFF_MIN_MS: f64 = 500.0;

/// The longest wait before the line is opened anew, in milliseconds.
const BACKOFF_MAX_MS: f64 = 10_000.0;

/// The kinds of events that are listened to.
const KINDS: [&str; 6] = ["open", "error", "message", "status", "ttl", "bye"];

/// How it is with the line to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It is being opened for the first time.
    Connecting,
    /// It stands.
    Open,
    /// It broke and is being opened anew.
    Reconnecting,
}

/// What comes out of the stream, in the order in which it came in.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// An ordered message; its cursor covers all up to it.
    Event {
        /// What it says.
        event: RegistryEvent,
        /// The cursor it carries, where it does.
        cursor: Option<String>,
    },
    /// How it is with etcd.
    Status(StatusEvent),
    /// What is left of the leases.
    Ttl(TtlEvent),
    /// The server is about to close the line.
    Bye(ByeEvent),
    /// The line changed.
    Connection(Connection),
    /// The server said something that this client does not understand: one of them is too old.
    Unreadable(String),
}

/// The events of the registry. Dropping it closes the line.
#[derive(Debug)]
pub struct Events {
    line: Rc<RefCell<Line>>,
}

/// A hold on the stream for whoever reads it elsewhere.
#[derive(Debug, Clone)]
pub struct EventsHandle {
    line: Weak<RefCell<Line>>,
}

struct Line {
    address: String,
    source: Option<EventSource>,
    listener: Option<Closure<dyn FnMut(Event)>>,
    reopen: Option<Closure<dyn FnMut()>>,
    timer: Option<i32>,
    queue: VecDeque<Message>,
    waker: Option<Waker>,
    cursor: Option<String>,
    failures: i32,
    heard_at_ms: f64,
    shared: Option<Shared>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Line").field("address", &self.address).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Events {
    /// Opens a line to `address`; with the script of a worker, one that is shared with the other tabs as soon as it can.
    pub(crate) fn open(address: String, worker: Option<&str>) -> Self {
        let line = Rc::new(RefCell::new(Line {
            address,
            source: None,
            listener: None,
            reopen: None,
            timer: None,
            queue: VecDeque::from([Message::Connection(Connection::Connecting)]),
            waker: None,
            cursor: None,
            failures: 0,
            heard_at_ms: now_ms(),
            shared: worker.map(Shared::new),
        }));
        let weak = Rc::downgrade(&line);
        let listener = Closure::new(move |event| {
            if let Some(line) = weak.upgrade() {
                line.borrow_mut().hear(&event);
            }
        });
        let weak = Rc::downgrade(&line);
        let reopen = Closure::new(move || {
            if let Some(line) = weak.upgrade() {
                line.borrow_mut().connect();
            }
        });
        {
            let mut line = line.borrow_mut();
            line.listener = Some(listener);
            line.reopen = Some(reopen);
            line.join();
            line.follow_page();
            line.connect();
        }
        Self { line }
    }

    /// A hold on this stream that does not keep it open.
    pub fn handle(&self) -> EventsHandle {
        EventsHandle { line: Rc::downgrade(&self.line) }
    }
}

impl EventsHandle {
    /// Opens the line anew and without a cursor, so that it begins with a snapshot: what is known no longer fits.
    pub fn start_over(&self) {
        if let Some(line) = self.line.upgrade() {
            let mut line = line.borrow_mut();
            line.cursor = None;
            line.queue.clear();
            line.say(Message::Connection(Connection::Reconnecting));
            line.join();
            line.retry();
        }
    }

    /// Opens the line anew where nothing was heard for `silence_ms_max` milliseconds, though the server speaks at
    /// least every 10 s: a line that broke without a word, as when a machine slept.
    pub fn check(&self, silence_ms_max: f64) {
        if let Some(line) = self.line.upgrade() {
            let mut line = line.borrow_mut();
            if line.timer.is_none() && now_ms() - line.heard_at_ms > silence_ms_max {
                line.say(Message::Connection(Connection::Reconnecting));
                line.join();
                line.connect();
            }
        }
    }
}

impl Line {
    /// Opens the line from the cursor on, in place of any that stands.
    fn connect(&mut self) {
        self.close();
        self.begin_own();
        self.heard_at_ms = now_ms();
        let address = match &self.cursor {
            Some(cursor) => {
                let cursor: String = js_sys::encode_uri_component(cursor).into();
                [&self.address, "&since=", &cursor].concat()
            }
            None => self.address.clone(),
        };
        let Ok(source) = EventSource::new(&address) else { return self.retry() };
        if let Some(listener) = &self.listener {
            for kind in KINDS {
                // It fails for nothing that is a kind of event.
                let _ = source.add_event_listener_with_callback(kind, listener.as_ref().unchecked_ref());
            }
        }
        self.source = Some(source);
    }

    fn close(&mut self) {
        if let Some(timer) = self.timer.take()
            && let Some(window) = web_sys::window()
        {
            window.clear_timeout_with_handle(timer);
        }
        if let Some(source) = self.source.take() {
            if let Some(listener) = &self.listener {
                for kind in KINDS {
                    let _ = source.remove_event_listener_with_callback(kind, listener.as_ref().unchecked_ref());
                }
            }
            source.close();
        }
    }

    /// Opens the line anew after a while: longer after every failure, and never all clients at once.
    fn retry(&mut self) {
        self.close();
        let ceiling = (BACKOFF_MIN_MS * f64::from(self.failures.min(8)).exp2()).min(BACKOFF_MAX_MS);
        self.failures += 1;
        #[expect(clippy::cast_possible_truncation, reason = "the wait is at most ten seconds")]
        let wait_ms = (ceiling * (0.5 + js_sys::Math::random() / 2.0)) as i32;
        if let (Some(window), Some(reopen)) = (web_sys::window(), &self.reopen) {
            let timer =
                window.set_timeout_with_callback_and_timeout_and_arguments_0(reopen.as_ref().unchecked_ref(), wait_ms);
            self.timer = timer.ok();
        }
    }

    fn hear(&mut self, event: &Event) {
        self.heard_at_ms = now_ms();
        let kind = event.type_();
        let Some(message) = event.dyn_ref::<MessageEvent>() else { return self.hear_plain(&kind) };
        match message.data().as_string() {
            Some(data) => {
                self.take(&kind, &data, message.last_event_id());
                self.follow_own(&kind);
            }
            None => self.hear_worker(message.data()),
        }
    }

    fn hear_plain(&mut self, kind: &str) {
        match kind {
            "pagehide" => self.leave(),
            "pageshow" => self.come_back(),
            _ => {
                self.take(kind, "", String::new());
                if kind == "open" {
                    self.failures = 0;
                } else if self.source.as_ref().is_none_or(|source| source.ready_state() == EventSource::CLOSED) {
                    self.retry();
                }
            }
        }
    }

    /// Takes in an event, whoever's line it came by.
    fn take(&mut self, kind: &str, data: &str, id: String) {
        let message = match kind {
            "open" => Message::Connection(Connection::Open),
            "error" => Message::Connection(Connection::Reconnecting),
            "status" => read(data, Message::Status),
            "ttl" => read(data, Message::Ttl),
            "bye" => read(data, Message::Bye),
            _ => {
                // A message without an id repeats the one before it; what is the same covers nothing new.
                let cursor = (!id.is_empty() && self.cursor.as_ref() != Some(&id)).then_some(id);
                let message = read(data, |event| Message::Event { event, cursor: cursor.clone() });
                if matches!(message, Message::Event { .. }) && cursor.is_some() {
                    self.cursor = cursor;
                }
                message
            }
        };
        self.say(message);
    }

    fn say(&mut self, message: Message) {
        self.queue.push_back(message);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.forget_page();
        self.leave();
    }
}

impl Stream for Events {
    type Item = Message;

    /// Never ends: what is wrong with the line is a message.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut line = self.line.borrow_mut();
        if let Some(message) = line.queue.pop_front() {
            return Poll::Ready(Some(message));
        }
        line.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn read<T: DeserializeOwned>(data: &str, message: impl FnOnce(T) -> Message) -> Message {
    match json::read(data) {
        Ok(value) => message(value),
        Err(error) => Message::Unreadable(error.to_string()),
    }
}

/// The time since the page was opened, by a clock that never jumps, in milliseconds.
fn now_ms() -> f64 {
    web_sys::window().and_then(|window| window.performance()).map_or(0.0, |clock| clock.now())
}
