//! The one door to the API for everything inside Trireme: a trait with an in-process and an HTTPS implementation.
//!
//! Invariant: both pass authentication, authorisation and admission; neither is a short cut.

use std::borrow::Cow;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use trireme_api::{Object, Status};

/// A resource as paths name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceRef {
    /// API group, empty for core.
    pub group: Cow<'static, str>,
    /// Version, for example `v1`.
    pub version: Cow<'static, str>,
    /// Plural, for example `pods`.
    pub plural: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl ResourceRef {
    /// The resource of a k8s-openapi type.
    #[must_use]
    pub fn of<K: k8s_openapi::Resource>() -> Self
    where
        K::Scope: ScopeName,
    {
        Self {
            group: Cow::Borrowed(K::GROUP),
            version: Cow::Borrowed(K::VERSION),
            plural: Cow::Borrowed(K::URL_PATH_SEGMENT),
            namespaced: <K::Scope as ScopeName>::NAMESPACED,
        }
    }
}

/// Whether a k8s-openapi scope is the namespaced one.
pub trait ScopeName {
    /// True for namespaced resources.
    const NAMESPACED: bool;
}

impl ScopeName for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl ScopeName for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// One object, or one subresource of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which resource.
    pub resource: ResourceRef,
    /// Namespace; `None` for cluster-scoped resources.
    pub namespace: Option<String>,
    /// Name; empty on create of the object itself.
    pub name: String,
    /// `status`, `scale`, `binding`, `eviction`, `token`, …
    pub subresource: Option<Cow<'static, str>>,
}

/// What of a collection to see.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `labelSelector`.
    pub label_selector: Option<String>,
    /// `fieldSelector`.
    pub field_selector: Option<String>,
    /// `resourceVersion` (`Some(0)`: whatever is at hand).
    pub resource_version: Option<u64>,
}

/// From where and with what to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// `labelSelector`.
    pub label_selector: Option<String>,
    /// `fieldSelector`.
    pub field_selector: Option<String>,
    /// Events strictly after this revision.
    pub resource_version: u64,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `fieldManager`.
    pub field_manager: Option<String>,
    /// `force` of server-side apply.
    pub force: bool,
    /// `dryRun=All`.
    pub dry_run: bool,
}

/// `DeleteOptions`, as far as Trireme's own parts use them.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds; `Some(0)` deletes at once.
    pub grace_period_seconds: Option<i64>,
    /// Delete only the object of this UID.
    pub uid: Option<String>,
    /// Delete only at this resourceVersion.
    pub resource_version: Option<u64>,
    /// How dependents are treated.
    pub propagation: Option<Propagation>,
}

/// `propagationPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Owners first, dependents afterwards.
    Background,
    /// Dependents first.
    Foreground,
    /// Dependents stay.
    Orphan,
}

/// A patch and its media type.
#[derive(Clone, Debug)]
pub enum Patch {
    /// `application/json-patch+json`.
    Json(Bytes),
    /// `application/merge-patch+json`.
    Merge(Bytes),
    /// `application/strategic-merge-patch+json`.
    Strategic(Bytes),
    /// `application/apply-patch+yaml`.
    Apply(Bytes),
}

/// A consistent view of a collection.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// The revision the items are of; watch from here.
    pub resource_version: u64,
    /// Objects in key order.
    pub items: Vec<Object>,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// Entered the selection.
    Added(Object),
    /// Changed within the selection.
    Modified(Object),
    /// Left the selection or was deleted; the last state.
    Deleted(Object),
    /// Everything up to this revision has been sent.
    Bookmark(u64),
}

/// Calls of the Kubernetes API. Errors are the API's own `Status`; a broken connection is code 0 with reason
/// `ServiceUnavailable`.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// GET of one object or subresource.
    async fn get(&self, target: &Target) -> Result<Object, Status>;
    /// LIST; `namespace` `None` means all.
    async fn list(&self, resource: &ResourceRef, namespace: Option<&str>, options: &ListOptions) -> Result<ObjectList, Status>;
    /// WATCH; the stream ends with an `Err` (410 means: list again) or when the server closes it.
    async fn watch(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent, Status>>, Status>;
    /// POST to the collection, or to a subresource where the target has one.
    async fn create(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Object, Status>;
    /// PUT.
    async fn update(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Object, Status>;
    /// PATCH.
    async fn patch(&self, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Object, Status>;
    /// DELETE. The object as it is afterwards while finalizers or grace hold it, `None` when it is gone.
    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Option<Object>, Status>;
}
