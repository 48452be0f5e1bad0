//! The block that Docker's own bridge has to itself.

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    node::{
        Input,
        protocol::{
            request::{Request, Response},
            status::DockerBridgeStatus,
        },
    },
    state::{Docker0, Host as Seen, Surroundings},
};

use crate::lone_host::Host;

const ON: &str = "[docker]\nbridge = 'print'\nbridge_size = 26\n";
const SOON_MS: u64 = 2_000;

fn shown(host: &Host) -> DockerBridgeStatus {
    host.node.status().docker_bridge.expect("there is to be a block")
}

fn used(host: &Host) -> usize {
    host.node.overview().allocations().get("docker-bridge").map_or(0, Vec::len)
}

/// Docker is restarted with this address for its bridge.
fn docker0(host: &mut Host, address: &str, drops: bool) {
    let address: Ipv4Net = address.parse().unwrap();
    host.kernel.surroundings.docker0 = Some(Docker0 { address, drops });
    host.kernel.foreign = [(address.trunc(), "unicast dev docker0".to_owned())].into();
    if !address.to_string().starts_with("10.3") {
        host.kernel.foreign.clear();
    }
    host.tell(Input::Disturbed);
    host.pass(SOON_MS);
}

fn first_of(block: Ipv4Net) -> String {
    format!("{}/{}", std::net::Ipv4Addr::from(u32::from(block.network()) + 1), block.prefix_len())
}

#[test]
fn a_block_is_held_as_long_as_docker_0_has_it() {
    let mut host = Host::configured(ON, Seen::default());
    host.pass(SOON_MS);
    let (block, mtu) = host.node.overview().docker_bridge().expect("the disk has it");
    assert_eq!((block.prefix_len(), mtu, used(&host)), (26, 1376, 64));
    assert_eq!((shown(&host).block, shown(&host).agrees), (Some(block), false));
    docker0(&mut host, &first_of(block), false);
    assert!(
        shown(&host).agrees && host.node.status().problems.is_empty(),
        "{:?}",
        host.node.status().problems
    );
    assert!(host.node.overview().plan().conflicts.is_empty(), "its route is no conflict");
    host.ask(Request::Allocate { ident: "a".to_owned(), subnet: None });
    host.pass(SOON_MS);
    let Some(Ok(Response::Addresses(found))) = host.answers.pop() else { panic!("{:?}", host.answers) };
    assert!(!block.contains(&found[0].addr()), "nothing of it is handed out");
    host.reconfigure("");
    host.pass(SOON_MS);
    assert_eq!((used(&host), shown(&host).mode), (64, "off".to_owned()), "docker0 has it still");
    docker0(&mut host, "172.17.0.1/16", false);
    assert_eq!((used(&host), host.node.status().docker_bridge), (0, None));
}

#[test]
fn what_does_not_agree_is_named_with_what_to_do() {
    let mut host = Host::configured(ON, Seen::default());
    host.pass(SOON_MS);
    let (block, _) = host.node.overview().docker_bridge().unwrap();
    docker0(&mut host, "172.17.0.1/16", false);
    let problem = &host.node.status().problems[0];
    assert_eq!(
        problem.what,
        format!("docker0 has 172.17.0.1/16, and not the block {block} that is held for it")
    );
    assert!(problem.hint.as_ref().unwrap().contains("weavers docker bridge"), "{problem:?}");
    docker0(&mut host, &first_of(block), true);
    let problem = &host.node.status().problems[0];
    assert!(
        problem.what.contains("`raw`") && problem.hint.as_ref().unwrap().contains("allow-direct-routing")
    );
    host.reconfigure("[docker]\nbridge = 'write'\nbridge_size = 24\n");
    docker0(&mut host, &first_of(block), false);
    let problem = &host.node.status().problems[0];
    assert!(problem.what.contains("bridge_size is 24, and docker0 has"), "{problem:?}");
    assert_eq!(used(&host), 64, "it keeps what it has");
}

#[test]
fn a_lost_store_holds_what_docker_0_has_before_anybody_is_given_an_address_of_it() {
    let address: Ipv4Net = "10.32.0.1/28".parse().unwrap();
    let seen = Seen {
        surroundings: Surroundings { docker0: Some(Docker0 { address, drops: false }), tracking: None },
        foreign: [(address.trunc(), "unicast dev docker0".to_owned())].into(),
        ..Seen::default()
    };
    let mut host = Host::configured(ON, seen);
    host.ask(Request::Allocate { ident: "a".to_owned(), subnet: None });
    host.pass(SOON_MS);
    assert_eq!(shown(&host).block, Some(address.trunc()));
    let Some(Ok(Response::Addresses(found))) = host.answers.pop() else { panic!("{:?}", host.answers) };
    assert!(Address::from(found[0].addr()) > Address::from(address.broadcast()), "{found:?}");
    assert!(host.node.overview().plan().conflicts.is_empty());
}
