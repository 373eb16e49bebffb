//! Response bodies: bytes, a list of shared slices, or a stream. Nothing is copied until a frame is made for the connection.

use std::{
    any::Any,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use http_body::{Frame, SizeHint};

/// Frames of a list are gathered up to about this many bytes: a few TLS records each.
const FRAME: usize = 64 * 1024;

/// The body of every answer.
pub struct Body {
    inner: Inner,
    /// Dropped with the body: a place among the requests in flight.
    held: Option<Box<dyn Any + Send + Sync>>,
}

enum Inner {
    Full(Option<Bytes>),
    List(Slices),
    Stream(BoxStream<'static, Bytes>),
}

/// `head item , item , item tail`, without separators before the first item.
struct Slices {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Bytes>,
    first: bool,
    tail: Option<Bytes>,
    left: u64,
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::of(Inner::Full(None))
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(Inner::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// A JSON list: a head that ends in `[`, the items, and a tail that begins with `]`.
    pub fn list(head: impl Into<Bytes>, items: Vec<Bytes>, tail: impl Into<Bytes>) -> Self {
        let (head, tail) = (head.into(), tail.into());
        let commas = items.len().saturating_sub(1);
        let left = (head.len() + tail.len() + commas) as u64 + items.iter().map(|i| i.len() as u64).sum::<u64>();
        Self::of(Inner::List(Slices { head: Some(head), items: items.into_iter(), first: true, tail: Some(tail), left }))
    }

    /// Frames as they come; the body ends with the stream.
    pub fn stream(frames: BoxStream<'static, Bytes>) -> Self {
        Self::of(Inner::Stream(frames))
    }

    fn of(inner: Inner) -> Self {
        Self { inner, held: None }
    }

    /// The same body, which keeps `what` until it ends or is dropped.
    pub fn holding(mut self, what: impl Any + Send + Sync) -> Self {
        self.held = Some(Box::new(what));
        self
    }

    /// Length in bytes, if known.
    pub fn len(&self) -> Option<u64> {
        match &self.inner {
            Inner::Full(bytes) => Some(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::List(slices) => Some(slices.left),
            Inner::Stream(_) => None,
        }
    }

    /// Whether it is known to be empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl Slices {
    fn next_frame(&mut self) -> Option<Bytes> {
        let mut frame = BytesMut::new();
        if let Some(head) = self.head.take() {
            frame.reserve(FRAME.min(self.left as usize));
            frame.put(head);
        }
        for item in self.items.by_ref() {
            if frame.capacity() == 0 {
                frame.reserve((FRAME + 1).min(self.left as usize).max(item.len() + 1));
            }
            if !std::mem::take(&mut self.first) {
                frame.put_u8(b',');
            }
            frame.put(item);
            if frame.len() >= FRAME {
                break;
            }
        }
        if frame.len() < FRAME && self.items.as_slice().is_empty() {
            frame.extend(self.tail.take());
        }
        if frame.is_empty() {
            return None;
        }
        self.left = self.left.saturating_sub(frame.len() as u64);
        Some(frame.freeze())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.inner {
            Inner::Full(bytes) => bytes.take(),
            Inner::List(slices) => slices.next_frame(),
            Inner::Stream(frames) => match frames.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next,
            },
        };
        if next.is_none() {
            self.held = None;
        }
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.inner, Inner::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn read(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_list_is_head_items_with_commas_and_tail_of_the_announced_length() {
        for count in [0, 1, 2, 100_000] {
            let items = vec![Bytes::from_static(b"{\"a\":1}"); count];
            let body = Body::list("[", items, "]\n");
            let announced = body.len().unwrap();
            let bytes = read(body).await;
            assert_eq!(announced, bytes.len() as u64);
            let parsed: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(parsed.len(), count);
        }
    }

    #[tokio::test]
    async fn items_larger_than_a_frame_pass_whole() {
        let big = Bytes::from(format!("\"{}\"", "x".repeat(3 * FRAME)));
        let bytes = read(Body::list("[", vec![big.clone(), big], "]")).await;
        assert_eq!(serde_json::from_slice::<Vec<String>>(&bytes).unwrap().len(), 2);
    }
}
