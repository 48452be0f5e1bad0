//! What the allocator of glibc is told. Threads that work on links come and go; each would be given a heap of its own, and what is free in
//! one is of use to no other and stays with the process.

use std::time::Duration;

use tokio::time::sleep;

/// How often memory that is free is given back, wherever it lies.
const EVERY: Duration = Duration::from_secs(60);

/// One heap for all threads from now on, of which what is free is given back. Where the allocator is another nothing is done.
pub(super) fn tend() {
    if !glibc::use_one_heap() {
        return;
    }
    tokio::spawn(async {
        loop {
            sleep(EVERY).await;
            glibc::give_back();
        }
    });
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
mod glibc {
    use nix::libc;

    /// Bytes that are free at the end of the heap before they are given back at once.
    const FREE_MAX: libc::c_int = 256 << 10;

    pub(super) fn use_one_heap() -> bool {
        // SAFETY: both set a number of the allocator, which it reads under a lock of its own.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_MAX) == 1
        }
    }

    pub(super) fn give_back() {
        // SAFETY: the allocator gives back pages that hold nothing, under a lock of its own.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(target_env = "gnu"))]
mod glibc {
    pub(super) fn use_one_heap() -> bool {
        false
    }

    pub(super) fn give_back() {}
}
