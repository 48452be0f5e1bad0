//! `weavers run`: the daemon.

use super::{
    Exit, Failure, Global,
    journal::{self, Journal, Socket},
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
    let log = take_events(global).map_err(cannot)?;
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

/// Events to the log: where stderr is the journal's, to the journal with their fields; where that cannot be, as lines that say how grave each
/// is. The journal keeps the time itself.
fn take_events(global: &Global) -> std::io::Result<Log> {
    use std::io::IsTerminal;

    use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

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
    let in_journal = leads_to_the_journal();
    if let Some(socket) = in_journal.then(|| Socket::open().ok()).flatten() {
        let log = Log::to(socket, journal::note)?;
        tracing_subscriber::registry().with(filter).with(Journal(log.clone())).init();
        return Ok(log);
    }
    let log = Log::to_stderr()?;
    let events = fmt().with_env_filter(filter).with_ansi(ansi).with_target(false).fmt_fields(said(ansi));
    let written = log.clone();
    match in_journal {
        true => events.with_writer(Graded(written)).without_time().init(),
        false => events.with_writer(move || written.clone()).init(),
    }
    Ok(log)
}

/// Fields behind the message, without those that it says already.
fn said(ansi: bool) -> impl for<'w> tracing_subscriber::fmt::FormatFields<'w> + 'static {
    let italic = clap::builder::styling::Style::new().italic();
    tracing_subscriber::fmt::format::debug_fn(move |writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if name.starts_with(journal::ALONE) => Ok(()),
        name if ansi => write!(writer, " {italic}{name}{italic:#}={value:?}"),
        name => write!(writer, " {name}={value:?}"),
    })
}
