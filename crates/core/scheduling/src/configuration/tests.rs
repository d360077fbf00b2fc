//! What a KubeSchedulerConfiguration may say, and how a wrong one is refused.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::filter::Plugins;
use crate::profile::{DefaultSpread, Strategy, Weights};

fn with(extra: &Value) -> Value {
    let mut value = json!({"apiVersion": API_VERSION, "kind": KIND});
    for (key, extra) in extra.as_object().unwrap() {
        value[key] = extra.clone();
    }
    value
}

fn plugins(plugins: Value) -> Profile {
    let value = with(&json!({"profiles": [{"plugins": plugins}]}));
    read(&value).unwrap().profiles.remove(0)
}

fn arguments(name: &str, args: Value) -> Profile {
    let value = with(&json!({"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]}));
    read(&value).unwrap().profiles.remove(0)
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(read(&with(&json!({}))).unwrap(), Configuration::default());
    assert_eq!(read(&with(&json!({"profiles": [{}]}))).unwrap(), Configuration::default());
}

#[test]
fn several_profiles_have_names_and_percentages_of_their_own() {
    let value = json!({"percentageOfNodesToScore": 40, "podInitialBackoffSeconds": 2, "podMaxBackoffSeconds": 30, "parallelism": 8,
        "profiles": [{}, {"schedulerName": "second", "percentageOfNodesToScore": 5}]});
    let read = read(&with(&value)).unwrap();
    let profiles: Vec<_> = read
        .profiles
        .iter()
        .map(|profile| (profile.scheduler_name.as_str(), profile.nodes_percent))
        .collect();
    assert_eq!(profiles, [("default-scheduler", Some(40)), ("second", Some(5))]);
    assert_eq!(
        (read.backoff.least, read.backoff.most),
        (Duration::from_secs(2), Duration::from_secs(30))
    );
    assert_eq!(read.unused, ["parallelism"]);
}

#[test]
fn plugins_are_enabled_and_disabled_as_upstream_merges_them() {
    let none = Weights {
        taints: 0,
        node_affinity: 0,
        fit: 0,
        spread: 0,
        pod_affinity: 0,
        balanced: 0,
        images: 0,
    };
    let off = plugins(json!({"multiPoint": {"disabled": [{"name": "InterPodAffinity"}, {"name": "DynamicResources"}]}}));
    assert_eq!(off.filters, Plugins::ALL.without(Plugins::POD_AFFINITY));
    assert_eq!(off.weights.pod_affinity, 0);
    let only_filter = plugins(json!({"filter": {"disabled": [{"name": "TaintToleration"}]}}));
    assert_eq!(only_filter.filters, Plugins::ALL.without(Plugins::TAINTS));
    assert_eq!(only_filter.weights, Weights::default());
    let one_score = plugins(json!({"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "ImageLocality", "weight": 7}]}}));
    assert_eq!(
        (one_score.filters, &one_score.weights),
        (
            Plugins::ALL,
            &Weights {
                images: 7,
                ..none.clone()
            }
        )
    );
    // A weight of an extension point goes before one of all of them; none is one.
    let both = json!({"multiPoint": {"enabled": [{"name": "TaintToleration"}, {"name": "NodeResourcesFit", "weight": 5}]},
        "score": {"enabled": [{"name": "NodeResourcesFit", "weight": 9}]}});
    let both = plugins(both);
    assert_eq!((both.weights.taints, both.weights.fit, both.weights.spread), (1, 9, 2));
    let bare = json!({"multiPoint": {"disabled": [{"name": "*"}], "enabled": [{"name": "SchedulingGates"}, {"name": "PrioritySort"},
        {"name": "DefaultBinder"}, {"name": "NodeResourcesFit", "weight": 1}]}});
    let bare = plugins(bare);
    assert_eq!(bare.filters, Plugins::FIT);
    assert_eq!(bare.weights, Weights { fit: 1, ..none });
    assert!(!bare.preempts);
    assert!(!plugins(json!({"postFilter": {"disabled": [{"name": "*"}]}})).preempts);
}

#[test]
fn arguments_reach_their_plugins() {
    let strategy = json!({"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 3}, {"name": "memory"}],
        "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}});
    let fit = arguments(
        "NodeResourcesFit",
        json!({"kind": "NodeResourcesFitArgs", "scoringStrategy": strategy, "ignoredResources": ["example.com/a"],
            "ignoredResourceGroups": ["example.org"]}),
    );
    assert_eq!(fit.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]));
    let weights: Vec<_> = fit.fit_resources.iter().map(|one| (one.name.as_str(), one.weight)).collect();
    assert_eq!(weights, [("cpu", 3), ("memory", 1)]);
    let ignored = ["example.com/a", "example.com/b", "example.org/c", "cpu"].map(|name| fit.ignores(name));
    assert_eq!(ignored, [true, false, true, false]);
    let constraint = json!({"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"});
    let spread = arguments(
        "PodTopologySpread",
        json!({"defaultingType": "List", "defaultConstraints": [constraint]}),
    );
    let DefaultSpread::List(constraints) = spread.default_spread else {
        panic!("no list");
    };
    assert_eq!(
        (constraints[0].skew_max, constraints[0].hard, constraints[0].domains_min),
        (2, true, 1)
    );
    let affinity = arguments(
        "InterPodAffinity",
        json!({"hardPodAffinityWeight": 9, "ignorePreferredTermsOfExistingPods": true}),
    );
    assert!(affinity.hard_pod_affinity_weight == 9 && affinity.ignores_preferences_of_others);
    let added = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "k", "operator": "Exists"}]}]}, "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 4, "preference": {}}]});
    let added = arguments("NodeAffinity", json!({"addedAffinity": added}));
    assert_eq!(added.added_required.unwrap().node_selector_terms.len(), 1);
    assert_eq!(added.added_preferred[0].0, 4);
    let preemption = arguments(
        "DefaultPreemption",
        json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 3}),
    );
    assert_eq!((preemption.candidates_percent, preemption.candidates_min), (0, 3));
    let binding = arguments("VolumeBinding", json!({"bindTimeoutSeconds": 5}));
    assert_eq!(binding.bind_timeout, Duration::from_secs(5));
    let balanced = arguments(
        "NodeResourcesBalancedAllocation",
        json!({"resources": [{"name": "cpu", "weight": 1}]}),
    );
    assert_eq!(balanced.balanced_resources.len(), 1);
}

#[test]
fn a_wrong_one_is_refused_with_path_and_reason() {
    let plugin = |point: &str, how: &str, plugin: Value| json!({"profiles": [{"plugins": {point: {how: [plugin]}}}]});
    let config = |name: &str, args: Value| json!({"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]});
    let args = "profiles[0].pluginConfig[0].args";
    for (value, expected) in [
        (
            json!({"kind": "Other"}),
            "kind: Invalid value: \"Other\": must be \"KubeSchedulerConfiguration\"".to_owned(),
        ),
        (
            json!({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"}),
            "apiVersion: Invalid value: \"kubescheduler.config.k8s.io/v1beta3\": must be \"kubescheduler.config.k8s.io/v1\"".into(),
        ),
        (json!({"profile": []}), "profile: Forbidden: unknown field".into()),
        (
            json!({"percentageOfNodesToScore": 101}),
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]".into(),
        ),
        (
            json!({"podInitialBackoffSeconds": 0}),
            "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0".into(),
        ),
        (
            json!({"podMaxBackoffSeconds": 0}),
            "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds".into(),
        ),
        (
            json!({"parallelism": 0}),
            "parallelism: Invalid value: 0: should be an integer value greater than zero".into(),
        ),
        (
            json!({"extenders": [{}]}),
            "extenders: Forbidden: this scheduler asks no extenders".into(),
        ),
        (
            json!({"profiles": [{}, {}]}),
            "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"".into(),
        ),
        (
            json!({"profiles": [{"schedulerName": ""}]}),
            "profiles[0].schedulerName: Required value".into(),
        ),
        (
            plugin("score", "enabled", json!({"name": "Coscheduling"})),
            "profiles[0].plugins.score.enabled[0].name: Invalid value: \"Coscheduling\": there is no such plugin".into(),
        ),
        (
            plugin("filter", "disabled", json!({"name": "Fit"})),
            "profiles[0].plugins.filter.disabled[0].name: Invalid value: \"Fit\": there is no such plugin".into(),
        ),
        (
            plugin("filter", "enabled", json!({"name": "NodePorts", "weight": 2})),
            "profiles[0].plugins.filter.enabled[0].weight: Forbidden: only scores have weights".into(),
        ),
        (
            plugin("multiPoint", "disabled", json!({"name": "*"})),
            "profiles[0].plugins.multiPoint.disabled: Forbidden: PrioritySort cannot be disabled: enable it again".into(),
        ),
        (
            plugin("preBind", "disabled", json!({"name": "VolumeBinding"})),
            "profiles[0].plugins.preBind: Forbidden: cannot be changed by itself here".into(),
        ),
        (
            plugin("score", "enabled", json!({"name": "NodePorts"})),
            "profiles[0].plugins.score.enabled: Invalid value: [{\"name\":\"NodePorts\"}]: plugin \"NodePorts\" does not extend score \
             plugin"
                .into(),
        ),
        (
            config("Nothing", json!({})),
            "profiles[0].pluginConfig[0].name: Invalid value: \"Nothing\": there is no plugin of this name that has arguments".into(),
        ),
        (
            config("NodeResourcesFit", json!({"kind": "VolumeBindingArgs"})),
            format!("{args}: Invalid value: {{\"kind\":\"VolumeBindingArgs\"}}: has to match plugin args"),
        ),
        (
            config("NodeResourcesFit", json!({"scoringStrategy": {"type": "Best"}})),
            format!("{args}.scoringStrategy.type: Unsupported value: \"Best\": supported values: \"LeastAllocated\""),
        ),
        (
            config("NodeResourcesFit", json!({"scoringStrategy": {"resources": [{"name": "cpu", "weight": 101}]}})),
            format!("{args}.scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not in valid range (0, 100]"),
        ),
        (
            config("NodeResourcesFit", json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}})),
            format!(
                "{args}.scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is \
                 RequestedToCapacityRatio"
            ),
        ),
        (
            config("InterPodAffinity", json!({"hardPodAffinityWeight": -1})),
            format!("{args}.hardPodAffinityWeight: Invalid value: -1: not in valid range [0, 100]"),
        ),
        (
            config("PodTopologySpread", json!({"defaultConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable":
                "ScheduleAnyway"}]})),
            format!("{args}.defaultingType: Invalid value: null: when .defaultConstraints are not empty"),
        ),
        (
            config(
                "PodTopologySpread",
                json!({"defaultingType": "List", "defaultConstraints": [{"maxSkew": 0, "topologyKey": "k",
                    "whenUnsatisfiable": "ScheduleAnyway"}]}),
            ),
            format!("{args}.defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf)"),
        ),
        (
            config("VolumeBinding", json!({"bindTimeoutSeconds": -1})),
            format!(
                "{args}.bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a negative value"
            ),
        ),
        (
            config("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]})),
            format!("{args}.resources[0].weight: Invalid value: 2: must be 1"),
        ),
    ] {
        let errors = read(&with(&value)).unwrap_err();
        let texts: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.path, error.body())).collect();
        assert!(texts.iter().any(|text| text.starts_with(&expected)), "{expected}\nis not among {texts:#?}");
    }
    assert!(read(&json!([])).is_err());
}
