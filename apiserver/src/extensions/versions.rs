//! From the version an object is stored in to the one asked for, and back (upstream's `apiserver/conversion`).

use std::{borrow::Cow, collections::VecDeque, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_schema::{
    SchemaRef,
    managed::{self, Unconverted},
};
use coracle_tree::Value;
use parking_lot::Mutex;

use super::review::{self, Webhook};
use crate::{
    registry::{Converter, KindSchema, Object, items, storage},
    wire::Status,
};

/// The conversion of one version of a custom resource.
pub(super) struct Versions {
    /// This version: `apiVersion` and schema.
    pub own: Of,
    /// The version that is stored.
    pub stored: Of,
    /// All versions there are, served or not.
    pub all: All,
    /// Who converts; `None`: only `apiVersion` differs.
    pub webhook: Option<Arc<Webhook>>,
    /// What was converted lately.
    pub lately: Mutex<Lately>,
}

/// A version.
#[derive(Clone)]
pub(super) struct Of {
    /// `example.com/v1`
    pub version: Arc<str>,
    /// Its schema.
    pub schema: KindSchema,
}

/// All versions of a definition.
#[derive(Clone)]
pub(super) struct All(pub Arc<[Of]>);

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|of| &of.version)).finish()
    }
}

impl managed::Versions for All {
    fn schema(&self, api_version: &str) -> Result<&SchemaRef, Unconverted> {
        let unknown = || Unconverted::Failed(format!("request to convert CR to an invalid group/version: {api_version}"));
        self.0.iter().find(|of| &*of.version == api_version).map(|of| &*of.schema).ok_or_else(unknown)
    }

    fn convert<'o>(&self, object: &'o Value, _: &str) -> Result<Cow<'o, Value>, Unconverted> {
        Ok(Cow::Borrowed(object))
    }
}

/// Converted objects, so that many readers of one object cost one conversion. Bounded in number and size; the oldest goes first.
#[derive(Default)]
pub(super) struct Lately {
    kept: VecDeque<(Bytes, Bytes)>,
    size: usize,
}

/// Most objects kept.
const KEPT: usize = 512;
/// Most bytes kept.
const KEPT_BYTES: usize = 4 << 20;

impl Lately {
    fn get(&self, stored: &Bytes) -> Option<Bytes> {
        let same = |known: &Bytes| known.as_ptr() == stored.as_ptr() && known.len() == stored.len();
        self.kept.iter().rev().find(|(known, _)| same(known)).map(|(_, made)| made.clone())
    }

    fn keep(&mut self, stored: Bytes, made: Bytes) {
        self.size += stored.len() + made.len();
        self.kept.push_back((stored, made));
        while self.kept.len() > KEPT || self.size > KEPT_BYTES {
            let Some((stored, made)) = self.kept.pop_front() else { break };
            self.size -= stored.len() + made.len();
        }
    }
}

#[async_trait]
impl Converter for Versions {
    fn is_current(&self, wire: &[u8]) -> bool {
        items::is_of_version(wire, &self.own.version)
    }

    async fn read(&self, wires: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let mut out: Vec<Option<Bytes>> = Vec::with_capacity(wires.len());
        let mut asked = Vec::new();
        for wire in &wires {
            let known = if self.is_current(wire) { Some(wire.clone()) } else { self.lately.lock().get(wire) };
            if known.is_none() {
                asked.push(storage::parse_wire(wire)?.into_value());
            }
            out.push(known);
        }
        let converted = match &self.webhook {
            Some(webhook) if !asked.is_empty() => review::convert(webhook, asked, &self.own.version).await?,
            _ => asked,
        };
        let mut converted = converted.into_iter();
        wires.into_iter().zip(out).map(|(wire, known)| known.map_or_else(|| self.finish(wire, converted.next()), Ok)).collect()
    }

    async fn write(&self, object: &Object) -> Result<Object, Status> {
        let mut value = object.value().clone();
        if let Some(webhook) = &self.webhook {
            value = review::convert(webhook, vec![value], &self.stored.version).await?.pop().unwrap_or_default();
        }
        let mut object = object_of(value)?;
        object.value_mut()["apiVersion"] = (*self.stored.version).into();
        coracle_schema::decode::refresh(object.value_mut(), &self.stored.schema);
        Ok(object)
    }

    async fn read_back(&self, stored: Object) -> Result<Object, Status> {
        let mut value = stored.into_value();
        coracle_schema::default::apply(&mut value, &self.stored.schema);
        if let Some(webhook) = &self.webhook {
            value = review::convert(webhook, vec![value], &self.own.version).await?.pop().unwrap_or_default();
        }
        self.brought(value)
    }

    fn is_stored(&self) -> bool {
        self.own.version == self.stored.version
    }

    fn is_local(&self) -> bool {
        self.webhook.is_none()
    }

    fn versions(&self) -> &dyn managed::Versions {
        &self.all
    }

    async fn convert(&self, mut object: Value, api_version: &str) -> Result<Value, Status> {
        match &self.webhook {
            Some(webhook) => Ok(review::convert(webhook, vec![object], api_version).await?.pop().unwrap_or_default()),
            None => {
                object["apiVersion"] = api_version.into();
                Ok(object)
            }
        }
    }
}

impl Versions {
    fn finish(&self, wire: Bytes, converted: Option<Value>) -> Result<Bytes, Status> {
        let made = storage::rewired(&self.brought(converted.unwrap_or_default())?)?;
        self.lately.lock().keep(wire, made.clone());
        Ok(made)
    }

    /// What was converted, in the form of this version. Its defaults are for what clients write: what is read has those of the version it is
    /// stored in.
    fn brought(&self, converted: Value) -> Result<Object, Status> {
        let mut object = object_of(converted)?;
        object.value_mut()["apiVersion"] = (*self.own.version).into();
        coracle_schema::decode::refresh(object.value_mut(), &self.own.schema);
        Ok(object)
    }
}

fn object_of(value: Value) -> Result<Object, Status> {
    Object::new(value).ok_or_else(|| Status::internal("a converted object is not a JSON object"))
}
