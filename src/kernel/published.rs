//! The table `inet weave-ports`, which leads ports of the host into containers: for whoever comes from outside, from another container, from
//! the container itself or from the host, by its own addresses or 127.0.0.1.
//!
//! It is apart from the table that guards containers, which is neither loaded anew with each port nor kept from being loaded by one.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{
    listing::members,
    nft::{Presence, Ruleset, Table, elements, listing},
};
use crate::state::{Fault, Port, Ports, Protocol, Published};

/// The table, as it was last loaded.
#[derive(Debug, Default)]
pub struct Publisher(Table<Ports>);

impl Publisher {
    /// What is published; empty if it is not what is wanted, `None` if there is no table. Where nothing is wanted it is what an earlier
    /// life published, which may have forgotten it since.
    pub async fn observe(&mut self, wanted: Option<&Ports>) -> Result<Option<Ports>, Fault> {
        Ok(match self.0.compare(wanted).await? {
            Presence::Absent => None,
            Presence::Right => wanted.cloned(),
            Presence::Other if wanted.is_some() => Some(Ports::new()),
            Presence::Other => listing(Ports::TABLE).await?.as_deref().map(read),
        })
    }

    /// Publishes these and no others.
    pub async fn set(&mut self, ports: &Ports) -> Result<(), Fault> {
        if ports.is_empty() { self.0.delete().await } else { self.0.load(ports).await }
    }
}

/// What a listing of the table leads where. What we would not have written is left out.
fn read(listing: &str) -> Ports {
    let any = members(listing, "any").into_iter().filter_map(|member| published(None, &member));
    let bound = members(listing, "bound").into_iter().filter_map(|member| {
        let (address, member) = member.split_once(" . ")?;
        published(Some(address.parse().ok()?), member)
    });
    any.chain(bound).collect()
}

/// `6 . 8080 : 10.32.0.5 . 80`, at an address of the host or at all.
fn published(host_ip: Option<Ipv4Addr>, member: &str) -> Option<Published> {
    let (asked, leads) = member.split_once(" : ")?;
    let ((protocol, host), (to, container)) = (asked.split_once(" . ")?, leads.split_once(" . ")?);
    let number: u8 = protocol.parse().ok()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?;
    let port = Port { protocol, host_ip, host: host.parse().ok()?, container: container.parse().ok()? };
    Some(Published { port, to: to.parse().ok()? })
}

impl Ruleset for Ports {
    const TABLE: [&str; 2] = ["inet", "weave-ports"];

    /// As nft 1.0 lists it. `dstnat` is a name of prerouting alone.
    fn text(&self) -> Result<String, Fault> {
        let (mut any, mut bound) = (Vec::new(), Vec::new());
        for Published { port, to } in self {
            let (protocol, leads) = (port.protocol.text(), format!("{to} . {}", port.container));
            match port.host_ip {
                None => any.push(format!("{protocol} . {} : {leads}", port.host)),
                Some(address) => bound.push(format!("{address} . {protocol} . {} : {leads}", port.host)),
            }
        }
        let containers: BTreeSet<_> = self.iter().map(|published| published.to).collect();
        let selves: Vec<String> = containers.into_iter().map(|one| format!("{one} . {one}")).collect();
        let (any, bound, selves) = (elements(&any), elements(&bound), elements(&selves));
        // postrouting: a container that reaches itself would answer itself, and to 127.0.0.1 it has no way.
        Ok(format!(
            r#"table inet weave-ports {{
	map any {{
		type inet_proto . inet_service : ipv4_addr . inet_service{any}
	}}

	map bound {{
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service{bound}
	}}

	set selves {{
		type ipv4_addr . ipv4_addr{selves}
	}}

	chain published {{
		dnat ip to ip daddr . meta l4proto . th dport map @bound
		dnat ip to meta l4proto . th dport map @any
	}}

	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump published
	}}

	chain output {{
		type nat hook output priority -100; policy accept;
		fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump published
	}}

	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 127.0.0.0/8 oifname "wv*" masquerade
		ip saddr . ip daddr @selves masquerade
	}}
}}
"#
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, host_ip: Option<[u8; 4]>, host: u16, to: &str) -> Published {
        let port = Port { protocol, host_ip: host_ip.map(Ipv4Addr::from), host, container: 80 };
        Published { port, to: to.parse().unwrap() }
    }

    #[test]
    fn what_is_written_is_read() {
        let [first, second] = ["10.32.0.5", "10.32.0.6"];
        let ports: Ports = [
            port(Protocol::Tcp, None, 8080, first),
            port(Protocol::Udp, None, 8080, first),
            port(Protocol::Sctp, Some([127, 0, 0, 1]), 8080, second),
            port(Protocol::Tcp, Some([10, 0, 1, 11]), 443, second),
        ]
        .into();
        assert_eq!(read(&ports.text().unwrap()), ports);
        assert_eq!(read(&Ports::new().text().unwrap()), Ports::new());
    }

    #[test]
    fn what_nobody_of_us_has_written_is_not_read() {
        let text = Ports::from([port(Protocol::Tcp, None, 8080, "10.32.0.5")]).text().unwrap();
        let other = |was: &str, is: &str| read(&text.replacen(was, is, 1));
        for (was, is) in
            [("tcp . 8080", "icmp . 8080"), ("8080", "8080-8090"), (" . 80 ", " "), ("10.32", "fd00:")]
        {
            assert_eq!(other(was, is), Ports::new(), "{was} -> {is}");
        }
        assert_eq!(read(""), Ports::new());
    }
}
