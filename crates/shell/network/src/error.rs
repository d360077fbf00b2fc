//! Why something about the network failed.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::{Ipv4Range, NftError};

/// One variant per decision of the caller.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pod range has no address left: the pod waits.
    #[error("no free address in pod range {0}")]
    Exhausted(Ipv4Range),
    /// The pod range is too small to hold a gateway and a pod.
    #[error("pod range {0} is too small: it must be /30 or larger")]
    TooSmall(Ipv4Range),
    /// The sandbox's network namespace cannot be entered: the sandbox is gone.
    #[error("network namespace {path}: {source}")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel was built without it, or the module is not there.
    #[error("this kernel has no VXLAN: load the module vxlan, or use --pod-network host-gw where all nodes share a link")]
    NoVxlan,
    /// No link of this host is in the address's network.
    #[error("no link of this host is in the network of {0}")]
    NoLink(IpAddr),
    /// An address that is to move is a fixed one of this host.
    #[error("{0} is an address of this host itself: choose one that no host has")]
    OwnAddress(IpAddr),
    /// Not allowed: not root, or without CAP_NET_ADMIN.
    #[error("{what}: not permitted; run trireme as root")]
    NotPermitted {
        /// What was tried.
        what: String,
    },
    /// The kernel refused a change of links, addresses or routes.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The thread that worked in the sandbox's namespace died.
    #[error("the thread in the sandbox's network namespace ended early")]
    Lost,
}

impl NetworkError {
    pub(crate) fn kernel(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        if source.raw_os_error() == Some(libc::EPERM) {
            Self::NotPermitted { what }
        } else {
            Self::Kernel { what, source }
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
