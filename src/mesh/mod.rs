//! The peer protocol on TCP 6783: introduction, encryption, topology, gossip.
