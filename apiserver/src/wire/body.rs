//! Response bodies: bytes, a list of shared slices, or a stream. Nothing is copied before it is written to the connection.

use std::{
    any::Any,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use coracle_schema::proto::envelope;
use futures::stream::{BoxStream, StreamExt};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{gzip::Gzip, parts::Pieces, rope::Rope};

/// Items of a list are passed on up to about this many bytes at a time. Nothing is copied for that; fewer cost a list more to send, as
/// whoever sends them is woken for each.
const FRAME: usize = 512 * 1024;

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

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Rope>>> {
        let mut slot = self.slot.lock();
        let Some(body) = slot.body.as_mut() else { return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut)))) };
        let Poll::Ready(next) = body.poll_next(cx) else {
            // What is inside knows nothing of the end of its time.
            slot.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        Poll::Ready(next)
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
    /// Words, and others before the first item.
    Words {
        /// Until it was written.
        first: Option<&'static [u8]>,
        others: &'static [u8],
    },
    /// Each item's tag and length.
    ItemHead,
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
        Self::slices(head.into(), items, tail.into(), Between::words(b"", b","))
    }

    /// A JSON list as [`Body::list`], of objects that lack their opening brace.
    pub fn objects(head: impl Into<Bytes>, items: Vec<Bytes>, tail: impl Into<Bytes>) -> Self {
        Self::slices(head.into(), items, tail.into(), Between::words(b"{", b",{"))
    }

    /// A gzip text; that it is one stands in the answer's headers.
    pub fn pieces(pieces: Pieces) -> Self {
        let Pieces { head, parts, between, tail } = pieces;
        Self::slices(head, parts, tail, Between::words(b"", between))
    }

    /// A JSON text, to be sent with the line break that ends it.
    pub fn line(json: Bytes) -> Self {
        Self::slices(json, Vec::new(), Bytes::from_static(b"\n"), Between::words(b"", b","))
    }

    /// A protobuf list: an envelope up to its first item, the messages of the items, and the end of the envelope.
    pub fn messages(head: impl Into<Bytes>, items: Vec<Bytes>) -> Self {
        Self::slices(head.into(), items, Bytes::from_static(envelope::TAIL), Between::ItemHead)
    }

    fn slices(head: Bytes, items: Vec<Bytes>, tail: Bytes, between: Between) -> Self {
        let items_length = items.iter().map(Bytes::len).sum::<usize>() + between.length(&items);
        let left = (head.len() + tail.len() + items_length) as u64;
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
    fn words(first: &'static [u8], others: &'static [u8]) -> Self {
        Self::Words { first: Some(first), others }
    }

    /// What to write before this item.
    fn next(&mut self, item: &Bytes) -> Bytes {
        match self {
            Self::Words { first, others } => Bytes::from_static(first.take().unwrap_or(others)),
            Self::ItemHead => {
                let mut head = Vec::with_capacity(envelope::item_len(item.len()) - item.len());
                envelope::item_head(&mut head, item.len());
                head.into()
            }
        }
    }

    /// Bytes of all that stands before these items.
    fn length(&self, items: &[Bytes]) -> usize {
        match self {
            Self::Words { first, others } => {
                let before_first = first.filter(|_| !items.is_empty()).map_or(0, <[u8]>::len);
                before_first + items.len().saturating_sub(1) * others.len()
            }
            Self::ItemHead => items.iter().map(|item| envelope::item_len(item.len()) - item.len()).sum(),
        }
    }
}

impl Slices {
    fn next_frame(&mut self) -> Option<Rope> {
        let mut rope = Rope::default();
        rope.extend(self.head.take());
        while rope.remaining() < FRAME
            && let Some(item) = self.items.next()
        {
            rope.push(self.between.next(&item));
            rope.push(item);
        }
        if rope.remaining() < FRAME {
            rope.extend(self.tail.take());
        }
        self.left = self.left.saturating_sub(rope.remaining() as u64);
        rope.has_remaining().then_some(rope)
    }
}

impl Body {
    /// What is sent next; `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Rope>>> {
        let next = match &mut self.inner {
            Inner::Full(bytes) => bytes.take().map(Rope::from),
            Inner::List(slices) => slices.next_frame(),
            Inner::Stream(frames) => ready!(frames.poll_next_unpin(cx)).map(Rope::from),
            Inner::Foreign(frames) => ready!(frames.poll_next_unpin(cx)).transpose()?.map(Rope::from),
            Inner::Leased(lease) => ready!(lease.poll_next(cx)).transpose()?,
            Inner::Gzip(gzip) => ready!(gzip.poll_next(cx)).transpose()?.map(Rope::from),
        };
        match (&next, &mut self.sent) {
            (None, _) => {
                self.held.clear();
                self.sent = None;
            }
            (Some(rope), Some(sent)) => sent.bytes += rope.remaining() as u64,
            (Some(_), None) => {}
        }
        Poll::Ready(next.map(Ok))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.poll_next(cx).map_ok(|rope| Frame::data(rope.into_bytes()))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.inner, Inner::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body on its way to the network, which takes slices as they are.
pub struct Sending(pub Body);

impl http_body::Body for Sending {
    type Data = Rope;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Rope>>>> {
        self.0.poll_next(cx).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
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
            let parsed: Vec<coracle_tree::Value> = serde_json::from_slice(&bytes).unwrap();
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
