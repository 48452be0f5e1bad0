//! What an event of netlink is about, by a number or two of its message.

use nix::libc;

use super::{
    raw::{self, BODY},
    route,
};

/// What an event is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An interface, its addresses, settings or neighbours, or a route of ours by it.
    OfInterface(u32),
    /// A neighbour by an interface is gone. By others than links of ours they come and go all the time.
    OfNeighbour(u32),
    /// Other routes, policy rules, nexthops.
    Elsewhere,
    /// Something in the namespace that the host has this number for.
    Inside(i32),
    /// nftables.
    OfRules,
    /// Neighbours come and age all the time; only that one is deleted may concern us.
    Nothing,
    /// Some were dropped.
    Lost,
    /// Some of those from containers were.
    Deaf,
}

/// `RTA_OIF` and `NETCONFA_IFINDEX`.
const OIF: u16 = 4;
const IFINDEX: u16 = 1;
/// `RTM_NEWNETCONF`, `RTM_DELNETCONF`.
const NETCONF: [u16; 2] = [80, 81];

impl Event {
    /// The same of a message that comes from the namespace of this number. The kernel gives each interface there an address of its link by
    /// itself, a while after it came.
    pub fn read_inside(message: &[u8], number: i32) -> Event {
        let is_v6 = message.get(BODY) == Some(&(libc::AF_INET6 as u8));
        let is_of_link = message.get(BODY + 3) == Some(&libc::RT_SCOPE_LINK);
        if raw::kind(message) == Some(libc::RTM_NEWADDR) && is_v6 && is_of_link {
            return Event::Nothing;
        }
        match Event::read(message) {
            Event::OfInterface(_) | Event::OfNeighbour(_) | Event::Elsewhere => Event::Inside(number),
            Event::Nothing | Event::OfRules | Event::Inside(_) | Event::Lost | Event::Deaf => Event::Nothing,
        }
    }

    /// What is read of a message's head.
    pub fn read(message: &[u8]) -> Event {
        let of_interface = |index: Option<[u8; 4]>| {
            index.map_or(Event::Elsewhere, |index| Event::OfInterface(u32::from_ne_bytes(index)))
        };
        let Some(kind) = raw::kind(message) else { return Event::Elsewhere };
        match kind {
            libc::RTM_NEWNEIGH => Event::Nothing,
            // Those of IPv6 are not ours, and each container has some that come and go by themselves.
            libc::RTM_DELNEIGH if message.get(BODY) == Some(&(libc::AF_INET6 as u8)) => Event::Nothing,
            libc::RTM_DELNEIGH => match of_interface(raw::word(message, BODY + 4)) {
                Event::OfInterface(index) => Event::OfNeighbour(index),
                unreadable => unreadable,
            },
            libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                of_interface(raw::word(message, BODY + 4))
            }
            // They follow from addresses and interfaces, which are told of.
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE if is_route_of_kernel6(message) => Event::Nothing,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE if is_ours_by_a_link(message) => {
                of_interface(raw::attribute(message, BODY + 12, OIF))
            }
            kind if NETCONF.contains(&kind) => of_interface(raw::attribute(message, BODY + 4, IFINDEX)),
            kind if kind >> 8 == libc::NFNL_SUBSYS_NFTABLES as u16 => Event::OfRules,
            _ => Event::Elsewhere,
        }
    }
}

fn is_route_of_kernel6(message: &[u8]) -> bool {
    message.get(BODY) == Some(&(libc::AF_INET6 as u8)) && message.get(BODY + 5) == Some(&libc::RTPROT_KERNEL)
}

/// One of IPv6 that leads nowhere names the loopback interface.
fn is_ours_by_a_link(message: &[u8]) -> bool {
    message.get(BODY + 5) == Some(&route::PROTOCOL) && message.get(BODY + 7) == Some(&libc::RTN_UNICAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let head = [&[0; 4][..], &kind.to_ne_bytes(), &[0; 10]].concat();
        [&head[..], body].concat()
    }

    #[test]
    fn a_neighbour_that_ages_disturbs_nobody() {
        assert_eq!(Event::read(&message(libc::RTM_NEWNEIGH, &[0; 12])), Event::Nothing);
    }

    #[test]
    fn an_event_names_the_interface_that_it_is_about() {
        let of_seven = [0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR] {
            assert_eq!(Event::read(&message(kind, &of_seven)), Event::OfInterface(7));
        }
        let neighbour = |family: libc::c_int| {
            let body = [&[family as u8][..], &of_seven[1..]].concat();
            Event::read(&message(libc::RTM_DELNEIGH, &body))
        };
        assert_eq!(neighbour(libc::AF_INET), Event::OfNeighbour(7));
        assert_eq!(neighbour(libc::AF_INET6), Event::Nothing);
        let by_seven = [8, 0, 4, 0, 7, 0, 0, 0];
        let route = |protocol| {
            [&[2, 32, 0, 0, 254, protocol, 0, 1, 0, 0, 0, 0][..], &[5, 0, 9, 0, 1, 0, 0, 0], &by_seven]
                .concat()
        };
        assert_eq!(Event::read(&message(libc::RTM_DELROUTE, &route(67))), Event::OfInterface(7));
        assert_eq!(Event::read(&message(libc::RTM_DELROUTE, &route(4))), Event::Elsewhere);
        let setting = [2, 0, 0, 0, 8, 0, 1, 0, 7, 0, 0, 0];
        assert_eq!(Event::read(&message(80, &setting)), Event::OfInterface(7));
    }

    #[test]
    fn an_event_that_cannot_be_read_may_be_about_anything() {
        assert_eq!(Event::read(&[]), Event::Elsewhere);
        assert_eq!(Event::read(&message(libc::RTM_NEWLINK, &[0; 4])), Event::Elsewhere);
        assert_eq!(Event::read(&message(libc::RTM_NEWRULE, &[0; 12])), Event::Elsewhere);
    }
}
