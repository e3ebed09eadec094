//! What one connection is sent: pulled from its reader, as hyper does, or taken from a line that the fan-out writes to.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{super::Reader, store::Scripted};
use crate::{
    direct::follow,
    fanout::{Fanout, Line},
};

/// A connection's bytes.
pub enum Stream {
    Pulled(Box<Reader<Scripted>>),
    Followed(Followed),
}

impl Stream {
    pub fn pulled(reader: Reader<Scripted>) -> Self {
        Self::Pulled(Box::new(reader))
    }

    /// Taken from a line that now and then takes less than a piece.
    pub fn followed(reader: Reader<Scripted>, fanout: &Arc<Fanout<Pipe>>) -> Self {
        Self::followed_on(Pipe::default(), reader, fanout)
    }

    /// Taken from a line that takes every piece at once.
    pub fn followed_whole(reader: Reader<Scripted>, fanout: &Arc<Fanout<Pipe>>) -> Self {
        Self::followed_on(Pipe { whole: true, ..Pipe::default() }, reader, fanout)
    }

    fn followed_on(pipe: Pipe, reader: Reader<Scripted>, fanout: &Arc<Fanout<Pipe>>) -> Self {
        let (line, fanout) = (Arc::new(pipe), Arc::clone(fanout));
        let gone = line.gone.clone().drop_guard();
        let written = Arc::clone(&line);
        tokio::spawn(async move {
            let ended = follow(reader, Arc::clone(&line), &fanout).await;
            assert!(ended.is_ok(), "{ended:?}");
            line.ended.cancel();
        });
        Self::Followed(Followed { line: written, read: BytesMut::new(), _gone: gone })
    }

    /// The next bytes, which hold whole messages; none after the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Pulled(reader) => reader.next().await,
            Self::Followed(followed) => followed.next().await,
        }
    }
}

/// The reading end of a line.
pub struct Followed {
    line: Arc<Pipe>,
    read: BytesMut,
    _gone: DropGuard,
}

impl Followed {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.cut_chunk() {
                return Some(chunk).filter(|chunk| !chunk.is_empty());
            }
            let written = self.line.written.notified();
            let taken = std::mem::take(&mut *self.line.bytes.lock().unwrap());
            if taken.is_empty() {
                tokio::select! {
                    biased;
                    () = written => {}
                    () = self.line.ended.cancelled() => return None,
                }
            }
            self.read.extend_from_slice(&taken);
        }
    }

    fn cut_chunk(&mut self) -> Option<Bytes> {
        let end = self.read.windows(2).position(|pair| pair == b"\r\n")?;
        let length = usize::from_str_radix(str::from_utf8(&self.read[..end]).unwrap(), 16).unwrap();
        if self.read.len() < end + 2 + length + 2 {
            return None;
        }
        self.read.advance(end + 2);
        let chunk = self.read.split_to(length).freeze();
        assert_eq!(&self.read[..2], b"\r\n");
        self.read.advance(2);
        Some(chunk)
    }
}

/// A line that takes all of a piece, then a part of the next, then nothing for a moment; or all of each.
#[derive(Default)]
pub struct Pipe {
    whole: bool,
    bytes: Mutex<Vec<u8>>,
    turn: Mutex<usize>,
    written: Notify,
    gone: CancellationToken,
    ended: CancellationToken,
}

impl Line for Pipe {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut turn = self.turn.lock().unwrap();
        *turn += 1;
        let taken = match *turn % 7 {
            3 if !self.whole => bytes.len().div_ceil(3),
            5 if !self.whole => return Err(io::ErrorKind::WouldBlock.into()),
            _ => bytes.len(),
        };
        self.bytes.lock().unwrap().extend_from_slice(&bytes[..taken]);
        self.written.notify_one();
        Ok(taken)
    }

    fn insist(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }

    async fn writable(&self) -> io::Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn gone(&self) {
        self.gone.cancelled().await;
    }
}
