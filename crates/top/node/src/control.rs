//! Controllers and scheduler: what they are given, and who they are. One run is for one term as leader.
//!
//! Invariant: each controller acts as its own service account, which upstream's bootstrap roles allow what it needs; none
//! is in `system:masters`. Every write carries the term.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_apiserver::{ApiServer, InProcess, UserInfo};
use trireme_client::{Cache, Client, Clock};
use trireme_manager::scheduler_configuration::Configuration;
use trireme_manager::{Manager, Metrics, Scheduler, controllers};

use crate::certificates::Certificates;
use crate::config::{Checked, Part};
use crate::local_volumes::NodeDisks;
use crate::seams::AccountTokens;

/// Namespace of the controllers' service accounts.
const NAMESPACE: &str = "kube-system";

/// What controllers and scheduler are made of in each term.
pub(crate) struct ControlPlane {
    server: Arc<ApiServer>,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    settings: controllers::Settings,
    controllers: bool,
    /// None where it is left out.
    scheduler: Option<Configuration>,
    /// Outlive the terms.
    metrics: Arc<Metrics>,
}

impl ControlPlane {
    /// Puts it together and has the server's `/metrics` show its counters; nothing runs yet.
    pub(crate) fn new(
        config: &Checked,
        (server, disks): (&Arc<ApiServer>, Arc<NodeDisks>),
        cache: &Arc<Cache>,
        clock: &Arc<dyn Clock>,
        certificates: &Certificates,
    ) -> Result<Self> {
        let settings = controllers::Settings {
            root_ca_pem: certificates.authority.certificate_pem().to_owned(),
            cluster_cidrs: vec![config.options.cluster_cidr.clone()],
            node_grace: Some(config.options.node_monitor_grace_period),
            load_balancer_pool: pool(&config.options.load_balancer_pool)?,
            signer: Some(Arc::clone(&certificates.authority) as _),
            token_signer: Some(Arc::new(AccountTokens::new(&certificates.signing_key)?)),
            local_volumes: Some(disks as _),
        };
        let metrics = Arc::new(Metrics::default());
        let shown = Arc::clone(&metrics);
        server.add_metrics(move || shown.render());
        // Weak, since the cache reads through the server.
        let held = Arc::downgrade(cache);
        server.add_metrics(move || held.upgrade().map(|cache| cache.render_metrics()).unwrap_or_default());
        Ok(Self {
            server: Arc::clone(server),
            cache: Arc::clone(cache),
            clock: Arc::clone(clock),
            settings,
            controllers: config.runs(Part::Controllers),
            scheduler: config.runs(Part::Scheduler).then(|| config.scheduler.clone()),
            metrics,
        })
    }

    /// Starts what is not disabled, for one term.
    pub(crate) fn start(&self, term: u64, tasks: &TaskTracker, ended: &CancellationToken) {
        if self.controllers {
            let kinds = controllers::kinds();
            let registrations = controllers::all(&self.settings, &kinds);
            let server = Arc::clone(&self.server);
            let access = move |account: &'static str| access(&server, controller_user(account), term);
            let (cache, clock) = (Arc::clone(&self.cache), Arc::clone(&self.clock));
            let manager = Manager::with_access(access, cache, Arc::new(kinds), clock)
                .with_metrics(Arc::clone(&self.metrics))
                .register_all(registrations);
            tasks.spawn(manager.run(ended.clone()));
        }
        if let Some(configuration) = &self.scheduler {
            let client = access(&self.server, UserInfo::new("system:kube-scheduler", &[]), term);
            let scheduler = Scheduler::new(client, Arc::clone(&self.cache), Arc::clone(&self.clock))
                .with_metrics(Arc::clone(&self.metrics))
                .with_configuration(configuration.clone());
            tasks.spawn(scheduler.run(ended.clone()));
        }
    }
}

fn access(server: &Arc<ApiServer>, user: UserInfo, term: u64) -> Client {
    Client::new(InProcess::new(Arc::clone(server), user.fenced(term)))
}

/// A controller as upstream's controller manager shows itself with `--use-service-account-credentials`.
fn controller_user(account: &str) -> UserInfo {
    let everyone = "system:serviceaccounts";
    UserInfo::new(
        &format!("system:serviceaccount:{NAMESPACE}:{account}"),
        &[everyone, &format!("{everyone}:{NAMESPACE}")],
    )
}

/// Single addresses and ranges `A-B`, written out.
pub(crate) fn pool(texts: &[String]) -> Result<Vec<IpAddr>> {
    /// Most addresses in one pool.
    const POOL_MAX: usize = 4096;
    let mut addresses = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let wrong = || format!("--load-balancer-pool: \"{text}\" is no IPv4 address and no range like 192.0.2.10-192.0.2.20");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: std::net::Ipv4Addr = first.trim().parse().ok().with_context(wrong)?;
        let last: std::net::Ipv4Addr = last.trim().parse().ok().with_context(wrong)?;
        addresses.extend(
            (u32::from(first)..=u32::from(last))
                .take(POOL_MAX)
                .map(|number| IpAddr::V4(number.into())),
        );
    }
    addresses.truncate(POOL_MAX);
    Ok(addresses)
}

#[cfg(test)]
mod authority;

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use trireme_reconcile::local_volume::{Answer, Order};

    use super::*;

    struct NoTokens;

    impl controllers::TokenSigner for NoTokens {
        fn sign(&self, _order: &trireme_reconcile::account_token::Order) -> Result<String, controllers::Unsigned> {
            Err(controllers::Unsigned)
        }
    }

    struct NoDisks;

    #[async_trait::async_trait]
    impl controllers::LocalVolumes for NoDisks {
        async fn ensure(&self, _: &Value, _: &Order) -> Answer {
            Answer::Gone
        }

        async fn remove(&self, _: &Value, _: &str) -> Answer {
            Answer::Gone
        }
    }

    #[test]
    fn every_controllers_account_has_a_bootstrap_role() {
        let objects = trireme_policy::bootstrap::objects();
        let bound = |account: &str| {
            objects.iter().any(|object| {
                let subjects = object["subjects"].as_array();
                object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding"))
                    && object["roleRef"]["name"]
                        .as_str()
                        .is_some_and(|role| role.starts_with("system:controller:") || role.starts_with("trireme:controller:"))
                    && subjects.into_iter().flatten().any(|subject: &Value| {
                        (&subject["kind"], &subject["namespace"], &subject["name"])
                            == (&"ServiceAccount".into(), &NAMESPACE.into(), &account.into())
                    })
            })
        };
        let settings = controllers::Settings {
            token_signer: Some(Arc::new(NoTokens)),
            local_volumes: Some(Arc::new(NoDisks)),
            ..controllers::Settings::default()
        };
        let registrations = controllers::all(&settings, &controllers::kinds());
        assert!(registrations.len() > 15);
        for registration in registrations {
            assert!(bound(registration.account_name()), "{}", registration.account_name());
        }
    }

    #[test]
    fn pools_are_addresses_and_ranges() {
        let texts = ["192.0.2.1".to_owned(), "192.0.2.7-192.0.2.9".to_owned()];
        let addresses: Vec<String> = pool(&texts).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1", "192.0.2.7", "192.0.2.8", "192.0.2.9"]);
        assert!(
            pool(&["here".to_owned()])
                .unwrap_err()
                .to_string()
                .starts_with("--load-balancer-pool")
        );
    }
}
