//! The caller's side without a runtime: for a program that asks one thing and ends.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use super::{Answer, ApiRequest, Document, client::ClientError, wire};
use crate::node::protocol::request::Response;

/// What such a program asks for is answered in a few words.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Asks the daemon behind `socket`, and waits for its answer no longer than `timeout`. Ending the program hangs up, which
/// the daemon notices.
pub fn call(socket: &Path, request: &ApiRequest, timeout: Duration) -> Result<Response, ClientError> {
    let asked = wire::encode(request).map_err(ClientError::Refused)?;
    let unreachable = |source| ClientError::Unreachable { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Late(timeout),
        _ => ClientError::Garbled(error.to_string()),
    };
    let body = if asked.body.is_null() { String::new() } else { asked.body.to_string() };
    stream.set_write_timeout(Some(timeout)).map_err(broken)?;
    let head = format!(
        "{} /v1/{} HTTP/1.1\r\nhost: weavers\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        asked.method,
        asked.name,
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).map_err(broken)?;
    let answer = read(&stream, Instant::now() + timeout).map_err(broken)?;
    let document = body_of(&answer)
        .ok_or("it hung up before it had answered".to_owned())
        .and_then(|body| serde_json::from_slice::<Document>(body).map_err(|wrong| wrong.to_string()));
    Answer::from(document.map_err(ClientError::Garbled)?).map_err(ClientError::Refused)
}

/// Reads until the daemon hangs up.
fn read(stream: &UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // There is no time-out of nothing.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let room = (ANSWER_BYTES_MAX + 1).saturating_sub(answer.len() as u64);
        let mut some = [0; 4096];
        let count = stream.take(room).read(&mut some)?;
        answer.extend_from_slice(&some[..count]);
        if count == 0 {
            return Ok(answer);
        }
    }
}

/// The body, if all of it has come.
fn body_of(answer: &[u8]) -> Option<&[u8]> {
    const END: &[u8] = b"\r\n\r\n";
    let head_len = answer.windows(END.len()).position(|window| window == END)?;
    let (head, body) = (std::str::from_utf8(&answer[..head_len]).ok()?, &answer[head_len + END.len()..]);
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    body.get(..length.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_short_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(body_of(whole), Some(&b"{}"[..]));
        for len in 0..whole.len() {
            assert_eq!(body_of(&whole[..len]), None, "{len}");
        }
        assert_eq!(body_of(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}"), None);
    }
}
