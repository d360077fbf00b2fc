//! Options of requests, read from query parameters and bodies, and checked with upstream's texts.
//!
//! Invariant: all errors of one options object come in one answer.

use serde_json::Value;
use trireme_api::Status;
use trireme_api::field::{FieldError, FieldErrorType};

use super::WriteOptions;
use super::rules::FieldValidation;
use crate::http::query::Query;

/// Longest field manager name in bytes.
const MANAGER_BYTES_MAX: usize = 128;

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `orphanDependents`.
    pub orphan_dependents: Option<bool>,
    /// `propagationPolicy`.
    pub propagation: Option<String>,
    /// `dryRun=All`.
    pub dry_run: bool,
}

pub(crate) fn error(kind: FieldErrorType, path: &str, value: impl Into<String>, detail: impl Into<String>) -> FieldError {
    FieldError {
        kind,
        path: path.to_owned(),
        value: value.into(),
        detail: detail.into(),
    }
}

/// Go's `%q`-like quoting, as field errors show strings.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn invalid(kind: &str, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("meta.k8s.io", kind, "", errors))
    }
}

fn check_dry_run(values: &[&str], errors: &mut Vec<FieldError>) -> bool {
    if values.is_empty() {
        return false;
    }
    if values.iter().any(|value| *value != "All") {
        let shown = values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(",");
        errors.push(error(
            FieldErrorType::NotSupported,
            "dryRun",
            format!("[{shown}]"),
            "supported values: \"All\"",
        ));
    }
    true
}

fn check_manager(manager: &str, errors: &mut Vec<FieldError>) {
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(error(
            FieldErrorType::TooLong,
            "fieldManager",
            "",
            format!("may not be more than {MANAGER_BYTES_MAX} bytes"),
        ));
    }
    if let Some((at, bad)) = manager.chars().enumerate().find(|(_, character)| character.is_control()) {
        errors.push(error(
            FieldErrorType::Invalid,
            "fieldManager",
            quoted(manager),
            format!("invalid character {bad:?} (at position {at})"),
        ));
    }
}

/// Options of create, update and patch. `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`; `apply` says
/// whether the patch is a server-side apply.
///
/// # Errors
/// 422 with all that is wrong.
pub fn write(query: &Query, kind: &str, apply: Option<bool>, user_agent: Option<&str>) -> Result<WriteOptions, Status> {
    let mut errors = Vec::new();
    let manager = query.get("fieldManager").unwrap_or_default();
    let force = query.boolean("force");
    match apply {
        Some(true) if manager.is_empty() => {
            errors.push(error(
                FieldErrorType::Required,
                "fieldManager",
                "",
                "is required for apply patch",
            ));
        }
        Some(false) if force.is_some() => errors.push(error(
            FieldErrorType::Forbidden,
            "force",
            "",
            "may not be specified for non-apply patch",
        )),
        _ => {}
    }
    check_manager(manager, &mut errors);
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    let dry_run = check_dry_run(&dry_run, &mut errors);
    let validation = match query.get("fieldValidation").unwrap_or_default() {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            errors.push(error(
                FieldErrorType::NotSupported,
                "fieldValidation",
                quoted(other),
                "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ));
            FieldValidation::Warn
        }
    };
    invalid(kind, &errors)?;
    Ok(WriteOptions {
        manager: manager_of(manager, user_agent),
        sent_manager: (!manager.is_empty()).then(|| manager.to_owned()),
        sent_validation: match query.get("fieldValidation").unwrap_or_default() {
            "" => None,
            _ => Some(validation.name()),
        },
        force: force.unwrap_or(false),
        dry_run,
        validation,
        ..WriteOptions::default()
    })
}

/// The field manager: the one named, or what comes before the first slash of the user agent.
#[must_use]
pub fn manager_of(named: &str, user_agent: Option<&str>) -> String {
    if !named.is_empty() {
        return named.to_owned();
    }
    let agent = user_agent.unwrap_or_default().split('/').next().unwrap_or_default();
    let mut manager: String = agent.chars().filter(|character| !character.is_control()).collect();
    while manager.len() > MANAGER_BYTES_MAX {
        manager.pop();
    }
    if manager.is_empty() {
        manager.push_str("unknown");
    }
    manager
}

/// `DeleteOptions` out of the body (when there is one) or else the query.
///
/// # Errors
/// 422 with all that is wrong.
pub fn delete(query: &Query, body: Option<&Value>) -> Result<DeleteOptions, Status> {
    let mut errors = Vec::new();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let options = if let Some(body) = body {
        let dry_run: Vec<&str> = body["dryRun"]
            .as_array()
            .map(|values| values.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        DeleteOptions {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            orphan_dependents: body["orphanDependents"].as_bool(),
            propagation: text(&body["propagationPolicy"]),
            dry_run: check_dry_run(&dry_run, &mut errors),
        }
    } else {
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        let grace_period_seconds = match query.text("gracePeriodSeconds") {
            None => None,
            Some(value) => Some(integer(value)?),
        };
        DeleteOptions {
            grace_period_seconds,
            uid: query.text("uid").map(str::to_owned),
            resource_version: query.text("resourceVersion").map(str::to_owned),
            orphan_dependents: query.boolean("orphanDependents"),
            propagation: query.text("propagationPolicy").map(str::to_owned),
            dry_run: check_dry_run(&dry_run, &mut errors),
        }
    };
    if let Some(policy) = &options.propagation {
        if options.orphan_dependents.is_some() {
            errors.push(error(
                FieldErrorType::Invalid,
                "propagationPolicy",
                quoted(policy),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if !["Foreground", "Background", "Orphan", ""].contains(&policy.as_str()) {
            errors.push(error(
                FieldErrorType::NotSupported,
                "propagationPolicy",
                quoted(policy),
                "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            ));
        }
    }
    invalid("DeleteOptions", &errors)?;
    Ok(options)
}

/// An integer as Go parses it.
///
/// # Errors
/// 400 with Go's text.
pub fn integer(text: &str) -> Result<i64, Status> {
    text.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

/// Options of list and watch, checked but not yet parsed where a verb parses them differently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `labelSelector`.
    pub label_selector: String,
    /// `fieldSelector`.
    pub field_selector: String,
    /// `limit`.
    pub limit: i64,
    /// `continue`.
    pub continuation: String,
    /// `resourceVersion`.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: String,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<i64>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// Whether it is a watch.
    pub watch: bool,
}

/// Reads and checks `ListOptions`.
///
/// # Errors
/// 400 for numbers, 422 for combinations.
pub fn list(query: &Query, watch: bool) -> Result<ListOptions, Status> {
    let number = |name: &str| query.text(name).map(integer).transpose();
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let mut options = ListOptions {
        label_selector: text("labelSelector"),
        field_selector: text("fieldSelector"),
        limit: number("limit")?.unwrap_or(0),
        continuation: text("continue"),
        resource_version: text("resourceVersion"),
        version_match: text("resourceVersionMatch"),
        timeout_seconds: number("timeoutSeconds")?,
        bookmarks: query.flag("allowWatchBookmarks"),
        send_initial_events: query.boolean("sendInitialEvents"),
        watch,
    };
    if watch
        && options.send_initial_events.is_none()
        && options.version_match.is_empty()
        && matches!(options.resource_version.as_str(), "" | "0")
    {
        // A watch that begins with the present state tells where that ends, as if it had been asked to.
        options.send_initial_events = Some(true);
        options.version_match = "NotOlderThan".to_owned();
    }
    check_list(&options)?;
    Ok(options)
}

fn check_list(options: &ListOptions) -> Result<(), Status> {
    let path = "resourceVersionMatch";
    let forbidden = |detail: &str| error(FieldErrorType::Forbidden, path, "", detail);
    let matching = options.version_match.as_str();
    let mut errors = Vec::new();
    if options.watch {
        if options.send_initial_events.is_some() {
            if matching != "NotOlderThan" {
                errors.push(forbidden(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !matching.is_empty() && matching != "NotOlderThan" {
                errors.push(error(
                    FieldErrorType::NotSupported,
                    path,
                    quoted(matching),
                    "supported values: \"NotOlderThan\"",
                ));
            }
        } else if !matching.is_empty() {
            errors.push(forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if !matching.is_empty() && !options.continuation.is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        return invalid("ListOptions", &errors);
    }
    if options.send_initial_events.is_some() {
        errors.push(error(
            FieldErrorType::Forbidden,
            "sendInitialEvents",
            "",
            "sendInitialEvents is forbidden for list",
        ));
    }
    if !matching.is_empty() {
        if options.resource_version.is_empty() {
            errors.push(forbidden(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !options.continuation.is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        if matching != "Exact" && matching != "NotOlderThan" {
            errors.push(error(
                FieldErrorType::NotSupported,
                path,
                quoted(matching),
                "supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ));
        }
        if matching == "Exact" && options.resource_version == "0" {
            errors.push(forbidden(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    invalid("ListOptions", &errors)
}

/// The `resourceVersion` of a request as a number, with Go's text where it is none.
///
/// # Errors
/// The text, for the verb to wrap.
pub fn revision(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse::<u64>().map_err(|error| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_option_has_upstreams_text() {
        let message = |result: Result<(), Status>| result.unwrap_err().message;
        let query = |text: &str| Query::parse(Some(text));
        let write_error = |text: &str, kind: &str, apply| message(write(&query(text), kind, apply, None).map(drop));
        assert_eq!(
            write_error("dryRun=Some", "CreateOptions", None),
            r#"CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All""#
        );
        assert_eq!(
            write_error("force=true", "PatchOptions", Some(false)),
            r#"PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch"#
        );
        assert_eq!(
            write_error("", "PatchOptions", Some(true)),
            r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#
        );
        assert_eq!(
            message(list(&query("limit=many"), false).map(drop)),
            r#"strconv.ParseInt: parsing "many": invalid syntax"#
        );
        assert_eq!(
            message(list(&query("resourceVersionMatch=Exact&continue=x"), false).map(drop)),
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden \
             unless resourceVersion is provided, resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when \
             continue is provided]"
        );
        assert_eq!(
            message(delete(&query("propagationPolicy=Sometimes"), None).map(drop)),
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sometimes\": supported \
             values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        );
    }

    #[test]
    fn the_manager_defaults_to_the_user_agents_first_word() {
        assert_eq!(manager_of("", Some("kubectl/v1.36.0 (linux)")), "kubectl");
        assert_eq!(manager_of("me", Some("kubectl")), "me");
        assert_eq!(manager_of("", None), "unknown");
    }
}
