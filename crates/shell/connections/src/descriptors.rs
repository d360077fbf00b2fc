//! The process's file descriptors, and how they are shared out among its ports.
//!
//! Invariant: what the ports may take together leaves a reserve for everything that is opened without asking: the store's
//! files, connections to peers and kubelets, pipes of containers.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::budget::Limits;

/// Raises the soft limit of open files to the hard one, and returns it.
///
/// # Errors
/// As the kernel refuses.
pub fn raise_limit() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}

/// How many descriptors each port may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections of the API's clients.
    pub api: usize,
    /// Of these, connections of one client address.
    pub api_per_source: usize,
    /// Connections to the kubelet.
    pub kubelet: usize,
    /// Connections to the peer port whose peer is not known yet.
    pub peer_handshakes: usize,
    /// Connections to the cluster DNS.
    pub dns: usize,
}

/// More than this a process does not hand out, whatever its limit: some systems set none.
const LIMIT_MAX: usize = 1 << 20;
/// What is kept for the rest of the process, where there is that much.
const RESERVE_MIN: usize = 128;

impl Shares {
    /// The shares of a limit.
    #[must_use]
    pub fn of(limit: usize) -> Self {
        let limit = limit.min(LIMIT_MAX);
        let reserve = (limit / 4).max(RESERVE_MIN.min(limit / 2));
        let api = limit - reserve;
        Self {
            api,
            // No single address keeps all others out.
            api_per_source: Limits::of_one_source(api),
            kubelet: (reserve / 4).clamp(1, 1024),
            peer_handshakes: (reserve / 8).clamp(1, 64),
            dns: (reserve / 16).clamp(1, 512),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_stays_whatever_the_limit() {
        for limit in [64, 256, 1024, 20_000, 1_048_576, usize::MAX] {
            let shares = Shares::of(limit);
            let taken = shares.api + shares.kubelet + shares.peer_handshakes + shares.dns;
            assert!(taken < limit - limit.min(LIMIT_MAX) / 8, "{limit}: {shares:?}");
            assert!(shares.api_per_source < shares.api, "{limit}: {shares:?}");
        }
        assert_eq!(Shares::of(256).api, 128);
        assert_eq!(Shares::of(20_000).api_per_source, 11_250);
    }
}
