//! Gets images by policy, with back-off and upstream's events (pkg/kubelet/images).
//!
//! Invariant: at most one pull of an image at a time; who comes while it runs waits for it and finds it present.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Secret};
use parking_lot::Mutex;
use trireme_client::{Client, EventType};
use trireme_pod::observed::Waiting;
use trireme_pod::{Backoff, spec};
use trireme_runtime::cri::{AuthConfig, CriError, Image, ImageService};

use crate::shared::Shared;

/// How long a failed pull is shown as ErrImagePull before it becomes ImagePullBackOff.
const SHOW_ERROR: SignedDuration = SignedDuration::from_secs(2);

struct Failure {
    backoff: Backoff,
    text: String,
}

pub(crate) struct Images {
    service: Arc<dyn ImageService>,
    client: Client,
    failures: Mutex<HashMap<String, Failure>>,
    pulling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    pub(crate) fn new(service: Arc<dyn ImageService>, client: Client) -> Self {
        Self {
            service,
            client,
            failures: Mutex::default(),
            pulling: Mutex::default(),
        }
    }

    pub(crate) fn service(&self) -> &Arc<dyn ImageService> {
        &self.service
    }

    /// Forgets the back-offs of a pod.
    pub(crate) fn forget(&self, uid: &str) {
        let prefix = format!("{uid}_");
        self.failures.lock().retain(|key, _| !key.starts_with(&prefix));
    }

    /// The image of a container, pulled if its policy says so.
    pub(crate) async fn ensure(&self, shared: &Shared, pod: &Pod, container: &Container) -> Result<Image, Waiting> {
        let asked = container.image.as_deref().unwrap_or_default();
        let event = |kind, reason: &str, message: String| shared.container_event(pod, &container.name, kind, reason, message);
        self.by_policy(pod, asked, container.image_pull_policy.as_deref(), &event)
            .await
    }

    /// The image of a volume; its events are the pod's.
    pub(crate) async fn ensure_volume(&self, shared: &Shared, pod: &Pod, volume: &ImageVolumeSource) -> Result<Image, Waiting> {
        let asked = volume.reference.as_deref().unwrap_or_default();
        let event = |kind, reason: &str, message: String| shared.pod_event(pod, kind, reason, message);
        self.by_policy(pod, asked, volume.pull_policy.as_deref(), &event).await
    }

    async fn by_policy(
        &self,
        pod: &Pod,
        asked: &str,
        policy: Option<&str>,
        event: &impl Fn(EventType, &str, String),
    ) -> Result<Image, Waiting> {
        let image = with_tag(asked);
        let now = Timestamp::now();
        let policy = policy.unwrap_or(if image.ends_with(":latest") {
            "Always"
        } else {
            "IfNotPresent"
        });
        if policy != "Always" {
            match self.service.image_status(&image).await {
                Ok(Some(found)) => {
                    event(EventType::Normal, "Pulled", present(asked));
                    return Ok(found);
                }
                Ok(None) if policy == "Never" => {
                    let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
                    event(EventType::Warning, "ErrImageNeverPull", message.clone());
                    return Err(waiting("ErrImageNeverPull", message, now, SignedDuration::from_secs(10)));
                }
                Ok(None) => {}
                Err(CriError::InvalidImageName(why)) => return Err(self.invalid_name(event, asked, &why, now)),
                Err(error) => {
                    let message = format!("Failed to inspect image \"{asked}\": {error}");
                    event(EventType::Warning, "InspectFailed", message.clone());
                    return Err(waiting("ImageInspectError", message, now, SignedDuration::from_secs(10)));
                }
            }
        }
        self.pull(pod, asked, &image, policy, event).await
    }

    async fn pull(
        &self,
        pod: &Pod,
        asked: &str,
        image: &str,
        policy: &str,
        event: &impl Fn(EventType, &str, String),
    ) -> Result<Image, Waiting> {
        let key = format!("{}_{image}", spec::uid(pod));
        let asked_at = Instant::now();
        let held = self.failures.lock().get(&key).and_then(|failure| {
            let until = Backoff::until(Some(&failure.backoff), failure.backoff.last_update, Timestamp::now())?;
            Some((until, failure.text.clone()))
        });
        if let Some((until, text)) = held {
            let message = format!("Back-off pulling image \"{image}\"");
            event(EventType::Normal, "BackOff", message.clone());
            event(EventType::Warning, "Failed", "Error: ImagePullBackOff".into());
            return Err(Waiting {
                reason: "ImagePullBackOff".into(),
                message: format!("{message}: {text}"),
                retry_at: until,
            });
        }
        let lock = Arc::clone(self.pulling.lock().entry(image.to_owned()).or_default());
        let guard = lock.lock().await;
        if policy != "Always"
            && let Ok(Some(found)) = self.service.image_status(image).await
        {
            event(EventType::Normal, "Pulled", present(asked));
            return Ok(found);
        }
        event(EventType::Normal, "Pulling", format!("Pulling image \"{image}\""));
        let began = Instant::now();
        let credentials = self.credentials(pod, image).await;
        let mut result = Err(CriError::ImagePull("no credentials were tried".into()));
        for auth in credentials {
            result = self.service.pull_image(image, auth.as_ref()).await;
            if result.is_ok() {
                break;
            }
        }
        let took = began.elapsed();
        drop(guard);
        self.pulling.lock().retain(|_, lock| Arc::strong_count(lock) > 1);
        let found = match result {
            Ok(id) => self.service.image_status(&id).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(Some(found)) => {
                self.failures.lock().remove(&key);
                let message = format!(
                    "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                    go_millis(took),
                    go_millis(asked_at.elapsed()),
                    found.size
                );
                event(EventType::Normal, "Pulled", message);
                Ok(found)
            }
            Ok(None) => Err(self.failed(key, image, "the image is gone after it was pulled".into(), event)),
            Err(CriError::InvalidImageName(why)) => Err(self.invalid_name(event, asked, &why, Timestamp::now())),
            Err(error) => Err(self.failed(key, image, error.to_string(), event)),
        }
    }

    fn failed(&self, key: String, image: &str, error: String, event: &impl Fn(EventType, &str, String)) -> Waiting {
        let now = Timestamp::now();
        event(
            EventType::Warning,
            "Failed",
            format!("Failed to pull image \"{image}\": {error}"),
        );
        event(EventType::Warning, "Failed", "Error: ErrImagePull".into());
        let mut failures = self.failures.lock();
        let backoff = Backoff::next(failures.get(&key).map(|failure| &failure.backoff), now, now);
        failures.insert(
            key,
            Failure {
                backoff,
                text: format!("ErrImagePull: {error}"),
            },
        );
        waiting("ErrImagePull", error, now, SHOW_ERROR)
    }

    fn invalid_name(&self, event: &impl Fn(EventType, &str, String), image: &str, why: &str, now: Timestamp) -> Waiting {
        let message = format!("Failed to apply default image tag \"{image}\": {why}");
        event(EventType::Warning, "InspectFailed", message.clone());
        event(EventType::Warning, "Failed", "Error: InvalidImageName".into());
        waiting("InvalidImageName", message, now, SignedDuration::from_secs(30))
    }

    /// What to try in turn: credentials of the pod's pull secrets that fit the registry, or none.
    async fn credentials(&self, pod: &Pod, image: &str) -> Vec<Option<AuthConfig>> {
        let mut found = Vec::new();
        for reference in spec::of(pod).image_pull_secrets.iter().flatten() {
            let secret = match self.client.find::<Secret>(spec::namespace(pod), &reference.name).await {
                Ok(Some(secret)) => secret,
                Ok(None) => continue,
                Err(status) => {
                    tracing::warn!(
                        pod = spec::display(pod),
                        secret = reference.name,
                        "a pull secret cannot be read: {status}"
                    );
                    continue;
                }
            };
            let data = secret
                .data
                .as_ref()
                .and_then(|data| data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg")));
            let Some(config) = data.and_then(|data| serde_json::from_slice::<serde_json::Value>(&data.0).ok()) else {
                continue;
            };
            let registries = if config["auths"].is_object() {
                &config["auths"]
            } else {
                &config
            };
            for (registry, entry) in registries.as_object().into_iter().flatten() {
                if matches(registry, image) {
                    found.extend(auth_of(entry).map(Some));
                }
            }
        }
        if found.is_empty() {
            found.push(None);
        }
        found
    }
}

fn matches(registry: &str, image: &str) -> bool {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let host = registry.split('/').next().unwrap_or_default();
    let first = image.split('/').next().unwrap_or_default();
    let own = if image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost") {
        first
    } else {
        "docker.io"
    };
    host == own || (own == "docker.io" && host.ends_with("docker.io"))
}

fn auth_of(entry: &serde_json::Value) -> Option<AuthConfig> {
    if let Some(encoded) = entry["auth"].as_str() {
        let text = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        return Some(AuthConfig {
            username: username.to_owned(),
            password: password.to_owned(),
        });
    }
    Some(AuthConfig {
        username: entry["username"].as_str()?.to_owned(),
        password: entry["password"].as_str()?.to_owned(),
    })
}

fn present(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

fn waiting(reason: &str, message: String, now: Timestamp, pause: SignedDuration) -> Waiting {
    Waiting {
        reason: reason.into(),
        message,
        retry_at: now.saturating_add(pause).unwrap_or(Timestamp::MAX),
    }
}

/// Adds `:latest` where there is neither tag nor digest.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// A duration as Go prints it, cut to milliseconds.
fn go_millis(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let minutes = millis / 60_000;
    let seconds = format!("{}.{:03}", millis % 60_000 / 1000, millis % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if minutes > 0 {
        format!("{minutes}m{seconds}s")
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_registries_and_durations() {
        for (image, expected) in [
            ("nginx", "nginx:latest"),
            ("a:5000/b", "a:5000/b:latest"),
            ("a/b:1", "a/b:1"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(with_tag(image), expected);
        }
        for (registry, image, expected) in [
            ("https://index.docker.io/v1/", "nginx:1", true),
            ("https://index.docker.io/v1/", "library/nginx:1", true),
            ("example.org", "example.org/a:1", true),
            ("example.org", "nginx:1", false),
            ("localhost:5000", "localhost:5000/a", true),
        ] {
            assert_eq!(matches(registry, image), expected, "{registry} {image}");
        }
        for (millis, text) in [(5, "5ms"), (1500, "1.5s"), (2000, "2s"), (61_020, "1m1.02s")] {
            assert_eq!(go_millis(Duration::from_millis(millis)), text);
        }
    }
}
