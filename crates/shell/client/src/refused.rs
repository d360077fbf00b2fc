//! Objects that do not decode into their type: told once each, counted as long as they are there, and in nobody's way.
//!
//! Invariant: an object that is refused costs its readers that object and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use trireme_api::{Header, Object};

use crate::transport::ResourceRef;
use crate::typed::ApiObject;

/// What one client or cache could not decode.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    places: Mutex<BTreeMap<Place, String>>,
    /// How many there are: read on every decode, so without the lock.
    count: AtomicUsize,
}

/// Resource, namespace, name.
type Place = (ResourceRef, String, String);

fn place_of<K: ApiObject>(header: &Header) -> Place {
    (ResourceRef::of::<K>(), header.namespace.clone(), header.name.clone())
}

impl Refused {
    /// The typed form; `None` where there is none, which is told once for each object and reason.
    pub(crate) fn typed<K: ApiObject>(&self, object: &Object) -> Option<Arc<K>> {
        self.read::<K, _>(object, Object::typed)
    }

    /// What is read of an object, likewise.
    pub(crate) fn read<K: ApiObject, T>(
        &self,
        object: &Object,
        read: impl FnOnce(&Object) -> Result<T, serde_json::Error>,
    ) -> Option<T> {
        match read(object) {
            Ok(read) => {
                if self.count.load(Ordering::Relaxed) > 0 {
                    let mut places = self.places.lock();
                    places.remove(&place_of::<K>(object.header()));
                    self.count.store(places.len(), Ordering::Relaxed);
                }
                Some(read)
            }
            Err(error) => {
                let why = error.to_string();
                let mut places = self.places.lock();
                let told = places.insert(place_of::<K>(object.header()), why.clone());
                self.count.store(places.len(), Ordering::Relaxed);
                drop(places);
                if told.as_ref() != Some(&why) {
                    tracing::warn!(?object, "an object does not fit its type and is left out: {why}");
                }
                None
            }
        }
    }

    /// How many are refused, by resource, in the text format of `/metrics`. `is_there` tells whether an object still is.
    pub(crate) fn render(&self, is_there: impl Fn(&ResourceRef, &str, &str) -> bool) -> String {
        let mut places = self.places.lock();
        places.retain(|(resource, namespace, name), _| is_there(resource, namespace, name));
        self.count.store(places.len(), Ordering::Relaxed);
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (resource, ..) in places.keys() {
            *counts.entry((&resource.group, &resource.plural)).or_default() += 1;
        }
        let mut text = String::from(
            "# HELP trireme_undecodable_objects Objects that do not fit their type and are left out by whoever reads them.\n\
             # TYPE trireme_undecodable_objects gauge\n",
        );
        for ((group, resource), count) in counts {
            let line = writeln!(
                text,
                "trireme_undecodable_objects{{group=\"{group}\",resource=\"{resource}\"}} {count}"
            );
            line.expect("a String takes all that is written");
        }
        text
    }
}
