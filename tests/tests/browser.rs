//! Section 6 of the contract: the page, in a real browser. Few, one story each.

use fantoccini::key::Key;
use rollcall_tests::{
    Browser, Etcd, Server,
    browser::{instance, service, soon},
    eventually, kratos, seconds,
};
use serde_json::json;

const KEY: &str = "/microservices/pay/1";

fn pay(id: &str) -> String {
    kratos("pay", id, &format!("http://10.0.0.{id}:80"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_seen_opened_reloaded_and_gone_back_from() {
    let etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    etcd.put("/microservices/a b/c/1", kratos("a b/c", "1", "http://10.0.0.7:80")).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.find("[data-testid=\"status\"][data-state=\"live\"]").await;
    browser.find(&service("a b/c")).await;
    browser.click(&service("pay")).await;
    browser.find(&instance(KEY, "live")).await;
    assert_eq!(browser.location().await, "/services/pay");
    assert!(browser.text(&instance(KEY, "")).await.contains("10.0.0.1"));
    assert_eq!(browser.count(&format!("{} [data-testid=\"ttl\"]", instance(KEY, ""))).await, 0, "it is permanent");

    browser.client.refresh().await.unwrap();
    browser.find(&instance(KEY, "live")).await;
    browser.client.back().await.unwrap();
    browser.find(&service("a b/c")).await;
    assert_eq!(browser.location().await, "/");
    browser.goto(&format!("{}/services/a%20b%2Fc", server.origin())).await;
    browser.find(&instance("/microservices/a b/c/1", "live")).await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_before_ones_eyes() {
    let etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/pay").await;
    browser.find(&instance(KEY, "live")).await;

    let crashing = etcd.grant(5).await;
    etcd.put_leased("/microservices/pay/2", pay("2"), crashing).await;
    let row = instance("/microservices/pay/2", "");
    let ttl = format!("{row} [data-testid=\"ttl\"]");
    let seconds_left = |text: &str| {
        let digits: String = text.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    let first = browser.text_that("the time left is shown", &ttl, soon(), |text| seconds_left(text).is_some()).await;
    let first = seconds_left(&first).unwrap();
    assert!(first <= 5, "{first}");
    browser
        .text_that("the time left counts down", &ttl, soon(), |text| {
            seconds_left(text).is_some_and(|left| left < first.max(1)) || first == 0
        })
        .await;
    browser.find(&instance("/microservices/pay/2", "gone")).await;
    let cause = format!("{} [data-testid=\"cause\"]", instance("/microservices/pay/2", "gone"));
    browser.text_that("the cause is shown", &cause, soon(), |text| text.to_lowercase().contains("expired")).await;

    let leaving = etcd.grant(60).await;
    etcd.put_leased("/microservices/pay/3", pay("3"), leaving).await;
    browser.find(&instance("/microservices/pay/3", "live")).await;
    eventually("the server has looked at the lease", seconds(35), || async {
        let text = browser.text(&format!("{} [data-testid=\"ttl\"]", instance("/microservices/pay/3", ""))).await;
        if seconds_left(&text).is_some() { Ok(()) } else { Err(text) }
    })
    .await;
    etcd.delete("/microservices/pay/3").await;
    let cause = format!("{} [data-testid=\"cause\"]", instance("/microservices/pay/3", "gone"));
    browser.text_that("the cause is shown", &cause, soon(), |text| text.to_lowercase().contains("deregistered")).await;
    browser.find(&instance(KEY, "live")).await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_instance_is_taken_out_and_put_back_by_clicking() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    for id in ["1", "2", "3"] {
        etcd.put_leased(&format!("/microservices/pay/{id}"), pay(id), lease).await;
    }
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/pay").await;
    let row = instance("/microservices/pay/2", "live");
    browser.find(&row).await;
    assert_eq!(browser.count("[role=\"dialog\"]").await, 0, "no dialog before it is asked for");

    for how in ["cancel", "escape"] {
        browser.click_button(&row, "Deregister").await;
        let words = browser
            .text_that("the dialog says what follows", "[role=\"dialog\"]", soon(), |text| text.len() > 40)
            .await;
        assert!(words.to_lowercase().contains("restart"), "for kratos: gone until it restarts: {words}");
        if how == "cancel" {
            browser.click("[data-testid=\"cancel\"]").await;
        } else {
            browser.press(Key::Escape).await;
        }
        browser.vanishes("[role=\"dialog\"]", soon()).await;
        assert!(etcd.get("/microservices/pay/2").await.is_some(), "{how} leaves everything as it was");
    }

    browser.click_button(&row, "Deregister").await;
    browser.find("[role=\"dialog\"]").await;
    browser.click("[data-testid=\"confirm\"]").await;
    etcd.key_stands("/microservices/pay/2", false, soon()).await;
    browser.vanishes("[role=\"dialog\"]", soon()).await;
    browser.find(&instance("/microservices/pay/2", "gone")).await;
    let others = etcd.keys("/microservices/").await;
    assert_eq!(others, ["/microservices/pay/1", "/microservices/pay/3"], "and no other");

    browser.click("[data-testid=\"undo\"]").await;
    etcd.key_stands("/microservices/pay/2", true, soon()).await;
    browser.find(&instance("/microservices/pay/2", "live")).await;
    assert_eq!(etcd.entry("/microservices/pay/2").await.unwrap(), (pay("2").into_bytes(), lease));
    browser.vanishes("[data-testid=\"undo\"]", soon()).await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_metadata_is_text() {
    let etcd = Etcd::spawn().await;
    let markup = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";
    let value = json!({
        "id": markup, "name": "evil", "version": markup, "metadata": {markup: markup, "__proto__": "x"},
        "endpoints": ["javascript:window.hacked=1", "http://10.0.0.1:80/\"onmouseover=\"window.hacked=1"]
    });
    let key = format!("/microservices/evil/{markup}");
    etcd.put(&key, value.to_string()).await;
    etcd.put("/microservices/evil/junk", format!("{markup}{{")).await;
    let named = kratos("<b>bold</b>", "1", "http://10.0.0.1:80");
    etcd.put("/microservices/<b>bold</b>/1", named).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.find("[data-testid=\"service\"][data-service=\"<b>bold</b>\"]").await;
    browser.text_that("the name is shown as it is", "body", soon(), |text| text.contains("<b>bold</b>")).await;
    browser.click(&service("evil")).await;
    browser.find("[data-testid=\"instance\"][data-key=\"/microservices/evil/junk\"]").await;
    browser.text_that("the markup is shown as it is", "body", soon(), |text| text.contains("<img src=x")).await;
    let harm = "return [window.hacked === 1, [...document.querySelectorAll('img, b')].filter(it => it.matches('img') || it.textContent === 'bold').length,\
        [...document.querySelectorAll('a')].filter(a => a.href.startsWith('javascript:')).length,\
        document.querySelectorAll('[onmouseover], [onerror]').length];";
    assert_eq!(browser.script(harm, vec![]).await, json!([false, 0, 0, 0]));
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_registered_through_the_form() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.click("[data-testid=\"register\"]").await;
    for name in ["layout", "name", "id", "version", "endpoints", "metadata", "ttl_s", "keep_alive"] {
        browser.find(&format!("[name=\"{name}\"]")).await;
    }
    browser.fill("name", "typed").await;
    browser.fill("endpoints", "http://10.0.0.9:80").await;
    browser.click("[data-testid=\"submit\"]").await;
    let key = eventually("it stands in etcd", soon(), || async {
        let keys = etcd.keys("/microservices/typed/").await;
        keys.first().cloned().ok_or(())
    })
    .await;
    browser.goto(&format!("{}/services/typed", server.origin())).await;
    browser.find(&instance(&key, "")).await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_narrows_and_stands_in_the_address() {
    let etcd = Etcd::spawn().await;
    for name in ["pay", "web", "mail"] {
        etcd.put(&format!("/microservices/{name}/1"), kratos(name, "1", "http://10.0.0.1:80")).await;
    }
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.find(&service("pay")).await;
    browser.find("input[type=\"search\"]").await.send_keys("mail").await.unwrap();
    browser.vanishes(&service("pay"), soon()).await;
    browser.find(&service("mail")).await;
    eventually("it stands in the address", soon(), || async {
        let location = browser.location().await;
        if location.contains("mail") { Ok(()) } else { Err(location) }
    })
    .await;
    browser.client.refresh().await.unwrap();
    browser.find(&service("mail")).await;
    browser.vanishes(&service("pay"), soon()).await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_shown_and_passes_by_itself() {
    let mut etcd = Etcd::spawn().await;
    etcd.put(KEY, pay("1")).await;
    let mut server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/pay").await;
    browser.find("[data-testid=\"status\"][data-state=\"live\"]").await;
    etcd.kill();
    browser.find("[data-testid=\"status\"][data-state=\"unreachable\"]").await;
    browser.find(&instance(KEY, "")).await;
    etcd.start().await;
    browser.find("[data-testid=\"status\"][data-state=\"live\"]").await;
    etcd.put("/microservices/pay/2", pay("2")).await;
    browser.find(&instance("/microservices/pay/2", "live")).await;
    server.kill();
    browser.find("[data-testid=\"status\"][data-state=\"reconnecting\"]").await;
    browser.find(&instance(KEY, "")).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_instances_are_a_short_page() {
    const INSTANCES: usize = 10_000;
    let etcd = Etcd::spawn().await;
    let mut client = etcd.client().await;
    for batch in 0..INSTANCES / 100 {
        let ops = (batch * 100..(batch + 1) * 100).map(|number| {
            let id = format!("{number:05}");
            etcd_client::TxnOp::put(format!("/microservices/big/{id}"), kratos("big", &id, "http://10.0.0.1:80"), None)
        });
        client.txn(etcd_client::Txn::new().and_then(ops.collect::<Vec<_>>())).await.unwrap();
    }
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/big").await;
    browser.find("[data-testid=\"instance\"]").await;
    let rows = browser.count("[data-testid=\"instance\"]").await;
    assert!(rows < 300, "only what is visible is in the document: {rows} rows");
    browser.find("input[type=\"search\"]").await.send_keys("09876").await.unwrap();
    browser.find(&instance("/microservices/big/09876", "live")).await;
    browser.has_clean_console().await;
    browser.close().await;
}
