//! What the address manager was asked, and what its answers are for.

use std::collections::BTreeMap;

use crate::{ipam::Ticket, node::protocol::request::RequestId};

/// What a question to the address manager is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An address for a container.
    Attach(String),
    /// An address for an interface of another plugin's.
    Lease(String),
    /// A block for Docker's own bridge.
    DockerBridge,
    /// Somebody asked for an address itself.
    Request(RequestId),
}

/// Questions that are open.
#[derive(Debug, Default)]
pub struct Tickets {
    open: BTreeMap<Ticket, Purpose>,
    last: u64,
}

impl Tickets {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// A new ticket for a question to the address manager.
    pub fn open(&mut self, purpose: Purpose) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.open.insert(ticket, purpose);
        ticket
    }

    /// What the ticket was for; it is spent.
    pub fn spend(&mut self, ticket: Ticket) -> Option<Purpose> {
        self.open.remove(&ticket)
    }

    /// Forgets the tickets whose purpose is this, and returns them.
    pub fn drop_where(&mut self, is_it: impl Fn(&Purpose) -> bool) -> std::vec::IntoIter<Ticket> {
        let tickets: Vec<Ticket> =
            self.open.iter().filter(|(_, purpose)| is_it(purpose)).map(|(ticket, _)| *ticket).collect();
        self.open.retain(|_, purpose| !is_it(purpose));
        tickets.into_iter()
    }
}
