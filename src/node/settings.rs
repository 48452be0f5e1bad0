//! What a node is born with, and what the mesh and the address manager are told of the configuration.

use super::persist::memory::Identity;
use crate::{
    config::{self, Config},
    ipam, mesh,
    peer::PeerUid,
};

/// What a node is born with.
#[derive(Debug)]
pub struct Birth {
    /// Who it is; kept for life.
    pub identity: Identity,
    /// This life's number.
    pub uid: PeerUid,
    /// How people call it.
    pub nickname: String,
    /// The password of the mesh.
    pub password: Option<Vec<u8>>,
    /// The kernel's boot id: namespaces of another boot are gone.
    pub boot: String,
    /// Source of all chance.
    pub seed: u64,
}

/// Connections that a node keeps at most.
pub const CONN_LIMIT: usize = 200;

/// The mesh's part.
pub(super) fn of_mesh(birth: &Birth, config: &Config) -> mesh::Settings {
    mesh::Settings {
        name: birth.identity.name,
        uid: birth.uid,
        nickname: birth.nickname.clone(),
        port: config.mesh.listen.port(),
        password: birth.password.clone(),
        trusted_subnets: config.mesh.trusted_subnets.clone(),
        conn_limit: CONN_LIMIT,
        overlays: overlays(config.mesh.weave_peers),
        discovery: true,
    }
}

/// Our own first: with a peer that offers both, packets go through the VPC.
fn overlays(weave_peers: bool) -> Vec<String> {
    let offered = [mesh::OVERLAY].into_iter().chain(weave_peers.then_some(mesh::SLEEVE));
    offered.map(str::to_owned).collect()
}

/// The address manager's part.
pub(super) fn of_ipam(birth: &Birth, config: &Config) -> ipam::Settings {
    ipam::Settings {
        me: birth.identity.name,
        nickname: birth.nickname.clone(),
        universe: config.ipam.range.into(),
        init: match &config.ipam.init {
            config::Init::Consensus => ipam::Init::Consensus,
            config::Init::Seed(peers) => ipam::Init::Seed(peers.clone()),
            config::Init::Observer => ipam::Init::Observer,
        },
        expected_peers: config.ipam.expected_peers.unwrap_or(config.peers.len() + 1),
        acceptor: ipam::paxos::NodeId { name: birth.identity.name, uid: birth.identity.acceptor.0 },
    }
}
