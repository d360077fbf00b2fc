//! What a method and a path ask for: upstream's `RequestInfo`.
//!
//! Invariant: pure. It names resources without knowing whether they exist, as authorisation comes first.

use http::Method;

use super::query::{Query, decode};
use crate::authorization::Attributes;

/// A request in the API's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether it means a resource.
    pub resource_request: bool,
    /// Verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; for the namespace resource itself, its name.
    pub namespace: String,
    /// Plural.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Name.
    pub name: String,
    /// What comes behind the subresource, for proxies.
    pub rest: String,
    /// Whether the legacy `watch/` prefix was used.
    pub legacy_watch: bool,
    /// The decoded path segments behind group and version.
    pub segments: Vec<String>,
    /// The path as it came.
    pub path: String,
}

const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

/// Reads a request line.
#[must_use]
pub fn request_info(method: &Method, path: &str, query: &Query) -> RequestInfo {
    let mut info = RequestInfo {
        path: path.to_owned(),
        verb: method.as_str().to_ascii_lowercase(),
        ..RequestInfo::default()
    };
    let trimmed = path.trim_matches('/');
    let mut parts: Vec<&str> = trimmed.split('/').collect();
    let prefix_length = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        _ => return info,
    };
    if parts.len() <= prefix_length {
        return info;
    }
    info.version = parts[prefix_length - 1].to_owned();
    if prefix_length == 3 {
        info.group = parts[1].to_owned();
    }
    parts.drain(..prefix_length);
    info.resource_request = true;
    info.segments = parts.iter().map(|part| decode(part, false)).collect();
    info.verb = match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
    .to_owned();
    if info.segments[0] == "watch" || info.segments[0] == "proxy" {
        if info.segments.len() < 2 {
            return info;
        }
        if info.segments[0] == "watch" {
            info.verb = "watch".to_owned();
            info.legacy_watch = true;
        }
        info.segments.remove(0);
    }
    name_parts(&mut info);
    collection_verb(&mut info, query);
    info
}

fn name_parts(info: &mut RequestInfo) {
    let mut parts: &[String] = &info.segments;
    if parts[0] == "namespaces"
        && let Some(namespace) = parts.get(1)
    {
        info.namespace = namespace.clone();
        if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
            parts = &parts[2..];
        }
    }
    info.resource = parts[0].clone();
    if let Some(name) = parts.get(1) {
        info.name = name.clone();
    }
    if let Some(subresource) = parts.get(2) {
        info.subresource = subresource.clone();
    }
    if parts.len() > 3 {
        info.rest = parts[3..].join("/");
    }
}

fn collection_verb(info: &mut RequestInfo, query: &Query) {
    if info.name.is_empty() && info.verb == "get" {
        info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
    }
    if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".to_owned();
    }
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
        && info.name.is_empty()
        && let Some(name) = query.text("fieldSelector").and_then(name_of_field_selector)
    {
        info.name = name;
    }
}

/// The name that a field selector pins, for authorisation by name.
fn name_of_field_selector(selector: &str) -> Option<String> {
    let value = selector
        .split(',')
        .find_map(|term| term.trim().strip_prefix("metadata.name="))?;
    let value = value.strip_prefix('=').unwrap_or(value);
    let plain = !value.is_empty() && !value.contains(['/', '%', '\\']) && value != "." && value != "..";
    plain.then(|| value.to_owned())
}

impl RequestInfo {
    /// The name in the path, as opposed to one that a field selector pins.
    #[must_use]
    pub fn path_name(&self) -> Option<&str> {
        let at = match (self.segments.first().map(String::as_str), self.resource.as_str()) {
            (Some("namespaces"), "namespaces") => 1,
            (Some("namespaces"), _) => 3,
            _ => 1,
        };
        self.segments.get(at).map(String::as_str)
    }

    /// Whether the path names a namespace that the resource lives in.
    #[must_use]
    pub fn in_namespace(&self) -> bool {
        self.resource != "namespaces" && self.segments.first().is_some_and(|first| first == "namespaces")
    }

    /// For authorisation.
    #[must_use]
    pub fn attributes(&self, query: &Query) -> Attributes {
        let collection = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        let selector = |name| {
            let text = if collection { query.get(name) } else { None };
            text.unwrap_or_default().to_owned()
        };
        Attributes {
            verb: self.verb.clone(),
            resource_request: self.resource_request,
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: self.path.clone(),
            field_selector: selector("fieldSelector"),
            label_selector: selector("labelSelector"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, url: &str, expected: [&str; 6]) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let info = request_info(&method, path, &Query::parse(Some(query)));
        let actual = [
            &info.verb,
            &info.group,
            &info.namespace,
            &info.resource,
            &info.name,
            &info.subresource,
        ];
        assert_eq!(actual, expected, "{method} {url}");
    }

    #[test]
    fn paths_become_verbs_and_names() {
        check("GET", "/api/v1/pods", ["list", "", "", "pods", "", ""]);
        check("GET", "/api/v1/pods?watch=1", ["watch", "", "", "pods", "", ""]);
        check("GET", "/api/v1/namespaces/a/pods/b/log", ["get", "", "a", "pods", "b", "log"]);
        check("GET", "/api/v1/namespaces/a", ["get", "", "a", "namespaces", "a", ""]);
        check(
            "PUT",
            "/api/v1/namespaces/a/finalize",
            ["update", "", "a", "namespaces", "a", "finalize"],
        );
        check(
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments",
            ["deletecollection", "apps", "a", "deployments", "", ""],
        );
        check(
            "GET",
            "/api/v1/watch/namespaces/a/pods/b",
            ["watch", "", "a", "pods", "b", ""],
        );
        check(
            "GET",
            "/api/v1/namespaces/a/configmaps?fieldSelector=metadata.name%3Dx",
            ["list", "", "a", "configmaps", "x", ""],
        );
        check("GET", "/apis/apps/v1", ["get", "", "", "", "", ""]);
        check("GET", "/healthz", ["get", "", "", "", "", ""]);
        check("POST", "/api/v1/nodes", ["create", "", "", "nodes", "", ""]);
    }
}
