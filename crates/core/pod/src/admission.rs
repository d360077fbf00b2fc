//! Pods that a node refuses before anything of them runs, with upstream's reasons (pkg/kubelet/sysctl, pkg/kubelet/lifecycle,
//! pkg/security/apparmor).
//!
//! Invariant: what is refused here would have run with less isolation than it asks for, with more power than a pod has, or
//! where it was not to run. A pod that runs is never refused; room is looked at in [`crate::allocation::Ledger::admission`].

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use trireme_api::fit::{self, HostPort, Requirement};

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
    pub reason: Cow<'static, str>,
    /// Text of the event.
    pub message: String,
}

impl Refusal {
    /// What the pod's status says of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict {
            reason: self.reason.clone().into_owned(),
            message: format!("Pod was rejected: {}", self.message),
        }
    }
}

/// Whether this node refuses a pod; the first reason in upstream's order. `unfit`: why it has no place here, if so.
#[must_use]
pub fn refusal(pod: &Pod, unfit: Option<&Refusal>) -> Option<Refusal> {
    let pod_spec = spec::of(pod);
    let refuse = |reason: &'static str, message: &str| {
        Some(Refusal {
            reason: Cow::Borrowed(reason),
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
    if unfit.is_some() {
        return unfit.cloned();
    }
    if wants_app_armor(pod) {
        return refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    None
}

/// Why a pod may not be where it is for another reason than room: labels, name, ports of the `others`, taints.
pub(crate) fn misplaced<'a>(pod: &Pod, node: &Node, others: impl IntoIterator<Item = &'a Pod>) -> Option<Refusal> {
    let failed = |predicate: &'static str, why: &str| {
        Some(Refusal {
            reason: Cow::Borrowed(predicate),
            message: format!("Predicate {predicate} failed: {why}"),
        })
    };
    let pod_spec = spec::of(pod);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !is_selected(pod_spec, node, name) {
        return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    if pod_spec
        .node_name
        .as_deref()
        .is_some_and(|wanted| !wanted.is_empty() && wanted != name)
    {
        return failed("NodeName", "node(s) didn't match the requested node name");
    }
    let ports: Vec<HostPort<'_>> = host_ports(pod_spec).collect();
    if !ports.is_empty() {
        let mut taken = others.into_iter().flat_map(|other| host_ports(spec::of(other)));
        if taken.any(|taken| ports.iter().any(|port| port.conflicts(&taken))) {
            return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
        }
    }
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let evicts = taints.any(|taint| {
        let held = fit::Taint {
            key: &taint.key,
            value: taint.value.as_deref().unwrap_or_default(),
            effect: &taint.effect,
        };
        let mut tolerations = pod_spec.tolerations.iter().flatten();
        taint.effect == "NoExecute"
            && !tolerations.any(|toleration| {
                let parts = [&toleration.key, &toleration.operator, &toleration.value, &toleration.effect];
                fit::Toleration::of(parts).tolerates(&held)
            })
    });
    if evicts {
        return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    None
}

/// `nodeSelector` and required node affinity.
fn is_selected(pod_spec: &PodSpec, node: &Node, name: &str) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let affinity = pod_spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let mut wanted = pod_spec.node_selector.iter().flatten();
    wanted.all(|(key, value)| label(key) == Some(value))
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| {
                let requirements = [&term.match_expressions, &term.match_fields].map(|list| {
                    let list = list.iter().flatten();
                    list.map(|asked| Requirement::of(&asked.key, &asked.operator, &asked.values))
                });
                let [labels, fields] = requirements;
                fit::term_matches(labels, fields, name, label)
            })
        })
}

/// Ports of the node's that a pod takes, of its containers and sidecars.
fn host_ports(pod_spec: &PodSpec) -> impl Iterator<Item = HostPort<'_>> {
    let sidecars = spec::init_containers(pod_spec)
        .iter()
        .filter(|container| spec::is_sidecar(container));
    let all = pod_spec.containers.iter().chain(sidecars);
    all.flat_map(move |container| container.ports.as_deref().unwrap_or_default())
        .filter_map(|port| {
            Some(HostPort {
                address: port.host_ip.as_deref().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or_default(),
                port: port.host_port.filter(|number| *number > 0)?,
            })
        })
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
        refusal(&pod, None).map(told)
    }

    fn told(refusal: Refusal) -> (&'static str, String) {
        match refusal.reason {
            Cow::Borrowed(reason) => (reason, refusal.message),
            Cow::Owned(reason) => panic!("{reason} is not in the code"),
        }
    }

    #[test]
    fn a_pod_must_be_meant_for_the_node_and_have_its_ports() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "full", "effect": "NoSchedule"}, {"key": "gone", "effect": "NoExecute"}]}
        }))
        .unwrap();
        let pod = |spec: Value| -> Pod {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {
                "containers": [{"name": "c"}], "tolerations": [{"key": "gone", "operator": "Exists"}]}});
            for (key, value) in spec.as_object().unwrap() {
                pod["spec"][key] = value.clone();
            }
            serde_json::from_value(pod).unwrap()
        };
        let ports = |port: Value| json!({"containers": [{"name": "c", "ports": [port]}]});
        let others = [
            pod(ports(json!({"containerPort": 80, "hostPort": 8080}))),
            pod(
                json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 1, "hostPort": 1}]},
                                          {"name": "i", "ports": [{"containerPort": 2, "hostPort": 2}]}]}),
            ),
        ];
        let term = |key: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": "Exists"}]}]}}}})
        };
        let affinity = ("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
        let taken = ("NodePorts", "node(s) didn't have free ports for the requested pod ports");
        for (spec, expected) in [
            (json!({}), None),
            (json!({"nodeName": "n", "nodeSelector": {"zone": "a"}}), None),
            (json!({"nodeSelector": {"zone": "b"}}), Some(affinity)),
            (term("zone"), None),
            (term("disk"), Some(affinity)),
            (
                json!({"nodeName": "m"}),
                Some(("NodeName", "node(s) didn't match the requested node name")),
            ),
            (ports(json!({"containerPort": 80})), None),
            (ports(json!({"containerPort": 80, "hostPort": 8081})), None),
            (ports(json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"})), None),
            (
                ports(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"})),
                Some(taken),
            ),
            (ports(json!({"containerPort": 80, "hostPort": 1})), Some(taken)),
            (ports(json!({"containerPort": 80, "hostPort": 2})), None),
            (
                json!({"tolerations": []}),
                Some(("TaintToleration", "node(s) had taints that the pod didn't tolerate")),
            ),
        ] {
            let expected = expected.map(|(reason, why)| (reason, format!("Predicate {reason} failed: {why}")));
            assert_eq!(misplaced(&pod(spec.clone()), &node, &others).map(told), expected, "{spec}");
        }
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
