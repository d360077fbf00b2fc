//! The resources of the groups from `apiregistration.k8s.io` to `batch`.
//!
//! Invariant: order, names and verbs are those of discovery. No behaviour lives here.

use super::{BASE, CREATE, GET_PATCH_UPDATE, Resource, Subresource};

pub(super) static ROWS: &[Resource] = &[
    Resource {
        group: "apiregistration.k8s.io",
        version: "v1",
        plural: "apiservices",
        singular: "apiservice",
        kind: "APIService",
        namespaced: false,
        categories: &["api-extensions"],
        subresources: &[
            Subresource::same("status", "APIService"),
        ],
        storage: "apiregistration.k8s.io/apiservices",
        stored_as: ("apiregistration.k8s.io", "v1"),
        hash: "InPBPD7+PqM=",
        ..BASE
    },
    Resource {
        group: "apps",
        version: "v1",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        kind: "ControllerRevision",
        storage: "apps/controllerrevisions",
        stored_as: ("apps", "v1"),
        hash: "85nkx63pcBU=",
        ..BASE
    },
    Resource {
        group: "apps",
        version: "v1",
        plural: "daemonsets",
        singular: "daemonset",
        kind: "DaemonSet",
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[
            Subresource::same("status", "DaemonSet"),
        ],
        storage: "apps/daemonsets",
        stored_as: ("apps", "v1"),
        hash: "dd7pWHUlMKQ=",
        ..BASE
    },
    Resource {
        group: "apps",
        version: "v1",
        plural: "deployments",
        singular: "deployment",
        kind: "Deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[
            Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: GET_PATCH_UPDATE },
            Subresource::same("status", "Deployment"),
        ],
        storage: "apps/deployments",
        stored_as: ("apps", "v1"),
        hash: "8aSe+NMegvE=",
        ..BASE
    },
    Resource {
        group: "apps",
        version: "v1",
        plural: "replicasets",
        singular: "replicaset",
        kind: "ReplicaSet",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[
            Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: GET_PATCH_UPDATE },
            Subresource::same("status", "ReplicaSet"),
        ],
        selectable: &["status.replicas"],
        storage: "apps/replicasets",
        stored_as: ("apps", "v1"),
        hash: "P1RzHs8/mWQ=",
        ..BASE
    },
    Resource {
        group: "apps",
        version: "v1",
        plural: "statefulsets",
        singular: "statefulset",
        kind: "StatefulSet",
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[
            Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: GET_PATCH_UPDATE },
            Subresource::same("status", "StatefulSet"),
        ],
        storage: "apps/statefulsets",
        stored_as: ("apps", "v1"),
        hash: "H+vl74LkKdo=",
        ..BASE
    },
    Resource {
        group: "events.k8s.io",
        version: "v1",
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        selectable: &["regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion", "regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type"],
        storage: "core/events",
        stored_as: ("", "v1"),
        hash: "r2yiGXH7wu8=",
        ..BASE
    },
    Resource {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        kind: "SelfSubjectReview",
        namespaced: false,
        verbs: CREATE,
        storage: "authentication.k8s.io/selfsubjectreviews",
        stored_as: ("authentication.k8s.io", "v1"),
        virtual_: true,
        ..BASE
    },
    Resource {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "tokenreviews",
        singular: "tokenreview",
        kind: "TokenReview",
        namespaced: false,
        verbs: CREATE,
        storage: "authentication.k8s.io/tokenreviews",
        stored_as: ("authentication.k8s.io", "v1"),
        virtual_: true,
        ..BASE
    },
    Resource {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        kind: "LocalSubjectAccessReview",
        verbs: CREATE,
        storage: "authorization.k8s.io/localsubjectaccessreviews",
        stored_as: ("authorization.k8s.io", "v1"),
        virtual_: true,
        ..BASE
    },
    Resource {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
        verbs: CREATE,
        storage: "authorization.k8s.io/selfsubjectaccessreviews",
        stored_as: ("authorization.k8s.io", "v1"),
        virtual_: true,
        ..BASE
    },
    Resource {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        kind: "SelfSubjectRulesReview",
        namespaced: false,
        verbs: CREATE,
        storage: "authorization.k8s.io/selfsubjectrulesreviews",
        stored_as: ("authorization.k8s.io", "v1"),
        virtual_: true,
        ..BASE
    },
    Resource {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        kind: "SubjectAccessReview",
        namespaced: false,
        verbs: CREATE,
        storage: "authorization.k8s.io/subjectaccessreviews",
        stored_as: ("authorization.k8s.io", "v1"),
        virtual_: true,
        ..BASE
    },
    Resource {
        group: "autoscaling",
        version: "v2",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        kind: "HorizontalPodAutoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[
            Subresource::same("status", "HorizontalPodAutoscaler"),
        ],
        storage: "autoscaling/horizontalpodautoscalers",
        stored_as: ("autoscaling", "v2"),
        hash: "qwQve8ut294=",
        ..BASE
    },
    Resource {
        group: "autoscaling",
        version: "v1",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        kind: "HorizontalPodAutoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[
            Subresource::same("status", "HorizontalPodAutoscaler"),
        ],
        storage: "autoscaling/horizontalpodautoscalers",
        stored_as: ("autoscaling", "v2"),
        hash: "qwQve8ut294=",
        ..BASE
    },
    Resource {
        group: "batch",
        version: "v1",
        plural: "cronjobs",
        singular: "cronjob",
        kind: "CronJob",
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[
            Subresource::same("status", "CronJob"),
        ],
        storage: "batch/cronjobs",
        stored_as: ("batch", "v1"),
        hash: "sd5LIXh4Fjs=",
        ..BASE
    },
    Resource {
        group: "batch",
        version: "v1",
        plural: "jobs",
        singular: "job",
        kind: "Job",
        categories: &["all"],
        subresources: &[
            Subresource::same("status", "Job"),
        ],
        selectable: &["status.successful"],
        storage: "batch/jobs",
        stored_as: ("batch", "v1"),
        hash: "mudhfqk/qZY=",
        ..BASE
    },
];
