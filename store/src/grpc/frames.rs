//! What is received: messages, each behind its length, and in the end how it went.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{Fault, internal, passed, told};

/// Compression flag and length.
const HEAD: usize = 5;

/// The messages of a call, as they come.
#[derive(Debug)]
pub struct Inbox {
    body: Incoming,
    /// Of the answer: a call that fails at once has its status there.
    head: HeaderMap,
    buffer: BytesMut,
    limit: usize,
    trailers: Option<HeaderMap>,
}

impl Inbox {
    pub(super) fn new(answer: Response<Incoming>, limit: usize) -> Result<Self, Fault> {
        let (head, body) = answer.into_parts();
        if head.headers.contains_key("grpc-status") {
            passed(&head.headers)?;
        }
        Ok(Self { body, head: head.headers, buffer: BytesMut::new(), limit, trailers: None })
    }

    /// The next message; `None` when the call ended well. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Err(Fault::new("Unavailable", told(&error))),
                None => {
                    passed(self.trailers.as_ref().unwrap_or(&self.head))?;
                    return if self.buffer.is_empty() { Ok(None) } else { Err(internal("the answer breaks off within a message")) };
                }
            }
        }
    }

    /// The one message of a call that answers once.
    pub(super) async fn only(mut self) -> Result<Bytes, Fault> {
        let message = self.next().await?;
        match (message, self.next().await?) {
            (Some(message), None) => Ok(message),
            _ => Err(internal("the answer is no single message")),
        }
    }

    fn buffered(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 {
            return Err(internal("the answer is compressed, which was not asked for"));
        }
        if length > self.limit {
            return Err(Fault::new("ResourceExhausted", format!("received message larger than max ({length} vs. {})", self.limit)));
        }
        if self.buffer.len() < HEAD + length {
            self.buffer.reserve(HEAD + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}
