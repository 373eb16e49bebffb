//! Reads the pages of bbolt, the database in which etcd keeps what it keeps (`go.etcd.io/bbolt`, `internal/common/page.go`, `meta.go`).
//!
//! The file is a row of pages. The first two are metas, written in turn, of which the one with the higher transaction and the right
//! checksum counts. It names the page of the root bucket: a B+ tree whose leaves hold buckets, each again the root of a tree, or, when it
//! is small, the page itself. Numbers stand in the byte order of the machine that wrote them: little endian on all that matter.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::SnapshotError;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes of a page's header, of a meta, of an element.
const HEADER: usize = 16;
const META: usize = 64;
const ELEMENT: usize = 16;
/// What a page is.
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
/// A leaf's element that is a bucket.
const BUCKET: u32 = 1;
/// Levels of a tree: pages have room for tens of elements, so a deeper one goes in circles.
const DEPTH: usize = 32;
/// Sizes of pages there are.
const PAGES: std::ops::RangeInclusive<u64> = 512..=(64 << 10);
/// The largest run of pages read as one.
const RUN: u64 = 1 << 30;

/// Takes an element of a leaf: its flags, key and value.
type See<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result<(), Fault> + 'a;

/// Why a database cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    /// It is not what bbolt writes.
    Damaged(String),
    /// Whoever took what was read refused; said elsewhere.
    Stopped,
}

impl From<io::Error> for Fault {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

impl Fault {
    pub(super) fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged(why.into())
    }

    pub(super) fn naming(self, path: &Path) -> SnapshotError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => SnapshotError::Io { path, source },
            Self::Damaged(why) => SnapshotError::Damaged { path, why },
            Self::Stopped => SnapshotError::Damaged { path, why: "reading it was stopped".to_owned() },
        }
    }
}

/// Whether a file that begins so has bbolt's pages.
pub(super) fn is_bolt(start: &[u8]) -> bool {
    u32_at(start, HEADER) == Some(MAGIC)
}

/// An open database.
pub(super) struct Bolt {
    file: File,
    page_size: u64,
    /// Pages in use, whole in the file.
    pages: u64,
    root: u64,
}

/// A bucket: where its tree begins, or its only page.
pub(super) enum Bucket {
    Tree(u64),
    Inline(Vec<u8>),
}

impl Bolt {
    /// Reads the metas of a file whose pages take `length` bytes.
    pub(super) fn open(file: File, length: u64) -> Result<Self, Fault> {
        let mut start = vec![0; HEADER + META];
        file.read_exact_at(&mut start, 0)?;
        let first = meta(&start);
        // The second one's place depends on the size of pages, which a damaged first one cannot tell.
        let sizes: Vec<u64> = match &first {
            Some(meta) => vec![meta.page_size],
            None => (9..=16).map(|bits| 1 << bits).collect(),
        };
        let second = sizes.into_iter().find_map(|size| {
            let mut start = vec![0; HEADER + META];
            file.read_exact_at(&mut start, size).ok()?;
            meta(&start).filter(|meta| meta.page_size == size)
        });
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let Some(Meta { page_size, root, pages, .. }) = newest else {
            return Err(Fault::damaged("neither of its two meta pages has the right checksum"));
        };
        if pages.checked_mul(page_size).is_none_or(|bytes| bytes > length) {
            return Err(Fault::damaged(format!(
                "it is cut off: {pages} pages of {page_size} bytes are in use, the file has {length} bytes"
            )));
        }
        Ok(Self { file, page_size, pages, root })
    }

    /// A bucket of the database, if it is there.
    pub(super) fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Fault> {
        let mut found = None;
        self.walk(&Bucket::Tree(self.root), &mut |flags, key, value| {
            if flags & BUCKET != 0 && key == name {
                let root = u64_at(value, 0).ok_or_else(|| Fault::damaged("a bucket has no root"))?;
                found = Some(if root == 0 { Bucket::Inline(value.get(16..).unwrap_or_default().to_vec()) } else { Bucket::Tree(root) });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// All pairs of a bucket, in the order of their keys.
    pub(super) fn each(&self, bucket: &Bucket, mut see: impl FnMut(&[u8], &[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        self.walk(bucket, &mut |flags, key, value| if flags & BUCKET == 0 { see(key, value) } else { Ok(()) })
    }

    fn walk(&self, bucket: &Bucket, see: &mut See<'_>) -> Result<(), Fault> {
        match bucket {
            Bucket::Tree(root) => self.descend(*root, DEPTH, &mut 0, see),
            Bucket::Inline(page) => leaf(page, see),
        }
    }

    fn descend(&self, id: u64, depth: usize, seen: &mut u64, see: &mut See<'_>) -> Result<(), Fault> {
        *seen += 1;
        if depth == 0 || *seen > self.pages {
            return Err(Fault::damaged("its tree goes in circles"));
        }
        let page = self.page(id)?;
        match u16_at(&page, 8) {
            Some(LEAF) => leaf(&page, see),
            Some(BRANCH) => {
                for at in 0..usize::from(u16_at(&page, 10).unwrap_or_default()) {
                    let child = u64_at(&page, HEADER + at * ELEMENT + 8).ok_or_else(|| out_of(id))?;
                    self.descend(child, depth - 1, seen, see)?;
                }
                Ok(())
            }
            _ => Err(Fault::damaged(format!("page {id} is neither branch nor leaf"))),
        }
    }

    /// A page with those that overflow from it.
    fn page(&self, id: u64) -> Result<Vec<u8>, Fault> {
        let start = id.checked_mul(self.page_size).filter(|_| id < self.pages).ok_or_else(|| out_of(id))?;
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, start)?;
        if u64_at(&header, 0) != Some(id) {
            return Err(Fault::damaged(format!("page {id} says that it is another")));
        }
        let more = u64::from(u32_at(&header, 12).unwrap_or_default());
        let length = (more + 1).saturating_mul(self.page_size);
        if id + more >= self.pages || length > RUN {
            return Err(out_of(id));
        }
        let mut page = vec![0; usize::try_from(length).map_err(|_| out_of(id))?];
        self.file.read_exact_at(&mut page, start)?;
        Ok(page)
    }
}

fn out_of(id: u64) -> Fault {
    Fault::damaged(format!("page {id} leads out of the file"))
}

fn leaf(page: &[u8], see: &mut See<'_>) -> Result<(), Fault> {
    let torn = || Fault::damaged("an element leads out of its page");
    if u16_at(page, 8) != Some(LEAF) {
        return Err(Fault::damaged("a bucket's page is no leaf"));
    }
    for at in 0..usize::from(u16_at(page, 10).unwrap_or_default()) {
        let element = HEADER + at * ELEMENT;
        let number = |offset| u32_at(page, element + offset).ok_or_else(torn);
        let (flags, from) = (number(0)?, element + number(4)? as usize);
        let middle = from + number(8)? as usize;
        let to = middle + number(12)? as usize;
        let (key, value) = (page.get(from..middle).ok_or_else(torn)?, page.get(middle..to).ok_or_else(torn)?);
        see(flags, key, value)?;
    }
    Ok(())
}

struct Meta {
    page_size: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

/// The meta of a page, if it is one and its checksum is right.
fn meta(page: &[u8]) -> Option<Meta> {
    let meta = page.get(HEADER..HEADER + META)?;
    let page_size = u64::from(u32_at(meta, 8)?);
    let sound = u32_at(meta, 0)? == MAGIC
        && u32_at(meta, 4)? == VERSION
        && PAGES.contains(&page_size)
        && page_size.is_power_of_two()
        && u64_at(meta, 56)? == fnv(&meta[..56]);
    sound.then_some(Meta { page_size, root: u64_at(meta, 16)?, pages: u64_at(meta, 40)?, transaction: u64_at(meta, 48)? })
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
