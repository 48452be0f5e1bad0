//! Holds a block for `docker0`, like addresses that are in use, so that nothing is handed out or given away of it until `docker0` has
//! another address.

use ipnet::Ipv4Net;

use super::{
    docker::{BRIDGE, bridge_block},
    local::{Context, Local},
};
use crate::{
    config::Bridge,
    ipam::{Ask, HOLDS, Refused},
    node::{boundary::tickets::Purpose, facts::Leave, protocol::request::Refusal},
    state::Docker0,
};

impl Local {
    /// After a look at the host: asks for a block where there is to be one, and lets it go where there is not.
    pub(super) fn tend_bridge(&mut self, cx: &mut Context<'_>) {
        let Some(host) = cx.work.converge.host.seen() else { return };
        let docker0 = host.surroundings.docker0;
        let may = cx.facts.leave == Leave::No && cx.peers.has_ring() && !self.bridge.asked;
        let wanted = cx.facts.config.docker.bridge != Bridge::Off;
        match bridge_block(&cx.peers.ipam) {
            None if wanted && may => self.ask_for_bridge(cx, docker0),
            Some(block) if !wanted && !docker0.is_some_and(|it| block.contains(&it.address.addr())) => {
                let _ = cx.peers.ipam.free(BRIDGE, None);
                self.leases.renew_lent(&cx.peers.ipam);
                cx.out.disturbed = true;
            }
            None | Some(_) => {}
        }
    }

    /// What `docker0` has is asked for first: a lost store has forgotten whose it is.
    fn ask_for_bridge(&mut self, cx: &mut Context<'_>, docker0: Option<Docker0>) {
        let config = &cx.facts.config;
        let has = docker0.map(|it| it.address.trunc());
        let has = has.filter(|net| config.ipam.range.contains(net) && HOLDS.contains(&net.prefix_len()));
        let (subnet, prefix_len) = match has.filter(|_| !self.bridge.is_others) {
            Some(net) => (net, net.prefix_len()),
            None => (config.ipam.default_subnet, config.docker.bridge_len),
        };
        self.bridge.claimed = has.filter(|net| *net == subnet);
        self.bridge.asked = true;
        let avoided = self.avoided(cx.facts, &cx.work.plan);
        cx.peers.ipam.set_avoided(avoided);
        let ticket = cx.peers.tickets.open(Purpose::DockerBridge);
        self.put(cx, ticket, Ask::Hold { ident: BRIDGE.to_owned(), subnet, prefix_len });
    }

    /// The address manager has answered.
    pub(in crate::node) fn on_bridge_block(
        &mut self,
        cx: &mut Context<'_>,
        result: Result<Vec<Ipv4Net>, Refused>,
    ) {
        let claimed = self.bridge.claimed.take();
        self.bridge.asked = false;
        self.bridge.refused = result.err().map(|refused| Refusal::from(&refused));
        self.bridge.is_others |= self.bridge.refused.is_some() && claimed.is_some();
        self.leases.renew_lent(&cx.peers.ipam);
        cx.out.disturbed = true;
    }
}
