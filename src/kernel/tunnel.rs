//! The tunnel: a WireGuard device, made by rtnetlink, and set and read by `wg`.
//!
//! `wg` is a process. It is asked in looks only, where there is a device, and in those at what has changed only if the device may have.
//! The kernel tells nobody what others do to the ends of a tunnel: that is seen when all is looked at.

use std::{
    env,
    net::SocketAddrV4,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, LinkWireguard};
use tokio::process::Command;

use super::{
    fault::{Cause, already_gone, already_there, fault, found},
    link::{self, End},
    nft::{Said, run_command},
    seen::Seen,
    watch::Told,
};
use crate::state::{
    Fault, FaultKind, HEARD_WITHIN, HostAction, KEEPALIVE_S, Remote, Scope, TUNNEL, Tunnel, TunnelKey,
    TunnelPeer,
};

/// For tests: the program that makes the device where the kernel has no WireGuard, as `wireguard-go` does.
const USERSPACE: &str = "WEAVERS_USERSPACE_WIREGUARD";
/// Ends that are read, at most.
const PEERS_MAX: usize = 8192;

/// The device, and how it was found.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// Where the private key is.
    key: Option<PathBuf>,
    /// Found by the look before, of the device of this index.
    last: Option<(u32, Result<Arc<Tunnel>, Fault>)>,
    /// It was changed by ours since.
    is_touched: bool,
}

impl Device {
    /// The private key of this host is in this file.
    pub fn set_key(&mut self, file: PathBuf) {
        self.key = Some(file);
    }

    /// What there is of it.
    pub async fn observe(&mut self, seen: &Seen, scope: Scope, told: &Told, remote: &mut Remote) {
        let Some(end) = seen.links.iter().find(|end| end.name == TUNNEL) else {
            self.last = None;
            return;
        };
        let is_touched = std::mem::take(&mut self.is_touched);
        let may_differ =
            scope != Scope::Changed || is_touched || told.lost || told.interfaces.contains(&end.index);
        let last = self.last.take().filter(|(index, _)| !may_differ && *index == end.index);
        let read = match last {
            Some((_, read)) => read.map(|tunnel| with_link(&tunnel, end)),
            None => read(end).await,
        };
        match &read {
            Ok(tunnel) => remote.tunnel = Some(tunnel.clone()),
            Err(why) => remote.tunnel_unread = Some(why.clone()),
        }
        self.last = Some((end.index, read));
    }

    /// Carries out an action on it.
    pub async fn apply(&mut self, handle: &Handle, action: &HostAction) -> Result<(), Fault> {
        self.is_touched = true;
        match action {
            HostAction::SetTunnel { port, mtu, .. } => self.set_up(handle, *port, *mtu).await,
            HostAction::SetTunnelPeer { key, endpoint, allowed } => {
                let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                let endpoint = endpoint.map(|endpoint| endpoint.to_string());
                let (key, allowed, keepalive) = (key.to_string(), allowed.join(","), KEEPALIVE_S.to_string());
                let mut words = vec!["set", TUNNEL, "peer", &key, "persistent-keepalive", &keepalive];
                words.extend(["allowed-ips", &allowed]);
                words.extend(endpoint.iter().flat_map(|endpoint| ["endpoint", endpoint.as_str()]));
                wg(&words).await.map(drop)
            }
            HostAction::DeleteTunnelPeer(key) => {
                wg(&["set", TUNNEL, "peer", &key.to_string(), "remove"]).await.map(drop)
            }
            HostAction::DeleteTunnel => remove(handle).await,
            other => Err(found(FaultKind::Invalid, format!("not an action on the tunnel: {other:?}"))),
        }
    }

    async fn set_up(&self, handle: &Handle, port: u16, mtu: u32) -> Result<(), Fault> {
        let Some(key) = &self.key else {
            return Err(found(FaultKind::Invalid, "this host has no key for a tunnel"));
        };
        let end = match link::find(handle, TUNNEL).await? {
            Some(end) => end,
            None => make(handle).await?,
        };
        let (key, port) = (key.to_string_lossy(), port.to_string());
        wg(&["set", TUNNEL, "private-key", &key, "listen-port", &port]).await?;
        let settings = LinkMessageBuilder::<LinkUnspec>::new().index(end.index).mtu(mtu).up().build();
        let set = handle.link().set(settings).execute().await;
        set.map_err(|error| fault(format_args!("setting {TUNNEL} up with an MTU of {mtu}"), &error))
    }
}

/// Whether an action is one on the tunnel.
pub(super) fn is_of_tunnel(action: &HostAction) -> bool {
    matches!(
        action,
        HostAction::SetTunnel { .. }
            | HostAction::SetTunnelPeer { .. }
            | HostAction::DeleteTunnelPeer(_)
            | HostAction::DeleteTunnel
    )
}

async fn make(handle: &Handle) -> Result<End, Fault> {
    let made = handle.link().add(LinkMessageBuilder::<LinkWireguard>::new(TUNNEL).build()).execute().await;
    match already_there(made) {
        Ok(()) => {}
        Err(error) if is_unknown_kind(&error) => make_in_user_space().await?,
        Err(error) => return Err(fault(format_args!("making {TUNNEL}"), &error)),
    }
    let made = link::find(handle, TUNNEL).await?;
    made.ok_or_else(|| found(FaultKind::Outdated, format!("{TUNNEL} was made and is not there")))
}

fn is_unknown_kind(error: &Error) -> bool {
    matches!(error.errno(), Errno::EOPNOTSUPP | Errno::ENODEV)
}

/// For tests, on a kernel without WireGuard. The program goes on by itself once the device is there.
async fn make_in_user_space() -> Result<(), Fault> {
    let Some(program) = env::var_os(USERSPACE) else {
        return Err(Fault {
            hint: Some(
                "install a kernel that has it: Linux 5.6 or later, with the module `wireguard` (modinfo wireguard)"
                    .into(),
            ),
            ..found(FaultKind::Invalid, "the kernel has no WireGuard, so no tunnel can be set up")
        });
    };
    let mut command = Command::new(program);
    command.arg(TUNNEL);
    expect_text(run_command(command, "").await?).map(drop)
}

async fn remove(handle: &Handle) -> Result<(), Fault> {
    let Some(end) = link::find(handle, TUNNEL).await? else { return Ok(()) };
    let removed = already_gone(handle.link().del(end.index).execute().await);
    removed.map_err(|error| fault(format_args!("removing {TUNNEL}"), &error))
}

async fn wg(words: &[&str]) -> Result<String, Fault> {
    let mut command = Command::new("wg");
    command.args(words);
    expect_text(run_command(command, "").await?)
}

fn expect_text(said: Said) -> Result<String, Fault> {
    match said {
        Said::Text(text) => Ok(text),
        Said::Absent => Err(found(FaultKind::Outdated, format!("{TUNNEL}, or the file of its key, is gone"))),
        Said::NotInstalled => Err(Fault {
            hint: Some("apt-get install wireguard-tools, or your distribution's package of that name".into()),
            ..found(FaultKind::Invalid, "wg is not installed, so no tunnel can be set up")
        }),
    }
}

async fn read(end: &End) -> Result<Arc<Tunnel>, Fault> {
    let dump = wg(&["show", TUNNEL, "dump"]).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let tunnel = parse(&dump, now).ok_or_else(|| {
        found(FaultKind::Invalid, format!("what `wg show {TUNNEL} dump` says is not known"))
    })?;
    Ok(with_link(&tunnel, end))
}

/// It with what the kernel says of the interface.
fn with_link(tunnel: &Tunnel, end: &End) -> Arc<Tunnel> {
    Arc::new(Tunnel { mtu: end.mtu, up: end.up, ..tunnel.clone() })
}

/// What `wg` says: a line of the device and one of each end. `None` if it is something else.
fn parse(dump: &str, now: Duration) -> Option<Tunnel> {
    let mut lines = dump.lines();
    let device: Vec<&str> = lines.next()?.split('\t').collect();
    let [_private, key, port, _mark] = device[..] else { return None };
    // A device that was just made has no key yet.
    let key = if key == "(none)" { TunnelKey([0; 32]) } else { key.parse().ok()? };
    let peers = lines.take(PEERS_MAX).map(|line| peer(line, now)).collect::<Option<_>>()?;
    Some(Tunnel { key, port: port.parse().ok()?, mtu: 0, up: false, peers })
}

fn peer(line: &str, now: Duration) -> Option<(TunnelKey, TunnelPeer)> {
    let words: Vec<&str> = line.split('\t').collect();
    let [key, _preshared, endpoint, allowed, handshake, _received, _sent, keepalive] = words[..] else {
        return None;
    };
    let cidrs = allowed.split(',').filter(|cidr| *cidr != "(none)");
    let handshake = Duration::from_secs(handshake.parse().ok()?);
    let peer = TunnelPeer {
        // One of IPv6 is none of ours.
        endpoint: endpoint.parse::<SocketAddrV4>().ok(),
        allowed: cidrs.map(|cidr| cidr.parse::<IpNet>().ok()).collect::<Option<_>>()?,
        keepalive_s: if keepalive == "off" { 0 } else { keepalive.parse().ok()? },
        heard: now.saturating_sub(handshake) < HEARD_WITHIN,
        moved: false,
    };
    Some((key.parse().ok()?, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "/////////////////////////////////////////w8=";
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn dump(peers: &[String]) -> String {
        [&[format!("{OTHER}\t{ONE}\t6784\toff")], peers].concat().join("\n") + "\n"
    }

    #[test]
    fn what_wg_says_is_a_device_and_its_ends() {
        let heard = NOW.as_secs() - 100;
        let peers = [
            format!("{ONE}\t(none)\t192.0.2.7:6784\t10.32.0.0/13,10.44.0.0/14\t{heard}\t148\t92\t25"),
            format!("{OTHER}\t(none)\t(none)\t(none)\t0\t0\t0\toff"),
        ];
        let tunnel = parse(&dump(&peers), NOW).unwrap();
        assert_eq!((tunnel.key, tunnel.port), (ONE.parse().unwrap(), 6784));
        let allowed = ["10.32.0.0/13", "10.44.0.0/14"].map(|cidr| cidr.parse().unwrap());
        let endpoint = "192.0.2.7:6784".parse().ok();
        let one = TunnelPeer { heard: true, ..TunnelPeer::new(endpoint, allowed.into()) };
        assert_eq!(tunnel.peers[&ONE.parse().unwrap()], one);
        let other = TunnelPeer { keepalive_s: 0, ..TunnelPeer::new(None, [].into()) };
        assert_eq!(tunnel.peers[&OTHER.parse().unwrap()], other);
    }

    #[test]
    fn a_device_without_a_key_is_one_and_an_end_of_ipv6_is_seen_to_have_other_addresses() {
        let tunnel = parse("(none)\t(none)\t0\toff\n", NOW).unwrap();
        assert!(!tunnel.key.is_believable() && tunnel.peers.is_empty());
        let peer = format!("{ONE}\t(none)\t[2001:db8::7]:6784\tfd00::/64\t0\t0\t0\t25");
        let tunnel = parse(&dump(&[peer]), NOW).unwrap();
        let end = &tunnel.peers[&ONE.parse().unwrap()];
        assert_eq!((end.endpoint, end.allowed.len()), (None, 1));
    }

    #[test]
    fn what_is_not_understood_is_not_read_in_part() {
        for peer in [
            "".to_owned(),
            "x\t(none)\t(none)\t(none)\t0\t0\t0\toff".to_owned(),
            format!("{ONE}\t(none)\t(none)\t10.0.0.0/33\t0\t0\t0\toff"),
            format!("{ONE}\t(none)\t(none)\t(none)\t0\t0\t0\toff\tmore"),
        ] {
            assert_eq!(parse(&dump(std::slice::from_ref(&peer)), NOW), None, "{peer}");
        }
        assert_eq!(parse("", NOW), None);
        assert_eq!(parse("interface: weave-tunnel\n", NOW), None);
    }
}
