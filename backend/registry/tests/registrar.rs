//! The registrar against a real etcd.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rollcall_registry::{
    RegisterError, Registrar, RegistrarConfig, Registration, RegistrationState,
    etcd::{
        connect::{ConnectConfig, Connection},
        keepalive::LeaseKeeping,
        lease,
    },
};
use rollcall_shared::{KeyPrefix, Layout, LeaseId, ServiceInstance};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// A private etcd, ended and thrown away with the value.
struct Etcd {
    folder: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// Chooses its place without starting it.
    fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, client_port: free_port(), peer_port: free_port(), child: None }
    }

    async fn spawn() -> Self {
        let mut etcd = Self::prepare();
        etcd.start();
        etcd.answers().await;
        etcd
    }

    fn start(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path())
            .args(["--name", "one", "--initial-cluster", &format!("one={peer}"), "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--unsafe-no-fsync", "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is needed: `apt-get install etcd-server`, or https://etcd.io/docs/latest/install/");
        self.child = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Freezes it with `STOP`, thaws it with `CONT`.
    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    fn connection(&self) -> Connection {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.client_port)];
        Connection::new(ConnectConfig { endpoints, ..ConnectConfig::default() }).unwrap()
    }

    async fn answers(&self) {
        eventually("etcd answers", Duration::from_secs(20), async || self.value_of("/").await.is_ok()).await;
    }

    async fn value_of(&self, key: &str) -> Result<Option<(String, i64)>, String> {
        let client = self.connection().client().await.map_err(|error| error.to_string())?;
        let answer = client.kv().get(key, None).await.map_err(|error| error.to_string())?;
        Ok(answer.kvs().first().map(|kv| (kv.value_str().unwrap_or_default().to_owned(), kv.lease())))
    }

    async fn leases(&self) -> usize {
        self.connection().client().await.unwrap().lease().leases().await.unwrap().leases().len()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn reaches(state: &mut watch::Receiver<RegistrationState>, wanted: impl Fn(&RegistrationState) -> bool) {
    let reached = timeout(SOON, state.wait_for(wanted)).await.is_ok_and(|state| state.is_ok());
    assert!(reached, "still {:?}", *state.borrow());
}

fn config(ttl_s: Option<i64>) -> RegistrarConfig {
    let prefix = KeyPrefix::new("/microservices").unwrap();
    RegistrarConfig { layout: Layout::Kratos, prefix, ttl_s, takeover: false }
}

fn instance(id: &str) -> ServiceInstance {
    ServiceInstance {
        id: id.into(),
        name: "helloworld".into(),
        version: "v1".into(),
        metadata: BTreeMap::new(),
        endpoints: vec!["http://127.0.0.1:8000".into()],
    }
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_registration_stands_under_its_lease_and_deregistering_leaves_neither() {
    let etcd = Etcd::spawn().await;
    let registrar = Registrar::new(etcd.connection(), config(Some(10)));
    let registration = registrar.register(&instance("1")).await.unwrap();
    assert_eq!(registration.key(), "/microservices/helloworld/1");
    assert_eq!(*registration.state().borrow(), RegistrationState::Alive);
    let (value, lease) = etcd.value_of(registration.key()).await.unwrap().unwrap();
    assert!(value.contains(r#""version":"v1""#), "{value}");
    assert_eq!(LeaseId::from_etcd(lease), registration.lease());

    let edited = ServiceInstance { version: "v2".into(), ..instance("1") };
    registration.update(&edited).await.unwrap();
    let (value, lease_after) = etcd.value_of(registration.key()).await.unwrap().unwrap();
    assert!(value.contains(r#""version":"v2""#) && lease_after == lease, "{value}");
    assert!(matches!(registration.update(&instance("2")).await, Err(RegisterError::KeyChanged { .. })));

    let (key, mut state) = (registration.key().to_owned(), registration.state());
    registration.deregister().await.unwrap();
    assert_eq!(etcd.value_of(&key).await.unwrap(), None);
    assert_eq!(etcd.leases().await, 0);
    reaches(&mut state, |state| *state == RegistrationState::Ended).await;
}

#[tokio::test]
async fn withdrawing_deletes_the_key_while_its_lease_lives() {
    let etcd = Etcd::spawn().await;
    let registration = Registrar::new(etcd.connection(), config(Some(30))).register(&instance("1")).await.unwrap();
    let (key, lease) = (registration.key().to_owned(), registration.lease().unwrap());
    registration.withdraw().await.unwrap();
    assert_eq!(etcd.value_of(&key).await.unwrap(), None);
    assert!(lease::time_to_live(&etcd.connection(), lease, false).await.unwrap().is_some());
}

#[tokio::test]
async fn a_key_that_stands_under_another_lease_is_not_written_over() {
    let etcd = Etcd::spawn().await;
    let first = Registrar::new(etcd.connection(), config(Some(20))).register(&instance("1")).await.unwrap();
    let second = Registrar::new(etcd.connection(), config(Some(20)));
    match second.register(&instance("1")).await {
        Err(RegisterError::Standing { lease, .. }) => assert_eq!(lease, first.lease()),
        other => panic!("{other:?}"),
    }
    assert_eq!(etcd.leases().await, 1, "no lease is left behind");

    let waiting = second.register_eventually(&instance("1")).unwrap();
    let mut state = waiting.state();
    reaches(&mut state, |state| matches!(state, RegistrationState::Lost { why, .. } if why.contains("stands"))).await;
    first.deregister().await.unwrap();
    reaches(&mut state, |state| *state == RegistrationState::Alive).await;

    let greedy = Registrar::new(etcd.connection(), RegistrarConfig { takeover: true, ..config(Some(20)) });
    let taken = greedy.register(&instance("1")).await.unwrap();
    let lease = etcd.value_of(taken.key()).await.unwrap().unwrap().1;
    assert_eq!(LeaseId::from_etcd(lease), taken.lease());
    waiting.withdraw().await.unwrap();
    assert!(etcd.value_of(taken.key()).await.unwrap().is_some(), "leaving removes one's own key only");
}

#[tokio::test]
async fn a_permanent_key_is_deleted_by_deregistering() {
    let etcd = Etcd::spawn().await;
    let registration = Registrar::new(etcd.connection(), config(None)).register(&instance("1")).await.unwrap();
    let key = registration.key().to_owned();
    registration.update(&ServiceInstance { version: "v2".into(), ..instance("1") }).await.unwrap();
    let (value, lease) = etcd.value_of(&key).await.unwrap().unwrap();
    assert!(value.contains("v2") && lease == 0, "{value}");
    registration.deregister().await.unwrap();
    assert_eq!(etcd.value_of(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_lease_means_another_one_and_the_key_put_again() {
    let etcd = Etcd::spawn().await;
    let registration = Registrar::new(etcd.connection(), config(Some(3))).register(&instance("1")).await.unwrap();
    let lost = registration.lease().unwrap();
    lease::revoke(&etcd.connection(), lost).await.unwrap();
    eventually("the key is back under another lease", SOON, async || {
        let standing = etcd.value_of(registration.key()).await.unwrap();
        standing.is_some_and(|(_, lease)| lease != lost.0 && LeaseId::from_etcd(lease) == registration.lease())
    })
    .await;
}

#[tokio::test]
async fn a_dropped_registration_runs_out() {
    let etcd = Etcd::spawn().await;
    let registration = Registrar::new(etcd.connection(), config(Some(2))).register(&instance("1")).await.unwrap();
    let key = registration.key().to_owned();
    drop(registration);
    assert!(etcd.value_of(&key).await.unwrap().is_some(), "it stands until its TTL has passed");
    eventually("the key is gone", Duration::from_secs(10), async || etcd.value_of(&key).await.unwrap().is_none()).await;
}

#[tokio::test]
async fn an_outage_longer_than_the_ttl_and_a_start_without_etcd_both_heal() {
    let mut etcd = Etcd::prepare();
    let registrar = Registrar::new(etcd.connection(), config(Some(2)));
    let registration = registrar.register_eventually(&instance("1")).unwrap();
    assert!(registrar.register(&instance("2")).await.is_err(), "etcd is away");
    etcd.start();
    etcd.answers().await;
    let mut state = registration.state();
    reaches(&mut state, |state| *state == RegistrationState::Alive).await;
    let first = registration.lease().unwrap();

    etcd.kill();
    let failing = |state: &RegistrationState| matches!(state, RegistrationState::Retrying { .. });
    reaches(&mut state, failing).await;
    etcd.start();
    etcd.answers().await;
    // A restarted etcd gives every lease its full TTL anew, so that the lease may still be the same.
    eventually("the key stands and is renewed", SOON, async || {
        *state.borrow() == RegistrationState::Alive && etcd.value_of(registration.key()).await.unwrap().is_some()
    })
    .await;
    lease::revoke(&etcd.connection(), registration.lease().unwrap_or(first)).await.unwrap();
    etcd.kill();
    reaches(&mut state, |state| *state != RegistrationState::Alive).await;
    etcd.start();
    etcd.answers().await;
    eventually("the key stands again", SOON, async || etcd.value_of(registration.key()).await.unwrap().is_some()).await;
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_and_the_key_is_back_soon_after_the_thaw() {
    let etcd = Etcd::spawn().await;
    let registration = Registrar::new(etcd.connection(), config(Some(2))).register(&instance("1")).await.unwrap();
    let mut state = registration.state();
    etcd.signal("STOP");
    let failing = |state: &RegistrationState| matches!(state, RegistrationState::Retrying { .. });
    let noticed = timeout(SOON, state.wait_for(failing)).await.map(|state| state.is_ok());
    // The lease has run out by the thaw.
    sleep(Duration::from_secs(4)).await;
    etcd.signal("CONT");
    assert_eq!(noticed, Ok(true));
    eventually("the key stands under a lease that is renewed", SOON, async || {
        let standing = etcd.value_of(registration.key()).await.unwrap_or_default();
        let own = standing.is_some_and(|(_, lease)| LeaseId::from_etcd(lease) == registration.lease());
        own && *state.borrow() == RegistrationState::Alive
    })
    .await;
    // Whatever the thawing etcd still removes is under another lease by now.
    sleep(Duration::from_secs(4)).await;
    eventually("the key still stands", SOON, async || etcd.value_of(registration.key()).await.unwrap().is_some()).await;
}

#[tokio::test]
async fn hundreds_of_leases_outlive_their_ttl_over_a_few_streams() {
    let etcd = Etcd::spawn().await;
    let keeping = LeaseKeeping::start(etcd.connection(), &CancellationToken::new());
    let registrar = Registrar::sharing(keeping, config(Some(4)));
    let mut registrations = Vec::new();
    for id in 0..300 {
        registrations.push(registrar.register(&instance(&id.to_string())).await.unwrap());
    }
    let leases: Vec<_> = registrations.iter().map(Registration::lease).collect();
    // Longer than the TTL, also of the youngest: whatever is not renewed is gone by then.
    sleep(Duration::from_secs(9)).await;
    assert_eq!(leases, registrations.iter().map(Registration::lease).collect::<Vec<_>>());
    assert_eq!(etcd.leases().await, 300);
    for registration in registrations {
        registration.deregister().await.unwrap();
    }
    assert_eq!(etcd.leases().await, 0);
}
