//! What whoever borrows an address is told, and what is told of it.

use ipnet::Ipv4Net;

use super::overview::Overview;
use crate::{
    addr::Address,
    node::{
        containers::lease::{GATEWAY, block_of, gateway_of},
        persist::memory::Lease,
        protocol::{
            request::{Lent, Refusal, RefusalKind, Response},
            status::AttachmentStatus,
        },
    },
    state::{Key, Netns},
};

impl<'a> Overview<'a> {
    /// To whom something is lent, and where their interfaces are.
    pub fn borrowers(&self) -> Vec<(Key, Netns)> {
        self.local.leases.all.values().map(|lease| (lease.key.clone(), lease.netns.clone())).collect()
    }

    /// What a key was lent.
    pub(in crate::node) fn lent_to(&self, key: &Key) -> Result<Response, Refusal> {
        let ident = key.ident();
        let lease = self.local.leases.all.get(&ident).and_then(|lease| Some((lease, lease.address?)));
        match lease {
            Some((lease, address)) => Ok(Response::Lent(self.lent_as(lease, address))),
            None => Err(Refusal::new(RefusalKind::NotFound, format!("nothing is lent to `{ident}`"))),
        }
    }

    /// What is answered to whoever wants to borrow, once packets can flow.
    pub(in crate::node) fn loan(&self, ident: &str, late: bool) -> Option<Result<Response, Refusal>> {
        let failed = |message: String| Refusal::new(RefusalKind::Failed, message);
        let Some(lease) = self.local.leases.all.get(ident) else {
            return Some(Err(failed(format!("`{ident}` was deleted before it had an address"))));
        };
        match (self.missing_loan(lease), lease.address) {
            (None, Some(address)) => Some(Ok(Response::Lent(self.lent_as(lease, address)))),
            (Some(missing), _) if late => {
                let message = format!("packets of `{ident}` could not flow yet: missing {missing}");
                Some(Err(failed(message).hint("see `weavers status`")))
            }
            (Some(_) | None, _) => None,
        }
    }

    /// Why packets cannot flow yet, as far as that is ours to see to.
    fn missing_loan(&self, lease: &Lease) -> Option<String> {
        let Some(address) = lease.address else {
            let waits = self.peers.ipam.waits();
            return Some(
                waits.first().map_or("an address".into(), |(what, _)| format!("an address: {what}")),
            );
        };
        let rules = self.work.converge.host.seen().and_then(|host| host.rules.as_ref());
        if rules.is_none() || rules != self.rules_to_look_for().as_ref() {
            return Some("the rules that guard containers".to_owned());
        }
        let has_way_back = lease.of_block || !self.peers.ipam.lookup(GATEWAY).is_empty();
        (!has_way_back).then(|| "an address of this host".to_owned()).or_else(|| self.missing_route(address))
    }

    /// `ptp` makes of the whole range a route by way of the gateway.
    fn lent_as(&self, lease: &Lease, address: Address) -> Lent {
        let of_block = block_of(&self.peers.ipam, &lease.key.network).filter(|_| lease.of_block);
        let gateway = || self.peers.ipam.lookup(GATEWAY).first().map(|net| net.addr().into());
        let (length, gateway) = match of_block {
            Some(block) => (block.prefix_len(), gateway_of(block)),
            None => (self.facts.config.ipam.range.prefix_len(), gateway().unwrap_or(address)),
        };
        Lent { address: Ipv4Net::new_assert(address.into(), length), gateway }
    }

    /// Whoever was lent this address, as attachments are shown.
    pub(super) fn borrower_at(&self, address: Address) -> Option<AttachmentStatus> {
        self.lease_statuses().find(|status| status.address == Some(address))
    }

    /// What is lent, as attachments are shown.
    pub(super) fn lease_statuses(&self) -> impl Iterator<Item = AttachmentStatus> + use<'a> {
        let known = *self;
        known.local.leases.all.iter().map(move |(ident, lease)| AttachmentStatus {
            ident: ident.clone(),
            netns: lease.netns.path.display().to_string(),
            address: lease.address,
            name: lease.label.clone(),
            ports: Vec::new(),
            missing: known.missing_loan(lease),
        })
    }
}
