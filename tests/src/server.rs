//! The real program, as users start it.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder};
use rollcall_shared::{api::API, record::Record};
use serde_json::Value;

use crate::{
    etcd::Etcd,
    http::{self, Answer, encode},
    process::Process,
    sse::{Follower, SseClient},
    wait::{eventually, seconds},
};

/// How long the server may take to listen, and then to know its sources. Generous: the machine may be busy.
const START_MAX: Duration = Duration::from_secs(30);

/// The binary that `cargo xtask build` makes; `ROLLCALL_BIN` names another.
pub fn binary() -> PathBuf {
    let path = env::var_os("ROLLCALL_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/rollcall"), PathBuf::from);
    assert!(path.is_file(), "{} is missing; build it: `cargo xtask build`", path.display());
    path
}

/// `rollcall` with these arguments, and nothing of this process' settings.
pub fn rollcall(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("ROLLCALL_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").args(args);
    command
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Process,
    base: String,
    http: Client,
}

impl Server {
    /// `rollcall serve` over `etcd`, ready to answer.
    pub async fn start(etcd: &Etcd) -> Self {
        Self::start_with(etcd, &[]).await
    }

    /// `rollcall serve` over `etcd` with further flags, ready to answer.
    pub async fn start_with(etcd: &Etcd, args: &[&str]) -> Self {
        let server = Self::launch(&etcd.url(), args).await;
        server.ready().await;
        server
    }

    /// `rollcall serve` over `endpoints`, listening but not necessarily ready.
    pub async fn launch(endpoints: &str, args: &[&str]) -> Self {
        let mut command = rollcall(["serve", "--endpoints", endpoints, "--listen", "127.0.0.1:0"]);
        command.args(args);
        Self::of(command).await
    }

    /// Any command of the program that listens.
    pub async fn of(command: Command) -> Self {
        Self::of_logged(command, str::to_owned).await
    }

    /// Any command of the program that listens and logs JSON.
    pub async fn of_logged_as_json(command: Command) -> Self {
        let message = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let message = line.get("message").or_else(|| line.pointer("/fields/message"));
            message.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Self::of_logged(command, message).await
    }

    async fn of_logged(command: Command, message: impl Fn(&str) -> String) -> Self {
        let mut process = Process::start("rollcall", command, "build it: `cargo xtask build`").gently();
        let base = process
            .stderr_line("the server says where it listens", START_MAX, |line| {
                let line = message(line);
                let (_, address) = line.rsplit_once("listening on ")?;
                address.starts_with("http://").then(|| address.trim().trim_end_matches('/').to_owned())
            })
            .await;
        Self { process, base, http: http::client() }
    }

    /// Waits until it knows its sources.
    pub async fn ready(&self) {
        self.ready_at("").await;
    }

    /// Waits until it knows its sources, where all of it stands below a path.
    pub async fn ready_at(&self, base_path: &str) {
        eventually("the server is ready", START_MAX, || async {
            match http::try_send(self.http.get(format!("{}{base_path}/readyz", self.origin()))).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens: scheme, host and port, and the base path if it says one.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Scheme, host and port alone.
    pub fn origin(&self) -> String {
        self.base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
    }

    /// Host and port alone.
    pub fn address(&self) -> String {
        self.origin().trim_start_matches("http://").to_owned()
    }

    /// A request to a path at the root, to be completed by the test.
    pub fn at_root(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.origin()))
    }

    /// A request to a path below `/api/v1`, to be completed by the test.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.at_root(method, &format!("{API}{path}"))
    }

    /// `GET` of a path at the root.
    pub async fn page(&self, path: &str) -> Answer {
        http::send(self.at_root(Method::GET, path)).await
    }

    /// `GET` below `/api/v1`.
    pub async fn get(&self, path: &str) -> Answer {
        http::send(self.request(Method::GET, path)).await
    }

    /// `DELETE` below `/api/v1`.
    pub async fn delete(&self, path: &str) -> Answer {
        http::send(self.request(Method::DELETE, path)).await
    }

    /// `POST` of JSON below `/api/v1`.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        http::send(http::json(&self.http, Method::POST, &format!("{}{API}{path}", self.origin()), body)).await
    }

    /// `POST` without a body below `/api/v1`.
    pub async fn post_empty(&self, path: &str) -> Answer {
        http::send(self.request(Method::POST, path)).await
    }

    /// The record under a key, where the server knows one.
    pub async fn record(&self, key: &str) -> Option<Record> {
        let answer = self.get("/instances").await.expect(200);
        let records = answer["records"].as_array().cloned().unwrap_or_default();
        let found = records.into_iter().find(|record| record["key"] == key)?;
        Some(serde_json::from_value(found).expect("a record reads as one"))
    }

    /// Waits until the server shows a key, and gives its record.
    pub async fn shows(&self, key: &str) -> Record {
        eventually(&format!("the server shows {key}"), seconds(10), || async { self.record(key).await.ok_or(()) }).await
    }

    /// Waits until the server shows a key no more.
    pub async fn lost(&self, key: &str, within: Duration) {
        eventually(&format!("the server shows {key} no more"), within, || async {
            self.record(key).await.map_or(Ok(()), Err)
        })
        .await;
    }

    /// Deregisters the key at the revision it stands at.
    pub async fn deregister(&self, key: &str) -> Answer {
        let record = self.shows(key).await;
        self.delete(&format!("/instances?key={}&mod_revision={}", encode(key), record.mod_revision)).await
    }

    /// The stream, with this query (`""` for none).
    pub async fn events(&self, query: &str) -> SseClient {
        SseClient::open(self.request(Method::GET, &format!("/events{query}"))).await
    }

    /// The stream from a cursor, as a browser comes back to it.
    pub async fn events_from(&self, cursor: &str, query: &str) -> SseClient {
        let request = self.request(Method::GET, &format!("/events{query}"));
        SseClient::open(request.header("last-event-id", cursor)).await
    }

    /// The stream folded, up to its first snapshot.
    pub async fn follow(&self, query: &str) -> Follower {
        let mut follower = Follower::new(self.events(query).await);
        follower.until("a snapshot stands", seconds(20), |follower| follower.snapshots() > 0).await;
        follower
    }

    /// Ends it by a signal, and gives its exit code.
    pub async fn end(&mut self, signal: &str) -> Option<i32> {
        self.process.signal(signal);
        self.process.ended(seconds(10)).await.code()
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
