//! Before the loop: who this host is, what it remembers, and what it is told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Options, file::ConfigFile};
use crate::{
    config::Config,
    kernel::{Kernel, netns},
    node::{
        Birth,
        memory::{self, Identity, Memory, Unreadable},
        request::{Refusal, RefusalKind},
    },
    peer::{PeerName, PeerUid},
    state::FaultKind,
    store::{self, Store},
    vpc::Ec2,
};

/// How long a start waits for the instance metadata before it goes on with what it remembers.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);
const METADATA_PAUSE: Duration = Duration::from_millis(100);
/// How long it waits for the names of peers, to find itself among them.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// All that a daemon begins with.
pub(super) struct Born {
    pub(super) birth: Birth,
    pub(super) config: Config,
    pub(super) memory: Memory,
    pub(super) store: Store,
    pub(super) kernel: Kernel,
    pub(super) ec2: Option<Ec2>,
}

/// A configuration that was tried when the last daemon ended, if the store has one.
pub(super) fn trial(options: &Options) -> anyhow::Result<Option<memory::Trial>> {
    let path = options.store();
    if !path.exists() {
        return Ok(None);
    }
    let memory = Memory::read(&Store::open(&path)?.load()?).map_err(|error| unreadable(error, &path))?;
    Ok(memory.trial)
}

pub(super) async fn begin(options: &Options, file: &ConfigFile) -> anyhow::Result<Born> {
    let mut config = file.config().clone();
    config.ipam.expected_peers = Some(expected_peers(&config).await);
    let ec2 = ec2(&config).await;
    let (store, memory) = remember(&options.store(), ec2.as_ref())?;
    let birth = birth(&config, &memory, ec2.as_ref())?;
    let kernel = Kernel::new()?;
    info!(name = %birth.identity.name, nickname = birth.nickname, instance = birth.identity.instance, "starting");
    Ok(Born { birth, config, memory, store, kernel, ec2 })
}

/// EC2, if the instance metadata tells who we are. It is worth a moment's patience: a new host takes its
/// name from it.
pub(super) async fn ec2(config: &Config) -> Option<Ec2> {
    let begun = Instant::now();
    loop {
        let fault = match Ec2::connect(config).await {
            Ok(ec2) => return Some(ec2),
            Err(fault) => fault,
        };
        if fault.kind != FaultKind::Unreachable || begun.elapsed() > METADATA_PATIENCE {
            warn!(%fault, hint = fault.hint, "the instance metadata cannot be read");
            return None;
        }
        sleep(METADATA_PAUSE).await;
    }
}

/// Opens the store. One that was made on another instance came with a copied disk: it is set aside,
/// since two hosts with one name and the same ranges would take each other's routes.
fn remember(path: &Path, ec2: Option<&Ec2>) -> anyhow::Result<(Store, Memory)> {
    let store = Store::open(path)?;
    let memory = Memory::read(&store.load()?).map_err(|error| unreadable(error, path))?;
    let made_on = memory.identity.as_ref().and_then(|identity| identity.instance.clone());
    match (made_on, ec2.map(|ec2| &ec2.identity().instance)) {
        (Some(other), Some(this)) if other != *this => {
            drop(store);
            let aside = store::set_aside(path, &other).context("a copied store cannot be set aside")?;
            warn!(made_on = other, this, aside = %aside.display(), "the store is another instance's: set aside");
            Ok((Store::open(path)?, Memory::default()))
        }
        _ => Ok((store, memory)),
    }
}

/// A newer store is no accident: starting again and again does not help.
fn unreadable(error: Unreadable, path: &Path) -> anyhow::Error {
    match error {
        Unreadable::Newer { .. } => Refusal::new(RefusalKind::Unsafe, error.to_string())
            .hint(format!(
                "install that version again; or move {} aside, and this host starts without its memory",
                path.display()
            ))
            .into(),
        Unreadable::Corrupt { .. } => error.into(),
    }
}

pub(super) fn birth(config: &Config, memory: &Memory, ec2: Option<&Ec2>) -> anyhow::Result<Birth> {
    let identity = match &memory.identity {
        Some(identity) => identity.clone(),
        None => new_identity(config, ec2.map(|ec2| ec2.identity().instance.clone()))?,
    };
    Ok(Birth {
        identity,
        uid: PeerUid(rand::random::<u64>().max(1)),
        nickname: config.mesh.nickname.clone().unwrap_or_else(host_name),
        password: config.mesh.password_file.as_deref().map(read_password).transpose()?,
        boot: netns::boot_id().to_owned(),
        seed: rand::random(),
    })
}

/// A name from the instance, so that a host that lost its store comes back under the same.
fn new_identity(config: &Config, instance: Option<String>) -> anyhow::Result<Identity> {
    let name = match (config.mesh.name, &instance) {
        (Some(name), _) => name,
        (None, Some(instance)) => name_from(instance),
        (None, None) => name_from(&machine_id()?),
    };
    Ok(Identity { name, acceptor: PeerUid(rand::random::<u64>().max(1)), instance })
}

fn name_from(text: &str) -> PeerName {
    let digest = Sha256::digest(format!("weavers {text}"));
    let [a, b, c, d, e, f, ..] = *digest.as_array::<32>().expect("SHA-256 has 32 bytes");
    PeerName::from_digest([a, b, c, d, e, f])
}

fn machine_id() -> anyhow::Result<String> {
    let id = std::fs::read_to_string("/etc/machine-id")
        .context("no instance metadata and no /etc/machine-id to make a peer name of: set `[mesh] name`")?;
    Ok(id.trim().to_owned())
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unnamed".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Without the password that was asked for, a mesh in clear would be a surprise.
fn read_password(path: &Path) -> anyhow::Result<Vec<u8>> {
    let text = std::fs::read(path)
        .with_context(|| format!("[mesh] password_file {} cannot be read", path.display()))?;
    let password = text.trim_ascii_end().to_vec();
    anyhow::ensure!(!password.is_empty(), "[mesh] password_file {} is empty", path.display());
    Ok(password)
}

/// Peers that the first ring waits for: as configured, or those of `peers` that are not this host,
/// plus this host.
pub(super) async fn expected_peers(config: &Config) -> usize {
    if let Some(expected) = config.ipam.expected_peers {
        return expected;
    }
    let own: BTreeSet<IpAddr> = own_addresses();
    let targets: BTreeSet<String> = config.peers.iter().cloned().collect();
    let lookups =
        tokio::task::spawn_blocking(move || targets.iter().filter(|peer| !is_own(peer, &own)).count());
    let others = match timeout(NAMES_PATIENCE, lookups).await {
        Ok(Ok(others)) => others,
        _ => config.peers.len(),
    };
    others + 1
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let of = |address: nix::sys::socket::SockaddrStorage| {
        address
            .as_sockaddr_in()
            .map(|v4| IpAddr::from(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    addresses.filter_map(|interface| interface.address.and_then(of)).collect()
}

/// A name that cannot be resolved counts as another host.
fn is_own(target: &str, own: &BTreeSet<IpAddr>) -> bool {
    let with_port = if target.parse::<IpAddr>().is_ok() || !target.contains(':') {
        (target.trim_matches(['[', ']']), 0).to_socket_addrs()
    } else {
        target.to_socket_addrs()
    };
    with_port.is_ok_and(|mut addresses| addresses.any(|address| own.contains(&address.ip())))
}
