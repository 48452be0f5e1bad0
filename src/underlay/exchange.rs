//! Who was told where this host is, who has said where it is itself, and who was found where.
//!
//! A host tells each other one until that has said that it knows. After a restart it knows nothing, says so, and is told again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use super::{ADDRESSES_MAX, Path, Talk, Underlay, Why, path, path_before_proof, unproven};
use crate::{digest::Digest, peer::PeerName, time::Timestamp};

/// Peers that are remembered, at most.
const PEERS_MAX: usize = 4096;
/// So many that those of them are forgotten that are not there.
const CROWDED: usize = 1024;
/// Least time between two messages to one peer.
const APART: Duration = Duration::from_secs(1);
/// The longest: one that does not answer may be of an earlier version.
const APART_MAX: Duration = Duration::from_secs(300);

/// How long a host that seems to be on our link may take to be found there, before a tunnel leads to it.
const PROOF_WITHIN: Duration = Duration::from_secs(10);

/// What one host knows of where others are.
#[derive(Debug, Default)]
pub struct Exchange {
    own: Option<Underlay>,
    own_digest: Option<Digest>,
    others: BTreeMap<PeerName, Other>,
    /// How many of them are reached past the VPC.
    led: usize,
    /// Where neighbours would have to be found.
    sought: BTreeSet<Ipv4Addr>,
    /// Until when the first of them is expected there.
    expected: Option<Timestamp>,
    wake: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Other {
    is_there: bool,
    underlay: Option<Underlay>,
    /// Addresses at which it was found.
    proven: BTreeSet<Ipv4Addr>,
    /// The address at which it was found last.
    found: Option<Ipv4Addr>,
    /// Until when it is expected to be found where it says that it is.
    expected: Option<Timestamp>,
    /// What of us it knows, by its own word.
    knows: Option<Digest>,
    /// It has asked for an answer.
    is_owed: bool,
    /// When it may be told next.
    next: Timestamp,
    /// How long to wait after that.
    pause: Duration,
}

impl Exchange {
    /// Where this host is. If that has changed, all are told.
    pub fn set_own(&mut self, now: Timestamp, own: Option<Underlay>) {
        if self.own != own {
            self.own_digest = own.as_ref().map(Underlay::digest);
            self.own = own;
            self.others.values_mut().for_each(|other| other.hurry(now));
            self.settle();
        }
    }

    /// The peers that the mesh reaches, and the addresses at which connections have found them. Returns whether any was found anew.
    pub fn see(
        &mut self,
        now: Timestamp,
        reachable: &BTreeSet<PeerName>,
        found: impl Iterator<Item = (PeerName, Ipv4Addr)>,
    ) -> bool {
        for (peer, other) in &mut self.others {
            let is_there = reachable.contains(peer);
            if is_there && !other.is_there {
                other.hurry(now);
            }
            other.is_there = is_there;
        }
        for &peer in reachable {
            if self.others.len() < PEERS_MAX || self.others.contains_key(&peer) {
                self.others.entry(peer).or_default().is_there = true;
            }
        }
        if self.others.len() > CROWDED {
            self.others.retain(|_, other| other.is_there);
        }
        let mut is_news = false;
        for (peer, address) in found {
            let Some(other) = self.others.get_mut(&peer) else { continue };
            let has_room = other.proven.len() < ADDRESSES_MAX || other.forget_unsaid();
            is_news |= has_room && other.proven.insert(address);
            is_news |= other.found.replace(address) != Some(address);
        }
        self.settle();
        is_news
    }

    /// The addresses on our links at which those would have to be found that connections have found elsewhere.
    pub fn sought(&self) -> &BTreeSet<Ipv4Addr> {
        &self.sought
    }

    /// Who was found where, by connections that were not kept. Returns whether any was found anew where it had to be.
    pub fn meet(&mut self, found: impl Iterator<Item = (PeerName, Ipv4Addr)>) -> bool {
        let mut is_news = false;
        for (peer, address) in found {
            is_news |= self.is_sought(peer, address) && self.prove(peer, address);
        }
        self.settle_if(is_news)
    }

    /// Whether there is a peer whose address only the word of another could prove.
    pub fn wants_vouchers(&self) -> bool {
        self.others.values().any(|other| self.sought_of(other).is_some())
    }

    /// Connections of others, each from one peer to another at an address. One that is on our link and connected to an address on it
    /// has proved for us, too, who is there. Returns whether any was found anew.
    pub fn vouch(&mut self, links: impl Iterator<Item = (PeerName, PeerName, Ipv4Addr)>) -> bool {
        let mut is_news = false;
        for (voucher, peer, address) in links {
            is_news |= self.is_sought(peer, address)
                && self.has_on_link(voucher, address)
                && self.prove(peer, address);
        }
        self.settle_if(is_news)
    }

    fn is_sought(&self, peer: PeerName, address: Ipv4Addr) -> bool {
        self.others.get(&peer).is_some_and(|other| self.sought_of(other) == Some(address))
    }

    fn prove(&mut self, peer: PeerName, address: Ipv4Addr) -> bool {
        let proven = &mut self.others.entry(peer).or_default().proven;
        proven.len() < ADDRESSES_MAX && proven.insert(address)
    }

    /// The address on our link at which a peer would have to be found.
    fn sought_of(&self, other: &Other) -> Option<Ipv4Addr> {
        unproven(self.own.as_ref()?, other.underlay.as_ref()?, &other.proven)
    }

    /// Whether a peer on our link has this address on that link as well.
    fn has_on_link(&self, peer: PeerName, address: Ipv4Addr) -> bool {
        let Path::Direct { from, to, .. } = self.path(peer) else { return false };
        let theirs = self.underlay(peer).into_iter().flat_map(|underlay| &underlay.addresses);
        from.contains(&address) && theirs.into_iter().any(|net| net.addr() == to && net.contains(&address))
    }

    /// A peer has said where it is. Returns whether that is news.
    pub fn hear(&mut self, now: Timestamp, from: PeerName, talk: Talk) -> bool {
        if self.others.len() >= PEERS_MAX && !self.others.contains_key(&from) {
            return false;
        }
        let other = self.others.entry(from).or_default();
        let knows = talk.knows.map(Digest);
        if other.knows != knows {
            other.knows = knows;
            other.hurry(now);
        }
        other.is_owed |= talk.asks;
        let is_news = other.underlay.as_ref() != Some(&talk.underlay);
        let said = other.underlay.as_ref().map(|underlay| &underlay.addresses);
        if said != Some(&talk.underlay.addresses) {
            other.expected = Some(now + PROOF_WITHIN);
        }
        other.underlay = Some(talk.underlay);
        self.settle();
        is_news
    }

    /// Time has passed. Returns whether another path may follow: a host was not found on our link for too long.
    pub fn pass(&mut self, now: Timestamp) -> bool {
        let is_late = self.expected.is_some_and(|until| until <= now);
        if is_late {
            for other in self.others.values_mut() {
                other.expected.take_if(|until| *until <= now);
            }
            self.settle();
        }
        is_late
    }

    /// The next thing to say, if it is time.
    pub fn next(&mut self, now: Timestamp) -> Option<(PeerName, Talk)> {
        if self.wake.is_none_or(|wake| wake > now) {
            return None;
        }
        let (own, digest) = (self.own.clone()?, self.own_digest?);
        let is_due = |other: &Other| other.lacks_word(digest) && other.next <= now;
        let said = self.others.iter_mut().find(|(_, other)| is_due(other)).map(|(peer, other)| {
            let talk = Talk {
                underlay: own,
                knows: other.underlay.as_ref().map(|underlay| underlay.digest().0),
                asks: other.knows != Some(digest),
            };
            other.is_owed = false;
            other.next = now + other.pause.max(APART);
            other.pause = (other.pause.max(APART) * 2).min(APART_MAX);
            (*peer, talk)
        });
        self.set_wake();
        said
    }

    /// When there is something to say, or enough time has passed.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wake.into_iter().chain(self.expected).min()
    }

    /// Whether any peer is reached past the VPC.
    pub fn leads_past_vpc(&self) -> bool {
        self.led > 0
    }

    /// Where this host is.
    pub fn own(&self) -> Option<&Underlay> {
        self.own.as_ref()
    }

    /// Where a peer is, by its own word.
    pub fn underlay(&self, peer: PeerName) -> Option<&Underlay> {
        self.others.get(&peer)?.underlay.as_ref()
    }

    /// The path to a peer.
    pub fn path(&self, peer: PeerName) -> Path {
        let Some(ours) = &self.own else { return Path::Unknown(Why::Here) };
        match self.others.get(&peer) {
            Some(other @ Other { underlay: Some(theirs), proven, expected, .. }) => {
                let find = if expected.is_some() { path_before_proof } else { path };
                other.completed(find(ours, theirs, proven))
            }
            Some(_) | None => Path::Unknown(Why::Unsaid),
        }
    }

    fn settle_if(&mut self, is_news: bool) -> bool {
        if is_news {
            self.settle();
        }
        is_news
    }

    /// What follows from all of it is found out anew.
    fn settle(&mut self) {
        let is_led = |peer: &&PeerName| {
            matches!(self.path(**peer), Path::Direct { .. } | Path::Tunnel { .. } | Path::Bare { .. })
        };
        self.led = self.others.keys().filter(is_led).count();
        let unproven = self.others.values().filter_map(|other| Some((other, self.sought_of(other)?)));
        let unproven: Vec<_> = unproven.collect();
        let neighbours = unproven.iter().filter(|(other, _)| other.is_there && other.found.is_some());
        self.sought = neighbours.map(|(_, address)| *address).collect();
        self.expected = unproven.iter().filter_map(|(other, _)| other.expected).min();
        self.set_wake();
    }

    fn set_wake(&mut self) {
        let digest = self.own_digest;
        let waiting =
            self.others.values().filter(|other| digest.is_some_and(|digest| other.lacks_word(digest)));
        self.wake = waiting.map(|other| other.next).min();
    }
}

impl Other {
    /// Whether it is to be told something.
    fn lacks_word(&self, digest: Digest) -> bool {
        self.is_there && (self.is_owed || self.knows != Some(digest))
    }

    /// A tunnel whose other end has not said where it is leads to where it was found last.
    fn completed(&self, path: Path) -> Path {
        let Path::Tunnel { key, endpoint: None, mtu } = path else { return path };
        let port = self.underlay.as_ref().and_then(|underlay| underlay.tunnel).map(|end| end.port);
        let endpoint = self.found.zip(port).map(|(address, port)| SocketAddrV4::new(address, port));
        Path::Tunnel { key, endpoint, mtu }
    }

    /// It is told soon, and again soon after.
    fn hurry(&mut self, now: Timestamp) {
        self.pause = APART;
        self.next = self.next.min(now + APART);
    }

    /// Makes room for another address. Returns whether there is some.
    fn forget_unsaid(&mut self) -> bool {
        let said = self.underlay.iter().flat_map(|underlay| &underlay.addresses);
        let said: BTreeSet<Ipv4Addr> = said.map(ipnet::Ipv4Net::addr).collect();
        self.proven.retain(|address| said.contains(address));
        self.proven.len() < ADDRESSES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Place, TunnelEnd},
        *,
    };
    use crate::state::TunnelKey;

    const A: PeerName = PeerName::from_u64(1);
    const B: PeerName = PeerName::from_u64(2);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn outside(address: &str) -> Underlay {
        let addresses = [address.parse().unwrap()].into();
        Underlay { place: Place::Outside, addresses, direct: false, links6: [].into(), tunnel: None }
    }

    fn with_tunnel(address: &str, key: u8) -> Underlay {
        let end =
            TunnelEnd { key: TunnelKey([key; 32]), port: 6784, endpoint: None, mtu: 1500, encrypts: false };
        Underlay { tunnel: Some(end), ..outside(address) }
    }

    fn host(address: &str, other: PeerName) -> Exchange {
        let mut exchange = Exchange::default();
        exchange.set_own(at(0), Some(outside(address)));
        exchange.see(at(0), &[other].into(), std::iter::empty());
        exchange
    }

    /// Lets two talk for so many seconds; how many messages there were. Of the first so many are lost.
    fn talk(
        one: &mut Exchange,
        other: &mut Exchange,
        seconds: std::ops::Range<u64>,
        mut lost: usize,
    ) -> usize {
        let mut count = 0;
        for second in seconds {
            let mut any = true;
            while std::mem::take(&mut any) {
                let said = [one.next(at(second)), other.next(at(second))];
                for (number, (to, talk)) in
                    said.into_iter().enumerate().filter_map(|(n, said)| Some((n, said?)))
                {
                    (count, any) = (count + 1, true);
                    let hears = if to == B { &mut *other } else { &mut *one };
                    if lost > 0 {
                        lost -= 1;
                    } else {
                        let talk = Talk::decode(&talk.encode()).unwrap();
                        hears.hear(at(second), if number == 0 { A } else { B }, talk);
                    }
                }
            }
        }
        count
    }

    fn know_each_other(one: &Exchange, other: &Exchange) -> bool {
        one.underlay(B) == other.own() && other.underlay(A) == one.own()
    }

    #[test]
    fn two_hosts_tell_each_other_and_then_are_silent() {
        let (mut one, mut other) = (host("10.0.0.1/24", B), host("10.0.0.2/24", A));
        let count = talk(&mut one, &mut other, 0..10, 0);
        assert!(know_each_other(&one, &other) && count <= 6, "{count} messages");
        assert_eq!(talk(&mut one, &mut other, 10..4000, 0), 0);
        assert!(one.pass(at(4000)), "the other was not found on the link that both seem to be on");
        assert_eq!(one.next_wake(), None);
    }

    #[test]
    fn what_is_lost_is_said_again() {
        for lost in 1..8 {
            let (mut one, mut other) = (host("10.0.0.1/24", B), host("10.0.0.2/24", A));
            talk(&mut one, &mut other, 0..600, lost);
            assert!(know_each_other(&one, &other), "after {lost} were lost");
            assert_eq!(talk(&mut one, &mut other, 600..4000, 0), 0, "after {lost} were lost");
        }
    }

    #[test]
    fn a_host_that_forgot_all_is_told_again_though_the_other_saw_no_restart() {
        let (mut one, mut other) = (host("10.0.0.1/24", B), host("10.0.0.2/24", A));
        talk(&mut one, &mut other, 0..10, 0);
        one = host("10.0.0.1/24", B);
        talk(&mut one, &mut other, 10..20, 0);
        assert!(know_each_other(&one, &other));
    }

    #[test]
    fn a_host_that_moved_tells_all() {
        let (mut one, mut other) = (host("10.0.0.1/24", B), host("10.0.0.2/24", A));
        talk(&mut one, &mut other, 0..10, 0);
        one.set_own(at(10), Some(outside("10.0.0.9/24")));
        talk(&mut one, &mut other, 10..20, 0);
        assert!(know_each_other(&one, &other));
    }

    #[test]
    fn whoever_does_not_answer_is_told_more_and_more_seldom() {
        let mut one = host("10.0.0.1/24", B);
        let times = (0..3600).filter(|second| one.next(at(*second)).is_some()).count();
        assert!((8..25).contains(&times), "{times} messages in an hour");
    }

    #[test]
    fn whoever_asks_without_end_is_answered_once_a_second() {
        let mut one = host("10.0.0.1/24", B);
        let asks = Talk { underlay: outside("10.0.0.2/24"), knows: None, asks: true };
        let mut answers = 0;
        for _ in 0..1000 {
            one.hear(at(5), B, asks.clone());
            answers += usize::from(one.next(at(5)).is_some());
        }
        assert!(answers <= 1, "{answers} answers in one moment");
    }

    #[test]
    fn strangers_without_number_fill_no_memory() {
        let mut one = host("10.0.0.1/24", B);
        let talk = Talk { underlay: outside("10.0.0.2/24"), knows: None, asks: true };
        for number in 0..2 * PEERS_MAX as u64 {
            one.hear(at(1), PeerName::from_u64(number), talk.clone());
        }
        assert_eq!(one.others.len(), PEERS_MAX);
        one.see(at(2), &[B].into(), std::iter::empty());
        assert_eq!(one.others.len(), 1);
        let found = (0..100_u32).map(|n| (B, Ipv4Addr::from(n)));
        one.see(at(3), &[B].into(), found);
        assert!(one.others[&B].proven.len() <= ADDRESSES_MAX);
    }

    /// A host keeps at most 200 connections, and a network may have more hosts.
    #[test]
    fn one_that_is_on_the_link_vouches_for_whom_it_is_connected_to_there() {
        const C: PeerName = PeerName::from_u64(3);
        let mut one = host("10.0.0.1/24", B);
        let said = |address| Talk { underlay: outside(address), knows: None, asks: false };
        let [b, c] = [2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
        one.see(at(0), &[B, C].into(), std::iter::empty());
        one.hear(at(1), B, said("10.0.0.2/24"));
        one.hear(at(1), C, said("10.0.0.3/24"));
        assert!(one.wants_vouchers());
        assert!(!one.vouch([(B, C, c)].into_iter()), "nobody knows where the voucher is");
        one.see(at(2), &[B, C].into(), [(B, b)].into_iter());
        let elsewhere = Ipv4Addr::new(10, 0, 0, 4);
        assert!(
            !one.vouch([(B, C, elsewhere), (C, C, c)].into_iter()),
            "it says that it is elsewhere, or it vouches for itself"
        );
        assert!(one.vouch([(B, C, c)].into_iter()));
        assert_eq!(one.path(C), Path::Direct { from: "10.0.0.1/24".parse().unwrap(), to: c, to6: None });
        assert!(!one.wants_vouchers());
    }

    #[test]
    fn a_tunnel_leads_to_where_its_other_end_says_or_else_to_where_it_was_found_last() {
        let mut one = Exchange::default();
        one.set_own(at(0), Some(with_tunnel("10.0.0.1/24", 1)));
        let said = |endpoint: Option<&str>| {
            let mut underlay = with_tunnel("192.168.8.2/24", 2);
            underlay.tunnel.as_mut().unwrap().endpoint = endpoint.map(|text| text.parse().unwrap());
            Talk { underlay, knows: None, asks: false }
        };
        let endpoint = |one: &Exchange| match one.path(B) {
            Path::Tunnel { endpoint, .. } => endpoint.map(|endpoint| endpoint.to_string()),
            other => panic!("{other:?}"),
        };
        one.hear(at(1), B, said(None));
        assert_eq!(endpoint(&one), None, "it has to come to us");
        assert!(one.leads_past_vpc());
        for last in [7, 8, 7] {
            let found = Ipv4Addr::new(203, 0, 113, last);
            assert!(one.see(at(2), &[B].into(), [(B, found)].into_iter()), "it is elsewhere");
            assert_eq!(endpoint(&one), Some(format!("203.0.113.{last}:6784")));
        }
        one.hear(at(3), B, said(Some("198.51.100.9:7000")));
        assert_eq!(endpoint(&one).unwrap(), "198.51.100.9:7000");
    }

    /// It reads all but the tunnel, and so never says that it knows what was said.
    #[test]
    fn an_earlier_version_is_told_of_a_tunnel_more_and_more_seldom() {
        let mut one = Exchange::default();
        one.set_own(at(0), Some(with_tunnel("10.0.0.1/24", 1)));
        one.see(at(0), &[B].into(), std::iter::empty());
        let (mut told, knows) = (0, Some(outside("10.0.0.1/24").digest().0));
        for second in 0..3600 {
            if one.next(at(second)).is_some() {
                told += 1;
                one.hear(at(second), B, Talk { underlay: outside("10.0.0.2/24"), knows, asks: false });
            }
        }
        assert!((8..25).contains(&told), "{told} messages in an hour");
    }

    #[test]
    fn a_host_is_led_to_directly_once_it_was_found_where_it_says() {
        let (mut one, mut other) = (host("10.0.0.1/24", B), host("10.0.0.2/24", A));
        assert_eq!(one.path(B), Path::Unknown(Why::Unsaid));
        talk(&mut one, &mut other, 0..10, 0);
        let address = Ipv4Addr::new(10, 0, 0, 2);
        assert_eq!(one.path(B), Path::Unknown(Why::Unproven(address)));
        assert!(one.see(at(10), &[B].into(), [(B, address)].into_iter()));
        let direct = Path::Direct { from: "10.0.0.1/24".parse().unwrap(), to: address, to6: None };
        assert_eq!(one.path(B), direct);
        one.see(at(11), &BTreeSet::new(), std::iter::empty());
        assert_eq!(one.path(B), direct, "one that cannot be reached is where it was");
    }

    #[test]
    fn a_host_that_was_found_elsewhere_is_sought_where_it_says_that_it_is_until_it_is_met_there() {
        let (mut one, mut other) = (host("192.168.7.1/24", B), host("192.168.7.2/24", A));
        talk(&mut one, &mut other, 0..10, 0);
        let (elsewhere, there) = (Ipv4Addr::new(10, 9, 9, 9), Ipv4Addr::new(192, 168, 7, 2));
        assert_eq!(one.sought(), &[].into(), "it is no neighbour");
        one.see(at(10), &[B].into(), [(B, elsewhere)].into_iter());
        assert_eq!(one.sought(), &[there].into());
        assert!(!one.meet([(A, there), (B, elsewhere)].into_iter()), "another is there");
        assert!(one.meet([(B, there)].into_iter()));
        assert!(matches!(one.path(B), Path::Direct { .. }));
        assert_eq!(one.sought(), &[].into());
    }
}
