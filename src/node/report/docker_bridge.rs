//! What is told of the block of Docker's own bridge.

use ipnet::Ipv4Net;

use super::overview::Overview;
use crate::{
    addr::Range,
    config::Bridge,
    node::{
        containers::docker::{BRIDGE, bridge_block},
        persist::memory::Write,
        protocol::status::{DockerBridgeStatus, Note},
    },
    state::Docker0,
};

impl Overview<'_> {
    /// The block, and the MTU of the links on it, once the disk has it.
    pub fn docker_bridge(&self) -> Option<(Ipv4Net, u32)> {
        let kept = self.ledger.is_kept(&Write::key_of_allocation(BRIDGE));
        let knows_mtu = self.facts.config.network.mtu.is_some() || !self.uplink_names().is_empty();
        let block = bridge_block(&self.peers.ipam).filter(|_| kept && knows_mtu)?;
        Some((block, self.link_mtu()))
    }

    fn docker0(&self) -> Option<Docker0> {
        self.work.converge.host.seen()?.surroundings.docker0
    }

    /// As far as the node knows it; the daemon knows Docker's file.
    pub(super) fn docker_bridge_status(&self) -> Option<DockerBridgeStatus> {
        let (mode, block) = (self.facts.config.docker.bridge, bridge_block(&self.peers.ipam));
        if mode == Bridge::Off && block.is_none() {
            return None;
        }
        let docker0 = self.docker0().map(|it| it.address);
        Some(DockerBridgeStatus {
            mode: mode.word().to_owned(),
            block,
            docker0,
            agrees: block.is_some() && docker0.map(|address| address.trunc()) == block,
            daemon_json: None,
            missing: Vec::new(),
        })
    }

    pub(super) fn bridge_problems(&self) -> Vec<Note> {
        let (mode, block, docker0) =
            (self.facts.config.docker.bridge, bridge_block(&self.peers.ipam), self.docker0());
        let mut notes = Vec::new();
        if mode == Bridge::Off {
            return notes;
        }
        if let Some(refusal) = &self.local.bridge.refused {
            notes.push(Note {
                what: format!("[docker] bridge: docker0 has no block of addresses: {}", refusal.message),
                hint: refusal.hint.clone().or(Some("`weavers ipam show` says what is free where".into())),
            });
        }
        let (Some(block), Some(docker0)) = (block, docker0) else { return notes };
        if docker0.address.trunc() != block {
            let first = match mode {
                Bridge::Write => "",
                Bridge::Print | Bridge::Off => {
                    "put what `weavers docker bridge` prints into Docker's daemon.json; "
                }
            };
            notes.push(Note {
                what: format!("docker0 has {}, and not the block {block} that is held for it", docker0.address),
                hint: Some(format!(
                    "{first}restart Docker with its containers stopped: with live-restore docker0 keeps its addresses while one runs"
                )),
            });
        } else if block.prefix_len() != self.facts.config.docker.bridge_len {
            notes.push(Note {
                what: format!("[docker] bridge_size is {}, and docker0 has {block}", self.facts.config.docker.bridge_len),
                hint: Some(
                    "set bridge = \"off\", take `bip` out of Docker's daemon.json and restart Docker; then switch it on again".into(),
                ),
            });
        }
        if docker0.drops && Range::from(self.facts.config.ipam.range).contains(docker0.address.addr().into())
        {
            notes.push(Note {
                what: "Docker drops in its table `raw` what comes for containers of docker0 from other hosts and other links".into(),
                hint: Some(
                    "\"allow-direct-routing\": true in Docker's daemon.json, which Docker 28.2 and later know; then restart Docker".into(),
                ),
            });
        }
        notes
    }
}
