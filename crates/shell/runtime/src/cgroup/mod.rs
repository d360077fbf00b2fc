//! Control groups, version 1 and 2, decided per controller: on a mixed machine each controller is used where it lives.
//!
//! A path is relative to the hierarchies' roots and the same in all of them. Nothing here keeps state: the kernel's
//! files are the state.

mod devices;
mod limits;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cri::Usage;
use crate::state;
pub(crate) use devices::DeviceRule;

/// Controllers that are used.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio"];
/// What is passed down a v2 tree, where the kernel has it.
const V2_DELEGATED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// A killed process leaves its cgroup a little later.
const REMOVE_TRIES_MAX: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// Where the controllers live on this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hierarchies {
    v1: BTreeMap<&'static str, PathBuf>,
    /// Root of cgroup2, if it carries controllers that v1 does not.
    v2: Option<PathBuf>,
    v2_controllers: Vec<String>,
    /// Hierarchies without controllers, by which systemd knows a service's processes.
    trackers: Vec<PathBuf>,
}

impl Hierarchies {
    /// Looks at what is mounted.
    pub(crate) fn detect() -> io::Result<Self> {
        Ok(Self::from_mounts(&fs::read_to_string("/proc/self/mounts")?, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    fn from_mounts(mounts: &str, controllers_of: impl Fn(&Path) -> String) -> Self {
        let mut found = Hierarchies::default();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(path), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if !path.starts_with("/sys/fs/cgroup") {
                continue;
            }
            match kind {
                "cgroup" => {
                    if options.split(',').any(|option| option.starts_with("name=")) {
                        found.trackers.push(PathBuf::from(path));
                    }
                    for controller in CONTROLLERS
                        .into_iter()
                        .filter(|name| options.split(',').any(|option| option == *name))
                    {
                        found.v1.entry(controller).or_insert_with(|| PathBuf::from(path));
                    }
                }
                "cgroup2" => {
                    let root = PathBuf::from(path);
                    found.v2_controllers = controllers_of(&root).split_whitespace().map(str::to_owned).collect();
                    found.v2 = Some(root);
                }
                _ => {}
            }
        }
        if !found.v1.is_empty() && !found.v2_controllers.iter().any(|name| V2_DELEGATED.contains(&name.as_str())) {
            found.trackers.extend(found.v2.take());
        }
        found
    }

    /// The directory of `path` where `controller` lives, and whether that is version 2.
    fn controller(&self, controller: &str, path: &str) -> Option<(PathBuf, bool)> {
        if let Some(root) = self.v1.get(controller) {
            return Some((join(root, path), false));
        }
        let name = if controller == "cpuacct" { "cpu" } else { controller };
        let implicit = matches!(name, "devices" | "freezer");
        let root = self.v2.as_ref()?;
        (implicit || self.v2_controllers.iter().any(|known| known == name)).then(|| (join(root, path), true))
    }

    /// Whether only version 2 is there.
    pub(crate) fn is_unified(&self) -> bool {
        self.v1.is_empty()
    }

    /// All directories of `path`, one per hierarchy.
    fn directories(&self, path: &str) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.v1.values().chain(&self.v2).map(|root| join(root, path)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// What a container sees of its own cgroup where version 1 is in use: names below `/sys/fs/cgroup` and the directories
    /// to bind there, a controller that shares its hierarchy with others under its own name too.
    pub(crate) fn views(&self, path: &str) -> Vec<(String, PathBuf)> {
        let mut views = BTreeMap::new();
        let unified = self.v2.iter().filter(|_| !self.is_unified());
        for (controller, root) in self
            .v1
            .iter()
            .map(|(name, root)| (Some(*name), root))
            .chain(unified.map(|root| (None, root)))
        {
            let name = root.file_name().map(|name| name.to_string_lossy().into_owned());
            for name in name.into_iter().chain(controller.map(str::to_owned)) {
                views.insert(name, join(root, path));
            }
        }
        views.into_iter().collect()
    }

    /// The `cgroup.procs` files of `path`. Writing a pid to all of them moves it.
    pub(crate) fn procs_files(&self, path: &str) -> Vec<PathBuf> {
        self.directories(path)
            .into_iter()
            .map(|directory| directory.join("cgroup.procs"))
            .collect()
    }

    /// Makes `path` in every hierarchy, also those by which systemd would end a stopped service's processes; returns the
    /// files to write a pid to.
    pub(crate) fn create_apart(&self, path: &str) -> io::Result<Vec<PathBuf>> {
        self.create(path)?;
        let mut files = self.procs_files(path);
        for root in &self.trackers {
            let directory = join(root, path);
            fs::create_dir_all(&directory).map_err(|error| named(&directory, error))?;
            files.push(directory.join("cgroup.procs"));
        }
        Ok(files)
    }

    /// Files that count OOM kills in `path`.
    pub(crate) fn oom_files(&self, path: &str) -> Vec<PathBuf> {
        let file = |(directory, v2): (PathBuf, bool)| directory.join(if v2 { "memory.events" } else { "memory.oom_control" });
        self.controller("memory", path).map(file).into_iter().collect()
    }

    /// Makes `path` in every hierarchy.
    pub(crate) fn create(&self, path: &str) -> io::Result<()> {
        for (root, v2) in self
            .v1
            .values()
            .map(|root| (root, false))
            .chain(self.v2.iter().map(|root| (root, true)))
        {
            let mut directory = root.clone();
            for part in path.split('/').filter(|part| !part.is_empty()) {
                if v2 {
                    self.delegate(&directory)?;
                }
                directory.push(part);
                match fs::create_dir(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(&directory, error)),
                    _ => {}
                }
                if self.v1.get("cpuset") == Some(root) {
                    inherit_cpuset(&directory)?;
                }
            }
        }
        Ok(())
    }

    fn delegate(&self, directory: &Path) -> io::Result<()> {
        for controller in self
            .v2_controllers
            .iter()
            .filter(|name| V2_DELEGATED.contains(&name.as_str()))
        {
            let file = directory.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}")).map_err(|error| named(&file, error))?;
        }
        Ok(())
    }

    /// Processes in `path` itself.
    pub(crate) fn processes(&self, path: &str) -> Vec<i32> {
        let mut pids: Vec<i32> = Vec::new();
        for file in self.procs_files(path) {
            pids.extend(
                fs::read_to_string(file)
                    .unwrap_or_default()
                    .lines()
                    .filter_map(|line| line.parse::<i32>().ok()),
            );
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills every process in `path` and below, and removes it everywhere. Absence is fine.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let mut last = Ok(());
        for attempt in 0..REMOVE_TRIES_MAX {
            if attempt > 0 {
                std::thread::sleep(REMOVE_PAUSE);
            }
            last = self.directories(path).iter().try_for_each(|directory| remove_tree(directory));
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// CPU and memory used by `path` with everything below.
    pub(crate) fn usage(&self, path: &str) -> io::Result<Usage> {
        let mut usage = Usage {
            timestamp: state::now(),
            ..Usage::default()
        };
        if let Some((directory, v2)) = self.controller("cpuacct", path) {
            usage.cpu_nanoseconds = if v2 {
                keyed(&directory.join("cpu.stat"), "usage_usec")? * 1000
            } else {
                number(&directory.join("cpuacct.usage"))?
            };
        }
        if let Some((directory, v2)) = self.controller("memory", path) {
            let (current, inactive) = if v2 {
                ("memory.current", "inactive_file")
            } else {
                ("memory.usage_in_bytes", "total_inactive_file")
            };
            usage.memory_usage_bytes = number(&directory.join(current))?;
            let inactive = keyed(&directory.join("memory.stat"), inactive)?;
            usage.memory_working_set_bytes = usage.memory_usage_bytes.saturating_sub(inactive);
        }
        Ok(usage)
    }
}

fn join(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A new cpuset is empty and takes no process before it is given CPUs and memory nodes.
fn inherit_cpuset(directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(directory.join(file))?.trim().is_empty() {
            let value = fs::read_to_string(parent.join(file))?;
            fs::write(directory.join(file), value.trim()).map_err(|error| named(&directory.join(file), error))?;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(directory, error)),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    for pid in fs::read_to_string(directory.join("cgroup.procs"))?
        .lines()
        .filter_map(|line| line.parse::<i32>().ok())
    {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(directory, error)),
        _ => Ok(()),
    }
}

fn number(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?
        .trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Value of one `key value` line, 0 where absent.
fn keyed(file: &Path, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_where_they_live() {
        let v1 = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                  cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let legacy = Hierarchies::from_mounts(v1, |_| "hugetlb".to_owned());
        assert_eq!(
            legacy.controller("cpuacct", "/a"),
            Some((PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a"), false))
        );
        assert_eq!(legacy.controller("pids", "/a"), None);
        assert_eq!(legacy.directories("a").len(), 2);
        let views = legacy.views("/a");
        let names: Vec<&str> = views.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cpu", "cpu,cpuacct", "cpuacct", "memory"]);
        assert_eq!(views[0].1, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a"));
        let mixed = Hierarchies::from_mounts(v1, |_| "pids".to_owned());
        assert_eq!(
            mixed.controller("pids", "a"),
            Some((PathBuf::from("/sys/fs/cgroup/unified/a"), true))
        );
        let unified = Hierarchies::from_mounts(v2, |_| "cpu memory pids".to_owned());
        assert_eq!(
            unified.controller("cpuacct", "a"),
            Some((PathBuf::from("/sys/fs/cgroup/a"), true))
        );
        assert_eq!(
            unified.controller("devices", "a"),
            Some((PathBuf::from("/sys/fs/cgroup/a"), true))
        );
        assert_eq!(unified.views("a"), []);
        assert_eq!(unified.oom_files("a"), [PathBuf::from("/sys/fs/cgroup/a/memory.events")]);
    }
}
