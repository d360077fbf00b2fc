//! What containers wrote of themselves into a directory that all hosts share: when each run of them began, and that it
//! still went on. All hosts have one clock, the machine's time since its start.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The directory, for as long as it is needed.
pub(crate) struct Stamps(PathBuf);

/// A file is one pod: `WHAT.NAME.UID`. A line is a sign of life: when that run began, and when it was written.
pub(crate) const LIVES: &str = "read begin rest < /proc/uptime; while true; do read now rest < /proc/uptime; \
    echo $begin $now >> /stamps/WHAT.$NAME.$ID; sleep 0.2; done";
/// The same of a pod that ends by itself.
pub(crate) const ENDS: &str = "read begin rest < /proc/uptime; echo $begin $begin >> /stamps/WHAT.$NAME.$ID; sleep 3; \
    read now rest < /proc/uptime; echo $begin $now >> /stamps/WHAT.$NAME.$ID";

/// One run of a container, in seconds of the machine's clock.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) uid: String,
    pub(crate) begin: f64,
    pub(crate) last: f64,
}

/// Runs by pod name.
pub(crate) type Runs = BTreeMap<String, Vec<Run>>;

impl Stamps {
    pub(crate) fn make(lab: &str) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("{lab}-stamps"));
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?; // What an interrupted run left.
        }
        std::fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    pub(crate) fn path(&self) -> std::borrow::Cow<'_, str> {
        self.0.to_string_lossy()
    }

    /// All runs of pods of one sort.
    pub(crate) fn of(&self, what: &str) -> Result<Runs> {
        let mut all = Runs::new();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let [sort, pod, uid] = name.split('.').collect::<Vec<_>>()[..] else {
                continue;
            };
            if sort == what {
                let runs = runs(uid, &std::fs::read_to_string(entry.path())?).with_context(|| name.to_string())?;
                all.entry(pod.to_owned()).or_default().extend(runs);
            }
        }
        for runs in all.values_mut() {
            runs.sort_by(|one, other| one.begin.total_cmp(&other.begin));
        }
        Ok(all)
    }
}

impl Drop for Stamps {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

fn runs(uid: &str, text: &str) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for line in text.lines() {
        let (begin, last) = line.split_once(' ').context("two times")?;
        let (begin, last): (f64, f64) = (begin.parse()?, last.parse()?);
        match runs.iter_mut().find(|run| run.begin.total_cmp(&begin).is_eq()) {
            Some(run) => run.last = last,
            None => runs.push(Run {
                uid: uid.to_owned(),
                begin,
                last,
            }),
        }
    }
    Ok(runs)
}

/// No two runs of one name went on at the same time.
pub(crate) fn never_two_at_once(all: &Runs) -> Result<()> {
    for (name, runs) in all {
        let mut latest: Option<&Run> = None;
        for run in runs {
            if let Some(before) = latest {
                ensure!(before.last <= run.begin, "{name} ran twice at once: {before:?} and {run:?}");
            }
            if latest.is_none_or(|before| run.last > before.last) {
                latest = Some(run);
            }
        }
    }
    Ok(())
}

/// No pod ran twice.
pub(crate) fn each_ran_once(all: &Runs) -> Result<()> {
    for (name, runs) in all {
        let again = runs
            .iter()
            .enumerate()
            .find(|(at, run)| runs[..*at].iter().any(|other| other.uid == run.uid));
        ensure!(again.is_none(), "{name} was run again: {runs:?}");
    }
    Ok(())
}
