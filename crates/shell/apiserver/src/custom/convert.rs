//! Custom resources in another version than the one that they are stored in, where a webhook converts them.
//!
//! Invariant: a webhook is asked for nothing that has the wanted version already; of a list, for all that has not in few calls.
//! Before it sees an object, that is what the schema of its own version makes of it; what it answers is pruned by the other's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use trireme_api::{Object, Status};
use trireme_resources::Resource;
use trireme_resources::custom::conversion::{Conversion, Fault, ReviewVersion};
use trireme_resources::custom::{Served, Webhook};

use crate::pipeline::{Target, rules};
use crate::server::ApiServer;
use crate::webhooks::Caller;

/// How long a call may take.
const TIME: Duration = Duration::from_secs(30);
/// Bytes of objects that are sent in one call; a larger object goes alone.
const CALL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most webhooks whose connections are kept.
const CALLERS_MAX: usize = 256;

/// The clients of the webhooks that convert, by definition.
#[derive(Default)]
pub(crate) struct Callers(Mutex<HashMap<Arc<str>, Arc<Caller>>>);

impl Callers {
    fn of(&self, definition: &Arc<str>, webhook: &Webhook) -> Arc<Caller> {
        let mut callers = self.0.lock();
        if let Some(known) = callers.get(definition)
            && known.is_of(&webhook.client)
        {
            return Arc::clone(known);
        }
        if callers.len() >= CALLERS_MAX {
            callers.clear();
        }
        let made = Arc::new(Caller::new(&webhook.client));
        callers.insert(Arc::clone(definition), Arc::clone(&made));
        made
    }
}

fn refused(why: &dyn std::fmt::Display) -> Status {
    Status {
        reason: String::new(),
        ..Status::failure(500, "", why.to_string())
    }
}

impl ApiServer {
    /// A stored object as a target's version shows it.
    ///
    /// # Errors
    /// As [`rules::to_served`], and 500 where its webhook does not convert it.
    pub(crate) async fn shown(&self, target: &Target, object: Object, written: u64) -> Result<Object, Status> {
        let custom = target.custom.as_deref();
        let object = rules::to_served(target.row, custom, object, written)?;
        let Some(served) = custom.filter(|served| served.webhook.is_some()) else {
            return Ok(object);
        };
        let mut all = [object];
        self.convert_all(served, all.iter_mut().collect(), false).await?;
        let [object] = all;
        Ok(object)
    }

    /// Converts what is not of a served version yet, in place.
    ///
    /// # Errors
    /// 500 where the webhook does not convert it.
    pub(crate) fn convert_all<'a>(
        &'a self,
        served: &'a Served,
        objects: Vec<&'a mut Object>,
        list: bool,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let to = served.row.api_version();
        for object in objects {
            if object.header().api_version == to {
                continue;
            }
            let own = object.bytes().len();
            if batches.is_empty() || bytes + own > CALL_BYTES_MAX {
                batches.push(Vec::new());
                bytes = 0;
            }
            bytes += own;
            if let Some(batch) = batches.last_mut() {
                batch.push(object);
            }
        }
        Box::pin(async move {
            for batch in batches {
                let values: Vec<Value> = batch.iter().map(|object| object.value()).collect();
                let converted = self.convert(served, served.row, &values, list).await?;
                for (object, mut value) in batch.into_iter().zip(converted) {
                    served
                        .fit(&mut value, served.row)
                        .map_err(|error| Status::internal(&error.to_string()))?;
                    *object = rules::object_of(&value)?;
                }
            }
            Ok(())
        })
    }

    /// A custom resource of a target's version as it is stored; any other as it is.
    ///
    /// # Errors
    /// 500 where its webhook does not convert it.
    pub(crate) async fn encoded(&self, target: &Target, value: Value) -> Result<Value, Status> {
        let stored = target.stored();
        let served = match &target.custom {
            Some(served) if served.webhook.is_some() && !std::ptr::eq(stored, target.row) => served,
            _ => return rules::encoded(target, value),
        };
        let values = [value];
        let mut converted = self.convert(served, stored, &values, false).await?;
        let mut value = converted.pop().unwrap_or_default();
        served
            .fit_stored(&mut value, stored)
            .map_err(|error| Status::internal(&error.to_string()))?;
        Ok(value)
    }

    /// Asks a definition's webhook for objects in another version.
    fn convert<'a>(
        &'a self,
        served: &'a Served,
        to: &'a Resource,
        objects: &'a [Value],
        list: bool,
    ) -> BoxFuture<'a, Result<Vec<Value>, Status>> {
        Box::pin(async move {
            let Some(webhook) = &served.webhook else {
                return Err(Status::internal("a definition without a webhook converts nothing"));
            };
            let known: Vec<&str> = webhook.versions.iter().map(|version| &**version).collect();
            let none = || refused(&"no supported conversion review versions");
            let review = ReviewVersion::first_known(&known).ok_or_else(none)?;
            let (uid, to) = (uuid::Uuid::new_v4().to_string(), to.api_version());
            let conversion = Conversion {
                review,
                uid: &uid,
                to: &to,
                objects,
                list,
            };
            let caller = self.customs.callers.of(&served.definition, webhook);
            let answer = caller.post(self, conversion.body().into(), TIME).await;
            let answer = answer.map_err(|why| refused(&conversion.failed(Fault::Unanswered(why))))?;
            conversion.judge(&answer).map_err(|why| refused(&why))
        })
    }
}
