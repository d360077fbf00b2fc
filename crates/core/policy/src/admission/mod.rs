//! In-tree admission: what is filled into, and demanded of, objects on their way into the store beyond their own kind's
//! rules (plugin/pkg/admission).
//!
//! Invariant: a plugin sees the rest of the world only through [`Lookup`]; a refusal changes nothing that is stored.

mod escalation;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod pod;
mod pod_resize;
mod pod_security;
mod protection;
mod quota;
mod service_account;
mod volume_resize;

use serde_json::Value;
use trireme_api::Status;

use crate::rbac::Rule;

pub use namespace::check_lives as check_namespace;
pub use quota::charge;

/// What happens to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// A stream to it is opened.
    Connect,
}

impl Operation {
    /// Upstream's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Read access to stored objects.
pub trait Lookup {
    /// One object.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All of a namespace, or of the cluster.
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value>;
    /// Whether some pod of a namespace that is bound to a node is such a one.
    fn some_pod_on(&self, node: &str, namespace: &str, wanted: &dyn Fn(&Value) -> bool) -> bool {
        let pods = self.list("", "pods", Some(namespace));
        pods.iter().any(|pod| pod["spec"]["nodeName"] == node && wanted(pod))
    }
}

/// One thing that somebody may be allowed to do to objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission<'a> {
    /// Verb.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Namespace, empty for the cluster.
    pub namespace: &'a str,
    /// Name, empty for any.
    pub name: &'a str,
}

/// What the user of a request may do, by the authorisers.
pub trait Authority {
    /// Whether all that is asked of it is allowed without a look at rules: the API server itself and `system:masters`.
    fn is_unlimited(&self) -> bool;
    /// Whether the user may do this.
    fn allows(&self, permission: &Permission<'_>) -> bool;
    /// The rules that apply to the user in a namespace (empty: of the cluster).
    fn rules(&self, namespace: &str) -> Vec<Rule>;
}

/// One request.
pub struct Request<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Subresource, empty for the object itself.
    pub subresource: &'a str,
    /// Operation.
    pub operation: Operation,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name; empty while it is still to be generated.
    pub name: &'a str,
    /// User's name.
    pub user: &'a str,
    /// User's groups.
    pub groups: &'a [String],
    /// New object; `Null` for deletions.
    pub object: &'a mut Value,
    /// Object as it is.
    pub old: Option<&'a Value>,
    /// The stored world.
    pub lookup: &'a dyn Lookup,
    /// What the user may do otherwise.
    pub authority: &'a dyn Authority,
    /// Warnings for the client.
    pub warnings: &'a mut Vec<String>,
}

/// Appends to a list, which is made where there is none and something comes.
fn append(list: &mut Value, mut more: Vec<Value>) {
    match list {
        _ if more.is_empty() => {}
        Value::Array(items) => items.append(&mut more),
        other => *other = Value::Array(more),
    }
}

impl Request<'_> {
    fn warn(&mut self, warning: String) {
        // A lost race asks again.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    fn is_new_pod(&self) -> bool {
        self.is("", "pods") && self.subresource.is_empty() && self.operation == Operation::Create
    }

    /// Whether a pod gets other resources. One that is being deleted is left alone.
    fn is_resize(&self) -> bool {
        let going = self.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
        self.is("", "pods") && self.subresource == "resize" && self.operation == Operation::Update && !going
    }

    /// The name that messages show: `generateName` where there is no name yet.
    fn shown_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.to_owned();
        }
        let member = |name: &str| self.object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let name = member("name");
        if name.is_empty() { member("generateName") } else { name }
    }

    fn forbid(&self, why: &str) -> Status {
        Status::forbidden(self.group, self.resource, &self.shown_name(), why)
    }
}

/// Fills in, in upstream's order of plugins; running it again on what it gave changes nothing. `suffix` gives five fresh
/// letters.
///
/// # Errors
/// The refusal.
pub fn mutate(request: &mut Request<'_>, suffix: &mut dyn FnMut() -> String) -> Result<(), Status> {
    namespace::check(request)?;
    let new_pod = request.is_new_pod();
    if new_pod || request.is_resize() {
        limit_ranger::fill(request);
    }
    if new_pod {
        service_account::fill(request, suffix)?;
    }
    node_restriction::check(request)?;
    if new_pod {
        pod::fill_priority(request)?;
        pod::fill_tolerations(request);
        pod::fill_runtime_class(request)?;
    }
    if request.is("", "pods") && request.subresource.is_empty() && request.operation == Operation::Update {
        pod::keep_priority(request);
        pod::fill_tolerations(request);
    }
    pod::fill_ingress_class(request)?;
    pod::fill_storage_class(request);
    protection::fill(request);
    escalation::check(request)
}

/// Demands. The object is final.
///
/// # Errors
/// The refusal.
pub fn validate(request: &mut Request<'_>) -> Result<(), Status> {
    limit_ranger::check(request)?;
    service_account::check(request)?;
    pod_resize::check(request)?;
    pod_security::check(request)?;
    volume_resize::check(request)?;
    if request.is_new_pod() {
        pod::check_runtime_class(request)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::World;
