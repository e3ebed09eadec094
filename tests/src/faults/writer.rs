//! The writer: seeded random writes through and around a fault, each remembered with what etcd acknowledged.
//!
//! Owns the choice of what is written and the memory of it. Must not know readers, nor what is made of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};
use rollcall_shared::Revision;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::kratos;

/// How long one write may take before another member is tried.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// The TTL of leases that outlive every scenario, in seconds.
const LONG_TTL_S: i64 = 900;

/// How young a lease is when a key of it may still be bound to another: well before it can run out.
const SHORT_LEASE_YOUNG: Duration = Duration::from_millis(400);

/// How long after a key of a lease was deleted that lease is not revoked: what comes later tells nothing of why.
const REVOKE_REST: Duration = Duration::from_secs(3);

const SERVICES: [&str; 5] = ["pay", "order", "cart", "mail", "geo"];

/// What a write was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// It deletes nothing by itself.
    Other,
    /// It deletes these keys; all below it, where one ends in `/`.
    Deletes(Vec<Vec<u8>>),
    /// It revokes this lease.
    Revokes(i64),
}

/// One write, and what became of it.
#[derive(Debug, Clone)]
pub struct Act {
    /// What it was.
    pub deed: Deed,
    /// Which history of etcd it went to.
    pub epoch: usize,
    /// When it went out.
    pub started: Instant,
    /// When it was answered, or given up.
    pub ended: Instant,
    /// The revision that etcd acknowledged; `None` where it may have happened or not.
    pub revision: Option<Revision>,
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// When.
    pub at: Instant,
    /// Whether it is left to expire.
    pub expires: bool,
}

/// Everything that was written.
#[derive(Debug, Default)]
pub struct Memory {
    /// The writes, in order.
    pub acts: Vec<Act>,
    /// The leases, by id.
    pub leases: HashMap<i64, Granted>,
}

/// What sort of values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diet {
    /// Mostly what programs write, now and then a value that is none.
    Ordinary,
    /// Half of it poison.
    Poison,
    /// Large values, so that much is on its way.
    Large,
}

enum Order {
    Pause(oneshot::Sender<()>),
    Go,
}

/// The running writer.
#[derive(Debug)]
pub struct Writer {
    memory: Arc<Mutex<Memory>>,
    epoch: Arc<AtomicUsize>,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
    rest: watch::Sender<Duration>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    /// Starts to write to the members at `urls`; leases are left to expire where `expiring`.
    pub fn start(seed: u64, urls: Vec<String>, diet: Diet, expiring: bool) -> Self {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let epoch = Arc::new(AtomicUsize::new(0));
        let (orders, mut ordered) = tokio::sync::mpsc::unbounded_channel();
        let (rest, resting) = watch::channel(Duration::from_millis(8));
        let mut hand = Hand {
            rng: fastrand::Rng::with_seed(seed),
            urls,
            turn: 0,
            client: None,
            diet,
            expiring,
            memory: Arc::clone(&memory),
            epoch: Arc::clone(&epoch),
            keys: BTreeMap::new(),
            long: Vec::new(),
            touched: HashMap::new(),
            serial: 0,
        };
        let task = tokio::spawn(async move {
            loop {
                let mut paused = None;
                while let Ok(order) = ordered.try_recv() {
                    paused = match order {
                        Order::Pause(done) => Some(done),
                        Order::Go => None,
                    };
                }
                if let Some(done) = paused {
                    let _ = done.send(());
                    match ordered.recv().await {
                        Some(Order::Go) => {}
                        Some(Order::Pause(done)) => drop(done.send(())),
                        None => return,
                    }
                }
                hand.write().await;
                let rest = *resting.borrow();
                sleep(rest.mul_f64(0.5 + hand.rng.f64())).await;
            }
        });
        Self { memory, epoch, orders, rest, task }
    }

    /// Ends the writing for now; no write is on its way when this returns.
    pub async fn pause(&self) {
        let (done, paused) = oneshot::channel();
        let _ = self.orders.send(Order::Pause(done));
        let _ = paused.await;
    }

    /// Goes on writing.
    pub fn go_on(&self) {
        let _ = self.orders.send(Order::Go);
    }

    /// How long it rests between two writes, on average.
    pub fn rest(&self, rest: Duration) {
        self.rest.send_replace(rest);
    }

    /// From now on it writes to another history of etcd.
    pub fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The history it writes to.
    pub fn epoch(&self) -> usize {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Takes down a write that somebody else made.
    pub fn note(&self, deed: Deed, started: Instant, revision: Option<Revision>) {
        let act = Act { deed, epoch: self.epoch(), started, ended: Instant::now(), revision };
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).acts.push(act);
    }

    /// Takes down a lease that somebody else was granted.
    pub fn note_lease(&self, lease: i64, expires: bool) {
        let granted = Granted { at: Instant::now(), expires };
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).leases.insert(lease, granted);
    }

    /// How many writes etcd has acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.acts.iter().filter(|act| act.revision.is_some()).count()
    }

    /// All that was written, once no more is.
    pub async fn end(self) -> Memory {
        self.pause().await;
        std::mem::take(&mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A lease that is not left to expire.
struct Long {
    lease: i64,
    /// When a key of it was deleted last.
    deleted_at: Option<Instant>,
}

struct Hand {
    rng: fastrand::Rng,
    urls: Vec<String>,
    turn: usize,
    client: Option<Client>,
    diet: Diet,
    expiring: bool,
    memory: Arc<Mutex<Memory>>,
    epoch: Arc<AtomicUsize>,
    /// The keys that may stand, each with its lease. Only a guess: the truth is etcd's.
    keys: BTreeMap<Vec<u8>, i64>,
    long: Vec<Long>,
    /// Leases that are left to expire, with when they were granted and a key.
    touched: HashMap<i64, (Instant, Vec<u8>)>,
    serial: u64,
}

impl Hand {
    async fn write(&mut self) {
        if self.client.is_none() {
            let url = self.urls[self.turn % self.urls.len()].clone();
            self.client = timeout(WRITE_MAX, Client::connect([url], None)).await.ok().and_then(Result::ok);
        }
        let Some(client) = self.client.clone() else {
            self.turn += 1;
            sleep(Duration::from_millis(50)).await;
            return;
        };
        match self.rng.u32(..100) {
            0..40 => self.put(client).await,
            40..55 => self.delete(client).await,
            55..75 => self.transact(client).await,
            75..79 => self.delete_below(client).await,
            79..84 => self.grant(client).await,
            84..90 if self.expiring => self.let_expire(client).await,
            90..94 => self.revoke(client).await,
            94..97 => self.rebind(client).await,
            _ => self.elsewhere(client).await,
        }
    }

    /// Remembers a write, and tries another member where it failed.
    fn done<T>(
        &mut self,
        deed: Deed,
        started: Instant,
        answer: Result<Result<T, etcd_client::Error>, tokio::time::error::Elapsed>,
        revision: impl FnOnce(&T) -> Option<Revision>,
    ) -> Option<T> {
        let outcome = match answer {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) if is_refusal(&error) => return None,
            // The write that finds no more space is refused and yet takes place.
            Ok(Err(error)) if error.to_string().contains("space exceeded") => None,
            Ok(Err(_)) | Err(_) => {
                self.client = None;
                self.turn += 1;
                None
            }
        };
        let revision = outcome.as_ref().and_then(revision);
        let act = Act { deed, epoch: self.epoch.load(Ordering::SeqCst), started, ended: Instant::now(), revision };
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).acts.push(act);
        outcome
    }

    fn service(&mut self) -> &'static str {
        SERVICES[self.rng.usize(..SERVICES.len())]
    }

    fn key(&mut self) -> Vec<u8> {
        let (service, id) = (self.service(), self.rng.u32(..12));
        if self.rng.u32(..100) < if self.diet == Diet::Poison { 20 } else { 2 } {
            return self.odd_key();
        }
        match self.rng.u32(..10) {
            0..6 => format!("/microservices/{service}/{id}"),
            6..8 => format!("/micro/registry/{service}/{service}-{id}"),
            _ => format!("services/{service}/{id}"),
        }
        .into_bytes()
    }

    fn odd_key(&mut self) -> Vec<u8> {
        let odd: [&[u8]; 14] = [
            b"/microservices/",
            b"/microservices//",
            b"/microservices/pay",
            b"/microservices/pay/",
            b"/microservices/pay/\xff\xfe",
            b"/microservices/\xc3\x28/1",
            b"/microservices/pay/a b\n\"\\",
            "/microservices/pay/\u{1F980}\u{2028}".as_bytes(),
            b"/microservices/pay/%2F%00?#",
            b"/microservices/pay/\x00",
            b"/microservices/beer.shop/order.service/node/1:9000",
            b"services/\r\n\r\nid: 1",
            b"/micro/registry/x",
            b"services/\x7f\x80/1",
        ];
        odd[self.rng.usize(..odd.len())].to_vec()
    }

    fn value(&mut self, key: &[u8]) -> Vec<u8> {
        self.serial += 1;
        let serial = self.serial;
        if self.rng.u32(..100) < if self.diet == Diet::Poison { 50 } else { 4 } {
            return self.poison();
        }
        let text = String::from_utf8_lossy(key).into_owned();
        let mut segments = text.rsplit('/');
        let (id, name) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        // Now and then the value names another service than its key: the instance counts for that one.
        let name = if self.rng.u32(..8) == 0 { self.service() } else { name };
        let address = format!("10.0.{}.{}:80", serial % 250, serial / 250 % 250);
        let mut value = if text.starts_with("/micro/") {
            format!(
                r#"{{"name":"{name}","version":"v{serial}","metadata":null,"endpoints":[],"nodes":[{{"metadata":{{}},"id":"{id}","address":"{address}"}}]}}"#
            )
        } else if text.starts_with("services/") {
            format!(r#"{{"ID":{serial},"IP":"{address}"}}"#)
        } else {
            kratos(name, id, &format!("http://{address}"))
        };
        if self.diet == Diet::Large {
            let filler = "x".repeat(self.rng.usize(10_000..60_000));
            value = value.replace("\"zone\":\"a\"", &format!("\"zone\":\"{filler}\""));
        }
        value.into_bytes()
    }

    fn poison(&mut self) -> Vec<u8> {
        match self.rng.u32(..13) {
            0 => b"\xff\xfe\x00\x01".to_vec(),
            1 => b"null".to_vec(),
            2 => b"{}".to_vec(),
            3 => b"[]".to_vec(),
            4 => Vec::new(),
            5 => b"{\"id\":\"1\",\"name\":".to_vec(),
            6 => format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)).into_bytes(),
            7 => br#"{"id":"\ud800","name":"pay","endpoints":["http://h:1"]}"#.to_vec(),
            8 => b"\n\ndata: {}\n\nid: 7\n\n".to_vec(),
            9 => kratos("pay", "<script>\u{2028}\u{0}", "http://10.0.0.1:80").into_bytes(),
            10 => vec![0xc3; 20_000],
            11 => kratos("pay", &"9".repeat(300_000), "http://10.0.0.1:80").into_bytes(),
            _ => br#"{"id":1e999,"name":["pay"],"version":{},"metadata":7,"endpoints":null}"#.to_vec(),
        }
    }

    /// A lease for a key: often none.
    fn some_lease(&mut self) -> i64 {
        match self.long.len() {
            0 => 0,
            count if self.rng.bool() => self.long[self.rng.usize(..count)].lease,
            _ => 0,
        }
    }

    async fn put(&mut self, mut client: Client) {
        let (key, lease) = (self.key(), self.some_lease());
        let value = self.value(&key);
        let started = Instant::now();
        let answer =
            timeout(WRITE_MAX, client.put(key.clone(), value, Some(PutOptions::new().with_lease(lease)))).await;
        if let Ok(Err(error)) = &answer
            && error.to_string().contains("lease not found")
        {
            self.long.retain(|long| long.lease != lease);
        }
        self.done(Deed::Other, started, answer, |answer| answer.header().map(etcd_client::ResponseHeader::revision));
        self.keys.insert(key, lease);
    }

    fn standing(&mut self) -> Option<Vec<u8>> {
        let count = self.keys.len();
        if count == 0 {
            return None;
        }
        self.keys.keys().nth(self.rng.usize(..count)).cloned()
    }

    fn forget(&mut self, key: &[u8]) {
        let lease = self.keys.remove(key).unwrap_or_default();
        if let Some(long) = self.long.iter_mut().find(|long| long.lease == lease) {
            long.deleted_at = Some(Instant::now());
        }
    }

    async fn delete(&mut self, mut client: Client) {
        let Some(key) = self.standing() else { return };
        let started = Instant::now();
        let answer = timeout(WRITE_MAX, client.delete(key.clone(), None)).await;
        self.forget(&key);
        self.done(Deed::Deletes(vec![key]), started, answer, |answer| {
            answer.header().map(etcd_client::ResponseHeader::revision)
        });
    }

    async fn delete_below(&mut self, mut client: Client) {
        let below = format!("/microservices/{}/", self.service()).into_bytes();
        let started = Instant::now();
        let answer = timeout(WRITE_MAX, client.delete(below.clone(), Some(DeleteOptions::new().with_prefix()))).await;
        let keys: Vec<Vec<u8>> = self.keys.keys().filter(|key| key.starts_with(&below)).cloned().collect();
        for key in keys {
            self.forget(&key);
        }
        self.done(Deed::Deletes(vec![below]), started, answer, |answer| {
            answer.header().map(etcd_client::ResponseHeader::revision)
        });
    }

    async fn transact(&mut self, mut client: Client) {
        let mut touched = BTreeMap::new();
        for _ in 0..self.rng.usize(2..=7) {
            if self.rng.u32(..3) == 0 {
                if let Some(key) = self.standing() {
                    touched.insert(key, None);
                }
            } else if self.rng.u32(..6) == 0 {
                touched.insert(format!("/elsewhere/{}", self.rng.u32(..9)).into_bytes(), Some((b"x".to_vec(), 0)));
            } else {
                let (key, lease) = (self.key(), self.some_lease());
                let value = self.value(&key);
                touched.insert(key, Some((value, lease)));
            }
        }
        let operations: Vec<TxnOp> = touched
            .iter()
            .map(|(key, put)| match put {
                Some((value, lease)) => {
                    TxnOp::put(key.clone(), value.clone(), Some(PutOptions::new().with_lease(*lease)))
                }
                None => TxnOp::delete(key.clone(), None),
            })
            .collect();
        let always = Compare::version("\0", CompareOp::Equal, 0);
        let started = Instant::now();
        let answer = timeout(WRITE_MAX, client.txn(Txn::new().when([always]).and_then(operations))).await;
        let mut deletes = Vec::new();
        for (key, put) in touched {
            if let Some((_, lease)) = put {
                self.keys.insert(key, lease);
            } else {
                self.forget(&key);
                deletes.push(key);
            }
        }
        self.keys.retain(|key, _| !key.starts_with(b"/elsewhere/"));
        self.done(Deed::Deletes(deletes), started, answer, |answer| {
            answer.header().map(etcd_client::ResponseHeader::revision)
        });
    }

    async fn granted(&mut self, client: &mut Client, ttl_s: i64) -> Option<i64> {
        let answer = timeout(WRITE_MAX, client.lease_grant(ttl_s, None)).await;
        let lease = match answer {
            Ok(Ok(answer)) => answer.id(),
            Ok(Err(error)) if is_refusal(&error) => return None,
            _ => {
                self.client = None;
                self.turn += 1;
                return None;
            }
        };
        let granted = Granted { at: Instant::now(), expires: ttl_s < LONG_TTL_S };
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).leases.insert(lease, granted);
        Some(lease)
    }

    async fn grant(&mut self, mut client: Client) {
        if self.long.len() < 12
            && let Some(lease) = self.granted(&mut client, LONG_TTL_S).await
        {
            self.long.push(Long { lease, deleted_at: None });
        }
    }

    /// Several keys under a lease that nobody renews; now and then one goes on to another lease in time.
    async fn let_expire(&mut self, mut client: Client) {
        let ttl_s = self.rng.i64(2..5);
        let Some(lease) = self.granted(&mut client, ttl_s).await else { return };
        let granted_at = Instant::now();
        for _ in 0..self.rng.u32(1..4) {
            self.serial += 1;
            let key = format!("/microservices/{}/x{}", self.service(), self.serial).into_bytes();
            let value = self.value(&key);
            let started = Instant::now();
            let options = PutOptions::new().with_lease(lease);
            let answer = timeout(WRITE_MAX, client.put(key.clone(), value, Some(options))).await;
            let revision =
                |answer: &etcd_client::PutResponse| answer.header().map(etcd_client::ResponseHeader::revision);
            if self.done(Deed::Other, started, answer, revision).is_none() {
                return;
            }
            self.touched.insert(lease, (granted_at, key));
        }
    }

    /// Binds a key of a lease that runs out to one that does not.
    async fn rebind(&mut self, mut client: Client) {
        self.touched.retain(|_, (granted_at, _)| granted_at.elapsed() < SHORT_LEASE_YOUNG);
        let young = self.touched.iter().next().map(|(lease, (_, key))| (*lease, key.clone()));
        let key = match young {
            Some((lease, key)) => {
                self.touched.remove(&lease);
                key
            }
            None => match self.standing() {
                Some(key) => key,
                None => return,
            },
        };
        let lease = self.some_lease();
        let value = self.value(&key);
        let started = Instant::now();
        let answer =
            timeout(WRITE_MAX, client.put(key.clone(), value, Some(PutOptions::new().with_lease(lease)))).await;
        self.done(Deed::Other, started, answer, |answer| answer.header().map(etcd_client::ResponseHeader::revision));
        // A key that began on a lease that runs out is left alone from here on, so that its end has one reason.
        if !key.rsplit(|byte| *byte == b'/').next().unwrap_or_default().starts_with(b"x") {
            self.keys.insert(key, lease);
        }
    }

    async fn revoke(&mut self, mut client: Client) {
        let rested = |long: &Long| long.deleted_at.is_none_or(|at| at.elapsed() > REVOKE_REST);
        let Some(at) = self.long.iter().position(rested) else { return };
        let lease = self.long.remove(at).lease;
        let started = Instant::now();
        let answer = timeout(WRITE_MAX, client.lease_revoke(lease)).await;
        self.keys.retain(|_, of| *of != lease);
        self.done(Deed::Revokes(lease), started, answer, |answer| {
            answer.header().map(etcd_client::ResponseHeader::revision)
        });
    }

    async fn elsewhere(&mut self, mut client: Client) {
        let key = format!("/elsewhere/{}", self.rng.u32(..9));
        let started = Instant::now();
        let answer = timeout(WRITE_MAX, client.put(key, "x", None)).await;
        self.done(Deed::Other, started, answer, |answer| answer.header().map(etcd_client::ResponseHeader::revision));
    }
}

/// Whether etcd said no, so that the write certainly did not happen.
fn is_refusal(error: &etcd_client::Error) -> bool {
    let text = error.to_string();
    ["lease not found", "duplicate key", "too many operations", "request is too large"]
        .iter()
        .any(|refusal| text.contains(refusal))
}
