//! Something between two peers: it lets them speak version 1 only, or falls silent.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
};

/// A wire: whoever dials its address is connected to its far end.
pub struct Wire {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Wire {
    /// A wire that changes nothing.
    pub fn to(far: SocketAddr) -> Wire {
        Wire::lay(far, false)
    }

    /// A wire on which each end believes that the other speaks version 1 at most.
    pub fn of_version_1(far: SocketAddr) -> Wire {
        Wire::lay(far, true)
    }

    /// From now on bytes are lost without a word, in both directions.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    fn lay(far: SocketAddr, only_version_1: bool) -> Wire {
        let address = super::free_address();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        let listener = super::runtime().block_on(TcpListener::bind(address)).unwrap();
        super::runtime().spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(far).await else { continue };
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(from_near, to_far, only_version_1, is_cut.clone()));
                tokio::spawn(carry(from_far, to_near, only_version_1, is_cut.clone()));
            }
        });
        Wire { address, cut }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, only_version_1: bool, cut: Arc<AtomicBool>) {
    let mut header = [0; 7];
    if from.read_exact(&mut header).await.is_err() {
        return;
    }
    if only_version_1 {
        header[6] = 1;
    }
    let mut bytes = header.to_vec();
    loop {
        if !cut.load(Ordering::Relaxed) && to.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        // The end is passed on by dropping both halves.
        if !matches!(from.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}
