//! Which neighbour a message for a peer goes to. Every peer computes its routes from the same topology, and the
//! result is determined by it, so that messages do not run in circles.

use std::collections::{BTreeMap, BTreeSet};

use super::description::Peer;
use crate::peer::PeerName;

/// The neighbour to go by for each destination; none for ourselves.
pub type Hops = BTreeMap<PeerName, Option<PeerName>>;

/// How far a search came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The peer to stop at was found.
    pub found: bool,
    /// The peers seen until then, and how to go to them from the start.
    pub hops: Hops,
}

/// What follows from one state of the topology.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    all: Hops,
    strict: Hops,
    broadcasts: BTreeMap<PeerName, Vec<PeerName>>,
}

impl Routes {
    /// The routes of `own`.
    pub fn new(peers: &BTreeMap<PeerName, Peer>, own: PeerName) -> Routes {
        Routes {
            all: reach(peers, own, None, false).hops,
            strict: reach(peers, own, None, true).hops,
            broadcasts: BTreeMap::new(),
        }
    }

    /// Over all connections that anybody mentions. Gossip goes by these.
    pub fn unicast_all(&self) -> &Hops {
        &self.all
    }

    /// Only over connections that both ends call established.
    pub fn unicast(&self) -> &Hops {
        &self.strict
    }

    /// Whom to pass a broadcast of `source` on to. Of a source that is not known nothing is remembered: there is no end of those.
    pub fn broadcast_all(
        &mut self,
        peers: &BTreeMap<PeerName, Peer>,
        own: PeerName,
        source: PeerName,
    ) -> &[PeerName] {
        match peers.contains_key(&source) {
            true => self.broadcasts.entry(source).or_insert_with(|| broadcast(peers, own, source, false)),
            false => &[],
        }
    }
}

/// The neighbours that `own` passes a broadcast of `source` on to: those whom nobody nearer to the source reaches.
pub fn broadcast(
    peers: &BTreeMap<PeerName, Peer>,
    own: PeerName,
    source: PeerName,
    strict: bool,
) -> Vec<PeerName> {
    let Some(ourselves) = peers.get(&own).filter(|_| peers.contains_key(&source)) else { return Vec::new() };
    let reach = reach(peers, source, Some(own), strict);
    let neighbours = ourselves.links.keys().copied();
    let further = neighbours.filter(|name| !reach.hops.contains_key(name));
    further.filter(|name| reach.found && (!strict || both_established(peers, own, *name))).collect()
}

/// Goes outwards from `start` level by level, each level in the order of names, until `stop` is its turn.
pub fn reach(
    peers: &BTreeMap<PeerName, Peer>,
    start: PeerName,
    stop: Option<PeerName>,
    strict: bool,
) -> Reach {
    let mut hops = Hops::from([(start, None)]);
    let mut level = BTreeSet::from([start]);
    while !level.is_empty() {
        let mut next = BTreeSet::new();
        for current in level {
            // Once everybody is seen, going on changes nothing.
            if hops.len() == peers.len() {
                return Reach { found: stop.is_some_and(|stop| hops.contains_key(&stop)), hops };
            }
            if Some(current) == stop {
                return Reach { found: true, hops };
            }
            let hop = hops.get(&current).copied().flatten();
            for &neighbour in peers.get(&current).into_iter().flat_map(|peer| peer.links.keys()) {
                // Most were seen before, which is quickly told.
                let usable = !hops.contains_key(&neighbour)
                    && peers.contains_key(&neighbour)
                    && (!strict || both_established(peers, current, neighbour));
                if usable {
                    hops.insert(neighbour, hop.or(Some(neighbour)));
                    next.insert(neighbour);
                }
            }
        }
        level = next;
    }
    Reach { found: false, hops }
}

fn both_established(peers: &BTreeMap<PeerName, Peer>, a: PeerName, b: PeerName) -> bool {
    let established = |from: PeerName, to: PeerName| {
        let link = peers.get(&from).and_then(|peer| peer.links.get(&to));
        link.is_some_and(|link| link.established)
    };
    established(a, b) && established(b, a)
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::{
        mesh::{
            description::{self, Link},
            vectors::group,
        },
        peer::PeerName,
    };

    fn name(json: &Json) -> PeerName {
        json.as_str().unwrap().parse().unwrap()
    }

    /// The topology that a vector describes, and who we are in it.
    fn view(inputs: &Json, payload: &[u8]) -> (PeerName, BTreeMap<PeerName, Peer>) {
        let mut peers: BTreeMap<_, _> = description::decode(payload).unwrap().into_iter().collect();
        let mut ourselves = Peer::default();
        for link in inputs["self_connections"].as_array().unwrap() {
            let link_to = Link {
                address: link["RemoteTCPAddr"].as_str().unwrap().to_owned(),
                outbound: link["Outbound"].as_bool().unwrap(),
                established: link["Established"].as_bool().unwrap(),
            };
            ourselves.links.insert(name(&link["Name"]), link_to);
        }
        let own = name(&inputs["self"]);
        peers.insert(own, ourselves);
        let mentioned: Vec<_> = peers.values().flat_map(|peer| peer.links.keys().copied()).collect();
        for mentioned in mentioned {
            peers.entry(mentioned).or_default();
        }
        (own, peers)
    }

    /// The unknown peer stands for no hop.
    fn hops(json: &Json) -> Hops {
        let entries = json.as_object().unwrap().iter().map(|(to, by)| (to.parse().unwrap(), name(by)));
        entries.map(|(to, by)| (to, Some(by).filter(|by| *by != PeerName::UNKNOWN))).collect()
    }

    #[test]
    fn routes_are_those_that_go_computes() {
        for (vector, payload) in group("behaviour_routes") {
            let (own, peers) = view(&vector["inputs"], &payload);
            let expect = &vector["expect"];
            let routes = Routes::new(&peers, own);
            assert_eq!(routes.unicast_all(), &hops(&expect["unicast_all"]), "{}", vector["name"]);
            assert_eq!(routes.unicast(), &hops(&expect["unicast"]), "{}", vector["name"]);
            for (key, strict) in [("broadcast_all", false), ("broadcast", true)] {
                for (source, wanted) in expect[key].as_object().unwrap() {
                    let wanted: BTreeSet<_> = wanted.as_array().unwrap().iter().map(name).collect();
                    let found = broadcast(&peers, own, source.parse().unwrap(), strict);
                    let found: BTreeSet<_> = found.into_iter().collect();
                    assert_eq!(found, wanted, "{} {key} {source}", vector["name"]);
                }
            }
        }
    }
}
