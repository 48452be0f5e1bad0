//! Lends addresses to other plugins, and takes them back.
//!
//! ```text
//!  ptp     an address of any subnet        the way back: one address of this host for all of them
//!  bridge  an address of its network's     the way back: the first address of the block
//!          block, which is held for it
//! ```
//!
//! What leads to such an address is not ours, and neither is its end: that is known from whoever borrowed it, or from a network
//! namespace that is gone.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    lease::{BLOCK, GATEWAY, block_ident, block_of, blocks, gateway_of},
    local::{Context, Local},
};
use crate::{
    addr::{Address, Range},
    ipam::{Ask, HOLDS, Refused},
    node::{
        boundary::{tickets::Purpose, waiting::Waiter},
        persist::memory::{Lease, Write},
        protocol::request::{Loan, Refusal, RefusalKind},
    },
    state::{Key, Kind, Netns},
};

impl Local {
    /// Lends an address. Who asks again is answered the same; in another namespace it is the same container all the same, as its
    /// runtime has it.
    pub(in crate::node) fn lend(
        &mut self,
        cx: &mut Context<'_>,
        netns: Netns,
        loan: Loan,
    ) -> Result<Waiter, Refusal> {
        check(&loan, cx.facts.config.ipam.range)?;
        let Loan { key, address, subnet, block, name } = loan;
        let subnet = cx.facts.named_subnet(subnet)?.unwrap_or(cx.facts.config.ipam.default_subnet);
        let ident = key.ident();
        let known = self.leases.all.get(&ident).filter(|known| known.of_block == block.is_some()).cloned();
        if let Some(known) = known {
            if let (Some(has), Some(wanted)) = (known.address, address)
                && has != wanted
            {
                let message = format!("`{ident}` has {has} already, and not {wanted}");
                let refusal = Refusal::new(RefusalKind::Taken, message);
                return Err(refusal.hint("delete it before it is added anew"));
            }
            if known.netns != netns {
                self.keep_lease(cx, Lease { netns, ..known });
            }
            self.ask_for_gateway(cx, &ident, block);
            return Ok(Waiter::Lend { ident, made: false });
        }
        self.end_lease(cx, &ident);
        let network = key.network.clone();
        self.leases.wanted.extend(address.map(|address| (ident.clone(), address)));
        self.keep_lease(cx, Lease { key, netns, address: None, of_block: block.is_some(), label: name });
        let ask = match (block, address) {
            (Some(prefix_len), _) => Ask::Hold { ident: block_ident(&network), subnet, prefix_len },
            (None, Some(address)) => {
                let address = Ipv4Net::new_assert(address.into(), subnet.prefix_len());
                Ask::Claim { ident: ident.clone(), address }
            }
            (None, None) => Ask::Allocate { ident: ident.clone(), subnet },
        };
        self.ask_for_lease(cx, &ident, ask);
        self.ask_for_gateway(cx, &ident, block);
        Ok(Waiter::Lend { ident, made: true })
    }

    /// Of addresses that are lent one by one there is one gateway.
    fn ask_for_gateway(&mut self, cx: &mut Context<'_>, ident: &str, block: Option<u8>) {
        if block.is_none() && cx.peers.ipam.lookup(GATEWAY).is_empty() {
            let subnet = cx.facts.config.ipam.default_subnet;
            self.ask_for_lease(cx, ident, Ask::Allocate { ident: GATEWAY.to_owned(), subnet });
        }
    }

    fn ask_for_lease(&mut self, cx: &mut Context<'_>, ident: &str, ask: Ask) {
        let ticket = cx.peers.tickets.open(Purpose::Lease(ident.to_owned()));
        self.put(cx, ticket, ask);
    }

    /// The address manager has answered: an address, a block, or the way back. Where it is refused nothing is left of the lease.
    pub(in crate::node) fn on_leased(
        &mut self,
        cx: &mut Context<'_>,
        ident: &str,
        result: Result<Vec<Ipv4Net>, Refused>,
    ) -> Result<(), Refusal> {
        cx.out.disturbed = true;
        let taken = match result {
            Ok(_) => self.take_lease(cx, ident),
            Err(refused) => Err(Refusal::from(&refused)),
        };
        if taken.is_err() {
            self.end_lease(cx, ident);
        }
        taken
    }

    fn take_lease(&mut self, cx: &mut Context<'_>, ident: &str) -> Result<(), Refusal> {
        let Some(lease) = self.leases.all.get(ident).filter(|lease| lease.address.is_none()).cloned() else {
            return Ok(());
        };
        let address = match lease.of_block {
            true => self.take_of_block(cx, &lease)?,
            false => cx.peers.ipam.lookup(ident).first().map(|net| net.addr().into()),
        };
        if address.is_some() {
            self.leases.wanted.remove(ident);
            self.keep_lease(cx, Lease { address, ..lease });
        }
        Ok(())
    }

    /// An address of the block of its network: the wanted one, or any.
    fn take_of_block(&mut self, cx: &mut Context<'_>, lease: &Lease) -> Result<Option<Address>, Refusal> {
        let network = &lease.key.network;
        let Some(block) = block_of(&cx.peers.ipam, network) else { return Ok(None) };
        let address = match self.leases.wanted.get(&lease.key.ident()).copied() {
            Some(wanted) => Some(self.wanted_of_block(wanted, block, network)?),
            None => self.leases.next_of(network, block),
        };
        let Some(address) = address else {
            let message = format!("no address of {block}, the block of network {network}, is free");
            let hint = "delete containers, or make another network with a larger `block`";
            return Err(Refusal::new(RefusalKind::Failed, message).hint(hint));
        };
        self.leases.last.insert(network.clone(), address);
        Ok(Some(address))
    }

    fn wanted_of_block(&self, wanted: Address, block: Ipv4Net, network: &str) -> Result<Address, Refusal> {
        let taken = |message: String| Err(Refusal::new(RefusalKind::Taken, message));
        if !block.contains(&Ipv4Addr::from(wanted)) {
            let message = format!("address {wanted} is not in {block}, the block of network {network}");
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        if [block.network().into(), gateway_of(block), block.broadcast().into()].contains(&wanted) {
            return taken(format!("address {wanted} is none of those of {block} that containers have"));
        }
        match self.leases.of_block(network).find(|other| other.address == Some(wanted)) {
            Some(other) => taken(format!("address {wanted} is lent to `{}` already", other.key.ident())),
            None => Ok(wanted),
        }
    }

    fn keep_lease(&mut self, cx: &mut Context<'_>, lease: Lease) {
        let ident = lease.key.ident();
        cx.out.ledger.write(Write::lease(&ident, Some(&lease)));
        self.leases.all.insert(ident, lease);
        self.leases.renew_lent(&cx.peers.ipam);
    }

    /// Takes back what a key was lent. Returns whether there was anything.
    pub(super) fn end_lease(&mut self, cx: &mut Context<'_>, ident: &str) -> bool {
        let Some(lease) = self.leases.all.remove(ident) else { return false };
        let tickets = cx.peers.tickets.drop_where(|purpose| *purpose == Purpose::Lease(ident.to_owned()));
        tickets.for_each(|ticket| self.take_back(cx, ticket));
        self.leases.wanted.remove(ident);
        cx.out.ledger.write(Write::lease(ident, None));
        if !lease.of_block {
            // An address that the address manager does not know is as good as free.
            let _ = cx.peers.ipam.free(ident, None);
        }
        if self.leases.all.values().all(|lease| lease.of_block) {
            let _ = cx.peers.ipam.free(GATEWAY, None);
        }
        self.leases.renew_lent(&cx.peers.ipam);
        self.leases.ended_at = cx.facts.now;
        cx.work.converge.host.look_at_changes_by(cx.facts.now);
        cx.out.disturbed = true;
        true
    }

    /// These namespaces are gone, with all that was in them. What was lent again meanwhile stays.
    pub(in crate::node) fn end_gone_leases(&mut self, cx: &mut Context<'_>, gone: Vec<(Key, Netns)>) {
        for (key, netns) in gone {
            let ident = key.ident();
            if self.leases.all.get(&ident).is_some_and(|lease| lease.netns.is_same(&netns)) {
                self.end_lease(cx, &ident);
            }
        }
    }

    /// Everything is taken back, on a host that undoes all it did.
    pub(super) fn end_all_leases(&mut self, cx: &mut Context<'_>) {
        for ident in self.leases.all.keys().cloned().collect::<Vec<String>>() {
            self.end_lease(cx, &ident);
        }
    }

    /// After a start: the namespaces of an earlier boot are gone, and nobody waits any more for what has no address.
    pub(super) fn resume_leases(&mut self, cx: &mut Context<'_>) {
        let over = |lease: &Lease| *lease.netns.boot != *cx.facts.boot || lease.address.is_none();
        let all = self.leases.all.iter().filter(|(_, lease)| over(lease));
        for ident in all.map(|(ident, _)| ident.clone()).collect::<Vec<String>>() {
            self.end_lease(cx, &ident);
        }
        self.leases.renew_lent(&cx.peers.ipam);
    }

    /// After a look at the host: a block that nothing leads to any more, and of which nothing is lent, is over.
    pub(super) fn tend_blocks(&mut self, cx: &mut Context<'_>) {
        let Some(host) = cx.work.converge.host.seen() else { return };
        let is_new = cx.work.converge.host.seen_at().is_some_and(|at| at > self.leases.ended_at);
        if !is_new || host.range() != Some(cx.facts.config.ipam.range) {
            return;
        }
        let is_over = |(network, block): &(&str, Ipv4Net)| {
            let is_lent = self.leases.of_block(network).next().is_some();
            !is_lent && !host.foreign.keys().any(|destination| block.contains(destination))
        };
        let over = blocks(&cx.peers.ipam).filter(is_over);
        for ident in over.map(|(network, _)| format!("{BLOCK}{network}")).collect::<Vec<String>>() {
            let _ = cx.peers.ipam.free(&ident, None);
            self.leases.renew_lent(&cx.peers.ipam);
            cx.out.disturbed = true;
        }
    }
}

/// What nobody can be lent, whatever is free.
fn check(loan: &Loan, range: Ipv4Net) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(RefusalKind::Invalid, message));
    if let Err(wrong) = loan.key.check() {
        return invalid(wrong.to_string());
    }
    if loan.key.kind != Kind::Ipam {
        return invalid(format!("addresses are not lent to interfaces of kind {}", loan.key.kind));
    }
    if let Some(length) = loan.block.filter(|length| !HOLDS.contains(length)) {
        return invalid(format!("block /{length} is not between /{} and /{}", HOLDS.start(), HOLDS.end()));
    }
    match loan.address.filter(|address| !Range::from(range).contains(*address)) {
        Some(address) => invalid(format!("address {address} is outside [ipam] range {range}")),
        None => Ok(()),
    }
}
