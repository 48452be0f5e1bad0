//! All links of this host, read one by one. rtnetlink keeps a whole dump in memory, every attribute of it: of a thousand links that
//! is more than all else that the daemon holds.

use std::{io, time::Duration};

use rtnetlink::{
    packet_core::{
        DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NlaBuffer, NlasIterator,
        ParseableParametrized,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::io::unix::AsyncFd;

use super::{
    bound,
    fault::{fault, found},
    raw,
};
use crate::state::{Fault, FaultKind};

/// How long the kernel may take for all of them.
const WITHIN: Duration = Duration::from_secs(10);
const WHAT: &str = "reading the links";
/// Kinds of messages, as `linux/netlink.h` and `linux/rtnetlink.h` have them.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
/// Length of `struct ifinfomsg`.
const IFINFO_LEN: usize = 16;
/// The attributes that are read: address, name, MTU, other end, controller, kind, alias, settings, and namespace of the other end.
const READ: [u16; 9] = [1, 3, 4, 5, 10, 18, 20, 26, 37];

/// Hands over each link with its attributes, as far as they matter here.
pub(super) async fn links(mut take: impl FnMut(&LinkMessage)) -> Result<(), Fault> {
    let cannot = |error: io::Error| fault(WHAT, &error);
    let dump = async {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(cannot)?;
        socket.set_non_blocking(true).map_err(cannot)?;
        socket.bind_auto().map_err(cannot)?;
        socket.send_to(&question(), &SocketAddr::new(0, 0), 0).map_err(cannot)?;
        #[expect(deprecated, reason = "the socket owns its descriptor for as long as it lives")]
        let socket = AsyncFd::new(socket).map_err(cannot)?;
        loop {
            let datagram = next(&socket).await.map_err(cannot)?;
            if read(&datagram, &mut take)? {
                return Ok(());
            }
        }
    };
    bound::within(WITHIN, WHAT, dump).await
}

fn question() -> Vec<u8> {
    let mut links = LinkMessage::default();
    // Counters are half of what the kernel says of an interface.
    links.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetLink(links));
    question.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    bytes
}

async fn next(socket: &AsyncFd<Socket>) -> io::Result<Vec<u8>> {
    loop {
        let mut readable = socket.readable().await?;
        match readable.try_io(|socket| socket.get_ref().recv_from_full()) {
            Ok(received) => return received.map(|(datagram, _)| datagram),
            Err(_would_block) => {}
        }
    }
}

/// Takes in the messages of a datagram. Whether the last one was among them.
fn read(datagram: &[u8], take: &mut impl FnMut(&LinkMessage)) -> Result<bool, Fault> {
    let unreadable = || found(FaultKind::Unreachable, format!("{WHAT}: the kernel's answer cannot be read"));
    let mut rest = datagram;
    while let Some(len) = raw::word(rest, 0).map(|len| u32::from_ne_bytes(len) as usize) {
        let message = rest.get(..len).filter(|_| len >= raw::BODY).ok_or_else(unreadable)?;
        match raw::kind(message) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = raw::word(message, raw::BODY).map_or(0, i32::from_ne_bytes);
                return Err(fault(WHAT, &io::Error::from_raw_os_error(-code)));
            }
            Some(RTM_NEWLINK) => take(&link(&message[raw::BODY..]).map_err(|_| unreadable())?),
            Some(_) | None => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn link(body: &[u8]) -> Result<LinkMessage, DecodeError> {
    let mut link = LinkMessage::default();
    link.header = LinkHeader::parse(body)?;
    for attribute in NlasIterator::new(body.get(IFINFO_LEN..).unwrap_or_default()) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        if READ.contains(&attribute.kind()) {
            link.attributes.push(LinkAttribute::parse_with_param(&attribute, link.header.interface_family)?);
        }
    }
    Ok(link)
}
