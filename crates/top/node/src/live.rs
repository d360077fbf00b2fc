//! A certificate in use: TLS servers and clients ask it for what to show at each handshake.
//!
//! Invariant: certificate and key are replaced together; connections that are there go on with what they began with. It
//! will not touch the disk.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::pki::Identity;

/// The newest certificate of one name.
#[derive(Debug)]
pub struct LiveIdentity {
    current: ArcSwap<(Identity, Arc<CertifiedKey>)>,
    above: Vec<CertificateDer<'static>>,
}

impl LiveIdentity {
    /// Begins with a certificate. `above` is shown behind it in each handshake.
    ///
    /// # Errors
    /// When key and certificate do not belong together.
    pub fn new(identity: Identity, above: Vec<CertificateDer<'static>>) -> Result<Arc<Self>, rustls::Error> {
        let certified = certify(&identity, &above)?;
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee((identity, certified)),
            above,
        }))
    }

    /// From now on shows another one.
    ///
    /// # Errors
    /// When key and certificate do not belong together; then the old one stays.
    pub fn replace(&self, identity: Identity) -> Result<(), rustls::Error> {
        let certified = certify(&identity, &self.above)?;
        self.current.store(Arc::new((identity, certified)));
        Ok(())
    }

    /// What is shown now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.current.load().0.clone()
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.load().1)
    }
}

fn certify(identity: &Identity, above: &[CertificateDer<'static>]) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let mut chain = vec![identity.certificate.clone()];
    chain.extend_from_slice(above);
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, identity.key(), &provider).map(Arc::new)
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
