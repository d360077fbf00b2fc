//! From a pod's spec to the runtime's words. The one place that knows both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use trireme_pod::env::{self, EnvError};
use trireme_pod::qos::Limits;
use trireme_pod::resources::effective;
use trireme_pod::{qos, resolv, spec};
use trireme_runtime::cri::{
    ContainerConfig, ContainerMetadata, IdMapping, Image, LinuxContainerResources, LinuxContainerSecurityContext, Mount,
    MountPropagation, NamespaceOptions, PodSandboxConfig, PodSandboxMetadata,
};

use crate::shared::Shared;

/// Annotation with the fingerprint of the spec that a container was made from.
pub(super) const HASH: &str = "io.kubernetes.container.hash";
/// Annotation with the resources that a container was given last.
const ACTUATED: &str = "trireme.io/actuated-resources";
/// Annotation with the pod's grace period, for who finds it orphaned.
pub(super) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Where a run's log is below the pod's log directory.
pub(super) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// What a container was given last.
pub(super) fn actuated(annotations: &BTreeMap<String, String>) -> Option<ResourceRequirements> {
    serde_json::from_str(annotations.get(ACTUATED)?).ok()
}

/// The annotation that says what a container is given.
pub(super) fn actuated_annotation(resources: &ResourceRequirements) -> BTreeMap<String, String> {
    let text = serde_json::to_string(resources).unwrap_or_default();
    BTreeMap::from([(ACTUATED.to_owned(), text)])
}

/// Limits in the runtime's words.
pub(super) fn resources(limits: Limits) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory_bytes,
        ..LinuxContainerResources::default()
    }
}

/// Limits as the runtime tells them.
pub(super) fn limits(resources: &LinuxContainerResources) -> Limits {
    Limits {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota.max(0),
        cpu_shares: resources.cpu_shares,
        memory_bytes: resources.memory_limit_in_bytes.max(0),
    }
}

/// What a container gets beside its spec.
pub(super) struct Surroundings {
    pub(super) attempt: u32,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) mounts: Vec<Mount>,
    /// Id of the container whose processes it is to see (`targetContainerName`).
    pub(super) pid_target: Option<String>,
}

pub(super) fn sandbox(
    shared: &Shared,
    pod: &Pod,
    attempt: u32,
    runtime_handler: String,
    user: Option<IdMapping>,
) -> PodSandboxConfig {
    let pod_spec = spec::of(pod);
    let host_resolv = std::fs::read_to_string(&shared.config.resolv_conf).unwrap_or_default();
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(
        GRACE.into(),
        pod_spec.termination_grace_period_seconds.unwrap_or(30).to_string(),
    );
    let host_network = spec::is_host_network(pod);
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: spec::name(pod).into(),
            uid: spec::uid(pod).into(),
            namespace: spec::namespace(pod).into(),
            attempt,
        },
        hostname: if host_network { String::new() } else { hostname(shared, pod) },
        log_directory: shared.log_directory(pod),
        resolv_conf: Some(resolv::content(pod, &shared.cluster_dns(), &host_resolv)),
        labels: labels(pod),
        annotations,
        cgroup_parent: qos::cgroup_parent(pod),
        resources: LinuxContainerResources {
            pids_limit: Some(shared.config.pod_pids_limit),
            ..resources(qos::pod_limits(pod))
        },
        runtime_handler,
        namespaces: NamespaceOptions {
            host_network,
            host_pid: pod_spec.host_pid.unwrap_or(false),
            host_ipc: pod_spec.host_ipc.unwrap_or(false),
            share_process_namespace: pod_spec.share_process_namespace.unwrap_or(false),
            user,
        },
        sysctls: pod_spec
            .security_context
            .iter()
            .flat_map(|context| context.sysctls.iter().flatten())
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
    }
}

fn hostname(shared: &Shared, pod: &Pod) -> String {
    let name = spec::hostname(pod);
    let domain = spec::host_domain(pod, &shared.config.cluster_domain);
    if spec::of(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        format!("{name}.{domain}")
    } else {
        name
    }
}

fn labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    for (key, value) in [
        ("name", spec::name(pod)),
        ("namespace", spec::namespace(pod)),
        ("uid", spec::uid(pod)),
    ] {
        labels.insert(format!("io.kubernetes.pod.{key}"), value.to_owned());
    }
    labels
}

pub(super) fn container(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    around: Surroundings,
) -> Result<ContainerConfig, EnvError> {
    let granted = effective(spec::of(pod), container);
    let mut labels = labels(pod);
    labels.insert("io.kubernetes.container.name".into(), container.name.clone());
    let path = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".into());
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let annotations = [
        (HASH, spec::hash(container)),
        ("io.kubernetes.container.restartCount", around.attempt.to_string()),
        ("io.kubernetes.container.terminationMessagePath", path),
        ("io.kubernetes.container.terminationMessagePolicy", policy),
        (
            GRACE,
            spec::of(pod).termination_grace_period_seconds.unwrap_or(30).to_string(),
        ),
    ];
    let expand = |texts: &Option<Vec<String>>| env::expand_all(texts.iter().flatten(), &around.environment);
    Ok(ContainerConfig {
        metadata: ContainerMetadata {
            name: container.name.clone(),
            attempt: around.attempt,
        },
        image: container.image.clone().unwrap_or_default(),
        command: expand(&container.command)?,
        args: expand(&container.args)?,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        security_context: LinuxContainerSecurityContext {
            pid_target: around.pid_target,
            ..security(pod, container)
        },
        envs: around.environment.into_iter().collect(),
        mounts: around.mounts,
        labels,
        annotations: annotations
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .chain(actuated_annotation(&granted))
            .collect(),
        log_path: log_path(&container.name, around.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        resources: LinuxContainerResources {
            oom_score_adj: qos::oom_score_adj(spec::of(pod), container, shared.machine.memory),
            ..resources(qos::limits_of(&granted))
        },
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone()),
    })
}

fn security(pod: &Pod, container: &Container) -> LinuxContainerSecurityContext {
    let of_pod = spec::of(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let mut groups = of_pod.supplemental_groups.unwrap_or_default();
    groups.extend(of_pod.fs_group);
    let capabilities = own.capabilities.unwrap_or_default();
    let bare = |names: Option<Vec<String>>| -> Vec<String> {
        names
            .unwrap_or_default()
            .into_iter()
            .map(|name| name.strip_prefix("CAP_").unwrap_or(&name).to_owned())
            .collect()
    };
    let seccomp = own.seccomp_profile.or(of_pod.seccomp_profile);
    LinuxContainerSecurityContext {
        privileged: own.privileged.unwrap_or(false),
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups: groups,
        supplemental_groups_strict: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        seccomp_runtime_default: seccomp.is_some_and(|profile| profile.type_ == "RuntimeDefault"),
        pid_target: None,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

/// Why a container would get less isolation than it asks for, if it would: then it does not run.
pub(super) fn refuse_container(pod: &Pod, container: &Container) -> Result<(), String> {
    let of_pod = spec::of(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let seccomp = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or(of_pod.and_then(|of_pod| of_pod.seccomp_profile.as_ref()));
    match seccomp {
        Some(profile) if profile.type_ == "Localhost" => Err(format!(
            "cannot load seccomp profile \"{}\": profiles of type Localhost are not supported",
            profile.localhost_profile.as_deref().unwrap_or_default()
        )),
        _ => Ok(()),
    }
}

/// Whether `runAsNonRoot` forbids to run this image; the text says why.
pub(super) fn check_non_root(pod: &Pod, container: &Container, image: &Image) -> Result<(), String> {
    let of_pod = spec::of(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let wanted = own
        .and_then(|own| own.run_as_non_root)
        .or(of_pod.and_then(|of_pod| of_pod.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let user = own
        .and_then(|own| own.run_as_user)
        .or(of_pod.and_then(|of_pod| of_pod.run_as_user));
    let place = format!("(pod: \"{}\", container: {})", spec::display(pod), container.name);
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => {
            Err(format!("container has runAsNonRoot and image will run as root {place}"))
        }
        (None, None) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        )),
    }
}

/// A mount of the kubelet's own.
pub(super) fn own_mount(container_path: &str, host_path: PathBuf, readonly: bool) -> Mount {
    Mount {
        container_path: container_path.into(),
        host_path,
        readonly,
        ..Mount::default()
    }
}

pub(super) fn propagation(name: Option<&str>) -> MountPropagation {
    match name {
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    }
}
