//! The daemon's log: events on their way to stderr, or to the journal, which may be slow, full or closed.
//!
//! Whoever tells something neither waits for the reader nor fails with it: a thread of its own writes, what it does not get
//! rid of is lost, and the log says how much that was once it goes on.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::screen::in_colour;

/// Lines that wait to be written.
const LINES_MAX: usize = 4096;
/// How long the last lines are waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// The way to the thread that writes.
#[derive(Clone, Debug)]
pub(super) struct Log {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Order {
    Write(Vec<u8>),
    /// All that came before is written.
    Tell(SyncSender<()>),
}

impl Log {
    /// Writes to stderr, past the lock that others print under: they are not to wait either.
    pub(super) fn to_stderr() -> io::Result<Log> {
        Log::to(File::from(io::stderr().as_fd().try_clone_to_owned()?), |note| format!("{note}\n").into())
    }

    /// What is told is written at once, each by itself; `note` makes what can be written of a note on what was lost.
    pub(super) fn to(
        output: impl Write + Send + 'static,
        note: impl Fn(&str) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Log> {
        let (orders, queue) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        thread::Builder::new().name("log".into()).spawn(move || write_all(output, note, &queue, &counted))?;
        Ok(Log { orders, lost })
    }

    /// Has it written as it is.
    pub(super) fn write_entry(&self, entry: Vec<u8>) {
        if self.orders.try_send(Order::Write(entry)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was told is written, unless that takes too long.
    pub(super) fn flush(&self) {
        let (done, told) = sync_channel(1);
        if self.orders.try_send(Order::Tell(done)).is_ok() {
            // Too late, or no thread any more: there is nothing else to be done.
            let _ = told.recv_timeout(FAREWELL);
        }
    }
}

/// Whether stderr leads to the journal, by what systemd says of it (systemd.exec(5), `JOURNAL_STREAM`): not where a program in between
/// took it somewhere else.
pub(super) fn leads_to_the_journal() -> bool {
    let is_stderr = |stream: String| {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
        Some(stream == format!("{}:{}", stderr.dev(), stderr.ino()))
    };
    std::env::var("JOURNAL_STREAM").ok().and_then(is_stderr).unwrap_or(false)
}

/// A log that says in front of each line how grave it is, as the journal reads it (sd-daemon(3)).
#[derive(Clone, Debug)]
pub(super) struct Graded(pub Log);

/// Where one event goes.
pub(super) struct Line {
    log: Log,
    grade: &'static str,
}

impl<'a> MakeWriter<'a> for Graded {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self.0.clone(), grade: "<6>" }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        let grade = match *meta.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        };
        Line { log: self.0.clone(), grade }
    }
}

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.log.write(&[self.grade.as_bytes(), event].concat())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line an event: what a peer or EC2 said in it cannot write another, nor steer a terminal.
impl Write for Log {
    /// The whole of an event, as it is formatted.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.write_entry(format!("{}\n", in_colour(text.trim_end_matches('\n'))).into());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(
    mut output: impl Write,
    note: impl Fn(&str) -> Vec<u8>,
    queue: &Receiver<Order>,
    lost: &AtomicU64,
) {
    for order in queue {
        match order {
            Order::Write(line) => {
                let missing = lost.swap(0, Ordering::Relaxed);
                let count = format!("{missing} lines of the log were lost: they could not be written");
                if missing > 0 && output.write_all(&note(&count)).is_err() {
                    lost.fetch_add(missing, Ordering::Relaxed);
                }
                if output.write_all(&line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Whoever asked may have waited long enough.
            Order::Tell(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        sync::Mutex,
        time::Instant,
    };

    use super::*;

    const MANY: usize = 3 * LINES_MAX;

    fn line(note: &str) -> Vec<u8> {
        format!("{note}\n").into()
    }

    /// An event comes whole.
    fn tell(log: &mut Log, event: &str) {
        assert_eq!(log.write(format!("{event}\n").as_bytes()).unwrap(), event.len() + 1);
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_says_later_what_was_lost() {
        let (reader, writer) = io::pipe().unwrap();
        let mut log = Log::to(writer, line).unwrap();
        let begun = Instant::now();
        for number in 0..MANY {
            tell(&mut log, &format!("event {number} {}", "x".repeat(100)));
        }
        log.flush();
        assert!(begun.elapsed() < FAREWELL * 3, "{:?}", begun.elapsed());

        let reading = thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect());
        while log.lost.load(Ordering::Relaxed) > 0 {
            tell(&mut log, "event after");
            thread::sleep(Duration::from_millis(1));
        }
        log.flush();
        drop(log);
        let lines: Vec<String> = reading.join().unwrap();
        assert!(lines[0].starts_with("event 0 ") && lines.len() > LINES_MAX);
        assert!(
            lines.iter().any(|line| line.ends_with("lines of the log were lost: they could not be written"))
        );
    }

    /// A disk that is full at first.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(bool, String)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (has_room, text) = &mut *self.0.lock().unwrap();
            if !*has_room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            text.push_str(str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_whose_disk_is_full_ends_nobody_and_goes_on_when_there_is_room() {
        let disk = Disk::default();
        let mut log = Log::to(disk.clone(), line).unwrap();
        tell(&mut log, "one");
        tell(&mut log, "two");
        log.flush();
        disk.0.lock().unwrap().0 = true;
        tell(&mut log, "three");
        log.flush();
        let written = "2 lines of the log were lost: they could not be written\nthree\n";
        assert_eq!(disk.0.lock().unwrap().1, written);
    }
}
