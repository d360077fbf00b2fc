//! The ReplicationController controller: the older form of a ReplicaSet, kept by the ReplicaSet's reconciler
//! (pkg/controller/replication). This file only translates between the two.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::replicaset::{Kind, to_value};

/// What the ReplicaSet's reconciler has to know of ReplicationControllers.
pub const KIND: Kind = Kind {
    api_version: "v1",
    name: "ReplicationController",
    tells_terminating: false,
    write,
};

/// The ReplicaSet that wants the same.
#[must_use]
pub fn as_replica_set(controller: &ReplicationController) -> Arc<ReplicaSet> {
    let spec = controller.spec.as_ref().map(|spec| ReplicaSetSpec {
        min_ready_seconds: spec.min_ready_seconds,
        replicas: spec.replicas,
        selector: LabelSelector {
            match_labels: spec.selector.clone(),
            match_expressions: None,
        },
        template: spec.template.clone(),
    });
    let status = controller.status.as_ref().map(|status| ReplicaSetStatus {
        available_replicas: status.available_replicas,
        conditions: status.conditions.as_ref().map(|all| {
            let all = all.iter().cloned().map(|condition| ReplicaSetCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: condition.status,
                type_: condition.type_,
            });
            all.collect()
        }),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
    });
    Arc::new(ReplicaSet {
        metadata: controller.metadata.clone(),
        spec,
        status,
    })
}

/// The object to write.
fn write(set: &ReplicaSet) -> Value {
    let spec = set.spec.as_ref().map(|spec| ReplicationControllerSpec {
        min_ready_seconds: spec.min_ready_seconds,
        replicas: spec.replicas,
        selector: spec.selector.match_labels.clone(),
        template: spec.template.clone(),
    });
    let status = set.status.as_ref().map(|status| ReplicationControllerStatus {
        available_replicas: status.available_replicas,
        conditions: status.conditions.as_ref().map(|all| {
            let all = all.iter().cloned().map(|condition| ReplicationControllerCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: condition.status,
                type_: condition.type_,
            });
            all.collect()
        }),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
    });
    to_value(&ReplicationController {
        metadata: set.metadata.clone(),
        spec,
        status,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Action;
    use crate::pods::CountedPod;
    use crate::replicaset::{self, Failure, Snapshot};

    fn controller(status: Value) -> ReplicationController {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "rc", "generation": 3, "resourceVersion": "7"},
            "spec": {"replicas": 1, "selector": {"app": "web"},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
            "status": status,
        }))
        .unwrap()
    }

    fn plan(status: Value, pods: &[&Value], failure: Option<Failure>) -> Vec<Action> {
        let snapshot = Snapshot {
            kind: &KIND,
            replica_set: as_replica_set(&controller(status)),
            pods: pods.iter().map(|pod| CountedPod::made(pod)).collect(),
            failure,
        };
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        replicaset::reconcile(&snapshot, now, &mut || "x7x7x".into()).actions
    }

    #[test]
    fn its_pods_events_and_status_are_its_own() {
        let actions = plan(json!({"replicas": 0, "observedGeneration": 2}), &[], None);
        let [Action::UpdateStatus { object }, Action::Told { action, done, .. }] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (&object["apiVersion"], &object["kind"]),
            (&json!("v1"), &json!("ReplicationController"))
        );
        assert_eq!(object["status"], json!({"observedGeneration": 3, "replicas": 0}));
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        let Action::Create { object: pod, .. } = &**action else {
            panic!("{action:?}")
        };
        assert_eq!(pod["metadata"]["name"], "web-x7x7x");
        assert_eq!(
            pod["metadata"]["ownerReferences"],
            json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "rc", "controller": true,
                "blockOwnerDeletion": true}])
        );
        let regarding = &done.as_ref().unwrap().regarding;
        assert_eq!(
            (regarding.api_version.as_str(), regarding.kind.as_str()),
            ("v1", "ReplicationController")
        );
    }

    #[test]
    fn a_settled_one_plans_nothing_and_a_failure_is_a_condition() {
        let pod = json!({
            "metadata": {"name": "web-a", "namespace": "ns", "uid": "p", "labels": {"app": "web"}, "ownerReferences": [
                {"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "rc", "controller": true}]},
            "spec": {"containers": []}, "status": {"phase": "Pending"},
        });
        let settled = json!({"replicas": 1, "fullyLabeledReplicas": 1, "observedGeneration": 3});
        assert!(plan(settled.clone(), &[&pod], None).is_empty());
        let mut going = pod.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let actions = plan(settled.clone(), &[&pod, &going], None);
        assert!(actions.is_empty(), "pods that end are not told: {actions:?}");
        let actions = plan(settled, &[&pod], Some(Failure::Create("exceeded quota".into())));
        let [Action::UpdateStatus { object }] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            object["status"]["conditions"],
            json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota",
                "lastTransitionTime": "2026-01-01T00:10:00Z"}])
        );
    }
}
