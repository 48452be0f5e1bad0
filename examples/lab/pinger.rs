//! A ping that goes on while other things happen, and what became of it.

use std::{collections::BTreeSet, fmt, process::Output, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, task::JoinHandle};

use crate::lab::Lab;

const INTERVAL: Duration = Duration::from_millis(50);

/// A ping from one container to another, twenty times a second.
pub struct Pinger {
    name: String,
    pid: Pid,
    ended: JoinHandle<std::io::Result<Output>>,
}

/// What a pinger saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who pinged whom.
    pub name: String,
    /// Packets that were sent and should have been answered by now.
    pub sent: usize,
    /// Those of them that were not.
    pub lost: usize,
    /// The longest time without an answer, at least.
    pub gap: Duration,
}

impl Lab {
    /// Starts to ping one container from another.
    pub fn ping_on(&self, from: usize, to: usize) -> anyhow::Result<Pinger> {
        let (from, to) = (&self.containers[from], &self.containers[to]);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", from.netns.display()));
        command.args(["ping", "-n", "-i", &INTERVAL.as_secs_f64().to_string(), &to.address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().context("ping cannot be started")?;
        let pid = Pid::from_raw(child.id().context("ping has ended")?.cast_signed());
        let ended = tokio::spawn(child.wait_with_output());
        Ok(Pinger { name: format!("{} to {}", from.name, to.name), pid, ended })
    }

    /// Starts to ping each of these containers from the one before it.
    pub fn ping_ring(&self, containers: &[usize]) -> anyhow::Result<Vec<Pinger>> {
        let next = containers.iter().cycle().skip(1);
        containers.iter().zip(next).map(|(&from, &to)| self.ping_on(from, to)).collect()
    }
}

impl Pinger {
    /// Stops it.
    pub async fn end(self) -> anyhow::Result<Seen> {
        ensure!(!self.ended.is_finished(), "the ping from {} has ended by itself", self.name);
        // nsenter has become ping.
        kill(self.pid, Signal::SIGINT)?;
        let output = self.ended.await??;
        Ok(seen(self.name, &String::from_utf8_lossy(&output.stdout)))
    }
}

/// Stops them all, and says whether each packet came back.
pub async fn end_without_loss(pingers: Vec<Pinger>) -> anyhow::Result<(usize, Result<(), String>)> {
    let mut sent = 0;
    let mut losers = Vec::new();
    for pinger in pingers {
        let seen = pinger.end().await?;
        sent += seen.sent;
        if seen.lost > 0 || seen.sent == 0 {
            losers.push(seen.to_string());
        }
    }
    Ok((sent, if losers.is_empty() { Ok(()) } else { Err(losers.join("; ")) }))
}

/// What the last packet was is not known: it may have been on its way when ping was stopped. So only
/// those before the last answer count.
fn seen(name: String, text: &str) -> Seen {
    let sequence = |line: &str| line.split_once("icmp_seq=")?.1.split_whitespace().next()?.parse().ok();
    let answered: BTreeSet<usize> =
        text.lines().filter(|line| line.contains("bytes from")).filter_map(sequence).collect();
    let sent = answered.last().copied().unwrap_or_default();
    let ends = answered.iter().zip(answered.iter().skip(1)).map(|(a, b)| b - a - 1);
    let gap = ends.chain(answered.first().map(|first| first - 1)).max().unwrap_or_default();
    Seen { name, sent, lost: sent - answered.len(), gap: INTERVAL * gap as u32 }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { name, sent, lost, gap } = self;
        write!(f, "{name}: {lost} of {sent} lost, {} ms in a row", gap.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_never_came_back_is_lost_and_the_last_one_is_not_held_against_it() {
        let line = |n| format!("64 bytes from 10.32.0.1: icmp_seq={n} ttl=64 time=0.05 ms\n");
        let text: String =
            [1, 2, 5, 6].map(line).concat() + "From 10.0.1.1 icmp_seq=3 Time to live exceeded\n";
        let seen = seen("a to b".into(), &text);
        assert_eq!((seen.sent, seen.lost, seen.gap), (6, 2, 2 * INTERVAL));
    }

    #[test]
    fn a_ping_that_nobody_answers_has_seen_nothing() {
        assert_eq!(seen("a to b".into(), "PING 10.32.0.1\n").sent, 0);
    }
}
