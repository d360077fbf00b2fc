//! Operators: equality, order, arithmetic, and steps into lists and maps.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::error::{EvalError, Evaluated, refused};
use super::show;
use super::time;
use super::value::{Key, List, Map, Order, Shape, Text, Val};

/// The whole number that a float is.
pub(crate) fn lossless_int(number: f64) -> Option<i64> {
    let whole = (-9.223_372_036_854_775e18..9.223_372_036_854_775e18)
        .contains(&number)
        .then_some(number as i64)?;
    (whole as f64 == number).then_some(whole)
}

/// The whole number without sign that a float is.
pub(crate) fn lossless_uint(number: f64) -> Option<u64> {
    let whole = (0.0..1.844_674_407_370_955e19).contains(&number).then_some(number as u64)?;
    (whole as f64 == number).then_some(whole)
}

/// Keys of other types that are the same number.
pub(crate) fn equal_keys(key: &Key<'static>) -> Vec<Key<'static>> {
    let bits = |number: f64| Key::Double(number.to_bits());
    match key {
        Key::Int(number) => {
            let mut all = vec![bits(*number as f64)];
            all.extend(u64::try_from(*number).ok().map(Key::Uint));
            all
        }
        Key::Uint(number) => {
            let mut all = vec![bits(*number as f64)];
            all.extend(i64::try_from(*number).ok().map(Key::Int));
            all
        }
        Key::Double(number) => {
            let number = f64::from_bits(*number);
            let int = lossless_int(number).map(Key::Int);
            int.into_iter().chain(lossless_uint(number).map(Key::Uint)).collect()
        }
        _ => Vec::new(),
    }
}

/// The order of numbers, whatever their types; none if one is no number.
fn numbers(left: &Val<'_>, right: &Val<'_>) -> Option<Ordering> {
    let whole = |value: &Val<'_>| match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    let float = |whole: i128, number: f64, unsigned: bool| {
        let (least, most) = if unsigned {
            (0.0, u64::MAX as f64)
        } else {
            (i64::MIN as f64, i64::MAX as f64)
        };
        if number < least {
            return Some(Ordering::Greater);
        }
        if number > most {
            return Some(Ordering::Less);
        }
        (whole as f64).partial_cmp(&number)
    };
    match (left, right) {
        (Val::Double(left), Val::Double(right)) => left.partial_cmp(right),
        (Val::Double(number), other) => float(whole(other)?, *number, matches!(other, Val::Uint(_))).map(Ordering::reverse),
        (other, Val::Double(number)) => float(whole(other)?, *number, matches!(other, Val::Uint(_))),
        _ => Some(whole(left)?.cmp(&whole(right)?)),
    }
}

fn is_number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::Uint(_) | Val::Double(_))
}

/// The order of two values.
pub(crate) fn compare(left: &Val<'_>, right: &Val<'_>) -> Evaluated<Ordering> {
    let nan = |value: &Val<'_>| matches!(value, Val::Double(number) if number.is_nan());
    if is_number(left) && (nan(left) || is_number(right) && nan(right)) {
        return Err(EvalError::Unordered);
    }
    Ok(match (left, right) {
        (Val::Bool(left), Val::Bool(right)) => left.cmp(right),
        (Val::String(left), Val::String(right)) => left.as_str().cmp(right.as_str()),
        (Val::Bytes(left), Val::Bytes(right)) => left.cmp(right),
        (Val::Duration(left), Val::Duration(right)) => left.cmp(right),
        (Val::Timestamp(left, nanos), Val::Timestamp(right, others)) => (left, nanos).cmp(&(right, others)),
        _ if is_number(left) && is_number(right) => numbers(left, right).ok_or(EvalError::Unordered)?,
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// Whether two values are the same, whatever their types.
pub(crate) fn equal<'a>(left: &Val<'a>, right: &Val<'a>) -> Evaluated<bool> {
    if matches!(left, Val::Null) || matches!(right, Val::Null) {
        return Ok(matches!((left, right), (Val::Null, Val::Null)));
    }
    let others = || Err(EvalError::NoSuchOverload);
    Ok(match (left, right) {
        _ if is_number(left) => is_number(right) && numbers(left, right) == Some(Ordering::Equal),
        (Val::Bool(left), Val::Bool(right)) => left == right,
        (Val::String(left), Val::String(right)) => left.as_str() == right.as_str(),
        (Val::Bytes(left), Val::Bytes(right)) => left == right,
        (Val::Duration(left), Val::Duration(right)) => left == right,
        (Val::Timestamp(..), Val::Timestamp(..)) => compare(left, right)? == Ordering::Equal,
        (Val::Type(left), Val::Type(right)) => left == right,
        (Val::Optional(Some(left)), Val::Optional(Some(right))) => return equal(left, right),
        (Val::Optional(left), Val::Optional(right)) => left.is_none() && right.is_none(),
        (Val::List(left), Val::List(right)) => return lists(left, right),
        (Val::Map(left), Val::Map(right)) => return maps(left, right),
        // What schemas shape is not compared with what is something else.
        (Val::List(List::Seen(_, Some(_)) | List::Made(_, Some(_))) | Val::Map(Map::Seen(_, Some(_))), _) => return others(),
        (Val::Quantity(left), Val::Quantity(right)) => left.cmp(right) == Ordering::Equal,
        (Val::Ip(left), Val::Ip(right)) => left == right,
        (Val::Cidr(left), Val::Cidr(right)) => left == right,
        (Val::Url(left), Val::Url(right)) => left.to_string() == right.to_string(),
        (Val::Semver(left), Val::Semver(right)) => left.compare(right) == Ordering::Equal,
        (Val::Format(left), Val::Format(right)) => left.name == right.name,
        (Val::Quantity(_) | Val::Ip(_) | Val::Cidr(_) | Val::Url(_) | Val::Semver(_) | Val::Format(_) | Val::Check(_), _) => {
            return others();
        }
        _ => false,
    })
}

fn lists<'a>(left: &List<'a>, right: &List<'a>) -> Evaluated<bool> {
    if left.len() != right.len() {
        return Ok(false);
    }
    match left.order() {
        Some(Order::Set) => {
            let known = raw_keys(left);
            for value in right.values()? {
                match Key::of(&value) {
                    Some(key) if known.iter().any(|known| *known == Some(key.clone())) => {}
                    _ => return Ok(false),
                }
            }
            return Ok(true);
        }
        Some(Order::Map(keys)) => {
            let known: Vec<Option<String>> = left.values()?.iter().map(|value| entry_key(value, keys)).collect();
            for value in right.values()? {
                let key = entry_key(&value, keys);
                // Of several with one key, the last counts.
                let Some(at) = key.and_then(|key| known.iter().rposition(|known| *known == Some(key.clone()))) else {
                    return Ok(false);
                };
                if !equal(&left.get(at)?, &value)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        _ => {}
    }
    let strict = left.shape().is_some();
    for index in 0..left.len() {
        let same = equal(&left.get(index)?, &right.get(index)?);
        match same {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) if strict => return Err(why),
            // Lists without a shape take what cannot be compared for the same.
            Err(_) => {}
        }
    }
    Ok(true)
}

/// The keys of a set's elements as they stand in the input.
fn raw_keys<'a>(list: &List<'a>) -> Vec<Option<Key<'a>>> {
    match list {
        List::Seen(items, _) => items.iter().map(Key::raw).collect(),
        List::Made(items, _) => items.iter().map(Key::of).collect(),
    }
}

/// What an element of a list that is a map is known by: none if it is no object of an input.
fn entry_key(value: &Val<'_>, keys: &[Box<str>]) -> Option<String> {
    let Val::Map(Map::Seen(object, _)) = value else {
        return None;
    };
    let parts: Vec<&Value> = keys.iter().map(|key| object.get(&**key).unwrap_or(&Value::Null)).collect();
    serde_json::to_string(&parts).ok()
}

fn maps<'a>(left: &Map<'a>, right: &Map<'a>) -> Evaluated<bool> {
    if left.len() != right.len() {
        return Ok(false);
    }
    let shaped = matches!(left, Map::Seen(_, Some(_)));
    for key in left.keys() {
        let (Some(one), found) = (left.find(&key)?, right.find(&key)?) else {
            match right.find(&key)? {
                Some(_) => return Ok(false),
                None => continue,
            }
        };
        let Some(other) = found else {
            return Ok(false);
        };
        match equal(&one, &other) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) if shaped => return Err(why),
            Err(_) => {}
        }
    }
    // Properties that the shape does not know are compared as they stand.
    if let (Map::Seen(one, Some(shape)), Map::Seen(other, _)) = (left, right) {
        let known = |name: &str| match &shape.kind {
            super::value::Kind::Object(properties) => properties.contains_key(name),
            _ => true,
        };
        for (name, value) in one.iter().filter(|(name, _)| !known(name)) {
            if other.get(name).is_some_and(|other| other != value) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether a list or map has an element or key.
pub(crate) fn contains<'a>(searched: &Val<'a>, within: &Val<'a>) -> Evaluated<bool> {
    match within {
        Val::List(list) => {
            let mut why = None;
            for index in 0..list.len() {
                let same = match list.shape() {
                    Some(_) => list.get(index).and_then(|item| equal(&item, searched)),
                    None => list.get(index).and_then(|item| equal(searched, &item)),
                };
                match same {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(error) => why = why.or(Some(error)),
                }
            }
            match why {
                Some(error) if list.shape().is_some() => Err(error),
                _ => Ok(false),
            }
        }
        Val::Map(map) => map.find(searched).map(|found| found.is_some()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// What stands under a key in a value; with `presence`, none if nothing does.
pub(crate) fn qualify<'a>(value: &Val<'a>, key: &Val<'a>, presence: bool) -> Evaluated<Option<Val<'a>>> {
    let named = || show::plain(key).into();
    match value {
        Val::Map(map) => match map.find(key)? {
            Some(found) => Ok(Some(found)),
            None if presence => Ok(None),
            None => Err(EvalError::NoSuchKey(named())),
        },
        Val::List(list) => {
            if list.shape().is_some() && matches!(key, Val::Double(_) | Val::Uint(_)) {
                return refused(format!("unsupported index: {}", show::plain(key)));
            }
            let unsupported = || refused(format!("unsupported index value {} in list", show::plain(key)));
            let index = match key {
                Val::Int(index) => *index,
                Val::Double(number) => match lossless_int(*number) {
                    Some(index) => index,
                    None => return unsupported(),
                },
                Val::Uint(number) => match i64::try_from(*number) {
                    Ok(index) => index,
                    Err(_) => return unsupported(),
                },
                other => return refused(format!("unsupported index type '{}' in list", other.type_name())),
            };
            match usize::try_from(index).ok().filter(|index| *index < list.len()) {
                Some(index) => list.get(index).map(Some),
                None if presence => Ok(None),
                None => Err(EvalError::OutOfBounds(named())),
            }
        }
        _ if presence => Ok(None),
        _ => Err(EvalError::NoSuchKey(named())),
    }
}

/// What `left + right` is, of lists; the left one is used up.
pub(crate) fn add_lists<'a>(left: List<'a>, right: &List<'a>) -> Evaluated<Val<'a>> {
    let shape = left.shape();
    if shape.is_none() {
        if right.len() == 0 {
            return Ok(Val::List(left));
        }
        if left.len() == 0 {
            return Ok(Val::List(right.clone()));
        }
    }
    match left.order() {
        Some(Order::Set) => {
            let mut known = raw_keys(&left);
            let mut items = left.values()?;
            for value in right.values()? {
                let key = Key::of(&value);
                if !known.contains(&key) {
                    known.push(key);
                    items.push(value);
                }
            }
            return Ok(made(items, shape));
        }
        Some(Order::Map(keys)) => {
            let mut items = left.values()?;
            let mut known: Vec<Option<String>> = items.iter().map(|value| entry_key(value, keys)).collect();
            for value in right.values()? {
                let key = entry_key(&value, keys);
                match known.iter().rposition(|known| *known == key && key.is_some()) {
                    Some(at) => items[at] = value,
                    None => {
                        known.push(key);
                        items.push(value);
                    }
                }
            }
            return Ok(made(items, shape));
        }
        _ => {}
    }
    let more = right.values()?;
    let mut items = match left {
        List::Made(items, _) => Arc::unwrap_or_clone(items),
        List::Seen(..) => left.values()?,
    };
    items.extend(more);
    Ok(made(items, shape))
}

fn made<'a>(items: Vec<Val<'a>>, shape: Option<&'a Shape>) -> Val<'a> {
    Val::List(List::Made(Arc::new(items), shape))
}

/// A map with an entry, or those of another map, more; the map is used up.
pub(crate) fn map_insert(values: Vec<Val<'_>>) -> Evaluated<Val<'_>> {
    let mut values = values.into_iter();
    let (Some(Val::Map(map)), Some(first)) = (values.next(), values.next()) else {
        return Err(EvalError::NoSuchOverload);
    };
    let mut all = match map {
        Map::Made(all) => Arc::unwrap_or_clone(all),
        seen @ Map::Seen(..) => entries(&seen)?,
    };
    let new = match (values.next(), first) {
        (Some(value), key) => {
            let Some(key) = Key::of(&key) else {
                return refused("unsupported key type");
            };
            BTreeMap::from([(key, value)])
        }
        (None, Val::Map(other)) => entries(&other)?,
        _ => return Err(EvalError::NoSuchOverload),
    };
    for (key, value) in new {
        let taken = Map::Made(Arc::new(std::mem::take(&mut all)));
        let found = taken.find(&key.value())?.is_some();
        if let Map::Made(shared) = taken {
            all = Arc::unwrap_or_clone(shared);
        }
        if found {
            return refused(format!("insert failed: key {} already exists", show::plain(&key.value())));
        }
        all.insert(key, value);
    }
    Ok(Val::Map(Map::Made(Arc::new(all))))
}

fn entries<'a>(map: &Map<'a>) -> Evaluated<BTreeMap<Key<'a>, Val<'a>>> {
    let mut all = BTreeMap::new();
    for key in map.keys() {
        if let (Some(known), Some(value)) = (Key::of(&key), map.find(&key)?) {
            all.insert(known, value);
        }
    }
    Ok(all)
}

/// `+`, `-`, `*`, `/` and `%`.
pub(crate) fn arithmetic<'a>(operator: &str, left: &Val<'a>, right: &Val<'a>) -> Evaluated<Val<'a>> {
    use Val::{Bytes, Double, Duration, Int, List, String, Timestamp, Uint};
    let int = |found: Option<i64>| found.map(Int).ok_or(EvalError::IntOverflow);
    let uint = |found: Option<u64>| found.map(Uint).ok_or(EvalError::UintOverflow);
    let span = |found: Option<i64>| found.map(Duration).ok_or(EvalError::IntOverflow);
    match (operator, left, right) {
        ("_+_", Int(left), Int(right)) => int(left.checked_add(*right)),
        ("_-_", Int(left), Int(right)) => int(left.checked_sub(*right)),
        ("_*_", Int(left), Int(right)) => int(left.checked_mul(*right)),
        ("_/_", Int(_), Int(0)) | ("_/_", Uint(_), Uint(0)) => Err(EvalError::DivisionByZero),
        ("_%_", Int(_), Int(0)) | ("_%_", Uint(_), Uint(0)) => Err(EvalError::ModulusByZero),
        ("_/_", Int(left), Int(right)) => int(left.checked_div(*right)),
        ("_%_", Int(left), Int(right)) => int(left.checked_rem(*right)),
        ("_+_", Uint(left), Uint(right)) => uint(left.checked_add(*right)),
        ("_-_", Uint(left), Uint(right)) => uint(left.checked_sub(*right)),
        ("_*_", Uint(left), Uint(right)) => uint(left.checked_mul(*right)),
        ("_/_", Uint(left), Uint(right)) => uint(left.checked_div(*right)),
        ("_%_", Uint(left), Uint(right)) => uint(left.checked_rem(*right)),
        ("_+_", Double(left), Double(right)) => Ok(Double(left + right)),
        ("_-_", Double(left), Double(right)) => Ok(Double(left - right)),
        ("_*_", Double(left), Double(right)) => Ok(Double(left * right)),
        ("_/_", Double(left), Double(right)) => Ok(Double(left / right)),
        ("_+_", String(left), String(right)) => Ok(String(Text::Made([left.as_str(), right.as_str()].concat().into()))),
        ("_+_", Bytes(left), Bytes(right)) => Ok(Bytes([&**left, &**right].concat().into())),
        ("_+_", List(left), List(right)) => add_lists(left.clone(), right),
        ("_+_", Duration(left), Duration(right)) => span(left.checked_add(*right)),
        ("_-_", Duration(left), Duration(right)) => span(left.checked_sub(*right)),
        ("_+_", Timestamp(seconds, nanos), Duration(by)) | ("_+_", Duration(by), Timestamp(seconds, nanos)) => {
            time::moved(*seconds, *nanos, (*by).into())
        }
        ("_-_", Timestamp(seconds, nanos), Duration(by)) => time::moved(*seconds, *nanos, -i128::from(*by)),
        ("_-_", Timestamp(left, nanos), Timestamp(right, others)) => {
            let between = i128::from(left - right) * 1_000_000_000 + i128::from(*nanos) - i128::from(*others);
            i64::try_from(between).map(Duration).map_err(|_| EvalError::IntOverflow)
        }
        _ => {
            let has = match operator {
                "_+_" => matches!(
                    left,
                    Bytes(_) | Double(_) | Duration(_) | Int(_) | List(_) | String(_) | Timestamp(..) | Uint(_)
                ),
                "_-_" => matches!(left, Double(_) | Duration(_) | Int(_) | Timestamp(..) | Uint(_)),
                "_%_" => matches!(left, Int(_) | Uint(_)),
                _ => matches!(left, Double(_) | Int(_) | Uint(_)),
            };
            if has || matches!(left, String(_) | Timestamp(..) | Duration(_)) {
                return Err(EvalError::NoSuchOverload);
            }
            Err(EvalError::NoSuchOverloadOf(operator.into()))
        }
    }
}
