//! The command line.
//!
//! One file a subcommand, with its arguments and what it does; `ask` speaks with the daemon, `render`
//! turns what it says into text, `screen` prints, `exit` says how a command can end.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, error::ErrorKind};

mod ask;
mod plan_file;
mod screen;
mod progress;
mod reload;
pub mod render;
mod apply;
mod target;
mod attach;
mod confirm;
mod detach;
mod docker;
#[cfg(feature = "aws")]
mod doctor;
mod drain;
mod exit;
mod explain;
mod forget;
mod ipam;
mod log;
mod journal;
mod manual;
mod metrics;
mod validate;
mod config;
mod permissions;
mod run;
mod migrate;
mod plan;
mod report;
mod reset;
mod rotate_key;
mod schema;
mod status;

pub use self::exit::{Exit, Failure};
use self::screen::Screen;

const EXIT_CODES: &str = "\
Exit codes:
   0  success; plan: nothing to do; status --check: converged
   1  error; plan: something was not read, so there may be more to do
   2  only with --detailed-exitcode: changes pending, or made
   3  status --check: running, not converged
   4  the daemon cannot be reached
   5  refused for safety
  64  bad command line
  78  invalid configuration";

/// Where the configuration is unless it is named.
const CONFIG: &str = "/etc/weave/weave.toml";

/// Container networking on AWS EC2 without an overlay.
#[derive(Debug, Parser)]
#[command(name = "weavers", version, after_long_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand knows.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Configuration file; its drop-ins are those of conf.d beside it
    #[arg(long, global = true, value_name = "FILE", env = "WEAVERS_CONFIG", default_value = CONFIG)]
    config: PathBuf,
    /// State directory
    #[arg(long, global = true, value_name = "DIR", env = "WEAVERS_STATE", default_value = "/var/lib/weave")]
    state: PathBuf,
    /// Control socket of the daemon
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "WEAVERS_SOCKET",
        default_value = "/run/weave/weavers.sock"
    )]
    socket: PathBuf,
    /// How long to wait for the daemon
    #[arg(long, global = true, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print one JSON document, also on error
    #[arg(long, global = true)]
    json: bool,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Colour,
    /// More log output (-vv: trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run,
    /// Check the configuration, or one file of it, offline
    Validate(validate::Validate),
    /// Show what the configuration file would change, and why, without applying it
    Plan(plan::Plan),
    /// Adopt the configuration, converge now and wait until nothing is left to do
    Apply(apply::Apply),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Keep the configuration that `apply --confirm-timeout` tries
    Confirm,
    /// Adopt the configuration, as SIGHUP does, and say whether it was accepted
    Reload,
    /// Show peers, addresses, routes and containers of this host, and what it is waiting for
    Status(status::Status),
    /// Look for what is wrong with this host: what, why it matters, what to type
    #[cfg(feature = "aws")]
    Doctor,
    /// Show whose an address is, what carries its packets, and what is missing
    Explain(explain::Explain),
    /// Connect a container: a pid, a network namespace or a container's name
    Attach(attach::Attach),
    /// Disconnect a container
    Detach(detach::Detach),
    /// Show and hand out addresses
    #[command(subcommand)]
    Ipam(ipam::Ipam),
    /// Show what Docker has to be told
    #[command(subcommand)]
    Docker(docker::Docker),
    /// Take over the ranges of a peer that is gone for good
    Forget(forget::Forget),
    /// Give all ranges of this host away
    Drain,
    /// Undo everything on this host
    Reset,
    /// Give this host's end of tunnels a new key, and tell the other hosts
    RotateKey,
    /// Take over from a Weave Net router on this host; without --yes show what would happen
    Migrate(migrate::Migrate),
    /// Print all that is known of this host, for somebody else to read
    Report(report::Report),
    /// Print what is measured, as Prometheus reads it
    Metrics(metrics::Metrics),
    /// Print the JSON Schema of a document
    Schema(schema::Schema),
    /// Write manual pages
    #[command(hide = true)]
    Man(manual::Man),
    /// Write a completion script
    #[command(hide = true)]
    Completion(manual::Completion),
}

/// Does what the command line says, name of the program first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error, &args).into(),
    };
    let screen = Screen::new(&cli.global);
    let exit = perform(cli, &screen).unwrap_or_else(|failure| {
        screen.failure(&failure);
        failure.exit
    });
    exit.into()
}

fn perform(cli: Cli, screen: &Screen) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(dispatch(cli, screen))
}

async fn dispatch(Cli { global, command }: Cli, screen: &Screen) -> Result<Exit, Failure> {
    match command {
        Command::Run => run::exec(&global, screen).await,
        Command::Validate(command) => command.exec(&global, screen),
        Command::Plan(command) => command.exec(&global, screen).await,
        Command::Apply(command) => command.exec(&global, screen).await,
        Command::Config(command) => command.exec(&global, screen).await,
        Command::Confirm => confirm::exec(&global, screen).await,
        Command::Reload => reload::exec(&global, screen).await,
        Command::Status(command) => command.exec(&global, screen).await,
        #[cfg(feature = "aws")]
        Command::Doctor => doctor::exec(&global, screen).await,
        Command::Explain(command) => command.exec(&global, screen).await,
        Command::Attach(command) => command.exec(&global, screen).await,
        Command::Detach(command) => command.exec(&global, screen).await,
        Command::Ipam(command) => command.exec(&global, screen).await,
        Command::Docker(command) => command.exec(&global, screen).await,
        Command::Forget(command) => command.exec(&global, screen).await,
        Command::Drain => drain::exec(&global, screen).await,
        Command::Reset => reset::exec(&global, screen).await,
        Command::RotateKey => rotate_key::exec(&global, screen).await,
        Command::Migrate(command) => command.exec(&global, screen).await,
        Command::Report(command) => command.exec(&global, screen).await,
        Command::Metrics(command) => command.exec(&global, screen).await,
        Command::Schema(command) => command.exec(screen),
        Command::Man(command) => command.exec(),
        Command::Completion(command) => command.exec(),
    }
}

/// Help and version are no errors; the rest is, and clap's own code for it would look like "changes
/// pending".
fn misunderstood(error: &clap::Error, args: &[OsString]) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _closed = error.print();
        return Exit::Success;
    }
    if args.iter().any(|arg| arg == "--json") {
        screen::print_json(&Failure::usage(error).document());
    } else {
        screen::print_usage(&error.to_string());
    }
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_understood_behind_the_subcommand() {
        let cli = Cli::try_parse_from(["weavers", "status", "--socket", "/a", "--json"]).unwrap();
        assert_eq!(cli.global.socket, PathBuf::from("/a"));
        assert!(cli.global.json);
    }
}
