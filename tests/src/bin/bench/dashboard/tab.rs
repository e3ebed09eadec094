//! One window on a measured page, with the probe in it.

use std::time::Duration;

use anyhow::Context as _;
use rollcall_tests::{Browser, browser::Options, eventually, seconds};
use serde_json::{Value, json};

use super::trace::{Trace, Tracer};

const PROBE: &str = include_str!("../../../../assets/probe.js");

/// Counts callbacks of clocks; only where that is measured, since it wraps them.
pub const TIMERS: &str = include_str!("../../../../assets/timers.js");

/// How long a page may take to get anywhere before it counts as stuck.
const PAGE_MAX: Duration = seconds(120);

/// A window on a page.
pub struct Tab {
    /// The browser of this window alone.
    pub browser: Browser,
    tracer: Tracer,
}

/// What the tab holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// JavaScript's heap, right after a collection.
    pub heap: f64,
    /// The memories of WebAssembly.
    pub wasm: f64,
}

impl Held {
    /// Both, in MiB.
    pub fn mib(self) -> f64 {
        (self.heap + self.wasm) / 1_048_576.0
    }
}

impl Tab {
    /// Opens an address in a new browser, with further scripts before the page's own.
    pub async fn open(url: &str, scripts: &[&str]) -> Self {
        let browser = Browser::launch(Options::default(), json!({})).await;
        for source in [&PROBE].into_iter().chain(scripts) {
            browser.cdp("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
        }
        browser.goto(url).await;
        Self { browser, tracer: Tracer::default() }
    }

    /// When the first row stood in the document: milliseconds since the navigation began, and since 1970.
    pub async fn first_row(&self) -> (f64, f64) {
        eventually("the first row stands", PAGE_MAX, || async {
            let seen = self.number_pair("return probe.first").await;
            seen.ok_or(())
        })
        .await
    }

    async fn number_pair(&self, script: &str) -> Option<(f64, f64)> {
        let seen = self.browser.script(script, vec![]).await;
        Some((seen.get(0)?.as_f64()?, seen.get(1)?.as_f64()?))
    }

    /// Waits until an instance's row shows a text, and gives how long that took.
    pub async fn shows(&self, key: &str, text: &str) -> Duration {
        let start = std::time::Instant::now();
        let script = "const row = document.querySelector(`[data-key=\"${CSS.escape(arguments[0])}\"]`);\
            return row ? row.textContent : null;";
        eventually(&format!("the page shows {text}"), PAGE_MAX, || async {
            let shown = self.browser.script(script, vec![json!(key)]).await;
            if shown.as_str().is_some_and(|shown| shown.contains(text)) { Ok(()) } else { Err(shown) }
        })
        .await;
        start.elapsed()
    }

    /// From now on frames are asked for, and all that the main thread does is traced.
    pub async fn watch(&mut self) {
        self.tracer.start(&self.browser).await;
        self.browser.script("probe.start()", vec![]).await;
    }

    /// Ends that: the trace, and the intervals of the frames in milliseconds.
    pub async fn watched(&self) -> anyhow::Result<(Trace, Vec<f64>)> {
        let frames = self.browser.script("return probe.stop()", vec![]).await;
        let trace = self.tracer.stop(&self.browser).await?;
        let frames: Vec<f64> = serde_json::from_value(frames).context("frames are numbers")?;
        Ok((trace, frames.windows(2).map(|pair| pair[1] - pair[0]).collect()))
    }

    /// Presses a character's key, as the keyboard of the window does.
    pub async fn key(&self, character: char) {
        let text = character.to_string();
        for (kind, text) in [("keyDown", text.as_str()), ("keyUp", "")] {
            let event = json!({ "type": kind, "key": character.to_string(), "text": text });
            self.browser.cdp("Input.dispatchKeyEvent", event).await;
        }
    }

    /// What the tab holds once all that can go has gone.
    pub async fn held(&self) -> anyhow::Result<Held> {
        self.browser.cdp("HeapProfiler.enable", json!({})).await;
        // The second collection takes what finalizers of the first let go of.
        for _ in 0..2 {
            self.browser.cdp("HeapProfiler.collectGarbage", json!({})).await;
        }
        self.browser.cdp("HeapProfiler.disable", json!({})).await;
        self.browser.cdp("Performance.enable", json!({})).await;
        let metrics = self.browser.cdp("Performance.getMetrics", json!({})).await;
        let metrics = metrics["metrics"].as_array().context("no metrics")?;
        let heap = metrics.iter().find(|metric| metric["name"] == "JSHeapUsedSize");
        let wasm = self.browser.script("return probe.wasm()", vec![]).await;
        Ok(Held {
            heap: heap.and_then(|metric| metric["value"].as_f64()).context("no size of the heap")?,
            wasm: wasm.as_f64().context("no size of WebAssembly's memories")?,
        })
    }

    /// What a script gives.
    pub async fn script(&self, script: &str, args: Vec<Value>) -> Value {
        self.browser.script(script, args).await
    }

    /// Closes the window and its browser.
    pub async fn close(self) {
        self.browser.close().await;
    }
}
