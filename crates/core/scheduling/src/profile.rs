//! How nodes are scored and how many are looked at: what a KubeSchedulerConfiguration's profile says, with upstream's defaults.

use std::time::Duration;

use crate::filter::Plugins;
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

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Which pods it is for.
    pub scheduler_name: String,
    /// Whose filters run.
    pub filters: Plugins,
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
