//! The least that pushing can cost: a child of one thread that writes the same bytes to as many sockets, and does
//! nothing else. It runs as a hidden verb of this program, so that its CPU is measured alone.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rollcall_tests::{Process, seconds};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    net::TcpStream as AsyncStream,
};

use crate::{
    readers::{PLAIN, Readers, Target},
    stamp,
};

/// What the child is started with.
pub const VERB: &str = "bare-loop";

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

/// What the child sends.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    /// Messages a second, to each socket.
    pub per_s: u32,
    /// Bytes of a message.
    pub bytes: usize,
    /// Messages that are due within this time go out in one write; zero: each in its own.
    pub gather: Duration,
    /// How long.
    pub length: Duration,
}

/// A running bare loop.
#[derive(Debug)]
pub struct Bare {
    process: Process,
    streams: String,
    control: tokio::io::BufReader<AsyncStream>,
}

impl Bare {
    /// Starts one.
    pub async fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(VERB);
        let mut process = Process::start("the bare loop", command, "it is this program");
        let (streams, control) = process
            .stdout_line("the bare loop says where it listens", seconds(10), |line| {
                let (streams, control) = line.split_once(' ')?;
                Some((streams.to_owned(), control.to_owned()))
            })
            .await;
        let control = tokio::io::BufReader::new(AsyncStream::connect(control).await?);
        Ok(Self { process, streams, control })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Opens so many streams to it, and looks into one of so many.
    pub async fn readers(&mut self, streams: u64, one_of: u64) -> anyhow::Result<Readers> {
        let request = "GET / HTTP/1.1\r\n\r\n".to_owned();
        let target = Target { address: self.streams.clone(), request, mark: PLAIN, one_of };
        self.control.get_mut().write_all(format!("accept {streams}\n").as_bytes()).await?;
        let readers = Readers::settled(&target, streams).await?;
        self.answer().await?;
        Ok(readers)
    }

    /// Begins to send.
    pub async fn begin(&mut self, sending: Sending) -> anyhow::Result<()> {
        let Sending { per_s, bytes, gather, length } = sending;
        let line = format!("send {per_s} {bytes} {} {}\n", gather.as_millis(), length.as_millis());
        Ok(self.control.get_mut().write_all(line.as_bytes()).await?)
    }

    /// Waits until it has sent all, and gives how many messages that were to each socket.
    pub async fn answer(&mut self) -> anyhow::Result<u64> {
        let mut line = String::new();
        self.control.read_line(&mut line).await?;
        let mut words = line.split_whitespace();
        if words.next() != Some("done") {
            bail!("the bare loop said {line:?}");
        }
        words.next().and_then(|word| word.parse().ok()).context("the bare loop said no number")
    }
}

/// The child.
pub fn serve() -> anyhow::Result<()> {
    let streams = TcpListener::bind("127.0.0.1:0")?;
    let control = TcpListener::bind("127.0.0.1:0")?;
    println!("{} {}", streams.local_addr()?, control.local_addr()?);
    let (control, _) = control.accept()?;
    let mut sockets = Vec::new();
    for line in BufReader::new(control.try_clone()?).lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u32> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        let done = match (words.first().copied(), numbers.as_slice()) {
            (Some("accept"), [count]) => {
                for _ in 0..*count {
                    sockets.push(accept(&streams)?);
                }
                *count
            }
            (Some("send"), [per_s, bytes, gather_ms, length_ms]) => send(
                &mut sockets,
                Sending {
                    per_s: *per_s,
                    bytes: usize::try_from(*bytes)?,
                    gather: Duration::from_millis(u64::from(*gather_ms)),
                    length: Duration::from_millis(u64::from(*length_ms)),
                },
            ),
            _ => bail!("odd order {line:?}"),
        };
        (&control).write_all(format!("done {done}\n").as_bytes())?;
    }
    Ok(())
}

fn accept(streams: &TcpListener) -> std::io::Result<TcpStream> {
    let (mut socket, _) = streams.accept()?;
    socket.set_nodelay(true)?;
    let mut request = [0; 256];
    let _ = socket.read(&mut request)?;
    socket.write_all(HEAD)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send(sockets: &mut [TcpStream], sending: Sending) -> u32 {
    let (start, start_us) = (Instant::now(), stamp::now_us());
    let mut message = vec![b'x'; sending.bytes.max(32)];
    message[..6].copy_from_slice(b"data: ");
    let end = message.len() - 2;
    message[end..].copy_from_slice(b"\n\n");
    let mut batch = Vec::new();
    let mut number = 0;
    loop {
        let due = |number: u32| Duration::from_secs(1) * number / sending.per_s;
        // The write that comes next holds every message that is due by then.
        let write_at = due(number) + sending.gather;
        if due(number) >= sending.length {
            return number;
        }
        if let Some(wait) = (start + write_at).checked_duration_since(Instant::now()) {
            thread::sleep(wait);
        }
        batch.clear();
        loop {
            let stamp = start_us + u64::try_from(due(number).as_micros()).unwrap_or_default();
            message[6..6 + 17].copy_from_slice(stamp::text(stamp).as_bytes());
            batch.extend_from_slice(&message);
            number += 1;
            if due(number) > write_at || due(number) >= sending.length || sending.gather.is_zero() {
                break;
            }
        }
        for socket in &mut *sockets {
            match socket.write(&batch) {
                Ok(_) => {}
                // A full socket loses this write: the readers' count shows it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return number,
            }
        }
    }
}
