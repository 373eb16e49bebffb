//! Watch events in the form and encoding a client asked for: each encoded once, however many watch.

use std::{collections::HashMap, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_schema::{
    SchemaRef,
    decode::{self, FieldValidation},
    proto::envelope,
};
use coracle_store::{
    Revision,
    cache::{Cached, Change},
};
use coracle_tree::{Value, json};

use super::{Api, Call, render};
use crate::{
    registry::{Kind, Storage, items::Facts},
    wire::{Encoding, Form, Status, Wanted, negotiate::MetaVersion},
};

/// Event types, in the order of their slots among a change's kept frames.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum Type {
    Added,
    Modified,
    Deleted,
}

/// How many event types there are.
const TYPES: usize = 3;

/// Writes events.
pub struct Printer {
    kind: Arc<Kind>,
    wanted: Wanted,
    /// What the objects of events are called.
    api_version: String,
    object_kind: Arc<str>,
    /// How they are written as protobuf.
    schema: SchemaRef,
    status: SchemaRef,
    rows: Option<render::Rows>,
    /// Objects at hand that are sent in another version than they are stored in: as they are stored, and as they are sent.
    converted: HashMap<Bytes, Bytes>,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Printer {
    /// For a watch of `kind`; 406 for encodings that cannot be streamed.
    pub fn new(api: &Api, call: &Call, kind: &Arc<Kind>, wanted: Wanted) -> Result<Self, Status> {
        wanted.encoding.stream_type()?;
        let metadata = matches!(wanted.form, Form::Metadata | Form::MetadataList);
        let (api_version, object_kind, schema) = if metadata {
            (wanted.meta.name().to_owned(), "PartialObjectMetadata".into(), api.message("meta.PartialObjectMetadata")?)
        } else {
            (kind.api_version(), Arc::clone(&kind.gvk.kind), (*kind.schema).clone())
        };
        Ok(Self {
            kind: Arc::clone(kind),
            wanted: Wanted { form: if metadata { Form::Metadata } else { wanted.form }, ..wanted },
            api_version,
            object_kind,
            schema,
            status: api.message("meta.Status")?,
            rows: render::rows(api, call, kind, wanted)?,
            converted: HashMap::new(),
        })
    }

    /// The kind whose objects are written.
    pub fn kind(&self) -> &Arc<Kind> {
        &self.kind
    }

    /// Converts the objects that are about to be written, all in one go; forgets those before.
    pub async fn learn(&mut self, wires: impl Iterator<Item = Bytes>) -> Result<(), Status> {
        self.converted.clear();
        let foreign: Vec<Bytes> = wires.filter(|wire| !Storage::is_shared(&self.kind, wire)).collect();
        if !foreign.is_empty() {
            let made = Storage::wires_of(&self.kind, foreign.clone()).await?;
            self.converted = foreign.into_iter().zip(made).collect();
        }
        Ok(())
    }

    /// An object as its watcher sees it.
    pub fn seen<'w>(&'w self, wire: &'w Bytes) -> &'w Bytes {
        self.converted.get(wire).unwrap_or(wire)
    }

    /// The event of a change; made once for all watchers, where all see the same.
    pub fn event(&mut self, change: &Change<Facts>, of: Type, wire: &Bytes) -> Result<Bytes, Status> {
        if self.rows.is_some() || !Storage::is_shared(&self.kind, wire) {
            return self.write(of, wire);
        }
        if self.wanted.meta != MetaVersion::V1 {
            // Who still asks for it is alone with it.
            return self.plain(of, wire);
        }
        let encoding = usize::from(self.wanted.encoding == Encoding::Protobuf);
        let form = usize::from(self.wanted.form == Form::Metadata);
        change.frames.try_get_or_make((encoding * 2 + form) * TYPES + of as usize, || self.plain(of, wire))
    }

    /// An ADDED event of the initial state.
    pub async fn initial(&mut self, api: &Api, cached: &Cached<Facts>) -> Result<Bytes, Status> {
        if self.wanted.encoding != Encoding::Protobuf {
            return self.write(Type::Added, &cached.wire());
        }
        // Like a list: who comes next will want the same.
        let message = match self.wanted.form {
            Form::Metadata => render::cached_metadata(api, &self.kind, cached).await?,
            _ => render::cached_message(&self.kind, cached).await?,
        };
        Ok(self.message_frame(Type::Added.name(), &message))
    }

    fn write(&mut self, of: Type, wire: &Bytes) -> Result<Bytes, Status> {
        let wire = self.seen(wire).clone();
        match &mut self.rows {
            Some(rows) => Ok(frame(of.name(), &rows.one(&wire)?)),
            None => self.plain(of, &wire),
        }
    }

    /// An event of an object in the version its watcher sees.
    fn plain(&self, of: Type, wire: &Bytes) -> Result<Bytes, Status> {
        match (self.wanted.encoding, self.wanted.form) {
            (Encoding::Protobuf, Form::Metadata) => {
                Ok(self.message_frame(of.name(), &render::message(&render::partial(wire, self.wanted.meta), &self.schema)?))
            }
            (Encoding::Protobuf, _) => Ok(self.message_frame(of.name(), &render::message(wire, &self.schema)?)),
            (_, Form::Metadata) => Ok(frame(of.name(), &render::partial(wire, self.wanted.meta))),
            _ => Ok(frame(of.name(), wire)),
        }
    }

    fn message_frame(&self, of: &str, message: &[u8]) -> Bytes {
        envelope::event(of, &envelope::envelope(&self.api_version, &self.object_kind, message)).into()
    }

    /// A bookmark: everything up to `revision` was sent. It is an object of the kind that has nothing but a resource version.
    pub fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Result<Bytes, Status> {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut object = json!({"kind": &*self.object_kind, "apiVersion": self.api_version, "metadata": meta});
        if !self.kind.is_custom() {
            object = decode::from_value(object, &self.schema, FieldValidation::Ignore).map(|d| d.value).unwrap_or_default();
            object["kind"] = (&*self.object_kind).into();
            object["apiVersion"] = self.api_version.as_str().into();
        }
        match &mut self.rows {
            Some(rows) => Ok(frame("BOOKMARK", &rows.bookmark(&object.to_string().into(), initial_end)?)),
            None if self.wanted.encoding == Encoding::Protobuf => {
                Ok(self.message_frame("BOOKMARK", &render::message(object.to_string().as_bytes(), &self.schema)?))
            }
            None => Ok(frame("BOOKMARK", object.to_string().as_bytes())),
        }
    }

    /// The event that ends a watch in an error.
    pub fn error(&self, status: &Status) -> Bytes {
        let object: Value = status.to_value();
        let json = object.to_string();
        if self.wanted.encoding == Encoding::Protobuf
            && let Ok(message) = render::message(json.as_bytes(), &self.status)
        {
            return envelope::event("ERROR", &envelope::envelope("v1", "Status", &message)).into();
        }
        frame("ERROR", json.as_bytes())
    }
}

/// An event in JSON, a line of its own.
fn frame(of: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 36);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(of.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object.trim_ascii_end());
    out.put_slice(b"}\n");
    out.freeze()
}
