//! The table of instances in a real browser: what did not change is not touched, and long lists stay short pages.

use rollcall_tests::{
    Browser, Etcd, Server,
    browser::{instance, soon},
    eventually, kratos,
};
use serde_json::{Value, json};

/// Notes the key of every row in which anything is touched but a time that ticks, and whatever else in the table is.
const WATCH: &str = "
    window.touched = new Set();
    const table = document.querySelector('main table');
    const note = node => {
        const element = node.nodeType === 1 ? node : node.parentElement;
        if (element && element.closest('time')) return;
        const row = element && element.closest('[data-testid=instance]');
        if (row) window.touched.add(row.dataset.key);
    };
    new MutationObserver(changes => {
        for (const change of changes) {
            if (change.type !== 'childList') { note(change.target); continue; }
            const nodes = [...change.addedNodes, ...change.removedNodes];
            // A row that comes or goes is a child of the table's body, not a touch of its neighbours.
            for (const node of nodes) note(node.parentElement ? node : (node.dataset ? node : change.target));
            if (change.target.closest && change.target.closest('[data-testid=instance]')) note(change.target);
        }
    }).observe(table, { subtree: true, childList: true, attributes: true, characterData: true });
    return document.querySelectorAll('[data-testid=instance]').length;";

fn value(id: u32, zone: &str) -> String {
    json!({"id": format!("{id:03}"), "name": "pay", "version": "v1", "metadata": {"zone": zone},
        "endpoints": [format!("http://10.0.0.{id}:80")]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_did_not_change_is_not_touched() {
    let etcd = Etcd::spawn().await;
    let lease = etcd.grant(3_600).await;
    let key = |id: u32| format!("/microservices/pay/{id:03}");
    for id in 0..24 {
        if id % 2 == 0 {
            etcd.put(&key(id), value(id, "a")).await;
        } else {
            etcd.put_leased(&key(id), value(id, "a"), lease).await;
        }
    }
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/pay").await;
    browser.find(&format!("{} [data-testid=\"ttl\"]", instance(&key(1), "live"))).await;
    let drawn = browser.script(WATCH, vec![]).await;
    assert!(drawn.as_u64().is_some_and(|rows| rows >= 20), "{drawn}");

    etcd.put(&key(4), value(4, "zone-b")).await;
    etcd.delete(&key(6)).await;
    etcd.put("/microservices/pay/0055", value(55, "new")).await;
    etcd.put("/microservices/other/1", kratos("other", "1", "http://10.0.1.1:80")).await;
    browser.find(&instance(&key(6), "gone")).await;
    browser.find(&instance("/microservices/pay/0055", "live")).await;
    browser.text_that("the change is shown", &instance(&key(4), ""), soon(), |text| text.contains("zone-b")).await;
    // Some rounds of the leases' times and of the clock pass.
    let ticks = "return [...document.querySelectorAll('[data-testid=ttl]')].map(time => time.textContent).join()";
    let before = browser.script(ticks, vec![]).await;
    eventually("the times tick on", soon(), || async {
        let now = browser.script(ticks, vec![]).await;
        if now == before { Err(now) } else { Ok(()) }
    })
    .await;
    let touched = browser.script("return [...window.touched].sort()", vec![]).await;
    let expected: Vec<Value> = vec![json!("/microservices/pay/004"), json!("/microservices/pay/0055"), json!(key(6))];
    assert_eq!(touched, json!(expected));
    browser.has_clean_console().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_table_is_scrolled_searched_and_sorted() {
    const INSTANCES: u32 = 5_000;
    let etcd = Etcd::spawn().await;
    etcd.fill("big", INSTANCES).await;
    let server = Server::start(&etcd).await;
    let browser = Browser::open_at(&server, "/services/big").await;
    browser.find("[data-testid=\"instance\"]").await;
    let count = "return Number(document.querySelector('main table')?.getAttribute('aria-rowcount'))";
    eventually("all are listed", soon(), || async {
        let rows = browser.script(count, vec![]).await;
        if rows == json!(INSTANCES) { Ok(()) } else { Err(rows) }
    })
    .await;
    let first_key = "return document.querySelector('[data-testid=instance]').dataset.key";
    let first = browser.script(first_key, vec![]).await;

    browser
        .script("const box = document.querySelector('main .scroll'); box.scrollTop = box.scrollHeight;", vec![])
        .await;
    eventually("the end of the table is drawn", soon(), || async {
        let rows = "const box = document.querySelector('main .scroll').getBoundingClientRect();
            const rows = [...document.querySelectorAll('[data-testid=instance]')];
            return [rows.length, rows.at(-1).getBoundingClientRect().bottom - box.bottom, rows[0].dataset.key];";
        let seen = browser.script(rows, vec![]).await;
        let is_end = seen[0].as_u64().is_some_and(|count| count < 200)
            && seen[1].as_f64().is_some_and(|below| below.abs() < 80.0)
            && seen[2] != first;
        if is_end { Ok(()) } else { Err(seen) }
    })
    .await;

    // The table is sorted the other way round, from where it stands.
    browser.click_button("main thead", "Id").await;
    browser.find("main th[aria-sort=\"ascending\"]").await;
    browser.click_button("main thead", "Id").await;
    browser.find("main th[aria-sort=\"descending\"]").await;
    browser.script("document.querySelector('main .scroll').scrollTop = 0;", vec![]).await;
    eventually("the last one is the first", soon(), || async {
        let now = browser.script(first_key, vec![]).await;
        if now == first { Err(now) } else { Ok(()) }
    })
    .await;

    // What is typed narrows, what is typed on narrows further, and an expression is one.
    let mut least = u64::from(INSTANCES);
    for typed in ["4", "9", "9"] {
        browser.type_into("input[type=search]", typed).await;
        least = eventually("fewer rows", soon(), || async {
            let rows = browser.script(count, vec![]).await.as_u64().unwrap_or_default();
            if rows > 0 && rows < least { Ok(rows) } else { Err(rows) }
        })
        .await;
    }
    browser.goto(&format!("{}/services/big?q=%2F49%5B0-9%5D%24%2F", server.origin())).await;
    eventually("the expression is looked for", soon(), || async {
        let rows = browser.script(count, vec![]).await.as_u64().unwrap_or_default();
        if rows > 0 && rows < 1_000 { Ok(()) } else { Err(rows) }
    })
    .await;
    browser.screenshot("rows-5000-expression").await;
    browser.has_clean_console().await;
    browser.close().await;
}
