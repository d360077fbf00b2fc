//! Requests for certificates (pkg/apis/certificates/validation).
//!
//! Invariant: what an update finds wrong in the old object too is let pass, as upstream lets it pass. What is signed is not
//! looked into here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::errors::Errors;
use super::node::Node;
use super::seen::Seen;
use super::volume::signer_name;

const LEGACY: &str = "kubernetes.io/legacy-unknown";

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// What the old object kept wrong, and the new one may.
#[derive(Default)]
struct Kept {
    usages: bool,
    usages_twice: bool,
    legacy: bool,
    decided_twice: bool,
    conditions_twice: bool,
    untyped: bool,
    certificate: bool,
}

impl Kept {
    fn of(root: &Node<'_>, old: &Node<'_>) -> Self {
        let usages = old.get("spec.usages").strings();
        let conditions = old.get("status.conditions").items();
        let kinds: Vec<&str> = conditions.iter().map(|condition| condition.text("type")).collect();
        let (certificate, before) = (root.get("status.certificate"), old.get("status.certificate"));
        Self {
            usages: usages.iter().any(|usage| !USAGES.contains(usage)),
            usages_twice: twice(&usages),
            legacy: old.get("spec.signerName").str() == LEGACY,
            decided_twice: kinds.contains(&"Approved") && kinds.contains(&"Denied"),
            conditions_twice: twice(&kinds),
            untyped: kinds.contains(&""),
            certificate: certificate.value == before.value || certificate_problem(&before).is_some(),
        }
    }
}

fn twice(texts: &[&str]) -> bool {
    let mut seen: Seen<&str> = Seen::default();
    texts.iter().any(|text| {
        let known = seen.contains(text);
        seen.push(text);
        known
    })
}

/// A request, new or changed.
pub(super) fn request(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let kept = old.map_or_else(Kept::default, |old| Kept::of(root, old));
    let spec = root.at("spec");
    let request = spec.at("request");
    if blocks(&request)
        .first()
        .is_none_or(|block| block.kind != "CERTIFICATE REQUEST")
    {
        errors.push(request.invalid("PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages = spec.at("usages");
    if usages.is_empty() {
        errors.push(usages.required(""));
    }
    if !kept.usages {
        for usage in usages.items() {
            usage.one_of(errors, USAGES);
        }
    }
    let mut seen: Seen<&str> = Seen::default();
    for usage in usages.items() {
        if seen.contains(&usage.str()) && !kept.usages_twice {
            errors.push(usage.duplicate());
        }
        seen.push(usage.str());
    }
    let signer = spec.at("signerName");
    if signer.str() == LEGACY && !kept.legacy {
        errors.push(signer.bad("the legacy signerName is not allowed via this API version"));
    } else {
        signer_name(errors, &signer);
    }
    let expiration = spec.at("expirationSeconds");
    if expiration.set() && expiration.int() < 600 {
        errors.push(expiration.bad_int("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    conditions(errors, &root.get("status.conditions"), &kept);
    let certificate = root.get("status.certificate");
    if !kept.certificate
        && let Some(why) = certificate_problem(&certificate)
    {
        errors.push(certificate.bad_text("<certificate data>", why.to_string()));
    }
}

/// A change of a request or its approval: decisions stay.
pub(super) fn update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    request(errors, root, Some(old));
    let conditions = root.get("status.conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        let count = |root: &Node<'_>| {
            let all = root.get("status.conditions").items();
            all.iter().filter(|condition| condition.text("type") == kind).count()
        };
        if count(root) < count(old) {
            errors.push(conditions.forbidden(format!("updates may not remove a condition of type \"{kind}\"")));
        }
    }
}

/// A change of the status, where a signer puts the certificate.
pub(super) fn update_status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    update(errors, root, old);
    let (certificate, before) = (root.get("status.certificate"), old.get("status.certificate"));
    if !before.is_empty() && certificate.str() != before.str() {
        errors.push(certificate.forbidden("updates may not modify existing certificate content"));
    }
}

fn conditions(errors: &mut Errors, node: &Node<'_>, kept: &Kept) {
    let mut seen: Seen<&str> = Seen::default();
    let (mut approved, mut denied) = (false, false);
    for condition in node.items() {
        let (kind, status) = (condition.at("type"), condition.at("status"));
        if kind.is_empty() && !kept.untyped {
            errors.push(kind.required(""));
        }
        let known: &[&str] = match kind.str() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        status.need_one_of(errors, known);
        approved |= kind.str() == "Approved";
        denied |= kind.str() == "Denied";
        if matches!(kind.str(), "Approved" | "Denied") && approved && denied && !kept.decided_twice {
            errors.push(node.bad_text(kind.str(), "Approved and Denied conditions are mutually exclusive"));
        }
        if seen.contains(&kind.str()) && !kept.conditions_twice {
            errors.push(kind.duplicate());
        }
        seen.push(kind.str());
    }
}

/// Why bytes are no certificates.
#[derive(Debug, thiserror::Error)]
enum NoCertificate {
    #[error("only CERTIFICATE PEM blocks are allowed, found \"{0}\"")]
    Other(String),
    #[error("no PEM block headers are permitted")]
    Headers,
    #[error("x509: malformed certificate")]
    Malformed,
    #[error("must contain at least one CERTIFICATE PEM block")]
    None,
}

fn certificate_problem(node: &Node<'_>) -> Option<NoCertificate> {
    if node.is_empty() {
        return None;
    }
    let blocks = blocks(node);
    for block in &blocks {
        if block.kind != "CERTIFICATE" {
            return Some(NoCertificate::Other(block.kind.clone()));
        }
        if block.headers {
            return Some(NoCertificate::Headers);
        }
        // Every certificate is a sequence in DER.
        if block.bytes.first() != Some(&0x30) {
            return Some(NoCertificate::Malformed);
        }
    }
    blocks.is_empty().then_some(NoCertificate::None)
}

/// A block of PEM.
struct Block {
    kind: String,
    headers: bool,
    bytes: Vec<u8>,
}

/// The blocks of PEM in a field of bytes; what is none is passed over.
fn blocks(node: &Node<'_>) -> Vec<Block> {
    let bytes = STANDARD.decode(node.str()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {kind}-----");
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
        let headers = body.iter().any(|line| line.contains(':'));
        let base64: String = body.into_iter().filter(|line| !line.contains(':')).collect();
        if let Ok(bytes) = STANDARD.decode(base64) {
            found.push(Block {
                kind: kind.to_owned(),
                headers,
                bytes,
            });
        }
    }
    found
}
