//! The cluster's keys and certificates: made at first start, renewed before they run out, kept below `pki/` of the data
//! directory with mode 0600.
//!
//! Invariant: an authority and the key of service account tokens are never replaced: they are made where nothing is known of
//! them ([`Known`]), and refused where they are not what is known. A leaf is replaced when it lacks a name it should have or
//! has less than a third of its life left. It will not print or log a key.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use crate::files;

/// Life of an authority: ten years, as kubeadm's.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of a leaf: one year, as kubeadm's.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks may differ by this much when a certificate is new.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Why there are no usable certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A leaf's file is there but holds no certificate or key; it is not overwritten.
    #[error("{path} is not a valid PEM file; restore it from a backup, or remove it to have a new one made")]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// A file of the cluster's keys is not what it must be; nothing is made in its place.
    #[error(
        "{path} {fault}: restore it from a backup, or copy it from another server of the cluster, where it is the same; if there is \
         neither, begin a new cluster in another --data-dir"
    )]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// Making a certificate failed.
    #[error("making a certificate failed")]
    Make(#[from] rcgen::Error),
    /// TLS cannot use it.
    #[error("a certificate that TLS cannot use")]
    Unusable(#[from] rustls::Error),
}

/// What is wrong with a file of the cluster's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is not there.
    #[error("is missing, though its data directory was in use")]
    Missing,
    /// It holds something else.
    #[error("is not a valid PEM file")]
    Malformed,
    /// The certificate and the key are not a pair.
    #[error("does not belong to the key beside it")]
    Pair,
    /// It is not what the data directory was made with.
    #[error("is another key than the one that its data directory was made with")]
    Other,
}

/// What is known of a key before it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// Nothing: where it is absent it is made.
    Nothing,
    /// It was made.
    Present,
    /// It was made, and this is its fingerprint.
    Fingerprint(&'a str),
}

impl Known<'_> {
    fn check(self, path: PathBuf, key: &KeyPair) -> Result<(), PkiError> {
        match self {
            Self::Fingerprint(known) if known != fingerprint(key) => Err(PkiError::Key {
                path,
                fault: KeyFault::Other,
            }),
            _ => Ok(()),
        }
    }
}

/// SHA-256 of the public part of a key, in hexadecimal.
#[must_use]
pub fn fingerprint(key: &KeyPair) -> String {
    hex::encode(Sha256::digest(key.subject_public_key_info()))
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PKCS#8 PEM.
    pub key_pem: String,
}

impl Identity {
    /// The key for rustls.
    ///
    /// # Panics
    /// When the key is not PEM: it was parsed when it was loaded.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("checked when loaded"))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        formatter.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Authority {
    identity: Identity,
    key: KeyPair,
}

/// What a leaf certificate says.
pub struct Leaf {
    /// File name without ending, below the PKI directory.
    pub file: &'static str,
    /// Common name: the user.
    pub common_name: String,
    /// Organisation: the user's group. (rcgen keeps one value per attribute.)
    pub organisation: Option<String>,
    /// DNS names and addresses; not empty for a serving certificate.
    pub names: Vec<String>,
    /// Server, client or both.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Authority {
    /// Loads the authority `file` below `directory`; makes it where nothing is known of it and it is not there.
    ///
    /// | certificate | key    | known   | verdict                                                     |
    /// | ----------- | ------ | ------- | ----------------------------------------------------------- |
    /// | absent      | absent | nothing | made                                                        |
    /// | absent      | whole  | nothing | made: the key is written first, and a crash came between    |
    /// | whole       | whole  |         | loaded, if they are a pair and what is known                |
    /// | else        |        |         | refused                                                     |
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn load_or_make(
        directory: &Path,
        file: &str,
        common_name: &str,
        known: Known<'_>,
        now: Duration,
    ) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (certificate_path(directory, file), key_path(directory, file));
        let fault = |path: &Path, fault| PkiError::Key {
            path: path.to_owned(),
            fault,
        };
        match (read(&certificate_path)?, read(&key_path)?) {
            (None, _) if known == Known::Nothing => {}
            (None, _) => return Err(fault(&certificate_path, KeyFault::Missing)),
            (Some(_), None) => return Err(fault(&key_path, KeyFault::Missing)),
            (Some(certificate_pem), Some(key_pem)) => {
                let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes());
                let certificate = certificate.map_err(|_| fault(&certificate_path, KeyFault::Malformed))?;
                let key = KeyPair::from_pem(&key_pem).map_err(|_| fault(&key_path, KeyFault::Malformed))?;
                known.check(key_path, &key)?;
                match public_key(&certificate) {
                    None => return Err(fault(&certificate_path, KeyFault::Malformed)),
                    Some(public) if public != key.subject_public_key_info() => {
                        return Err(fault(&certificate_path, KeyFault::Pair));
                    }
                    Some(_) => {}
                }
                let identity = Identity {
                    certificate,
                    certificate_pem,
                    key_pem,
                };
                return Ok(Self { identity, key });
            }
        }
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec![])?;
        parameters.distinguished_name = distinguished_name(common_name, None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        set_validity(&mut parameters, now, AUTHORITY_LIFE);
        let certificate = parameters.self_signed(&key)?;
        let identity = Identity {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        };
        save(directory, file, &identity)?;
        Ok(Self { identity, key })
    }

    /// The authority's certificate in PEM, for kubeconfigs and the root CA config map.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.identity.certificate_pem
    }

    /// The authority's certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.identity.certificate
    }

    /// See [`fingerprint`].
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.key)
    }

    /// The authority's key, to sign with.
    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// Loads a leaf of this authority, or makes it where it is absent, of another authority, without its key, lacks a
    /// name, is old, or begins in the future.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn leaf(&self, directory: &Path, leaf: &Leaf, now: Duration) -> Result<Identity, PkiError> {
        if let Some(identity) = load(directory, leaf.file)?
            && self.is_current(&identity, leaf, now)
        {
            return Ok(identity);
        }
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(leaf.names.clone())?;
        parameters.distinguished_name = distinguished_name(&leaf.common_name, leaf.organisation.as_deref());
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = leaf.usages.clone();
        set_validity(&mut parameters, now, LEAF_LIFE);
        let issuer = Issuer::from_ca_cert_der(&self.identity.certificate, &self.key)?;
        let certificate = parameters.signed_by(&key, &issuer)?;
        let identity = Identity {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        };
        save(directory, leaf.file, &identity)?;
        Ok(identity)
    }

    fn is_current(&self, identity: &Identity, leaf: &Leaf, now: Duration) -> bool {
        use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
        let Ok((_, certificate)) = X509Certificate::from_der(&identity.certificate) else {
            return false;
        };
        let Ok((_, authority)) = X509Certificate::from_der(&self.identity.certificate) else {
            return false;
        };
        if certificate.issuer() != authority.subject() || certificate.verify_signature(Some(authority.public_key())).is_err() {
            return false;
        }
        // A crash between the two files leaves a new key beside an old certificate.
        if KeyPair::from_pem(&identity.key_pem).is_ok_and(|key| key.subject_public_key_info() != certificate.public_key().raw) {
            return false;
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        let left = validity.not_after.timestamp() - now;
        if left < i64::try_from(LEAF_LIFE.as_secs() / 3).unwrap_or(0) || validity.not_before.timestamp() > now {
            return false;
        }
        let Ok(names) = certificate.subject_alternative_name() else {
            return false;
        };
        let held: Vec<String> = names
            .map(|extension| {
                extension
                    .value
                    .general_names
                    .iter()
                    .filter_map(|name| match name {
                        GeneralName::DNSName(name) => Some((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
                        _ => None,
                    })
                    .collect()
            })
            .unwrap_or_default();
        leaf.names.iter().all(|name| held.contains(name))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Loads the key that signs service account tokens (ECDSA P-256, PKCS#8 PEM); makes it where nothing is known of it and it is
/// not there.
///
/// # Errors
/// See [`PkiError`].
pub fn signing_key(directory: &Path, file: &str, known: Known<'_>) -> Result<KeyPair, PkiError> {
    let path = key_path(directory, file);
    let fault = |fault| PkiError::Key {
        path: path.clone(),
        fault,
    };
    match read(&path)? {
        Some(pem) => {
            let key = KeyPair::from_pem(&pem).map_err(|_| fault(KeyFault::Malformed))?;
            known.check(path, &key)?;
            Ok(key)
        }
        None if known == Known::Nothing => {
            let key = KeyPair::generate()?;
            files::write_atomically(&path, key.serialize_pem().as_bytes(), 0o600)
                .map_err(|source| PkiError::File { path, source })?;
            Ok(key)
        }
        None => Err(fault(KeyFault::Missing)),
    }
}

fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// A file's text; `None` where it does not exist.
fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Malformed rather than unreadable: whoever parses it says so.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(source) => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// When the certificates of a PKI directory run out: file name without ending → Unix seconds.
#[must_use]
pub fn expiries(directory: &Path) -> std::collections::BTreeMap<String, i64> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let (Some(name), Some("crt")) = (
            path.file_stem().and_then(|name| name.to_str()),
            path.extension().and_then(|end| end.to_str()),
        ) else {
            continue;
        };
        let Ok(pem) = std::fs::read(&path) else { continue };
        let Ok(certificate) = CertificateDer::from_pem_slice(&pem) else {
            continue;
        };
        if let Ok((_, parsed)) = X509Certificate::from_der(&certificate) {
            found.insert(name.to_owned(), parsed.validity().not_after.timestamp());
        }
    }
    found
}

fn distinguished_name(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(parameters: &mut CertificateParams, now: Duration, life: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + now.saturating_sub(BACKDATE);
    parameters.not_after = epoch + now + life;
}

fn certificate_path(directory: &Path, file: &str) -> PathBuf {
    directory.join(format!("{file}.crt"))
}

fn key_path(directory: &Path, file: &str) -> PathBuf {
    directory.join(format!("{file}.key"))
}

fn load(directory: &Path, file: &str) -> Result<Option<Identity>, PkiError> {
    let (certificate_pem, key_pem) = (read(&certificate_path(directory, file))?, read(&key_path(directory, file))?);
    let (Some(certificate_pem), Some(key_pem)) = (certificate_pem, key_pem) else {
        return Ok(None);
    };
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| PkiError::Malformed {
        path: certificate_path(directory, file),
    })?;
    PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| PkiError::Malformed {
        path: key_path(directory, file),
    })?;
    Ok(Some(Identity {
        certificate,
        certificate_pem,
        key_pem,
    }))
}

fn save(directory: &Path, file: &str, identity: &Identity) -> Result<(), PkiError> {
    let write = |path: PathBuf, content: &str| {
        files::write_atomically(&path, content.as_bytes(), 0o600).map_err(|source| PkiError::File { path, source })
    };
    // The key first: a certificate without its key would be loaded as absent and made anew together with it.
    write(key_path(directory, file), &identity.key_pem)?;
    write(certificate_path(directory, file), &identity.certificate_pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_790_000_000);

    fn leaf(names: &[&str]) -> Leaf {
        Leaf {
            file: "server",
            common_name: "kube-apiserver".to_owned(),
            organisation: Some("system:nodes".to_owned()),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }

    #[test]
    fn a_leaf_is_kept_until_it_is_old_or_lacks_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_make(directory.path(), "ca", "trireme-ca", Known::Nothing, NOW).unwrap();
        let first = authority
            .leaf(directory.path(), &leaf(&["localhost", "10.43.0.1"]), NOW)
            .unwrap();
        let again = Authority::load_or_make(directory.path(), "ca", "trireme-ca", Known::Nothing, NOW).unwrap();
        assert_eq!(again.certificate_pem(), authority.certificate_pem());
        let same = again.leaf(directory.path(), &leaf(&["localhost", "10.43.0.1"]), NOW).unwrap();
        assert_eq!(same.certificate_pem, first.certificate_pem);
        let more = again
            .leaf(directory.path(), &leaf(&["localhost", "10.43.0.1", "192.0.2.1"]), NOW)
            .unwrap();
        assert_ne!(more.certificate_pem, first.certificate_pem);
        let later = again
            .leaf(directory.path(), &leaf(&["localhost"]), NOW + LEAF_LIFE * 3 / 4)
            .unwrap();
        assert_ne!(later.certificate_pem, more.certificate_pem);
        // The clock was ahead and is right again.
        let earlier = again.leaf(directory.path(), &leaf(&["localhost"]), NOW).unwrap();
        assert_ne!(earlier.certificate_pem, later.certificate_pem);
        // A crash after the first of the two files.
        std::fs::write(directory.path().join("server.key"), &later.key_pem).unwrap();
        let whole = again.leaf(directory.path(), &leaf(&["localhost"]), NOW).unwrap();
        assert_ne!(whole.certificate_pem, earlier.certificate_pem);
    }

    /// The fault of what a deed left of an authority, where this is known of it.
    fn fault(known: Known<'_>, deed: impl FnOnce(&Path)) -> Option<(String, KeyFault)> {
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_make(directory.path(), "ca", "trireme-ca", Known::Nothing, NOW).unwrap();
        deed(directory.path());
        let files = || {
            let names = std::fs::read_dir(directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = names.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
            files.sort();
            files
        };
        let before = files();
        match Authority::load_or_make(directory.path(), "ca", "trireme-ca", known, NOW) {
            Ok(_) => None,
            Err(PkiError::Key { path, fault }) => {
                assert_eq!(files(), before, "a refusal changes nothing");
                let error = PkiError::Key {
                    path: path.clone(),
                    fault,
                }
                .to_string();
                assert!(
                    error.contains("restore it from a backup") && error.contains("another server"),
                    "{error}"
                );
                Some((path.file_name().unwrap().to_str().unwrap().to_owned(), fault))
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn an_authority_that_lacks_something_is_refused_and_left_alone() {
        let remove = |file: &'static str| move |directory: &Path| std::fs::remove_file(directory.join(file)).unwrap();
        let write =
            |file: &'static str, text: &'static str| move |directory: &Path| std::fs::write(directory.join(file), text).unwrap();
        let of = |file: &str, fault| Some((file.to_owned(), fault));
        for known in [Known::Nothing, Known::Present] {
            // A certificate without its key is never the trace of a first start.
            assert_eq!(fault(known, remove("ca.key")), of("ca.key", KeyFault::Missing), "{known:?}");
            for text in ["", "nonsense"] {
                assert_eq!(
                    fault(known, write("ca.key", text)),
                    of("ca.key", KeyFault::Malformed),
                    "{known:?}"
                );
                assert_eq!(
                    fault(known, write("ca.crt", text)),
                    of("ca.crt", KeyFault::Malformed),
                    "{known:?}"
                );
            }
            let lost = (known != Known::Nothing).then(|| ("ca.crt".to_owned(), KeyFault::Missing));
            assert_eq!(fault(known, remove("ca.crt")), lost, "{known:?}");
            let both = |directory: &Path| {
                remove("ca.key")(directory);
                remove("ca.crt")(directory);
            };
            assert_eq!(fault(known, both), lost, "{known:?}");
        }
        let other = |directory: &Path| {
            let key = KeyPair::generate().unwrap();
            std::fs::write(directory.join("ca.key"), key.serialize_pem()).unwrap();
        };
        assert_eq!(fault(Known::Nothing, other), of("ca.crt", KeyFault::Pair));
        assert_eq!(fault(Known::Present, |_| {}), None);
        assert_eq!(fault(Known::Fingerprint("of another"), |_| {}), of("ca.key", KeyFault::Other));
    }

    #[test]
    fn the_key_of_tokens_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service-account.key");
        let load = |known: Known<'_>| signing_key(directory.path(), "service-account", known).map(|key| fingerprint(&key));
        let fault = |loaded: Result<String, PkiError>| match loaded {
            Err(PkiError::Key { path: named, fault }) if named == path => fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(load(Known::Present)), KeyFault::Missing);
        let first = load(Known::Nothing).unwrap();
        assert_eq!(load(Known::Nothing).unwrap(), first);
        assert_eq!(load(Known::Fingerprint(&first)).unwrap(), first);
        assert_eq!(fault(load(Known::Fingerprint("of another"))), KeyFault::Other);
        for text in ["", "nonsense"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(fault(load(Known::Nothing)), KeyFault::Malformed);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(fault(load(Known::Fingerprint(&first))), KeyFault::Missing);
        assert!(!path.exists(), "a refusal makes nothing");
    }
}
