//! Who owns which addresses: the ring, how it is first agreed on, and what is handed out of it.

pub mod merge;
pub mod message;
pub mod paxos;
pub mod ring;
pub mod space;
