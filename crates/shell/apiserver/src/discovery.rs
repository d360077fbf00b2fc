//! Discovery documents, plain and aggregated, out of the rows.
//!
//! Invariant: resources within a group and version are in the order of their names, groups in the order of
//! `trireme_resources::groups`.

use serde_json::{Value, json};
use trireme_resources::{Resource, Subresource, groups, rows};

use crate::metrics_api;
use crate::server::ApiServer;

/// A discovery document and its kind, by path without a trailing slash.
#[must_use]
pub(crate) fn document(server: &ApiServer, path: &str) -> Option<(String, Value)> {
    let named = |kind: &str, value: Value| Some((kind.to_owned(), value));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api"] => named(
            "APIVersions",
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server.advertised()}],
            }),
        ),
        ["apis"] => {
            let groups: Vec<Value> = all_groups(server).iter().map(group_value).collect();
            named(
                "APIGroupList",
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
            )
        }
        ["api", "v1"] => named(
            "APIResourceList",
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": resource_list(server, "", "v1")}),
        ),
        ["apis", group] => {
            let group = all_groups(server).into_iter().find(|own| own.name == *group)?;
            let mut value = group_value(&group);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            named("APIGroup", value)
        }
        ["apis", group, version] => {
            let group = all_groups(server).into_iter().find(|own| own.name == *group)?;
            let version = group.versions.iter().find(|own| *own == version)?;
            let resources = if group.name == metrics_api::GROUP {
                metrics_api::resource_list()
            } else {
                resource_list(server, &group.name, version)
            };
            named(
                "APIResourceList",
                json!({
                    "kind": "APIResourceList", "apiVersion": "v1",
                    "groupVersion": format!("{}/{version}", group.name), "resources": resources,
                }),
            )
        }
        _ => None,
    }
}

/// A group with its versions, the preferred one first.
struct GroupShown {
    name: String,
    versions: Vec<String>,
}

fn all_groups(server: &ApiServer) -> Vec<GroupShown> {
    let owned = |versions: &[&str]| versions.iter().map(|version| (*version).to_owned()).collect();
    let built_in = groups().iter().map(|group| GroupShown {
        name: group.name.to_owned(),
        versions: owned(group.versions),
    });
    let mut all: Vec<_> = built_in.collect();
    for (name, versions) in server.customs.registry().groups() {
        if all.iter().any(|own| own.name == name) || name == metrics_api::GROUP {
            continue;
        }
        all.push(GroupShown {
            name: name.to_owned(),
            versions: versions.to_vec(),
        });
    }
    if server.plugins.metrics.is_some() {
        all.push(GroupShown {
            name: metrics_api::GROUP.to_owned(),
            versions: owned(&[metrics_api::VERSION]),
        });
    }
    all
}

/// Whether a path's group exists (and with it every path below gets a `Status`, not a page).
#[must_use]
pub(crate) fn knows_group(server: &ApiServer, path: &str) -> bool {
    let mut parts = path.trim_start_matches('/').split('/');
    match (parts.next(), parts.next()) {
        (Some("api"), _) => true,
        (Some("apis"), Some(group)) => {
            groups().iter().any(|own| own.name == group) || (group == metrics_api::GROUP && server.plugins.metrics.is_some())
        }
        _ => false,
    }
}

fn group_value(group: &GroupShown) -> Value {
    let version = |version: &String| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "versions": versions.clone(), "preferredVersion": versions[0]})
}

/// The rows of a group and version, and whether nothing new is taken of them.
fn rows_of(server: &ApiServer, group: &str, version: &str) -> Vec<(&'static Resource, bool)> {
    let built_in = rows().iter().filter(|row| row.group == group && row.version == version);
    let mut found: Vec<_> = built_in.map(|row| (row, false)).collect();
    if found.is_empty() {
        let registry = server.customs.registry();
        found.extend(
            registry
                .shown(group, version)
                .map(|shown| (shown.served.row, shown.terminating)),
        );
    }
    found.sort_by_key(|(row, _)| row.plural);
    found
}

/// The verbs of a row; one whose definition is being deleted takes nothing new.
fn verbs_of(row: &Resource, terminating: bool) -> Vec<&'static str> {
    let refused = |verb: &str| terminating && matches!(verb, "create" | "patch" | "update");
    row.verbs.iter().copied().filter(|verb| !refused(verb)).collect()
}

fn resource_list(server: &ApiServer, group: &str, version: &str) -> Vec<Value> {
    let mut list = Vec::new();
    for (row, terminating) in rows_of(server, group, version) {
        let mut value = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind,
            "verbs": verbs_of(row, terminating),
        });
        if !row.short_names.is_empty() {
            value["shortNames"] = row.short_names.into();
        }
        if !row.categories.is_empty() {
            value["categories"] = row.categories.into();
        }
        if !row.hash.is_empty() {
            value["storageVersionHash"] = row.hash.into();
        }
        list.push(value);
        for sub in sorted(row) {
            let mut value = json!({
                "name": format!("{}/{}", row.plural, sub.name), "singularName": "", "namespaced": row.namespaced,
                "kind": sub.kind, "verbs": sub.verbs,
            });
            if !sub.version.is_empty() {
                if !sub.group.is_empty() {
                    value["group"] = sub.group.into();
                }
                value["version"] = sub.version.into();
            }
            list.push(value);
        }
    }
    list
}

fn sorted(row: &Resource) -> Vec<&'static Subresource> {
    let mut subresources: Vec<&'static Subresource> = row.subresources.iter().collect();
    if !row.is_custom() {
        subresources.sort_by_key(|sub| sub.name);
    }
    subresources
}

/// The aggregated document, of the core group or of all others.
#[must_use]
pub(crate) fn aggregated(server: &ApiServer, core: bool) -> Vec<u8> {
    let items: Vec<Value> = if core {
        vec![json!({"metadata": {}, "versions": [aggregated_version(server, "", "v1")]})]
    } else {
        all_groups(server)
            .iter()
            .map(|group| {
                let versions: Vec<Value> = group
                    .versions
                    .iter()
                    .map(|version| {
                        if group.name == metrics_api::GROUP {
                            metrics_api::aggregated_version()
                        } else {
                            aggregated_version(server, &group.name, version)
                        }
                    })
                    .collect();
                json!({"metadata": {"name": group.name}, "versions": versions})
            })
            .collect()
    };
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    serde_json::to_vec(&document).expect("a JSON value serialises")
}

fn aggregated_version(server: &ApiServer, group: &str, version: &str) -> Value {
    let rows = rows_of(server, group, version).into_iter();
    let resources: Vec<Value> = rows.map(|(row, terminating)| aggregated_resource(row, terminating)).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(row: &'static Resource, terminating: bool) -> Value {
    // Upstream says of custom resources alone whose kinds theirs are.
    let (group, version) = if row.is_custom() { (row.group, row.version) } else { ("", "") };
    let mut value = json!({
        "resource": row.plural,
        "responseKind": {"group": group, "version": version, "kind": row.kind},
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": verbs_of(row, terminating),
    });
    if !row.short_names.is_empty() {
        value["shortNames"] = row.short_names.into();
    }
    if !row.categories.is_empty() {
        value["categories"] = row.categories.into();
    }
    let subresources: Vec<Value> = sorted(row)
        .into_iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {
                    "group": if sub.version.is_empty() { group } else { sub.group },
                    "version": if sub.version.is_empty() { version } else { sub.version },
                    "kind": sub.kind,
                },
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}

/// The index of paths that `/` answers.
#[must_use]
pub(crate) fn paths(server: &ApiServer) -> Value {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
        .map(str::to_owned)
        .to_vec();
    for group in all_groups(server) {
        paths.push(format!("/apis/{}", group.name));
        for version in group.versions {
            paths.push(format!("/apis/{}/{version}", group.name));
        }
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}

impl ApiServer {
    /// `host:port` that clients find this server at.
    #[must_use]
    pub fn advertised(&self) -> String {
        std::net::SocketAddr::new(self.config.advertise_address, self.config.port).to_string()
    }
}
