//! The npm package, as a program uses it: in Node, in a page of a real browser and in a worker of one.
//!
//! `cargo xtask test client_js` builds it and names it in `ROLLCALL_NPM`, and TypeScript's compiler in `ROLLCALL_TSC`.
//! What runs there stands in `assets/npm/programs.js`.

use std::{
    env, fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use etcd_client::PutOptions;
use rollcall_shared::{Catalog, Change, Record, RegistryEvent, SnapshotReason};
use rollcall_tests::{
    Browser, Etcd, FaultProxy, Process, Server, browser::Options, etcd::free_port, eventually, http, kratos, seconds,
    server::rollcall,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// All that an app loads of the package, in bytes of brotli.
const PACKAGE_BYTES_MAX: usize = 60_000;

/// How long anything may take that has only to be thought of.
const SOON: Duration = seconds(30);

const INSTALL_NODE: &str = "install Node >= 20: `apt-get install nodejs` from Debian 13 on, `brew install node`, or \
    https://nodejs.org";

/// What `verbs` checks: a program that left something out did not do what it should.
const VERBS: usize = 71;

fn package() -> PathBuf {
    let folder = env::var_os("ROLLCALL_NPM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/npm/rollcall"), PathBuf::from);
    assert!(folder.join("package.json").is_file(), "{} is no package: `cargo xtask npm` builds it", folder.display());
    folder.canonicalize().expect("it is there")
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/npm")
}

/// A folder in which the package is installed, with these of our programs.
fn project(files: &[&str]) -> TempDir {
    let project = tempfile::tempdir().expect("a folder for temporary files can be written");
    let modules = project.path().join("node_modules");
    fs::create_dir(&modules).expect("a folder of one's own can be written");
    symlink(package(), modules.join("rollcall-client")).expect("a folder of one's own can be written");
    fs::write(project.path().join("package.json"), r#"{"type":"module"}"#)
        .expect("a folder of one's own can be written");
    for file in files {
        fs::copy(programs().join(file), project.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    project
}

/// A program that runs somewhere.
enum Program {
    Node { process: Process, _project: TempDir },
    Page { browser: Browser, _site: Site },
}

impl Program {
    fn in_node(options: &Value) -> Self {
        let project = project(&["node.mjs", "programs.js"]);
        let mut command = Command::new("node");
        command.current_dir(project.path()).arg("node.mjs").arg(options.to_string());
        Self::Node { process: Process::start("node", command, INSTALL_NODE).gently(), _project: project }
    }

    /// In a page that `site` serves, or in a worker of it.
    async fn in_page(site: Site, worker: bool, options: &Value) -> Self {
        let query = if worker { "?worker=1" } else { "" };
        let options = http::encode(&options.to_string());
        let browser = Browser::launch(Options::default(), json!({})).await;
        browser.goto(&format!("{}/programs/page.html{query}#{options}", site.origin())).await;
        Self::Page { browser, _site: site }
    }

    /// All that it told so far. Fails where it failed.
    async fn told(&self) -> Vec<Value> {
        let told: Vec<Value> = match self {
            Self::Node { process, .. } => {
                let lines = process.stdout();
                lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
            }
            Self::Page { browser, .. } => {
                serde_json::from_value(browser.script("return window.told", vec![]).await).unwrap_or_default()
            }
        };
        if let Some(failed) = told.iter().find_map(|told| told.get("failed")) {
            panic!("the program failed: {}", failed.as_str().unwrap_or_default());
        }
        told
    }

    /// Waits for what it tells, all taken together, to be so.
    async fn until<T>(&self, what: &str, within: Duration, is_so: impl Fn(&[Value]) -> Option<T>) -> T {
        eventually(what, within, || async {
            let told = self.told().await;
            is_so(&told).ok_or_else(|| told[told.len().saturating_sub(6)..].to_vec())
        })
        .await
    }

    /// Tells it to leave.
    async fn leave(&self) {
        match self {
            Self::Node { process, .. } => process.signal("TERM"),
            Self::Page { browser, .. } => drop(browser.script("window.leave()", vec![]).await),
        }
    }
}

/// A site of the package and our programs; what else is asked for goes to a server, so that it has the same origin.
struct Site {
    address: SocketAddr,
    task: JoinHandle<()>,
    behind: Arc<Behind>,
}

struct Behind {
    origin: Option<String>,
    http: reqwest::Client,
    /// Whether it answers 404 to all that is asked, as an ingress does that has lost sight of what is behind it.
    is_astray: AtomicBool,
    /// How often it was asked while it was astray.
    led_astray: AtomicUsize,
    /// How often was asked what is left of a lease, and answered.
    leases: AtomicUsize,
}

impl Site {
    async fn serve(behind: Option<&Server>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let behind = Arc::new(Behind {
            origin: behind.map(Server::origin),
            http: streaming(),
            is_astray: AtomicBool::new(false),
            led_astray: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&behind));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Self { address, task, behind }
    }

    /// Answers 404 to all that is asked, and waits for this to be seen.
    async fn go_astray(&self) {
        let before = self.behind.led_astray.load(Ordering::SeqCst);
        self.behind.is_astray.store(true, Ordering::SeqCst);
        rises("the site is asked while it is astray", &self.behind.led_astray, before + 1).await;
    }

    fn come_back(&self) {
        self.behind.is_astray.store(false, Ordering::SeqCst);
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn rises(what: &str, count: &AtomicUsize, least: usize) {
    eventually(what, SOON, || async {
        let count = count.load(Ordering::SeqCst);
        if count >= least { Ok(()) } else { Err(count) }
    })
    .await;
}

/// A client whose answers may take as long as they like.
fn streaming() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client without settings can be made")
}

async fn answer(State(behind): State<Arc<Behind>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let file = match (path.strip_prefix("/npm/"), path.strip_prefix("/programs/")) {
        (Some(name), _) => Some(package().join(name)),
        (_, Some(name)) => Some(programs().join(name)),
        _ => None,
    };
    if let Some(file) = file {
        let kind = match file.extension().and_then(|extension| extension.to_str()) {
            Some("js") => "text/javascript",
            Some("wasm") => "application/wasm",
            _ => "text/html",
        };
        return match fs::read(&file) {
            Ok(bytes) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        };
    }
    let Some(origin) = &behind.origin else { return StatusCode::NOT_FOUND.into_response() };
    if behind.is_astray.load(Ordering::SeqCst) {
        behind.led_astray.fetch_add(1, Ordering::SeqCst);
        return (StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#).into_response();
    }
    let (parts, body) = request.into_parts();
    let is_look = parts.method == Method::GET && path.contains("/leases/");
    let address = format!("{origin}{}", parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    match behind.http.request(parts.method, address).headers(parts.headers).body(body).send().await {
        Ok(answer) => {
            if is_look {
                behind.leases.fetch_add(1, Ordering::SeqCst);
            }
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.extend(answer.headers().clone());
                headers.remove(header::TRANSFER_ENCODING);
            }
            response.body(Body::from_stream(answer.bytes_stream())).expect("an answer's parts make an answer")
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// A server at a port of one's own, which another one can take over.
async fn serve_at(etcd: &Etcd, port: u16, args: &[&str]) -> Server {
    let mut command = rollcall(["serve", "--endpoints", &etcd.url(), "--listen", &format!("127.0.0.1:{port}")]);
    command.args(args);
    let server = Server::of(command).await;
    server.ready().await;
    server
}

fn pay(id: u32) -> String {
    kratos("pay", &id.to_string(), &format!("http://10.0.0.{id}:80"))
}

async fn put(etcd: &Etcd, id: u32) -> i64 {
    etcd.put(&format!("/microservices/pay/{id}"), pay(id)).await
}

/// Everything of the registry that the program told, in order.
fn events(told: &[Value]) -> Vec<RegistryEvent> {
    let is_ordered = |told: &&Value| {
        ["snapshot", "delta", "progress", "cause"].contains(&told["type"].as_str().expect("an event has a type"))
    };
    let read = |told: &Value| serde_json::from_value(told.clone()).unwrap_or_else(|error| panic!("{error}: {told}"));
    told.iter().filter(is_ordered).map(read).collect()
}

/// The revision of every put and delete that was told, in order.
fn revisions(told: &[Value]) -> Vec<i64> {
    let of_delta = |event| match event {
        RegistryEvent::Delta(delta) => vec![delta.revision; delta.changes.len()],
        _ => vec![],
    };
    events(told).into_iter().flat_map(of_delta).collect()
}

/// What all that was told comes to. Fails where something does not fit.
fn fold(told: &[Value]) -> Vec<Record> {
    let mut catalog = Catalog::default();
    for event in events(told) {
        catalog.apply(&event).unwrap_or_else(|error| panic!("{error}: {event:?}"));
    }
    catalog.records().map(|record| Record::clone(record)).collect()
}

async fn records(server: &Server) -> Vec<Record> {
    let records = server.get("/instances").await.expect(200)["records"].take();
    serde_json::from_value(records).expect("records read as records")
}

/// How often the line came to stand.
fn opened(told: &[Value]) -> usize {
    told.iter().filter(|told| told["type"] == "connection" && told["state"] == "open").count()
}

/// The lists of endpoints that a watch told.
fn lists(told: &[Value]) -> Vec<Vec<String>> {
    let endpoints = |instance: &Value| instance["endpoints"][0].as_str().unwrap_or("?").to_owned();
    told.iter()
        .filter_map(|told| told["instances"].as_array())
        .map(|instances| instances.iter().map(endpoints).collect())
        .collect()
}

fn at(ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| format!("http://10.0.0.{id}:80")).collect()
}

async fn has_no_streams(server: &Server) {
    eventually("every line is closed", SOON, || async {
        let metrics = server.page("/metrics").await.text();
        if metrics.contains("\nrollcall_streams_open 0\n") { Ok(()) } else { Err(metrics) }
    })
    .await;
}

async fn says_its_verbs(program: &Program) {
    program.until("every verb", seconds(60), |told| (told.last()? == &json!({ "done": true })).then_some(())).await;
    let told = program.told().await;
    assert_eq!(told.len() - 1, VERBS, "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_asks_for_all_that_can_be_asked_for() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let options = json!({ "program": "verbs", "base": server.origin(), "label": "node", "nowhere": nowhere });
    let program = Program::in_node(&options);
    says_its_verbs(&program).await;
    has_no_streams(&server).await;
    assert_eq!(etcd.keys("/micro").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_and_a_worker_ask_for_all_that_can_be_asked_for_with_a_token() {
    const TOKEN: &str = "a-token-of-many-letters";
    let etcd = Etcd::spawn().await;
    let server = Server::start_with(&etcd, &["--auth-token", TOKEN]).await;
    for worker in [false, true] {
        let site = Site::serve(Some(&server)).await;
        let nowhere = format!("http://127.0.0.1:{}", free_port());
        let options = json!({ "program": "verbs", "base": site.origin(), "label": format!("worker-{worker}"),
            "nowhere": nowhere, "token": TOKEN });
        let program = Program::in_page(site, worker, &options).await;
        says_its_verbs(&program).await;
    }
    assert_eq!(etcd.keys("/micro").await, Vec::<String>::new());
    let wrong = json!({ "program": "follow", "base": server.origin(), "token": "another" });
    let program = Program::in_node(&wrong);
    let Program::Node { process, .. } = &program else { unreachable!("it is in Node") };
    eventually("a wrong token ends it", SOON, || async {
        let lines = process.stdout().concat();
        if lines.contains("the token is wanted") { Ok(()) } else { Err(lines) }
    })
    .await;
}

/// Whatever happens to the server and to etcd's history, each event comes once.
async fn loses_nothing(etcd: &Etcd, port: u16, args: &[&str], mut server: Server, program: &Program) {
    let until = |what: &'static str, wanted: Vec<i64>| async move {
        program.until(what, SOON, |told| (revisions(told).len() >= wanted.len()).then_some(())).await;
        assert_eq!(revisions(&program.told().await), wanted, "{what}");
    };
    program.until("the first snapshot", SOON, |told| events(told).first().cloned()).await;
    let mut wanted = Vec::new();
    for id in 2..5 {
        wanted.push(put(etcd, id).await);
    }
    until("what happens while the line stands", wanted.clone()).await;

    server.kill();
    for id in 5..8 {
        wanted.push(put(etcd, id).await);
    }
    wanted.push(etcd.delete("/microservices/pay/2").await);
    server = serve_at(etcd, port, args).await;
    wanted.push(put(etcd, 8).await);
    until("what happened while the server was dead", wanted.clone()).await;
    let snapshots =
        |told: &[Value]| events(told).iter().filter(|event| matches!(event, RegistryEvent::Snapshot(_))).count();
    assert_eq!(snapshots(&program.told().await), 1, "and by its cursor, not by starting over");
    assert!(opened(&program.told().await) >= 2);

    // With a `bye`.
    assert_eq!(server.end("TERM").await, Some(0));
    wanted.push(put(etcd, 9).await);
    server = serve_at(etcd, port, args).await;
    until("what happened while the server was away", wanted.clone()).await;

    server.kill();
    put(etcd, 10).await;
    let last = put(etcd, 11).await;
    etcd.compact(last).await;
    server = serve_at(etcd, port, args).await;
    wanted.push(put(etcd, 12).await);
    program
        .until("a snapshot in the place of the history that is gone", SOON, |told| {
            let compacted = |event: &RegistryEvent| {
                matches!(event, RegistryEvent::Snapshot(snapshot) if snapshot.reason == SnapshotReason::Compacted)
            };
            events(told).iter().find(|event| compacted(event)).cloned()
        })
        .await;
    eventually("what was told comes to what stands", SOON, || async {
        let (told, stands) = (fold(&program.told().await), records(&server).await);
        if told == stands && stands.len() == 11 { Ok(()) } else { Err((told.len(), stands.len())) }
    })
    .await;
    let told = revisions(&program.told().await);
    assert_eq!(told[..wanted.len() - 1], wanted[..wanted.len() - 1]);
    program.leave().await;
    has_no_streams(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_loses_no_event_and_gets_none_twice() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let port = free_port();
    let server = serve_at(&etcd, port, &[]).await;
    let program = Program::in_node(&json!({ "program": "follow", "base": server.origin() }));
    loses_nothing(&etcd, port, &[], server, &program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_loses_no_event_and_gets_none_twice() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let port = free_port();
    let site = Site::serve(None).await;
    let args = ["--allow-origin".to_owned(), site.origin()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let server = serve_at(&etcd, port, &args).await;
    let options = json!({ "program": "follow", "base": server.origin() });
    let program = Program::in_page(site, true, &options).await;
    loses_nothing(&etcd, port, &args, server, &program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_gone_on_from() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let server = Server::start(&etcd).await;
    server.shows("/microservices/pay/1").await;
    let since = server.get("/services").await.expect(200)["cursor"].clone();
    etcd.put("/microservices/other/1", kratos("other", "1", "http://10.0.1.1:80")).await;
    let wanted = [put(&etcd, 2).await, put(&etcd, 3).await];
    let options = json!({ "program": "follow", "base": server.origin(), "since": since, "services": ["pay"] });
    let program = Program::in_node(&options);
    program.until("what came after it", SOON, |told| (revisions(told).len() >= 2).then_some(())).await;
    let told = program.told().await;
    assert_eq!(revisions(&told), wanted);
    assert!(!events(&told).iter().any(|event| matches!(event, RegistryEvent::Snapshot(_))), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_anywhere_loses_nothing() {
    const PUTS: u32 = 150;
    let etcd = Etcd::spawn().await;
    put(&etcd, 0).await;
    let server = Server::start(&etcd).await;
    let proxy = FaultProxy::to(&server.address()).await;
    let program = Program::in_node(&json!({ "program": "follow", "base": proxy.url() }));
    program.until("the first snapshot", SOON, |told| events(told).first().cloned()).await;
    let mut wanted = Vec::new();
    for id in 0..PUTS {
        if id % 30 == 10 {
            // In the middle of an event, and then whole again.
            proxy.stall_after(100 + 37 * id as usize);
        } else if id % 30 == 20 {
            proxy.heal();
            proxy.reset().await;
            let before = opened(&program.told().await);
            program.until("it is back", SOON, |told| (opened(told) > before).then_some(())).await;
        }
        wanted.push(put(&etcd, id).await);
    }
    proxy.heal();
    proxy.reset().await;
    program.until("all of it", SOON, |told| (revisions(told).len() >= wanted.len()).then_some(())).await;
    assert_eq!(revisions(&program.told().await), wanted);
    assert!(opened(&program.told().await) > 5);
    assert_eq!(fold(&program.told().await), records(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_dead_without_a_word_is_opened_anew() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let port = free_port();
    let mut server = serve_at(&etcd, port, &[]).await;
    let proxy = FaultProxy::to(&server.address()).await;
    let options = json!({ "program": "watch", "base": proxy.url(), "name": "pay" });
    let program = Program::in_node(&options);
    program.until("the first list", SOON, |told| (lists(told) == [at(&[1])]).then_some(())).await;
    proxy.hold();
    server.kill();
    server = serve_at(&etcd, port, &[]).await;
    put(&etcd, 2).await;
    program.until("the next list", seconds(60), |told| (lists(told).last()? == &at(&[1, 2])).then_some(())).await;
    let told = program.told().await;
    let why = told.iter().find(|told| told["connection"] == "reconnecting").expect("it says so");
    assert!(why["why"].as_str().unwrap_or_default().contains("does not answer within"), "{why}");
    assert_eq!(records(&server).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_the_whole_list_first_and_at_every_change() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    etcd.put("/microservices/pay/bad", "{").await;
    etcd.put("/microservices/payments/1", kratos("payments", "1", "http://10.0.1.1:80")).await;
    let port = free_port();
    let mut server = serve_at(&etcd, port, &[]).await;
    let site = Site::serve(None).await;
    let origin = site.origin();
    server.kill();
    let args = ["--allow-origin", &origin];
    server = serve_at(&etcd, port, &args).await;
    let options = json!({ "program": "watch", "base": server.origin(), "name": "pay" });
    let programs = [Program::in_node(&options), Program::in_page(site, false, &options).await];
    let mut wanted = vec![at(&[1])];
    let tell = async |wanted: &[Vec<String>]| {
        for program in &programs {
            let last = wanted.last().expect("a list comes first");
            program.until("the list", SOON, |told| (lists(told).last()? == last).then_some(())).await;
            assert_eq!(lists(&program.told().await), wanted);
        }
    };
    tell(&wanted).await;
    for (id, now) in [(3, &[1, 3][..]), (2, &[1, 2, 3])] {
        put(&etcd, id).await;
        wanted.push(at(now));
        tell(&wanted).await;
    }
    // The same instance again is no change of the list.
    put(&etcd, 2).await;
    etcd.put("/microservices/payments/2", kratos("payments", "2", "http://10.0.1.2:80")).await;
    etcd.transact(&[], &["/microservices/pay/1", "/microservices/pay/3"]).await;
    wanted.push(at(&[2]));
    tell(&wanted).await;
    // The last list stays good while the server is dead, and is not told again when it is back.
    server.kill();
    for program in &programs {
        program
            .until("the line is broken", SOON, |told| (told.last()?["connection"] == "reconnecting").then_some(()))
            .await;
    }
    server = serve_at(&etcd, port, &args).await;
    etcd.delete("/microservices/pay/2").await;
    wanted.push(vec![]);
    tell(&wanted).await;
    put(&etcd, 9).await;
    wanted.push(at(&[9]));
    tell(&wanted).await;
    for program in &programs {
        let told = program.told().await;
        let last = told.iter().rev().find(|told| told["instances"].is_array()).expect("a list was told");
        let shown: Vec<Value> = server.get("/instances?service=pay").await.expect(200)["records"]
            .as_array()
            .expect("records are a list")
            .iter()
            .map(|record| record["instance"].clone())
            .filter(|instance| !instance.is_null())
            .collect();
        assert_eq!(last["instances"], json!(shown));
        program.leave().await;
    }
    has_no_streams(&server).await;
}

/// What became of a registration so far.
fn states(told: &[Value]) -> Vec<String> {
    told.iter().filter_map(|told| told["state"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_in_node_outlives_its_lease_and_its_server() {
    let etcd = Etcd::spawn().await;
    let port = free_port();
    let server = serve_at(&etcd, port, &[]).await;
    let program = Program::in_node(&registered(&server.origin()));
    outlives_its_lease_and_its_server(&etcd, port, server, &program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_in_a_worker_outlives_its_lease_and_its_server() {
    let etcd = Etcd::spawn().await;
    let port = free_port();
    let server = serve_at(&etcd, port, &[]).await;
    let site = Site::serve(Some(&server)).await;
    let options = registered(&site.origin());
    let program = Program::in_page(site, true, &options).await;
    outlives_its_lease_and_its_server(&etcd, port, server, &program).await;
}

/// What registers `MINE`.
fn registered(base: &str) -> Value {
    let instance = json!({ "id": "mine", "name": "pay", "endpoints": ["http://10.0.0.1:80"] });
    json!({ "program": "registered", "base": base, "request": { "instance": instance, "ttl_s": 3 } })
}

async fn outlives_its_lease_and_its_server(etcd: &Etcd, port: u16, mut server: Server, program: &Program) {
    const KEY: &str = "/microservices/pay/mine";
    let alive = |count: usize| {
        move |told: &[Value]| (states(told).iter().filter(|state| *state == "alive").count() >= count).then_some(())
    };
    program.until("it is registered", SOON, alive(1)).await;
    let (value, lease) = etcd.entry(KEY).await.expect("it stands in etcd");
    assert_ne!(lease, 0);
    let standing = async |before: i64| {
        eventually("it stands on another lease", SOON, || async {
            match etcd.entry(KEY).await {
                Some((now, lease)) if lease != before => Ok((now, lease)),
                other => Err(other.map(|(_, lease)| lease)),
            }
        })
        .await
    };

    etcd.revoke(lease).await;
    program.until("it is registered anew", SOON, alive(2)).await;
    let (again, second) = standing(lease).await;
    assert_eq!(again, value);

    // Longer than the lease lives.
    server.kill();
    etcd.key_stands(KEY, false, SOON).await;
    program.until("it says so", SOON, |told| (told.last()?["state"] == "lost").then_some(())).await;
    server = serve_at(etcd, port, &[]).await;
    program.until("it is registered anew", SOON, alive(3)).await;
    let (again, third) = standing(second).await;
    assert_eq!(again, value);

    // What an operator takes out stays out, and it is not in the way of leaving.
    server.deregister(KEY).await.expect(200);
    let before = etcd.ttl(third).await.expect("the lease lives on");
    eventually("its lease is renewed all the same", SOON, || async {
        // It is granted 3 s: a second one of these was not there without a renewal.
        let revision = etcd.client().await.lease_time_to_live(third, None).await.map(|left| left.ttl());
        match revision {
            Ok(left) if left >= before.max(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(etcd.get(KEY).await.is_none());
    let options = PutOptions::new().with_lease(third);
    etcd.client().await.put(KEY, value, Some(options)).await.expect("etcd takes a put");
    server.shows(KEY).await;
    program.leave().await;
    program.until("it leaves", SOON, |told| (told.last()? == &json!({ "left": true })).then_some(())).await;
    assert!(etcd.get(KEY).await.is_none(), "it took out what stood there on its lease");
    assert_eq!(states(&program.told().await).last().map(String::as_str), Some("ended"));
}

const MINE: &str = "/microservices/pay/mine";

/// What registers `MINE`, with what is said of the request beside its instance.
fn mine(base: &str, ttl_s: Option<i64>, keep_alive: Option<&str>) -> Value {
    let mut options = registered(base);
    options["request"]["ttl_s"] = json!(ttl_s);
    if let Some(keep_alive) = keep_alive {
        options["request"]["keep_alive"] = json!(keep_alive);
    }
    options
}

async fn is_alive(program: &Program, times: usize) {
    program
        .until("it is alive", SOON, |told| {
            (states(told).iter().filter(|state| *state == "alive").count() >= times).then_some(())
        })
        .await;
}

async fn has_left(program: &Program) {
    program.leave().await;
    program.until("it leaves", SOON, |told| (told.last()? == &json!({ "left": true })).then_some(())).await;
    assert_eq!(states(&program.told().await).last().map(String::as_str), Some("ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_renewed_is_registered_anew_after_its_restart() {
    let etcd = Etcd::spawn().await;
    let port = free_port();
    let mut server = serve_at(&etcd, port, &[]).await;
    // etcd tells whole seconds: a third of this is more than one of them.
    let program = Program::in_node(&mine(&server.origin(), Some(6), Some("server")));
    is_alive(&program, 1).await;
    let (value, lease) = etcd.entry(MINE).await.expect("it stands in etcd");
    server.kill();
    let _server = serve_at(&etcd, port, &[]).await;
    // Nobody renews it any more; once it has run out, another one takes its place.
    let renewed = eventually("it stands on another lease", SOON, || async {
        match etcd.entry(MINE).await {
            Some((now, other)) if other != lease && now == value => Ok(other),
            other => Err(other.map(|(_, lease)| lease)),
        }
    })
    .await;
    is_alive(&program, 2).await;
    let told = program.told().await;
    assert!(states(&told).iter().any(|state| state == "lost"), "{told:#?}");
    // The client only looks.
    let least = AtomicI64::new(i64::MAX);
    eventually("the server renews it", SOON, || async {
        let left = etcd.ttl(renewed).await.ok_or("it has ended")?;
        if left > least.fetch_min(left, Ordering::SeqCst) { Ok(()) } else { Err("it was never more than before") }
    })
    .await;
    has_left(&program).await;
    assert!(etcd.get(MINE).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_takes_out_stays_out_where_the_server_renewed_it() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let site = Site::serve(Some(&server)).await;
    let program = Program::in_node(&mine(&site.origin(), Some(3), Some("server")));
    is_alive(&program, 1).await;
    let (_, lease) = etcd.entry(MINE).await.expect("it stands in etcd");
    server.deregister(MINE).await.expect(200);
    // One may have been under way.
    let before = site.behind.leases.load(Ordering::SeqCst);
    rises("the lease is looked at", &site.behind.leases, before + 2).await;
    // As the server does a minute later.
    etcd.revoke(lease).await;
    program.until("it is over", SOON, |told| (told.last()? == &json!({ "left": true })).then_some(())).await;
    assert_eq!(states(&program.told().await), ["alive", "ended"]);
    assert!(etcd.get(MINE).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_of_an_ingress_ends_neither_a_lease_nor_a_registration() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let site = Site::serve(Some(&server)).await;
    let mut options = mine(&site.origin(), Some(9), None);
    options["insists"] = json!(true);
    let program = Program::in_node(&options);
    is_alive(&program, 1).await;
    let before = etcd.entry(MINE).await.expect("it stands in etcd");
    site.go_astray().await;
    program.until("it tries again", SOON, |told| (told.last()?["state"] == "retrying").then_some(())).await;
    site.come_back();
    is_alive(&program, 2).await;
    assert_eq!(states(&program.told().await), ["alive", "retrying", "alive"]);
    assert_eq!(etcd.entry(MINE).await, Some(before));

    site.behind.is_astray.store(true, Ordering::SeqCst);
    program.leave().await;
    let refused = program
        .until("it is refused", SOON, |told| told.iter().find(|told| told.get("refused").is_some()).cloned())
        .await;
    assert_eq!(refused, json!({ "refused": "unreadable", "status": 404 }));
    assert!(etcd.get(MINE).await.is_some());
    site.come_back();
    program.until("it leaves", SOON, |told| (told.last()? == &json!({ "left": true })).then_some(())).await;
    assert!(etcd.get(MINE).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_put_there_stays() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let theirs = kratos("pay", "mine", "http://10.0.0.9:80");

    let program = Program::in_node(&mine(&server.origin(), Some(3), None));
    is_alive(&program, 1).await;
    let (_, lease) = etcd.entry(MINE).await.expect("it stands in etcd");
    etcd.put(MINE, theirs.clone()).await;
    etcd.revoke(lease).await;
    program.until("it is lost", SOON, |told| (told.last()?["state"] == "lost").then_some(())).await;
    has_left(&program).await;
    assert_eq!(etcd.entry(MINE).await, Some((theirs.clone().into(), 0)), "its lease was lost");
    etcd.delete(MINE).await;

    let program = Program::in_node(&mine(&server.origin(), None, None));
    is_alive(&program, 1).await;
    etcd.delete(MINE).await;
    etcd.put(MINE, theirs.clone()).await;
    has_left(&program).await;
    assert_eq!(etcd.entry(MINE).await, Some((theirs.clone().into(), 0)), "its key was deleted");
    etcd.delete(MINE).await;

    let program = Program::in_node(&mine(&server.origin(), None, None));
    is_alive(&program, 1).await;
    etcd.put(MINE, theirs).await;
    has_left(&program).await;
    assert!(etcd.get(MINE).await.is_none(), "what was merely edited is its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_a_watch_gets_the_newest_list() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    let port = free_port();
    let mut server = serve_at(&etcd, port, &[]).await;
    let options = json!({ "program": "watch", "base": server.origin(), "name": "pay" });
    let quick = Program::in_node(&options);
    let mut slow = options;
    slow["is_slow"] = json!(true);
    let slow = Program::in_node(&slow);
    for program in [&quick, &slow] {
        program.until("the first list", SOON, |told| (lists(told) == [at(&[1])]).then_some(())).await;
    }
    for last in 2..5 {
        put(&etcd, last).await;
        let wanted: Vec<u32> = (1..=last).collect();
        quick.until("the next list", SOON, |told| (lists(told).last()? == &at(&wanted)).then_some(())).await;
    }
    // The slow one reads on once its line has ended, after all that came by it.
    assert_eq!(lists(&slow.told().await).len(), 1);
    assert_eq!(server.end("TERM").await, Some(0));
    slow.until("the newest list", SOON, |told| (lists(told).len() >= 2).then_some(())).await;
    assert_eq!(lists(&slow.told().await), [at(&[1]), at(&[1, 2, 3, 4])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_no_second_registration() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let proxy = FaultProxy::to(&server.address()).await;
    // What is asked arrives, and not a byte of what is answered.
    proxy.stall_after(0);
    let instance =
        json!({ "id": "mine", "name": "pay", "metadata": { "b": "1", "a": "2" }, "endpoints": ["http://10.0.0.1:80"] });
    let options =
        json!({ "program": "registered", "base": proxy.url(), "request": { "instance": instance, "ttl_s": 600 } });
    let program = Program::in_node(&options);
    etcd.key_stands("/microservices/pay/mine", true, SOON).await;
    let (_, lease) = etcd.entry("/microservices/pay/mine").await.expect("it stands in etcd");
    proxy.reset().await;
    proxy.heal();
    let told = program
        .until("it is registered", SOON, |told| told.iter().find(|told| told["state"] == "alive").cloned())
        .await;
    assert_eq!(told["lease"], format!("{lease:016x}"), "it has taken that lease for its own");
    assert_eq!(etcd.leases().await, [lease]);
    program.leave().await;
    etcd.key_stands("/microservices/pay/mine", false, SOON).await;
}

#[test]
fn the_package_is_small() {
    let brotli = |file: &str| {
        let bytes = fs::read(package().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut writer = brotli::CompressorWriter::new(Vec::new(), 1 << 16, 11, 22);
        writer.write_all(&bytes).expect("memory takes bytes");
        writer.into_inner().len()
    };
    let files = ["rollcall_client_bg.wasm", "rollcall_client.js", "rollcall.js", "index.js"];
    let sizes: Vec<(&str, usize)> = files.into_iter().map(|file| (file, brotli(file))).collect();
    let sum: usize = sizes.iter().map(|(_, size)| size).sum();
    println!("what an app loads of the package takes {sum} bytes of brotli: {sizes:?}");
    assert!(sum <= PACKAGE_BYTES_MAX, "{sum} bytes: {sizes:?}");
    assert!(brotli("node.js") < 1000);
}

#[test]
fn the_package_holds_what_it_needs_and_nothing_else() {
    let mut npm = Command::new("npm");
    npm.current_dir(package()).args(["pack", "--dry-run", "--json", "--loglevel=error"]);
    let packed = npm.output().unwrap_or_else(|error| panic!("npm could not be started ({error}); {INSTALL_NODE}"));
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let packed: Value = serde_json::from_slice(&packed.stdout).expect("npm writes JSON");
    let packed = packed.pointer("/0").or_else(|| packed.as_object()?.values().next()).expect("it packs one package");
    let mut files: Vec<&str> =
        packed["files"].as_array().expect("files are a list").iter().filter_map(|file| file["path"].as_str()).collect();
    files.sort_unstable();
    assert_eq!(
        files,
        [
            "LICENSE",
            "README.md",
            "index.d.ts",
            "index.js",
            "node.js",
            "package.json",
            "rollcall.js",
            "rollcall_client.js",
            "rollcall_client_bg.wasm"
        ]
    );
    assert_eq!(packed["name"], "rollcall-client");
    assert_eq!(packed["version"], env!("CARGO_PKG_VERSION"));
}

/// Has TypeScript's compiler check a file of a project, as strictly as it can.
fn check_types(project: &TempDir, file: &str) {
    let compiler = env::var_os("ROLLCALL_TSC").expect(
        "ROLLCALL_TSC names no tsc.js: `cargo xtask test client_js` fetches it, or `npm install typescript` does",
    );
    let mut tsc = Command::new("node");
    tsc.current_dir(project.path()).arg(compiler).args(["--noEmit", "--strict", "--exactOptionalPropertyTypes"]);
    tsc.args(["--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022"]);
    tsc.args(["--lib", "esnext,dom,dom.iterable,dom.asynciterable", "--preserveSymlinks", file]);
    let checked = tsc.output().unwrap_or_else(|error| panic!("node could not be started ({error}); {INSTALL_NODE}"));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn a_typed_program_compiles_and_a_wrong_one_does_not() {
    check_types(&project(&["use.ts"]), "use.ts");
}

/// The types' names, by those of the schemas that the server serves, with what the package adds to an event.
const TYPES: [(&str, &str, &[&str]); 21] = [
    ("Instance", "ServiceInstance", &[]),
    ("Record", "RegistryRecord", &[]),
    ("ServiceSummary", "ServiceSummary", &[]),
    ("ServicesAnswer", "ServicesAnswer", &[]),
    ("RecordsAnswer", "RecordsAnswer", &[]),
    ("LeaseAnswer", "LeaseAnswer", &[]),
    ("RegisterRequest", "RegisterRequest", &[]),
    ("InstanceDraft", "RegisterRequest['instance']", &[]),
    ("RegisterAnswer", "RegisterAnswer", &[]),
    ("DeregisterAnswer", "DeregisterAnswer", &[]),
    ("RevokeAnswer", "RevokeAnswer", &[]),
    ("FieldError", "FieldError", &[]),
    ("Problem", "Problem", &[]),
    ("Snapshot", "SnapshotEvent", &["cursor"]),
    ("Delta", "DeltaEvent", &["cursor"]),
    ("Change", "Change", &["put", "delete"]),
    ("Progress", "ProgressEvent", &["cursor"]),
    ("Cause", "CauseEvent", &[]),
    ("StatusEvent", "StatusEvent", &["type"]),
    ("TtlEvent", "TtlEvent", &["type"]),
    ("LeaseTtl", "TtlEvent['leases'][number]", &[]),
];

/// Each type has the fields that the server's own description has, takes its examples, and knows the same words.
#[test]
fn the_types_are_the_contract() {
    use std::fmt::Write as _;

    let described = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backend/server/src/openapi.json");
    let described = fs::read_to_string(&described).unwrap_or_else(|error| panic!("{}: {error}", described.display()));
    let described: Value = serde_json::from_str(&described).expect("the description is JSON");
    let schemas = &described["components"]["schemas"];
    let mut program = "import type * as client from 'rollcall-client';\n\
        type Keys<T> = T extends unknown ? keyof T : never;\n\
        type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;\n"
        .to_owned();
    let words =
        |words: &mut dyn Iterator<Item = &str>| words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join("|");
    let mut line = |index: usize, what: &str, is: String| {
        writeln!(program, "export const {what}_{index}: {is};").expect("memory takes text");
    };
    for (index, (schema, name, added)) in TYPES.into_iter().enumerate() {
        let schema = &schemas[schema];
        let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().map(String::as_str));
        let fields = words(&mut fields.chain(added.iter().copied()));
        line(index, "fields", format!("Same<Keys<client.{name}>, {fields}> = true"));
        let examples = schema["examples"].as_array().unwrap_or_else(|| panic!("{name} has no example"));
        for (number, example) in examples.iter().enumerate() {
            let mut example = example.clone();
            match name {
                "StatusEvent" => example["type"] = json!("status"),
                "TtlEvent" => example["type"] = json!("ttl"),
                _ => {}
            }
            line(index, &format!("example_{number}"), format!("client.{name} = {example}"));
        }
    }
    for (index, (pointer, name)) in [
        ("/Layout/enum", "Layout"),
        ("/Snapshot/properties/reason/enum", "SnapshotEvent['reason']"),
        ("/Cause/properties/cause/enum", "CauseEvent['cause']"),
        ("/StatusEvent/properties/etcd/enum", "StatusEvent['etcd']"),
    ]
    .into_iter()
    .enumerate()
    {
        let known = schemas.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no {pointer}"));
        let known = words(&mut known.iter().filter_map(Value::as_str));
        line(index, "words", format!("Same<client.{name}, {known}> = true"));
    }
    let project = project(&[]);
    fs::write(project.path().join("contract.ts"), program).expect("a folder of one's own can be written");
    check_types(&project, "contract.ts");
}

/// A server cuts off who takes nothing for 10 s while there is something to take.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_for_a_while_misses_nothing() {
    const PUTS: u32 = 400;
    let etcd = Etcd::spawn().await;
    put(&etcd, 0).await;
    let server = Server::start(&etcd).await;
    let program = Program::in_node(&json!({ "program": "follow", "base": server.origin(), "pause_ms": 30_000 }));
    program.until("the first snapshot", SOON, |told| events(told).first().cloned()).await;
    // More than lies between the two on the way.
    let large = "x".repeat(60_000);
    let mut wanted = Vec::new();
    for id in 0..PUTS {
        wanted.push(
            etcd.put(&format!("/microservices/pay/{}", id % 10), pay(id).replace("\"a\"", &format!("{large:?}"))).await,
        );
    }
    program.until("the last of it", seconds(60), |told| (revisions(told).last() == wanted.last()).then_some(())).await;
    let told = program.told().await;
    assert_eq!(revisions(&told), wanted);
    assert!(opened(&told) >= 2);
    assert_eq!(fold(&told), records(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_come_whole() {
    const INSTANCES: u32 = 5_000;
    let etcd = Etcd::spawn().await;
    etcd.fill("many", INSTANCES).await;
    let server = Server::start(&etcd).await;
    let follow = Program::in_node(&json!({ "program": "follow", "base": server.origin() }));
    follow
        .until("the whole snapshot", SOON, |told| {
            let is_last = |event: &RegistryEvent| matches!(event, RegistryEvent::Snapshot(snapshot) if !snapshot.more);
            events(told).last().filter(|event| is_last(event)).cloned()
        })
        .await;
    let stands = records(&server).await;
    assert_eq!(stands.len(), INSTANCES as usize);
    assert_eq!(fold(&follow.told().await), stands);
    let watch = Program::in_node(&json!({ "program": "watch", "base": server.origin(), "name": "many" }));
    let list = watch
        .until("the whole list", SOON, |told| told.iter().find_map(|told| told["instances"].as_array().cloned()))
        .await;
    let wanted: Vec<Value> = stands.iter().map(|record| json!(record.instance())).collect();
    assert_eq!(list, wanted);
}

/// What is told of a record is what the contract has, field by field.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_what_the_server_says() {
    let etcd = Etcd::spawn().await;
    put(&etcd, 1).await;
    etcd.put("/microservices/pay/bad", vec![0xff]).await;
    let server = Server::start(&etcd).await;
    let program = Program::in_node(&json!({ "program": "follow", "base": server.origin() }));
    let snapshot = program
        .until("the first snapshot", SOON, |told| told.iter().find(|told| told["type"] == "snapshot").cloned())
        .await;
    let mut stream = server.events("").await;
    let (id, said) = loop {
        let message = stream.next_message(SOON).await;
        if message.json["type"] == "snapshot" {
            break (message.id, message.json);
        }
    };
    let mut wanted = said;
    wanted["cursor"] = json!(id);
    assert_eq!(snapshot, wanted);
    let change = |told: &[Value]| told.iter().find(|told| told["type"] == "delta").cloned();
    put(&etcd, 2).await;
    let delta = program.until("a delta", SOON, change).await;
    let told: Vec<Change> = serde_json::from_value(delta["changes"].clone()).expect("changes read as changes");
    assert_eq!(told.iter().map(Change::key).collect::<Vec<_>>(), ["/microservices/pay/2"]);
    assert!(delta["cursor"].is_string());
}
