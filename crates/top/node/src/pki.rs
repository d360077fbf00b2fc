//! The cluster's keys and certificates: made at first start, renewed before they run out, kept below `pki/` of the data
//! directory with mode 0600.
//!
//! Invariant: an authority is never replaced; a leaf is replaced when it lacks a name it should have or has less than a
//! third of its life left. It will not print or log a key.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

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
    /// A file is there but holds no certificate or key; it is not overwritten.
    #[error("{path} is not a valid PEM file; restore it from a backup, or remove it to have a new one made")]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// Making a certificate failed.
    #[error("making a certificate failed")]
    Make(#[from] rcgen::Error),
    /// TLS cannot use it.
    #[error("a certificate that TLS cannot use")]
    Unusable(#[from] rustls::Error),
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
    /// Loads the authority `file` below `directory`, or makes it.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn load_or_make(directory: &Path, file: &str, common_name: &str, now: Duration) -> Result<Self, PkiError> {
        if let Some(identity) = load(directory, file)? {
            let key = KeyPair::from_pem(&identity.key_pem).map_err(|_| PkiError::Malformed {
                path: key_path(directory, file),
            })?;
            return Ok(Self { identity, key });
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

/// Loads the key that signs service account tokens (ECDSA P-256, PKCS#8 PEM), or makes it.
///
/// # Errors
/// See [`PkiError`].
pub fn signing_key(directory: &Path, file: &str) -> Result<KeyPair, PkiError> {
    let path = key_path(directory, file);
    match std::fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|_| PkiError::Malformed { path }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            files::write_atomically(&path, key.serialize_pem().as_bytes(), 0o600)
                .map_err(|source| PkiError::File { path, source })?;
            Ok(key)
        }
        Err(source) => Err(PkiError::File { path, source }),
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
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path, source }),
    };
    let (Some(certificate_pem), Some(key_pem)) = (read(certificate_path(directory, file))?, read(key_path(directory, file))?)
    else {
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
        let authority = Authority::load_or_make(directory.path(), "ca", "trireme-ca", NOW).unwrap();
        let first = authority
            .leaf(directory.path(), &leaf(&["localhost", "10.43.0.1"]), NOW)
            .unwrap();
        let again = Authority::load_or_make(directory.path(), "ca", "trireme-ca", NOW).unwrap();
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

    #[test]
    fn a_damaged_authority_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_make(directory.path(), "ca", "trireme-ca", NOW).unwrap();
        std::fs::write(directory.path().join("ca.crt"), "nonsense").unwrap();
        assert!(matches!(
            Authority::load_or_make(directory.path(), "ca", "trireme-ca", NOW),
            Err(PkiError::Malformed { .. })
        ));
        assert_eq!(std::fs::read_to_string(directory.path().join("ca.crt")).unwrap(), "nonsense");
    }
}
