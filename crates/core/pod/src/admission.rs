//! Pods that a node refuses before anything of them runs, with upstream's reasons (pkg/kubelet/sysctl, pkg/kubelet/lifecycle,
//! pkg/security/apparmor).
//!
//! Invariant: what is refused here would have run with less isolation than it asks for, or with more power than a pod has.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::observed::Verdict;
use crate::spec;

/// Kernel settings that any pod may have: they belong to its namespaces and reach nobody else.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
/// Before fields, annotations named a container's AppArmor profile so.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Why a node refuses a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of the pod's status and of the event.
    pub reason: &'static str,
    /// Text of the event.
    pub message: String,
}

impl Refusal {
    /// What the pod's status says of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict {
            reason: self.reason.to_owned(),
            message: format!("Pod was rejected: {}", self.message),
        }
    }
}

/// Whether this node refuses a pod; the first reason in upstream's order.
#[must_use]
pub fn refusal(pod: &Pod) -> Option<Refusal> {
    let pod_spec = spec::of(pod);
    let refuse = |reason, message: &str| {
        Some(Refusal {
            reason,
            message: message.to_owned(),
        })
    };
    if let Some(message) = forbidden_sysctl(pod_spec) {
        return refuse("SysctlForbidden", &message);
    }
    if pod_spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        );
    }
    if wants_app_armor(pod) {
        return refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    None
}

fn forbidden_sysctl(pod_spec: &PodSpec) -> Option<String> {
    let context = pod_spec.security_context.as_ref()?;
    context.sysctls.iter().flatten().find_map(|sysctl| {
        let name = normalized(&sysctl.name);
        let shared = if name.starts_with("net.") {
            pod_spec.host_network.unwrap_or(false).then_some("net")
        } else {
            pod_spec.host_ipc.unwrap_or(false).then_some("ipc")
        };
        match (SAFE_SYSCTLS.contains(&name.as_str()), shared) {
            (true, None) => None,
            (true, Some(namespace)) => Some(format!(
                "forbidden sysctl: {name:?} not allowed with host {namespace} enabled"
            )),
            (false, _) => Some(format!("forbidden sysctl: {name:?} not allowlisted")),
        }
    })
}

/// A name with dots between its parts; one that begins with slashes between them has its dots for slashes.
fn normalized(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn wants_app_armor(pod: &Pod) -> bool {
    let pod_spec = spec::of(pod);
    let of_pod = pod_spec
        .security_context
        .as_ref()
        .and_then(|context| context.app_armor_profile.as_ref());
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let own = pod_spec
        .containers
        .iter()
        .chain(spec::init_containers(pod_spec))
        .chain(&ephemeral)
        .filter_map(|container| container.security_context.as_ref()?.app_armor_profile.as_ref());
    let annotated = pod
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && value != "unconfined");
    annotated || of_pod.into_iter().chain(own).any(|profile| profile.type_ != "Unconfined")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(spec: &Value) -> Option<(&'static str, String)> {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        refusal(&pod).map(|refusal| (refusal.reason, refusal.message))
    }

    #[test]
    fn kernel_settings_that_reach_others_are_refused() {
        let with = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        for safe in SAFE_SYSCTLS
            .into_iter()
            .chain(["net/ipv4/tcp_rmem", "kernel/shm_rmid_forced"])
        {
            assert_eq!(refused(&with(safe)), None, "{safe}");
        }
        for (name, shown) in [
            ("kernel.core_pattern", "kernel.core_pattern"),
            ("kernel/core_pattern", "kernel.core_pattern"),
            ("vm.swappiness", "vm.swappiness"),
            ("kernel.msgmax", "kernel.msgmax"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
        ] {
            let expected = format!("forbidden sysctl: {shown:?} not allowlisted");
            assert_eq!(refused(&with(name)), Some(("SysctlForbidden", expected)));
        }
        let mut shared = with("net.ipv4.tcp_rmem");
        shared["hostNetwork"] = json!(true);
        let text = "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host net enabled";
        assert_eq!(refused(&shared), Some(("SysctlForbidden", text.to_owned())));
        let mut shared = with("kernel.shm_rmid_forced");
        shared["hostIPC"] = json!(true);
        let text = "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled";
        assert_eq!(refused(&shared), Some(("SysctlForbidden", text.to_owned())));
    }

    #[test]
    fn other_systems_and_profiles_that_cannot_be_had_are_refused() {
        assert_eq!(refused(&json!({"os": {"name": "linux"}})), None);
        assert_eq!(
            refused(&json!({"os": {"name": "windows"}})).map(|it| it.0),
            Some("PodOSNotSupported")
        );
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        assert_eq!(refused(&json!({"securityContext": profile("Unconfined")})), None);
        for spec in [
            json!({"securityContext": profile("RuntimeDefault")}),
            json!({"containers": [{"name": "c", "securityContext": profile("Localhost")}]}),
            json!({"initContainers": [{"name": "i", "securityContext": profile("RuntimeDefault")}]}),
        ] {
            let text = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
            assert_eq!(refused(&spec), Some(("AppArmor", text.to_owned())), "{spec}");
        }
    }
}
