//! What hosts say to each other of where they are, as JSON on a channel of our own.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Underlay;

/// Length of the longest message that is read.
const LEN_MAX: usize = 2048;

/// Where a host is, for one other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talk {
    /// Where the sender is.
    pub underlay: Underlay,
    /// Digest of what the sender knows of the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knows: Option<u64>,
    /// The sender has yet to hear that the other knows this.
    #[serde(default)]
    pub asks: bool,
}

/// Bytes that are no such message.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is no JSON of this form.
    #[error("a message about where a host is cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// It is longer than any of ours.
    #[error("a message about where a host is has {0} bytes")]
    TooLong(usize),
    /// No host is there.
    #[error("a host says that it is where none can be")]
    Unbelievable,
}

impl Talk {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and addresses, and names of fields as keys")
    }

    /// What was received.
    pub fn decode(bytes: &[u8]) -> Result<Talk, Unreadable> {
        if bytes.len() > LEN_MAX {
            return Err(Unreadable::TooLong(bytes.len()));
        }
        let talk: Talk = serde_json::from_slice(bytes)?;
        if talk.underlay.is_believable() { Ok(talk) } else { Err(Unreadable::Unbelievable) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ADDRESSES_MAX, Place, TunnelEnd},
        *,
    };
    use crate::state::{SubnetId, TunnelKey, VpcId};

    fn said(place: Place, addresses: &[String]) -> Talk {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let underlay = Underlay { place, addresses, direct: true, links6: [].into(), tunnel: None };
        Talk { underlay, knows: Some(u64::MAX), asks: true }
    }

    fn in_vpc(vpc: &str) -> Place {
        Place::Vpc { vpc: VpcId(vpc.to_owned()), subnet: SubnetId("subnet-1".to_owned()) }
    }

    fn end() -> TunnelEnd {
        let endpoint = "203.113.100.111:65535".parse().ok();
        TunnelEnd { key: TunnelKey([255; 32]), port: 65535, endpoint, mtu: 65535, encrypts: true }
    }

    #[test]
    fn the_longest_message_of_ours_is_read_as_it_was_written() {
        let many: Vec<String> = (0..ADDRESSES_MAX).map(|n| format!("203.113.{n}.111/24")).collect();
        let mut talk = said(in_vpc(&"v".repeat(64)), &many);
        talk.underlay.tunnel = Some(end());
        let link = "fe80:0000:0000:0000:1111:1111:1111:1111".parse().unwrap();
        talk.underlay.links6 = talk.underlay.addresses.iter().map(|held| (held.addr(), link)).collect();
        assert_eq!(Talk::decode(&talk.encode()).unwrap(), talk);
    }

    #[test]
    fn what_no_host_would_say_is_not_read() {
        let many: Vec<String> = (0..=ADDRESSES_MAX).map(|n| format!("10.0.{n}.1/24")).collect();
        let mut wrong = vec![said(Place::Outside, &many)];
        for address in [
            "127.0.0.1/8",
            "0.0.0.0/8",
            "169.254.1.1/16",
            "224.0.0.1/24",
            "255.255.255.255/32",
            "10.0.0.1/7",
            "10.0.1.0/24",
            "10.0.1.255/24",
        ] {
            wrong.push(said(Place::Outside, &[address.to_owned()]));
        }
        let at = "10.0.0.7".parse().unwrap();
        let beside = [(at, "fd00::7"), ("10.0.0.8".parse().unwrap(), "fe80::7"), (at, "ff02::1")];
        for (beside, link) in beside {
            let mut talk = said(Place::Outside, &["10.0.0.7/24".to_owned()]);
            talk.underlay.links6 = [(beside, link.parse().unwrap())].into();
            wrong.push(talk);
        }
        let long = "v".repeat(65);
        wrong.extend(["", "vpc-1\u{1b}[2J", "vpc 1", long.as_str()].map(|vpc| said(in_vpc(vpc), &[])));
        let at = |endpoint: &str| Some(endpoint.parse().unwrap());
        for tunnel in [
            TunnelEnd { key: TunnelKey([0; 32]), ..end() },
            TunnelEnd { port: 0, ..end() },
            TunnelEnd { mtu: 575, ..end() },
            TunnelEnd { mtu: 65536, ..end() },
            TunnelEnd { endpoint: at("203.0.113.7:0"), ..end() },
            TunnelEnd { endpoint: at("127.0.0.1:6784"), ..end() },
            TunnelEnd { endpoint: at("169.254.169.254:6784"), ..end() },
        ] {
            let underlay = Underlay { tunnel: Some(tunnel), ..said(Place::Outside, &[]).underlay };
            wrong.push(Talk { underlay, ..said(Place::Outside, &[]) });
        }
        for talk in wrong {
            assert!(matches!(Talk::decode(&talk.encode()), Err(Unreadable::Unbelievable)), "{talk:?}");
        }
        assert!(matches!(Talk::decode(&[b' '; LEN_MAX + 1]), Err(Unreadable::TooLong(_))));
        assert!(matches!(Talk::decode(b"{}"), Err(Unreadable::Malformed(_))));
    }

    /// As the version before tunnels has written and read them.
    #[test]
    fn words_of_the_version_before_tunnels_are_read_and_ours_have_all_that_it_reads() {
        let before = br#"{"underlay":{"place":{"vpc":{"vpc":"vpc-1","subnet":"subnet-1"}},"addresses":["10.0.1.11/24"],"direct":true},"knows":7,"asks":true}"#;
        let talk = Talk::decode(before).unwrap();
        assert_eq!(talk, Talk { knows: Some(7), ..said(in_vpc("vpc-1"), &["10.0.1.11/24".to_owned()]) });
        assert_eq!(talk.encode(), before, "a host without a tunnel says what it has always said");
        let with = Underlay { tunnel: Some(end()), ..talk.underlay.clone() };
        let mut said: serde_json::Value =
            serde_json::from_slice(&Talk { underlay: with, ..talk.clone() }.encode()).unwrap();
        let tunnel = said["underlay"].as_object_mut().unwrap().remove("tunnel").unwrap();
        assert_eq!(tunnel["port"], 65535);
        assert_eq!(serde_json::from_value::<Talk>(said).unwrap(), talk, "the rest is as it was");
    }

    #[test]
    fn words_of_a_later_version_that_are_not_known_are_passed_over() {
        let later = br#"{"underlay":{"place":"outside","addresses":["10.0.0.7/24"],"key":"x"},"more":1}"#;
        let talk = Talk::decode(later).unwrap();
        assert_eq!((talk.underlay.place, talk.knows, talk.asks), (Place::Outside, None, false));
        assert!(Talk::decode(br#"{"underlay":{"place":"moon","addresses":[]}}"#).is_err());
    }
}
