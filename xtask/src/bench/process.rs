//! What `/proc` says of processes: CPU time, memory, command lines. It reads only.

use std::time::Duration;

use anyhow::{Context, Result};

/// What is used of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// User and system time of all its threads, in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// When it was forked, in clock ticks since the machine's start.
    pub(crate) start_ticks: u64,
}

/// Parses `/proc/PID/stat`. The name in parentheses may hold anything, also spaces and parentheses.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: number(14)? + number(15)?,
        start_ticks: number(22)?,
    })
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// Resident, with a page that several processes share counted in parts.
    pub(crate) pss: u64,
}

/// Parses `/proc/PID/smaps_rollup`.
pub(crate) fn parse_rollup(text: &str) -> Option<Memory> {
    Some(Memory {
        rss: kibibytes(text, "Rss:")?,
        pss: kibibytes(text, "Pss:")?,
    })
}

/// The figure of a line such as `VmHWM:   1234 kB`.
pub(crate) fn kibibytes(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// A process by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process(pub(crate) i32);

impl Process {
    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}: does the process still run?"))
    }

    /// CPU time and start.
    pub(crate) fn stat(self) -> Result<Stat> {
        parse_stat(&self.read("stat")?).with_context(|| format!("/proc/{}/stat has an unknown form", self.0))
    }

    /// Memory as it is now.
    pub(crate) fn memory(self) -> Result<Memory> {
        let text = self
            .read("smaps_rollup")
            .context("memory figures need root or the same user")?;
        parse_rollup(&text).with_context(|| format!("/proc/{}/smaps_rollup has an unknown form", self.0))
    }

    /// The most that was ever resident, in KiB.
    pub(crate) fn peak(self) -> Result<u64> {
        kibibytes(&self.read("status")?, "VmHWM:").with_context(|| format!("process {} has no memory: has it ended?", self.0))
    }

    /// Lets the peak of resident memory begin anew with what is resident now.
    pub(crate) fn forget_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        std::fs::write(&path, "5").with_context(|| format!("cannot write {path}: this needs root or the same user"))
    }

    /// Its short name.
    pub(crate) fn name(self) -> Result<String> {
        Ok(self.read("comm")?.trim().to_owned())
    }

    /// Its command line.
    pub(crate) fn arguments(self) -> Result<Vec<String>> {
        Ok(self.read("cmdline")?.split_terminator('\0').map(str::to_owned).collect())
    }

    /// Whether it is in a control group, or in one below it, in any hierarchy.
    pub(crate) fn belongs_to(self, group: &str) -> Result<bool> {
        Ok(in_group(&self.read("cgroup")?, group))
    }
}

/// Whether a line of `/proc/PID/cgroup` names a group or one below it.
fn in_group(text: &str, group: &str) -> bool {
    let group = group.trim_end_matches('/');
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix(group))
        .any(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// All processes that we see.
pub(crate) fn all() -> Result<Vec<Process>> {
    let entries = std::fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Process))
        .collect())
}

/// A set of processes that are measured together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes(pub(crate) Vec<Process>);

impl Processes {
    /// By number; all must run.
    pub(crate) fn named(pids: &[i32]) -> Result<Self> {
        let processes = Self(pids.iter().copied().map(Process).collect());
        processes.cpu()?;
        Ok(processes)
    }

    /// CPU time of all together since their start.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for process in &self.0 {
            ticks += process.stat()?.cpu_ticks;
        }
        Ok(duration(ticks))
    }

    /// Memory of all together.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        for process in &self.0 {
            let memory = process.memory()?;
            sum.rss += memory.rss;
            sum.pss += memory.pss;
        }
        Ok(sum)
    }

    /// Sum of the processes' peaks, in KiB.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.0.iter().map(|process| process.peak()).sum()
    }

    /// Lets the peaks begin anew with what is resident now.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        self.0.iter().try_for_each(|process| process.forget_peak())
    }

    /// Names and numbers, for a report.
    pub(crate) fn describe(&self) -> String {
        let one = |process: &Process| format!("{} ({})", process.name().unwrap_or_else(|_| "ended".into()), process.0);
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Clock ticks as time.
pub(crate) fn duration(ticks: u64) -> Duration {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u32::try_from(ticks).ok());
    Duration::from_secs(ticks) / per_second.unwrap_or(100)
}

/// Our own CPU time.
pub(crate) fn own_cpu() -> Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).context("getrusage")?;
    let of = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_an_ugly_name() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 9 0 12345 1000 200 18446744073709551615 1 1 0";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                cpu_ticks: 300,
                start_ticks: 12345
            })
        );
        for broken in [
            "",
            "42 (a",
            "42 (a) S 1 2",
            "42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 x 50 7 8 20 0 9 0 12345",
        ] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn rollup_and_status() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:      2048 kB\nPss:      1024 kB\nPss_Dirty:   12 kB\n";
        assert_eq!(parse_rollup(text), Some(Memory { rss: 2048, pss: 1024 }));
        assert_eq!(parse_rollup("Rss: 1 kB\n"), None);
        assert_eq!(kibibytes("VmPeak:\t 9 kB\nVmHWM:\t  77 kB\n", "VmHWM:"), Some(77));
    }

    #[test]
    fn groups() {
        let text = "9:memory:/trireme-lab/a/a-1/pods/x\n0::/\n";
        for (group, inside) in [
            ("/trireme-lab/a/a-1", true),
            ("/trireme-lab/a/a-1/", true),
            ("/trireme-lab/a/a-1/pods/x", true),
            ("/trireme-lab/a/a", false),
            ("/other", false),
        ] {
            assert_eq!(in_group(text, group), inside, "{group}");
        }
    }

    #[test]
    fn our_own_figures() {
        let own = Processes::named(&[i32::try_from(std::process::id()).expect("a PID fits")]).expect("we run");
        let memory = own.memory().expect("we may read our own memory");
        assert!(memory.rss >= memory.pss && memory.pss > 0);
        assert!(own.peak().expect("we have memory") > 0);
        assert!(own_cpu().expect("we use CPU") > Duration::ZERO);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = Processes::named(&[i32::MAX]).expect_err("no such process");
        assert!(format!("{error:#}").contains("/proc/2147483647/stat"), "{error:#}");
    }
}
