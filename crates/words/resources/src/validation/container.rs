//! Containers of all three kinds (pkg/apis/core/validation).
//!
//! Invariant: what depends on the pod around comes in as [`Around`]; the order of problems is upstream's.

use std::collections::HashMap;

use super::errors::Errors;
use super::metadata;
use super::names;
use super::node::Node;
use super::probe;
use super::resources::{self, Scope};
use super::security;
use super::seen::Seen;
use super::volume::{descending, no_backsteps};

/// What a container's rules need to know of its pod.
pub(super) struct Around<'a> {
    /// Volumes that are in order.
    pub volumes: HashMap<&'a str, Node<'a>>,
    /// Names of the pod's resource claims, sorted.
    pub claims: Vec<&'a str>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
    /// `os.name`, if `os` is there.
    pub os: Option<&'a str>,
    /// The pod's restart policy.
    pub restart: &'a str,
    /// Whether the pod shares the host's users.
    pub host_users: bool,
}

/// The containers of a pod, of which there must be one.
pub(super) fn containers(errors: &mut Errors, node: &Node<'_>, around: &Around<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
        return;
    }
    let mut seen: Seen<&str> = Seen::default();
    for container in node.items() {
        common(errors, &container, around);
        let name = container.at("name");
        if seen.contains(&name.str()) {
            errors.push(name_duplicate(&name));
        } else {
            seen.push(name.str());
        }
        probe::all(errors, &container, around);
        restart_policy(errors, &container);
    }
    host_ports(errors, node, &node.items());
}

fn name_duplicate(name: &Node<'_>) -> trireme_api::field::FieldError {
    name.duplicate_as(super::show::quoted(name.str()))
}

/// Containers that run before the others.
pub(super) fn init_containers(errors: &mut Errors, node: &Node<'_>, others: &Node<'_>, around: &Around<'_>) {
    let mut seen: Seen<&str> = others.items().iter().map(|container| container.text("name")).collect();
    for container in node.items() {
        common(errors, &container, around);
        let rules = container.at("restartPolicyRules");
        if container.has("restartPolicy") {
            restart_policy(errors, &container);
        } else if !rules.is_empty() {
            errors.push(
                container
                    .at("restartPolicy")
                    .required("must specify restartPolicy when restart rules are used"),
            );
        }
        let name = container.at("name");
        if seen.contains(&name.str()) {
            errors.push(name_duplicate(&name));
        } else if !name.is_empty() {
            seen.push(name.str());
        }
        host_ports(errors, node, std::slice::from_ref(&container));
        let sidecar = container.text("restartPolicy") == "Always";
        if sidecar {
            probe::all(errors, &container, around);
        } else {
            for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(name) {
                    errors.push(
                        container
                            .at(name)
                            .forbidden("may not be set for init containers without restartPolicy=Always"),
                    );
                }
            }
            for policy in container.at("resizePolicy").items() {
                if policy.text("restartPolicy") == "RestartContainer" {
                    errors.push(
                        policy
                            .at("restartPolicy")
                            .bad("must not be set to 'RestartContainer' for non-sidecar initContainers"),
                    );
                }
            }
        }
    }
}

/// Containers added to a running pod.
pub(super) fn ephemeral(errors: &mut Errors, pod: &Node<'_>, around: &Around<'_>) {
    const NOT_HERE: &str = "cannot be set for an Ephemeral Container";
    let (containers, inits) = (pod.at("containers").items(), pod.at("initContainers").items());
    let names = || containers.iter().chain(&inits).map(|container| container.text("name"));
    let others: Seen<&str> = names().collect();
    let mut seen: Seen<&str> = names().collect();
    for container in pod.at("ephemeralContainers").items() {
        common(errors, &container, around);
        image_spaces(errors, &container);
        let name = container.at("name");
        if seen.contains(&name.str()) {
            errors.push(name_duplicate(&name));
        } else {
            seen.push(name.str());
        }
        let target = container.at("targetContainerName");
        if !target.is_empty() && !others.contains(&target.str()) {
            errors.push(target.not_found());
        }
        let banned = [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ];
        for name in banned {
            let member = container.at(name);
            if member.set() && !(member.is_empty() && name == "resources") {
                errors.push(member.forbidden(NOT_HERE));
            }
        }
        for mount in container.at("volumeMounts").items() {
            for name in ["subPath", "subPathExpr"] {
                if !mount.text(name).is_empty() {
                    errors.push(mount.at(name).forbidden(NOT_HERE));
                }
            }
        }
    }
}

/// In a pod, but not in a template, an image is not padded.
pub(super) fn image_spaces(errors: &mut Errors, container: &Node<'_>) {
    let image = container.at("image");
    if image.str().trim().len() != image.len() {
        errors.push(image.bad("must not have leading or trailing whitespace"));
    }
}

fn common(errors: &mut Errors, node: &Node<'_>, around: &Around<'_>) {
    let name = node.at("name");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        name.each(errors, names::label(name.str()));
    }
    node.need(errors, "image");
    node.at("terminationMessagePolicy")
        .need_one_of(errors, &["File", "FallbackToLogsOnError"]);
    ports(errors, &node.at("ports"));
    env(errors, &node.at("env"));
    env_from(errors, &node.at("envFrom"));
    mounts(errors, node, around);
    devices(errors, node, around);
    node.at("imagePullPolicy")
        .need_one_of(errors, &["Always", "IfNotPresent", "Never"]);
    resources::requirements(errors, &node.at("resources"), Scope::Container, &around.claims);
    resize_policy(errors, &node.at("resizePolicy"), around.restart);
    security::container(errors, &node.at("securityContext"), around.host_users);
}

pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

fn ports(errors: &mut Errors, node: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
    for port in node.items() {
        let name = port.at("name");
        if !name.is_empty() {
            let messages = names::port_name(name.str());
            if messages.is_empty() {
                if seen.contains(&name.str()) {
                    errors.push(name.duplicate());
                } else {
                    seen.push(name.str());
                }
            }
            name.each(errors, messages);
        }
        let number = port.at("containerPort");
        if number.int() == 0 {
            errors.push(number.required(""));
        } else {
            errors.extend(names::port(number.int()).into_iter().map(|message| number.bad_int(message)));
        }
        let host = port.at("hostPort");
        if host.int() != 0 {
            errors.extend(names::port(host.int()).into_iter().map(|message| host.bad_int(message)));
        }
        port.at("protocol").need_one_of(errors, PROTOCOLS);
    }
}

fn host_ports(errors: &mut Errors, list: &Node<'_>, containers: &[Node<'_>]) {
    let mut seen: Seen<String> = Seen::default();
    for (index, container) in containers.iter().enumerate() {
        // Upstream counts the containers of the list it was given.
        let ports = list.index(index).at("ports").path;
        for (place, port) in container.at("ports").items().iter().enumerate() {
            let number = port.at("hostPort").int();
            if number == 0 {
                continue;
            }
            let text = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if seen.contains(&text) {
                let at = port.at("hostPort").moved(format!("{ports}[{place}].hostPort"));
                errors.push(at.duplicate_as(super::show::quoted(&text)));
            } else {
                seen.push(text);
            }
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks one source of a value.
type Check = fn(&mut Errors, &Node<'_>);

fn env(errors: &mut Errors, node: &Node<'_>) {
    for variable in node.items() {
        let name = variable.at("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            name.each(errors, names::env_name(name.str()));
        }
        let from = variable.at("valueFrom");
        if !from.set() {
            continue;
        }
        let mut count = 0;
        let sources: [(&str, Check); 5] = [
            ("fieldRef", |errors, node| resources::field_ref(errors, node, ENV_FIELDS)),
            ("resourceFieldRef", |errors, node| {
                resources::resource_ref(errors, node, false)
            }),
            ("configMapKeyRef", key_ref),
            ("secretKeyRef", key_ref),
            ("fileKeyRef", file_ref),
        ];
        for (name, check) in sources {
            if from.has(name) {
                count += 1;
                check(errors, &from.at(name));
            }
        }
        if count == 0 {
            errors.push(from.bad_text(
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ));
        } else if !variable.text("value").is_empty() {
            errors.push(from.bad_text("", "may not be specified when `value` is not empty"));
        } else if count > 1 {
            errors.push(from.bad_text("", "may not have more than one field specified at a time"));
        }
    }
}

fn key_ref(errors: &mut Errors, node: &Node<'_>) {
    let (name, key) = (node.at("name"), node.at("key"));
    name.each(errors, names::subdomain(name.str()));
    if key.is_empty() {
        errors.push(key.required(""));
    } else {
        key.each(errors, names::config_key(key.str()));
    }
}

fn file_ref(errors: &mut Errors, node: &Node<'_>) {
    let (key, volume, path) = (node.at("key"), node.at("volumeName"), node.at("path"));
    if key.is_empty() {
        errors.push(key.required(""));
    } else {
        key.each(errors, names::env_name(key.str()));
    }
    if volume.is_empty() {
        errors.push(volume.required(""));
    } else {
        volume.each(errors, names::label(volume.str()));
    }
    if path.is_empty() {
        errors.push(path.required(""));
    } else {
        no_backsteps(errors, &path);
    }
}

fn env_from(errors: &mut Errors, node: &Node<'_>) {
    for source in node.items() {
        let prefix = source.at("prefix");
        if !prefix.is_empty() {
            prefix.each(errors, names::env_name(prefix.str()));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let this = source.at(kind);
            if !this.set() {
                continue;
            }
            count += 1;
            let name = this.at("name");
            if name.is_empty() {
                errors.push(name.required(""));
            } else {
                name.each(errors, names::subdomain(name.str().trim_end_matches('-')));
            }
        }
        if count == 0 {
            errors.push(node.bad_text("", "must specify one of: `configMapRef` or `secretRef`"));
        } else if count > 1 {
            errors.push(node.bad_text("", "may not have more than one field specified at a time"));
        }
    }
}

/// Things of a pod by name; of equal names the first.
pub(super) fn by_name(items: Vec<Node<'_>>) -> HashMap<&str, Node<'_>> {
    let mut named = HashMap::with_capacity(items.len());
    for item in items {
        named.entry(item.text("name")).or_insert(item);
    }
    named
}

/// Names and paths that mounts or devices of a container take.
struct Taken<'a> {
    names: Seen<&'a str>,
    paths: Seen<&'a str>,
}

impl<'a> Taken<'a> {
    fn of(items: &[Node<'a>], path: &str) -> Self {
        Self {
            names: items.iter().map(|item| item.text("name")).collect(),
            paths: items.iter().map(|item| item.text(path)).collect(),
        }
    }
}

fn mounts(errors: &mut Errors, container: &Node<'_>, around: &Around<'_>) {
    let list = container.at("volumeMounts");
    if list.is_empty() {
        return;
    }
    let devices = container.at("volumeDevices").items();
    let taken = Taken::of(&devices, "devicePath");
    let privileged = container.at("securityContext").is("privileged");
    let mut seen: Seen<&str> = Seen::default();
    for mount in list.items() {
        let (name, path) = (mount.at("name"), mount.at("mountPath"));
        if name.is_empty() {
            errors.push(name.required(""));
        }
        if !around.volumes.contains_key(name.str()) {
            errors.push(name.not_found());
        }
        if path.is_empty() {
            errors.push(path.required(""));
        }
        if seen.contains(&path.str()) {
            errors.push(path.bad("must be unique"));
        }
        seen.push(path.str());
        if taken.names.contains(&name.str()) {
            errors.push(name.bad("must not already exist in volumeDevices"));
        }
        if taken.paths.contains(&path.str()) {
            errors.push(path.bad("must not already exist as a path in volumeDevices"));
        }
        // Upstream tells what follows at the list's own path.
        let listed = |name: &'static str| mount.at(name).moved(list.child(name).path);
        if !mount.text("subPath").is_empty() {
            descending(errors, &listed("subPath"));
        }
        if !mount.text("subPathExpr").is_empty() {
            if !mount.text("subPath").is_empty() {
                errors.push(mount.at("subPathExpr").bad("subPathExpr and subPath are mutually exclusive"));
            }
            descending(errors, &listed("subPathExpr"));
        }
        let propagation = listed("mountPropagation");
        if propagation.set() {
            propagation.one_of(errors, &["Bidirectional", "HostToContainer", "None"]);
            if propagation.str() == "Bidirectional" && !privileged {
                errors.push(propagation.forbidden("Bidirectional mount propagation is available only to privileged containers"));
            }
        }
        let recursive = listed("recursiveReadOnly");
        match recursive.str() {
            "Enabled" | "IfPossible" => {
                if !mount.is("readOnly") {
                    errors.push(recursive.forbidden("may only be specified when readOnly is true"));
                }
                if propagation.set() && propagation.str() != "None" {
                    errors.push(recursive.forbidden("may only be specified when mountPropagation is None or not specified"));
                }
            }
            _ if recursive.set() => recursive.one_of(errors, &["Disabled", "Enabled", "IfPossible"]),
            _ => {}
        }
    }
}

fn devices(errors: &mut Errors, container: &Node<'_>, around: &Around<'_>) {
    if container.at("volumeDevices").is_empty() {
        return;
    }
    let mounts = container.at("volumeMounts").items();
    let (mut names_seen, mut paths_seen): (Seen<&str>, Seen<&str>) = (Seen::default(), Seen::default());
    let mounted = Taken::of(&mounts, "mountPath");
    for device in container.at("volumeDevices").items() {
        let (name, path) = (device.at("name"), device.at("devicePath"));
        let volume = around.volumes.get(name.str());
        if name.is_empty() {
            errors.push(name.required(""));
        }
        if names_seen.contains(&name.str()) {
            errors.push(name.bad("must be unique"));
        }
        match volume {
            None => errors.push(name.not_found()),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                errors.push(name.bad("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"));
            }
            Some(_) => {}
        }
        if path.is_empty() {
            errors.push(path.required(""));
        }
        if paths_seen.contains(&path.str()) {
            errors.push(path.bad("must be unique"));
        }
        if path.str().split('/').any(|part| part == "..") {
            errors.push(path.bad("can not contain backsteps ('..')"));
        } else {
            paths_seen.push(path.str());
        }
        if mounted.names.contains(&name.str()) {
            errors.push(name.bad("must not already exist in volumeMounts"));
        }
        if mounted.paths.contains(&path.str()) {
            errors.push(path.bad("must not already exist as a path in volumeMounts"));
        }
        if !name.is_empty() {
            names_seen.push(name.str());
        }
    }
}

fn resize_policy(errors: &mut Errors, node: &Node<'_>, restart: &str) {
    let mut seen: Seen<&str> = Seen::default();
    for policy in node.items() {
        let (resource, action) = (policy.at("resourceName"), policy.at("restartPolicy"));
        if seen.contains(&resource.str()) {
            errors.push(resource.moved(policy.path.clone()).duplicate());
        }
        seen.push(resource.str());
        resource.moved(node.path.clone()).need_one_of(errors, &["cpu", "memory"]);
        let action = action.moved(node.path.clone());
        action.need_one_of(errors, &["NotRequired", "RestartContainer"]);
        if restart == "Never" && action.str() != "NotRequired" {
            errors.push(action.bad("must be 'NotRequired' when pod `restartPolicy` is 'Never'"));
        }
    }
}

fn restart_policy(errors: &mut Errors, container: &Node<'_>) {
    let (policy, rules) = (container.at("restartPolicy"), container.at("restartPolicyRules"));
    if !policy.set() {
        if rules.is_empty() {
            return;
        }
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    } else {
        policy.one_of(errors, &["Always", "Never", "OnFailure"]);
    }
    if rules.len() > 20 {
        errors.push(rules.too_many(rules.len(), 20));
    }
    for rule in rules.items() {
        rule.at("action").one_of(errors, &["Restart", "RestartAllContainers"]);
        let codes = rule.at("exitCodes");
        if codes.set() {
            codes.at("operator").one_of(errors, &["In", "NotIn"]);
            let values = codes.at("values");
            if values.len() > 255 {
                errors.push(values.too_many(values.len(), 255));
            }
        } else {
            errors.push(codes.required("must be specified"));
        }
    }
}

/// A label key that may stand in a list of keys.
pub(super) fn label_key(errors: &mut Errors, node: &Node<'_>) {
    metadata::label_name(errors, node, node.str());
}
