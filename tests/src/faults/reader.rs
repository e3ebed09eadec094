//! The readers: each follows the stream by a socket, remembers all that it was told, and comes back as planned.
//!
//! Owns connecting, parting and remembering. Must not know what is right: the checker looks at what is remembered.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rollcall_shared::{Change, RegistryEvent};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::truth::Selection;
use crate::sse::RawSse;

/// How long the answer's head may take.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Where the servers listen; `None` while one is down.
#[derive(Debug, Default)]
pub struct Directory {
    addresses: Mutex<Vec<Option<String>>>,
}

impl Directory {
    /// Says where server number `server` listens.
    pub fn set(&self, server: usize, address: Option<String>) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() <= server {
            addresses.resize(server + 1, None);
        }
        addresses[server] = address;
    }

    /// Where server number `server` listens.
    pub fn get(&self, server: usize) -> Option<String> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned().flatten()
    }
}

/// What all readers of a scenario are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Read, part and come back as planned.
    Roam,
    /// Stay, or come back and stay.
    Settle,
    /// End.
    End,
}

/// How a reader behaves.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What messages call it.
    pub name: String,
    /// What it selects.
    pub selection: Selection,
    /// The server it reads from first.
    pub server: usize,
    /// How many servers there are to choose from where it roams.
    pub servers: usize,
    /// Whether it parts at random times and comes back to any server.
    pub roams: bool,
    /// How long it waits before it comes for the first time.
    pub late: Duration,
    /// The cursor it comes with for the first time.
    pub cursor: Option<String>,
    /// Which history of etcd that cursor is of.
    pub cursor_epoch: usize,
    /// Whether it stops reading when readers are told to halt.
    pub halts: bool,
    /// Seeds its choices.
    pub seed: u64,
}

/// One message as a reader was told it.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// The cursor it carried.
    pub id: Option<Arc<str>>,
    /// What it said.
    pub event: Arc<RegistryEvent>,
}

/// One connection of a reader.
#[derive(Debug)]
pub struct Session {
    /// The server.
    pub server: usize,
    /// When it was opened.
    pub opened: Instant,
    /// When it ended; `None` for the last one.
    pub closed: Option<Instant>,
    /// The cursor it began with.
    pub cursor: Option<String>,
    /// The ordered messages.
    pub heard: Vec<Heard>,
    /// How etcd was said to be, and when.
    pub states: Vec<(Instant, String)>,
    /// When the server said `bye`.
    pub bye: Option<Instant>,
    /// What was wrong with what came.
    pub broken: Option<String>,
}

/// All that a reader was told.
#[derive(Debug)]
pub struct Recording {
    /// How it behaved.
    pub plan: Plan,
    /// Its connections, in order.
    pub sessions: Vec<Session>,
    /// When it had seen all of a marker.
    pub markers: HashMap<u64, Instant>,
}

/// A message, and what readers look at while they run.
#[derive(Debug)]
struct Parsed {
    event: Arc<RegistryEvent>,
    /// The markers that stand in it, one for each source.
    markers: Vec<(u64, String)>,
}

/// Messages by their text: many readers get the same ones.
#[derive(Debug, Default)]
pub struct Messages {
    known: Mutex<HashMap<String, Arc<Parsed>>>,
}

impl Messages {
    fn read(&self, text: String) -> Result<Arc<Parsed>, String> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&text) {
            return Ok(Arc::clone(known));
        }
        let event: RegistryEvent = serde_json::from_str(&text)
            .map_err(|error| format!("{error}: {}", text.chars().take(300).collect::<String>()))?;
        let marked = |key: &str| key.split_once("/marker/").and_then(|(_, number)| number.parse().ok());
        let markers = match &event {
            RegistryEvent::Snapshot(snapshot) => {
                let records = snapshot.records.iter();
                records.filter_map(|record| Some((marked(&record.key)?, record.source.clone()))).collect()
            }
            RegistryEvent::Delta(delta) => {
                let put = |change: &Change| match change {
                    Change::Put(record) => Some((marked(&record.key)?, record.source.clone())),
                    Change::Delete(_) => None,
                };
                delta.changes.iter().filter_map(put).collect()
            }
            RegistryEvent::Progress(_) | RegistryEvent::Cause(_) => Vec::new(),
        };
        let parsed = Arc::new(Parsed { event: Arc::new(event), markers });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(text, Arc::clone(&parsed));
        Ok(parsed)
    }
}

/// What the scenario sees of a reader while it runs.
#[derive(Debug, Default)]
pub struct Sight {
    markers: Mutex<HashMap<u64, Instant>>,
    /// Deletes that were told and whose cause was not.
    unexplained: Mutex<HashSet<(String, i64)>>,
    /// The last cursors, the newest last.
    cursors: Mutex<Vec<String>>,
}

/// A running reader.
#[derive(Debug)]
pub struct Reader {
    /// How it behaves.
    pub plan: Plan,
    sight: Arc<Sight>,
    task: JoinHandle<Recording>,
}

/// What readers share.
#[derive(Debug, Clone)]
pub struct Library {
    /// Where the servers are.
    pub directory: Arc<Directory>,
    /// What was said, by its text.
    pub messages: Arc<Messages>,
    /// What readers are to do.
    pub phase: watch::Receiver<Phase>,
    /// Whether those who halt do so now.
    pub halted: watch::Receiver<bool>,
}

impl Reader {
    /// Starts to read.
    pub fn start(plan: Plan, library: &Library) -> Self {
        let sight = Arc::new(Sight::default());
        let voyage = Voyage {
            rng: fastrand::Rng::with_seed(plan.seed),
            plan: plan.clone(),
            library: library.clone(),
            sight: Arc::clone(&sight),
            cursor: plan.cursor.clone(),
            sessions: Vec::new(),
            half_seen: HashMap::new(),
        };
        Self { plan, sight, task: tokio::spawn(voyage.run()) }
    }

    /// When it had seen all of a marker.
    pub fn marker(&self, number: u64) -> Option<Instant> {
        self.sight.markers.lock().unwrap_or_else(PoisonError::into_inner).get(&number).copied()
    }

    /// How many deletes it was told without a cause so far.
    pub fn unexplained(&self) -> usize {
        self.sight.unexplained.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Every cursor it was given.
    pub fn cursors(&self) -> Vec<String> {
        self.sight.cursors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it was told, once it was told to end.
    pub async fn recording(self) -> Recording {
        self.task.await.expect("a reader does not panic")
    }
}

struct Voyage {
    rng: fastrand::Rng,
    plan: Plan,
    library: Library,
    sight: Arc<Sight>,
    cursor: Option<String>,
    sessions: Vec<Session>,
    half_seen: HashMap<u64, HashSet<String>>,
}

impl Voyage {
    async fn run(mut self) -> Recording {
        let mut phase = self.library.phase.clone();
        let late = self.plan.late;
        tokio::select! {
            () = sleep(late) => {}
            _ = phase.wait_for(|phase| *phase >= Phase::Settle) => {}
        }
        let mut server = self.plan.server;
        while *phase.borrow() < Phase::End {
            if let Some(address) = self.library.directory.get(server) {
                let session = self.read(server, &address, &mut phase).await;
                self.sessions.extend(session);
            }
            if self.plan.roams {
                server = self.rng.usize(..self.plan.servers);
            }
            let rest = Duration::from_millis(self.rng.u64(20..if self.plan.roams { 700 } else { 200 }));
            tokio::select! {
                () = sleep(rest) => {}
                _ = phase.wait_for(|phase| *phase == Phase::End) => {}
            }
        }
        let markers = std::mem::take(&mut *self.sight.markers.lock().unwrap_or_else(PoisonError::into_inner));
        Recording { plan: self.plan, sessions: self.sessions, markers }
    }

    async fn read(&mut self, server: usize, address: &str, phase: &mut watch::Receiver<Phase>) -> Option<Session> {
        let services: Vec<String> = self.plan.selection.iter().map(|service| format!("service={service}")).collect();
        let path = format!("/api/v1/events?{}", services.join("&"));
        let opened = Instant::now();
        let opening = timeout(HEAD_MAX, RawSse::open(address, &path, self.cursor.as_deref())).await;
        let mut stream = opening.ok()?.ok()?;
        let mut session = Session {
            server,
            opened,
            closed: None,
            cursor: self.cursor.clone(),
            heard: Vec::new(),
            states: Vec::new(),
            bye: None,
            broken: (stream.status != 200).then(|| format!("the stream answered {}", stream.status)),
        };
        // A delete that an earlier server told may never be explained by this one.
        self.sight.unexplained.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let leave_at = opened + Duration::from_millis(self.rng.u64(50..2_500));
        while session.broken.is_none() {
            let leaves = self.plan.roams && *phase.borrow_and_update() == Phase::Roam;
            if *phase.borrow() == Phase::End {
                return Some(session);
            }
            if self.plan.halts && *self.library.halted.borrow() {
                let mut halted = self.library.halted.clone();
                drop(halted.wait_for(|halted| !halted).await);
            }
            let frame = tokio::select! {
                biased;
                _ = phase.changed() => continue,
                frame = stream.next() => frame,
                () = sleep_until(leave_at), if leaves => break,
            };
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Err(error) if error.kind() == std::io::ErrorKind::Other => {
                    session.broken = Some(error.to_string());
                    break;
                }
                Ok(None) | Err(_) => break,
            };
            let now = Instant::now();
            match frame.event.as_deref() {
                None if frame.data.is_empty() => {}
                None => match self.library.messages.read(frame.data) {
                    Ok(parsed) => self.hear(&mut session, now, frame.id, &parsed),
                    Err(error) => session.broken = Some(error),
                },
                Some("status") => {
                    let status: serde_json::Value = serde_json::from_str(&frame.data).unwrap_or_default();
                    session.states.push((now, status["etcd"].as_str().unwrap_or("?").to_owned()));
                }
                Some("bye") => session.bye = Some(now),
                Some(_) => {}
            }
        }
        session.closed = Some(Instant::now());
        Some(session)
    }

    fn hear(&mut self, session: &mut Session, at: Instant, id: Option<String>, parsed: &Parsed) {
        for (marker, source) in &parsed.markers {
            let seen = self.half_seen.entry(*marker).or_default();
            seen.insert(source.clone());
            if seen.len() == super::truth::sources().len() {
                self.sight.markers.lock().unwrap_or_else(PoisonError::into_inner).entry(*marker).or_insert(at);
            }
        }
        match &*parsed.event {
            RegistryEvent::Delta(delta) => {
                let mut unexplained = self.sight.unexplained.lock().unwrap_or_else(PoisonError::into_inner);
                unexplained.extend(delta.changes.iter().filter_map(|change| match change {
                    Change::Delete(departure) => Some((departure.key.clone(), delta.revision)),
                    Change::Put(_) => None,
                }));
            }
            RegistryEvent::Cause(cause) => {
                let mut unexplained = self.sight.unexplained.lock().unwrap_or_else(PoisonError::into_inner);
                unexplained.remove(&(cause.key.clone(), cause.revision));
            }
            RegistryEvent::Snapshot(_) | RegistryEvent::Progress(_) => {}
        }
        if let Some(id) = &id {
            self.cursor = Some(id.clone());
            self.sight.cursors.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
        }
        session.heard.push(Heard { at, id: id.map(Into::into), event: Arc::clone(&parsed.event) });
    }
}
