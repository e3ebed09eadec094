//! The end of a program, in the order that costs no call: deregister, let callers take notice, then stop serving.
//!
//! Owns: the signals and that order. Must not know what is served. The order and the signals are those of go-kratos'
//! `App`, which deregisters before its servers stop; the rest in between is new here, since callers learn of it a moment
//! later.

use std::{io, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::registrar::Registration;

/// How long deregistering may take, unless configured otherwise: as in go-kratos.
pub const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long callers get to take notice, unless configured otherwise. What watches etcd knows within some 30 ms.
pub const DRAIN: Duration = Duration::from_millis(500);

/// How long serving may take to end, unless configured otherwise.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, and everything ended in time.
    Gracefully,
    /// It was told to, and serving had not ended when its time was over, or when it was told once more.
    CutShort,
    /// It stopped serving by itself. It was deregistered afterwards.
    ByItself,
}

/// Runs a program until SIGTERM, SIGINT or SIGQUIT, and ends it in order.
///
/// ```no_run
/// # async fn serve(stop: tokio_util::sync::CancellationToken) {}
/// # async fn example(registration: rollcall_registry::Registration) -> std::io::Result<()> {
/// use rollcall_registry::Lifecycle;
///
/// let lifecycle = Lifecycle::new();
/// // Serves until the token is cancelled, and then ends what it is at.
/// let serving = serve(lifecycle.stop());
/// lifecycle.run([registration], serving).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Lifecycle {
    deregister_timeout: Duration,
    drain: Duration,
    stop_timeout: Duration,
    told: CancellationToken,
    stop: CancellationToken,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// One with the times named above.
    pub fn new() -> Self {
        Self {
            deregister_timeout: DEREGISTER_TIMEOUT,
            drain: DRAIN,
            stop_timeout: STOP_TIMEOUT,
            told: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }

    /// How long deregistering may take. What is not removed by then runs out with its lease.
    #[must_use]
    pub fn deregister_timeout(mut self, timeout: Duration) -> Self {
        self.deregister_timeout = timeout;
        self
    }

    /// How long to go on serving after that.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// How long serving may take to end.
    #[must_use]
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Cancelled when it is time to stop serving.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// What ends the program from within, as a signal does from without.
    pub fn end(&self) -> CancellationToken {
        self.told.clone()
    }

    /// Serves until it is told to end, then deregisters, drains and stops. A second signal skips what is left.
    ///
    /// # Errors
    /// Where signals cannot be listened to; then nothing was served. What deregistering says is logged: there is nothing
    /// that a program about to end could do about it.
    pub async fn run(
        self,
        registrations: impl IntoIterator<Item = Registration>,
        serving: impl Future<Output = ()>,
    ) -> io::Result<Ended> {
        let registrations: Vec<_> = registrations.into_iter().collect();
        let mut signals = Signals::listen()?;
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            // What stops at the same signal was told to.
            biased;
            () = signals.next() => {}
            () = self.told.cancelled() => {}
            () = &mut serving => {
                deregister(registrations, self.deregister_timeout).await;
                return Ok(Ended::ByItself);
            }
        }
        let orderly = async {
            // It goes on serving while it says that it will not. What stops by itself, at the same signal perhaps, is
            // deregistered all the same.
            let mut leaving = std::pin::pin!(deregister(registrations, self.deregister_timeout));
            tokio::select! {
                () = &mut leaving => {}
                () = &mut serving => {
                    leaving.await;
                    return true;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.drain) => {}
                () = &mut serving => return true,
            }
            self.stop.cancel();
            timeout(self.stop_timeout, serving).await.is_ok()
        };
        let graceful = tokio::select! {
            graceful = orderly => graceful,
            () = signals.next() => false,
        };
        self.stop.cancel();
        Ok(if graceful { Ended::Gracefully } else { Ended::CutShort })
    }
}

/// Deletes the keys, as the Go frameworks do when their programs stop, all at once.
async fn deregister(registrations: Vec<Registration>, within: Duration) {
    let leaving = futures_util::future::join_all(registrations.into_iter().map(async |registration| {
        let key = registration.key().to_owned();
        match timeout(within, registration.withdraw()).await {
            Ok(Ok(())) => tracing::info!(key, "deregistered"),
            Ok(Err(error)) => tracing::warn!(key, %error, "not deregistered; the key runs out with its lease"),
            Err(_) => tracing::warn!(key, "etcd does not answer; the key runs out with its lease"),
        }
    }));
    leaving.await;
}

#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, quit] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "as elsewhere")]
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn serving_ends_when_it_is_told_to_and_not_before() {
        let lifecycle = Lifecycle::new().drain(Duration::from_millis(10));
        let (stop, end) = (lifecycle.stop(), lifecycle.end());
        let running = tokio::spawn(lifecycle.run([], stop.clone().cancelled_owned()));
        tokio::task::yield_now().await;
        assert!(!stop.is_cancelled());
        end.cancel();
        assert_eq!(running.await.unwrap().unwrap(), Ended::Gracefully);
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn what_does_not_stop_is_cut_short() {
        let lifecycle = Lifecycle::new().drain(Duration::ZERO).stop_timeout(Duration::from_millis(10));
        lifecycle.end().cancel();
        assert_eq!(lifecycle.run([], std::future::pending()).await.unwrap(), Ended::CutShort);
        assert_eq!(Lifecycle::new().run([], async {}).await.unwrap(), Ended::ByItself);
    }
}
