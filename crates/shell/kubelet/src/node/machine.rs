//! What the machine is: capacity, kernel, identity.

use std::path::Path;

use crate::config::KubeletConfig;

/// Memory that pods may not count on, bytes: upstream's hard eviction threshold.
const MEMORY_RESERVED: i64 = 100 * 1024 * 1024;

#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) swap: i64,
}

impl Machine {
    pub(crate) fn read(config: &KubeletConfig) -> Self {
        let text = |path: &str| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = text("/proc/meminfo");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1)),
            memory: kibibytes(&memory, "MemTotal:"),
            swap: kibibytes(&memory, "SwapTotal:"),
            storage: storage(&config.data_dir),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(&text("/etc/os-release")),
            machine_id: text("/etc/machine-id"),
            system_uuid: match text("/sys/class/dmi/id/product_uuid") {
                uuid if uuid.is_empty() => text("/etc/machine-id"),
                uuid => uuid,
            },
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }

    pub(crate) fn allocatable_memory(&self) -> i64 {
        (self.memory - MEMORY_RESERVED).max(0)
    }

    /// Nine tenths: upstream evicts below a tenth of free space.
    pub(crate) fn allocatable_storage(&self) -> i64 {
        self.storage / 10 * 9
    }
}

fn kibibytes(meminfo: &str, key: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok())
        .map_or(0, |kibibytes| kibibytes * 1024)
}

fn storage(path: &Path) -> i64 {
    match nix::sys::statvfs::statvfs(path) {
        Ok(found) => i64::try_from(found.blocks().saturating_mul(found.fragment_size())).unwrap_or(i64::MAX),
        Err(error) => {
            tracing::warn!("the size of {} is not known: {error}", path.display());
            0
        }
    }
}

/// Free bytes and inodes of a file system as fractions of the whole.
pub(crate) fn free_fractions(path: &Path) -> Option<(f64, f64)> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    let part = |free: u64, all: u64| if all == 0 { 1.0 } else { free as f64 / all as f64 };
    Some((
        part(found.blocks_available(), found.blocks()),
        part(found.files_available(), found.files()),
    ))
}

/// Available memory, bytes.
pub(crate) fn available_memory() -> Option<i64> {
    Some(kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")).filter(|bytes| *bytes > 0)
}

fn os_image(release: &str) -> String {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
