//! What structs and fields mean, in upstream's words, out of the schemas that `k8s-openapi` carries in its code.
//!
//! Invariant: no such text is written down in this repository, and nothing large stays in memory: the schemas of a package
//! are made when a document is asked for and go with it. Only the few texts that head table columns are kept, from the
//! first table of their package on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use trireme_resources::rows;
use trireme_resources::table::{self, Source};

/// Makes the schemas of a package's top structs and of all that they reach.
type Make = fn(&mut SchemaGenerator);

macro_rules! packages {
    ($($package:literal $($module:ident)::+: $($name:ident)+;)+) => {
        &[$(($package, |generator| {
            use k8s_openapi::$($module)::+ as package;
            $(drop(generator.subschema_for::<package::$name>());)+
        })),+]
    };
}

/// The structs from which all others are reached, by Go package.
const PACKAGES: &[(&str, Make)] = packages! {
    "apimachinery/pkg/apis/meta/v1" apimachinery::pkg::apis::meta::v1:
        DeleteOptions ObjectMeta Status APIGroupList APIResourceList APIVersions;
    "api/core/v1" api::core::v1:
        Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
        PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
    "api/admissionregistration/v1" api::admissionregistration::v1:
        MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration ValidatingAdmissionPolicy
        ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
    "api/admissionregistration/v1beta1" api::admissionregistration::v1beta1:
        MutatingAdmissionPolicy MutatingAdmissionPolicyBinding;
    "api/apps/v1" api::apps::v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
    "api/authentication/v1" api::authentication::v1: SelfSubjectReview TokenRequest TokenReview;
    "api/authorization/v1" api::authorization::v1:
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview;
    "api/autoscaling/v1" api::autoscaling::v1: HorizontalPodAutoscaler Scale;
    "api/autoscaling/v2" api::autoscaling::v2: HorizontalPodAutoscaler;
    "api/batch/v1" api::batch::v1: CronJob Job;
    "api/certificates/v1" api::certificates::v1: CertificateSigningRequest;
    "api/certificates/v1beta1" api::certificates::v1beta1: ClusterTrustBundle PodCertificateRequest;
    "api/coordination/v1" api::coordination::v1: Lease;
    "api/coordination/v1beta1" api::coordination::v1beta1: LeaseCandidate;
    "api/discovery/v1" api::discovery::v1: EndpointSlice;
    "api/events/v1" api::events::v1: Event;
    "api/flowcontrol/v1" api::flowcontrol::v1: FlowSchema PriorityLevelConfiguration;
    "api/networking/v1" api::networking::v1: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
    "api/networking/v1beta1" api::networking::v1beta1: IPAddress ServiceCIDR;
    "api/node/v1" api::node::v1: RuntimeClass;
    "api/policy/v1" api::policy::v1: Eviction PodDisruptionBudget;
    "api/rbac/v1" api::rbac::v1: ClusterRole ClusterRoleBinding Role RoleBinding;
    "api/resource/v1" api::resource::v1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    "api/resource/v1beta1" api::resource::v1beta1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    "api/resource/v1beta2" api::resource::v1beta2: DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice;
    "api/scheduling/v1" api::scheduling::v1: PriorityClass;
    "api/storage/v1" api::storage::v1:
        CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass;
    "api/storage/v1beta1" api::storage::v1beta1: VolumeAttributesClass;
    "api/storagemigration/v1beta1" api::storagemigration::v1beta1: StorageVersionMigration;
    "apiextensions-apiserver/pkg/apis/apiextensions/v1" apiextensions_apiserver::pkg::apis::apiextensions::v1:
        CustomResourceDefinition;
    "kube-aggregator/pkg/apis/apiregistration/v1" kube_aggregator::pkg::apis::apiregistration::v1: APIService;
};

/// The descriptions of the structs of some packages and of those that they reach.
#[derive(Default)]
pub struct Descriptions {
    schemas: Map<String, Value>,
}

impl Descriptions {
    /// Those of the packages that `wanted` says; packages that are not known have none.
    #[must_use]
    pub fn of(wanted: impl Fn(&str) -> bool) -> Self {
        let mut generator = SchemaGenerator::new(SchemaSettings::default());
        for (package, make) in PACKAGES {
            if wanted(package) {
                make(&mut generator);
            }
        }
        Self {
            schemas: generator.take_definitions(false),
        }
    }

    /// Of a struct, by the name of its schema (`io.k8s.api.core.v1.Pod`).
    #[must_use]
    pub fn of_struct(&self, schema: &str) -> Option<&str> {
        text(self.schemas.get(schema)?)
    }

    /// Of a struct's field, by its JSON name.
    #[must_use]
    pub fn of_field(&self, schema: &str, field: &str) -> Option<&str> {
        text(self.schemas.get(schema)?.get("properties")?.get(field)?)
    }
}

fn text(schema: &Value) -> Option<&str> {
    schema.get("description")?.as_str()
}

/// The name of a struct's schema.
#[must_use]
pub fn schema_name(package: &str, name: &str) -> String {
    format!("io.k8s.{}.{name}", package.replace('/', "."))
}

/// Texts of one package's fields.
type Texts = BTreeMap<Source, Arc<str>>;

/// The texts of table columns, by package; at most one per column of the rows, in all some 40 KB.
static COLUMNS: Mutex<BTreeMap<&'static str, Texts>> = Mutex::new(BTreeMap::new());

/// The text that heads a column which shows the field.
#[must_use]
pub fn of_column(source: Source) -> Option<Arc<str>> {
    let mut known = COLUMNS.lock();
    let texts = known.entry(source.package).or_insert_with(|| texts_of(source.package));
    texts.get(&source).cloned()
}

/// What stays is allocated before the schemas are made or after they are gone, so as not to pin their memory.
fn texts_of(package: &str) -> Texts {
    let columns = rows().iter().flat_map(table::columns).chain(table::scale_columns());
    let sources: BTreeSet<Source> = columns
        .filter_map(|column| column.from)
        .filter(|source| source.package == package)
        .collect();
    let mut joined = String::with_capacity(TEXTS_BYTES);
    let mut ends = Vec::with_capacity(sources.len());
    let all = Descriptions::of(|own| own == package);
    for source in sources {
        if let Some(text) = all.of_field(&schema_name(source.package, source.name), source.field) {
            let text = if source.all_but_last_sentence {
                without_last_sentence(text)
            } else {
                text
            };
            joined.push_str(text);
            ends.push((source, joined.len()));
        }
    }
    drop(all);
    let mut start = 0;
    let texts = ends.into_iter().map(|(source, end)| {
        let text = Arc::from(&joined[start..end]);
        start = end;
        (source, text)
    });
    texts.collect()
}

/// Room for the texts of a package's columns.
const TEXTS_BYTES: usize = 64 << 10;

fn without_last_sentence(text: &str) -> &str {
    text.rfind(". ").map_or(text, |end| &text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_finds_the_field_that_it_names() {
        let columns = rows().iter().flat_map(table::columns).chain(table::scale_columns());
        for source in columns.filter_map(|column| column.from) {
            assert!(of_column(source).is_some_and(|text| !text.is_empty()), "{source:?}");
        }
    }

    #[test]
    fn structs_and_fields_of_a_kind_are_described() {
        let words = Descriptions::of(|package| package == "api/apps/v1");
        assert!(words.of_struct("io.k8s.api.core.v1.Container").is_some());
        assert!(words.of_field("io.k8s.api.apps.v1.Deployment", "spec").is_some());
        assert!(words.of_field("io.k8s.api.core.v1.PodSpec", "containers").is_some());
        assert!(words.of_field("io.k8s.api.core.v1.PodSpec", "nothing").is_none());
    }

    #[test]
    fn every_kind_of_our_rows_is_described() {
        let words = Descriptions::of(|_| true);
        let without: Vec<_> = rows()
            .iter()
            .filter(|row| {
                words
                    .of_struct(&schema_name(row.schema().package, row.schema().name))
                    .is_none()
            })
            .map(|row| (row.group, row.version, row.kind))
            .collect();
        assert!(without.iter().all(|(group, ..)| *group == "metrics.k8s.io"), "{without:?}");
    }
}
