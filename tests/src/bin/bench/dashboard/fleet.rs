//! The instances that the measured pages show, and what changes of them. Written straight into etcd.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use fastrand::Rng;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rollcall_tests::Etcd;

use crate::load::{PACED, PREFIX, TXN_KEYS, paced};

/// The TTL of every lease. Nobody renews them: what is measured is over before the first renewal would be due.
const TTL_S: i64 = 3_600;

/// How many leases are granted, and transactions written, at once.
const AT_ONCE: usize = 32;

/// Services of equally many instances.
#[derive(Debug, Clone)]
pub struct Fleet {
    each: u32,
    leases: Arc<Vec<i64>>,
}

/// What happens to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Instances change their version and metadata.
    Edits,
    /// Of four changes two are edits, one is an instance that leaves, and one is such a one that comes back.
    Mixed,
}

impl Fleet {
    /// Registers all of them; `per_lease` instances share a lease.
    pub async fn stand(etcd: &Etcd, services: u32, each: u32, per_lease: u32) -> anyhow::Result<Self> {
        let client = etcd.client().await;
        let count = services * each;
        let grants = stream::iter(0..count.div_ceil(per_lease)).map(|_| {
            let mut client = client.clone();
            async move { anyhow::Ok(client.lease_grant(TTL_S, None).await?.id()) }
        });
        let leases: Vec<i64> = grants.buffer_unordered(AT_ONCE).try_collect().await?;
        let fleet = Self { each, leases: Arc::new(leases) };
        let numbers: Vec<u32> = (0..count).collect();
        let txns = stream::iter(numbers.chunks(TXN_KEYS)).map(|numbers| {
            let puts: Vec<TxnOp> = numbers
                .iter()
                .map(|&number| TxnOp::put(fleet.key(number), fleet.value(number, "v1"), Some(fleet.leased(number))))
                .collect();
            let mut client = client.clone();
            async move {
                client.txn(Txn::new().and_then(puts)).await?;
                anyhow::Ok(())
            }
        });
        txns.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(fleet)
    }

    /// A service's name.
    pub fn service(number: u32) -> String {
        format!("fleet{number:04}")
    }

    fn id(&self, number: u32) -> String {
        format!("{}{:04}", Self::service(number / self.each), number % self.each)
    }

    /// An instance's key. They sort as their numbers do.
    pub fn key(&self, number: u32) -> String {
        format!("{PREFIX}{}/{}", Self::service(number / self.each), self.id(number))
    }

    fn value(&self, number: u32, version: &str) -> String {
        value(&Self::service(number / self.each), &self.id(number), version)
    }

    fn leased(&self, number: u32) -> PutOptions {
        let lease = self.leases[number as usize % self.leases.len()];
        PutOptions::new().with_lease(lease)
    }

    /// Gives an instance another version.
    pub async fn edit(&self, client: &mut Client, number: u32, version: &str) -> anyhow::Result<()> {
        client.put(self.key(number), self.value(number, version), Some(self.leased(number))).await?;
        Ok(())
    }

    /// Changes instances of the first service, never its first, each change a revision of its own, evenly spaced as far
    /// as etcd keeps up. Gives the number of changes.
    pub async fn change(&self, etcd: &Etcd, what: Changes, per_s: u32, length: Duration) -> anyhow::Result<u64> {
        let mut writers = Vec::new();
        for writer in 0..PACED {
            let present: Vec<u32> = (1..self.each).filter(|number| number % PACED == writer).collect();
            let (client, rng) = (etcd.client().await, Rng::with_seed(u64::from(writer)));
            writers.push(Writer { fleet: self.clone(), client, rng, present, absent: VecDeque::new() });
        }
        paced(writers, per_s, length, move |writer: &mut Writer, number| {
            Box::pin(async move {
                match (what, number / PACED % 4) {
                    (Changes::Mixed, 0) => writer.leave().await,
                    (Changes::Mixed, 2) => writer.come_back().await,
                    _ => writer.edit(number).await,
                }
            })
        })
        .await
    }
}

struct Writer {
    fleet: Fleet,
    client: Client,
    rng: Rng,
    present: Vec<u32>,
    absent: VecDeque<u32>,
}

impl Writer {
    async fn edit(&mut self, count: u32) -> anyhow::Result<u64> {
        let number = self.present[self.rng.usize(..self.present.len())];
        self.fleet.edit(&mut self.client, number, &format!("v1.{count}")).await?;
        Ok(1)
    }

    async fn leave(&mut self) -> anyhow::Result<u64> {
        let number = self.present.swap_remove(self.rng.usize(..self.present.len()));
        self.absent.push_back(number);
        self.client.delete(self.fleet.key(number), None).await?;
        Ok(1)
    }

    async fn come_back(&mut self) -> anyhow::Result<u64> {
        let Some(number) = self.absent.pop_front() else { return Ok(0) };
        self.present.push(number);
        self.fleet.edit(&mut self.client, number, "v1").await?;
        Ok(1)
    }
}

/// How many changes a [`Churn`] writes in one revision.
const BATCH: usize = 20;

/// An hour of a fleet's life, quickly: of ten changes eight are edits, one is an instance that leaves, and one is a new
/// one with an id that never was before.
pub struct Churn {
    fleet: Fleet,
    client: Client,
    rng: Rng,
    present: Vec<String>,
    born: u32,
    written: u32,
}

impl Churn {
    /// Of the first service of a fleet, all but its first instance.
    pub async fn of(fleet: &Fleet, etcd: &Etcd) -> Self {
        let present = (1..fleet.each).map(|number| fleet.id(number)).collect();
        let (fleet, client) = (fleet.clone(), etcd.client().await);
        Self { fleet, client, rng: Rng::with_seed(7), present, born: 0, written: 0 }
    }

    /// Writes at least so many changes.
    pub async fn write(&mut self, changes: u32) -> anyhow::Result<()> {
        let goal = self.written + changes;
        while self.written < goal {
            let mut ops = Vec::with_capacity(BATCH);
            let mut touched = HashSet::new();
            while ops.len() < BATCH {
                let at = self.rng.usize(..self.present.len());
                if ops.len() % 10 == 9 {
                    self.born += 1;
                    let id = format!("new{:08}", self.born);
                    ops.push(self.put(&id));
                    touched.insert(id.clone());
                    self.present.push(id);
                } else if touched.insert(self.present[at].clone()) {
                    if ops.len() % 10 == 4 {
                        let id = self.present.swap_remove(at);
                        ops.push(TxnOp::delete(key(&id), None));
                    } else {
                        let id = self.present[at].clone();
                        ops.push(self.put(&id));
                    }
                }
            }
            self.written += u32::try_from(BATCH).expect("it is small");
            self.client.txn(Txn::new().and_then(ops)).await?;
        }
        Ok(())
    }

    fn put(&self, id: &str) -> TxnOp {
        let version = format!("v1.{}", self.written);
        TxnOp::put(key(id), value(&Fleet::service(0), id, &version), Some(self.fleet.leased(self.written)))
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{}/{id}", Fleet::service(0))
}

fn value(service: &str, id: &str, version: &str) -> String {
    format!(
        r#"{{"id":"{id}","name":"{service}","version":"{version}","metadata":{{"build":"{version}","zone":"eu-1"}},"endpoints":["http://10.0.0.1:8000","grpc://10.0.0.1:9000"]}}"#
    )
}
