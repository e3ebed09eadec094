//! The world of one scenario: etcd, servers over it, a writer, readers, and what befell them.
//!
//! Owns starting all of it, the markers by which convergence is timed, and ending it in the right order.

use std::{sync::Arc, time::Duration};

use etcd_client::{Client, Txn, TxnOp};
use rollcall_shared::{Decoded, Record, Revision};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    check::{self, CAUSE_MAX, Facts, Marker, Property, Verdict},
    reader::{Directory, Library, Messages, Phase, Plan, Reader},
    truth::{Selection, Truth},
    writer::{Deed, Diet, Writer},
};
use crate::{Cluster, Etcd, FaultProxy, Server, http, kratos, seconds};

/// How much longer than its bound a marker is waited for, so that it is known whether it comes at all.
const MARKER_PATIENCE: Duration = Duration::from_secs(30);

/// How many values are compared byte for byte at the end.
const RAW_VALUES_MAX: usize = 40;

/// How a world begins.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whether etcd is a cluster of three.
    pub cluster: bool,
    /// Further flags of a single etcd's.
    pub etcd_args: &'static [&'static str],
    /// What is written.
    pub diet: Diet,
    /// Whether leases are left to expire.
    pub expiring: bool,
    /// How long the writer rests between two writes, on average.
    pub rest: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self { cluster: false, etcd_args: &[], diet: Diet::Ordinary, expiring: true, rest: Duration::from_millis(8) }
    }
}

/// Everything of one scenario.
#[derive(Debug)]
pub struct World {
    /// Seeds all choices.
    pub rng: fastrand::Rng,
    /// etcd, or its three members.
    pub etcds: Cluster,
    /// Between each server and each member.
    pub lines: Vec<Vec<FaultProxy>>,
    /// The servers; `None` while one is down.
    pub servers: Vec<Option<Server>>,
    /// The writer.
    pub writer: Writer,
    /// The readers.
    pub readers: Vec<Reader>,
    /// What really happened.
    pub truth: Truth,
    /// What befell etcd.
    pub facts: Facts,
    /// Where the servers are.
    pub directory: Arc<Directory>,
    /// Whether those readers halt that do so.
    pub halted: watch::Sender<bool>,
    phase: watch::Sender<Phase>,
    library: Library,
    markers: u64,
}

/// A selection of these services, and of the markers'.
fn selection(services: &[&str]) -> Selection {
    services.iter().chain(&["marker"]).map(|service| (*service).to_owned()).collect()
}

impl World {
    /// Starts all of it: two servers, and readers of every sort.
    pub async fn build(seed: u64, setup: &Setup) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let etcds = if setup.cluster {
            Cluster::spawn().await
        } else {
            Cluster { members: vec![Etcd::spawn_with(setup.etcd_args).await] }
        };
        let writer = Writer::start(rng.u64(..), etcds.urls(), setup.diet, setup.expiring);
        writer.rest(Duration::from_millis(1));
        while writer.acknowledged() < 60 {
            sleep(Duration::from_millis(20)).await;
        }
        writer.rest(setup.rest);
        let directory = Arc::new(Directory::default());
        let (phase, phases) = watch::channel(Phase::Roam);
        let (halted, halts) = watch::channel(false);
        let library = Library {
            directory: Arc::clone(&directory),
            messages: Arc::new(Messages::default()),
            phase: phases,
            halted: halts,
        };
        let mut world = Self {
            rng,
            etcds,
            lines: Vec::new(),
            servers: Vec::new(),
            writer,
            readers: Vec::new(),
            truth: Truth::default(),
            facts: Facts::default(),
            directory,
            halted,
            phase,
            library,
            markers: 0,
        };
        for _ in 0..2 {
            let server = world.new_server().await;
            world.start_server(server).await;
        }
        world.first_readers();
        world
    }

    /// Makes the lines of one more server, whose number it gives.
    pub async fn new_server(&mut self) -> usize {
        let mut lines = Vec::new();
        for member in &self.etcds.members {
            lines.push(FaultProxy::to(&member.address()).await);
        }
        self.lines.push(lines);
        self.servers.push(None);
        self.servers.len() - 1
    }

    /// Starts server number `server`, and tells readers where it is before it is ready.
    pub async fn launch_server(&mut self, server: usize) {
        // Each server prefers another member.
        let lines = &self.lines[server];
        let urls: Vec<String> = (0..lines.len()).map(|turn| lines[(server + turn) % lines.len()].url()).collect();
        let sources = super::truth::sources();
        let watched: Vec<String> =
            sources.iter().map(|source| format!("{}={}", source.layout.as_str(), source.prefix)).collect();
        let args: Vec<&str> = watched.iter().flat_map(|source| ["--watch", source]).collect();
        let started = Server::launch(&urls.join(","), &args).await;
        self.directory.set(server, Some(started.address()));
        self.servers[server] = Some(started);
    }

    /// Starts server number `server`, and waits until it is ready.
    pub async fn start_server(&mut self, server: usize) {
        self.launch_server(server).await;
        self.servers[server].as_ref().expect("it was started").ready().await;
    }

    /// A plan of a reader that stays at one server.
    pub fn plan(&mut self, name: &str, server: usize) -> Plan {
        Plan {
            name: format!("{name} {}", self.readers.len()),
            selection: Selection::new(),
            server,
            servers: self.servers.len(),
            roams: false,
            late: Duration::ZERO,
            cursor: None,
            cursor_epoch: self.writer.epoch(),
            halts: false,
            seed: self.rng.u64(..),
        }
    }

    /// Starts one more reader.
    pub fn read(&mut self, plan: Plan) {
        self.readers.push(Reader::start(plan, &self.library));
    }

    /// Readers that stay, that roam, that come late; some of everything and some of a few services.
    fn first_readers(&mut self) {
        for server in 0..2 {
            for select in [&[][..], &[], &["pay"], &["order", "cart", "geo"]] {
                let mut plan = self.plan("stays", server);
                if !select.is_empty() {
                    plan.selection = selection(select);
                }
                self.read(plan);
            }
            for number in 0..5 {
                let mut plan = self.plan("roams", server);
                plan.roams = true;
                if number % 2 == 1 {
                    plan.selection = selection(&[["mail", "cart", "pay"][number / 2]]);
                }
                self.read(plan);
            }
            for number in 0..2 {
                let mut plan = self.plan("late", server);
                plan.late = Duration::from_millis(self.rng.u64(200..5_000));
                if number == 1 {
                    plan.selection = selection(&["mail"]);
                }
                self.read(plan);
            }
        }
    }

    /// Kills a server as a crash would.
    pub fn kill_server(&mut self, server: usize) {
        self.directory.set(server, None);
        if let Some(mut server) = self.servers[server].take() {
            server.kill();
        }
    }

    /// Ends a server by SIGTERM, and checks that it does so in time, with a `bye` to each stream.
    pub async fn end_server(&mut self, server: usize) {
        self.directory.set(server, None);
        let Some(mut ending) = self.servers[server].take() else { return };
        let asked = Instant::now();
        let code = ending.end("TERM").await;
        if code != Some(0) || asked.elapsed() > seconds(10) {
            let what = format!("on SIGTERM it ended with {code:?} after {:?}", asked.elapsed());
            self.facts.complaints.push((Property::Resumable, what));
        }
    }

    /// Every line of every server.
    pub fn each_line(&self) -> impl Iterator<Item = &FaultProxy> {
        self.lines.iter().flatten()
    }

    /// A member that runs.
    pub fn url(&self) -> String {
        let running = self.etcds.members.iter().find(|member| member.runs());
        running.expect("some member runs").url()
    }

    /// Throws away all history so far, once it was read.
    pub async fn compact(&mut self) -> Revision {
        let revision = self.truth.read(&self.url()).await;
        self.facts.compactions.push((Instant::now(), self.writer.epoch(), revision));
        let member = self.etcds.members.iter().find(|member| member.runs()).expect("some member runs");
        member.compact(revision).await;
        revision
    }

    /// Puts the next marker into every source.
    pub async fn put_marker(&mut self) -> u64 {
        self.markers += 1;
        let number = self.markers;
        let puts = [
            (format!("/microservices/marker/{number}"), kratos("marker", &number.to_string(), "http://10.0.0.1:80")),
            (
                format!("/micro/registry/marker/{number}"),
                format!(
                    r#"{{"name":"marker","version":"1","metadata":null,"endpoints":[],"nodes":[{{"metadata":{{}},"id":"{number}","address":"10.0.0.1:80"}}]}}"#
                ),
            ),
            (format!("services/marker/{number}"), "10.0.0.1:80".to_owned()),
        ];
        for turn in 0.. {
            let members: Vec<String> =
                self.etcds.members.iter().filter(|member| member.runs()).map(Etcd::url).collect();
            let url = members[turn % members.len()].clone();
            let operations: Vec<TxnOp> =
                puts.iter().map(|(key, value)| TxnOp::put(key.clone(), value.clone(), None)).collect();
            let started = Instant::now();
            let put = async {
                let mut client = Client::connect([url], None).await?;
                client.txn(Txn::new().and_then(operations)).await
            };
            let answer = timeout(seconds(2), put).await;
            let revision = match &answer {
                Ok(Ok(answer)) => answer.header().map(etcd_client::ResponseHeader::revision),
                _ => None,
            };
            self.writer.note(Deed::Other, started, revision);
            if revision.is_some() {
                break;
            }
            assert!(turn < 200, "no marker could be put: {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
        number
    }

    /// Puts a marker and waits until every reader has seen it, which may take `bound` from `since` on.
    pub async fn converge(&mut self, since: Instant, bound: Duration) {
        let number = self.put_marker().await;
        self.seen(number, since, bound).await;
    }

    /// Waits until every reader has seen a marker, which may take `bound` from `since` on.
    pub async fn seen(&mut self, number: u64, since: Instant, bound: Duration) {
        self.facts.markers.push(Marker { number, since, bound });
        let patience = since + bound + MARKER_PATIENCE;
        while Instant::now() < patience && self.readers.iter().any(|reader| reader.marker(number).is_none()) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether every reader that stays at `server` has seen a marker.
    pub fn has_shown(&self, server: usize, marker: u64) -> bool {
        let here = |reader: &&Reader| !reader.plan.roams && reader.plan.server == server;
        self.readers.iter().filter(here).all(|reader| reader.marker(marker).is_some())
    }

    /// Ends everything and judges it.
    pub async fn finish(mut self) -> Verdict {
        self.phase.send_replace(Phase::Settle);
        self.writer.pause().await;
        self.converge(Instant::now(), seconds(5)).await;
        let patience = Instant::now() + CAUSE_MAX;
        let finds_out =
            |reader: &Reader| !reader.plan.roams && reader.plan.selection.is_empty() && reader.unexplained() > 0;
        while Instant::now() < patience && self.readers.iter().any(finds_out) {
            sleep(Duration::from_millis(50)).await;
        }
        let shown = self.look_at_servers().await;
        self.phase.send_replace(Phase::End);
        let ended = Instant::now();
        let mut recordings = Vec::new();
        for reader in self.readers.drain(..) {
            recordings.push(reader.recording().await);
        }
        let url = self.url();
        self.truth.read(&url).await;
        self.truth.is_what_stands(&url).await;
        let Self { writer, truth, facts, servers, lines, etcds, .. } = self;
        let memory = writer.end().await;
        drop((servers, lines, etcds));
        let judging = tokio::task::spawn_blocking(move || {
            let told = truth.told();
            let mut verdict = check::check(&told, &memory, &facts, &recordings, ended);
            shown.judge(&truth, &told, &mut verdict);
            verdict
        });
        judging.await.expect("the checker does not panic")
    }

    /// What the servers say outside the stream, and the bytes of values.
    async fn look_at_servers(&self) -> Shown {
        let mut shown = Shown::default();
        for (number, server) in self.servers.iter().enumerate() {
            let Some(server) = server else { continue };
            let answer = server.get("/instances").await;
            if answer.status != 200 {
                shown.broken.push(format!("/instances of server {number} answers {}", answer.status));
                continue;
            }
            let answer = answer.json();
            let revisions: Revisions = serde_json::from_value(answer["revisions"].clone()).unwrap_or_default();
            let records: Vec<Arc<Record>> = serde_json::from_value(answer["records"].clone()).unwrap_or_default();
            let odd = records.iter().filter(|record| matches!(record.decoded, Decoded::Malformed { .. }));
            let plain = records.iter().filter(|record| matches!(record.decoded, Decoded::Instance(_)));
            let keys: Vec<String> = odd.chain(plain).take(RAW_VALUES_MAX).map(|record| record.key.clone()).collect();
            for key in keys {
                let answer = server.get(&format!("/instances/raw?key={}", http::encode(&key))).await;
                shown.values.push((number, key, answer.status, answer.body.to_vec()));
            }
            shown.lists.push((number, revisions, records));
        }
        shown
    }
}

type Revisions = std::collections::BTreeMap<String, Revision>;

/// What servers said outside the stream.
#[derive(Debug, Default)]
struct Shown {
    broken: Vec<String>,
    lists: Vec<(usize, Revisions, Vec<Arc<Record>>)>,
    values: Vec<(usize, String, u16, Vec<u8>)>,
}

impl Shown {
    fn judge(&self, truth: &Truth, told: &super::truth::Told, verdict: &mut Verdict) {
        for broken in &self.broken {
            verdict.fail(Property::Converged, broken);
        }
        let epoch = told.epochs() - 1;
        for (server, revisions, records) in &self.lists {
            for (source, config) in told.sources.iter().enumerate() {
                let prefix = config.prefix.as_str();
                let at = revisions.get(prefix).copied().unwrap_or_default();
                let expected = told.view(epoch, source, at);
                let of_source: super::truth::View = records
                    .iter()
                    .filter(|record| record.source == prefix)
                    .map(|record| (record.key.clone(), Arc::clone(record)))
                    .collect();
                if of_source != *expected {
                    let what = format!("/instances of server {server}: {prefix} at {at} is not what etcd holds");
                    verdict.fail(Property::Converged, what);
                }
            }
        }
        let values = truth.values();
        for (server, key, status, body) in &self.values {
            // What left since is nowhere to be compared with.
            if let Some(value) = values.get(key)
                && (*status != 200 || value != body)
            {
                let what = format!("/instances/raw of server {server}: {key} answers {status} with other bytes");
                verdict.fail(Property::Converged, what);
            }
        }
    }
}
