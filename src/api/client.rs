//! The caller's side: one request, one answer, one connection.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

use super::{Answer, ApiRequest, Document, wire};
use crate::{
    metrics,
    node::protocol::request::{Refusal, Response},
};

/// The status of a large cluster is some megabytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer, or not the one hoped for.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields say what they are.
pub enum ClientError {
    /// Nobody listens, or the caller may not connect.
    #[error("the daemon cannot be reached at {}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    /// It listens but did not answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Late(Duration),
    /// It hung up, or what it said is not an answer.
    #[error("the daemon's answer cannot be read: {0}")]
    Garbled(String),
    /// It said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl ClientError {
    /// The way out, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root, or as a member of the socket's group".to_owned())
            }
            ClientError::Unreachable { .. } => {
                Some("is it running? start it with `systemctl start weavers` or `weavers run`".to_owned())
            }
            ClientError::Late(_) => Some("`weavers status` says what it waits for".to_owned()),
            ClientError::Garbled(_) => None,
            ClientError::Refused(refusal) => refusal.hint.clone(),
        }
    }
}

/// Asks the daemon behind `socket`, and waits for its answer no longer than `timeout`. Giving up hangs
/// up, which the daemon notices.
pub async fn call(socket: &Path, request: &ApiRequest, timeout: Duration) -> Result<Response, ClientError> {
    let exchange = exchange(socket, request);
    let answer = tokio::time::timeout(timeout, exchange).await.map_err(|_| ClientError::Late(timeout))?;
    answer?.map_err(ClientError::Refused)
}

/// What a server behind a Unix socket, of ours or of others, says to a `GET`.
pub async fn get(socket: &Path, path: &str, most: usize) -> Result<Bytes, ClientError> {
    let message = Request::builder().uri(path).header(header::HOST, "weavers").body(Full::new(Bytes::new()));
    let response = send(socket, message.map_err(garbled)?, most).await?;
    match response.status.is_success() {
        true => Ok(response.body),
        false => Err(ClientError::Garbled(format!("it answered with {}", response.status))),
    }
}

async fn exchange(socket: &Path, request: &ApiRequest) -> Result<Answer, ClientError> {
    let message = message(request).map_err(ClientError::Refused)?;
    let said = send(socket, message, ANSWER_BYTES_MAX).await?;
    if said.is_text {
        return Ok(Ok(Response::Metrics(String::from_utf8_lossy(&said.body).into_owned())));
    }
    let document: Document = serde_json::from_slice(&said.body).map_err(garbled)?;
    Ok(Answer::from(document))
}

struct Said {
    status: StatusCode,
    /// It is no document.
    is_text: bool,
    body: Bytes,
}

async fn send(socket: &Path, message: Request<Full<Bytes>>, most: usize) -> Result<Said, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Unreachable { socket: socket.to_owned(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(garbled)?;
    let talk = async {
        let response = sender.send_request(message).await.map_err(garbled)?;
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let is_text = kind.is_some_and(|kind| kind == metrics::CONTENT_TYPE);
        let body = Limited::new(response.into_body(), most);
        Ok(Said { status, is_text, body: body.collect().await.map_err(garbled)?.to_bytes() })
    };
    // The connection moves the bytes of the talk; when it ends first, the talk knows why.
    let mut talk = std::pin::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        _ended = connection => talk.await,
    }
}

fn message(request: &ApiRequest) -> Result<Request<Full<Bytes>>, Refusal> {
    let wire = wire::encode(request)?;
    let body = if wire.body.is_null() { Bytes::new() } else { wire.body.to_string().into() };
    Ok(Request::builder()
        .method(wire.method)
        .uri(format!("/v1/{}", wire.name))
        .header(header::HOST, "weavers")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("names of requests are sound in a path"))
}

fn garbled(error: impl ToString) -> ClientError {
    ClientError::Garbled(error.to_string())
}
