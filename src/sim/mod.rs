//! Many nodes, one clock, and the wires, kernels, disks and VPC between them.
//!
//! ```text
//!  world    the clock and its queue of events; what a node says is carried out, what comes of it is told
//!    wire     TCP between hosts: ordered bytes, late, stalled or cut     kernel   one host's network
//!    cloud    EC2 as one host calls it, of the one [`vpc`]               machine  node, kernel, disk, power
//!    users    who attaches, allocates, frees              promises what they were promised
//!    trouble  what goes wrong, and how all is made well in the end
//!    power    what goes wrong with processes, disks and hosts
//!    laws     what must hold after each step              settle   what must, once all is quiet
//!  growth   a calm world of any size, founded, joined and left idle, and measured
//!  mixed    hosts outside EC2, and hosts of one subnet that reach each other directly
//!  router_data what a Weave Net router would keep on disk
//!  turnover one whose hosts are replaced again and again, and what becomes of the route table
//! ```
//!
//! A world follows from its seed alone: no clock, no thread, no order but that of the queue.

mod climate;
pub mod vpc;
mod cloud;
mod kernel;
mod machine;
mod promises;
mod wire;
pub mod world;
pub mod growth;
pub mod turnover;
pub mod router_data;
mod mixed;
mod laws;
mod settle;
mod power;
mod trouble;
mod users;

pub use world::{Outcome, World};
