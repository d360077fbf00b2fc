//! An agent's two certificates: as client of the API, and to serve the kubelet's. Both are asked for by
//! CertificateSigningRequest, kept with their keys in one file each, and renewed while in use.
//!
//! Invariant: a certificate is asked for anew when 70 to 90 per cent of its life are over, as upstream's certificate manager
//! does, or when it does not fit this node; until there is another one, the one there is stays in use.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use trireme_client::{Client, Credentials, Failover, Servers};
use trireme_reconcile::csr::{KUBELET_CLIENT, KUBELET_SERVING, NODE_PREFIX, NODES};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files;
use crate::join::token::Token;

use super::bootstrap_client;

/// Longest wait for a request to be approved and signed, as upstream's.
const ISSUED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Longest wait of a node that joins, which has nothing else to do.
const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// How often the request is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// First pause after a failure; it doubles.
const AGAIN_MIN: Duration = Duration::from_secs(2);
/// Longest pause.
const AGAIN_MAX: Duration = Duration::from_secs(5 * 60);

/// Whose certificates these are.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) address: IpAddr,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Client,
    Serving,
}

impl Purpose {
    fn file(self) -> &'static str {
        match self {
            Self::Client => "kubelet-client.pem",
            Self::Serving => "kubelet-serving.pem",
        }
    }

    fn signer(self) -> &'static str {
        match self {
            Self::Client => KUBELET_CLIENT,
            Self::Serving => KUBELET_SERVING,
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        }
    }
}

/// A certificate with its key, as it is kept.
struct Held {
    pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Unix seconds.
    not_before: i64,
    not_after: i64,
}

impl Held {
    fn parse(pem: String) -> Result<Self> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
        let first = chain.first().context("it holds no certificate")?;
        let (_, parsed) = X509Certificate::from_der(first).context("it holds a malformed certificate")?;
        let (not_before, not_after) = (
            parsed.validity().not_before.timestamp(),
            parsed.validity().not_after.timestamp(),
        );
        Ok(Self {
            not_before,
            not_after,
            chain,
            key,
            pem,
        })
    }

    fn load(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(pem) => {
                let held = Self::parse(pem).with_context(|| format!("{}; remove it to have a new one made", path.display()))?;
                Ok(Some(held))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Whether it is for this node, of this authority and not over.
    fn fits(&self, purpose: Purpose, subject: &Subject, authority: &CertificateDer<'_>, now: i64) -> bool {
        let (Ok((_, own)), Ok((_, authority))) = (
            X509Certificate::from_der(&self.chain[0]),
            X509Certificate::from_der(authority),
        ) else {
            return false;
        };
        let user = format!("{NODE_PREFIX}{}", subject.name);
        let name = own.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let signed = own.verify_signature(Some(authority.public_key())).is_ok();
        let names = own.subject_alternative_name().ok().flatten();
        let named = |wanted: &dyn Fn(&GeneralName<'_>) -> bool| {
            names
                .as_ref()
                .is_some_and(|names| names.value.general_names.iter().any(wanted))
        };
        let octets = match subject.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let reachable = purpose == Purpose::Client
            || named(&|name| matches!(name, GeneralName::DNSName(name) if *name == subject.name))
                && named(&|name| matches!(name, GeneralName::IPAddress(bytes) if *bytes == octets));
        name == Some(&user) && signed && reachable && now < self.not_after
    }

    /// When to ask for another one, in Unix seconds.
    fn renewal(&self) -> i64 {
        let life = u32::try_from(self.not_after - self.not_before).unwrap_or(0);
        let share = 0.7 + 0.2 * rand::random::<f64>();
        self.not_before + Duration::from_secs(life.into()).mul_f64(share).as_secs().cast_signed()
    }

    fn certified(&self) -> Result<Arc<CertifiedKey>> {
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider)?;
        Ok(Arc::new(certified))
    }
}

/// What the kubelet shows; nothing before the first certificate was issued.
#[derive(Debug, Default)]
struct Serving(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Both certificates.
pub(super) struct Certificates {
    /// Who the agent is as client.
    pub(super) credentials: Arc<Credentials>,
    serving: Arc<Serving>,
    directory: PathBuf,
    subject: Subject,
    /// Unix seconds of the next requests.
    renew_client: i64,
    renew_serving: i64,
}

impl Certificates {
    /// Loads what is there. A node without a client certificate asks for one with its token.
    pub(super) async fn open(
        directory: &Path,
        authority: &CertificateDer<'static>,
        subject: Subject,
        servers: &Arc<Servers>,
        token: Option<&Token>,
    ) -> Result<Self> {
        let now = Timestamp::now().as_second();
        let path = directory.join(Purpose::Client.file());
        let held = Held::load(&path)?;
        let over = held.as_ref().is_some_and(|held| held.not_after <= now);
        let client = match held.filter(|held| held.fits(Purpose::Client, &subject, authority, now)) {
            Some(held) => held,
            None => {
                let Some(token) = token else {
                    let why = if over {
                        "has expired"
                    } else {
                        "is missing or not of this cluster"
                    };
                    bail!(
                        "this node's certificate {} {why}: start once with --join and a --token of `trireme token create --role agent`",
                        path.display()
                    );
                };
                let client = bootstrap_client(servers, authority, token)?;
                let held = tokio::time::timeout(FIRST_WITHIN, request(&client, Purpose::Client, &subject))
                    .await
                    .context("no server has issued this node's certificate in time; is there a leader?")??;
                save(directory, Purpose::Client, &held)?;
                held
            }
        };
        let credentials = Credentials::new(std::slice::from_ref(authority))?;
        credentials.set_certificate(client.chain.clone(), &client.key)?;
        let serving = Arc::new(Serving::default());
        let held = Held::load(&directory.join(Purpose::Serving.file()))?;
        let held = held.filter(|held| held.fits(Purpose::Serving, &subject, authority, now));
        if let Some(held) = &held {
            serving.0.store(Some(held.certified()?));
        }
        Ok(Self {
            credentials: Arc::new(credentials),
            serving,
            directory: directory.to_owned(),
            subject,
            renew_client: client.renewal(),
            renew_serving: held.map_or(now, |held| held.renewal()),
        })
    }

    /// What the kubelet's TLS asks at each handshake.
    pub(super) fn serving(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.serving) as _
    }

    /// Renews both until the end.
    pub(super) async fn keep(self, way: Arc<Failover>, client: Client, shutdown: CancellationToken) {
        let work = async {
            tokio::join!(
                self.keep_one(Purpose::Client, self.renew_client, &way, &client),
                self.keep_one(Purpose::Serving, self.renew_serving, &way, &client),
            )
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = work => {}
        }
    }

    async fn keep_one(&self, purpose: Purpose, mut due: i64, way: &Arc<Failover>, client: &Client) {
        let mut pause = AGAIN_MIN;
        loop {
            // Looked at hourly: a clock that is set does not move a timer.
            let left = due - Timestamp::now().as_second();
            if let Ok(seconds @ 1..) = u64::try_from(left) {
                tokio::time::sleep(Duration::from_secs(seconds.min(3600))).await;
                continue;
            }
            match self.renew(purpose, way, client).await {
                Ok(next) => {
                    tracing::info!(certificate = purpose.file(), "issued; in use from now on");
                    (due, pause) = (next, AGAIN_MIN);
                }
                Err(error) => {
                    tracing::warn!(certificate = purpose.file(), "cannot be renewed, asking again: {error:#}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MAX);
                }
            }
        }
    }

    /// Renews the client certificate though it is not due.
    #[cfg(test)]
    pub(super) async fn renew_now(&self, way: &Arc<Failover>, client: &Client) -> Result<i64> {
        self.renew(Purpose::Client, way, client).await
    }

    async fn renew(&self, purpose: Purpose, way: &Arc<Failover>, client: &Client) -> Result<i64> {
        let held = tokio::time::timeout(ISSUED_WITHIN, request(client, purpose, &self.subject))
            .await
            .context("the request was not answered in time")??;
        save(&self.directory, purpose, &held)?;
        match purpose {
            Purpose::Client => {
                self.credentials.set_certificate(held.chain.clone(), &held.key)?;
                way.renew().await;
            }
            Purpose::Serving => self.serving.0.store(Some(held.certified()?)),
        }
        Ok(held.renewal())
    }
}

fn save(directory: &Path, purpose: Purpose, held: &Held) -> Result<()> {
    let path = directory.join(purpose.file());
    files::write_atomically(&path, held.pem.as_bytes(), 0o600).with_context(|| format!("writing {}", path.display()))
}

/// Asks for a certificate with a new key and waits for it.
async fn request(client: &Client, purpose: Purpose, subject: &Subject) -> Result<Held> {
    let key = KeyPair::generate()?;
    let object = csr(purpose, subject, &key)?;
    let created = client.create(&object).await.context("asking for a certificate")?;
    let name = created.metadata.name.clone().context("the request has no name")?;
    let pem = issued(client, &name).await?;
    let held = Held::parse(pem + &key.serialize_pem())?;
    let (_, parsed) = X509Certificate::from_der(&held.chain[0]).context("a malformed certificate was issued")?;
    ensure!(
        parsed.public_key().raw == key.subject_public_key_info(),
        "a certificate of another key was issued"
    );
    Ok(held)
}

fn csr(purpose: Purpose, subject: &Subject, key: &KeyPair) -> Result<CertificateSigningRequest> {
    let names = match purpose {
        Purpose::Client => vec![],
        Purpose::Serving => vec![subject.name.clone(), subject.address.to_string()],
    };
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, NODES);
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("{NODE_PREFIX}{}", subject.name));
    let request = parameters.serialize_request(key)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(vec!["digital signature".to_owned(), purpose.usage().to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

/// The certificate of a request, PEM.
async fn issued(client: &Client, name: &str) -> Result<String> {
    let mut pause = LOOK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_secs(5));
        let csr = match client.get::<CertificateSigningRequest>("", name).await {
            Ok(csr) => csr,
            Err(status) if status.code == 0 || status.code >= 500 => continue,
            Err(status) => return Err(status).context("looking for the certificate"),
        };
        let status = csr.status.clone().unwrap_or_default();
        for condition in status.conditions.iter().flatten() {
            if condition.type_ == "Denied" || condition.type_ == "Failed" {
                let message = condition.message.as_deref().unwrap_or("without a reason");
                bail!(
                    "certificate signing request {name} is {}: {message}",
                    condition.type_.to_lowercase()
                );
            }
        }
        if let Some(certificate) = status.certificate.filter(|certificate| !certificate.0.is_empty()) {
            return String::from_utf8(certificate.0).context("the certificate is no PEM");
        }
    }
}
