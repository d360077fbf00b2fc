//! Columns per resource, as data.
//!
//! Invariant: names, types, formats and priorities are upstream's; the descriptions are our own.

use super::Column;
use crate::rows::Resource;

const fn column(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    Column {
        name,
        type_,
        format: "",
        description,
        priority: 0,
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
    ..text("Name", "Name of the object, unique among its kind in its namespace.")
};
const AGE: Column = text("Age", "Time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of the containers in the pod template.");
const IMAGES: Column = wide("Images", "Images of the containers in the pod template.");
const SELECTOR: Column = wide("Selector", "Labels by which pods are chosen.");

pub(super) fn scale() -> Vec<Column> {
    vec![
        Column { format: "", ..NAME },
        count("Desired", "Pods wanted."),
        count("Available", "Pods there are."),
        AGE,
    ]
}

pub(super) fn of(row: &Resource) -> Vec<Column> {
    match (row.group, row.plural) {
        ("", "pods") => vec![
            NAME,
            text("Ready", "Ready containers out of all."),
            text("Status", "State of the pod in one word."),
            text("Restarts", "How often containers were restarted, and when last."),
            AGE,
            wide("IP", "First address of the pod."),
            wide("Node", "Node that the pod is bound to."),
            wide("Nominated Node", "Node on which room is being made for the pod."),
            wide("Readiness Gates", "Fulfilled readiness gates out of all."),
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
        ("", "replicationcontrollers") | ("apps", "replicasets") => vec![
            NAME,
            count("Desired", "Pods wanted."),
            count("Current", "Pods there are."),
            count("Ready", "Pods that are ready."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("apps", "daemonsets") => vec![
            NAME,
            count("Desired", "Nodes that should run the pod."),
            count("Current", "Nodes that run the pod."),
            count("Ready", "Nodes whose pod is ready."),
            count("Up-to-date", "Nodes that run the newest template."),
            count("Available", "Nodes whose pod is available."),
            text("Node Selector", "Labels that a node must have."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("apps", "deployments") => vec![
            NAME,
            text("Ready", "Ready pods out of those wanted."),
            text("Up-to-date", "Pods of the newest template."),
            text("Available", "Pods that have been ready for long enough."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
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
            text("Revision", "Number of the revision."),
            AGE,
        ],
        ("batch", "jobs") => vec![
            NAME,
            text("Status", "State of the job in one word."),
            text("Completions", "Succeeded pods out of those wanted."),
            text("Duration", "Time that the job took or has taken so far."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("batch", "cronjobs") => vec![
            NAME,
            text("Schedule", "When to run, in cron form."),
            text("Timezone", "Time zone of the schedule."),
            flag("Suspend", "Whether no further jobs are started."),
            count("Active", "Jobs that run now."),
            text("Last Schedule", "Time since a job was last started."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("", "services") => vec![
            NAME,
            text("Type", "How the service is reached."),
            text("Cluster-IP", "First address inside the cluster."),
            text("External-IP", "Addresses from outside."),
            text("Port(s)", "Ports, with the node's port after a colon."),
            AGE,
            SELECTOR,
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
        ("networking.k8s.io", "networkpolicies") => vec![NAME, text("Pod-Selector", "Pods that the policy is about."), AGE],
        ("networking.k8s.io", "servicecidrs") => vec![NAME, text("CIDRs", "Ranges for service addresses."), AGE],
        ("networking.k8s.io", "ipaddresses") => vec![NAME, text("ParentRef", "Object that has the address.")],
        ("", "endpoints") => vec![NAME, text("Endpoints", "Addresses with ports."), AGE],
        ("discovery.k8s.io", "endpointslices") => vec![
            NAME,
            text("AddressType", "Family of the addresses."),
            text("Ports", "Ports of all endpoints."),
            text("Endpoints", "Addresses."),
            AGE,
        ],
        ("", "nodes") => vec![
            NAME,
            text("Status", "Whether the node is ready and schedulable."),
            text("Roles", "Roles by the node's labels."),
            AGE,
            text("Version", "Version of the kubelet."),
            wide("Internal-IP", "First internal address."),
            wide("External-IP", "First external address."),
            wide("OS-Image", "Operating system."),
            wide("Kernel-Version", "Kernel with its architecture."),
            wide("Container-Runtime", "Container runtime with its version."),
        ],
        ("" | "events.k8s.io", "events") => vec![
            text("Last Seen", "Time since the event was last seen."),
            text("Type", "Normal or Warning."),
            text("Reason", "Why it happened, for machines."),
            text("Object", "Object that it happened to."),
            wide("Subobject", "Part of the object."),
            wide("Source", "Who reported it."),
            text("Message", "What happened, for people."),
            wide("First Seen", "Time since the event was first seen."),
            wide("Count", "How often it was seen."),
            Column { priority: 1, ..NAME },
        ],
        ("", "namespaces") => vec![NAME, text("Status", "Active or Terminating."), AGE],
        ("", "secrets") => {
            vec![NAME, text("Type", "Kind of secret."), text("Data", "Number of entries."), AGE]
        }
        ("", "configmaps") => vec![NAME, text("Data", "Number of entries."), AGE],
        ("", "serviceaccounts") | ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => vec![NAME, AGE],
        ("", "persistentvolumes") => vec![
            NAME,
            text("Capacity", "Size of the volume."),
            text("Access Modes", "How the volume may be mounted."),
            text("Reclaim Policy", "What happens to the volume after its claim."),
            text("Status", "Phase of the volume."),
            text("Claim", "Claim that the volume is bound to."),
            text("StorageClass", "Storage class."),
            text("VolumeAttributesClass", "Class of the volume's attributes."),
            text("Reason", "Why the volume is in its phase."),
            AGE,
            wide("VolumeMode", "File system or block device."),
        ],
        ("", "persistentvolumeclaims") => vec![
            NAME,
            text("Status", "Phase of the claim."),
            text("Volume", "Volume that the claim is bound to."),
            text("Capacity", "Size of that volume."),
            text("Access Modes", "How that volume may be mounted."),
            text("StorageClass", "Storage class."),
            text("VolumeAttributesClass", "Class of the volume's attributes."),
            AGE,
            wide("VolumeMode", "File system or block device."),
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
            text("Reference", "What is scaled."),
            text("Targets", "Measured and wanted values."),
            text("MinPods", "Fewest pods."),
            text("MaxPods", "Most pods."),
            text("Replicas", "Pods there are."),
            AGE,
        ],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => vec![
            NAME,
            text("Role", "Role that is granted."),
            AGE,
            wide("Users", "Users that have it."),
            wide("Groups", "Groups that have it."),
            wide("ServiceAccounts", "Service accounts that have it."),
        ],
        ("certificates.k8s.io", "certificatesigningrequests") => vec![
            NAME,
            AGE,
            text("SignerName", "Signer that is asked."),
            text("Requestor", "User that asks."),
            text("RequestedDuration", "Validity asked for."),
            text("Condition", "How far the request is."),
        ],
        ("coordination.k8s.io", "leases") => vec![NAME, text("Holder", "Who holds the lease."), AGE],
        ("storage.k8s.io", "storageclasses") => vec![
            NAME,
            text("Provisioner", "Who makes the volumes."),
            text("ReclaimPolicy", "What happens to a volume after its claim."),
            text("VolumeBindingMode", "When a volume is bound."),
            text("AllowVolumeExpansion", "Whether volumes may grow."),
            AGE,
        ],
        ("storage.k8s.io", "volumeattributesclasses") => vec![NAME, text("DriverName", "Driver of the volumes."), AGE],
        ("storage.k8s.io", "volumeattachments") => vec![
            NAME,
            Column {
                format: "name",
                ..text("Attacher", "Who attaches the volume.")
            },
            text("PV", "Volume."),
            text("Node", "Node that it is attached to."),
            flag("Attached", "Whether it is attached."),
            AGE,
        ],
        ("storage.k8s.io", "csinodes") => vec![NAME, count("Drivers", "Number of drivers on the node."), AGE],
        ("storage.k8s.io", "csidrivers") => vec![
            NAME,
            flag("AttachRequired", "Whether volumes must be attached."),
            flag("PodInfoOnMount", "Whether the driver is told of the pod."),
            flag("StorageCapacity", "Whether the driver reports capacity."),
            text("TokenRequests", "Audiences of the tokens that the driver gets."),
            flag("RequiresRepublish", "Whether mounting is repeated."),
            text("Modes", "Lifecycle modes of the volumes."),
            AGE,
        ],
        ("scheduling.k8s.io", "priorityclasses") => vec![
            NAME,
            count("Value", "Priority; higher goes first."),
            flag("Global-Default", "Whether pods without a class get it."),
            AGE,
            text("PreemptionPolicy", "Whether pods may displace others."),
        ],
        ("node.k8s.io", "runtimeclasses") => vec![NAME, text("Handler", "Handler of the container runtime."), AGE],
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
            text("PriorityLevel", "Priority level of the flow."),
            text("MatchingPrecedence", "Order of matching; lower goes first."),
            text("DistinguisherMethod", "How flows are told apart."),
            AGE,
            text("MissingPL", "Whether the priority level is missing."),
        ],
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => vec![
            NAME,
            text("Type", "Whether the level is limited."),
            text("NominalConcurrencyShares", "Share of the server's concurrency."),
            text("Queues", "Number of queues."),
            text("HandSize", "Queues that a flow may use."),
            text("QueueLengthLimit", "Most requests in a queue."),
            AGE,
        ],
        ("resource.k8s.io", "resourceclaims") => vec![NAME, text("State", "How far the claim is."), AGE],
        ("resource.k8s.io", "resourceslices") => vec![
            NAME,
            text("Node", "Node that has the devices."),
            text("Driver", "Driver of the devices."),
            text("Pool", "Pool that the slice is part of."),
            AGE,
        ],
        ("apiregistration.k8s.io", "apiservices") => vec![
            NAME,
            text("Service", "Service that answers, or Local."),
            text("Available", "Whether it answers."),
            AGE,
        ],
        _ => vec![NAME, column("Created At", "date", "When the object was created.")],
    }
}
