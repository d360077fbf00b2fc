//! The kinds of requests that `bench worst` grows: one row each, which says how it is sent and what grows in it.
//!
//! Invariant: a row's text is a function of one size alone. How rows of a family are wrapped and addressed stands once, in
//! [`Form`]. None of them is stored but what a row says is there before.

use http::Method;

use super::super::http::Call;

/// Where requests go.
pub(super) struct Place {
    /// Namespace of the measurement.
    pub(super) namespace: String,
}

/// A kind of request as a function of its size.
pub(super) struct Kind {
    /// Name.
    pub(super) name: &'static str,
    /// Size to begin with.
    pub(super) from: usize,
    form: Form,
    /// What grows.
    text: fn(usize) -> String,
    /// Data of the map that the request changes, where it is not a small one.
    before: Option<fn(usize) -> String>,
}

/// How the text of a row becomes a request.
#[derive(Clone, Copy)]
enum Form {
    /// Members of a ConfigMap, in JSON.
    Map,
    /// Members of a ConfigMap's metadata.
    Metadata,
    /// A ConfigMap in YAML after its metadata.
    Yaml,
    /// Members of a pod's spec.
    Pod,
    /// Properties of a definition's schema.
    Definition,
    /// A whole object for a collection of the cluster.
    Create(&'static str),
    /// A whole object for a collection of the namespace.
    CreateNamespaced(&'static str),
    /// A patch of the map that is there.
    Patch(&'static str),
    /// Members of an applied configuration of the map that is there.
    Apply,
    /// Members of a ConfigMap that replaces the one that is there.
    Put,
    /// Query of a LIST of ConfigMaps.
    List,
}

const YAML: &str = "application/yaml";
pub(super) const JSON_PATCH: &str = "application/json-patch+json";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// The map that patches of every kind change.
pub(super) const VICTIM: &str = r#"{"metadata":{"name":"victim","finalizers":["example.com/a"]},"data":{"k":"v"}}"#;

impl Place {
    /// The collection of ConfigMaps.
    pub(super) fn maps(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }
}

impl Kind {
    const fn new(name: &'static str, from: usize, form: Form, text: fn(usize) -> String) -> Self {
        Self {
            name,
            from,
            form,
            text,
            before: None,
        }
    }

    const fn after(self, before: fn(usize) -> String) -> Self {
        Self {
            before: Some(before),
            ..self
        }
    }

    /// Creates what must be there before, under the name `large`; nothing where the small map will do.
    pub(super) fn before(&self, place: &Place, size: usize) -> Option<Call> {
        let before = self.before?;
        let body = format!(r#"{{"metadata":{{"name":"large"}},{}}}"#, before(size));
        Some(Call::with(Method::POST, place.maps(), body))
    }

    /// The collection in which the request creates an object in JSON, if that is what it does.
    pub(super) fn collection(&self, place: &Place) -> Option<String> {
        let creates = matches!(
            self.form,
            Form::Map | Form::Metadata | Form::Pod | Form::Definition | Form::Create(_) | Form::CreateNamespaced(_)
        );
        let path = self.call(place, 1).path;
        creates.then(|| path.split('?').next().unwrap_or_default().to_owned())
    }

    /// The request of a size.
    pub(super) fn call(&self, place: &Place, size: usize) -> Call {
        let text = (self.text)(size);
        let maps = place.maps();
        let of_namespace = |rest: &str| maps.replace("/api/v1/namespaces/", rest);
        let post = |path: String, body: String| Call::with(Method::POST, format!("{path}?dryRun=All"), body);
        let name = if self.before.is_some() { "large" } else { "victim" };
        let there = |method: Method, query: &str, body: String| {
            let path = format!("{maps}/{name}?dryRun=All&fieldManager=worst{query}");
            Call::with(method, path, body)
        };
        match self.form {
            Form::Map => post(maps, format!(r#"{{"metadata":{{"name":"hostile"}},{text}}}"#)),
            Form::Metadata => post(maps, format!(r#"{{"metadata":{{"name":"hostile",{text}}}}}"#)),
            Form::Yaml => post(maps, format!("metadata: {{name: hostile}}\n{text}")).of_type(YAML),
            Form::Pod => post(
                maps.replace("configmaps", "pods"),
                format!(r#"{{"metadata":{{"name":"hostile"}},"spec":{{{text}}}}}"#),
            ),
            Form::Definition => post(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
                format!(
                    r#"{{"metadata":{{"name":"hostiles.example.com"}},"spec":{{"group":"example.com","scope":"Namespaced",
                    "names":{{"plural":"hostiles","singular":"hostile","kind":"Hostile","listKind":"HostileList"}},"versions":[
                    {{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{{"type":"object",
                    "properties":{{{text}}}}}}}}}]}}}}"#
                ),
            ),
            Form::Create(path) => post(path.to_owned(), text),
            Form::CreateNamespaced(group) => {
                let (group, plural) = group.rsplit_once('/').unwrap_or(("", group));
                post(
                    of_namespace(&format!("/apis/{group}/namespaces/")).replace("configmaps", plural),
                    text,
                )
            }
            Form::Patch(media_type) => there(Method::PATCH, "", text).of_type(media_type),
            Form::Apply => there(
                Method::PATCH,
                "&force=true",
                format!(r#"{{"apiVersion":"v1","kind":"ConfigMap",{}}}"#, text.replace("NAME", name)),
            )
            .of_type(APPLY),
            Form::Put => there(Method::PUT, "", format!(r#"{{"metadata":{{"name":"{name}"}},{text}}}"#)),
            Form::List => Call::get(format!("{maps}?{}", encoded(&text))),
        }
    }
}

fn encoded(query: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-(),!=".contains(&byte);
    query
        .bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn many(size: usize, item: impl Fn(usize) -> String) -> String {
    (0..size).map(item).collect::<Vec<_>>().join(",")
}

/// Data of a map with that many keys.
fn keys(size: usize) -> String {
    format!(r#""data":{{{}}}"#, many(size, |n| format!(r#""k{n}":"""#)))
}

/// Likewise with other values.
fn other_keys(size: usize) -> String {
    format!(r#""data":{{{}}}"#, many(size, |n| format!(r#""k{n}":"w""#)))
}

fn finalizers(size: usize) -> String {
    many(size, |n| format!(r#""e.com/{n}""#))
}

/// One container with a list of things.
fn container(list: &str, items: &str) -> String {
    format!(r#""containers":[{{"name":"c","image":"i","{list}":[{items}]}}]"#)
}

/// One container, and a list of the pod's.
fn pod_with(list: &str, items: &str) -> String {
    format!(r#""containers":[{{"name":"c","image":"i"}}],"{list}":[{items}]"#)
}

fn operations(operation: &str, size: usize) -> String {
    format!("[{}]", vec![operation; size].join(","))
}

/// A policy with these expressions.
fn policy(expressions: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"hostile"}},"spec":{{"matchConstraints":{{"resourceRules":[{{"apiGroups":[""],"apiVersions":["v1"],
        "operations":["CREATE"],"resources":["pods"]}}]}},"validations":[{expressions}]}}}}"#
    )
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

/// All kinds.
pub(super) const KINDS: &[Kind] = &[
    Kind::new("create: keys of a map", 1000, Form::Map, keys),
    Kind::new("create: keys that are invalid", 1000, Form::Map, |size| {
        format!(r#""data":{{{}}}"#, many(size, |n| format!(r#""k {n}":"""#)))
    }),
    Kind::new("create: numbers in an unknown field", 1000, Form::Map, |size| {
        format!(r#""x":[{}]"#, many(size, |_| "0".into()))
    }),
    Kind::new("create: unknown fields", 1000, Form::Map, |size| {
        many(size, |n| format!(r#""x{n}":0"#))
    }),
    Kind::new("create: one unknown field repeated", 1000, Form::Map, |size| {
        many(size, |_| r#""x":0"#.into())
    }),
    Kind::new("create: escapes in one text", 1000, Form::Map, |size| {
        format!(r#""data":{{"k":"{}"}}"#, "\\u00e9\\n".repeat(size))
    }),
    Kind::new("create: depth", 16, Form::Map, |size| {
        format!(r#""x":{}{}"#, "[".repeat(size), "]".repeat(size))
    }),
    Kind::new("create: finalizers", 100, Form::Metadata, |size| {
        format!(r#""finalizers":[{}]"#, finalizers(size))
    }),
    Kind::new("create: equal owner references", 100, Form::Metadata, |size| {
        let owner = |_| r#"{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}"#.into();
        format!(r#""ownerReferences":[{}]"#, many(size, owner))
    }),
    Kind::new("create: owner references", 100, Form::Metadata, |size| {
        let owner = |n| format!(r#"{{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u{n}"}}"#);
        format!(r#""ownerReferences":[{}]"#, many(size, owner))
    }),
    Kind::new("create: owners of fields", 100, Form::Metadata, |size| {
        let entry = |n| {
            format!(
                r#"{{"manager":"m{n}","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{{"f:data":{{"f:k{n}":{{}}}}}}}}"#
            )
        };
        format!(r#""managedFields":[{}]"#, many(size, entry))
    }),
    Kind::new("create role: names", 1000, Form::Create(ROLES), |size| {
        format!(
            r#"{{"metadata":{{"name":"hostile"}},"rules":[{{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":[{}]}}]}}"#,
            many(size, |n| format!(r#""n{n}""#))
        )
    }),
    Kind::new(
        "create policy: peers of a rule",
        100,
        Form::CreateNamespaced("networking.k8s.io/v1/networkpolicies"),
        |size| {
            let peer = |n| format!(r#"{{"ipBlock":{{"cidr":"10.{}.{}.0/24"}}}}"#, n / 256 % 256, n % 256);
            format!(
                r#"{{"metadata":{{"name":"hostile"}},"spec":{{"podSelector":{{}},"ingress":[{{"from":[{}]}}]}}}}"#,
                many(size, peer)
            )
        },
    ),
    Kind::new(
        "create policy: terms of a selector",
        100,
        Form::CreateNamespaced("networking.k8s.io/v1/networkpolicies"),
        |size| {
            let term = |n| format!(r#"{{"key":"k{n}","operator":"In","values":["a","b"]}}"#);
            format!(
                r#"{{"metadata":{{"name":"hostile"}},"spec":{{"podSelector":{{"matchExpressions":[{}]}}}}}}"#,
                many(size, term)
            )
        },
    ),
    Kind::new("create pod: containers", 10, Form::Pod, |size| {
        let one = |n| format!(r#"{{"name":"c{n}","image":"i"}}"#);
        format!(r#""containers":[{}]"#, many(size, one))
    }),
    Kind::new("create pod: variables", 100, Form::Pod, |size| {
        container("env", &many(size, |n| format!(r#"{{"name":"E{n}","value":"v"}}"#)))
    }),
    Kind::new("create pod: one variable repeated", 100, Form::Pod, |size| {
        container("env", &many(size, |n| format!(r#"{{"name":"E{}","value":"v"}}"#, n / 2)))
    }),
    Kind::new("create pod: ports", 100, Form::Pod, |size| {
        container("ports", &many(size, |n| format!(r#"{{"containerPort":{}}}"#, n % 65_535 + 1)))
    }),
    Kind::new("create pod: volumes", 100, Form::Pod, |size| {
        pod_with("volumes", &many(size, |n| format!(r#"{{"name":"v{n}","emptyDir":{{}}}}"#)))
    }),
    Kind::new("create pod: containers that mount", 10, Form::Pod, |size| {
        let volumes = many(size, |n| format!(r#"{{"name":"v{n}","emptyDir":{{}}}}"#));
        let one = |n| format!(r#"{{"name":"c{n}","image":"i","volumeMounts":[{{"name":"v{n}","mountPath":"/m"}}]}}"#);
        format!(r#""volumes":[{volumes}],"containers":[{}]"#, many(size, one))
    }),
    Kind::new("create pod: files of one volume", 100, Form::Pod, |size| {
        let item = |n| format!(r#"{{"key":"k","path":"p{n}"}}"#);
        pod_with(
            "volumes",
            &format!(
                r#"{{"name":"v","projected":{{"sources":[{{"configMap":{{"name":"m","items":[{}]}}}}]}}}}"#,
                many(size, item)
            ),
        )
    }),
    Kind::new("create pod: tolerations", 100, Form::Pod, |size| {
        pod_with(
            "tolerations",
            &many(size, |n| format!(r#"{{"key":"k{n}","operator":"Exists"}}"#)),
        )
    }),
    Kind::new("create pod: terms of affinity", 100, Form::Pod, |size| {
        let term = |n| format!(r#"{{"topologyKey":"t","labelSelector":{{"matchLabels":{{"a":"b{n}"}}}}}}"#);
        format!(
            r#""containers":[{{"name":"c","image":"i"}}],"affinity":{{"podAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":[{}]}}}}"#,
            many(size, term)
        )
    }),
    Kind::new("create definition: properties", 100, Form::Definition, |size| {
        many(size, |n| format!(r#""p{n}":{{"type":"string"}}"#))
    }),
    Kind::new("create definition: lists", 100, Form::Definition, |size| {
        many(size, |n| format!(r#""p{n}":{{"type":"array","items":{{"type":"string"}}}}"#))
    }),
    Kind::new("create definition: defaults", 100, Form::Definition, |size| {
        many(size, |n| format!(r#""p{n}":{{"type":"string","default":"x"}}"#))
    }),
    Kind::new("create definition: alternatives", 100, Form::Definition, |size| {
        many(size, |n| {
            format!(r#""p{n}":{{"type":"string","anyOf":[{{"minLength":1}},{{"maxLength":9}}]}}"#)
        })
    }),
    Kind::new("create definition: maps", 100, Form::Definition, |size| {
        many(size, |n| {
            format!(r#""p{n}":{{"type":"object","additionalProperties":{{"type":"string"}}}}"#)
        })
    }),
    Kind::new("create definition: objects", 100, Form::Definition, |size| {
        many(size, |n| {
            format!(r#""p{n}":{{"type":"object","properties":{{"a":{{"type":"string"}}}}}}"#)
        })
    }),
    Kind::new("create definition: lists with keys", 100, Form::Definition, |size| {
        many(size, |n| {
            format!(
                r#""p{n}":{{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["a"],"items":{{"type":"object",
                "required":["a"],"properties":{{"a":{{"type":"string"}}}}}}}}"#
            )
        })
    }),
    Kind::new("create definition: numbers or texts", 100, Form::Definition, |size| {
        many(size, |n| format!(r#""p{n}":{{"x-kubernetes-int-or-string":true}}"#))
    }),
    Kind::new(
        "create definition: formats that nobody knows",
        100,
        Form::Definition,
        |size| many(size, |n| format!(r#""p{n}":{{"type":"string","format":"f{n}"}}"#)),
    ),
    Kind::new("create definition: patterns", 100, Form::Definition, |size| {
        many(size, |n| {
            format!(r#""p{n}":{{"type":"string","pattern":"^(a{{1,9}}|b*)*{n}$"}}"#)
        })
    }),
    Kind::new("create definition: a pattern of classes", 100, Form::Definition, |size| {
        format!(r#""p":{{"type":"string","pattern":"{}"}}"#, r"\\pL".repeat(size))
    }),
    Kind::new("create definition: defaults with patterns", 10, Form::Definition, |size| {
        many(size, |n| {
            format!(r#""p{n}":{{"type":"string","default":"x","pattern":"^(x{{1,9}}|b*)*({n})?$"}}"#)
        })
    }),
    Kind::new(
        "create definition: properties below a long name",
        100,
        Form::Definition,
        |size| {
            format!(
                r#""{}":{{"type":"object","properties":{{{}}}}}"#,
                "n".repeat(size * 10),
                many(size, |n| format!(r#""p{n}":{{"type":"string"}}"#))
            )
        },
    ),
    Kind::new("create admission policy: expressions", 10, Form::Create(POLICIES), |size| {
        policy(&many(size, |n| format!(r#"{{"expression":"object.a{n} == 1"}}"#)))
    }),
    Kind::new("create admission policy: a chain", 10, Form::Create(POLICIES), |size| {
        policy(&format!(r#"{{"expression":"1{}==1"}}"#, "+1".repeat(size)))
    }),
    Kind::new("create admission policy: brackets", 10, Form::Create(POLICIES), |size| {
        policy(&format!(r#"{{"expression":"{}1{}==1"}}"#, "(".repeat(size), ")".repeat(size)))
    }),
    Kind::new(
        "create admission policy: macros that copy",
        4,
        Form::Create(POLICIES),
        |size| {
            // Each doubles the nodes of what stands before it.
            let copied = format!(r#"{{"expression":"optional.of(1){}.hasValue()"}}"#, ".optMap(x,x)".repeat(8));
            policy(&many(size, |_| copied.clone()))
        },
    ),
    Kind::new(
        "create admission policy: types within types",
        4,
        Form::Create(POLICIES),
        |size| {
            let nested = format!(r#"{{"expression":"{}1{} == []"}}"#, "[".repeat(240), "]".repeat(240));
            policy(&many(size, |_| nested.clone()))
        },
    ),
    Kind::new("create admission policy: sums", 4, Form::Create(POLICIES), |size| {
        let sum = format!(r#"{{"expression":"1{}==1"}}"#, "+1".repeat(248));
        policy(&many(size, |_| sum.clone()))
    }),
    Kind::new("create admission policy: loops", 4, Form::Create(POLICIES), |size| {
        policy(&many(size, |n| format!(r#"{{"expression":"[1].all(x,x=={n})"}}"#)))
    }),
    Kind::new("create definition: rules", 10, Form::Definition, |size| {
        many(size, |n| {
            format!(r#""p{n}":{{"type":"string","maxLength":9,"x-kubernetes-validations":[{{"rule":"self!='{n}'"}}]}}"#)
        })
    }),
    Kind::new("create admission policy: a pattern", 10, Form::Create(POLICIES), |size| {
        policy(&format!(r#"{{"expression":"'a'.matches('{}')"}}"#, "(a{1,9})*".repeat(size)))
    }),
    Kind::new("create YAML: keys of a map", 1000, Form::Yaml, |size| {
        format!("data:\n{}", (0..size).map(|n| format!("  k{n}: ''\n")).collect::<String>())
    }),
    Kind::new("create YAML: numbers in an unknown field", 1000, Form::Yaml, |size| {
        format!("x: [{}]\n", many(size, |_| " 0".into()))
    }),
    Kind::new("create YAML: aliases", 10, Form::Yaml, |size| {
        format!("x: &x [a, b, c, d, e, f, g, h]\ny: [{}]\n", many(size, |_| " *x".into()))
    }),
    Kind::new("create YAML: depth", 16, Form::Yaml, |size| {
        format!("x: {}0\n", "- ".repeat(size))
    }),
    Kind::new("JSON patch: copies", 2, Form::Patch(JSON_PATCH), |size| {
        operations(
            r#"{"op":"copy","from":"/metadata/finalizers","path":"/metadata/finalizers/-"}"#,
            size,
        )
    }),
    Kind::new("JSON patch: elements put in front", 100, Form::Patch(JSON_PATCH), |size| {
        operations(r#"{"op":"add","path":"/metadata/finalizers/0","value":"e.com/x"}"#, size)
    }),
    Kind::new("JSON patch: tests", 100, Form::Patch(JSON_PATCH), |size| {
        operations(r#"{"op":"test","path":"/data/k","value":"v"}"#, size)
    }),
    Kind::new("merge patch: keys of a map", 1000, Form::Patch(MERGE), |size| {
        format!("{{{}}}", keys(size))
    }),
    Kind::new("strategic patch: finalizers", 100, Form::Patch(STRATEGIC), |size| {
        format!(
            r#"{{"metadata":{{"finalizers":[{0}],"$setElementOrder/finalizers":[{0}]}}}}"#,
            finalizers(size)
        )
    }),
    Kind::new("apply: keys of a map", 1000, Form::Apply, |size| {
        format!(r#""metadata":{{"name":"NAME"}},{}"#, keys(size))
    }),
    Kind::new("apply: finalizers", 100, Form::Apply, |size| {
        format!(r#""metadata":{{"name":"NAME","finalizers":[{}]}}"#, finalizers(size))
    }),
    Kind::new("apply: unknown fields below a long name", 100, Form::Apply, |size| {
        format!(
            r#""metadata":{{"name":"NAME","ownerReferences":[{{"uid":"{}"{}}}]}}"#,
            "n".repeat(size * 10),
            (0..size).map(|n| format!(r#","x{n}":1"#)).collect::<String>()
        )
    }),
    Kind::new("replace a map of many keys", 1000, Form::Put, other_keys).after(keys),
    Kind::new("one key of a map of many keys", 1000, Form::Patch(MERGE), |_| {
        r#"{"data":{"k0":"w"}}"#.into()
    })
    .after(keys),
    Kind::new("apply onto a map of many keys", 1000, Form::Apply, |size| {
        format!(r#""metadata":{{"name":"NAME"}},{}"#, other_keys(size))
    })
    .after(keys),
    Kind::new("list: parentheses", 1000, Form::List, |size| {
        format!("labelSelector={}", "(".repeat(size))
    }),
    Kind::new("list: labels that must not be", 100, Form::List, |size| {
        format!("labelSelector={}", many(size, |n| format!("!k{n}")))
    }),
    Kind::new("list: values of a label", 100, Form::List, |size| {
        format!("labelSelector=a in ({})", many(size, |n| format!("v{n}")))
    }),
    Kind::new("list: terms on a field", 100, Form::List, |size| {
        format!("fieldSelector={}", many(size, |n| format!("metadata.name!=n{n}")))
    }),
];
