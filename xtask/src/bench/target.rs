//! The server under measurement: where it is, how it is trusted and who we are there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use http::{HeaderValue, Uri};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::kubeconfig::{self, Access};

/// Which server, by URL or kubeconfig.
#[derive(Args)]
pub(crate) struct Target {
    /// URL of the API server; instead of the kubeconfig's
    #[arg(long)]
    server: Option<String>,
    /// Kubeconfig with the server, its CA and our credentials (client certificate or token)
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Bearer token; instead of the kubeconfig's credentials
    #[arg(long)]
    token: Option<String>,
    /// File with the CA certificates to trust; instead of the kubeconfig's
    #[arg(long)]
    certificate_authority: Option<PathBuf>,
    /// Do not verify the server's certificate
    #[arg(long)]
    insecure: bool,
}

impl Target {
    /// A target that a kubeconfig alone describes.
    pub(crate) fn of_kubeconfig(path: PathBuf) -> Self {
        Self {
            server: None,
            kubeconfig: Some(path),
            token: None,
            certificate_authority: None,
            insecure: false,
        }
    }

    /// The same by another address of the cluster.
    pub(crate) fn at(self, server: String) -> Self {
        Self {
            server: Some(server),
            ..self
        }
    }

    /// Reads what the options name and resolves the server's address.
    ///
    /// # Errors
    /// When a file is unusable, the URL is none, or nothing says whom to trust.
    pub(crate) async fn resolve(&self) -> Result<Endpoint> {
        let mut access = match &self.kubeconfig {
            Some(path) => kubeconfig::load(path)?,
            None => Access::default(),
        };
        if let Some(server) = &self.server {
            access.server.clone_from(server);
        }
        if let Some(token) = &self.token {
            access.token = Some(token.clone());
            access.identity = None;
        }
        if let Some(path) = &self.certificate_authority {
            access.authority = Some(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        ensure!(
            !access.server.is_empty(),
            "which server? --kubeconfig FILE or --server URL says"
        );
        access.insecure |= self.insecure;
        Endpoint::new(&access)
            .await
            .with_context(|| format!("server {}", access.server))
    }
}

/// A server that connections can be made to.
pub(crate) struct Endpoint {
    /// Its URL.
    pub(crate) url: String,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Value of the Host header.
    pub(crate) host: HeaderValue,
    /// Value of the Authorization header.
    pub(crate) authorization: Option<HeaderValue>,
    /// How to encrypt; none for `http://`.
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Endpoint {
    async fn new(access: &Access) -> Result<Self> {
        let uri: Uri = access.server.parse().context("it is no URL")?;
        ensure!(matches!(uri.path(), "" | "/"), "a path in the URL is not supported");
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("the URL begins with https:// or http://"),
        };
        let name = uri.host().context("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let address = {
            let mut addresses = tokio::net::lookup_host((name.as_str(), port))
                .await
                .context("its name has no address")?;
            addresses.next().context("its name has no address")?
        };
        let tls = if encrypted {
            let name =
                ServerName::try_from(access.server_name.clone().unwrap_or(name)).context("its name fits no certificate")?;
            Some((TlsConnector::from(Arc::new(tls_config(access)?)), name))
        } else {
            None
        };
        let authorization = match &access.token {
            Some(token) => {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {token}")).context("the token holds characters that none has")?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let host = HeaderValue::try_from(uri.authority().context("the URL has no host")?.as_str())?;
        Ok(Self {
            url: access.server.clone(),
            address,
            host,
            authorization,
            tls,
        })
    }
}

fn tls_config(access: &Access) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if access.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        let Some(authority) = &access.authority else {
            bail!("nothing says whom to trust: give --kubeconfig, --certificate-authority or --insecure");
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority) {
            roots
                .add(certificate.context("the CA is no PEM")?)
                .context("the CA is no certificate")?;
        }
        ensure!(!roots.is_empty(), "the CA holds no certificate");
        builder.with_root_certificates(roots)
    };
    match &access.identity {
        Some((certificates, key)) => {
            let certificates = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).context("the client key is no PEM")?;
            let certificates = certificates.context("the client certificate is no PEM")?;
            builder
                .with_client_auth_cert(certificates, key)
                .context("client certificate and key do not work")
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Trusts any certificate, because the user said so.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
