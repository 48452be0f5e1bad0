//! From a target to a connection, or to the reason why there is none.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};

use super::{DIALS_MAX, Event, Shared, canonical, lock};

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

pub(super) async fn run(shared: Arc<Shared>, target: String, crowded: bool) {
    let result = match crowded {
        false => connect(&shared, &target).await,
        true => Err(format!("{DIALS_MAX} dials are in progress")),
    };
    let dialled = target.clone();
    match result {
        Ok((stream, remote)) => {
            shared.adopt(stream, None, |conn| Event::Dialled { target, conn, remote }).await;
        }
        Err(reason) => {
            // Fails only where nobody listens any more.
            let _ = shared.events.send(Event::DialFailed { target, reason }).await;
        }
    }
    // Not before the answer is out: until then a second dial of the target has nothing to add.
    lock(&shared.dialling).remove(&dialled);
}

async fn connect(shared: &Shared, target: &str) -> Result<(TcpStream, SocketAddr), String> {
    let (host, port) = split(target, shared.default_port)?;
    let addresses: Vec<SocketAddr> = match timeout(RESOLVE, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => return Err(format!("cannot resolve {host}: {error}")),
        Err(_) => return Err(format!("cannot resolve {host}: no answer in {} s", RESOLVE.as_secs())),
    };
    let mut reasons = Vec::new();
    for address in addresses {
        match timeout(CONNECT, connect_from(shared.source, address)).await {
            Ok(Ok(stream)) => return Ok((stream, canonical(address))),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer in {} s", CONNECT.as_secs())),
        }
    }
    match reasons.is_empty() {
        true => Err(format!("cannot resolve {host}: it has no address")),
        false => Err(reasons.join(", ")),
    }
}

async fn connect_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !source.is_unspecified() && source.is_ipv4() == address.is_ipv4() {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

/// The host and the port of a target.
fn split(target: &str, default_port: u16) -> Result<(&str, u16), String> {
    let malformed = || format!("{target:?} is not a host, host:port or [IPv6 address]:port");
    let (host, port) = if let Some(rest) = target.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(malformed)?;
        host.parse::<Ipv6Addr>().map_err(|_| malformed())?;
        (host, port)
    } else if target.parse::<Ipv6Addr>().is_ok() {
        (target, "")
    } else {
        target.split_at(target.find(':').unwrap_or(target.len()))
    };
    if host.is_empty() {
        return Err(malformed());
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, default_port)),
        None => Err(malformed()),
        Some(digits) => match digits.parse() {
            Ok(port) if port > 0 => Ok((host, port)),
            Ok(_) | Err(_) => Err(malformed()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        for (target, host, port) in [
            ("10.0.1.11", "10.0.1.11", 6783),
            ("10.0.1.11:7000", "10.0.1.11", 7000),
            ("ip-10-0-1-12.ec2.internal", "ip-10-0-1-12.ec2.internal", 6783),
            ("ip-10-0-1-12.ec2.internal:1", "ip-10-0-1-12.ec2.internal", 1),
            ("fd00::1", "fd00::1", 6783),
            ("[fd00::1]", "fd00::1", 6783),
            ("[fd00::1]:7000", "fd00::1", 7000),
        ] {
            assert_eq!(split(target, 6783), Ok((host, port)), "{target}");
        }
    }

    #[test]
    fn a_malformed_target_is_named() {
        for target in [
            "",
            ":6783",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "[fd00::1",
            "[fd00::1]x",
            "[host]:1",
            "a:b:c",
        ] {
            let reason = split(target, 6783).unwrap_err();
            assert!(reason.contains(&format!("{target:?}")), "{reason}");
        }
    }
}
