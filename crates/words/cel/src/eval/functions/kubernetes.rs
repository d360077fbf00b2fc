//! Kubernetes' own libraries.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_api::quantity::{Format, Quantity};

use super::strings::text;
use super::{Body, unfit};
use crate::eval::address::{Address, Range};
use crate::eval::authorizer::{Check, Question};
use crate::eval::compile::Call;
use crate::eval::error::{EvalError, Evaluated, refused};
use crate::eval::formats;
use crate::eval::run::Run;
use crate::eval::semver::Semver;
use crate::eval::url::Url;
use crate::eval::value::{Key, Map, Text, Val};

pub(super) fn body(name: &str, arguments: usize) -> Option<Body> {
    Some(match name {
        "quantity" => |_, call, values| match Quantity::parse(text(call, values, 0)?) {
            Ok(quantity) => Ok(Val::Quantity(Arc::new(quantity))),
            Err(why) => refused(why.to_string()),
        },
        "isQuantity" => |_, call, values| Ok(Val::Bool(Quantity::parse(text(call, values, 0)?).is_ok())),
        "sign" | "asApproximateFloat" | "asInteger" | "isInteger" => quantity,
        "isGreaterThan" | "isLessThan" | "compareTo" => compared,
        "add" | "sub" => added,
        "ip" => |_, call, values| match &values[0] {
            Val::Cidr(range) => Ok(Val::Ip(range.address)),
            _ => Address::parse(text(call, values, 0)?).map(Val::Ip),
        },
        "isIP" => |_, call, values| Ok(Val::Bool(Address::parse(text(call, values, 0)?).is_ok())),
        "ip.isCanonical" => |_, call, values| {
            let written = text(call, values, 0)?;
            Ok(Val::Bool(Address::parse(written)?.to_string() == written))
        },
        "family" | "isUnspecified" | "isLoopback" | "isLinkLocalMulticast" | "isLinkLocalUnicast" | "isGlobalUnicast" => address,
        "cidr" => |_, call, values| range(text(call, values, 0)?).map(Val::Cidr),
        "isCIDR" => |_, call, values| Ok(Val::Bool(Range::parse(text(call, values, 0)?).is_ok())),
        "containsIP" | "containsCIDR" | "prefixLength" | "masked" => within,
        "url" => |_, call, values| Url::parse(text(call, values, 0)?).map(|url| Val::Url(Arc::new(url))),
        "isURL" => |_, call, values| Ok(Val::Bool(Url::fault(text(call, values, 0)?).is_none())),
        "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" | "getQuery" => url,
        "semver" => |_, call, values| version(call, values).map(|version| Val::Semver(Arc::new(version))),
        "isSemver" => |_, call, values| match version(call, values) {
            Ok(_) => Ok(Val::Bool(true)),
            Err(EvalError::NoSuchOverloadOf(said)) => Err(EvalError::NoSuchOverloadOf(said)),
            Err(_) => Ok(Val::Bool(false)),
        },
        "major" | "minor" | "patch" => |_, call, values| match &values[0] {
            Val::Semver(version) => {
                let index = match &*call.function {
                    "major" => 0,
                    "minor" => 1,
                    _ => 2,
                };
                Ok(Val::Int(version.numbers[index] as i64))
            }
            _ => Err(unfit(call, values)),
        },
        "validate" => |_, call, values| match &values[0] {
            Val::Format(named) => {
                let faults = named.faults(text(call, values, 1)?);
                if faults.is_empty() {
                    return Ok(Val::Optional(None));
                }
                Ok(Val::some(Val::list(faults.iter().map(|fault| Val::made(fault)).collect())))
            }
            _ => Err(unfit(call, values)),
        },
        "format.named" => |_, call, values| {
            let found = formats::format(text(call, values, 0)?);
            Ok(found.map_or(Val::Optional(None), |named| Val::some(Val::Format(named))))
        },
        "jsonpatch.escapeKey" => |_, call, values| Ok(Val::made(&text(call, values, 0)?.replace('~', "~0").replace('/', "~1"))),
        "path" | "group" | "serviceAccount" | "resource" | "subresource" | "namespace" | "name" | "fieldSelector"
        | "labelSelector" | "check" => asked,
        "errored" | "error" | "allowed" | "reason" => answered,
        _ if arguments == 0
            && name
                .strip_prefix("format.")
                .is_some_and(|name| formats::format(name).is_some()) =>
        {
            |_, call, values| {
                let named = call.function.strip_prefix("format.").and_then(formats::format);
                named.map(Val::Format).ok_or_else(|| unfit(call, values))
            }
        }
        _ => return None,
    })
}

fn quantity<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let Val::Quantity(quantity) = &values[0] else {
        return Err(unfit(call, values));
    };
    Ok(match &*call.function {
        "sign" => Val::Int(quantity.sign().into()),
        "asApproximateFloat" => Val::Double(quantity.as_f64()),
        "isInteger" => Val::Bool(quantity.as_int().is_some()),
        _ => match quantity.as_int() {
            Some(value) => Val::Int(value),
            None => return refused("cannot convert value to integer"),
        },
    })
}

fn compared<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let order = match values {
        [Val::Quantity(one), Val::Quantity(other)] => one.cmp(other),
        [Val::Semver(one), Val::Semver(other)] => one.compare(other),
        _ => return Err(unfit(call, values)),
    };
    Ok(match &*call.function {
        "isGreaterThan" => Val::Bool(order == Ordering::Greater),
        "isLessThan" => Val::Bool(order == Ordering::Less),
        _ => Val::Int(order as i64),
    })
}

fn added<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let (Some(Val::Quantity(one)), Some(other)) = (values.first(), values.get(1)) else {
        return Err(unfit(call, values));
    };
    let other = match other {
        Val::Quantity(other) => (**other).clone(),
        Val::Int(number) => Quantity::new(*number, Format::DecimalExponent),
        _ => return Err(unfit(call, values)),
    };
    let mut made = (**one).clone();
    if &*call.function == "add" {
        made.add(&other);
    } else {
        made.sub(&other);
    }
    Ok(Val::Quantity(Arc::new(made)))
}

fn address<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let Val::Ip(address) = &values[0] else {
        return Err(unfit(call, values));
    };
    Ok(match &*call.function {
        "family" => Val::Int(if address.0.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(address.0.is_unspecified()),
        "isLoopback" => Val::Bool(address.0.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(address.is_link_local_multicast()),
        "isLinkLocalUnicast" => Val::Bool(address.is_link_local_unicast()),
        _ => Val::Bool(address.is_global_unicast()),
    })
}

fn range(text: &str) -> Evaluated<Range> {
    Range::parse(text)
        .map_err(|why| EvalError::Refused(format!("network address parse error during conversion from string: {why}").into()))
}

fn within<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let Val::Cidr(all) = &values[0] else {
        return Err(unfit(call, values));
    };
    let overlaps = |other: &Range| all.has_all(*other);
    Ok(match (&*call.function, values.get(1)) {
        ("prefixLength", None) => Val::Int(all.bits.into()),
        ("masked", None) => Val::Cidr(all.masked()),
        ("containsIP", Some(Val::Ip(address))) => Val::Bool(all.has(*address)),
        // A text that is no address is told as if there were no such function.
        ("containsIP", Some(Val::String(text))) => match Address::parse(text.as_str()) {
            Ok(address) => Val::Bool(all.has(address)),
            Err(_) => return Err(EvalError::NoSuchOverload),
        },
        ("containsCIDR", Some(Val::Cidr(other))) => Val::Bool(overlaps(other)),
        ("containsCIDR", Some(Val::String(text))) => Val::Bool(overlaps(&range(text.as_str())?)),
        _ => return Err(unfit(call, values)),
    })
}

fn url<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let Val::Url(url) = &values[0] else {
        return Err(unfit(call, values));
    };
    Ok(match &*call.function {
        "getScheme" => Val::made(&url.scheme),
        "getHost" => Val::made(&url.host),
        "getHostname" => Val::made(url.host_and_port().0),
        "getPort" => Val::made(url.host_and_port().1),
        "getEscapedPath" => Val::made(&url.escaped_path()),
        _ => {
            let mut all = BTreeMap::new();
            for (name, values) in url.query() {
                let values = values.iter().map(|value| Val::made(value)).collect();
                all.insert(Key::String(Text::Made(name.into())), Val::list(values));
            }
            Val::Map(Map::Made(Arc::new(all)))
        }
    })
}

fn version(call: &Call, values: &[Val<'_>]) -> Evaluated<Semver> {
    let lenient = match values.get(1) {
        None => false,
        Some(Val::Bool(lenient)) => *lenient,
        Some(_) => return Err(unfit(call, values)),
    };
    Semver::parse(text(call, values, 0)?, lenient)
}

/// Takes a question one step further, or has it answered.
fn asked<'r, 'p, 'a>(run: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let Val::Check(check) = &values[0] else {
        return Err(unfit(call, values));
    };
    let said = text(call, values, 1)?;
    let given: Box<str> = said.into();
    let blank = said.trim().is_empty();
    let made = match (&**check, &*call.function) {
        (Check::Authorizer(_), "path") if blank => return refused("path must not be empty"),
        (Check::Authorizer(so_far), "path") => Check::Path(Question {
            path: Some(given),
            ..so_far.clone()
        }),
        (Check::Authorizer(so_far), "group") => Check::Group(Question {
            group: given,
            ..so_far.clone()
        }),
        (Check::Authorizer(so_far), "serviceAccount") => {
            let name = text(call, values, 2)?;
            let wrong = |text: &str, format: &str| formats::format(format).is_none_or(|named| !named.faults(text).is_empty());
            if wrong(name, "dns1123Subdomain") {
                return refused("Invalid service account name");
            }
            if wrong(said, "dns1123Label") {
                return refused("Invalid service account namespace");
            }
            let service_account = Some((given, name.into()));
            Check::Authorizer(Question {
                service_account,
                ..so_far.clone()
            })
        }
        (Check::Group(_), "resource") if blank => return refused("resource must not be empty"),
        (Check::Group(so_far), "resource") => Check::Resource(Question {
            resource: given,
            ..so_far.clone()
        }),
        (Check::Resource(so_far), "subresource") => Check::Resource(Question {
            subresource: given,
            ..so_far.clone()
        }),
        (Check::Resource(so_far), "namespace") => Check::Resource(Question {
            namespace: given,
            ..so_far.clone()
        }),
        (Check::Resource(so_far), "name") => Check::Resource(Question {
            name: given,
            ..so_far.clone()
        }),
        (Check::Resource(so_far), "fieldSelector") => Check::Resource(Question {
            field_selector: given,
            ..so_far.clone()
        }),
        (Check::Resource(so_far), "labelSelector") => Check::Resource(Question {
            label_selector: given,
            ..so_far.clone()
        }),
        (Check::Path(so_far) | Check::Resource(so_far), "check") => {
            let Some(authorizer) = run.authorizer() else {
                return Err(EvalError::NoSuchOverload);
            };
            Check::Decision(authorizer.decide(&Question {
                verb: given,
                ..so_far.clone()
            }))
        }
        _ => return Err(unfit(call, values)),
    };
    Ok(Val::Check(Arc::new(made)))
}

fn answered<'r, 'p, 'a>(_: &'r mut Run<'p, 'a>, call: &'r Call, values: &'r [Val<'a>]) -> Evaluated<Val<'a>> {
    let decision = match &values[0] {
        Val::Check(check) => match &**check {
            Check::Decision(decision) => decision,
            _ => return Err(unfit(call, values)),
        },
        _ => return Err(unfit(call, values)),
    };
    Ok(match &*call.function {
        "errored" => Val::Bool(decision.error.is_some()),
        "error" => Val::made(decision.error.as_deref().unwrap_or_default()),
        "allowed" => Val::Bool(decision.allowed),
        _ => Val::made(&decision.reason),
    })
}
