//! The EndpointSliceMirroring controller: what somebody wrote into the Endpoints of a Service without a selector, as
//! EndpointSlices, which is what routing and DNS read (pkg/controller/endpointslicemirroring).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpoints_of::{Family, Port};
use crate::ownership;
use crate::plan::{Action, EventKind, EventNote, Plan};
use crate::replicaset::to_value;

/// Most addresses of one subset that are mirrored.
pub const ADDRESSES_PER_SUBSET: usize = 1000;
/// Value of the managed-by label.
pub const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of a slice: whose it is.
pub const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of a slice: the Service's name, which is that of the Endpoints.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";
const LABEL_SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ELECTION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of the Endpoints that the slices do not get.
const NOT_MIRRORED: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The Service of the key's name.
    pub service: Option<Arc<Service>>,
    /// The Endpoints of the key's name.
    pub endpoints: Option<Arc<Endpoints>>,
    /// The slices that this controller made for that name.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Which slice an address belongs into: its family, and the ports.
type Group = (&'static str, Vec<Port>);

/// Slices to write. A slice to create has no resourceVersion.
#[derive(Default)]
struct Changes {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// Plans all changes. `suffix` gives five fresh letters for the name of a slice at each call.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, suffix: &mut dyn FnMut() -> String) -> Plan {
    let mut plan = Plan::default();
    let Some(endpoints) = mirrored(snapshot) else {
        plan.actions.extend(snapshot.slices.iter().map(|slice| delete(slice)));
        return plan;
    };
    let wanted = wanted(endpoints, &mut plan);
    let mut held: BTreeMap<Group, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in &snapshot.slices {
        held.entry(group_of(slice)).or_default().push(Arc::clone(slice));
    }
    let mut changes = Changes::default();
    for (group, addresses) in wanted {
        let mut here = held.remove(&group).unwrap_or_default().into_iter();
        let first = here.next();
        changes.delete.extend(here);
        if first.as_ref().is_some_and(|slice| is_current(slice, endpoints, &addresses)) {
            continue;
        }
        match first {
            Some(slice) => changes.update.push(filled(&slice, endpoints, addresses, &group)),
            None => changes
                .create
                .push(filled(&EndpointSlice::default(), endpoints, addresses, &group)),
        }
    }
    changes.delete.extend(held.into_values().flatten());
    recycle(&mut changes);
    if endpoints.metadata.deletion_timestamp.is_none() {
        for mut slice in changes.create {
            let base = endpoints.metadata.name.clone().unwrap_or_default();
            slice.metadata.name = Some(ownership::generated_name(&base, suffix));
            slice.metadata.generate_name = Some(format!("{base}-"));
            slice.metadata.namespace.clone_from(&endpoints.metadata.namespace);
            plan.actions.push(Action::Create {
                object: to_value(&slice),
                exists_is_done: false,
            });
        }
    }
    plan.actions
        .extend(changes.update.iter().map(|slice| Action::Update { object: to_value(slice) }));
    plan.actions.extend(changes.delete.iter().map(|slice| delete(slice)));
    plan
}

/// The Endpoints, if they are to be mirrored at all.
fn mirrored(snapshot: &Snapshot) -> Option<&Endpoints> {
    let endpoints = snapshot.endpoints.as_deref()?;
    let service = snapshot.service.as_deref()?;
    let skipped = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SKIP));
    let elects = endpoints
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key == LEADER_ELECTION);
    let has_selector = service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
    (skipped.map(String::as_str) != Some("true") && !elects && !has_selector).then_some(endpoints)
}

fn delete(slice: &EndpointSlice) -> Action {
    Action::Delete {
        target: ownership::object_ref("discovery.k8s.io/v1", "EndpointSlice", &slice.metadata),
        grace_period_seconds: None,
        propagation: None,
    }
}

/// Addresses by group; tells what is left out.
fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let (mut invalid, mut skipped) = (0, 0);
    for (ports, addresses) in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let (mut added, total) = (0, addresses.len());
        let (ready, unready): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|(_, ready)| *ready);
        for (address, ready) in ready.into_iter().chain(unready) {
            if added == ADDRESSES_PER_SUBSET {
                break;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            added += 1;
            let family = if ip.is_ipv6() { Family::V6 } else { Family::V4 };
            groups
                .entry((family.name(), ports.clone()))
                .or_default()
                .push(endpoint(address, ip, ready));
        }
        skipped += total - added;
    }
    let mut warn = |reason: &str, message: String| {
        plan.actions.push(Action::Event(EventNote {
            regarding: ownership::object_ref("v1", "Endpoints", &endpoints.metadata),
            kind: EventKind::Warning,
            reason: reason.into(),
            message,
        }));
    };
    if invalid > 0 {
        warn(
            "InvalidIPAddress",
            format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"),
        );
    }
    if skipped > invalid {
        let message = format!(
            "A max of {ADDRESSES_PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. \
             {skipped} addresses were skipped"
        );
        warn("TooManyAddressesToMirror", message);
    }
    groups
}

/// An address by its text and the uid of what it belongs to, with whether it is ready.
type Held<'a> = ((&'a str, &'a str), bool);
/// Ports, and the addresses that all of them have, with whether they are ready.
type Packed<'a> = Vec<(Vec<Port>, Vec<(&'a EndpointAddress, bool)>)>;

/// Subsets in their canonical form: ports with the same addresses together. An address that is ready in one subset and not
/// in another is not.
fn repack(subsets: &[EndpointSubset]) -> Packed<'_> {
    let mut addresses: BTreeMap<(&str, &str), &EndpointAddress> = BTreeMap::new();
    // No port at all is a port of its own here.
    let mut by_port: BTreeMap<Option<Port>, BTreeMap<(&str, &str), bool>> = BTreeMap::new();
    for subset in subsets {
        let mut ports: Vec<_> = subset.ports.iter().flatten().map(|port| Some(port_of(port))).collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready) {
            let uid = address.target_ref.as_ref().and_then(|target| target.uid.as_deref());
            let key = (address.ip.as_str(), uid.unwrap_or_default());
            addresses.entry(key).or_insert(address);
            for port in &ports {
                let known = by_port.entry(port.clone()).or_default().entry(key).or_insert(ready);
                *known &= ready;
            }
        }
    }
    let mut by_addresses: BTreeMap<Vec<Held>, Vec<Port>> = BTreeMap::new();
    for (port, held) in by_port {
        by_addresses.entry(held.into_iter().collect()).or_default().extend(port);
    }
    let packed = by_addresses.into_iter().map(|(held, ports)| {
        let held = held.into_iter().map(|(key, ready)| (addresses[&key], ready));
        (ports, held.collect())
    });
    packed.collect()
}

fn port_of(port: &k8s_openapi::api::core::v1::EndpointPort) -> Port {
    Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        number: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn group_of(slice: &EndpointSlice) -> Group {
    let family = if slice.address_type == Family::V6.name() {
        Family::V6
    } else {
        Family::V4
    };
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: port.port,
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (family.name(), ports)
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_SERVICE.into(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(LABEL_MANAGED_BY.into(), MANAGED_BY.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_MIRRORED.contains(&key.as_str()));
    annotations
}

/// Whether a slice says what it should; the order of its addresses does not matter.
fn is_current(slice: &EndpointSlice, endpoints: &Endpoints, addresses: &[Endpoint]) -> bool {
    let owned = slice.metadata.owner_references.iter().flatten().all(|owner| {
        let is_other = owner.kind == "Endpoints" && Some(&owner.name) == endpoints.metadata.name.as_ref();
        !is_other || Some(&owner.uid) == endpoints.metadata.uid.as_ref()
    });
    let held: BTreeSet<String> = slice
        .endpoints
        .iter()
        .flatten()
        .map(|held| to_value(held).to_string())
        .collect();
    let wanted: BTreeSet<String> = addresses.iter().map(|wanted| to_value(wanted).to_string()).collect();
    owned
        && held == wanted
        && slice.metadata.labels.as_ref() == Some(&labels(endpoints))
        && slice.metadata.annotations.clone().unwrap_or_default() == annotations(endpoints)
}

/// A slice with the content that it is to have.
fn filled(slice: &EndpointSlice, endpoints: &Endpoints, addresses: Vec<Endpoint>, group: &Group) -> EndpointSlice {
    let annotations = annotations(endpoints);
    EndpointSlice {
        metadata: ObjectMeta {
            labels: Some(labels(endpoints)),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![ownership::controller_reference("v1", "Endpoints", &endpoints.metadata)]),
            ..slice.metadata.clone()
        },
        address_type: group.0.into(),
        endpoints: Some(addresses),
        ports: Some(group.1.iter().map(slice_port).collect()),
    }
}

fn slice_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: port.number,
        app_protocol: port.app_protocol.clone(),
    }
}

/// Slices that would be deleted take the content of those that would be created, family by family.
fn recycle(changes: &mut Changes) {
    let mut create = Vec::new();
    for slice in std::mem::take(&mut changes.create) {
        let spare = changes
            .delete
            .iter()
            .position(|spare| spare.address_type == slice.address_type);
        match spare.map(|at| changes.delete.remove(at)) {
            Some(spare) => changes.update.push(EndpointSlice {
                metadata: ObjectMeta {
                    labels: slice.metadata.labels,
                    annotations: slice.metadata.annotations,
                    owner_references: slice.metadata.owner_references,
                    ..spare.metadata.clone()
                },
                ..slice
            }),
            None => create.push(slice),
        }
    }
    changes.create = create;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Option<Arc<Service>> {
        Some(Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec})).unwrap(),
        ))
    }

    fn endpoints(subsets: Value) -> Option<Arc<Endpoints>> {
        Some(Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "s", "namespace": "ns", "uid": "e", "labels": {"app": "x"}, "annotations": {
                    "note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
                "subsets": subsets,
            }))
            .unwrap(),
        ))
    }

    fn run(snapshot: &mut Snapshot) -> Vec<String> {
        let mut number = 0;
        let plan = reconcile(snapshot, &mut || {
            number += 1;
            format!("{number:05}")
        });
        let mut told = Vec::new();
        for action in plan.actions {
            match action {
                Action::Create { object, .. } => {
                    let mut slice: EndpointSlice = serde_json::from_value(object).unwrap();
                    told.push("create".into());
                    slice.metadata.resource_version = Some("1".into());
                    snapshot.slices.push(Arc::new(slice));
                }
                Action::Update { object } => {
                    let slice: EndpointSlice = serde_json::from_value(object).unwrap();
                    assert_eq!(slice.metadata.resource_version.as_deref(), Some("1"), "the precondition");
                    told.push("update".into());
                    let mut held = snapshot.slices.iter_mut();
                    let place = held.find(|held| held.metadata.name == slice.metadata.name).unwrap();
                    *place = Arc::new(slice);
                }
                Action::Delete { target, .. } => {
                    told.push("delete".into());
                    snapshot
                        .slices
                        .retain(|slice| slice.metadata.name.as_deref() != Some(&target.name));
                }
                Action::Event(note) => told.push(format!("{} {}", note.reason, note.message)),
                other => panic!("unexpected {other:?}"),
            }
        }
        told
    }

    fn one(ip: &str) -> Value {
        json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80, "protocol": "TCP"}]}])
    }

    #[test]
    fn hand_made_endpoints_are_mirrored_through_create_update_and_delete() {
        let mut snapshot = Snapshot {
            service: service(json!({})),
            endpoints: endpoints(one("10.1.2.3")),
            slices: vec![],
        };
        assert_eq!(run(&mut snapshot), ["create"]);
        assert_eq!(
            to_value(&*snapshot.slices[0]),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": "s-00001", "generateName": "s-", "namespace": "ns", "resourceVersion": "1",
                    "labels": {"app": "x", "kubernetes.io/service-name": "s",
                        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"},
                    "annotations": {"note": "kept"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "s", "uid": "e",
                        "controller": true, "blockOwnerDeletion": true}],
                },
                "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": true}}],
                "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            })
        );
        assert!(run(&mut snapshot).is_empty(), "settled");
        snapshot.endpoints = endpoints(one("10.2.3.4"));
        assert_eq!(run(&mut snapshot), ["update"]);
        assert_eq!(snapshot.slices[0].endpoints.as_ref().unwrap()[0].addresses, ["10.2.3.4"]);
        snapshot.endpoints = None;
        assert_eq!(run(&mut snapshot), ["delete"]);
    }

    #[test]
    fn what_is_not_to_be_mirrored_loses_its_slices() {
        let skip = |value: Value| -> Option<Arc<Endpoints>> { Some(Arc::new(serde_json::from_value(value).unwrap())) };
        let cases = [
            (service(json!({"selector": {"a": "b"}})), endpoints(one("10.1.2.3"))),
            (None, endpoints(one("10.1.2.3"))),
            (
                service(json!({})),
                skip(
                    json!({"metadata": {"name": "s", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}, "subsets": one("10.1.2.3")}),
                ),
            ),
            (
                service(json!({})),
                skip(
                    json!({"metadata": {"name": "s", "annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}, "subsets": one("10.1.2.3")}),
                ),
            ),
        ];
        for (service, endpoints) in cases {
            let slice = serde_json::from_value(json!({"metadata": {"name": "old"}, "addressType": "IPv4", "endpoints": []}));
            let mut snapshot = Snapshot {
                service,
                endpoints,
                slices: vec![Arc::new(slice.unwrap())],
            };
            assert_eq!(run(&mut snapshot), ["delete"]);
        }
    }

    #[test]
    fn ports_with_the_same_addresses_share_a_slice_and_families_do_not() {
        let mut snapshot = Snapshot {
            service: service(json!({})),
            endpoints: endpoints(json!([
                {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"name": "a", "port": 1, "protocol": "TCP"}]},
                {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"name": "b", "port": 2, "protocol": "TCP"}]},
                {"notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "c", "port": 3, "protocol": "TCP"}]},
            ])),
            slices: vec![],
        };
        assert_eq!(run(&mut snapshot), ["create"; 3]);
        let mut shown: Vec<_> = snapshot
            .slices
            .iter()
            .map(|slice| {
                (
                    slice.address_type.as_str(),
                    slice.ports.as_ref().unwrap().len(),
                    slice.endpoints.as_ref().unwrap().len(),
                )
            })
            .collect();
        shown.sort_unstable();
        assert_eq!(shown, [("IPv4", 1, 1), ("IPv4", 2, 1), ("IPv6", 2, 1)]);
        assert!(run(&mut snapshot).is_empty(), "settled");
        // Other ports: the slices at hand are used again.
        snapshot.endpoints = endpoints(one("10.0.0.9"));
        assert_eq!(run(&mut snapshot), ["update", "delete", "delete"]);
    }

    #[test]
    fn what_is_left_out_is_told() {
        let addresses: Vec<_> = (0..1002)
            .map(|at| json!({"ip": format!("10.0.{}.{}", at / 250, at % 250)}))
            .collect();
        let mut snapshot = Snapshot {
            service: service(json!({})),
            endpoints: endpoints(
                json!([{"addresses": addresses, "ports": [{"port": 1}]}, {"addresses": [{"ip": "x"}], "ports": [{"port": 2}]}]),
            ),
            slices: vec![],
        };
        assert_eq!(
            run(&mut snapshot),
            [
                "InvalidIPAddress Skipped 1 invalid IP addresses when mirroring to EndpointSlices",
                "TooManyAddressesToMirror A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 3 addresses were skipped",
                "create",
            ]
        );
        assert_eq!(snapshot.slices[0].endpoints.as_ref().unwrap().len(), 1000);
    }
}
