//! A request's body, kept so that it can be sent again, and an answer's, which tells when the call is over.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::Line;
use crate::balance::InFlight;

/// The longest message that is kept for another try. It costs no copy: the bytes are those that are sent.
pub const REPLAY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A request's body.
pub(super) enum Kept {
    /// All of it, and whether a connection took it.
    Whole(Option<Bytes>, Arc<AtomicBool>),
    /// What goes on, or is too long to be kept.
    Stream(Arc<Mutex<Stream>>),
}

/// A body that is there once.
pub(super) struct Stream {
    /// What was read of it already.
    read: VecDeque<Frame<Bytes>>,
    rest: Body,
    went_out: bool,
}

impl Kept {
    /// Reads what is there of `body` without waiting for more: of a unary call that is all of it.
    pub(super) async fn of(mut body: Body) -> Result<Self, Status> {
        let mut read = VecDeque::new();
        let ended = poll_fn(|cx| {
            while read.len() < 2 {
                match Pin::new(&mut body).poll_frame(cx)? {
                    Poll::Ready(Some(frame)) => read.push_back(frame),
                    Poll::Ready(None) => return Poll::Ready(Ok::<_, Status>(true)),
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(false))
        })
        .await?;
        let whole = match (ended, read.front(), read.len()) {
            (true, None, _) => Some(None),
            (true, Some(frame), 1) => {
                frame.data_ref().filter(|data| data.len() <= REPLAY_BYTES_MAX).map(|data| Some(data.clone()))
            }
            _ => None,
        };
        Ok(match whole {
            Some(whole) => Self::Whole(whole, Arc::new(AtomicBool::new(false))),
            None => Self::Stream(Arc::new(Mutex::new(Stream { read, rest: body, went_out: false }))),
        })
    }

    /// The body for one more try.
    pub(super) fn payload(&self) -> Payload {
        match self {
            Self::Whole(bytes, went_out) => {
                went_out.store(false, Ordering::Relaxed);
                Payload::Whole(bytes.clone(), Arc::clone(went_out))
            }
            Self::Stream(stream) => Payload::Stream(Arc::clone(stream)),
        }
    }

    /// Whether the last try's connection took any of it.
    pub(super) fn went_out(&self) -> bool {
        match self {
            Self::Whole(_, went_out) => went_out.load(Ordering::Relaxed),
            Self::Stream(stream) => locked(stream).went_out,
        }
    }

    /// Whether it is still there for another try.
    pub(super) fn can_be_sent_again(&self) -> bool {
        match self {
            Self::Whole(..) => true,
            Self::Stream(stream) => !locked(stream).went_out,
        }
    }
}

fn locked(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one try sends.
pub(super) enum Payload {
    Whole(Option<Bytes>, Arc<AtomicBool>),
    Stream(Arc<Mutex<Stream>>),
}

impl HttpBody for Payload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Whole(bytes, went_out) => {
                went_out.store(true, Ordering::Relaxed);
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => {
                let mut stream = locked(stream);
                if let Some(frame) = stream.read.pop_front() {
                    stream.went_out = true;
                    return Poll::Ready(Some(Ok(frame)));
                }
                let polled = Pin::new(&mut stream.rest).poll_frame(cx);
                stream.went_out |= polled.is_ready();
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            // Said early, so that the message and the end of it go out as one frame.
            Self::Whole(bytes, _) => bytes.is_none(),
            Self::Stream(stream) => {
                let stream = locked(stream);
                stream.read.is_empty() && stream.rest.is_end_stream()
            }
        }
    }
}

/// The body of an answer. As long as it is not dropped, its call counts as in flight.
pub struct ResponseBody {
    body: Body,
    _call: Option<InFlight<Line>>,
}

impl ResponseBody {
    pub(super) fn new(body: Body, call: InFlight<Line>) -> Self {
        Self { body, _call: Some(call) }
    }

    pub(super) fn of_nobody(body: Body) -> Self {
        Self { body, _call: None }
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
