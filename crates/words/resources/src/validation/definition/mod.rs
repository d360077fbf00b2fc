//! Definitions of custom resources
//! (staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation).
//!
//! Invariant: what all versions share is told at the path that it has in upstream's inner form, which holds it once:
//! `spec.validation`, `spec.subresources` and so on. What an update finds wrong in the old object too is let pass where
//! upstream lets it pass.

mod costs;
mod defaulted;
mod formats;
mod members;
mod openapi;
mod parts;
mod structural;
mod value;

use std::collections::HashSet;

use serde_json::Value;
use trireme_api::bulk::Present;

use super::errors::{Errors, Excuse};
use super::extension;
use super::metadata::{self, Rules};
use super::names;
use super::node::{IMMUTABLE, Node, same};
use super::show;
use members::{Members, Survey};

/// The package of the types, as the field table names it.
const PACKAGE: &str = "apiextensions-apiserver/pkg/apis/apiextensions/v1";
/// The annotation that says who approved an API of a protected group.
const APPROVED: &str = "api-approved.kubernetes.io";
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const RULES: Rules = Rules {
    name: names::subdomain,
    namespaced: false,
    standard_finalizers: false,
    any_base: false,
};

static NULL: Value = Value::Null;

/// What is asked of a definition. On creation everything; on update not what the old one did not keep either.
struct Options {
    known_review: bool,
    fixed_names: bool,
    schema: bool,
    known_types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    list_keys: bool,
    authorities: bool,
    /// What the schemas of the definition have.
    used: Members,
    /// Which of their properties are looked at one by one.
    survey: Survey,
    /// Formats that nobody knows and that the old definition had; none where it had all that the new one has.
    known_formats: Option<HashSet<String>>,
    /// Versions whose schemas are the old ones.
    same_schemas: HashSet<String>,
    /// Versions whose selectable fields may stay too many; an empty name stands for those that all share.
    many_fields: HashSet<String>,
}

impl Options {
    fn all() -> Self {
        Self {
            known_review: true,
            fixed_names: false,
            schema: true,
            known_types: true,
            structural: true,
            pruned_defaults: true,
            atomic_sets: true,
            list_keys: true,
            authorities: false,
            used: Members::default(),
            survey: Survey::default(),
            known_formats: Some(HashSet::new()),
            same_schemas: HashSet::new(),
            many_fields: HashSet::new(),
        }
    }

    /// What is asked of a changed definition whose old schemas were without fault.
    fn of_update(spec: &Spec<'_>, old: &Spec<'_>, old_root: &Node<'_>) -> Self {
        let conversion = old.node.at("conversion");
        let reviews = conversion.get("webhook.conversionReviewVersions").strings();
        let established = condition(old_root, "Established");
        let bundle = conversion.get("webhook.clientConfig.caBundle");
        let mut many_fields = HashSet::new();
        if too_many(&old.selectable) && old.selectable.value == spec.selectable.value {
            many_fields.insert(String::new());
        }
        for version in &spec.versions {
            let before = old.versions.iter().find(|before| before.name() == version.name());
            if before.is_some_and(|before| too_many(&before.selectable) && before.selectable.value == version.selectable.value) {
                many_fields.insert(version.name().to_owned());
            }
        }
        let same_schema = |version: &&Version<'_>| {
            let before = old.versions.iter().find(|before| before.name() == version.name());
            before.is_some_and(|before| {
                let (new, old) = (spec.schema_of(version).value, old.schema_of(before).value);
                std::ptr::eq(new, old) || same(new, old)
            })
        };
        let same_schemas = spec
            .versions
            .iter()
            .filter(same_schema)
            .map(|version| version.name().to_owned());
        Self {
            same_schemas: same_schemas.collect(),
            known_review: reviews.is_empty() || reviews.iter().any(|version| REVIEWS.contains(version)),
            fixed_names: established,
            schema: old.all_have_schemas(),
            authorities: established && (bundle.is_empty() || parts::authorities(&bundle).is_none()),
            many_fields,
            ..Self::all()
        }
    }

    /// Lets pass what the old schemas have wrong, too.
    fn after(self, old: &Spec<'_>) -> Self {
        let schemas = || old.schemas();
        let mut survey = Survey::default();
        let used = schemas().fold(Members::default(), |used, schema| used.and(survey.of(schema.value)));
        // Whether no schema of the old definition does what needs the member.
        let none = |member: Members, wrong: &dyn Fn(&Node<'_>, Members) -> bool| {
            !(used.any(member) && schemas().any(|schema| openapi::any(&schema, wrong)))
        };
        Self {
            known_types: !survey.unknown_type,
            structural: !schemas().any(|schema| structural::problem(&schema, used, &survey)),
            pruned_defaults: none(Members::DEFAULT, &defaulted::unpruned),
            atomic_sets: none(Members::LIST_TYPE, &openapi::granular_set),
            list_keys: none(Members::LIST_TYPE, &openapi::loose_keys),
            known_formats: Some(survey.formats.into_iter().collect()),
            ..self
        }
    }
}

fn too_many(fields: &Node<'_>) -> bool {
    fields.len() > parts::SELECTABLE_MAX
}

fn condition(root: &Node<'_>, kind: &str) -> bool {
    let conditions = root.get("status.conditions").items();
    conditions
        .iter()
        .any(|condition| condition.text("type") == kind && condition.text("status") == "True")
}

/// A version in upstream's inner form: what all versions share is not here.
struct Version<'a> {
    node: Node<'a>,
    schema: Node<'a>,
    subresources: Node<'a>,
    columns: Node<'a>,
    selectable: Node<'a>,
}

impl<'a> Version<'a> {
    fn name(&self) -> &'a str {
        self.node.text("name")
    }
}

/// A spec in upstream's inner form.
struct Spec<'a> {
    node: Node<'a>,
    versions: Vec<Version<'a>>,
    schema: Node<'a>,
    subresources: Node<'a>,
    columns: Node<'a>,
    selectable: Node<'a>,
}

impl<'a> Spec<'a> {
    fn of(root: &Node<'a>) -> Self {
        let node = root.at("spec");
        let nodes = node.at("versions").items();
        let part = |name: &'static str, shared_name: &'static str| {
            let mut all = nodes.iter().map(|version| version.at(name));
            let first = all.next().map_or(&NULL, |node| node.value);
            // What is empty is as if it were not there.
            let shared = all.all(|node| node.value == first || same(node.value, first));
            let mut above = node.child(shared_name);
            let own: Vec<Node<'a>> = nodes
                .iter()
                .map(|version| if shared { version.child(name) } else { version.at(name) })
                .collect();
            if shared {
                above.value = first;
            }
            (above, own)
        };
        let (schema, schemas) = part("schema", "validation");
        let (subresources, all_subresources) = part("subresources", "subresources");
        let (columns, all_columns) = part("additionalPrinterColumns", "additionalPrinterColumns");
        let (selectable, all_selectable) = part("selectableFields", "selectableFields");
        let mut parts = schemas
            .into_iter()
            .zip(all_subresources)
            .zip(all_columns.into_iter().zip(all_selectable));
        let versions = nodes
            .iter()
            .filter_map(|version| {
                let ((schema, subresources), (columns, selectable)) = parts.next()?;
                Some(Version {
                    node: version.clone(),
                    schema,
                    subresources,
                    columns,
                    selectable,
                })
            })
            .collect();
        Self {
            node,
            versions,
            schema,
            subresources,
            columns,
            selectable,
        }
    }

    /// All schemas that there are.
    fn schemas(&self) -> impl Iterator<Item = Node<'a>> {
        let own = self.versions.iter().map(|version| &version.schema);
        let all: Vec<Node<'a>> = std::iter::once(&self.schema)
            .chain(own)
            .map(|schema| schema.at("openAPIV3Schema"))
            .filter(Node::set)
            .collect();
        all.into_iter()
    }

    /// The schema of a version: its own, or the one that all share.
    fn schema_of<'s>(&'s self, version: &'s Version<'a>) -> &'s Node<'a> {
        if version.schema.set() { &version.schema } else { &self.schema }
    }

    fn all_have_schemas(&self) -> bool {
        let has = |schema: &Node<'_>| schema.has("openAPIV3Schema");
        has(&self.schema) || self.versions.iter().all(|version| has(&version.schema))
    }

    /// The versions as upstream's messages print them.
    fn shown(&self) -> String {
        let all: Vec<String> = self
            .versions
            .iter()
            .map(|version| {
                let mut value = version.node.value.clone();
                for (name, part) in [
                    ("schema", &version.schema),
                    ("subresources", &version.subresources),
                    ("additionalPrinterColumns", &version.columns),
                    ("selectableFields", &version.selectable),
                ] {
                    if !part.set()
                        && let Some(members) = value.as_object_mut()
                    {
                        members.remove(name);
                    }
                }
                show::internal(PACKAGE, "CustomResourceDefinitionVersion", &value)
            })
            .collect();
        if all.is_empty() && !self.node.has("versions") {
            return "null".to_owned();
        }
        format!("[{}]", all.join(","))
    }
}

/// A definition to create.
pub(super) fn create(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let wanted = format!("{}.{}", spec.get("names.plural").str(), spec.text("group"));
    metadata::create_with(errors, &root.at("metadata"), RULES, &|name| {
        (name != wanted).then(|| "must be spec.names.plural+\".\"+spec.group".to_owned())
    });
    let spec = Spec::of(root);
    check(errors, &spec, Options::all());
    rest(errors, root, None);
}

/// A change of a definition, its metadata apart.
pub(super) fn update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (spec, mut before) = (Spec::of(root), Spec::of(old));
    let same = errors.excuse() == Excuse::Same;
    if same {
        before = Spec {
            node: before.node,
            ..Spec::of(root)
        };
    }
    let options = || {
        let options = Options::of_update(&spec, &before, old);
        let schema = options.schema || errors.excuse() == Excuse::Nothing;
        let known_formats = options.known_formats.filter(|_| !same);
        Options {
            schema,
            known_formats,
            ..options
        }
    };
    let fixed = options().fixed_names;
    // Most new schemas have nothing wrong: then it is all the same what the old ones have.
    let mut strict = Errors::new();
    check(&mut strict, &spec, options());
    if strict.is_silent() || errors.excuse() == Excuse::Nothing {
        errors.absorb(strict);
    } else if strict.is_empty() {
        strict.unwarn(&warnings(old));
        errors.absorb(strict);
    } else {
        check(errors, &spec, options().after(&before));
    }
    let names: &[&str] = if fixed {
        &["scope", "names.kind", "group", "names.plural"]
    } else {
        &["group", "names.plural"]
    };
    for name in names {
        let (new, old) = (spec.node.get(name), before.node.get(name));
        if new.str() != old.str() {
            errors.push(new.bad(IMMUTABLE));
        }
    }
    rest(errors, root, Some(old));
}

/// What a stored definition as such is warned of.
pub(super) fn stored_warnings(present: &Present) -> HashSet<String> {
    let root = || Node::root(present.whole());
    let Some(Ok(formats)) = present.bulk_text().map(formats::unknown) else {
        return warnings(&root());
    };
    let known = formats.iter().map(|format| unrecognized(format)).collect();
    debug_assert_eq!(known, warnings(&root()));
    known
}

/// What a definition as such is warned of.
fn warnings(root: &Node<'_>) -> HashSet<String> {
    let mut survey = Survey::default();
    for schema in Spec::of(root).schemas() {
        survey.of(schema.value);
    }
    survey.formats.iter().map(|format| unrecognized(format)).collect()
}

fn unrecognized(format: &str) -> String {
    format!("unrecognized format {}", show::quoted(format))
}

/// A change of a definition's status.
pub(super) fn update_status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    parts::names(errors, &root.get("status.acceptedNames"));
}

/// What stands behind the spec.
fn rest(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    parts::names(errors, &root.get("status.acceptedNames"));
    stored_versions(errors, root);
    approval(errors, root, old);
    let preserve = root.get("spec.preserveUnknownFields");
    if preserve.value == true && old.is_none_or(|old| old.get("spec.preserveUnknownFields").value != true) {
        errors.push(
            preserve.invalid(
                "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            ),
        );
    }
}

fn check(errors: &mut Errors, spec: &Spec<'_>, mut options: Options) {
    let node = &spec.node;
    let group = node.at("group");
    let messages = names::subdomain(group.str());
    if group.is_empty() {
        errors.push(group.required(""));
    } else if !messages.is_empty() {
        errors.push(group.bad(messages.join(",")));
    } else if !group.str().contains('.') {
        errors.push(group.bad("should be a domain with at least one dot"));
    }
    node.at("scope").need_one_of(errors, &["Cluster", "Namespaced"]);
    let pruning = !node.is("preserveUnknownFields");
    options.structural |= pruning;
    if !spec.schema.has("openAPIV3Schema") {
        for version in &spec.versions {
            let schema = version.node.child("schema").child("openAPIV3Schema");
            if version.schema.has("openAPIV3Schema") {
                continue;
            }
            if options.schema {
                errors.push(schema.required(""));
            } else if pruning && version.node.is("served") {
                errors.push(schema.required("because otherwise all fields are pruned"));
            }
        }
    }
    let used = spec
        .schemas()
        .fold(Members::default(), |used, schema| used.and(options.survey.of(schema.value)));
    if used.any(Members::DEFAULT) {
        options.structural = true;
        if !pruning {
            errors.push(
                node.child("preserveUnknownFields")
                    .invalid_as("true", "must be false in order to use defaults in the schema"),
            );
        }
    }
    for format in std::mem::take(&mut options.survey.formats) {
        if options.known_formats.as_ref().is_some_and(|known| !known.contains(&format)) {
            errors.warn(unrecognized(&format));
        }
    }
    options.structural = options.structural
        || (used.any(Members::EXTENSIONS) && spec.schemas().any(|schema| openapi::any(&schema, &openapi::extended)));
    options.used = used;
    versions(errors, spec, &options);
    shared(errors, spec, &options);
    let conversion = node.at("conversion");
    if conversion.set() && conversion.text("strategy") != "None" && !pruning {
        let strategy = conversion.at("strategy");
        errors.push(strategy.bad("must be None if spec.preserveUnknownFields is true"));
    }
    self::conversion(errors, &conversion, &options);
}

/// Each version, and what versions must be together.
fn versions(errors: &mut Errors, spec: &Spec<'_>, options: &Options) {
    let mut seen = HashSet::new();
    let mut unique = true;
    let some_status = spec.versions.iter().any(|version| version.subresources.set());
    for version in &spec.versions {
        unique &= seen.insert(version.name());
        let messages = names::label_1035(version.name());
        if !messages.is_empty() {
            errors.push(version.node.at("name").bad(messages.join(",")));
        }
        let subresources = if some_status {
            &version.subresources
        } else {
            &spec.subresources
        };
        self::version(errors, version, subresources.has("status"), options);
    }
    let all = spec.node.child("versions");
    let mut told = |detail: &str| errors.push(all.invalid_as(spec.shown(), detail));
    if !unique {
        told("must contain unique version names");
    }
    if spec.versions.iter().filter(|version| version.node.is("storage")).count() != 1 {
        told("must have exactly one version marked as storage version");
    }
}

fn version(errors: &mut Errors, version: &Version<'_>, status: bool, options: &Options) {
    parts::deprecation(errors, &version.node);
    let settled = options.same_schemas.contains(version.name());
    schema(errors, &version.schema, status, options, settled);
    parts::subresources(errors, &version.subresources);
    for column in version.columns.items() {
        parts::column(errors, &column);
    }
    if version.selectable.is_empty() {
        return;
    }
    let schema = version.schema.at("openAPIV3Schema");
    if schema.set() {
        if let Some(why) = structural::unsupported(&schema) {
            errors.push(version.node.child("schema.openAPIV3Schema").bad_text("", why.to_string()));
        }
        let many = options.many_fields.contains(version.name());
        parts::selectable(errors, &version.selectable, &schema, many);
    } else {
        errors.push(
            version
                .selectable
                .bad_text("", "may only be set when `version.schema.openAPIV3Schema` is not included"),
        );
    }
}

/// What all versions share, and the names.
fn shared(errors: &mut Errors, spec: &Spec<'_>, options: &Options) {
    let node = &spec.node;
    if let Some(first) = spec.versions.first() {
        let messages = names::label_1035(first.name());
        if !first.name().is_empty() && !messages.is_empty() {
            errors.push(node.child("version").bad_text(first.name(), messages.join(",")));
        }
    }
    let names = node.at("names");
    for name in ["plural", "singular", "kind", "listKind"] {
        names.need(errors, name);
    }
    parts::names(errors, &names);
    let own = spec.versions.iter().map(|version| &version.subresources);
    let status = std::iter::once(&spec.subresources)
        .chain(own)
        .any(|subresources| subresources.has("status"));
    let first = spec.versions.first();
    let settled = first.is_some_and(|version| options.same_schemas.contains(version.name()));
    schema(errors, &spec.schema, status, options, settled);
    parts::subresources(errors, &spec.subresources);
    for column in spec.columns.items() {
        parts::column(errors, &column);
    }
    if spec.selectable.is_empty() {
        return;
    }
    if spec.schema.set() {
        let schema = spec.schema.at("openAPIV3Schema");
        if let Some(why) = structural::unsupported(&schema) {
            errors.push(node.child("schema.openAPIV3Schema").bad_text("", why.to_string()));
        }
        parts::selectable(errors, &spec.selectable, &schema, options.many_fields.contains(""));
    } else {
        errors.push(
            spec.selectable
                .bad_text("", "may only be set when validations.schema is included"),
        );
    }
}

/// The schema of one version, or the one that all share.
fn schema(errors: &mut Errors, validation: &Node<'_>, status: bool, options: &Options, settled: bool) {
    let schema = validation.at("openAPIV3Schema");
    if !schema.set() {
        return;
    }
    let start = errors.len();
    if status {
        openapi::root_fields(errors, &schema);
    }
    if schema.is("nullable") {
        errors.push(
            validation
                .child("openAPIV3Schema.nullable")
                .forbidden("nullable cannot be true at the root"),
        );
    }
    let mut unsupported = None;
    let mut expressions = false;
    if options.structural {
        if options.used.any(Members::UNSUPPORTED) {
            unsupported = structural::unsupported(&schema);
        }
        if unsupported.is_none() {
            let before = errors.len();
            structural::check(errors, &schema, &options.survey);
            if errors.len() == before && options.used.any(Members::DEFAULT) {
                defaulted::check(errors, &schema, options.pruned_defaults, &options.survey);
            }
            expressions = errors.len() == before;
        }
    }
    openapi::check(errors, &schema, options, expressions, settled);
    if errors.len() == start
        && let Some(why) = unsupported
    {
        errors.push(schema.bad_text("", why.to_string()));
    }
}

fn conversion(errors: &mut Errors, node: &Node<'_>, options: &Options) {
    if !node.set() {
        return;
    }
    node.at("strategy").need_one_of(errors, &["None", "Webhook"]);
    let client = node.get("webhook.clientConfig").moved(node.child("webhookClientConfig").path);
    let reviews = node
        .get("webhook.conversionReviewVersions")
        .moved(node.child("conversionReviewVersions").path);
    if node.text("strategy") != "Webhook" {
        const OTHER: &str = "should not be set when strategy is not set to Webhook";
        if client.set() {
            errors.push(client.forbidden(OTHER));
        }
        if !reviews.is_empty() {
            errors.push(reviews.forbidden(OTHER));
        }
        return;
    }
    if client.set() {
        extension::client(errors, &client);
        let bundle = client.at("caBundle");
        if options.authorities
            && !bundle.is_empty()
            && let Some(why) = parts::authorities(&bundle)
        {
            errors.push(bundle.bad(why));
        }
    } else {
        errors.push(client.required("required when strategy is set to Webhook"));
    }
    if reviews.is_empty() {
        errors.push(reviews.required(""));
    } else {
        extension::review_versions(errors, &reviews, options.known_review);
    }
}

fn stored_versions(errors: &mut Errors, root: &Node<'_>) {
    let stored = root.get("status.storedVersions");
    if stored.is_empty() {
        errors.push(stored.invalid("must have at least one stored version"));
        return;
    }
    let versions = root.get("spec.versions").items();
    let names = stored.strings();
    // Each stored version answers for one version: one that stands twice has none left.
    let mut left: HashSet<&str> = names.iter().copied().collect();
    for version in &versions {
        let name = version.text("name");
        if !left.remove(name) && version.is("storage") {
            errors.push(stored.invalid(format!("must have the storage version {name}")));
        }
    }
    let known: HashSet<&str> = versions.iter().map(|version| version.text("name")).collect();
    for (index, name) in names.iter().enumerate() {
        let last = names.iter().rposition(|other| other == name) == Some(index);
        if last && !known.contains(name) {
            errors.push(stored.index(index).bad_text(
                name,
                format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"),
            ));
        }
    }
}

/// What the annotation of a protected group says.
#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

fn approval_of(root: &Node<'_>) -> Approval {
    let text = root.get("metadata.annotations").text(APPROVED);
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        let mut letters = scheme.bytes();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|letter| letter.is_ascii_alphanumeric() || b"+-.".contains(&letter))
            && !host.is_empty()
            && !host.contains(' ')
    });
    match text {
        "" => Approval::Missing,
        _ if text.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url => Approval::Approved,
        _ => Approval::Invalid,
    }
}

fn approval(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let group = root.get("spec.group");
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        group
            .str()
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if !protected {
        return;
    }
    let state = approval_of(root);
    if old.is_some_and(|old| approval_of(old) == state) {
        return;
    }
    let at = root.get("metadata.annotations").key(APPROVED);
    let must = format!("protected groups must have approval annotation {}", show::quoted(APPROVED));
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        Approval::Missing => errors.push(at.required(format!("{must}, {SEE}"))),
        Approval::Invalid => errors.push(at.bad(format!(
            "{must} with either a URL or a reason starting with \"unapproved\", {SEE}"
        ))),
        Approval::Approved | Approval::Bypassed => {}
    }
}
