//! Sizes: how many pods each ReplicaSet of a Deployment should have now.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Set, Work, revision};

impl Work<'_> {
    fn rolling(&self) -> Option<(i32, i32)> {
        let strategy = self.before.spec.as_ref()?.strategy.as_ref()?;
        if strategy.type_.as_deref() == Some("Recreate") {
            return None;
        }
        let rolling = strategy.rolling_update.clone().unwrap_or_default();
        let surge = resolve(rolling.max_surge.as_ref(), self.replicas(), true);
        let mut unavailable = resolve(rolling.max_unavailable.as_ref(), self.replicas(), false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1; // Otherwise nothing could ever move.
        }
        Some((surge, unavailable))
    }

    /// maxSurge in pods; 0 with Recreate.
    pub(super) fn max_surge(&self) -> i32 {
        self.rolling().map_or(0, |(surge, _)| surge)
    }

    /// maxUnavailable in pods; 0 with Recreate.
    pub(super) fn max_unavailable(&self) -> i32 {
        if self.replicas() == 0 {
            return 0;
        }
        self.rolling().map_or(0, |(_, unavailable)| unavailable.min(self.replicas()))
    }

    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(self.new.iter())
    }

    fn total(&self) -> i32 {
        self.all().map(Set::replicas).sum()
    }

    /// Whether the Deployment's size was changed since its active ReplicaSets were last scaled.
    pub(super) fn is_scaling(&self) -> bool {
        let replicas = self.replicas();
        self.all()
            .filter(|set| set.is_active())
            .any(|set| revision::noted_desired(&set.now).is_some_and(|noted| noted != replicas))
    }

    /// How many pods the new ReplicaSet may have, given that it has `held`.
    pub(super) fn new_set_replicas(&self, held: i32) -> i32 {
        let replicas = self.replicas();
        if self.rolling().is_none() {
            return replicas;
        }
        let room = replicas + self.max_surge() - self.total();
        if room <= 0 { held } else { held + room.min(replicas - held) }
    }

    /// Scales the new ReplicaSet towards the full size. True if it was scaled.
    pub(super) fn scale_up_new(&mut self) -> bool {
        let Some(new) = &self.new else { return false };
        if new.before.is_none() {
            return false; // Just made, with its size.
        }
        let (held, wanted) = (new.replicas(), self.replicas());
        if held == wanted {
            return false;
        }
        let size = if held > wanted { wanted } else { self.new_set_replicas(held) };
        self.scale_new(size)
    }

    /// Scales old ReplicaSets down as far as availability allows: unhealthy pods first. True if any was scaled.
    pub(super) fn scale_down_old(&mut self) -> bool {
        let Some(new) = &self.new else { return false };
        if !self.old.iter().any(Set::is_active) {
            return false;
        }
        let minimum = self.replicas() - self.max_unavailable();
        let new_unavailable = new.replicas() - new.available();
        let most = self.total() - minimum - new_unavailable;
        if most <= 0 {
            return false;
        }
        let mut unhealthy_gone = 0;
        for index in 0..self.old.len() {
            let set = &self.old[index];
            let unhealthy = set.replicas() - set.available();
            if unhealthy_gone >= most || !set.is_active() || unhealthy <= 0 {
                continue;
            }
            let count = unhealthy.min(most - unhealthy_gone);
            let size = set.replicas() - count;
            self.scale_old(index, size);
            unhealthy_gone += count;
        }
        let available: i32 = self.all().map(Set::available).sum();
        let mut spare = available - minimum;
        let mut scaled = unhealthy_gone > 0;
        for index in 0..self.old.len() {
            if spare <= 0 {
                break;
            }
            let held = self.old[index].replicas();
            if held == 0 {
                continue;
            }
            let count = held.min(spare);
            self.scale_old(index, held - count);
            spare -= count;
            scaled = true;
        }
        scaled
    }

    /// Spreads a change of the Deployment's size over its ReplicaSets in proportion, so that a change in the middle of a
    /// rollout moves the rollout neither forwards nor backwards.
    pub(super) fn scale(&mut self) {
        let replicas = self.replicas();
        match self.active_or_latest() {
            Some(Place::New) => {
                self.scale_new(replicas);
                return;
            }
            Some(Place::Old(index)) => {
                self.scale_old(index, replicas);
                return;
            }
            None => {}
        }
        if self.is_saturated() {
            for index in 0..self.old.len() {
                if self.old[index].is_active() {
                    self.scale_old(index, 0);
                }
            }
            return;
        }
        if self.rolling().is_some() {
            self.scale_in_proportion();
        }
    }

    fn scale_in_proportion(&mut self) {
        let replicas = self.replicas();
        let allowed = if replicas > 0 { replicas + self.max_surge() } else { 0 };
        let to_add = allowed - self.total();
        let mut places: Vec<Place> = (0..self.old.len())
            .map(Place::Old)
            .chain(self.new.is_some().then_some(Place::New))
            .collect();
        places.retain(|place| self.set(*place).is_active());
        // The largest first; among equals the newer when growing, the older when shrinking.
        places.sort_by(|left, right| {
            let (left, right) = (self.set(*left), self.set(*right));
            let by_age = if to_add > 0 {
                right.created().cmp(&left.created())
            } else {
                left.created().cmp(&right.created())
            };
            right.replicas().cmp(&left.replicas()).then(by_age)
        });
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(places.len());
        for place in &places {
            let set = self.set(*place);
            let share = if to_add == 0 { 0 } else { self.share(set, to_add, added) };
            sizes.push(set.replicas() + share);
            added += share;
        }
        if to_add != 0
            && let Some(first) = sizes.first_mut()
        {
            *first = (*first + to_add - added).max(0);
        }
        for (place, size) in places.into_iter().zip(sizes) {
            self.resize(place, size, true);
        }
    }

    /// The part of `to_add` that a ReplicaSet gets by its present share of the Deployment.
    fn share(&self, set: &Set, to_add: i32, added: i32) -> i32 {
        if set.replicas() == 0 || to_add == added {
            return 0;
        }
        let replicas = self.replicas();
        let fraction = if replicas == 0 {
            -set.replicas()
        } else {
            let noted = revision::noted_maximum(&set.now).filter(|maximum| *maximum != 0);
            let from = noted
                .or_else(|| self.before.status.as_ref()?.replicas)
                .filter(|maximum| *maximum != 0)
                .unwrap_or(1);
            let grown = f64::from(set.replicas()) * f64::from(replicas + self.max_surge()) / f64::from(from);
            #[expect(clippy::cast_possible_truncation, reason = "sizes of Deployments are far below 2^31")]
            let rounded = grown.round() as i32;
            rounded - set.replicas()
        };
        let left = to_add - added;
        if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    fn active_or_latest(&self) -> Option<Place> {
        let mut active = (0..self.old.len())
            .map(Place::Old)
            .chain(self.new.is_some().then_some(Place::New));
        let mut active = active.by_ref().filter(|place| self.set(*place).is_active());
        match (active.next(), active.next()) {
            (None, _) if self.new.is_some() => Some(Place::New),
            (None, _) if !self.old.is_empty() => Some(Place::Old(self.old.len() - 1)),
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    fn is_saturated(&self) -> bool {
        let replicas = self.replicas();
        self.new.as_ref().is_some_and(|new| {
            new.replicas() == replicas && revision::noted_desired(&new.now) == Some(replicas) && new.available() == replicas
        })
    }

    fn set(&self, place: Place) -> &Set {
        match place {
            Place::Old(index) => &self.old[index],
            Place::New => self
                .new
                .as_ref()
                .expect("a place of the new set is only made where there is one"),
        }
    }

    pub(super) fn scale_new(&mut self, size: i32) -> bool {
        self.new.is_some() && self.resize(Place::New, size, false)
    }

    pub(super) fn scale_old(&mut self, index: usize, size: i32) -> bool {
        self.resize(Place::Old(index), size, false)
    }

    /// Sets a size and notes the Deployment's. With `force` the notes are renewed also where the size stays.
    fn resize(&mut self, place: Place, size: i32, force: bool) -> bool {
        let (desired, maximum) = (self.replicas(), self.replicas() + self.max_surge());
        let set = match place {
            Place::Old(index) => &mut self.old[index],
            Place::New => self
                .new
                .as_mut()
                .expect("a place of the new set is only made where there is one"),
        };
        let held = set.replicas();
        if held == size && !force {
            return false;
        }
        set.set_replicas(size);
        revision::note_sizes(set.now.metadata.annotations.get_or_insert_default(), desired, maximum);
        if held == size {
            return false;
        }
        let direction = if held < size { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {held} to {size}", set.name());
        self.event("ScalingReplicaSet", message);
        true
    }
}

/// One of the ReplicaSets of a [`Work`].
#[derive(Clone, Copy)]
enum Place {
    Old(usize),
    New,
}

/// A number of pods, or a percentage of them; absent means 25 %.
pub(crate) fn resolve(value: Option<&IntOrString>, of: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse::<i64>().unwrap_or(0),
        None => 25,
    };
    let scaled = percent * i64::from(of);
    let pods = if round_up {
        (scaled + 99).div_euclid(100)
    } else {
        scaled.div_euclid(100)
    };
    i32::try_from(pods).unwrap_or(i32::MAX)
}
