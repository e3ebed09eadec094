//! Instances and changes of them, at a steady rate or as fast as it goes.

use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use futures_util::future::BoxFuture;
use rollcall_tests::{Etcd, Server};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

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

/// How many take turns where changes come at a steady rate.
pub const PACED: u32 = 10;

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
    Target { address, request, mark: PLAIN, one_of: 1 }
}

/// Changes one instance a put, evenly spaced, as far as etcd keeps up, and gives the number of changes.
pub async fn puts(etcd: &Etcd, per_s: u32, length: Duration) -> anyhow::Result<u64> {
    padded_puts(etcd, per_s, length, 0).await
}

/// The same with values that are so many bytes longer.
pub async fn padded_puts(etcd: &Etcd, per_s: u32, length: Duration, padding: usize) -> anyhow::Result<u64> {
    let clients = clients(etcd, PACED).await;
    paced(clients, per_s, length, move |client: &mut Client, number| {
        Box::pin(async move {
            let id = number % KEYS;
            client.put(stamp::key(id), stamp::padded(id, stamp::now_us(), padding), None).await?;
            Ok(1)
        })
    })
    .await
}

/// The same in transactions of `TXN_KEYS` changes.
pub async fn txns(etcd: &Etcd, changes_per_s: u32, length: Duration) -> anyhow::Result<u64> {
    let clients = clients(etcd, PACED).await;
    let keys = u32::try_from(TXN_KEYS).expect("it is small");
    paced(clients, changes_per_s / keys, length, move |client: &mut Client, number| {
        Box::pin(async move {
            let first = number * keys % KEYS;
            let stamp = stamp::now_us();
            let puts: Vec<TxnOp> =
                (first..first + keys).map(|id| TxnOp::put(stamp::key(id), stamp::value(id, stamp), None)).collect();
            client.txn(Txn::new().and_then(puts)).await?;
            Ok(u64::from(keys))
        })
    })
    .await
}

/// Changes instances as fast as so many writers can, and gives the number of changes.
pub async fn flat_out(etcd: &Etcd, writers: u32, length: Duration) -> anyhow::Result<u64> {
    let clients = clients(etcd, writers).await;
    let start = Instant::now();
    let mut tasks = Vec::new();
    for (writer, mut client) in (0..writers).zip(clients) {
        tasks.push(tokio::spawn(async move {
            let mut changes = 0_u32;
            while start.elapsed() < length {
                let id = (changes * writers + writer) % KEYS;
                client.put(stamp::key(id), stamp::value(id, stamp::now_us()), None).await?;
                changes += 1;
            }
            anyhow::Ok(u64::from(changes))
        }));
    }
    joined(tasks).await
}

async fn clients(etcd: &Etcd, count: u32) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(etcd.client().await);
    }
    clients
}

/// Does something at a steady rate, by as many as there are to do it with, and gives the sum of what each time gave.
pub async fn paced<T: Send + 'static>(
    each: Vec<T>,
    per_s: u32,
    length: Duration,
    act: impl for<'a> Fn(&'a mut T, u32) -> BoxFuture<'a, anyhow::Result<u64>> + Clone + Send + 'static,
) -> anyhow::Result<u64> {
    let writers = u32::try_from(each.len())?;
    let start = Instant::now();
    let mut tasks = Vec::new();
    for (writer, mut with) in (0..writers).zip(each) {
        let act = act.clone();
        tasks.push(tokio::spawn(async move {
            // One writer after the other: changes that came in bursts would flatter whoever puts them together.
            let first = start + Duration::from_secs(1) * writer / per_s;
            let mut ticks = interval_at(first, Duration::from_secs(1) * writers / per_s);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (mut number, mut sum) = (writer, 0);
            loop {
                ticks.tick().await;
                if start.elapsed() >= length {
                    return anyhow::Ok(sum);
                }
                sum += act(&mut with, number).await?;
                number += writers;
            }
        }));
    }
    joined(tasks).await
}

async fn joined(tasks: Vec<JoinHandle<anyhow::Result<u64>>>) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in tasks {
        sum += task.await??;
    }
    Ok(sum)
}
