//! How nodes are scored and how many are looked at: what a KubeSchedulerConfiguration's profile says, with upstream's defaults.

use std::time::Duration;

use crate::filter::Plugins;
use crate::pod::Constraint;
use crate::selector::{NodeSelector, NodeSelectorTerm};

/// What a node's use counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier the better.
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// By points of utilisation (0 to 100) and score (0 to 10), between which it is a straight line.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A resource's weight in a score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Name.
    pub name: String,
    /// Weight.
    pub weight: i64,
}

/// What the scores of plugins count for; none where one does not score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// TaintToleration.
    pub taints: i64,
    /// NodeAffinity.
    pub node_affinity: i64,
    /// NodeResourcesFit.
    pub fit: i64,
    /// PodTopologySpread.
    pub spread: i64,
    /// InterPodAffinity.
    pub pod_affinity: i64,
    /// NodeResourcesBalancedAllocation.
    pub balanced: i64,
    /// ImageLocality.
    pub images: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            taints: 3,
            node_affinity: 2,
            fit: 1,
            spread: 2,
            pod_affinity: 2,
            balanced: 1,
            images: 1,
        }
    }
}

/// How pods without constraints of their own are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultSpread {
    /// Softly over hosts and zones.
    #[default]
    System,
    /// By these, whose selectors are those of the pods' Services and controllers.
    List(Vec<Constraint>),
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Which pods it is for.
    pub scheduler_name: String,
    /// Whose filters run.
    pub filters: Plugins,
    /// What scores count for.
    pub weights: Weights,
    /// Whether less important pods may be removed.
    pub preempts: bool,
    /// Of NodeResourcesFit: extended resources that are not looked at.
    pub ignored_resources: Vec<String>,
    /// Of NodeResourcesFit: what stands before the slash of further ones.
    pub ignored_resource_groups: Vec<String>,
    /// Of NodeResourcesFit.
    pub strategy: Strategy,
    /// Of NodeResourcesFit.
    pub fit_resources: Vec<Weighted>,
    /// Of NodeResourcesBalancedAllocation.
    pub balanced_resources: Vec<Weighted>,
    /// Percentage of nodes to find; none: it falls with their number.
    pub nodes_percent: Option<usize>,
    /// What an existing pod's required affinity is worth in the score of InterPodAffinity.
    pub hard_pod_affinity_weight: i64,
    /// Whether a pod without preferences about other pods is not drawn by theirs.
    pub ignores_preferences_of_others: bool,
    /// Of PodTopologySpread.
    pub default_spread: DefaultSpread,
    /// Of DefaultPreemption: of how many percent of the nodes, and of how many at least, the best is taken.
    pub candidates_percent: usize,
    /// The least number.
    pub candidates_min: usize,
    /// Of VolumeBinding: how long a pod waits for its volumes.
    pub bind_timeout: Duration,
    /// `addedAffinity` of NodeAffinity, required.
    pub added_required: Option<NodeSelector>,
    /// `addedAffinity` of NodeAffinity, preferred, with weights.
    pub added_preferred: Vec<(i64, NodeSelectorTerm)>,
}

impl Default for Profile {
    fn default() -> Self {
        let both = || {
            ["cpu", "memory"].map(|name| Weighted {
                name: name.to_owned(),
                weight: 1,
            })
        };
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            filters: Plugins::ALL,
            weights: Weights::default(),
            preempts: true,
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
            ignores_preferences_of_others: false,
            default_spread: DefaultSpread::System,
            candidates_percent: 10,
            candidates_min: 100,
            strategy: Strategy::LeastAllocated,
            fit_resources: both().into(),
            balanced_resources: both().into(),
            nodes_percent: None,
            hard_pod_affinity_weight: 1,
            bind_timeout: Duration::from_secs(600),
            added_required: None,
            added_preferred: Vec::new(),
        }
    }
}

/// With fewer nodes all are looked at, and at least so many are found.
const FOUND_MIN: usize = 100;
/// The least percentage of a large cluster.
const PERCENT_MIN: usize = 5;

impl Profile {
    /// Whether it does not look at a resource: only extended ones can be left out.
    #[must_use]
    pub fn ignores(&self, resource: &str) -> bool {
        if self.ignored_resources.is_empty() && self.ignored_resource_groups.is_empty() {
            return false;
        }
        let Some((group, _)) = resource.split_once('/') else {
            return false;
        };
        let native = group == "kubernetes.io" || group.ends_with(".kubernetes.io");
        !native
            && (self.ignored_resources.iter().any(|ignored| ignored == resource)
                || self.ignored_resource_groups.iter().any(|ignored| ignored == group))
    }

    /// After how many suitable nodes no further ones are looked for.
    #[must_use]
    pub fn nodes_to_find(&self, nodes: usize) -> usize {
        if nodes < FOUND_MIN {
            return nodes;
        }
        let percent = self.nodes_percent.filter(|percent| *percent > 0);
        let percent = percent.unwrap_or_else(|| 50_usize.saturating_sub(nodes / 125).max(PERCENT_MIN));
        (nodes * percent / 100).max(FOUND_MIN)
    }
}
