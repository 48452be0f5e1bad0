//! The tests of the whole library that need neither root nor the network.

mod api;
mod config;
