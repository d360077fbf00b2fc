//! Debian packages that the project needs on a machine with Rust alone.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::project;

/// What a node needs.
pub(crate) const NODE: &[&str] = &["nftables", "iproute2", "util-linux", "conntrack"];
/// What the example and the tests need besides.
pub(crate) const TESTS: &[&str] = &[
    "busybox-static",
    "curl",
    "ca-certificates",
    "e2fsprogs",
    "docker-registry",
    "skopeo",
    "python3",
    "python3-pip",
    "gcc",
    "libc6-dev",
];

/// Installs what is absent.
///
/// # Errors
/// When not root, or when the package manager fails.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let absent: Vec<&str> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "these Debian packages are absent: {}; install them, or run as root",
        absent.join(" ")
    );
    project::say(format!("installing Debian packages: {}", absent.join(" ")));
    update()?;
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends", "--quiet=2"])
        .args(&absent)
        .env("DEBIAN_FRONTEND", "noninteractive");
    project::output(&mut command)?;
    Ok(())
}

/// Refreshes the package lists.
///
/// # Errors
/// When the package manager fails.
pub(crate) fn update() -> Result<()> {
    project::output(Command::new("apt-get").args(["update", "--quiet=2"]))?;
    Ok(())
}

fn is_installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", name])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}
