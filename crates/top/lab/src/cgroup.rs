//! The cgroup subtree of a lab: `trireme-lab/<lab>/<host>` in every hierarchy that is mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Hierarchies of cgroup v1 that a host's processes are put into; `unified` is cgroup v2 beside them.
const CONTROLLERS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "unified"];
/// How long the kernel may take to give up a group whose last process has just died.
const REMOVAL_ATTEMPTS: u32 = 100;
/// How often the processes of a group are killed before it is given up; a killed one may have forked just before.
const KILL_ATTEMPTS: u32 = 1000;

fn mount_points() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    CONTROLLERS
        .iter()
        .map(|name| root.join(name))
        .filter(|path| path.is_dir())
        .collect()
}

/// Makes the group in every hierarchy and puts a process into it.
pub(crate) fn join(group: &str, pid: i32) -> io::Result<()> {
    for root in mount_points() {
        let directory = root.join(group.trim_start_matches('/'));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("cgroup.procs"), pid.to_string())?;
    }
    Ok(())
}

/// Ends every process in the group and below it, in whatever hierarchy, and waits until they are gone.
pub(crate) fn kill_all(group: &str) -> io::Result<()> {
    for _ in 0..KILL_ATTEMPTS {
        let mut processes = Vec::new();
        for root in mount_points() {
            let directory = root.join(group.trim_start_matches('/'));
            if directory.is_dir() {
                collect(&directory, &mut processes)?;
            }
        }
        if processes.is_empty() {
            return Ok(());
        }
        for pid in processes {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "processes of the lab do not end"))
}

fn collect(directory: &Path, processes: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => processes.extend(
            text.lines()
                .filter_map(|line| line.parse::<i32>().ok())
                .filter(|pid| *pid > 0),
        ),
        // It went meanwhile, or it is a threaded group, whose processes its parent lists.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(()); // It went meanwhile.
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, processes)?;
        }
    }
    Ok(())
}

/// Removes the group and all below it from every hierarchy, those of single controllers too. Its processes must be dead.
pub(crate) fn remove(group: &str) -> io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.to_owned()];
    roots.extend(
        fs::read_dir(root)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.is_dir()),
    );
    for root in roots {
        let directory = root.join(group.trim_start_matches('/'));
        if directory.is_dir() {
            remove_tree(&directory)?;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    let mut attempts = 0;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempts < REMOVAL_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}
