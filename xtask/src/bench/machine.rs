//! Where and with what a figure was taken.

use std::process::Command;

use super::process::kibibytes;
use super::report::Facts;
use crate::project;

/// Facts about the machine and the checkout, in the order of the report. What cannot be found out says so.
pub(crate) fn facts() -> Facts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or_else(|_| "unknown".into(), |cores| cores.to_string());
    let memory = kibibytes(&read("/proc/meminfo"), "MemTotal:").map_or_else(
        || "unknown".into(),
        |total| format!("{:.1} GiB", total as f64 / 1024.0 / 1024.0),
    );
    vec![
        ("CPU".into(), cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown").into()),
        ("cores".into(), cores),
        ("memory".into(), memory),
        ("kernel".into(), read("/proc/sys/kernel/osrelease").trim().into()),
        ("commit".into(), commit()),
    ]
}

/// The processor's name in `/proc/cpuinfo`.
fn cpu_model(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()))
}

fn commit() -> String {
    let git = |arguments: &[&str]| project::output(Command::new("git").args(arguments).current_dir(project::root()));
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|changes| !changes.is_empty());
    format!("{}{}", commit.trim(), if changed { " with changes" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_names_all() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2.0GHz\n\nprocessor\t: 1\nmodel name\t: Another\n";
        assert_eq!(cpu_model(text), Some("A CPU @ 2.0GHz"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn all_facts_are_there() {
        assert!(facts().iter().all(|(_, value)| !value.is_empty()));
    }
}
