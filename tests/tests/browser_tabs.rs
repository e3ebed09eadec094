//! Many tabs of one browser on one server: they share one stream, and a hidden one does nothing but listen.

use fantoccini::wd::WindowHandle;
use rollcall_tests::{
    Browser, Etcd, Server,
    browser::{Options, instance, soon},
    etcd::free_port,
    eventually, kratos,
    server::rollcall,
};
use serde_json::{Value, json};

/// The line to the server stands, however it is with etcd.
const CONNECTED: &str = "[data-testid=\"status\"]:not([data-state=\"reconnecting\"])";

/// Keeps a record of every timer and frame that a hidden page asks for, of the intervals and frames that go on in it, and
/// of what it shows on return. What was asked for once before may end while it is hidden.
const WATCH: &str = "
window.hiddenWork = [];
window.returns = [];
const note = what => { if (document.hidden) window.hiddenWork.push(what); };
for (const name of ['setTimeout', 'setInterval', 'requestAnimationFrame', 'requestIdleCallback']) {
  const plain = window[name].bind(window);
  window[name] = (call, ...rest) => {
    note(name);
    const again = name === 'setTimeout' ? '' : name + ' runs';
    return plain((...args) => { if (again) note(again); call(...args); }, ...rest);
  };
  if (name === 'requestAnimationFrame') window.plainFrame = plain;
}
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return window.returns.push({hidden: true});
  const keys = () => [...document.querySelectorAll('[data-testid=\"instance\"]')].map(row => row.dataset.key);
  plainFrame(() => plainFrame(() => window.returns.push({hidden: false, keys: keys()})));
});";

fn key(id: u32) -> String {
    format!("/microservices/pay/{id}")
}

async fn put(etcd: &Etcd, id: u32) {
    etcd.put(&key(id), kratos("pay", &id.to_string(), &format!("http://10.0.0.{id}:80"))).await;
}

async fn start_at(etcd: &Etcd, port: u16) -> Server {
    let listen = format!("127.0.0.1:{port}");
    let server = Server::of(rollcall(["serve", "--endpoints", &etcd.url(), "--listen", &listen])).await;
    server.ready().await;
    server
}

async fn has_streams(server: &Server, count: u32) {
    let line = format!("rollcall_streams_open {count}");
    eventually(&format!("the server has {count} streams"), soon(), || async {
        let text = server.page("/metrics").await.text();
        let open = text.lines().find(|line| line.starts_with("rollcall_streams_open")).unwrap_or_default().to_owned();
        if open == line { Ok(()) } else { Err(open) }
    })
    .await;
}

async fn tabs_of(browser: &Browser) -> Vec<WindowHandle> {
    browser.client.windows().await.expect("a browser has windows")
}

/// Opens tabs on an address, all at the same moment.
async fn open_tabs(browser: &Browser, url: &str, count: usize) {
    let before = tabs_of(browser).await.len();
    browser
        .script(
            "for (let left = arguments[1]; left; left--) window.open(arguments[0]);",
            vec![json!(url), json!(count)],
        )
        .await;
    eventually("the tabs are open", soon(), || async {
        let tabs = tabs_of(browser).await.len();
        if tabs == before + count { Ok(()) } else { Err(tabs) }
    })
    .await;
}

async fn go_to(browser: &Browser, tab: &WindowHandle) {
    browser.client.switch_to_window(tab.clone()).await.expect("the tab is open");
}

/// Every tab is connected and shows these instances and no others.
async fn all_show(browser: &Browser, ids: &[u32]) {
    let wanted: Vec<String> = ids.iter().map(|id| key(*id)).collect();
    for tab in tabs_of(browser).await {
        go_to(browser, &tab).await;
        eventually(&format!("a tab is connected and shows {ids:?}"), soon(), || async {
            let shown = browser
                .script(
                    "return [document.querySelector(arguments[0]) !== null,\
                     ...[...document.querySelectorAll('[data-testid=\"instance\"][data-state=\"live\"]')]\
                     .map(row => row.dataset.key).sort()];",
                    vec![json!(CONNECTED)],
                )
                .await;
            let mut expected = vec![json!(true)];
            expected.extend(wanted.iter().map(|key| json!(key)));
            if shown == Value::Array(expected) { Ok(()) } else { Err(shown) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_tabs_share_one_stream() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    put(&etcd, 2).await;
    let port = free_port();
    let mut server = start_at(&etcd, port).await;
    let url = format!("{}/services/pay", server.origin());
    // A browser opens six connections to one origin: with a stream each, the seventh tab would wait for ever.
    let browser = Browser::open_url(&url).await;
    open_tabs(&browser, &url, 6).await;
    all_show(&browser, &[1, 2]).await;
    has_streams(&server, 1).await;
    browser.screenshot("tabs-seven").await;

    put(&etcd, 3).await;
    etcd.delete(&key(1)).await;
    all_show(&browser, &[2, 3]).await;
    has_streams(&server, 1).await;

    let first = tabs_of(&browser).await.remove(0);
    go_to(&browser, &first).await;
    browser.client.close_window().await.unwrap();
    put(&etcd, 4).await;
    all_show(&browser, &[2, 3, 4]).await;

    open_tabs(&browser, &url, 2).await;
    all_show(&browser, &[2, 3, 4]).await;
    has_streams(&server, 1).await;

    server.kill();
    for tab in tabs_of(&browser).await {
        go_to(&browser, &tab).await;
        browser.find("[data-testid=\"status\"][data-state=\"reconnecting\"]").await;
    }
    browser.screenshot("tabs-server-away").await;
    put(&etcd, 5).await;
    let server = start_at(&etcd, port).await;
    all_show(&browser, &[2, 3, 4, 5]).await;
    has_streams(&server, 1).await;
    browser.screenshot("tabs-server-back").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_gone_back_to_is_live() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/pay").await;
    all_show(&browser, &[1]).await;
    browser.goto("about:blank").await;
    put(&etcd, 2).await;
    server.shows(&key(2)).await;
    browser.client.back().await.unwrap();
    all_show(&browser, &[1, 2]).await;
    put(&etcd, 3).await;
    all_show(&browser, &[1, 2, 3]).await;
    has_streams(&server, 1).await;
    browser.client.refresh().await.unwrap();
    all_show(&browser, &[1, 2, 3]).await;
    has_streams(&server, 1).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_tab_only_listens_and_is_right_on_return() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let lease = etcd.grant(600).await;
    etcd.put_leased(&key(2), kratos("pay", "2", "http://10.0.0.2:80"), lease).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::launch(Options::default(), json!({})).await;
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WATCH })).await;
    browser.goto(&format!("{}/services/pay", server.origin())).await;
    all_show(&browser, &[1, 2]).await;
    has_streams(&server, 1).await;
    let watched = browser.client.window().await.unwrap();

    let other = browser.client.new_window(true).await.unwrap().handle;
    go_to(&browser, &other).await;
    browser.goto(&format!("{}/services/pay", server.origin())).await;
    browser.find(&instance(&key(2), "live")).await;
    let since_ms = browser.script("return performance.now()", vec![]).await.as_f64().unwrap();
    etcd.delete(&key(1)).await;
    for id in 3..8 {
        put(&etcd, id).await;
        browser.find(&instance(&key(id), "live")).await;
    }
    eventually("the tab has been hidden for five seconds", soon(), || async {
        let now_ms = browser.script("return performance.now()", vec![]).await.as_f64().unwrap_or_default();
        if now_ms > since_ms + 5_000.0 { Ok(()) } else { Err(now_ms) }
    })
    .await;

    go_to(&browser, &watched).await;
    let (returns, work) = eventually("the tab is seen again", soon(), || async {
        let [returns, work] = ["returns", "hiddenWork"].map(|name| format!("return window.{name};"));
        let (returns, work) = (browser.script(&returns, vec![]).await, browser.script(&work, vec![]).await);
        if returns.as_array().is_some_and(|returns| returns.len() == 2) { Ok((returns, work)) } else { Err(returns) }
    })
    .await;
    browser.screenshot("tabs-return").await;
    assert_eq!(returns[0], json!({ "hidden": true }), "it was hidden");
    let shown: Vec<&str> = returns[1]["keys"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for id in 2..8 {
        assert!(shown.contains(&key(id).as_str()), "{id} is missing in the second frame after the return: {shown:?}");
    }
    // A frame that is asked for while hidden stands until the return.
    let frames = work.as_array().unwrap().iter().filter(|what| *what == "requestAnimationFrame").count();
    let others: Vec<&Value> = work.as_array().unwrap().iter().filter(|what| *what != "requestAnimationFrame").collect();
    assert!(others.is_empty() && frames <= 1, "a hidden tab worked: {work}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_tab_catches_up_from_the_server() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::launch(Options::default(), json!({})).await;
    let url = format!("{}/services/pay", server.origin());
    let watch = "window.opened = []; const Plain = EventSource;\
        window.EventSource = class extends Plain { constructor(url) { super(url); opened.push(url); } };";
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", json!({ "source": watch })).await;
    browser.goto(&url).await;
    let frozen = browser.client.window().await.unwrap();
    open_tabs(&browser, &url, 1).await;
    all_show(&browser, &[1]).await;
    has_streams(&server, 1).await;
    go_to(&browser, &frozen).await;
    browser.cdp("Page.setWebLifecycleState", json!({ "state": "frozen" })).await;

    // More than the worker keeps for a tab that takes nothing.
    for round in 0..60 {
        let value = kratos("pay", "2", &format!("http://10.0.0.2:{}/{}", 1000 + round, "x".repeat(100_000)));
        etcd.put(&key(2), value).await;
    }
    etcd.delete(&key(2)).await;
    put(&etcd, 3).await;
    let other = tabs_of(&browser).await.into_iter().find(|tab| *tab != frozen).expect("there are two tabs");
    go_to(&browser, &other).await;
    browser.find(&instance(&key(3), "live")).await;
    go_to(&browser, &frozen).await;
    browser.cdp("Page.setWebLifecycleState", json!({ "state": "active" })).await;
    all_show(&browser, &[1, 3]).await;
    go_to(&browser, &frozen).await;
    let opened = browser.script("return opened", vec![]).await;
    let own: Vec<&str> = opened.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(own.len() == 2 && own[1].contains("since="), "it goes on from its cursor: {own:?}");
    // The next change lies behind both lines' cursors; without one that takes until the next progress.
    put(&etcd, 4).await;
    all_show(&browser, &[1, 3, 4]).await;
    has_streams(&server, 1).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tabs_hear_that_etcd_was_restored() {
    let mut etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let saved = etcd.snapshot();
    put(&etcd, 2).await;
    let server = Server::start(&etcd).await;
    let url = format!("{}/services/pay", server.origin());
    let browser = Browser::open_url(&url).await;
    open_tabs(&browser, &url, 2).await;
    all_show(&browser, &[1, 2]).await;
    has_streams(&server, 1).await;
    etcd.restore(&saved).await;
    all_show(&browser, &[1]).await;
    open_tabs(&browser, &url, 1).await;
    put(&etcd, 3).await;
    all_show(&browser, &[1, 3]).await;
    has_streams(&server, 1).await;
    browser.screenshot("tabs-restored").await;
    browser.close().await;
}
