//! The data that a Weave Net router would keep on disk: a bolt file with one bucket, as short as one can be.

use crate::{
    gob::{Encoder, Schema, Value},
    ipam::message::encode_ring,
    migrate::{
        Database,
        bolt::checksum,
        database::{BUCKET, User, key},
    },
};

const PAGE_LEN: usize = 4096;
const HEAD_LEN: usize = 16;
const ELEMENT_LEN: usize = 16;
/// Kinds of pages.
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// Where they are.
const FREELIST_AT: u64 = 2;
const TOP_AT: u64 = 3;
const BUCKET_AT: u64 = 4;

const CIDR: Schema =
    Schema::Struct { name: "CIDR", fields: &[("Addr", Schema::Uint), ("PrefixLen", Schema::Int)] };
const USER: Schema = Schema::Struct {
    name: "ownedData",
    fields: &[
        ("IsContainer", Schema::Bool),
        ("Cidrs", Schema::Slice { name: "[]address.CIDR", elem: &CIDR }),
    ],
};
const USERS: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &USER };

/// The file of a router with these data.
pub fn file(database: &Database) -> Vec<u8> {
    bolt_file(&pairs(database))
}

/// What it has under each key.
pub fn pairs(database: &Database) -> Vec<(&'static str, Vec<u8>)> {
    let users = database.users.iter().map(|(ident, user)| (Value::text(ident), user_value(user)));
    let name = Value::Uint(database.name.as_u64());
    vec![
        (key::VERSION, vec![1, 0]),
        (key::NAME, Encoder::new().encode(&Schema::Uint, &name)),
        (key::RING, encode_ring(&database.ring)),
        (key::OWNED, Encoder::new().encode(&USERS, &Value::Map(users.collect()))),
    ]
}

fn user_value(user: &User) -> Value {
    let cidrs = user.addresses.iter().map(|net| {
        Value::fields([
            ("Addr", Value::Uint(u32::from(net.addr()).into())),
            ("PrefixLen", Value::Int(net.prefix_len().into())),
        ])
    });
    Value::fields([("IsContainer", Value::Bool(user.is_container)), ("Cidrs", Value::Slice(cidrs.collect()))])
}

/// A bolt file in whose bucket these are.
pub fn bolt_file(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    bolt_file_of(BUCKET, pairs)
}

/// The same with another bucket.
pub fn bolt_file_of(bucket: &[u8], pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut sorted: Vec<Pair> =
        pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.clone(), false)).collect();
    sorted.sort();
    let root = [BUCKET_AT.to_le_bytes(), [0; 8]].concat();
    let freelist = page(FREELIST_AT, (FREELIST, 0), &[]);
    let top = leaf(TOP_AT, &[(bucket.to_vec(), root, true)]);
    let own = leaf(BUCKET_AT, &sorted);
    let pages = BUCKET_AT + (own.len() / PAGE_LEN) as u64;
    let metas = (0..2).flat_map(|number| page(number, (META, 0), &meta(number, pages)));
    metas.chain(freelist).chain(top).chain(own).collect()
}

/// A key, its value, and whether that is a bucket.
type Pair = (Vec<u8>, Vec<u8>, bool);

fn meta(transaction: u64, pages: u64) -> Vec<u8> {
    let short = [0xED0C_DAED, 2, PAGE_LEN as u32, 0].map(u32::to_le_bytes).concat();
    let long = [TOP_AT, 0, FREELIST_AT, pages, transaction].map(u64::to_le_bytes).concat();
    let body = [short, long].concat();
    let sum = checksum(&body).to_le_bytes();
    [&body[..], &sum[..]].concat()
}

fn leaf(number: u64, pairs: &[Pair]) -> Vec<u8> {
    let (mut elements, mut rest) = (Vec::new(), Vec::new());
    for (index, (key, value, is_bucket)) in pairs.iter().enumerate() {
        let position = (pairs.len() - index) * ELEMENT_LEN + rest.len();
        let numbers = [u32::from(*is_bucket), position as u32, key.len() as u32, value.len() as u32];
        elements.extend(numbers.map(u32::to_le_bytes).concat());
        rest.extend([&key[..], &value[..]].concat());
    }
    page(number, (LEAF, pairs.len() as u16), &[elements, rest].concat())
}

fn page(number: u64, (kind, count): (u16, u16), body: &[u8]) -> Vec<u8> {
    let len = (HEAD_LEN + body.len()).next_multiple_of(PAGE_LEN);
    let overflow = (len / PAGE_LEN - 1) as u32;
    let mut page = number.to_le_bytes().to_vec();
    page.extend(kind.to_le_bytes());
    page.extend(count.to_le_bytes());
    page.extend(overflow.to_le_bytes());
    page.extend(body);
    page.resize(len, 0);
    page
}
