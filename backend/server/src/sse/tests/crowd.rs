//! Many who are told together, while there is always more to tell.

use std::{sync::Arc, time::Duration};

use tokio::time::{advance, timeout};

use super::{
    super::{Reader, Request},
    client::context,
    store::{self, Scripted, Turn, Watcher},
    stream::Stream,
};
use crate::{fanout::Fanout, mirror::Mirror};

/// More than the loop tells without letting others have the thread.
const READERS: usize = 2_000;

/// How many changes come, one whenever somebody else has the thread.
const CHANGES: u16 = 120;

#[tokio::test(start_paused = true)]
async fn who_joins_and_who_is_to_leave_need_not_wait_for_an_end_of_what_there_is_to_tell() {
    let etcd = Scripted::new();
    let mirror = Arc::new(Mirror::new(vec![store::config(0)]));
    let mut watcher = Watcher::default();
    for event in watcher.turn(&mut etcd.store(), 0, Turn::Changes(0)) {
        mirror.apply(0, event);
    }
    let context = context(&mirror, &etcd);
    let fanout = Arc::new(Fanout::start(Arc::clone(&mirror), Arc::clone(&context.metrics), context.shutdown.clone()));
    let reader = || {
        let request = Request { selected: Arc::default(), cursor: None, ttl: false };
        Stream::followed_whole(Reader::new(context.clone(), request), &fanout)
    };
    let mut streams: Vec<Stream> = (0..READERS).map(|_| reader()).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;

    let changing = tokio::spawn({
        let (etcd, mirror) = (etcd.clone(), Arc::clone(&mirror));
        async move {
            for number in 0..CHANGES {
                etcd.store().txn(&[(0, number % 50, Some((0, 0)))]);
                for event in watcher.turn(&mut etcd.store(), 0, Turn::Changes(9)) {
                    mirror.apply(0, event);
                }
                advance(Duration::from_millis(60)).await;
            }
        }
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let mut late = reader();
    let mut heard = 0;
    while heard < 3 {
        let bytes = timeout(Duration::from_secs(30), late.next()).await.expect("it is told what comes").unwrap();
        heard += String::from_utf8_lossy(&bytes).matches(r#""type":"delta""#).count();
    }
    assert!(!changing.is_finished(), "it was told before there was an end of it");
    context.shutdown.cancel();
    streams.push(late);
    for stream in &mut streams {
        let mut last = bytes::Bytes::new();
        while let Some(bytes) = timeout(Duration::from_secs(5), stream.next()).await.expect("it ends") {
            last = bytes;
        }
        assert!(last.starts_with(b"event: bye\n"), "{last:?}");
    }
    assert!(!changing.is_finished(), "and so did all the others");
}
