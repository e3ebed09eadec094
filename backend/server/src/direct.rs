//! Connections whose first request is for the stream, served beside hyper, whose buffers would cost an idle reader ten
//! times what it needs.
//!
//! Owns the first request's head, the answer's, and the way of a reader between its own task and the [`Fanout`]. Must
//! not know who may read: every request goes through the same routes and their layers. Whatever is not plainly a `GET`
//! of the stream over HTTP/1.1 is left to hyper with every byte that was read.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use axum::{Router, body::Body, response::Response};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, Method, Request, Version, header};
use tokio::{
    net::TcpStream,
    task::coop::consume_budget,
    time::{error::Elapsed, timeout},
};
use tower::ServiceExt as _;

use crate::{
    fanout::{Fanout, LAST_CHUNK, Line, chunk},
    mirror::history::Past,
    process::send_anyway,
    serve::{BUFFER_BYTES_MAX, HEADER_TIMEOUT, STALL_TIMEOUT},
    sse::{Pulled, Reader},
};

/// How many header fields a request for the stream may have; one with more is hyper's to turn away.
const FIELDS_MAX: usize = 64;

/// How much of a request's head is read at a time.
const HEAD_PIECE_BYTES: usize = 2 * 1024;

/// How many bytes an answer that is not the stream may have.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// How much a client may send after its request before it is cut off: it has nothing to say.
const CHATTER_BYTES_MAX: usize = 16 * 1024;

/// Stands in a request whose answer may be [`Handover`].
#[derive(Debug, Clone, Copy)]
pub struct Direct;

/// Stands in an answer: the reader that is to be served on the connection itself.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<Box<Reader>>>>);

impl Handover {
    /// Hands `reader` over.
    pub fn new(reader: Reader) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(reader)))))
    }

    fn take(&self) -> Option<Box<Reader>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a connection begins with.
pub enum Opening {
    /// A request for the stream.
    Stream(Box<Request<Body>>),
    /// Anything else: the bytes read so far.
    Other(Bytes),
    /// Nothing, for too long, or its end.
    Nothing,
}

/// Reads what `stream` begins with: no further than it takes to see that it is not a request for `path`.
pub async fn opening(stream: &TcpStream, path: &str) -> Opening {
    match timeout(HEADER_TIMEOUT, read_opening(stream, path)).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(_)) | Err(Elapsed { .. }) => Opening::Nothing,
    }
}

async fn read_opening(stream: &TcpStream, path: &str) -> io::Result<Opening> {
    let start = format!("GET {path}");
    let mut head = BytesMut::new();
    let mut seen = 0_usize;
    loop {
        stream.readable().await?;
        head.reserve(HEAD_PIECE_BYTES);
        match stream.try_read_buf(&mut head) {
            Ok(0) => return Ok(Opening::Nothing),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let compared = head.len().min(start.len());
        let ours = head[..compared] == start.as_bytes()[..compared];
        if !ours || head.len() > BUFFER_BYTES_MAX {
            return Ok(Opening::Other(head.freeze()));
        }
        // However few bytes come at a time, the head is parsed once its last line may have come, and looked through once.
        let unseen = seen.saturating_sub(2);
        seen = head.len();
        if !head[unseen..].windows(2).any(|pair| pair == b"\n\n")
            && !head[unseen..].windows(3).any(|end| end == b"\n\r\n")
        {
            continue;
        }
        match parse(&head, path) {
            Parsed::Unfinished => {}
            Parsed::Stream(request) => return Ok(Opening::Stream(request)),
            Parsed::Other => return Ok(Opening::Other(head.freeze())),
        }
    }
}

/// What a head says.
enum Parsed {
    /// There is more to come.
    Unfinished,
    /// It asks for the stream, and for nothing else.
    Stream(Box<Request<Body>>),
    /// hyper is to have it.
    Other,
}

fn parse(head: &[u8], path: &str) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) => return Parsed::Unfinished,
        // Nothing came after it, yet.
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Parsed::Other,
    }
    let Some(target) = parsed.path.filter(|target| target.split('?').next() == Some(path)) else {
        return Parsed::Other;
    };
    if parsed.version != Some(1) || parsed.method != Some("GET") {
        return Parsed::Other;
    }
    let mut request = Request::builder().method(Method::GET).version(Version::HTTP_11).uri(target);
    for field in &*parsed.headers {
        request = request.header(field.name, field.value);
    }
    let not_plain = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT];
    match request.extension(Direct).body(Body::empty()) {
        Ok(request) if !not_plain.iter().any(|name| request.headers().contains_key(name)) => {
            Parsed::Stream(Box::new(request))
        }
        _ => Parsed::Other,
    }
}

/// Answers `request` on `stream`, and ends with it.
///
/// # Errors
/// Where the connection breaks off, or takes nothing for [`STALL_TIMEOUT`].
pub async fn serve(
    stream: TcpStream,
    request: Box<Request<Body>>,
    app: Router,
    fanout: &Fanout<TcpStream>,
) -> io::Result<()> {
    let Ok(response) = app.oneshot(*request).await;
    match response.extensions().get().and_then(Handover::take) {
        Some(reader) => {
            let stream = Arc::new(stream);
            send(&*stream, head_of(&response, &[("transfer-encoding", "chunked")])).await?;
            drop(response);
            follow(*reader, stream, fanout).await
        }
        None => answer(&stream, response).await,
    }
}

/// Writes an answer that is not the stream.
async fn answer(stream: &TcpStream, response: Response) -> io::Result<()> {
    let (parts, body) = response.into_parts();
    let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
    let body = body.to_bytes();
    let head = head_of(&Response::from_parts(parts, Body::empty()), &[("content-length", &body.len().to_string())]);
    send(stream, head.chain(body)).await
}

/// The head of an answer after which the connection closes.
fn head_of(response: &Response, fields: &[(&str, &str)]) -> Bytes {
    let mut head = Vec::with_capacity(1024);
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    let mut put = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
    let headers: &HeaderMap = response.headers();
    for (name, value) in headers.iter().filter(|(name, _)| !framing.contains(name)) {
        put(name.as_str(), value.as_bytes());
    }
    for (name, value) in fields {
        put(name, value.as_bytes());
    }
    put("connection", b"close");
    put("date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// Sends a reader all that it is to hear, from its first message to its last.
///
/// # Errors
/// Where the line breaks off, or takes nothing for [`STALL_TIMEOUT`].
pub async fn follow<P: Past, L: Line>(mut reader: Reader<P>, line: Arc<L>, fanout: &Fanout<L>) -> io::Result<()> {
    loop {
        let pulled = tokio::select! {
            biased;
            // What a reader does by itself takes more room than waiting among others does: it has it only meanwhile.
            pulled = Box::pin(reader.pull()) => pulled,
            () = line.gone() => return Ok(()),
        };
        match pulled {
            Pulled::Piece(piece) => {
                send(&*line, framed(piece)).await?;
                // A client that takes all at once is no reason to keep the thread from others.
                consume_budget().await;
            }
            Pulled::CaughtUp => {
                let mut left = fanout.join(Arc::clone(&line), reader.standing(), reader.selected());
                let back = tokio::select! {
                    back = &mut left => back,
                    () = line.gone() => {
                        drop(left);
                        fanout.forget_ended();
                        return Ok(());
                    }
                };
                match back {
                    Ok(back) => {
                        reader.come_back(&back);
                        send(&*line, back.rest).await?;
                    }
                    // The loop has ended: the reader says goodbye.
                    Err(_) if reader.is_ending() => {}
                    // The line has.
                    Err(_) => return Ok(()),
                }
            }
            Pulled::End => return send(&*line, LAST_CHUNK).await,
        }
    }
}

/// `piece` as one chunk: copied where that costs less than handing three pieces to the kernel.
fn framed(piece: Bytes) -> impl Buf {
    const COPIED_BYTES_MAX: usize = 4 * 1024;
    if piece.len() <= COPIED_BYTES_MAX {
        chunk(&[piece]).chain(Bytes::new()).chain(Bytes::new())
    } else {
        let head = Bytes::from(format!("{:x}\r\n", piece.len()));
        head.chain(piece).chain(Bytes::from_static(b"\r\n"))
    }
}

/// Sends all of `bytes`.
async fn send<L: Line>(line: &L, mut bytes: impl Buf) -> io::Result<()> {
    while bytes.has_remaining() {
        match line.try_write(bytes.chunk()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => bytes.advance(taken),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Ok(writable) = timeout(STALL_TIMEOUT, line.writable()).await {
                    writable?;
                } else {
                    // It may have taken something, but less than makes a socket writable.
                    match line.insist(bytes.chunk()) {
                        Ok(taken) if taken > 0 => bytes.advance(taken),
                        _ => return Err(stalled()),
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What becomes of a client that takes nothing for [`STALL_TIMEOUT`].
pub(crate) fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")
}

impl Line for TcpStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }

    fn insist(&self, bytes: &[u8]) -> io::Result<usize> {
        send_anyway(self, bytes)
    }

    async fn writable(&self) -> io::Result<()> {
        Self::writable(self).await
    }

    async fn gone(&self) {
        let mut chatter = 0;
        let mut buffer = [0; 256];
        while self.readable().await.is_ok() {
            match self.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => chatter += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            if chatter > CHATTER_BYTES_MAX {
                return;
            }
        }
    }
}
