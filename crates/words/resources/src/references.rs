//! What a pod refers to: which of its fields name another object, and of what kind.
//!
//! Invariant: this is the only such list. It says for each type of reference what it names, and the field table says
//! where in a pod that type stands; a test proves that no field of a pod that names a Secret, ConfigMap, claim or service
//! account is missing. It will not say whether the object exists, nor follow references of what is referred to.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::Value;
use trireme_api::schema::{self, Struct, Type};

/// The annotation of a pod that a node shows for one that it runs by itself.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a pod is the mirror of one that its node runs by itself.
#[must_use]
pub fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

/// What is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Referent {
    /// A Secret of the pod's namespace.
    Secret,
    /// A ConfigMap of the pod's namespace.
    ConfigMap,
    /// A PersistentVolumeClaim of the pod's namespace.
    PersistentVolumeClaim,
    /// The pod's ServiceAccount.
    ServiceAccount,
    /// A ResourceClaim of the pod's namespace.
    ResourceClaim,
    /// A CSIDriver.
    CsiDriver,
    /// Endpoints of the pod's namespace.
    Endpoints,
    /// A ClusterTrustBundle, or all of a signer.
    ClusterTrustBundle,
    /// A PodCertificateRequest that the kubelet makes.
    PodCertificate,
}

impl Referent {
    /// Its plural in the API.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
            Self::ServiceAccount => "serviceaccounts",
            Self::ResourceClaim => "resourceclaims",
            Self::CsiDriver => "csidrivers",
            Self::Endpoints => "endpoints",
            Self::ClusterTrustBundle => "clustertrustbundles",
            Self::PodCertificate => "podcertificaterequests",
        }
    }
}

/// One reference of a pod.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    /// What it is to.
    pub referent: Referent,
    /// Name of the object; empty where the field is, or where the object is not known yet.
    pub name: Cow<'a, str>,
    /// Where the referring struct stands, lists as `[]`: `spec.containers[].env[].valueFrom.secretKeyRef`.
    pub path: &'static str,
    /// Index and item of each list on the way, outermost first: container and variable, for example.
    pub items: Vec<(usize, &'a Value)>,
}

impl Reference<'_> {
    /// A text member of the list item at this depth: `text(0, "name")` is the container's name.
    #[must_use]
    pub fn text(&self, depth: usize, member: &str) -> &str {
        let item = self.items.get(depth).map(|(_, item)| *item);
        item.and_then(|item| item[member].as_str()).unwrap_or_default()
    }
}

/// Where a reference has the name from.
enum Name {
    /// This field of the struct.
    Field(&'static str),
    /// This field of the struct, which is no reference where it is empty.
    Given(&'static str),
    /// The claim that the kubelet's volume plugin is given: called like the pod and the volume.
    Volume,
    /// The claim that the entry names, or that was made for it as the status tells.
    Claim,
    /// The pod's own account.
    Account,
    /// Nothing has a name before it is made.
    Unnamed,
}

/// A struct of the field table that refers.
struct Row {
    holder: &'static str,
    referent: Referent,
    name: Name,
}

const fn row(holder: &'static str, referent: Referent, name: Name) -> Row {
    Row { holder, referent, name }
}

/// Every struct below a pod that refers to an object. A plain `LocalObjectReference` names a Secret wherever it stands.
static TABLE: &[Row] = &[
    row("LocalObjectReference", Referent::Secret, Name::Field("name")),
    row("SecretKeySelector", Referent::Secret, Name::Field("name")),
    row("SecretEnvSource", Referent::Secret, Name::Field("name")),
    row("SecretProjection", Referent::Secret, Name::Field("name")),
    row("SecretVolumeSource", Referent::Secret, Name::Field("secretName")),
    row("AzureFileVolumeSource", Referent::Secret, Name::Field("secretName")),
    row("ConfigMapKeySelector", Referent::ConfigMap, Name::Field("name")),
    row("ConfigMapEnvSource", Referent::ConfigMap, Name::Field("name")),
    row("ConfigMapProjection", Referent::ConfigMap, Name::Field("name")),
    row("ConfigMapVolumeSource", Referent::ConfigMap, Name::Field("name")),
    row(
        "PersistentVolumeClaimVolumeSource",
        Referent::PersistentVolumeClaim,
        Name::Field("claimName"),
    ),
    row("EphemeralVolumeSource", Referent::PersistentVolumeClaim, Name::Volume),
    row("PodSpec", Referent::ServiceAccount, Name::Given("serviceAccountName")),
    row("ServiceAccountTokenProjection", Referent::ServiceAccount, Name::Account),
    row("PodResourceClaim", Referent::ResourceClaim, Name::Claim),
    row(
        "PodExtendedResourceClaimStatus",
        Referent::ResourceClaim,
        Name::Given("resourceClaimName"),
    ),
    row("CSIVolumeSource", Referent::CsiDriver, Name::Field("driver")),
    row("GlusterfsVolumeSource", Referent::Endpoints, Name::Field("endpoints")),
    row(
        "ClusterTrustBundleProjection",
        Referent::ClusterTrustBundle,
        Name::Field("name"),
    ),
    row("PodCertificateProjection", Referent::PodCertificate, Name::Unnamed),
];

/// The part of the field table below `Pod` that leads to references.
struct Node {
    path: String,
    row: Option<&'static Row>,
    fields: Vec<Branch>,
}

struct Branch {
    json: &'static str,
    list: bool,
    node: Node,
}

static TREE: LazyLock<Node> = LazyLock::new(|| {
    let pod = schema::kind("", "v1", "Pod").expect("the field table has pods");
    grow(pod, String::new(), &mut Vec::new()).expect("a pod refers to things")
});

/// The struct of a field's type, and whether a list of it is meant.
fn element(ty: Type) -> Option<(&'static Struct, bool)> {
    match ty {
        Type::Struct(of) => Some((of.get(), false)),
        Type::List(Type::Struct(of)) => Some((of.get(), true)),
        _ => None,
    }
}

/// The tree of a struct; `None` where nothing in it refers.
fn grow(of: &'static Struct, path: String, above: &mut Vec<&'static str>) -> Option<Node> {
    if above.contains(&of.name) {
        return None;
    }
    above.push(of.name);
    let fields: Vec<Branch> = of
        .fields
        .iter()
        .filter_map(|field| {
            let (inner, list) = element(field.ty)?;
            let dot = if path.is_empty() { "" } else { "." };
            let below = format!("{path}{dot}{}{}", field.json, if list { "[]" } else { "" });
            Some(Branch {
                json: field.json,
                list,
                node: grow(inner, below, above)?,
            })
        })
        .collect();
    above.pop();
    let row = TABLE.iter().find(|row| row.holder == of.name);
    (row.is_some() || !fields.is_empty()).then_some(Node { path, row, fields })
}

/// Shows `look` every reference of a pod until it gives something: in the order of the field table, volumes and containers
/// in their own.
pub fn find<'a, T>(pod: &'a Value, mut look: impl FnMut(&Reference<'a>) -> Option<T>) -> Option<T> {
    let mut walk = Walk {
        pod,
        items: Vec::new(),
        look: &mut look,
    };
    walk.visit(&TREE, pod)
}

/// All references of a pod.
#[must_use]
pub fn of(pod: &Value) -> Vec<Reference<'_>> {
    let mut all = Vec::new();
    let stopped: Option<()> = find(pod, |reference| {
        all.push(reference.clone());
        None
    });
    debug_assert!(stopped.is_none(), "nothing stops the walk");
    all
}

/// Whether a pod refers to an object of that name.
#[must_use]
pub fn refers(pod: &Value, to: Referent, name: &str) -> bool {
    !name.is_empty()
        && find(pod, |reference| {
            (reference.referent == to && reference.name == name).then_some(())
        })
        .is_some()
}

struct Walk<'a, 'w, T> {
    pod: &'a Value,
    items: Vec<(usize, &'a Value)>,
    look: &'w mut dyn FnMut(&Reference<'a>) -> Option<T>,
}

impl<'a, T> Walk<'a, '_, T> {
    fn visit(&mut self, node: &'static Node, value: &'a Value) -> Option<T> {
        if !value.is_object() {
            return None;
        }
        if let Some(row) = node.row
            && let Some(name) = self.name(row, value)
        {
            let reference = Reference {
                referent: row.referent,
                name,
                path: &node.path,
                items: self.items.clone(),
            };
            if let found @ Some(_) = (self.look)(&reference) {
                return found;
            }
        }
        for branch in &node.fields {
            let Some(below) = value.get(branch.json) else { continue };
            if !branch.list {
                if let found @ Some(_) = self.visit(&branch.node, below) {
                    return found;
                }
                continue;
            }
            for (index, item) in below.as_array().into_iter().flatten().enumerate() {
                self.items.push((index, item));
                let found = self.visit(&branch.node, item);
                self.items.pop();
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// The name that a struct refers by; `None` where it refers to nothing.
    fn name(&self, row: &Row, holder: &'a Value) -> Option<Cow<'a, str>> {
        let text = |value: &'a Value| value.as_str().unwrap_or_default();
        Some(match row.name {
            Name::Field(field) => text(&holder[field]).into(),
            Name::Given(field) => {
                let name = text(&holder[field]);
                (!name.is_empty()).then_some(name)?.into()
            }
            Name::Volume => {
                let volume = self.items.last().map_or("", |(_, volume)| text(&volume["name"]));
                format!("{}-{volume}", text(&self.pod["metadata"]["name"])).into()
            }
            Name::Claim => self.claim(holder).into(),
            Name::Account => text(&self.pod["spec"]["serviceAccountName"]).into(),
            Name::Unnamed => "".into(),
        })
    }

    fn claim(&self, entry: &'a Value) -> &'a str {
        if let Some(name) = entry["resourceClaimName"].as_str() {
            return name;
        }
        let made = self.pod["status"]["resourceClaimStatuses"].as_array();
        let made = made.into_iter().flatten().find(|made| made["name"] == entry["name"]);
        made.and_then(|made| made["resourceClaimName"].as_str()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
