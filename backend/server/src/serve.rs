//! The listener: takes connections in, serves each over HTTP/1.1, and ends them all in time.
//!
//! Owns sockets and their bounds. Must not know what is served. HTTP/1.1 alone: without TLS no browser speaks HTTP/2,
//! and detecting the version would put no bound on a client that connects and says nothing.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::process::raise_open_files_max;

/// How many connections are served at the same time, where the system allows so many open files; further ones wait to
/// be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;

/// How many open files are left for everything else: etcd, the log, an etcd of one's own.
const OPEN_FILES_RESERVE: u64 = 64;

/// How long a client may take to say what it wants, also between two requests.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take nothing while data waits for it.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open connections may take to end once the server is told to.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How many bytes of a request's head, and of an answer that is not taken, are kept for one connection.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Serves `app` to all who connect to `listener`, until `shutdown`; then ends what is open within [`DRAIN_TIMEOUT`].
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let open_files = raise_open_files_max().saturating_sub(OPEN_FILES_RESERVE).max(OPEN_FILES_RESERVE);
    let places = Arc::new(Semaphore::new(usize::try_from(open_files).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
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
        let (app, shutdown) = (app.clone(), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            serve_connection(stream, peer, app, shutdown).await;
        });
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "connections that did not end in time are cut off");
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, app: Router, shutdown: CancellationToken) {
    // A change leaves at once: nothing waits for more to go with it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "the connection ended as it began");
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        // A message is small: one copy costs less than handing its pieces to the kernel one by one.
        .writev(false)
        .serve_connection(TokioIo::new(Unstalled::new(stream)), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "the connection broke off");
    }
}

/// A socket whose writes fail once nothing was taken for [`STALL_TIMEOUT`] while data waited.
struct Unstalled<S> {
    stream: S,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    fn new(stream: S) -> Self {
        Self { stream, stalled: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALL_TIMEOUT)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.watch(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

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
