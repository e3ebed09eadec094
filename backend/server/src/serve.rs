//! The listener: takes connections in, serves each over HTTP/1.1, and ends them all in time.
//!
//! Owns sockets and their bounds. Must not know what is served, but for the one path whose connections are served
//! beside hyper ([`direct`]). HTTP/1.1 alone: without TLS no browser speaks HTTP/2, and detecting the version would put
//! no bound on a client that connects and says nothing.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::Semaphore,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    direct::{self, Opening},
    fanout::Fanout,
    process::{bound_unacknowledged, raise_open_files_max, send_anyway},
};

/// How many connections are served at the same time, where the system allows so many open files; further ones wait to
/// be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Of how many connections one is kept free of streams, for everything else.
const CONNECTIONS_A_PLACE: usize = 16;

/// How many open files are left for everything else: etcd, the log, an etcd of one's own.
const OPEN_FILES_RESERVE: u64 = 64;

/// How long a client may take to say what it wants, also between two requests.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take nothing while data waits for it.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open connections may take to end once the server is told to.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may leave bytes unacknowledged before its connection counts as broken: one that is gone without a
/// word says nothing else. Longer than [`STALL_TIMEOUT`], which is for those who answer.
pub const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);

/// How many bytes the system keeps for a client that does not take them. Linux takes it twice.
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// How many bytes of a request's head, and of an answer that is not taken, are kept for one connection.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What is served, and the path whose connections are served beside hyper.
pub struct Service {
    /// Every route.
    pub app: Router,
    /// Where the stream stands.
    pub stream_path: String,
    /// Where its readers are told together.
    pub fanout: Fanout<TcpStream>,
}

/// How many connections can be served at the same time: [`CONNECTIONS_MAX`], or what the system allows.
pub fn connections_max() -> usize {
    let open_files = raise_open_files_max().saturating_sub(OPEN_FILES_RESERVE).max(OPEN_FILES_RESERVE);
    usize::try_from(open_files).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}

/// How many streams can be served at the same time: there is always room beside them for who wants something else, and
/// for telling further streams that they had better come back later.
pub fn streams_max() -> usize {
    let connections_max = connections_max();
    connections_max - connections_max.div_ceil(CONNECTIONS_A_PLACE)
}

/// Serves all who connect to `listener`, until `shutdown`; then ends what is open within [`DRAIN_TIMEOUT`].
pub async fn serve(listener: TcpListener, service: Service, shutdown: CancellationToken) {
    let service = Arc::new(service);
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(connections_max()));
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, mostly: what is open lives on, and others are let in as it ends.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (service, shutdown) = (Arc::clone(&service), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            serve_connection(stream, peer, &service, shutdown).await;
        });
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "connections that did not end in time are cut off");
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, service: &Service, shutdown: CancellationToken) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%peer, %error, "the connection ended as it began");
        return;
    }
    let opening = tokio::select! {
        opening = Box::pin(direct::opening(&stream, &service.stream_path)) => opening,
        () = shutdown.cancelled() => return,
    };
    // Each way has its own room: a stream that waits holds none for what it does not do.
    let ended = match opening {
        Opening::Nothing => return,
        Opening::Stream(request) => {
            direct::serve(stream, request, service.app.clone(), &service.fanout).await.map_err(anyhow::Error::from)
        }
        Opening::Other(read) => Box::pin(serve_by_hyper(stream, read, service.app.clone(), shutdown)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "the connection broke off");
    }
}

/// Gives a socket its bounds.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    // A change leaves at once: nothing waits for more to go with it.
    stream.set_nodelay(true)?;
    bound_unacknowledged(stream, SEND_BUFFER_BYTES, UNACKNOWLEDGED_TIMEOUT)
}

async fn serve_by_hyper(
    stream: TcpStream,
    read: Bytes,
    app: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (reading, writing) = stream.into_split();
    let stream = tokio::io::join(io::Cursor::new(read).chain(reading), Unstalled::new(writing));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        // A message is small: one copy costs less than handing its pieces to the kernel one by one.
        .writev(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    Ok(ended?)
}

/// A socket whose writes fail once nothing was taken for [`STALL_TIMEOUT`] while data waited.
struct Unstalled<S> {
    stream: S,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: Insist> Unstalled<S> {
    fn new(stream: S) -> Self {
        Self { stream, stalled: None }
    }

    /// Gives up a client that took nothing of `piece` for too long.
    fn watch(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALL_TIMEOUT)));
        if stalled.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.stalled = None;
        // It may have taken something, but less than makes a socket writable.
        Poll::Ready(self.stream.insist(piece).ok().filter(|taken| *taken > 0).ok_or_else(direct::stalled))
    }
}

/// A stream that takes what it can though it does not count as writable.
trait Insist {
    /// See [`send_anyway`].
    fn insist(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Insist for OwnedWriteHalf {
    fn insist(&self, bytes: &[u8]) -> io::Result<usize> {
        let stream: &TcpStream = self.as_ref();
        send_anyway(stream, bytes)
    }
}

impl<S: AsyncWrite + Insist + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, outcome, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    impl Insist for DuplexStream {
        fn insist(&self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
        let (server, mut client) = duplex(8);
        let mut server = Unstalled::new(server);
        let writing = tokio::spawn(async move {
            let mut written = 0;
            loop {
                match server.write(&[0; 8]).await {
                    Ok(count) => written += count,
                    Err(error) => return (written, error.kind()),
                }
            }
        });
        for _ in 0..5 {
            sleep(STALL_TIMEOUT.mul_f64(0.9)).await;
            client.read_exact(&mut [0; 8]).await.unwrap();
        }
        let (written, error) = writing.await.unwrap();
        assert_eq!(error, io::ErrorKind::TimedOut);
        assert_eq!(written, 6 * 8);
    }
}
