//! Section 4 of the contract: writing, and that nothing is left behind where it is refused.

use reqwest::Method;
use rollcall_tests::{Etcd, Server, eventually, http, http::encode, kratos, seconds};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

fn draft() -> Value {
    json!({
        "layout": "kratos", "ttl_s": 15, "keep_alive": "caller",
        "instance": {"id": "i1", "name": "pay", "version": "v1", "metadata": {"zone": "a"}, "endpoints": ["http://10.0.0.1:8000"]}
    })
}

/// `draft` with `value` at the JSON pointer.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = draft();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer holds a slash");
    body.pointer_mut(parent).expect("the pointer leads somewhere")[name] = value;
    body
}

/// `draft` without what stands at the JSON pointer.
fn without(pointer: &str) -> Value {
    let mut body = draft();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer holds a slash");
    body.pointer_mut(parent).and_then(Value::as_object_mut).expect("the pointer leads somewhere").remove(name);
    body
}

fn lease_id(answer: &Value) -> i64 {
    let text = answer["lease"].as_str().expect("a lease stands");
    assert_eq!(text.len(), 16, "as etcdctl prints it: {text}");
    u64::from_str_radix(text, 16).expect("it is hexadecimal").cast_signed()
}

async fn state(etcd: &Etcd) -> (i64, Vec<String>, Vec<i64>) {
    (etcd.revision().await, etcd.keys("").await, etcd.leases().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_registered_as_its_framework_would() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let answer = server.post("/instances", &draft()).await.expect(201);
    let lease = lease_id(&answer);
    let (value, on) = etcd.entry("/microservices/pay/i1").await.unwrap();
    assert_eq!(
        String::from_utf8(value).unwrap(),
        r#"{"id":"i1","name":"pay","version":"v1","metadata":{"zone":"a"},"endpoints":["http://10.0.0.1:8000"]}"#
    );
    assert_eq!(on, lease);
    let record = &answer["record"];
    assert_eq!((&record["key"], &record["lease"]), (&json!("/microservices/pay/i1"), &answer["lease"]));
    assert_eq!(record["instance"], draft()["instance"]);
    let known = server.get(&format!("/leases/{lease:016x}")).await.expect(200);
    assert_eq!((&known["granted_ttl_s"], &known["keys"]), (&json!(15), &json!(["/microservices/pay/i1"])));
    assert_eq!(serde_json::to_value(server.shows("/microservices/pay/i1").await).unwrap(), *record);

    let fresh = server.post("/instances", &without("/instance/id")).await.expect(201);
    let id = fresh["record"]["instance"]["id"].as_str().unwrap();
    assert_eq!((id.len(), id.matches('-').count()), (36, 4), "an id that was left out is a UUID: {id}");

    let permanent =
        json!({"layout": "kratos", "ttl_s": null, "instance": {"id": "p", "name": "pay", "endpoints": ["grpc://h:1"]}});
    let answer = server.post("/instances", &permanent).await.expect(201);
    assert_eq!((&answer["lease"], &answer["record"]["lease"]), (&Value::Null, &Value::Null));
    assert_eq!(etcd.entry("/microservices/pay/p").await.unwrap().1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layout_registers_what_it_can_carry() {
    let etcd = Etcd::spawn().await;
    let flags = ["--watch=go-micro=/micro/registry/", "--watch=plain=services/", "--watch=kitex=kitex/registry-etcd/"];
    let more =
        ["--watch=hertz=hertz/registry-etcd/", "--watch=grpc=rpc/", "--watch=go-zero=zero/", "--watch=go-kit=kit/"];
    let server = Server::start_with(&etcd, &[&flags[..], &more[..]].concat()).await;
    for (layout, prefix) in [
        ("go-micro", "/micro/registry/"),
        ("plain", "services/"),
        ("kitex", "kitex/registry-etcd/"),
        ("hertz", "hertz/registry-etcd/"),
        ("grpc", "rpc/"),
        ("go-zero", "zero/"),
        ("go-kit", "kit/"),
    ] {
        let endpoint = if layout == "go-kit" { "http://10.0.0.1:8000" } else { "10.0.0.1:8000" };
        let body = json!({
            "layout": layout, "ttl_s": 30, "keep_alive": "caller", "instance": {"name": "pay", "endpoints": [endpoint]}
        });
        let answer = server.post("/instances", &body).await.expect(201);
        let key = answer["record"]["key"].as_str().unwrap();
        assert!(key.starts_with(prefix), "{layout}: {key}");
        assert_eq!(etcd.keys(prefix).await, [key], "{layout}");
        let record = server.shows(key).await;
        let instance = record.instance().unwrap_or_else(|| panic!("{layout} does not read what it wrote: {record:?}"));
        assert_eq!((&*instance.name, &*instance.endpoints), ("pay", &[endpoint.to_owned()][..]), "{layout}");
        assert_eq!(record.warning, None, "{layout}");
        server.deregister(key).await.expect(200);
        assert_eq!(etcd.keys(prefix).await, Vec::<String>::new(), "{layout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_body_is_pointed_at_and_leaves_nothing_behind() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    server.post("/instances", &with("/instance/id", json!("stands"))).await.expect(201);
    let before = state(&etcd).await;
    let long = "x".repeat(256);
    for (body, pointer) in [
        (without("/ttl_s"), "/ttl_s"),
        (with("/ttl_s", json!(1)), "/ttl_s"),
        (with("/ttl_s", json!(0)), "/ttl_s"),
        (with("/ttl_s", json!(-5)), "/ttl_s"),
        (with("/ttl_s", json!(9_000_000_001_i64)), "/ttl_s"),
        (with("/ttl_s", json!("15")), "/ttl_s"),
        (with("/ttl_s", json!(2.5)), "/ttl_s"),
        (without("/keep_alive"), "/keep_alive"),
        (with("/keep_alive", json!("nobody")), "/keep_alive"),
        (without("/layout"), "/layout"),
        (with("/layout", json!("nonsense")), "/layout"),
        (with("/layout", json!("go-zero")), "/layout"),
        (without("/instance"), "/instance"),
        (without("/instance/name"), "/instance/name"),
        (with("/instance/name", json!("")), "/instance/name"),
        (with("/instance/name", json!("a/b")), "/instance/name"),
        (with("/instance/name", json!("a\nb")), "/instance/name"),
        (with("/instance/name", json!("a\u{7f}")), "/instance/name"),
        (with("/instance/name", json!(long)), "/instance/name"),
        (with("/instance/name", json!(7)), "/instance/name"),
        (with("/instance/id", json!("")), "/instance/id"),
        (with("/instance/id", json!("a/b")), "/instance/id"),
        (with("/instance/id", json!("a\u{0}b")), "/instance/id"),
        (with("/instance/id", json!(long)), "/instance/id"),
        (without("/instance/endpoints"), "/instance/endpoints"),
        (with("/instance/endpoints", json!([])), "/instance/endpoints"),
        (with("/instance/endpoints", json!(["10.0.0.1:80"])), "/instance/endpoints"),
        (with("/instance/endpoints", json!(["/path"])), "/instance/endpoints"),
        (with("/instance/endpoints", json!(["http://"])), "/instance/endpoints"),
        (with("/instance/endpoints", json!(["http:///path"])), "/instance/endpoints"),
        (with("/instance/endpoints", json!(["http://ok:80", "mailto:me"])), "/instance/endpoints"),
        (with("/instance/endpoints", json!("http://h:1")), "/instance/endpoints"),
        (with("/instance/metadata", json!({"a": 1})), "/instance/metadata"),
    ] {
        let answer = server.post("/instances", &body).await;
        assert_eq!(answer.status, 422, "{pointer}: {body} {}", answer.text());
        answer.points_at(pointer);
    }
    for (layout, endpoints) in [
        ("go-micro", json!(["http://10.0.0.1:80"])),
        ("plain", json!(["10.0.0.1:80", "10.0.0.2:80"])),
        ("kitex", json!(["host"])),
    ] {
        let body = json!({
            "layout": layout, "ttl_s": 15, "keep_alive": "caller", "instance": {"name": "a", "endpoints": endpoints}
        });
        server.post("/instances", &body).await.points_at("/instance/endpoints");
    }
    for (layout, field, value) in [
        ("kitex", "version", json!("v1")),
        ("hertz", "version", json!("v1")),
        ("plain", "version", json!("v1")),
        ("plain", "metadata", json!({"a": "b"})),
    ] {
        let mut body = json!({
            "layout": layout, "ttl_s": 15, "keep_alive": "caller", "instance": {"name": "a", "endpoints": ["10.0.0.1:80"]}
        });
        body["instance"][field] = value;
        server.post("/instances", &body).await.points_at(&format!("/instance/{field}"));
    }
    server.post("/instances", &json!([])).await.problem(422);
    server.post("/instances", &with("/instance/id", json!("stands"))).await.problem(409);
    assert_eq!(state(&etcd).await, before, "a refused write left something behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_or_too_much_is_refused_before_it_is_read() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let before = state(&etcd).await;
    let post = |kind: Option<&str>, body: String| {
        let request = server.request(Method::POST, "/instances").body(body);
        http::send(match kind {
            Some(kind) => request.header("content-type", kind),
            None => request,
        })
    };
    post(Some("text/plain"), draft().to_string()).await.problem(415);
    post(Some("application/x-www-form-urlencoded"), "a=b".into()).await.problem(415);
    post(None, draft().to_string()).await.problem(415);
    post(Some("application/json"), "{".into()).await.problem(400);
    post(Some("application/json"), String::new()).await.problem(400);
    let large = with("/instance/metadata", json!({"a": "x".repeat(64 * 1024)}));
    post(Some("application/json"), large.to_string()).await.problem(413);
    assert_eq!(state(&etcd).await, before);
    let fits = with("/instance/metadata", json!({"a": "x".repeat(60 * 1024)}));
    assert_eq!(post(Some("application/json; charset=utf-8"), fits.to_string()).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_register_one_key_one_succeeds() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let answers = futures_util::future::join_all((0..8).map(|number| {
        let body = with("/instance/metadata", json!({"by": number.to_string()}));
        let server = &server;
        async move { server.post("/instances", &body).await.status }
    }))
    .await;
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 409).count(), 7, "{answers:?}");
    eventually("one lease is left", seconds(5), || async {
        let leases = etcd.leases().await;
        if leases.len() == 1 { Ok(()) } else { Err(leases) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_renews_decides_whether_it_stays() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut kept = with("/keep_alive", json!("server"));
    kept["ttl_s"] = json!(2);
    server.post("/instances", &kept).await.expect(201);
    let mut left = with("/instance/id", json!("left"));
    left["ttl_s"] = json!(2);
    server.post("/instances", &left).await.expect(201);
    let mut renewed = with("/instance/id", json!("renewed"));
    renewed["ttl_s"] = json!(4);
    let lease = server.post("/instances", &renewed).await.expect(201)["lease"].as_str().unwrap().to_owned();
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        assert!(etcd.get("/microservices/pay/i1").await.is_some(), "the server did not renew what it keeps");
        let answer = server.post_empty(&format!("/leases/{lease}/keepalive")).await.expect(200);
        assert_eq!((&answer["lease"], &answer["granted_ttl_s"]), (&json!(lease), &json!(4)), "{answer}");
        assert!((3..=4).contains(&answer["remaining_ttl_s"].as_i64().unwrap()), "{answer}");
        sleep(Duration::from_millis(400)).await;
    }
    etcd.key_stands("/microservices/pay/left", false, seconds(5)).await;
    assert!(etcd.get("/microservices/pay/renewed").await.is_some());
    server.lost("/microservices/pay/left", seconds(5)).await;
    server.deregister("/microservices/pay/i1").await.expect(200);
    assert!(etcd.get("/microservices/pay/i1").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_alive_touches_no_lease_of_others() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let gone = etcd.grant(60).await;
    etcd.revoke(gone).await;
    server.post_empty(&format!("/leases/{gone:016x}/keepalive")).await.problem(404);
    let foreign = etcd.grant(60).await;
    etcd.put_leased("/secret/token", "x", foreign).await;
    server.post_empty(&format!("/leases/{foreign:016x}/keepalive")).await.problem(403);
    server.delete(&format!("/leases/{foreign:016x}?keys=1")).await.problem(403);
    server.delete(&format!("/leases/{foreign:016x}?keys=0")).await.problem(403);
    assert!(etcd.get("/secret/token").await.is_some());
    let nonsense = server.post_empty("/leases/nonsense/keepalive").await;
    assert!((400..500).contains(&nonsense.status), "{nonsense:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_deletes_that_very_revision() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let key = "/microservices/pay/i1";
    let lease = etcd.grant(60).await;
    let first = etcd.put_leased(key, kratos("pay", "i1", "http://10.0.0.1:80"), lease).await;
    let second = etcd.put_leased(key, kratos("pay", "i1", "http://10.0.0.2:80"), lease).await;
    let path = |revision: i64| format!("/instances?key={}&mod_revision={revision}", encode(key));
    server.delete(&format!("/instances?key={}", encode(key))).await.problem(428);
    let stale = server.delete(&path(first)).await.problem(409);
    assert_eq!(stale["record"]["mod_revision"], second, "{stale}");
    assert_eq!(stale["record"]["instance"]["endpoints"], json!(["http://10.0.0.2:80"]));
    assert!(etcd.get(key).await.is_some());

    etcd.put("/secret/token", "x").await;
    let outside = etcd.revision().await;
    server.delete(&format!("/instances?key=%2Fsecret%2Ftoken&mod_revision={outside}")).await.problem(403);
    server.delete(&format!("/instances?key=%2Fmicroservices%2F&mod_revision={outside}")).await.problem(403);
    assert!(etcd.get("/secret/token").await.is_some());

    let answer = server.delete(&path(second)).await.expect(200);
    assert_eq!((&answer["deleted"]["key"], &answer["deleted"]["mod_revision"]), (&json!(key), &json!(second)));
    assert!(answer["undo"].as_str().is_some_and(|token| !token.is_empty()));
    assert!(etcd.get(key).await.is_none());
    assert!(etcd.ttl(lease).await.is_some(), "only the key is deleted, the lease lives");
    server.delete(&path(second)).await.problem(404);
    let refused = server.delete("/instances?mod_revision=1").await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
    let refused = server.delete(&format!("/instances?key={}&mod_revision=x", encode(key))).await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deregistered_is_put_back_under_its_living_lease() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let key = "/microservices/pay/i1";
    let lease = etcd.grant(60).await;
    let odd = r#"{"name":"pay","id":"i1" ,"unknown":[1], "endpoints":["http://10.0.0.1:80"]}"#;
    etcd.put_leased(key, odd, lease).await;
    let undo = async || server.deregister(key).await.expect(200)["undo"].as_str().unwrap().to_owned();
    let back = |token: &str| {
        let path = format!("/undo/{token}");
        let server = &server;
        async move { server.post_empty(&path).await }
    };

    let answer = back(&undo().await).await.expect(201);
    assert_eq!(answer["record"]["key"], key);
    assert_eq!(etcd.entry(key).await.unwrap(), (odd.as_bytes().to_vec(), lease), "the very bytes, the very lease");

    let token = undo().await;
    etcd.put(key, kratos("pay", "i1", "http://10.0.0.9:80")).await;
    back(&token).await.problem(409);
    assert_eq!(etcd.get(key).await.unwrap(), kratos("pay", "i1", "http://10.0.0.9:80").into_bytes());

    etcd.put_leased(key, odd, lease).await;
    eventually("the server sees the lease again", seconds(5), || async {
        let record = server.shows(key).await;
        if record.lease.is_some() { Ok(()) } else { Err(record) }
    })
    .await;
    let token = undo().await;
    etcd.revoke(lease).await;
    back(&token).await.problem(410);
    assert!(etcd.get(key).await.is_none());
    let unknown = back("nonsense").await;
    assert!([404, 410].contains(&unknown.status), "{unknown:?}");

    etcd.put(key, odd).await;
    back(&undo().await).await.expect(201);
    assert_eq!(etcd.entry(key).await.unwrap(), (odd.as_bytes().to_vec(), 0), "a permanent key comes back permanent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_the_server_keeps_lives_through_the_time_of_undoing() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut body = with("/keep_alive", json!("server"));
    body["ttl_s"] = json!(2);
    let lease = lease_id(&server.post("/instances", &body).await.expect(201));
    let token = server.deregister("/microservices/pay/i1").await.expect(200)["undo"].as_str().unwrap().to_owned();
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert!(etcd.ttl(lease).await.is_some(), "the lease was let go although the undo is still open");
        sleep(Duration::from_millis(200)).await;
    }
    server.post_empty(&format!("/undo/{token}")).await.expect(201);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert!(etcd.get("/microservices/pay/i1").await.is_some(), "what came back is not kept");
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_revoked_only_with_the_keys_that_were_seen() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    for id in ["1", "2"] {
        etcd.put_leased(&format!("/microservices/pay/{id}"), kratos("pay", id, "http://10.0.0.1:80"), lease).await;
    }
    let path = |keys: &str| format!("/leases/{lease:016x}{keys}");
    server.delete(&path("")).await.problem(428);
    server.delete(&path("?keys=1")).await.problem(409);
    server.delete(&path("?keys=3")).await.problem(409);
    let refused = server.delete(&path("?keys=x")).await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
    assert_eq!(etcd.keys("/microservices/").await.len(), 2);
    etcd.put_leased("/secret/token", "x", lease).await;
    server.delete(&path("?keys=2")).await.problem(403);
    server.delete(&path("?keys=3")).await.problem(403);
    etcd.delete("/secret/token").await;
    let answer = server.delete(&path("?keys=2")).await.expect(200);
    assert_eq!(answer["revoked"], format!("{lease:016x}"));
    let mut deleted: Vec<&str> = answer["deleted"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    deleted.sort_unstable();
    assert_eq!(deleted, ["/microservices/pay/1", "/microservices/pay/2"]);
    assert_eq!(etcd.keys("/microservices/").await, Vec::<String>::new());
    server.delete(&path("?keys=2")).await.problem(404);
}
