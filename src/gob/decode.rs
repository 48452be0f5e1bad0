//! From bytes to values, by the descriptions in the stream.
//!
//! ```text
//! stream   = message*
//! message  = uint length || body                       length counts the body only
//! body     = int -id || wireType                       describes type id
//!          | int id || 00 || value                     id is not a struct
//!          | int id || { uint delta || value }* || 00  id is a struct; delta counts fields from the last one
//! ```
//!
//! `wireType` is itself a struct of known types, so descriptions are read as values like any other.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use super::{GobError, Value};

/// Longest message. As much as a frame of the mesh protocol can hold.
pub const MESSAGE_LEN_MAX: usize = 10 * 1024 * 1024;
/// Longest description of a type.
pub const DEFINITION_LEN_MAX: usize = 16 * 1024;
/// Types described in one stream.
pub const TYPES_MAX: usize = 128;
/// How deep values may stand in each other.
pub const NESTING_MAX: usize = 16;
/// Values in one message. A value takes up to 48 bytes of memory and may come as one byte, so this, and not the
/// length of the message, bounds what a message can make us allocate.
pub const VALUES_MAX: usize = 1 << 19;

/// First number that a type of the sender's may have.
const FIRST_FREE: i64 = 64;

/// Reads one stream; keeps the types that it described so far.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    types: BTreeMap<i64, Type>,
}

/// How a type is laid out on the wire.
#[derive(Clone, Debug)]
enum Type {
    Bool,
    Int,
    Uint,
    Float,
    Bytes,
    Str,
    Complex,
    Interface,
    /// An array or a slice of this type.
    Sequence(i64),
    Struct(Arc<[(Arc<str>, i64)]>),
    Map(i64, i64),
    /// An encoding of its own: length and bytes.
    Opaque,
}

/// One message of a stream.
enum Message {
    Definition,
    Value(Value),
}

/// Numbers that Go gives to the types that describe types; never on the wire.
const WIRE_TYPE: i64 = 16;
const ARRAY_TYPE: i64 = 17;
const COMMON_TYPE: i64 = 18;
const SLICE_TYPE: i64 = 19;
const STRUCT_TYPE: i64 = 20;
const FIELD_TYPE: i64 = 21;
const FIELDS: i64 = 22;
const MAP_TYPE: i64 = 23;
const OPAQUE_TYPE: i64 = 24;
const INT: i64 = 2;
const STR: i64 = 6;

impl Decoder {
    /// A decoder for the start of a stream.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// The next value of data that are all there. `None` at their end, which an empty message is too.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Value>, GobError> {
        let mut defined = false;
        loop {
            if input.is_empty() && !defined {
                return Ok(None);
            }
            let body = split_message(input)?.ok_or(GobError::Truncated)?;
            if body.is_empty() {
                *input = &[];
                return Ok(None);
            }
            match self.message(body)? {
                Message::Value(value) => return Ok(Some(value)),
                Message::Definition => defined = true,
            }
        }
    }

    /// The next value of a stream that arrives piece by piece. `None`: more bytes are needed; what was used
    /// is gone from `input`, what is left must be shown again with more behind it.
    pub fn next_in_stream(&mut self, input: &mut &[u8]) -> Result<Option<Value>, GobError> {
        while let Some(body) = split_message(input)? {
            if body.is_empty() {
                return Err(GobError::EmptyMessage);
            }
            if let Message::Value(value) = self.message(body)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Passes over the next value without reading it. Returns whether there was one.
    pub fn skip(&mut self, input: &mut &[u8]) -> Result<bool, GobError> {
        while !input.is_empty() {
            let body = split_message(input)?.ok_or(GobError::Truncated)?;
            if body.is_empty() {
                *input = &[];
            } else if int(&mut { body })? < 0 {
                self.message(body)?;
            } else {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn message(&mut self, body: &[u8]) -> Result<Message, GobError> {
        let mut reader = Reader { rest: body, types: &self.types, values: 0 };
        let id = reader.int()?;
        if id >= 0 {
            return reader.top_level(id).map(Message::Value);
        }
        let id = id.checked_neg().ok_or(GobError::UnknownType(id))?;
        if body.len() > DEFINITION_LEN_MAX {
            return Err(GobError::MessageLen { len: body.len() as u64, max: DEFINITION_LEN_MAX });
        }
        let wire = reader.value(WIRE_TYPE, 0)?;
        self.describe(id, &wire)?;
        Ok(Message::Definition)
    }

    fn describe(&mut self, id: i64, wire: &Value) -> Result<(), GobError> {
        if id < FIRST_FREE || self.types.contains_key(&id) {
            return Err(GobError::DuplicateType(id));
        }
        if self.types.len() == TYPES_MAX {
            return Err(GobError::TooManyTypes);
        }
        let described = Type::from_wire(wire).map_err(|_| GobError::Definition(id))?;
        self.types.insert(id, described);
        Ok(())
    }
}

impl Type {
    fn from_wire(wire: &Value) -> Result<Type, GobError> {
        let Value::Struct(kinds) = wire else { return Err(GobError::Definition(0)) };
        let [(kind, wire)] = kinds.as_slice() else { return Err(GobError::Definition(0)) };
        match &**kind {
            "array" | "slice" => Ok(Type::Sequence(wire.int_at("elem")?)),
            "map" => Ok(Type::Map(wire.int_at("key")?, wire.int_at("elem")?)),
            "struct" => {
                let fields = wire.slice_at("fields")?.iter();
                let fields = fields.map(|field| Ok((field.str_at("name")?.into(), field.int_at("id")?)));
                Ok(Type::Struct(fields.collect::<Result<Vec<_>, GobError>>()?.into()))
            }
            _ => Ok(Type::Opaque),
        }
    }
}

/// Cuts the first message off. `None`: it is not all there yet.
fn split_message<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, GobError> {
    let mut rest = *input;
    let len = match uint(&mut rest) {
        Ok(len) => len,
        Err(GobError::Overrun) => return Ok(None),
        Err(error) => return Err(error),
    };
    let too_long = GobError::MessageLen { len, max: MESSAGE_LEN_MAX };
    let len = usize::try_from(len).ok().filter(|&len| len <= MESSAGE_LEN_MAX).ok_or(too_long)?;
    let Some((body, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    *input = rest;
    Ok(Some(body))
}

/// One byte below 128, or minus the number of the big-endian bytes that follow.
fn uint(input: &mut &[u8]) -> Result<u64, GobError> {
    let (&first, rest) = input.split_first().ok_or(GobError::Overrun)?;
    if first < 0x80 {
        *input = rest;
        return Ok(first.into());
    }
    let width = 256 - usize::from(first);
    if width > 8 {
        return Err(GobError::IntegerWidth);
    }
    let (bytes, rest) = rest.split_at_checked(width).ok_or(GobError::Overrun)?;
    *input = rest;
    Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// The sign is the lowest bit.
fn int(input: &mut &[u8]) -> Result<i64, GobError> {
    let folded = uint(input)?;
    let magnitude = (folded >> 1) as i64;
    Ok(if folded & 1 == 0 { magnitude } else { !magnitude })
}

/// A type of gob's own, or one that was described.
fn kind(described: &BTreeMap<i64, Type>, id: i64) -> Option<&Type> {
    if id < FIRST_FREE { OWN_TYPES.get(&id) } else { described.get(&id) }
}

/// What is left of one message.
struct Reader<'a> {
    rest: &'a [u8],
    types: &'a BTreeMap<i64, Type>,
    values: usize,
}

impl Reader<'_> {
    fn top_level(&mut self, id: i64) -> Result<Value, GobError> {
        let kind = kind(self.types, id).filter(|_| !(WIRE_TYPE..FIRST_FREE).contains(&id));
        let is_struct = matches!(kind.ok_or(GobError::UnknownType(id))?, Type::Struct(_));
        if !is_struct && self.uint()? != 0 {
            return Err(GobError::Overrun);
        }
        self.value(id, 0)
    }

    fn value(&mut self, id: i64, depth: usize) -> Result<Value, GobError> {
        let types = self.types;
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(GobError::TooManyValues);
        }
        if depth > NESTING_MAX {
            return Err(GobError::TooDeep);
        }
        match kind(types, id).ok_or(GobError::UnknownType(id))? {
            Type::Bool => self.uint().map(|value| Value::Bool(value != 0)),
            Type::Int => self.int().map(Value::Int),
            Type::Uint => self.uint().map(Value::Uint),
            Type::Bytes => self.bytes().map(|bytes| Value::Bytes(bytes.to_vec())),
            Type::Str => self.bytes().map(|bytes| Value::Str(String::from_utf8_lossy(bytes).into_owned())),
            Type::Float => self.uint().map(|_| Value::Other),
            Type::Complex => self.uint().and_then(|_| self.uint()).map(|_| Value::Other),
            Type::Opaque => self.bytes().map(|_| Value::Other),
            Type::Interface => Err(GobError::Interface),
            Type::Sequence(elem) => self.sequence(*elem, depth),
            Type::Map(key, elem) => self.map(*key, *elem, depth),
            Type::Struct(fields) => self.structure(fields, depth),
        }
    }

    fn sequence(&mut self, elem: i64, depth: usize) -> Result<Value, GobError> {
        let count = self.count()?;
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.value(elem, depth + 1)?);
        }
        Ok(Value::Slice(elements))
    }

    fn map(&mut self, key: i64, elem: i64, depth: usize) -> Result<Value, GobError> {
        let count = self.count()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push((self.value(key, depth + 1)?, self.value(elem, depth + 1)?));
        }
        Ok(Value::Map(entries))
    }

    fn structure(&mut self, fields: &[(Arc<str>, i64)], depth: usize) -> Result<Value, GobError> {
        let mut number = 0u64;
        let mut sent = Vec::new();
        loop {
            let delta = self.uint()?;
            if delta == 0 {
                return Ok(Value::Struct(sent));
            }
            number = number.saturating_add(delta);
            let index = usize::try_from(number - 1).ok();
            let field = index.and_then(|index| fields.get(index)).ok_or(GobError::FieldNumber(number))?;
            sent.push((field.0.clone(), self.value(field.1, depth + 1)?));
        }
    }

    /// A number of elements, each of which takes at least one byte.
    fn count(&mut self) -> Result<usize, GobError> {
        let count = self.uint()?;
        usize::try_from(count).ok().filter(|&count| count <= self.rest.len()).ok_or(GobError::Overrun)
    }

    fn bytes(&mut self) -> Result<&[u8], GobError> {
        let len = self.count()?;
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(bytes)
    }

    fn int(&mut self) -> Result<i64, GobError> {
        int(&mut self.rest)
    }

    fn uint(&mut self) -> Result<u64, GobError> {
        uint(&mut self.rest)
    }
}

/// Gob's own types, and those in which types are described.
static OWN_TYPES: LazyLock<BTreeMap<i64, Type>> = LazyLock::new(|| {
    BTreeMap::from([
        (1, Type::Bool),
        (INT, Type::Int),
        (3, Type::Uint),
        (4, Type::Float),
        (5, Type::Bytes),
        (STR, Type::Str),
        (7, Type::Complex),
        (8, Type::Interface),
        (
            WIRE_TYPE,
            structure(&[
                ("array", ARRAY_TYPE),
                ("slice", SLICE_TYPE),
                ("struct", STRUCT_TYPE),
                ("map", MAP_TYPE),
                ("gob", OPAQUE_TYPE),
                ("binary", OPAQUE_TYPE),
                ("text", OPAQUE_TYPE),
            ]),
        ),
        (ARRAY_TYPE, structure(&[("common", COMMON_TYPE), ("elem", INT), ("len", INT)])),
        (COMMON_TYPE, structure(&[("name", STR), ("id", INT)])),
        (SLICE_TYPE, structure(&[("common", COMMON_TYPE), ("elem", INT)])),
        (STRUCT_TYPE, structure(&[("common", COMMON_TYPE), ("fields", FIELDS)])),
        (FIELD_TYPE, structure(&[("name", STR), ("id", INT)])),
        (FIELDS, Type::Sequence(FIELD_TYPE)),
        (MAP_TYPE, structure(&[("common", COMMON_TYPE), ("key", INT), ("elem", INT)])),
        (OPAQUE_TYPE, structure(&[("common", COMMON_TYPE)])),
    ])
});

fn structure(fields: &[(&str, i64)]) -> Type {
    Type::Struct(fields.iter().map(|&(name, id)| (name.into(), id)).collect())
}
