//! How fast and how willingly sizes change: stabilisation windows, policies (steps per period), bounds
//! (normalizeDesiredReplicas… of pkg/controller/podautoscaler/horizontal.go).

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerSpec};
use trireme_api::quantity::Quantity;

use crate::replicas::Tolerances;

/// Without a behaviour, sizes fall only to what was the highest recommendation of so many seconds.
const DOWNSCALE_STABILIZATION_SECONDS: i64 = 300;
/// Without a behaviour, one step at most doubles the size, or reaches this.
const SCALE_UP_LIMIT_MINIMUM: i32 = 4;
/// Dead band where an autoscaler states none.
const TOLERANCE: f64 = 0.1;
/// Longest period of a policy; older changes are forgotten.
const PERIOD_SECONDS_MAX: i64 = 1800;
/// Longest stabilisation window.
const WINDOW_SECONDS_MAX: i64 = 3600;

/// What one autoscaler remembers between looks. A new leader begins with nothing, like upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
    /// The change that the last look decided on: when, from and to which size. It counts once it is seen.
    decided: Option<(Timestamp, i32, i32)>,
}

/// A size within all limits, and the conditions that tell of the limits.
pub(crate) struct Normal {
    pub(crate) desired: i32,
    pub(crate) conditions: Vec<(&'static str, &'static str, &'static str, &'static str)>,
}

pub(crate) fn tolerances(spec: Option<&HorizontalPodAutoscalerSpec>) -> Tolerances {
    let behavior = spec.and_then(|spec| spec.behavior.as_ref());
    let of = |rules: Option<&HPAScalingRules>| {
        let text = rules.and_then(|rules| rules.tolerance.as_ref());
        text.and_then(|text| Quantity::parse(&text.0).ok())
            .map_or(TOLERANCE, |tolerance| tolerance.as_f64())
    };
    Tolerances {
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
    }
}

fn seconds_ago(then: Timestamp, now: Timestamp) -> i64 {
    now.as_second() - then.as_second()
}

impl Memory {
    /// The first look takes the present size for a recommendation, so that a restart of the controller shrinks nothing.
    pub(crate) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
        if let Some((then, from, to)) = self.decided.take()
            && current == to
        {
            let list = if to > from { &mut self.ups } else { &mut self.downs };
            list.retain(|(then, _)| seconds_ago(*then, now) <= PERIOD_SECONDS_MAX);
            list.push((then, (to - from).abs()));
        }
    }

    /// A change of size was decided on; whether it is written, the next look sees.
    pub(crate) fn decide(&mut self, from: i32, to: i32, now: Timestamp) {
        self.decided = Some((now, from, to));
    }

    pub(crate) fn normalize(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        proposed: i32,
        now: Timestamp,
    ) -> Normal {
        let empty = HPAScalingRules::default();
        let behavior = spec.behavior.as_ref();
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref()).unwrap_or(&empty);
        let down = behavior.and_then(|behavior| behavior.scale_down.as_ref()).unwrap_or(&empty);
        let up_window = up.stabilization_window_seconds.map_or(0, i64::from);
        let down_window = down
            .stabilization_window_seconds
            .map_or(DOWNSCALE_STABILIZATION_SECONDS, i64::from);
        let mut conditions = Vec::new();

        let stable = self.stabilize(current, proposed, up_window, down_window, now);
        conditions.push(if stable == proposed {
            (
                "AbleToScale",
                "True",
                "ReadyForNewScale",
                "recommended size matches current size",
            )
        } else if proposed >= current {
            let message = "recent recommendations were lower than current one, applying the lowest recent recommendation";
            ("AbleToScale", "True", "ScaleUpStabilized", message)
        } else {
            let message = "recent recommendations were higher than current one, applying the highest recent recommendation";
            ("AbleToScale", "True", "ScaleDownStabilized", message)
        });
        let limits = Limits {
            minimum: spec.min_replicas.unwrap_or(1),
            maximum: spec.max_replicas,
            up,
            down,
            has_behavior: behavior.is_some(),
        };
        let (desired, reason, message) = self.limit(current, stable, &limits, now);
        conditions.push((
            "ScalingLimited",
            if desired == stable { "False" } else { "True" },
            reason,
            message,
        ));
        Normal { desired, conditions }
    }

    fn stabilize(&mut self, current: i32, proposed: i32, up_window: i64, down_window: i64, now: Timestamp) -> i32 {
        let within = |window: i64| {
            let recent = self
                .recommendations
                .iter()
                .filter(move |(then, _)| seconds_ago(*then, now) < window);
            recent.map(|(_, recommendation)| *recommendation)
        };
        let lowest = within(up_window).fold(proposed, i32::min);
        let highest = within(down_window).fold(proposed, i32::max);
        self.recommendations
            .retain(|(then, _)| seconds_ago(*then, now) < up_window.max(down_window).min(WINDOW_SECONDS_MAX));
        self.recommendations.push((now, proposed));
        current.max(lowest).min(highest)
    }

    fn limit(&self, current: i32, stable: i32, limits: &Limits<'_>, now: Timestamp) -> (i32, &'static str, &'static str) {
        if stable > current {
            let rate = self.up_limit(current, limits, now).max(current);
            let (most, reason, message) = if limits.maximum > rate {
                (
                    rate,
                    "ScaleUpLimit",
                    "the desired replica count is increasing faster than the maximum scale rate",
                )
            } else {
                (
                    limits.maximum,
                    "TooManyReplicas",
                    "the desired replica count is more than the maximum replica count",
                )
            };
            if stable > most {
                return (most, reason, message);
            }
        } else if stable < current {
            let rate = self.down_limit(current, limits, now).min(current);
            let (least, reason, message) = if limits.minimum < rate {
                (
                    rate,
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                )
            } else {
                (
                    limits.minimum,
                    "TooFewReplicas",
                    "the desired replica count is less than the minimum replica count",
                )
            };
            if stable < least {
                return (least, reason, message);
            }
        } else if stable < limits.minimum {
            return (
                limits.minimum,
                "TooFewReplicas",
                "the desired replica count is less than the minimum replica count",
            );
        } else if stable > limits.maximum {
            return (
                limits.maximum,
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            );
        }
        (
            stable,
            "DesiredWithinRange",
            "the desired count is within the acceptable range",
        )
    }

    fn up_limit(&self, current: i32, limits: &Limits<'_>, now: Timestamp) -> i32 {
        if !limits.has_behavior {
            return current.saturating_mul(2).max(SCALE_UP_LIMIT_MINIMUM);
        }
        let policies = policies(limits.up, &[("Pods", 4), ("Percent", 100)]);
        let reached = policies.iter().map(|policy| {
            let start = self.at_start_of(policy.period_seconds, current, now);
            match policy.kind.as_str() {
                "Pods" => start.saturating_add(policy.value),
                _ => percent(start, 100 + i64::from(policy.value), true),
            }
        });
        select(limits.up, reached.collect(), current, true)
    }

    fn down_limit(&self, current: i32, limits: &Limits<'_>, now: Timestamp) -> i32 {
        if !limits.has_behavior {
            return 0;
        }
        let policies = policies(limits.down, &[("Percent", 100)]);
        let reached = policies.iter().map(|policy| {
            let start = self.at_start_of(policy.period_seconds, current, now);
            match policy.kind.as_str() {
                "Pods" => start - policy.value,
                _ => percent(start, 100 - i64::from(policy.value), false),
            }
        });
        select(limits.down, reached.collect(), current, false)
    }

    /// The size when the period began.
    fn at_start_of(&self, period_seconds: i64, current: i32, now: Timestamp) -> i32 {
        let within = |list: &[(Timestamp, i32)]| -> i32 {
            list.iter()
                .filter(|(then, _)| seconds_ago(*then, now) < period_seconds)
                .map(|(_, change)| *change)
                .sum()
        };
        current - within(&self.ups) + within(&self.downs)
    }
}

struct Limits<'a> {
    minimum: i32,
    maximum: i32,
    up: &'a HPAScalingRules,
    down: &'a HPAScalingRules,
    has_behavior: bool,
}

struct Policy {
    kind: String,
    value: i32,
    period_seconds: i64,
}

fn policies(rules: &HPAScalingRules, defaults: &[(&str, i32)]) -> Vec<Policy> {
    match &rules.policies {
        Some(policies) if !policies.is_empty() => policies
            .iter()
            .map(|policy| Policy {
                kind: policy.type_.clone(),
                value: policy.value,
                period_seconds: i64::from(policy.period_seconds),
            })
            .collect(),
        _ => defaults
            .iter()
            .map(|(kind, value)| Policy {
                kind: (*kind).into(),
                value: *value,
                period_seconds: 15,
            })
            .collect(),
    }
}

/// Picks among what the policies allow: the largest change, the smallest, or none.
fn select(rules: &HPAScalingRules, reached: Vec<i32>, current: i32, up: bool) -> i32 {
    let farthest = |up: bool| {
        if up { reached.iter().max() } else { reached.iter().min() }
            .copied()
            .unwrap_or(current)
    };
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => farthest(!up),
        _ => farthest(up),
    }
}

fn percent(of: i32, percent: i64, round_up: bool) -> i32 {
    let scaled = i64::from(of) * percent;
    let result = if round_up {
        (scaled + 99).div_euclid(100)
    } else {
        scaled / 100
    };
    i32::try_from(result).unwrap_or(i32::MAX)
}
