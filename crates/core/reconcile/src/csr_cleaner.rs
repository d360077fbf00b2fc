//! Removes requests for certificates that nobody needs any more (pkg/controller/certificates/cleaner).
//!
//! Invariant: a request goes an hour after it was issued, denied or failed, a day after it was made or approved without an
//! answer, and when its certificate has expired.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::csr;
use crate::ownership::object_ref;
use crate::plan::{Action, Plan};

/// After an answer.
const ANSWERED_SECONDS: i64 = 3600;
/// Without one.
const OPEN_SECONDS: i64 = 24 * 3600;

/// One request.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The request.
    pub csr: Arc<CertificateSigningRequest>,
}

/// Removes the request, or says when to look again.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let csr = &snapshot.csr;
    let Some(end) = end(csr) else { return Plan::default() };
    let left = end - now.as_second();
    if left >= 0 {
        let seconds = u64::try_from(left + 1).unwrap_or(1);
        return Plan {
            requeue_after: Some(Duration::from_secs(seconds)),
            ..Plan::default()
        };
    }
    Plan {
        actions: vec![Action::Delete {
            target: object_ref("certificates.k8s.io/v1", "CertificateSigningRequest", &csr.metadata),
            grace_period_seconds: None,
            propagation: None,
        }],
        requeue_after: None,
    }
}

/// The last second of a request, in Unix time.
fn end(csr: &CertificateSigningRequest) -> Option<i64> {
    let status = csr.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let issued = csr::is_issued(csr);
    if conditions.is_empty() {
        return Some(csr.metadata.creation_timestamp.as_ref()?.0.as_second() + OPEN_SECONDS);
    }
    let ends = conditions.iter().filter_map(|condition| {
        let updated = condition.last_update_time.as_ref().map(|time| time.0.as_second());
        match condition.type_.as_str() {
            "Approved" if issued => {
                let answered = updated.map(|updated| updated + ANSWERED_SECONDS);
                [answered, expiry(csr)].into_iter().flatten().min()
            }
            "Approved" => updated.map(|updated| updated + OPEN_SECONDS),
            "Denied" | "Failed" => updated.map(|updated| updated + ANSWERED_SECONDS),
            _ => None,
        }
    });
    ends.min()
}

fn expiry(csr: &CertificateSigningRequest) -> Option<i64> {
    let pem = csr.status.as_ref()?.certificate.as_ref()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem.0).ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::csr::KUBELET_CLIENT;
    use crate::csr::testing::{csr, pem};

    #[test]
    fn requests_go_when_their_time_is_up() {
        let made: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let condition =
            |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": "2026-05-01T13:00:00Z"}]});
        let mut issued = condition("Approved");
        issued["certificate"] = "cGVt".into();
        for (what, status, hours) in [
            ("open", Value::Null, 24),
            ("approved, not issued", condition("Approved"), 25),
            ("issued", issued, 2),
            ("denied", condition("Denied"), 2),
            ("failed", condition("Failed"), 2),
        ] {
            let mut csr = csr(KUBELET_CLIENT, "alice", &[], &pem("a", "b", &[]));
            csr.status = serde_json::from_value(status).unwrap();
            let snapshot = Snapshot { csr: Arc::new(csr) };
            let at = |seconds: i64| {
                reconcile(
                    &snapshot,
                    Timestamp::from_second(made.as_second() + hours * 3600 + seconds).unwrap(),
                )
            };
            assert!(
                at(0).actions.is_empty() && at(0).requeue_after == Some(Duration::from_secs(1)),
                "{what}"
            );
            assert!(
                matches!(&at(1).actions[..], [Action::Delete { target, .. }] if target.uid == "u"),
                "{what}"
            );
        }
    }

    #[test]
    fn an_expired_certificate_ends_its_request_at_once() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2026, 4, 30);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        let mut csr = csr(KUBELET_CLIENT, "alice", &[], &pem("a", "b", &[]));
        let mut status: k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus = serde_json::from_value(
            json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "2026-05-01T12:00:00Z"}]}),
        )
        .unwrap();
        status.certificate = Some(k8s_openapi::ByteString(certificate.into_bytes()));
        csr.status = Some(status);
        let plan = reconcile(&Snapshot { csr: Arc::new(csr) }, "2026-05-01T12:00:01Z".parse().unwrap());
        assert_eq!(plan.actions.len(), 1);
    }
}
