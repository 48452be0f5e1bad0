//! What the plan is, story by story. Each folder of `plan/` is one: `weave.toml`, what the host remembers
//! (`facts.toml`), what was seen (`actual.toml`), and the plan as people read it (`plan.txt`).
//!
//! A node is asked, so the way from the configuration to the desired state is walked too. With `WEAVERS_REWRITE=1` the plans
//! are written anew; read the difference before you keep it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anstream::adapter::strip_str;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, de::DeserializeOwned};
use weavers::{
    addr::Address,
    cli::render,
    config::{self, Config},
    ipam::{Ring, Saved, ring::Entry},
    node::{
        Birth, Input, Node, Output,
        persist::memory::{Attached, Identity, Memory},
        protocol::request::{Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    plan::Plan,
    state::{Forward, Host, InterfaceId, Link, Netns, Route, RouteState, Rules, Side, Table, Target, Vpc},
    time::Timestamp,
};

use crate::born::born;

/// Peers by the names that the cases use.
const PEERS: [&str; 4] = ["us", "b", "c", "d"];
const BOOT: &str = "this-boot";
/// How long a plan waits for looks.
const LOOKS: Duration = Duration::from_secs(3);

/// What the host remembers, and what it was asked before it is asked for its plan.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    /// First address of each piece of the ring, and its owner; none: there is no ring.
    #[serde(default)]
    ring: BTreeMap<Address, String>,
    #[serde(default)]
    attached: BTreeMap<String, Container>,
    #[serde(default)]
    reset: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Container {
    address: Address,
    netns: u64,
}

/// What was seen. A part that is absent could not be read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    host: Option<SeenHost>,
    vpc: Option<SeenVpc>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenHost {
    ip_forward: String,
    /// The uplinks that the loaded ruleset was made for; absent: none is loaded.
    rules: Option<BTreeSet<String>>,
    /// The chain that drops our packets, and that we may amend.
    closed_by: Option<String>,
    /// Whether it lacks the gateway's address.
    #[serde(default)]
    no_gateway: bool,
    #[serde(default)]
    blocks: BTreeSet<IpNet>,
    #[serde(default)]
    links: BTreeMap<Address, SeenLink>,
    #[serde(default)]
    gone: BTreeSet<Address>,
    #[serde(default)]
    foreign: BTreeMap<Ipv4Net, String>,
    #[serde(default)]
    uplinks: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenLink {
    mtu: u32,
    netns: Option<u64>,
    #[serde(default)]
    faults: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenVpc {
    source_dest_check: Option<bool>,
    /// Where each route leads: `eni-…`, with `blackhole` behind it where it does not arrive, or another target.
    tables: BTreeMap<Side, BTreeMap<Ipv4Net, String>>,
    /// Routes of a table that are not listed: they lie outside the range.
    #[serde(default)]
    others: usize,
}

#[test]
fn every_case_has_the_plan_that_its_folder_holds() {
    let cases = cases();
    assert!(cases.len() >= 15, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let plan = Case::read(&case).plan();
        let text = strip_str(&render::plan::pending(&plan)).to_string() + "\n";
        let expected = case.join("plan.txt");
        if std::env::var_os("WEAVERS_REWRITE").is_some() {
            fs::write(&expected, &text).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if text != wanted {
            wrong.push(format!("{}\nexpected:\n{wanted}found:\n{text}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_plan_is_told_by_looks_begun_when_it_is_asked_for() {
    let (well, broken) = (Case::named("nothing-to-do"), Case::named("a-missing-route"));
    for question in [Input::Asked(RequestId(1), Request::Plan), broken.question(RequestId(1))] {
        let mut asked = well.asked();
        well.settle(&mut asked);
        assert_eq!(asked.tell(question), None, "nothing is told by what was seen before");
        let plan = broken.show(&mut asked).unwrap();
        assert!(!plan.changes.is_empty(), "{plan:?}");
    }
}

#[test]
fn a_plan_says_what_could_not_be_looked_at_in_time() {
    let well = Case::named("nothing-to-do");
    let mut asked = well.asked();
    well.settle(&mut asked);
    assert_eq!(asked.tell(Input::Asked(RequestId(1), Request::Plan)), None);
    asked.tell(Input::HostSeen(Ok(well.host(well.seen.host.as_ref().unwrap()))));
    asked.now = asked.node.next_wake().unwrap().max(asked.now + LOOKS);
    let plan = asked.tell(Input::Woken).unwrap();
    assert_eq!(plan.unread, ["the VPC could not be looked at within 3s: as last seen"]);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/plan")
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

struct Case {
    config: Config,
    facts: Facts,
    seen: Seen,
}

impl Case {
    fn named(name: &str) -> Case {
        Case::read(&folder().join(name))
    }

    /// What would change under the configuration of this case.
    fn question(&self, id: RequestId) -> Input {
        Input::Previewed(id, Box::new(self.config.clone()))
    }

    fn read(folder: &Path) -> Case {
        Case {
            config: config::parse(&text(folder, "weave.toml"))
                .unwrap_or_else(|e| panic!("{}: {e:?}", folder.display())),
            facts: parsed(folder, "facts.toml"),
            seen: parsed(folder, "actual.toml"),
        }
    }

    /// The plan of a node that was shown the world.
    fn plan(&self) -> Plan {
        let mut asked = self.asked();
        self.show(&mut asked);
        if self.facts.reset {
            asked.tell(Input::Asked(RequestId(1), Request::Reset));
        }
        asked.node.overview().with_impact(asked.node.overview().plan().clone())
    }

    /// No look is under way any more: the second compares with what the first has found.
    fn settle(&self, asked: &mut Asked) {
        for _ in 0..2 {
            self.show(asked);
        }
    }

    /// What its looks bring.
    fn show(&self, asked: &mut Asked) -> Option<Plan> {
        let host = self.seen.host.as_ref().and_then(|host| asked.tell(Input::HostSeen(Ok(self.host(host)))));
        let vpc = self.seen.vpc.as_ref().and_then(|vpc| asked.tell(Input::VpcSeen(Ok(seen_vpc(vpc)))));
        vpc.or(host)
    }

    /// A node that was shown nothing yet.
    fn asked(&self) -> Asked {
        let name = peer("us");
        let identity = Identity { name, acceptor: PeerUid(1), instance: None };
        let birth = Birth { boot: BOOT.to_owned(), ..born(identity.clone()) };
        let memory = Memory {
            identity: Some(identity),
            ipam: Saved { ring: self.ring(), paxos: None, allocations: self.allocations(), rest: Vec::new() },
            takeover: Default::default(),
            attached: self.attached(),
            links_known: true,
            ..Memory::default()
        };
        let node = Node::new(Timestamp::ZERO, birth, self.config.clone(), memory).unwrap();
        Asked { node, now: Timestamp::ZERO }
    }

    fn ring(&self) -> Option<Ring> {
        let universe = self.config.ipam.range.into();
        let entry = |(token, owner): (&Address, &String)| Entry {
            token: *token,
            owner: peer(owner),
            version: 1,
            free: 0,
        };
        let entries: Vec<Entry> = self.facts.ring.iter().map(entry).collect();
        let seeds: Vec<PeerName> = entries.iter().map(|entry| entry.owner).collect();
        (!entries.is_empty()).then(|| Ring::from_parts(peer("us"), universe, entries, seeds).unwrap())
    }

    fn allocations(&self) -> BTreeMap<String, Vec<Ipv4Net>> {
        let all = self.facts.attached.iter();
        all.map(|(ident, container)| (ident.clone(), vec![self.with_length(container.address)])).collect()
    }

    fn attached(&self) -> BTreeMap<String, Attached> {
        let attached = |(ident, container): (&String, &Container)| {
            let netns = Some(netns(container.netns));
            let address = Some(self.with_length(container.address));
            (
                ident.clone(),
                Attached { ident: ident.clone(), named: true, netns, address, ..Attached::default() },
            )
        };
        self.facts.attached.iter().map(attached).collect()
    }

    fn with_length(&self, address: Address) -> Ipv4Net {
        Ipv4Net::new(address.into(), self.config.ipam.range.prefix_len()).unwrap()
    }

    fn host(&self, seen: &SeenHost) -> Host {
        let range = self.config.ipam.range;
        let link = |link: &SeenLink| Link {
            netns: link.netns.map(netns),
            mtu: link.mtu,
            range,
            faults: link.faults.clone(),
            ..Link::default()
        };
        Host {
            sysctls: [("net.ipv4.ip_forward".to_owned(), seen.ip_forward.clone())].into(),
            rules: seen.rules.clone().map(|uplinks| Rules {
                range,
                prefix: self.config.network.ipv6,
                uplinks,
                mesh_port: self.config.mesh.listen.port(),
                metrics_port: self.config.metrics.map(|listen| listen.port()),
                block_metadata: self.config.network.block_metadata,
                isolation: self.config.ipam.isolation.clone().into(),
                encrypted: BTreeSet::new(),
                tunnel_source: None,
            }),
            forward: seen.closed_by.clone().map_or(Forward::Open, Forward::Closed),
            gateway: !seen.no_gateway,
            blocks: seen.blocks.clone(),
            links: Arc::new(seen.links.iter().map(|(address, seen)| (*address, link(seen).into())).collect()),
            gone: seen.gone.clone(),
            foreign: seen.foreign.clone(),
            uplinks: seen.uplinks.clone(),
            ..Host::default()
        }
    }
}

/// A node that is told things; whatever it saves is on disk at once.
struct Asked {
    node: Node,
    now: Timestamp,
}

impl Asked {
    fn tell(&mut self, input: Input) -> Option<Plan> {
        let mut inputs = vec![input];
        let mut plan = None;
        while let Some(input) = inputs.pop() {
            self.now += Duration::from_millis(1);
            self.node.handle(self.now, input);
            while let Some(output) = self.node.next_output() {
                match output {
                    Output::Save(id, _) => inputs.push(Input::Stored(id, Ok(()))),
                    Output::Answer(_, Ok(Response::Plan(answer))) => plan = Some(*answer),
                    _ => {}
                }
            }
        }
        plan
    }
}

fn seen_vpc(seen: &SeenVpc) -> Vpc {
    let table = |routes: &BTreeMap<Ipv4Net, String>| Table {
        used: routes.len() + seen.others,
        routes: routes.iter().map(|(cidr, target)| (*cidr, route(target))).collect(),
        local: vec!["172.31.0.0/16".parse().unwrap()],
    };
    Vpc {
        interface: InterfaceId("eni-us".to_owned()),
        source_dest_check: seen.source_dest_check,
        tables: seen.tables.iter().map(|(id, routes)| (id.clone(), table(routes))).collect(),
        retired: BTreeMap::new(),
    }
}

fn route(text: &str) -> Route {
    let (target, state) = match text.strip_suffix(" blackhole") {
        Some(target) => (target, RouteState::Blackhole),
        None => (text, RouteState::Active),
    };
    let target = match target.starts_with("eni-") {
        true => Target::Interface(InterfaceId(target.to_owned())),
        false => Target::Other(target.to_owned()),
    };
    Route { target, state, created: true }
}

fn netns(cookie: u64) -> Netns {
    Netns::new(BOOT, cookie, format!("/run/netns/{cookie}"))
}

fn peer(name: &str) -> PeerName {
    let number = PEERS.iter().position(|peer| *peer == name).unwrap_or_else(|| panic!("no peer `{name}`"));
    PeerName::from_u64(0x0200_0000_0001 + number as u64)
}

fn parsed<T: DeserializeOwned>(folder: &Path, file: &str) -> T {
    toml::from_str(&text(folder, file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", folder.display()))
}

fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", folder.display()))
}
