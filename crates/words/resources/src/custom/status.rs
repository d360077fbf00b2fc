//! The status of definitions: which names they have, whether they are established, and how they end.
//!
//! Invariant: a function of the definitions of a group and of the time; a condition keeps the time of its last transition.
//! Whoever has the status that comes out here gets it again.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Condition: its objects are served.
pub const ESTABLISHED: &str = "Established";
/// Condition: its names are its own.
pub const NAMES_ACCEPTED: &str = "NamesAccepted";
/// Condition: it is being deleted.
pub const TERMINATING: &str = "Terminating";
/// Condition: what its objects must be like is not said as it has to be.
pub const NON_STRUCTURAL: &str = "NonStructuralSchema";
/// Finalizer: its objects are deleted first.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Annotation by which a definition of one of Kubernetes' own groups says who approved it.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether a condition is there and true.
#[must_use]
pub fn is_true(conditions: &Value, kind: &str) -> bool {
    let mut conditions = conditions.as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// A condition without its time.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// Type.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// Reason.
    pub reason: &'a str,
    /// Message.
    pub message: &'a str,
}

/// Sets a condition of a definition.
pub fn set_condition(definition: &mut Value, condition: Condition<'_>, now: &str) {
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let mut made = json!({
        "type": condition.kind, "status": condition.status, "reason": condition.reason, "message": condition.message,
        "lastTransitionTime": now,
    });
    match list.iter_mut().find(|own| own["type"] == condition.kind) {
        Some(own) => {
            if own["status"] == condition.status && own["lastTransitionTime"].is_string() {
                made["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            // What else stands there, such as the generation that was looked at, stays.
            if let (Value::Object(own), Value::Object(made)) = (own, made) {
                own.extend(made);
            }
        }
        None => list.push(made),
    }
}

/// The definition with the status that it is to have, if that is another one; `others` are all definitions of its group.
#[must_use]
pub fn wanted(definition: &Value, others: &[Value], now: &str) -> Option<Value> {
    let mut new = definition.clone();
    names(&mut new, definition, others, now);
    approval(&mut new, now);
    structure(&mut new, now);
    let conditions = &new["status"]["conditions"];
    if is_true(conditions, NAMES_ACCEPTED) && !is_true(conditions, ESTABLISHED) {
        let condition = if bad_bundle(&new) {
            Condition {
                kind: ESTABLISHED,
                status: "False",
                reason: "InvalidCABundle",
                message: "The conversion webhook CABundle is invalid",
            }
        } else {
            Condition {
                kind: ESTABLISHED,
                status: "True",
                reason: "InitialNamesAccepted",
                message: "the initial names have been accepted",
            }
        };
        set_condition(&mut new, condition, now);
    }
    (new != *definition).then_some(new)
}

/// Says that unknown fields are kept everywhere, which is taken only where it was so before.
fn structure(new: &mut Value, now: &str) {
    if new["spec"]["preserveUnknownFields"] == true {
        let condition = Condition {
            kind: NON_STRUCTURAL,
            status: "True",
            reason: "Violations",
            message: "spec.preserveUnknownFields: Invalid value: true: must be false",
        };
        set_condition(new, condition, now);
    } else if let Some(conditions) = new["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != NON_STRUCTURAL);
    }
}

/// Whether the certificates of a webhook that converts are none.
fn bad_bundle(definition: &Value) -> bool {
    use base64::Engine as _;
    let bundle = &definition["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"];
    let Some(text) = bundle.as_str().filter(|text| !text.is_empty()) else {
        return false;
    };
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text) else {
        return true;
    };
    !String::from_utf8_lossy(&bytes).contains("-----BEGIN CERTIFICATE-----")
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Takes what names are free, and says which are not.
fn names(new: &mut Value, definition: &Value, others: &[Value], now: &str) {
    let wanted = &definition["spec"]["names"];
    let mut accepted = match &definition["status"]["acceptedNames"] {
        Value::Object(names) => names.clone(),
        _ => Map::new(),
    };
    let has = definition["status"]["conditions"].as_array().into_iter().flatten();
    let known = has.clone().any(|condition| condition["type"] == NAMES_ACCEPTED);
    if known && same_names(wanted, &accepted) {
        return;
    }
    let mut resources = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for other in others {
        let names = &other["status"]["acceptedNames"];
        resources.extend(["plural", "singular"].into_iter().filter_map(|name| names[name].as_str()));
        resources.extend(texts(&names["shortNames"]));
        kinds.extend(["kind", "listKind"].into_iter().filter_map(|name| names[name].as_str()));
    }
    let mut conflict: Option<(&str, String)> = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (name, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        if !take(&mut accepted, wanted, name, &resources) {
            conflict = Some((reason, in_use(wanted[name].as_str().unwrap_or_default())));
        }
    }
    let before: Vec<String> = texts(accepted.get("shortNames").unwrap_or(&Value::Null))
        .into_iter()
        .map(str::to_owned)
        .collect();
    let short = texts(&wanted["shortNames"]);
    let taken: Vec<String> = short
        .iter()
        .filter(|name| !before.iter().any(|own| own == *name) && resources.contains(*name))
        .map(|name| in_use(name))
        .collect();
    let short_conflict = match taken.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let mut told: Vec<&str> = Vec::new();
            for text in several {
                if !told.contains(&text.as_str()) {
                    told.push(text);
                }
            }
            Some(if told.len() == 1 {
                told[0].to_owned()
            } else {
                format!("[{}]", told.join(", "))
            })
        }
    };
    // In the order in which upstream looks: the last one is told.
    let mut kind_conflict: Option<(&str, String)> = None;
    for (name, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        if !take(&mut accepted, wanted, name, &kinds) {
            kind_conflict = Some((reason, in_use(wanted[name].as_str().unwrap_or_default())));
        }
    }
    if short_conflict.is_none() {
        put(&mut accepted, "shortNames", &wanted["shortNames"]);
    }
    put(&mut accepted, "categories", &wanted["categories"]);
    let conflict = kind_conflict
        .or_else(|| short_conflict.map(|message| ("ShortNamesConflict", message)))
        .or(conflict);
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    new["status"]["acceptedNames"] = accepted.into();
    let (status, reason, message) = match &conflict {
        Some((reason, message)) => ("False", *reason, message.as_str()),
        None => ("True", "NoConflicts", "no conflicts found"),
    };
    let accepted = Condition {
        kind: NAMES_ACCEPTED,
        status,
        reason,
        message,
    };
    set_condition(new, accepted, now);
    let known = definition["status"]["conditions"].as_array().into_iter().flatten();
    if conflict.is_some() && !known.clone().any(|condition| condition["type"] == ESTABLISHED) {
        let condition = Condition {
            kind: ESTABLISHED,
            status: "False",
            reason: "NotAccepted",
            message: "not all names are accepted",
        };
        set_condition(new, condition, now);
    }
}

/// Takes a name that is wanted, unless another definition has it.
fn take(accepted: &mut Map<String, Value>, wanted: &Value, name: &str, used: &BTreeSet<&str>) -> bool {
    let own = wanted[name].as_str().unwrap_or_default();
    if accepted.get(name).and_then(Value::as_str).unwrap_or_default() != own && used.contains(own) {
        return false;
    }
    accepted.insert(name.to_owned(), own.into());
    true
}

fn put(names: &mut Map<String, Value>, name: &str, value: &Value) {
    match value.as_array().filter(|list| !list.is_empty()) {
        Some(list) => names.insert(name.to_owned(), list.clone().into()),
        None => names.remove(name),
    };
}

fn same_names(wanted: &Value, accepted: &Map<String, Value>) -> bool {
    let is_text =
        |name| wanted[name].as_str().unwrap_or_default() == accepted.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_list = |name| texts(&wanted[name]) == texts(accepted.get(name).unwrap_or(&Value::Null));
    ["plural", "singular", "kind", "listKind"].into_iter().all(is_text) && ["shortNames", "categories"].into_iter().all(is_list)
}

/// Whether a group is one of Kubernetes' own.
#[must_use]
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group == *own || group.strip_suffix(own).is_some_and(|before| before.ends_with('.')))
}

/// Whether a definition of one of Kubernetes' own groups is approved.
fn approval(new: &mut Value, now: &str) {
    let group = new["spec"]["group"].as_str().unwrap_or_default();
    if !is_protected(group) {
        return;
    }
    let annotation = new["metadata"]["annotations"][APPROVED]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url = annotation
        .split_once("://")
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.split('/').next().unwrap_or_default().is_empty());
    let (status, reason, message) = if annotation.is_empty() {
        let message = format!("protected groups must have approval annotation {APPROVED:?}, {SEE}");
        ("False", "MissingAnnotation", message)
    } else if annotation.starts_with("unapproved") {
        ("False", "UnapprovedAnnotation", format!("not approved: {annotation:?}"))
    } else if is_url {
        ("True", "ApprovedAnnotation", format!("approved in {annotation}"))
    } else {
        let message = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \
             \"unapproved\", {SEE}"
        );
        ("False", "InvalidAnnotation", message)
    };
    let condition = Condition {
        kind: "KubernetesAPIApprovalPolicyConformant",
        status,
        reason,
        message: &message,
    };
    let known = new["status"]["conditions"].as_array().into_iter().flatten();
    let same = known.clone().any(|own| {
        own["type"] == condition.kind
            && own["status"] == condition.status
            && own["reason"] == condition.reason
            && own["message"] == condition.message
    });
    if !same {
        set_condition(new, condition, now);
    }
}

/// Marks a definition whose deletion was asked for: its objects go first.
pub fn mark_deleted(definition: &mut Value, now: &str) {
    let metadata = definition["metadata"].as_object_mut();
    if let Some(metadata) = metadata {
        metadata.entry("deletionTimestamp").or_insert_with(|| now.into());
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers
            .as_array_mut()
            .filter(|list| !list.iter().any(|own| own == CLEANUP))
        {
            list.push(CLEANUP.into());
        }
    }
    let condition = Condition {
        kind: TERMINATING,
        status: "True",
        reason: "InstanceDeletionPending",
        message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    };
    set_condition(definition, condition, now);
}

/// Whether a definition waits for its objects to be deleted.
#[must_use]
pub fn waits_for_cleanup(definition: &Value) -> bool {
    let metadata = &definition["metadata"];
    metadata["deletionTimestamp"].is_string() && texts(&metadata["finalizers"]).contains(&CLEANUP)
}

/// Lets a definition go whose objects are gone.
pub fn release(definition: &mut Value) {
    let Some(metadata) = definition["metadata"].as_object_mut() else {
        return;
    };
    if let Some(list) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        list.retain(|own| own != CLEANUP);
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}
