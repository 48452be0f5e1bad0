//! Events as the journal takes them: with their fields, how grave they are, and the number by which they are explained
//! (systemd.journal-fields(7)). They go over the journal's own socket, by the thread that writes the log.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    os::unix::net::UnixDatagram,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::log::Log;
use crate::text::{printable, short};

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A field that is for the journal alone, since the message says it already.
pub(super) const ALONE: &str = "journal.";
/// What is kept of a value, and of a message with all its values.
const VALUE_LEN_MAX: usize = 8 << 10;
const MESSAGE_LEN_MAX: usize = 32 << 10;
/// Names that the journal, or this file, uses for something else.
const TAKEN: [&str; 4] = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "CODE_FILE"];

/// The way to the journal: what is written at once is one entry. A journal that was started anew is found again by its path.
#[derive(Debug)]
pub(super) struct Socket {
    own: UnixDatagram,
    path: String,
}

impl Socket {
    /// Fails where there is no journal.
    pub fn open() -> io::Result<Socket> {
        Socket::at(SOCKET)
    }

    fn at(path: &str) -> io::Result<Socket> {
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Socket { own: UnixDatagram::unbound()?, path: path.to_owned() })
    }
}

impl Write for Socket {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        self.own.send_to(entry, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes an entry of each event.
#[derive(Debug)]
pub(super) struct Journal(pub Log);

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let place = event.metadata().file().zip(event.metadata().line());
        self.0.write_entry(entry.encoded(*event.metadata().level(), place));
    }
}

/// A note of the log itself.
pub(super) fn note(text: &str) -> Vec<u8> {
    Entry { message: text.to_owned(), ..Entry::default() }.encoded(Level::WARN, None)
}

#[derive(Default)]
struct Entry {
    message: String,
    /// The values that the message does not say.
    values: String,
    fields: Vec<u8>,
}

impl Entry {
    fn encoded(mut self, level: Level, place: Option<(&str, u32)>) -> Vec<u8> {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let message = short(&format!("{}{}", self.message, self.values), MESSAGE_LEN_MAX);
        self.add("MESSAGE", &message);
        self.add("PRIORITY", priority);
        self.add("SYSLOG_IDENTIFIER", "weavers");
        if let Some((file, line)) = place {
            self.add("CODE_FILE", file);
            self.add("CODE_LINE", &line.to_string());
        }
        self.fields
    }

    fn keep(&mut self, name: &str, value: &str) {
        if name == "message" {
            return self.message.push_str(value);
        }
        let alone = name.strip_prefix(ALONE);
        if alone.is_none() {
            let _ = write!(self.values, " {name}={value}");
        }
        let name = alone.unwrap_or(name).to_ascii_uppercase().replace('.', "_");
        if !TAKEN.contains(&name.as_str()) {
            self.add(&name, &short(value, VALUE_LEN_MAX));
        }
    }

    /// A line of its own, as it is printable; the journal drops what has no value.
    fn add(&mut self, name: &str, value: &str) {
        self.fields.extend_from_slice(format!("{name}={value}\n").as_bytes());
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field.name(), &printable(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field.name(), &printable(&format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What an entry says, line by line.
    fn entry_of(tell: impl FnOnce()) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let log = Log::to(Socket::at(path.to_str().unwrap()).unwrap(), note).unwrap();
        let events = tracing_subscriber::registry().with(Journal(log.clone()));
        tracing::subscriber::with_default(events, tell);
        log.flush();
        let mut entry = vec![0; 1 << 16];
        let len = journal.recv(&mut entry).unwrap();
        let text = String::from_utf8(entry[..len].to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_entry_has_its_fields_how_grave_it_is_and_a_message_that_reads_without_them() {
        let id = "5c23806f9cd122bebb6568f511ccb671";
        let (missing, request) = (None::<&str>, 7);
        let entry = entry_of(|| {
            tracing::warn!(
                journal.message_id = id,
                journal.peer = "web",
                missing,
                request,
                "peer {} is lost",
                "web"
            );
        });
        let has = |line: &str| entry.iter().any(|found| found == line);
        for line in
            ["MESSAGE=peer web is lost request=7", "PRIORITY=4", "SYSLOG_IDENTIFIER=weavers", "PEER=web"]
        {
            assert!(has(line), "{line}: {entry:?}");
        }
        assert!(has(&format!("MESSAGE_ID={id}")) && has("REQUEST=7"), "{entry:?}");
        assert!(!entry.iter().any(|line| line.starts_with("MISSING")), "{entry:?}");
        assert!(entry.iter().any(|line| line.starts_with("CODE_FILE=")), "{entry:?}");
    }

    #[test]
    fn what_others_say_is_no_field_and_no_second_line_and_has_its_bound() {
        let said = "web\nMESSAGE_ID=0\nPRIORITY=0\u{202e}";
        let long = "x".repeat(1 << 20);
        let entry = entry_of(|| tracing::info!(journal.peer = said, error = %long, priority = 0, "{said}"));
        assert!(entry.iter().any(|line| line == "PEER=web?MESSAGE_ID=0?PRIORITY=0?"), "{:?}", entry[0]);
        assert_eq!(entry.iter().filter(|line| line.starts_with("PRIORITY=")).count(), 1);
        assert_eq!(entry.iter().filter(|line| line.starts_with("MESSAGE_ID=")).count(), 0);
        assert!(entry.iter().map(String::len).sum::<usize>() < 2 * MESSAGE_LEN_MAX);
    }

    #[test]
    fn a_journal_that_was_started_anew_is_written_to_again_and_told_what_was_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let former = UnixDatagram::bind(&path).unwrap();
        let log = Log::to(Socket::at(path.to_str().unwrap()).unwrap(), note).unwrap();
        drop(former);
        log.write_entry(b"MESSAGE=one\n".to_vec());
        log.flush();
        std::fs::remove_file(&path).unwrap();
        let journal = UnixDatagram::bind(&path).unwrap();
        log.write_entry(b"MESSAGE=two\n".to_vec());
        log.flush();
        let mut entry = [0; 1 << 12];
        let mut next = || {
            let len = journal.recv(&mut entry).unwrap();
            String::from_utf8(entry[..len].to_vec()).unwrap()
        };
        assert!(next().starts_with("MESSAGE=1 lines of the log were lost"));
        assert_eq!(next(), "MESSAGE=two\n");
    }

    #[test]
    fn where_there_is_no_journal_that_is_known_at_once() {
        assert!(Socket::at("/nonexistent/socket").is_err());
    }
}
