//! Rolling updates: which pods of an earlier revision go now, and where a new one starts beside the old.

use k8s_openapi::api::apps::v1::{DaemonSet, RollingUpdateDaemonSet};

use super::manage::is_going;
use super::placement::is_updated;
use super::{Changes, Work};
use crate::deployment::resolve;
use crate::pods::CountedPod;

const ROLLING_UPDATE: &str = "RollingUpdate";

/// How far a rolling update may go.
#[derive(Clone, Copy, Debug)]
struct Limits {
    surge: usize,
    unavailable: usize,
    desired: usize,
}

/// The one new and the one old pod of a node.
#[derive(Clone, Copy, Debug)]
struct Pair<'a> {
    new: Option<&'a CountedPod>,
    old: Option<&'a CountedPod>,
}

/// The strategy's numbers, if it is a rolling update at all.
fn rolling(set: &DaemonSet) -> Option<&RollingUpdateDaemonSet> {
    let strategy = set.spec.as_ref()?.update_strategy.as_ref()?;
    (strategy.type_.as_deref() == Some(ROLLING_UPDATE))
        .then_some(strategy.rolling_update.as_ref())
        .flatten()
}

fn surge(set: &DaemonSet, of: i32) -> i32 {
    let surge = rolling(set).and_then(|rolling| rolling.max_surge.as_ref());
    surge.map_or(0, |surge| resolve(Some(surge), of, true))
}

fn unavailable(set: &DaemonSet, of: i32) -> i32 {
    let unavailable = rolling(set).and_then(|rolling| rolling.max_unavailable.as_ref());
    unavailable.map_or(0, |unavailable| resolve(Some(unavailable), of, true))
}

/// Whether a node may have two pods for a while.
pub(super) fn allows_surge(set: &DaemonSet) -> bool {
    surge(set, 1) > 0
}

impl<'a> Work<'a> {
    /// The next step of a rolling update, if there is one to take.
    pub(super) fn roll(&self, changes: &mut Changes<'a>) {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.is_none_or(|strategy| strategy.type_.as_deref() != Some(ROLLING_UPDATE)) {
            return;
        }
        let limits = self.limits();
        if limits.surge == 0 {
            self.replace(limits, changes);
        } else {
            self.surge(limits, changes);
        }
    }

    fn limits(&self) -> Limits {
        let desired = self.nodes.values().filter(|fit| fit.run).count();
        let of = i32::try_from(desired).unwrap_or(i32::MAX);
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let (surge, unavailable) = (count(surge(self.set, of)), count(unavailable(self.set, of)));
        // With neither nothing would ever move.
        let stuck = desired > 0 && surge == 0 && unavailable == 0;
        Limits {
            surge,
            unavailable: if stuck { 1 } else { unavailable },
            desired,
        }
    }

    /// Every node that has pods or should have one, with its pods.
    fn places(&self) -> impl Iterator<Item = (&'a str, &[&'a CountedPod])> {
        let empty = self
            .nodes
            .iter()
            .filter(|(node, fit)| fit.run && !self.pods.contains_key(*node));
        let held = self.pods.iter().map(|(node, pods)| (*node, pods.as_slice()));
        held.chain(empty.map(|(node, _)| (*node, [].as_slice())))
    }

    /// The new and the old pod among those that stay; nothing where there are several of either, which is put right first.
    fn pair(&self, pods: &[&'a CountedPod]) -> Option<Pair<'a>> {
        let mut pair = Pair { new: None, old: None };
        for pod in pods.iter().filter(|pod| !is_going(pod)) {
            let side = if is_updated(self.set, pod, &self.hash) {
                &mut pair.new
            } else {
                &mut pair.old
            };
            if side.replace(pod).is_some() {
                return None;
            }
        }
        Some(pair)
    }

    /// Without surge: old pods go, such as serve nobody at once, others as far as maxUnavailable allows.
    fn replace(&self, limits: Limits, changes: &mut Changes<'a>) {
        let mut unavailable = 0;
        let mut candidates = Vec::new();
        for (_, pods) in self.places() {
            match self.pair(pods) {
                None
                | Some(
                    Pair { new: None, old: None }
                    | Pair {
                        new: Some(_),
                        old: Some(_),
                    },
                ) => unavailable += 1,
                Some(Pair {
                    new: Some(new),
                    old: None,
                }) => unavailable += usize::from(!self.is_available(new)),
                Some(Pair {
                    new: None,
                    old: Some(old),
                }) if self.is_available(old) => candidates.push(old),
                Some(Pair {
                    new: None,
                    old: Some(old),
                }) => {
                    changes.delete.push(old);
                    unavailable += 1;
                }
            }
        }
        let allowed = limits.unavailable.saturating_sub(unavailable);
        changes.delete.extend(candidates.into_iter().take(allowed));
    }

    /// With surge: new pods come beside old ones as far as maxSurge allows; an old one goes once the new one is available.
    fn surge(&self, limits: Limits, changes: &mut Changes<'a>) {
        let (mut surging, mut available) = (0, 0);
        let mut candidates = Vec::new();
        // On nodes that should have none any more: they go as pods elsewhere become available.
        let mut leaving = Vec::new();
        for (node, pods) in self.places() {
            let Some(pair) = self.pair(pods) else {
                surging += 1;
                continue;
            };
            available += usize::from(pair.old.or(pair.new).is_some_and(|pod| self.is_available(pod)));
            let Some(old) = pair.old else { continue };
            match pair.new {
                Some(new) if self.is_available(new) => changes.delete.push(old),
                Some(_) => surging += 1,
                None => {
                    let Some(fit) = self.nodes.get(node) else { continue };
                    match (self.is_available(old), fit.run) {
                        (false, false) => changes.delete.push(old),
                        (false, true) => changes.create.push(node),
                        (true, false) => leaving.push(old),
                        (true, true) => candidates.push(node),
                    }
                }
            }
        }
        let dispensable = available.saturating_sub(limits.desired);
        changes.delete.extend(leaving.into_iter().take(dispensable));
        let allowed = limits.surge.saturating_sub(surging);
        changes.create.extend(candidates.into_iter().take(allowed));
    }
}
