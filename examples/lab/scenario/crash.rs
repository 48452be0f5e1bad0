//! The daemon is killed a hundred times, at any moment, while addresses and containers come and go.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    process::Command,
    sync::RwLock,
    task::JoinHandle,
    time::{sleep, timeout},
};
use weavers::{
    api::{
        ApiRequest,
        client::{ClientError, call},
    },
    node::protocol::request::{Request, Response},
};

use super::{
    basic,
    stage::{Checks, holds, same},
};
use crate::{
    lab::{Container, Lab},
    net,
    pinger::end_without_loss,
    report::Report,
};

const KILLS: usize = 100;
/// A kill comes at any moment of this time after the last.
const CALM_MAX: Duration = Duration::from_millis(250);
/// One kill in so many is followed by another while the daemon starts.
const TWICE_ONE_IN: u32 = 4;
const START_MAX: Duration = Duration::from_millis(80);
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// What a worker waits between two calls.
const PACE: Duration = Duration::from_millis(2);
/// Workers of each host that allocate and free, and names that each of them uses.
const ALLOCATORS: usize = 2;
const NAMES_EACH: usize = 12;
/// Network namespaces of each host that are attached and detached.
const NAMESPACES_EACH: usize = 3;

/// Kills, restarts and compares.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    lab.settle().await?;
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let writes = lab.writes();
    let load = Load::start(lab).await?;
    let restarts = kill_often(lab, &load).await?;
    let book = load.end().await?;

    let mut checks = Checks::default();
    checks.add(
        format!(
            "{KILLS} kills and {} calls: nothing that was acknowledged was lost or given twice",
            book.told
        ),
        holds(book.wrong.is_empty(), || book.wrong.join("\n")),
    );
    checks.add("as many addresses are in use as were acknowledged", no_leaks(lab, &book).await);
    checks.add("no kill has caused a write to EC2", same(&writes, &lab.writes()));
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    checks.add(format!("ready again after {}", spread(restarts)), Ok(()));
    take_containers(lab, &book);
    let pings = lab.ping_all().await?;
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// Kills one host after the other; how long each took to be ready again.
async fn kill_often(lab: &mut Lab, load: &Load) -> anyhow::Result<Vec<Duration>> {
    let mut restarts = Vec::new();
    let mut kills = 0;
    while kills < KILLS {
        sleep(CALM_MAX.mul_f64(rand::random())).await;
        let host = rand::random_range(0..lab.hosts.len());
        lab.hosts[host].check_alive()?;
        lab.kill_host(host).await?;
        kills += 1;
        // Whoever was cut off has let go of its lock.
        let _calm = load.gates[host].write().await;
        while kills < KILLS && rand::random_range(0..TWICE_ONE_IN) == 0 {
            lab.start_host(host)?;
            sleep(START_MAX.mul_f64(rand::random())).await;
            lab.hosts[host].check_alive()?;
            lab.kill_host(host).await?;
            kills += 1;
        }
        let start = Instant::now();
        lab.start_host(host)?;
        await_ready(lab, host, &load.sockets[host]).await?;
        restarts.push(start.elapsed());
        load.audit(host).await?;
    }
    Ok(restarts)
}

async fn await_ready(lab: &mut Lab, host: usize, socket: &Path) -> anyhow::Result<()> {
    let waiting = async {
        loop {
            lab.hosts[host].check_alive()?;
            match ask(socket, ApiRequest::Node(Request::AwaitReady)).await {
                Ok(_) => return Ok(()),
                Err(ClientError::Unreachable { .. } | ClientError::Garbled(_)) => {
                    sleep(Duration::from_millis(5)).await;
                }
                Err(other) => return Err(anyhow::Error::from(other)),
            }
        }
    };
    let waited = timeout(RESTART_TIMEOUT, waiting).await;
    waited.with_context(|| format!("h{} is not ready again after {RESTART_TIMEOUT:?}", host + 1))?
}

async fn no_leaks(lab: &Lab, book: &Book) -> Result<(), String> {
    for (host, named) in lab.hosts.iter().enumerate() {
        let status = lab.status(host).await.map_err(|error| format!("{error:#}"))?;
        let used = status.pointer("/ipam/used").and_then(serde_json::Value::as_u64);
        let base = lab.containers.iter().filter(|container| container.host == host).count();
        let held = book.pages.iter().filter(|((at, _), _)| *at == host).count();
        same(&Some((base + held) as u64), &used).map_err(|error| format!("{}: {error}", named.name))?;
    }
    Ok(())
}

/// Those that are attached at the end join the lab's containers.
fn take_containers(lab: &mut Lab, book: &Book) {
    for ((host, ident), page) in &book.pages {
        if let Page::Held(address) = page
            && Path::new("/run/netns").join(ident).exists()
        {
            let netns = Path::new("/run/netns").join(ident);
            lab.containers.push(Container { name: ident.clone(), host: *host, netns, address: *address });
        }
    }
}

/// How long things took: the median, and the ends.
pub fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Option<&Duration>| time.copied().unwrap_or_default().as_millis();
    let (median, first, last) = (ms(times.get(times.len() / 2)), ms(times.first()), ms(times.last()));
    format!("{median} ms in the median of {}, from {first} to {last} ms", times.len())
}

// ===== the load =====

/// Workers on every host, and the book of what they were told.
struct Load {
    sockets: Vec<PathBuf>,
    /// Held to read while a worker waits for an answer, to write while the host restarts.
    gates: Vec<Arc<RwLock<()>>>,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

/// What the daemons have acknowledged, by host and name.
#[derive(Clone, Default)]
struct Book {
    pages: BTreeMap<(usize, String), Page>,
    /// Answers so far.
    told: u64,
    wrong: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    /// Asked for, no answer yet.
    Asked,
    /// Acknowledged.
    Held(Ipv4Addr),
    /// Given back, no answer yet.
    Freeing(Ipv4Addr),
}

struct Worker {
    host: usize,
    socket: PathBuf,
    gate: Arc<RwLock<()>>,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn start(lab: &Lab) -> anyhow::Result<Load> {
        let mut load = Load {
            sockets: Vec::new(),
            gates: Vec::new(),
            book: Arc::default(),
            stop: Arc::default(),
            workers: Vec::new(),
        };
        for host in 0..lab.hosts.len() {
            let (socket, gate) = (lab.hosts[host].socket()?, Arc::new(RwLock::new(())));
            let worker = || Worker {
                host,
                socket: socket.clone(),
                gate: gate.clone(),
                book: load.book.clone(),
                stop: load.stop.clone(),
            };
            for number in 0..ALLOCATORS {
                load.workers.push(tokio::spawn(worker().allocate_and_free(number)));
            }
            for number in 0..NAMESPACES_EACH {
                let name = format!("{}x{number}", lab.hosts[host].name);
                net::run(Command::new("ip").args(["netns", "add", &name])).await?;
                load.workers.push(tokio::spawn(worker().attach_and_detach(name)));
            }
            load.sockets.push(socket);
            load.gates.push(gate);
        }
        Ok(load)
    }

    /// After a restart: every acknowledged address is there, and what was cut off is one or the other.
    async fn audit(&self, host: usize) -> anyhow::Result<()> {
        let pages: Vec<(String, Page)> = {
            let book = lock(&self.book);
            let own = book.pages.iter().filter(|((at, _), _)| *at == host);
            own.map(|((_, ident), page)| (ident.clone(), *page)).collect()
        };
        for (ident, page) in pages {
            let lookup = Request::Lookup { ident: ident.clone() };
            let found = match ask(&self.sockets[host], ApiRequest::Node(lookup)).await? {
                Response::Addresses(addresses) => addresses.first().map(|address| address.addr()),
                other => bail!("lookup was answered with {other:?}"),
            };
            lock(&self.book).audit(host, &ident, page, found);
        }
        Ok(())
    }

    async fn end(self) -> anyhow::Result<Book> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await?;
        }
        let book = lock(&self.book).clone();
        Ok(book)
    }
}

impl Worker {
    async fn allocate_and_free(self, number: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let ident = format!("w{number}-{}", rand::random_range(0..NAMES_EACH));
            let allocate = Request::Allocate { ident: ident.clone(), subnet: None };
            let free = Request::Free { ident: ident.clone(), address: None };
            self.turn(&ident, ApiRequest::Node(allocate), ApiRequest::Node(free)).await;
        }
    }

    async fn attach_and_detach(self, name: String) {
        let target = format!("/run/netns/{name}");
        while !self.stop.load(Ordering::Relaxed) {
            let attach =
                ApiRequest::AttachTarget { target: target.clone(), name: Some(name.clone()), subnet: None };
            let detach = ApiRequest::DetachTarget { target: target.clone() };
            self.turn(&name, attach, detach).await;
        }
    }

    /// Takes what this name does not have, or gives back what it has.
    async fn turn(&self, ident: &str, take: ApiRequest, give: ApiRequest) {
        let open = self.gate.read().await;
        let key = (self.host, ident.to_owned());
        let before = lock(&self.book).pages.get(&key).copied();
        let (page, request) = match before {
            None => (Page::Asked, take),
            Some(Page::Held(address)) => (Page::Freeing(address), give),
            // Cut off by a kill: the audit after the restart settles it.
            Some(Page::Asked | Page::Freeing(_)) => return sleep(PACE).await,
        };
        lock(&self.book).pages.insert(key, page);
        let answer = ask(&self.socket, request).await;
        lock(&self.book).hear(self.host, ident, answer);
        drop(open);
        sleep(PACE).await;
    }
}

impl Book {
    fn hear(&mut self, host: usize, ident: &str, answer: Result<Response, ClientError>) {
        let key = (host, ident.to_owned());
        let address = match answer {
            // The daemon was killed.
            Err(ClientError::Unreachable { .. } | ClientError::Garbled(_)) => return,
            Err(error @ (ClientError::Refused(_) | ClientError::Late(_))) => {
                return self.wrong.push(format!("h{} {ident}: {error}", host + 1));
            }
            Ok(Response::Attached { address, .. }) => Some(address),
            Ok(Response::Addresses(addresses)) => addresses.first().copied(),
            Ok(_) => None,
        };
        self.told += 1;
        match (self.pages.get(&key), address) {
            (Some(Page::Asked), Some(address)) => self.hold(host, ident, address.addr()),
            (Some(Page::Freeing(_)), _) => drop(self.pages.remove(&key)),
            (page, address) => {
                self.wrong.push(format!("h{} {ident}: {page:?} was answered with {address:?}", host + 1));
            }
        }
    }

    fn hold(&mut self, host: usize, ident: &str, address: Ipv4Addr) {
        let taken = self.pages.iter().find(|(_, page)| **page == Page::Held(address));
        if let Some(((other, holder), _)) = taken {
            self.wrong.push(format!(
                "{address} was given to h{} {ident} while h{} {holder} holds it",
                host + 1,
                other + 1
            ));
        }
        self.pages.insert((host, ident.to_owned()), Page::Held(address));
    }

    fn audit(&mut self, host: usize, ident: &str, page: Page, found: Option<Ipv4Addr>) {
        let key = (host, ident.to_owned());
        match (page, found) {
            (Page::Held(was), Some(is)) if was == is => {}
            (Page::Asked, None) | (Page::Freeing(_), None) => drop(self.pages.remove(&key)),
            (Page::Asked, Some(address)) => self.hold(host, ident, address),
            (Page::Freeing(was), Some(is)) if was == is => self.hold(host, ident, is),
            (Page::Held(_) | Page::Freeing(_), _) => {
                self.wrong.push(format!("h{} {ident}: {page:?} before the kill, {found:?} after", host + 1));
                self.pages.remove(&key);
            }
        }
    }
}

async fn ask(socket: &Path, request: ApiRequest) -> Result<Response, ClientError> {
    call(socket, &request, CALL_TIMEOUT).await
}

/// A panic elsewhere leaves the book as it was written.
fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
