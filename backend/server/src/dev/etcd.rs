//! A real etcd as a child, for `rollcall dev`.
//!
//! It ends with rollcall, also when rollcall is killed with -9. Between the two stands a guard: this program once more,
//! as a hidden subcommand. It reads a pipe from its parent on stdin; when that closes, for whatever reason, it ends
//! etcd and throws the data away. The guard has a process group of its own, so that Ctrl-C in a terminal reaches
//! rollcall alone, which still has instances to deregister. Must not know what is kept in etcd.

use std::{
    ffi::{OsStr, OsString},
    fs::{DirBuilder, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use etcd_client::Client;
use rustix::process::Signal;
use tokio::{
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use crate::process;

/// The hidden subcommand that the guard runs as: `rollcall etcd-guard …`.
pub const GUARD_COMMAND: &str = "etcd-guard";

/// etcd's own port for clients.
const CLIENT_PORT: u16 = 2379;

/// How many ports from [`CLIENT_PORT`] on are tried.
const CLIENT_PORTS_MAX: u16 = 200;

/// How long etcd may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How often etcd is started where its ports are taken in the meantime.
const START_TRIES_MAX: usize = 10;

/// How long one question whether it answers already may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long etcd may take to end by itself before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of etcd's log is shown where it does not start, in bytes.
const LOG_TAIL_BYTES_MAX: u64 = 2_048;

/// How etcd is started.
#[derive(Debug, Clone, Default)]
pub struct DevEtcdConfig {
    /// The program; found on the PATH where none is named.
    pub etcd_bin: Option<PathBuf>,
    /// Where its data stays; a folder that is thrown away at the end where none is named.
    pub data_dir: Option<PathBuf>,
}

/// Why there is no private etcd.
#[derive(Debug, thiserror::Error)]
pub enum DevEtcdError {
    /// There is no etcd on this machine.
    #[error(
        "etcd is not on the PATH: `apt-get install etcd-server` or `brew install etcd` or \
         https://github.com/etcd-io/etcd/releases gets it; --etcd-bin names one elsewhere"
    )]
    NotFound,
    /// `--etcd-bin` names nothing that can be run.
    #[error("--etcd-bin: {} is no program", .0.display())]
    BadProgram(PathBuf),
    /// Its data cannot be kept there.
    #[error("{}: {source}", path.display())]
    DataDir {
        /// The folder, or the log in it.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// No port is free.
    #[error("no port for etcd is free: {0}")]
    NoPort(#[source] io::Error),
    /// This program could not be started again as the guard.
    #[error("etcd's guard does not start: {0}")]
    Guard(#[source] io::Error),
    /// It ended instead of answering.
    #[error("etcd ended at once; the end of its log:\n{0}")]
    Ended(String),
    /// It does not answer.
    #[error("etcd does not answer within {limit_s} s; the end of its log:\n{0}", limit_s = START_TIMEOUT.as_secs())]
    Silent(String),
}

/// A running etcd. Dropping it ends etcd too, but waits for nothing.
#[derive(Debug)]
pub struct DevEtcd {
    guard: Child,
    /// The guard lives as long as this is open.
    lifeline: Option<ChildStdin>,
    endpoint: String,
    log: File,
}

/// Starts an etcd on loopback, and answers when it does.
///
/// # Errors
/// Where there is none, or it does not start; nothing is left running then.
pub async fn start(config: DevEtcdConfig) -> Result<DevEtcd, DevEtcdError> {
    let mut tries = 1;
    loop {
        match start_once(config.clone()).await {
            // Between choosing a port and etcd's taking it, somebody else may have.
            Err(DevEtcdError::Ended(log)) if log.contains("address already in use") && tries < START_TRIES_MAX => {
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn start_once(config: DevEtcdConfig) -> Result<DevEtcd, DevEtcdError> {
    let program = match config.etcd_bin {
        Some(path) if is_program(&path) => path,
        Some(path) => return Err(DevEtcdError::BadProgram(path)),
        None => on_path("etcd").ok_or(DevEtcdError::NotFound)?,
    };
    let temporary = if config.data_dir.is_none() {
        let folder = tempfile::Builder::new().prefix("rollcall-etcd-").tempdir();
        Some(folder.map_err(|source| DevEtcdError::DataDir { path: std::env::temp_dir(), source })?)
    } else {
        None
    };
    let temporary_path = temporary.as_ref().map(|folder| folder.path().to_owned());
    let data_dir = config.data_dir.or(temporary_path).unwrap_or_default();
    let in_data_dir = |path: &Path| {
        let path = path.to_owned();
        move |source| DevEtcdError::DataDir { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&data_dir).map_err(in_data_dir(&data_dir))?;
    let data_dir = std::path::absolute(&data_dir).map_err(in_data_dir(&data_dir))?;
    let log = data_dir.join("etcd.log");
    File::create(&log).map_err(in_data_dir(&log))?;
    let output = File::options().append(true).open(&log).map_err(in_data_dir(&log))?;
    let output_too = output.try_clone().map_err(in_data_dir(&log))?;
    // Read through a file that stays open, since the guard removes the folder when etcd has ended.
    let log = File::open(&log).map_err(in_data_dir(&log))?;
    let client_port = free_port_from(CLIENT_PORT).map_err(DevEtcdError::NoPort)?;
    let peer_port = free_port().map_err(DevEtcdError::NoPort)?;

    let mut guard = Command::new(std::env::current_exe().map_err(DevEtcdError::Guard)?)
        .arg(GUARD_COMMAND)
        .arg(&program)
        .arg(&data_dir)
        .arg(client_port.to_string())
        .arg(peer_port.to_string())
        .arg(if temporary.is_some() { THROW_AWAY } else { KEEP })
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(output_too)
        .process_group(0)
        .spawn()
        .map_err(DevEtcdError::Guard)?;
    if let Some(folder) = temporary {
        // From here on the folder is the guard's to throw away.
        let _ = folder.keep();
    }
    let lifeline = guard.stdin.take();
    let mut etcd = DevEtcd { guard, lifeline, endpoint: format!("http://127.0.0.1:{client_port}"), log };
    match etcd.answers(&member_name(peer_port)).await {
        Ok(()) => Ok(etcd),
        Err(error) => {
            etcd.shutdown().await;
            Err(error)
        }
    }
}

impl DevEtcd {
    /// Where clients reach it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Answers when etcd has ended by itself, with the end of its log.
    pub async fn ended(&mut self) -> String {
        if let Err(error) = self.guard.wait().await {
            return error.to_string();
        }
        log_tail(&self.log)
    }

    /// Ends etcd, and throws its data away where they are temporary.
    pub async fn shutdown(mut self) {
        self.lifeline = None;
        if timeout(END_TIMEOUT + Duration::from_secs(2), self.guard.wait()).await.is_err() {
            tracing::warn!("etcd's guard does not end; it is killed");
            if let Err(error) = self.guard.kill().await {
                tracing::warn!(%error, "etcd's guard could not be killed");
            }
        }
    }

    async fn answers(&mut self, name: &str) -> Result<(), DevEtcdError> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(_)) = self.guard.try_wait() {
                return Err(DevEtcdError::Ended(log_tail(&self.log)));
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(DevEtcdError::Silent(log_tail(&self.log)));
            }
            // Where somebody else's etcd was faster to the port, it is not taken for one's own.
            let members = async { Client::connect([&self.endpoint], None).await?.member_list().await };
            if let Ok(Ok(answer)) = timeout(PROBE_TIMEOUT, Box::pin(members)).await
                && answer.members().iter().any(|member| member.name() == name)
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Tells this etcd from any other that might answer at its port.
fn member_name(peer_port: u16) -> String {
    format!("rollcall-dev-{peer_port}")
}

fn log_tail(log: &File) -> String {
    let read = || -> io::Result<String> {
        let begin = log.metadata()?.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        let mut tail = vec![0; usize::try_from(LOG_TAIL_BYTES_MAX).expect("a small constant")];
        let length = log.read_at(&mut tail, begin)?;
        Ok(String::from_utf8_lossy(&tail[..length]).trim().to_owned())
    };
    match read() {
        Ok(tail) if tail.is_empty() => "(it says nothing)".to_owned(),
        Ok(tail) => tail,
        Err(error) => format!("(it cannot be read: {error})"),
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn free_port_from(first: u16) -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in first..=first.saturating_add(CLIENT_PORTS_MAX) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

const THROW_AWAY: &str = "throw-away";
const KEEP: &str = "keep";

/// What the guard is told.
#[derive(Debug, PartialEq, Eq)]
struct GuardArgs {
    program: PathBuf,
    data_dir: PathBuf,
    client_port: u16,
    peer_port: u16,
    throw_away: bool,
}

impl GuardArgs {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut args = args.into_iter();
        let port = |arg: Option<OsString>| arg?.to_str()?.parse().ok();
        let parsed = Self {
            program: args.next()?.into(),
            data_dir: args.next()?.into(),
            client_port: port(args.next())?,
            peer_port: port(args.next())?,
            throw_away: match args.next()?.to_str()? {
                THROW_AWAY => true,
                KEEP => false,
                _ => return None,
            },
        };
        args.next().is_none().then_some(parsed)
    }

    fn command(&self) -> Command {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let name = member_name(self.peer_port);
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--name", &name, "--initial-cluster", &format!("{name}={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            // A fleet that runs for days leaves a history that nobody needs.
            .args(["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h"])
            .args(["--logger", "zap", "--log-level", "error"])
            .stdin(Stdio::null());
        // etcd takes each of its flags from the environment too, where another etcd may be configured.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ETCD_") && name != OsStr::new("ETCD_UNSUPPORTED_ARCH") {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Runs the guard: what follows [`GUARD_COMMAND`] on the command line goes in. Ends when stdin closes, on SIGTERM, or
/// with etcd.
pub fn run_guard(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(args) = GuardArgs::parse(args) else {
        eprintln!("{GUARD_COMMAND} is what `rollcall dev` starts by itself");
        return ExitCode::from(2);
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(guard(&args)));
    if args.throw_away
        && let Err(error) = std::fs::remove_dir_all(&args.data_dir)
    {
        eprintln!("{}: {error}", args.data_dir.display());
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", args.program.display());
            ExitCode::FAILURE
        }
    }
}

async fn guard(args: &GuardArgs) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // A closing terminal is the parent's affair: what ends the guard is the pipe.
    let _hangup = signal(SignalKind::hangup())?;
    let _interrupt = signal(SignalKind::interrupt())?;
    let (closed_out, closed) = oneshot::channel::<()>();
    // A thread of its own, since nothing can end a read of stdin; it ends with the process.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(closed_out);
    });
    let mut etcd = args.command().spawn()?;
    tokio::select! {
        status = etcd.wait() => {
            let status = status?;
            return if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) };
        }
        _ = closed => {}
        _ = terminate.recv() => {}
    }
    process::signal(&etcd, Signal::TERM);
    match timeout(END_TIMEOUT, etcd.wait()).await {
        Ok(status) => status.map(drop),
        Err(_) => etcd.kill().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_takes_what_it_is_given_and_nothing_else() {
        let args = |text: &str| GuardArgs::parse(text.split(' ').map(OsString::from));
        let parsed = args("/usr/bin/etcd /tmp/a 2379 4000 throw-away").unwrap();
        assert_eq!((parsed.client_port, parsed.peer_port, parsed.throw_away), (2379, 4000, true));
        assert!(!args("/usr/bin/etcd /tmp/a 2379 4000 keep").unwrap().throw_away);
        for wrong in ["", "/usr/bin/etcd", "e /tmp/a x 1 keep", "e /tmp/a 1 2 maybe", "e /tmp/a 1 2 keep more"] {
            assert_eq!(args(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_next_port_is_taken_where_etcds_own_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(free_port_from(port).is_ok_and(|next| next > port));
    }

    #[test]
    fn the_end_of_a_log_is_shown_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd.log");
        std::fs::write(&path, "x".repeat(10_000) + "\nthe last line\n").unwrap();
        let log = File::open(&path).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        let tail = log_tail(&log);
        assert!(tail.ends_with("the last line") && tail.len() < 2_100);
    }

    #[tokio::test]
    async fn a_program_that_is_none_is_told_at_once() {
        let config = DevEtcdConfig { etcd_bin: Some("/nowhere/etcd".into()), data_dir: None };
        assert!(matches!(start(config).await, Err(DevEtcdError::BadProgram(_))));
    }
}
