//! The table `inet weave-ports`, which leads ports of the host into containers: for whoever comes from outside, from another container, from
//! the container itself or from the host, by its own addresses or 127.0.0.1, but not by ::1.
//!
//! It is apart from the table that guards containers, which is neither loaded anew with each port nor kept from being loaded by one.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    listing::members,
    nft::{Presence, Ruleset, Table, elements, listing},
};
use crate::{
    addr::Prefix,
    state::{Fault, Port, Ports, Protocol, Published},
};

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
    let of = |map: &str| members(listing, map).into_iter();
    let any = ["any", "any6"].into_iter().flat_map(of);
    let any = any.filter_map(|member| published(None, &member));
    let bound = ["bound", "bound6"].into_iter().flat_map(of).filter_map(|member| {
        let (address, member) = member.split_once(" . ")?;
        published(Some(address.parse().ok()?), member)
    });
    any.chain(bound).collect()
}

/// `6 . 8080 : 10.32.0.5 . 80`, at an address of the host or at all.
fn published(host_ip: Option<IpAddr>, member: &str) -> Option<Published> {
    let (asked, leads) = member.split_once(" : ")?;
    let ((protocol, host), (to, container)) = (asked.split_once(" . ")?, leads.split_once(" . ")?);
    let number: u8 = protocol.parse().ok()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?;
    let port = Port { protocol, host_ip, host: host.parse().ok()?, container: container.parse().ok()? };
    let (prefix, to) = match to.parse().ok()? {
        IpAddr::V4(to) => (None, to.into()),
        IpAddr::V6(to) => {
            let (prefix, to) = Prefix::split(to);
            (Some(prefix), to)
        }
    };
    let is_of_one_kind = host_ip.is_none_or(|address| address.is_ipv6() == prefix.is_some());
    is_of_one_kind.then_some(Published { port, to, prefix })
}

impl Ruleset for Ports {
    const TABLE: [&str; 2] = ["inet", "weave-ports"];

    /// As nft 1.0 lists it. `dstnat` is a name of prerouting alone.
    fn text(&self) -> Result<String, Fault> {
        let [mut maps, mut leads, mut postrouting]: [String; 3] = Default::default();
        let (v6, v4): (Vec<&Published>, Vec<&Published>) = self.iter().partition(|one| one.prefix.is_some());
        // The table of a host whose containers have no IPv6 says nothing of it.
        let v6 = Some((V6, v6)).filter(|(_, published)| !published.is_empty());
        for (words, published) in [(V4, v4)].into_iter().chain(v6) {
            maps += &words.maps(&published);
            leads += &words.leads();
            postrouting += &words.postrouting();
        }
        Ok(format!(
            r#"table inet weave-ports {{{maps}
	chain published {{{leads}
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
		type nat hook postrouting priority srcnat; policy accept;{postrouting}
	}}
}}
"#
        ))
    }
}

/// How the parts of the table are called that are for packets of one kind.
struct Words {
    ip: &'static str,
    address: &'static str,
    suffix: &'static str,
    /// What is done first with packets of this kind, and last, where they are from the host to itself.
    within: [&'static str; 2],
}

/// A container has no way to 127.0.0.1.
const MASQUERADE_LOOPBACK: &str = "\n\t\tip saddr 127.0.0.0/8 oifname \"wv*\" masquerade";
/// What is from ::1 the kernel passes on to nobody.
const KEEP_LOOPBACK6: &str = "\n\t\tip6 daddr ::1 return";

const V4: Words = Words { ip: "ip", address: "ipv4_addr", suffix: "", within: ["", MASQUERADE_LOOPBACK] };
const V6: Words = Words { ip: "ip6", address: "ipv6_addr", suffix: "6", within: [KEEP_LOOPBACK6, ""] };

impl Words {
    fn maps(&self, published: &[&Published]) -> String {
        let (mut any, mut bound) = (Vec::new(), Vec::new());
        for (port, to) in published.iter().map(|one| (one.port, one.address())) {
            let (protocol, leads) = (port.protocol.text(), format!("{to} . {}", port.container));
            match port.host_ip {
                None => any.push(format!("{protocol} . {} : {leads}", port.host)),
                Some(address) => bound.push(format!("{address} . {protocol} . {} : {leads}", port.host)),
            }
        }
        let containers: BTreeSet<IpAddr> = published.iter().map(|one| one.address()).collect();
        let selves: Vec<String> = containers.into_iter().map(|one| format!("{one} . {one}")).collect();
        let (any, bound, selves) = (elements(&any), elements(&bound), elements(&selves));
        let Words { address, suffix, .. } = self;
        format!(
            r#"
	map any{suffix} {{
		type inet_proto . inet_service : {address} . inet_service{any}
	}}

	map bound{suffix} {{
		type {address} . inet_proto . inet_service : {address} . inet_service{bound}
	}}

	set selves{suffix} {{
		type {address} . {address}{selves}
	}}
"#
        )
    }

    fn leads(&self) -> String {
        let Words { ip, suffix, within: [first, _], .. } = self;
        format!(
            "{first}\n\t\tdnat {ip} to {ip} daddr . meta l4proto . th dport map @bound{suffix}\
             \n\t\tdnat {ip} to meta l4proto . th dport map @any{suffix}"
        )
    }

    /// A container that reaches itself would answer itself.
    fn postrouting(&self) -> String {
        let Words { ip, suffix, within: [_, last], .. } = self;
        format!("{last}\n\t\t{ip} saddr . {ip} daddr @selves{suffix} masquerade")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, host_ip: &str, host: u16, to: &str) -> Published {
        let host_ip = Port::host_ip_of(host_ip).unwrap();
        let (prefix, to) = match to.parse().unwrap() {
            IpAddr::V4(to) => (None, to.into()),
            IpAddr::V6(to) => (Some(Prefix::split(to).0), Prefix::split(to).1),
        };
        Published { port: Port { protocol, host_ip, host, container: 80 }, to, prefix }
    }

    #[test]
    fn what_is_written_is_read() {
        let [first, second] = ["10.32.0.5", "10.32.0.6"];
        let [first6, second6] = ["fd00:1::a20:5", "fd00:1::a20:6"];
        let mut ports: Ports = [
            port(Protocol::Tcp, "", 8080, first),
            port(Protocol::Udp, "", 8080, first),
            port(Protocol::Sctp, "127.0.0.1", 8080, second),
            port(Protocol::Tcp, "10.0.1.11", 443, second),
        ]
        .into();
        assert_eq!(read(&ports.text().unwrap()), ports);
        assert!(!ports.text().unwrap().contains("ip6"));
        ports.extend([
            port(Protocol::Tcp, "", 8080, first6),
            port(Protocol::Udp, "fd00:2::b", 53, first6),
            port(Protocol::Tcp, "fd00:2::b", 443, second6),
        ]);
        assert_eq!(read(&ports.text().unwrap()), ports);
        assert_eq!(read(&Ports::new().text().unwrap()), Ports::new());
    }

    #[test]
    fn what_nobody_of_us_has_written_is_not_read() {
        let text = Ports::from([port(Protocol::Tcp, "", 8080, "10.32.0.5")]).text().unwrap();
        let other = |was: &str, is: &str| read(&text.replacen(was, is, 1));
        for (was, is) in
            [("tcp . 8080", "icmp . 8080"), ("8080", "8080-8090"), (" . 80 ", " "), ("10.32", "fd00:")]
        {
            assert_eq!(other(was, is), Ports::new(), "{was} -> {is}");
        }
        assert_eq!(read(""), Ports::new());
    }
}
