//! Our side of a meeting: a greeter over HTTP and gRPC, registered by our registrar, and callers by name through our
//! discovery.

use std::{
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, Router, extract::Path, routing::get};
use rollcall_helloworld::{
    HelloReply, HelloRequest,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
};
use rollcall_registry::{
    Discovery, Lifecycle, Options, Registration, Registry,
    call::{self, AnsweredBy, CallConfig, Retry, WhenEmpty, grpc::Channel, http::Client},
};
use rollcall_tests::Process;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::framework::{Addresses, Framework, Over};

/// How long one call may take, its repetitions included.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// A short lease, so that a killed instance of ours does not stay for long.
const TTL: Duration = Duration::from_secs(5);

/// Our registry of this framework's services, in the etcd at `etcd`.
pub fn registry(framework: &Framework, etcd: &str, ttl: Duration) -> Result<Registry, String> {
    let options = Options::new(framework.layout, framework.prefix).endpoints([etcd]).ttl(ttl);
    Registry::new(options).map_err(|error| error.to_string())
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
    register_for(framework, etcd, service, id, serving, TTL).await
}

async fn register_for(
    framework: &Framework,
    etcd: &str,
    service: &str,
    id: &str,
    serving: &Serving,
    ttl: Duration,
) -> Result<Registration, String> {
    let instance = framework.ours(service, id, &serving.at);
    registry(framework, etcd, ttl)?.register(&instance).await.map_err(|error| error.to_string())
}

/// Starts [`greeter`] as a process of its own, with a short lease.
pub fn greeter_process(framework: &Framework, etcd: &str, service: &str, id: &str) -> Result<Process, String> {
    greeter_process_for(framework, etcd, service, id, TTL)
}

/// Starts [`greeter`] as a process of its own.
pub fn greeter_process_for(
    framework: &Framework,
    etcd: &str,
    service: &str,
    id: &str,
    ttl: Duration,
) -> Result<Process, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.args(["greeter", framework.name, etcd, service, id, &ttl.as_secs().to_string()]);
    Ok(Process::start(id, command, "it is this program"))
}

/// What that process does: serves, registered, until SIGTERM; then it deregisters, drains, and ends.
pub async fn greeter(args: &[String]) -> Result<(), String> {
    let [framework, etcd, service, id, ttl_s] = args else {
        return Err("greeter FRAMEWORK ETCD SERVICE ID TTL".to_owned());
    };
    let framework = Framework::named(framework).ok_or("no such framework")?;
    let ttl_s: u64 = ttl_s.parse().map_err(|_| "a TTL is a number of seconds")?;
    let serving = serve(id).await?;
    let ttl = Duration::from_secs(ttl_s);
    let registration = register_for(&framework, etcd, service, id, &serving, ttl).await?;
    println!("registered {}", registration.key());
    let lifecycle = Lifecycle::new().drain(Duration::from_secs(framework.drain_s));
    let stop = lifecycle.stop();
    let ended = lifecycle.run([registration], stop.cancelled_owned()).await;
    ended.map(drop).map_err(|error| error.to_string())
}

/// One answered call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What it said.
    pub greeting: String,
    /// The id of the instance that said it.
    pub by: String,
}

/// Calls one service by its name.
#[derive(Debug, Clone)]
pub struct Caller {
    over: Over,
    service: String,
    grpc: GreeterClient<Channel>,
    http: Client,
}

impl Caller {
    /// To greet twice does no harm, so that a call is tried again wherever it broke off.
    pub fn new(over: Over, discovery: &Discovery, service: &str) -> Result<Self, String> {
        let config = CallConfig {
            retry: Retry::all(),
            when_empty: WhenEmpty::Wait(CALL_TIMEOUT),
            timeout: Some(CALL_TIMEOUT),
            ..CallConfig::default()
        };
        let target = format!("discovery:///{service}");
        let channel = Channel::connect(&target, discovery, config.clone()).map_err(|error| error.to_string())?;
        let http = Client::new(discovery, config).map_err(|error| error.to_string())?;
        Ok(Self { over, service: service.to_owned(), grpc: GreeterClient::new(channel), http })
    }

    /// Calls once.
    pub async fn call(&self) -> Result<Answer, String> {
        let url = |path: &str| format!("discovery:///{}{path}", self.service);
        match self.over {
            Over::Grpc => {
                let request = HelloRequest { name: "rollcall".to_owned() };
                let told = self.grpc.clone().say_hello(request).await.map_err(|status| status.to_string())?;
                let by = answered_by(told.extensions().get());
                Ok(Answer { greeting: told.into_inner().message, by })
            }
            Over::Http => answer(self.http.get(&url("/helloworld/rollcall")).send().await).await,
            Over::Mucp => {
                let asked = self.http.post(&url("/")).repeatable(true).with(|request| {
                    request
                        .header("Micro-Service", &self.service)
                        .header("Micro-Endpoint", "Greeter.Hello")
                        .header("Micro-Method", "Greeter.Hello")
                        .header("Micro-Id", "1")
                });
                answer(asked.json(&json!({"name": "rollcall"})).send().await).await
            }
        }
    }
}

fn answered_by(by: Option<&AnsweredBy>) -> String {
    by.map_or_else(|| "nobody known".to_owned(), |by| by.instance.id.clone())
}

async fn answer(answer: Result<reqwest::Response, call::http::Error>) -> Result<Answer, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let answer = answer.error_for_status().map_err(|error| error.to_string())?;
    let by = answered_by(answer.extensions().get());
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    let greeting = body["message"].as_str().ok_or_else(|| format!("no greeting: {body}"))?.to_owned();
    Ok(Answer { greeting, by })
}

/// A caller that calls all the time, until it is dropped.
#[derive(Debug)]
pub struct KeepsCalling {
    calls: Arc<Mutex<Vec<Result<Answer, String>>>>,
    task: JoinHandle<()>,
}

impl KeepsCalling {
    /// Calls, rests for `every`, and calls again.
    pub fn start(caller: Caller, every: Duration) -> Self {
        let calls = Arc::default();
        let kept: Arc<Mutex<Vec<_>>> = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            loop {
                let outcome = caller.call().await;
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                sleep(every).await;
            }
        });
        Self { calls, task }
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Result<Answer, String>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for KeepsCalling {
    fn drop(&mut self) {
        self.task.abort();
    }
}
