//! System calls that no safe crate offers. The only file of this crate with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use seccompiler::sock_filter;
use tokio::io::unix::AsyncFd;

/// Loads a system-call filter for this thread and its descendants, without setting `no_new_privs` (which would disarm set-user-id
/// programs, so that only the pod's own `allowPrivilegeEscalation: false` may ask for it).
///
/// # Errors
/// `EINVAL` for an invalid program; `EACCES` without CAP_SYS_ADMIN and without `no_new_privs`.
pub(super) fn load_filter(program: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // `seccompiler::sock_filter` is `repr(C)` with the fields of the kernel's structure, but not libc's type.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `program` points to `length` valid instructions that live until the call returns; the kernel copies and does not write them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal by number, real-time ones too.
///
/// # Errors
/// `ESRCH` when there is no such process, `EINVAL` when there is no such signal.
pub(super) fn kill(pid: rustix::process::Pid, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` takes two numbers and touches no memory; a `Pid` is never 0 or negative, so no group is meant.
    let result = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Registers a file descriptor with the async runtime.
///
/// # Errors
/// When the kernel cannot poll it.
pub(crate) fn poll_async(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` that is owned by the `AsyncFd` names the same open file until both are dropped.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}

/// Lets go of pages of the program that starting up needed and waiting does not: the shim is a large program that uses little of itself.
/// They come back from the page cache when touched.
pub(super) fn forget_program_pages() {
    let Ok(program) = std::env::current_exe() else { return };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = program.to_string_lossy();
    for line in maps.lines().filter(|line| line.ends_with(&*program)) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights), Some(offset)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // Code, and the read-only head of the file. Not the constants that were relocated: those pages are ours alone.
        let clean = rights == "r-xp" || (rights == "r--p" && offset.bytes().all(|b| b == b'0'));
        let ends = range.split_once('-').and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)));
        if let (true, Some((start, end))) = (clean, ends) {
            // SAFETY: the range is a whole mapping of our executable that was never writable, so every page of it equals the file's and
            // is read from there again when it is next touched, be it by the return from this call.
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
        }
    }
}
