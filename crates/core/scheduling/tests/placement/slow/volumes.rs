//! Volumes, straight over JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{World, label, list, name, namespace, node_term, selects, text};

/// Reasons and whether preemption may help.
type Refusal = (Vec<String>, bool);

fn refuse<T>(reason: &str, helps: bool) -> Result<T, Refusal> {
    Err((vec![reason.to_owned()], helps))
}

/// Names of a pod's claims, and whether each is the pod's own.
fn claims(pod: &Value) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for volume in list(&pod["spec"]["volumes"]) {
        if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            all.push((claim.to_owned(), false));
        } else if volume["ephemeral"].is_object() {
            all.push((format!("{}-{}", name(pod), text(volume, "name")), true));
        }
    }
    all
}

fn is_bound(claim: &Value) -> bool {
    !text(&claim["spec"], "volumeName").is_empty()
        && !claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"].is_null()
}

fn gibibytes(amount: &Value) -> i64 {
    amount.as_str().unwrap().strip_suffix("Gi").unwrap().parse().unwrap()
}

fn size(claim: &Value) -> i64 {
    gibibytes(&claim["spec"]["resources"]["requests"]["storage"])
}

fn reaches(volume: &Value, node: &Value) -> bool {
    let required = &volume["spec"]["nodeAffinity"]["required"];
    required.is_null() || list(&required["nodeSelectorTerms"]).iter().any(|term| node_term(term, node))
}

fn is_meant(volume: &Value, claim: &Value) -> bool {
    let reference = &volume["spec"]["claimRef"];
    reference.is_object()
        && text(reference, "name") == name(claim)
        && text(reference, "namespace") == namespace(claim)
        && (text(reference, "uid").is_empty() || reference["uid"] == claim["metadata"]["uid"])
}

impl World {
    fn stored(&self, kind: &str, place: Option<&str>, wanted: &str) -> Option<&Value> {
        self.storage.iter().find(|object| {
            object["kind"] == kind && name(object) == wanted && place.is_none_or(|place| namespace(object) == place)
        })
    }

    fn claim(&self, pod: &Value, wanted: &str) -> Option<&Value> {
        self.stored("PersistentVolumeClaim", Some(namespace(pod)), wanted)
    }

    fn class_of(&self, claim: &Value) -> Option<&Value> {
        self.stored("StorageClass", None, text(&claim["spec"], "storageClassName"))
    }

    fn waits(&self, claim: &Value) -> bool {
        self.class_of(claim)
            .is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer")
    }

    /// What keeps a pod from all nodes.
    pub fn refusal_beforehand(&self, pod: &Value) -> Option<String> {
        let all = claims(pod);
        let named = || all.iter().filter(|(_, own)| !own);
        if let Some((absent, _)) = named().find(|(claim, _)| self.claim(pod, claim).is_none()) {
            return Some(format!("persistentvolumeclaim \"{absent}\" not found"));
        }
        for (wanted, own) in &all {
            let Some(claim) = self.claim(pod, wanted) else {
                return Some(format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{wanted}\""
                ));
            };
            if claim["status"]["phase"] == "Lost" {
                let volume = text(&claim["spec"], "volumeName");
                return Some(format!(
                    "persistentvolumeclaim \"{wanted}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if !claim["metadata"]["deletionTimestamp"].is_null() {
                return Some(format!("persistentvolumeclaim \"{wanted}\" is being deleted"));
            }
            if *own && claim["metadata"]["ownerReferences"][0]["uid"] != pod["metadata"]["uid"] {
                let (place, pod) = (namespace(pod), name(pod));
                return Some(format!(
                    "PVC {place}/{wanted} was not created for pod {place}/{pod} (pod is not owner)"
                ));
            }
        }
        for (wanted, _) in &all {
            let claim = self.claim(pod, wanted).unwrap();
            if !is_bound(claim) && (!self.waits(claim) || !text(&claim["spec"], "volumeName").is_empty()) {
                return Some("pod has unbound immediate PersistentVolumeClaims".into());
            }
        }
        for (wanted, _) in named() {
            let volume = text(&self.claim(pod, wanted).unwrap()["spec"], "volumeName");
            if !volume.is_empty() && self.stored("PersistentVolume", None, volume).is_none() {
                return Some(format!("persistentvolume \"{volume}\" not found"));
            }
        }
        None
    }

    /// What keeps a pod from one node.
    pub fn volumes(&self, pod: &Value, node: &Value) -> Result<(), Refusal> {
        self.restrictions(pod)?;
        self.limits(pod, node)?;
        self.binding(pod, node)?;
        self.zone(pod, node)
    }

    fn restrictions(&self, pod: &Value) -> Result<(), Refusal> {
        for (wanted, own) in claims(pod) {
            let claim = self.claim(pod, &wanted).unwrap();
            let single = list(&claim["spec"]["accessModes"])
                .iter()
                .any(|mode| mode == "ReadWriteOncePod");
            let used = self
                .placed()
                .iter()
                .any(|(other, _)| namespace(other) == namespace(pod) && claims(other).contains(&(wanted.clone(), false)));
            if single && used && !own {
                let text = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                            another pod";
                return refuse(text, true);
            }
        }
        Ok(())
    }

    /// Driver and handle of each volume of a pod.
    fn counted(&self, pod: &Value) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (wanted, _) in claims(pod) {
            let Some(claim) = self.claim(pod, &wanted) else { continue };
            let volume = self.stored("PersistentVolume", None, text(&claim["spec"], "volumeName"));
            if let Some(volume) = volume {
                let csi = &volume["spec"]["csi"];
                if csi.is_object() {
                    all.push((text(csi, "driver").into(), text(csi, "volumeHandle").into()));
                }
            } else if let Some(class) = self.class_of(claim) {
                let handle = format!("new {}/{wanted}", namespace(pod));
                all.push((text(class, "provisioner").into(), handle));
            }
        }
        all.sort();
        all.dedup();
        all
    }

    fn limits(&self, pod: &Value, node: &Value) -> Result<(), Refusal> {
        let Some(csi_node) = self.stored("CSINode", None, name(node)) else {
            return Ok(());
        };
        let mut held: Vec<_> = self.on(node).flat_map(|other| self.counted(other)).collect();
        held.sort();
        held.dedup();
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for (driver, _) in self.counted(pod).into_iter().filter(|volume| !held.contains(volume)) {
            *counts.entry(driver).or_default() += 1;
        }
        for driver in list(&csi_node["spec"]["drivers"]) {
            let Some(limit) = driver["allocatable"]["count"].as_i64() else {
                continue;
            };
            let there = held.iter().filter(|(of, _)| of == text(driver, "name")).count();
            let new = counts.get(text(driver, "name")).copied().unwrap_or_default();
            if new > 0 && i64::try_from(there).unwrap() + new > limit {
                return refuse("node(s) exceed max volume count", true);
            }
        }
        Ok(())
    }

    fn binding(&self, pod: &Value, node: &Value) -> Result<(), Refusal> {
        let all = claims(pod);
        let mut reasons = Vec::new();
        let mut unbound: Vec<&Value> = Vec::new();
        for (wanted, _) in &all {
            let claim = self.claim(pod, wanted).unwrap();
            if !is_bound(claim) && !unbound.iter().any(|known| name(known) == wanted) {
                unbound.push(claim);
            }
        }
        let bound = all
            .iter()
            .map(|(wanted, _)| self.claim(pod, wanted).unwrap())
            .filter(|claim| is_bound(claim));
        let mut gone = false;
        for claim in bound {
            match self.stored("PersistentVolume", None, text(&claim["spec"], "volumeName")) {
                None => gone = true,
                Some(volume) if !reaches(volume, node) => {
                    reasons.push("node(s) didn't match PersistentVolume's node affinity".to_owned());
                }
                Some(_) => continue,
            }
            break;
        }
        if !self.suffices(unbound, node) {
            reasons.push("node(s) didn't find available persistent volumes to bind".to_owned());
        }
        if gone {
            reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".to_owned());
        }
        reasons.sort();
        if reasons.is_empty() { Ok(()) } else { Err((reasons, false)) }
    }

    /// Whether each claim gets a volume on a node, or one can be made for it.
    fn suffices(&self, mut claims: Vec<&Value>, node: &Value) -> bool {
        let selected = |claim: &Value| claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"].clone();
        if claims
            .iter()
            .any(|claim| !selected(claim).is_null() && selected(claim) != name(node))
        {
            return false;
        }
        claims.sort_by_key(|claim| size(claim));
        let mut taken: Vec<&str> = Vec::new();
        for claim in claims {
            let suits = |volume: &&Value| {
                volume["kind"] == "PersistentVolume"
                    && volume["spec"]["storageClassName"] == claim["spec"]["storageClassName"]
                    && !taken.contains(&name(volume))
                    && (volume["spec"]["claimRef"].is_null() || is_meant(volume, claim))
                    && gibibytes(&volume["spec"]["capacity"]["storage"]) >= size(claim)
                    && volume["spec"]["volumeMode"] == claim["spec"]["volumeMode"]
                    && volume["metadata"]["deletionTimestamp"].is_null()
            };
            let suiting: Vec<&Value> = self.storage.iter().filter(suits).collect();
            let found = match suiting.iter().find(|volume| is_meant(volume, claim)) {
                Some(meant) => Some(*meant).filter(|volume| reaches(volume, node)),
                None => suiting
                    .into_iter()
                    .filter(|volume| {
                        let modes = list(&volume["spec"]["accessModes"]);
                        volume["status"]["phase"] == "Available"
                            && reaches(volume, node)
                            && list(&claim["spec"]["accessModes"]).iter().all(|mode| modes.contains(mode))
                            && (claim["spec"]["selector"].is_null()
                                || selects(&claim["spec"]["selector"], &volume["metadata"]["labels"]))
                    })
                    .min_by_key(|volume| gibibytes(&volume["spec"]["capacity"]["storage"])),
            };
            let found = found.filter(|_| selected(claim).is_null());
            if let Some(volume) = found {
                taken.push(name(volume));
                continue;
            }
            let class = self.class_of(claim).unwrap();
            let topologies = list(&class["allowedTopologies"]);
            let allowed = topologies.is_empty()
                || topologies.iter().any(|term| {
                    list(&term["matchLabelExpressions"]).iter().all(|one| {
                        let value = label(node, text(one, "key"));
                        value.is_some_and(|value| list(&one["values"]).iter().any(|wanted| wanted == value))
                    })
                });
            if class["provisioner"] == "kubernetes.io/no-provisioner" || !allowed {
                return false;
            }
        }
        true
    }

    fn zone(&self, pod: &Value, node: &Value) -> Result<(), Refusal> {
        let zone = "topology.kubernetes.io/zone";
        let Some(here) = label(node, zone) else { return Ok(()) };
        for (wanted, own) in claims(pod) {
            let claim = self.claim(pod, &wanted).unwrap();
            let volume = self.stored("PersistentVolume", None, text(&claim["spec"], "volumeName"));
            let zones = volume.and_then(|volume| label(volume, zone));
            if !own && zones.is_some_and(|zones| zones.split("__").all(|zone| zone != here)) {
                return refuse("node(s) had no available volume zone", false);
            }
        }
        Ok(())
    }
}
