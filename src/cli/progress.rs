//! What a command that waits is waiting for: on a terminal one line that is drawn anew, elsewhere a line each time it is something else.

use std::{future::Future, io, pin::pin, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Global, ask::Daemon, screen::Screen};
use crate::{node::protocol::status::Status, text::printable};

/// How long a command may take before it says why.
const AT_FIRST: Duration = Duration::from_millis(400);
/// Time between two questions; where the daemon takes its time to answer, so many times that.
const EVERY: Duration = Duration::from_secs(1);
const LEISURE: u32 = 10;
/// Beyond this a status that does not come is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Columns of a terminal that does not say how many it has.
const WIDTH: usize = 80;

/// How far a command is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// What is done.
    pub done: String,
    /// What is awaited.
    pub awaited: String,
}

/// Waits for `answer`, and tells meanwhile how far it is: `words` makes of the daemon's status, and the time since it began, what is told.
pub(super) async fn telling<T>(
    global: &Global,
    screen: &Screen,
    words: impl Fn(&Status, Duration) -> Progress,
    answer: impl Future<Output = T>,
) -> T {
    let mut answer = pin!(answer);
    let Some(mut line) = Line::on(screen) else { return answer.await };
    let begun = Instant::now();
    let mut pause = AT_FIRST;
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            () = sleep(pause) => {}
        }
        let asked = Instant::now();
        let patient = Global { timeout: PATIENCE, ..global.clone() };
        let daemon = Daemon::new(&patient);
        tokio::select! {
            answer = &mut answer => return answer,
            status = daemon.status() => line.tell(&match status {
                Ok(status) => words(&status, begun.elapsed()),
                Err(_) => Progress { done: String::new(), awaited: "the daemon".to_owned() },
            }),
        }
        pause = EVERY.max(asked.elapsed() * LEISURE);
    }
}

/// What the daemon waits for first, or `otherwise`.
pub(super) fn first_wait(status: &Status, otherwise: &str) -> String {
    status.waits.first().map_or_else(|| otherwise.to_owned(), |wait| wait.what.clone())
}

/// The line on stderr. It goes when the command has its answer.
struct Line<'s> {
    screen: &'s Screen,
    /// Columns to draw in; `None`: it is no terminal.
    width: Option<usize>,
    /// What was told last.
    told: Option<String>,
}

impl<'s> Line<'s> {
    /// None where a program wants a document and nobody looks on.
    fn on(screen: &'s Screen) -> Option<Line<'s>> {
        let width = terminal_width();
        (width.is_some() || !screen.json).then_some(Line { screen, width, told: None })
    }

    fn tell(&mut self, Progress { done, awaited }: &Progress) {
        let words = [done.clone(), format!("waiting for {awaited}")];
        let text = words.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        match self.width {
            Some(_) => {
                // It may have been made another size.
                let width = terminal_width().unwrap_or(WIDTH);
                self.screen.redraw(&clipped(&printable(&text), width.saturating_sub(1)));
                self.told = Some(text);
            }
            // Of what is counted, no number is news.
            None if self.told.as_ref() == Some(&without_numbers(awaited)) => {}
            None => {
                self.screen.say(text);
                self.told = Some(without_numbers(awaited));
            }
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.width.is_some() && self.told.is_some() {
            self.screen.redraw("");
        }
    }
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// As much of it as fits. A letter that is not of ASCII may take two columns.
fn clipped(text: &str, width: usize) -> String {
    let mut left = width;
    let fits = |c: &char| {
        let columns = if c.is_ascii() { 1 } else { 2 };
        let fits = columns <= left;
        left = left.saturating_sub(columns);
        fits
    };
    text.chars().take_while(fits).collect()
}

/// Columns of the terminal that stderr is; `None` where it is none, or one that cannot go back on a line.
fn terminal_width() -> Option<usize> {
    use std::io::IsTerminal;

    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if !io::stderr().is_terminal() || is_dumb {
        return None;
    }
    Some(window_width().filter(|width| *width > 0).unwrap_or(WIDTH))
}

#[allow(unsafe_code)]
fn window_width() -> Option<usize> {
    use std::os::fd::AsRawFd;

    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills in the structure that this call is defined for, which lives until it returns.
    unsafe { window_size(io::stderr().as_raw_fd(), &raw mut size) }.ok()?;
    Some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_longer_than_the_terminal_is_wide() {
        assert_eq!(clipped("waiting for peers", 7), "waiting");
        assert_eq!(clipped("müller", 4), "mül");
        assert_eq!(clipped("データ", 5), "デー");
        assert_eq!(clipped("short", 80), "short");
        assert_eq!(clipped("", 0), "");
    }
}
