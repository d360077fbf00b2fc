//! What OpenAPI parts a schema may have, and how the extensions of Kubernetes go together.
//!
//! Invariant: expressions are looked at only where the schema around and below them is right. What `self` is the schema says, and
//! with it how large values can get, so that what rules cost at most is known before there are any.

use std::collections::HashSet;

use serde_json::Value;
use trireme_api::schema;
use trireme_cel::{Estimated, Type};
use trireme_structural::{Definition, Scope, Typed, zero};

use super::super::errors::Errors;
use super::super::expression::Expressions;
use super::super::node::Node;
use super::super::path::Path;
use super::super::show;
use super::costs::{self, Costs};
use super::members::{self, Members, Oddity};
use super::{Options, PACKAGE, parts, structural};

pub(super) const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// Parts that a root may have besides, where the status is a subresource and so judged by itself.
const AT_ROOT: &[&str] = &[
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];
/// Most bytes of all rules of one schema that are compiled; what stands behind is taken as it is.
const RULE_BYTES_MAX: usize = 32 * 1024;
/// Most rules of one schema that are parsed.
const RULES_MAX: usize = 1_000;
/// Most bytes of one rule that is parsed.
const ONE_RULE_BYTES_MAX: usize = 10 * 1024;

/// Whether something holds of a schema or of one inside it. They are shown without their paths, and with their members.
pub(super) fn any(schema: &Node<'_>, holds: &dyn Fn(&Node<'_>, Members) -> bool) -> bool {
    fn within(schema: &Value, holds: &dyn Fn(&Node<'_>, Members) -> bool) -> bool {
        let members = Members::of(schema);
        holds(&Node::root(schema), members) || members::inner(schema, members, &mut |one| within(one, holds))
    }
    schema.value.is_object() && within(schema.value, holds)
}

/// Whether a schema uses an extension of Kubernetes.
pub(super) fn extended(schema: &Node<'_>, members: Members) -> bool {
    if !members.any(Members::EXTENSIONS) {
        return false;
    }
    ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type"]
        .iter()
        .any(|name| schema.has(name))
        || [
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-validations",
        ]
        .iter()
        .any(|name| !zero(schema.at(name).value))
}

/// Whether a schema is a set of what is owned in parts.
pub(super) fn granular_set(schema: &Node<'_>, members: Members) -> bool {
    if !members.any(Members::LIST_TYPE) || schema.text("x-kubernetes-list-type") != "set" {
        return false;
    }
    let items = schema.at("items");
    match items.text("type") {
        "array" => items.has("x-kubernetes-list-type") && items.text("x-kubernetes-list-type") != "atomic",
        "object" => items.text("x-kubernetes-map-type") != "atomic",
        _ => false,
    }
}

/// Whether a schema is a list whose elements may lack a key.
pub(super) fn loose_keys(schema: &Node<'_>, members: Members) -> bool {
    if !members.any(Members::LIST_TYPE) {
        return false;
    }
    let mut errors = Errors::new();
    list_keys(&mut errors, schema);
    !errors.is_empty()
}

/// What a root may have where the status is a subresource: the first that it may not is told.
pub(super) fn root_fields(errors: &mut Errors, schema: &Node<'_>) {
    let Some(ty) = schema::named(PACKAGE, "JSONSchemaProps") else {
        return;
    };
    for (name, field, _) in show::fields(ty, None) {
        let value = schema.at(field.json);
        let there = if field.pointer { value.set() } else { !zero(value.value) };
        if !there {
            continue;
        }
        if name == "Type" {
            if value.str() != "object" {
                errors.push(value.bad(
                    "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
                ));
                return;
            }
        } else if !AT_ROOT.contains(&name.as_str()) {
            errors.push(schema.bad_struct(
                PACKAGE,
                "JSONSchemaProps",
                format!(
                    "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                    AT_ROOT.join(" ")
                ),
            ));
            return;
        }
    }
}

/// Where a schema stands.
#[derive(Clone, Default)]
struct Place<'a> {
    root: bool,
    inside_metadata: bool,
    /// Why no default may stand here.
    no_default: Option<String>,
    /// The path above whose values are not told apart between two states of an object.
    uncorrelated: Option<Path<'a>>,
    /// Whether rules are looked at.
    rules: bool,
}

impl<'a> Place<'a> {
    fn child(&self) -> Self {
        Self {
            root: false,
            ..self.clone()
        }
    }

    /// The place of a property that is like any other.
    fn property(&self, node: &Node<'a>, members: Members) -> Self {
        let below = self.child();
        if !members.any(Members::MAP_TYPE) || matches!(node.text("x-kubernetes-map-type"), "" | "granular") {
            below
        } else {
            below.uncorrelated(&node.path)
        }
    }

    fn unruled(&self) -> Self {
        Self {
            rules: false,
            ..self.child()
        }
    }

    fn uncorrelated(mut self, path: &Path<'a>) -> Self {
        self.uncorrelated.get_or_insert_with(|| path.clone());
        self
    }
}

/// Walks a schema; problems of rules come behind the others.
struct Walk<'o, 'a> {
    options: &'o Options,
    errors: Errors,
    of_rules: Errors,
    expressions: Expressions,
    /// The schema as its rules know it, where it has any.
    definition: Option<&'o Definition>,
    costs: Costs<'a>,
    /// Whether the schema is the old one, so that no rule is refused for what it costs alone.
    settled: bool,
    /// Rules that were compiled without types.
    compiled: HashSet<&'a str>,
    rules_left: usize,
    bytes_left: usize,
}

/// What is wrong with the parts of a schema. `rules` says whether expressions are looked at, `settled` whether the schema is the
/// old one.
pub(super) fn check(errors: &mut Errors, schema: &Node<'_>, options: &Options, rules: bool, settled: bool) {
    let typed = rules && options.used.any(Members::RULES);
    let definition = typed.then(|| Definition::of(schema.value)).flatten();
    let mut walk = Walk {
        definition: definition.as_ref(),
        costs: Costs::default(),
        settled,
        rules_left: RULES_MAX,
        options,
        errors: Errors::new(),
        of_rules: Errors::new(),
        expressions: Expressions::new(),
        compiled: HashSet::new(),
        bytes_left: RULE_BYTES_MAX,
    };
    let place = Place {
        root: true,
        rules,
        ..Place::default()
    };
    walk.below(schema, &place);
    errors.extend(walk.errors);
    errors.extend(walk.of_rules);
    walk.costs.tell(errors, schema);
}

/// The extensions that go together or not.
const SHAPES: Members = Members::PRESERVE
    .and(Members::LIST_TYPE)
    .and(Members::LIST_KEYS)
    .and(Members::MAP_TYPE);

impl<'a> Walk<'_, 'a> {
    /// A schema, where there is one.
    fn below(&mut self, node: &Node<'a>, place: &Place) {
        if node.value.is_object() {
            self.schema(node, Members::of(node.value), place);
        }
    }

    fn schema(&mut self, node: &Node<'a>, members: Members, place: &Place) {
        let start = self.errors.len();
        self.parts(node, members, place);
        if members.any(Members::UNIQUE) && node.is("uniqueItems") {
            self.errors.push(
                node.at("uniqueItems")
                    .forbidden("uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
            );
        }
        if members.any(Members::PROPERTIES.and(Members::ADDITIONAL)) {
            self.members(node, members, place);
        }
        self.inner(node, members, place);
        if members.any(SHAPES) {
            self.extensions(node, members);
            if self.options.list_keys {
                list_keys(&mut self.errors, node);
            }
        }
        if members.any(Members::RULES) {
            self.rules(node, place, start);
        }
    }

    fn parts(&mut self, node: &Node<'a>, members: Members, place: &Place) {
        let errors = &mut self.errors;
        let kind = if members.any(Members::TYPE) { node.text("type") } else { "" };
        if self.options.known_types && !kind.is_empty() && !TYPES.contains(&kind) {
            errors.push(node.at("type").unsupported(TYPES));
        }
        if let Some(why) = &place.no_default
            && members.any(Members::DEFAULT)
        {
            errors.push(node.child("default").forbidden(format!("must not be set {why}")));
        }
        if kind == "null" || members.any(Members::UNSUPPORTED) {
            Self::refused_parts(errors, node);
        }
        if place.inside_metadata && members.any(Members::EMBEDDED) && node.is("x-kubernetes-embedded-resource") {
            errors.push(
                node.at("x-kubernetes-embedded-resource")
                    .forbidden("must not be used inside of resource meta"),
            );
        }
    }

    fn refused_parts(errors: &mut Errors, node: &Node<'a>) {
        let kind = node.at("type");
        let mut refused = |name: &'static str, there: bool| {
            if there {
                errors.push(node.child(name).forbidden(format!("{name} is not supported")));
            }
        };
        refused("id", !node.text("id").is_empty());
        refused("additionalItems", node.has("additionalItems"));
        refused("patternProperties", !node.at("patternProperties").is_empty());
        refused("definitions", !node.at("definitions").is_empty());
        refused("dependencies", node.has("dependencies"));
        refused("$ref", node.has("$ref"));
        if kind.str() == "null" {
            errors.push(kind.forbidden("type cannot be set to null, use nullable as an alternative"));
        }
        let items = node.at("items");
        if items.value.is_array() && !items.is_empty() {
            errors.push(items.forbidden("items must be a schema object and not an array"));
        }
    }

    fn members(&mut self, node: &Node<'a>, members: Members, place: &Place) {
        let (properties, additional) = (node.at("properties"), node.at("additionalProperties"));
        if additional.set() {
            if !properties.is_empty() && additional.value != true {
                self.errors
                    .push(additional.forbidden("additionalProperties and properties are mutual exclusive"));
            }
            let mut below = place.child();
            if place.inside_metadata {
                below.no_default = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            self.below(&additional, &below);
        }
        let below = place.property(node, members);
        let of_resource = place.root || node.is("x-kubernetes-embedded-resource");
        let survey = &self.options.survey;
        for odd in survey.odd(properties.value) {
            let special = of_resource && matches!(odd.name, "metadata" | "kind" | "apiVersion");
            if odd.oddity == Oddity::Default && !special && below.no_default.is_none() {
                continue;
            }
            let property = properties.entry(odd.name, odd.schema);
            if special {
                let mut below = below.clone();
                below.inside_metadata = true;
                if place.root {
                    below.no_default = Some(format!("in top-level {}", odd.name));
                }
                self.schema(&property, odd.members, &below);
            } else {
                self.schema(&property, odd.members, &below);
            }
        }
    }

    fn inner(&mut self, node: &Node<'a>, members: Members, place: &Place) {
        const OTHERS: Members = Members::JUNCTORS.and(Members::DEFINITIONS).and(Members::DEPENDENCIES);
        if members.any(OTHERS) {
            let unruled = place.unruled();
            self.below(&node.at("not"), &unruled);
            for name in ["allOf", "oneOf", "anyOf"] {
                for one in node.at(name).items() {
                    self.below(&one, &unruled);
                }
            }
            for (_, one) in node.at("definitions").entries() {
                self.below(&one, &unruled);
            }
        }
        if members.any(Members::ITEMS) {
            let items = node.at("items");
            let mut below = place.child();
            if node.text("x-kubernetes-list-type") != "map" {
                below = below.uncorrelated(&node.path);
            }
            self.below(&items, &below);
            for one in items.items() {
                self.below(&one, &below);
            }
        }
        if members.any(Members::DEPENDENCIES) {
            let unruled = place.unruled();
            for (_, one) in node.at("dependencies").entries() {
                self.below(&one, &unruled);
            }
        }
    }

    fn extensions(&mut self, node: &Node<'a>, members: Members) {
        let errors = &mut self.errors;
        let kind = node.at("type");
        let preserve = node.at("x-kubernetes-preserve-unknown-fields");
        if preserve.value == false {
            errors.push(preserve.invalid("must be true or undefined"));
        }
        let of_type = |errors: &mut Errors, wanted: &str, detail: &str| {
            if kind.is_empty() {
                errors.push(kind.required(detail));
            } else if kind.str() != wanted {
                errors.push(kind.bad(detail));
            }
        };
        let map_type = node.at("x-kubernetes-map-type");
        if map_type.set() {
            of_type(errors, "object", "must be object if x-kubernetes-map-type is specified");
            map_type.one_of(errors, &["atomic", "granular"]);
        }
        let list_type = node.at("x-kubernetes-list-type");
        let items = node.at("items");
        if list_type.set() && kind.str() != "array" {
            of_type(errors, "array", "must be array if x-kubernetes-list-type is specified");
        } else if self.options.atomic_sets && granular_set(node, members) {
            let name = if items.text("type") == "array" {
                "x-kubernetes-list-type"
            } else {
                "x-kubernetes-map-type"
            };
            // Upstream shows the list's type in both cases.
            let shown = show::value(items.at("x-kubernetes-list-type").value);
            errors.push(
                items
                    .child(name)
                    .invalid_as(shown, "must be atomic as item of a list with x-kubernetes-list-type=set"),
            );
        }
        if list_type.set() {
            list_type.one_of(errors, &["atomic", "set", "map"]);
        }
        let keys = node.at("x-kubernetes-list-map-keys");
        if !keys.is_empty() && list_type.str() != "map" {
            const MAP: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(if list_type.set() {
                list_type.bad(MAP)
            } else {
                list_type.required(MAP)
            });
        }
        if list_type.str() == "map" {
            map_list(errors, &keys, &items);
        }
    }

    /// Rules in CEL; `start` is where the problems of this schema begin.
    fn rules(&mut self, node: &Node<'a>, place: &Place, start: usize) {
        let list = node.at("x-kubernetes-validations");
        let Some(rules) = list.value.as_array().filter(|rules| !rules.is_empty()) else {
            return;
        };
        let paths = !self.options.used.any(Members::UNSUPPORTED) || structural::unsupported(node).is_none();
        for (index, _) in rules.iter().enumerate().filter(|(_, rule)| !calm(rule)) {
            rule_form(&mut self.errors, &list.index(index), paths.then_some(node));
        }
        if self.errors.len() > start || !place.rules {
            return;
        }
        let typed = match self.definition.and_then(|definition| definition.scope(node.value)) {
            Some(Scope::NoType) => {
                self.of_rules.push(list.internal(
                    "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations",
                ));
                return;
            }
            Some(Scope::Typed(typed)) => Some(typed),
            None => None,
        };
        for (index, rule) in rules.iter().enumerate() {
            self.rule(&list, index, rule, place, typed.as_deref());
        }
    }

    /// What is wrong with one rule whose form is right.
    fn rule(&mut self, list: &Node<'a>, index: usize, rule: &'a Value, place: &Place, typed: Option<&Typed<'_>>) {
        if let Some(typed) = typed {
            self.typed_rule(list, index, rule, place, typed);
            return;
        }
        let part = |name: &'static str| list.index(index).at(name);
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default();
        let shown = || show::internal(PACKAGE, "ValidationRule", rule);
        if let Some(why) = self.uncompiled(text("rule"), &Type::Bool) {
            self.of_rules.push(part("rule").invalid_as(shown(), why));
        } else if let Some(why) = self.uncompiled(text("messageExpression"), &Type::String) {
            self.of_rules
                .push(part("messageExpression").invalid_as(shown(), format!("messageExpression {why}")));
        }
        self.transition(list, index, rule, place, names_old(text("rule")));
    }

    /// What is wrong with one rule, by the types that its schema declares.
    fn typed_rule(&mut self, list: &Node<'a>, index: usize, rule: &'a Value, place: &Place, typed: &Typed<'_>) {
        let part = |name: &'static str| list.index(index).at(name);
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default();
        let shown = || show::internal(PACKAGE, "ValidationRule", rule);
        let optional = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        let Some(compiled) = self.estimated(text("rule"), &Type::Bool, optional, typed) else {
            return;
        };
        let mut reads_old = false;
        match compiled {
            Err(why) => self.of_rules.push(part("rule").invalid_as(shown(), why)),
            Ok(estimated) => {
                reads_old = estimated.reads.iter().any(|name| &**name == "oldSelf");
                self.cost(part("rule"), "estimated rule cost", typed.for_all(estimated.cost));
                match self.estimated(text("messageExpression"), &Type::String, optional, typed) {
                    None => {}
                    Some(Err(why)) => self
                        .of_rules
                        .push(part("messageExpression").invalid_as(shown(), format!("messageExpression {why}"))),
                    Some(Ok(estimated)) => {
                        self.cost(part("messageExpression"), "estimated messageExpression cost", estimated.cost);
                    }
                }
            }
        }
        self.transition(list, index, rule, place, reads_old);
    }

    fn cost(&mut self, at: Node<'a>, what: &str, cost: u64) {
        if cost > costs::RULE_MAX && !self.settled {
            self.of_rules.push(at.forbidden(costs::exceeded(what, cost, costs::RULE_MAX)));
        }
        self.costs.add(at, cost);
    }

    /// Whether a rule may read what was, and says so rightly.
    fn transition(&mut self, list: &Node<'a>, index: usize, rule: &'a Value, place: &Place, reads_old: bool) {
        let part = |name: &'static str| list.index(index).at(name);
        if reads_old {
            if let Some(path) = &place.uncorrelated {
                self.of_rules.push(part("rule").bad(format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {path}"
                )));
            }
        } else if rule.get("optionalOldSelf").is_some_and(|optional| !optional.is_null()) {
            self.of_rules
                .push(part("optionalOldSelf").invalid("may not be set if oldSelf is not used in rule"));
        }
    }

    /// What an expression comes to, or why it is none of that type; nothing where there is none, or too many were compiled.
    fn estimated(&mut self, text: &str, wanted: &Type, optional: bool, typed: &Typed<'_>) -> Option<Result<Estimated, String>> {
        if text.is_empty() || text.len() > ONE_RULE_BYTES_MAX {
            return None;
        }
        self.rules_left = self.rules_left.checked_sub(1)?;
        self.bytes_left = self.bytes_left.checked_sub(text.len())?;
        Some(match self.expressions.estimate(text, optional, typed) {
            Ok(estimated) if estimated.result == *wanted => Ok(estimated),
            Ok(_) if *wanted == Type::Bool => Err("cel expression must evaluate to a bool".to_owned()),
            Ok(_) => Err("must evaluate to a string".to_owned()),
            Err(why) => Err(why),
        })
    }

    /// Why a text is no expression of that type. Each text is compiled once, and all together as far as the budget goes.
    fn uncompiled(&mut self, text: &'a str, wanted: &Type) -> Option<String> {
        if text.is_empty() || text.len() > ONE_RULE_BYTES_MAX || self.compiled.len() >= RULES_MAX {
            return None;
        }
        let left = self.bytes_left.checked_sub(text.len())?;
        if !self.compiled.insert(text) {
            return None;
        }
        self.bytes_left = left;
        match self.expressions.result(text, trireme_cel::rule()) {
            // What hangs on the schema is not known here.
            Ok(found) if found == *wanted || matches!(found, Type::Dyn | Type::Any) => None,
            Ok(_) if *wanted == Type::Bool => Some("cel expression must evaluate to a bool".to_owned()),
            Ok(_) => Some("must evaluate to a string".to_owned()),
            Err(why) => Some(why),
        }
    }
}

/// Whether a rule is nothing but a text that [`rule_form`] finds no fault with.
fn calm(rule: &Value) -> bool {
    let Some(members) = rule.as_object().filter(|members| members.len() == 1) else {
        return false;
    };
    let text = members.get("rule").and_then(Value::as_str).unwrap_or_default();
    !text.trim().is_empty() && !text.contains(['\n', '\r'])
}

/// Whether an expression names the object's former state.
fn names_old(rule: &str) -> bool {
    rule.contains("oldSelf")
        && rule
            .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .any(|word| word == "oldSelf")
}

/// The form of one rule. `schema` is what its field path is looked up in, unless it cannot be.
fn rule_form(errors: &mut Errors, rule: &Node<'_>, schema: Option<&Node<'_>>) {
    const BLANK: &str = "must be non-empty if specified";
    const BREAKS: &str = "must not contain line breaks";
    let (text, message) = (rule.at("rule"), rule.at("message"));
    let (expression, reason, path) = (rule.at("messageExpression"), rule.at("reason"), rule.at("fieldPath"));
    let broken = |text: &str| text.contains(['\n', '\r']);
    let blank = |node: &Node<'_>| !node.is_empty() && node.str().trim().is_empty();
    if text.str().trim().is_empty() {
        errors.push(text.required("rule is not specified"));
    } else if blank(&message) {
        errors.push(message.bad(BLANK));
    } else if broken(message.str().trim()) {
        errors.push(message.bad(BREAKS));
    } else if broken(text.str().trim()) && message.is_empty() {
        errors.push(message.required("message must be specified if rule contains line breaks"));
    }
    if blank(&expression) {
        errors.push(expression.required("messageExpression must be non-empty if specified"));
    }
    if reason.set() {
        reason.one_of(
            errors,
            &[
                "FieldValueDuplicate",
                "FieldValueForbidden",
                "FieldValueInvalid",
                "FieldValueRequired",
            ],
        );
    }
    if blank(&path) {
        errors.push(path.bad(BLANK));
    }
    if broken(path.str()) {
        errors.push(path.bad(BREAKS));
    }
    if !path.is_empty()
        && let Some(schema) = schema
        && parts::field_path(path.str(), schema, true).is_err()
    {
        errors.push(path.bad("must be a valid path"));
    }
}

/// A list whose elements are told apart by keys.
fn map_list(errors: &mut Errors, keys: &Node<'_>, items: &Node<'_>) {
    const OBJECT: &str = "must be object if parent array's x-kubernetes-list-type is map";
    if keys.is_empty() {
        errors.push(keys.required("must not be empty if x-kubernetes-list-type is map"));
    }
    if !items.set() {
        errors.push(items.required("must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    if items.value.is_array() {
        let shown = show::schemas(items.value);
        errors.push(items.invalid_as(shown, "must only have a single schema if x-kubernetes-list-type is map"));
        return;
    }
    if items.text("type") != "object" {
        errors.push(items.at("type").bad(OBJECT));
        return;
    }
    let mut seen = HashSet::new();
    for key in keys.strings() {
        let property = items.at("properties").key(key);
        if !property.set() {
            errors.push(keys.invalid("entries must all be names of item properties"));
        } else if matches!(property.text("type"), "array" | "object") {
            errors.push(property.at("type").bad_text(
                items.text("type"),
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            ));
        }
        if !seen.insert(key) {
            errors.push(keys.invalid("must not contain duplicate entries"));
        }
    }
}

/// That elements of sets and maps, and their keys, are always there.
fn list_keys(errors: &mut Errors, node: &Node<'_>) {
    let items = node.at("items");
    let kind = node.text("x-kubernetes-list-type");
    if !items.value.is_object() || !matches!(kind, "set" | "map") {
        return;
    }
    if items.is("nullable") {
        errors.push(
            items
                .at("nullable")
                .forbidden(format!("cannot be nullable when x-kubernetes-list-type is {kind}")),
        );
    }
    if kind == "set" {
        return;
    }
    let required = items.at("required").strings();
    for key in node.at("x-kubernetes-list-map-keys").strings() {
        let property = items.at("properties").key(key);
        if !property.set() {
            continue;
        }
        if !required.contains(&key) && !property.has("default") {
            errors.push(
                property.child("default").required(
                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                ),
            );
        }
        if property.is("nullable") {
            errors.push(
                property
                    .at("nullable")
                    .forbidden("this property is in x-kubernetes-list-map-keys, so it cannot be nullable"),
            );
        }
    }
}
