//! Who is let in: strangers that dialled us, and peers that have said who they are.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    ConnId, Mesh, Objection, RefusedView,
    connection::Connection,
    dial::Again,
    features::{Features, NICKNAME_LEN_MAX},
};
use crate::{
    peer::{PeerName, PeerUid},
    time::Timestamp,
};

/// Strangers that dialled us and are being introduced at once; each may make us keep [`super::INTRODUCTION_LEN_MAX`] bytes.
pub const INTRODUCTIONS_MAX: usize = 64;
/// The same from one host, which needs one; a second while it is restarted.
pub const INTRODUCTIONS_OF_HOST_MAX: usize = 4;

/// Neighbours that are looked at for one that can be spared: those with most connections.
const CONSIDERED_MAX: usize = 8;

/// What is shown of a text that a stranger wrote.
const SHOWN_LEN_MAX: usize = 64;

/// Why a connection is closed, and whether its target is worth another try.
pub struct Refusal {
    /// In words.
    pub why: String,
    /// When it is dialled again, if we dialled.
    pub again: Again,
}

impl Refusal {
    /// It is dialled again after a pause.
    pub fn later(why: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), again: Again::Later }
    }

    /// It is not dialled again until somebody says so.
    pub fn never(why: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), again: Again::Never }
    }
}

impl Mesh {
    /// Closes a stranger's connection if there is no room for one more from this host. Whoever connects and says nothing makes room for
    /// those that come later: first the oldest of the host that has most of them.
    pub(super) fn make_room_for_a_stranger(&mut self, now: Timestamp, host: IpAddr) {
        let mut strangers: BTreeMap<IpAddr, Vec<ConnId>> = BTreeMap::new();
        for (&conn, connection) in self.connections.iter().filter(|(_, connection)| connection.is_stranger())
        {
            strangers.entry(connection.remote.ip()).or_default().push(conn);
        }
        let all: usize = strangers.values().map(Vec::len).sum();
        let crowded = match strangers.get(&host) {
            Some(own) if own.len() >= INTRODUCTIONS_OF_HOST_MAX => Some(own),
            Some(_) | None if all < INTRODUCTIONS_MAX => None,
            Some(_) | None => strangers.values().max_by_key(|conns| (conns.len(), Reverse(conns.first()))),
        };
        // The transport numbers connections in the order in which they come.
        if let Some(&oldest) = crowded.and_then(|conns| conns.first()) {
            let why = "it had said too little when others came that wanted to be introduced".to_owned();
            self.close(now, oldest, why, Again::Later);
        }
    }

    /// Whether a peer that was introduced is wanted, by this connection.
    pub(super) fn judge(
        &mut self,
        now: Timestamp,
        target: Option<&str>,
        remote: SocketAddr,
        theirs: &Features,
        uid: u64,
    ) -> Result<(), Refusal> {
        let direct = target.is_none_or(|target| self.dialler.is_direct(target));
        if let Some(target) = target {
            self.timers.changed |= self.dialler.recognised(target, theirs.name);
        }
        if theirs.name == self.settings.name {
            if theirs.uid == self.settings.uid {
                return Err(Refusal { why: "connected to ourselves".to_owned(), again: Again::Own });
            }
            self.turn_away(now, remote, theirs, Objection::Name);
            let why = format!("another peer has our name {}: give one of them another", theirs.name);
            return Err(Refusal::never(why));
        }
        if !direct && !self.topology.peers().contains_key(&theirs.name) {
            return Err(Refusal::later(format!(
                "found unknown peer {} at a discovered address",
                theirs.name
            )));
        }
        self.agree_on_overlay(now, remote, theirs)?;
        self.break_tie(theirs.name, uid)?;
        self.make_room_for_a_peer(now, theirs)
    }

    /// At the limit who is connected to nobody else comes in all the same, and a neighbour that can do without us is closed for it. So
    /// all those who know no address but ours come in one after the other, hear of the others from us, and can do without us then.
    fn make_room_for_a_peer(&mut self, now: Timestamp, theirs: &Features) -> Result<(), Refusal> {
        let (limit, name) = (self.settings.conn_limit, theirs.name);
        if limit == 0 || self.neighbours.len() < limit || self.neighbours.contains_key(&name) {
            return Ok(());
        }
        let full = format!("there are {limit} connections, which is the limit");
        if !self.is_alone(theirs) {
            return Err(Refusal::later(format!("{full}, and peer {name} is connected to others")));
        }
        let Some(spared) = self.dispensable() else {
            return Err(Refusal::later(format!("{full}, and no neighbour can be spared")));
        };
        let why = format!("{full}, and peer {name}, which nobody else is connected to, takes this place");
        self.close(now, spared, why, Again::Later);
        Ok(())
    }

    /// Whether nobody is known to be connected to this life of a peer.
    fn is_alone(&self, theirs: &Features) -> bool {
        let known = self.topology.peers().get(&theirs.name);
        let began_anew = known.is_some_and(|known| known.uid != PeerUid(0) && known.uid != theirs.uid);
        began_anew || !self.topology.has_detour(theirs.name)
    }

    /// The neighbour of our own kind with most connections that is in reach without us. Whom we dialled ourselves is kept: a crowd that
    /// comes in under ever new names cannot take those from us.
    fn dispensable(&self) -> Option<ConnId> {
        let links = |name| self.topology.peers().get(&name).map_or(0, |peer| peer.links.len());
        let connections =
            self.neighbours.iter().map(|(&name, conn)| (name, *conn, self.connections.get(conn)));
        let inbound = connections.filter(|(_, _, connection)| {
            connection.is_some_and(|connection| connection.is_kin() && connection.target.is_none())
        });
        let mut candidates: Vec<(usize, PeerName, ConnId)> =
            inbound.map(|(name, conn, _)| (links(name), name, conn)).collect();
        candidates.sort_by(|one, other| other.cmp(one));
        let mut considered = candidates.into_iter().take(CONSIDERED_MAX);
        considered.find(|(_, name, _)| self.topology.has_detour(*name)).map(|(_, _, conn)| conn)
    }

    /// Who does not say what it offers is content with anything.
    fn agree_on_overlay(
        &mut self,
        now: Timestamp,
        remote: SocketAddr,
        theirs: &Features,
    ) -> Result<(), Refusal> {
        let Some(offered) = &theirs.overlays else { return Ok(()) };
        let ours = &self.settings.overlays;
        if ours.is_empty() || ours.iter().any(|name| theirs.offers(name)) {
            return Ok(());
        }
        let ours = ours.join(" ");
        let offered: String = offered.chars().take(SHOWN_LEN_MAX).collect();
        let why = format!("no overlay in common: peer {} offers `{offered}`, we `{ours}`", theirs.name);
        self.turn_away(now, remote, theirs, Objection::Overlay { theirs: offered, ours });
        Err(Refusal::later(why))
    }

    fn turn_away(&mut self, now: Timestamp, remote: SocketAddr, theirs: &Features, objection: Objection) {
        let Features { name: peer, mut nickname, .. } = theirs.clone();
        nickname.truncate(nickname.floor_char_boundary(NICKNAME_LEN_MAX));
        self.troubles.refused.note(now, peer, RefusedView { peer, nickname, remote, objection });
    }

    /// Of two connections to one peer both ends keep the one with the lower number.
    fn break_tie(&mut self, name: PeerName, uid: u64) -> Result<(), Refusal> {
        let rival = self.neighbours.get(&name).and_then(|conn| self.connections.get_mut(conn));
        let Some(rival) = rival.and_then(Connection::neighbour) else { return Ok(()) };
        if uid < rival.uid {
            return Ok(());
        }
        Err(Refusal::later(format!("there is a connection to peer {name} already")))
    }
}
