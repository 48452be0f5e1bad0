//! A host alone, with its kernel, and a VPC in which all is as it should be.

use std::{sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    config,
    ipam::{Ring, Saved, ring::Entry},
    node::{
        Input, Node, Output,
        persist::{
            ledger::SaveId,
            memory::{Attached, Identity, Memory},
        },
        protocol::request::{Container, Refusal, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::{
        self, Action, Fault, FaultKind, HostAction, InterfaceId, Link, Made, Netns, Route, RouteState, Table,
        TableId, Target, Vpc,
    },
    time::Timestamp,
};

use crate::born::born;

const CONFIG: &str = "[ipam]\nrange = '10.32.0.0/12'\n[vpc]\nroute_tables = 'rtb-1'\n";
const US: PeerName = PeerName::from_u64(1);

/// A host with its kernel, and a VPC in which all is as it should be.
pub struct Host {
    pub node: Node,
    now: Timestamp,
    pub kernel: state::Host,
    pub nft_fails: bool,
    /// The disk takes its time; what it is to save waits.
    pub holds_disk: bool,
    saves: Vec<SaveId>,
    /// Links are not removed for now.
    pub holds_links: bool,
    /// Whoever makes a link reads it back.
    pub reads_back: bool,
    /// Why a look at the host fails, if it does.
    pub unreadable: Option<Fault>,
    /// Looks at the host so far.
    pub looks: u64,
    pub asked: u64,
    pub answers: Vec<Result<Response, Refusal>>,
    /// With which questions a configuration came into force.
    pub adopted: Vec<RequestId>,
}

impl Host {
    pub fn new() -> Host {
        Host::remembering(Vec::new())
    }

    /// One whose store holds these containers, all with an address.
    pub fn remembering(containers: Vec<Attached>) -> Host {
        let address = |one: &Attached| (one.ident.clone(), one.address.into_iter().collect());
        let allocations = containers.iter().map(address).collect();
        // One that is known by its link alone has one.
        let found = containers.iter().filter(|one| one.netns.is_none() && !one.far.moved);
        let link = |one: &Attached| Some((one.link_address()?, Link { mtu: 1376, ..Link::default() }.into()));
        let links = Arc::new(found.filter_map(link).collect());
        let memory = Memory {
            ipam: Saved { allocations, ..Saved::default() },
            attached: containers.into_iter().map(|one| (one.ident.clone(), one)).collect(),
            ..Memory::default()
        };
        let kernel = state::Host { links, ..state::Host::default() };
        Host::born(memory, kernel, "")
    }

    /// One whose store holds this, and that it owns the whole range.
    pub fn with(memory: Memory) -> Host {
        Host::born(memory, state::Host::default(), "")
    }

    /// One of which the configuration says more, on a host that looks so.
    pub fn configured(more: &str, kernel: state::Host) -> Host {
        Host::born(Memory::default(), kernel, more)
    }

    /// It adopts another configuration.
    pub fn reconfigure(&mut self, more: &str) {
        self.asked += 1;
        let config = Box::new(config::parse(&format!("{CONFIG}{more}")).unwrap());
        self.tell(Input::Configured(RequestId(self.asked), config));
    }

    fn born(memory: Memory, kernel: state::Host, more: &str) -> Host {
        let identity = Identity { name: US, acceptor: PeerUid(1), instance: Some("i-1".to_owned()) };
        let birth = born(identity.clone());
        let config = config::parse(&format!("{CONFIG}{more}")).unwrap();
        let entries = vec![Entry { token: "10.32.0.0".parse().unwrap(), owner: US, version: 1, free: 9 }];
        let ring = Ring::from_parts(US, config.ipam.range.into(), entries, vec![US]).unwrap();
        let memory = Memory {
            identity: Some(identity),
            ipam: Saved { ring: Some(ring), ..memory.ipam },
            links_known: true,
            ..memory
        };
        let mut host = Host {
            node: Node::new(Timestamp::ZERO, birth, config, memory).unwrap(),
            now: Timestamp::ZERO,
            kernel: state::Host { uplinks: [("ens5".to_owned(), 9001)].into(), ..kernel },
            nft_fails: false,
            holds_disk: false,
            saves: Vec::new(),
            holds_links: false,
            reads_back: false,
            unreadable: None,
            looks: 0,
            asked: 0,
            answers: Vec::new(),
            adopted: Vec::new(),
        };
        host.carry_out();
        host
    }

    /// Somebody flushes the rules, and may keep nft from loading others; the host has seen it.
    pub fn flush(&mut self, and_lock: bool) {
        (self.nft_fails, self.kernel.rules) = (and_lock, None);
        self.tell(Input::Disturbed);
        self.pass(1_000);
    }

    pub fn attach(&mut self, number: u64) {
        self.attach_as(number, &format!("c{number}"));
    }

    /// Under a name of the caller's choice.
    pub fn attach_as(&mut self, number: u64, name: &str) {
        let (netns, name) = (netns(number), Some(name.to_owned()));
        self.ask(Request::Attach { netns, link: None, name, subnet: None });
    }

    pub fn detach(&mut self, number: u64) {
        self.ask(Request::Detach { target: Container::Netns { netns: netns(number), link: None } });
    }

    pub fn ask(&mut self, request: Request) {
        self.asked += 1;
        self.tell(Input::Asked(RequestId(self.asked), request));
    }

    /// The disk has taken all that waited for it.
    pub fn saved(&mut self) {
        self.holds_disk = false;
        for id in std::mem::take(&mut self.saves) {
            self.tell(Input::Stored(id, Ok(())));
        }
    }

    pub fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.carry_out();
    }

    pub fn pass(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 100 {
            self.now += Duration::from_millis(100);
            self.tell(Input::Woken);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Save(id, _) if self.holds_disk => self.saves.push(id),
                Output::Save(id, _) => self.node.handle(self.now, Input::Stored(id, Ok(()))),
                Output::ObserveHost(..) => {
                    self.looks += 1;
                    let seen = self.unreadable.clone().map_or_else(|| Ok(self.kernel.clone()), Err);
                    self.node.handle(self.now, Input::HostSeen(seen));
                }
                Output::ObserveVpc(..) => self.node.handle(self.now, Input::VpcSeen(Ok(vpc()))),
                Output::Apply(action) => {
                    let outcome = self.apply(&action).map(|()| None);
                    if let Some(made) = action.makes_link().filter(|_| self.reads_back) {
                        let (link, paths) = (self.kernel.links[&made].clone(), Vec::new());
                        self.node.handle(self.now, Input::LinkMade(Made { address: made, link, paths }));
                    }
                    self.node.handle(self.now, Input::Applied(action, outcome));
                }
                Output::Answer(_, answer) => self.answers.push(answer),
                Output::Adopted(id) => self.adopted.push(id),
                _ => {}
            }
        }
    }

    fn apply(&mut self, action: &Action) -> Result<(), Fault> {
        match action {
            Action::Host(HostAction::LoadRules(_)) if self.nft_fails => {
                return Err(fault("nft: permission denied"));
            }
            Action::Host(HostAction::LoadRules(rules)) => self.kernel.rules = Some(rules.clone()),
            Action::Host(HostAction::SetSysctl { name, value }) => {
                self.kernel.sysctls.insert(name.clone(), value.clone());
            }
            Action::Host(HostAction::AddGateway) => self.kernel.gateway = true,
            Action::Host(HostAction::AddBlock(cidr)) => drop(self.kernel.blocks.insert(*cidr)),
            &Action::Host(HostAction::CreateLink { address, ref netns, mtu, range, prefix, ref far }) => {
                let (netns, far) = (Some(netns.clone()), far.clone());
                self.connect(address, Link { netns, mtu, range, prefix, far, faults: Vec::new() });
            }
            Action::Host(HostAction::MakePair { address, mtu, prefix, far }) => {
                let range = "10.32.0.0/12".parse().unwrap();
                let link = Link {
                    netns: None,
                    mtu: *mtu,
                    range,
                    prefix: *prefix,
                    far: far.clone(),
                    faults: Vec::new(),
                };
                let local = format!("net.ipv4.conf.wv{:08x}.route_localnet", address.0);
                self.kernel.sysctls.insert(local, "0".to_owned());
                self.connect(*address, link);
            }
            Action::Host(HostAction::SetPorts(ports)) => {
                self.kernel.ports = Some(ports.clone()).filter(|ports| !ports.is_empty())
            }
            Action::Host(HostAction::DeleteLink(_)) if self.holds_links => return Err(fault("it is busy")),
            Action::Host(HostAction::DeleteLink(address)) => drop(self.kernel.links_mut().remove(address)),
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, address: Address, link: Link) {
        self.kernel.links_mut().insert(address, link.into());
    }
}

fn vpc() -> Vpc {
    let interface = InterfaceId("eni-us".to_owned());
    let target = Target::Interface(interface.clone());
    let range: Ipv4Net = "10.32.0.0/12".parse().unwrap();
    let routes = [(range, Route { target, state: RouteState::Active, created: true })].into();
    let table = Table { used: 1, routes, local: Vec::new() };
    Vpc {
        interface,
        source_dest_check: Some(false),
        tables: [(TableId("rtb-1".to_owned()).into(), table)].into(),
        retired: Default::default(),
    }
}

pub fn netns(number: u64) -> Netns {
    Netns::new("boot", number, format!("/run/netns/{number}"))
}

/// A fault whose way out is as plain as can be.
pub fn fault(message: &str) -> Fault {
    let (kind, hint) = (FaultKind::Invalid, Some("give it back".into()));
    Fault { kind, message: message.to_owned(), hint, request_id: None }
}
