//! A real Chromium through its driver. Finds by role, name or `data-testid`; keeps a screenshot when a test fails.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::Context as _;
use base64::Engine as _;
use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    etcd::free_port,
    http,
    process::{Process, processes, send},
    server::Server,
    wait::{eventually, seconds},
};

const INSTALL: &str = "install it: `apt-get install chromium chromium-driver`, or `brew install chromium chromedriver`";

/// How long the page may take for anything. Generous: a browser on a busy machine is slow.
const PAGE_MAX: Duration = Duration::from_secs(20);

/// A browser window on the dashboard.
#[derive(Debug)]
pub struct Browser {
    /// The window, for what this type has no word for.
    pub client: Client,
    driver_url: String,
    session: String,
    profile: TempDir,
    _driver: Process,
}

impl Browser {
    /// Opens the dashboard of `server`.
    pub async fn open(server: &Server) -> Self {
        Self::open_at(server, "/").await
    }

    /// Opens a page of the dashboard of `server`.
    pub async fn open_at(server: &Server, path: &str) -> Self {
        Self::open_url(&format!("{}{path}", server.origin())).await
    }

    /// Opens any page.
    pub async fn open_url(url: &str) -> Self {
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}"));
        let driver = Process::start("chromedriver", command, INSTALL);
        let driver_url = format!("http://127.0.0.1:{port}");
        let probe = http::client();
        eventually("chromedriver answers", PAGE_MAX, || async {
            match http::try_send(probe.get(format!("{driver_url}/status"))).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(other),
            }
        })
        .await;
        let profile = tempfile::tempdir().expect("a folder for temporary files can be written");
        let args: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--lang=en-US",
            "--window-size=1400,900",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("--user-data-dir={}", profile.path().display())])
        .collect();
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver_url)
            .await
            .unwrap_or_else(|error| panic!("Chromium could not be started: {error}; {INSTALL}"));
        let session = client.session_id().await.ok().flatten().expect("a session that started has an id");
        let browser = Self { client, driver_url, session, profile, _driver: driver };
        browser.goto(url).await;
        browser
    }

    /// Goes to an address.
    pub async fn goto(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Waits for what a CSS selector finds.
    pub async fn find(&self, css: &str) -> Element {
        eventually(&format!("the page shows {css}"), PAGE_MAX, || async {
            match self.client.find(Locator::Css(css)).await {
                Ok(element) => Ok(element),
                Err(_) => Err(self.text("body").await),
            }
        })
        .await
    }

    /// Waits until a CSS selector finds nothing.
    pub async fn vanishes(&self, css: &str, within: Duration) {
        eventually(&format!("the page shows {css} no more"), within, || async {
            match self.client.find_all(Locator::Css(css)).await {
                Ok(found) if found.is_empty() => Ok(()),
                Ok(found) => Err(format!("{} of them", found.len())),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// How many elements a CSS selector finds now.
    pub async fn count(&self, css: &str) -> usize {
        self.client.find_all(Locator::Css(css)).await.map_or(0, |found| found.len())
    }

    /// Clicks what a CSS selector finds; what moves away under the click is looked for again.
    pub async fn click(&self, css: &str) {
        eventually(&format!("{css} can be clicked"), PAGE_MAX, || async {
            let element = self.client.find(Locator::Css(css)).await.map_err(|error| error.to_string())?;
            element.click().await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Clicks the button with this name (its text or its `aria-label`) inside what a CSS selector finds.
    pub async fn click_button(&self, within: &str, name: &str) {
        let script = "const [within, name] = arguments;\
            const area = document.querySelector(within);\
            if (!area) return 'no ' + within;\
            const named = [...area.querySelectorAll('button')].find(button => {\
              const label = button.getAttribute('aria-label') || button.textContent.trim();\
              return label === name || label.startsWith(name + ' ');\
            });\
            if (!named) return 'no button ' + name + ' in: ' + area.innerHTML.slice(0, 2000);\
            named.scrollIntoView({block: 'nearest'});\
            return named;";
        eventually(&format!("the button {name} in {within} can be clicked"), PAGE_MAX, || async {
            let found = self.script(script, vec![json!(within), json!(name)]).await;
            if let Some(miss) = found.as_str() {
                return Err(miss.to_owned());
            }
            element_of(&self.client, &found).click().await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Types into the field of that name.
    pub async fn fill(&self, name: &str, text: &str) {
        let field = self.find(&format!("[name=\"{name}\"]")).await;
        drop(field.clear().await);
        field.send_keys(text).await.unwrap_or_else(|error| panic!("the field {name}: {error}"));
    }

    /// Presses a key on whatever has the focus.
    pub async fn press(&self, key: fantoccini::key::Key) {
        let active = self.client.active_element().await.expect("something has the focus");
        active.send_keys(&String::from(char::from(key))).await.expect("a key can be pressed");
    }

    /// The visible text of what a CSS selector finds; empty where it finds nothing.
    pub async fn text(&self, css: &str) -> String {
        match self.client.find(Locator::Css(css)).await {
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits until the visible text of what a CSS selector finds satisfies `holds`, and gives it.
    pub async fn text_that(&self, what: &str, css: &str, within: Duration, holds: impl Fn(&str) -> bool) -> String {
        eventually(what, within, || async {
            let text = self.text(css).await;
            if holds(&text) { Ok(text) } else { Err(text) }
        })
        .await
    }

    /// Runs a script in the page.
    pub async fn script(&self, script: &str, args: Vec<Value>) -> Value {
        self.client.execute(script, args).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The path and query of the page.
    pub async fn location(&self) -> String {
        self.client
            .current_url()
            .await
            .map(|url| url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path())))
            .unwrap_or_default()
    }

    /// The lines of the console since it was asked last.
    pub async fn console(&self) -> Vec<String> {
        let url = format!("{}/session/{}/se/log", self.driver_url, self.session);
        let request = http::json(&http::client(), reqwest::Method::POST, &url, &json!({ "type": "browser" }));
        let answer = http::send(request).await.expect(200);
        let lines = answer["value"].as_array().cloned().unwrap_or_default();
        lines.iter().map(|line| format!("{} {}: {}", line["level"], line["source"], line["message"])).collect()
    }

    /// Fails where the page broke its policy, or said that something is wrong.
    pub async fn has_clean_console(&self) {
        let bad = self.complaints().await;
        assert!(bad.is_empty(), "the browser's console: {bad:#?}");
    }

    /// The lines of the console that say that something is wrong, since it was asked last.
    pub async fn complaints(&self) -> Vec<String> {
        let lines = self.console().await;
        lines
            .into_iter()
            .filter(|line| line.starts_with("\"SEVERE\"") || line.contains("Content Security Policy"))
            .collect()
    }

    /// Closes it in good order.
    pub async fn close(self) {
        drop(self.client.clone().close().await);
    }

    fn keep_screenshot(&self) {
        let url = format!("{}/session/{}/screenshot", self.driver_url, self.session);
        let name = thread::current().name().unwrap_or("browser").replace("::", "-");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
        let log_url = format!("{}/session/{}/se/log", self.driver_url, self.session);
        // The test's own runtime may be going down: this takes one of its own, on a thread of its own.
        let kept = thread::spawn(move || -> anyhow::Result<String> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let log = http::json(&http::client(), reqwest::Method::POST, &log_url, &json!({ "type": "browser" }));
            if let Ok(log) = runtime.block_on(http::try_send(log)) {
                eprintln!("--- the browser's console: {}", log.text());
            }
            let answer = runtime.block_on(http::try_send(http::client().get(url)))?;
            let text = answer.json()["value"].as_str().context("no picture")?.to_owned();
            fs::create_dir_all(&folder)?;
            let file = folder.join(format!("{name}.png"));
            fs::write(&file, base64::engine::general_purpose::STANDARD.decode(text)?)?;
            Ok(file.display().to_string())
        })
        .join();
        match kept {
            Ok(Ok(file)) => eprintln!("--- the page as it was: {file}"),
            other => eprintln!("--- no screenshot: {other:?}"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_screenshot();
        }
        // The driver does not take its browser along: whatever uses this test's own profile folder goes with it.
        let profile = self.profile.path().display().to_string();
        for (pid, line) in processes() {
            if line.contains(&profile) {
                send(pid, "KILL");
            }
        }
    }
}

fn element_of(client: &Client, found: &Value) -> Element {
    let id = found
        .as_object()
        .and_then(|object| object.values().next())
        .and_then(Value::as_str)
        .expect("a script that gives an element gives its reference");
    Element::from_element_id(client.clone(), id.to_owned().into())
}

/// The CSS selector of a service of the overview.
pub fn service(name: &str) -> String {
    format!("[data-testid=\"service\"][data-service=\"{name}\"]")
}

/// The CSS selector of an instance in a state (`live`, `late`, `gone`; empty for any).
pub fn instance(key: &str, state: &str) -> String {
    let state = if state.is_empty() { String::new() } else { format!("[data-state=\"{state}\"]") };
    format!("[data-testid=\"instance\"][data-key=\"{key}\"]{state}")
}

/// How long things may take on the page.
pub fn soon() -> Duration {
    seconds(20)
}
