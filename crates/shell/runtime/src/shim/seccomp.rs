//! The runtime's default seccomp profile: system calls that reach past a container's namespaces are refused, other
//! architectures' calls too, calls newer than the list's end answer ENOSYS.
//!
//! It is installed as the last step before `execve`, after capabilities were dropped, so the kernel accepts it only with
//! `no_new_privs` (what the Restricted pod security standard asks for) or CAP_SYS_ADMIN. Without either it is not installed.

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

/// Refused with EPERM.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS__sysctl,
    libc::SYS_sysfs,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_uselib,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
    libc::SYS_vhangup,
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

/// The filter.
fn program() -> Vec<libc::sock_filter> {
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
    for call in DENIED {
        filter.push(jump(libc::BPF_JEQ, *call as u32, 0, 1));
        filter.push(errno(libc::EPERM));
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

/// Installs the filter for this process and what it executes.
pub(super) fn install() -> io::Result<()> {
    match sys::install_seccomp(&program()) {
        // Neither no_new_privs nor CAP_SYS_ADMIN: see above.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the filter for one call.
    fn verdict(arch: u32, call: i64, argument: u32) -> u32 {
        let filter = program();
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
            assert_eq!(verdict(ARCHITECTURE, call, argument), expected, "call {call}");
        }
        assert_eq!(verdict(3, libc::SYS_read, 0), RETURN_KILL);
    }
}
