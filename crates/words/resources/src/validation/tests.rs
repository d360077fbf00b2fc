//! One table of objects and what is told of them, kind by kind.

use serde_json::{Value, json};
use trireme_api::decode::{self, FieldValidation};

use crate::rows::{Resource, find};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

fn row(group: &str, plural: &str) -> &'static Resource {
    let version = if group == "autoscaling" { "v2" } else { "v1" };
    find(group, version, plural).expect("a row of that name")
}

/// Decoded, with defaults and the metadata that a server adds.
fn whole(row: &Resource, body: &Value) -> Value {
    let mut body = body.clone();
    let meta = body.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
    let meta = meta.as_object_mut().unwrap();
    meta.entry("name").or_insert_with(|| json!("x"));
    if row.namespaced {
        meta.insert("namespace".into(), json!("default"));
    }
    meta.insert("resourceVersion".into(), json!("1"));
    let mut value = decode::value(body, row.schema(), FieldValidation::Strict)
        .expect("a body that decodes")
        .value;
    crate::defaults::apply(row, &mut value);
    value
}

fn told(errors: &[trireme_api::field::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn check(group: &str, plural: &str, cases: &[(Value, &[&str])]) {
    let row = row(group, plural);
    for (body, wanted) in cases {
        assert_eq!(told(&super::create(row, &whole(row, body))), *wanted, "{plural} {body}");
    }
}

fn check_update(group: &str, plural: &str, old: &Value, cases: &[(Value, &[&str])]) {
    let row = row(group, plural);
    for (body, wanted) in cases {
        let new = whole(row, body);
        let mut old = whole(row, old);
        decode::canonicalize(&mut old, row.schema());
        decode::align_empty(&mut old, &new, row.schema());
        let found = super::update(row, &new, &old, None);
        assert_eq!(told(&found), *wanted, "{plural} {body}");
    }
}

fn pod(spec: Value) -> Value {
    let mut body = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
    body["spec"]
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    body
}

fn container(fields: Value) -> Value {
    let mut one = json!({"name": "a", "image": "i"});
    one.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    pod(json!({"containers": [one]}))
}

#[test]
fn metadata_of_any_kind() {
    let upper = format!("metadata.name: Invalid value: \"Up\": {SUBDOMAIN}");
    check(
        "",
        "configmaps",
        &[
            (json!({}), &[]),
            (json!({"metadata": {"name": "Up"}}), &[&upper]),
            (
                json!({"metadata": {"name": ""}}),
                &["metadata.name: Required value: name or generateName is required"],
            ),
            (
                json!({"metadata": {"finalizers": ["plain"]}}),
                &[
                    "metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified",
                ],
            ),
            (
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "", "name": "n", "uid": "u"}]}}),
                &["metadata.ownerReferences.kind: Invalid value: \"\": must not be empty"],
            ),
            (
                json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}}),
                &["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
        ],
    );
    check(
        "rbac.authorization.k8s.io",
        "roles",
        &[(
            json!({"metadata": {"name": "a%b"}, "rules": []}),
            &["metadata.name: Invalid value: \"a%b\": may not contain '%'"],
        )],
    );
}

#[test]
fn pods_and_their_containers() {
    let name = format!("spec.containers[0].name: Invalid value: \"A_b\": {LABEL}");
    check(
        "",
        "pods",
        &[
            (pod(json!({})), &[]),
            (json!({"spec": {}}), &["spec.containers: Required value"]),
            (pod(json!({"containers": [{"name": "A_b", "image": "i"}]})), &[&name]),
            (
                pod(json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]})),
                &["spec.containers[1].name: Duplicate value: \"a\""],
            ),
            (
                pod(json!({"restartPolicy": "Sometimes"})),
                &["spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\""],
            ),
            (
                pod(json!({"dnsPolicy": "None"})),
                &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
            ),
            (
                container(json!({"ports": [{"containerPort": 70000}]})),
                &["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
            ),
            (
                container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
                &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
                &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
            ),
            (
                container(json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}})),
                &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
            ),
            (
                container(json!({"securityContext": {"runAsUser": -1}})),
                &["spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
            ),
            (
                pod(json!({"volumes": [{"name": "v", "hostPath": {"path": ""}}]})),
                &["spec.volumes[0].hostPath.path: Required value"],
            ),
            (
                pod(json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]})),
                &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                pod(json!({"tolerations": [{"operator": "Equal"}]})),
                &[
                    "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                ],
            ),
            (
                pod(json!({"initContainers": [{"name": "b", "image": "i", "lifecycle": {}}]})),
                &["spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always"],
            ),
        ],
    );
}

#[test]
fn a_pod_shows_what_may_not_change() {
    let row = row("", "pods");
    let (old, new) = (whole(row, &pod(json!({}))), whole(row, &pod(json!({"nodeName": "n1"}))));
    let found = told(&super::update(row, &new, &old, None));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"));
    let lines: Vec<&str> = found[0].lines().collect();
    assert_eq!(lines[1], "@@ -42,7 +42,7 @@");
    assert_eq!(lines[5..7], ["- \"NodeName\": \"\",", "+ \"NodeName\": \"n1\","]);
    let image = whole(row, &container(json!({"image": "other", "imagePullPolicy": "Always"})));
    let before = whole(row, &container(json!({"imagePullPolicy": "Always"})));
    assert_eq!(told(&super::update(row, &image, &before, None)), Vec::<String>::new());
}

#[test]
fn services_and_their_addresses() {
    let ports = json!([{"port": 80}]);
    check(
        "",
        "services",
        &[
            (json!({"spec": {"ports": ports}}), &[]),
            (json!({"spec": {}}), &["spec.ports: Required value"]),
            (
                json!({"spec": {"ports": ports, "type": "Mesh"}}),
                &[
                    "spec.type: Unsupported value: \"Mesh\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (
                json!({"spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}}),
                &[
                    "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":1,\"TargetPort\":0,\"NodePort\":0}",
                ],
            ),
            (
                json!({"spec": {"ports": ports, "externalIPs": ["127.0.0.1"]}}),
                &["spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"],
            ),
        ],
    );
    let with = |address: &str| json!({"spec": {"ports": ports, "clusterIP": address, "clusterIPs": [address]}});
    check_update(
        "",
        "services",
        &with("10.96.0.1"),
        &[
            (with("10.96.0.1"), &[]),
            (
                with("10.96.0.2"),
                &["spec.clusterIPs[0]: Invalid value: [\"10.96.0.2\"]: may not change once set"],
            ),
        ],
    );
}

#[test]
fn workloads_match_their_templates() {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
    let with = |extra: Value| {
        let mut body = json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
        body["spec"]
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body
    };
    let cases: &[(Value, &[&str])] = &[
        (with(json!({})), &[]),
        (
            with(json!({"selector": {"matchLabels": {"app": "b"}}})),
            &["spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`"],
        ),
        (
            with(json!({"minReadySeconds": -1})),
            &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
    ];
    for plural in ["deployments", "replicasets", "statefulsets", "daemonsets"] {
        check("apps", plural, cases);
    }
    check(
        "apps",
        "deployments",
        &[(
            with(json!({"strategy": {"type": "Blue"}})),
            &[
                "spec.strategy: Unsupported value: {\"Type\":\"Blue\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
            ],
        )],
    );
    check_update(
        "apps",
        "deployments",
        &with(json!({})),
        &[(
            json!({"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}, "spec": template["spec"]}}}),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"],
        )],
    );
}

#[test]
fn small_kinds() {
    check(
        "",
        "secrets",
        &[
            (
                json!({"type": "kubernetes.io/ssh-auth"}),
                &["data[ssh-privatekey]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
        ],
    );
    check(
        "",
        "limitranges",
        &[(
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
            &[
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
                "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
            ],
        )],
    );
    check(
        "",
        "resourcequotas",
        &[(
            json!({"spec": {"hard": {"pods": "1500m"}}}),
            &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
        )],
    );
    check(
        "scheduling.k8s.io",
        "priorityclasses",
        &[(
            json!({"value": 2_000_000_000}),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        )],
    );
    check(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        &[(
            json!({"roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}),
            &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
        )],
    );
    check(
        "policy",
        "poddisruptionbudgets",
        &[(
            json!({"spec": {"minAvailable": "101%"}}),
            &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
        )],
    );
    check(
        "networking.k8s.io",
        "networkpolicies",
        &[(
            json!({"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}}),
            &[
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ],
        )],
    );
    check(
        "autoscaling",
        "horizontalpodautoscalers",
        &[(
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 0}}),
            &[
                "spec.maxReplicas: Required value: must be set and greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
            ],
        )],
    );
    check_update(
        "storage.k8s.io",
        "storageclasses",
        &json!({"provisioner": "a.example"}),
        &[(
            json!({"provisioner": "b.example"}),
            &["provisioner: Invalid value: \"b.example\": field is immutable"],
        )],
    );
}

#[test]
fn schedules_of_cron_jobs() {
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}}}});
    let with = |schedule: &str| json!({"spec": {"schedule": schedule, "jobTemplate": job}});
    check(
        "batch",
        "cronjobs",
        &[
            (with("*/5 1-4 * jan mon"), &[]),
            (with("@daily"), &[]),
            (
                with("x"),
                &["spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]"],
            ),
            (
                with("61 * * * *"),
                &["spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61"],
            ),
            (
                with("TZ=UTC 0 * * * *"),
                &[
                    "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                ],
            ),
        ],
    );
}

#[test]
fn expressions_of_admission() {
    let hook = |expression: &str| {
        json!({"webhooks": [{
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://x.y/z"},
            "matchConditions": [{"name": "c", "expression": expression}],
        }]})
    };
    let refused = "webhooks[0].matchConditions[0].expression: Invalid value: \"a b\": compilation failed: ERROR: <input>:1:3: Syntax error: extraneous input 'b' expecting <EOF>\n | a b\n | ..^";
    for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        let cases = [
            (hook("object.metadata.name != 'x'"), &[] as &[&str]),
            (hook("a b"), &[refused]),
        ];
        check("admissionregistration.k8s.io", plural, &cases);
        // What is stored already is taken as it is.
        check_update("admissionregistration.k8s.io", plural, &hook("a b"), &[(hook("a b"), &[])]);
        check_update(
            "admissionregistration.k8s.io",
            plural,
            &hook("c d"),
            &[(hook("a b"), &[refused])],
        );
    }
    let policy = json!({"spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
        "matchConditions": [{"name": "x", "expression": "1 +"}],
        "variables": [{"name": "v", "expression": "a b"}],
        "validations": [{"expression": "a b", "messageExpression": "c d"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "e f"}],
    }});
    let row = row("admissionregistration.k8s.io", "validatingadmissionpolicies");
    let found = super::create(row, &whole(row, &policy));
    let fields: Vec<_> = found.iter().map(|error| error.path.to_string()).collect();
    assert_eq!(
        fields,
        [
            "spec.matchConditions[0].expression",
            "spec.variables[0].expression",
            "spec.validations[0].expression",
            "spec.validations[0].messageExpression",
            "spec.auditAnnotations[0].valueExpression",
        ]
    );
    assert!(
        found
            .iter()
            .all(|error| error.to_string().contains(": compilation failed: ERROR: "))
    );
}

#[test]
fn a_suspended_job_may_be_sized_anew() {
    let job = |suspend: bool, status: Value, cpu: &str, image: &str| {
        let container = json!({"name": "a", "image": image, "resources": {"requests": {"cpu": cpu}}});
        let template =
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"restartPolicy": "Never", "containers": [container]}});
        let selector = json!({"matchLabels": {"app": "a"}});
        json!({"spec": {"suspend": suspend, "manualSelector": true, "selector": selector, "template": template}, "status": status})
    };
    let started = json!({"startTime": "2024-01-01T00:00:00Z"});
    let resting = json!({"startTime": "2024-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    let row = row("batch", "jobs");
    for (suspend, status, cpu, image, wanted) in [
        (true, json!({}), "2", "i", ""),
        (true, resting, "2", "i", ""),
        (true, started.clone(), "2", "i", "spec.template"),
        (false, started, "2", "i", "spec.template"),
        (true, json!({}), "1", "j", "spec.template.spec"),
    ] {
        let old = whole(row, &job(suspend, status.clone(), "1", "i"));
        let new = whole(row, &job(suspend, status, cpu, image));
        let found = super::update(row, &new, &old, None);
        let fields: Vec<_> = found.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(fields.join(" "), wanted, "{new}");
    }
}

#[test]
fn warnings_for_what_is_accepted() {
    let row = row("", "pods");
    let value = whole(
        row,
        &container(json!({"ports": [{"containerPort": 1}, {"containerPort": 1}]})),
    );
    assert_eq!(
        super::warnings(row, &value, None, None),
        ["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"]
    );
}

#[test]
fn formats_that_nobody_knows_are_told_once_they_come() {
    let definitions = row("apiextensions.k8s.io", "customresourcedefinitions");
    let definition = |properties: Value| {
        whole(
            definitions,
            &json!({"metadata": {"name": "as.x.io", "resourceVersion": "1"}, "spec": {"group": "x.io", "scope": "Namespaced",
                "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}, "versions": [{"name": "v1",
                "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}]}}),
        )
    };
    let of = |kind: &str, format: &str| json!({"type": kind, "format": format});
    let old = definition(json!({
        "a": of("string", "first"), "b": of("string", "date-time"), "c": of("integer", "int64"), "d": of("boolean", "date"),
        "e": {"type": "array", "items": of("integer", "double")}, "f": {"type": "string", "anyOf": [{"format": "k8s-short-name"}]},
        "g": {"type": "string", "oneOf": [{"not": {"format": "second"}}], "x-kubernetes-validations": [{"rule": "self == ''"}]},
    }));
    let judged = super::create_stored(definitions, &old);
    assert_eq!(told(&judged.errors), Vec::<String>::new());
    let words = |formats: &[&str]| -> Vec<String> {
        let word = |format: &&str| format!("unrecognized format \"{format}\"");
        formats.iter().map(word).collect()
    };
    assert_eq!(judged.warnings, words(&["first", "date", "double", "second"]));
    let new = definition(json!({"a": of("string", "third"), "b": of("string", "first"), "c": of("integer", "int64")}));
    let judged = super::update_stored(definitions, &new, &old, None);
    assert_eq!(told(&judged.errors), Vec::<String>::new());
    assert_eq!(judged.warnings, words(&["third"]));
}

/// What a stock server said of rules, each in a schema of its own.
#[test]
fn rules_are_judged_by_what_their_schema_says_of_values() {
    let definitions = row("apiextensions.k8s.io", "customresourcedefinitions");
    let told_of = |rules: Value, properties: &Value| -> Vec<String> {
        let spec = json!({"type": "object", "x-kubernetes-validations": rules, "properties": properties});
        let definition = whole(
            definitions,
            &json!({"metadata": {"name": "as.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
                "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}, "versions": [{"name": "v1",
                "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}}),
        );
        told(&super::create_stored(definitions, &definition).errors)
    };
    const SCHEMA: &str = "spec.validation.openAPIV3Schema";
    const AT: &str = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    const TRY: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let properties = json!({"n": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}}, "is": {"x-kubernetes-int-or-string": true},
        "raw": {"x-kubernetes-preserve-unknown-fields": true}, "t": {"type": "string", "format": "date-time"}});
    let shown = |rule: &str| {
        format!(
            "Invalid value: {{\"Rule\":\"{rule}\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}}"
        )
    };
    for (rule, want) in [
        ("self.n > 1", vec![]),
        ("self.l.all(x, x == 'a')", vec![]),
        ("self.t > timestamp('2020-01-01T00:00:00Z')", vec![]),
        ("self.is == 'x'", vec![]),
        (
            "self.n",
            vec![format!(
                "{AT}.rule: {}: cel expression must evaluate to a bool",
                shown("self.n")
            )],
        ),
        (
            "self.is",
            vec![format!(
                "{AT}.rule: {}: cel expression must evaluate to a bool",
                shown("self.is")
            )],
        ),
        (
            "self.raw == 1",
            vec![format!(
                "{AT}.rule: {}: compilation failed: ERROR: <input>:1:5: undefined field 'raw'\n | self.raw == 1\n | ....^",
                shown("self.raw == 1")
            )],
        ),
        (
            "self.l.filter(x, x != '').size() == 1",
            vec![format!(
                "{AT}.rule: Forbidden: estimated rule cost exceeds budget by factor of 1.468006x {TRY}"
            )],
        ),
        (
            "self.l.all(x, self.l.all(y, x == y))",
            vec![
                format!("{AT}.rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {TRY}"),
                format!(
                    "{AT}.rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
                ),
                format!(
                    "{SCHEMA}: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {TRY}"
                ),
            ],
        ),
    ] {
        assert_eq!(told_of(json!([{"rule": rule}]), &properties), want, "{rule}");
    }
    let message = json!([{"rule": "self.n < 9", "messageExpression": "'not '+string(self.n)"}]);
    assert!(told_of(message, &properties)[0].starts_with(&format!(
        "{AT}.messageExpression: Forbidden: estimated messageExpression cost exceeds budget by factor of more than 100x"
    )));
}

#[test]
fn claims_and_what_may_not_change() {
    let request = |more: Value| {
        let mut exactly = json!({"deviceClassName": "c"});
        exactly.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}})
    };
    const EXACTLY: &str = "spec.devices.requests[0].exactly";
    check(
        "resource.k8s.io",
        "resourceclaims",
        &[
            (
                request(json!({"tolerations": [{"operator": "Exists", "value": "x"}]})),
                &[&format!(
                    "{EXACTLY}.tolerations[0].value: Invalid value: \"x\": must be empty for operator `Exists`"
                )],
            ),
            (
                request(json!({"tolerations": [{"operator": "In", "effect": "No"}]})),
                &[
                    &format!(
                        "{EXACTLY}.tolerations[0].operator: Unsupported value: \"In\": supported values: \"Equal\", \"Exists\""
                    ),
                    &format!(
                        "{EXACTLY}.tolerations[0].effect: Unsupported value: \"No\": supported values: \"NoExecute\", \"NoSchedule\", \"None\""
                    ),
                ],
            ),
        ],
    );
    check_update(
        "networking.k8s.io",
        "ingressclasses",
        &json!({"spec": {"controller": "a.example/b"}}),
        &[(
            json!({"spec": {}}),
            &[
                "spec.controller: Invalid value: \"\": field is immutable",
                "spec.controller: Required value",
            ],
        )],
    );
}

#[test]
fn a_claim_asks_for_the_devices_of_others_by_name() {
    let row = row("resource.k8s.io", "resourceclaims");
    let claim = |admin: bool| {
        let request = |admin: bool| json!({"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": admin}});
        whole(
            row,
            &json!({"spec": {"devices": {"requests": [request(false), request(admin)]}}}),
        )
    };
    assert_eq!(super::asks_for_admin(row, &claim(false)), None);
    let path = super::asks_for_admin(row, &claim(true));
    assert_eq!(path.as_deref(), Some("spec.devices.requests[1].adminAccess"));
}

#[test]
fn a_review_has_no_metadata_and_an_empty_map_is_none() {
    let row = row("authorization.k8s.io", "localsubjectaccessreviews");
    let review = |labels: Value| {
        let attributes = json!({"namespace": "default", "verb": "get", "resource": "pods"});
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview",
            "metadata": {"namespace": "default", "labels": labels}, "spec": {"user": "alice", "resourceAttributes": attributes},
        })
    };
    assert_eq!(told(&super::create(row, &review(json!({})))), Vec::<String>::new());
    assert_eq!(
        told(&super::create(row, &review(json!({"a": "b"})))),
        ["metadata: Invalid value: {\"namespace\":\"default\",\"labels\":{\"a\":\"b\"}}: must be empty except for namespace"]
    );
}
