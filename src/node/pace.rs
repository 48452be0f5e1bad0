//! How often a node looks at EC2, so that a whole cluster keeps within one call a second.

use std::time::Duration;

use rand::RngExt;

use super::Node;

/// Share of one look a second that each peer of a cluster may take, with what is looked at now and then beside it.
const LOOKS_SHARE: Duration = Duration::from_millis(1300);

impl Node {
    /// Time from one look at EC2 to the next. It grows with the cluster, so that all of it asks no more often.
    pub(super) fn vpc_interval(&mut self) -> Duration {
        self.jittered(self.config.reconcile.interval.max(self.looks_share()))
    }

    /// Whether every look may ask for the source/destination check, too, and all of the cluster still asks no more
    /// often than a large one.
    pub(super) fn has_room_for_the_check(&self) -> bool {
        2 * self.looks_share() <= self.config.reconcile.interval
    }

    fn looks_share(&self) -> Duration {
        LOOKS_SHARE * (self.mesh.reachable().len() as u32 + 1)
    }

    /// Up to a tenth earlier, so that hosts that started together do not go on in step.
    pub(super) fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random_range(0.9..1.0))
    }
}
