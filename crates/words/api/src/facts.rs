//! Facts: the few fields of an object that some readers look at again and again, as a small record that is read once per
//! revision and shared by all who hold the object.
//!
//! Invariant: facts belong to their object and live as long as it does. Unlike typed decodes ([`crate::decoded`]) they are never
//! given up: they weigh a few hundredths of what a decode does, so that a look at five thousand pods decodes none of them. What
//! all facts of the process weigh is counted.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Object;

/// A record of what readers need of a kind of objects.
pub trait Facts: Sized + Send + Sync + 'static {
    /// Reads them out of an object's header and bytes.
    ///
    /// # Errors
    /// When the bytes hold something else than the kind says.
    fn read(object: &Object) -> Result<Self, serde_json::Error>;

    /// What they take in memory beyond their own size, about.
    fn weight_beside(&self) -> usize;
}

/// Bytes that all facts take together.
static WEIGHT: AtomicUsize = AtomicUsize::new(0);

/// What the facts that are held weigh, about.
#[must_use]
pub fn weight() -> usize {
    WEIGHT.load(Ordering::Relaxed)
}

/// Facts as their object holds them, counted while they live.
#[derive(Debug)]
pub struct Held<F> {
    facts: F,
    weight: usize,
}

impl<F: Facts> Held<F> {
    /// Reads and counts.
    pub(crate) fn read(object: &Object) -> Result<Self, serde_json::Error> {
        let facts = F::read(object)?;
        let weight = size_of::<Self>() + facts.weight_beside();
        WEIGHT.fetch_add(weight, Ordering::Relaxed);
        Ok(Self { facts, weight })
    }
}

impl<F> Deref for Held<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.facts
    }
}

impl<F> Drop for Held<F> {
    fn drop(&mut self) {
        WEIGHT.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    struct Colour(Box<str>);

    impl Facts for Colour {
        fn read(object: &Object) -> Result<Self, serde_json::Error> {
            let raw = object.raw_at(&["spec", "colour"]).unwrap_or(b"null");
            serde_json::from_slice(raw).map(Self)
        }

        fn weight_beside(&self) -> usize {
            self.0.len()
        }
    }

    fn object(colour: &str) -> Object {
        let text = format!(r#"{{"apiVersion":"v1","kind":"K","metadata":{{}},"spec":{{"colour":{colour}}}}}"#);
        Object::parse(Bytes::from(text)).unwrap()
    }

    /// One test, since the count is the process'.
    #[test]
    fn facts_are_read_once_and_counted_while_their_object_lives() {
        let red = object("\"red\"");
        let first = red.facts::<Colour>().unwrap();
        assert!(
            Arc::ptr_eq(&first, &red.clone().facts::<Colour>().unwrap()),
            "all holders share them"
        );
        assert_eq!(weight(), size_of::<Held<Colour>>() + 3);
        // A typed decode of the same object is another thing, and neither drives out the other.
        let typed: Arc<serde_json::Value> = red.typed().unwrap();
        assert_eq!(typed["spec"]["colour"], "red");
        assert!(Arc::ptr_eq(&first, &red.facts::<Colour>().unwrap()));
        drop((first, red, typed));
        assert_eq!(weight(), 0, "they go with their object");
        assert!(object("5").facts::<Colour>().is_err());
        assert_eq!(weight(), 0);
    }
}
