//! Routes of a host to what other hosts own: what holds of every plan for them.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};
use proptest::{collection, prelude::*};
use weavers::{
    plan::{Plan, Plane},
    state::{Action, Actual, Desired, Hop, Host, HostAction, HostRoutes, Remote},
};

fn host(routes: &HostRoutes) -> Host {
    Host { remote: Remote { routes: routes.clone().into(), ..Remote::default() }.into(), ..Host::default() }
}

fn plan(desired: &HostRoutes, actual: &HostRoutes) -> Plan {
    let desired = Desired { host: host(desired), vpc: None };
    Plan::new(&desired, Actual { host: Some(&host(actual)), vpc: None })
}

/// What the kernel does: a route to a destination takes the place of the one before, and one that leads elsewhere is not removed.
fn apply(routes: &mut HostRoutes, action: &Action) {
    match action {
        Action::Host(HostAction::AddHostRoute { destination, hop }) => {
            drop(routes.insert(*destination, hop.clone()))
        }
        Action::Host(HostAction::DeleteHostRoute { destination, hop }) => {
            assert_eq!(routes.remove(destination).as_ref(), Some(hop), "it removes what it has seen");
        }
        other => panic!("{other} is not asked for"),
    }
}

fn any_routes() -> impl Strategy<Value = HostRoutes> {
    let destination = (0..8_u32, 24..27_u8).prop_map(|(number, length)| {
        IpNet::V4(Ipv4Net::new((0x0a20_0000 + 64 * number).into(), length).unwrap().trunc())
    });
    let hop = (11..14_u8, 0..2_u8)
        .prop_map(|(host, link)| Hop::direct([10, 0, 1, host].into(), &format!("eth{link}")));
    collection::btree_map(destination, hop, 0..6)
}

proptest! {
    #[test]
    fn a_plan_leads_from_what_is_to_what_should_be((desired, actual) in (any_routes(), any_routes())) {
        let mut routes = actual.clone();
        let plan = plan(&desired, &actual);
        // Before it is done all that is to be led somewhere is led somewhere at every moment, if it was before.
        for change in &plan.changes {
            let before = routes.clone();
            apply(&mut routes, &change.action);
            let lost = before.keys().find(|cidr| desired.contains_key(cidr) && !routes.contains_key(cidr));
            prop_assert_eq!(lost, None);
            prop_assert_eq!(Plane::of(&change.action), Plane::Host);
        }
        prop_assert_eq!(&routes, &desired);
        let differ = desired.iter().filter(|(cidr, hop)| actual.get(cidr) != Some(hop)).count();
        let gone = actual.keys().filter(|cidr| !desired.contains_key(cidr)).count();
        prop_assert_eq!(plan.changes.len(), differ + gone, "each step is needed");
    }

    #[test]
    fn where_all_is_as_it_should_be_there_is_nothing_to_do(routes in any_routes()) {
        prop_assert!(plan(&routes, &routes).is_empty());
    }
}

#[test]
fn new_routes_come_before_old_ones_go_and_both_say_why() {
    let hop = |host: u8| Hop::direct([192, 168, 7, host].into(), "eth0");
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let actual = BTreeMap::from([(net("10.40.0.0/13"), hop(12)), (net("10.32.0.0/14"), hop(13))]);
    let desired = BTreeMap::from([(net("10.40.0.0/14"), hop(12)), (net("10.32.0.0/14"), hop(14))]);
    let plan = plan(&desired, &actual);
    let told: Vec<String> = plan
        .changes
        .iter()
        .map(|change| format!("{}: {} ({})", change.action, change.cause, change.before))
        .collect();
    assert_eq!(
        told,
        [
            "add host route 10.32.0.0/14 via 192.168.7.14 dev eth0: owned by the host that is there \
             (via 192.168.7.13 dev eth0)",
            "add host route 10.40.0.0/14 via 192.168.7.12 dev eth0: owned by the host that is there ()",
            "delete host route 10.40.0.0/13 via 192.168.7.12 dev eth0: no longer owned there, or reached by another path \
             (via 192.168.7.12 dev eth0)",
        ]
    );
}
