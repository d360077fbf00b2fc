//! Small plugins: DefaultTolerationSeconds, Priority, RuntimeClass, DefaultIngressClass, DefaultStorageClass.

use std::collections::HashSet;

use serde_json::{Value, json};
use trireme_api::{Status, path};

use super::{Operation, Request, append};

const TOLERATION_SECONDS: i64 = 300;

/// A pod stays five minutes on a node that is not ready or not reachable, unless it says otherwise.
pub(super) fn fill_tolerations(request: &mut Request<'_>) {
    let tolerations = path::list(request.object, &["spec", "tolerations"]);
    let covers = |toleration: &Value, key: &str| {
        let text = |name: &str| toleration[name].as_str().unwrap_or_default();
        (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
    };
    let missing: Vec<_> = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        .into_iter()
        .filter(|key| !tolerations.iter().any(|toleration| covers(toleration, key)))
        .map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}))
        .collect();
    append(&mut request.object["spec"]["tolerations"], missing);
}

/// The number behind a priority class; the class marked as default where none is named.
pub(super) fn fill_priority(request: &mut Request<'_>) -> Result<(), Status> {
    let name = request.object["spec"]["priorityClassName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let class = if name.is_empty() {
        let classes = request.lookup.list("scheduling.k8s.io", "priorityclasses", None);
        let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
        // Several defaults cannot be made, but may have raced: the lowest counts.
        defaults.min_by_key(|class| class["value"].as_i64())
    } else {
        let class = request.lookup.get("scheduling.k8s.io", "priorityclasses", "", &name);
        if class.is_none() {
            return Err(request.forbid(&format!("no PriorityClass with name {name} was found")));
        }
        class
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy = class
        .as_ref()
        .and_then(|class| class["preemptionPolicy"].as_str())
        .unwrap_or("PreemptLowerPriority")
        .to_owned();
    if let Some(given) = request.object["spec"]["priority"].as_i64()
        && given != value
    {
        return Err(request.forbid(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    if let Some(given) = request.object["spec"]["preemptionPolicy"].as_str()
        && given != policy
    {
        return Err(request.forbid(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    let spec = &mut request.object["spec"];
    if let Some(name) = class.as_ref().and_then(|class| class["metadata"]["name"].as_str()) {
        spec["priorityClassName"] = json!(name);
    }
    spec["priority"] = json!(value);
    spec["preemptionPolicy"] = json!(policy);
    Ok(())
}

/// A replaced pod keeps the priority that it was given.
pub(super) fn keep_priority(request: &mut Request<'_>) {
    let Some(old) = request.old else { return };
    for name in ["priority", "preemptionPolicy"] {
        let held = &old["spec"][name];
        if !held.is_null() && request.object["spec"].get(name).is_none_or(Value::is_null) {
            request.object["spec"][name] = held.clone();
        }
    }
}

/// What upstream's client says of a name with which it cannot ask for an object.
pub(super) fn bad_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("resource name may not be empty".to_owned());
    }
    let mut problems = Vec::new();
    if matches!(name, "." | "..") {
        problems.push(format!("may not be '{name}'"));
    }
    problems.extend(
        ["/", "%"]
            .iter()
            .filter(|part| name.contains(**part))
            .map(|part| format!("may not contain '{part}'")),
    );
    (!problems.is_empty()).then(|| format!("invalid resource name \"{name}\": [{}]", problems.join(" ")))
}

/// The runtime class that a pod names.
fn runtime_class(request: &Request<'_>) -> Result<Option<Value>, Status> {
    let Some(name) = request.object["spec"]["runtimeClassName"].as_str() else {
        return Ok(None);
    };
    let class = request.lookup.get("node.k8s.io", "runtimeclasses", "", name);
    match (class, bad_name(name)) {
        (Some(class), _) => Ok(Some(class)),
        (None, Some(why)) => Err(Status::failure(500, "", why)),
        (None, None) => Err(request.forbid(&format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// What a runtime class adds to its pods: overhead, node selector, tolerations.
pub(super) fn fill_runtime_class(request: &mut Request<'_>) -> Result<(), Status> {
    let Some(class) = runtime_class(request)? else {
        return Ok(());
    };
    let overhead = &class["overhead"]["podFixed"];
    let given = &request.object["spec"]["overhead"];
    if !overhead.is_null() && !given.is_null() && given != overhead {
        return Err(request.forbid(OTHER_OVERHEAD));
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let held = &request.object["spec"]["nodeSelector"][key];
        if !held.is_null() && held != value {
            let [value, held] = [value, held].map(|text| text.as_str().unwrap_or_default());
            let why =
                format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {held}");
            return Err(request.forbid(&why));
        }
    }
    let spec = &mut request.object["spec"];
    if !overhead.is_null() {
        spec["overhead"] = overhead.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        spec["nodeSelector"][key] = value.clone();
    }
    let added = class["scheduling"]["tolerations"].as_array().cloned().unwrap_or_default();
    if !added.is_empty() {
        let tolerations = spec["tolerations"].as_array().into_iter().flatten();
        let mut held: HashSet<Value> = tolerations.cloned().collect();
        let new = added.into_iter().filter(|toleration| held.insert(toleration.clone()));
        append(&mut spec["tolerations"], new.collect());
    }
    Ok(())
}

/// A pod has its class's overhead, and none where that has none.
pub(super) fn check_runtime_class(request: &Request<'_>) -> Result<(), Status> {
    let class = runtime_class(request)?.unwrap_or_default();
    let (wanted, given) = (&class["overhead"]["podFixed"], &request.object["spec"]["overhead"]);
    if wanted.is_null() && !given.is_null() {
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(request.forbid(why));
    }
    if wanted != given {
        return Err(request.forbid(OTHER_OVERHEAD));
    }
    Ok(())
}

/// The newest object that an annotation marks as default.
fn default_class(request: &Request<'_>, group: &str, plural: &str, annotations: &[&str]) -> Vec<Value> {
    let mut classes = request.lookup.list(group, plural, None);
    classes.retain(|class| {
        annotations
            .iter()
            .any(|annotation| class["metadata"]["annotations"][annotation] == "true")
    });
    let created = |class: &Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    classes.sort_by_key(|class| std::cmp::Reverse(created(class)));
    classes
}

pub(super) fn fill_ingress_class(request: &mut Request<'_>) -> Result<(), Status> {
    if !request.is("networking.k8s.io", "ingresses") || request.operation != Operation::Create || !request.subresource.is_empty()
    {
        return Ok(());
    }
    let set = !request.object["spec"]["ingressClassName"].is_null()
        || !request.object["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null();
    if set {
        return Ok(());
    }
    let classes = default_class(
        request,
        "networking.k8s.io",
        "ingressclasses",
        &["ingressclass.kubernetes.io/is-default-class"],
    );
    if let Some(class) = classes.first() {
        request.object["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
    }
    Ok(())
}

pub(super) fn fill_storage_class(request: &mut Request<'_>) {
    if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Create || !request.subresource.is_empty() {
        return;
    }
    let beta = "volume.beta.kubernetes.io/storage-class";
    if !request.object["spec"]["storageClassName"].is_null() || !request.object["metadata"]["annotations"][beta].is_null() {
        return;
    }
    let annotations = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    if let Some(class) = default_class(request, "storage.k8s.io", "storageclasses", &annotations).first() {
        request.object["spec"]["storageClassName"] = class["metadata"]["name"].clone();
    }
}
