//! Host ports: a pod answers at its node's address, and nobody else can have the port meanwhile.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains, eventually};
use crate::http;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("a_host_port_is_reached_at_the_node", reached)];

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 8093;

fn pod(name: &str, image: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: main, image: '{image}', {rest}}}]}}}}"
    )
}

fn reached(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("host-port")?;
    let ports = |host_ip: &str| format!("ports: [{{containerPort: 80, hostPort: {PORT}, hostIP: '{host_ip}'}}]");
    space.apply(&pod("web", "nginx:1.16", &ports("")))?;
    space.apply(&pod("client", "busybox:1.35", "command: [sleep, '3600']"))?;
    space.run(&["wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=60s"])?;

    // From outside, from another pod and from the node itself.
    let address: SocketAddr = format!("{}:{PORT}", cluster.address).parse()?;
    eventually("an answer at the node's address", PATIENCE, || {
        Ok(http::get(address, "/hostname").is_ok())
    })?;
    ensure!(http::get(address, "/hostname")?.trim() == "web", "another pod answered");
    let fetch = format!("wget -q -O - http://{address}/hostname");
    let answer = space.run(&["exec", "client", "--", "sh", "-c", &fetch])?;
    ensure!(answer.trim() == "web", "from another pod: {answer}");
    let local = cluster.lab(&[
        "exec",
        "--",
        "curl",
        "-sf",
        "--max-time",
        "5",
        &format!("http://{address}/hostname"),
    ])?;
    ensure!(local.trim() == "web", "from the node itself: {local}");

    // The port is taken: who wants it as well waits, and says why.
    space.apply(&pod("rival", "nginx:1.16", &ports("")))?;
    let message = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}";
    let why = space.until(&["get", "pod", "rival", "-o", message], PATIENCE, |text| !text.is_empty())?;
    contains(
        &why,
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
    )?;

    // It goes over to the one that waited.
    space.run(&["delete", "pod", "web"])?;
    space.run(&["wait", "--for=condition=Ready", "pod/rival", "--timeout=60s"])?;
    eventually("an answer of the next pod", PATIENCE, || {
        Ok(http::get(address, "/hostname").is_ok_and(|answer| answer.trim() == "rival"))
    })?;

    // And nobody answers when there is none.
    space.run(&["delete", "pod", "rival"])?;
    eventually("a closed port", PATIENCE, || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err())
    })
}
