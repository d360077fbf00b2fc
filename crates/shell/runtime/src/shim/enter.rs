//! A process that joins a container with a user namespace of its own. libcontainer 0.7 leaves that namespace out when it joins
//! the others, so it is told to make a process of the host's root with no capability but one, which enters the user namespace in
//! its last step, and becomes there what it is to be. Nothing of the container can reach such a process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};
use serde::Deserialize;
use serde_json::json;

use crate::cri::IdMapping;
use crate::{capability, state, sys};

/// Who a process becomes once it has entered.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The user namespace, inherited.
    namespace: RawFd,
    ids: IdMapping,
    user: User,
    terminal: bool,
    no_new_privileges: bool,
    /// Mask of those that it may have, the borrowed ones too.
    capabilities: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    uid: u32,
    gid: u32,
    #[serde(default)]
    additional_gids: Vec<u32>,
}

/// The one capability that a process has until it enters: its terminal is made by the host's root and becomes the user's.
const UNTIL_THEN: &str = "CAP_CHOWN";

impl Entry {
    /// Reads who the process of a document is to be, and makes it one of the host's root.
    pub(super) fn prepare(process: &Path, namespace: BorrowedFd<'_>, ids: IdMapping) -> io::Result<Self> {
        let mut document: serde_json::Value = state::read_json(process)?.ok_or(io::ErrorKind::NotFound)?;
        let names: Vec<String> = serde_json::from_value(document["capabilities"]["bounding"].clone())?;
        let names = names.join(",");
        let entry = Entry {
            namespace: namespace.as_raw_fd(),
            ids,
            user: serde_json::from_value(document["user"].clone())?,
            terminal: document["terminal"] == true,
            no_new_privileges: document["noNewPrivileges"] == true,
            capabilities: capability::mask(&names).ok_or_else(|| io::Error::other(format!("unknown capability in {names:?}")))?,
        };
        let umask = document["user"]["umask"].clone();
        document["user"] = json!({"uid": 0, "gid": 0, "umask": umask});
        document["noNewPrivileges"] = json!(false);
        let few = [UNTIL_THEN];
        document["capabilities"] = json!({"bounding": few, "effective": few, "permitted": few, "inheritable": [], "ambient": []});
        state::write_json(process, &document)?;
        Ok(entry)
    }

    /// Enters. The process has all capabilities there that it may have, and is to give up the borrowed ones itself.
    pub(super) fn enter(&self) -> io::Result<()> {
        if self.terminal {
            fchown(
                io::stdin().as_fd(),
                Some(Uid::from_raw(self.ids.host_id + self.user.uid)),
                None,
            )?;
        }
        setns(sys::borrow_fd(self.namespace), CloneFlags::CLONE_NEWUSER)?;
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()?;
        }
        let groups: Vec<Gid> = self.user.additional_gids.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        let (user, group) = (Uid::from_raw(self.user.uid), Gid::from_raw(self.user.gid));
        setresgid(group, group, group)?;
        nix::sys::prctl::set_keepcaps(true)?;
        setresuid(user, user, user)?;
        sys::raise_capabilities()?;
        Ok(sys::drop_capabilities(!self.capabilities)?)
    }
}
