//! All there is to know of one address: whose it is, who uses it, what carries its packets, and what
//! is missing.

use ipnet::{IpNet, Ipv4Net};

use super::overview::Overview;
use crate::{
    addr::{Address, Family, Range},
    node::{
        protocol::{
            explanation::{Carrier, Explanation, HostRoute, Standing},
            status::{AttachmentStatus, FORMAT_VERSION, Note, PathKind, PeerPath, Piece},
        },
        reconcile::{Reconcile, paths},
    },
    state::{Action, Packet, RouteState, Side, Table, Target, link_name},
};

impl Overview<'_> {
    pub(in crate::node) fn explain(&self, address: Address) -> Explanation {
        let standing = self.standing(address);
        let piece = self.piece_of(address);
        let ident = self.peers.holder(address);
        let attached = self.local.containers.all().values().find(|one| one.link_address() == Some(address));
        let container = attached.map(|attached| self.attachment(attached));
        let container = container.or_else(|| self.borrower_at(address));
        let tables = if standing == Standing::Outside { Vec::new() } else { self.carriers_of(address) };
        Explanation {
            format_version: FORMAT_VERSION.to_owned(),
            address,
            ipv6: self.facts.config.network.ipv6.map(|prefix| prefix.address(address)),
            standing,
            summary: self.summary(address, standing, piece.as_ref(), container.as_ref()),
            path: self.path_of(address),
            host: self.work.host_route(address),
            missing: self.wanting(address, standing, piece.as_ref(), container.as_ref(), &tables),
            piece,
            ident,
            container,
            tables,
        }
    }

    pub(in crate::node) fn standing(&self, address: Address) -> Standing {
        if !Range::from(self.facts.config.ipam.range).contains(address) {
            return Standing::Outside;
        }
        match self.peers.ipam.ring().owner(address) {
            None => Standing::Unowned,
            Some(owner) if owner != self.facts.identity.name => Standing::Peer,
            Some(_) if self.peers.holder(address).is_some() => Standing::Used,
            Some(_) => Standing::Free,
        }
    }

    fn piece_of(&self, address: Address) -> Option<Piece> {
        let index = self.peers.ipam.ring().pieces().position(|(range, _)| range.contains(address))?;
        self.pieces().into_iter().nth(index)
    }

    pub(in crate::node) fn summary(
        &self,
        address: Address,
        standing: Standing,
        piece: Option<&Piece>,
        container: Option<&AttachmentStatus>,
    ) -> String {
        let range = self.facts.config.ipam.range;
        match (standing, container) {
            (Standing::Outside, _) => match self.work.vpc_cidr(address) {
                Some(cidr) => format!("an address of the VPC ({cidr}), outside the container range {range}"),
                None => format!("outside the container range {range}: weavers has no part in it"),
            },
            (Standing::Unowned, _) => "nobody's yet: the peers have not agreed on a ring".to_owned(),
            (Standing::Peer, _) => {
                let owner = piece.map(Piece::owner).unwrap_or_default();
                format!("in the space of {owner}, who alone knows who uses it")
            }
            (Standing::Free, _) => "in the space of this host, free".to_owned(),
            (Standing::Used, Some(container)) => match &container.name {
                Some(name) => format!("container `{name}` ({}) on this host", container.ident),
                None => format!("container `{}` on this host", container.ident),
            },
            (Standing::Used, None) => {
                let ident = self.peers.holder(address).unwrap_or_default();
                format!("handed out to `{ident}` on this host, which is no attached container")
            }
        }
    }

    // ===== what is missing =====

    fn wanting(
        &self,
        address: Address,
        standing: Standing,
        piece: Option<&Piece>,
        container: Option<&AttachmentStatus>,
        tables: &[Carrier],
    ) -> Vec<Note> {
        let note = |what: String, hint: &str| Note { what, hint: Some(hint.to_owned()) };
        let mut missing = Vec::new();
        match standing {
            Standing::Outside => return missing,
            Standing::Unowned => {
                let waits = self.peers.ipam.waits().into_iter().map(|(what, hint)| Note { what, hint });
                return waits.collect();
            }
            Standing::Peer => {
                let owner = piece.map(Piece::owner).unwrap_or_default();
                if piece.is_some_and(|piece| !piece.reachable) {
                    let hint = "if it is gone for good, `weavers forget` takes its space over";
                    missing.push(note(format!("its owner {owner} cannot be reached"), hint));
                }
                missing.extend(piece.and_then(|piece| self.no_path_to(piece.peer)));
                missing.extend(self.missing_way(address));
            }
            Standing::Free => missing.extend(self.kept_back(address)),
            Standing::Used => missing.extend(container.and_then(|one| one.missing.clone()).map(|what| {
                note(
                    format!("`{}` lacks {what}", self.peers.holder(address).unwrap_or_default()),
                    "see `weavers status`",
                )
            })),
        }
        missing.extend(self.lost_probes(address, standing));
        if let Some(fault) = self.work.converge.vpc.fault() {
            let what = format!("the route tables cannot be read: {}", fault.message);
            missing.push(Note { what, hint: fault.hint.clone() });
        }
        // Until it is known whose what rests is, its routes stay as they are.
        if !self.peers.rests(address) {
            missing.extend(tables.iter().filter_map(|carrier| self.work.wrong_carrier(carrier, standing)));
        }
        missing
    }

    /// What probes say of the way to the host that an address of a peer is on; of one of ours, of the ways to all hosts.
    fn lost_probes(&self, address: Address, standing: Standing) -> Vec<Note> {
        match (standing, self.peers.ipam.ring().owner(address)) {
            (Standing::Peer, Some(owner)) => self.losses_of(owner).collect(),
            (Standing::Used | Standing::Free, _) => self.probe_problems(),
            (Standing::Outside | Standing::Unowned | Standing::Peer, _) => Vec::new(),
        }
    }

    /// Why a free address is not handed out.
    fn kept_back(&self, address: Address) -> Option<Note> {
        if self.peers.rests(address) {
            return Some(Note {
                what: "it is in quarantine: another host may have been given it".to_owned(),
                hint: Some("`weavers status` names the hosts whose confirmation is awaited".to_owned()),
            });
        }
        let covers = |cidr: &Ipv4Net| Range::from(*cidr).contains(address);
        let conflict = self.work.plan.conflicts.iter().find(|conflict| covers(&conflict.destination))?;
        let ((place, destination), target) = (conflict.found_at(), &conflict.target);
        Some(Note {
            what: format!("it is not handed out: {place} {destination} -> {target} is not ours"),
            hint: Some("remove that route".to_owned()),
        })
    }

    /// What is wrong in a route table with the way to an address of the container range.
    pub(super) fn wrong_route(&self, address: Address) -> Option<String> {
        let standing = self.standing(address);
        let wrong = |carrier: &Carrier| self.work.wrong_carrier(carrier, standing);
        self.carriers_of(address).iter().find_map(wrong).map(|note| note.what)
    }

    /// The path to the owner of an address, if that is another host.
    fn path_of(&self, address: Address) -> Option<PeerPath> {
        let owner = self.peers.ipam.ring().owner(address).filter(|owner| *owner != self.facts.identity.name);
        owner.filter(|_| !self.facts.config.mesh.weave_peers).map(|owner| self.peer_path(owner))
    }

    /// The routes that carry packets to an address through the VPC; none where they take another path.
    fn carriers_of(&self, address: Address) -> Vec<Carrier> {
        match self.path_of(address).map(|path| path.path) {
            Some(PathKind::Direct | PathKind::Tunnel | PathKind::None) => Vec::new(),
            Some(PathKind::Vpc | PathKind::Unknown) | None => self.work.carriers(address),
        }
    }
}

impl Reconcile {
    fn vpc_cidr(&self, address: Address) -> Option<Ipv4Net> {
        let mut local = self.converge.vpc.seen()?.tables.values().flat_map(|table| &table.local);
        local.find(|cidr| Range::from(**cidr).contains(address)).copied()
    }

    /// What the kernel does with packets of containers for another host; otherwise the longest match here of what
    /// is ours and of what others have put inside the range.
    fn host_route(&self, address: Address) -> Option<HostRoute> {
        let host = self.converge.host.seen()?;
        let destination = Ipv4Net::new_assert(address.into(), 32);
        if host.links.contains_key(&address) {
            return Some(HostRoute { destination, target: link_name(address) });
        }
        if let Some(way) = host.paths.iter().find(|path| path.packet == Packet::ToOther(address)) {
            return Some(HostRoute { destination, target: paths::target(way) });
        }
        let of_v4 = |cidr: &IpNet| Family::V4.cidr_of(*cidr);
        let blocks = host.blocks.iter().filter_map(of_v4).map(|cidr| (cidr, "unreachable".to_owned()));
        let foreign = host.foreign.iter().map(|(cidr, target)| (*cidr, target.clone()));
        let covering = blocks.chain(foreign).filter(|(cidr, _)| Range::from(*cidr).contains(address));
        let longest = covering.max_by_key(|(cidr, _)| cidr.prefix_len());
        longest.map(|(destination, target)| HostRoute { destination, target })
    }

    pub(super) fn carriers(&self, address: Address) -> Vec<Carrier> {
        let Some(vpc) = self.converge.vpc.seen() else { return Vec::new() };
        let carrier = |(id, table): (&Side, &Table)| {
            let covering = table.routes.iter().filter(|(cidr, _)| Range::from(**cidr).contains(address));
            let longest = covering.max_by_key(|(cidr, _)| cidr.prefix_len());
            Carrier {
                table: id.clone(),
                destination: longest.map(|(cidr, _)| id.destination(*cidr)),
                target: longest.map(|(_, route)| route.target.to_string()),
                state: longest.map(|(_, route)| route.state),
                here: longest
                    .is_some_and(|(_, route)| route.target == Target::Interface(vpc.interface.clone())),
            }
        };
        vpc.tables.iter().map(carrier).collect()
    }

    fn wrong_carrier(&self, carrier: &Carrier, standing: Standing) -> Option<Note> {
        let Carrier { table, destination, target, state, here } = carrier;
        let ours = standing != Standing::Peer;
        let target = target.clone().unwrap_or_default();
        let elsewhere = self.leads_to_an_interface(carrier);
        let name = &table.table;
        let what = match (state, destination) {
            (None, _) | (_, None) => format!("{table} has no route for it"),
            (Some(RouteState::Blackhole | RouteState::Other), Some(cidr)) => {
                format!("{name} {cidr} -> {target} is a blackhole")
            }
            (Some(RouteState::Active), Some(_)) if *here == ours && (*here || elsewhere) => return None,
            (Some(RouteState::Active), Some(cidr)) => format!("{name} {cidr} -> {target} leads elsewhere"),
        };
        Some(Note { what, hint: Some(self.way_to_a_route(carrier, ours)) })
    }

    fn leads_to_an_interface(&self, carrier: &Carrier) -> bool {
        let table = self.converge.vpc.seen().and_then(|vpc| vpc.tables.get(&carrier.table));
        let family = carrier.table.family;
        let route = table.and_then(|table| table.routes.get(&family.cidr_of(carrier.destination?)?));
        route.is_some_and(|route| matches!(route.target, Target::Interface(_)))
    }

    fn way_to_a_route(&self, carrier: &Carrier, ours: bool) -> String {
        if !ours {
            return "its owner writes that route: run `weavers explain` and `weavers doctor` there"
                .to_owned();
        }
        let in_table = |action: &Action| action.route().is_some_and(|(table, _)| *table == carrier.table);
        let change = self.plan.changes.iter().find(|change| in_table(&change.action));
        match change.map(|change| (change, self.converge.failure(&change.action))) {
            None => "see `weavers status`".to_owned(),
            Some((change, None)) => format!("it is about to: {}", change.action),
            Some((_, Some(fault))) => {
                let hint = fault.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
                format!("{}{hint}", fault.message)
            }
        }
    }
}
