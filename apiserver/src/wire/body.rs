//! Response bodies: bytes, a list of shared slices, or a stream. Nothing is copied until a frame is made for the connection.

use std::{
    any::Any,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_schema::proto::envelope;
use futures::stream::{BoxStream, StreamExt};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{gzip::Gzip, parts::Pieces};

/// Frames of a list are gathered up to about this many bytes: a few TLS records each.
const FRAME: usize = 64 * 1024;

/// The body of every answer.
pub struct Body {
    inner: Inner,
    /// Dropped with the body: a place among the requests in flight, a sign that the connection is used.
    held: Vec<Box<dyn Any + Send + Sync>>,
    /// Of an answer that leaves HTTP: what is held until its [`Beyond`] is dropped, too.
    beyond: Option<Beyond>,
    /// Who is told how much was sent.
    sent: Option<Box<Sent>>,
}

/// What is held for an answer that leaves HTTP, until the last of its clones is dropped: hyper drops the body of such an answer at once.
#[derive(Clone, Default)]
pub struct Beyond(Arc<Mutex<Vec<Box<dyn Any + Send + Sync>>>>);

/// Counts what is sent of a body whose length is not known before.
struct Sent {
    bytes: u64,
    told: Box<dyn Fn(u64) + Send + Sync>,
}

impl Drop for Sent {
    fn drop(&mut self) {
        (self.told)(self.bytes);
    }
}

enum Inner {
    Full(Option<Bytes>),
    List(Slices),
    Stream(BoxStream<'static, Bytes>),
    /// Somebody else's answer: it may break off.
    Foreign(BoxStream<'static, io::Result<Bytes>>),
    Gzip(Box<Gzip>),
    Leased(Lease),
}

/// A body that is given up when its time is over. Whoever sends it may not come to ask for more of it, so that somebody else looks.
struct Lease {
    slot: Arc<Mutex<Slot>>,
    /// Tells whoever looks that it is over.
    _over: oneshot::Sender<()>,
}

/// What is left of it, and who waits for more.
#[derive(Default)]
struct Slot {
    body: Option<Body>,
    waiting: Option<Waker>,
}

impl Lease {
    fn new(body: Body, until: Instant) -> Self {
        let (over, ended) = oneshot::channel::<()>();
        let slot = Arc::new(Mutex::new(Slot { body: Some(body), waiting: None }));
        let given_up = Arc::clone(&slot);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if timeout_at(until, ended).await.is_ok() {
                    return;
                }
                let Slot { body, waiting } = std::mem::take(&mut *given_up.lock());
                drop(body);
                if let Some(waiting) = waiting {
                    waiting.wake();
                }
            });
        }
        Self { slot, _over: over }
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut slot = self.slot.lock();
        let Some(body) = slot.body.as_mut() else { return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut)))) };
        let Poll::Ready(next) = http_body::Body::poll_frame(Pin::new(body), cx) else {
            // What is inside knows nothing of the end of its time.
            slot.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        Poll::Ready(next.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
    }

    fn len(&self) -> Option<u64> {
        self.slot.lock().body.as_ref().and_then(Body::len)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let slot = std::mem::take(&mut *self.slot.lock());
        drop(slot);
    }
}

/// Head, items and tail, with something before each item.
struct Slices {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Bytes>,
    between: Between,
    tail: Option<Bytes>,
    left: u64,
}

/// What stands before the items of a list.
enum Between {
    /// A comma, but for the first one.
    Comma {
        /// No item was written yet.
        first: bool,
    },
    /// A comma, but for the first one, and the brace that opens the item.
    Brace {
        /// No item was written yet.
        first: bool,
    },
    /// Each item's tag and length.
    ItemHead(Vec<u8>),
    /// Always the same, but before the first one.
    Always {
        /// What it is.
        what: &'static [u8],
        /// No item was written yet.
        first: bool,
    },
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::of(Inner::Full(None))
    }

    /// The body of an answer that leaves HTTP. What it is given to hold is held until what is returned with it is dropped.
    pub fn leaving() -> (Self, Beyond) {
        let beyond = Beyond::default();
        (Self { beyond: Some(beyond.clone()), ..Self::empty() }, beyond)
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(Inner::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// A JSON list: a head that ends in `[`, the items, and a tail that begins with `]`.
    pub fn list(head: impl Into<Bytes>, items: Vec<Bytes>, tail: impl Into<Bytes>) -> Self {
        Self::slices(head.into(), items, tail.into(), Between::Comma { first: true })
    }

    /// A JSON list as [`Body::list`], of objects that lack their opening brace.
    pub fn objects(head: impl Into<Bytes>, items: Vec<Bytes>, tail: impl Into<Bytes>) -> Self {
        Self::slices(head.into(), items, tail.into(), Between::Brace { first: true })
    }

    /// A gzip text; that it is one stands in the answer's headers.
    pub fn pieces(pieces: Pieces) -> Self {
        let Pieces { head, parts, between, tail } = pieces;
        Self::slices(head, parts, tail, Between::Always { what: between, first: true })
    }

    /// A JSON text, to be sent with the line break that ends it.
    pub fn line(json: Bytes) -> Self {
        Self::slices(json, Vec::new(), Bytes::from_static(b"\n"), Between::Comma { first: true })
    }

    /// A protobuf list: an envelope up to its first item, the messages of the items, and the end of the envelope.
    pub fn messages(head: impl Into<Bytes>, items: Vec<Bytes>) -> Self {
        Self::slices(head.into(), items, Bytes::from_static(envelope::TAIL), Between::ItemHead(Vec::new()))
    }

    fn slices(head: Bytes, items: Vec<Bytes>, tail: Bytes, mut between: Between) -> Self {
        let items_length = items.iter().map(|item| (between.next(item).len() + item.len()) as u64).sum::<u64>();
        if let Between::Comma { first } | Between::Brace { first } | Between::Always { first, .. } = &mut between {
            *first = true;
        }
        let left = (head.len() + tail.len()) as u64 + items_length;
        Self::of(Inner::List(Slices { head: Some(head), items: items.into_iter(), between, tail: Some(tail), left }))
    }

    /// The same body, compressed while it is sent.
    pub fn gzipped(self) -> Self {
        let Self { inner, held, beyond, sent } = self;
        Self { inner: Inner::Gzip(Box::new(Gzip::new(Self::of(inner)))), held, beyond, sent }
    }

    /// The same body, of which at this time nothing is kept any more: what was not sent until then is not sent. `held` goes with it.
    pub fn leased(self, until: Instant, held: impl Any + Send + Sync) -> Self {
        Self::of(Inner::Leased(Lease::new(self.holding(held), until)))
    }

    /// Frames as they come; the body ends with the stream.
    pub fn stream(frames: BoxStream<'static, Bytes>) -> Self {
        Self::of(Inner::Stream(frames))
    }

    /// Frames of somebody else's answer. When they break off, so does this: nobody takes a part for the whole.
    pub fn foreign(frames: BoxStream<'static, io::Result<Bytes>>) -> Self {
        Self::of(Inner::Foreign(frames))
    }

    fn of(inner: Inner) -> Self {
        Self { inner, held: Vec::new(), beyond: None, sent: None }
    }

    /// The same body; `told` learns how many bytes were sent, when it ends or is dropped.
    pub fn measured(mut self, told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        match self.len() {
            Some(length) => told(length),
            None => self.sent = Some(Box::new(Sent { bytes: 0, told: Box::new(told) })),
        }
        self
    }

    /// The same body, which keeps `what` until it ends or is dropped; that of an answer that leaves HTTP until the connection has ended.
    pub fn holding(mut self, what: impl Any + Send + Sync) -> Self {
        match &self.beyond {
            Some(beyond) => beyond.0.lock().push(Box::new(what)),
            None => self.held.push(Box::new(what)),
        }
        self
    }

    /// Length in bytes, if known.
    pub fn len(&self) -> Option<u64> {
        match &self.inner {
            Inner::Full(bytes) => Some(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::List(slices) => Some(slices.left),
            Inner::Leased(lease) => lease.len(),
            Inner::Stream(_) | Inner::Foreign(_) | Inner::Gzip(_) => None,
        }
    }

    /// Whether it is known to be empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl Between {
    /// What to write before this item.
    fn next(&mut self, item: &Bytes) -> &[u8] {
        match self {
            Self::Comma { first } => [&b","[..], b""][usize::from(std::mem::take(first))],
            Self::Brace { first } => [&b",{"[..], b"{"][usize::from(std::mem::take(first))],
            Self::Always { what, first } => [what, &b""[..]][usize::from(std::mem::take(first))],
            Self::ItemHead(head) => {
                head.clear();
                envelope::item_head(head, item.len());
                head
            }
        }
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
            let before = self.between.next(&item);
            if frame.capacity() == 0 {
                frame.reserve((FRAME + 1).min(self.left as usize).max(item.len() + before.len()));
            }
            frame.put_slice(before);
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
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.inner {
            Inner::Full(bytes) => bytes.take(),
            Inner::List(slices) => slices.next_frame(),
            Inner::Stream(frames) => match frames.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next,
            },
            Inner::Foreign(frames) => match frames.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(next) => next.and_then(Result::ok),
            },
            Inner::Leased(lease) => match lease.poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(next) => next.and_then(Result::ok),
            },
            Inner::Gzip(gzip) => match gzip.poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(next) => next.and_then(Result::ok),
            },
        };
        match (&next, &mut self.sent) {
            (None, _) => {
                self.held.clear();
                self.sent = None;
            }
            (Some(bytes), Some(sent)) => sent.bytes += bytes.len() as u64,
            (Some(_), None) => {}
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
    use std::time::Duration;

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

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_in_time_is_not_kept_and_never_taken_for_the_whole() {
        let held = Arc::new(());
        let item = Bytes::from(vec![b'x'; FRAME]);
        let leased = || Body::list("[", vec![item.clone(); 4], "]").leased(Instant::now() + Duration::from_secs(60), Arc::clone(&held));
        assert_eq!(leased().len(), Some(4 * FRAME as u64 + 5));
        assert_eq!(read(leased()).await.len(), 4 * FRAME + 5);
        assert_eq!(Arc::strong_count(&held), 1, "it goes with the body's end");
        let mut slow = leased();
        assert!(slow.frame().await.unwrap().is_ok());
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(Arc::strong_count(&held), 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&held), 1, "although nobody asked for more");
        assert!(slow.frame().await.unwrap().is_err());
    }

    #[test]
    fn what_an_answer_holds_that_leaves_http_is_held_beyond_its_body() {
        let held = Arc::new(());
        let (body, beyond) = Body::leaving();
        assert!(body.is_empty());
        drop(body.holding(Arc::clone(&held)));
        assert_eq!(Arc::strong_count(&held), 2);
        drop(beyond);
        assert_eq!(Arc::strong_count(&held), 1);
        // A connection may be gone before its answer is complete.
        let (body, beyond) = Body::leaving();
        drop(beyond);
        drop(body.holding(Arc::clone(&held)));
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_more_is_told_when_the_time_is_over() {
        let silent = Body::foreign(futures::stream::pending().boxed());
        let mut leased = silent.leased(Instant::now() + Duration::from_secs(60), ());
        let waiting = tokio::spawn(async move { leased.frame().await.unwrap().map(|_| ()) });
        let ended = tokio::time::timeout(Duration::from_secs(61), waiting).await.expect("woken").unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn messages_have_their_length_before_them() {
        let items = vec![Bytes::from_static(b"ab"), Bytes::from(vec![b'x'; 200])];
        let body = Body::messages("head", items);
        let announced = body.len().unwrap();
        let bytes = read(body).await;
        assert_eq!(announced, bytes.len() as u64);
        assert_eq!(&bytes[..11], [b"head".as_slice(), &[0x12, 2, b'a', b'b', 0x12, 0xc8, 1]].concat());
        assert!(bytes.ends_with(envelope::TAIL));
    }

    #[tokio::test]
    async fn items_larger_than_a_frame_pass_whole() {
        let big = Bytes::from(format!("\"{}\"", "x".repeat(3 * FRAME)));
        let bytes = read(Body::list("[", vec![big.clone(), big], "]")).await;
        assert_eq!(serde_json::from_slice::<Vec<String>>(&bytes).unwrap().len(), 2);
    }
}
