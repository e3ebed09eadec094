//! One stream for all tabs of a browser, which opens no more than six connections to one origin without TLS.
//!
//! Owns: the tab's side of the shared worker (`stream-worker.js` is the other), and when to go over to it. Must not know:
//! what the events mean.
//!
//! A worker that held a fold of its own would be a second one. So a tab begins with a line of its own, until that has
//! told everything; meanwhile what the worker relays is queued. As soon as the tab's cursor covers the one at which the
//! relay began, the two overlap: the tab closes its line and takes in the queue, then whatever is relayed. What it knows
//! already the fold leaves out. The same brings a tab back that has missed something, from its cursor on.

use js_sys::{Array, JsString};
use rollcall_shared::cursor::covers;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{MessagePort, SharedWorker};

use super::{Line, Message, RegistryEvent};

/// After how much the worker is told that it was taken in, in characters: a small part of what it leaves unread.
const TAKEN_MIN: u32 = 1 << 18;

/// What a message counts beside its characters; the worker counts the same.
const MESSAGE_SIZE: u32 = 64;

/// What happens to the page that the line is told of.
const PAGE_KINDS: [&str; 2] = ["pagehide", "pageshow"];

/// The tab's side of the worker.
pub(super) struct Shared {
    script: String,
    port: Option<MessagePort>,
    relay: Relay,
    /// Whether the tab's own line stands between two messages and has told the leases, which follow a snapshot.
    settled: bool,
    taken: u32,
}

/// What becomes of the messages that the worker relays.
enum Relay {
    /// They are not for this tab yet.
    Awaited { offered: bool },
    /// They wait until the tab's own line has told everything up to `at`; `state` is the worker's line's.
    Queued { at: String, state: String, queue: Vec<Array> },
    /// They are taken in, and the tab has no line of its own.
    Followed,
}

impl Shared {
    pub(super) fn new(script: &str) -> Self {
        let relay = Relay::Awaited { offered: false };
        Self { script: script.to_owned(), port: None, relay, settled: false, taken: 0 }
    }

    fn post(&self, message: &JsValue) {
        if let Some(port) = &self.port {
            // It fails for nothing that can be cloned.
            let _ = port.post_message(message);
        }
    }
}

impl Line {
    /// Hears when the page is put away, be it for ever or to be gone back to.
    pub(super) fn follow_page(&self) {
        if let (Some(_), Some(window), Some(listener)) = (&self.shared, web_sys::window(), &self.listener) {
            for kind in PAGE_KINDS {
                // It fails for nothing that is a kind of event.
                let _ = window.add_event_listener_with_callback(kind, listener.as_ref().unchecked_ref());
            }
        }
    }

    pub(super) fn forget_page(&self) {
        if let (Some(_), Some(window), Some(listener)) = (&self.shared, web_sys::window(), &self.listener) {
            for kind in PAGE_KINDS {
                let _ = window.remove_event_listener_with_callback(kind, listener.as_ref().unchecked_ref());
            }
        }
    }

    /// Joins the worker anew, starting it where no tab has yet.
    pub(super) fn join(&mut self) {
        self.part();
        let Some(shared) = &mut self.shared else { return };
        match SharedWorker::new_with_str(&shared.script, &self.address) {
            Ok(worker) => {
                let port = worker.port();
                port.set_onmessage(self.listener.as_ref().map(|listener| listener.as_ref().unchecked_ref()));
                shared.port = Some(port);
            }
            // This browser has no such workers.
            Err(_) => self.shared = None,
        }
    }

    fn part(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.post(&JsValue::NULL);
            if let Some(port) = shared.port.take() {
                // Not closed: what was said last could get lost with it.
                port.set_onmessage(None);
            }
            shared.relay = Relay::Awaited { offered: false };
            shared.taken = 0;
        }
    }

    /// The page is put away: nothing is heard until it is gone back to.
    pub(super) fn leave(&mut self) {
        self.part();
        self.close();
    }

    pub(super) fn come_back(&mut self) {
        if self.shared.as_ref().is_some_and(|shared| shared.port.is_none()) {
            self.join();
            self.connect();
        }
    }

    pub(super) fn begin_own(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.settled = false;
        }
    }

    /// Follows what the tab's own line has told.
    pub(super) fn follow_own(&mut self, kind: &str) {
        let (Some(shared), Some(cursor)) = (&mut self.shared, &self.cursor) else { return };
        match kind {
            "ttl" => shared.settled = true,
            "message" => {
                let more = |event: &RegistryEvent| matches!(event, RegistryEvent::Snapshot(snapshot) if snapshot.more);
                shared.settled &= !matches!(self.queue.back(), Some(Message::Event { event, .. }) if more(event));
            }
            _ => {}
        }
        if let Relay::Awaited { offered: offered @ false } = &mut shared.relay
            && shared.settled
        {
            *offered = true;
            shared.post(&JsValue::from_str(cursor));
        }
        self.go_over();
    }

    /// Takes in what the worker says: an array, whose members stand in `stream-worker.js`.
    pub(super) fn hear_worker(&mut self, message: JsValue) {
        let (Some(shared), Ok(message)) = (&mut self.shared, message.dyn_into::<Array>()) else { return };
        if message.get(0) == "at" {
            shared.relay = Relay::Queued { at: text(&message, 2), state: text(&message, 1), queue: Vec::new() };
            if !self.go_over() && self.source.is_none() && self.timer.is_none() {
                self.connect();
            }
            return;
        }
        match &mut shared.relay {
            Relay::Awaited { .. } => {}
            Relay::Queued { queue, .. } => queue.push(message),
            Relay::Followed => self.take_relayed(&message),
        }
    }

    /// Closes the tab's own line where it overlaps with what is relayed.
    fn go_over(&mut self) -> bool {
        let own = self.source.is_some() || self.timer.is_some();
        let (Some(shared), Some(cursor)) = (&mut self.shared, &self.cursor) else { return false };
        let Relay::Queued { at, state, queue } = &mut shared.relay else { return false };
        let overlap = if own { shared.settled && covers(cursor, at) } else { cursor == at };
        if !overlap {
            return false;
        }
        let (state, queue) = (std::mem::take(state), std::mem::take(queue));
        shared.relay = Relay::Followed;
        self.close();
        if !state.is_empty() {
            self.take(&state, "", String::new());
        }
        for message in queue {
            self.take_relayed(&message);
        }
        true
    }

    fn take_relayed(&mut self, message: &Array) {
        let size = MESSAGE_SIZE + message.get(1).unchecked_into::<JsString>().length();
        self.take(&text(message, 0), &text(message, 1), text(message, 2));
        if let Some(shared) = &mut self.shared {
            shared.taken += size;
            if shared.taken >= TAKEN_MIN {
                shared.post(&JsValue::from(shared.taken));
                shared.taken = 0;
            }
        }
    }
}

fn text(message: &Array, member: u32) -> String {
    message.get(member).as_string().unwrap_or_default()
}
