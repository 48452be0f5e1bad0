//! Blocks that move between hosts: whether they do here, and what is said of one.

use super::peers::Peers;
use crate::{
    ipam::compact::Said,
    mesh::{Delivery, Kind},
    node::{
        boundary::out::{COMPACT_CHANNEL, Effect, Out},
        facts::Facts,
    },
    time::Timestamp,
};

/// What a host may do now.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Moves {
    pub gives: bool,
    pub takes: bool,
}

impl Peers {
    /// Whether blocks move here at all.
    pub fn compacts(&self, facts: &Facts) -> bool {
        facts.config.ipam.compact.is_some() && !facts.config.mesh.weave_peers
    }

    /// When to offer a block, if there is one to spare.
    pub fn next_offer(&self, facts: &Facts) -> Option<Timestamp> {
        let may_have = self.compacts(facts) && self.ipam.blocks() > 1;
        may_have.then(|| self.compaction.next_wake())
    }

    /// Offers a block.
    pub fn offer_block(&mut self, facts: &Facts, out: &mut Out) {
        if let Some((block, to)) = self.ipam.next_gift(&self.compaction.left_out()) {
            let offer = self.compaction.offer(facts.now, block, to);
            out.let_out(Effect::Unicast(COMPACT_CHANNEL, to, offer.encode()));
        }
    }

    /// A peer says something of a block. What cannot be read is of a later version.
    pub fn on_block(&mut self, facts: &Facts, out: &mut Out, moves: Moves, delivery: &Delivery) {
        let Kind::Unicast { from } = delivery.kind else { return };
        match Said::decode(&delivery.payload) {
            Ok(Said::Offer(block)) => {
                let may = moves.takes && self.ipam.may_take(from, block);
                let takes = may && self.compaction.take(facts.now, facts.identity.name, from, block);
                let answer = if takes { Said::Take(block) } else { Said::Keep(block) };
                out.let_out(Effect::Unicast(COMPACT_CHANNEL, from, answer.encode()));
            }
            Ok(Said::Take(block)) => {
                if self.compaction.is_taken(facts.now, from, block) && moves.gives {
                    self.ipam.give(facts.now, block, from);
                }
            }
            Ok(Said::Keep(block)) => self.compaction.on_kept(facts.now, from, block),
            Err(_) => {}
        }
    }
}
