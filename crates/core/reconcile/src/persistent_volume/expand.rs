//! Bound claims that ask for more than they have (pkg/controller/volume/expand): none of the built-in kinds is grown by the
//! control plane, so it says that it waits for whoever made the volume.

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::quantity::Quantity;

use super::event;
use crate::plan::{Action, EventKind, Plan};

/// A bound claim and its volume.
#[derive(Clone, Debug)]
pub struct ExpandSnapshot {
    /// The claim, whole.
    pub claim: Value,
    /// Its volume.
    pub volume: Value,
}

/// Tells that somebody else has to make the volume larger.
#[must_use]
pub fn reconcile(snapshot: &ExpandSnapshot, _now: Timestamp) -> Plan {
    let (claim, volume) = (&snapshot.claim, &snapshot.volume);
    let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    let bound = volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"] && claim["metadata"]["uid"].is_string();
    let wanted = amount(&claim["spec"]["resources"]["requests"]["storage"]);
    let held = amount(&claim["status"]["capacity"]["storage"]);
    let (Some(wanted), Some(held), true) = (wanted, held, bound) else {
        return Plan::default();
    };
    if wanted <= held {
        return Plan::default();
    }
    let message = "waiting for an external controller to expand this PVC".to_owned();
    Plan {
        actions: vec![Action::Event(event(claim, EventKind::Normal, "ExternalExpanding", message))],
        requeue_after: None,
    }
}
