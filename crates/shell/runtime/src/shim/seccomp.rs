//! The runtime's default seccomp profile: system calls that reach past a container's namespaces are refused, other
//! architectures' calls too, calls newer than the list's end answer ENOSYS.
//!
//! A capability that a container was given lifts the refusal of the calls that need it, as with other runtimes.

use std::io;

use crate::sys;

/// x86-64's audit architecture number.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Calls from here on belong to the x32 ABI.
const X32: u32 = 0x4000_0000;
const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL: u32 = 0x8000_0000;
/// `CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET`.
const CLONE_NEW: u32 = 0x7e02_0000;

// Capabilities, by the kernel's numbers.
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_MODULE: u64 = 1 << 16;
const SYS_RAWIO: u64 = 1 << 17;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_PACCT: u64 = 1 << 20;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_BOOT: u64 = 1 << 22;
const SYS_NICE: u64 = 1 << 23;
const SYS_TIME: u64 = 1 << 25;
const SYS_TTY_CONFIG: u64 = 1 << 26;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// Refused with EPERM, unless one of the capabilities beside it was given.
const DENIED: &[(libc::c_long, u64)] = &[
    (libc::SYS_acct, SYS_PACCT),
    (libc::SYS_add_key, 0),
    (libc::SYS_bpf, SYS_ADMIN | BPF),
    (libc::SYS_clock_adjtime, SYS_TIME),
    (libc::SYS_clock_settime, SYS_TIME),
    (libc::SYS_delete_module, SYS_MODULE),
    (libc::SYS_finit_module, SYS_MODULE),
    (libc::SYS_fsconfig, SYS_ADMIN),
    (libc::SYS_fsmount, SYS_ADMIN),
    (libc::SYS_fsopen, SYS_ADMIN),
    (libc::SYS_fspick, SYS_ADMIN),
    (libc::SYS_init_module, SYS_MODULE),
    (libc::SYS_io_uring_enter, 0),
    (libc::SYS_io_uring_register, 0),
    (libc::SYS_io_uring_setup, 0),
    (libc::SYS_ioperm, SYS_RAWIO),
    (libc::SYS_iopl, SYS_RAWIO),
    (libc::SYS_kcmp, SYS_PTRACE),
    (libc::SYS_kexec_file_load, 0),
    (libc::SYS_kexec_load, 0),
    (libc::SYS_keyctl, 0),
    (libc::SYS_lookup_dcookie, SYS_ADMIN),
    (libc::SYS_mount, SYS_ADMIN),
    (libc::SYS_mount_setattr, SYS_ADMIN),
    (libc::SYS_move_mount, SYS_ADMIN),
    (libc::SYS_move_pages, SYS_NICE),
    (libc::SYS_name_to_handle_at, DAC_READ_SEARCH),
    (libc::SYS_nfsservctl, 0),
    (libc::SYS_open_by_handle_at, DAC_READ_SEARCH),
    (libc::SYS_open_tree, SYS_ADMIN),
    (libc::SYS_perf_event_open, SYS_ADMIN | PERFMON),
    (libc::SYS_pivot_root, 0),
    (libc::SYS_quotactl, SYS_ADMIN),
    (libc::SYS_reboot, SYS_BOOT),
    (libc::SYS_request_key, 0),
    (libc::SYS_setns, SYS_ADMIN),
    (libc::SYS_settimeofday, SYS_TIME),
    (libc::SYS_swapoff, 0),
    (libc::SYS_swapon, 0),
    (libc::SYS__sysctl, 0),
    (libc::SYS_sysfs, 0),
    (libc::SYS_umount2, SYS_ADMIN),
    (libc::SYS_unshare, SYS_ADMIN),
    (libc::SYS_uselib, 0),
    (libc::SYS_userfaultfd, 0),
    (libc::SYS_ustat, 0),
    (libc::SYS_vhangup, SYS_TTY_CONFIG),
];

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_JMP | code | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

/// The filter for a process that has the capabilities of a mask.
fn program(granted: u64) -> Vec<libc::sock_filter> {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let errno = |number: i32| statement(give, RETURN_ERRNO | number as u32);
    let mut filter = vec![
        // seccomp_data: nr at 0, arch at 4, the low half of the first argument at 16.
        statement(load, 4),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        statement(give, RETURN_KILL),
        statement(load, 0),
        jump(libc::BPF_JGE, X32, 0, 1),
        errno(libc::ENOSYS),
        // clone3 hides its flags in memory: callers fall back to clone.
        jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
        errno(libc::ENOSYS),
    ];
    for (call, _) in DENIED.iter().filter(|(_, lifts)| lifts & granted == 0) {
        filter.push(jump(libc::BPF_JEQ, *call as u32, 0, 1));
        filter.push(errno(libc::EPERM));
    }
    if granted & SYS_ADMIN != 0 {
        filter.push(statement(give, RETURN_ALLOW));
        return filter;
    }
    filter.extend([
        jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 3),
        statement(load, 16),
        jump(libc::BPF_JSET, CLONE_NEW, 0, 1),
        errno(libc::EPERM),
        statement(give, RETURN_ALLOW),
    ]);
    filter
}

/// Installs the filter for this process and what it executes; `borrowed` capabilities lift nothing.
pub(super) fn install(borrowed: u64) -> io::Result<()> {
    sys::install_seccomp(&program(sys::permitted_capabilities()? & !borrowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the filter for one call.
    fn verdict(granted: u64, arch: u32, call: i64, argument: u32) -> u32 {
        let filter = program(granted);
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let op = filter[at];
            let code = u32::from(op.code);
            at += 1;
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                accumulator = match op.k {
                    0 => call as u32,
                    4 => arch,
                    _ => argument,
                };
            } else if code == libc::BPF_RET | libc::BPF_K {
                return op.k;
            } else {
                let hit = match code & 0xf0 {
                    libc::BPF_JEQ => accumulator == op.k,
                    libc::BPF_JGE => accumulator >= op.k,
                    _ => accumulator & op.k != 0,
                };
                at += usize::from(if hit { op.jt } else { op.jf });
            }
        }
    }

    #[test]
    fn calls_are_judged() {
        let denied = RETURN_ERRNO | libc::EPERM as u32;
        let cases = [
            (libc::SYS_read, 0, RETURN_ALLOW),
            (libc::SYS_execve, 0, RETURN_ALLOW),
            (libc::SYS_mount, 0, denied),
            (libc::SYS_unshare, 0, denied),
            (libc::SYS_clone, libc::SIGCHLD as u32, RETURN_ALLOW),
            (libc::SYS_clone, libc::CLONE_NEWUSER as u32, denied),
            (libc::SYS_clone3, 0, RETURN_ERRNO | libc::ENOSYS as u32),
            (i64::from(X32) + 1, 0, RETURN_ERRNO | libc::ENOSYS as u32),
        ];
        for (call, argument, expected) in cases {
            assert_eq!(verdict(0, ARCHITECTURE, call, argument), expected, "call {call}");
        }
        assert_eq!(verdict(0, 3, libc::SYS_read, 0), RETURN_KILL);
        for (granted, call, argument, expected) in [
            (SYS_ADMIN, libc::SYS_mount, 0, RETURN_ALLOW),
            (SYS_ADMIN, libc::SYS_clone, libc::CLONE_NEWUSER as u32, RETURN_ALLOW),
            (SYS_ADMIN, libc::SYS_reboot, 0, denied),
            (SYS_BOOT, libc::SYS_reboot, 0, RETURN_ALLOW),
            (u64::MAX, libc::SYS_keyctl, 0, denied),
        ] {
            assert_eq!(verdict(granted, ARCHITECTURE, call, argument), expected, "call {call}");
        }
    }
}
