//! What a node makes of what the kernel says about packets of containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weavers::{
    addr::Address,
    config,
    node::{
        Input, Node, Output,
        persist::memory::{Identity, Memory},
    },
    peer::PeerUid,
    state::{
        Action, Fate, Fault, FaultKind, Host, HostAction, InterfaceId, Loss, Packet, Path, Route, RouteState,
        Table, TableId, Target, Vpc,
    },
    time::Timestamp,
};

use crate::born::born;

/// What the kernel says to a look.
type Kernel = fn(&Host) -> Host;

#[test]
fn a_host_whose_packets_are_lost_by_a_covering_route_is_neither_ready_nor_converged() {
    let mut life = Life::of(3, "", sound);
    assert!(
        life.node.overview().is_ready() && life.node.overview().is_converged(),
        "{:?}",
        life.node.status().waits
    );
    life.look(|wanted| Host { paths: ways(wanted, |_| lost(Loss::Unreachable)), ..sound(wanted) });
    assert!(!life.node.overview().is_ready() && !life.node.overview().is_converged());
    let problems = life.problems();
    assert!(problems.contains("and 1 more) are lost: a route or rule says unreachable"), "{problems}");
    life.look(sound);
    assert!(life.node.overview().is_ready() && life.node.overview().is_converged(), "{}", life.problems());
}

#[test]
fn a_host_that_does_not_reach_one_of_many_is_ready_and_not_converged() {
    let mut life = Life::of(3, "", sound);
    life.look(|wanted| {
        let first = wanted.remote.asked.first().copied();
        let fate = |address| if Some(address) == first { lost(Loss::Prohibited) } else { by("eth0") };
        Host { paths: ways(wanted, fate), ..sound(wanted) }
    });
    assert!(
        life.node.overview().is_ready() && !life.node.overview().is_converged(),
        "one fault stays one fault"
    );
}

#[test]
fn packets_that_leave_by_an_interface_that_is_no_uplink_are_named_with_it() {
    let mut life = Life::of(2, "[network]\nuplinks = [\"ens5\"]\n", sound);
    life.look(sound);
    assert!(!life.node.overview().is_ready());
    let problems = life.problems();
    assert!(problems.contains("leave by eth0, which [network] uplinks does not name (ens5)"), "{problems}");
    let mut life = Life::of(2, "", sound);
    life.look(|wanted| Host { paths: ways(wanted, |_| by("tun0")), ..sound(wanted) });
    assert!(!life.node.overview().is_ready());
    assert!(life.problems().contains("leave by tun0, which does not lead into the VPC"));
}

#[test]
fn a_container_that_a_policy_rule_leads_elsewhere_is_not_told_to_send_under_any_address() {
    let mut life = Life::of(2, "", sound);
    life.look(|wanted| {
        let filtered = |_| lost(Loss::ReversePath("wv0a200002".into()));
        Host { paths: ways(wanted, filtered), ..sound(wanted) }
    });
    let hints: Vec<String> = life.node.status().problems.into_iter().filter_map(|note| note.hint).collect();
    let by_main = "ip rule add to 10.32.0.0/12 lookup main suppress_prefixlength 0 priority 100";
    assert!(hints.iter().any(|hint| hint.starts_with(by_main)), "{hints:?}");
    assert!(!hints.iter().any(|hint| hint.contains("rp_filter")), "{hints:?}");
}

#[test]
fn an_uplink_is_kept_forwarding_and_one_that_is_not_there_is_not() {
    const SETTING: &str = "net.ipv4.conf.eth0.forwarding";
    let mut life = Life::of(2, "", sound);
    life.look(|wanted| {
        let mut host = sound(wanted);
        host.sysctls.insert(SETTING.to_owned(), "0".to_owned());
        host
    });
    let set = Action::Host(HostAction::SetSysctl { name: SETTING.to_owned(), value: "1".to_owned() });
    assert_eq!(life.actions.first(), Some(&set));
    let mut life = Life::of(2, "[network]\nuplinks = [\"ens5\"]\n", |wanted| {
        let mut host = sound(wanted);
        host.sysctls.remove("net.ipv4.conf.ens5.forwarding");
        host
    });
    life.idle(Duration::from_secs(60));
    assert_eq!(life.actions, [], "nothing can be set there");
}

#[test]
fn a_host_that_loses_its_default_route_keeps_what_it_has() {
    let mut life = Life::of(2, "[network]\nmtu = \"auto\"\n", sound);
    let before = life.looked_for.clone();
    life.look(|wanted| Host {
        uplinks: BTreeMap::new(),
        paths: ways(wanted, |_| lost(Loss::NoRoute)),
        ..sound(wanted)
    });
    let looks = life.looks;
    life.idle(Duration::from_secs(60));
    assert_eq!((&life.looked_for.rules, life.actions.as_slice()), (&before.rules, [].as_slice()));
    assert!(life.looks - looks < 6, "{} looks in a minute", life.looks - looks);
    assert!(!life.node.overview().is_ready());
    assert!(life.problems().contains("there is no default route"), "{}", life.problems());
}

#[test]
fn a_tunnel_that_cannot_be_read_is_named_with_the_way_out() {
    let mut life = Life::of(3, "", sound);
    life.look(|wanted| {
        let mut host = sound(wanted);
        let (message, hint) = ("wg is not installed".to_owned(), Some("install it".to_owned()));
        host.remote.tunnel_unread = Some(Fault { kind: FaultKind::Invalid, message, hint, request_id: None });
        host
    });
    let status = life.node.status();
    assert!(status.ready && !status.converged, "what it carries flows, and what becomes of it is not seen");
    let problem = &status.problems[0];
    assert_eq!(problem.what, "weave-tunnel cannot be read: wg is not installed");
    assert_eq!(problem.hint.as_deref(), Some("install it"));
    life.look(sound);
    assert!(life.node.status().converged, "{}", life.problems());
}

#[test]
fn the_ways_to_five_hundred_hosts_are_asked_in_turn_and_a_lost_one_until_it_is_found() {
    let mut life = Life::of(500, "", sound);
    let mut asked = BTreeSet::new();
    let unlucky = *life.looked_for.remote.asked.last().unwrap();
    life.lose(unlucky);
    for _ in 0..10 {
        life.look(|wanted| Host { paths: ways(wanted, |_| by("eth0")), ..sound(wanted) });
        assert!(life.looked_for.remote.asked.len() <= 64);
        asked.extend(life.looked_for.remote.asked.clone());
    }
    assert_eq!(asked.len(), 499, "one address of each");
    for _ in 0..10 {
        life.lose(unlucky);
        assert!(life.looked_for.remote.asked.len() <= 64);
    }
    life.look(sound);
    assert!(life.looked_for.remote.asked.contains(&unlucky));
}

fn by(interface: &str) -> Fate {
    Fate::Leaves { interface: interface.to_owned(), gateway: None }
}

fn lost(loss: Loss) -> Fate {
    Fate::Lost(loss)
}

fn ways(wanted: &Host, fate: impl Fn(Address) -> Fate) -> Vec<Arc<Path>> {
    let out = wanted.remote.asked.iter().map(|&other| (Packet::ToOther(other), fate(other)));
    out.map(|(packet, fate)| Arc::new(Path { packet, fate, route: None })).collect()
}

/// All is as it should be.
fn sound(wanted: &Host) -> Host {
    Host {
        uplinks: [("eth0".to_owned(), 9001)].into(),
        paths: ways(wanted, |_| by("eth0")),
        remote: Box::default(),
        ..wanted.clone()
    }
}

/// A node in a cluster that was founded by seeds.
struct Life {
    node: Node,
    now: Timestamp,
    kernel: Kernel,
    /// The way to this one is lost.
    lost: Option<Address>,
    looked_for: Host,
    looks: u32,
    actions: Vec<Action>,
}

impl Life {
    fn of(hosts: u64, more: &str, kernel: Kernel) -> Life {
        let names: Vec<String> = (1..=hosts)
            .map(|number| format!("\"{}\"", weavers::peer::PeerName::from_u64(0x0200_0000_0000 + number)))
            .collect();
        let seed = names.join(", ");
        let text = format!("{more}[ipam]\nrange = \"10.32.0.0/12\"\ninit = \"seed\"\nseed = [{seed}]\n");
        let name = weavers::peer::PeerName::from_u64(0x0200_0000_0001);
        let birth = born(Identity { name, acceptor: PeerUid(1), instance: None });
        let config = config::parse(&text).unwrap();
        let node =
            Node::new(Timestamp::ZERO, birth, config, Memory::read(&BTreeMap::new()).unwrap()).unwrap();
        let mut life = Life {
            node,
            now: Timestamp::ZERO,
            kernel,
            lost: None,
            looked_for: Host::default(),
            looks: 0,
            actions: Vec::new(),
        };
        life.carry_out();
        life.idle(Duration::from_secs(10));
        life.actions.clear();
        life
    }

    /// Something changed on the host, and from now on the kernel says this.
    fn look(&mut self, kernel: Kernel) {
        self.kernel = kernel;
        self.idle(Duration::from_secs(1));
        self.tell(Input::Disturbed);
        self.idle(Duration::from_millis(500));
    }

    /// The same, while the way to one host is lost.
    fn lose(&mut self, address: Address) {
        self.lost = Some(address);
        self.look(sound);
        self.lost = None;
    }

    fn idle(&mut self, lasts: Duration) {
        let end = self.now + lasts;
        while let Some(due) = self.node.next_wake().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.tell(Input::Woken);
        }
        self.now = end;
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Save(id, _) => self.node.handle(self.now, Input::Stored(id, Ok(()))),
                Output::ObserveHost(wanted, _) => {
                    let mut seen = (self.kernel)(&wanted);
                    for path in &mut seen.paths {
                        if self.lost.is_some_and(|lost| path.packet == Packet::ToOther(lost)) {
                            Arc::make_mut(path).fate = lost(Loss::Prohibited);
                        }
                    }
                    (self.looked_for, self.looks) = (*wanted, self.looks + 1);
                    self.node.handle(self.now, Input::HostSeen(Ok(seen)));
                }
                Output::ObserveVpc(universe, _) => {
                    let target = Target::Interface(InterfaceId("eni-1".to_owned()));
                    let route = Route { target, state: RouteState::Active, created: true };
                    let table =
                        Table { routes: [(universe.range, route)].into(), used: 1, local: Vec::new() };
                    let tables = [(TableId("rtb-1".to_owned()).into(), table)].into();
                    let interface = InterfaceId("eni-1".to_owned());
                    let seen =
                        Vpc { interface, source_dest_check: Some(false), tables, retired: BTreeMap::new() };
                    self.node.handle(self.now, Input::VpcSeen(Ok(seen)));
                }
                Output::Apply(action) => {
                    self.actions.push(action.clone());
                    self.node.handle(self.now, Input::Applied(action, Ok(None)));
                }
                _ => {}
            }
        }
    }

    fn problems(&self) -> String {
        self.node.status().problems.iter().map(|note| format!("{}\n", note.what)).collect()
    }
}
