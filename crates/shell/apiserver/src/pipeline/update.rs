//! PUT and everything that changes an object in place: the same path for patches and subresources.
//!
//! Invariant: a change is committed only onto the revision that it was made from. An unchanged object is not written.

use serde_json::Value;
use trireme_api::bulk::{Kept, Lifted, Present};
use trireme_api::cost::Ledger;
use trireme_api::{Object, Status};
use trireme_policy::webhook::Phase;
use trireme_store::{Applied, Body, Operation as StoreOperation, Precondition, Write};

use super::create::{By, match_namespace, warn};
use super::options::error;
use super::{RETRIES_MAX, Target, WriteOptions, Written, meta_list_len, meta_text, metadata, owners, rules};
use crate::admission::Operation;
use crate::server::ApiServer;
use crate::webhooks::{Asked, Mutated};

/// Makes the new object from the present one (in the target's version), anew at each attempt.
pub type Make<'a> = dyn FnMut(&Present) -> Result<Made, Status> + Send + 'a;

/// Decodes a body once more, defaults included, for an attempt after one that was lost.
pub type Again<'a> = dyn Fn() -> Result<Value, Status> + Send + Sync + 'a;

/// What a [`Make`] gives.
pub struct Made {
    /// The new object, decoded and defaulted.
    pub value: Value,
    /// Values of it at most, before its defaults, where decoding counted them.
    pub values: Option<usize>,
    /// Whether its `spec` is known to be the present object's, or to be another.
    pub same_spec: Option<bool>,
    /// Warnings of decoding.
    pub warnings: Vec<String>,
    /// Whether managed fields are already as they are to be (server-side apply).
    pub managed: bool,
    /// Whether a list or map was sent empty.
    pub empty: bool,
    /// The present object's bulk, where it stays what it is and only stands in `value` by what the present object has there.
    pub kept: Option<Kept>,
}

impl Made {
    /// A new object without warnings.
    #[must_use]
    pub fn plain(value: Value) -> Self {
        Self {
            value,
            values: None,
            same_spec: None,
            warnings: Vec::new(),
            managed: false,
            empty: false,
            kept: None,
        }
    }

    /// A new object whose managed fields are as they are to be.
    #[must_use]
    pub fn managed(value: Value) -> Self {
        Self {
            managed: true,
            ..Self::plain(value)
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
    /// PUT of an object or of its status. `value` is decoded and defaulted in the target's version; a large one is not kept
    /// for a second attempt, which is rare, but decoded `again`.
    ///
    /// # Errors
    /// As upstream.
    pub async fn update(
        &self,
        target: &Target,
        mut value: Value,
        again: &Again<'_>,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        match_namespace(target, &mut value)?;
        check_name(target, &value)?;
        self.barrier().await?;
        if rules::allow_create_on_update(target.row) && self.store.get(&target.key()).is_none() {
            let uid = meta_text(&value, "uid");
            if !uid.is_empty() {
                return Err(target.conflict(&uid_differs(target, uid, "", options.dry_run)));
            }
            return self.create_as(target, value, options, By::Put).await;
        }
        let mut first = Some(value);
        let mut make = |_: &Present| {
            Ok(Made {
                values: options.values,
                empty: options.empty,
                ..Made::plain(first.take().map_or_else(again, Ok)?)
            })
        };
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
        let present = match target.custom {
            Some(_) => {
                let written = current.header().resource_version;
                Present::of(self.shown(target, current.clone(), written).await?.value())
            }
            None => rules::present(target.row, &current)?,
        };
        let mut made = make(&present)?;
        let mut warnings = std::mem::take(&mut made.warnings);
        let changed = self.change_to(target, options, behaviour, (current, present, made), &mut warnings);
        match changed.await {
            Ok(Some(object)) => Ok(Attempt::Done(Written {
                object,
                created: false,
                warnings,
            })),
            Ok(None) => Ok(Attempt::Lost),
            Err(status) => Err(status.warning(warnings)),
        }
    }

    /// Changes the object as it is, also as present in the target's version, to the new one; nothing where somebody was
    /// faster. The bulk of both is set aside for all but validation. What the client is to be warned of stands in `warnings`,
    /// also where it fails.
    async fn change_to(
        &self,
        target: &Target,
        options: &WriteOptions,
        behaviour: Behaviour,
        (current, present, made): (Object, Present, Made),
        warnings: &mut Vec<String>,
    ) -> Result<Option<Object>, Status> {
        let Made {
            mut value,
            values,
            mut same_spec,
            managed,
            mut empty,
            kept,
            ..
        } = made;
        let watched = !behaviour.raw && self.is_watched_by_webhooks(target, Operation::Update);
        let is_kept = kept.is_some();
        let restored = kept.map_or(0, |kept| present.restore(kept, &mut value));
        let values = values.map(|values| values + restored);
        let mut ledger = Ledger::new();
        if !behaviour.raw {
            ledger.decoded(&value, values, target.row.limits)?;
        }
        // What was sent empty is judged within it, too; and webhooks see all of it.
        let aside = !empty && !behaviour.raw && !watched;
        let mut lifted = aside.then(|| present.lift(&mut value, is_kept)).flatten();
        let shown = if lifted.is_some() { present.value() } else { present.whole() };
        value["apiVersion"] = Value::String(target.api_version());
        value["kind"] = Value::String(target.row.kind.to_owned());
        match_namespace(target, &mut value)?;
        if behaviour.patch && !behaviour.raw {
            check_name(target, &value)?;
        }
        check_uid(target, (behaviour, options.dry_run), &current, &mut value)?;
        if behaviour.whole {
            owners::deduplicate(&mut value, owners::Found::Sent, warnings);
        }
        if !managed && !behaviour.raw {
            let own;
            let options = if options.empty == empty {
                options
            } else {
                own = WriteOptions {
                    empty,
                    ..options.clone()
                };
                &own
            };
            same_spec = rules::update_managers(target, Some(shown), &mut value, options, &target.subresource);
        }
        if !behaviour.raw {
            self.mutate(target, Operation::Update, &mut value, Some(shown), options, warnings)?;
            if watched {
                let mutated = self
                    .mutate_changed_by_webhooks(target, &mut value, shown, options, warnings)
                    .await?;
                empty |= mutated.empty;
                same_spec = same_spec.filter(|_| !mutated.patched);
            }
            owners::deduplicate(&mut value, owners::Found::AfterAdmission, warnings);
        }
        let pinned = check_version(target, behaviour, &current, &value)?;
        // Of most rows what is shown is what is stored, and need not be read twice.
        let converted = (!rules::is_current(target.row, target.custom.as_deref(), &current)).then(|| current.value());
        // Custom resources are judged in the version that is asked for.
        let old = converted.as_ref().filter(|_| target.custom.is_none()).unwrap_or(shown);
        // Of other rows admission and strategy may change it.
        same_spec = same_spec.filter(|_| target.row.limits.settled);
        let mut value = rules::to_stored(target.row, value)?;
        keep_system_fields(old, &mut value);
        let revision = current.header().resource_version;
        metadata(&mut value).insert("resourceVersion".into(), Value::String(revision.to_string()));
        let mut writes = if behaviour.raw {
            rules::canonicalize(target.row, &mut value);
            Vec::new()
        } else {
            self.refine(
                target,
                options,
                (&present, old, shown, same_spec),
                (&mut value, empty, ledger, lifted.as_mut()),
                warnings,
            )?
        };
        if watched {
            self.validate_changed_by_webhooks(target, &value, shown, options, warnings)
                .await?;
        }
        if !behaviour.raw {
            writes.extend(self.charge(target, Operation::Update, &mut value, Some(shown), options, warnings)?);
            if empty {
                rules::canonicalize_empty(target.row, &mut value);
            }
        }
        metadata(&mut value).insert("resourceVersion".into(), Value::String(revision.to_string()));
        let goes = goes_now(&value);
        if !options.dry_run {
            metadata(&mut value).remove("selfLink"); // it is not stored
        }
        if !goes && (value == *old || rules::differ_in_times_only(old, &value)) {
            match converted.as_ref().filter(|_| target.custom.is_some()) {
                // What a schema of today makes of it is written, as upstream does, though nobody changed it.
                Some(stored) if self.encoded(target, old.clone()).await? != *stored => value = old.clone(),
                _ => return self.done(target, current).await,
            }
        }
        let spliced = lifted.and_then(|lifted| present.text_of(&value, lifted));
        if options.dry_run {
            return self.done(target, rules::object_from(value, spliced)?).await;
        }
        let precondition = Precondition::Revision(revision);
        let mut gone = None;
        let operation = if goes {
            writes.extend(self.release(target, &value));
            // Who watches is told the object as it last stood, who asked what the change made of it.
            gone = Some(match spliced {
                Some(_) => rules::object_from(value, spliced)?.value(),
                None => value,
            });
            let last = Body::new(converted.unwrap_or_else(|| present.into_whole()));
            StoreOperation::Delete { last }
        } else {
            StoreOperation::Put {
                body: Body::spliced(self.encoded(target, value).await?, spliced),
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
                let object = gone.map_or(Ok(committed.clone()), |value| at_revision_of(value, &committed))?;
                self.done(target, object).await
            }
            Applied::Conflict { write: 0, .. } if pinned && !behaviour.patch => Err(target.modified()),
            Applied::Conflict { .. } => Ok(None),
            Applied::Done | Applied::Fenced { .. } | Applied::Unguarded { .. } => {
                Err(Status::internal("the store answered a transaction with something else"))
            }
        }
    }

    /// What a change answers of an object.
    async fn done(&self, target: &Target, object: Object) -> Result<Option<Object>, Status> {
        let written = object.header().resource_version;
        self.shown(target, object, written).await.map(Some)
    }

    /// Strategy, allocation, validation and validating admission of a changed object.
    fn refine(
        &self,
        target: &Target,
        options: &WriteOptions,
        (present, old, shown, same_spec): (&Present, &Value, &Value, Option<bool>),
        (value, empty, mut ledger, lifted): (&mut Value, bool, Ledger, Option<&mut Lifted>),
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Write>, Status> {
        let compared = rules::as_compared(target, old, value, empty);
        let old = compared.as_ref().unwrap_or(old);
        let mut writes = self.allocate_update(target, old, value, options.dry_run)?;
        rules::prepare_update(target, old, value, same_spec);
        let judged = match lifted.zip(present.bulk_at()) {
            None => {
                ledger.grown(value, target.row.limits)?;
                rules::validate_update(target, value, old)
            }
            Some((lifted, at)) => {
                lifted.swap(value, at);
                ledger.grown(value, target.row.limits)?;
                let judged = rules::validate_update_apart(target, value, old, lifted.is_kept(), present);
                lifted.swap(value, at);
                judged
            }
        };
        if !judged.errors.is_empty() {
            return Err(target.invalid(&target.name, &judged.errors));
        }
        rules::canonicalize_admitted(target.row, value, empty);
        writes.extend(self.release_changed(target, old, value));
        warn(warnings, judged.warnings);
        warn(
            warnings,
            rules::warnings(target, value, Some(old), self.config.warn_unenforced),
        );
        self.validate(target, Operation::Update, value, Some(shown), options, warnings)?;
        Ok(writes)
    }

    /// Asks mutating webhooks about a changed object.
    async fn mutate_changed_by_webhooks(
        &self,
        target: &Target,
        value: &mut Value,
        old: &Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Mutated, Status> {
        let Some(call) = self.webhooks(Phase::Mutating, target, Operation::Update, &target.name) else {
            return Ok(Mutated::default());
        };
        let asked = Asked::write(target, Operation::Update, &target.name, options);
        Box::pin(self.mutate_by_webhooks(&call, &asked, value, Some(old), options, warnings)).await
    }

    /// Asks validating webhooks about a changed object, as it will be stored.
    async fn validate_changed_by_webhooks(
        &self,
        target: &Target,
        value: &Value,
        old: &Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(call) = self.webhooks(Phase::Validating, target, Operation::Update, &target.name) else {
            return Ok(());
        };
        let asked = Asked::write(target, Operation::Update, &target.name, options);
        Box::pin(self.validate_by_webhooks(&call, &asked, (Some(value), Some(old)), warnings)).await
    }
}

/// Checks the uid of a whole object and fills in an absent one.
fn check_uid(
    target: &Target,
    (behaviour, dry_run): (Behaviour, bool),
    current: &Object,
    value: &mut Value,
) -> Result<(), Status> {
    let header = current.header();
    let uid = meta_text(value, "uid");
    if behaviour.whole && !uid.is_empty() && uid != header.uid {
        return Err(target.conflict(&uid_differs(target, uid, &header.uid, dry_run)));
    }
    if uid.is_empty() {
        metadata(value).insert("uid".into(), Value::String(header.uid.clone()));
    }
    Ok(())
}

/// Checks the resourceVersion; whether the client pinned one.
fn check_version(target: &Target, behaviour: Behaviour, current: &Object, value: &Value) -> Result<bool, Status> {
    match version(meta_text(value, "resourceVersion"))? {
        0 if !rules::allow_unconditional_update(target) && !behaviour.raw => {
            let problem = error(
                trireme_api::field::FieldErrorType::Invalid,
                "metadata.resourceVersion",
                "0",
                "must be specified for an update",
            );
            Err(Status::invalid(target.row.group, target.row.plural, &target.name, &[problem]))
        }
        0 => Ok(false),
        revision if revision == current.header().resource_version => Ok(true),
        _ => Err(target.modified()),
    }
}

/// A resourceVersion as upstream reads an object's: none is 0.
pub(crate) fn version(text: &str) -> Result<u64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u64>().ok().filter(|_| digits).ok_or_else(|| {
        let why = if digits { "value out of range" } else { "invalid syntax" };
        Status::failure(500, "", format!("strconv.ParseUint: parsing {text:?}: {why}"))
    })
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
        return Err(nameless(target));
    }
    if name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

/// 400: the object has no name.
pub(crate) fn nameless(target: &Target) -> Status {
    Status::bad_request(format!(
        "the name of the object ({} based on URL) was undeterminable: name must be provided",
        target.name
    ))
}

/// Upstream's text for a uid that is not the object's.
pub(crate) fn uid_differs(target: &Target, wanted: &str, actual: &str, dry_run: bool) -> String {
    precondition_failed(
        target,
        dry_run,
        &format!("UID in precondition: {wanted}, UID in object meta: {actual}"),
    )
}

/// The same for a resourceVersion.
pub(crate) fn version_differs(target: &Target, wanted: &str, actual: &str, dry_run: bool) -> String {
    precondition_failed(
        target,
        dry_run,
        &format!("ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {actual}"),
    )
}

fn precondition_failed(target: &Target, dry_run: bool, what: &str) -> String {
    // A dry run does not ask the store, which would put its own prefix before the key.
    let root = if dry_run { "" } else { "/registry" };
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
        "StorageError: invalid object, Code: 4, Key: {root}/{place}/{namespace}{}, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: {what}",
        target.name
    )
}

/// Members of `metadata` that an update cannot take away.
fn keep_system_fields(old: &Value, new: &mut Value) {
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
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
    if value["kind"] == "Namespace"
        && value["apiVersion"] == "v1"
        && value["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
    {
        return false;
    }
    metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}
