//! Creates per second of a cluster, and of one server beside it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use super::super::api::{calibrate, collection, config_map, item};
use super::super::http::Call;
use super::super::lab::Lab;
use super::super::load::{Load, Phase, Until, run as run_load};
use super::super::process::Processes;
use super::super::report::Sheet;
use super::super::rest::{unique_namespace, within};
use super::super::statistics::{figure, latency, milliseconds};
use super::super::target::Endpoint;
use super::Findings;
use super::cluster::{Cluster, down};
use super::options::{Ha, Part};
use crate::project::say;

/// Names of the columns of [`Row::cells`].
const HEADER: [&str; 11] = [
    "servers",
    "clients at",
    "connections",
    "per second",
    "p50 ms",
    "p99 ms",
    "p50, one server's = 1",
    "CPU ms each: the clients' server",
    "all servers",
    "client",
    "per CPU second of all servers",
];

/// Where the clients are, and how many.
struct Place {
    name: &'static str,
    /// Positions of the servers.
    at: Vec<usize>,
    connections: usize,
}

/// What came of one place.
struct Row {
    servers: usize,
    place: Place,
    phase: Phase,
    /// CPU of the servers that the clients are at.
    near: Duration,
}

impl Row {
    fn all(&self) -> f64 {
        self.phase.each(self.phase.server_cpu.unwrap_or_default())
    }

    /// How many times one server's latency it is, at as many connections.
    fn ratio(&self, rows: &[Self]) -> Option<f64> {
        let one = rows
            .iter()
            .find(|row| row.servers == 1 && row.place.connections == self.place.connections)?;
        Some(milliseconds(self.phase.latency.p50) / milliseconds(one.phase.latency.p50))
    }

    fn cells(&self, rows: &[Self]) -> Vec<String> {
        vec![
            self.servers.to_string(),
            self.place.name.into(),
            self.place.connections.to_string(),
            figure(self.phase.rate()),
            latency(self.phase.latency.p50),
            latency(self.phase.latency.p99),
            self.ratio(rows).map_or_else(String::new, figure),
            figure(self.phase.each(self.near)),
            figure(self.all()),
            figure(self.phase.each(self.phase.client_cpu)),
            figure(1000.0 / self.all()),
        ]
    }

    fn json(&self, rows: &[Self]) -> Value {
        json!({
            "servers": self.servers,
            "clientsAt": self.place.name,
            "p50OfOneServers": self.ratio(rows),
            "nearServerCpuMsEach": self.phase.each(self.near),
            "phase": self.phase.json(),
        })
    }
}

/// Measures the cluster, then one server in a lab of its own.
pub(super) async fn run(options: &Ha, cluster: &Cluster, lab_one: &Lab, findings: &mut Findings) -> Result<()> {
    let mut rows = Vec::new();
    let leader = cluster.settled().await?;
    let follower = (leader + 1) % cluster.servers().len();
    let many = usize::try_from(options.connections)?;
    let place = |name, at: &[usize], connections| Place {
        name,
        at: at.to_vec(),
        connections,
    };
    let everywhere: Vec<usize> = (0..cluster.servers().len()).collect();
    let places = vec![
        place("all", &everywhere, many),
        place("the leader", &[leader], 1),
        place("a follower", &[follower], 1),
    ];
    rows.extend(measure(options, cluster, places).await?);
    say("starting one server beside them");
    let one = Cluster::up(lab_one, 1, options).await?;
    let places = vec![place("it", &[0], many), place("it", &[0], 1)];
    rows.extend(measure(options, &one, places).await?);
    down(lab_one).await?;
    findings.sheets.push(Sheet {
        caption: format!(
            "Creates of ConfigMaps of {} bytes, {} s each; CPU is user and system time.",
            options.object_bytes,
            options.duration().as_secs()
        ),
        header: HEADER.to_vec(),
        rows: rows.iter().map(|row| row.cells(&rows)).collect(),
    });
    let figures: Vec<Value> = rows.iter().map(|row| row.json(&rows)).collect();
    findings.keep(Part::Create, json!(figures));
    Ok(())
}

async fn measure(options: &Ha, cluster: &Cluster, places: Vec<Place>) -> Result<Vec<Row>> {
    let namespace = unique_namespace("create");
    let work = async {
        let payload = calibrate(&cluster.rest().endpoint, &namespace, options.object_bytes).await?;
        let mut rows = Vec::new();
        for place in places {
            rows.push(row(options, cluster, place, &collection(&namespace), &payload).await?);
        }
        Ok(rows)
    };
    within(cluster.rest(), &[&namespace], "configmaps", work).await
}

async fn row(options: &Ha, cluster: &Cluster, place: Place, path: &str, payload: &str) -> Result<Row> {
    let processes = cluster.processes().await?;
    let of =
        |servers: &mut dyn Iterator<Item = usize>| Processes(servers.flat_map(|server| processes[server].0.clone()).collect());
    let (all, near) = (of(&mut (0..processes.len())), of(&mut place.at.iter().copied()));
    let endpoints: Vec<Arc<Endpoint>> = {
        let endpoints = cluster.endpoints();
        place.at.iter().map(|server| endpoints[*server].clone()).collect()
    };
    let load = Load {
        name: "create ConfigMap",
        connections: place.connections,
        until: Until::Elapsed(options.duration()),
    };
    let (path, payload, kind) = (path.to_owned(), payload.to_owned(), place.name.replace(' ', "-"));
    let connections = place.connections;
    let create = move |number, _| {
        let name = format!("{kind}-{connections}-{}", item(number));
        Call::with(Method::POST, path.as_str(), config_map(&name, &payload))
    };
    let before = near.cpu()?;
    let phase = run_load(&endpoints, &all, load, create).await;
    let phase = phase.with_context(|| format!("{} server(s), clients at {}", processes.len(), place.name))?;
    Ok(Row {
        servers: processes.len(),
        near: near.cpu()?.saturating_sub(before),
        place,
        phase,
    })
}
