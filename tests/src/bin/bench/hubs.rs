//! `hubs`: the same events through nchan (in nginx) and pushpin, each with as many subscribers: CPU of the hub alone,
//! beside the server's alone. What would read etcd and publish to a hub is not counted.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rollcall_tests::{Process, etcd::free_port, process::children};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    Plan, load,
    readers::{PLAIN, Readers, Target, open},
    stamp,
    table::{Table, Wanted, verdict},
    ways::{COLUMNS, Run, Way, rollcall, run, whole},
};

const STREAMS: u64 = 200;
const CHANGES_PER_S: [u32; 2] = [100, 1_000];

/// What of a message's bytes is the stream's own: the cursor, `data:`, the chunk.
const FRAME_BYTES: usize = 80;

const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
const PUSHPIN_INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

const START_MAX: Duration = Duration::from_secs(10);

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let hubs: Vec<Kind> = [Kind::Nchan, Kind::Pushpin].into_iter().filter(|kind| kind.is_there()).collect();
    for per_s in CHANGES_PER_S {
        println!(
            "{STREAMS} streams, {per_s} changes/s; {} runs of {} s by turns, medians; CPU µs and bytes a delivery",
            plan.rounds(),
            plan.run().as_secs()
        );
        let mut ours = Way::new("rollcall");
        let mut others: Vec<(Kind, Way)> = hubs.iter().map(|kind| (*kind, Way::new(kind.name()))).collect();
        for _ in 0..plan.rounds() {
            let run = rollcall(STREAMS, per_s, plan.run()).await?;
            let bytes = whole(run.bytes_each()).saturating_sub(FRAME_BYTES);
            ours.add(run);
            for (kind, way) in &mut others {
                way.add(through(*kind, per_s, bytes, plan.run()).await.with_context(|| kind.name())?);
            }
        }
        let mut table = Table::new(&COLUMNS);
        ours.row(&mut table, STREAMS);
        for (_, way) in &others {
            way.row(&mut table, STREAMS);
        }
        table.print();
        let target = if per_s >= 1_000 { 10.0 } else { 1.0 };
        for (_, way) in &others {
            let ratio = way.median(Run::sender_us) / ours.median(Run::sender_us);
            verdict(&format!("{} takes, in times of rollcall's own CPU", way.name), ratio, target, Wanted::AtLeast);
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Nchan,
    Pushpin,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nchan => "nchan",
            Self::Pushpin => "pushpin",
        }
    }

    /// Whether it is installed; says so where it is not.
    fn is_there(self) -> bool {
        let (program, file, packages) = match self {
            Self::Nchan => ("nginx", NCHAN_MODULE, "nginx libnginx-mod-nchan"),
            Self::Pushpin => ("pushpin", PUSHPIN_INTERNAL, "pushpin"),
        };
        let there = on_path(program).is_some() && Path::new(file).is_file();
        if !there {
            println!("{} is not here, and left out: `apt-get install {packages}` on Debian", self.name());
        }
        there
    }

    /// The body of what publishes a change that is made now.
    fn body(self, bytes: usize) -> String {
        let text = format!("{}{}", stamp::text(stamp::now_us()), "x".repeat(bytes.saturating_sub(17)));
        match self {
            Self::Nchan => text,
            Self::Pushpin => format!(
                r#"{{"items":[{{"channel":"test","formats":{{"http-stream":{{"content":"data: {text}\n\n"}}}}}}]}}"#
            ),
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    // nginx stands where only root's PATH leads.
    let path = env::var_os("PATH")?;
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A running hub.
struct Hub {
    process: Process,
    subscribe: Target,
    publish: Publisher,
    _folder: TempDir,
}

impl Hub {
    async fn start(kind: Kind) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = format!("127.0.0.1:{}", free_port());
        let (command, path, publish) = match kind {
            Kind::Nchan => (nchan(folder.path(), &address)?, "/sub", Publisher::new(address.clone(), "/pub")),
            Kind::Pushpin => {
                let publish = format!("127.0.0.1:{}", free_port());
                (pushpin(folder.path(), &address, &publish)?, "/stream", Publisher::new(publish, "/publish/"))
            }
        };
        let process = Process::start(kind.name(), command, "it is installed");
        // nginx in one process is only ever killed; pushpin has children to end.
        let process = if matches!(kind, Kind::Pushpin) { process.gently() } else { process };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
        let hub =
            Self { process, subscribe: Target { address, request, mark: PLAIN, one_of: 1 }, publish, _folder: folder };
        let start = Instant::now();
        let mut publisher = hub.publish.clone();
        while publisher.post("x").await.is_err() || !takes(&hub.subscribe).await {
            if start.elapsed() > START_MAX {
                bail!("{} does not answer: {:?} {:?}", kind.name(), hub.process.stdout(), hub.process.stderr());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(hub)
    }

    fn pids(&self) -> Vec<u32> {
        let children = children(self.process.pid()).into_iter().map(|(pid, _)| pid);
        [self.process.pid()].into_iter().chain(children).collect()
    }
}

/// Whether a subscriber is answered.
async fn takes(target: &Target) -> bool {
    let ask = async {
        let mut stream = open(&target.address, &target.request).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer.ends_with(b" 200"))
    };
    matches!(timeout(Duration::from_secs(1), ask).await, Ok(Ok(true)))
}

/// nginx in one process, which is nchan at its cheapest: no worker has to tell another.
fn nchan(folder: &Path, address: &str) -> anyhow::Result<Command> {
    let dir = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log warn; load_module {NCHAN_MODULE};
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; {temporary}
  server {{
    listen {address};
    location = /pub {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 1000; }}
    location = /sub {{ nchan_subscriber eventsource; nchan_channel_id bench; nchan_subscriber_first_message newest; }}
  }}
}}
"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(on_path("nginx").context("nginx is gone")?);
    command.arg("-p").arg(folder).arg("-c").arg(file).arg("-e").arg(folder.join("error.log"));
    Ok(command)
}

/// pushpin with its built-in test route, which holds every request open on one channel. Without a limit of its rate
/// it sends at once; with any, messages wait for a timer, and under this load for seconds.
fn pushpin(folder: &Path, address: &str, publish: &str) -> anyhow::Result<Command> {
    let dir = folder.display();
    let (_, publish_port) = publish.rsplit_once(':').context("an address has a port")?;
    let [pull, sub, command] = [free_port(), free_port(), free_port()];
    for name in ["run", "log"] {
        fs::create_dir(folder.join(name))?;
    }
    fs::write(folder.join("routes"), "* test\n")?;
    let config = format!(
        "[global]
include={PUSHPIN_INTERNAL}
rundir={dir}/run
ipc_prefix=bench-
port_offset=0
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=80
logdir={dir}/log
log_level=1
client_buffer_size=8192
client_maxconn=4096
[proxy]
routesfile=routes
updates_check=off
[handler]
push_in_spec=tcp://127.0.0.1:{pull}
push_in_sub_specs=tcp://127.0.0.1:{sub}
push_in_http_addr=127.0.0.1
push_in_http_port={publish_port}
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
stats_spec=ipc://{dir}/run/stats
command_spec=tcp://127.0.0.1:{command}
message_rate=0
message_hwm=0
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
stats_connection_ttl=120
stats_subscription_ttl=60
stats_report_interval=10
stats_format=tnetstring
"
    );
    let file = folder.join("pushpin.conf");
    fs::write(&file, config)?;
    let mut program = Command::new(on_path("pushpin").context("pushpin is gone")?);
    program.arg("--config").arg(file).args(["--port", address, "--merge-output"]);
    Ok(program)
}

/// Posts messages, on one connection as long as the other side keeps it.
#[derive(Debug)]
struct Publisher {
    address: String,
    path: &'static str,
    stream: Option<TcpStream>,
}

impl Clone for Publisher {
    fn clone(&self) -> Self {
        Self::new(self.address.clone(), self.path)
    }
}

impl Publisher {
    fn new(address: String, path: &'static str) -> Self {
        Self { address, path, stream: None }
    }

    async fn post(&mut self, body: &str) -> anyhow::Result<()> {
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            self.path,
            self.address,
            body.len()
        );
        let mut stream = match self.stream.take() {
            Some(mut stream) => {
                stream.write_all(request.as_bytes()).await?;
                stream
            }
            None => open(&self.address, &request).await?,
        };
        let mut answer = Vec::new();
        loop {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the answer ended early: {}", String::from_utf8_lossy(&answer));
            }
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length =
                head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
            if body.len() < length.unwrap_or(0) {
                continue;
            }
            if !head.contains("connection: close") {
                self.stream = Some(stream);
            }
            // An odd message is answered too: what matters here is who delivers it.
            return Ok(());
        }
    }
}

async fn through(kind: Kind, per_s: u32, bytes: usize, length: Duration) -> anyhow::Result<Run> {
    let hub = Hub::start(kind).await?;
    let readers = Readers::settled(&hub.subscribe, STREAMS).await?;
    let publishers: Vec<Publisher> = (0..load::PACED).map(|_| hub.publish.clone()).collect();
    let changes = load::paced(publishers, per_s, length, move |publisher: &mut Publisher, _| {
        Box::pin(async move {
            publisher.post(&kind.body(bytes)).await?;
            Ok(1)
        })
    });
    run(&readers, &hub.pids(), None, changes).await
}
