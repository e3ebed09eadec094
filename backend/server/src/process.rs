//! What this process asks of the system, without `unsafe`: signals to its children, the end of those that others left
//! behind, and room for its sockets.

use std::{fs::File, io, os::fd::AsFd, time::Duration};

use rustix::{
    process::{
        Pid, Resource, Rlimit, Signal, WaitOptions, getpgrp, getpid, getrlimit, kill_process, setrlimit, waitpid,
    },
    termios::tcgetpgrp,
};
use tokio::process::Child;

/// Sends `signal` to `child`. A child that has ended already gets none: its id may be somebody else's by now.
pub(crate) fn signal(child: &Child, signal: Signal) {
    // Until it is waited for, the id stays the child's own.
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
    if let Err(error) = kill_process(pid, signal) {
        tracing::debug!(%error, ?signal, pid = pid.as_raw_nonzero(), "the signal could not be sent");
    }
}

/// Reaps the children that have ended, but not `own`, whose end somebody waits for. Whoever dies without having waited
/// for its children leaves them to the first process of its container: where that does not reap them, they stay as
/// zombies, and at last no process can be started any more.
pub(crate) fn reap_orphans(own: Option<u32>) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for number in numbers.filter(|number| Some(*number) != own) {
        // waitpid(2) for any child would take the status of `own` from who waits for it.
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw).filter(|pid| is_own_zombie(*pid)) else {
            continue;
        };
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some(_)) => tracing::debug!(pid = number, "reaped an orphan"),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, pid = number, "an orphan could not be reaped"),
        }
    }
}

/// Whether `pid` has ended and is this process' to reap.
fn is_own_zombie(pid: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return false };
    // Its own name stands in parentheses, and may hold any others.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    fields.next() == Some("Z")
        && fields.next().and_then(|parent| parent.parse().ok()) == Some(getpid().as_raw_nonzero().get())
}

/// Whether this process was started with `signal` ignored. False where the system does not say.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// Whether the terminal that controls this process, wherever its input comes from, sends the signals of its keys to it and
/// to all in its group.
pub(crate) fn is_in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp())
}

/// Raises the limit of open files to what the system allows, and says what it is then.
pub(crate) fn raise_open_files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            limit
        }
    };
    limit.current.unwrap_or(u64::MAX)
}

/// Bounds what the system keeps for whom `socket` leads to: so many bytes, so long.
pub(crate) fn bound_unacknowledged(socket: &impl AsFd, bytes: usize, timeout: Duration) -> io::Result<()> {
    rustix::net::sockopt::set_socket_send_buffer_size(socket, bytes)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(socket, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    Ok(())
}

/// Sends what `socket` takes at once, also where less room is left than makes it writable: Linux says that it is only once
/// a third of its buffer is free.
pub(crate) fn send_anyway(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::{SendFlags, send};
    Ok(send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}
