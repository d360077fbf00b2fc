//! Values for a field of the field table: usual ones, those at an edge, and a few that are wrong.

use serde_json::{Map, Value, json};
use trireme_api::schema::{Field, Struct, Type};

use crate::chance::Chance;

/// How deep a value that is made anew goes.
const DEPTH_MAX: usize = 3;

const STRINGS: &[&str] = &[
    "a",
    "b",
    "x",
    "",
    "A",
    "-a",
    "a.b",
    "a-b",
    "example.com/a",
    "a_b",
    "/a",
    "/a/../b",
    "*",
    "é",
    " a",
    "1",
    "192.0.2.5",
    "192.0.2.0/24",
    "2001:db8::1",
    "999.0.2.1",
    "http",
    "https://a.example/x",
    "registry.example/app:1",
    "metadata.name",
    "default",
    "system:a",
    "kubernetes.io/a",
    "ALL",
    "None",
    "true",
    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmno",
];

/// What fields of some names take, and one value that none takes.
const NAMED: &[(&str, &[&str])] = &[
    (
        "accessModes",
        &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod", "Wrong"],
    ),
    ("action", &["FailJob", "Ignore", "Count", "FailIndex", "Wrong"]),
    ("addressType", &["IPv4", "IPv6", "FQDN", "Wrong"]),
    ("apiGroups", &["", "apps", "*", "nothing.example"]),
    ("completionMode", &["Indexed", "NonIndexed", "Wrong"]),
    ("concurrencyPolicy", &["Allow", "Forbid", "Replace", "Wrong"]),
    (
        "dnsPolicy",
        &["ClusterFirst", "Default", "None", "ClusterFirstWithHostNet", "Wrong"],
    ),
    ("effect", &["NoSchedule", "NoExecute", "PreferNoSchedule", "Wrong"]),
    // Of all uses together, so that each is right in one place and of a wrong type or without its names in another.
    (
        "expression",
        &[
            "true",
            "object.spec.replicas <= 5",
            "request.userInfo.groups.exists(g, g == 'a')",
            "request.kind.group == 1",
            "request.wrong",
            "params.a == 'b'",
            "variables.a + 1",
            "namespaceObject.metadata.labels['a']",
            "authorizer.group('').resource('pods').check('get').allowed()",
            "device.driver == 'a.example'",
            "device.attributes['a.example'].b",
            "device.capacity['a.example'].b.compareTo(quantity('1Gi')) >= 0",
            "device.attributes.all(k, device.attributes.all(l, device.attributes.all(m, device.attributes.all(n, k == n))))",
            "cel.bind(a, device.attributes['a.example'], a.b && a.c)",
            "device.wrong",
            "[JSONPatch{op: 'add', path: '/a', value: 1}]",
            "Object{metadata: Object.metadata{labels: {'a': 'b'}}}",
            "[1, 'a']",
            "'a'.matches('(')",
            "int('a') == 1",
            "1 +",
            "if",
        ],
    ),
    ("externalTrafficPolicy", &["Local", "Cluster", "Wrong"]),
    ("failurePolicy", &["Fail", "Ignore", "Wrong"]),
    (
        "fieldPath",
        &[
            "metadata.name",
            "metadata.labels['a']",
            "status.podIP",
            "spec.nodeName",
            "spec.wrong",
        ],
    ),
    ("fsGroupChangePolicy", &["Always", "OnRootMismatch", "Wrong"]),
    ("fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType", "Wrong"]),
    ("imagePullPolicy", &["Always", "IfNotPresent", "Never", "Wrong"]),
    ("internalTrafficPolicy", &["Local", "Cluster", "Wrong"]),
    ("ipFamilies", &["IPv4", "IPv6", "Wrong"]),
    (
        "ipFamilyPolicy",
        &["SingleStack", "PreferDualStack", "RequireDualStack", "Wrong"],
    ),
    ("mountPropagation", &["None", "HostToContainer", "Bidirectional", "Wrong"]),
    (
        "messageExpression",
        &[
            "'a'",
            "string(object.metadata.name)",
            "object.a",
            "authorizer",
            "'%d'.format(['a'])",
        ],
    ),
    (
        "operator",
        &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Equal", "Wrong"],
    ),
    ("pathType", &["Exact", "Prefix", "ImplementationSpecific", "Wrong"]),
    ("persistentVolumeReclaimPolicy", &["Retain", "Delete", "Recycle", "Wrong"]),
    ("podManagementPolicy", &["OrderedReady", "Parallel", "Wrong"]),
    ("policyTypes", &["Ingress", "Egress", "Wrong"]),
    ("preemptionPolicy", &["Never", "PreemptLowerPriority", "Wrong"]),
    ("procMount", &["Default", "Unmasked", "Wrong"]),
    ("protocol", &["TCP", "UDP", "SCTP", "Wrong"]),
    ("resource", &["limits.cpu", "requests.memory", "pods", "Wrong"]),
    ("restartPolicy", &["Always", "OnFailure", "Never", "Wrong"]),
    (
        "schedule",
        &[
            "* * * * *",
            "@hourly",
            "0 0 31 2 *",
            "*/2 1-5,7 * * MON",
            "wrong",
            "TZ=UTC * * * * *",
        ],
    ),
    ("scheme", &["HTTP", "HTTPS", "Wrong"]),
    (
        "scopes",
        &["BestEffort", "NotBestEffort", "Terminating", "PriorityClass", "Wrong"],
    ),
    ("sessionAffinity", &["None", "ClientIP", "Wrong"]),
    ("sideEffects", &["None", "NoneOnDryRun", "Some", "Wrong"]),
    ("terminationMessagePolicy", &["File", "FallbackToLogsOnError", "Wrong"]),
    ("timeZone", &["UTC", "Europe/Berlin", "Local", "Wrong/Zone"]),
    ("topologyKey", &["zone", "kubernetes.io/hostname", "", "a b"]),
    (
        "type",
        &[
            "ClusterIP",
            "NodePort",
            "LoadBalancer",
            "ExternalName",
            "RollingUpdate",
            "Recreate",
            "OnDelete",
            "RuntimeDefault",
            "Localhost",
            "Unconfined",
            "Container",
            "Pod",
            "PersistentVolumeClaim",
            "Utilization",
            "AverageValue",
            "Resource",
            "Pods",
            "Percent",
            "Ready",
            "Opaque",
            "kubernetes.io/tls",
            "Wrong",
        ],
    ),
    ("unhealthyPodEvictionPolicy", &["IfHealthyBudget", "AlwaysAllow", "Wrong"]),
    ("validationActions", &["Deny", "Warn", "Audit", "Wrong"]),
    ("valueExpression", &["'a'", "null", "1", "string(object.a)", "variables.a"]),
    ("verb", &["get", "*", "wrong"]),
    ("verbs", &["get", "list", "*", ""]),
    ("volumeBindingMode", &["Immediate", "WaitForFirstConsumer", "Wrong"]),
    ("volumeMode", &["Filesystem", "Block", "Wrong"]),
    ("whenDeleted", &["Retain", "Delete", "Wrong"]),
    ("whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway", "Wrong"]),
];

const KEYS: &[&str] = &[
    "a",
    "b",
    "cpu",
    "memory",
    "storage",
    "example.com/gpu",
    "kubernetes.io/x",
    "-bad",
    "pods",
    "requests.cpu",
];
const QUANTITIES: &[&str] = &[
    "1",
    "100m",
    "1Gi",
    "0",
    "-1",
    "0.0001",
    "1u",
    "1.5",
    "1e3",
    "abc",
    "2Ki",
    "0.5Gi",
    "",
    "12345678901234567890",
];

/// A value for a field.
pub(crate) fn value(field: &Field, chance: &mut Chance) -> Value {
    of(field.json, field.ty, chance, 0)
}

fn of(name: &str, ty: Type, chance: &mut Chance, depth: usize) -> Value {
    if chance.percent(3) {
        // Of another type than the field's.
        let wrong = [
            json!(null),
            json!("wrong"),
            json!(7),
            json!(true),
            json!([]),
            json!({}),
            json!([null]),
            json!(1.5),
        ];
        return chance.pick(&wrong).clone();
    }
    match ty {
        Type::String => string(name, chance),
        Type::Bool => json!(chance.percent(50)),
        Type::Int32 | Type::Int64 => {
            let numbers = [
                0_i64,
                1,
                2,
                3,
                -1,
                5,
                30,
                53,
                80,
                100,
                443,
                420,
                511,
                512,
                1000,
                30080,
                65535,
                65536,
                2_147_483_647,
                2_147_483_648,
            ];
            json!(chance.pick(&numbers))
        }
        Type::Double => json!(chance.pick(&[0.0, 1.0, 0.5, -1.0])),
        Type::Quantity => match chance.below(8) {
            0 => json!(chance.below(5)),
            _ => json!(chance.pick(QUANTITIES)),
        },
        Type::IntOrString => {
            let some = [
                json!(0),
                json!(1),
                json!(-1),
                json!("50%"),
                json!("0%"),
                json!("101%"),
                json!("http"),
                json!("Wrong_"),
                json!(70000),
                json!("1"),
            ];
            chance.pick(&some).clone()
        }
        Type::Time | Type::MicroTime => {
            let some = [
                "2026-01-02T03:04:05Z",
                "2026-01-02T03:04:05.123456Z",
                "2026-01-02T03:04:05+02:00",
                "2026-01-02",
                "",
            ];
            json!(chance.pick(&some))
        }
        Type::Duration => json!(chance.pick(&["1m30s", "0s", "90", "x"])),
        Type::Bytes => json!(chance.pick(&["AAEC", "", "!!", "YQ=="])),
        Type::Struct(ty) => structure(&ty, chance, depth),
        Type::List(element) => {
            let length = if depth > DEPTH_MAX { 0 } else { chance.below(3) };
            Value::Array((0..length).map(|_| of(name, *element, chance, depth + 1)).collect())
        }
        Type::Map(element) => {
            let length = if depth > DEPTH_MAX { 0 } else { chance.below(3) };
            let entries = (0..length).map(|_| {
                let key = (*chance.pick(KEYS)).to_owned();
                (key, of("", *element, chance, depth + 1))
            });
            Value::Object(entries.collect::<Vec<_>>().into_iter().collect())
        }
        Type::StringItems => json!([string(name, chance)]),
        Type::SchemaOrBool => json!(chance.percent(50)),
        _ => chance.pick(&[json!({}), json!({"a": 1}), json!({"type": "string"})]).clone(),
    }
}

fn string(name: &str, chance: &mut Chance) -> Value {
    let named = NAMED.iter().find(|(known, _)| *known == name);
    match named {
        Some((_, values)) if !chance.percent(5) => json!(chance.pick(values)),
        _ => json!(chance.pick(STRINGS)),
    }
}

/// An object with a few of the struct's fields.
fn structure(ty: &Struct, chance: &mut Chance, depth: usize) -> Value {
    let mut object = Map::new();
    if depth > DEPTH_MAX || ty.fields.is_empty() {
        return Value::Object(object);
    }
    for field in ty.fields {
        // What upstream does not call optional is likely to be needed.
        let likely = if field.optional || field.pointer { 12 } else { 60 };
        if field.tag != 0 && object.len() < 6 && chance.percent(likely) {
            object.insert(field.json.to_owned(), of(field.json, field.ty, chance, depth + 1));
        }
    }
    Value::Object(object)
}
