//! Runs programs, and counts what they cost as cel-go's tracker does.
//!
//! The tracker keeps the numbers of the nodes whose values are still to be used; a call is charged if the values of all its
//! arguments are found there. What loops leave behind is kept, too, as cel-go keeps it, since it decides what is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::authorizer::Authorizer;
use super::compile::{Attr, Call, Fold, Made, Node, Part, PartKey, Root, Step};
use super::error::{EvalError, Evaluated};
use super::ops;
use super::value::{Key, List, Map, Val};

/// What variables stand for.
pub trait Inputs<'a> {
    /// The value of a variable, none if it has none. Asked once in a run for each variable that is read.
    fn get(&self, name: &str) -> Option<Evaluated<Val<'a>>>;
}

impl<'a, T: AsRef<str>> Inputs<'a> for Vec<(T, Val<'a>)> {
    fn get(&self, name: &str) -> Option<Evaluated<Val<'a>>> {
        let found = self.iter().find(|(known, _)| known.as_ref() == name);
        found.map(|(_, value)| Ok(value.clone()))
    }
}

/// What a run may cost and whom it asks.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The most that it may cost.
    pub limit: u64,
    /// Who says what users may do.
    pub authorizer: Option<&'a dyn Authorizer>,
}

/// Elements and bytes that may be made beyond what is charged for, so that memory is bounded.
const UNCHARGED_MAX: u64 = 4 << 20;
const NONE: u32 = u32::MAX;

#[derive(Clone)]
enum Slot<'p, 'a> {
    Unset,
    /// To be had from the loop's beginning when it is first asked for.
    Init(&'p Fold),
    Is(Evaluated<Val<'a>>),
}

pub(crate) struct Run<'p, 'a> {
    made: &'p Made,
    inputs: &'p dyn Inputs<'a>,
    terms: Terms<'a>,
    read: Vec<Option<Evaluated<Val<'a>>>>,
    slots: Vec<Slot<'p, 'a>>,
    pub cost: u64,
    uncharged: u64,
    /// The number of a node, and where the same stands below.
    stack: Vec<(u32, u32)>,
    last: Vec<u32>,
}

/// The value of a node that is made of constants.
pub(crate) fn constant(node: &Node) -> Evaluated<Val<'static>> {
    let made = Made {
        root: Node {
            id: 0,
            step: Step::Const(Val::Null),
        },
        inputs: Vec::new(),
        slots: 0,
        loops: false,
        ids: 0,
    };
    let inputs: Vec<(&str, Val<'static>)> = Vec::new();
    let terms = Terms {
        limit: u64::MAX,
        authorizer: None,
    };
    Run::new(&made, &inputs, terms).eval(node)
}

impl<'p, 'a> Run<'p, 'a> {
    pub fn new(made: &'p Made, inputs: &'p dyn Inputs<'a>, terms: Terms<'a>) -> Self {
        Self {
            made,
            inputs,
            terms,
            read: vec![None; made.inputs.len()],
            slots: vec![Slot::Unset; made.slots],
            cost: 0,
            uncharged: 0,
            stack: Vec::new(),
            last: if made.loops { vec![NONE; made.ids] } else { Vec::new() },
        }
    }

    pub fn authorizer(&self) -> Option<&'a dyn Authorizer> {
        self.terms.authorizer
    }

    /// Bounds what is made without being charged for.
    pub fn makes(&mut self, count: u64) -> Evaluated<()> {
        self.uncharged = self.uncharged.saturating_add(count);
        if self.uncharged > UNCHARGED_MAX {
            return Err(EvalError::CostLimit);
        }
        Ok(())
    }

    fn charge(&mut self, id: u32, cost: u64) -> Evaluated<()> {
        self.cost = self.cost.wrapping_add(cost);
        if self.made.loops {
            let at = u32::try_from(self.stack.len()).map_err(|_| EvalError::CostLimit)?;
            self.stack.push((id, self.last[id as usize]));
            self.last[id as usize] = at;
        }
        if self.cost > self.terms.limit {
            return Err(EvalError::CostLimit);
        }
        Ok(())
    }

    fn drop(&mut self, id: u32) -> bool {
        if !self.made.loops {
            return true;
        }
        let at = self.last[id as usize];
        if at == NONE {
            return false;
        }
        while self.stack.len() > at as usize {
            if let Some((id, below)) = self.stack.pop() {
                self.last[id as usize] = below;
            }
        }
        true
    }

    /// Uses the values of these nodes; whether all are there.
    fn use_all<'n>(&mut self, nodes: impl DoubleEndedIterator<Item = &'n Node>) -> bool {
        for node in nodes.rev() {
            if !self.drop(known_as(node)) {
                return false;
            }
        }
        true
    }

    pub fn eval(&mut self, node: &'p Node) -> Evaluated<Val<'a>> {
        match &node.step {
            Step::Const(value) => {
                self.charge(node.id, 0)?;
                Ok(value.clone())
            }
            Step::Attr(attr) => self.attr(node, attr),
            Step::And(both) => self.logic(node, both, false),
            Step::Or(both) => self.logic(node, both, true),
            Step::Equal(call, both, wanted) => {
                let arguments = [self.arg(&both[0])?, self.arg(&both[1])?];
                let result = match &arguments {
                    [Err(why), _] | [_, Err(why)] => Err(why.clone()),
                    // What cannot be compared differs.
                    [Ok(left), Ok(right)] if *wanted => ops::equal(left, right).map(Val::Bool),
                    [Ok(left), Ok(right)] => Ok(Val::Bool(!matches!(ops::equal(left, right), Ok(true)))),
                };
                self.called(node, call, both.iter(), &arguments, result)
            }
            Step::Unary(call, argument) => {
                let arguments = [self.arg(argument)?];
                let result = match &arguments {
                    [Err(_)] if &*call.function == "@not_strictly_false" => Ok(Val::Bool(true)),
                    [Err(why)] => Err(why.clone()),
                    [Ok(value)] => (call.body)(self, call, std::slice::from_ref(value)),
                };
                self.called(node, call, std::iter::once(&**argument), &arguments, result)
            }
            Step::Binary(call, both) => self.binary(node, call, both),
            Step::Many(call, all) => self.many(node, call, all),
            Step::OrElse(both, inner) => {
                let result = self.or_else(both, *inner);
                self.done(node, result)
            }
            Step::Member(searched, set) => {
                let value = self.arg(searched)?;
                let set: &std::collections::BTreeSet<Key<'a>> = set;
                let result = value.map(|value| Val::Bool(Key::of(&value).is_some_and(|key| set.contains(&key))));
                self.done(node, result)
            }
            Step::List(elements, optional) => {
                let result = self.list(elements, optional);
                let result = self.settle(result)?;
                self.use_all(elements.iter());
                self.charge(node.id, 10)?;
                result
            }
            Step::Map(entries) => {
                let result = self.map(entries);
                let result = self.settle(result)?;
                self.use_all(
                    entries
                        .iter()
                        .flat_map(|(key, value, _)| [key, value])
                        .collect::<Vec<_>>()
                        .into_iter(),
                );
                self.charge(node.id, 30)?;
                result
            }
            Step::Fold(fold) => {
                let result = self.fold(fold);
                let result = self.settle(result)?;
                self.drop(known_as(&fold.range));
                self.charge(node.id, 0)?;
                result
            }
        }
    }

    /// Keeps errors apart from the one that ends everything.
    fn settle<T>(&self, result: Evaluated<T>) -> Evaluated<Evaluated<T>> {
        match result {
            Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
            other => Ok(other),
        }
    }

    fn arg(&mut self, node: &'p Node) -> Evaluated<Evaluated<Val<'a>>> {
        let result = self.eval(node);
        self.settle(result)
    }

    fn done(&mut self, node: &Node, result: Evaluated<Val<'a>>) -> Evaluated<Val<'a>> {
        let result = self.settle(result)?;
        self.charge(node.id, 0)?;
        result
    }

    fn binary(&mut self, node: &'p Node, call: &'p Call, both: &'p [Node; 2]) -> Evaluated<Val<'a>> {
        let (left, right) = (self.arg(&both[0])?, self.arg(&both[1])?);
        let (left, right) = match (left, right) {
            (Ok(left), Ok(right)) => (left, right),
            (left, right) => {
                let why = match (&left, &right) {
                    (Err(why), _) | (_, Err(why)) => why.clone(),
                    _ => EvalError::NoSuchOverload,
                };
                return self.called(node, call, both.iter(), &[left, right], Err(why));
            }
        };
        if &*call.function == "_+_"
            && let (Val::List(list), Val::List(other)) = (&left, &right)
        {
            // Adding to a list costs as much whatever is in it: it need not be there any more.
            let shaped = list.shape().is_some();
            if !shaped && let Val::List(list) = left {
                self.makes(if list.is_alone() { 0 } else { list.len() as u64 })?;
                let result = ops::add_lists(list, other);
                let found = self.use_all(both.iter());
                self.charge(node.id, u64::from(found))?;
                return result;
            }
        }
        let arguments = [left, right];
        let result = (call.body)(self, call, &arguments);
        let arguments = arguments.map(Ok);
        self.called(node, call, both.iter(), &arguments, result)
    }

    fn many(&mut self, node: &'p Node, call: &'p Call, all: &'p [Node]) -> Evaluated<Val<'a>> {
        let mut values = Vec::with_capacity(all.len());
        for argument in all {
            match self.arg(argument)? {
                Ok(value) => values.push(value),
                Err(why) => {
                    let complete = values.len() + 1 == all.len();
                    let mut arguments: Vec<Evaluated<Val<'a>>> = values.into_iter().map(Ok).collect();
                    arguments.push(Err(why.clone()));
                    if !self.made.loops && !complete {
                        return self.done(node, Err(why));
                    }
                    return self.called(node, call, all.iter(), &arguments, Err(why));
                }
            }
        }
        if &*call.function == "cel.@mapInsert" {
            let result = ops::map_insert(values);
            let found = self.use_all(all.iter());
            let result = self.settle(result)?;
            self.charge(node.id, u64::from(found))?;
            return result;
        }
        let result = (call.body)(self, call, &values);
        let arguments: Vec<Evaluated<Val<'a>>> = values.into_iter().map(Ok).collect();
        self.called(node, call, all.iter(), &arguments, result)
    }

    fn called<'n>(
        &mut self,
        node: &Node,
        call: &Call,
        nodes: impl DoubleEndedIterator<Item = &'n Node>,
        arguments: &[Evaluated<Val<'a>>],
        result: Evaluated<Val<'a>>,
    ) -> Evaluated<Val<'a>> {
        let result = self.settle(result)?;
        let cost = if self.use_all(nodes) {
            call.price.cost(arguments, &result)
        } else {
            0
        };
        self.charge(node.id, cost)?;
        result
    }

    /// `&&` and `||`: the term `decides` decides, whatever errors stand beside it.
    fn logic(&mut self, node: &Node, both: &'p [Node; 2], decides: bool) -> Evaluated<Val<'a>> {
        let mut first = None;
        let mut result = None;
        for term in both {
            match self.arg(term)? {
                Ok(Val::Bool(truth)) if truth == decides => {
                    result = Some(Val::Bool(decides));
                    break;
                }
                Ok(Val::Bool(_)) => {}
                Ok(_) => first = first.or(Some(EvalError::NoSuchOverload)),
                Err(why) => first = first.or(Some(why)),
            }
        }
        for term in both {
            self.drop(known_as(term));
        }
        self.charge(node.id, 0)?;
        match (result, first) {
            (Some(value), _) => Ok(value),
            (None, Some(why)) => Err(why),
            (None, None) => Ok(Val::Bool(!decides)),
        }
    }

    fn or_else(&mut self, both: &'p [Node; 2], inner: bool) -> Evaluated<Val<'a>> {
        match self.eval(&both[0])? {
            Val::Optional(Some(value)) if inner => Ok((*value).clone()),
            Val::Optional(None) => self.eval(&both[1]),
            other => Ok(other),
        }
    }

    fn list(&mut self, elements: &'p [Node], optional: &[bool]) -> Evaluated<Val<'a>> {
        let mut items = Vec::with_capacity(elements.len());
        for (element, optional) in elements.iter().zip(optional) {
            match (self.eval(element)?, optional) {
                (Val::Optional(None), true) => {}
                (Val::Optional(Some(value)), true) => items.push((*value).clone()),
                (other, true) => {
                    let said = format!(
                        "cannot initialize optional list element from non-optional value {}",
                        super::show::plain(&other)
                    );
                    return super::error::refused(said);
                }
                (other, false) => items.push(other),
            }
        }
        Ok(Val::list(items))
    }

    fn map(&mut self, entries: &'p [(Node, Node, bool)]) -> Evaluated<Val<'a>> {
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            let Some(key) = Key::of(&key) else {
                return super::error::refused("unsupported key type");
            };
            match (value, optional) {
                (Val::Optional(None), true) => {
                    map.remove(&key);
                }
                (Val::Optional(Some(value)), true) => {
                    map.insert(key, (*value).clone());
                }
                (other, true) => {
                    let said = format!(
                        "cannot initialize optional entry '{}' from non-optional value {}",
                        super::show::plain(&key.value()),
                        super::show::plain(&other)
                    );
                    return super::error::refused(said);
                }
                (other, false) => {
                    map.insert(key, other);
                }
            }
        }
        Ok(Val::Map(Map::Made(Arc::new(map))))
    }

    fn attr(&mut self, node: &'p Node, attr: &'p Attr) -> Evaluated<Val<'a>> {
        let result = self.resolve(attr).map(|value| match value {
            Val::Optional(found) if attr.test => Val::Bool(found.is_some()),
            other => other,
        });
        let result = self.settle(result)?;
        let mut cost = 0_u64;
        if let Root::Choice(all) = &attr.root {
            self.drop(all.2.id());
            self.drop(all.1.id());
            self.drop(known_as(&all.0));
        } else {
            self.drop(attr.id());
            cost = 1;
        }
        if attr.test {
            cost = cost.wrapping_sub(1);
        }
        self.charge(known_as(node), cost)?;
        result
    }

    fn resolve(&mut self, attr: &'p Attr) -> Evaluated<Val<'a>> {
        let value = match &attr.root {
            Root::Input(index) => {
                if self.read[*index].is_none() {
                    let name = &self.made.inputs[*index];
                    let found = self.inputs.get(name);
                    self.read[*index] = Some(found.unwrap_or_else(|| Err(EvalError::NoSuchAttribute(name.clone()))));
                }
                match &self.read[*index] {
                    Some(Ok(value)) => value.clone(),
                    Some(Err(why)) => return Err(why.clone()),
                    None => return Err(EvalError::NoSuchOverload),
                }
            }
            Root::Slot { index, take } => self.slot(*index, *take)?,
            Root::Value(node) => self.eval(node)?,
            Root::Choice(all) => {
                return match self.eval(&all.0)? {
                    Val::Bool(true) => self.resolve(&all.1),
                    Val::Bool(false) => self.resolve(&all.2),
                    _ => Err(EvalError::NoSuchOverload),
                };
            }
        };
        self.follow(value, attr)
    }

    fn slot(&mut self, index: usize, take: bool) -> Evaluated<Val<'a>> {
        if let Slot::Init(fold) = self.slots[index] {
            let first = self.arg(&fold.init)?;
            self.slots[index] = Slot::Is(first);
        }
        if take && let Slot::Is(value) = std::mem::replace(&mut self.slots[index], Slot::Unset) {
            return value;
        }
        match &self.slots[index] {
            Slot::Is(value) => value.clone(),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn follow(&mut self, value: Val<'a>, attr: &'p Attr) -> Evaluated<Val<'a>> {
        let mut optional = false;
        let mut value = match value {
            Val::Optional(None) => return Ok(value),
            Val::Optional(Some(inner)) => {
                optional = true;
                inner.plain()
            }
            other => other,
        };
        let last = attr.path.len().wrapping_sub(1);
        for (index, part) in attr.path.iter().enumerate() {
            optional |= part.optional;
            let test = attr.test && index == last;
            let found = self.part(&value, part, optional || test);
            let found = self.settle(found)?;
            let seen = match &found {
                Ok(Some(_)) => true,
                Ok(None) => test && !optional,
                Err(_) => !optional,
            };
            if seen {
                if let PartKey::Node(_) = part.key {
                    self.drop(part.id);
                }
                self.charge(part.id, 1)?;
            }
            match found? {
                Some(_) if test && !optional => return Ok(Val::Bool(true)),
                None if test && !optional => return Ok(Val::Bool(false)),
                Some(next) => value = next,
                None => return Ok(Val::Optional(None)),
            }
        }
        Ok(if optional { Val::some(value) } else { value })
    }

    fn part(&mut self, value: &Val<'a>, part: &'p Part, presence: bool) -> Evaluated<Option<Val<'a>>> {
        match &part.key {
            PartKey::Const(key) => ops::qualify(value, key, presence),
            PartKey::Attr(attr) => {
                let key = self.resolve(attr)?;
                ops::qualify(value, &key, presence)
            }
            PartKey::Node(node) => {
                let key = self.eval(node)?;
                ops::qualify(value, &key, presence)
            }
        }
    }

    fn fold(&mut self, fold: &'p Fold) -> Evaluated<Val<'a>> {
        let range = self.eval(&fold.range)?;
        self.slots[fold.accumulator] = Slot::Init(fold);
        match (&range, fold.second) {
            (Val::List(list), second) => {
                for index in 0..list.len() {
                    let item = list.get(index);
                    if let Some(second) = second {
                        self.slots[fold.variable] = Slot::Is(Ok(Val::Int(i64::try_from(index).unwrap_or(i64::MAX))));
                        self.slots[second] = Slot::Is(item);
                    } else {
                        self.slots[fold.variable] = Slot::Is(item);
                    }
                    if !self.turn(fold)? {
                        break;
                    }
                }
            }
            (Val::Map(map), second) => {
                for key in map.keys() {
                    if let Some(second) = second {
                        let value = map
                            .find(&key)
                            .and_then(|found| found.ok_or_else(|| EvalError::NoSuchKey(super::show::plain(&key).into())));
                        self.slots[second] = Slot::Is(value);
                    }
                    self.slots[fold.variable] = Slot::Is(Ok(key));
                    if !self.turn(fold)? {
                        break;
                    }
                }
            }
            (other, Some(_)) => return Err(EvalError::NotFoldable(super::show::go_type(other))),
            (other, None) => return Err(EvalError::NotIterable(super::show::go_type(other))),
        }
        self.eval(&fold.result)
    }

    /// Goes round once; whether to go on.
    fn turn(&mut self, fold: &'p Fold) -> Evaluated<bool> {
        if let Ok(Val::Bool(false)) = self.arg(&fold.condition)? {
            return Ok(false);
        }
        let next = self.arg(&fold.step)?;
        self.slots[fold.accumulator] = Slot::Is(next);
        Ok(true)
    }
}

/// The number by which a node's value is known.
fn known_as(node: &Node) -> u32 {
    match &node.step {
        Step::Attr(attr) if !attr.test => attr.id(),
        _ => node.id,
    }
}

impl List<'_> {
    fn is_alone(&self) -> bool {
        match self {
            List::Made(items, _) => Arc::strong_count(items) == 1,
            List::Seen(..) => false,
        }
    }
}
