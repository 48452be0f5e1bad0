//! TCP between hosts: the bytes of a connection stay in order, arrive late, stall behind a partition,
//! and are lost with the connection when it is cut.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use bytes::Bytes;

use crate::{mesh::ConnId, time::Timestamp};

/// All connections.
#[derive(Debug, Default)]
pub struct Wires {
    ends: BTreeMap<ConnId, End>,
    last: u64,
}

/// One end of a connection, and what is on its way to it.
#[derive(Debug)]
pub struct End {
    /// Where it is.
    pub host: usize,
    /// Where the other end is.
    pub peer: usize,
    /// The other end, which may be gone.
    pub other: ConnId,
    /// The other end's address.
    pub remote: SocketAddr,
    inbox: VecDeque<(Timestamp, Parcel)>,
    /// Nothing may overtake what arrives then.
    latest: Timestamp,
}

/// What arrives at an end.
#[derive(Debug)]
pub enum Parcel {
    /// The dial of this target succeeded.
    Dialled(String),
    /// Bytes of the stream.
    Bytes(Bytes),
    /// The stream ends, and why.
    End(&'static str),
}

impl Wires {
    /// A connection from one host to another: the dialling and the accepting end.
    pub fn connect(&mut self, from: (usize, SocketAddr), to: (usize, SocketAddr)) -> (ConnId, ConnId) {
        let (near, far) = (ConnId(self.last + 1), ConnId(self.last + 2));
        self.last += 2;
        self.ends.insert(near, End::new(from.0, to, far));
        self.ends.insert(far, End::new(to.0, from, near));
        (near, far)
    }

    /// An end that is still there.
    pub fn end(&self, conn: ConnId) -> Option<&End> {
        self.ends.get(&conn)
    }

    /// Puts a parcel on its way to `conn`; the moment at which it arrives.
    pub fn push(&mut self, conn: ConnId, at: Timestamp, parcel: Parcel) -> Option<Timestamp> {
        let end = self.ends.get_mut(&conn)?;
        end.latest = end.latest.max(at);
        end.inbox.push_back((end.latest, parcel));
        Some(end.latest)
    }

    /// The next parcel that has arrived at `conn`.
    pub fn take(&mut self, conn: ConnId, now: Timestamp) -> Option<Parcel> {
        let end = self.ends.get_mut(&conn)?;
        end.inbox.pop_front_if(|(at, _)| *at <= now).map(|(_, parcel)| parcel)
    }

    /// Whether the dial that made this end has not been answered.
    pub fn is_unanswered(&self, conn: ConnId) -> bool {
        let front = self.ends.get(&conn).and_then(|end| end.inbox.front());
        matches!(front, Some((_, Parcel::Dialled(_))))
    }

    /// Removes an end with all that was on its way to it.
    pub fn remove(&mut self, conn: ConnId) -> Option<End> {
        self.ends.remove(&conn)
    }

    /// What was on its way to `conn` is lost.
    pub fn lose(&mut self, conn: ConnId) {
        if let Some(end) = self.ends.get_mut(&conn) {
            end.inbox.retain(|(_, parcel)| matches!(parcel, Parcel::Dialled(_)));
        }
    }

    /// The ends at a host.
    pub fn of(&self, host: usize) -> Vec<ConnId> {
        self.ends.iter().filter(|(_, end)| end.host == host).map(|(conn, _)| *conn).collect()
    }

    /// All ends.
    pub fn all(&self) -> Vec<ConnId> {
        self.ends.keys().copied().collect()
    }

    /// The ends to which something is on its way, and how much.
    pub fn stalled(&self) -> Vec<(ConnId, usize)> {
        let busy = self.ends.iter().filter(|(_, end)| !end.inbox.is_empty());
        busy.map(|(conn, end)| (*conn, end.inbox.len())).collect()
    }
}

impl End {
    fn new(host: usize, (peer, remote): (usize, SocketAddr), other: ConnId) -> End {
        End { host, peer, other, remote, inbox: VecDeque::new(), latest: Timestamp::ZERO }
    }
}
