use std::sync::Arc;

use super::*;
use crate::{
    node::observe::view::{PAUSE_MAX, PAUSE_MIN},
    plan::Found,
    state::{Far, Forward, Hop, Netns, Rules, TableId, TunnelKey},
};

const INTERVAL: Duration = Duration::from_secs(60);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_micros(ms * 1000)
}

fn cidr(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn table(name: &str) -> Side {
    TableId(name.to_owned()).into()
}

fn interface() -> InterfaceId {
    InterfaceId("eni-us".to_owned())
}

fn create(name: &str, destination: &str) -> Action {
    Action::Ec2(Ec2Action::CreateRoute {
        table: table(name),
        destination: cidr(destination),
        interface: interface(),
    })
}

fn delete(name: &str, destination: &str) -> Action {
    Action::Ec2(Ec2Action::DeleteRoute { table: table(name), destination: cidr(destination) })
}

fn add_block(destination: &str) -> Action {
    Action::Host(HostAction::AddBlock(cidr(destination).into()))
}

fn plan(actions: impl IntoIterator<Item = Action>) -> Plan {
    let change =
        |action| Change { action, cause: String::new(), before: Found::Nothing, containers: Vec::new() };
    Plan { changes: actions.into_iter().map(change).collect(), ..Plan::default() }
}

fn vpc(tables: &[&str], routes: &[&str]) -> Vpc {
    let target = Target::Interface(interface());
    let route = Route { target, state: RouteState::Active, created: true };
    let routes = routes.iter().map(|destination| (cidr(destination), route.clone())).collect();
    let shown = crate::state::Table { routes, used: 1, local: Vec::new() };
    Vpc {
        interface: interface(),
        source_dest_check: Some(true),
        tables: tables.iter().map(|name| (table(name), shown.clone())).collect(),
        retired: BTreeMap::new(),
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault { kind, message: "no".to_owned(), hint: None, request_id: None }
}

fn look_at_vpc(converge: &mut Converge, now: Timestamp, shown: Vpc) {
    converge.vpc.look_by(now);
    assert!(converge.begin_vpc(now), "a look is due");
    converge.vpc_seen(now, Ok(shown), INTERVAL);
}

fn look_at_host(converge: &mut Converge, now: Timestamp) {
    converge.host.look_by(now);
    assert!(converge.begin_host(now), "a look is due");
    converge.host_seen(now, Ok(Host { forward: Forward::Open, ..Host::default() }), INTERVAL);
}

/// Both sides were looked at; nothing stands in two tables.
fn ready(now: Timestamp) -> Converge {
    let mut converge = Converge::new();
    look_at_host(&mut converge, now);
    look_at_vpc(&mut converge, now, vpc(&["rtb-1", "rtb-2"], &[]));
    converge
}

fn is_believed(converge: &Converge, destination: &str) -> bool {
    converge.believed().unwrap().tables[&table("rtb-1")].routes.contains_key(&cidr(destination))
}

/// Takes the one step of the plan, which is carried out.
fn carry_out(converge: &mut Converge, now: Timestamp, action: &Action) {
    assert_eq!(converge.take(now, &plan([action.clone()])), std::slice::from_ref(action));
    assert_eq!(converge.applied(now, action, Ok(None)), []);
}

#[test]
fn a_write_is_believed_until_two_reads_begun_well_after_it_deny_it() {
    let mut converge = ready(at(0));
    carry_out(&mut converge, at(10), &create("rtb-1", "10.0.0.0/8"));
    assert!(is_believed(&converge, "10.0.0.0/8") && !converge.is_confirmed());
    for soon in [at(20), at(1000), at(4000)] {
        look_at_vpc(&mut converge, soon, vpc(&["rtb-1"], &[]));
        assert!(is_believed(&converge, "10.0.0.0/8"), "EC2 may show what was before");
    }
    look_at_vpc(&mut converge, at(5010), vpc(&["rtb-1"], &[]));
    assert!(is_believed(&converge, "10.0.0.0/8"), "one read may be old");
    look_at_vpc(&mut converge, at(5020), vpc(&["rtb-1"], &[]));
    assert!(!is_believed(&converge, "10.0.0.0/8") && converge.is_confirmed());
}

#[test]
fn a_read_begun_before_the_write_denies_nothing() {
    let mut converge = ready(at(0));
    let action = create("rtb-1", "10.0.0.0/8");
    assert_eq!(converge.take(at(10), &plan([action.clone()])), std::slice::from_ref(&action));
    converge.applied(at(20), &action, Ok(None));
    for _ in 0..5 {
        converge.vpc_seen(at(15), Ok(vpc(&["rtb-1"], &[])), INTERVAL);
    }
    assert!(is_believed(&converge, "10.0.0.0/8"));
}

#[test]
fn a_write_that_a_read_shows_is_no_longer_a_matter_of_belief() {
    let mut converge = ready(at(0));
    carry_out(&mut converge, at(10), &create("rtb-1", "10.0.0.0/8"));
    look_at_vpc(&mut converge, at(20), vpc(&["rtb-1"], &["10.0.0.0/8"]));
    assert!(converge.is_confirmed());
    carry_out(&mut converge, at(30), &delete("rtb-1", "10.0.0.0/8"));
    assert!(!is_believed(&converge, "10.0.0.0/8"), "a removal is believed too");
    look_at_vpc(&mut converge, at(40), vpc(&["rtb-1"], &["10.0.0.0/8"]));
    assert!(!is_believed(&converge, "10.0.0.0/8"));
    look_at_vpc(&mut converge, at(50), vpc(&["rtb-1"], &[]));
    assert!(converge.is_confirmed());
}

#[test]
fn a_write_is_looked_for_soon_and_not_at_the_end_of_the_interval() {
    let mut converge = ready(at(0));
    carry_out(&mut converge, at(10), &create("rtb-1", "10.0.0.0/8"));
    look_at_vpc(&mut converge, at(20), vpc(&["rtb-1"], &[]));
    assert_eq!(converge.next_wake(at(20), &Plan::default()), Some(at(20) + CONFIRM));
}

#[test]
fn each_plane_has_one_step_in_flight() {
    let mut converge = ready(at(0));
    let (host, one, other) =
        (add_block("10.0.0.0/8"), create("rtb-1", "10.0.0.0/8"), create("rtb-2", "10.0.0.0/8"));
    let (host2, one2) = (add_block("11.0.0.0/8"), create("rtb-1", "11.0.0.0/8"));
    let all = plan([host.clone(), host2.clone(), one.clone(), one2.clone(), other.clone()]);
    let taken: std::collections::BTreeSet<Action> = converge.take(at(10), &all).into_iter().collect();
    assert_eq!(taken, [host.clone(), one.clone(), other].into());
    assert_eq!(converge.take(at(11), &all), [], "each is at work");
    assert_eq!(converge.applied(at(12), &one, Ok(None)), [one2], "EC2 goes on while the host works");
    assert_eq!(converge.applied(at(13), &host, Ok(None)), [host2]);
    assert!(!converge.begin_vpc(at(14)), "nobody looks while something is being changed");
}

#[test]
fn a_step_that_was_seen_to_have_helped_does_not_pause_when_it_is_needed_again() {
    let mut converge = ready(at(0));
    let block = add_block("10.32.0.0/13");
    for now in [at(10), at(20), at(30)] {
        look_at_host(&mut converge, now);
        assert_eq!(converge.take(now, &plan([block.clone()])), std::slice::from_ref(&block));
        converge.applied(now, &block, Ok(None));
        // This look begins in the same turn of the loop in which the step ended.
        look_at_host(&mut converge, now);
        assert_eq!(converge.take(now, &plan([])), []);
    }
}

#[test]
fn a_step_that_fails_pauses_longer_each_time_and_holds_up_no_other() {
    let mut converge = ready(at(0));
    let (failing, fine) = (create("rtb-1", "10.0.0.0/8"), create("rtb-1", "11.0.0.0/8"));
    let wanted = plan([failing.clone(), fine.clone()]);
    assert_eq!(converge.take(at(0), &wanted), std::slice::from_ref(&failing));
    let next = converge.applied(at(0), &failing, Err(fault(FaultKind::Throttled)));
    assert_eq!(next, std::slice::from_ref(&fine));
    converge.applied(at(0), &fine, Ok(None));

    let (mut now, mut pauses) = (at(0), Vec::new());
    let still = plan([failing.clone()]);
    for _ in 0..12 {
        look_at_vpc(&mut converge, now, vpc(&["rtb-1", "rtb-2"], &["11.0.0.0/8"]));
        assert_eq!(converge.take(now, &still), [], "it pauses");
        let woken = loop {
            let due = converge.next_wake(now, &still).expect("a pause ends");
            now = due.max(now + Duration::from_millis(1));
            look_at_vpc(&mut converge, now, vpc(&["rtb-1", "rtb-2"], &["11.0.0.0/8"]));
            if !converge.take(now, &still).is_empty() {
                break now;
            }
        };
        pauses.push(woken.since(converge.steps().last().unwrap().at));
        converge.applied(now, &failing, Err(fault(FaultKind::Throttled)));
    }
    assert!(pauses[0] >= PAUSE_MIN && pauses.is_sorted(), "{pauses:?}");
    assert!(pauses[11] >= PAUSE_MAX && pauses[11] < 2 * PAUSE_MAX, "{pauses:?}");
}

#[test]
fn nothing_is_removed_where_what_it_rests_on_failed() {
    let mut converge = ready(at(0));
    let (build, remove) = (create("rtb-1", "10.0.0.0/8"), delete("rtb-1", "10.0.0.0/9"));
    let elsewhere = delete("rtb-2", "10.0.0.0/9");
    let taken = converge.take(at(1), &plan([build.clone(), remove, elsewhere.clone()]));
    assert_eq!(taken, [build.clone(), elsewhere], "another table has a fate of its own");
    assert_eq!(converge.applied(at(2), &build, Err(fault(FaultKind::Quota))), []);
}

#[test]
fn no_container_is_connected_where_the_rules_could_not_be_loaded_and_it_is_when_they_are() {
    let mut converge = ready(at(0));
    let (load, block) = (Action::Host(HostAction::LoadRules(rules())), add_block("10.32.0.0/13"));
    let (create, mend, delete) = (link("10.32.0.1", false), link("10.32.0.2", true), delete_link());
    let wanted = plan([load.clone(), block.clone(), create.clone(), mend.clone(), delete.clone()]);
    assert_eq!(converge.take(at(1), &wanted), [load.clone(), delete.clone()]);
    assert_eq!(converge.applied(at(2), &delete, Ok(None)), []);
    let next = converge.applied(at(3), &load, Err(fault(FaultKind::Invalid)));
    assert_eq!(next, std::slice::from_ref(&block), "what needs no rules goes on");
    assert_eq!(converge.applied(at(4), &block, Ok(None)), [], "and nobody is connected");

    look_at_host(&mut converge, at(5));
    let still = plan([load.clone(), create.clone(), mend.clone()]);
    assert_eq!(converge.take(at(6), &still), [], "nor while the rules wait for their next try");
    look_at_host(&mut converge, at(60_000));
    assert_eq!(converge.take(at(60_000), &still), std::slice::from_ref(&load));
    assert_eq!(converge.applied(at(60_001), &load, Ok(None)), [create, mend]);
}

fn links(count: usize) -> Vec<Action> {
    (0..count).map(|number| link(&format!("10.32.1.{number}"), false)).collect()
}

#[test]
fn several_links_are_worked_on_at_once_and_another_as_soon_as_one_is_done() {
    let mut converge = ready(at(0));
    let wanted = links(LINKS_AT_ONCE_MAX + 2);
    let taken = converge.take(at(1), &plan(wanted.clone()));
    assert_eq!(taken, wanted[..LINKS_AT_ONCE_MAX]);
    assert_eq!(converge.applied(at(2), &wanted[3], Ok(None)), wanted[LINKS_AT_ONCE_MAX..][..1]);
    assert_eq!(converge.take(at(3), &plan(wanted)), [], "none of them twice");
}

#[test]
fn what_is_done_for_all_links_is_done_alone() {
    let mut converge = ready(at(0));
    let (block, link) = (add_block("10.32.0.0/13"), link("10.32.0.1", false));
    let wanted = plan([block.clone(), link.clone()]);
    assert_eq!(converge.take(at(1), &wanted), std::slice::from_ref(&block));
    assert_eq!(converge.applied(at(2), &block, Ok(None)), [link]);
}

#[test]
fn a_link_that_goes_holds_up_neither_another_that_comes_nor_a_look() {
    let mut converge = ready(at(0));
    let (delete, create) = (delete_link(), link("10.32.0.1", false));
    assert_eq!(converge.take(at(1), &plan([delete.clone()])), std::slice::from_ref(&delete));
    converge.host.look_by(at(2));
    assert!(converge.begin_host(at(2)));
    converge.host_seen(at(3), Ok(Host::default()), INTERVAL);
    let wanted = plan([create.clone(), delete]);
    assert_eq!(converge.take(at(3), &wanted), [create], "and it is not asked for twice");
}

#[test]
fn a_link_comes_once_the_former_one_of_its_address_is_gone() {
    let mut converge = ready(at(0));
    let (delete, create) = (delete_link(), link("10.32.0.3", false));
    assert_eq!(converge.take(at(1), &plan([delete.clone()])), std::slice::from_ref(&delete));
    look_at_host(&mut converge, at(2));
    assert_eq!(converge.take(at(2), &plan([create.clone()])), []);
    assert_eq!(converge.applied(at(3), &delete, Ok(None)), [create]);
}

#[test]
fn what_guards_links_goes_after_the_last_of_them() {
    let mut converge = ready(at(0));
    let (delete, rules) = (delete_link(), Action::Host(HostAction::DeleteRules));
    let wanted = plan([delete.clone(), rules.clone()]);
    assert_eq!(converge.take(at(1), &wanted), std::slice::from_ref(&delete));
    assert_eq!(converge.applied(at(2), &delete, Ok(None)), [rules]);
}

fn rules() -> Rules {
    Rules {
        range: cidr("10.32.0.0/12"),
        prefix: None,
        uplinks: ["eth0".to_owned()].into(),
        mesh_port: 6783,
        metrics_port: None,
        block_metadata: true,
        isolation: Box::default(),
        encrypted: Default::default(),
        tunnel_source: None,
    }
}

fn link(address: &str, is_there: bool) -> Action {
    let address = address.parse().unwrap();
    let netns = Netns::new("boot", 1, "/run/netns/a");
    let (mtu, range, prefix, far) = (1500, cidr("10.32.0.0/12"), None, Far::default());
    Action::Host(match is_there {
        true => HostAction::MendLink { address, netns, mtu, range, prefix, far },
        false => HostAction::CreateLink { address, netns, mtu, range, prefix, far },
    })
}

fn delete_link() -> Action {
    Action::Host(HostAction::DeleteLink("10.32.0.3".parse().unwrap()))
}

#[test]
fn nothing_is_removed_while_what_it_rests_on_is_put_off() {
    let mut converge = ready(at(0));
    let (build, remove) = (create("rtb-1", "10.0.0.0/8"), delete("rtb-1", "10.0.0.0/9"));
    let wanted = plan([build.clone(), remove.clone()]);
    assert_eq!(converge.take(at(1), &wanted), std::slice::from_ref(&build));
    converge.applied(at(2), &build, Err(fault(FaultKind::Throttled)));
    look_at_vpc(&mut converge, at(3), vpc(&["rtb-1"], &["10.0.0.0/9"]));
    assert_eq!(converge.take(at(4), &wanted), [], "another look does not make it safe");
}

#[test]
fn what_is_believed_of_a_table_counts() {
    let mut converge = ready(at(0));
    let action = create("rtb-1", "10.0.0.0/8");
    let used = |converge: &Converge| converge.believed().unwrap().tables[&table("rtb-1")].used;
    let before = used(&converge);
    converge.take(at(1), &plan([action.clone()]));
    converge.applied(at(2), &action, Ok(None));
    assert_eq!(used(&converge), before + 1);
}

#[test]
fn a_busy_host_does_not_push_out_what_was_done_in_ec2() {
    let mut converge = ready(at(0));
    let route = create("rtb-1", "10.0.0.0/8");
    converge.take(at(0), &plan([route.clone()]));
    converge.applied(at(0), &route, Ok(Some("request-1".into())));
    for number in 0..STEPS_MAX as u64 + 50 {
        let action = add_block(&format!("10.{}.{}.0/24", number / 256, number % 256));
        look_at_host(&mut converge, at(number));
        converge.take(at(number), &plan([action.clone()]));
        converge.applied(at(number), &action, Ok(None));
    }
    assert_eq!(converge.steps().count(), STEPS_MAX + 1);
    assert_eq!(converge.steps().next().unwrap().change.action, route);
}

#[test]
fn a_denied_step_is_blocked_until_somebody_asks() {
    let mut converge = ready(at(0));
    let action = create("rtb-1", "10.0.0.0/8");
    let wanted = plan([action.clone()]);
    converge.take(at(0), &wanted);
    converge.applied(at(0), &action, Err(fault(FaultKind::Denied)));
    assert!(converge.blocked(&action).is_some());
    look_at_vpc(&mut converge, at(30_000), vpc(&["rtb-1"], &[]));
    assert_eq!(converge.take(at(30_000), &wanted), [], "a pass does not try it again");
    converge.hurry(at(31_000));
    assert!(converge.blocked(&action).is_none());
    look_at_vpc(&mut converge, at(31_000), vpc(&["rtb-1"], &[]));
    assert_eq!(converge.take(at(31_000), &wanted), [action]);
}

#[test]
fn what_passes_by_itself_is_not_blocked() {
    for kind in [FaultKind::Throttled, FaultKind::Outdated, FaultKind::Unreachable] {
        let mut converge = ready(at(0));
        let action = create("rtb-1", "10.0.0.0/8");
        converge.take(at(0), &plan([action.clone()]));
        converge.applied(at(0), &action, Err(fault(kind)));
        assert!(converge.blocked(&action).is_none() && converge.failure(&action).is_some(), "{kind:?}");
    }
}

#[test]
fn nothing_is_changed_while_the_last_look_failed() {
    let mut converge = ready(at(0));
    converge.vpc.look_by(at(1));
    assert!(converge.begin_vpc(at(1)));
    let wanted = plan([create("rtb-1", "10.0.0.0/8")]);
    assert_eq!(converge.take(at(1), &wanted), [], "a look is under way");
    converge.vpc_seen(at(2), Err(fault(FaultKind::Unreachable)), INTERVAL);
    assert_eq!(converge.take(at(2), &wanted), []);
    assert!(converge.vpc.seen().is_some(), "what was seen is not forgotten");
}

#[test]
fn looks_that_fail_are_repeated_more_and_more_seldom() {
    let mut converge = Converge::new();
    let (mut now, mut looks) = (at(0), 0);
    while now < at(600_000) {
        if converge.begin_vpc(now) {
            looks += 1;
            converge.vpc_seen(now, Err(fault(FaultKind::Throttled)), INTERVAL);
        }
        now = converge.vpc.due().max(now + Duration::from_millis(1));
    }
    assert!((10..25).contains(&looks), "{looks} looks in ten minutes");
}

/// Drives the loop for ten minutes with a hand that reports success and changes nothing. Like a node it plans from what is
/// believed. Returns the number of actions and of looks.
fn ten_minutes_of_empty_success(wanted: &Action) -> (usize, usize) {
    let (mut converge, mut now) = (Converge::new(), at(0));
    let (mut actions, mut looks) = (0, 0);
    let mut pending: VecDeque<Action> = VecDeque::new();
    while now < at(600_000) {
        let plan_now = if is_wanted(&converge, wanted) { plan([wanted.clone()]) } else { Plan::default() };
        pending.extend(converge.take(now, &plan_now));
        if let Some(action) = pending.pop_front() {
            actions += 1;
            pending.extend(converge.applied(now, &action, Ok(None)));
        } else if converge.begin_host(now) {
            looks += 1;
            converge.host_seen(now, Ok(Host::default()), INTERVAL);
        } else if converge.begin_vpc(now) {
            looks += 1;
            converge.vpc_seen(now, Ok(vpc(&["rtb-1"], &["11.0.0.0/8"])), INTERVAL);
        } else {
            let due = converge.next_wake(now, &plan_now).expect("there is always a next look");
            now = due.max(now + Duration::from_millis(1));
        }
    }
    (actions, looks)
}

fn is_wanted(converge: &Converge, action: &Action) -> bool {
    let Some(vpc) = converge.believed() else { return false };
    match action {
        Action::Ec2(Ec2Action::CreateRoute { table, destination, .. }) => {
            !vpc.tables[table].routes.contains_key(destination)
        }
        Action::Ec2(Ec2Action::DeleteRoute { table, destination }) => {
            vpc.tables[table].routes.contains_key(destination)
        }
        Action::Ec2(Ec2Action::DisableCheck { .. }) => vpc.source_dest_check == Some(true),
        _ => true,
    }
}

#[test]
fn a_hand_that_changes_nothing_is_not_asked_without_end() {
    let check = Action::Ec2(Ec2Action::DisableCheck { interface: interface() });
    for action in
        [create("rtb-1", "10.0.0.0/8"), delete("rtb-1", "11.0.0.0/8"), check, add_block("10.0.0.0/8")]
    {
        let (actions, looks) = ten_minutes_of_empty_success(&action);
        assert!((8..=25).contains(&actions), "`{action}` {actions} times in ten minutes");
        assert!(looks <= 150, "`{action}` {looks} looks in ten minutes");
    }
}

#[test]
fn what_was_done_is_remembered_up_to_a_bound() {
    let mut converge = ready(at(0));
    for number in 0..STEPS_MAX as u64 + 50 {
        let action = add_block(&format!("10.{}.{}.0/24", number / 256, number % 256));
        look_at_host(&mut converge, at(number));
        assert_eq!(converge.take(at(number), &plan([action.clone()])).len(), 1);
        converge.applied(at(number), &action, Ok(None));
    }
    assert_eq!(converge.steps().count(), STEPS_MAX);
}

#[test]
fn a_link_that_was_mended_is_looked_at_at_once_and_a_new_one_a_while_after_it_was_read_back() {
    for mended in [true, false] {
        let mut converge = ready(at(0));
        let action = link("10.32.0.3", mended);
        assert_eq!(converge.take(at(10), &plan([action.clone()])), std::slice::from_ref(&action));
        let (address, link) = ("10.32.0.3".parse().unwrap(), Arc::default());
        converge.link_made(Made { address, link, paths: Vec::new() });
        converge.applied(at(20), &action, Ok(None));
        assert_eq!(converge.begin_host(at(20)), mended);
        assert_eq!(converge.begin_host(at(20) + CALM), !mended);
    }
}

#[test]
fn a_route_to_another_host_that_fails_holds_up_the_removals_that_it_concerns_and_no_other() {
    let mut converge = ready(at(0));
    let hop = Hop::direct([10, 0, 1, 12].into(), "eth0");
    let lead = Action::Host(HostAction::AddHostRoute { destination: cidr("10.40.0.0/13").into(), hop });
    let delete = |destination| Action::Host(HostAction::DeleteBlock(cidr(destination).into()));
    let (concerned, other) = (delete("10.40.0.0/14"), delete("10.48.0.0/16"));
    let plan = plan([lead.clone(), concerned, other.clone()]);
    assert_eq!(converge.take(at(10), &plan), std::slice::from_ref(&lead));
    assert_eq!(converge.applied(at(20), &lead, Err(fault(FaultKind::Invalid))), [other]);
}

#[test]
fn nothing_enters_a_tunnel_that_cannot_be_set_up_and_the_rest_goes_on() {
    let mut converge = ready(at(0));
    let key = TunnelKey([1; 32]);
    let tunnel = Action::Host(HostAction::SetTunnel { key, port: 6784, mtu: 1440 });
    let end = Action::Host(HostAction::SetTunnelPeer { key, endpoint: None, allowed: [].into() });
    let lead = |destination, hop| {
        Action::Host(HostAction::AddHostRoute { destination: cidr(destination).into(), hop })
    };
    let into = lead("10.40.0.0/13", Hop::tunnel(None));
    let beside = lead("10.48.0.0/13", Hop::direct([10, 0, 1, 12].into(), "eth0"));
    let plan = plan([tunnel.clone(), end.clone(), into.clone(), beside.clone()]);
    assert_eq!(converge.take(at(10), &plan), std::slice::from_ref(&tunnel));
    assert_eq!(converge.applied(at(20), &tunnel, Err(fault(FaultKind::Invalid))), [beside]);
    for held in [end, into] {
        assert_eq!(converge.held_up(&held, &plan), Some(&fault(FaultKind::Invalid)), "{held}");
    }
}

#[test]
fn a_tunnel_that_cannot_be_set_up_holds_up_no_removal_and_none_is_set_up_before_the_rules_are_in_force() {
    let mut converge = ready(at(0));
    let key = TunnelKey([1; 32]);
    let tunnel = Action::Host(HostAction::SetTunnel { key, port: 6784, mtu: 1440 });
    let gone = Action::Host(HostAction::DeleteBlock(cidr("10.40.0.0/14").into()));
    assert_eq!(converge.take(at(10), &plan([tunnel.clone(), gone.clone()])), std::slice::from_ref(&tunnel));
    assert_eq!(converge.applied(at(20), &tunnel, Err(fault(FaultKind::Invalid))), [gone]);
    let mut converge = ready(at(0));
    let fence = Action::Host(HostAction::LoadRules(rules()));
    assert_eq!(converge.take(at(10), &plan([fence.clone(), tunnel])), std::slice::from_ref(&fence));
    assert_eq!(converge.applied(at(20), &fence, Err(fault(FaultKind::Invalid))), []);
}
