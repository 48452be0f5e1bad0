//! A host and its containers: network namespaces on threads, gone with them.

use std::{
    fs,
    future::Future,
    net::UdpSocket,
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use ipnet::Ipv4Net;
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::socket::SetSockOpt,
    unistd::{getegid, geteuid, getpid, gettid},
};
use weavers::{
    addr::Address,
    kernel::{Kernel, target, watch::Changes},
    state::{Far, Fault, Host, HostAction, Link, Netns, Rules, Scope},
};

/// Where no answer is the answer, waiting for it takes this long.
pub const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy)]
struct MtuDiscover;

nix::setsockopt_impl!(
    MtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<libc::c_int>
);

/// Becomes root of a user namespace, with a network of its own. Only a process of one thread can.
pub fn become_root() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("user namespaces are not allowed here ({error}); allow them: sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"))?;
    fs::write("/proc/self/setgroups", "deny").map_err(|error| format!("setgroups: {error}"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(|error| format!("uid_map: {error}"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(|error| format!("gid_map: {error}"))?;
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        Command::new(tool)
            .arg("-V")
            .output()
            .map_err(|_| format!("`{tool}` is missing: apt-get install {package}"))?;
    }
    Ok(())
}

/// Runs a story on a host of its own: its thread's network namespace.
pub fn on_a_host<F: Future<Output = ()> + 'static>(story: fn(World) -> F) {
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("namespaces are allowed, as main has seen");
        sh("ip link set lo up && ip addr add 10.0.1.11/32 dev lo");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { story(World::new().await).await });
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs shell commands in the calling thread's namespace.
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace that lives as long as this does.
pub struct Container {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    pub netns: Netns,
}

impl Container {
    pub fn new() -> Container {
        let (work, orders) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(format!("/proc/{}/task/{}/ns/net", getpid(), gettid())).unwrap();
            orders.into_iter().for_each(|work| work());
        });
        let netns = target::of_target(&told.recv().unwrap()).unwrap();
        Container { work: Some(work), thread: Some(thread), netns }
    }

    /// The thread in which it lives, as `ip` takes it for a namespace.
    pub fn task(&self) -> String {
        let path = self.netns.path.to_string_lossy().replace("/ns/net", "");
        path.rsplit_once('/').unwrap().1.to_owned()
    }

    /// Does something inside.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let work: Work = Box::new(move || done.send(work()).unwrap());
        self.work.as_ref().unwrap().send(work).unwrap();
        result.recv().expect("what ran inside did not panic")
    }

    pub fn sh(&self, script: &'static str) -> String {
        self.run(move || sh(script))
    }

    /// A socket inside, which neither waits long nor lets its packets be cut to pieces.
    pub fn udp(&self, address: &str) -> UdpSocket {
        let address = address.to_owned();
        self.run(move || udp(&address))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.work.take();
        self.thread.take().map(JoinHandle::join);
    }
}

/// Gives the host, 10.0.1.12, an uplink to `router`, 10.0.1.1, and a default route that leads there.
pub fn uplink(router: &Container) {
    sh(&format!("ip link add eth0 type veth peer name vh1 netns {}", router.task()));
    sh("ip link set eth0 up; ip addr add 10.0.1.12/24 dev eth0");
    router.sh("ip link set lo up; ip link set vh1 up; ip addr add 10.0.1.1/24 dev vh1; ip route add 10.32.0.0/12 via 10.0.1.12");
    sh("ip route add default via 10.0.1.1");
}

pub fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    MtuDiscover.set(&socket, &libc::IP_PMTUDISC_DO).unwrap();
    socket
}

/// Whether a packet of `len` bytes, headers included, arrives as it was sent.
pub fn crosses(from: &UdpSocket, to: &UdpSocket, len: usize) -> bool {
    let sent = vec![7; len - 28];
    let mut received = vec![0; len];
    from.send_to(&sent, to.local_addr().unwrap()).is_ok_and(|_| {
        to.recv_from(&mut received)
            .is_ok_and(|(n, source)| received[..n] == sent && source == from.local_addr().unwrap())
    })
}

/// A host, and what it should be.
pub struct World {
    pub kernel: Kernel,
    pub wanted: Host,
}

impl World {
    async fn new() -> World {
        let mut world = World { kernel: Kernel::new(Changes::default()).unwrap(), wanted: Host::default() };
        world.sysctl("net.ipv4.ip_forward", "1").await;
        world
    }

    pub async fn sysctl(&mut self, name: &str, value: &str) {
        self.apply(HostAction::SetSysctl { name: name.into(), value: value.into() }).await;
        self.wanted.sysctls.insert(name.into(), value.into());
    }

    pub async fn apply(&mut self, action: HostAction) {
        self.kernel.apply(&action).await.unwrap_or_else(|fault| panic!("{action:?}: {fault}"));
    }

    pub async fn refused(&mut self, action: HostAction) -> Fault {
        self.kernel.apply(&action).await.expect_err("it is refused")
    }

    pub async fn observe(&mut self) -> Host {
        self.kernel.observe(&self.wanted, Scope::Whole).await.unwrap()
    }

    /// Faults of one link, as observed.
    pub async fn faults(&mut self, address: &str) -> Vec<String> {
        self.observe().await.links[&at(address)].faults.clone()
    }

    /// Wants a link and makes it.
    pub async fn attach(&mut self, container: &Container, address: &str, mtu: u32) {
        self.want(container, address, mtu);
        self.apply(create(container, address, mtu)).await;
    }

    pub fn want(&mut self, container: &Container, address: &str, mtu: u32) {
        let link = Link { netns: Some(container.netns.clone()), mtu, range: range(), ..Link::default() };
        self.wanted.links_mut().insert(at(address), link.into());
    }

    /// Wants rules and puts them in force, for uplinks that are there.
    pub async fn load_rules(&mut self, rules: Rules) {
        for uplink in &rules.uplinks {
            sh(&format!(
                "ip link show dev {uplink} >/dev/null 2>&1 || ip link add name {uplink} type bridge"
            ));
        }
        self.wanted.rules = Some(rules.clone());
        self.apply(HostAction::LoadRules(rules)).await;
    }
}

pub fn create(container: &Container, address: &str, mtu: u32) -> HostAction {
    create_as(&Far::default(), container, address, mtu)
}

/// Makes a link whose far end is of this kind.
pub fn create_as(far: &Far, container: &Container, address: &str, mtu: u32) -> HostAction {
    let (netns, far) = (container.netns.clone(), far.clone());
    HostAction::CreateLink { address: at(address), netns, mtu, range: range(), prefix: None, far }
}

pub fn mend(container: &Container, address: &str, mtu: u32) -> HostAction {
    let (netns, far) = (container.netns.clone(), Far::default());
    HostAction::MendLink { address: at(address), netns, mtu, range: range(), prefix: None, far }
}

pub fn range() -> Ipv4Net {
    "10.32.0.0/12".parse().unwrap()
}

pub fn at(address: &str) -> Address {
    address.parse().unwrap()
}

pub fn rules() -> Rules {
    Rules {
        range: range(),
        prefix: None,
        uplinks: ["eth0".to_owned()].into(),
        mesh_port: 6783,
        metrics_port: None,
        block_metadata: true,
        isolation: Box::default(),
        encrypted: Default::default(),
        tunnel_source: None,
    }
}
