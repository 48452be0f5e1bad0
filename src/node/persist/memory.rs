//! What a node remembers across a restart, as the keys and values of its store.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    addr::Address,
    config::{Source, Sources},
    ipam::{self, Record, takeover},
    node::protocol::docker::Network,
    peer::{PeerName, PeerUid},
    state::{Far, InterfaceId, Key, Netns, Port, Side},
};

/// One change of the store. All changes of one save are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which record.
    pub key: String,
    /// Its new value; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// Who this peer is, for life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: PeerName,
    /// The acceptor's number in Paxos, apart from the mesh's, which changes at each start.
    pub acceptor: PeerUid,
    /// The instance it was made on, so that a cloned disk is noticed.
    pub instance: Option<String>,
}

/// A container that was attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The name its address is filed under.
    pub ident: String,
    /// The caller chose that name, so that its address outlives a reboot.
    pub named: bool,
    /// Its namespace; `None` where a lost store left only the link to go by.
    pub netns: Option<Netns>,
    /// Where its address is to come from, if not from the default subnet.
    #[serde(default)]
    pub subnet: Option<Ipv4Net>,
    /// Its address, once it has one.
    pub address: Option<Ipv4Net>,
    /// It was detached, or is gone: its address is free once its link was seen gone.
    #[serde(default)]
    pub leaving: bool,
    /// What its runtime knows it by.
    #[serde(default)]
    pub key: Option<Key>,
    /// The one address that it is to have.
    #[serde(default)]
    pub wanted: Option<Address>,
    /// Its end of the link.
    #[serde(default)]
    pub far: Far,
    /// MTU of its link, if not that of all.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What its runtime calls it for people.
    #[serde(default)]
    pub label: Option<String>,
    /// Where its runtime says that its namespace is, which is that one's affair.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// The kernel's boot id when it was connected, where its namespace is its runtime's affair.
    #[serde(default)]
    pub boot: Option<String>,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// The name that its address is filed under, where that is another and is over with it.
    #[serde(default)]
    pub owed: Option<String>,
}

/// An address that was lent to another plugin, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who borrowed it.
    pub key: Key,
    /// Where its interface is.
    pub netns: Netns,
    /// The address, once there is one.
    #[serde(default)]
    pub address: Option<Address>,
    /// It is one of the block of its network.
    #[serde(default)]
    pub of_block: bool,
    /// What its runtime calls the container for people.
    #[serde(default)]
    pub label: Option<String>,
}

/// What the last look at the route tables showed of this host's own routes: enough to know, before the next look succeeds, for which
/// addresses packets can flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRead {
    /// When, in seconds since 1970.
    pub at_s: u64,
    /// The kernel's boot id at the time.
    pub boot: String,
    /// The container address space, which overlapped no CIDR of the VPC.
    pub range: Ipv4Net,
    /// The interface that carries the traffic.
    pub interface: InterfaceId,
    /// Its source/destination check; `None` if it could not be read.
    pub source_dest_check: Option<bool>,
    /// Of each table, the addresses of this host that it led to that interface.
    pub led: BTreeMap<Side, Vec<Ipv4Net>>,
}

/// A configuration that is tried and not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The file that was in force before, which comes back.
    pub former: String,
    /// Its drop-ins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_ins: Vec<Source>,
    /// What tells what is tried from others.
    pub candidate: String,
}

impl Trial {
    /// `candidate` is tried in the place of `former`.
    pub fn of(former: &Sources, candidate: &Sources) -> Trial {
        Trial {
            former: former.main.text.clone(),
            drop_ins: former.drop_ins.clone(),
            candidate: candidate.digest(),
        }
    }

    /// What was in force before; its first file is called `name`.
    pub fn former_of(&self, name: &str) -> Sources {
        let main = Source { name: name.to_owned(), text: self.former.clone() };
        Sources { main, drop_ins: self.drop_ins.clone() }
    }
}

/// All that was remembered.
#[derive(Debug, Default)]
pub struct Memory {
    /// Absent in a store that is new.
    pub identity: Option<Identity>,
    /// The address manager's part.
    pub ipam: ipam::Saved,
    /// What was decided about dead peers, and what is known of all.
    pub takeover: takeover::Saved,
    /// Containers, by `ident`.
    pub attached: BTreeMap<String, Attached>,
    /// Networks of Docker's, by id.
    pub networks: BTreeMap<String, Network>,
    /// Addresses that were lent to other plugins, by the names that they are filed under.
    pub leases: BTreeMap<String, Lease>,
    /// The links that were there before the store have been learned from.
    pub links_known: bool,
    /// A configuration that nobody has confirmed.
    pub trial: Option<Trial>,
    /// The last look at the route tables.
    pub last_read: Option<LastRead>,
    /// When all this was read back, in seconds since 1970.
    pub recalled_s: u64,
}

/// Why a store cannot be read.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum Unreadable {
    #[error("record `{key}` of the store cannot be read")]
    Corrupt {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "the store was written by a newer weavers: its format is {found}, this one knows {FORMAT} and older"
    )]
    Newer { found: u32 },
}

/// Version of the records. It grows when an older program would misread them, not when they say more.
pub const FORMAT: u32 = 1;

const FORMAT_KEY: &str = "format";
const IDENTITY: &str = "identity";
const RING: &str = "ring";
const PAXOS: &str = "paxos";
const REST: &str = "rest";
const DECIDED: &str = "decided";
const INSTANCE: &str = "instance/";
const ALLOCATION: &str = "allocation/";
const ATTACHED: &str = "attached/";
const NETWORK: &str = "network/";
const LEASE: &str = "lease/";
const LINKS_KNOWN: &str = "links_known";
const TRIAL: &str = "trial";
const LAST_READ: &str = "last_read";

impl Memory {
    /// Reads all records of a store. Keys that are not ours are left alone.
    pub fn read(records: &BTreeMap<String, Vec<u8>>) -> Result<Memory, Unreadable> {
        // A store from before there were formats is of the first.
        let found = records.get(FORMAT_KEY).map_or(Ok(FORMAT), |value| parse(FORMAT_KEY, value))?;
        if found > FORMAT {
            return Err(Unreadable::Newer { found });
        }
        let mut memory = Memory::default();
        for (key, value) in records {
            if key == IDENTITY {
                memory.identity = Some(parse(key, value)?);
            } else if key == RING {
                memory.ipam.ring = Some(parse(key, value)?);
            } else if key == PAXOS {
                memory.ipam.paxos = Some(parse(key, value)?);
            } else if key == REST {
                memory.ipam.rest = parse(key, value)?;
            } else if key == DECIDED {
                memory.takeover.kept = Some(parse(key, value)?);
            } else if let Some(peer) = key.strip_prefix(INSTANCE).and_then(|peer| peer.parse().ok()) {
                memory.takeover.instances.insert(peer, parse(key, value)?);
            } else if key == LINKS_KNOWN {
                memory.links_known = parse(key, value)?;
            } else if key == TRIAL {
                memory.trial = Some(parse(key, value)?);
            } else if key == LAST_READ {
                memory.last_read = Some(parse(key, value)?);
            } else if let Some(ident) = key.strip_prefix(ALLOCATION) {
                memory.ipam.allocations.insert(ident.to_owned(), parse(key, value)?);
            } else if let Some(id) = key.strip_prefix(NETWORK) {
                memory.networks.insert(id.to_owned(), parse(key, value)?);
            } else if let Some(ident) = key.strip_prefix(LEASE) {
                memory.leases.insert(ident.to_owned(), parse(key, value)?);
            } else if let Some(ident) = key.strip_prefix(ATTACHED) {
                memory.attached.insert(ident.to_owned(), parse(key, value)?);
            }
        }
        Ok(memory)
    }
}

impl Write {
    /// Remembers how the records are to be read.
    pub fn format() -> Write {
        put(FORMAT_KEY.to_owned(), &FORMAT)
    }

    /// Remembers who we are.
    pub fn identity(identity: &Identity) -> Write {
        put(IDENTITY.to_owned(), identity)
    }

    /// Where a container is remembered.
    pub fn key_of_attached(ident: &str) -> String {
        format!("{ATTACHED}{ident}")
    }

    /// The container that is remembered there, if one is.
    pub fn ident_of_attached(key: &str) -> Option<&str> {
        key.strip_prefix(ATTACHED)
    }

    /// Whether a container is remembered there.
    pub fn is_of_attached(key: &str) -> bool {
        Write::ident_of_attached(key).is_some()
    }

    /// Whether the ring is remembered there.
    pub fn is_of_ring(key: &str) -> bool {
        key == RING
    }

    /// Remembers a container, or forgets it.
    pub fn attached(ident: &str, attached: Option<&Attached>) -> Write {
        let key = Write::key_of_attached(ident);
        match attached {
            Some(attached) => put(key, attached),
            None => Write { key, value: None },
        }
    }

    /// Remembers a network of Docker's, or forgets it.
    pub fn network(id: &str, network: Option<&Network>) -> Write {
        let key = format!("{NETWORK}{id}");
        match network {
            Some(network) => put(key, network),
            None => Write { key, value: None },
        }
    }

    /// Remembers what was lent to another plugin, or forgets it.
    pub fn lease(ident: &str, lease: Option<&Lease>) -> Write {
        let key = format!("{LEASE}{ident}");
        match lease {
            Some(lease) => put(key, lease),
            None => Write { key, value: None },
        }
    }

    /// Remembers that every link of which nothing is remembered is in nobody's use.
    pub fn links_known() -> Write {
        put(LINKS_KNOWN.to_owned(), &true)
    }

    /// Remembers what was decided about dead peers, and what was promised about the next decision.
    pub fn decided(kept: &takeover::Kept) -> Write {
        put(DECIDED.to_owned(), kept)
    }

    /// Remembers on which instance a peer runs, or forgets it.
    pub fn instance(peer: PeerName, instance: Option<&str>) -> Write {
        let key = format!("{INSTANCE}{peer}");
        match instance {
            Some(instance) => put(key, &instance),
            None => Write { key, value: None },
        }
    }

    /// Remembers a configuration that is tried, or that none is.
    pub fn trial(trial: Option<&Trial>) -> Write {
        match trial {
            Some(trial) => put(TRIAL.to_owned(), trial),
            None => Write { key: TRIAL.to_owned(), value: None },
        }
    }

    /// Remembers what the route tables showed.
    pub fn last_read(read: &LastRead) -> Write {
        put(LAST_READ.to_owned(), read)
    }

    /// Where the addresses of a user are remembered.
    pub fn key_of_allocation(ident: &str) -> String {
        format!("{ALLOCATION}{ident}")
    }

    /// Remembers what the address manager asks for.
    pub fn ipam(record: &Record) -> Write {
        match record {
            Record::Ring(ring) => put(RING.to_owned(), ring),
            Record::Paxos(claims) => put(PAXOS.to_owned(), claims),
            Record::Quarantine(ranges) => put(REST.to_owned(), ranges),
            Record::Allocation { ident, addresses } if addresses.is_empty() => {
                Write { key: Write::key_of_allocation(ident), value: None }
            }
            Record::Allocation { ident, addresses } => put(Write::key_of_allocation(ident), addresses),
        }
    }
}

fn put(key: String, value: &impl Serialize) -> Write {
    let value = serde_json::to_vec(value).expect("records have string keys and no foreign types");
    Write { key, value: Some(value) }
}

fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(value).map_err(|source| Unreadable::Corrupt { key: key.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(records: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        records.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused_with_both_numbers() {
        let wrong = Memory::read(&store(&[("format", "2"), ("ring", "nobody knows")])).unwrap_err();
        assert!(matches!(wrong, Unreadable::Newer { found: 2 }));
        assert!(wrong.to_string().contains("its format is 2, this one knows 1"), "{wrong}");
    }

    #[test]
    fn a_store_from_before_reads_were_kept_has_none() {
        let memory = Memory::read(&store(&[("format", "1"), ("links_known", "true")])).unwrap();
        assert_eq!(memory.last_read, None);
    }

    #[test]
    fn a_store_without_a_format_and_one_that_says_more_are_read() {
        let attached = r#"{"ident":"web","named":true,"netns":null,"address":"10.32.0.1/12","mood":"good"}"#;
        for records in
            [&[("attached/web", attached)][..], &[("attached/web", attached), ("format", "1"), ("new", "!")]]
        {
            let memory = Memory::read(&store(records)).unwrap();
            assert_eq!(memory.attached["web"].address, Some("10.32.0.1/12".parse().unwrap()));
        }
    }
}
