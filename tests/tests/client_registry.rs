//! The registry client over a real etcd: what it registers and finds, and that nothing which befalls etcd is its end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::{ConnectOptions, Permission, PermissionType};
use rollcall_registry::{
    DiscoverError, Ended, Instances, KeyPrefix, Layout, Lifecycle, Options, RegisterError, Registrar, RegistrarConfig,
    Registration, RegistrationState, Registry, Scope, ServiceInstance,
    discovery::SERVICES_WATCHED_MAX,
    etcd::connect::{ConnectConfig, Connection},
};
use rollcall_tests::{
    Cluster, Etcd, FaultProxy,
    wait::{eventually, seconds},
};

/// Long enough for any recovery: how long one takes is no test's business.
const SOON: Duration = seconds(30);

fn options(etcd: &Etcd) -> Options {
    Options::kratos().endpoints([etcd.url()])
}

fn registry(options: Options) -> Registry {
    Registry::new(options).expect("the options are sound")
}

fn instance(name: &str, id: &str) -> ServiceInstance {
    ServiceInstance {
        id: id.to_owned(),
        name: name.to_owned(),
        version: "v1".to_owned(),
        metadata: BTreeMap::from([("zone".to_owned(), "eu".to_owned())]),
        endpoints: vec!["http://127.0.0.1:8080".to_owned()],
    }
}

fn ids(instances: &Instances) -> Vec<&str> {
    instances.iter().map(|instance| instance.id.as_str()).collect()
}

async fn is_alive(registration: &Registration) {
    let mut state = registration.state();
    let alive = state.wait_for(|state| *state == RegistrationState::Alive);
    drop(tokio::time::timeout(SOON, alive).await.expect("it is registered again in time").expect("it goes on"));
}

async fn is_in_trouble(registration: &Registration) {
    let mut state = registration.state();
    let trouble =
        state.wait_for(|state| matches!(state, RegistrationState::Retrying { .. } | RegistrationState::Lost { .. }));
    drop(tokio::time::timeout(SOON, trouble).await.expect("the trouble is told in time").expect("it goes on"));
}

/// Waits until the service has so many instances, as the registry finds them.
async fn finds(registry: &Registry, name: &str, count: usize) {
    eventually(&format!("{count} instances of {name}"), SOON, || async {
        match registry.get_service(name).await {
            Ok(found) if found.len() == count => Ok(()),
            Ok(found) => Err(format!("{:?}", ids(&found))),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn every_layout_is_registered_and_found_in_both_scopes() {
    let etcd = Etcd::spawn().await;
    let addressed = |name: &str, address: &str| ServiceInstance {
        id: address.to_owned(),
        name: name.to_owned(),
        endpoints: vec![address.to_owned()],
        ..ServiceInstance::default()
    };
    let fleets = [
        (Options::kratos(), instance("orders", "1")),
        (
            Options::go_micro(),
            ServiceInstance { endpoints: vec!["127.0.0.1:1".into()], ..instance("orders", "orders-1") },
        ),
        (Options::go_kit("/kit"), ServiceInstance { id: "1".into(), ..addressed("orders", "http://127.0.0.1:1") }),
        (Options::grpc("naming"), ServiceInstance { id: "1".into(), ..addressed("orders", "127.0.0.1:1") }),
        (Options::go_zero("orders.rpc"), ServiceInstance { id: "7".into(), ..addressed("orders.rpc", "127.0.0.1:1") }),
        (Options::kitex(), addressed("orders", "127.0.0.1:1")),
        (Options::hertz(), addressed("orders", "127.0.0.1:1")),
        (Options::plain(), ServiceInstance { id: "1".into(), ..addressed("orders", "127.0.0.1:1") }),
    ];
    for (options, instance) in fleets {
        let options = options.endpoints([etcd.url()]);
        let one = registry(options.clone());
        let all = registry(options.clone().scope(Scope::All));
        let what = format!("{options:?}");
        assert!(one.get_service(&instance.name).await.expect(&what).is_empty(), "{what}");
        let registration = one.register(&instance).await.expect(&what);
        for registry in [&one, &all] {
            finds(registry, &instance.name, 1).await;
            let found = registry.get_service(&instance.name).await.expect(&what);
            assert_eq!(*found[0], instance, "{what}");
        }
        assert_eq!(all.discovery().services(), [instance.name.as_str()], "{what}");
        registration.deregister().await.expect(&what);
        for registry in [&one, &all] {
            finds(registry, &instance.name, 0).await;
        }
    }
    assert!(etcd.leases().await.is_empty(), "a lease was left behind");
}

#[tokio::test]
async fn a_watcher_tells_the_full_list_first_and_then_every_change_until_it_is_stopped() {
    let etcd = Etcd::spawn().await;
    let registry = registry(options(&etcd));
    let first = registry.register(&instance("orders", "1")).await.unwrap();
    let mut watcher = registry.watch("orders").unwrap();
    assert_eq!(ids(&watcher.next().await.unwrap()), ["1"]);
    // What else there is, and what is broken, is none of its business.
    let _longer = registry.register(&instance("orders2", "1")).await.unwrap();
    etcd.put("/microservices/orders/broken", "{").await;
    let second = registry.register(&instance("orders", "2")).await.unwrap();
    assert_eq!(ids(&watcher.next().await.unwrap()), ["1", "2"]);
    second.update(&ServiceInstance { version: "v2".into(), ..instance("orders", "2") }).await.unwrap();
    assert_eq!(watcher.next().await.unwrap()[1].version, "v2");
    first.withdraw().await.unwrap();
    assert_eq!(ids(&watcher.next().await.unwrap()), ["2"]);
    let stopper = watcher.stopper();
    let waiting = tokio::spawn(async move { watcher.next().await });
    stopper.cancel();
    assert_eq!(waiting.await.unwrap().unwrap_err(), DiscoverError::Stopped);
    registry.discovery().close().await;
    assert_eq!(ids(&registry.get_service("orders").await.unwrap()), ["2"], "an answer stays what it was");
    assert!(matches!(registry.get_service("payments").await, Err(DiscoverError::Stopped)));
}

#[tokio::test]
async fn the_last_good_list_outlives_etcd_and_what_happened_meanwhile_is_caught_up_with() {
    let mut etcd = Etcd::spawn().await;
    let registry = registry(options(&etcd));
    let _one = registry.register(&instance("orders", "1")).await.unwrap();
    finds(&registry, "orders", 1).await;
    let mut view = registry.discovery().subscribe("orders").unwrap();
    etcd.kill();
    view.wait_for(|view| view.away.is_some()).await.unwrap();
    assert_eq!(ids(&registry.get_service("orders").await.unwrap()), ["1"]);
    assert!(matches!(
        self::registry(options(&etcd).first_list_timeout(Duration::ZERO)).get_service("orders").await,
        Err(DiscoverError::NotKnownYet { .. })
    ));
    etcd.start().await;
    view.wait_for(|view| view.away.is_none()).await.unwrap();
    let _two = registry.register(&instance("orders", "2")).await.unwrap();
    finds(&registry, "orders", 2).await;
    // Compacted while the line is cut: nothing is lost by it.
    let proxy = FaultProxy::to(&etcd.address()).await;
    let remote = self::registry(Options::kratos().endpoints([proxy.url()]));
    finds(&remote, "orders", 2).await;
    proxy.sever();
    let three = registry.register(&instance("orders", "3")).await.unwrap();
    three.withdraw().await.unwrap();
    let _four = registry.register(&instance("orders", "4")).await.unwrap();
    etcd.compact(etcd.revision().await).await;
    proxy.heal();
    finds(&remote, "orders", 3).await;
    assert_eq!(ids(&remote.get_service("orders").await.unwrap()), ["1", "2", "4"]);
}

#[tokio::test]
async fn a_thousand_registrations_come_back_over_few_streams_after_etcd_came_back_empty() {
    const COUNT: usize = 1_000;
    let mut etcd = Etcd::spawn().await;
    let empty = etcd.backup();
    let registry = registry(options(&etcd));
    let registered = futures_util::future::join_all((0..COUNT).map(|id| {
        let (registry, instance) = (registry.clone(), instance("orders", &format!("{id:04}")));
        async move { registry.register(&instance).await.unwrap() }
    }))
    .await;
    finds(&registry, "orders", COUNT).await;
    etcd.put_back(&empty);
    etcd.start().await;
    eventually("all are back", SOON, || async {
        let keys = etcd.keys("/microservices/orders/").await.len();
        if keys == COUNT { Ok(()) } else { Err(keys) }
    })
    .await;
    for registration in &registered {
        is_alive(registration).await;
    }
    finds(&registry, "orders", COUNT).await;
    // The first renewals are due a third of a TTL later.
    let streams = eventually("renewals go out", SOON, || async {
        let streams = open_keep_alive_streams(&etcd).await;
        if streams > 0 { Ok(streams) } else { Err(()) }
    })
    .await;
    assert!(streams <= 4, "{streams} streams renew");
    // One lease each, and none that was granted and forgotten.
    assert_eq!(etcd.leases().await.len(), COUNT);
}

/// How many streams of renewals stand, as etcd counts them.
async fn open_keep_alive_streams(etcd: &Etcd) -> u64 {
    let metrics = reqwest::get(format!("{}/metrics", etcd.url()))
        .await
        .expect("etcd tells its metrics")
        .text()
        .await
        .expect("in text");
    let sum = |name: &str| -> u64 {
        let counters = metrics.lines().filter(|line| line.starts_with(name) && line.contains("\"LeaseKeepAlive\""));
        counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    sum("grpc_server_started_total") - sum("grpc_server_handled_total")
}

#[tokio::test]
async fn a_lost_lease_and_a_deleted_key_are_what_they_are_to_the_go_frameworks() {
    let etcd = Etcd::spawn().await;
    let registry = registry(options(&etcd));
    let registration = registry.register(&instance("orders", "1")).await.unwrap();
    let lease = registration.lease().unwrap();
    let mut state = registration.state();
    etcd.revoke(lease.0).await;
    state.wait_for(|state| matches!(state, RegistrationState::Lost { .. })).await.unwrap();
    is_alive(&registration).await;
    etcd.key_stands(registration.key(), true, SOON).await;
    assert_ne!(registration.lease(), Some(lease));
    // An operator who deletes it means it: it stays deleted while its lease lives, which goes on being renewed.
    etcd.delete(registration.key()).await;
    let lease = registration.lease().unwrap().0;
    for (what, seen) in [("it runs down", (0..=12)), ("it is renewed", (13..=15))] {
        eventually(what, SOON, || async {
            let left = etcd.ttl(lease).await;
            if left.is_some_and(|left| seen.contains(&left)) { Ok(()) } else { Err(left) }
        })
        .await;
    }
    assert!(etcd.get(registration.key()).await.is_none(), "it was put back");
    registration.update(&instance("orders", "1")).await.expect("and an update puts it back");
    etcd.key_stands(registration.key(), true, SOON).await;
}

#[tokio::test]
async fn a_full_disk_stops_no_renewal_and_what_was_to_be_written_is_written_afterwards() {
    let etcd = Etcd::spawn_with(&["--quota-backend-bytes", "2000000"]).await;
    let registry = registry(options(&etcd).ttl(seconds(2)));
    let registration = registry.register(&instance("orders", "1")).await.unwrap();
    let mut client = etcd.client().await;
    let filled = async {
        for number in 0..1_000 {
            if client.put(format!("fill/{number}"), vec![b'x'; 100_000], None).await.is_err() {
                return;
            }
        }
        panic!("etcd took 100 MB over its quota of 2 MB");
    };
    filled.await;
    let next = ServiceInstance { version: "v2".into(), ..instance("orders", "1") };
    registration.update(&next).await.expect_err("etcd is full");
    is_in_trouble(&registration).await;
    let refused = registry.register(&instance("orders", "2")).await.unwrap_err().to_string();
    assert!(refused.contains("no space") || refused.contains("space exceeded"), "{refused}");
    // Several TTLs later the key still stands, with what was last written.
    tokio::time::sleep(seconds(7)).await;
    assert!(etcd.get(registration.key()).await.is_some());
    for number in 0..1_000 {
        etcd.delete(&format!("fill/{number}")).await;
    }
    etcd.compact(etcd.revision().await).await;
    etcd.disarm().await;
    is_alive(&registration).await;
    eventually("what was to be written is written", SOON, || async {
        let value = etcd.get(registration.key()).await.unwrap_or_default();
        if String::from_utf8_lossy(&value).contains("\"v2\"") { Ok(()) } else { Err(value) }
    })
    .await;
}

#[tokio::test]
async fn a_lost_quorum_is_told_and_survived() {
    let mut cluster = Cluster::spawn().await;
    let registry = registry(Options::kratos().endpoints(cluster.urls()).ttl(seconds(5)));
    let registration = registry.register(&instance("orders", "1")).await.unwrap();
    finds(&registry, "orders", 1).await;
    cluster.members[0].kill();
    cluster.members[1].kill();
    is_in_trouble(&registration).await;
    assert_eq!(ids(&registry.get_service("orders").await.unwrap()), ["1"], "the last list stands");
    // Both at once: one alone makes no quorum, and does not answer.
    cluster.members[0].start_unasked();
    cluster.members[1].start_unasked();
    is_alive(&registration).await;
    cluster.members[2].key_stands(registration.key(), true, SOON).await;
    let _second = registry.register(&instance("orders", "2")).await.unwrap();
    finds(&registry, "orders", 2).await;
}

/// How long a token of etcd's lives in these tests, in seconds.
const TOKEN_TTL_S: &str = "2";

#[tokio::test]
async fn tokens_run_out_and_nothing_else_does() {
    let etcd = Etcd::spawn_with(&["--auth-token-ttl", TOKEN_TTL_S]).await;
    let mut root = etcd.client().await;
    root.user_add("root", "secret", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    let registry = registry(options(&etcd).user("root", "secret").ttl(seconds(3)));
    registry.check().await.unwrap();
    let registration = registry.register(&instance("orders", "1")).await.unwrap();
    let mut watcher = registry.watch("orders").unwrap();
    assert_eq!(watcher.next().await.unwrap().len(), 1);
    for round in 2..=4 {
        // Longer than a token lives, and than the lease would live without renewals.
        tokio::time::sleep(seconds(4)).await;
        registry.register(&instance("orders", &round.to_string())).await.map(std::mem::forget).unwrap();
        while watcher.next().await.unwrap().len() < round {}
        assert!(watcher.view().instances.iter().any(|instance| instance.id == "1"), "it ran out");
    }
    is_alive(&registration).await;
    // Whatever changes about users makes the tokens of all of them old at once.
    root = etcd_client::Client::connect([etcd.url()], Some(ConnectOptions::new().with_user("root", "secret")))
        .await
        .unwrap();
    root.user_add("another", "secret", None).await.unwrap();
    registration.update(&ServiceInstance { version: "v2".into(), ..instance("orders", "1") }).await.unwrap();
    registration.withdraw().await.unwrap();
    while watcher.next().await.unwrap().iter().any(|instance| instance.id == "1") {}
}

#[tokio::test]
async fn a_user_of_the_prefix_alone_registers_and_watches() {
    let etcd = Etcd::spawn().await;
    let mut root = etcd.client().await;
    // A password is no harm where none is asked for yet.
    let registry = registry(options(&etcd).user("service", "secret"));
    registry.check().await.unwrap();
    let _before = registry.register(&instance("orders", "1")).await.unwrap();
    root.role_add("services").await.unwrap();
    let all = PermissionType::Readwrite;
    let permission = Permission::new(all, "/microservices/").with_prefix();
    root.role_grant_permission("services", permission).await.unwrap();
    for (user, role) in [("root", "root"), ("service", "services")] {
        root.user_add(user, "secret", None).await.unwrap();
        root.user_grant_role(user, role).await.unwrap();
    }
    root.auth_enable().await.unwrap();
    registry.check().await.unwrap();
    let mut watcher = registry.watch("orders").unwrap();
    assert_eq!(watcher.next().await.unwrap().len(), 1);
    let _after = registry.register(&instance("orders", "2")).await.unwrap();
    assert_eq!(ids(&watcher.next().await.unwrap()), ["1", "2"]);
    // What it may not read is said of that alone.
    let elsewhere = self::registry(
        options(&etcd).namespace("/elsewhere").user("service", "secret").first_list_timeout(Duration::ZERO),
    );
    let refused = elsewhere.get_service("orders").await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
}

#[tokio::test]
async fn a_member_that_is_away_is_no_reason_to_fail() {
    let etcd = Etcd::spawn().await;
    for endpoints in [["127.0.0.1:1".to_owned(), etcd.url()], [etcd.url(), "127.0.0.1:1".to_owned()]] {
        let config = ConnectConfig { endpoints: endpoints.to_vec(), ..ConnectConfig::default() };
        let connection = Connection::new(config).unwrap();
        connection.check().await.unwrap();
        let (layout, prefix) = (Layout::Kratos, KeyPrefix::new("/microservices").unwrap());
        let config = RegistrarConfig { layout, prefix, ttl_s: Some(15), takeover: false };
        let registration = Registrar::new(connection, config).register(&instance("orders", "1")).await.unwrap();
        registration.deregister().await.unwrap();
        assert!(etcd.leases().await.is_empty());
    }
}

#[tokio::test]
async fn what_is_told_to_end_is_deregistered_also_where_it_stops_serving_by_itself() {
    let etcd = Etcd::spawn().await;
    let registry = registry(options(&etcd));
    for stops_by_itself in [true, false] {
        let registration = registry.register(&instance("orders", "1")).await.unwrap();
        let lifecycle = Lifecycle::new().drain(Duration::ZERO);
        let (end, stop) = (lifecycle.end(), lifecycle.stop());
        let serving = {
            let (end, stop, etcd) = (end.clone(), stop.clone(), &etcd);
            async move {
                if stops_by_itself {
                    // As a server does that listens to the same signal.
                    end.cancelled().await;
                } else {
                    stop.cancelled().await;
                    assert!(etcd.get("/microservices/orders/1").await.is_none(), "it stops before it is deregistered");
                }
            }
        };
        end.cancel();
        assert_eq!(Box::pin(lifecycle.run([registration], serving)).await.unwrap(), Ended::Gracefully);
        assert!(etcd.get("/microservices/orders/1").await.is_none(), "it is still registered");
    }
}

#[tokio::test]
async fn wrong_credentials_and_a_wrong_address_are_one_clear_error_each() {
    let etcd = Etcd::spawn().await;
    let mut root = etcd.client().await;
    root.user_add("root", "secret", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    let impatient = |options: Options| registry(options.first_list_timeout(Duration::ZERO).timeout(seconds(2)));
    let nobody = FaultProxy::to(&etcd.address()).await;
    nobody.stall();
    for (options, why) in [
        (options(&etcd).user("root", "wrong"), &["authentication failed, invalid user ID or password"][..]),
        (options(&etcd), &["user name is empty"]),
        (Options::kratos().endpoints(["http://127.0.0.1:1"]), &["refused"]),
        (Options::kratos().endpoints([nobody.url()]), &["did not answer within 2 s"]),
        (Options::kratos().endpoints(["http://no-such-host.invalid:2379"]), &["lookup"]),
    ] {
        let tells = |said: &str| why.iter().any(|why| said.contains(why));
        let registry = impatient(options.clone());
        let from_register = registry.register(&instance("orders", "1")).await.unwrap_err().to_string();
        let from_discovery = registry.get_service("orders").await.unwrap_err().to_string();
        for said in [from_register, from_discovery] {
            assert!(tells(&said) && !said.contains('\n') && !said.contains("secret"), "{options:?}: {said}");
        }
        // Whoever would rather wait is registered as soon as it can be, and sees meanwhile what is in the way.
        let waiting = registry.registrar().register_eventually(&instance("orders", "1")).unwrap();
        let mut state = waiting.state();
        let told = state.wait_for(|state| match state {
            RegistrationState::Lost { why: said, .. } => tells(said),
            _ => false,
        });
        drop(tokio::time::timeout(SOON, told).await.expect("it says what is in the way").unwrap());
    }
}

#[tokio::test]
async fn tls_reaches_etcd_and_a_wrong_authority_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    let (certificate, key) = pki.signed("127.0.0.1");
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let etcd = Etcd::spawn_secure(
        &file("server.pem", &certificate),
        &file("server.key", &key),
        &file("ca.pem", &pki.authority_pem),
    )
    .await;
    let (certificate, key) = pki.signed("a client");
    let secure = Options::kratos().endpoints([etcd.secure_url()]).first_list_timeout(Duration::ZERO);
    let registry =
        registry(secure.clone().ca_pem(pki.authority_pem.clone()).identity_pem(certificate.clone(), key.clone()));
    registry.check().await.unwrap();
    let _registration = registry.register(&instance("orders", "1")).await.unwrap();
    finds(&registry, "orders", 1).await;
    let other = Pki::new();
    for (options, why) in [
        (secure.clone().ca_pem(other.authority_pem).identity_pem(certificate, key), &["certificate"][..]),
        // TLS 1.3 tells a client without a certificate after it believes to be connected: it may see only the end.
        (
            secure.clone().ca_pem(pki.authority_pem.clone()),
            &["ertificate", "connection closed", "broken pipe", "reset"],
        ),
    ] {
        let stranger = self::registry(options);
        for said in [
            stranger.check().await.unwrap_err().to_string(),
            stranger.register(&instance("orders", "2")).await.unwrap_err().to_string(),
            stranger.get_service("orders").await.unwrap_err().to_string(),
        ] {
            assert!(why.iter().any(|why| said.contains(why)) && !said.contains('\n'), "{said}");
        }
    }
}

/// An authority of the test's own.
struct Pki {
    authority_pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("it can be made of these");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("it can be made of these");
        let authority_pem = params.self_signed(&key).expect("it can be made of these").pem();
        Self { authority_pem, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A certificate for `name` and its key, in PEM.
    fn signed(&self, name: &str) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec![name.replace(' ', "-")]).expect("it can be made of these");
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().expect("it can be made of these");
        (params.signed_by(&key, &self.issuer).expect("it can be made of these").pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn a_key_that_stands_says_whose_it_is_and_leaves_no_lease_behind() {
    let etcd = Etcd::spawn().await;
    let (ours, theirs) = (registry(options(&etcd)), registry(options(&etcd)));
    let held = theirs.register(&instance("orders", "1")).await.unwrap();
    let RegisterError::Standing { lease, instance: holder, .. } =
        ours.register(&instance("orders", "1")).await.unwrap_err()
    else {
        panic!("the key was somebody else's");
    };
    assert_eq!((lease, holder.as_deref()), (held.lease(), Some(&instance("orders", "1"))));
    let said = ours.register(&instance("orders", "1")).await.unwrap_err().to_string();
    assert!(said.contains(&held.lease().unwrap().to_string()) && said.contains("http://127.0.0.1:8080"), "{said}");
    assert_eq!(etcd.leases().await, [held.lease().unwrap().0]);
    // Who waits for it gets it when it is free, and grants nothing before.
    let waiting = ours.registrar().register_eventually(&instance("orders", "1")).unwrap();
    is_in_trouble(&waiting).await;
    eventually("no lease is left behind by who waits", SOON, || async {
        let leases = etcd.leases().await;
        if leases.len() == 1 { Ok(()) } else { Err(leases) }
    })
    .await;
    held.deregister().await.unwrap();
    is_alive(&waiting).await;
    // Unless it may be taken.
    let taken = registry(options(&etcd).takeover(true)).register(&instance("orders", "1")).await.unwrap();
    assert_ne!(taken.lease(), waiting.lease());
}

#[tokio::test]
async fn what_a_layout_cannot_carry_is_refused_before_etcd_is_asked() {
    // Nobody listens there.
    let nowhere = |options: Options| registry(options.endpoints(["127.0.0.1:1"]));
    let fine = || instance("orders", "1");
    for (options, instance, field) in [
        (Options::kratos(), ServiceInstance { name: String::new(), ..fine() }, "/instance/name"),
        (Options::kratos(), ServiceInstance { id: "a//b".into(), ..fine() }, "/instance/id"),
        (
            Options::kratos(),
            ServiceInstance { endpoints: vec!["127.0.0.1:80".into()], ..fine() },
            "/instance/endpoints",
        ),
        (Options::kitex(), ServiceInstance { endpoints: vec!["127.0.0.1:80".into()], ..fine() }, "/instance/version"),
        (
            Options::go_zero("k"),
            ServiceInstance { endpoints: vec!["127.0.0.1:80".into()], ..fine() },
            "/instance/metadata",
        ),
    ] {
        let registry = nowhere(options);
        for refused in [
            registry.register(&instance).await.map(drop).unwrap_err(),
            registry.registrar().register_eventually(&instance).map(drop).unwrap_err(),
        ] {
            assert!(matches!(&refused, RegisterError::Invalid(_)), "{refused}");
            assert!(refused.to_string().contains(field), "{refused}");
        }
    }
    let registry = nowhere(Options::kratos());
    for wrong in ["", "a\nb"] {
        assert!(matches!(registry.watch(wrong), Err(DiscoverError::BadName(_))), "{wrong:?}");
        assert!(matches!(registry.get_service(wrong).await, Err(DiscoverError::BadName(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn the_services_watched_one_by_one_are_bounded() {
    let etcd = Etcd::spawn().await;
    let registry = registry(options(&etcd));
    let discovery = registry.discovery();
    let kept: Vec<_> =
        (0..SERVICES_WATCHED_MAX).map(|number| discovery.watch(&format!("orders-{number}")).unwrap()).collect();
    assert!(matches!(discovery.watch("one-more"), Err(DiscoverError::TooMany)));
    assert_eq!(registry.get_service("orders-0").await, Ok(Arc::from([])));
    drop(kept);
    let whole = self::registry(options(&etcd).scope(Scope::All));
    for number in 0..=SERVICES_WATCHED_MAX {
        assert_eq!(whole.get_service(&format!("orders-{number}")).await, Ok(Arc::from([])));
    }
}
