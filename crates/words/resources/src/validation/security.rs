//! Security contexts of pods and containers, on Linux and on Windows (pkg/apis/core/validation).
//!
//! Invariant: privileged containers are allowed by this server; whether they may run is for admission to say.

use serde_json::Value;

use super::errors::Errors;
use super::names;
use super::node::Node;
use super::seen::Seen;
use super::volume::descending;

/// Containers of a pod in the order in which upstream visits them.
pub(super) fn every_container<'a>(spec: &Node<'a>) -> Vec<Node<'a>> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| spec.at(list).items())
        .collect()
}

fn ids(errors: &mut Errors, node: &Node<'_>, list: &[&str]) {
    for name in list {
        let id = node.at(name);
        errors.extend(names::user_id(id.int()).into_iter().map(|message| id.bad_int(message)));
    }
}

/// A container's context; an absent one is fine.
pub(super) fn container(errors: &mut Errors, node: &Node<'_>, host_users: bool) {
    if !node.set() {
        return;
    }
    ids(errors, node, &["runAsUser", "runAsGroup"]);
    let mount = node.at("procMount");
    if mount.set() {
        mount.one_of(errors, &["Default", "Unmasked"]);
        if host_users && mount.str() == "Unmasked" {
            errors.push(mount.bad("`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(errors, &node.at("seccompProfile"));
    if node.at("allowPrivilegeEscalation").value == &Value::Bool(false) {
        let whole = |detail: &str| node.bad_struct("api/core/v1", "SecurityContext", detail);
        if node.is("privileged") {
            errors.push(whole(
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        for _ in node
            .get("capabilities.add")
            .strings()
            .iter()
            .filter(|name| **name == "CAP_SYS_ADMIN")
        {
            errors.push(whole(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    windows_options(errors, &node.at("windowsOptions"));
    app_armor(errors, &node.at("appArmorProfile"));
}

/// A pod's context.
pub(super) fn pod(errors: &mut Errors, spec: &Node<'_>) {
    let node = spec.at("securityContext");
    if !node.set() && !spec.is("shareProcessNamespace") {
        return;
    }
    ids(errors, &node, &["fsGroup", "runAsUser", "runAsGroup"]);
    for group in node.at("supplementalGroups").items() {
        errors.extend(names::user_id(group.int()).into_iter().map(|message| group.bad_int(message)));
    }
    if spec.is("shareProcessNamespace") && spec.is("hostPID") {
        let share = node.child("shareProcessNamespace");
        errors.push(share.invalid_as("true", "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    sysctls(errors, &node.at("sysctls"), spec);
    for (name, known) in [("fsGroupChangePolicy", ["Always", "OnRootMismatch"])] {
        if node.has(name) {
            node.at(name).one_of(errors, &known);
        }
    }
    seccomp(errors, &node.at("seccompProfile"));
    windows_options(errors, &node.at("windowsOptions"));
    app_armor(errors, &node.at("appArmorProfile"));
    // `MountOption` belongs to a gate that is off.
    let known: [(&str, &[&str]); 2] = [
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["Recursive"]),
    ];
    for (name, known) in known {
        if node.has(name) {
            node.at(name).one_of(errors, known);
        }
    }
}

fn sysctl_name(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(inner)
            && bytes.last().is_some_and(inner)
            && bytes.iter().all(|byte| inner(byte) || b"-_".contains(byte))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(errors: &mut Errors, node: &Node<'_>, spec: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
    for sysctl in node.items() {
        let name = sysctl.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !sysctl_name(name.str()) {
            errors.push(name.bad("must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"));
        } else if seen.contains(&name.str()) {
            errors.push(name.duplicate());
        }
        let dotted = dotted(name.str());
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        if spec.is("hostNetwork") && dotted.starts_with("net.") {
            errors.push(name.bad("may not be specified when 'hostNetwork' is true"));
        } else if spec.is("hostIPC") && ipc {
            errors.push(name.bad("may not be specified when 'hostIPC' is true"));
        }
        seen.push(name.str());
    }
}

/// With dots as separators, whatever it was written with.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name.replace('/', "\u{0}").replace('.', "/").replace('\u{0}', "."),
        _ => name.to_owned(),
    }
}

fn seccomp(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    let (kind, profile) = (node.at("type"), node.at("localhostProfile"));
    if kind.is_empty() {
        errors.push(kind.required("type is required when seccompProfile is set"));
    } else {
        kind.one_of(errors, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    if kind.str() == "Localhost" {
        if profile.set() {
            descending(errors, &profile);
        } else {
            errors.push(profile.required("must be set when seccomp type is Localhost"));
        }
    } else if profile.set() {
        let shown = super::show::internal("api/core/v1", "SeccompProfile", node.value);
        errors.push(profile.invalid_as(shown, "can only be set when seccomp type is Localhost"));
    }
}

fn app_armor(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    let (kind, profile) = (node.at("type"), node.at("localhostProfile"));
    match kind.str() {
        "Localhost" => {
            const NEEDED: &str = "must be set when AppArmor type is Localhost";
            if !profile.set() {
                errors.push(profile.required(NEEDED));
                return;
            }
            if profile.str().trim().len() != profile.len() {
                errors.push(profile.bad("must not be padded with whitespace"));
            } else if profile.is_empty() {
                errors.push(profile.required(NEEDED));
            }
            if profile.len() > 4095 {
                errors.push(profile.too_long(4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.set() {
                errors.push(profile.bad("can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(kind.required("type is required when appArmorProfile is set")),
        _ => errors.push(kind.unsupported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
}

fn windows_options(errors: &mut Errors, node: &Node<'_>) {
    let (name, spec, user) = (
        node.at("gmsaCredentialSpecName"),
        node.at("gmsaCredentialSpec"),
        node.at("runAsUserName"),
    );
    if name.set() {
        name.each(errors, names::subdomain(name.str()));
    }
    if spec.set() {
        if spec.is_empty() {
            errors.push(spec.bad("gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > 64 * 1024 {
            errors.push(spec.bad("gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if user.set() {
        errors.extend(windows_user(user.str()).into_iter().map(|message| user.bad(message)));
    }
}

fn windows_user(text: &str) -> Vec<&'static str> {
    if text.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut messages = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= 256) {
        messages.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|domain| !net_bios(domain) && !dns_domain(domain)) {
        messages.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        messages.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        messages.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.bytes().all(|byte| b". ".contains(&byte)) {
        messages.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|letter| "\"/\\:;|=,+*?<>@[]".contains(letter)) {
        messages.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    messages
}

fn net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|letter| "\\/:*?\"<>|".contains(letter))
}

fn dns_domain(domain: &str) -> bool {
    domain.split('.').all(|part| names::label(&part.to_lowercase()).is_empty())
}

/// What holds between a pod and its containers on Windows.
pub(super) fn host_process(errors: &mut Errors, spec: &Node<'_>) {
    let pod = spec.get("securityContext.windowsOptions.hostProcess").value.as_bool();
    let (mut all, mut hosts) = (0, 0);
    for container in every_container(spec) {
        all += 1;
        let node = container.get("securityContext.windowsOptions.hostProcess");
        let own = node.value.as_bool();
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            errors.push(node.invalid(format!(
                "pod hostProcess value must be identical if both are specified, was {pod}"
            )));
        }
        if own.or(pod) == Some(true) {
            hosts += 1;
        }
    }
    if hosts > 0 {
        if hosts != all {
            errors.push(spec.bad_text(
                "",
                "If pod contains any hostProcess containers then all containers must be HostProcess containers",
            ));
        }
        if !spec.is("hostNetwork") {
            errors.push(
                spec.child("hostNetwork")
                    .invalid_as("false", "hostNetwork must be true if pod contains any hostProcess containers"),
            );
        }
    }
}

/// A pod with users of its own shares nothing else with the host.
pub(super) fn host_users(errors: &mut Errors, spec: &Node<'_>) {
    if spec.at("hostUsers").value != &Value::Bool(false) {
        return;
    }
    for (name, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.is(name) {
            errors.push(spec.child(shown).forbidden("when `hostUsers` is false"));
        }
    }
    for container in every_container(spec) {
        if !container.at("volumeDevices").is_empty() {
            errors.push(container.child("volumeDevices").forbidden("when `hostUsers` is false"));
        }
    }
}

const WINDOWS_POD: &[&str] = &[
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.seLinuxChangePolicy",
];
const WINDOWS_CONTAINER: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// The pod's operating system and what may not be set for it.
pub(super) fn operating_system(errors: &mut Errors, spec: &Node<'_>) {
    let os = spec.at("os");
    match os.text("name") {
        "" => errors.push(os.at("name").required("")),
        "linux" => {
            const WINDOWS: &str = "windows options cannot be set for a linux pod";
            for place in std::iter::once(spec.clone()).chain(every_container(spec)) {
                let options = place.get("securityContext.windowsOptions");
                if options.set() {
                    errors.push(options.forbidden(WINDOWS));
                }
            }
        }
        "windows" => {
            const LINUX: &str = "cannot be set for a windows pod";
            for name in WINDOWS_POD {
                let node = spec.get(name);
                let off = node.value == &Value::Bool(false) && matches!(*name, "hostPID" | "hostIPC");
                if node.set() && !off {
                    errors.push(node.forbidden(LINUX));
                }
            }
            for container in every_container(spec) {
                for name in WINDOWS_CONTAINER {
                    let node = container.at("securityContext").at(name);
                    if node.set() {
                        errors.push(node.forbidden(LINUX));
                    }
                }
            }
        }
        other => errors.push(os.unsupported_as(super::show::quoted(other), &["linux", "windows"])),
    }
}

/// Old annotations about seccomp, and whether they agree with the fields.
pub(super) fn seccomp_annotations(errors: &mut Errors, annotations: &Node<'_>, spec: &Node<'_>) {
    let pod = spec.get("securityContext.seccompProfile");
    let mut agree = |node: &Node<'_>, key: &str| {
        let annotation = annotations.key(key);
        if !node.set() || !annotation.set() {
            return;
        }
        let text = annotation.str();
        let kind = match node.text("type") {
            "Unconfined" => text == "unconfined",
            "RuntimeDefault" => matches!(text, "runtime/default" | "docker/default"),
            "Localhost" => text.starts_with("localhost/"),
            _ => true,
        };
        if !kind {
            errors.push(
                node.child("type")
                    .forbidden("seccomp type in annotation and field must match"),
            );
        } else if node.text("type") == "Localhost" && text.strip_prefix("localhost/") != Some(node.text("localhostProfile")) {
            errors.push(
                node.child("localhostProfile")
                    .forbidden("seccomp profile in annotation and field must match"),
            );
        }
    };
    agree(&pod, "seccomp.security.alpha.kubernetes.io/pod");
    for container in every_container(spec) {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", container.text("name"));
        agree(&container.get("securityContext.seccompProfile"), &key);
    }
}

/// Old annotations about AppArmor, and whether they agree with the fields.
pub(super) fn app_armor_annotations(errors: &mut Errors, annotations: &Node<'_>, spec: &Node<'_>) {
    if spec.at("os").text("name") == "windows" {
        return;
    }
    let pod = spec.get("securityContext.appArmorProfile");
    for container in every_container(spec) {
        let own = container.get("securityContext.appArmorProfile");
        let profile = if own.set() { own.clone() } else { pod.clone() };
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.text("name"));
        let annotation = annotations.key(&key);
        if !profile.set() || !annotation.set() {
            continue;
        }
        let text = annotation.str();
        let kind = match profile.text("type") {
            "Unconfined" => text == "unconfined",
            "RuntimeDefault" => text == "runtime/default",
            "Localhost" => text.starts_with("localhost/"),
            _ => true,
        };
        if !kind {
            errors.push(
                own.child("type")
                    .forbidden("apparmor type in annotation and field must match"),
            );
        } else if profile.text("type") == "Localhost" && text.strip_prefix("localhost/") != Some(profile.text("localhostProfile"))
        {
            errors.push(
                own.child("localhostProfile")
                    .forbidden("apparmor profile in annotation and field must match"),
            );
        }
    }
}
