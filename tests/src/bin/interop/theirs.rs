//! The Go programs: started, and asked. Knows how their lines read, and nothing of what the answers mean.

use std::{env, path::PathBuf, process::Command, time::Duration};

use rollcall_tests::{Etcd, Process};
use tokio::time::{Instant, sleep};

use crate::{
    framework::{Framework, OURS, Over},
    ours,
};

/// How often something is looked at that should come.
const POLL: Duration = Duration::from_millis(20);

/// How long a program may take to start, register or answer; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INSTALL: &str = "`cargo xtask interop` builds it";

/// The key of one instance of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Its lease; 0 for none.
    pub lease: i64,
}

/// Polls until `look` gives something, and says what was waited for where it does not within `within`.
pub async fn within<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(format!("{what}: not within {} s", within.as_secs()));
        }
        sleep(POLL).await;
    }
}

fn program(framework: &Framework, mode: &str, etcd: &str, service: &str) -> Command {
    let folder = env::var_os("ROLLCALL_INTEROP").map_or_else(|| "target/interop".into(), PathBuf::from);
    let mut command = Command::new(folder.join(framework.name));
    command.args([mode, "--etcd", etcd, "--name", &framework.their_name(service)]);
    command
}

/// Starts one that serves and registers; for [`OURS`] it is one of ours.
pub fn serve(framework: &Framework, etcd: &Etcd, service: &str, id: &str) -> Process {
    if framework.name == OURS.name {
        let ttl = Duration::from_secs(framework.fates.ttl_s.unsigned_abs());
        return ours::greeter_process_for(framework, &etcd.address(), service, id, ttl)
            .expect("this program is a file");
    }
    let mut command = program(framework, "serve", &etcd.address(), service);
    command.args(["--id", id]);
    Process::start(framework.name, command, INSTALL)
}

/// Starts one that calls `count` times, or for ever with 0.
pub fn call(framework: &Framework, etcd: &Etcd, service: &str, over: Over, count: u32, every_ms: u32) -> Process {
    call_as(framework, etcd, service, over, count, every_ms, framework.authority)
}

/// [`call`], with an `:authority` of one's choice, or of the framework's own.
pub fn call_as(
    framework: &Framework,
    etcd: &Etcd,
    service: &str,
    over: Over,
    count: u32,
    every_ms: u32,
    authority: Option<&str>,
) -> Process {
    let mut command = program(framework, "call", &etcd.address(), service);
    command.args(["--over", over.as_str(), "--count", &count.to_string(), "--every", &every_ms.to_string()]);
    if let Some(authority) = authority {
        command.args(["--authority", authority]);
    }
    Process::start(framework.name, command, INSTALL)
}

/// What one that lists prints, as JSON.
pub async fn list(framework: &Framework, etcd: &Etcd, service: &str) -> Result<serde_json::Value, String> {
    let mut process = Process::start(framework.name, program(framework, "list", &etcd.address(), service), INSTALL);
    let line = within("their list", PATIENCE, async || {
        let found = process.stdout().into_iter().find_map(|line| serde_json::from_str(&line).ok());
        match found {
            None if process.status().is_some() => Some(Err(process.stderr().pop().unwrap_or_default())),
            None => None,
            Some(line) => Some(Ok(line)),
        }
    })
    .await?;
    line.map_err(|why| format!("their list ended: {why}"))
}

/// The calls that one made so far: who answered, or why nobody did.
pub fn calls(process: &Process) -> Vec<Result<String, String>> {
    let outcome = |line: &String| {
        let answer = line.strip_prefix("OK ").map(|answer| Ok(answer.to_owned()));
        answer.or_else(|| line.strip_prefix("ERR ").map(|why| Err(why.to_owned())))
    };
    process.stdout().iter().filter_map(outcome).collect()
}

/// The one key of `service`, once it stands.
pub async fn registered(framework: &Framework, etcd: &Etcd, service: &str) -> Result<Entry, String> {
    within("their key", PATIENCE, async || entry(framework, etcd, service).await).await
}

/// The first key of `service`, where there is one.
pub async fn entry(framework: &Framework, etcd: &Etcd, service: &str) -> Option<Entry> {
    let options = etcd_client::GetOptions::new().with_prefix();
    let mut client = etcd.client().await;
    let asked = tokio::time::timeout(Duration::from_secs(3), client.get(framework.keys_of(service), Some(options)));
    let answer = asked.await.ok()?.ok()?;
    let found = answer.kvs().first()?;
    let key = String::from_utf8_lossy(found.key()).into_owned();
    Some(Entry { key, value: found.value().to_vec(), lease: found.lease() })
}
