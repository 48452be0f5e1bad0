//! The clock and its queue of events: what a node says is carried out, what comes of it is told.

mod calls;
mod parts;
mod probes;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use ipnet::Ipv4Net;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::{
    parts::{Dial, Journal, Net, Routes},
    traffic::listed,
};
use super::{
    climate::{Climate, net},
    cloud::Cloud,
    machine::{Machine, Power},
    promises::Users,
    vpc::Vpc,
};
use crate::{
    addr::Universe,
    config::{Config, Init, Provider, RouteTables, SameSubnet},
    mesh::{self, ConnId, Hosts},
    node::{
        Input, Output,
        persist::ledger::{SaveFault, SaveId},
    },
    peer::PeerName,
    state::{self, Action, Ec2Action, Fault, Host, HostAction, InstanceState, SubnetId, TableId, Tables},
    time::Timestamp,
};

/// Where hosts are, in turns.
const ZONES: [(&str, &str); 2] = [("10.0.0.0/17", "eu-west-1a"), ("10.0.128.0/17", "eu-west-1b")];
/// Where hosts outside EC2 are.
const OFFICE: &str = "192.168.0.0/16";
/// Routes that a table may hold: as many as EC2 allows on request.
const ROUTES_MAX: usize = 1000;
/// The first port that a host dials from.
const FIRST_EPHEMERAL: u16 = 32_768;
/// Port of the mesh.
const PORT: u16 = 6783;
/// How long a dial waits for an answer.
const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// Events between two looks at all that must hold, in a world of few hosts. A look takes time that grows with the square of
/// their number, and so does this.
const CHECK_EVERY: u64 = 64;
const CHECK_HOSTS: u64 = 16;

/// Many hosts, and what is between them.
pub struct World {
    pub(super) seed: u64,
    pub(super) now: Timestamp,
    queue: BTreeMap<(Timestamp, u64), Event>,
    sequence: u64,
    pub(super) rng: ChaCha8Rng,
    pub(super) climate: Climate,
    pub(super) machines: Vec<Machine>,
    pub(super) net: Net,
    pub(super) vpc: Vpc,
    pub(super) users: Users,
    pub(super) routes: Routes,
    pub(super) stormy: bool,
    /// Nothing goes wrong before this.
    pub(super) quiet_until: Timestamp,
    /// Nothing is to be written to EC2 any more.
    pub(super) watched: BTreeSet<usize>,
    pub(super) journal: Journal,
}

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Start(usize),
    Wake(usize, u32),
    Knock(usize, u32, String),
    DialOver(usize, String, u64, &'static str),
    Arrive(ConnId),
    Closed(usize, u32, ConnId),
    Stored(usize, u32, SaveId),
    HostLook(usize, u32, Box<Host>),
    HostSeen(usize, u32, Box<Host>),
    HostAct(usize, u32, HostAction),
    VpcLook(usize, u32, Universe, Tables),
    VpcSeen(usize, u32, Timestamp, Box<Result<state::Vpc, Fault>>),
    PeersSeen(usize, u32, Box<Result<BTreeSet<Ipv4Addr>, Fault>>),
    InstancesSeen(usize, u32, Box<Result<BTreeMap<String, InstanceState>, Fault>>),
    RunningSeen(usize, u32, Box<Result<BTreeSet<Ipv4Addr>, Fault>>),
    PlacesSeen(usize, u32, Box<Result<BTreeMap<Ipv4Addr, SubnetId>, Fault>>),
    NamesSeen(usize, u32, BTreeMap<String, Result<Hosts, String>>),
    VpcAct(usize, u32, Ec2Action),
    CanaryMade(usize, u32),
    Probed(usize, SocketAddr, SocketAddr, Bytes),
    Acted(usize, u32, Ec2Action, Box<Result<Option<String>, Fault>>),
    Disturb(usize, u32),
    Ask(usize),
    Trouble,
    PowerOn(usize),
    Pass(usize, usize),
    Weather,
    Erase(usize),
    SetBack(usize),
    TidyUp(usize),
    Usurp(usize),
    Emptied(usize),
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed that it followed from.
    pub seed: u64,
    /// Hosts in it.
    pub hosts: usize,
    /// Events that happened.
    pub events: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// Addresses that were acknowledged to somebody.
    pub promised: u64,
    /// The law that was broken, and the last events before.
    pub failure: Option<String>,
}

impl World {
    /// The world of this seed.
    pub fn new(seed: u64) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let climate = Climate::draw(&mut rng);
        // In every sixteenth world there is one address that all know.
        let climate = if seed % 16 == 9 { climate.behind_one() } else { climate };
        // In every eighth containers have addresses of IPv6, too.
        let climate = if seed % 8 == 3 { climate.with_v6() } else { climate };
        World::in_climate(seed, rng, climate)
    }

    /// A world without faults.
    pub fn calm(seed: u64, hosts: usize) -> World {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        World::in_climate(seed, rng, Climate::calm(hosts))
    }

    /// Keeps so many of the last events for whoever has to understand a failure, which costs time.
    pub fn keeping(mut self, events: usize) -> World {
        self.journal.kept = events;
        self
    }

    pub(super) fn in_climate(seed: u64, mut rng: ChaCha8Rng, climate: Climate) -> World {
        let mut vpc = Vpc::new(net("10.0.0.0/16"), "eu-west-1");
        let zones = ZONES.map(|(cidr, zone)| (net(cidr), zone));
        let subnets = zones.map(|(cidr, zone)| vpc.add_subnet(Timestamp::ZERO, cidr, zone));
        if climate.two_tables {
            let table = vpc.add_table(Timestamp::ZERO);
            vpc.associate(Timestamp::ZERO, &subnets[1], Some(&table));
        }
        let tables: BTreeSet<TableId> = vpc.tables().cloned().collect();
        tables.iter().for_each(|table| vpc.set_quota(Timestamp::ZERO, table, ROUTES_MAX));
        let is_outside = |n: usize| n >= climate.hosts - climate.outside;
        let networks: Vec<Ipv4Net> = (0..climate.hosts)
            .map(|n| {
                let network = if is_outside(n) { net(OFFICE) } else { zones[n % 2].0 };
                let address = u32::from(network.network()) + 10 + n as u32;
                Ipv4Net::new_assert(address.into(), network.prefix_len())
            })
            .collect();
        let addresses: Vec<Ipv4Addr> = networks.iter().map(Ipv4Net::addr).collect();
        let names: BTreeSet<PeerName> =
            std::iter::repeat_with(|| PeerName::from_u64(rng.next_u64() | 1)).take(climate.hosts).collect();
        // In every fourth world the hosts find each other by a tag.
        let tag = seed.is_multiple_of(4).then(|| ("cluster".to_owned(), "sim".to_owned()));
        let peers = listed(seed, &addresses[..climate.listed]);
        let mut config = Config { peers, ec2_tag: tag.clone(), ..Config::default() };
        config.ipam.range = climate.range;
        config.ipam.default_subnet = climate.range;
        config.ipam.expected_peers = Some(climate.founders);
        config.vpc.reclaim = climate.reclaim;
        if climate.direct {
            config.vpc.same_subnet = SameSubnet::Direct;
        }
        config.paths.tunnel = climate.tunnels;
        config.ipam.compact = climate.compact;
        config.network.ipv6 = climate.ipv6;
        // Probes make many events, and say little of agreement.
        config.probe.enable = seed % 8 == 5;
        // In every other world they are named; in the others they have to be found.
        if climate.two_tables && seed.is_multiple_of(2) {
            config.vpc.route_tables = RouteTables::Named(tables.clone());
        }
        if climate.seeded {
            config.ipam.init = Init::Seed(names.iter().copied().collect());
        }
        let mut machines = Vec::new();
        for (number, (&address, name)) in addresses.iter().zip(names).enumerate() {
            let at = SocketAddr::new(IpAddr::V4(address), PORT);
            if is_outside(number) {
                let mut config = config.clone();
                (config.vpc.provider, config.ec2_tag) = (Provider::None, None);
                let nowhere = Cloud::nowhere(number);
                machines.push(Machine::new(name, at, config, nowhere, networks[number]));
                continue;
            }
            let subnet = &subnets[number % 2];
            let (instance, interface) = vpc.launch(Timestamp::ZERO, subnet, address);
            if let Some((key, value)) = &tag {
                vpc.tag_instance(Timestamp::ZERO, &instance, key, value);
            }
            let caller = super::vpc::Caller::Instance(instance.clone());
            vpc.permit(&caller, [super::vpc::Action::ModifyNetworkInterfaceAttribute]);
            let cloud = Cloud::new(instance, interface, subnet.clone());
            machines.push(Machine::new(name, at, config.clone(), cloud, networks[number]));
        }
        World {
            seed,
            now: Timestamp::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            rng,
            climate,
            machines,
            vpc,
            users: Users::default(),
            stormy: true,
            quiet_until: Timestamp::ZERO,
            watched: BTreeSet::new(),
            net: Net { ephemeral: FIRST_EPHEMERAL, ..Net::default() },
            routes: Routes::default(),
            journal: Journal::default(),
        }
    }

    /// Lets the world go its way: a storm, then calm, in which it has to settle.
    pub fn run(mut self) -> Outcome {
        for host in 0..self.machines.len() {
            let late = self.random(Duration::ZERO, self.climate.start_within);
            self.schedule(late, Event::Start(host));
        }
        self.schedule_trouble();
        let storm = Timestamp::ZERO + self.climate.storm;
        self.run_until(storm);
        self.make_well();
        self.settle_down();
        Outcome {
            seed: self.seed,
            hosts: self.machines.len(),
            events: self.journal.events,
            lasted: self.now.since(Timestamp::ZERO),
            promised: self.users.promised,
            failure: self.journal.violation.take().map(|law| self.obituary(&law)),
        }
    }

    /// Lets events happen up to a moment, or the first violation.
    pub(super) fn run_until(&mut self, until: Timestamp) {
        let crowds = (self.machines.len() as u64 / CHECK_HOSTS).max(1);
        let check_every = CHECK_EVERY * crowds * crowds;
        while self.journal.violation.is_none() {
            let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) else { break };
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
            self.journal.events += 1;
            if self.journal.events.is_multiple_of(check_every) {
                self.check_all();
            }
        }
        if self.journal.violation.is_none() {
            self.now = until;
        }
    }

    fn obituary(&self, law: &str) -> String {
        let history: Vec<&str> = self.journal.history.iter().map(String::as_str).collect();
        format!("seed {}, {}: {law}\n{}", self.seed, self.now, history.join("\n"))
    }

    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: Timestamp, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        self.journal.keep(|| format!("  {} {}", self.now, what()));
    }

    pub(super) fn violate(&mut self, law: impl fmt::Display) {
        if self.journal.violation.is_none() {
            self.journal.violation = Some(law.to_string());
        }
    }

    // ===== chance =====

    pub(super) fn random(&mut self, min: Duration, max: Duration) -> Duration {
        let (min, max) = (min.as_micros() as u64, max.as_micros() as u64);
        Duration::from_micros(if min < max { self.rng.random_range(min..max) } else { min })
    }

    pub(super) fn chance(&mut self, permille: u32) -> bool {
        self.rng.random_range(0..1000) < permille
    }

    fn latency(&mut self) -> Duration {
        let late = self.climate.late_permille > 0 && self.stormy && self.chance(self.climate.late_permille);
        let max = if late { self.climate.late_max } else { self.climate.latency_max };
        self.random(Duration::from_micros(100), max)
    }

    // ===== what happens =====

    fn happen(&mut self, event: Event) {
        if let Some(thaw) = self.put_off(&event) {
            return self.schedule_at(thaw, event);
        }
        if self.journal.kept > 0 && !matches!(event, Event::Wake(..) | Event::Arrive(_)) {
            let line = format!("{event:?}");
            self.note(|| line.chars().take(400).collect());
        }
        match event {
            Event::Start(host) => self.start(host),
            Event::Wake(host, life) => {
                if self.is_alive(host, life) && self.machines[host].clock.wake == Some(self.now) {
                    self.machines[host].clock.wake = None;
                    self.check_wakes(host);
                    self.feed(host, Input::Woken);
                }
            }
            Event::Knock(host, life, target) => self.knock(host, life, &target),
            Event::DialOver(host, target, number, why) => self.dial_over(host, &target, number, why),
            Event::Arrive(conn) => self.arrive(conn),
            Event::Closed(host, life, conn) => {
                self.tell(host, life, Input::Mesh(mesh::Input::Closed(conn, "closed".to_owned())));
            }
            Event::Stored(host, life, id) => self.stored(host, life, id),
            Event::HostLook(host, life, wanted) => {
                if self.is_alive(host, life) {
                    let seen = Box::new(self.machines[host].kernel.observe(&wanted));
                    let after = self.random(Duration::from_micros(200), self.climate.kernel_max);
                    self.schedule(after, Event::HostSeen(host, life, seen));
                }
            }
            Event::HostSeen(host, life, seen) => self.tell(host, life, Input::HostSeen(Ok(*seen))),
            Event::HostAct(host, life, action) => {
                if self.is_alive(host, life) {
                    let outcome = self.machines[host].kernel.apply(&action).map(|()| None);
                    if let Some(made) = self.machines[host].kernel.read_back(&action) {
                        self.tell(host, life, Input::LinkMade(made));
                    }
                    self.tell(host, life, Input::Applied(action.into(), outcome));
                }
            }
            Event::VpcLook(host, life, universe, tables) => self.look_at_vpc(host, life, universe, tables),
            Event::VpcSeen(host, life, begun, seen) => {
                self.learn_what_was_read(host, begun, &seen);
                self.tell(host, life, Input::VpcSeen(*seen));
            }
            Event::PeersSeen(host, life, found) => self.tell(host, life, Input::PeersSeen(*found)),
            Event::InstancesSeen(host, life, there) => self.tell(host, life, Input::InstancesSeen(*there)),
            Event::RunningSeen(host, life, there) => self.tell(host, life, Input::RunningSeen(*there)),
            Event::PlacesSeen(host, life, found) => self.tell(host, life, Input::PlacesSeen(*found)),
            Event::NamesSeen(host, life, found) => self.tell(host, life, Input::NamesSeen(found)),
            Event::VpcAct(host, life, action) => self.act_on_vpc(host, life, action),
            Event::Acted(host, life, action, outcome) => {
                if self.is_alive(host, life) {
                    self.learn_what_was_written(host, &action, &outcome);
                }
                self.tell(host, life, Input::Applied(action.into(), *outcome));
            }
            Event::CanaryMade(host, life) => self.make_canary(host, life),
            Event::Probed(host, from, to, bytes) => self.probed(host, from, to, bytes),
            Event::Disturb(host, life) => self.tell(host, life, Input::Disturbed),
            Event::Ask(host) => self.ask_something(host),
            Event::Trouble => self.make_trouble(),
            Event::PowerOn(host) => self.power_on(host),
            Event::Pass(one, other) => self.let_pass(one, other),
            Event::Weather => self.clear_weather(),
            Event::Erase(host) => self.erase_store(host),
            Event::SetBack(host) => self.set_disk_back(host),
            Event::TidyUp(host) => self.tidy_up(host),
            Event::Usurp(host) => self.take_over(host),
            Event::Emptied(host) => self.take_for_dead(host, true),
        }
    }

    /// Whether a process runs here and gets its turn.
    pub(super) fn has_turn(&self, host: usize) -> bool {
        let machine = &self.machines[host];
        machine.node.is_some() && machine.until.frozen <= self.now
    }

    /// When a process that has no turn takes this up.
    fn put_off(&mut self, event: &Event) -> Option<Timestamp> {
        let host = match event {
            Event::Arrive(conn) => self.net.wires.end(*conn)?.host,
            Event::Knock(_, _, target) => self.host_at(target)?,
            Event::Wake(host, _)
            | Event::DialOver(host, ..)
            | Event::Closed(host, ..)
            | Event::Stored(host, ..)
            | Event::HostLook(host, ..)
            | Event::HostSeen(host, ..)
            | Event::HostAct(host, ..)
            | Event::VpcSeen(host, ..)
            | Event::PeersSeen(host, ..)
            | Event::InstancesSeen(host, ..)
            | Event::RunningSeen(host, ..)
            | Event::PlacesSeen(host, ..)
            | Event::NamesSeen(host, ..)
            | Event::Acted(host, ..)
            | Event::Disturb(host, _)
            | Event::CanaryMade(host, _)
            | Event::Probed(host, ..)
            | Event::Ask(host)
            | Event::TidyUp(host)
            | Event::Emptied(host) => *host,
            Event::Start(_)
            | Event::VpcLook(..)
            | Event::VpcAct(..)
            | Event::Trouble
            | Event::PowerOn(_)
            | Event::Pass(..)
            | Event::Weather
            | Event::Erase(_)
            | Event::SetBack(_)
            | Event::Usurp(_) => return None,
        };
        let thaw = self.machines[host].until.frozen;
        if thaw <= self.now {
            return None;
        }
        if let (Event::Wake(..), Some(wake)) = (event, &mut self.machines[host].clock.wake) {
            *wake = if *wake == self.now { thaw } else { *wake };
        }
        Some(thaw)
    }

    pub(super) fn is_alive(&self, host: usize, life: u32) -> bool {
        let machine = &self.machines[host];
        machine.life == life && machine.node.is_some()
    }

    fn tell(&mut self, host: usize, life: u32, input: Input) {
        if self.is_alive(host, life) {
            self.feed(host, input);
        }
    }

    pub(super) fn start(&mut self, host: usize) {
        if self.machines[host].power != Power::On || self.machines[host].node.is_some() {
            return;
        }
        let [acceptor, uid, seed] = [(); 3].map(|()| self.rng.next_u64() | 1);
        if let Err(why) = self.machines[host].start(self.now, acceptor, uid, seed) {
            return self.violate(format!("host {host} cannot start: {why}"));
        }
        self.note(|| format!("host {host} starts"));
        let first = self.random(Duration::from_millis(100), Duration::from_secs(3));
        self.users.began(host, self.machines[host].life);
        if self.climate.users {
            self.schedule(first, Event::Ask(host));
        }
        self.carry_out(host);
    }

    /// Hands an input to a node and carries out what it says.
    pub(super) fn feed(&mut self, host: usize, input: Input) {
        let machine = &mut self.machines[host];
        let now = machine.local(self.now);
        if let Some(node) = &mut machine.node {
            node.handle(now, input);
        }
        self.carry_out(host);
    }

    fn carry_out(&mut self, host: usize) {
        while let Some(output) = self.machines[host].node.as_mut().and_then(|node| node.next_output()) {
            let life = self.machines[host].life;
            match output {
                Output::Dial(target) => self.dial(host, target),
                Output::Send(conn, bytes) => self.send(host, conn, bytes),
                Output::Close(conn, why) => {
                    self.note(|| format!("host {host} closes {conn:?}: {why}"));
                    self.close(conn);
                    self.schedule(Duration::ZERO, Event::Closed(host, life, conn));
                }
                // Only Weave Net routers are sent any, and there are none here.
                Output::Datagram(..) => {}
                Output::Save(id, writes) => {
                    self.machines[host].disk.saving = Some((id, writes));
                    let after = self.random(Duration::from_micros(300), self.climate.disk_max);
                    self.schedule(after, Event::Stored(host, life, id));
                }
                Output::ObserveHost(wanted, _) => {
                    let after = self.random(Duration::from_micros(200), self.climate.kernel_max);
                    self.schedule(after, Event::HostLook(host, life, wanted));
                }
                Output::DoubtCheck => self.machines[host].cloud.doubt_check(),
                Output::ObserveVpc(universe, tables) => {
                    let after = self.cloud_delay();
                    self.schedule(after, Event::VpcLook(host, life, universe, tables));
                }
                Output::ObserveNames(names) => self.look_at_names(host, life, names),
                Output::ObservePlaces(addresses) => {
                    let found = self.machines[host].cloud.places(self.now, &mut self.vpc, &addresses);
                    let after = self.cloud_delay();
                    self.schedule(after, Event::PlacesSeen(host, life, Box::new(found)));
                }
                Output::ObservePeers(key, value) => {
                    let found = self.machines[host].cloud.peers(self.now, &mut self.vpc, &key, &value);
                    let after = self.cloud_delay();
                    self.schedule(after, Event::PeersSeen(host, life, Box::new(found)));
                }
                Output::ObserveInstances(ids) => {
                    let there = self.machines[host].cloud.instances(self.now, &mut self.vpc, &ids);
                    let after = self.cloud_delay();
                    self.schedule(after, Event::InstancesSeen(host, life, Box::new(there)));
                }
                Output::ObserveRunning(addresses) => {
                    let there = self.machines[host].cloud.running(self.now, &mut self.vpc, &addresses);
                    let after = self.cloud_delay();
                    self.schedule(after, Event::RunningSeen(host, life, Box::new(there)));
                }
                Output::MakeCanary => {
                    let after = self.latency();
                    self.schedule(after, Event::CanaryMade(host, life));
                }
                Output::DropCanary => self.machines[host].drop_canary(),
                Output::Probe(to, bytes) => self.send_probe(host, to, bytes),
                Output::Told(event) => self.note(|| format!("host {host}: {event}")),
                Output::PathChanged(path) => self.note(|| format!("host {host}: {path:?}")),
                Output::Apply(action) => self.apply(host, life, action),
                Output::Answer(id, result) => self.answered(host, id, result),
                Output::Adopted(_) | Output::RolledBack(_) => {}
                Output::Finished => self.finish(host),
                Output::Stop(refusal) => panic!("disks are not copied here: {}", refusal.message),
            }
        }
        self.set_wake(host);
    }

    fn set_wake(&mut self, host: usize) {
        let machine = &mut self.machines[host];
        let Some(wake) = machine.node.as_ref().and_then(|node| node.next_wake()) else { return };
        let at = machine.world(wake).max(self.now + Duration::from_micros(1));
        if machine.clock.wake.is_none_or(|set| set != at) {
            machine.clock.wake = Some(at);
            let life = machine.life;
            self.schedule_at(at, Event::Wake(host, life));
        }
    }

    fn apply(&mut self, host: usize, life: u32, action: Action) {
        match action {
            Action::Host(action) => {
                let after = self.random(Duration::from_micros(200), self.climate.kernel_max);
                self.schedule(after, Event::HostAct(host, life, action));
            }
            Action::Ec2(action) => {
                self.check_write(host, &action);
                let after = self.cloud_delay();
                self.schedule(after, Event::VpcAct(host, life, action));
            }
        }
    }

    fn stored(&mut self, host: usize, life: u32, id: SaveId) {
        if !self.is_alive(host, life) {
            return;
        }
        let full = self.machines[host].until.disk_full > self.now;
        if self.stormy && (full || self.chance(self.climate.disk_fault_permille)) {
            self.machines[host].disk.saving = None;
            let fault = SaveFault { message: "no space left on device".to_owned(), hint: None };
            return self.feed(host, Input::Stored(id, Err(fault)));
        }
        if let Some((_, writes)) = self.machines[host].disk.saving.take_if(|(saving, _)| *saving == id) {
            self.machines[host].write(writes);
        }
        self.feed(host, Input::Stored(id, Ok(())));
    }
}
