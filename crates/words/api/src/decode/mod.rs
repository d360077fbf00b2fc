//! Request bodies to JSON values, as the API server's typed decoders see them: unknown fields dropped and told,
//! duplicate fields told, wrong types refused with Go's words.
//!
//! Invariant: what comes out fits the field table, in the form of Go's struct: as [`canonicalize`] gives it, but with the
//! lists and maps that were sent empty ([`Empty::Sent`]); storage takes those for none. It will not look at `apiVersion` and `kind`, convert, default or validate. Every value made is
//! charged to a [`Ledger`](crate::cost::Ledger).

mod body;
mod canonical;
mod complete;
mod scalar;
mod settled;
mod syntax;
mod typed;
mod unstructured;
mod yaml;

pub use body::{Body, any, any_node, type_meta};
pub use canonical::{Empty, align_empty, canonicalize, canonicalize_as, canonicalize_settled};
pub use complete::complete;
pub(crate) use settled::{Want, keeps};
pub(crate) use syntax::DEPTH_MAX;
pub use syntax::Node;
pub use typed::{json, untyped, value, value_at};
pub use unstructured::{Touched, unstructured, unstructured_where};
pub use yaml::{Untyped, YamlError, yaml, yaml_value};

use serde_json::Value;

use crate::cost::CostError;

/// Goes one step down a path: `name` behind a dot, `[3]` as it is. What it gives back is the length to go back to.
fn enter(path: &mut String, step: &str) -> usize {
    let length = path.len();
    if length > 0 && !step.starts_with('[') {
        path.push('.');
    }
    path.push_str(step);
    length
}

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// As the query parameter has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ignore => "Ignore",
            Self::Warn => "Warn",
            Self::Strict => "Strict",
        }
    }

    /// From the query parameter `fieldValidation`; empty means `Warn`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value, canonical but for what was sent empty.
    pub value: Value,
    /// Warnings such as `unknown field "spec.foo"`, in the order of the body.
    pub warnings: Vec<String>,
    /// Whether a list or map was sent empty.
    pub empty: bool,
    /// How many values it has at most, where decoding counted them.
    pub values: Option<usize>,
}

/// Why a body is refused. `Display` is what upstream puts after `X in version "v1" cannot be handled as a X: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON; Go's message such as `unexpected end of JSON input`.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type or form; Go's message.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// The body would cost too much.
    #[error(transparent)]
    Cost(#[from] CostError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json as j;

    fn check(group: &str, version: &str, kind: &str, text: &str, mode: FieldValidation) -> Result<Decoded, DecodeError> {
        json(text.as_bytes(), schema::kind(group, version, kind).unwrap(), mode)
    }

    #[test]
    fn wrong_types_speak_as_go_does() {
        for (group, version, kind, text, message) in [
            (
                "",
                "v1",
                "ConfigMap",
                r#"{"metadata":"x"}"#,
                "json: cannot unmarshal string into Go struct field ConfigMap.metadata of type v1.ObjectMeta",
            ),
            (
                "",
                "v1",
                "ConfigMap",
                r#"{"data":[1]}"#,
                "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
            ),
            (
                "",
                "v1",
                "ConfigMap",
                r#"{"data":{"a":1}}"#,
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
            (
                "",
                "v1",
                "ConfigMap",
                r#""x""#,
                "json: cannot unmarshal string into Go value of type v1.ConfigMap",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"metadata":{"name":5}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#,
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"spec":{"hostNetwork":"true"}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"spec":{"restartPolicy":1}}"#,
                "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"spec":{"hostNetwork":"x","containers":[{"resources":{"requests":{"cpu":"abc"}}}]}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                "",
                "v1",
                "Secret",
                r#"{"data":{"a":"!!!"}}"#,
                "illegal base64 data at input byte 0",
            ),
            (
                "",
                "v1",
                "Secret",
                r#"{"data":{"a":[1,null,300]}}"#,
                "json: cannot unmarshal number 300 into Go struct field Secret.data of type uint8",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"spec":{"volumes":[{"projected":{"sources":[{"downwardAPI":{"items":[{"path":true}]}}]}}]}}"#,
                "json: cannot unmarshal bool into Go struct field DownwardAPIVolumeFile.spec.volumes.VolumeSource.projected.sources.downwardAPI.items.path of type string",
            ),
            (
                "",
                "v1",
                "Pod",
                r#"{"metadata":{"labels":5,"creationTimestamp":[]}}"#,
                "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
            ),
            (
                "",
                "v1",
                "Secret",
                r#"{"stringData":{"a":1}}"#,
                "json: cannot unmarshal number into Go struct field Secret.stringData of type string",
            ),
            (
                "",
                "v1",
                "ServiceAccount",
                r#"{"secrets":"x"}"#,
                "json: cannot unmarshal string into Go struct field ServiceAccount.secrets of type []v1.ObjectReference",
            ),
            (
                "scheduling.k8s.io",
                "v1",
                "PriorityClass",
                r#"{"value":3000000000}"#,
                "json: cannot unmarshal number 3000000000 into Go struct field PriorityClass.value of type int32",
            ),
            (
                "rbac.authorization.k8s.io",
                "v1",
                "Role",
                r#"{"rules":[{"verbs":"get"}]}"#,
                "json: cannot unmarshal string into Go struct field PolicyRule.rules.verbs of type []string",
            ),
            (
                "",
                "v1",
                "Event",
                r#"{"firstTimestamp":"soon"}"#,
                r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#,
            ),
            (
                "coordination.k8s.io",
                "v1",
                "Lease",
                r#"{"spec":{"renewTime":"yesterday"}}"#,
                r#"parsing time "yesterday" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "yesterday" as "2006""#,
            ),
            (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"required":"x"}}}]}}"#,
                "json: cannot unmarshal string into Go struct field JSONSchemaProps.spec.versions.schema.openAPIV3Schema.required of type []string",
            ),
        ] {
            let error = check(group, version, kind, text, FieldValidation::Warn).unwrap_err();
            assert_eq!(error, DecodeError::Type(message.into()), "{text}");
        }
    }

    #[test]
    fn unknown_and_duplicate_fields_are_told_in_order() {
        let text =
            r#"{"kind":"Pod","metadata":{"name":"p","nope":2},"spec":{"containers":[{"name":"main","nope":{"x":1}}],"nope":1}}"#;
        let told = ["metadata.nope", "spec.containers[0].nope", "spec.nope"].map(|path| format!("unknown field \"{path}\""));
        assert_eq!(check("", "v1", "Pod", text, FieldValidation::Warn).unwrap().warnings, told);
        assert!(
            check("", "v1", "Pod", text, FieldValidation::Ignore)
                .unwrap()
                .warnings
                .is_empty()
        );
        assert_eq!(
            check("", "v1", "Pod", text, FieldValidation::Strict).unwrap_err().to_string(),
            format!("strict decoding error: {}", told.join(", "))
        );
        let text = r#"{"metadata":{"name":"dup","name":"dup2"},"data":{"a":"1","a":"2"},"data":{"b":"1"}}"#;
        let decoded = check("", "v1", "ConfigMap", text, FieldValidation::Warn).unwrap();
        assert_eq!(
            decoded.warnings,
            ["metadata.name", "data.a", "data"].map(|path| format!("duplicate field \"{path}\""))
        );
        assert_eq!(
            decoded.value,
            j!({"metadata": {"name": "dup2"}, "data": {"a": "2", "b": "1"}})
        );
        let text = r#"{"Spec":{"ports":[]},"spec":{"Ports":[],"clusterIP":"None"}}"#;
        assert_eq!(
            check("", "v1", "Service", text, FieldValidation::Warn).unwrap().warnings,
            ["unknown field \"Spec\"", "unknown field \"spec.Ports\""]
        );
        let decoded = untyped(br#"{"spec":{"size":1,"size":2,"l":[{"a":1,"a":1}]}}"#, FieldValidation::Warn).unwrap();
        assert_eq!(
            decoded.warnings,
            ["duplicate field \"spec.size\"", "duplicate field \"spec.l[0].a\""]
        );
        assert_eq!(decoded.value["spec"]["size"], 2);
        let metadata = j!({"name": "n", "zzz": 1});
        let decoded = value_at(metadata, schema::object_meta(), FieldValidation::Warn, "metadata").unwrap();
        assert_eq!(decoded.warnings, ["unknown field \"metadata.zzz\""]);
        let error = value_at(
            j!({"labels": {"a": 1}}),
            schema::object_meta(),
            FieldValidation::Warn,
            "metadata",
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
        );
    }

    #[test]
    fn canonical_form_is_gos_round_trip() {
        for (group, version, kind, input, output) in [
            (
                "",
                "v1",
                "Pod",
                j!({"metadata": {"creationTimestamp": null, "labels": {}}, "spec": {"containers": [{"name": "a", "args": [], "resources": {"limits": {"cpu": "1000m", "memory": 1073741824}}}], "volumes": [{"name": "v", "emptyDir": {}}], "hostNetwork": false, "terminationGracePeriodSeconds": 0}, "status": {"startTime": "2020-01-01T01:00:00+01:00"}}),
                j!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1073741824"}}}], "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0}, "status": {"startTime": "2020-01-01T00:00:00Z"}}),
            ),
            (
                "",
                "v1",
                "Service",
                j!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81}]}}),
                j!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 0}]}, "status": {"loadBalancer": {}}}),
            ),
            (
                "rbac.authorization.k8s.io",
                "v1",
                "Role",
                j!({"rules": []}),
                j!({"metadata": {}, "rules": null}),
            ),
            (
                "",
                "v1",
                "Event",
                j!({"count": 0}),
                j!({"metadata": {}, "involvedObject": {}, "source": {}, "firstTimestamp": null, "lastTimestamp": null, "eventTime": null, "reportingComponent": "", "reportingInstance": ""}),
            ),
            (
                "apps",
                "v1",
                "Deployment",
                j!({"spec": {"replicas": 0}}),
                j!({"metadata": {}, "spec": {"replicas": 0, "selector": null, "template": {"metadata": {}, "spec": {"containers": null}}, "strategy": {}}, "status": {}}),
            ),
            (
                "",
                "v1",
                "ConfigMap",
                j!({"data": {"a": null, "b": ""}, "immutable": false}),
                j!({"metadata": {}, "data": {"a": "", "b": ""}, "immutable": false}),
            ),
        ] {
            let ty = schema::kind(group, version, kind).unwrap();
            let mut value = input.clone();
            canonicalize(&mut value, ty);
            assert_eq!(value, output);
            canonicalize(&mut value, ty);
            assert_eq!(value, output, "twice");
            let mut decoded = super::value(input, ty, FieldValidation::Strict).unwrap().value;
            canonicalize(&mut decoded, ty);
            assert_eq!(decoded, output, "decoded");
        }
    }

    #[test]
    fn what_is_stored_is_decoded_as_it_is_and_counted() {
        let ty = schema::kind("apps", "v1", "Deployment").unwrap();
        let text = br#"{"metadata":{"name":"d"},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"i","args":[]}]},
            "metadata":{"labels":{"a":"b"}}},"replicas":2,"selector":{"matchLabels":{"a":"b"}}}}"#;
        let sent = json(text, ty, FieldValidation::Strict).unwrap();
        let spec = ty.field("spec").unwrap().ty;
        let tree = |node| Body::of_node(Node::Object(vec![("spec".into(), node)]));
        let stored = tree(Node::Stored(&sent.value["spec"], spec));
        let decoded = stored.typed(ty, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.value["spec"], sent.value["spec"]);
        assert!(decoded.empty, "args are an empty list");
        let mut ledger = crate::cost::Ledger::new();
        let read = tree(Node::declared(&sent.value["spec"], Some(spec), &mut ledger).unwrap());
        let again = read.typed(ty, FieldValidation::Strict).unwrap();
        assert_eq!(decoded, again);
        // Both are written in the order of declaration.
        assert_eq!(stored.node().to_text(), read.node().to_text());
        assert!(stored.node().to_text().starts_with(r#"{"spec":{"replicas":2,"selector":"#));
        let kept = Node::Stored(&sent.value["spec"], spec);
        assert_eq!(kept.to_value(), sent.value["spec"]);
    }

    #[test]
    fn conversion_and_decoding_count_alike() {
        let ty = schema::kind("apps", "v1", "Deployment").unwrap();
        let text = r#"{"metadata":{"name":"d","annotations":null},"spec":{"replicas":1.0,"x":[1,2],"template":{"spec":{"overhead":{"cpu":1},
            "containers":[{"name":"c","ports":[{"containerPort":1}],"livenessProbe":{"httpGet":{"port":"a"}}}]}}}}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let converted = unstructured(value, ty, FieldValidation::Ignore).unwrap();
        let decoded = json(text.replace("1.0", "1").as_bytes(), ty, FieldValidation::Ignore).unwrap();
        assert_eq!(converted, decoded);
    }

    #[test]
    fn what_is_sent_empty_is_kept_until_it_is_stored() {
        let ty = schema::kind("apps", "v1", "Deployment").unwrap();
        let sent = br#"{"metadata":{"labels":{},"annotations":null},"spec":{"selector":{"matchExpressions":[]},"template":{"metadata":{},"spec":{"containers":[],"volumes":[{"name":"v","emptyDir":{}}],"overhead":{}}}}}"#;
        let decoded = json(sent, ty, FieldValidation::Strict).unwrap();
        assert!(decoded.empty);
        let spec = j!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}], "overhead": {}});
        let whole = |labels: Value, expressions: Value, spec: &Value| j!({"metadata": labels, "spec": {"selector": expressions, "strategy": {}, "template": {"metadata": {}, "spec": spec}}, "status": {}});
        assert_eq!(decoded.value, whole(j!({"labels": {}}), j!({"matchExpressions": []}), &spec));
        let mut written = decoded.value.clone();
        canonicalize_as(&mut written, ty, Empty::Written);
        let shown = j!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]});
        assert_eq!(written, whole(j!({}), j!({}), &shown));
        let mut stored = decoded.value.clone();
        canonicalize(&mut stored, ty);
        let kept = j!({"containers": null, "volumes": [{"name": "v", "emptyDir": {}}]});
        assert_eq!(stored, whole(j!({}), j!({}), &kept));
        align_empty(&mut stored, &decoded.value, ty);
        assert_eq!(stored, decoded.value, "an old object is compared semantically");
        let plain = json(
            br#"{"spec":{"replicas":1,"template":{"spec":{"securityContext":{}}}}}"#,
            ty,
            FieldValidation::Warn,
        );
        assert!(!plain.unwrap().empty, "an empty struct is none of them");
        let bare = schema::kind("", "v1", "Pod").unwrap();
        let mut old = j!({"spec": {"containers": null}});
        align_empty(&mut old, &j!({"spec": {"containers": [], "securityContext": {}}}), bare);
        assert_eq!(old, j!({"spec": {"containers": []}}), "a struct that is there is not none");
    }

    #[test]
    fn the_first_look_takes_any_case() {
        let body = Body::parse(br#"{"kind":"ConfigMap","data":{"a":"b"},"x":1,"x":2}"#).unwrap();
        assert_eq!(body.type_meta().unwrap(), (String::new(), "ConfigMap".into()));
        let ty = schema::kind("", "v1", "ConfigMap").unwrap();
        assert_eq!(
            body.typed(ty, FieldValidation::Warn).unwrap().warnings,
            ["unknown field \"x\""]
        );
        assert_eq!(
            body.untyped(FieldValidation::Warn).unwrap().warnings,
            ["duplicate field \"x\""]
        );
        assert_eq!(
            type_meta(br#"{"APIVERSION":"v1","Kind":"Pod"}"#).unwrap(),
            ("v1".into(), "Pod".into())
        );
        assert_eq!(
            type_meta(br#""x""#).unwrap_err().to_string(),
            r#"couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#
        );
        assert_eq!(
            type_meta(b"").unwrap_err().to_string(),
            "couldn't get version/kind; json parse error: unexpected end of JSON input"
        );
    }

    #[test]
    fn decoding_counts_what_it_makes() {
        use crate::cost::Size;
        for (group, kind, text) in [
            (
                "",
                "Pod",
                r#"{"metadata":{"labels":{"a":"b","c":null},"labels":{"d":"e"}},"x":1,
                "spec":{"containers":[{"name":"a"},{}],"initContainers":[],"volumes":[{"emptyDir":{}}]}}"#,
            ),
            ("", "PodList", r#"{"items":null}"#),
            ("", "ConfigMapList", "{}"),
            ("", "Secret", r#"{"data":{"a":[1,2]}}"#),
            (
                "apps",
                "ControllerRevision",
                r#"{"data":{"a":[1,{"b":null}],"a":2},"revision":1}"#,
            ),
            (
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"items":[{},{"default":{"a":[1]}}],
                    "dependencies":{"a":["b"],"c":{"type":"x"}},"x-kubernetes-validations":[{}]}}}]}}"#,
            ),
        ] {
            let ty = schema::kind(group, "v1", kind).unwrap();
            let decoded = json(text.as_bytes(), ty, FieldValidation::Ignore).unwrap();
            let made = Size::of(&decoded.value).values;
            assert!(
                decoded.values.is_none_or(|values| (made..made + 12).contains(&values)),
                "{kind}: {made}, {:?}",
                decoded.values
            );
            assert_eq!(decoded.values.is_none(), text.contains("labels"), "{kind}");
            if !decoded.empty {
                let mut settled = decoded.value.clone();
                canonicalize_settled(&mut settled, ty);
                let mut stored = decoded.value;
                canonicalize(&mut stored, ty);
                assert_eq!(settled, stored, "{kind}");
            }
        }
    }
}
