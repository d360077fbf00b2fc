//! Values as upstream's messages show them: texts quoted as Go quotes them, the rest as Go's JSON.
//!
//! Invariant: members come in the order of declaration. Structs of the API are shown in their internal form: Go names,
//! and every field, set or not; structs of the metadata package in their JSON form.

use serde_json::Value;
use trireme_api::schema::{self, Field, Struct, Type};

/// A text in quotes, escaped as Go's `%q` does.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            letter if letter.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// Any value: a text in quotes, other scalars bare, the rest as JSON.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => json(other),
    }
}

/// JSON as Go writes it.
pub(super) fn json(value: &Value) -> String {
    escape_html(&value.to_string())
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out
}

/// A struct of package and name, in the form it has inside upstream's server.
pub(super) fn internal(package: &str, name: &str, value: &Value) -> String {
    let Some(ty) = schema::named(package, name) else { return json(value) };
    let mut out = String::new();
    write(&mut out, &Type::List(&Type::Json), None, value, Some(ty));
    out
}

/// A selector in its JSON form.
pub(super) fn selector(value: &Value) -> String {
    if value.is_null() {
        return "null".to_owned();
    }
    let Some(ty) = schema::named("apimachinery/pkg/apis/meta/v1", "LabelSelector") else { return json(value) };
    let mut out = String::new();
    versioned(&mut out, ty, value);
    out
}

/// Fields that are called otherwise inside the server than their JSON name with a capital suggests.
const INITIALISMS: &[(&str, &str)] = &[
    ("apiGroup", "APIGroup"),
    ("apiGroups", "APIGroups"),
    ("apiVersion", "APIVersion"),
    ("awsElasticBlockStore", "AWSElasticBlockStore"),
    ("cephfs", "CephFS"),
    ("cidrs", "CIDRs"),
    ("clientIP", "ClientIP"),
    ("csi", "CSI"),
    ("diskURI", "DataDiskURI"),
    ("dnsConfig", "DNSConfig"),
    ("dnsPolicy", "DNSPolicy"),
    ("endpoints", "EndpointsName"),
    ("fc", "FC"),
    ("fsGroup", "FSGroup"),
    ("fsGroupChangePolicy", "FSGroupChangePolicy"),
    ("fsType", "FSType"),
    ("gcePersistentDisk", "GCEPersistentDisk"),
    ("gmsaCredentialSpec", "GMSACredentialSpec"),
    ("gmsaCredentialSpecName", "GMSACredentialSpecName"),
    ("grpc", "GRPC"),
    ("hostIP", "HostIP"),
    ("httpGet", "HTTPGet"),
    ("httpHeaders", "HTTPHeaders"),
    ("int", "IntValue"),
    ("bool", "BoolValue"),
    ("string", "StringValue"),
    ("version", "VersionValue"),
    ("ints", "IntValues"),
    ("bools", "BoolValues"),
    ("strings", "StringValues"),
    ("versions", "VersionValues"),
    ("ip", "IP"),
    ("iqn", "IQN"),
    ("iscsi", "ISCSI"),
    ("iscsiInterface", "ISCSIInterface"),
    ("image", "Image"),
    ("nfs", "NFS"),
    ("nonResourceURLs", "NonResourceURLs"),
    ("os", "OS"),
    ("pdID", "PdID"),
    ("pdName", "PDName"),
    ("rbd", "RBD"),
    ("scaleIO", "ScaleIO"),
    ("seLinuxChangePolicy", "SELinuxChangePolicy"),
    ("seLinuxOptions", "SELinuxOptions"),
    ("setHostnameAsFQDN", "SetHostnameAsFQDN"),
    ("storageos", "StorageOS"),
    ("targetWWNs", "TargetWWNs"),
    ("tcpSocket", "TCPSocket"),
    ("tls", "TLS"),
    ("tty", "TTY"),
    ("uid", "UID"),
    ("url", "URL"),
    ("wwids", "WWIDs"),
    ("discoveryCHAPAuth", "DiscoveryCHAPAuth"),
    ("discoveryAuthCHAP", "DiscoveryCHAPAuth"),
    ("chapAuthDiscovery", "DiscoveryCHAPAuth"),
    ("chapAuthSession", "SessionCHAPAuth"),
];

fn go_name(json: &str) -> String {
    if let Some((_, name)) = INITIALISMS.iter().find(|(known, _)| *known == json) {
        return (*name).to_owned();
    }
    let mut letters = json.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Structs whose fields stand in another order inside the server, or under another name: `Go=json`, in order. A name
/// after a dot is taken from the struct around it.
const ORDERS: &[(&str, &[&str])] = &[
    ("PodDisruptionBudgetSpec", &["minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy"]),
    (
        "PersistentVolumeClaimSpec",
        &[
            "accessModes",
            "selector",
            "resources",
            "volumeName",
            "storageClassName",
            "volumeMode",
            "dataSource",
            "dataSourceRef",
            "volumeAttributesClassName",
        ],
    ),
    ("ServicePort", &["name", "protocol", "appProtocol", "port", "targetPort", "nodePort"]),
    ("Taint", &["key", "value", "effect", "timeAdded"]),
];

fn fields(ty: &'static Struct) -> Vec<&'static Field> {
    let order = ORDERS.iter().find(|(name, _)| *name == ty.name);
    order.map_or_else(
        || ty.fields.iter().collect(),
        |(_, names)| names.iter().filter_map(|name| ty.field(name)).collect(),
    )
}

fn write(out: &mut String, ty: &Type, field: Option<&Field>, value: &Value, root: Option<&'static Struct>) {
    let inner = match (root, ty) {
        (Some(root), _) => Some(root),
        (None, Type::Struct(inner)) => Some(inner.get()),
        _ => None,
    };
    let pointer = field.is_some_and(|field| field.pointer);
    if let Some(inner) = inner {
        if value.is_null() && (pointer || root.is_some()) {
            out.push_str("null");
        } else if inner.package.starts_with("apimachinery/") {
            versioned(out, inner, value);
        } else {
            out.push('{');
            for (index, field) in fields(inner).into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&format!("\"{}\":", go_name(field.json)));
                write(out, &field.ty, Some(field), value.get(field.json).unwrap_or(&Value::Null), None);
            }
            out.push('}');
        }
        return;
    }
    match (ty, value) {
        (Type::List(inner), Value::Array(items)) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, inner, None, item, None);
            }
            out.push(']');
        }
        (Type::Map(inner), Value::Object(members)) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&json(&Value::from(key.as_str())));
                out.push(':');
                write(out, inner, None, member, None);
            }
            out.push('}');
        }
        (Type::List(_) | Type::Map(_) | Type::Bytes | Type::RawExtension | Type::Json | Type::Time | Type::MicroTime, Value::Null) => {
            out.push_str("null");
        }
        (_, Value::Null) if pointer => out.push_str("null"),
        (Type::String | Type::Duration, Value::Null) => out.push_str("\"\""),
        (Type::Bool, Value::Null) => out.push_str("false"),
        (Type::Quantity, Value::Null) => out.push_str("\"0\""),
        (Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString, Value::Null) => out.push('0'),
        (_, value) => out.push_str(&json(value)),
    }
}

fn versioned(out: &mut String, ty: &'static Struct, value: &Value) {
    out.push('{');
    let mut first = true;
    for field in ty.fields {
        let Some(member) = value.get(field.json).filter(|member| !member.is_null()) else { continue };
        if !first {
            out.push(',');
        }
        first = false;
        out.push_str(&format!("\"{}\":", field.json));
        match (&field.ty, member) {
            (Type::Struct(inner), member) => versioned(out, inner.get(), member),
            (Type::List(Type::Struct(inner)), Value::Array(items)) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    versioned(out, inner.get(), item);
                }
                out.push(']');
            }
            (_, member) => out.push_str(&json(member)),
        }
    }
    out.push('}');
}
