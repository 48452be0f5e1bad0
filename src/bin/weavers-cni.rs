//! The CNI plugin, installed as `/opt/cni/bin/weavers`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weavers::plugin::run()
}
