//! Acting as somebody else, by `Impersonate-*` headers.
//!
//! Invariant: every identity claimed is authorised by itself before the request is; nothing of the caller remains.

use std::collections::BTreeMap;

use http::request::Parts;
use trireme_api::Status;

use super::query::decode;
use crate::authorization::{Attributes, Decision, forbidden};
use crate::server::ApiServer;
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user that a request acts as.
///
/// # Errors
/// 400 without a user name, 403 where the caller may not.
pub(crate) fn apply(server: &ApiServer, caller: UserInfo, parts: &Parts, request: &Attributes) -> Result<UserInfo, Status> {
    if !parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(caller);
    }
    let wished = wished(parts);
    if wished == UserInfo::default() {
        return Ok(caller);
    }
    if wished.name.is_empty() {
        return Err(Status::bad_request(format!(
            "requested {} without impersonating a user name",
            go_shape(&wished)
        )));
    }
    let account = wished
        .name
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|rest| rest.split_once(':'));
    let account = account.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'));
    let allowed = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".into(),
            resource_request: true,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        matches!(server.plugins.authorizer.authorize(&caller, &attributes), Decision::Allow(_))
    };
    let identity = match account {
        Some((namespace, name)) => allowed("", "serviceaccounts", "", namespace, name),
        None => allowed("", "users", "", "", &wished.name),
    };
    let groups = wished.groups.iter().all(|group| allowed("", "groups", "", "", group));
    let uid = wished.uid.is_empty() || allowed("authentication.k8s.io", "uids", "", "", &wished.uid);
    let extra = wished.extra.iter().all(|(key, values)| {
        values
            .iter()
            .all(|value| allowed("authentication.k8s.io", "userextras", key, "", value))
    });
    if !(identity && groups && uid && extra) {
        let mode = if account.is_some() { "serviceaccount" } else { "user-info" };
        let shown = Attributes {
            verb: format!("impersonate-on:{mode}:{}", request.verb),
            ..request.clone()
        };
        return Err(forbidden(&caller, &shown, ""));
    }
    let namespace = account.map(|(namespace, _)| namespace.to_owned());
    Ok(complete(wished, namespace))
}

fn wished(parts: &Parts) -> UserInfo {
    let text = |name: &str| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let groups = parts.headers.get_all("impersonate-group").iter();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            extra.entry(decode(key, false)).or_default().push(value.to_owned());
        }
    }
    UserInfo {
        fence: None,
        name: text("impersonate-user"),
        uid: text("impersonate-uid"),
        groups: groups.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect(),
        extra,
    }
}

/// The groups that come with an identity.
fn complete(mut user: UserInfo, account_namespace: Option<String>) -> UserInfo {
    if let Some(namespace) = account_namespace
        && user.groups.is_empty()
    {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    if user.name.starts_with("system:node:") && user.groups.is_empty() {
        user.groups.push("system:nodes".to_owned());
    }
    let own = if user.name == ANONYMOUS {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(own.to_owned());
    }
    user
}

/// How Go prints the user that has no name.
fn go_shape(user: &UserInfo) -> String {
    let strings = |values: &[String]| values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
    let groups = if user.groups.is_empty() {
        "[]string(nil)".to_owned()
    } else {
        format!("[]string{{{}}}", strings(&user.groups))
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> = user
            .extra
            .iter()
            .map(|(key, values)| format!("{key:?}:[]string{{{}}}", strings(values)))
            .collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        user.name, user.uid
    )
}
