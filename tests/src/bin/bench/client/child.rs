//! What is measured, or killed, as a process of its own.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, bail};
use etcd_client::PutOptions;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rollcall_helloworld::{
    HelloReply, HelloRequest,
    greeter_server::{Greeter, GreeterServer},
};
use rollcall_registry::{Layout, Registrar, RegistrarConfig};
use rollcall_tests::{Process, seconds};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::{connection, encoded, instance, prefix, registering::CONCURRENCY};

/// What a child is started with.
pub const VERB: &str = "client-child";

/// What a child says once it is ready, before anything else.
const READY: &str = "ready ";

/// How long a registration that is kept alive lives without.
pub const TTL_S: i64 = 15;

/// How often its lease is renewed by hand, as etcd's own client does.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

/// The service of the greeters.
pub const GREETER: &str = "helloworld";

/// A child that is ready, and what it said about itself.
pub async fn start(args: &[&str]) -> anyhow::Result<(Process, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(VERB).args(args);
    let mut process = Process::start(&args.join(" "), command, "it is this program");
    let said =
        process.stdout_line("a child is ready", seconds(120), |line| line.strip_prefix(READY).map(str::to_owned)).await;
    Ok((process, said))
}

/// The child.
pub fn serve(args: &[String]) -> anyhow::Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        match args[..] {
            ["keep", url, count] => keep(url, count.parse()?).await,
            ["keep-by-hand", url, count] => keep_by_hand(url, count.parse()?).await,
            ["greet", url, id] => greet(url, id).await,
            _ => bail!("odd order {args:?}"),
        }
    })
}

/// Registers so many and keeps them.
async fn keep(url: &str, count: u32) -> anyhow::Result<()> {
    let config = RegistrarConfig { ttl_s: Some(TTL_S), ..super::registering::config() };
    let registrar = Registrar::new(connection(url), config);
    let registering = (0..count).map(|number| {
        let registrar = registrar.clone();
        async move { registrar.register(&numbered(number)).await }
    });
    let _kept: Vec<_> = stream::iter(registering).buffer_unordered(CONCURRENCY).try_collect().await?;
    ready("").await
}

/// The same by etcd-client alone, which has a stream for each lease.
async fn keep_by_hand(url: &str, count: u32) -> anyhow::Result<()> {
    let client = etcd_client::Client::connect([url], None).await?;
    let registering = (0..count).map(|number| {
        let mut client = client.clone();
        async move {
            let (key, value) = encoded(&numbered(number));
            let lease = client.lease_grant(TTL_S, None).await?.id();
            client.put(key, value, Some(PutOptions::new().with_lease(lease))).await?;
            let (mut keeper, mut replies) = client.lease_keep_alive(lease).await?;
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(RENEWAL_INTERVAL).await;
                    if keeper.keep_alive().await.is_err() || !matches!(replies.message().await, Ok(Some(_))) {
                        return;
                    }
                }
            });
            anyhow::Ok(())
        }
    });
    stream::iter(registering).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    ready("").await
}

fn numbered(number: u32) -> rollcall_registry::ServiceInstance {
    let [_, high, middle, low] = number.to_be_bytes();
    instance("pay", &format!("{number:06}"), &format!("http://10.{high}.{middle}.{low}:8000"))
}

/// A gRPC server that registers itself, and says where it listens.
async fn greet(url: &str, id: &str) -> anyhow::Result<()> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    let address = incoming.local_addr()?.to_string();
    let greeter = GreeterServer::new(Named(id.to_owned()));
    let serving = tokio::spawn(tonic::transport::Server::builder().add_service(greeter).serve_with_incoming(incoming));
    let config = RegistrarConfig { layout: Layout::Kratos, prefix: prefix(), ttl_s: Some(TTL_S), takeover: false };
    let registrar = Registrar::new(connection(url), config);
    let _registration = registrar.register(&instance(GREETER, id, &format!("grpc://{address}"))).await?;
    tokio::select! {
        done = ready(&address) => done,
        ended = serving => Ok(ended??),
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

/// Says that it is ready, and stays until it is killed.
async fn ready(more: &str) -> anyhow::Result<()> {
    println!("{READY}{more}");
    std::future::pending().await
}
