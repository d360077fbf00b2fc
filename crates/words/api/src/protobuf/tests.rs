//! JSON → protobuf → JSON is the identity on canonical objects; some bytes are checked as such.

use serde_json::{Value, json};

use super::*;
use crate::decode::{FieldValidation, value};
use crate::schema;

fn round_trip(group: &str, version: &str, kind: &str, input: Value) {
    let ty = schema::kind(group, version, kind).unwrap();
    let canonical = value(input, ty, FieldValidation::Strict).unwrap().value;
    let bytes = encode(&canonical, ty);
    let mut expected = canonical.clone();
    for name in ["kind", "apiVersion"] {
        expected.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(decode(&bytes, ty).unwrap(), expected);
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let unknown = unwrap(&wrap(&api_version, kind, &bytes)).unwrap();
    assert_eq!(unknown.raw, bytes);
    let again = decode_unknown(&unknown, ty).unwrap();
    assert_eq!(
        (&again["kind"], &again["apiVersion"]),
        (&Value::from(kind), &Value::from(api_version))
    );
}

fn pod_spec() -> Value {
    json!({
        "containers": [{
            "name": "main", "image": "i", "command": ["a", ""],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": false}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "s", "optional": true}}],
            "ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"example.com/x": "3"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "http", "httpHeaders": [{"name": "h", "value": ""}]}, "periodSeconds": 10, "terminationGracePeriodSeconds": 0},
            "readinessProbe": {"tcpSocket": {"port": -1}, "failureThreshold": 3},
            "securityContext": {"runAsUser": 0, "runAsNonRoot": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}
        }],
        "ephemeralContainers": [{"name": "debug", "image": "d", "targetContainerName": "main", "resources": {}}],
        "volumes": [
            {"name": "e", "emptyDir": {}},
            {"name": "c", "configMap": {"name": "cm", "items": [{"key": "a", "path": "b", "mode": 420}], "defaultMode": 420}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "ca"}}, {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.namespace", "apiVersion": "v1"}}]}}]}},
            {"name": "t", "ephemeral": {"volumeClaimTemplate": {"metadata": {}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"}}}}
        ],
        "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 300}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}],
        "terminationGracePeriodSeconds": 0, "priority": -5, "hostNetwork": true
    })
}

#[test]
fn workloads_survive() {
    round_trip(
        "",
        "v1",
        "Pod",
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"a": "b", "": ""}, "annotations": {"z": "ü"}, "finalizers": ["f"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "y", "controller": false}],
                "managedFields": [{"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:x": {}}}}]},
            "spec": pod_spec(),
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "startTime": "2026-01-02T03:04:05Z",
                "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:05Z"}],
                "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0, "image": "i", "imageID": "", "started": false, "lastState": {},
                    "state": {"terminated": {"exitCode": 137, "startedAt": null, "finishedAt": "2026-01-02T03:04:05Z"}}}]}
        }),
    );
    round_trip(
        "apps",
        "v1",
        "Deployment",
        json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec()},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}, "revisionHistoryLimit": 10},
            "status": {"observedGeneration": 1}
        }),
    );
    round_trip(
        "batch",
        "v1",
        "CronJob",
        json!({
            "metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "suspend": false, "jobTemplate": {"metadata": {}, "spec": {"template": {"metadata": {}, "spec": pod_spec()}}}}, "status": {}
        }),
    );
    round_trip(
        "coordination.k8s.io",
        "v1",
        "Lease",
        json!({
            "metadata": {"name": "l"}, "spec": {"holderIdentity": "", "leaseDurationSeconds": 15, "renewTime": "2026-01-02T03:04:05.000008Z"}
        }),
    );
    round_trip(
        "events.k8s.io",
        "v1",
        "Event",
        json!({
            "metadata": {"name": "e"}, "eventTime": "2026-01-02T03:04:05.120000Z", "regarding": {"kind": "Pod"}, "deprecatedSource": {},
            "series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:05.999999Z"}
        }),
    );
}

#[test]
fn configuration_survives() {
    round_trip(
        "",
        "v1",
        "Service",
        json!({
            "metadata": {"name": "s"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "h", "port": 80, "targetPort": "http", "nodePort": 30000}, {"port": 1, "targetPort": 2}],
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "allocateLoadBalancerNodePorts": false},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": "VIP"}]}}
        }),
    );
    round_trip(
        "",
        "v1",
        "ConfigMap",
        json!({
            "metadata": {"name": "c"}, "data": {"a": "", "b": "x\n"}, "binaryData": {"z": "AAEC/w==", "e": ""}, "immutable": true
        }),
    );
    round_trip(
        "",
        "v1",
        "Secret",
        json!({"metadata": {"name": "s"}, "data": {"k": "aGVsbG8="}, "type": "Opaque"}),
    );
    round_trip(
        "authentication.k8s.io",
        "v1",
        "TokenReview",
        json!({
            "metadata": {}, "spec": {"token": "t", "audiences": ["a"]},
            "status": {"authenticated": true, "user": {"username": "u", "groups": ["g"], "extra": {"k": ["v", "w"]}}}
        }),
    );
    round_trip(
        "metrics.k8s.io",
        "v1beta1",
        "NodeMetrics",
        json!({
            "metadata": {"name": "n"}, "timestamp": "2026-01-02T03:04:05Z", "window": "10.5s", "usage": {"cpu": "250m", "memory": "1Gi"}
        }),
    );
    round_trip(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        json!({
            "metadata": {"name": "p"},
            "spec": {"matchConstraints": {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent", "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"], "resourceNames": ["x"], "scope": "*"}]},
                "validations": [{"expression": "true"}], "failurePolicy": "Fail"},
            "status": {}
        }),
    );
    round_trip(
        "resource.k8s.io",
        "v1",
        "ResourceSlice",
        json!({
            "metadata": {"name": "r"},
            "spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu", "attributes": {"m": {"string": "x"}, "n": {"int": 0}, "b": {"bool": false}, "v": {"version": "1.0.0"}}, "capacity": {"mem": {"value": "1Gi"}}}]}
        }),
    );
}

#[test]
fn custom_resource_definitions_survive() {
    round_trip(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        json!({
            "metadata": {"name": "w.x"},
            "spec": {"group": "x", "names": {"plural": "w", "kind": "W", "listKind": "WList", "singular": "w"}, "scope": "Namespaced", "conversion": {"strategy": "None"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.r", "statusReplicasPath": ".status.r"}},
                    "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".spec.a", "priority": 0}],
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                        "a": {"type": "integer", "minimum": 0, "maximum": 1.5, "maxLength": 0, "default": {"x": [1, null, "s"]}, "enum": [1, "a", null]},
                        "b": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                        "c": {"additionalProperties": true}, "d": {"additionalProperties": {"type": "string", "nullable": true}}, "e": {"additionalProperties": false},
                        "f": {"dependencies": {"a": ["b"], "c": {"type": "object"}}, "not": {"type": "null"}, "allOf": [{"minLength": 1}]},
                        "g": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [{"rule": "self > 0", "message": "m", "optionalOldSelf": true}]}
                    }}}}]},
            "status": {"acceptedNames": {"plural": "w", "kind": "W"}, "storedVersions": ["v1"],
                "conditions": [{"type": "Established", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z", "reason": "r", "message": ""}]}
        }),
    );
}

#[test]
fn zero_values_are_on_the_wire() {
    let ty = schema::kind("", "v1", "Status").unwrap();
    let value = json!({"metadata": {}, "status": "Failure", "message": "no", "reason": "NotFound", "code": 404});
    let bytes = wrap("v1", "Status", &encode(&value, ty));
    let expected: &[u8] = b"k8s\0\n\x0c\n\x02v1\x12\x06Status\x12\x22\
        \n\x06\n\0\x12\0\x1a\0\x12\x07Failure\x1a\x02no\"\x08NotFound0\x94\x03\x1a\0\"\0";
    assert_eq!(bytes, expected);
}

#[test]
fn lists_and_watch_events() {
    let ty = schema::kind("", "v1", "ConfigMap").unwrap();
    let item = encode(&json!({"metadata": {"name": "a"}, "data": {"k": "v"}}), ty);
    let list = encode_list("v1", "ConfigMapList", "12", "tok", Some(3), &[item.clone(), item.clone()]);
    let unknown = unwrap(&list).unwrap();
    assert_eq!(unknown.kind, "ConfigMapList");
    let value = decode(&unknown.raw, schema::kind("", "v1", "ConfigMapList").unwrap()).unwrap();
    assert_eq!(
        value["metadata"],
        json!({"resourceVersion": "12", "continue": "tok", "remainingItemCount": 3})
    );
    assert_eq!(value["items"][1], json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
    let event = encode_watch_event("ADDED", &wrap("v1", "ConfigMap", &item));
    assert!(event.starts_with(b"\n\x05ADDED\x12"));
}

#[test]
fn garbage_is_refused() {
    let ty = schema::kind("", "v1", "ConfigMap").unwrap();
    assert_eq!(unwrap(b"not protobuf"), Err(ProtobufError::Magic));
    assert_eq!(decode(b"\n\x7f", ty), Err(ProtobufError::Truncated));
    assert_eq!(
        decode(&[0x08, 0x01], ty),
        Err(ProtobufError::WireType {
            field: "metadata".into(),
            wire: 0
        })
    );
    assert!(decode(&[0xff; 12], ty).is_err());
    // Unknown fields are skipped, a missing message is not taken for an empty one.
    assert_eq!(decode(&[0x98, 0x06, 0x01], ty).unwrap(), json!({"metadata": {}}));
    let pod = schema::kind("", "v1", "Pod").unwrap();
    assert_eq!(
        decode(b"", pod).unwrap(),
        json!({"metadata": {}, "spec": {"containers": null}, "status": {}})
    );
}

/// A value with every field set, structs nested `depth` deep; `salt` varies it.
fn filled(ty: &schema::Type, depth: u32, salt: u32) -> Value {
    use schema::Type;
    match ty {
        Type::String => Value::from(format!("s{salt}")),
        Type::Bool | Type::SchemaOrBool => Value::from(true),
        Type::Int32 => Value::from(-1 - i64::from(salt)),
        Type::Int64 => Value::from(i64::MAX - i64::from(salt)),
        Type::Double => json!(0.5),
        Type::Bytes => Value::from("AAEC/w=="),
        Type::Quantity => Value::from("1500m"),
        Type::IntOrString => {
            if salt.is_multiple_of(2) {
                Value::from(salt)
            } else {
                Value::from("25%")
            }
        }
        Type::Time => Value::from("2026-01-02T03:04:05Z"),
        Type::MicroTime => Value::from("1969-12-31T23:59:59.000001Z"),
        Type::Duration => Value::from("1m30.5s"),
        Type::RawExtension | Type::FieldsV1 => json!({"a": [1, null, {"b": "ü"}]}),
        Type::Json => json!([1.5, "x"]),
        Type::StringItems | Type::SchemaOrStrings => json!(["a", ""]),
        Type::SchemaOrArray => json!([{"type": "string"}, {"nullable": true}]),
        Type::List(inner) => Value::from(vec![filled(inner, depth, salt), filled(inner, depth, salt + 1)]),
        Type::Map(inner) => json!({"": filled(inner, depth, salt), "k": filled(inner, depth, salt + 1)}),
        Type::Struct(_) if depth == 0 => json!({}),
        Type::Struct(reference) => {
            let fields = reference.get().fields.iter().filter(|field| field.tag != 0);
            Value::Object(
                fields
                    .map(|field| (field.json.to_owned(), filled(&field.ty, depth - 1, salt)))
                    .collect(),
            )
        }
    }
}

#[test]
fn every_field_of_every_struct_survives() {
    for ty in schema::all() {
        let fields = || ty.fields.iter().filter(|field| field.tag != 0);
        let full: Value = Value::Object(
            fields()
                .map(|field| (field.json.to_owned(), filled(&field.ty, 1, field.tag)))
                .collect(),
        );
        for input in [full, json!({})] {
            let canonical = value(input, ty, FieldValidation::Strict)
                .unwrap_or_else(|error| panic!("{ty:?}: {error}"))
                .value;
            let bytes = encode(&canonical, ty);
            let back = decode(&bytes, ty).unwrap_or_else(|error| panic!("{ty:?}: {error}"));
            assert_eq!(back, canonical, "{ty:?}");
            assert_eq!(encode(&back, ty), bytes, "{ty:?}");
        }
    }
}

#[test]
fn cut_messages_never_panic() {
    let ty = schema::kind("", "v1", "Pod").unwrap();
    let object = json!({"metadata": {"name": "p"}, "spec": pod_spec()});
    let bytes = encode(&value(object, ty, FieldValidation::Strict).unwrap().value, ty);
    for end in 0..bytes.len() {
        drop(decode(&bytes[..end], ty));
        let mut wrong = bytes.clone();
        wrong[end] ^= 0x55;
        drop(decode(&wrong, ty));
    }
}
