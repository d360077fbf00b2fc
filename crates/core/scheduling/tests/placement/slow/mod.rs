//! The slow reference: upstream's rules straight over JSON, one after the other, nothing kept.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "small numbers, and upstream's casts"
)]

mod volumes;

use std::collections::BTreeMap;

use serde_json::Value;
use trireme_scheduling::profile::Strategy;
use trireme_scheduling::{Plugins, Profile};

#[derive(Debug, Default)]
pub struct World {
    pub nodes: Vec<Value>,
    pub pods: Vec<Value>,
    pub namespaces: BTreeMap<String, Value>,
    pub services: Vec<(String, Value)>,
    pub replica_sets: Vec<(String, String, Value)>,
    /// Claims, volumes, classes and CSINodes.
    pub storage: Vec<Value>,
}

/// A score, or reasons and whether preemption may help.
pub type Judged = Result<i64, (Vec<String>, bool)>;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn name(object: &Value) -> &str {
    text(&object["metadata"], "name")
}

fn namespace(object: &Value) -> &str {
    text(&object["metadata"], "namespace")
}

fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

fn requirement(one: &Value, value: Option<&str>) -> bool {
    let values: Vec<&str> = list(&one["values"]).iter().filter_map(Value::as_str).collect();
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = || Some((number(value?)?, number(values[0])?));
    match text(one, "operator") {
        "In" => value.is_some_and(|value| values.contains(&value)),
        "NotIn" => value.is_none_or(|value| !values.contains(&value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn asks_nothing(selector: &Value) -> bool {
    selector.is_object()
        && selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
        && list(&selector["matchExpressions"]).is_empty()
}

fn selects(selector: &Value, labels: &Value) -> bool {
    if !selector.is_object() {
        return false;
    }
    let equal = selector["matchLabels"].as_object();
    equal.is_none_or(|equal| equal.iter().all(|(key, value)| labels[key.as_str()] == *value))
        && list(&selector["matchExpressions"])
            .iter()
            .all(|one| requirement(one, labels[text(one, "key")].as_str()))
}

fn node_term(term: &Value, node: &Value) -> bool {
    let (labels, fields) = (list(&term["matchExpressions"]), list(&term["matchFields"]));
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|one| requirement(one, label(node, text(one, "key"))))
        && fields.iter().all(|one| requirement(one, Some(name(node))))
}

fn admits(pod: &Value, node: &Value) -> bool {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let by_label = pod["spec"]["nodeSelector"].as_object();
    by_label.is_none_or(|wanted| wanted.iter().all(|(key, value)| label(node, key) == value.as_str()))
        && (required.is_null() || list(&required["nodeSelectorTerms"]).iter().any(|term| node_term(term, node)))
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    list(&pod["spec"]["tolerations"]).iter().any(|toleration| {
        let same = |field| text(toleration, field).is_empty() || text(toleration, field) == text(taint, field);
        let value = text(toleration, "operator") == "Exists" || text(toleration, "value") == text(taint, "value");
        same("key") && same("effect") && value
    })
}

fn tolerates_hard(pod: &Value, node: &Value) -> bool {
    let mut hard = list(&node["spec"]["taints"])
        .iter()
        .filter(|taint| text(taint, "effect") != "PreferNoSchedule");
    hard.all(|taint| tolerates(pod, taint))
}

fn number(amount: &Value) -> i64 {
    let amount = amount.as_str().unwrap_or("0");
    if let Some(mebibytes) = amount.strip_suffix("Mi") {
        return mebibytes.parse::<i64>().unwrap() << 20;
    }
    amount.trim_end_matches('m').parse().unwrap()
}

fn asks(pod: &Value, resource: &str, with_defaults: bool) -> i64 {
    let containers = list(&pod["spec"]["containers"]);
    containers
        .iter()
        .map(|container| match (&container["resources"]["requests"][resource], resource) {
            (Value::Null, "cpu") if with_defaults => 100,
            (Value::Null, "memory") if with_defaults => 200 << 20,
            (amount, _) => number(amount),
        })
        .sum()
}

fn ports(pod: &Value) -> Vec<i64> {
    let containers = list(&pod["spec"]["containers"]).iter();
    containers
        .flat_map(|container| list(&container["ports"]))
        .filter_map(|port| port["hostPort"].as_i64())
        .collect()
}

fn near(pod: &Value, kind: &str) -> Vec<Value> {
    list(&pod["spec"]["affinity"][kind]["requiredDuringSchedulingIgnoredDuringExecution"]).to_vec()
}

fn liked(pod: &Value) -> Vec<(i64, Value)> {
    let mut all = Vec::new();
    for (kind, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
        for one in list(&pod["spec"]["affinity"][kind]["preferredDuringSchedulingIgnoredDuringExecution"]) {
            all.push((sign * one["weight"].as_i64().unwrap(), one["podAffinityTerm"].clone()));
        }
    }
    all
}

impl World {
    fn on<'a>(&'a self, node: &'a Value) -> impl Iterator<Item = &'a Value> {
        self.pods
            .iter()
            .filter(move |pod| text(&pod["spec"], "nodeName") == name(node))
    }

    /// Pods on nodes that exist, each with its node.
    fn placed(&self) -> Vec<(&Value, &Value)> {
        self.nodes
            .iter()
            .flat_map(|node| self.on(node).map(move |pod| (pod, node)))
            .collect()
    }

    fn means(&self, term: &Value, owner: &Value, other: &Value) -> bool {
        let (listed, by_label) = (list(&term["namespaces"]), &term["namespaceSelector"]);
        let within = if listed.is_empty() && by_label.is_null() {
            namespace(owner) == namespace(other)
        } else {
            listed.iter().any(|listed| listed == namespace(other)) || selects(by_label, &self.namespaces[namespace(other)])
        };
        within && selects(&term["labelSelector"], &other["metadata"]["labels"])
    }

    fn constraints(&self, pod: &Value, hard: bool) -> Vec<Value> {
        let own = list(&pod["spec"]["topologySpreadConstraints"]);
        let mut all = own.to_vec();
        for constraint in &mut all {
            for key in list(&constraint["matchLabelKeys"].clone()) {
                if let Some(value) = label(pod, key.as_str().unwrap())
                    && constraint["labelSelector"].is_object()
                {
                    let wanted = serde_json::json!({"key": key, "operator": "In", "values": [value]});
                    let mut expressions = list(&constraint["labelSelector"]["matchExpressions"]).to_vec();
                    expressions.push(wanted);
                    constraint["labelSelector"]["matchExpressions"] = expressions.into();
                }
            }
        }
        if own.is_empty() {
            let mut selector = serde_json::json!({"matchLabels": {}, "matchExpressions": []});
            for (place, wanted) in &self.services {
                if place == namespace(pod) && selects(&serde_json::json!({"matchLabels": wanted}), &pod["metadata"]["labels"]) {
                    for (key, value) in wanted.as_object().unwrap() {
                        selector["matchLabels"][key.as_str()] = value.clone();
                    }
                }
            }
            for (place, set, wanted) in &self.replica_sets {
                let owned = list(&pod["metadata"]["ownerReferences"])
                    .iter()
                    .any(|owner| text(owner, "name") == set);
                if place == namespace(pod) && owned {
                    let mut expressions = list(&wanted["matchExpressions"]).to_vec();
                    for (key, value) in wanted["matchLabels"].as_object().unwrap() {
                        expressions.push(serde_json::json!({"key": key, "operator": "In", "values": [value]}));
                    }
                    selector["matchExpressions"] = expressions.into();
                }
            }
            if !asks_nothing(&selector) {
                for (key, skew) in [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)] {
                    all.push(
                        serde_json::json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": selector}),
                    );
                }
            }
        }
        all.retain(|constraint| (text(constraint, "whenUnsatisfiable") == "DoNotSchedule") == hard);
        all
    }

    fn count(&self, node: &Value, constraint: &Value, pod: &Value) -> i64 {
        let selector = &constraint["labelSelector"];
        let counts = |other: &&Value| {
            !asks_nothing(selector)
                && other["metadata"]["deletionTimestamp"].is_null()
                && namespace(other) == namespace(pod)
                && selects(selector, &other["metadata"]["labels"])
        };
        i64::try_from(self.on(node).filter(counts).count()).unwrap()
    }

    /// Matching pods by value of the key, over the nodes that count.
    fn domains<'a>(&'a self, constraint: &Value, all: &[Value], pod: &Value, whole: bool) -> BTreeMap<&'a str, i64> {
        let mut domains = BTreeMap::new();
        for node in &self.nodes {
            let complete = all.iter().all(|one| label(node, text(one, "topologyKey")).is_some());
            let by_affinity = text(constraint, "nodeAffinityPolicy") == "Ignore" || admits(pod, node);
            let by_taints = text(constraint, "nodeTaintsPolicy") != "Honor" || tolerates_hard(pod, node);
            if (!whole || complete) && by_affinity && by_taints {
                let value = label(node, text(constraint, "topologyKey")).unwrap_or_default();
                *domains.entry(value).or_default() += self.count(node, constraint, pod);
            }
        }
        domains
    }

    fn filter(&self, profile: &Profile, pod: &Value, node: &Value) -> Result<(), (Vec<String>, bool)> {
        let runs = |plugin| profile.filters.has(plugin);
        let refuse = |reason: &str, helps| Err((vec![reason.to_owned()], helps));
        let cordon = serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if runs(Plugins::UNSCHEDULABLE) && node["spec"]["unschedulable"] == true && !tolerates(pod, &cordon) {
            return refuse("node(s) were unschedulable", false);
        }
        if runs(Plugins::TAINTS) && !tolerates_hard(pod, node) {
            return refuse("node(s) had untolerated taint(s)", false);
        }
        if runs(Plugins::NODE_AFFINITY) && !admits(pod, node) {
            return refuse("node(s) didn't match Pod's node affinity/selector", false);
        }
        let held: Vec<i64> = self.on(node).flat_map(ports).collect();
        if runs(Plugins::PORTS) && ports(pod).iter().any(|port| held.contains(port)) {
            return refuse("node(s) didn't have free ports for the requested pod ports", true);
        }
        if runs(Plugins::FIT) {
            self.room(pod, node)?;
        }
        self.volumes(pod, node)?;
        if runs(Plugins::SPREAD) {
            self.spread(pod, node)?;
        }
        if runs(Plugins::POD_AFFINITY) {
            self.affinity(pod, node)?;
        }
        Ok(())
    }

    fn room(&self, pod: &Value, node: &Value) -> Result<(), (Vec<String>, bool)> {
        let (mut reasons, mut helps) = (Vec::new(), true);
        let all = |resource: &str| number(&node["status"]["allocatable"][resource]);
        if i64::try_from(self.on(node).count()).unwrap() + 1 > all("pods") {
            reasons.push("Too many pods".to_owned());
        }
        for resource in ["cpu", "memory", "example.com/gpu"] {
            let asked = asks(pod, resource, false);
            let used: i64 = self.on(node).map(|other| asks(other, resource, false)).sum();
            if asked > 0 && asked > all(resource) - used {
                reasons.push(format!("Insufficient {resource}"));
                helps &= asked <= all(resource);
            }
        }
        reasons.sort();
        if reasons.is_empty() { Ok(()) } else { Err((reasons, helps)) }
    }

    fn spread(&self, pod: &Value, node: &Value) -> Result<(), (Vec<String>, bool)> {
        let hard = self.constraints(pod, true);
        for constraint in &hard {
            let Some(value) = label(node, text(constraint, "topologyKey")) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err((vec![reason.into()], false));
            };
            let domains = self.domains(constraint, &hard, pod, true);
            let mut least = domains.values().copied().min().unwrap_or(i64::from(i32::MAX));
            if domains.len() < usize::try_from(constraint["minDomains"].as_u64().unwrap_or(1)).unwrap() {
                least = 0;
            }
            let own = i64::from(selects(&constraint["labelSelector"], &pod["metadata"]["labels"]));
            let there = domains.get(value).copied().unwrap_or_default();
            if there + own - least > constraint["maxSkew"].as_i64().unwrap() {
                return Err((vec!["node(s) didn't match pod topology spread constraints".into()], true));
            }
        }
        Ok(())
    }

    fn affinity(&self, pod: &Value, node: &Value) -> Result<(), (Vec<String>, bool)> {
        let same = |term: &Value, other: &Value| {
            let key = text(term, "topologyKey");
            label(node, key).is_some() && label(node, key) == label(other, key)
        };
        let wanted = near(pod, "podAffinity");
        let friend = |other: &Value| wanted.iter().all(|term| self.means(term, pod, other));
        if !wanted.is_empty() {
            let placed = self.placed();
            let friends: Vec<_> = placed.iter().filter(|(other, _)| friend(other)).collect();
            let labelled = wanted.iter().all(|term| label(node, text(term, "topologyKey")).is_some());
            let all_near = wanted.iter().all(|term| friends.iter().any(|(_, there)| same(term, there)));
            // A friend counts where its node has any of the keys.
            let somewhere = friends
                .iter()
                .any(|(_, there)| wanted.iter().any(|term| label(there, text(term, "topologyKey")).is_some()));
            if !labelled || !(all_near || (!somewhere && friend(pod))) {
                return Err((vec!["node(s) didn't match pod affinity rules".into()], false));
            }
        }
        for (other, there) in self.placed() {
            if near(pod, "podAntiAffinity")
                .iter()
                .any(|term| self.means(term, pod, other) && same(term, there))
            {
                return Err((vec!["node(s) didn't match pod anti-affinity rules".into()], true));
            }
        }
        for (other, there) in self.placed() {
            if near(other, "podAntiAffinity")
                .iter()
                .any(|term| self.means(term, other, pod) && same(term, there))
            {
                return Err((vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()], true));
            }
        }
        Ok(())
    }

    /// All nodes, judged.
    pub fn judge(&self, profile: &Profile, pod: &Value) -> Vec<(String, Judged)> {
        if let Some(text) = self.refusal_beforehand(pod) {
            let refused = |node: &Value| (name(node).to_owned(), Err((vec![text.clone()], false)));
            return self.nodes.iter().map(refused).collect();
        }
        let checked: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node, self.filter(profile, pod, node)))
            .collect();
        let suitable: Vec<&Value> = checked
            .iter()
            .filter(|(_, check)| check.is_ok())
            .map(|(node, _)| *node)
            .collect();
        let weights = &profile.weights;
        let columns = [
            (
                weights.fit,
                suitable.iter().map(|node| self.strategy(profile, pod, node)).collect(),
            ),
            (
                weights.balanced,
                suitable.iter().map(|node| self.balanced(profile, pod, node)).collect(),
            ),
            (
                weights.taints,
                scaled(suitable.iter().map(|node| unwelcome(pod, node)).collect(), true),
            ),
            (
                weights.node_affinity,
                scaled(suitable.iter().map(|node| preferred(pod, node)).collect(), false),
            ),
            (weights.spread, self.spreading(pod, &suitable)),
            (weights.pod_affinity, self.friendly(profile, pod, &suitable)),
            (
                weights.images,
                suitable.iter().map(|node| self.images(pod, node)).collect::<Vec<i64>>(),
            ),
        ];
        let mut scores = (0..suitable.len()).map(|at| columns.iter().map(|(weight, column)| weight * column[at]).sum());
        checked
            .iter()
            .map(|(node, check)| (name(node).to_owned(), check.clone().map(|()| scores.next().unwrap())))
            .collect()
    }

    fn used(&self, node: &Value, resource: &str, with_defaults: bool) -> i64 {
        self.on(node).map(|other| asks(other, resource, with_defaults)).sum()
    }

    fn strategy(&self, profile: &Profile, pod: &Value, node: &Value) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for resource in &profile.fit_resources {
            let all = number(&node["status"]["allocatable"][resource.name.as_str()]);
            let asked = asks(pod, &resource.name, true);
            if all == 0 || (asked == 0 && resource.name.contains('/')) {
                continue;
            }
            let used = self.used(node, &resource.name, true) + asked;
            let score = match &profile.strategy {
                Strategy::LeastAllocated => {
                    if used > all {
                        0
                    } else {
                        (all - used) * 100 / all
                    }
                }
                Strategy::MostAllocated => used.min(all) * 100 / all,
                // (0, 0), (40, 9), (100, 3)
                Strategy::RequestedToCapacityRatio(_) => match if used > all { 100 } else { used * 100 / all } {
                    percent @ ..=0 => percent.min(0),
                    percent @ ..=40 => 90 * percent / 40,
                    percent => 90 + (30 - 90) * (percent - 40) / 60,
                },
            };
            if score == 0 && matches!(profile.strategy, Strategy::RequestedToCapacityRatio(_)) {
                continue;
            }
            sum += score * resource.weight;
            weights += resource.weight;
        }
        match profile.strategy {
            _ if weights == 0 => 0,
            Strategy::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }

    fn balanced(&self, profile: &Profile, pod: &Value, node: &Value) -> i64 {
        let resources = &profile.balanced_resources;
        if resources.iter().all(|resource| asks(pod, &resource.name, false) == 0) {
            return 0;
        }
        let balance = |extra: bool| {
            let fractions: Vec<f64> = resources
                .iter()
                .filter_map(|resource| {
                    let all = number(&node["status"]["allocatable"][resource.name.as_str()]);
                    let asked = asks(pod, &resource.name, false);
                    let counts = all != 0 && (asked != 0 || !resource.name.contains('/'));
                    let used = self.used(node, &resource.name, false) + if extra { asked } else { 0 };
                    counts.then(|| (used as f64 / all as f64).min(1.0))
                })
                .collect();
            let deviation = match fractions[..] {
                [] | [_] => 0.0,
                [one, two] => ((one - two) / 2.0).abs(),
                _ => {
                    let mean = fractions.iter().sum::<f64>() / fractions.len() as f64;
                    let squares: f64 = fractions.iter().map(|one| (one - mean) * (one - mean)).sum();
                    (squares / fractions.len() as f64).sqrt()
                }
            };
            ((1.0 - deviation) * 100.0) as i64
        };
        50 + (50 + balance(true) - balance(false)) / 2
    }

    fn images(&self, pod: &Value, node: &Value) -> i64 {
        let size = |node: &Value, image: &str| {
            let images = list(&node["status"]["images"]).iter();
            let mut having = images.filter(|held| list(&held["names"]).iter().any(|name| name == image));
            having.next().map(|held| held["sizeBytes"].as_i64().unwrap())
        };
        let mut sum = 0;
        for container in list(&pod["spec"]["containers"]) {
            let mut image = text(container, "image").to_owned();
            if !image.contains(':') {
                image += ":latest";
            }
            if let Some(bytes) = size(node, &image) {
                let having = self.nodes.iter().filter(|node| size(node, &image).is_some()).count();
                sum += (bytes as f64 * (having as f64 / self.nodes.len() as f64)) as i64;
            }
        }
        let (least, most) = (23 << 20, 1000 << 20);
        100 * (sum.clamp(least, most) - least) / (most - least)
    }

    fn friendly(&self, profile: &Profile, pod: &Value, nodes: &[&Value]) -> Vec<i64> {
        let mut sums = vec![0; nodes.len()];
        for (other, there) in self.placed() {
            let mut pull = |weight: i64, term: &Value| {
                let key = text(term, "topologyKey");
                for (sum, node) in sums.iter_mut().zip(nodes) {
                    if label(node, key).is_some() && label(node, key) == label(there, key) {
                        *sum += weight;
                    }
                }
            };
            for (weight, term) in liked(pod).iter().filter(|(_, term)| self.means(term, pod, other)) {
                pull(*weight, term);
            }
            for (weight, term) in liked(other).iter().filter(|(_, term)| self.means(term, other, pod)) {
                pull(*weight, term);
            }
            for term in near(other, "podAffinity").iter().filter(|term| self.means(term, other, pod)) {
                pull(profile.hard_pod_affinity_weight, term);
            }
        }
        let (least, most) = (
            sums.iter().min().copied().unwrap_or(0),
            sums.iter().max().copied().unwrap_or(0),
        );
        let scale = |sum: &i64| {
            if most == least {
                0
            } else {
                (100.0 * ((sum - least) as f64 / (most - least) as f64)) as i64
            }
        };
        sums.iter().map(scale).collect()
    }

    fn spreading(&self, pod: &Value, nodes: &[&Value]) -> Vec<i64> {
        let soft = self.constraints(pod, false);
        if soft.is_empty() {
            return vec![0; nodes.len()];
        }
        let whole = !list(&pod["spec"]["topologySpreadConstraints"]).is_empty();
        let has = |node: &Value, constraint: &Value| label(node, text(constraint, "topologyKey")).is_some();
        let ignored = |node: &Value| whole && !soft.iter().all(|constraint| has(node, constraint));
        let crowd = |node: &Value| {
            let mut sum = 0.0;
            for constraint in soft.iter().filter(|constraint| has(node, constraint)) {
                let key = text(constraint, "topologyKey");
                let others = nodes.iter().filter(|node| !ignored(node));
                let (there, domains) = if key == "kubernetes.io/hostname" {
                    (self.count(node, constraint, pod), others.count())
                } else {
                    let mut values: Vec<_> = others.map(|node| label(node, key)).collect();
                    values.sort_unstable();
                    values.dedup();
                    let counts = self.domains(constraint, &soft, pod, whole);
                    (counts.get(label(node, key).unwrap()).copied().unwrap_or(0), values.len())
                };
                sum += there as f64 * ((domains + 2) as f64).ln() + (constraint["maxSkew"].as_i64().unwrap() - 1) as f64;
            }
            sum.round() as i64
        };
        let crowds: Vec<Option<i64>> = nodes.iter().map(|node| (!ignored(node)).then(|| crowd(node))).collect();
        let least = crowds.iter().flatten().copied().min().unwrap_or(0);
        let most = crowds.iter().flatten().copied().max().unwrap_or(0);
        let score = |crowd: &Option<i64>| match crowd {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(crowd) => 100 * (most + least - crowd) / most,
        };
        crowds.iter().map(score).collect()
    }
}

fn unwelcome(pod: &Value, node: &Value) -> i64 {
    let soft = list(&node["spec"]["taints"])
        .iter()
        .filter(|taint| text(taint, "effect") == "PreferNoSchedule");
    i64::try_from(soft.filter(|taint| !tolerates(pod, taint)).count()).unwrap()
}

fn preferred(pod: &Value, node: &Value) -> i64 {
    let terms = list(&pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]);
    let met = terms.iter().filter(|term| node_term(&term["preference"], node));
    met.map(|term| term["weight"].as_i64().unwrap()).sum()
}

fn scaled(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    let scale = |score: i64| if most == 0 { 0 } else { score * 100 / most };
    scores
        .into_iter()
        .map(|score| if reverse { 100 - scale(score) } else { scale(score) })
        .collect()
}
