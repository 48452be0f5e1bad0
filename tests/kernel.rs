//! The kernel's side, on real network namespaces, as any user who may make them.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // A story that cannot go on has failed.

#[path = "kernel/doors.rs"]
mod doors;
#[path = "kernel/dual_stack.rs"]
mod dual_stack;
#[path = "kernel/host_routes.rs"]
mod host_routes;
#[path = "kernel/links.rs"]
mod links;
#[path = "kernel/paths.rs"]
mod paths;
#[path = "kernel/rules.rs"]
mod rules;
#[path = "kernel/runtimes.rs"]
mod runtimes;
#[path = "kernel/tunnel.rs"]
mod tunnel;
#[path = "kernel/watching.rs"]
mod watching;
#[path = "kernel/weave_net.rs"]
mod weave_net;
#[path = "kernel/world.rs"]
mod world;

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, exit},
};

use libtest_mimic::Arguments;

/// Names the program that stands in for a kernel without WireGuard.
const USERSPACE_WIREGUARD: &str = "WEAVERS_USERSPACE_WIREGUARD";

fn main() {
    if env::var_os(USERSPACE_WIREGUARD).is_none() {
        let mut again = Command::new("/proc/self/exe");
        let error = again.args(env::args_os().skip(1)).env(USERSPACE_WIREGUARD, "wireguard-go").exec();
        eprintln!("the kernel tests cannot run: {error}");
        exit(1);
    }
    let arguments = Arguments::from_args();
    if let Err(need) = world::become_root() {
        eprintln!("the kernel tests cannot run: {need}");
        exit(1);
    }
    let trials = [
        doors::trials(),
        dual_stack::trials(),
        host_routes::trials(),
        links::trials(),
        paths::trials(),
        rules::trials(),
        runtimes::trials(),
        tunnel::trials(),
        watching::trials(),
        weave_net::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Names stories as trials, each on a host of its own.
#[macro_export]
macro_rules! stories {
    ($($story:ident),* $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(libtest_mimic::Trial::test(stringify!($story), || {
                $crate::world::on_a_host($story);
                Ok(())
            })),*]
        }
    };
}
