//! Small pods that would become large: environments and command lines that name values very often, under a limit of address
//! space and of processor time.
//!
//! Invariant: the pods are looked at in a child process, which ends by itself; what exceeds the limits kills it, not the host.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trireme_limited::Limits;
use trireme_pod::env::{self, EnvError, Sources};
use trireme_pod::spec;

#[test]
fn references_that_multiply_end_within_a_limit_of_address_space() {
    trireme_limited::run("in_a_child", Limits::address_space_mib(256));
}

#[test]
#[ignore = "run by its parent under limits"]
fn in_a_child() {
    let large = "x".repeat(1_000_000);
    let data = BTreeMap::from([("k".to_owned(), large.clone())]);
    let sources = Sources {
        config_maps: BTreeMap::from([("m".to_owned(), Some(data))]),
        secrets: BTreeMap::from([("s".to_owned(), Some(BTreeMap::from([("k".to_owned(), large.into_bytes())])))]),
        ..Sources::default()
    };
    let made = |members: Value| {
        let mut container = json!({"name": "c"});
        for (name, value) in members.as_object().unwrap() {
            container[name] = value.clone();
        }
        let annotations = json!({"a": "x".repeat(200_000)});
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": [container]}}),
        )
        .unwrap();
        env::environment(&pod, &spec::of(&pod).containers[0], &sources)
    };
    // Each is twice the one before it: the last of 60 would have a trillion bytes.
    let doubling = |number: usize| match number {
        0 => json!({"name": "A0", "value": "0123456789"}),
        _ => json!({"name": format!("A{number}"), "value": format!("$(A{0})$(A{0})", number - 1)}),
    };
    let each = |of: &dyn Fn(usize) -> Value| (0..10_000).map(of).collect::<Value>();
    for members in [
        json!({"env": (0..60).map(doubling).collect::<Value>()}),
        json!({"env": (0..60).map(|n| json!({"name": "A", "value": if n == 0 { "0123456789" } else { "$(A)$(A)" }})).collect::<Value>()}),
        json!({"env": each(&|n| json!({"name": format!("A{n}"), "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}))}),
        json!({"env": each(&|n| json!({"name": format!("A{n}"), "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}))}),
        json!({"env": each(&|n| json!({"name": format!("A{n}"), "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a']"}}}))}),
        json!({"envFrom": each(&|n| json!({"prefix": format!("A{n}"), "configMapRef": {"name": "m"}}))}),
        json!({"envFrom": each(&|n| json!({"prefix": format!("A{n}"), "secretRef": {"name": "s"}}))}),
    ] {
        assert_eq!(made(members), Err(EnvError::TooLong));
    }
    let environment = made(json!({"envFrom": [{"configMapRef": {"name": "m"}}]})).unwrap();
    for arguments in [vec!["$(k)".to_owned(); 10_000], vec!["$(k)".repeat(10_000)]] {
        assert_eq!(env::expand_all(&arguments, &environment), Err(EnvError::TooLong));
    }
    assert_eq!(
        env::expand_all(&vec!["$(k)".to_owned(); 8], &environment).map(|texts| texts.len()),
        Ok(8)
    );
}
