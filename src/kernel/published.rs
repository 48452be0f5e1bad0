//! The table `inet weave-ports`, which leads ports of the host into containers: for whoever comes from outside, from another container, from
//! the container itself or from the host, by its own addresses or 127.0.0.1, but not by ::1.
//!
//! It is apart from the table that guards containers, which is neither loaded anew with each port nor kept from being loaded by one.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    listing::members,
    nft::{Presence, Ruleset, Table, Words, elements, listing},
};
use crate::{
    addr::{Family, Prefix},
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
        let v6 = v6.first().map(|one| one.family()).map(|family| (family, v6));
        for (family, published) in [(Family::V4, v4)].into_iter().chain(v6) {
            let words = Words::of(family);
            maps += &maps_of(&words, &published);
            leads += &leads_of(&words);
            postrouting += &postrouting_of(&words);
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

fn maps_of(words: &Words, published: &[&Published]) -> String {
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
    let Words { of_set, suffix, .. } = words;
    format!(
        r#"
	map any{suffix} {{
		type inet_proto . inet_service : {of_set} . inet_service{any}
	}}

	map bound{suffix} {{
		type {of_set} . inet_proto . inet_service : {of_set} . inet_service{bound}
	}}

	set selves{suffix} {{
		type {of_set} . {of_set}{selves}
	}}
"#
    )
}

/// What is from ::1 the kernel passes on to nobody.
fn leads_of(words: &Words) -> String {
    let Words { family, ip, suffix, .. } = words;
    let first = if *family == Family::V4 { "" } else { "\n\t\tip6 daddr ::1 return" };
    format!(
        "{first}\n\t\tdnat {ip} to {ip} daddr . meta l4proto . th dport map @bound{suffix}\
         \n\t\tdnat {ip} to meta l4proto . th dport map @any{suffix}"
    )
}

/// A container that reaches itself would answer itself, and to 127.0.0.1 it has no way.
fn postrouting_of(words: &Words) -> String {
    let Words { family, ip, suffix, .. } = words;
    let of_127 = "\n\t\tip saddr 127.0.0.0/8 oifname \"wv*\" masquerade";
    let first = if *family == Family::V4 { of_127 } else { "" };
    format!("{first}\n\t\t{ip} saddr . {ip} daddr @selves{suffix} masquerade")
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
