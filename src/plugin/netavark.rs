//! The plugin as netavark runs it: a word of the command line and stdin in, the daemon asked, an answer out. What is said is decided in
//! [`netavark`].

use std::{fs, path::Path};

use serde_json::Value;

use super::{PATIENCE, STDIN_BYTES_MAX, is_host, let_go, read_stdin};
use crate::{
    api::{ApiRequest, blocking, client::ClientError},
    cni::SOCKET,
    netavark::{self, Call},
    node::protocol::request::{Request, Response},
};

/// What came of it: nothing, where nothing is to be printed.
type Answer = Result<Option<Value>, String>;

/// Does what the command line says.
pub(super) fn answer(verb: &str, netns: Option<&str>) -> Answer {
    if verb == "info" {
        return Ok(Some(netavark::info()));
    }
    let stdin = read_stdin().map_err(|error| format!("stdin cannot be read: {error}"))?;
    let stdin = stdin.ok_or_else(|| format!("stdin is longer than {STDIN_BYTES_MAX} bytes"))?;
    if verb == "create" {
        return create(&stdin).map(Some);
    }
    let call = netavark::parse(&stdin)?;
    if verb == "setup" {
        let netns = netns.ok_or("the path of a network namespace is missing")?;
        return setup(&call, netns).map(Some);
    }
    let_go(socket(call.socket.as_deref()), &call.wish.key).map(|()| None).map_err(|failed| {
        format!("{}, and no note can be left for it: {}", told(&failed.error), failed.unwritten)
    })
}

fn socket(named: Option<&str>) -> &Path {
    Path::new(named.unwrap_or(SOCKET))
}

fn create(stdin: &[u8]) -> Result<Value, String> {
    let (_, named) = netavark::asked_of(stdin)?;
    match ask(socket(named.as_deref()), &ApiRequest::Node(Request::Range))? {
        Response::Addresses(found) => {
            let range = found.first().ok_or("the daemon has no range")?;
            netavark::create(stdin, *range)
        }
        _ => Err("the daemon answered something else: is it of another version?".to_owned()),
    }
}

fn setup(call: &Call, netns: &str) -> Result<Value, String> {
    // Rootless containers are on a host of their own, to which nothing leads.
    let uids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !uids.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Err("weavers connects containers of root only: run Podman with sudo".to_owned());
    }
    if is_host(netns).map_err(|error| format!("{netns} cannot be entered: {error}"))? {
        return Err(format!("{netns} is the host's own network namespace"));
    }
    let request = ApiRequest::ConnectTarget { target: netns.to_owned(), wish: call.wish.clone() };
    match ask(socket(call.socket.as_deref()), &request)? {
        Response::Connected(made) => Ok(netavark::connected(call, &made)),
        _ => Err("the daemon answered something else: is it of another version?".to_owned()),
    }
}

/// Where it fails, or takes too long, the daemon has undone what it had begun.
fn ask(socket: &Path, request: &ApiRequest) -> Result<Response, String> {
    blocking::call(socket, request, PATIENCE).map_err(|error| told(&error))
}

fn told(error: &ClientError) -> String {
    let cause = match error {
        ClientError::Unreachable { source, .. } => format!(": {source}"),
        ClientError::Late(_) | ClientError::Garbled(_) | ClientError::Refused(_) => String::new(),
    };
    let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
    format!("{error}{cause}{hint}")
}
