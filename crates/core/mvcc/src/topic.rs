//! Topics: the events of a resource by the value of one field, which is followed by as many as there are values: each kubelet
//! watches the pods of its node, and its Node.
//!
//! Invariant: an event is in the topic of the value that its object has and of the one that it had before. So whoever selects
//! by the value finds all that enters, changes and leaves in the topic alone.

use std::sync::Arc;

use trireme_api::Object;

use crate::history::{History, resource_of};

/// The resources whose events are kept by a field, and that field.
const FIELDS: &[(&str, &[&str])] = &[("/pods/", &["spec", "nodeName"]), ("/nodes/", &["metadata", "name"])];

/// The topics of an event: of what the object holds and, where that is another value, held.
pub(crate) type Topics = [Option<Arc<str>>; 2];

/// Name of the topic of objects of a prefix's resource whose field (a dotted path) holds a value; `None` where the resource's
/// events are not kept by that field. Objects without a value are in no topic.
#[must_use]
pub fn topic(prefix: &str, field: &str, value: &str) -> Option<String> {
    let path = field_of(prefix)?;
    let same = !value.is_empty() && field.split('.').eq(path.iter().copied());
    same.then(|| name(resource_of(prefix).unwrap_or_default(), value))
}

/// The topics of an event.
pub(crate) fn topics(history: &mut History, key: &str, object: &Object, previous: Option<&Object>) -> Topics {
    let Some(path) = field_of(key) else {
        return [None, None];
    };
    let resource = resource_of(key).unwrap_or_default();
    let mut of = |object: &Object| {
        let value = object.text_at(path).filter(|value| !value.is_empty())?;
        Some(history.topic(&name(resource, &value)))
    };
    let now = of(object);
    let before = previous.and_then(of).filter(|before| Some(before) != now.as_ref());
    [now, before]
}

fn field_of(key: &str) -> Option<&'static [&'static str]> {
    let found = FIELDS.iter().find(|(resource, _)| key.starts_with(resource));
    found.map(|(_, path)| *path)
}

fn name(resource: &str, value: &str) -> String {
    format!("{resource}?{value}")
}
