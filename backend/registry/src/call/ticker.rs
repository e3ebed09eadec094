//! What spares a call that is answered soon a timer of its own.
//!
//! To set a timer that is due before all others wakes the thread that waits for timers, and that costs more than all else
//! that is done for a call here. So a call first waits for the next tick, which comes once for all of them, and sets a timer
//! only if it has no answer by then.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

/// How often it ticks while there are calls.
const TICK: Duration = Duration::from_secs(1);

/// Nobody has called for a whole tick: it stands still.
const STILL: u8 = 0;
/// Nobody has called since the last tick.
const QUIET: u8 = 1;
/// Somebody has called since the last tick.
const BUSY: u8 = 2;
/// It never ticks again: every call sets a timer of its own.
const ENDED: u8 = 3;

/// Ticks while there are calls.
#[derive(Debug)]
pub(super) struct Ticker {
    state: AtomicU8,
    wound: Notify,
    ticked: Notify,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(STILL), wound: Notify::new(), ticked: Notify::new() }
    }

    /// What `answer` gives, if it gives it until `deadline`.
    pub(super) async fn until<F: Future + Unpin>(
        &self,
        deadline: Instant,
        now: Instant,
        mut answer: F,
    ) -> Option<F::Output> {
        // Where the next tick might come too late, a timer is set at once.
        if deadline.saturating_duration_since(now) > 2 * TICK {
            let ticked = self.ticked.notified();
            if self.wind() {
                tokio::select! {
                    biased;
                    answer = &mut answer => return Some(answer),
                    () = ticked => {}
                }
            }
        }
        Box::pin(timeout_at(deadline, answer)).await.ok()
    }

    /// Somebody calls: it ticks at least twice from here on, unless it has ended; whether it ticks.
    pub(super) fn wind(&self) -> bool {
        match self.state.load(Ordering::Relaxed) {
            BUSY => true,
            ENDED => false,
            // What has ended in between is above them all, and stays.
            _ => match self.state.fetch_max(BUSY, Ordering::AcqRel) {
                STILL => {
                    self.wound.notify_one();
                    true
                }
                before => before != ENDED,
            },
        }
    }

    /// Its task ends: nobody is to wait for a tick any more.
    pub(super) fn end(&self) {
        self.state.store(ENDED, Ordering::Release);
        self.ticked.notify_waiters();
    }

    /// Whether its task has ended.
    #[cfg(any(test, feature = "http"))]
    pub(super) fn has_ended(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ENDED
    }

    /// Waits for the next tick, and for somebody to call before that; `next` is when it is due. Called over and over by one
    /// task; cancel safe.
    pub(super) async fn tick(&self, next: &mut Option<Instant>) {
        let due = if let Some(due) = *next {
            due
        } else {
            self.wound.notified().await;
            *next.insert(Instant::now() + TICK)
        };
        sleep_until(due).await;
        // Who has called before this waits already: `notified()` counts from where it is called.
        *next = match self.state.compare_exchange(BUSY, QUIET, Ordering::AcqRel, Ordering::Acquire) {
            Err(QUIET) if self.state.compare_exchange(QUIET, STILL, Ordering::AcqRel, Ordering::Acquire).is_ok() => {
                None
            }
            _ => Some(Instant::now() + TICK),
        };
        self.ticked.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use tokio::time::{advance, sleep};

    use super::*;

    fn ticking() -> Arc<Ticker> {
        let ticker = Arc::new(Ticker::new());
        let ticks = Arc::clone(&ticker);
        tokio::spawn(async move {
            let mut next = None;
            loop {
                ticks.tick(&mut next).await;
            }
        });
        ticker
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_its_time_to_the_moment() {
        let ticker = ticking();
        for round in 0..3 {
            for ms in [0, 1, 500, 2_000, 2_001, 10_000] {
                let (began, time) = (Instant::now(), Duration::from_millis(ms));
                assert_eq!(ticker.until(began + time, began, pending::<()>()).await, None);
                let took = began.elapsed();
                assert!(
                    took >= time && took <= time + Duration::from_millis(1),
                    "{took:?} of {time:?} in round {round}"
                );
            }
            // Long enough for it to stand still.
            sleep(10 * TICK).await;
            assert_eq!(ticker.state.load(Ordering::Relaxed), STILL);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_its_task_a_call_still_has_its_time() {
        let (ticker, time) = (Arc::new(Ticker::new()), Duration::from_secs(10));
        let began = Instant::now();
        let calls = Arc::clone(&ticker);
        let waiting = tokio::spawn(async move { calls.until(began + time, began, pending::<()>()).await });
        sleep(TICK).await;
        assert!(!waiting.is_finished());
        ticker.end();
        assert_eq!(waiting.await.unwrap(), None, "who waits for a tick sets a timer");
        assert_eq!(began.elapsed().as_secs(), 10);

        let began = Instant::now();
        assert!(!ticker.wind());
        assert_eq!(ticker.until(began + time, began, pending::<()>()).await, None);
        assert_eq!(began.elapsed().as_secs(), 10);
        assert!(ticker.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_before_and_after_the_tick() {
        let ticker = ticking();
        for ms in [0, 300, 1_500, 9_999] {
            let began = Instant::now();
            let answer = async {
                sleep(Duration::from_millis(ms)).await;
                ms
            };
            assert_eq!(ticker.until(began + Duration::from_secs(10), began, Box::pin(answer)).await, Some(ms));
            advance(Duration::from_millis(137)).await;
        }
    }
}
