//! How the page looks and reads: on a phone, in Chinese, while etcd is away, and with the worst that anybody may register.
//! One story each, with pictures in `target/stories`.

use rollcall_tests::{
    Browser, Etcd, Server,
    browser::{Options, instance, service, soon},
    eventually, kratos, seconds,
};
use serde_json::{Value, json};

/// Buttons, fields and links too small for a finger. A row is a target as a whole, and so is its link; a link in running
/// text is as small as its text.
const SMALL_TARGETS: &str = "const seen = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true});\
    const all = [...document.querySelectorAll('button, input, select, textarea, a[href]')].filter(seen);\
    const whole = element => element.closest('tr[data-testid]') && element.matches('a') ? element.closest('tr') :\
      element.matches('input[type=radio], input[type=checkbox]') ? element.closest('label') ?? element : element;\
    const small = all.filter(element => !element.closest('.feed p, .hidden')).map(whole).filter(element => {\
      const box = element.getBoundingClientRect();\
      return box.width > 0 && (box.width < 43.5 || box.height < 43.5);\
    });\
    return small.map(element => `${element.getBoundingClientRect().width}x${element.getBoundingClientRect().height} ` +\
      element.outerHTML.slice(0, 160));";

/// What the page says, seen or read out, without what others wrote: evidence, which the server says in English, and what
/// is marked as another language.
const SAID: &str = "const parts = [];\
    const theirs = '.evidence, pre, .prefixes, [lang=en], script, style, [hidden]';\
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);\
    while (texts.nextNode()) {\
      const holder = texts.currentNode.parentElement;\
      if (!holder.closest(theirs) && holder.checkVisibility()) parts.push(texts.currentNode.data);\
    }\
    for (const element of document.querySelectorAll('[aria-label], [title], [placeholder]')) {\
      if (!element.closest(theirs + ', [data-testid=cause]')) {\
        for (const name of ['aria-label', 'title', 'placeholder']) parts.push(element.getAttribute(name) ?? '');\
      }\
    }\
    return parts.join('\\n');";

/// Names, and what stands for itself in every language.
const NO_WORDS: [&str; 24] = [
    "rollcall", "etcd", "kratos", "go", "micro", "zero", "kit", "kitex", "hertz", "grpc", "http", "https", "url",
    "ttl", "id", "host", "port", "key", "value", "zone", "rust", "curl", "state", "late",
];

async fn says_no_english(browser: &Browser, place: &str) {
    let said = browser.script(SAID, vec![]).await;
    let said = said.as_str().unwrap_or_default();
    let is_ours = |word: &&str| {
        word.len() > 1 && !word.contains(char::is_numeric) && !NO_WORDS.contains(&word.to_lowercase().as_str())
    };
    let lines = said.lines().filter(|line| !line.contains("/microservices/") && *line != "rollcall register");
    let english: Vec<&str> =
        lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_ours)).collect();
    assert!(english.is_empty(), "{place}: {english:?} in {said}");
    assert!(said.contains("服务"), "{place} is in Chinese: {said}");
}

async fn fits_a_finger(browser: &Browser, place: &str) {
    browser.scroll_width_fits().await;
    let small = browser.script(SMALL_TARGETS, vec![]).await;
    assert_eq!(small, json!([]), "{place}: what is touched is at least 44 px");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_phone_the_bad_one_is_found_opened_and_taken_out() {
    let etcd = Etcd::spawn().await;
    for id in ["1", "2", "3"] {
        etcd.put(&format!("/microservices/pay/{id}"), kratos("pay", id, &format!("http://10.0.0.{id}:80"))).await;
    }
    etcd.put("/microservices/mail/1", kratos("mail", "1", "http://10.0.1.1:80")).await;
    let server = Server::start(&etcd).await;
    let phone = Browser::open_with(&server, "/", Options::phone()).await;
    phone.find(&service("pay")).await;
    fits_a_finger(&phone, "the overview").await;
    phone.screenshot("phone-overview").await;

    phone.find("input[type=\"search\"]").await.send_keys("10.0.0.2").await.unwrap();
    let row = instance("/microservices/pay/2", "");
    phone.find(&row).await;
    phone.vanishes(&instance("/microservices/pay/1", ""), soon()).await;
    fits_a_finger(&phone, "what was found").await;
    phone.screenshot("phone-found").await;

    phone.click(&format!("{row} a")).await;
    phone.find(".sheet").await;
    fits_a_finger(&phone, "the details").await;
    phone.screenshot("phone-details").await;
    phone.click_button(".sheet", "Deregister").await;
    phone.find("[role=\"dialog\"]").await;
    fits_a_finger(&phone, "the question").await;
    phone.screenshot("phone-question").await;
    phone.click("[data-testid=\"confirm\"]").await;
    phone.find(&instance("/microservices/pay/2", "gone")).await;
    etcd.key_stands("/microservices/pay/2", false, soon()).await;
    phone.has_clean_console().await;
    phone.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_said_in_chinese_and_again_in_english() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_with(&server, "/", Options { lang: "zh-CN", ..Options::default() }).await;
    browser.text_that("nothing is there yet", "main", soon(), |text| text.contains("还没有")).await;
    browser.find(".snippet pre").await;
    says_no_english(&browser, "the empty page").await;
    browser.screenshot("chinese-empty").await;

    // Names of digits, so that every letter on the page is one of ours.
    let numbered = |id: &str| {
        json!({"id": id, "name": "7", "version": "1.2", "metadata": {"zone": "3"}, "endpoints": [format!("http://10.0.0.{id}:80")]}).to_string()
    };
    for id in ["1", "2", "3", "4"] {
        let lease = etcd.grant(60).await;
        etcd.put_leased(&format!("/microservices/7/{id}"), numbered(id), lease).await;
    }
    etcd.put("/microservices/7/5", "{").await;
    let row = instance("/microservices/7/1", "live");
    browser.click(&service("7")).await;
    browser.find(&row).await;
    etcd.delete("/microservices/7/4").await;
    browser.find(&format!("{} [data-testid=\"cause\"] b", instance("/microservices/7/4", "gone"))).await;
    says_no_english(&browser, "a service").await;
    browser.screenshot("chinese-service").await;
    browser.click(".brand").await;
    browser.find(".page h1").await;
    says_no_english(&browser, "the overview").await;
    browser.screenshot("chinese-overview").await;
    browser.click(&service("7")).await;
    browser.click(&format!("{row} .c-id a")).await;
    browser.find(".sheet dl").await;
    says_no_english(&browser, "the details").await;
    browser.screenshot("chinese-details").await;
    browser.click_button(".sheet", "注销").await;
    browser.find("[role=\"dialog\"]").await;
    says_no_english(&browser, "the question").await;
    browser.click("[data-testid=\"cancel\"]").await;
    browser.press_keys(&["Escape"]).await;
    browser.click("[data-testid=\"register\"]").await;
    browser.find("[name=\"name\"]").await;
    says_no_english(&browser, "the form").await;
    browser.screenshot("chinese-form").await;
    browser.press_keys(&["Escape"]).await;

    // The other language, at once, and nothing is lost.
    browser.find("input[type=\"search\"]").await.send_keys("10.0.0.2").await.unwrap();
    browser.find(&instance("/microservices/7/2", "live")).await;
    browser.click("button.language").await;
    browser.text_that("it speaks English", ".side h2", soon(), |text| text.starts_with("Services")).await;
    let state =
        "return [document.documentElement.lang, document.querySelector('input[type=search]').value, location.search]";
    assert_eq!(browser.script(state, vec![]).await, json!(["en", "10.0.0.2", "?q=10.0.0.2"]));
    browser.find(&instance("/microservices/7/2", "live")).await;
    browser.client.refresh().await.unwrap();
    browser.text_that("it still does", ".side h2", soon(), |text| text.starts_with("Services")).await;
    browser.click("button.language").await;
    browser.text_that("and Chinese again", ".side h2", soon(), |text| text.starts_with("服务")).await;
    assert_eq!(browser.script(state, vec![]).await, json!(["zh-CN", "10.0.0.2", "?q=10.0.0.2"]));
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_away_the_last_that_was_known_stays_with_its_age() {
    let mut etcd = Etcd::spawn().await;
    etcd.fill("pay", 3).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_with(&server, "/services/pay", Options { dark: true, ..Options::default() }).await;
    browser.find("[data-testid=\"instance\"][data-state=\"live\"]").await;
    let rows = browser.count("[data-testid=\"instance\"]").await;
    etcd.kill();
    browser.find("[data-testid=\"status\"][data-state=\"unreachable\"]").await;
    browser.find(".app[data-stale]").await;
    let said = browser
        .text_that("its age is said", "[data-testid=\"status\"]", soon(), |text| {
            text.contains("showing what was true at")
        })
        .await;
    assert!(said.contains("etcd away for"), "{said}");
    assert_eq!(browser.count("[data-testid=\"instance\"]").await, rows, "what was known stays");
    browser.screenshot("away-dark").await;
    etcd.start().await;
    browser.find("[data-testid=\"status\"][data-state=\"live\"]").await;
    browser.vanishes(".app[data-stale]", soon()).await;
    assert_eq!(browser.text("[data-testid=\"status\"]").await.trim(), "live");
    browser.close().await;
}

/// What somebody may put into a value, to see whether the page takes it for more than text.
fn payloads() -> Vec<String> {
    let mut payloads: Vec<String> = [
        "<script>window.hacked=1</script>",
        "<img src=x onerror=\"window.hacked=1\">",
        "<svg/onload=window.hacked=1>",
        "\"><script>window.hacked=1</script>",
        "' onmouseover='window.hacked=1",
        "\" autofocus onfocus=\"window.hacked=1",
        "javascript:window.hacked=1",
        "JaVaScRiPt:window.hacked=1",
        "data:text/html,<script>window.hacked=1</script>",
        "</td></tr></table><h1>out</h1>",
        "<!--",
        "]]>",
        "<base href=//example.invalid>",
        "<meta http-equiv=refresh content=0;url=//example.invalid>",
        "<style>*{display:none}</style>",
        "<iframe srcdoc='<script>parent.hacked=1</script>'>",
        "{{constructor.constructor('window.hacked=1')()}}",
        "${window.hacked=1}",
        "{0}{1}{2}",
        "%3Cscript%3Ewindow.hacked=1%3C/script%3E",
        "&lt;script&gt;window.hacked=1&lt;/script&gt;",
        "__proto__",
        "constructor",
        "\u{202e}txt.exe\u{202c}",
        "\u{200b}\u{200d}\u{feff}\u{2060}",
        "a\u{0}b\u{1}c\u{8}d\u{7f}e",
        "line\nbreak\r\n\ttab",
        "👩‍👩‍👧‍👦🏳️‍🌈 🇨🇳 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    ]
    .map(str::to_owned)
    .to_vec();
    payloads.push("w".repeat(10_000));
    payloads.push("مرحبا بالعالم ".repeat(400));
    payloads
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_that_anybody_registers_is_text() {
    let etcd = Etcd::spawn().await;
    let payloads = payloads();
    assert_eq!(payloads.len(), 30);
    for (number, payload) in payloads.iter().enumerate() {
        let mut metadata = serde_json::Map::from_iter([("zone".to_owned(), Value::from(payload.clone()))]);
        metadata.insert(payload.clone(), Value::from(payload.clone()));
        let value = json!({
            "id": payload, "name": "evil", "version": payload, "metadata": metadata,
            "endpoints": [format!("http://{payload}"), payload],
        });
        etcd.put(&format!("/microservices/evil/{number}"), value.to_string()).await;
    }
    // What may stand in a key is no less.
    for (number, payload) in payloads.iter().enumerate().filter(|(_, payload)| payload.len() < 200) {
        let name = payload.replace('/', "∕");
        etcd.put(&format!("/microservices/{name}/{number}"), kratos(&name, "1", "http://10.0.0.1:80")).await;
    }
    let server = Server::start(&etcd).await;
    let browser = Browser::open_with(&server, "/", Options::default()).await;
    browser.find(&service("evil")).await;
    let harm = "return [typeof window.hacked, document.querySelectorAll('main img, main script, main iframe, main style, main svg:not([aria-hidden])').length,\
        [...document.querySelectorAll('a')].filter(a => !a.href.startsWith(location.origin)).length,\
        document.querySelectorAll('h1').length <= 1, document.baseURI.startsWith(location.origin)]";
    let harmless = json!(["undefined", 0, 0, true, true]);
    for (width, height, place) in [(1400, 900, "wide"), (390, 844, "narrow")] {
        browser.resize(width, height, width < 700).await;
        browser.goto(&server.origin()).await;
        browser.find(&service("evil")).await;
        assert_eq!(browser.script(harm, vec![]).await, harmless, "the overview, {place}");
        browser.scroll_width_fits().await;
        browser.screenshot(&format!("hostile-overview-{place}")).await;
        browser.goto(&format!("{}/services/evil", server.origin())).await;
        browser.find("[data-testid=\"instance\"]").await;
        let heights = "const heights = [...document.querySelectorAll('tr[data-testid]')].map(row => row.offsetHeight);\
            return [...new Set(heights)]";
        let heights_seen = browser.script(heights, vec![]).await;
        assert_eq!(
            heights_seen.as_array().map(Vec::len),
            Some(1),
            "every row is as high as the others: {heights_seen}"
        );
        assert_eq!(browser.script(harm, vec![]).await, harmless, "a service, {place}");
        browser.scroll_width_fits().await;
        browser.screenshot(&format!("hostile-service-{place}")).await;
        for number in [0, 6, 23, 27, 28, 29] {
            browser.goto(&format!("{}/services/evil?key=%2Fmicroservices%2Fevil%2F{number}", server.origin())).await;
            browser.find(".sheet dl").await;
            assert_eq!(browser.script(harm, vec![]).await, harmless, "details of {number}, {place}");
            browser.scroll_width_fits().await;
        }
        browser.screenshot(&format!("hostile-details-{place}")).await;
    }
    // Its metadata can be a column.
    browser.resize(1400, 900, false).await;
    browser.goto(&format!("{}/services/evil", server.origin())).await;
    browser.find("[data-testid=\"instance\"]").await;
    let choose = "const select = document.querySelector('th select'); select.dispatchEvent(new Event('pointerenter'));\
        return new Promise(done => setTimeout(() => {\
          select.value = '__proto__'; select.dispatchEvent(new Event('change', {bubbles: true})); done(select.value) }, 300))";
    assert_eq!(browser.script(choose, vec![]).await, json!("__proto__"));
    browser.scroll_width_fits().await;
    assert_eq!(browser.script(harm, vec![]).await, harmless, "a chosen column");
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_said_aloud_and_who_left_is_folded_away() {
    let etcd = Etcd::spawn().await;
    etcd.fill("big", 3).await;
    let left = etcd.fill("small", 2).await.remove(0);
    let server = Server::start(&etcd).await;
    let browser = Browser::open_with(&server, "/services/small", Options::default()).await;
    browser.find("[data-testid=\"instance\"]").await;
    browser.find("[data-testid=\"said\"]").await;
    etcd.delete(&left).await;
    browser.find(&instance(&left, "gone")).await;
    let said = "return document.querySelector('[data-testid=said]').textContent";
    eventually("it is said aloud", soon(), || async {
        let said = browser.script(said, vec![]).await;
        if said == json!("small: 1 left") { Ok(()) } else { Err(said) }
    })
    .await;
    browser.vanishes(&instance(&left, ""), seconds(40)).await;
    let line = "[data-testid=\"folded\"]";
    browser.text_that("it is folded away", line, soon(), |text| text.contains("Recently gone (1)")).await;
    browser.click(line).await;
    browser
        .text_that("why it left is kept", ".folded li", soon(), |text| {
            text.contains("deregistered") || text.contains("vanished")
        })
        .await;
    browser.screenshot("folded").await;

    let first = "return document.querySelector('[data-testid=service]').dataset.service";
    assert_eq!(browser.script(first, vec![]).await, json!("big"), "by name");
    let choose = "const order = document.querySelector('.side select'); order.value = 'changed'; order.dispatchEvent(new Event('change'))";
    browser.script(choose, vec![]).await;
    eventually("what changed last is first", soon(), || async {
        let first = browser.script(first, vec![]).await;
        if first == json!("small") { Ok(()) } else { Err(first) }
    })
    .await;
    browser.client.refresh().await.unwrap();
    browser.find(&service("big")).await;
    let order = "return document.querySelector('.side select').value";
    assert_eq!(browser.script(order, vec![]).await, json!("changed"), "it is remembered");
    browser.has_clean_console().await;
    browser.close().await;
}
