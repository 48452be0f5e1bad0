//! Whether packets of containers get where they should, by the kernel's own word, and what to do where they do not.
//!
//! What was written is one thing, what the kernel does with it another: a route of somebody else, a policy rule or a
//! setting decides, too.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::Ipv4Net;

use crate::{
    addr::Address,
    config::Config,
    node::protocol::status::Note,
    state::{Fate, Host, LINKS, Loss, Packet, Path, address_of_link},
};

/// Why a packet does not get where it should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) enum Astray {
    /// It gets no further.
    Lost(Loss),
    /// It leaves by an interface that does not lead there.
    By(String),
    /// This host takes it for its own.
    Stays,
}

/// Where packets get lost together: what they have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) struct Place {
    side: Side,
    astray: Astray,
    route: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Out,
    In { uplink: String },
    FromHost,
    Outside,
}

/// What would become of packets that get lost, by the last look.
#[derive(Debug, Default)]
pub(in crate::node) struct LostPaths(Vec<(Arc<Path>, Astray)>);

impl LostPaths {
    /// Judges what would become of packets, after a look or under another configuration.
    pub fn judge(host: Option<&Host>, uplinks: &BTreeSet<String>) -> LostPaths {
        let lost = host.into_iter().flat_map(|host| {
            host.paths.iter().filter_map(|path| Some((path.clone(), astray(path, host, uplinks)?)))
        });
        LostPaths(lost.collect())
    }

    /// Judges anew what would become of those for one container.
    pub fn judge_anew(
        &mut self,
        container: Address,
        paths: &[Arc<Path>],
        host: Option<&Host>,
        uplinks: &BTreeSet<String>,
    ) {
        self.0.retain(
            |(path, _)| !matches!(path.packet, Packet::ToContainer { address, .. } if address == container),
        );
        let lost = host.into_iter().flat_map(|host| {
            paths.iter().filter_map(|path| Some((path.clone(), astray(path, host, uplinks)?)))
        });
        self.0.extend(lost);
    }

    pub fn astray(&self) -> &[(Arc<Path>, Astray)] {
        &self.0
    }

    /// Whether a container attached now is not reachable: its packets reach none of the other hosts, or none of
    /// theirs reach it.
    pub fn is_cut_off(&self, host: Option<&Host>) -> bool {
        let Some(host) = host else { return false };
        if self.astray().is_empty() {
            return false;
        }
        let lost: Vec<&Packet> = self.astray().iter().map(|(path, _)| &path.packet).collect();
        let of = |is_it: &dyn Fn(&Packet) -> bool| {
            let asked = host.paths.iter().filter(|path| is_it(&path.packet)).count();
            (asked, lost.iter().filter(|packet| is_it(packet)).count())
        };
        let (others, lost_others) = of(&|packet| matches!(packet, Packet::ToOther(_)));
        let (_, lost_containers) = of(&|packet| matches!(packet, Packet::ToContainer { .. }));
        let (_, lost_outside) = of(&|packet| *packet == Packet::Outside);
        lost_containers > 0 || lost_others + lost_outside > 0 && lost_others == others
    }

    /// Whether packets between containers are known to be lost on this host.
    pub fn loses_packets(&self, host: Option<&Host>) -> bool {
        let between = |packet: &Packet| match packet {
            Packet::ToOther(_) | Packet::ToContainer { .. } => true,
            Packet::FromHost { .. } | Packet::Outside => false,
        };
        self.is_cut_off(host) || self.astray().iter().any(|(path, _)| between(&path.packet))
    }
}

/// Where packets are lost, and the way out.
pub(in crate::node) fn told(
    place: &Place,
    addresses: &[Address],
    config: &Config,
    uplinks: &BTreeSet<String>,
) -> Note {
    let uplinks = uplinks.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let some = some_of(addresses);
    let range = config.ipam.range;
    let route = place.route.as_ref().map_or_else(String::new, |route| format!(" ({route})"));
    let whose = match &place.side {
        Side::Out => format!("packets of containers for other hosts ({some})"),
        Side::In { uplink } => format!("packets that come in by {uplink} for containers ({some})"),
        Side::FromHost => format!("answers of this host's own address {some} to containers"),
        Side::Outside => "packets of containers for the outside".to_owned(),
    };
    let (what, hint) = match (&place.astray, &place.side) {
        (Astray::By(by), Side::Out) if config.network.uplinks.is_some() => (
            format!("{whose} leave by {by}{route}, which [network] uplinks does not name ({uplinks})"),
            format!("name {by} in [network] uplinks, or set it to \"auto\", and `weavers reload`"),
        ),
        (Astray::By(by), Side::Out) => (
            format!("{whose} leave by {by}{route}, which does not lead into the VPC"),
            format!(
                "remove that route, or lead the range past it: ip route add {range} via GATEWAY; \
                 where it does lead there, name {by} in [network] uplinks"
            ),
        ),
        (Astray::By(by), Side::FromHost) => {
            (format!("{whose} leave by {by}{route}: a service there is not reached by them"), by_main(range))
        }
        (Astray::By(by), Side::In { .. } | Side::Outside) => (
            format!("{whose} leave by {by}{route} instead of the containers' links"),
            format!("{}, before the rule that leads there: see `ip rule`", by_main(range)),
        ),
        (Astray::Stays, _) => (
            format!("{whose} are taken for this host's own"),
            "see `ip addr` and `ip route show table local`, and remove that address".to_owned(),
        ),
        (Astray::Lost(loss), side) => lost_by(loss, side, &whose, &route, range),
    };
    Note { what, hint: Some(hint) }
}

pub(in crate::node) fn concerned(path: &Path) -> Option<Address> {
    match path.packet {
        Packet::ToOther(address) | Packet::ToContainer { address, .. } => Some(address),
        Packet::FromHost { from, .. } => Some(from.into()),
        Packet::Outside => None,
    }
}

/// What was said of a packet that is not this host's, in one line.
pub(in crate::node) fn target(path: &Path) -> String {
    let route = path.route.as_ref().map_or_else(String::new, |route| format!(" ({route})"));
    match &path.fate {
        Fate::Leaves { interface, gateway: Some(gateway) } => format!("{interface} via {gateway}{route}"),
        Fate::Leaves { interface, gateway: None } => format!("{interface}{route}"),
        Fate::Stays => "this host itself".to_owned(),
        Fate::Lost(loss) => format!("{}{route}", word(loss)),
    }
}

fn astray(path: &Path, host: &Host, uplinks: &BTreeSet<String>) -> Option<Astray> {
    let (interface, right) = match (&path.packet, &path.fate) {
        // A block of ours that has yet to go: the plan has it.
        (Packet::ToOther(address), Fate::Lost(_)) if is_blocked(host, *address) => return None,
        (_, Fate::Lost(loss)) => return Some(Astray::Lost(loss.clone())),
        (_, Fate::Stays) => return Some(Astray::Stays),
        (Packet::Outside, Fate::Leaves { .. }) => return None,
        (Packet::ToOther(_), Fate::Leaves { interface, .. }) => (interface, uplinks.contains(interface)),
        (
            Packet::ToContainer { address: to, .. } | Packet::FromHost { to, .. },
            Fate::Leaves { interface, .. },
        ) => (interface, address_of_link(interface) == Some(*to)),
    };
    (!right).then(|| Astray::By(interface.clone()))
}

fn is_blocked(host: &Host, address: Address) -> bool {
    host.blocks.iter().any(|block| block.contains(&IpAddr::V4(address.into())))
}

pub(in crate::node) fn place(path: &Path, astray: Astray) -> Place {
    let side = match &path.packet {
        Packet::ToOther(_) => Side::Out,
        Packet::ToContainer { uplink, .. } => Side::In { uplink: uplink.clone() },
        Packet::FromHost { .. } => Side::FromHost,
        Packet::Outside => Side::Outside,
    };
    Place { side, astray, route: path.route.clone() }
}

fn lost_by(loss: &Loss, side: &Side, whose: &str, route: &str, range: Ipv4Net) -> (String, String) {
    let past = match side {
        Side::Out => format!("; or lead the range past it: ip route add {range} via GATEWAY"),
        Side::In { .. } | Side::FromHost | Side::Outside => String::new(),
    };
    let look = format!("find it with `ip rule` and `ip route show table all`, and remove it{past}");
    let hint = match loss {
        Loss::NoRoute => {
            "ip route add default via GATEWAY, the first address of the host's subnet".to_owned()
        }
        Loss::Unreachable | Loss::Prohibited | Loss::Blackhole | Loss::Other(_) => look,
        Loss::NotForwarded(by) => {
            format!("sysctl -w net.ipv4.conf.{by}.forwarding=1; the daemon keeps it so")
        }
        // Of a container that is not found by its own link. A looser filter there would let it send under any address.
        Loss::ReversePath(by) if by.starts_with(LINKS) => {
            format!("{}, before the rule that leads elsewhere: see `ip rule`", by_main(range))
        }
        Loss::ReversePath(by) => {
            format!("sysctl -w net.ipv4.conf.{by}.rp_filter=2, or have answers leave by {by}: see `ip rule`")
        }
    };
    (format!("{whose} are lost: {}{route}", word(loss)), hint)
}

/// Has what is for containers go by their links, whatever rules come later: these are all that the main table has for them.
fn by_main(range: Ipv4Net) -> String {
    format!("ip rule add to {range} lookup main suppress_prefixlength 0 priority 100")
}

fn word(loss: &Loss) -> String {
    match loss {
        Loss::NoRoute => "there is no default route and no other that covers them".to_owned(),
        Loss::Unreachable => "a route or rule says unreachable".to_owned(),
        Loss::Prohibited => "a route or rule says prohibit".to_owned(),
        Loss::Blackhole => "a route or rule says blackhole".to_owned(),
        Loss::NotForwarded(by) => format!("net.ipv4.conf.{by}.forwarding is not 1"),
        Loss::ReversePath(by) => format!("the reverse path filter of {by} drops them"),
        Loss::Other(errno) => format!("the kernel refuses them with error {errno}"),
    }
}

/// The first of some addresses, and how many more there are.
fn some_of(addresses: &[Address]) -> String {
    match addresses {
        [] => String::new(),
        [one] => one.to_string(),
        [first, more @ ..] => format!("{first} and {} more", more.len()),
    }
}
