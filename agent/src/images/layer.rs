//! Unpacks one layer into overlayfs form. The archive is untrusted: every name is resolved inside the target as if that were the root
//! (`openat2` with `RESOLVE_IN_ROOT`), so that neither `..` nor a symlink planted earlier leads outside.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use tar::{Archive, Entry, EntryType};

use super::disk::Hashing;

/// Marks a directory whose lower content is hidden (overlayfs).
const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// Unpacks a layer (tar, plain or compressed with gzip or zstd) into the empty directory and answers the diff id: the digest of the
/// uncompressed archive.
pub(super) fn unpack(source: impl Read, target: &Path) -> io::Result<String> {
    let mut hashing = Hashing::new(decompressed(source)?);
    let root = sys::open(target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut unpacker = Unpacker { root, parent: None, directories: Vec::new() };
    {
        let mut archive = Archive::new(&mut hashing);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
            unpacker.add(&mut entry, &name).map_err(|e| io::Error::new(e.kind(), format!("layer entry {:?}: {e}", name.display())))?;
        }
    }
    unpacker.finish()?;
    hashing.finish()
}

/// The plain bytes of something that may be compressed; decided by its first bytes, not by what anybody says about it.
pub(super) fn decompressed<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    let start = source.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(ZstdFrames { source: Some(source), frame: None }),
        [b, 0x2a, 0x4d, 0x18, ..] if b & 0xf0 == 0x50 => Box::new(ZstdFrames { source: Some(source), frame: None }),
        _ => Box::new(source),
    })
}

type ZstdFrame<R> = ruzstd::decoding::StreamingDecoder<BufReader<R>, ruzstd::decoding::FrameDecoder>;

/// A zstd stream of several frames (zstd:chunked has many, some of them skippable).
struct ZstdFrames<R: Read> {
    source: Option<BufReader<R>>,
    frame: Option<ZstdFrame<R>>,
}

impl<R: Read> ZstdFrames<R> {
    /// Opens the next frame; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Some(mut source) = self.source.take() else { return Ok(false) };
        loop {
            match source.fill_buf()? {
                [] => return Ok(false),
                [b, 0x2a, 0x4d, 0x18, ..] if b & 0xf0 == 0x50 => {
                    let mut head = [0; 8];
                    source.read_exact(&mut head)?;
                    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
                    io::copy(&mut source.by_ref().take(length.into()), &mut io::sink())?;
                }
                _ => break,
            }
        }
        self.frame = Some(ZstdFrame::new(source).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {e}")))?);
        Ok(true)
    }
}

impl<R: Read> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let n = frame.read(buffer)?;
                if n > 0 || buffer.is_empty() {
                    return Ok(n);
                }
                self.source = self.frame.take().map(ruzstd::decoding::StreamingDecoder::into_inner);
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

struct Unpacker {
    root: OwnedFd,
    /// The directory of the entry before, which is nearly always that of the next.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories whose times are set at the end, because unpacking into them changes those.
    directories: Vec<(PathBuf, Timestamps)>,
}

impl Unpacker {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>, name: &Path) -> io::Result<()> {
        let path = clean(name)?;
        let Some(base) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(entry);
        };
        let dir = path.parent().unwrap_or(Path::new(""));
        if base.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(dir, base.as_bytes());
        }
        let kind = entry.header().entry_type();
        if kind.is_hard_link() {
            return self.hard_link(entry, dir, &base);
        }
        let parent = self.directory(dir)?;
        clear(parent, &base, kind.is_dir())?;
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => return self.file(entry, dir, &base, mode),
            EntryType::Directory => match sys::mkdirat(parent, &base, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            },
            EntryType::Symlink => {
                let to = entry.link_name_bytes().ok_or_else(|| invalid("symlink without a target"))?;
                sys::symlinkat(OsStr::from_bytes(&to), parent, &base)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (file_type, device) = device(entry.header())?;
                sys::mknodat(parent, &base, file_type, mode, device)?;
            }
            // Global PAX headers and types nobody defines: nothing to unpack.
            _ => return Ok(()),
        }
        let (uid, gid) = owner(entry.header())?;
        sys::chownat(parent, &base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != EntryType::Symlink {
            sys::chmodat(parent, &base, mode, AtFlags::empty())?;
        }
        let times = times(entry)?;
        if kind.is_dir() {
            let fd = sys::openat(parent, &base, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            set_xattrs(entry, &fd)?;
            self.directories.push((path, times));
        } else {
            sys::utimensat(parent, &base, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// The entry `./`: owner and mode of the root itself.
    fn root_entry(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        if entry.header().entry_type().is_dir() {
            let (uid, gid) = owner(entry.header())?;
            sys::fchown(&self.root, Some(uid), Some(gid))?;
            sys::fchmod(&self.root, Mode::from_raw_mode(entry.header().mode()? & 0o7777))?;
        }
        Ok(())
    }

    fn file(&mut self, entry: &mut Entry<'_, impl Read>, dir: &Path, base: &OsStr, mode: Mode) -> io::Result<()> {
        let (uid, gid) = owner(entry.header())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(sys::openat(self.directory(dir)?, base, flags, Mode::RUSR | Mode::WUSR)?);
        io::copy(entry, &mut file)?;
        // Owner first: changing it drops set-user-id bits and file capabilities.
        sys::fchown(&file, Some(uid), Some(gid))?;
        sys::fchmod(&file, mode)?;
        set_xattrs(entry, &file)?;
        sys::futimens(&file, &times(entry)?)?;
        Ok(())
    }

    fn hard_link(&mut self, entry: &mut Entry<'_, impl Read>, dir: &Path, base: &OsStr) -> io::Result<()> {
        let to = entry.link_name_bytes().ok_or_else(|| invalid("hard link without a target"))?;
        let to = clean(Path::new(OsStr::from_bytes(&to)))?;
        let to_base = to.file_name().ok_or_else(|| invalid("hard link to the root"))?.to_owned();
        let to_parent = open_in(&self.root, to.parent().unwrap_or(Path::new("")))?;
        let parent = self.directory(dir)?;
        clear(parent, base, false)?;
        Ok(sys::linkat(&to_parent, &to_base, parent, base, AtFlags::empty())?)
    }

    /// `.wh.name` hides a name of the layers below; `.wh..wh..opq` hides all of its directory.
    fn whiteout(&mut self, dir: &Path, base: &[u8]) -> io::Result<()> {
        let parent = self.directory(dir)?;
        if base == OPAQUE_WHITEOUT {
            let fd = sys::openat(parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            return Ok(sys::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())?);
        }
        let hidden = &base[WHITEOUT.len()..];
        // `.wh..wh.` names are aufs bookkeeping: nothing to hide.
        if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(hidden).to_owned();
        clear(parent, &hidden, false)?;
        Ok(sys::mknodat(parent, &hidden, FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    /// The directory of that name inside the root, made (0755, root) when no entry announced it.
    fn directory(&mut self, dir: &Path) -> io::Result<&OwnedFd> {
        let known = matches!(&self.parent, Some((path, _)) if path == dir);
        if !known {
            let fd = match open_in(&self.root, dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.make(dir)?,
                other => other?,
            };
            self.parent = Some((dir.to_owned(), fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd),
            None => Err(invalid("no parent directory")),
        }
    }

    fn make(&self, dir: &Path) -> io::Result<OwnedFd> {
        let mut at = open_in(&self.root, Path::new(""))?;
        let mut path = PathBuf::new();
        for component in dir.components() {
            match sys::mkdirat(&at, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            path.push(component);
            at = open_in(&self.root, &path)?;
        }
        Ok(at)
    }

    fn finish(self) -> io::Result<()> {
        for (path, times) in self.directories.iter().rev() {
            match open_in(&self.root, path) {
                Ok(fd) => sys::futimens(&fd, times)?,
                // Replaced by a later entry.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Makes room for a name: an entry replaces what an earlier entry put there, except a directory by a directory.
fn clear(parent: &OwnedFd, base: &OsStr, directory: bool) -> io::Result<()> {
    let stat = match sys::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if directory => Ok(()),
        FileType::Directory => {
            let here = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(parent)));
            std::fs::remove_dir_all(here.join(base))
        }
        _ => Ok(sys::unlinkat(parent, base, AtFlags::empty())?),
    }
}

/// Opens a directory with the target as the root of all resolution.
fn open_in(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(sys::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?)
}

/// The name without `/`, `.` and empty parts; `..` is refused.
fn clean(name: &Path) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("the path leads outside of the layer")),
        }
    }
    Ok(path)
}

fn owner(header: &tar::Header) -> io::Result<(Uid, Gid)> {
    let id = |n: u64| u32::try_from(n).map_err(|_| invalid("owner id does not fit 32 bits"));
    Ok((Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?)))
}

fn device(header: &tar::Header) -> io::Result<(FileType, sys::Dev)> {
    let number = || -> io::Result<sys::Dev> {
        Ok(sys::makedev(header.device_major()?.unwrap_or_default(), header.device_minor()?.unwrap_or_default()))
    };
    match header.entry_type() {
        EntryType::Char => {
            let device = number()?;
            // A 0/0 device in a layer would be a whiteout that nobody wrote as one.
            if device == 0 { Err(invalid("character device 0/0 is reserved")) } else { Ok((FileType::CharacterDevice, device)) }
        }
        EntryType::Block => Ok((FileType::BlockDevice, number()?)),
        _ => Ok((FileType::Fifo, 0)),
    }
}

fn times(entry: &Entry<'_, impl Read>) -> io::Result<Timestamps> {
    let seconds = i64::try_from(entry.header().mtime()?).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(Timestamps { last_access: time, last_modification: time })
}

/// File capabilities and `user.*`. Never `trusted.*`: that would let an image speak to overlayfs.
fn set_xattrs(entry: &mut Entry<'_, impl Read>, file: impl std::os::fd::AsFd) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else { continue };
        if name == "security.capability" {
            sys::fsetxattr(&file, name, extension.value_bytes(), XattrFlags::empty())?;
        } else if name.starts_with("user.") {
            // Not every file system has them, and no program depends on them.
            let _ = sys::fsetxattr(&file, name, extension.value_bytes(), XattrFlags::empty());
        }
    }
    Ok(())
}

fn invalid(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    fn header(kind: EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header
    }

    /// Writes a name without the checks that `tar::Builder` has.
    fn raw(archive: &mut Vec<u8>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = header(kind, content.len() as u64);
        let bytes = header.as_old_mut();
        bytes.name[..name.len()].copy_from_slice(name.as_bytes());
        bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }

    fn root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn unpack_raw(entries: &[(EntryType, &str, &str, &[u8])]) -> (tempfile::TempDir, io::Result<String>) {
        let mut bytes = Vec::new();
        for (kind, name, link, content) in entries {
            raw(&mut bytes, *kind, name, link, content);
        }
        bytes.extend_from_slice(&[0; 1024]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("layer")).unwrap();
        let result = unpack(&bytes[..], &dir.path().join("layer"));
        (dir, result)
    }

    #[test]
    fn a_name_with_dot_dot_is_refused() {
        let (dir, result) = unpack_raw(&[(EntryType::Regular, "../evil", "", b"x")]);
        assert!(result.unwrap_err().to_string().contains("leads outside"));
        assert!(!dir.path().join("evil").exists());
    }

    #[test]
    fn a_symlink_that_points_out_is_followed_inside_the_layer_only() {
        if !root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let (dir, result) = unpack_raw(&[
            (EntryType::Directory, "etc", "", b""),
            (EntryType::Symlink, "out", "/etc", b""),
            (EntryType::Regular, "out/file", "", b"inside"),
        ]);
        result.unwrap();
        assert_eq!(std::fs::read(dir.path().join("layer/etc/file")).unwrap(), b"inside");
    }

    #[test]
    fn whiteouts_become_devices_and_opaque_directories_carry_the_mark() {
        if !root() {
            return eprintln!("skipped: whiteouts are device nodes, which need root");
        }
        let (dir, result) = unpack_raw(&[(EntryType::Regular, "a/.wh.gone", "", b""), (EntryType::Regular, "b/.wh..wh..opq", "", b"")]);
        result.unwrap();
        let gone = std::fs::symlink_metadata(dir.path().join("layer/a/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let mut value = [0; 4];
        let n = sys::getxattr(dir.path().join("layer/b"), OPAQUE, &mut value[..]).unwrap();
        assert_eq!(&value[..n], b"y");
    }

    #[test]
    fn hard_links_share_the_file_and_later_entries_replace_earlier_ones() {
        if !root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let (dir, result) = unpack_raw(&[
            (EntryType::Regular, "one", "", b"1"),
            (EntryType::Link, "two", "one", b""),
            (EntryType::Directory, "d", "", b""),
            (EntryType::Regular, "d/f", "", b"f"),
            (EntryType::Regular, "d", "", b"file now"),
        ]);
        result.unwrap();
        let layer = dir.path().join("layer");
        assert_eq!(std::fs::metadata(layer.join("one")).unwrap().ino(), std::fs::metadata(layer.join("two")).unwrap().ino());
        assert_eq!(std::fs::read(layer.join("d")).unwrap(), b"file now");
        assert_eq!(std::fs::metadata(layer.join("one")).unwrap().mtime(), 1_000_000);
    }

    #[test]
    fn gzip_is_recognized_by_its_bytes_and_the_diff_id_is_of_the_plain_archive() {
        if !root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let mut plain = Vec::new();
        raw(&mut plain, EntryType::Regular, "f", "", b"hello");
        plain.extend_from_slice(&[0; 1024]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, &plain).unwrap();
        let gz = gz.finish().unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        for packed in [&plain, &gz, &zstd] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(unpack(&packed[..], dir.path()).unwrap(), super::super::disk::digest_of(&plain));
            assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"hello");
        }
    }
}
