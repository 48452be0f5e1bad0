//! The CNI plugins, installed as `/opt/cni/bin/weavers` and `/opt/cni/bin/weavers-ipam`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weavers::plugin::run()
}
