//! The harness itself: an etcd that comes back, freezes and is restored, and a line that breaks on command.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use rollcall_tests::{Browser, Etcd, FaultProxy, browser::Options, eventually, process, seconds};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_keeps_its_keys_over_a_restart_and_ends_with_its_test() {
    let mut etcd = Etcd::spawn().await;
    etcd.put("/a/1", "one").await;
    etcd.restart().await;
    assert_eq!(etcd.get("/a/1").await.unwrap(), b"one");
    let pid = etcd.pid();
    assert!(process::is_running(pid));
    drop(etcd);
    assert!(!process::is_running(pid), "etcd outlived its test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_etcd_answers_nothing_until_it_is_resumed() {
    let etcd = Etcd::spawn().await;
    let mut client = etcd.client().await;
    client.put("/a/1", "one", None).await.unwrap();
    etcd.pause();
    assert!(timeout(Duration::from_millis(500), client.get("/a/1", None)).await.is_err(), "a frozen etcd answered");
    etcd.resume();
    assert_eq!(etcd.get("/a/1").await.unwrap(), b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_etcd_has_what_was_saved_and_no_more() {
    let mut etcd = Etcd::spawn().await;
    let saved_at = etcd.put("/a/1", "one").await;
    let saved = etcd.snapshot();
    etcd.put("/a/2", "two").await;
    etcd.restore(&saved).await;
    assert_eq!(etcd.keys("/a/").await, ["/a/1"]);
    assert_eq!(etcd.revision().await, saved_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_is_one_revision() {
    let etcd = Etcd::spawn().await;
    let before = etcd.put("/a/0", "zero").await;
    let after = etcd.transact(&[("/a/1", "one"), ("/a/2", "two")], &["/a/0"]).await;
    assert_eq!(after, before + 1);
    assert_eq!(etcd.keys("/a/").await, ["/a/1", "/a/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_stalls_severs_and_heals() {
    let etcd = Etcd::spawn().await;
    let proxy = FaultProxy::to(&etcd.address()).await;
    let options = ConnectOptions::new().with_timeout(Duration::from_millis(500));
    let client = Client::connect([proxy.url()], Some(options)).await.unwrap();
    let answers = || async { client.kv_client().get("x", None).await.map(drop) };
    answers().await.unwrap();
    proxy.stall();
    assert!(answers().await.is_err(), "a stalled line carried an answer");
    proxy.heal();
    eventually("a healed line carries", seconds(10), answers).await;
    proxy.sever();
    assert!(answers().await.is_err(), "a severed line carried an answer");
    proxy.heal();
    eventually("a line that was severed carries again", seconds(10), answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_finds_clicks_and_tells_of_a_broken_policy() {
    const PAGE: &str = "<!doctype html><link rel=icon href='data:,'><div id=area><button aria-label='Deregister 1'>x</button>\
        </div><input name=word><p style='color:red' data-testid=text>some text</p>";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\
                    Content-Security-Policy: default-src 'self'; img-src data:\r\n";
                let answer = format!("{head}Content-Length: {}\r\n\r\n{PAGE}", PAGE.len());
                stream.write_all(answer.as_bytes()).await
            });
        }
    });
    let browser = Browser::open_url(&url).await;
    browser.click_button("#area", "Deregister").await;
    browser.fill("word", "typed").await;
    let typed = browser.script("return document.querySelector('input').value", vec![]).await;
    assert_eq!(typed, "typed");
    browser.text_that("the text", "[data-testid=text]", seconds(5), |text| text == "some text").await;
    let complaints = browser.complaints().await;
    assert!(complaints.iter().any(|line| line.contains("Content Security Policy")), "{complaints:?}");
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_as_asked_and_takes_keys_and_a_mouse() {
    let page = "data:text/html,<!doctype html><meta name=viewport content=width=device-width>\
        <style>p:hover{color:rgb(1,2,3)}</style><p>over</p><input><script>keys=[];\
        addEventListener('keydown',event=>keys.push((event.ctrlKey?'^':'')+event.key))</script>";
    let options = Options { dark: true, still: true, lang: "zh-CN", ..Options::phone() };
    let phone = Browser::launch(options, json!({})).await;
    phone.goto(page).await;
    let seen = phone
        .script(
            "return [innerWidth, innerHeight, navigator.language, navigator.maxTouchPoints, \
             ...['prefers-color-scheme: dark', 'prefers-reduced-motion', 'pointer: coarse', 'hover: none']\
             .map(query => matchMedia(`(${query})`).matches)]",
            vec![],
        )
        .await;
    assert_eq!(seen, json!([390, 844, "zh-CN", 5, true, true, true, true]));
    phone.scroll_width_fits().await;
    phone.close().await;

    let desk = Browser::launch(Options::default(), json!({})).await;
    desk.goto(page).await;
    let seen = desk
        .script(
            "return [innerWidth, innerHeight, navigator.language, \
             ...['prefers-color-scheme: dark', 'prefers-reduced-motion: reduce', 'pointer: fine', 'hover: hover']\
             .map(query => matchMedia(`(${query})`).matches)]",
            vec![],
        )
        .await;
    assert_eq!(seen, json!([1400, 900, "en-US", false, false, true, true]));
    desk.hover("p").await;
    assert_eq!(desk.script("return getComputedStyle(document.querySelector('p')).color", vec![]).await, "rgb(1, 2, 3)");
    desk.type_into("input", "pay 支付").await;
    assert_eq!(desk.script("return document.querySelector('input').value", vec![]).await, "pay 支付");
    desk.script("keys = []", vec![]).await;
    desk.press_keys(&["j", "?", "Enter", "Control+k", "Escape", "ArrowDown", "+"]).await;
    let keys = desk.script("return keys.filter(key => !/Control$/.test(key))", vec![]).await;
    assert_eq!(keys, json!(["j", "?", "Enter", "^k", "Escape", "ArrowDown", "+"]));
    assert!(desk.screenshot("harness").await.is_file());
    desk.close().await;
}
