//! What is measured, and where it is read over TCP.

use std::{
    fs,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::unistd::{SysconfVar, sysconf};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{info, warn};

use crate::{
    api::{scrape, server::Call},
    metrics::{Metrics, Process},
};

/// What is counted, and the listener.
pub(super) struct Measured {
    pub metrics: Metrics,
    calls: mpsc::Sender<Call>,
    began_s: f64,
    door: Option<(SocketAddr, JoinHandle<()>)>,
    /// Why nobody listens, as it was last said.
    said: Option<String>,
}

impl Measured {
    pub(super) fn new(metrics: Metrics, calls: mpsc::Sender<Call>) -> Measured {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Measured { metrics, calls, began_s: began.as_secs_f64(), door: None, said: None }
    }

    /// Listens where it is to, and nowhere else. Where it cannot it is tried again from time to time.
    pub(super) fn keep(&mut self, listen: Option<SocketAddr>) {
        if self.door.as_ref().map(|(at, _)| *at) == listen {
            return;
        }
        if let Some((_, serving)) = self.door.take() {
            serving.abort();
        }
        let Some(at) = listen else { return self.said = None };
        match scrape::bind(at) {
            Ok(listener) => {
                info!(%at, "metrics are read here");
                self.door = Some((at, tokio::spawn(scrape::serve(listener, self.calls.clone()))));
                self.said = None;
            }
            Err(error) => {
                let error = error.to_string();
                if self.said.as_ref() != Some(&error) {
                    warn!(%at, error, "[metrics] listen: nobody can read there");
                    self.said = Some(error);
                }
            }
        }
    }

    /// What this process takes of the machine; 0 where the kernel does not say.
    pub(super) fn process(&self) -> Process {
        let per_second = constant(SysconfVar::CLK_TCK).unwrap_or(100);
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, in brackets, may hold anything.
        let fields: Vec<u64> = stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| {
            rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
        });
        let field = |at: usize| fields.get(at).copied().unwrap_or(0);
        Process {
            started_s: self.began_s,
            cpu_s: (field(UTIME) + field(STIME)) as f64 / per_second as f64,
            resident: field(RSS) * constant(SysconfVar::PAGE_SIZE).unwrap_or(4096),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64),
        }
    }
}

/// Where fields of /proc/PID/stat stand after the state: proc_pid_stat(5) counts utime as 14.
const UTIME: usize = 10;
const STIME: usize = 11;
const RSS: usize = 20;

fn constant(of: SysconfVar) -> Option<u64> {
    sysconf(of).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0)
}
