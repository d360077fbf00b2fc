//! Which objects of a collection a request means: label selector, field selector, and the name of the legacy watch paths.
//!
//! Invariant: labels, names and namespaces are judged by the header alone, other fields by the bytes; only an object that is
//! converted for it is parsed.

use std::sync::Arc;

use serde_json::Value;
use trireme_api::selector::{FieldSelector, LabelSelector};
use trireme_api::{Object, Status};
use trireme_resources::custom::Served;
use trireme_resources::{Resource, selectable};

use super::{Target, rules};

/// A parsed and checked selection.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    row: Option<&'static Resource>,
    custom: Option<Arc<Served>>,
    labels: LabelSelector,
    fields: FieldSelector,
    name: Option<String>,
    /// Texts that stand in the bytes of all that match, quotes included: who is not among the many is told so by a look
    /// for them, and every kubelet's watch looks at every pod.
    needles: Vec<String>,
}

/// The JSON of a text that is the same however it is written; `None` where it could be escaped.
fn needle(text: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '/');
    (!text.is_empty() && text.chars().all(is_plain)).then(|| format!("\"{text}\""))
}

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

impl Selection {
    /// Parses the selectors of a request.
    ///
    /// # Errors
    /// 400 with upstream's texts.
    pub fn parse(target: &Target, labels: &str, fields: &str) -> Result<Self, Status> {
        let row = target.row;
        let labels = LabelSelector::parse(labels).map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(fields).map_err(|error| Status::bad_request(error.to_string()))?;
        for (path, _) in fields.demands() {
            check_field(row, path)?;
        }
        let demands = fields
            .demands()
            .filter(|(path, _)| !rules::converts(row) && selectable::is_text(row, path));
        let needles = demands.filter_map(|(_, demand)| needle(demand.only()?)).collect();
        Ok(Self {
            row: Some(row),
            custom: target
                .custom
                .clone()
                .filter(|_| row.is_custom() && fields.demands().next().is_some()),
            labels,
            fields,
            name: None,
            needles,
        })
    }

    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Only the object of this name as well.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Whether every object matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_none()
    }

    /// The one name that its fields allow, where they name one.
    #[must_use]
    pub fn only_name(&self) -> Option<&str> {
        self.fields
            .demands()
            .find_map(|(path, demand)| demand.only().filter(|_| path == NAME))
    }

    /// The topic ([`trireme_store::topic`]) of a prefix that all that match are in, before or after a change, if there is one.
    #[must_use]
    pub fn topic(&self, prefix: &str) -> Option<String> {
        let mut demands = self.fields.demands();
        demands.find_map(|(path, demand)| trireme_store::topic(prefix, path, demand.only()?))
    }

    /// The object in the version that its fields are selected in.
    fn shown(&self, object: &Object) -> Value {
        let Some(row) = self.row else { return object.value() };
        let written = object.header().resource_version;
        let shown = rules::to_served(row, self.custom.as_deref(), object.clone(), written);
        shown.map_or(Value::Null, |shown| shown.value())
    }

    /// Whether an object's fields stand in its bytes as they are selected.
    fn is_shown_as_stored(&self, row: &'static Resource, object: &Object) -> bool {
        let header = object.header();
        match &self.custom {
            Some(served) => served.shows(&header.api_version, header.resource_version),
            None => !rules::converts(row),
        }
    }

    /// Whether an object, as stored, matches.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        let header = object.header();
        if self.name.as_ref().is_some_and(|name| *name != header.name) || !self.labels.matches(&header.labels) {
            return false;
        }
        let stored = self.row.filter(|row| self.is_shown_as_stored(row, object));
        if stored.is_some() && self.needles.iter().any(|needle| !object.mentions(needle)) {
            return false;
        }
        let mut parsed: Option<Value> = None;
        self.fields.demands().all(|(path, demand)| match path {
            NAME => demand.fits(&header.name),
            NAMESPACE => demand.fits(&header.namespace),
            path if stored.is_some() => {
                let text = stored.and_then(|row| selectable::lookup_stored(row, object, path));
                demand.fits(text.as_deref().unwrap_or_default())
            }
            path => {
                let (row, value) = (self.row, parsed.get_or_insert_with(|| self.shown(object)));
                let text = row.and_then(|row| selectable::lookup(row, value, path));
                demand.fits(text.as_deref().unwrap_or_default())
            }
        })
    }
}

fn check_field(row: &Resource, path: &str) -> Result<(), Status> {
    if row.is_custom() {
        let known = path == NAME || (path == NAMESPACE && row.namespaced) || row.selectable.contains(&path);
        let refused = || Status::bad_request(format!("field label not supported: {path}"));
        return known.then_some(()).ok_or_else(refused);
    }
    if path == NAME || path == NAMESPACE || row.selectable.contains(&path) {
        return Ok(());
    }
    let own_labels = row.selectable.iter().any(|own| *own != NAME && *own != NAMESPACE);
    Err(Status::bad_request(if own_labels {
        format!("field label not supported: {path}")
    } else {
        format!("{path:?} is not a known field selector: only \"{NAME}\", \"{NAMESPACE}\"")
    }))
}
