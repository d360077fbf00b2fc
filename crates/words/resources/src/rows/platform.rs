//! The resources of the groups from `certificates.k8s.io` to `storage.k8s.io`.
//!
//! Invariant: order, names and verbs are those of discovery. No behaviour lives here.

use super::{BASE, Resource, Subresource};

pub(super) static ROWS: &[Resource] = &[
    Resource {
        group: "certificates.k8s.io",
        version: "v1",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        kind: "CertificateSigningRequest",
        namespaced: false,
        short_names: &["csr"],
        subresources: &[
            Subresource::same("approval", "CertificateSigningRequest"),
            Subresource::same("status", "CertificateSigningRequest"),
        ],
        selectable: &["spec.signerName"],
        storage: "certificates.k8s.io/certificatesigningrequests",
        stored_as: ("certificates.k8s.io", "v1"),
        hash: "95fRKMXA+00=",
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        plural: "ingressclasses",
        singular: "ingressclass",
        kind: "IngressClass",
        namespaced: false,
        storage: "networking.k8s.io/ingressclasses",
        stored_as: ("networking.k8s.io", "v1"),
        hash: "l/iqIbDgFyQ=",
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        plural: "ingresses",
        singular: "ingress",
        kind: "Ingress",
        short_names: &["ing"],
        subresources: &[
            Subresource::same("status", "Ingress"),
        ],
        storage: "networking.k8s.io/ingresses",
        stored_as: ("networking.k8s.io", "v1"),
        hash: "39NQlfNR+bo=",
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        plural: "ipaddresses",
        singular: "ipaddress",
        kind: "IPAddress",
        namespaced: false,
        short_names: &["ip"],
        storage: "networking.k8s.io/ipaddresses",
        stored_as: ("networking.k8s.io", "v1"),
        hash: "3f/plJFChNE=",
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        plural: "networkpolicies",
        singular: "networkpolicy",
        kind: "NetworkPolicy",
        short_names: &["netpol"],
        storage: "networking.k8s.io/networkpolicies",
        stored_as: ("networking.k8s.io", "v1"),
        hash: "YpfwF18m1G8=",
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        plural: "servicecidrs",
        singular: "servicecidr",
        kind: "ServiceCIDR",
        namespaced: false,
        subresources: &[
            Subresource::same("status", "ServiceCIDR"),
        ],
        storage: "networking.k8s.io/servicecidrs",
        stored_as: ("networking.k8s.io", "v1"),
        hash: "gNLvruQhW2g=",
        ..BASE
    },
    Resource {
        group: "policy",
        version: "v1",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        kind: "PodDisruptionBudget",
        short_names: &["pdb"],
        subresources: &[
            Subresource::same("status", "PodDisruptionBudget"),
        ],
        storage: "policy/poddisruptionbudgets",
        stored_as: ("policy", "v1"),
        hash: "EVWiDmWqyJw=",
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        kind: "ClusterRoleBinding",
        namespaced: false,
        storage: "rbac.authorization.k8s.io/clusterrolebindings",
        stored_as: ("rbac.authorization.k8s.io", "v1"),
        hash: "48tpQ8gZHFc=",
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        plural: "clusterroles",
        singular: "clusterrole",
        kind: "ClusterRole",
        namespaced: false,
        storage: "rbac.authorization.k8s.io/clusterroles",
        stored_as: ("rbac.authorization.k8s.io", "v1"),
        hash: "bYE5ZWDrJ44=",
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        plural: "rolebindings",
        singular: "rolebinding",
        kind: "RoleBinding",
        storage: "rbac.authorization.k8s.io/rolebindings",
        stored_as: ("rbac.authorization.k8s.io", "v1"),
        hash: "eGsCzGH6b1g=",
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        plural: "roles",
        singular: "role",
        kind: "Role",
        storage: "rbac.authorization.k8s.io/roles",
        stored_as: ("rbac.authorization.k8s.io", "v1"),
        hash: "7FuwZcIIItM=",
        ..BASE
    },
    Resource {
        group: "storage.k8s.io",
        version: "v1",
        plural: "csidrivers",
        singular: "csidriver",
        kind: "CSIDriver",
        namespaced: false,
        storage: "storage.k8s.io/csidrivers",
        stored_as: ("storage.k8s.io", "v1"),
        hash: "hL6j/rwBV5w=",
        ..BASE
    },
    Resource {
        group: "storage.k8s.io",
        version: "v1",
        plural: "csinodes",
        singular: "csinode",
        kind: "CSINode",
        namespaced: false,
        storage: "storage.k8s.io/csinodes",
        stored_as: ("storage.k8s.io", "v1"),
        hash: "Pe62DkZtjuo=",
        ..BASE
    },
    Resource {
        group: "storage.k8s.io",
        version: "v1",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        kind: "CSIStorageCapacity",
        storage: "storage.k8s.io/csistoragecapacities",
        stored_as: ("storage.k8s.io", "v1"),
        hash: "xeVl+2Ly1kE=",
        ..BASE
    },
    Resource {
        group: "storage.k8s.io",
        version: "v1",
        plural: "storageclasses",
        singular: "storageclass",
        kind: "StorageClass",
        namespaced: false,
        short_names: &["sc"],
        storage: "storage.k8s.io/storageclasses",
        stored_as: ("storage.k8s.io", "v1"),
        hash: "K+m6uJwbjGY=",
        ..BASE
    },
    Resource {
        group: "storage.k8s.io",
        version: "v1",
        plural: "volumeattachments",
        singular: "volumeattachment",
        kind: "VolumeAttachment",
        namespaced: false,
        subresources: &[
            Subresource::same("status", "VolumeAttachment"),
        ],
        storage: "storage.k8s.io/volumeattachments",
        stored_as: ("storage.k8s.io", "v1"),
        hash: "tJx/ezt6UDU=",
        ..BASE
    },
    Resource {
        group: "storage.k8s.io",
        version: "v1",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        kind: "VolumeAttributesClass",
        namespaced: false,
        short_names: &["vac"],
        storage: "storage.k8s.io/volumeattributesclasses",
        stored_as: ("storage.k8s.io", "v1"),
        hash: "tIjydgKBC5w=",
        ..BASE
    },
];
