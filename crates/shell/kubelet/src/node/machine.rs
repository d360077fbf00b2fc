//! What the machine is: capacity, kernel, identity.

use std::path::Path;

use crate::config::KubeletConfig;
use crate::eviction::{EvictionHard, Signal, Stock};

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
        let found = Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1)),
            memory: kibibytes(&memory, "MemTotal:"),
            swap: kibibytes(&memory, "SwapTotal:"),
            storage: config.capacity.map_or_else(|| storage(&config.data_dir), |_| 0),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(&text("/etc/os-release")),
            machine_id: text("/etc/machine-id"),
            system_uuid: match text("/sys/class/dmi/id/product_uuid") {
                uuid if uuid.is_empty() => text("/etc/machine-id"),
                uuid => uuid,
            },
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        };
        match config.capacity {
            None => found,
            Some(capacity) => Self {
                cpus: capacity.cpus,
                memory: capacity.memory_bytes,
                storage: capacity.storage_bytes,
                swap: 0,
                ..found
            },
        }
    }

    /// What pods may count on, bytes: all but what must stay free.
    pub(crate) fn allocatable_memory(&self, keep: &EvictionHard) -> i64 {
        (self.memory - keep.reserved(Signal::MemoryAvailable, self.memory)).max(0)
    }

    /// The same of the disk.
    pub(crate) fn allocatable_storage(&self, keep: &EvictionHard) -> i64 {
        (self.storage - keep.reserved(Signal::NodefsAvailable, self.storage)).max(0)
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

/// What is left of something that eviction thresholds watch. The data directory holds images and volumes, so that both
/// of upstream's file systems are the one that it is on.
pub(crate) fn measure(signal: Signal, data_dir: &Path) -> Option<Stock> {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let statistics = || nix::sys::statvfs::statvfs(data_dir).ok();
    let stock = match signal {
        Signal::MemoryAvailable => {
            let text = std::fs::read_to_string("/proc/meminfo").ok()?;
            Stock {
                available: kibibytes(&text, "MemAvailable:"),
                capacity: kibibytes(&text, "MemTotal:"),
            }
        }
        Signal::NodefsAvailable | Signal::ImagefsAvailable => {
            let found = statistics()?;
            let bytes = |blocks: u64| whole(blocks.saturating_mul(found.fragment_size()));
            Stock {
                available: bytes(found.blocks_available()),
                capacity: bytes(found.blocks()),
            }
        }
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => {
            let found = statistics()?;
            Stock {
                available: whole(found.files_available()),
                capacity: whole(found.files()),
            }
        }
        Signal::PidAvailable => {
            let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
            let capacity = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
            Stock {
                available: capacity - threads(&std::fs::read_to_string("/proc/loadavg").ok()?)?,
                capacity,
            }
        }
    };
    // Some file systems count no inodes.
    Some(stock).filter(|stock| stock.capacity > 0)
}

/// Threads of the machine: the number behind the stroke in `0.20 0.18 0.12 1/80 11206`.
fn threads(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

fn os_image(release: &str) -> String {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
