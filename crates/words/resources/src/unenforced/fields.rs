//! Fields of pods and services that are accepted and do nothing, or that nothing here can do.
//!
//! Invariant: a test walks every field that the two kinds have and finds it in exactly one of the tables: enforced, struct
//! by struct, or here with what happens instead. `docs/STATUS.md` shows what is here; a test proves it current.

use serde_json::Value;

/// What happens to a field that is not enforced.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    /// It is stored, and the client is warned where the function says that its value asks for something; the first value
    /// is the object that has the field.
    Ignored(fn(&Value, &Value) -> bool),
    /// The pod does not start, and its events say why; or the field is dropped or refused when it is sent.
    Refused,
}

/// A field with its fate.
pub(super) struct Field {
    /// Path below `spec`; `[]` stands for the items of a list, `{key}` for one entry of a map, and `containers[]` for the
    /// containers of all three lists.
    pub path: &'static str,
    /// What happens.
    pub fate: Fate,
    /// The same for people.
    pub text: &'static str,
}

const fn ignored(path: &'static str, text: &'static str) -> Field {
    ignored_if(path, |_, _| true, text)
}

const fn ignored_if(path: &'static str, asks: fn(&Value, &Value) -> bool, text: &'static str) -> Field {
    Field {
        path,
        fate: Fate::Ignored(asks),
        text,
    }
}

const fn refused(path: &'static str, text: &'static str) -> Field {
    Field {
        path,
        fate: Fate::Refused,
        text,
    }
}

const GATE: &str = "dropped: its feature gate is off";
const PROFILE: &str = "a pod that asks for one does not start";
const VOLUME: &str = "a pod with such a volume does not start";
const SOURCE: &str = "a claim on a node's own disk is not filled from a source";

/// Of a pod's spec, and of a template's.
pub(super) static POD: &[Field] = &[
    ignored_if(
        "securityContext.fsGroupChangePolicy",
        |_, value| value == "OnRootMismatch",
        "owners are set at each start",
    ),
    ignored("securityContext.seLinuxOptions", "no label is set"),
    ignored("securityContext.seLinuxChangePolicy", "no label is set"),
    ignored("securityContext.windowsOptions", "pods run on Linux"),
    ignored("containers[].securityContext.seLinuxOptions", "no label is set"),
    ignored("containers[].securityContext.windowsOptions", "pods run on Linux"),
    ignored(
        "containers[].resources.limits{ephemeral-storage}",
        "the container may use more",
    ),
    ignored(
        "containers[].resources.requests{ephemeral-storage}",
        "it counts when a node is chosen and is not kept free afterwards",
    ),
    ignored("containers[].resources.claims", "no device is given"),
    ignored("containers[].env[].valueFrom.fileKeyRef", "the variable is not set"),
    ignored("resources.claims", "no device is given"),
    ignored("resourceClaims", "no device is allocated"),
    ignored_if(
        "volumes[].emptyDir.sizeLimit",
        |volume, _| volume["medium"] != "Memory",
        "a volume on disk may grow beyond it",
    ),
    refused("securityContext.appArmorProfile", PROFILE),
    refused("securityContext.seccompProfile.localhostProfile", PROFILE),
    refused("containers[].securityContext.appArmorProfile", PROFILE),
    refused("containers[].securityContext.seccompProfile.localhostProfile", PROFILE),
    refused("containers[].volumeDevices", VOLUME),
    refused("containers[].lifecycle.stopSignal", GATE),
    refused("schedulingGroup", GATE),
    refused("volumes[].projected.sources[].clusterTrustBundle", GATE),
    refused("volumes[].projected.sources[].podCertificate", GATE),
    refused("volumes[].awsElasticBlockStore", VOLUME),
    refused("volumes[].azureDisk", VOLUME),
    refused("volumes[].azureFile", VOLUME),
    refused("volumes[].cephfs", VOLUME),
    refused("volumes[].cinder", VOLUME),
    refused("volumes[].csi", VOLUME),
    refused("volumes[].ephemeral.volumeClaimTemplate.spec.dataSource", SOURCE),
    refused("volumes[].ephemeral.volumeClaimTemplate.spec.dataSourceRef", SOURCE),
    refused("volumes[].fc", VOLUME),
    refused("volumes[].flexVolume", VOLUME),
    refused("volumes[].flocker", VOLUME),
    refused("volumes[].gcePersistentDisk", VOLUME),
    refused("volumes[].gitRepo", VOLUME),
    refused("volumes[].glusterfs", VOLUME),
    refused("volumes[].iscsi", VOLUME),
    refused("volumes[].nfs", VOLUME),
    refused("volumes[].photonPersistentDisk", VOLUME),
    refused("volumes[].portworxVolume", VOLUME),
    refused("volumes[].quobyte", VOLUME),
    refused("volumes[].rbd", VOLUME),
    refused("volumes[].scaleIO", VOLUME),
    refused("volumes[].storageos", VOLUME),
    refused("volumes[].vsphereVolume", VOLUME),
];

/// Of a service's spec.
pub(super) static SERVICE: &[Field] = &[ignored(
    "trafficDistribution",
    "endpoints of all zones and nodes are used alike",
)];

/// A field that a value sets though it is ignored: its path and what happens.
pub(super) fn found(spec: &Value, at: &str, fields: &[Field]) -> Vec<String> {
    let mut out = Vec::new();
    for field in fields {
        let Fate::Ignored(asks) = field.fate else { continue };
        let mut told = |path: String| out.push(format!("{path}: accepted but not enforced yet: {}", field.text));
        match field.path.strip_prefix("containers[]") {
            Some(rest) => {
                for list in ["initContainers", "containers", "ephemeralContainers"] {
                    for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
                        look(container, rest, asks, &|| format!("{at}.{list}[{index}]"), &mut told);
                    }
                }
            }
            None => look(spec, &[".", field.path].concat(), asks, &|| at.to_owned(), &mut told),
        }
    }
    out
}

/// Follows a path; the text of the place is made only where something is told.
fn look(value: &Value, path: &str, asks: fn(&Value, &Value) -> bool, place: &dyn Fn() -> String, told: &mut dyn FnMut(String)) {
    if let Some(rest) = path.strip_prefix("[]") {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            look(item, rest, asks, &|| format!("{}[{index}]", place()), told);
        }
        return;
    }
    let (name, rest, kept) = if let Some(after) = path.strip_prefix('{') {
        let Some((key, rest)) = after.split_once('}') else { return };
        (key, rest, true)
    } else {
        let after = path.strip_prefix('.').unwrap_or(path);
        let end = after.find(['.', '[', '{']).unwrap_or(after.len());
        (&after[..end], &after[end..], false)
    };
    let shown = || {
        if kept {
            format!("{}[{name}]", place())
        } else {
            format!("{}.{name}", place())
        }
    };
    let Some(member) = value.get(name).filter(|member| !member.is_null()) else {
        return;
    };
    if !rest.is_empty() {
        look(member, rest, asks, &shown, told);
    } else if asks(value, member) {
        told(shown());
    }
}
