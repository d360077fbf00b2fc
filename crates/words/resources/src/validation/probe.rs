//! Probes and hooks of containers (pkg/apis/core/validation).
//!
//! Invariant: exactly one handler each; the second one that is set is told, not looked into.

use super::container::Around;
use super::errors::Errors;
use super::names;
use super::node::Node;

/// Hooks and the three probes of a container.
pub(super) fn all(errors: &mut Errors, container: &Node<'_>, around: &Around<'_>) {
    lifecycle(errors, &container.at("lifecycle"), around);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(name);
        if !probe.set() {
            continue;
        }
        self::probe(errors, &probe, around.grace);
        if name == "readinessProbe" {
            let grace = probe.at("terminationGracePeriodSeconds");
            if grace.set() {
                errors.push(grace.bad_int("must not be set for readinessProbes"));
            }
        } else if probe.at("successThreshold").int() != 1 {
            errors.push(probe.at("successThreshold").bad_int("must be 1"));
        }
    }
}

fn probe(errors: &mut Errors, node: &Node<'_>, grace: Option<i64>) {
    handler(errors, node, grace, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        node.at(name).non_negative(errors);
    }
    let grace = node.at("terminationGracePeriodSeconds");
    if grace.set() && grace.int() <= 0 {
        errors.push(grace.bad_int("must be greater than 0"));
    }
}

fn lifecycle(errors: &mut Errors, node: &Node<'_>, around: &Around<'_>) {
    for name in ["postStart", "preStop"] {
        if node.has(name) {
            handler(
                errors,
                &node.at(name),
                around.grace,
                &["exec", "httpGet", "tcpSocket", "sleep"],
            );
        }
    }
    let signal = node.at("stopSignal");
    if signal.set() {
        match around.os {
            None => errors.push(signal.forbidden("may not be set for containers with empty `spec.os.name`")),
            Some("windows") => signal.one_of(errors, &["SIGKILL", "SIGTERM"]),
            Some("linux") => {
                let mut known: Vec<String> = SIGNALS.iter().map(|name| (*name).to_owned()).collect();
                known.extend((1..=15).map(|number| format!("SIGRTMIN+{number}")));
                known.extend((1..=14).map(|number| format!("SIGRTMAX-{number}")));
                known.sort_unstable();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                signal.one_of(errors, &known);
            }
            Some(_) => {}
        }
    }
}

const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMAX",
];

fn handler(errors: &mut Errors, node: &Node<'_>, grace: Option<i64>, kinds: &[&str]) {
    let mut seen = false;
    for kind in kinds {
        let this = node.at(kind);
        if !this.set() {
            continue;
        }
        if seen {
            errors.push(this.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        seen = true;
        match *kind {
            "exec" => {
                if this.at("command").is_empty() {
                    errors.push(this.at("command").required(""));
                }
            }
            "httpGet" => http_get(errors, &this),
            "sleep" => {
                let seconds = this.at("seconds").int();
                if let Some(grace) = grace
                    && !(0..=grace).contains(&seconds)
                {
                    errors.push(this.invalid_as(
                        seconds.to_string(),
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
                    ));
                }
            }
            _ => port(errors, &this.at("port")),
        }
    }
    if !seen {
        errors.push(node.required("must specify a handler type"));
    }
}

fn http_get(errors: &mut Errors, node: &Node<'_>) {
    node.need(errors, "path");
    port(errors, &node.at("port"));
    node.at("scheme").one_of(errors, &["HTTP", "HTTPS"]);
    let headers = node.at("httpHeaders");
    for header in headers.items() {
        for message in names::header_name(header.text("name")) {
            errors.push(headers.bad_text(header.text("name"), message));
        }
    }
}

/// A port by number or by name.
pub(super) fn port(errors: &mut Errors, node: &Node<'_>) {
    if node.value.is_string() {
        node.each(errors, names::port_name(node.str()));
    } else {
        errors.extend(names::port(node.int()).into_iter().map(|message| node.bad_int(message)));
    }
}
