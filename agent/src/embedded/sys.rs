//! System calls that no safe crate offers. The only file of this crate with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use seccompiler::sock_filter;
use tokio::io::unix::AsyncFd;

use super::devices::Instruction;

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

/// Lets go of pages of the program that starting up needed and waiting does not: a large program that uses little of itself from then on.
/// They come back from the page cache when touched.
pub fn forget_program_pages() {
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

const PROGRAM_LOAD: libc::c_long = 5;
const PROGRAM_ATTACH: libc::c_long = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_ATTACH: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is not given as zero.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads a program that decides about devices of a cgroup.
///
/// # Errors
/// `EPERM` without CAP_BPF or CAP_SYS_ADMIN, `EINVAL` when the kernel has none of these.
pub(super) fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = LoadAttributes {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the union's beginning and its size is passed; instructions and license live until the call
    // returns, and the kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROGRAM_LOAD, &raw const attributes, size_of::<LoadAttributes>()) };
    match i32::try_from(fd) {
        // SAFETY: the call succeeded, so this is a new file descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Attaches a loaded program to a cgroup, which keeps it.
///
/// # Errors
/// What the kernel refused.
pub(super) fn attach_device_program(cgroup: &impl AsRawFd, program: &OwnedFd) -> io::Result<()> {
    let attributes = AttachAttributes {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE_ATTACH,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above; both file descriptors are open until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROGRAM_ATTACH, &raw const attributes, size_of::<AttachAttributes>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
