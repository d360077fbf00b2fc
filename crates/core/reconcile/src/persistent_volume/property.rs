//! From any state of claims and volumes the two reconcilers come to rest, and at rest a volume is one claim's.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use trireme_api::volume::{class_of, has_class};

use super::tests::{claim, meant, volume};
use super::*;
use crate::plan::{Action, Plan};

const CLAIMS: usize = 3;
const VOLUMES: usize = 3;
/// Looks at every object until nothing is written: two rounds a binding, for each claim in turn, and some to give back.
const ROUNDS_MAX: usize = 20;

#[derive(Clone, Debug)]
struct ClaimStart {
    exists: bool,
    asks_for: Option<usize>,
    completed: bool,
    by_controller: bool,
    phase: &'static str,
    class: Option<&'static str>,
    size: &'static str,
    selected: bool,
}

#[derive(Clone, Debug)]
struct VolumeStart {
    exists: bool,
    /// Claim, and whether with its uid, with none or with that of an earlier one.
    meant_for: Option<(usize, u8)>,
    by_controller: bool,
    made: bool,
    phase: &'static str,
    policy: &'static str,
    class: &'static str,
    size: &'static str,
}

fn any_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(values)
}

fn claim_start() -> impl Strategy<Value = ClaimStart> {
    let asks_for = proptest::option::weighted(0.4, 0..VOLUMES + 1);
    let class = proptest::option::weighted(0.8, any_of(&["", "gold", "slow", "gone"]));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), proptest::bool::weighted(0.9));
    let phases = any_of(&["Pending", "Bound", "Lost"]);
    (asks_for, class, flags, phases, any_of(&["1Gi", "3Gi"])).prop_map(
        |(asks_for, class, (completed, by_controller, selected, exists), phase, size)| ClaimStart {
            exists,
            asks_for,
            completed,
            by_controller,
            phase,
            class,
            size,
            selected,
        },
    )
}

fn volume_start() -> impl Strategy<Value = VolumeStart> {
    let meant_for = proptest::option::weighted(0.6, (0..CLAIMS, 0..3_u8));
    let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.9));
    let phases = any_of(&["Pending", "Available", "Bound", "Released", "Failed"]);
    let policies = any_of(&["Retain", "Delete", "Recycle"]);
    let classes = any_of(&["", "gold", "slow"]);
    (meant_for, flags, phases, policies, classes, any_of(&["2Gi", "4Gi"])).prop_map(
        |(meant_for, (by_controller, made, exists), phase, policy, class, size)| VolumeStart {
            exists,
            meant_for,
            by_controller,
            made,
            phase,
            policy,
            class,
            size,
        },
    )
}

/// The API, as far as both can tell.
struct World {
    claims: BTreeMap<String, Value>,
    volumes: BTreeMap<String, Value>,
    revision: u64,
}

impl World {
    fn new(claims: &[ClaimStart], volumes: &[VolumeStart]) -> Self {
        let claim = |(index, start): (usize, &ClaimStart)| {
            let name = format!("c{index}");
            let object = claim(|object| {
                object["metadata"]["name"] = name.as_str().into();
                object["metadata"]["uid"] = format!("u-{name}").into();
                object["status"] = json!({"phase": start.phase});
                object["spec"]["resources"]["requests"]["storage"] = start.size.into();
                object["spec"]["storageClassName"] = start.class.map_or(Value::Null, Into::into);
                if let Some(volume) = start.asks_for {
                    object["spec"]["volumeName"] = format!("v{volume}").into();
                }
                for (set, key) in [
                    (start.completed, annotation::BIND_COMPLETED),
                    (start.by_controller, annotation::BOUND_BY_CONTROLLER),
                    (start.selected, annotation::SELECTED_NODE),
                ] {
                    if set {
                        set_annotation(object, key, "yes");
                    }
                }
            });
            (name, object)
        };
        let volume = |(index, start): (usize, &VolumeStart)| {
            let name = format!("v{index}");
            let object = volume(&name, |object| {
                object["status"]["phase"] = start.phase.into();
                object["spec"]["persistentVolumeReclaimPolicy"] = start.policy.into();
                object["spec"]["storageClassName"] = start.class.into();
                object["spec"]["capacity"]["storage"] = start.size.into();
                if let Some((claim, how)) = start.meant_for {
                    let uid = [format!("u-c{claim}"), String::new(), "earlier".to_owned()];
                    meant(object, &uid[usize::from(how)]);
                    object["spec"]["claimRef"]["name"] = format!("c{claim}").into();
                }
                if start.by_controller {
                    set_annotation(object, annotation::BOUND_BY_CONTROLLER, "yes");
                }
                if start.made {
                    set_annotation(object, annotation::PROVISIONED_BY, "example.com/disks");
                }
            });
            (name, object)
        };
        Self {
            claims: claims
                .iter()
                .enumerate()
                .filter(|(_, start)| start.exists)
                .map(claim)
                .collect(),
            volumes: volumes
                .iter()
                .enumerate()
                .filter(|(_, start)| start.exists)
                .map(volume)
                .collect(),
            revision: 100,
        }
    }

    fn claim_snapshot(&self, claim: &Value) -> ClaimSnapshot {
        let class = match class_of(claim) {
            "gold" => Some(false),
            "slow" => Some(true),
            _ => None,
        };
        ClaimSnapshot {
            claim: claim.clone(),
            volumes: self.volumes.values().cloned().collect(),
            class: class.map(|waits| Class {
                waits,
                provisioner: "example.com/disks".into(),
            }),
            default_class: Some("gold".into()),
            unscheduled: Vec::new(),
        }
    }

    /// One look at everything. How many writes there were.
    fn look(&mut self) -> usize {
        let mut writes = 0;
        for name in self.claims.keys().cloned().collect::<Vec<_>>() {
            let plan = reconcile_claim(&self.claim_snapshot(&self.claims[&name]), jiff::Timestamp::UNIX_EPOCH);
            writes += self.carry_out(&plan);
        }
        for name in self.volumes.keys().cloned().collect::<Vec<_>>() {
            let volume = self.volumes[&name].clone();
            let claim = volume["spec"]["claimRef"]["name"]
                .as_str()
                .and_then(|name| self.claims.get(name));
            let snapshot = VolumeSnapshot {
                claim: claim.cloned(),
                volume,
            };
            writes += self.carry_out(&reconcile_volume(&snapshot, jiff::Timestamp::UNIX_EPOCH));
        }
        writes
    }

    fn carry_out(&mut self, plan: &Plan) -> usize {
        let mut writes = 0;
        for action in &plan.actions {
            let (object, status) = match action.effect() {
                Action::Event(_) => continue,
                Action::Update { object } => (object, false),
                Action::UpdateStatus { object } => (object, true),
                other => panic!("{other:?}"),
            };
            let stored = match object["kind"].as_str() {
                Some("PersistentVolume") => &mut self.volumes,
                _ => &mut self.claims,
            };
            let stored = stored.get_mut(name(object)).expect("it is there");
            assert_eq!(
                stored["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"],
                "a plan raced itself"
            );
            let mut next = object.clone();
            if status {
                next["spec"] = stored["spec"].clone();
                next["metadata"] = stored["metadata"].clone();
            } else {
                next["status"] = stored["status"].clone();
            }
            assert_ne!(&next, stored, "a write that changes nothing");
            self.revision += 1;
            next["metadata"]["resourceVersion"] = self.revision.to_string().into();
            *stored = next;
            writes += 1;
        }
        writes
    }

    /// A claim that is bound and its volume say so of each other; no two claims have one volume.
    fn check(&self) -> Result<(), TestCaseError> {
        for (claim_name, claim) in self.claims.iter().filter(|(_, claim)| phase(claim) == "Bound") {
            let volume = &self.volumes[claim["spec"]["volumeName"].as_str().unwrap_or_default()];
            prop_assert_eq!(
                &volume["spec"]["claimRef"]["uid"],
                &claim["metadata"]["uid"],
                "{}",
                claim_name
            );
            prop_assert_eq!(phase(volume), "Bound");
            prop_assert!(has_class(claim) || claim["spec"]["storageClassName"].is_null());
        }
        for (volume_name, volume) in self.volumes.iter().filter(|(_, volume)| phase(volume) == "Bound") {
            let uid = &volume["spec"]["claimRef"]["uid"];
            let claims = self.claims.values().filter(|claim| claim["metadata"]["uid"] == *uid);
            prop_assert_eq!(claims.count(), 1, "{}", volume_name);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn claims_and_volumes_come_to_rest(
        claims in proptest::collection::vec(claim_start(), CLAIMS),
        volumes in proptest::collection::vec(volume_start(), VOLUMES),
    ) {
        let mut world = World::new(&claims, &volumes);
        let rested = (0..ROUNDS_MAX).any(|_| world.look() == 0);
        prop_assert!(rested, "still writing: {:?} {:?}", world.claims, world.volumes);
        world.check()?;
    }
}
