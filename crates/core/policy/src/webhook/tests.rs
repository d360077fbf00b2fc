//! Tables of rules, selectors, reviews and answers.

use serde_json::{Value, json};

use super::hook::Place;
use super::review::{Objects, User};
use super::*;

fn hook_of(phase: Phase, members: Value) -> std::sync::Arc<Hook> {
    let mut hook = json!({
        "name": "h.example.com", "admissionReviewVersions": ["v1"], "namespaceSelector": {}, "objectSelector": {},
        "clientConfig": {"url": "https://h"}, "sideEffects": "None", "failurePolicy": "Fail", "matchPolicy": "Equivalent",
    });
    for (name, member) in members.as_object().into_iter().flatten() {
        hook[name] = member.clone();
    }
    Hook::all(phase, &json!({"metadata": {"name": "c"}, "webhooks": [hook]})).remove(0)
}

fn attributes<'a>(operation: &'a str, resource: &'a str, subresource: &'a str, namespace: &'a str) -> Attributes<'a> {
    let parts: Vec<&str> = resource.split('/').collect();
    let [group, version, plural] = parts[..] else {
        panic!("group/version/plural")
    };
    Attributes {
        operation,
        resource: Resource { group, version, plural },
        subresource,
        namespace,
    }
}

fn rule(operations: &[&str], groups: &[&str], versions: &[&str], resources: &[&str], scope: &str) -> Value {
    json!({"operations": operations, "apiGroups": groups, "apiVersions": versions, "resources": resources, "scope": scope})
}

#[test]
fn rules_mean_what_upstreams_mean() {
    let pods = attributes("CREATE", "/v1/pods", "", "ns");
    let status = attributes("UPDATE", "/v1/pods", "status", "ns");
    let deployments = attributes("UPDATE", "apps/v1/deployments", "", "ns");
    let namespaces = attributes("CREATE", "/v1/namespaces", "", "ns");
    let nodes = attributes("CREATE", "/v1/nodes", "", "");
    for (rule, given, expected) in [
        (rule(&["CREATE"], &[""], &["v1"], &["pods"], "*"), pods, true),
        (rule(&["*"], &["*"], &["*"], &["*"], "*"), pods, true),
        (rule(&["*"], &["*"], &["*"], &["*/*"], "*"), pods, true),
        (rule(&["*"], &["*"], &["*"], &["*"], "*"), status, false),
        (rule(&["*"], &["*"], &["*"], &["*/*"], "*"), status, true),
        (rule(&["*"], &["*"], &["*"], &["pods/*"], "*"), status, true),
        (rule(&["*"], &["*"], &["*"], &["pods/*"], "*"), pods, true),
        (rule(&["*"], &["*"], &["*"], &["*/status"], "*"), status, true),
        (rule(&["*"], &["*"], &["*"], &["*/status"], "*"), pods, false),
        (rule(&["*"], &["*"], &["*"], &["pods/exec"], "*"), status, false),
        (rule(&["UPDATE"], &[""], &["v1"], &["pods"], "*"), pods, false),
        (rule(&["CREATE"], &["apps"], &["v1"], &["pods"], "*"), pods, false),
        (rule(&["CREATE"], &[""], &["v2"], &["pods"], "*"), pods, false),
        (
            rule(&["UPDATE"], &["apps"], &["v1"], &["deployments"], "Namespaced"),
            deployments,
            true,
        ),
        (
            rule(&["UPDATE"], &["apps"], &["v1"], &["deployments"], "Cluster"),
            deployments,
            false,
        ),
        (rule(&["*"], &["*"], &["*"], &["*"], "Cluster"), namespaces, true),
        (rule(&["*"], &["*"], &["*"], &["*"], "Namespaced"), namespaces, false),
        (rule(&["*"], &["*"], &["*"], &["*"], "Cluster"), nodes, true),
        (rule(&["*"], &["*"], &["*"], &["*"], "Namespaced"), nodes, false),
    ] {
        let hook = hook_of(Phase::Validating, json!({"rules": [rule]}));
        let found = hook.concerned_by(&given, &Vec::new);
        assert_eq!(found, expected.then_some(given.resource), "{rule} {given:?}");
    }
}

#[test]
fn the_same_objects_in_other_versions_are_meant_unless_the_match_is_exact() {
    let asked = attributes("UPDATE", "autoscaling/v2/horizontalpodautoscalers", "", "ns");
    let first = attributes("", "autoscaling/v1/horizontalpodautoscalers", "", "").resource;
    let equivalents = || vec![first, asked.resource];
    let rules = json!([rule(
        &["UPDATE"],
        &["autoscaling"],
        &["v1"],
        &["horizontalpodautoscalers"],
        "*"
    )]);
    let hook = |policy: &str| hook_of(Phase::Mutating, json!({"rules": rules, "matchPolicy": policy}));
    assert_eq!(hook("Equivalent").concerned_by(&asked, &equivalents), Some(first));
    assert_eq!(hook("Exact").concerned_by(&asked, &equivalents), None);
    let created = Attributes {
        operation: "CREATE",
        ..asked
    };
    assert_eq!(hook("Equivalent").concerned_by(&created, &equivalents), None);
}

#[test]
fn selectors_look_at_the_namespace_and_at_the_new_or_old_object() {
    let labelled = |value: &str| json!({"metadata": {"labels": {"a": value}}});
    let (good, bad) = (labelled("b"), labelled("c"));
    let selector = json!({"matchLabels": {"a": "b"}});
    let labels_of = |name: &str| match name {
        "good" => Some(json!({"a": "b"})),
        "bad" => Some(json!({})),
        _ => None,
    };
    let check = |member: &str, attributes: Attributes<'_>, object: Option<&Value>, old: Option<&Value>| {
        let hook = hook_of(Phase::Validating, json!({member: selector}));
        let selected = Selected { object, old };
        hook.selects(&attributes, selected, &labels_of)
            .map_err(|status| status.message)
    };
    let pod = |namespace| attributes("UPDATE", "/v1/pods", "", namespace);
    for (object, old, expected) in [
        (Some(&good), None, true),
        (Some(&bad), Some(&good), true),
        (Some(&bad), Some(&bad), false),
        (None, Some(&good), true),
        (None, None, false),
    ] {
        assert_eq!(check("objectSelector", pod("bad"), object, old), Ok(expected));
    }
    assert_eq!(check("namespaceSelector", pod("good"), Some(&bad), None), Ok(true));
    assert_eq!(check("namespaceSelector", pod("bad"), Some(&good), None), Ok(false));
    assert_eq!(
        check("namespaceSelector", pod("gone"), Some(&good), None),
        Err("namespaces \"gone\" not found".to_owned())
    );
    // What is in no namespace is never exempt; a namespace is judged as it will be, and as it is when it goes.
    assert_eq!(
        check("namespaceSelector", attributes("CREATE", "/v1/nodes", "", ""), None, None),
        Ok(true)
    );
    let namespace = |operation| attributes(operation, "/v1/namespaces", "", "bad");
    assert_eq!(
        check("namespaceSelector", namespace("UPDATE"), Some(&good), Some(&bad)),
        Ok(true)
    );
    assert_eq!(check("namespaceSelector", namespace("DELETE"), None, Some(&good)), Ok(false));
}

#[test]
fn configurations_are_read_in_their_order_with_upstreams_defaults() {
    let configuration = |name: &str| {
        json!({"metadata": {"name": name}, "webhooks": [
            {"name": "a", "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/p"}}},
            {"name": "a", "clientConfig": {"url": "https://u", "caBundle": "QQ=="}, "timeoutSeconds": 3,
             "admissionReviewVersions": ["v9", "v1beta1", "v1"], "failurePolicy": "Ignore",
             "sideEffects": "NoneOnDryRun", "reinvocationPolicy": "IfNeeded"},
        ]})
    };
    let all = ["z", "b"].map(|name| (name.to_owned(), Hook::all(Phase::Mutating, &configuration(name))));
    let hooks = Hooks::new(all.to_vec(), Vec::new());
    let ids: Vec<&str> = hooks.of(Phase::Mutating).iter().map(|hook| hook.id.as_str()).collect();
    assert_eq!(ids, ["b/a/0", "b/a/1", "z/a/0", "z/a/1"]);
    let [first, second, ..] = hooks.of(Phase::Mutating) else {
        panic!("four hooks")
    };
    assert_eq!(
        first.endpoint.place,
        Place::Service {
            namespace: "n".into(),
            name: "s".into(),
            port: 443,
            path: "/p".into()
        }
    );
    assert_eq!((first.timeout_seconds, first.reviews, first.dry_runs), (10, None, false));
    assert_eq!(second.endpoint.ca_bundle, b"A");
    assert_eq!((second.timeout_seconds, second.reviews), (3, Some(ReviewVersion::V1beta1)));
    assert!(second.reinvoked && second.dry_runs && second.ignores_failures && !first.ignores_failures);
}

#[test]
fn a_review_has_upstreams_members() {
    let kind = Kind {
        group: "apps",
        version: "v1",
        kind: "Deployment",
    };
    let resource = attributes("", "apps/v1/deployments", "", "").resource;
    let extra = std::collections::BTreeMap::from([("k".to_owned(), vec!["v".to_owned()])]);
    let (groups, object, options) = (
        ["g".to_owned()],
        json!({"kind": "Deployment"}),
        json!({"kind": "UpdateOptions"}),
    );
    let review = Review {
        operation: "UPDATE",
        request_kind: kind,
        request_resource: resource,
        subresource: "status",
        name: "n",
        namespace: "ns",
        user: User {
            username: "u",
            uid: "",
            groups: &groups,
            extra: &extra,
        },
        dry_run: false,
        options: &options,
    };
    let objects = Objects {
        kind,
        resource,
        object: &object,
        old: &Value::Null,
    };
    let body: Value = serde_json::from_slice(&review.body(ReviewVersion::V1, "id", &objects)).unwrap();
    let (kind, resource) = (
        json!({"group": "apps", "version": "v1", "kind": "Deployment"}),
        json!({"group": "apps", "version": "v1", "resource": "deployments"}),
    );
    let expected = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "id", "kind": kind, "resource": resource, "subResource": "status", "requestKind": kind,
            "requestResource": resource, "requestSubResource": "status", "name": "n", "namespace": "ns", "operation": "UPDATE",
            "userInfo": {"username": "u", "groups": ["g"], "extra": {"k": ["v"]}},
            "object": {"kind": "Deployment"}, "oldObject": null, "dryRun": false, "options": {"kind": "UpdateOptions"},
        },
    });
    assert_eq!(body, expected);
}

#[test]
fn answers_are_judged_in_upstreams_words() {
    let failure = |phase: Phase, body: &str| {
        let hook = hook_of(phase, json!({}));
        let failure = judge(&hook, phase, "id", body.as_bytes()).unwrap_err();
        let status = failure.into_status();
        assert_eq!((status.code, status.reason.as_str()), (500, "InternalError"));
        let prefix = "Internal error occurred: failed calling webhook \"h.example.com\": ";
        status.message.strip_prefix(prefix).expect("upstream's prefix").to_owned()
    };
    let review =
        |response: &str| format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{response}}}"#);
    let invalid = |what: &str| format!("received invalid webhook response: {what}");
    let (mutating, validating) = (Phase::Mutating, Phase::Validating);
    for (phase, body, expected) in [
        (
            mutating,
            "nonsense".to_owned(),
            "failed to call webhook: couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting \
             'u')"
                .to_owned(),
        ),
        (mutating, "{}".to_owned(), invalid("webhook response was absent")),
        (
            validating,
            r#"{"kind":"Pod","apiVersion":"v1"}"#.to_owned(),
            "failed to call webhook: no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:110\"".to_owned(),
        ),
        (
            validating,
            r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","response":{"allowed":true}}"#.to_owned(),
            "failed to call webhook: converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion".to_owned(),
        ),
        (
            validating,
            review(r#"{"uid":"other","allowed":true}"#),
            invalid("expected response.uid=\"id\", got \"other\""),
        ),
        (
            validating,
            r#"{"response":{"uid":"id","allowed":true}}"#.to_owned(),
            invalid("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="),
        ),
        (
            validating,
            review(r#"{"uid":"id","allowed":true,"patch":"W10=","patchType":"JSONPatch"}"#),
            invalid("validating webhook may not return response.patch"),
        ),
        (
            validating,
            review(r#"{"uid":"id","allowed":true,"patchType":"JSONPatch"}"#),
            invalid("validating webhook may not return response.patchType"),
        ),
        (
            mutating,
            review(r#"{"uid":"id","allowed":true,"patch":"W10="}"#),
            invalid("webhook returned response.patch but not response.patchType"),
        ),
        (
            mutating,
            review(r#"{"uid":"id","allowed":true,"patchType":"JSONPatch"}"#),
            invalid("webhook returned response.patchType but not response.patch"),
        ),
        (
            mutating,
            review(r#"{"uid":"id","allowed":true,"patch":"W10=","patchType":""}"#),
            invalid("webhook returned invalid response.patchType of \"\""),
        ),
        (
            mutating,
            review(r#"{"uid":"id","allowed":true,"patch":"W10=","patchType":"Merge"}"#),
            "unsupported patch type \"Merge\"".to_owned(),
        ),
    ] {
        assert_eq!(failure(phase, &body), expected, "{body}");
    }
}

#[test]
fn what_an_answer_says_is_followed() {
    let judged = |members: Value| {
        let mut response = json!({"uid": "id"});
        for (name, member) in members.as_object().into_iter().flatten() {
            response[name] = member.clone();
        }
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let hook = hook_of(Phase::Mutating, json!({}));
        judge(&hook, Phase::Mutating, "id", review.to_string().as_bytes()).unwrap()
    };
    let patched = judged(json!({"allowed": true, "patch": "W10=", "patchType": "JSONPatch", "warnings": ["w"]}));
    assert_eq!(
        (patched.denied, patched.patch, patched.warnings),
        (None, b"[]".to_vec(), vec!["w".to_owned()])
    );
    let denied = |status: Value| {
        let status = judged(json!({"allowed": false, "status": status})).denied.expect("a refusal");
        (status.code, status.reason, status.status, status.message)
    };
    let by = "admission webhook \"h.example.com\" denied the request";
    for (status, code, reason, message) in [
        (Value::Null, 400, "", format!("{by} without explanation")),
        (
            json!({"message": "no", "reason": null, "details": null}),
            400,
            "",
            format!("{by}: no"),
        ),
        (json!({"reason": "Because"}), 400, "Because", format!("{by}: Because")),
        (
            json!({"code": 403, "reason": "Forbidden", "message": "no", "status": "Success"}),
            403,
            "Forbidden",
            format!("{by}: no"),
        ),
        (json!({"code": 200, "message": "no"}), 400, "", format!("{by}: no")),
    ] {
        let expected = (code, reason.to_owned(), "Failure".to_owned(), message);
        assert_eq!(denied(status), expected);
    }
}

#[test]
fn the_configuration_of_admission_is_exempt() {
    assert!(is_exempt("admissionregistration.k8s.io", "MutatingWebhookConfiguration"));
    assert!(!is_exempt("example.com", "MutatingWebhookConfiguration"));
    assert!(!is_exempt("", "Pod"));
}

/// Allows `get` alone, and says what it was asked.
struct OnlyGet(std::cell::RefCell<Vec<String>>);

impl trireme_cel::eval::Authorizer for OnlyGet {
    fn decide(&self, question: &trireme_cel::eval::Question) -> trireme_cel::eval::Decision {
        self.0
            .borrow_mut()
            .push(format!("{} {} {}", question.verb, question.resource, question.name));
        trireme_cel::eval::Decision {
            allowed: &*question.verb == "get",
            ..trireme_cel::eval::Decision::default()
        }
    }
}

#[test]
fn conditions_keep_a_webhook_out_and_what_is_wrong_with_them_is_told() {
    let (object, old) = (json!({"metadata": {"name": "n", "labels": {"a": "b"}}}), Value::Null);
    let request = json!({"operation": "CREATE", "userInfo": {"username": "u"}, "dryRun": false});
    let resource = trireme_cel::eval::Question {
        resource: "pods".into(),
        name: "n".into(),
        ..trireme_cel::eval::Question::default()
    };
    let authorizer = OnlyGet(std::cell::RefCell::default());
    let wanted = |expressions: &[&str], policy: &str| {
        let conditions: Vec<Value> = expressions
            .iter()
            .enumerate()
            .map(|(index, text)| json!({"name": format!("c{index}"), "expression": text}))
            .collect();
        let hook = hook_of(
            Phase::Mutating,
            json!({"matchConditions": conditions, "failurePolicy": policy}),
        );
        hook.is_wanted(&Conditioned {
            object: &object,
            old: &old,
            request: &request,
            resource: &resource,
            authorizer: &authorizer,
        })
    };
    let costly = "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, \
                  [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, a+b+c+d+e > 0)))))";
    let missing = "expression 'object.spec.x == 1' resulted in error: no such key: spec";
    for (expressions, expected) in [
        (vec![], Ok(true)),
        (vec!["object.metadata.labels.a == 'b'", "oldObject == null"], Ok(true)),
        (vec!["true", "request.operation == 'UPDATE'"], Ok(false)),
        (vec!["object.spec.x == 1"], Err(missing.to_owned())),
        (vec!["object.spec.x == 1", "false"], Ok(false)),
        (
            vec!["object.spec.x == 1", "object.metadata.y == 1"],
            Err(format!(
                "[{missing}, expression 'object.metadata.y == 1' resulted in error: no such key: y]"
            )),
        ),
        (vec!["authorizer.requestResource.check('get').allowed()"], Ok(true)),
        (
            vec!["authorizer.group('').resource('pods').check('list').allowed()"],
            Ok(false),
        ),
        (
            vec![costly],
            Err(format!(
                "expression '{costly}' resulted in error: operation cancelled: actual cost limit exceeded"
            )),
        ),
        (vec![costly; 3], Err(conditions::OUT_OF_BUDGET.to_owned())),
    ] {
        assert_eq!(wanted(&expressions, "Fail"), expected, "{expressions:?}");
        let ignored = expected.or(Ok::<bool, String>(false));
        assert_eq!(wanted(&expressions, "Ignore"), ignored, "{expressions:?}");
    }
    assert_eq!(
        *authorizer.0.borrow(),
        ["get pods n", "get pods n", "list pods ", "list pods "]
    );
}
