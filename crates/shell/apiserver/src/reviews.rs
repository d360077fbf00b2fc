//! Resources that are questions: reviews of access and of tokens; and the two that are neither stored nor questions,
//! `bindings` and `componentstatuses`.
//!
//! Invariant: nothing here writes to the store, but for a binding's pod.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Method, Request, Response};
use serde_json::{Value, json};
use trireme_api::Status;
use trireme_api::selector::{FieldSelector, LabelSelector};
use trireme_resources::rows::Resource;
use trireme_resources::{strategy, validation};

use crate::authorization::{Attributes, Decision};
use crate::http::accept::{Offer, Shape};
use crate::http::body::Body;
use crate::http::handle::{Incoming, style};
use crate::http::resources::{expected, not_allowed, read_object};
use crate::http::respond;
use crate::pipeline::{Target, WriteOptions, options, owners, rules};
use crate::server::{ApiServer, now};
use crate::user::{ANONYMOUS, UserInfo};

impl ApiServer {
    /// Asks webhooks about a review, which is answered and not stored.
    async fn review_by_webhooks(
        &self,
        target: &Target,
        value: &mut Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        self.mutate_new_by_webhooks(target, value, options, warnings).await?;
        self.validate_new_by_webhooks(target, value, options, warnings).await
    }
}

/// Serves a virtual row.
pub(crate) async fn serve<B>(server: &Arc<ApiServer>, mut incoming: Incoming<B>, target: Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let row = target.row;
    if row.kind == "ComponentStatus" {
        return component_status(&incoming, &target);
    }
    if incoming.parts.method != Method::POST {
        return Err(not_allowed());
    }
    let style = style(&incoming.parts, &incoming.query, Offer::Review)?;
    let mut write = options::write(&incoming.query, "CreateOptions", None, incoming.header("user-agent"))?;
    let (mut value, mut warnings) = read_object(&mut incoming, expected(row), &mut write).await?;
    owners::deduplicate(&mut value, owners::Found::Sent, &mut warnings);
    let user = Arc::clone(&incoming.user);
    let mut answer = match row.kind {
        "Binding" => {
            let pods = trireme_resources::find("", "v1", "pods").expect("a built-in row");
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let pod = Target {
                custom: None,
                row: pods,
                name,
                subresource: "binding".into(),
                ..target
            };
            let bound = server.bind(&pod, value, &write).await;
            respond::status(&style, &bound.map_err(|status| status.warning(warnings.clone()))?)
        }
        kind => {
            crate::pipeline::create::match_namespace(&target, &mut value)?;
            strategy::wipe_system_fields(&mut value);
            value["kind"] = kind.into();
            value["apiVersion"] = row.api_version().into();
            rules::update_managers(&target, None, &mut value, &write, "");
            server
                .review_by_webhooks(&target, &mut value, &write, &mut warnings)
                .await
                .map_err(|status| status.warning(warnings.clone()))?;
            let mut review = review(server, row, value, &user)
                .await
                .map_err(|status| status.warning(warnings.clone()))?;
            rules::canonicalize_answer(row.schema(), &mut review, write.empty);
            if style.accepted.shape == Shape::Metadata {
                let kind = "PartialObjectMetadata";
                respond::value(&style, 201, "meta.k8s.io/v1", kind, &respond::partial(&review))
            } else {
                respond::value(&style, 201, &row.api_version(), kind, &review)
            }
        }
    };
    respond::add_warnings(&mut answer, &warnings);
    Ok(answer)
}

fn component_status<B>(incoming: &Incoming<B>, target: &Target) -> Result<Response<Body>, Status> {
    let style = style(&incoming.parts, &incoming.query, Offer::List)?;
    Ok(if target.name.is_empty() {
        let listing = crate::pipeline::list::Listing::default();
        respond::list(&style, target, listing)
    } else {
        respond::status(&style, &Status::not_found("", "componentstatus", &target.name))
    })
}

/// Answers one review for a user.
pub(crate) async fn review(server: &ApiServer, row: &Resource, mut value: Value, user: &UserInfo) -> Result<Value, Status> {
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    match row.kind {
        "SelfSubjectReview" => {
            value["metadata"]["creationTimestamp"] = now().into();
            value["status"] = json!({"userInfo": user_value(user)});
        }
        "TokenReview" => token_review(server, &mut value).await?,
        "SelfSubjectAccessReview" => {
            check(row, &value)?;
            value["status"] = decide(server, user, &value["spec"]);
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            check(row, &value)?;
            let subject = user_of(&value["spec"]);
            value["status"] = decide(server, &subject, &value["spec"]);
        }
        "SelfSubjectRulesReview" => {
            let namespace = value["spec"]["namespace"].as_str().unwrap_or_default();
            if namespace.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            // Upstream answers with an object of its own.
            value["status"] = rules_of(server, user, namespace);
            value["metadata"] = json!({});
            value["spec"] = json!({});
        }
        _ => return Err(not_allowed()),
    }
    Ok(value)
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        value["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

fn user_of(spec: &Value) -> UserInfo {
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec["extra"].as_object().cloned().unwrap_or_default();
    UserInfo {
        fence: None,
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra
            .iter()
            .map(|(key, values)| (key.to_lowercase(), texts(values)))
            .collect(),
    }
}

/// Refuses a question that is not well-formed. Upstream leaves the kind out here.
fn check(row: &Resource, value: &Value) -> Result<(), Status> {
    let errors = validation::create(row, value);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(row.group, "", "", &errors))
    }
}

fn attributes_of(spec: &Value) -> Attributes {
    let resource = &spec["resourceAttributes"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if resource.is_object() {
        Attributes {
            verb: text(&resource["verb"]),
            resource_request: true,
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            ..Attributes::default()
        }
    } else {
        let path = &spec["nonResourceAttributes"];
        Attributes {
            verb: text(&path["verb"]),
            path: text(&path["path"]),
            ..Attributes::default()
        }
    }
}

fn decide(server: &ApiServer, user: &UserInfo, spec: &Value) -> Value {
    let (allowed, denied, reason) = match server.plugins.authorizer.authorize(user, &attributes_of(spec)) {
        Decision::Allow(reason) => (true, false, reason),
        Decision::Deny(reason) => (false, true, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    let unread = unread_selectors(&spec["resourceAttributes"]);
    if !unread.is_empty() {
        status["evaluationError"] = unread.into();
    }
    status
}

/// What of the selectors of a question cannot be read: it is left out of account, which asks for more.
fn unread_selectors(resource: &Value) -> String {
    let mut told = Vec::new();
    let mut look = |name: &str, raw: fn(&str) -> bool, one: fn(&Value) -> bool| {
        let text = resource[name]["rawSelector"].as_str().unwrap_or_default();
        let requirements = resource[name]["requirements"].as_array().map_or(&[][..], Vec::as_slice);
        let read = requirements.iter().filter(|requirement| one(requirement)).count();
        let all = read == requirements.len() && (text.is_empty() || !requirements.is_empty() || raw(text));
        if !all {
            let partially = if read > 0 { "partially " } else { "" };
            told.push(format!(
                "spec.resourceAttributes.{name} {partially}ignored due to parse error"
            ));
        }
    };
    fn operator(requirement: &Value) -> &str {
        requirement["operator"].as_str().unwrap_or_default()
    }
    fn values_of(requirement: &Value) -> usize {
        requirement["values"].as_array().map_or(0, Vec::len)
    }
    look(
        "fieldSelector",
        |text| FieldSelector::parse(text).is_ok(),
        |requirement| matches!(operator(requirement), "In" | "NotIn") && values_of(requirement) == 1,
    );
    look(
        "labelSelector",
        |text| LabelSelector::parse(text).is_ok(),
        |requirement| matches!(operator(requirement), "In" | "NotIn" | "Exists" | "DoesNotExist"),
    );
    told.join("; ")
}

fn rules_of(server: &ApiServer, user: &UserInfo, namespace: &str) -> Value {
    let (rules, incomplete) = server.plugins.authorizer.rules_for(user, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules {
        if rule.paths.is_empty() {
            let mut entry = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                entry["resourceNames"] = rule.names.into();
            }
            resources.push(entry);
        } else {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete})
}

async fn token_review(server: &ApiServer, value: &mut Value) -> Result<(), Status> {
    let token = value["spec"]["token"].as_str().unwrap_or_default().to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let credentials = HeaderValue::from_bytes(format!("Bearer {token}").as_bytes());
    let credentials = credentials.map_err(|_| Status::bad_request("token is not a header value"))?;
    let mut request = Request::builder().header("authorization", credentials);
    for audience in value["spec"]["audiences"].as_array().into_iter().flatten() {
        if let Some(audience) = audience.as_str() {
            request = request.header(AUDIENCE_HEADER, audience);
        }
    }
    let parts = request
        .body(())
        .map_err(|_| Status::bad_request("token is not a header value"))?
        .into_parts()
        .0;
    // What the client wrote into the status stays where nothing takes its place, as upstream's does.
    let mut status = value["status"].as_object().cloned().unwrap_or_default();
    status.remove("authenticated");
    status.entry("user").or_insert_with(|| json!({}));
    match server.plugins.authenticator.authenticate(&parts, None).await {
        Ok(found) => {
            let anonymous = || server.config.anonymous.then(UserInfo::anonymous);
            if let Some(user) = found.map(|user| user.authenticated()).or_else(anonymous) {
                match audiences(server, &token, &user, &value["spec"]) {
                    Some(audiences) => {
                        status.insert("authenticated".to_owned(), true.into());
                        status.insert("user".to_owned(), user_value(&user));
                        status.remove("audiences");
                        if !audiences.is_empty() {
                            status.insert("audiences".to_owned(), audiences.into());
                        }
                    }
                    None => drop(status.insert("error".to_owned(), NO_TOKEN.into())),
                }
            }
        }
        Err(failure) => {
            let why = if failure.reason == "Unauthorized" {
                NO_TOKEN.to_owned()
            } else {
                failure.message
            };
            status.insert("error".to_owned(), why.into());
        }
    }
    value["status"] = status.into();
    Ok(())
}

const NO_TOKEN: &str = "invalid bearer token";

/// The audiences that a token is for, of those that are asked for, or of this server's own where none are; none where it is
/// for none of them. A service account's token says for whom it is; any other is for this server.
fn audiences(server: &ApiServer, token: &str, user: &UserInfo, spec: &Value) -> Option<Vec<String>> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let own = server
        .plugins
        .tokens
        .as_ref()
        .map(|tokens| tokens.audiences())
        .unwrap_or_default();
    let mut wanted = texts(&spec["audiences"]);
    if wanted.is_empty() {
        wanted.clone_from(&own);
    }
    if own.is_empty() || user.name == ANONYMOUS {
        return Some(wanted);
    }
    let named = token
        .split('.')
        .nth(1)
        .filter(|_| user.name.starts_with("system:serviceaccount:"))
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<Value>(&claims).ok())
        .map(|claims| texts(&claims["aud"]));
    // Tokens of hand-made Secrets name none.
    let held = named.filter(|named| !named.is_empty()).unwrap_or(own);
    wanted.retain(|audience| held.contains(audience));
    (!wanted.is_empty()).then_some(wanted)
}

/// Header by which a token review tells the authenticator which audiences it asks for; a client's own is removed by the
/// server before authentication.
pub const AUDIENCE_HEADER: &str = "x-trireme-review-audience";
