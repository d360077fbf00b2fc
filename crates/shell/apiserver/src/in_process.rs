//! The API as the parts of this process use it: the same pipeline, admission and authorisation as over HTTPS, but objects
//! are shared and never encoded.
//!
//! Invariant: a call is authorised as its user; there is no way around.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use trireme_api::{Object, Status};
use trireme_client::{
    DeleteOptions, ListOptions, ObjectList, Patch, Propagation, ResourceRef, Target as ClientTarget, Transport, WatchEvent,
    WatchOptions, WriteOptions as ClientWriteOptions,
};
use trireme_resources::Resource;
use trireme_resources::custom::Served;

use crate::authorization::Attributes;
use crate::custom::decode as custom;
use crate::http::accept::Format;
use crate::http::decode::{self, Expected};
use crate::http::resources::{defaulted, expected, no_such_resource, not_allowed};
use crate::pipeline::patch::PatchKind;
use crate::pipeline::selection::Selection;
use crate::pipeline::subresources::{scale_of, scale_row};
use crate::pipeline::watch::{Change, Item};
use crate::pipeline::{Target, WriteOptions, options, rules};
use crate::server::ApiServer;
use crate::user::UserInfo;

/// A user's in-process access.
pub struct InProcess {
    server: Arc<ApiServer>,
    user: Arc<UserInfo>,
}

impl InProcess {
    /// Access for a user; components use names such as `system:kube-scheduler` and `system:node:n1`.
    #[must_use]
    #[expect(
        clippy::new_ret_no_self,
        reason = "a transport is always shared and always used through the trait"
    )]
    pub fn new(server: Arc<ApiServer>, user: UserInfo) -> Arc<dyn Transport> {
        Arc::new(Self {
            server,
            user: Arc::new(user.authenticated()),
        })
    }

    /// The row of a resource, and what of a definition is served of a custom one.
    async fn row(&self, resource: &ResourceRef) -> Result<(&'static Resource, Option<Arc<Served>>), Status> {
        if let Some(row) = trireme_resources::find(&resource.group, &resource.version, &resource.plural) {
            return Ok((row, None));
        }
        let found = Box::pin(self.server.custom(&resource.group, &resource.version, &resource.plural)).await?;
        let served = found.ok_or_else(no_such_resource)?.served;
        Ok((served.row, Some(served)))
    }

    async fn target(&self, target: &ClientTarget) -> Result<Target, Status> {
        let (row, custom) = self.row(&target.resource).await?;
        Ok(Target {
            row,
            custom,
            namespace: target.namespace.clone().unwrap_or_default(),
            name: target.name.clone(),
            subresource: target.subresource.as_deref().unwrap_or_default().to_owned(),
            user: Arc::clone(&self.user),
        })
    }

    async fn collection(&self, resource: &ResourceRef, namespace: Option<&str>) -> Result<Target, Status> {
        let (row, custom) = self.row(resource).await?;
        Ok(Target {
            row,
            custom,
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
            subresource: String::new(),
            user: Arc::clone(&self.user),
        })
    }

    fn authorize(&self, verb: &str, target: &Target, selectors: (&str, &str)) -> Result<(), Status> {
        let namespace = if target.row.plural == "namespaces" && target.row.group.is_empty() {
            target.name.clone()
        } else {
            target.namespace.clone()
        };
        let attributes = Attributes {
            verb: verb.to_owned(),
            resource_request: true,
            group: target.row.group.to_owned(),
            version: target.row.version.to_owned(),
            resource: target.row.plural.to_owned(),
            subresource: target.subresource.clone(),
            namespace,
            name: target.name.clone(),
            label_selector: selectors.0.to_owned(),
            field_selector: selectors.1.to_owned(),
            ..Attributes::default()
        };
        self.server.authorize(&self.user, &attributes)
    }

    /// `metrics.k8s.io` has no rows: its objects are made when asked for.
    async fn list_metrics(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        list: &ListOptions,
    ) -> Result<ObjectList, Status> {
        let labels = list.label_selector.as_deref().unwrap_or_default();
        let attributes = Attributes {
            verb: "list".to_owned(),
            resource_request: true,
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            namespace: namespace.unwrap_or_default().to_owned(),
            label_selector: labels.to_owned(),
            ..Attributes::default()
        };
        self.server.authorize(&self.user, &attributes)?;
        let items = crate::metrics_api::items(&self.server, &resource.plural, namespace, labels).await?;
        let items = items.iter().map(rules::object_of).collect::<Result<_, _>>()?;
        Ok(ObjectList {
            resource_version: 0,
            items,
        })
    }

    fn write_options(&self, given: &ClientWriteOptions) -> WriteOptions {
        let own = self.user.name.rsplit(':').next().unwrap_or_default();
        WriteOptions {
            manager: options::manager_of(given.field_manager.as_deref().unwrap_or_default(), Some(own)),
            force: given.force,
            dry_run: given.dry_run,
            validation: rules::FieldValidation::Ignore,
            ..WriteOptions::default()
        }
    }

    /// What a body posted to a target must be.
    fn expected_of(target: &Target) -> Result<Expected<'static>, Status> {
        if target.subresource.is_empty() {
            return Ok(expected(target.row));
        }
        let known = target.row.subresource(&target.subresource).ok_or_else(no_such_resource)?;
        Ok(if known.version.is_empty() {
            Expected {
                kind: known.kind,
                ..expected(target.row)
            }
        } else {
            Expected {
                group: known.group,
                version: known.version,
                kind: known.kind,
            }
        })
    }
}

fn status_object(status: &Status) -> Result<Object, Status> {
    rules::object_of(&crate::http::respond::status_value(status))
}

#[async_trait]
impl Transport for InProcess {
    async fn get(&self, target: &ClientTarget) -> Result<Object, Status> {
        let target = self.target(target).await?;
        self.authorize("get", &target, ("", ""))?;
        let object = self.server.get(&target, "").await?;
        if target.subresource == "scale" {
            return rules::object_of(&scale_of(&target, &object.value())?);
        }
        Ok(object)
    }

    async fn list(&self, resource: &ResourceRef, namespace: Option<&str>, list: &ListOptions) -> Result<ObjectList, Status> {
        if resource.group == crate::metrics_api::GROUP {
            return self.list_metrics(resource, namespace, list).await;
        }
        let target = self.collection(resource, namespace).await?;
        let labels = list.label_selector.as_deref().unwrap_or_default();
        let fields = list.field_selector.as_deref().unwrap_or_default();
        self.authorize("list", &target, (labels, fields))?;
        let selection = Selection::parse(&target, labels, fields)?;
        let options = options::ListOptions {
            resource_version: list.resource_version.map(|revision| revision.to_string()).unwrap_or_default(),
            ..options::ListOptions::default()
        };
        let listing = self
            .server
            .list(&target, &options, &selection)
            .await
            .map_err(|failure| *failure.status)?;
        Ok(ObjectList {
            resource_version: listing.revision,
            items: listing.items,
        })
    }

    async fn watch(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        watch: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent, Status>>, Status> {
        let target = self.collection(resource, namespace).await?;
        let labels = watch.label_selector.as_deref().unwrap_or_default();
        let fields = watch.field_selector.as_deref().unwrap_or_default();
        self.authorize("watch", &target, (labels, fields))?;
        let selection = Selection::parse(&target, labels, fields)?;
        let options = options::ListOptions {
            resource_version: watch.resource_version.to_string(),
            bookmarks: true,
            watch: true,
            // In-process watchers have no connection that could be stale: a day is long enough to be rare.
            timeout_seconds: Some(24 * 3600),
            ..options::ListOptions::default()
        };
        let watcher = self.server.watch(&target, &options, selection).await?;
        let batches = stream::unfold(watcher, |mut watcher| async move {
            let items = watcher.next().await?;
            Some((stream::iter(items.into_iter().map(event)), watcher))
        });
        Ok(Box::pin(futures::StreamExt::flatten(batches)))
    }

    async fn create(&self, target: &ClientTarget, body: Bytes, write: &ClientWriteOptions) -> Result<Object, Status> {
        let target = self.target(target).await?;
        self.authorize("create", &target, ("", ""))?;
        let mut write = self.write_options(write);
        let decoded = match &target.custom {
            Some(served) => custom::body(served, Format::Json, &body, write.validation)?,
            None => decode::body(Format::Json, &body, Self::expected_of(&target)?, write.validation)?,
        };
        write.empty = decoded.empty;
        write.values = decoded.values;
        let mut value = decoded.value;
        match target.subresource.as_str() {
            "" if target.row.virtual_ => {
                value["kind"] = target.row.kind.into();
                value["apiVersion"] = target.row.api_version().into();
                let review = crate::reviews::review(&self.server, target.row, value, &self.user);
                rules::object_of(&review.await?)
            }
            "" => {
                let write = WriteOptions {
                    shares_labels: rules::shares_labels(target.row, &value),
                    ..write
                };
                rules::defaults(target.row, &mut value);
                let creating = Target {
                    name: String::new(),
                    ..target
                };
                self.server
                    .create(&creating, value, &write)
                    .await
                    .map(|written| written.object)
            }
            "binding" => status_object(&self.server.bind(&target, value, &write).await?),
            "eviction" => status_object(&self.server.evict(&target, value, &write).await?),
            "token" => rules::object_of(&self.server.issue_token(&target, value, &write).await?),
            _ => Err(not_allowed()),
        }
    }

    async fn update(&self, target: &ClientTarget, body: Bytes, write: &ClientWriteOptions) -> Result<Object, Status> {
        let target = self.target(target).await?;
        self.authorize("update", &target, ("", ""))?;
        let mut write = self.write_options(write);
        let written = if target.subresource == "scale" {
            let decoded = decode::body(Format::Json, &body, expected(scale_row()), write.validation)?;
            write.empty = decoded.empty;
            self.server.update_scale(&target, decoded.value, &write).await
        } else {
            let decode = || defaulted(Format::Json, &body, &target, write.validation);
            let decoded = decode()?;
            let write = WriteOptions {
                empty: decoded.empty,
                values: decoded.values,
                ..write.clone()
            };
            let again = || decode().map(|decoded| decoded.value);
            self.server.update(&target, decoded.value, &again, &write).await
        };
        written.map(|written| written.object)
    }

    async fn patch(&self, target: &ClientTarget, patch: &Patch, write: &ClientWriteOptions) -> Result<Object, Status> {
        let target = self.target(target).await?;
        self.authorize("patch", &target, ("", ""))?;
        let write = self.write_options(write);
        let (kind, body) = match patch {
            Patch::Json(body) => (PatchKind::Json, body),
            Patch::Merge(body) => (PatchKind::Merge, body),
            Patch::Strategic(body) => (PatchKind::Strategic, body),
            Patch::Apply(body) => (PatchKind::Apply, body),
        };
        let written = if target.subresource == "scale" {
            self.server.patch_scale(&target, kind, body, &write).await?
        } else {
            self.server.patch(&target, kind, body, &write).await?
        };
        Ok(written.object)
    }

    async fn delete(&self, target: &ClientTarget, delete: &DeleteOptions) -> Result<Option<Object>, Status> {
        let target = self.target(target).await?;
        self.authorize("delete", &target, ("", ""))?;
        let propagation = delete.propagation.map(|policy| match policy {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        });
        let options = options::DeleteOptions {
            grace_period_seconds: delete.grace_period_seconds,
            uid: delete.uid.clone(),
            resource_version: delete.resource_version.map(|revision| revision.to_string()),
            propagation: propagation.map(str::to_owned),
            ..options::DeleteOptions::default()
        };
        let deleted = self.server.delete(&target, &options).await?;
        Ok((!deleted.gone).then_some(deleted.object))
    }
}

fn event(item: Item) -> Result<WatchEvent, Status> {
    match item {
        Item::Change { change, object, .. } => Ok(match change {
            Change::Added => WatchEvent::Added(object),
            Change::Modified => WatchEvent::Modified(object),
            Change::Deleted => WatchEvent::Deleted(object),
        }),
        Item::Bookmark { revision, .. } => Ok(WatchEvent::Bookmark(revision)),
        Item::Failed(status) => Err(*status),
    }
}
