//! What is sent: one message, or messages as they come.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of a call.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// All there is to send.
    Whole(Option<Bytes>),
    /// More may come until the sender is dropped.
    Open(mpsc::Receiver<Bytes>),
}

impl Outgoing {
    pub(super) fn whole(message: Bytes) -> Self {
        Self::Whole(Some(message))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(message) => Poll::Ready(message.take().map(|message| Ok(Frame::data(message)))),
            Self::Open(messages) => messages.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(message) => SizeHint::with_exact(message.as_ref().map_or(0, |message| message.len() as u64)),
            Self::Open(_) => SizeHint::default(),
        }
    }
}
