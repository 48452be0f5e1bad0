//! What keeps a connection to a Weave Net router: the heartbeats of its overlay `sleeve`, over UDP.
//!
//! A router calls a connection established once our heartbeats reach it, and closes it when they fail to for a minute. No packet of a
//! container goes this way: ours go by the routes of the VPC, so in the topology we never call such a connection
//! established, and routers send nothing that way to be passed on.
//!
//! ```text
//! clear      sender || frame
//! encrypted  sender || u64 number || sealed frame
//! frame      source || destination || u16 length || 14 zero bytes || u64 number of the connection
//! ```
//!
//! Names are 6 bytes. Other frames are tests of the path and packets of containers: they are dropped.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    crypto::{Datagrams, SEAL_LEN, SessionKey},
    message,
};
use crate::{peer::PeerName, time::Timestamp};

/// Longer datagrams are no heartbeats.
pub const DATAGRAM_LEN_MAX: usize = NAME_LEN + 8 + SEAL_LEN + FRAME_LEN;

const NAME_LEN: usize = 6;
const FRAME_LEN: usize = 2 * NAME_LEN + 2 + HEARTBEAT_LEN;
const HEARTBEAT_LEN: usize = ZEROS.len() + 8;
/// An Ethernet header that no packet has.
const ZEROS: [u8; 14] = [0; 14];
const UNTIL_ESTABLISHED: Duration = Duration::from_millis(500);
const ESTABLISHED: Duration = Duration::from_secs(10);

/// One end of the overlay beside one connection.
pub struct Sleeve {
    terms: Terms,
    datagrams: Option<Datagrams>,
    /// Where heartbeats go. Whoever was dialled learns it from the first one that comes.
    address: Option<SocketAddr>,
    due: Timestamp,
    /// The other end was told that we hear it.
    told: bool,
    /// The other end hears us.
    established: bool,
}

/// What the introduction settled.
pub struct Terms {
    /// Our name.
    pub own: PeerName,
    /// The name of the other end.
    pub theirs: PeerName,
    /// The number of the connection.
    pub number: u64,
    /// To encrypt with, unless both ends trust the network.
    pub key: Option<SessionKey>,
    /// The other end, if we dialled it: its UDP port has the same number.
    pub dialled: Option<SocketAddr>,
    /// The other end named no overlays, and expects the messages of old.
    pub bare: bool,
}

impl Sleeve {
    /// Silent until the first [`Sleeve::heartbeat`].
    pub fn new(now: Timestamp, terms: Terms) -> Sleeve {
        let datagrams = terms.key.clone().map(|key| Datagrams::new(key, terms.dialled.is_some()));
        let address = terms.dialled;
        Sleeve { terms, datagrams, address, due: now, told: false, established: false }
    }

    /// Whether the other end hears us.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// When a heartbeat is due.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.address.map(|_| self.due)
    }

    /// The heartbeat that is due, and where it goes.
    pub fn heartbeat(&mut self, now: Timestamp) -> Option<(SocketAddr, Bytes)> {
        let address = self.address.filter(|_| self.due <= now)?;
        self.due = now + if self.established { ESTABLISHED } else { UNTIL_ESTABLISHED };
        let (own, theirs) = (name_bytes(self.terms.own), name_bytes(self.terms.theirs));
        let len = (HEARTBEAT_LEN as u16).to_be_bytes();
        let frame = [&own[..], &theirs, &len, &ZEROS, &self.terms.number.to_be_bytes()].concat();
        let frame = self.datagrams.as_mut().map_or_else(|| frame.clone(), |datagrams| datagrams.seal(&frame));
        Some((address, [&own[..], &frame].concat().into()))
    }

    /// A datagram of the other end. What is no heartbeat means nothing. Returns what is to be said to the other end, once.
    pub fn receive(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let sealed = datagram.get(NAME_LEN..).filter(|_| datagram.len() <= DATAGRAM_LEN_MAX)?;
        let opened = match &mut self.datagrams {
            Some(datagrams) => datagrams.open(sealed)?,
            None => sealed.to_vec(),
        };
        if !self.is_heartbeat(&opened) {
            return None;
        }
        if self.address != Some(from) {
            self.address = Some(from);
            self.due = now;
        }
        let first = !std::mem::replace(&mut self.told, true);
        first.then(|| message::overlay_established(self.terms.bare))
    }

    /// The other end says that it hears us.
    pub fn establish(&mut self, bare: bool) {
        self.established |= bare == self.terms.bare;
    }

    fn is_heartbeat(&self, frame: &[u8]) -> bool {
        let (own, theirs) = (name_bytes(self.terms.own), name_bytes(self.terms.theirs));
        let len = (HEARTBEAT_LEN as u16).to_be_bytes();
        frame == [&theirs[..], &own, &len, &ZEROS, &self.terms.number.to_be_bytes()].concat()
    }
}

/// Who says that it sent a datagram.
pub fn sender(datagram: &[u8]) -> Option<PeerName> {
    let name: [u8; NAME_LEN] = *datagram.first_chunk()?;
    Some(PeerName::from_u64(name.iter().fold(0, |name, &byte| name << 8 | u64::from(byte))))
}

fn name_bytes(name: PeerName) -> [u8; NAME_LEN] {
    let [_, _, bytes @ ..] = name.as_u64().to_be_bytes();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::vectors::group;

    const OWN: PeerName = PeerName::from_u64(0x0102_0304_0506);
    const THEIRS: PeerName = PeerName::from_u64(0x0a0b_0c0d_0e0f);
    const NUMBER: u64 = 0x0102_0304_0506_0708;

    fn here() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 6783))
    }

    fn there() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 2], 6783))
    }

    fn key() -> SessionKey {
        SessionKey::from_bytes(std::array::from_fn(|at| at as u8))
    }

    fn dialler(key: Option<SessionKey>) -> Sleeve {
        let terms =
            Terms { own: OWN, theirs: THEIRS, number: NUMBER, key, dialled: Some(there()), bare: false };
        Sleeve::new(Timestamp::ZERO, terms)
    }

    fn acceptor(key: Option<SessionKey>) -> Sleeve {
        let terms = Terms { own: THEIRS, theirs: OWN, number: NUMBER, key, dialled: None, bare: false };
        Sleeve::new(Timestamp::ZERO, terms)
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_micros(1000 * ms)
    }

    fn vector(name: &str) -> Vec<u8> {
        let found = group("sleeve").into_iter().find(|(vector, _)| vector["name"] == name);
        found.unwrap_or_else(|| panic!("no vector {name}")).1
    }

    #[test]
    fn heartbeats_are_those_of_go() {
        let (to, plain) = dialler(None).heartbeat(at(0)).unwrap();
        assert_eq!((to, plain), (there(), vector("sleeve_udp_heartbeat_plain").into()));
        let mut sealed = dialler(Some(key()));
        for sequence in 0..2 {
            let name = format!("sleeve_udp_heartbeat_encrypted_dftrue_outboundtrue_seq{sequence}");
            assert_eq!(sealed.heartbeat(at(sequence * 500)).unwrap().1, vector(&name));
        }
    }

    #[test]
    fn heartbeats_of_go_are_understood_and_answered_once() {
        for name in ["plain", "encrypted_dftrue_outboundtrue_seq0", "encrypted_dffalse_outboundtrue_seq1"] {
            let mut sleeve = acceptor((name != "plain").then(key));
            let datagram = vector(&format!("sleeve_udp_heartbeat_{name}"));
            assert_eq!(sender(&datagram), Some(OWN));
            assert_eq!(sleeve.receive(at(0), here(), &datagram), Some(vec![7, 0, 1]), "{name}");
            assert_eq!(sleeve.receive(at(0), here(), &datagram), None, "{name}");
        }
    }

    #[test]
    fn whoever_was_dialled_is_silent_until_it_hears_the_other_and_both_slow_down_when_established() {
        let (mut dialler, mut acceptor) = (dialler(Some(key())), acceptor(Some(key())));
        assert_eq!((acceptor.heartbeat(at(0)), acceptor.next_wake()), (None, None));
        let (_, first) = dialler.heartbeat(at(0)).unwrap();
        assert!(acceptor.receive(at(1), here(), &first).is_some());
        let (to, second) = acceptor.heartbeat(at(1)).unwrap();
        assert_eq!(to, here());
        assert!(dialler.receive(at(2), there(), &second).is_some());
        assert_eq!(dialler.next_wake(), Some(at(500)));
        dialler.establish(false);
        assert!(dialler.is_established() && !acceptor.is_established());
        dialler.heartbeat(at(500)).unwrap();
        assert_eq!(dialler.next_wake(), Some(at(10_500)));
        assert_eq!(dialler.heartbeat(at(10_499)), None);
    }

    #[test]
    fn a_replayed_datagram_does_not_lead_our_heartbeats_elsewhere() {
        let mut sleeve = acceptor(Some(key()));
        let datagram = vector("sleeve_udp_heartbeat_encrypted_dftrue_outboundtrue_seq0");
        sleeve.receive(at(0), here(), &datagram);
        sleeve.receive(at(1), SocketAddr::from(([10, 6, 6, 6], 1)), &datagram);
        assert_eq!(sleeve.heartbeat(at(2)).unwrap().0, here());
        let next = vector("sleeve_udp_heartbeat_encrypted_dftrue_outboundtrue_seq1");
        sleeve.receive(at(3), SocketAddr::from(([10, 0, 0, 7], 1)), &next);
        assert_eq!(sleeve.heartbeat(at(4)).unwrap().0, SocketAddr::from(([10, 0, 0, 7], 1)), "it moved");
    }

    #[test]
    fn what_is_no_heartbeat_of_this_connection_means_nothing() {
        let plain = vector("sleeve_udp_heartbeat_plain");
        let mut other_number = plain.clone();
        *other_number.last_mut().unwrap() ^= 1;
        let longer = [&plain[..], &[0]].concat();
        let swapped = dialler(None).heartbeat(at(0)).unwrap().1;
        let huge = vec![0; 60_000];
        for datagram in [&b""[..], &plain[..5], &plain[..41], &other_number, &longer, &huge] {
            let mut sleeve = acceptor(None);
            assert_eq!(sleeve.receive(at(0), here(), datagram), None, "{} bytes", datagram.len());
            assert_eq!(sleeve.next_wake(), None);
        }
        assert_eq!(dialler(None).receive(at(0), there(), &swapped), None, "our own, thrown back");
        assert_eq!(acceptor(Some(key())).receive(at(0), here(), &plain), None, "in clear under a password");
        let sealed = vector("sleeve_udp_heartbeat_encrypted_dftrue_outboundtrue_seq0");
        let damaged: Vec<u8> = sealed.iter().rev().copied().collect();
        assert_eq!(acceptor(Some(key())).receive(at(0), here(), &damaged), None);
        assert!(sealed.len() <= DATAGRAM_LEN_MAX);
    }

    #[test]
    fn an_old_router_is_answered_in_the_way_of_old() {
        let terms = Terms { own: THEIRS, theirs: OWN, number: NUMBER, key: None, dialled: None, bare: true };
        let mut sleeve = Sleeve::new(at(0), terms);
        assert_eq!(sleeve.receive(at(0), here(), &vector("sleeve_udp_heartbeat_plain")), Some(vec![1]));
        sleeve.establish(false);
        assert!(!sleeve.is_established(), "that was said of another overlay");
        sleeve.establish(true);
        assert!(sleeve.is_established());
    }
}
