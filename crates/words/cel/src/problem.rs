//! What can be wrong with an expression, each in cel-go's words.

use crate::format::FormatFault;
use crate::types::Type;

/// One fault of an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    // The parser's.
    #[error("Syntax error: {0}")]
    Syntax(Box<str>),
    #[error("expression recursion limit exceeded: {0}")]
    Recursion(u32),
    #[error("max recursion depth exceeded")]
    Depth,
    #[error("reserved identifier: {0}")]
    ReservedIdentifier(Box<str>),
    #[error("unsupported syntax: '`'")]
    EscapedIdentifier,
    #[error("invalid int literal")]
    IntLiteral,
    #[error("invalid uint literal")]
    UintLiteral,
    #[error("invalid double literal")]
    DoubleLiteral,
    #[error("unable to unescape string")]
    Unescape,
    #[error("invalid unicode code point")]
    CodePoint,
    // Those of macros.
    #[error("argument must be a simple name")]
    NotAName,
    #[error("argument is not an identifier")]
    NotAnIdentifier,
    #[error("iteration variable overwrites accumulator variable")]
    OverwritesAccumulator,
    #[error("invalid argument to has() macro")]
    Has,
    #[error("duplicate variable name: {0}")]
    DuplicateVariable(Box<str>),
    #[error("cel.bind() variable names must be simple identifiers")]
    BindName,
    #[error("{0}() variable name must be a simple identifier")]
    OptionalName(&'static str),
    #[error("sortBy can only be applied to a list, identifier, comprehension, call or select expression")]
    SortBy,
    // The checker's.
    #[error("undeclared reference to '{0}' (in container '')")]
    UndeclaredReference(Box<str>),
    #[error("found no matching overload for '{function}' applied to '{}'", applied(.arguments, *.member))]
    NoMatchingOverload {
        function: Box<str>,
        arguments: Vec<Type>,
        member: bool,
    },
    #[error("undefined field '{0}'")]
    UndefinedField(Box<str>),
    #[error("unexpected failed resolution of '{0}'")]
    UnknownStruct(Box<str>),
    #[error("type '{0}' does not support field selection")]
    NoFields(Type),
    #[error("expected type '{expected}' but found '{found}'")]
    TypeMismatch { expected: Type, found: Type },
    #[error("expected type of field '{field}' is '{expected}' but provided type is '{found}'")]
    FieldType { field: Box<str>, expected: Type, found: Type },
    #[error("expression of type '{0}' cannot be range of a comprehension (must be list, map, or dynamic)")]
    NotARange(Type),
    #[error("'{0}' is not a type")]
    NotAType(Box<str>),
    #[error("'{0}' is not a message type")]
    NotAMessageType(Box<str>),
    // Those of literals.
    #[error("invalid {0} argument")]
    InvalidArgument(&'static str),
    #[error("{0}")]
    Format(FormatFault),
}

fn applied(arguments: &[Type], member: bool) -> String {
    let (target, arguments) = match arguments.split_first() {
        Some((target, rest)) if member => (format!("{target}."), rest),
        _ => (String::new(), arguments),
    };
    let arguments: Vec<String> = arguments.iter().map(Type::to_string).collect();
    format!("{target}({})", arguments.join(", "))
}
