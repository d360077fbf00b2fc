//! APIServices (staging/src/k8s.io/kube-aggregator/pkg/apis/apiregistration/validation).
//!
//! Invariant: the form alone; whether the service is there and answers is the aggregator's to say.

use super::errors::Errors;
use super::metadata::{self, Rules};
use super::names;
use super::node::Node;
use super::show;

const RULES: Rules = Rules {
    name: names::any,
    namespaced: false,
    standard_finalizers: false,
    any_base: false,
};

/// An APIService, new or changed.
pub(super) fn service(errors: &mut Errors, root: &Node<'_>) {
    let spec = root.at("spec");
    let (group, version) = (spec.at("group"), spec.at("version"));
    let wanted = format!("{}.{}", version.str(), group.str());
    let rules = Rules {
        name: names::path_segment,
        ..RULES
    };
    metadata::create_with(errors, &root.at("metadata"), rules, &|name| {
        let fits = !names::path_segment(name).is_empty() || name == wanted;
        (!fits).then(|| format!("must be `spec.version+\".\"+spec.group`: {}", show::quoted(&wanted)))
    });
    if group.is_empty() && version.str() != "v1" {
        errors.push(group.required("only v1 may have an empty group and it better be legacy kube"));
    }
    if !group.is_empty() {
        group.each(errors, names::subdomain(group.str()));
    }
    version.each(errors, names::label_1035(version.str()));
    for (name, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let priority = spec.at(name);
        if !(1..=most).contains(&priority.int()) {
            errors.push(priority.bad_int(format!("must be positive and less than {most}")));
        }
    }
    let (service, bundle, skip) = (spec.at("service"), spec.at("caBundle"), spec.at("insecureSkipTLSVerify"));
    if !service.set() {
        if !bundle.is_empty() {
            let bytes = bundle.bytes();
            errors.push(bundle.bad_text(&format!("{bytes} bytes"), "local APIServices may not have a caBundle"));
        }
        if skip.value == true {
            errors.push(skip.invalid("local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    }
    for name in ["namespace", "name"] {
        service.need(errors, name);
    }
    let port = service.at("port");
    let messages = names::port(port.int());
    if !messages.is_empty() {
        errors.push(port.bad_int(format!("port is not valid: {}", messages.join(", "))));
    }
    if skip.value == true && !bundle.is_empty() {
        errors.push(skip.invalid("may not be true if caBundle is present"));
    }
}

/// A change of an APIService's status.
pub(super) fn update_status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    metadata::update(errors, &root.at("metadata"), &old.at("metadata"), RULES);
    for condition in root.get("status.conditions").items() {
        condition.at("status").one_of(errors, &["True", "False", "Unknown"]);
    }
}
