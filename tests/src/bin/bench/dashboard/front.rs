//! What a measured page is loaded from: the server itself, or a folder with the server's API beside it. Counts the bytes.
//!
//! Both pages go through it, so that what it costs is no difference between them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The longest head of a request that is read.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const CHUNK_BYTES: usize = 64 * 1024;

/// The vanilla list: content type, body.
const INDEX: (&str, &str) = ("text/html", include_str!("../../../../assets/vanilla/index.html"));
const SCRIPT: (&str, &str) = ("text/javascript", include_str!("../../../../assets/vanilla/list.js"));
const STYLE: (&str, &str) = ("text/css", include_str!("../../../../assets/vanilla/list.css"));

/// What stands at the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// The server's own page.
    Dashboard,
    /// The vanilla list.
    Vanilla,
}

/// When how many bytes went to the browser: milliseconds since 1970, bytes.
type Meter = Arc<Mutex<Vec<(f64, usize)>>>;

/// A port that a page is loaded from.
#[derive(Debug)]
pub struct Front {
    /// Scheme, host and port.
    pub origin: String,
    meter: Meter,
    task: JoinHandle<()>,
}

impl Front {
    /// Listens, with `server` (host and port) behind it.
    pub async fn listen(root: Root, server: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let meter = Meter::default();
        let counted = Arc::clone(&meter);
        let task = tokio::spawn(async move {
            while let Ok((browser, _)) = listener.accept().await {
                let (server, meter) = (server.clone(), Arc::clone(&counted));
                // A browser may leave at any time; what was lost by it shows in what is measured.
                tokio::spawn(async move { drop(answer(root, browser, &server, &meter).await) });
            }
        });
        Ok(Self { origin, meter, task })
    }

    /// The bytes that went to the browser until then: milliseconds since 1970.
    pub fn bytes_until(&self, at_ms: f64) -> usize {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.iter().filter(|(when_ms, _)| *when_ms <= at_ms).map(|(_, bytes)| bytes).sum()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(root: Root, mut browser: TcpStream, server: &str, meter: &Meter) -> anyhow::Result<()> {
    browser.set_nodelay(true)?;
    let mut head = Vec::new();
    if root == Root::Vanilla {
        while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            anyhow::ensure!(head.len() < HEAD_BYTES_MAX, "a head without an end");
            anyhow::ensure!(browser.read_buf(&mut head).await? > 0, "no request");
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let path = text.split(' ').nth(1).context("no path")?;
        if !path.starts_with("/api/") {
            let (kind, body) = match path {
                "/list.js" => SCRIPT,
                "/list.css" => STYLE,
                _ => INDEX,
            };
            let body = compressed(body)?;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Encoding: br\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                body.len()
            );
            count(meter, head.len() + body.len());
            browser.write_all(head.as_bytes()).await?;
            browser.write_all(&body).await?;
            return Ok(browser.shutdown().await?);
        }
    }
    let mut upstream = TcpStream::connect(server).await?;
    upstream.set_nodelay(true)?;
    upstream.write_all(&head).await?;
    let (mut from_browser, mut to_browser) = browser.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let up = async {
        tokio::io::copy(&mut from_browser, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let bytes = from_server.read(&mut chunk).await?;
            if bytes == 0 {
                return to_browser.shutdown().await;
            }
            count(meter, bytes);
            to_browser.write_all(&chunk[..bytes]).await?;
        }
    };
    tokio::try_join!(up, down)?;
    Ok(())
}

/// As servers keep their files: at brotli's best.
fn compressed(body: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let params = brotli::enc::BrotliEncoderParams::default();
    brotli::BrotliCompress(&mut body.as_bytes(), &mut out, &params)?;
    Ok(out)
}

fn count(meter: &Meter, bytes: usize) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    meter.lock().unwrap_or_else(PoisonError::into_inner).push((now.as_secs_f64() * 1_000.0, bytes));
}
