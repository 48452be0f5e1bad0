//! How far apart looks are, so that a whole cluster asks EC2 less than once a second.

use std::{ops::Range, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Time from one reading call of a peer to its next, for each peer of the cluster: all of them together make three calls in four
/// seconds, which leaves room for what is asked now and then.
const READS_SHARE: Duration = Duration::from_millis(1333);
/// The same where calls are spread by chance, and many may fall into one minute.
const SPREAD_SHARE: Duration = Duration::from_millis(1800);
/// Where each peer looks at least once in so long, the looks of a minute even out by themselves.
const OFTEN: Duration = Duration::from_secs(60);
/// How much of the usual time passes there.
const SPREAD_OFTEN: Range<f64> = 0.4..1.3;
/// How many times the usual time passes at most.
const SPREAD_MAX: f64 = 4.0;

/// How far apart the looks of this host are.
#[derive(Debug)]
pub(in crate::node) struct Cadence {
    /// Which part of the usual time passes before the next look at EC2.
    spread: f64,
    rng: ChaCha8Rng,
}

impl Cadence {
    pub fn new(rng: ChaCha8Rng) -> Cadence {
        Cadence { spread: 1.0, rng }
    }

    /// Up to a tenth earlier, so that hosts that started together do not go on in step.
    pub fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random_range(0.9..1.0))
    }

    /// Some part of this, by chance.
    pub fn within(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random_range(0.0..1.0))
    }

    /// Draws which part of the usual time passes before the next look at EC2, where so many take turns in reading.
    pub fn draw(&mut self, readers: u32) {
        self.spread = match SPREAD_SHARE * readers < OFTEN {
            true => self.rng.random_range(SPREAD_OFTEN),
            false => spread(self.rng.random()),
        };
    }

    /// Time from one look at EC2 to the next. It grows with the cluster, so that all of it asks no more often, and is then spread
    /// so that this holds for each minute, even after all looked at once.
    pub fn next_read_in(&mut self, interval: Duration, readers: u32) -> Duration {
        let jittered = self.jittered(interval);
        if is_small(interval, readers) { jittered } else { jittered.max(self.share(readers)) }
    }

    /// Time between reading calls of this host where so many take turns by chance.
    pub fn share(&self, readers: u32) -> Duration {
        (SPREAD_SHARE * readers).mul_f64(self.spread)
    }
}

/// Time between reading calls of one host if all take the same.
pub(in crate::node) fn usual_share(readers: u32) -> Duration {
    READS_SHARE * readers
}

/// Whether all peers may look as often as is configured.
pub(in crate::node) fn is_small(interval: Duration, readers: u32) -> bool {
    interval >= usual_share(readers)
}

/// Whether every look may ask for the source/destination check, too, and all of the cluster still asks no more often than a large
/// one.
pub(in crate::node) fn has_room_for_the_check(interval: Duration, readers: u32) -> bool {
    2 * usual_share(readers) <= interval
}

/// Which part of the usual time passes before the next look, by chance: as far apart as the calls of people who know nothing of each
/// other, so that each minute brings as many as any other, whatever happened to all of them at once.
fn spread(chance: f64) -> f64 {
    -(1.0 - chance).ln() % SPREAD_MAX
}
