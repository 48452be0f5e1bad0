//! Tests of the library from outside, in one binary, that need neither root nor the network.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod api;
mod born;
mod bounded_peer;
mod canary;
mod cli;
mod config;
mod connect;
mod crowd;
mod dead_peer;
mod decoders;
mod docker;
mod first_ring;
mod go;
mod go_codecs;
mod hostile;
mod layering;
mod leaving;
mod lone_host;
mod lost_store;
mod memory;
mod mesh_peers;
mod one_fault;
mod paths;
mod paxos_walk;
mod plan;
mod plan_laws;
mod printed;
mod schema;
mod sim;
mod story;
mod taken_name;
mod trial;
mod unfenced;
mod whose_host;
