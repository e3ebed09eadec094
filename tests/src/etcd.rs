//! A real etcd of one test's own: own folder, free ports, and everything that can befall one.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, Compare, CompareOp, GetOptions, PutOptions, Txn,
    TxnOp,
};
use tempfile::TempDir;

use crate::{
    process::Process,
    wait::{eventually, seconds},
};

const INSTALL: &str = "install it: `apt-get install etcd-server etcd-client`, or `brew install etcd`";

/// How often other ports are tried where somebody else was quicker.
const SPAWN_TRIES: usize = 5;

/// What one transaction may hold: less than etcd's default of 128.
const TXN_KEYS: usize = 100;

/// An etcd that dies with its test.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Process>,
    folder: TempDir,
    data: PathBuf,
    name: String,
    client_port: u16,
    /// A second door, by TLS alone.
    secure_port: Option<u16>,
    peer_port: u16,
    /// `--initial-cluster`: every member with its peer URL.
    cluster: String,
    args: Vec<String>,
}

/// Three etcds that are one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The members.
    pub members: Vec<Etcd>,
}

impl Cluster {
    /// Starts three members and waits until each answers.
    pub async fn spawn() -> Self {
        for _ in 0..SPAWN_TRIES {
            let mut members: Vec<Etcd> = (1..=3).map(|number| Etcd::unstarted(&format!("m{number}"), &[])).collect();
            let named = |member: &Etcd| format!("{}={}", member.name, member.peer_url());
            let all: Vec<String> = members.iter().map(named).collect();
            for member in &mut members {
                member.cluster = all.join(",");
                member.launch();
            }
            let mut answer = true;
            for member in &mut members {
                answer = answer && member.answers().await;
            }
            if answer {
                return Self { members };
            }
        }
        panic!("a cluster ended {SPAWN_TRIES} times right after its start");
    }

    /// The number of the member that leads, once one of those that run says so.
    pub async fn leader(&self) -> usize {
        eventually("a member leads", seconds(20), || async {
            for member in self.members.iter().filter(|member| member.process.is_some()) {
                let asked = tokio::time::timeout(seconds(1), async { member.client().await.status().await }).await;
                let Ok(Ok(status)) = asked else { continue };
                for (number, other) in self.members.iter().enumerate() {
                    if other.process.is_none() {
                        continue;
                    }
                    let asked = tokio::time::timeout(seconds(1), async { other.client().await.status().await }).await;
                    let Ok(Ok(of_other)) = asked else { continue };
                    let id = of_other.header().map(etcd_client::ResponseHeader::member_id);
                    if id == Some(status.leader()) {
                        return Ok(number);
                    }
                }
            }
            Err(())
        })
        .await
    }

    /// Where clients reach the members.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(Etcd::url).collect()
    }
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub async fn spawn() -> Self {
        Self::spawn_with(&[]).await
    }

    /// Starts one with further flags of etcd's.
    pub async fn spawn_with(args: &[&str]) -> Self {
        for _ in 0..SPAWN_TRIES {
            let mut etcd = Self::unstarted("test", args);
            etcd.launch();
            if etcd.answers().await {
                return etcd;
            }
        }
        panic!("etcd ended {SPAWN_TRIES} times right after its start");
    }

    /// Starts one that is also reached by TLS, at [`Etcd::secure_url`]: with that certificate and key, for clients whose
    /// own certificate the authority signed. All are files in PEM.
    pub async fn spawn_secure(certificate: &Path, key: &Path, authority: &Path) -> Self {
        let path = |file: &Path| file.to_str().expect("a path of one's own is UTF-8").to_owned();
        let (certificate, key, authority) = (path(certificate), path(key), path(authority));
        for _ in 0..SPAWN_TRIES {
            let mut etcd = Self::unstarted(
                "test",
                &[
                    "--cert-file",
                    &certificate,
                    "--key-file",
                    &key,
                    "--trusted-ca-file",
                    &authority,
                    "--client-cert-auth",
                ],
            );
            etcd.secure_port = Some(free_port());
            etcd.launch();
            if etcd.answers().await {
                return etcd;
            }
        }
        panic!("etcd ended {SPAWN_TRIES} times right after its start");
    }

    fn unstarted(name: &str, args: &[&str]) -> Self {
        crate::cryptography::choose();
        // A folder in memory, where there is one: the disk's fsync is none of these tests' business.
        let shared_memory = Path::new("/dev/shm");
        let folder = if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() }
            .expect("a folder for temporary files can be written");
        let mut etcd = Self {
            process: None,
            data: folder.path().join("data"),
            folder,
            name: name.to_owned(),
            client_port: free_port(),
            secure_port: None,
            peer_port: free_port(),
            cluster: String::new(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
        };
        etcd.cluster = format!("{name}={}", etcd.peer_url());
        etcd
    }

    fn launch(&mut self) {
        let client = self.url();
        let peer = self.peer_url();
        let mut command = Command::new(program("etcd"));
        command
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &self.listen_urls(), "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.args);
        self.process = Some(Process::start("etcd", command, INSTALL));
    }

    /// Waits until it answers; false where it ended instead.
    async fn answers(&mut self) -> bool {
        let url = self.url();
        for _ in 0..1_200 {
            if self.process.as_mut().is_none_or(|process| process.status().is_some()) {
                return false;
            }
            if let Ok(mut client) = Client::connect([&url], None).await
                && let Ok(Ok(_)) = tokio::time::timeout(seconds(2), client.get("x", None)).await
            {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        false
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Where clients reach it by TLS.
    pub fn secure_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.secure_port.expect("it was started with `spawn_secure`"))
    }

    fn listen_urls(&self) -> String {
        let secure = self.secure_port.map(|port| format!(",https://127.0.0.1:{port}"));
        self.url() + &secure.unwrap_or_default()
    }

    /// Where clients reach it, without the scheme.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("etcd runs").pid()
    }

    /// A connection of one's own.
    pub async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.expect("an etcd without users connects when it is first used")
    }

    /// Ends it as a crash would; its data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on its data, and waits until it answers.
    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "etcd runs already");
        self.launch();
        assert!(self.answers().await, "etcd did not come back");
    }

    /// Kills it and starts it again on its data.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    /// Freezes it: connections stand and nothing answers.
    pub fn pause(&self) {
        self.process.as_ref().expect("etcd runs").signal("STOP");
    }

    /// Thaws it.
    pub fn resume(&self) {
        self.process.as_ref().expect("etcd runs").signal("CONT");
    }

    /// Puts a permanent key and gives the revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        self.put_with(key, value, None).await
    }

    /// Puts a key under a lease and gives the revision.
    pub async fn put_leased(&self, key: &str, value: impl Into<Vec<u8>>, lease: i64) -> i64 {
        self.put_with(key, value, Some(PutOptions::new().with_lease(lease))).await
    }

    async fn put_with(&self, key: &str, value: impl Into<Vec<u8>>, options: Option<PutOptions>) -> i64 {
        let answer = self.client().await.put(key, value, options).await.expect("etcd takes a put");
        answer.header().map_or(0, etcd_client::ResponseHeader::revision)
    }

    /// Puts so many permanent kratos instances of a service, quickly, and gives their keys in order: ids are `000000`,
    /// `000001` and so on, their addresses of `10.0.0.0/8`, their metadata a zone of three.
    pub async fn fill(&self, service: &str, count: u32) -> Vec<String> {
        let mut client = self.client().await;
        let key = |number: u32| format!("/microservices/{service}/{number:06}");
        let value = |number: u32| {
            let [_, high, middle, low] = number.to_be_bytes();
            let endpoint = format!("http://10.{high}.{middle}.{low}:8000");
            let zone = ["a", "b", "c"][number as usize % 3];
            crate::kratos(service, &format!("{number:06}"), &endpoint).replacen(
                r#""zone":"a""#,
                &format!(r#""zone":"{zone}""#),
                1,
            )
        };
        let numbers: Vec<u32> = (0..count).collect();
        for numbers in numbers.chunks(TXN_KEYS) {
            let puts: Vec<TxnOp> = numbers.iter().map(|&number| TxnOp::put(key(number), value(number), None)).collect();
            client.txn(Txn::new().and_then(puts)).await.expect("etcd takes a transaction");
        }
        numbers.into_iter().map(key).collect()
    }

    /// Puts and deletes several keys in one revision, which it gives.
    pub async fn transact(&self, puts: &[(&str, &str)], deletes: &[&str]) -> i64 {
        let puts = puts.iter().map(|(key, value)| TxnOp::put(*key, *value, None));
        let deletes = deletes.iter().map(|key| TxnOp::delete(*key, None));
        let always = Compare::version("\0", CompareOp::Equal, 0);
        let txn = Txn::new().when([always]).and_then(puts.chain(deletes).collect::<Vec<_>>());
        let answer = self.client().await.txn(txn).await.expect("etcd takes a transaction");
        answer.header().map_or(0, etcd_client::ResponseHeader::revision)
    }

    /// Deletes a key and gives the revision.
    pub async fn delete(&self, key: &str) -> i64 {
        let answer = self.client().await.delete(key, None).await.expect("etcd takes a delete");
        answer.header().map_or(0, etcd_client::ResponseHeader::revision)
    }

    /// The value of a key, where it stands.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.entry(key).await.map(|(value, _)| value)
    }

    /// The value and the lease (0 for none) of a key, where it stands.
    pub async fn entry(&self, key: &str) -> Option<(Vec<u8>, i64)> {
        let answer = self.client().await.get(key, None).await.expect("etcd answers a get");
        answer.kvs().first().map(|kv| (kv.value().to_vec(), kv.lease()))
    }

    /// Every key below a prefix.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let answer = self.client().await.get(prefix, Some(options)).await.expect("etcd answers a get");
        answer.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned()).collect()
    }

    /// Every lease that etcd holds, sorted.
    pub async fn leases(&self) -> Vec<i64> {
        let answer = self.client().await.leases().await.expect("etcd lists its leases");
        let mut leases: Vec<i64> = answer.leases().iter().map(etcd_client::LeaseStatus::id).collect();
        leases.sort_unstable();
        leases
    }

    /// Its revision now.
    pub async fn revision(&self) -> i64 {
        let answer = self.client().await.get("x", None).await.expect("etcd answers a get");
        answer.header().map_or(0, etcd_client::ResponseHeader::revision)
    }

    /// Grants a lease that nobody renews.
    pub async fn grant(&self, ttl_s: i64) -> i64 {
        self.client().await.lease_grant(ttl_s, None).await.expect("etcd grants a lease").id()
    }

    /// Revokes a lease.
    pub async fn revoke(&self, lease: i64) {
        self.client().await.lease_revoke(lease).await.expect("etcd revokes a lease");
    }

    /// The seconds left of a lease, where it lives.
    pub async fn ttl(&self, lease: i64) -> Option<i64> {
        let answer = self.client().await.lease_time_to_live(lease, None).await.expect("etcd looks a lease up");
        (answer.ttl() > 0).then(|| answer.ttl())
    }

    /// Throws the history up to `revision` away.
    pub async fn compact(&self, revision: i64) {
        let options = CompactionOptions::new().with_physical();
        self.client().await.compact(revision, Some(options)).await.expect("etcd compacts");
    }

    /// Starts it again on its data without waiting until it answers, which without a quorum it does not.
    pub fn start_unasked(&mut self) {
        assert!(self.process.is_none(), "etcd runs already");
        self.launch();
    }

    /// Whether it was started and not killed since.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Copies its folder as it stands at this moment, as a backup of the disk does: what a crash now would leave.
    pub fn backup(&self) -> PathBuf {
        let copy = self.numbered("backup");
        self.pause();
        let copied = copy_folder(&self.data, &copy);
        self.resume();
        copied.expect("a folder of one's own can be copied");
        copy
    }

    /// Kills it and puts a backup in the place of its data; [`Etcd::start`] starts it on that.
    pub fn put_back(&mut self, backup: &Path) {
        self.kill();
        drop(fs::remove_dir_all(&self.data));
        copy_folder(backup, &self.data).expect("a folder of one's own can be copied");
    }

    /// Makes room after `NOSPACE`: gives the pages that compaction freed back, and disarms the alarm.
    pub async fn disarm(&self) {
        let mut client = self.client().await;
        client.defragment().await.expect("etcd defragments");
        let raised = client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await.expect("etcd lists its alarms");
        for alarm in raised.alarms() {
            let mut of_member = AlarmOptions::new();
            of_member.with_member(alarm.member_id());
            let disarmed = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of_member)).await;
            disarmed.expect("etcd disarms its alarm");
        }
    }

    fn numbered(&self, what: &str) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        self.folder.path().join(format!("{what}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
    }

    /// Saves all of it, and gives the file.
    pub fn snapshot(&self) -> PathBuf {
        let file = self.numbered("snapshot");
        let mut save = Command::new(program("etcdctl"));
        save.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "snapshot", "save"]).arg(&file);
        done(save);
        file
    }

    /// Puts a saved state in the place of all that stands now, as one does after losing a cluster.
    pub async fn restore(&mut self, snapshot: &Path) {
        self.kill();
        drop(fs::remove_dir_all(&self.data));
        // From 3.6 on a tool of its own restores.
        let tool = if on_path("etcdutl") { "etcdutl" } else { "etcdctl" };
        let peer = self.peer_url();
        let mut restore = Command::new(program(tool));
        restore
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(snapshot)
            .args(["--name", "test", "--initial-cluster", &format!("test={peer}")])
            .args(["--initial-advertise-peer-urls", &peer, "--data-dir"])
            .arg(&self.data);
        done(restore);
        self.start().await;
    }

    /// Waits until a key is there or is gone.
    pub async fn key_stands(&self, key: &str, stands: bool, within: std::time::Duration) {
        eventually(&format!("{key} stands: {stands}"), within, || async {
            let value = self.get(key).await;
            if value.is_some() == stands { Ok(()) } else { Err(value) }
        })
        .await;
    }
}

/// A port that nobody listened on just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}

/// The program of that name: `ROLLCALL_ETCD_BIN` names another etcd than the one on the PATH.
fn program(name: &str) -> PathBuf {
    match env::var_os("ROLLCALL_ETCD_BIN") {
        Some(etcd) if name == "etcd" => etcd.into(),
        _ => name.into(),
    }
}

fn on_path(name: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn done(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{} could not be started ({error}); {INSTALL}", command.get_program().display())
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
