//! One declarative row for every resource that the API serves.
//!
//! Invariant: rows stand in discovery order, group after group; a row says what a resource is, never how it behaves.
//! Rows of custom resources are made at run time ([`crate::custom`]); [`rows`] and [`find`] know none of them.

mod core;
mod extension;
mod platform;
mod workloads;

use std::collections::HashMap;
use std::sync::LazyLock;

use trireme_api::bulk;
use trireme_api::cost::{self, Limits};
use trireme_api::schema::{self, Struct};

/// A resource in one group and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version, for example `v1`.
    pub version: &'static str,
    /// Name in URLs, for example `pods`.
    pub plural: &'static str,
    /// Name of one, for example `pod`.
    pub singular: &'static str,
    /// Kind, for example `Pod`.
    pub kind: &'static str,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Short names, for example `po`.
    pub short_names: &'static [&'static str],
    /// Categories, for example `all`.
    pub categories: &'static [&'static str],
    /// Verbs as discovery lists them.
    pub verbs: &'static [&'static str],
    /// Subresources as discovery lists them.
    pub subresources: &'static [Subresource],
    /// Paths that field selectors may name besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Name of what is stored, shared by all versions and groups of the resource, for example `apps/deployments`;
    /// the core group is called `core`.
    pub storage: &'static str,
    /// Group and version in which it is stored.
    pub stored_as: (&'static str, &'static str),
    /// `storageVersionHash` of discovery; empty where there is none.
    pub hash: &'static str,
    /// Whether nothing of it is stored: reviews, bindings, component statuses.
    pub virtual_: bool,
    /// Whether the garbage collector cares for it: policies of deletion mean nothing to others.
    pub collected: bool,
    /// Whether its objects go by themselves once the event TTL has passed.
    pub expires: bool,
    /// Members in which an empty list or map is not the same as none when two objects are compared, as upstream does to the
    /// letter.
    pub tells_empty: &'static [&'static str],
    /// What an object may have ([`trireme_api::cost`]).
    pub limits: Limits,
    /// Where the list stands that large objects consist of, if there is one which managers own as a whole and which neither
    /// defaults nor strategy nor admission change: it is set aside while an object is changed ([`trireme_api::bulk`]).
    pub bulk: Option<bulk::Path>,
    /// What every answer about it warns of, where upstream has deprecated it.
    pub deprecated: Option<&'static str>,
    /// What a client is told that stores one, as long as nothing acts on it.
    pub unenforced: Option<Unenforced>,
    /// What a row has that a definition made: none of a built-in resource's behaviour is its own, whatever it is called.
    pub custom: Option<&'static Defined>,
}

/// What the row of a custom resource has beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Defined {
    /// Kind of a list of it.
    pub list_kind: &'static str,
    /// All versions of its definition, whether they are served or not.
    pub versions: &'static [&'static str],
    /// The version in which it is stored.
    pub storage: &'static str,
    /// The row of that version, where it is another one.
    pub stored: Option<&'static Resource>,
}

/// What does not happen though an object asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unenforced {
    /// What does not happen, for people.
    pub text: &'static str,
    /// The field whose presence asks for it; empty where the object as such does.
    pub with: &'static [&'static str],
}

impl Unenforced {
    const fn always(text: &'static str) -> Self {
        Self { text, with: &[] }
    }

    const fn with(with: &'static [&'static str], text: &'static str) -> Self {
        Self { text, with }
    }
}

/// A subresource of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subresource {
    /// Name after the slash, for example `status`.
    pub name: &'static str,
    /// Kind of what it takes or gives.
    pub kind: &'static str,
    /// Group of that kind; empty with an empty version where it is the row's own.
    pub group: &'static str,
    /// Version of that kind; empty where it is the row's own.
    pub version: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

/// An API group with its versions, the preferred one first.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Name, for example `apps`.
    pub name: &'static str,
    /// Versions, the preferred one first.
    pub versions: &'static [&'static str],
}

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
pub(crate) const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];

pub(crate) const BASE: Resource = Resource {
    group: "",
    version: "",
    plural: "",
    singular: "",
    kind: "",
    namespaced: true,
    short_names: &[],
    categories: &[],
    verbs: ALL,
    subresources: &[],
    selectable: &[],
    storage: "",
    stored_as: ("", ""),
    hash: "",
    virtual_: false,
    collected: true,
    expires: false,
    tells_empty: &[],
    limits: cost::OBJECT,
    bulk: None,
    deprecated: None,
    unenforced: None,
    custom: None,
};

impl Subresource {
    const fn same(name: &'static str, kind: &'static str) -> Self {
        Self {
            name,
            kind,
            group: "",
            version: "",
            verbs: GET_PATCH_UPDATE,
        }
    }
}

impl Resource {
    /// `apps/v1`, or `v1` in the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The struct of its kind; of a custom one that of its metadata, since the field table knows no more of it.
    ///
    /// # Panics
    /// Never for a row of [`rows`]: a test says so.
    #[must_use]
    pub fn schema(&self) -> &'static Struct {
        if self.is_custom() {
            return schema::kind("meta.k8s.io", "v1", "PartialObjectMetadata").expect("the table has PartialObjectMetadata");
        }
        schema::kind(self.group, self.version, self.kind).expect("every row's kind is in the field table")
    }

    /// Whether a definition made it.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// Kind of a list of it.
    #[must_use]
    pub fn list_kind(&self) -> std::borrow::Cow<'static, str> {
        match self.custom {
            Some(defined) => defined.list_kind.into(),
            None => format!("{}List", self.kind).into(),
        }
    }

    /// The subresource of that name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether `verb` is among the row's verbs.
    #[must_use]
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether it has a `status` subresource.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The row in whose version objects are stored; often the row itself.
    #[must_use]
    pub fn stored(&self) -> &'static Resource {
        let (group, version) = self.stored_as;
        find(group, version, self.plural).expect("the stored version has a row")
    }
}

static ROWS: LazyLock<Vec<Resource>> = LazyLock::new(|| [core::ROWS, workloads::ROWS, platform::ROWS, extension::ROWS].concat());

type Index = HashMap<(&'static str, &'static str, &'static str), &'static Resource>;

static BY_PLURAL: LazyLock<Index> =
    LazyLock::new(|| ROWS.iter().map(|row| ((row.group, row.version, row.plural), row)).collect());

static BY_KIND: LazyLock<Index> = LazyLock::new(|| ROWS.iter().map(|row| ((row.group, row.version, row.kind), row)).collect());

/// All rows, in the order of discovery.
#[must_use]
pub fn rows() -> &'static [Resource] {
    &ROWS
}

/// The row of that group, version and plural name.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    BY_PLURAL.get(&(group, version, plural)).copied()
}

/// The row of that group, version and kind.
#[must_use]
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    BY_KIND.get(&(group, version, kind)).copied()
}

/// The row in whose version a storage's objects are stored.
#[must_use]
pub fn by_storage(storage: &str) -> Option<&'static Resource> {
    ROWS.iter()
        .find(|row| row.storage == storage && row.stored_as == (row.group, row.version))
}

/// All named groups in the order of discovery; the core group is not among them.
#[must_use]
pub fn groups() -> &'static [Group] {
    GROUPS
}

static GROUPS: &[Group] = &[
    Group {
        name: "apiregistration.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "apps",
        versions: &["v1"],
    },
    Group {
        name: "events.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "authentication.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "authorization.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "autoscaling",
        versions: &["v2", "v1"],
    },
    Group {
        name: "batch",
        versions: &["v1"],
    },
    Group {
        name: "certificates.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "networking.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "policy",
        versions: &["v1"],
    },
    Group {
        name: "rbac.authorization.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "storage.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "admissionregistration.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "apiextensions.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "scheduling.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "coordination.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "node.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "discovery.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "resource.k8s.io",
        versions: &["v1"],
    },
    Group {
        name: "flowcontrol.apiserver.k8s.io",
        versions: &["v1"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_struct_a_group_and_a_stored_form() {
        for row in rows() {
            assert_eq!(row.schema().name, row.kind);
            assert!(
                row.group.is_empty()
                    || groups()
                        .iter()
                        .any(|group| group.name == row.group && group.versions.contains(&row.version))
            );
            if !row.virtual_ {
                assert_eq!(row.stored().storage, row.storage, "{}", row.plural);
                assert_eq!(by_storage(row.storage).unwrap().stored_as, row.stored_as);
                assert!(!row.hash.is_empty(), "{}", row.plural);
            }
            for sub in row.subresources {
                let (group, version) = if sub.version.is_empty() {
                    (row.group, row.version)
                } else {
                    (sub.group, sub.version)
                };
                assert!(
                    schema::kind(group, version, sub.kind).is_some(),
                    "{}/{}",
                    row.plural,
                    sub.name
                );
            }
        }
    }

    /// Every stored kind is here once: something acts on it, it is plain data, or a client is told that nothing acts on it.
    #[test]
    fn what_nothing_acts_on_says_so() {
        const ACTED_ON: &[&str] = &[
            "admissionregistration.k8s.io/mutatingwebhookconfigurations",
            "admissionregistration.k8s.io/validatingwebhookconfigurations",
            "apiextensions.k8s.io/customresourcedefinitions",
            "apps/daemonsets",
            "apps/deployments",
            "apps/replicasets",
            "apps/statefulsets",
            "autoscaling/horizontalpodautoscalers",
            "batch/cronjobs",
            "batch/jobs",
            "certificates.k8s.io/certificatesigningrequests",
            "core/endpoints",
            "core/limitranges",
            "core/namespaces",
            "core/nodes",
            "core/persistentvolumeclaims",
            "core/persistentvolumes",
            "core/pods",
            "core/replicationcontrollers",
            "core/resourcequotas",
            "core/serviceaccounts",
            "core/services",
            "discovery.k8s.io/endpointslices",
            "networking.k8s.io/ipaddresses",
            "networking.k8s.io/networkpolicies",
            "node.k8s.io/runtimeclasses",
            "policy/poddisruptionbudgets",
            "rbac.authorization.k8s.io/clusterrolebindings",
            "rbac.authorization.k8s.io/clusterroles",
            "rbac.authorization.k8s.io/rolebindings",
            "rbac.authorization.k8s.io/roles",
            "scheduling.k8s.io/priorityclasses",
            "storage.k8s.io/csistoragecapacities",
            "storage.k8s.io/storageclasses",
        ];
        const DATA: &[&str] = &[
            "apps/controllerrevisions",
            "coordination.k8s.io/leases",
            "core/configmaps",
            "core/events",
            "core/podtemplates",
            "core/secrets",
        ];
        for row in rows().iter().filter(|row| !row.virtual_) {
            let acts = ACTED_ON.contains(&row.storage) || DATA.contains(&row.storage);
            assert_eq!(acts, row.unenforced.is_none(), "{}", row.storage);
        }
    }

    #[test]
    fn rows_are_found_by_plural_kind_and_storage() {
        assert_eq!(find("", "v1", "pods").unwrap().kind, "Pod");
        assert_eq!(find_kind("apps", "v1", "Deployment").unwrap().plural, "deployments");
        assert_eq!(
            find("autoscaling", "v1", "horizontalpodautoscalers")
                .unwrap()
                .stored()
                .version,
            "v2"
        );
        assert_eq!(find("events.k8s.io", "v1", "events").unwrap().stored().group, "");
        assert_eq!(by_storage("core/events").unwrap().group, "");
        assert!(find("apps", "v1beta1", "deployments").is_none());
    }
}
