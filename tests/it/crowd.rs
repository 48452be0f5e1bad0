//! Some hosts in memory that share a route table, and somebody among them who says what he likes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::Ipv4Net;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use weavers::{
    addr::{Address, Range},
    config,
    ipam::{Ring, message::State, ring::Entry},
    mesh::{self, ConnId, Mesh, OVERLAY, Recipients, Settings},
    node::{
        Birth, Input, Node, Output,
        persist::{
            ledger::SaveFault,
            memory::{Identity, Memory},
        },
        protocol::request::{Pool, Refusal, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::{
        self, Action, Ec2Action, Fault, HostAction, InstanceState, InterfaceId, Link, Route, RouteState,
        Table, TableId, Target, Vpc,
    },
    time::Timestamp,
};

/// The intruder's name, which is lower than any host's.
pub const LOW: PeerName = PeerName::from_u64(1);
/// What he calls himself: an order to the service manager, and one to the terminal.
const NASTY: &str = "intruder\u{202e}\nMAINPID=1\x1b[2J";
const CHANNEL: &str = "IPallocation";

/// Hosts that talk to each other.
pub struct Crowd {
    pub hosts: Vec<Host>,
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// Routes that were written.
    pub writes: usize,
    intruder: Option<Mesh>,
    now: Timestamp,
    wires: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    queue: VecDeque<(usize, mesh::Input)>,
    conns: u64,
}

/// One of them.
pub struct Host {
    pub name: PeerName,
    pub node: Node,
    /// What becomes of a save.
    pub disk: Result<(), SaveFault>,
    /// What was saved.
    pub saved: BTreeMap<String, Vec<u8>>,
    pub links: BTreeMap<Address, Link>,
    /// Where a look finds the namespaces that their paths do not lead to any more.
    pub found_at: Option<PathBuf>,
    /// Why no link can be made.
    pub refuses: Option<Fault>,
    pub answers: BTreeMap<RequestId, Result<Response, Refusal>>,
    /// What its log tells.
    pub told: Vec<String>,
    /// Why the VPC cannot be read.
    pub unread: Option<Fault>,
    /// Of which instances it asked for the subnets last.
    pub places: BTreeSet<Ipv4Addr>,
    asked: u64,
}

impl Crowd {
    /// Hosts that share the range from the start, in equal parts, and are connected with each other.
    pub fn of(number: usize) -> Crowd {
        Crowd::remembering(number, |_| BTreeMap::new())
    }

    /// The same, each with what is on its disk.
    pub fn remembering(number: usize, disk: impl Fn(PeerName) -> BTreeMap<String, Vec<u8>>) -> Crowd {
        Crowd::joined(number, disk, |_, _| true)
    }

    /// The same, with connections between some of them.
    pub fn joined(
        number: usize,
        disk: impl Fn(PeerName) -> BTreeMap<String, Vec<u8>>,
        are_connected: impl Fn(usize, usize) -> bool,
    ) -> Crowd {
        let names: Vec<PeerName> = (2..).take(number).map(PeerName::from_u64).collect();
        let hosts = names.iter().map(|&name| Host::new(name, &names, disk(name))).collect();
        let mut crowd = Crowd {
            hosts,
            routes: BTreeMap::new(),
            writes: 0,
            intruder: None,
            now: Timestamp::ZERO,
            wires: BTreeMap::new(),
            queue: VecDeque::new(),
            conns: 0,
        };
        for one in 0..number {
            crowd.carry_out(one);
            (0..one).filter(|other| are_connected(one, *other)).for_each(|other| crowd.connect(one, other));
        }
        crowd.pass(5);
        crowd
    }

    /// Lets time go by.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for host in 0..self.hosts.len() {
                self.tell(host, Input::Woken);
            }
            if let Some(intruder) = &mut self.intruder {
                intruder.handle(self.now, mesh::Input::Woken);
            }
            self.talk();
        }
    }

    /// A host adopts a configuration with these lines about the VPC.
    pub fn reconfigure(&mut self, host: usize, vpc: &str) {
        let text = format!("[ipam]\nrange = '10.32.0.0/12'\n[vpc]\n{vpc}\n");
        self.hosts[host].asked += 1;
        let id = RequestId(self.hosts[host].asked);
        self.tell(host, Input::Configured(id, Box::new(config::parse(&text).unwrap())));
    }

    /// Asks a host, and waits for the answer for so long.
    pub fn ask(&mut self, host: usize, request: Request, seconds: u64) -> Option<Result<Response, Refusal>> {
        self.hosts[host].asked += 1;
        let id = RequestId(self.hosts[host].asked);
        self.tell(host, Input::Asked(id, request));
        for _ in 0..seconds {
            if self.hosts[host].answers.contains_key(&id) {
                break;
            }
            self.pass(1);
        }
        self.hosts[host].answers.remove(&id)
    }

    /// Asks a host for an address under this name.
    pub fn allocate(&mut self, host: usize, ident: &str) -> Option<Result<Response, Refusal>> {
        let subnet: Option<Pool> = None;
        self.ask(host, Request::Allocate { ident: ident.to_owned(), subnet }, 3)
    }

    pub fn tell(&mut self, host: usize, input: Input) {
        self.hosts[host].node.handle(self.now, input);
        self.carry_out(host);
        self.talk();
    }

    /// What a host is waiting for and what it calls wrong, in words.
    pub fn notes(&self, host: usize) -> String {
        let status = self.hosts[host].node.status();
        let notes = status.waits.into_iter().chain(status.problems);
        let line = |note: weavers::node::protocol::status::Note| {
            format!("{} ({})", note.what, note.hint.unwrap_or_default())
        };
        notes.map(line).collect::<Vec<String>>().join("\n")
    }

    // ===== the intruder =====

    /// Somebody is let in at all hosts.
    pub fn let_in(&mut self) {
        self.let_in_at(0..self.hosts.len());
    }

    /// Somebody is let in at some hosts.
    pub fn let_in_at(&mut self, hosts: impl IntoIterator<Item = usize>) {
        let settings = Settings {
            name: LOW,
            uid: PeerUid(66),
            nickname: NASTY.to_owned(),
            port: 6783,
            password: None,
            trusted_subnets: Vec::new(),
            conn_limit: 200,
            overlays: vec![OVERLAY.to_owned()],
            discovery: false,
        };
        let mut mesh = Mesh::new(settings, ChaCha8Rng::seed_from_u64(66));
        mesh.set_channels(&[CHANNEL]);
        self.intruder = Some(mesh);
        let end = self.hosts.len();
        hosts.into_iter().for_each(|host| self.connect(end, host));
        self.pass(2);
    }

    /// He sends this to one host, over others if need be.
    pub fn whisper(&mut self, host: usize, channel: &str, said: &[u8]) {
        let to = self.hosts[host].name;
        self.intruder.as_mut().expect("he is there").unicast(to, channel, said).unwrap();
        self.talk();
    }

    /// He says this to all, in the name of this peer.
    pub fn shout(&mut self, origin: PeerName, channel: &str, said: &[u8]) {
        self.intruder.as_mut().expect("he is there").broadcast(origin, channel, said);
        self.talk();
    }

    /// He goes.
    pub fn throw_out(&mut self) {
        self.intruder = None;
        let end = self.hosts.len();
        let wires: Vec<_> =
            self.wires.iter().filter(|((one, _), _)| *one == end).map(|(_, to)| *to).collect();
        for (host, conn) in wires {
            self.wires.remove(&(host, conn));
            self.queue.push_back((host, mesh::Input::Closed(conn, "gone".to_owned())));
        }
        self.wires.retain(|(one, _), _| *one != end);
        self.talk();
        self.pass(2);
    }

    /// He says that these are the entries of the ring.
    pub fn claim(&mut self, entries: Vec<Entry>) {
        let ring = self.hosts[0].node.overview().ring();
        let ring = Ring::from_parts(LOW, ring.universe(), entries, ring.seeds().to_vec()).unwrap();
        let nicknames = BTreeMap::from([(LOW, NASTY.to_owned())]);
        let said = State { ring: Some(ring), nicknames, ..State::default() }.encode();
        let intruder = self.intruder.as_mut().expect("he is there");
        intruder.gossip(Recipients::Neighbours { except: None }, CHANNEL, &said);
        self.talk();
        self.pass(2);
    }

    /// He says so of all pieces of the ring as a host knows it, after this was done to each of them.
    pub fn claim_all(&mut self, change: impl Fn(Entry) -> Entry) {
        let entries = self.hosts[0].node.overview().ring().entries().iter().copied().map(change).collect();
        self.claim(entries);
    }

    // ===== wires and hands =====

    fn connect(&mut self, one: usize, other: usize) {
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.wires.extend([((one, conn), (other, conn)), ((other, conn), (one, conn))]);
        let remote = |end: usize| SocketAddr::from(([10, 0, 0, 2 + end as u8], 6783));
        // Neither is listed by the other, so each is dialled.
        self.queue.push_back((one, mesh::Input::Accepted { conn, remote: remote(other) }));
        self.queue.push_back((other, mesh::Input::Accepted { conn, remote: remote(one) }));
        self.talk();
    }

    fn talk(&mut self) {
        self.drain_intruder();
        while let Some((end, input)) = self.queue.pop_front() {
            if end < self.hosts.len() {
                self.hosts[end].node.handle(self.now, Input::Mesh(input));
                self.carry_out(end);
            } else if let Some(intruder) = &mut self.intruder {
                intruder.handle(self.now, input);
            }
            self.drain_intruder();
        }
    }

    fn drain_intruder(&mut self) {
        let end = self.hosts.len();
        while let Some(output) = self.intruder.as_mut().and_then(Mesh::next_output) {
            match output {
                mesh::Output::Send(conn, bytes) => self.send(end, conn, bytes),
                mesh::Output::Close(conn, why) => self.close(end, conn, &why),
                _ => {}
            }
        }
    }

    fn send(&mut self, from: usize, conn: ConnId, bytes: bytes::Bytes) {
        if let Some(&(to, conn)) = self.wires.get(&(from, conn)) {
            self.queue.push_back((to, mesh::Input::Received(conn, bytes)));
        }
    }

    fn close(&mut self, from: usize, conn: ConnId, why: &str) {
        if let Some(to) = self.wires.remove(&(from, conn)) {
            self.wires.remove(&to);
            self.queue.push_back((to.0, mesh::Input::Closed(to.1, why.to_owned())));
            self.queue.push_back((from, mesh::Input::Closed(conn, why.to_owned())));
        }
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(output) = self.hosts[at].node.next_output() {
            let now = self.now;
            let host = &mut self.hosts[at];
            let back = match output {
                Output::Save(id, writes) => {
                    if host.disk.is_ok() {
                        host.keep(writes);
                    }
                    Input::Stored(id, host.disk.clone())
                }
                Output::ObserveHost(wanted, _) => Input::HostSeen(Ok(host.seen(*wanted))),
                Output::ObserveVpc(..) => {
                    Input::VpcSeen(host.unread.clone().map_or_else(|| Ok(seen(at, &self.routes)), Err))
                }
                Output::ObserveInstances(ids) => {
                    let running = ids.into_iter().map(|id| (id, InstanceState::Running));
                    Input::InstancesSeen(Ok(running.collect()))
                }
                Output::ObserveRunning(_) => Input::RunningSeen(Ok([].into())),
                Output::ObservePlaces(addresses) => {
                    host.places = addresses;
                    Input::PlacesSeen(Ok(BTreeMap::new()))
                }
                Output::Apply(action) => {
                    let done = host.apply(&action);
                    self.writes += usize::from(action.route().is_some());
                    route(&mut self.routes, &action);
                    Input::Applied(action, done.map(|()| None))
                }
                Output::Answer(id, answer) => {
                    host.answers.insert(id, answer);
                    continue;
                }
                Output::Told(event) => {
                    host.told.push(event.to_string());
                    continue;
                }
                Output::Send(conn, bytes) => {
                    self.send(at, conn, bytes);
                    continue;
                }
                Output::Close(conn, why) => {
                    self.close(at, conn, &why);
                    continue;
                }
                _ => continue,
            };
            self.hosts[at].node.handle(now, back);
        }
    }
}

impl Host {
    fn new(name: PeerName, all: &[PeerName], disk: BTreeMap<String, Vec<u8>>) -> Host {
        let seed: Vec<String> = all.iter().map(|name| format!("'{name}'")).collect();
        let text = format!(
            "[ipam]\nrange = '10.32.0.0/12'\ninit = 'seed'\nseed = [{}]\n[vpc]\nroute_tables = 'rtb-1'\n",
            seed.join(", ")
        );
        let birth = Birth {
            identity: Identity {
                name,
                acceptor: PeerUid(name.as_u64()),
                instance: Some(format!("i-{name}")),
            },
            uid: PeerUid(name.as_u64()),
            nickname: format!("host-{}", name.as_u64()),
            password: None,
            boot: "boot".to_owned(),
            seed: name.as_u64(),
        };
        let memory = Memory::read(&disk).unwrap();
        let node = Node::new(Timestamp::ZERO, birth, config::parse(&text).unwrap(), memory).unwrap();
        Host {
            name,
            node,
            disk: Ok(()),
            saved: disk,
            links: BTreeMap::new(),
            found_at: None,
            refuses: None,
            answers: BTreeMap::new(),
            told: Vec::new(),
            unread: None,
            places: BTreeSet::new(),
            asked: 0,
        }
    }

    fn keep(&mut self, writes: Vec<weavers::node::persist::memory::Write>) {
        for write in writes {
            match write.value {
                Some(value) => drop(self.saved.insert(write.key, value)),
                None => drop(self.saved.remove(&write.key)),
            }
        }
    }

    fn seen(&self, wanted: state::Host) -> state::Host {
        let mut links = self.links.clone();
        for (address, link) in &mut links {
            let wanted = wanted.links.get(address).and_then(|wanted| wanted.netns.as_ref());
            if let (Some(own), Some(wanted)) = (&mut link.netns, wanted) {
                own.path = self.found_at.as_deref().map_or_else(|| wanted.path.clone(), Into::into);
            }
        }
        let links = links.into_iter().map(|(address, link)| (address, link.into())).collect();
        state::Host {
            links: std::sync::Arc::new(links),
            uplinks: [("eth0".to_owned(), 9001)].into(),
            ..wanted
        }
    }

    fn apply(&mut self, action: &Action) -> Result<(), Fault> {
        match action {
            Action::Host(HostAction::CreateLink { address, netns, mtu, range, prefix, far }) => {
                if let Some(fault) = &self.refuses {
                    return Err(fault.clone());
                }
                let link = Link {
                    netns: Some(netns.clone()),
                    mtu: *mtu,
                    range: *range,
                    prefix: *prefix,
                    far: far.clone(),
                    faults: Vec::new(),
                };
                self.links.insert(*address, link);
            }
            Action::Host(HostAction::DeleteLink(address)) => drop(self.links.remove(address)),
            _ => {}
        }
        Ok(())
    }
}

fn interface(host: usize) -> InterfaceId {
    InterfaceId(format!("eni-{host}"))
}

fn route(routes: &mut BTreeMap<Ipv4Net, Route>, action: &Action) {
    match action {
        Action::Ec2(Ec2Action::CreateRoute { destination, interface, .. })
        | Action::Ec2(Ec2Action::ReplaceRoute { destination, interface, .. }) => {
            let target = Target::Interface(interface.clone());
            routes.insert(*destination, Route { target, state: RouteState::Active, created: true });
        }
        Action::Ec2(Ec2Action::DeleteRoute { destination, .. }) => drop(routes.remove(destination)),
        _ => {}
    }
}

fn seen(host: usize, routes: &BTreeMap<Ipv4Net, Route>) -> Vpc {
    let table = Table { used: routes.len(), routes: routes.clone(), local: Vec::new() };
    Vpc {
        interface: interface(host),
        source_dest_check: Some(false),
        tables: BTreeMap::from([(TableId("rtb-1".to_owned()).into(), table)]),
        retired: BTreeMap::new(),
    }
}

/// All that a host owns.
pub fn owned(host: &Host) -> Vec<Range> {
    host.node.overview().ring().owned_by(host.name)
}
