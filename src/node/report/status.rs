//! What a node says of itself, from all its parts.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::overview::Overview;
use crate::{
    addr::{Range, join, without_all},
    config::{RouteTables, SourceDestCheck},
    ipam::{excess::way_out, ring::ENTRIES_MAX},
    mesh::{self, ConnectionView, DroppedView, Objection, RefusedView, SLEEVE, TargetView, UnsentView},
    node::{
        cluster::peers::Peers,
        facts::Leave,
        persist::memory::Attached,
        protocol::status::{
            AttachmentStatus, ConfigStatus, ConnectionState, ConnectionStatus, FORMAT_VERSION, IpamStatus,
            Note, Piece, Status, StepStatus, TargetState, TargetStatus, Upkeep,
        },
        reconcile::{
            Reconcile,
            converge::Step,
            desired::{local_setting, taken},
            quota,
        },
    },
    plan::{Change, Conflict, Plane, leads_to},
    state::{Fault, Forward, Side, TUNNEL, Target, Tracking, Vpc, link_name},
};

/// Pieces of the ring at which their number is named.
const PIECES_MANY: usize = ENTRIES_MAX / 8;

/// What to do about a chain of iptables-legacy that cannot be read.
pub const UNREAD_WAY_OUT: &str = "see `iptables-legacy -S FORWARD`, and let interfaces wv+ pass there; weavers reads it \
     where iptables-legacy is installed and the daemon has CAP_NET_RAW";

impl<'a> Overview<'a> {
    /// The ring is held, our routes were last read active, the host is as it should be, and probes reach some host if
    /// they are sent to any: a container attached now is reachable from the other hosts.
    pub fn is_ready(&self) -> bool {
        let may_be = self.peers.has_ring() && self.overlap().is_none();
        let reaches = !self.is_cut_off() && !self.probes.probes_reach_nobody();
        let can_promise = self.ledger.fault().is_none() && !self.lacks_room();
        may_be && reaches && can_promise && self.is_host_ready() && self.are_routes_read()
    }

    /// Whether a container attached now would get no address, here or from another host.
    pub fn lacks_room(&self) -> bool {
        !self.peers.ipam.is_leaving() && !self.peers.ipam.has_room(self.facts.config.ipam.default_subnet)
    }

    /// Links come and go; what every link needs is what counts.
    fn is_host_ready(&self) -> bool {
        let Some(host) = self.work.converge.host.seen() else { return false };
        let desired = self.ground().desired().host;
        let fenced = desired.rules.as_ref().is_some_and(|rules| !rules.uplinks.is_empty());
        let of_all =
            |name: &String| !desired.links.keys().any(|one| *name == local_setting(&link_name(*one)));
        let is_set =
            |(name, value): (&String, &String)| desired.sysctls.get(name) == Some(value) || !of_all(name);
        (fenced || self.facts.leave != Leave::No)
            && host.rules == desired.rules
            && host.blocks.is_superset(&desired.blocks)
            && host.sysctls.iter().all(is_set)
    }

    fn are_routes_read(&self) -> bool {
        if !self.facts.config.is_on_ec2() {
            return true;
        }
        let wanted = self.wanted_routes();
        let Some(vpc) = self.work.converge.vpc.seen() else {
            return self.observed.last_reads.recalled(self.facts).is_some_and(|read| {
                self.is_unchecked(read.source_dest_check) && read.led_all(&join(wanted.iter().copied()))
            });
        };
        let led = |table| wanted.iter().all(|range| leads_to(table, *range, &vpc.interface));
        self.is_unchecked(vpc.source_dest_check) && !vpc.tables.is_empty() && vpc.tables.values().all(led)
    }

    fn is_unchecked(&self, source_dest_check: Option<bool>) -> bool {
        source_dest_check != Some(true) || self.facts.config.vpc.source_dest_check == SourceDestCheck::Ignore
    }

    /// Where packets must find their way to us: all that we own, but for what lies beneath a route of others and is
    /// not in use. Nothing of that is handed out.
    fn wanted_routes(&self) -> Vec<Range> {
        let destinations = self.work.plan.conflicts.iter().map(|conflict| Range::from(conflict.destination));
        let idle: Vec<Range> = destinations.filter(|range| !self.peers.ipam.uses(*range)).collect();
        without_all(&self.peers.ipam.settled(), &idle)
    }

    /// Whether some route was last read leading to our interface.
    pub(super) fn routes_lead_here(&self) -> bool {
        let Some(vpc) = self.work.converge.vpc.seen() else { return false };
        let range = Range::from(self.facts.config.ipam.range);
        let mut routes = vpc.tables.values().flat_map(|table| &table.routes);
        routes.any(|(cidr, route)| {
            range.covers((*cidr).into()) && route.target == Target::Interface(vpc.interface.clone())
        })
    }

    fn quarantined_in(&self, piece: Range) -> u32 {
        let parts = self.quarantined().iter().filter(|range| range.overlaps(piece));
        parts.map(|range| Range::new(range.start.max(piece.start), range.end.min(piece.end)).len()).sum()
    }

    pub(in crate::node) fn pieces(&self) -> Vec<Piece> {
        let me = self.facts.identity.name;
        self.peers
            .ipam
            .ring()
            .pieces()
            .map(|(range, entry)| Piece {
                range: range.to_string(),
                size: range.len(),
                peer: entry.owner,
                nickname: self.peers.ipam.nickname(entry.owner).map(str::to_owned),
                reachable: entry.owner == me || self.peers.mesh.is_reachable(entry.owner),
                own: entry.owner == me,
                quarantined: self.quarantined_in(range),
                free: if entry.owner == me { range.len() - self.peers.used_in(range) } else { entry.free },
            })
            .collect()
    }

    /// The last look at every plane left nothing to do, and no packets are known to be lost.
    pub fn is_converged(&self) -> bool {
        self.is_converged_but_for_paths() && self.apart().next().is_none()
    }

    /// The same where hosts may be there that no path leads to.
    pub fn is_converged_but_for_paths(&self) -> bool {
        let looked = self.work.converge.host.fault().is_none()
            && self.work.converge.vpc.fault().is_none()
            && self.work.unread_tunnel().is_none();
        let nothing_left = self.work.plan.is_empty()
            && !self.work.converge.is_at_work()
            && self.work.converge.is_confirmed();
        let lost = self.work.lost_paths.loses_packets(self.work.converge.host.seen())
            || self.probes.probes_are_lost();
        looked && nothing_left && !lost && self.is_ready()
    }

    /// All there is to know of this host, and what it is waiting for. The daemon adds what it knows of the
    /// configuration file.
    pub(in crate::node) fn status(&self) -> Status {
        Status {
            format_version: FORMAT_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.facts.identity.name,
            nickname: self.facts.nickname.clone(),
            instance: self.facts.identity.instance.clone(),
            interface: self.work.converge.vpc.seen().map(|vpc| vpc.interface.clone()),
            on_ec2: self.facts.config.is_on_ec2(),
            ready: self.is_ready(),
            converged: self.is_converged(),
            waits: self.waits(),
            problems: self.problems(),
            config: ConfigStatus::default(),
            connections: self.peers.mesh.connections().map(connection).collect(),
            targets: self.peers.mesh.targets().into_iter().map(target).collect(),
            ipam: self.ipam_status(),
            attachments: self.attachments(),
            docker_bridge: self.docker_bridge_status(),
            probe: self.probe_status(),
            peer_paths: self.peer_paths(),
            tables: self.work.converge.vpc.seen().map(|vpc| vpc.tables.clone()).unwrap_or_default(),
            upkeep: self.work.upkeep(),
            steps: self.work.converge.steps().map(|step| self.step_status(step)).collect(),
        }
    }

    /// What is waited for, in words: agreement first, then reads, then steps.
    pub fn waits(&self) -> Vec<Note> {
        let mut waits: Vec<Note> =
            self.peers.ipam.waits().into_iter().map(|(what, hint)| Note { what, hint }).collect();
        let note = |what: &str| Note { what: what.to_owned(), hint: None };
        if self.peers.has_ring() && self.lacks_room() {
            let subnet = self.facts.config.ipam.default_subnet;
            waits.push(Note {
                what: format!(
                    "an address to hand out: none of {subnet} is free here, and no peer in reach has one"
                ),
                hint: Some(self.way_to_room().to_owned()),
            });
        }
        if let Some(fault) = self.ledger.fault() {
            let what = format!("the disk, which does not take what is to be saved: {}", fault.message);
            waits.push(Note { what, hint: fault.hint.clone() });
        }
        if self.work.converge.host.seen().is_none() {
            waits.push(note("a first look at the host's network"));
        }
        if self.facts.config.is_on_ec2() && self.work.converge.vpc.seen().is_none() {
            waits.push(match self.observed.last_reads.recalled(self.facts) {
                Some(read) => note(&format!(
                    "a look at the route tables, which are believed to be as read {} ago, before the daemon was started",
                    humantime::format_duration(self.observed.last_reads.age_of(self.facts.now, read))
                )),
                None => note("a first look at the route tables"),
            });
        }
        waits.extend(self.unconfirmed());
        if !self.work.converge.is_confirmed() {
            waits.push(note("a read of the route tables that shows what was written"));
        }
        match self.work.plan.changes.len() {
            0 => {}
            1 => waits.push(note("a step of the plan: see `weavers plan`")),
            left => waits.push(note(&format!("{left} steps of the plan: see `weavers plan`"))),
        }
        waits
    }

    /// How a host that has no address to hand out comes by some.
    fn way_to_room(&self) -> &'static str {
        let owned = self.peers.ipam.owned();
        let covers =
            |conflict: &Conflict| owned.iter().any(|range| range.overlaps(conflict.destination.into()));
        match self.work.plan.conflicts.iter().any(covers) {
            true => {
                "routes of others lie above addresses of this host, which are not handed out: remove those that `weavers plan` names"
            }
            false => "`weavers ipam show` says who owns what: free addresses, or bring hosts back",
        }
    }

    /// A host that may be another than it remembers.
    fn unconfirmed(&self) -> Option<Note> {
        let instance = self.facts.identity.instance.as_ref().filter(|_| self.facts.metadata.is_none())?;
        self.work.converge.vpc.fault()?;
        Some(Note {
            what: format!(
                "the instance metadata, to confirm that this is {instance}: containers that are attached keep their links, \
                 and nothing is written in EC2 until then"
            ),
            hint: Some(
                "enable the metadata service of the instance, or let the host reach 169.254.169.254".into(),
            ),
        })
    }

    /// What is wrong, in words, with the way out.
    pub fn problems(&self) -> Vec<Note> {
        let mut problems: Vec<Note> = self.overlap().into_iter().collect();
        let faults = [
            ("the host's network", self.work.converge.host.fault()),
            ("the VPC", self.work.converge.vpc.fault()),
            (TUNNEL, self.work.unread_tunnel()),
        ];
        for (view, fault) in faults {
            problems.extend(fault.map(|fault| about(&format!("{view} cannot be read"), fault)));
        }
        for change in &self.work.plan.changes {
            let failure = self.work.converge.failure(&change.action);
            problems.extend(failure.map(|fault| about("a step failed", fault)));
        }
        problems.extend(self.work.plan.refused.iter().map(refused_step));
        problems
            .extend(self.work.plan.tables.iter().filter_map(|(table, usage)| quota::warning(table, usage)));
        problems.extend(self.work.converge.drift.fights(self.facts.now));
        problems.extend(self.observed.unknown_places(self.facts));
        problems.extend(self.peers.unconfirmed.problems());
        if let Some(fault) = self.ledger.fault() {
            let what = format!("the state cannot be saved, so nothing new is promised: {}", fault.message);
            problems.push(Note { what, hint: fault.hint.clone() });
        }
        let of_ring = self.peers.ipam.problems().into_iter();
        problems.extend(of_ring.map(|(what, hint)| Note { what, hint: Some(hint) }));
        let excess = self.peers.dead.takeover.excess().recent(self.facts.now);
        problems.extend(excess.map(|(what, peer)| Note {
            what: format!("{what}, the last by {}", self.peers.named(peer)),
            hint: Some(way_out(peer)),
        }));
        problems.extend(self.peers.mesh.refused(self.facts.now).map(refused));
        problems.extend(self.peers.mesh.unsent().map(unsent));
        problems.extend(self.peers.mesh.dropped(self.facts.now).map(|view| self.peers.dropped(view)));
        let tagged = self.facts.config.ec2_tag.as_ref().and_then(|_| self.observed.discovery.found.fault());
        problems.extend(self.observed.names.unresolved());
        problems.extend(tagged.map(|fault| about("peers cannot be found by tag", fault)));
        problems.extend(self.coming());
        problems.extend(self.probe_problems());
        problems.extend(self.unmet_owners());
        problems.extend(self.peers.crowded_ring());
        problems.extend(self.checked_interface());
        problems.extend(self.lost_tables());
        problems.extend(self.work.foreign_firewall());
        problems.extend(self.lost_packets());
        problems.extend(self.other_prefixes());
        problems.extend(self.missing_paths());
        problems.extend(self.work.full_tracking());
        problems.extend(self.bridge_problems());
        problems.extend(self.work.plan.conflicts.iter().map(|conflict| {
            let ((place, destination), target) = (conflict.found_at(), &conflict.target);
            Note {
                what: format!(
                    "{place} {destination} -> {target} is not ours and is left alone; no address beneath it is handed out"
                ),
                hint: Some("remove it, or choose another range".into()),
            }
        }));
        problems.sort();
        problems.dedup();
        problems
    }

    /// The container range must lie outside every CIDR of the VPC: EC2 routes those itself.
    pub(super) fn overlap(&self) -> Option<Note> {
        let cidr = taken(&self.facts.config, self.work.converge.vpc.seen()?)?;
        let range = match (cidr, self.facts.config.network.ipv6) {
            (IpNet::V6(_), Some(prefix)) => format!("[network] ipv6 {prefix}"),
            (IpNet::V6(_) | IpNet::V4(_), _) => format!("[ipam] range {}", self.facts.config.ipam.range),
        };
        Some(Note {
            what: format!(
                "{range} overlaps {cidr} of the VPC: no route is written, and nothing is set up on this host"
            ),
            hint: Some("choose a range outside every CIDR of the VPC, the same on every host".into()),
        })
    }

    /// Where the check is not ours to turn off, somebody else must.
    fn checked_interface(&self) -> Option<Note> {
        let Vpc { interface, source_dest_check, .. } = self.work.converge.vpc.seen()?;
        let what = match (self.facts.config.vpc.source_dest_check, source_dest_check) {
            (SourceDestCheck::Ignore, _) | (_, Some(false)) | (SourceDestCheck::Disable, Some(true)) => {
                return None;
            }
            (SourceDestCheck::Warn, Some(true)) => "is on: EC2 drops container packets",
            (SourceDestCheck::Warn | SourceDestCheck::Disable, None) => {
                "cannot be read (ec2:DescribeInstances): while it is on EC2 drops container packets"
            }
        };
        let region = self
            .facts
            .config
            .vpc
            .region
            .as_ref()
            .map_or_else(String::new, |region| format!(" --region {region}"));
        Some(Note {
            what: format!("the source/destination check of {interface} {what}"),
            hint: Some(format!(
                "aws ec2 modify-network-interface-attribute --no-source-dest-check --network-interface-id {interface}{region}"
            )),
        })
    }

    /// Tables that are selected and were not there at the last look.
    fn lost_tables(&self) -> impl Iterator<Item = Note> {
        let seen = self.work.converge.vpc.seen();
        let named = match &self.facts.config.vpc.route_tables {
            RouteTables::Named(ids) => Some(ids),
            RouteTables::Auto | RouteTables::Tagged(..) => None,
        };
        let selected = named.into_iter().flatten();
        let lost = selected.filter(move |table| seen.is_some_and(|seen| !seen.has(table)));
        lost.map(|table| Note {
            what: format!("[vpc] route_tables: {table} is not there, or serves a gateway"),
            hint: Some("see `aws ec2 describe-route-tables`, and correct or remove it".into()),
        })
    }

    fn ipam_status(&self) -> IpamStatus {
        let owned = join(self.peers.ipam.owned());
        let mut owners: Vec<_> = self.peers.ipam.owners().into_iter().map(|(_, owner)| owner).collect();
        owners.sort();
        owners.dedup();
        let electors = self.decided().into_iter().flat_map(|log| log.electors()).copied();
        IpamStatus {
            range: self.facts.config.ipam.range,
            ipv6: self.facts.config.network.ipv6,
            state: if self.peers.has_ring() { "ready" } else { "waiting" }.to_owned(),
            owned_addresses: owned.iter().map(|range| range.len()).sum(),
            owned: owned.into_iter().flat_map(Range::cidrs).collect(),
            used: self.peers.ipam.used(),
            owners: owners.len() as u32,
            electors: electors.map(|peer| self.peers.named(peer)).collect(),
            compaction: self.compaction(),
        }
    }

    pub(in crate::node) fn attachments(&self) -> Vec<AttachmentStatus> {
        let attached = self.local.containers.all().values().map(|attached| self.attachment(attached));
        attached.chain(self.lease_statuses()).collect()
    }

    pub(in crate::node) fn attachment(&self, attached: &Attached) -> AttachmentStatus {
        let netns = attached.netns.as_ref();
        AttachmentStatus {
            ident: attached.ident.clone(),
            netns: netns
                .map(|netns| netns.path.display().to_string())
                .or(attached.sandbox.clone())
                .unwrap_or_default(),
            address: attached.link_address(),
            name: attached.label.clone(),
            ports: attached.ports.iter().map(ToString::to_string).collect(),
            missing: self.missing(attached),
        }
    }

    fn step_status(&self, step: &Step) -> StepStatus {
        StepStatus {
            action: step.change.action.to_string(),
            cause: step.change.cause.clone(),
            age_s: self.facts.now.since(step.at).as_secs(),
            outcome: step.outcome.as_ref().map_or_else(|fault| fault.message.clone(), |_| "done".to_owned()),
            request_id: match &step.outcome {
                Ok(id) => id.clone(),
                Err(fault) => fault.request_id.clone(),
            },
        }
    }
}

impl Reconcile {
    /// Of each table: what is missing, and why.
    pub(in crate::node) fn upkeep(&self) -> BTreeMap<Side, Upkeep> {
        let tables = self.converge.vpc.seen().map(|vpc| vpc.tables.clone()).unwrap_or_default();
        let upkeep = |table: &Side, used: usize| {
            let plane = Plane::Table(table.clone());
            let of_table = |change: &&Change| Plane::of(&change.action) == plane;
            let missing = self.plan.changes.iter().filter(of_table).map(|change| {
                match self.converge.failure(&change.action) {
                    Some(fault) => fault.message.clone(),
                    None => change.action.to_string(),
                }
            });
            let refused = self.plan.refused.iter().filter(of_table).map(|refused| refused_step(refused).what);
            let missing: Vec<String> = missing.chain(refused).collect();
            let quota = self.plan.tables.get(table).and_then(|usage| usage.quota);
            Upkeep { used, quota, kept: missing.is_empty(), missing }
        };
        tables.into_iter().map(|(id, table)| (id.clone(), upkeep(&id, table.used))).collect()
    }

    fn foreign_firewall(&self) -> Option<Note> {
        let (what, hint) = match &self.converge.host.seen()?.forward {
            Forward::Open | Forward::Opened(_) | Forward::Closed(_) => return None,
            Forward::Foreign(chain) => (
                format!("{chain} drops what containers send and receive"),
                "let interfaces wv+ pass there; with firewalld, put them in the zone `trusted`".to_owned(),
            ),
            Forward::Unread(chain) => (
                format!("{chain} cannot be read: it may drop what containers send and receive"),
                UNREAD_WAY_OUT.to_owned(),
            ),
        };
        Some(Note { what, hint: Some(hint) })
    }

    /// Why the device of tunnels could not be read, so that it is left as it is.
    pub(super) fn unread_tunnel(&self) -> Option<&Fault> {
        self.converge.host.seen()?.remote.tunnel_unread.as_ref()
    }

    fn full_tracking(&self) -> Option<Note> {
        let tracking = self.converge.host.seen()?.surroundings.tracking?;
        Some(Note { what: tracking.to_string(), hint: Some(Tracking::WAY_OUT.into()) })
    }
}

impl Peers {
    /// Messages that could not be used, and what to do about them.
    fn dropped(&self, view: &DroppedView) -> Note {
        let DroppedView { came_by, from, count, why } = view;
        let author = from
            .map_or("of unknown origin".to_owned(), |from| format!("in the name of {}", self.named(from)));
        let messages = if *count == 1 { "message was" } else { "messages were" };
        Note {
            what: format!(
                "{count} {messages} dropped that {} passed on, the last one {author}: {why}",
                self.named(*came_by)
            ),
            hint: Some(
                "`weavers doctor` compares versions; a peer that is none of yours is kept out by another password: \
                 [mesh] password_file".into(),
            ),
        }
    }

    /// A ring in many pieces: tokens are never removed from it, and it is told as a whole.
    fn crowded_ring(&self) -> Option<Note> {
        let pieces = self.ipam.ring().entries().len();
        (pieces > PIECES_MANY).then(|| Note {
            what: format!("the ring has {pieces} pieces of at most {ENTRIES_MAX}, and what is said of it grows with them"),
            hint: Some(
                "`weavers ipam show` says whose they are; a host that keeps on splitting it is to be kept out".into(),
            ),
        })
    }
}

fn connection(view: ConnectionView) -> ConnectionStatus {
    let state = match (view.peer, view.established) {
        (None, _) => ConnectionState::Introducing,
        (Some(_), false) => ConnectionState::Pending,
        (Some(_), true) => ConnectionState::Established,
    };
    ConnectionStatus {
        address: view.remote.to_string(),
        peer: view.peer,
        nickname: view.nickname,
        version: view.version,
        outbound: view.outbound,
        encrypted: view.encrypted,
        state,
    }
}

/// A peer that was turned away, and what to do about it.
fn unsent(view: &UnsentView) -> Note {
    let UnsentView { channel, len, count } = view;
    Note {
        what: format!(
            "messages of {channel} could not be sent, {count} so far, the last of {len} bytes: no frame holds them"
        ),
        hint: Some("`weavers ipam show` lists who owns what; forget the peers that are gone for good".into()),
    }
}

fn refused(view: &RefusedView) -> Note {
    let RefusedView { peer, nickname, remote, objection } = view;
    let host = remote.ip();
    match objection {
        Objection::Name => Note {
            what: format!("peer {nickname} at {host} uses the name {peer} of this host: connection refused"),
            hint: Some("give one of them another: [mesh] name".into()),
        },
        Objection::Overlay { theirs, ours } => Note {
            what: format!(
                "peer {peer} ({nickname}) at {host}: connection refused: no overlay in common, it offers `{theirs}`, this host `{ours}`"
            ),
            hint: Some(match theirs.split(' ').any(|name| name == SLEEVE) {
                true => "set [mesh] weave_peers = true where Weave Net routers share the cluster".into(),
                false => {
                    "a router in an AWS-VPC mode of Weave Net's own cannot share a cluster: replace it".into()
                }
            }),
        },
    }
}

fn target(view: TargetView) -> TargetStatus {
    let state = match view.state {
        mesh::TargetState::Waiting => TargetState::Waiting,
        mesh::TargetState::Attempting => TargetState::Attempting,
        mesh::TargetState::Connected => TargetState::Connected,
        mesh::TargetState::Suspended | mesh::TargetState::Own => TargetState::Suspended,
    };
    TargetStatus { target: view.target, state, own: view.state == mesh::TargetState::Own, error: view.error }
}

/// A step that is needed and cannot be taken.
pub(super) fn refused_step(refused: &Change) -> Note {
    let hint = match Plane::of(&refused.action) {
        Plane::Host | Plane::Removal => {
            "add a default route, or name the interface that leads to the other hosts: [network] uplinks"
                .into()
        }
        Plane::Interface | Plane::Table(_) => quota::way_out(),
    };
    Note { what: format!("cannot {}: {}", refused.action, refused.cause), hint: Some(hint) }
}

fn about(what: &str, fault: &Fault) -> Note {
    Note { what: format!("{what}: {}", fault.message), hint: fault.hint.clone() }
}
