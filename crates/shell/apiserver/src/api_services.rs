//! The built-in groups as APIServices, as the aggregation layer registers them: once at each start, by the label
//! `kube-aggregator.kubernetes.io/automanaged: onstart`.
//!
//! Invariant: who changes one keeps the change; who deletes one has it again at the next start; one of a group that this
//! version serves no more goes.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use serde_json::json;
use trireme_api::Status;

use crate::pipeline::Target;
use crate::pipeline::options::DeleteOptions;
use crate::server::ApiServer;
use crate::user::UserInfo;

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";

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

impl ApiServer {
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
            let target = Target {
                custom: None,
                row,
                namespace: String::new(),
                name: header.name.clone(),
                subresource: String::new(),
                user: std::sync::Arc::new(UserInfo::apiserver()),
            };
            match self.delete(&target, &DeleteOptions::default()).await {
                Ok(_) => {}
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }
}
