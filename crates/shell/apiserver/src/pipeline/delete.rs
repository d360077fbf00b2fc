//! DELETE of one object and of a collection.
//!
//! Invariant: an object with finalizers or a grace period is only marked; what is gone is gone together with what it had
//! allocated, in one transaction.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use trireme_api::{Object, Status, StatusDetails};
use trireme_policy::webhook::Phase;
use trireme_resources::custom::status;
use trireme_store::{Applied, Body, Operation as StoreOperation, Precondition, Write};

use super::options::{DeleteOptions, ListOptions};
use super::selection::Selection;
use super::update::at_revision_of;
use super::{RETRIES_MAX, Target, WriteOptions, meta_list_len, meta_text, metadata, rules};
use crate::admission::{Operation, Request};
use crate::server::{ApiServer, show_time};
use crate::webhooks::Asked;

/// What became of the object.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The object as it is afterwards, or as it last was, in the version asked for.
    pub object: Object,
    /// Whether it is gone.
    pub gone: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// Kinds whose deletion is answered with the object rather than with a `Status`.
const ANSWERED_WITH_OBJECT: &[&str] = &[
    "pods",
    "namespaces",
    "services",
    "persistentvolumes",
    "persistentvolumeclaims",
    "serviceaccounts",
    "podtemplates",
    "resourcequotas",
    "csidrivers",
    "csinodes",
    "storageclasses",
    "volumeattachments",
    "volumeattributesclasses",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourceslices",
    "deviceclasses",
];

/// Storage of definitions of custom resources.
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const POD_GRACE_SECONDS: i64 = 30;

/// How many objects of a collection are listed at a time to be deleted, where the client sets no limit. With a limit, a
/// resourceVersion means exactly that one, so that one that is too old is 410.
const COLLECTION_PAGE: i64 = 10_000;

/// How a deletion is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// By the object's name.
    One,
    /// With its collection.
    Collection,
    /// By an eviction, which has been admitted.
    Eviction,
}

/// What a deletion does to the object.
enum Plan {
    /// It goes now; this is its last state.
    Remove(Value),
    /// It stays, changed.
    Mark(Value),
    /// It stays as it is.
    Keep,
}

impl ApiServer {
    /// Deletes one object.
    ///
    /// # Errors
    /// As upstream.
    pub async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Deleted, Status> {
        self.delete_as(target, options, Asking::One).await
    }

    /// Deletes one object, which is asked for in one of the three ways.
    pub(crate) async fn delete_as(&self, target: &Target, options: &DeleteOptions, asking: Asking) -> Result<Deleted, Status> {
        let mut warnings = Vec::new();
        for _ in 0..RETRIES_MAX {
            self.barrier().await?;
            let current = self.store.get(&target.key()).ok_or_else(|| target.not_found())?;
            let written = current.header().resource_version;
            let seen = match target.custom {
                Some(_) => self.shown(target, current.clone(), written).await?,
                None => current.clone(),
            };
            let old = seen.value();
            check_preconditions(target, options, &old)?;
            self.admit_delete(target, &old, options, &mut warnings)?;
            if let Err(status) = self.webhooks_on_delete(target, &seen, options, asking, &mut warnings).await {
                return Err(status.warning(warnings));
            }
            let (value, gone) = match plan(target, &old, options) {
                Plan::Keep => return self.deleted(target, (current, written), false, warnings).await,
                Plan::Mark(value) => (value, false),
                Plan::Remove(value) => (value, true),
            };
            if options.dry_run {
                return self
                    .deleted(target, (rules::object_of(&value)?, written), gone, warnings)
                    .await;
            }
            let mut writes = Vec::new();
            let mut last = None;
            let operation = if gone {
                writes.extend(self.release(target, &value));
                // Who watches is told the object as it last stood, who asked what the deletion made of it.
                last = Some(value);
                let last = if target.custom.is_some() { current.value() } else { old };
                StoreOperation::Delete { last: Body::new(last) }
            } else {
                StoreOperation::Put {
                    body: Body::new(self.encoded(target, value).await?),
                    ttl_seconds: self.ttl(target),
                }
            };
            writes.insert(
                0,
                Write {
                    key: target.key(),
                    precondition: Precondition::Revision(current.header().resource_version),
                    operation,
                },
            );
            match self.commit(writes, target.user.fence).await? {
                Applied::Committed { mut objects, .. } => {
                    let committed = objects.swap_remove(0);
                    let object = last.map_or(Ok(committed.clone()), |value| at_revision_of(value, &committed))?;
                    return self.deleted(target, (object, written), gone, warnings).await;
                }
                Applied::Conflict { .. } => {}
                Applied::Done | Applied::Fenced { .. } | Applied::Unguarded { .. } => {
                    return Err(Status::internal("the store answered a transaction with something else"));
                }
            }
        }
        Err(target.modified())
    }

    /// What a deletion answers of an object that was last stored at that revision.
    async fn deleted(
        &self,
        target: &Target,
        (object, written): (Object, u64),
        gone: bool,
        warnings: Vec<String>,
    ) -> Result<Deleted, Status> {
        Ok(Deleted {
            object: self.shown(target, object, written).await?,
            gone,
            warnings,
        })
    }

    fn admit_delete(
        &self,
        target: &Target,
        old: &Value,
        options: &DeleteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let shown = delete_options_value(options);
        let mut object = Value::Null;
        let mut request = Request {
            row: target.row,
            operation: Operation::Delete,
            namespace: super::create::admission_namespace(target, &target.name),
            name: &target.name,
            subresource: &target.subresource,
            user: &target.user,
            object: &mut object,
            old_object: Some(old),
            options: &shown,
            dry_run: options.dry_run,
            view: self.view(),
            warnings,
        };
        self.plugins.admission.mutate(&mut request)?;
        self.plugins.admission.validate(&mut request)
    }

    /// Asks webhooks about a deletion.
    async fn webhooks_on_delete(
        &self,
        target: &Target,
        current: &Object,
        options: &DeleteOptions,
        asking: Asking,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let name = match asking {
            Asking::One => target.name.as_str(),
            Asking::Collection => "",
            // The eviction itself was admitted.
            Asking::Eviction => return Ok(()),
        };
        let calls =
            [Phase::Mutating, Phase::Validating].map(|phase| self.webhooks(phase, target, Operation::Delete, &target.name));
        if calls.iter().all(Option::is_none) {
            return Ok(());
        }
        let asked = Asked {
            target,
            operation: Operation::Delete,
            name,
            options: delete_options_value(options),
            dry_run: options.dry_run,
        };
        let old = rules::to_version(target.row, current.clone())?.value();
        let [mutating, validating] = calls;
        if let Some(call) = mutating {
            let mut none = Value::Null;
            let options = as_write_options(options);
            let asking = self.mutate_by_webhooks(&call, &asked, &mut none, Some(&old), &options, warnings);
            Box::pin(asking).await?;
        }
        if let Some(call) = validating {
            Box::pin(self.validate_by_webhooks(&call, &asked, (None, Some(&old)), warnings)).await?;
        }
        Ok(())
    }

    /// Deletes every object of a collection that the selection holds; answers them as they were before.
    ///
    /// # Errors
    /// The first failure other than "not found".
    pub async fn delete_collection(
        &self,
        target: &Target,
        list: &ListOptions,
        selection: &Selection,
        options: &DeleteOptions,
    ) -> Result<super::list::Listing, super::list::ListFailure> {
        let mut page = ListOptions {
            limit: if list.limit > 0 { list.limit } else { COLLECTION_PAGE },
            ..list.clone()
        };
        let mut deleted: Option<super::list::Listing> = None;
        loop {
            let listing = self.list(target, &page, selection).await?;
            for item in &listing.items {
                let one = Target {
                    name: item.header().name.clone(),
                    namespace: item.header().namespace.clone(),
                    ..target.clone()
                };
                match self.delete_as(&one, options, Asking::Collection).await {
                    Ok(_) => {}
                    Err(status) if status.is_not_found() => {}
                    Err(status) => return Err(status.into()),
                }
            }
            if list.limit > 0 {
                return Ok(listing);
            }
            let rest = listing.continuation.clone();
            let all = match &mut deleted {
                None => deleted.insert(listing),
                Some(all) => {
                    all.items.extend(listing.items);
                    all
                }
            };
            all.continuation.clear();
            all.remaining = None;
            if rest.is_empty() {
                return Ok(deleted.unwrap_or_default());
            }
            page.continuation = rest;
            page.resource_version.clear();
            page.version_match.clear();
        }
    }
}

/// Whether the answer to this deletion is the object, else it is a `Status`.
#[must_use]
pub fn answers_object(target: &Target, deleted: &Deleted) -> bool {
    !deleted.gone || !target.row.is_custom() && ANSWERED_WITH_OBJECT.contains(&target.row.plural)
}

/// The `Status` that answers the deletion of an object that is gone.
#[must_use]
pub fn success(target: &Target, deleted: &Deleted) -> Status {
    Status {
        status: "Success".into(),
        ..Status::default()
    }
    .with_details(StatusDetails {
        name: target.name.clone(),
        group: target.row.group.to_owned(),
        kind: target.row.plural.to_owned(),
        uid: deleted.object.header().uid.clone(),
        ..StatusDetails::default()
    })
}

fn delete_options_value(options: &DeleteOptions) -> Value {
    let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(seconds) = options.grace_period_seconds {
        value["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = &options.propagation {
        value["propagationPolicy"] = policy.as_str().into();
    }
    if let Some(orphan) = options.orphan_dependents {
        value["orphanDependents"] = orphan.into();
    }
    if let Some(uid) = &options.uid {
        value["preconditions"]["uid"] = uid.as_str().into();
    }
    if let Some(version) = &options.resource_version {
        value["preconditions"]["resourceVersion"] = version.as_str().into();
    }
    if options.dry_run {
        value["dryRun"] = json!(["All"]);
    }
    value
}

/// 409 unless the object is the one that the client means.
pub(crate) fn check_preconditions(target: &Target, options: &DeleteOptions, current: &Value) -> Result<(), Status> {
    let conflict = |why: String| Status::conflict(target.stored().group, target.row.kind, &target.name, &why);
    let (uid, version) = (meta_text(current, "uid"), meta_text(current, "resourceVersion"));
    if let Some(wanted) = &options.uid
        && wanted != uid
    {
        return Err(conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been \
             deleted and then recreated"
        )));
    }
    if let Some(wanted) = &options.resource_version
        && wanted != version
    {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
             The object might have been modified"
        )));
    }
    Ok(())
}

fn plan(target: &Target, old: &Value, options: &DeleteOptions) -> Plan {
    if target.row.group.is_empty() && target.row.plural == "namespaces" {
        return plan_namespace(old, options);
    }
    if target.row.storage == DEFINITIONS && !target.row.is_custom() {
        return plan_definition(target, old, options);
    }
    let finalizers = finalizers_after(target, old, options);
    let held = !finalizers.is_empty();
    let mut value = old.clone();
    set_finalizers(&mut value, &finalizers);
    let finalizers_changed = value != *old;
    if target.row.group.is_empty() && target.row.plural == "pods" {
        return plan_pod(value, old, options, held);
    }
    let deleting = !old["metadata"]["deletionTimestamp"].is_null();
    if !held {
        return Plan::Remove(value);
    }
    if deleting {
        return if finalizers_changed { Plan::Mark(value) } else { Plan::Keep };
    }
    mark(&mut value, 0, Timestamp::now());
    Plan::Mark(value)
}

/// A definition waits until its objects are deleted ([`crate::custom`]), which it says of itself from now on.
fn plan_definition(target: &Target, old: &Value, options: &DeleteOptions) -> Plan {
    let mut value = old.clone();
    let finalizers = finalizers_after(target, old, options);
    set_finalizers(&mut value, &finalizers);
    if old["metadata"]["deletionTimestamp"].is_null() {
        mark(&mut value, 0, Timestamp::now());
        status::mark_deleted(&mut value, &show_time(Timestamp::now()));
        return Plan::Mark(value);
    }
    if finalizers.is_empty() {
        return Plan::Remove(value);
    }
    if value == *old { Plan::Keep } else { Plan::Mark(value) }
}

fn plan_pod(mut value: Value, old: &Value, options: &DeleteOptions, held: bool) -> Plan {
    let unchanged = value == *old;
    let grace = pod_grace(old, options);
    let metadata_now = &old["metadata"];
    if let Some(since) = metadata_now["deletionTimestamp"].as_str() {
        let present = metadata_now["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        let asked = options.grace_period_seconds.map(|_| grace);
        return match asked {
            Some(asked) if asked < present => {
                if asked == 0 && !held {
                    mark_seconds(&mut value, 0);
                    return Plan::Remove(value);
                }
                if let Ok(since) = since.parse::<Timestamp>() {
                    let earlier = since - SignedDuration::from_secs(present - asked);
                    let shown = show_time(earlier.max(Timestamp::now() - SignedDuration::from_secs(0)).min(since));
                    metadata(&mut value).insert("deletionTimestamp".into(), Value::String(shown));
                }
                mark_seconds(&mut value, asked);
                Plan::Mark(value)
            }
            _ if present == 0 && !held => Plan::Remove(value),
            _ if unchanged => Plan::Keep,
            _ => Plan::Mark(value),
        };
    }
    bump_generation(&mut value);
    if grace == 0 && !held {
        mark_fields(&mut value, 0, Timestamp::now());
        return Plan::Remove(value);
    }
    mark_fields(&mut value, grace, Timestamp::now() + SignedDuration::from_secs(grace));
    Plan::Mark(value)
}

fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || over {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(POD_GRACE_SECONDS);
    let seconds = options.grace_period_seconds.unwrap_or(own);
    if seconds < 0 { 1 } else { seconds }
}

fn plan_namespace(old: &Value, options: &DeleteOptions) -> Plan {
    let own = old["spec"]["finalizers"].as_array().map_or(0, Vec::len);
    let deleting = !old["metadata"]["deletionTimestamp"].is_null();
    let mut value = old.clone();
    let mut finalizers = listed(old, "finalizers");
    if options.orphan_dependents == Some(true) || options.propagation.as_deref() == Some("Orphan") {
        if !finalizers.iter().any(|name| name == ORPHAN) {
            finalizers.push(ORPHAN.to_owned());
        }
        set_finalizers(&mut value, &finalizers);
    }
    if own == 0 && finalizers.is_empty() {
        return Plan::Remove(value);
    }
    if deleting {
        return if value == *old { Plan::Keep } else { Plan::Mark(value) };
    }
    let metadata = metadata(&mut value);
    metadata.insert("deletionTimestamp".into(), Value::String(show_time(Timestamp::now())));
    value["status"]["phase"] = "Terminating".into();
    Plan::Mark(value)
}

fn listed(value: &Value, name: &str) -> Vec<String> {
    let list = value["metadata"][name].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn set_finalizers(value: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        if meta_list_len(value, "finalizers") > 0 {
            metadata(value).remove("finalizers");
        }
    } else {
        metadata(value).insert("finalizers".into(), finalizers.into());
    }
}

/// The finalizers that garbage collection's policies ask for, the others kept.
fn finalizers_after(target: &Target, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let present = listed(old, "finalizers");
    if !target.row.collected {
        return present;
    }
    let has = |name: &str| present.iter().any(|own| own == name);
    let policy = options.propagation.as_deref().unwrap_or_default();
    let orphan = match (options.orphan_dependents, policy) {
        (Some(orphan), _) => orphan,
        (None, "Orphan") => true,
        (None, "Background" | "Foreground") => false,
        (None, _) => has(ORPHAN) || (!has(FOREGROUND) && rules::orphans_by_default(target.row)),
    };
    let foreground = match (options.orphan_dependents, policy) {
        (Some(_), _) | (None, "Orphan" | "Background") => false,
        (None, "Foreground") => true,
        (None, _) => !orphan && has(FOREGROUND),
    };
    let mut finalizers: Vec<String> = present
        .into_iter()
        .filter(|name| name != ORPHAN && name != FOREGROUND)
        .collect();
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    finalizers
}

fn mark_seconds(value: &mut Value, grace: i64) {
    metadata(value).insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn mark_fields(value: &mut Value, grace: i64, at: Timestamp) {
    metadata(value).insert("deletionTimestamp".into(), Value::String(show_time(at)));
    mark_seconds(value, grace);
}

fn mark(value: &mut Value, grace: i64, at: Timestamp) {
    bump_generation(value);
    mark_fields(value, grace, at);
}

/// Setting the deletion time is a change of what is wished for.
fn bump_generation(value: &mut Value) {
    if let Some(generation) = value["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
        metadata(value).insert("generation".into(), (generation + 1).into());
    }
}

/// Options for the inner writes of a subresource.
#[must_use]
pub fn as_write_options(options: &DeleteOptions) -> WriteOptions {
    WriteOptions {
        dry_run: options.dry_run,
        ..WriteOptions::default()
    }
}
