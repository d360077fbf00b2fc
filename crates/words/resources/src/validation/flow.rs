//! Flow schemas and priority levels (pkg/apis/flowcontrol/validation).
//!
//! Invariant: the mandatory objects' fixed values are not compared here; their own controller puts them right.

use super::errors::Errors;
use super::names;
use super::node::Node;
use super::seen::Seen;

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

/// A flow schema.
pub(super) fn schema(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let precedence = spec.at("matchingPrecedence");
    if precedence.int() <= 0 {
        errors.push(precedence.bad_int("must be a positive value"));
    }
    if precedence.int() > 10000 {
        errors.push(precedence.bad_int("must not be greater than 10000"));
    }
    if precedence.int() == 1 && root.at("metadata").text("name") != "exempt" {
        errors.push(precedence.bad_int("only the schema named 'exempt' may have matchingPrecedence 1"));
    }
    let method = spec.at("distinguisherMethod");
    if method.set() && !matches!(method.text("type"), "ByNamespace" | "ByUser") {
        let shown = super::show::internal("api/flowcontrol/v1", "FlowDistinguisherMethod", method.value);
        errors.push(method.at("type").unsupported_as(shown, &["ByNamespace", "ByUser"]));
    }
    let level = spec.get("priorityLevelConfiguration.name");
    if level.is_empty() {
        errors.push(level.required("must reference a priority level"));
    } else {
        level.each(errors, names::subdomain(level.str()));
    }
    for rule in spec.at("rules").items() {
        self::rule(errors, &rule);
    }
    conditions(errors, root);
}

fn conditions(errors: &mut Errors, root: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
    for kind in root
        .get("status.conditions")
        .items()
        .iter()
        .map(|condition| condition.at("type"))
    {
        if seen.contains(&kind.str()) {
            errors.push(kind.duplicate());
        }
        seen.push(kind.str());
        if kind.is_empty() {
            errors.push(kind.required(""));
        }
    }
}

fn rule(errors: &mut Errors, node: &Node<'_>) {
    let (subjects, resources, others) = (node.at("subjects"), node.at("resourceRules"), node.at("nonResourceRules"));
    if subjects.is_empty() {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    for subject in subjects.items() {
        self::subject(errors, &subject);
    }
    if resources.is_empty() && others.is_empty() {
        errors.push(node.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for rule in resources.items() {
        verbs(errors, &rule.at("verbs"));
        alone(
            errors,
            &rule.at("apiGroups"),
            "resource rules must supply at least one api group",
            "api groups",
        );
        alone(
            errors,
            &rule.at("resources"),
            "resource rules must supply at least one resource",
            "resources",
        );
        let namespaces = rule.at("namespaces");
        if namespaces.is_empty() {
            if !rule.is("clusterScope") {
                errors.push(namespaces.required("resource rules that are not cluster scoped must supply at least one namespace"));
            }
        } else if !wildcard(errors, &namespaces, "namespaces") {
            for name in namespaces.items() {
                let messages = names::label(name.str()).into_iter();
                errors.extend(
                    messages
                        .map(|message| name.bad(format!("each member of this list must be '*' or a DNS-1123 label; {message}"))),
                );
            }
        }
    }
    for rule in others.items() {
        verbs(errors, &rule.at("verbs"));
        let urls = rule.at("nonResourceURLs");
        if urls.is_empty() {
            errors.push(urls.required("nonResourceURLs must contain at least one value"));
        } else if !wildcard(errors, &urls, "non-resource URLs") {
            for url in urls.items() {
                errors.extend(url_problem(url.str()).map(|problem| url.bad(problem)));
            }
        }
    }
}

/// Whether `*` is in the list; then it must be alone.
fn wildcard(errors: &mut Errors, node: &Node<'_>, others: &str) -> bool {
    let found = node.strings().contains(&"*");
    if found && node.len() > 1 {
        errors.push(node.invalid(format!("if '*' is present, must not specify other {others}")));
    }
    found
}

fn alone(errors: &mut Errors, node: &Node<'_>, missing: &str, others: &str) {
    if node.is_empty() {
        errors.push(node.required(missing));
    } else {
        wildcard(errors, node, others);
    }
}

fn verbs(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required("verbs must contain at least one value"));
    } else if !wildcard(errors, node, "verbs") && node.strings().iter().any(|verb| !VERBS.contains(verb)) {
        errors.push(node.unsupported(VERBS));
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if url.matches('*').count() > 1 || (url.contains('*') && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

const KINDS: &[(&str, &str)] = &[("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(errors: &mut Errors, node: &Node<'_>) {
    let kind = node.text("kind");
    let Some((_, member)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        errors.push(node.at("kind").unsupported(&["Group", "ServiceAccount", "User"]));
        return;
    };
    let this = node.at(member);
    if !this.set() {
        errors.push(this.required(format!("{member} is required when subject kind is '{kind}'")));
    } else {
        let (name, namespace) = (this.at("name"), this.at("namespace"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if kind == "ServiceAccount" && name.str() != "*" {
            name.each(errors, names::subdomain(name.str()));
        }
        if kind == "ServiceAccount" {
            if namespace.is_empty() {
                errors.push(namespace.required("must specify namespace for service account"));
            } else {
                namespace.each(errors, names::label(namespace.str()));
            }
        }
    }
    for (other, member) in KINDS.iter().filter(|(known, _)| *known != kind) {
        if node.has(member) {
            errors.push(
                node.at(member)
                    .forbidden(format!("{member} is forbidden when subject kind is not '{other}'")),
            );
        }
    }
}

/// A priority level.
pub(super) fn level(errors: &mut Errors, root: &Node<'_>) {
    let (spec, name) = (root.at("spec"), root.at("metadata").text("name"));
    let (kind, limited, exempt) = (spec.at("type"), spec.at("limited"), spec.at("exempt"));
    if (name == "exempt") != (kind.str() == "Exempt") {
        errors.push(kind.bad("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match kind.str() {
        "Exempt" => {
            if limited.set() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            if exempt.set() {
                shares(errors, &exempt);
                lendable(errors, &exempt);
            }
        }
        "Limited" => {
            if exempt.set() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.set() {
                self::limited(errors, &limited);
            } else {
                errors.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => errors.push(kind.unsupported(&["Exempt", "Limited"])),
    }
    conditions(errors, root);
}

fn shares(errors: &mut Errors, node: &Node<'_>) {
    let shares = node.at("nominalConcurrencyShares");
    if shares.int() < 0 {
        errors.push(shares.bad_int("must be a non-negative integer"));
    }
}

fn lendable(errors: &mut Errors, node: &Node<'_>) {
    let percent = node.at("lendablePercent");
    if !(0..=100).contains(&percent.int()) {
        errors.push(percent.bad_int("must be between 0 and 100, inclusive"));
    }
}

fn limited(errors: &mut Errors, node: &Node<'_>) {
    shares(errors, node);
    let response = node.at("limitResponse");
    let queuing = response.at("queuing");
    match response.text("type") {
        "Reject" => {
            if queuing.set() {
                errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
            }
        }
        "Queue" if queuing.set() => self::queuing(errors, &queuing),
        "Queue" => errors.push(queuing.required("must not be empty if limited.limitResponse.type is Limited")),
        _ => errors.push(response.at("type").unsupported(&["Queue", "Reject"])),
    }
    lendable(errors, node);
    let borrowing = node.at("borrowingLimitPercent");
    if borrowing.int() < 0 {
        errors.push(borrowing.bad_int("if specified, must be a non-negative integer"));
    }
}

fn queuing(errors: &mut Errors, node: &Node<'_>) {
    let (length, queues, hand) = (node.at("queueLengthLimit"), node.at("queues"), node.at("handSize"));
    if length.int() <= 0 {
        errors.push(length.bad_int("must be positive"));
    }
    if queues.int() <= 0 {
        errors.push(queues.bad_int("must be positive"));
    } else if queues.int() > 10_000_000 {
        errors.push(queues.bad_int("must not be greater than 10000000"));
    }
    if hand.int() <= 0 {
        errors.push(hand.bad_int("must be positive"));
    } else if hand.int() > queues.int() {
        errors.push(hand.bad_int(format!("should not be greater than queues ({})", queues.int())));
    } else if entropy_bits(queues.int(), hand.int()) > 60 {
        errors.push(hand.bad_int(format!(
            "required entropy bits of deckSize {} and handSize {} should not be greater than 60",
            queues.int(),
            hand.int()
        )));
    }
}

/// How many bits it takes to deal a hand: the logarithm of the number of hands, rounded up.
fn entropy_bits(deck: i64, hand: i64) -> i64 {
    #[allow(clippy::cast_precision_loss)] // both are far below 2^53
    let bits: f64 = (0..hand.min(64)).map(|dealt| ((deck - dealt) as f64).log2()).sum();
    #[allow(clippy::cast_possible_truncation)] // 64 cards of at most 24 bits
    let bits = bits.ceil() as i64;
    bits
}
