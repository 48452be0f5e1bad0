//! The part of Go's `encoding/gob` that the mesh protocol puts on the wire.
//!
//! A stream describes its own types before it uses them, and the numbers of those types differ from
//! one process to the next. So [`Decoder`] goes by the descriptions alone and yields a [`Value`] whose
//! fields have names; [`Encoder`] writes a `Value` as a [`Schema`] says, describing each type once.

mod decode;
mod encode;

use std::sync::Arc;

use thiserror::Error;

pub use decode::{DEFINITION_LEN_MAX, Decoder, MESSAGE_LEN_MAX, NESTING_MAX, TYPES_MAX, VALUES_MAX};
pub use encode::{Encoder, Schema};

/// What was in a stream, or is to go into one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say what they are.
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Bytes(Vec<u8>),
    /// Bytes that are no UTF-8 are replaced.
    Str(String),
    /// Arrays as well.
    Slice(Vec<Value>),
    /// In the order of the wire, which in Go is random.
    Map(Vec<(Value, Value)>),
    /// Only the fields that were sent: one that is absent has its zero value.
    Struct(Vec<(Arc<str>, Value)>),
    /// A kind that the protocol does not use (a float, a type with an encoding of its own), skipped.
    Other,
}

/// Why a stream is no good, or a value is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum GobError {
    #[error("the data end in the middle of a message")]
    Truncated,
    #[error("a message of {len} bytes is longer than {max}")]
    MessageLen { len: u64, max: usize },
    #[error("an empty message ends the stream")]
    EmptyMessage,
    #[error("a value runs over the end of its message")]
    Overrun,
    #[error("an integer of more than eight bytes")]
    IntegerWidth,
    #[error("type {0} was not described")]
    UnknownType(i64),
    #[error("type {0} was described twice, or is one of gob's own")]
    DuplicateType(i64),
    #[error("more than {TYPES_MAX} types in one stream")]
    TooManyTypes,
    #[error("the description of type {0} makes no sense")]
    Definition(i64),
    #[error("a struct has no field number {0}")]
    FieldNumber(u64),
    #[error("values nested deeper than {NESTING_MAX}")]
    TooDeep,
    #[error("more than {VALUES_MAX} values in one message")]
    TooManyValues,
    #[error("interface values are not used in this protocol")]
    Interface,
    #[error("expected {wanted}, found {found}")]
    Kind { wanted: &'static str, found: &'static str },
    #[error("field {field}: expected {wanted}, found {found}")]
    FieldKind { field: &'static str, wanted: &'static str, found: &'static str },
    #[error("field {field}: {value} is out of range")]
    OutOfRange { field: &'static str, value: u64 },
}

impl Value {
    /// A struct of these fields.
    pub fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
        Value::Struct(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    /// The field of this name, if the value is a struct and the field was sent.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let Value::Struct(fields) = self else { return None };
        fields.iter().find(|(field, _)| &**field == name).map(|(_, value)| value)
    }

    /// The boolean that it is.
    pub fn as_bool(&self) -> Result<bool, GobError> {
        if let Value::Bool(value) = self { Ok(*value) } else { Err(self.not("a bool")) }
    }

    /// The signed integer that it is.
    pub fn as_int(&self) -> Result<i64, GobError> {
        if let Value::Int(value) = self { Ok(*value) } else { Err(self.not("an int")) }
    }

    /// The unsigned integer that it is.
    pub fn as_uint(&self) -> Result<u64, GobError> {
        if let Value::Uint(value) = self { Ok(*value) } else { Err(self.not("a uint")) }
    }

    /// The bytes that it is.
    pub fn as_bytes(&self) -> Result<&[u8], GobError> {
        if let Value::Bytes(value) = self { Ok(value) } else { Err(self.not("bytes")) }
    }

    /// The bytes that it is, without a copy.
    pub fn into_bytes(self) -> Result<Vec<u8>, GobError> {
        if let Value::Bytes(value) = self { Ok(value) } else { Err(self.not("bytes")) }
    }

    /// The text that it is.
    pub fn as_str(&self) -> Result<&str, GobError> {
        if let Value::Str(value) = self { Ok(value) } else { Err(self.not("a string")) }
    }

    /// The elements, if it is a slice.
    pub fn as_slice(&self) -> Result<&[Value], GobError> {
        if let Value::Slice(value) = self { Ok(value) } else { Err(self.not("a slice")) }
    }

    /// The entries, if it is a map.
    pub fn as_map(&self) -> Result<&[(Value, Value)], GobError> {
        if let Value::Map(value) = self { Ok(value) } else { Err(self.not("a map")) }
    }

    /// Nothing, if it is a struct.
    pub fn is_struct(&self) -> Result<(), GobError> {
        if let Value::Struct(_) = self { Ok(()) } else { Err(self.not("a struct")) }
    }

    /// The boolean in a field, or its zero value.
    pub fn bool_at(&self, name: &'static str) -> Result<bool, GobError> {
        self.at(name, Value::as_bool)
    }

    /// The signed integer in a field, or its zero value.
    pub fn int_at(&self, name: &'static str) -> Result<i64, GobError> {
        self.at(name, Value::as_int)
    }

    /// The unsigned integer in a field, or its zero value.
    pub fn uint_at(&self, name: &'static str) -> Result<u64, GobError> {
        self.at(name, Value::as_uint)
    }

    /// The unsigned integer in a field, or its zero value, if it fits.
    pub fn narrow_at<T: TryFrom<u64>>(&self, name: &'static str) -> Result<T, GobError> {
        let value = self.uint_at(name)?;
        T::try_from(value).map_err(|_| GobError::OutOfRange { field: name, value })
    }

    /// The bytes in a field, or its zero value.
    pub fn bytes_at(&self, name: &'static str) -> Result<&[u8], GobError> {
        self.at(name, Value::as_bytes)
    }

    /// The text in a field, or its zero value.
    pub fn str_at(&self, name: &'static str) -> Result<&str, GobError> {
        self.at(name, Value::as_str)
    }

    /// The elements in a field, or its zero value.
    pub fn slice_at(&self, name: &'static str) -> Result<&[Value], GobError> {
        self.at(name, Value::as_slice)
    }

    /// The entries in a field; `None` where there is no map at all, which is not the empty map.
    pub fn map_at(&self, name: &'static str) -> Result<Option<&[(Value, Value)]>, GobError> {
        self.at(name, |value| value.as_map().map(Some))
    }

    fn at<'a, T: Default>(
        &'a self,
        field: &'static str,
        read: impl Fn(&'a Value) -> Result<T, GobError>,
    ) -> Result<T, GobError> {
        self.is_struct()?;
        let Some(value) = self.field(field) else { return Ok(T::default()) };
        read(value).map_err(|error| match error {
            GobError::Kind { wanted, found } => GobError::FieldKind { field, wanted, found },
            other => other,
        })
    }

    fn not(&self, wanted: &'static str) -> GobError {
        let found = match self {
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Uint(_) => "a uint",
            Value::Bytes(_) => "bytes",
            Value::Str(_) => "a string",
            Value::Slice(_) => "a slice",
            Value::Map(_) => "a map",
            Value::Struct(_) => "a struct",
            Value::Other => "a kind that this protocol does not use",
        };
        GobError::Kind { wanted, found }
    }
}

#[cfg(test)]
mod tests;
