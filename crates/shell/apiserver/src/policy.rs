//! Plugs `trireme_policy`'s decisions into the seams: roles and bindings are followed by a watch of the store, admission
//! sees the store through a view.
//!
//! Invariant: a role's change counts as soon as it is applied to the local replica and this watch has seen it; reads lag
//! by no more than a scheduling delay, like upstream's informers.

use std::sync::Arc;

use parking_lot::RwLock;
use rand::Rng as _;
use serde_json::Value;
use trireme_api::{Object, Status};
use trireme_policy::admission::{self, Authority, Lookup, Permission};
use trireme_policy::node;
use trireme_policy::rbac::{self, Rbac, Who};
use trireme_store::{EventKind, Store};

use crate::admission::{Admission, Operation, Request, View};
use crate::authorization::{Attributes, Authorizer, Decision, Rule};
use crate::keys;
use crate::places::Places;
use crate::user::{APISERVER, MASTERS, UserInfo};

pub use crate::bootstrap_roles::bootstrap_roles;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Lookup for View<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        View::get(self, group, plural, namespace, name).map(|object| object.value())
    }

    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        View::list(self, group, plural, namespace)
            .iter()
            .map(trireme_api::Object::value)
            .collect()
    }

    fn some_pod_on(&self, node: &str, namespace: &str, wanted: &dyn Fn(&Value) -> bool) -> bool {
        // A pod that does not say the node's name anywhere needs no parsing.
        let said = format!("\"nodeName\":{}", Value::from(node));
        let pods = View::list(self, "", "pods", Some(namespace));
        let says = |pod: &Object| std::str::from_utf8(pod.bytes()).is_ok_and(|text| text.contains(&said));
        pods.iter()
            .filter(|pod| says(pod))
            .any(|pod| is_on(&pod.value(), node, wanted))
    }
}

fn is_on(pod: &Value, node: &str, wanted: &dyn Fn(&Value) -> bool) -> bool {
    pod["spec"]["nodeName"] == node && wanted(pod)
}

/// The store as the node authoriser sees it: what is known of where pods are says where to look first.
struct WithPlaces<'a> {
    view: View<'a>,
    store: &'a dyn Store,
    places: &'a Places,
}

impl Lookup for WithPlaces<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        Lookup::get(&self.view, group, plural, namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        Lookup::list(&self.view, group, plural, namespace)
    }

    fn some_pod_on(&self, node: &str, namespace: &str, wanted: &dyn Fn(&Value) -> bool) -> bool {
        let prefix = keys::prefix("", "pods", Some(namespace));
        let known: Vec<Arc<str>> = {
            let nodes = self.places.0.read();
            let keys = nodes.get(node).into_iter().flatten();
            keys.filter(|key| key.starts_with(&prefix)).cloned().collect()
        };
        let mut pods = known.iter().filter_map(|key| self.store.get(key));
        // A pod that was bound this instant may not be known yet: then all are looked at.
        pods.any(|pod| is_on(&pod.value(), node, wanted)) || self.view.some_pod_on(node, namespace, wanted)
    }
}

/// The default chain of authorisers: the API server itself and masters, nodes by relationship, then roles.
pub struct PolicyAuthorizer {
    roles: RwLock<Rbac>,
    /// Where pods are, so that what a node asks for costs nothing for the pods of others.
    places: Arc<Places>,
    store: Arc<dyn Store>,
}

impl PolicyAuthorizer {
    /// Reads all roles and bindings and follows them from there on. Must be called within a tokio runtime; the task ends
    /// with the process.
    #[must_use]
    pub fn start(store: Arc<dyn Store>) -> Arc<Self> {
        let revision = store.revision();
        let mut roles = Rbac::default();
        let prefix = format!("{GROUP}/");
        if let Ok(page) = store.range(&prefix, None, None, Some(revision)) {
            for (_, object) in &page.items {
                roles.set(&object.value());
            }
        }
        let authorizer = Arc::new(Self {
            roles: RwLock::new(roles),
            places: Places::start(Arc::clone(&store)),
            store,
        });
        tokio::spawn(Arc::clone(&authorizer).follow(revision));
        authorizer
    }

    async fn follow(self: Arc<Self>, mut after: u64) {
        let prefix = format!("{GROUP}/");
        loop {
            match self.store.watch(&prefix, after) {
                Ok(mut watch) => {
                    while let Ok(events) = watch.next().await {
                        let mut roles = self.roles.write();
                        for event in events {
                            let value = event.object.value();
                            match event.kind {
                                EventKind::Put => roles.set(&value),
                                EventKind::Delete => roles.remove(&value),
                            }
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "roles are read anew"),
            }
            // Fallen behind history: start from the whole again.
            after = self.store.revision();
            let mut fresh = Rbac::default();
            if let Ok(page) = self.store.range(&prefix, None, None, Some(after)) {
                page.items.iter().for_each(|(_, object)| fresh.set(&object.value()));
            }
            *self.roles.write() = fresh;
        }
    }
}

/// What one user may do.
struct Of<'a> {
    authorizer: &'a PolicyAuthorizer,
    user: &'a UserInfo,
}

impl Authority for Of<'_> {
    fn is_unlimited(&self) -> bool {
        self.user.name == APISERVER || self.user.in_group(MASTERS)
    }

    fn allows(&self, permission: &Permission<'_>) -> bool {
        let attributes = Attributes {
            verb: permission.verb.to_owned(),
            resource_request: true,
            group: permission.group.to_owned(),
            version: "v1".to_owned(),
            resource: permission.resource.to_owned(),
            namespace: permission.namespace.to_owned(),
            name: permission.name.to_owned(),
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(self.user, &attributes), Decision::Allow(_))
    }

    fn rules(&self, namespace: &str) -> Vec<rbac::Rule> {
        self.authorizer.roles.read().rules(&who(self.user), namespace)
    }
}

fn who(user: &UserInfo) -> Who<'_> {
    Who {
        name: &user.name,
        groups: &user.groups,
    }
}

impl Authorizer for PolicyAuthorizer {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.name == APISERVER || user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut why = String::new();
        if attributes.resource_request
            && let Some(node) = node::node_of(&user.name, &user.groups)
        {
            let asked = node::Attributes {
                verb: &attributes.verb,
                group: &attributes.group,
                resource: &attributes.resource,
                subresource: &attributes.subresource,
                namespace: &attributes.namespace,
                name: &attributes.name,
                field_selector: &attributes.field_selector,
            };
            let lookup = WithPlaces {
                view: View::new(self.store.as_ref()),
                store: self.store.as_ref(),
                places: &self.places,
            };
            match node::authorize(node, &asked, &lookup) {
                Ok(()) => return Decision::Allow(String::new()),
                Err(reason) => why = reason,
            }
        }
        let resource = if attributes.subresource.is_empty() {
            attributes.resource.clone()
        } else {
            format!("{}/{}", attributes.resource, attributes.subresource)
        };
        let query = if attributes.resource_request {
            rbac::Query::Resource {
                verb: &attributes.verb,
                group: &attributes.group,
                resource: &resource,
                name: &attributes.name,
            }
        } else {
            rbac::Query::Path {
                verb: &attributes.verb,
                path: &attributes.path,
            }
        };
        match self.roles.read().allows(&who(user), &attributes.namespace, &query) {
            Some(reason) => Decision::Allow(reason),
            None => Decision::NoOpinion(why),
        }
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, bool) {
        let roles = self.roles.read();
        let mut rules: Vec<Rule> = roles.rules(&who(user), namespace).into_iter().map(shown).collect();
        if user.in_group(MASTERS) && rules.is_empty() {
            let all = || vec!["*".to_owned()];
            rules.push(Rule {
                verbs: all(),
                groups: all(),
                resources: all(),
                ..Rule::default()
            });
        }
        (rules, false)
    }
}

fn shown(rule: rbac::Rule) -> Rule {
    Rule {
        verbs: rule.verbs,
        groups: rule.api_groups,
        resources: rule.resources,
        names: rule.resource_names,
        paths: rule.non_resource_urls,
    }
}

/// In-tree admission.
pub struct PolicyAdmission {
    authorizer: Arc<PolicyAuthorizer>,
}

impl PolicyAdmission {
    /// Admission that checks grants against this authoriser.
    #[must_use]
    pub fn new(authorizer: Arc<PolicyAuthorizer>) -> Self {
        Self { authorizer }
    }

    /// Runs a decision of the policy crate on a request of this one.
    fn decide<T>(
        &self,
        request: &mut Request<'_>,
        decide: impl FnOnce(&mut admission::Request<'_>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let view = request.view;
        let authority = Of {
            authorizer: &self.authorizer,
            user: request.user,
        };
        decide(&mut admission::Request {
            group: request.row.group,
            resource: request.row.plural,
            subresource: request.subresource,
            operation: match request.operation {
                Operation::Create => admission::Operation::Create,
                Operation::Update => admission::Operation::Update,
                Operation::Delete => admission::Operation::Delete,
                Operation::Connect => admission::Operation::Connect,
            },
            namespace: if request.row.namespaced { request.namespace } else { "" },
            name: request.name,
            user: &request.user.name,
            groups: &request.user.groups,
            object: request.object,
            old: request.old_object,
            lookup: &view,
            authority: &authority,
            warnings: request.warnings,
        })
    }
}

impl Admission for PolicyAdmission {
    fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        self.decide(request, |request| admission::mutate(request, &mut suffix))
    }

    fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        self.decide(request, admission::validate)
    }

    fn charge(&self, request: &mut Request<'_>) -> Result<Vec<Value>, Status> {
        self.decide(request, |request| admission::charge(request))
    }
}

/// Five letters as `generateName` uses them.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}
