//! Pods that wait to be counted by a Job that will not do it: nobody's, a Job's that is gone, or one's that is over.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::{FINALIZER, finished, is_managed_elsewhere, is_tracked};
use crate::ownership;
use crate::plan::{Action, Plan};

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The Job that its controller reference names, if there is one of that UID.
    pub job: Option<Arc<Job>>,
}

/// Lets the pod go if nobody is going to count it.
#[must_use]
pub fn reconcile(snapshot: &Snapshot) -> Plan {
    let metadata = &snapshot.pod.metadata;
    let others = ownership::controller_of(metadata)
        .is_some_and(|owner| (owner.api_version.as_str(), owner.kind.as_str()) != ("batch/v1", "Job"));
    let job = snapshot.job.as_deref();
    let tended = job.is_some_and(|job| is_managed_elsewhere(job) || finished(job).is_none());
    let mut plan = Plan::default();
    if is_tracked(&snapshot.pod) && !others && !tended {
        plan.actions.push(Action::RemoveFinalizer {
            target: ownership::object_ref("v1", "Pod", metadata),
            finalizer: FINALIZER,
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_nobody_counts_is_let_go() {
        let owner =
            |api: &str, kind: &str| json!([{"apiVersion": api, "kind": kind, "name": "j", "uid": "u", "controller": true}]);
        let job = |spec: Value, conditions: Value| {
            let spec_and = json!({"spec": spec, "status": {"conditions": conditions}});
            Some(Arc::new(serde_json::from_value::<Job>(spec_and).unwrap()))
        };
        let template = json!({"template": {}});
        let elsewhere = json!({"template": {}, "managedBy": "example.com/other"});
        let over = json!([{"type": "Failed", "status": "True"}]);
        let table = [
            (json!([]), None, true),
            (owner("batch/v1", "Job"), None, true),
            (owner("apps/v1", "ReplicaSet"), None, false),
            (owner("batch/v1", "Job"), job(template.clone(), json!([])), false),
            (owner("batch/v1", "Job"), job(template, over.clone()), true),
            (owner("batch/v1", "Job"), job(elsewhere, over), false),
        ];
        for (owners, job, goes) in table {
            let pod = json!({"metadata": {"name": "p", "finalizers": ["x", FINALIZER], "ownerReferences": owners}});
            let pod = Arc::new(serde_json::from_value(pod).unwrap());
            let plan = reconcile(&Snapshot { pod, job });
            assert_eq!(plan.actions.len(), usize::from(goes), "{owners}");
        }
    }
}
