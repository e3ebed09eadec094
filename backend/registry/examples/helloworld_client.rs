//! Calls `helloworld` by its name, over gRPC and over HTTP, and says which instance answered. It finds what go-kratos
//! registered as well as `helloworld_server`.
//!
//! `cargo run --example helloworld_client -- 127.0.0.1:2379 10`

use std::{error::Error, time::Duration};

use rollcall_helloworld::{HelloRequest, greeter_client::GreeterClient};
use rollcall_registry::{
    Options, Registry,
    call::{AnsweredBy, CallConfig, Retry, WhenEmpty, grpc::Channel, http::Client},
};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let etcd = args.next().or_else(|| std::env::var("ROLLCALL_ENDPOINTS").ok());
    let rounds = args.next().map_or(Ok(3), |rounds| rounds.parse::<u32>())?;
    let registry = Registry::new(Options::kratos().endpoints([etcd.unwrap_or("127.0.0.1:2379".to_owned())]))?;

    // To greet twice does no harm, so that a call is tried again wherever it broke off.
    let config = CallConfig {
        retry: Retry::all(),
        when_empty: WhenEmpty::Wait(Duration::from_secs(5)),
        ..CallConfig::default()
    };
    let channel = Channel::connect("discovery:///helloworld", registry.discovery(), config.clone())?;
    let mut greeter = GreeterClient::new(channel);
    let http = Client::new(registry.discovery(), config)?;

    for _ in 0..rounds {
        let reply = greeter.say_hello(HelloRequest { name: "gRPC".to_owned() }).await?;
        say(&reply.get_ref().message, reply.extensions().get());

        let reply = http.get("discovery:///helloworld/helloworld/HTTP").send().await?.error_for_status()?;
        let by = reply.extensions().get().cloned();
        say(reply.json::<Value>().await?["message"].as_str().unwrap_or_default(), by.as_ref());
    }
    Ok(())
}

fn say(message: &str, by: Option<&AnsweredBy>) {
    let (id, address) = by.map_or(("?", "?"), |by| (by.instance.id.as_str(), by.address.as_str()));
    println!("{message}, from {id} at {address}");
}
