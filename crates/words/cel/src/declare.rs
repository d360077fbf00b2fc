//! Declarations: what names mean in an expression, and which functions there are.
//!
//! Overloads are written as lines, `ID: TARGET::NAME(TYPES) -> RESULT` (without `TARGET::` for those that are no methods), in the
//! order in which cel-go declares them, which is the order in which they are tried. Capital letters are parameters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cost::Limit;
use crate::eval::{Kind, Shape, escaped};
use crate::types::Type;

/// One way to call a function.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    /// What cel-go calls it; costs are known by it.
    pub id: &'static str,
    pub member: bool,
    /// Its arguments, the target first.
    pub arguments: Vec<Type>,
    pub result: Type,
    /// Its parameters, each once.
    pub parameters: Vec<u32>,
}

/// All functions, by name.
pub(crate) type Functions = HashMap<&'static str, Vec<Overload>>;

/// The functions that `tables` declare, line by line.
///
/// # Panics
///
/// If a line is no declaration: a mistake of ours, which every test of this crate would meet.
pub(crate) fn functions(tables: &[&'static str]) -> Functions {
    let mut found = Functions::new();
    for line in tables.iter().flat_map(|table| table.lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let Some((name, overload)) = overload(line) else {
            panic!("no declaration: {line}");
        };
        found.entry(name).or_default().push(overload);
    }
    found
}

fn overload(line: &'static str) -> Option<(&'static str, Overload)> {
    let (id, rest) = line.split_once(": ")?;
    let (call, result) = rest.split_once(" -> ")?;
    let inner = call.strip_suffix(')')?;
    // The bracket of the arguments is the one that closes last; a target may have brackets, too.
    let mut open = None;
    let mut depth = 0;
    for (at, letter) in inner.char_indices().rev() {
        match letter {
            ')' => depth += 1,
            '(' if depth == 0 => {
                open = Some(at);
                break;
            }
            '(' => depth -= 1,
            _ => {}
        }
    }
    let (head, arguments) = (&inner[..open?], &inner[open? + 1..]);
    // A method is written with its target's type, a function of a name space with a double colon.
    let (target, name) = match head.rsplit_once("::") {
        Some((target, name)) => (Some(target), name),
        None => (None, head),
    };
    let mut types = Vec::new();
    if let Some(target) = target {
        types.push(read_type(target)?);
    }
    for argument in split(arguments) {
        types.push(read_type(argument)?);
    }
    let result = read_type(result)?;
    let mut parameters = Vec::new();
    for of in types.iter().chain([&result]) {
        collect(of, &mut parameters);
    }
    Some((
        name,
        Overload {
            id,
            member: target.is_some(),
            arguments: types,
            result,
            parameters,
        },
    ))
}

fn collect(of: &Type, into: &mut Vec<u32>) {
    if let Type::Param(number) = of
        && !into.contains(number)
    {
        into.push(*number);
    }
    for parameter in of.parameters() {
        collect(parameter, into);
    }
}

/// Parts between commas that stand in no bracket.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    let last = text[begin..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

/// The type that `text` names.
pub(crate) fn read_type(text: &str) -> Option<Type> {
    if let Some((name, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let mut inner = split(inner).into_iter().map(read_type);
        let first = inner.next()??;
        return match name {
            "list" => Some(Type::list(first)),
            "optional" => Some(Type::optional(first)),
            "type" => Some(Type::of(first)),
            "map" => Some(Type::map(first, inner.next()??)),
            _ => None,
        };
    }
    Some(match text {
        "any" => Type::Any,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "duration" => Type::Duration,
        "dyn" => Type::Dyn,
        "int" => Type::Int,
        "null" => Type::Null,
        "string" => Type::String,
        "timestamp" => Type::Timestamp,
        "uint" => Type::Uint,
        "net.IP" | "net.CIDR" => Type::Opaque(text.into(), Arc::new([])),
        _ => match text.as_bytes() {
            [letter @ b'A'..=b'Z'] => Type::Param(u32::from(letter - b'A')),
            _ if text.contains('.') => Type::Struct(text.into()),
            _ => return None,
        },
    })
}

/// The fields of a named type.
#[derive(Clone, Debug)]
pub(crate) enum Fields {
    /// These, by name.
    Known(HashMap<Box<str>, Type>),
    /// A map or list that has a name of its own: the type is the value's.
    Alias(Type),
}

/// What names mean in the expressions of one use.
#[derive(Clone, Debug)]
pub struct Environment {
    pub(crate) variables: HashMap<Box<str>, Type>,
    pub(crate) structs: HashMap<Box<str>, Fields>,
    /// What names with dots begin with, of variables and types.
    pub(crate) prefixes: HashSet<Box<str>>,
    /// Functions beside those of every environment.
    pub(crate) functions: Arc<Functions>,
    /// Whether `Object`, its parts and `JSONPatch` can be made, as patches do.
    pub(crate) patches: bool,
    /// Whether `cel.bind` is there.
    pub(crate) bindings: bool,
    /// What an expression may cost at most, if that is limited when it is written.
    pub(crate) limit: Option<Limit>,
}

impl Environment {
    /// An environment in which there are no names but the libraries'.
    pub(crate) fn new() -> Self {
        Self {
            variables: HashMap::new(),
            structs: HashMap::new(),
            prefixes: HashSet::new(),
            functions: Arc::new(Functions::new()),
            patches: false,
            bindings: false,
            limit: None,
        }
    }

    /// Declares the variable `name`.
    pub fn declare(&mut self, name: &str, of: Type) {
        self.note_prefix(name);
        self.variables.insert(name.into(), of);
    }

    fn insert_struct(&mut self, name: &str, fields: Fields) {
        self.note_prefix(name);
        self.structs.insert(name.into(), fields);
    }

    fn note_prefix(&mut self, name: &str) {
        if let Some((prefix, _)) = name.split_once('.')
            && !self.prefixes.contains(prefix)
        {
            self.prefixes.insert(prefix.into());
        }
    }

    /// Declares variables of one shape: what a schema says of their values. Objects in it are types whose names begin with
    /// `type_name`, which must be no variable's name.
    /// Gives their type.
    pub fn declare_shaped(&mut self, names: &[&str], type_name: &str, shape: &Shape) -> Type {
        let of = self.shaped(type_name, shape);
        for name in names {
            self.declare(name, of.clone());
        }
        of
    }

    /// The type of values of a shape; objects are known by where they stand.
    fn shaped(&mut self, path: &str, shape: &Shape) -> Type {
        match &shape.kind {
            Kind::IntOrString | Kind::Kept => Type::Dyn,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Double => Type::Double,
            Kind::String => Type::String,
            Kind::DateTime | Kind::Date => Type::Timestamp,
            Kind::Duration => Type::Duration,
            Kind::Bytes => Type::Bytes,
            Kind::List(of, _) => Type::list(self.shaped(&format!("{path}.@idx"), of)),
            Kind::Map(of) => Type::map(Type::String, self.shaped(&format!("{path}.@elem"), of)),
            Kind::Object(properties) => {
                let mut fields = HashMap::new();
                for (name, shape) in properties {
                    // What is kept as it is has no type, so that no expression reads it.
                    if let (Some(name), false) = (escaped(name), matches!(shape.kind, Kind::Kept)) {
                        fields.insert((*name).into(), self.shaped(&format!("{path}.{name}"), shape));
                    }
                }
                self.insert_struct(path, Fields::Known(fields));
                Type::Struct(path.into())
            }
        }
    }

    /// An environment in which there are no names but the libraries' and those to be declared.
    #[must_use]
    pub fn empty() -> Self {
        Self::new()
    }

    /// Declares a type with fields.
    pub(crate) fn declare_struct(&mut self, name: &str, fields: &[(&str, Type)]) {
        let fields = fields.iter().map(|(name, of)| ((*name).into(), of.clone())).collect();
        self.insert_struct(name, Fields::Known(fields));
    }

    /// Gives the lists and maps within the type `root` names: where they stand in it.
    pub(crate) fn name_parts(&mut self, root: &str) {
        self.name_parts_at(root, root);
    }

    fn name_parts_at(&mut self, path: &str, of: &str) {
        let Some(Fields::Known(fields)) = self.structs.get(of) else {
            return;
        };
        for (name, is) in fields.clone() {
            let path = format!("{path}.{name}");
            match is {
                Type::List(_) | Type::Map(_) => {
                    self.insert_struct(&path, Fields::Alias(is));
                }
                Type::Struct(inner) => self.name_parts_at(&path, &inner),
                _ => {}
            }
        }
    }

    /// Adds a field to a declared type.
    pub(crate) fn declare_field(&mut self, of: &str, name: &str, is: Type) {
        if let Some(Fields::Known(fields)) = self.structs.get_mut(of) {
            fields.insert(name.into(), is);
        }
    }
}
