//! What a service without a framework does in plain etcd: a key below `services/`, put under a lease that is renewed
//! while the program lives, and deleted when it ends.
//!
//! `cargo run --example plain_register -- 127.0.0.1:2379 orders 127.0.0.1:8080`

use std::error::Error;

use rollcall_registry::{Lifecycle, Options, Registry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let etcd = args.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let name = args.next().unwrap_or_else(|| "orders".to_owned());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let registry = Registry::new(Options::plain().endpoints([etcd]))?;
    let registration = registry.register(&registry.instance(name, [address])).await?;
    println!("registered {}", registration.key());

    // Each change of its state: `Alive`, `Retrying` while etcd is away, `Lost` until there is a lease again.
    let mut state = registration.state();
    let lifecycle = Lifecycle::new();
    let stop = lifecycle.stop();
    let serving = async move {
        loop {
            tokio::select! {
                changed = state.changed() => match changed {
                    Ok(()) => println!("{:?}", *state.borrow_and_update()),
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            }
        }
    };
    lifecycle.run([registration], serving).await?;
    println!("deregistered");
    Ok(())
}
