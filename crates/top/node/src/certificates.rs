//! The certificates that a server needs, and which names each has.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::config::Checked;
use crate::files;
use crate::live::LiveIdentity;
use crate::pki::{self, Authority, Leaf};
use crate::place::Place;
use crate::renewal::Renewal;

/// File name of the administrator's certificate.
pub(crate) const ADMIN: &str = "admin";

/// The server's certificates.
pub(crate) struct Certificates {
    pub(crate) authority: Arc<Authority>,
    /// What the API shows.
    pub(crate) api: Arc<LiveIdentity>,
    /// What the first administrator's kubeconfig holds.
    pub(crate) admin: Arc<LiveIdentity>,
    /// What the API server shows to kubelets.
    pub(crate) to_kubelets: Arc<LiveIdentity>,
    /// What this host's kubelet shows.
    pub(crate) kubelet: Arc<LiveIdentity>,
    /// Signs service account tokens.
    pub(crate) signing_key: rcgen::KeyPair,
}

/// Names of the cluster's keys, of files without their endings.
const AUTHORITY: &str = "ca";
const SIGNING_KEY: &str = "service-account";

impl Certificates {
    /// Loads or makes all of them, and what keeps them from expiring.
    pub(crate) fn open(config: &Checked, place: &Place, node_ip: IpAddr, now: Duration) -> Result<(Self, Renewal)> {
        let (directory, node_name) = (place.pki(), place.member().name.as_str());
        files::private_directory(&directory).with_context(|| format!("making {}", directory.display()))?;
        let known = place.known(AUTHORITY, true);
        let authority = Arc::new(Authority::load_or_make(&directory, AUTHORITY, "trireme-ca", known, now)?);
        let signing_key = pki::signing_key(&directory, SIGNING_KEY, place.known(SIGNING_KEY, true))?;
        let mut renewal = Renewal::new(directory, Arc::clone(&authority));
        let mut keep = |file, common_name: &str, organisation: Option<&str>, names, usage| {
            let leaf = Leaf {
                file,
                common_name: common_name.to_owned(),
                organisation: organisation.map(str::to_owned),
                names,
                usages: vec![usage],
            };
            renewal.keep(leaf, now)
        };
        let kubelet_client = "kube-apiserver-kubelet-client";
        let node_user = format!("system:node:{node_name}");
        let node_names = vec![node_name.to_owned(), node_ip.to_string()];
        let api_names = api_names(config, node_ip, node_name);
        let certificates = Self {
            api: keep("apiserver", "kube-apiserver", None, api_names, ServerAuth)?,
            admin: keep(ADMIN, "kubernetes-admin", Some("system:masters"), vec![], ClientAuth)?,
            to_kubelets: keep("apiserver-kubelet-client", kubelet_client, None, vec![], ClientAuth)?,
            kubelet: keep("kubelet", &node_user, Some("system:nodes"), node_names, ServerAuth)?,
            signing_key,
            authority,
        };
        Ok((certificates, renewal))
    }

    /// The cluster's keys here: name and fingerprint.
    pub(crate) fn fingerprints(&self) -> [(String, String); 2] {
        [
            (AUTHORITY.to_owned(), self.authority.fingerprint()),
            (SIGNING_KEY.to_owned(), pki::fingerprint(&self.signing_key)),
        ]
    }
}

fn api_names(config: &Checked, node_ip: IpAddr, node_name: &str) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .into();
    names.push(format!("kubernetes.default.svc.{}", config.options.cluster_domain));
    names.push(node_name.to_owned());
    names.extend([
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        config.service_cidr.nth(1).to_string(),
        node_ip.to_string(),
    ]);
    if !config.options.bind_address.is_unspecified() {
        names.push(config.options.bind_address.to_string());
    }
    names.extend(config.options.vip.iter().map(ToString::to_string));
    names.extend(config.options.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    names
}
