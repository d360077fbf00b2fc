//! Defaults of the smaller groups (pkg/apis/*/v1/defaults.go).

use serde_json::{Value, json};
use trireme_api::path;

use super::{Fields, is_zero, object, set, set_zero, text};

/// `package` is without `api/` in front.
pub(super) fn apply(package: &str, name: &str, fields: &mut Fields) {
    match (package, name) {
        ("networking/v1", "NetworkPolicyPort") => set(fields, "protocol", "TCP"),
        ("networking/v1", "NetworkPolicySpec") => {
            let mut types = vec!["Ingress"];
            if !is_zero(fields.get("egress")) {
                types.push("Egress");
            }
            set_zero(fields, "policyTypes", types);
        }
        ("networking/v1", "IngressClassParametersReference") => set(fields, "scope", "Cluster"),
        ("storage/v1", "StorageClass") => {
            set(fields, "reclaimPolicy", "Delete");
            set(fields, "volumeBindingMode", "Immediate");
        }
        ("storage/v1", "CSIDriverSpec") => csi_driver(fields),
        ("rbac/v1", "RoleRef") => set_zero(fields, "apiGroup", "rbac.authorization.k8s.io"),
        ("rbac/v1", "Subject") => {
            if matches!(text(fields, "kind"), "User" | "Group") {
                set_zero(fields, "apiGroup", "rbac.authorization.k8s.io");
            }
        }
        ("admissionregistration/v1" | "admissionregistration/v1beta1", name) => admission(name, fields),
        ("discovery/v1", "EndpointPort") => {
            set(fields, "name", "");
            set(fields, "protocol", "TCP");
        }
        ("kube-aggregator/pkg/apis/apiregistration/v1", "ServiceReference") => set(fields, "port", 443),
        ("apiextensions-apiserver/pkg/apis/apiextensions/v1", name) => definition(name, fields),
        ("scheduling/v1", "PriorityClass") => set(fields, "preemptionPolicy", "PreemptLowerPriority"),
        ("resource/v1" | "resource/v1beta2", "ExactDeviceRequest" | "DeviceSubRequest") => {
            set_zero(fields, "allocationMode", "ExactCount");
            if text(fields, "allocationMode") == "ExactCount" {
                set_zero(fields, "count", 1);
            }
        }
        ("flowcontrol/v1", "FlowSchemaSpec") => set_zero(fields, "matchingPrecedence", 1000),
        ("flowcontrol/v1", "ExemptPriorityLevelConfiguration") => {
            set(fields, "nominalConcurrencyShares", 0);
            set(fields, "lendablePercent", 0);
        }
        ("flowcontrol/v1", "LimitedPriorityLevelConfiguration") => {
            set(fields, "nominalConcurrencyShares", 30);
            set(fields, "lendablePercent", 0);
        }
        ("flowcontrol/v1", "QueuingConfiguration") => {
            set_zero(fields, "handSize", 8);
            set_zero(fields, "queues", 64);
            set_zero(fields, "queueLengthLimit", 50);
        }
        _ => {}
    }
}

fn definition(name: &str, fields: &mut Fields) {
    match name {
        "ServiceReference" => set(fields, "port", 443),
        "CustomResourceDefinition" => {
            let versions = fields.get("spec").map_or(&[][..], |spec| path::list(spec, &["versions"]));
            let stored = versions
                .iter()
                .find(|version| path::bool(version, &["storage"]))
                .map(|version| path::str(version, &["name"]).to_owned());
            if let Some(stored) = stored {
                set_zero(object(fields, "status"), "storedVersions", json!([stored]));
            }
        }
        "CustomResourceDefinitionSpec" => {
            let names = object(fields, "names");
            let kind = text(names, "kind").to_owned();
            if !kind.is_empty() {
                set_zero(names, "singular", kind.to_lowercase());
                set_zero(names, "listKind", format!("{kind}List"));
            }
            set(fields, "conversion", json!({"strategy": "None"}));
        }
        _ => {}
    }
}

fn csi_driver(fields: &mut Fields) {
    set(fields, "attachRequired", true);
    set(fields, "podInfoOnMount", false);
    set(fields, "storageCapacity", false);
    set(fields, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    set_zero(fields, "volumeLifecycleModes", json!(["Persistent"]));
    set(fields, "requiresRepublish", false);
    set(fields, "seLinuxMount", false);
}

fn admission(name: &str, fields: &mut Fields) {
    let empty = || Value::Object(Fields::new());
    match name {
        "ValidatingWebhook" | "MutatingWebhook" => {
            set(fields, "failurePolicy", "Fail");
            set(fields, "matchPolicy", "Equivalent");
            set(fields, "namespaceSelector", empty());
            set(fields, "objectSelector", empty());
            set(fields, "timeoutSeconds", 10);
            if name == "MutatingWebhook" {
                set(fields, "reinvocationPolicy", "Never");
            }
        }
        "Rule" | "RuleWithOperations" | "NamedRuleWithOperations" => set(fields, "scope", "*"),
        "ServiceReference" => set(fields, "port", 443),
        "ValidatingAdmissionPolicySpec" | "MutatingAdmissionPolicySpec" => {
            set(fields, "failurePolicy", "Fail");
            if fields.contains_key("matchConstraints") {
                let constraints = object(fields, "matchConstraints");
                admission("MatchResources", constraints);
            }
        }
        "MatchResources" => {
            set(fields, "matchPolicy", "Equivalent");
            set(fields, "namespaceSelector", empty());
            set(fields, "objectSelector", empty());
        }
        _ => {}
    }
}
