//! Reads what there is to read. Nothing is changed: calls that write are asked as dry runs.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path, process::Stdio, time::Duration};

use futures_util::future::join_all;
use tokio::process::Command;

use super::facts::{Cloud, Facts, Outcome, Probe};
use crate::{
    api::{ApiRequest, client::call},
    config::{self, Config},
    config_files,
    daemon::read_password,
    kernel::{Kernel, watch::Changes},
    metrics::Calls,
    node::protocol::{
        request::{Request, Response},
        status::Status,
    },
    state::{Fault, FaultKind, Host, Scope},
    vpc::Ec2,
};

/// How long the daemon may take for an answer.
const DAEMON_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Peers whose hosts are sent packets.
const PROBES_MAX: usize = 16;
/// The packets that any network carries: IPv4 and ICMP headers and this many bytes.
const SMALL: u32 = 576;
const HEADERS: u32 = 28;
/// Kernel settings that are judged.
const SYSCTLS: [&str; 1] = ["net.ipv4.ip_forward"];

/// All that can be read on this host, with its daemon and without.
pub async fn gather(file: &Path, socket: &Path) -> Facts {
    let sources = config_files::read(file).map_err(|error| format!("{error:#}"));
    let name = file.display().to_string();
    let config = sources.and_then(|sources| match config::check(&sources) {
        Ok((config, _)) => Ok(config),
        Err(problems) => Err(problems.to_string()),
    });
    let password = config.as_ref().ok().and_then(|config| config.mesh.password_file.as_deref());
    let password =
        password.map(|path| read_password(path).map(|password| password.len()).map_err(|e| format!("{e:#}")));
    let daemon = daemon(socket).await;
    let known = config.clone().unwrap_or_default();
    let has_v6 = config.as_ref().is_ok_and(|config| config.network.ipv6.is_some());
    let (cloud, host, nft) = tokio::join!(cloud(config.as_ref().ok()), host(has_v6), nft());
    let probes = probes(daemon.as_deref().ok(), &known, host.as_ref().ok()).await;
    Facts { file: (name, config), password, daemon, cloud, host, nft, probes }
}

/// Its status, by looks and probes begun now; of a daemon of an earlier version, which knows no such question, as it is.
async fn daemon(socket: &Path) -> Result<Box<Status>, String> {
    match ask_daemon(socket, Request::Examine).await {
        Ok(status) => Ok(status),
        Err(_) => ask_daemon(socket, Request::Status).await,
    }
}

async fn ask_daemon(socket: &Path, request: Request) -> Result<Box<Status>, String> {
    match call(socket, &ApiRequest::Node(request), DAEMON_ANSWERS_WITHIN).await {
        Ok(Response::Status(status)) => Ok(status),
        Ok(_) => Err("it answers with something else than its status".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Where EC2 is to be asked follows from the file. One that does not answer is not asked again and again.
async fn cloud(config: Option<&Config>) -> Result<Cloud, Fault> {
    if config.is_some_and(|config| !config.is_on_ec2()) {
        return Err(outside());
    }
    let ec2 = Ec2::connect(&config.cloned().unwrap_or_default(), Calls::new()).await?;
    let identity = ec2.identity().clone();
    let tables = match config {
        Some(config) => {
            let tables = config.vpc.route_tables.serving(BTreeSet::new());
            ec2.observe(&config.universe(), &tables).await
        }
        None => Err(no_file()),
    };
    let silent = tables.as_ref().err().filter(|fault| fault.kind == FaultKind::Unreachable).cloned();
    let (permissions, groups) = match (config, silent) {
        (None, _) => (Vec::new(), Err(no_file())),
        (Some(_), Some(fault)) => (Vec::new(), Err(fault)),
        (Some(config), None) => {
            let table =
                tables.as_ref().ok().and_then(|seen| seen.tables.keys().next()).map(|side| &side.table);
            (ec2.permissions(table, config.ipam.range).await, ec2.security_groups().await)
        }
    };
    Ok(Cloud {
        identity,
        ahead_s: ec2.clock_ahead_s(),
        tables,
        lists: ec2.unread_lists(),
        permissions,
        groups,
    })
}

fn outside() -> Fault {
    Fault {
        kind: FaultKind::Invalid,
        message: "this host is outside EC2".to_owned(),
        hint: None,
        request_id: None,
    }
}

fn no_file() -> Fault {
    Fault {
        kind: FaultKind::Unreachable,
        message: "EC2 was not asked: where and how follows from the configuration file, which is not valid"
            .to_owned(),
        hint: None,
        request_id: None,
    }
}

/// A first look says which interfaces are uplinks, and so which settings there are to read.
async fn host(has_v6: bool) -> Result<Host, Fault> {
    let mut kernel = Kernel::new(Changes::default())?;
    let uplinks = kernel.observe(&Host::default(), Scope::Whole).await?.uplinks;
    let of_uplinks = uplinks.keys().map(|name| format!("net.ipv4.conf.{name}.forwarding"));
    let of_v6 = has_v6.then(|| "net.ipv6.conf.all.forwarding".to_owned());
    let names = of_uplinks.chain(SYSCTLS.map(ToOwned::to_owned)).chain(of_v6);
    let sysctls = names.map(|name| (name, String::new())).collect();
    kernel.observe(&Host { sysctls, ..Host::default() }, Scope::Whole).await
}

async fn nft() -> Result<String, String> {
    let said = Command::new("nft").arg("--version").stdin(Stdio::null()).output().await;
    match said {
        Ok(said) if said.status.success() => Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned()),
        Ok(said) => Err(String::from_utf8_lossy(&said.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

// ===== packets as large as the containers' =====

async fn probes(status: Option<&Status>, config: &Config, host: Option<&Host>) -> Vec<Probe> {
    let uplink = host.and_then(|host| host.uplinks.values().min().copied());
    let Some(size) = config.network.mtu.or(uplink) else { return Vec::new() };
    let connections = status.into_iter().flat_map(|status| &status.connections);
    let remotes = connections.filter_map(|one| one.address.rsplit_once(':')?.0.parse::<Ipv4Addr>().ok());
    let mut remotes: Vec<Ipv4Addr> = remotes.collect();
    remotes.sort();
    remotes.dedup();
    join_all(remotes.into_iter().take(PROBES_MAX).map(|to| probe(to, size))).await
}

async fn probe(to: Ipv4Addr, size: u32) -> Probe {
    let outcome = match ping(to, size).await {
        None => Outcome::NoTool,
        Some(true) => Outcome::Large,
        Some(false) => match ping(to, SMALL.min(size)).await {
            Some(true) => Outcome::SmallOnly,
            Some(false) | None => Outcome::Nothing,
        },
    };
    Probe { to, size, outcome }
}

/// Whether a packet of this size comes back; `None` where there is no `ping`.
async fn ping(to: Ipv4Addr, size: u32) -> Option<bool> {
    let payload = size.saturating_sub(HEADERS).to_string();
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-M", "do", "-c", "2", "-i", "0.2", "-W", "1", "-s", &payload]);
    let ended = command.arg(to.to_string()).stdin(Stdio::null()).kill_on_drop(true).output().await;
    ended.ok().map(|ended| ended.status.success())
}
