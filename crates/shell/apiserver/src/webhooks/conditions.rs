//! Match conditions of webhooks: the objects, the request and the authoriser, put before them.

use serde_json::Value;
use trireme_api::Status;
use trireme_cel::eval::{Authorizer, Decision, Question};
use trireme_policy::webhook::review::Objects;
use trireme_policy::webhook::{Conditioned, Hook, Phase};

use super::Asked;
use crate::authorization::{self, Attributes};
use crate::server::ApiServer;
use crate::user::UserInfo;

/// Asks the server's authoriser about the user of a request, or about a service account.
struct Asking<'a> {
    server: &'a ApiServer,
    user: &'a UserInfo,
}

impl Authorizer for Asking<'_> {
    fn decide(&self, question: &Question) -> Decision {
        let account;
        let user = match &question.service_account {
            None => self.user,
            Some((namespace, name)) => {
                let of_namespace = format!("system:serviceaccounts:{namespace}");
                let name = format!("system:serviceaccount:{namespace}:{name}");
                account = UserInfo::new(&name, &["system:serviceaccounts", &of_namespace]);
                &account
            }
        };
        let attributes = Attributes {
            verb: question.verb.to_string(),
            resource_request: question.path.is_none(),
            group: question.group.to_string(),
            version: if question.path.is_none() {
                "*".to_owned()
            } else {
                String::new()
            },
            resource: question.resource.to_string(),
            subresource: question.subresource.to_string(),
            namespace: question.namespace.to_string(),
            name: question.name.to_string(),
            path: question.path.as_deref().unwrap_or_default().to_owned(),
            field_selector: question.field_selector.to_string(),
            label_selector: question.label_selector.to_string(),
        };
        let (allowed, reason) = match self.server.plugins.authorizer.authorize(user, &attributes) {
            authorization::Decision::Allow(reason) => (true, reason),
            authorization::Decision::Deny(reason) | authorization::Decision::NoOpinion(reason) => (false, reason),
        };
        Decision {
            allowed,
            reason: reason.into(),
            error: None,
        }
    }
}

impl ApiServer {
    /// Whether a webhook's conditions let it be asked about these objects.
    ///
    /// # Errors
    /// 403 where they cannot be judged, and its policy is to fail then.
    pub(super) fn is_wanted(
        &self,
        (hook, phase): (&Hook, Phase),
        asked: &Asked<'_>,
        objects: &Objects<'_>,
    ) -> Result<bool, Status> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let target = asked.target;
        let review = asked.review();
        let request: Value = review.request(objects.kind, objects.resource);
        let resource = Question {
            group: target.row.group.into(),
            resource: target.row.plural.into(),
            subresource: target.subresource.as_str().into(),
            namespace: review.namespace.into(),
            name: asked.name.into(),
            ..Question::default()
        };
        let authorizer = Asking {
            server: self,
            user: &target.user,
        };
        let wanted = hook.is_wanted(&Conditioned {
            object: objects.object,
            old: objects.old,
            request: &request,
            resource: &resource,
            authorizer: &authorizer,
        });
        if let Ok(false) = wanted {
            self.webhooks.counts.excluded((hook, phase), asked.operation.name());
        }
        wanted.map_err(|why| Status::forbidden(target.row.group, target.row.plural, asked.name, &why))
    }
}
