//! Connections come and go.

use std::{error::Error, net::SocketAddr, time::Duration};

use rand::RngExt;

use super::{
    ConnId, Mesh, OVERLAY, Output, Recipients, SLEEVE,
    admission::Refusal,
    connection::{Connection, Neighbour, Phase},
    crypto::KeyPair,
    description::{Link, Peer},
    dial::Again,
    features::Features,
    frame::Version,
    handshake::{Handshake, Introduced, Secret},
    message,
    sleeve::{self, Sleeve, Terms},
};
use crate::{peer::PeerName, time::Timestamp};

/// Bytes of unfinished messages that are kept, of all peers together.
const ALL_PENDING_MAX: usize = 64 << 20;
/// Shorter unfinished messages are never too much: they fit, from all peers that may be connected.
const LONG_LEN_MIN: usize = 256 << 10;

/// A router that cannot do with our addresses closes a connection when it hears of them.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// From the first byte to the last.
const INTRODUCTION_WITHIN: Duration = Duration::from_secs(10);
/// In version 1 a router of Weave Net may have nothing to say before its next heartbeat, which comes within thirty seconds.
const PROOF_WITHIN: Duration = Duration::from_secs(40);
impl Mesh {
    /// There is a connection. Both sides begin with the header.
    pub(super) fn open(&mut self, now: Timestamp, conn: ConnId, remote: SocketAddr, target: Option<String>) {
        if target.is_none() {
            self.make_room_for_a_stranger(now, remote.ip());
        }
        let ours = self.features(remote);
        let conn_id = ours.conn_id;
        let password = self.settings.password.clone().filter(|password| !password.is_empty());
        let secret = password.map(|password| Secret { password, keys: KeyPair::generate(&mut self.rng) });
        let handshake = Handshake::new(target.is_some(), self.oldest_version(), ours, secret);
        let header = handshake.header();
        let phase = Phase::Introducing(Box::new(handshake), conn_id);
        let deadline = now + INTRODUCTION_WITHIN;
        self.connections.insert(conn, Connection { remote, target, deadline, phase });
        self.watch(conn);
        self.outputs.push_back(Output::Send(conn, header));
    }

    fn features(&mut self, remote: SocketAddr) -> Features {
        let settings = &self.settings;
        let trusted = match remote.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => settings.trusted_subnets.iter().any(|subnet| subnet.contains(&ip)),
            std::net::IpAddr::V6(_) => false,
        };
        Features {
            name: settings.name,
            nickname: settings.nickname.clone(),
            uid: settings.uid,
            conn_id: self.rng.random(),
            short_id: self.topology.ourselves().short_id,
            trusted,
            overlays: Some(settings.overlays.join(" ")).filter(|overlays| !overlays.is_empty()),
            public_key: None,
            program: Some(env!("CARGO_PKG_VERSION").to_owned()),
            compares: true,
        }
    }

    /// Bytes came.
    pub(super) fn received(&mut self, now: Timestamp, conn: ConnId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let refusal = match &mut connection.phase {
            Phase::Introduced(neighbour) => {
                neighbour.reader.push(bytes);
                None
            }
            Phase::Introducing(..) => self.introduce(now, conn, bytes).err(),
        };
        match refusal {
            None => self.hear(now, conn),
            Some(Refusal { why, again }) => self.close(now, conn, why, again),
        }
        self.shed(now, conn);
    }

    /// Long messages may come from all peers at once, but not without bound.
    fn shed(&mut self, now: Timestamp, conn: ConnId) {
        let pending =
            |connection: &mut Connection| connection.neighbour().map_or(0, |peer| peer.reader.pending());
        if self.connections.get_mut(&conn).is_none_or(|connection| pending(connection) < LONG_LEN_MIN) {
            return;
        }
        let all: usize = self.connections.values_mut().map(pending).sum();
        if all > ALL_PENDING_MAX {
            let why =
                format!("{} MiB of unfinished messages of all peers are here already", ALL_PENDING_MAX >> 20);
            self.close(now, conn, why, Again::Later);
        }
    }

    fn introduce(&mut self, now: Timestamp, conn: ConnId, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let Phase::Introducing(handshake, _) = &mut connection.phase else { return Ok(()) };
        let mut out = Vec::new();
        let awaited_proof = handshake.awaits_proof();
        let theirs = handshake.receive(bytes, &mut out);
        if handshake.awaits_proof() && !awaited_proof {
            connection.deadline = now + PROOF_WITHIN;
        }
        self.outputs.extend(out.into_iter().map(|bytes| Output::Send(conn, bytes)));
        match theirs {
            Ok(None) => Ok(()),
            Ok(Some(theirs)) => self.meet(now, conn, theirs),
            Err(error) => Err(Refusal::later(chain(&error))),
        }
    }

    /// We know who is there: is it somebody we want to be connected to by this connection?
    fn meet(&mut self, now: Timestamp, conn: ConnId, theirs: Features) -> Result<(), Refusal> {
        let Some(connection) = self.connections.remove(&conn) else { return Ok(()) };
        let Connection { remote, target, deadline, phase } = connection;
        let (handshake, conn_id) = match phase {
            Phase::Introducing(handshake, conn_id) => (handshake, conn_id),
            phase @ Phase::Introduced(_) => {
                self.connections.insert(conn, Connection { remote, target, deadline, phase });
                return Ok(());
            }
        };
        let uid = conn_id ^ theirs.conn_id;
        let judged = self.judge(now, target.as_deref(), remote, &theirs, uid);
        let rival = self.neighbours.get(&theirs.name).copied();
        let news = judged.is_ok() && self.is_news(&theirs);
        let outbound = target.is_some();
        let introduced = handshake.finish(theirs.clone());
        let sleeve = self.sleeve(now, &introduced, uid, Some(remote).filter(|_| outbound));
        // Routers are to send no packets of containers this way.
        let established = sleeve.is_none();
        let neighbour = Neighbour::new(now, uid, self.is_own_kind(&theirs), introduced, sleeve);
        let deadline = now + neighbour.silence_max;
        let phase = Phase::Introduced(Box::new(neighbour));
        self.connections.insert(conn, Connection { remote, target, deadline, phase });
        self.watch(conn);
        judged?;
        if let Some(rival) = rival {
            self.close(
                now,
                rival,
                "replaced by another connection to the same peer".to_owned(),
                Again::Later,
            );
        }
        self.add(now, conn, &theirs, Link::new(remote.to_string(), outbound, established));
        if news || rival.is_some() {
            self.gossip_topology(Recipients::One(conn));
            self.outputs.push_back(Output::SendState(Recipients::One(conn)));
        }
        Ok(())
    }

    /// With a Weave Net router, unless it offers our own overlay too.
    fn sleeve(
        &self,
        now: Timestamp,
        introduced: &Introduced,
        number: u64,
        dialled: Option<SocketAddr>,
    ) -> Option<Sleeve> {
        let theirs = &introduced.theirs;
        let bare = theirs.overlays.is_none();
        let wanted = !self.is_own_kind(theirs) && (bare || theirs.offers(SLEEVE));
        let terms = Terms {
            own: self.settings.name,
            theirs: theirs.name,
            number,
            key: introduced.key.clone().filter(|_| !introduced.trusted),
            dialled,
            bare,
        };
        (wanted && self.welcomes_routers()).then(|| Sleeve::new(now, terms))
    }

    /// Whether routers of Weave Net share the cluster.
    fn welcomes_routers(&self) -> bool {
        self.settings.overlays.iter().any(|our| our == SLEEVE)
    }

    /// Nobody but old routers of Weave Net speaks version 1, in which names are in clear and may be anybody's.
    fn oldest_version(&self) -> Version {
        if self.welcomes_routers() { Version::V1 } else { Version::V2 }
    }

    /// A datagram came. It is looked at only if there is a connection to who sent it.
    pub(super) fn on_datagram(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        let conn = sleeve::sender(datagram).and_then(|name| self.neighbours.get(&name)).copied();
        let neighbour = conn.and_then(|conn| self.connections.get_mut(&conn)?.neighbour());
        let Some(sleeve) = neighbour.and_then(|neighbour| neighbour.sleeve.as_mut()) else { return };
        let answer = sleeve.receive(now, from, datagram);
        if let Some(conn) = conn {
            self.watch(conn);
            answer.iter().for_each(|message| self.send(conn, message));
        }
    }

    /// A router says that our heartbeats come through.
    pub(super) fn on_established(&mut self, conn: ConnId, bare: bool) {
        let neighbour = self.connections.get_mut(&conn).and_then(|connection| connection.neighbour());
        if let Some(sleeve) = neighbour.and_then(|neighbour| neighbour.sleeve.as_mut()) {
            sleeve.establish(bare);
        }
        self.watch(conn);
    }

    /// Whether the other end may know nothing of what we know: it is new, or began a new life.
    fn is_news(&self, theirs: &Features) -> bool {
        let known = self.topology.peers().get(&theirs.name);
        let restarted = known.is_none_or(|known| known.uid != theirs.uid);
        restarted || !self.routes.unicast().contains_key(&theirs.name)
    }

    /// Whether a neighbour is of our own kind.
    pub(super) fn is_kin(&self, name: PeerName) -> bool {
        let connection = self.neighbours.get(&name).and_then(|conn| self.connections.get(conn));
        connection.is_some_and(Connection::is_kin)
    }

    fn is_own_kind(&self, theirs: &Features) -> bool {
        theirs.offers(OVERLAY) && self.settings.overlays.iter().any(|our| our == OVERLAY)
    }

    fn add(&mut self, now: Timestamp, conn: ConnId, theirs: &Features, link: Link) {
        let Features { name, uid, ref nickname, short_id, .. } = *theirs;
        let nickname = nickname.clone();
        self.topology.introduce(name, Peer { uid, nickname, short_id, ..Peer::default() });
        self.topology.link(name, link);
        self.topology.settle_short_id(&mut self.rng);
        self.neighbours.insert(name, conn);
        self.troubles.refused.forget(name);
        if let Some(target) = self.connections.get(&conn).and_then(|connection| connection.target.as_deref())
        {
            self.dialler.connected(now, target);
        }
        if !self.is_kin(name) {
            self.timers.announced.insert(name);
        }
        self.survey();
        self.announce_soon(now);
        // What is said from now on goes to the new neighbour, who was told only what we knew until now.
        self.find_routes();
    }

    /// Closes a connection of our own accord. Our own kind is told why: otherwise it would have to guess.
    pub(super) fn close(&mut self, now: Timestamp, conn: ConnId, why: String, again: Again) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(neighbour) = connection.neighbour().filter(|neighbour| neighbour.own_kind) {
            let farewell = neighbour.writer.message(&message::farewell(&why));
            self.outputs.push_back(Output::Send(conn, farewell));
        }
        self.outputs.push_back(Output::Close(conn, why.clone()));
        self.forget(now, conn, why, again);
    }

    /// The other end says why it is about to close.
    pub(super) fn on_farewell(&mut self, conn: ConnId, why: String) {
        if let Some(neighbour) = self.connections.get_mut(&conn).and_then(Connection::neighbour) {
            neighbour.farewell = Some(why);
        }
    }

    /// The other end, or the network, closed a connection.
    pub(super) fn closed(&mut self, now: Timestamp, conn: ConnId, why: String) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let why = match (&connection.phase, connection.encrypted()) {
            (Phase::Introduced(neighbour), _) if neighbour.farewell.is_some() => {
                let farewell = neighbour.farewell.as_deref().unwrap_or_default();
                format!("closed by peer {}: {farewell}", neighbour.name)
            }
            (Phase::Introduced(neighbour), _) if now.since(neighbour.since) < AT_ONCE => format!(
                "closed by peer {} as soon as it was introduced ({why}); its log says why: ipam.range may differ, or \
                 who made the first ring",
                neighbour.name
            ),
            (Phase::Introduced(_), _) => why,
            (Phase::Introducing(..), true) => {
                format!("closed by the other side while being introduced ({why}); its password may differ")
            }
            (Phase::Introducing(..), false) => {
                format!("closed by the other side while being introduced ({why}); it may have a password")
            }
        };
        self.forget(now, conn, why, Again::Later);
    }

    fn forget(&mut self, now: Timestamp, conn: ConnId, why: String, again: Again) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        let neighbour = connection.peer().filter(|peer| self.neighbours.get(peer) == Some(&conn));
        if let Some(peer) = neighbour {
            self.neighbours.remove(&peer);
            self.topology.unlink(peer);
            self.timers.collect = Some(now);
            self.announce_soon(now);
        }
        self.survey();
        if let Some(target) = &connection.target {
            self.dialler.ended(now, &mut self.rng, target, why, again);
        }
    }

    /// A target did not answer.
    pub(super) fn dial_failed(&mut self, now: Timestamp, target: &str, reason: String) {
        self.dialler.ended(now, &mut self.rng, target, reason, Again::Later);
    }

    /// A whole message came: the silence begins anew.
    pub(super) fn refresh(&mut self, now: Timestamp, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Phase::Introduced(neighbour) = &connection.phase {
            connection.deadline = now + neighbour.silence_max;
        }
    }

    /// Sends heartbeats that are due, and closes what was silent for too long.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let mut silent = Vec::new();
        for (&conn, connection) in &mut self.connections {
            if connection.deadline <= now {
                let why = match &connection.phase {
                    Phase::Introduced(_) => "nothing was heard for too long",
                    Phase::Introducing(handshake, _) if handshake.has_header() => {
                        "the introduction took too long"
                    }
                    Phase::Introducing(..) => "the other side did not say what it speaks",
                };
                silent.push((conn, why));
            } else if let Some(neighbour) = connection.neighbour() {
                let bytes = neighbour.heartbeat(now);
                self.outputs.extend(bytes.map(|bytes| Output::Send(conn, bytes)));
                let datagram = neighbour.sleeve.as_mut().and_then(|sleeve| sleeve.heartbeat(now));
                self.outputs.extend(datagram.map(|(to, bytes)| Output::Datagram(to, bytes)));
            }
        }
        for (conn, why) in silent {
            self.close(now, conn, why.to_owned(), Again::Later);
        }
        self.timers.connections = self.connections.values().map(Connection::next_wake).min();
    }
}

/// An error and what it came from, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line += &format!(": {error}");
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipnet::Ipv4Net;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::mesh::frame::Writer;
    use crate::{
        mesh::{Settings, features::FEATURES, frame::Version},
        peer::PeerUid,
    };

    const THEIRS: PeerName = PeerName::from_u64(9);

    fn mesh(trusted_subnets: Vec<Ipv4Net>) -> Mesh {
        let settings = Settings {
            name: PeerName::from_u64(1),
            uid: PeerUid(1),
            nickname: String::new(),
            port: 6783,
            password: None,
            trusted_subnets,
            conn_limit: 0,
            overlays: Vec::new(),
            discovery: false,
        };
        Mesh::new(settings, ChaCha8Rng::seed_from_u64(1))
    }

    /// Peer 9 dials us and chooses its number so that the connection has this one.
    fn dialled_by_peer_9(mesh: &mut Mesh, conn: ConnId, uid: u64) {
        let remote = SocketAddr::from(([10, 0, 0, 9], 40000));
        mesh.open(Timestamp::ZERO, conn, remote, None);
        let Phase::Introducing(_, ours) = &mesh.connections[&conn].phase else { panic!("just opened") };
        let theirs = Features {
            name: THEIRS,
            nickname: String::new(),
            uid: PeerUid(9),
            conn_id: ours ^ uid,
            short_id: None,
            trusted: false,
            overlays: None,
            public_key: None,
            program: None,
            compares: false,
        };
        let features = Writer::new(Version::V2).features(&FEATURES, &theirs.to_value(Version::V2));
        let bytes = [&b"weave\x01\x02\x00"[..], &features].concat();
        mesh.received(Timestamp::ZERO, conn, &bytes);
    }

    #[test]
    fn of_two_connections_the_one_with_the_lower_number_is_kept() {
        let (old, new) = (ConnId(1), ConnId(2));
        for (number, kept) in [(99, new), (101, old)] {
            let mut mesh = mesh(Vec::new());
            dialled_by_peer_9(&mut mesh, old, 100);
            dialled_by_peer_9(&mut mesh, new, number);
            assert_eq!(mesh.neighbours, BTreeMap::from([(THEIRS, kept)]));
            assert_eq!(mesh.connections.keys().copied().collect::<Vec<_>>(), [kept]);
            assert!(mesh.topology.ourselves().links.contains_key(&THEIRS));
        }
    }

    #[test]
    fn who_is_in_a_trusted_subnet_is_told_so() {
        let trusted = vec!["10.0.0.0/24".parse().unwrap()];
        let mut mesh = mesh(trusted);
        assert!(mesh.features(SocketAddr::from(([10, 0, 0, 9], 1))).trusted);
        assert!(!mesh.features(SocketAddr::from(([10, 0, 1, 9], 1))).trusted);
    }
}
