//! `client`: what the registry client costs a service, each figure beside another way of doing the same.
//!
//! Owns: the parts, and the children whose CPU or death is measured. They are this program again, under a hidden verb.

mod bytes;
mod calls;
mod child;
mod killed;
mod lookups;
mod picks;
mod registering;
mod renewing;

use anyhow::bail;
use rollcall_registry::{
    KeyPrefix, Layout, ServiceInstance,
    etcd::connect::{ConnectConfig, Connection},
};

pub use self::child::{VERB, serve};
use crate::Plan;

/// The parts, as they are named and in the order in which they run.
const PARTS: [&str; 7] = ["lookups", "picks", "bytes", "registering", "renewing", "calls", "killed"];

/// Measures one part, or all, and prints.
pub async fn measure(plan: Plan, part: &str) -> anyhow::Result<()> {
    if !part.is_empty() && !PARTS.contains(&part) {
        bail!("`client` has no part {part:?}; there are {}", PARTS.join(", "));
    }
    for name in PARTS.into_iter().filter(|name| part.is_empty() || *name == part) {
        println!();
        match name {
            "lookups" => Box::pin(lookups::measure(plan)).await?,
            "picks" => picks::measure(plan),
            "bytes" => Box::pin(bytes::measure(plan)).await?,
            "registering" => Box::pin(registering::measure(plan)).await?,
            "renewing" => Box::pin(renewing::measure(plan)).await?,
            "calls" => Box::pin(calls::measure(plan)).await?,
            _ => Box::pin(killed::measure(plan)).await?,
        }
    }
    Ok(())
}

/// A connection of the client's own kind.
fn connection(url: &str) -> Connection {
    let config = ConnectConfig { endpoints: vec![url.to_owned()], ..ConnectConfig::default() };
    Connection::new(config).expect("the harness knows its URL")
}

/// Where go-kratos registers.
fn prefix() -> KeyPrefix {
    KeyPrefix::new("/microservices/").expect("it is no empty prefix")
}

/// An instance as go-kratos writes one.
fn instance(name: &str, id: &str, endpoint: &str) -> ServiceInstance {
    ServiceInstance {
        id: id.to_owned(),
        name: name.to_owned(),
        version: "v1".to_owned(),
        metadata: [("zone".to_owned(), "a".to_owned())].into(),
        endpoints: vec![endpoint.to_owned()],
    }
}

/// The key and value of an instance, as `Registrar` writes them.
fn encoded(instance: &ServiceInstance) -> (String, Vec<u8>) {
    Layout::Kratos.encode(&prefix(), instance).expect("it is a sound instance")
}
