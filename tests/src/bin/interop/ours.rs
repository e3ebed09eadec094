//! Our side of a meeting: a greeter over HTTP and gRPC, registered by our registrar, and calls by name to what our discovery
//! finds.

use std::{process::Command, time::Duration};

use axum::{Json, Router, extract::Path, routing::get};
use rollcall_helloworld::{
    HelloReply, HelloRequest,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
};
use rollcall_registry::{
    Discovery, Registrar, RegistrarConfig, Registration,
    call::{self, CallConfig, grpc::Channel, http::Client},
    etcd::connect::{ConnectConfig, Connection},
};
use rollcall_shared::KeyPrefix;
use rollcall_tests::Process;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::sleep,
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::framework::{Addresses, Framework, Over};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// A short lease, so that a killed instance of ours does not stay for long.
const TTL_S: i64 = 5;

/// A connection to the etcd at `address`.
pub fn connect(address: &str) -> Result<Connection, String> {
    let config = ConnectConfig { endpoints: vec![address.to_owned()], ..ConnectConfig::default() };
    Connection::new(config).map_err(|error| error.to_string())
}

/// A greeter that serves until it is dropped.
#[derive(Debug)]
pub struct Serving {
    /// Where it does.
    pub at: Addresses,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Named(String);

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {} from {}", request.into_inner().name, self.0);
        Ok(Response::new(HelloReply { message }))
    }
}

/// Serves on free ports; its answers end in `from {id}`.
pub async fn serve(id: &str) -> Result<Serving, String> {
    let listen = async || TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string());
    let address =
        |listener: &TcpListener| listener.local_addr().map(|at| at.to_string()).map_err(|error| error.to_string());
    let (http, grpc) = (listen().await?, listen().await?);
    let at = Addresses { http: address(&http)?, grpc: address(&grpc)? };
    let me = id.to_owned();
    let greet = move |Path(name): Path<String>| {
        let message = format!("Hello {name} from {me}");
        async move { Json(json!({ "message": message })) }
    };
    let routes = Router::new().route("/helloworld/{name}", get(greet));
    let over_http = tokio::spawn(async move { drop(axum::serve(http, routes).await) });
    let greeter = GreeterServer::new(Named(id.to_owned()));
    let over_grpc = tokio::spawn(async move {
        let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
        drop(tonic::transport::Server::builder().add_service(greeter).serve_with_incoming(incoming).await);
    });
    Ok(Serving { at, tasks: [over_http, over_grpc] })
}

/// Registers `serving` as the framework's own program would.
pub async fn register(
    framework: &Framework,
    etcd: &str,
    service: &str,
    id: &str,
    serving: &Serving,
) -> Result<Registration, String> {
    let config = RegistrarConfig {
        layout: framework.layout,
        prefix: KeyPrefix::new(framework.prefix).map_err(|error| error.to_string())?,
        ttl_s: Some(TTL_S),
        takeover: false,
    };
    let instance = framework.ours(service, id, &serving.at);
    Registrar::new(connect(etcd)?, config).register(&instance).await.map_err(|error| error.to_string())
}

/// Starts [`greeter`] as a process of its own.
pub fn greeter_process(framework: &Framework, etcd: &str, service: &str, id: &str) -> Result<Process, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.args(["greeter", framework.name, etcd, service, id]);
    Ok(Process::start(id, command, "it is this program"))
}

/// What that process does: serves, registered, until SIGTERM; then it deregisters, drains, and ends.
pub async fn greeter(args: &[String]) -> Result<(), String> {
    let [framework, etcd, service, id] = args else { return Err("greeter FRAMEWORK ETCD SERVICE ID".to_owned()) };
    let framework = Framework::named(framework).ok_or("no such framework")?;
    let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let serving = serve(id).await?;
    let registration = register(&framework, etcd, service, id, &serving).await?;
    println!("registered {}", registration.key());
    stop.recv().await;
    registration.deregister().await.map_err(|error| error.to_string())?;
    sleep(Duration::from_secs(framework.drain_s)).await;
    Ok(())
}

/// Calls `service` once by its name, and gives the greeting.
pub async fn call(over: Over, discovery: &Discovery, service: &str) -> Result<String, String> {
    let url = |path: &str| format!("discovery:///{service}{path}");
    let config = CallConfig { timeout: Some(CALL_TIMEOUT), ..CallConfig::default() };
    match over {
        Over::Grpc => {
            let channel = Channel::connect(&url(""), discovery, config).map_err(|error| error.to_string())?;
            let request = HelloRequest { name: "rollcall".to_owned() };
            let told = GreeterClient::new(channel).say_hello(request).await.map_err(|status| status.to_string())?;
            Ok(told.into_inner().message)
        }
        Over::Http => {
            let client = Client::new(discovery, config).map_err(|error| error.to_string())?;
            message(client.get(&url("/helloworld/rollcall")).send().await).await
        }
        Over::Mucp => {
            let client = Client::new(discovery, config).map_err(|error| error.to_string())?;
            let asked = client.post(&url("/")).with(|request| {
                request
                    .header("Micro-Service", service)
                    .header("Micro-Endpoint", "Greeter.Hello")
                    .header("Micro-Method", "Greeter.Hello")
                    .header("Micro-Id", "1")
            });
            message(asked.json(&json!({"name": "rollcall"})).send().await).await
        }
    }
}

async fn message(answer: Result<reqwest::Response, call::http::Error>) -> Result<String, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let answer = answer.error_for_status().map_err(|error| error.to_string())?;
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    body["message"].as_str().map(str::to_owned).ok_or_else(|| format!("no greeting: {body}"))
}
