//! NetworkPolicy as its documentation says it, slowly: every policy is asked about every packet, on the objects as JSON.

use std::net::IpAddr;

use serde_json::Value;

use super::kernel::Packet;

/// A cluster, as lists of objects.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub namespaces: Vec<Value>,
    pub pods: Vec<Value>,
    pub policies: Vec<Value>,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `matchLabels` and `matchExpressions`; all must hold.
fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object();
    let equal = equal.is_none_or(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value));
    let expressions = list(&selector["matchExpressions"]).iter().all(|it| {
        let has = &labels[it["key"].as_str().unwrap()];
        let listed = list(&it["values"]).contains(has);
        match it["operator"].as_str().unwrap() {
            "In" => !has.is_null() && listed,
            "NotIn" => has.is_null() || !listed,
            "Exists" => !has.is_null(),
            "DoesNotExist" => has.is_null(),
            other => panic!("{other}"),
        }
    });
    equal && expressions
}

fn bits(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (true, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (false, v6.to_bits()),
    }
}

fn is_in(cidr: &Value, address: IpAddr) -> bool {
    let (network, length) = cidr.as_str().unwrap().split_once('/').unwrap();
    let (of, network) = bits(network.parse().unwrap());
    let (is, address) = bits(address);
    let length: u32 = length.parse().unwrap();
    of == is && (length == 0 || (network ^ address) >> (128 - length) == 0)
}

impl World {
    /// The pod with an address: alive, and not the node's.
    fn pod(&self, address: IpAddr) -> Option<&Value> {
        let text = address.to_string();
        self.pods.iter().find(|pod| {
            let is_alive = !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            let own = list(&pod["status"]["podIPs"]);
            is_alive && pod["spec"]["hostNetwork"] != true && own.iter().any(|it| it["ip"] == text.as_str())
        })
    }

    fn namespace_labels(&self, name: &Value) -> &Value {
        let found = self.namespaces.iter().find(|it| it["metadata"]["name"] == *name);
        found.map_or(&Value::Null, |it| &it["metadata"]["labels"])
    }

    fn peer_is(&self, peer: &Value, policy: &Value, address: IpAddr) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let is_excepted = list(&block["except"]).iter().any(|it| is_in(it, address));
            return is_in(&block["cidr"], address) && !is_excepted;
        }
        let Some(pod) = self.pod(address) else { return false };
        let in_namespace = match peer.get("namespaceSelector") {
            Some(selector) => {
                let known = self
                    .namespaces
                    .iter()
                    .any(|it| it["metadata"]["name"] == pod["metadata"]["namespace"]);
                known && selects(selector, self.namespace_labels(&pod["metadata"]["namespace"]))
            }
            None => pod["metadata"]["namespace"] == policy["metadata"]["namespace"],
        };
        let by_labels = peer
            .get("podSelector")
            .is_none_or(|selector| selects(selector, &pod["metadata"]["labels"]));
        in_namespace && by_labels
    }

    fn port_is(&self, port: &Value, packet: &Packet) -> bool {
        if !port["protocol"]
            .as_str()
            .unwrap_or("TCP")
            .eq_ignore_ascii_case(packet.protocol)
        {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::Number(first) => {
                let first = first.as_u64().unwrap();
                let last = port["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&packet.port.into())
            }
            Value::String(name) => {
                let Some(receiver) = self.pod(packet.to) else { return false };
                let spec = &receiver["spec"];
                let sidecars = list(&spec["initContainers"])
                    .iter()
                    .filter(|it| it["restartPolicy"] == "Always");
                let mut ports = list(&spec["containers"])
                    .iter()
                    .chain(sidecars)
                    .flat_map(|it| list(&it["ports"]));
                let same = |it: &&Value| {
                    let protocol = it["protocol"].as_str().unwrap_or("TCP");
                    it["name"] == *name && protocol.eq_ignore_ascii_case(packet.protocol)
                };
                ports.find(same).is_some_and(|it| it["containerPort"] == packet.port)
            }
            other => panic!("{other}"),
        }
    }

    /// One direction, as the pod sees it.
    fn allows(&self, pod: &Value, direction: &str, packet: &Packet) -> bool {
        let (section, peers, other) = match direction {
            "Ingress" => ("ingress", "from", packet.from),
            _ => ("egress", "to", packet.to),
        };
        let mut is_isolated = false;
        for policy in &self.policies {
            let spec = &policy["spec"];
            let types = list(&spec["policyTypes"]);
            let is_of = match types {
                [] => direction == "Ingress" || !list(&spec["egress"]).is_empty(),
                types => types.iter().any(|it| it == direction),
            };
            let selected = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && selects(&spec["podSelector"], &pod["metadata"]["labels"]);
            if !is_of || !selected {
                continue;
            }
            is_isolated = true;
            for rule in list(&spec[section]) {
                let by_peer =
                    list(&rule[peers]).is_empty() || list(&rule[peers]).iter().any(|it| self.peer_is(it, policy, other));
                let ports = list(&rule["ports"]);
                if by_peer && (ports.is_empty() || ports.iter().any(|it| self.port_is(it, packet))) {
                    return true;
                }
            }
        }
        !is_isolated
    }

    /// Whether the rules of a node let the packet pass, where both ends are known.
    pub fn passes(&self, node: &str, packet: &Packet) -> bool {
        let (from, to) = (self.pod(packet.from), self.pod(packet.to));
        if from.is_some() && from == to {
            return true;
        }
        let here = |pod: &&Value| pod["spec"]["nodeName"] == node;
        from.filter(here).is_none_or(|pod| self.allows(pod, "Egress", packet))
            && to.filter(here).is_none_or(|pod| self.allows(pod, "Ingress", packet))
    }
}
