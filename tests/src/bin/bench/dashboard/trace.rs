//! Chromium's own trace of a page's main thread: its tasks, its frames, and the marks that the probe sets.

use std::collections::HashMap;

use anyhow::Context as _;
use rollcall_tests::Browser;
use serde::Deserialize;
use serde_json::{Value, json};

/// What is traced: every task of every thread, the beginnings of frames, and marks. As little as does: each further
/// category makes what is measured slower.
const CATEGORIES: [&str; 3] = ["toplevel", "disabled-by-default-devtools.timeline.frame", "blink.user_timing"];

const TASK: &str = "ThreadControllerImpl::RunTask";
const FRAME: &str = "BeginMainThreadFrame";

/// How long a frame lasts where none is late.
const FRAME_US: f64 = 1_000_000.0 / 60.0;

/// How much of a trace is fetched at once.
const READ_BYTES: u32 = 16 * 1024 * 1024;

/// How often it is looked whether a trace has been written, and for how long in between.
const LOOKS_MAX: usize = 600;
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// A task of the main thread.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the names say the unit")]
pub struct Task {
    /// When it began.
    pub at_us: f64,
    /// How long it kept the thread.
    pub took_us: f64,
    /// What of that the thread was on a core.
    pub cpu_us: f64,
}

/// What a page's main thread did.
#[derive(Debug, Default)]
pub struct Trace {
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// When its frames began, in microseconds.
    pub frames_us: Vec<f64>,
    /// When a mark was set, in microseconds.
    pub marks_us: HashMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct Event {
    name: String,
    ph: String,
    pid: i64,
    tid: i64,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    tdur: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Events {
    trace_events: Vec<Event>,
}

/// Takes traces of one browser, one after the other.
#[derive(Debug, Default)]
pub struct Tracer {
    taken: u32,
}

impl Tracer {
    /// Begins one.
    pub async fn start(&mut self, browser: &Browser) {
        let config =
            json!({ "recordMode": "recordUntilFull", "includedCategories": CATEGORIES, "excludedCategories": ["*"] });
        browser.cdp("Tracing.start", json!({ "transferMode": "ReturnAsStream", "traceConfig": config })).await;
        self.taken += 1;
    }

    /// Ends it, and gives what the page's main thread did.
    pub async fn stop(&self, browser: &Browser) -> anyhow::Result<Trace> {
        browser.cdp("Tracing.end", json!({})).await;
        // The event that names the stream does not come through the driver; streams are numbered from 1.
        let handle = self.taken.to_string();
        let mut text = String::new();
        // Whoever is quick reads to the end of what has been written so far.
        let events = 'written: {
            for _ in 0..LOOKS_MAX {
                while let Ok(read) = browser.try_cdp("IO.read", json!({ "handle": handle, "size": READ_BYTES })).await {
                    text.push_str(read["data"].as_str().context("a trace is text")?);
                    if read["eof"] == Value::Bool(true) {
                        break;
                    }
                }
                if text.ends_with('}')
                    && let Ok(events) = serde_json::from_str::<Events>(&text)
                {
                    break 'written events;
                }
                tokio::time::sleep(LOOK).await;
            }
            anyhow::bail!("no whole trace, but {} bytes", text.len());
        };
        browser.cdp("IO.close", json!({ "handle": handle })).await;
        Ok(Trace::of(&events.trace_events))
    }
}

impl Trace {
    fn of(events: &[Event]) -> Self {
        // The page's main thread is the one that most frames began on.
        let mut frames: HashMap<(i64, i64), usize> = HashMap::new();
        for event in events.iter().filter(|event| event.name == FRAME) {
            *frames.entry((event.pid, event.tid)).or_default() += 1;
        }
        let Some((&main, _)) = frames.iter().max_by_key(|(_, count)| **count) else { return Self::default() };
        let mut trace = Self::default();
        for event in events.iter().filter(|event| (event.pid, event.tid) == main) {
            if event.name == TASK && event.ph == "X" {
                trace.tasks.push(Task { at_us: event.ts, took_us: event.dur, cpu_us: event.tdur });
            } else if event.name == FRAME {
                trace.frames_us.push(event.ts);
            } else if event.cat.contains("blink.user_timing") {
                trace.marks_us.insert(event.name.clone(), event.ts);
            }
        }
        trace.tasks.sort_by(|a, b| a.at_us.total_cmp(&b.at_us));
        trace.frames_us.sort_by(f64::total_cmp);
        trace
    }

    /// The CPU time of the main thread from each frame's beginning to the next one's, in milliseconds; of frames that
    /// the machine was late with, by the time of one.
    pub fn work_ms(&self) -> Vec<f64> {
        let mut tasks = self.tasks.iter().peekable();
        let mut work = Vec::new();
        for pair in self.frames_us.windows(2) {
            let mut sum_us = 0.0;
            while let Some(task) = tasks.next_if(|task| task.at_us < pair[1]) {
                if task.at_us >= pair[0] {
                    sum_us += task.cpu_us;
                }
            }
            let frames = ((pair[1] - pair[0]) / FRAME_US).max(1.0);
            work.push(sum_us / frames / 1_000.0);
        }
        work
    }

    /// The CPU time of the main thread, in milliseconds.
    pub fn cpu_ms(&self) -> f64 {
        self.tasks.iter().map(|task| task.cpu_us / 1_000.0).sum()
    }

    /// The longest task that ran between two times, in milliseconds.
    pub fn longest_ms(&self, from_us: f64, to_us: f64) -> f64 {
        let within = self.tasks.iter().filter(|task| task.at_us + task.took_us > from_us && task.at_us <= to_us);
        within.map(|task| task.took_us / 1_000.0).fold(0.0, f64::max)
    }
}
