//! Small questions about a pod's spec that several files ask.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// The spec; every stored pod has one.
///
/// # Panics
/// For a pod without spec, which validation refuses.
#[must_use]
pub fn of(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("a stored pod has a spec")
}

/// Init containers, sidecars among them.
#[must_use]
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Whether an init container is a sidecar (restartPolicy Always).
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Ephemeral containers in the form of ordinary ones.
#[must_use]
pub fn ephemeral_containers(spec: &PodSpec) -> Vec<Container> {
    spec.ephemeral_containers
        .iter()
        .flatten()
        .map(|ephemeral| Container {
            args: ephemeral.args.clone(),
            command: ephemeral.command.clone(),
            env: ephemeral.env.clone(),
            env_from: ephemeral.env_from.clone(),
            image: ephemeral.image.clone(),
            image_pull_policy: ephemeral.image_pull_policy.clone(),
            name: ephemeral.name.clone(),
            security_context: ephemeral.security_context.clone(),
            stdin: ephemeral.stdin,
            stdin_once: ephemeral.stdin_once,
            termination_message_path: ephemeral.termination_message_path.clone(),
            termination_message_policy: ephemeral.termination_message_policy.clone(),
            tty: ephemeral.tty,
            volume_mounts: ephemeral.volume_mounts.clone(),
            working_dir: ephemeral.working_dir.clone(),
            ..Container::default()
        })
        .collect()
}

/// A container of any sort by its name.
#[must_use]
pub fn container(pod: &Pod, name: &str) -> Option<Container> {
    let spec = of(pod);
    spec.containers
        .iter()
        .chain(init_containers(spec))
        .find(|container| container.name == name)
        .cloned()
        .or_else(|| {
            ephemeral_containers(spec)
                .into_iter()
                .find(|container| container.name == name)
        })
}

/// `metadata.name`.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `metadata.namespace`.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `metadata.uid`.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as messages show a pod.
#[must_use]
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Whether deletion was asked for.
#[must_use]
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the API already shows a final phase.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// Whether the pod uses the host's network.
#[must_use]
pub fn is_host_network(pod: &Pod) -> bool {
    of(pod).host_network.unwrap_or(false)
}

/// Host name of the pod: `spec.hostname`, or its name cut to 63 characters. `hostnameOverride` wins.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let spec = of(pod);
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    if let Some(name) = spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let cut: String = name(pod).chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Domain of the pod: `subdomain.namespace.svc.domain`, empty without a subdomain.
#[must_use]
pub fn host_domain(pod: &Pod, cluster_domain: &str) -> String {
    match of(pod).subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", namespace(pod)),
        None => String::new(),
    }
}

/// Fingerprint of what makes a running container obsolete when it changes: its name and image. FNV-1a, 32 bits, hex.
#[must_use]
pub fn hash(container: &Container) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let image = container.image.as_deref().unwrap_or_default();
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash ^= u32::from(byte);
        hash = hash.wrapping_mul(0x0100_0193);
    }
    format!("{hash:08x}")
}
