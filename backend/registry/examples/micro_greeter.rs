//! A greeter that go-micro v5 finds and calls like one of its own: registered as go-micro writes it, and answering `mucp`,
//! which is a POST whose headers name the endpoint.
//!
//! `cargo run --example micro_greeter -- 127.0.0.1:2379 helloworld`, then from Go
//! `client.Call(ctx, client.NewRequest("helloworld", "Greeter.Hello", &Request{Name: "you"}), &response)`.

use std::{collections::BTreeMap, error::Error, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use rollcall_registry::{
    Registrar, RegistrarConfig,
    etcd::connect::{ConnectConfig, Connection},
};
use rollcall_shared::{KeyPrefix, Layout, ServiceInstance};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let etcd = args.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let name = args.next().unwrap_or_else(|| "helloworld".to_owned());
    let me = args.next().unwrap_or_else(|| format!("{name}-{}", uuid::Uuid::new_v4()));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let instance = ServiceInstance {
        id: me.clone(),
        name,
        version: "latest".to_owned(),
        // How a go-micro v5 program says what it speaks; others skip what they do not.
        metadata: BTreeMap::from(
            [("broker", "http"), ("protocol", "mucp"), ("registry", "etcd"), ("server", "mucp"), ("transport", "http")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ),
        endpoints: vec![listener.local_addr()?.to_string()],
    };
    let mut stop = signal(SignalKind::terminate())?;
    let app = Router::new().route("/", post(call)).with_state(me);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let connection = Connection::new(ConnectConfig { endpoints: vec![etcd], ..ConnectConfig::default() })?;
    let prefix = KeyPrefix::new("/micro/registry/")?;
    let config = RegistrarConfig { layout: Layout::GoMicro, prefix, ttl_s: Some(60), takeover: false };
    let registration = Registrar::new(connection, config).register(&instance).await?;
    println!("registered {}", registration.key());

    stop.recv().await;
    registration.deregister().await?;
    // Who found it just now may still be calling.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.abort();
    Ok(())
}

/// Answers one call: `Micro-Endpoint` says of what, the body holds the request as JSON.
async fn call(State(me): State<String>, headers: HeaderMap, Json(request): Json<Value>) -> Response {
    match headers.get("micro-endpoint").and_then(|endpoint| endpoint.to_str().ok()) {
        Some("Greeter.Hello") => {
            let name = request["name"].as_str().unwrap_or_default();
            Json(json!({ "message": format!("Hello {name} from {me}") })).into_response()
        }
        unknown => (StatusCode::NOT_FOUND, format!("there is no endpoint {unknown:?}")).into_response(),
    }
}
