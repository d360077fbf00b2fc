//! The few system calls that need `unsafe`: fork, immediate exit, window sizes, extended attributes and taking
//! ownership of received descriptors. Nothing here decides anything.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::Pid;

/// Most descriptors in one message.
const FDS_PER_MESSAGE_MAX: usize = 4;

/// Forks; `None` in the child.
pub(crate) fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: only the shim calls this, and the shim is single-threaded, so the child may go on as a normal process.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Ends the process at once, without destructors or exit handlers of the forked parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn cloexec_from(first: u32) -> nix::Result<()> {
    // SAFETY: close_range with CLOEXEC changes flags only and frees no descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Gives free heap pages back to the kernel.
pub(crate) fn trim_heap() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Sets the size of a terminal.
pub(crate) fn set_window_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open for the call and `size` outlives it.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Sets an extended attribute without following a last symlink.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> std::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    // SAFETY: both strings are NUL-terminated and the value's length is its own.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Sends bytes with descriptors; returns how many bytes went.
pub(crate) fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// Receives bytes and descriptors; 0 bytes is the end.
pub(crate) fn receive_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; FDS_PER_MESSAGE_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel just made these descriptors for us; nobody else owns them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Loads and attaches a device program to a cgroup v2 directory.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[u64]) -> std::io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        rest: [u64; 13],
    }
    #[repr(C)]
    #[derive(Default)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        rest: [u64; 13],
    }
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    let license = c"Apache-2.0";
    let load = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `load` points at a program and a licence that both outlive the call; the size is the struct's own.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<Load>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: fd.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: both descriptors are open for the call; the size is the struct's own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<Attach>()) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets what a signal does; only `SigIgn` and `SigDfl` are ever asked for.
pub(crate) fn set_signal_action(signal: nix::sys::signal::Signal, action: &nix::sys::signal::SigAction) -> nix::Result<()> {
    // SAFETY: no handler function is installed, so nothing can run in signal context.
    unsafe { nix::sys::signal::sigaction(signal, action) }.map(drop)
}

/// A descriptor known by number, for the rest of this process's life.
pub(crate) fn borrow_fd(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used only in forks (the init of a container, the holder of a pid namespace) for pipes that they never close.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The kernel's capability header and the two halves of the sets.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Low or high 32 bits of the three sets.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn capabilities_now(header: &mut CapabilityHeader) -> nix::Result<[CapabilityHalf; 2]> {
    let mut halves = [CapabilityHalf::default(); 2];
    // SAFETY: version 3 of the header is followed by exactly two halves, both owned for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, header, halves.as_mut_ptr()) })?;
    Ok(halves)
}

fn capability_header() -> CapabilityHeader {
    // _LINUX_CAPABILITY_VERSION_3
    CapabilityHeader {
        version: 0x2008_0522,
        pid: 0,
    }
}

/// The permitted capabilities of this thread.
pub(crate) fn permitted_capabilities() -> nix::Result<u64> {
    let [low, high] = capabilities_now(&mut capability_header())?;
    Ok(u64::from(high.permitted) << 32 | u64::from(low.permitted))
}

/// Makes every permitted capability effective.
pub(crate) fn raise_capabilities() -> nix::Result<()> {
    let mut header = capability_header();
    let mut halves = capabilities_now(&mut header)?;
    for half in &mut halves {
        half.effective = half.permitted;
    }
    // SAFETY: as in `capabilities_now`; the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) }).map(drop)
}

/// Gives up the capabilities of a mask for good, the bounding set included (which needs CAP_SETPCAP until the end).
pub(crate) fn drop_capabilities(mask: u64) -> nix::Result<()> {
    for capability in (0..u64::BITS).filter(|bit| mask & (1 << bit) != 0) {
        // SAFETY: prctl with PR_CAPBSET_DROP takes a number and no memory.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        match Errno::result(dropped) {
            // A number beyond the kernel's last capability.
            Err(Errno::EINVAL) => break,
            result => result.map(drop)?,
        }
    }
    let mut header = capability_header();
    let mut halves = capabilities_now(&mut header)?;
    for (half, gone) in halves.iter_mut().zip([mask as u32, (mask >> 32) as u32]) {
        half.effective &= !gone;
        half.permitted &= !gone;
        half.inheritable &= !gone;
    }
    // SAFETY: as in `capabilities_now`; the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) }).map(drop)
}

/// Installs a seccomp filter for this thread and its children.
pub(crate) fn install_seccomp(filter: &[libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points at `filter`, which outlives the call and is only read.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Closes every descriptor from `first` on; for a fork that never returns to code that owns any.
pub(crate) fn close_from(first: u32) {
    // SAFETY: the caller never again touches a descriptor (it only sleeps).
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Sends any signal, real-time ones too.
pub(crate) fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill has no memory preconditions.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Brings up the loopback interface of the current network namespace.
pub(crate) fn raise_loopback() -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an interface request of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the socket is open and the request outlives the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}

/// Registers a descriptor with tokio's reactor.
pub(crate) fn register(fd: OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(std::io::Error::from)
}

/// A detached copy of the mount that a path is on, from that path on, with all mounts below it where asked for.
pub(crate) fn clone_mount(path: &Path, recursive: bool) -> std::io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is NUL-terminated; the call makes a new descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr) -> std::io::Result<()> {
    let (empty, size) = (c"", size_of::<libc::mount_attr>());
    // SAFETY: the descriptor is a mount of our own; the attributes outlive the call and the size is the struct's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes,
            size,
        )
    };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A read-only view of a file that nobody can write through, not even root by `/proc/<pid>/exe` (CVE-2019-5736).
pub(crate) fn read_only_clone(path: &Path) -> std::io::Result<OwnedFd> {
    let mount = clone_mount(path, false)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set_mount_attributes(mount.as_fd(), &attributes)?;
    Ok(mount)
}

/// Lets a user namespace see the files of a detached mount as if their ids were its own (an idmapped mount).
pub(crate) fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> std::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    set_mount_attributes(mount, &attributes)
}

/// Gives a detached mount its place.
pub(crate) fn attach_mount(mount: BorrowedFd<'_>, target: &Path) -> std::io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    let (empty, flags) = (c"", libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: the descriptor is a mount of our own and both paths are NUL-terminated.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            flags,
        )
    };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Adds the runs of pages from `start` to `end` that are no copies of our own.
fn unwritten_pages(pagemap: &std::fs::File, start: usize, end: usize, ranges: &mut Vec<(usize, usize)>) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    const PAGE: usize = 4096;
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let mut entries = vec![0; (end - start) / PAGE * 8];
    pagemap.read_exact_at(&mut entries, (start / PAGE * 8) as u64)?;
    let (entries, _) = entries.as_chunks::<8>();
    for (index, entry) in entries.iter().enumerate() {
        let entry = u64::from_le_bytes(*entry);
        if entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT {
            continue;
        }
        let at = start + index * PAGE;
        match ranges.last_mut() {
            Some((first, length)) if *first + *length == at => *length += PAGE,
            _ => ranges.push((at, PAGE)),
        }
    }
    Ok(())
}

/// Address ranges of program text and constants: clean copies of files in mappings that nobody can write to, and that stay
/// for as long as the process lives.
#[derive(Debug)]
pub struct TextPages(Vec<(usize, usize)>);

impl TextPages {
    /// Those of all files that are mapped, for a process that maps no others and lets go of none.
    pub(crate) fn find() -> std::io::Result<Self> {
        Self::of(&|file| file.starts_with('/'))
    }

    /// Those of the program itself.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of_program() -> std::io::Result<Self> {
        let program = std::fs::read_link("/proc/self/exe")?;
        Self::of(&|file| Path::new(file) == program)
    }

    fn of(wanted: &dyn Fn(&str) -> bool) -> std::io::Result<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let pages = std::fs::File::open("/proc/self/pagemap")?;
        let mut ranges = Vec::new();
        for line in maps.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let &[range, access, _, _, _, file] = fields.as_slice() else {
                continue;
            };
            let Some((start, end)) = range.split_once('-').filter(|_| wanted(file)) else {
                continue;
            };
            let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else {
                continue;
            };
            match access {
                "r-xp" => ranges.push((start, end - start)),
                // The dynamic linker may have written to some pages before they became read-only.
                "r--p" => unwritten_pages(&pages, start, end, &mut ranges)?,
                _ => {}
            }
        }
        Ok(TextPages(ranges))
    }

    /// Lets go of the resident pages. They come back when needed, with the 64 KiB around them: whoever calls this does
    /// little between it and sleeping, or calls it once.
    pub fn let_go(&self) {
        for (start, length) in &self.0 {
            // SAFETY: these pages of a private mapping are the file's own, and are read from it again.
            unsafe { libc::madvise(*start as *mut libc::c_void, *length, libc::MADV_DONTNEED) };
        }
    }
}
