//! The EndpointSlice controller: the addresses behind each Service, a hundred a slice
//! (staging/src/k8s.io/endpointslice/reconciler.go).
//!
//! An endpoint stays in the slice that holds it, so that a change of one pod rewrites one slice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpoints_of::{self, Backend, Family, Port};
use crate::ownership;
use crate::plan::{Action, Plan};
use crate::pods::CountedPod;
use crate::replicaset::to_value;

/// Most endpoints in one slice.
pub const ENDPOINTS_PER_SLICE: usize = 100;
/// Value of the managed-by label.
pub const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const LABEL_SERVICE: &str = "kubernetes.io/service-name";
const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub service: Arc<Service>,
    /// All pods of its namespace.
    pub pods: Vec<CountedPod>,
    /// All EndpointSlices of its namespace.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The zones of the nodes that have one.
    pub zones: BTreeMap<String, String>,
}

/// Plans all changes. `suffix` gives five fresh letters for the name of a slice at each call.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, suffix: &mut dyn FnMut() -> String) -> Plan {
    let service = &snapshot.service;
    let ours: Vec<&Arc<EndpointSlice>> = snapshot.slices.iter().filter(|slice| is_ours(slice, service)).collect();
    let mut plan = Plan::default();
    if service.metadata.deletion_timestamp.is_some() {
        return plan; // The garbage collector takes the slices.
    }
    let families = if endpoints_of::has_endpoints(service) {
        endpoints_of::families(service)
    } else {
        vec![]
    };
    for slice in &ours {
        // A Service that lost its selector keeps what somebody may maintain by hand from now on; a family that went is gone.
        if !families.is_empty() && !families.iter().any(|family| slice.address_type == family.name()) {
            plan.actions.push(delete(slice));
        }
    }
    for family in families {
        let of_family: Vec<_> = ours
            .iter()
            .copied()
            .filter(|slice| slice.address_type == family.name())
            .collect();
        reconcile_family(snapshot, family, &of_family, suffix, &mut plan);
    }
    plan
}

fn is_ours(slice: &EndpointSlice, service: &Service) -> bool {
    let label = |key: &str| {
        slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    label(LABEL_SERVICE) == service.metadata.name.as_deref()
        && label(LABEL_MANAGED_BY) == Some(MANAGED_BY)
        && slice.metadata.deletion_timestamp.is_none()
}

fn delete(slice: &EndpointSlice) -> Action {
    let target = ownership::object_ref("discovery.k8s.io/v1", "EndpointSlice", &slice.metadata);
    Action::Delete {
        target,
        grace_period_seconds: None,
        propagation: None,
    }
}

fn reconcile_family(
    snapshot: &Snapshot,
    family: Family,
    ours: &[&Arc<EndpointSlice>],
    suffix: &mut dyn FnMut() -> String,
    plan: &mut Plan,
) {
    let service = &snapshot.service;
    let mut groups: BTreeMap<Vec<Port>, Vec<Backend>> = BTreeMap::new();
    for backend in endpoints_of::backends(service, &snapshot.pods, family) {
        groups.entry(backend.ports.clone()).or_default().push(backend);
    }
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut creates = Vec::new();
    if groups.is_empty() {
        // Nothing stands behind the Service: one empty slice says so.
        let ports = Some(vec![]);
        match ours.first() {
            Some(slice) => {
                kept.insert(slice.metadata.name.clone().unwrap_or_default());
                update(service, slice, vec![], slice.ports.clone(), plan);
            }
            None => creates.push(new_slice(service, family, vec![], ports, suffix)),
        }
    }
    for (ports, backends) in groups {
        let ports = slice_ports(&ports);
        let mut wanted: BTreeMap<String, Endpoint> = backends
            .iter()
            .map(|backend| (backend.pod.header().uid.clone(), endpoint(backend, snapshot)))
            .collect();
        let matching: Vec<_> = ours
            .iter()
            .filter(|slice| slice.ports.clone().unwrap_or_default() == ports.clone().unwrap_or_default())
            .collect();
        let mut contents: Vec<Vec<Endpoint>> = Vec::new();
        for slice in &matching {
            let stay = slice
                .endpoints
                .iter()
                .flatten()
                .filter_map(|held| wanted.remove(held.target_ref.as_ref()?.uid.as_deref()?));
            contents.push(stay.take(ENDPOINTS_PER_SLICE).collect());
        }
        let mut rest = wanted.into_values();
        // Fill the fullest first, so that slices do not stay half empty for ever.
        let mut order: Vec<usize> = (0..contents.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(contents[*index].len()));
        for index in order {
            let room = ENDPOINTS_PER_SLICE - contents[index].len();
            contents[index].extend(rest.by_ref().take(room));
        }
        for (slice, endpoints) in matching.iter().zip(contents) {
            if !endpoints.is_empty() {
                kept.insert(slice.metadata.name.clone().unwrap_or_default());
                update(service, slice, endpoints, ports.clone(), plan);
            }
        }
        loop {
            let endpoints: Vec<Endpoint> = rest.by_ref().take(ENDPOINTS_PER_SLICE).collect();
            if endpoints.is_empty() {
                break;
            }
            creates.push(new_slice(service, family, endpoints, ports.clone(), suffix));
        }
    }
    for slice in creates {
        plan.actions.push(Action::Create {
            object: to_value(&slice),
            exists_is_done: false,
        });
    }
    for slice in ours {
        if !kept.contains(slice.metadata.name.as_deref().unwrap_or_default()) {
            plan.actions.push(delete(slice));
        }
    }
}

fn slice_ports(ports: &[Port]) -> Option<Vec<EndpointPort>> {
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: port.number,
        app_protocol: port.app_protocol.clone(),
    });
    Some(ports.collect())
}

fn endpoint(backend: &Backend, snapshot: &Snapshot) -> Endpoint {
    let node = backend.node();
    Endpoint {
        addresses: vec![backend.address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname(&snapshot.service),
        node_name: node.map(str::to_owned),
        target_ref: Some(backend.target()),
        zone: node.and_then(|node| snapshot.zones.get(node).cloned()),
        ..Endpoint::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_SERVICE.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(LABEL_MANAGED_BY.into(), MANAGED_BY.into());
    if endpoints_of::is_headless(service) {
        labels.insert(LABEL_HEADLESS.into(), String::new());
    } else {
        labels.remove(LABEL_HEADLESS);
    }
    labels
}

fn new_slice(
    service: &Service,
    family: Family,
    endpoints: Vec<Endpoint>,
    ports: Option<Vec<EndpointPort>>,
    suffix: &mut dyn FnMut() -> String,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(ownership::generated_name(&name, suffix)),
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![ownership::controller_reference("v1", "Service", &service.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.name().into(),
        endpoints: Some(endpoints),
        ports,
    }
}

fn update(service: &Service, slice: &EndpointSlice, endpoints: Vec<Endpoint>, ports: Option<Vec<EndpointPort>>, plan: &mut Plan) {
    let mut changed = slice.clone();
    changed.metadata.labels = Some(labels(service));
    changed.endpoints = Some(endpoints);
    changed.ports = ports;
    if normal(&changed) != normal(slice) {
        plan.actions.push(Action::Update {
            object: to_value(&changed),
        });
    }
}

/// Absent and empty lists are the same.
fn normal(slice: &EndpointSlice) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.endpoints.get_or_insert_default();
    slice.ports.get_or_insert_default();
    slice
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}
            }))
            .unwrap(),
        )
    }

    fn pod(number: usize, ready: bool) -> CountedPod {
        CountedPod::made(&json!({
            "metadata": {"name": format!("p{number:04}"), "namespace": "ns", "uid": format!("u{number:04}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", number / 200, number % 200 + 1),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
        }))
    }

    fn run(slices: &mut Vec<Arc<EndpointSlice>>, pods: Vec<CountedPod>) -> Plan {
        let mut number = slices.len();
        let snapshot = Snapshot {
            service: service(),
            pods,
            slices: slices.clone(),
            zones: BTreeMap::new(),
        };
        let plan = reconcile(&snapshot, &mut || {
            number += 1;
            format!("{number:05}")
        });
        for action in &plan.actions {
            match action {
                Action::Create { object, .. } => slices.push(Arc::new(serde_json::from_value(object.clone()).unwrap())),
                Action::Update { object } => {
                    let slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
                    let place = slices
                        .iter_mut()
                        .find(|held| held.metadata.name == slice.metadata.name)
                        .unwrap();
                    *place = Arc::new(slice);
                }
                Action::Delete { target, .. } => slices.retain(|slice| slice.metadata.name.as_deref() != Some(&target.name)),
                other => panic!("unexpected {other:?}"),
            }
        }
        plan
    }

    #[test]
    fn slices_follow_the_pods_and_change_as_little_as_possible() {
        let mut slices = vec![];
        run(&mut slices, vec![]);
        assert_eq!(slices.len(), 1, "an empty slice says that nothing is there");
        run(&mut slices, (0..150).map(|number| pod(number, true)).collect());
        let sizes = |slices: &[Arc<EndpointSlice>]| {
            slices
                .iter()
                .map(|slice| slice.endpoints.as_ref().unwrap().len())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(&slices).iter().sum::<usize>(), 150);
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
        let plan = run(&mut slices, (0..150).map(|number| pod(number, number != 3)).collect());
        assert_eq!(plan.actions.len(), 1, "one pod's readiness rewrites one slice");
        assert_eq!(
            run(&mut slices, (0..150).map(|number| pod(number, number != 3)).collect()),
            Plan::default()
        );
        run(&mut slices, vec![]);
        assert_eq!(sizes(&slices), [0]);
    }

    /// A pod that is published before it is ready, or while it goes, counts as ready; whether it serves stays its own affair.
    #[test]
    fn published_pods_are_ready_and_serve_only_if_they_do() {
        let going = |pod: CountedPod| {
            let mut pod = pod.object().value();
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            CountedPod::made(&pod)
        };
        let pods = vec![pod(0, true), pod(1, false), going(pod(2, true)), going(pod(3, false))];
        for (publish, ready, addresses) in [
            (false, [true, false, false, false], ["10.42.0.1"].as_slice()),
            (
                true,
                [true, true, true, true],
                &["10.42.0.1", "10.42.0.2", "10.42.0.3", "10.42.0.4"],
            ),
        ] {
            let mut service = Arc::unwrap_or_clone(service());
            service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(publish);
            let service = Arc::new(service);
            let snapshot = Snapshot {
                service: Arc::clone(&service),
                pods: pods.clone(),
                slices: vec![],
                zones: BTreeMap::new(),
            };
            let plan = reconcile(&snapshot, &mut || "x".into());
            let [Action::Create { object, .. }] = plan.actions.as_slice() else {
                panic!("{plan:?}");
            };
            let told: Vec<[bool; 3]> = object["endpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|endpoint| ["ready", "serving", "terminating"].map(|name| endpoint["conditions"][name].as_bool().unwrap()))
                .collect();
            let (serving, terminating) = ([true, false, true, false], [false, false, true, true]);
            let wanted: Vec<[bool; 3]> = (0..4).map(|at| [ready[at], serving[at], terminating[at]]).collect();
            assert_eq!(told, wanted, "published: {publish}");
            // The older form has the same pods among its addresses.
            let older = crate::endpoints::Snapshot {
                service: Some(service),
                pods: pods.clone(),
                endpoints: None,
            };
            let plan = crate::endpoints::reconcile(&older);
            let [Action::Create { object, .. }] = plan.actions.as_slice() else {
                panic!("{plan:?}");
            };
            let found: Vec<&str> = object["subsets"][0]["addresses"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|address| address["ip"].as_str())
                .collect();
            assert_eq!(found, addresses, "published: {publish}");
        }
    }
}
