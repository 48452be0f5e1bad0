//! What Weave Net's router keeps on disk: who it is, the ring, and which addresses are in use.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use thiserror::Error;

use super::bolt::{self, BoltError, Pairs};
use crate::{
    addr::Address,
    gob::{Decoder, GobError, Value},
    ipam::{
        Ring,
        message::{NotARing, decode_ring, peer_of},
    },
    peer::PeerName,
    text::printable,
};

/// The bucket that holds all of it.
pub const BUCKET: &[u8] = b"top";
/// The first part of the version that is read here; the second one grows by what does no harm.
const VERSION: u8 = 1;
/// Names that addresses are in use by. The ring has no more than a few thousand of one host.
const USERS_MAX: usize = 1 << 16;

/// Keys of the bucket.
#[allow(missing_docs)] // They are what they are called.
pub mod key {
    pub const VERSION: &str = "version";
    pub const NAME: &str = "peername";
    pub const RING: &str = "ring";
    pub const OWNED: &str = "ownedAddresses";
}

/// A router's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The name that the router has in the mesh.
    pub name: PeerName,
    /// Who owns what, as the router knew it when it stopped.
    pub ring: Ring,
    /// Addresses in use, by whom.
    pub users: BTreeMap<String, User>,
}

/// Who uses addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// It is a container of Docker's, whose end the router noticed by itself.
    pub is_container: bool,
    /// Its addresses, with the length of the prefix that each was given with.
    pub addresses: Vec<Ipv4Net>,
}

impl User {
    /// The user of what `weave expose` gave to the host itself.
    pub const EXPOSED: &str = "weave:expose";
}

/// Why a file is not a router's data, or nothing can be done with them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum DatabaseError {
    #[error(transparent)]
    Bolt(#[from] BoltError),
    #[error("it has no bucket `top`, which Weave Net's has")]
    NoBucket,
    #[error("it has no key `{0}`: no router has ever had a ring here")]
    Missing(&'static str),
    #[error("its version is {0}, and not {VERSION}")]
    Version(String),
    #[error("key `{key}`: {source}")]
    Undecodable { key: &'static str, source: GobError },
    #[error("key `ring`: {0}")]
    Ring(NotARing),
    #[error("key `ring`: nobody owns anything yet")]
    EmptyRing,
    #[error("key `ring`: it is the ring of {holder}, and key `peername` is {name}")]
    OtherName { holder: PeerName, name: PeerName },
    #[error("key `ownedAddresses`: {0}")]
    Owned(String),
}

impl Database {
    /// Reads the bytes of a file.
    pub fn read(file: &[u8]) -> Result<Database, DatabaseError> {
        let pairs = bolt::bucket(file, BUCKET)?.ok_or(DatabaseError::NoBucket)?;
        // A router takes what has no version for what it knows.
        match get(&pairs, key::VERSION) {
            Some([VERSION, ..]) | None => {}
            Some(other) => return Err(DatabaseError::Version(format!("{other:?}"))),
        }
        let name = decoded(&pairs, key::NAME)?.ok_or(DatabaseError::Missing(key::NAME))?;
        let name = name.as_uint().and_then(peer_of).map_err(of_key(key::NAME))?;
        let ring = get(&pairs, key::RING).ok_or(DatabaseError::Missing(key::RING))?;
        let ring = decode_ring(ring).map_err(DatabaseError::Ring)?;
        if ring.is_empty() {
            return Err(DatabaseError::EmptyRing);
        }
        if ring.holder() != name {
            return Err(DatabaseError::OtherName { holder: ring.holder(), name });
        }
        let users = decoded(&pairs, key::OWNED)?.map(|value| users(&value)).transpose()?;
        Ok(Database { name, ring, users: users.unwrap_or_default() })
    }
}

fn get<'a>(pairs: &Pairs<'a>, key: &str) -> Option<&'a [u8]> {
    pairs.get(key.as_bytes()).copied()
}

fn of_key(key: &'static str) -> impl Fn(GobError) -> DatabaseError {
    move |source| DatabaseError::Undecodable { key, source }
}

/// The one value of a key, if the key is there.
fn decoded(pairs: &Pairs<'_>, key: &'static str) -> Result<Option<Value>, DatabaseError> {
    let Some(mut bytes) = get(pairs, key) else { return Ok(None) };
    let value = Decoder::new().next(&mut bytes).and_then(|value| value.ok_or(GobError::Truncated));
    value.map(Some).map_err(of_key(key))
}

fn users(value: &Value) -> Result<BTreeMap<String, User>, DatabaseError> {
    let wrong = of_key(key::OWNED);
    let all = value.as_map().map_err(&wrong)?;
    if all.len() > USERS_MAX {
        return Err(DatabaseError::Owned(format!("{} names are more than {USERS_MAX}", all.len())));
    }
    let mut users = BTreeMap::new();
    for (ident, value) in all {
        let ident = ident.as_str().map_err(&wrong)?;
        users.insert(ident.to_owned(), user(ident, value)?);
    }
    Ok(users)
}

fn user(ident: &str, value: &Value) -> Result<User, DatabaseError> {
    let wrong = of_key(key::OWNED);
    let is_container = value.bool_at("IsContainer").map_err(&wrong)?;
    let mut addresses = Vec::new();
    for cidr in value.slice_at("Cidrs").map_err(&wrong)? {
        let address = cidr.narrow_at("Addr").map(Address).map_err(&wrong)?;
        let length = cidr.int_at("PrefixLen").map_err(&wrong)?;
        let cidr = u8::try_from(length).ok().and_then(|length| Ipv4Net::new(address.into(), length).ok());
        let no_prefix = || format!("`{}` has {address} with a prefix of {length} bits", printable(ident));
        addresses.push(cidr.ok_or_else(|| DatabaseError::Owned(no_prefix()))?);
    }
    Ok(User { is_container, addresses })
}
