//! What holds of every plan for the VPC, whatever the ring and the tables are.
//!
//! A world of 32 addresses, three peers and a few tables, in which routes of all kinds stand everywhere, so that everything
//! meets everything. Peers plan from what they read, which may be old, and their writes take turns at random.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipnet::Ipv4Net;
use proptest::{collection, prelude::*};
use weavers::{
    addr::{Address, Family, Prefix, Range, join},
    peer::PeerName,
    plan::{Plan, leads_to},
    state::{
        Action, Actual, Desired, DesiredVpc, Ec2Action, Host, InterfaceId, Route, RouteState, Side,
        SpareWrites, Table, TableId, Target, Vpc,
    },
};

const PEERS: usize = 3;
const FIRST: u32 = 0x0a20_0000;
const SIZE: u32 = 32;
/// Rounds in which everybody plans and acts once. One may have to wait for another, and a covering route for both.
const ROUNDS_MAX: usize = 3;
/// More of them where writes are to spare: each route that stands for several takes a round of its own where they are few.
const ROUNDS_OF_COVERS: usize = 2 * SIZE as usize;

type Tables = BTreeMap<Side, Table>;
type Owners = Vec<(Range, usize)>;

#[derive(Clone, Debug)]
struct World {
    owners: Owners,
    tables: Tables,
    quota: Option<usize>,
    /// What changed hands lately.
    restless: Vec<Range>,
    /// Writes that each may make only to have fewer routes.
    spare: usize,
}

/// A peer at work: what it read last, what it wrote since, and what it has still to do.
#[derive(Default)]
struct Worker {
    read: usize,
    /// What it made of a destination, and the number of the read that shows it.
    wrote: BTreeMap<(Side, Ipv4Net), (usize, Option<Route>)>,
    queue: VecDeque<Action>,
    failed: bool,
}

impl World {
    fn desired(&self, me: usize) -> Desired {
        let vpc = DesiredVpc {
            range: universe(),
            prefix: Some(prefix()),
            me: name(me),
            interface: interface(me),
            disable_check: true,
            owners: self.owners.iter().map(|(range, owner)| (*range, name(*owner))).collect(),
            quota: self.quota,
            full: BTreeMap::new(),
            restless: self.restless.clone(),
            spare_writes: SpareWrites { merges: self.spare, covers: self.spare },
            withdraw: false,
        };
        Desired { host: Host::default(), vpc: Some(vpc) }
    }

    fn plan(&self, me: usize, tables: &Tables) -> Vec<Action> {
        self.whole_plan(me, tables).changes.into_iter().map(|change| change.action).collect()
    }

    fn whole_plan(&self, me: usize, tables: &Tables) -> Plan {
        let vpc = Vpc {
            interface: interface(me),
            source_dest_check: Some(false),
            tables: tables.clone(),
            retired: BTreeMap::new(),
        };
        Plan::new(&self.desired(me), Actual { host: None, vpc: Some(&vpc) })
    }

    /// What EC2 does. A refusal changes nothing.
    fn apply(&mut self, action: &Action) -> Result<(), &'static str> {
        let (table, cidr, interface) = route_of(action);
        let table = self.tables.get_mut(&table).expect("nobody writes to a table that was not shown");
        match (action, table.routes.contains_key(&cidr)) {
            (Action::Ec2(Ec2Action::CreateRoute { .. }), true) => return Err("it is there already"),
            (Action::Ec2(Ec2Action::CreateRoute { .. }), false)
                if self.quota.is_some_and(|quota| table.used >= quota) =>
            {
                return Err("the table is full");
            }
            (Action::Ec2(Ec2Action::CreateRoute { .. }), false) => table.used += 1,
            (
                Action::Ec2(Ec2Action::ReplaceRoute { .. }) | Action::Ec2(Ec2Action::DeleteRoute { .. }),
                false,
            ) => return Err("it is gone"),
            (Action::Ec2(Ec2Action::DeleteRoute { .. }), true) => table.used -= 1,
            (_, _) => {}
        }
        match interface {
            Some(interface) => drop(table.routes.insert(cidr, active(interface))),
            None => drop(table.routes.remove(&cidr)),
        }
        Ok(())
    }

    /// Everybody looks and acts, one after the other, until nobody finds anything to do.
    fn settle(&mut self) {
        self.settle_among(&[0, 1, 2]);
    }

    fn settle_among(&mut self, peers: &[usize]) {
        let rounds = if self.spare > 0 { ROUNDS_MAX + ROUNDS_OF_COVERS } else { ROUNDS_MAX };
        for _ in 0..rounds {
            for &me in peers {
                let mut failed = false;
                for action in self.plan(me, &self.tables.clone()) {
                    let skipped = failed && matches!(action, Action::Ec2(Ec2Action::DeleteRoute { .. }));
                    failed |= !skipped && self.apply(&action).is_err();
                }
            }
        }
    }

    fn is_settled(&self) -> Result<(), TestCaseError> {
        self.is_settled_among(&[0, 1, 2])
    }

    fn is_settled_among(&self, peers: &[usize]) -> Result<(), TestCaseError> {
        for &me in peers {
            let left = self.plan(me, &self.tables);
            prop_assert!(left.is_empty(), "peer {me} still wants {left:?} in {:#?}", self.tables);
        }
        Ok(())
    }

    /// Every address in every table, with the peer that owns it.
    fn addresses(&self) -> Vec<(Side, Address, usize)> {
        let mut all = Vec::new();
        for id in self.tables.keys() {
            for (range, owner) in &self.owners {
                all.extend((range.start.0..range.end.0).map(|at| (id.clone(), Address(at), *owner)));
            }
        }
        all
    }

    /// The addresses whose packets arrive at their owner.
    fn delivered(&self) -> BTreeSet<(Side, Address)> {
        let all = self.addresses().into_iter();
        let right = all.filter(|(id, at, owner)| leads_to(&self.tables[id], one(*at), &interface(*owner)));
        right.map(|(id, at, _)| (id, at)).collect()
    }

    fn cidrs_of(&self, me: usize) -> Vec<Ipv4Net> {
        let owned = self.owners.iter().filter(|(_, owner)| *owner == me).map(|(range, _)| *range);
        join(owned).into_iter().flat_map(Range::cidrs).collect()
    }

    /// Whether no route over this one covers several owners of whom another than its own is the first.
    fn may_be_relied_on(&self, table: &Side, cidr: Ipv4Net) -> bool {
        let first =
            |cidr: Ipv4Net| self.owners.iter().find(|(range, _)| range.contains(Range::from(cidr).start));
        let over = self.tables[table].routes.keys().filter(|over| over.contains(&cidr) && **over != cidr);
        let mut inside = over.filter(|over| universe().covers((**over).into()));
        inside.all(|over| first(*over).map(|(_, owner)| owner) == first(cidr).map(|(_, owner)| owner))
    }

    fn owners_of(&self, cidr: Ipv4Net) -> BTreeSet<usize> {
        let overlapping = self.owners.iter().filter(|(range, _)| range.overlaps(cidr.into()));
        overlapping.map(|(_, owner)| *owner).collect()
    }

    /// Whether what is not ours stands over this address inside the range.
    fn is_obstructed(&self, table: &Side, address: Address) -> bool {
        self.tables[table].routes.iter().any(|(cidr, route)| {
            universe().covers((*cidr).into()) && Range::from(*cidr).contains(address) && is_foreign(route)
        })
    }
}

proptest! {
    #[test]
    fn where_everything_is_as_it_should_be_nothing_is_planned(owners in owners(), me in 0..PEERS) {
        let mut world = World { owners, tables: [(table_id(0), Table::default())].into(), quota: None, restless: Vec::new(), spare: 0 };
        for peer in 0..PEERS {
            for cidr in world.cidrs_of(peer) {
                world.tables.values_mut().next().unwrap().routes.insert(cidr, active(interface(peer)));
            }
        }
        prop_assert_eq!(world.plan(me, &world.tables), []);
    }

    #[test]
    fn carried_out_the_plans_bring_every_address_to_its_owner(world in worlds(Just(None))) {
        let mut world = world;
        world.settle();
        world.is_settled()?;
        let delivered = world.delivered();
        for (table, at, owner) in world.addresses() {
            let excused = world.is_obstructed(&table, at);
            prop_assert!(
                excused || delivered.contains(&(table.clone(), at)),
                "{at} of peer {owner} is lost in {:#?}", world.tables[&table],
            );
        }
    }

    #[test]
    fn in_the_end_no_route_could_be_spared(world in worlds(Just(None))) {
        let mut world = world;
        world.settle();
        let delivered = world.delivered();
        for (id, table) in world.tables.clone() {
            for (cidr, route) in &table.routes {
                let of_a_peer = (0..PEERS).any(|peer| *route == active(interface(peer)));
                // A route that covers several owners is left as it is while it leads to one of them, and relied on by the
                // owner of its first address alone.
                let relied_on = world.may_be_relied_on(&id, *cidr);
                if of_a_peer && universe().covers((*cidr).into()) && world.owners_of(*cidr).len() == 1 && relied_on {
                    let mut without = world.clone();
                    without.tables.get_mut(&id).unwrap().routes.remove(cidr);
                    prop_assert!(without.delivered() != delivered, "{cidr} is not needed in {table:#?}");
                }
            }
        }
    }

    #[test]
    fn a_table_without_our_routes_gets_one_for_each_cidr_and_no_more(world in worlds(Just(None))) {
        let mut world = world;
        for table in world.tables.values_mut() {
            table.routes.retain(|_, route| is_foreign(route));
        }
        world.settle();
        for (peer, table) in (0..PEERS).flat_map(|peer| world.tables.values().map(move |table| (peer, table))) {
            let routes = table.routes.values().filter(|route| **route == active(interface(peer))).count();
            prop_assert!(routes <= world.cidrs_of(peer).len());
        }
    }

    /// What is free moves until it makes large blocks; then one route leads to each, or to several of one host.
    #[test]
    fn where_writes_are_to_spare_one_route_leads_to_each_block_or_to_several(owners in owners(), mask in collection::vec(0..PEERS, SIZE as usize)) {
        let mut world = World { owners, tables: [(table_id(0), Table::default())].into(), quota: None, restless: Vec::new(), spare: 100 };
        // One route for each address, to whoever had it before.
        let routes = mask.iter().enumerate().map(|(at, peer)| (cidr(at as u32, 32), active(interface(*peer))));
        let routes: BTreeMap<_, _> = routes.collect();
        world.tables = [(table_id(0), Table { used: routes.len(), routes, local: Vec::new() })].into();
        world.settle();
        world.is_settled()?;
        prop_assert_eq!(world.delivered().len(), SIZE as usize);
        let blocks: BTreeSet<Ipv4Net> = (0..PEERS).flat_map(|peer| world.cidrs_of(peer)).collect();
        let routes: BTreeSet<Ipv4Net> = world.tables[&table_id(0)].routes.keys().copied().collect();
        let covers = routes.difference(&blocks);
        prop_assert!(covers.clone().all(|cidr| world.owners_of(*cidr).len() > 1), "{routes:?} of {blocks:?}");
        prop_assert!(routes.len() + covers.count() <= blocks.len(), "{routes:?} of {blocks:?}");
    }

    #[test]
    fn a_plan_names_nothing_that_is_not_its_peers(world in worlds(quotas()), me in 0..PEERS) {
        for action in world.plan(me, &world.tables) {
            let (table, cidr, target) = route_of(&action);
            prop_assert!(universe().covers(cidr.into()), "{action}");
            prop_assert!(target.is_none_or(|target| target == interface(me)), "{action}");
            let owners = world.owners_of(cidr);
            let there = world.tables[&table].routes.get(&cidr);
            prop_assert!(!there.is_some_and(is_foreign), "{action}");
            let dead = there.is_some_and(|route| route.state == RouteState::Blackhole);
            let first = world.owners.iter().find(|(range, _)| range.contains(Range::from(cidr).start));
            prop_assert_eq!(first.map(|(_, owner)| *owner), Some(me), "{}", action);
            match &action {
                Action::Ec2(Ec2Action::ReplaceRoute { .. }) => prop_assert!(owners.len() == 1 || dead, "{action}"),
                _ => prop_assert!(owners.len() == 1 || dead || world.spare > 0, "{action}"),
            }
        }
    }

    #[test]
    fn no_packet_is_lost_on_the_way_and_no_destination_has_two_writers(
        world in worlds(quotas()),
        schedule in collection::vec((0..PEERS, 0usize..20), 1..120),
    ) {
        let mut world = world;
        let mut past = vec![world.tables.clone()];
        let mut workers: Vec<Worker> = (0..PEERS).map(|_| Worker::default()).collect();
        let mut writers = BTreeMap::new();
        for (me, age) in schedule {
            let worker = &mut workers[me];
            let Some(action) = worker.queue.pop_front() else {
                worker.look(&past, age);
                worker.queue = world.plan(me, &worker.view(&past)).into();
                continue;
            };
            if worker.failed && matches!(action, Action::Ec2(Ec2Action::DeleteRoute { .. })) {
                continue;
            }
            let before = world.delivered();
            let (table, cidr, target) = route_of(&action);
            match world.apply(&action) {
                Ok(()) => drop(worker.wrote.insert((table.clone(), cidr), (past.len(), target.map(active)))),
                Err(_) => worker.failed = true,
            }
            past.push(world.tables.clone());
            let after = world.delivered();
            let lost: Vec<_> = before.difference(&after).collect();
            prop_assert!(lost.is_empty(), "`{action}` of peer {me} loses {lost:?} in {:#?}", world.tables);
            let writer = *writers.entry((table, cidr)).or_insert(me);
            prop_assert_eq!(writer, me, "`{}` has two writers", action);
        }
    }

    #[test]
    fn no_table_is_asked_for_more_than_it_holds_and_what_does_not_fit_is_said(
        world in worlds((1usize..12).prop_map(Some)), me in 0..PEERS,
    ) {
        let plan = world.whole_plan(me, &world.tables);
        let mut after = world.clone();
        for change in &plan.changes {
            let done = after.apply(&change.action);
            prop_assert!(done.is_ok(), "`{}`: {done:?}", change.action);
        }
        for (id, usage) in &plan.tables {
            prop_assert_eq!((usage.used, usage.after), (world.tables[id].used, after.tables[id].used));
        }
        let creates = |plan: &Plan| -> BTreeSet<Action> {
            let all = plan.changes.iter().chain(&plan.refused).map(|change| change.action.clone());
            all.filter(|action| matches!(action, Action::Ec2(Ec2Action::CreateRoute { .. }))).collect()
        };
        // What would only spare routes is not missed.
        let needed = World { spare: 0, ..world.clone() };
        let unlimited = World { quota: None, ..needed.clone() };
        let tables = &world.tables;
        prop_assert_eq!(creates(&needed.whole_plan(me, tables)), creates(&unlimited.whole_plan(me, tables)));
    }

    /// As above, but ranges change hands on the way, hosts die, and each peer knows of that what it has heard.
    #[test]
    fn no_packet_of_an_address_in_use_is_lost_while_ranges_change_hands(
        world in worlds(quotas()),
        used in collection::btree_set(0..SIZE, 0..12),
        turns in collection::vec(turns(), 1..160),
    ) {
        let mut cluster = Cluster::new(world, used);
        for turn in turns {
            cluster.take(turn)?;
        }
        cluster.settle()?;
    }

    #[test]
    fn a_range_given_away_costs_the_heir_one_call_and_the_donor_none(
        length in 28u8..=32, at in 0..SIZE, donor in 0..PEERS, by in 1..PEERS,
    ) {
        let heir = (donor + by) % PEERS;
        let given = cidr(at, length);
        let pieces = [
            (Range::new(universe().start, given.network().into()), donor),
            (given.into(), heir),
            (Range::new(Range::from(given).end, universe().end), donor),
        ];
        let owners = pieces.into_iter().filter(|(range, _)| !range.is_empty()).collect();
        let routes = [(cidr(0, 27), active(interface(donor)))].into();
        let table = Table { routes, used: 1, local: Vec::new() };
        let mut world = World { owners, tables: [(table_id(0), table)].into(), quota: None, restless: Vec::new(), spare: 0 };
        let wanted =
            Action::Ec2(Ec2Action::CreateRoute { table: table_id(0), destination: given, interface: interface(heir) });
        prop_assert_eq!(world.plan(heir, &world.tables), vec![wanted.clone()]);
        prop_assert_eq!(world.plan(donor, &world.tables), []);
        world.apply(&wanted).unwrap();
        world.is_settled()?;
    }

    #[test]
    fn whoever_leaves_takes_its_routes_and_no_others(world in worlds(Just(None)), me in 0..PEERS) {
        let mut desired = world.desired(me);
        desired.vpc.as_mut().unwrap().withdraw = true;
        let vpc = Vpc { interface: interface(me), source_dest_check: None, tables: world.tables.clone(), retired: BTreeMap::new() };
        let plan = Plan::new(&desired, Actual { host: None, vpc: Some(&vpc) });
        let planned: BTreeSet<_> = plan.changes.iter().map(|change| {
            assert!(matches!(change.action, Action::Ec2(Ec2Action::DeleteRoute { .. })), "{}", change.action);
            let (table, cidr, _) = route_of(&change.action);
            (table, cidr)
        }).collect();
        let ours = world.tables.iter().flat_map(|(id, table)| {
            let target = Target::Interface(interface(me));
            let ours = table.routes.iter().filter(move |(cidr, route)| {
                route.target == target && route.created && universe().covers((**cidr).into())
            });
            ours.map(|(cidr, _)| (id.clone(), *cidr))
        });
        prop_assert_eq!(planned, ours.collect::<BTreeSet<_>>());
    }
}

#[test]
fn what_a_larger_route_leads_here_anyway_is_not_put_together() {
    let foreign = Route { created: false, ..active(interface(0)) };
    let routes = [
        ("10.32.0.0/24".parse().unwrap(), active(interface(2))),
        (cidr(16, 28), foreign),
        (cidr(16, 29), active(interface(0))),
        (cidr(24, 29), active(interface(0))),
    ];
    let table = Table { routes: routes.into(), used: 5, local: Vec::new() };
    let tables = [(table_id(0), table)].into();
    let mut world =
        World { owners: vec![(universe(), 2)], tables, quota: None, restless: Vec::new(), spare: 3 };
    world.settle();
    world.is_settled().unwrap();
}

/// A table with one route for each of these blocks, and writes to spare.
fn with_routes(blocks: &[(u32, u8, usize)]) -> World {
    let owners = blocks.iter().map(|&(at, length, owner)| (cidr(at, length).into(), owner)).collect();
    let routes = blocks.iter().map(|&(at, length, owner)| (cidr(at, length), active(interface(owner))));
    let table = Table { routes: routes.collect(), used: blocks.len(), local: Vec::new() };
    World { owners, tables: [(table_id(0), table)].into(), quota: None, restless: Vec::new(), spare: 3 }
}

#[test]
fn one_route_around_addresses_of_others_stands_for_several() {
    let mut world = with_routes(&[(0, 28, 0), (16, 29, 1), (24, 29, 0)]);
    let restless = World { restless: vec![cidr(16, 29).into()], ..world.clone() };
    assert_eq!(restless.plan(0, &world.tables), [], "what has just changed hands may have no route yet");
    world.settle();
    world.is_settled().unwrap();
    let routes = [(cidr(0, 27), active(interface(0))), (cidr(16, 29), active(interface(1)))];
    assert_eq!(world.tables[&table_id(0)].routes, routes.into());
    assert_eq!(world.delivered().len(), SIZE as usize);
}

/// The other may lead everything to itself, and delete what it has inside at the moment at which a route around that is made.
#[test]
fn no_route_is_made_around_addresses_of_whom_a_larger_one_may_lead_to() {
    let mut world = with_routes(&[(0, 28, 1), (16, 30, 0), (20, 30, 1), (24, 29, 0)]);
    assert_eq!(world.plan(0, &world.tables), []);
    world.settle();
    let routes: Vec<Ipv4Net> = world.tables[&table_id(0)].routes.keys().copied().collect();
    assert_eq!(routes, [cidr(0, 27), cidr(16, 30), cidr(24, 29)]);
}

/// Peers whose ranges change hands. A ring is gossiped whole, so that who hears of one change hears of all that led to it.
struct Cluster {
    world: World,
    past: Vec<Tables>,
    workers: Vec<Worker>,
    dead: BTreeSet<usize>,
    /// Addresses in use: never given away.
    used: BTreeSet<u32>,
    /// What changed hands, in order: the range, and to whom.
    transfers: Vec<(Range, usize)>,
    /// Which of them each peer has heard of.
    heard: Vec<BTreeSet<usize>>,
}

#[derive(Clone, Debug)]
enum Turn {
    /// A peer looks at the tables as they were a while ago, or takes its next step.
    Act { me: usize, age: usize },
    /// A peer gives a free range away.
    Give { me: usize, at: u32, length: u8, to: usize },
    /// A peer hears what another knows.
    Hear { me: usize, from: usize },
    /// An owner whose packets arrive begins to use an address.
    Use { at: u32 },
    /// A host dies, and another takes its ranges over once it knows what everybody knows.
    Die { who: usize, heir: usize },
}

impl Cluster {
    fn new(world: World, used: BTreeSet<u32>) -> Cluster {
        Cluster {
            past: vec![world.tables.clone()],
            world: World { restless: vec![universe()], ..world },
            workers: (0..PEERS).map(|_| Worker::default()).collect(),
            dead: BTreeSet::new(),
            used,
            transfers: Vec::new(),
            heard: vec![BTreeSet::new(); PEERS],
        }
    }

    /// Who owns each address, by what was heard.
    fn owner(&self, heard: &BTreeSet<usize>, address: Address) -> usize {
        let first = self.world.owners.iter().find(|(range, _)| range.contains(address));
        let mut later = heard.iter().map(|number| &self.transfers[*number]);
        let last = later.rfind(|(range, _)| range.contains(address));
        last.or(first).expect("the universe has no gaps").1
    }

    /// The world as a peer knows it; that everybody knows, for nobody.
    fn as_known_by(&self, me: Option<usize>) -> World {
        let everything = (0..PEERS).filter(|peer| !self.dead.contains(peer));
        let everything: BTreeSet<usize> = everything.flat_map(|peer| self.heard[peer].clone()).collect();
        let heard = me.map_or(&everything, |me| &self.heard[me]);
        let owner = |at: u32| (one(Address(FIRST + at)), self.owner(heard, Address(FIRST + at)));
        World { owners: (0..SIZE).map(owner).collect(), ..self.world.clone() }
    }

    /// The addresses in use whose packets arrive.
    fn arriving(&self) -> BTreeSet<(Side, Address)> {
        let mut arriving = self.as_known_by(None).delivered();
        arriving.retain(|(_, at)| self.used.contains(&(at.0 - FIRST)));
        arriving
    }

    fn take(&mut self, turn: Turn) -> Result<(), TestCaseError> {
        match turn {
            Turn::Act { me, .. } if self.dead.contains(&me) => {}
            Turn::Act { me, age } => self.act(me, age)?,
            Turn::Give { me, at, length, to } => self.give(me, cidr(at, length).into(), to),
            Turn::Hear { me, from } if self.dead.contains(&me) || self.dead.contains(&from) => {}
            Turn::Hear { me, from } => {
                let news = self.heard[from].clone();
                self.learn(me, news);
            }
            Turn::Use { at } => {
                let tables = self.world.tables.len();
                let delivered = self.as_known_by(None).delivered();
                if delivered.iter().filter(|(_, address)| address.0 == FIRST + at).count() == tables {
                    self.used.insert(at);
                }
            }
            Turn::Die { who, heir } => self.die(who, heir),
        }
        Ok(())
    }

    /// Whoever learns of another ring plans anew.
    fn learn(&mut self, me: usize, news: BTreeSet<usize>) {
        if !news.is_subset(&self.heard[me]) {
            self.heard[me].extend(news);
            self.workers[me].queue.clear();
        }
    }

    fn act(&mut self, me: usize, age: usize) -> Result<(), TestCaseError> {
        let view = self.as_known_by(Some(me));
        let worker = &mut self.workers[me];
        let Some(action) = worker.queue.pop_front() else {
            worker.look(&self.past, age);
            worker.queue = view.plan(me, &worker.view(&self.past)).into();
            return Ok(());
        };
        if worker.failed && matches!(action, Action::Ec2(Ec2Action::DeleteRoute { .. })) {
            return Ok(());
        }
        let before = self.arriving();
        let (table, cidr, target) = route_of(&action);
        match self.world.apply(&action) {
            Ok(()) => {
                let wrote = (self.past.len(), target.map(active));
                self.workers[me].wrote.insert((table, cidr), wrote);
            }
            Err(_) => self.workers[me].failed = true,
        }
        self.past.push(self.world.tables.clone());
        let after = self.arriving();
        let lost: Vec<_> = before.difference(&after).collect();
        prop_assert!(lost.is_empty(), "`{action}` of peer {me} loses {lost:?} in {:#?}", self.world.tables);
        let owners = self.as_known_by(None).owners_of(cidr);
        let only = owners.first().filter(|_| owners.len() == 1);
        prop_assert!(only.is_none_or(|owner| *owner == me), "`{action}` of peer {me} is that of {owners:?}");
        Ok(())
    }

    fn give(&mut self, me: usize, range: Range, to: usize) {
        let mut addresses =
            (range.start.0..range.end.0).map(|at| at.checked_sub(FIRST).filter(|at| *at < SIZE));
        let is_free = |at: Option<u32>| {
            at.is_some_and(|at| {
                !self.used.contains(&at) && self.owner(&self.heard[me], Address(FIRST + at)) == me
            })
        };
        let alive = !self.dead.contains(&me) && !self.dead.contains(&to);
        if alive && me != to && addresses.all(is_free) {
            self.transfers.push((range, to));
            self.learn(me, [self.transfers.len() - 1].into());
        }
    }

    fn die(&mut self, who: usize, heir: usize) {
        if who == heir || self.dead.contains(&who) || self.dead.contains(&heir) {
            return;
        }
        self.dead.insert(who);
        for route in self.world.tables.values_mut().flat_map(|table| table.routes.values_mut()) {
            if route.target == Target::Interface(interface(who)) && route.state == RouteState::Active {
                route.state = RouteState::Blackhole;
            }
        }
        // A dead interface never comes back, whatever an old read says.
        self.past = vec![self.world.tables.clone()];
        for worker in &mut self.workers {
            worker.read = 0;
            worker.wrote.clear();
        }
        let known: BTreeSet<usize> = (0..PEERS)
            .filter(|peer| !self.dead.contains(peer))
            .flat_map(|peer| self.heard[peer].clone())
            .collect();
        self.learn(heir, known);
        for at in 0..SIZE {
            let address = Address(FIRST + at);
            if self.owner(&self.heard[heir], address) == who {
                self.used.remove(&at);
                self.transfers.push((one(address), heir));
                self.learn(heir, [self.transfers.len() - 1].into());
            }
        }
    }

    /// Everybody hears everything, and acts until nothing is left.
    fn settle(self) -> Result<(), TestCaseError> {
        let mut world = self.as_known_by(None);
        (world.quota, world.restless) = (None, Vec::new());
        let alive: Vec<usize> = (0..PEERS).filter(|peer| !self.dead.contains(peer)).collect();
        world.settle_among(&alive);
        world.is_settled_among(&alive)?;
        let delivered = world.delivered();
        for (table, at, owner) in world.addresses() {
            let excused = world.is_obstructed(&table, at) || self.dead.contains(&owner);
            prop_assert!(excused || delivered.contains(&(table, at)), "{at} of peer {owner} is lost");
        }
        Ok(())
    }
}

fn turns() -> impl Strategy<Value = Turn> {
    prop_oneof![
        12 => (0..PEERS, 0usize..20).prop_map(|(me, age)| Turn::Act { me, age }),
        2 => (0..PEERS, 0..SIZE, 28u8..=32, 0..PEERS)
            .prop_map(|(me, at, length, to)| Turn::Give { me, at, length, to }),
        4 => (0..PEERS, 0..PEERS).prop_map(|(me, from)| Turn::Hear { me, from }),
        2 => (0..SIZE).prop_map(|at| Turn::Use { at }),
        1 => (0..PEERS, 0..PEERS).prop_map(|(who, heir)| Turn::Die { who, heir }),
    ]
}

impl Worker {
    /// Reads the world as it was up to `age` writes ago, but never an older one than before.
    fn look(&mut self, past: &[Tables], age: usize) {
        self.read = self.read.max((past.len() - 1).saturating_sub(age));
        self.failed = false;
    }

    /// What was read, with what this peer wrote itself: a write is believed until reads show it.
    fn view(&self, past: &[Tables]) -> Tables {
        let mut tables = past[self.read].clone();
        for ((id, cidr), (_, route)) in self.wrote.iter().filter(|(_, (number, _))| *number > self.read) {
            let table = tables.get_mut(id).expect("no table comes or goes");
            match route {
                Some(route) => drop(table.routes.insert(*cidr, route.clone())),
                None => drop(table.routes.remove(cidr)),
            }
        }
        tables
    }
}

// ===== worlds =====

fn worlds(quota: impl Strategy<Value = Option<usize>>) -> impl Strategy<Value = World> {
    let spare = prop_oneof![Just(0), 1usize..40];
    (owners(), collection::vec(collection::vec(routes(), 0..8), 1..=2), quota, spare).prop_map(
        |(owners, tables, quota, spare)| {
            let table = |routes: Vec<(Ipv4Net, Route)>| {
                let routes: BTreeMap<_, _> = routes.into_iter().collect();
                Table { used: routes.len() + 1, routes, local: Vec::new() }
            };
            let tables = tables.into_iter().enumerate().map(|(at, routes)| (table_id(at), table(routes)));
            World { owners, tables: tables.collect(), quota, restless: Vec::new(), spare }
        },
    )
}

fn quotas() -> impl Strategy<Value = Option<usize>> {
    proptest::option::of(1usize..12)
}

/// The universe in up to five pieces. Cuts at even places make CIDRs worth having.
fn owners() -> impl Strategy<Value = Owners> {
    let cut = prop_oneof![(1..8u32).prop_map(|at| at * 4), 1..SIZE];
    (collection::btree_set(cut, 0..5), collection::vec(0..PEERS, 5)).prop_map(|(cuts, peers)| {
        let starts = [0].into_iter().chain(cuts.clone());
        let ends = cuts.into_iter().chain([SIZE]);
        let ranges =
            starts.zip(ends).map(|(start, end)| Range::new(Address(FIRST + start), Address(FIRST + end)));
        ranges.zip(peers).collect()
    })
}

/// Anything that may stand in a table, inside the range, over it, or across its edge.
fn routes() -> impl Strategy<Value = (Ipv4Net, Route)> {
    let of_interface =
        |id: InterfaceId, state, created| Route { target: Target::Interface(id), state, created };
    let route = prop_oneof![
        6 => (0..PEERS).prop_map(|peer| active(interface(peer))),
        2 => (0..PEERS).prop_map(move |peer| of_interface(interface(peer), RouteState::Blackhole, true)),
        1 => (0..PEERS).prop_map(move |peer| of_interface(interface(peer), RouteState::Other, true)),
        3 => Just(of_interface(InterfaceId("eni-dead".into()), RouteState::Blackhole, true)),
        1 => Just(active(InterfaceId("eni-of-nobody".into()))),
        1 => (0..PEERS).prop_map(move |peer| of_interface(interface(peer), RouteState::Active, false)),
        1 => Just(Route { target: Target::Other("pcx-77".into()), state: RouteState::Active, created: true }),
    ];
    ((24u8..=32, 0..SIZE).prop_map(|(length, at)| cidr(at, length)), route)
}

fn universe() -> Range {
    Range::new(Address(FIRST), Address(FIRST + SIZE))
}

fn one(address: Address) -> Range {
    Range::new(address, Address(address.0 + 1))
}

/// The CIDR of this length around an address of the universe.
fn cidr(at: u32, length: u8) -> Ipv4Net {
    Ipv4Net::new(Address(FIRST + at).into(), length).unwrap().trunc()
}

fn name(peer: usize) -> PeerName {
    PeerName::from_u64(peer as u64 + 1)
}

fn interface(peer: usize) -> InterfaceId {
    InterfaceId(format!("eni-{peer}"))
}

/// Every other one is the side of IPv6 of the table before.
fn table_id(number: usize) -> Side {
    let family = if number.is_multiple_of(2) { Family::V4 } else { Family::V6(prefix()) };
    Side { table: TableId(format!("rtb-{}", number / 2)), family }
}

fn prefix() -> Prefix {
    "fd00:1::/96".parse().unwrap()
}

fn active(interface: InterfaceId) -> Route {
    Route { target: Target::Interface(interface), state: RouteState::Active, created: true }
}

fn is_foreign(route: &Route) -> bool {
    !route.created || matches!(route.target, Target::Other(_))
}

fn route_of(action: &Action) -> (Side, Ipv4Net, Option<InterfaceId>) {
    match action {
        Action::Ec2(Ec2Action::CreateRoute { table, destination, interface })
        | Action::Ec2(Ec2Action::ReplaceRoute { table, destination, interface }) => {
            (table.clone(), *destination, Some(interface.clone()))
        }
        Action::Ec2(Ec2Action::DeleteRoute { table, destination }) => (table.clone(), *destination, None),
        other => panic!("`{other}` is no change of a route"),
    }
}
