//! Calling by name, over a real etcd and real servers: who is called, who is not, and that what befalls an instance or etcd
//! costs no call that it need not cost.

#[path = "client_calls/fleet.rs"]
mod fleet;
#[path = "client_calls/load.rs"]
mod load;

use std::{collections::BTreeMap, error::Error as _, path::PathBuf, process::Command, time::Duration};

use rollcall_helloworld::{HelloReply, HelloRequest, greeter_client::GreeterClient};
use rollcall_registry::{
    Options, Registry, ServiceInstance,
    call::{
        AnsweredBy, Budget, CallConfig, CallError, Ejection, Picking, Repeatable, Retry, Security, WhenEmpty,
        grpc::{Channel, ChannelError},
        http::{Client, Error},
    },
};
use rollcall_tests::{
    Etcd,
    etcd::free_port,
    process::{Process, send as signal},
    wait::{eventually, seconds},
};
use tonic::{
    Code, Status,
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, ClientTlsConfig},
};

use fleet::{Breaker, ELSEWHERE, Instance, NAME, NEVER, UNAVAILABLE};
use load::Load;

const TARGET: &str = "discovery:///helloworld";

/// Long enough for anything that is to come about: how long it takes is no test's business.
const SOON: Duration = seconds(30);

fn registry(etcd: &Etcd) -> Registry {
    Registry::new(Options::kratos().endpoints([etcd.url()])).expect("the options are sound")
}

fn greeter(registry: &Registry, config: CallConfig) -> GreeterClient<Channel> {
    GreeterClient::new(Channel::connect(TARGET, registry.discovery(), config).expect("the target is sound"))
}

fn client(registry: &Registry, config: CallConfig) -> Client {
    Client::new(registry.discovery(), config).expect("reqwest needs nothing")
}

/// As by default, and waiting for whom the test is about to register.
fn patient() -> CallConfig {
    CallConfig { when_empty: WhenEmpty::Wait(SOON), ..CallConfig::default() }
}

async fn say(greeter: &GreeterClient<Channel>, name: &str) -> Result<String, Status> {
    let request = HelloRequest { name: name.to_owned() };
    greeter.clone().say_hello(request).await.map(|reply| reply.into_inner().message)
}

async fn get(client: &Client, path: &str) -> Result<String, Error> {
    let response = client.get(&format!("{TARGET}/{path}")).send().await?;
    Ok(response.error_for_status()?.text().await?)
}

/// Why a call was not made, as its status' source says.
fn why(status: &Status) -> CallError {
    let source = status.source().expect("the status has a source");
    source.downcast_ref::<CallError>().expect("it is why the call was not made").clone()
}

/// Who answers `count` calls, by how often.
async fn answers(greeter: &GreeterClient<Channel>, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        *seen.entry(say(greeter, "you").await.expect("it is answered")).or_default() += 1;
    }
    seen
}

/// Waits until those and no others answer, over gRPC.
async fn answered_by(greeter: &GreeterClient<Channel>, ids: &[&str]) {
    eventually(&format!("{ids:?} answer"), SOON, || async {
        let seen = answers(greeter, 20).await;
        if seen.keys().eq(ids.iter()) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_is_reached_by_its_name() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let fleet: Vec<Instance> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    let mut registrations = Vec::new();
    for instance in &fleet {
        registrations.push(instance.register(&registry).await);
    }

    for picking in [Picking::RoundRobin, Picking::Weighted, Picking::PowerOfTwoChoices] {
        let config = CallConfig { picking, ..patient() };
        let greeter = greeter(&registry, config.clone());
        let http = client(&registry, config);
        answered_by(&greeter, &["a", "b", "c"]).await;
        let mut seen = BTreeMap::new();
        for _ in 0..60 {
            *seen.entry(get(&http, "hello").await.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 3, "{picking:?}: {seen:?}");
        if picking != Picking::PowerOfTwoChoices {
            assert!(seen.values().all(|&count| count == 20), "{picking:?}: {seen:?}");
        }
    }

    // The answer says who gave it, and the request keeps its path and its query.
    let greeter = greeter(&registry, patient());
    let reply = greeter.clone().say_hello(HelloRequest::default()).await.unwrap();
    let by: &AnsweredBy = reply.extensions().get().expect("the answer says who gave it");
    assert_eq!(by.instance.id, reply.get_ref().message);
    assert!(by.instance.endpoints.contains(&format!("grpc://{}", by.address)));
    let http = client(&registry, patient());
    let reply = http.get(&format!("{TARGET}/a/b%20c?x=1&y=%2F")).send().await.unwrap();
    assert_eq!(reply.headers()["x-asked"], "/a/b%20c?x=1&y=%2F");
    let by = reply.extensions().get::<AnsweredBy>().expect("the answer says who gave it").clone();
    assert_eq!(reply.text().await.unwrap(), by.instance.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_divide_the_calls_and_0_drains_all_but_the_last() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let (mut a, mut b) = (Instance::start("a"), Instance::start("b"));
    a.weigh(300);
    b.weigh(100);
    let (registered_a, registered_b) = (a.register(&registry).await, b.register(&registry).await);
    let greeter = greeter(&registry, CallConfig { picking: Picking::Weighted, ..patient() });
    eventually("three of four calls go to a", SOON, || async {
        let seen = answers(&greeter, 40).await;
        if seen.get("a") == Some(&30) { Ok(()) } else { Err(seen) }
    })
    .await;

    a.weigh(0);
    registered_a.update(&a.said).await.unwrap();
    answered_by(&greeter, &["b"]).await;
    registered_b.deregister().await.unwrap();
    answered_by(&greeter, &["a"]).await;
}

fn greetings(greeter: &GreeterClient<Channel>) -> Load {
    let greeter = greeter.clone();
    Load::start(move || {
        let greeter = greeter.clone();
        async move { say(&greeter, "you").await.map(drop).map_err(|status| format!("{status:?}")) }
    })
}

fn requests(client: &Client) -> Load {
    let client = client.clone();
    Load::start(move || {
        let client = client.clone();
        async move { get(&client, "hello").await.map(drop).map_err(|error| format!("{error:?}")) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_no_call_and_gets_calls_again_when_it_is_back() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let mut fleet: Vec<Instance> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    let mut registrations = Vec::new();
    for instance in &fleet {
        registrations.push(instance.register(&registry).await);
    }
    let config = CallConfig { retry: Retry::all(), ..patient() };
    let greeter = greeter(&registry, config.clone());
    let http = client(&registry, config);
    answered_by(&greeter, &["a", "b", "c"]).await;

    let load = [greetings(&greeter), requests(&http)];
    for _ in 0..2 {
        for load in &load {
            load.goes_on(300).await;
        }
        // Its registration stays: nobody is told.
        fleet[1].kill();
        for load in &load {
            load.goes_on(300).await;
        }
        let before = fleet[1].calls();
        fleet[1].revive();
        eventually("the one that is back gets calls", SOON, || async {
            let calls = fleet[1].calls();
            if calls > before + 10 { Ok(()) } else { Err(calls - before) }
        })
        .await;
    }
    for load in load {
        load.ends_without_a_failure().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_without_etcd() {
    let mut etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let fleet: Vec<Instance> = ["a", "b"].into_iter().map(Instance::start).collect();
    let mut registrations = Vec::new();
    for instance in &fleet {
        registrations.push(instance.register(&registry).await);
    }
    let greeter = greeter(&registry, patient());
    let http = client(&registry, patient());
    answered_by(&greeter, &["a", "b"]).await;
    assert!(get(&http, "hello").await.is_ok());

    etcd.kill();
    eventually("discovery notices that etcd is away", SOON, || async {
        let view = registry.discovery().subscribe(NAME).unwrap().borrow().clone();
        if view.away.is_some() { Ok(()) } else { Err(view) }
    })
    .await;
    answered_by(&greeter, &["a", "b"]).await;
    for _ in 0..20 {
        get(&http, "hello").await.unwrap();
    }
    // Who begins now begins with the last good list.
    let late = self::greeter(&registry, CallConfig::default());
    eventually("a new channel has the last good list", SOON, || async { say(&late, "you").await.map(drop) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_error_at_once_or_a_wait_that_ends() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);

    let hasty = greeter(&registry, CallConfig::default());
    let status = say(&hasty, "you").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(why(&status), CallError::NoInstance { service: NAME.into() });
    match get(&client(&registry, CallConfig::default()), "hello").await {
        Err(Error::Call(CallError::NoInstance { service })) => assert_eq!(&*service, NAME),
        other => panic!("{other:?}"),
    }

    let short = CallConfig { when_empty: WhenEmpty::Wait(Duration::from_millis(50)), ..CallConfig::default() };
    let status = say(&greeter(&registry, short.clone()), "you").await.unwrap_err();
    assert!(matches!(why(&status), CallError::NoneInTime { waited_ms: 50.., .. }), "{status:?}");
    let answer = get(&client(&registry, short), "hello").await;
    assert!(matches!(answer, Err(Error::Call(CallError::NoneInTime { .. }))), "{answer:?}");

    // A wait is over as soon as somebody registers.
    let waiting = greeter(&registry, patient());
    let call = tokio::spawn(async move { say(&waiting, "you").await });
    let http = client(&registry, patient());
    let request = tokio::spawn(async move { get(&http, "hello").await });
    let a = Instance::start("a");
    let _registration = a.register(&registry).await;
    assert_eq!(call.await.unwrap().unwrap(), "a");
    assert_eq!(request.await.unwrap().unwrap(), "a");

    // An instance without the endpoint that is wanted is none.
    let only_http = ServiceInstance { endpoints: vec![a.said.endpoints[0].clone()], ..a.said.clone() };
    let _registration = registry.register(&ServiceInstance { name: "web".into(), ..only_http }).await.unwrap();
    let channel = Channel::connect("discovery:///web", registry.discovery(), CallConfig::default()).unwrap();
    let status = say(&GreeterClient::new(channel), "you").await.unwrap_err();
    assert_eq!(why(&status), CallError::NoEndpoint { service: "web".into(), instances: 1, scheme: "grpc" });
}

#[tokio::test(flavor = "multi_thread")]
async fn before_anything_is_known_the_trouble_is_told() {
    let registry = Registry::new(Options::kratos().endpoints([format!("http://127.0.0.1:{}", free_port())]))
        .expect("sound options");
    let status = say(&greeter(&registry, CallConfig::default()), "you").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(why(&status), CallError::NotKnownYet { .. }), "{status:?}");
    let brief = CallConfig { when_empty: WhenEmpty::Wait(Duration::from_millis(50)), ..CallConfig::default() };
    let status = say(&greeter(&registry, brief), "you").await.unwrap_err();
    let CallError::NoneInTime { why, .. } = why(&status) else { panic!("{status:?}") };
    assert!(matches!(*why, CallError::NotKnownYet { .. }), "{why:?}");

    for wrong in ["helloworld", "http://127.0.0.1:1", "discovery:///", "discovery://helloworld"] {
        let channel = Channel::connect(wrong, registry.discovery(), CallConfig::default());
        assert!(matches!(channel, Err(ChannelError::Call(CallError::Target(_)))), "{wrong}: {channel:?}");
        let answer = client(&registry, CallConfig::default()).get(wrong).send().await;
        assert!(matches!(answer, Err(Error::Call(CallError::Target(_)))), "{wrong}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_its_time_and_no_more() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let a = Instance::start("a");
    let _registration = a.register(&registry).await;
    let config = CallConfig { timeout: Some(Duration::from_millis(300)), retry: Retry::all(), ..CallConfig::default() };
    let greeter = greeter(&registry, config.clone());
    let http = client(&registry, config);
    eventually("the instance is found", SOON, || async { say(&greeter, "you").await.map(drop) }).await;
    let before = a.calls();

    let status = say(&greeter, NEVER).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(why(&status), CallError::TimedOut { service: NAME.into(), after_ms: 300 });
    let answer = get(&http, NEVER).await;
    assert!(matches!(answer, Err(Error::Call(CallError::TimedOut { .. }))), "{answer:?}");
    assert_eq!(a.calls(), before + 2, "what was given up is not tried again");
}

/// An instance that breaks every call, and one that answers, the former called first.
async fn broken_and_sound(registry: &Registry) -> (Breaker, Instance, Vec<rollcall_registry::Registration>) {
    let (breaker, sound) = (Breaker::start("broken", "marker").await, Instance::start("sound"));
    let registrations =
        vec![registry.register(&breaker.said).await.expect("etcd takes it"), sound.register(registry).await];
    (breaker, sound, registrations)
}

/// Calls until the breaker has had one, and gives what became of that one. Nothing is left out, so that it stays there.
async fn call_the_breaker<T, F: Future<Output = T>>(breaker: &Breaker, call: impl Fn() -> F) -> T {
    let before = breaker.broken();
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let answer = call().await;
        if breaker.broken() > before {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "the breaker is never called");
    }
}

fn never_left_out(retry: Retry) -> CallConfig {
    CallConfig { retry, ejection: Ejection::never(), ..patient() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_carried_out_is_tried_again_only_where_that_does_no_harm() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let (breaker, sound, _registrations) = broken_and_sound(&registry).await;

    // gRPC: nothing says that it may be done twice, unless the caller does.
    let careful = greeter(&registry, never_left_out(Retry::default()));
    let answer = call_the_breaker(&breaker, || say(&careful, "marker")).await;
    assert!(answer.is_err(), "{answer:?}");
    let marked = || async {
        let mut request = tonic::Request::new(HelloRequest { name: "marker".into() });
        request.extensions_mut().insert(Repeatable(true));
        careful.clone().say_hello(request).await.map(|reply| reply.into_inner().message)
    };
    assert_eq!(call_the_breaker(&breaker, marked).await.unwrap(), "sound");
    let daring = greeter(&registry, never_left_out(Retry::all()));
    assert_eq!(call_the_breaker(&breaker, || say(&daring, "marker")).await.unwrap(), "sound");

    // HTTP: the method says it.
    let http = client(&registry, never_left_out(Retry::default()));
    assert_eq!(call_the_breaker(&breaker, || get(&http, "marker")).await.unwrap(), "sound");
    let post = |http: &Client, repeatable: bool| {
        let request = http.post(&format!("{TARGET}/hello")).body("marker");
        let request = if repeatable { request.repeatable(true) } else { request };
        async move { Ok::<_, Error>(request.send().await?.text().await?) }
    };
    let before = sound.calls();
    let answer = call_the_breaker(&breaker, || async {
        let before = sound.calls();
        (post(&http, false).await, sound.calls() - before)
    })
    .await;
    assert!(matches!(answer, (Err(Error::Http(_)), 0)), "{answer:?}");
    assert!(sound.calls() >= before);
    assert_eq!(call_the_breaker(&breaker, || post(&http, true)).await.unwrap(), "sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_messages_is_sent_once() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let (breaker, sound, mut registrations) = broken_and_sound(&registry).await;
    let channel = Channel::connect(TARGET, registry.discovery(), never_left_out(Retry::all())).unwrap();
    let stream = || async {
        let before = sound.calls();
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await?;
        // The first message is there at once, the end comes later.
        let first = futures_util::stream::iter([HelloRequest { name: "marker".into() }]);
        let rest = futures_util::stream::once(async {
            tokio::task::yield_now().await;
            HelloRequest { name: "more".into() }
        });
        let messages = futures_util::StreamExt::chain(first, rest);
        let codec = tonic_prost::ProstCodec::<HelloRequest, HelloReply>::default();
        let path = PathAndQuery::from_static("/helloworld.Greeter/SayHello");
        let answer = grpc.client_streaming(tonic::Request::new(messages), path, codec).await;
        Ok::<_, Status>((answer.map(|_| ()).map_err(|status| status.code()), sound.calls() - before))
    };
    let (answer, elsewhere) = call_the_breaker(&breaker, &stream).await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(elsewhere, 0, "it was sent a second time");

    // Where the connection was refused, nothing was sent: then it is.
    let mut gone = Instance::start("gone");
    gone.kill();
    registrations.push(gone.register(&registry).await);
    registrations.remove(0).deregister().await.unwrap();
    eventually("every stream reaches the one that lives", SOON, || async {
        for _ in 0..20 {
            // (The greeter takes one message only, and says so: what counts is that it was asked.)
            let (answer, elsewhere) = stream().await.unwrap();
            if elsewhere != 1 {
                return Err(answer);
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_trouble_is_not_buried_in_retries() {
    const CALLS: usize = 200;
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let fleet: Vec<Instance> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    let mut registrations = Vec::new();
    for instance in &fleet {
        registrations.push(instance.register(&registry).await);
    }
    let budget = Budget { window: seconds(60), retries_per_s_min: 0, share: 0.1 };
    let retry = Retry { budget, ..Retry::all() };
    let config = CallConfig { retry, ..patient() };
    let reached = || fleet.iter().map(Instance::calls).sum::<usize>();

    let greeter = greeter(&registry, config.clone());
    let http = client(&registry, config);
    for protocol in ["grpc", "http"] {
        let before = reached();
        for _ in 0..CALLS {
            if protocol == "grpc" {
                assert_eq!(say(&greeter, UNAVAILABLE).await.unwrap_err().code(), Code::Unavailable);
            } else {
                let response = http.get(&format!("{TARGET}/{UNAVAILABLE}")).send().await.unwrap();
                assert_eq!(response.status(), 503);
                assert!(response.extensions().get::<AnsweredBy>().is_some(), "it does not say who gave it");
            }
        }
        let tries = reached() - before;
        assert!(tries > CALLS && tries <= CALLS + CALLS / 10, "{protocol}: {tries} tries of {CALLS} calls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_whom_it_is_agreed_with() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (secure, plain) = (Instance::start_secured("secure", &key), Instance::start("plain"));
    let _secure = secure.register(&registry).await;

    let config = CallConfig { security: Security::Tls, ..CallConfig::default() };
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(key.cert.pem()));
    let with = move |endpoint: tonic::transport::Endpoint| endpoint.tls_config(trusting.clone());
    let channel = Channel::connect_with(TARGET, registry.discovery(), config.clone(), with).unwrap();
    let trusting = GreeterClient::new(channel);
    eventually("the secure instance answers", SOON, || async { say(&trusting, "you").await.map(drop) }).await;
    let authority = reqwest::Certificate::from_pem(key.cert.pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let https = Client::with(http, registry.discovery(), config.clone());
    assert_eq!(get(&https, "hello").await.unwrap(), "secure");

    // Who speaks no TLS does not see it, and the other way round.
    let insecure = greeter(&registry, CallConfig::default());
    let status = say(&insecure, "you").await.unwrap_err();
    assert_eq!(why(&status), CallError::NoEndpoint { service: NAME.into(), instances: 1, scheme: "grpc" });
    let _plain = plain.register(&registry).await;
    answered_by_soon(&insecure, "plain").await;
    assert_eq!(answers(&trusting, 10).await.into_keys().collect::<Vec<_>>(), ["secure"]);
    let insecure = client(&registry, CallConfig::default());
    for _ in 0..10 {
        assert_eq!(get(&https, "hello").await.unwrap(), "secure");
        assert_eq!(get(&insecure, "hello").await.unwrap(), "plain");
    }

    // Early versions of go-kratos say it with the query.
    let early = secure.said.endpoints.iter().map(|endpoint| endpoint.replacen("s://", "://", 1) + "?isSecure=true");
    let early = ServiceInstance { name: "early".into(), endpoints: early.collect(), ..secure.said.clone() };
    let _early = registry.register(&early).await.unwrap();
    eventually("who says it with the query is called over TLS", SOON, || async {
        https.get("discovery:///early/hello").send().await.map(drop)
    })
    .await;
    let answer = insecure.get("discovery:///early/hello").send().await;
    assert!(matches!(answer, Err(Error::Call(CallError::NoEndpoint { scheme: "http", .. }))), "{answer:?}");

    // A certificate that nobody vouches for is not taken.
    let before = secure.calls();
    let doubting = greeter(&registry, config);
    eventually("an unknown certificate is refused", SOON, || async {
        match say(&doubting, "you").await {
            Err(status) if status.code() == Code::Unavailable => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let answer = get(&client(&registry, CallConfig { security: Security::Tls, ..patient() }), "hello").await;
    assert!(matches!(&answer, Err(Error::Http(error)) if error.is_connect()), "{answer:?}");
    assert_eq!(secure.calls(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_no_addresses_cost_no_call() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let sound = Instance::start("sound");
    let _sound = sound.register(&registry).await;
    for (number, address) in ["127.0.0.1:80800", ":8080", "a host:80", "[::1:80", "127.0.0.1:80 "].iter().enumerate() {
        let junk =
            format!(r#"{{"id":"{number}","name":"{NAME}","endpoints":["http://{address}","grpc://{address}"]}}"#);
        etcd.put(&format!("/microservices/{NAME}/{number}"), junk).await;
    }
    // Nothing that is called in vain would be tried again.
    let config = CallConfig { retry: Retry::never(), ..patient() };
    let (greeter, http) = (greeter(&registry, config.clone()), client(&registry, config));
    eventually("all of them are known", SOON, || async {
        let known = registry.get_service(NAME).await.map_err(|error| error.to_string())?.len();
        if known == 6 { Ok(()) } else { Err(known.to_string()) }
    })
    .await;
    for _ in 0..30 {
        assert_eq!(say(&greeter, "you").await.unwrap(), "sound");
        assert_eq!(get(&http, "hello").await.unwrap(), "sound");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_names_a_user_comes_back_as_others_do() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let (a, mut b) = (Instance::start("a"), Instance::start("b"));
    b.said.endpoints.iter_mut().for_each(|endpoint| *endpoint = endpoint.replacen("://", "://user@", 1));
    let key = format!("/microservices/{NAME}/b");
    let [http, grpc] = &b.said.endpoints[..] else { panic!("{:?}", b.said) };
    etcd.put(&key, format!(r#"{{"id":"b","name":"{NAME}","endpoints":["{http}","{grpc}"]}}"#)).await;
    let _registered = a.register(&registry).await;
    let config = CallConfig { retry: Retry::all(), ..patient() };
    let (greeter, http) = (greeter(&registry, config.clone()), client(&registry, config));
    answered_by(&greeter, &["a", "b"]).await;
    b.kill();
    answered_by(&greeter, &["a"]).await;
    for _ in 0..10 {
        assert_eq!(get(&http, "hello").await.unwrap(), "a");
    }
    b.revive();
    answered_by(&greeter, &["a", "b"]).await;
    eventually("it gets requests, too", SOON, || async {
        match get(&http, "hello").await {
            Ok(id) if id == "b" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_instance_sends_its_caller_is_the_callers_to_see() {
    let etcd = Etcd::spawn().await;
    let registry = registry(&etcd);
    let fleet = ["a", "b"].map(Instance::start);
    let _registrations = [fleet[0].register(&registry).await, fleet[1].register(&registry).await];
    let http = client(&registry, CallConfig { retry: Retry::all(), ..patient() });
    let answer = http.post(&format!("{TARGET}/{ELSEWHERE}")).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    assert_eq!(fleet.iter().map(Instance::calls).sum::<usize>(), 1, "it is carried out once");
}

async fn answered_by_soon(greeter: &GreeterClient<Channel>, id: &str) {
    eventually(&format!("{id} answers"), SOON, || async {
        match say(greeter, "you").await {
            Ok(answered) if answered == id => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// An example's binary.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    let folder = test.ancestors().nth(2).expect("it lies in target/PROFILE/deps");
    let path = folder.join("examples").join(name);
    let build = "cargo build -p rollcall-registry --examples";
    assert!(path.is_file(), "{} is missing; build it: `{build}`", path.display());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_helloworld_programs_find_each_other_and_leave_without_a_failed_call() {
    let etcd = Etcd::spawn().await;
    let start = |name: &str| {
        let mut command = Command::new(example(name));
        command.arg(etcd.url());
        Process::start(name, command, "it is built")
    };
    let mut servers = [start("helloworld_server"), start("helloworld_server")];
    let mut keys = Vec::new();
    for server in &mut servers {
        let key = |line: &str| line.strip_prefix("registered ")?.split(' ').next().map(ToOwned::to_owned);
        keys.push(server.stdout_line("a key", SOON, key).await);
    }

    let mut asked = Command::new(example("helloworld_client"));
    asked.args([&etcd.url(), "4"]);
    let mut asked = Process::start("helloworld_client", asked, "it is built");
    assert!(asked.ended(SOON).await.success(), "{:?}", asked.stderr());
    let said = asked.stdout();
    assert_eq!(said.len(), 8, "{said:?}");
    for key in &keys {
        let id = key.rsplit('/').next().expect("a key has an id");
        for protocol in ["gRPC", "HTTP"] {
            let line = format!("Hello {protocol}, from {id} at 127.0.0.1:");
            assert!(said.iter().any(|said| said.starts_with(&line)), "{line} is not in {said:?}");
        }
    }

    // One of them ends in good order. Nothing is called twice, and yet nothing fails.
    let registry = registry(&etcd);
    let greeter = greeter(&registry, patient());
    let http = client(&registry, patient());
    let load = [
        greetings(&greeter),
        Load::start(move || {
            let request = http.post(&format!("{TARGET}/nowhere"));
            async move {
                match request.send().await {
                    // By a server that lives and does not know that path.
                    Ok(answer) if answer.status() == 404 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            }
        }),
    ];
    for load in &load {
        load.goes_on(200).await;
    }
    signal(servers[0].pid(), "TERM");
    assert!(servers[0].ended(SOON).await.success(), "{:?}", servers[0].stderr());
    assert_eq!(etcd.get(&keys[0]).await, None);
    for load in &load {
        load.goes_on(200).await;
    }
    for load in load {
        load.ends_without_a_failure().await;
    }
}
