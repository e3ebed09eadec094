//! Acting on the page: taking out, putting back, draining, editing, many at once, and all of it by keyboard. Few, one
//! story each; each keeps a picture of its best moment.

use rollcall_shared::api::UNDO_S;
use rollcall_tests::{
    Browser, Etcd, Server,
    browser::{instance, soon},
    eventually, kratos,
};
use serde_json::{Value, json};

const DIALOG: &str = "[role=\"dialog\"]";
const CONFIRM: &str = "[data-testid=\"confirm\"]";
const TOASTS: &str = ".toasts";

fn key(service: &str, id: &str) -> String {
    format!("/microservices/{service}/{id}")
}

/// Puts instances of a service, all on one lease.
async fn put(etcd: &Etcd, service: &str, ids: &[&str], lease: i64) {
    for id in ids {
        etcd.put_leased(&key(service, id), kratos(service, id, &format!("http://10.0.0.{id}:80")), lease).await;
    }
}

/// What stands under a key, and its lease.
async fn standing(etcd: &Etcd, key: &str) -> (String, i64) {
    let (value, lease) = etcd.entry(key).await.expect("the key stands");
    (String::from_utf8(value).expect("the value is text"), lease)
}

async fn stands_as(etcd: &Etcd, key: &str, value: &str, lease: i64) {
    eventually(&format!("{key} stands as {value}"), soon(), || async {
        let found = etcd.entry(key).await.map(|(value, lease)| (String::from_utf8_lossy(&value).into_owned(), lease));
        if found == Some((value.to_owned(), lease)) { Ok(()) } else { Err(found) }
    })
    .await;
}

async fn says(browser: &Browser, css: &str, what: &str) -> String {
    browser.text_that(&format!("{css} says {what:?}"), css, soon(), |text| text.contains(what)).await
}

/// What has the focus: its tag, and its name, test id or text.
async fn focus(browser: &Browser) -> String {
    let script = "const it = document.activeElement;\
        return it.tagName + ' ' + (it.name || it.dataset.testid || it.textContent || '').trim().slice(0, 40);";
    browser.script(script, vec![]).await.as_str().unwrap_or_default().to_owned()
}

async fn focus_is(browser: &Browser, expected: &str) {
    eventually(&format!("{expected} has the focus"), soon(), || async {
        let found = focus(browser).await;
        if found == expected { Ok(()) } else { Err(found) }
    })
    .await;
}

/// The value of the field of that name.
async fn typed(browser: &Browser, name: &str) -> Value {
    browser.script("return document.querySelector(`[name=${arguments[0]}]`).value;", vec![json!(name)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bad_one_is_found_and_removed_and_the_last_one_is_guarded() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    put(&etcd, "pay", &["1", "2", "3"], lease).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.type_into("input[type=\"search\"]", "10.0.0.2").await;
    let row = instance(&key("pay", "2"), "live");
    browser.find(&row).await;
    browser.vanishes(&instance(&key("pay", "1"), ""), soon()).await;
    browser.click_button(&row, "Deregister").await;
    let text = says(&browser, DIALOG, "restarts").await;
    assert!(text.contains("Drain it instead") && text.contains("Revoke the lease"), "{text}");
    assert_eq!(browser.count("[data-testid=\"confirm-name\"]:not([hidden] *)").await, 0, "one of three needs no name");

    // Somebody changes it before the click: nothing is done, and what changed is shown.
    let changed = kratos("pay", "2", "http://10.0.0.2:80").replace("v1", "v2");
    etcd.put_leased(&key("pay", "2"), changed.clone(), lease).await;
    browser.click(CONFIRM).await;
    let text = says(&browser, "[data-testid=\"changes\"]", "v2").await;
    assert!(text.contains("Version") && text.contains("v1"), "{text}");
    browser.screenshot("acts-changed-meanwhile").await;
    assert_eq!(standing(&etcd, &key("pay", "2")).await, (changed.clone(), lease));
    browser.click(CONFIRM).await;
    etcd.key_stands(&key("pay", "2"), false, soon()).await;
    browser.vanishes(DIALOG, soon()).await;
    browser.find(&instance(&key("pay", "2"), "gone")).await;
    says(&browser, TOASTS, "pay / 2 was deregistered").await;
    let left = browser.text(".toast .count").await;
    let seconds: Option<u64> = left.strip_suffix(" s").and_then(|left| left.parse().ok());
    assert!(seconds.is_some_and(|left| left <= UNDO_S), "the seconds left are told: {left}");
    browser.screenshot("acts-removed").await;
    browser.press_keys(&["z"]).await;
    stands_as(&etcd, &key("pay", "2"), &changed, lease).await;
    browser.find(&instance(&key("pay", "2"), "live")).await;

    // The lease holds all of them: revoking it takes out the last one, so the name has to be typed.
    browser.click_button(&row, "Deregister").await;
    browser.click(&format!("{DIALOG} label:nth-of-type(2) input[type=radio]")).await;
    let text = says(&browser, DIALOG, "type the service's name").await;
    assert!(text.contains(&key("pay", "1")) && text.contains(&key("pay", "3")), "its other keys: {text}");
    assert!(!browser.find(CONFIRM).await.is_enabled().await.unwrap());
    browser.type_into("[data-testid=\"confirm-name\"]", "pay").await;
    browser.screenshot("acts-revoke").await;
    browser.click(CONFIRM).await;
    etcd.key_stands(&key("pay", "1"), false, soon()).await;
    says(&browser, TOASTS, "3 keys went with it").await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_drained_and_gets_calls_again() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    put(&etcd, "pay", &["1", "2"], lease).await;
    let (one, two) = (key("pay", "1"), key("pay", "2"));
    // What Go writes need not be what anybody else would: every other byte stays.
    let value = r#"{ "id":"1","name":"pay","version":"v\u0031","metadata":{"zone":"a","weight":"30"},"endpoints":["http://10.0.0.1:80"],"x":1}"#;
    etcd.put_leased(&one, value, lease).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, &format!("/services/pay?key={one}")).await;
    browser.find("[data-testid=\"drain\"]").await;
    // The page answers at once, also while etcd does not.
    etcd.pause();
    browser.click("[data-testid=\"drain\"]").await;
    says(&browser, TOASTS, "Draining pay / 1").await;
    etcd.resume();
    says(&browser, TOASTS, "pay / 1 is drained").await;
    stands_as(&etcd, &one, &value.replace("30", "0"), lease).await;
    browser.find("[data-testid=\"undrain\"]").await;
    says(&browser, ".sheet", "Drained").await;
    browser.screenshot("acts-drained").await;

    // The other one is the only one that gets calls now: draining it would do nothing, and that is said.
    browser.goto(&format!("{}/services/pay?key={two}", server.origin())).await;
    browser.click("[data-testid=\"drain\"]").await;
    says(&browser, TOASTS, "only one").await;
    assert_eq!(standing(&etcd, &two).await.0, kratos("pay", "2", "http://10.0.0.2:80"));

    browser.goto(&format!("{}/services/pay?key={one}", server.origin())).await;
    browser.click("[data-testid=\"undrain\"]").await;
    // This page does not know the weight before: without one it is 100.
    stands_as(&etcd, &one, &value.replace(r#","weight":"30""#, ""), lease).await;
    browser.click("[data-testid=\"drain\"]").await;
    let drained = value.replace("30", "0");
    eventually("it is drained again", soon(), || async {
        let value = standing(&etcd, &one).await.0;
        if value.contains(r#""weight":"0""#) { Ok(()) } else { Err(value) }
    })
    .await;
    browser.click("[data-testid=\"undo\"]").await;
    stands_as(&etcd, &one, &value.replace(r#","weight":"30""#, ""), lease).await;
    assert_ne!(drained, standing(&etcd, &one).await.0);
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_taken_out_of_three_services_at_once() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    for service in ["mail", "order", "pay"] {
        put(&etcd, service, &["1", "2", "3"], lease).await;
    }
    etcd.delete(&key("pay", "1")).await;
    etcd.delete(&key("pay", "3")).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.type_into("input[type=\"search\"]", "10.0.0.2").await;
    browser.find(&instance(&key("pay", "2"), "live")).await;
    browser.vanishes(&instance(&key("pay", "1"), ""), soon()).await;
    // By mouse: one box, then with shift all up to another row. Escape lets go of them.
    let press = "const [key, shiftKey] = arguments;\
        const row = [...document.querySelectorAll('[data-testid=instance]')].find(row => row.dataset.key === key);\
        row.querySelector(shiftKey ? 'td:nth-child(2)' : '[data-pick]').dispatchEvent(\
          new MouseEvent('click', {bubbles: true, cancelable: true, shiftKey}));";
    browser.script(press, vec![json!(key("mail", "2")), json!(false)]).await;
    says(&browser, "[data-testid=\"selection\"]", "1 selected").await;
    browser.script(press, vec![json!(key("pay", "2")), json!(true)]).await;
    says(&browser, "[data-testid=\"selection\"]", "3 selected").await;
    assert_eq!(browser.location().await, "/?q=10.0.0.2", "a click with shift opens nothing");
    browser.click("main").await;
    browser.press_keys(&["Escape"]).await;
    browser.vanishes("[data-testid=\"selection\"]", soon()).await;

    browser.press_keys(&["j", "x"]).await;
    says(&browser, "[data-testid=\"selection\"]", "1 selected").await;
    browser.click("[data-testid=\"select-all\"]").await;
    says(&browser, "[data-testid=\"selection\"]", "3 selected").await;
    browser.click_button("[data-testid=\"selection\"]", "Deregister").await;
    let text = says(&browser, DIALOG, "Deregister 3 instances?").await;
    for part in ["mail 1 of 3", "order 1 of 3", "pay 1 of 1", "restarts", "type: pay"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!browser.find(CONFIRM).await.is_enabled().await.unwrap(), "the last one of pay is guarded");
    browser.type_into("[data-testid=\"confirm-name\"]", "pay").await;
    browser.screenshot("acts-batch").await;

    // One of them changes meanwhile: the others go, and it says why it did not.
    let changed = kratos("order", "2", "http://10.0.0.2:80").replace("v1", "v9");
    etcd.put_leased(&key("order", "2"), changed.clone(), lease).await;
    browser.click(CONFIRM).await;
    says(&browser, "[data-outcome=\"failed\"]", "v1 → v9").await;
    assert_eq!(browser.count("[data-outcome=\"done\"]").await, 2);
    browser.screenshot("acts-batch-one-failed").await;
    assert_eq!(
        etcd.keys("/microservices/").await,
        ["mail/1", "mail/3", "order/1", "order/2", "order/3"].map(|rest| { format!("/microservices/{rest}") })
    );
    browser.click(CONFIRM).await;
    etcd.key_stands(&key("order", "2"), false, soon()).await;
    browser.vanishes(DIALOG, soon()).await;
    says(&browser, TOASTS, "3 instances").await;
    browser.vanishes("[data-testid=\"selection\"]", soon()).await;
    assert_eq!(browser.count("[data-testid=\"undo\"]").await, 1, "one click takes back all of it");
    browser.press_keys(&["z"]).await;
    for (service, value) in [("mail", None), ("order", Some(changed)), ("pay", None)] {
        let value = value.unwrap_or_else(|| kratos(service, "2", "http://10.0.0.2:80"));
        stands_as(&etcd, &key(service, "2"), &value, lease).await;
    }
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_be_done_without_a_mouse() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    let many: Vec<String> = (0..200).map(|number| format!("{number:03}")).collect();
    for id in &many {
        etcd.put_leased(&key("big", id), kratos("big", id, "http://10.1.0.1:80"), lease).await;
    }
    put(&etcd, "pay", &["1", "2", "3"], lease).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.find("[data-testid=\"status\"][data-state=\"live\"]").await;

    // To a service by the palette, to an instance by its rows, past what is drawn.
    browser.press_keys(&["Control+k"]).await;
    focus_is(&browser, "INPUT palette").await;
    browser.press_keys(&["b", "i", "g"]).await;
    browser
        .text_that("big comes first", "[role=\"option\"][aria-selected=\"true\"]", soon(), |text| {
            text.contains("big") && text.contains("200 instances")
        })
        .await;
    browser.screenshot("acts-palette").await;
    browser.press_keys(&["Enter"]).await;
    browser.find(&instance(&key("big", "000"), "live")).await;
    browser.vanishes(DIALOG, soon()).await;
    for _ in 0..150 {
        browser.press_keys(&["j"]).await;
    }
    focus_is(&browser, "A 149").await;

    // Find, open, edit.
    browser.press_keys(&["/"]).await;
    focus_is(&browser, "INPUT q").await;
    browser.press_keys(&["Escape", ":"]).await;
    focus_is(&browser, "INPUT palette").await;
    browser.press_keys(&["p", "a", "y", "Enter"]).await;
    browser.find(&instance(&key("pay", "2"), "live")).await;
    browser.press_keys(&["j", "j"]).await;
    focus_is(&browser, "A 2").await;
    browser.press_keys(&["Enter"]).await;
    browser.find("[data-testid=\"edit\"]").await;
    browser.press_keys(&["e"]).await;
    focus_is(&browser, "INPUT weight").await;
    browser.press_keys(&["5", "0", "Enter"]).await;
    let edited = kratos("pay", "2", "http://10.0.0.2:80").replace(r#"{"zone":"a"}"#, r#"{"weight":"50","zone":"a"}"#);
    stands_as(&etcd, &key("pay", "2"), &edited, lease).await;
    browser.vanishes("form", soon()).await;
    browser.press_keys(&["Escape"]).await;
    browser.vanishes(".sheet", soon()).await;
    focus_is(&browser, "A 2").await;

    // Take it out; the focus stays where it was, then goes to the next row.
    browser.press_keys(&["d"]).await;
    focus_is(&browser, "BUTTON cancel").await;
    browser.press_keys(&["Tab", "Enter"]).await;
    etcd.key_stands(&key("pay", "2"), false, soon()).await;
    browser.vanishes(DIALOG, soon()).await;
    focus_is(&browser, "A 2").await;
    browser.vanishes(&instance(&key("pay", "2"), "gone"), rollcall_tests::seconds(40)).await;
    focus_is(&browser, "A 3").await;
    browser.press_keys(&["z"]).await;
    stands_as(&etcd, &key("pay", "2"), &edited, lease).await;

    // All keys are told, and Escape gives the focus back.
    browser.press_keys(&["?"]).await;
    says(&browser, DIALOG, "undo").await;
    browser.screenshot("acts-keys").await;
    browser.press_keys(&["Escape"]).await;
    browser.vanishes(DIALOG, soon()).await;
    focus_is(&browser, "A 3").await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_under_an_edit_is_shown_beside_what_was_typed() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    put(&etcd, "pay", &["1", "2"], lease).await;
    let server = Server::start(&etcd).await;
    let one = key("pay", "1");
    let browser = Browser::open_at(&server, &format!("/services/pay?key={one}")).await;
    browser.click("[data-testid=\"edit\"]").await;
    browser.fill("weight", "x").await;
    says(&browser, "#why-weight", "whole number").await;
    browser.fill("weight", "7").await;
    browser.type_into("[name=\"metadata\"]", "\nowner=me").await;

    // It is closed by mistake: what was typed is still there.
    browser.press_keys(&["Escape"]).await;
    browser.vanishes("form", soon()).await;
    browser.click("[data-testid=\"edit\"]").await;
    browser.find(".kept").await;
    assert_eq!(typed(&browser, "weight").await, "7");

    let theirs = kratos("pay", "1", "http://10.0.0.1:80");
    let theirs = theirs.replace("v1", "v2").replace(r#"{"zone":"a"}"#, r#"{"zone":"b","weight":"55"}"#);
    etcd.put_leased(&one, theirs.clone(), lease).await;
    browser.click("[data-testid=\"submit\"]").await;
    let text = says(&browser, ".conflict", "revision").await;
    for part in ["3 fields", "v1 → v2", "zone a → b", "nothing → 55"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    says(&browser, ".dispute", "55").await;
    browser.screenshot("acts-edit-conflict").await;
    assert_eq!(standing(&etcd, &one).await.0, theirs, "nothing was written over it");
    assert_eq!(typed(&browser, "weight").await, "7", "what was typed stays");
    assert_eq!(typed(&browser, "version").await, "v2", "what was not is taken over");
    browser.click("[data-testid=\"keep\"]").await;
    browser.click("[data-testid=\"submit\"]").await;
    eventually("both changes stand", soon(), || async {
        let (value, of) = standing(&etcd, &one).await;
        let value: Value = serde_json::from_str(&value).unwrap();
        let expected = json!({"zone": "b", "weight": "7", "owner": "me"});
        if value["metadata"] == expected && value["version"] == "v2" && of == lease { Ok(()) } else { Err(value) }
    })
    .await;
    says(&browser, TOASTS, "was changed").await;
    browser.press_keys(&["z"]).await;
    stands_as(&etcd, &one, &theirs, lease).await;
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_form_and_the_server_find_wrong_stands_at_its_field() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open(&server).await;
    browser.click("[data-testid=\"register\"]").await;
    browser.fill("name", "a/b").await;
    says(&browser, "#why-name", "must not contain").await;
    browser.fill("name", "typed").await;
    says(&browser, "#why-name", "").await;
    browser.fill("endpoints", "10.0.0.9:80").await;
    says(&browser, "#why-endpoints", "absolute URL").await;
    browser.click("[data-testid=\"submit\"]").await;
    focus_is(&browser, "TEXTAREA endpoints").await;

    // Closed and opened again, it has what was typed.
    browser.press_keys(&["Escape"]).await;
    browser.vanishes("form", soon()).await;
    browser.press_keys(&["r"]).await;
    browser.find(".kept").await;
    assert_eq!(typed(&browser, "endpoints").await, "10.0.0.9:80");

    // This server watches no prefix of that layout: only it can know.
    browser.click("[name=\"layout\"]").await;
    let choose = "const it = document.querySelector('[name=layout]'); it.value = 'grpc';\
        it.dispatchEvent(new Event('change', {bubbles: true}));";
    browser.script(choose, vec![]).await;
    eventually("what the layout has no place for is not offered", soon(), || async {
        let shown = browser.find("[name=\"version\"]").await.is_displayed().await;
        if matches!(shown, Ok(false)) { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
    browser.click("[data-testid=\"submit\"]").await;
    says(&browser, "#why-layout", "--watch grpc=PREFIX").await;
    focus_is(&browser, "SELECT layout").await;
    browser.screenshot("acts-form").await;
    assert_eq!(etcd.keys("").await, Vec::<String>::new(), "nothing was written");
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("422")), "{complaints:?}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_back_by_itself_is_told_of() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(300).await;
    let key = "zero/user.rpc/7587870";
    etcd.put_leased(key, "10.0.0.1:80", lease).await;
    etcd.put_leased("zero/user.rpc/7587871", "10.0.0.2:80", lease).await;
    let server = Server::start_with(&etcd, &["--watch", "go-zero=zero/"]).await;
    let browser = Browser::open_at(&server, "/services/user.rpc").await;
    browser.click_button(&instance(key, "live"), "Deregister").await;
    says(&browser, DIALOG, "comes back at once").await;
    browser.click(CONFIRM).await;
    etcd.key_stands(key, false, soon()).await;
    says(&browser, TOASTS, "was deregistered").await;
    // What a go-zero program does as soon as its key is gone.
    etcd.put_leased(key, "10.0.0.1:80", lease).await;
    let text = says(&browser, TOASTS, "is back under the same key and lease").await;
    assert!(text.contains("its program"), "{text}");
    browser.find(&instance(key, "live")).await;
    browser.vanishes("[data-testid=\"undo\"]", soon()).await;
    browser.screenshot("acts-back-by-itself").await;
    browser.has_clean_console().await;
    browser.close().await;
}
