//! The greeter of go-kratos' helloworld: HTTP and gRPC, each on a port of its own, registered as `helloworld` with both.
//! SIGTERM deregisters it first, then lets callers take notice, then stops it.
//!
//! `cargo run --example helloworld_server -- 127.0.0.1:2379`, as often as you like; then ask by
//! `cargo run --example helloworld_client`, or from go-kratos by `discovery:///helloworld`.

use std::error::Error;

use axum::{Json, Router, extract::Path, routing::get};
use rollcall_helloworld::{
    HelloReply, HelloRequest,
    greeter_server::{Greeter, GreeterServer},
};
use rollcall_registry::{Lifecycle, Options, Registry};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server, transport::server::TcpIncoming};

struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

async fn hello(Path(name): Path<String>) -> Json<Value> {
    Json(json!({ "message": format!("Hello {name}") }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let etcd = std::env::args().nth(1).or_else(|| std::env::var("ROLLCALL_ENDPOINTS").ok());
    let registry = Registry::new(Options::kratos().endpoints([etcd.unwrap_or("127.0.0.1:2379".to_owned())]))?;
    let (http, grpc) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let endpoints = [format!("http://{}", http.local_addr()?), format!("grpc://{}", grpc.local_addr()?)];
    let instance = registry.instance("helloworld", endpoints);

    let lifecycle = Lifecycle::new();
    let (stop_http, stop_grpc) = (lifecycle.stop().cancelled_owned(), lifecycle.stop().cancelled_owned());
    let routes = Router::new().route("/helloworld/{name}", get(hello));
    let http = tokio::spawn(axum::serve(http, routes).with_graceful_shutdown(stop_http).into_future());
    let greeter = Server::builder().add_service(GreeterServer::new(Hello));
    let grpc = tokio::spawn(greeter.serve_with_incoming_shutdown(TcpIncoming::from(grpc), stop_grpc));

    // Servers first, registration after: whoever finds it can call it.
    let registration = registry.register(&instance).await?;
    println!("registered {} at {}", registration.key(), instance.endpoints.join(" and "));
    lifecycle.run([registration], async { drop(tokio::join!(http, grpc)) }).await?;
    println!("ended");
    Ok(())
}
