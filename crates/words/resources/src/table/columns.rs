//! Columns per resource, as data.
//!
//! Invariant: names, types, formats and priorities are upstream's; the descriptions are our own. Where upstream describes a
//! column by a field, the column names the field (`of`), and whoever knows upstream's words puts them in place of ours.

use super::{Column, Source};
use crate::rows::Resource;

const META: &str = "apimachinery/pkg/apis/meta/v1";
const CORE: &str = "api/core/v1";
const APPS: &str = "api/apps/v1";
const BATCH: &str = "api/batch/v1";
const AUTOSCALING: &str = "api/autoscaling/v2";
const SCALE: &str = "api/autoscaling/v1";
const NETWORKING: &str = "api/networking/v1";
const DISCOVERY: &str = "api/discovery/v1";
const RBAC: &str = "api/rbac/v1";
const CERTIFICATES: &str = "api/certificates/v1";
const COORDINATION: &str = "api/coordination/v1";
const STORAGE: &str = "api/storage/v1";
const SCHEDULING: &str = "api/scheduling/v1";
const FLOWCONTROL: &str = "api/flowcontrol/v1";
const RESOURCE: &str = "api/resource/v1";

const fn column(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    Column {
        name,
        type_,
        format: "",
        description,
        from: None,
        priority: 0,
    }
}

impl Column {
    /// The column, described as this field is.
    const fn of(self, package: &'static str, name: &'static str, field: &'static str) -> Self {
        let source = Source {
            package,
            name,
            field,
            all_but_last_sentence: false,
        };
        Self {
            from: Some(source),
            ..self
        }
    }
}

const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", description)
}

const fn count(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", description)
}

const fn flag(name: &'static str, description: &'static str) -> Column {
    column(name, "boolean", description)
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        priority: 1,
        ..text(name, description)
    }
}

const NAME: Column = Column {
    format: "name",
    ..text("Name", "Name of the object, unique among its kind in its namespace.").of(META, "ObjectMeta", "name")
};
const AGE: Column = text("Age", "Time since the object was created.").of(META, "ObjectMeta", "creationTimestamp");
const CREATED: Column = column("Created At", "date", "When the object was created.").of(META, "ObjectMeta", "creationTimestamp");
const CONTAINERS: Column = wide("Containers", "Names of the containers in the pod template.");
const IMAGES: Column = wide("Images", "Images of the containers in the pod template.");
const SELECTOR: Column = wide("Selector", "Labels by which pods are chosen.");

pub(super) fn scale() -> Vec<Column> {
    vec![
        Column { format: "", ..NAME },
        count("Desired", "Pods wanted.").of(SCALE, "ScaleSpec", "replicas"),
        count("Available", "Pods there are.").of(SCALE, "ScaleStatus", "replicas"),
        AGE,
    ]
}

fn replicas(package: &'static str, spec: &'static str, status: &'static str) -> Vec<Column> {
    vec![
        NAME,
        count("Desired", "Pods wanted.").of(package, spec, "replicas"),
        count("Current", "Pods there are.").of(package, status, "replicas"),
        count("Ready", "Pods that are ready.").of(package, status, "readyReplicas"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR.of(package, spec, "selector"),
    ]
}

fn role_binding(name: &'static str) -> Vec<Column> {
    // Upstream quotes v1beta1, which had one sentence less.
    let role = Source {
        package: RBAC,
        name,
        field: "roleRef",
        all_but_last_sentence: true,
    };
    vec![
        NAME,
        Column {
            from: Some(role),
            ..text("Role", "Role that is granted.")
        },
        AGE,
        wide("Users", "Users that have it."),
        wide("Groups", "Groups that have it."),
        wide("ServiceAccounts", "Service accounts that have it."),
    ]
}

/// What every resource has.
pub(super) const COMMON: &[Column] = &[NAME, CREATED];

pub(super) fn of(row: &Resource) -> Vec<Column> {
    match (row.group, row.plural) {
        ("", "pods") => vec![
            NAME,
            text("Ready", "Ready containers out of all."),
            text("Status", "State of the pod in one word."),
            text("Restarts", "How often containers were restarted, and when last."),
            AGE,
            wide("IP", "First address of the pod.").of(CORE, "PodStatus", "podIP"),
            wide("Node", "Node that the pod is bound to.").of(CORE, "PodSpec", "nodeName"),
            wide("Nominated Node", "Node on which room is being made for the pod.").of(CORE, "PodStatus", "nominatedNodeName"),
            wide("Readiness Gates", "Fulfilled readiness gates out of all.").of(CORE, "PodSpec", "readinessGates"),
        ],
        ("", "podtemplates") => vec![
            NAME,
            text("Containers", "Names of the containers."),
            text("Images", "Images of the containers."),
            text("Pod Labels", "Labels of the pods to be made."),
        ],
        ("policy", "poddisruptionbudgets") => vec![
            NAME,
            text("Min Available", "Pods that must stay up, as a number or share."),
            text("Max Unavailable", "Pods that may be down, as a number or share."),
            count("Allowed Disruptions", "Evictions that are allowed now."),
            AGE,
        ],
        ("", "replicationcontrollers") => replicas(CORE, "ReplicationControllerSpec", "ReplicationControllerStatus"),
        ("apps", "replicasets") => replicas(APPS, "ReplicaSetSpec", "ReplicaSetStatus"),
        ("apps", "daemonsets") => vec![
            NAME,
            count("Desired", "Nodes that should run the pod.").of(APPS, "DaemonSetStatus", "desiredNumberScheduled"),
            count("Current", "Nodes that run the pod.").of(APPS, "DaemonSetStatus", "currentNumberScheduled"),
            count("Ready", "Nodes whose pod is ready.").of(APPS, "DaemonSetStatus", "numberReady"),
            count("Up-to-date", "Nodes that run the newest template.").of(APPS, "DaemonSetStatus", "updatedNumberScheduled"),
            count("Available", "Nodes whose pod is available.").of(APPS, "DaemonSetStatus", "numberAvailable"),
            text("Node Selector", "Labels that a node must have.").of(CORE, "PodSpec", "nodeSelector"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR.of(APPS, "DaemonSetSpec", "selector"),
        ],
        ("apps", "deployments") => vec![
            NAME,
            text("Ready", "Ready pods out of those wanted."),
            text("Up-to-date", "Pods of the newest template.").of(APPS, "DeploymentStatus", "updatedReplicas"),
            text("Available", "Pods that have been ready for long enough.").of(APPS, "DeploymentStatus", "availableReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR.of(APPS, "DeploymentSpec", "selector"),
        ],
        ("apps", "statefulsets") => vec![
            NAME,
            text("Ready", "Ready pods out of those wanted."),
            AGE,
            CONTAINERS,
            IMAGES,
        ],
        ("apps", "controllerrevisions") => vec![
            NAME,
            text("Controller", "Object that the revision belongs to."),
            text("Revision", "Number of the revision.").of(APPS, "ControllerRevision", "revision"),
            AGE,
        ],
        ("batch", "jobs") => vec![
            NAME,
            text("Status", "State of the job in one word."),
            text("Completions", "Succeeded pods out of those wanted.").of(BATCH, "JobStatus", "succeeded"),
            text("Duration", "Time that the job took or has taken so far."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR.of(BATCH, "JobSpec", "selector"),
        ],
        ("batch", "cronjobs") => vec![
            NAME,
            text("Schedule", "When to run, in cron form.").of(BATCH, "CronJobSpec", "schedule"),
            text("Timezone", "Time zone of the schedule.").of(BATCH, "CronJobSpec", "timeZone"),
            flag("Suspend", "Whether no further jobs are started.").of(BATCH, "CronJobSpec", "suspend"),
            count("Active", "Jobs that run now.").of(BATCH, "CronJobStatus", "active"),
            text("Last Schedule", "Time since a job was last started.").of(BATCH, "CronJobStatus", "lastScheduleTime"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR.of(BATCH, "JobSpec", "selector"),
        ],
        ("", "services") => vec![
            NAME,
            text("Type", "How the service is reached.").of(CORE, "ServiceSpec", "type"),
            text("Cluster-IP", "First address inside the cluster.").of(CORE, "ServiceSpec", "clusterIP"),
            text("External-IP", "Addresses from outside.").of(CORE, "ServiceSpec", "externalIPs"),
            text("Port(s)", "Ports, with the node's port after a colon.").of(CORE, "ServiceSpec", "ports"),
            AGE,
            SELECTOR.of(CORE, "ServiceSpec", "selector"),
        ],
        ("networking.k8s.io", "ingresses") => vec![
            NAME,
            text("Class", "Ingress class."),
            text("Hosts", "Host names that are routed."),
            text("Address", "Addresses of the load balancer."),
            text("Ports", "Ports that are open."),
            AGE,
        ],
        ("networking.k8s.io", "ingressclasses") => vec![
            NAME,
            text("Controller", "Controller that serves the class."),
            text("Parameters", "Object with the controller's settings."),
            AGE,
        ],
        ("networking.k8s.io", "networkpolicies") => vec![
            NAME,
            text("Pod-Selector", "Pods that the policy is about.").of(NETWORKING, "NetworkPolicySpec", "podSelector"),
            AGE,
        ],
        ("networking.k8s.io", "servicecidrs") => vec![
            NAME,
            text("CIDRs", "Ranges for service addresses.").of(NETWORKING, "ServiceCIDRSpec", "cidrs"),
            AGE,
        ],
        ("networking.k8s.io", "ipaddresses") => vec![
            NAME,
            text("ParentRef", "Object that has the address.").of(NETWORKING, "IPAddressSpec", "parentRef"),
        ],
        ("", "endpoints") => vec![
            NAME,
            text("Endpoints", "Addresses with ports.").of(CORE, "Endpoints", "subsets"),
            AGE,
        ],
        ("discovery.k8s.io", "endpointslices") => vec![
            NAME,
            text("AddressType", "Family of the addresses.").of(DISCOVERY, "EndpointSlice", "addressType"),
            text("Ports", "Ports of all endpoints.").of(DISCOVERY, "EndpointSlice", "ports"),
            text("Endpoints", "Addresses.").of(DISCOVERY, "EndpointSlice", "endpoints"),
            AGE,
        ],
        ("", "nodes") => vec![
            NAME,
            text("Status", "Whether the node is ready and schedulable."),
            text("Roles", "Roles by the node's labels."),
            AGE,
            text("Version", "Version of the kubelet.").of(CORE, "NodeSystemInfo", "kubeletVersion"),
            wide("Internal-IP", "First internal address.").of(CORE, "NodeStatus", "addresses"),
            wide("External-IP", "First external address.").of(CORE, "NodeStatus", "addresses"),
            wide("OS-Image", "Operating system.").of(CORE, "NodeSystemInfo", "osImage"),
            wide("Kernel-Version", "Kernel with its architecture.").of(CORE, "NodeSystemInfo", "kernelVersion"),
            wide("Container-Runtime", "Container runtime with its version.").of(
                CORE,
                "NodeSystemInfo",
                "containerRuntimeVersion",
            ),
        ],
        ("" | "events.k8s.io", "events") => vec![
            text("Last Seen", "Time since the event was last seen.").of(CORE, "Event", "lastTimestamp"),
            text("Type", "Normal or Warning.").of(CORE, "Event", "type"),
            text("Reason", "Why it happened, for machines.").of(CORE, "Event", "reason"),
            text("Object", "Object that it happened to.").of(CORE, "Event", "involvedObject"),
            wide("Subobject", "Part of the object.").of(CORE, "ObjectReference", "fieldPath"),
            wide("Source", "Who reported it.").of(CORE, "Event", "source"),
            text("Message", "What happened, for people.").of(CORE, "Event", "message"),
            wide("First Seen", "Time since the event was first seen.").of(CORE, "Event", "firstTimestamp"),
            wide("Count", "How often it was seen.").of(CORE, "Event", "count"),
            Column { priority: 1, ..NAME },
        ],
        ("", "namespaces") => vec![NAME, text("Status", "Active or Terminating."), AGE],
        ("", "secrets") => {
            vec![
                NAME,
                text("Type", "Kind of secret.").of(CORE, "Secret", "type"),
                text("Data", "Number of entries.").of(CORE, "Secret", "data"),
                AGE,
            ]
        }
        ("", "configmaps") => vec![NAME, text("Data", "Number of entries.").of(CORE, "ConfigMap", "data"), AGE],
        ("", "serviceaccounts") | ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => vec![NAME, AGE],
        ("", "persistentvolumes") => vec![
            NAME,
            text("Capacity", "Size of the volume.").of(CORE, "PersistentVolumeSpec", "capacity"),
            text("Access Modes", "How the volume may be mounted.").of(CORE, "PersistentVolumeSpec", "accessModes"),
            text("Reclaim Policy", "What happens to the volume after its claim.").of(
                CORE,
                "PersistentVolumeSpec",
                "persistentVolumeReclaimPolicy",
            ),
            text("Status", "Phase of the volume.").of(CORE, "PersistentVolumeStatus", "phase"),
            text("Claim", "Claim that the volume is bound to.").of(CORE, "PersistentVolumeSpec", "claimRef"),
            text("StorageClass", "Storage class."),
            text("VolumeAttributesClass", "Class of the volume's attributes."),
            text("Reason", "Why the volume is in its phase.").of(CORE, "PersistentVolumeStatus", "reason"),
            AGE,
            wide("VolumeMode", "File system or block device.").of(CORE, "PersistentVolumeSpec", "volumeMode"),
        ],
        ("", "persistentvolumeclaims") => vec![
            NAME,
            text("Status", "Phase of the claim.").of(CORE, "PersistentVolumeClaimStatus", "phase"),
            text("Volume", "Volume that the claim is bound to.").of(CORE, "PersistentVolumeClaimSpec", "volumeName"),
            text("Capacity", "Size of that volume.").of(CORE, "PersistentVolumeClaimStatus", "capacity"),
            text("Access Modes", "How that volume may be mounted.").of(CORE, "PersistentVolumeClaimStatus", "accessModes"),
            text("StorageClass", "Storage class."),
            text("VolumeAttributesClass", "Class of the volume's attributes."),
            AGE,
            wide("VolumeMode", "File system or block device.").of(CORE, "PersistentVolumeClaimSpec", "volumeMode"),
        ],
        ("", "componentstatuses") => vec![
            NAME,
            text("Status", "Whether the component is healthy."),
            text("Message", "What the component says."),
            text("Error", "What went wrong."),
        ],
        ("", "resourcequotas") => vec![
            NAME,
            text("Request", "Used and allowed, for all but limits."),
            text("Limit", "Used and allowed, for limits."),
            AGE,
        ],
        ("autoscaling", "horizontalpodautoscalers") => vec![
            NAME,
            text("Reference", "What is scaled.").of(AUTOSCALING, "HorizontalPodAutoscalerSpec", "scaleTargetRef"),
            text("Targets", "Measured and wanted values.").of(AUTOSCALING, "HorizontalPodAutoscalerSpec", "metrics"),
            text("MinPods", "Fewest pods.").of(AUTOSCALING, "HorizontalPodAutoscalerSpec", "minReplicas"),
            text("MaxPods", "Most pods.").of(AUTOSCALING, "HorizontalPodAutoscalerSpec", "maxReplicas"),
            text("Replicas", "Pods there are.").of(AUTOSCALING, "HorizontalPodAutoscalerStatus", "currentReplicas"),
            AGE,
        ],
        ("rbac.authorization.k8s.io", "rolebindings") => role_binding("RoleBinding"),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => role_binding("ClusterRoleBinding"),
        ("certificates.k8s.io", "certificatesigningrequests") => vec![
            NAME,
            AGE,
            text("SignerName", "Signer that is asked."),
            text("Requestor", "User that asks."),
            text("RequestedDuration", "Validity asked for.").of(
                CERTIFICATES,
                "CertificateSigningRequestSpec",
                "expirationSeconds",
            ),
            text("Condition", "How far the request is."),
        ],
        ("coordination.k8s.io", "leases") => vec![
            NAME,
            text("Holder", "Who holds the lease.").of(COORDINATION, "LeaseSpec", "holderIdentity"),
            AGE,
        ],
        ("storage.k8s.io", "storageclasses") => vec![
            NAME,
            text("Provisioner", "Who makes the volumes.").of(STORAGE, "StorageClass", "provisioner"),
            text("ReclaimPolicy", "What happens to a volume after its claim.").of(STORAGE, "StorageClass", "reclaimPolicy"),
            text("VolumeBindingMode", "When a volume is bound.").of(STORAGE, "StorageClass", "volumeBindingMode"),
            text("AllowVolumeExpansion", "Whether volumes may grow.").of(STORAGE, "StorageClass", "allowVolumeExpansion"),
            AGE,
        ],
        ("storage.k8s.io", "volumeattributesclasses") => vec![
            NAME,
            text("DriverName", "Driver of the volumes.").of(STORAGE, "VolumeAttributesClass", "driverName"),
            AGE,
        ],
        ("storage.k8s.io", "volumeattachments") => vec![
            NAME,
            Column {
                format: "name",
                ..text("Attacher", "Who attaches the volume.").of(STORAGE, "VolumeAttachmentSpec", "attacher")
            },
            text("PV", "Volume.").of(STORAGE, "VolumeAttachmentSource", "persistentVolumeName"),
            text("Node", "Node that it is attached to.").of(STORAGE, "VolumeAttachmentSpec", "nodeName"),
            flag("Attached", "Whether it is attached.").of(STORAGE, "VolumeAttachmentStatus", "attached"),
            AGE,
        ],
        ("storage.k8s.io", "csinodes") => vec![NAME, count("Drivers", "Number of drivers on the node."), AGE],
        ("storage.k8s.io", "csidrivers") => vec![
            NAME,
            flag("AttachRequired", "Whether volumes must be attached.").of(STORAGE, "CSIDriverSpec", "attachRequired"),
            flag("PodInfoOnMount", "Whether the driver is told of the pod.").of(STORAGE, "CSIDriverSpec", "podInfoOnMount"),
            flag("StorageCapacity", "Whether the driver reports capacity.").of(STORAGE, "CSIDriverSpec", "storageCapacity"),
            text("TokenRequests", "Audiences of the tokens that the driver gets.").of(STORAGE, "CSIDriverSpec", "tokenRequests"),
            flag("RequiresRepublish", "Whether mounting is repeated.").of(STORAGE, "CSIDriverSpec", "requiresRepublish"),
            text("Modes", "Lifecycle modes of the volumes.").of(STORAGE, "CSIDriverSpec", "volumeLifecycleModes"),
            AGE,
        ],
        ("scheduling.k8s.io", "priorityclasses") => vec![
            NAME,
            count("Value", "Priority; higher goes first.").of(SCHEDULING, "PriorityClass", "value"),
            flag("Global-Default", "Whether pods without a class get it.").of(SCHEDULING, "PriorityClass", "globalDefault"),
            AGE,
            text("PreemptionPolicy", "Whether pods may displace others.").of(SCHEDULING, "PriorityClass", "preemptionPolicy"),
        ],
        ("node.k8s.io", "runtimeclasses") => vec![NAME, text("Handler", ""), AGE],
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            vec![NAME, count("Webhooks", "Number of webhooks."), AGE]
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => vec![
            NAME,
            count("Validations", "Number of validations."),
            text("ParamKind", "Kind of the parameters."),
            AGE,
        ],
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => vec![
            NAME,
            count("Mutations", "Number of mutations."),
            text("ParamKind", "Kind of the parameters."),
            AGE,
        ],
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings") => vec![
            NAME,
            text("PolicyName", "Policy that is bound."),
            text("ParamRef", "Object with the parameters."),
            AGE,
        ],
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => vec![
            NAME,
            text("PriorityLevel", "Priority level of the flow.").of(FLOWCONTROL, "PriorityLevelConfigurationReference", "name"),
            text("MatchingPrecedence", "Order of matching; lower goes first.").of(
                FLOWCONTROL,
                "FlowSchemaSpec",
                "matchingPrecedence",
            ),
            text("DistinguisherMethod", "How flows are told apart.").of(FLOWCONTROL, "FlowSchemaSpec", "distinguisherMethod"),
            AGE,
            text("MissingPL", "Whether the priority level is missing."),
        ],
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => vec![
            NAME,
            text("Type", "Whether the level is limited.").of(FLOWCONTROL, "PriorityLevelConfigurationSpec", "type"),
            text("NominalConcurrencyShares", "Share of the server's concurrency.").of(
                FLOWCONTROL,
                "LimitedPriorityLevelConfiguration",
                "nominalConcurrencyShares",
            ),
            text("Queues", "Number of queues.").of(FLOWCONTROL, "QueuingConfiguration", "queues"),
            text("HandSize", "Queues that a flow may use.").of(FLOWCONTROL, "QueuingConfiguration", "handSize"),
            text("QueueLengthLimit", "Most requests in a queue.").of(FLOWCONTROL, "QueuingConfiguration", "queueLengthLimit"),
            AGE,
        ],
        ("resource.k8s.io", "resourceclaims") => vec![NAME, text("State", "How far the claim is."), AGE],
        ("resource.k8s.io", "resourceslices") => vec![
            NAME,
            text("Node", "Node that has the devices.").of(RESOURCE, "ResourceSliceSpec", "nodeName"),
            text("Driver", "Driver of the devices.").of(RESOURCE, "ResourceSliceSpec", "driver"),
            text("Pool", "Pool that the slice is part of.").of(RESOURCE, "ResourcePool", "name"),
            AGE,
        ],
        ("apiregistration.k8s.io", "apiservices") => vec![
            NAME,
            text("Service", "Service that answers, or Local."),
            text("Available", "Whether it answers."),
            AGE,
        ],
        ("autoscaling", "scales") => scale(),
        _ => COMMON.to_vec(),
    }
}
