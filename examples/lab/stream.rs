//! How TCP goes from one network namespace to another: how much in a second, and how long there and back.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::net::{TCP_TIMEOUT, inside, limit};

/// How long is sent.
const SENT_FOR: Duration = Duration::from_secs(1);
/// What is handed to the kernel at once.
const CHUNK_LEN: usize = 256 << 10;
/// Bytes that go there and back one after the other, of which the median is told.
const ROUNDS: usize = 4000;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// 10⁹ bits a second.
    pub gbit: f64,
    /// Microseconds that a byte takes there and back, the median.
    pub round_us: f64,
}

/// Measures from one namespace to an address of another. How long a byte takes depends mostly on whether it wakes another processor; so
/// both ends of that are on one, and each end of what is sent has one of its own.
pub async fn measure(from: &Path, to: &Path, address: Ipv4Addr) -> anyhow::Result<Speed> {
    let last = thread::available_parallelism()?.get() - 1;
    let round_us = between([0, 0], (from, to, address), answer, rounds).await?.as_secs_f64() * 1e6;
    let sent = between([0, last], (from, to, address), swallow, send).await?;
    Ok(Speed { gbit: sent.0 as f64 * 8.0 / sent.1.as_secs_f64() / 1e9, round_us })
}

/// Connects the two, and lets each do its part, on these processors; what the caller's came to.
async fn between<T: Send + 'static>(
    [calls, serves]: [usize; 2],
    (from, to, address): (&Path, &Path, Ipv4Addr),
    server: fn(TcpStream) -> anyhow::Result<()>,
    client: fn(TcpStream) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let listener = inside(to, move || Ok(TcpListener::bind((address, 0))?)).await?;
    let port = listener.local_addr()?.port();
    let served = inside(to, move || {
        stay_on(serves)?;
        server(ready(listener.accept()?.0)?)
    });
    let called = inside(from, move || {
        stay_on(calls)?;
        client(ready(TcpStream::connect_timeout(&(address, port).into(), TCP_TIMEOUT)?)?)
    });
    Ok(tokio::try_join!(served, called)?.1)
}

/// Keeps this thread on a processor.
fn stay_on(processor: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn ready(stream: TcpStream) -> anyhow::Result<TcpStream> {
    stream.set_nodelay(true)?;
    limit(&stream)?;
    Ok(stream)
}

/// Sends each byte back.
fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn rounds(mut stream: TcpStream) -> anyhow::Result<Duration> {
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let (begun, mut byte) = (Instant::now(), [7]);
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        took.push(begun.elapsed());
    }
    took.sort();
    Ok(took[took.len() / 2])
}

/// Takes all, and says that it is there.
fn swallow(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut chunk = vec![0; CHUNK_LEN];
    while stream.read(&mut chunk)? > 0 {}
    Ok(stream.write_all(&[0])?)
}

/// Sends for a while; how much, and how long it took until all was there.
fn send(mut stream: TcpStream) -> anyhow::Result<(usize, Duration)> {
    let (begun, chunk, mut sent) = (Instant::now(), vec![0; CHUNK_LEN], 0);
    while begun.elapsed() < SENT_FOR {
        stream.write_all(&chunk)?;
        sent += chunk.len();
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut byte = [0];
    ensure!(stream.read(&mut byte)? == 1, "the receiver has not said that all is there");
    Ok((sent, begun.elapsed()))
}
