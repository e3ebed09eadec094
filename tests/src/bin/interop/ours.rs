//! Our side of a meeting: a greeter over HTTP and gRPC, registered by our registrar, and plain calls to what our discovery
//! found.

use std::{process::Command, time::Duration};

use axum::{Json, Router, extract::Path, routing::get};
use rollcall_helloworld::{
    HelloReply, HelloRequest,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
};
use rollcall_registry::{
    Registrar, RegistrarConfig, Registration,
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

/// How long one plain call may take.
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

/// Calls `host:port` once, and gives the greeting.
pub async fn call(over: Over, address: &str, service: &str) -> Result<String, String> {
    let answer = async {
        match over {
            Over::Grpc => {
                let connected = GreeterClient::connect(format!("http://{address}")).await;
                let mut client = connected.map_err(|error| format!("{error:?}"))?;
                let request = HelloRequest { name: "rollcall".to_owned() };
                client
                    .say_hello(request)
                    .await
                    .map(|told| told.into_inner().message)
                    .map_err(|status| status.to_string())
            }
            Over::Http => {
                let asked = reqwest::get(format!("http://{address}/helloworld/rollcall")).await;
                message(asked).await
            }
            Over::Mucp => {
                let asked = reqwest::Client::new()
                    .post(format!("http://{address}/"))
                    .header("Micro-Service", service)
                    .header("Micro-Endpoint", "Greeter.Hello")
                    .header("Micro-Method", "Greeter.Hello")
                    .header("Micro-Id", "1")
                    .json(&json!({"name": "rollcall"}));
                message(asked.send().await).await
            }
        }
    };
    tokio::time::timeout(CALL_TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer within 3 s".to_owned()))
}

async fn message(answer: reqwest::Result<reqwest::Response>) -> Result<String, String> {
    let answer = answer.and_then(reqwest::Response::error_for_status).map_err(|error| error.to_string())?;
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    body["message"].as_str().map(str::to_owned).ok_or_else(|| format!("no greeting: {body}"))
}
