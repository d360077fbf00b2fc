//! Arguments of plugins.
//!
//! Invariant: a plugin's arguments are of its own kind; ranges and texts are upstream's.

use std::time::Duration;

use serde::Deserialize;
use trireme_api::field::FieldErrorType;

use super::{API_VERSION, At, Errors};
use crate::pod::Constraint;
use crate::profile::{DefaultSpread, Profile, Strategy, Weighted};
use crate::selector::{NodeSelector, NodeSelectorTerm};

type Reader = fn(&At<'_>, &mut Profile, &mut Errors);

/// Plugins that have arguments, with the other keys of those.
const ARGUMENTS: [(&str, &[&str], Reader); 7] = [
    (
        "NodeResourcesFit",
        &["ignoredResources", "ignoredResourceGroups", "scoringStrategy"],
        fit,
    ),
    ("NodeResourcesBalancedAllocation", &["resources"], balanced),
    ("PodTopologySpread", &["defaultingType", "defaultConstraints"], spread),
    (
        "InterPodAffinity",
        &["hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"],
        pod_affinity,
    ),
    ("NodeAffinity", &["addedAffinity"], node_affinity),
    (
        "DefaultPreemption",
        &["minCandidateNodesPercentage", "minCandidateNodesAbsolute"],
        preemption,
    ),
    ("VolumeBinding", &["bindTimeoutSeconds", "shape"], volume_binding),
];

/// Reads one item of `pluginConfig`.
pub(super) fn read(name: &str, config: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let Some((_, keys, reader)) = ARGUMENTS.iter().find(|(known, ..)| *known == name) else {
        errors.push(
            config
                .field("name")
                .invalid("there is no plugin of this name that has arguments"),
        );
        return;
    };
    let args = config.field("args");
    if args.is_absent() {
        return;
    }
    args.check_keys(&[&["apiVersion", "kind"], *keys].concat(), errors);
    let (version, kind) = (args.field("apiVersion"), args.field("kind"));
    let right = (version.is_absent() || version.value == API_VERSION)
        && (kind.is_absent() || kind.text(errors).strip_suffix("Args") == Some(name));
    if right {
        reader(&args, profile, errors);
    } else {
        errors.push(args.invalid("has to match plugin args"));
    }
}

fn in_range(at: &At<'_>, default: i64, (least, most): (i64, i64), errors: &mut Errors) -> i64 {
    let number = at.number(errors).unwrap_or(default);
    if !(least..=most).contains(&number) {
        errors.push(at.invalid(format!("not in valid range [{least}, {most}]")));
    }
    number
}

fn resources(at: &At<'_>, errors: &mut Errors) -> Vec<Weighted> {
    let mut all: Vec<Weighted> = Vec::new();
    for item in at.items(errors) {
        item.check_keys(&["name", "weight"], errors);
        let name = item.field("name").text(errors);
        // As upstream, no weight is one.
        let weight = item.field("weight").number(errors).filter(|weight| *weight != 0).unwrap_or(1);
        all.push(Weighted {
            name: name.to_owned(),
            weight,
        });
    }
    all
}

fn fit(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let mut texts = |field: &str| -> Vec<String> {
        let items = args.field(field).items(errors);
        items.iter().map(|item| item.text(errors).to_owned()).collect()
    };
    profile.ignored_resources = texts("ignoredResources");
    profile.ignored_resource_groups = texts("ignoredResourceGroups");
    for item in args.field("ignoredResourceGroups").items(errors) {
        if item.text(errors).contains('/') {
            errors.push(item.invalid("resource group name can't contain '/'"));
        }
    }
    let strategy = args.field("scoringStrategy");
    if strategy.is_absent() {
        return;
    }
    strategy.check_keys(&["type", "resources", "requestedToCapacityRatio"], errors);
    let given = strategy.field("resources");
    let weighted = resources(&given, errors);
    for (item, resource) in given.items(errors).iter().zip(&weighted) {
        if !(1..=100).contains(&resource.weight) {
            let detail = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            errors.push(item.field("weight").invalid(detail));
        }
    }
    if !weighted.is_empty() {
        profile.fit_resources = weighted;
    }
    let ratio = strategy.field("requestedToCapacityRatio");
    let kind = strategy.field("type");
    let ratio_wanted = kind.value == "RequestedToCapacityRatio";
    match kind.text(errors) {
        "" | "LeastAllocated" => profile.strategy = Strategy::LeastAllocated,
        "MostAllocated" => profile.strategy = Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            ratio.check_keys(&["shape"], errors);
            if ratio.is_absent() {
                errors.push(ratio.required("must be specified when type is RequestedToCapacityRatio"));
            } else {
                profile.strategy = Strategy::RequestedToCapacityRatio(shape(&ratio.field("shape"), errors));
            }
        }
        _ => errors.push(kind.error(
            FieldErrorType::NotSupported,
            "supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
        )),
    }
    if !ratio_wanted && !ratio.is_absent() {
        errors.push(ratio.forbidden("must be nil when type is not RequestedToCapacityRatio"));
    }
}

fn shape(at: &At<'_>, errors: &mut Errors) -> Vec<(i64, i64)> {
    let items = at.items(errors);
    if items.is_empty() {
        errors.push(at.required("at least one point must be specified"));
    }
    let mut points: Vec<(i64, i64)> = Vec::new();
    let mut sorted = true;
    for item in items {
        item.check_keys(&["utilization", "score"], errors);
        let use_of = item.field("utilization");
        let point = (
            in_range(&use_of, 0, (0, 100), errors),
            in_range(&item.field("score"), 0, (0, 10), errors),
        );
        if sorted && points.last().is_some_and(|before| before.0 >= point.0) {
            sorted = false;
            errors.push(use_of.invalid("values must be sorted in increasing order"));
        }
        points.push(point);
    }
    points
}

fn balanced(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let given = args.field("resources");
    let weighted = resources(&given, errors);
    for (at, item) in given.items(errors).iter().enumerate() {
        if weighted[..at].iter().any(|known| known.name == weighted[at].name) {
            errors.push(item.field("name").error(FieldErrorType::Duplicate, ""));
        }
        if weighted[at].weight != 1 {
            errors.push(item.field("weight").invalid("must be 1"));
        }
    }
    if !weighted.is_empty() {
        profile.balanced_resources = weighted;
    }
}

fn spread(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let given = args.field("defaultConstraints");
    let kind = args.field("defaultingType");
    let items = given.items(errors);
    match kind.text(errors) {
        "" | "System" if items.is_empty() => {
            profile.default_spread = DefaultSpread::System;
            return;
        }
        // As upstream, only who says so has a list.
        "" | "System" => errors.push(kind.invalid("when .defaultConstraints are not empty")),
        "List" => {}
        _ => errors.push(kind.error(FieldErrorType::NotSupported, "supported values: \"List\", \"System\"")),
    }
    let mut all: Vec<Constraint> = Vec::new();
    for item in &items {
        let keys = [
            "maxSkew",
            "topologyKey",
            "whenUnsatisfiable",
            "minDomains",
            "nodeAffinityPolicy",
            "nodeTaintsPolicy",
            "labelSelector",
            "matchLabelKeys",
        ];
        item.check_keys(&keys, errors);
        let constraint = constraint(item, errors);
        let same = |known: &&Constraint| known.topology_key == constraint.topology_key && known.hard == constraint.hard;
        if all.iter().find(same).is_some() {
            let mut error = item.error(FieldErrorType::Duplicate, "");
            let kind = item.field("whenUnsatisfiable").text(errors);
            error.value = format!("\"{{{}, {kind}}}\"", constraint.topology_key);
            errors.push(error);
        }
        all.push(constraint);
    }
    profile.default_spread = DefaultSpread::List(all);
}

fn constraint(item: &At<'_>, errors: &mut Errors) -> Constraint {
    let skew = item.field("maxSkew");
    let skew_max = skew.number(errors).unwrap_or_default();
    if skew_max <= 0 {
        errors.push(skew.invalid("not in valid range (0, inf)"));
    }
    let (key, when) = (item.field("topologyKey"), item.field("whenUnsatisfiable"));
    for required in [&key, &when] {
        if required.text(errors).is_empty() {
            errors.push(required.required("can not be empty"));
        }
    }
    if !matches!(when.text(errors), "" | "DoNotSchedule" | "ScheduleAnyway") {
        let detail = "supported values: \"DoNotSchedule\", \"ScheduleAnyway\"";
        errors.push(when.error(FieldErrorType::NotSupported, detail));
    }
    for forbidden in ["labelSelector", "matchLabelKeys"] {
        let field = item.field(forbidden);
        if !field.is_absent() {
            errors.push(field.forbidden("constraint must not define a selector, as they deduced for each pod"));
        }
    }
    Constraint {
        skew_max,
        topology_key: key.text(errors).to_owned(),
        hard: when.value == "DoNotSchedule",
        selector: None,
        domains_min: usize::try_from(item.field("minDomains").number(errors).unwrap_or(1)).unwrap_or(1),
        honours_affinity: item.field("nodeAffinityPolicy").text(errors) != "Ignore",
        honours_taints: item.field("nodeTaintsPolicy").text(errors) == "Honor",
    }
}

fn pod_affinity(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    profile.hard_pod_affinity_weight = in_range(&args.field("hardPodAffinityWeight"), 1, (0, 100), errors);
    profile.ignores_preferences_of_others = args.field("ignorePreferredTermsOfExistingPods").flag(errors);
}

/// A preferred term as configured.
#[derive(Deserialize)]
struct Preferred {
    weight: i64,
    preference: NodeSelectorTerm,
}

fn node_affinity(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let added = args.field("addedAffinity");
    let keys = [
        "requiredDuringSchedulingIgnoredDuringExecution",
        "preferredDuringSchedulingIgnoredDuringExecution",
    ];
    added.check_keys(&keys, errors);
    let [required, preferred] = keys.map(|key| added.field(key));
    match Option::<NodeSelector>::deserialize(required.value) {
        Ok(selector) => profile.added_required = selector,
        Err(error) => errors.push(required.invalid(error.to_string())),
    }
    match Option::<Vec<Preferred>>::deserialize(preferred.value) {
        Ok(terms) => {
            let terms = terms.unwrap_or_default().into_iter();
            profile.added_preferred = terms.map(|term| (term.weight, term.preference)).collect();
        }
        Err(error) => errors.push(preferred.invalid(error.to_string())),
    }
}

fn preemption(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let (percent, least) = (
        args.field("minCandidateNodesPercentage"),
        args.field("minCandidateNodesAbsolute"),
    );
    let of_percent = in_range(&percent, 10, (0, 100), errors);
    let absolute = least.number(errors).unwrap_or(100);
    if absolute < 0 {
        errors.push(least.invalid("not in valid range [0, inf)"));
    }
    if of_percent == 0 && absolute == 0 {
        errors.push(percent.invalid("cannot be zero at the same time as minCandidateNodesAbsolute"));
        errors.push(least.invalid("cannot be zero at the same time as minCandidateNodesPercentage"));
    }
    profile.candidates_percent = usize::try_from(of_percent).unwrap_or_default();
    profile.candidates_min = usize::try_from(absolute).unwrap_or_default();
}

fn volume_binding(args: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let timeout = args.field("bindTimeoutSeconds");
    match u64::try_from(timeout.number(errors).unwrap_or(600)) {
        Ok(seconds) => profile.bind_timeout = Duration::from_secs(seconds),
        Err(_) => errors.push(timeout.invalid("invalid BindTimeoutSeconds, should not be a negative value")),
    }
    let shape = args.field("shape");
    if !shape.is_absent() {
        let detail = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
        errors.push(shape.invalid(detail));
    }
}
