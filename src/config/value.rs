//! One value, from its text.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::schema;
use crate::{
    addr::{NotAPrefix, Prefix},
    peer::PeerName,
    state::{LINKS, TableId, is_interface_name},
    text::printable,
    underlay::is_of_a_host,
};

/// Why a value is refused, and the way out.
pub(super) struct Wrong {
    pub message: String,
    pub hint: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), hint: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Wrong {
        Wrong { hint: Some(hint.into()), ..self }
    }
}

/// One of a few words.
pub(super) fn choice<T: Clone>(words: &[(&str, T)], text: &str) -> Result<T, Wrong> {
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(meaning.clone());
    }
    let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let wrong = Wrong::new(format!("{text:?} is not one of {}", known.join(", ")));
    let near = schema::nearest(text, words.iter().map(|(word, _)| *word));
    Err(Wrong { hint: near.map(schema::did_you_mean), ..wrong })
}

/// A peer to dial: `name`, `name:port`, `address` or `address:port`.
pub(super) fn peer(text: &str) -> Result<String, Wrong> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        None => (text, None),
        Some(_) => {
            let wrong = Wrong::new(format!("{text:?} is not a peer: the mesh runs over IPv4"));
            return Err(wrong.hint("give a host name or an IPv4 address, as in \"10.0.1.11:6783\""));
        }
    };
    if port.is_some_and(|port| port.parse().map_or(true, |port: u16| port == 0)) {
        return Err(Wrong::new(format!("{text:?} is not a peer: its port is not between 1 and 65535")));
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return match host.parse::<Ipv4Addr>() {
            Ok(address) if is_no_host(address) => {
                Err(Wrong::new(format!("{address} is the address of no host")))
            }
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(Wrong::new(format!("{text:?} is neither an IPv4 address nor a host name"))),
        };
    }
    if !is_host_name(host) {
        return Err(Wrong::new(format!("{text:?} is neither an IPv4 address nor a host name")));
    }
    Ok(text.to_owned())
}

/// Where a tunnel ends: `address`, or `address:port`.
pub(super) fn endpoint_of_tunnel(text: &str) -> Result<(Ipv4Addr, Option<u16>), Wrong> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let wrong = || {
        let wrong = Wrong::new(format!("{text:?} is not where a tunnel can end"));
        wrong.hint("write an IPv4 address, and a port if it is not paths.port, as in \"203.0.113.7:6784\"")
    };
    let address: Ipv4Addr = host.parse().map_err(|_| wrong())?;
    if !is_of_a_host(&address.into()) {
        return Err(Wrong::new(format!("{address} is no address by which others reach a host")));
    }
    let port = port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)).transpose()?;
    Ok((address, port))
}

fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

/// A network without host bits.
pub(super) fn cidr(text: &str) -> Result<Ipv4Net, Wrong> {
    let net: Ipv4Net = text.parse().map_err(|_| {
        Wrong::new(format!("{text:?} is not an IPv4 network")).hint("write it as in \"10.32.0.0/12\"")
    })?;
    if net.trunc() != net {
        let wrong = Wrong::new(format!("{text} has bits set behind its prefix"));
        return Err(wrong.hint(format!("did you mean \"{}\"?", net.trunc())));
    }
    Ok(net)
}

/// The container address space.
pub(super) fn range(text: &str) -> Result<Ipv4Net, Wrong> {
    let net = cidr(text)?;
    if !(8..=30).contains(&net.prefix_len()) {
        return Err(Wrong::new(format!("{net} is not between a /8 and a /30")));
    }
    if net.broadcast() == Ipv4Addr::BROADCAST {
        return Err(Wrong::new(format!("{net} ends at 255.255.255.255, which cannot be handed out")));
    }
    for (special, what) in [
        ("0.0.0.0/8", "addresses of no host"),
        ("127.0.0.0/8", "loopback addresses"),
        ("169.254.0.0/16", "link-local addresses"),
        ("224.0.0.0/4", "multicast addresses"),
    ] {
        let special: Ipv4Net = special.parse().expect("it is written as a network");
        if special.contains(&net) || net.contains(&special) {
            let wrong = Wrong::new(format!("{net} holds {what}"));
            return Err(wrong.hint("take a private range that no VPC CIDR overlaps"));
        }
    }
    Ok(net)
}

/// What makes IPv6 addresses of the containers' IPv4 addresses: 96 bits that nobody else uses.
pub(super) fn ipv6(text: &str) -> Result<Prefix, Wrong> {
    let example = "take one of your own at random, as in \"fd12:3456:789a:1::/96\"";
    let prefix: Prefix = text.parse().map_err(|why: NotAPrefix| {
        let wrong = Wrong::new(format!("{text:?} is not the prefix of IPv6 addresses: {why}"));
        match why {
            NotAPrefix::Bits(prefix) => wrong.hint(format!("did you mean \"{prefix}\"?")),
            NotAPrefix::NotACidr | NotAPrefix::Length(_) => wrong.hint(example),
        }
    })?;
    let private: Ipv6Net = "fc00::/7".parse().expect("it is written as a network");
    let reserved: Ipv6Net = "fd00:ec2::/32".parse().expect("it is written as a network");
    if !private.contains(&prefix.net()) {
        return Err(Wrong::new(format!("{prefix} is outside fc00::/7, the addresses of private networks"))
            .hint(example));
    }
    if reserved.contains(&prefix.net()) {
        return Err(
            Wrong::new(format!("{prefix} is inside {reserved}, which AWS has for itself")).hint(example)
        );
    }
    Ok(prefix)
}

/// A network to take addresses from: besides its network and broadcast addresses it has some.
pub(super) fn subnet(text: &str) -> Result<Ipv4Net, Wrong> {
    let net = cidr(text)?;
    if net.prefix_len() > 30 {
        return Err(Wrong::new(format!("{net} has fewer than 4 addresses")));
    }
    Ok(net)
}

/// The name of a subnet: a word that a rule set can bear, too.
pub(super) fn subnet_name(text: &str) -> Result<String, Wrong> {
    const LENGTH_MAX: usize = 32;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins || text.len() > LENGTH_MAX || !text.bytes().all(plain) {
        let wrong = Wrong::new(format!("{text:?} is not the name of a subnet"));
        return Err(wrong.hint("take up to 32 of a-z, 0-9, - and _, beginning with a letter"));
    }
    Ok(text.to_owned())
}

/// The name of a peer.
pub(super) fn peer_name(text: &str) -> Result<PeerName, Wrong> {
    let name: PeerName = text.parse().map_err(|wrong| Wrong::new(format!("{wrong}")))?;
    if name == PeerName::UNKNOWN {
        return Err(Wrong::new(format!("{name} stands for an unknown peer, nobody can have it")));
    }
    Ok(name)
}

/// A nickname: what fits on a line.
pub(super) fn nickname(text: &str) -> Result<String, Wrong> {
    const LENGTH_MAX: usize = 64;
    if text.trim().is_empty() || text.len() > LENGTH_MAX || text != printable(text) {
        return Err(Wrong::new(format!("{text:?} is not 1 to {LENGTH_MAX} printable characters")));
    }
    Ok(text.to_owned())
}

/// Where to listen.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Wrong> {
    let example = "write it as in \"0.0.0.0:6783\"";
    let address: SocketAddr =
        text.parse().map_err(|_| Wrong::new(format!("{text:?} is not address:port")).hint(example))?;
    if address.port() == 0 {
        let wrong = Wrong::new("port 0 would be another one at each start");
        return Err(wrong.hint(example));
    }
    if address.is_ipv6() {
        return Err(Wrong::new(format!("{address} is not IPv4, which the mesh runs over")).hint(example));
    }
    let of_no_host = |ip| matches!(ip, IpAddr::V4(ip) if is_no_host(ip));
    if !address.ip().is_unspecified() && of_no_host(address.ip()) {
        return Err(Wrong::new(format!("{address} is the address of no host")).hint(example));
    }
    Ok(address)
}

/// Nobody can be reached there: this network, multicast, reserved, broadcast.
fn is_no_host(address: Ipv4Addr) -> bool {
    matches!(address.octets()[0], 0 | 224..)
}

/// A file by its whole path: a daemon has no directory of its own to start from.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if !Path::new(text).is_absolute() || text.contains('\0') {
        let wrong = Wrong::new(format!("{text:?} is not an absolute path"));
        return Err(wrong.hint("leave the key out for none"));
    }
    Ok(PathBuf::from(text))
}

/// A plugin of CNI, by the name of its program.
pub(super) fn plugin(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.starts_with('.') || !text.chars().all(plain) {
        return Err(Wrong::new(format!("{text:?} is not the name of a plugin")).hint("as \"portmap\""));
    }
    if text == "weavers" {
        return Err(Wrong::new("weavers comes first by itself").hint("list the plugins that come after"));
    }
    Ok(text.to_owned())
}

/// A network interface of this host.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    if !is_interface_name(text) {
        let wrong = Wrong::new(format!("{text:?} is not the name of an interface"));
        return Err(wrong.hint("list each by its name, or write \"auto\""));
    }
    if text == "lo" {
        return Err(Wrong::new("lo carries no traffic between hosts"));
    }
    // The rules take all of these for links of containers.
    if text.starts_with(LINKS) {
        let wrong = Wrong::new(format!("{text} is named as links of containers are, {LINKS}…"));
        return Err(wrong.hint("give the interface another name"));
    }
    Ok(text.to_owned())
}

/// A route table.
pub(super) fn table(text: &str) -> Result<TableId, Wrong> {
    const LENGTH_MAX: usize = 32;
    let id = text.strip_prefix("rtb-").unwrap_or_default();
    let plain = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !(1..=LENGTH_MAX).contains(&id.len()) || !plain {
        let wrong = Wrong::new(format!("{text:?} is not the id of a route table"));
        return Err(wrong.hint("write it as in \"rtb-0a1b2c3d\"; \"auto\" and \"tag:key=value\" stand alone"));
    }
    Ok(TableId(text.to_owned()))
}

/// A tag of EC2, as `key=value`.
pub(super) fn tag(text: &str) -> Result<(String, String), Wrong> {
    let example = "write it as in \"weave-cluster=prod\"";
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        return Err(Wrong::new(format!("{text:?} is not key=value")).hint(example));
    };
    if text != printable(text) {
        return Err(Wrong::new(format!("{text:?} has characters that no tag has")).hint(example));
    }
    // EC2's own limits.
    if key.chars().count() > 128 || value.chars().count() > 256 {
        return Err(Wrong::new("a tag's key has up to 128 characters and its value up to 256"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A duration within bounds.
pub(super) fn duration(bounds: (&str, &str), text: &str) -> Result<Duration, Wrong> {
    let example = "write it as in \"30s\" or \"1h 30m\"";
    let given = humantime::parse_duration(text)
        .map_err(|wrong| Wrong::new(format!("{text:?} is not a duration: {wrong}")).hint(example))?;
    let bound = |text| humantime::parse_duration(text).expect("bounds are written as durations");
    if given < bound(bounds.0) || given > bound(bounds.1) {
        return Err(Wrong::new(format!("{text} is not between {} and {}", bounds.0, bounds.1)));
    }
    Ok(given)
}

/// An AWS region.
pub(super) fn region(text: &str) -> Result<String, Wrong> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    // A label of a host name: the client makes its endpoint of it.
    let label = !text.starts_with('-') && !text.ends_with('-');
    if !(1..=32).contains(&text.len()) || !text.bytes().all(plain) || !label {
        let wrong = Wrong::new(format!("{text:?} is not a region"));
        return Err(wrong.hint("write it as in \"eu-west-1\", or \"auto\""));
    }
    Ok(text.to_owned())
}

/// The URL of an EC2 endpoint.
pub(super) fn endpoint(text: &str) -> Result<String, Wrong> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if !rest.is_some_and(is_authority_and_path) {
        let wrong = Wrong::new(format!("{text:?} is not a URL"));
        return Err(wrong.hint("write it as in \"https://ec2.eu-west-1.amazonaws.com\""));
    }
    Ok(text.to_owned())
}

/// `host`, `host:port` or `[address]:port`, and perhaps a path: no user, no question, as the client takes it.
fn is_authority_and_path(text: &str) -> bool {
    let (authority, path) = text.split_once('/').unwrap_or((text, ""));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
        Some(_) => return false,
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%".contains(c);
    let port_is_sound = port.is_none_or(|port| port.parse().is_ok_and(|port: u16| port > 0));
    is_host_name(host) && port_is_sound && path.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses<T>(parse: impl Fn(&str) -> Result<T, Wrong>, texts: &[&str]) {
        for text in texts {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }

    fn takes<T>(parse: impl Fn(&str) -> Result<T, Wrong>, texts: &[&str]) {
        for text in texts {
            assert!(parse(text).is_ok(), "{text:?} was refused");
        }
    }

    #[test]
    fn peers_are_names_or_addresses_with_or_without_a_port() {
        takes(peer, &["a", "a.b.", "ip-10-0-1-12.ec2.internal", "10.0.0.1", "10.0.0.1:1", "a:65535"]);
        refuses(peer, &["", ":6783", "a:", "a:0", "a:65536", "a:b", "10.0.0", "10.0.0.256", "a b", "::1"]);
        refuses(peer, &["0.0.0.0", "0.1.2.3:6783", "224.0.0.5", "240.0.0.1", "255.255.255.255"]);
        refuses(peer, &["-a", "a..b", "http://a", "[::1]:6783", "1.2.3.4.5", "."]);
    }

    #[test]
    fn a_range_is_a_network_of_a_useful_size_that_containers_can_have() {
        takes(range, &["10.0.0.0/8", "10.32.0.0/12", "192.168.0.0/30", "100.64.0.0/10"]);
        refuses(
            range,
            &["10.32.0.1/12", "10.0.0.0/7", "10.0.0.0/31", "10.32.0.0", "fd00::/64", "240.0.0.0/4"],
        );
        refuses(
            range,
            &["255.255.255.252/30", "169.254.0.0/16", "169.0.0.0/8", "127.1.0.0/16", "224.0.0.0/8"],
        );
    }

    #[test]
    fn the_prefix_of_ipv6_is_96_bits_of_private_addresses_that_aws_has_not() {
        takes(ipv6, &["fd12:3456:789a:1::/96", "fc00::/96", "fd00:ec3::/96"]);
        refuses(ipv6, &["fd12:3456:789a:1::/64", "fd12:3456:789a:1::1/96", "fd12::", "10.32.0.0/12", ""]);
        refuses(ipv6, &["2001:db8::/96", "fe80::/96", "::/96", "fd00:ec2::/96", "fd00:ec2:0:9::/96"]);
    }

    #[test]
    fn interfaces_have_the_names_that_the_kernel_and_nft_take() {
        takes(interface, &["eth0", "ens5", "br-1234567890ab", "eth0.100", "wg0@x"]);
        refuses(interface, &["", "lo", "a b", "a/b", "a:b", "sixteen-letters-", ".", "..", "all", "default"]);
        refuses(interface, &["wv0a200001", "wv0", "wvlan"]);
        refuses(interface, &["ens*", "*", "a\"", "a'b", "a\\", "a;b", "{a}", "a,b", "é"]);
    }

    #[test]
    fn a_duration_has_a_unit_and_stays_in_its_bounds() {
        let interval = |text: &str| duration(("1s", "1h"), text);
        takes(interval, &["1s", "30s", "1m 30s", "1h"]);
        refuses(interval, &["", "30", "0s", "999ms", "61m", "-1s", "soon"]);
    }

    #[test]
    fn the_rest_is_held_to_its_form() {
        takes(table, &["rtb-0a1", "rtb-0123456789abcdef0"]);
        refuses(table, &["rtb-", "rtb", "vpc-0a1", "rtb-0A1", "rtb-0 1", "rtb-xyz"]);
        takes(tag, &["weave-cluster=prod", "a=b=c", "a="]);
        refuses(tag, &["a", "=b", ""]);
        takes(endpoint, &["http://127.0.0.1:8000", "https://ec2.eu-west-1.amazonaws.com/"]);
        takes(endpoint, &["http://[fd00::1]:8000/", "http://vpce-0a1.ec2.internal/path/"]);
        refuses(endpoint, &["127.0.0.1:8000", "http://", "ftp://a", "http:///a", "http://a b"]);
        refuses(
            endpoint,
            &["http://a:99999", "http://a:b", "http://a:", "http://u@a", "http://a?b", "http://a{}"],
        );
        refuses(endpoint, &["http://[fd00::1", "http://[x]", "http://a/<b>", "http://-a"]);
        takes(region, &["eu-west-1", "local"]);
        refuses(region, &["", "-", "eu-", "-eu", "EU", "eu west"]);
        takes(nickname, &["web-1", "müller"]);
        refuses(nickname, &["", " ", "a\nb", "a\u{202e}b", "a\x1b[2J"]);
        refuses(tag, &["a\n=b", "a=\x1b"]);
        takes(listen, &["0.0.0.0:6783", "10.0.1.11:6783"]);
        refuses(listen, &["0.0.0.0", "6783", ":6783", "0.0.0.0:0", "[::]:6783", "224.0.0.1:6783"]);
        takes(path, &["/etc/weave/password"]);
        refuses(path, &["", "password"]);
        takes(subnet_name, &["web", "db-2", "a_b"]);
        refuses(subnet_name, &["", "2db", "Web", "a b", "-", "a\"", "abcdefghijklmnopqrstuvwxyz-1234567"]);
        refuses(peer_name, &["auto1", "::", "00:00:00:00:00:00"]);
    }
}
