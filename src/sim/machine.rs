//! One host: its power, its process, its kernel, its disk.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{cloud::Cloud, kernel::Kernel};
use crate::{
    config::Config,
    ipam::{
        Record,
        paxos::{NodeClaims, NodeId},
    },
    node::{
        Birth, Input, Node,
        persist::{
            ledger::SaveId,
            memory::{Identity, Memory, Write},
        },
    },
    peer::{PeerName, PeerUid},
    state::{Netns, TunnelKey},
    time::Timestamp,
};

/// How far a host is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs, with or without the daemon.
    On,
    /// It does not, and may come back.
    Off,
    /// It never comes back.
    Terminated,
}

/// One host.
pub struct Machine {
    pub name: PeerName,
    pub address: SocketAddr,
    pub config: Config,
    pub power: Power,
    pub node: Option<Node>,
    /// Grows with each start of the process; what was meant for another is void.
    pub life: u32,
    pub clock: Clock,
    /// Who it is in the election.
    pub acceptor: NodeId,
    pub kernel: Kernel,
    pub cloud: Cloud,
    pub disk: Disk,
    /// The namespace of its canary.
    canary: Option<u64>,
    pub until: Until,
    /// Its disk was set back, and names users that nobody has told it yet are gone.
    pub untidy: bool,
}

/// The time of one process.
#[derive(Debug, Default)]
pub struct Clock {
    born: Timestamp,
    /// How far it has jumped ahead since.
    ahead: Duration,
    /// When the node is woken next.
    pub wake: Option<Timestamp>,
    /// How often it was woken since this moment.
    pub wakes: (Timestamp, u32),
}

/// Where a host keeps what survives its process.
#[derive(Debug, Default)]
pub struct Disk {
    /// What is on it.
    pub now: BTreeMap<String, Vec<u8>>,
    /// It as somebody copied it.
    pub copy: Option<BTreeMap<String, Vec<u8>>>,
    /// The save that is under way.
    pub saving: Option<(SaveId, Vec<Write>)>,
}

/// How long a host is to be left alone with what befell it.
#[derive(Debug, Default)]
pub struct Until {
    /// Nobody asks it for anything before this.
    pub calm: Timestamp,
    /// It was taken for dead, or its disk was set back, and it need not know before this.
    pub unaware: Timestamp,
    /// Its process gets no turn before this.
    pub frozen: Timestamp,
    /// Nothing can be saved before this.
    pub disk_full: Timestamp,
}

impl Machine {
    /// A host that was just switched on, without a process.
    pub fn new(
        name: PeerName,
        address: SocketAddr,
        config: Config,
        cloud: Cloud,
        network: Ipv4Net,
    ) -> Machine {
        Machine {
            name,
            address,
            config,
            power: Power::On,
            node: None,
            life: 0,
            clock: Clock::default(),
            acceptor: NodeId::default(),
            kernel: Kernel::new(network),
            cloud,
            disk: Disk::default(),
            canary: None,
            until: Until::default(),
            untidy: false,
        }
    }

    /// Starts the process with what is on disk; the text says why it cannot. A store that cannot be read
    /// is set aside.
    pub fn start(&mut self, now: Timestamp, acceptor: u64, uid: u64, seed: u64) -> Result<(), String> {
        let memory = Memory::read(&self.disk.now).unwrap_or_else(|_| {
            self.disk.now.clear();
            Memory::default()
        });
        let memory = Memory { recalled_s: now.since(Timestamp::ZERO).as_secs(), ..memory };
        let identity = memory.identity.clone().unwrap_or_else(|| Identity {
            name: self.name,
            acceptor: PeerUid(acceptor),
            instance: self.is_on_ec2().then(|| self.cloud.instance.0.clone()),
        });
        self.acceptor = NodeId { name: identity.name, uid: identity.acceptor.0 };
        let birth = Birth {
            identity,
            uid: PeerUid(uid),
            nickname: format!("host-{}", self.address.ip()),
            password: None,
            boot: self.kernel.boot(),
            seed,
        };
        self.clock.born = now;
        self.clock.ahead = Duration::ZERO;
        self.life += 1;
        self.clock.wake = None;
        self.disk.saving = None;
        self.cloud.restart();
        let node = Node::new(Timestamp::ZERO, birth, self.config.clone(), memory);
        let mut node = node.map_err(|refusal| refusal.message)?;
        if self.is_on_ec2() {
            node.handle(Timestamp::ZERO, Input::Identified(self.cloud.metadata()));
        }
        if self.config.paths.tunnel {
            node.handle(Timestamp::ZERO, Input::Keyed(self.tunnel_key()));
        }
        self.node = Some(node);
        Ok(())
    }

    /// What others know its end of tunnels by.
    pub fn tunnel_key(&self) -> TunnelKey {
        let mut key = [1; 32];
        key[..8].copy_from_slice(&self.name.as_u64().to_be_bytes());
        TunnelKey(key)
    }

    /// Whether it is an instance.
    pub fn is_on_ec2(&self) -> bool {
        self.config.is_on_ec2()
    }

    /// Whether another host is on its link.
    pub fn shares_link(&self, other: &Machine) -> bool {
        self.is_on_ec2() == other.is_on_ec2()
            && self.kernel.network().contains(&other.kernel.network().addr())
    }

    /// The process ends. A save that was under way is whole or not there.
    pub fn stop(&mut self, saved: bool) {
        self.node = None;
        self.drop_canary();
        self.life += 1;
        self.clock.wake = None;
        self.until.frozen = Timestamp::ZERO;
        let saving = self.disk.saving.take();
        if let Some((_, writes)) = saving.filter(|_| saved) {
            self.write(writes);
        }
    }

    /// The process gets no turn for a while. If the machine sleeps, its clock stands still.
    pub fn freeze(&mut self, now: Timestamp, lasts: Duration, asleep: bool) {
        let thaw = (now + lasts).max(self.until.frozen);
        if asleep {
            // While it is frozen anyway its clock does not stand still for a second time: it never goes back.
            self.clock.born += thaw.since(self.until.frozen.max(now));
        }
        self.until.frozen = thaw;
    }

    /// The clock leaps, as that of a machine does whose sleep it counts.
    pub fn jump_clock(&mut self, ahead: Duration) {
        self.clock.ahead += ahead;
    }

    /// A namespace that lasts as long as the process.
    pub fn make_canary(&mut self, cookie: u64) -> Netns {
        self.drop_canary();
        // Those of containers are numbered from the other end.
        let cookie = u64::MAX - cookie;
        self.canary = Some(cookie);
        self.kernel.make_namespace(cookie)
    }

    /// It is gone, and its link with it.
    pub fn drop_canary(&mut self) {
        if let Some(cookie) = self.canary.take() {
            self.kernel.drop_namespace(cookie);
        }
    }

    /// The address that a sound link leads from into the canary's namespace.
    pub fn canary_address(&self) -> Option<Ipv4Addr> {
        let cookie = self.canary?;
        let linked = self.kernel.linked().into_iter().find(|address| self.kernel.leads(*address, cookie));
        linked.map(Ipv4Addr::from)
    }

    /// Half of every record is lost.
    pub fn tear_store(&mut self) {
        for value in self.disk.now.values_mut() {
            value.truncate(value.len() / 2);
        }
    }

    /// Whether the disk has a ring.
    pub fn keeps_ring(&self) -> bool {
        Memory::read(&self.disk.now).is_ok_and(|memory| memory.ipam.ring.is_some())
    }

    /// What it has promised and accepted, as the disk has it.
    pub fn saved_claims(&self) -> NodeClaims {
        let Write { key, .. } = Write::ipam(&Record::Paxos(NodeClaims::default()));
        self.disk.now.get(&key).and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default()
    }

    /// Changes the disk.
    pub fn write(&mut self, writes: Vec<Write>) {
        for Write { key, value } in writes {
            match value {
                Some(value) => drop(self.disk.now.insert(key, value)),
                None => drop(self.disk.now.remove(&key)),
            }
        }
    }

    /// The process's own time.
    pub fn local(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_micros(now.as_micros().saturating_sub(self.clock.born.as_micros())) + self.clock.ahead
    }

    /// A moment of the process's time in that of the world.
    pub fn world(&self, local: Timestamp) -> Timestamp {
        let since = local.since(Timestamp::ZERO + self.clock.ahead);
        self.clock.born + since
    }
}
