//! Instances and changes of them, at a steady rate or as fast as it goes.

use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use rollcall_tests::{Etcd, Server};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{
    readers::{PLAIN, Target},
    stamp,
};

/// Below it stands every instance.
pub const PREFIX: &str = "/microservices/";

/// How many instances change, in turn.
pub const KEYS: u32 = 200;

/// What one transaction may hold: less than etcd's default of 128.
pub const TXN_KEYS: usize = 100;

/// Puts so many instances.
pub async fn fill(etcd: &Etcd, keys: u32) -> anyhow::Result<()> {
    let mut client = etcd.client().await;
    let ids: Vec<u32> = (0..keys).collect();
    for ids in ids.chunks(TXN_KEYS) {
        let puts: Vec<TxnOp> =
            ids.iter().map(|&id| TxnOp::put(stamp::key(id), stamp::value(id, stamp::now_us()), None)).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// A server over that etcd that watches the instances alone.
pub async fn server(etcd: &Etcd) -> Server {
    Server::start_with(etcd, &["--watch", "kratos=/microservices/"]).await
}

/// The server's stream.
pub fn stream(server: &Server) -> Target {
    let address = server.address();
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    Target { address, request, mark: PLAIN }
}

/// Changes one instance a put, evenly spaced, as far as etcd keeps up, and gives the number of changes.
pub async fn puts(etcd: &Etcd, per_s: u32, length: Duration) -> anyhow::Result<u64> {
    const WRITERS: u32 = 10;
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        clients.push(etcd.client().await);
    }
    let start = Instant::now();
    let mut tasks = Vec::new();
    for (writer, mut client) in (0..WRITERS).zip(clients) {
        tasks.push(tokio::spawn(async move {
            // One writer after the other: changes that came in bursts would flatter whoever puts them together.
            let first = start + Duration::from_secs(1) * writer / per_s;
            let mut ticks = interval_at(first, Duration::from_secs(1) * WRITERS / per_s);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut number = 0_u32;
            loop {
                ticks.tick().await;
                if start.elapsed() >= length {
                    return Ok::<u64, etcd_client::Error>(u64::from(number));
                }
                let id = (number * WRITERS + writer) % KEYS;
                number += 1;
                client.put(stamp::key(id), stamp::value(id, stamp::now_us()), None).await?;
            }
        }));
    }
    let mut changes = 0;
    for task in tasks {
        changes += task.await??;
    }
    Ok(changes)
}
