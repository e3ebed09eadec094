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
        let [mut first, mut second] = [None, None];
        let ended = poll_fn(|cx| {
            for slot in [&mut first, &mut second] {
                match Pin::new(&mut body).poll_frame(cx)? {
                    Poll::Ready(Some(frame)) => *slot = Some(frame),
                    Poll::Ready(None) => return Poll::Ready(Ok::<_, Status>(true)),
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(false))
        })
        .await?;
        let whole = match (&first, ended) {
            (None, true) => Some(None),
            (Some(only), true) => {
                only.data_ref().filter(|data| data.len() <= REPLAY_BYTES_MAX).map(|data| Some(data.clone()))
            }
            (_, false) => None,
        };
        if let Some(whole) = whole {
            return Ok(Self::Whole(whole, Arc::new(AtomicBool::new(false))));
        }
        let read = first.into_iter().chain(second).collect();
        Ok(Self::Stream(Arc::new(Mutex::new(Stream { read, rest: body, went_out: false }))))
    }

    /// The body for one more try.
    pub(super) fn payload(&self) -> Payload {
        match self {
            Self::Whole(bytes, went_out) => {
                // Without a single message there is nothing that a connection could take later than the call itself.
                went_out.store(bytes.is_none(), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn frames(sizes: &[usize], ends: bool) -> Body {
        let frames: Vec<_> =
            sizes.iter().map(|&size| Ok::<_, Status>(Frame::data(Bytes::from(vec![b'x'; size])))).collect();
        let frames = stream::iter(frames);
        if ends {
            Body::new(StreamBody::new(frames))
        } else {
            Body::new(StreamBody::new(futures_util::StreamExt::chain(frames, stream::pending())))
        }
    }

    async fn sent(kept: &Kept) -> usize {
        Body::new(kept.payload()).collect().await.unwrap().to_bytes().len()
    }

    #[tokio::test]
    async fn one_message_is_sent_as_often_as_it_takes() {
        let kept = Kept::of(frames(&[7], true)).await.unwrap();
        for _ in 0..3 {
            drop(kept.payload());
            assert!(!kept.went_out());
            assert_eq!(sent(&kept).await, 7);
            assert!(kept.went_out() && kept.can_be_sent_again());
        }
    }

    #[tokio::test]
    async fn a_message_goes_out_as_one_frame_that_is_the_last() {
        let kept = Kept::of(frames(&[7], true)).await.unwrap();
        let mut payload = kept.payload();
        assert!(!payload.is_end_stream());
        let frame = payload.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap().len(), 7);
        assert!(payload.is_end_stream());
    }

    #[tokio::test]
    async fn a_stream_is_there_until_a_part_of_it_went_out() {
        for body in [frames(&[7, 8, 9], true), frames(&[7, 8], true), frames(&[REPLAY_BYTES_MAX + 1], true)] {
            let kept = Kept::of(body).await.unwrap();
            drop(kept.payload());
            assert!(kept.can_be_sent_again());
            let all = sent(&kept).await;
            assert!(all == 24 || all == 15 || all == REPLAY_BYTES_MAX + 1, "{all}");
            assert!(kept.went_out() && !kept.can_be_sent_again());
        }
        // What is not there yet is not waited for.
        let kept = Kept::of(frames(&[7], false)).await.unwrap();
        assert!(kept.can_be_sent_again());
        let mut payload = kept.payload();
        assert_eq!(payload.frame().await.unwrap().unwrap().data_ref().unwrap().len(), 7);
        assert!(!kept.can_be_sent_again());
    }

    #[tokio::test]
    async fn a_call_without_a_message_counts_as_sent() {
        let kept = Kept::of(Body::empty()).await.unwrap();
        drop(kept.payload());
        assert!(kept.went_out());
    }

    #[tokio::test]
    async fn a_message_that_cannot_be_written_fails_the_call() {
        let broken = StreamBody::new(stream::iter([Err::<Frame<Bytes>, _>(Status::internal("no such message"))]));
        let Err(status) = Kept::of(Body::new(broken)).await else { panic!("it was taken") };
        assert_eq!(status.message(), "no such message");
    }
}
