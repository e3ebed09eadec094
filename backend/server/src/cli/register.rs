//! `rollcall register`: registers an instance for a program that cannot do it itself, and runs the program where it is
//! given one.
//!
//! Owns the program's life: its signals, its exit code, that it starts whether or not etcd is there, and that callers are
//! turned away before it is told to end. Fit to be the first process of a container: it reaps what is orphaned there. How
//! a registration is kept is the registrar's; when there is one, [`presence`]'s.

pub mod address;
pub mod check;
pub mod notify;
mod presence;

use std::{
    collections::BTreeMap, ffi::OsString, future::poll_fn, io, os::unix::process::ExitStatusExt, process::ExitStatus,
    task::Poll, time::Duration,
};

use rollcall_registry::{Registrar, RegistrarConfig, etcd::connect::Connection};
use rollcall_shared::{KeyPrefix, Layout, ServiceInstance};
use rustix::process::Signal;
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Arrivals, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{check::CheckConfig, notify::Manager, presence::Presence};
use crate::process;

pub use self::presence::LEAVE_TIMEOUT;

/// Names the service manager's socket to a program. The command does not get it: only the main process may speak there,
/// and who finds none is silent without an error.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// How long a command that its terminal seems to have told to end may go on before it is told by this program, once it is
/// deregistered and drained. Not at once: many programs take a second Ctrl-C for the order to drop everything.
const TERMINAL_GRACE: Duration = Duration::from_secs(5);

/// Stands in for this host's address where an instance is checked before that is known.
const SAMPLE_HOST: &str = "127.0.0.1";

/// A flag or an argument is wrong.
const EXIT_USAGE: i32 = 2;
/// The command is there and cannot be run, as shells say it.
const EXIT_NOT_EXECUTABLE: i32 = 126;
/// There is no such command, as shells say it.
const EXIT_NOT_FOUND: i32 = 127;
/// Added to the number of the signal that a command died of.
const EXIT_SIGNAL: i32 = 128;

/// What to register, and what to run.
#[derive(Debug, Clone)]
pub struct RegisterArgs {
    /// The service's name.
    pub name: String,
    /// Where the instance answers, as the layout writes it, or without its host: this one's address goes there.
    pub endpoints: Vec<String>,
    /// This host's name or address, as in a URL; without it, the address by which it reaches etcd.
    pub host: Option<String>,
    /// Tells it from the others; made up where there is none.
    pub id: Option<String>,
    /// The program's version; may be empty.
    pub version: String,
    /// What else there is to say.
    pub meta: Vec<(String, String)>,
    /// How long the key outlives its program, in seconds.
    pub ttl_s: i64,
    /// How the value is written.
    pub layout: Layout,
    /// Below which prefix.
    pub prefix: KeyPrefix,
    /// What has to pass for it to be registered.
    pub checks: CheckConfig,
    /// How long the command goes on answering between being deregistered and being told to end.
    pub drain: Duration,
    /// Told how it goes.
    pub manager: Manager,
    /// The program and its arguments; empty for none.
    pub command: Vec<OsString>,
}

/// Reads `15s`, `2m`, `1h`, `1h30m`, or bare seconds.
///
/// # Errors
/// One sentence that says what is wanted.
pub fn parse_ttl_s(text: &str) -> Result<i64, String> {
    let wanted = || format!("{text:?} is no duration such as 15s, 2m, 1h or a number of seconds");
    let mut seconds = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().map_err(|_| wanted())?;
        let after = &rest[digits..];
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_s = match &after[..unit] {
            // Seconds need no unit where there is nothing else.
            "" if digits == text.len() => 1,
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wanted()),
        };
        seconds = number.checked_mul(unit_s).and_then(|part| seconds.checked_add(part)).ok_or_else(wanted)?;
        rest = &after[unit..];
    }
    if text.is_empty() { Err(wanted()) } else { Ok(seconds) }
}

/// Reads a duration as [`parse_ttl_s`] does, or `500ms`.
///
/// # Errors
/// One sentence that says what is wanted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Some(number) = text.strip_suffix("ms")
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return number.parse().map(Duration::from_millis).map_err(|_| format!("{text:?} is too long"));
    }
    let seconds = parse_ttl_s(text)?;
    Ok(Duration::from_secs(seconds.try_into().map_err(|_| format!("{text:?} is negative"))?))
}

/// Reads a duration above zero.
///
/// # Errors
/// One sentence that says what is wanted.
pub fn parse_some_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err(format!("{text:?} is no time at all")),
        duration => Ok(duration),
    }
}

/// Reads `KEY=VALUE`; the value may be empty and may hold further `=`.
///
/// # Errors
/// One sentence that says what is wanted.
pub fn parse_meta(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// Registers until SIGTERM or SIGINT come, or until the command ends. Answers the exit code.
pub async fn run(connection: Connection, args: RegisterArgs) -> i32 {
    // A key that stands belongs to somebody until its lease has run out: it is waited for, not taken.
    let config =
        RegistrarConfig { layout: args.layout, prefix: args.prefix.clone(), ttl_s: Some(args.ttl_s), takeover: false };
    let etcd = connection.endpoints().to_vec();
    let registrar = Registrar::new(connection, config);
    let nobody_lacks_it = !args.endpoints.iter().any(|endpoint| address::lacks_host(endpoint));
    let RegisterArgs { host, drain, manager, checks, .. } = args.clone();
    let host = host.or_else(|| nobody_lacks_it.then(String::new));
    let command = args.command.clone();
    let instance = args.into_instance();
    // Checked before the command starts, and before etcd is asked.
    if let Err(error) = registrar.check(&instance(host.as_deref().unwrap_or(SAMPLE_HOST))) {
        return usage(&error.to_string());
    }
    let mut signals = match Signals::listen(!command.is_empty()) {
        Ok(signals) => signals,
        Err(error) => return usage(&format!("signals cannot be listened to: {error}")),
    };
    let child = match command.split_first() {
        None => None,
        Some((program, args)) => match Command::new(program).args(args).env_remove(NOTIFY_SOCKET).spawn() {
            Ok(child) => Some(child),
            Err(error) => {
                eprintln!("rollcall: {}: {error}", program.display());
                let missing = error.kind() == io::ErrorKind::NotFound;
                return if missing { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
            }
        },
    };
    let (turn, well) = watch::channel(false);
    let presence = Presence { registrar, instance, host, etcd, well, manager: manager.clone() };
    let mut farewell = Farewell::new(presence, drain, manager);
    let checking = tokio::spawn(check::watch(checks, turn));
    let code = match child {
        None => alone(&mut farewell, &mut signals).await,
        Some(child) => accompany(child, &mut farewell, &mut signals).await,
    };
    farewell.gone().await;
    // It has nobody left to tell.
    checking.abort();
    code
}

impl RegisterArgs {
    /// The instance at a host. Its id stays the same, but where the layout makes it of the address.
    fn into_instance(self) -> Box<dyn Fn(&str) -> ServiceInstance + Send + Sync> {
        let fresh = uuid::Uuid::new_v4().to_string();
        Box::new(move |host| {
            let endpoints: Vec<String> =
                self.endpoints.iter().map(|endpoint| address::with_host(endpoint, host)).collect();
            let id = self.id.clone().unwrap_or_else(|| self.layout.default_id(&endpoints, || fresh.clone()));
            ServiceInstance {
                id,
                name: self.name.clone(),
                version: self.version.clone(),
                metadata: self.meta.iter().cloned().collect::<BTreeMap<_, _>>(),
                endpoints,
            }
        })
    }
}

fn usage(why: &str) -> i32 {
    eprintln!("rollcall: {why}");
    EXIT_USAGE
}

/// The way out: deregistered first, then the time for callers to notice.
struct Farewell {
    ending: CancellationToken,
    /// Whether it was registered at the end; `None` until it is deregistered.
    left: watch::Receiver<Option<bool>>,
    drain: Duration,
    /// When the last callers have noticed, where there were any; `None` until it is deregistered.
    drained_at: Option<Instant>,
    manager: Manager,
}

impl Farewell {
    fn new(presence: Presence, drain: Duration, manager: Manager) -> Self {
        let ending = CancellationToken::new();
        let (left_out, left) = watch::channel(None);
        let holding = presence.hold(ending.clone());
        // Ends by `ending`, and then within `LEAVE_TIMEOUT`; `gone` waits for it.
        tokio::spawn(async move { left_out.send_replace(Some(holding.await)) });
        Self { ending, left, drain, drained_at: None, manager }
    }

    /// Begins to deregister.
    fn begin(&self) {
        if !self.ending.is_cancelled() {
            self.manager.stopping();
            self.ending.cancel();
        }
    }

    /// Deregisters. Answers whether it was registered until then.
    async fn gone(&mut self) -> bool {
        self.begin();
        // Without an answer there is nothing to wait for.
        self.left.wait_for(Option::is_some).await.is_ok_and(|left| *left == Some(true))
    }

    /// Deregisters, and lets those who were on their way arrive; then `grace` more. Asked again, it waits no longer than
    /// the first time.
    async fn drained(&mut self, grace: Duration) {
        let drain = if self.gone().await { self.drain } else { Duration::ZERO };
        let until = *self.drained_at.get_or_insert_with(|| Instant::now() + drain);
        sleep_until(until + grace).await;
    }
}

/// Registered until a signal comes; a second one does not wait.
async fn alone(farewell: &mut Farewell, signals: &mut Signals) -> i32 {
    signals.stop().await;
    tokio::select! {
        () = farewell.drained(Duration::ZERO) => {}
        () = signals.stop() => {}
    }
    0
}

/// Stays with the command until it ends: passes signals on, once it is deregistered where they tell it to end.
async fn accompany(mut child: Child, farewell: &mut Farewell, signals: &mut Signals) -> i32 {
    let own = child.id();
    // The order to end that waits until it is deregistered, and how much longer.
    let mut waiting: Option<(Signal, Duration)> = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = farewell.drained(waiting.map_or(Duration::ZERO, |(_, grace)| grace)), if waiting.is_some() => {
                if let Some((signal, _)) = waiting.take() {
                    process::signal(&child, signal);
                }
            }
            arrived = signals.next() => match arrived {
                Arrived::Orphan => process::reap_orphans(own),
                Arrived::Signal(arrived) => {
                    let told = arrived.comes_from_terminals() && process::is_in_foreground();
                    let first = arrived.ends_programs() && !farewell.ending.is_cancelled();
                    if first {
                        farewell.begin();
                    }
                    if first {
                        // Callers are turned away while the command still answers. Who sent the signal is not known: what
                        // the terminal may have told the command is passed on only where it lives on all the same.
                        waiting = Some((arrived.signal, if told { TERMINAL_GRACE } else { Duration::ZERO }));
                    } else if told {
                        tracing::debug!(?arrived, "the terminal has told the command already");
                    } else {
                        // Who says it twice means at once.
                        if arrived.ends_programs() {
                            waiting = None;
                        }
                        process::signal(&child, arrived.signal);
                    }
                }
            },
        }
    };
    match status {
        Ok(status) => exit_code(status),
        Err(error) => {
            eprintln!("rollcall: the command cannot be waited for: {error}");
            EXIT_NOT_EXECUTABLE
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|number| EXIT_SIGNAL + number)).unwrap_or(EXIT_NOT_EXECUTABLE)
}

/// A signal that goes through to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passed {
    signal: Signal,
    kind: SignalKind,
}

impl Passed {
    /// As the first process of a container this one gets no signal that it does not listen to; each of these would end
    /// the command, or means something to it.
    const ALL: [Self; 8] = [
        Self { signal: Signal::TERM, kind: SignalKind::terminate() },
        Self { signal: Signal::INT, kind: SignalKind::interrupt() },
        Self { signal: Signal::QUIT, kind: SignalKind::quit() },
        Self { signal: Signal::HUP, kind: SignalKind::hangup() },
        Self { signal: Signal::USR1, kind: SignalKind::user_defined1() },
        Self { signal: Signal::USR2, kind: SignalKind::user_defined2() },
        Self { signal: Signal::ALARM, kind: SignalKind::alarm() },
        Self { signal: Signal::WINCH, kind: SignalKind::window_change() },
    ];

    /// Whether programs take it as the order to end; a hangup makes many servers read their configuration anew.
    fn ends_programs(self) -> bool {
        [Signal::TERM, Signal::INT, Signal::QUIT].contains(&self.signal)
    }

    /// Whether a key pressed at the terminal sends it to the whole group of processes in its foreground, the command among
    /// them, so that passing it on would deliver it twice.
    fn comes_from_terminals(self) -> bool {
        [Signal::INT, Signal::QUIT].contains(&self.signal)
    }

    /// Whether it is left alone where this program was started with it ignored, as the command then is. nohup spares a
    /// program the end of its terminal, and a shell without job control spares one in the background the keys that are
    /// meant for the foreground. Without a command, SIGINT has to end this program.
    fn may_stay_ignored(self, has_command: bool) -> bool {
        self.signal == Signal::HUP || has_command && [Signal::INT, Signal::QUIT].contains(&self.signal)
    }
}

/// What [`Signals`] tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    Signal(Passed),
    /// A child ended: the command, or one that it left behind.
    Orphan,
}

/// The signals that go through to the command, and the one that says that there are orphans to reap.
struct Signals {
    passed: Vec<(Passed, Arrivals)>,
    child: Arrivals,
}

impl Signals {
    fn listen(has_command: bool) -> io::Result<Self> {
        let heard = |passed: &Passed| !(passed.may_stay_ignored(has_command) && process::is_ignored(passed.signal));
        let passed = Passed::ALL.into_iter().filter(heard).map(|passed| Ok((passed, signal(passed.kind)?)));
        Ok(Self { passed: passed.collect::<io::Result<_>>()?, child: signal(SignalKind::child())? })
    }

    async fn next(&mut self) -> Arrived {
        poll_fn(|context| {
            for (passed, arrivals) in &mut self.passed {
                if let Poll::Ready(Some(())) = arrivals.poll_recv(context) {
                    return Poll::Ready(Arrived::Signal(*passed));
                }
            }
            self.child.poll_recv(context).map(|_| Arrived::Orphan)
        })
        .await
    }

    /// Waits until this program itself is to end.
    async fn stop(&mut self) {
        loop {
            match self.next().await {
                Arrived::Orphan => process::reap_orphans(None),
                Arrived::Signal(arrived) if arrived.ends_programs() || arrived.signal == Signal::HUP => return,
                Arrived::Signal(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_read_as_people_write_it() {
        for (text, seconds) in
            [("15s", 15), ("15", 15), ("2m", 120), ("1h", 3_600), ("1h30m", 5_400), ("1d", 86_400), ("0", 0)]
        {
            assert_eq!(parse_ttl_s(text), Ok(seconds), "{text:?}");
        }
        for wrong in
            ["", "s", "-5", "1.5s", "15 s", "5x", "1h30", "99999999999999999999", "9223372036854775807h", "15S"]
        {
            assert!(parse_ttl_s(wrong).is_err_and(|why| !why.contains('\n')), "{wrong:?}");
        }
    }

    #[test]
    fn a_duration_may_be_short() {
        for (text, ms) in [("500ms", 500), ("0ms", 0), ("2s", 2_000), ("1m30s", 90_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text:?}");
        }
        for wrong in ["", "ms", "-1ms", "1.5s", "1s500ms", "99999999999999999999ms"] {
            assert!(parse_duration(wrong).is_err_and(|why| !why.contains('\n')), "{wrong:?}");
        }
        assert!(parse_some_duration("0s").is_err() && parse_some_duration("1ms").is_ok());
    }

    #[test]
    fn metadata_is_cut_at_its_first_sign() {
        assert_eq!(parse_meta("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_meta("a="), Ok(("a".into(), String::new())));
        for wrong in ["", "a", "=b"] {
            assert!(parse_meta(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_command_ends_this_program_as_it_ended_itself() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }
}
