//! The daemon's side: takes calls off the socket and hands them to the loop. The socket is in `socket`.

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response as HttpResponse},
    routing::any,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::debug;

pub use super::socket::Socket;
use super::{Answer, ApiRequest, Document, wire};
use crate::{
    metrics,
    node::protocol::request::{Refusal, RefusalKind, Response},
};

/// A configuration file with room for its escapes, or a plan of some thousand steps.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Calls at one time whose answers wait for something. One more is refused.
const WAITING_MAX: usize = 64;
/// Calls at one time that are answered at once. More of them stand in line, as many as there may be open connections.
const AT_ONCE_MAX: usize = 64;
/// A request on its way to the loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: ApiRequest,
    /// Where the answer goes. `reply.closed()` ends when the caller has gone away.
    pub reply: oneshot::Sender<Answer>,
}

impl Socket {
    /// Serves until dropped, or until the loop no longer takes calls and whoever waits has been answered.
    pub async fn serve(self, calls: mpsc::Sender<Call>) -> io::Result<()> {
        let places = |count| Arc::new(Semaphore::new(count));
        let door = Door { calls: calls.clone(), waiting: places(WAITING_MAX), at_once: places(AT_ONCE_MAX) };
        let router = Router::new()
            .route("/v1/{name}", any(ask))
            .fallback(unknown)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(door);
        let closed = async move { calls.closed().await };
        axum::serve(self, router).with_graceful_shutdown(closed).await
    }
}

// ===== a call =====

#[derive(Clone)]
struct Door {
    calls: mpsc::Sender<Call>,
    waiting: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
}

/// Dropped by hyper when the caller hangs up, and the reply's receiver with it.
async fn ask(
    State(door): State<Door>,
    method: Method,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> HttpResponse {
    debug!(%method, name, "call");
    let request = match wire::decode(&method, &name, &body) {
        Ok(request) => request,
        Err(refusal) => return reply(Err(refusal)),
    };
    let place = match request.waits() {
        true => door.waiting.try_acquire().ok(),
        false => door.at_once.acquire().await.ok(),
    };
    match place {
        Some(_place) => answer(hand_over(&door.calls, request).await),
        None => {
            let refusal =
                Refusal::new(RefusalKind::Failed, format!("{WAITING_MAX} calls are waiting already"));
            reply(Err(refusal.hint("try again later")))
        }
    }
}

/// Has the loop answer. Whoever gives up hangs up, which the loop notices.
pub(crate) async fn hand_over(calls: &mpsc::Sender<Call>, request: ApiRequest) -> Answer {
    let leaving = || Refusal::new(RefusalKind::Failed, "the daemon is stopping");
    let (sender, answer) = oneshot::channel();
    calls.send(Call { request, reply: sender }).await.map_err(|_| leaving())?;
    answer.await.unwrap_or_else(|_| Err(leaving()))
}

async fn unknown() -> HttpResponse {
    reply(Err(Refusal::new(RefusalKind::NotFound, "no such call: calls are /v1/ and a name")))
}

/// What is measured is no document.
fn answer(answer: Answer) -> HttpResponse {
    match answer {
        Ok(Response::Metrics(text)) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        answer => reply(answer),
    }
}

fn reply(answer: Answer) -> HttpResponse {
    let status = match answer.as_ref().map_err(|refusal| refusal.kind) {
        Ok(_) => StatusCode::OK,
        Err(RefusalKind::Invalid | RefusalKind::Config) => StatusCode::BAD_REQUEST,
        Err(RefusalKind::NotFound) => StatusCode::NOT_FOUND,
        Err(RefusalKind::Unsafe | RefusalKind::Untimely | RefusalKind::Taken) => StatusCode::CONFLICT,
        Err(RefusalKind::Failed | RefusalKind::Impaired) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(Document::from(answer))).into_response()
}
