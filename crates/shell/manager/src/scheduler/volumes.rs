//! Pods that are placed and wait for their volumes: what is written for them, and when it is done.
//!
//! Invariant: nothing waits for a volume but the record of its pod, so a volume that never comes holds up nobody else. What
//! was assumed is taken back when the pod is gone, time is up, or the volumes will not come.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};
use tokio::time::Instant;
use trireme_api::Status;
use trireme_api::volume::annotation;
use trireme_client::{ApiObject, Client, Patch};
use trireme_scheduling::volumes::{Binding, Unbound, VolumePlan, Written};
use trireme_scheduling::{PodRecord, Snapshot};

use super::act;

/// A pod that is placed and has no volumes yet.
pub(super) struct Waiting {
    pub(super) pod: Arc<PodRecord>,
    pub(super) node: Box<str>,
    pub(super) plan: Box<VolumePlan>,
    pub(super) begun: Instant,
}

/// Why a pod was not bound for want of its volumes. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// What it needs could not be written.
    #[error("running PreBind plugin \"VolumeBinding\": {}", .0.message)]
    Write(Status),
    /// They will not come.
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: {0}")]
    Unbound(#[from] Unbound),
    /// Its node is gone.
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: failed to get node \"{0}\": node \"{0}\" not found")]
    NoNode(Box<str>),
    /// Time is up.
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: context deadline exceeded")]
    Late,
}

/// What a look at the waiting pods found.
pub(super) enum Outcome {
    /// All is bound.
    Bound(Waiting),
    /// It will not be.
    Failed(Waiting, Failed),
    /// The pod is gone, or was bound by somebody else.
    Gone(Waiting),
}

type Uid = Arc<str>;

struct Entry {
    waiting: Waiting,
    written: Written,
    deadline: Instant,
}

/// The pods that wait for their volumes.
#[derive(Default)]
pub(super) struct WaitingPods {
    entries: HashMap<Uid, Entry>,
    /// Who waits for a claim, by namespace/name.
    by_claim: HashMap<String, HashSet<Uid>>,
    deadlines: BTreeSet<(Instant, Uid)>,
}

impl WaitingPods {
    /// A pod waits for what was written.
    pub(super) fn add(&mut self, waiting: Waiting, written: Written, deadline: Instant) {
        let uid = Arc::clone(&waiting.pod.uid);
        for claim in claims(&written) {
            self.by_claim.entry(claim.clone()).or_default().insert(Arc::clone(&uid));
        }
        self.deadlines.insert((deadline, Arc::clone(&uid)));
        let entry = Entry {
            waiting,
            written,
            deadline,
        };
        self.entries.insert(uid, entry);
    }

    /// When the first has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes out whoever need not wait any longer, of those that wait for one of these claims or have waited long enough.
    pub(super) fn look(&mut self, changed: &[String], snapshot: &Snapshot, now: Instant) -> Vec<Outcome> {
        let late = self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, uid)| uid);
        let concerned = changed.iter().filter_map(|claim| self.by_claim.get(claim)).flatten();
        let uids: BTreeSet<Uid> = late.chain(concerned).map(Arc::clone).collect();
        uids.into_iter().filter_map(|uid| self.judge(&uid, snapshot, now)).collect()
    }

    fn judge(&mut self, uid: &str, snapshot: &Snapshot, now: Instant) -> Option<Outcome> {
        let entry = self.entries.get(uid)?;
        let node = &entry.waiting.node;
        let bound = match snapshot.node(node) {
            None => Err(Failed::NoNode(node.clone())),
            Some(found) => {
                let labels = &found.record.labels;
                let bound = snapshot.storage.is_bound(&entry.written, node, labels);
                bound.map_err(Failed::Unbound)
            }
        };
        let failed = match bound {
            Ok(true) => None,
            Ok(false) if entry.deadline > now => return None,
            Ok(false) => Some(Failed::Late),
            Err(failed) => Some(failed),
        };
        let waiting = self.remove(uid)?;
        Some(match failed {
            None => Outcome::Bound(waiting),
            Some(failed) => Outcome::Failed(waiting, failed),
        })
    }

    /// A pod waits no more, if it did.
    pub(super) fn remove(&mut self, uid: &str) -> Option<Waiting> {
        let entry = self.entries.remove(uid)?;
        for claim in claims(&entry.written) {
            if let Some(uids) = self.by_claim.get_mut(claim) {
                uids.remove(uid);
                if uids.is_empty() {
                    self.by_claim.remove(claim);
                }
            }
        }
        self.deadlines.remove(&(entry.deadline, Arc::clone(&entry.waiting.pod.uid)));
        Some(entry.waiting)
    }
}

fn claims(written: &Written) -> impl Iterator<Item = &String> {
    let bindings = written.bindings.iter().map(|(claim, _, _)| claim);
    bindings.chain(written.provisions.iter().map(|(claim, _)| claim))
}

/// Gives volumes to claims, and tells for which node the others' are to be made.
///
/// # Errors
/// The API's, for the first that is refused; a conflict where somebody else was faster.
pub(super) async fn write(client: &Client, waiting: &Waiting) -> Result<Written, Status> {
    let (pod, node) = (&waiting.pod, &waiting.node);
    if pod.nominated.as_deref() != Some(&**node) {
        let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"nominatedNodeName": &**node}});
        if let Err(status) = act::patch_status(client, pod, &patch).await {
            tracing::debug!(
                pod = &*pod.name,
                "the node that the pod will be on could not be told: {status}"
            );
        }
    }
    let mut written = Written::default();
    for binding in &waiting.plan.bindings {
        let name = &binding.volume.volume.name;
        let version = patch::<PersistentVolume>(client, "", name, &volume_patch(binding)).await?;
        let claim = &binding.claim.claim;
        let claim = format!("{}/{}", claim.namespace, claim.name);
        written.bindings.push((claim, name.clone(), version));
    }
    for record in &waiting.plan.provisions {
        let claim = &record.claim;
        let version = if record.selected_node.as_deref() == Some(&**node) {
            record.version
        } else {
            let body = json!({"metadata": {
                "resourceVersion": record.version.to_string(),
                "annotations": {annotation::SELECTED_NODE: &**node},
            }});
            patch::<PersistentVolumeClaim>(client, &claim.namespace, &claim.name, &body).await?
        };
        written
            .provisions
            .push((format!("{}/{}", claim.namespace, claim.name), version));
    }
    Ok(written)
}

/// Makes a volume its claim's.
fn volume_patch(binding: &Binding) -> Value {
    let (claim, volume) = (&binding.claim, &binding.volume);
    let mut body = json!({
        "metadata": {"resourceVersion": volume.version.to_string()},
        "spec": {"claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": claim.claim.namespace,
            "name": claim.claim.name,
            "uid": claim.claim.uid,
            "resourceVersion": claim.version.to_string(),
        }},
    });
    if volume.by_controller || !volume.volume.is_bound_to(&claim.claim) {
        body["metadata"]["annotations"] = json!({annotation::BOUND_BY_CONTROLLER: "yes"});
    }
    body
}

async fn patch<K: ApiObject>(client: &Client, namespace: &str, name: &str, body: &Value) -> Result<u64, Status> {
    let target = Client::target::<K>(namespace, name, None);
    let patch = Patch::Merge(Bytes::from(body.to_string()));
    let object = client.transport().patch(&target, &patch, &client.write_options()).await?;
    Ok(object.header().resource_version)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trireme_scheduling::NodeRecord;

    use super::*;

    fn waiting(name: &str, node: &str) -> Waiting {
        Waiting {
            pod: Arc::new(PodRecord {
                uid: name.into(),
                ..PodRecord::default()
            }),
            node: node.into(),
            plan: Box::default(),
            begun: Instant::now(),
        }
    }

    fn written(claim: &str) -> Written {
        Written {
            provisions: vec![(format!("default/{claim}"), 1)],
            ..Written::default()
        }
    }

    fn failures(outcomes: Vec<Outcome>) -> Vec<(String, String)> {
        let failure = |outcome| match outcome {
            Outcome::Failed(waiting, failed) => (waiting.pod.uid.to_string(), failed.to_string()),
            Outcome::Bound(waiting) | Outcome::Gone(waiting) => (waiting.pod.uid.to_string(), String::new()),
        };
        outcomes.into_iter().map(failure).collect()
    }

    #[tokio::test]
    async fn a_pod_waits_until_its_claims_change_or_time_is_up() {
        let mut snapshot = Snapshot::default();
        let node = br#"{"metadata": {"name": "n1"}}"#;
        snapshot.put_node(NodeRecord::read(node).unwrap());
        let claim = json!({"metadata": {"name": "c", "namespace": "default", "resourceVersion": "2",
            "annotations": {annotation::SELECTED_NODE: "n1"}}});
        for name in ["c", "d"] {
            let claim = claim.to_string();
            snapshot.storage.put_claim("default", name, Some(claim.as_bytes())).unwrap();
        }
        let mut pods = WaitingPods::default();
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        pods.add(waiting("first", "n1"), written("c"), now + second);
        pods.add(waiting("second", "n1"), written("d"), now + 2 * second);
        pods.add(waiting("third", "gone"), written("d"), now + 3 * second);
        assert!(pods.look(&[], &snapshot, now).is_empty());
        assert!(
            pods.look(&["default/c".into()], &snapshot, now).is_empty(),
            "nothing is bound yet"
        );
        assert_eq!(pods.deadline(), Some(now + second));
        let prefix = "running PreBind plugin \"VolumeBinding\": binding volumes: ";
        let late = failures(pods.look(&[], &snapshot, now + second));
        assert_eq!(late, [("first".into(), format!("{prefix}context deadline exceeded"))]);
        let gone = failures(pods.look(&["default/d".into()], &snapshot, now + second));
        assert_eq!(
            gone,
            [(
                "third".into(),
                format!("{prefix}failed to get node \"gone\": node \"gone\" not found")
            )]
        );
        snapshot.storage.put_claim("default", "d", None).unwrap();
        assert!(
            pods.look(&["default/c".into()], &snapshot, now).is_empty(),
            "nobody waits for it any more"
        );
        let lost = failures(pods.look(&["default/d".into()], &snapshot, now));
        let text = "failed to check provisioning pvc: persistentvolumeclaims \"default/d\" not found";
        assert_eq!(lost, [("second".into(), format!("{prefix}{text}"))]);
        assert!(pods.deadline().is_none() && pods.by_claim.is_empty());
    }
}
