//! Editing what stands under a key, undoing that, and several writes in one request.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, Method};
use rollcall_shared::api::{ACTS_MAX, API};
use rollcall_tests::{Answer, Etcd, Server, eventually, http, http::encode, kratos, seconds};
use serde_json::{Value, json};

const KEY: &str = "/microservices/pay/i1";

/// Hand-written, with spaces, an odd order and a field that nobody knows: bytes that no encoder would give back.
const ODD: &str =
    r#"{"name":"pay","id":"i1" , "x":[1e3, null],"metadata":{ "zone":"\u0061"}, "endpoints":["http://10.0.0.1:80"] }"#;

fn path(key: &str, revision: i64) -> String {
    format!("/instances?key={}&mod_revision={revision}", encode(key))
}

async fn put(server: &Server, path: &str, body: &Value) -> Answer {
    http::send(http::json(&Client::new(), Method::PUT, &format!("{}{API}{path}", server.origin()), body)).await
}

async fn edit(server: &Server, key: &str, revision: i64, instance: &Value) -> Answer {
    put(server, &path(key, revision), &json!({"instance": instance})).await
}

async fn undo(server: &Server, answer: &Value) -> Answer {
    let token = answer["undo"].as_str().unwrap_or_else(|| panic!("nothing to undo in {answer}"));
    server.post_empty(&format!("/undo/{token}")).await
}

async fn batch(server: &Server, acts: &[Value]) -> Vec<Value> {
    let answer = server.post("/batch", &json!({"acts": acts})).await.expect(200);
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("no results in {answer}")).clone();
    assert_eq!(results.len(), acts.len(), "{answer}");
    for result in &results {
        let fields: Vec<&String> = result.as_object().expect("a result is an object").keys().collect();
        let done = result["status"].as_u64().is_some_and(|status| status < 300);
        assert_eq!(fields, if done { ["answer", "status"] } else { ["problem", "status"] }, "{result}");
        assert!(done || result["problem"]["status"] == result["status"], "{result}");
    }
    results
}

fn statuses(results: &[Value]) -> Vec<u64> {
    results.iter().map(|result| result["status"].as_u64().expect("a status is a number")).collect()
}

fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).expect("it is UTF-8")
}

async fn value(etcd: &Etcd, key: &str) -> String {
    text(etcd.get(key).await.unwrap_or_else(|| panic!("{key} is gone")))
}

async fn state(etcd: &Etcd) -> (i64, Vec<String>, Vec<i64>) {
    (etcd.revision().await, etcd.keys("").await, etcd.leases().await)
}

/// What the frameworks themselves wrote: layout, key and value.
fn fixtures() -> Vec<(&'static str, String, String)> {
    let files = [
        ("kratos", "kratos"),
        ("go-micro", "go-micro-v2"),
        ("go-micro", "go-micro-v5"),
        ("kitex", "kitex"),
        ("hertz", "hertz"),
        ("grpc", "grpc-naming"),
        ("go-zero", "go-zero"),
        ("go-kit", "go-kit"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut all = Vec::new();
    for (layout, file) in files {
        let file = fs::read(folder.join(format!("{file}.json"))).expect("the fixtures are there");
        for entry in serde_json::from_slice::<Vec<Value>>(&file).expect("a fixture is JSON") {
            let field = |name: &str| entry[name].as_str().expect("a fixture has its fields").to_owned();
            let value = STANDARD.decode(field("value_base64")).expect("a fixture's value is base64");
            all.push((layout, field("key"), text(value)));
        }
    }
    all.push(("plain", "plain/cart/1".into(), "{\"ID\":1, \"IP\":\"10.0.0.1:80\" }".into()));
    all.push(("plain", "plain/cart/2".into(), " 10.0.0.1:80\n".into()));
    all
}

const WATCHES: [&str; 13] = [
    "--watch=kratos=/microservices",
    "--watch=kratos=/prod/services/",
    "--watch=go-micro=/micro/registry/",
    "--watch=go-kit=/services/",
    "--watch=go-kit=strings.v1",
    "--watch=go-zero=hello.rpc",
    "--watch=go-zero=shop/",
    "--watch=go-zero=订单.rpc",
    "--watch=grpc=helloworld/",
    "--watch=grpc=services/",
    "--watch=kitex=kitex/registry-etcd/",
    "--watch=hertz=hertz/registry-etcd/",
    "--watch=plain=plain/",
];

/// Whether `after` is `before` with one member more in one of its objects, or with an object of it where there was
/// `null`, and nothing else.
fn gained(before: &str, after: &str, member: &str) -> bool {
    let inserted = (0..=before.len()).filter(|at| before.is_char_boundary(*at)).any(|at| {
        let (head, tail) = before.split_at(at);
        [member.to_owned(), format!(",{member}"), format!("{member},")]
            .iter()
            .any(|new| after == [head, new, tail].concat())
    });
    let from_null = before
        .match_indices("null")
        .any(|(at, null)| after == [&before[..at], &format!("{{{member}}}"), &before[at + null.len()..]].concat());
    inserted || from_null
}

#[test]
fn the_comparison_of_bytes_can_tell() {
    assert!(gained(r#"{"a":{"b":"1"}}"#, r#"{"a":{"b":"1","c":"2"}}"#, r#""c":"2""#));
    assert!(gained(r#"{"a":null,"b":null}"#, r#"{"a":null,"b":{"c":"2"}}"#, r#""c":"2""#));
    assert!(!gained(r#"{"a": {"b":"1"}}"#, r#"{"a":{"b":"1","c":"2"}}"#, r#""c":"2""#));
    assert!(!gained(r#"{"a":{"b":"\u0031"}}"#, r#"{"a":{"b":"1","c":"2"}}"#, r#""c":"2""#));
    assert!(!gained(r#"{"a":{}}"#, r#"{"a":{}}"#, r#""c":"2""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_changes_its_own_bytes_and_an_undo_brings_back_all() {
    let etcd = Etcd::spawn().await;
    let server = Server::start_with(&etcd, &WATCHES).await;
    let mut edited = BTreeMap::new();
    for (layout, key, before) in fixtures() {
        let lease = etcd.grant(120).await;
        let revision = etcd.put_leased(&key, before.clone(), lease).await;
        // By the keys' own bytes an edit of nothing says what stands there.
        let shown = edit(&server, &key, revision, &json!({})).await.expect(200);
        assert_eq!((&shown["undo"], &shown["record"]["mod_revision"]), (&Value::Null, &json!(revision)), "{key}");
        assert_eq!(shown["record"]["layout"], layout, "{key}");
        let mut instance = shown["record"]["instance"].clone();
        let expected: Box<dyn Fn(&str) -> bool> = match layout {
            "go-zero" | "go-kit" | "plain" => {
                let old = instance["endpoints"][0].as_str().unwrap().to_owned();
                instance["endpoints"] = json!(["10.99.0.1:7777"]);
                let before = before.clone();
                Box::new(move |after| after == before.replace(&old, "10.99.0.1:7777"))
            }
            "grpc" if instance["metadata"]["Metadata"].is_string() => {
                instance["metadata"]["Metadata"] = json!("weight=4");
                let before = before.clone();
                Box::new(move |after| after == before.replace("weight=3", "weight=4"))
            }
            _ => {
                instance["metadata"]["zz"] = json!("1");
                let before = before.clone();
                Box::new(move |after| gained(&before, after, r#""zz":"1""#))
            }
        };
        let answer = edit(&server, &key, revision, &instance).await.expect(200);
        let (after, on) = etcd.entry(&key).await.unwrap();
        let after = text(after);
        assert!(expected(&after), "{key}\n{before}\n{after}");
        assert_eq!(on, lease, "{key}");
        let record = &answer["record"];
        assert_eq!(record["instance"], instance, "{key}");
        assert_eq!((&record["lease"], &record["create_revision"]), (&json!(format!("{lease:016x}")), &json!(revision)));
        assert!(record["mod_revision"].as_i64().unwrap() > revision, "{key}: {record}");
        let shown = eventually("the server shows the edit", seconds(5), || async {
            let shown = serde_json::to_value(server.shows(&key).await).unwrap();
            if shown == *record { Ok(shown) } else { Err(shown) }
        })
        .await;
        assert_eq!(shown["instance"], instance);

        let undone = undo(&server, &answer).await.expect(200);
        assert_eq!(etcd.entry(&key).await.unwrap(), (before.into_bytes(), lease), "{key}");
        assert_eq!((&undone["lease"], &undone["record"]["key"]), (&record["lease"], &json!(key)));
        *edited.entry(layout).or_insert(0) += 1;
    }
    let layouts: Vec<&str> = edited.keys().copied().collect();
    assert_eq!(layouts, ["go-kit", "go-micro", "go-zero", "grpc", "hertz", "kitex", "kratos", "plain"], "{edited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_is_edited_alone_and_left_alone() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    for (instance, expected) in [
        (json!({"metadata": {"zone": "a", "weight": "0"}}), ODD.replace(r#"{ "zone""#, r#"{ "weight":"0","zone""#)),
        (json!({"metadata": {"zone": "b"}}), ODD.replace(r#""\u0061""#, r#""b""#)),
        (json!({"metadata": {}}), ODD.replace(r#""zone":"\u0061""#, "")),
        (
            json!({"endpoints": ["http://10.0.0.1:80", "grpc://[::1]:9"]}),
            ODD.replace(r#":80"]"#, r#":80","grpc://[::1]:9"]"#),
        ),
        (json!({"version": "v2", "id": "i1", "name": "pay"}), ODD.replace(r#":80"] }"#, r#":80"],"version":"v2" }"#)),
    ] {
        let revision = etcd.put_leased(KEY, ODD, lease).await;
        edit(&server, KEY, revision, &instance).await.expect(200);
        assert_eq!(value(&etcd, KEY).await, expected, "{instance}");
        assert_ne!(expected, ODD, "{instance}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_so_already_is_not_written() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let revision = etcd.put(KEY, ODD).await;
    let shown = server.shows(KEY).await;
    let whole = serde_json::to_value(shown.instance().unwrap()).unwrap();
    for instance in [json!({}), json!({"metadata": {"zone": "a"}}), whole] {
        let answer = edit(&server, KEY, revision, &instance).await.expect(200);
        assert_eq!(answer["undo"], Value::Null, "{answer}");
        assert_eq!(answer["record"], serde_json::to_value(&shown).unwrap());
    }
    assert_eq!(etcd.revision().await, revision);
    let newer = etcd.put(KEY, ODD).await;
    let stale = edit(&server, KEY, revision, &json!({})).await.problem(409);
    assert_eq!(stale["record"]["mod_revision"], newer, "what says nothing new is compared too");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_leaves_lease_and_permanence_as_they_are() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    let revision = etcd.put_leased(KEY, ODD, lease).await;
    let answer = edit(&server, KEY, revision, &json!({"version": "v2"})).await.expect(200);
    assert_eq!(answer["record"]["lease"], format!("{lease:016x}"));
    assert_eq!(etcd.leases().await, [lease], "an edit grants no lease");
    etcd.revoke(lease).await;
    assert!(etcd.get(KEY).await.is_none(), "the key goes with the lease that it was on");

    let revision = etcd.put(KEY, ODD).await;
    let answer = edit(&server, KEY, revision, &json!({"version": "v2"})).await.expect(200);
    assert_eq!(answer["record"]["lease"], Value::Null);
    assert_eq!(etcd.entry(KEY).await.unwrap().1, 0, "a permanent key stays permanent");
    let undone = undo(&server, &answer).await.expect(200);
    assert_eq!((&undone["lease"], etcd.entry(KEY).await.unwrap()), (&Value::Null, (ODD.into(), 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_edits_of_one_revision_exactly_one_wins() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    for round in 0..5 {
        let revision = etcd.put(KEY, kratos("pay", "i1", "http://10.0.0.1:80")).await;
        let answers = futures_util::future::join_all((0..8).map(|number| {
            let server = &server;
            async move { edit(server, KEY, revision, &json!({"version": format!("{round}.{number}")})).await }
        }))
        .await;
        let (won, lost): (Vec<Answer>, Vec<Answer>) = answers.into_iter().partition(|answer| answer.status == 200);
        assert_eq!((won.len(), lost.len()), (1, 7), "{won:?} {lost:?}");
        let record = &won[0].json()["record"];
        for answer in lost {
            assert_eq!(answer.problem(409)["record"], *record, "who lost is shown what won");
        }
        let stands: Value = serde_json::from_str(&value(&etcd, KEY).await).unwrap();
        assert_eq!(stands["version"], record["instance"]["version"]);
        assert_eq!(etcd.revision().await, revision + 1, "one wrote");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_undone_only_where_nothing_came_after_it() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    let edited = async |version: &str| {
        let revision = etcd.put_leased(KEY, ODD, lease).await;
        edit(&server, KEY, revision, &json!({"version": version})).await.expect(200)
    };

    let answer = edited("a").await;
    undo(&server, &answer).await.expect(200);
    let again = undo(&server, &answer).await.problem(409);
    assert_eq!(value(&etcd, KEY).await, ODD, "an undo is not undone by itself");
    assert!(again["record"]["instance"].is_object());

    let answer = edited("b").await;
    let other = kratos("pay", "i1", "http://10.0.0.9:80");
    let newer = etcd.put_leased(KEY, other.clone(), lease).await;
    assert_eq!(undo(&server, &answer).await.problem(409)["record"]["mod_revision"], newer);
    assert_eq!(value(&etcd, KEY).await, other);

    // Two edits one after the other are undone from the last one on.
    let first = edited("c").await;
    let revision = first["record"]["mod_revision"].as_i64().unwrap();
    let second = edit(&server, KEY, revision, &json!({"version": "d"})).await.expect(200);
    undo(&server, &first).await.problem(409);
    undo(&server, &second).await.expect(200);
    undo(&server, &first).await.problem(409);
    assert!(value(&etcd, KEY).await.contains(r#""version":"c""#));

    let answer = edited("e").await;
    etcd.delete(KEY).await;
    undo(&server, &answer).await.problem(404);
    assert!(etcd.get(KEY).await.is_none(), "an edit's undo makes no key");

    let answer = edited("f").await;
    etcd.revoke(lease).await;
    undo(&server, &answer).await.problem(410);
    let anew = etcd.grant(60).await;
    etcd.put_leased(KEY, other.clone(), anew).await;
    undo(&server, &answer).await.problem(409);
    assert_eq!(etcd.entry(KEY).await.unwrap(), (other.into_bytes(), anew));
    server.post_empty("/undo/nonsense").await.problem(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_edit_is_pointed_at_and_writes_nothing() {
    let etcd = Etcd::spawn().await;
    let flags = ["--watch=kratos=/microservices/", "--watch=plain=plain/", "--watch=kitex=kitex/registry-etcd/"];
    let server = Server::start_with(&etcd, &[&flags[..], &["--watch=hertz=hertz/registry-etcd/"]].concat()).await;
    let revision = etcd.put(KEY, ODD).await;
    let plain = etcd.put("plain/a", "10.0.0.1:80").await;
    let weighted = r#"{"network":"tcp","address":"h:1","weight":10,"tags":{"weight":"5"}}"#;
    let kitex = etcd.put("kitex/registry-etcd/a/h:1", weighted).await;
    let hertz = etcd.put("hertz/registry-etcd/a/h:1", weighted).await;
    let before = state(&etcd).await;
    for (instance, pointer) in [
        (json!({"id": "i2"}), "/instance/id"),
        (json!({"id": ""}), "/instance/id"),
        (json!({"name": "other"}), "/instance/name"),
        (json!({"name": ""}), "/instance/name"),
        (json!({"name": 1}), "/instance/name"),
        (json!({"version": 1}), "/instance/version"),
        (json!({"version": null}), "/instance/version"),
        (json!({"metadata": null}), "/instance/metadata"),
        (json!({"metadata": []}), "/instance/metadata"),
        (json!({"metadata": {"a/b": 1}}), "/instance/metadata/a~1b"),
        (json!({"endpoints": null}), "/instance/endpoints"),
        (json!({"endpoints": []}), "/instance/endpoints"),
        (json!({"endpoints": "http://h:1"}), "/instance/endpoints"),
        (json!({"endpoints": ["http://ok:80", "10.0.0.1:80"]}), "/instance/endpoints/1"),
        (json!({"endpoints": ["http://"]}), "/instance/endpoints/0"),
        (json!({"weight": 1}), "/instance/weight"),
    ] {
        edit(&server, KEY, revision, &instance).await.points_at(pointer);
    }
    for (body, pointer) in [(json!([]), ""), (json!({}), "/instance"), (json!({"instance": {}, "ttl_s": 5}), "/ttl_s")]
    {
        put(&server, &path(KEY, revision), &body).await.points_at(pointer);
    }
    for (instance, pointer) in [
        (json!({"metadata": {"a": "b"}}), "/instance/metadata"),
        (json!({"version": "v1"}), "/instance/version"),
        (json!({"endpoints": ["http://10.0.0.1:80"]}), "/instance/endpoints"),
    ] {
        edit(&server, "plain/a", plain, &instance).await.points_at(pointer);
    }
    for (key, revision) in [("kitex/registry-etcd/a/h:1", kitex), ("hertz/registry-etcd/a/h:1", hertz)] {
        for weight in ["0", "-3"] {
            let answer = edit(&server, key, revision, &json!({"metadata": {"weight": weight}})).await;
            answer.points_at("/instance/metadata/weight");
        }
        edit(&server, key, revision, &json!({"endpoints": ["h:2"]})).await.points_at("/instance/endpoints");
    }
    assert_eq!(state(&etcd).await, before, "a refused edit wrote something");
    edit(&server, KEY, revision, &json!({"metadata": {"weight": "0"}})).await.expect(200);
    edit(&server, "kitex/registry-etcd/a/h:1", kitex, &json!({"metadata": {"weight": "1"}})).await.expect(200);

    let key = "kitex/registry-etcd/a/h:1";
    let untagged = r#"{"network":"tcp","address":"h:1","weight":10,"tags":null}"#;
    let revision = etcd.put(key, untagged).await;
    edit(&server, key, revision, &json!({"metadata": {"weight": "0"}})).await.points_at("/instance/metadata/weight");
    edit(&server, key, revision, &json!({"metadata": {"weight": "few"}})).await.points_at("/instance/metadata/weight");
    let answer = edit(&server, key, revision, &json!({"metadata": {"weight": "1"}})).await.expect(200);
    assert_eq!(value(&etcd, key).await, untagged.replace("10", "1"), "the weight that its balancer goes by");
    assert_eq!(answer["record"]["instance"]["metadata"], json!({"weight": "1"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decoded_cannot_be_edited() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let broken: [&[u8]; 7] =
        [b"null", b"{", b"[]", b"{}", b"", b"\xff\xfe", br#"{"id":"i1","name":"pay","endpoints":"h:1"}"#];
    for value in broken {
        let revision = etcd.put(KEY, value).await;
        for instance in [
            json!({}),
            json!({"metadata": {"a": "b"}}),
            json!({"id": "i1", "name": "pay", "version": "", "metadata": {}, "endpoints": ["http://h:1"]}),
        ] {
            edit(&server, KEY, revision, &instance).await.points_at("/instance");
        }
        assert_eq!((etcd.get(KEY).await.unwrap(), etcd.revision().await), (value.to_vec(), revision));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crashes_clients_is_taken_out_for_good() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    for (value, status) in [("null", 410), (" null\n", 410), ("{", 201), ("nul", 201)] {
        let revision = etcd.put(KEY, value).await;
        let answer = server.delete(&path(KEY, revision)).await.expect(200);
        let undone = undo(&server, &answer).await;
        assert_eq!(undone.status, status, "{value:?}: {}", undone.text());
        let token = json!({"undo": {"token": answer["undo"]}});
        etcd.delete(KEY).await;
        assert_eq!(statuses(&batch(&server, &[token]).await), [u64::from(status)], "{value:?}");
        assert_eq!(etcd.get(KEY).await.is_some(), status == 201, "{value:?}");
    }
    // Elsewhere it crashes nobody.
    let revision = etcd.put("services/a", "null").await;
    let answer = server.delete(&path("services/a", revision)).await.expect(200);
    undo(&server, &answer).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_guarded_as_every_write() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let revision = etcd.put(KEY, ODD).await;
    etcd.put("/secret/token", ODD).await;
    let before = state(&etcd).await;
    let body = json!({"instance": {"version": "v2"}});
    put(&server, &format!("/instances?key={}", encode(KEY)), &body).await.problem(428);
    put(&server, &format!("/instances?mod_revision={revision}"), &body).await.problem(400);
    for wrong in ["x", "0", "-1", "1.5"] {
        put(&server, &format!("/instances?key={}&mod_revision={wrong}", encode(KEY)), &body).await.problem(400);
    }
    put(&server, &path("/secret/token", before.0), &body).await.problem(403);
    put(&server, &path("/microservices/", before.0), &body).await.problem(403);
    put(&server, &path("/microservices/pay/i2", before.0), &body).await.problem(404);
    let stale = put(&server, &path(KEY, revision - 1), &body).await.problem(409);
    assert_eq!((&stale["record"]["mod_revision"], &stale["record"]["key"]), (&json!(revision), &json!(KEY)));

    let raw = async |path: &str, method: Method, headers: &[(&str, &str)], body: String| {
        let mut request = server.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        http::send(request.body(body)).await
    };
    let kind = ("content-type", "application/json");
    let acts = json!({"acts": [{"edit": {"key": KEY, "mod_revision": revision, "instance": {"version": "v2"}}}]});
    for (method, path, body) in [(Method::PUT, path(KEY, revision), body), (Method::POST, "/batch".to_owned(), acts)] {
        let raw =
            async |headers: &[(&str, &str)], body: &str| raw(&path, method.clone(), headers, body.to_owned()).await;
        raw(&[], &body.to_string()).await.problem(415);
        raw(&[("content-type", "text/plain")], &body.to_string()).await.problem(415);
        raw(&[kind], "{").await.problem(400);
        raw(&[kind], &format!("{body}{}", " ".repeat(64 * 1024))).await.problem(413);
        for header in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            raw(&[kind, header], &body.to_string()).await.problem(403);
        }
        let refused = raw(&[kind, ("host", "evil.example")], &body.to_string()).await.status;
        assert!([403, 421].contains(&refused), "{refused}");
        assert_eq!(state(&etcd).await, before, "{path}");
    }
    let own = server.origin();
    let headers = [kind, ("origin", &own), ("sec-fetch-site", "same-origin")];
    let body = json!({"instance": {"version": "v2"}}).to_string();
    raw(&path(KEY, revision), Method::PUT, &headers, body).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_etcd_is_away() {
    let mut etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let revision = etcd.put(KEY, ODD).await;
    let answer = edit(&server, KEY, revision, &json!({"version": "v2"})).await.expect(200);
    let revision = answer["record"]["mod_revision"].as_i64().unwrap();
    etcd.kill();
    let away = edit(&server, KEY, revision, &json!({"version": "v3"})).await;
    away.problem(503);
    assert!(away.header("retry-after").is_some());
    undo(&server, &answer).await.problem(503);
    eventually("a batch is refused as a whole", seconds(20), || async {
        let acts = json!({"acts": [{"deregister": {"key": KEY, "mod_revision": revision}}]});
        let answer = server.post("/batch", &acts).await;
        if answer.status == 503 { Ok(()) } else { Err(answer) }
    })
    .await;
    edit(&server, KEY, revision, &json!({"version": 3})).await.problem(422);
    etcd.start().await;
    assert!(value(&etcd, KEY).await.contains(r#""version":"v2""#));
    eventually("it can be undone when etcd is back", seconds(20), || async {
        let answer = undo(&server, &answer).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(value(&etcd, KEY).await, ODD);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_outgrows_etcd_is_a_matter_of_the_edit() {
    let etcd = Etcd::spawn_with(&["--max-request-bytes", "20000"]).await;
    let server = Server::start(&etcd).await;
    let revision = etcd.put(KEY, ODD).await;
    let large = json!({"metadata": {"a": "x".repeat(30_000)}});
    edit(&server, KEY, revision, &large).await.points_at("/instance");
    assert_eq!((value(&etcd, KEY).await.as_str(), etcd.revision().await), (ODD, revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_act_of_a_batch_is_answered_as_by_itself() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let key = |id: &str| format!("/microservices/pay/{id}");
    let lease = etcd.grant(60).await;
    let mut revisions = BTreeMap::new();
    for id in ["gone", "edited", "stale", "broken", "odd"] {
        let value = if id == "broken" { "null".to_owned() } else { kratos("pay", id, "http://10.0.0.1:80") };
        revisions.insert(id, etcd.put(&key(id), value).await);
    }
    for id in ["l1", "l2"] {
        etcd.put_leased(&key(id), kratos("pay", id, "http://10.0.0.1:80"), lease).await;
    }
    let earlier = edit(&server, &key("odd"), revisions["odd"], &json!({"version": "v9"})).await.expect(200);
    let draft = json!({"layout": "kratos", "ttl_s": 30, "keep_alive": "caller",
        "instance": {"id": "new", "name": "pay", "endpoints": ["http://10.0.0.1:80"]}});
    let mut wrong = draft.clone();
    wrong["instance"]["endpoints"] = json!(["nowhere"]);
    let of = |id: &str, revision: i64| json!({"key": key(id), "mod_revision": revision});
    let with = |id: &str, instance: Value| {
        let mut act = of(id, revisions[id]);
        act["instance"] = instance;
        json!({"edit": act})
    };
    let results = batch(
        &server,
        &[
            json!({"deregister": of("gone", revisions["gone"])}),
            with("edited", json!({"metadata": {"weight": "0"}})),
            json!({"deregister": of("stale", revisions["stale"] + 1)}),
            with("broken", json!({"version": "v2"})),
            json!({"deregister": of("absent", 1)}),
            json!({"revoke": {"lease": format!("{lease:016x}"), "keys": 2}}),
            json!({"register": draft}),
            json!({"register": wrong}),
            json!({"undo": {"token": earlier["undo"]}}),
            json!({"undo": {"token": "nonsense"}}),
            json!({"deregister": {"key": "/secret/token", "mod_revision": 1}}),
            json!({"deregister": {"key": key("stale")}}),
            json!({"edit": {"key": key("stale"), "mod_revision": revisions["stale"], "instance": {"id": "x"}}}),
            json!({"register": draft}),
        ],
    )
    .await;
    assert_eq!(
        statuses(&results),
        [200, 200, 409, 422, 404, 200, 201, 422, 200, 410, 403, 428, 422, 409],
        "{results:#?}"
    );
    let answer = |index: usize| &results[index]["answer"];
    assert_eq!(answer(0)["deleted"]["key"], key("gone"));
    assert_eq!(answer(1)["record"]["instance"]["metadata"], json!({"weight": "0"}));
    assert_eq!(results[2]["problem"]["record"]["mod_revision"], revisions["stale"]);
    assert_eq!(results[3]["problem"]["errors"][0]["pointer"], "/instance");
    let revoked = json!({"revoked": format!("{lease:016x}"), "deleted": [key("l1"), key("l2")]});
    assert_eq!(*answer(5), revoked);
    assert_eq!(answer(6)["record"]["key"], key("new"));
    assert_eq!(results[7]["problem"]["errors"][0]["pointer"], "/instance/endpoints/0");
    assert_eq!(answer(8)["record"]["instance"]["version"], "v1");
    assert_eq!(results[12]["problem"]["errors"][0]["pointer"], "/instance/id");
    let stands = etcd.keys("/microservices/").await;
    assert_eq!(stands, ["broken", "edited", "new", "odd", "stale"].map(key));
    assert_eq!(etcd.leases().await.len(), 1, "the refused registrations left no lease behind");

    let back =
        batch(&server, &[json!({"undo": {"token": answer(0)["undo"]}}), json!({"undo": {"token": answer(1)["undo"]}})])
            .await;
    assert_eq!(statuses(&back), [201, 200], "{back:#?}");
    for id in ["gone", "edited"] {
        assert_eq!(value(&etcd, &key(id)).await, kratos("pay", id, "http://10.0.0.1:80"));
    }
    let metrics = server.page("/metrics").await.text();
    for (action, count) in [("deregister", 1), ("edit", 2), ("register", 1), ("revoke", 1), ("undo", 3)] {
        let line = format!("writes_total{{action=\"{action}\"}} {count}");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_on_the_same_key_or_lease_are_done_in_order() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    for _ in 0..5 {
        let lease = etcd.grant(60).await;
        let mut acts = Vec::new();
        for id in 0..20 {
            let key = format!("/microservices/pay/{id:02}");
            let revision = etcd.put_leased(&key, kratos("pay", &id.to_string(), "http://10.0.0.1:80"), lease).await;
            let act = |version: &str| json!({"edit": {"key": key, "mod_revision": revision, "instance": {"version": version}}});
            acts.extend([act("first"), act("second"), act("third")]);
        }
        server.shows("/microservices/pay/19").await;
        eventually("the server knows the keys' lease", seconds(10), || async {
            let known = server.get("/instances?service=pay").await.expect(200);
            let records = known["records"].as_array().unwrap();
            let on = records.iter().filter(|record| record["lease"] == format!("{lease:016x}")).count();
            if on == 20 { Ok(()) } else { Err(known) }
        })
        .await;
        acts.push(json!({"revoke": {"lease": format!("{lease:016x}"), "keys": 20}}));
        acts.push(json!({"deregister": {"key": "/microservices/pay/00", "mod_revision": 1}}));
        let results = batch(&server, &acts).await;
        for key in results[..60].chunks(3) {
            assert_eq!(statuses(key), [200, 409, 409], "the first of a key is the one that is done");
            assert_eq!(key[0]["answer"]["record"]["instance"]["version"], "first");
        }
        assert_eq!(statuses(&results[60..]), [200, 404], "a revocation waits for the edits of its keys");
        assert_eq!(results[60]["answer"]["deleted"].as_array().unwrap().len(), 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_is_done_and_undone() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let keys: Vec<String> = (0..ACTS_MAX).map(|id| format!("/microservices/pay/{id:03}")).collect();
    let mut revisions = Vec::new();
    for key in &keys {
        revisions.push(etcd.put(key, kratos("pay", &key[key.len() - 3..], "http://10.0.0.1:80")).await);
    }
    let deregister = |key: &String, revision: &i64| json!({"deregister": {"key": key, "mod_revision": revision}});
    let acts: Vec<Value> = keys.iter().zip(&revisions).map(|(key, revision)| deregister(key, revision)).collect();

    let one_more = [&acts[..], &[json!({"undo": {"token": "t"}})]].concat();
    let before = state(&etcd).await;
    server.post("/batch", &json!({"acts": one_more})).await.points_at("/acts");
    server.post("/batch", &json!({"acts": []})).await.points_at("/acts");
    server.post("/batch", &json!({"acts": [acts[0], {"delete": acts[1]["deregister"]}]})).await.points_at("/acts/1");
    server.post("/batch", &json!({"acts": [acts[0], acts[1]], "atomic": true})).await.points_at("/atomic");
    server.post("/batch", &json!({"acts": [acts[0], 7]})).await.points_at("/acts/1");
    server.post("/batch", &json!([acts[0]])).await.problem(422);
    assert_eq!(state(&etcd).await, before, "of a refused batch nothing is done");

    let results = batch(&server, &acts).await;
    for (result, key) in results.iter().zip(&keys) {
        assert_eq!((&result["status"], &result["answer"]["deleted"]["key"]), (&json!(200), &json!(key)));
    }
    assert_eq!(etcd.keys("/microservices/").await, Vec::<String>::new());
    let undos: Vec<Value> = results.iter().map(|result| json!({"undo": {"token": result["answer"]["undo"]}})).collect();
    let results = batch(&server, &undos).await;
    assert_eq!(statuses(&results), [201; ACTS_MAX]);
    assert_eq!(etcd.keys("/microservices/").await, keys);

    let large = json!({"acts": [{"undo": {"token": "t".repeat(64 * 1024)}}]});
    server.post("/batch", &large).await.problem(413);
}
