//! What goes wrong when an expression runs, in cel-go's words.

use crate::goregex::RegexFault;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It cost more than it may; no operator absorbs this.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// An operator has no meaning for its values.
    #[error("no such overload")]
    NoSuchOverload,
    /// A function has no meaning for its values.
    #[error("no such overload: {0}")]
    NoSuchOverloadOf(Box<str>),
    /// A map has no such key.
    #[error("no such key: {0}")]
    NoSuchKey(Box<str>),
    /// A variable has no value.
    #[error("no such attribute(s): {0}")]
    NoSuchAttribute(Box<str>),
    /// A list has no such element.
    #[error("index out of bounds: {0}")]
    OutOfBounds(Box<str>),
    /// A text has no such letter.
    #[error("index out of range: {0}")]
    OutOfRange(i64),
    /// Part of a text that ends before it begins.
    #[error("invalid substring range. start: {start}, end: {end}")]
    Substring {
        /// Where it begins.
        start: i64,
        /// Where it ends.
        end: i64,
    },
    /// Division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Remainder of division by zero.
    #[error("modulus by zero")]
    ModulusByZero,
    /// Too large a number.
    #[error("integer overflow")]
    IntOverflow,
    /// Too large a number, or one below zero.
    #[error("unsigned integer overflow")]
    UintOverflow,
    /// A point in time outside of the years 1 to 9999.
    #[error("timestamp overflow")]
    TimestampOverflow,
    /// No number is compared.
    #[error("NaN values cannot be ordered")]
    Unordered,
    /// A value cannot become one of another type.
    #[error("type conversion error from '{from}' to '{to}'")]
    Conversion {
        /// Its type.
        from: Box<str>,
        /// The other.
        to: &'static str,
    },
    /// Bytes that are no text.
    #[error("invalid UTF-8 in bytes, cannot convert to string")]
    Utf8,
    /// An optional without a value was asked for it.
    #[error("optional.none() dereference")]
    None,
    /// The largest or smallest of nothing.
    #[error("{0} called on empty list")]
    Empty(&'static str),
    /// A loop over something that has no parts.
    #[error("got '{0}', expected iterable type")]
    NotIterable(&'static str),
    /// A loop with two variables over something that has no parts.
    #[error("unsupported comprehension range type: {0}")]
    NotFoldable(&'static str),
    /// Data that are not of their declared shape.
    #[error("invalid data, {0}")]
    Data(&'static str),
    /// A pattern that is none.
    #[error("error parsing regexp: {0}")]
    Regex(RegexFault),
    /// A pattern that is none, told by the functions that search.
    #[error("Illegal regex: error parsing regexp: {0}")]
    IllegalRegex(RegexFault),
    /// A pattern that takes too much memory.
    #[error("regular expression is too large")]
    LargeRegex,
    /// A function refuses its arguments.
    #[error("{0}")]
    Refused(Box<str>),
}

pub(crate) type Evaluated<T> = Result<T, EvalError>;

/// What a function says of arguments that it refuses.
pub(crate) fn refused<T>(said: impl Into<Box<str>>) -> Evaluated<T> {
    Err(EvalError::Refused(said.into()))
}
