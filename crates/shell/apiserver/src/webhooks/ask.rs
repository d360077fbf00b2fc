//! One call to one webhook.

use std::time::Duration;

use tokio::time::Instant;
use trireme_policy::webhook::review::Objects;
use trireme_policy::webhook::{Failure, Hook, Phase, Review, Verdict, judge};

use super::Registry;
use crate::server::ApiServer;

impl ApiServer {
    /// Asks a webhook, by the deadline.
    ///
    /// # Errors
    /// Why it did not answer so that the answer can be followed.
    pub(super) async fn ask(
        &self,
        registry: &Registry,
        (phase, hook): (Phase, &Hook),
        review: &Review<'_>,
        objects: &Objects<'_>,
        deadline: Instant,
    ) -> Result<Verdict, Failure> {
        if review.dry_run && !hook.dry_runs {
            return Err(Failure::dry_run(&hook.name));
        }
        let Some(version) = hook.reviews else {
            let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::call(&hook.name, why, 400));
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review.body(version, &uid, objects);
        let client = registry.clients.get(&hook.endpoint);
        let client = client.ok_or_else(|| Failure::call(&hook.name, "could not get REST client", 500))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let time = left.min(Duration::from_secs(hook.timeout_seconds));
        let answer = client.post(self, body.into(), time).await.map_err(|unanswered| {
            let (why, code) = unanswered.told();
            Failure::call(&hook.name, format!("failed to call webhook: {why}"), code)
        })?;
        judge(hook, phase, &uid, &answer)
    }
}
