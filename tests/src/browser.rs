//! A real Chromium through its driver. Finds by role, name or `data-testid`; keeps a screenshot when a test fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use base64::Engine as _;
use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource as _, KeyAction, KeyActions, MouseActions, PointerAction},
    elements::Element,
    key::Key,
};
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

/// What `DevTools` takes for an ordinary command that the driver passes on.
const CDP: &str = "goog/cdp/execute";

/// How the window is, and who sits before it. The default is a desk: 1400 × 900, a mouse, light, English.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The page's width in CSS pixels.
    pub width: u32,
    /// The page's height in CSS pixels.
    pub height: u32,
    /// Whether the system asks for dark.
    pub dark: bool,
    /// Whether the system asks for little motion.
    pub still: bool,
    /// The browser's language: `navigator.language`, and `Accept-Language`.
    pub lang: &'static str,
    /// A finger instead of a mouse: touch events, `pointer: coarse`, `hover: none`, and a phone's viewport.
    pub touch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { width: 1400, height: 900, dark: false, still: false, lang: "en-US", touch: false }
    }
}

impl Options {
    /// A phone: narrow, and touched.
    pub fn phone() -> Self {
        Self { width: 390, height: 844, touch: true, ..Self::default() }
    }
}

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

    /// Opens a page of the dashboard of `server` in a window of one's choice.
    ///
    /// ```no_run
    /// # use rollcall_tests::{Browser, Server, browser::Options};
    /// # async fn story(server: &Server) {
    /// let phone = Browser::open_with(server, "/services/pay", Options { dark: true, ..Options::phone() }).await;
    /// let chinese = Browser::open_with(server, "/", Options { lang: "zh-CN", ..Options::default() }).await;
    /// # }
    /// ```
    pub async fn open_with(server: &Server, path: &str, options: Options) -> Self {
        let browser = Self::launch(options, json!({})).await;
        browser.goto(&format!("{}{path}", server.origin())).await;
        browser
    }

    /// Opens any page.
    pub async fn open_url(url: &str) -> Self {
        let browser = Self::launch(Options::default(), json!({})).await;
        browser.goto(url).await;
        browser
    }

    /// Opens an empty page. `capabilities` go to the driver beside the usual ones; those below `goog:chromeOptions`
    /// and `goog:loggingPrefs` beside what stands there.
    pub async fn launch(options: Options, capabilities: Value) -> Self {
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
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([
            pointing(options.touch),
            format!("--lang={}", options.lang),
            format!("--window-size={},{}", options.width, options.height),
            format!("--user-data-dir={}", profile.path().display()),
        ])
        .collect();
        let mut asked = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args, "prefs": { "intl.accept_languages": options.lang } },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        join(&mut asked, capabilities);
        let capabilities = asked;
        let Value::Object(capabilities) = capabilities else { unreachable!("it is an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver_url)
            .await
            .unwrap_or_else(|error| panic!("Chromium could not be started: {error}; {INSTALL}"));
        let session = client.session_id().await.ok().flatten().expect("a session that started has an id");
        let browser = Self { client, driver_url, session, profile, _driver: driver };
        browser.resize(options.width, options.height, options.touch).await;
        browser.dress(options.dark, options.still).await;
        browser
    }

    /// Makes the page this large, in CSS pixels, with or without touch events, without loading it anew. What a media query
    /// says of the pointer stays as the window was opened.
    pub async fn resize(&self, width: u32, height: u32, touch: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch });
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
        let fingers = json!({ "enabled": touch, "maxTouchPoints": if touch { 5 } else { 1 } });
        self.cdp("Emulation.setTouchEmulationEnabled", fingers).await;
    }

    /// Lets the system ask for dark or light, and for little motion or not, without loading the page anew.
    pub async fn dress(&self, dark: bool, still: bool) {
        let features = json!([
            { "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } },
            { "name": "prefers-reduced-motion", "value": if still { "reduce" } else { "no-preference" } },
        ]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// A command of the `DevTools` protocol to the page, and its result. Fails where the browser refuses it.
    /// <https://chromedevtools.github.io/devtools-protocol/>
    pub async fn cdp(&self, command: &str, params: Value) -> Value {
        self.try_cdp(command, params).await.unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    /// The same, where the browser may refuse: then it gives what the driver says.
    pub async fn try_cdp(&self, command: &str, params: Value) -> Result<Value, String> {
        let answer = self.ask(CDP, &json!({ "cmd": command, "params": params })).await;
        if answer.status == 200 { Ok(answer.json()["value"].take()) } else { Err(answer.text()) }
    }

    async fn ask(&self, path: &str, body: &Value) -> http::Answer {
        let url = format!("{}/session/{}/{path}", self.driver_url, self.session);
        http::send(http::json(&http::client(), reqwest::Method::POST, &url, body)).await
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
    pub async fn press(&self, key: Key) {
        let active = self.client.active_element().await.expect("something has the focus");
        active.send_keys(&String::from(char::from(key))).await.expect("a key can be pressed");
    }

    /// Presses keys one after the other on whatever has the focus, as a keyboard does: a character (`"j"`, `"?"`), a
    /// key's name (`"Enter"`, `"Escape"`, `"Tab"`, `"ArrowDown"`, `"Space"`, `"Backspace"`, …), or one with others held
    /// down (`"Control+k"`, `"Shift+Tab"`).
    pub async fn press_keys(&self, keys: &[&str]) {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for key in keys {
            // A lone `+` is a key, too.
            let mut held: Vec<&str> = if key.len() > 1 { key.split('+').collect() } else { vec![key] };
            let last = held.pop().expect("a split gives at least one part");
            for &name in &held {
                actions = actions.then(KeyAction::Down { value: key_code(name) });
            }
            actions = actions.then(KeyAction::Down { value: key_code(last) });
            actions = actions.then(KeyAction::Up { value: key_code(last) });
            for &name in held.iter().rev() {
                actions = actions.then(KeyAction::Up { value: key_code(name) });
            }
        }
        self.client.perform_actions(actions).await.unwrap_or_else(|error| panic!("{keys:?}: {error}"));
    }

    /// Clicks what a CSS selector finds, then types behind what stands there, key by key.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.click(css).await;
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in text.chars() {
            actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        }
        self.client.perform_actions(actions).await.unwrap_or_else(|error| panic!("typing into {css}: {error}"));
    }

    /// Moves the mouse over what a CSS selector finds.
    pub async fn hover(&self, css: &str) {
        eventually(&format!("{css} can be pointed at"), PAGE_MAX, || async {
            let element = self.client.find(Locator::Css(css)).await.map_err(|error| error.to_string())?;
            let over = PointerAction::MoveToElement { element, duration: None, x: 0., y: 0. };
            let mouse = MouseActions::new("mouse".to_owned()).then(over);
            self.client.perform_actions(mouse).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Fails where the page can be scrolled sideways, naming what sticks out.
    pub async fn scroll_width_fits(&self) {
        let script = "const width = window.innerWidth, whole = document.documentElement.scrollWidth;\
            if (whole <= width) return '';\
            const wide = [...document.querySelectorAll('body *')].filter(element => {\
              const box = element.getBoundingClientRect();\
              return box.width > 0 && box.right > width + 0.5;\
            });\
            const named = element => element.outerHTML.slice(0, 120) + ' … to ' + element.getBoundingClientRect().right;\
            return whole + ' px in ' + width + ':\\n' + wide.slice(0, 8).map(named).join('\\n');";
        let found = self.script(script, vec![]).await;
        assert_eq!(found.as_str().unwrap_or("?"), "", "the page is wider than its window");
    }

    /// Keeps the page as it is now in `target/stories/NAME.png`, and gives the file.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let picture = self.client.screenshot().await.unwrap_or_else(|error| panic!("no picture {name}: {error}"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stories");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let file = folder.join(format!("{name}.png"));
        fs::write(&file, picture).expect("the target folder can be written");
        file
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
        let answer = self.log("browser").await;
        let lines = answer.as_array().cloned().unwrap_or_default();
        lines.iter().map(|line| format!("{} {}: {}", line["level"], line["source"], line["message"])).collect()
    }

    /// What the driver kept in one of its logs since it was asked last; which it keeps stands in `goog:loggingPrefs`.
    pub async fn log(&self, kind: &str) -> Value {
        self.ask("se/log", &json!({ "type": kind })).await.expect(200)["value"].take()
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

/// Tells the page what points at it: a machine without a mouse, as tests run on, would say that nothing does.
fn pointing(touch: bool) -> String {
    // Blink's own numbers: a pointer that is coarse (2) or fine (4), and one that cannot (1) or can (2) hover.
    let (pointer, hover) = if touch { (2, 1) } else { (4, 2) };
    let settings = [("Pointer", pointer), ("Hover", hover)]
        .map(|(what, kind)| format!("primary{what}Type={kind},available{what}Types={kind}"));
    format!("--blink-settings={}", settings.join(","))
}

/// Puts `more` beside what stands, object by object.
fn join(stands: &mut Value, more: Value) {
    match (stands, more) {
        (Value::Object(stands), Value::Object(more)) => {
            for (name, value) in more {
                join(stands.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(stands), Value::Array(more)) => stands.extend(more),
        (stands, more) => *stands = more,
    }
}

/// The character that `WebDriver` has for a key. <https://www.w3.org/TR/webdriver2/#keyboard-actions>
fn key_code(name: &str) -> char {
    let named = match name {
        "Enter" => Key::Enter,
        "Escape" => Key::Escape,
        "Tab" => Key::Tab,
        "Space" => return ' ',
        "Backspace" => Key::Backspace,
        "Delete" => Key::Delete,
        "ArrowUp" => Key::Up,
        "ArrowDown" => Key::Down,
        "ArrowLeft" => Key::Left,
        "ArrowRight" => Key::Right,
        "Home" => Key::Home,
        "End" => Key::End,
        "PageUp" => Key::PageUp,
        "PageDown" => Key::PageDown,
        "Shift" => Key::Shift,
        "Control" => Key::Control,
        "Alt" => Key::Alt,
        "Meta" => Key::Meta,
        other => {
            let mut chars = other.chars();
            return match (chars.next(), chars.next()) {
                (Some(char), None) => char,
                _ => panic!("no key is called {other:?}"),
            };
        }
    };
    char::from(named)
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
