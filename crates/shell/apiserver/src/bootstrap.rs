//! The objects that every cluster has, made at start and kept.
//!
//! Invariant: idempotent, and the same on every server: what exists is left as it is, but for the endpoints of the
//! `kubernetes` Service, which are the servers that are ready.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use trireme_api::Status;
use trireme_api::bulk::Present;
use trireme_resources::Resource;

use crate::pipeline::update::{Behaviour, Made};
use crate::pipeline::{Target, WriteOptions, rules};
use crate::server::ApiServer;
use crate::user::UserInfo;

const MANAGER: &str = "kube-apiserver";

fn row(group: &str, plural: &str) -> &'static Resource {
    trireme_resources::find(group, "v1", plural).expect("a built-in row")
}

/// An object, asked for by the API server itself.
fn own_target(row: &'static Resource, namespace: &str, name: &str) -> Target {
    Target {
        custom: None,
        row,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: String::new(),
        user: Arc::new(UserInfo::apiserver()),
    }
}

impl ApiServer {
    /// Makes what is missing. Call it once the store can be written; readiness waits for it.
    ///
    /// # Errors
    /// The first failure; calling again is safe.
    pub async fn bootstrap(&self) -> Result<(), Status> {
        self.barrier().await?;
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace = json!({"metadata": {"name": name}});
            self.ensure(row("", "namespaces"), "", name, namespace).await?;
        }
        if !self.config.service_cidrs.is_empty() {
            let cidrs: Vec<String> = self.config.service_cidrs.iter().map(ToString::to_string).collect();
            let object = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}});
            self.ensure(row("networking.k8s.io", "servicecidrs"), "", "kubernetes", object)
                .await?;
        }
        for (name, value, description) in [
            (
                "system-cluster-critical",
                2_000_000_000_i64,
                "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
            ),
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
        ] {
            let class = json!({"metadata": {"name": name}, "value": value, "description": description});
            self.ensure(row("scheduling.k8s.io", "priorityclasses"), "", name, class)
                .await?;
        }
        self.ensure_kubernetes_service().await?;
        self.register_groups().await?;
        self.health.set_started();
        Ok(())
    }

    /// Whether an object is there, in this server's own replica.
    #[must_use]
    pub fn has(&self, row: &'static Resource, namespace: &str, name: &str) -> bool {
        self.store.get(&own_target(row, namespace, name).key()).is_some()
    }

    /// Creates an object as the API server itself, unless it exists.
    ///
    /// # Errors
    /// Any failure other than "already exists".
    pub async fn ensure(&self, row: &'static Resource, namespace: &str, name: &str, mut value: Value) -> Result<(), Status> {
        let target = own_target(row, namespace, name);
        if self.store.get(&target.key()).is_some() {
            return Ok(());
        }
        value["apiVersion"] = row.api_version().into();
        value["kind"] = row.kind.into();
        rules::defaults(row, &mut value);
        let options = WriteOptions {
            manager: MANAGER.to_owned(),
            ..WriteOptions::default()
        };
        let creating = Target {
            name: String::new(),
            ..target
        };
        match self.create(&creating, value, &options).await {
            Ok(_) => Ok(()),
            Err(status) if status.is_already_exists() => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn ensure_kubernetes_service(&self) -> Result<(), Status> {
        let Some(cidr) = self.config.service_cidrs.first() else {
            return Ok(());
        };
        let address = cidr.address(1).to_string();
        let service = json!({
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "clusterIP": address,
                "clusterIPs": [address],
                "type": "ClusterIP",
                "sessionAffinity": "None",
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": self.config.port}],
            },
        });
        self.ensure(row("", "services"), "default", "kubernetes", service).await
    }

    /// Makes the endpoints of the `kubernetes` Service exactly these addresses: the servers that are ready. Whoever leads
    /// calls this when they change.
    ///
    /// # Errors
    /// As writes fail.
    pub async fn publish_endpoints(&self, addresses: &[IpAddr], fence: Option<u64>) -> Result<(), Status> {
        // Pods would each find themselves there: endpoints in the loopback range are invalid.
        let mut addresses: Vec<IpAddr> = addresses.iter().copied().filter(|address| !address.is_loopback()).collect();
        addresses.sort();
        let Some(first) = addresses.first() else {
            tracing::warn!("no server has an address but loopback: the Service \"kubernetes\" leads nowhere");
            return Ok(());
        };
        let family = if first.is_ipv6() { "IPv6" } else { "IPv4" };
        let ports = json!([{"name": "https", "port": self.config.port, "protocol": "TCP"}]);
        let listed: Value = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
        let ready: Value = addresses
            .iter()
            .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
            .collect();
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": listed, "ports": ports}],
        });
        let slice = json!({
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": ready,
            "ports": ports,
        });
        self.ensure(row("", "endpoints"), "default", "kubernetes", endpoints).await?;
        self.ensure(row("discovery.k8s.io", "endpointslices"), "default", "kubernetes", slice)
            .await?;
        self.amend(row("", "endpoints"), fence, |value| {
            value["subsets"] = json!([{"addresses": listed, "ports": ports}]);
        })
        .await?;
        self.amend(row("discovery.k8s.io", "endpointslices"), fence, |value| {
            value["endpoints"] = ready.clone();
            value["ports"] = ports.clone();
        })
        .await
    }

    async fn amend(
        &self,
        row: &'static Resource,
        fence: Option<u64>,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<(), Status> {
        let target = Target {
            row,
            custom: None,
            namespace: "default".into(),
            name: "kubernetes".into(),
            subresource: String::new(),
            user: Arc::new(UserInfo {
                fence,
                ..UserInfo::apiserver()
            }),
        };
        let options = WriteOptions {
            manager: MANAGER.to_owned(),
            ..WriteOptions::default()
        };
        let behaviour = Behaviour {
            patch: true,
            ..Behaviour::default()
        };
        let mut make = |present: &Present| {
            let mut value = present.whole().clone();
            change(&mut value);
            Ok(Made::plain(value))
        };
        self.change(&target, &options, behaviour, &mut make).await.map(drop)
    }
}
