//! Objects in the form and encoding a client asked for: as they are, as rows of a table, or their metadata only.

use bytes::{BufMut, Bytes, BytesMut};
use coracle_schema::{
    SchemaRef, Tables,
    proto::{self, envelope},
};
use coracle_store::cache::Cached;
use coracle_tree::Value;
use http::StatusCode;

use super::{Api, Call, Clock};
use crate::{
    registry::{Conversion, Kind, Shared, Storage, items::Facts},
    wire::{
        Answer, Body, Encoding, Form, Offer, Status, Wanted, answer,
        negotiate::{self, MetaVersion},
        table::{self, Include, Printer, TableOptions},
    },
};

const METADATA: &[u8] = b"\"metadata\":";

/// Slots of an object's kept encodings: its protobuf message in the version it is stored in, in the other version of kinds that have
/// one, and its metadata where the object itself has no protobuf.
const STORED: usize = 0;
const RENAMED: usize = 1;
const METADATA_ONLY: usize = 2;

/// What protobuf needs to know of an object beside its JSON.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// `apps/v1`
    pub api_version: &'a str,
    /// `Deployment`
    pub kind: &'a str,
    /// Its message.
    pub schema: &'a SchemaRef,
}

/// The form and encoding of an answer about objects of this kind; 406 when the client accepts nothing that there is.
pub fn wanted(call: &Call, kind: &Kind) -> Result<Wanted, Status> {
    let mut offer = if kind.is_custom() { Offer::CUSTOM } else { Offer::BUILT_IN };
    // What is answered and never stored has no columns.
    let passing = kind.prefix.is_none() && &*kind.gvk.kind != "ComponentStatus";
    offer.tables &= !passing && !matches!(call.info.subresource.as_str(), "binding" | "eviction" | "token");
    negotiate::negotiate(&call.headers, call.uri.query().unwrap_or_default(), offer)
}

/// An answer of bytes in an encoding; JSON gets the line break that ends it.
fn ready(code: StatusCode, encoding: Encoding, body: Bytes) -> Answer {
    let body = if encoding == Encoding::Json && !body.ends_with(b"\n") { Body::line(body) } else { Body::full(body) };
    answer::bytes(code, encoding.content_type(), body)
}

/// A small answer: a status, a review, a scale. Whatever form was asked for, there is but one.
pub fn value(api: &Api, code: StatusCode, encoding: Encoding, value: &Value) -> Answer {
    match written(&api.tables, encoding, value) {
        Ok(body) => answer::bytes(code, encoding.content_type(), Body::full(body)),
        Err(status) => error(&api.tables, Encoding::Json, &status),
    }
}

/// A small answer whose kind has columns, as a table where one is asked for.
pub fn printed(api: &Api, call: &Call, wanted: Wanted, printer: Option<&dyn Printer>, value: &Value) -> Result<Answer, Status> {
    match printer.filter(|_| wanted.form == Form::Table) {
        Some(printer) => {
            let made = table::one(printer, &value.to_string().into(), table_options(api, call, wanted.meta)?)?;
            Ok(ready(StatusCode::OK, wanted.encoding, negotiate::rewrite(wanted.encoding, made)?))
        }
        None => Ok(self::value(api, StatusCode::OK, wanted.encoding, value)),
    }
}

/// The answer to a failed request.
pub fn error(tables: &Tables, encoding: Encoding, status: &Status) -> Answer {
    answer::error(status, encoding, |object| written(tables, encoding, object).ok())
}

/// A value of the built-in API in any encoding.
pub fn written(tables: &Tables, encoding: Encoding, value: &Value) -> Result<Bytes, Status> {
    if encoding != Encoding::Protobuf {
        let mut json = value.to_string();
        json.push('\n');
        return negotiate::rewrite(encoding, json.into());
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let schema = tables.kind(group, version, kind).or_else(|| tables.message(&format!("meta.{kind}")));
    let schema = schema.ok_or_else(|| Status::internal(format!("no message of {api_version} {kind}")))?;
    let message = proto::message_of(value, &schema).map_err(|e| Status::internal(e.to_string()))?;
    Ok(envelope::envelope(api_version, kind, &message).into())
}

/// JSON bytes of an object in any encoding.
pub fn rewritten(encoding: Encoding, json: Bytes, of: Message<'_>) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Protobuf => Ok(envelope::envelope(of.api_version, of.kind, &message(&json, of.schema)?).into()),
        text => negotiate::rewrite(text, json),
    }
}

/// The protobuf message of JSON bytes.
pub fn message(json: &[u8], schema: &SchemaRef) -> Result<Bytes, Status> {
    proto::message(json, schema).map(Bytes::from).map_err(|e| Status::internal(e.to_string()))
}

/// The protobuf message of a cached object, made once for each version of it.
pub async fn cached_message(kind: &Kind, cached: &Cached<Facts>) -> Result<Bytes, Status> {
    let slot = match &kind.conversion {
        None => STORED,
        Some(Conversion::Renaming(_)) => RENAMED,
        Some(Conversion::Versions(_)) => return message(&Storage::wire_of(kind, &cached.wire()).await?, &kind.schema),
    };
    if let Some(found) = cached.forms.get(slot) {
        return Ok(found);
    }
    let wire = Storage::wire_of(kind, &cached.wire()).await?;
    cached.forms.try_get_or_make(slot, || message(&wire, &kind.schema))
}

/// The protobuf message of an object that is sent as it is kept, for whoever keeps what he makes of it.
pub fn message_of(kind: &Kind, cached: &Cached<Facts>) -> Result<Bytes, Status> {
    cached.forms.get(STORED).map_or_else(|| message(&cached.wire(), &kind.schema), Ok)
}

/// The `PartialObjectMetadata` message of a cached object.
pub async fn cached_metadata(api: &Api, kind: &Kind, cached: &Cached<Facts>) -> Result<Bytes, Status> {
    if kind.is_custom() {
        let schema = api.message("meta.PartialObjectMetadata")?;
        return cached.forms.try_get_or_make(METADATA_ONLY, || message(&partial(&cached.wire(), MetaVersion::V1), &schema));
    }
    metadata_of(&cached_message(kind, cached).await?)
}

/// `PartialObjectMetadata` has metadata where every object has it: it is the object's message up to its second field.
fn metadata_of(message: &Bytes) -> Result<Bytes, Status> {
    let length = envelope::first_field(message).ok_or_else(|| Status::internal("a message without metadata"))?;
    Ok(message.slice(..length))
}

/// One object, from the cache.
pub async fn object(api: &Api, call: &Call, kind: &Kind, wanted: Wanted, cached: &Cached<Facts>) -> Result<Answer, Status> {
    match wanted {
        Wanted { encoding: Encoding::Protobuf, form: Form::Metadata, meta } => {
            let body = envelope::envelope(meta.name(), "PartialObjectMetadata", &cached_metadata(api, kind, cached).await?);
            Ok(answer::bytes(StatusCode::OK, wanted.encoding.content_type(), Body::full(body)))
        }
        Wanted { encoding: Encoding::Protobuf, form: Form::Object, .. } => {
            Ok(enveloped(kind, StatusCode::OK, &cached_message(kind, cached).await?))
        }
        _ => shown(api, call, kind, wanted, StatusCode::OK, &Storage::wire_of(kind, &cached.wire()).await?),
    }
}

/// An object's protobuf message as an answer.
pub fn enveloped(kind: &Kind, code: StatusCode, message: &[u8]) -> Answer {
    let body = envelope::envelope(&kind.api_version(), &kind.gvk.kind, message);
    answer::bytes(code, Encoding::Protobuf.content_type(), Body::full(body))
}

/// One object, from its wire form in the kind's own version.
pub fn shown(api: &Api, call: &Call, kind: &Kind, wanted: Wanted, code: StatusCode, wire: &Bytes) -> Result<Answer, Status> {
    let encoding = wanted.encoding;
    let body = match wanted.form {
        Form::Table => match kind.printer.as_deref() {
            Some(printer) => {
                let options = table_options(api, call, wanted.meta)?;
                negotiate::rewrite(encoding, table::one(printer, wire, options)?)?
            }
            None => negotiate::rewrite(encoding, wire.clone())?,
        },
        Form::Metadata => {
            let schema = api.message("meta.PartialObjectMetadata")?;
            let of = Message { api_version: wanted.meta.name(), kind: "PartialObjectMetadata", schema: &schema };
            rewritten(encoding, partial(wire, wanted.meta), of)?
        }
        Form::MetadataList => {
            let text = "you requested PartialObjectMetadataList, but the requested object is not a list";
            return Err(Status::new(406, "NotAcceptable", format!("{text} ({})", go_type(kind, false))));
        }
        Form::Object | Form::Discovery => {
            rewritten(encoding, wire.clone(), Message { api_version: &kind.api_version(), kind: &kind.gvk.kind, schema: &kind.schema })?
        }
    };
    Ok(ready(code, encoding, body))
}

/// The Go type upstream has for a kind's objects or lists, as errors name it: `*core.PodList`.
pub fn go_type(kind: &Kind, list: bool) -> String {
    if kind.is_custom() {
        return format!("*unstructured.Unstructured{}", if list { "List" } else { "" });
    }
    let package = if kind.gvk.group.is_empty() { "core" } else { kind.gvk.group.split('.').next().unwrap_or_default() };
    format!("*{package}.{}{}", kind.gvk.kind, if list { "List" } else { "" })
}

/// The table of a list; `None` when the kind has no printer.
pub fn table(api: &Api, call: &Call, kind: &Kind, version: MetaVersion, wires: &[Bytes], meta: &Value) -> Result<Option<Bytes>, Status> {
    let Some(printer) = kind.printer.as_deref() else { return Ok(None) };
    let options = table_options(api, call, version)?;
    table::list(printer, wires, meta, options).map(Some)
}

/// What a request asks of its table.
pub fn table_options(api: &Api, call: &Call, meta: MetaVersion) -> Result<TableOptions, Status> {
    Ok(TableOptions { include: Include::parse(call.query.text("includeObject"))?, headers: true, now: api.now(), meta })
}

/// Objects of a watch as tables of one row.
pub struct Rows {
    printer: Shared<dyn Printer>,
    include: Include,
    meta: MetaVersion,
    clock: Clock,
    /// The next table is the first and brings the column definitions.
    first: bool,
}

/// How a watch in this form prints; `None` when it sends the objects themselves.
pub fn rows(api: &Api, call: &Call, kind: &Kind, wanted: Wanted) -> Result<Option<Rows>, Status> {
    let Some(printer) = kind.printer.clone().filter(|_| wanted.form == Form::Table) else { return Ok(None) };
    let include = Include::parse(call.query.text("includeObject"))?;
    Ok(Some(Rows { printer, include, meta: wanted.meta, clock: Clock::clone(&api.clock), first: true }))
}

impl Rows {
    /// The table of one object.
    pub fn one(&mut self, wire: &Bytes) -> Result<Bytes, Status> {
        self.table(wire, self.include)
    }

    /// The table of a bookmark; the one that ends the initial events always carries its metadata, which says so.
    pub fn bookmark(&mut self, wire: &Bytes, initial_end: bool) -> Result<Bytes, Status> {
        self.table(wire, if initial_end && self.include == Include::None { Include::Metadata } else { self.include })
    }

    fn table(&mut self, wire: &Bytes, include: Include) -> Result<Bytes, Status> {
        let options = TableOptions { include, headers: std::mem::take(&mut self.first), now: (self.clock)(), meta: self.meta };
        table::one(&*self.printer, wire, options)
    }
}

/// `PartialObjectMetadata` of an object: its metadata as it stands, cut out of the wire form.
pub fn partial(wire: &Bytes, version: MetaVersion) -> Bytes {
    const HEAD: &[u8] = b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"";
    let metadata = metadata_slice(wire).unwrap_or(b"{}");
    let mut out = BytesMut::with_capacity(HEAD.len() + 2 * METADATA.len() + version.name().len() + metadata.len());
    out.put_slice(HEAD);
    out.put_slice(version.name().as_bytes());
    out.put_slice(b"\",");
    out.put_slice(METADATA);
    out.put_slice(metadata);
    out.put_u8(b'}');
    out.freeze()
}

/// The metadata object in a wire form.
fn metadata_slice(wire: &[u8]) -> Option<&[u8]> {
    let start = wire.windows(METADATA.len()).position(|w| w == METADATA)? + METADATA.len();
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (i, byte) in wire[start..].iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(&wire[start..=start + i]);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_message_is_its_first_field() {
        let tables = Tables::load().unwrap();
        let (pods, partial) = (tables.kind("", "v1", "Pod").unwrap(), tables.message("meta.PartialObjectMetadata").unwrap());
        let wire = br#"{"metadata":{"name":"a","labels":{"k":"v"}},"spec":{"nodeName":"n"}}"#;
        let cut = metadata_of(&message(wire, &pods).unwrap()).unwrap();
        assert_eq!(cut, message(wire, &partial).unwrap());
    }

    #[test]
    fn a_status_is_written_in_every_encoding() {
        let tables = Tables::load().unwrap();
        let status = Status::bad_request("no");
        for encoding in [Encoding::Json, Encoding::Pretty, Encoding::Yaml, Encoding::Protobuf] {
            let made = error(&tables, encoding, &status);
            assert_eq!((made.status().as_u16(), made.headers()["content-type"].to_str().unwrap()), (400, encoding.content_type()));
        }
    }

    #[test]
    fn metadata_is_cut_out_whatever_its_texts_hold() {
        let wire = Bytes::from_static(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"a":{"b":"}\"{"},"n":1},"spec":{}}"#);
        assert_eq!(
            partial(&wire, MetaVersion::V1),
            r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"a":{"b":"}\"{"},"n":1}}"#
        );
    }
}
