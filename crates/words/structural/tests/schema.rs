//! Schemas of custom resources over objects: what is pruned, filled in, refused and told, in upstream's words; and that walks
//! end whatever they are given.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use trireme_cel::Budget;
use trireme_structural::{Definition, ListType, Scope, Structural, Type};

fn compiled(schema: &Value) -> Structural {
    Structural::compile(schema, false).expect("a schema")
}

/// A resource whose spec has this schema.
fn of_spec(spec: &Value) -> Structural {
    compiled(&json!({"type": "object", "properties": {"spec": spec}}))
}

fn texts(errors: Vec<trireme_api::field::FieldError>) -> Vec<String> {
    errors.into_iter().map(|error| error.to_string()).collect()
}

#[test]
fn unknown_fields_go_and_are_told() {
    let schema = of_spec(&json!({"type": "object", "properties": {
        "known": {"type": "object", "properties": {"a": {"type": "string"}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "kept": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "inner": {"type": "object", "properties": {"a": {"type": "string"}}}}},
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
        "raw": {"x-kubernetes-preserve-unknown-fields": true},
        "meta": {"type": "object"},
    }}));
    let mut object = json!({
        "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x", "more": 1}, "status": {"x": 1},
        "spec": {
            "known": {"a": "x", "b": 1},
            "list": [{"a": "x", "b": 1}, {"c": {}}],
            "map": {"k": {"a": "x", "b": 1}},
            "kept": {"other": {"x": 1}, "inner": {"a": "x", "b": 1}},
            "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"x": 1}, "spec": {"x": 1}, "other": 1},
            "raw": {"any": [1, {"x": 2}]},
            "meta": {"metadata": 1},
            "unknown": 1,
        },
    });
    let mut told = Vec::new();
    schema.prune(&mut object, Some(&mut told));
    assert_eq!(
        object,
        json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x", "more": 1},
            "spec": {
                "known": {"a": "x"},
                "list": [{"a": "x"}, {}],
                "map": {"k": {"a": "x"}},
                "kept": {"other": {"x": 1}, "inner": {"a": "x"}},
                "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"x": 1}, "spec": {}},
                "raw": {"any": [1, {"x": 2}]},
                "meta": {},
            },
        })
    );
    let paths = [
        "spec.embedded.other",
        "spec.embedded.spec.x",
        "spec.kept.inner.b",
        "spec.known.b",
        "spec.list[0].b",
        "spec.list[1].c",
        "spec.map.k.b",
        "spec.meta.metadata",
        "spec.unknown",
        "status",
    ];
    let want: Vec<String> = paths.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    assert_eq!(told, want);
}

#[test]
fn nulls_that_may_not_be_go_or_become_defaults() {
    let schema = of_spec(&json!({"type": "object", "properties": {
        "plain": {"type": "string"},
        "nullable": {"type": "string", "nullable": true},
        "default": {"type": "string", "default": "d"},
        "both": {"type": "string", "default": "d", "nullable": true},
        "absent": {"type": "integer", "default": 3},
        "object": {"type": "object", "default": {}, "properties": {"inner": {"type": "boolean", "default": true}}},
        "list": {"type": "array", "items": {"type": "string", "default": "i"}},
        "map": {"type": "object", "additionalProperties": {"type": "string", "default": "m"}},
    }}));
    let mut object = json!({"spec": {
        "plain": null, "nullable": null, "default": null, "both": null, "list": [null, "x"], "map": {"a": null},
    }});
    schema.prune(&mut object, None);
    schema.default(&mut object);
    assert_eq!(
        object,
        json!({"spec": {
            "nullable": null, "default": "d", "both": null, "absent": 3, "object": {"inner": true},
            "list": ["i", "x"], "map": {"a": "m"},
        }})
    );
}

#[test]
fn defaults_end_where_the_ledger_does() {
    let item = json!({"type": "object", "properties": {"a": {"type": "string", "default": "x".repeat(100_000)}}});
    let schema = of_spec(&json!({"type": "array", "items": item}));
    let mut object = json!({"spec": vec![json!({}); 100_000]});
    assert!(
        schema
            .default_within(&mut object, &mut trireme_api::cost::Ledger::new())
            .is_err()
    );
}

#[test]
fn metadata_within_objects_is_what_object_meta_is() {
    let schema =
        of_spec(&json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}));
    let object = json!({"spec": {"apiVersion": "v1", "kind": "Pod", "metadata":
        {"name": "x", "labels": {"a": "b"}, "creationTimestamp": null, "unknown": 1}}});
    let (mut coerced, mut told) = (object.clone(), Vec::new());
    assert_eq!(schema.coerce_metadata(&mut coerced, false, Some(&mut told)), Ok(()));
    assert_eq!(coerced["spec"]["metadata"], json!({"name": "x", "labels": {"a": "b"}}));
    assert_eq!(told, ["unknown field \"spec.metadata.unknown\""]);

    let mut wrong = json!({"spec": {"apiVersion": 1, "kind": "Pod", "metadata": {"name": "x", "labels": 7}}});
    let error = schema
        .coerce_metadata(&mut wrong.clone(), false, None)
        .map_err(|error| error.to_string());
    assert_eq!(error, Err("spec.apiVersion: Invalid value: 1: must be a string".to_owned()));
    assert_eq!(schema.coerce_metadata(&mut wrong, true, None), Ok(()));
    assert_eq!(wrong, json!({"spec": {"kind": "Pod", "metadata": {"name": "x"}}}));

    let mut seen = Vec::new();
    schema.each_embedded(&object, &mut |path, value| {
        seen.push((path.to_owned(), value["kind"].clone()))
    });
    assert_eq!(seen, [("spec".to_owned(), json!("Pod"))]);
}

#[test]
fn values_are_judged_in_upstream_s_words() {
    let spec = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "pattern": "^x+$", "maxLength": 3},
        "min": {"type": "string", "minLength": 2},
        "n": {"type": "integer", "maximum": 4, "minimum": 0, "exclusiveMinimum": true, "format": "int32"},
        "f": {"type": "number", "multipleOf": 0.5, "maximum": 1e21},
        "i": {"type": "integer", "multipleOf": 3},
        "e": {"type": "string", "enum": ["p", "q"]},
        "l": {"type": "array", "maxItems": 1, "items": {"type": "integer"}},
        "m": {"type": "object", "maxProperties": 1, "minProperties": 1, "additionalProperties": {"type": "boolean"}},
        "is": {"x-kubernetes-int-or-string": true},
        "d": {"type": "string", "format": "date"},
        "u": {"type": "string", "format": "nobody-knows"},
        "one": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "oneOf": [{"required": ["x"]}, {"required": ["y"]}]},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "anyOf": [{"required": ["x"]}, {"required": ["y"]}]},
        "all": {"type": "integer", "allOf": [{"minimum": 2}, {"maximum": 3}]},
        "not": {"type": "integer", "not": {"enum": [7]}},
        "nullable": {"type": "string", "nullable": true},
        "go": {"type": "string", "pattern": "^[[:alnum:]-]+\\{$"},
    }});
    let schema = of_spec(&spec);
    for (change, want) in [
        (json!({}), &[][..]),
        (
            json!({"a": null}),
            &["spec.a: Invalid value: \"null\": spec.a in body must be of type string: \"null\""],
        ),
        (
            json!({"a": "y"}),
            &["spec.a: Invalid value: \"y\": spec.a in body should match '^x+$'"],
        ),
        (json!({"a": "xxxx"}), &["spec.a: Too long: may not be more than 3 bytes"]),
        (
            json!({"a": 1}),
            &["spec.a: Invalid value: \"integer\": spec.a in body must be of type string: \"integer\""],
        ),
        (
            json!({"min": "é"}),
            &["spec.min: Invalid value: \"é\": spec.min in body should be at least 2 chars long"],
        ),
        (
            json!({"n": 5}),
            &["spec.n: Invalid value: 5: spec.n in body should be less than or equal to 4"],
        ),
        (
            json!({"n": 0}),
            &["spec.n: Invalid value: 0: spec.n in body should be greater than 0"],
        ),
        (json!({"n": 1.0}), &[]),
        (
            json!({"n": 1.5}),
            &[
                "spec.n: Invalid value: \"float64\": spec.n in body must be of type int32: \"float64\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.n",
            ],
        ),
        (
            json!({"n": 3_000_000_000_i64}),
            &[
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.n",
                "spec.n: Invalid value: 3000000000: spec.n in body should be less than or equal to 4",
            ],
        ),
        (
            json!({"f": 1.25}),
            &["spec.f: Invalid value: 1.25: spec.f in body should be a multiple of 0.5"],
        ),
        (
            json!({"f": 3}),
            // A whole number is held against whole limits, as Go makes them of floats.
            &[
                "spec.f: Invalid value: 0: factor MultipleOf declared for spec.f must be positive: 0",
                "spec.f: Invalid value: 3: spec.f in body should be less than or equal to -9223372036854775808",
            ],
        ),
        (
            json!({"f": 1e22}),
            &[
                "spec.f: Invalid value: 1e+22: spec.f in body should be a multiple of 0.5",
                "spec.f: Invalid value: 1e+22: spec.f in body should be less than or equal to 1e+21",
            ],
        ),
        (
            json!({"i": 4}),
            &["spec.i: Invalid value: 4: spec.i in body should be a multiple of 3"],
        ),
        (
            json!({"e": "z"}),
            &["spec.e: Unsupported value: \"z\": supported values: \"p\", \"q\""],
        ),
        (json!({"l": [1, 2]}), &["spec.l: Too many: 2: must have at most 1 item"]),
        (
            json!({"l": ["x"]}),
            &["spec.l[0]: Invalid value: \"string\": spec.l[0] in body must be of type integer: \"string\""],
        ),
        (
            json!({"m": {"a.b": 1}}),
            &["spec.m.a.b: Invalid value: \"integer\": spec.m.a.b in body must be of type boolean: \"integer\""],
        ),
        (
            json!({"m": {}}),
            &["spec.m: Invalid value: 0: spec.m in body should have at least 1 properties"],
        ),
        (
            json!({"m": {"a": true, "b": true}}),
            &["spec.m: Too many: 2: must have at most 1 item"],
        ),
        (json!({"is": 1}), &[]),
        (json!({"is": "1"}), &[]),
        (
            json!({"is": true}),
            &["spec.is: Invalid value: \"boolean\": spec.is in body must be of type integer,string: \"boolean\""],
        ),
        (
            json!({"d": "2024-02-30"}),
            &["spec.d: Invalid value: \"2024-02-30\": spec.d in body must be of type date: \"2024-02-30\""],
        ),
        (json!({"u": "x"}), &[]),
        (
            json!({"one": {"x": 1, "y": 1}}),
            &[
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({"one": {}}),
            &[
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
                "spec.one.x: Required value",
            ],
        ),
        (
            json!({"any": {}}),
            &[
                "<nil>: Invalid value: \"\": \"spec.any\" must validate at least one schema (anyOf)",
                "spec.any.x: Required value",
            ],
        ),
        (
            json!({"all": 1}),
            &[
                "spec.all: Invalid value: 1: spec.all in body should be greater than or equal to 2",
                "<nil>: Invalid value: \"\": \"spec.all\" must validate all the schemas (allOf)",
            ],
        ),
        (
            json!({"not": 7}),
            &["<nil>: Invalid value: \"\": \"spec.not\" must not validate the schema (not)"],
        ),
        (json!({"nullable": null}), &[]),
        (json!({"go": "a-{"}), &[]),
        (
            json!({"go": "a_{"}),
            &["spec.go: Invalid value: \"a_{\": spec.go in body should match '^[[:alnum:]-]+\\{$'"],
        ),
    ] {
        let mut spec = json!({"a": "x"});
        for (name, value) in change.as_object().expect("an object") {
            spec[name] = value.clone();
        }
        let found = texts(schema.validate(&json!({"spec": spec}), None));
        assert_eq!(found, want, "{change}");
    }
    assert_eq!(texts(schema.validate(&json!({"spec": {}}), None)), ["spec.a: Required value"]);
    assert_eq!(
        texts(schema.validate(&json!({"spec": 1}), None)),
        ["spec: Invalid value: \"integer\": spec in body must be of type object: \"integer\""]
    );
}

#[test]
fn what_did_not_change_is_let_pass() {
    let item = json!({"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}});
    let schema = of_spec(&json!({"type": "object", "required": ["must"], "properties": {
        "s": {"type": "string", "maxLength": 1},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": item},
        "plain": {"type": "array", "items": item},
        "more": {"type": "integer"},
    }}));
    let old = json!({"spec": {"s": "long", "keyed": [{"name": "a", "v": 5}, {"name": "b", "v": 5}], "plain": [{"v": 5}]}});
    let judged = |new: Value| texts(schema.validate(&new, Some(&old)));
    assert_eq!(judged(old.clone()), Vec::<String>::new());
    // Elements with keys are known in any order, those without only together.
    let mut new = old.clone();
    new["spec"]["more"] = json!(1);
    new["spec"]["keyed"] = json!([{"name": "b", "v": 5}, {"name": "a", "v": 6}]);
    assert_eq!(
        judged(new.clone()),
        [
            "spec.keyed[1].v: Invalid value: 6: spec.keyed[1].v in body should be less than or equal to 1",
            "spec.must: Required value"
        ]
    );
    new["spec"]["must"] = json!(1);
    new["spec"]["keyed"] = json!([]);
    new["spec"]["plain"] = json!([{"v": 5}, {"v": 5}]);
    assert_eq!(
        judged(new),
        [
            "spec.plain[0].v: Invalid value: 5: spec.plain[0].v in body should be less than or equal to 1",
            "spec.plain[1].v: Invalid value: 5: spec.plain[1].v in body should be less than or equal to 1",
        ]
    );
}

#[test]
fn elements_are_there_once() {
    let item = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}});
    let list = |keys: Value| json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys, "items": item});
    let schema = of_spec(&json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "one": list(json!(["a"])),
        "two": list(json!(["a", "b"])),
        "map": {"type": "object", "additionalProperties": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}},
    }}));
    let found = texts(schema.validate_lists(&json!({"spec": {
        "set": ["x", "y", "x", "x"],
        "one": [{"a": "x"}, {"a": "y"}, {"a": "x", "b": 1}, {}, {}],
        "two": [{"a": "x", "b": 1}, {"a": "x", "b": 2}, {"a": "x", "b": 1}],
        "map": {"k": [1, 1]},
    }})));
    assert_eq!(
        found,
        [
            "spec.map[k][1]: Duplicate value: 1",
            "spec.one[2]: Duplicate value: {\"a\":\"x\"}",
            "spec.one[4]: Duplicate value: {}",
            "spec.set[2]: Duplicate value: \"x\"",
            "spec.two[2]: Duplicate value: {\"a\":\"x\",\"b\":1}",
        ]
    );
}

fn ruled(rules: &Value, properties: &Value) -> Structural {
    of_spec(&json!({"type": "object", "x-kubernetes-validations": rules, "properties": properties}))
}

#[test]
fn rules_are_run_as_upstream_runs_them() {
    let properties = json!({
        "n": {"type": "integer"}, "s": {"type": "string"}, "is": {"x-kubernetes-int-or-string": true},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "a-b": {"type": "integer"},
    });
    for (rule, new, old, want) in [
        (json!({"rule": "self.n > 1"}), json!({"n": 2}), None, &[][..]),
        (
            json!({"rule": " self.n > 1 "}),
            json!({"n": 1}),
            None,
            &["spec: Invalid value: failed rule: self.n > 1"],
        ),
        (
            json!({"rule": "self.n > 1", "message": "too few"}),
            json!({"n": 1}),
            None,
            &["spec: Invalid value: too few"],
        ),
        (
            json!({"rule": "self.n > 1", "messageExpression": "'only ' + string(self.n)", "message": "m"}),
            json!({"n": 1}),
            None,
            &["spec: Invalid value: only 1"],
        ),
        (
            json!({"rule": "self.n > 1", "messageExpression": "'a\\nb'", "message": "m"}),
            json!({"n": 1}),
            None,
            &["spec: Invalid value: m"],
        ),
        (
            json!({"rule": "self.n > 1", "reason": "FieldValueForbidden", "fieldPath": ".n", "message": "m"}),
            json!({"n": 1}),
            None,
            &["spec.n: Forbidden: m"],
        ),
        (
            json!({"rule": "self.n > 1", "reason": "FieldValueRequired"}),
            json!({"n": 1}),
            None,
            &["spec: Required value: failed rule: self.n > 1"],
        ),
        (json!({"rule": "self.n >= oldSelf.n"}), json!({"n": 1}), None, &[]),
        (
            json!({"rule": "self.n >= oldSelf.n"}),
            json!({"n": 1}),
            Some(json!({"n": 2})),
            &["spec: Invalid value: failed rule: self.n >= oldSelf.n"],
        ),
        (
            json!({"rule": "oldSelf.hasValue() || self.n > 1", "optionalOldSelf": true}),
            json!({"n": 1}),
            None,
            &["spec: Invalid value: failed rule: oldSelf.hasValue() || self.n > 1"],
        ),
        (
            json!({"rule": "oldSelf.hasValue() || self.n > 1", "optionalOldSelf": true}),
            json!({"n": 1}),
            Some(json!({"n": 1})),
            &[],
        ),
        (json!({"rule": "self.a__dash__b == 1"}), json!({"a-b": 1}), None, &[]),
        (
            json!({"rule": "self.map.all(k, self.map[k] > 0)"}),
            json!({"map": {"x": 1}}),
            None,
            &[],
        ),
        (
            json!({"rule": "self.map['y'] > 0"}),
            json!({"map": {"x": 1}}),
            None,
            &["spec: Invalid value: \"object\": no such key: y evaluating rule: self.map['y'] > 0"],
        ),
        (
            json!({"rule": "self.is + 1 > 0"}),
            json!({"is": "x"}),
            None,
            &[
                "spec: Invalid value: \"object\": 'no such overload': call arguments did not match a supported operator, function or macro signature for rule: self.is + 1 > 0",
            ],
        ),
        (
            json!({"rule": "self.n"}),
            json!({"n": 1}),
            None,
            &["spec: Invalid value: \"object\": rule compile error: cel expression must evaluate to a bool"],
        ),
        (json!({"rule": " "}), json!({}), None, &[]),
        // What did not change is let pass.
        (json!({"rule": "self.n > 1"}), json!({"n": 1}), Some(json!({"n": 1})), &[]),
        (
            json!({"rule": "self.n > 1"}),
            json!({"n": 1}),
            Some(json!({"n": 0})),
            &["spec: Invalid value: failed rule: self.n > 1"],
        ),
    ] {
        let schema = ruled(&json!([rule]), &properties);
        let old = old.map(|old| json!({"spec": old}));
        let found = texts(schema.validate_rules(&json!({"spec": new}), old.as_ref()));
        assert_eq!(found, want, "{rule} {new}");
    }
}

#[test]
fn rules_of_roots_and_scalars() {
    let schema = compiled(&json!({
        "type": "object",
        "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a')"}, {"rule": "self.kind == 'K'"}],
        "properties": {"spec": {"type": "object", "additionalProperties": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self.size() < 3", "reason": "FieldValueDuplicate"}, {"rule": "self != 'no'"}]}}},
    }));
    let object = json!({"apiVersion": "x/v1", "kind": "K", "metadata": {"name": "b"}, "spec": {"k": "long", "l": "no"}});
    let judged = schema.judge_rules(&object, None);
    assert_eq!(
        texts(judged.errors),
        [
            "<nil>: Invalid value: failed rule: self.metadata.name.startsWith('a')",
            "spec[k]: Duplicate value: \"long\"",
            "spec[l]: Invalid value: \"no\": failed rule: self != 'no'",
        ]
    );
    // What did not change is warned of. The root is never the same: its schema does not say what its type is.
    let judged = schema.judge_rules(&object, Some(&object));
    assert_eq!((judged.errors.len(), judged.warnings.len()), (1, 2));
    assert_eq!(judged.warnings[0], "spec[k]: Duplicate value: \"long\"");
}

#[test]
fn rules_end_where_their_budget_does() {
    let list = json!({"type": "array", "items": {"type": "integer"}});
    let schema = ruled(
        &json!([{"rule": "self.l.all(x, self.l.all(y, x + y >= 0))"}, {"rule": "false"}]),
        &json!({"l": list}),
    );
    let object = json!({"spec": {"l": vec![1; 5_000]}});
    assert_eq!(
        texts(schema.validate_rules(&object, None)),
        [
            "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.l.all(x, self.l.all(y, x + y >= 0))"
        ]
    );
    let item =
        json!({"type": "object", "properties": {"l": list}, "x-kubernetes-validations": [{"rule": "self.l.all(x, x >= 0)"}]});
    let schema = of_spec(&json!({"type": "array", "items": item}));
    let object = json!({"spec": vec![json!({"l": vec![1; 10_000]}); 400]});
    let found = texts(schema.validate_rules(&object, None));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].ends_with("validation failed due to running out of cost budget, no further validation rules will be run"),
        "{found:?}"
    );
}

#[test]
fn all_of_it_comes_in_upstream_s_order() {
    let schema = of_spec(
        &json!({"type": "object", "required": ["a"], "x-kubernetes-validations": [{"rule": "false"}], "properties": {
        "a": {"type": "string"}, "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}}}),
    );
    let judged = schema.judge(&json!({"spec": {"set": [1, 1]}}), None, Vec::new);
    assert_eq!(
        texts(judged.errors),
        [
            "spec.a: Required value",
            "spec.set[1]: Duplicate value: 1",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        ]
    );
    let twice = json!({"spec": {"a": "x", "set": [1, 1]}});
    let judged = schema.judge(&twice, Some(&twice), Vec::new);
    assert_eq!(texts(judged.errors), Vec::<String>::new());
}

#[test]
fn owners_of_fields_find_their_way() {
    let schema = of_spec(&json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}, "b": {"type": "integer"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}},
    }}));
    let node = |path: &[&str]| schema.node_at(path).expect("a place");
    assert!(node(&["spec"]).is_atomic_map());
    assert_eq!(node(&["spec", "l"]).list_type(), &ListType::Map(vec!["a".into(), "b".into()]));
    assert_eq!(node(&["spec", "l", "*", "a"]).default_value(), Some(&json!("x")));
    assert_eq!(node(&["spec", "m", "k"]).list_type(), &ListType::Set);
    assert_eq!(node(&["spec", "m", "k", "*"]).type_(), Type::String);
    assert!(schema.node_at(&["spec", "x"]).is_none());
}

#[test]
fn what_cannot_be_worked_with_is_refused() {
    let mut deep = json!({"type": "string"});
    for _ in 0..400 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    for (schema, want) in [
        (json!(1), "a schema must be an object"),
        (json!({"type": "null"}), "type \"null\" is not known"),
        (
            json!({"type": "object", "$ref": "x"}),
            "OpenAPIV3Schema '$ref' is not supported",
        ),
        (deep, "schemas may stand at most 130 deep in one another"),
    ] {
        assert_eq!(
            Structural::compile(&schema, false)
                .map_err(|errors| errors.join(", "))
                .err()
                .as_deref(),
            Some(want)
        );
    }
}

#[test]
fn hostile_schemas_end() {
    // Alternatives in lists: each element is held against each of them.
    let any: Vec<Value> = (0..2_000).map(|n| json!({"enum": [n]})).collect();
    let schema = of_spec(&json!({"type": "array", "items": {"type": "integer", "anyOf": any}}));
    let found = texts(schema.validate(&json!({"spec": vec![json!(-1); 100_000]}), None));
    assert!(!found.is_empty());
    // Patterns that take much memory.
    let properties: Map<String, Value> = (0..300)
        .map(|n| {
            (
                format!("p{n}"),
                json!({"type": "string", "pattern": format!("^\\pL{{1,{}}}$", n + 600)}),
            )
        })
        .collect();
    let values: Map<String, Value> = (0..300).map(|n| (format!("p{n}"), json!("abc"))).collect();
    let schema = of_spec(&json!({"type": "object", "properties": properties}));
    let found = texts(schema.validate(&json!({"spec": values}), None));
    assert_eq!(found, ["<nil>: Forbidden: may take at most 10000000 steps to validate"]);
}

/// A schema that has something of everything, one level of itself inside.
fn rich(inner: &Value) -> Value {
    json!({"type": "object", "required": ["s"], "properties": {
        "s": {"type": "string", "default": "x", "maxLength": 3, "pattern": "^[a-z]*$"},
        "n": {"type": "integer", "default": 1, "minimum": 0, "nullable": true},
        "f": {"type": "number", "multipleOf": 0.5},
        "is": {"x-kubernetes-int-or-string": true, "default": 5},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string", "default": "i"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["s"], "items": inner},
        "map": {"type": "object", "additionalProperties": inner},
        "obj": {"type": "object", "default": {"n": 2}, "properties": {"n": {"type": "integer"}, "d": {"type": "string", "default": "y"}}},
        "raw": {"x-kubernetes-preserve-unknown-fields": true},
        "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "t": {"type": "string", "format": "date-time"},
    }, "x-kubernetes-validations": [{"rule": "!has(self.n) || self.n < 100"}, {"rule": "self.s.size() < 3 && oldSelf.s == self.s"}]})
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "s", "n", "f", "is", "set", "keyed", "map", "obj", "raw", "emb", "t", "d", "metadata", "kind", "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z2:TZ-]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn pruning_and_defaults_come_to_rest(spec in any_json(), old in any_json()) {
        let leaf = json!({"type": "object", "properties": {"s": {"type": "string"}}});
        let schema = of_spec(&rich(&rich(&leaf)));
        let mut object = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {}, "spec": spec});
        let old = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {}, "spec": old});
        schema.prune(&mut object, None);
        let pruned = object.clone();
        let mut told = Vec::new();
        schema.prune(&mut object, Some(&mut told));
        prop_assert_eq!(&object, &pruned);
        prop_assert!(told.is_empty());
        schema.default(&mut object);
        let filled = object.clone();
        schema.default(&mut object);
        prop_assert_eq!(&object, &filled);
        schema.prune(&mut object, None);
        prop_assert_eq!(&object, &filled);
        // A judgement is always reached, and what is as it was is always let pass by the schema if it can be told apart.
        let _judged = schema.judge(&object, Some(&old), Vec::new);
        let _judged = schema.judge(&old, None, Vec::new);
        let _coerced = schema.coerce_metadata(&mut object, true, Some(&mut told));
    }

    #[test]
    fn any_json_as_a_schema_is_compiled_or_refused(schema in any_json(), object in any_json()) {
        if let Ok(schema) = Structural::compile(&json!({"type": "object", "properties": {"spec": schema}, "items": object}), false) {
            let _judged = schema.judge(&object, None, Vec::new);
        }
    }
}

/// How long judging an ordinary object takes; printed for whoever asks with `--ignored --nocapture`.
#[test]
#[ignore = "measures, and judges nothing"]
fn measure() {
    let properties: Map<String, Value> = (0..20)
        .map(|n| (format!("f{n}"), json!({"type": "integer", "minimum": 0})))
        .collect();
    let rules: Vec<Value> = (0..5)
        .map(|n| json!({"rule": format!("self.f{n} <= self.f{} && self.f0 >= 0", n + 1)}))
        .collect();
    let schema = ruled(&json!(rules), &Value::Object(properties));
    let object = json!({"spec": (0..20).map(|n| (format!("f{n}"), json!(n))).collect::<Map<_, _>>()});
    assert!(schema.judge(&object, None, Vec::new).errors.is_empty());
    let begin = std::time::Instant::now();
    for _ in 0..1_000 {
        assert!(schema.judge(&object, None, Vec::new).errors.is_empty());
    }
    println!("{:?} each", begin.elapsed() / 1_000);
}

/// What the rules of a schema cost at most, each for all values; or why there is no cost.
fn costs(schema: &Value, at: &Value, rules: &[&str]) -> Vec<Result<u64, String>> {
    let definition = Definition::of(schema).expect("rules");
    let Some(Scope::Typed(typed)) = definition.scope(at) else {
        panic!("no types");
    };
    let estimate = |rule: &&str| {
        let estimated = typed.estimate(rule, false, &mut Budget::default());
        estimated
            .map(|estimated| typed.for_all(estimated.cost))
            .map_err(|why| why.to_string())
    };
    rules.iter().map(estimate).collect()
}

#[test]
fn rules_are_typed_and_their_costs_are_estimated_by_the_schema() {
    let bounded = json!({"type": "object", "x-kubernetes-validations": [{"rule": "true"}], "properties": {
        "l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "n": {"type": "integer"},
        "raw": {"x-kubernetes-preserve-unknown-fields": true},
    }});
    let schema = json!({"type": "object", "properties": {"spec": bounded}});
    let found = costs(
        &schema,
        &schema["properties"]["spec"],
        &[
            "self.n > 1",
            "self.l.all(x, x == 'a')",
            "self.l.exists(x, self.l.all(y, x == y))",
            "self.x == 1",
            "self.raw == 1",
        ],
    );
    // Each of ten elements costs what comparing and the loop around it cost.
    assert_eq!(found[0], Ok(3));
    assert!(found[1].as_ref().is_ok_and(|cost| (40..100).contains(cost)), "{found:?}");
    assert!(found[2].as_ref().is_ok_and(|cost| (400..2_000).contains(cost)), "{found:?}");
    for wrong in &found[3..] {
        assert!(wrong.as_ref().is_err_and(|why| why.contains("undefined field")), "{wrong:?}");
    }
    // A list that nothing bounds holds what fits into a request; so does the text in it.
    let open = json!({"type": "object", "x-kubernetes-validations": [{"rule": "true"}], "properties": {
        "l": {"type": "array", "items": {"type": "string"}}}});
    let schema = json!({"type": "object", "properties": {"spec": open}});
    let found = costs(
        &schema,
        &schema["properties"]["spec"],
        &["self.l.all(x, x == 'a')", "self.l.all(x, self.l.all(y, x == y))"],
    );
    assert!(
        found.iter().all(|cost| cost.as_ref().is_ok_and(|cost| *cost > 1_000_000)),
        "{found:?}"
    );
    // What stands in a list of at most three is asked three times.
    let item =
        json!({"type": "object", "x-kubernetes-validations": [{"rule": "true"}], "properties": {"n": {"type": "integer"}}});
    let list = json!({"type": "array", "maxItems": 3, "items": item});
    let schema = json!({"type": "object", "properties": {"spec": list}});
    assert_eq!(
        costs(&schema, &schema["properties"]["spec"]["items"], &["self.n > 1"]),
        [Ok(9)]
    );
}

#[test]
fn what_has_no_type_has_no_rules() {
    let raw = json!({"x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-validations": [{"rule": "true"}]});
    let schema = json!({"type": "object", "properties": {"raw": raw}});
    let definition = Definition::of(&schema).expect("rules");
    assert!(matches!(definition.scope(&schema["properties"]["raw"]), Some(Scope::NoType)));
    assert!(definition.scope(&schema).is_none(), "a place without rules");
    assert!(Definition::of(&json!({"type": "object"})).is_none());
}
