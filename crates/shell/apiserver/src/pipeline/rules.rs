//! The one place that calls the rules of resources: defaults, strategy, validation, patches, apply, conversion, tables.
//!
//! Invariant: strategy and validation see objects in the version they are stored in, and custom resources, like managed fields,
//! patches and admission all objects, in the version of the request.

use std::collections::BTreeMap;

use serde_json::Value;
use trireme_api::bulk::{Present, Spliced};
use trireme_api::decode::Empty;
pub use trireme_api::decode::FieldValidation;
use trireme_api::{Object, Status, decode, schema};
use trireme_resources::apply::{Applied, Applier, Updater};
use trireme_resources::custom::Served;
use trireme_resources::validation::{Apart, Judged};
use trireme_resources::{Resource, convert, defaults, strategy, table, unenforced, validation};

use super::{Target, WriteOptions};
use crate::descriptions;
use crate::server::now;

/// The row in whose version objects are stored.
#[must_use]
pub fn stored(row: &'static Resource) -> &'static Resource {
    if let Some(defined) = row.custom {
        return defined.stored.unwrap_or(row);
    }
    if row.virtual_ || row.stored_as == (row.group, row.version) {
        row
    } else {
        trireme_resources::by_storage(row.storage).unwrap_or(row)
    }
}

/// Whether objects of a row are stored in another version.
#[must_use]
pub fn converts(row: &'static Resource) -> bool {
    !std::ptr::eq(stored(row), row)
}

/// `apps/v1`, or `v1` in the core group.
#[must_use]
pub fn api_version(row: &Resource) -> String {
    row.api_version()
}

/// Whether an object as it is stored is what a row's version shows.
#[must_use]
pub fn shown_as_stored(row: &'static Resource, object: &Object) -> bool {
    !(converts(row) || row.is_custom()) || object.header().api_version == row.api_version()
}

/// A stored object in a row's version; the same allocation where that is the stored one.
///
/// # Errors
/// Never for objects that this server stored.
pub fn to_version(row: &'static Resource, object: Object) -> Result<Object, Status> {
    if shown_as_stored(row, &object) {
        return Ok(object);
    }
    let from = stored(row);
    let mut value = object.value();
    convert(from, row, &mut value);
    value["apiVersion"] = row.api_version().into();
    value["kind"] = row.kind.into();
    object_of(&value)
}

/// A stored object as a version that is asked for shows it. A custom resource is what its schema of today makes of what was
/// stored at revision `written`.
///
/// # Errors
/// As [`to_version`]; for a custom resource where metadata of a resource within it is none to the version asked for.
pub fn to_served(row: &'static Resource, custom: Option<&Served>, object: Object, written: u64) -> Result<Object, Status> {
    let Some(served) = custom else {
        return to_version(row, object);
    };
    if served.shows(&object.header().api_version, written) {
        return Ok(object);
    }
    let mut value = object.value();
    served.show(&mut value, written).map_err(unconverted)?;
    let shown = object_of(&value)?;
    // What differs in nothing need not be held twice.
    Ok(if shown.bytes() == object.bytes() { object } else { shown })
}

fn unconverted(problem: trireme_api::field::FieldError) -> Status {
    Status::internal(&problem.to_string())
}

/// Whether a stored object is, byte by byte, what storing it anew through a version would give.
#[must_use]
pub fn is_current(row: &'static Resource, custom: Option<&Served>, object: &Object) -> bool {
    let header = object.header();
    match custom {
        Some(served) => !converts(row) && served.shows(&header.api_version, header.resource_version),
        None => shown_as_stored(row, object),
    }
}

/// A stored object of a built-in row, in its version, that is about to be changed.
///
/// # Errors
/// As [`to_version`].
pub fn present(row: &'static Resource, object: &Object) -> Result<Present, Status> {
    match row.bulk {
        Some(at) if !converts(row) => Ok(Present::without(object, at)),
        _ => Ok(Present::of(to_version(row, object.clone())?.value())),
    }
}

/// A custom resource that was judged, in the target's version, as it is stored; any other is so already ([`to_stored`]).
///
/// # Errors
/// Where metadata of a resource within it is none to the stored version.
pub fn encoded(target: &Target, mut value: Value) -> Result<Value, Status> {
    if let Some(served) = &target.custom {
        served.store(&mut value, target.stored()).map_err(unconverted)?;
    }
    Ok(value)
}

/// A value of a row's version in the one in which strategy and validation see it: the stored one, but for custom resources, whose
/// versions each have a schema of their own.
///
/// # Errors
/// Never for decoded values.
pub fn to_stored(row: &'static Resource, mut value: Value) -> Result<Value, Status> {
    let to = stored(row);
    if !std::ptr::eq(to, row) && !row.is_custom() {
        convert(row, to, &mut value);
        value["apiVersion"] = to.api_version().into();
        value["kind"] = to.kind.into();
    }
    Ok(value)
}

/// A value of one version of a resource in another.
pub fn between(from: &'static Resource, to: &'static Resource, value: &mut Value) {
    if std::ptr::eq(from, to) {
        return;
    }
    let stored = stored(from);
    if !std::ptr::eq(from, stored) {
        convert(from, stored, value);
    }
    convert(stored, to, value);
    value["apiVersion"] = to.api_version().into();
    value["kind"] = to.kind.into();
}

/// A value as an object.
///
/// # Errors
/// When it is none.
pub fn object_of(value: &Value) -> Result<Object, Status> {
    Object::from_value(value).map_err(|error| Status::internal(&error.to_string()))
}

/// A value that nobody needs any more as an object, with the text of a member that it has not.
///
/// # Errors
/// When it is none.
pub fn object_from(value: Value, spliced: Option<Spliced<'_>>) -> Result<Object, Status> {
    Object::from_spliced(value, spliced).map_err(|error| Status::internal(&error.to_string()))
}

/// Fills in defaults and brings twin fields into step, as upstream's decoding does. A version in which objects are not
/// stored goes by way of the stored one, which adds what only that one has defaults for.
pub fn defaults(row: &'static Resource, value: &mut Value) {
    if row.is_custom() {
        return; // its schema's defaults come with decoding
    }
    defaults::apply(row, value);
    strategy::normalize(row, value);
    if converts(row) {
        convert(row, stored(row), value);
        convert(stored(row), row, value);
    }
}

fn door(target: &Target) -> Option<&str> {
    (!target.subresource.is_empty()).then_some(target.subresource.as_str())
}

/// Whether defaulting will give an object the labels of its template, which then stay one with them until it is stored.
#[must_use]
pub fn shares_labels(row: &Resource, value: &Value) -> bool {
    !row.is_custom() && strategy::shares_labels(row, value)
}

/// The row by whose rules an object is judged.
fn judged_as(target: &Target) -> &'static Resource {
    if target.row.is_custom() { target.row } else { target.stored() }
}

/// Strategy of creation, on the stored version; what the client is warned of comes back.
pub fn prepare_create(target: &Target, value: &mut Value, options: &WriteOptions) -> Vec<String> {
    if target.row.storage == "certificates.k8s.io/certificatesigningrequests" && !target.row.is_custom() {
        let extra = target
            .user
            .extra
            .iter()
            .map(|(key, values)| (key.clone(), values.clone().into()))
            .collect();
        strategy::set_requester(value, &target.user.name, &target.user.uid, &target.user.groups, extra);
    }
    let warnings = strategy::prepare_create(judged_as(target), value, &now());
    if options.shares_labels {
        strategy::share_labels(value);
    }
    warnings
}

/// Strategy of updates, on the stored version.
pub fn prepare_update(target: &Target, old: &Value, value: &mut Value, same_spec: Option<bool>) {
    strategy::prepare_update(judged_as(target), value, old, door(target), &now(), same_spec);
}

/// Whether PUT creates.
#[must_use]
pub fn allow_create_on_update(row: &Resource) -> bool {
    strategy::allow_create_on_update(row)
}

/// Whether an apply to the status of an absent object creates it.
#[must_use]
pub fn status_apply_creates(row: &Resource) -> bool {
    strategy::status_apply_creates(row)
}

/// Whether PUT may leave out the resourceVersion.
#[must_use]
pub fn allow_unconditional_update(target: &Target) -> bool {
    strategy::allow_unconditional_update(target.row)
}

/// Whether deletion without a policy leaves dependents.
#[must_use]
pub fn orphans_by_default(row: &Resource) -> bool {
    // Background is the default of every kind but these two, whose first versions orphaned.
    row.group == "batch" && row.plural == "jobs" || row.group.is_empty() && row.plural == "replicationcontrollers"
}

/// All problems of an object to create.
pub fn validate_create(target: &Target, value: &Value) -> Judged {
    let judged = validation::create_stored(target.row, value);
    by_schema(target, value, None, judged)
}

/// With what a custom resource's schema says. It is that of the version asked for, which differs from the one that is stored in
/// its name alone.
fn by_schema(target: &Target, value: &Value, old: Option<&Value>, mut judged: Judged) -> Judged {
    let Some(served) = &target.custom else { return judged };
    let between = || {
        let mut problems = trireme_resources::custom::scale_problems(served, value);
        if let Some(schema) = served.structural() {
            problems.extend(validation::embedded(schema, value));
        }
        problems
    };
    match served.structural() {
        Some(schema) => {
            let found = schema.judge(value, old, between);
            judged.errors.extend(found.errors);
            judged.warnings.extend(found.warnings);
        }
        None => judged.errors.extend(between()),
    }
    judged
}

/// All problems of an object that replaces `old`.
pub fn validate_update(target: &Target, value: &Value, old: &Value) -> Judged {
    let judged = validation::update_stored(target.row, value, old, door(target));
    by_schema(target, value, Some(old), judged)
}

/// Likewise, where the bulk of `old` is set aside; `same` says that it is that of the new one. The old one as a whole is `present`.
pub fn validate_update_apart(target: &Target, value: &Value, old: &Value, same: bool, present: &Present) -> Judged {
    match validation::update_apart(target.row, value, old, door(target), same) {
        Apart::Judged(judged) => judged,
        Apart::Excusable(judged) => validation::excused(target.row, value, present, door(target), judged),
    }
}

/// An old object as upstream's strategy and validation compare it with the new one: what is empty there and nothing here is
/// the same to it. None where that is the object as it is.
#[must_use]
pub fn as_compared(target: &Target, old: &Value, new: &Value, empty: bool) -> Option<Value> {
    if !empty {
        return None;
    }
    if target.row.is_custom() {
        return None;
    }
    let mut aligned = old.clone();
    decode::align_empty(&mut aligned, new, target.stored().schema());
    for name in target.row.tells_empty {
        match (old.get(*name), aligned.as_object_mut()) {
            (Some(old), Some(aligned)) => drop(aligned.insert((*name).to_owned(), old.clone())),
            (None, Some(aligned)) => drop(aligned.remove(*name)),
            (_, None) => {}
        }
    }
    Some(aligned)
}

/// Warnings about an accepted object; `unenforced_too` says whether those of kinds and fields that do nothing yet are given.
#[must_use]
pub fn warnings(target: &Target, value: &Value, old: Option<&Value>, unenforced_too: bool) -> Vec<String> {
    let mut found = validation::warnings(judged_as(target), value, old, door(target));
    if unenforced_too {
        found.extend(unenforced::warnings(judged_as(target), value, old, door(target)));
    }
    found
}

/// The form in which a value of the stored version is stored.
pub fn canonicalize(row: &'static Resource, value: &mut Value) {
    canonicalize_as(row, value, Empty::Stored);
}

/// The form in which a value is stored that holds what was sent empty. Upstream has its defaults when it reads back that there
/// is nothing.
pub fn canonicalize_empty(row: &'static Resource, value: &mut Value) {
    canonicalize(row, value);
    defaults(stored(row), value);
    canonicalize(row, value);
}

/// The form that a value which was found valid has for admission: what is empty is still there.
pub fn canonicalize_admitted(row: &'static Resource, value: &mut Value, empty: bool) {
    if row.is_custom() {
        canonicalize_as(row, value, Empty::Stored);
    } else if !empty && row.limits.settled {
        let stored = stored(row);
        decode::canonicalize_settled(value, stored.schema());
        complete_stored(stored, value);
    } else {
        canonicalize_as(row, value, if empty { Empty::Sent } else { Empty::Stored });
    }
}

/// The form in which a value is answered that was never stored.
pub fn canonicalize_answer(schema: &'static schema::Struct, value: &mut Value, empty: bool) {
    if empty {
        decode::canonicalize_as(value, schema, Empty::Written);
    }
}

fn canonicalize_as(row: &'static Resource, value: &mut Value, empty: Empty) {
    let stored = stored(row);
    if row.is_custom() {
        decode::canonicalize_as(&mut value["metadata"], schema::object_meta(), empty);
        value["apiVersion"] = row.api_version().into();
        value["kind"] = row.kind.into();
        return;
    }
    decode::canonicalize_as(value, stored.schema(), empty);
    complete_stored(stored, value);
}

/// Adds what a stored value has beside its canonical form.
fn complete_stored(stored: &'static Resource, value: &mut Value) {
    trireme_resources::strategy::fill_stored(stored, value);
    value["apiVersion"] = stored.api_version().into();
    value["kind"] = stored.kind.into();
}

/// Renews managed fields for a create, update or patch.
pub fn update_managers(
    target: &Target,
    old: Option<&Value>,
    new: &mut Value,
    options: &WriteOptions,
    subresource: &str,
) -> Option<bool> {
    let now = now();
    let by = Updater {
        manager: &options.manager,
        subresource: (!subresource.is_empty()).then_some(subresource),
        now: &now,
        empty: options.empty,
        custom: target.custom.as_deref(),
    };
    trireme_resources::apply::update_managers(target.row, old, new, by)
}

/// Whether two states of an object, as stored, differ in the times of managed fields only.
#[must_use]
pub fn differ_in_times_only(old: &Value, new: &Value) -> bool {
    trireme_resources::apply::differ_in_times_only(old, new)
}

/// Server-side apply onto the live object, or onto nothing.
///
/// # Errors
/// 409 with the conflicts, 400 or 500 for a configuration that does not fit.
pub fn apply(
    target: &Target,
    live: Option<&Present>,
    (config, settled): (Value, Option<usize>),
    options: &WriteOptions,
) -> Result<Applied, Status> {
    let now = now();
    let by = Applier {
        manager: &options.manager,
        force: options.force,
        subresource: door(target),
        now: &now,
        settled,
        custom: target.custom.as_deref(),
    };
    trireme_resources::apply::apply(target.row, live, config, by)
}

/// The labels of an object.
#[must_use]
pub fn labels_of(value: &Value) -> BTreeMap<String, String> {
    let labels = value["metadata"]["labels"].as_object();
    labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// A label selector of an object as text, as `status.selector` of a scale shows it.
///
/// # Errors
/// 500 for a selector that is none.
pub fn selector_text(selector: &Value) -> Result<String, Status> {
    let mut terms: Vec<(String, String)> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"]
            .as_array()
            .map(|values| values.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => return Err(Status::internal(&format!("{other:?} is not a valid label selector operator"))),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    Ok(terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","))
}

/// Upstream's name of the package that a group's internal types are in.
#[must_use]
pub fn internal_package(group: &str) -> &str {
    match group {
        "" => "core",
        other => other.split('.').next().unwrap_or(other),
    }
}

/// Why an object that says it is of that version and kind is none of the expected group, version and kind; none where it
/// is, or says nothing.
#[must_use]
pub fn misfit(expected: (&str, &str, &str), api_version: &str, kind: &str) -> Option<String> {
    let kind = if kind.is_empty() { expected.2 } else { kind };
    let (group, version) = match api_version.split('/').collect::<Vec<_>>()[..] {
        [""] => (expected.0, expected.1),
        [version] => ("", version),
        [group, version] => (group, version),
        _ => return Some(format!("unexpected GroupVersion string: {api_version}")),
    };
    if (group, version, kind) == expected {
        return None;
    }
    let Some(ty) = schema::kind(group, version, kind).filter(|ty| ty.is_kind()) else {
        return Some(format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        ));
    };
    let package = internal_package(expected.0);
    let from = if api_version.is_empty() { package } else { ty.version() };
    // The delete options, bindings and evictions of every group and version are the same.
    let same = kind == expected.2 && (group, version) != (expected.0, expected.1);
    (!same).then(|| format!("converting ({from}.{kind}) to ({package}.{}): unknown conversion", expected.2))
}

/// Column definitions of a table.
#[must_use]
pub fn columns(row: &Resource, custom: Option<&Served>) -> Value {
    if let Some(served) = custom {
        let of_common = |name: &str| {
            let common = table::columns(row).into_iter().find(|column| column.name == name);
            let words = common.and_then(|column| column.from).and_then(descriptions::of_column);
            words.unwrap_or_default()
        };
        return served.columns.definitions(&of_common("Name"), &of_common("Created At"));
    }
    let columns = table::columns(row);
    let columns = columns.iter().map(|column| {
        let upstreams = column.from.and_then(descriptions::of_column);
        serde_json::json!({
            "name": column.name, "type": column.type_, "format": column.format, "priority": column.priority,
            "description": upstreams.as_deref().unwrap_or(column.description),
        })
    });
    columns.collect()
}

/// Whether a row's table has columns of its own.
#[must_use]
pub fn has_own_columns(row: &Resource) -> bool {
    row.is_custom() || table::has_columns(row)
}

/// The cells of an object.
#[must_use]
pub fn cells(row: &Resource, custom: Option<&Served>, object: &Value) -> Value {
    match custom {
        Some(served) => served.columns.cells(object, jiff::Timestamp::now()),
        None => table::cells(row, object, jiff::Timestamp::now()).into(),
    }
}
