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
    state::{DesiredVpc, Ec2Action, InterfaceId, Route, RouteState, Side, SpareWrites, Table, Target, Vpc},
};

/// Routes that one can stand for.
const SEVERAL: usize = 2;
/// Why a route is made that is not needed for any packet.
const MERGED: &str = "one route in the place of several";
/// Why a route goes that no packet needs.
const REDUNDANT: &str = "another route leads there";

pub(super) fn compare(desired: &DesiredVpc, actual: &Vpc, plan: &mut Plan) {
    if desired.disable_check && actual.source_dest_check == Some(true) {
        let action = Ec2Action::DisableCheck { interface: desired.interface.clone() };
        plan.push(action, "on", "EC2 drops container packets while it is on");
    }
    if desired.disable_check && actual.source_dest_check.is_none() {
        plan.unread.push(format!("the source/destination check of {} cannot be read", actual.interface));
    }
    let mut spare = desired.spare_writes;
    for (id, table) in actual.tables.iter().chain(&actual.retired) {
        let judge = Judge { desired, id, table, spare };
        match desired.keeps(id) {
            true => spare = spare.less(judge.plan(plan)),
            false => judge.withdraw("its prefix is not in use any more", plan),
        }
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

/// Routes that are made only to have fewer, and what each stands for.
type Merges = BTreeMap<Ipv4Net, Vec<Ipv4Net>>;

/// One side of a table against the ring.
struct Judge<'a> {
    desired: &'a DesiredVpc,
    id: &'a Side,
    table: &'a Table,
    /// Writes that may be made only to have fewer routes.
    spare: SpareWrites,
}

impl Judge<'_> {
    /// Returns how many writes it plans only to have fewer routes.
    fn plan(&self, plan: &mut Plan) -> usize {
        plan.conflicts.extend(self.conflicts());
        if self.desired.withdraw {
            self.withdraw("this host leaves", plan);
            return 0;
        }
        let revived = self.revived();
        let mut redundant = self.redundant(&self.table.routes);
        redundant.retain(|cidr| !revived.contains(cidr));
        let quota = self.desired.quota_of(self.id);
        let mut replaces = self.replaces(&redundant, &revived);
        let mut creates = self.creates(&replaces);
        let room = quota.map_or(usize::MAX, |quota| quota.saturating_sub(self.table.used + creates.len()));
        let mut merges = self.merges(&redundant, room);
        if [redundant.len(), replaces.len(), creates.len(), merges.len()] == [0; 4] {
            merges.extend(self.cover(room));
        }
        replaces.retain(|cidr| !merges.values().flatten().any(|stood_for| stood_for == cidr));
        creates.retain(|block| !merges.contains_key(block));
        creates.extend(merges.keys());
        let full = quota.is_some_and(|quota| self.table.used + creates.len() > quota);
        let first: &[Ipv4Net] = if full { &redundant } else { &[] };
        let left = self.table.used.saturating_sub(first.len());
        let room = quota.map_or(creates.len(), |quota| quota.saturating_sub(left).min(creates.len()));
        let (creates, refused) = creates.split_at(room);
        let later = self.redundant(&self.after(first, &replaces, creates));

        if !first.is_empty() {
            plan.notes
                .push(format!("{} is at its quota: routes are deleted before others are created", self.id));
            self.push_deletes(first.iter(), REDUNDANT, plan);
        }
        for &destination in &replaces {
            self.push_replace(destination, plan);
        }
        for &destination in creates {
            self.push_create(destination, merges.contains_key(&destination), plan);
        }
        self.push_deletes(later.iter(), REDUNDANT, plan);
        let after = left + creates.len() - later.len().min(left + creates.len());
        plan.tables.insert(self.id.clone(), Usage { used: self.table.used, after, quota });
        for &destination in refused {
            self.push_refused(destination, after, plan);
        }
        merges.values().map(|stood_for| stood_for.len() + 1).sum()
    }

    /// Routes that cover several owners, are ours to see to and lead nowhere. Led to us, one stands for all of our blocks in it, be
    /// they without a route or with one each.
    fn revived(&self) -> BTreeSet<Ipv4Net> {
        let dead = self.table.routes.iter().filter(|(cidr, route)| {
            route.state == RouteState::Blackhole && !self.owned_whole(**cidr) && self.is_ours(**cidr)
        });
        let ours = |part: Range| self.owners_of(part).any(|owner| owner == self.desired.me);
        let stands_for = |cidr: Ipv4Net| {
            let parts = segments(&self.table.routes, cidr.into());
            parts.iter().any(|(part, found)| *found == Some(cidr) && ours(*part))
                || self.own_inside(cidr).count() >= SEVERAL
        };
        dead.map(|(cidr, _)| *cidr).filter(|cidr| stands_for(*cidr)).collect()
    }

    /// Destinations strictly inside this one that one owner has, us.
    fn own_inside(&self, cidr: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
        let inside = meeting(&self.table.routes, cidr.into())
            .filter(move |other| cidr.contains(other) && *other != cidr);
        inside.filter(|other| self.owned_whole(*other) && is_route_of_a_peer(&self.table.routes[other]))
    }

    /// Blocks of ours to which several routes lead where one would do: as many as there is room and writes to spare for, once they
    /// have been ours for a while.
    fn merges(&self, redundant: &[Ipv4Net], room: usize) -> Merges {
        let mut spare = self.spare.merges;
        let absent = self.blocks().into_iter().filter(|block| !self.table.routes.contains_key(block));
        let calm = absent.filter(|block| !self.is_restless(*block) && !self.is_led_from_above(*block));
        let led_by_several = calm.filter(|block| self.own_inside(*block).nth(SEVERAL - 1).is_some());
        let merges = led_by_several.filter_map(|block| Some((block, self.stood_for(block, redundant)?)));
        let affords = |(_, routes): &(Ipv4Net, Vec<Ipv4Net>)| {
            let rest = spare.checked_sub(routes.len() + 1);
            spare = rest.unwrap_or_default();
            rest.is_some()
        };
        merges.take(room).take_while(affords).collect()
    }

    /// A route around addresses of several owners that stands for several routes to us. What others own in it goes on to follow
    /// routes inside it.
    fn cover(&self, room: usize) -> Option<(Ipv4Net, Vec<Ipv4Net>)> {
        if room == 0 || self.spare.covers <= SEVERAL {
            return None;
        }
        let ours: Vec<Ipv4Net> = self.table.leading_to(&self.desired.interface).collect();
        let around: BTreeSet<Ipv4Net> = ours.windows(2).map(|pair| around(pair[0], pair[1])).collect();
        let may = around.into_iter().filter(|cidr| self.may_cover(*cidr));
        let covers = may.filter_map(|cidr| Some((cidr, self.stood_for(cidr, &[])?)));
        covers.filter(|(_, routes)| routes.len() < self.spare.covers).max_by_key(|(_, routes)| routes.len())
    }

    /// The routes that a new one makes redundant, if they are several.
    fn stood_for(&self, cidr: Ipv4Net, redundant: &[Ipv4Net]) -> Option<Vec<Ipv4Net>> {
        let mut routes = self.redundant(&self.after(redundant, &BTreeSet::new(), &[cidr]));
        routes.retain(|route| !redundant.contains(route));
        (routes.len() >= SEVERAL && !routes.contains(&cidr)).then_some(routes)
    }

    /// Whether a route here would take no address from anybody.
    fn may_cover(&self, cidr: Ipv4Net) -> bool {
        let is_led_inside = |(part, found): (Range, Option<Ipv4Net>)| {
            self.owned_by_us(part) || found.is_some_and(|found| found != cidr && cidr.contains(&found))
        };
        self.inside(cidr)
            && !self.table.routes.contains_key(&cidr)
            && self.owners_of(cidr.into()).next() == Some(self.desired.me)
            && !self.is_restless(cidr)
            && segments(&self.table.routes, cidr.into()).into_iter().all(is_led_inside)
            && self.is_left_to_us(cidr)
    }

    /// Whether no owner of addresses in here may rely on a route around it: at the same moment it might delete those inside.
    fn is_left_to_us(&self, cidr: Ipv4Net) -> bool {
        let others: BTreeSet<PeerName> =
            self.owners_of(cidr.into()).filter(|owner| *owner != self.desired.me).collect();
        let first_is_another =
            |over: Ipv4Net| self.owners_of(over.into()).next().is_some_and(|first| others.contains(&first));
        let leads_to_another = |over: &Ipv4Net| {
            let route = self.table.routes.get(over);
            route.is_some_and(|route| {
                matches!(route.target, Target::Interface(_)) && !points_at(route, &self.desired.interface)
            })
        };
        let mut over =
            (0..cidr.prefix_len()).map(|length| Ipv4Net::new_assert(cidr.network(), length).trunc());
        !over.any(|over| if self.inside(over) { first_is_another(over) } else { leads_to_another(&over) })
    }

    /// Routes of ours that lead elsewhere or nowhere, and are the longest match of something.
    fn replaces(&self, redundant: &[Ipv4Net], revived: &BTreeSet<Ipv4Net>) -> BTreeSet<Ipv4Net> {
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
            .chain(revived.iter().copied())
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
    /// the route led to us or all of it is ours. A route that another may delete is not relied on.
    fn leads_the_same(&self, left: &BTreeMap<Ipv4Net, Route>, range: Range, route: &Route) -> bool {
        let ours = points_at(route, &self.desired.interface) || self.owned_by_us(range);
        ours && self.leads_to_us(left, range)
    }

    /// Whether these routes lead all of `range` to us, and go on to as long as we say so.
    fn leads_to_us(&self, left: &BTreeMap<Ipv4Net, Route>, range: Range) -> bool {
        let stays =
            |cidr: Ipv4Net| !self.inside(cidr) || self.owners_of(cidr.into()).next() == Some(self.desired.me);
        segments(left, range).iter().all(|(_, cidr)| {
            cidr.is_some_and(|cidr| is_good(&left[&cidr], &self.desired.interface) && stays(cidr))
        })
    }

    /// Whether all of this block would lead to us without the routes inside it.
    fn is_led_from_above(&self, block: Ipv4Net) -> bool {
        let mut left = self.table.routes.clone();
        left.retain(|cidr, _| !block.contains(cidr));
        self.leads_to_us(&left, block.into())
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

    /// Everything that leads to us goes.
    fn withdraw(&self, cause: &str, plan: &mut Plan) {
        let mine = self.table.leading_to(&self.desired.interface).filter(|cidr| self.inside(*cidr));
        let mut mine: Vec<Ipv4Net> = mine.collect();
        mine.sort_by_key(|cidr| std::cmp::Reverse(cidr.prefix_len()));
        self.push_deletes(mine.iter(), cause, plan);
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

    /// Every destination has one writer: the peer that owns all of it, by the ring; of one that covers several owners, the owner of
    /// its first address. That one leaves it as it is while it leads to somebody, unless there are writes to spare: it may then go
    /// where no address follows it. Nor is it touched before what it covers has not changed hands for a while: somebody who owned
    /// all of it before may just have led it to itself.
    fn writer_is_us(&self, cidr: Ipv4Net, route: &Route) -> bool {
        let owners: BTreeSet<PeerName> = self.owners_of(cidr.into()).collect();
        let is_first = self.owners_of(cidr.into()).next() == Some(self.desired.me);
        let may_go = route.state == RouteState::Blackhole || self.spare.merges > 0;
        is_first && (owners.len() == 1 || may_go && !self.is_restless(cidr))
    }

    /// Whether some of it changed hands lately.
    fn is_restless(&self, cidr: Ipv4Net) -> bool {
        self.desired.restless.iter().any(|piece| piece.overlaps(cidr.into()))
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

    fn push_create(&self, destination: Ipv4Net, merges: bool, plan: &mut Plan) {
        let (table, interface) = (self.id.clone(), self.desired.interface.clone());
        let cause = if merges { MERGED } else { "owned here, missing in the table" };
        plan.push(Ec2Action::CreateRoute { table, destination, interface }, "", cause);
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

    fn push_deletes<'a>(
        &self,
        destinations: impl Iterator<Item = &'a Ipv4Net>,
        cause: &str,
        plan: &mut Plan,
    ) {
        for &destination in destinations {
            let before = self.table.routes.get(&destination).map(|route| found(route, false));
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

/// The smallest CIDR around both.
fn around(one: Ipv4Net, other: Ipv4Net) -> Ipv4Net {
    let shared = (one.network().to_bits() ^ other.network().to_bits()).leading_zeros() as u8;
    let length = shared.min(one.prefix_len()).min(other.prefix_len());
    Ipv4Net::new_assert(one.network(), length).trunc()
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
