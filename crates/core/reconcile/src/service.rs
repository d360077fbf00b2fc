//! The service controller: the addresses of LoadBalancer Services, from a pool or from the nodes
//! (staging/src/k8s.io/cloud-provider/controllers/service).
//!
//! Without a pool every ready node answers at its own address, so two Services cannot share a port: the older keeps it.
//! With a pool each Service gets an address of its own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service};

use crate::ownership;
use crate::plan::{Action, EventKind, EventNote, Plan};
use crate::replicaset::to_value;

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub service: Arc<Service>,
    /// All Services of the cluster.
    pub services: Vec<Arc<Service>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Addresses to give away; empty to use the nodes' own.
    pub pool: Vec<IpAddr>,
}

/// Plans the one change.
#[must_use]
pub fn reconcile(snapshot: &Snapshot) -> Plan {
    let service = &snapshot.service;
    let mut plan = Plan::default();
    if service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let held = addresses(service);
    let wanted = if is_load_balancer(service) {
        assign(snapshot, &held)
    } else {
        Ok(vec![])
    };
    let regarding = || ownership::object_ref("v1", "Service", &service.metadata);
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(why) => {
            if !held.is_empty() {
                push_status(&mut plan, service, &[]);
            }
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            let note = EventNote {
                regarding: regarding(),
                kind: EventKind::Warning,
                reason: "SyncLoadBalancerFailed".into(),
                message,
            };
            plan.actions.push(Action::Event(note));
            plan.requeue_after = Some(std::time::Duration::from_secs(60));
            return plan;
        }
    };
    if wanted != held {
        push_status(&mut plan, service, &wanted);
        if !wanted.is_empty() {
            let message = "Ensured load balancer".to_owned();
            let note = EventNote {
                regarding: regarding(),
                kind: EventKind::Normal,
                reason: "EnsuredLoadBalancer".into(),
                message,
            };
            plan.actions.push(Action::Event(note));
        }
    }
    plan
}

/// Whether the Service is a LoadBalancer of ours: another class is somebody else's.
fn is_load_balancer(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
}

fn addresses(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status
        .and_then(|status| status.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.ip.clone())
        .collect()
}

fn push_status(plan: &mut Plan, service: &Service, addresses: &[String]) {
    let mut changed = service.clone();
    let ingress: Vec<_> = addresses
        .iter()
        .map(|address| LoadBalancerIngress {
            ip: Some(address.clone()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        })
        .collect();
    let ingress = (!ingress.is_empty()).then_some(ingress);
    changed.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    plan.actions.push(Action::UpdateStatus {
        object: to_value(&changed),
    });
}

fn assign(snapshot: &Snapshot, held: &[String]) -> Result<Vec<String>, String> {
    if snapshot.pool.is_empty() {
        from_nodes(snapshot)
    } else {
        from_pool(snapshot, held)
    }
}

fn from_nodes(snapshot: &Snapshot) -> Result<Vec<String>, String> {
    let age = |service: &Service| {
        (
            service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            service.metadata.uid.clone(),
        )
    };
    let own = ports(&snapshot.service);
    let elder = snapshot
        .services
        .iter()
        .filter(|other| is_load_balancer(other) && age(other) < age(&snapshot.service))
        .find_map(|other| {
            let shared = ports(other).intersection(&own).next().cloned()?;
            Some((other, shared))
        });
    if let Some((other, (protocol, port))) = elder {
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        return Err(format!(
            "port {port}/{protocol} of the nodes' addresses belongs to Service {}/{}; start the servers with --load-balancer-pool to give each Service an address of its own",
            name(&other.metadata.namespace),
            name(&other.metadata.name),
        ));
    }
    let mut addresses: Vec<String> = snapshot
        .nodes
        .iter()
        .filter(|node| is_eligible(node))
        .filter_map(|node| internal_address(node))
        .collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        Err("no node is ready".into())
    } else {
        Ok(addresses)
    }
}

fn from_pool(snapshot: &Snapshot, held: &[String]) -> Result<Vec<String>, String> {
    let uid = &snapshot.service.metadata.uid;
    let taken: BTreeSet<String> = snapshot
        .services
        .iter()
        .filter(|other| other.metadata.uid != *uid)
        .flat_map(|other| addresses(other))
        .collect();
    let free = |address: &String| !taken.contains(address) && snapshot.pool.iter().any(|pooled| pooled.to_string() == *address);
    let asked = snapshot
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.load_balancer_ip.clone())
        .filter(|address| !address.is_empty());
    if let Some(asked) = asked {
        return if free(&asked) {
            Ok(vec![asked])
        } else {
            Err(format!("address {asked} is taken or not in the pool"))
        };
    }
    if let [address] = held
        && free(address)
    {
        return Ok(held.to_vec());
    }
    let first = snapshot.pool.iter().map(IpAddr::to_string).find(|address| free(address));
    first
        .map(|address| vec![address])
        .ok_or_else(|| "the pool of addresses is exhausted".into())
}

fn ports(service: &Service) -> BTreeSet<(String, i32)> {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_ref())
        .into_iter()
        .flatten();
    ports
        .map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port))
        .collect()
}

fn is_eligible(node: &Node) -> bool {
    let excluded = node
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key("node.kubernetes.io/exclude-from-external-load-balancers"));
    let ready = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    !excluded
        && node.metadata.deletion_timestamp.is_none()
        && ready
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn internal_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses
        .iter()
        .find(|address| address.type_ == "InternalIP")
        .map(|address| address.address.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, created: &str) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": created},
                "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}]}
            }))
            .unwrap(),
        )
    }

    fn node(ready: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "n"},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [{"type": "Ready", "status": ready}]}
            }))
            .unwrap(),
        )
    }

    fn address(plan: &Plan) -> Option<&str> {
        plan.actions.iter().find_map(|action| match action {
            Action::UpdateStatus { object } => object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str(),
            _ => None,
        })
    }

    #[test]
    fn nodes_give_their_address_and_the_elder_service_keeps_the_port() {
        let (old, new) = (service("old", "2026-01-01T00:00:00Z"), service("new", "2026-01-02T00:00:00Z"));
        let services = vec![old.clone(), new.clone()];
        let plan = |service: &Arc<Service>, ready| {
            reconcile(&Snapshot {
                service: service.clone(),
                services: services.clone(),
                nodes: vec![node(ready)],
                pool: vec![],
            })
        };
        assert_eq!(address(&plan(&old, "True")), Some("192.0.2.1"));
        assert_eq!(address(&plan(&old, "False")), None);
        let refused = plan(&new, "True");
        assert!(matches!(&refused.actions[..], [Action::Event(note)] if note.message.contains("belongs to Service ns/old")));
    }

    #[test]
    fn the_pool_gives_each_service_its_own() {
        let mut old = Service::clone(&service("old", "2026-01-01T00:00:00Z"));
        old.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}})).unwrap();
        let new = service("new", "2026-01-02T00:00:00Z");
        let pool = vec!["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()];
        let services = vec![Arc::new(old), new.clone()];
        let plan = reconcile(&Snapshot {
            service: new,
            services,
            nodes: vec![],
            pool,
        });
        assert_eq!(address(&plan), Some("192.0.2.11"));
    }
}
