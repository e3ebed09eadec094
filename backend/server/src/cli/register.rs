//! `rollcall register`: registers an instance for a program that cannot do it itself, and runs the program where it is
//! given one.
//!
//! Owns the program's life: its signals, its exit code, and that it starts whether or not etcd is there. How a
//! registration is kept is the registrar's.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use rollcall_registry::{Registrar, RegistrarConfig, Registration, RegistrationState, etcd::connect::Connection};
use rollcall_shared::{KeyPrefix, Layout, ServiceInstance};
use rustix::process::Signal;
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Arrivals, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};

use crate::process;

/// How long deregistering may take at the end. What is not removed by then runs out with its lease.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// Where the instance answers, as the layout writes it.
    pub endpoints: Vec<String>,
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
    let (instance, config, command) = args.into_parts();
    let registrar = Registrar::new(connection, config);
    // Checked before the command starts, and before etcd is asked.
    if let Err(error) = registrar.check(&instance) {
        return usage(&error.to_string());
    }
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return usage(&format!("signals cannot be listened to: {error}")),
    };
    let child = match command.split_first() {
        None => None,
        Some((program, args)) => match Command::new(program).args(args).spawn() {
            Ok(child) => Some(child),
            Err(error) => {
                eprintln!("rollcall: {}: {error}", program.display());
                let missing = error.kind() == io::ErrorKind::NotFound;
                return if missing { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
            }
        },
    };
    let registration = match registrar.register_eventually(&instance) {
        Ok(registration) => registration,
        // It was checked above.
        Err(error) => return usage(&error.to_string()),
    };
    let telling = tokio::spawn(tell(registration.key().to_owned(), registration.state()));
    let code = match child {
        None => {
            signals.stop().await;
            leave(registration).await;
            0
        }
        Some(child) => accompany(child, registration, &mut signals).await,
    };
    telling.abort();
    code
}

impl RegisterArgs {
    fn into_parts(self) -> (ServiceInstance, RegistrarConfig, Vec<OsString>) {
        let id =
            self.id.unwrap_or_else(|| self.layout.default_id(&self.endpoints, || uuid::Uuid::new_v4().to_string()));
        let instance = ServiceInstance {
            id,
            name: self.name,
            version: self.version,
            metadata: self.meta.into_iter().collect::<BTreeMap<_, _>>(),
            endpoints: self.endpoints,
        };
        // A key that stands belongs to somebody until its lease has run out: it is waited for, not taken.
        let config =
            RegistrarConfig { layout: self.layout, prefix: self.prefix, ttl_s: Some(self.ttl_s), takeover: false };
        (instance, config, self.command)
    }
}

fn usage(why: &str) -> i32 {
    eprintln!("rollcall: {why}");
    EXIT_USAGE
}

/// Says when the key stands, and what is in the way of it, once for each reason.
async fn tell(key: String, mut state: tokio::sync::watch::Receiver<RegistrationState>) {
    let mut said = String::new();
    while state.changed().await.is_ok() {
        match &*state.borrow_and_update() {
            RegistrationState::Retrying { why, .. } | RegistrationState::Lost { why, .. } if **why != *said => {
                tracing::warn!(key, why = &**why, "not registered for now; it goes on being tried");
                why.as_ref().clone_into(&mut said);
            }
            RegistrationState::Alive => {
                tracing::info!(key, "registered");
                said.clear();
            }
            RegistrationState::Retrying { .. } | RegistrationState::Lost { .. } | RegistrationState::Ended => {}
        }
    }
}

/// Stays with the command until it ends: passes signals on, and deregisters as soon as it is told to end.
async fn accompany(mut child: Child, registration: Registration, signals: &mut Signals) -> i32 {
    let mut registered = Some(registration);
    let mut leaving: Option<JoinHandle<()>> = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            arrived = signals.next() => {
                if arrived.reaches_child_by_terminal() && io::stdin().is_terminal() {
                    tracing::debug!(?arrived, "the terminal has told the command already");
                } else {
                    process::signal(&child, arrived.signal());
                }
                // Callers are turned away while the command still answers, not after.
                if arrived.ends_programs() && let Some(registration) = registered.take() {
                    leaving = Some(tokio::spawn(leave(registration)));
                }
            }
        }
    };
    match (registered, leaving) {
        (Some(registration), _) => leave(registration).await,
        // Bounded by itself.
        (None, Some(leaving)) => leaving.await.unwrap_or_else(|error| tracing::warn!(%error, "deregistering failed")),
        (None, None) => {}
    }
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

/// Deletes the key, as a framework does whose program stops by itself. The lease then runs out.
async fn leave(registration: Registration) {
    let key = registration.key().to_owned();
    match timeout(LEAVE_TIMEOUT, registration.withdraw()).await {
        Ok(Ok(())) => tracing::info!(key, "deregistered"),
        Ok(Err(error)) => tracing::warn!(key, %error, "not deregistered; the key runs out with its lease"),
        Err(_) => tracing::warn!(key, "etcd does not answer; the key runs out with its lease"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    Terminate,
    Interrupt,
    Quit,
    Hangup,
    User1,
    User2,
}

impl Arrived {
    fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
            Self::Hangup => Signal::HUP,
            Self::User1 => Signal::USR1,
            Self::User2 => Signal::USR2,
        }
    }

    /// Whether programs take it as the order to end; a hangup makes many servers read their configuration anew.
    fn ends_programs(self) -> bool {
        matches!(self, Self::Terminate | Self::Interrupt | Self::Quit)
    }

    /// Whether the keyboard sends it to the whole process group, so that passing it on would deliver it twice: a second
    /// Ctrl-C is an order to end at once.
    fn reaches_child_by_terminal(self) -> bool {
        matches!(self, Self::Interrupt | Self::Quit)
    }
}

/// The signals that go through to the command.
struct Signals {
    terminate: Arrivals,
    interrupt: Arrivals,
    quit: Arrivals,
    hangup: Arrivals,
    user_1: Arrivals,
    user_2: Arrivals,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Arrived {
        tokio::select! {
            _ = self.terminate.recv() => Arrived::Terminate,
            _ = self.interrupt.recv() => Arrived::Interrupt,
            _ = self.quit.recv() => Arrived::Quit,
            _ = self.hangup.recv() => Arrived::Hangup,
            _ = self.user_1.recv() => Arrived::User1,
            _ = self.user_2.recv() => Arrived::User2,
        }
    }

    /// Waits until this program itself is to end.
    async fn stop(&mut self) {
        loop {
            let arrived = self.next().await;
            if arrived.ends_programs() || arrived == Arrived::Hangup {
                return;
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
