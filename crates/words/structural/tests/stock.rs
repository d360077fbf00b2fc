//! Replays what a stock API server of Kubernetes 1.36.2 said: `stock/values.json` holds cases `[old spec, new spec, errors, warnings]` of
//! one schema, `stock/kept.json` what it keeps `[spec as sent, spec as stored, warnings]`, `stock/costs.json` what it estimates that rules cost (a number), or why it refuses them (a text).

use serde_json::{Value, json};
use trireme_cel::Budget;
use trireme_structural::{Definition, Scope, Structural};

fn read(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().filter_map(Value::as_str).collect()
}

#[test]
fn objects_are_judged_as_a_stock_server_does() {
    let facts = read(include_str!("stock/values.json"));
    let schema = json!({"type": "object", "properties": {"spec": facts["spec"]}});
    let schema = Structural::compile(&schema, false).expect("a schema");
    for fact in list(&facts["cases"]) {
        let [old, new, errors, warnings] = list(fact) else {
            panic!("no case: {fact}");
        };
        let object = |spec: &Value| json!({"apiVersion": "x.io/v1", "kind": "Case", "metadata": {"name": "x"}, "spec": spec});
        let old = (!old.is_null()).then(|| object(old));
        let mut sent = object(new);
        schema.prune(&mut sent, None);
        let judged = schema.judge(&sent, old.as_ref(), Vec::new);
        let mut found: Vec<String> = judged.errors.iter().map(ToString::to_string).collect();
        found.sort_unstable();
        assert_eq!(found, texts(errors), "{new}");
        assert_eq!(judged.warnings, texts(warnings), "{new}");
    }
}

#[test]
fn rules_cost_what_a_stock_server_says() {
    let facts = read(include_str!("stock/costs.json"));
    let spec = json!({"type": "object", "properties": facts["properties"], "x-kubernetes-validations": [{"rule": "true"}]});
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let definition = Definition::of(&schema).expect("rules");
    let Some(Scope::Typed(typed)) = definition.scope(&schema["properties"]["spec"]) else {
        panic!("no types");
    };
    let mut wrong = Vec::new();
    for fact in list(&facts["costs"]) {
        let rule = fact[0].as_str().expect("a rule");
        let found = match typed.estimate(rule, false, &mut Budget::default()) {
            Ok(estimated) => Value::from(estimated.cost),
            Err(why) => Value::from(why.to_string().lines().next().unwrap_or_default()),
        };
        if found != fact[1] {
            wrong.push(format!("{rule}: {found}, and not {}", fact[1]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn objects_come_out_as_a_stock_server_keeps_them() {
    let facts = read(include_str!("stock/kept.json"));
    let schema = json!({"type": "object", "properties": {"spec": facts["spec"]}});
    let schema = Structural::compile(&schema, false).expect("a schema");
    for fact in list(&facts["cases"]) {
        let [sent, kept, warnings] = list(fact) else {
            panic!("no case: {fact}");
        };
        let mut object = json!({"apiVersion": "x.io/v1", "kind": "Prune", "metadata": {"name": "x"}, "spec": sent});
        let mut told = Vec::new();
        schema.prune(&mut object, Some(&mut told));
        let coerced = schema.coerce_metadata(&mut object, false, Some(&mut told));
        assert_eq!(coerced, Ok(()), "{sent}");
        schema.default(&mut object);
        assert_eq!(object["spec"], *kept, "{sent}");
        assert_eq!(told, texts(warnings), "{sent}");
    }
}
