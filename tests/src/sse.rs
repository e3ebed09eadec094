//! A reader of the stream: frames as they stand on the wire, messages as the contract types them, and their fold.

use std::{collections::VecDeque, io, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::{RequestBuilder, header::HeaderMap};
use rollcall_shared::{Catalog, Cause, Change, Delta, RegistryEvent, SnapshotReason};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// One event of `text/event-stream`, as its fields stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The field `id`.
    pub id: Option<String>,
    /// The field `event`.
    pub event: Option<String>,
    /// The fields `data`, joined by newlines.
    pub data: String,
    /// The field `retry`.
    pub retry: Option<String>,
}

impl Frame {
    /// Reads the lines of one event.
    fn parse(text: &str) -> Result<Self, String> {
        let mut frame = Self::default();
        let mut data = Vec::new();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => frame.id = Some(value.to_owned()),
                "event" => frame.event = Some(value.to_owned()),
                "data" => data.push(value),
                "retry" => frame.retry = Some(value.to_owned()),
                "" => {}
                unknown => return Err(format!("a field {unknown:?}: {line}")),
            }
        }
        frame.data = data.join("\n");
        Ok(frame)
    }
}

/// A connection to the stream by a socket alone: nothing is read that is not asked for, and nothing panics.
#[derive(Debug)]
pub struct RawSse {
    socket: TcpStream,
    /// The status it was answered with.
    pub status: u16,
    /// Bytes of the connection that are not unpacked yet.
    packed: Vec<u8>,
    /// How the body is framed: bytes left of the chunk at hand, `None` where it ends with the connection.
    chunk_left: Option<usize>,
    body: Vec<u8>,
    /// So much of the body was looked at in vain for the end of an event.
    looked: usize,
}

/// The largest piece that is read at once.
const READ_BYTES: usize = 64 * 1024;

impl RawSse {
    /// Asks for the stream at `address` (`host:port`), and reads the answer's head.
    pub async fn open(address: &str, path: &str, last_event_id: Option<&str>) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address).await?;
        let cursor = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{cursor}\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut packed = Vec::new();
        let end = loop {
            if let Some(end) = packed.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if socket.read_buf(&mut packed).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&packed[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let chunked = head.contains("transfer-encoding: chunked");
        packed.drain(..end + 4);
        Ok(Self { socket, status, packed, chunk_left: chunked.then_some(0), body: Vec::new(), looked: 0 })
    }

    /// The next event; `None` where the stream ended. Cancel safe.
    ///
    /// # Errors
    /// Where the connection breaks, or what comes is no event stream.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            self.unpack()?;
            let from = self.looked.saturating_sub(1);
            if let Some(found) = self.body[from..].windows(2).position(|pair| pair == b"\n\n") {
                let text: Vec<u8> = self.body.drain(..from + found + 2).collect();
                self.looked = 0;
                let text = String::from_utf8(text).map_err(io::Error::other)?;
                return Frame::parse(&text).map(Some).map_err(io::Error::other);
            }
            self.looked = self.body.len();
            self.packed.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.packed).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Moves what has come into the body.
    fn unpack(&mut self) -> io::Result<()> {
        let mut at = 0;
        while let Some(left) = &mut self.chunk_left {
            let rest = &self.packed[at..];
            if *left == 0 {
                // A chunk's size stands on a line, after the line end of the chunk before.
                let start = if rest.starts_with(b"\r\n") { 2 } else { 0 };
                let Some(end) = rest[start..].windows(2).position(|two| two == b"\r\n") else { break };
                let size = str::from_utf8(&rest[start..start + end]).unwrap_or("?");
                let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                *left = size;
                at += start + end + 2;
                continue;
            }
            let take = rest.len().min(*left);
            if take == 0 {
                break;
            }
            self.body.extend_from_slice(&rest[..take]);
            *left -= take;
            at += take;
        }
        if self.chunk_left.is_none() {
            at = self.packed.len();
            self.body.extend_from_slice(&self.packed);
        }
        self.packed.drain(..at);
        Ok(())
    }
}

/// One ordered message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The cursor it carries.
    pub id: Option<String>,
    /// What it says.
    pub event: RegistryEvent,
    /// The same, as it stood on the wire.
    pub json: Value,
}

/// A connection to the stream.
pub struct SseClient {
    headers: HeaderMap,
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: Vec<u8>,
    named: VecDeque<Frame>,
    messages: VecDeque<Message>,
    retry: Option<String>,
    last_id: Option<String>,
    seen: Vec<String>,
}

impl SseClient {
    /// Opens the stream; anything but 200 fails, since an `EventSource` would give up there.
    pub async fn open(request: RequestBuilder) -> Self {
        let response = request.header("accept", "text/event-stream").send().await.expect("the stream answers");
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        assert!(status == 200, "the stream answered {status}: {}", response.text().await.unwrap_or_default());
        Self {
            headers,
            bytes: Box::pin(response.bytes_stream()),
            buffer: Vec::new(),
            named: VecDeque::new(),
            messages: VecDeque::new(),
            retry: None,
            last_id: None,
            seen: Vec::new(),
        }
    }

    /// The answer's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The last `id` that came: what an `EventSource` would come back with.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The last `retry` that came, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry.as_deref().and_then(|retry| retry.parse().ok())
    }

    /// The next frame with data; `None` where the server closed the stream, `Err` where none came until `deadline`.
    async fn frame_until(&mut self, deadline: Instant) -> Result<Option<Frame>, ()> {
        loop {
            if let Some(frame) = self.cut_frame() {
                if frame.retry.is_some() {
                    self.retry.clone_from(&frame.retry);
                }
                if frame.id.is_some() {
                    self.last_id.clone_from(&frame.id);
                }
                if frame.data.is_empty() {
                    continue;
                }
                self.seen.push(frame.data.chars().take(300).collect());
                return Ok(Some(frame));
            }
            match timeout_at(deadline, self.bytes.next()).await {
                Err(_) => return Err(()),
                Ok(Some(Ok(bytes))) => self.buffer.extend_from_slice(&bytes),
                Ok(Some(Err(_)) | None) => return Ok(None),
            }
        }
    }

    fn cut_frame(&mut self) -> Option<Frame> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let text = String::from_utf8(self.buffer.drain(..end + 2).collect()).expect("an event stream is UTF-8");
        Some(Frame::parse(&text).unwrap_or_else(|unknown| panic!("the stream has {unknown}")))
    }

    /// Reads one more frame and sorts it; false where the server closed the stream.
    async fn pull(&mut self, deadline: Instant, what: &str) -> bool {
        let Ok(frame) = self.frame_until(deadline).await else {
            panic!("{what} did not come in time; what came was {:#?}", self.seen)
        };
        let Some(frame) = frame else { return false };
        if frame.event.is_some() {
            assert!(frame.id.is_none(), "a named event carries an id: {frame:?}");
            self.named.push_back(frame);
        } else {
            self.messages.push_back(message(frame));
        }
        true
    }

    /// The next ordered message.
    pub async fn next_message(&mut self, within: Duration) -> Message {
        self.message_or_end(within).await.unwrap_or_else(|| panic!("the stream closed; what came was {:#?}", self.seen))
    }

    /// The next ordered message; `None` where the stream closed.
    pub async fn message_or_end(&mut self, within: Duration) -> Option<Message> {
        let deadline = Instant::now() + within;
        while self.messages.is_empty() {
            if !self.pull(deadline, "a message").await {
                return None;
            }
        }
        self.messages.pop_front()
    }

    /// The next ordered message that is no progress.
    pub async fn next_news(&mut self, within: Duration) -> Message {
        let deadline = Instant::now() + within;
        loop {
            let message = self.next_message(deadline.saturating_duration_since(Instant::now())).await;
            if !matches!(message.event, RegistryEvent::Progress(_)) {
                return message;
            }
        }
    }

    /// The next delta; causes and progress before it are let go.
    pub async fn next_delta(&mut self, within: Duration) -> (Option<String>, Delta) {
        let deadline = Instant::now() + within;
        loop {
            let message = self.next_message(deadline.saturating_duration_since(Instant::now())).await;
            match message.event {
                RegistryEvent::Delta(delta) => return (message.id, delta),
                RegistryEvent::Snapshot(snapshot) => panic!("a snapshot came instead of a delta: {snapshot:?}"),
                RegistryEvent::Progress(_) | RegistryEvent::Cause(_) => {}
            }
        }
    }

    /// The next named event of that name, with its data.
    pub async fn next_named(&mut self, name: &str, within: Duration) -> Value {
        let deadline = Instant::now() + within;
        loop {
            while let Some(frame) = self.named.pop_front() {
                if frame.event.as_deref() == Some(name) {
                    return serde_json::from_str(&frame.data).expect("a named event holds JSON");
                }
            }
            assert!(
                self.pull(deadline, &format!("the event {name}")).await,
                "the stream closed before {name}; what came was {:#?}",
                self.seen
            );
        }
    }

    /// Waits for a `status` that says `etcd` is so.
    pub async fn next_status(&mut self, etcd: &str, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let status = self.next_named("status", deadline.saturating_duration_since(Instant::now())).await;
            assert!(status["for_s"].is_u64(), "{status}");
            if status["etcd"] == etcd {
                return;
            }
        }
    }

    /// Waits for a `status` that says that all is not well.
    pub async fn next_trouble(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let status = self.next_named("status", deadline.saturating_duration_since(Instant::now())).await;
            if status["etcd"] != "live" {
                return;
            }
        }
    }

    /// Whether the server closes the stream in time.
    pub async fn closes(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match self.frame_until(deadline).await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(()) => return false,
            }
        }
    }
}

fn message(frame: Frame) -> Message {
    let json: Value = serde_json::from_str(&frame.data).unwrap_or_else(|error| panic!("{error}: {frame:?}"));
    let event: RegistryEvent = serde_json::from_value(json.clone())
        .unwrap_or_else(|error| panic!("no message of the contract, {error}: {json}"));
    let carries_id = match &event {
        RegistryEvent::Snapshot(snapshot) => !snapshot.more,
        RegistryEvent::Delta(_) | RegistryEvent::Progress(_) => true,
        RegistryEvent::Cause(_) => false,
    };
    assert_eq!(frame.id.is_some(), carries_id, "an id stands on all but causes and early parts: {frame:?}");
    Message { id: frame.id, event, json }
}

/// A reader that folds what comes, as the dashboard does, and fails at the first message that does not fit.
pub struct Follower {
    client: SseClient,
    /// What it knows now.
    pub catalog: Catalog,
    /// Every delta that came.
    pub deltas: Vec<Delta>,
    /// Every cause that came.
    pub causes: Vec<Cause>,
    /// The reason of every whole snapshot that came.
    pub reasons: Vec<SnapshotReason>,
    cursor: Option<String>,
}

impl Follower {
    /// Folds what comes from `client`.
    pub fn new(client: SseClient) -> Self {
        Self {
            client,
            catalog: Catalog::default(),
            deltas: Vec::new(),
            causes: Vec::new(),
            reasons: Vec::new(),
            cursor: None,
        }
    }

    /// Goes on folding on another connection, as after a reconnect.
    pub fn reconnect(&mut self, client: SseClient) {
        self.client = client;
    }

    /// The connection.
    pub fn client(&mut self) -> &mut SseClient {
        &mut self.client
    }

    /// The cursor to come back with: that of the last message that was folded.
    pub fn cursor(&self) -> String {
        self.cursor.clone().expect("a message with an id has come")
    }

    /// How many whole snapshots came.
    pub fn snapshots(&self) -> usize {
        self.reasons.len()
    }

    /// Folds the next message.
    pub async fn step(&mut self, within: Duration) -> RegistryEvent {
        let message = self.client.next_message(within).await;
        self.catalog
            .apply(&message.event)
            .unwrap_or_else(|error| panic!("a message that does not fit: {error}: {}", message.json));
        if message.id.is_some() {
            self.cursor.clone_from(&message.id);
        }
        match &message.event {
            RegistryEvent::Snapshot(snapshot) if !snapshot.more => self.reasons.push(snapshot.reason),
            RegistryEvent::Delta(delta) => self.deltas.push(delta.clone()),
            RegistryEvent::Cause(cause) => self.causes.push(cause.clone()),
            RegistryEvent::Snapshot(_) | RegistryEvent::Progress(_) => {}
        }
        message.event
    }

    /// Folds messages until `holds`.
    pub async fn until(&mut self, what: &str, within: Duration, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + within;
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.client.messages.is_empty() {
                self.step(left).await;
                continue;
            }
            assert!(
                self.client.pull(deadline, what).await,
                "{what}: the stream closed; what came was {:#?}",
                self.client.seen
            );
        }
    }

    /// Folds until `key` stands.
    pub async fn until_stands(&mut self, key: &str, within: Duration) {
        self.until(&format!("{key} stands"), within, |follower| follower.catalog.get(key).is_some()).await;
    }

    /// Folds until `key` is gone.
    pub async fn until_gone(&mut self, key: &str, within: Duration) {
        self.until(&format!("{key} is gone"), within, |follower| follower.catalog.get(key).is_none()).await;
    }

    /// Folds until a cause for `key` came, and gives the last one.
    pub async fn cause(&mut self, key: &str, within: Duration) -> Cause {
        self.until(&format!("the cause for {key}"), within, |follower| {
            follower.causes.iter().any(|cause| cause.key == key)
        })
        .await;
        self.causes.iter().rfind(|cause| cause.key == key).expect("it came just now").clone()
    }

    /// How often each change of `key` came, as (puts, deletes).
    pub fn changes_of(&self, key: &str) -> (usize, usize) {
        let changes = || self.deltas.iter().flat_map(|delta| &delta.changes).filter(|change| change.key() == key);
        (
            changes().filter(|change| matches!(change, Change::Put(_))).count(),
            changes().filter(|change| matches!(change, Change::Delete(_))).count(),
        )
    }
}
