//! The resources of the groups from `admissionregistration.k8s.io` to `flowcontrol.apiserver.k8s.io`.
//!
//! Invariant: order, names and verbs are those of discovery. No behaviour lives here.

use super::{BASE, Resource, Subresource};

pub(super) static ROWS: &[Resource] = &[
    Resource {
        group: "admissionregistration.k8s.io",
        version: "v1",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        kind: "MutatingAdmissionPolicy",
        namespaced: false,
        categories: &["api-extensions"],
        storage: "admissionregistration.k8s.io/mutatingadmissionpolicies",
        stored_as: ("admissionregistration.k8s.io", "v1"),
        hash: "LYmCf+UMVdg=",
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        version: "v1",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        kind: "MutatingAdmissionPolicyBinding",
        namespaced: false,
        categories: &["api-extensions"],
        storage: "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
        stored_as: ("admissionregistration.k8s.io", "v1"),
        hash: "90V5FRZZ3Zg=",
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        version: "v1",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        kind: "MutatingWebhookConfiguration",
        namespaced: false,
        categories: &["api-extensions"],
        storage: "admissionregistration.k8s.io/mutatingwebhookconfigurations",
        stored_as: ("admissionregistration.k8s.io", "v1"),
        hash: "Sqi0GUgDaX0=",
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        version: "v1",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        kind: "ValidatingAdmissionPolicy",
        namespaced: false,
        categories: &["api-extensions"],
        subresources: &[
            Subresource::same("status", "ValidatingAdmissionPolicy"),
        ],
        storage: "admissionregistration.k8s.io/validatingadmissionpolicies",
        stored_as: ("admissionregistration.k8s.io", "v1"),
        hash: "6OxvlMmQ6is=",
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        version: "v1",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        kind: "ValidatingAdmissionPolicyBinding",
        namespaced: false,
        categories: &["api-extensions"],
        storage: "admissionregistration.k8s.io/validatingadmissionpolicybindings",
        stored_as: ("admissionregistration.k8s.io", "v1"),
        hash: "v9715VZqakg=",
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        version: "v1",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        kind: "ValidatingWebhookConfiguration",
        namespaced: false,
        categories: &["api-extensions"],
        storage: "admissionregistration.k8s.io/validatingwebhookconfigurations",
        stored_as: ("admissionregistration.k8s.io", "v1"),
        hash: "B0wHjQmsGNk=",
        ..BASE
    },
    Resource {
        group: "apiextensions.k8s.io",
        version: "v1",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        kind: "CustomResourceDefinition",
        namespaced: false,
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        subresources: &[
            Subresource::same("status", "CustomResourceDefinition"),
        ],
        storage: "apiextensions.k8s.io/customresourcedefinitions",
        stored_as: ("apiextensions.k8s.io", "v1"),
        hash: "jfWCUB31mvA=",
        ..BASE
    },
    Resource {
        group: "scheduling.k8s.io",
        version: "v1",
        plural: "priorityclasses",
        singular: "priorityclass",
        kind: "PriorityClass",
        namespaced: false,
        short_names: &["pc"],
        storage: "scheduling.k8s.io/priorityclasses",
        stored_as: ("scheduling.k8s.io", "v1"),
        hash: "1QwjyaZjj3Y=",
        ..BASE
    },
    Resource {
        group: "coordination.k8s.io",
        version: "v1",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        storage: "coordination.k8s.io/leases",
        stored_as: ("coordination.k8s.io", "v1"),
        hash: "gqkMMb/YqFM=",
        ..BASE
    },
    Resource {
        group: "node.k8s.io",
        version: "v1",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        kind: "RuntimeClass",
        namespaced: false,
        storage: "node.k8s.io/runtimeclasses",
        stored_as: ("node.k8s.io", "v1"),
        hash: "WQTu1GL3T2Q=",
        ..BASE
    },
    Resource {
        group: "discovery.k8s.io",
        version: "v1",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        storage: "discovery.k8s.io/endpointslices",
        stored_as: ("discovery.k8s.io", "v1"),
        hash: "qgS0xkrxYAI=",
        ..BASE
    },
    Resource {
        group: "resource.k8s.io",
        version: "v1",
        plural: "deviceclasses",
        singular: "deviceclass",
        kind: "DeviceClass",
        namespaced: false,
        storage: "resource.k8s.io/deviceclasses",
        stored_as: ("resource.k8s.io", "v1"),
        hash: "Yk2PTc1Ybxk=",
        ..BASE
    },
    Resource {
        group: "resource.k8s.io",
        version: "v1",
        plural: "resourceclaims",
        singular: "resourceclaim",
        kind: "ResourceClaim",
        subresources: &[
            Subresource::same("status", "ResourceClaim"),
        ],
        storage: "resource.k8s.io/resourceclaims",
        stored_as: ("resource.k8s.io", "v1"),
        hash: "wgAZaHcZxUg=",
        ..BASE
    },
    Resource {
        group: "resource.k8s.io",
        version: "v1",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        kind: "ResourceClaimTemplate",
        storage: "resource.k8s.io/resourceclaimtemplates",
        stored_as: ("resource.k8s.io", "v1"),
        hash: "TuzjC49aUfM=",
        ..BASE
    },
    Resource {
        group: "resource.k8s.io",
        version: "v1",
        plural: "resourceslices",
        singular: "resourceslice",
        kind: "ResourceSlice",
        namespaced: false,
        selectable: &["spec.nodeName", "spec.driver"],
        storage: "resource.k8s.io/resourceslices",
        stored_as: ("resource.k8s.io", "v1"),
        hash: "KsC072WgaEY=",
        ..BASE
    },
    Resource {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        plural: "flowschemas",
        singular: "flowschema",
        kind: "FlowSchema",
        namespaced: false,
        subresources: &[
            Subresource::same("status", "FlowSchema"),
        ],
        storage: "flowcontrol.apiserver.k8s.io/flowschemas",
        stored_as: ("flowcontrol.apiserver.k8s.io", "v1"),
        hash: "GJVAJZSZBIw=",
        ..BASE
    },
    Resource {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        kind: "PriorityLevelConfiguration",
        namespaced: false,
        subresources: &[
            Subresource::same("status", "PriorityLevelConfiguration"),
        ],
        storage: "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
        stored_as: ("flowcontrol.apiserver.k8s.io", "v1"),
        hash: "Kir5PVfvNeI=",
        ..BASE
    },
];
