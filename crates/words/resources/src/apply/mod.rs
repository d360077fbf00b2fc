//! Server-side apply and the tracking of who owns which field.
//!
//! Invariant: after every write each field that a client may own is owned by those who last set it, and by nobody else.
//! Time comes in as text; the same inputs give the same bytes.

mod check;
pub mod managers;
mod order;
pub mod scale;
pub mod set;
pub mod shape;
pub mod walk;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};
use trireme_api::bulk::{self, Kept, Present};
use trireme_api::decode::{self, Empty, FieldValidation, canonicalize};
use trireme_api::schema::{self, Struct};
use trireme_api::{Status, StatusCause, StatusDetails};

use self::managers::{Entry, Id, Managers};
use self::set::{Set, show_path};
use self::shape::Shape;
use crate::custom::Served;
use crate::rows::{self, Resource};
use crate::strategy::reset_fields;

/// Annotation of `kubectl apply` without server side.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where annotations are.
const ANNOTATIONS: &str = "/metadata/annotations";

/// The fields that nobody owns.
static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    let mut out = Set::default();
    for name in ["f:apiVersion", "f:kind", "f:metadata"] {
        out.insert(&[name]);
    }
    for name in [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ] {
        out.insert(&["f:metadata", name]);
    }
    out
});

/// What an object of each kind is before it is created.
static BLANK: LazyLock<HashMap<(&str, &str, &str), Value>> = LazyLock::new(|| {
    let of_rows = rows::rows()
        .iter()
        .map(|row| ((row.group, row.version, row.kind), row.schema()));
    // What is only ever sent to a subresource has no row.
    let of_subresources = [
        ("authentication.k8s.io", "v1", "TokenRequest"),
        ("autoscaling", "v1", "Scale"),
    ]
    .into_iter()
    .filter_map(|kind| schema::kind(kind.0, kind.1, kind.2).map(|schema| (kind, schema)));
    of_rows
        .chain(of_subresources)
        .map(|(kind, schema)| (kind, blank_of(schema)))
        .collect()
});

fn blank_of(schema: &'static Struct) -> Value {
    let mut value = Value::Object(Map::new());
    canonicalize(&mut value, schema);
    value
}

/// An object of a row's kind with nothing set: what a create is compared with.
#[must_use]
pub fn blank(row: &Resource) -> &'static Value {
    static NOTHING: Value = Value::Null;
    if row.is_custom() {
        return &NOTHING;
    }
    BLANK.get(&(row.group, row.version, row.kind)).unwrap_or(&NOTHING)
}

/// Who applies what.
#[derive(Clone, Copy, Debug)]
pub struct Applier<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// Whether to take fields from others.
    pub force: bool,
    /// Subresource that is applied to, or none.
    pub subresource: Option<&'a str>,
    /// Now, RFC 3339 in seconds.
    pub now: &'a str,
    /// How many values the configuration's bulk has, if that is known to be as decoding would leave it.
    pub settled: Option<usize>,
    /// The version of a definition that a custom resource is of.
    pub custom: Option<&'a Served>,
}

/// What an apply gives.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The merged object with its managed fields. Fields that were given up may be null: decode and default it next.
    pub value: Value,
    /// Whether anything but managed fields differs from the live object.
    pub changed: bool,
    /// Whether its `spec` is that of the live object.
    pub same_spec: bool,
    /// The bulk of the live object that the value has, too, where what stands for it is in the value.
    pub kept: Option<Kept>,
}

/// Applies a configuration to the live object, or to nothing. The live object must be in the row's version.
///
/// # Errors
/// 409 with one cause per field that others own, 400 or 500 (as upstream) for a configuration that does not fit.
pub fn apply(row: &Resource, live: Option<&Present>, mut config: Value, by: Applier<'_>) -> Result<Applied, Status> {
    let api_version = row.api_version();
    let (version, kind) = (text(&config, "apiVersion"), text(&config, "kind"));
    if version != api_version || kind != row.kind {
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        return Err(Status::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={kind}"
        )));
    }
    let meta = config.get("metadata");
    if meta.and_then(|meta| meta.get("managedFields")).is_some_and(names_managers) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    // A null there is a field that the live object, looked at without its owners, does not have.
    let is_told_of_managers = meta.is_some_and(|meta| meta.get("managedFields").is_some());
    let shape = Shape::of(row, by.custom);
    // What kubectl once applied is held against all of the live object.
    let apart = live.filter(|live| !(by.manager == "kubectl" && has_last_applied(live.value())));
    let live = match apart {
        Some(live) => Some(live.value()),
        None => live.map(Present::whole),
    };
    let stored = live.and_then(stored_managers);
    let managers =
        managers::read(stored).map_err(|why| Status::failure(500, "", format!("failed to decode managed fields: {why}")))?;
    if let Some(live) = live.filter(|_| managers.is_empty())
        && let Some(problem) = check::problems_of_stored(live, shape)
    {
        let (namespace, name) = (text(&live["metadata"], "namespace"), text(&live["metadata"], "name"));
        return Err(Status::failure(
            500,
            "",
            format!(
                "failed to create manager for existing fields: failed to convert new object ({namespace}/{name}; {}/{}, \
                 Kind={kind}) to smd typed: {problem}",
                row.group, row.version
            ),
        ));
    }
    let settled = row.bulk.filter(|_| by.settled.is_some()).and_then(|at| bulk::at(&config, at));
    if let Some(problem) = check::problems(&config, shape, settled) {
        let of_meta = |name| {
            meta.and_then(|meta| meta.get(name))
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        return Err(Status::failure(
            500,
            "",
            format!(
                "failed to create typed patch object ({}/{}; {}/{}, Kind={kind}): {problem}",
                of_meta("namespace"),
                of_meta("name"),
                row.group,
                row.version
            ),
        ));
    }
    let engine = Engine {
        row,
        custom: by.custom,
        shape,
        api_version: &api_version,
    };
    let live_value = live.unwrap_or_else(|| blank(row));
    let mut managers = managers;
    if managers.is_empty() && live.is_some() {
        // Nobody was tracked so far: what is there belongs to a stand-in.
        (managers, _) = engine.updated(blank(row), live_value, managers, "before-first-apply", by.subresource, by.now);
    }
    let last_applied = (by.manager == "kubectl")
        .then(|| renewed_last_applied(live_value, &config))
        .flatten();
    let lifted = apart.and_then(|live| live.lift(&mut config, false));
    let (merged, managers) = engine.merged(live_value, config, managers, by);
    let own = Id::applier(by.manager, by.subresource.unwrap_or_default());
    let outcome = match engine.taken(live_value, &merged, managers.clone(), &own, by) {
        Err(conflicts) if by.manager == "kubectl" => {
            let allowed = engine.last_applied_and_unchanged(live_value);
            let rest: Vec<Conflict> = match &allowed {
                Some(allowed) => conflicts
                    .into_iter()
                    .filter(|conflict| !covers(allowed, &conflict.path))
                    .collect(),
                None => conflicts,
            };
            if rest.is_empty() {
                engine.taken(live_value, &merged, managers, &own, Applier { force: true, ..by })
            } else {
                Err(rest)
            }
        }
        outcome => outcome,
    };
    let (mut managers, same_spec) = outcome.map_err(|conflicts| conflict_status(&conflicts))?;
    let changed = is_told_of_managers || !same_spec || !equal_but_for_managers(&merged, live_value, same_spec);
    let mut value = if changed {
        if let Some(entry) = managers.get_mut(&Id::applier(by.manager, by.subresource.unwrap_or_default())) {
            entry.time = Some(by.now.to_owned());
        }
        merged
    } else {
        live_value.clone()
    };
    set_managers(&mut value, managers);
    if let Some(last_applied) = last_applied
        && let Some(Value::Object(annotations)) = value.pointer_mut(ANNOTATIONS)
        && filled_last_applied(annotations)
    {
        annotations.insert(LAST_APPLIED.to_owned(), Value::String(last_applied));
    }
    let own = apart.and_then(|live| Some((live.bulk_at()?, bulk::at(live.value(), live.bulk_at()?)?)));
    let stays = own.filter(|(at, own)| bulk::at(&value, at) == Some(own));
    let kept = match (stays, lifted) {
        (Some(_), Some(lifted)) if lifted.is_kept() => Some(Kept::Sent(lifted.into_value(), by.settled)),
        (Some(_), _) => Some(Kept::Unread),
        (None, Some(lifted)) => {
            if let Some(at) = apart.and_then(Present::bulk_at) {
                bulk::put(&mut value, at, lifted.into_value());
            }
            None
        }
        (None, None) => None,
    };
    Ok(Applied {
        value,
        changed,
        same_spec,
        kept,
    })
}

/// Whether managed fields are a list of entries; upstream sees none where one of them is none.
fn names_managers(fields: &Value) -> bool {
    let Some(ty) = schema::named(schema::META, "ManagedFieldsEntry") else {
        return false;
    };
    let reads = |entry: &Value| decode::unstructured(entry.clone(), ty, FieldValidation::Ignore).is_ok();
    fields.as_array().is_some_and(|entries| entries.iter().all(reads))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether two objects have the same members but for managed fields; `same_spec` says that their specs need no look.
fn equal_but_for_managers(a: &Value, b: &Value, same_spec: bool) -> bool {
    let left_out: &[&str] = if same_spec { &["metadata", "spec"] } else { &["metadata"] };
    equal_but_for(a, b, left_out) && equal_but_for(&a["metadata"], &b["metadata"], &["managedFields"])
}

fn set_managers(value: &mut Value, managers: Managers) {
    let Some(Value::Object(meta)) = value.get_mut("metadata") else {
        return;
    };
    match managers::write(managers) {
        Some(entries) => meta.insert("managedFields".to_owned(), entries),
        None => meta.remove("managedFields"),
    };
}

fn filled_last_applied(annotations: &Map<String, Value>) -> bool {
    let text = annotations.get(LAST_APPLIED).and_then(Value::as_str);
    text.is_some_and(|text| !text.is_empty())
}

fn has_last_applied(value: &Value) -> bool {
    let annotations = value.pointer(ANNOTATIONS).and_then(Value::as_object);
    annotations.is_some_and(filled_last_applied)
}

/// What keeps the annotation of client-side apply in step for those who still look at it; none where neither object has it.
fn renewed_last_applied(live: &Value, config: &Value) -> Option<String> {
    if !has_last_applied(live) && !has_last_applied(config) {
        return None;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config.pointer_mut(ANNOTATIONS) {
        annotations.remove(LAST_APPLIED);
    }
    Some(format!("{config}\n"))
}

/// Who updates, and when.
#[derive(Clone, Copy, Debug)]
pub struct Updater<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// Subresource that is written, or none.
    pub subresource: Option<&'a str>,
    /// Now, RFC 3339 in seconds.
    pub now: &'a str,
    /// Whether the new object holds a list or map that was sent empty.
    pub empty: bool,
    /// The version of a definition that a custom resource is of.
    pub custom: Option<&'a Served>,
}

/// Renews the managed fields of an object about to be stored by create, update or any patch but apply. Both objects
/// are in the row's version; a create has no old one. Whether the two are known to have the same `spec`, or to have another,
/// comes back: finding it out once more costs as much as all else.
pub fn update_managers(row: &Resource, old: Option<&Value>, new: &mut Value, by: Updater<'_>) -> Option<bool> {
    if !by.empty {
        return renew(row, old, new, by);
    }
    // Upstream sees the fields that its JSON would have.
    let mut written = new.clone();
    decode::canonicalize_as(&mut written, row.schema(), Empty::Compared);
    // An empty list of owners is the request to forget them.
    if let (Some(sent), Some(Value::Object(meta))) = (stored_managers(new), written.get_mut("metadata")) {
        meta.insert("managedFields".to_owned(), sent.clone());
    }
    renew(row, old, &mut written, by);
    let managers = written
        .get_mut("metadata")
        .and_then(|meta| meta.as_object_mut()?.remove("managedFields"));
    if let Some(Value::Object(meta)) = new.get_mut("metadata") {
        match managers {
            Some(managers) => meta.insert("managedFields".to_owned(), managers),
            None => meta.remove("managedFields"),
        };
    }
    None // what was compared had lost what is empty
}

/// Whether two states of an object differ in nothing but the times of their managed fields: then nothing was changed,
/// and the times stay what they were.
#[must_use]
pub fn differ_in_times_only(old: &Value, new: &Value) -> bool {
    let entries = |value| managed_fields(value).map_or(&[][..], Vec::as_slice);
    let (before, after) = (entries(old), entries(new));
    let times = |entries: &[Value]| -> Vec<Option<Value>> { entries.iter().map(|entry| entry.get("time").cloned()).collect() };
    before.len() == after.len()
        && before.iter().zip(after).all(|(a, b)| equal_but_for(a, b, &["time"]))
        && times(before) != times(after)
        && equal_but_for_managers(old, new, false)
}

/// What is wrong with the managed fields of an object; none where they can be read.
#[must_use]
pub fn misread_managers(value: &Value) -> Option<String> {
    managers::read(stored_managers(value)).err()
}

fn managed_fields(value: &Value) -> Option<&Vec<Value>> {
    stored_managers(value).and_then(Value::as_array)
}

/// The managed fields of an object, as they are written. (A JSON pointer would make strings of each of its steps.)
fn stored_managers(value: &Value) -> Option<&Value> {
    value.get("metadata")?.get("managedFields")
}

/// Whether two objects have the same members, some left out.
fn equal_but_for(a: &Value, b: &Value, left_out: &[&str]) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return a == b;
    };
    fn rest<'a>(members: &'a Map<String, Value>, left_out: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
        members.iter().filter(move |(name, _)| !left_out.contains(&name.as_str()))
    }
    rest(a, left_out).eq(rest(b, left_out))
}

fn renew(row: &Resource, old: Option<&Value>, new: &mut Value, by: Updater<'_>) -> Option<bool> {
    let api_version = row.api_version();
    let engine = Engine {
        row,
        custom: by.custom,
        shape: Shape::of(row, by.custom),
        api_version: &api_version,
    };
    let Value::Object(meta) = new.get_mut("metadata")? else {
        return None;
    };
    let sent = meta.remove("managedFields");
    let of_old = || managers::read(old.and_then(stored_managers)).unwrap_or_default();
    let managers = if by.subresource.is_some() {
        of_old()
    } else if managers::is_reset(sent.as_ref()) {
        Managers::new()
    } else {
        match managers::read(sent.as_ref()) {
            Ok(managers) if !managers.is_empty() => managers,
            _ => of_old(),
        }
    };
    if managers.is_empty() && old.is_some() {
        return None; // not tracked until someone applies
    }
    let (managers, same_spec) = engine.updated(
        old.unwrap_or_else(|| blank(row)),
        new,
        managers,
        by.manager,
        by.subresource,
        by.now,
    );
    set_managers(new, managers);
    Some(same_spec)
}

struct Conflict {
    manager: Id,
    path: Vec<String>,
}

fn covers(set: &Set, path: &[String]) -> bool {
    let Some((last, before)) = path.split_last() else {
        return false;
    };
    let mut at = set;
    for element in before {
        match at.below(element) {
            Some(below) => at = below,
            None => return false,
        }
    }
    at.has(last)
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let shown = |conflict: &Conflict| show_path(&conflict.path.iter().map(String::as_str).collect::<Vec<_>>());
    let causes = conflicts
        .iter()
        .map(|conflict| StatusCause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager.show()),
            field: shown(conflict),
        })
        .collect();
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager.show(),
            shown(one)
        ),
        several => {
            let mut lines: Vec<String> = Vec::new();
            let mut before = None;
            for conflict in several {
                if before != Some(&conflict.manager) {
                    lines.push(format!("conflicts with {}:", conflict.manager.show()));
                    before = Some(&conflict.manager);
                }
                lines.push(format!("- {}", shown(conflict)));
            }
            format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    Status::failure(409, "Conflict", message).with_details(StatusDetails {
        causes,
        ..StatusDetails::default()
    })
}

struct Engine<'a> {
    row: &'a Resource,
    custom: Option<&'a Served>,
    shape: Shape<'a>,
    api_version: &'a str,
}

impl<'a> Engine<'a> {
    /// An object in another version of the same resource.
    fn converted(&self, value: &Value, api_version: &str) -> Option<(Value, Shape<'a>)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        if let Some(defined) = self.row.custom {
            let known = group == self.row.group && defined.versions.contains(&version);
            let of_version = |served: &'a Served| {
                Shape::of_custom(
                    served
                        .form(version)
                        .and_then(|form| form.structural())
                        .map(|schema| &**schema),
                )
            };
            return known.then(|| (value.clone(), self.custom.map_or(self.shape, of_version)));
        }
        let to = rows::find(group, version, self.row.plural).filter(|to| to.storage == self.row.storage)?;
        let mut value = value.clone();
        crate::convert::convert(self.row, to, &mut value);
        Some((value, Shape::of_row(to)))
    }

    /// How the objects differ in a version, without what the request cannot set; none for a version that is gone.
    fn delta(&self, old: &Value, new: &Value, api_version: &str, subresource: Option<&str>) -> Option<walk::Delta> {
        let mut delta = if api_version == self.api_version {
            walk::compare(old, new, self.shape)
        } else {
            let (old, shape) = self.converted(old, api_version)?;
            let (new, _) = self.converted(new, api_version)?;
            walk::compare(&old, &new, shape)
        };
        if let Some(reset) = reset_fields(self.row, subresource) {
            for set in [&mut delta.added, &mut delta.modified, &mut delta.removed] {
                set.subtract_below(reset);
            }
        }
        Some(delta)
    }

    /// Takes from all managers but `own` what changed. Without force, changed fields of others are conflicts.
    fn take(
        &self,
        old: &Value,
        new: &Value,
        managers: &mut Managers,
        own: Option<&Id>,
        force: bool,
        subresource: Option<&str>,
    ) -> Result<walk::Delta, Vec<Conflict>> {
        let delta = self.delta(old, new, self.api_version, subresource).unwrap_or_default();
        let mut others: HashMap<String, Option<walk::Delta>> = HashMap::new();
        for entry in managers.values() {
            if entry.api_version != self.api_version && !others.contains_key(&entry.api_version) {
                let delta = self.delta(old, new, &entry.api_version, subresource);
                others.insert(entry.api_version.clone(), delta);
            }
        }
        let mut conflicts = Vec::new();
        let mut gone = Vec::new();
        let mut lost: Vec<(Id, Set)> = Vec::new();
        for (id, entry) in managers.iter() {
            if Some(id) == own {
                continue;
            }
            let delta = if entry.api_version == self.api_version {
                &delta
            } else if let Some(delta) = &others[&entry.api_version] {
                delta
            } else {
                gone.push(id.clone());
                continue;
            };
            let taken = entry
                .fields
                .intersection(&delta.modified)
                .union(&entry.fields.intersection(&delta.added));
            if !force {
                taken.paths(&mut Vec::new(), &mut |path| {
                    conflicts.push(Conflict {
                        manager: id.clone(),
                        path: path.iter().map(|element| (*element).to_owned()).collect(),
                    });
                });
            }
            let taken = taken.union(&delta.removed);
            if !taken.is_empty() {
                lost.push((id.clone(), taken));
            }
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        for (id, taken) in lost {
            if let Some(entry) = managers.get_mut(&id) {
                entry.fields.subtract(&taken);
            }
        }
        for id in gone {
            managers.remove(&id);
        }
        managers.retain(|_, entry| !entry.fields.is_empty());
        Ok(delta)
    }

    fn updated(
        &self,
        old: &Value,
        new: &Value,
        mut managers: Managers,
        manager: &str,
        subresource: Option<&str>,
        now: &str,
    ) -> (Managers, bool) {
        let Ok(delta) = self.take(old, new, &mut managers, None, true, subresource) else {
            return (managers, false);
        };
        let same_spec = delta.same_spec;
        if delta.untold {
            return (Managers::new(), same_spec);
        }
        let mut own = delta.modified;
        own.absorb(delta.added);
        if let Some(reset) = reset_fields(self.row, subresource) {
            own.subtract_below(reset);
        }
        own.subtract(&STRIPPED);
        if !own.is_empty() {
            let id = Id::updater(manager, self.api_version, subresource.unwrap_or_default());
            let entry = managers.entry(id).or_insert_with(|| Entry {
                api_version: self.api_version.to_owned(),
                fields: Set::default(),
                time: None,
            });
            entry.fields.absorb(own);
            entry.time = Some(now.to_owned());
        }
        managers::fold(&mut managers);
        (managers, same_spec)
    }

    /// The live object with the configuration, without what the applier gave up; and the managers with what it sets.
    fn merged(&self, live: &Value, config: Value, mut managers: Managers, by: Applier<'_>) -> (Value, Managers) {
        let id = Id::applier(by.manager, by.subresource.unwrap_or_default());
        let mut own = walk::fields_of(&config, self.shape);
        let merged = walk::merge(live, config, self.shape);
        if let Some(reset) = reset_fields(self.row, by.subresource) {
            own.subtract_below(reset);
        }
        let last = managers.get(&id).cloned();
        let entry = Entry {
            api_version: self.api_version.to_owned(),
            fields: own,
            time: last.as_ref().and_then(|last| last.time.clone()),
        };
        managers.insert(id, entry);
        let pruned = match last {
            Some(last) if !last.fields.is_empty() => self.pruned(merged, &managers, &last),
            _ => merged,
        };
        (pruned, managers)
    }

    /// The managers after what changed was taken from all but `own`; and whether the specs are the same.
    fn taken(
        &self,
        live: &Value,
        merged: &Value,
        mut managers: Managers,
        own: &Id,
        by: Applier<'_>,
    ) -> Result<(Managers, bool), Vec<Conflict>> {
        let delta = self.take(live, merged, &mut managers, Some(own), by.force, by.subresource)?;
        if let Some(entry) = managers.get_mut(own) {
            entry.fields.subtract(&STRIPPED);
        }
        managers.retain(|_, entry| !entry.fields.is_empty());
        Ok((managers, delta.same_spec))
    }

    /// The merged object without what this applier set last time, does not set now, and nobody else owns.
    fn pruned(&self, merged: Value, managers: &Managers, last: &Entry) -> Value {
        let native = last.api_version == self.api_version;
        let (merged, shape) = if native {
            (merged, self.shape)
        } else {
            match self.converted(&merged, &last.api_version) {
                Some(converted) => converted,
                None => return merged,
            }
        };
        let named = |set: &Set| walk::with_named_fields(set, shape);
        let last_named = named(&last.fields);
        let mut pruned = walk::without(&merged, &last_named, shape);
        let merged_set = named(&walk::fields_of(&merged, shape));
        // Back comes what anybody owns.
        let mut owned = Set::default();
        for entry in managers.values() {
            owned.extend(&entry.fields);
        }
        let mut kept = named(&walk::fields_of(&pruned, shape));
        kept.extend(&named(&owned));
        let mut drop = merged_set.clone();
        drop.subtract(&kept);
        pruned = walk::without(&merged, &drop, shape);
        // Back comes what was never this applier's.
        let mut drop = merged_set;
        drop.subtract(&named(&walk::fields_of(&pruned, shape)));
        let pruned = walk::without(&merged, &drop.intersection(&last_named), shape);
        if native {
            return pruned;
        }
        let (group, version) = last.api_version.rsplit_once('/').unwrap_or(("", &last.api_version));
        let mut pruned = pruned;
        if self.row.is_custom() {
            return pruned;
        }
        if let Some(from) = rows::find(group, version, self.row.plural) {
            crate::convert::convert(from, self.row, &mut pruned);
        }
        pruned
    }

    /// The fields of the client-side apply annotation that still have the value it says.
    fn last_applied_and_unchanged(&self, live: &Value) -> Option<Set> {
        let annotation = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
        let last: Value = serde_json::from_str(annotation).ok()?;
        if text(&last, "apiVersion") != self.api_version || check::problems(&last, self.shape, None).is_some() {
            return None;
        }
        let mut fields = walk::fields_of(&last, self.shape);
        let delta = walk::compare(&last, live, self.shape);
        for set in [&delta.modified, &delta.added, &delta.removed] {
            fields.subtract(set);
        }
        Some(fields)
    }
}

#[cfg(test)]
mod tests;
