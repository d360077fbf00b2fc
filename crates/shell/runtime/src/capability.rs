//! Linux capabilities: names, the default set, and what this machine can give at all. Pure but for reading its own bounds.

use std::io;

/// Names in kernel order.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise.
const DEFAULTS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The mask this process can pass on.
pub(crate) fn bounding() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    mask.ok_or_else(|| io::Error::other("/proc/self/status has no CapBnd"))
}

/// The set of a container, as `CAP_…`: defaults (or all), plus `add`, minus `drop`, within `bounding`. Added ones win over
/// `drop: ALL`, dropped ones over `add: ALL`. The error names an unknown capability.
pub(crate) fn resolve(privileged: bool, add: &[String], drop: &[String], bounding: u64) -> Result<Vec<String>, String> {
    let clean = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|name| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned())
            .collect()
    };
    let (add, drop) = (clean(add), clean(drop));
    if let Some(unknown) = add
        .iter()
        .chain(&drop)
        .find(|name| *name != "ALL" && !NAMES.contains(&name.as_str()))
    {
        return Err(format!("unknown capability \"CAP_{unknown}\""));
    }
    let has = |list: &[String], name: &str| list.iter().any(|other| other == name);
    let keep = |name: &str| {
        if privileged || (has(&add, name) && !has(&drop, name)) {
            return true;
        }
        if has(&drop, name) {
            return false;
        }
        has(&add, "ALL") || (!has(&drop, "ALL") && DEFAULTS.contains(&name))
    };
    let possible = |index: usize| bounding & (1 << index) != 0;
    let names = NAMES
        .iter()
        .enumerate()
        .filter(|(index, name)| possible(*index) && keep(name));
    Ok(names.map(|(_, name)| format!("CAP_{name}")).collect())
}

/// What must be borrowed beside `granted` to install a seccomp filter without `no_new_privs`, and to give it up again.
pub(crate) fn to_install_a_filter(granted: &[String]) -> Vec<String> {
    if granted.iter().any(|name| name == "CAP_SYS_ADMIN") {
        return Vec::new();
    }
    let needed = ["CAP_SYS_ADMIN", "CAP_SETPCAP"].into_iter().map(str::to_owned);
    needed.filter(|name| !granted.contains(name)).collect()
}

/// The mask of names separated by commas, `None` if one of them is unknown.
pub(crate) fn mask(names: &str) -> Option<u64> {
    names.split(',').filter(|name| !name.is_empty()).try_fold(0, |mask, name| {
        let index = NAMES.iter().position(|known| Some(*known) == name.strip_prefix("CAP_"))?;
        Some(mask | 1 << index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let all = u64::MAX;
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let count = |privileged, add: &[&str], drop: &[&str], bounding| {
            resolve(privileged, &list(add), &list(drop), bounding).map(|names| names.len())
        };
        assert_eq!(count(false, &[], &[], all), Ok(14));
        assert_eq!(count(true, &[], &[], all), Ok(41));
        assert_eq!(count(true, &[], &[], all & !(1 << 24)), Ok(40));
        assert_eq!(count(false, &["ALL"], &["KILL"], all), Ok(40));
        assert_eq!(
            resolve(false, &list(&["NET_ADMIN"]), &list(&["ALL"]), all),
            Ok(list(&["CAP_NET_ADMIN"]))
        );
        assert_eq!(to_install_a_filter(&list(&["CAP_SYS_ADMIN"])), list(&[]));
        assert_eq!(to_install_a_filter(&list(&["CAP_SETPCAP"])), list(&["CAP_SYS_ADMIN"]));
        assert_eq!(mask(&to_install_a_filter(&[]).join(",")), Some(1 << 21 | 1 << 8));
        assert_eq!((mask(""), mask("CAP_NOPE")), (Some(0), None));
        assert_eq!(
            count(false, &["NOPE"], &[], all),
            Err("unknown capability \"CAP_NOPE\"".to_owned())
        );
    }
}
