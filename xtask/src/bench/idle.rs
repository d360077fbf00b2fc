//! `bench idle`: memory and CPU of processes that are left alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::lab::LabChoice;
use super::process::{Memory, Process, Processes};
use super::report::{Facts, Output, Report, Sheet};
use super::statistics::figure;

/// Options of `bench idle`.
#[derive(Args)]
pub(crate) struct Idle {
    /// Processes to measure together
    #[arg(long, value_delimiter = ',', conflicts_with = "lab")]
    pids: Vec<i32>,
    #[command(flatten)]
    lab: LabChoice,
    /// How long to look
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Memory is looked at this often.
const SAMPLE_GAP: Duration = Duration::from_secs(5);

/// Processes that are reported in one row.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) processes: Processes,
}

/// What a group was seen to use.
pub(super) struct Usage {
    name: String,
    processes: usize,
    samples: Vec<Memory>,
    cpu: Duration,
    elapsed: Duration,
}

impl Usage {
    fn last(&self) -> Memory {
        self.samples.last().copied().unwrap_or_default()
    }

    fn rss_max(&self) -> u64 {
        self.samples.iter().map(|memory| memory.rss).max().unwrap_or(0)
    }

    /// Share of one core, in percent.
    fn cpu_percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Names of the columns of [`Usage::row`].
    pub(super) const HEADER: [&'static str; 6] = ["what", "processes", "RSS", "PSS", "RSS at most", "CPU, % of a core"];

    /// For people.
    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.processes.to_string(),
            mebibytes(self.last().rss),
            mebibytes(self.last().pss),
            mebibytes(self.rss_max()),
            figure(self.cpu_percent()),
        ]
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "processes": self.processes,
            "rssKib": self.last().rss,
            "pssKib": self.last().pss,
            "rssKibMax": self.rss_max(),
            "cpuPercentOfACore": (self.cpu_percent() * 1000.0).round() / 1000.0,
            "seconds": self.elapsed.as_secs(),
        })
    }
}

/// Looks at processes for a time.
///
/// # Errors
/// When one ends meanwhile or may not be looked at.
pub(crate) fn run(options: &Idle) -> Result<Report> {
    let (groups, mut facts) = groups(options)?;
    let usages = observe(&groups, Duration::from_secs(options.seconds))?;
    let shims: Vec<&Usage> = usages.iter().filter(|usage| usage.name.starts_with("shim ")).collect();
    let per_pod = average(&shims);
    if let Some(memory) = per_pod {
        facts.push(("pods".into(), shims.len().to_string()));
        facts.push((
            "per pod, of our own".into(),
            format!("RSS {} MiB, PSS {} MiB", mebibytes(memory.rss), mebibytes(memory.pss)),
        ));
    }
    Ok(Report {
        name: "idle",
        facts,
        sheets: vec![Sheet {
            caption: format!("{} s of doing nothing; memory in MiB.", options.seconds),
            header: Usage::HEADER.to_vec(),
            rows: usages.iter().map(Usage::row).collect(),
        }],
        results: json!({
            "groups": usages.iter().map(Usage::json).collect::<Vec<_>>(),
            "rssKibPerPod": per_pod.map(|memory| memory.rss),
            "pssKibPerPod": per_pod.map(|memory| memory.pss),
        }),
        failures: vec![],
    })
}

fn groups(options: &Idle) -> Result<(Vec<Group>, Facts)> {
    if options.lab.lab.is_none() {
        let processes = Processes::named(&options.pids).context("--pids")?;
        if processes.0.is_empty() {
            bail!("which processes? --pids PID,... or --lab NAME says");
        }
        let facts = vec![("processes".into(), processes.describe())];
        let mut groups: Vec<Group> = vec![];
        for process in &processes.0 {
            groups.push(Group {
                name: format!("{} {}", process.name()?, process.0),
                processes: Processes(vec![*process]),
            });
        }
        if groups.len() > 1 {
            groups.push(Group {
                name: "all".into(),
                processes,
            });
        }
        return Ok((groups, facts));
    }
    let lab = options.lab.open()?;
    let (host, server) = lab.serving()?;
    let mut sandboxes: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    for (sandbox, process) in host.shims()? {
        sandboxes.entry(sandbox).or_default().push(process);
    }
    let facts = vec![
        ("host".into(), host.name.clone()),
        ("binary".into(), lab.binary().display().to_string()),
    ];
    let mut all = vec![server];
    let mut groups = vec![Group {
        name: "server".into(),
        processes: Processes(vec![server]),
    }];
    for (sandbox, processes) in sandboxes {
        all.extend(&processes);
        let short: String = sandbox.chars().take(12).collect();
        groups.push(Group {
            name: format!("shim {short}"),
            processes: Processes(processes),
        });
    }
    if groups.len() > 1 {
        groups.push(Group {
            name: "all".into(),
            processes: Processes(all),
        });
    }
    Ok((groups, facts))
}

/// Looks at groups for a time. It blocks.
///
/// # Errors
/// When a process ends meanwhile or may not be looked at.
pub(super) fn observe(groups: &[Group], time: Duration) -> Result<Vec<Usage>> {
    let bar = ProgressBar::new(time.as_secs()).with_message("looking");
    let cpu = |group: &Group| group.processes.cpu().with_context(|| format!("{} ended", group.name));
    let before = groups.iter().map(cpu).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let mut samples = vec![vec![]; groups.len()];
    while begun.elapsed() < time {
        std::thread::sleep(SAMPLE_GAP.min(time.saturating_sub(begun.elapsed())));
        for (group, samples) in groups.iter().zip(&mut samples) {
            samples.push(group.processes.memory().with_context(|| group.name.clone())?);
        }
        bar.set_position(begun.elapsed().as_secs());
    }
    bar.finish_and_clear();
    let elapsed = begun.elapsed();
    let mut usages = vec![];
    for ((group, before), samples) in groups.iter().zip(before).zip(samples) {
        let cpu = cpu(group)?.saturating_sub(before);
        usages.push(Usage {
            name: group.name.clone(),
            processes: group.processes.0.len(),
            samples,
            cpu,
            elapsed,
        });
    }
    Ok(usages)
}

/// Average memory of a group; none without groups.
fn average(usages: &[&Usage]) -> Option<Memory> {
    let count = u64::try_from(usages.len()).ok().filter(|count| *count > 0)?;
    let sum = |of: fn(Memory) -> u64| usages.iter().map(|usage| of(usage.last())).sum::<u64>() / count;
    Some(Memory {
        rss: sum(|memory| memory.rss),
        pss: sum(|memory| memory.pss),
    })
}

fn mebibytes(kibibytes: u64) -> String {
    figure(kibibytes as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(samples: Vec<Memory>) -> Usage {
        Usage {
            name: "x".into(),
            processes: 2,
            samples,
            cpu: Duration::from_millis(500),
            elapsed: Duration::from_secs(50),
        }
    }

    #[test]
    fn usage_in_figures() {
        let usage = usage(vec![Memory { rss: 4096, pss: 3072 }, Memory { rss: 2048, pss: 1024 }]);
        assert_eq!(usage.row(), ["x", "2", "2.00", "1.00", "4.00", "1.00"]);
        assert_eq!(usage.json()["cpuPercentOfACore"], json!(1.0));
    }

    #[test]
    fn averages() {
        let (one, two) = (
            usage(vec![Memory { rss: 10, pss: 4 }]),
            usage(vec![Memory { rss: 20, pss: 6 }]),
        );
        assert_eq!(average(&[&one, &two]), Some(Memory { rss: 15, pss: 5 }));
        assert_eq!(average(&[]), None);
    }

    #[test]
    fn looks_at_ourselves() {
        let own = Processes::named(&[i32::try_from(std::process::id()).expect("a PID fits")]).expect("we run");
        let usages = observe(
            &[Group {
                name: "own".into(),
                processes: own,
            }],
            Duration::from_millis(20),
        )
        .expect("we may look at ourselves");
        assert!(usages[0].last().rss > 0);
    }
}
