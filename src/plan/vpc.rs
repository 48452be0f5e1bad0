//! The VPC's part of the plan: the fewest calls, by longest match.
//!
//! What must be true is that for every address that we own the longest matching route leads to our
//! active interface, in every table. Whose a route is follows from the ring alone, so that every
//! destination has one writer (see [`Judge::writer_is_us`]).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::{Change, Conflict, Found, Place, Plan, Usage};
use crate::{
    addr::{Address, Range, join},
    peer::PeerName,
    state::{DesiredVpc, Ec2Action, InterfaceId, Route, RouteState, Table, TableId, Target, Vpc},
};

pub(super) fn compare(desired: &DesiredVpc, actual: &Vpc, plan: &mut Plan) {
    if desired.disable_check && actual.source_dest_check == Some(true) {
        let action = Ec2Action::DisableCheck { interface: desired.interface.clone() };
        plan.push(action, "on", "EC2 drops container packets while it is on");
    }
    if desired.disable_check && actual.source_dest_check.is_none() {
        plan.unread.push(format!("the source/destination check of {} cannot be read", actual.interface));
    }
    for (id, table) in &actual.tables {
        Judge { desired, id, table }.plan(plan);
    }
}

/// Whether the longest match of every address of `range` in `table` is active and leads to
/// `interface`.
pub fn leads_to(table: &Table, range: Range, interface: &InterfaceId) -> bool {
    led(table, range, interface) == [range]
}

/// The parts of `range` whose longest match in `table` is active and leads to `interface`.
pub fn led(table: &Table, range: Range, interface: &InterfaceId) -> Vec<Range> {
    let parts = segments(&table.routes, range).into_iter();
    let led = parts.filter(|(_, route)| route.is_some_and(|cidr| is_good(&table.routes[&cidr], interface)));
    join(led.map(|(part, _)| part))
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
        let redundant = self.redundant(&self.table.routes);
        let replaces = self.replaces(&redundant);
        let creates = self.creates(&replaces);
        let quota = self.desired.quota_of(self.id);
        let full = quota.is_some_and(|quota| self.table.used + creates.len() > quota);
        let first: &[Ipv4Net] = if full { &redundant } else { &[] };
        let left = self.table.used.saturating_sub(first.len());
        let room = quota.map_or(creates.len(), |quota| quota.saturating_sub(left).min(creates.len()));
        let (creates, refused) = creates.split_at(room);
        let later = self.redundant(&self.after(first, &replaces, creates));

        if !first.is_empty() {
            plan.notes
                .push(format!("{} is at its quota: routes are deleted before others are created", self.id));
            self.push_deletes(first.iter(), plan);
        }
        for &destination in &replaces {
            self.push_replace(destination, plan);
        }
        for &destination in creates {
            self.push_create(destination, plan);
        }
        self.push_deletes(later.iter(), plan);
        let after = left + creates.len() - later.len().min(left + creates.len());
        plan.tables.insert(self.id.clone(), Usage { used: self.table.used, after, quota });
        for &destination in refused {
            self.push_refused(destination, after, plan);
        }
    }

    /// Routes of ours that lead elsewhere or nowhere, and are the longest match of something.
    fn replaces(&self, redundant: &[Ipv4Net]) -> BTreeSet<Ipv4Net> {
        let redundant: BTreeSet<Ipv4Net> = redundant.iter().copied().collect();
        let matched: BTreeSet<Ipv4Net> = segments(&self.table.routes, self.desired.range)
            .into_iter()
            .filter_map(|(_, cidr)| cidr)
            .collect();
        matched
            .into_iter()
            .filter(|cidr| self.owned_whole(*cidr) && !redundant.contains(cidr))
            .filter(|cidr| {
                let route = &self.table.routes[cidr];
                is_route_of_a_peer(route) && !is_good(route, &self.desired.interface)
            })
            .collect()
    }

    /// Blocks of ours that hold an address whose longest match neither leads to us nor can be replaced.
    fn creates(&self, replaced: &BTreeSet<Ipv4Net>) -> Vec<Ipv4Net> {
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
            let parts = segments(&left, cidr.into());
            let reached = parts.into_iter().filter(|(_, found)| *found == Some(cidr));
            let route = left.remove(&cidr).expect("each is looked at once");
            let needed =
                reached.map(|(range, _)| range).any(|range| !self.leads_the_same(&left, range, &route));
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
    fn after(
        &self,
        deletes: &[Ipv4Net],
        replaces: &BTreeSet<Ipv4Net>,
        creates: &[Ipv4Net],
    ) -> BTreeMap<Ipv4Net, Route> {
        let mut routes = self.table.routes.clone();
        routes.retain(|cidr, _| !deletes.contains(cidr));
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
        let (used, quota) = (self.table.used, self.desired.quota_of(self.id));
        plan.tables.insert(self.id.clone(), Usage { used, after: used.saturating_sub(mine.len()), quota });
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

    /// Every destination has one writer: the peer that owns all of it, by the ring. One that covers several owners is left as it is
    /// while it leads to somebody: whoever holds it could only tell by a read, which may be old. Where it leads nowhere, the owner
    /// of its first address sees to it, once what it covers has not changed hands for a while: somebody who owned all of it before
    /// may just have led it to itself.
    fn writer_is_us(&self, cidr: Ipv4Net, route: &Route) -> bool {
        let owners: BTreeSet<PeerName> = self.owners_of(cidr.into()).collect();
        let is_first = self.owners_of(cidr.into()).next() == Some(self.desired.me);
        let restless = || self.desired.restless.iter().any(|piece| piece.overlaps(cidr.into()));
        is_first && (owners.len() == 1 || route.state == RouteState::Blackhole && !restless())
    }

    fn owners_of(&self, range: Range) -> impl Iterator<Item = PeerName> {
        // They are ascending and without gaps.
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
                place: Place::Table(self.id.clone()),
                destination,
                target: route.target.to_string(),
            })
            .collect()
    }

    // ----- words -----

    fn push_replace(&self, destination: Ipv4Net, plan: &mut Plan) {
        let route = &self.table.routes[&destination];
        let (before, cause) = match route.state {
            RouteState::Blackhole => (found(route, true), "its target is gone"),
            RouteState::Active | RouteState::Other => (found(route, false), "it leads elsewhere"),
        };
        let (table, interface) = (self.id.clone(), self.desired.interface.clone());
        plan.push(Ec2Action::ReplaceRoute { table, destination, interface }, before, cause);
    }

    fn push_create(&self, destination: Ipv4Net, plan: &mut Plan) {
        let (table, interface) = (self.id.clone(), self.desired.interface.clone());
        plan.push(
            Ec2Action::CreateRoute { table, destination, interface },
            "",
            "owned here, missing in the table",
        );
    }

    /// A route that is needed and would not fit.
    fn push_refused(&self, destination: Ipv4Net, held: usize, plan: &mut Plan) {
        let (table, interface) = (self.id.clone(), self.desired.interface.clone());
        let action = Ec2Action::CreateRoute { table, destination, interface };
        let cause = match self.desired.quota_of(self.id) {
            Some(quota) => format!("the table is full: {held} of {quota} routes"),
            None => "the table is full".to_owned(),
        };
        plan.refused.push(Change {
            action: action.into(),
            cause,
            before: Found::Nothing,
            containers: Vec::new(),
        });
    }

    fn push_deletes<'a>(&self, destinations: impl Iterator<Item = &'a Ipv4Net>, plan: &mut Plan) {
        for &destination in destinations {
            let before = self.table.routes.get(&destination).map(|route| found(route, false));
            let cause = if self.desired.withdraw { "this host leaves" } else { "another route leads there" };
            let action = Ec2Action::DeleteRoute { table: self.id.clone(), destination };
            plan.push(action, before.unwrap_or_default(), cause);
        }
    }
}

fn found(route: &Route, blackhole: bool) -> Found {
    Found::Route { target: route.target.clone(), blackhole }
}

/// Origin CreateRoute and an interface as target: what peers write. Anything else is a conflict.
fn is_route_of_a_peer(route: &Route) -> bool {
    route.created && matches!(route.target, Target::Interface(_))
}

/// The parts of `range` with the longest match of each, ascending and without gaps.
fn segments(routes: &BTreeMap<Ipv4Net, Route>, range: Range) -> Vec<(Range, Option<Ipv4Net>)> {
    let mut sweep = Sweep { at: range.start, end: range.end, open: Vec::new(), found: Vec::new() };
    for cidr in meeting(routes, range) {
        sweep.close_before(Range::from(cidr).start);
        sweep.emit_up_to(Range::from(cidr).start);
        sweep.open.push(cidr);
    }
    sweep.close_before(range.end);
    sweep.emit_up_to(range.end);
    sweep.found
}

/// The destinations that share addresses with `range`, the outer before the inner: those that begin before it hold its
/// first address, so there is one of each length at most.
fn meeting(routes: &BTreeMap<Ipv4Net, Route>, range: Range) -> impl Iterator<Item = Ipv4Net> {
    let start = |cidr: Ipv4Net| Address::from(cidr.network());
    let around = (0..=32).map(move |length| Ipv4Net::new_assert(range.start.into(), length).trunc());
    let around = around.filter(move |cidr| start(*cidr) < range.start && routes.contains_key(cidr));
    let least = Ipv4Net::new_assert(range.start.into(), 0);
    let within = routes.range(least..).map(|(cidr, _)| *cidr);
    around.chain(within.take_while(move |cidr| start(*cidr) < range.end))
}

/// CIDRs nest or are apart, so a stack of the open ones is all that a sweep needs.
struct Sweep {
    at: Address,
    end: Address,
    open: Vec<Ipv4Net>,
    found: Vec<(Range, Option<Ipv4Net>)>,
}

impl Sweep {
    fn close_before(&mut self, start: Address) {
        while let Some(&last) = self.open.last() {
            let end = Range::from(last).end;
            if end > start {
                return;
            }
            self.emit_up_to(end);
            self.open.pop();
        }
    }

    fn emit_up_to(&mut self, to: Address) {
        let to = to.min(self.end);
        if self.at < to {
            self.found.push((Range::new(self.at, to), self.open.last().copied()));
            self.at = to;
        }
    }
}
