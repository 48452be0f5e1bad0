//! What is said on a connection, and what of it is passed on to whom.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    ConnId, Delivery, DroppedView, Kind, MESSAGE_LEN_MAX, Mesh, News, NoRoute, Output, Recipients, TOPOLOGY,
    compare::COMPARE,
    dial::Again,
    gossip,
    message::{self, Message, Sealed},
    peering::chain,
};
use crate::{peer::PeerName, time::Timestamp};

/// Channels in which routers of Weave Net take part. What they gossip on others they pass on as it came.
const CHANNELS_OF_ROUTERS: [&str; 2] = [TOPOLOGY, "IPallocation"];

/// A message that cannot be used, and why.
pub(super) enum Garbage {
    /// The neighbour wrote it.
    Own(String),
    /// It was passed on. Who wrote it is what it says itself, if that can be read.
    PassedOn(Option<PeerName>, String),
}

impl Mesh {
    /// Sends a message to one peer, over as many others as it takes.
    pub fn unicast(&mut self, to: PeerName, channel: &str, payload: &[u8]) -> Result<(), NoRoute> {
        let conn = self.way_to(to).ok_or(NoRoute(to))?;
        let message = message::unicast(channel, self.settings.name, to, payload);
        self.send(conn, &message);
        Ok(())
    }

    /// Sends a broadcast on its way: our own to all neighbours, that of another to those whom we are nearest to.
    pub fn broadcast(&mut self, origin: PeerName, channel: &str, payload: &[u8]) {
        let message = message::broadcast(channel, origin, payload);
        let own = self.settings.name;
        let recipients = self.routes.broadcast_all(self.topology.peers(), own, origin).to_vec();
        for name in recipients {
            self.send_to(name, &message);
        }
    }

    /// Gossips.
    pub fn gossip(&mut self, to: Recipients, channel: &str, payload: &[u8]) {
        let message = message::gossip(channel, self.settings.name, payload);
        if let Recipients::One(conn) = to {
            return self.send(conn, &message);
        }
        for name in self.chosen(to) {
            self.send_to(name, &message);
        }
    }

    pub(super) fn chosen(&mut self, to: Recipients) -> Vec<PeerName> {
        let hops = self.routes.unicast_all();
        match to {
            Recipients::One(_) => Vec::new(),
            Recipients::Neighbours { except } => gossip::neighbours(hops, except, &mut self.rng),
            Recipients::Few => gossip::few(hops, &mut self.rng),
            Recipients::Unasked => {
                let mut chosen = gossip::neighbours(hops, None, &mut self.rng);
                chosen.retain(|name| self.neighbours.get(name).is_some_and(|conn| !self.compares(*conn)));
                chosen
            }
        }
    }

    /// Describes all peers.
    pub(super) fn gossip_topology(&mut self, to: Recipients) {
        let names: Vec<PeerName> = self.topology.peers().keys().copied().collect();
        let payload = self.topology.encode(names);
        self.gossip(to, TOPOLOGY, &payload);
    }

    /// Describes ourselves to every neighbour of our own kind, and to some of the others, as they do among themselves, with
    /// those of them that are new. So nobody passes on what we say of ourselves to a neighbour of ours.
    pub(super) fn announce(&mut self) {
        let own = self.settings.name;
        let mut names = std::mem::take(&mut self.timers.announced);
        names.insert(own);
        let [all, ourselves] = [names, BTreeSet::from([own])].map(|names| self.described(names));
        let chosen = self.chosen(Recipients::Neighbours { except: None });
        for (&name, &conn) in &self.neighbours.clone() {
            match (chosen.contains(&name), self.is_kin(name)) {
                (true, _) => self.send(conn, &all),
                (false, true) => self.send(conn, &ourselves),
                (false, false) => {}
            }
        }
    }

    /// Who alone told us all of it need not be told, nor who was told by those that it is about.
    pub(super) fn pass_on_news(&mut self) {
        let News { peers, mut from } = std::mem::take(&mut self.timers.news);
        let except = from.pop_first().filter(|_| from.is_empty());
        let mut messages: BTreeMap<BTreeSet<PeerName>, Vec<u8>> = BTreeMap::new();
        for to in gossip::half(self.routes.unicast_all(), except, &mut self.rng) {
            let news: BTreeSet<PeerName> =
                peers.iter().copied().filter(|about| !self.tells_itself(*about, to)).collect();
            if !news.is_empty() {
                let message = messages.entry(news).or_insert_with_key(|news| self.described(news.clone()));
                self.send_to(to, message);
            }
        }
    }

    fn described(&mut self, names: BTreeSet<PeerName>) -> Vec<u8> {
        message::gossip(TOPOLOGY, self.settings.name, &self.topology.encode(names))
    }

    /// Whether a peer describes itself to another without our help: they are neighbours, and it is of our own kind.
    fn tells_itself(&self, about: PeerName, to: PeerName) -> bool {
        let peer = self.topology.peers().get(&about).filter(|_| self.is_kin(about));
        peer.is_some_and(|peer| peer.links.contains_key(&to))
    }

    /// Takes the messages that came by a connection, until one is not all there or the connection is no more.
    pub(super) fn hear(&mut self, now: Timestamp, conn: ConnId) {
        loop {
            let Some(neighbour) = self.connections.get_mut(&conn).and_then(|found| found.neighbour()) else {
                return;
            };
            let name = neighbour.name;
            let heard = match neighbour.reader.message() {
                Ok(None) => return,
                Ok(Some(message)) => self.on_message(now, conn, name, &message),
                Err(error) => Err(Garbage::Own(chain(&error))),
            };
            match heard {
                Ok(()) => self.refresh(now, conn),
                Err(garbage) => self.put_down(now, conn, name, garbage),
            }
        }
    }

    /// Closes the connection to a neighbour that talks nonsense. For what others said nobody's connection is closed: by that one peer
    /// could cut the rest from each other.
    pub(super) fn put_down(&mut self, now: Timestamp, conn: ConnId, neighbour: PeerName, garbage: Garbage) {
        match garbage {
            Garbage::Own(why) => self.close(now, conn, why, Again::Later),
            Garbage::PassedOn(from, why) => {
                let before = self.troubles.dropped.of(now, neighbour).map_or(0, |dropped| dropped.count);
                let count = before.saturating_add(1);
                self.troubles.dropped.note(
                    now,
                    neighbour,
                    DroppedView { came_by: neighbour, from, count, why },
                );
                self.refresh(now, conn);
            }
        }
    }

    /// Whose fault a message is. Gossip is written anew at every step, by whoever takes part in its channel. Other messages bear the name of
    /// their origin, and only our own kind passes nothing on that bears its own name.
    pub(super) fn garbage(&self, neighbour: PeerName, channel: &str, kind: Kind, why: String) -> Garbage {
        let (from, is_own) = match kind {
            Kind::Gossip { from } => (from, self.is_kin(neighbour) || CHANNELS_OF_ROUTERS.contains(&channel)),
            Kind::Unicast { from } | Kind::Broadcast { from } => {
                (from, from == neighbour && self.is_kin(neighbour))
            }
        };
        if is_own { Garbage::Own(why) } else { Garbage::PassedOn(Some(from), why) }
    }

    fn on_message(
        &mut self,
        now: Timestamp,
        conn: ConnId,
        neighbour: PeerName,
        raw: &Bytes,
    ) -> Result<(), Garbage> {
        let message = Message::decode(raw).map_err(|error| match message::may_be_passed_on(raw, &error) {
            true => Garbage::PassedOn(None, chain(&error)),
            false => Garbage::Own(chain(&error)),
        })?;
        match message {
            Message::Heartbeat | Message::Ignored => Ok(()),
            Message::Established { bare } => {
                self.on_established(conn, bare);
                Ok(())
            }
            Message::Farewell { why } => {
                self.on_farewell(conn, why);
                Ok(())
            }
            Message::Gossip { channel, data, .. } => {
                let heard = self.on_gossip(now, conn, neighbour, &channel, data);
                heard.map_err(|why| self.garbage(neighbour, &channel, Kind::Gossip { from: neighbour }, why))
            }
            Message::Unicast { channel, from, to, data } if to == self.settings.name => {
                let heard = self.on_unicast(conn, &channel, from, &data);
                heard.map_err(|why| self.garbage(neighbour, &channel, Kind::Unicast { from }, why))
            }
            Message::Unicast { from, to, .. } => {
                self.pass_on(conn, from, to, raw);
                Ok(())
            }
            Message::Broadcast { channel, from, data } => {
                let heard = self.on_broadcast(now, conn, &channel, from, data);
                heard.map_err(|why| self.garbage(neighbour, &channel, Kind::Broadcast { from }, why))
            }
        }
    }

    fn on_gossip(
        &mut self,
        now: Timestamp,
        conn: ConnId,
        from: PeerName,
        channel: &str,
        data: Bytes,
    ) -> Result<(), String> {
        if channel == TOPOLOGY {
            let news = self.learn(now, &data)?;
            self.pass_on_soon(now, from, news);
        } else if channel == COMPARE {
            self.on_compared(conn, &data);
        } else if self.channels.contains(channel) {
            self.deliver(conn, channel, Kind::Gossip { from }, data);
        } else if self.surrogates.is_news(now, channel, &data) {
            self.gossip(Recipients::Neighbours { except: Some(from) }, channel, &data);
        }
        Ok(())
    }

    fn on_unicast(
        &mut self,
        conn: ConnId,
        channel: &str,
        from: PeerName,
        data: &Sealed,
    ) -> Result<(), String> {
        if channel == TOPOLOGY {
            return Err("a description of peers came as a message to us alone".to_owned());
        }
        let data = data.open().map_err(|error| chain(&error))?;
        if self.channels.contains(channel) {
            self.deliver(conn, channel, Kind::Unicast { from }, data);
        }
        Ok(())
    }

    /// A broadcast that claims to be ours has come full circle, or is forged: either way it ends here.
    fn on_broadcast(
        &mut self,
        now: Timestamp,
        conn: ConnId,
        channel: &str,
        from: PeerName,
        data: Bytes,
    ) -> Result<(), String> {
        let known = self.topology.peers().contains_key(&from);
        if from == self.settings.name || known && self.echoes.is_echo(now, from, &data) {
            return Ok(());
        }
        if self.channels.contains(channel) {
            self.deliver(conn, channel, Kind::Broadcast { from }, data);
            return Ok(());
        }
        if channel == TOPOLOGY {
            self.learn(now, &data)?;
        }
        self.broadcast(from, channel, &data);
        Ok(())
    }

    /// Takes what is new in a description of peers, and returns whom it concerns.
    fn learn(&mut self, now: Timestamp, data: &[u8]) -> Result<BTreeSet<PeerName>, String> {
        let described = self.topology.read(data).map_err(|error| chain(&error))?;
        let merge = self.topology.merge(described);
        if !merge.news.is_empty() {
            self.topology_changed(now);
            self.collect_soon(now);
        }
        if merge.ourselves || self.topology.settle_short_id(&mut self.rng) {
            self.announce_soon(now);
        }
        Ok(merge.news)
    }

    /// The bytes stay as they are. A message is never sent back whence it came, should two peers see the mesh differently.
    fn pass_on(&mut self, came_by: ConnId, from: PeerName, to: PeerName, raw: &[u8]) {
        if let Some(conn) = self.way_to(to).filter(|conn| *conn != came_by && from != self.settings.name) {
            self.send(conn, raw);
        }
    }

    /// Where there seems to be no way, there may be one by what was just heard.
    fn way_to(&mut self, to: PeerName) -> Option<ConnId> {
        if self.next_hop(to).is_none() {
            self.find_routes();
        }
        self.next_hop(to)
    }

    fn next_hop(&self, to: PeerName) -> Option<ConnId> {
        let hop = self.routes.unicast_all().get(&to).copied().flatten()?;
        self.neighbours.get(&hop).copied()
    }

    fn deliver(&mut self, conn: ConnId, channel: &str, kind: Kind, payload: Bytes) {
        let channel = channel.to_owned();
        self.outputs.push_back(Output::Deliver(Delivery { conn, channel, kind, payload }));
    }

    fn send_to(&mut self, name: PeerName, message: &[u8]) {
        if let Some(&conn) = self.neighbours.get(&name) {
            self.send(conn, message);
        }
    }

    /// What no frame can hold is not sent: the other side would close the connection.
    pub(super) fn send(&mut self, conn: ConnId, message: &[u8]) {
        if message.len() > MESSAGE_LEN_MAX {
            return self.troubles.unsent.note(message);
        }
        let neighbour = self.connections.get_mut(&conn).and_then(|found| found.neighbour());
        if let Some(neighbour) = neighbour {
            let bytes = neighbour.writer.message(message);
            self.outputs.push_back(Output::Send(conn, bytes));
        }
    }
}
