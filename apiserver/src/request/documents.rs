//! Documents that change only when the kinds do: made on first demand, with an ETag, the larger ones kept compressed.

use std::io::{Read, Write};

use std::sync::Arc;

use bytes::Bytes;
use coracle_schema::discovery::{Discovery, Entry};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::{
    extensions::discovery::{Others, View},
    registry::Catalog,
    wire::{Answer, Body, Status, answer},
};

/// Documents kept at most, and their bytes; the oldest goes first and is made again when it is asked for.
const KEPT: usize = 512;
const KEPT_BYTES: usize = 8 << 20;
/// Documents from this size on are kept compressed.
const LARGE: usize = 16 << 10;
/// Up to this size they are compressed well: it takes a millisecond or two, once, and discovery of a thousand definitions leaves in one piece.
const PACKED_WELL: usize = 1 << 20;

/// The documents at hand, and the view of the kinds they are made from.
pub struct Documents(Mutex<State>);

struct State {
    view: View,
    /// In the order they were made.
    kept: Vec<(Key, Document)>,
    size: usize,
}

/// What a document is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// Its path.
    pub path: String,
    /// Which of several forms at this path.
    pub variant: &'static str,
    /// The one group it shows; `None`: all.
    pub group: Option<String>,
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    body: Bytes,
    compressed: bool,
    etag: HeaderValue,
}

/// The kinds of one moment, as discovery shows them.
#[derive(Clone)]
pub struct Seen {
    /// How they are shown.
    pub discovery: Arc<Discovery>,
    revision: (u64, u64),
}

impl Documents {
    /// For these built-in kinds.
    pub fn new(built_in: Vec<Entry>) -> Self {
        Self(Mutex::new(State { view: View::new(built_in), kept: Vec::new(), size: 0 }))
    }

    /// The kinds of a catalog and of other servers. Documents that no longer say what is there are forgotten.
    pub fn look(&self, catalog: &Catalog, others: &Others) -> Seen {
        let mut state = self.0.lock();
        let moved = state.view.look(catalog, others);
        if !moved.is_empty() {
            let stale = |key: &Key| key.group.as_ref().is_none_or(|group| moved.iter().any(|m| **m == **group));
            state.kept.retain(|(key, _)| !stale(key));
            state.size = state.kept.iter().map(|(_, document)| document.body.len()).sum();
        }
        // What was read before somebody else looked at newer kinds is of those it was read with.
        Seen { discovery: Arc::clone(state.view.discovery()), revision: (catalog.revision(), others.revision) }
    }

    /// A document at hand.
    pub fn get(&self, key: &Key) -> Option<Document> {
        self.0.lock().kept.iter().find(|(known, _)| known == key).map(|(_, document)| document.clone())
    }

    /// Keeps a document, unless the kinds have changed since it was made.
    pub fn keep(&self, key: Key, document: Document, seen: &Seen) {
        let mut state = self.0.lock();
        if !state.view.is_of(seen.revision) || state.kept.iter().any(|(known, _)| *known == key) {
            return;
        }
        state.size += document.body.len();
        state.kept.push((key, document));
        while state.kept.len() > KEPT || (state.size > KEPT_BYTES && state.kept.len() > 1) {
            let (_, gone) = state.kept.remove(0);
            state.size -= gone.body.len();
        }
    }
}

impl Document {
    /// Of a text; its ETag is that of `same_as`, if it is another form of that.
    pub fn new(text: Vec<u8>, same_as: Option<&Self>) -> Result<Self, Status> {
        let etag = match same_as {
            Some(other) => other.etag.clone(),
            None => {
                let digest: String = Sha256::digest(&text).iter().map(|b| format!("{b:02X}")).collect();
                HeaderValue::from_str(&format!("\"{digest}\"")).map_err(|e| Status::internal(e.to_string()))?
            }
        };
        if text.len() < LARGE {
            return Ok(Self { body: text.into(), compressed: false, etag });
        }
        let level = if text.len() <= PACKED_WELL { Compression::default() } else { Compression::fast() };
        let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), level);
        let packed = encoder.write_all(&text).and_then(|()| encoder.finish());
        let packed = packed.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Self { body: packed.into(), compressed: true, etag })
    }

    /// Its text.
    pub fn text(&self) -> Result<Bytes, Status> {
        if !self.compressed {
            return Ok(self.body.clone());
        }
        let mut text = Vec::with_capacity(self.body.len() * 8);
        GzDecoder::new(&*self.body).read_to_end(&mut text).map_err(|e| Status::internal(e.to_string()))?;
        Ok(text.into())
    }

    /// The answer to a request: 304 when the client has it.
    pub fn answer(&self, headers: &HeaderMap, content_type: &'static str) -> Result<Answer, Status> {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|e| *e == self.etag);
        let plain = !self.compressed || !answer::takes_gzip(headers);
        let mut made = match (known, plain) {
            (true, _) => answer::bytes(StatusCode::NOT_MODIFIED, content_type, Body::empty()),
            (false, true) => answer::bytes(StatusCode::OK, content_type, Body::full(self.text()?)),
            (false, false) => answer::bytes(StatusCode::OK, content_type, Body::full(self.body.clone())),
        };
        if !known && !plain {
            made.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        made.headers_mut().insert(header::ETAG, self.etag.clone());
        made.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, group: Option<&str>) -> Key {
        Key { path: path.to_owned(), variant: "", group: group.map(str::to_owned) }
    }

    #[test]
    fn a_large_document_is_kept_small_and_read_as_it_was() {
        let text = "x".repeat(100_000);
        let document = Document::new(text.clone().into_bytes(), None).unwrap();
        assert!(document.body.len() < 10_000);
        assert_eq!(document.text().unwrap(), text);
        let mut headers = HeaderMap::new();
        let answer = document.answer(&headers, "application/json").unwrap();
        assert!(!answer.headers().contains_key(header::CONTENT_ENCODING));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(document.answer(&headers, "application/json").unwrap().headers()[header::CONTENT_ENCODING], "gzip");
        headers.insert(header::IF_NONE_MATCH, document.etag.clone());
        assert_eq!(document.answer(&headers, "application/json").unwrap().status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_made_of_other_kinds_is_not_kept() {
        let documents = Documents::new(Vec::new());
        let seen = documents.look(&Catalog::default(), &Others::default());
        for at in 0..KEPT + 10 {
            documents.keep(key(&at.to_string(), Some("g")), Document::new(b"t".to_vec(), None).unwrap(), &seen);
        }
        assert!(documents.get(&key("0", Some("g"))).is_none() && documents.get(&key("20", Some("g"))).is_some());
        let newer = Others { revision: 1, ..Others::default() };
        documents.look(&Catalog::default(), &newer);
        let old = documents.look(&Catalog::default(), &Others::default());
        documents.keep(key("old", None), Document::new(b"t".to_vec(), None).unwrap(), &old);
        assert!(documents.get(&key("old", None)).is_none());
    }
}
