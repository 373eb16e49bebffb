//! Bodies compressed while they are sent: what is made is one frame and the compressor's window, never the whole.

use std::{
    io::{self, Write},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use flate2::{Compression, write::GzEncoder};

use super::{body::Body, rope::Rope};

/// Compressed bytes are gathered up to about this many before they are passed on.
const FRAME: usize = 32 * 1024;
/// Bytes that are compressed without looking whether there is enough.
const AT_ONCE: usize = 256 * 1024;

/// A body and its compressor.
pub struct Gzip {
    body: Body,
    /// What is not compressed yet of what the body gave.
    rest: Rope,
    /// `None` once the end was written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Gzip {
    /// Compresses quickly rather than well, as upstream does (level 1).
    pub fn new(body: Body) -> Self {
        Self { body, rest: Rope::default(), encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    /// The next compressed bytes; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        while let Some(encoder) = &mut self.encoder {
            if !self.rest.has_remaining() {
                match ready!(self.body.poll_next(cx)) {
                    Some(Ok(rope)) => self.rest = rope,
                    Some(Err(error)) => {
                        self.encoder = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => {
                        let end = self.encoder.take().and_then(|encoder| encoder.finish().ok());
                        return Poll::Ready(end.map(Bytes::from).filter(|end| !end.is_empty()).map(Ok));
                    }
                }
            }
            let length = self.rest.chunk().len().min(AT_ONCE);
            let written = encoder.write_all(&self.rest.chunk()[..length]);
            self.rest.advance(length);
            // Writing to memory does not fail.
            if written.is_err() {
                self.encoder = None;
            } else if encoder.get_ref().len() >= FRAME {
                return Poll::Ready(Some(Ok(std::mem::take(encoder.get_mut()).into())));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_compressed_list_is_the_same_list() {
        let items: Vec<Bytes> = (0..20_000).map(|n| Bytes::from(format!("{{\"n\":{n},\"text\":\"{:x}\"}}", n * 7_919))).collect();
        let body = || Body::list("[", items.clone(), "]\n");
        let plain = body().collect().await.unwrap().to_bytes();
        let compressed = body().gzipped().collect().await.unwrap().to_bytes();
        assert!(compressed.len() < plain.len() / 2);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, plain);
    }
}
