//! A gzip text put together of parts that were compressed once and are kept: what a list costs is then what is sent of it.
//!
//! Deflate is a row of blocks (RFC 1951). A part is compressed with nothing before it that it could refer to and ends at a whole byte, so
//! that parts may stand in any order; what stands between is in blocks that are not compressed. The checksum at the end of gzip (RFC 1952)
//! is that of the plain text: each part brings its own, and these are combined without looking at any text again.

use bytes::{BufMut, Bytes};
use crc32fast::Hasher;
use flate2::{Compress, CompressError, Compression, FlushCompress};

/// Magic, deflate, no flags, no time, no hints, made on an unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A comma in a block of its own.
const COMMA: &[u8] = &[0, 1, 0, 0xfe, 0xff, b','];
/// The most that a block without compression holds.
const STORED: usize = 0xffff;
/// Room that a step of the compressor has at least. A flush is over when it leaves some of it.
const ROOM: usize = 256;

/// Makes parts, one after the other; the compressor's tables are used again.
pub struct Deflate {
    tables: Compress,
    room: Vec<u8>,
    sum: Hasher,
}

impl Default for Deflate {
    /// Takes about as long as whole answers would at level 1, and makes half of what that makes.
    fn default() -> Self {
        Self { tables: Compress::new(Compression::new(4), false), room: Vec::new(), sum: Hasher::new() }
    }
}

impl Deflate {
    /// Adds to the part that is being made.
    pub fn add(&mut self, mut plain: &[u8]) -> Result<(), CompressError> {
        self.sum.update(plain);
        while !plain.is_empty() {
            self.room.reserve(ROOM);
            let before = self.tables.total_in();
            self.tables.compress_vec(plain, &mut self.room, FlushCompress::None)?;
            plain = plain.get((self.tables.total_in() - before) as usize..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends the part.
    pub fn end(&mut self) -> Result<Part, CompressError> {
        loop {
            self.room.reserve(ROOM);
            self.tables.compress_vec(&[], &mut self.room, FlushCompress::Sync)?;
            if self.room.len() < self.room.capacity() {
                break;
            }
        }
        let sum = std::mem::take(&mut self.sum).finalize();
        let part = Part { blocks: Bytes::copy_from_slice(&self.room), sum, plain: self.tables.total_in() };
        self.tables.reset();
        self.room.clear();
        Ok(part)
    }
}

/// A part: its blocks, and what the whole must know of its plain text.
#[derive(Clone)]
pub struct Part {
    blocks: Bytes,
    sum: u32,
    plain: u64,
}

impl Part {
    /// The length of its plain text.
    pub fn plain_len(&self) -> u64 {
        self.plain
    }

    /// The length of its blocks.
    pub fn compressed_len(&self) -> usize {
        self.blocks.len()
    }
}

/// A gzip text in the pieces it is sent in.
pub struct Pieces {
    /// What it begins with.
    pub head: Bytes,
    /// The blocks of each part.
    pub parts: Vec<Bytes>,
    /// What stands between two parts.
    pub between: &'static [u8],
    /// What it ends with.
    pub tail: Bytes,
}

impl Pieces {
    /// The text that is `head`, the parts, with commas between them if wanted, and `tail`.
    pub fn join(head: &[u8], parts: &[Part], commas: bool, tail: &[u8]) -> Self {
        let mut sum = Hasher::new();
        sum.update(head);
        let mut length = (head.len() + tail.len()) as u64;
        for (at, part) in parts.iter().enumerate() {
            if commas && at > 0 {
                sum.update(b",");
                length += 1;
            }
            sum.combine(&Hasher::new_with_initial_len(part.sum, part.plain));
            length += part.plain;
        }
        sum.update(tail);
        let (mut first, mut last) = (HEAD.to_vec(), Vec::new());
        store(&mut first, head, false);
        store(&mut last, tail, true);
        last.put_u32_le(sum.finalize());
        // Modulo 2^32, says the format.
        last.put_u32_le(length as u32);
        let between = if commas { COMMA } else { b"" };
        Self { head: first.into(), parts: parts.iter().map(|part| part.blocks.clone()).collect(), between, tail: last.into() }
    }
}

/// Blocks that are not compressed; the last of the stream if `last`.
fn store(out: &mut Vec<u8>, plain: &[u8], last: bool) {
    let mut chunks = plain.chunks(STORED).peekable();
    loop {
        let chunk = chunks.next().unwrap_or_default();
        let length = chunk.len() as u16;
        let is_end = chunks.peek().is_none();
        out.put_u8(u8::from(last && is_end));
        out.put_u16_le(length);
        out.put_u16_le(!length);
        out.put_slice(chunk);
        if is_end {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn plain(pieces: &Pieces) -> String {
        let all = [pieces.head.clone(), pieces.parts.join(pieces.between).into(), pieces.tail.clone()].concat();
        let mut text = String::new();
        // Checks sum and length at the end.
        GzDecoder::new(&all[..]).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn parts_in_any_order_are_one_gzip_text() {
        let mut deflate = Deflate::default();
        let texts: Vec<String> = (0..50_usize).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}", "ab7".repeat(n * n * 7))).collect();
        let mut part = |text: &String| {
            deflate.add(&text.as_bytes()[..1]).unwrap();
            deflate.add(&text.as_bytes()[1..]).unwrap();
            deflate.end().unwrap()
        };
        let parts: Vec<Part> = texts.iter().map(&mut part).collect();
        assert_eq!(parts[9].plain_len(), texts[9].len() as u64);
        assert!(parts[49].compressed_len() < texts[49].len() / 20);
        let reversed: Vec<Part> = parts.iter().rev().cloned().collect();
        let reversed_texts: Vec<String> = texts.iter().rev().cloned().collect();
        assert_eq!(plain(&Pieces::join(b"[", &parts, true, b"]\n")), format!("[{}]\n", texts.join(",")));
        assert_eq!(plain(&Pieces::join(b"[", &reversed, true, b"]\n")), format!("[{}]\n", reversed_texts.join(",")));
        assert_eq!(plain(&Pieces::join(b"", &parts[..1], false, b"")), texts[0]);
        assert_eq!(plain(&Pieces::join(b"", &[], false, b"")), "");
    }

    #[test]
    fn what_compresses_badly_and_what_is_long_passes_whole() {
        let mut deflate = Deflate::default();
        let noise: String = (0..300_000_u64).map(|n| char::from(b' ' + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as u8 % 90)).collect();
        deflate.add(noise.as_bytes()).unwrap();
        let part = deflate.end().unwrap();
        let long = "x".repeat(3 * STORED);
        assert_eq!(plain(&Pieces::join(long.as_bytes(), &[part], false, long.as_bytes())), format!("{long}{noise}{long}"));
    }
}
