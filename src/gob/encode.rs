//! From values to bytes, as a schema says.
//!
//! Go's decoder refuses a type that is described twice in a stream, so an [`Encoder`] lives as long as
//! its stream. Types are numbered as Go numbers them: a struct before its fields, a slice or a map
//! after its elements.

use super::Value;

/// How a value is to be written, down to the names that Go would give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say what they are.
pub enum Schema {
    Bool,
    Int,
    Uint,
    Bytes,
    Str,
    Slice {
        name: &'static str,
        elem: &'static Schema,
    },
    Map {
        name: &'static str,
        key: &'static Schema,
        elem: &'static Schema,
    },
    Struct {
        name: &'static str,
        fields: &'static [(&'static str, Schema)],
    },
    /// A pointer to a struct: left out of a struct where it is absent, while a struct itself never is.
    Optional(&'static Schema),
}

/// First number of Go up to 1.19 that is free.
const FIRST_ID: i64 = 65;

const COMMON: Schema = Schema::Struct { name: "", fields: &[("name", Schema::Str), ("id", Schema::Int)] };
const SLICE: Schema = Schema::Struct { name: "", fields: &[("common", COMMON), ("elem", Schema::Int)] };
const MAP: Schema =
    Schema::Struct { name: "", fields: &[("common", COMMON), ("key", Schema::Int), ("elem", Schema::Int)] };
const STRUCT: Schema = Schema::Struct {
    name: "",
    fields: &[("common", COMMON), ("fields", Schema::Slice { name: "", elem: &COMMON })],
};

/// Writes one stream; keeps the types that it described so far.
#[derive(Clone, Debug)]
pub struct Encoder {
    first_id: i64,
    numbered: Vec<Schema>,
    described: Vec<Schema>,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder for the start of a stream.
    pub fn new() -> Encoder {
        Encoder::numbered_from(FIRST_ID)
    }

    /// The same, with the types numbered from `first_id`, which is at least 64.
    pub fn numbered_from(first_id: i64) -> Encoder {
        Encoder { first_id: first_id.max(64), numbered: Vec::new(), described: Vec::new() }
    }

    /// The next bytes of the stream: descriptions of types not yet described, then the value.
    ///
    /// Where the value is not of the schema's kind, the zero value is written.
    pub fn encode(&mut self, schema: &Schema, value: &Value) -> Vec<u8> {
        let mut out = self.introduce(schema);
        let mut body = Vec::new();
        put_int(&mut body, self.id(schema));
        if !matches!(schema, Schema::Struct { .. }) {
            body.push(0);
        }
        put(&mut body, schema, value);
        put_bytes(&mut out, &body);
        out
    }

    /// Only the descriptions of types not yet described, for values that are written already.
    pub fn introduce(&mut self, schema: &Schema) -> Vec<u8> {
        let mut out = Vec::new();
        self.number(schema);
        self.describe(schema, &mut out);
        out
    }

    fn number(&mut self, schema: &Schema) {
        if self.numbered.contains(schema) {
            return;
        }
        match schema {
            Schema::Bool | Schema::Int | Schema::Uint | Schema::Bytes | Schema::Str => {}
            Schema::Slice { elem, .. } => {
                self.number(elem);
                self.numbered.push(*schema);
            }
            Schema::Map { key, elem, .. } => {
                self.number(key);
                self.number(elem);
                self.numbered.push(*schema);
            }
            Schema::Struct { fields, .. } => {
                self.numbered.push(*schema);
                fields.iter().for_each(|(_, field)| self.number(field));
            }
            Schema::Optional(pointee) => self.number(pointee),
        }
    }

    fn describe(&mut self, schema: &Schema, out: &mut Vec<u8>) {
        if self.described.contains(schema) {
            return;
        }
        match schema {
            Schema::Bool | Schema::Int | Schema::Uint | Schema::Bytes | Schema::Str => {}
            Schema::Slice { name, elem } => {
                let wire = [("common", self.common(name, schema)), ("elem", self.reference(elem))];
                self.put_definition(out, schema, 2, &SLICE, &Value::fields(wire));
                self.describe(elem, out);
            }
            Schema::Map { name, key, elem } => {
                let common = ("common", self.common(name, schema));
                let wire = [common, ("key", self.reference(key)), ("elem", self.reference(elem))];
                self.put_definition(out, schema, 4, &MAP, &Value::fields(wire));
                self.describe(key, out);
                self.describe(elem, out);
            }
            Schema::Struct { name, fields } => {
                let described = fields.iter().map(|(name, field)| self.common(name, field)).collect();
                let wire = [("common", self.common(name, schema)), ("fields", Value::Slice(described))];
                self.put_definition(out, schema, 3, &STRUCT, &Value::fields(wire));
                fields.iter().for_each(|(_, field)| self.describe(field, out));
            }
            Schema::Optional(pointee) => self.describe(pointee, out),
        }
    }

    /// `kind` is the number of the one field of `wireType` that is set.
    fn put_definition(&mut self, out: &mut Vec<u8>, of: &Schema, kind: u64, layout: &Schema, wire: &Value) {
        let mut body = Vec::new();
        put_int(&mut body, -self.id(of));
        put_uint(&mut body, kind);
        put(&mut body, layout, wire);
        body.push(0);
        put_bytes(out, &body);
        self.described.push(*of);
    }

    fn common(&self, name: &str, schema: &Schema) -> Value {
        Value::fields([("name", Value::text(name)), ("id", self.reference(schema))])
    }

    fn reference(&self, schema: &Schema) -> Value {
        Value::Int(self.id(schema))
    }

    fn id(&self, schema: &Schema) -> i64 {
        match schema {
            Schema::Bool => 1,
            Schema::Int => 2,
            Schema::Uint => 3,
            Schema::Bytes => 5,
            Schema::Str => 6,
            Schema::Slice { .. } | Schema::Map { .. } | Schema::Struct { .. } => {
                let position = self.numbered.iter().position(|numbered| numbered == schema);
                self.first_id + position.expect("a type is numbered before it is used") as i64
            }
            Schema::Optional(pointee) => self.id(pointee),
        }
    }
}

fn put(out: &mut Vec<u8>, schema: &Schema, value: &Value) {
    match (schema, value) {
        (Schema::Bool, Value::Bool(value)) => put_uint(out, u64::from(*value)),
        (Schema::Int, Value::Int(value)) => put_int(out, *value),
        (Schema::Uint, Value::Uint(value)) => put_uint(out, *value),
        (Schema::Bytes, Value::Bytes(value)) => put_bytes(out, value),
        (Schema::Str, Value::Str(value)) => put_bytes(out, value.as_bytes()),
        (Schema::Slice { elem, .. }, Value::Slice(elements)) => {
            put_uint(out, elements.len() as u64);
            elements.iter().for_each(|element| put(out, elem, element));
        }
        (Schema::Map { key, elem, .. }, Value::Map(entries)) => {
            put_uint(out, entries.len() as u64);
            for (name, element) in entries {
                put(out, key, name);
                put(out, elem, element);
            }
        }
        (Schema::Struct { fields, .. }, value) => put_fields(out, fields, value),
        (Schema::Optional(pointee), value) => put(out, pointee, value),
        (_, value) => {
            debug_assert!(false, "{value:?} is not {schema:?}");
            out.push(0); // The zero value of every other kind.
        }
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &[(&str, Schema)], value: &Value) {
    let mut last = 0;
    for (number, (name, schema)) in (1..).zip(fields) {
        let empty = Value::Struct(Vec::new());
        let nested = matches!(schema, Schema::Struct { .. }).then_some(&empty);
        let Some(field) = value.field(name).filter(|field| !is_zero(field)).or(nested) else { continue };
        put_uint(out, number - last);
        put(out, schema, field);
        last = number;
    }
    out.push(0);
}

/// Whether Go leaves it out of a struct. A struct is always there, and so is a map that is not nil.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Bytes(value) => value.is_empty(),
        Value::Str(value) => value.is_empty(),
        Value::Slice(value) => value.is_empty(),
        Value::Map(_) | Value::Struct(_) => false,
        Value::Other => true,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let width = 8 - value.leading_zeros() as usize / 8;
    out.push((256 - width) as u8);
    out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
}
