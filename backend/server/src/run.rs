//! From parsed flags to a running server, and to its end.

use std::{sync::Arc, time::Duration};

use rollcall_registry::etcd::connect::{ConnectConfig, Connection};
use rollcall_shared::api::API;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    assets::Assets,
    cli::{deregister, listing, register},
    config::{Command, FlagError, ServeConfig},
    dev::{demo, etcd as dev_etcd},
    fanout::Fanout,
    feed::Feed,
    guard::Guard,
    kept::KeptLeases,
    metrics::Metrics,
    mirror::Mirror,
    routes::{App, Edge, router},
    serve::{Service, serve, streams_max},
    sse::Context,
    undo::UndoBook,
};

/// How long the demo fleet may take to leave.
const DEMO_END_TIMEOUT: Duration = Duration::from_secs(4);

/// Runs `command` to its end. Answers the exit code.
///
/// # Errors
/// Where a flag is wrong: one line, exit 2.
pub async fn run(command: Command) -> Result<i32, FlagError> {
    match command {
        Command::Serve { connect, serve } => {
            let connection = connect.connection()?;
            let config = serve.config()?;
            let listener = bind(&config).await?;
            console(listener, config, connection, &shutdown_on_signals()).await;
            Ok(0)
        }
        Command::Dev { demo, data_dir, etcd_bin, serve } => {
            let config = serve.config()?;
            let listener = bind(&config).await?;
            dev(listener, config, dev_etcd::DevEtcdConfig { etcd_bin, data_dir }, demo).await
        }
        Command::Ls { service, json, connect, watch } => {
            Ok(listing::ls(connect.connection()?, watch.sources()?, service, json).await)
        }
        Command::Watch { service, json, connect, watch } => {
            let (connection, sources) = (connect.connection()?, watch.sources()?);
            Ok(listing::watch(connection, sources, service, json, shutdown_on_signals()).await)
        }
        Command::Register {
            name,
            endpoint,
            host,
            id,
            version,
            meta,
            ttl,
            layout,
            check,
            check_interval,
            check_timeout,
            check_failures,
            drain,
            notify_socket,
            command,
            connect,
            watch,
        } => {
            let sources = watch.sources()?;
            let source = sources.iter().find(|source| source.layout == layout).ok_or_else(|| {
                FlagError(format!("--layout {layout} has no default prefix: name it with --watch {layout}=PREFIX"))
            })?;
            let prefix = source.prefix.clone();
            for endpoint in &endpoint {
                register::address::check(endpoint).map_err(FlagError)?;
            }
            let checks = register::check::CheckConfig {
                checks: check,
                interval: check_interval,
                timeout: check_timeout,
                failures: check_failures,
            };
            let args = register::RegisterArgs {
                name,
                host,
                endpoints: endpoint,
                id,
                version,
                meta,
                ttl_s: ttl,
                layout,
                prefix,
                checks,
                drain,
                manager: register::notify::Manager::at(notify_socket),
                command,
            };
            Ok(register::run(connect.connection()?, args).await)
        }
        Command::Deregister { target, revoke_lease, connect, watch } => {
            let prefixes: Vec<_> = watch.sources()?.into_iter().map(|source| source.prefix).collect();
            Ok(deregister::run(connect.connection()?, &target, revoke_lease, &prefixes).await)
        }
    }
}

async fn bind(config: &ServeConfig) -> Result<TcpListener, FlagError> {
    TcpListener::bind(config.listen).await.map_err(|error| FlagError(format!("--listen {}: {error}", config.listen)))
}

/// Cancelled by SIGINT or SIGTERM.
fn shutdown_on_signals() -> CancellationToken {
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt()).expect("SIGINT can be caught"),
        signal(SignalKind::terminate()).expect("SIGTERM can be caught"),
    );
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    shutdown
}

/// Serves the console over `connection` until `shutdown`.
async fn console(listener: TcpListener, config: ServeConfig, connection: Connection, shutdown: &CancellationToken) {
    let address = listener.local_addr().expect("a bound socket has an address");
    let mirror = Arc::new(Mirror::new(config.sources));
    let metrics = Metrics::new();
    let feed = Feed::start(&mirror, &connection, &metrics);
    let kept = KeptLeases::start(connection.clone(), Arc::clone(&mirror), shutdown);
    let cluster_name = config.cluster_name.unwrap_or_else(|| connection.endpoints().join(", "));
    let fanout = Fanout::start(Arc::clone(&mirror), Arc::clone(&metrics), shutdown.clone());
    let app = Arc::new(App {
        context: Context { mirror, connection, metrics, shutdown: shutdown.clone() },
        undo: UndoBook::default(),
        kept,
        assets: Assets::new(&config.base_path, &cluster_name),
        streams_max: config.streams_max.unwrap_or(usize::MAX).min(streams_max()),
    });
    let stream_path = format!("{}{API}/events", config.base_path);
    let edge = Edge {
        guard: Guard::new(config.allow_hosts, config.auth_token),
        allow_origins: config.allow_origins,
        base_path: config.base_path,
    };
    tracing::info!("listening on http://{address}");
    let service = Service { app: router(app, edge), stream_path, fanout };
    serve(listener, service, shutdown.clone()).await;
    feed.stop().await;
}

async fn dev(
    listener: TcpListener,
    config: ServeConfig,
    etcd: dev_etcd::DevEtcdConfig,
    with_demo: bool,
) -> Result<i32, FlagError> {
    let shutdown = shutdown_on_signals();
    let mut etcd = match dev_etcd::start(etcd).await {
        Ok(etcd) => etcd,
        Err(error) => {
            eprintln!("rollcall: {error}");
            return Ok(1);
        }
    };
    tracing::info!(endpoint = etcd.endpoint(), "etcd is up");
    let connect = ConnectConfig { endpoints: vec![etcd.endpoint().to_owned()], ..ConnectConfig::default() };
    let connection = Connection::new(connect).map_err(|error| FlagError(error.to_string()))?;
    // The fleet leaves once the streams are told that the server ends, and before its etcd goes.
    let fleet = with_demo.then(|| tokio::spawn(demo::run(connection.clone(), shutdown.clone())));
    let serving = console(listener, config, connection, &shutdown);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        why = etcd.ended() => {
            // The console shows what it means that etcd is gone; it does not end with it.
            tracing::warn!(why, "etcd has ended by itself");
            serving.await;
        }
    }
    if let Some(fleet) = fleet {
        let _ = timeout(DEMO_END_TIMEOUT, fleet).await;
    }
    etcd.shutdown().await;
    Ok(0)
}
