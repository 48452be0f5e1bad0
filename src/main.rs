//! The `weavers` program: the command line in, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    weavers::cli::run(std::env::args_os())
}
