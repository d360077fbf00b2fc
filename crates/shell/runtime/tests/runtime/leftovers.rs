//! What a run leaves: what must be gone at its end, and what earlier runs that were killed could not clear away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pod::Place;
use crate::survival::shim_pids;

/// A run's cgroups have this name and the run's process id.
pub(crate) const PREFIX: &str = "trireme-runtime-test-";
/// Longest wait for killed processes to leave their cgroup.
const DYING_MAX: Duration = Duration::from_secs(5);

/// Where cgroups of any version may be.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = std::fs::read_dir(&root)
        .expect("cgroups")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    below.chain([root.clone()]).collect()
}

/// What must be gone at the end.
pub(crate) fn leftovers(place: &Place) -> Vec<String> {
    let mut left: Vec<String> = shim_pids().into_iter().map(|pid| format!("shim {pid}")).collect();
    let root = place.root.to_str().expect("text");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    left.extend(mounts.lines().filter(|line| line.contains(root)).map(str::to_owned));
    for directory in ["data/containers", "data/sandboxes", "run/pods", "run/oci"] {
        left.extend(
            std::fs::read_dir(place.root.join(directory))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().display().to_string()),
        );
    }
    for hierarchy in hierarchies() {
        let pods = hierarchy
            .join(place.cgroup.trim_start_matches('/'))
            .join("kubepods/burstable");
        left.extend(
            std::fs::read_dir(pods)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.path().display().to_string()),
        );
    }
    left
}

/// Removes the test's own cgroups, deepest first.
pub(crate) fn remove_cgroups(directory: &Path) {
    for entry in std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        remove_cgroups(&entry.path());
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => println!("{}: {error}", directory.display()),
        _ => {}
    }
}

/// Ends and removes what runs left whose own process is gone. A run that was killed could do neither: its pods outlive it,
/// as they should.
pub(crate) fn remove_those_of_the_dead() {
    for hierarchy in hierarchies() {
        let entries = std::fs::read_dir(&hierarchy).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_of_the_dead)) {
            println!("left by an earlier run: {}", entry.path().display());
            let deadline = Instant::now() + DYING_MAX;
            while kill_all(&entry.path()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            remove_cgroups(&entry.path());
        }
    }
}

/// Whether a cgroup is of a run whose process is gone, or waits only to be reaped.
fn is_of_the_dead(name: &str) -> bool {
    let Some(id) = name.strip_prefix(PREFIX).and_then(|id| id.parse::<u32>().ok()) else {
        return false;
    };
    match std::fs::read_to_string(format!("/proc/{id}/stat")) {
        // The command, which may contain anything, stands in parentheses before the state.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Kills what is in a cgroup and below it; whether there was anything.
fn kill_all(directory: &Path) -> bool {
    let mut found = false;
    let children = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for child in children.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        found |= kill_all(&child);
    }
    // A frozen process would not die.
    if std::fs::metadata(directory.join("freezer.state")).is_ok()
        && let Err(error) = std::fs::write(directory.join("freezer.state"), "THAWED")
    {
        println!("{}: {error}", directory.display());
    }
    let members = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for id in members
        .lines()
        .filter_map(|line| line.parse::<i32>().ok())
        .filter(|id| *id > 0)
    {
        found = true;
        match kill(Pid::from_raw(id), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => println!("process {id}: {error}"),
        }
    }
    found
}
