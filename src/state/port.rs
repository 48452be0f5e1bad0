//! Ports of the host that lead into containers.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::addr::Address;

/// Everything that is published on this host.
pub type Ports = BTreeSet<Published>;

/// A port of the host that leads to a port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The one address of the host where it is; `None`: all of them.
    #[serde(default)]
    pub host_ip: Option<Ipv4Addr>,
    /// The host's.
    pub host: u16,
    /// The container's.
    pub container: u16,
}

/// Ports of the host that follow each other. The first of them that is free leads to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The first; 0 where any port of the host will do.
    pub first: Port,
    /// The last one's number.
    pub last: u16,
}

/// A port and the container that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The port.
    pub port: Port,
    /// The container's address.
    pub to: Address,
}

/// Protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names say it.
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// As it is written, in nft's language too.
    pub fn text(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// Its number in a packet of IPv4.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> PortRange {
        PortRange { first: port, last: port.host }
    }
}

impl PortRange {
    /// Whether there is a choice.
    pub fn is_wide(&self) -> bool {
        self.first.host < self.last
    }

    /// The ports, in their order.
    pub fn ports(self) -> impl Iterator<Item = Port> {
        (self.first.host..=self.last).map(move |host| Port { host, ..self.first })
    }
}

/// As in `8000-8010->80/tcp`.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port { host_ip, host, container, protocol } = self.first;
        if let Some(address) = host_ip {
            write!(f, "{address}:")?;
        }
        let last = self.last;
        match self.is_wide() {
            true => write!(f, "{host}-{last}->{container}/{}", protocol.text()),
            false => write!(f, "{host}->{container}/{}", protocol.text()),
        }
    }
}

impl Port {
    /// Whether a packet to the host could be meant for either.
    pub fn overlaps(&self, other: &Port) -> bool {
        let one_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        one_address && (self.protocol, self.host) == (other.protocol, other.host)
    }

    /// The host's side, as in `8080/tcp` or `127.0.0.1:8080/tcp`.
    pub fn of_host(&self) -> String {
        let address = self.host_ip.map_or_else(String::new, |address| format!("{address}:"));
        format!("{address}{}/{}", self.host, self.protocol.text())
    }
}

/// As in `8080->80/tcp`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            write!(f, "{address}:")?;
        }
        write!(f, "{}->{}/{}", self.host, self.container, self.protocol.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_all_addresses_is_one_of_each() {
        let port = |host_ip: Option<&str>, protocol| Port {
            protocol,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host: 8080,
            container: 80,
        };
        let all = port(None, Protocol::Tcp);
        assert!(all.overlaps(&port(Some("127.0.0.1"), Protocol::Tcp)));
        assert!(port(Some("127.0.0.1"), Protocol::Tcp).overlaps(&all));
        assert!(!port(Some("127.0.0.1"), Protocol::Tcp).overlaps(&port(Some("10.0.1.11"), Protocol::Tcp)));
        assert!(!all.overlaps(&port(None, Protocol::Udp)));
        assert_eq!(port(Some("127.0.0.1"), Protocol::Udp).to_string(), "127.0.0.1:8080->80/udp");
    }
}
