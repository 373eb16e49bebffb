//! Answers of many requests that leave a connection together.
//!
//! HTTP/2 flushes each frame on its own: a record of TLS, a system call and a packet for each. When one change becomes an event on fifty
//! watches of a connection, that costs more than everything else about them. So what is written is gathered, and goes out when all who
//! were ready at the same time have written theirs.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

use super::idle::Activity;

/// Bytes that are gathered at most: eight full records. With half as many, a list costs an eighth more.
pub(super) const MOST: usize = 128 << 10;
/// Room that is made at first; an answer to a GET of one object fits most of the time.
const FIRST: usize = 8 << 10;

/// A connection's stream as the protocol has it: what is written stays until [`Gathered`] sends it, or there is too much of it.
pub(super) struct Gathering<S>(Arc<Mutex<Outgoing<S>>>);

struct Outgoing<S> {
    stream: S,
    waiting: Vec<u8>,
    /// Bytes of `waiting` that are gone.
    gone: usize,
}

impl<S: AsyncWrite + Unpin> Outgoing<S> {
    /// Takes as much as there is room for.
    fn take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= MOST {
            ready!(self.send(cx))?;
        }
        let wanted = self.waiting.len() + slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.waiting.capacity() < wanted.min(MOST) {
            // At once as large as it may become: growing step by step copies what is in it each time.
            let room = if wanted <= FIRST { FIRST } else { MOST };
            self.waiting.reserve_exact(room - self.waiting.len());
        }
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(MOST - self.waiting.len())];
            self.waiting.extend_from_slice(part);
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }

    /// Sends all of it. An idle connection keeps no room.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.capacity() == 0 {
            return Poll::Ready(Ok(()));
        }
        while self.gone < self.waiting.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.gone..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.gone += sent,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        (self.waiting, self.gone) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.lock().take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// That is for [`Gathered`] to do.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outgoing = self.0.lock();
        ready!(outgoing.send(cx))?;
        Pin::new(&mut outgoing.stream).poll_shutdown(cx)
    }
}

/// A connection's work together with what it sends.
pub(super) struct Gathered<S> {
    outgoing: Arc<Mutex<Outgoing<S>>>,
    activity: Activity,
    /// While others that are ready have their turn: by this it is known that they have had it.
    others: Option<Arc<Turn>>,
}

/// Notes that it was woken.
struct Turn {
    came: AtomicBool,
    task: Waker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.came.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// The stream for the protocol, and what sends for it.
    pub(super) fn new(stream: S, activity: Activity) -> (Gathering<S>, Self) {
        let outgoing = Arc::new(Mutex::new(Outgoing { stream, waiting: Vec::new(), gone: 0 }));
        (Gathering(Arc::clone(&outgoing)), Self { outgoing, activity, others: None })
    }

    /// Polls the protocol and sends what it wrote: at once when there is one request only, else after everybody who is ready now.
    pub(super) fn poll<E: From<io::Error>>(
        &mut self,
        cx: &mut Context<'_>,
        protocol: impl FnOnce(&mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        if self.others.as_ref().is_some_and(|turn| !turn.came.load(Ordering::Acquire)) {
            return Poll::Pending;
        }
        let done = protocol(cx);
        if self.others.take().is_none() && done.is_pending() && self.activity.requests() > 1 && self.waits() {
            let turn = Arc::new(Turn { came: AtomicBool::new(false), task: cx.waker().clone() });
            // The first poll asks to be woken when nobody else is ready, which is all that is wanted of it.
            let asked = std::pin::pin!(yield_now()).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&turn))));
            debug_assert!(asked.is_pending(), "there is always somebody to wait for");
            self.others = Some(turn);
            return Poll::Pending;
        }
        match self.outgoing.lock().send(cx) {
            Poll::Ready(Err(error)) if done.is_pending() => Poll::Ready(Err(error.into())),
            _ => done,
        }
    }

    fn waits(&self) -> bool {
        !self.outgoing.lock().waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        sync::mpsc,
    };

    use super::*;

    /// Keeps what each write brought.
    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<Vec<String>>>);

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().push(String::from_utf8_lossy(bytes).into_owned());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What reaches the wire when a task that is ready after the connection has something to write, too.
    async fn sent(requests: usize) -> Vec<String> {
        let (activity, wire) = (Activity::new(), Wire::default());
        let _requests: Vec<_> = (0..requests).map(|_| activity.begin()).collect();
        let (mut stream, mut gathered) = Gathered::new(wire.clone(), activity);
        let (first, mut events) = mpsc::unbounded_channel();
        let second = first.clone();
        first.send("first ").unwrap();
        drop(first);
        let connection = tokio::spawn(poll_fn(move |cx| {
            gathered.poll(cx, |cx| {
                while let Some(event) = ready!(events.poll_recv(cx)) {
                    assert!(Pin::new(&mut stream).poll_write(cx, event.as_bytes()).is_ready());
                    assert!(Pin::new(&mut stream).poll_flush(cx).is_ready());
                }
                Poll::Ready(Ok::<(), io::Error>(()))
            })
        }));
        tokio::spawn(async move { second.send("second").unwrap() });
        connection.await.unwrap().unwrap();
        wire.0.lock().clone()
    }

    #[tokio::test]
    async fn what_is_ready_at_one_time_leaves_together() {
        assert_eq!(sent(2).await, ["first second"]);
    }

    #[tokio::test]
    async fn the_answer_to_a_single_request_waits_for_nobody() {
        assert_eq!(sent(1).await, ["first ", "second"]);
    }

    #[tokio::test]
    async fn more_than_is_gathered_arrives_whole_at_a_slow_reader() {
        let (near, mut far) = duplex(1000);
        let activity = Activity::new();
        let _requests = [activity.begin(), activity.begin()];
        let (mut stream, mut gathered) = Gathered::new(near, activity);
        let all: Vec<u8> = (0..5 * MOST).map(|at| (at % 251) as u8).collect();
        let written = all.clone();
        tokio::spawn(async move {
            let mut protocol = std::pin::pin!(async {
                stream.write_all(&written).await?;
                assert!(gathered_at_most(&stream));
                stream.shutdown().await
            });
            poll_fn(|cx| gathered.poll(cx, |cx| protocol.as_mut().poll(cx))).await
        });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert!(read == all);
    }

    fn gathered_at_most<S>(stream: &Gathering<S>) -> bool {
        stream.0.lock().waiting.len() <= MOST
    }
}
