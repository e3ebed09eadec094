//! Greeters of a test's own, each of which can be killed as a process is: with all its connections, at once.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    routing::any,
};
use rollcall_helloworld::{
    HelloReply, HelloRequest,
    greeter_server::{Greeter, GreeterServer},
};
use rollcall_registry::{Registration, Registry, ServiceInstance};
use tokio::{io::AsyncReadExt as _, net::TcpStream, runtime::Runtime, task::AbortHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer},
    server::TlsStream,
};
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

/// The service that every test calls. Each test has an etcd of its own.
pub const NAME: &str = "helloworld";

/// Calls that reached an instance, and what it answers them.
#[derive(Clone)]
struct Hello {
    id: String,
    calls: Arc<AtomicUsize>,
}

/// What a caller may ask for besides its greeting: to be told that the instance is not available.
pub const UNAVAILABLE: &str = "unavailable";
/// Where HTTP is told to look elsewhere, at an address that takes no connection.
pub const ELSEWHERE: &str = "elsewhere";
/// What is never answered.
pub const NEVER: &str = "never";

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match request.into_inner().name.as_str() {
            UNAVAILABLE => Err(Status::unavailable("so it was wanted")),
            NEVER => std::future::pending().await,
            _ => Ok(Response::new(HelloReply { message: self.id.clone() })),
        }
    }
}

async fn hello(State(hello): State<Hello>, uri: axum::http::Uri) -> (StatusCode, [(HeaderName, String); 1], String) {
    hello.calls.fetch_add(1, Ordering::SeqCst);
    let asked = [(HeaderName::from_static("x-asked"), uri.to_string())];
    match uri.path().trim_matches('/') {
        UNAVAILABLE => (StatusCode::SERVICE_UNAVAILABLE, asked, String::new()),
        ELSEWHERE => (StatusCode::SEE_OTHER, [(header::LOCATION, "http://127.0.0.1:1/".to_owned())], String::new()),
        NEVER => std::future::pending().await,
        _ => (StatusCode::OK, asked, hello.id),
    }
}

/// Who a greeter is over TLS.
#[derive(Clone)]
struct Secured {
    grpc: Identity,
    http: TlsAcceptor,
}

impl Secured {
    fn by(key: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Self {
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let http = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private.into())
            .expect("the key fits");
        Self {
            grpc: Identity::from_pem(key.cert.pem(), key.signing_key.serialize_pem()),
            http: TlsAcceptor::from(Arc::new(http)),
        }
    }
}

/// Takes connections over TLS. Who does not get through the handshake is nobody's concern.
struct Secure {
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((connection, address)) = self.listener.accept().await else { continue };
            if let Ok(connection) = self.acceptor.accept(connection).await {
                return (connection, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One greeter: HTTP and gRPC on a port each.
pub struct Instance {
    /// How it is registered.
    pub said: ServiceInstance,
    hello: Hello,
    ports: [SocketAddr; 2],
    secured: Option<Secured>,
    runtime: Option<Runtime>,
}

impl Instance {
    /// Starts one.
    pub fn start(id: &str) -> Self {
        Self::start_with(id, None)
    }

    /// Starts one that speaks both over TLS, by `key`.
    pub fn start_secured(id: &str, key: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Self {
        Self::start_with(id, Some(Secured::by(key)))
    }

    fn start_with(id: &str, secured: Option<Secured>) -> Self {
        // A runtime of its own is what can be killed with all that it holds.
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let hello = Hello { id: id.to_owned(), calls: Arc::default() };
        let said = ServiceInstance { id: id.to_owned(), name: NAME.to_owned(), ..ServiceInstance::default() };
        let mut instance = Self { said, hello, ports: [any; 2], secured, runtime: None };
        instance.revive();
        let [http, grpc] = instance.ports;
        let end = if instance.secured.is_some() { "s" } else { "" };
        instance.said.endpoints = vec![format!("http{end}://{http}"), format!("grpc{end}://{grpc}")];
        instance
    }

    /// Starts again, on the same ports.
    pub fn revive(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        let entered = runtime.enter();
        let [http, grpc] = self.ports.map(listen);
        self.ports = [&http, &grpc].map(|listener| listener.local_addr().expect("it is bound"));
        let app = Router::new().fallback(any(hello)).with_state(self.hello.clone());
        let mut server = Server::builder();
        if let Some(secured) = &self.secured {
            runtime.spawn(axum::serve(Secure { listener: http, acceptor: secured.http.clone() }, app).into_future());
            server = server.tls_config(ServerTlsConfig::new().identity(secured.grpc.clone())).expect("the key fits");
        } else {
            runtime.spawn(axum::serve(http, app).into_future());
        }
        let greeter = GreeterServer::new(self.hello.clone());
        runtime.spawn(server.add_service(greeter).serve_with_incoming(TcpIncoming::from(grpc)));
        drop(entered);
        self.runtime = Some(runtime);
    }

    /// Ends it as SIGKILL ends a process: its sockets are closed, and whatever it was at is left undone.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Sets its weight, for the next registration or update.
    pub fn weigh(&mut self, weight: u32) {
        self.said.metadata = BTreeMap::from([("weight".to_owned(), weight.to_string())]);
    }

    /// How many calls reached it.
    pub fn calls(&self) -> usize {
        self.hello.calls.load(Ordering::SeqCst)
    }

    /// Registers it.
    pub async fn register(&self, registry: &Registry) -> Registration {
        registry.register(&self.said).await.expect("etcd takes it")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(address: SocketAddr) -> tokio::net::TcpListener {
    // Right after its end, a port may still be held by a socket that is being closed.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) if std::time::Instant::now() >= deadline => panic!("{address} cannot be bound: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    listener.set_nonblocking(true).expect("it is a socket");
    tokio::net::TcpListener::from_std(listener).expect("it is a listener")
}

/// What takes every connection, waits until `marker` has come in, and breaks it: the caller cannot know what was done.
pub struct Breaker {
    /// How it is registered, at both protocols.
    pub said: ServiceInstance,
    broken: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Breaker {
    /// Starts one.
    pub async fn start(id: &str, marker: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let broken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&broken);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while let Ok(1..) = socket.read_buf(&mut seen).await {
                        if seen.windows(marker.len()).any(|window| window == marker.as_bytes()) {
                            count.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                    }
                });
            }
        });
        let said = ServiceInstance {
            id: id.to_owned(),
            name: NAME.to_owned(),
            endpoints: vec![format!("http://{address}"), format!("grpc://{address}")],
            ..ServiceInstance::default()
        };
        Self { said, broken, task: task.abort_handle() }
    }

    /// How many calls it broke.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
