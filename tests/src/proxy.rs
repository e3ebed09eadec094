//! A TCP proxy that breaks on command: between a server and its etcd, or a reader and its server.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
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
}

/// A proxy that ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port for what is to go to `target` (`host:port`).
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (line, states) = watch::channel(Line::Whole);
        let target = target.to_owned();
        let task = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                if *states.borrow() == Line::Severed {
                    continue;
                }
                tokio::spawn(carry(near, target.clone(), states.clone()));
            }
        });
        Self { address, line, task }
    }

    /// Where it listens, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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

async fn carry(near: TcpStream, target: String, states: watch::Receiver<Line>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut severed = states.clone();
    tokio::select! {
        _ = severed.wait_for(|line| *line == Line::Severed) => {}
        () = pass(near_read, far_write, states.clone()) => {}
        () = pass(far_read, near_write, states) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut states: watch::Receiver<Line>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if states.wait_for(|line| *line != Line::Stalled).await.is_err() {
            return;
        }
        let line = *states.borrow();
        let limit = match line {
            Line::Slow(bytes_per_s) => (bytes_per_s as usize / 20).clamp(1, buffer.len()),
            _ => buffer.len(),
        };
        let Ok(read @ 1..) = from.read(&mut buffer[..limit]).await else { return };
        if states.wait_for(|line| *line != Line::Stalled).await.is_err() || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
        if matches!(line, Line::Slow(_)) {
            sleep(Duration::from_millis(50)).await;
        }
    }
}
