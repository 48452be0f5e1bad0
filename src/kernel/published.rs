//! The table `inet weave-ports`, which leads ports of the host into containers: for whoever comes from outside, from another container, from
//! the container itself or from the host, by its own addresses or 127.0.0.1.
//!
//! It is apart from the table that guards containers, which is neither loaded anew with each port nor kept from being loaded by one.

use std::collections::BTreeSet;

use super::nft::{Presence, Ruleset, Table, elements};
use crate::state::{Fault, Ports, Published};

/// The table, as it was last loaded.
#[derive(Debug, Default)]
pub struct Publisher(Table<Ports>);

impl Publisher {
    /// What is published; empty if it is not what is wanted, `None` if there is no table.
    pub async fn observe(&mut self, wanted: Option<&Ports>) -> Result<Option<Ports>, Fault> {
        Ok(match self.0.compare(wanted).await? {
            Presence::Absent => None,
            Presence::Right => wanted.cloned(),
            Presence::Other => Some(Ports::new()),
        })
    }

    /// Publishes these and no others.
    pub async fn set(&mut self, ports: &Ports) -> Result<(), Fault> {
        if ports.is_empty() { self.0.delete().await } else { self.0.load(ports).await }
    }
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
