//! What the other peers say, by way of the daemon: who is connected, which version, how large packets get there.

use super::{
    Facts, Finding,
    facts::{Outcome, Probe},
};
use crate::node::protocol::status::{
    ConnectionState, ConnectionStatus, PathKind, PathState, PathStatus, ProbeStatus, Status,
};

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let Ok(status) = &facts.daemon else {
        let why = "who is connected is known to the daemon alone";
        return vec![Finding::warn("peers", "not looked at without a daemon", why)];
    };
    let mut findings = connections(status);
    findings.extend(versions(status));
    findings.extend(paths(status));
    findings.extend(path(&facts.probes));
    findings.extend(packets(&status.probe));
    findings
}

fn connections(status: &Status) -> Vec<Finding> {
    let established =
        status.connections.iter().filter(|one| one.state == ConnectionState::Established).count();
    let missing = status.targets.iter().filter(|target| target.is_missing());
    let mut findings: Vec<Finding> = missing
        .map(|target| {
            let why = "what it owns cannot be asked for, and it learns of no change";
            let error = target.error.as_deref().unwrap_or(target.state.word());
            let host = target.target.split(':').next().unwrap_or_default();
            Finding::warn("peers", format!("{} is not connected: {error}", target.target), why).fix(format!(
                "nc -vz {host} 6783; the security group must let TCP 6783 in; on {host}: weavers doctor"
            ))
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("peers", format!("{established} connected, none missing")));
    }
    findings
}

/// One that says no version is older than this check, or a Weave Net router.
fn versions(status: &Status) -> Vec<Finding> {
    let peers = || status.connections.iter().filter(|one| one.peer.is_some());
    let other = |one: &&ConnectionStatus| one.version.as_ref() != Some(&status.version);
    let others: Vec<Finding> = peers()
        .filter(other)
        .map(|one| {
            let name = one.nickname.clone().unwrap_or_else(|| one.address.clone());
            let version = one.version.clone().unwrap_or_else(|| "unknown".to_owned());
            let what = format!("{name} runs weavers {version}, this host {}", status.version);
            let why = "they work together; what is new here is not known there";
            Finding::warn("versions", what, why).fix(format!("install the same version on {name}"))
        })
        .collect();
    if others.is_empty() && peers().next().is_some() {
        return vec![Finding::ok("versions", format!("all peers run weavers {}", status.version))];
    }
    others
}

/// How packets get to the other hosts.
fn paths(status: &Status) -> Vec<Finding> {
    const CHECK: &str = "paths";
    let count = |kind| status.peer_paths.iter().filter(|path| path.path == kind).count();
    let (vpc, direct, tunnel) = (count(PathKind::Vpc), count(PathKind::Direct), count(PathKind::Tunnel));
    if vpc == status.peer_paths.len() {
        return Vec::new();
    }
    let why = "containers of the two hosts do not reach each other";
    let apart = status.peer_paths.iter().filter(|path| path.path == PathKind::None);
    let apart = apart.map(|path| {
        let name = path.nickname.clone().unwrap_or_else(|| path.peer.to_string());
        let what = format!("none leads to {name}: {}", path.why.clone().unwrap_or_default());
        Finding::fail(CHECK, what, why).fix("weavers status says what to do")
    });
    let of_hosts = format!("{vpc} hosts by the VPC, {direct} on a link of this host, {tunnel} by a tunnel");
    let silent = status.peer_paths.iter().filter(|path| path.path == PathKind::Tunnel && path.why.is_some());
    let silent = silent.map(|path| {
        let name = path.nickname.clone().unwrap_or_else(|| path.peer.to_string());
        let what = format!("the tunnel to {name}: {}", path.why.clone().unwrap_or_default());
        Finding::warn(CHECK, what, why).fix(PathKind::TUNNEL_WAY_OUT)
    });
    std::iter::once(Finding::ok(CHECK, of_hosts)).chain(apart).chain(silent).collect()
}

/// What the probes of the daemon have found.
fn packets(probe: &ProbeStatus) -> Vec<Finding> {
    const CHECK: &str = "packets";
    if probe.canary.is_none() {
        let why = "packets that die although all is written as it should be are not noticed";
        let what = "not probed: this host has no canary";
        return vec![Finding::warn(CHECK, what, why).fix(
            "[probe] enable = true, without weave_peers; a canary needs some free addresses of default_subnet here",
        )];
    }
    let flowing = probe.paths.iter().filter(|path| path.state == PathState::Flows).count();
    let of_hosts =
        format!("they flow to and from {flowing} of {} hosts that have a canary", probe.paths.len());
    let lost = probe.paths.iter().filter_map(|path| lost(CHECK, path));
    std::iter::once(Finding::ok(CHECK, of_hosts)).chain(lost).collect()
}

fn lost(check: &str, path: &PathStatus) -> Option<Finding> {
    let name = path.nickname.clone().unwrap_or_else(|| path.peer.to_string());
    let (which, way) = path.state.lost()?;
    let why = "containers of the two hosts do not reach each other, though both are set up";
    let what = format!("{which} {way} {name} have been lost for {} s", path.since_s.unwrap_or_default());
    Some(
        Finding::fail(check, what, why)
            .fix(format!("weavers status says what to look at; on {name}: weavers doctor")),
    )
}

fn path(probes: &[Probe]) -> Vec<Finding> {
    let large: Vec<&Probe> = probes.iter().filter(|probe| probe.outcome == Outcome::Large).collect();
    let mut findings: Vec<Finding> = probes.iter().filter_map(stuck).collect();
    if let Some(first) = large.first() {
        let what = format!("packets of {} bytes reach {} of {} hosts", first.size, large.len(), probes.len());
        findings.insert(0, Finding::ok("path mtu", what));
    }
    // Where nobody can ask, once is enough.
    findings.dedup_by(|one, other| one.what == other.what);
    findings
}

fn stuck(probe: &Probe) -> Option<Finding> {
    let Probe { to, size, outcome } = probe;
    let why = "large packets of containers vanish on the way, and connections hang once they are used";
    match outcome {
        Outcome::Large => None,
        Outcome::SmallOnly => {
            let what = format!("packets of {size} bytes do not reach {to}, small ones do");
            let fix = format!(
                "tracepath -n {to}; set [network] mtu to what it shows; the security group must let ICMP type 3 code 4 in"
            );
            Some(Finding::fail("path mtu", what, why).fix(fix))
        }
        Outcome::Nothing => {
            let why = "how large packets may be on the way is not known";
            let what = format!("{to} answers no ping");
            Some(
                Finding::warn("path mtu", what, why)
                    .fix("let ICMP echo in between the hosts, to have it tried"),
            )
        }
        Outcome::NoTool => {
            let why = "how large packets may be on the way is not known";
            Some(
                Finding::warn("path mtu", "there is no `ping` here", why).fix("apt-get install iputils-ping"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::Level,
        node::protocol::status::{TargetState, TargetStatus},
    };

    fn probe(outcome: Outcome) -> Probe {
        Probe { to: "10.0.1.12".parse().unwrap(), size: 9001, outcome }
    }

    #[test]
    fn packets_that_die_are_a_failure_with_the_host_and_the_way() {
        let path = |state| PathStatus {
            peer: crate::peer::PeerName::from_u64(2),
            nickname: Some("h2".to_owned()),
            state,
            since_s: Some(14),
            round_trip_us: None,
        };
        let canary = Some("10.32.0.1".parse().unwrap());
        let probe =
            ProbeStatus { canary, paths: vec![path(PathState::Flows), path(PathState::LargeDiesBack)] };
        let found = packets(&probe);
        assert_eq!((found[0].level, found[1].level), (Level::Ok, Level::Fail));
        assert_eq!(found[1].what, "large packets from h2 have been lost for 14 s");
        assert_eq!(packets(&ProbeStatus::default())[0].level, Level::Warn);
    }

    #[test]
    fn who_dialled_us_is_not_missing_and_neither_are_we() {
        let target = |state, error: Option<&str>| TargetStatus {
            target: "10.0.1.12".to_owned(),
            state,
            own: false,
            error: error.map(str::to_owned),
        };
        assert!(!target(TargetState::Connected, None).is_missing());
        assert!(!target(TargetState::Suspended, None).is_missing());
        let turned_away = target(TargetState::Suspended, Some("whatever it is"));
        assert!(turned_away.is_missing());
        assert!(!TargetStatus { own: true, ..turned_away }.is_missing());
        assert!(target(TargetState::Waiting, Some("connection refused")).is_missing());
        assert!(target(TargetState::Attempting, None).is_missing());
    }

    #[test]
    fn a_path_that_swallows_large_packets_is_a_failure_and_one_that_answers_nothing_is_unknown() {
        let levels = |probes: &[Probe]| path(probes).into_iter().map(|one| one.level).collect::<Vec<_>>();
        assert_eq!(levels(&[probe(Outcome::Large), probe(Outcome::Large)]), [Level::Ok]);
        assert_eq!(levels(&[probe(Outcome::Large), probe(Outcome::SmallOnly)]), [Level::Ok, Level::Fail]);
        assert_eq!(levels(&[probe(Outcome::Nothing)]), [Level::Warn]);
        assert_eq!(levels(&[probe(Outcome::NoTool), probe(Outcome::NoTool)]), [Level::Warn]);
        assert_eq!(levels(&[]), []);
    }
}
