//! Reading objects' JSON: only the fields that placement depends on, and none of them required.
//!
//! Invariant: `null` and an absent field are the same everywhere, so that no object that another client wrote hides from the
//! scheduler. What is read is turned into the small records of [`crate::pod`] and [`crate::node`] at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::selector::{LabelSelector, NodeSelector, NodeSelectorTerm};

/// Text of a quantity: JSON has it as a string or as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount(pub(crate) String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Self(text),
            serde_json::Value::Null => Self::default(),
            other => Self(other.to_string()),
        })
    }
}

pub(crate) type Amounts = BTreeMap<String, Amount>;

pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! views {
    ($($(#[$attribute:meta])* $name:ident { $($(#[$on:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct $name {
            $($(#[$on])* #[serde(deserialize_with = "nullable")] pub(crate) $field: $type,)*
        }
    )*};
}

views! {
    Meta {
        name: String,
        namespace: String,
        uid: String,
        generation: Option<i64>,
        labels: BTreeMap<String, String>,
        resource_version: String,
        deletion_timestamp: Option<String>,
        owner_references: Vec<OwnerView>,
    }
    OwnerView {
        api_version: String,
        kind: String,
        name: String,
        controller: bool,
    }
    PodView {
        metadata: Meta,
        spec: PodSpecView,
        status: PodStatusView,
    }
    PodSpecView {
        node_name: String,
        scheduler_name: String,
        priority: i32,
        preemption_policy: String,
        host_network: bool,
        containers: Vec<ContainerView>,
        init_containers: Vec<ContainerView>,
        overhead: Amounts,
        resources: RequirementsView,
        node_selector: BTreeMap<String, String>,
        affinity: AffinityView,
        tolerations: Vec<TolerationView>,
        topology_spread_constraints: Vec<SpreadView>,
        scheduling_gates: Vec<serde::de::IgnoredAny>,
        volumes: Vec<VolumeView>,
    }
    VolumeView {
        name: String,
        image: Option<ImageVolumeView>,
        persistent_volume_claim: Option<ClaimSourceView>,
        ephemeral: Option<serde::de::IgnoredAny>,
        gce_persistent_disk: Option<GceDiskView>,
        aws_elastic_block_store: Option<AwsDiskView>,
        iscsi: Option<IscsiView>,
        rbd: Option<RbdView>,
    }
    GceDiskView {
        pd_name: String,
        read_only: bool,
    }
    AwsDiskView {
        #[serde(rename = "volumeID")]
        volume_id: String,
    }
    IscsiView {
        iqn: String,
        read_only: bool,
    }
    RbdView {
        monitors: Vec<String>,
        pool: String,
        image: String,
        read_only: bool,
    }
    ImageVolumeView {
        reference: String,
    }
    ClaimSourceView {
        claim_name: String,
    }
    ContainerView {
        image: String,
        restart_policy: String,
        resources: RequirementsView,
        ports: Vec<PortView>,
    }
    RequirementsView {
        requests: Amounts,
    }
    PortView {
        container_port: i32,
        host_port: i32,
        #[serde(rename = "hostIP")]
        host_ip: String,
        protocol: String,
    }
    #[derive(PartialEq, Eq, Hash)]
    TolerationView {
        key: String,
        operator: String,
        value: String,
        effect: String,
    }
    AffinityView {
        node_affinity: NodeAffinityView,
        pod_affinity: PodAffinityView,
        pod_anti_affinity: PodAffinityView,
    }
    NodeAffinityView {
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
        required: Option<NodeSelector>,
        #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
        preferred: Vec<PreferredNodeView>,
    }
    PreferredNodeView {
        weight: i32,
        preference: NodeSelectorTerm,
    }
    PodAffinityView {
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
        required: Vec<TermView>,
        #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
        preferred: Vec<WeightedTermView>,
    }
    TermView {
        label_selector: Option<LabelSelector>,
        namespaces: Vec<String>,
        namespace_selector: Option<LabelSelector>,
        topology_key: String,
    }
    WeightedTermView {
        weight: i32,
        pod_affinity_term: TermView,
    }
    SpreadView {
        max_skew: i32,
        topology_key: String,
        when_unsatisfiable: String,
        label_selector: Option<LabelSelector>,
        min_domains: Option<i32>,
        node_affinity_policy: String,
        node_taints_policy: String,
        match_label_keys: Vec<String>,
    }
    PodStatusView {
        phase: String,
        nominated_node_name: String,
        start_time: String,
        conditions: Vec<ConditionView>,
    }
    ConditionView {
        #[serde(rename = "type")]
        kind: String,
        status: String,
        reason: String,
    }
    NodeView {
        metadata: Meta,
        spec: NodeSpecView,
        status: NodeStatusView,
    }
    NodeSpecView {
        unschedulable: bool,
        taints: Vec<TaintView>,
    }
    #[derive(PartialEq, Eq, Hash)]
    TaintView {
        key: String,
        value: String,
        effect: String,
    }
    NodeStatusView {
        allocatable: Amounts,
        images: Vec<ImageView>,
    }
    ImageView {
        names: Vec<String>,
        size_bytes: i64,
    }
    BudgetView {
        metadata: Meta,
        spec: BudgetSpecView,
        status: BudgetStatusView,
    }
    BudgetSpecView {
        selector: Option<LabelSelector>,
    }
    BudgetStatusView {
        disruptions_allowed: i32,
        disrupted_pods: BTreeMap<String, serde::de::IgnoredAny>,
    }
    SelectingView {
        metadata: Meta,
        spec: SelectingSpecView,
    }
    SelectingSpecView {
        selector: Option<serde_json::Value>,
    }
    ClassView {
        provisioner: String,
        volume_binding_mode: String,
        allowed_topologies: Vec<TopologyTermView>,
    }
    TopologyTermView {
        match_label_expressions: Vec<TopologyRequirementView>,
    }
    TopologyRequirementView {
        key: String,
        values: Vec<String>,
    }
    CsiNodeView {
        spec: CsiNodeSpecView,
    }
    CsiNodeSpecView {
        drivers: Vec<CsiNodeDriverView>,
    }
    CsiNodeDriverView {
        name: String,
        allocatable: CsiAllocatableView,
    }
    CsiAllocatableView {
        count: Option<i64>,
    }
    CsiDriverView {
        spec: CsiDriverSpecView,
    }
    CsiDriverSpecView {
        storage_capacity: bool,
    }
    CapacityView {
        storage_class_name: String,
        node_topology: Option<LabelSelector>,
        capacity: Option<Amount>,
        maximum_volume_size: Option<Amount>,
    }
    AttachmentView {
        spec: AttachmentSpecView,
    }
    AttachmentSpecView {
        attacher: String,
        node_name: String,
        source: AttachmentSourceView,
    }
    AttachmentSourceView {
        persistent_volume_name: String,
    }
}
