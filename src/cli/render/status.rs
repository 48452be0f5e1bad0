//! A status: how far first, then what is waited for, then the rest.

use clap::builder::styling::AnsiColor;

use super::{bold, columns, count, paint, printable};
use crate::{
    addr::Prefix,
    node::protocol::status::{
        AttachmentStatus, CompactionStatus, ConnectionStatus, IpamStatus, Note, PathKind, PathState,
        PathStatus, PeerPath, Piece, ProbeStatus, Status, Upkeep,
    },
    state::{Route, RouteState, Side},
};

/// Electors up to which all are named.
const ELECTORS_NAMED: usize = 7;
/// Steps shown; the document has all.
const STEPS_SHOWN_MAX: usize = 10;
/// Paths to other hosts that are shown, where not all go by the VPC.
const PATHS_SHOWN_MAX: usize = 16;

/// Everything a person looks for, the most urgent first.
pub fn text(status: &Status) -> String {
    let mut text = headline(status);
    section(&mut text, "waiting for", status.waits.iter().map(note).collect());
    section(&mut text, "problems", status.problems.iter().map(note).collect());
    section(&mut text, "configuration", configuration(status));
    section(&mut text, "peers", peers(status));
    section(&mut text, "addresses", addresses(&status.ipam));
    section(&mut text, "route tables", tables(status));
    section(&mut text, "routes", routes(status));
    section(&mut text, "containers", containers(status));
    section(&mut text, "docker0", docker0(status));
    let hosts = by_path(&status.peer_paths).into_iter().chain(paths(&status.probe)).collect();
    section(&mut text, "paths", hosts);
    section(&mut text, "last steps", steps(status));
    text
}

/// Who owns what.
pub fn ring(pieces: &[Piece]) -> String {
    let row = |piece: &Piece| {
        vec![
            piece.range.clone(),
            piece.peer.to_string(),
            piece.nickname.clone().unwrap_or_default(),
            format!("{} of {} free{}", piece.free, piece.size, if piece.own { "" } else { ", as last told" }),
            if piece.reachable { String::new() } else { "unreachable".to_owned() },
        ]
    };
    columns(&pieces.iter().map(row).collect::<Vec<_>>(), &[2]).join("\n")
}

fn headline(status: &Status) -> String {
    let word = |good: bool, yes: &str, no: &str| {
        if good { paint(AnsiColor::Green, yes) } else { paint(AnsiColor::Yellow, no) }
    };
    let ready = word(status.ready, "ready", "not ready");
    let converged = word(status.converged, "converged", "not converged");
    let instance = status.instance.as_deref().unwrap_or("instance unknown");
    let interface = status.interface.as_ref().map_or("interface unknown", |id| id.0.as_str());
    let place = match status.on_ec2 {
        true => format!("on {}, {}", printable(instance), printable(interface)),
        false => "outside EC2".to_owned(),
    };
    format!(
        "{ready}, {converged}\n{} ({}) {place}, weavers {}\n",
        printable(&status.nickname),
        status.name,
        printable(&status.version),
    )
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    *text += &format!("\n{}\n", bold(title));
    for line in lines {
        *text += &format!("  {}\n", printable(&line));
    }
}

fn note(note: &Note) -> String {
    match &note.hint {
        Some(hint) => format!("{} ({hint})", note.what),
        None => note.what.clone(),
    }
}

fn configuration(status: &Status) -> Vec<String> {
    let config = &status.config;
    let mut lines = vec![config.path.clone()];
    lines.extend(config.drop_ins.iter().cloned());
    if let Some(error) = &config.error {
        lines.push("the edited file cannot be adopted, the one before is in force:".to_owned());
        lines.extend(error.lines().map(|line| format!("  {line}")));
    } else if config.pending {
        lines.push(
            "edited, not adopted (weavers plan shows what is in force; weavers reload adopts it)".to_owned(),
        );
    }
    lines.extend(config.trial_s.map(|left| {
        format!("on trial: the former one comes back in {left} s unless `weavers confirm` keeps this one")
    }));
    lines.extend(config.needs_restart.iter().map(|key| format!("{key} waits for a restart")));
    lines
}

/// The block that is held for Docker's own bridge, and whether that has it.
fn docker0(status: &Status) -> Vec<String> {
    let Some(bridge) = &status.docker_bridge else { return Vec::new() };
    let has = match (bridge.docker0, bridge.agrees) {
        (None, _) => "docker0 is not there".to_owned(),
        (Some(address), true) => format!("docker0 has it ({address})"),
        (Some(address), false) => format!("docker0 has {address}"),
    };
    match bridge.block {
        Some(block) => vec![format!("{block} is held ({}), {has}", bridge.mode)],
        None => vec![format!("no block is held yet ({}), {has}", bridge.mode)],
    }
}

/// Connections, then the hosts that there is none to.
fn peers(status: &Status) -> Vec<String> {
    let connection = |connection: &ConnectionStatus| {
        vec![
            connection.address.clone(),
            connection.peer.map_or_else(String::new, |peer| peer.to_string()),
            connection.nickname.clone().unwrap_or_default(),
            connection.state.word().to_owned(),
            if connection.outbound { "dialled" } else { "dialled us" }.to_owned(),
            if connection.encrypted { "encrypted" } else { "" }.to_owned(),
        ]
    };
    let mut lines = columns(&status.connections.iter().map(connection).collect::<Vec<_>>(), &[2]);
    let missing = status.targets.iter().filter(|target| target.is_missing()).map(|target| {
        vec![target.target.clone(), target.state.word().to_owned(), target.error.clone().unwrap_or_default()]
    });
    lines.extend(columns(&missing.collect::<Vec<_>>(), &[2]));
    lines
}

fn addresses(ipam: &IpamStatus) -> Vec<String> {
    let owned: Vec<String> = ipam.owned.iter().map(ToString::to_string).collect();
    let owned = if owned.is_empty() { "none".to_owned() } else { owned.join(", ") };
    let electors = match ipam.electors.len() {
        0 => None,
        few if few <= ELECTORS_NAMED => Some(format!("electors {}", ipam.electors.join(", "))),
        many => Some(count(many, "elector")),
    };
    let mut lines = vec![
        ipam.state.clone(),
        format!("owned here: {owned}; {} used of {}", ipam.used, ipam.owned_addresses),
        format!("range {}{}, {}", ipam.range, and_prefix(ipam.ipv6), count(ipam.owners as usize, "owner")),
    ];
    lines.extend(electors);
    lines.extend(fewer_routes(&ipam.compaction));
    lines
}

fn and_prefix(ipv6: Option<Prefix>) -> String {
    ipv6.map_or_else(String::new, |prefix| format!(" and {prefix}"))
}

/// How many routes lead here, where there could be fewer.
fn fewer_routes(compaction: &CompactionStatus) -> Option<String> {
    let CompactionStatus { on, routes, routes_least, waits, next } = compaction;
    if routes == routes_least && next.is_none() {
        return None;
    }
    let has = format!("{} lead here where {routes_least} would do", count(*routes, "route"));
    Some(match (on, waits, next) {
        (false, ..) => format!("{has}; [ipam] compact is off"),
        (true, Some(waits), _) => format!("{has}; nothing moves now: {waits}"),
        (true, None, Some(next)) => format!("{has}; {next}"),
        (true, None, None) => has,
    })
}

fn tables(status: &Status) -> Vec<String> {
    let row = |(table, upkeep): (&Side, &Upkeep)| {
        let quota = upkeep.quota.map_or_else(String::new, |quota| format!(" of {quota}"));
        let missing = upkeep.missing.first().map_or_else(String::new, Clone::clone);
        let state = match upkeep.missing.len() {
            0 => "kept".to_owned(),
            1 => format!("missing: {missing}"),
            more => format!("missing: {missing}, and {} more", more - 1),
        };
        vec![table.to_string(), format!("{}{quota} routes", upkeep.used), state]
    };
    columns(&status.upkeep.iter().map(row).collect::<Vec<_>>(), &[2])
}

fn routes(status: &Status) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, found) in &status.tables {
        for (destination, route) in &found.routes {
            let Route { target, state, created: _ } = route;
            let state = match state {
                RouteState::Active => "active",
                RouteState::Blackhole => "blackhole",
                RouteState::Other => "unknown state",
            };
            rows.push(vec![
                table.table.to_string(),
                table.destination(*destination).to_string(),
                format!("-> {target}"),
                state.to_owned(),
            ]);
        }
    }
    columns(&rows, &[2])
}

fn containers(status: &Status) -> Vec<String> {
    let rows: Vec<Vec<String>> = status
        .attachments
        .iter()
        .map(|attachment| {
            vec![
                attachment.name.clone().unwrap_or_else(|| shortened(&attachment.ident)),
                attachment.address.map_or_else(|| "no address".to_owned(), |address| address.to_string()),
                whereabouts(attachment),
                ports(&attachment.ports),
                attachment.missing.clone().unwrap_or_else(|| "connected".to_owned()),
            ]
        })
        .collect();
    columns(&rows, &[2])
}

/// Where its namespace is; of one that a runtime has for itself, what it is filed under.
fn whereabouts(attachment: &AttachmentStatus) -> String {
    match attachment.netns.as_str() {
        "" => shortened(&attachment.ident),
        netns => netns.to_owned(),
    }
}

/// Ids of runtimes have 64 digits, of which twelve do.
fn shortened(ident: &str) -> String {
    const ID_LEN: usize = 12;
    let short =
        |part: &str| part.get(..ID_LEN).filter(|_| part.len() >= 2 * ID_LEN).unwrap_or(part).to_owned();
    match ident.matches('/').count() {
        0 => ident.to_owned(),
        _ => ident.split('/').map(short).collect::<Vec<_>>().join("/"),
    }
}

/// The first few of the ports.
fn ports(all: &[String]) -> String {
    const NAMED_MAX: usize = 4;
    let named = all.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// By which path packets get to the other hosts, where not all go by the VPC: those without one first.
fn by_path(paths: &[PeerPath]) -> Vec<String> {
    let mut named: Vec<&PeerPath> = paths.iter().filter(|path| path.path != PathKind::Vpc).collect();
    if named.is_empty() {
        return Vec::new();
    }
    named.sort_by_key(|path| (std::cmp::Reverse(path.path), path.peer));
    let row = |path: &&PeerPath| {
        vec![
            path.peer.to_string(),
            path.nickname.clone().unwrap_or_default(),
            path.path.word().to_owned(),
            path.by(),
        ]
    };
    let rows: Vec<Vec<String>> = named.iter().take(PATHS_SHOWN_MAX).map(row).collect();
    let mut lines = columns(&rows, &[2]);
    let more = named.len().saturating_sub(PATHS_SHOWN_MAX);
    lines.extend(
        (more > 0).then(|| format!("and {} more (weavers status --json, `peer_paths`)", count(more, "host"))),
    );
    lines.push(format!("{} by the VPC", count(paths.len() - named.len(), "host")));
    lines
}

/// How many hosts packets reach, and each that they do not.
fn paths(probe: &ProbeStatus) -> Vec<String> {
    let Some(canary) = probe.canary else { return Vec::new() };
    let in_state = |state| probe.paths.iter().filter(|path| path.state == state).count();
    let (flowing, unknown) = (in_state(PathState::Flows), in_state(PathState::Unknown));
    let mut lines = vec![format!(
        "canary {canary}: packets flow to and from {flowing} of {}{}",
        count(probe.paths.len(), "host"),
        if unknown > 0 { format!(", nothing is known of {unknown}") } else { String::new() },
    )];
    let row = |path: &PathStatus| {
        let (which, way) = path.state.lost()?;
        let since = path.since_s.map_or_else(String::new, |since| format!("for {since} s"));
        Some(vec![
            path.peer.to_string(),
            path.nickname.clone().unwrap_or_default(),
            format!("{which} {way} it are lost"),
            since,
        ])
    };
    lines.extend(columns(&probe.paths.iter().filter_map(row).collect::<Vec<_>>(), &[2]));
    lines
}

fn steps(status: &Status) -> Vec<String> {
    let recent = status.steps.len().saturating_sub(STEPS_SHOWN_MAX);
    let rows: Vec<Vec<String>> = status.steps[recent..]
        .iter()
        .map(|step| {
            vec![
                format!("{}s ago", step.age_s),
                step.action.clone(),
                step.cause.clone(),
                step.outcome.clone(),
                step.request_id.clone().unwrap_or_default(),
            ]
        })
        .collect();
    columns(&rows, &[2])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anstream::adapter::strip_str;

    use super::*;
    use crate::{
        node::protocol::status::{
            AttachmentStatus, ConfigStatus, ConnectionState, StepStatus, TargetState, TargetStatus,
        },
        peer::PeerName,
        state::{InterfaceId, Table, TableId, Target},
    };

    fn starting() -> Status {
        Status {
            format_version: "1.0".to_owned(),
            version: "0.1.0".to_owned(),
            name: PeerName::from_u64(0x0200_0000_0001),
            nickname: "ip-10-0-1-11".to_owned(),
            instance: None,
            interface: None,
            on_ec2: true,
            ready: false,
            converged: false,
            waits: vec![Note {
                what: "the first ring: 1 of 3 peers heard".to_owned(),
                hint: Some("start weavers on the others".to_owned()),
            }],
            problems: Vec::new(),
            config: ConfigStatus { path: "/etc/weave/weave.toml".to_owned(), ..ConfigStatus::default() },
            connections: Vec::new(),
            targets: vec![TargetStatus {
                target: "10.0.1.12".to_owned(),
                state: TargetState::Waiting,
                own: false,
                error: Some("connection refused".to_owned()),
            }],
            ipam: IpamStatus {
                range: "10.32.0.0/12".parse().unwrap(),
                ipv6: None,
                state: "electing".to_owned(),
                owned: Vec::new(),
                owned_addresses: 0,
                used: 0,
                owners: 0,
                electors: Vec::new(),
                compaction: CompactionStatus::default(),
            },
            attachments: Vec::new(),
            docker_bridge: None,
            probe: ProbeStatus::default(),
            peer_paths: Vec::new(),
            tables: BTreeMap::new(),
            upkeep: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    fn at_work() -> Status {
        let route = Route {
            target: Target::Interface(InterfaceId("eni-self".to_owned())),
            state: RouteState::Active,
            created: true,
        };
        let block = "10.32.0.0/13".parse().unwrap();
        let table = Table { routes: BTreeMap::from([(block, route)]), used: 2, local: Vec::new() };
        let upkeep = Upkeep { used: 2, quota: Some(500), kept: true, missing: Vec::new() };
        Status {
            instance: Some("i-0abc".to_owned()),
            interface: Some(InterfaceId("eni-self".to_owned())),
            on_ec2: true,
            ready: true,
            converged: true,
            waits: Vec::new(),
            config: ConfigStatus {
                path: "/etc/weave/weave.toml".to_owned(),
                pending: true,
                drop_ins: Vec::new(),
                in_force_sha256: None,
                error: None,
                needs_restart: vec!["mesh.listen".to_owned()],
                trial_s: None,
            },
            connections: vec![ConnectionStatus {
                address: "10.0.1.12:6783".to_owned(),
                peer: Some(PeerName::from_u64(0x0200_0000_0002)),
                nickname: Some("ip-10-0-1-12".to_owned()),
                version: None,
                outbound: true,
                encrypted: false,
                state: ConnectionState::Established,
            }],
            targets: Vec::new(),
            ipam: IpamStatus {
                state: "ready".to_owned(),
                owned: vec![block],
                owned_addresses: 524_288,
                used: 1,
                owners: 2,
                ..starting().ipam
            },
            attachments: vec![AttachmentStatus {
                ident: "web".to_owned(),
                netns: "/proc/42/ns/net".to_owned(),
                address: Some("10.32.0.1".parse().unwrap()),
                name: None,
                ports: vec!["8080->80/tcp".to_owned()],
                missing: None,
            }],
            tables: BTreeMap::from([(TableId("rtb-0a1".to_owned()).into(), table)]),
            upkeep: BTreeMap::from([(TableId("rtb-0a1".to_owned()).into(), upkeep)]),
            steps: vec![StepStatus {
                action: "create rtb-0a1 10.32.0.0/13 -> eni-self".to_owned(),
                cause: "missing".to_owned(),
                age_s: 7,
                outcome: "done".to_owned(),
                request_id: Some("req-1".to_owned()),
            }],
            ..starting()
        }
    }

    #[test]
    fn a_peer_that_starts_says_what_it_waits_for_before_all_else() {
        insta::assert_snapshot!(strip_str(&text(&starting())), @r"
        not ready, not converged
        ip-10-0-1-11 (02:00:00:00:00:01) on instance unknown, interface unknown, weavers 0.1.0

        waiting for
          the first ring: 1 of 3 peers heard (start weavers on the others)

        configuration
          /etc/weave/weave.toml

        peers
          10.0.1.12  waiting  connection refused

        addresses
          electing
          owned here: none; 0 used of 0
          range 10.32.0.0/12, 0 owners
        ");
    }

    #[test]
    fn a_peer_at_work_shows_peers_addresses_routes_and_containers() {
        insta::assert_snapshot!(strip_str(&text(&at_work())), @r"
        ready, converged
        ip-10-0-1-11 (02:00:00:00:00:01) on i-0abc, eni-self, weavers 0.1.0

        configuration
          /etc/weave/weave.toml
          edited, not adopted (weavers plan shows what is in force; weavers reload adopts it)
          mesh.listen waits for a restart

        peers
          10.0.1.12:6783  02:00:00:00:00:02  ip-10-0-1-12  established  dialled

        addresses
          ready
          owned here: 10.32.0.0/13; 1 used of 524288
          range 10.32.0.0/12, 2 owners

        route tables
          rtb-0a1  2 of 500 routes  kept

        routes
          rtb-0a1  10.32.0.0/13  -> eni-self  active

        containers
          web  10.32.0.1  /proc/42/ns/net  8080->80/tcp  connected

        last steps
          7s ago  create rtb-0a1 10.32.0.0/13 -> eni-self  missing  done  req-1
        ");
    }

    #[test]
    fn a_bad_file_is_shown_with_its_problems() {
        let mut status = starting();
        status.config.error = Some("3:9: vpc.quota: 0 is below 1\n4:1: colour: unknown key".to_owned());
        let text = text(&status);
        assert!(text.contains("the one before is in force:\n    3:9: vpc.quota"), "{text}");
    }

    #[test]
    fn the_ring_is_a_line_for_each_piece() {
        let piece = |range: &str, name, reachable| Piece {
            range: range.to_owned(),
            size: 524_288,
            peer: PeerName::from_u64(name),
            nickname: None,
            reachable,
            own: reachable,
            quarantined: 0,
            free: 524_286,
        };
        let pieces = [piece("10.32.0.0/13", 1, true), piece("10.40.0.0/13", 2, false)];
        insta::assert_snapshot!(ring(&pieces), @r"
        10.32.0.0/13  00:00:00:00:00:01  524286 of 524288 free
        10.40.0.0/13  00:00:00:00:00:02  524286 of 524288 free, as last told  unreachable
        ");
    }
}
