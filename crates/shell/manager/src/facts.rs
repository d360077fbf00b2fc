//! What controllers ask of every object of a kind at every change, read from its bytes: a decode for each of them would
//! cost more than the answer.

use std::borrow::Cow;

use trireme_api::Object;

/// `spec.nodeName` of a pod, empty where there is none.
pub(crate) fn node_of(pod: &Object) -> Cow<'_, str> {
    pod.text_at(&["spec", "nodeName"]).unwrap_or_default()
}

/// Whether a pod succeeded or failed.
pub(crate) fn is_finished(pod: &Object) -> bool {
    matches!(pod.text_at(&["status", "phase"]).as_deref(), Some("Succeeded" | "Failed"))
}

/// The UID of an object's controller, if it has one.
pub(crate) fn controller_of(object: &Object) -> Option<&str> {
    let mut owners = object.header().owners.iter();
    owners.find(|owner| owner.controller).map(|owner| owner.uid.as_str())
}
