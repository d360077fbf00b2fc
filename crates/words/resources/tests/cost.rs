//! Hostile but small inputs, under a limit of address space and of processor time: each must be answered within both.
//!
//! Invariant: the inputs run in a child process, which ends by itself; what exceeds the limits kills the child, not the host.

use serde_json::{Value, json};
use trireme_api::bulk::Present;
use trireme_api::cost::{BODY_BYTES_MAX, Ledger};
use trireme_api::decode::{self, FieldValidation};
use trireme_api::selector::{FieldSelector, LabelSelector};
use trireme_api::{protobuf, schema};
use trireme_limited::Limits;
use trireme_resources::apply::{self, Applier, Updater};
use trireme_resources::{Resource, find, patch, validation};

/// Of each kind of inputs; an unoptimised build takes a few seconds for the longest.
const LIMITS: Limits = Limits {
    address_space_mib: 512,
    cpu_seconds: 30,
    open_files: None,
};

#[test]
fn hostile_inputs_are_answered_within_a_limit_of_address_space() {
    for kind in [
        "patches",
        "documents",
        "messages",
        "selectors",
        "told_fields",
        "long_lists",
        "owners",
        "volumes",
        "expressions",
        "schemas",
        "rules",
        "differences",
    ] {
        trireme_limited::run(kind, LIMITS);
    }
}

fn row(group: &str, plural: &str) -> &'static Resource {
    find(group, "v1", plural).unwrap()
}

/// Volumes of a pod, the last name twice.
#[test]
#[ignore = "run by its parent under limits"]
fn volumes() {
    let mut volumes: Vec<Value> = (0..40_000)
        .map(|number| json!({"name": format!("v{number}"), "emptyDir": {}}))
        .collect();
    volumes.push(json!({"name": "v39999", "emptyDir": {}}));
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "volumes": volumes});
    let errors = validation::create(
        row("", "pods"),
        &json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}),
    );
    let twice = "spec.volumes[40000].name: Duplicate value: \"v39999\"";
    assert!(errors.iter().any(|error| error.to_string() == twice), "{}", errors.len());
}

/// Operations that double a list, or put in front of a long one.
#[test]
#[ignore = "run by its parent under limits"]
fn patches() {
    let doc = json!({"l": ["0123456789"], "o": {}});
    let double = r#"{"op":"copy","from":"/l","path":"/l/-"}"#;
    for (operation, times) in [
        (double, 60),
        (double, 10_000),
        (r#"{"op":"copy","from":"/l","path":"/o/x"}"#, 10_000),
    ] {
        let body = format!("[{}]", vec![operation; times].join(","));
        let answer = patch::json_patch(row("", "pods").schema(), &Present::of(doc.clone()), body.as_bytes(), true)
            .map(|patched| patched.document.to_text().len());
        assert!(answer.map_or_else(|status| status.code == 422, |length| length < BODY_BYTES_MAX));
    }
    // Few values, many bytes.
    let large = Present::of(json!({"k": "x".repeat(1_000_000)}));
    let again = format!("[{}]", vec![r#"{"op":"copy","from":"/k","path":"/l"}"#; 10_000].join(","));
    let refused = patch::json_patch(row("", "pods").schema(), &large, again.as_bytes(), true);
    assert_eq!(refused.unwrap_err().code, 422);
    let long = json!({"l": vec![0; 50_000]});
    let front = format!("[{}]", vec![r#"{"op":"add","path":"/l/0","value":1}"#; 10_000].join(","));
    assert_eq!(
        patch::json_patch(row("", "pods").schema(), &Present::of(long.clone()), front.as_bytes(), true)
            .unwrap_err()
            .code,
        413
    );
}

/// Many values in few bytes, aliases, depth.
#[test]
#[ignore = "run by its parent under limits"]
fn documents() {
    let many = format!("[{}0]", "0,".repeat(1_500_000));
    assert!(matches!(
        decode::Body::parse(many.as_bytes()),
        Err(decode::DecodeError::Cost(_))
    ));
    for deep in ["[".repeat(1_000_000), r#"{"a":"#.repeat(500_000), r#"[{"a":"#.repeat(400_000)] {
        assert!(decode::Body::parse(deep.as_bytes()).is_err());
    }
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    let merged: String = (1..2_000).map(|number| format!("m{number}:\n  <<: *x\n")).collect();
    let wide: String = (0..100).map(|number| format!("  k{number}: {number}\n")).collect();
    for text in [
        bomb,
        format!("m0: &x\n{wide}{merged}"),
        format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), vec!["*a"; 10_000].join(", ")),
        "[".repeat(1_000_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
        format!("[{}0]", "0, ".repeat(900_000)),
    ] {
        assert!(decode::yaml(text.as_bytes(), &mut Ledger::new()).is_err(), "{}", &text[..40]);
    }
}

fn field(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut length = body.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}

/// Messages nested deep around something long, and very many empty ones.
#[test]
#[ignore = "run by its parent under limits"]
fn messages() {
    let props = schema::json_schema_props();
    let items = props.fields.iter().find(|field| field.json == "items").unwrap();
    let description = props.fields.iter().find(|field| field.json == "description").unwrap();
    let tag = |field: &schema::Field| u8::try_from(field.tag).unwrap();
    let mut message = field(tag(description), &vec![b'x'; 1_000_000]);
    for _ in 0..100 {
        // One schema of the two that `items` may be, inside the message of the choice.
        message = if tag(items) < 16 {
            field(tag(items), &field(1, &message))
        } else {
            let mut long = vec![(tag(items) << 3 | 2) | 0x80, tag(items) >> 4];
            long.extend_from_slice(&field(1, &message)[..0]);
            let inner = field(1, &message);
            long.extend_from_slice(&field(0, &inner)[1..]);
            long
        };
    }
    let deep = protobuf::decode(&message, props);
    assert!(
        deep.is_ok() || deep == Err(protobuf::ProtobufError::Depth),
        "{:?}",
        deep.err()
    );
    let pod = schema::kind("", "v1", "Pod").unwrap();
    let finalizers = [0x72, 0x00].repeat(1_400_000);
    let wide = protobuf::decode(&field(1, &finalizers), pod);
    assert!(matches!(wide, Err(protobuf::ProtobufError::Cost(_))), "{:?}", wide.err());
}

/// Long selectors, matched against many objects.
#[test]
#[ignore = "run by its parent under limits"]
fn selectors() {
    // Far longer than a URL may be, so that what does not grow with the text alone is seen to end at the limit.
    for text in [
        "(".repeat(300_000),
        "!".repeat(300_000),
        "a in (".repeat(100_000),
        "=".repeat(600_000),
    ] {
        assert!(LabelSelector::parse(&text).is_err());
    }
    let absent: Vec<String> = (0..10_000).map(|number| format!("!k{number}")).collect();
    let values: Vec<String> = (0..50_000).map(|number| format!("v{number}")).collect();
    let labels = [("a".to_owned(), "v9".to_owned())].into();
    for text in [absent.join(","), format!("a in ({})", values.join(","))] {
        let selector = LabelSelector::parse(&text).unwrap();
        assert!((0..400_000).all(|_| selector.matches(&labels)));
    }
    let terms: Vec<String> = (0..20_000).map(|number| format!("metadata.name!=n{number}")).collect();
    let selector = FieldSelector::parse(&terms.join(",")).unwrap();
    assert!((0..400_000).all(|_| selector.matches(|_| Some("other"))));
}

/// Unknown and repeated fields below a long name.
#[test]
#[ignore = "run by its parent under limits"]
fn told_fields() {
    let unknown = vec![r#""x":1"#; 50_000].join(",");
    let name = "n".repeat(1_000_000);
    let ty = schema::kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let text = format!(
        r#"{{"spec":{{"versions":[{{"name":"v1","schema":{{"openAPIV3Schema":{{"properties":{{"{name}":{{{unknown}}}}}}}}}}}]}}}}"#
    );
    let told = decode::json(text.as_bytes(), ty, FieldValidation::Warn).unwrap().warnings;
    assert!(
        told.iter().map(String::len).sum::<usize>() < 300_000,
        "{} bytes told",
        told.len()
    );
    assert!(decode::json(text.as_bytes(), ty, FieldValidation::Strict).is_err());
    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
        {"name": name, "env": (0..20_000).map(|number| json!({"name": format!("E{number}"), "value": 1})).collect::<Vec<_>>()}]}});
    let by = Applier {
        manager: "m",
        force: false,
        subresource: None,
        now: "2026-01-01T00:00:00Z",
        settled: None,
        custom: None,
    };
    let refused = apply::apply(row("", "pods"), None, config.clone(), by).unwrap_err();
    assert!(refused.message.len() < 3_000_000, "{}", refused.message.len());
}

/// Lists that merge element by element.
#[test]
#[ignore = "run by its parent under limits"]
fn long_lists() {
    let names = |from: usize| -> Vec<Value> { (from..from + 30_000).map(|number| json!(format!("e.com/{number}"))).collect() };
    let live = json!({"metadata": {"finalizers": names(0)}});
    let sent = json!({"metadata": {"finalizers": names(15_000), "$setElementOrder/finalizers": names(15_000)}});
    patch::strategic_merge(row("", "pods"), &Present::of(live), sent.to_string().as_bytes(), true).unwrap();
    let containers = |from: usize| -> Vec<Value> {
        (from..from + 20_000)
            .map(|number| json!({"name": format!("c{number}")}))
            .collect()
    };
    let live = json!({"spec": {"containers": containers(0)}});
    let sent = json!({"spec": {"containers": containers(10_000)}});
    patch::strategic_merge(row("", "pods"), &Present::of(live), sent.to_string().as_bytes(), true).unwrap();
    let config = |from| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": names(from)}});
    let by = Applier {
        manager: "m",
        force: true,
        subresource: None,
        now: "2026-01-01T00:00:00Z",
        settled: None,
        custom: None,
    };
    let first = apply::apply(row("", "pods"), None, config(0), by).unwrap().value;
    apply::apply(row("", "pods"), Some(&Present::of(first)), config(15_000), by).unwrap();
}

/// Owners by the thousand, as a client may send them.
#[test]
#[ignore = "run by its parent under limits"]
fn owners() {
    let entry = |number: usize| {
        json!({"manager": format!("m{number}"), "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {format!("f:k{number}"): {}}}, "time": "2026-01-01T00:00:00Z"})
    };
    let map = |data: Value| json!({"metadata": {"name": "c", "managedFields": (0..10_000).map(entry).collect::<Vec<_>>()}, "data": data});
    let (old, mut new) = (map(json!({"k1": "1"})), map(json!({"k1": "2"})));
    let by = Updater {
        manager: "m",
        subresource: None,
        now: "2026-01-01T00:00:01Z",
        empty: false,
        custom: None,
    };
    apply::update_managers(row("", "configmaps"), Some(&old), &mut new, by);
    assert!(new["metadata"]["managedFields"].as_array().unwrap().len() <= 11);
}

/// Expressions that are deep, wide, or grow with their macros and types.
#[test]
#[ignore = "run by its parent under limits"]
fn expressions() {
    let policy = |members: Value| {
        let spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["pods"]}]}});
        let mut policy = json!({"metadata": {"name": "p"}, "spec": spec});
        for (name, value) in members.as_object().unwrap() {
            policy["spec"][name] = value.clone();
        }
        let policies = row("admissionregistration.k8s.io", "validatingadmissionpolicies");
        assert!(!validation::create(policies, &policy).is_empty());
    };
    let nested = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for text in [
        nested("(", ")", 5_000),
        nested("[", "]", 5_000),
        nested("{1:", "}", 2_500),
        nested("!", "", 10_000),
        nested("-", "", 10_000),
        nested("[1].all(x,", ")", 900),
        nested("[1].map(x,[x].map(y,", "))", 400),
        nested("true?1:", "", 1_400),
        "1+".repeat(5_000),
        "a.".repeat(5_000),
        "(".repeat(1_000_000),
        "\"".repeat(1_000_000),
        format!("'a'.matches('{}')", "[[:".repeat(3_000)),
        format!("'a'.matches('{}')", "\\\\pL".repeat(1_500)),
    ] {
        policy(json!({"validations": [{"expression": text}]}));
    }
    // Each variable's type holds that of the one before it twice.
    let doubling = |number: usize| match number {
        0 => json!({"name": "v0", "expression": "[1]"}),
        _ => {
            json!({"name": format!("v{number}"), "expression": format!("[{{'a': variables.v{0}}}, {{'a': variables.v{0}}}]", number - 1)})
        }
    };
    let many = (0..40_000 / 8).map(doubling).collect::<Value>();
    policy(json!({"variables": many, "validations": [{"expression": "1"}]}));
    let conditions = (0..5_000).map(|number| json!({"name": format!("c{number}"), "expression": nested("[1].all(x,", ")", 90)}));
    policy(json!({"matchConditions": conditions.collect::<Value>(), "validations": [{"expression": "1"}]}));
}

/// How many faults the schema of a custom resource's field has.
fn faults(schema: Value) -> usize {
    let definition = json!({"metadata": {"name": "as.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "as",
        "singular": "a", "kind": "A", "listKind": "AList"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": schema}}}}]}});
    validation::create(row("apiextensions.k8s.io", "customresourcedefinitions"), &definition).len()
}

/// Schemas of custom resources: patterns, and defaults that each element, alternative or name multiplies.
#[test]
#[ignore = "run by its parent under limits"]
fn schemas() {
    for pattern in [
        r"\pL".repeat(900_000),
        r"\p{Greek}".repeat(300_000),
        "[[:".repeat(900_000),
        "[[:a]".repeat(500_000),
        "(".repeat(2_000_000),
        "(?:a{1000}){1000}".to_owned(),
        r"\Q".repeat(1_000_000),
    ] {
        faults(json!({"type": "string", "pattern": pattern}));
    }
    // Small patterns that become large, each of them of its own.
    let large = |number: usize| {
        (
            format!("p{number}"),
            json!({"type": "string", "pattern": format!(r"(\pL\PN){{500}}{number}"), "default": "a"}),
        )
    };
    faults(json!({"type": "object", "properties": (0..9_000).map(large).collect::<serde_json::Map<_, _>>()}));
    let list = |items: Value, default: Value| json!({"type": "array", "items": items, "default": default});
    let texts = |count: usize, letter: &str| (0..count).map(|number| json!(format!("{letter}{number}"))).collect::<Value>();
    for schema in [
        list(json!({"type": "string", "pattern": r"(\pL\PN){500}"}), texts(15_000, "a")),
        list(json!({"type": "string", "enum": texts(15_000, "b")}), texts(15_000, "a")),
        list(
            json!({"type": "object", "required": texts(15_000, "b")}),
            vec![json!({}); 15_000].into(),
        ),
        json!({"type": "object", "properties": {"n".repeat(1_000_000): list(json!({"type": "integer"}), texts(20_000, "a"))}}),
        json!({"type": "object", "default": {"n".repeat(500_000): texts(15_000, "a")},
            "properties": {"n".repeat(500_000): {"type": "array", "items": {"type": "integer"}}}}),
        json!({"type": "string", "default": "x".repeat(1_000_000), "anyOf": vec![json!({"minLength": 2_000_000}); 15_000]}),
        json!({"type": "string", "default": "x".repeat(1_000_000), "anyOf": vec![json!({"pattern": "a.*b.*c"}); 15_000]}),
    ] {
        faults(schema);
    }
}

/// Rules of a schema by the thousand, each short and none an expression: a thousand of them are parsed.
#[test]
#[ignore = "run by its parent under limits"]
fn rules() {
    let rules = |count: usize| {
        (0..count)
            .map(|number| json!({"rule": format!("{number}+")}))
            .collect::<Value>()
    };
    let told = |count| {
        let ruled = faults(json!({"type": "integer", "x-kubernetes-validations": rules(count)}));
        ruled - faults(json!({"type": "integer"}))
    };
    assert_eq!((told(900), told(5_000)), (900, 1_000));
}

/// Changes of what may not change, all over a long specification: the answer shows the difference.
#[test]
#[ignore = "run by its parent under limits"]
fn differences() {
    let pods = row("", "pods");
    let pod = |value: &dyn Fn(usize) -> String| {
        let env: Vec<Value> = (0..10_000)
            .map(|number| json!({"name": format!("E{number}"), "value": value(number)}))
            .collect();
        let spec = json!({"containers": [{"name": "a", "image": "i", "env": env}], "nodeName": "n"});
        json!({"metadata": {"name": "p", "namespace": "n", "resourceVersion": "1"}, "spec": spec})
    };
    let old = pod(&|_| "a".to_owned());
    for new in [
        pod(&|number| {
            if number % 2 == 0 {
                "a".to_owned()
            } else {
                format!("b{number}")
            }
        }),
        pod(&|number| if number % 3 == 0 { "b".to_owned() } else { "a".to_owned() }),
        pod(&|number| format!("v{}", number / 90)),
    ] {
        let errors = validation::update(pods, &new, &old, None);
        assert!(
            errors
                .iter()
                .any(|error| error.to_string().contains("pod updates may not change fields")),
            "{}",
            errors.len()
        );
        let errors = validation::update(pods, &old, &new, None);
        assert!(!errors.is_empty());
    }
}
