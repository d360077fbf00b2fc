//! Definitions by their status, registries and columns.

use serde_json::{Value, json};
use trireme_api::Object;

use super::*;

fn definition(plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com"), "resourceVersion": "3"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"),
                "shortNames": [&plural[..2]]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true},
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}}},
                {"name": "v2alpha1", "served": false, "storage": false},
            ],
        },
    })
}

fn settled(mut definition: Value, others: &[Value]) -> Value {
    while let Some(next) = status::wanted(&definition, others, "2026-01-01T00:00:00Z") {
        definition = next;
    }
    definition
}

fn condition<'a>(definition: &'a Value, kind: &str) -> [&'a str; 3] {
    let conditions = definition["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|own| own["type"] == kind).unwrap();
    ["status", "reason", "message"].map(|name| found[name].as_str().unwrap())
}

#[test]
fn names_are_taken_or_told() {
    let first = settled(definition("widgets", "Widget"), &[]);
    assert_eq!(first["status"]["acceptedNames"], first["spec"]["names"]);
    assert_eq!(
        condition(&first, "NamesAccepted"),
        ["True", "NoConflicts", "no conflicts found"]
    );
    assert_eq!(
        condition(&first, "Established"),
        ["True", "InitialNamesAccepted", "the initial names have been accepted"]
    );
    let others = [first];
    for (change, reason, message) in [
        (
            json!({"singular": "widget"}),
            "SingularConflict",
            "\"widget\" is already in use",
        ),
        (
            json!({"shortNames": ["x", "wi"]}),
            "ShortNamesConflict",
            "\"wi\" is already in use",
        ),
        (json!({"kind": "Widget"}), "KindConflict", "\"Widget\" is already in use"),
        (
            json!({"listKind": "WidgetList"}),
            "ListKindConflict",
            "\"WidgetList\" is already in use",
        ),
    ] {
        let mut other = definition("gadgets", "Gadget");
        for (name, value) in change.as_object().unwrap() {
            other["spec"]["names"][name] = value.clone();
        }
        let other = settled(other, &others);
        assert_eq!(condition(&other, "NamesAccepted"), ["False", reason, message]);
        assert_eq!(
            condition(&other, "Established"),
            ["False", "NotAccepted", "not all names are accepted"]
        );
    }
}

#[test]
fn groups_of_kubernetes_want_approval() {
    for (annotation, expected) in [
        (Value::Null, ["False", "MissingAnnotation"]),
        (json!("unapproved, for tests"), ["False", "UnapprovedAnnotation"]),
        (
            json!("https://github.com/kubernetes/kubernetes/pull/78458"),
            ["True", "ApprovedAnnotation"],
        ),
        (json!("perhaps"), ["False", "InvalidAnnotation"]),
    ] {
        let mut own = definition("widgets", "Widget");
        own["spec"]["group"] = "sub.k8s.io".into();
        own["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": annotation});
        let own = settled(own, &[]);
        assert_eq!(condition(&own, "KubernetesAPIApprovalPolicyConformant")[..2], expected);
    }
}

#[test]
fn a_registry_serves_what_is_established_and_keeps_what_stays() {
    let object = |value: &Value| Object::from_value(value).unwrap();
    let mut builder = Builder::default();
    assert!(
        builder
            .build([&object(&definition("widgets", "Widget"))])
            .find("example.com", "v1", "widgets")
            .is_none()
    );
    let first = settled(definition("widgets", "Widget"), &[]);
    let registry = builder.build([&object(&first)]);
    assert_eq!(registry.versions("example.com").unwrap(), ["v1", "v1beta1"]);
    let v1 = registry.find("example.com", "v1", "widgets").unwrap();
    let beta = registry.find("example.com", "v1beta1", "widgets").unwrap().served;
    assert!(registry.find("example.com", "v2alpha1", "widgets").is_none());
    let row = v1.served.row;
    assert_eq!(
        (row.kind, row.storage, row.custom.unwrap().list_kind),
        ("Widget", "example.com/widgets", "WidgetList")
    );
    assert_eq!(beta.row.custom.unwrap().stored.unwrap() as *const _, row as *const _);
    assert_eq!(
        beta.row.deprecated,
        Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget")
    );
    assert_eq!(
        row.subresources.iter().map(|sub| sub.name).collect::<Vec<_>>(),
        ["status", "scale"]
    );
    assert_eq!(
        v1.served.scale.as_ref().unwrap().selector.as_ref().unwrap(),
        &["status", "selector"]
    );
    // A condition changes nothing of what is served; the spec does, but not the row.
    let mut again = first.clone();
    again["metadata"]["resourceVersion"] = "2".into();
    status::mark_deleted(&mut again, "2026-01-01T00:00:00Z");
    let second = builder.build([&object(&again)]);
    assert!(second.serves(&v1.served) && second.find("example.com", "v1", "widgets").unwrap().terminating);
    again["metadata"]["resourceVersion"] = "3".into();
    again["spec"]["versions"][1]["schema"] = json!({"openAPIV3Schema": {"type": "object"}});
    let third = builder.build([&object(&again)]);
    assert!(!third.serves(&v1.served));
    let other = third.find("example.com", "v1", "widgets").unwrap().served;
    assert!(std::ptr::eq(other.row, row));
    assert!(builder.build([]).find("example.com", "v1", "widgets").is_none());
}

#[test]
fn what_is_older_than_its_schema_is_read_by_it() {
    let mut builder = Builder::default();
    let mut own = settled(definition("widgets", "Widget"), &[]);
    let mut generation = 1;
    let mut served = |revision: u64, schema: Value| {
        generation += 1;
        own["metadata"]["resourceVersion"] = revision.to_string().into();
        own["metadata"]["generation"] = generation.into();
        own["spec"]["versions"][1]["schema"] = json!({"openAPIV3Schema": schema});
        let registry = builder.build([&Object::from_value(&own).unwrap()]);
        registry.find("example.com", "v1", "widgets").unwrap().served
    };
    let schema = |a: Value| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": a}}}});
    let first = served(10, schema(json!({"type": "string"})));
    assert!(!first.shows("example.com/v1", 10) && first.shows("example.com/v1", 11) && !first.shows("example.com/v1beta1", 11));
    // Words and demands make nothing older; they are those of 10.
    let told = served(20, schema(json!({"type": "string", "description": "A.", "pattern": "a"})));
    assert!(!told.shows("example.com/v1", 10) && told.shows("example.com/v1", 11));
    let table = [
        json!({"type": "string", "default": "x"}),
        json!({"type": "string", "default": "y"}),
        json!({"type": "string", "nullable": true}),
        json!({"type": "object", "properties": {"b": {"type": "string"}}}),
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "array", "items": {"type": "object"}}),
        json!({"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}}),
    ];
    for (revision, a) in (30..).zip(table) {
        let now = served(revision, schema(a.clone()));
        assert!(
            !now.shows("example.com/v1", revision) && now.shows("example.com/v1", revision + 1),
            "{a}"
        );
    }
    let last = served(50, schema(json!({"type": "string", "default": "x"})));
    let stored = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"b": 1}});
    let shown = |revision| {
        let mut value = stored.clone();
        last.show(&mut value, revision).unwrap();
        value["spec"].take()
    };
    assert_eq!((shown(50), shown(51)), (json!({"a": "x"}), json!({"b": 1})));
    // Somebody looks once, and what is known from then on is served as it is.
    let form = last.forms.iter().find(|form| form.version() == "v1").unwrap();
    assert!(form.asks() && !form.asks());
    form.settled_after(40);
    assert!(!last.shows("example.com/v1", 40) && last.shows("example.com/v1", 41));
    assert_eq!((shown(40), form.asks()), (json!({"a": "x"}), false));
}

#[test]
fn versions_are_preferred_as_kubernetes_does() {
    let mut versions = [
        "foo1",
        "v10beta3",
        "v2",
        "v11alpha2",
        "v1",
        "v3beta1",
        "v10",
        "foo10",
        "v12alpha1",
        "v11beta2",
    ];
    versions.sort_by(|a, b| compare_versions(b, a));
    assert_eq!(
        versions,
        [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10"
        ]
    );
}

#[test]
fn paths_find_the_first_value() {
    let object = json!({"a": {"b": [{"t": "x", "v": 1}, {"t": "Ready", "v": 2}], "c.d": true, "n": null}});
    for (text, expected) in [
        (".a.b[0].v", json!(1)),
        (".a.b[-1].v", json!(2)),
        (".a.b[?(@.t==\"Ready\")].v", json!(2)),
        (".a.b[?(@.t=='Ready')].v", json!(2)),
        (".a.b[?(@.v>1)].t", json!("Ready")),
        (".a.b[*].t", json!("x")),
        (".a.b[1:].t", json!("Ready")),
        (".a['c.d']", json!(true)),
        (".a.c\\.d", json!(true)),
        ("..t", json!("x")),
        (".a.n", Value::Null),
    ] {
        let path = JsonPath::parse(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(path.first(&object), Some(&expected), "{text}");
    }
    assert!(JsonPath::parse(".a.b[9].v").unwrap().first(&object).is_none());
    assert!(JsonPath::parse(".a.b[").is_none());
}

#[test]
fn what_keeps_unknown_fields_is_told_to_be_no_structure() {
    let mut own = settled(definition("widgets", "Widget"), &[]);
    own["spec"]["preserveUnknownFields"] = json!(true);
    let told = settled(own, &[]);
    assert_eq!(
        condition(&told, "NonStructuralSchema"),
        [
            "True",
            "Violations",
            "spec.preserveUnknownFields: Invalid value: true: must be false"
        ]
    );
    let mut mended = told;
    mended["spec"]["preserveUnknownFields"] = json!(false);
    let mended = settled(mended, &[]);
    assert!(!status::is_true(&mended["status"]["conditions"], "NonStructuralSchema"));
}
