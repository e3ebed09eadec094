//! The other half of `plain_register`: prints who is there, and again at every change.
//!
//! `cargo run --example plain_watch -- 127.0.0.1:2379 orders`

use std::error::Error;

use rollcall_registry::{Options, Registry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let etcd = args.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let name = args.next().unwrap_or_else(|| "orders".to_owned());

    let registry = Registry::new(Options::plain().endpoints([etcd]))?;
    let mut watcher = registry.watch(&name)?;
    loop {
        let instances = watcher.next().await?;
        let addresses: Vec<&str> =
            instances.iter().flat_map(|instance| &instance.endpoints).map(String::as_str).collect();
        println!("{name}: {}", if addresses.is_empty() { "nobody".to_owned() } else { addresses.join(", ") });
    }
}
