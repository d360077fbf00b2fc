//! From CRI's container configuration to the OCI runtime configuration that libcontainer reads.
//!
//! Pure over its inputs. cgroup limits and devices are not in the document: the runtime writes them itself, because
//! libcontainer would insist on every one of them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cri::{ContainerConfig, Mount, MountPropagation, PodSandboxConfig};
use crate::images::ImageConfig;
use crate::user::Identity;

/// Annotation with the names of borrowed capabilities, separated by commas.
pub(crate) const BORROWED: &str = "trireme/borrowed-capabilities";
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const CGROUPS: &str = "/sys/fs/cgroup";
/// Files below /proc that a mount may stand in for: those that lxcfs emulates. runc has the same list.
pub(crate) const PROC_EMULATED: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];
/// Begins the path of a namespace that the shim holds open and fills in when the container starts; its name follows.
pub(crate) const HELD: &str = "held-by-the-shim:";
/// Name of the pid namespace of a container's target.
pub(crate) const HELD_TARGET: &str = "target";

/// Where the sources of mounts are for a container with a user namespace, in the view that it is built in.
const STAGE: &str = "/mounts";

/// The source of a mount and where it is found while the container is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedMount {
    pub(crate) source: PathBuf,
    pub(crate) path: PathBuf,
    /// Whether the ids of its files are mapped into the user namespace. Those of others are the host's.
    pub(crate) mapped: bool,
}

/// Gives the sources of all binds in a document the paths they are found at; `is_mapped` says whose ids are mapped.
pub(crate) fn stage(document: &mut Value, is_mapped: impl Fn(&Path) -> bool) -> Vec<StagedMount> {
    let mut staged = Vec::new();
    for mount in document["mounts"].as_array_mut().into_iter().flatten() {
        // What is below /sys is there, too.
        let source = mount["source"]
            .as_str()
            .filter(|source| mount["type"] == "bind" && !source.starts_with("/sys/"));
        let Some(source) = source.map(PathBuf::from) else { continue };
        let path = PathBuf::from(format!("{STAGE}/{}", staged.len()));
        mount["source"] = json!(path);
        staged.push(StagedMount {
            mapped: is_mapped(&source),
            source,
            path,
        });
    }
    staged
}

/// Why nothing is mounted below /proc, in runc's words. `landed` is where the mount point leads in the root.
pub(crate) fn misplaced(source: &Path, destination: &str, landed: &Path, source_is_proc: bool) -> Option<String> {
    let why = match landed.strip_prefix("/proc") {
        Ok(below) if below.as_os_str().is_empty() && !source_is_proc => "it is not type proc",
        Ok(below) if !below.as_os_str().is_empty() && !PROC_EMULATED.iter().any(|known| landed == Path::new(known)) => {
            "it is inside /proc"
        }
        _ => return None,
    };
    Some(format!(
        "error mounting {source:?} to rootfs at {destination:?}: {landed:?} cannot be mounted because {why}"
    ))
}

/// A device node that a privileged container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: String,
    /// `c` or `b`.
    pub(crate) kind: char,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Everything the document is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) identity: &'a Identity,
    /// `CAP_…`.
    pub(crate) capabilities: &'a [String],
    /// More of them, which the shim gives up again before the command is executed.
    pub(crate) borrowed: &'a [String],
    /// Pid of the shim, whose namespaces are the pod's.
    pub(crate) shim_pid: i32,
    /// Pid of the shared pid namespace's holder, 0 without.
    pub(crate) pause_pid: i32,
    /// Absolute path of the merged root.
    pub(crate) rootfs: &'a str,
    /// cgroup below the hierarchies' roots, absolute.
    pub(crate) cgroup: &'a str,
    /// Files of the sandbox: resolv.conf, hostname, shm.
    pub(crate) resolv_conf: &'a str,
    pub(crate) hostname_file: &'a str,
    pub(crate) shm: &'a str,
    /// Nodes of the host, for privileged containers.
    pub(crate) devices: &'a [Device],
    /// What to bind below `/sys/fs/cgroup` on a version 1 machine. Empty with version 2, which gets a cgroup namespace.
    pub(crate) cgroup_views: &'a [(String, PathBuf)],
}

/// The command: CRI's rules on image and container words.
pub(crate) fn command(config: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let (entrypoint, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    entrypoint.iter().chain(args).cloned().collect()
}

/// The environment: the image's, then the container's, which wins.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let mut put = |entry: String| {
        let key = entry.split('=').next().unwrap_or_default().to_owned();
        match entries.iter_mut().find(|old| old.split('=').next() == Some(key.as_str())) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    };
    put(PATH_DEFAULT.to_owned());
    if inputs.config.tty {
        put("TERM=xterm".to_owned());
    }
    put(format!("HOSTNAME={}", inputs.sandbox.hostname));
    inputs.image.env.iter().cloned().for_each(&mut put);
    inputs
        .config
        .envs
        .iter()
        .for_each(|(name, value)| put(format!("{name}={value}")));
    if !entries.iter().any(|entry| entry.starts_with("HOME=")) {
        entries.push(format!("HOME={}", inputs.identity.home.as_deref().unwrap_or("/")));
    }
    entries
}

/// OCI's `process` of the container.
pub(crate) fn process(inputs: &Inputs<'_>) -> Value {
    let security = &inputs.config.security_context;
    let cwd = [&inputs.config.working_dir, &inputs.image.working_dir]
        .into_iter()
        .find(|path| !path.is_empty());
    let capabilities: Vec<&String> = inputs.capabilities.iter().chain(inputs.borrowed).collect();
    json!({
        "terminal": inputs.config.tty,
        "user": {"uid": inputs.identity.uid, "gid": inputs.identity.gid, "additionalGids": inputs.identity.groups, "umask": 0o022},
        "args": command(inputs.config, inputs.image),
        "env": environment(inputs),
        "cwd": cwd.map_or("/", String::as_str),
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities, "inheritable": [], "ambient": []},
        "noNewPrivileges": security.no_new_privs,
    })
}

fn bind(mount: &Mount) -> Value {
    let propagation = match mount.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (false, _) => "rw",
        (true, false) => "ro",
        (true, true) => "rro",
    };
    let mut options = vec!["rbind", propagation, access];
    if mount.image.is_some() {
        options.push("noexec");
    }
    json!({
        "destination": mount.container_path,
        "type": "bind",
        "source": mount.host_path,
        "options": options,
    })
}

fn file(destination: &str, source: &str, readonly: bool) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", if readonly { "ro" } else { "rw" }]})
}

fn mounts(inputs: &Inputs<'_>) -> Vec<Value> {
    let security = &inputs.config.security_context;
    let system = |access: &'static str| json!(["nosuid", "noexec", "nodev", access]);
    let access = if security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": system(access)}),
    ];
    if inputs.cgroup_views.is_empty() {
        mounts.push(json!({"destination": CGROUPS, "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}));
    } else {
        // libcontainer's own way for version 1 looks up a pid of the container's namespace in the host's /proc.
        mounts.push(json!({"destination": CGROUPS, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"]}));
        mounts.extend(inputs.cgroup_views.iter().map(|(name, source)| {
            json!({"destination": format!("{CGROUPS}/{name}"), "type": "bind", "source": source,
                "options": ["bind", "rprivate", "nosuid", "noexec", "nodev", access]})
        }));
    }
    let taken = |path: &str| {
        inputs
            .config
            .mounts
            .iter()
            .any(|mount| mount.container_path.trim_end_matches('/') == path)
    };
    let readonly = security.readonly_rootfs;
    if !taken("/dev/shm") {
        mounts.push(file("/dev/shm", inputs.shm, false));
    }
    if !taken("/etc/hostname") {
        mounts.push(file("/etc/hostname", inputs.hostname_file, readonly));
    }
    if !taken("/etc/resolv.conf") {
        mounts.push(file("/etc/resolv.conf", inputs.resolv_conf, readonly));
    }
    // A mount below another comes after it.
    let mut own: Vec<&Mount> = inputs.config.mounts.iter().collect();
    own.sort_by_key(|mount| mount.container_path.trim_end_matches('/').matches('/').count());
    mounts.extend(own.into_iter().map(bind));
    mounts
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<Value> {
    let shared = inputs.sandbox.namespaces;
    let of_shim = |name: &str| match shared.user {
        // Who has entered the user namespace may not look at the shim any more.
        Some(_) => format!("{HELD}{name}"),
        None => format!("/proc/{}/ns/{name}", inputs.shim_pid),
    };
    let mut namespaces = vec![json!({"type": "mount"})];
    if !shared.host_network {
        namespaces.push(json!({"type": "network", "path": of_shim("net")}));
        namespaces.push(json!({"type": "uts", "path": of_shim("uts")}));
    }
    if !shared.host_ipc {
        namespaces.push(json!({"type": "ipc", "path": of_shim("ipc")}));
    }
    let target = inputs.config.security_context.pid_target.is_some();
    match (shared.host_pid, inputs.pause_pid) {
        _ if target => namespaces.push(json!({"type": "pid", "path": format!("{HELD}{HELD_TARGET}")})),
        (true, _) => {}
        (false, 0) => namespaces.push(json!({"type": "pid"})),
        (false, _) if shared.user.is_some() => namespaces.push(json!({"type": "pid", "path": of_shim("pid")})),
        (false, pause) => namespaces.push(json!({"type": "pid", "path": format!("/proc/{pause}/ns/pid")})),
    }
    if shared.user.is_some() {
        namespaces.push(json!({"type": "user", "path": of_shim("user")}));
    }
    if inputs.cgroup_views.is_empty() && !inputs.config.security_context.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces
}

/// The whole document.
pub(crate) fn document(inputs: &Inputs<'_>) -> Value {
    let security = &inputs.config.security_context;
    let propagations = || inputs.config.mounts.iter().map(|mount| mount.propagation);
    let root_propagation = if propagations().any(|propagation| propagation == MountPropagation::Bidirectional) {
        "shared"
    } else if propagations().any(|propagation| propagation == MountPropagation::HostToContainer) {
        "slave"
    } else {
        "private"
    };
    let devices: Vec<Value> = inputs
        .devices
        .iter()
        .map(|device| {
            json!({"path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
                "fileMode": device.mode, "uid": device.uid, "gid": device.gid})
        })
        .collect();
    let hidden = |paths: &[&str]| {
        if security.privileged || security.unmasked_proc {
            Vec::new()
        } else {
            paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()
        }
    };
    let mut readonly = hidden(&READONLY);
    let own_sys = inputs
        .config
        .mounts
        .iter()
        .any(|mount| mount.container_path.starts_with("/sys"));
    if !inputs.cgroup_views.is_empty() && !security.privileged && !own_sys {
        // The tmpfs that had to be writable until the hierarchies were bound in it.
        readonly.push(CGROUPS.to_owned());
    }
    json!({
        "ociVersion": "1.2.0",
        "annotations": {BORROWED: inputs.borrowed.join(",")},
        "root": {"path": inputs.rootfs, "readonly": security.readonly_rootfs},
        "process": process(inputs),
        "mounts": mounts(inputs),
        "linux": {
            "namespaces": namespaces(inputs),
            "cgroupsPath": inputs.cgroup,
            "devices": devices,
            "maskedPaths": hidden(&MASKED),
            "readonlyPaths": readonly,
            "rootfsPropagation": root_propagation,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_below_proc() {
        let why = |landed: &str, is_proc| misplaced(Path::new("/src"), "/link/x", Path::new(landed), is_proc);
        for fine in [
            "/etc/proc/x",
            "/process",
            "/",
            "/proc/cpuinfo",
            "/proc/sys/crypto/fips_enabled",
        ] {
            assert_eq!(why(fine, false), None, "{fine}");
        }
        assert_eq!(why("/proc", true), None);
        let text = "error mounting \"/src\" to rootfs at \"/link/x\": ";
        for (landed, reason) in [
            ("/proc", "it is not type proc"),
            ("/proc/sys", "it is inside /proc"),
            ("/proc/self/attr", "it is inside /proc"),
            ("/proc/cpuinfo/x", "it is inside /proc"),
        ] {
            let expected = format!("{text}\"{landed}\" cannot be mounted because {reason}");
            assert_eq!(why(landed, false), Some(expected));
        }
    }

    #[test]
    fn words_of_image_and_container() {
        let image = ImageConfig {
            entrypoint: vec!["e".into()],
            cmd: vec!["c".into()],
            ..ImageConfig::default()
        };
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["e", "c"]),
            (&["x"], &[], &["x"]),
            (&[], &["y"], &["e", "y"]),
            (&["x"], &["y"], &["x", "y"]),
        ];
        for (command_words, args, expected) in cases {
            let config = ContainerConfig {
                command: list(command_words),
                args: list(args),
                ..ContainerConfig::default()
            };
            assert_eq!(command(&config, &image), expected);
        }
    }
}
