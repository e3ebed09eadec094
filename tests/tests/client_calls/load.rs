//! Calls without a pause, whatever happens meanwhile.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rollcall_tests::wait::{eventually, seconds};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

/// 1,000 calls a second, or as many as a busy machine makes: some are in flight at any moment.
const PACE: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Tally {
    made: AtomicUsize,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Tally {
    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    fn failed(&self) -> MutexGuard<'_, Vec<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls at a steady pace until it is told to end.
pub struct Load {
    tally: Arc<Tally>,
    task: JoinHandle<()>,
}

impl Load {
    /// Begins to `call`, which says what went wrong.
    pub fn start<F: Future<Output = Result<(), String>> + Send + 'static>(
        call: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        let tally = Arc::<Tally>::default();
        let task = tokio::spawn(make(call, Arc::clone(&tally)));
        Self { tally, task }
    }

    /// Waits until so many more calls have ended.
    pub async fn goes_on(&self, more: usize) {
        let so_far = self.tally.made();
        eventually(&format!("{more} more calls"), seconds(60), || async {
            let made = self.tally.made();
            if made >= so_far + more { Ok(()) } else { Err(made - so_far) }
        })
        .await;
    }

    /// Ends it. Not one call may have failed.
    pub async fn ends_without_a_failure(self) {
        self.tally.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("it does not panic");
        let failed = self.tally.failed();
        let some = &failed[..failed.len().min(3)];
        assert!(failed.is_empty(), "{} of {} failed: {some:#?}", failed.len(), self.tally.made());
    }
}

async fn make<F: Future<Output = Result<(), String>> + Send + 'static>(call: impl Fn() -> F, tally: Arc<Tally>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    while !tally.stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let (tally, call) = (Arc::clone(&tally), call());
        calls.spawn(async move {
            let answer = call.await;
            tally.made.fetch_add(1, Ordering::SeqCst);
            if let Err(why) = answer {
                tally.failed().push(why);
            }
        });
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
}
