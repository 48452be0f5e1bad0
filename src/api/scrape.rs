//! Where Prometheus reads over TCP: `GET /metrics` and nothing else. Whoever comes is served one answer, and not for long.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response as HttpResponse, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    ApiRequest,
    server::{Call, hand_over},
};
use crate::{metrics, node::protocol::request::Response};

/// Connections at one time; the next one waits.
const CONNECTIONS_MAX: usize = 8;
/// How long one of them lasts.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time before the next connection is taken where one could not be: files that are open may become fewer.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens at this address.
pub fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, from)) => {
                debug!(%from, "metrics are read");
                tokio::spawn(answer(stream, calls.clone(), place));
            }
            Err(error) => {
                debug!(%error, "a connection cannot be taken");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, calls: mpsc::Sender<Call>, _place: OwnedSemaphorePermit) {
    let service = service_fn(|request| said(request, calls.clone()));
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // Whoever hangs up, or takes too long, asks again.
    let _ = timeout(PATIENCE, connection).await;
}

async fn said(
    request: Request<Incoming>,
    calls: mpsc::Sender<Call>,
) -> Result<HttpResponse<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match hand_over(&calls, ApiRequest::Metrics).await {
            Ok(Response::Metrics(text)) => (StatusCode::OK, text),
            Ok(_) => (StatusCode::INTERNAL_SERVER_ERROR, "that was another answer\n".to_owned()),
            Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", refusal.message)),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n".to_owned()),
        (_, _) => (StatusCode::NOT_FOUND, "there are only /metrics\n".to_owned()),
    };
    let mut response = HttpResponse::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(metrics::CONTENT_TYPE));
    Ok(response)
}
