//! `trireme why pod/NAME`: why a pod is where it is, or nowhere, node by node.
//!
//! Invariant: it reads what anybody may who may read the objects, and asks the scheduler's own filters and scores; it changes
//! nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use trireme_node::admin::Admin;
use trireme_scheduling::explain::{Explanation, Judged, Standing, explain};
use trireme_scheduling::{NodeRecord, PodRecord, Profile, Rejection, Snapshot, Templates};

use crate::members::{Access, run_as_admin, table};
use crate::version::Output;

/// What a shell is told of a pod that has no node.
const NO_NODE: u8 = 3;

/// Options of `trireme why`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 the pod has a node; 1 the question could not be answered; 3 the pod has no node.\n\n\
    A pod that is on a node is judged as if it were to be placed now."
)]
pub(crate) struct WhyCommand {
    #[command(flatten)]
    access: Access,
    /// What is asked about: pod/NAME
    #[arg(value_name = "pod/NAME")]
    subject: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The KubeSchedulerConfiguration that the servers use, where they use one
    #[arg(long, env = "TRIREME_SCHEDULER_CONFIG")]
    scheduler_config: Option<PathBuf>,
    /// Output form
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// The lists that placement depends on, in the order in which they are to be read.
const LISTS: [&str; 15] = [
    "/api/v1/namespaces",
    "/api/v1/nodes",
    "/api/v1/services",
    "/api/v1/replicationcontrollers",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/apis/policy/v1/poddisruptionbudgets",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/persistentvolumes",
    "/apis/storage.k8s.io/v1/storageclasses",
    "/apis/storage.k8s.io/v1/csinodes",
    "/apis/storage.k8s.io/v1/csidrivers",
    "/apis/storage.k8s.io/v1/csistoragecapacities",
    "/apis/storage.k8s.io/v1/volumeattachments",
    "/api/v1/pods",
];

fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().try_fold(object, |value, field| value.get(field));
    found.and_then(Value::as_str).unwrap_or_default()
}

/// The cluster as the scheduler sees it.
#[derive(Default)]
struct World {
    snapshot: Snapshot,
    templates: Templates,
}

impl World {
    fn put(&mut self, list: &str, object: &Value) -> Result<(), serde_json::Error> {
        let (namespace, name) = (text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"]));
        let bytes = object.to_string();
        let bytes = bytes.as_bytes();
        let json = Some(bytes);
        let (snapshot, plural) = (&mut self.snapshot, list.rsplit('/').next().unwrap_or_default());
        match plural {
            "namespaces" => {
                let labels = serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default();
                snapshot.put_namespace(name, Some(labels));
            }
            "nodes" => drop(snapshot.put_node(NodeRecord::read(bytes)?)),
            "services" => snapshot.put_service(namespace, name, json)?,
            "replicationcontrollers" => snapshot.put_controller("ReplicationController.", (namespace, name), json)?,
            "replicasets" => snapshot.put_controller("ReplicaSet.apps", (namespace, name), json)?,
            "statefulsets" => snapshot.put_controller("StatefulSet.apps", (namespace, name), json)?,
            "poddisruptionbudgets" => snapshot.put_budget(namespace, name, json)?,
            "persistentvolumeclaims" => snapshot.storage.put_claim(namespace, name, json)?,
            "persistentvolumes" => drop(snapshot.storage.put_volume(name, json)?),
            "storageclasses" => drop(snapshot.storage.put_class(name, json)?),
            "csinodes" => drop(snapshot.storage.put_csi_node(name, json)?),
            "csidrivers" => snapshot.storage.put_driver(name, json)?,
            "csistoragecapacities" => drop(snapshot.storage.put_capacity(namespace, name, json)?),
            "volumeattachments" => snapshot.storage.put_attachment(name, json)?,
            _ => {
                let pod = Arc::new(self.templates.read(bytes)?);
                if pod.node.is_some() {
                    snapshot.put_pod(pod);
                } else if pod.nominated.is_some() {
                    snapshot.nominate(pod);
                }
            }
        }
        Ok(())
    }
}

/// What is told.
struct Answer {
    /// In one word, for tools.
    state: &'static str,
    sentence: String,
    node: Option<String>,
    nodes: Vec<Judged>,
}

/// Reasons as they are said of one node.
fn reasons(rejection: &Rejection) -> Vec<String> {
    let texts = rejection.reasons().map(ToString::to_string);
    texts
        .map(|text| text.strip_prefix("node(s) ").map_or(text.clone(), str::to_owned))
        .collect()
}

/// Claims of a pod whose volumes are being made for the node that was chosen.
fn awaited(pod: &Value, claims: &[Value]) -> Vec<String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let names = volumes.filter_map(|volume| {
        let named = volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
        let own = || {
            volume["ephemeral"]
                .is_object()
                .then(|| format!("{}-{}", text(pod, &["metadata", "name"]), text(volume, &["name"])))
        };
        named.or_else(own)
    });
    let names: Vec<String> = names.collect();
    let waits = |claim: &&Value| {
        let annotations = &claim["metadata"]["annotations"];
        names.iter().any(|name| name == text(claim, &["metadata", "name"]))
            && claim["metadata"]["namespace"] == pod["metadata"]["namespace"]
            && annotations["volume.kubernetes.io/selected-node"].is_string()
            && annotations["pv.kubernetes.io/bind-completed"].is_null()
    };
    let waiting = claims.iter().filter(waits);
    waiting.map(|claim| text(claim, &["metadata", "name"]).to_owned()).collect()
}

fn answer(world: &mut World, profiles: &[Profile], pod: &Value, claims: &[Value]) -> Result<Answer> {
    let record: PodRecord = world.templates.read(pod.to_string().as_bytes())?;
    let whole = format!("{}/{}", record.template.namespace, record.name);
    let node = record.node.as_deref().map(str::to_owned);
    let short = |state, sentence| Answer {
        state,
        sentence,
        node: node.clone(),
        nodes: Vec::new(),
    };
    if record.finished {
        return Ok(short("Finished", format!("{whole} has ended, and needs no node any more.")));
    }
    let wanted = &record.template.scheduler_name;
    let profile = profiles.iter().find(|profile| profile.scheduler_name == *wanted);
    let profile = match profile {
        Some(profile) => profile,
        None if node.is_some() => &profiles[0],
        None => {
            let sentence = format!("{whole} waits for the scheduler \"{wanted}\", which is none of this cluster's.");
            return Ok(short("OtherScheduler", sentence));
        }
    };
    if node.is_none() && record.template.gated {
        let gates = pod["spec"]["schedulingGates"].as_array().into_iter().flatten();
        let gates: Vec<&str> = gates.map(|gate| text(gate, &["name"])).collect();
        return Ok(short(
            "Gated",
            format!("{whole} is held back by its scheduling gates: {}.", gates.join(", ")),
        ));
    }
    if node.is_none() && record.deleting {
        return Ok(short(
            "Deleting",
            format!("{whole} is being deleted, and gets no node any more."),
        ));
    }
    let Explanation { standing, nodes } = explain(&mut world.snapshot, profile, &record);
    let suitable = nodes.iter().filter(|judged| judged.verdict.is_ok()).count();
    let (state, sentence) = match standing {
        Standing::On(on) => ("Placed", placed(&whole, &on, &nodes)),
        Standing::Fits(to) => match awaited(pod, claims) {
            waiting if waiting.is_empty() => {
                let of = if suitable == 1 {
                    "the only node".to_owned()
                } else {
                    format!("the best of {suitable} nodes")
                };
                (
                    "Pending",
                    format!("{whole} has no node yet; {to} is {of} that could take it."),
                )
            }
            waiting => (
                "WaitingForVolumes",
                format!(
                    "{whole} will be on {to} and waits for the volumes of its claims: {}.",
                    waiting.join(", ")
                ),
            ),
        },
        Standing::Preempts(on, victims) => (
            "Preempting",
            format!(
                "{whole} fits nowhere; {on} could take it without less important pods: {}.",
                victims.join(", ")
            ),
        ),
        Standing::Nowhere(message) => ("Unschedulable", format!("{whole} fits nowhere: {message}")),
    };
    Ok(Answer {
        state,
        sentence,
        node,
        nodes,
    })
}

fn placed(pod: &str, on: &str, nodes: &[Judged]) -> String {
    let Some(place) = nodes.iter().position(|judged| *judged.name == *on) else {
        return format!("{pod} is on {on}, which is no node of this cluster any more.");
    };
    let suitable = nodes.iter().filter(|judged| judged.verdict.is_ok()).count();
    match &nodes[place].verdict {
        Ok(score) => {
            let better = nodes
                .iter()
                .filter(|judged| judged.verdict.as_ref().is_ok_and(|other| other > score));
            let of = if suitable == 1 {
                "the only node that could take it now".to_owned()
            } else {
                format!("number {} of {suitable} nodes that could take it now", better.count() + 1)
            };
            format!("{pod} is on {on}, {of}.")
        }
        Err(rejection) => format!(
            "{pod} is on {on}, which would not take it now: {}.",
            reasons(rejection).join(", ")
        ),
    }
}

impl Answer {
    fn to_json(&self, namespace: &str, name: &str) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|judged| match &judged.verdict {
                Ok(score) => json!({"name": judged.name, "fits": true, "score": score}),
                Err(rejection) => json!({"name": judged.name, "fits": false, "reasons": reasons(rejection),
                    "preemptionMayHelp": rejection.preemption_helps}),
            })
            .collect();
        json!({"namespace": namespace, "name": name, "node": self.node, "state": self.state, "sentence": self.sentence,
            "nodes": nodes})
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |judged: &Judged| {
            let here = self.node.as_deref() == Some(&*judged.name);
            let (score, said) = match &judged.verdict {
                Ok(score) => (score.to_string(), "could take it".to_owned()),
                Err(rejection) => ("-".to_owned(), reasons(rejection).join(", ")),
            };
            let said = if here { format!("has it; {said}") } else { said };
            vec![judged.name.to_string(), score, said]
        };
        self.nodes.iter().map(row).collect()
    }
}

/// Asks and prints.
pub(crate) fn run(command: &WhyCommand) -> Result<ExitCode> {
    let name = match command.subject.split_once('/') {
        Some(("pod" | "pods" | "po", name)) if !name.is_empty() => name,
        _ => bail!("\"{}\" is not of the form pod/NAME", command.subject),
    };
    let profiles = match &command.scheduler_config {
        Some(path) => trireme_node::config::scheduler_configuration(path)?.profiles,
        None => vec![Profile::default()],
    };
    let namespace = command.namespace.as_str();
    let found = run_as_admin(&command.access, async |admin: Admin| {
        let pod = admin.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
        let mut world = World::default();
        let mut claims = Vec::new();
        for list in LISTS {
            let mut objects = admin.get(list).await.with_context(|| format!("listing {list}"))?;
            let Some(items) = objects.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take) else {
                continue;
            };
            for item in &items {
                // Like the scheduler, which goes on without what it cannot read.
                if let Err(error) = world.put(list, item) {
                    let (namespace, name) = (text(item, &["metadata", "namespace"]), text(item, &["metadata", "name"]));
                    eprintln!("trireme: {list} {namespace}/{name} cannot be read and is left out: {error}");
                }
            }
            if list.ends_with("/persistentvolumeclaims") {
                claims = items;
            }
        }
        answer(&mut world, &profiles, &pod, &claims)
    })?;
    if command.output.is_some() {
        println!("{}", serde_json::to_string_pretty(&found.to_json(namespace, name))?);
    } else {
        println!("{}", found.sentence);
        if !found.nodes.is_empty() {
            table(&["NODE", "SCORE", "WHY"], found.rows());
        }
    }
    let placed = found.node.is_some() || found.state == "Finished";
    Ok(if placed { ExitCode::SUCCESS } else { ExitCode::from(NO_NODE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}}})
    }

    fn pod(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn ask(world: &mut World, pod: &Value) -> Answer {
        answer(world, &[Profile::default()], pod, &[]).unwrap()
    }

    fn world() -> World {
        let mut world = World::default();
        let mut tainted = node("n3", "4");
        tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        for node in [node("n1", "1"), node("n2", "2"), tainted] {
            world.put("/api/v1/nodes", &node).unwrap();
        }
        world
    }

    #[test]
    fn says_where_a_pod_could_go_and_why_not_elsewhere() {
        let found = ask(&mut world(), &pod("p", "500m"));
        let sentence = "default/p has no node yet; n2 is the best of 2 nodes that could take it.";
        assert_eq!((found.state, found.sentence.as_str()), ("Pending", sentence));
        let rows = found.rows();
        assert_eq!((rows[0][0].as_str(), rows[0][2].as_str()), ("n2", "could take it"));
        assert_eq!(rows[2], ["n3", "-", "had untolerated taint(s)"]);
        let found = ask(&mut world(), &pod("p", "3"));
        let sentence = "default/p fits nowhere: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
                        preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        assert_eq!((found.state, found.sentence.as_str()), ("Unschedulable", sentence));
        let json = found.to_json("default", "p");
        let reasons = json!({"name": "n1", "fits": false, "reasons": ["Insufficient cpu"], "preemptionMayHelp": false});
        assert_eq!(json["nodes"][0], reasons);
    }

    #[test]
    fn says_of_a_placed_pod_how_its_node_stands_among_the_others() {
        let mut world = world();
        let mut placed = pod("p", "500m");
        placed["spec"]["nodeName"] = "n1".into();
        world.put("/api/v1/pods", &placed).unwrap();
        let found = ask(&mut world, &placed);
        let sentence = "default/p is on n1, number 2 of 2 nodes that could take it now.";
        assert_eq!((found.state, found.sentence.as_str()), ("Placed", sentence));
        assert_eq!(found.rows()[1][2], "has it; could take it");
        placed["spec"]["nodeSelector"] = json!({"no": "such"});
        let found = ask(&mut world, &placed);
        let sentence = "default/p is on n1, which would not take it now: didn't match Pod's node affinity/selector.";
        assert_eq!(found.sentence, sentence);
        placed["spec"]["nodeName"] = "n9".into();
        let found = ask(&mut world, &placed);
        assert_eq!(
            found.sentence,
            "default/p is on n9, which is no node of this cluster any more."
        );
    }

    #[test]
    fn says_what_else_holds_a_pod_back() {
        let mut gated = pod("p", "1");
        gated["spec"]["schedulingGates"] = json!([{"name": "a"}, {"name": "b"}]);
        let sentence = "default/p is held back by its scheduling gates: a, b.";
        assert_eq!(ask(&mut world(), &gated).sentence, sentence);
        let mut other = pod("p", "1");
        other["spec"]["schedulerName"] = "own".into();
        let sentence = "default/p waits for the scheduler \"own\", which is none of this cluster's.";
        assert_eq!(ask(&mut world(), &other).sentence, sentence);
        let mut world = world();
        for on in ["n1", "n2"] {
            let mut small = pod(&format!("on-{on}"), "900m");
            small["spec"]["nodeName"] = on.into();
            world.put("/api/v1/pods", &small).unwrap();
        }
        let mut important = pod("p", "1500m");
        important["spec"]["priority"] = 9.into();
        let sentence = "default/p fits nowhere; n2 could take it without less important pods: on-n2.";
        assert_eq!(ask(&mut world, &important).sentence, sentence);
    }

    #[test]
    fn says_for_which_claims_a_pod_waits() {
        let mut world = world();
        let claim = json!({"metadata": {"name": "c", "namespace": "default", "uid": "c", "annotations":
            {"volume.kubernetes.io/selected-node": "n1"}}, "spec": {"storageClassName": "s"}});
        let class = json!({"metadata": {"name": "s"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"});
        world.put("/apis/storage.k8s.io/v1/storageclasses", &class).unwrap();
        world.put("/api/v1/persistentvolumeclaims", &claim).unwrap();
        let mut waits = pod("p", "500m");
        waits["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let found = answer(&mut world, &[Profile::default()], &waits, &[claim]).unwrap();
        let sentence = "default/p will be on n1 and waits for the volumes of its claims: c.";
        assert_eq!((found.state, found.sentence.as_str()), ("WaitingForVolumes", sentence));
    }
}
