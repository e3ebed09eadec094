//! Why instances left: departures of every kind are planted, and what the stream says of each is counted.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{Client, PutOptions};
use rollcall_shared::{CauseKind, Change, RegistryEvent};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{Etcd, RawSse, Server, kratos, seconds};

/// How right the causes have to be within the sampling bound, in thousandths.
const RIGHT_PER_MILLE_MIN: usize = 990;

/// How many of a thousand may be told with certainty and wrongly.
const WRONG_PER_MILLE_MAX: usize = 1;

/// How long causes may trail behind the last departure.
const TRAIL_MAX: Duration = Duration::from_secs(20);

/// How an instance leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    /// Its key is deleted, its lease lives on.
    Deregistered,
    /// Its lease is no longer renewed.
    Expired,
    /// Its lease is revoked with time left.
    Revoked,
    /// It had no lease, and its key is deleted.
    Permanent,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Deregistered, Self::Expired, Self::Revoked, Self::Permanent];

    fn as_str(self) -> &'static str {
        match self {
            Self::Deregistered => "deregistered",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Permanent => "permanent",
        }
    }

    fn cause(self) -> CauseKind {
        match self {
            Self::Deregistered | Self::Permanent => CauseKind::Deregistered,
            Self::Expired => CauseKind::Expired,
            Self::Revoked => CauseKind::Revoked,
        }
    }
}

/// Departures to plant.
#[derive(Debug, Clone, Copy)]
pub struct Planting {
    /// How many instances leave in each way.
    pub of_each: usize,
    /// How many of each are there at the same time.
    pub at_once: usize,
    /// The TTLs, in seconds.
    pub ttl_s: (i64, i64),
    /// Whether so many leases are more than can be asked in time: then what is said may be `unknown`, and no less right.
    pub above_bound: bool,
}

/// What was said, by what was true.
#[derive(Debug, Default)]
pub struct Confusion {
    said: BTreeMap<Kind, BTreeMap<Option<&'static str>, usize>>,
    /// A few that were wrong, with their evidence.
    wrong: Vec<String>,
}

impl Confusion {
    /// As a table.
    pub fn table(&self) -> String {
        let heads = [Some("deregistered"), Some("expired"), Some("revoked"), Some("unknown"), None];
        let mut text = format!("{:<14}", "it was \\ said");
        for head in heads {
            let _ = write!(text, " {:>12}", head.unwrap_or("(nothing)"));
        }
        text.push_str("      right  wrong\n");
        for (kind, said) in &self.said {
            let _ = write!(text, "{:<14}", kind.as_str());
            for head in heads {
                let _ = write!(text, " {:>12}", said.get(&head).copied().unwrap_or_default());
            }
            let (all, right, wrong) = Self::judge(*kind, said);
            let percent = |count: usize| {
                100.0 * f64::from(u32::try_from(count).unwrap_or(u32::MAX))
                    / f64::from(u32::try_from(all).unwrap_or(1).max(1))
            };
            let _ = writeln!(text, " {:>8.2} % {:>6.2} %", percent(right), percent(wrong));
        }
        for wrong in self.wrong.iter().take(8) {
            let _ = writeln!(text, "  {wrong}");
        }
        text
    }

    fn judge(kind: Kind, said: &BTreeMap<Option<&'static str>, usize>) -> (usize, usize, usize) {
        let all = said.values().sum();
        let right = said.get(&Some(kind.cause().as_str())).copied().unwrap_or_default();
        let open = [None, Some("unknown")].iter().filter_map(|word| said.get(word)).sum::<usize>();
        (all, right, all - right - open)
    }

    /// What is not as promised.
    pub fn complaints(&self, planting: &Planting) -> Vec<String> {
        let mut complaints = Vec::new();
        for (kind, said) in &self.said {
            let (all, right, wrong) = Self::judge(*kind, said);
            if !planting.above_bound && right * 1_000 < all * RIGHT_PER_MILLE_MIN {
                complaints.push(format!("{}: right {right} of {all}", kind.as_str()));
            }
            if wrong * 1_000 > all * WRONG_PER_MILLE_MAX {
                complaints.push(format!("{}: wrong with certainty {wrong} of {all}", kind.as_str()));
            }
            if let Some(none) = said.get(&None) {
                complaints.push(format!("{}: nothing said of {none} of {all}", kind.as_str()));
            }
        }
        complaints
    }
}

type Told = Arc<Mutex<HashMap<String, (Option<&'static str>, String)>>>;

/// Plants departures over one etcd and one server, and counts what is said.
pub async fn plant(seed: u64, planting: Planting) -> Confusion {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let told: Told = Arc::default();
    let listening = tokio::spawn(listen(server.address(), Arc::clone(&told)));
    let planted: Arc<Mutex<HashMap<String, Kind>>> = Arc::default();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut left = planting.of_each;
    let mut number = 0;
    while left > 0 {
        let wave = left.min(planting.at_once);
        left -= wave;
        let start = Instant::now();
        let client = etcd.client().await;
        let mut lives = JoinSet::new();
        for turn in 0..wave {
            for kind in Kind::ALL {
                number += 1;
                // They come over some seconds, as instances do.
                let comes_at = start
                    + seconds(4).mul_f64(
                        f64::from(u32::try_from(turn).unwrap_or(0)) / f64::from(u32::try_from(wave).unwrap_or(1)),
                    );
                let life = Life {
                    number,
                    kind,
                    comes_at,
                    ttl_s: rng.i64(planting.ttl_s.0..=planting.ttl_s.1),
                    seed: rng.u64(..),
                };
                lives.spawn(life.live(client.clone(), Arc::clone(&planted)));
            }
        }
        while lives.join_next().await.is_some() {}
    }
    let deadline = Instant::now() + TRAIL_MAX;
    let all = planted.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let is_explained = |key: &String| {
        told.lock().unwrap_or_else(PoisonError::into_inner).get(key).is_some_and(|(cause, _)| cause.is_some())
    };
    while Instant::now() < deadline && !all.keys().all(is_explained) {
        sleep(Duration::from_millis(100)).await;
    }
    listening.abort();
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let mut confusion = Confusion::default();
    for (key, kind) in all {
        let (cause, evidence) = told.get(&key).cloned().unwrap_or_default();
        *confusion.said.entry(kind).or_default().entry(cause).or_default() += 1;
        if cause != Some(kind.cause().as_str()) {
            confusion.wrong.push(format!("{key} was {} and is said to be {cause:?}: {evidence}", kind.as_str()));
        }
    }
    confusion.wrong.sort_by_key(|wrong| wrong.contains("unknown"));
    confusion
}

async fn listen(address: String, told: Told) {
    let mut stream = RawSse::open(&address, "/api/v1/events", None).await.expect("the server answers");
    while let Ok(Some(frame)) = stream.next().await {
        if frame.event.is_some() || frame.data.is_empty() {
            continue;
        }
        let event: RegistryEvent = serde_json::from_str(&frame.data).expect("a message of the contract");
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RegistryEvent::Delta(delta) => {
                for change in delta.changes {
                    if let Change::Delete(departure) = change {
                        told.entry(departure.key).or_default();
                    }
                }
            }
            RegistryEvent::Cause(cause) => drop(told.insert(cause.key, (Some(cause.cause.as_str()), cause.evidence))),
            RegistryEvent::Snapshot(_) | RegistryEvent::Progress(_) => {}
        }
    }
}

/// Whether a lease is so near its end that nobody can tell what ends it: etcd tells whole seconds, and tells them late
/// where it is asked too much.
fn is_late(renewed_at: Instant, ttl: Duration) -> bool {
    renewed_at.elapsed() + seconds(2) > ttl
}

/// Renews a lease once; false where that did not happen in time.
async fn renew(client: &mut Client, lease: i64) -> bool {
    let renewing = async {
        let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.ok()?;
        keeper.keep_alive().await.ok()?;
        answers.message().await.ok().flatten()
    };
    let answer = timeout(seconds(5), renewing).await.ok().flatten();
    answer.is_some_and(|answer| answer.ttl() > 0)
}

/// One instance, from its coming to its going.
struct Life {
    number: usize,
    kind: Kind,
    comes_at: Instant,
    ttl_s: i64,
    seed: u64,
}

impl Life {
    async fn live(self, mut client: Client, planted: Arc<Mutex<HashMap<String, Kind>>>) {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        sleep_until(self.comes_at + Duration::from_millis(rng.u64(..40))).await;
        let ttl = Duration::from_secs(self.ttl_s.unsigned_abs());
        let lease = match self.kind {
            Kind::Permanent => 0,
            _ => client.lease_grant(self.ttl_s, None).await.expect("etcd grants").id(),
        };
        let mut renewed_at = Instant::now();
        let keys: Vec<String> =
            (0..rng.usize(1..=3)).map(|part| format!("/microservices/leaver/{}-{part}", self.number)).collect();
        for key in &keys {
            let id = key.rsplit('/').next().unwrap_or_default();
            let value = kratos("leaver", id, "http://10.0.0.1:80");
            let options = PutOptions::new().with_lease(lease);
            client.put(key.as_str(), value, Some(options)).await.expect("etcd takes a put");
        }
        // As programs renew, every third of the TTL; the last time may be long ago or just now.
        for _ in 0..rng.usize(0..=2) {
            sleep(ttl.mul_f64(0.2 + 0.2 * rng.f64())).await;
            if lease != 0 {
                if !renew(&mut client, lease).await {
                    // An etcd that is asked too much lets leases run out in spite of all: this one tells nothing.
                    return;
                }
                renewed_at = Instant::now();
            }
        }
        // A lease that nobody could ask yet says nothing; one that is near its end might as well have expired.
        let rest = Duration::from_millis(rng.u64(1_000..2_200)).min(ttl / 2);
        sleep_until(renewed_at + rest).await;
        match self.kind {
            Kind::Deregistered | Kind::Permanent => {
                // Not in one step, so that the first keys leave others of the lease behind.
                for key in &keys {
                    let answer = client.delete(key.as_str(), None).await.expect("etcd deletes");
                    // Where etcd was so slow that the lease was about to end, or had, this one tells nothing either.
                    if answer.deleted() == 0 || (lease != 0 && is_late(renewed_at, ttl)) {
                        return;
                    }
                }
            }
            Kind::Revoked => {
                if client.lease_revoke(lease).await.is_err() || is_late(renewed_at, ttl) {
                    return;
                }
            }
            Kind::Expired => {
                let deadline = Instant::now() + ttl + seconds(30);
                while !client.get(keys[0].as_str(), None).await.expect("etcd answers").kvs().is_empty() {
                    assert!(Instant::now() < deadline, "a lease that nobody renews does not end");
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
        let mut planted = planted.lock().unwrap_or_else(PoisonError::into_inner);
        planted.extend(keys.into_iter().map(|key| (key, self.kind)));
    }
}
