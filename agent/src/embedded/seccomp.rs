//! The `RuntimeDefault` system-call filter: what containerd and Docker allow, by capability, everything else answers EPERM.
//!
//! Facts from the moby default profile; 32-bit programs on a 64-bit kernel are not covered and are ended by the filter.

use std::collections::BTreeMap;
use std::collections::HashSet;

use caps::Capability;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as ArgLen, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompFilter, SeccompRule,
    TargetArch,
};

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Allowed to everybody, on all architectures.
const COMMON: &[i64] = calls![
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_adjtime SYS_clock_getres
    SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1
    SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat
    SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat
    SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync
    SYS_ftruncate SYS_futex SYS_futex_waitv SYS_getcpu SYS_getcwd SYS_getdents64
    SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority
    SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_get_robust_list SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt
    SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel
    SYS_ioctl SYS_io_destroy SYS_io_getevents SYS_ioprio_get SYS_ioprio_set SYS_io_setup SYS_io_submit SYS_kill
    SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr
    SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier SYS_memfd_create
    SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect SYS_mq_getsetattr
    SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd
    SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep SYS_openat SYS_openat2 SYS_pidfd_open
    SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_prlimit64 SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_pselect6 SYS_ptrace SYS_pwrite64 SYS_pwritev
    SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages
    SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask
    SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_getaffinity
    SYS_sched_getattr SYS_sched_getparam SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getscheduler
    SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield
    SYS_seccomp SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setfsgid
    SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid
    SYS_setreuid SYS_setrlimit SYS_set_robust_list SYS_setsid SYS_setsockopt SYS_set_tid_address SYS_setuid SYS_setxattr SYS_shmat
    SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice SYS_statfs SYS_statx
    SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete
    SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times
    SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
    SYS_newfstatat
];

/// Allowed likewise, not named by libc yet; the numbers are the same on all architectures: cachestat, map_shadow_stack, futex_wake,
/// futex_wait, futex_requeue.
const UNNAMED: &[i64] = &[451, 453, 454, 455, 456];

/// Old forms that only this architecture has.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = calls![
    SYS_access SYS_alarm SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old
    SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod
    SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_signalfd SYS_stat SYS_symlink SYS_time
    SYS_unlink SYS_utime SYS_utimes SYS_vfork SYS_arch_prctl SYS_modify_ldt
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// Allowed with a capability.
const PRIVILEGED: &[(Capability, &[i64])] = &[
    (
        Capability::CAP_SYS_ADMIN,
        calls![
            SYS_bpf SYS_clone SYS_clone3 SYS_fanotify_init SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_mount SYS_mount_setattr
            SYS_move_mount SYS_open_tree SYS_perf_event_open SYS_quotactl SYS_quotactl_fd SYS_setdomainname SYS_sethostname SYS_setns
            SYS_syslog SYS_umount2 SYS_unshare
        ],
    ),
    (Capability::CAP_DAC_READ_SEARCH, calls![SYS_open_by_handle_at]),
    (Capability::CAP_SYS_BOOT, calls![SYS_reboot]),
    (Capability::CAP_SYS_CHROOT, calls![SYS_chroot]),
    (Capability::CAP_SYS_MODULE, calls![SYS_delete_module SYS_init_module SYS_finit_module]),
    (Capability::CAP_SYS_PACCT, calls![SYS_acct]),
    (Capability::CAP_SYS_PTRACE, calls![SYS_kcmp SYS_pidfd_getfd SYS_process_madvise]),
    #[cfg(target_arch = "x86_64")]
    (Capability::CAP_SYS_RAWIO, calls![SYS_iopl SYS_ioperm]),
    (Capability::CAP_SYS_TIME, calls![SYS_settimeofday SYS_clock_settime]),
    (Capability::CAP_SYS_TTY_CONFIG, calls![SYS_vhangup]),
    (Capability::CAP_SYS_NICE, calls![SYS_get_mempolicy SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node]),
    (Capability::CAP_SYSLOG, calls![SYS_syslog]),
    (Capability::CAP_BPF, calls![SYS_bpf]),
    (Capability::CAP_PERFMON, calls![SYS_perf_event_open]),
];

/// Flags of `clone` that make namespaces.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Values of `personality` that change nothing dangerous.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

/// The filters for a process with these capabilities, to be loaded in order.
///
/// # Errors
/// Words of the compiler; only on an architecture it does not know.
pub(super) fn runtime_default(capabilities: &HashSet<Capability>) -> Result<Vec<BpfProgram>, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| format!("seccomp: {e}"))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = COMMON.iter().chain(UNNAMED).chain(OLD).map(|call| (*call, Vec::new())).collect();
    for (_, calls) in PRIVILEGED.iter().filter(|(capability, _)| capabilities.contains(capability)) {
        rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    }
    let on = |arg: u8, length: ArgLen, op: Op, value: u64| -> Result<SeccompRule, String> {
        let condition = Condition::new(arg, length, op, value).map_err(|e| format!("seccomp: {e}"))?;
        SeccompRule::new(vec![condition]).map_err(|e| format!("seccomp: {e}"))
    };
    let personalities: Result<Vec<_>, _> = PERSONALITIES.iter().map(|p| on(0, ArgLen::Dword, Op::Eq, *p)).collect();
    rules.insert(libc::SYS_personality, personalities?);
    rules.insert(libc::SYS_socket, vec![on(0, ArgLen::Dword, Op::Ne, AF_VSOCK)?]);
    let compile = |rules, mismatch, matched| -> Result<BpfProgram, String> {
        let filter = SeccompFilter::new(rules, mismatch, matched, arch).map_err(|e| format!("seccomp: {e}"))?;
        filter.try_into().map_err(|e| format!("seccomp: {e}"))
    };
    let mut programs = Vec::new();
    if !capabilities.contains(&Capability::CAP_SYS_ADMIN) {
        rules.insert(libc::SYS_clone, vec![on(0, ArgLen::Qword, Op::MaskedEq(NAMESPACE_FLAGS), 0)?]);
        // Its flags are behind a pointer: "not implemented" makes C libraries use `clone`.
        rules.insert(libc::SYS_clone3, Vec::new());
        let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        programs.push(compile([(libc::SYS_clone3, Vec::new())].into(), SeccompAction::Allow, enosys)?);
    }
    programs.push(compile(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)?);
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_fits_the_kernel() {
        let plain = runtime_default(&HashSet::new()).unwrap();
        assert_eq!(plain.len(), 2, "one for clone3, one for the rest");
        let admin = runtime_default(&[Capability::CAP_SYS_ADMIN].into()).unwrap();
        assert_eq!(admin.len(), 1);
        assert!(plain.iter().chain(&admin).all(|program| program.len() < 4096));
    }
}
