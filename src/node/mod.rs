//! One peer, whole: inputs in, outputs out.

pub mod request;
pub mod status;
