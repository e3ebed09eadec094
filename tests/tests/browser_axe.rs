//! What axe-core, the rules that Lighthouse and most audits use, finds wrong with the page: nothing, in any of its
//! places, themes, widths and languages.
//!
//! `cargo xtask test browser_axe` fetches axe-core and names it in `ROLLCALL_AXE`.

use std::{collections::BTreeMap, env, fs, time::Duration};

use rollcall_tests::{
    Browser, Etcd, Server,
    browser::{Options, instance, service, soon},
    eventually, kratos, seconds,
};
use serde_json::json;

/// The TTL of a lease that is renewed just before it runs out, so that its renewal is overdue half of the time.
const LATE_TTL_S: u64 = 30;

/// How long a renewal takes to be overdue, and to be seen so.
const LATE_MAX: Duration = seconds(60);

/// Every rule, those of WCAG 2.2 that are off by default too. Only violations are asked for; the rest costs time.
const RUN: &str = "const [options, done] = arguments;\
    axe.run(document, options).then(\
      found => done(found.violations.flatMap(rule => rule.nodes.map(node => \
        [`${rule.id} (${rule.impact}): ${rule.help}`, node.target.join(' '), \
         (node.any[0] || node.all[0] || node.none[0] || {message: ''}).message]))),\
      error => done([['axe failed', '', String(error)]]));";

/// Looks at the page, and keeps what is wrong.
struct Eye<'a> {
    browser: &'a Browser,
    options: Options,
    axe: String,
    /// What is wrong, and where it is seen.
    found: BTreeMap<[String; 3], Vec<String>>,
}

impl<'a> Eye<'a> {
    fn new(browser: &'a Browser, options: Options) -> Self {
        let file = env::var("ROLLCALL_AXE").expect(
            "ROLLCALL_AXE names no axe.min.js: `cargo xtask test browser_axe` fetches it, or `npm pack axe-core` does",
        );
        let axe = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        Self { browser, options, axe, found: BTreeMap::new() }
    }

    /// Looks at what stands there now, in both themes.
    async fn look(&mut self, place: &str) {
        let is_there = self.browser.script("return typeof window.axe === 'object'", vec![]).await;
        if is_there != json!(true) {
            self.browser.client.execute(&self.axe, vec![]).await.expect("axe-core is a script");
        }
        for (theme, dark) in [("light", false), ("dark", true)] {
            self.browser.dress(dark, true).await;
            let options = json!({ "resultTypes": ["violations"], "rules": { "target-size": { "enabled": true } } });
            let found = self.browser.client.execute_async(RUN, vec![options]).await.expect("axe-core runs");
            let found: Vec<[String; 3]> = serde_json::from_value(found).expect("the script gives triples of text");
            for wrong in found {
                self.found.entry(wrong).or_default().push(format!("{place}, {theme}"));
            }
            let Options { width, lang, .. } = self.options;
            self.browser.screenshot(&format!("axe-{place}-{width}-{lang}-{theme}")).await;
        }
    }

    /// Fails with all that is wrong.
    fn nothing_is_wrong(self) {
        let Options { width, lang, .. } = self.options;
        let lines: Vec<String> = self
            .found
            .iter()
            .map(|([rule, selector, why], places)| {
                format!("{rule}\n    at {selector}\n    in {}\n    {why}", places.join("; "))
            })
            .collect();
        assert!(lines.is_empty(), "{} things wrong at {width} px in {lang}:\n{}", lines.len(), lines.join("\n"));
    }
}

/// Walks through the page as someone with such a window would.
async fn nothing_is_wrong_in(options: Options) {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_with(&server, "/", Options { still: true, ..options }).await;
    let mut eye = Eye::new(&browser, options);
    browser.find("[data-testid=\"status\"][data-state=\"live\"]").await;
    eye.look("empty").await;

    let lease = etcd.grant(i64::try_from(LATE_TTL_S).expect("it is small")).await;
    let mut leases = etcd.client().await;
    let renewals = tokio::spawn(async move {
        let (mut keeper, mut answers) = leases.lease_keep_alive(lease).await.expect("etcd renews leases");
        loop {
            tokio::time::sleep(seconds(LATE_TTL_S - 3)).await;
            keeper.keep_alive().await.expect("etcd renews leases");
            answers.message().await.expect("etcd renews leases");
        }
    });
    let value = |id: &str| kratos("pay", id, &format!("grpc://10.0.0.{id}:9000"));
    etcd.put_leased("/microservices/pay/1", value("1"), lease).await;
    let long = etcd.grant(3_600).await;
    for id in ["2", "3", "4", "5"] {
        etcd.put_leased(&format!("/microservices/pay/{id}"), value(id), long).await;
    }
    etcd.put("/microservices/pay/permanent", kratos("pay", "permanent", "http://10.0.0.9:80")).await;
    etcd.put("/microservices/pay/junk", "{\"id\":").await;
    etcd.put(
        "kitex/registry-etcd/cart/10.0.0.8:80",
        r#"{"network":"tcp","address":"10.0.0.8:80","weight":10,"tags":null}"#,
    )
    .await;
    browser.goto(&format!("{}/", server.origin())).await;
    browser.find(&service("pay")).await;
    eye.look("overview").await;

    browser.type_into("input[type=\"search\"]", "nosuchthing").await;
    browser.vanishes(&service("pay"), soon()).await;
    eye.look("nothing-found").await;

    browser.goto(&format!("{}/", server.origin())).await;
    browser.find(&service("pay")).await;
    browser.click("[data-testid=\"register\"]").await;
    browser.find("[data-testid=\"submit\"]").await;
    eye.look("form").await;

    browser.goto(&format!("{}/services/pay", server.origin())).await;
    browser.find(&instance("/microservices/pay/junk", "")).await;
    eventually("a renewal is overdue", LATE_MAX, || async {
        let late = browser.count(&instance("/microservices/pay/1", "late")).await;
        if late > 0 { Ok(()) } else { Err(browser.text("body").await) }
    })
    .await;
    etcd.delete("/microservices/pay/5").await;
    let gone = instance("/microservices/pay/5", "gone");
    browser.text_that("it is gone", &format!("{gone} [data-testid=\"cause\"]"), soon(), |text| !text.is_empty()).await;
    eye.look("service").await;

    let here = browser.location().await;
    browser.press_keys(&["j", "Enter"]).await;
    eventually("the details have an address of their own", soon(), || async {
        let there = browser.location().await;
        if there == here { Err(there) } else { Ok(()) }
    })
    .await;
    eye.look("details").await;

    browser.press_keys(&["d"]).await;
    browser.find("[role=\"dialog\"]").await;
    eye.look("dialog").await;

    browser.press_keys(&["Escape", "e"]).await;
    browser.find("[data-testid=\"edit\"] [name=\"metadata\"]").await;
    eye.look("edit").await;
    browser.press_keys(&["Escape"]).await;
    browser.vanishes("form", soon()).await;
    browser.press_keys(&["Escape"]).await;
    browser.vanishes(".sheet", soon()).await;
    browser.press_keys(&["x", "j", "x"]).await;
    browser.find("[data-testid=\"selection\"]").await;
    eye.look("selection").await;
    for (key, place) in [("d", "batch"), (":", "palette"), ("?", "keys")] {
        browser.press_keys(&[key]).await;
        browser.find("[role=\"dialog\"]").await;
        eye.look(place).await;
        browser.press_keys(&["Escape"]).await;
        browser.vanishes("[role=\"dialog\"]", soon()).await;
    }

    browser.has_clean_console().await;
    renewals.abort();
    eye.nothing_is_wrong();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_wrong_on_a_desk() {
    nothing_is_wrong_in(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_wrong_on_a_phone() {
    nothing_is_wrong_in(Options::phone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_wrong_on_a_desk_in_chinese() {
    nothing_is_wrong_in(Options { lang: "zh-CN", ..Options::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_wrong_on_a_phone_in_chinese() {
    nothing_is_wrong_in(Options { lang: "zh-CN", ..Options::phone() }).await;
}
