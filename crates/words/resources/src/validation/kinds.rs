//! Which rules belong to which kind: one row each.
//!
//! Invariant: rows say in which order upstream looks at metadata and content, so that problems come in its order.

use super::errors::Errors;
use super::metadata::Rules;
use super::names::{self, NameRule};
use super::node::Node;
use super::{
    aggregation, autoscaling, batch, certificates, claims, config, definition, device, extension, flow, job_status, network, pod,
    rbac, service, storage, volume_update, workloads,
};

/// Checks an object to create.
type Create = fn(&mut Errors, &Node<'_>);
/// Checks an update: the new object and the old one.
type Update = fn(&mut Errors, &Node<'_>, &Node<'_>);

/// A look at metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As on creation.
    Whole,
    /// For what may not change.
    Change,
    /// Not at metadata but at the content, as on creation.
    Content,
}

/// How a kind is checked.
pub(super) struct Kind {
    /// Name of the storage.
    pub storage: &'static str,
    /// What a name may be.
    pub name: NameRule,
    /// Whether the kind's own rules look at metadata on creation.
    pub looks: bool,
    /// Whether finalizers without a domain must be standard ones.
    pub standard_finalizers: bool,
    /// Whether the base of a generated name is not looked at.
    pub any_base: bool,
    /// Content on creation.
    pub create: Create,
    /// Whether an update is first checked as if it were a creation.
    pub twice: bool,
    /// Looks at metadata before an update's content.
    pub before: &'static [Look],
    /// Content of an update.
    pub update: Update,
    /// Looks at metadata after an update's content.
    pub after: &'static [Look],
    /// Content of an update of the status.
    pub status: Update,
    /// Looks at metadata before the content of an update of the status.
    pub before_status: &'static [Look],
}

impl Kind {
    /// Rules for metadata.
    pub fn rules(&self, namespaced: bool) -> Rules {
        Rules {
            name: self.name,
            namespaced,
            standard_finalizers: self.standard_finalizers,
            any_base: self.any_base,
        }
    }
}

const CHANGE: &[Look] = &[Look::Change];
const WHOLE: &[Look] = &[Look::Whole];
const BOTH: &[Look] = &[Look::Change, Look::Whole];

fn nothing(_: &mut Errors, _: &Node<'_>) {}
fn no_change(_: &mut Errors, _: &Node<'_>, _: &Node<'_>) {}

const BASE: Kind = Kind {
    storage: "",
    name: names::subdomain,
    looks: true,
    standard_finalizers: true,
    any_base: false,
    create: nothing,
    twice: false,
    before: CHANGE,
    update: no_change,
    after: &[],
    status: no_change,
    before_status: CHANGE,
};

const fn kind(storage: &'static str, create: Create, update: Update) -> Kind {
    Kind {
        storage,
        create,
        update,
        ..BASE
    }
}

fn counted(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    workloads::status(
        errors,
        root,
        old,
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ],
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        "readyReplicas",
    );
}

/// The kinds; one that is not here has no rules of its own.
pub(super) static KINDS: &[Kind] = &[
    Kind {
        before: &[],
        status: no_change,
        ..kind("core/pods", nothing, no_change)
    },
    kind(
        "core/podtemplates",
        |e, n| pod::template(e, &n.at("template")),
        |e, n, _| pod::template(e, &n.at("template")),
    ),
    Kind {
        name: names::long_name,
        any_base: true,
        status: counted,
        ..kind("core/replicationcontrollers", workloads::replication_controller, |e, n, _| {
            workloads::replication_controller(e, n);
        })
    },
    Kind {
        name: names::label,
        status: |e, n, o| service::balancer_status(e, n, o, true),
        ..kind("core/services", |e, n| service::service(e, n, None), service::update)
    },
    Kind {
        before: BOTH,
        ..kind(
            "core/endpoints",
            |e, n| service::endpoints(e, n, None),
            |e, n, o| service::endpoints(e, n, Some(o)),
        )
    },
    Kind {
        before: BOTH,
        ..kind("core/configmaps", config::config_map, |e, n, o| {
            config::immutable(e, n, o, &["data", "binaryData"]);
            config::config_map(e, n);
        })
    },
    Kind {
        before: BOTH,
        ..kind("core/secrets", config::secret, |e, n, o| {
            n.at("type").immutable_text(e, &o.at("type"));
            config::immutable(e, n, o, &["data"]);
            config::secret(e, n);
        })
    },
    Kind {
        name: names::label,
        twice: true,
        status: |e, n, _| config::namespace_status(e, n),
        ..kind("core/namespaces", config::namespace, no_change)
    },
    Kind {
        twice: true,
        status: config::node_update,
        ..kind("core/nodes", config::node, config::node_update)
    },
    Kind {
        before: BOTH,
        ..kind("core/serviceaccounts", nothing, no_change)
    },
    Kind {
        before: WHOLE,
        ..kind("core/limitranges", config::limit_range, |e, n, _| config::limit_range(e, n))
    },
    Kind {
        status: |e, n, _| config::quota_status(e, n),
        ..kind(
            "core/resourcequotas",
            |e, n| {
                config::quota(e, n);
                config::quota_status(e, n);
            },
            config::quota_update,
        )
    },
    Kind {
        twice: true,
        before: WHOLE,
        ..kind("core/persistentvolumes", storage::volume, volume_update::update)
    },
    Kind {
        before: BOTH,
        status: |e, n, _| storage::claim_status(e, n),
        ..kind(
            "core/persistentvolumeclaims",
            |e, n| storage::claim_spec(e, &n.at("spec")),
            storage::claim_update,
        )
    },
    Kind {
        status: |e, n, o| {
            workloads::status(
                e,
                n,
                o,
                &[
                    "observedGeneration",
                    "replicas",
                    "updatedReplicas",
                    "readyReplicas",
                    "availableReplicas",
                    "unavailableReplicas",
                    "terminatingReplicas",
                    "collisionCount",
                ],
                &["updatedReplicas", "readyReplicas", "availableReplicas"],
                "readyReplicas",
            );
        },
        ..kind("apps/deployments", workloads::deployment, |e, n, o| {
            workloads::deployment(e, n);
            workloads::same_selector(e, n, o);
        })
    },
    Kind {
        status: counted,
        ..kind("apps/replicasets", workloads::replica_set, |e, n, o| {
            workloads::replica_set(e, n);
            workloads::same_selector(e, n, o);
        })
    },
    Kind {
        name: names::label,
        status: |e, n, o| {
            workloads::status(
                e,
                n,
                o,
                &[
                    "replicas",
                    "readyReplicas",
                    "currentReplicas",
                    "updatedReplicas",
                    "availableReplicas",
                    "observedGeneration",
                    "collisionCount",
                ],
                &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
                "status.readyReplicas",
            );
        },
        ..kind(
            "apps/statefulsets",
            |e, n| workloads::stateful_set(e, n, None),
            |e, n, o| workloads::stateful_set(e, n, Some(o)),
        )
    },
    Kind {
        status: |e, n, o| {
            workloads::status(
                e,
                n,
                o,
                &[
                    "currentNumberScheduled",
                    "numberMisscheduled",
                    "desiredNumberScheduled",
                    "numberReady",
                    "observedGeneration",
                    "updatedNumberScheduled",
                    "numberAvailable",
                    "numberUnavailable",
                    "collisionCount",
                ],
                &[],
                "",
            );
        },
        ..kind("apps/daemonsets", workloads::daemon_set, |e, n, o| {
            workloads::same_selector(e, n, o);
            workloads::daemon_set(e, n);
        })
    },
    Kind {
        before: BOTH,
        ..kind(
            "apps/controllerrevisions",
            |e, n| workloads::revision(e, n, None),
            |e, n, o| workloads::revision(e, n, Some(o)),
        )
    },
    Kind {
        status: |e, n, _| pod::counts(e, &n.at("status"), &["currentReplicas", "desiredReplicas"]),
        ..kind(
            "autoscaling/horizontalpodautoscalers",
            |e, n| autoscaling::autoscaler(e, n, None),
            |e, n, o| autoscaling::autoscaler(e, n, Some(o)),
        )
    },
    kind("autoscaling/scales", autoscaling::scale, no_change),
    Kind {
        twice: true,
        status: job_status::job_status,
        ..kind("batch/jobs", batch::job, batch::job_update)
    },
    Kind {
        before_status: &[],
        ..kind(
            "batch/cronjobs",
            |e, n| batch::cron_job(e, n, None),
            |e, n, o| batch::cron_job(e, n, Some(o)),
        )
    },
    Kind {
        standard_finalizers: false,
        ..kind("coordination.k8s.io/leases", config::lease, |e, n, _| config::lease(e, n))
    },
    Kind {
        before: WHOLE,
        ..kind(
            "discovery.k8s.io/endpointslices",
            |e, n| service::slice(e, n, None),
            |e, n, o| service::slice(e, n, Some(o)),
        )
    },
    kind(
        "networking.k8s.io/networkpolicies",
        |e, n| network::policy(e, n, None),
        |e, n, o| network::policy(e, n, Some(o)),
    ),
    Kind {
        before: BOTH,
        status: |e, n, o| service::balancer_status(e, n, o, false),
        ..kind(
            "networking.k8s.io/ingresses",
            |e, n| network::ingress(e, n, true),
            |e, n, _| network::ingress(e, n, false),
        )
    },
    Kind {
        before: BOTH,
        ..kind("networking.k8s.io/ingressclasses", network::ingress_class, |e, n, o| {
            n.get("spec.controller").immutable_text(e, &o.get("spec.controller"));
            network::ingress_class(e, n);
        })
    },
    Kind {
        name: network::address_name,
        twice: true,
        ..kind("networking.k8s.io/ipaddresses", network::address, network::address_update)
    },
    kind(
        "networking.k8s.io/servicecidrs",
        network::service_range,
        network::service_range_update,
    ),
    Kind {
        twice: true,
        standard_finalizers: false,
        ..kind("node.k8s.io/runtimeclasses", config::runtime_class, |e, n, o| {
            n.at("handler").immutable_text(e, &o.at("handler"));
        })
    },
    Kind {
        looks: false,
        before: &[],
        status: |e, n, _| config::budget_status(e, n),
        ..kind("policy/poddisruptionbudgets", config::budget, |e, n, _| config::budget(e, n))
    },
    Kind {
        name: names::path_segment,
        before: WHOLE,
        after: CHANGE,
        ..kind(
            "rbac.authorization.k8s.io/roles",
            |e, n| rbac::role(e, n, true),
            |e, n, _| rbac::role(e, n, true),
        )
    },
    Kind {
        name: names::path_segment,
        before: WHOLE,
        after: CHANGE,
        ..kind(
            "rbac.authorization.k8s.io/clusterroles",
            |e, n| rbac::role(e, n, false),
            |e, n, _| rbac::role(e, n, false),
        )
    },
    Kind {
        name: names::path_segment,
        before: WHOLE,
        after: CHANGE,
        ..kind(
            "rbac.authorization.k8s.io/rolebindings",
            |e, n| rbac::binding(e, n, true),
            |e, n, o| {
                rbac::binding(e, n, true);
                rbac::same_role(e, n, o);
            },
        )
    },
    Kind {
        name: names::path_segment,
        before: WHOLE,
        after: CHANGE,
        ..kind(
            "rbac.authorization.k8s.io/clusterrolebindings",
            |e, n| rbac::binding(e, n, false),
            |e, n, o| {
                rbac::binding(e, n, false);
                rbac::same_role(e, n, o);
            },
        )
    },
    kind(
        "scheduling.k8s.io/priorityclasses",
        config::priority_class,
        config::priority_class_update,
    ),
    Kind {
        twice: true,
        ..kind("storage.k8s.io/storageclasses", storage::class, storage::class_update)
    },
    Kind {
        after: &[Look::Whole, Look::Content],
        ..kind(
            "storage.k8s.io/volumeattributesclasses",
            storage::attributes_class,
            storage::attributes_class_update,
        )
    },
    Kind {
        before: WHOLE,
        ..kind("storage.k8s.io/volumeattachments", storage::attachment, |e, n, o| {
            storage::attachment(e, n);
            let spec = n.at("spec");
            if !super::node::same(spec.value, o.at("spec").value) {
                e.push(spec.bad_struct("api/storage/v1", "VolumeAttachmentSpec", super::node::IMMUTABLE));
            }
        })
    },
    Kind {
        before: WHOLE,
        ..kind("storage.k8s.io/csinodes", storage::csi_node, storage::csi_node_update)
    },
    kind("storage.k8s.io/csidrivers", storage::csi_driver, storage::csi_driver_update),
    Kind {
        twice: true,
        ..kind(
            "storage.k8s.io/csistoragecapacities",
            storage::capacity,
            storage::capacity_update,
        )
    },
    Kind {
        standard_finalizers: false,
        before: WHOLE,
        ..kind(
            "admissionregistration.k8s.io/validatingwebhookconfigurations",
            |e, n| extension::webhooks(e, n, None),
            |e, n, o| extension::webhooks(e, n, Some(o)),
        )
    },
    Kind {
        standard_finalizers: false,
        before: WHOLE,
        ..kind(
            "admissionregistration.k8s.io/mutatingwebhookconfigurations",
            |e, n| extension::webhooks(e, n, None),
            |e, n, o| extension::webhooks(e, n, Some(o)),
        )
    },
    Kind {
        standard_finalizers: false,
        before: WHOLE,
        ..kind(
            "admissionregistration.k8s.io/validatingadmissionpolicies",
            |e, n| extension::validating_policy(e, n, None),
            |e, n, o| extension::validating_policy(e, n, Some(o)),
        )
    },
    Kind {
        standard_finalizers: false,
        before: WHOLE,
        ..kind(
            "admissionregistration.k8s.io/mutatingadmissionpolicies",
            |e, n| extension::mutating_policy(e, n, None),
            |e, n, o| extension::mutating_policy(e, n, Some(o)),
        )
    },
    Kind {
        standard_finalizers: false,
        before: WHOLE,
        ..kind(
            "admissionregistration.k8s.io/validatingadmissionpolicybindings",
            extension::validating_binding,
            |e, n, _| {
                extension::validating_binding(e, n);
            },
        )
    },
    Kind {
        standard_finalizers: false,
        before: WHOLE,
        ..kind(
            "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
            extension::mutating_binding,
            |e, n, _| {
                extension::mutating_binding(e, n);
            },
        )
    },
    Kind {
        before: WHOLE,
        ..kind("flowcontrol.apiserver.k8s.io/flowschemas", flow::schema, |e, n, _| {
            flow::schema(e, n)
        })
    },
    Kind {
        before: WHOLE,
        ..kind(
            "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
            flow::level,
            |e, n, _| flow::level(e, n),
        )
    },
    Kind {
        before: WHOLE,
        after: CHANGE,
        name: names::any,
        before_status: &[Look::Whole, Look::Change],
        status: certificates::update_status,
        ..kind(
            "certificates.k8s.io/certificatesigningrequests",
            |e, n| certificates::request(e, n, None),
            certificates::update,
        )
    },
    Kind {
        looks: false,
        standard_finalizers: false,
        status: definition::update_status,
        ..kind(
            "apiextensions.k8s.io/customresourcedefinitions",
            definition::create,
            definition::update,
        )
    },
    Kind {
        looks: false,
        standard_finalizers: false,
        status: aggregation::update_status,
        ..kind("apiregistration.k8s.io/apiservices", aggregation::service, |e, n, _| {
            aggregation::service(e, n);
        })
    },
    Kind {
        name: names::long_name,
        any_base: true,
        before: BOTH,
        ..kind(
            "resource.k8s.io/deviceclasses",
            |e, n| device::class(e, n, None),
            |e, n, o| device::class(e, n, Some(o)),
        )
    },
    Kind {
        before: BOTH,
        status: claims::status,
        ..kind("resource.k8s.io/resourceclaims", device::claim, device::claim_update)
    },
    Kind {
        twice: true,
        ..kind(
            "resource.k8s.io/resourceclaimtemplates",
            device::claim_template,
            device::claim_template_update,
        )
    },
    kind(
        "resource.k8s.io/resourceslices",
        |e, n| device::slice(e, n, None),
        |e, n, o| device::slice(e, n, Some(o)),
    ),
];
