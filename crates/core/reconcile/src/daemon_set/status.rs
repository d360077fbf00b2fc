//! What a DaemonSet's status says.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::Work;
use super::placement::is_updated;
use crate::plan::{Action, Plan};
use crate::replicaset::to_value;

impl Work<'_> {
    /// Writes the status where it differs.
    pub(super) fn push_status(&self, collision_count: Option<i32>, plan: &mut Plan) {
        let held = self.set.status.clone().unwrap_or_default();
        let generation = self.set.metadata.generation;
        let status = DaemonSetStatus {
            collision_count,
            observed_generation: generation.max(held.observed_generation),
            conditions: held.conditions.clone(),
            ..self.counts()
        };
        if status != without_zeros(held) {
            let mut changed = self.set.clone();
            changed.status = Some(status);
            plan.actions.push(Action::UpdateStatus {
                object: to_value::<DaemonSet>(&changed),
            });
        }
    }

    /// Of several pods on a node the oldest counts.
    fn counts(&self) -> DaemonSetStatus {
        let mut status = DaemonSetStatus::default();
        let (mut available, mut updated) = (0, 0);
        for (node, fit) in &self.nodes {
            let oldest = self.pods.get(node).and_then(|pods| pods.first());
            if !fit.run {
                status.number_misscheduled += i32::from(oldest.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = oldest else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pod.facts().ready);
            available += i32::from(self.is_available(pod));
            updated += i32::from(is_updated(self.set, pod, &self.hash));
        }
        without_zeros(DaemonSetStatus {
            number_available: Some(available),
            number_unavailable: Some(status.desired_number_scheduled - available),
            updated_number_scheduled: Some(updated),
            ..status
        })
    }
}

/// None is written as nothing where the API says so.
fn without_zeros(status: DaemonSetStatus) -> DaemonSetStatus {
    let nonzero = |number: Option<i32>| number.filter(|number| *number != 0);
    DaemonSetStatus {
        number_available: nonzero(status.number_available),
        number_unavailable: nonzero(status.number_unavailable),
        updated_number_scheduled: nonzero(status.updated_number_scheduled),
        ..status
    }
}
