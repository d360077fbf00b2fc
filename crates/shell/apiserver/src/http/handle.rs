//! The chain that every HTTP request passes: authentication, impersonation, authorisation, then the API or the rest.
//!
//! Invariant: nothing is looked up before it is allowed; an unknown resource is 403 to those who may not ask for it.

use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http::request::Parts;
use http::{Request, Response, header};
use hyper::upgrade::OnUpgrade;
use trireme_api::{Status, StatusDetails};
use trireme_resources::Resource;

use super::accept::{Offer, Shape, negotiate};
use super::body::Body;
use super::query::Query;
use super::respond::{self, IncludeObject, Style};
use super::router::{RequestInfo, request_info};
use super::{impersonation, non_resource, resources};
use crate::authn::{PeerCertificate, bearer_token, unauthorized};
use crate::authorization::{Attributes, Decision, forbidden, is_public};
use crate::metrics::Observed;
use crate::server::ApiServer;
use crate::user::{MASTERS, NODES, UserInfo};

/// Time for an answer, watches and streams not counted.
const ANSWER_MAX: Duration = Duration::from_mins(1);

fn timed_out() -> Status {
    Status::failure(
        504,
        "Timeout",
        "Timeout: request did not complete within the allotted timeout",
    )
}

/// Whether a node is judged by it: such requests wait for no turn (what upstream's priority level `node-high` takes).
fn is_heartbeat(info: &RequestInfo) -> bool {
    let resource = (info.group.as_str(), info.resource.as_str());
    matches!(resource, ("coordination.k8s.io", "leases") | ("", "nodes"))
}

fn too_many() -> Status {
    Status::failure(429, "TooManyRequests", "Too many requests, please try again later.").with_details(StatusDetails {
        retry_after_seconds: 1,
        ..StatusDetails::default()
    })
}

/// Marks the answer to a watch or a stream: it takes as long as somebody wants to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongRunning;

/// Everything that the handlers behind the chain need of a request.
pub struct Incoming<B> {
    /// What is asked.
    pub asked: Box<Asked<B>>,
    /// Who asks, after impersonation.
    pub user: Arc<UserInfo>,
}

/// A request, whoever it comes from.
pub struct Asked<B> {
    /// Head of the request.
    pub parts: Parts,
    /// Body.
    pub body: B,
    /// Query parameters.
    pub query: Query,
    /// What it asks for.
    pub info: RequestInfo,
    /// The connection, for those that may become a tunnel.
    pub upgrade: Option<OnUpgrade>,
}

impl<B> Deref for Incoming<B> {
    type Target = Asked<B>;

    fn deref(&self) -> &Asked<B> {
        &self.asked
    }
}

impl<B> DerefMut for Incoming<B> {
    fn deref_mut(&mut self) -> &mut Asked<B> {
        &mut self.asked
    }
}

impl<B> Asked<B> {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header_text(&self.parts, name)
    }
}

fn header_text<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name).and_then(|value| value.to_str().ok())
}

/// How the answer is to look, transforms left out: for errors.
#[must_use]
pub fn error_style(parts: &Parts, query: &Query) -> Style {
    let accept = header_text(parts, "accept");
    let mut style = style_base(parts, query);
    style.accepted = negotiate(accept, Offer::Object)
        .or_else(|_| negotiate(accept, Offer::List))
        .unwrap_or_default();
    style.accepted.shape = Shape::Plain;
    style
}

/// How the answer is to look.
///
/// # Errors
/// 406.
pub fn style(parts: &Parts, query: &Query, offer: Offer) -> Result<Style, Status> {
    let mut style = style_base(parts, query);
    style.accepted = negotiate(header_text(parts, "accept"), offer)?;
    Ok(style)
}

/// Whether the answer shows no more of pods than `pods/peers` stands for. Negotiated as the answer itself will be.
fn asks_for_peers(parts: &Parts, info: &RequestInfo) -> bool {
    let offer = match info.verb.as_str() {
        "list" => Offer::List,
        "watch" => Offer::Watch,
        _ => return false,
    };
    let is_pods = info.group.is_empty() && info.resource == "pods" && info.subresource.is_empty();
    let accepted = || negotiate(header_text(parts, "accept"), offer);
    is_pods && accepted().is_ok_and(|accepted| accepted.shape == Shape::Peers)
}

fn style_base(parts: &Parts, query: &Query) -> Style {
    let user_agent = header_text(parts, "user-agent").unwrap_or_default();
    let pretty = match query.get("pretty") {
        Some(_) => query.flag("pretty"),
        None => ["curl", "Wget", "Mozilla/5.0"]
            .iter()
            .any(|agent| user_agent.starts_with(agent)),
    };
    Style {
        pretty,
        gzip: header_text(parts, "accept-encoding").is_some_and(|text| {
            text.split(',')
                .any(|coding| coding.split(';').next().unwrap_or_default().trim() == "gzip")
        }),
        include_object: match query.get("includeObject") {
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        },
        ..Style::default()
    }
}

impl ApiServer {
    /// Serves one HTTP request. What the future holds is copied with every request, also by those that need little of it:
    /// so it holds the request in one box, and [`resources::serve`] keeps what only some requests need in boxes of their own.
    pub fn handle<B>(self: &Arc<Self>, request: Request<B>) -> impl Future<Output = Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        parts.headers.remove(crate::reviews::AUDIENCE_HEADER);
        let query = Query::parse(parts.uri.query());
        let info = request_info(&parts.method, parts.uri.path(), &query);
        let asked = Box::new(Asked {
            parts,
            body,
            query,
            info,
            upgrade,
        });
        self.observed(asked, started)
    }

    async fn observed<B>(self: &Arc<Self>, asked: Box<Asked<B>>, started: Instant) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let observed = self.labels_of(&asked.info);
        let errors = error_style(&asked.parts, &asked.query);
        let long_running = matches!(observed.verb, "WATCH" | "CONNECT");
        let mutating = !matches!(asked.info.verb.as_str(), "get" | "list" | "watch");
        let serving = (!long_running).then(|| self.metrics.serving(mutating));
        let answering = AssertUnwindSafe(self.answer(asked, long_running)).catch_unwind();
        let answer = if long_running {
            answering.await
        } else {
            tokio::time::timeout(ANSWER_MAX, answering)
                .await
                .unwrap_or_else(|_| Ok(Err(timed_out())))
        };
        let mut answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => respond::status(&errors, &status),
            Err(_) => {
                // The panic hook has logged it; only this request is lost.
                tracing::error!(
                    verb = observed.verb,
                    resource = observed.resource,
                    "a request handler panicked"
                );
                respond::status(
                    &errors,
                    &Status::internal("this request caused apiserver to panic. Look in the logs for details."),
                )
            }
        };
        drop(serving);
        self.metrics.observe(observed, answer.status().as_u16(), started.elapsed());
        if long_running {
            answer.extensions_mut().insert(LongRunning);
        }
        answer
    }

    async fn answer<B>(self: &Arc<Self>, asked: Box<Asked<B>>, long_running: bool) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let user = self.admit(&asked.parts, &asked.info, &asked.query).await?;
        let resource_request = asked.info.resource_request;
        let exempt = long_running || user.in_group(MASTERS) || !resource_request;
        let of_node = !exempt && user.in_group(NODES) && !is_heartbeat(&asked.info);
        let _slot = if exempt || of_node {
            None
        } else {
            Some(self.slots.try_acquire().map_err(|_| too_many())?)
        };
        let _turn = if of_node {
            Some(self.node_requests.turn(&user.name).await.ok_or_else(too_many)?)
        } else {
            None
        };
        let incoming = Incoming {
            asked,
            user: Arc::new(user),
        };
        if resource_request {
            resources::serve(self, incoming).await
        } else {
            Ok(Box::pin(non_resource::serve(self, incoming)).await)
        }
    }

    async fn admit(&self, parts: &Parts, info: &RequestInfo, query: &Query) -> Result<UserInfo, Status> {
        let peer = parts.extensions.get::<PeerCertificate>();
        let mut attributes = info.attributes(query);
        if asks_for_peers(parts, info) {
            "peers".clone_into(&mut attributes.subresource);
        }
        let mut found = self.plugins.authenticator.authenticate(parts, peer).await;
        let unknown = match &found {
            Ok(user) => user.is_none(),
            Err(status) => status.code == 401,
        };
        if unknown && bearer_token(parts).is_some() {
            // Another server may have made it a moment ago: what was acknowledged anywhere counts.
            self.barrier().await?;
            found = self.plugins.authenticator.authenticate(parts, peer).await;
        }
        let user = match found.map_err(|status| self.judged(status))? {
            Some(user) => user.authenticated(),
            // A token that nobody knows is a bad credential, not the absence of one.
            None if bearer_token(parts).is_some() => return Err(self.judged(unauthorized())),
            None if self.config.anonymous || is_public(&attributes) => UserInfo::anonymous(),
            None => return Err(self.judged(unauthorized())),
        };
        let user = impersonation::apply(self, user, parts, &attributes)?;
        self.authorize(&user, &attributes).map_err(|status| self.judged(status))?;
        Ok(user)
    }

    /// A refusal, as far as this server may refuse: one that has not caught up with its cluster yet does not know enough.
    fn judged(&self, refusal: Status) -> Status {
        if self.health.is_started() {
            return refusal;
        }
        Status::failure(
            503,
            "ServiceUnavailable",
            "this server has not caught up with its cluster yet; try again or ask another one",
        )
    }

    fn labels_of(&self, info: &RequestInfo) -> Observed {
        let row = trireme_resources::find(&info.group, &info.version, &info.resource);
        let custom = || Some(self.customs.find(&info.group, &info.version, &info.resource)?.served.row);
        observed(info, row.or_else(custom))
    }

    /// 403 unless the user may do this.
    ///
    /// # Errors
    /// The 403.
    pub fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Result<(), Status> {
        match self.plugins.authorizer.authorize(user, attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(user, attributes, &reason)),
        }
    }
}

/// The labels of a request. Those of unknown resources are empty, or clients would make series.
fn observed(info: &RequestInfo, row: Option<&'static Resource>) -> Observed {
    let verb = match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    };
    let Some(row) = row else {
        return Observed {
            verb,
            ..Observed::default()
        };
    };
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log");
    Observed {
        verb: if streams { "CONNECT" } else { verb },
        group: row.group,
        version: row.version,
        resource: row.plural,
        subresource: row.subresource(&info.subresource).map_or("", |sub| sub.name),
        scope: match (info.name.is_empty(), info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        },
    }
}

/// Whether a request asks to become another protocol.
#[must_use]
pub fn wants_upgrade(parts: &Parts) -> bool {
    let connection = header_text(parts, header::CONNECTION.as_str()).unwrap_or_default();
    connection
        .split(',')
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        && parts.headers.contains_key(header::UPGRADE)
}

#[cfg(test)]
mod tests;
