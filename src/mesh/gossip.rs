//! Who is told, and how gossip of channels that are not ours is passed on.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::routes::Hops;
use crate::{peer::PeerName, time::Timestamp};

/// Channels of others that we pass on.
pub const SURROGATES_MAX: usize = 64;
/// Messages of such a channel that are remembered.
pub const RECENT_MAX: usize = 256;
const RECENT_FOR: Duration = Duration::from_secs(30);

/// Neighbours that are told now and then what they know already, if nothing was lost.
const FEW: usize = 2;

/// Some neighbours: twice the logarithm of the number of peers.
pub fn neighbours(hops: &Hops, except: Option<PeerName>, rng: &mut ChaCha8Rng) -> Vec<PeerName> {
    choose(hops, fan_out(hops.len()), except, rng)
}

/// Half as many, which is enough to pass on what each hears from several sides.
pub fn half(hops: &Hops, except: Option<PeerName>, rng: &mut ChaCha8Rng) -> Vec<PeerName> {
    choose(hops, fan_out(hops.len()).div_ceil(2).max(FEW), except, rng)
}

/// A few neighbours.
pub fn few(hops: &Hops, rng: &mut ChaCha8Rng) -> Vec<PeerName> {
    choose(hops, FEW.min(fan_out(hops.len())), None, rng)
}

/// So many neighbours, each as likely as peers are reached through it.
fn choose(hops: &Hops, count: usize, except: Option<PeerName>, rng: &mut ChaCha8Rng) -> Vec<PeerName> {
    let mut weights: BTreeMap<PeerName, usize> = BTreeMap::new();
    for &hop in hops.values().flatten().filter(|hop| Some(**hop) != except) {
        *weights.entry(hop).or_default() += 1;
    }
    let mut chosen = Vec::new();
    while chosen.len() < count && !weights.is_empty() {
        let mut draw = rng.random_range(0..weights.values().sum());
        let drawn = weights.iter().find_map(|(&name, &weight)| {
            let hit = draw < weight;
            draw = draw.saturating_sub(weight);
            hit.then_some(name)
        });
        let drawn = drawn.expect("the draw is below the sum of the weights");
        weights.remove(&drawn);
        chosen.push(drawn);
    }
    chosen
}

/// Twice the binary logarithm of the number of peers, rounded down.
fn fan_out(peers: usize) -> usize {
    (2.0 * (peers.max(1) as f64).log2()) as usize
}

/// Broadcasts of one peer that are remembered.
pub const ECHOES_MAX: usize = 16;
/// By then the last copy of a broadcast has come. What is said again later is said on purpose.
const ECHO_FOR: Duration = Duration::from_secs(2);

/// Broadcasts that came just now. While peers see the mesh differently each of them may pass one on to the same third, and
/// without this their number would double at every step.
#[derive(Clone, Debug, Default)]
pub struct Echoes {
    heard: BTreeMap<PeerName, VecDeque<(Timestamp, [u8; 32])>>,
    /// Those of whom nothing came any more were forgotten then.
    swept: Timestamp,
}

impl Echoes {
    /// Whether this broadcast of a peer came just now. It must be one of the peers that are known, of which there is an end.
    pub fn is_echo(&mut self, now: Timestamp, from: PeerName, data: &[u8]) -> bool {
        let over = |(then, _): &(Timestamp, [u8; 32])| now.since(*then) > ECHO_FOR;
        let digest: [u8; 32] = Sha256::digest(data).into();
        if self.heard.get(&from).is_some_and(|heard| heard.iter().any(|one| !over(one) && one.1 == digest)) {
            return true;
        }
        // Not each time: that would cost each broadcast as much as there are peers.
        if now.since(self.swept) > ECHO_FOR {
            self.heard.retain(|_, heard| heard.back().is_some_and(|last| !over(last)));
            self.swept = now;
        }
        let heard = self.heard.entry(from).or_default();
        heard.drain(..heard.len().saturating_sub(ECHOES_MAX - 1));
        heard.push_back((now, digest));
        false
    }
}

/// What came lately on channels that are not ours, so that it is passed on once only.
#[derive(Clone, Debug, Default)]
pub struct Surrogates {
    recent: BTreeMap<String, VecDeque<(Timestamp, [u8; 32])>>,
}

impl Surrogates {
    /// Whether gossip is to be passed on: it did not come lately, and there is room for its channel.
    pub fn is_news(&mut self, now: Timestamp, channel: &str, data: &[u8]) -> bool {
        if !self.recent.contains_key(channel) && self.recent.len() == SURROGATES_MAX {
            self.forget_the_silent(now);
        }
        if !self.recent.contains_key(channel) && self.recent.len() == SURROGATES_MAX {
            return false;
        }
        let recent = self.recent.entry(channel.to_owned()).or_default();
        let digest = Sha256::digest(data).into();
        if recent.iter().any(|(_, seen)| *seen == digest) {
            return false;
        }
        while recent
            .front()
            .is_some_and(|(then, _)| now.since(*then) > RECENT_FOR || recent.len() >= RECENT_MAX)
        {
            recent.pop_front();
        }
        recent.push_back((now, digest));
        true
    }

    /// Channels on which nothing new came for a while make room for others. Not so those that are in use: while copies of a message are
    /// on their way, whoever has forgotten it passes it on again.
    fn forget_the_silent(&mut self, now: Timestamp) {
        let is_silent = |(then, _): &(Timestamp, [u8; 32])| now.since(*then) > RECENT_FOR;
        self.recent.retain(|_, recent| recent.back().is_some_and(|last| !is_silent(last)));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::mesh::vectors::all;

    #[test]
    fn as_many_neighbours_are_told_as_go_tells() {
        let mut cases = 0;
        for vector in all().into_iter().filter(|vector| vector["group"] == "behaviour_fanout") {
            let inputs = &vector["inputs"];
            let number = |key: &str| inputs[key].as_u64().unwrap();
            let (near, far) = (number("neighbours"), number("further_peers"));
            let mut hops = Hops::from([(PeerName::from_u64(1 << 40), None)]);
            for peer in 1..=near + far {
                hops.insert(PeerName::from_u64(peer), Some(PeerName::from_u64((peer - 1) % near + 1)));
            }
            let chosen = neighbours(&hops, None, &mut ChaCha8Rng::seed_from_u64(1));
            assert_eq!(chosen.len() as u64, vector["expect"]["chosen"].as_u64().unwrap(), "{vector}");
            cases += 1;
        }
        assert_eq!(cases, 9);
    }

    #[test]
    fn gossip_that_came_lately_is_not_passed_on_again() {
        let mut surrogates = Surrogates::default();
        let later = Timestamp::ZERO + Duration::from_secs(31);
        assert!(surrogates.is_news(Timestamp::ZERO, "nameserver", b"x"));
        assert!(!surrogates.is_news(Timestamp::ZERO, "nameserver", b"x"));
        assert!(surrogates.is_news(Timestamp::ZERO, "other", b"x"));
        assert!(surrogates.is_news(later, "nameserver", b"y"));
        assert!(surrogates.is_news(later, "nameserver", b"x"));
    }

    #[test]
    fn a_broadcast_that_comes_by_two_ways_is_taken_once_and_one_that_is_said_again_once_more() {
        let (mut echoes, peer) = (Echoes::default(), PeerName::from_u64(1));
        let at = |ms: u64| Timestamp::from_micros(ms * 1000);
        assert!(!echoes.is_echo(at(0), peer, b"x"));
        assert!(echoes.is_echo(at(5), peer, b"x"));
        assert!(!echoes.is_echo(at(5), peer, b"y"));
        assert!(!echoes.is_echo(at(5), PeerName::from_u64(2), b"x"));
        assert!(!echoes.is_echo(at(5000), peer, b"x"));
        (0..1000u32).for_each(|number| assert!(!echoes.is_echo(at(5000), peer, &number.to_be_bytes())));
        assert_eq!((echoes.heard.len(), echoes.heard[&peer].len()), (1, ECHOES_MAX));
    }

    #[test]
    fn channels_that_somebody_made_up_once_keep_no_later_one_out() {
        let mut surrogates = Surrogates::default();
        let at = |s: u64| Timestamp::ZERO + Duration::from_secs(s);
        for number in 0..SURROGATES_MAX {
            assert!(surrogates.is_news(at(0), &format!("channel {number}"), b"x"));
        }
        // What came a moment ago is still on its way in the mesh: forgotten now, it would be passed on without end.
        assert!(!surrogates.is_news(at(5), "nameserver", b"x"));
        assert!(surrogates.is_news(at(31), "nameserver", b"x"));
        assert!(!surrogates.is_news(at(31), "nameserver", b"x"));
        assert!(surrogates.recent.len() <= SURROGATES_MAX);
    }

    #[test]
    fn strangers_cannot_make_us_remember_without_bound() {
        let mut surrogates = Surrogates::default();
        for number in 0..2000u32 {
            surrogates.is_news(Timestamp::ZERO, "one", &number.to_be_bytes());
            surrogates.is_news(Timestamp::ZERO, &format!("channel {number}"), b"x");
        }
        assert_eq!(surrogates.recent.len(), SURROGATES_MAX);
        assert_eq!(surrogates.recent["one"].len(), RECENT_MAX);
    }
}
