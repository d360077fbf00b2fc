//! Plugs `trireme_policy`'s decisions into the seams: roles and bindings are followed by a watch of the store, admission
//! sees the store through a view.
//!
//! Invariant: a role's change counts as soon as it is applied to the local replica and this watch has seen it; reads lag
//! by no more than a scheduling delay, like upstream's informers.

use std::sync::Arc;

use parking_lot::RwLock;
use rand::Rng as _;
use serde_json::Value;
use trireme_api::Status;
use trireme_policy::admission::{self, Lookup};
use trireme_policy::node;
use trireme_policy::rbac::{self, Rbac, Who};
use trireme_store::{EventKind, Store};

use crate::admission::{Admission, Operation, Request, View};
use crate::authorization::{Attributes, Authorizer, Decision, Rule};
use crate::keys;
use crate::user::{APISERVER, MASTERS, UserInfo};

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
}

/// The default chain of authorisers: the API server itself and masters, nodes by relationship, then roles.
pub struct PolicyAuthorizer {
    roles: RwLock<Rbac>,
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

    /// Rules that a user lacks to grant others these rules: empty where granting them gives nothing away.
    #[must_use]
    pub fn missing(&self, user: &UserInfo, namespace: &str, wanted: &[rbac::Rule]) -> Vec<rbac::Rule> {
        if user.name == APISERVER || user.in_group(MASTERS) {
            return Vec::new();
        }
        let roles = self.roles.read();
        rbac::uncovered(&roles.rules(&who(user), namespace), wanted)
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
            match node::authorize(node, &asked, &View::new(self.store.as_ref())) {
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

/// In-tree admission, and the guard against granting what one does not have.
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
        request: &mut Request<'_>,
        decide: impl FnOnce(&mut admission::Request<'_>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let view = request.view;
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
            warnings: request.warnings,
        })
    }

    /// Nobody makes a role with rules they lack, or binds one, unless they may `escalate` or `bind`
    /// (pkg/registry/rbac/{role,rolebinding}/policybased).
    fn check_escalation(&self, request: &Request<'_>) -> Result<(), Status> {
        let user = request.user;
        if request.row.group != GROUP || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let may = |verb: &str, plural: &str, name: &str| {
            let attributes = Attributes {
                verb: verb.to_owned(),
                resource_request: true,
                group: GROUP.to_owned(),
                version: "v1".to_owned(),
                resource: plural.to_owned(),
                namespace: request.namespace.to_owned(),
                name: name.to_owned(),
                ..Attributes::default()
            };
            matches!(self.authorizer.authorize(user, &attributes), Decision::Allow(_))
        };
        let parse = |rules: &Value| serde_json::from_value::<Vec<rbac::Rule>>(rules.clone()).unwrap_or_default();
        let (wanted, allowed) = match request.row.plural {
            "roles" | "clusterroles" => {
                if request.old_object.is_some_and(|old| old["rules"] == request.object["rules"]) {
                    return Ok(());
                }
                (
                    parse(&request.object["rules"]),
                    may("escalate", request.row.plural, request.name),
                )
            }
            "rolebindings" | "clusterrolebindings" => {
                let same =
                    |old: &Value| old["roleRef"] == request.object["roleRef"] && old["subjects"] == request.object["subjects"];
                if request.old_object.is_some_and(same) {
                    return Ok(());
                }
                let reference = &request.object["roleRef"];
                let name = reference["name"].as_str().unwrap_or_default();
                let (plural, namespace) = if reference["kind"] == "Role" {
                    ("roles", request.namespace)
                } else {
                    ("clusterroles", "")
                };
                if may("bind", plural, name) {
                    return Ok(());
                }
                let Some(role) = request.view.get(GROUP, plural, namespace, name) else {
                    return Err(Status::not_found(GROUP, plural, name));
                };
                (parse(&role.value()["rules"]), false)
            }
            _ => return Ok(()),
        };
        if allowed {
            return Ok(());
        }
        let missing = self.authorizer.missing(user, request.namespace, &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> = missing.iter().map(describe).collect();
        let groups = user
            .groups
            .iter()
            .map(|group| format!("{group:?}"))
            .collect::<Vec<_>>()
            .join(" ");
        let why = format!(
            "user {:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            listed.join("\n")
        );
        Err(Status::forbidden(GROUP, request.row.plural, request.name, &why))
    }
}

/// A rule as upstream's compact form prints it.
fn describe(rule: &rbac::Rule) -> String {
    let list = |items: &[String]| {
        format!(
            "[{}]",
            items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" ")
        )
    };
    let mut parts = Vec::new();
    let named = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    for (name, items) in named {
        if !items.is_empty() {
            parts.push(format!("{name}:{}", list(items)));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

impl Admission for PolicyAdmission {
    fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        Self::decide(request, |request| admission::mutate(request, &mut suffix))
    }

    fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        self.check_escalation(request)?;
        Self::decide(request, admission::validate)
    }

    fn charge(&self, request: &mut Request<'_>) -> Result<Vec<Value>, Status> {
        Self::decide(request, |request| admission::charge(request))
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

/// Makes the bootstrap roles and bindings that are absent, and adds what present ones lack (reconciliation at start).
///
/// # Errors
/// The first write that fails.
pub async fn bootstrap_roles(server: &crate::server::ApiServer) -> Result<(), Status> {
    use trireme_store::{Body, Operation as Change, Precondition, Write};
    let mut writes = Vec::new();
    let now = crate::server::now();
    for mut object in trireme_policy::bootstrap::objects() {
        let plural = match object["kind"].as_str() {
            Some("ClusterRole") => "clusterroles",
            Some("Role") => "roles",
            Some("ClusterRoleBinding") => "clusterrolebindings",
            _ => "rolebindings",
        };
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let key = keys::object(GROUP, plural, &namespace, &name);
        if server.store.get(&key).is_some() {
            continue;
        }
        object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
        object["metadata"]["creationTimestamp"] = now.clone().into();
        let body = Body::new(object);
        writes.push(Write {
            key,
            precondition: Precondition::Absent,
            operation: Change::Put { body, ttl_seconds: None },
        });
    }
    aggregate(&mut writes);
    if !writes.is_empty() {
        server.commit(writes, None).await?;
    }
    Ok(())
}

/// Fills the rules of aggregated roles in one transaction's bodies, so that `admin`, `edit` and `view` grant something
/// from the first moment.
fn aggregate(writes: &mut [trireme_store::Write]) {
    use trireme_store::{Body, Operation as Change};
    let value = |write: &trireme_store::Write| match &write.operation {
        Change::Put { body, .. } => serde_json::from_slice::<Value>(&body.bytes).unwrap_or_default(),
        Change::Delete { .. } => Value::Null,
    };
    // Twice: `admin` takes in `edit`, which takes in others.
    for _ in 0..3 {
        let values: Vec<Value> = writes.iter().map(value).collect();
        for (write, own) in writes.iter_mut().zip(&values) {
            let selectors = own["aggregationRule"]["clusterRoleSelectors"].as_array();
            let labels: Vec<&String> = selectors
                .into_iter()
                .flatten()
                .filter_map(|s| s["matchLabels"].as_object())
                .flat_map(|l| l.keys())
                .collect();
            if labels.is_empty() {
                continue;
            }
            let mut rules: Vec<Value> = Vec::new();
            for other in values.iter().filter(|other| {
                labels
                    .iter()
                    .any(|label| other["metadata"]["labels"][label.as_str()] == "true")
            }) {
                for rule in other["rules"].as_array().into_iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
            let mut filled = own.clone();
            filled["rules"] = rules.into();
            write.operation = Change::Put {
                body: Body::new(filled),
                ttl_seconds: None,
            };
        }
    }
}
