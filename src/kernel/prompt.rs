//! Sockets of rtnetlink that wait for nobody: by the time a question is sent the kernel has answered it, and more of a long answer is
//! there as soon as the part before is read. So no poller need tell of them, which for a few dozen short questions takes as long as they do.

use std::{
    io,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::BufMut;
use rtnetlink::{
    Handle, new_connection_with_socket,
    packet_route::RouteNetlinkMessage,
    proto::Connection,
    sys::{AsyncSocket, Socket, SocketAddr},
};

/// Such a socket in the namespace of the calling thread. It is answered what was asked for only.
pub(super) fn connect() -> io::Result<(Connection<RouteNetlinkMessage, Prompt>, Handle)> {
    // Nothing is told without being asked for.
    let (mut connection, handle, _) = new_connection_with_socket::<Prompt>()?;
    connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
    Ok((connection, handle))
}

/// A socket, and who waits until something is asked by it.
pub(super) struct Prompt {
    socket: Socket,
    waiting: Mutex<Option<Waker>>,
}

impl Prompt {
    fn sent<T>(&self, sent: io::Result<T>) -> Poll<io::Result<T>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(sent)
    }

    fn received<T>(&self, cx: &Context<'_>, received: io::Result<T>) -> Poll<io::Result<T>> {
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                *waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            received => Poll::Ready(received),
        }
    }
}

impl AsyncSocket for Prompt {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Prompt> {
        let socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        Ok(Prompt { socket, waiting: Mutex::new(None) })
    }

    fn poll_send(&self, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sent(self.socket.send(buf, 0))
    }

    fn poll_send_to(&self, _: &mut Context<'_>, buf: &[u8], to: &SocketAddr) -> Poll<io::Result<usize>> {
        self.sent(self.socket.send_to(buf, to, 0))
    }

    fn poll_recv<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<()>> {
        self.received(cx, self.socket.recv(buf, 0).map(drop))
    }

    fn poll_recv_from<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<SocketAddr>> {
        self.received(cx, self.socket.recv_from(buf, 0).map(|(_, from)| from))
    }

    fn poll_recv_from_full(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.received(cx, self.socket.recv_from_full())
    }
}
