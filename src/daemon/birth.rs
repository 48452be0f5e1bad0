//! Before the loop: who this host is, what it remembers, and what it is told.

#[cfg(test)]
use std::net::IpAddr;
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Options, file::ConfigFile};
use crate::{
    config::Config,
    kernel::netns,
    mesh::{Endpoint, Hosts},
    metrics::Calls,
    node::{
        Birth,
        persist::memory::{self, Identity, Memory, Unreadable},
        protocol::request::{Refusal, RefusalKind},
    },
    peer::{PeerName, PeerUid},
    state::{FaultKind, TunnelKey},
    store::{self, Store},
    transport::{self, Answers},
    tunnel_key::{self, KeyError},
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
    pub(super) ec2: Option<Ec2>,
    /// What others are to know this host's end of tunnels by.
    pub(super) tunnel_key: Option<TunnelKey>,
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

pub(super) async fn begin(options: &Options, file: &ConfigFile, calls: &Calls) -> anyhow::Result<Born> {
    let mut config = file.config().clone();
    let ec2 = ec2(&config, calls).await;
    let (store, memory) = remember(options, ec2.as_ref())?;
    config.ipam.expected_peers = Some(count(&config, &memory).await?);
    let birth = birth(&config, &memory, ec2.as_ref())?;
    info!(name = %birth.identity.name, nickname = birth.nickname, instance = birth.identity.instance, "starting");
    let tunnel_key = tunnel_key(&config, || tunnel_key::load_or_make(&options.state).map(Some));
    Ok(Born { birth, config, memory, store, ec2, tunnel_key })
}

/// The key of this host's end of tunnels, where it is to have one. Without it hosts elsewhere are not reached, and all else goes on.
pub(super) fn tunnel_key(
    config: &Config,
    key: impl FnOnce() -> Result<Option<TunnelKey>, KeyError>,
) -> Option<TunnelKey> {
    let key = config.paths.tunnel.then(key)?;
    key.unwrap_or_else(|error| {
        tracing::error!(%error, "no tunnel leads to this host");
        None
    })
}

/// EC2, if this host is there and the instance metadata tells who we are. It is worth a moment's patience: a new host takes its
/// name from it.
pub(super) async fn ec2(config: &Config, calls: &Calls) -> Option<Ec2> {
    if !config.is_on_ec2() {
        return None;
    }
    let begun = Instant::now();
    loop {
        let fault = match Ec2::connect(config, calls.clone()).await {
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
fn remember(options: &Options, ec2: Option<&Ec2>) -> anyhow::Result<(Store, Memory)> {
    let path = &options.store();
    let store = Store::open(path)?;
    let memory = Memory::read(&store.load()?).map_err(|error| unreadable(error, path))?;
    let memory = Memory { recalled_s: seconds_since_1970(), ..memory };
    let made_on = memory.identity.as_ref().and_then(|identity| identity.instance.clone());
    match (made_on, ec2.map(|ec2| &ec2.identity().instance)) {
        (Some(other), Some(this)) if other != *this => {
            drop(store);
            tunnel_key::discard(&options.state).context("the copied key of a tunnel cannot be removed")?;
            let aside = store::set_aside(path, &other).context("a copied store cannot be set aside")?;
            warn!(made_on = other, this, aside = %aside.display(), "the store is another instance's: set aside");
            Ok((Store::open(path)?, Memory { recalled_s: memory.recalled_s, ..Memory::default() }))
        }
        _ => Ok((store, memory)),
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
        // What a host was before it left EC2 is nothing to go by, and to nobody else either.
        Some(identity) if !config.is_on_ec2() => Identity { instance: None, ..identity.clone() },
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

/// The password of the mesh. Fails where there is none: without the one that was asked for, a mesh in clear would be a surprise.
pub fn read_password(path: &Path) -> anyhow::Result<Vec<u8>> {
    let text = std::fs::read(path)
        .with_context(|| format!("[mesh] password_file {} cannot be read", path.display()))?;
    let password = text.trim_ascii_end().to_vec();
    anyhow::ensure!(!password.is_empty(), "[mesh] password_file {} is empty", path.display());
    Ok(password)
}

/// This host has left: nothing of what it was stays on the disk.
pub(super) fn forget(options: &Options) -> anyhow::Result<()> {
    std::fs::remove_file(options.store()).context("the store cannot be erased")?;
    tunnel_key::discard(&options.state).context("the key of the tunnel cannot be erased")
}

// ===== how many =====

/// Peers that the first ring waits for. A host that has a ring waits for nobody, whatever its peers are called.
pub(super) async fn count(config: &Config, memory: &Memory) -> Result<usize, Refusal> {
    let answers = resolved(config).await;
    match uncounted(config, &answers).filter(|_| memory.ipam.ring.is_none()) {
        Some(refusal) => Err(refusal),
        None => Ok(expected_peers(config, &answers)),
    }
}

/// What `peers` stands for, where the number of peers follows from it.
pub(super) async fn resolved(config: &Config) -> Answers {
    match config.ipam.expected_peers {
        Some(_) => Answers::new(),
        None => transport::resolve(config.peers.clone(), NAMES_PATIENCE).await,
    }
}

/// Peers that the first ring waits for: as configured, or the hosts that `peers` stands for other than this one, plus this one.
/// A name that cannot be resolved counts as another host.
pub(super) fn expected_peers(config: &Config, answers: &Answers) -> usize {
    if let Some(expected) = config.ipam.expected_peers {
        return expected;
    }
    let mut others = BTreeSet::new();
    for peer in &config.peers {
        let endpoint = Endpoint::parse(peer).ok();
        match (answers.get(peer), endpoint) {
            (Some(Ok(hosts)), Some(endpoint)) => {
                others.extend(hosts.others.iter().map(|other| endpoint.at(*other)));
            }
            (Some(Ok(_) | Err(_)) | None, _) => drop(others.insert(peer.clone())),
        }
    }
    others.len() + 1
}

/// Why the number of peers cannot follow from `peers`: hosts come and go behind a name, and hosts that count differently would
/// each found a ring.
pub(super) fn uncounted(config: &Config, answers: &Answers) -> Option<Refusal> {
    if config.ipam.expected_peers.is_some() {
        return None;
    }
    let hosts_of = |answer: &Result<Hosts, String>| answer.as_ref().map_or(0, Hosts::count);
    let (name, hosts) = answers.iter().find(|(_, answer)| hosts_of(answer) > 1)?;
    let message = format!(
        "peers: {name} stands for {} hosts, and ipam.expected_peers does not say how many form the first ring",
        hosts_of(hosts)
    );
    Some(Refusal::new(RefusalKind::Config, message).hint(
        "set [ipam] expected_peers to the number of hosts that form the first ring, the same on every host; \
         or list the hosts one by one",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers on a host with the address 10.0.1.11, by a resolver that knows these names.
    async fn answers(config: &Config, known: &[(&str, &[&str])]) -> Answers {
        let resolver = async |host: String| {
            let literal = host.parse().ok().map(|address: IpAddr| vec![address]);
            let named = known.iter().find(|(name, _)| *name == host);
            let parsed = named.map(|(_, found)| found.iter().map(|one| one.parse().unwrap()).collect());
            literal.or(parsed).ok_or_else(|| format!("cannot resolve {host}"))
        };
        let own: IpAddr = "10.0.1.11".parse().unwrap();
        transport::resolve_by(resolver, |address| address == own, config.peers.clone()).await
    }

    fn config(text: &str) -> Config {
        crate::config::parse(text).unwrap()
    }

    #[tokio::test]
    async fn three_hosts_with_one_name_for_all_do_not_found_three_rings() {
        let all: &[(&str, &[&str])] = &[("weave.internal", &["10.0.1.11", "10.0.1.12", "10.0.1.13"])];
        let implied = config("peers = ['weave.internal']");
        let found = answers(&implied, all).await;
        let refusal = uncounted(&implied, &found).unwrap();
        assert_eq!(refusal.kind, RefusalKind::Config);
        assert!(
            refusal.message.contains("weave.internal stands for 3 hosts")
                && refusal.message.contains("ipam.expected_peers"),
            "{}",
            refusal.message
        );
        assert_eq!(expected_peers(&implied, &found), 3, "and they are counted");
        let said = config("peers = ['weave.internal']\nipam.expected_peers = 5");
        let found = answers(&said, all).await;
        assert_eq!((uncounted(&said, &found), expected_peers(&said, &found)), (None, 5));
    }

    #[tokio::test]
    async fn names_of_single_hosts_are_counted_as_before() {
        let known: &[(&str, &[&str])] =
            &[("h1", &["127.0.1.1", "10.0.1.11"]), ("h2", &["10.0.1.12", "fd00::12"])];
        for (peers, expected) in [
            ("'h1', 'h2', 'h3'", 3),
            ("'h1', 'h2', '10.0.1.12'", 2),
            ("'10.0.1.11', '10.0.1.12', '10.0.1.13:7000'", 3),
            ("'h1'", 1),
        ] {
            let config = config(&format!("peers = [{peers}]"));
            let found = answers(&config, known).await;
            assert_eq!(
                (uncounted(&config, &found), expected_peers(&config, &found)),
                (None, expected),
                "{peers}"
            );
        }
    }
}
