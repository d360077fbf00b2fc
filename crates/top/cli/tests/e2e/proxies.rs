//! `pods|services|nodes/…/proxy` from the real kubectl to the example application and the kubelet.

use anyhow::Result;

use crate::Scenario;
use crate::cluster::{Cluster, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("proxies_reach_pods_services_and_nodes", reached)];

fn reached(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("proxies")?;
    space.run(&["apply", "-f", "examples/nginx.yaml"])?;
    space.run(&["rollout", "status", "deployment/nginx-deployment", "--timeout=90s"])?;
    let pod = space.run(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let node = space.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let links = r#"echo '<a href="/rewriteme">test</a>' > /usr/share/nginx/html/links.html"#;
    space.run(&["exec", &pod, "--", "sh", "-c", links])?;
    let below = "/api/v1/namespaces/proxies";
    for place in [
        format!("{below}/pods/{pod}"),
        format!("{below}/pods/{pod}:80"),
        format!("{below}/pods/http:{pod}:80"),
        format!("{below}/services/nginx-service:80"),
    ] {
        contains(
            &space.run(&["get", "--raw", &format!("{place}/proxy/")])?,
            "Welcome to nginx!",
        )?;
    }
    let proxy = format!("{below}/pods/{pod}/proxy");
    contains(
        &space.run(&["get", "--raw", &format!("{proxy}/links.html")])?,
        &format!(r#"<a href="{proxy}/rewriteme">test</a>"#),
    )?;
    contains(
        &space.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/healthz")])?,
        "ok",
    )?;
    contains(
        &space.refused(&["get", "--raw", &format!("{below}/pods/{pod}:9/proxy/")])?,
        "error trying to reach service: dial tcp",
    )
}
