//! Replays what Kubernetes 1.36's own cel-go made of expressions: `tests/eval/facts.jsonl` holds `[expression, answer, cost]` a line,
//! in which the answer is the value or `error` and what was said. The variables stand in `tests/eval/data.json`.

use std::fs;
use std::path::Path;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use trireme_cel::eval::{
    Authorizer, Check, Decision, Kind, List, Map, Order, PER_CALL_LIMIT, Program, Question, Shape, Terms, Val,
};
use trireme_cel::{Environment, STACK_BYTES, Type, Wanted};

/// Allows all but two verbs, and says what it was asked.
struct Fake;

impl Authorizer for Fake {
    fn decide(&self, asked: &Question) -> Decision {
        let user = match &asked.service_account {
            Some((namespace, name)) => format!("system:serviceaccount:{namespace}:{name}"),
            None => "alice".into(),
        };
        let Question {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..
        } = asked;
        let path = asked.path.as_deref().unwrap_or_default();
        let of_resource = asked.path.is_none();
        let said = format!("{user}/{verb}/{of_resource}/{path}/{group}/{resource}/{subresource}/{namespace}/{name}");
        Decision {
            allowed: !matches!(&**verb, "deny" | "fail"),
            error: (&**verb == "fail").then(|| format!("failed {said}").into()),
            reason: said.into(),
        }
    }
}

/// The shape that a schema of a definition tells.
fn shape(schema: &Value, root: bool) -> Shape {
    let text = |name: &str| schema[name].as_str().unwrap_or_default();
    let kind = if schema["x-kubernetes-int-or-string"] == json!(true) {
        Kind::IntOrString
    } else {
        match (text("type"), text("format")) {
            ("boolean", _) => Kind::Bool,
            ("integer", _) => Kind::Int,
            ("number", _) => Kind::Double,
            ("string", "date-time") => Kind::DateTime,
            ("string", "date") => Kind::Date,
            ("string", "duration") => Kind::Duration,
            ("string", "byte") => Kind::Bytes,
            ("string", _) => Kind::String,
            ("array", _) => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                let order = match text("x-kubernetes-list-type") {
                    "set" => Order::Set,
                    "map" => Order::Map(
                        keys.into_iter()
                            .flatten()
                            .filter_map(|key| key.as_str().map(Into::into))
                            .collect(),
                    ),
                    _ => Order::Atomic,
                };
                Kind::List(Box::new(shape(&schema["items"], false)), order)
            }
            _ if schema["additionalProperties"].is_object() => Kind::Map(Box::new(shape(&schema["additionalProperties"], false))),
            _ => {
                let given = schema["properties"].as_object().into_iter().flatten();
                let mut all: std::collections::BTreeMap<Box<str>, Shape> =
                    given.map(|(name, of)| (name.as_str().into(), shape(of, false))).collect();
                if root || schema["x-kubernetes-embedded-resource"] == json!(true) {
                    let string = || Shape {
                        kind: Kind::String,
                        nullable: false,
                    };
                    all.insert("apiVersion".into(), string());
                    all.insert("kind".into(), string());
                    let names = [("name".into(), string()), ("generateName".into(), string())];
                    all.insert(
                        "metadata".into(),
                        Shape {
                            kind: Kind::Object(names.into()),
                            nullable: false,
                        },
                    );
                }
                Kind::Object(all)
            }
        }
    };
    Shape {
        kind,
        nullable: schema["nullable"] == json!(true),
    }
}

fn list(of: Type) -> Type {
    Type::list(of)
}

fn environment(shape: &Shape) -> Environment {
    let mut environment = Environment::empty();
    environment.declare_shaped(&["self", "oldSelf"], "selfType", shape);
    let variables = [
        ("object", Type::Dyn),
        ("nothing", Type::Dyn),
        ("i", Type::Int),
        ("j", Type::Int),
        ("u", Type::Uint),
        ("d", Type::Double),
        ("s", Type::String),
        ("b", Type::Bool),
        ("y", Type::Bytes),
        ("li", list(Type::Int)),
        ("ls", list(Type::String)),
        ("m", Type::map(Type::String, Type::Int)),
        ("t", Type::Timestamp),
        ("du", Type::Duration),
        ("authorizer", Type::Struct("kubernetes.authorization.Authorizer".into())),
    ];
    for (name, of) in variables {
        environment.declare(name, of);
    }
    environment.allow_patches();
    environment
}

struct Data {
    all: Value,
    natives: Value,
    shape: Shape,
}

impl Data {
    fn read() -> Self {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eval/data.json")).expect("data");
        let all: Value = serde_json::from_str(&text).expect("data");
        let shape = shape(&all["schema"], true);
        let natives = json!({"li": [3, 1, 2], "ls": ["b", "a", "c"], "m": {"a": 1, "b": 2}});
        Self { all, natives, shape }
    }

    fn inputs(&self) -> Vec<(&'static str, Val<'_>)> {
        let shaped = |name: &str| Val::shaped(&self.all[name], &self.shape).expect("of its shape");
        vec![
            ("self", shaped("self")),
            ("oldSelf", shaped("oldSelf")),
            ("object", Val::native(&self.all["object"])),
            ("nothing", Val::Null),
            ("i", Val::Int(5)),
            ("j", Val::Int(-3)),
            ("u", Val::Uint(7)),
            ("d", Val::Double(2.5)),
            ("s", Val::text("héllo wörld")),
            ("b", Val::Bool(true)),
            ("y", Val::Bytes((*b"a\xffz").into())),
            ("li", Val::native(&self.natives["li"])),
            ("ls", Val::native(&self.natives["ls"])),
            ("m", Val::native(&self.natives["m"])),
            ("t", Val::Timestamp(1_709_251_198, 123_456_789)),
            ("du", Val::Duration(5_400_500_000_000)),
            ("authorizer", Check::authorizer()),
        ]
    }
}

fn show(value: &Val<'_>) -> String {
    match value {
        Val::Uint(number) => format!("{number}u"),
        Val::Double(number) if number.is_nan() => "dnan".into(),
        Val::Double(number) => format!("d{:016x}", number.to_bits()),
        Val::String(text) => serde_json::to_string(text.as_str()).expect("text"),
        Val::Bytes(bytes) => format!("b{}", STANDARD.encode(bytes)),
        Val::Duration(nanos) => format!("{nanos}ns"),
        Val::Timestamp(seconds, nanos) => format!("@{seconds}.{nanos:09}"),
        Val::Optional(Some(inner)) => format!("some({})", show(inner)),
        Val::Optional(None) => "none".into(),
        Val::Quantity(_) => format!("quantity {}", value.show()),
        Val::Ip(_) => format!("ip {}", value.show()),
        Val::Cidr(_) => format!("cidr {}", value.show()),
        Val::Url(_) => format!("url {}", value.show()),
        Val::Semver(_) => format!("semver {}", value.show()),
        Val::Format(named) => format!("format {}", named.name),
        Val::Type(name) => format!("type {name}"),
        Val::Check(_) => format!("other {}", value.show()),
        Val::List(list) => {
            let items: Vec<String> = items(list).iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        Val::Map(map) => {
            let mut parts: Vec<String> = entries(map)
                .iter()
                .map(|(key, value)| format!("{}: {}", show(key), value))
                .collect();
            parts.sort();
            format!("{{{}}}", parts.join(", "))
        }
        other => other.show(),
    }
}

fn items<'a>(list: &List<'a>) -> Vec<Val<'a>> {
    list.values().expect("of their shape")
}

fn entries<'a>(map: &Map<'a>) -> Vec<(Val<'a>, String)> {
    let found = |key: &Val<'a>| match map.find(key) {
        Ok(Some(value)) => show(&value),
        Ok(None) => format!("error no such key: {}", key.show()),
        Err(why) => format!("error {why}"),
    };
    map.keys().into_iter().map(|key| (key.clone(), found(&key))).collect()
}

fn on_a_large_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(run);
    started.expect("a thread").join().expect("no panic")
}

fn terms() -> Terms<'static> {
    Terms {
        limit: PER_CALL_LIMIT,
        authorizer: Some(&Fake),
    }
}

fn differences() -> Vec<String> {
    let data = Data::read();
    let environment = environment(&data.shape);
    let inputs = data.inputs();
    let path = std::env::var("EVAL_FACTS").unwrap_or_else(|_| format!("{}/tests/eval/facts.jsonl", env!("CARGO_MANIFEST_DIR")));
    let facts = fs::read_to_string(path).expect("facts");
    let mut differ = Vec::new();
    for line in facts.lines() {
        let (text, wanted, cost): (String, String, Option<u64>) = serde_json::from_str(line).expect("a fact");
        let program: Program = match environment.program(&text, &Wanted::Anything) {
            Ok(program) => program,
            Err(why) => {
                differ.push(format!("{text}\n  wanted: {wanted}\n  found:  refused: {why}"));
                continue;
            }
        };
        let outcome = program.run(&inputs, terms());
        let found = match &outcome.result {
            Ok(value) => show(value),
            Err(why) => format!("error {why}"),
        };
        let same = found == wanted || found == "dnan" && (wanted.starts_with("d7ff8") || wanted.starts_with("dfff8"));
        if !same || cost.is_some_and(|cost| cost != outcome.cost) {
            differ.push(format!(
                "{text}\n  wanted: {wanted} {cost:?}\n  found:  {found} {}",
                outcome.cost
            ));
        }
    }
    differ
}

#[test]
fn values_errors_and_costs_are_those_of_upstream() {
    let differ = on_a_large_stack(differences);
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

/// Pieces of which expressions are put together at random.
const PIECES: &[&str] = &[
    "self",
    ".spec",
    ".a",
    "object",
    "li",
    "m",
    "s",
    "i",
    "1",
    "0",
    "'a'",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    "?",
    " + ",
    " - ",
    " / ",
    " == ",
    " < ",
    " && ",
    " || ",
    "!",
    " in ",
    ".size()",
    ".map(x, ",
    ".all(x, ",
    "x",
    ".filter(y, ",
    "y",
    ".sort()",
    "optional.of(",
    ".orValue(",
    "dyn(",
    "string(",
    "has(",
    "lists.range(",
    ".format(",
    ".replace(",
    ".join()",
    "quantity(",
    ".sum()",
    "null",
    "[?",
    ".?",
    "-",
    "9223372036854775807",
    "'%s'",
    ".flatten()",
    ".matches(",
    "duration('1h')",
    "t",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_compiles_runs_within_its_limit(picked in proptest::collection::vec(0..PIECES.len(), 1..14)) {
        let text: String = picked.iter().map(|index| PIECES[*index]).collect();
        let cost = on_a_large_stack(move || {
            let data = Data::read();
            let program = environment(&data.shape).program(&text, &Wanted::Anything).ok()?;
            let terms = Terms { limit: 1_000, authorizer: None };
            Some(program.run(&data.inputs(), terms).cost)
        });
        // What ends a run may go above the limit by its own price alone.
        proptest::prop_assert!(cost.is_none_or(|cost| cost < 1_000_000));
    }
}

#[test]
fn a_loop_within_loops_ends_at_the_limit() {
    let outcome = on_a_large_stack(|| {
        let data = Data::read();
        let text = "lists.range(100).all(a, lists.range(100).all(b, lists.range(100).all(c, a + b + c >= 0)))";
        let program = environment(&data.shape).program(text, &Wanted::Anything).expect("right");
        let outcome = program.run(&data.inputs(), terms());
        (
            outcome.result.map(|value| show(&value)).map_err(|why| why.to_string()),
            outcome.cost,
        )
    });
    assert_eq!(outcome.0, Err("operation cancelled: actual cost limit exceeded".into()));
    assert!(outcome.1 < PER_CALL_LIMIT + 1_000);
}
