//! The socket on which Docker speaks, as to any plugin of its own: calls are handed to the loop as those of the control socket are.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response as HttpResponse},
    serve::Listener,
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    Answer, ApiRequest,
    server::{Call as ToLoop, hand_over},
};
use crate::{
    docker::{
        Call, Wrong,
        input::parse,
        output::{answer, failed, refused},
    },
    node::protocol::{
        docker::LEASE,
        request::{Refusal, RefusalKind, Request},
    },
    text::short,
};

/// All ports of a host, published.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Calls at one time that wait for something.
const WAITING_MAX: usize = 64;
/// How long an address is waited for. Docker waits for ever, and does not ask again for a container that is to run always.
const ADDRESS_WITHIN: Duration = Duration::from_secs(10);
/// How long anything else is. The node has answered by then, whatever happens.
const DONE_WITHIN: Duration = Duration::from_secs(40);
/// What is logged of a refusal, which may repeat what was asked.
const SAID_MAX: usize = 400;

#[derive(Clone)]
struct Door {
    calls: mpsc::Sender<ToLoop>,
    places: Arc<Semaphore>,
}

/// Serves until the loop no longer takes calls.
pub async fn serve<L: Listener>(listener: L, calls: mpsc::Sender<ToLoop>) -> io::Result<()>
where
    L::Addr: std::fmt::Debug,
{
    let door = Door { calls: calls.clone(), places: Arc::new(Semaphore::new(WAITING_MAX)) };
    let router = Router::new().fallback(ask).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(door);
    let closed = async move { calls.closed().await };
    axum::serve(listener, router).with_graceful_shutdown(closed).await
}

/// Dropped by hyper when Docker hangs up.
async fn ask(State(door): State<Door>, method: Method, uri: Uri, body: Bytes) -> HttpResponse {
    let path = uri.path();
    debug!(path, "call of Docker");
    let call = match parse(path, &body) {
        _ if method != Method::POST => {
            return reply(StatusCode::METHOD_NOT_ALLOWED, &failed("calls are made with POST", None));
        }
        Ok(call) => call,
        Err(Wrong::Unknown) => return reply(StatusCode::NOT_FOUND, &failed("there is no such call", None)),
        Err(Wrong::Garbled(what)) => return reply(StatusCode::BAD_REQUEST, &failed(&what, None)),
        Err(Wrong::Refused(what)) => return reply(StatusCode::OK, &failed(&what, None)),
    };
    let ident = format!("{LEASE}{:016x}", rand::random::<u64>());
    let said = match call.request(&ident) {
        None => answer(&call, &crate::node::protocol::request::Response::Done),
        Some(request) => match perform(&door, &call, request).await {
            Ok(response) => answer(&call, &response),
            Err(refusal) => {
                let why = short(&refusal.message, SAID_MAX);
                warn!(path, why, "call of Docker refused");
                refused(&refusal)
            }
        },
    };
    reply(StatusCode::OK, &said)
}

async fn perform(door: &Door, call: &Call, request: Request) -> Answer {
    let place = door.places.try_acquire();
    if place.is_err() {
        let message = format!("{WAITING_MAX} calls are waiting already");
        return Err(Refusal::new(RefusalKind::Failed, message));
    }
    let lends = matches!(call, Call::Lend { .. });
    let patience = if lends { ADDRESS_WITHIN } else { DONE_WITHIN };
    let asked = hand_over(&door.calls, ApiRequest::Node(request));
    match timeout(patience, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(late(door, if lends { "no address" } else { "no answer" }, patience).await),
    }
}

/// It took too long: what is waited for.
async fn late(door: &Door, what: &str, patience: Duration) -> Refusal {
    let asked = hand_over(&door.calls, ApiRequest::Node(Request::CanConnect));
    let why = match timeout(ADDRESS_WITHIN, asked).await {
        Ok(Err(refusal)) => refusal,
        Ok(Ok(_)) | Err(_) => Refusal::new(RefusalKind::Failed, "see `weavers status`"),
    };
    Refusal { message: format!("{what} within {patience:?}: {}", why.message), ..why }
}

fn reply(status: StatusCode, said: &Value) -> HttpResponse {
    (status, Json(said)).into_response()
}
