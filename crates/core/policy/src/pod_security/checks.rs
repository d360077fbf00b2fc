//! The checks of the pod security standards, one row each.
//!
//! Invariant: rows stand in the order in which upstream tells violations: baseline by name, then restricted by name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::isolation::Isolation;
use super::{Level, Violation};

/// A pod, or the template of one.
pub(super) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
    /// What of that is kept where it runs.
    pub enforced: Isolation,
}

/// One check.
pub(super) struct Check {
    /// Level from which it counts.
    level: Level,
    /// First minor version that has it.
    since: u32,
    /// Minor version from which a stricter check stands in for it at the restricted level.
    replaced: u32,
    /// What is wrong, by the rules of that minor version.
    pub run: fn(&Pod<'_>, u32) -> Option<Violation>,
}

impl Check {
    pub(super) fn applies(&self, level: Level, minor: u32) -> bool {
        level >= self.level && minor >= self.since && (level < Level::Restricted || minor < self.replaced)
    }
}

const NEVER: u32 = u32::MAX;

const fn baseline(since: u32, replaced: u32, run: fn(&Pod<'_>, u32) -> Option<Violation>) -> Check {
    Check {
        level: Level::Baseline,
        since,
        replaced,
        run,
    }
}

const fn restricted(since: u32, run: fn(&Pod<'_>, u32) -> Option<Violation>) -> Check {
    Check {
        level: Level::Restricted,
        since,
        replaced: NEVER,
        run,
    }
}

pub(super) static TABLE: &[Check] = &[
    baseline(0, NEVER, app_armor),
    baseline(0, 22, capabilities),
    baseline(0, NEVER, host_namespaces),
    baseline(0, 0, host_paths),
    baseline(0, NEVER, host_ports),
    baseline(34, NEVER, probe_hosts),
    baseline(0, NEVER, privileged),
    baseline(0, 35, proc_mount),
    baseline(0, NEVER, selinux),
    baseline(0, 19, seccomp),
    baseline(0, NEVER, sysctls),
    baseline(0, NEVER, windows_host_process),
    restricted(8, privilege_escalation),
    restricted(22, restricted_capabilities),
    restricted(35, any_proc_mount),
    restricted(0, restricted_volumes),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, restricted_seccomp),
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that cannot hurt others, with the minor version that let them in.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

/// Volumes that the restricted level lets in.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

impl<'a> Pod<'a> {
    /// Init containers, containers, ephemeral containers.
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| items(&spec[list]))
    }

    /// Names of the containers that `bad` holds for.
    fn named(&self, bad: impl FnMut(&&'a Value) -> bool) -> Vec<String> {
        self.containers()
            .filter(bad)
            .map(|container| text(&container["name"]).to_owned())
            .collect()
    }

    fn is_windows(&self) -> bool {
        self.enforced.os && self.spec["os"]["name"] == "windows"
    }

    fn has_user_namespace(&self) -> bool {
        self.enforced.host_users && self.spec["hostUsers"] == false
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("\"{}\"", names.join("\", \""))
    }
}

fn sorted(set: BTreeSet<String>) -> Vec<String> {
    set.into_iter().collect()
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn containers(names: &[String]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names))
}

/// `pod`, the containers, or both.
fn setters(pod: bool, bad: &[String]) -> Option<String> {
    let mut setters = Vec::new();
    if pod {
        setters.push("pod".to_owned());
    }
    if !bad.is_empty() {
        setters.push(containers(bad));
    }
    (!setters.is_empty()).then(|| setters.join(" and "))
}

#[expect(clippy::unnecessary_wraps, reason = "every check ends with it")]
fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn app_armor(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let profile = &context["appArmorProfile"];
        let wrong = !profile.is_null() && !matches!(text(&profile["type"]), "RuntimeDefault" | "Localhost");
        if wrong {
            values.insert(text(&profile["type"]).to_owned());
        }
        wrong
    };
    let of_pod = bad(&pod.spec["securityContext"]);
    let named = pod.named(|container| bad(&container["securityContext"]));
    let mut who: Vec<String> = setters(of_pod, &named).into_iter().collect();
    let mut values = sorted(values);
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let forbidden: BTreeSet<String> = annotations
        .map(|(key, value)| (key, text(value)))
        .filter(|(key, value)| {
            let fine = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !fine
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !forbidden.is_empty() {
        who.push(plural(forbidden.len(), "annotation", "annotations").to_owned());
        values.extend(forbidden);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    violation(
        reason,
        format!(
            "{} must not set AppArmor profile type to {}",
            who.join(" and "),
            quoted(&values)
        ),
    )
}

fn capabilities(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let mut added = BTreeSet::new();
    let bad = pod.named(|container| {
        let before = added.len();
        let mut wrong = false;
        for capability in items(&container["securityContext"]["capabilities"]["add"]).map(text) {
            if !CAPABILITIES.contains(&capability) {
                wrong = true;
                added.insert(capability.to_owned());
            }
        }
        debug_assert!(wrong || before == added.len());
        wrong
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&bad),
        quoted(&sorted(added))
    );
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|name| pod.spec[*name] == true);
    let set: Vec<String> = set.map(|name| format!("{name}=true")).collect();
    if set.is_empty() {
        None
    } else {
        violation("host namespaces", set.join(", "))
    }
}

fn host_paths(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let volumes = items(&pod.spec["volumes"]).filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<String> = volumes.map(|volume| text(&volume["name"]).to_owned()).collect();
    if names.is_empty() {
        return None;
    }
    violation(
        "hostPath volumes",
        format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(&names)),
    )
}

fn host_ports(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = pod.named(|container| {
        let own: Vec<String> = items(&container["ports"])
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect();
        let wrong = !own.is_empty();
        ports.extend(own);
        wrong
    });
    if bad.is_empty() {
        return None;
    }
    let ports = sorted(ports);
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural(bad.len(), "uses", "use"),
        plural(ports.len(), "hostPort", "hostPorts"),
        ports.join(", ")
    );
    violation("hostPort", detail)
}

fn probe_hosts(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let bad = pod.named(|container| {
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &container["lifecycle"]["postStart"],
            &container["lifecycle"]["preStop"],
        ];
        let own: Vec<String> = handlers
            .into_iter()
            .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
            .map(|host| text(host).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        let wrong = !own.is_empty();
        hosts.extend(own);
        wrong
    });
    if bad.is_empty() {
        return None;
    }
    let (bad, hosts) = (sorted(bad.into_iter().collect()), sorted(hosts));
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural(bad.len(), "uses", "use"),
        plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts"),
        quoted(&hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let bad = pod.named(|container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!("{} must not set securityContext.privileged=true", containers(&bad)),
    )
}

fn proc_mount(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && pod.has_user_namespace() {
        None
    } else {
        any_proc_mount(pod, minor)
    }
}

fn any_proc_mount(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = pod.named(|container| {
        let kind = &container["securityContext"]["procMount"];
        let wrong = !kind.is_null() && kind != "Default";
        if wrong {
            kinds.insert(text(kind).to_owned());
        }
        wrong
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers(&bad),
        quoted(&sorted(kinds))
    );
    violation("procMount", detail)
}

fn selinux(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = text(&options["type"]);
        let fine = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (kind == "container_engine_t" && minor >= 31);
        let (sets_user, sets_role) = (!text(&options["user"]).is_empty(), !text(&options["role"]).is_empty());
        if !fine {
            kinds.insert(kind.to_owned());
        }
        user |= sets_user;
        role |= sets_role;
        !fine || sets_user || sets_role
    };
    let of_pod = bad(&pod.spec["securityContext"]);
    let named = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(of_pod, &named)?;
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural(kinds.len(), "type", "types"), quoted(&sorted(kinds))));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

fn seccomp(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 19 {
        return seccomp_set_badly(pod).1;
    }
    let annotations = &pod.metadata["annotations"];
    let of_pod = "seccomp.security.alpha.kubernetes.io/pod".to_owned();
    let of_container = |container: &Value| {
        format!(
            "container.{}/{}",
            "seccomp.security.alpha.kubernetes.io",
            text(&container["name"])
        )
    };
    let keys: BTreeSet<String> = std::iter::once(of_pod).chain(pod.containers().map(of_container)).collect();
    let fine = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let forbidden: Vec<String> = keys
        .iter()
        .filter_map(|key| Some((key, annotations[key].as_str()?)))
        .filter(|(_, value)| !fine(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let detail = format!(
        "forbidden {} {}",
        plural(forbidden.len(), "annotation", "annotations"),
        forbidden.join(", ")
    );
    violation("seccompProfile", detail)
}

/// Whether the pod itself has a good profile, and who sets bad ones.
fn seccomp_set_badly(pod: &Pod<'_>) -> (bool, Option<Violation>) {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let profile = &context["seccompProfile"];
        let wrong = !profile.is_null() && !matches!(text(&profile["type"]), "RuntimeDefault" | "Localhost");
        if wrong {
            values.insert(text(&profile["type"]).to_owned());
        }
        wrong
    };
    let of_pod = bad(&pod.spec["securityContext"]);
    let named = pod.named(|container| bad(&container["securityContext"]));
    let good = !of_pod && !pod.spec["securityContext"]["seccompProfile"].is_null();
    let found = setters(of_pod, &named).and_then(|who| {
        let detail = format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted(&sorted(values))
        );
        violation("seccompProfile", detail)
    });
    (good, found)
}

fn restricted_seccomp(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let (good, found) = seccomp_set_badly(pod);
    if found.is_some() || good {
        return found;
    }
    let bad = pod.named(|container| container["securityContext"]["seccompProfile"].is_null());
    if bad.is_empty() {
        return None;
    }
    let wanted = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    violation("seccompProfile", format!("pod or {} {wanted}", containers(&bad)))
}

fn sysctls(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    let fine = |name: &str| SYSCTLS.iter().any(|(allowed, since)| *allowed == name && minor >= *since);
    let names = items(&pod.spec["securityContext"]["sysctls"]).map(|sysctl| text(&sysctl["name"]));
    let bad: Vec<&str> = names.filter(|name| !fine(name)).collect();
    if bad.is_empty() {
        None
    } else {
        violation("forbidden sysctls", bad.join(", "))
    }
}

fn windows_host_process(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let named = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(bad(&pod.spec["securityContext"]), &named)?;
    violation(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn privilege_escalation(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let bad = pod.named(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    violation("allowPrivilegeEscalation != false", detail)
}

fn restricted_capabilities(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let mut added = BTreeSet::new();
    let keeping = pod.named(|container| !items(&container["securityContext"]["capabilities"]["drop"]).any(|drop| drop == "ALL"));
    let adding = pod.named(|container| {
        let own: Vec<String> = items(&container["securityContext"]["capabilities"]["add"])
            .map(|capability| text(capability).to_owned())
            .filter(|capability| capability != "NET_BIND_SERVICE")
            .collect();
        let wrong = !own.is_empty();
        added.extend(own);
        wrong
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers(&keeping)
        ));
    }
    if !adding.is_empty() {
        let added = quoted(&sorted(added));
        details.push(format!(
            "{} must not include {added} in securityContext.capabilities.add",
            containers(&adding)
        ));
    }
    if details.is_empty() {
        None
    } else {
        violation("unrestricted capabilities", details.join("; "))
    }
}

fn restricted_volumes(pod: &Pod<'_>, _minor: u32) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in items(&pod.spec["volumes"]) {
        let sources = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, source)| *name != "name" && !source.is_null());
        let sources: Vec<&str> = sources.map(|(name, _)| name.as_str()).collect();
        if !sources.iter().any(|source| VOLUMES.contains(source)) {
            names.push(text(&volume["name"]).to_owned());
            kinds.insert((*sources.first().unwrap_or(&"unknown")).to_owned());
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural(names.len(), "volume", "volumes"),
        quoted(&names),
        plural(names.len(), "uses", "use"),
        plural(kinds.len(), "restricted volume type", "restricted volume types"),
        quoted(&sorted(kinds))
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let says = |context: &Value| context["runAsNonRoot"].as_bool();
    let of_pod = says(&pod.spec["securityContext"]);
    let refusing = pod.named(|container| says(&container["securityContext"]) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &refusing) {
        return violation(
            "runAsNonRoot != true",
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = pod.named(|container| says(&container["securityContext"]).is_none());
    if of_pod == Some(true) || silent.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
    violation("runAsNonRoot != true", detail)
}

fn run_as_user(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let root = |context: &Value| context["runAsUser"] == 0;
    let named = pod.named(|container| root(&container["securityContext"]));
    let who = setters(root(&pod.spec["securityContext"]), &named)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
