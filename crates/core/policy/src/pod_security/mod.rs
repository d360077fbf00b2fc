//! The pod security standards: which pods a namespace's labels let in.
//!
//! Invariant: pure; a standard is a level and a version, and the same standard always says the same about a pod. It will
//! not decide about whole requests: `admission::pod_security` does.

mod checks;
pub mod isolation;

use serde_json::Value;

use isolation::{ENFORCED, Isolation};

/// Newest minor version in which a check changed; later ones and `latest` mean it.
const NEWEST: u32 = 35;

/// How much a pod may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to break out.
    Baseline,
    /// Only what is hardened.
    Restricted,
}

/// A level as some version of Kubernetes has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standard {
    /// Level.
    pub level: Level,
    /// Minor version; `None` is the latest.
    pub minor: Option<u32>,
}

/// The three standards of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is refused.
    pub enforce: Standard,
    /// What is noted for the auditor.
    pub audit: Standard,
    /// What the client is warned of.
    pub warn: Standard,
}

/// A label of a namespace that says nothing sensible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLabel {
    /// Label.
    pub label: String,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub problem: &'static str,
}

/// Why a pod does not meet a standard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In two words.
    pub reason: &'static str,
    /// Where.
    pub detail: String,
}

impl Standard {
    const OPEN: Self = Self {
        level: Level::Privileged,
        minor: None,
    };

    /// What is wrong with a pod of that metadata and spec, in upstream's order.
    #[must_use]
    pub fn violations(&self, metadata: &Value, spec: &Value) -> Vec<Violation> {
        self.violations_where(ENFORCED, metadata, spec)
    }

    fn violations_where(&self, enforced: Isolation, metadata: &Value, spec: &Value) -> Vec<Violation> {
        let minor = self.minor.unwrap_or(NEWEST).min(NEWEST);
        let pod = checks::Pod {
            metadata,
            spec,
            enforced,
        };
        checks::TABLE
            .iter()
            .filter(|check| check.applies(self.level, minor))
            .filter_map(|check| (check.run)(&pod, minor))
            .collect()
    }
}

impl std::fmt::Display for Standard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(out, "{level}:v1.{minor}"),
            None => write!(out, "{level}:latest"),
        }
    }
}

/// The reasons alone.
#[must_use]
pub fn reasons(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|violation| violation.reason)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The reasons with where they are.
#[must_use]
pub fn details(violations: &[Violation]) -> String {
    let shown = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.to_owned(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// What a namespace's labels ask for. A level that cannot be read is the strictest where it refuses, and nothing
/// where it only tells.
#[must_use]
pub fn policy(namespace: &Value) -> (Policy, Vec<BadLabel>) {
    let labels = &namespace["metadata"]["labels"];
    let mut bad = Vec::new();
    let mut read = |mode: &str, on_error: Level| {
        let mut standard = Standard::OPEN;
        let (mut good, mut versioned) = (None, false);
        let label = format!("pod-security.kubernetes.io/{mode}");
        if let Some(value) = labels[&label].as_str() {
            good = Some(parse_level(value));
            standard.level = parse_level(value).unwrap_or(on_error);
            if good == Some(None) {
                let problem = "must be one of privileged, baseline, restricted";
                bad.push(BadLabel {
                    label,
                    value: value.to_owned(),
                    problem,
                });
            }
        }
        let label = format!("pod-security.kubernetes.io/{mode}-version");
        if let Some(value) = labels[&label].as_str() {
            versioned = true;
            let version = parse_version(value);
            standard.minor = version.flatten();
            if version.is_none() {
                let problem = "must be \"latest\" or \"v1.x\"";
                bad.push(BadLabel {
                    label,
                    value: value.to_owned(),
                    problem,
                });
            }
        }
        (standard, good, versioned)
    };
    let (enforce, level, _) = read("enforce", Level::Restricted);
    let (audit, ..) = read("audit", Level::Privileged);
    let (mut warn, warned, versioned) = read("warn", Level::Privileged);
    if warned.is_none() && matches!(level, Some(Some(_))) && enforce.level > warn.level {
        warn.level = enforce.level;
        if !versioned {
            warn.minor = enforce.minor;
        }
    }
    (Policy { enforce, audit, warn }, bad)
}

fn parse_level(text: &str) -> Option<Level> {
    Some(match text {
        "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        "restricted" => Level::Restricted,
        _ => return None,
    })
}

/// `latest` is `Some(None)`.
fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { minor.parse().ok().map(Some) } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said where everything that pods ask for is enforced, as upstream has it.
    fn said(level: Level, minor: Option<u32>, spec: &Value) -> String {
        let enforced = Isolation {
            host_users: true,
            os: true,
        };
        said_where(enforced, level, minor, spec)
    }

    fn said_where(enforced: Isolation, level: Level, minor: Option<u32>, spec: &Value) -> String {
        details(&Standard { level, minor }.violations_where(enforced, &json!({"annotations": {}}), spec))
    }

    #[test]
    fn a_field_that_nobody_enforces_relaxes_nothing() {
        let root = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsUser": 0,
            "procMount": "Unmasked", "seccompProfile": {"type": "RuntimeDefault"}});
        let userns = json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": root}]});
        let windows =
            json!({"os": {"name": "windows"}, "containers": [{"name": "a", "securityContext": {"runAsNonRoot": true}}]});
        for (enforced, spec, level, reasons) in [
            (true, &userns, Level::Baseline, vec![]),
            (false, &userns, Level::Baseline, vec!["procMount"]),
            (true, &userns, Level::Restricted, vec!["procMount"]),
            (
                false,
                &userns,
                Level::Restricted,
                vec!["procMount", "runAsNonRoot != true", "runAsUser=0"],
            ),
            (true, &windows, Level::Restricted, vec![]),
            (
                false,
                &windows,
                Level::Restricted,
                vec![
                    "allowPrivilegeEscalation != false",
                    "unrestricted capabilities",
                    "seccompProfile",
                ],
            ),
        ] {
            let isolation = Isolation {
                host_users: enforced,
                os: enforced,
            };
            let standard = Standard { level, minor: None };
            let found = standard.violations_where(isolation, &json!({}), spec);
            let found: Vec<&str> = found.iter().map(|violation| violation.reason).collect();
            assert_eq!(found, reasons, "{enforced} {level:?} {spec}");
        }
        // The switch is what admission asks.
        let standard = Standard {
            level: Level::Restricted,
            minor: None,
        };
        let asked = standard.violations(&json!({}), &userns);
        assert_eq!(asked, standard.violations_where(ENFORCED, &json!({}), &userns));
    }

    #[test]
    fn each_standard_says_what_is_wrong() {
        let hardened = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"}});
        let pod = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
        let host = json!({"hostPID": true, "hostNetwork": true, "containers": [{"name": "a"}]});
        let path = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "securityContext": hardened}]});
        let ports =
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 9}]}]});
        let selinux = json!({"securityContext": {"seLinuxOptions": {"type": "x", "role": "r"}}, "containers": []});
        let userns = json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]});
        let (base, hard) = (Level::Baseline, Level::Restricted);
        for (level, minor, spec, wanted) in [
            (Level::Privileged, None, host.clone(), ""),
            (base, None, host, "host namespaces (hostNetwork=true, hostPID=true)"),
            (base, None, path.clone(), "hostPath volumes (volume \"v\")"),
            (
                hard,
                None,
                path,
                "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
            ),
            (base, None, ports, "hostPort (containers \"a\", \"b\" use hostPorts 80, 9)"),
            (
                base,
                None,
                selinux,
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; role may not be set)",
            ),
            (
                base,
                Some(34),
                userns.clone(),
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (base, None, userns, ""),
            (hard, None, pod(hardened), ""),
            (
                hard,
                Some(7),
                pod(json!({})),
                "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
            ),
            (
                hard,
                Some(99),
                pod(
                    json!({"runAsUser": 0, "runAsNonRoot": false, "capabilities": {"drop": ["ALL"], "add": ["KILL"]},
                    "allowPrivilegeEscalation": false, "seccompProfile": {"type": "Unconfined"}}),
                ),
                "unrestricted capabilities (container \"a\" must not include \"KILL\" in securityContext.capabilities.add), \
                 runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false), \
                 runAsUser=0 (container \"a\" must not set runAsUser=0), \
                 seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
        ] {
            assert_eq!(said(level, minor, &spec), wanted, "{spec}");
        }
    }

    #[test]
    fn warnings_follow_what_is_enforced_and_bad_labels_are_told() {
        let of = |labels: Value| policy(&json!({"metadata": {"labels": labels}}));
        let (found, bad) =
            of(json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"}));
        assert_eq!(
            (found.enforce.to_string(), found.warn),
            ("baseline:v1.30".to_owned(), found.enforce)
        );
        assert!(bad.is_empty() && found.audit == Standard::OPEN);
        let (found, bad) =
            of(json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/warn-version": "v2.1"}));
        assert_eq!(
            (found.enforce.level, found.warn.level, bad.len()),
            (Level::Restricted, Level::Privileged, 2)
        );
    }
}
