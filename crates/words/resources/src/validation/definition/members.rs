//! Which members schemas have: what most of them do not have is not looked for in each.
//!
//! Invariant: a set says no more than that something is there and not null; what it is worth is asked of the schema itself.
//! So a walk that leaves out what no set says finds what it would have found.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// A set of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Members(u64);

macro_rules! members {
    ($($name:ident $json:literal $bit:literal)*) => {
        impl Members {
            $(pub const $name: Self = Self(1 << $bit);)*

            fn named(name: &str) -> Self {
                match name {
                    $($json => Self::$name,)*
                    _ => Self::OTHER,
                }
            }
        }
    };
}

members! {
    TYPE "type" 0
    DESCRIPTION "description" 1
    FORMAT "format" 2
    TITLE "title" 3
    DEFAULT "default" 4
    PATTERN "pattern" 5
    ENUM "enum" 6
    REQUIRED "required" 7
    NULLABLE "nullable" 8
    MAXIMUM "maximum" 9
    MINIMUM "minimum" 10
    MAX_LENGTH "maxLength" 11
    MIN_LENGTH "minLength" 12
    MAX_ITEMS "maxItems" 13
    MIN_ITEMS "minItems" 14
    MAX_PROPERTIES "maxProperties" 15
    MIN_PROPERTIES "minProperties" 16
    UNIQUE "uniqueItems" 17
    ITEMS "items" 18
    PROPERTIES "properties" 19
    ADDITIONAL "additionalProperties" 20
    ALL_OF "allOf" 21
    ANY_OF "anyOf" 22
    ONE_OF "oneOf" 23
    NOT "not" 24
    ID "id" 25
    SCHEMA "$schema" 26
    REF "$ref" 27
    PATTERN_PROPERTIES "patternProperties" 28
    DEPENDENCIES "dependencies" 29
    ADDITIONAL_ITEMS "additionalItems" 30
    DEFINITIONS "definitions" 31
    PRESERVE "x-kubernetes-preserve-unknown-fields" 32
    EMBEDDED "x-kubernetes-embedded-resource" 33
    INT_OR_STRING "x-kubernetes-int-or-string" 34
    LIST_TYPE "x-kubernetes-list-type" 35
    LIST_KEYS "x-kubernetes-list-map-keys" 36
    MAP_TYPE "x-kubernetes-map-type" 37
    RULES "x-kubernetes-validations" 38
    EXCLUSIVE_MAXIMUM "exclusiveMaximum" 39
    EXCLUSIVE_MINIMUM "exclusiveMinimum" 40
    MULTIPLE_OF "multipleOf" 41
    EXAMPLE "example" 42
    DOCS "externalDocs" 43
}

impl Members {
    /// What is none of the above.
    pub const OTHER: Self = Self(1 << 44);
    /// `items` is a list of schemas.
    pub const ITEMS_LIST: Self = Self(1 << 45);
    /// Unknown fields are said not to be preserved.
    pub const PRESERVE_FALSE: Self = Self(1 << 46);

    /// What a structural schema cannot have.
    pub const UNSUPPORTED: Self = Self::ID
        .and(Self::SCHEMA)
        .and(Self::REF)
        .and(Self::PATTERN_PROPERTIES)
        .and(Self::DEPENDENCIES)
        .and(Self::ADDITIONAL_ITEMS)
        .and(Self::DEFINITIONS)
        .and(Self::ITEMS_LIST)
        .and(Self::PRESERVE_FALSE);
    /// What narrows values without describing them.
    pub const JUNCTORS: Self = Self::ALL_OF.and(Self::ANY_OF).and(Self::ONE_OF).and(Self::NOT);
    /// Extensions of Kubernetes that make a schema structural.
    pub const EXTENSIONS: Self = Self::PRESERVE
        .and(Self::EMBEDDED)
        .and(Self::INT_OR_STRING)
        .and(Self::LIST_TYPE)
        .and(Self::LIST_KEYS)
        .and(Self::RULES);
    /// What stands outside of junctors only.
    pub const OUTSIDE: Self = Self::EXTENSIONS
        .and(Self::MAP_TYPE)
        .and(Self::TYPE)
        .and(Self::TITLE)
        .and(Self::DESCRIPTION)
        .and(Self::NULLABLE)
        .and(Self::DEFAULT)
        .and(Self::ADDITIONAL);
    /// What may hold schemas.
    pub const INNER: Self = Self::JUNCTORS
        .and(Self::ITEMS)
        .and(Self::PROPERTIES)
        .and(Self::ADDITIONAL)
        .and(Self::PATTERN_PROPERTIES)
        .and(Self::DEPENDENCIES)
        .and(Self::ADDITIONAL_ITEMS)
        .and(Self::DEFINITIONS);
    /// What nobody finds fault with.
    const PLAIN: Self = Self::TYPE
        .and(Self::DESCRIPTION)
        .and(Self::FORMAT)
        .and(Self::TITLE)
        .and(Self::ENUM)
        .and(Self::REQUIRED)
        .and(Self::NULLABLE)
        .and(Self::MAXIMUM)
        .and(Self::MINIMUM)
        .and(Self::MAX_LENGTH)
        .and(Self::MIN_LENGTH)
        .and(Self::MAX_ITEMS)
        .and(Self::MIN_ITEMS)
        .and(Self::MAX_PROPERTIES)
        .and(Self::MIN_PROPERTIES)
        .and(Self::EXCLUSIVE_MAXIMUM)
        .and(Self::EXCLUSIVE_MINIMUM)
        .and(Self::MULTIPLE_OF)
        .and(Self::EXAMPLE)
        .and(Self::DOCS);

    /// What nobody finds fault with under a junctor, if the pattern is right and what stands under its own junctors is likewise.
    const NARROWING: Self = Self(Self::PLAIN.and(Self::PATTERN).and(Self::JUNCTORS).0 & !Self::OUTSIDE.0);

    /// What says more of a scalar than its type.
    pub const NARROW: Self = Self(
        !Self::TYPE
            .and(Self::DEFAULT)
            .and(Self::DESCRIPTION)
            .and(Self::TITLE)
            .and(Self::NULLABLE)
            .and(Self::EXAMPLE)
            .and(Self::DOCS)
            .0,
    );

    /// Those of one schema; none of what is no schema.
    pub fn of(schema: &Value) -> Self {
        let members = schema.as_object().into_iter().flatten();
        members.fold(Self::default(), |found, (name, value)| {
            found.and(Self::of_member(name, value))
        })
    }

    /// What one member is.
    fn of_member(name: &str, value: &Value) -> Self {
        if value.is_null() {
            return Self::default();
        }
        match Self::named(name) {
            Self::ITEMS if value.is_array() => Self::ITEMS.and(Self::ITEMS_LIST),
            Self::PRESERVE if *value == false => Self::PRESERVE.and(Self::PRESERVE_FALSE),
            member => member,
        }
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    pub const fn only(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Whether there is nothing but the others.
    pub const fn within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    /// Whether any of the others is there.
    pub const fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// What keeps a schema from being plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oddity {
    /// Nothing but a default, which is of its type and has to be no more.
    Default,
    /// Nothing but rules.
    Rules,
    /// Something else, or several things.
    Other,
}

/// A property that is not plain.
pub(super) struct Odd<'v> {
    pub name: &'v str,
    pub schema: &'v Value,
    /// Its own members.
    pub members: Members,
    pub oddity: Oddity,
}

/// Where it stands among the properties.
#[derive(Debug)]
struct OddAt {
    index: usize,
    members: Members,
    oddity: Oddity,
}

/// Which properties of schemas are not plain, found in one walk for all walks that pass the plain ones by.
///
/// Plain is a schema of a type that there is, which has only members beside it with which nobody finds fault wherever the schema
/// stands, except under a junctor and at the root; and a list, a map or an object of plain ones.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Those that are not plain, by the address of the map of properties; nobody asks for those of a schema that is plain.
    odd: HashMap<usize, Vec<OddAt>>,
    /// The formats that nobody knows, in the order of the walk.
    pub formats: Vec<String>,
    /// Whether a schema is of a type that there is not.
    pub unknown_type: bool,
}

/// What one look at a schema tells.
struct Looked {
    own: Members,
    /// What it and all inside it have.
    all: Members,
    /// Why it is not plain.
    oddity: Option<Oddity>,
    /// Whether nobody finds fault with it under a junctor.
    narrows: bool,
}

impl Survey {
    /// Looks at a schema; what it and all inside it have. It must stay where it is as long as the survey is asked.
    pub fn of(&mut self, schema: &Value) -> Members {
        self.look(schema, true).all
    }

    /// The properties that are not plain; of a schema that was not looked at, all.
    pub fn odd<'v>(&self, properties: &'v Value) -> impl Iterator<Item = Odd<'v>> {
        let all = properties.as_object();
        let odd = all.and_then(|all| self.odd.get(&std::ptr::from_ref(all).addr()));
        let end = odd.map_or(usize::MAX, |odd| odd.last().map_or(0, |last| last.index + 1));
        let mut odd = odd.map(|odd| odd.iter().peekable());
        let properties = all.into_iter().flatten().take(end).enumerate();
        properties.filter_map(move |(index, (name, schema))| {
            let (members, oddity) = match &mut odd {
                None => (Members::of(schema), Oddity::Other),
                Some(odd) => {
                    let found = odd.next_if(|odd| odd.index == index)?;
                    (found.members, found.oddity)
                }
            };
            Some(Odd {
                name,
                schema,
                members,
                oddity,
            })
        })
    }

    fn look(&mut self, schema: &Value, root: bool) -> Looked {
        let own = Own::of(schema);
        let has = own.members;
        if has.any(Members::FORMAT) && trireme_structural::is_unknown_format(own.format, own.kind) {
            self.formats.push(own.format.to_owned());
        }
        self.unknown_type |= !own.kind.is_empty() && !own.known;
        let mut all = has;
        let (mut of_plain, mut narrowed) = (true, true);
        let mut odd = Vec::new();
        if has.any(Members::INNER) {
            if let Some(items) = own.items {
                let looked = self.look(items, false);
                all = all.and(looked.all);
                of_plain &= looked.oddity.is_none();
            }
            let mut visit = |members: Members| {
                let members = has.only(members);
                if members.any(Members::INNER) {
                    inner(schema, members, &mut |one| {
                        let looked = self.look(one, false);
                        all = all.and(looked.all);
                        if members.any(Members::JUNCTORS) {
                            narrowed &= looked.narrows;
                        } else {
                            of_plain &= looked.oddity.is_none();
                        }
                        false
                    });
                }
            };
            visit(Members::NOT);
            visit(Members::ADDITIONAL.and(Members::ADDITIONAL_ITEMS));
            if has.any(Members::ITEMS_LIST) {
                visit(Members::ITEMS.and(Members::ITEMS_LIST));
            }
            visit(Members::ALL_OF.and(Members::ANY_OF).and(Members::ONE_OF));
            if let Some(properties) = own.properties {
                for (index, property) in properties.values().enumerate() {
                    let looked = self.look(property, false);
                    all = all.and(looked.all);
                    if let Some(oddity) = looked.oddity {
                        odd.push(OddAt {
                            index,
                            members: looked.own,
                            oddity,
                        });
                    }
                }
            }
            let rest = Members::PATTERN_PROPERTIES
                .and(Members::DEFINITIONS)
                .and(Members::DEPENDENCIES);
            inner(schema, has.only(rest), &mut |one| {
                all = all.and(self.look(one, false).all);
                false
            });
        }
        let fits = narrowed && !(has.any(Members::PATTERN) && trireme_cel::regex_fault(own.pattern).is_some());
        let of_plain = of_plain && odd.is_empty();
        let oddity = if fits { own.oddity(of_plain) } else { Some(Oddity::Other) };
        if let Some(properties) = own.properties.filter(|_| root || oddity.is_some()) {
            self.odd.insert(std::ptr::from_ref(properties).addr(), odd);
        }
        Looked {
            own: has,
            all,
            oddity,
            narrows: fits && has.within(Members::NARROWING),
        }
    }
}

/// The members of one schema that say whether it is plain.
struct Own<'v> {
    members: Members,
    kind: &'v str,
    /// Whether there is that type.
    known: bool,
    format: &'v str,
    pattern: &'v str,
    default: &'v Value,
    /// The one schema of all items.
    /// Whether a whole number or a text is meant.
    int_or_string: bool,
    list_type: &'v str,
    list_keys: &'v [Value],
    items: Option<&'v Value>,
    properties: Option<&'v Map<String, Value>>,
}

impl<'v> Own<'v> {
    fn of(schema: &'v Value) -> Self {
        let mut own = Self {
            members: Members::default(),
            kind: "",
            known: false,
            format: "",
            pattern: "",
            default: &Value::Null,
            int_or_string: false,
            list_type: "",
            list_keys: &[],
            items: None,
            properties: None,
        };
        for (name, value) in schema.as_object().into_iter().flatten() {
            let member = Members::of_member(name, value);
            own.members = own.members.and(member);
            let text = || value.as_str().unwrap_or_default();
            match member {
                Members::TYPE => {
                    own.kind = text();
                    own.known = super::openapi::TYPES.contains(&own.kind);
                }
                Members::FORMAT => own.format = text(),
                Members::PATTERN => own.pattern = text(),
                Members::DEFAULT => own.default = value,
                Members::INT_OR_STRING => own.int_or_string = *value == true,
                Members::LIST_TYPE => own.list_type = text(),
                Members::LIST_KEYS => own.list_keys = value.as_array().map_or(&[], Vec::as_slice),
                Members::ITEMS if value.is_object() => own.items = Some(value),
                Members::PROPERTIES => own.properties = value.as_object(),
                _ => {}
            }
        }
        own
    }

    /// Whether its items are told apart in no way that could be wrong: not at all, or by a few required scalars.
    fn is_told_apart(&self) -> bool {
        const KEYS_MAX: usize = 4;
        if self.list_type != "map" {
            return !self.members.any(Members::LIST_TYPE.and(Members::LIST_KEYS));
        }
        let Some(items) = self
            .items
            .filter(|items| items["type"] == "object" && items["nullable"] != true)
        else {
            return false;
        };
        let required = items["required"].as_array().map_or(&[][..], Vec::as_slice);
        let fits = |index: usize, key: &Value| {
            let property = key.as_str().map_or(&Value::Null, |key| &items["properties"][key]);
            matches!(property["type"].as_str(), Some("string" | "integer" | "boolean"))
                && property["nullable"] != true
                && required.contains(key)
                && !self.list_keys[..index].contains(key)
        };
        let mut keys = self.list_keys.iter().enumerate();
        (1..=KEYS_MAX).contains(&self.list_keys.len()) && keys.all(|(index, key)| fits(index, key))
    }

    /// Why it is not plain, its pattern and what stands under its junctors being right. `of_plain` says whether its items, its
    /// properties and its other members are.
    fn oddity(&self, of_plain: bool) -> Option<Oddity> {
        const CALM: Members = Members::PLAIN
            .and(Members::PATTERN)
            .and(Members::JUNCTORS)
            .and(Members::ITEMS)
            .and(Members::PROPERTIES)
            .and(Members::ADDITIONAL)
            .and(Members::DEFAULT)
            .and(Members::LIST_TYPE)
            .and(Members::LIST_KEYS)
            .and(Members::RULES);
        const INT_OR_STRING: Members = Members::INT_OR_STRING
            .and(Members::DESCRIPTION)
            .and(Members::TITLE)
            .and(Members::NULLABLE)
            .and(Members::EXAMPLE)
            .and(Members::DOCS);
        if self.int_or_string && self.members.within(INT_OR_STRING) {
            return None;
        }
        let inside = Members::ITEMS.and(Members::PROPERTIES).and(Members::ADDITIONAL);
        let fits = match (self.kind, self.members.only(inside)) {
            ("array", Members::ITEMS) => of_plain && self.is_told_apart(),
            ("array", _) => false,
            (_, _) if self.members.any(Members::LIST_TYPE.and(Members::LIST_KEYS)) => false,
            ("object", Members::PROPERTIES | Members::ADDITIONAL) => of_plain,
            (_, inside) => inside == Members::default() && self.known,
        };
        if !fits || !self.members.within(CALM) {
            return Some(Oddity::Other);
        }
        match (self.members.any(Members::DEFAULT), self.members.any(Members::RULES)) {
            (false, false) => None,
            (false, true) => Some(Oddity::Rules),
            (true, false) if !self.members.any(Members::NARROW) && super::value::kind(self.default) == self.kind => {
                Some(Oddity::Default)
            }
            (true, _) => Some(Oddity::Other),
        }
    }
}

/// Shows the schemas that stand in one, in the order in which all walks go; whether `look` wanted no more of them.
pub(super) fn inner<'a>(schema: &'a Value, members: Members, look: &mut dyn FnMut(&'a Value) -> bool) -> bool {
    let Some(all) = schema.as_object().filter(|_| members.any(Members::INNER)) else {
        return false;
    };
    for (member, name) in [
        (Members::ITEMS, "items"),
        (Members::NOT, "not"),
        (Members::ADDITIONAL, "additionalProperties"),
        (Members::ADDITIONAL_ITEMS, "additionalItems"),
    ] {
        if members.any(member) && all.get(name).is_some_and(|one| one.is_object() && look(one)) {
            return true;
        }
    }
    for (member, name) in [
        (Members::ITEMS_LIST, "items"),
        (Members::ALL_OF, "allOf"),
        (Members::ANY_OF, "anyOf"),
        (Members::ONE_OF, "oneOf"),
    ] {
        if members.any(member) {
            let list = all.get(name).and_then(Value::as_array).into_iter().flatten();
            for one in list {
                if one.is_object() && look(one) {
                    return true;
                }
            }
        }
    }
    for (member, name) in [
        (Members::PROPERTIES, "properties"),
        (Members::PATTERN_PROPERTIES, "patternProperties"),
        (Members::DEFINITIONS, "definitions"),
        (Members::DEPENDENCIES, "dependencies"),
    ] {
        if members.any(member) {
            for one in all
                .get(name)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(_, one)| one)
            {
                if one.is_object() && look(one) {
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_found_at_every_depth() {
        let schema = json!({"type": "object", "nullable": null, "properties": {
            "a": {"type": "array", "items": {"oneOf": [{"default": 1}]}},
            "b": {"additionalProperties": {"x-kubernetes-preserve-unknown-fields": false}},
            "c": {"dependencies": {"x": {"items": [{"$ref": "x"}]}}},
        }});
        let found = Survey::default().of(&schema);
        for there in [
            Members::DEFAULT,
            Members::PRESERVE_FALSE,
            Members::ITEMS_LIST,
            Members::REF,
            Members::ONE_OF,
        ] {
            assert!(found.any(there), "{there:?}");
        }
        assert!(!found.any(Members::NULLABLE.and(Members::RULES).and(Members::OTHER)));
        assert_eq!(Members::of(&schema), Members::TYPE.and(Members::PROPERTIES));
    }

    #[test]
    fn the_fields_of_schemas_are_known() {
        let ty = trireme_api::schema::named(super::super::PACKAGE, "JSONSchemaProps").unwrap();
        for field in ty.fields {
            assert_ne!(Members::named(field.json), Members::OTHER, "{}", field.json);
        }
        let plain = |schema: &Value| {
            let around = json!({"properties": {"a": schema, "b": {"type": "string"}}});
            let mut survey = Survey::default();
            survey.of(&around);
            let odd: Vec<Odd<'_>> = survey.odd(&around["properties"]).collect();
            assert!(
                odd.iter().all(|odd| odd.name == "a" && odd.members == Members::of(schema)),
                "{schema}"
            );
            odd.first().map(|odd| odd.oddity)
        };
        for calm in [
            json!({"type": "string", "description": "d", "maxLength": 3}),
            json!({"type": "array", "items": {"type": "string"}}),
            json!({"type": "string", "pattern": "^a$"}),
            json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}, "maxProperties": 1}),
            json!({"type": "object", "additionalProperties": true}),
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}}),
            json!({"type": "array", "items": {"type": "string", "pattern": "^a$", "not": {"enum": ["b"]}}}),
            json!({"type": "object", "anyOf": [{"required": ["a"]}, {"oneOf": [{"minProperties": 1}], "not": {}}]}),
        ] {
            assert_eq!(plain(&calm), None, "{calm}");
        }
        for (one, oddity) in [
            (json!({"type": "string", "default": ""}), Oddity::Default),
            (json!({"type": "boolean", "default": true, "nullable": true}), Oddity::Default),
            (
                json!({"type": "string", "x-kubernetes-validations": [{"rule": "x"}]}),
                Oddity::Rules,
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "pattern": "a", "x-kubernetes-validations": []}),
                Oddity::Rules,
            ),
        ] {
            assert_eq!(plain(&one), Some(oddity), "{one}");
        }
        for other in [
            json!({}),
            json!({"type": "wrong"}),
            json!({"type": "array"}),
            json!({"type": "array", "items": {}}),
            json!({"type": "object", "properties": {"a": {}}}),
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string", "default": ""}}}}}),
            json!({"type": "object", "additionalProperties": {}}),
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": true}),
            json!({"type": "string", "properties": {"a": {"type": "string"}}}),
            json!({"type": "object", "items": {"type": "string"}}),
            json!({"type": "array", "items": [{"type": "string"}]}),
            json!({"type": "array", "items": {"type": "string", "default": ""}}),
            json!({"type": "string", "items": {"type": "string"}}),
            json!({"type": "string", "default": 1}),
            json!({"type": "string", "default": "", "maxLength": 3}),
            json!({"type": "string", "default": "", "x-kubernetes-validations": [{"rule": "x"}]}),
            json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "x"}]}}),
            json!({"type": "string", "pattern": "("}),
            json!({"type": "array", "items": {"type": "string", "pattern": "("}}),
            json!({"type": "string", "not": {"pattern": "("}}),
            json!({"type": "string", "anyOf": [{}, {"type": "string"}]}),
            json!({"type": "string", "allOf": [{"anyOf": [{"title": "t"}]}]}),
            json!({"type": "object", "allOf": [{"properties": {"a": {}}}]}),
            json!({"type": "string", "allOf": [{"x-kubernetes-validations": []}]}),
        ] {
            assert_eq!(plain(&other), Some(Oddity::Other), "{other}");
        }
    }
}
