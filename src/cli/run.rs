//! `weavers run`: the daemon.

use super::{
    Exit, Failure, Global,
    log::{Graded, Log, leads_to_the_journal},
    screen::Screen,
    validate,
};

/// Runs until told to stop. A file that is wrong from the start is told here, with its own exit code.
pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    let checked = validate::check(&global.config)?;
    checked.warn(screen);
    daemon(global).await
}

async fn daemon(global: &Global) -> Result<Exit, Failure> {
    let cannot = |error| Failure::failed(format!("the log cannot be written: {error}"));
    let log = Log::to_stderr().map_err(cannot)?;
    take_events(global, log.clone());
    let ended = crate::daemon::run(options(global)).await;
    log.flush();
    ended.map_err(failure)?;
    Ok(Exit::Success)
}

pub(super) fn options(global: &Global) -> crate::daemon::Options {
    crate::daemon::Options {
        config: global.config.clone(),
        state: global.state.clone(),
        socket: global.socket.clone(),
    }
}

/// What the daemon refused keeps its kind, and with it its exit code.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    match error.downcast::<crate::node::protocol::request::Refusal>() {
        Ok(refusal) => refusal.into(),
        Err(error) => Failure::failed(format!("{error:#}")),
    }
}

/// Events to the log. The journal keeps the time itself, and is told how grave each is.
fn take_events(global: &Global, log: Log) {
    use std::io::IsTerminal;

    use tracing_subscriber::{EnvFilter, fmt};

    let level = match global.verbose {
        0 => "warn,weavers=info",
        1 => "warn,weavers=debug",
        _ => "debug,weavers=trace",
    };
    let filter = EnvFilter::try_from_env("WEAVERS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let ansi = match global.color {
        super::Colour::Always => true,
        super::Colour::Never => false,
        super::Colour::Auto => {
            std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    let events = fmt().with_env_filter(filter).with_ansi(ansi).with_target(false);
    if leads_to_the_journal() {
        events.with_writer(Graded(log)).without_time().init();
    } else {
        events.with_writer(move || log.clone()).init();
    }
}
