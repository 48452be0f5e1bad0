//! What is looked at, and when: soon after something happened, seldom otherwise, and no more often than EC2 bears.

/// What was last seen of one thing, and when it is looked at again.
pub(super) mod view;
/// How far apart the looks of a whole cluster are.
pub(super) mod cadence;
/// Instances that bear the tag.
pub(super) mod discovery;
/// Names of `peers`, and the hosts that they stand for.
pub(super) mod names;
/// In which subnets peers are.
pub mod peer_subnets;
/// The last look at the route tables, kept over a restart.
pub(super) mod last_read;
