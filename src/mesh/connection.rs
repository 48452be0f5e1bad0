//! One connection, from its first byte to its last.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    frame::{Reader, Writer},
    handshake::{Handshake, Introduced},
    message,
    sleeve::Sleeve,
};
use crate::{peer::PeerName, time::Timestamp};

const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Between two of our own kind, so that a silent cut is noticed soon.
const OWN_HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
const OWN_SILENCE_MAX: Duration = Duration::from_secs(9);

/// One connection.
pub struct Connection {
    /// The other end.
    pub remote: SocketAddr,
    /// What we dialled; `None` if we were dialled.
    pub target: Option<String>,
    /// When it is closed unless something comes.
    pub deadline: Timestamp,
    /// How far it is.
    pub phase: Phase,
}

/// How far a connection is.
pub enum Phase {
    /// Both sides say who they are; with the number that we gave the connection.
    Introducing(Box<Handshake>, u64),
    /// Both know who is there.
    Introduced(Box<Neighbour>),
}

/// The other end, once introduced.
pub struct Neighbour {
    /// Who it is.
    pub name: PeerName,
    /// What comes from it.
    pub reader: Reader,
    /// What goes to it.
    pub writer: Writer,
    /// Of the connection: both ends arrive at the same.
    pub uid: u64,
    /// Of the program, if it says so.
    pub program: Option<String>,
    /// What is known may be compared there before it is told.
    pub compares: bool,
    /// What it may still ask for.
    pub offered: BTreeSet<&'static str>,
    /// It is a weavers, not a router of Weave Net.
    pub own_kind: bool,
    /// Everything is encrypted.
    pub encrypted: bool,
    /// Why it closes the connection, if it said so.
    pub farewell: Option<String>,
    /// When the next heartbeat is due.
    pub heartbeat: Timestamp,
    /// When it was introduced.
    pub since: Timestamp,
    /// Time between heartbeats.
    pub heartbeat_every: Duration,
    /// When nothing comes for so long, it is closed.
    pub silence_max: Duration,
    /// With a Weave Net router.
    pub sleeve: Option<Sleeve>,
}

impl Connection {
    /// Whether it dialled us and is not introduced yet.
    pub fn is_stranger(&self) -> bool {
        self.target.is_none() && self.peer().is_none()
    }

    /// Who is there, once introduced.
    pub fn peer(&self) -> Option<PeerName> {
        match &self.phase {
            Phase::Introducing(..) => None,
            Phase::Introduced(neighbour) => Some(neighbour.name),
        }
    }

    /// Whether somebody of our own kind is there.
    pub fn is_kin(&self) -> bool {
        match &self.phase {
            Phase::Introducing(..) => false,
            Phase::Introduced(neighbour) => neighbour.own_kind,
        }
    }

    /// The version of the program there, if it says so.
    pub fn program(&self) -> Option<&str> {
        match &self.phase {
            Phase::Introducing(..) => None,
            Phase::Introduced(neighbour) => neighbour.program.as_deref(),
        }
    }

    /// Whether what is known may be compared there before it is told.
    pub fn compares(&self) -> bool {
        match &self.phase {
            Phase::Introducing(..) => false,
            Phase::Introduced(neighbour) => neighbour.compares,
        }
    }

    /// Whether everything is encrypted; while it is being introduced, whether it will be.
    pub fn encrypted(&self) -> bool {
        match &self.phase {
            Phase::Introducing(handshake, _) => handshake.encrypts(),
            Phase::Introduced(neighbour) => neighbour.encrypted,
        }
    }

    /// Whether both ends are content with it.
    pub fn is_established(&self) -> bool {
        match &self.phase {
            Phase::Introducing(..) => false,
            Phase::Introduced(neighbour) => neighbour.sleeve.as_ref().is_none_or(Sleeve::is_established),
        }
    }

    /// When something is due.
    pub fn next_wake(&self) -> Timestamp {
        match &self.phase {
            Phase::Introducing(..) => self.deadline,
            Phase::Introduced(neighbour) => {
                let sleeve = neighbour.sleeve.as_ref().and_then(Sleeve::next_wake);
                sleeve.into_iter().fold(self.deadline.min(neighbour.heartbeat), Timestamp::min)
            }
        }
    }

    /// The other end, once introduced.
    pub fn neighbour(&mut self) -> Option<&mut Neighbour> {
        match &mut self.phase {
            Phase::Introducing(..) => None,
            Phase::Introduced(neighbour) => Some(neighbour),
        }
    }
}

impl Neighbour {
    /// One that was introduced now.
    pub fn new(
        now: Timestamp,
        uid: u64,
        own_kind: bool,
        introduced: Introduced,
        sleeve: Option<Sleeve>,
    ) -> Neighbour {
        let (heartbeat_every, silence_max) =
            if own_kind { (OWN_HEARTBEAT_EVERY, OWN_SILENCE_MAX) } else { (HEARTBEAT_EVERY, SILENCE_MAX) };
        let Introduced { theirs, reader, writer, key, trusted: _ } = introduced;
        Neighbour {
            name: theirs.name,
            reader,
            writer,
            uid,
            program: theirs.program,
            compares: theirs.compares,
            offered: BTreeSet::new(),
            own_kind,
            encrypted: key.is_some(),
            farewell: None,
            since: now,
            heartbeat: now + heartbeat_every,
            heartbeat_every,
            silence_max,
            sleeve,
        }
    }

    /// What is due soon goes with what is due now, so that many neighbours do not wake us one by one.
    pub fn heartbeat(&mut self, now: Timestamp) -> Option<Bytes> {
        if now + self.heartbeat_every / 8 < self.heartbeat {
            return None;
        }
        self.heartbeat = now + self.heartbeat_every;
        Some(self.writer.message(&message::heartbeat()))
    }
}
