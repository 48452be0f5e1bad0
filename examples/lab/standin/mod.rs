//! A stand-in for AWS at 169.254.169.254: the EC2 Query API, the instance metadata service, and a
//! few paths under `/lab/` to see and change how things are.
//!
//! Who calls is told by the source address, as EC2's own metadata service does it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aws_smithy_types::{DateTime, date_time::Format};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use tokio::{net::TcpListener, sync::watch};
use weavers::{
    sim::vpc::{ApiError, Caller, InstanceId, Metadata, Vpc},
    time::Timestamp,
};

pub use control::target_name;

mod answer;
mod control;
mod form;
mod imds;
mod query;

/// What every key begins with that the metadata service hands out.
const KEY: &str = "LABKEY";

/// The cloud that all callers share. A clone is the same cloud.
#[derive(Clone)]
pub struct Cloud {
    vpc: Arc<Mutex<Vpc>>,
    start: Instant,
    /// The model's version; whoever follows it sees every change.
    version: Arc<watch::Sender<u64>>,
    /// How often the keys of the instances' roles were renewed; those from before have expired.
    renewals: Arc<AtomicU64>,
    /// Seconds that its clock is ahead of ours.
    ahead_s: Arc<AtomicI64>,
    /// Who a caller is whose address is nobody's: for tests on the loopback.
    stranger: Option<InstanceId>,
}

/// A request, taken apart.
struct Asked {
    from: Ipv4Addr,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Cloud {
    /// Puts a model into the cloud.
    pub fn new(vpc: Vpc) -> Cloud {
        let version = Arc::new(watch::Sender::new(vpc.version()));
        let (vpc, renewals) = (Arc::new(Mutex::new(vpc)), Arc::default());
        let ahead_s = Arc::new(AtomicI64::new(0));
        Cloud { vpc, start: Instant::now(), version, renewals, ahead_s, stranger: None }
    }

    /// Takes callers whose address is nobody's for this instance.
    #[allow(dead_code)] // For tests that talk to the stand-in over the loopback.
    #[must_use]
    pub fn with_stranger(self, instance: InstanceId) -> Cloud {
        Cloud { stranger: Some(instance), ..self }
    }

    /// Lets all keys that were handed out expire at once, long before their time.
    pub fn expire_keys(&self) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }

    /// The key that is handed out now.
    fn key(&self) -> String {
        format!("{KEY}{:014}", self.renewals.load(Ordering::Relaxed))
    }

    /// Whether a request is signed with a key of ours that has expired. The signature itself is not looked at.
    fn has_expired(&self, asked: &Asked) -> bool {
        let signed = asked.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = signed.and_then(|text| text.split_once("Credential=")?.1.split('/').next());
        key.is_some_and(|key| key.starts_with(KEY) && key != self.key())
    }

    /// Looks at the model or changes it, and tells those who follow it.
    pub fn with<T>(&self, edit: impl FnOnce(&mut Vpc, Timestamp) -> T) -> T {
        let now = self.now();
        let mut vpc = self.lock();
        let result = edit(&mut vpc, now);
        let version = vpc.version();
        self.version.send_if_modified(|seen| std::mem::replace(seen, version) != version);
        result
    }

    /// Sets its clock so many seconds ahead of ours.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.ahead_s.store(seconds, Ordering::Relaxed);
    }

    /// The time of day, as the header `date` has it.
    fn date(&self) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(since).unwrap_or(i64::MAX) + self.ahead_s.load(Ordering::Relaxed);
        DateTime::from_secs(now).fmt(Format::HttpDate).unwrap_or_default()
    }

    /// Follows the model's version.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Answers on a listener until the task is dropped.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let app = Router::new().fallback(any(handle)).with_state(self);
        axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
    }

    /// The instance that a source address belongs to.
    fn caller(&self, from: Ipv4Addr) -> Option<InstanceId> {
        let vpc = self.lock();
        let interface = vpc.interface_at(from).and_then(|id| vpc.interfaces().get(&id));
        let attached = interface.and_then(|interface| interface.attached.clone());
        attached.map(|(instance, _)| instance).or_else(|| self.stranger.clone())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// A panic while the model was held leaves it as it was: changes are made whole or not at all.
    fn lock(&self) -> MutexGuard<'_, Vpc> {
        self.vpc.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The MAC address that the lab gives to the interface with a private address.
pub fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

async fn handle(
    State(cloud): State<Cloud>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let IpAddr::V4(from) = peer.ip() else { return text(StatusCode::FORBIDDEN, "not over IPv6") };
    let asked = Asked { from, method, uri, headers, body };
    let path = asked.uri.path();
    if path.starts_with("/latest/") {
        match cloud.with(|vpc, _| vpc.faults().metadata) {
            Metadata::On => imds::answer(&cloud, &asked),
            Metadata::Off => text(StatusCode::FORBIDDEN, "forbidden"),
            Metadata::TooFar => std::future::pending().await,
        }
    } else if path.starts_with("/lab/") {
        control::answer(&cloud, &asked)
    } else if path == "/" {
        ec2(&cloud, &asked).await
    } else {
        text(StatusCode::NOT_FOUND, "not found")
    }
}

/// One EC2 call: form to call, call to reply, reply to XML.
async fn ec2(cloud: &Cloud, asked: &Asked) -> Response {
    let fields = match asked.method {
        Method::POST => form::parse(&String::from_utf8_lossy(&asked.body)),
        _ => form::parse(asked.uri.query().unwrap_or_default()),
    };
    let request_id = format!("lab-{:08}", cloud.now().as_micros());
    let call = cloud
        .caller(asked.from)
        .ok_or_else(query::stranger)
        .and_then(
            |instance| if cloud.has_expired(asked) { Err(ApiError::expired_token()) } else { Ok(instance) },
        )
        .and_then(|instance| query::call(&fields).map(|call| (Caller::Instance(instance), call)));
    let (action, cut, result) = match call {
        Err(error) => ("", false, Err(error)),
        Ok((caller, call)) => {
            let reply = cloud.with(|vpc, now| vpc.call(now, &caller, &call));
            tokio::time::sleep(reply.after).await;
            (call.action().name(), reply.cut, reply.result)
        }
    };
    let (status, body) = match result {
        Ok(answer) => {
            (StatusCode::OK, cloud.with(|vpc, _| answer::render(vpc, action, &request_id, &answer)))
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, answer::render_error(&request_id, &error))
        }
    };
    let body = if cut { half(body) } else { Body::from(body) };
    let content_type = (header::CONTENT_TYPE, "text/xml;charset=UTF-8".to_owned());
    let named = (header::HeaderName::from_static("x-amzn-requestid"), request_id);
    (status, [content_type, named, (header::DATE, cloud.date())], body).into_response()
}

/// A body whose connection breaks in the middle.
fn half(mut body: String) -> Body {
    body.truncate(body.len() / 2);
    let broken = Err(std::io::Error::other("cut on purpose"));
    Body::from_stream(futures_util::stream::iter([Ok(body), broken]))
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain")], body.into()).into_response()
}

#[cfg(test)]
mod tests;
