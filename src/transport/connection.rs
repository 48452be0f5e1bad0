//! One connection: a task that reads, a task that writes, and the word by which either ends the other.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::sleep,
};
use tracing::debug;

use super::{Event, Shared, lock};
use crate::mesh::ConnId;

/// What may wait for a peer to read. A frame is at most 10 MiB, so one of them fits beside the rest.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// What a queued message costs apart from its bytes, so that many empty ones have a bound too.
const MESSAGE_COST: usize = 128;
/// What is read at a time.
const READ_BYTES: usize = 32 << 10;
/// How long a connection that we close may go on sending what is queued.
const FLUSH: Duration = Duration::from_millis(100);
/// Sent bytes that the peer's kernel has not acknowledged after this time end the connection.
const UNACKNOWLEDGED_MS_MAX: u32 = 9_000;
/// A silent connection is probed after this time, and then as often as the next one says.
const KEEPALIVE_IDLE_S: u32 = 10;
const KEEPALIVE_INTERVAL_S: u32 = 3;
const KEEPALIVE_PROBES: u32 = 3;

/// The handle of a connection that is open or closing.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` once it is closing: nothing more is accepted, and the writer sees the end of its queue.
    queue: Option<mpsc::UnboundedSender<Bytes>>,
    /// Cost of what is in the queue or being written; this is what bounds it.
    queued: Arc<AtomicUsize>,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The writer has [`FLUSH`] for the rest of its queue.
    Closing,
    /// Both tasks end now, for this reason.
    Over(String),
}

impl Connection {
    pub(super) fn send(&self, bytes: Bytes) {
        let Some(queue) = &self.queue else { return };
        let cost = bytes.len() + MESSAGE_COST;
        if self.queued.fetch_add(cost, Ordering::Relaxed) + cost > QUEUE_BYTES_MAX {
            self.stop(&format!("the other end does not read: {} MiB wait for it", QUEUE_BYTES_MAX >> 20));
            return;
        }
        // The writer may be gone already; then its reason is on the way to whoever drives.
        let _ = queue.send(bytes);
    }

    /// The cost of what waits for the other end. What is dropped with a connection that is over does not.
    pub(super) fn waiting(&self) -> usize {
        match *self.phase.borrow() {
            Phase::Open | Phase::Closing => self.queued.load(Ordering::Relaxed),
            Phase::Over(_) => 0,
        }
    }

    pub(super) fn close(&mut self) {
        self.queue = None;
        advance(&self.phase, Phase::Closing);
    }

    pub(super) fn stop(&self, reason: &str) {
        advance(&self.phase, Phase::Over(reason.to_owned()));
    }
}

/// Phases only go forward, and the first reason stays.
fn advance(phase: &watch::Sender<Phase>, next: Phase) {
    phase.send_if_modified(|now| {
        let forward = match (&*now, &next) {
            (Phase::Open, Phase::Closing | Phase::Over(_)) | (Phase::Closing, Phase::Over(_)) => true,
            (_, Phase::Open) | (Phase::Closing, Phase::Closing) | (Phase::Over(_), _) => false,
        };
        if forward {
            *now = next;
        }
        forward
    });
}

impl Shared {
    /// Makes a connection of a stream and announces it, which waits for a place among the events.
    pub(super) async fn adopt(
        self: &Arc<Shared>,
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
        announce: impl FnOnce(ConnId) -> Event,
    ) {
        if let Err(error) = tune(&stream) {
            debug!(%error, "socket options not set");
        }
        let conn = self.new_conn();
        let (read_half, write_half) = stream.into_split();
        let (queue, outgoing) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let phase = watch::Sender::new(Phase::Open);
        let connection = Connection { queue: Some(queue), queued: queued.clone(), phase: phase.clone() };
        // Before it is announced: the answer may be a `send`.
        lock(&self.connections).insert(conn, connection);
        if self.events.send(announce(conn)).await.is_err() {
            lock(&self.connections).remove(&conn);
            return;
        }
        tokio::spawn(write(write_half, outgoing, queued, phase.clone()));
        let shared = self.clone();
        tokio::spawn(async move {
            let reason = read(&shared, conn, read_half, &phase).await;
            advance(&phase, Phase::Over(reason.clone()));
            lock(&shared.connections).remove(&conn);
            drop(place);
            // Fails only where nobody listens any more.
            let _ = shared.events.send(Event::Closed(conn, reason)).await;
        });
    }
}

/// Reads until the end, and says why it ended.
async fn read(
    shared: &Shared,
    conn: ConnId,
    mut stream: OwnedReadHalf,
    phase: &watch::Sender<Phase>,
) -> String {
    let mut buffer = BytesMut::new();
    let mut ended = phase.subscribe();
    loop {
        buffer.reserve(READ_BYTES);
        let result = tokio::select! {
            biased;
            reason = over(&mut ended) => return reason,
            result = stream.read_buf(&mut buffer) => result,
        };
        match result {
            Ok(0) => return "closed by the other end".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        let bytes = buffer.split().freeze();
        // Bytes that arrive while we close are read and dropped: left unread they would make
        // the kernel reset the connection, and what is being flushed would be lost.
        if *phase.borrow() != Phase::Open {
            continue;
        }
        tokio::select! {
            biased;
            reason = over(&mut ended) => return reason,
            sent = shared.events.send(Event::Received(conn, bytes)) => {
                if sent.is_err() {
                    return "nobody takes the events".to_owned();
                }
            }
        }
    }
}

/// Writes what is queued until the end, and makes the reader end too.
async fn write(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    queued: Arc<AtomicUsize>,
    phase: watch::Sender<Phase>,
) {
    let mut ended = phase.subscribe();
    let all = async {
        while let Some(bytes) = queue.recv().await {
            stream.write_all(&bytes).await?;
            queued.fetch_sub(bytes.len() + MESSAGE_COST, Ordering::Relaxed);
        }
        stream.shutdown().await
    };
    let reason = tokio::select! {
        result = all => result.map_or_else(|error: io::Error| error.to_string(), |()| "closed".to_owned()),
        () = flush_time_over(&mut ended) => "closed".to_owned(),
    };
    advance(&phase, Phase::Over(reason));
}

/// Waits for the end of the connection; gives its reason.
async fn over(phase: &mut watch::Receiver<Phase>) -> String {
    match phase.wait_for(|phase| matches!(phase, Phase::Over(_))).await.as_deref() {
        Ok(Phase::Over(reason)) => reason.clone(),
        Ok(Phase::Open | Phase::Closing) | Err(_) => "closed".to_owned(),
    }
}

async fn flush_time_over(phase: &mut watch::Receiver<Phase>) {
    let closing = phase.wait_for(|phase| *phase != Phase::Open).await.is_ok_and(|now| *now == Phase::Closing);
    if closing {
        tokio::select! {
            _ = over(phase) => {}
            () = sleep(FLUSH) => {}
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let fd = stream.as_fd();
    setsockopt(&fd, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX)?;
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(&fd, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(())
}
