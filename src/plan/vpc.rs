//! The VPC's part of the plan: the fewest calls, by longest match.
//!
//! What must be true is that for every address that we own the longest matching route leads to our
//! active interface, in every table. Whose a route is follows from the ring alone, so that every
//! destination has one writer (see [`Judge::writer_is_us`]).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::{Conflict, Plan};
use crate::{
    addr::{Range, join},
    peer::PeerName,
    state::{Action, DesiredVpc, InterfaceId, Route, RouteState, Table, TableId, Target, Vpc},
};

pub(super) fn compare(desired: &DesiredVpc, actual: &Vpc, plan: &mut Plan) {
    if desired.disable_check && actual.source_dest_check == Some(true) {
        let action = Action::DisableCheck { interface: desired.interface.clone() };
        plan.push(action, "on", "EC2 drops container packets while it is on");
    }
    for (id, table) in &actual.tables {
        Judge { desired, id, table }.plan(plan);
    }
}

/// Whether the longest match of every address of `range` in `table` is active and leads to
/// `interface`.
pub fn leads_to(table: &Table, range: Range, interface: &InterfaceId) -> bool {
    segments(&table.routes, range)
        .iter()
        .all(|(_, route)| route.is_some_and(|cidr| is_good(&table.routes[&cidr], interface)))
}

fn is_good(route: &Route, interface: &InterfaceId) -> bool {
    route.state == RouteState::Active && points_at(route, interface)
}

fn points_at(route: &Route, interface: &InterfaceId) -> bool {
    matches!(&route.target, Target::Interface(id) if id == interface)
}

/// One table against the ring.
struct Judge<'a> {
    desired: &'a DesiredVpc,
    id: &'a TableId,
    table: &'a Table,
}

impl Judge<'_> {
    fn plan(&self, plan: &mut Plan) {
        plan.conflicts.extend(self.conflicts());
        if self.desired.withdraw {
            return self.withdraw(plan);
        }
        let (replaces, creates) = (self.replaces(), self.creates());
        let full = self.desired.quota.is_some_and(|quota| self.table.used + creates.len() > quota);
        let now = self.redundant(&self.table.routes);
        let later = self.redundant(&self.after(&replaces, &creates));
        if full && !now.is_empty() {
            plan.notes
                .push(format!("{} is at its quota: routes are deleted before others are created", self.id));
            self.push_deletes(now.iter(), plan);
        }
        for &destination in &replaces {
            self.push_replace(destination, plan);
        }
        for &destination in &creates {
            self.push_create(destination, plan);
        }
        self.push_deletes(later.iter().filter(|cidr| !full || !now.contains(cidr)), plan);
    }

    /// Routes of ours that lead elsewhere or nowhere, and are the longest match of something.
    fn replaces(&self) -> BTreeSet<Ipv4Net> {
        let matched: BTreeSet<Ipv4Net> = segments(&self.table.routes, self.desired.range)
            .into_iter()
            .filter_map(|(_, cidr)| cidr)
            .collect();
        let covered = self.redundant(&self.table.routes);
        matched
            .into_iter()
            .filter(|cidr| self.owned_whole(*cidr) && !covered.contains(cidr))
            .filter(|cidr| {
                let route = &self.table.routes[cidr];
                is_route_of_a_peer(route) && !is_good(route, &self.desired.interface)
            })
            .collect()
    }

    /// Blocks of ours that hold an address whose longest match neither leads to us nor can be replaced.
    fn creates(&self) -> Vec<Ipv4Net> {
        let replaced = self.replaces();
        self.blocks()
            .into_iter()
            .filter(|block| !self.table.routes.contains_key(block))
            .filter(|&block| {
                segments(&self.table.routes, block.into()).iter().any(|(_, found)| match found {
                    None => true,
                    Some(cidr) => {
                        let route = &self.table.routes[cidr];
                        let inside = block.contains(cidr);
                        !inside && !replaced.contains(cidr) && !is_good(route, &self.desired.interface)
                    }
                })
            })
            .collect()
    }

    /// What we own, in the fewest CIDRs.
    fn blocks(&self) -> Vec<Ipv4Net> {
        let me = self.desired.me;
        let owned = self.desired.owners.iter().filter(|(_, owner)| *owner == me).map(|(range, _)| *range);
        join(owned).into_iter().flat_map(Range::cidrs).collect()
    }

    /// Routes whose only writer we are and whose absence would lead no address elsewhere, most
    /// specific first.
    fn redundant(&self, routes: &BTreeMap<Ipv4Net, Route>) -> Vec<Ipv4Net> {
        let mut left = routes.clone();
        let mut by_length: Vec<Ipv4Net> = routes.keys().copied().filter(|&cidr| self.is_ours(cidr)).collect();
        by_length.sort_by_key(|cidr| std::cmp::Reverse(cidr.prefix_len()));
        by_length.retain(|&cidr| {
            let route = left.remove(&cidr).expect("each is looked at once");
            let reached = matched_by(routes, &left, cidr);
            let needed = reached.into_iter().any(|range| !self.leads_the_same(&left, range, &route));
            if needed {
                left.insert(cidr, route);
            }
            !needed
        });
        by_length
    }

    /// Whether without `route` the addresses of `range` would still go where they should: to us, if
    /// the route led to us or all of it is ours.
    fn leads_the_same(&self, left: &BTreeMap<Ipv4Net, Route>, range: Range, route: &Route) -> bool {
        let ours = points_at(route, &self.desired.interface) || self.owned_by_us(range);
        ours && segments(left, range)
            .iter()
            .all(|(_, cidr)| cidr.is_some_and(|cidr| is_good(&left[&cidr], &self.desired.interface)))
    }

    /// The table as it is after these writes.
    fn after(&self, replaces: &BTreeSet<Ipv4Net>, creates: &[Ipv4Net]) -> BTreeMap<Ipv4Net, Route> {
        let mut routes = self.table.routes.clone();
        let target = Target::Interface(self.desired.interface.clone());
        for &cidr in replaces.iter().chain(creates) {
            routes.insert(cidr, Route { target: target.clone(), state: RouteState::Active, created: true });
        }
        routes
    }

    /// Leaving: everything that leads to us goes.
    fn withdraw(&self, plan: &mut Plan) {
        let mine = self.table.routes.iter().filter(|(cidr, route)| {
            self.inside(**cidr) && route.created && points_at(route, &self.desired.interface)
        });
        let mut mine: Vec<Ipv4Net> = mine.map(|(cidr, _)| *cidr).collect();
        mine.sort_by_key(|cidr| std::cmp::Reverse(cidr.prefix_len()));
        self.push_deletes(mine.iter(), plan);
    }

    // ----- whose is it? -----

    fn inside(&self, cidr: Ipv4Net) -> bool {
        self.desired.range.covers(cidr.into())
    }

    fn is_ours(&self, cidr: Ipv4Net) -> bool {
        let route = &self.table.routes.get(&cidr);
        self.inside(cidr)
            && route.is_none_or(|route| is_route_of_a_peer(route) && self.writer_is_us(cidr, route))
    }

    /// Every destination has one writer: the peer that owns all of it, by the ring; of one that
    /// covers several owners the holder, whose interface is its target; where that interface belongs
    /// to nobody alive, the owner of the first address.
    fn writer_is_us(&self, cidr: Ipv4Net, route: &Route) -> bool {
        let mut owners = self.owners_of(cidr.into());
        let first = owners.next();
        match owners.find(|&owner| Some(owner) != first) {
            None => first == Some(self.desired.me),
            Some(_) if route.state == RouteState::Blackhole => first == Some(self.desired.me),
            Some(_) => points_at(route, &self.desired.interface),
        }
    }

    fn owners_of(&self, range: Range) -> impl Iterator<Item = PeerName> {
        let owners = &self.desired.owners;
        let first = owners.partition_point(|(piece, _)| piece.end <= range.start);
        owners[first..].iter().take_while(move |(piece, _)| piece.start < range.end).map(|(_, owner)| *owner)
    }

    fn owned_by_us(&self, range: Range) -> bool {
        let mut owners = self.owners_of(range).peekable();
        owners.peek().is_some() && owners.all(|owner| owner == self.desired.me)
    }

    fn owned_whole(&self, cidr: Ipv4Net) -> bool {
        self.inside(cidr) && self.owned_by_us(cidr.into())
    }

    fn conflicts(&self) -> Vec<Conflict> {
        let foreign = self
            .table
            .routes
            .iter()
            .filter(|(cidr, route)| self.inside(**cidr) && !is_route_of_a_peer(route));
        foreign
            .map(|(&destination, route)| Conflict {
                place: self.id.to_string(),
                destination,
                target: route.target.to_string(),
            })
            .collect()
    }

    // ----- words -----

    fn push_replace(&self, destination: Ipv4Net, plan: &mut Plan) {
        let route = &self.table.routes[&destination];
        let (before, cause) = match route.state {
            RouteState::Blackhole => (format!("{} (blackhole)", route.target), "its target is gone"),
            RouteState::Active | RouteState::Other => (route.target.to_string(), "it leads elsewhere"),
        };
        let (table, interface) = (self.id.clone(), self.desired.interface.clone());
        plan.push(Action::ReplaceRoute { table, destination, interface }, before, cause);
    }

    fn push_create(&self, destination: Ipv4Net, plan: &mut Plan) {
        let (table, interface) = (self.id.clone(), self.desired.interface.clone());
        plan.push(
            Action::CreateRoute { table, destination, interface },
            "",
            "owned here, missing in the table",
        );
    }

    fn push_deletes<'a>(&self, destinations: impl Iterator<Item = &'a Ipv4Net>, plan: &mut Plan) {
        for &destination in destinations {
            let before = self.table.routes.get(&destination).map(|route| route.target.to_string());
            let cause = if self.desired.withdraw { "this host leaves" } else { "another route leads there" };
            let action = Action::DeleteRoute { table: self.id.clone(), destination };
            plan.push(action, before.unwrap_or_default(), cause);
        }
    }
}

/// Origin CreateRoute and an interface as target: what peers write. Anything else is a conflict.
fn is_route_of_a_peer(route: &Route) -> bool {
    route.created && matches!(route.target, Target::Interface(_))
}

/// The parts of `range` with the longest match of each, ascending and without gaps.
fn segments(routes: &BTreeMap<Ipv4Net, Route>, range: Range) -> Vec<(Range, Option<Ipv4Net>)> {
    let mut nested: Vec<Ipv4Net> =
        routes.keys().copied().filter(|&cidr| Range::from(cidr).overlaps(range)).collect();
    nested.sort_by_key(|cidr| (cidr.network(), cidr.prefix_len()));
    let mut sweep = Sweep { at: range.start, end: range.end, open: Vec::new(), found: Vec::new() };
    for cidr in nested {
        sweep.close_before(Range::from(cidr).start);
        sweep.emit_up_to(Range::from(cidr).start);
        sweep.open.push(cidr);
    }
    sweep.close_before(range.end);
    sweep.emit_up_to(range.end);
    sweep.found
}

/// CIDRs nest or are apart, so a stack of the open ones is all that a sweep needs.
struct Sweep {
    at: crate::addr::Address,
    end: crate::addr::Address,
    open: Vec<Ipv4Net>,
    found: Vec<(Range, Option<Ipv4Net>)>,
}

impl Sweep {
    fn close_before(&mut self, start: crate::addr::Address) {
        while let Some(&last) = self.open.last() {
            let end = Range::from(last).end;
            if end > start {
                return;
            }
            self.emit_up_to(end);
            self.open.pop();
        }
    }

    fn emit_up_to(&mut self, to: crate::addr::Address) {
        let to = to.min(self.end);
        if self.at < to {
            self.found.push((Range::new(self.at, to), self.open.last().copied()));
            self.at = to;
        }
    }
}

/// The parts of `cidr` for which it is the longest match in `routes`, where `left` is what else is
/// still there.
fn matched_by(
    routes: &BTreeMap<Ipv4Net, Route>,
    left: &BTreeMap<Ipv4Net, Route>,
    cidr: Ipv4Net,
) -> Vec<Range> {
    let with: BTreeMap<Ipv4Net, Route> = left
        .iter()
        .filter(|(other, _)| cidr.contains(*other))
        .map(|(other, route)| (*other, route.clone()))
        .chain(routes.get(&cidr).map(|route| (cidr, route.clone())))
        .collect();
    let parts = segments(&with, cidr.into()).into_iter().filter(|(_, found)| *found == Some(cidr));
    parts.map(|(range, _)| range).collect()
}
