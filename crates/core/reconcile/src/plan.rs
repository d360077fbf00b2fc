//! What a reconciler decides: a list of actions that leaves the executor no choice.
//!
//! Invariant: every action carries its precondition (a UID, or the resourceVersion inside the object), so executing a
//! stale plan changes nothing it should not.

use std::time::Duration;

use serde_json::Value;

/// Actions in order. The executor stops at the first that fails and has the key reconciled again with back-off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// Look again after this time even if nothing changes.
    pub requeue_after: Option<Duration>,
}

/// One effect on the API. Objects are whole, with `apiVersion`, `kind` and `metadata`.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// POST. `AlreadyExists` is an error unless the object's name is deterministic and the reconciler says so.
    Create {
        /// The object; `metadata.name` or `metadata.generateName`.
        object: Value,
        /// Treat `AlreadyExists` as done.
        exists_is_done: bool,
    },
    /// PUT of the object; its `metadata.resourceVersion` is the precondition.
    Update {
        /// The object.
        object: Value,
    },
    /// PUT of the `status` subresource; its `metadata.resourceVersion` is the precondition.
    UpdateStatus {
        /// The object.
        object: Value,
    },
    /// PUT of another subresource (`scale`, `finalize`).
    UpdateSubresource {
        /// The object whose subresource it is.
        target: ObjectRef,
        /// Its name.
        subresource: &'static str,
        /// The body.
        object: Value,
    },
    /// Merge patch; `uid` is checked by being part of the patch.
    Patch {
        /// What to patch.
        target: ObjectRef,
        /// `status` or nothing.
        subresource: Option<&'static str>,
        /// JSON merge patch.
        patch: Value,
    },
    /// Takes one finalizer off an object and leaves the others be; `uid` is checked, an absent object is done.
    RemoveFinalizer {
        /// What to take it off.
        target: ObjectRef,
        /// Its name.
        finalizer: &'static str,
    },
    /// Server-side apply by force. It needs no precondition: what it says is all that its manager ever wants to hold.
    Apply {
        /// The fields that the manager holds from now on.
        object: Value,
        /// The field manager.
        manager: &'static str,
    },
    /// DELETE with a UID precondition; an absent object is done.
    Delete {
        /// What to delete.
        target: ObjectRef,
        /// Grace in seconds, the object's own if absent.
        grace_period_seconds: Option<i64>,
        /// `Background`, `Foreground` or `Orphan`.
        propagation: Option<&'static str>,
    },
    /// A Kubernetes Event about an object. Never fails a plan.
    Event(EventNote),
    /// An action with the Events that tell of it: one if it did something, another if it failed.
    Told {
        /// The action, which is no event.
        action: Box<Action>,
        /// The event once it is done. Not recorded where there was nothing left to do.
        done: Option<EventNote>,
        /// The event if it failed; the API's message is put behind this one's, after a colon. Not recorded where it lost a
        /// race against another writer: it is tried again on what there is then.
        failed: Option<EventNote>,
    },
}

impl Action {
    /// The effect itself, without what is told of it.
    #[must_use]
    pub fn effect(&self) -> &Self {
        match self {
            Self::Told { action, .. } => action.effect(),
            other => other,
        }
    }
}

/// An object by name and UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: the precondition.
    pub uid: String,
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// The object it is about.
    pub regarding: ObjectRef,
    /// `Normal` or `Warning`.
    pub kind: EventKind,
    /// CamelCase reason.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
}

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Something went as it should.
    Normal,
    /// Something wants attention.
    Warning,
}
