//! Packets, streams and names from every node to every node.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::ground::{Ground, HOSTS, LOCAL_PORT, NODE_PORT, SERVERS, eventually};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("pods_and_services_are_reached_from_every_node", reached),
    ("visitors_keep_their_address_where_traffic_stays_local", kept_address),
    ("exec_logs_and_top_work_by_way_of_every_server", streams),
    ("network_policies_hold_on_servers_and_agents", policies),
];

/// Requests to five backends: one is missed with a probability of 5·0.8^60, one in 130,000.
const REQUESTS: usize = 60;

fn web_addresses(ground: &Ground) -> Result<Vec<String>> {
    let pods = ground.get(0, &["pods", "-l", "app=web"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let addresses = pods.map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned));
    addresses.collect::<Option<_>>().context("every pod has an address")
}

fn reached(ground: &mut Ground) -> Result<()> {
    let pods = web_addresses(ground)?;
    ensure!(pods.len() == HOSTS, "a web server on each host: {pods:?}");
    let service = ground.kubectl(0, &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let nodes: Vec<String> = ground
        .hosts
        .iter()
        .map(|host| format!("{}:{NODE_PORT}", host.address))
        .collect();
    for host in 0..HOSTS {
        let name = &ground.hosts[host].name;
        // Pod to pod, the node port of every node, and the Service's names, each once; then all that are behind the Service.
        let mut script = "set -e\n".to_owned();
        let names = ["web", "web.default.svc", "web.default.svc.cluster.local"].map(str::to_owned);
        for place in pods.iter().chain(&nodes).chain(&names) {
            script.push_str(&format!(
                "wget -q -O - http://{place}/hostname > /dev/null || {{ echo {place}; exit 1; }}\n"
            ));
        }
        script.push_str(&format!(
            "for i in $(seq {REQUESTS}); do wget -q -O - http://{service}/hostname || exit 1; done"
        ));
        let answers = ground
            .client(0, host, &script)
            .with_context(|| format!("from the pod on {name}"))?;
        let answered: BTreeSet<&str> = answers.lines().collect();
        ensure!(answered.len() == HOSTS, "from the pod on {name} only {answered:?} answer");
        // The host itself, without a pod.
        for place in [&service, &pods[(host + 1) % HOSTS]] {
            let url = format!("http://{place}/hostname");
            ground.exec(name, &["curl", "-s", "-S", "--max-time", "5", &url])?;
        }
    }
    Ok(())
}

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: held}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
";

/// How many web servers answer the client of a host; asked at once, in two seconds at most.
fn answering(ground: &Ground, host: usize, pods: &[String]) -> Result<usize> {
    let asks: Vec<String> = pods
        .iter()
        .map(|place| format!("(timeout 2 wget -q -O - http://{place}/hostname >/dev/null 2>&1 && echo yes) &"))
        .collect();
    let said = ground.client(0, host, &format!("{}\nwait", asks.join("\n")))?;
    Ok(said.lines().filter(|line| *line == "yes").count())
}

/// Every node judges the traffic of its own pods, by the labels of all nodes' pods.
fn policies(ground: &mut Ground) -> Result<()> {
    let pods = web_addresses(ground)?;
    let everywhere = |ground: &Ground, what: &str, wanted: usize| -> Result<()> {
        std::thread::scope(|scope| {
            let pods = &pods;
            let asked: Vec<_> = (0..HOSTS)
                .map(|host| scope.spawn(move || eventually(what, || Ok(answering(ground, host, pods)? == wanted))))
                .collect();
            for (host, outcome) in asked.into_iter().enumerate() {
                let outcome = outcome
                    .join()
                    .map_err(|_| anyhow::anyhow!("asking from host {host} panicked"))?;
                outcome.with_context(|| format!("from the pod on {}", ground.hosts[host].name))?;
            }
            Ok(())
        })
    };
    everywhere(ground, "all answer", HOSTS)?;
    ground.apply(&format!(
        "{POLICY}  - from: [{{podSelector: {{matchLabels: {{app: nobody}}}}}}]\n"
    ))?;
    everywhere(ground, "nobody is let in", 0)?;
    // Their own nodes are, or their probes would fail.
    ground.settled()?;
    let named = "  - from: [{podSelector: {matchLabels: {app: client}}}]\n    ports: [{port: http}]\n";
    ground.apply(&format!("{POLICY}{named}"))?;
    everywhere(ground, "clients are let in", HOSTS)?;
    let spaces = "  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]\n";
    ground.apply(&format!("{POLICY}{spaces}"))?;
    everywhere(ground, "another namespace is", 0)?;
    ground.kubectl(0, &["delete", "networkpolicy", "held"])?;
    everywhere(ground, "all answer again", HOSTS)
}

/// The addresses that a host's web server was visited from, for one path.
fn visitors(ground: &Ground, host: usize, path: &str) -> Result<BTreeSet<String>> {
    let log = ground.kubectl(0, &["logs", &format!("web-{}", ground.hosts[host].name)])?;
    let visits = log.lines().filter(|line| line.contains(path));
    Ok(visits.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect())
}

fn kept_address(ground: &mut Ground) -> Result<()> {
    let machine = format!("{}.1", ground.subnet());
    for host in 0..HOSTS {
        let (name, address) = (ground.hosts[host].name.clone(), ground.hosts[host].address.clone());
        let neighbour = &ground.hosts[(host + 1) % HOSTS];
        let path = format!("/hostname?to={name}");
        let url = format!("http://{address}:{LOCAL_PORT}{path}");
        // From the machine, and from another host.
        let output = std::process::Command::new("curl")
            .args(["-s", "-S", "--max-time", "5", &url])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(said == format!("web-{name}"), "{url}: its own pod answers, not {said:?}");
        ground.exec(&neighbour.name, &["curl", "-s", "-S", "--max-time", "5", &url])?;
        let wanted = BTreeSet::from([machine.clone(), neighbour.address.clone()]);
        let mut seen = BTreeSet::new();
        let outcome = eventually("the visitors' own addresses in the log", || {
            seen = visitors(ground, host, &path)?;
            Ok(seen == wanted)
        });
        outcome.with_context(|| format!("{name} saw {seen:?}, not {wanted:?}"))?;
    }
    Ok(())
}

fn streams(ground: &mut Ground) -> Result<()> {
    for server in 0..SERVERS {
        for host in 0..HOSTS {
            let name = &ground.hosts[host].name;
            let said = ground.client(server, host, "hostname")?;
            ensure!(said == format!("client-{name}"), "exec on {name} by server {server}: {said}");
        }
        let logs = ground.kubectl(server, &["logs", "-l", "app=client"])?;
        let mut logs: Vec<&str> = logs.lines().collect();
        logs.sort_unstable();
        let wanted: Vec<String> = ground.hosts.iter().map(|host| format!("begins on {}", host.name)).collect();
        ensure!(logs == wanted, "logs by server {server}: {logs:?}");
        eventually("metrics of all nodes and pods", || {
            let nodes = ground.kubectl(server, &["top", "nodes", "--no-headers"])?;
            let pods = ground.kubectl(server, &["top", "pods", "--no-headers"])?;
            let shown = |text: &str, name: &str| text.lines().any(|line| line.starts_with(&format!("{name} ")));
            let all = ground.hosts.iter().all(|host| {
                shown(&nodes, &host.name)
                    && shown(&pods, &format!("web-{}", host.name))
                    && shown(&pods, &format!("client-{}", host.name))
            });
            Ok(all && !nodes.contains("unknown"))
        })?;
    }
    Ok(())
}
