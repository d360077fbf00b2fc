//! Nodes that die or are cut off, servers that die under agents, and what comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Scenario;
use crate::ground::{GRACE, Ground, HOSTS, SERVERS, eventually};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("agents_go_on_by_another_server", another_server),
    ("names_and_services_need_no_server", no_server),
    ("a_node_whose_disk_is_full_takes_no_new_pods", full_disk),
    ("a_dead_node_is_replaced_and_cleans_up", dead_node),
];

/// The server that a host's agent is connected with.
fn server_of(ground: &Ground, host: usize) -> Result<usize> {
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", ground.hosts[host].process))?;
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        // Established, towards the API's port.
        let (Some(remote), Some(&"01")) = (columns.get(2), columns.get(3)) else {
            continue;
        };
        let Some((address, "192B")) = remote.split_once(':') else {
            continue;
        };
        let address = std::net::Ipv4Addr::from(u32::from_str_radix(address, 16)?.swap_bytes()).to_string();
        if let Some(server) = ground.hosts.iter().position(|host| host.address == address) {
            return Ok(server);
        }
    }
    anyhow::bail!("{} is connected with no server", ground.hosts[host].name)
}

fn renewed(ground: &Ground, server: usize, host: usize) -> Result<String> {
    let (name, path) = (&ground.hosts[host].name, "jsonpath={.spec.renewTime}");
    ground.kubectl(server, &["get", "lease", "-n", "kube-node-lease", name, "-o", path])
}

/// Since when a node is Ready.
fn ready_since(ground: &Ground, server: usize, host: usize) -> Result<String> {
    let path = "jsonpath={range .status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}{end}";
    ground.kubectl(server, &["get", "node", &ground.hosts[host].name, "-o", path])
}

/// The server that an agent talks to is killed, and the one after that is paused.
fn another_server(ground: &mut Ground) -> Result<()> {
    let agent = SERVERS;
    for (fault, undo) in [("kill", "restart"), ("stop", "cont")] {
        let lost = server_of(ground, agent)?;
        let witness = (lost + 1) % SERVERS;
        let before: Vec<String> = (SERVERS..HOSTS)
            .map(|host| ready_since(ground, witness, host))
            .collect::<Result<_>>()?;
        ground.lab(&[fault, &ground.hosts[lost].name])?;
        let took = eventually("a connection with another server", || Ok(server_of(ground, agent)? != lost))?;
        eprintln!("  {fault} of the agent's server: another one after {} ms", took.as_millis());
        let last: Vec<String> = (SERVERS..HOSTS)
            .map(|host| renewed(ground, witness, host))
            .collect::<Result<_>>()?;
        let mut silence = Duration::ZERO;
        for (host, last) in (SERVERS..HOSTS).zip(last) {
            silence += eventually("the Lease is renewed", || Ok(renewed(ground, witness, host)? != last))?;
        }
        ensure!(silence < GRACE, "an agent was silent for {silence:?}");
        let pods = ground.kubectl(witness, &["get", "pods", "-l", "app=client", "-o", "name"])?;
        ensure!(pods.lines().count() == HOSTS, "{pods}");
        ensure!(ground.client(witness, agent, "hostname")? == format!("client-{}", ground.hosts[agent].name));
        for (host, before) in (SERVERS..HOSTS).zip(before) {
            let now = ready_since(ground, witness, host)?;
            ensure!(now == before, "{}: {before}, then {now}", ground.hosts[host].name);
        }
        ground.lab(&[undo, &ground.hosts[lost].name])?;
        ground.settled()?;
    }
    Ok(())
}

/// All servers are paused; pods of an agent go on finding Services by name.
fn no_server(ground: &mut Ground) -> Result<()> {
    const SCRIPT: &str = "
        rm -f /tmp/told; (for i in $(seq 40); do
            wget -q -O - http://web.default.svc.cluster.local/hostname >> /tmp/told || echo lost >> /tmp/told; sleep 0.05;
        done; echo end >> /tmp/told) > /dev/null 2>&1 &";
    ground.client(0, SERVERS, SCRIPT)?;
    for server in 0..SERVERS {
        ground.lab(&["stop", &ground.hosts[server].name])?;
    }
    // The pause itself is the fault: it has to last for as long as the pod asks.
    std::thread::sleep(Duration::from_secs(3));
    for server in 0..SERVERS {
        ground.lab(&["cont", &ground.hosts[server].name])?;
    }
    ground.settled()?;
    let mut told = String::new();
    eventually("the end of what the pod asks", || {
        told = ground.client(0, SERVERS, "cat /tmp/told")?;
        Ok(told.ends_with("end"))
    })?;
    ensure!(told.lines().filter(|line| line.starts_with("web-")).count() == 40, "{told}");
    Ok(())
}

/// An agent's disk fills up and is freed again.
fn full_disk(ground: &mut Ground) -> Result<()> {
    let full = SERVERS;
    let name = ground.hosts[full].name.clone();
    // Its condition and its taint.
    let told = |ground: &Ground| -> Result<String> {
        let path = "jsonpath={.status.conditions[?(@.type=='DiskPressure')].status} {.spec.taints[*].key}";
        ground.kubectl(0, &["get", "node", &name, "-o", path])
    };
    ensure!(told(ground)? == "False", "{name} is short of space from the start");
    ground.lab(&["fill-disk", &name])?;
    eventually("the node tells that its disk is full", || {
        Ok(told(ground)? == "True node.kubernetes.io/disk-pressure")
    })?;
    ground.kubectl(
        0,
        &["create", "deployment", "elsewhere", "--image=nginx:1.16", "--replicas=5"],
    )?;
    ground.kubectl(0, &["rollout", "status", "deployment/elsewhere", "--timeout=60s"])?;
    let path = "jsonpath={.items[*].spec.nodeName}";
    let nodes = ground.kubectl(0, &["get", "pods", "-l", "app=elsewhere", "-o", path])?;
    ensure!(!nodes.split_whitespace().any(|node| node == name), "{nodes}");
    ensure!(
        ground.client(0, full, "hostname")? == format!("client-{name}"),
        "what runs there goes on"
    );
    ground.lab(&["fill-disk", &name, "--free"])?;
    eventually("the node tells that its disk has space", || Ok(told(ground)? == "False"))?;
    let events = ground.kubectl(
        0,
        &[
            "get",
            "events",
            "--field-selector",
            &format!("involvedObject.name={name}"),
            "-o",
            "jsonpath={.items[*].reason}",
        ],
    )?;
    for wanted in ["NodeHasDiskPressure", "NodeHasNoDiskPressure"] {
        ensure!(
            events.split_whitespace().any(|reason| reason == wanted),
            "no {wanted} in {events}"
        );
    }
    ground.kubectl(0, &["delete", "deployment", "elsewhere"]).map(drop)
}

/// One replica a node, which a silent node loses after two seconds.
const APPLICATION: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: moving}
spec:
  replicas: 5
  selector: {matchLabels: {app: moving}}
  template:
    metadata: {labels: {app: moving}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: moving}}}
      containers:
      - name: nginx
        image: nginx:1.16
        ports: [{containerPort: 80, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: moving}
spec:
  selector: {app: moving}
  ports: [{port: 80, targetPort: http}]
";

/// Name, address and node of each pod of the application that is not on its way out.
fn replicas(ground: &Ground) -> Result<Vec<(String, String, String)>> {
    let pods = ground.get(0, &["pods", "-l", "app=moving"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(pods
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| {
            (
                text(&pod["metadata"]["name"]),
                text(&pod["status"]["podIP"]),
                text(&pod["spec"]["nodeName"]),
            )
        })
        .collect())
}

/// Addresses in a slice that visitors are sent to.
fn ready_in(slice: &Value) -> impl Iterator<Item = &str> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str())
}

/// Addresses of the application that its Service sends visitors to.
fn ready_endpoints(ground: &Ground) -> Result<BTreeSet<String>> {
    let slices = ground.get(0, &["endpointslices", "-l", "kubernetes.io/service-name=moving"])?;
    let slices = slices["items"].as_array().into_iter().flatten();
    Ok(slices.flat_map(ready_in).map(str::to_owned).collect())
}

/// Whether a node was given up.
fn is_unknown(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "Unknown")
}

/// Containers of pods of the application that run in a host, by the addresses that they serve at.
fn serves(ground: &Ground, host: usize, address: &str) -> Result<bool> {
    let url = format!("http://{address}/hostname");
    let output = ground.try_exec(&ground.hosts[host].name, &["curl", "-s", "--max-time", "2", &url])?;
    Ok(String::from_utf8_lossy(&output.stdout).starts_with("moving-"))
}

/// One agent loses its power, the other one its link.
fn dead_node(ground: &mut Ground) -> Result<()> {
    ground.apply(APPLICATION)?;
    ground.kubectl(0, &["rollout", "status", "deployment/moving", "--timeout=60s"])?;
    let (dead, cut) = (SERVERS, SERVERS + 1);
    let names: Vec<String> = ground.hosts.iter().map(|host| host.name.clone()).collect();
    let before = replicas(ground)?;
    let on = |host: usize| -> Result<&(String, String, String)> {
        let found = before.iter().find(|(_, _, node)| *node == names[host]);
        found.with_context(|| format!("a replica on {}: {before:?}", names[host]))
    };
    let lost = [on(dead)?.clone(), on(cut)?.clone()];
    let nodes = ground.watch(0, "/api/v1/nodes?watch=true")?;
    let slices = ground.watch(
        0,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=true&labelSelector=kubernetes.io/service-name%3Dmoving",
    )?;
    let silent = Instant::now();
    ground.lab(&["power-cut", "--stay-off", &names[dead]])?;
    ground.lab(&["cut", &names[cut]])?;
    for ((_, address, _), host) in lost.iter().zip([dead, cut]) {
        let (mut given_up, mut left) = (silent, silent);
        eventually("the silent node is NotReady, and its endpoint leaves the Service", || {
            let unknown = nodes.first(|node| node["metadata"]["name"] == names[host].as_str() && is_unknown(node));
            let without = slices.first(|slice| ready_in(slice).all(|ready| ready != address));
            (given_up, left) = (unknown.unwrap_or(silent), without.unwrap_or(silent));
            Ok(unknown.is_some() && without.is_some())
        })?;
        eprintln!(
            "  NotReady after {} ms, its endpoint gone {} ms later",
            given_up.duration_since(silent).as_millis(),
            left.saturating_duration_since(given_up).as_millis()
        );
    }
    drop((nodes, slices));
    let took = eventually("the pods are replaced elsewhere", || {
        let now = replicas(ground)?;
        let elsewhere = now.iter().all(|(_, _, node)| *node != names[dead] && *node != names[cut]);
        Ok(elsewhere && now.len() == 5 && ready_endpoints(ground)?.len() == 5)
    })?;
    eprintln!("  five ready replicas again {} ms later", took.as_millis());
    // Nobody is sent where nobody answers.
    let visits = "for i in $(seq 40); do wget -q -O - http://moving/hostname || exit 1; done";
    ground.client(0, 0, visits).context("a visitor was sent to a dead node")?;
    ensure!(
        serves(ground, cut, &lost[1].1)?,
        "what runs on the node that is cut off goes on: nobody could tell it to stop"
    );
    ground.lab(&["heal"])?;
    ground.lab(&["start-host", &names[dead]])?;
    let back = Instant::now();
    ground.settled()?;
    eprintln!(
        "  all nodes and their pods ready again {} ms after both are back",
        back.elapsed().as_millis()
    );
    for ((name, address, _), host) in lost.iter().zip([dead, cut]) {
        eventually("the old pod is gone from the API and from its node", || {
            let pods = ground.kubectl(0, &["get", "pods", "-o", "name"])?;
            Ok(!pods.lines().any(|pod| pod == format!("pod/{name}")) && !serves(ground, host, address)?)
        })?;
        let log = format!("/var/log/pods/default_{name}_*");
        let left = ground.exec(&names[host], &["sh", "-c", &format!("ls -d {log} 2> /dev/null || true")])?;
        ensure!(left.is_empty(), "left on {}: {left}", names[host]);
    }
    ground.kubectl(0, &["delete", "deployment,service", "moving"])?;
    eventually("all of the application is gone", || {
        Ok(ground
            .kubectl(0, &["get", "pods", "-l", "app=moving", "-o", "name"])?
            .is_empty())
    })
    .map(drop)
}
