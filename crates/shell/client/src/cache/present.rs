//! How a new leader makes sure that its view is not from before its time.

use std::collections::HashSet;

use trireme_api::Status;

use super::Cache;
use crate::transport::{ListOptions, ResourceRef};

impl Cache {
    /// Waits until a resource is seen as it is in the API now, or later. What was seen before may be of a time at which
    /// another server led, and a view of one resource older than that of another: who acts on both would count twice what
    /// lies in between.
    ///
    /// # Errors
    /// When the API cannot be asked.
    pub async fn reaches_present(&self, resource: &ResourceRef) -> Result<(), Status> {
        self.reaches_present_in(resource, None).await
    }

    /// As [`Cache::reaches_present`], of one namespace.
    ///
    /// # Errors
    /// When the API cannot be asked.
    pub async fn reaches_present_in(&self, resource: &ResourceRef, namespace: Option<&str>) -> Result<(), Status> {
        self.ensure(resource);
        let list = self.transport.list(resource, namespace, &ListOptions::default()).await?;
        let newest = list.items.iter().map(|object| object.header().resource_version).max();
        self.wait_revision(resource, newest.unwrap_or_default()).await;
        let there: HashSet<&str> = list.items.iter().map(|object| object.header().uid.as_str()).collect();
        for held in self.objects(resource, namespace) {
            let header = held.header();
            // What is newer than the list cannot be in it.
            if header.resource_version <= list.resource_version && !there.contains(header.uid.as_str()) {
                self.wait_gone(resource, &header.uid).await;
            }
        }
        Ok(())
    }
}
