//! The quality-of-service class of a pod.
//!
//! Invariant: only cpu and memory count; zero quantities count as absent.

use serde_json::Value;
use trireme_api::path;
use trireme_api::quantity::Quantity;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the pod's spec.
#[must_use]
pub fn pod_qos(pod: &Value) -> &'static str {
    let resources: Vec<Option<&Value>> = match path::get(pod, &["spec", "resources"]) {
        Some(resources)
            if [resources.get("requests"), resources.get("limits")]
                .iter()
                .any(Option::is_some) =>
        {
            vec![Some(resources)]
        }
        _ => {
            let of = |name| {
                path::list(pod, &["spec", name])
                    .iter()
                    .map(|container| container.get("resources"))
            };
            of("initContainers").chain(of("containers")).collect()
        }
    };
    let (mut any, mut guaranteed) = (false, !resources.is_empty());
    for resources in resources {
        for name in ["cpu", "memory"] {
            let request = amount(resources, "requests", name);
            let limit = amount(resources, "limits", name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(resources: Option<&Value>, list: &str, name: &str) -> Option<Quantity> {
    let text = path::str(resources?, &[list, name]);
    Quantity::parse(text).ok().filter(|amount| !amount.is_zero())
}
