//! Values as JSON text: what every write makes of its object, once for the store and once more for what protobuf holds as JSON.
//!
//! The text is that of `serde_json`, which looks at each byte of each text for something to escape. Hardly a text has that.

use std::io::Write;

use coracle_tree::Value;

use crate::decode::MAX_NESTING;

/// The object is nested deeper than it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the object is nested deeper than {MAX_NESTING} levels")]
pub struct TooDeep;

/// Appends a value without blanks, of so many levels of nesting at most.
pub fn write(value: &Value, levels: usize, out: &mut Vec<u8>) -> Result<(), TooDeep> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            let _cannot_fail = write!(out, "{number}");
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            let levels = levels.checked_sub(1).ok_or(TooDeep)?;
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, levels, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let levels = levels.checked_sub(1).ok_or(TooDeep)?;
            out.push(b'{');
            for (at, (name, value)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(value, levels, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Appends a text in its quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        write_escaped(bytes, out);
    }
    out.push(b'"');
}

fn write_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let (mut written, mut at) = (0, 0);
    while let rest @ [_, ..] = &bytes[at..] {
        let eight = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut eight = [b'.'; 8];
            eight[..rest.len()].copy_from_slice(rest);
            eight
        });
        let plain = plain_before(eight).min(rest.len());
        at += plain;
        if let (0..8, Some(&byte)) = (plain, rest.get(plain)) {
            out.extend_from_slice(&bytes[written..at]);
            escape(byte, out);
            at += 1;
            written = at;
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

/// Whether nothing is to be escaped, as far as that is seen at once. What is left behind whole eights is looked at with some of the last of them.
fn is_plain(bytes: &[u8]) -> bool {
    match (bytes.last_chunk(), bytes.first_chunk(), bytes.last_chunk()) {
        (Some(last), ..) => are_plain(*last) && bytes.as_chunks().0.iter().all(|eight| are_plain(*eight)),
        (None, Some([a, b, c, d]), Some([e, f, g, h])) => are_plain([*a, *b, *c, *d, *e, *f, *g, *h]),
        _ => match bytes {
            [a, .., b] => are_plain([*a, *b, bytes[1], b'.', b'.', b'.', b'.', b'.']),
            [a] => are_plain([*a, b'.', b'.', b'.', b'.', b'.', b'.', b'.']),
            [] => true,
        },
    }
}

/// Whether eight bytes certainly stand as they are: ASCII behind the quote, and no backslash. A byte is below a bound, or zero, when taking that
/// away borrows. Of texts with blanks or in other scripts the first byte that
/// is escaped is looked for.
#[inline]
fn are_plain(eight: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let eight = u64::from_le_bytes(eight);
    let behind_quote = eight.wrapping_sub(ONES * (b'"' as u64 + 1));
    let no_backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (behind_quote | no_backslash | eight) & HIGH == 0
}

/// How many of eight bytes stand before the first that is escaped. A byte is below a bound, or zero, when taking that away borrows, unless it
/// was 0x80 or more; what it borrows from stands behind it.
#[inline]
fn plain_before(eight: [u8; 8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let below = |bytes: u64, bound: u64| bytes.wrapping_sub(ONES * bound) & !bytes;
    let eight = u64::from_le_bytes(eight);
    let quote = below(eight ^ (ONES * b'"' as u64), 1);
    let backslash = below(eight ^ (ONES * b'\\' as u64), 1);
    ((below(eight, b' ' as u64) | quote | backslash) & HIGH).trailing_zeros() as usize / 8
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\t' => b't',
        b'\r' => b'r',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The members of an object that is not closed yet, as far as its text is written: for what is written so often that a tree of it costs too much.
pub struct Members(pub Vec<u8>);

impl Members {
    /// A member of ours up to its value, which the caller appends: its name in quotes, with the comma that stands before all but the first, and
    /// the colon behind it.
    pub fn name(&mut self, name: &'static str) -> &mut Vec<u8> {
        let first = usize::from(self.0.last() == Some(&b'{'));
        self.0.extend_from_slice(&name.as_bytes()[first..]);
        &mut self.0
    }

    /// A member of whatever name up to its value.
    pub fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        write_text(name, &mut self.0);
        self.0.push(b':');
        &mut self.0
    }

    /// A member that is a text.
    pub fn text(&mut self, name: &'static str, text: &str) {
        write_text(text, self.name(name));
    }

    /// A text that is left out when it is empty.
    pub fn told(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.text(name, text);
        }
    }

    /// A member that is a list of texts.
    pub fn texts(&mut self, name: &'static str, texts: &[impl AsRef<str>]) {
        write_texts(texts, self.name(name));
    }

    /// A member of any value.
    pub fn value(&mut self, name: &'static str, value: &Value) {
        // However deep: it was read or made here.
        let _cannot_fail = write(value, usize::MAX, self.name(name));
    }

    /// A member that is an object, with what members `fill` gives it.
    pub fn object(&mut self, name: &'static str, fill: impl FnOnce(&mut Self)) {
        self.name(name).push(b'{');
        fill(self);
        self.0.push(b'}');
    }
}

/// Appends a list of texts.
pub fn write_texts(texts: &[impl AsRef<str>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(text.as_ref(), out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn written(value: &Value, levels: usize) -> Result<String, TooDeep> {
        let mut out = Vec::new();
        write(value, levels, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn texts_are_escaped_wherever_the_byte_stands() {
        let all: String = (0..=0x180).filter_map(char::from_u32).collect();
        for before in 0..9 {
            for after in 0..9 {
                for c in all.chars() {
                    let text = Value::from(format!("{}{c}{}", "x".repeat(before), "ÿ".repeat(after)));
                    assert_eq!(written(&text, 0).unwrap(), text.to_string());
                }
            }
        }
        assert_eq!(written(&all.as_str().into(), 0).unwrap(), Value::from(all).to_string());
    }

    #[test]
    fn values_are_written_as_serde_writes_them() {
        let value = json!({"a": [null, true, false, {}, []], "n": [0, -1, u64::MAX, i64::MIN, 0.1, 1e300, -0.0, 1.0], "\"": {"é": ""}});
        assert_eq!(written(&value, MAX_NESTING).unwrap(), value.to_string());
    }

    #[test]
    fn what_is_nested_deeper_than_allowed_is_refused() {
        assert_eq!(written(&json!([{"a": 1}]), 2).unwrap(), r#"[{"a":1}]"#);
        assert_eq!(written(&json!([{"a": []}]), 2), Err(TooDeep));
    }
}
