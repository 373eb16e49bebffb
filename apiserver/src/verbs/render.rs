//! Objects in the form a client asked for: as they are, as rows of a table, or their metadata only.

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use serde_json::Value;

use super::{Api, Call, Clock};
use crate::{
    registry::{Kind, Storage},
    wire::{
        Answer, Body, Encoding, Form, Status, Wanted, answer, negotiate,
        table::{self, Include, Printer, TableOptions},
    },
};

const METADATA: &[u8] = b"\"metadata\":";
const PARTIAL: &[u8] = b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":";

/// One object, from its cached form.
pub fn object(api: &Api, call: &Call, kind: &Kind, wanted: Wanted, code: StatusCode, cached: &Bytes) -> Result<Answer, Status> {
    shown(api, call, kind, wanted, code, &Storage::wire_of(kind, cached)?)
}

/// One object, from its wire form in the kind's own version.
pub fn shown(api: &Api, call: &Call, kind: &Kind, wanted: Wanted, code: StatusCode, wire: &Bytes) -> Result<Answer, Status> {
    match wanted {
        Wanted { form: Form::Table, encoding } => {
            let Some(printer) = kind.printer else { return encoded(code, encoding, wire.clone()) };
            let options = TableOptions { include: Include::parse(call.query.text("includeObject"))?, headers: true, now: api.now() };
            encoded(code, encoding, table::one(printer, wire, options)?)
        }
        Wanted { form: Form::Metadata, encoding } => encoded(code, encoding, partial(wire)),
        Wanted { encoding, .. } => encoded(code, encoding, wire.clone()),
    }
}

/// JSON bytes in the encoding wanted.
pub fn encoded(code: StatusCode, encoding: Encoding, json: Bytes) -> Result<Answer, Status> {
    let body = match encoding {
        Encoding::Json => json,
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&json).map_err(|e| Status::internal(e.to_string()))?;
            negotiate::render(encoding, &value)?
        }
    };
    Ok(answer::bytes(code, encoding.content_type(), Body::full(body)))
}

/// The table of a list; `None` when the kind has no printer.
pub fn table(api: &Api, call: &Call, kind: &Kind, wires: &[Bytes], meta: &Value) -> Result<Option<Bytes>, Status> {
    let Some(printer) = kind.printer else { return Ok(None) };
    let options = TableOptions { include: Include::parse(call.query.text("includeObject"))?, headers: true, now: api.now() };
    table::list(printer, wires, meta, options).map(Some)
}

/// Objects of a watch as tables of one row.
pub struct Rows {
    printer: &'static dyn Printer,
    include: Include,
    clock: Clock,
    /// The next table is the first and brings the column definitions.
    first: bool,
}

/// How a watch in this form prints; `None` when it sends the objects themselves.
pub fn rows(api: &Api, call: &Call, kind: &Kind, form: Form) -> Result<Option<Rows>, Status> {
    let Some(printer) = kind.printer.filter(|_| form == Form::Table) else { return Ok(None) };
    let include = Include::parse(call.query.text("includeObject"))?;
    Ok(Some(Rows { printer, include, clock: Clock::clone(&api.clock), first: true }))
}

impl Rows {
    /// The table of one object.
    pub fn one(&mut self, wire: &Bytes) -> Result<Bytes, Status> {
        let options = TableOptions { include: self.include, headers: std::mem::take(&mut self.first), now: (self.clock)() };
        table::one(self.printer, wire, options)
    }
}

/// `PartialObjectMetadata` of an object: its metadata as it stands, cut out of the wire form.
pub fn partial(wire: &Bytes) -> Bytes {
    let metadata = metadata_slice(wire).unwrap_or(b"{}");
    let mut out = BytesMut::with_capacity(PARTIAL.len() + metadata.len() + 1);
    out.put_slice(PARTIAL);
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
    fn metadata_is_cut_out_whatever_its_texts_hold() {
        let wire = Bytes::from_static(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"a":{"b":"}\"{"},"n":1},"spec":{}}"#);
        assert_eq!(partial(&wire), r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"a":{"b":"}\"{"},"n":1}}"#);
    }
}
