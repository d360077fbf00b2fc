//! The status of definitions, and the end of their objects.
//!
//! Invariant: every server does this, and each change is made of the definition as it is: who comes second changes nothing.
//! A definition goes once none of its objects is left.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use trireme_api::bulk::Present;
use trireme_api::{Object, Status};
use trireme_resources::custom::status::{self, Condition};

use super::{DEFINITIONS, GROUP};
use crate::pipeline::options::DeleteOptions;
use crate::pipeline::update::{Behaviour, Made};
use crate::pipeline::{Target, WriteOptions};
use crate::server::{ApiServer, now};
use crate::user::UserInfo;

/// How long after an attempt that failed the next one is made.
const AGAIN: Duration = Duration::from_secs(5);
/// How often is looked whether an object that is being deleted is gone.
const GONE_LOOK: Duration = Duration::from_millis(200);

/// Changes a definition, or says that there is nothing to change.
type Change<'a> = dyn Fn(&Value) -> Option<Value> + Send + Sync + 'a;

fn definition(name: &str, subresource: &str) -> Target {
    Target {
        row: trireme_resources::find(GROUP, "v1", DEFINITIONS).expect("a built-in row"),
        custom: None,
        namespace: String::new(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        user: Arc::new(UserInfo::apiserver()),
    }
}

impl ApiServer {
    /// Begins what the definitions need: another status, or their objects' deletion.
    pub(super) fn settle(self: &Arc<Self>, definitions: &[Object]) {
        for object in definitions {
            let header = object.header();
            let is_deleted = header.deleting;
            let conditions = object.raw_at(&["status", "conditions"]);
            let conditions: Value = conditions
                .and_then(|raw| serde_json::from_slice(raw).ok())
                .unwrap_or_default();
            // Most are settled: what a change of another definition may free is looked for below.
            let keeps_unknown = object.raw_at(&["spec", "preserveUnknownFields"]) == Some(b"true");
            let settled = status::is_true(&conditions, status::ESTABLISHED)
                && status::is_true(&conditions, status::NON_STRUCTURAL) == keeps_unknown
                && object.raw_at(&["spec", "names"]) == object.raw_at(&["status", "acceptedNames"])
                && !status::is_protected(&object.text_at(&["spec", "group"]).unwrap_or_default());
            if settled && !is_deleted {
                continue;
            }
            let value = object.value();
            if status::waits_for_cleanup(&value) {
                if self.cleaning.lock().insert(header.uid.clone()) {
                    tokio::spawn(Arc::clone(self).clean_up(header.name.clone(), header.uid.clone()));
                }
                continue;
            }
            let group = object.raw_at(&["spec", "group"]);
            let others: Vec<Value> = definitions
                .iter()
                .filter(|other| other.raw_at(&["spec", "group"]) == group)
                .map(Object::value)
                .collect();
            if status::wanted(&value, &others, &now()).is_none() {
                continue;
            }
            let server = Arc::clone(self);
            let name = header.name.clone();
            tokio::spawn(async move {
                let change = |value: &Value| status::wanted(value, &others, &now());
                if let Err(error) = server.change_definition(&name, &change).await
                    && !error.is_not_found()
                {
                    tracing::warn!(definition = name, %error, "the status of a definition was not written");
                }
            });
        }
    }

    async fn change_definition(&self, name: &str, change: &Change<'_>) -> Result<(), Status> {
        let options = WriteOptions {
            manager: "kube-apiserver".to_owned(),
            ..WriteOptions::default()
        };
        let mut make = |present: &Present| {
            let value = present.whole();
            Ok(Made::plain(change(value).unwrap_or_else(|| value.clone())))
        };
        let behaviour = Behaviour {
            patch: true,
            ..Behaviour::default()
        };
        let target = definition(name, "status");
        Box::pin(self.change(&target, &options, behaviour, &mut make)).await.map(drop)
    }

    /// Deletes all objects of a definition, waits until they are gone, and lets it go.
    async fn clean_up(self: Arc<Self>, name: String, uid: String) {
        loop {
            match self.clean_up_once(&name, &uid).await {
                Ok(()) => break,
                Err(error) if error.is_not_found() => break,
                Err(error) => {
                    tracing::warn!(definition = name, %error, "objects of a definition that is deleted are not gone yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        self.cleaning.lock().remove(&uid);
    }

    async fn clean_up_once(&self, name: &str, uid: &str) -> Result<(), Status> {
        self.barrier().await?;
        let target = definition(name, "");
        let Some(value) = self.store.get(&target.key()).map(|object| object.value()) else {
            return Ok(());
        };
        if value["metadata"]["uid"] != uid || !status::waits_for_cleanup(&value) {
            return Ok(());
        }
        let begun = Condition {
            kind: status::TERMINATING,
            status: "True",
            reason: "InstanceDeletionInProgress",
            message: "CustomResource deletion is in progress",
        };
        self.terminating(name, begun, false).await?;
        let is_established = status::is_true(&value["status"]["conditions"], status::ESTABLISHED);
        let (reason, message) = if is_established {
            self.delete_all_of(&value).await?;
            ("InstanceDeletionCompleted", "removed all instances")
        } else {
            ("NeverEstablished", "resource was never established")
        };
        let done = Condition {
            kind: status::TERMINATING,
            status: "False",
            reason,
            message,
        };
        self.terminating(name, done, true).await
    }

    async fn terminating(&self, name: &str, condition: Condition<'_>, released: bool) -> Result<(), Status> {
        let change = |value: &Value| {
            if !status::waits_for_cleanup(value) {
                return None;
            }
            let mut new = value.clone();
            status::set_condition(&mut new, condition, &now());
            if released {
                status::release(&mut new);
            }
            Some(new)
        };
        self.change_definition(name, &change).await
    }

    async fn delete_all_of(&self, definition: &Value) -> Result<(), Status> {
        let group = definition["spec"]["group"].as_str().unwrap_or_default();
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
        let Some(row) = self.customs.registry().stored(group, plural) else {
            return Ok(());
        };
        let mut told = false;
        loop {
            let objects = self.view().list(group, plural, None);
            if objects.is_empty() {
                return Ok(());
            }
            for object in &objects {
                let header = object.header();
                if told && header.deleting {
                    continue;
                }
                let target = Target {
                    row,
                    custom: None,
                    namespace: header.namespace.clone(),
                    name: header.name.clone(),
                    subresource: String::new(),
                    user: Arc::new(UserInfo::apiserver()),
                };
                match Box::pin(self.delete(&target, &DeleteOptions::default())).await {
                    Ok(_) => {}
                    Err(status) if status.is_not_found() => {}
                    Err(status) => return Err(status),
                }
            }
            told = true;
            tokio::time::sleep(GONE_LOOK).await;
            self.barrier().await?;
        }
    }
}
