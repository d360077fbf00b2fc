//! The status of claims of devices, and who may ask for devices that others use (pkg/apis/resource/validation).
//!
//! Invariant: an allocation stays as it was made; what is told of devices is told of allocated ones.

use std::collections::HashSet;

use serde_json::Value;

use super::affinity;
use super::device::{binding_conditions, configuration, each, pool_name, request_ref, requests, set};
use super::errors::Errors;
use super::ip;
use super::metadata;
use super::names;
use super::node::{IMMUTABLE, Node};
use super::show;
use super::volume::driver_name;

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONFIGS_MAX: usize = 64;
const REQUESTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const DATA_BYTES_MAX: usize = 10 * 1024;
const ADDRESSES_MAX: usize = 16;

/// A device of a driver's pool, and the share of it.
type Device<'a> = (&'a str, &'a str, &'a str, &'a str);

fn device<'a>(node: &Node<'a>) -> Device<'a> {
    (
        node.text("driver"),
        node.text("pool"),
        node.text("device"),
        node.text("shareID"),
    )
}

/// A change of a claim's status.
pub(super) fn status(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    let (status, before) = (root.at("status"), old.at("status"));
    let known = requests(&root.get("spec.devices"));
    let reserved = status.at("reservedFor");
    set(
        errors,
        &reserved,
        RESERVED_MAX,
        |errors, consumer| {
            for name in ["resource", "name", "uid"] {
                consumer.need(errors, name);
            }
        },
        |consumer| consumer.text("uid"),
    );
    let allocation = status.at("allocation");
    let results = allocation.get("devices.results").items();
    let allocated: HashSet<Device<'_>> = results.iter().map(device).collect();
    let mut seen = HashSet::new();
    let devices = status.at("devices").items();
    for node in &devices {
        device_status(errors, node, &allocated);
    }
    for node in &devices {
        if !seen.insert(device(node)) {
            errors.push(node.duplicate_as(shown(device(node))));
        }
    }
    if !reserved.is_empty() {
        let had: HashSet<String> = before
            .at("reservedFor")
            .items()
            .iter()
            .map(|consumer| consumer.value.to_string())
            .collect();
        let added = reserved
            .items()
            .iter()
            .any(|consumer| !had.contains(&consumer.value.to_string()));
        if !allocation.set() {
            errors.push(reserved.forbidden("may not be specified when `allocated` is not set"));
        } else if root.at("metadata").has("deletionTimestamp") && added {
            errors.push(
                reserved.forbidden("new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"),
            );
        }
    }
    if before.has("allocation") && allocation.set() {
        if allocation.value != before.at("allocation").value {
            errors.push(allocation.bad_struct("api/resource/v1", "AllocationResult", IMMUTABLE));
        }
    } else if allocation.set() {
        self::allocation(errors, &allocation, &known);
    }
}

/// A device as upstream prints what it knows it by.
fn shown((driver, pool, device, share): Device<'_>) -> String {
    let parts = [("Driver", driver), ("Pool", pool), ("Device", device), ("ShareID", share)];
    let parts: Vec<String> = parts
        .iter()
        .map(|(name, text)| format!("\"{name}\":{}", show::json(&Value::from(*text))))
        .collect();
    format!("{{{}}}", parts.join(","))
}

fn allocation(errors: &mut Errors, node: &Node<'_>, known: &HashSet<String>) {
    let devices = node.at("devices");
    each(errors, &devices.at("results"), RESULTS_MAX, |errors, result| {
        request_ref(errors, &result.at("request"), known);
        driver_name(errors, &result.at("driver"));
        pool_name(errors, &result.at("pool"));
        let name = result.at("device");
        name.each(errors, names::label(name.str()));
        binding_conditions(errors, result);
        share(errors, &result.at("shareID"));
    });
    each(errors, &devices.at("config"), CONFIGS_MAX, |errors, config| {
        config.at("source").need_one_of(errors, &["FromClaim", "FromClass"]);
        set(
            errors,
            &config.at("requests"),
            REQUESTS_MAX,
            |errors, name| request_ref(errors, name, known),
            |name| name.str(),
        );
        configuration(errors, config);
    });
    let selector = node.at("nodeSelector");
    if selector.set() {
        affinity::node_selector(errors, &selector);
    }
}

fn device_status(errors: &mut Errors, node: &Node<'_>, allocated: &HashSet<Device<'_>>) {
    driver_name(errors, &node.at("driver"));
    pool_name(errors, &node.at("pool"));
    let name = node.at("device");
    name.each(errors, names::label(name.str()));
    share(errors, &node.at("shareID"));
    if !allocated.contains(&device(node)) {
        errors.push(node.invalid_as(shown(device(node)), "must be an allocated device in the claim"));
    }
    let conditions = node.at("conditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.push(conditions.too_many(conditions.len(), CONDITIONS_MAX));
    }
    metadata::conditions(errors, &conditions);
    let data = node.at("data");
    if data.set() {
        if data.value.to_string().len() > DATA_BYTES_MAX {
            errors.push(data.too_long(DATA_BYTES_MAX));
        } else if !data.value.is_object() {
            errors.push(data.bad_text("<value omitted>", "must be a valid JSON object"));
        }
    }
    let network = node.at("networkData");
    for (name, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        let at = network.at(name);
        if at.len() > most {
            errors.push(at.too_long(most));
        }
    }
    set(
        errors,
        &network.at("ips"),
        ADDRESSES_MAX,
        |errors, address| {
            if ip::parse_block(address.str()).is_none() {
                errors.push(address.bad("must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"));
            } else if let Some((parsed, length)) = ip::parse_block(address.str())
                && address.str() != format!("{parsed}/{length}")
            {
                errors.push(address.bad(format!("must be in canonical form (\"{parsed}/{length}\")")));
            }
        },
        |address| address.str(),
    );
}

/// Why a text is no UUID.
#[derive(Debug, thiserror::Error)]
enum NoUuid {
    #[error("error validating uid: invalid UUID length: {0}")]
    Length(usize),
    #[error("error validating uid: invalid UUID format")]
    Format,
    #[error(
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"
    )]
    NotNormal,
}

fn share(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    let bytes = node.str().as_bytes();
    let dashed = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let problem = match bytes.len() {
        36 if !dashed(bytes) => Some(NoUuid::Format),
        36 if bytes.iter().any(u8::is_ascii_uppercase) => Some(NoUuid::NotNormal),
        36 => None,
        32 if !bytes.iter().all(u8::is_ascii_hexdigit) => Some(NoUuid::Format),
        32 => Some(NoUuid::NotNormal),
        length => Some(NoUuid::Length(length)),
    };
    if let Some(problem) = problem {
        errors.push(node.bad(problem.to_string()));
    }
}
