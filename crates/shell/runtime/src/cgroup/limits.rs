//! Limits of a cgroup, written where each controller lives. 0 and `None` mean "leave as it is".

use std::fs;
use std::io;
use std::path::Path;

use super::{Hierarchies, named};
use crate::cri::LinuxContainerResources;

const PERIOD_DEFAULT_US: u64 = 100_000;

/// v2 weight of v1 shares: the default of one is the default of the other, and so are the ends.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|error| named(file, error))
}

impl Hierarchies {
    /// Sets limits of `path`. `whole` makes an OOM kill take the whole group (v2, containers).
    pub(crate) fn limit(&self, path: &str, limits: &LinuxContainerResources, whole: bool) -> io::Result<()> {
        if let Some((directory, v2)) = self.controller("cpu", path) {
            let period = if limits.cpu_period == 0 {
                PERIOD_DEFAULT_US
            } else {
                limits.cpu_period
            };
            if limits.cpu_shares > 0 {
                let (file, value) = if v2 {
                    ("cpu.weight", weight(limits.cpu_shares))
                } else {
                    ("cpu.shares", limits.cpu_shares)
                };
                write(&directory.join(file), &value.to_string())?;
            }
            match (limits.cpu_quota, v2) {
                (0, _) => {}
                (quota, true) if quota < 0 => write(&directory.join("cpu.max"), &format!("max {period}"))?,
                (quota, true) => write(&directory.join("cpu.max"), &format!("{quota} {period}"))?,
                (quota, false) => {
                    write(&directory.join("cpu.cfs_period_us"), &period.to_string())?;
                    write(&directory.join("cpu.cfs_quota_us"), &quota.to_string())?;
                }
            }
        }
        if let Some((directory, v2)) = self.controller("memory", path) {
            let (file, unlimited) = if v2 {
                ("memory.max", "max")
            } else {
                ("memory.limit_in_bytes", "-1")
            };
            match limits.memory_limit_in_bytes {
                0 => {}
                bytes if bytes < 0 => write(&directory.join(file), unlimited)?,
                bytes => write(&directory.join(file), &bytes.to_string())?,
            }
            if v2 && whole {
                write(&directory.join("memory.oom.group"), "1")?;
            }
        }
        if let (Some(pids), Some((directory, _))) = (limits.pids_limit, self.controller("pids", path)) {
            let value = if pids > 0 { pids.to_string() } else { "max".to_owned() };
            write(&directory.join("pids.max"), &value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::weight;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
    }
}
