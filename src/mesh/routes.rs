//! Which neighbour a message for a peer goes to. Every peer computes its routes from the same topology, and the
//! result is determined by it, so that messages do not run in circles.
//!
//! They are found anew each time the topology changes, which in a cluster of many it does often: so a search looks at those that it
//! has not seen yet, who soon are few, rather than at all connections, who are as many as the square of the peers.

use std::collections::{BTreeMap, BTreeSet};

use super::description::Peer;
use crate::peer::PeerName;

/// The neighbour to go by for each destination; none for ourselves.
pub type Hops = BTreeMap<PeerName, Option<PeerName>>;

/// What follows from one state of the topology.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    all: Hops,
    strict: Hops,
    reachable: BTreeSet<PeerName>,
    broadcasts: BTreeMap<PeerName, Vec<PeerName>>,
}

impl Routes {
    /// The routes of `own`.
    pub fn new(peers: &BTreeMap<PeerName, Peer>, own: PeerName) -> Routes {
        let all = hops(peers, own, false);
        let reachable = all.iter().filter(|(_, hop)| hop.is_some()).map(|(name, _)| *name).collect();
        Routes { all, strict: hops(peers, own, true), reachable, broadcasts: BTreeMap::new() }
    }

    /// Over all connections that anybody mentions. Gossip goes by these.
    pub fn unicast_all(&self) -> &Hops {
        &self.all
    }

    /// Only over connections that both ends call established.
    pub fn unicast(&self) -> &Hops {
        &self.strict
    }

    /// The others there is a way to.
    pub fn reachable(&self) -> &BTreeSet<PeerName> {
        &self.reachable
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
    let Search { found, unseen, .. } = search(peers, source, Some(own), strict);
    let further = unseen.into_iter().filter(|name| found && ourselves.links.contains_key(name));
    further.filter(|name| !strict || both_established(peers, own, *name)).collect()
}

/// How to go from `start` to all that it leads to.
pub fn hops(peers: &BTreeMap<PeerName, Peer>, start: PeerName, strict: bool) -> Hops {
    search(peers, start, None, strict).seen.into_iter().collect()
}

/// How far a search came, and to whom it did not.
struct Search {
    /// The peer to stop at was found.
    found: bool,
    /// Whom it came to, and how to go to them from the start.
    seen: Vec<(PeerName, Option<PeerName>)>,
    /// In the order of names.
    unseen: Vec<PeerName>,
}

fn search(peers: &BTreeMap<PeerName, Peer>, start: PeerName, stop: Option<PeerName>, strict: bool) -> Search {
    let mut seen = vec![(start, None)];
    let mut unseen: Vec<PeerName> = peers.keys().copied().filter(|name| *name != start).collect();
    let mut level = seen.clone();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (current, hop) in level {
            // Once everybody is seen, going on changes nothing.
            if unseen.is_empty() || Some(current) == stop {
                return Search { found: stop.is_some_and(|stop| peers.contains_key(&stop)), seen, unseen };
            }
            let mut found = neighbours_among(&unseen, peers.get(&current));
            found.retain(|neighbour| !strict || both_established(peers, current, *neighbour));
            unseen.retain(|name| found.binary_search(name).is_err());
            let found = found.into_iter().map(|neighbour| (neighbour, hop.or(Some(neighbour))));
            next.extend(found.clone());
            seen.extend(found);
        }
        next.sort_unstable();
        level = next;
    }
    Search { found: false, seen, unseen }
}

/// Those of these peers that this one is connected to, in the order of names.
fn neighbours_among(names: &[PeerName], peer: Option<&Peer>) -> Vec<PeerName> {
    let Some(Peer { links, .. }) = peer else { return Vec::new() };
    match names.len() < links.len() {
        true => names.iter().filter(|name| links.contains_key(name)).copied().collect(),
        false => links.keys().filter(|name| names.binary_search(name).is_ok()).copied().collect(),
    }
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
            let link_to = Link::new(
                link["RemoteTCPAddr"].as_str().unwrap().to_owned(),
                link["Outbound"].as_bool().unwrap(),
                link["Established"].as_bool().unwrap(),
            );
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
    fn read_hops(json: &Json) -> Hops {
        let entries = json.as_object().unwrap().iter().map(|(to, by)| (to.parse().unwrap(), name(by)));
        entries.map(|(to, by)| (to, Some(by).filter(|by| *by != PeerName::UNKNOWN))).collect()
    }

    #[test]
    fn routes_are_those_that_go_computes() {
        for (vector, payload) in group("behaviour_routes") {
            let (own, peers) = view(&vector["inputs"], &payload);
            let expect = &vector["expect"];
            let routes = Routes::new(&peers, own);
            assert_eq!(routes.unicast_all(), &read_hops(&expect["unicast_all"]), "{}", vector["name"]);
            assert_eq!(routes.unicast(), &read_hops(&expect["unicast"]), "{}", vector["name"]);
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
