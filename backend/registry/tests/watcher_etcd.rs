//! The watcher against a real etcd, and all that befalls one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    pin::Pin,
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use futures_util::{Stream, StreamExt as _};
use rollcall_registry::etcd::{
    connect::{ConnectConfig, Connection},
    entry::{EntryChange, View},
    source::{EtcdSource, PAGE_KEYS},
    watcher::{SourceEvent, WatchError, watcher, with_backoff},
};
use rollcall_shared::{KeyPrefix, Revision, SnapshotReason, SourcePosition};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(90);

/// A private etcd, ended and thrown away with the value.
struct Etcd {
    folder: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    async fn spawn(args: &[&str]) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let args = args.iter().map(ToString::to_string).collect();
        let mut etcd = Self { folder, client_port: free_port(), peer_port: free_port(), args, child: None };
        etcd.start().await;
        etcd
    }

    /// Starts it, also again on its data, and waits until it answers.
    async fn start(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--name", "one", "--initial-cluster", &format!("one={peer}"), "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--log-level", "error"])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is needed: `apt-get install etcd-server`, or https://etcd.io/docs/latest/install/");
        self.child = Some(child);
        let begun = Instant::now();
        while !matches!(timeout(Duration::from_secs(2), self.client().await.get("x", None)).await, Ok(Ok(_))) {
            assert!(begun.elapsed() < LIMIT, "etcd does not answer");
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "etcd ended at its start: {ended:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal by its name, without SIG.
    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }

    /// Puts keys in one revision, which it gives.
    async fn put_together(&self, keys: impl IntoIterator<Item = (String, Vec<u8>)>) -> Revision {
        let puts: Vec<_> = keys.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).collect();
        let answer = self.client().await.txn(Txn::new().and_then(puts)).await.unwrap();
        answer.header().unwrap().revision()
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        self.put_together([(key.to_owned(), value.into())]).await
    }

    async fn compact(&self, revision: Revision) {
        self.client().await.compact(revision, None).await.unwrap();
    }

    fn source(&self, prefix: &str, all: &[&str]) -> EtcdSource {
        let endpoints = vec![self.url()];
        let connection = Connection::new(ConnectConfig { endpoints, ..ConnectConfig::default() }).unwrap();
        let all: Vec<KeyPrefix> = all.iter().map(|text| KeyPrefix::new(text).unwrap()).collect();
        EtcdSource::new(connection, KeyPrefix::new(prefix).unwrap(), &all)
    }

    fn read(&self, prefix: &str, all: &[&str]) -> Reader {
        let events = Box::pin(with_backoff(watcher(self.source(prefix, all))));
        let (keys, position) = (BTreeMap::new(), SourcePosition::default());
        Reader { events, keys, position, told: Vec::new(), errors: Vec::new() }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads what the watcher says, and checks each digest.
struct Reader {
    events: Pin<Box<dyn Stream<Item = Result<SourceEvent, WatchError>>>>,
    keys: BTreeMap<Vec<u8>, rollcall_registry::etcd::entry::Entry>,
    position: SourcePosition,
    /// Snapshots and deltas, shortly.
    told: Vec<String>,
    errors: Vec<WatchError>,
}

impl Reader {
    async fn next(&mut self) -> Option<SourceEvent> {
        let event = match timeout(LIMIT, self.events.next()).await.expect("something is said").unwrap() {
            Ok(event) => event,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        match &event {
            SourceEvent::Snapshot { reason, position, entries, .. } => {
                self.told.push(format!("{reason:?} of {} at {}", entries.len(), position.revision));
                self.keys = entries.iter().map(|entry| (entry.key.to_vec(), entry.clone())).collect();
                self.position = *position;
            }
            SourceEvent::Delta { position, changes } => {
                self.told.push(format!("delta of {} at {}", changes.len(), position.revision));
                assert!(position.revision > self.position.revision);
                for change in changes {
                    assert_eq!(change.revision(), position.revision);
                    match change {
                        EntryChange::Put(entry) => self.keys.insert(entry.key.to_vec(), entry.clone()),
                        EntryChange::Delete { key, .. } => Some(self.keys.remove(&key[..]).expect("it was told of")),
                    };
                }
                self.position = *position;
            }
            SourceEvent::Progress(position) | SourceEvent::Unchanged(position) => self.position = *position,
            SourceEvent::Opened | SourceEvent::Heard => {}
        }
        let entries: Vec<_> = self.keys.values().cloned().collect();
        assert_eq!(View::new(self.position.revision, &entries).position(), self.position);
        Some(event)
    }

    /// Reads until `holds`.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self, &SourceEvent) -> bool) {
        let begun = Instant::now();
        loop {
            if let Some(event) = self.next().await
                && holds(self, &event)
            {
                return;
            }
            let (told, errors) = (&self.told, &self.errors);
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; told {told:?}, errors {errors:?}");
        }
    }

    async fn until_opened(&mut self) {
        self.until("a watch opens", |_, event| *event == SourceEvent::Opened).await;
    }

    async fn until_at(&mut self, revision: Revision) {
        self.until("the revision is told", |reader, _| reader.position.revision >= revision).await;
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    fn values(&self) -> Vec<(&str, &[u8])> {
        self.keys.values().map(|entry| (std::str::from_utf8(&entry.key).unwrap(), &entry.value[..])).collect()
    }
}

#[tokio::test]
async fn three_thousand_keys_under_overlapping_prefixes_are_each_listed_by_their_owner() {
    let etcd = Etcd::spawn(&[]).await;
    let mut revision = 0;
    for hundred in 0..30 {
        let keys = (hundred * 100..hundred * 100 + 100).map(|index| {
            let folder = if index % 3 == 0 { "/a/b" } else { "/a" };
            (format!("{folder}/{index:04}"), index.to_string().into_bytes())
        });
        revision = etcd.put_together(keys).await;
    }
    const { assert!(PAGE_KEYS < 3_000, "the list has several pages") };
    etcd.put("/ab", "of neither").await;
    let (mut outer, mut inner) = (etcd.read("/a", &["/a", "/a/b"]), etcd.read("/a/b", &["/a", "/a/b"]));
    outer.until_opened().await;
    inner.until_opened().await;
    assert_eq!(outer.told(), [format!("Connected of 2000 at {}", revision + 1)]);
    assert_eq!(inner.told(), [format!("Connected of 1000 at {}", revision + 1)]);
    assert!(outer.values().iter().all(|(key, _)| !key.starts_with("/a/b/")));

    // One transaction is one delta in each; a name that only begins like the inner prefix is the outer one's.
    let keys = ["/a/1", "/a/2", "/a/bc", "/a/b/1", "/c/1"].map(|key| (key.to_owned(), b"together".to_vec()));
    let together = etcd.put_together(keys).await;
    outer.until_at(together).await;
    inner.until_at(together).await;
    assert_eq!(outer.told(), [format!("delta of 3 at {together}")]);
    assert_eq!(inner.told(), [format!("delta of 1 at {together}")]);
}

#[tokio::test]
async fn a_lease_with_many_keys_goes_in_one_delta() {
    let etcd = Etcd::spawn(&[]).await;
    let mut client = etcd.client().await;
    let lease = client.lease_grant(600, None).await.unwrap().id();
    for hundred in 0..10 {
        let puts: Vec<_> = (0..100)
            .map(|index| TxnOp::put(format!("/a/{hundred}-{index}"), "x", Some(PutOptions::new().with_lease(lease))))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let mut reader = etcd.read("/a", &["/a"]);
    reader.until_opened().await;
    reader.told();
    let revision = client.lease_revoke(lease).await.unwrap().header().unwrap().revision();
    reader.until_at(revision).await;
    assert_eq!(reader.told(), [format!("delta of 1000 at {revision}")]);
    assert!(reader.keys.is_empty());
}

#[tokio::test]
async fn killed_and_started_again_nothing_is_lost_and_compaction_tells_only_what_changed() {
    let mut etcd = Etcd::spawn(&[]).await;
    etcd.put("/a/1", "first").await;
    let mut reader = etcd.read("/a", &["/a"]);
    reader.until_opened().await;
    let told = etcd.put("/a/2", "told").await;
    reader.until_at(told).await;
    reader.told();

    // The history is there: deltas.
    etcd.kill();
    etcd.start().await;
    let (one, two) = (etcd.put("/a/1", "missed").await, etcd.put("/a/3", "missed too").await);
    reader.until_at(two).await;
    assert_eq!(reader.told(), [format!("delta of 1 at {one}"), format!("delta of 1 at {two}")]);
    assert!(!reader.errors.is_empty(), "the outage was told");

    // The history is gone, and the view is the same: nothing.
    etcd.kill();
    etcd.start().await;
    etcd.put("/b/1", "elsewhere").await;
    let revision = etcd.put("/b/1", "elsewhere again").await;
    etcd.compact(revision).await;
    reader.until_opened().await;
    assert_eq!(reader.told(), [] as [&str; 0]);
    assert_eq!(reader.position.revision, revision);

    // The history is gone, and the view is another: the present, with its reason.
    etcd.kill();
    etcd.start().await;
    etcd.client().await.delete("/a/2", None).await.unwrap();
    let revision = etcd.put("/a/4", "after").await;
    etcd.compact(revision).await;
    reader.until_opened().await;
    assert_eq!(reader.told(), [format!("{:?} of 3 at {revision}", SnapshotReason::Compacted)]);
    assert_eq!(reader.values(), [("/a/1", &b"missed"[..]), ("/a/3", b"missed too"), ("/a/4", b"after")]);
}

#[tokio::test]
async fn a_frozen_etcd_is_given_up_and_read_again_when_it_thaws() {
    let etcd = Etcd::spawn(&[]).await;
    etcd.put("/a/1", "first").await;
    let mut reader = etcd.read("/a", &["/a"]);
    reader.until_opened().await;
    reader.told();
    etcd.signal("STOP");
    while reader.errors.is_empty() {
        reader.next().await;
    }
    etcd.signal("CONT");
    let revision = etcd.put("/a/1", "second").await;
    reader.until_at(revision).await;
    assert_eq!(reader.told(), [format!("delta of 1 at {revision}")]);
}

#[tokio::test]
async fn a_revision_larger_than_4_mib_is_one_delta() {
    let etcd = Etcd::spawn(&["--max-request-bytes", "10485760"]).await;
    let mut reader = etcd.read("/a", &["/a"]);
    reader.until_opened().await;
    reader.told();
    let large = |letter: u8| (0..5).map(move |index| (format!("/a/{index}"), vec![letter; 1_468_006]));
    let revision = etcd.put_together(large(b'x')).await;
    reader.until_at(revision).await;
    assert_eq!(reader.told(), [format!("delta of 5 at {revision}")]);
    assert_eq!(reader.errors.len(), 0, "{:?}", reader.errors);
    // So is a page of a list.
    let mut other = etcd.read("/a", &["/a"]);
    other.until_opened().await;
    assert_eq!(other.told(), [format!("Connected of 5 at {revision}")]);
    assert_eq!(other.keys, reader.keys);
}

#[tokio::test]
async fn revisions_that_come_in_fragments_are_each_one_delta() {
    let etcd = Etcd::spawn(&[]).await;
    let mut reader = etcd.read("/a", &["/a"]);
    // The list is read and no watch stands yet: what happens now comes at once, and is larger than etcd's answers.
    assert!(matches!(reader.next().await, Some(SourceEvent::Snapshot { .. })));
    reader.told();
    let mut expected = Vec::new();
    for letter in b'a'..b'h' {
        let keys = (0..3).map(|index| (format!("/a/{index}"), vec![letter; 450_000]));
        let revision = etcd.put_together(keys).await;
        expected.push(format!("delta of 3 at {revision}"));
    }
    let last = etcd.put("/a/last", "small").await;
    expected.push(format!("delta of 1 at {last}"));
    reader.until_at(last).await;
    assert_eq!(reader.told(), expected);
    assert_eq!(reader.errors.len(), 0, "{:?}", reader.errors);
}
