//! Decisions beside a slow, obvious implementation that reads objects' JSON and counts everything anew for each pair: which
//! nodes suit a pod, why the others do not, and what they score.
//!
//! The worlds change at random between pairs, so that what is kept current change by change is held against counting anew.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use trireme_scheduling::profile::{Strategy, Weighted, Weights};
use trireme_scheduling::{NodeRecord, Plugins, Profile, rank};

use crate::common::Ground;
use crate::slow::World;

/// Numbers without pattern, the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const NAMESPACES: [&str; 2] = ["default", "other"];
const KEYS: [&str; 3] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack"];

fn node(random: &mut Random, name: &str) -> Value {
    let mut labels = json!({});
    if !random.one_in(12) {
        labels["kubernetes.io/hostname"] = name.into();
    }
    if !random.one_in(6) {
        labels["topology.kubernetes.io/zone"] = (*random.of(&["z1", "z2", "z3"])).into();
    }
    if random.one_in(2) {
        labels["rack"] = (*random.of(&["r1", "r2", "7"])).into();
    }
    let taints: Vec<Value> = (0..random.below(3) / 2)
        .map(|_| {
            let effect = *random.of(&["NoSchedule", "PreferNoSchedule", "PreferNoSchedule", "NoExecute"]);
            json!({"key": *random.of(&["a", "b"]), "value": *random.of(&["x", ""]), "effect": effect})
        })
        .collect();
    let images: Vec<Value> = (0..random.below(3))
        .map(
            |_| json!({"names": [*random.of(&["web:1", "db:latest"])], "sizeBytes": 20_000_000 + 100_000_000 * random.below(20)}),
        )
        .take(1)
        .collect();
    let mut allocatable = json!({
        "cpu": format!("{}m", 500 + 250 * random.below(8)),
        "memory": format!("{}Mi", 512 * (1 + random.below(6))),
        "pods": (2 + random.below(8)).to_string(),
    });
    if random.one_in(3) {
        allocatable["example.com/gpu"] = random.below(4).to_string().into();
    }
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"unschedulable": random.one_in(12), "taints": taints},
        "status": {"allocatable": allocatable, "images": images},
    })
}

fn selector(random: &mut Random) -> Value {
    match random.below(6) {
        0 => json!({}),
        1 => Value::Null,
        2 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}),
        3 => json!({"matchExpressions": [{"key": "tier", "operator": *random.of(&["Exists", "DoesNotExist"])}]}),
        _ => json!({"matchLabels": {"app": *random.of(&["web", "db"])}}),
    }
}

fn term(random: &mut Random) -> Value {
    let mut term = json!({"topologyKey": *random.of(&KEYS), "labelSelector": selector(random)});
    match random.below(6) {
        0 => term["namespaces"] = json!(["other"]),
        1 => term["namespaceSelector"] = json!({"matchLabels": {"team": *random.of(&["x", "y"])}}),
        2 => term["namespaceSelector"] = json!({}),
        _ => {}
    }
    term
}

fn node_term(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!({"matchFields": [{"key": "metadata.name", "operator": *random.of(&["In", "NotIn"]), "values": ["n1", "n2"]}]}),
        1 => json!({"matchExpressions": [{"key": "rack", "operator": *random.of(&["Gt", "Lt"]), "values": ["5"]}]}),
        2 => json!({}),
        _ => json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": *random.of(&["In", "NotIn"]),
            "values": ["z1", "z2"]}]}),
    }
}

fn affinity(random: &mut Random) -> Value {
    let terms = |random: &mut Random| -> Vec<Value> { (0..=random.below(2)).map(|_| term(random)).collect() };
    let mut affinity = json!({});
    for kind in ["podAffinity", "podAntiAffinity"] {
        if random.one_in(4) {
            affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"] = terms(random).into();
        }
        if random.one_in(4) {
            let weighted = terms(random);
            let weighted = weighted
                .into_iter()
                .map(|term| json!({"weight": 1 + random.below(100), "podAffinityTerm": term}));
            affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"] = weighted.collect();
        }
    }
    if random.one_in(4) {
        let terms: Vec<_> = (0..=random.below(2)).map(|_| node_term(random)).collect();
        affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": terms});
    }
    if random.one_in(4) {
        let terms = (0..=random.below(2)).map(|_| json!({"weight": 1 + random.below(100), "preference": node_term(random)}));
        affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = terms.collect();
    }
    affinity
}

fn constraint(random: &mut Random) -> Value {
    let mut constraint = json!({
        "maxSkew": 1 + random.below(3),
        "topologyKey": *random.of(&KEYS),
        "whenUnsatisfiable": *random.of(&["DoNotSchedule", "ScheduleAnyway"]),
        "labelSelector": selector(random),
    });
    if random.one_in(3) {
        constraint["nodeAffinityPolicy"] = (*random.of(&["Honor", "Ignore"])).into();
        constraint["nodeTaintsPolicy"] = (*random.of(&["Honor", "Ignore"])).into();
    }
    if random.one_in(3) && constraint["whenUnsatisfiable"] == "DoNotSchedule" {
        constraint["minDomains"] = (1 + random.below(4)).into();
    }
    if random.one_in(4) {
        constraint["matchLabelKeys"] = json!(["tier", "none"]);
    }
    constraint
}

/// What a controller would make pods of.
fn template(random: &mut Random) -> Value {
    let mut labels = json!({"app": *random.of(&["web", "db"])});
    if random.one_in(2) {
        labels["tier"] = (*random.of(&["front", "back"])).into();
    }
    let mut requests = json!({});
    if !random.one_in(4) {
        requests["cpu"] = format!("{}m", 50 * random.below(8)).into();
    }
    if !random.one_in(3) {
        requests["memory"] = format!("{}Mi", 64 * random.below(8)).into();
    }
    if random.one_in(8) {
        requests["example.com/gpu"] = "1".into();
    }
    let mut container = json!({"name": "c", "image": *random.of(&["web:1", "db", "none"]), "resources": {"requests": requests}});
    if random.one_in(8) {
        container["ports"] = json!([{"containerPort": 80, "hostPort": *random.of(&[80, 81]), "protocol": "TCP"}]);
    }
    let mut spec = json!({"containers": [container], "schedulerName": "default-scheduler"});
    if random.one_in(3) {
        spec["affinity"] = affinity(random);
    }
    if random.one_in(4) {
        let constraints = (0..=random.below(2)).map(|_| constraint(random));
        spec["topologySpreadConstraints"] = constraints.collect();
    }
    if random.one_in(6) {
        spec["nodeSelector"] = json!({"rack": "r1"});
    }
    if random.one_in(3) {
        let tolerations = (0..=random.below(2)).map(|_| {
            json!({"key": *random.of(&["a", "b", "node.kubernetes.io/unschedulable"]), "operator": *random.of(&["Exists", "Equal"]),
                "value": "", "effect": *random.of(&["", "NoSchedule", "PreferNoSchedule"])})
        });
        spec["tolerations"] = tolerations.collect();
    }
    if random.one_in(3) {
        let volumes = (0..=random.below(2)).map(|at| {
            if random.one_in(8) {
                return json!({"name": format!("v{at}"), "ephemeral": {"volumeClaimTemplate": {}}});
            }
            json!({"name": format!("v{at}"), "persistentVolumeClaim": {"claimName": format!("c{}", random.below(CLAIMS))}})
        });
        spec["volumes"] = volumes.collect();
    }
    let mut metadata = json!({"namespace": *random.of(&NAMESPACES), "labels": labels});
    if random.one_in(2) {
        metadata["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]);
    }
    json!({"metadata": metadata, "spec": spec})
}

/// A class of the three kinds that there are.
fn class(random: &mut Random, name: &str) -> Value {
    let mut class = json!({"kind": "StorageClass", "metadata": {"name": name}, "provisioner": "p", "volumeBindingMode":
        if name == "fast" { "Immediate" } else { "WaitForFirstConsumer" }});
    if name == "manual" {
        class["provisioner"] = "kubernetes.io/no-provisioner".into();
    }
    if name == "slow" && random.one_in(2) {
        let zones = json!([*random.of(&["z1", "z2"]), "z3"]);
        class["allowedTopologies"] =
            json!([{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": zones}]}]);
    }
    class
}

const VOLUMES: usize = 8;
const CLAIMS: usize = 5;

fn claim(random: &mut Random, place: &str, at: usize) -> Value {
    let name = format!("c{at}");
    let mut claim = json!({
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": place, "uid": format!("{place}{at}")},
        "spec": {
            "storageClassName": *random.of(&["slow", "slow", "slow", "manual", "manual", "fast", "gone"]),
            "accessModes": [*random.of(&["ReadWriteOnce", "ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"])],
            "resources": {"requests": {"storage": format!("{}Gi", 1 + random.below(VOLUMES))}},
        },
    });
    if random.one_in(2) {
        claim["spec"]["volumeName"] = format!("v{}", random.below(VOLUMES)).into();
        if !random.one_in(8) {
            claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
        }
        if random.one_in(12) {
            claim["status"]["phase"] = "Lost".into();
        }
    }
    match random.below(16) {
        0 => claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
        1 => {
            let node = format!("n{}", random.below(9));
            claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = node.into();
        }
        2 => claim["spec"]["selector"] = json!({"matchLabels": {"disk": "ssd"}}),
        3 => claim["spec"]["volumeMode"] = "Block".into(),
        _ => {}
    }
    claim
}

fn volume(random: &mut Random, at: usize) -> Value {
    // No two are of one size, so that of those that suit one is the smallest.
    let mut volume = json!({
        "kind": "PersistentVolume",
        "metadata": {"name": format!("v{at}"), "labels": {"disk": *random.of(&["ssd", "disk"])}},
        "spec": {
            "storageClassName": *random.of(&["slow", "manual"]),
            "accessModes": ["ReadWriteOnce", *random.of(&["ReadWriteOncePod", "ReadWriteMany"])],
            "capacity": {"storage": format!("{}Gi", at + 1)},
        },
        "status": {"phase": if random.one_in(8) { "Released" } else { "Available" }},
    });
    match random.below(6) {
        0 => volume["metadata"]["labels"]["topology.kubernetes.io/zone"] = (*random.of(&["z1", "z1__z2", "z3"])).into(),
        1 => {
            let at = random.below(CLAIMS);
            let place = *random.of(&NAMESPACES);
            let uid = if random.one_in(2) {
                String::new()
            } else {
                format!("{place}{at}")
            };
            volume["spec"]["claimRef"] = json!({"name": format!("c{at}"), "namespace": place, "uid": uid});
        }
        2 => volume["spec"]["csi"] = json!({"driver": "p", "volumeHandle": format!("h{at}")}),
        _ => {}
    }
    if !random.one_in(3) {
        let expression = match random.below(4) {
            0 => json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z1", "z2"]}),
            1 => json!({"key": "rack", "operator": "Exists"}),
            _ => json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [format!("n{}", random.below(9))]}),
        };
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}});
    }
    volume
}

fn csi_node(random: &mut Random, name: &str) -> Value {
    let mut driver = json!({"name": "p"});
    if !random.one_in(4) {
        driver["allocatable"]["count"] = random.below(4).into();
    }
    json!({"kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": [driver]}})
}

fn named(template: &Value, name: &str, on: Option<&str>) -> Value {
    let mut pod = template.clone();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = name.into();
    if let Some(on) = on {
        pod["spec"]["nodeName"] = on.into();
    }
    pod
}

/// Both views of one world.
struct Pair {
    ground: Ground,
    world: World,
    templates: Vec<Value>,
    made: usize,
    /// Why nodes were turned down.
    reasons: BTreeSet<String>,
}

impl Pair {
    fn new(random: &mut Random) -> Self {
        let mut this = Self {
            ground: Ground::default(),
            world: World::default(),
            templates: (0..6).map(|_| template(random)).collect(),
            made: 0,
            reasons: BTreeSet::new(),
        };
        for name in NAMESPACES {
            this.label_namespace(random, name);
        }
        let service = json!({"spec": {"selector": {"app": "web"}}}).to_string();
        this.ground
            .snapshot
            .put_service("default", "s", Some(service.as_bytes()))
            .unwrap();
        this.world.services.push(("default".into(), json!({"app": "web"})));
        let selector = json!({"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]});
        let set = json!({"spec": {"selector": selector}}).to_string();
        let place = ("other", "rs");
        this.ground
            .snapshot
            .put_controller("ReplicaSet.apps", place, Some(set.as_bytes()))
            .unwrap();
        this.world.replica_sets.push(("other".into(), "rs".into(), selector));
        for n in 0..2 + random.below(7) {
            this.put_node(random, &format!("n{n}"));
        }
        for name in ["slow", "manual", "fast"] {
            let class = class(random, name);
            this.put_storage(class);
        }
        for _ in 0..20 {
            this.change_storage(random);
        }
        this
    }

    fn put_storage(&mut self, object: Value) {
        self.ground.put_storage(&object);
        let same = |held: &Value| {
            let part = |of: &Value, field: &str| of["metadata"][field].clone();
            held["kind"] == object["kind"]
                && ["name", "namespace"]
                    .iter()
                    .all(|field| part(held, field) == part(&object, field))
        };
        self.world.storage.retain(|held| !same(held));
        self.world.storage.push(object);
    }

    fn change_storage(&mut self, random: &mut Random) {
        let object = match random.below(8) {
            0 => {
                let name = *random.of(&["slow", "manual", "fast"]);
                class(random, name)
            }
            1 => {
                let node = format!("n{}", random.below(9));
                csi_node(random, &node)
            }
            2..=4 => {
                let place = *random.of(&NAMESPACES);
                let at = random.below(CLAIMS);
                claim(random, place, at)
            }
            5 => {
                // The claim of an ephemeral volume of the pod that is asked about.
                let mut claim = claim(random, "default", 0);
                claim["metadata"]["name"] = format!("incoming-v{}", random.below(2)).into();
                let owner = *random.of(&["incoming", "incoming", "other"]);
                claim["metadata"]["ownerReferences"] = json!([{"kind": "Pod", "uid": owner, "controller": true}]);
                claim
            }
            _ => {
                let at = random.below(VOLUMES);
                volume(random, at)
            }
        };
        self.put_storage(object);
    }

    fn label_namespace(&mut self, random: &mut Random, name: &str) {
        let labels = json!({"team": *random.of(&["x", "y"])});
        let typed = serde_json::from_value(labels.clone()).unwrap();
        self.ground.snapshot.put_namespace(name, Some(typed));
        self.world.namespaces.insert(name.into(), labels);
    }

    fn put_node(&mut self, random: &mut Random, name: &str) {
        let node = node(random, name);
        self.ground
            .snapshot
            .put_node(NodeRecord::read(node.to_string().as_bytes()).unwrap());
        self.world.nodes.retain(|held| held["metadata"]["name"] != name);
        self.world.nodes.push(node);
    }

    fn put_pod(&mut self, pod: Value) {
        self.ground.put_pod(&pod);
        let uid = pod["metadata"]["uid"].clone();
        self.world.pods.retain(|held| held["metadata"]["uid"] != uid);
        self.world.pods.push(pod);
    }

    fn change(&mut self, random: &mut Random) {
        let node = format!("n{}", random.below(9));
        match random.below(28) {
            0 => self.put_node(random, &node),
            1 if self.world.nodes.len() > 2 => {
                self.ground.snapshot.remove_node(&node);
                self.world.nodes.retain(|held| held["metadata"]["name"] != node.as_str());
            }
            2 => {
                let name = *random.of(&NAMESPACES);
                self.label_namespace(random, name);
            }
            3 => {
                let at = random.below(self.templates.len());
                self.templates[at] = template(random);
            }
            4..=8 if !self.world.pods.is_empty() => {
                let at = random.below(self.world.pods.len());
                let gone = self.world.pods.remove(at);
                self.ground.snapshot.remove_pod(gone["metadata"]["uid"].as_str().unwrap());
            }
            24..=27 => self.change_storage(random),
            9 | 10 if !self.world.pods.is_empty() => {
                let mut going = random.of(&self.world.pods).clone();
                going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                self.put_pod(going);
            }
            _ => {
                self.made += 1;
                let pod = named(random.of(&self.templates), &format!("p{}", self.made), Some(&node));
                self.put_pod(pod);
            }
        }
    }

    fn compare(&mut self, random: &mut Random, profile: &Profile) {
        let pod = named(random.of(&self.templates), "incoming", None);
        let record = self.ground.read(&pod);
        let mut fast: Vec<_> = rank(&mut self.ground.snapshot, profile, &record)
            .into_iter()
            .map(|(name, judged)| {
                let judged = judged.map_err(|rejection| {
                    let mut reasons: Vec<_> = rejection.reasons().map(ToString::to_string).collect();
                    reasons.sort();
                    (reasons, rejection.preemption_helps)
                });
                (name.to_string(), judged)
            })
            .collect();
        let mut slow = self.world.judge(profile, &pod);
        for side in [&mut fast, &mut slow] {
            side.sort();
            // Only differences between scores mean something.
            let least = side.iter().filter_map(|(_, judged)| judged.as_ref().ok().copied()).min();
            for (_, judged) in side.iter_mut() {
                if let (Ok(score), Some(least)) = (judged, least) {
                    *score -= least;
                }
            }
        }
        assert_eq!(fast, slow, "for {pod:#}\namong {:#?}", self.world);
        let refused = slow.into_iter().filter_map(|(_, judged)| judged.err());
        self.reasons.extend(refused.flat_map(|(reasons, _)| reasons));
    }
}

fn profile(random: &mut Random) -> Profile {
    let weighted = |name: &str, weight| Weighted {
        name: name.into(),
        weight,
    };
    let mut profile = Profile::default();
    if random.one_in(2) {
        return profile;
    }
    profile.strategy = match random.below(3) {
        0 => Strategy::LeastAllocated,
        1 => Strategy::MostAllocated,
        _ => Strategy::RequestedToCapacityRatio(vec![(0, 0), (40, 9), (100, 3)]),
    };
    profile.fit_resources = vec![weighted("cpu", 2), weighted("memory", 1), weighted("example.com/gpu", 3)];
    profile.balanced_resources = vec![weighted("cpu", 1), weighted("memory", 1), weighted("example.com/gpu", 1)];
    profile.hard_pod_affinity_weight = 7;
    let mut weight = || i64::try_from(random.below(4)).unwrap();
    profile.weights = Weights {
        taints: weight(),
        node_affinity: weight(),
        fit: weight(),
        spread: weight(),
        pod_affinity: weight(),
        balanced: weight(),
        images: weight(),
    };
    for plugin in [
        Plugins::UNSCHEDULABLE,
        Plugins::TAINTS,
        Plugins::NODE_AFFINITY,
        Plugins::PORTS,
        Plugins::FIT,
        Plugins::SPREAD,
        Plugins::POD_AFFINITY,
    ] {
        if random.one_in(6) {
            profile.filters = profile.filters.without(plugin);
        }
    }
    profile
}

/// Parts of the reasons that must have been met, or the pairs show nothing of them.
const MET: [&str; 19] = [
    "were unschedulable",
    "had untolerated taint(s)",
    "didn't match Pod's node affinity",
    "didn't have free ports",
    "Insufficient cpu",
    "Too many pods",
    "didn't match pod topology spread constraints",
    "didn't match pod affinity rules",
    "didn't match pod anti-affinity rules",
    "ReadWriteOncePod access mode already in-use",
    "exceed max volume count",
    "didn't match PersistentVolume's node affinity",
    "didn't find available persistent volumes to bind",
    "had no available volume zone",
    "not found",
    "is being deleted",
    "bound to non-existent persistentvolume",
    "waiting for ephemeral volume controller",
    "pod is not owner",
];

/// Compares this many pairs of a snapshot and a pod.
fn run(seed: u64, pairs: usize) {
    let mut random = Random(seed);
    let mut reasons = BTreeSet::new();
    let mut compared = 0;
    while compared < pairs {
        let mut pair = Pair::new(&mut random);
        let profile = profile(&mut random);
        for _ in 0..50 {
            for _ in 0..random.below(3) {
                pair.change(&mut random);
            }
            pair.compare(&mut random, &profile);
            compared += 1;
        }
        reasons.append(&mut pair.reasons);
    }
    for part in MET {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "nothing {part}: {reasons:#?}"
        );
    }
}

#[test]
fn equals_a_slow_and_obvious_reference() {
    run(0x9e37_79b9_7f4a_7c15, 3000);
}

#[test]
#[ignore = "minutes without optimisation: cargo test --release -p trireme-scheduling --test placement -- --ignored"]
fn equals_the_reference_on_100_000_pairs() {
    run(0xd1b5_4a32_d192_ed03, 100_000);
}
