//! The plugin that runtimes run: environment and stdin in, the daemon asked, a result out. What is said is decided in [`cni`]; netavark, which
//! says on the command line what it wants, is in a file of its own. Under the name of `weavers-ipam` it lends addresses to other plugins.
//!
//! It starts for every container, so that it does without an asynchronous runtime.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{ExitCode, exit},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    api::{ApiRequest, blocking, client::ClientError},
    cni::{
        Code, Failure, Network, Order, Role, Verb, Version,
        input::{self, Environment},
        output,
    },
    netavark as words,
    netavark::VERBS,
    node::protocol::request::{Request, Response},
    spool,
    state::Key,
};

mod netavark;

/// Runtimes have no time-out of their own, and wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// STATUS is asked every few seconds, and answered from what is known.
const PATIENCE_OF_STATUS: Duration = Duration::from_secs(2);
/// A result of a long chain is some kilobytes.
const STDIN_BYTES_MAX: u64 = 4 << 20;

/// Does what the environment says. An error goes to stdout, as the specification has it.
pub fn run() -> ExitCode {
    let environment = Environment::read(|name| std::env::var(name).ok());
    let mut arguments = std::env::args();
    let role = Role::of(Path::new(&arguments.next().unwrap_or_default()));
    if environment.command.is_none()
        && let Some(verb) = arguments.next().filter(|word| VERBS.contains(&word.as_str()))
    {
        watch_the_time(&words::failed(&format!("no answer within {PATIENCE:?}")));
        let answer = netavark::answer(&verb, arguments.next().as_deref());
        return end(answer.map_err(|why| words::failed(&why)));
    }
    let late = Failure::new(Version::V1_1_0, Code::Again, format!("no answer within {PATIENCE:?}"));
    watch_the_time(&late.details("`weavers status` says what it waits for").document());
    let answer = order(role, &environment).and_then(|order| match order {
        Order::About => Ok(about(role)),
        Order::Version(version) => Ok(Some(output::versions(&version))),
        Order::Of(network, verb) => perform(&network, &verb),
    });
    end(answer.map_err(|failure| failure.document()))
}

/// What is printed, and how it ends.
fn end(answer: Result<Option<Value>, Value>) -> ExitCode {
    let (document, code) = match answer {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err(failure) => (Some(failure), ExitCode::FAILURE),
    };
    match document.map_or(Ok(()), |document| print(&document)) {
        Ok(()) => code,
        // Whoever does not read the result does not have it.
        Err(_) => ExitCode::FAILURE,
    }
}

fn order(role: Role, environment: &Environment) -> Result<Order, Failure> {
    let unread =
        |why: String| Failure::new(Version::V1_1_0, Code::Unread, "stdin cannot be read").details(why);
    if environment.command.is_none() {
        return input::parse(role, environment, &[]);
    }
    let stdin = read_stdin().map_err(|error| unread(error.to_string()))?;
    let stdin = stdin.ok_or_else(|| unread(format!("it is longer than {STDIN_BYTES_MAX} bytes")))?;
    input::parse(role, environment, &stdin)
}

/// All of it, unless it is too long.
fn read_stdin() -> io::Result<Option<Vec<u8>>> {
    let mut stdin = Vec::new();
    io::stdin().take(STDIN_BYTES_MAX + 1).read_to_end(&mut stdin)?;
    Ok(Some(stdin).filter(|stdin| stdin.len() as u64 <= STDIN_BYTES_MAX))
}

/// Ends in time, whatever waits: stdin, the connection, the daemon.
fn watch_the_time(late: &Value) {
    let late = late.clone();
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        let _ = print(&late);
        exit(1);
    });
}

fn print(document: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{document}")?;
    stdout.flush()
}

/// Some runtimes run every plugin that they find without a word, and look for a version in what it says.
fn about(role: Role) -> Option<Value> {
    let spoken = Version::ALL.map(Version::text).join(", ");
    let text = format!(
        "CNI {} plugin {}\nCNI protocol versions supported: {spoken}\n",
        role.program(),
        env!("CARGO_PKG_VERSION")
    );
    let _ = io::stderr().write_all(text.as_bytes());
    None
}

fn perform(network: &Network, verb: &Verb) -> Result<Option<Value>, Failure> {
    let (request, patience) = match verb {
        Verb::Add { netns, wish } => {
            expect_namespace(network, netns)?;
            (ApiRequest::ConnectTarget { target: netns.clone(), wish: (**wish).clone() }, PATIENCE)
        }
        Verb::Check { netns, key, .. } => {
            expect_namespace(network, netns)?;
            (ApiRequest::CheckTarget { target: netns.clone(), key: key.clone() }, PATIENCE)
        }
        Verb::Lend { netns, loan } => {
            expect_namespace(network, netns)?;
            (ApiRequest::LendTarget { target: netns.clone(), loan: (**loan).clone() }, PATIENCE)
        }
        Verb::Lent { key, .. } => (ApiRequest::Node(Request::Lent { key: key.clone() }), PATIENCE),
        Verb::Del { key } => return delete(network, key).map(|()| None),
        Verb::Status => (ApiRequest::Node(Request::CanConnect), PATIENCE_OF_STATUS),
        Verb::Gc => (ApiRequest::Node(Request::Collect), PATIENCE),
    };
    match blocking::call(&network.socket, &request, patience) {
        Ok(response) => output::answer(network, verb, &response),
        Err(error) => Err(failed(network, verb, &error)),
    }
}

/// The namespace of a container, and not the one that the runtime is in.
fn expect_namespace(network: &Network, netns: &str) -> Result<(), Failure> {
    let wrong =
        |why: &str| Failure::new(network.version, Code::Namespace, format!("CNI_NETNS {netns} {why}"));
    match is_host(netns) {
        Ok(true) => Err(wrong("is the host's own network namespace")),
        Ok(false) => Ok(()),
        Err(error) => Err(wrong("cannot be entered").details(error.to_string())),
    }
}

/// Whether this is the network namespace that we are in.
fn is_host(netns: &str) -> io::Result<bool> {
    let of = |path: &str| fs::metadata(path).map(|data| (data.dev(), data.ino()));
    let found = of(netns)?;
    Ok(of("/proc/self/ns/net").is_ok_and(|own| own == found))
}

/// A container that cannot be deleted is one that its runtime never lets go of, so that there are few reasons to fail. Whoever does
/// not hear of it now reads of it later.
fn delete(network: &Network, key: &Key) -> Result<(), Failure> {
    let verb = Verb::Del { key: key.clone() };
    let_go(&network.socket, key).map_err(|NotLetGo { error, unwritten }| {
        let failure = failed(network, &verb, &error);
        let details = format!("and no note can be left for it: {unwritten}; {}", failure.details);
        failure.details(details)
    })
}

/// Why nobody hears that a container is gone: the daemon does not, and no note can be left for it.
struct NotLetGo {
    error: ClientError,
    unwritten: io::Error,
}

fn let_go(socket: &Path, key: &Key) -> Result<(), NotLetGo> {
    let request = ApiRequest::DetachTarget { target: key.ident() };
    let ask = || match blocking::call(socket, &request, PATIENCE) {
        // It is remembered where it could not be done at once.
        Ok(Response::Done | Response::Absent) | Err(ClientError::Refused(_)) => Ok(()),
        Ok(_) => Err(ClientError::Garbled("it was something else".to_owned())),
        Err(error) => Err(error),
    };
    let Err(error) = ask() else { return Ok(()) };
    if let Err(unwritten) = spool::leave(socket, key) {
        return Err(NotLetGo { error, unwritten });
    }
    // A daemon that has started meanwhile may have read the notes before this one.
    if ask().is_ok() {
        let _ = spool::withdraw(socket, key);
    }
    Ok(())
}

fn failed(network: &Network, verb: &Verb, error: &ClientError) -> Failure {
    match error {
        ClientError::Refused(refusal) => output::refused(network, verb, refusal),
        ClientError::Unreachable { source, .. } => {
            output::unreachable(network, verb, &format!("{error}: {source}"), error.hint())
        }
        ClientError::Late(_) | ClientError::Garbled(_) => output::late(network, verb, &error.to_string()),
    }
}
