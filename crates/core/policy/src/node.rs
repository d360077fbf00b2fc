//! The node authoriser: what a kubelet may do, by the pods that are bound to its node
//! (plugin/pkg/auth/authorizer/node/node_authorizer.go). Rules that need no relationship are in its bootstrap role.

use trireme_resources::references::{self, Referent};

use crate::admission::Lookup;
use crate::rbac::{Query, Rbac, Rule};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Verb.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name, empty for a collection.
    pub name: &'a str,
    /// Raw field selector.
    pub field_selector: &'a str,
}

/// The node that a user is, if it is one.
#[must_use]
pub fn node_of<'a>(user: &'a str, groups: &[String]) -> Option<&'a str> {
    let node = user.strip_prefix("system:node:").filter(|node| !node.is_empty())?;
    groups.iter().any(|group| group == "system:nodes").then_some(node)
}

/// Decides: `Ok` allows, `Err` says why there is no opinion.
///
/// # Errors
/// The reason.
pub fn authorize(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup) -> Result<(), String> {
    let asker = Asker { node, asked, lookup };
    match (asked.group, asked.resource) {
        ("", "secrets" | "configmaps") => asker.read_namespaced(),
        ("", "persistentvolumeclaims") if asked.subresource == "status" => asker.update_status(),
        ("", "persistentvolumeclaims" | "persistentvolumes")
        | ("resource.k8s.io", "resourceclaims")
        | ("storage.k8s.io", "volumeattachments") => asker.get(),
        ("", "serviceaccounts") => asker.service_account(),
        ("", "nodes") => asker.own_node(),
        ("", "pods") => asker.pods(),
        ("coordination.k8s.io", "leases") => asker.lease(),
        ("storage.k8s.io", "csinodes") => asker.csi_node(),
        ("resource.k8s.io", "resourceslices") => asker.resource_slice(),
        ("certificates.k8s.io", "podcertificaterequests") => asker.pod_certificate_request(),
        _ if rules().iter().any(|rule| rule.allows(&query(asked, &resource_name(asked)))) => Ok(()),
        _ => Err(String::new()),
    }
}

fn resource_name(asked: &Attributes<'_>) -> String {
    if asked.subresource.is_empty() {
        asked.resource.to_owned()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    }
}

fn query<'a>(asked: &Attributes<'a>, resource: &'a str) -> Query<'a> {
    Query::Resource {
        verb: asked.verb,
        group: asked.group,
        resource,
        name: asked.name,
    }
}

/// Rules of the role `system:node`, which no binding grants any more.
fn rules() -> &'static [Rule] {
    static RULES: std::sync::LazyLock<Vec<Rule>> = std::sync::LazyLock::new(|| {
        let mut rbac = Rbac::default();
        for object in crate::bootstrap::objects() {
            rbac.set(&object);
        }
        rbac.rules_of("", "ClusterRole", "system:node")
            .map(<[Rule]>::to_vec)
            .unwrap_or_default()
    });
    &RULES
}

/// One question of one node.
struct Asker<'a> {
    node: &'a str,
    asked: &'a Attributes<'a>,
    lookup: &'a dyn Lookup,
}

/// `Err` with the reason unless the condition holds.
fn only_if(holds: bool, reason: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason.to_owned()) }
}

impl Asker<'_> {
    /// Reads of one namespaced object that a pod of the node refers to.
    fn read_namespaced(&self) -> Result<(), String> {
        let asked = self.asked;
        only_if(
            matches!(asked.verb, "get" | "list" | "watch"),
            "can only read resources of this type",
        )?;
        only_if(asked.subresource.is_empty(), "cannot read subresource")?;
        only_if(!asked.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related()
    }

    fn get(&self) -> Result<(), String> {
        only_if(self.asked.verb == "get", "can only get individual resources of this type")?;
        only_if(self.asked.subresource.is_empty(), "cannot get subresource")?;
        self.related()
    }

    fn update_status(&self) -> Result<(), String> {
        let updates = matches!(self.asked.verb, "update" | "patch");
        only_if(updates, "can only get/update/patch this type")?;
        self.related()
    }

    /// Whether the object is the node's or hangs on one of its pods.
    fn related(&self) -> Result<(), String> {
        let asked = self.asked;
        only_if(!asked.name.is_empty(), "No Object name found")?;
        let is_related = match asked.resource {
            "secrets" => self.refers(Referent::Secret, asked.namespace, asked.name),
            "configmaps" => self.refers(Referent::ConfigMap, asked.namespace, asked.name),
            "persistentvolumeclaims" => self.refers(Referent::PersistentVolumeClaim, asked.namespace, asked.name),
            "serviceaccounts" => self.refers(Referent::ServiceAccount, asked.namespace, asked.name),
            "resourceclaims" => self.refers(Referent::ResourceClaim, asked.namespace, asked.name),
            "persistentvolumes" => self.is_bound(),
            _ => self.is_of_node(),
        };
        let why = format!("no relationship found between node '{}' and this object", self.node);
        only_if(is_related, &why)
    }

    /// Whether a pod of the node refers to the object. Mirror pods refer to nothing: a node makes them itself, and must not
    /// open anything for itself by that.
    fn refers(&self, to: Referent, namespace: &str, name: &str) -> bool {
        let wanted = |pod: &serde_json::Value| !references::is_mirror(pod) && references::refers(pod, to, name);
        self.lookup.some_pod_on(self.node, namespace, &wanted)
    }

    /// Whether a pod of the node uses the claim that the volume is bound to.
    fn is_bound(&self) -> bool {
        let Some(volume) = self.lookup.get("", "persistentvolumes", "", self.asked.name) else {
            return false;
        };
        let claim = &volume["spec"]["claimRef"];
        match (claim["namespace"].as_str(), claim["name"].as_str()) {
            (Some(namespace), Some(name)) => self.refers(Referent::PersistentVolumeClaim, namespace, name),
            _ => false,
        }
    }

    /// Whether the object says that it is this node's: pods, volume attachments, slices, requests for certificates.
    fn is_of_node(&self) -> bool {
        let asked = self.asked;
        let object = self.lookup.get(asked.group, asked.resource, asked.namespace, asked.name);
        object.is_some_and(|object| object["spec"]["nodeName"] == self.node)
    }

    fn service_account(&self) -> Result<(), String> {
        let asked = self.asked;
        if asked.verb == "get" && asked.subresource.is_empty() {
            return self.read_namespaced();
        }
        only_if(
            asked.verb == "create" && !asked.name.is_empty(),
            "can only create tokens for individual service accounts",
        )?;
        only_if(
            asked.subresource == "token",
            "can only create token subresource of serviceaccount",
        )?;
        self.related()
    }

    fn own_node(&self) -> Result<(), String> {
        let (asked, node) = (self.asked, self.node);
        match (asked.verb, asked.subresource) {
            // Admission holds it to its own.
            ("create", "") | ("update" | "patch", "" | "status") => Ok(()),
            // Also where the object is not there yet.
            ("get" | "list" | "watch", "") if asked.name == node => Ok(()),
            ("get" | "list" | "watch", "") if asked.name.is_empty() => {
                Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("get" | "list" | "watch", "") => Err(format!(
                "node '{node}' cannot read '{}', only its own Node object",
                asked.name
            )),
            _ => Err(String::new()),
        }
    }

    fn pods(&self) -> Result<(), String> {
        let asked = self.asked;
        match (asked.verb, asked.subresource) {
            // Admission holds it to its own.
            ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Ok(()),
            ("get", "") => self.get(),
            ("list" | "watch", "") if self.selects("spec.nodeName") => Ok(()),
            ("list" | "watch", "") if !asked.name.is_empty() => self.related(),
            ("list" | "watch", "") => Err("can only list/watch pods with spec.nodeName field selector".into()),
            _ => Err(String::new()),
        }
    }

    /// Whether the field selector holds the request to this node's objects.
    fn selects(&self, path: &str) -> bool {
        let terms = self.asked.field_selector.split(',');
        let mut equal = terms.filter_map(|term| term.split_once("==").or_else(|| term.split_once('=')));
        equal.any(|(field, value)| field == path && value == self.node)
    }

    fn lease(&self) -> Result<(), String> {
        let asked = self.asked;
        only_if(
            matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete"),
            "can only get, create, update, patch, or delete a node lease",
        )?;
        only_if(
            asked.namespace == "kube-node-lease",
            "can only access leases in the \"kube-node-lease\" system namespace",
        )?;
        only_if(
            asked.verb == "create" || asked.name == self.node,
            "can only access node lease with the same name as the requesting node",
        )
    }

    fn csi_node(&self) -> Result<(), String> {
        let asked = self.asked;
        only_if(
            matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete"),
            "can only get, create, update, patch, or delete a CSINode",
        )?;
        only_if(asked.subresource.is_empty(), "cannot authorize CSINode subresources")?;
        only_if(
            asked.verb == "create" || asked.name == self.node,
            "can only access CSINode with the same name as the requesting node",
        )
    }

    fn resource_slice(&self) -> Result<(), String> {
        only_if(
            self.asked.subresource.is_empty(),
            "cannot authorize ResourceSlice subresources",
        )?;
        match self.asked.verb {
            // Admission sees whose it is to be.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(),
            "watch" | "list" | "deletecollection" => only_if(
                self.selects("spec.nodeName"),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => Err(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, \
                 deletecollection"
                    .into(),
            ),
        }
    }

    fn pod_certificate_request(&self) -> Result<(), String> {
        only_if(
            self.asked.subresource.is_empty(),
            "nodes may not access the status subresource of PodCertificateRequests",
        )?;
        match self.asked.verb {
            "create" => Ok(()),
            "get" => self.related(),
            "list" | "watch" => only_if(
                self.selects("spec.nodeName"),
                "can only list/watch podcertificaterequests with nodeName field selector",
            ),
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::World;

    fn world() -> World {
        let pod = |name: &str, node: &str, mirror: bool, secret: &str| {
            let annotations = if mirror { json!({references::MIRROR: "x"}) } else { json!({}) };
            json!({"metadata": {"name": name, "namespace": "ns", "annotations": annotations}, "spec": {
                "nodeName": node, "serviceAccountName": format!("{name}-account"),
                "containers": [{"name": "main", "envFrom": [{"secretRef": {"name": secret}}]}],
                "resourceClaims": [{"name": "r", "resourceClaimName": format!("{name}-devices")}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": format!("{name}-data")}}]}})
        };
        let of_node = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node}});
        World(vec![
            ("pods", pod("mine", "n1", false, "mine")),
            ("pods", pod("other", "n2", false, "other")),
            ("pods", pod("mirror", "n1", true, "stolen")),
            ("volumeattachments", of_node("here", "n1")),
            ("volumeattachments", of_node("there", "n2")),
            ("resourceslices", of_node("here", "n1")),
            ("resourceslices", of_node("there", "n2")),
            (
                "persistentvolumes",
                json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "mine-data"}}}),
            ),
        ])
    }

    fn may(verb: &str, resource: &str, name: &str) -> Result<(), String> {
        may_selecting(verb, resource, name, "")
    }

    fn may_selecting(verb: &str, resource: &str, name: &str, field_selector: &str) -> Result<(), String> {
        let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
        let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
        let namespaced = !matches!(
            resource,
            "persistentvolumes" | "volumeattachments" | "resourceslices" | "nodes"
        );
        let asked = Attributes {
            verb,
            group,
            resource,
            subresource,
            namespace: if namespaced { "ns" } else { "" },
            name,
            field_selector,
        };
        authorize("n1", &asked, &world())
    }

    #[test]
    fn a_node_reads_what_its_pods_refer_to_and_no_mirror_pod_opens_anything() {
        for (verb, resource, mine, others) in [
            ("get", "secrets", "mine", ["other", "stolen"]),
            (
                "get",
                "resource.k8s.io/resourceclaims",
                "mine-devices",
                ["other-devices", "mirror-devices"],
            ),
            ("get", "persistentvolumeclaims", "mine-data", ["other-data", "mirror-data"]),
            (
                "patch",
                "persistentvolumeclaims:status",
                "mine-data",
                ["other-data", "mirror-data"],
            ),
            ("get", "serviceaccounts", "mine-account", ["other-account", "mirror-account"]),
            (
                "create",
                "serviceaccounts:token",
                "mine-account",
                ["other-account", "mirror-account"],
            ),
            ("get", "persistentvolumes", "pv", ["x", "y"]),
            ("get", "storage.k8s.io/volumeattachments", "here", ["there", "nowhere"]),
            ("get", "resource.k8s.io/resourceslices", "here", ["there", "nowhere"]),
            ("delete", "resource.k8s.io/resourceslices", "here", ["there", "nowhere"]),
            ("get", "pods", "mirror", ["other", "nowhere"]),
        ] {
            assert_eq!(may(verb, resource, mine), Ok(()), "{verb} {resource}");
            for other in others {
                let why = "no relationship found between node 'n1' and this object".to_owned();
                assert_eq!(may(verb, resource, other), Err(why), "{verb} {resource} {other}");
            }
        }
    }

    #[test]
    fn what_no_pod_leads_to_is_refused_by_the_kind_of_request() {
        for (verb, resource, name, selector, why) in [
            ("update", "secrets", "mine", "", "can only read resources of this type"),
            ("get", "secrets:x", "mine", "", "cannot read subresource"),
            ("list", "secrets", "", "", "No Object name found"),
            (
                "list",
                "persistentvolumes",
                "",
                "",
                "can only get individual resources of this type",
            ),
            (
                "update",
                "resource.k8s.io/resourceclaims",
                "mine-devices",
                "",
                "can only get individual resources of this type",
            ),
            (
                "get",
                "persistentvolumeclaims:status",
                "mine-data",
                "",
                "can only get/update/patch this type",
            ),
            (
                "list",
                "pods",
                "",
                "spec.nodeName=n2",
                "can only list/watch pods with spec.nodeName field selector",
            ),
            (
                "list",
                "pods",
                "",
                "spec.nodeName!=n1",
                "can only list/watch pods with spec.nodeName field selector",
            ),
            (
                "list",
                "nodes",
                "",
                "",
                "node 'n1' cannot read all nodes, only its own Node object",
            ),
            (
                "watch",
                "nodes",
                "n2",
                "",
                "node 'n1' cannot read 'n2', only its own Node object",
            ),
            (
                "list",
                "resource.k8s.io/resourceslices",
                "",
                "",
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            (
                "create",
                "serviceaccounts",
                "a",
                "",
                "can only create token subresource of serviceaccount",
            ),
            (
                "update",
                "certificates.k8s.io/podcertificaterequests",
                "a",
                "",
                "nodes may not update podcertificaterequests",
            ),
        ] {
            assert_eq!(
                may_selecting(verb, resource, name, selector),
                Err(why.to_owned()),
                "{verb} {resource} {name}"
            );
        }
        for (verb, resource, name, selector) in [
            ("list", "pods", "", "spec.nodeName=n1"),
            ("list", "pods", "", "status.phase=Running,spec.nodeName==n1"),
            ("watch", "pods", "mine", ""),
            ("watch", "nodes", "n1", ""),
            ("deletecollection", "resource.k8s.io/resourceslices", "", "spec.nodeName=n1"),
            ("create", "certificates.k8s.io/podcertificaterequests", "", ""),
        ] {
            assert_eq!(may_selecting(verb, resource, name, selector), Ok(()), "{verb} {resource}");
        }
    }

    #[test]
    fn only_nodes_are_nodes() {
        let groups = vec!["system:nodes".to_owned()];
        assert_eq!(node_of("system:node:n1", &groups), Some("n1"));
        assert_eq!(node_of("system:node:n1", &[]), None);
        assert_eq!(node_of("system:node:", &groups), None);
    }
}
