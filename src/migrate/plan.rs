//! What would become of a Weave Net host: its name, its ring, its addresses in use, its containers.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Database, Survey, WeaveLink, database::User};
use crate::{
    addr::{Address, Range},
    config::Config,
    ipam::Record,
    node::{
        persist::memory::{Identity, Write},
        protocol::request::{Refusal, RefusalKind},
    },
    peer::{PeerName, PeerUid},
};

/// What would become of a Weave Net host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The router's name, which becomes this host's.
    pub name: PeerName,
    /// What this host owns.
    pub owned: Vec<Ipv4Net>,
    /// Addresses in use, and what becomes of each.
    pub addresses: Vec<Used>,
    /// The others in the ring.
    pub peers: Vec<Peer>,
    /// Containers that could not be looked at, and why. An address that one of them may have stays in use.
    pub unread: Vec<String>,
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    /// The address, with the length of the prefix that it was given with.
    pub address: Ipv4Net,
    /// Whom Weave Net gave it to.
    pub ident: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of an address in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
#[allow(missing_docs)] // The fields say what they are.
pub enum Fate {
    /// Its container gets a link of weavers with it.
    Move {
        netns: String,
        interface: String,
        host_end: String,
        #[serde(skip)]
        link: Box<WeaveLink>,
    },
    /// Its container has a link of weavers with it, and none of Weave Net.
    Moved,
    /// It stays in use, and nothing is changed in whoever has it.
    Keep { why: String },
    /// It becomes free.
    Free { why: String },
}

/// Another peer in the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its name.
    pub name: PeerName,
    /// Addresses that it owns.
    pub addresses: u64,
    /// How its containers and ours reach each other while its host is not migrated.
    pub meanwhile: Meanwhile,
}

/// How containers of two hosts reach each other while only one of the hosts is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meanwhile {
    /// By the routes of the VPC, as before and after.
    ByVpc,
    /// Not at all: the other host sends by the overlay of Weave Net.
    NotAtAll,
    /// There is no bridge to tell the routers' mode by.
    Unknown,
}

/// How far this host has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is taken over.
    #[default]
    Before,
    /// weavers has the name, the ring and the addresses, and containers with these.
    TakenOver(BTreeSet<Address>),
}

/// Why this host cannot take these data over. `name` is the router's, where whoever asks has said it.
pub fn objection(
    database: &Database,
    survey: &Survey,
    config: &Config,
    name: Option<PeerName>,
) -> Option<Refusal> {
    let (own, ring) = (database.name, &database.ring);
    let refusal = |message: String, hint: &str| Some(Refusal::new(RefusalKind::Unsafe, message).hint(hint));
    let (said, of_bridge) =
        (name.or(config.mesh.name), survey.bridge.as_ref().and_then(|bridge| bridge.name));
    match (said, of_bridge) {
        (Some(said), _) if said != own => {
            return refusal(
                format!("the data are those of peer {own}, and not of {said}"),
                "name the file of that peer, or correct --name and [mesh] name",
            );
        }
        (None, Some(other)) if other != own => {
            return refusal(
                format!(
                    "the data are those of peer {own}, and by its MAC address the bridge `weave` is that of {other}"
                ),
                "if this host's router was started with --name, give the same --name here; otherwise the file is another host's",
            );
        }
        (Some(_) | None, _) => {}
    }
    if ring.universe() != Range::from(config.ipam.range) {
        return refusal(
            format!("the ring is one of {}, and [ipam] range is {}", ring.universe(), config.ipam.range),
            "set [ipam] range to that of the ring, the same on every host",
        );
    }
    if ring.entries().iter().any(|entry| entry.owner != own) && !config.mesh.weave_peers {
        return refusal(
            "other peers own parts of the ring, and [mesh] weave_peers is false".to_owned(),
            "set it to true, on every host until the last router is gone",
        );
    }
    None
}

impl Plan {
    /// What would become of a host with these data, at this stage.
    pub fn new(database: &Database, survey: &Survey, stage: &Stage) -> Plan {
        let (name, ring) = (database.name, &database.ring);
        let meanwhile = match &survey.bridge {
            Some(bridge) if bridge.is_aws_vpc => Meanwhile::ByVpc,
            Some(_) => Meanwhile::NotAtAll,
            None => Meanwhile::Unknown,
        };
        let others = ring.shares().into_iter().filter(|(peer, _)| *peer != name);
        let users = Users::of(database, survey);
        Plan {
            name,
            owned: ring.owned_by(name).into_iter().flat_map(Range::cidrs).collect(),
            addresses: users.all().flat_map(|(ident, user)| users.fates(ident, user, stage)).collect(),
            peers: others.map(|(name, addresses)| Peer { name, addresses, meanwhile }).collect(),
            unread: survey.unread.clone(),
        }
    }

    /// Containers that get another link: the address, whom it was given to, the link.
    pub fn moves(&self) -> impl Iterator<Item = (Address, &str, &WeaveLink)> {
        self.addresses.iter().filter_map(|used| match &used.fate {
            Fate::Move { link, .. } => Some((used.address.addr().into(), &*used.ident, &**link)),
            Fate::Moved | Fate::Keep { .. } | Fate::Free { .. } => None,
        })
    }

    /// The records of a new store: who this host is, the ring, and addresses that stay in use.
    pub fn records(&self, database: &Database, acceptor: PeerUid) -> Vec<Write> {
        let mut in_use: BTreeMap<&str, Vec<Ipv4Net>> = BTreeMap::new();
        let universe = database.ring.universe();
        for used in &self.addresses {
            let stays = !matches!(used.fate, Fate::Free { .. });
            if stays && universe.contains(used.address.addr().into()) {
                in_use.entry(&used.ident).or_default().push(used.address);
            }
        }
        let allocations = in_use.into_iter().map(|(ident, addresses)| {
            Write::ipam(&Record::Allocation { ident: ident.to_owned(), addresses })
        });
        let identity = Identity { name: self.name, acceptor, instance: None };
        let who =
            [Write::format(), Write::identity(&identity), Write::ipam(&Record::Ring(database.ring.clone()))];
        who.into_iter().chain(allocations).collect()
    }
}

/// Who has addresses, by the data and by the links.
struct Users<'a> {
    universe: Range,
    users: BTreeMap<String, User>,
    survey: &'a Survey,
}

impl<'a> Users<'a> {
    /// An address that a container has and the data do not is in use all the same: the router notes addresses and gives them out in
    /// two steps.
    fn of(database: &Database, survey: &'a Survey) -> Users<'a> {
        let universe = database.ring.universe();
        let mut users = database.users.clone();
        let known: BTreeSet<Address> =
            users.values().flat_map(|user| &user.addresses).map(|net| net.addr().into()).collect();
        for net in survey.links.iter().flat_map(|link| &link.addresses) {
            let address = net.addr().into();
            if universe.contains(address) && !known.contains(&address) {
                users.entry(net.addr().to_string()).or_default().addresses.push(*net);
            }
        }
        Users { universe, users, survey }
    }

    fn all(&self) -> impl Iterator<Item = (&String, &User)> {
        self.users.iter()
    }

    fn fates(&self, ident: &str, user: &User, stage: &Stage) -> Vec<Used> {
        let fates = user.addresses.iter().filter_map(|address| {
            let fate = self.fate(ident, user, *address, stage)?;
            Some(Used { address: *address, ident: ident.to_owned(), fate })
        });
        fates.collect()
    }

    /// What becomes of an address; `None` where that was decided when the data were taken over.
    fn fate(&self, ident: &str, user: &User, address: Ipv4Net, stage: &Stage) -> Option<Fate> {
        let keep = |why: &str| Some(Fate::Keep { why: why.to_owned() });
        let free = |why: &str| match stage {
            Stage::Before => Some(Fate::Free { why: why.to_owned() }),
            Stage::TakenOver(_) => None,
        };
        if ident == User::EXPOSED {
            return free("the host's own address on the bridge, until that goes");
        }
        if !self.universe.contains(address.addr().into()) {
            return keep("it is outside the range, and not weavers' to give");
        }
        let mut links = self.survey.links.iter().filter(|link| has(link, address));
        match (links.next(), links.next()) {
            (Some(WeaveLink { ours: Some(ours), .. }), None) if *ours != address.addr().into() => {
                keep("its container has a link of weavers with another address")
            }
            (Some(link), None) if self.is_only_one_of(link) => Some(Fate::Move {
                netns: link.netns.path.display().to_string(),
                interface: link.interface.1.clone(),
                host_end: link.host_end.1.clone(),
                link: Box::new(link.clone()),
            }),
            (Some(_), None) => {
                keep("its container has several addresses, and weavers gives it one: make it anew")
            }
            (Some(_), Some(_)) => keep("two links have it: make their containers anew"),
            (None, _) => match stage {
                Stage::TakenOver(attached) if attached.contains(&address.addr().into()) => Some(Fate::Moved),
                _ if !self.survey.unread.is_empty() => keep("not every container could be looked at"),
                _ if user.is_container => free("its container is gone"),
                _ => keep("no container with it was found: `weavers ipam free` frees it"),
            },
        }
    }

    /// Whether a container has this link and no other, with one address.
    fn is_only_one_of(&self, link: &WeaveLink) -> bool {
        let in_there = self.survey.links.iter().filter(|other| other.netns.is_same(&link.netns)).count();
        in_there == 1 && link.addresses.len() == 1
    }
}

fn has(link: &WeaveLink, address: Ipv4Net) -> bool {
    link.addresses.iter().any(|held| held.addr() == address.addr())
}
