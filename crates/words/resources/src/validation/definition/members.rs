//! Which members schemas have: what most of them do not have is not looked for in each.
//!
//! Invariant: a set says no more than that something is there and not null; what it is worth is asked of the schema itself.
//! So a walk that leaves out what no set says finds what it would have found.

use std::collections::HashMap;

use serde_json::Value;

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
        let mut found = Self::default();
        for (name, value) in schema.as_object().into_iter().flatten() {
            if value.is_null() {
                continue;
            }
            let member = Self::named(name);
            found = found.and(member);
            if member == Self::ITEMS && value.is_array() {
                found = found.and(Self::ITEMS_LIST);
            }
            if member == Self::PRESERVE && *value == false {
                found = found.and(Self::PRESERVE_FALSE);
            }
        }
        found
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of the others is there.
    pub const fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Which properties of schemas are not plain, found in one walk for all walks that pass the plain ones by.
///
/// Plain is a schema of a type that there is, a list of such a one included, which has only members beside it with which nobody
/// finds fault wherever the schema stands, except under a junctor and at the root.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The places of those that are not plain, by the address of the map of properties.
    odd: HashMap<usize, Vec<usize>>,
}

impl Survey {
    /// Looks at a schema; what it and all inside it have. It must stay where it is as long as the survey is asked.
    pub fn of(&mut self, schema: &Value) -> Members {
        self.look(schema).0
    }

    /// The properties that are not plain; of a schema that was not looked at, all.
    pub fn odd<'v>(&self, properties: &'v Value) -> impl Iterator<Item = (&'v String, &'v Value)> {
        let all = properties.as_object();
        let odd = all.and_then(|all| self.odd.get(&std::ptr::from_ref(all).addr()));
        let end = odd.map_or(usize::MAX, |odd| odd.last().map_or(0, |last| last + 1));
        let mut odd = odd.map(|odd| odd.iter().peekable());
        all.into_iter()
            .flatten()
            .take(end)
            .enumerate()
            .filter(move |(index, _)| odd.as_mut().is_none_or(|odd| odd.next_if_eq(&index).is_some()))
            .map(|(_, property)| property)
    }

    /// What a schema and all inside it have, and whether it is plain.
    fn look(&mut self, schema: &Value) -> (Members, bool) {
        let own = Members::of(schema);
        let mut found = own;
        let mut of_plain = false;
        if own.any(Members::INNER) {
            inner(schema, Members(own.0 & !Members::PROPERTIES.0), &mut |one| {
                let (members, plain) = self.look(one);
                found = found.and(members);
                of_plain = plain;
                false
            });
            let properties = schema.get("properties").and_then(Value::as_object);
            if let Some(properties) = properties {
                let mut odd = Vec::new();
                for (index, property) in properties.values().enumerate() {
                    let (members, plain) = self.look(property);
                    found = found.and(members);
                    if !plain {
                        odd.push(index);
                    }
                }
                self.odd.insert(std::ptr::from_ref(properties).addr(), odd);
            }
        }
        (found, plain(schema, own, of_plain))
    }
}

/// Whether a schema is plain; `of_plain` says so of its items, if it has no other schemas in it.
fn plain(schema: &Value, own: Members, of_plain: bool) -> bool {
    if own.any(Members(!Members::PLAIN.and(Members::ITEMS).0)) {
        return false;
    }
    let of_list = own.any(Members::ITEMS);
    match schema.get("type").and_then(Value::as_str) {
        Some("array") => of_list && of_plain,
        Some(kind) => !of_list && super::openapi::TYPES.contains(&kind),
        None => false,
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
            let odd: Vec<&String> = survey.odd(&around["properties"]).map(|(name, _)| name).collect();
            assert!(odd.iter().all(|name| **name == "a"), "{schema}");
            odd.is_empty()
        };
        assert!(plain(&json!({"type": "string", "description": "d", "maxLength": 3})));
        assert!(plain(&json!({"type": "array", "items": {"type": "string"}})));
        for other in [
            json!({}),
            json!({"type": "wrong"}),
            json!({"type": "array"}),
            json!({"type": "array", "items": {}}),
            json!({"type": "array", "items": [{"type": "string"}]}),
            json!({"type": "array", "items": {"type": "string", "default": ""}}),
            json!({"type": "string", "items": {"type": "string"}}),
            json!({"type": "string", "default": ""}),
        ] {
            assert!(!plain(&other), "{other}");
        }
    }
}
