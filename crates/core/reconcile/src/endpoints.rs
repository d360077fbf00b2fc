//! The Endpoints controller: the older form of what EndpointSlices say (pkg/controller/endpoint/endpoints_controller.go).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpoints_of::{self, Backend, Port};
use crate::ownership;
use crate::plan::{Action, Plan};
use crate::pods::CountedPod;
use crate::replicaset::to_value;

/// Most addresses in one Endpoints object; more are left out and an annotation says so.
pub const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Label of Endpoints that this controller keeps.
pub const LABEL_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired; absent where it was deleted.
    pub service: Option<Arc<Service>>,
    /// All pods of its namespace.
    pub pods: Vec<CountedPod>,
    /// The Endpoints of the Service's name.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// Plans the one change. Endpoints go with their Service, whoever wrote them.
#[must_use]
pub fn reconcile(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = &snapshot.service else {
        plan.actions.extend(snapshot.endpoints.iter().map(|endpoints| Action::Delete {
            target: ownership::object_ref("v1", "Endpoints", &endpoints.metadata),
            grace_period_seconds: None,
            propagation: None,
        }));
        return plan;
    };
    if !endpoints_of::has_endpoints(service) || service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let family = endpoints_of::families(service)[0];
    let backends: Vec<Backend> = endpoints_of::backends(service, &snapshot.pods, family)
        .into_iter()
        .filter(|backend| backend.ready || !backend.terminating)
        .collect();
    let truncated = backends.len() > CAPACITY;
    let subsets = subsets(&backends[..backends.len().min(CAPACITY)], service);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_MANAGED_BY.into(), "endpoint-controller".into());
    if endpoints_of::is_headless(service) {
        labels.insert(LABEL_HEADLESS.into(), String::new());
    } else {
        labels.remove(LABEL_HEADLESS);
    }
    let held = snapshot.endpoints.as_deref();
    let mut changed = held.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    changed.metadata.labels = Some(labels);
    changed.subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    if annotations.is_empty() {
        changed.metadata.annotations = None;
    }
    match held {
        None => plan.actions.push(Action::Create {
            object: to_value(&changed),
            exists_is_done: false,
        }),
        Some(held) if *held != changed => plan.actions.push(Action::Update {
            object: to_value(&changed),
        }),
        Some(_) => {}
    }
    plan
}

/// Addresses with the same ports together, ready ones apart from the others.
fn subsets(backends: &[Backend], service: &Service) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<&[Port], EndpointSubset> = BTreeMap::new();
    for backend in backends {
        let subset = groups.entry(&backend.ports).or_insert_with(|| EndpointSubset {
            ports: ports(&backend.ports),
            ..EndpointSubset::default()
        });
        let list = if backend.ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address(backend, service));
    }
    groups.into_values().collect()
}

fn ports(ports: &[Port]) -> Option<Vec<EndpointPort>> {
    let ports: Vec<_> = ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            port: port.number.unwrap_or(0),
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    (!ports.is_empty()).then_some(ports)
}

fn address(backend: &Backend, service: &Service) -> EndpointAddress {
    EndpointAddress {
        ip: backend.address.clone(),
        hostname: backend.hostname(service),
        node_name: backend.node().map(str::to_owned),
        target_ref: Some(backend.target()),
    }
}
