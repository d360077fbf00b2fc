//! Users by client certificate: the common name is the user, every organisation a group
//! (staging/src/k8s.io/apiserver/pkg/authentication/request/x509).
//!
//! Invariant: the TLS layer takes any certificate whose key the client has ([`AskForCertificate`]); who issued it and
//! whether its time is up is looked at with every request, so that an expired one is told 401 in the API's form, also on
//! a connection, or a resumed session, that is older than the expiry. It will not look at revocation lists.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use trireme_api::Status;

use super::{Authenticator, unauthorized};
use crate::user::UserInfo;

/// What a client showed in the TLS handshake: its certificate and those between it and an authority. Its clones share
/// what was found out about it.
#[derive(Clone, Debug)]
pub struct PeerCertificate(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    chain: Vec<CertificateDer<'static>>,
    known: OnceLock<Known>,
}

/// The chains of a port's open connections: a client with many of them is looked at, and kept, once. Each of them has
/// proven in its handshake that it has the key; what is shared is what follows from the chain alone.
#[derive(Debug, Default)]
pub struct PeerCertificates {
    by_hash: Mutex<HashMap<u64, Weak<Peer>>>,
    hashing: RandomState,
}

/// Chains of closed connections are forgotten when they are half of so many, or of more.
const CHAINS_MIN: usize = 64;

impl PeerCertificates {
    /// A chain, the client's own certificate first; `None` where it is empty.
    #[must_use]
    pub fn shown(&self, chain: &[CertificateDer<'_>]) -> Option<PeerCertificate> {
        if chain.is_empty() {
            return None;
        }
        let hash = self.hashing.hash_one(chain);
        let mut by_hash = self.by_hash.lock();
        if let Some(peer) = by_hash.get(&hash).and_then(Weak::upgrade)
            && peer.chain == chain
        {
            return Some(PeerCertificate(peer));
        }
        let peer = PeerCertificate::new(chain)?;
        if by_hash.len() >= CHAINS_MIN && by_hash.len() == by_hash.capacity() {
            by_hash.retain(|_, peer| peer.strong_count() > 0);
            let open = by_hash.len();
            let room = (open * 2).max(CHAINS_MIN);
            by_hash.shrink_to(room);
            by_hash.reserve(room - open);
        }
        by_hash.insert(hash, Arc::downgrade(&peer.0));
        Some(peer)
    }
}

/// A chain that was verified, and until when that holds.
#[derive(Debug)]
struct Known {
    user: Option<UserInfo>,
    until: u64,
}

impl PeerCertificate {
    /// A chain, the client's own certificate first; `None` where it is empty.
    #[must_use]
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        (!chain.is_empty()).then(|| {
            Self(Arc::new(Peer {
                chain,
                known: OnceLock::new(),
            }))
        })
    }
}

/// Authenticates by the certificate that the client showed.
#[derive(Clone, Debug)]
pub struct ClientCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertificate {
    /// Trusts certificates of these authorities.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(authorities: RootCertStore) -> Result<Self, rustls::server::VerifierBuilderError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self(
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build()?,
        ))
    }

    /// The user of a chain at a time, seconds since 1970; `None` where the certificate names nobody.
    fn user_at(&self, PeerCertificate(peer): &PeerCertificate, now: u64) -> Result<Option<UserInfo>, rustls::Error> {
        if let Some(known) = peer.known.get()
            && now <= known.until
        {
            return Ok(known.user.clone());
        }
        let [own, between @ ..] = peer.chain.as_slice() else {
            return Ok(None);
        };
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        self.0.verify_client_cert(own, between, time)?;
        let user = user_of(own);
        let until = peer
            .chain
            .iter()
            .map(|certificate| end_of(certificate))
            .min()
            .unwrap_or_default();
        // Set already by another request on the connection, or for an intermediate that nobody needs: either way the
        // chain was verified just now.
        drop(peer.known.set(Known {
            user: user.clone(),
            until,
        }));
        Ok(user)
    }
}

#[async_trait]
impl Authenticator for ClientCertificate {
    async fn authenticate(
        &self,
        _parts: &http::request::Parts,
        peer: Option<&PeerCertificate>,
    ) -> Result<Option<UserInfo>, Status> {
        let Some(peer) = peer else { return Ok(None) };
        self.user_at(peer, UnixTime::now().as_secs()).map_err(|error| {
            let user = peer.0.chain.first().and_then(|certificate| user_of(certificate));
            let user = user.map(|user| user.name).unwrap_or_default();
            tracing::warn!(claimed_user = user, %error, "a client certificate is no good");
            unauthorized()
        })
    }
}

/// Last second of a certificate; 0 where it is malformed.
fn end_of(der: &[u8]) -> u64 {
    x509_parser::parse_x509_certificate(der)
        .ok()
        .and_then(|(_, certificate)| u64::try_from(certificate.validity().not_after.timestamp()).ok())
        .unwrap_or_default()
}

/// The user that a certificate names; `None` where it has no common name.
#[must_use]
pub fn user_of(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject
        .iter_organization()
        .filter_map(|organisation| organisation.as_str().ok())
        .map(str::to_owned)
        .collect();
    let credential = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    Some(UserInfo {
        name,
        groups,
        extra: BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])]),
        ..UserInfo::default()
    })
}

/// The TLS server's side: asks for a certificate, does without one, and of one that is shown checks only that the client
/// has its key.
pub struct AskForCertificate {
    authorities: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AskForCertificate {
    /// Tells clients that certificates of these authorities are wanted.
    #[must_use]
    pub fn new(authorities: &RootCertStore) -> Arc<Self> {
        Arc::new(Self {
            authorities: authorities.subjects(),
            algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms,
        })
    }
}

impl fmt::Debug for AskForCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AskForCertificate").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn connections_of_one_certificate_share_what_is_known_of_it_while_one_is_open() {
        let shown = PeerCertificates::default();
        let chain = |number: u32| [CertificateDer::from(number.to_be_bytes().to_vec())];
        assert!(shown.shown(&[]).is_none());
        let (first, second) = (shown.shown(&chain(1)).unwrap(), shown.shown(&chain(1)).unwrap());
        let other = shown.shown(&[chain(1), chain(2)].concat()).unwrap();
        assert!(Arc::ptr_eq(&first.0, &second.0) && !Arc::ptr_eq(&first.0, &other.0));
        let before = Arc::downgrade(&first.0);
        drop((first, second));
        assert!(before.upgrade().is_none(), "nothing is kept of a client that is gone");
        // A flood of certificates leaves little behind, and those of open connections stay shared.
        for number in 10..100_000 {
            shown.shown(&chain(number)).unwrap();
        }
        assert!(shown.by_hash.lock().len() <= 4 * CHAINS_MIN);
        assert!(Arc::ptr_eq(&other.0, &shown.shown(&[chain(1), chain(2)].concat()).unwrap().0));
    }

    #[test]
    fn a_chain_is_good_from_its_beginning_to_its_end_and_of_its_authority_alone() {
        let (ours, theirs) = (authority(), authority());
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).unwrap();
        let authenticator = ClientCertificate::new(roots).unwrap();
        let show = |issuer: &CertifiedIssuer<'static, KeyPair>, name: &str| {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.distinguished_name.push(DnType::OrganizationName, "people");
            params.not_before = date_time_ymd(2030, 1, 1);
            params.not_after = date_time_ymd(2031, 1, 1);
            let certificate = params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap();
            PeerCertificate::new(&[certificate.der().clone()]).unwrap()
        };
        let seconds = |year| u64::try_from(date_time_ymd(year, 1, 1).unix_timestamp()).unwrap();
        let (from, to) = (seconds(2030), seconds(2031));
        let peer = show(&ours, "ada");
        assert!(authenticator.user_at(&peer, from - 1).is_err());
        let user = authenticator.user_at(&peer, from).unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("ada", &["people".to_owned()][..])
        );
        assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
        // What was found out on a connection ends with the certificate.
        assert!(peer.0.known.get().is_some());
        assert!(authenticator.user_at(&peer, to).unwrap().is_some());
        assert!(authenticator.user_at(&peer, to + 1).is_err());
        assert_eq!(authenticator.user_at(&show(&ours, ""), from).unwrap(), None);
        let stranger = show(&theirs, "ada");
        assert!(authenticator.user_at(&stranger, from).is_err());
        assert!(stranger.0.known.get().is_none());
    }
}
