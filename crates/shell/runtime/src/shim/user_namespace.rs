//! The user namespace of a pod and the namespaces that belong to it. They are made by a short-lived child; the shim stays a
//! process of the host, which alone may write logs and states, and holds them open for the containers to come.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, setresgid, setresuid};

use super::leave;
use crate::cri::IdMapping;
use crate::sys;

/// Namespaces held open, by their names in runtime documents.
pub(super) type Held = Vec<(&'static str, OwnedFd)>;

/// Makes a user namespace with this mapping and, owned by it, the others of `flags`; the caller joins those, but not the user
/// namespace itself.
pub(super) fn make(mapping: IdMapping, flags: CloneFlags) -> io::Result<Held> {
    let (made, tell) = nix::unistd::pipe()?;
    let (wait, release) = nix::unistd::pipe()?;
    let Some(child) = sys::fork()? else {
        drop(release);
        let unshared = unshare(flags | CloneFlags::CLONE_NEWUSER);
        if unshared.is_err() || nix::unistd::write(&tell, &[1]) != Ok(1) {
            leave(1);
        }
        drop(tell);
        leave(i32::from(nix::unistd::read(&wait, &mut [0]) != Ok(0)));
    };
    drop((tell, wait));
    let take = || -> io::Result<Held> {
        if nix::unistd::read(&made, &mut [0]) != Ok(1) {
            return Err(io::Error::other(
                "cannot make a user namespace (is user.max_user_namespaces 0?)",
            ));
        }
        let line = format!("0 {} {}\n", mapping.host_id, mapping.length);
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{child}/{file}"), &line)
                .map_err(|error| io::Error::new(error.kind(), format!("{file} {}: {error}", line.trim())))?;
        }
        let open = |name: &'static str| Ok((name, File::open(format!("/proc/{child}/ns/{name}"))?.into()));
        let wanted = [
            ("user", true),
            ("net", flags.contains(CloneFlags::CLONE_NEWNET)),
            ("ipc", flags.contains(CloneFlags::CLONE_NEWIPC)),
            ("uts", flags.contains(CloneFlags::CLONE_NEWUTS)),
        ];
        wanted
            .into_iter()
            .filter(|(_, own)| *own)
            .map(|(name, _)| open(name))
            .collect()
    };
    let taken = take();
    drop(release);
    waitpid(child, None)?;
    let held = taken?;
    for (name, namespace) in &held {
        if *name != "user" {
            setns(namespace, CloneFlags::empty())?;
        }
    }
    Ok(held)
}

/// The namespace of a name.
pub(super) fn find<'a>(held: &'a Held, name: &str) -> Option<BorrowedFd<'a>> {
    held.iter().find(|(known, _)| *known == name).map(|(_, fd)| fd.as_fd())
}

/// Becomes root in the user namespace, for good.
pub(super) fn enter(user: BorrowedFd<'_>) -> nix::Result<()> {
    setns(user, CloneFlags::CLONE_NEWUSER)?;
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(root, root, root)
}

/// Does something as root of the user namespace, in a child; what it returns is an error's text.
pub(super) fn within(user: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (reader, writer) = nix::unistd::pipe()?;
    let Some(child) = sys::fork()? else {
        let result = enter(user).map_err(io::Error::from).and_then(|()| work());
        let told = match result {
            Ok(()) => Ok(()),
            Err(error) => File::from(writer).write_all(error.to_string().as_bytes()),
        };
        leave(i32::from(told.is_err()));
    };
    drop(writer);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    match waitpid(child, None)? {
        nix::sys::wait::WaitStatus::Exited(_, 0) if text.is_empty() => Ok(()),
        _ if text.is_empty() => Err(io::Error::other("a child died in the user namespace")),
        _ => Err(io::Error::other(text)),
    }
}
