//! The hand that holds the canary's namespace, sends what the node says and reports what comes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Duration, Instant, sleep_until, timeout},
};

use super::Event;
use crate::{
    kernel::canary::{Canary, receive},
    probe::{PORT, REPLIES_MAX, packet},
};

/// Datagrams that are taken in a second. Whoever floods the canary fills the queue of its socket and no other.
const DATAGRAMS_MAX: u32 = 2 * REPLIES_MAX;
/// How long an answer is listened for. Late ones are answers, too.
const LISTENS: Duration = Duration::from_secs(4);
/// Requests that are out at one time.
const REQUESTS_MAX: usize = 256;

/// Holds the canary, once it is made.
#[derive(Default)]
pub(super) struct Hand {
    canary: Option<(Arc<Canary>, mpsc::Sender<Event>)>,
    at_work: Option<JoinHandle<()>>,
    requests: JoinSet<()>,
}

impl Hand {
    /// Makes the namespace beside the loop, reports it, and then what comes to it.
    pub(super) fn make(&mut self, events: mpsc::Sender<Event>) {
        self.drop();
        self.at_work = Some(tokio::spawn(work(events)));
    }

    /// It was made.
    pub(super) fn hold(&mut self, canary: Arc<Canary>, events: mpsc::Sender<Event>) {
        self.canary = Some((canary, events));
    }

    /// Lets go of it.
    pub(super) fn drop(&mut self) {
        if let Some(at_work) = self.at_work.take() {
            at_work.abort();
        }
        self.requests.abort_all();
        self.canary = None;
    }

    /// Sends a datagram. What cannot be sent is as good as lost.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: Bytes) {
        while self.requests.try_join_next().is_some() {}
        let Some((canary, events)) = &self.canary else { return };
        if to.port() != PORT {
            let _ = canary.answer(to, &bytes);
        } else if self.requests.len() < REQUESTS_MAX {
            self.requests.spawn(request(canary.clone(), to, bytes, events.clone()));
        }
    }
}

async fn request(canary: Arc<Canary>, to: SocketAddr, bytes: Bytes, events: mpsc::Sender<Event>) {
    let exchange = async {
        let socket = canary.socket_to(to).await.ok()?;
        drop(canary);
        socket.send(&bytes).await.ok()?;
        let mut buffer = vec![0; bytes.len() + 1];
        let len = receive(&socket, &mut buffer).await.ok()?.0;
        events.send(Event::Probed(to, Bytes::copy_from_slice(&buffer[..len]))).await.ok()
    };
    // Whoever waits for the answer knows how long.
    let _ = timeout(LISTENS, exchange).await;
}

async fn work(events: mpsc::Sender<Event>) {
    let canary = match Canary::make().await {
        Ok(canary) => Arc::new(canary),
        Err(fault) => return drop(events.send(Event::CanaryMade(Err(fault))).await),
    };
    let mut event = Event::CanaryMade(Ok(canary.clone()));
    let (mut second, mut taken, mut buffer) = (Instant::now(), 0, vec![0; packet::LEN_MAX]);
    while events.send(event).await.is_ok() {
        if taken >= DATAGRAMS_MAX {
            sleep_until(second + Duration::from_secs(1)).await;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, taken) = (Instant::now(), 0);
        }
        event = match receive(&canary.socket, &mut buffer).await {
            Ok((len, from)) => Event::Probed(from, Bytes::copy_from_slice(&buffer[..len])),
            // A canary that hears nothing is none: another is made later.
            Err(fault) => return drop(events.send(Event::CanaryMade(Err(fault))).await),
        };
        taken += 1;
    }
}
