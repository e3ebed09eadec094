//! Signals to children, without `unsafe`. Knows nothing of what the children are.

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

/// Sends `signal` to `child`. A child that has ended already gets none: its id may be somebody else's by now.
pub(crate) fn signal(child: &Child, signal: Signal) {
    // Until it is waited for, the id stays the child's own.
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
    if let Err(error) = kill_process(pid, signal) {
        tracing::debug!(%error, ?signal, pid = pid.as_raw_nonzero(), "the signal could not be sent");
    }
}
