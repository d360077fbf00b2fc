//! What a host's own process may do without its pods noticing: end, be killed, come back, and come back elsewhere.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::ground::{Ground, HOSTS, NODE_PORT, SERVERS, eventually};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("containers_outlive_the_agent_and_the_server", outlive),
    ("nodes_that_were_deleted_come_back_with_their_addresses", deleted),
    ("an_agent_with_another_address_comes_back", |ground| {
        moves(ground, &[HOSTS - 1])
    }),
    ("a_server_with_another_address_comes_back", |ground| {
        let leader = ground.leader()?;
        moves(ground, &[(leader + 1) % SERVERS])
    }),
    ("a_leader_with_another_address_comes_back", |ground| {
        let leader = ground.leader()?;
        moves(ground, &[leader])
    }),
    ("two_servers_with_other_addresses_come_back", |ground| {
        let leader = ground.leader()?;
        moves(ground, &[leader, (leader + 1) % SERVERS])
    }),
];

/// Identity and restarts of every container, by pod.
fn containers(ground: &Ground) -> Result<BTreeMap<String, String>> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.running.startedAt}{'\\n'}{end}";
    let text = ground.kubectl(0, &["get", "pods", "-l", "app in (web, client)", "-o", path])?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.map(|(pod, rest)| (pod.to_owned(), rest.to_owned())).collect())
}

/// That no container of any pod is another one.
fn unchanged(ground: &Ground, before: &BTreeMap<String, String>) -> Result<()> {
    eventually("every pod is as it was", || Ok(containers(ground)? == *before))
        .with_context(|| format!("before: {before:#?}\nafter: {:#?}", containers(ground)))
        .map(drop)
}

fn outlive(ground: &mut Ground) -> Result<()> {
    let before = containers(ground)?;
    ensure!(before.len() == 2 * HOSTS, "{before:?}");
    let (agent, server) = (ground.hosts[HOSTS - 1].name.clone(), ground.hosts[SERVERS - 1].name.clone());
    // As an upgrade does it, and as the worst case does it.
    for (host, kill) in [(&agent, false), (&agent, true), (&server, true)] {
        if kill {
            ground.lab(&["kill", host])?;
        }
        ground.lab(&["restart", host])?;
        ground.settled()?;
        unchanged(ground, &before).with_context(|| format!("{host} restarted, killed before: {kill}"))?;
        let pod = format!("client-{host}");
        ensure!(ground.kubectl(0, &["exec", &pod, "--", "hostname"])? == pod, "exec goes on");
        ensure!(
            ground.kubectl(0, &["logs", &pod])? == format!("begins on {host}"),
            "logs go on"
        );
    }
    Ok(())
}

/// Nodes that are deleted while they run register anew, with the addresses that their pods have.
fn deleted(ground: &mut Ground) -> Result<()> {
    let before = containers(ground)?;
    let ranges = |ground: &Ground, names: &[String]| -> Result<Vec<String>> {
        let told = |name: &String| {
            let path = "jsonpath={.metadata.uid} {.spec.podCIDR}";
            ground.kubectl(0, &["get", "node", name, "-o", path])
        };
        names.iter().map(told).collect()
    };
    let mut names: Vec<String> = ground.hosts[SERVERS..].iter().map(|host| host.name.clone()).collect();
    let told = ranges(ground, &names)?;
    let range = |told: &str| {
        told.split_once("10.42.")
            .and_then(|(_, rest)| rest.split_once('.')?.0.parse::<u8>().ok())
    };
    // The one with the lower range comes back last: its range is the one that a new node would get.
    if range(&told[0]) > range(&told[1]) {
        names.reverse();
    }
    let first = ranges(ground, &names)?;
    ground.lab(&["stop", &names[0]])?;
    ground.kubectl(0, &["delete", "node", &names[0], &names[1]])?;
    eventually("the first of the deleted nodes is back", || {
        Ok(ground.ready_nodes(0)?.contains(&names[1]))
    })?;
    ground.lab(&["cont", &names[0]])?;
    eventually("the other one is back too", || Ok(ground.ready_nodes(0)?.contains(&names[0])))?;
    for (old, new) in first.iter().zip(ranges(ground, &names)?) {
        let (old, new) = (old.split_once(' '), new.split_once(' '));
        let (old, new) = (old.context("a UID and a range")?, new.context("a UID and a range")?);
        ensure!(old.0 != new.0 && old.1 == new.1, "{old:?}, then {new:?}");
    }
    ground.settled()?;
    for host in SERVERS..HOSTS {
        let name = &ground.hosts[host].name;
        let own = ground.kubectl(0, &["get", "node", name, "-o", "jsonpath={.metadata.uid}"])?;
        eventually("its Lease is the new Node's", || {
            let path = "jsonpath={.metadata.ownerReferences[0].uid}";
            Ok(ground.kubectl(0, &["get", "lease", "-n", "kube-node-lease", name, "-o", path])? == own)
        })?;
        let pod = ground.kubectl(0, &["get", "pod", &format!("web-{name}"), "-o", "jsonpath={.status.podIP}"])?;
        for other in (0..HOSTS).filter(|other| *other != host) {
            eventually("its pod is reached from elsewhere", || {
                Ok(ground
                    .client(0, other, &format!("wget -q -O - http://{pod}/hostname"))?
                    .starts_with("web-"))
            })?;
        }
    }
    unchanged(ground, &before)
}

/// Hosts get other addresses, several at the same time, and are what they were for everybody.
fn moves(ground: &mut Ground, hosts: &[usize]) -> Result<()> {
    let before = containers(ground)?;
    let together = hosts.len() > 1;
    let names: Vec<String> = hosts.iter().map(|host| ground.hosts[*host].name.clone()).collect();
    let old: Vec<String> = hosts.iter().map(|host| ground.hosts[*host].address.clone()).collect();
    if together {
        for name in &names {
            ground.lab(&["kill", name])?;
        }
    }
    for (name, old) in names.iter().zip(&old) {
        let new = ground.lab(&["readdress", name])?;
        ensure!(new != *old, "{new} is another address");
    }
    if together {
        for name in &names {
            ground.lab(&["restart", name])?;
        }
    }
    ground.refresh()?;
    for (host, old) in hosts.iter().zip(&old) {
        arrived(ground, *host, old)?;
    }
    unchanged(ground, &before)
}

/// A host that had another address is known, and its pods are reached, at the one that it has now.
fn arrived(ground: &Ground, host: usize, old: &str) -> Result<()> {
    let (name, new) = (ground.hosts[host].name.clone(), ground.hosts[host].address.clone());
    let witness = (host + 1) % SERVERS;
    let took = eventually("the cluster knows the new address", || {
        let node = ground.get(witness, &["node", &name])?;
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let known = addresses
            .filter(|address| address["type"] == "InternalIP")
            .any(|address| address["address"] == new.as_str());
        Ok(known)
    })?;
    eprintln!("  known at its new address after {} ms", took.as_millis());
    if host < SERVERS {
        eventually("the members and the Service of the API name the new address", || {
            let members = ground.exec(&ground.hosts[witness].name, &["trireme", "member", "list", "-o", "json"])?;
            let slice = ground.kubectl(witness, &["get", "endpointslice", "kubernetes", "-o", "json"])?;
            let at =
                |text: &str, address: &str| text.contains(&format!("//{address}:")) || text.contains(&format!("\"{address}\""));
            Ok(at(&members, &new) && !at(&members, old) && at(&slice, &new) && !at(&slice, old))
        })?;
        ensure!(
            ground.kubectl(host, &["get", "--raw", "/readyz"])? == "ok",
            "its API is asked there"
        );
    }
    // The kubelet shows a certificate of the new address, and its pods are reached from elsewhere.
    for server in 0..SERVERS {
        eventually("exec at the new address", || {
            Ok(ground.client(server, host, "hostname")? == format!("client-{name}"))
        })?;
    }
    let pod = ground.kubectl(0, &["get", "pod", &format!("web-{name}"), "-o", "jsonpath={.status.podIP}"])?;
    let script = format!("wget -q -O - http://{pod}/hostname && wget -q -O - http://{new}:{NODE_PORT}/hostname");
    for other in (0..HOSTS).filter(|other| *other != host) {
        eventually("its pod and its node port are reached", || {
            ground.client(0, other, &script).map(|_| true)
        })
        .with_context(|| format!("{script} from {}", ground.hosts[other].name))?;
    }
    Ok(())
}
