//! What a node knows, read and not changed: what it says of itself, and what its decisions rest on.

/// Every subject, to be read.
pub(super) mod overview;
/// Packets that get lost, and which ways are asked about.
pub(super) mod lost_ways;
/// The paths to other hosts: what they rest on, and what is told of them.
pub(super) mod peer_paths;
/// When a block may move so that there are fewer routes, and what is said of it.
pub(super) mod compaction;
/// The status, from all its parts.
pub(super) mod status;
/// Why packets of a container cannot flow yet.
pub(super) mod missing;
pub(super) mod leases;
pub(super) mod docker_bridge;
/// What is told of the dead, and whoever wants one to be taken over from.
pub(super) mod takeover;
/// All there is to know of one address.
pub(super) mod explain;
pub(super) mod probes;
/// Which containers each change of a plan concerns.
pub(super) mod impact;
/// What the desired state follows from.
pub(super) mod ground;
/// What no look has shown yet, and what of the last one is kept.
pub(super) mod reads;
/// When the wait of those who asked is over, and what they are told.
pub(super) mod answers;
