//! The example that go-micro calls like one of its own, by the protocol alone; `cargo xtask interop` has the real
//! go-micro call it.

use rollcall_tests::{Etcd, eventually, example::example_with, seconds};
use serde_json::{Value, json};

#[tokio::test]
async fn the_greeter_stands_as_go_micro_would_and_answers_what_its_client_sends() {
    let etcd = Etcd::spawn().await;
    let variables = [("MICRO_REGISTRY", "etcd"), ("MICRO_REGISTRY_ADDRESS", &etcd.address())];
    let mut greeter = example_with("micro_greeter", &["greeter"], &variables);
    let key =
        greeter.stdout_line("a key", seconds(20), |line| line.strip_prefix("registered ").map(ToOwned::to_owned)).await;

    let (value, lease) = etcd.entry(&key).await.expect("the key stands");
    let service: Value = serde_json::from_slice(&value).expect("go-micro writes JSON");
    let node = &service["nodes"][0];
    assert_eq!(service["name"], "greeter");
    assert_eq!(key, format!("/micro/registry/greeter/{}", node["id"].as_str().expect("a node has an id")));
    let speaks =
        json!({"broker": "http", "protocol": "mucp", "registry": "etcd", "server": "mucp", "transport": "http"});
    assert_eq!(node["metadata"], speaks, "what go-micro v5 writes, and selects nodes by");
    assert!(etcd.ttl(lease).await.is_some_and(|left| (40..=60).contains(&left)), "go-micro's TTL is 60 s");

    // What go-micro's client sends: headers name the service and the endpoint, the body is the request.
    let address = node["address"].as_str().expect("a node has an address").to_owned();
    let call = async |endpoint: &'static str| {
        let asked = reqwest::Client::new()
            .post(format!("http://{address}"))
            .header("Micro-Id", "0")
            .header("Micro-Service", "greeter")
            .header("Micro-Method", endpoint)
            .header("Micro-Endpoint", endpoint)
            .json(&json!({"name": "you"}));
        asked.send().await.expect("the greeter answers")
    };
    let answer = call("Greeter.Hello").await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let answer: Value = answer.json().await.expect("JSON comes back");
    assert_eq!(answer, json!({"message": format!("Hello you from {}", node["id"].as_str().expect("as above"))}));
    // go-micro's transport takes anything but 200 for an error, and its text for the reason.
    assert_eq!(call("Greeter.Goodbye").await.status(), 404);

    greeter.signal("TERM");
    eventually("the key goes", seconds(10), || async { etcd.get(&key).await.map_or(Ok(()), Err) }).await;
    assert!(greeter.ended(seconds(20)).await.success(), "{:?}", greeter.stderr());
}
