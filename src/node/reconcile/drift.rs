//! What others change of what is ours in the route tables, and what is done about it.
//!
//! A route of ours that was there and is not any more was deleted or changed by somebody; the plan says so. It is set back at
//! once. Where that happens again and again two writers fight: each further round waits longer, and `status` names it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ipnet::Ipv4Net;

use crate::{
    addr::{Range, join},
    node::protocol::status::Note,
    plan::{Change, Found, Plan},
    state::{Action, Ec2Action, InterfaceId, RouteState, Side, Target, Vpc},
    time::Timestamp,
};

/// Rounds that are fought at once.
const ROUNDS: u32 = 3;
/// First pause after them; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A route that was left alone this long is fought over no more.
const PEACE: Duration = Duration::from_secs(1800);
/// Former interfaces that are remembered.
const FORMER_MAX: usize = 16;

type Key = (Side, Ipv4Net);

/// What is ours in the route tables, and who does not leave it so.
#[derive(Debug, Default)]
pub struct Drift {
    /// Routes that led to us in the last read.
    held: BTreeSet<Key>,
    /// Our interface in the last read, and those that it was before.
    interface: Option<InterfaceId>,
    former: VecDeque<InterfaceId>,
    /// Routes that we wrote lately.
    written: BTreeMap<Key, Written>,
}

#[derive(Debug)]
struct Written {
    /// The route was to be there, or to be gone.
    present: bool,
    at: Timestamp,
    /// How often it was written again.
    again: u32,
    /// What others made of it.
    rival: Found,
    /// Whether the next round need not wait.
    hurried: bool,
}

impl Drift {
    /// The tables were read.
    pub fn see(&mut self, vpc: &Vpc) {
        self.follow(&vpc.interface);
        let ours = Target::Interface(vpc.interface.clone());
        for (id, table) in &vpc.tables {
            let leads =
                |route: &crate::state::Route| route.target == ours && route.state == RouteState::Active;
            let found = table.routes.iter().filter(|(_, route)| leads(route));
            self.held.extend(found.map(|(cidr, _)| (id.clone(), *cidr)));
        }
        self.held.retain(|(id, _)| vpc.tables.contains_key(id));
    }

    /// Routes that lead to an interface that we had before were changed by nobody.
    fn follow(&mut self, interface: &InterfaceId) {
        if self.interface.as_ref() == Some(interface) {
            return;
        }
        self.former.retain(|former| former != interface);
        self.former.extend(self.interface.replace(interface.clone()));
        if self.former.len() > FORMER_MAX {
            self.former.pop_front();
        }
    }

    /// Whether what stands in the place of our route leads to an interface that we had before.
    fn is_left_behind(&self, before: &Found) -> bool {
        match before {
            Found::Route { target: Target::Interface(interface), .. } => self.former.contains(interface),
            Found::Route { target: Target::Other(_), .. } | Found::Nothing | Found::Thing(_) => false,
        }
    }

    /// Only what is ours can be taken from us.
    pub fn keep(&mut self, owned: &[Range]) {
        let owned = join(owned.iter().copied());
        let ours = |cidr: Ipv4Net| owned.iter().any(|range| range.covers(cidr.into()));
        self.held.retain(|(_, cidr)| ours(*cidr));
        self.written.retain(|(_, cidr), _| ours(*cidr));
    }

    /// Says of each step that undoes what somebody did that it is so.
    pub fn explain(&self, plan: &mut Plan) {
        for change in &mut plan.changes {
            if let (Action::Ec2(Ec2Action::ReplaceRoute { interface, .. }), true) =
                (&change.action, self.is_left_behind(&change.before))
            {
                change.cause = format!("the interface of this host was exchanged: it is {interface} now");
                continue;
            }
            if let Some(deed) = self.deed(change) {
                change.cause = format!("somebody {deed} it");
            }
        }
    }

    /// Whether this step undoes what somebody did.
    pub fn is_repair(&self, change: &Change) -> bool {
        !self.is_left_behind(&change.before) && self.deed(change).is_some()
    }

    /// What somebody did to our route that this step sets back.
    fn deed(&self, change: &Change) -> Option<&'static str> {
        let deed = match &change.action {
            Action::Ec2(Ec2Action::CreateRoute { .. }) => "deleted",
            Action::Ec2(Ec2Action::ReplaceRoute { .. }) if !is_blackhole(&change.before) => "changed",
            _ => return None,
        };
        key(&change.action).filter(|key| self.held.contains(key)).map(|_| deed)
    }

    /// A step has succeeded.
    pub fn wrote(&mut self, now: Timestamp, change: &Change) {
        let Some(key) = key(&change.action) else { return };
        let present = !matches!(change.action, Action::Ec2(Ec2Action::DeleteRoute { .. }));
        if !present {
            self.held.remove(&key);
        }
        self.written.retain(|_, written| now.since(written.at) < PEACE);
        let before = self.written.get(&key).filter(|written| written.present == present);
        let again = match before.filter(|_| !self.is_left_behind(&change.before)) {
            Some(written) => written.again + 1,
            None => 0,
        };
        let rival = change.before.clone();
        self.written.insert(key, Written { present, at: now, again, rival, hurried: false });
    }

    /// When the next round of a fight may begin.
    pub fn not_before(&self, action: &Action) -> Option<Timestamp> {
        let written = self.written.get(&key(action)?)?;
        let fought = written.again >= ROUNDS && !written.hurried;
        fought.then(|| written.at + pause(written.again))
    }

    /// Somebody asks: the next round of each fight begins at once.
    pub fn hurry(&mut self) {
        self.written.values_mut().for_each(|written| written.hurried = true);
    }

    /// The fights, in words, with the way out.
    pub fn fights(&self, now: Timestamp) -> impl Iterator<Item = Note> {
        let fought = self.written.iter().filter(|(_, written)| written.again >= ROUNDS);
        fought.filter(move |(_, written)| now.since(written.at) < PEACE).map(move |((side, cidr), written)| {
            let (table, destination) = (&side.table, side.destination(*cidr));
            let rival = match (written.present, &written.rival) {
                (true, Found::Nothing) => "deletes it".to_owned(),
                (true, rival) => format!("leads it to {rival}"),
                (false, _) => "creates it".to_owned(),
            };
            let wait = (written.at + pause(written.again)).since(now).as_secs();
            let times = written.again;
            Note {
                what: format!(
                    "{table} {destination} is fought over: somebody else {rival}, and it was set back {times} times; \
                     the next time in {wait} s at the earliest"
                ),
                hint: Some(format!(
                    "find out who it is: `aws cloudtrail lookup-events --lookup-attributes \
                     AttributeKey=ResourceName,AttributeValue={table}`; two clusters in one table need different ranges"
                )),
            }
        })
    }
}

fn pause(again: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << again.saturating_sub(ROUNDS).min(10)).min(PAUSE_MAX)
}

fn is_blackhole(found: &Found) -> bool {
    matches!(found, Found::Route { blackhole: true, .. })
}

fn key(action: &Action) -> Option<Key> {
    action.route().map(|(table, destination)| (table.clone(), destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::TableId;

    fn route(interface: &str, blackhole: bool) -> Found {
        Found::Route { target: Target::Interface(InterfaceId(interface.into())), blackhole }
    }

    fn replace(before: &str) -> Change {
        replace_what_is(route(before, false))
    }

    fn replace_what_is(before: Found) -> Change {
        let action = Action::Ec2(Ec2Action::ReplaceRoute {
            table: TableId("rtb-1".into()).into(),
            destination: "10.40.0.0/13".parse().unwrap(),
            interface: InterfaceId("eni-self".into()),
        });
        Change { action, cause: String::new(), before, containers: Vec::new() }
    }

    #[test]
    fn a_route_that_is_changed_back_again_and_again_is_set_back_more_and_more_seldom() {
        let (mut drift, mut now, mut waits) = (Drift::default(), Timestamp::ZERO, Vec::new());
        for _ in 0..14 {
            drift.wrote(now, &replace("eni-rival"));
            let next = drift.not_before(&replace("").action).unwrap_or(now);
            waits.push(next.since(now).as_secs());
            now = next.max(now + Duration::from_secs(1));
        }
        assert_eq!(waits, [0, 0, 0, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600]);
    }

    #[test]
    fn a_fight_is_named_with_the_rival_until_it_ends() {
        let mut drift = Drift::default();
        for _ in 0..3 {
            drift.wrote(Timestamp::ZERO, &replace("eni-rival"));
            assert_eq!(drift.fights(Timestamp::ZERO).count(), 0, "it may be a coincidence");
        }
        drift.wrote(Timestamp::ZERO, &replace("eni-rival"));
        let note = drift.fights(Timestamp::ZERO).next().unwrap();
        assert!(
            note.what.contains("rtb-1 10.40.0.0/13 is fought over: somebody else leads it to eni-rival"),
            "{note:?}"
        );
        assert_eq!(drift.fights(Timestamp::ZERO + PEACE).count(), 0);
    }

    #[test]
    fn routes_that_lead_to_the_interface_before_a_move_were_changed_by_nobody() {
        let cause = |before: Found, drift: &Drift| {
            let mut plan = Plan { changes: vec![replace_what_is(before)], ..Plan::default() };
            drift.explain(&mut plan);
            plan.changes.remove(0).cause
        };
        let mut drift = Drift::default();
        let read = |interface: &str| Vpc {
            interface: InterfaceId(interface.into()),
            source_dest_check: None,
            tables: BTreeMap::new(),
            retired: BTreeMap::new(),
        };
        drift.see(&read("eni-before"));
        drift.see(&read("eni-self"));
        drift.held = [key(&replace("").action).unwrap()].into();
        for blackhole in [false, true] {
            assert_eq!(
                cause(route("eni-before", blackhole), &drift),
                "the interface of this host was exchanged: it is eni-self now"
            );
        }
        assert_eq!(cause(route("eni-rival", false), &drift), "somebody changed it");
        for _ in 0..9 {
            drift.wrote(Timestamp::ZERO, &replace("eni-before"));
        }
        assert_eq!(drift.fights(Timestamp::ZERO).count(), 0);
    }

    #[test]
    fn whoever_gives_a_range_away_does_not_fight_for_it() {
        let mut drift = Drift::default();
        (0..5).for_each(|_| drift.wrote(Timestamp::ZERO, &replace("eni-rival")));
        drift.keep(&[]);
        assert_eq!(drift.not_before(&replace("").action), None);
        assert_eq!(drift.fights(Timestamp::ZERO).count(), 0);
    }

    #[test]
    fn somebody_who_asks_is_not_kept_waiting() {
        let mut drift = Drift::default();
        (0..5).for_each(|_| drift.wrote(Timestamp::ZERO, &replace("eni-rival")));
        assert!(drift.not_before(&replace("").action).is_some());
        drift.hurry();
        assert_eq!(drift.not_before(&replace("").action), None);
    }
}
