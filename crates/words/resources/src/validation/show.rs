//! Values as upstream's messages show them: texts quoted as Go quotes them, the rest as Go's JSON.
//!
//! Invariant: members come in the order of declaration. Structs of the API are shown in their internal form: Go names,
//! and every field, set or not; structs of the metadata package in their JSON form.

use serde_json::Value;
use trireme_api::go;
pub(crate) use trireme_api::go::quoted;
use trireme_api::schema::{self, Field, Struct, Type};

use super::show_orders::ORDERS;

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
    let Some(ty) = schema::named(package, name) else {
        return json(value);
    };
    let mut out = String::new();
    write(&mut out, &Type::Json, None, value, Some(ty), None);
    out
}

/// Structs of package and name, likewise.
pub(super) fn internal_list(package: &str, name: &str, value: &Value) -> String {
    let Some(items) = value.as_array() else {
        return "null".to_owned();
    };
    let items: Vec<String> = items.iter().map(|item| internal(package, name, item)).collect();
    format!("[{}]", items.join(","))
}

/// A schema of a custom resource.
fn schema_props(value: &Value) -> String {
    internal("apiextensions-apiserver/pkg/apis/apiextensions/v1", "JSONSchemaProps", value)
}

/// One schema, or a list of them, as the field that takes either holds it.
pub(super) fn schemas(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(schema_props).collect();
            format!("{{\"Schema\":null,\"JSONSchemas\":[{}]}}", items.join(","))
        }
        one => format!("{{\"Schema\":{},\"JSONSchemas\":null}}", schema_props(one)),
    }
}

/// A selector in its JSON form.
pub(super) fn selector(value: &Value) -> String {
    if value.is_null() {
        return "null".to_owned();
    }
    let Some(ty) = schema::named("apimachinery/pkg/apis/meta/v1", "LabelSelector") else {
        return json(value);
    };
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
    ("ip", "IP"),
    ("iqn", "IQN"),
    ("iscsi", "ISCSI"),
    ("iscsiInterface", "ISCSIInterface"),
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
    ("qosClass", "QOSClass"),
    ("gid", "GID"),
    ("caBundle", "CABundle"),
    ("ipMode", "IPMode"),
    ("http", "HTTP"),
    ("jsonPath", "JSONPath"),
    ("url", "URL"),
    ("wwids", "WWIDs"),
    ("discoveryCHAPAuth", "DiscoveryCHAPAuth"),
    ("discoveryAuthCHAP", "DiscoveryCHAPAuth"),
    ("chapAuthDiscovery", "DiscoveryCHAPAuth"),
    ("chapAuthSession", "SessionCHAPAuth"),
];

/// Fields that are pointers in the API and none inside the server.
const PLAIN: &[(&str, &str)] = &[
    ("RollingUpdateDaemonSet", "maxSurge"),
    ("RollingUpdateDaemonSet", "maxUnavailable"),
    ("RollingUpdateDeployment", "maxSurge"),
    ("RollingUpdateDeployment", "maxUnavailable"),
    ("RollingUpdateStatefulSetStrategy", "partition"),
];

fn go_name(json: &str) -> String {
    if let Some((_, name)) = INITIALISMS.iter().find(|(known, _)| *known == json) {
        return (*name).to_owned();
    }
    let mut letters = json.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Fields of a struct as the server has them: name, field, whether it stands in the struct around.
pub(super) fn fields(ty: &'static Struct, around: Option<&'static Struct>) -> Vec<(String, &'static Field, bool)> {
    let Some((_, names)) = ORDERS.iter().find(|(name, _)| *name == ty.name) else {
        return ty.fields.iter().map(|field| (go_name(field.json), field, false)).collect();
    };
    let one = |name: &&str| {
        let (go, json) = name
            .split_once('=')
            .map_or_else(|| (go_name(name), *name), |(go, json)| (go.to_owned(), json));
        match json.strip_prefix('^') {
            Some(json) => around?.field(json).map(|field| (go, field, true)),
            None => ty.field(json).map(|field| (go, field, false)),
        }
    };
    names.iter().filter_map(one).collect()
}

/// The struct around a value, and its value.
type Around<'a> = Option<(&'static Struct, &'a Value)>;

fn write(out: &mut String, ty: &Type, field: Option<&Field>, value: &Value, root: Option<&'static Struct>, around: Around<'_>) {
    let inner = match (root, ty) {
        (Some(root), _) => Some(root),
        (None, Type::Struct(inner)) => Some(inner.get()),
        _ => None,
    };
    let plain = |field: &Field| around.is_some_and(|(ty, _)| PLAIN.contains(&(ty.name, field.json)));
    let pointer = field.is_some_and(|field| field.pointer && !plain(field));
    if let Some(inner) = inner {
        if value.is_null() && (pointer || root.is_some()) {
            out.push_str("null");
        } else if inner.package.starts_with("apimachinery/") {
            versioned(out, inner, value);
        } else {
            members(out, inner, value, around);
        }
        return;
    }
    match (ty, value) {
        (Type::SchemaOrBool, value) if !value.is_null() => {
            let (allows, schema) = value.as_bool().map_or((true, value), |allows| (allows, &Value::Null));
            out.push_str(&format!("{{\"Allows\":{allows},\"Schema\":{}}}", schema_props(schema)));
        }
        (Type::SchemaOrArray, value) if !value.is_null() => out.push_str(&schemas(value)),
        (Type::SchemaOrStrings, Value::Array(_)) => {
            out.push_str(&format!("{{\"Schema\":null,\"Property\":{}}}", json(value)));
        }
        (Type::SchemaOrStrings, value) if !value.is_null() => {
            out.push_str(&format!("{{\"Schema\":{},\"Property\":null}}", schema_props(value)));
        }
        (Type::List(inner), Value::Array(items)) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, inner, None, item, None, None);
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
                write(out, inner, None, member, None, None);
            }
            out.push('}');
        }
        (
            Type::List(_) | Type::Map(_) | Type::Bytes | Type::RawExtension | Type::Json | Type::Time | Type::MicroTime,
            Value::Null,
        ) => {
            out.push_str("null");
        }
        (_, Value::Null) if pointer => out.push_str("null"),
        (Type::String | Type::Duration, Value::Null) => out.push_str("\"\""),
        (Type::Bool, Value::Null) => out.push_str("false"),
        (Type::Quantity, Value::Null) => out.push_str("\"0\""),
        (Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString, Value::Null) => out.push('0'),
        (Type::Double, Value::Number(number)) => out.push_str(&go::plain(&Value::Number(number.clone()))),
        (_, value) => out.push_str(&json(value)),
    }
}

fn members(out: &mut String, ty: &'static Struct, value: &Value, around: Around<'_>) {
    let mut parts: Vec<String> = Vec::new();
    for (name, field, outside) in fields(ty, around.map(|(ty, _)| ty)) {
        let holder = if outside {
            around.map_or(&Value::Null, |(_, value)| value)
        } else {
            value
        };
        let member = holder.get(field.json).unwrap_or(&Value::Null);
        let mut text = String::new();
        if let ("metadata", Type::Struct(inner)) = (field.json, &field.ty) {
            // Inside the server metadata is part of the struct itself.
            versioned(&mut text, inner.get(), member);
            text = text[1..text.len() - 1].to_owned();
            if !text.is_empty() {
                parts.push(text);
            }
            continue;
        }
        write(&mut text, &field.ty, Some(field), member, None, Some((ty, value)));
        parts.push(format!("\"{name}\":{text}"));
    }
    out.push_str(&format!("{{{}}}", parts.join(",")));
}

fn versioned(out: &mut String, ty: &'static Struct, value: &Value) {
    out.push('{');
    let mut first = true;
    for field in ty.fields {
        let empty = |member: &&Value| match member {
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty() && matches!(field.ty, Type::Map(_)),
            other => other.is_null(),
        };
        let member = value.get(field.json).filter(|member| !member.is_null());
        let Some(member) = member.filter(|member| !(field.omitempty && empty(member))) else {
            continue;
        };
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
