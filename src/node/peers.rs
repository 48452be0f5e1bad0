//! Who else is there and who owns what: the mesh, the address manager, and what becomes of the dead.

use super::{takeover::Dead, unconfirmed::Unconfirmed};
use crate::{ipam::Allocator, mesh::Mesh, peer::PeerName, time::Timestamp};

/// What peers agree on, and how.
pub(super) struct Peers {
    pub mesh: Mesh,
    pub ipam: Allocator,
    pub dead: Dead,
    pub unconfirmed: Unconfirmed,
    /// When to pass on what was heard, and who alone told us of it.
    pub relay: Option<(Timestamp, Option<PeerName>)>,
}
