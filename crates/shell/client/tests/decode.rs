//! Whatever the API server accepts and stores of a built-in kind decodes into its k8s-openapi type, nulls and absent
//! fields included: otherwise one odd object would be invisible to every part that reads it typed.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling, batch::v1 as batch, certificates::v1 as certificates,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    flowcontrol::v1 as flowcontrol, networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use trireme_api::decode::{self, FieldValidation};
use trireme_api::schema::{self, Struct, Type};
use trireme_api::{Header, Object};
use trireme_client::ApiObject;

/// Deeper than this everything is null (schemas nest without end).
const DEPTH_MAX: usize = 9;

type Decode = fn(&Object) -> Result<(), String>;
type Kind = (&'static str, &'static str, &'static str);

fn entry<K: ApiObject>() -> (Kind, Decode) {
    ((K::GROUP, K::VERSION, K::KIND), |object| {
        object.typed::<K>().map(drop).map_err(|error| error.to_string())
    })
}

macro_rules! types {
    ($($ty:ty),* $(,)?) => { vec![$(entry::<$ty>()),*] };
}

fn types() -> Vec<(Kind, Decode)> {
    types![
        core::ConfigMap,
        core::Endpoints,
        core::Event,
        core::LimitRange,
        core::Namespace,
        core::Node,
        core::PersistentVolumeClaim,
        core::PersistentVolume,
        core::Pod,
        core::PodTemplate,
        core::ReplicationController,
        core::ResourceQuota,
        core::Secret,
        core::ServiceAccount,
        core::Service,
        admission::MutatingAdmissionPolicy,
        admission::MutatingAdmissionPolicyBinding,
        admission::MutatingWebhookConfiguration,
        admission::ValidatingAdmissionPolicy,
        admission::ValidatingAdmissionPolicyBinding,
        admission::ValidatingWebhookConfiguration,
        apiextensions::CustomResourceDefinition,
        scheduling::PriorityClass,
        coordination::Lease,
        node::RuntimeClass,
        discovery::EndpointSlice,
        resource::DeviceClass,
        resource::ResourceClaim,
        resource::ResourceClaimTemplate,
        resource::ResourceSlice,
        flowcontrol::FlowSchema,
        flowcontrol::PriorityLevelConfiguration,
        certificates::CertificateSigningRequest,
        networking::IngressClass,
        networking::Ingress,
        networking::IPAddress,
        networking::NetworkPolicy,
        networking::ServiceCIDR,
        policy::PodDisruptionBudget,
        rbac::ClusterRoleBinding,
        rbac::ClusterRole,
        rbac::RoleBinding,
        rbac::Role,
        storage::CSIDriver,
        storage::CSINode,
        storage::CSIStorageCapacity,
        storage::StorageClass,
        storage::VolumeAttachment,
        storage::VolumeAttributesClass,
        apiregistration::APIService,
        apps::ControllerRevision,
        apps::DaemonSet,
        apps::Deployment,
        apps::ReplicaSet,
        apps::StatefulSet,
        events::Event,
        autoscaling::v2::HorizontalPodAutoscaler,
        autoscaling::v1::HorizontalPodAutoscaler,
        batch::CronJob,
        batch::Job,
    ]
}

/// Makes objects: what a field is follows from the seed and its path, so that each seed tries every field.
struct Maker {
    seed: u64,
}

impl Maker {
    fn choice(&self, path: &str, of: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, path).hash(&mut hasher);
        hasher.finish() % of
    }

    fn structure(&self, ty: &'static Struct, path: &str, depth: usize) -> Value {
        let mut object = Map::new();
        for field in ty.fields {
            let path = format!("{path}.{}", field.json);
            match self.choice(&path, 8) {
                0 => {}
                1 | 2 => drop(object.insert(field.json.into(), Value::Null)),
                _ => drop(object.insert(field.json.into(), self.value(&field.ty, &path, depth + 1))),
            }
        }
        Value::Object(object)
    }

    fn schema(&self, path: &str, depth: usize) -> Value {
        self.structure(schema::json_schema_props(), path, depth + 1)
    }

    fn value(&self, ty: &Type, path: &str, depth: usize) -> Value {
        if depth > DEPTH_MAX {
            return Value::Null;
        }
        let odd = self.choice(&format!("{path}?"), 2) == 1;
        match ty {
            Type::String => json!(if odd { "x" } else { "" }),
            Type::Bool => json!(odd),
            Type::Int32 | Type::Int64 => json!(i32::from(odd)),
            Type::Double if odd => json!(1.5),
            Type::Double => json!(2),
            Type::Bytes => json!(if odd { "eA==" } else { "" }),
            Type::Struct(reference) => self.structure(reference.get(), path, depth),
            Type::List(inner) => match self.choice(&format!("{path}#"), 4) {
                0 => json!([]),
                1 => json!([null]),
                _ => json!([self.value(inner, &format!("{path}[0]"), depth + 1), null]),
            },
            Type::StringItems if odd => json!(["x", null]),
            Type::StringItems => json!([]),
            Type::Map(inner) => match self.choice(&format!("{path}#"), 3) {
                0 => json!({}),
                _ => json!({"a": self.value(inner, &format!("{path}[a]"), depth + 1), "b": null}),
            },
            Type::Quantity if odd => json!("1500m"),
            Type::Quantity => json!(2),
            Type::IntOrString if odd => json!(80),
            Type::IntOrString => json!("http"),
            Type::Time if odd => json!("2026-01-01T01:00:00+01:00"),
            Type::MicroTime if odd => json!("2026-01-01T00:00:00.123456Z"),
            Type::Time => json!("0001-01-01T00:00:00Z"),
            Type::MicroTime => json!("0001-01-01T00:00:00.000000Z"),
            Type::Duration => json!("1m30s"),
            Type::RawExtension => json!({"kind": "X", "a": null}),
            Type::Json => json!([null, true]),
            Type::FieldsV1 => json!({"f:a": {}}),
            Type::SchemaOrBool if odd => json!(true),
            Type::SchemaOrArray if odd => json!([self.schema(path, depth)]),
            Type::SchemaOrStrings if odd => json!(["x"]),
            Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => self.schema(path, depth),
        }
    }
}

#[test]
fn every_row_has_its_type_here() {
    let here: BTreeSet<_> = types().into_iter().map(|(kind, _)| kind).collect();
    let rows: BTreeSet<_> = trireme_resources::rows()
        .iter()
        .filter(|row| !row.virtual_)
        .map(|row| (row.group, row.version, row.kind))
        .collect();
    assert_eq!(here, rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_decodes(seed: u64) {
        for ((group, version, kind), decode) in types() {
            let ty = schema::kind(group, version, kind).unwrap();
            let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let mut sent = Maker { seed }.structure(ty, kind, 0);
            sent["apiVersion"] = json!(api_version);
            sent["kind"] = json!(kind);
            let mut stored = decode::value(sent.clone(), ty, FieldValidation::Ignore)
                .map_err(|error| TestCaseError::fail(format!("{kind} is not accepted: {error:?}: {sent}")))?;
            decode::canonicalize(&mut stored.value, ty);
            let header = Header { api_version, kind: kind.into(), ..Header::default() };
            for value in [stored.value, sent] {
                let object = Object::from_parts(value.to_string().into(), header.clone());
                decode(&object).map_err(|error| TestCaseError::fail(format!("{kind}: {error}: {value}")))?;
            }
        }
    }
}

#[test]
fn a_service_whose_condition_has_no_time_is_a_service() {
    for time in [json!({"lastTransitionTime": null}), json!({})] {
        let mut condition = json!({"type": "A", "status": "True", "reason": "R", "message": ""});
        condition.as_object_mut().unwrap().extend(time.as_object().unwrap().clone());
        let object = Object::from_value(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"clusterIP": "10.43.0.1"}, "status": {"conditions": [condition]}}),
        )
        .unwrap();
        let service = object.typed::<core::Service>().unwrap();
        let conditions = service.status.as_ref().unwrap().conditions.as_ref().unwrap();
        assert_eq!(conditions[0].last_transition_time.0.to_string(), "0001-01-01T00:00:00Z");
    }
}
