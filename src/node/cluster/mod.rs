//! The other hosts: who is there, who owns what, what becomes of the dead, and whether packets get there.

/// What EC2 said of the dead, who is asked for, and who is not heard.
pub(super) mod dead;
/// Hosts that run and have not confirmed what they own.
pub(super) mod unconfirmed;
/// Where the other ends of tunnels are.
mod other_ends;
/// The path to each other host, and the routes that follow.
pub(super) mod peer_paths;
/// The mesh, the address manager, and what becomes of the dead.
pub(super) mod peers;
/// Blocks that move between hosts, and what is said of one.
pub(super) mod compact;
/// What peers tell each other, and how news are passed on.
pub(super) mod gossip;
/// What was observed of peers, and whom to dial by it.
pub(super) mod observed;
/// From what EC2 says of the dead to what the peers agree on.
pub(super) mod takeover;
/// When a lost probe leads to a look.
pub(super) mod doubt;
/// Who is probed, and what a loss leads to.
pub(super) mod probes;
