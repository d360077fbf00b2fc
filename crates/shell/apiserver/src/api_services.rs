//! Groups as APIServices, as the aggregation layer registers them: the built-in ones once at each start, by the label
//! `kube-aggregator.kubernetes.io/automanaged: onstart`; those of definitions for as long as they are served, by `true`.
//!
//! Invariant: who changes one of the built-in ones keeps the change; who deletes one has it again at the next start; one of a
//! group that this version serves no more goes. One of a definition goes only where the stored definitions, and not what this
//! server has made of them, say that nobody serves it.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::try_join_all;
use serde_json::{Value, json};
use trireme_api::{Object, Status};
use trireme_resources::Resource;

use crate::pipeline::Target;
use crate::pipeline::options::DeleteOptions;
use crate::server::ApiServer;
use crate::user::UserInfo;

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
/// The label's value of groups of definitions.
const FOLLOWED: &str = "true";
/// Priorities of all groups of definitions, and of their versions.
const OF_DEFINITIONS: (i32, i32) = (1000, 100);
/// How often is looked whether somebody removed one.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long after an attempt that failed the next one is made.
const AGAIN: Duration = Duration::from_secs(5);

/// Group, version, `groupPriorityMinimum`, `versionPriority`: upstream's. What is not listed is not registered.
const PRIORITIES: &[(&str, &str, i32, i32)] = &[
    ("", "v1", 18_000, 1),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("apps", "v1", 17_800, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
];

fn is_served(group: &str, version: &str) -> bool {
    let served = trireme_resources::groups()
        .iter()
        .any(|own| own.name == group && own.versions.contains(&version));
    group.is_empty() || served
}

/// Whether a stored definition serves that version of that group.
fn serves(definition: &Object, group: &str, version: &str) -> bool {
    if definition.text_at(&["spec", "group"]).as_deref() != Some(group) {
        return false;
    }
    let versions = definition.raw_at(&["spec", "versions"]).unwrap_or_default();
    let versions: Vec<Value> = serde_json::from_slice(versions).unwrap_or_default();
    versions.iter().any(|own| own["name"] == version && own["served"] == true)
}

/// Keeps the APIServices of definitions, as long as the server lives.
pub(crate) async fn follow_definitions(server: Weak<ApiServer>) {
    let Some(mut seen) = server.upgrade().map(|server| server.customs.seen()) else {
        return;
    };
    loop {
        seen.borrow_and_update();
        let Some(live) = server.upgrade() else { return };
        let pause = match live.register_defined().await {
            Ok(()) => LOOK_EVERY,
            Err(error) => {
                tracing::debug!(%error, "groups of definitions are registered later");
                AGAIN
            }
        };
        drop(live);
        // That the time is over is as good as a change.
        let _changed = tokio::time::timeout(pause, seen.changed()).await;
    }
}

impl ApiServer {
    /// Registers the groups of definitions that are missing, and removes those that are served no more.
    async fn register_defined(&self) -> Result<(), Status> {
        let row = trireme_resources::find("apiregistration.k8s.io", "v1", "apiservices").expect("a built-in row");
        let registry = self.customs.registry();
        let served: BTreeSet<(&str, &str)> = registry
            .groups()
            .flat_map(|(group, versions)| versions.iter().map(move |version| (group, version.as_str())))
            .collect();
        for (group, version) in &served {
            let name = format!("{version}.{group}");
            let (of_group, of_version) = OF_DEFINITIONS;
            let service = json!({
                "metadata": {"name": name, "labels": {LABEL: FOLLOWED}},
                "spec": {
                    "group": group, "version": version,
                    "groupPriorityMinimum": of_group, "versionPriority": of_version,
                },
            });
            self.ensure(row, "", &name, service).await?;
        }
        for old in self.view().list(row.group, row.plural, None) {
            let followed = old
                .header()
                .labels
                .iter()
                .any(|(name, value)| &**name == LABEL && &**value == FOLLOWED);
            let text = |name: &str| old.text_at(&["spec", name]).unwrap_or_default().into_owned();
            let (group, version) = (text("group"), text("version"));
            if !followed || served.contains(&(group.as_str(), version.as_str())) {
                continue;
            }
            // This server may be late.
            self.barrier().await?;
            let definitions = self.view().list("apiextensions.k8s.io", "customresourcedefinitions", None);
            if definitions.iter().any(|definition| serves(definition, &group, &version)) {
                continue;
            }
            self.unregister(row, &old.header().name).await?;
        }
        Ok(())
    }

    async fn unregister(&self, row: &'static Resource, name: &str) -> Result<(), Status> {
        let target = Target {
            custom: None,
            row,
            namespace: String::new(),
            name: name.to_owned(),
            subresource: String::new(),
            user: Arc::new(UserInfo::apiserver()),
        };
        match self.delete(&target, &DeleteOptions::default()).await {
            Ok(_) => Ok(()),
            Err(status) if status.is_not_found() => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Registers what is missing and removes what is served no more.
    ///
    /// # Errors
    /// The first failure; calling again is safe.
    pub(crate) async fn register_groups(&self) -> Result<(), Status> {
        let row = trireme_resources::find("apiregistration.k8s.io", "v1", "apiservices").expect("a built-in row");
        let served: Vec<_> = PRIORITIES
            .iter()
            .filter(|(group, version, ..)| is_served(group, version))
            .collect();
        let names: BTreeSet<String> = served
            .iter()
            .map(|(group, version, ..)| format!("{version}.{group}"))
            .collect();
        let missing = served.iter().map(|(group, version, of_group, of_version)| {
            let name = format!("{version}.{group}");
            let service = json!({
                "metadata": {"name": name, "labels": {LABEL: ON_START}},
                "spec": {
                    "group": group, "version": version,
                    "groupPriorityMinimum": of_group, "versionPriority": of_version,
                },
            });
            async move { self.ensure(row, "", &name, service).await }
        });
        try_join_all(missing).await?;
        for old in self.view().list(row.group, row.plural, None) {
            let header = old.header();
            let ours = old.value()["metadata"]["labels"][LABEL] == ON_START;
            if !ours || names.contains(&header.name) {
                continue;
            }
            self.unregister(row, &header.name).await?;
        }
        Ok(())
    }
}
