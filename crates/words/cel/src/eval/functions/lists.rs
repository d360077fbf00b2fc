//! Functions of lists.

use std::cmp::Ordering;

use super::{Body, unfit};
use crate::eval::compile::Call;
use crate::eval::error::{EvalError, Evaluated, refused};
use crate::eval::ops;
use crate::eval::show;
use crate::eval::value::{List, Val};

pub(super) fn body(name: &str) -> Option<Body> {
    Some(match name {
        "isSorted" => |_, call, values| {
            let items = items(call, values)?;
            for pair in items.windows(2) {
                if let Ok(Ordering::Greater) = ops::compare(&pair[0], &pair[1]) {
                    return Ok(Val::Bool(false));
                }
            }
            comparable(&items)?;
            Ok(Val::Bool(true))
        },
        "sum" => |_, call, values| {
            let items = items(call, values)?;
            let mut sum = match (call.overload, items.first()) {
                (Some("list_uint_sum_uint"), _) | (None, Some(Val::Uint(_))) => Val::Uint(0),
                (Some("list_double_sum_double"), _) | (None, Some(Val::Double(_))) => Val::Double(0.0),
                (Some("list_duration_sum_duration"), _) | (None, Some(Val::Duration(_))) => Val::Duration(0),
                (Some(_), _) | (None, None | Some(Val::Int(_))) => Val::Int(0),
                (None, Some(_)) => return Err(unfit(call, values)),
            };
            for item in items {
                sum = ops::arithmetic("_+_", &sum, &item)?;
            }
            Ok(sum)
        },
        "max" => |_, call, values| extreme("max", Ordering::Less, items(call, values)?),
        "min" => |_, call, values| extreme("min", Ordering::Greater, items(call, values)?),
        "slice" => |_, call, values| {
            let (Val::List(list), Some(Val::Int(start)), Some(Val::Int(end))) = (&values[0], values.get(1), values.get(2)) else {
                return Err(unfit(call, values));
            };
            let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
            let why = if *start < 0 || *end < 0 {
                "negative indexes not supported".to_owned()
            } else if start > end {
                "start index must be less than or equal to end index".to_owned()
            } else if length < *end {
                format!("list is length {length}")
            } else {
                let range = usize::try_from(*start).unwrap_or_default()..usize::try_from(*end).unwrap_or_default();
                return range
                    .map(|index| list.get(index))
                    .collect::<Evaluated<Vec<_>>>()
                    .map(Val::list);
            };
            refused(format!("cannot slice({start}, {end}), {why}"))
        },
        "flatten" => |_, call, values| {
            let (Val::List(list), depth) = (&values[0], values.get(1)) else {
                return Err(unfit(call, values));
            };
            let depth = match depth {
                None => 1,
                Some(Val::Int(depth)) => *depth,
                Some(_) => return Err(unfit(call, values)),
            };
            if depth < 0 {
                return refused("level must be non-negative");
            }
            let mut made = Vec::new();
            flatten(list, depth, &mut made)?;
            Ok(Val::list(made))
        },
        "sort" => |_, call, values| {
            let items = items(call, values)?;
            sorted(items.clone(), &items, &values[0])
        },
        "@sortByAssociatedKeys" => |_, call, values| {
            let (Val::List(list), Some(Val::List(keys))) = (&values[0], values.get(1)) else {
                return Err(unfit(call, values));
            };
            sorted(list.values()?, &keys.values()?, &values[0])
        },
        "lists.range" => |run, call, values| match &values[0] {
            Val::Int(count) => {
                run.makes(u64::try_from(*count).unwrap_or_default())?;
                Ok(Val::list((0..*count).map(Val::Int).collect()))
            }
            _ => Err(unfit(call, values)),
        },
        "reverse" => |_, call, values| {
            let mut items = items(call, values)?;
            items.reverse();
            Ok(Val::list(items))
        },
        "distinct" => |_, call, values| {
            let mut made: Vec<Val<'_>> = Vec::new();
            for item in items(call, values)? {
                if !made.iter().any(|other| matches!(ops::equal(&item, other), Ok(true))) {
                    made.push(item);
                }
            }
            Ok(Val::list(made))
        },
        "first" | "last" => |_, call, values| {
            let items = items(call, values)?;
            let found = if &*call.function == "first" {
                items.first()
            } else {
                items.last()
            };
            Ok(found.map_or(Val::Optional(None), |found| Val::some(found.clone())))
        },
        "optional.unwrap" | "unwrapOpt" => |_, call, values| {
            let mut made = Vec::new();
            for item in items(call, values)? {
                match item {
                    Val::Optional(Some(value)) => made.push((*value).clone()),
                    Val::Optional(None) => {}
                    other => return refused(format!("value {} is not optional", show::plain(&other))),
                }
            }
            Ok(Val::list(made))
        },
        "sets.contains" => |_, call, values| {
            let (list, other) = two(call, values)?;
            has_all(list, other)
        },
        "sets.equivalent" => |_, call, values| {
            let (list, other) = two(call, values)?;
            match has_all(list, other)? {
                Val::Bool(true) => has_all(other, list),
                no => Ok(no),
            }
        },
        "sets.intersects" => |_, call, values| {
            let (list, other) = two(call, values)?;
            let within = Val::List(other.clone());
            for item in list.values()? {
                if let Ok(true) = ops::contains(&item, &within) {
                    return Ok(Val::Bool(true));
                }
            }
            Ok(Val::Bool(false))
        },
        _ => return None,
    })
}

fn items<'a>(call: &Call, values: &[Val<'a>]) -> Evaluated<Vec<Val<'a>>> {
    match &values[0] {
        Val::List(list) => list.values(),
        _ => Err(unfit(call, values)),
    }
}

fn two<'r, 'a>(call: &Call, values: &'r [Val<'a>]) -> Evaluated<(&'r List<'a>, &'r List<'a>)> {
    match values {
        [Val::List(list), Val::List(other)] => Ok((list, other)),
        _ => Err(unfit(call, values)),
    }
}

fn has_all<'a>(list: &List<'a>, other: &List<'a>) -> Evaluated<Val<'a>> {
    let within = Val::List(list.clone());
    for item in other.values()? {
        if !ops::contains(&item, &within)? {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

fn comparable(items: &[Val<'_>]) -> Evaluated<()> {
    let none = |item: &Val<'_>| matches!(ops::compare(item, item), Err(EvalError::NoSuchOverload));
    if items.iter().any(none) {
        Err(EvalError::NoSuchOverload)
    } else {
        Ok(())
    }
}

fn extreme<'a>(name: &'static str, worse: Ordering, items: Vec<Val<'a>>) -> Evaluated<Val<'a>> {
    comparable(&items)?;
    let mut best: Option<Val<'a>> = None;
    for item in items {
        best = Some(match best {
            Some(best) if !matches!(ops::compare(&best, &item), Ok(order) if order == worse) => best,
            _ => item,
        });
    }
    best.ok_or(EvalError::Empty(name))
}

fn flatten<'a>(list: &List<'a>, depth: i64, into: &mut Vec<Val<'a>>) -> Evaluated<()> {
    for item in list.values()? {
        match &item {
            Val::List(inner) if depth > 0 => flatten(inner, depth - 1, into)?,
            _ => into.push(item),
        }
    }
    Ok(())
}

/// `items` in the order of their `keys`.
fn sorted<'a>(items: Vec<Val<'a>>, keys: &[Val<'a>], whole: &Val<'a>) -> Evaluated<Val<'a>> {
    if items.len() != keys.len() {
        return refused(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements \
             respectively",
            items.len(),
            keys.len()
        ));
    }
    let Some(first) = keys.first() else {
        return Ok(whole.clone());
    };
    if comparable(std::slice::from_ref(first)).is_err() {
        return refused("list elements must be comparable");
    }
    if keys.iter().any(|key| key.type_name() != first.type_name()) {
        return refused("list elements must have the same type");
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|one, other| ops::compare(&keys[*one], &keys[*other]).unwrap_or(Ordering::Equal));
    Ok(Val::list(order.into_iter().map(|index| items[index].clone()).collect()))
}
