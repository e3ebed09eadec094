//! What calling by name costs, beside a plain channel to the one address.

use std::time::Duration;

use futures_util::future::try_join_all;
use rollcall_helloworld::{HelloRequest, greeter_client::GreeterClient};
use rollcall_registry::{
    Discovery, DiscoveryConfig, Layout,
    call::{CallConfig, Picking, grpc},
};
use rollcall_tests::Etcd;
use tokio::time::Instant;
use tonic::{
    client::GrpcService,
    codegen::{Body as HttpBody, Bytes, StdError},
    transport::Endpoint,
};

use super::{
    child::{self, GREETER},
    connection, prefix,
};
use crate::{
    Plan,
    table::{Table, Wanted, float, median, verdict},
};

/// Callers at once: one that waits for each answer, and as many as keep two cores busy.
const CALLERS: [usize; 2] = [1, 64];

/// For how long each run is warmed up: after the one before, connections and caches are another's.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures, and prints.
pub async fn measure(plan: Plan) -> anyhow::Result<()> {
    let rounds = plan.rounds() * 3;
    println!("gRPC calls a second of one server, a process of its own; {rounds} rounds by turns, medians");
    let etcd = Etcd::spawn().await;
    let (_server, address) = child::start(&["greet", &etcd.url(), "1"]).await?;
    let plain = GreeterClient::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    let discovery = Discovery::new(connection(&etcd.url()), DiscoveryConfig::new(Layout::Kratos, prefix()));
    let named = |picking| {
        let config = CallConfig { picking, ..CallConfig::default() };
        anyhow::Ok(GreeterClient::new(grpc::Channel::connect(&target(), &discovery, config)?))
    };
    let (round_robin, of_two) = (named(Picking::RoundRobin)?, named(Picking::PowerOfTwoChoices)?);
    let length = plan.run() / 3;
    for callers in CALLERS {
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            rates[0].push(rate(callers, length, &plain).await?);
            rates[1].push(rate(callers, length, &round_robin).await?);
            rates[2].push(rate(callers, length, &of_two).await?);
        }
        // Each run beside its neighbour: what else the machine does comes and goes more slowly.
        let pairs = rates[1].iter().zip(&rates[0]).map(|(named, plain)| named / plain);
        let ratio = median(pairs.collect::<Vec<_>>());
        let [plain, round_robin, of_two] = rates.map(median);
        let mut table = Table::new(&["calls/s", "µs a call"]);
        let us = |rate: f64| 1e6 / rate;
        table.row(format!("a plain tonic channel, {callers} at once"), &[(plain, 0), (us(plain), 1)]);
        table.row("discovery:///, round robin", &[(round_robin, 0), (us(round_robin), 1)]);
        table.row("discovery:///, power of two choices", &[(of_two, 0), (us(of_two), 1)]);
        table.print();
        verdict("the rate by name, of the plain channel's in the same round", ratio, 0.95, Wanted::AtLeast);
    }
    Ok(())
}

/// What the service is called by.
pub fn target() -> String {
    format!("discovery:///{GREETER}")
}

/// What every call says.
pub fn request() -> HelloRequest {
    HelloRequest { name: "rollcall".to_owned() }
}

/// Calls a second by so many callers.
async fn rate<T>(callers: usize, length: Duration, client: &GreeterClient<T>) -> anyhow::Result<f64>
where
    T: GrpcService<tonic::body::Body> + Clone + Send + 'static,
    T::Error: Into<StdError>,
    T::Future: Send,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let warm = Instant::now() + WARM_UP;
    let until = warm + length;
    let callers = (0..callers).map(|_| {
        let mut client = client.clone();
        let calling = tokio::spawn(async move {
            let mut made = 0;
            loop {
                client.say_hello(request()).await?;
                match Instant::now() {
                    now if now >= until => return anyhow::Ok(made),
                    now if now >= warm => made += 1,
                    _ => {}
                }
            }
        });
        async { calling.await? }
    });
    let made: Vec<u64> = try_join_all(callers).await?;
    Ok(float(made.iter().sum()) / length.as_secs_f64())
}
