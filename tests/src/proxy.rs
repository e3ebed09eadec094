//! A TCP proxy that breaks on command: between a server and its etcd, or a reader and its server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Whole,
    /// Connections are reset, new ones at once.
    Severed,
    /// Connections stand and nothing passes.
    Stalled,
    /// So many bytes a second pass, each way.
    Slow(u32),
    /// What the far side loses, the near side is not told: its connection stands and nothing comes. New ones work.
    Held,
    /// So many bytes more come from the far side, of each connection; then nothing passes.
    StalledAfter(usize),
}

impl Line {
    fn carries(self) -> bool {
        self != Self::Stalled
    }
}

/// A proxy that ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    /// How often all connections were reset.
    resets: watch::Sender<u32>,
    /// How many bytes came from the far side and went on.
    came: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port for what is to go to `target` (`host:port`).
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (line, states) = watch::channel(Line::Whole);
        let resets = watch::Sender::new(0);
        let resetting = resets.subscribe();
        let target = target.to_owned();
        let came = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&came);
        let task = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                if *states.borrow() == Line::Severed {
                    continue;
                }
                let counter = Arc::clone(&counter);
                tokio::spawn(carry(near, target.clone(), states.clone(), resetting.clone(), counter));
            }
        });
        Self { address, line, resets, came, task }
    }

    /// Where it listens, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many bytes have come from the far side so far, over all connections.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Cuts every connection, and every new one at once.
    pub fn sever(&self) {
        self.line.send_replace(Line::Severed);
    }

    /// Lets nothing pass while every connection stands.
    pub fn stall(&self) {
        self.line.send_replace(Line::Stalled);
    }

    /// Lets so many bytes a second pass, each way of each connection.
    pub fn slow(&self, bytes_per_s: u32) {
        self.line.send_replace(Line::Slow(bytes_per_s));
    }

    /// Resets every connection that stands (RST, as a firewall that lost its state does); new ones work.
    pub async fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
        tokio::task::yield_now().await;
    }

    /// From now on the near side is not told where the far side ends a connection; new connections work.
    pub fn hold(&self) {
        self.line.send_replace(Line::Held);
    }

    /// Lets so many bytes more come from the far side of each connection, and then stalls it.
    pub fn stall_after(&self, bytes: usize) {
        self.line.send_replace(Line::StalledAfter(bytes));
    }

    /// Makes the line whole again.
    pub fn heal(&self) {
        self.line.send_replace(Line::Whole);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.line.send_replace(Line::Severed);
        self.task.abort();
    }
}

async fn carry(
    mut near: TcpStream,
    target: String,
    states: watch::Receiver<Line>,
    mut resetting: watch::Receiver<u32>,
    came: Arc<AtomicU64>,
) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    resetting.mark_unchanged();
    let mut severed = states.clone();
    let reset = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::select! {
            _ = severed.wait_for(|line| *line == Line::Severed) => false,
            _ = resetting.changed() => true,
            () = pass(near_read, far_write, states.clone(), None) => false,
            () = pass(far_read, near_write, states.clone(), Some(&came)) => false,
        }
    };
    if reset {
        // Closed with a linger of nothing, a socket says RST instead of FIN.
        drop((near.set_zero_linger(), far.set_zero_linger()));
    } else if *states.borrow() == Line::Held {
        drop(far);
        swallow(near, severed).await;
    }
}

/// Reads what comes and answers nothing, until the other side gives up or the line is severed.
async fn swallow(mut near: TcpStream, mut severed: watch::Receiver<Line>) {
    let mut buffer = vec![0; 4 * 1024];
    let silence = async { while let Ok(1..) = near.read(&mut buffer).await {} };
    tokio::select! {
        _ = severed.wait_for(|line| *line == Line::Severed) => {}
        () = silence => {}
    }
}

/// Passes on what comes; what comes from the far side is counted.
async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut states: watch::Receiver<Line>,
    came: Option<&AtomicU64>,
) {
    let mut buffer = vec![0; 64 * 1024];
    // How much may still come before the line stalls, since it was told to.
    let mut left: Option<usize> = None;
    loop {
        if states.wait_for(|line| line.carries()).await.is_err() {
            return;
        }
        let line = *states.borrow_and_update();
        let limit = match line {
            Line::Slow(bytes_per_s) => (bytes_per_s as usize / 20).clamp(1, buffer.len()),
            Line::StalledAfter(bytes) if came.is_some() => match *left.get_or_insert(bytes) {
                0 => {
                    if states.wait_for(|now| *now != line).await.is_err() {
                        return;
                    }
                    continue;
                }
                bytes => bytes.min(buffer.len()),
            },
            _ => {
                left = None;
                buffer.len()
            }
        };
        let Ok(read @ 1..) = from.read(&mut buffer[..limit]).await else { return };
        left = left.map(|bytes| bytes.saturating_sub(read));
        if states.wait_for(|line| line.carries()).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if let Some(came) = came {
            came.fetch_add(u64::try_from(read).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if matches!(line, Line::Slow(_)) {
            sleep(Duration::from_millis(50)).await;
        }
    }
}
