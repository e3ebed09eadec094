//! A greeter that go-micro v5 finds and calls like one of its own: registered as go-micro writes it, and answering `mucp`,
//! which is a POST whose headers name the endpoint. It reads go-micro's own variables.
//!
//! `MICRO_REGISTRY_ADDRESS=127.0.0.1:2379 cargo run --example micro_greeter -- helloworld`, then from Go
//! `client.Call(ctx, client.NewRequest("helloworld", "Greeter.Hello", &Request{Name: "you"}), &response)`.

use std::error::Error;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use rollcall_registry::{Lifecycle, Options, Registry};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How a go-micro v5 program says what it speaks.
const SPEAKS: [(&str, &str); 5] =
    [("broker", "http"), ("protocol", "mucp"), ("registry", "etcd"), ("server", "mucp"), ("transport", "http")];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "helloworld".to_owned());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let registry = Registry::new(Options::from_env()?)?;
    let mut instance = registry.instance(name, [listener.local_addr()?.to_string()]);
    instance.id = args.next().unwrap_or(instance.id);
    instance.version = "latest".into();
    instance.metadata = SPEAKS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();

    let lifecycle = Lifecycle::new();
    let app = Router::new().route("/", post(call)).with_state(instance.id.clone());
    let serving = axum::serve(listener, app).with_graceful_shutdown(lifecycle.stop().cancelled_owned());
    let registration = registry.register(&instance).await?;
    println!("registered {}", registration.key());
    lifecycle.run([registration], async { drop(serving.await) }).await?;
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
