//! What is looked at beside the host and its route tables, and when.

use rand_chacha::ChaCha8Rng;

use super::{discovery::Discovery, last_read::LastReads, names::Names, peer_subnets::Places};
use crate::state::Rules;

/// What looks have shown, and how far apart they are.
#[derive(Debug)]
pub(super) struct Observed {
    pub discovery: Discovery,
    pub names: Names,
    pub places: Places,
    pub last_reads: LastReads,
    /// The rules that the last look at the host compared with.
    pub looked_for: Option<Rules>,
    /// Which part of the usual time passes before the next look at EC2.
    pub spread: f64,
    pub rng: ChaCha8Rng,
}
