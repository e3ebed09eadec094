//! Section 2 of the contract: what reading answers, field by field.

use std::{collections::BTreeSet, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use rollcall_tests::{Etcd, Server, eventually, http, http::encode, kratos, seconds};
use serde_json::{Value, json};

const DEFAULT_PREFIXES: [(&str, &str); 5] = [
    ("kratos", "/microservices/"),
    ("go-micro", "/micro/registry/"),
    ("plain", "services/"),
    ("kitex", "kitex/registry-etcd/"),
    ("hertz", "hertz/registry-etcd/"),
];

async fn record(server: &Server, key: &str) -> Value {
    eventually(&format!("{key} is shown"), seconds(10), || async {
        let answer = server.get("/instances").await.expect(200);
        let records = answer["records"].as_array().cloned().unwrap_or_default();
        records.into_iter().find(|record| record["key"] == key).ok_or(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_what_the_contract_prints() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    let key = "/microservices/helloworld/8fc08b88";
    let value = r#"{"id":"8fc08b88","name":"helloworld","version":"","metadata":null,"endpoints":["http://192.168.56.1:8080"]}"#;
    let revision = etcd.put_leased(key, value, lease).await;
    assert_eq!(
        record(&server, key).await,
        json!({
            "key": key, "source": "/microservices/", "layout": "kratos", "service": "helloworld",
            "lease": format!("{lease:016x}"), "create_revision": revision, "mod_revision": revision,
            "instance": {
                "id": "8fc08b88", "name": "helloworld", "version": "", "metadata": {},
                "endpoints": ["http://192.168.56.1:8080"]
            }
        })
    );
    let again = etcd.put_leased(key, value.replace("null", r#"{"a":"b"}"#), lease).await;
    let changed = eventually("the change is shown", seconds(10), || async {
        let now = record(&server, key).await;
        if now["mod_revision"] == again { Ok(now) } else { Err(now) }
    })
    .await;
    assert_eq!(changed["create_revision"], revision);
    assert_eq!(changed["instance"]["metadata"], json!({"a": "b"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_frameworks_wrote_is_a_decoded_row() {
    let etcd = Etcd::spawn().await;
    let server = Server::start_with(
        &etcd,
        &[
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
        ],
    )
    .await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let fixtures: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for fixture in fixtures {
            let key = fixture["key"].as_str().unwrap().to_owned();
            etcd.put(&key, STANDARD.decode(fixture["value_base64"].as_str().unwrap()).unwrap()).await;
            keys.insert(key);
        }
    }
    let records = eventually("every recorded value is shown", seconds(15), || async {
        let answer = server.get("/instances").await.expect(200);
        let records = answer["records"].as_array().cloned().unwrap_or_default();
        let shown: BTreeSet<String> = records.iter().map(|record| record["key"].as_str().unwrap().to_owned()).collect();
        if shown == keys { Ok(records) } else { Err(keys.symmetric_difference(&shown).cloned().collect::<Vec<_>>()) }
    })
    .await;
    let shown: Vec<&str> = records.iter().map(|record| record["key"].as_str().unwrap()).collect();
    assert!(shown.is_sorted(), "records are sorted by key: {shown:?}");
    for record in &records {
        assert!(record["instance"].is_object(), "{record}");
        assert!(record["instance"]["metadata"].is_object() && record["instance"]["endpoints"].is_array(), "{record}");
        assert!(record["warning"].is_null(), "{record}");
        assert!(record["lease"].is_null(), "these were put without one: {record}");
        if record["layout"] != "kratos" && record["layout"] != "go-kit" {
            let endpoint = record["instance"]["endpoints"][0].as_str().unwrap();
            assert!(!endpoint.contains("://"), "a layout without schemes shows host:port: {record}");
        }
    }
    let service = |key: &str| {
        let record = records.iter().find(|record| record["key"] == key).unwrap();
        record["service"].as_str().unwrap().to_owned()
    };
    assert_eq!(service("/microservices/beer.shop/order.service/node/1:9000"), "beer.shop/order.service");
    assert_eq!(service("strings.v1/127.0.0.1:45479"), "strings.v1");
    assert_eq!(service("hello.rpc/17"), "hello.rpc");
    assert_eq!(service("shop/order.rpc/5777452005854301959"), "order.rpc");
    assert_eq!(service("helloworld/127.0.0.1:42855"), "helloworld");
    assert_eq!(service("services/foo.v1/127.0.0.1:33393"), "foo.v1");
    assert_eq!(service("services/permanent/127.0.0.1:38441"), "permanent");
    assert_eq!(service("/services/addsvc/127.0.0.1:44441"), "addsvc");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_prefixes_are_watched_and_named_as_sources() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let answer = server.get("/services").await.expect(200);
    assert!(answer["cursor"].is_string(), "{answer}");
    assert!(answer.get("stale_for_s").is_none(), "{answer}");
    let sources: BTreeSet<&str> = answer["revisions"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(sources, DEFAULT_PREFIXES.iter().map(|(_, prefix)| *prefix).collect());
    assert_eq!(answer["services"], json!([]));
    etcd.put("services/web/1", r#"{"ID":1,"IP":"1.2.3.4:80"}"#).await;
    etcd.put("services/bare", "1.2.3.4:81").await;
    etcd.put("/elsewhere/web/1", "1.2.3.4:80").await;
    let plain = record(&server, "services/web/1").await;
    assert_eq!((&plain["layout"], &plain["service"]), (&json!("plain"), &json!("web")));
    assert_eq!(plain["instance"]["endpoints"], json!(["1.2.3.4:80"]));
    assert_eq!(record(&server, "services/bare").await["service"], "bare");
    assert_eq!(server.get("/instances").await.expect(200)["records"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_keeps_its_row_and_hides_nothing() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    etcd.put("/microservices/broken/1", "{\"id\":").await;
    etcd.put("/microservices/broken/2", b"\xff\xfe".to_vec()).await;
    etcd.put("/microservices/broken/3", "null").await;
    etcd.put("/microservices/broken/4", kratos("broken", "4", "http://10.0.0.4:80")).await;
    etcd.put("/microservices/broken/5", kratos("other", "6", "http://10.0.0.5:80")).await;

    let text = record(&server, "/microservices/broken/1").await;
    assert_eq!(text["instance"], Value::Null);
    assert!(text["malformed"].as_str().is_some_and(|why| !why.is_empty()), "{text}");
    assert_eq!((&text["raw"], text.get("raw_base64")), (&json!("{\"id\":"), None));
    assert_eq!(text["service"], "broken");

    let bytes = record(&server, "/microservices/broken/2").await;
    assert_eq!((&bytes["instance"], bytes.get("raw")), (&Value::Null, None), "{bytes}");
    assert_eq!(STANDARD.decode(bytes["raw_base64"].as_str().unwrap()).unwrap(), b"\xff\xfe");

    assert_eq!(record(&server, "/microservices/broken/3").await["instance"], Value::Null);
    assert_eq!(record(&server, "/microservices/broken/4").await["instance"]["id"], "4");

    let disagrees = record(&server, "/microservices/broken/5").await;
    assert_eq!(disagrees["instance"]["name"], "other");
    assert!(disagrees["warning"].as_str().is_some_and(|warning| !warning.is_empty()), "{disagrees}");

    let services = server.get("/services").await.expect(200);
    let broken = services["services"].as_array().unwrap().iter().find(|service| service["name"] == "broken").unwrap();
    assert_eq!((&broken["instances"], &broken["malformed"]), (&json!(1), &json!(3)), "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_counted_sorted_and_found_by_any_name() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    for (name, id, version) in [("zeta", "1", "v2"), ("zeta", "2", "v1"), ("alpha", "1", "v1"), ("a/b", "1", "v1")] {
        let value = kratos(name, id, "http://10.0.0.1:80").replace("\"v1\"", &format!("\"{version}\""));
        etcd.put(&format!("/microservices/{name}/{id}"), value).await;
    }
    etcd.put("services/zeta/3", r#"{"ID":3,"IP":"10.0.0.3:80"}"#).await;
    record(&server, "services/zeta/3").await;
    let answer = server.get("/services").await.expect(200);
    let names: Vec<&str> =
        answer["services"].as_array().unwrap().iter().map(|service| service["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a/b", "alpha", "zeta"]);
    let zeta = answer["services"].as_array().unwrap().last().unwrap();
    assert_eq!(zeta["instances"], 3, "{zeta}");
    assert_eq!(zeta["malformed"], 0, "{zeta}");
    assert_eq!(zeta["layouts"], json!(["kratos", "plain"]), "{zeta}");
    let versions: Vec<&str> =
        zeta["versions"].as_array().unwrap().iter().filter_map(Value::as_str).filter(|it| !it.is_empty()).collect();
    assert_eq!(versions, ["v1", "v2"], "{zeta}");

    let zeta = server.get("/services/zeta").await.expect(200);
    assert_eq!(zeta["records"].as_array().unwrap().len(), 3);
    assert!(zeta["cursor"].is_string() && zeta["revisions"].is_object(), "{zeta}");
    let slashed = server.get("/services/a%2Fb").await.expect(200);
    assert_eq!(slashed["records"][0]["key"], "/microservices/a/b/1");
    server.get("/services/nobody").await.problem(404);
    server.get("/services/zet").await.problem(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_filtered_paged_and_cached() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    for number in 0..25 {
        let id = format!("{number:02}");
        let name = if number % 2 == 0 { "even" } else { "odd" };
        etcd.put(&format!("/microservices/{name}/{id}"), kratos(name, &id, "http://10.0.0.1:80")).await;
    }
    etcd.put("services/even/99", r#"{"ID":99,"IP":"10.0.0.3:80"}"#).await;
    record(&server, "services/even/99").await;
    let keys = |answer: &Value| -> Vec<String> {
        answer["records"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&server.get("/instances?service=even").await.expect(200)).len(), 14);
    assert_eq!(keys(&server.get("/instances?layout=plain").await.expect(200)), ["services/even/99"]);
    assert_eq!(keys(&server.get("/instances?service=odd&layout=plain").await.expect(200)), Vec::<String>::new());

    let all = server.get("/instances").await.expect(200);
    assert!(all.get("continue").is_none(), "nothing follows: {}", all["continue"]);
    let mut paged = Vec::new();
    let mut query = "?limit=10".to_owned();
    let mut pages = 0;
    loop {
        let page = server.get(&format!("/instances{query}")).await.expect(200);
        assert!(keys(&page).len() <= 10);
        paged.extend(keys(&page));
        pages += 1;
        let Some(token) = page["continue"].as_str() else { break };
        query = format!("?limit=10&continue={}", encode(token));
    }
    assert_eq!((pages, paged), (3, keys(&all)));
    let refused = server.get("/instances?limit=x").await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
    let refused = server.get("/instances?layout=nonsense").await;
    assert!((400..500).contains(&refused.status), "{refused:?}");

    let answer = server.get("/instances").await;
    let etag = answer.header("etag").expect("an ETag stands").to_owned();
    assert!(etag.starts_with("W/\""), "the ETag is weak: {etag}");
    let again = http::send(server.request(Method::GET, "/instances").header("if-none-match", &etag)).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    etcd.put("services/even/98", r#"{"ID":98,"IP":"10.0.0.3:80"}"#).await;
    record(&server, "services/even/98").await;
    let changed = http::send(server.request(Method::GET, "/instances").header("if-none-match", &etag)).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(&*etag));

    for encoding in ["br", "gzip"] {
        let small = http::send(server.request(Method::GET, "/instances").header("accept-encoding", encoding)).await;
        assert_eq!((small.status, small.header("content-encoding")), (200, Some(encoding)));
        assert!(small.body.len() < answer.body.len(), "{encoding} makes it smaller");
    }
    assert_eq!(answer.header("content-encoding"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_value_comes_to_the_byte_and_from_the_sources_alone() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let value = b"\x00\xff <b>&\n".to_vec();
    etcd.put("/microservices/raw/a b", value.clone()).await;
    etcd.put("/secret/token", "hidden").await;
    record(&server, "/microservices/raw/a b").await;
    let raw = server.get(&format!("/instances/raw?key={}", encode("/microservices/raw/a b"))).await;
    assert_eq!((raw.status, raw.body.to_vec()), (200, value));
    assert_eq!(raw.header("x-content-type-options"), Some("nosniff"));
    assert!(!raw.header("content-type").unwrap_or_default().contains("html"), "{raw:?}");
    server.get("/instances/raw?key=%2Fmicroservices%2Fraw%2Fnone").await.problem(404);
    let outside = server.get("/instances/raw?key=%2Fsecret%2Ftoken").await;
    outside.problem(403);
    assert!(!outside.text().contains("hidden"));
    server.get("/instances/raw?key=%2Fmicroservices").await.problem(403);
    let refused = server.get("/instances/raw").await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_says_what_is_left_and_only_its_keys_inside() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let lease = etcd.grant(60).await;
    etcd.put_leased("/microservices/a/1", kratos("a", "1", "http://10.0.0.1:80"), lease).await;
    etcd.put_leased("/secret/token", "hidden", lease).await;
    let answer = server.get(&format!("/leases/{lease:016x}")).await.expect(200);
    assert_eq!(answer["lease"], format!("{lease:016x}"));
    assert_eq!(answer["granted_ttl_s"], 60);
    let left = answer["remaining_ttl_s"].as_i64().unwrap();
    assert!((0..=60).contains(&left), "{answer}");
    assert_eq!(answer["keys"], json!(["/microservices/a/1"]));
    etcd.revoke(lease).await;
    server.get(&format!("/leases/{lease:016x}")).await.problem(404);
    let nonsense = server.get("/leases/nonsense").await;
    assert!((400..500).contains(&nonsense.status), "{nonsense:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_of_overlapping_prefixes_has_the_key() {
    let etcd = Etcd::spawn().await;
    let server =
        Server::start_with(&etcd, &["--watch", "plain=apps", "--watch", "kratos=apps/kratos", "--watch", "grpc=rpc"])
            .await;
    etcd.put("apps/kratos/a/1", kratos("a", "1", "http://10.0.0.1:80")).await;
    etcd.put("apps/b/1", "10.0.0.2:80").await;
    etcd.put("appsx/c/1", "10.0.0.2:80").await;
    etcd.put("rpc/10.0.0.1:80", r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#).await;
    etcd.put("/microservices/a/1", kratos("a", "1", "http://10.0.0.1:80")).await;
    let inner = record(&server, "apps/kratos/a/1").await;
    assert_eq!((&inner["source"], &inner["layout"]), (&json!("apps/kratos/"), &json!("kratos")));
    let outer = record(&server, "apps/b/1").await;
    assert_eq!((&outer["source"], &outer["layout"]), (&json!("apps/"), &json!("plain")));
    assert_eq!(record(&server, "rpc/10.0.0.1:80").await["service"], "rpc");
    let answer = server.get("/instances").await.expect(200);
    assert_eq!(answer["records"].as_array().unwrap().len(), 3, "{answer}");
    let sources: Vec<&String> = answer["revisions"].as_object().unwrap().keys().collect();
    assert_eq!(sources, ["apps/", "apps/kratos/", "rpc/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_describes_and_reports_itself() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let openapi = server.get("/openapi.json").await.expect(200);
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", openapi["openapi"]);
    let paths = openapi["paths"].to_string();
    for path in ["/services", "/instances", "/instances/raw", "/leases/{id}", "/events", "/undo/{token}", "/healthz"] {
        assert!(paths.contains(path), "the OpenAPI document knows no {path}");
    }
    assert_eq!(server.page("/healthz").await.status, 200);
    assert_eq!(server.page("/readyz").await.status, 200);
    let metrics = server.page("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").unwrap_or_default().starts_with("text/plain"), "{:?}", metrics.headers);
    assert!(metrics.text().lines().any(|line| line.starts_with("# TYPE ")), "{}", metrics.text());
    server.get("/nonsense").await.problem(404);
    let wrong_method = http::send(server.request(Method::PUT, "/services")).await;
    wrong_method.problem(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_snapshot_reads_say_to_come_back() {
    let mut etcd = Etcd::spawn().await;
    etcd.put("/microservices/a/1", kratos("a", "1", "http://10.0.0.1:80")).await;
    etcd.kill();
    let server = Server::launch(&etcd.url(), &[]).await;
    for path in ["/services", "/services/a", "/instances", "/instances/raw?key=%2Fmicroservices%2Fa%2F1"] {
        let answer = server.get(path).await;
        answer.problem(503);
        assert!(answer.header("retry-after").is_some(), "{path}: {:?}", answer.headers);
    }
    assert_eq!(server.page("/healthz").await.status, 200);
    assert_eq!(server.page("/readyz").await.status, 503);
    assert_eq!(server.page("/").await.status, 200);
    etcd.start().await;
    server.ready().await;
    assert_eq!(record(&server, "/microservices/a/1").await["service"], "a");
}
