//! Threads that work on links: each has sockets of its own into the host's namespace and into those of the containers.
//!
//! The kernel works on one link of the host at a time and keeps whoever asks waiting meanwhile, and so may a file system on
//! which a path lies. So nothing of that is done on a thread that has other things to do. Such a thread enters a namespace to make
//! a socket there and comes back; the socket stays, belongs to that namespace and keeps it alive, so none is kept for later.

use std::{
    fs::File,
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};
use rtnetlink::Handle;
use tokio::{
    runtime,
    sync::{Semaphore, SemaphorePermit, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    bound::{self, VISIT, VISITS_MAX},
    fault::{Cause, fault, found},
    netns::{boot_id, cookie, gone, open, refused},
    prompt, sysctl, ways,
};
use crate::state::{Fault, FaultKind, Netns};

/// How much longer than its work a thread is waited for.
const GRACE: Duration = Duration::from_secs(1);

/// Threads that work on links.
pub(super) static FOR_LINKS: Places = Places::of(64);
/// Threads that look where a target leads. It may lead to a file system that does not answer, and holds up no link then.
pub(super) static FOR_TARGETS: Places = Places::of(16);

/// What a thread works with.
pub(super) struct Visitor {
    /// Speaks rtnetlink on the host, and is answered what was asked for only.
    pub host: Handle,
    home: File,
}

/// A namespace that was entered: it can be spoken to, and named to the kernel.
pub(super) struct Inside {
    /// Speaks rtnetlink inside, and is answered what was asked for only.
    pub handle: Handle,
    /// The namespace, by the path it was found at.
    pub netns: Netns,
    file: File,
    /// Ends with this value, whatever the kernel has still to say.
    _connection: Connection,
}

/// The task that carries what is said.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Visitor {
    fn new() -> Result<Visitor, Fault> {
        let cannot = |error: io::Error| fault("connecting to rtnetlink", &error);
        let home = File::open("/proc/thread-self/ns/net").map_err(cannot)?;
        let (connection, host) = prompt::connect().map_err(cannot)?;
        tokio::spawn(connection);
        Ok(Visitor { host, home })
    }

    /// The cookie of the namespace that a path leads to.
    pub fn cookie_of(&self, path: &Path) -> Result<u64, Errno> {
        there_and_back(&open(path)?, &self.home, cookie)
    }

    /// Sets settings of IPv6 of an interface in a namespace that was entered, in their order.
    pub fn set6(&self, inside: &Inside, interface: &str, settings: &[(&str, &str)]) -> Result<(), Fault> {
        let work = || {
            Ok(sysctl::Tree::open().and_then(|tree| {
                let mut settings = settings.iter();
                settings
                    .try_for_each(|(key, value)| tree.set(&format!("net.ipv6.conf.{interface}.{key}"), value))
            }))
        };
        there_and_back(&inside.file, &self.home, work).map_err(|cause| refused(&inside.netns.path, &cause))?
    }

    /// Enters `netns` by its path, or by another way where its path no longer leads to it: the process that it was found by
    /// may have ended, and others live on in it.
    pub fn enter(&self, netns: &Netns) -> Result<Inside, Fault> {
        match self.enter_by_path(netns) {
            Err(fault) if fault.kind == FaultKind::Outdated && *netns.boot == *boot_id() => {
                match ways::to(netns) {
                    Some(path) => self.enter_by_path(&Netns { path: path.into(), ..netns.clone() }),
                    None => Err(fault),
                }
            }
            entered => entered,
        }
    }

    fn enter_by_path(&self, netns: &Netns) -> Result<Inside, Fault> {
        let path: &Path = &netns.path;
        if *netns.boot != *boot_id() {
            return Err(gone(path, "it was of an earlier boot"));
        }
        let file = open(path).map_err(|cause| refused(path, &cause))?;
        let made = there_and_back(&file, &self.home, || {
            let connection = prompt::connect().map_err(|error| error.errno())?;
            Ok((cookie()?, connection))
        });
        let (cookie, (connection, handle)) = made.map_err(|cause| refused(path, &cause))?;
        if cookie != netns.cookie {
            return Err(gone(path, "its path leads to another one now"));
        }
        let netns = netns.clone();
        let _connection = Connection(tokio::spawn(connection));
        Ok(Inside { handle, netns, file, _connection })
    }
}

impl Inside {
    /// The namespace as a file descriptor, good for as long as `self` is.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Does something in the namespace `there`. Where the way back fails the thread is lost, and with it all that it was to do.
fn there_and_back<T>(there: &File, home: &File, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    setns(there.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let done = work();
    setns(home.as_fd(), CloneFlags::CLONE_NEWNET)?;
    done
}

/// What comes of work on a thread of its own, unless it takes longer than `most`.
pub(super) async fn apart<T: Send + 'static>(
    places: &'static Places,
    what: &str,
    most: Duration,
    work: impl AsyncFnOnce(Visitor) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let name = what.to_owned();
    let place = places.wait(most).await.ok_or_else(|| places.all_wait(what))?;
    let ended = spawn(place, what, async move |visitor| bound::within(most, &name, work(visitor)).await)?;
    let ended = bound::within(most + GRACE, what, async { Ok(ended.await) }).await?;
    ended.unwrap_or_else(|_| Err(found(FaultKind::Unreachable, format!("{what}: its thread died"))))
}

fn spawn<T: Send + 'static>(
    place: Place,
    what: &str,
    work: impl AsyncFnOnce(Visitor) -> Result<T, Fault> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, Fault>>, Fault> {
    let (done, ended) = oneshot::channel();
    let live = move || {
        let _place = place;
        let cannot = |error: io::Error| fault("making a runtime", &error);
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let result = runtime
            .map_err(cannot)
            .and_then(|runtime| runtime.block_on(async { work(Visitor::new()?).await }));
        // Nobody waits any more.
        drop(done.send(result));
    };
    let spawned = thread::Builder::new().name("link".into()).spawn(live);
    spawned.map_err(|error| fault(what, &error)).map(|_| ended)
}

/// How many threads there may be for one purpose. One that is kept waiting for ever is left behind, and so many may be.
pub(super) struct Places {
    most: usize,
    free: Semaphore,
}

/// One of them.
type Place = SemaphorePermit<'static>;

impl Places {
    const fn of(most: usize) -> Places {
        Places { most, free: Semaphore::const_new(most) }
    }

    fn take(&'static self) -> Option<Place> {
        self.free.try_acquire().ok()
    }

    /// Waits for one that comes free.
    async fn wait(&'static self, most: Duration) -> Option<Place> {
        timeout(most, self.free.acquire()).await.ok()?.ok()
    }

    fn all_wait(&self, what: &str) -> Fault {
        found(FaultKind::Unreachable, format!("{what}: {} threads wait already", self.most))
    }
}

/// Looks into namespaces, several at the same time, so that one that does not answer holds up no other. Brings what each
/// brought, by its place in `visits`.
pub(super) async fn each<V, T>(
    visits: Vec<V>,
    look: impl for<'a> Fn(&'a Visitor, &'a V) -> Pin<Box<dyn Future<Output = Result<T, Fault>> + 'a>>
    + Copy
    + Send
    + 'static,
) -> Vec<Result<T, Fault>>
where
    V: Send + 'static,
    T: Send + 'static,
{
    const WHAT: &str = "a look into the container";
    let count = visits.len();
    let mut why = found(FaultKind::Unreachable, format!("{WHAT} does not end"));
    let queue = Arc::new(Mutex::new(visits.into_iter().enumerate()));
    let (bring, mut brought) = mpsc::unbounded_channel();
    for _ in 0..count.min(VISITS_MAX) {
        let (queue, bring) = (queue.clone(), bring.clone());
        // Where no more threads may be, those that are there do it all.
        let Some(place) = FOR_LINKS.take() else {
            why = FOR_LINKS.all_wait(WHAT);
            break;
        };
        let visiting = spawn(place, WHAT, async move |visitor| {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((place, visit)) = next else { return Ok(()) };
                let found = bound::within(VISIT, WHAT, look(&visitor, &visit)).await;
                if bring.send((place, found)).is_err() {
                    return Ok(());
                }
            }
        });
        if let Err(fault) = visiting {
            why = fault;
            break;
        }
    }
    drop(bring);
    let mut all: Vec<Result<T, Fault>> = (0..count).map(|_| Err(why.clone())).collect();
    // Where nothing comes for so long, no thread goes on.
    while let Ok(Some((place, found))) = timeout(VISIT + GRACE, brought.recv()).await {
        all[place] = found;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_never_comes_back_holds_places_of_one_purpose_only() {
        static HANGING: Places = Places::of(2);
        static OTHERS: Places = Places::of(1);
        let held: Vec<Option<Place>> = (0..3).map(|_| HANGING.take()).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        assert!(OTHERS.take().is_some());
        drop(held);
        assert!(HANGING.take().is_some(), "whoever comes back gives its place up");
    }
}
