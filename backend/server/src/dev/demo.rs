//! A fleet to look at: some twenty instances that register through the client library, renew, change, leave in good
//! order, crash and come back.
//!
//! Owns the cast, the pace, and what happens next, which [`Director`] decides without touching etcd. Nothing is
//! simulated: each instance has a lease of its own in a real etcd, and what is seen of it is what etcd says. Must not
//! know how it is shown.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{PutOptions, Txn, TxnOp};
use futures_util::future::join_all;
use rollcall_registry::{
    Registrar, RegistrarConfig, Registration,
    etcd::{connect::Connection, keepalive::LeaseKeeping, lease},
};
use rollcall_shared::{KeyPrefix, Layout, ServiceInstance};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the fleet may take to leave at the end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one act may take before the play goes on without it.
const ACT_TIMEOUT: Duration = Duration::from_secs(2);

/// The time between two acts, in milliseconds: calm enough to follow each.
const ACT_INTERVAL_MS: std::ops::Range<u64> = 1_600..2_400;

/// How many instances are away at once, at the most.
const AWAY_MAX: usize = 4;

/// Crashes happen to those with a TTL up to this, in seconds, so that one waits for the end of none for long.
const CRASH_TTL_S_MAX: i64 = 10;

/// How long an instance stays away after its key is gone.
const AWAY: Duration = Duration::from_secs(7);

/// How much longer than its TTL a lease may live on in etcd.
const EXPIRY_SLACK: Duration = Duration::from_secs(3);

/// The play is the same each time.
const SEED: u64 = 0x726f_6c6c_6361_6c6c;

/// How often a flash is tried where its lease is revoked before its key is put.
const FLASH_TRIES_MAX: usize = 5;

/// An instance of the cast.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    layout: Layout,
    ttl_s: Option<i64>,
    instance: ServiceInstance,
}

/// One row for each instance: layout, service, version, zone, weight, address, TTL in seconds (0: permanent).
const CAST: &[(Layout, &str, &str, &str, u32, &str, i64)] = &[
    (Layout::Kratos, "payments", "v2.3.1", "eu-west-1a", 100, "10.4.0.11", 10),
    (Layout::Kratos, "payments", "v2.3.1", "eu-west-1b", 100, "10.4.1.11", 10),
    (Layout::Kratos, "payments", "v2.4.0", "eu-west-1c", 20, "10.4.2.11", 10),
    (Layout::Kratos, "orders", "v1.18.2", "eu-west-1a", 100, "10.4.0.12", 15),
    (Layout::Kratos, "orders", "v1.18.2", "eu-west-1b", 100, "10.4.1.12", 15),
    (Layout::Kratos, "orders", "v1.18.3", "eu-west-1c", 50, "10.4.2.12", 15),
    (Layout::Kratos, "catalog", "v3.0.5", "eu-west-1a", 100, "10.4.0.13", 6),
    (Layout::Kratos, "catalog", "v3.0.5", "eu-west-1b", 100, "10.4.1.13", 6),
    (Layout::Kratos, "helloworld", "v1.0.0", "eu-west-1a", 100, "10.4.0.14", 15),
    (Layout::Kratos, "helloworld", "v1.0.0", "eu-west-1b", 100, "10.4.1.14", 15),
    (Layout::GoMicro, "greeter", "v5.2.0", "eu-west-1a", 100, "10.4.0.21:8080", 30),
    (Layout::GoMicro, "greeter", "v5.2.0", "eu-west-1c", 100, "10.4.2.21:8080", 30),
    (Layout::GoMicro, "accounts", "v4.7.9", "eu-west-1a", 100, "10.4.0.22:8080", 8),
    (Layout::GoMicro, "accounts", "v4.7.9", "eu-west-1b", 100, "10.4.1.22:8080", 8),
    // As go-micro v2 registers where its flags are not parsed: the key stays, whatever becomes of the program.
    (Layout::GoMicro, "reporting", "v2.9.1", "eu-west-1b", 100, "10.4.1.23:8080", 0),
    (Layout::Plain, "ledger", "", "", 0, "10.4.0.31:7000", 10),
    (Layout::Plain, "ledger", "", "", 0, "10.4.1.31:7000", 10),
    (Layout::Plain, "mailer", "", "", 0, "10.4.2.32:2525", 20),
    (Layout::Kitex, "recommend", "", "eu-west-1a", 0, "10.4.0.41:8888", 20),
    (Layout::Kitex, "recommend", "", "eu-west-1b", 0, "10.4.1.41:8888", 20),
    (Layout::Hertz, "storefront", "", "eu-west-1a", 0, "10.4.0.51:8080", 20),
    (Layout::Hertz, "storefront", "", "eu-west-1c", 0, "10.4.2.51:8080", 20),
];

/// A value that a broken deployment left behind: its end is missing.
const MALFORMED_KEY: &str = "/microservices/catalog/catalog-6f7d-q8xzt";
const MALFORMED_VALUE: &str =
    r#"{"id":"catalog-6f7d-q8xzt","name":"catalog","version":"v3.0.4","metadata":{"zone":"eu-w"#;

fn prefix(layout: Layout) -> KeyPrefix {
    let prefix = match layout {
        Layout::GoMicro => "/micro/registry/",
        Layout::Plain => "services/",
        Layout::Kitex => "kitex/registry-etcd/",
        Layout::Hertz => "hertz/registry-etcd/",
        Layout::Kratos | Layout::GoKit | Layout::Grpc | Layout::GoZero => "/microservices/",
    };
    KeyPrefix::new(prefix).expect("each of them is a prefix")
}

fn cast() -> Vec<Part> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut letters = |count: usize| -> String { (0..count).map(|_| rng.lowercase()).collect() };
    CAST.iter()
        .map(|&(layout, name, version, zone, weight, address, ttl_s)| {
            let mut metadata = BTreeMap::new();
            if !zone.is_empty() {
                metadata.insert("zone".to_owned(), zone.to_owned());
            }
            if weight > 0 {
                metadata.insert("weight".to_owned(), weight.to_string());
            }
            let endpoints = match layout {
                Layout::Kratos => vec![format!("http://{address}:8000"), format!("grpc://{address}:9000")],
                _ => vec![address.to_owned()],
            };
            let id = layout.default_id(&endpoints, || format!("{name}-{}-{}", letters(4), letters(5)));
            let name = name.to_owned();
            let instance = ServiceInstance { id, name, version: version.to_owned(), metadata, endpoints };
            Part { layout, ttl_s: (ttl_s > 0).then_some(ttl_s), instance }
        })
        .collect()
}

/// Runs the fleet until `cancel` is cancelled; everything that stands then leaves, within 3 s.
pub async fn run(connection: Connection, cancel: CancellationToken) {
    let keeping = LeaseKeeping::start(connection.clone(), &CancellationToken::new());
    let mut fleet = Fleet::new(connection, &keeping);
    let mut director = Director::new(&fleet.parts);
    let play = Box::pin(async {
        fleet.enter_all();
        fleet.leave_malformed().await;
        loop {
            sleep(director.pause()).await;
            let act = director.next(Instant::now());
            tracing::debug!(?act, "demo");
            if timeout(ACT_TIMEOUT, Box::pin(fleet.perform(act))).await.is_err() {
                tracing::debug!(?act, "etcd does not answer");
            }
        }
    });
    let _: Option<()> = cancel.run_until_cancelled(play).await;
    if timeout(LEAVE_TIMEOUT, fleet.exit_all()).await.is_err() {
        tracing::warn!("the fleet could not leave in good order: its keys run out with their leases");
    }
    keeping.stop().await;
}

/// The instances, and those of their registrations that stand.
struct Fleet {
    connection: Connection,
    registrars: BTreeMap<(Layout, Option<i64>), Registrar>,
    parts: Vec<Part>,
    registrations: Vec<Option<Registration>>,
}

impl Fleet {
    fn new(connection: Connection, keeping: &LeaseKeeping) -> Self {
        let parts = cast();
        let registrar = |part: &Part| {
            let (layout, ttl_s) = (part.layout, part.ttl_s);
            // The names are the fleet's own: what stands there is left from a run that was killed.
            let config = RegistrarConfig { layout, prefix: prefix(layout), ttl_s, takeover: true };
            ((layout, ttl_s), Registrar::sharing(keeping.clone(), config))
        };
        let registrars = parts.iter().map(registrar).collect();
        let registrations = parts.iter().map(|_| None).collect();
        Self { connection, registrars, parts, registrations }
    }

    fn enter(&mut self, index: usize) {
        let part = &self.parts[index];
        let registered = self.registrars[&(part.layout, part.ttl_s)].register_eventually(&part.instance);
        self.registrations[index] =
            registered.inspect_err(|error| tracing::error!(%error, "an instance of the fleet is wrong")).ok();
    }

    fn enter_all(&mut self) {
        for index in 0..self.parts.len() {
            self.enter(index);
        }
    }

    async fn perform(&mut self, act: Act) {
        let outcome = match act {
            Act::Enter(index) => {
                self.enter(index);
                Ok(())
            }
            Act::Leave(index, how) => match (self.registrations[index].take(), how) {
                (Some(registration), Leaving::InGoodOrder) => registration.withdraw().await,
                (Some(registration), Leaving::Revoked) => registration.deregister().await,
                // What is dropped is renewed no longer.
                (Some(_), Leaving::Crash) | (None, _) => Ok(()),
            },
            Act::Edit(index, edit) => {
                edit.apply(&mut self.parts[index].instance);
                match &self.registrations[index] {
                    Some(registration) => registration.update(&self.parts[index].instance).await,
                    None => Ok(()),
                }
            }
            Act::Flash => {
                Box::pin(self.flash()).await;
                Ok(())
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, ?act, "etcd does not take part");
        }
    }

    /// A job that is over before anybody can ask how long its lease has left, so that nobody can say what ended it.
    async fn flash(&self) {
        let job = ServiceInstance {
            id: "nightly-import-1".into(),
            name: "nightly-import".into(),
            version: "v0.9.0".into(),
            endpoints: vec!["http://10.4.0.61:8000".into()],
            ..ServiceInstance::default()
        };
        let Ok((key, value)) = Layout::Kratos.encode(&prefix(Layout::Kratos), &job) else { return };
        for _ in 0..FLASH_TRIES_MAX {
            let Ok(client) = self.connection.client().await else { return };
            let Ok((lease, _)) = lease::grant(&self.connection, 6).await else { return };
            let mut kv = client.kv();
            // Both at once, so that etcd applies one right after the other.
            let put = kv.put(key.as_str(), value.as_slice(), Some(PutOptions::new().with_lease(lease.0)));
            let (put, _) = tokio::join!(put, lease::revoke(&self.connection, lease));
            if put.is_ok() {
                return;
            }
        }
    }

    async fn leave_malformed(&self) {
        for _ in 0..30 {
            if let Ok(client) = self.connection.client().await
                && let Ok(Ok(_)) = timeout(ACT_TIMEOUT, client.kv().put(MALFORMED_KEY, MALFORMED_VALUE, None)).await
            {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn exit_all(&mut self) {
        // Of those that crashed the lease still lives for a while.
        let crashed = self.parts.iter().zip(&self.registrations).filter(|(_, registration)| registration.is_none());
        let mut leftovers: Vec<String> = crashed
            .filter_map(|(part, _)| part.layout.encode(&prefix(part.layout), &part.instance).ok())
            .map(|(key, _)| key)
            .collect();
        leftovers.push(MALFORMED_KEY.to_owned());
        let connection = self.connection.clone();
        let clearing = Box::pin(async move {
            if let Ok(client) = connection.client().await {
                let deletes: Vec<_> = leftovers.into_iter().map(|key| TxnOp::delete(key, None)).collect();
                // What this cannot reach runs out by itself, but for the malformed value, which the next run puts anew.
                let _ = client.kv().txn(Txn::new().and_then(deletes)).await;
            }
        });
        let leaving = self.registrations.iter_mut().filter_map(Option::take).map(Registration::deregister);
        let (outcomes, ()) = tokio::join!(join_all(leaving), clearing);
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if failed > 0 {
            tracing::warn!(failed, "instances of the fleet could not leave: their keys run out with their leases");
        }
    }
}

/// What happens to one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Enter(usize),
    Leave(usize, Leaving),
    Edit(usize, Edit),
    /// An instance comes and is gone at once.
    Flash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// The key is deleted while its lease lives.
    InGoodOrder,
    /// The lease is revoked.
    Revoked,
    /// The lease is renewed no longer.
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    /// Another weight.
    Weight(u32),
    /// The next version.
    Version,
}

impl Edit {
    fn apply(self, instance: &mut ServiceInstance) {
        match self {
            Self::Weight(weight) => {
                instance.metadata.insert("weight".to_owned(), weight.to_string());
            }
            Self::Version => {
                if let Some((minor, Ok(patch))) =
                    instance.version.rsplit_once('.').map(|(minor, patch)| (minor, patch.parse::<u32>()))
                {
                    instance.version = format!("{minor}.{}", patch + 1);
                }
            }
        }
    }
}

/// What is tried next, over and over. Within one round every cause of leaving is seen.
const ROUND: [Turn; 12] = [
    Turn::Leave(Leaving::Crash),
    Turn::Reweight,
    Turn::Leave(Leaving::InGoodOrder),
    Turn::Flash,
    Turn::Upgrade,
    Turn::Leave(Leaving::Revoked),
    Turn::Enter,
    Turn::Reweight,
    Turn::Enter,
    Turn::Upgrade,
    Turn::Enter,
    Turn::Reweight,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Leave(Leaving),
    Enter,
    Reweight,
    Upgrade,
    Flash,
}

/// Decides what happens next. Pure: told the time, and the same each time.
struct Director {
    rng: fastrand::Rng,
    roles: Vec<Role>,
    turn: usize,
}

struct Role {
    service: (Layout, String),
    ttl_s: Option<i64>,
    is_versioned: bool,
    /// While it is away: when it may come back.
    back_at: Option<Instant>,
}

impl Director {
    fn new(parts: &[Part]) -> Self {
        let role = |part: &Part| Role {
            service: (part.layout, part.instance.name.clone()),
            ttl_s: part.ttl_s,
            is_versioned: !part.instance.version.is_empty(),
            back_at: None,
        };
        Self { rng: fastrand::Rng::with_seed(SEED), roles: parts.iter().map(role).collect(), turn: 0 }
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(ACT_INTERVAL_MS))
    }

    fn next(&mut self, now: Instant) -> Act {
        let turn = ROUND[self.turn % ROUND.len()];
        self.turn += 1;
        let act = match turn {
            Turn::Leave(how) => self.leave(how, now),
            Turn::Enter => self.enter(now),
            Turn::Upgrade => self.choose(|role| role.is_versioned).map(|index| Act::Edit(index, Edit::Version)),
            Turn::Flash => Some(Act::Flash),
            Turn::Reweight => None,
        };
        // Where a turn finds nobody, something still happens.
        act.or_else(|| self.reweight()).unwrap_or(Act::Flash)
    }

    fn leave(&mut self, how: Leaving, now: Instant) -> Option<Act> {
        if self.roles.iter().filter(|role| role.back_at.is_some()).count() >= AWAY_MAX {
            return self.enter(now);
        }
        let present = |service: &(Layout, String)| {
            self.roles.iter().filter(|role| role.back_at.is_none() && role.service == *service).count()
        };
        // Somebody always stays to answer.
        let alone: Vec<bool> = self.roles.iter().map(|role| present(&role.service) < 2).collect();
        let mut index = 0..;
        let chosen = self.choose(|role| {
            let stays = index.next().is_none_or(|index: usize| alone[index]);
            let short = how != Leaving::Crash || role.ttl_s.is_some_and(|ttl_s| ttl_s <= CRASH_TTL_S_MAX);
            !stays && short && role.ttl_s.is_some()
        })?;
        let role = &mut self.roles[chosen];
        let until_gone = match how {
            Leaving::Crash => Duration::from_secs(role.ttl_s.unwrap_or(0).unsigned_abs()) + EXPIRY_SLACK,
            Leaving::InGoodOrder | Leaving::Revoked => Duration::ZERO,
        };
        role.back_at = Some(now + until_gone + AWAY);
        Some(Act::Leave(chosen, how))
    }

    /// Who has been away longest comes back.
    fn enter(&mut self, now: Instant) -> Option<Act> {
        let ready = |(index, role): (usize, &Role)| role.back_at.filter(|at| *at <= now).map(|at| (at, index));
        let (_, index) = self.roles.iter().enumerate().filter_map(ready).min()?;
        self.roles[index].back_at = None;
        Some(Act::Enter(index))
    }

    fn reweight(&mut self) -> Option<Act> {
        let weight = 10 * self.rng.u32(1..=20);
        self.choose(|role| role.is_versioned).map(|index| Act::Edit(index, Edit::Weight(weight)))
    }

    /// One of those who are here.
    fn choose(&mut self, mut fits: impl FnMut(&Role) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.roles.len())
            .filter(|&index| fits(&self.roles[index]) && self.roles[index].back_at.is_none())
            .collect();
        self.rng.choice(fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_shared::Decoded;

    #[test]
    fn the_whole_cast_can_be_registered_and_no_two_share_a_key() {
        let parts = cast();
        let mut keys: Vec<String> =
            parts.iter().map(|part| part.layout.encode(&prefix(part.layout), &part.instance).unwrap().0).collect();
        assert!(!keys.contains(&MALFORMED_KEY.to_owned()));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), CAST.len());
        assert!(parts.iter().all(|part| part.ttl_s.is_none_or(|ttl_s| (6..=30).contains(&ttl_s))));
        assert_eq!(cast(), parts, "ids are the same in each run");
    }

    #[test]
    fn the_malformed_value_is_malformed_and_harms_nobody() {
        let entry = Layout::Kratos.decode(&prefix(Layout::Kratos), MALFORMED_KEY, MALFORMED_VALUE.as_bytes());
        assert!(matches!(entry.decoded, Decoded::Malformed { .. }));
        assert!(MALFORMED_VALUE.starts_with('{'), "a `null` there would crash running kratos clients");
    }

    #[test]
    fn every_cause_is_seen_within_a_minute_and_every_service_keeps_an_instance() {
        let parts = cast();
        let mut director = Director::new(&parts);
        let begun = Instant::now();
        let mut now = begun;
        let mut seen: Vec<(Duration, Act)> = Vec::new();
        while now < begun + Duration::from_mins(30) {
            now += director.pause();
            let act = director.next(now);
            seen.push((now - begun, act));
            if let Act::Leave(index, how) = act {
                assert!(parts[index].ttl_s.is_some(), "what is permanent stays");
                assert!(how != Leaving::Crash || parts[index].ttl_s.is_some_and(|ttl_s| ttl_s <= CRASH_TTL_S_MAX));
            }
            let away = director.roles.iter().filter(|role| role.back_at.is_some()).count();
            assert!(away <= AWAY_MAX);
            for role in &director.roles {
                let here = |other: &&Role| other.service == role.service && other.back_at.is_none();
                assert!(director.roles.iter().any(|other| here(&other)), "{:?} is gone", role.service);
            }
        }
        let minute = Duration::from_mins(1);
        // A crash is seen when the lease has run out.
        let soon = Duration::from_secs(60 - CRASH_TTL_S_MAX.unsigned_abs()).saturating_sub(EXPIRY_SLACK);
        let within =
            |limit: Duration, wanted: fn(&Act) -> bool| seen.iter().any(|(at, act)| *at < limit && wanted(act));
        assert!(within(soon, |act| matches!(act, Act::Leave(_, Leaving::Crash))));
        assert!(within(minute, |act| matches!(act, Act::Leave(_, Leaving::InGoodOrder))));
        assert!(within(minute, |act| matches!(act, Act::Leave(_, Leaving::Revoked))));
        assert!(within(minute, |act| *act == Act::Flash));
        assert!(within(minute, |act| matches!(act, Act::Enter(_))));
        assert!(within(minute, |act| matches!(act, Act::Edit(_, Edit::Version))));
        assert!(within(minute, |act| matches!(act, Act::Edit(_, Edit::Weight(_)))));
        let mut edited = parts[0].instance.clone();
        Edit::Version.apply(&mut edited);
        assert_eq!(edited.version, "v2.3.2");
    }
}
