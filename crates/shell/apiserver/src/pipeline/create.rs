//! POST to a collection.
//!
//! Invariant: an object is stored only where nothing was, together with everything it allocates, in one transaction, which
//! also demands that its namespace is there and not being deleted. What this replica would refuse it looks at again once it
//! has caught up with the others.

use std::collections::HashSet;

use rand::Rng as _;
use serde_json::Value;
use trireme_api::cost::Ledger;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::{Object, Status};
use trireme_policy::webhook::Phase;
use trireme_store::{Applied, Body, Key, Operation as StoreOperation, Precondition, Write};

use super::{RETRIES_MAX, Target, WriteOptions, Written, meta_text, metadata, owners, rules};
use crate::admission::{Operation, Request};
use crate::keys;
use crate::server::{ApiServer, now};
use crate::webhooks::{Asked, Mutated};

/// Letters of generated names: no vowels, so that no words come out, and nothing that looks like something else.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Longest base that a suffix fits behind.
const GENERATED_BASE_MAX: usize = 63 - SUFFIX_LENGTH;

impl ApiServer {
    /// Creates an object. `value` is decoded and defaulted in the target's version.
    ///
    /// # Errors
    /// As upstream.
    pub async fn create(&self, target: &Target, value: Value, options: &WriteOptions) -> Result<Written, Status> {
        self.create_as(target, value, options, By::Post).await
    }

    /// Creates an object, which is asked for in one of the three ways.
    pub(crate) async fn create_as(
        &self,
        target: &Target,
        value: Value,
        options: &WriteOptions,
        by: By,
    ) -> Result<Written, Status> {
        let mut warnings = Vec::new();
        match self.create_warning(target, value, options, by, &mut warnings).await {
            Ok(object) => Ok(Written {
                object,
                created: true,
                warnings,
            }),
            Err(status) => Err(status.warning(warnings)),
        }
    }

    /// Creates an object; what the client is to be warned of stands in `warnings`, also where it fails.
    async fn create_warning(
        &self,
        target: &Target,
        mut value: Value,
        options: &WriteOptions,
        by: By,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        let mut ledger = Ledger::new();
        ledger.decoded(&value, options.values, target.row.limits)?;
        match_namespace(target, &mut value)?;
        let given_version = meta_text(&value, "resourceVersion").to_owned();
        fill_system_fields(target, &mut value, by, options.dry_run);
        if by != By::Apply {
            owners::deduplicate(&mut value, owners::Found::Sent, warnings);
            rules::update_managers(target, None, &mut value, options, &target.subresource);
        }
        self.admit_custom(target, &value)?;
        let mutated = self.admit_new(target, &mut value, options, warnings).await?;
        let own;
        let options = if mutated.empty && !options.empty {
            own = WriteOptions {
                empty: true,
                ..options.clone()
            };
            &own
        } else {
            options
        };
        owners::deduplicate(&mut value, owners::Found::AfterAdmission, warnings);
        match_namespace(target, &mut value)?;
        // What cannot be read is no version to a POST, and a mistake to the others; what can, the other way round.
        let refused = match (by, super::update::version(&given_version)) {
            (By::Post, version) => version.is_ok_and(|version| version > 0),
            (By::Put | By::Apply, version) => {
                version?;
                false
            }
        };
        let given = Given {
            version: &given_version,
            refused,
            ledger,
        };
        let mut value = rules::to_stored(target.row, value)?;
        let generated = meta_text(&value, "name").is_empty() && !meta_text(&value, "generateName").is_empty();
        let mut attempt = 0;
        loop {
            attempt += 1;
            if generated {
                let base = meta_text(&value, "generateName").to_owned();
                metadata(&mut value).insert("name".into(), Value::String(generate_name(&base)));
            }
            let name = meta_text(&value, "name").to_owned();
            // Only generated names, allocations and quotas are ever tried again.
            let again = generated || crate::service_allocation::is_service(target) || self.has_quota(target);
            let candidate = if again { value.clone() } else { std::mem::take(&mut value) };
            let outcome = self.create_once(target, candidate, options, &given, warnings).await?;
            match outcome {
                Outcome::Done(object) => {
                    let written = object.header().resource_version;
                    return self.shown(target, object, written).await;
                }
                Outcome::Exists(_) if generated && attempt < RETRIES_MAX => {}
                Outcome::Exists(current) => {
                    let mut status = Status::already_exists(target.row.group, target.row.plural, &name);
                    if current.is_some_and(|current| current.header().deleting) {
                        status.message = format!("object is being deleted: {}", status.message);
                    }
                    return Err(status);
                }
                Outcome::AllocationLost if attempt < RETRIES_MAX * 4 => {}
                Outcome::AllocationLost => {
                    return Err(Status::internal("too many concurrent allocations, try again"));
                }
            }
        }
    }

    async fn create_once(
        &self,
        target: &Target,
        mut value: Value,
        options: &WriteOptions,
        given: &Given<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Outcome, Status> {
        warn(warnings, rules::prepare_create(target, &mut value, options));
        let mut ledger = given.ledger;
        ledger.grown(&value, target.row.limits)?;
        // What is created through its status gets nothing allocated.
        let mut writes = if target.subresource.is_empty() {
            self.allocate_create(target, &mut value, options.dry_run)?
        } else {
            Vec::new()
        };
        let name = meta_text(&value, "name").to_owned();
        let mut errors = self.admin_access(target, &value);
        let judged = rules::validate_create(target, &value);
        errors.extend(judged.errors);
        if !errors.is_empty() {
            return Err(target.invalid(&name, &errors));
        }
        rules::canonicalize_admitted(target.row, &mut value, options.empty);
        warn(warnings, judged.warnings);
        let whole;
        let judged = if target.subresource.is_empty() {
            target
        } else {
            whole = target.whole();
            &whole
        };
        warn(warnings, rules::warnings(judged, &value, None, self.config.warn_unenforced));
        self.validate(target, Operation::Create, &mut value, None, options, warnings)?;
        self.validate_new_by_webhooks(target, &value, options, warnings).await?;
        writes.extend(self.charge(target, Operation::Create, &mut value, None, options, warnings)?);
        if options.empty {
            rules::canonicalize_empty(target.row, &mut value);
        }
        // A dry run does not get as far as the store, which asks.
        if given.refused && !options.dry_run {
            return Err(Status {
                reason: String::new(),
                ..Status::failure(500, "", "resourceVersion should not be set on objects to be created")
            });
        }
        let key = target.key_of(&name);
        let guards = self.guards(target);
        if options.dry_run {
            self.barrier().await?;
            if guards.iter().any(|guard| self.going(guard) != Some(false)) {
                return Err(self.namespace_lost(target, &name));
            }
            if !given.version.is_empty() {
                metadata(&mut value).insert("resourceVersion".into(), given.version.into());
            }
            return Ok(match self.store.get(&key) {
                Some(current) => Outcome::Exists(Some(current)),
                None => Outcome::Done(rules::object_from(value, None)?),
            });
        }
        metadata(&mut value).remove("selfLink"); // it is not stored
        let body = Body::new(self.encoded(target, value).await?);
        let put = StoreOperation::Put {
            body,
            ttl_seconds: self.ttl(target),
        };
        writes.insert(
            0,
            Write {
                key,
                precondition: Precondition::Absent,
                operation: put,
            },
        );
        match self.commit_guarded(writes, guards, target.user.fence).await? {
            Applied::Committed { mut objects, .. } => Ok(Outcome::Done(objects.swap_remove(0))),
            Applied::Unguarded { .. } => Err(self.namespace_lost(target, &name)),
            Applied::Conflict { write: 0, current } => Ok(Outcome::Exists(current)),
            Applied::Conflict { .. } => Ok(Outcome::AllocationLost),
            Applied::Done | Applied::Fenced { .. } => {
                Err(Status::internal("the store answered a transaction with something else"))
            }
        }
    }

    /// That a claim asks for devices that others use only in a namespace that is labelled for it.
    fn admin_access(&self, target: &Target, value: &Value) -> Vec<FieldError> {
        let Some(path) = trireme_resources::validation::asks_for_admin(target.row, value) else {
            return Vec::new();
        };
        const LABEL: &str = "resource.kubernetes.io/admin-access";
        let namespace = self.store.get(&keys::object("", "namespaces", "", &target.namespace));
        if namespace.is_some_and(|namespace| namespace.value()["metadata"]["labels"][LABEL] == "true") {
            return Vec::new();
        }
        let detail = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
        vec![super::options::error(FieldErrorType::Forbidden, &path, "", detail)]
    }

    /// What must live for an object to be created: its namespace. Where nobody demands that there be one (without
    /// admission), and there is none, nothing.
    fn guards(&self, target: &Target) -> Vec<Key> {
        if !target.row.namespaced || target.namespace.is_empty() {
            return Vec::new();
        }
        let key = keys::object("", "namespaces", "", &target.namespace);
        self.store.get(&key).map(|_| key).into_iter().collect()
    }

    /// Whether the namespace at a key is being deleted; `None` where there is none.
    fn going(&self, key: &str) -> Option<bool> {
        self.store.get(key).map(|namespace| namespace.header().deleting)
    }

    /// Why nothing can be created in a namespace that was there when the request was looked at, and was not, or was being
    /// deleted, when it was to be stored.
    fn namespace_lost(&self, target: &Target, name: &str) -> Status {
        let key = keys::object("", "namespaces", "", &target.namespace);
        // It may have been made anew since: the request met the old one.
        let going = self.going(&key).map(|_| true);
        let forbid = |why: &str| Status::forbidden(target.row.group, target.row.plural, name, why);
        match trireme_policy::admission::check_namespace(&target.namespace, going, true, forbid) {
            Err(status) => status,
            Ok(()) => unreachable!("a namespace that is being deleted takes nothing new"),
        }
    }

    /// Mutating admission of something new. A refusal is decided again once this replica has what was acknowledged anywhere
    /// before the request: a namespace, a service account or a class that was just made at another server is there. Webhooks are
    /// asked last.
    pub(crate) async fn admit_new(
        &self,
        target: &Target,
        object: &mut Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Mutated, Status> {
        let admitted = self.mutate(target, Operation::Create, object, None, options, warnings);
        if admitted.is_err() {
            self.barrier().await?;
            self.mutate(target, Operation::Create, object, None, options, warnings)?;
        }
        self.mutate_new_by_webhooks(target, object, options, warnings).await
    }

    /// Asks mutating webhooks about something new, which has neither uid nor time of creation to them, as upstream gives it these
    /// later.
    pub(crate) async fn mutate_new_by_webhooks(
        &self,
        target: &Target,
        object: &mut Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Mutated, Status> {
        if !self.webhooks.any(Phase::Mutating) {
            return Ok(Mutated::default());
        }
        let name = admission_name(target, object);
        let Some(call) = self.webhooks(Phase::Mutating, target, Operation::Create, &name) else {
            return Ok(Mutated::default());
        };
        const LATER: [&str; 2] = ["uid", "creationTimestamp"];
        let later = LATER.map(|name| Some((name, metadata(object).remove(name)?)));
        let asked = Asked::write(target, Operation::Create, &name, options);
        let asking = self.mutate_by_webhooks(&call, &asked, object, None, options, warnings);
        let mutated = Box::pin(asking).await?;
        for name in LATER {
            metadata(object).remove(name);
        }
        for (name, value) in later.into_iter().flatten() {
            metadata(object).insert(name.to_owned(), value);
        }
        Ok(mutated)
    }

    /// Asks validating webhooks about something new, as it will be stored.
    pub(crate) async fn validate_new_by_webhooks(
        &self,
        target: &Target,
        object: &Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !self.webhooks.any(Phase::Validating) {
            return Ok(());
        }
        let name = admission_name(target, object);
        let Some(call) = self.webhooks(Phase::Validating, target, Operation::Create, &name) else {
            return Ok(());
        };
        let asked = Asked::write(target, Operation::Create, &name, options);
        Box::pin(self.validate_by_webhooks(&call, &asked, (Some(object), None), warnings)).await
    }

    /// Seconds that an object of this row is kept.
    pub(crate) fn ttl(&self, target: &Target) -> Option<u32> {
        let seconds = || u32::try_from(self.config.event_ttl.as_secs()).unwrap_or(u32::MAX);
        target.row.expires.then(seconds)
    }

    pub(crate) fn mutate(
        &self,
        target: &Target,
        operation: Operation,
        object: &mut Value,
        old_object: Option<&Value>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let name = admission_name(target, object);
        self.plugins.admission.mutate(&mut Request {
            row: target.row,
            operation,
            namespace: admission_namespace(target, &name),
            name: &name,
            subresource: &target.subresource,
            user: &target.user,
            object,
            old_object,
            options: &Value::Null,
            dry_run: options.dry_run,
            view: self.view(),
            warnings,
        })
    }

    /// That the definition of a custom resource is not being deleted: it takes nothing new, by whatever request.
    fn admit_custom(&self, target: &Target, object: &Value) -> Result<(), Status> {
        let row = target.row;
        let found = target
            .custom
            .as_ref()
            .and_then(|_| self.customs.find(row.group, row.version, row.plural));
        if found.is_some_and(|found| found.terminating) {
            let name = admission_name(target, object);
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::forbidden(row.group, row.plural, &name, why));
        }
        Ok(())
    }

    /// Whether the object's namespace has a quota, of which a version may change between look and commit.
    fn has_quota(&self, target: &Target) -> bool {
        let quotas = || self.view().list("", "resourcequotas", Some(&target.namespace));
        target.row.namespaced && !quotas().is_empty()
    }

    /// Last in a write: the quotas that it is charged to, each onto the version that was looked at.
    pub(crate) fn charge(
        &self,
        target: &Target,
        operation: Operation,
        object: &mut Value,
        old_object: Option<&Value>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Write>, Status> {
        let name = admission_name(target, object);
        let charged = self.plugins.admission.charge(&mut Request {
            row: target.row,
            operation,
            namespace: admission_namespace(target, &name),
            name: &name,
            subresource: &target.subresource,
            user: &target.user,
            object,
            old_object,
            options: &Value::Null,
            dry_run: options.dry_run,
            view: self.view(),
            warnings,
        })?;
        charged.into_iter().map(charged_write).collect()
    }

    pub(crate) fn validate(
        &self,
        target: &Target,
        operation: Operation,
        object: &mut Value,
        old_object: Option<&Value>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let name = admission_name(target, object);
        self.plugins.admission.validate(&mut Request {
            row: target.row,
            operation,
            namespace: admission_namespace(target, &name),
            name: &name,
            subresource: &target.subresource,
            user: &target.user,
            object,
            old_object,
            options: &Value::Null,
            dry_run: options.dry_run,
            view: self.view(),
            warnings,
        })
    }
}

/// Adds what is not there yet: an attempt that is lost is made again.
pub(crate) fn warn(warnings: &mut Vec<String>, more: Vec<String>) {
    if more.is_empty() {
        return;
    }
    let mut told: HashSet<String> = warnings.iter().cloned().collect();
    warnings.extend(more.into_iter().filter(|warning| told.insert(warning.clone())));
}

/// How a creation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// POST to the collection.
    Post,
    /// PUT where nothing is.
    Put,
    /// Server-side apply, which made the managed fields, too.
    Apply,
}

/// The resourceVersion that comes with an object to create.
struct Given<'a> {
    /// As text, empty where there is none; a dry run shows it.
    version: &'a str,
    /// Whether an object to create must not have it.
    refused: bool,
    /// What the object cost as it came.
    ledger: Ledger,
}

enum Outcome {
    Done(Object),
    Exists(Option<Object>),
    AllocationLost,
}

/// The write of an object that changed along with another.
fn charged_write(object: Value) -> Result<Write, Status> {
    let version = meta_text(&object, "resourceVersion").parse();
    let revision = version.map_err(|_| Status::internal("a stored object has no revision"))?;
    Ok(Write {
        key: keys::object(
            "",
            "resourcequotas",
            meta_text(&object, "namespace"),
            meta_text(&object, "name"),
        ),
        precondition: Precondition::Revision(revision),
        operation: StoreOperation::Put {
            body: Body::new(object),
            ttl_seconds: None,
        },
    })
}

pub(crate) fn admission_name(target: &Target, object: &Value) -> String {
    if target.name.is_empty() {
        meta_text(object, "name").to_owned()
    } else {
        target.name.clone()
    }
}

pub(crate) fn admission_namespace<'a>(target: &'a Target, name: &'a str) -> &'a str {
    if target.row.plural == "namespaces" && target.row.group.is_empty() {
        name
    } else {
        &target.namespace
    }
}

/// The object's namespace must be the request's; an absent one is filled in.
pub(crate) fn match_namespace(target: &Target, value: &mut Value) -> Result<(), Status> {
    let wanted = if target.row.namespaced {
        target.namespace.as_str()
    } else {
        ""
    };
    let given = meta_text(value, "namespace");
    if given == wanted {
        return Ok(());
    }
    if wanted.is_empty() {
        metadata(value).remove("namespace");
        return Ok(());
    }
    if given.is_empty() {
        metadata(value).insert("namespace".into(), Value::String(wanted.to_owned()));
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// Sets what only the server says. PUT and apply may create what is being deleted already: upstream wipes what a POST says
/// of it alone, and a link to oneself when it is stored.
fn fill_system_fields(target: &Target, value: &mut Value, by: By, dry_run: bool) {
    let metadata = metadata(value);
    metadata.remove("resourceVersion");
    if by == By::Post {
        metadata.remove("deletionTimestamp");
        metadata.remove("deletionGracePeriodSeconds");
    }
    if by == By::Post || !dry_run {
        metadata.remove("selfLink");
    }
    metadata.insert("creationTimestamp".into(), Value::String(now()));
    metadata.insert("uid".into(), Value::String(uuid::Uuid::new_v4().to_string()));
    value["apiVersion"] = Value::String(target.api_version());
    value["kind"] = Value::String(target.row.kind.to_owned());
}

/// A name from `generateName` and five random letters.
#[must_use]
pub fn generate_name(base: &str) -> String {
    let mut name = base.to_owned();
    while name.len() > GENERATED_BASE_MAX {
        name.pop();
    }
    let mut random = rand::rng();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]));
    }
    name
}
