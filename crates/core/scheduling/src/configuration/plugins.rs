//! Which plugins of a profile run, and what their scores weigh.
//!
//! Invariant: [`PLUGINS`] is the one table of what there is; a name that is not in it is refused.

use super::{At, Errors};
use crate::filter::Plugins;
use crate::profile::{Profile, Weights};

/// A plugin that there is.
struct Plugin {
    name: &'static str,
    /// Its filter; none: it filters nothing.
    filter: Plugins,
    /// Where its weight stands; none: it scores nothing.
    weight: Option<fn(&mut Weights) -> &mut i64>,
}

const fn plugin(name: &'static str, filter: Plugins, weight: Option<fn(&mut Weights) -> &mut i64>) -> Plugin {
    Plugin { name, filter, weight }
}

/// Upstream's default plugins, in its order.
const PLUGINS: [Plugin; 18] = [
    plugin("SchedulingGates", Plugins::NONE, None),
    plugin("PrioritySort", Plugins::NONE, None),
    plugin("NodeUnschedulable", Plugins::UNSCHEDULABLE, None),
    plugin("NodeName", Plugins::NODE_NAME, None),
    plugin("TaintToleration", Plugins::TAINTS, Some(|weights| &mut weights.taints)),
    plugin(
        "NodeAffinity",
        Plugins::NODE_AFFINITY,
        Some(|weights| &mut weights.node_affinity),
    ),
    plugin("NodePorts", Plugins::PORTS, None),
    plugin("NodeResourcesFit", Plugins::FIT, Some(|weights| &mut weights.fit)),
    plugin("VolumeRestrictions", Plugins::VOLUME_RESTRICTIONS, None),
    plugin("NodeVolumeLimits", Plugins::VOLUME_LIMITS, None),
    plugin("VolumeBinding", Plugins::VOLUME_BINDING, None),
    plugin("VolumeZone", Plugins::VOLUME_ZONE, None),
    plugin("PodTopologySpread", Plugins::SPREAD, Some(|weights| &mut weights.spread)),
    plugin(
        "InterPodAffinity",
        Plugins::POD_AFFINITY,
        Some(|weights| &mut weights.pod_affinity),
    ),
    plugin(PREEMPTION, Plugins::NONE, None),
    plugin(
        "NodeResourcesBalancedAllocation",
        Plugins::NONE,
        Some(|weights| &mut weights.balanced),
    ),
    plugin("ImageLocality", Plugins::NONE, Some(|weights| &mut weights.images)),
    plugin("DefaultBinder", Plugins::NONE, None),
];

const PREEMPTION: &str = "DefaultPreemption";
/// Without these no pod would be taken or bound.
const INDISPENSABLE: [&str; 3] = ["SchedulingGates", "PrioritySort", "DefaultBinder"];
/// Upstream's others: they may be disabled, for they do not run.
const ABSENT: [&str; 5] = [
    "DynamicResources",
    "NodeDeclaredFeatures",
    "GangScheduling",
    "TopologyPlacementGenerator",
    "PodGroupPodsCount",
];
/// Stands for all plugins.
const ALL: &str = "*";

/// Extension points that a plugin is in or not by itself; they follow `multiPoint`, `filter` and `score`.
const OTHER_POINTS: [&str; 12] = [
    "preEnqueue",
    "queueSort",
    "preFilter",
    "preScore",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
    "placementGenerate",
    "placementScore",
    "sign",
];

/// What one extension point says.
struct Set<'a> {
    enabled: Vec<(&'a str, Option<i64>)>,
    disabled: Vec<&'a str>,
}

impl<'a> Set<'a> {
    fn read(at: &At<'a>, weighs: bool, errors: &mut Errors) -> Self {
        at.check_keys(&["enabled", "disabled"], errors);
        let mut set = Self {
            enabled: Vec::new(),
            disabled: Vec::new(),
        };
        for plugin in at.field("enabled").items(errors) {
            plugin.check_keys(&["name", "weight"], errors);
            let (name, weight) = (plugin.field("name"), plugin.field("weight"));
            let text = name.text(errors);
            if ABSENT.contains(&text) {
                errors.push(name.invalid("this scheduler does not have the plugin"));
            } else if !PLUGINS.iter().any(|plugin| plugin.name == text) {
                errors.push(name.invalid("there is no such plugin"));
            }
            if set.enabled.iter().any(|(known, _)| *known == text) {
                errors.push(name.invalid("is enabled twice"));
            }
            let number = weight.number(errors);
            if number.is_some_and(|number| !(0..=i64::from(i32::MAX) / 100).contains(&number)) {
                errors.push(weight.invalid("must be between 0 and 21474836"));
            }
            if number.is_some() && !weighs {
                errors.push(weight.forbidden("only scores have weights"));
            }
            // As upstream, no weight is the least: whoever wants none disables the plugin.
            set.enabled.push((text, number.map(|number| number.max(1))));
        }
        for plugin in at.field("disabled").items(errors) {
            plugin.check_keys(&["name", "weight"], errors);
            let name = plugin.field("name");
            let text = name.text(errors);
            if text != ALL && !ABSENT.contains(&text) && !PLUGINS.iter().any(|plugin| plugin.name == text) {
                errors.push(name.invalid("there is no such plugin"));
            }
            set.disabled.push(text);
        }
        set
    }

    /// What is said of a plugin: its weight where it is enabled, `false` where it is disabled; none: nothing.
    fn says(&self, name: &str) -> Option<Result<Option<i64>, ()>> {
        if let Some((_, weight)) = self.enabled.iter().find(|(enabled, _)| *enabled == name) {
            return Some(Ok(*weight));
        }
        let disabled = self.disabled.iter().any(|disabled| *disabled == name || *disabled == ALL);
        disabled.then_some(Err(()))
    }
}

/// Reads `plugins`.
pub(super) fn read(at: &At<'_>, profile: &mut Profile, errors: &mut Errors) {
    let points = ["multiPoint", "filter", "postFilter", "score"];
    at.check_keys(&[&points[..], &OTHER_POINTS[..]].concat(), errors);
    for point in OTHER_POINTS {
        let point = at.field(point);
        if !point.is_absent() {
            errors.push(point.forbidden(
                "cannot be changed by itself here; enable or disable a plugin under multiPoint, filter, postFilter or score",
            ));
        }
    }
    let multi = Set::read(&at.field("multiPoint"), true, errors);
    let filter = Set::read(&at.field("filter"), false, errors);
    let after = Set::read(&at.field("postFilter"), false, errors);
    let score = Set::read(&at.field("score"), true, errors);
    let defaults = profile.weights.clone();
    for plugin in &PLUGINS {
        // What an extension point says of a plugin goes before what is said for all of them.
        let everywhere = multi.says(plugin.name);
        let runs = |point: &Set<'_>| point.says(plugin.name).or(everywhere).is_none_or(|said| said.is_ok());
        if !runs(&filter) {
            profile.filters = profile.filters.without(plugin.filter);
        }
        if let Some(weight) = plugin.weight {
            let mut default = defaults.clone();
            let new = match score.says(plugin.name).or(everywhere) {
                None => *weight(&mut default),
                Some(Ok(given)) => given.unwrap_or(1),
                Some(Err(())) => 0,
            };
            *weight(&mut profile.weights) = new;
        }
        if plugin.name == PREEMPTION {
            profile.preempts = runs(&after);
        }
        if INDISPENSABLE.contains(&plugin.name) && everywhere == Some(Err(())) {
            let disabled = at.field("multiPoint").field("disabled");
            errors.push(disabled.forbidden(format!("{} cannot be disabled: enable it again", plugin.name)));
        }
    }
    for (point, set) in [("filter", &filter), ("score", &score), ("postFilter", &after)] {
        for (name, _) in &set.enabled {
            let known = PLUGINS.iter().find(|plugin| plugin.name == *name);
            let has = known.is_none_or(|plugin| match point {
                "filter" => plugin.filter != Plugins::NONE,
                "score" => plugin.weight.is_some(),
                _ => plugin.name == PREEMPTION,
            });
            if !has {
                let enabled = at.field(point).field("enabled");
                errors.push(enabled.invalid(format!("plugin \"{name}\" does not extend {point} plugin")));
            }
        }
    }
}
