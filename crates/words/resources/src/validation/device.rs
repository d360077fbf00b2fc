//! Device classes, claims, claim templates and slices (pkg/apis/resource/validation).
//!
//! Invariant: expressions are compiled (`expression`) when they are new; claims and templates do not change.

use std::collections::{HashMap, HashSet};

use trireme_cel::Wanted;

use super::affinity;
use super::errors::Errors;
use super::expression::Expressions;
use super::metadata;
use super::names;
use super::node::{IMMUTABLE, Node, same};
use super::seen::Seen;
use super::show;
use super::volume::{driver_name, template_metadata};

const REQUESTS_MAX: usize = 32;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const COUNTERS_MAX: usize = 32;
const ATTRIBUTE_VALUES_MAX: usize = 48;
const TAINTS_MAX: usize = 16;

/// Elements one by one, unless there are too many.
pub(super) fn each(errors: &mut Errors, node: &Node<'_>, most: usize, mut check: impl FnMut(&mut Errors, &Node<'_>)) -> bool {
    if node.len() > most {
        errors.push(node.too_many(node.len(), most));
        return false;
    }
    node.items().iter().for_each(|item| check(errors, item));
    true
}

/// Likewise; then the keys must differ.
pub(super) fn set<'a>(
    errors: &mut Errors,
    node: &Node<'a>,
    most: usize,
    check: impl FnMut(&mut Errors, &Node<'_>),
    key: impl Fn(&Node<'a>) -> &'a str,
) {
    if !each(errors, node, most, check) {
        return;
    }
    let mut seen: Seen<&str> = Seen::default();
    for item in node.items() {
        let key = key(&item);
        if seen.contains(&key) {
            errors.push(item.duplicate_as(show::quoted(key)));
        } else {
            seen.push(key);
        }
    }
}

/// Selectors; those that are `stored` know what the next version brings, too.
fn selectors(errors: &mut Errors, node: &Node<'_>, stored: bool, expressions: &mut Expressions) {
    each(errors, node, 32, |errors, selector| {
        let cel = selector.at("cel");
        let expression = cel.at("expression");
        if !cel.set() {
            errors.push(cel.required(""));
        } else if expression.len() > 10 * 1024 {
            errors.push(expression.too_long(10 * 1024));
        } else {
            expressions.check(errors, &expression, trireme_cel::device(stored), &Wanted::Selection);
        }
    });
}

pub(super) fn configuration(errors: &mut Errors, node: &Node<'_>) {
    let opaque = node.at("opaque");
    if !opaque.set() {
        errors.push(opaque.required(""));
        return;
    }
    driver_name(errors, &opaque.at("driver"));
    let parameters = opaque.at("parameters");
    if !parameters.set() {
        errors.push(parameters.required(""));
    } else if parameters.value.to_string().len() > 10 * 1024 {
        errors.push(parameters.too_long(10 * 1024));
    } else if !parameters.value.is_object() {
        errors.push(parameters.bad_text("<value omitted>", "must be a valid JSON object"));
    }
}

/// A device class.
pub(super) fn class(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    let spec = root.at("spec");
    let all = spec.at("selectors");
    let stored = old.is_some_and(|old| same(all.value, old.at("spec").at("selectors").value));
    selectors(errors, &all, stored, &mut Expressions::new());
    each(errors, &spec.at("config"), 32, configuration);
    let extended = spec.at("extendedResourceName");
    let name = extended.str();
    let valid = name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty();
    if extended.set() && !valid {
        errors.push(extended.bad("must be a valid extended resource name"));
    }
}

/// A claim.
pub(super) fn claim(errors: &mut Errors, root: &Node<'_>) {
    claim_spec(errors, &root.at("spec"));
}

/// A claim's specification stays as it is.
pub(super) fn claim_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    immutable_spec(errors, root, old, "ResourceClaimSpec");
}

fn immutable_spec(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>, name: &str) {
    let spec = root.at("spec");
    if !same(spec.value, old.at("spec").value) {
        errors.push(spec.bad_struct("api/resource/v1", name, IMMUTABLE));
    }
}

/// A template of claims.
pub(super) fn claim_template(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    template_metadata(errors, &spec.at("metadata"));
    claim_spec(errors, &spec.at("spec"));
}

/// A template's specification stays as it is.
pub(super) fn claim_template_update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    immutable_spec(errors, root, old, "ResourceClaimTemplateSpec");
}

fn claim_spec(errors: &mut Errors, spec: &Node<'_>) {
    let devices = spec.at("devices");
    let requests = devices.at("requests");
    let mut expressions = Expressions::new();
    let request = |errors: &mut Errors, node: &Node<'_>| request(errors, node, &mut expressions);
    set(errors, &requests, REQUESTS_MAX, request, |item| item.text("name"));
    let known = self::requests(&devices);
    let references = |errors: &mut Errors, node: &Node<'_>| {
        set(
            errors,
            &node.at("requests"),
            REQUESTS_MAX,
            |errors, name| request_ref(errors, name, &known),
            |item| item.str(),
        );
    };
    each(errors, &devices.at("constraints"), 32, |errors, constraint| {
        references(errors, constraint);
        let (matching, distinct) = (constraint.at("matchAttribute"), constraint.at("distinctAttribute"));
        if matching.set() {
            attribute_name(errors, &matching, matching.str(), true);
        } else if distinct.set() {
            attribute_name(errors, &distinct, distinct.str(), true);
        } else {
            errors.push(
                constraint.required(
                    "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                ),
            );
        }
    });
    each(errors, &devices.at("config"), 32, |errors, config| {
        references(errors, config);
        configuration(errors, config);
    });
}

/// The names by which a claim's requests and their alternatives are referred to. Where a name stands twice, the last counts.
pub(super) fn requests(devices: &Node<'_>) -> HashSet<String> {
    let mut alternatives: HashMap<&str, Vec<&str>> = HashMap::new();
    let requests = devices.at("requests").items();
    for request in &requests {
        let subs = request.at("firstAvailable").items();
        alternatives.insert(request.text("name"), subs.iter().map(|sub| sub.text("name")).collect());
    }
    let mut known = HashSet::new();
    for (name, subs) in alternatives {
        known.extend(subs.into_iter().map(|sub| format!("{name}/{sub}")));
        known.insert(name.to_owned());
    }
    known
}

/// A reference to a request, or to an alternative of one.
pub(super) fn request_ref(errors: &mut Errors, node: &Node<'_>, known: &HashSet<String>) {
    const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = node.str().split('/').collect();
    if parts.len() <= 2 {
        for part in parts {
            errors.extend(names::label(part).into_iter().map(|message| node.bad_text(part, message)));
        }
    }
    if !known.contains(node.str()) {
        errors.push(node.bad(UNKNOWN));
    }
}

fn request(errors: &mut Errors, node: &Node<'_>, expressions: &mut Expressions) {
    let (name, exactly, first) = (node.at("name"), node.at("exactly"), node.at("firstAvailable"));
    name.each(errors, names::label(name.str()));
    match (exactly.set(), !first.is_empty()) {
        (false, false) => errors.push(node.required("exactly one of `exactly` or `firstAvailable` is required")),
        (true, true) => errors.push(node.invalid_as(
            "null",
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
        (true, false) => exact(errors, &exactly, expressions),
        (false, true) => set(
            errors,
            &first,
            8,
            |errors, sub| {
                let name = sub.at("name");
                name.each(errors, names::label(name.str()));
                exact(errors, sub, expressions);
            },
            |item| item.text("name"),
        ),
    }
}

fn exact(errors: &mut Errors, node: &Node<'_>, expressions: &mut Expressions) {
    let (class, mode, count) = (node.at("deviceClassName"), node.at("allocationMode"), node.at("count"));
    if class.is_empty() {
        errors.push(class.required(""));
    } else {
        class.each(errors, names::subdomain(class.str()));
    }
    selectors(errors, &node.at("selectors"), false, expressions);
    match mode.str() {
        "All" if count.int() != 0 => errors.push(count.bad_int("must not be specified when allocationMode is 'All'")),
        "ExactCount" if count.int() <= 0 => errors.push(count.bad_int("must be greater than zero")),
        "All" | "ExactCount" => {}
        _ => errors.push(mode.unsupported(&["All", "ExactCount"])),
    }
    for toleration in node.at("tolerations").items() {
        self::toleration(errors, &toleration);
    }
}

fn toleration(errors: &mut Errors, node: &Node<'_>) {
    let (key, value, effect) = (node.at("key"), node.at("value"), node.at("effect"));
    if !key.is_empty() {
        metadata::label_name(errors, &key, key.str());
    }
    match node.text("operator") {
        "Exists" if !value.is_empty() => errors.push(value.bad("must be empty for operator `Exists`")),
        "Exists" => {}
        "Equal" => value.each(errors, names::label_value(value.str())),
        _ => node.at("operator").need_one_of(errors, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        effect.one_of(errors, EFFECTS);
    }
}

/// What must be so before a pod is bound to a device, and what must not.
pub(super) fn binding_conditions(errors: &mut Errors, node: &Node<'_>) {
    const MOST: usize = 4;
    let (conditions, failures) = (node.at("bindingConditions"), node.at("bindingFailureConditions"));
    for list in [&conditions, &failures] {
        each(errors, list, MOST, |errors, name| {
            metadata::label_name(errors, name, name.str())
        });
    }
    let overlapping: HashSet<&str> = conditions.strings().into_iter().collect();
    for (list, others) in [(&conditions, &HashSet::new()), (&failures, &overlapping)] {
        let mut seen: Seen<&str> = Seen::default();
        for name in list.items() {
            if seen.contains(&name.str()) {
                errors.push(name.duplicate());
            } else {
                seen.push(name.str());
            }
            if others.contains(name.str()) {
                errors.push(name.bad("bindingFailureConditions must not overlap with bindingConditions"));
            }
        }
    }
    if conditions.is_empty() && !failures.is_empty() {
        errors.push(conditions.invalid("bindingConditions are required to use bindingFailureConditions"));
    }
    if failures.is_empty() && !conditions.is_empty() {
        errors.push(failures.invalid("bindingFailureConditions are required to use bindingConditions"));
    }
}

fn attribute_name(errors: &mut Errors, node: &Node<'_>, name: &str, full: bool) {
    let identifier = |errors: &mut Errors, id: &str| {
        if id.len() > 32 {
            errors.push(node.too_long(32));
        }
        errors.extend(names::c_identifier(id).into_iter().map(|message| node.bad_text(id, message)));
    };
    match name.split_once('/') {
        None => {
            identifier(errors, name);
            if full {
                errors.push(node.bad_text(
                    name,
                    "a fully qualified name must be a domain and a name separated by a slash",
                ));
            }
        }
        Some((_, id)) if id.contains('/') => {}
        Some((domain, id)) => {
            if domain.is_empty() {
                errors.push(node.bad_text("", "the domain must not be empty"));
            } else {
                let value = serde_json::Value::from(domain);
                driver_name(
                    errors,
                    &Node {
                        path: node.path.clone(),
                        value: &value,
                    },
                );
            }
            if id.is_empty() {
                errors.push(node.bad_text("", "the name must not be empty"));
            } else {
                identifier(errors, id);
            }
        }
    }
}

/// A slice of a driver's devices.
pub(super) fn slice(errors: &mut Errors, root: &Node<'_>, old: Option<&Node<'_>>) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let spec = root.at("spec");
    let (driver, pool) = (spec.at("driver"), spec.at("pool"));
    driver_name(errors, &driver);
    pool_name(errors, &pool.at("name"));
    if pool.at("resourceSliceCount").int() <= 0 {
        errors.push(pool.at("resourceSliceCount").bad_int("must be greater than zero"));
    }
    if pool.at("generation").int() < 0 {
        errors.push(pool.at("generation").bad_int("must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        for name in ["pool.name", "driver"] {
            spec.get(name).immutable_text(errors, &old.at("spec").get(name));
        }
        spec.at("nodeName").immutable(errors, &old.get("spec.nodeName"));
    }
    let mut places = Vec::new();
    place(
        errors,
        &spec,
        &mut places,
        "must be either unset or set to a non-empty string",
        true,
    );
    let each_device = spec.at("perDeviceNodeSelection");
    if spec.is("perDeviceNodeSelection") {
        places.push("`perDeviceNodeSelection`");
    } else if each_device.set() {
        errors.push(each_device.invalid("must be either unset or set to true"));
    }
    match places.len() {
        0 => errors.push(spec.required(ONE)),
        1 => {}
        _ => errors.push(spec.bad_text(
            &format!("{{{}}}", places.join(", ")),
            format!("{ONE}, but multiple fields are set"),
        )),
    }
    if spec.has("sharedCounters") && spec.has("devices") {
        errors.push(spec.bad_text("", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = spec.at("devices");
    let advanced = devices.items().iter().any(|device| {
        let listed = |(_, attribute): (&str, Node<'_>)| {
            ["bools", "ints", "strings", "versions"]
                .iter()
                .any(|name| attribute.has(name))
        };
        !device.at("taints").is_empty()
            || !device.at("consumesCounters").is_empty()
            || device.at("attributes").entries().into_iter().any(listed)
    });
    let per_device = spec.is("perDeviceNodeSelection");
    let most = if advanced { 64 } else { 128 };
    set(
        errors,
        &devices,
        most,
        |errors, device| self::device(errors, device, per_device),
        |item| item.text("name"),
    );
    set(
        errors,
        &spec.at("sharedCounters"),
        8,
        |errors, counters| {
            counter_name(errors, &counters.at("name"));
            self::counters(errors, &counters.at("counters"));
        },
        |item| item.text("name"),
    );
}

/// Counters by name.
fn counters(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
    } else if node.len() > COUNTERS_MAX {
        errors.push(node.too_many(node.len(), COUNTERS_MAX));
    } else {
        for (name, _) in node.entries() {
            errors.extend(names::label(name).into_iter().map(|message| node.bad_text(name, message)));
        }
    }
}

fn counter_name(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
    } else {
        node.each(errors, names::label(node.str()));
    }
}

pub(super) fn pool_name(errors: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        errors.push(node.required(""));
        return;
    }
    if node.len() > 253 {
        errors.push(node.too_long(253));
    }
    for part in node.str().split('/') {
        errors.extend(names::subdomain(part).into_iter().map(|message| node.bad_text(part, message)));
    }
}

/// Where devices can be reached: names what is set.
fn place(errors: &mut Errors, node: &Node<'_>, places: &mut Vec<&'static str>, empty: &str, one_term: bool) {
    let (name, selector, all) = (node.at("nodeName"), node.at("nodeSelector"), node.at("allNodes"));
    if name.set() {
        if name.is_empty() {
            errors.push(name.bad(empty));
        } else {
            places.push("`nodeName`");
            name.each(errors, names::subdomain(name.str()));
        }
    }
    if selector.set() {
        places.push("`nodeSelector`");
        affinity::node_selector(errors, &selector);
        let terms = selector.at("nodeSelectorTerms");
        if one_term && terms.len() != 1 {
            errors.push(terms.invalid_as(
                show::internal_list("api/core/v1", "NodeSelectorTerm", terms.value),
                "must have exactly one node selector term",
            ));
        }
    }
    if node.is("allNodes") {
        places.push("`allNodes`");
    } else if all.set() {
        errors.push(all.invalid("must be either unset or set to true"));
    }
}

fn device(errors: &mut Errors, node: &Node<'_>, per_device: bool) {
    let (name, attributes, capacity) = (node.at("name"), node.at("attributes"), node.at("capacity"));
    name.each(errors, names::label(name.str()));
    let count = attributes.len() + capacity.len();
    if count > 32 {
        errors.push(node.invalid_as(
            count.to_string(),
            "the total number of attributes and capacities must not exceed 32",
        ));
    }
    let lists = ["bools", "ints", "strings", "versions"];
    let values: usize = attributes
        .entries()
        .iter()
        .map(|(_, attribute)| lists.iter().map(|name| attribute.at(name).len()).sum::<usize>().max(1))
        .sum();
    if values > ATTRIBUTE_VALUES_MAX {
        errors.push(node.invalid_as(
            values.to_string(),
            format!("the total number of attribute values must not exceed {ATTRIBUTE_VALUES_MAX}"),
        ));
    }
    for (key, attribute) in attributes.entries() {
        attribute_name(errors, &attributes, key, false);
        self::attribute(errors, &attribute);
    }
    for (key, amount) in capacity.entries() {
        attribute_name(errors, &capacity, key, false);
        if amount.has("requestPolicy") && !node.is("allowMultipleAllocations") {
            errors.push(amount.at("requestPolicy").forbidden("allowMultipleAllocations must be true"));
        }
    }
    each(errors, &node.at("taints"), TAINTS_MAX, |errors, taint| {
        metadata::label_name(errors, &taint.at("key"), taint.text("key"));
        let value = taint.at("value");
        value.each(errors, names::label_value(value.str()));
        taint.at("effect").need_one_of(errors, EFFECTS);
    });
    set(
        errors,
        &node.at("consumesCounters"),
        2,
        |errors, consumed| {
            counter_name(errors, &consumed.at("counterSet"));
            counters(errors, &consumed.at("counters"));
        },
        |item| item.text("counterSet"),
    );
    if per_device {
        const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        let mut places = Vec::new();
        place(errors, node, &mut places, "must not be empty", false);
        match places.len() {
            0 => errors.push(node.required(ONE)),
            1 => {}
            _ => errors.push(node.bad_text(&format!("{{{}}}", places.join(", ")), ONE)),
        }
    } else if ["nodeName", "nodeSelector", "allNodes"].iter().any(|name| node.has(name)) {
        errors.push(node.invalid_as("null", "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"));
    }
    binding_conditions(errors, node);
}

fn attribute(errors: &mut Errors, node: &Node<'_>) {
    const VALUE_BYTES_MAX: usize = 64;
    let mut count = 0;
    for name in ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"] {
        let value = node.at(name);
        if !value.set() {
            continue;
        }
        count += 1;
        if value.value.is_array() && value.is_empty() {
            errors.push(value.invalid("must not be empty if specified"));
        }
        let texts = if value.value.is_array() { value.items() } else { vec![value] };
        for text in texts.iter().filter(|text| text.value.is_string()) {
            if name.starts_with("version") && !is_semantic_version(text.str()) {
                errors.push(text.bad("must be a string compatible with semver.org spec 2.0.0"));
            }
            if text.len() > VALUE_BYTES_MAX {
                errors.push(text.too_long(VALUE_BYTES_MAX));
            }
        }
    }
    match count {
        0 => errors.push(node.bad_text("", "exactly one value must be specified")),
        1 => {}
        _ => errors.push(node.bad_struct("api/resource/v1", "DeviceAttribute", "exactly one value must be specified")),
    }
}

fn is_semantic_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3
        && numbers.iter().all(|part| number(part))
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}
