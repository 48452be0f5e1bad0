//! What was lent to other plugins, which make the interfaces: to `ptp` addresses one by one, to `bridge` those of a block of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;

use super::docker::bridge_block;
use crate::{addr::Address, ipam::Allocator, node::persist::memory::Lease, time::Timestamp};

/// The name that the way back of single addresses is filed under.
pub(in crate::node) const GATEWAY: &str = "ipam-gateway";
/// Names that blocks of networks are filed under begin so.
pub(super) const BLOCK: &str = "ipam-block/";

/// Everything that was lent.
#[derive(Debug, Default)]
pub(in crate::node) struct Leases {
    pub all: BTreeMap<String, Lease>,
    /// What is asked for by name, until it is there.
    pub wanted: BTreeMap<String, Address>,
    /// The address of each network's block that was lent last: the next one is another.
    pub last: BTreeMap<String, Address>,
    /// What leads elsewhere than our links do.
    lent: Arc<BTreeSet<Ipv4Net>>,
    /// When something was last given back.
    pub ended_at: Timestamp,
}

impl Leases {
    /// Those that were remembered.
    pub fn new(all: BTreeMap<String, Lease>) -> Leases {
        Leases { all, ..Leases::default() }
    }

    /// Those of a network that have an address of its block.
    pub fn of_block<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a Lease> {
        self.all.values().filter(move |lease| lease.of_block && lease.key.network == network)
    }

    /// An address of the block that nobody has, after the one that was lent last: neither its first ones nor its last.
    pub fn next_of(&self, network: &str, block: Ipv4Net) -> Option<Address> {
        let used: BTreeSet<Address> = self.of_block(network).filter_map(|lease| lease.address).collect();
        let (first, last) = (Address::from(block.network()).0 + 2, Address::from(block.broadcast()).0);
        let after = self.last.get(network).map_or(first, |last| last.0 + 1).clamp(first, last);
        let turn = (after..last).chain(first..after).map(Address);
        turn.into_iter().find(|address| !used.contains(address))
    }

    /// The name of whoever has this address.
    pub fn borrower_of(&self, address: Address) -> Option<&String> {
        self.all.iter().find(|(_, lease)| lease.address == Some(address)).map(|(ident, _)| ident)
    }

    /// Where routes of others are expected.
    pub fn lent(&self) -> Arc<BTreeSet<Ipv4Net>> {
        self.lent.clone()
    }

    /// Something was lent or given back, or a block is held or is not.
    pub fn renew_lent(&mut self, ipam: &Allocator) {
        let alone = self.all.values().filter(|lease| !lease.of_block).filter_map(|lease| lease.address);
        let alone = alone.map(|address| Ipv4Net::from(Ipv4Addr::from(address)));
        let blocks = blocks(ipam).map(|(_, block)| block).chain(bridge_block(ipam));
        self.lent = Arc::new(alone.chain(blocks).collect());
    }
}

/// The way back from a block.
pub(in crate::node) fn gateway_of(block: Ipv4Net) -> Address {
    Address(Address::from(block.network()).0 + 1)
}

/// The name that the block of a network is filed under.
pub(super) fn block_ident(network: &str) -> String {
    format!("{BLOCK}{network}")
}

/// The block that is held for a network.
pub(in crate::node) fn block_of(ipam: &Allocator, network: &str) -> Option<Ipv4Net> {
    ipam.lookup(&block_ident(network)).first().map(Ipv4Net::trunc)
}

/// The blocks that are held, with the networks that they are for.
pub(in crate::node) fn blocks(ipam: &Allocator) -> impl Iterator<Item = (&str, Ipv4Net)> {
    let from = ipam.allocations().range(BLOCK.to_owned()..);
    let of_networks = from.map_while(|(ident, nets)| Some((ident.strip_prefix(BLOCK)?, nets)));
    of_networks.filter_map(|(network, nets)| Some((network, nets.first()?.trunc())))
}
