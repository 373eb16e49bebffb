//! `runtime.Unknown` and what else surrounds messages: lists whose items are at hand, events of a watch.

use super::wire::{BYTES, Parts, Wire, put_bytes, put_tag, put_varint, varint_len};

/// What every protobuf body begins with.
pub const MAGIC: &[u8] = b"k8s\0";

/// Field of a list that holds its items.
const ITEMS: u32 = 2;

/// Field of `ObjectMeta`.
const RESOURCE_VERSION: u32 = 6;

/// Ends every envelope: content encoding and content type, both empty.
pub const TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// A whole body: a message in its envelope.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = head(api_version, kind, raw.len());
    out.reserve_exact(raw.len() + TAIL.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(TAIL);
    out
}

/// An envelope up to its message of so many bytes. [`TAIL`] follows that.
fn head(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(MAGIC.len() + meta.len() + 24);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &meta);
    put_tag(&mut out, 2, BYTES);
    put_varint(&mut out, length as u64);
    out
}

/// The envelope of a list up to its first item; `meta` is its encoded `ListMeta`, `items` the length of all its items ([`item_len`]). Each
/// item follows [`item_head`], and [`TAIL`] the last.
pub fn list_head(api_version: &str, kind: &str, meta: &[u8], items: usize) -> Vec<u8> {
    let mut out = head(api_version, kind, item_len(meta.len()) + items);
    put_bytes(&mut out, 1, meta);
    out
}

/// The length of an item whose message has this one: [`item_head`] stands before it.
pub fn item_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

/// What stands before an item of so many bytes.
pub fn item_head(out: &mut Vec<u8>, length: usize) {
    put_tag(out, ITEMS, BYTES);
    put_varint(out, length as u64);
}

/// The length of a message's first field, tag included, if that is one with a length.
pub fn first_field(message: &[u8]) -> Option<usize> {
    let mut parts = Parts(message);
    match parts.next()?.ok()? {
        (_, Wire::Bytes(_)) => Some(message.len() - parts.0.len()),
        _ => None,
    }
}

/// An object's message with this resource version: its first field is its metadata, which has the version, empty or not.
pub fn versioned(message: &[u8], version: &str) -> Option<Vec<u8>> {
    let length = first_field(message)?;
    let (_, Wire::Bytes(metadata)) = Parts(message).next()?.ok()? else { return None };
    let mut fields = Parts(metadata);
    let before = loop {
        let start = metadata.len() - fields.0.len();
        if fields.next()?.ok()?.0 == RESOURCE_VERSION {
            break &metadata[..start];
        }
    };
    let mut field = Vec::with_capacity(version.len() + 2);
    put_bytes(&mut field, RESOURCE_VERSION, version.as_bytes());
    let mut out = Vec::with_capacity(message.len() + field.len() + 2);
    put_tag(&mut out, 1, BYTES);
    put_varint(&mut out, (before.len() + field.len() + fields.0.len()) as u64);
    for part in [before, &field, fields.0, &message[length..]] {
        out.extend_from_slice(part);
    }
    Some(out)
}

/// A `metav1.WatchEvent` with the length before it that frames it in a stream; `object` is a whole body.
pub fn event(of: &str, object: &[u8]) -> Vec<u8> {
    // WatchEvent: type 1, object 2; that is a RawExtension: raw 1.
    let raw = 1 + varint_len(object.len() as u64) + object.len();
    let length = 2 + of.len() + 1 + varint_len(raw as u64) + raw;
    let mut out = Vec::with_capacity(length + 4);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    put_bytes(&mut out, 1, of.as_bytes());
    put_tag(&mut out, 2, BYTES);
    put_varint(&mut out, raw as u64);
    put_bytes(&mut out, 1, object);
    out
}
