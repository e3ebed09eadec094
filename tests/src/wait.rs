//! Waiting with a deadline, never for luck.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// So many seconds.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Polls `look` until it gives `Ok`, and fails with the last thing it saw where it does not do so within `within`.
pub async fn eventually<T, S: Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(saw) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}; the last thing seen was {saw:#?}")
            }
            Err(_) => sleep(POLL).await,
        }
    }
}
