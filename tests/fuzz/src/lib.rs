//! The fuzz targets, with a bound for the heap.

use std::alloc::System;

use cap::Cap;

mod targets;

/// The target of this name.
pub fn named(name: &str) -> targets::Target {
    targets::TARGETS.iter().find(|(target, _)| *target == name).expect("a target").1
}

/// No input is worth 256 MiB, and nothing of it stays: whoever takes too much at once, or never gives it back, ends here.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, 256 << 20);
