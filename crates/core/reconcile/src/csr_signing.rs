//! What the cluster's own signers sign, and for how long (pkg/controller/certificates/signer).
//!
//! Invariant: only what is approved and not failed is signed; nothing lives longer than a year or than it asked for. It
//! holds no key: the shell signs an [`Order`].

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use crate::csr::{self, API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, Unfit};
use crate::plan::{Action, Plan};

/// Life of certificates that ask for no other: a year.
const LIFE_MAX: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Shortest life.
const LIFE_MIN: SignedDuration = SignedDuration::from_mins(10);
/// Certificates begin so much earlier, for clocks that are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates of shorter life do not end earlier for having begun earlier.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// A signature that failed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(10);

/// A certificate to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The request, DER: subject, key and names are taken from it.
    pub request: Vec<u8>,
    /// Kubernetes' names of usages: `digital signature`, `client auth`, …
    pub usages: Vec<String>,
    /// First second of its life.
    pub not_before: Timestamp,
    /// Last second, unless the authority ends earlier.
    pub not_after: Timestamp,
}

/// What is to be done about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, not approved, or done.
    Nothing,
    /// To be signed.
    Sign(Order),
    /// Will never be signed, and why.
    Fail(String),
}

/// A request, and the certificate if one was to be made.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The request.
    pub csr: Arc<CertificateSigningRequest>,
    /// What [`judge`] said.
    pub verdict: Verdict,
    /// PEM of the certificate that was ordered; `None` where signing failed.
    pub certificate: Option<String>,
}

/// Decides about a request.
#[must_use]
pub fn judge(csr: &CertificateSigningRequest, now: Timestamp) -> Verdict {
    if csr::is_issued(csr) || !csr::has_condition(csr, "Approved") {
        return Verdict::Nothing;
    }
    if csr::has_condition(csr, "Denied") || csr::has_condition(csr, "Failed") {
        return Verdict::Nothing;
    }
    let spec = &csr.spec;
    let usages = spec.usages.clone().unwrap_or_default();
    let ours = [KUBELET_CLIENT, KUBELET_SERVING, API_CLIENT, LEGACY_UNKNOWN];
    let (true, Ok(request), Ok(der)) = (
        ours.contains(&spec.signer_name.as_str()),
        csr::read(&spec.request.0),
        csr::der(&spec.request.0),
    ) else {
        return Verdict::Nothing;
    };
    let fit = match spec.signer_name.as_str() {
        KUBELET_CLIENT => csr::is_kubelet_client(&request, &usages),
        KUBELET_SERVING => csr::is_kubelet_serving(&request, &usages),
        API_CLIENT => client_usages(&usages),
        _ => Ok(()),
    };
    if let Err(reason) = fit {
        return Verdict::Fail(reason.to_string());
    }
    let life = spec.expiration_seconds.map_or(LIFE_MAX, |seconds| {
        SignedDuration::from_secs(seconds.into()).clamp(LIFE_MIN, LIFE_MAX)
    });
    let end = if life < SHORT { life } else { life - BACKDATE };
    Verdict::Sign(Order {
        request: der,
        usages,
        not_before: now - BACKDATE,
        not_after: now + end,
    })
}

fn client_usages(usages: &[String]) -> Result<(), Unfit> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(Unfit::ClientUsage(other.clone()));
    }
    let client = usages.iter().any(|usage| usage == "client auth");
    client.then_some(()).ok_or(Unfit::NoClient)
}

/// Puts the certificate, or why there will be none, into the status.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut csr = (*snapshot.csr).clone();
    match (&snapshot.verdict, &snapshot.certificate) {
        (Verdict::Nothing, _) => return plan,
        (Verdict::Sign(_), None) => {
            plan.requeue_after = Some(AGAIN);
            return plan;
        }
        (Verdict::Sign(_), Some(pem)) => {
            csr.status.get_or_insert_default().certificate = Some(ByteString(pem.clone().into_bytes()));
        }
        (Verdict::Fail(_), _) => {}
    }
    let mut object = serde_json::to_value(&csr).expect("a request serialises");
    if let Verdict::Fail(message) = &snapshot.verdict {
        let condition = json!({
            "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": message,
            "lastUpdateTime": trireme_api::time::format(now), "lastTransitionTime": trireme_api::time::format(now),
        });
        match &mut object["status"]["conditions"] {
            Value::Array(conditions) => conditions.push(condition),
            other => *other = json!([condition]),
        }
    }
    plan.actions.push(Action::UpdateStatus { object });
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::NODES;
    use crate::csr::testing::{csr, pem};

    fn now() -> Timestamp {
        "2026-05-01T12:00:00Z".parse().unwrap()
    }

    fn approved(signer: &str, usages: &[&str], seconds: Option<i32>) -> CertificateSigningRequest {
        let mut csr = csr(signer, "alice", usages, &pem("system:node:n1", NODES, &[]));
        csr.spec.expiration_seconds = seconds;
        csr.status = serde_json::from_value(json!({"conditions": [{"type": "Approved", "status": "True"}]})).unwrap();
        csr
    }

    #[test]
    fn lives_are_bounded_and_begin_a_little_earlier() {
        const CLIENT: [&str; 2] = ["digital signature", "client auth"];
        for (asked, before, after) in [
            (None, "2026-05-01T11:55:00Z", "2027-05-01T11:55:00Z"),
            (Some(60), "2026-05-01T11:55:00Z", "2026-05-01T12:10:00Z"),
            (Some(3600), "2026-05-01T11:55:00Z", "2026-05-01T13:00:00Z"),
            (Some(86400), "2026-05-01T11:55:00Z", "2026-05-02T11:55:00Z"),
            (Some(i32::MAX), "2026-05-01T11:55:00Z", "2027-05-01T11:55:00Z"),
        ] {
            let Verdict::Sign(order) = judge(&approved(KUBELET_CLIENT, &CLIENT, asked), now()) else {
                panic!("{asked:?}")
            };
            assert_eq!(
                (order.not_before.to_string(), order.not_after.to_string()),
                (before.into(), after.into()),
                "{asked:?}"
            );
        }
    }

    #[test]
    fn each_signer_signs_what_it_is_for() {
        let verdict = |signer: &str, usages: &[&str]| match judge(&approved(signer, usages, None), now()) {
            Verdict::Sign(_) => "signed".to_owned(),
            Verdict::Nothing => "ignored".to_owned(),
            Verdict::Fail(why) => why,
        };
        assert_eq!(verdict(KUBELET_CLIENT, &["digital signature", "client auth"]), "signed");
        assert!(verdict(KUBELET_CLIENT, &["client auth"]).starts_with("usages did not match"));
        assert_eq!(
            verdict(KUBELET_SERVING, &["digital signature", "server auth"]),
            "DNS or IP subjectAltName is required"
        );
        assert_eq!(verdict(API_CLIENT, &["client auth"]), "signed");
        assert_eq!(
            verdict(API_CLIENT, &["client auth", "server auth"]),
            "invalid usage for client certificate: server auth"
        );
        assert_eq!(
            verdict(API_CLIENT, &["digital signature"]),
            "missing required usage for client certificate: client auth"
        );
        assert_eq!(verdict(LEGACY_UNKNOWN, &["any"]), "signed");
        assert_eq!(verdict("example.com/mine", &["client auth"]), "ignored");
    }

    #[test]
    fn only_approved_requests_are_touched() {
        let mut waiting = approved(LEGACY_UNKNOWN, &["any"], None);
        waiting.status = None;
        assert_eq!(judge(&waiting, now()), Verdict::Nothing);
        let mut failed = approved(LEGACY_UNKNOWN, &["any"], None);
        let conditions = json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]});
        failed.status = serde_json::from_value(conditions).unwrap();
        assert_eq!(judge(&failed, now()), Verdict::Nothing);
        let csr = Arc::new(approved(KUBELET_CLIENT, &["client auth"], None));
        let snapshot = Snapshot {
            verdict: judge(&csr, now()),
            csr,
            certificate: None,
        };
        let plan = reconcile(&snapshot, now());
        let [Action::UpdateStatus { object }] = &plan.actions[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(object["status"]["conditions"][1]["type"], "Failed");
        let csr = Arc::new(approved(LEGACY_UNKNOWN, &["any"], None));
        let snapshot = Snapshot {
            verdict: judge(&csr, now()),
            csr,
            certificate: Some("pem".into()),
        };
        let plan = reconcile(&snapshot, now());
        let [Action::UpdateStatus { object }] = &plan.actions[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(object["status"]["certificate"], "cGVt");
    }
}
