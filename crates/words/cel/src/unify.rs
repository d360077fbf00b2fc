//! Whether a value of one type can stand where another is wanted, and what the variables in both must be for it.
//!
//! Invariant: the work is counted. Types share their parts, so that a small expression can name a huge type; whoever asks
//! looks at [`Substitutions::is_exhausted`] at the end and believes nothing that was found after the count ran out.

use std::sync::Arc;

use crate::types::{FIRST_VARIABLE, Type};

/// The most types in one type.
const SIZE_MAX: u32 = 2_000;

/// What is known of the variables of one expression.
pub(crate) struct Substitutions {
    /// What each parameter and variable stands for.
    known: Vec<Option<Type>>,
    /// What changed, so that a failed attempt can be taken back.
    changes: Vec<(u32, Option<Type>)>,
    variables: u32,
    steps_left: u32,
}

impl Substitutions {
    /// Nothing known, and `steps` to go.
    pub fn new(steps: u32) -> Self {
        Self {
            known: Vec::new(),
            changes: Vec::new(),
            variables: 0,
            steps_left: steps,
        }
    }

    /// Whether the work was more than allowed.
    pub fn is_exhausted(&self) -> bool {
        self.steps_left == 0
    }

    /// How many steps are left; none where the work was more than allowed.
    pub fn steps_left(&self) -> u32 {
        self.steps_left
    }

    /// Counts one step; false if there is none left.
    fn step(&mut self) -> bool {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.steps_left > 0
    }

    /// Counts a type that becomes known; one that is too large ends the work.
    pub fn charge(&mut self, of: &Type) {
        let mut size = 0;
        of.measure(&mut size, SIZE_MAX);
        self.steps_left = if size > SIZE_MAX {
            0
        } else {
            self.steps_left.saturating_sub(size)
        };
    }

    /// A variable that nothing is known of.
    pub fn fresh(&mut self) -> Type {
        self.variables += 1;
        Type::Param(FIRST_VARIABLE + self.variables - 1)
    }

    fn find(&self, of: &Type) -> Option<&Type> {
        match of {
            Type::Param(number) => self.known.get(*number as usize)?.as_ref(),
            _ => None,
        }
    }

    fn learn(&mut self, of: &Type, is: Type) {
        let Type::Param(number) = of else {
            return;
        };
        let index = *number as usize;
        if self.known.len() <= index {
            self.known.resize(index + 1, None);
        }
        let before = self.known[index].replace(is);
        self.changes.push((*number, before));
    }

    /// Runs `attempt`; what it learnt is kept if it succeeds.
    fn attempt(&mut self, attempt: impl FnOnce(&mut Self) -> bool) -> bool {
        let begin = self.changes.len();
        if attempt(self) {
            self.changes.truncate(begin);
            return true;
        }
        while self.changes.len() > begin {
            if let Some((number, before)) = self.changes.pop() {
                self.known[number as usize] = before;
            }
        }
        false
    }

    /// Whether `found` can stand where `wanted` is wanted.
    pub fn assign(&mut self, wanted: &Type, found: &Type) -> bool {
        self.attempt(|known| known.assignable(wanted, found))
    }

    /// The same of each in turn, all or nothing.
    pub fn assign_all(&mut self, wanted: &[Type], found: &[Type]) -> bool {
        self.attempt(|known| {
            wanted.len() == found.len()
                && wanted
                    .iter()
                    .zip(found)
                    .all(|(wanted, found)| known.assignable(wanted, found))
        })
    }

    fn assignable(&mut self, one: &Type, other: &Type) -> bool {
        if !self.step() {
            return false;
        }
        if let Type::Param(_) = other {
            match self.substitutable(one, other) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(_) = one {
            return self.substitutable(other, one).0;
        }
        if one.is_dyn_or_error() || other.is_dyn_or_error() {
            return true;
        }
        if *one == Type::Null {
            return nullable(other);
        }
        if *other == Type::Null {
            return nullable(one);
        }
        match (one, other) {
            (Type::Of(_), Type::Of(_)) => true,
            (Type::List(one), Type::List(other)) => self.assignable(one, other),
            (Type::Map(one), Type::Map(other)) => self.assignable(&one.0, &other.0) && self.assignable(&one.1, &other.1),
            (Type::Opaque(name, ones), Type::Opaque(other, others)) => {
                name == other
                    && ones.len() == others.len()
                    && ones.iter().zip(others.iter()).all(|(one, other)| self.assignable(one, other))
            }
            (Type::Unspecified, _) | (_, Type::Unspecified) => false,
            _ => one == other,
        }
    }

    /// Whether the variable can be `is`, and whether it was known before to be something.
    fn substitutable(&mut self, is: &Type, variable: &Type) -> (bool, bool) {
        if is == variable {
            return (true, true);
        }
        if let Some(known) = self.find(variable).cloned() {
            if *is == known {
                return (true, true);
            }
            if !self.assignable(is, &known) {
                return (false, true);
            }
            let general = most_general(is, &known);
            if self.absent(variable, general) {
                let general = general.clone();
                self.learn(variable, general);
            }
            return (true, true);
        }
        if self.absent(variable, is) {
            self.learn(variable, is.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether `variable` is nowhere in `within`, so that it can stand for it.
    fn absent(&mut self, variable: &Type, within: &Type) -> bool {
        if !self.step() || variable == within {
            return false;
        }
        if let Type::Param(_) = within {
            return match self.find(within).cloned() {
                Some(known) => self.absent(variable, &known),
                None => true,
            };
        }
        within.parameters().all(|parameter| self.absent(variable, parameter))
    }

    /// `of` with all that is known put in; what is not known becomes `dyn` if `to_dyn`.
    pub fn put_in(&mut self, of: &Type, to_dyn: bool) -> Type {
        self.replaced(of, to_dyn).unwrap_or_else(|| of.clone())
    }

    /// Puts all that is known into a type, and `dyn` for what is not.
    pub fn put_in_place(&mut self, of: &mut Type) {
        if let Some(replaced) = self.replaced(of, true) {
            *of = replaced;
        }
    }

    /// What [`Substitutions::put_in`] makes of a type, unless that is the same: what has no variables is not made anew.
    fn replaced(&mut self, of: &Type, to_dyn: bool) -> Option<Type> {
        if !self.step() {
            return Some(Type::Error);
        }
        match of {
            Type::Param(_) => match self.find(of).cloned() {
                Some(known) => Some(self.put_in(&known, to_dyn)),
                None => to_dyn.then_some(Type::Dyn),
            },
            Type::List(element) => self.replaced(element, to_dyn).map(Type::list),
            Type::Map(both) => match (self.replaced(&both.0, to_dyn), self.replaced(&both.1, to_dyn)) {
                (None, None) => None,
                (key, value) => Some(Type::map(
                    key.unwrap_or_else(|| both.0.clone()),
                    value.unwrap_or_else(|| both.1.clone()),
                )),
            },
            Type::Of(Some(named)) => self.replaced(named, to_dyn).map(Type::of),
            Type::Opaque(name, parameters) => {
                let mut made: Option<Vec<Type>> = None;
                for (index, parameter) in parameters.iter().enumerate() {
                    match (self.replaced(parameter, to_dyn), &mut made) {
                        (None, None) => {}
                        (None, Some(made)) => made.push(parameter.clone()),
                        (Some(replaced), made) => made.get_or_insert_with(|| parameters[..index].to_vec()).push(replaced),
                    }
                }
                made.map(|made| Type::Opaque(Arc::clone(name), made.into()))
            }
            _ => None,
        }
    }
}

fn nullable(of: &Type) -> bool {
    matches!(
        of,
        Type::Null | Type::Opaque(..) | Type::Struct(_) | Type::Any | Type::Duration | Type::Timestamp
    )
}

/// The type of both that says less.
pub(crate) fn most_general<'a>(one: &'a Type, other: &'a Type) -> &'a Type {
    if says_no_more(one, other) { one } else { other }
}

fn says_no_more(one: &Type, other: &Type) -> bool {
    if one.is_dyn() || matches!(one, Type::Param(_)) {
        return true;
    }
    match (one, other) {
        (Type::List(one), Type::List(other)) => says_no_more(one, other),
        (Type::Map(one), Type::Map(other)) => says_no_more(&one.0, &other.0) && says_no_more(&one.1, &other.1),
        (Type::Of(_), Type::Of(_)) => true,
        (Type::Opaque(name, ones), Type::Opaque(other, others)) => {
            name == other
                && ones.len() == others.len()
                && ones.iter().zip(others.iter()).all(|(one, other)| says_no_more(one, other))
        }
        _ => one == other,
    }
}
