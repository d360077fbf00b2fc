//! The last look before a container's command is executed: nothing but what belongs there is mounted at or below /proc. The
//! runtime has looked at the paths of the mounts already; links in volumes, which may change at any time, show only here, where
//! the mounts have been made.

use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;

use crate::rootfs;
use crate::spec::{PROC_EMULATED, misplaced};

/// Fails, in runc's words, if a mount covers /proc or a part of it.
pub(super) fn check(spec: &Spec) -> Result<(), String> {
    let own: Vec<&str> = spec
        .linux()
        .iter()
        .flat_map(|linux| [linux.masked_paths(), linux.readonly_paths()])
        .flatten()
        .flatten()
        .map(String::as_str)
        .collect();
    let landed = if rootfs::is_procfs(Path::new("/proc")) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
        foreign(&mounts, &own)
    } else {
        Some("/proc".to_owned())
    };
    let Some(landed) = landed else { return Ok(()) };
    // Which of the mounts it is: the one whose path leads there.
    let leads = |destination: &Path| {
        destination == Path::new(&landed) || std::fs::canonicalize(destination).is_ok_and(|found| found == Path::new(&landed))
    };
    let culprit = spec.mounts().iter().flatten().rev().find(|mount| leads(mount.destination()));
    let source = culprit.and_then(|mount| mount.source().clone()).unwrap_or_default();
    let destination = culprit.map_or_else(|| landed.clone(), |mount| mount.destination().display().to_string());
    match misplaced(&source, &destination, Path::new(&landed), false) {
        Some(why) => Err(why),
        None => Err(format!("error mounting at {landed:?}")),
    }
}

/// The first mount point below /proc that is neither one of the paths that are hidden or made read-only, each of which is
/// mounted once, nor one that may be stood in for.
fn foreign(mountinfo: &str, own: &[&str]) -> Option<String> {
    let mut seen: Vec<&str> = Vec::new();
    for point in mountinfo.lines().filter_map(|line| line.split(' ').nth(4)) {
        if !point.starts_with("/proc/") || PROC_EMULATED.contains(&point) {
            continue;
        }
        if !own.contains(&point) || seen.contains(&point) {
            return Some(point.to_owned());
        }
        seen.push(point);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::foreign;

    #[test]
    fn only_what_belongs_there_is_below_proc() {
        let line = |point: &str| format!("30 20 0:5 / {point} ro,relatime - proc proc rw\n");
        let own = ["/proc/sys", "/proc/kcore", "/sys/firmware"];
        let text = |points: &[&str]| points.iter().map(|point| line(point)).collect::<String>();
        let fine = ["/", "/proc", "/proc/sys", "/proc/kcore", "/proc/uptime", "/processes/x"];
        assert_eq!(foreign(&text(&fine), &own), None);
        for (points, expected) in [
            (vec!["/proc", "/proc/self/attr"], "/proc/self/attr"),
            // Once by the user, once to make it read-only.
            (vec!["/proc", "/proc/sys", "/proc/sys"], "/proc/sys"),
            (vec!["/proc/a\\040b"], "/proc/a\\040b"),
        ] {
            assert_eq!(foreign(&text(&points), &own).as_deref(), Some(expected));
        }
    }
}
