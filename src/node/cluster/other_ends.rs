//! Where the other ends of tunnels are: where their hosts say, or where they have shown themselves since.
//!
//! A router that translates addresses chooses the port that stands for the host behind it, so that nobody can say it beforehand. The device
//! finds it out and forgets it when it is made anew; it is remembered here.

use std::{collections::BTreeMap, net::SocketAddrV4};

use crate::{
    peer::PeerName,
    state::{HEARD_WITHIN, TunnelPeer},
    time::Timestamp,
};

/// The other ends, by host.
#[derive(Debug, Default)]
pub(super) struct OtherEnds {
    ends: BTreeMap<PeerName, OtherEnd>,
}

#[derive(Debug, Default)]
struct OtherEnd {
    /// Where its host says that it is, or was found.
    said: Option<SocketAddrV4>,
    /// Where it was heard last.
    shown: Option<(SocketAddrV4, Timestamp)>,
    /// It was said to be elsewhere before, and the device has yet to be told.
    moved: bool,
}

impl OtherEnds {
    /// Forgets the others.
    pub fn retain(&mut self, is_wanted: impl Fn(PeerName) -> bool) {
        self.ends.retain(|peer, _| is_wanted(*peer));
    }

    /// The end of a peer that is said to be there, as it is to be set, without its addresses. `found`: as it is.
    pub fn see(
        &mut self,
        now: Timestamp,
        peer: PeerName,
        said: Option<SocketAddrV4>,
        found: Option<&TunnelPeer>,
    ) -> TunnelPeer {
        let end = self.ends.entry(peer).or_default();
        end.hear(said);
        if let Some(found) = found {
            end.find(now, found);
        }
        let shown = end.shown.filter(|(_, last)| now < *last + HEARD_WITHIN).map(|(endpoint, _)| endpoint);
        TunnelPeer { moved: end.moved, ..TunnelPeer::new(shown.or(end.said), [].into()) }
    }
}

impl OtherEnd {
    fn hear(&mut self, said: Option<SocketAddrV4>) {
        if said.is_none() || said == self.said {
            return;
        }
        if self.said.is_some() {
            (self.moved, self.shown) = (true, None);
        }
        self.said = said;
    }

    fn find(&mut self, now: Timestamp, found: &TunnelPeer) {
        if found.endpoint == self.said {
            self.moved = false;
        }
        if found.heard && !self.moved {
            self.shown = found.endpoint.map(|endpoint| (endpoint, now)).or(self.shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const B: PeerName = PeerName::from_u64(2);
    const SAID: &str = "203.0.113.7:6784";
    const BEHIND_A_ROUTER: &str = "203.0.113.7:40123";
    const ELSEWHERE: &str = "203.0.113.8:6784";

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn place(text: &str) -> Option<SocketAddrV4> {
        text.parse().ok()
    }

    fn found(endpoint: &str, heard: bool) -> TunnelPeer {
        TunnelPeer { heard, ..TunnelPeer::new(place(endpoint), [].into()) }
    }

    #[test]
    fn a_host_that_is_said_to_be_elsewhere_is_sought_there_until_the_device_was_told() {
        let mut ends = OtherEnds::default();
        assert!(!ends.see(at(0), B, place(SAID), None).moved, "it is new");
        assert!(!ends.see(at(1), B, place(SAID), Some(&found(SAID, true))).moved);
        for second in [2, 3] {
            let end = ends.see(at(second), B, place(ELSEWHERE), Some(&found(SAID, true)));
            assert_eq!((end.endpoint, end.moved), (place(ELSEWHERE), true));
        }
        assert!(!ends.see(at(4), B, place(ELSEWHERE), Some(&found(ELSEWHERE, false))).moved);
        assert!(
            !ends.see(at(5), B, place(ELSEWHERE), Some(&found(SAID, true))).moved,
            "it may be heard elsewhere"
        );
    }

    #[test]
    fn a_host_behind_a_router_is_sought_where_it_was_heard_by_a_new_device_too_or_one_with_another_key() {
        let mut ends = OtherEnds::default();
        let end = ends.see(at(0), B, place(SAID), Some(&found(BEHIND_A_ROUTER, true)));
        assert_eq!(end.endpoint, place(BEHIND_A_ROUTER));
        assert_eq!(ends.see(at(1), B, place(SAID), None).endpoint, place(BEHIND_A_ROUTER));
        let end = ends.see(at(2), B, place(SAID), Some(&found(BEHIND_A_ROUTER, false)));
        assert_eq!(end.endpoint, place(BEHIND_A_ROUTER), "until it has had time to be heard");
        assert_eq!(ends.see(at(180), B, place(SAID), None).endpoint, place(SAID));
    }

    #[test]
    fn a_host_that_has_moved_is_not_sought_where_it_was_heard_before() {
        let mut ends = OtherEnds::default();
        ends.see(at(0), B, place(SAID), Some(&found(BEHIND_A_ROUTER, true)));
        let end = ends.see(at(1), B, place(ELSEWHERE), Some(&found(BEHIND_A_ROUTER, true)));
        assert_eq!(end.endpoint, place(ELSEWHERE));
        assert_eq!(ends.see(at(2), B, place(ELSEWHERE), None).endpoint, place(ELSEWHERE));
    }

    #[test]
    fn a_host_of_which_nobody_says_where_it_is_is_sought_where_it_was_heard() {
        let mut ends = OtherEnds::default();
        assert_eq!(ends.see(at(0), B, None, None).endpoint, None);
        ends.see(at(1), B, None, Some(&found(BEHIND_A_ROUTER, true)));
        assert_eq!(ends.see(at(2), B, None, None).endpoint, place(BEHIND_A_ROUTER));
    }
}
