//! Many nodes, one clock, and the wires, kernels, disks and VPC between them.

pub mod vpc;
