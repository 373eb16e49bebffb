//! From JSON to the form that is stored: parsing, type checks, pruning and normalizing in one pass, guided by a schema.
//!
//! The result is what kube-apiserver would have stored and read back: unknown fields are gone, nulls and zero values stand or not as Go's
//! encoder would write them, quantities and times are canonical. Type errors are worded like Go's decoder's, strict ones like
//! `sigs.k8s.io/json`'s, because clients and people read them.

mod custom;
mod path;
mod plain;
mod reports;
mod scalar;
mod settle;
pub(crate) mod syntax;
mod visit;
mod zero;

use std::{cell::Cell, str::Utf8Error};

use coracle_tree::{Map, Value};
use serde::de::DeserializeSeed;

use crate::types::{Schema, SchemaRef, Shape, Type};

pub use self::plain::{json_patch_reports, plain_json};
use self::{path::Path, reports::Reports, visit::Seed};

/// Largest body that is decoded: as kube-apiserver's limit for requests.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Levels of nesting of an object, at most. JSON is read to 127 levels, by us and by the clients of this process, and what carries objects
/// (lists, events, reviews) nests a little deeper. Upstream reads 10,000; of the definitions in use none has fifty.
pub const MAX_NESTING: usize = 120;

/// What to do about unknown and duplicate fields (`?fieldValidation=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FieldValidation {
    /// Drop them in silence.
    Ignore,
    /// Drop them and report each.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// A decoded object.
#[derive(Clone, PartialEq, Debug)]
pub struct Decoded {
    /// The pruned, normalized object: always a JSON object.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.replicas"`: texts for `Warning:` headers.
    pub reports: Vec<String>,
}

/// Why a body is not an object of its kind. The text is what upstream puts behind
/// `Deployment in version "v1" cannot be handled as a Deployment: `.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is larger than [`MAX_BYTES`].
    #[error("Request entity too large: limit is {MAX_BYTES}")]
    TooLarge,
    /// The body is not JSON, or nested too deep.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Syntax(String),
    /// A custom resource that does not say its kind.
    #[error("Object 'Kind' is missing")]
    MissingKind,
    /// A field has the wrong type, or a text in it does not parse.
    #[error("{0}")]
    Mismatch(String),
    /// Unknown or duplicate fields, in strict mode.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// Decodes a body.
pub fn from_json(bytes: &[u8], schema: &SchemaRef, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    if bytes.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge);
    }
    worded(bytes, read_json(bytes, schema, mode))
}

/// An error of syntax in Go's words, if that is what it is about.
fn worded<T>(bytes: &[u8], read: Result<T, DecodeError>) -> Result<T, DecodeError> {
    read.map_err(|error| match error {
        DecodeError::Syntax(text) if text.starts_with("recursion limit exceeded") => {
            DecodeError::Syntax(format!("exceeded max depth of {MAX_NESTING}"))
        }
        DecodeError::Syntax(text) => DecodeError::Syntax(syntax::fault(bytes).unwrap_or(text)),
        other => other,
    })
}

fn read_json(bytes: &[u8], schema: &SchemaRef, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    // Seen at once, what is text need not be looked for in each string.
    let text = str::from_utf8(bytes).map_err(|error| not_text(bytes, error))?;
    let session = Session::new(schema, mode);
    if let Some(custom) = schema.custom() {
        return custom::from_json(text, custom, schema, session);
    }
    let mut source = serde_json::Deserializer::from_str(text);
    let read = session.seed(&Shape::Message(schema.root)).deserialize(&mut source).and_then(|value| source.end().map(|()| value));
    session.finish(read)
}

/// What is wrong with bytes that are no text, and where.
fn not_text(bytes: &[u8], error: Utf8Error) -> DecodeError {
    let placed = serde_json::from_slice::<Value>(bytes).map_or_else(|placed| placed.to_string(), |_| error.to_string());
    DecodeError::Syntax(placed)
}

/// Decodes a value that is read already: from protobuf or YAML, a patched or applied object, an answer of a webhook.
pub fn from_value(mut value: Value, schema: &SchemaRef, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    let session = Session::new(schema, mode);
    if let Some(custom) = schema.custom() {
        return custom::from_value(value, custom, schema, session, custom::Nulls::Go);
    }
    let settled = session.seed(&Shape::Message(schema.root)).settle(&mut value);
    session.finish(settled.map(|()| value))
}

/// The same for what an apply has made. In a custom resource, what its configuration made null is for validation to judge.
pub fn from_applied(value: Value, schema: &SchemaRef, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    match schema.custom() {
        Some(custom) => custom::from_value(value, custom, schema, Session::new(schema, mode), custom::Nulls::Stay),
        None => from_value(value, schema, mode),
    }
}

/// What upstream shows of an object once it was stored: lists without items that stand in JSON all the same are null, since protobuf does
/// not tell them from none. Custom resources are stored as they are. Whether it was another before.
pub fn as_stored(object: &mut Value, schema: &SchemaRef) -> bool {
    let mut changed = false;
    if schema.custom().is_none() {
        let types = &schema.schema;
        let mut forget = |of: &Type, members: &mut Map| changed |= zero::forget_empty_lists(types, of, members);
        types.enter_messages(&Shape::Message(schema.root), object, &mut forget);
    }
    changed
}

/// Brings an object read from the store into the form its schema has now: custom resources whose definition changed. What is malformed
/// in metadata goes. Objects of other kinds are left as they are.
pub fn refresh(object: &mut Value, schema: &SchemaRef) {
    if let Some(custom) = schema.custom() {
        custom::refresh(object, custom, schema);
    }
}

impl FieldValidation {
    /// From the query parameter; `None` when it is none of the three.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

impl DecodeError {
    /// The HTTP status code: 413 or 400.
    pub fn code(&self) -> u16 {
        if matches!(self, Self::TooLarge) { 413 } else { 400 }
    }

    /// The whole message of the answer, for an object of this kind.
    pub fn describe(&self, kind: &str, version: &str) -> String {
        match self {
            Self::TooLarge => self.to_string(),
            Self::Syntax(_) | Self::MissingKind => format!("the object provided is unrecognized (must be of type {kind}): {self}"),
            Self::Mismatch(_) | Self::Strict(_) => format!("{kind} in version {version:?} cannot be handled as a {kind}: {self}"),
        }
    }
}

/// One decoding: what it is guided by and what it found.
struct Session<'s> {
    schema: &'s Schema,
    reports: Reports,
    /// Set when decoding stopped over a type, not over syntax.
    mismatch: Cell<Option<String>>,
}

impl<'s> Session<'s> {
    fn new(schema: &'s SchemaRef, mode: FieldValidation) -> Self {
        Self { schema: &schema.schema, reports: Reports::new(mode), mismatch: Cell::default() }
    }

    fn seed<'a>(&'a self, shape: &'a Shape) -> Seed<'a> {
        Seed { session: self, shape, path: &Path::Root, root: true, coarse: false }
    }

    /// As [`Self::finish`], but what was reported does not refuse the body yet.
    fn finish_lax(self, read: Result<Value, serde_json::Error>) -> Result<custom::Lax, DecodeError> {
        let value = read.map_err(|error| DecodeError::Syntax(error.to_string()))?;
        Ok(custom::Lax { value, reports: self.reports })
    }

    fn finish(self, read: Result<Value, serde_json::Error>) -> Result<Decoded, DecodeError> {
        let value = match (read, self.mismatch.take()) {
            (Ok(value), _) => value,
            (Err(_), Some(mismatch)) => return Err(DecodeError::Mismatch(mismatch)),
            (Err(error), None) => return Err(DecodeError::Syntax(error.to_string())),
        };
        self.reports.settle(value)
    }
}

#[cfg(test)]
mod tests;
