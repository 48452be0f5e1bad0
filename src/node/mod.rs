//! One peer, whole: inputs in, outputs out.

pub mod memory;
pub mod request;
pub mod status;
