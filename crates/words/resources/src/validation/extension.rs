//! Webhook configurations and admission policies (pkg/apis/admissionregistration/validation).
//!
//! Invariant: expressions are compiled with the names that their place knows (`expression`), those of before the update, too:
//! what else changed may have taken a name away.

use std::sync::LazyLock;

use trireme_cel::{Admission, Environment, Type, Wanted};

use super::container::label_key;
use super::errors::Errors;
use super::expression::Expressions;
use super::metadata;
use super::names;
use super::node::{Node, same};
use super::seen::Seen;
use super::show;
use super::url::Url;

/// What messages give.
static TEXT: LazyLock<Wanted> = LazyLock::new(|| Wanted::OneOf(vec![Type::String]));
/// What annotations give.
static ANNOTATION: LazyLock<Wanted> = LazyLock::new(|| Wanted::OneOf(vec![Type::String, Type::Null]));
/// What conditions and validations give.
static TRUTH: LazyLock<Wanted> = LazyLock::new(|| Wanted::OneOf(vec![Type::Bool]));

const FAILURE: &[&str] = &["Fail", "Ignore"];
const MATCH: &[&str] = &["Equivalent", "Exact"];
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const REINVOCATION: &[&str] = &["IfNeeded", "Never"];

/// Webhooks, mutating or validating; mistakes that all of `old` made stay allowed.
pub(super) fn webhooks(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let before = old.map(|old| old.at("webhooks").items()).unwrap_or_default();
    let quiet = before
        .iter()
        .all(|hook| matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun"));
    let known = before.iter().all(|hook| {
        let versions = hook.at("admissionReviewVersions").strings();
        versions.is_empty() || versions.iter().any(|version| REVIEWS.contains(version))
    });
    let mut unique: Vec<&str> = before.iter().map(|hook| hook.text("name")).collect();
    unique.sort_unstable();
    let unique = unique.windows(2).all(|pair| pair[0] != pair[1]);
    let hooks = root.at("webhooks").items();
    // Conditions that all stay as they were are not judged again.
    let stay = old.is_some()
        && hooks.len() == before.len()
        && hooks
            .iter()
            .zip(&before)
            .all(|(hook, old)| same(hook.at("matchConditions").value, old.at("matchConditions").value));
    let mut known_names = ConditionNames::new(false);
    let mut seen: Seen<&str> = Seen::default();
    for hook in hooks {
        webhook(errors, &hook, quiet);
        if !stay {
            match_conditions(errors, &hook.at("matchConditions"), &mut known_names);
        }
        review_versions(errors, &hook.at("admissionReviewVersions"), known);
        let name = hook.at("name");
        if unique && !name.is_empty() {
            if seen.contains(&name.str()) {
                errors.push(name.duplicate());
            } else {
                seen.push(name.str());
            }
        }
    }
}

/// The expressions of one object's conditions, and the names that they know.
struct ConditionNames {
    expressions: Expressions,
    params: bool,
    environment: Option<Environment>,
}

impl ConditionNames {
    /// For conditions that know `params`, or do not.
    fn new(params: bool) -> Self {
        Self {
            expressions: Expressions::new(),
            params,
            environment: None,
        }
    }
}

fn webhook(errors: &mut Errors, hook: &Node<'_>, quiet: bool) {
    let name = hook.at("name");
    let messages = names::subdomain(name.str());
    if name.is_empty() {
        errors.push(name.required(""));
    } else if !messages.is_empty() {
        errors.push(name.bad(messages.join(",")));
    } else if name.str().split('.').count() < 3 {
        errors.push(name.bad("should be a domain with at least three segments separated by dots"));
    }
    for rule in hook.at("rules").items() {
        self::rule(errors, &rule);
    }
    for (name, known) in [("failurePolicy", FAILURE), ("matchPolicy", MATCH)] {
        if hook.has(name) {
            hook.at(name).one_of(errors, known);
        }
    }
    let allowed: &[&str] = if quiet {
        &["None", "NoneOnDryRun"]
    } else {
        &["None", "NoneOnDryRun", "Some", "Unknown"]
    };
    let effects = hook.at("sideEffects");
    if effects.set() {
        effects.one_of(errors, allowed);
    } else {
        errors.push(effects.required(format!("must specify one of {}", allowed.join(", "))));
    }
    let timeout = hook.at("timeoutSeconds");
    if timeout.set() && !(1..=30).contains(&timeout.int()) {
        errors.push(timeout.bad_int("the timeout value must be between 1 and 30 seconds"));
    }
    for name in ["namespaceSelector", "objectSelector"] {
        metadata::selector(errors, &hook.at(name));
    }
    let reinvocation = hook.at("reinvocationPolicy");
    if reinvocation.set() {
        reinvocation.one_of(errors, REINVOCATION);
    }
    client(errors, &hook.at("clientConfig"));
}

/// Where a webhook listens.
pub(super) fn client(errors: &mut Errors, node: &Node<'_>) {
    let (url, service) = (node.at("url"), node.at("service"));
    if url.set() == service.set() {
        errors.push(node.required("exactly one of url or service is required"));
    } else if url.set() {
        self::url(errors, &url);
    } else {
        service_ref(errors, &service);
    }
}

fn url(errors: &mut Errors, node: &Node<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match Url::parse(node.str()) {
        Ok(url) => url,
        Err(problem) => {
            let text = show::quoted(node.str());
            return errors.push(node.required(format!("url must be a valid URL: parse {text}: {problem}{FORM}")));
        }
    };
    if url.scheme != "https" {
        errors.push(node.bad_text(&url.scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if url.host.is_empty() {
        errors.push(node.bad_text("", format!("host must be specified{FORM}")));
    }
    if let Some(user) = &url.user {
        errors.push(node.bad_text(user, "user information is not permitted in the URL"));
    }
    for (part, detail) in [
        (url.fragment.as_str(), "fragments are not permitted in the URL"),
        (url.query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(node.bad_text(part, detail));
        }
    }
}

fn service_ref(errors: &mut Errors, node: &Node<'_>) {
    // Upstream mixes the two up, so the order is name, namespace with each other's emptiness.
    for (named, tested) in [("name", "namespace"), ("namespace", "name")] {
        if node.text(tested).is_empty() {
            errors.push(node.at(named).required(""));
        }
    }
    let (port, path) = (node.at("port"), node.at("path"));
    let messages = names::port(port.int());
    if !messages.is_empty() {
        errors.push(port.bad_int(format!("port is not valid: {}", messages.join(", "))));
    }
    match path.str() {
        "" | "/" => return,
        "//" => {
            errors.push(path.bad("segment[0] may not be empty"));
            return;
        }
        _ => {}
    }
    if !path.str().starts_with('/') {
        errors.push(path.bad("must start with a '/'"));
    }
    // Go cuts off a byte, whatever it is part of.
    let rest = String::from_utf8_lossy(&path.str().as_bytes()[1..]);
    let rest = rest.as_ref();
    for (index, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.push(path.bad(format!("segment[{index}] may not be empty")));
        } else {
            let messages = names::subdomain(segment).into_iter();
            errors.extend(messages.map(|message| path.bad(format!("segment[{index}]: {message}"))));
        }
    }
}

/// Versions of the review that a webhook reads; `known` says whether one that is known must be among them.
pub(super) fn review_versions(errors: &mut Errors, node: &Node<'_>, known: bool) {
    let all = node.strings();
    if all.is_empty() {
        errors.push(node.required(format!("must specify one of {}", REVIEWS.join(", "))));
        return;
    }
    let mut seen: Seen<&str> = Seen::default();
    for version in node.items() {
        if seen.contains(&version.str()) {
            errors.push(version.bad("duplicate version"));
        } else {
            version.each(errors, names::label_1035(version.str()));
        }
        seen.push(version.str());
    }
    if known && !all.iter().any(|version| REVIEWS.contains(version)) {
        errors.push(node.invalid(format!("must include at least one of {}", REVIEWS.join(", "))));
    }
}

fn rule(errors: &mut Errors, node: &Node<'_>) {
    let alone = |errors: &mut Errors, name: &str, others: &str| {
        let list = node.at(name);
        if list.is_empty() {
            errors.push(list.required(""));
        }
        if list.len() > 1 && list.strings().contains(&"*") {
            errors.push(list.invalid(format!("if '*' is present, must not specify other {others}")));
        }
    };
    alone(errors, "operations", "operations");
    for operation in node.at("operations").items() {
        operation.one_of(errors, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
    }
    alone(errors, "apiGroups", "API groups");
    alone(errors, "apiVersions", "API versions");
    for version in node.at("apiVersions").items() {
        if version.is_empty() {
            errors.push(version.required(""));
        }
    }
    resources(errors, &node.at("resources"));
    let scope = node.at("scope");
    if scope.set() {
        scope.one_of(errors, &["*", "Cluster", "Namespaced"]);
    }
}

fn resources(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
    }
    let (mut whole, mut everywhere): (Seen<&str>, Seen<&str>) = (Seen::default(), Seen::default());
    let (mut double, mut single, mut plain) = (false, false, false);
    for item in node.items() {
        let text = item.str();
        if text.is_empty() {
            errors.push(item.required(""));
            continue;
        }
        double |= text == "*/*";
        single |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if whole.contains(&resource) {
            errors.push(item.bad(format!("if '{resource}/*' is present, must not specify {text}")));
        }
        if everywhere.contains(&sub) {
            errors.push(item.bad(format!("if '*/{sub}' is present, must not specify {text}")));
        }
        if sub == "*" {
            whole.push(resource);
        }
        if resource == "*" {
            everywhere.push(sub);
        }
    }
    if node.len() > 1 && double {
        errors.push(node.invalid("if '*/*' is present, must not specify other resources"));
    }
    if single && plain {
        errors.push(node.invalid("if '*' is present, must not specify other resources without subresources"));
    }
}

fn match_conditions(errors: &mut Errors, node: &Node<'_>, known: &mut ConditionNames) {
    let params = known.params;
    if node.len() > 64 {
        errors.push(node.too_many(node.len(), 64));
    }
    let mut seen: Seen<&str> = Seen::default();
    for condition in node.items() {
        let (name, expression) = (condition.at("name"), condition.at("expression"));
        if expression.str().trim().is_empty() {
            errors.push(expression.required(""));
        } else {
            let environment = known.environment.get_or_insert_with(|| {
                let names = Admission {
                    params,
                    authorizer: true,
                    patches: false,
                };
                names.environment()
            });
            known.expressions.check_trimmed(errors, &expression, environment, &TRUTH);
        }
        if name.is_empty() {
            errors.push(name.required(""));
            continue;
        }
        label_key(errors, &name);
        if seen.contains(&name.str()) {
            errors.push(name.duplicate());
        } else {
            seen.push(name.str());
        }
    }
}

/// The expressions of a policy, and the names that they know.
struct Policy {
    expressions: Expressions,
    /// With the authorizer; of mutating policies, with what makes patches, once variables are declared.
    environment: Environment,
}

impl Policy {
    fn check(&mut self, errors: &mut Errors, node: &Node<'_>) {
        self.expressions.check(errors, node, &self.environment, &TRUTH);
    }
}

/// What policies have in common; the names that their expressions know.
fn policy_head(errors: &mut Errors, spec: &Node<'_>, old: Option<&Node<'_>>, mutating: bool) -> Policy {
    spec.at("failurePolicy").given_one_of(errors, FAILURE);
    param_kind(errors, &spec.at("paramKind"));
    let constraints = spec.at("matchConstraints");
    if constraints.set() {
        match_resources(errors, &constraints);
        let rules = constraints.at("resourceRules");
        if rules.is_empty() {
            errors.push(rules.required(""));
        }
        let known = &["*", "CONNECT", "CREATE", "UPDATE"];
        for operation in rules.items().iter().flat_map(|rule| rule.at("operations").strings()) {
            if mutating && !known.contains(&operation) {
                errors.push(rules.child("operations").unsupported_as(show::quoted(operation), known));
            }
        }
    } else {
        errors.push(constraints.required(""));
    }
    let params = spec.at("paramKind").set();
    let mut conditions = ConditionNames::new(params);
    let stay = old.is_some_and(|old| {
        let stays = |name| same(spec.at(name).value, old.at("spec").at(name).value);
        stays("paramKind") && stays("matchConditions")
    });
    if !stay {
        match_conditions(errors, &spec.at("matchConditions"), &mut conditions);
    }
    let names = Admission {
        params,
        authorizer: true,
        patches: false,
    };
    let mut policy = Policy {
        expressions: conditions.expressions,
        environment: names.environment(),
    };
    variables(errors, &spec.at("variables"), mutating, &mut policy);
    policy
}

/// Variables, each of which knows those before it.
fn variables(errors: &mut Errors, node: &Node<'_>, mutating: bool, policy: &mut Policy) {
    if mutating || !node.is_empty() {
        policy.environment.declare_variables();
    }
    for variable in node.items() {
        let (name, expression) = (variable.at("name"), variable.at("expression"));
        if name.str().trim().is_empty() {
            errors.push(name.required("name is not specified"));
        } else if !is_identifier(name.str()) {
            errors.push(name.bad("must be a valid CEL identifier"));
        }
        if expression.str().trim().is_empty() {
            errors.push(expression.required("expression is not specified"));
        } else {
            let environment = &policy.environment;
            let gives = policy.expressions.check(errors, &expression, environment, &Wanted::Anything);
            policy.environment.declare_policy_variable(name.str(), gives.as_ref());
        }
    }
}

fn is_identifier(name: &str) -> bool {
    names::c_identifier(name).is_empty() && !trireme_cel::is_word_of_its_own(name)
}

fn param_kind(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    let (version, kind) = (node.at("apiVersion"), node.at("kind"));
    if version.is_empty() {
        errors.push(version.required(""));
    } else if version.str().matches('/').count() > 1 {
        errors.push(version.bad(format!("unexpected GroupVersion string: {}", version.str())));
    } else {
        let (group, number) = version.str().split_once('/').unwrap_or(("", version.str()));
        let messages = names::subdomain(group);
        if !group.is_empty() && !messages.is_empty() {
            errors.push(version.bad_text(group, messages.join(",")));
        }
        let messages = names::label_1035(number);
        if number.is_empty() {
            errors.push(version.bad("version must be specified"));
        } else if !messages.is_empty() {
            errors.push(version.bad_text(number, messages.join(",")));
        }
    }
    let messages = names::label_1035(&kind.str().to_lowercase());
    if kind.is_empty() {
        errors.push(kind.required(""));
    } else if !messages.is_empty() {
        errors.push(kind.bad(format!(
            "may have mixed case, but should otherwise match: {}",
            messages.join(",")
        )));
    }
}

fn match_resources(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    node.at("matchPolicy").given_one_of(errors, MATCH);
    for name in ["namespaceSelector", "objectSelector"] {
        let selector = node.at(name);
        if selector.set() {
            metadata::selector(errors, &selector);
        } else {
            errors.push(selector.required(""));
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in node.at(list).items() {
            let mut seen: Seen<&str> = Seen::default();
            for name in rule.at("resourceNames").items() {
                name.each(errors, names::path_segment(name.str()));
                if seen.contains(&name.str()) {
                    errors.push(name.duplicate());
                } else {
                    seen.push(name.str());
                }
            }
            self::rule(errors, &rule);
        }
    }
}

/// A policy that validates.
pub(super) fn validating_policy(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    const ONE: &str = "validations or auditAnnotations must contain at least one item";
    let spec = root.at("spec");
    let mut policy = policy_head(errors, &spec, old, false);
    // Messages do not know the authorizer.
    let mut message_names = policy.environment.clone();
    message_names.forget_authorizer();
    let (validations, annotations) = (spec.at("validations"), spec.at("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        errors.extend([validations.required(ONE), annotations.required(ONE)]);
        return;
    }
    for validation in validations.items() {
        let expression = validation.at("expression");
        if expression.str().trim().is_empty() {
            errors.push(expression.required("expression is not specified"));
        } else {
            policy.check(errors, &expression);
        }
        for name in ["messageExpression", "message"] {
            let text = validation.at(name);
            if !text.is_empty() && text.str().trim().is_empty() {
                errors.push(text.bad("must be non-empty if specified"));
            } else if name == "messageExpression" && !text.is_empty() {
                policy.expressions.check(errors, &text, &message_names, &TEXT);
            } else if name == "message" && text.str().trim().contains(['\n', '\r']) {
                errors.push(text.bad("must not contain line breaks"));
            }
        }
        let reason = validation.at("reason");
        if reason.set() {
            reason.one_of(errors, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
        }
    }
    if annotations.len() > 20 {
        let items: Vec<String> = annotations
            .items()
            .iter()
            .map(|item| show::internal("api/admissionregistration/v1", "AuditAnnotation", item.value))
            .collect();
        errors.push(annotations.invalid_as(
            format!("[{}]", items.join(",")),
            "must not have more than 20 auditAnnotations",
        ));
    }
    let name = root.at("metadata").text("name");
    let mut seen: Seen<&str> = Seen::default();
    for annotation in annotations.items() {
        let (key, value) = (annotation.at("key"), annotation.at("valueExpression"));
        let full = if name.is_empty() {
            key.str().to_owned()
        } else {
            format!("{name}/{}", key.str())
        };
        metadata::label_name(errors, &key, &full);
        if value.str().trim().is_empty() {
            errors.push(value.required("valueExpression is not specified"));
        } else if value.str().trim().len() > 5 * 1024 {
            errors.push(value.required("must not exceed 5120 bytes in length"));
        } else {
            let (text, told) = (value.str().trim(), value.str());
            policy
                .expressions
                .check_as(errors, &value, text, told, &policy.environment, &ANNOTATION);
        }
        if seen.contains(&key.str()) {
            errors.push(key.duplicate());
        }
        seen.push(key.str());
    }
}

/// A policy that mutates.
pub(super) fn mutating_policy(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let spec = root.at("spec");
    let mut policy = policy_head(errors, &spec, old, true);
    policy.environment.allow_patches();
    let mutations = spec.at("mutations");
    if mutations.is_empty() {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        let kind = mutation.at("patchType");
        let (wanted, other) = match kind.str() {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            _ => {
                kind.need_one_of(errors, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let patch = mutation.at(wanted);
        if !patch.set() {
            errors.push(patch.required(format!("must be specified when patchType is {}", kind.str())));
        } else if patch.text("expression").trim().is_empty() {
            errors.push(patch.at("expression").required(""));
        } else {
            let expression = patch.at("expression");
            let wanted = match wanted {
                "jsonPatch" => Wanted::json_patch(),
                _ => Wanted::applied_object(),
            };
            policy
                .expressions
                .check_trimmed(errors, &expression, &policy.environment, &wanted);
        }
        if mutation.has(other) {
            let detail = format!("must not be specified when patchType is {}", kind.str());
            errors.push(mutation.at(other).bad_text(&format!("{{{other}}}"), detail));
        }
    }
    spec.at("reinvocationPolicy").need_one_of(errors, REINVOCATION);
}

fn binding(errors: &mut Errors, spec: &Node<'_>) {
    let name = spec.at("policyName");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        name.each(errors, names::subdomain(name.str()));
    }
    let param = spec.at("paramRef");
    if param.set() {
        const EXCLUSIVE: &str = "name and selector are mutually exclusive";
        let (name, selector, action) = (param.at("name"), param.at("selector"), param.at("parameterNotFoundAction"));
        if !name.is_empty() {
            name.each(errors, names::path_segment(name.str()));
            if selector.set() {
                errors.push(name.forbidden(EXCLUSIVE));
            }
        }
        if selector.set() {
            metadata::selector(errors, &selector);
            if !name.is_empty() {
                errors.push(selector.forbidden(EXCLUSIVE));
            }
        }
        if name.is_empty() && !selector.set() {
            errors.push(param.required("one of name or selector must be specified"));
        }
        action.need_one_of(errors, &["Deny", "Allow"]);
    }
    match_resources(errors, &spec.at("matchResources"));
}

/// Where a validating policy applies.
pub(super) fn validating_binding(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    binding(errors, &spec);
    let actions = spec.at("validationActions");
    let all = actions.strings();
    let mut seen: Seen<&str> = Seen::default();
    for action in actions.items() {
        action.one_of(errors, &["Audit", "Deny", "Warn"]);
        if seen.contains(&action.str()) {
            errors.push(action.duplicate());
        }
        seen.push(action.str());
    }
    if all.contains(&"Deny") && all.contains(&"Warn") {
        errors.push(actions.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"));
    }
    if all.is_empty() {
        errors.push(actions.required("at least one validation action is required"));
    }
}

/// Where a mutating policy applies.
pub(super) fn mutating_binding(errors: &mut Errors, root: &Node<'_>) {
    binding(errors, &root.at("spec"));
}
