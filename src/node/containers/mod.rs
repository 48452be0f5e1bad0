//! What lives on this host: containers, addresses that were lent to other plugins, Docker's networks, and the canary.

/// The containers, and by what they are known.
pub(super) mod registry;
/// What is known of Docker.
pub(super) mod docker;
/// What was lent to other plugins.
pub(super) mod lease;
/// The container of our own, by which packets are tried.
pub(super) mod canary;
/// All of these together.
pub(super) mod local;
/// Ports of the host that lead into containers.
pub(super) mod ports;
/// From a namespace to an address, and back.
pub(super) mod attach;
/// The same for a runtime, by its own key.
pub(super) mod connect;
/// Addresses for interfaces that other plugins make.
pub(super) mod lending;
/// Holds the block for `docker0`.
pub(super) mod docker_block;
/// Docker's networks and endpoints.
pub(super) mod docker_driver;
