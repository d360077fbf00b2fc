//! Typed calls over a [`Transport`], for the types of k8s-openapi.
//!
//! Invariant: retrying after a conflict happens in [`retry_on_conflict`] and nowhere else.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use trireme_api::{Object, Status};

use crate::refused::Refused;
use crate::transport::{DeleteOptions, ListOptions, Patch, ResourceRef, ScopeName, Target, Transport, WriteOptions};

/// Attempts of [`retry_on_conflict`], and its first pause.
const CONFLICT_ATTEMPTS: u32 = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(10);

/// A k8s-openapi type that is a resource with metadata.
pub trait ApiObject:
    k8s_openapi::Resource<Scope: ScopeName>
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<K> ApiObject for K where
    K: k8s_openapi::Resource<Scope: ScopeName>
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A typed client. Cloning is a reference count.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    field_manager: Option<String>,
    refused: Arc<Refused>,
}

impl Client {
    /// A client over a transport.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self {
            transport,
            field_manager: None,
            refused: Arc::default(),
        }
    }

    /// The same client whose writes carry this field manager.
    #[must_use]
    pub fn with_field_manager(&self, manager: &str) -> Self {
        Self {
            transport: Arc::clone(&self.transport),
            field_manager: Some(manager.to_owned()),
            refused: Arc::clone(&self.refused),
        }
    }

    /// The transport under it.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The options of this client's writes.
    #[must_use]
    pub fn write_options(&self) -> WriteOptions {
        WriteOptions {
            field_manager: self.field_manager.clone(),
            ..WriteOptions::default()
        }
    }

    /// The target of an object of a type; an empty namespace means cluster scope.
    #[must_use]
    pub fn target<K: ApiObject>(namespace: &str, name: &str, subresource: Option<&'static str>) -> Target {
        target_of(ResourceRef::of::<K>(), namespace, name, subresource)
    }

    /// GET.
    ///
    /// # Errors
    /// The API's status.
    pub async fn get<K: ApiObject>(&self, namespace: &str, name: &str) -> Result<Arc<K>, Status> {
        decode(&self.transport.get(&Self::target::<K>(namespace, name, None)).await?)
    }

    /// GET, with `None` for an object that does not exist.
    ///
    /// # Errors
    /// The API's status, but for "not found".
    pub async fn find<K: ApiObject>(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Status> {
        match self.get(namespace, name).await {
            Ok(found) => Ok(Some(found)),
            Err(status) if status.is_not_found() => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// LIST; `None` means all namespaces. An object that does not fit the type is told and left out.
    ///
    /// # Errors
    /// The API's status.
    pub async fn list<K: ApiObject>(&self, namespace: Option<&str>, options: &ListOptions) -> Result<Vec<Arc<K>>, Status> {
        let list = self.transport.list(&ResourceRef::of::<K>(), namespace, options).await?;
        Ok(list.items.iter().filter_map(|object| self.refused.typed(object)).collect())
    }

    /// POST; namespace and name are the object's own.
    ///
    /// # Errors
    /// The API's status.
    pub async fn create<K: ApiObject>(&self, object: &K) -> Result<Arc<K>, Status> {
        let target = Self::target::<K>(namespace_of(object), "", None);
        decode(&self.transport.create(&target, encode(object)?, &self.write_options()).await?)
    }

    /// POST to a subresource (`binding`, `eviction`, `token`), whose body and answer are of other types.
    ///
    /// # Errors
    /// The API's status.
    pub async fn create_subresource<K: ApiObject>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &'static str,
        body: &impl Serialize,
    ) -> Result<Object, Status> {
        let target = Self::target::<K>(namespace, name, Some(subresource));
        self.transport.create(&target, encode(body)?, &self.write_options()).await
    }

    /// PUT; the object's resourceVersion is the precondition.
    ///
    /// # Errors
    /// The API's status.
    pub async fn update<K: ApiObject>(&self, object: &K) -> Result<Arc<K>, Status> {
        self.put(object, None).await
    }

    /// PUT of the status subresource.
    ///
    /// # Errors
    /// The API's status.
    pub async fn update_status<K: ApiObject>(&self, object: &K) -> Result<Arc<K>, Status> {
        self.put(object, Some("status")).await
    }

    async fn put<K: ApiObject>(&self, object: &K, subresource: Option<&'static str>) -> Result<Arc<K>, Status> {
        let name = object.metadata().name.as_deref().unwrap_or_default();
        let target = Self::target::<K>(namespace_of(object), name, subresource);
        decode(&self.transport.update(&target, encode(object)?, &self.write_options()).await?)
    }

    /// PATCH of the object or of a subresource.
    ///
    /// # Errors
    /// The API's status.
    pub async fn patch<K: ApiObject>(
        &self,
        namespace: &str,
        name: &str,
        subresource: Option<&'static str>,
        patch: &Patch,
    ) -> Result<Arc<K>, Status> {
        let target = Self::target::<K>(namespace, name, subresource);
        decode(&self.transport.patch(&target, patch, &self.write_options()).await?)
    }

    /// DELETE; the object as it is afterwards while something holds it.
    ///
    /// # Errors
    /// The API's status.
    pub async fn delete<K: ApiObject>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Object>, Status> {
        self.transport
            .delete(&Self::target::<K>(namespace, name, None), options)
            .await
    }

    /// Reads, changes and writes an object, again from a fresh read after a conflict. `change` returns whether there
    /// is anything to write.
    ///
    /// # Errors
    /// The API's status.
    pub async fn modify<K: ApiObject>(
        &self,
        namespace: &str,
        name: &str,
        change: impl Fn(&mut K) -> bool + Send + Sync,
    ) -> Result<Arc<K>, Status> {
        retry_on_conflict(|| self.modify_once(namespace, name, &change)).await
    }

    async fn modify_once<K: ApiObject>(
        &self,
        namespace: &str,
        name: &str,
        change: &(impl Fn(&mut K) -> bool + Send + Sync),
    ) -> Result<Arc<K>, Status> {
        let read: Arc<K> = self.get(namespace, name).await?;
        let mut object = (*read).clone();
        if !change(&mut object) {
            return Ok(read);
        }
        self.put(&object, None).await
    }
}

/// Runs an attempt until it does not end in a conflict, five times at most, with growing pauses.
///
/// # Errors
/// The last attempt's.
pub async fn retry_on_conflict<T, F, Fut>(mut attempt: F) -> Result<T, Status>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let mut pause = CONFLICT_PAUSE;
    for _ in 1..CONFLICT_ATTEMPTS {
        match attempt().await {
            Err(status) if status.is_conflict() => {
                tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>() * 0.1)).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    attempt().await
}

/// A target from its parts; an empty namespace means cluster scope.
#[must_use]
pub fn target_of(resource: ResourceRef, namespace: &str, name: &str, subresource: Option<&'static str>) -> Target {
    Target {
        resource,
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: name.to_owned(),
        subresource: subresource.map(Cow::Borrowed),
    }
}

fn namespace_of<K: ApiObject>(object: &K) -> &str {
    object.metadata().namespace.as_deref().unwrap_or_default()
}

fn encode(body: &impl Serialize) -> Result<Bytes, Status> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| Status::bad_request(error.to_string()))
}

fn decode<K: ApiObject>(object: &Object) -> Result<Arc<K>, Status> {
    object
        .typed()
        .map_err(|error| Status::internal(&format!("decoding {}: {error}", K::KIND)))
}
