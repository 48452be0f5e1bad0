//! From a target to a connection, or to the reason why there is none.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    DIALS_MAX, Event, Shared, canonical, lock,
    names::{RESOLVE, hosts, is_own, lookup},
};
use crate::mesh::Endpoint;

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(3);
/// Addresses of one host that are tried.
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
    let Endpoint { host, port } = Endpoint::parse(target)?;
    let found = lookup(host.to_owned(), RESOLVE).await?;
    let hosts = hosts(&found, is_own);
    if hosts.are_several() {
        return Err(format!("{host} stands for {} hosts, each of which is dialled by itself", hosts.count()));
    }
    let mut reasons = Vec::new();
    for address in found.into_iter().take(ADDRESSES_MAX) {
        let address = SocketAddr::new(address, port.unwrap_or(shared.default_port));
        match timeout(CONNECT, connect_from(shared.source, address)).await {
            Ok(Ok(stream)) => return Ok((stream, canonical(address))),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer in {} s", CONNECT.as_secs())),
        }
    }
    Err(reasons.join(", "))
}

async fn connect_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !source.is_unspecified() && source.is_ipv4() == address.is_ipv4() {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}
