//! The example application, byte for byte, from apply to the page and an autoscaler with a figure.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains};
use crate::http;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("the_example_application_runs", runs)];

fn runs(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("application")?;
    space.run(&["apply", "-f", "examples/limit-range.yaml"])?;
    let applied = space.run(&["apply", "-f", "examples/nginx.yaml"])?;
    contains(&applied, "horizontalpodautoscaler.autoscaling/nginx-hpa created")?;
    space.run(&["rollout", "status", "deployment/nginx-deployment", "--timeout=90s"])?;
    let ready = space.run(&[
        "get",
        "pods",
        "-o",
        "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}",
    ])?;
    ensure!(ready == "True True True", "not three ready pods: {ready}");
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let address = space.until(
        &["get", "service", "nginx-service", "-o", path],
        Duration::from_secs(20),
        |text| !text.is_empty(),
    )?;
    let page = http::get(format!("{address}:80").parse().context("an address")?, "/")?;
    contains(&page, "Welcome to nginx!")?;
    // Two samples are ten seconds apart, the autoscaler looks every fifteen.
    let figure = [
        "get",
        "hpa",
        "nginx-hpa",
        "-o",
        "jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}",
    ];
    space.until(&figure, Duration::from_secs(90), |text| text.parse::<u32>().is_ok())?;
    let shown = space.run(&["get", "pods,services,hpa", "-o", "wide"])?;
    contains(&shown, &address)?;
    contains(&shown, "%/50%")
}
