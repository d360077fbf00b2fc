//! PUT and everything that changes an object in place: the same path for patches and subresources.
//!
//! Invariant: a change is committed only onto the revision that it was made from. An unchanged object is not written.

use serde_json::Value;
use trireme_api::{Object, Status};
use trireme_store::{Applied, Body, Operation as StoreOperation, Precondition, Write};

use super::create::{match_namespace, warn};
use super::options::error;
use super::{RETRIES_MAX, Target, WriteOptions, Written, meta_list_len, meta_text, metadata, owners, rules};
use crate::admission::Operation;
use crate::server::ApiServer;

/// Makes the new object from the present one (in the target's version), anew at each attempt.
pub type Make<'a> = dyn FnMut(&Value) -> Result<Made, Status> + Send + 'a;

/// What a [`Make`] gives.
pub struct Made {
    /// The new object, decoded and defaulted.
    pub value: Value,
    /// Warnings of decoding.
    pub warnings: Vec<String>,
    /// Whether managed fields are already as they are to be (server-side apply).
    pub managed: bool,
}

impl Made {
    /// A new object without warnings.
    #[must_use]
    pub fn plain(value: Value) -> Self {
        Self {
            value,
            warnings: Vec::new(),
            managed: false,
        }
    }
}

/// How an update behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    /// The request names a whole object: PUT's checks of name and uid apply.
    pub whole: bool,
    /// A lost race is tried again, also where the new object carries the resourceVersion it was made from.
    pub patch: bool,
    /// The server's own change through a side door: neither managed fields nor admission, strategy and validation.
    pub raw: bool,
}

enum Attempt {
    Done(Written),
    Lost,
}

impl ApiServer {
    /// PUT of an object or of its status. `value` is decoded and defaulted in the target's version.
    ///
    /// # Errors
    /// As upstream.
    pub async fn update(&self, target: &Target, mut value: Value, options: &WriteOptions) -> Result<Written, Status> {
        check_name(target, &value)?;
        match_namespace(target, &mut value)?;
        self.barrier().await?;
        if target.subresource.is_empty() && rules::allow_create_on_update(target.row) && self.store.get(&target.key()).is_none() {
            let uid = meta_text(&value, "uid");
            if !uid.is_empty() {
                return Err(target.conflict(&uid_differs(target, uid, "")));
            }
            let version = meta_text(&value, "resourceVersion");
            if !version.is_empty() && version.parse::<u64>().is_err() {
                return Err(no_version(version));
            }
            if !options.dry_run {
                metadata(&mut value).remove("resourceVersion");
            }
            return self.create(target, value, options).await;
        }
        let mut make = |_: &Value| Ok(Made::plain(value.clone()));
        let behaviour = Behaviour {
            whole: true,
            ..Behaviour::default()
        };
        self.change(target, options, behaviour, &mut make).await
    }

    /// Reads, makes the new object, and commits, until no one was faster.
    ///
    /// # Errors
    /// As upstream; 409 where the client's resourceVersion is no longer the object's.
    pub async fn change(
        &self,
        target: &Target,
        options: &WriteOptions,
        behaviour: Behaviour,
        make: &mut Make<'_>,
    ) -> Result<Written, Status> {
        for _ in 0..RETRIES_MAX {
            self.barrier().await?;
            match self.change_once(target, options, behaviour, make).await? {
                Attempt::Done(written) => return Ok(written),
                Attempt::Lost => {}
            }
        }
        Err(target.modified())
    }

    async fn change_once(
        &self,
        target: &Target,
        options: &WriteOptions,
        behaviour: Behaviour,
        make: &mut Make<'_>,
    ) -> Result<Attempt, Status> {
        let current = self.store.get(&target.key()).ok_or_else(|| target.not_found())?;
        let shown = rules::to_version(target.row, current.clone())?.value();
        let mut made = make(&shown)?;
        let mut warnings = std::mem::take(&mut made.warnings);
        // Apart from the connection's own state, which every idle watch would otherwise carry.
        let changed = Box::pin(self.change_to(target, options, behaviour, (current, shown, made), &mut warnings)).await;
        match changed {
            Ok(Some(object)) => Ok(Attempt::Done(Written {
                object,
                created: false,
                warnings,
            })),
            Ok(None) => Ok(Attempt::Lost),
            Err(status) => Err(status.warning(warnings)),
        }
    }

    /// Changes the object as it is, also as shown in the target's version, to the new one; nothing where somebody was
    /// faster. What the client is to be warned of stands in `warnings`, also where it fails.
    async fn change_to(
        &self,
        target: &Target,
        options: &WriteOptions,
        behaviour: Behaviour,
        (current, shown, made): (Object, Value, Made),
        warnings: &mut Vec<String>,
    ) -> Result<Option<Object>, Status> {
        let Made { mut value, managed, .. } = made;
        value["apiVersion"] = Value::String(target.api_version());
        value["kind"] = Value::String(target.row.kind.to_owned());
        match_namespace(target, &mut value)?;
        if behaviour.patch && !behaviour.raw {
            check_name(target, &value)?;
        }
        let pinned = self.check_identity(target, behaviour, &current, &mut value)?;
        if behaviour.whole {
            owners::deduplicate(&mut value, owners::Found::Sent, warnings);
        }
        if !managed && !behaviour.raw {
            rules::update_managers(target, Some(&shown), &mut value, options, &target.subresource);
        }
        if !behaviour.raw {
            self.mutate(target, Operation::Update, &mut value, Some(&shown), options, warnings)?;
            owners::deduplicate(&mut value, owners::Found::AfterAdmission, warnings);
        }
        let old = current.value();
        let mut value = rules::to_stored(target.row, value)?;
        keep_system_fields(&old, &mut value);
        let revision = current.header().resource_version;
        metadata(&mut value).insert("resourceVersion".into(), Value::String(revision.to_string()));
        let mut writes = if behaviour.raw {
            rules::canonicalize(target.row, &mut value);
            Vec::new()
        } else {
            self.refine(target, options, &old, &shown, &mut value, warnings)?
        };
        metadata(&mut value).insert("resourceVersion".into(), Value::String(revision.to_string()));
        let done = |object: Object| rules::to_version(target.row, object).map(Some);
        let goes = goes_now(&value);
        if !goes && (value == old || rules::differ_in_times_only(&old, &value)) {
            return done(current);
        }
        if options.dry_run {
            return done(rules::object_of(&value)?);
        }
        let precondition = Precondition::Revision(revision);
        let mut gone = None;
        let operation = if goes {
            writes.extend(self.release(target, &value));
            // Who watches is told the object as it last stood, who asked what the change made of it.
            gone = Some(value);
            StoreOperation::Delete { last: Body::new(old) }
        } else {
            StoreOperation::Put {
                body: Body::new(value),
                ttl_seconds: self.ttl(target),
            }
        };
        writes.insert(
            0,
            Write {
                key: target.key(),
                precondition,
                operation,
            },
        );
        match self.commit(writes, target.user.fence).await? {
            Applied::Committed { mut objects, .. } => {
                let committed = objects.swap_remove(0);
                done(gone.map_or(Ok(committed.clone()), |value| at_revision_of(value, &committed))?)
            }
            Applied::Conflict { write: 0, .. } if pinned && !behaviour.patch => Err(target.modified()),
            Applied::Conflict { .. } => Ok(None),
            Applied::Done | Applied::Fenced { .. } | Applied::Unguarded { .. } => {
                Err(Status::internal("the store answered a transaction with something else"))
            }
        }
    }

    /// Strategy, allocation, validation and validating admission of a changed object.
    fn refine(
        &self,
        target: &Target,
        options: &WriteOptions,
        old: &Value,
        shown: &Value,
        value: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Write>, Status> {
        let mut writes = self.allocate_update(target, old, value)?;
        rules::prepare_update(target, old, value);
        let errors = rules::validate_update(target, value, old);
        if !errors.is_empty() {
            return Err(target.invalid(&target.name, &errors));
        }
        rules::canonicalize(target.row, value);
        writes.extend(self.release_changed(target, old, value));
        warn(
            warnings,
            rules::warnings(target, value, Some(old), self.config.warn_unenforced),
        );
        self.validate(target, Operation::Update, value, Some(shown), options, warnings)?;
        writes.extend(self.charge(target, Operation::Update, value, Some(shown), options, warnings)?);
        Ok(writes)
    }

    /// Checks uid and resourceVersion; whether the client pinned a resourceVersion.
    fn check_identity(&self, target: &Target, behaviour: Behaviour, current: &Object, value: &mut Value) -> Result<bool, Status> {
        let header = current.header();
        let uid = meta_text(value, "uid").to_owned();
        if behaviour.whole && !uid.is_empty() && uid != header.uid {
            return Err(target.conflict(&uid_differs(target, &uid, &header.uid)));
        }
        if uid.is_empty() {
            metadata(value).insert("uid".into(), Value::String(header.uid.clone()));
        }
        let version = meta_text(value, "resourceVersion").to_owned();
        match version.as_str() {
            "" | "0" => {
                if !rules::allow_unconditional_update(target) && !behaviour.patch {
                    let problem = error(
                        trireme_api::field::FieldErrorType::Invalid,
                        "metadata.resourceVersion",
                        "0",
                        "must be specified for an update",
                    );
                    return Err(Status::invalid(target.row.group, target.row.plural, &target.name, &[problem]));
                }
                Ok(false)
            }
            text => match text.parse::<u64>() {
                Ok(revision) if revision == header.resource_version => Ok(true),
                Ok(_) => Err(target.modified()),
                Err(_) => Err(no_version(text)),
            },
        }
    }
}

/// Upstream's answer to a resourceVersion that is no number: its store's error, bare.
fn no_version(text: &str) -> Status {
    Status {
        reason: String::new(),
        ..Status::failure(500, "", format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
    }
}

/// An object that is gone, with the revision of its deletion.
pub(crate) fn at_revision_of(mut value: Value, deleted: &Object) -> Result<Object, Status> {
    let revision = deleted.header().resource_version.to_string();
    metadata(&mut value).insert("resourceVersion".into(), Value::String(revision));
    rules::object_of(&value)
}

/// The object's name must be the URL's.
pub(crate) fn check_name(target: &Target, value: &Value) -> Result<(), Status> {
    let name = meta_text(value, "name");
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

/// Upstream's text for a uid that is not the object's.
pub(crate) fn uid_differs(target: &Target, wanted: &str, actual: &str) -> String {
    precondition_failed(
        target,
        &format!("UID in precondition: {wanted}, UID in object meta: {actual}"),
    )
}

/// The same for a resourceVersion.
pub(crate) fn version_differs(target: &Target, wanted: &str, actual: &str) -> String {
    precondition_failed(
        target,
        &format!("ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {actual}"),
    )
}

fn precondition_failed(target: &Target, what: &str) -> String {
    let stored = target.stored();
    let place = match (stored.group, stored.plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        (_, plural) => plural,
    };
    let namespace = if target.row.namespaced {
        format!("{}/", target.namespace)
    } else {
        String::new()
    };
    format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{place}/{namespace}{}, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: {what}",
        target.name
    )
}

/// Members of `metadata` that an update cannot take away.
fn keep_system_fields(old: &Value, new: &mut Value) {
    for name in [
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ] {
        let kept = &old["metadata"][name];
        let metadata = metadata(new);
        if !kept.is_null() && metadata.get(name).is_none_or(Value::is_null) {
            metadata.insert(name.to_owned(), kept.clone());
        }
    }
    let generation = &old["metadata"]["generation"];
    if generation.is_null() {
        metadata(new).remove("generation");
    } else {
        metadata(new).insert("generation".into(), generation.clone());
    }
}

/// Whether an update leaves nothing that holds a deleted object back.
fn goes_now(value: &Value) -> bool {
    let metadata = &value["metadata"];
    if metadata["deletionTimestamp"].is_null() || meta_list_len(value, "finalizers") > 0 {
        return false;
    }
    if value["kind"] == "Namespace" && value["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
        return false;
    }
    metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}
