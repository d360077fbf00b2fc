//! Signs what the certificate controllers order, with the cluster's authority.
//!
//! Invariant: subject, key and alternative names are those of the request, byte for byte; everything else is the order's.
//! No certificate is an authority or outlives the one that signs it.

use jiff::Timestamp;
use rcgen::SigningKey;
use trireme_manager::controllers::Signer;
use trireme_reconcile::csr_signing::Order;
use x509_parser::oid_registry::{OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate, X509CertificationRequest};

use crate::pki::Authority;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const BOOLEAN_TRUE: [u8; 3] = [0x01, 0x01, 0xff];
/// 1.2.840.10045.4.3.2, `ecdsa-with-SHA256`: the cluster's authorities are of this kind.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// 2.5.29.x: extensions of certificates.
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const KEY_USAGE: u8 = 15;
const EXTENDED_KEY_USAGE: u8 = 37;
const AUTHORITY_KEY: u8 = 35;

impl Signer for Authority {
    fn sign(&self, order: &Order) -> Result<String, String> {
        let (_, request) = X509CertificationRequest::from_der(&order.request).map_err(|error| error.to_string())?;
        request
            .verify_signature()
            .map_err(|_| "the request is not signed with its own key".to_owned())?;
        let (_, authority) = X509Certificate::from_der(self.certificate()).map_err(|error| error.to_string())?;
        let body = body(order, &request, &authority)?;
        let signature = self.key().sign(&body).map_err(|error| error.to_string())?;
        let whole = sequence(&[&body, &algorithm(), &tlv(BIT_STRING, &[&[0][..], &signature].concat())]);
        Ok(pem(&whole))
    }
}

/// The part of a certificate that is signed.
fn body(order: &Order, request: &X509CertificationRequest<'_>, authority: &X509Certificate<'_>) -> Result<Vec<u8>, String> {
    let info = &request.certification_request_info;
    let end = authority.validity().not_after.timestamp();
    if order.not_before.as_second() >= end {
        return Err("the authority has expired".to_owned());
    }
    let not_after = Timestamp::from_second(order.not_after.as_second().min(end)).map_err(|error| error.to_string())?;
    let version = tlv(0xa0, &tlv(INTEGER, &[2]));
    let mut serial: [u8; 16] = rand::random();
    // Positive, and as short as its length says.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(sequence(&[
        &version,
        &tlv(INTEGER, &serial),
        &algorithm(),
        authority.subject().as_raw(),
        &sequence(&[&time(order.not_before), &time(not_after)]),
        info.subject.as_raw(),
        info.subject_pki.raw,
        &tlv(0xa3, &extensions(order, request, authority)?),
    ]))
}

fn extensions(order: &Order, request: &X509CertificationRequest<'_>, authority: &X509Certificate<'_>) -> Result<Vec<u8>, String> {
    let (bits, purposes) = usages(&order.usages)?;
    let mut all = Vec::new();
    if bits != 0 {
        all.push(extension(KEY_USAGE, true, &bit_string(bits)));
    }
    if !purposes.is_empty() {
        all.push(extension(EXTENDED_KEY_USAGE, false, &tlv(SEQUENCE, &purposes.concat())));
    }
    all.push(extension(BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[])));
    let key = authority
        .extensions()
        .iter()
        .find(|extension| extension.oid == OID_X509_EXT_SUBJECT_KEY_IDENTIFIER);
    if let Some(ParsedExtension::SubjectKeyIdentifier(key)) = key.map(|key| key.parsed_extension()) {
        all.push(extension(AUTHORITY_KEY, false, &tlv(SEQUENCE, &tlv(0x80, key.0))));
    }
    if let Some(names) = names(request) {
        all.push(extension(SUBJECT_ALT_NAME, false, names));
    }
    Ok(tlv(SEQUENCE, &all.concat()))
}

/// The alternative names of a request, as they are.
fn names<'a>(request: &'a X509CertificationRequest<'_>) -> Option<&'a [u8]> {
    use x509_parser::cri_attributes::ParsedCriAttribute;
    let attributes = request.certification_request_info.iter_attributes();
    attributes
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            _ => None,
        })
        .flatten()
        .find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)
        .map(|extension| extension.value)
}

/// Bits of the key usage (the first is 0x8000), and OIDs of extended usages.
fn usages(names: &[String]) -> Result<(u16, Vec<Vec<u8>>), String> {
    let (mut bits, mut purposes) = (0, Vec::new());
    for name in names {
        let bit = |position: u32| Ok(0x8000_u16 >> position);
        let pkix = |last: u8| Err(vec![0x2b, 6, 1, 5, 5, 7, 3, last]);
        let meaning: Result<u16, Vec<u8>> = match name.as_str() {
            "signing" | "digital signature" => bit(0),
            "content commitment" => bit(1),
            "key encipherment" => bit(2),
            "data encipherment" => bit(3),
            "key agreement" => bit(4),
            "cert sign" => bit(5),
            "crl sign" => bit(6),
            "encipher only" => bit(7),
            "decipher only" => bit(8),
            "any" => Err(vec![0x55, 0x1d, 0x25, 0]),
            "server auth" => pkix(1),
            "client auth" => pkix(2),
            "code signing" => pkix(3),
            "email protection" | "s/mime" => pkix(4),
            "ipsec end system" => pkix(5),
            "ipsec tunnel" => pkix(6),
            "ipsec user" => pkix(7),
            "timestamping" => pkix(8),
            "ocsp signing" => pkix(9),
            "microsoft sgc" => Err(vec![0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
            "netscape sgc" => Err(vec![0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
            other => return Err(format!("unrecognized usage values: [{other:?}]")),
        };
        match meaning {
            Ok(bit) => bits |= bit,
            Err(purpose) => {
                let purpose = tlv(OID, &purpose);
                if !purposes.contains(&purpose) {
                    purposes.push(purpose);
                }
            }
        }
    }
    Ok((bits, purposes))
}

fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &BOOLEAN_TRUE } else { &[] };
    sequence(&[&tlv(OID, &[0x55, 0x1d, number]), critical, &tlv(OCTET_STRING, value)])
}

fn algorithm() -> Vec<u8> {
    tlv(SEQUENCE, &tlv(OID, ECDSA_SHA256))
}

/// Named bits, without the zeros at their end.
fn bit_string(bits: u16) -> Vec<u8> {
    let unused = bits.trailing_zeros();
    let bytes = bits.to_be_bytes();
    let length = if unused >= 8 { 1 } else { 2 };
    let mut content = vec![u8::try_from(unused % 8).unwrap_or(0)];
    content.extend_from_slice(&bytes[..length]);
    tlv(BIT_STRING, &content)
}

/// Two digits of a year until 2049, four from then on.
fn time(time: Timestamp) -> Vec<u8> {
    let shown = time.strftime("%Y%m%d%H%M%SZ").to_string();
    if shown.as_str() < "2050" {
        tlv(UTC_TIME, &shown.as_bytes()[2..])
    } else {
        tlv(GENERALIZED_TIME, shown.as_bytes())
    }
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// One DER value: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut value = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short @ 0..=127) => value.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            value.push(0x80 | u8::try_from(bytes.len() - first).unwrap_or(0));
            value.extend_from_slice(&bytes[first..]);
        }
    }
    value.extend_from_slice(content);
    value
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::pki::Known;

    const NOW: u64 = 1_790_000_000;

    fn ordered(authority: &Authority, usages: &[&str], until: i64) -> Result<CertificateDer<'static>, String> {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["n1".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "system:node:n1");
        parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let order = Order {
            request: parameters.serialize_request(&key).unwrap().der().to_vec(),
            usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
            not_before: Timestamp::from_second(i64::try_from(NOW).unwrap() - 300).unwrap(),
            not_after: Timestamp::from_second(until).unwrap(),
        };
        let pem = authority.sign(&order)?;
        Ok(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_ordered_is_what_verifiers_accept() {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::load_or_make(directory.path(), "ca", "trireme-ca", Known::Nothing, Duration::from_secs(NOW)).unwrap();
        let year = i64::try_from(NOW).unwrap() + 365 * 24 * 3600;
        let certificate = ordered(&authority, &["digital signature", "client auth", "server auth"], year).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let (_, issuer) = X509Certificate::from_der(authority.certificate()).unwrap();
        parsed.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=system:node:n1, O=system:nodes");
        assert_eq!(parsed.validity().not_after.timestamp(), year);
        assert!(!parsed.is_ca() && parsed.key_usage().unwrap().unwrap().value.digital_signature());
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        clients.build().unwrap().verify_client_cert(&certificate, &[], now).unwrap();
        let servers = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .unwrap();
        use rustls::client::danger::ServerCertVerifier as _;
        for name in ["n1", "192.0.2.1"] {
            let name = ServerName::try_from(name).unwrap();
            servers.verify_server_cert(&certificate, &[], &name, &[], now).unwrap();
        }
    }

    #[test]
    fn nothing_outlives_the_authority_and_unknown_usages_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::load_or_make(directory.path(), "ca", "trireme-ca", Known::Nothing, Duration::from_secs(NOW)).unwrap();
        let century = i64::try_from(NOW).unwrap() + 100 * 365 * 24 * 3600;
        let certificate = ordered(&authority, &["any", "decipher only", "cert sign"], century).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let (_, issuer) = X509Certificate::from_der(authority.certificate()).unwrap();
        assert_eq!(parsed.validity().not_after, issuer.validity().not_after);
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.decipher_only() && usage.key_cert_sign() && !usage.digital_signature());
        assert!(ordered(&authority, &["flying"], century).unwrap_err().contains("flying"));
    }

    #[test]
    fn lengths_and_times_are_encoded_as_der_wants() {
        assert_eq!(tlv(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(
            time("2049-12-31T23:59:59Z".parse().unwrap()),
            [&[0x17, 13][..], b"491231235959Z"].concat()
        );
        assert_eq!(
            time("2050-01-01T00:00:00Z".parse().unwrap()),
            [&[0x18, 15][..], b"20500101000000Z"].concat()
        );
        assert_eq!(bit_string(0x8000), [3, 2, 7, 0x80]);
        assert_eq!(bit_string(0x8080), [3, 3, 7, 0x80, 0x80]);
    }
}
