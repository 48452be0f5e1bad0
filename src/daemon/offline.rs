//! The plan without a daemon: that of a node that is shown the world, and whose hands are tied.

use tokio::time::Instant;

use super::{Options, birth, file::ConfigFile, hands};
use crate::{
    kernel::{Kernel, watch::Changes},
    metrics::Calls,
    node::{Input, Node, Output, persist::memory::Memory},
    plan::Plan,
    state::{Fault, FaultKind, Scope},
    store::Store,
    time::Timestamp,
    tunnel_key,
};

/// Looks that a node may ask for before it is asked for its plan: the second compares with what
/// the first has found.
const LOOKS_MAX: usize = 4;

pub(super) async fn plan(options: Options, memory: Option<Memory>) -> anyhow::Result<Plan> {
    let memory = memory.map_or_else(|| remembered(&options), Ok)?;
    let mut config = ConfigFile::read(&options.config, birth::trial(&options)?.as_ref())?.config().clone();
    let ec2 = birth::ec2(&config, &Calls::new()).await;
    config.ipam.expected_peers = Some(birth::count(&config, &memory).await?);
    let birth = birth::birth(&config, &memory, ec2.as_ref())?;
    let tunnel_key = birth::tunnel_key(&config, || tunnel_key::load(&options.state));
    let mut kernel = Kernel::new(Changes::default())?;
    let clock = Instant::now();
    let now = || Timestamp::from_micros(clock.elapsed().as_micros() as u64);
    let mut node = Node::new(Timestamp::ZERO, birth, config, memory)?;
    if let Some(ec2) = &ec2 {
        node.handle(now(), Input::Identified(hands::metadata(ec2)));
    }
    if let Some(key) = tunnel_key {
        node.handle(now(), Input::Keyed(key));
    }
    let mut looks = 0;
    while let Some(output) = node.next_output() {
        match output {
            Output::ObserveHost(wanted, _) if looks < LOOKS_MAX => {
                looks += 1;
                let seen = kernel.observe(&wanted, Scope::Whole).await;
                node.handle(now(), Input::HostSeen(seen));
            }
            Output::ObserveVpc(universe, tables) if looks < LOOKS_MAX => {
                looks += 1;
                let seen = match &ec2 {
                    Some(ec2) => ec2.observe(&universe, &tables).await,
                    None => Err(no_metadata()),
                };
                node.handle(now(), Input::VpcSeen(seen));
            }
            Output::ObservePlaces(addresses) => {
                let seen = match &ec2 {
                    Some(ec2) => ec2.places(&addresses).await,
                    None => Err(no_metadata()),
                };
                node.handle(now(), Input::PlacesSeen(seen));
            }
            Output::Save(id, _) => node.handle(now(), Input::Stored(id, Ok(()))),
            _ => {}
        }
    }
    Ok(node.overview().with_impact(node.overview().plan().clone()))
}

/// What is saved; a store that is not there is not made.
fn remembered(options: &Options) -> anyhow::Result<Memory> {
    let path = options.store();
    if !path.exists() {
        return Ok(Memory::default());
    }
    Ok(Memory::read(&Store::open(&path)?.load()?)?)
}

fn no_metadata() -> Fault {
    Fault {
        kind: FaultKind::Unreachable,
        message: "the instance metadata cannot be read".to_owned(),
        hint: None,
        request_id: None,
    }
}
