//! Snapshots: everything a store holds at one revision, in one file that any store can be made of again.
//!
//! Map: `own` (the format of this program), `bolt` (the pages of etcd's database), `etcd` (what etcd writes into them). A file is read
//! only after its checksum was found right, in whole, so that nothing is ever restored from half a file.

mod bolt;
mod etcd;
mod own;

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

pub use self::own::Writer;
use crate::{Entry, Revision, StoreError};

/// Bytes of the checksum at the end of a file.
const SUM: u64 = 32;
/// The largest value taken from a file; a store takes no larger ones.
const VALUE_LIMIT: usize = 64 << 20;

/// An object as a snapshot holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key, value and revisions.
    pub entry: Entry,
    /// Writes since it was created, that one included.
    pub version: u32,
    /// When it is to be deleted, in milliseconds of Unix time.
    pub expires: Option<i64>,
}

/// What a snapshot holds beside objects: files of the cluster, such as its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Relative to the data directory.
    pub name: String,
    /// All of it.
    pub content: Vec<u8>,
}

/// One thing in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file.
    File(Attachment),
    /// An object.
    Object(Record),
}

/// Who wrote a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This program.
    Own {
        /// The version of its format.
        format: u32,
    },
    /// etcd: `etcdctl snapshot save`, or the file `member/snap/db`.
    Etcd {
        /// Whether the file ends with its checksum; that of a member has none.
        sum: bool,
    },
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who wrote it.
    pub origin: Origin,
    /// The revision at which it is true.
    pub revision: Revision,
    /// When it was made, in milliseconds of Unix time, if it says.
    pub made: Option<i64>,
    /// The identity of the store it was made of, if it says.
    pub store: Option<String>,
    /// The SHA-256 of the file (without its own place in it), in hexadecimal; empty where there is none.
    pub sum: String,
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is none.
    #[error("{0} is no snapshot: neither one of this program nor one of etcd")]
    Unknown(PathBuf),
    /// It does not read back as it was written.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// A later version of this program wrote it.
    #[error("{path} has format {found}, this version knows up to {known}: it takes the version that wrote it, or a later one, to read it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The latest this version reads.
        known: u32,
    },
    /// What was to be stored could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever took what was read refused.
    #[error("{0}")]
    Refused(String),
}

/// A snapshot whose checksum is right.
pub struct Snapshot {
    path: PathBuf,
    head: Head,
    body: Body,
}

enum Body {
    Own {
        /// Where the body begins and ends.
        from: u64,
        to: u64,
    },
    Etcd(etcd::Database),
}

impl Snapshot {
    /// Opens a file and checks it whole.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut start = [0; 4096];
        let count = read_up_to(&mut file, &mut start).map_err(io)?;
        let start = &start[..count];
        let damaged = |why: String| SnapshotError::Damaged { path: path.to_owned(), why };
        if own::is_own(start) {
            let (mut head, from) = own::head(path, start)?;
            head.sum = checked(&mut file, length).map_err(io)?.map_err(damaged)?;
            return Ok(Self { path: path.to_owned(), head, body: Body::Own { from, to: length - SUM } });
        }
        if !bolt::is_bolt(start) {
            return Err(SnapshotError::Unknown(path.to_owned()));
        }
        // `etcdctl snapshot save` appends 32 bytes to pages whose size is a multiple of 512; so does etcdutl tell whether they are there.
        let with_sum = length % 512 == SUM;
        let sum = if with_sum { checked(&mut file, length).map_err(io)?.map_err(damaged)? } else { String::new() };
        let pages = if with_sum { length - SUM } else { length };
        let database = etcd::Database::open(file, pages).map_err(|err| err.naming(path))?;
        let head = Head { origin: Origin::Etcd { sum: with_sum }, revision: database.revision(), made: None, store: None, sum };
        Ok(Self { path: path.to_owned(), head, body: Body::Etcd(database) })
    }

    /// What it says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Everything in it: files first, then objects in the order of their last writes. `now`: milliseconds of Unix time, for times to live
    /// that a snapshot tells from its own moment on.
    pub fn each<E: From<SnapshotError>>(&self, now: i64, mut see: impl FnMut(Item) -> Result<(), E>) -> Result<(), E> {
        match &self.body {
            Body::Own { from, to } => {
                let io = |source| SnapshotError::Io { path: self.path.clone(), source };
                let mut file = File::open(&self.path).map_err(io)?;
                file.seek(io::SeekFrom::Start(*from)).map_err(io)?;
                own::each(&self.path, BufReader::new(file.take(to - from)), see)
            }
            Body::Etcd(database) => {
                database.each(now, |record| see(Item::Object(record)), |err: bolt::Fault| err.naming(&self.path).into())
            }
        }
    }
}

/// The SHA-256 of all but the last 32 bytes, which must be it.
fn checked(file: &mut File, length: u64) -> io::Result<Result<String, String>> {
    file.rewind()?;
    let Some(body) = length.checked_sub(SUM) else { return Ok(Err("it is too short to hold a checksum".to_owned())) };
    let (mut hash, mut left, mut piece) = (Sha256::new(), body, vec![0; 1 << 16]);
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        file.read_exact(&mut piece[..step])?;
        hash.update(&piece[..step]);
        left -= step as u64;
    }
    let mut written = [0; SUM as usize];
    file.read_exact(&mut written)?;
    let found: [u8; SUM as usize] = hash.finalize().into();
    if found == written {
        return Ok(Ok(hex(&found)));
    }
    Ok(Err(format!("its checksum is {}, its bytes give {}; it was cut off or changed", hex(&written), hex(&found))))
}

fn read_up_to(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < into.len() {
        match file.read(&mut into[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
