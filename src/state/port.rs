//! Ports of the host that lead into containers.

use std::{
    collections::BTreeSet,
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::addr::{Address, Family, Prefix};

/// Everything that is published on this host.
pub type Ports = BTreeSet<Published>;

/// A port of the host that leads to a port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The one address of the host where it is, or the one that stands for all of its kind; `None`: all of both kinds.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
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

/// A port and the container that it leads to, for packets of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The port. Where it is at all addresses of its kind it has none.
    pub port: Port,
    /// The container's address.
    pub to: Address,
    /// What makes that of IPv6 of it; `None`: it is for packets of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefix>,
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

    /// Its number in a packet.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl Published {
    /// Whether it may be reached at 127.0.0.1.
    pub fn is_at_127(&self) -> bool {
        self.prefix.is_none()
    }

    /// For packets of which kind it is.
    pub fn family(&self) -> Family {
        self.prefix.map_or(Family::V4, Family::V6)
    }

    /// The address that it leads to.
    pub fn address(&self) -> IpAddr {
        self.family().address(self.to)
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
        let Port { host, container, protocol, .. } = self.first;
        f.write_str(&self.first.at())?;
        let last = self.last;
        match self.is_wide() {
            true => write!(f, "{host}-{last}->{container}/{}", protocol.text()),
            false => write!(f, "{host}->{container}/{}", protocol.text()),
        }
    }
}

impl Port {
    /// The address that somebody names for the host's side.
    pub fn host_ip_of(text: &str) -> Result<Option<IpAddr>, AddrParseError> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
    }

    /// Whether a packet to the host could be meant for either.
    pub fn overlaps(&self, other: &Port) -> bool {
        let one_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => {
                let stands_for_all = one.is_unspecified() || other.is_unspecified();
                one == other || stands_for_all && one.is_ipv4() == other.is_ipv4()
            }
            (None, _) | (_, None) => true,
        };
        one_address && (self.protocol, self.host) == (other.protocol, other.host)
    }

    /// Leads it to a container, for packets of each kind that both have.
    pub fn to(self, to: Address, prefix: Option<Prefix>) -> impl Iterator<Item = Published> {
        let host_ip = self.host_ip.filter(|address| !address.is_unspecified());
        let port = Port { host_ip, ..self };
        let v4 = self.is_of(Ipv4Addr::UNSPECIFIED.into()).then_some(Published { port, to, prefix: None });
        let v6 = prefix.filter(|_| self.is_of(Ipv6Addr::UNSPECIFIED.into()));
        v4.into_iter().chain(v6.map(|prefix| Published { port, to, prefix: Some(prefix) }))
    }

    /// Whether it is at addresses of the kind of this one.
    pub fn is_of(&self, kind: IpAddr) -> bool {
        self.host_ip.is_none_or(|address| address.is_ipv4() == kind.is_ipv4())
    }

    /// The host's side, as in `8080/tcp`, `127.0.0.1:8080/tcp` or `[::1]:8080/tcp`.
    pub fn of_host(&self) -> String {
        format!("{}{}/{}", self.at(), self.host, self.protocol.text())
    }

    fn at(&self) -> String {
        match self.host_ip {
            None => String::new(),
            Some(IpAddr::V4(address)) => format!("{address}:"),
            Some(IpAddr::V6(address)) => format!("[{address}]:"),
        }
    }
}

/// As in `8080->80/tcp`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}->{}/{}", self.at(), self.host, self.container, self.protocol.text())
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
        let [v4, v6] = ["0.0.0.0", "::"].map(|ip| port(Some(ip), Protocol::Tcp));
        assert!(v4.overlaps(&port(Some("127.0.0.1"), Protocol::Tcp)) && !v4.overlaps(&v6));
        assert!(port(Some("::1"), Protocol::Tcp).overlaps(&v6) && all.overlaps(&v6));
        assert_eq!(port(Some("127.0.0.1"), Protocol::Udp).to_string(), "127.0.0.1:8080->80/udp");
        assert_eq!(port(Some("::1"), Protocol::Udp).to_string(), "[::1]:8080->80/udp");
    }

    #[test]
    fn a_port_leads_to_each_address_that_a_container_has_of_its_kind() {
        let (to, prefix) = ("10.32.0.5".parse().unwrap(), Some("fd00:1::/96".parse().unwrap()));
        let kinds = |host_ip: &str, prefix| {
            let host_ip = Port::host_ip_of(host_ip).unwrap();
            let port = Port { protocol: Protocol::Tcp, host_ip, host: 8080, container: 80 };
            port.to(to, prefix).map(|one| (one.port.host_ip, one.prefix.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(kinds("", None), [(None, false)]);
        assert_eq!(kinds("", prefix), [(None, false), (None, true)]);
        assert_eq!(kinds("0.0.0.0", prefix), [(None, false)]);
        assert_eq!(kinds("::", prefix), [(None, true)]);
        assert_eq!(kinds("::1", prefix), [("::1".parse().ok(), true)]);
        assert_eq!(kinds("::", None), []);
    }
}
