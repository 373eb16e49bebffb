//! The format of this program.
//!
//! A head of text lines (`coracle snapshot`, then `name: value`, then an empty line), a body of records compressed with zlib, and the
//! SHA-256 of both. A record is one byte that says what it is, then numbers (little endian) and texts and bytes with their lengths:
//!
//! - `F` name content: a file; all of them before the first object;
//! - `O` key revision created version expires value: an object (`expires` 0: never);
//! - `E` files objects: the end, with the numbers of both.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use bytes::Bytes;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use sha2::{Digest, Sha256};

use super::{Attachment, Head, Item, Origin, Record, SnapshotError, VALUE_LIMIT, hex};
use crate::{Entry, Key, Revision};

const MAGIC: &str = "coracle snapshot\n";
/// The format this program writes.
const FORMAT: u32 = 1;
/// The longest name taken from a file.
const NAME_LIMIT: usize = 4096;

/// Writes a snapshot.
pub struct Writer<W: Write> {
    out: ZlibEncoder<Hashing<W>>,
    files: u64,
    objects: u64,
}

impl<W: Write> Writer<W> {
    /// Begins one that is true at `revision` of the store `store` and is made at `made` (milliseconds of Unix time).
    pub fn begin(out: W, revision: Revision, store: &str, made: i64) -> io::Result<Self> {
        let mut out = Hashing { out, hash: Sha256::new() };
        write!(out, "{MAGIC}format: {FORMAT}\nrevision: {revision}\nmade: {made}\nstore: {store}\n\n")?;
        Ok(Self { out: ZlibEncoder::new(out, Compression::fast()), files: 0, objects: 0 })
    }

    /// Adds a file.
    pub fn file(&mut self, file: &Attachment) -> io::Result<()> {
        self.files += 1;
        self.out.write_all(b"F")?;
        self.bytes(file.name.as_bytes())?;
        self.bytes(&file.content)
    }

    /// Adds an object.
    pub fn object(&mut self, record: &Record) -> io::Result<()> {
        self.objects += 1;
        self.out.write_all(b"O")?;
        self.bytes(record.entry.key.as_str().as_bytes())?;
        self.number(record.entry.revision.0)?;
        self.number(record.entry.created.0)?;
        self.number(record.version.into())?;
        self.number(record.expires.map_or(0, i64::cast_unsigned))?;
        self.bytes(&record.entry.value)
    }

    /// Ends it; answers its SHA-256 in hexadecimal, and what it was written to.
    pub fn finish(mut self) -> io::Result<(String, W)> {
        self.out.write_all(b"E")?;
        self.number(self.files)?;
        self.number(self.objects)?;
        let Hashing { mut out, hash } = self.out.finish()?;
        let sum: [u8; 32] = hash.finalize().into();
        out.write_all(&sum)?;
        out.flush()?;
        Ok((hex(&sum), out))
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.out.write_all(&number.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a value is larger than 4 GiB"))?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(bytes)
    }
}

/// Hashes what passes.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether a file that begins so is one of ours.
pub(super) fn is_own(start: &[u8]) -> bool {
    start.starts_with(MAGIC.as_bytes())
}

/// The head, and where the body begins.
pub(super) fn head(path: &Path, start: &[u8]) -> Result<(Head, u64), SnapshotError> {
    let damaged = |why: &str| SnapshotError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let end = start.windows(2).position(|two| two == b"\n\n").ok_or_else(|| damaged("its head has no end"))?;
    let text = std::str::from_utf8(&start[MAGIC.len()..=end]).map_err(|_| damaged("its head is no text"))?;
    let find = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let format: u32 = find("format").and_then(|format| format.parse().ok()).ok_or_else(|| damaged("its head names no format"))?;
    if format > FORMAT {
        return Err(SnapshotError::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    let revision = find("revision").and_then(|text| text.parse().ok()).ok_or_else(|| damaged("its head names no revision"))?;
    let head = Head {
        origin: Origin::Own { format },
        revision: Revision(revision),
        made: find("made").and_then(|made| made.parse().ok()),
        store: find("store").map(str::to_owned),
        sum: String::new(),
    };
    Ok((head, end as u64 + 2))
}

/// Everything in a body.
pub(super) fn each<E: From<SnapshotError>>(path: &Path, body: impl Read, mut see: impl FnMut(Item) -> Result<(), E>) -> Result<(), E> {
    let mut body = Reader(ZlibDecoder::new(body));
    let damaged = |why: io::Error| SnapshotError::Damaged { path: path.to_owned(), why: why.to_string() };
    let (mut files, mut objects) = (0, 0);
    loop {
        match body.item(files, objects).map_err(damaged)? {
            None => return Ok(()),
            Some(item) => {
                match item {
                    Item::File(_) => files += 1,
                    Item::Object(_) => objects += 1,
                }
                see(item)?;
            }
        }
    }
}

struct Reader<R>(R);

impl<R: Read> Reader<R> {
    /// The next thing; at the end, `None` if there were as many as there should.
    fn item(&mut self, files: u64, objects: u64) -> io::Result<Option<Item>> {
        let mut of = [0];
        self.0.read_exact(&mut of)?;
        match of[0] {
            // Whoever looks for files stops at the first object.
            b'F' if objects > 0 => Err(io::Error::other("a file stands behind an object")),
            b'F' => {
                let name = self.text()?;
                Ok(Some(Item::File(Attachment { name, content: self.bytes(VALUE_LIMIT)? })))
            }
            b'O' => {
                let key = Key::from(self.text()?);
                let (revision, created) = (Revision(self.number()?), Revision(self.number()?));
                let version = u32::try_from(self.number()?).unwrap_or(u32::MAX);
                let expires = Some(self.number()?.cast_signed()).filter(|at| *at != 0);
                let value = Bytes::from(self.bytes(VALUE_LIMIT)?);
                Ok(Some(Item::Object(Record { entry: Entry { key, value, revision, created }, version, expires })))
            }
            b'E' if (self.number()?, self.number()?) == (files, objects) => Ok(None),
            b'E' => Err(io::Error::other("it does not hold as much as it says")),
            _ => Err(io::Error::other("there is something in it that is neither a file nor an object")),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes(NAME_LIMIT)?).map_err(|_| io::Error::other("a name is no text"))
    }

    fn bytes(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > limit {
            return Err(io::Error::other(format!("something of {length} bytes, where at most {limit} are taken")));
        }
        // What a damaged length claims is not taken before it is there.
        let mut bytes = Vec::with_capacity(length.min(1 << 16));
        let count = (&mut self.0).take(length as u64).read_to_end(&mut bytes)?;
        if count < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::Snapshot, *};

    fn record(key: &str, value: &str, revision: u64) -> Record {
        let entry =
            Entry { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), revision: Revision(revision), created: Revision(1) };
        Record { entry, version: 3, expires: revision.is_multiple_of(2).then_some(1_800_000_000_000) }
    }

    fn write(items: &[Item]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), Revision(40), "an-id", 1_795_000_000_123).unwrap();
        for item in items {
            match item {
                Item::File(file) => writer.file(file).unwrap(),
                Item::Object(object) => writer.object(object).unwrap(),
            }
        }
        writer.finish().unwrap().1
    }

    fn items() -> Vec<Item> {
        let file = Attachment { name: "pki/ca.crt".into(), content: b"PEM".to_vec() };
        let objects = (1..=20).map(|n| Item::Object(record(&format!("/registry/pods/default/p{n}"), &"x".repeat(n), n as u64)));
        std::iter::once(Item::File(file)).chain(objects).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, write(&items())).unwrap();
        let snapshot = Snapshot::open(&path).unwrap();
        let Head { origin, revision, made, store, sum } = snapshot.head();
        assert_eq!((*origin, *revision, *made), (Origin::Own { format: 1 }, Revision(40), Some(1_795_000_000_123)));
        assert_eq!((store.as_deref(), sum.len()), (Some("an-id"), 64));
        let mut found = Vec::new();
        snapshot
            .each::<SnapshotError>(0, |item| {
                found.push(item);
                Ok(())
            })
            .unwrap();
        assert_eq!(found, items());
    }

    #[test]
    fn a_file_that_lost_or_changed_a_byte_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, whole) = (folder.path().join("s"), write(&items()));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert!(Snapshot::open(&path).is_err(), "byte {at} changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(Snapshot::open(&path).is_err(), "cut off at {at}");
        }
    }

    #[test]
    fn a_file_behind_an_object_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut items) = (folder.path().join("s"), items());
        items.rotate_left(1);
        fs::write(&path, write(&items)).unwrap();
        let refused = Snapshot::open(&path).and_then(|snapshot| snapshot.each::<SnapshotError>(0, |_| Ok(()))).unwrap_err().to_string();
        assert!(refused.contains("a file stands behind an object"), "{refused}");
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let text = String::from_utf8_lossy(&write(&[])).replace("format: 1", "format: 2");
        fs::write(&path, text).unwrap();
        let refused = Snapshot::open(&path).err().unwrap().to_string();
        assert!(refused.contains("has format 2, this version knows up to 1"), "{refused}");
        fs::write(&path, "something else").unwrap();
        assert!(Snapshot::open(&path).err().unwrap().to_string().contains("is no snapshot"));
    }
}
