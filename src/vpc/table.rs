//! A route table as EC2 describes it, read into the words of [`state`](crate::state).

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{self, RouteOrigin, RouteTable};
use ipnet::{IpNet, Ipv4Net};
use tracing::debug;

use super::lists::Lists;
use crate::{
    addr::{Family, Range},
    state::{InterfaceId, Route, RouteState, SubnetId, Table, TableId, Target},
    text::printable,
};

/// The tables that serve subnets. One that serves a gateway holds no route outside the VPC.
pub(super) fn usable(tables: Vec<RouteTable>) -> Vec<RouteTable> {
    let serves_gateway =
        |table: &RouteTable| table.associations().iter().any(|one| one.gateway_id().is_some());
    tables.into_iter().filter(|table| !serves_gateway(table)).collect()
}

/// The tables that serve these subnets: those they are associated with, and the VPC's main one where a subnet is with none.
pub(super) fn serving(tables: Vec<RouteTable>, subnets: &BTreeSet<SubnetId>) -> Vec<RouteTable> {
    let of_table = |table: &RouteTable| -> BTreeSet<SubnetId> {
        let named = table.associations().iter().filter_map(|one| one.subnet_id());
        named.map(|id| SubnetId(id.to_owned())).collect()
    };
    let associated: BTreeSet<SubnetId> = tables.iter().flat_map(of_table).collect();
    let by_default = !subnets.is_subset(&associated);
    let is_main = |table: &RouteTable| table.associations().iter().any(|one| one.main() == Some(true));
    let serves = |table: &RouteTable| !of_table(table).is_disjoint(subnets) || by_default && is_main(table);
    tables.into_iter().filter(serves).collect()
}

/// Its name.
pub(super) fn id(table: &RouteTable) -> Option<TableId> {
    table.route_table_id().map(|id| TableId(id.to_owned()))
}

/// A side of a table as we see it: what lies in the range or covers it, what counts, and the VPC's own CIDRs.
pub(super) fn read_table(table: &RouteTable, family: Family, range: Ipv4Net, lists: &Lists) -> Table {
    let (mut read, mut narrowest) = (Table::default(), 0);
    let range = Range::from(range);
    let concerns = |cidr: &Ipv4Net| Range::from(*cidr).covers(range) || range.covers((*cidr).into());
    for route in table.routes() {
        // A propagated route has a quota of its own.
        let propagated =
            !matches!(route.origin(), Some(RouteOrigin::CreateRoute | RouteOrigin::CreateRouteTable));
        let entries = entries(route, lists);
        if counts(route, entries, family) && !propagated {
            // EC2 counts as many as the list may hold, which only its owner is told.
            read.used += entries.len().max(1);
        }
        for entry in entries.iter().filter_map(|entry| family.cidr_of(*entry)).filter(concerns) {
            read.routes.entry(entry).or_insert_with(|| listed(route));
        }
        let Some(destination) = destination(route) else { continue };
        let Some(cidr) = family.cidr_of(destination) else { continue };
        if is_local(route) {
            read.local.push(cidr);
        }
        // Of several that cover an IPv6 prefix packets follow the narrowest.
        let covers_all = cidr.prefix_len() == 0;
        if !concerns(&cidr) || covers_all && destination.prefix_len() < narrowest {
            continue;
        }
        if covers_all {
            narrowest = destination.prefix_len();
        }
        // A static route beside a propagated one, or one of a list, of the same destination is the one that counts.
        if !propagated || !read.routes.contains_key(&cidr) {
            read.routes.insert(cidr, read_route(route));
        }
    }
    read
}

/// Whether the quota of this family counts a route. A list has entries of one family; one whose entries are not known is
/// taken for IPv4.
fn counts(route: &types::Route, entries: &[IpNet], family: Family) -> bool {
    let is_v6 =
        route.destination_ipv6_cidr_block().is_some() || matches!(entries.first(), Some(IpNet::V6(_)));
    match family {
        Family::V4 => !is_v6,
        Family::V6(_) => is_v6,
    }
}

/// Where packets have to go to take this route; `None` if a list says so, or if it is written in no canonical form.
fn destination(route: &types::Route) -> Option<IpNet> {
    let text = route.destination_cidr_block().or(route.destination_ipv6_cidr_block())?;
    let destination = text.parse::<IpNet>().ok().filter(|cidr| cidr.trunc() == *cidr);
    if destination.is_none() {
        debug!(destination = text, "route skipped: not a canonical CIDR");
    }
    destination
}

/// A local route may have been pointed at an interface; it is still where the VPC's addresses are.
fn is_local(route: &types::Route) -> bool {
    route.gateway_id() == Some("local") || route.origin() == Some(&RouteOrigin::CreateRouteTable)
}

fn read_route(route: &types::Route) -> Route {
    let state = match route.state() {
        Some(types::RouteState::Active) => RouteState::Active,
        Some(types::RouteState::Blackhole) => RouteState::Blackhole,
        _ => RouteState::Other,
    };
    Route { target: target(route), state, created: route.origin() == Some(&RouteOrigin::CreateRoute) }
}

fn entries<'a>(route: &types::Route, lists: &'a Lists) -> &'a [IpNet] {
    let list = route.destination_prefix_list_id().and_then(|id| lists.get(id)?.as_ref().ok());
    list.map_or(&[], Vec::as_slice)
}

/// A route of a list is nobody's to replace, wherever it leads.
fn listed(route: &types::Route) -> Route {
    let list = printable(route.destination_prefix_list_id().unwrap_or_default());
    let target = Target::Other(format!("{} (prefix list {list})", target(route)));
    Route { target, created: false, ..read_route(route) }
}

fn target(route: &types::Route) -> Target {
    if let Some(interface) = route.network_interface_id() {
        return Target::Interface(InterfaceId(interface.to_owned()));
    }
    let elsewhere = [
        route.gateway_id(),
        route.nat_gateway_id(),
        route.transit_gateway_id(),
        route.vpc_peering_connection_id(),
        route.local_gateway_id(),
        route.carrier_gateway_id(),
        route.egress_only_internet_gateway_id(),
        route.core_network_arn(),
        route.odb_network_arn(),
        route.instance_id(),
    ];
    let elsewhere = elsewhere.into_iter().flatten().next();
    Target::Other(printable(elsewhere.unwrap_or("nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn associated(id: &str, subnets: &[&str], main: bool) -> RouteTable {
        let association = |subnet: &&str| types::RouteTableAssociation::builder().subnet_id(*subnet).build();
        let main = main.then(|| types::RouteTableAssociation::builder().main(true).build());
        let all = subnets.iter().map(association).chain(main).collect();
        RouteTable::builder().route_table_id(id).set_associations(Some(all)).build()
    }

    #[test]
    fn the_main_table_serves_the_subnets_that_have_none_of_their_own() {
        let found = |subnets: &[&str]| -> Vec<String> {
            let tables = vec![
                associated("rtb-main", &[], true),
                associated("rtb-a", &["subnet-1", "subnet-2"], false),
                associated("rtb-b", &["subnet-3"], false),
            ];
            let subnets = subnets.iter().map(|id| SubnetId((*id).to_owned())).collect();
            serving(tables, &subnets).iter().filter_map(id).map(|id| id.0).collect()
        };
        assert_eq!(found(&["subnet-1"]), ["rtb-a"]);
        assert_eq!(found(&["subnet-2", "subnet-3"]), ["rtb-a", "rtb-b"]);
        assert_eq!(found(&["subnet-3", "subnet-4"]), ["rtb-main", "rtb-b"]);
        assert_eq!(found(&["subnet-4"]), ["rtb-main"]);
    }

    const RANGE: &str = "10.32.0.0/12";

    fn route(destination: &str) -> types::builders::RouteBuilder {
        types::Route::builder()
            .destination_cidr_block(destination)
            .origin(RouteOrigin::CreateRoute)
            .state(types::RouteState::Active)
    }

    fn read(routes: impl IntoIterator<Item = types::builders::RouteBuilder>) -> Table {
        read_with(routes, &Lists::new())
    }

    fn read_with(routes: impl IntoIterator<Item = types::builders::RouteBuilder>, lists: &Lists) -> Table {
        let routes = routes.into_iter().map(types::builders::RouteBuilder::build).collect();
        let table = RouteTable::builder().set_routes(Some(routes)).build();
        read_table(&table, Family::V4, RANGE.parse().unwrap(), lists)
    }

    fn route6(destination: &str) -> types::builders::RouteBuilder {
        types::Route::builder()
            .destination_ipv6_cidr_block(destination)
            .network_interface_id("eni-1")
            .origin(RouteOrigin::CreateRoute)
            .state(types::RouteState::Active)
    }

    #[test]
    fn the_side_of_ipv6_is_read_as_the_ipv4_cidrs_that_it_stands_for() {
        let entries = ["fd00:1::a2f:0/112", "2001:db8::/32"].map(|cidr| cidr.parse().unwrap());
        let lists = Lists::from([("pl-1".to_owned(), Ok(entries.into()))]);
        let routes = [
            route("10.32.0.0/13").network_interface_id("eni-1"),
            route6("::/0").network_interface_id("eni-wide"),
            route6("fd00::/8").network_interface_id("eni-narrow"),
            route6("fd00:1::a20:0/109"),
            route6("fd00:1::a28:0/109").origin(RouteOrigin::EnableVgwRoutePropagation),
            route6("fd00:2::a28:0/109"),
            types::Route::builder().destination_prefix_list_id("pl-1").origin(RouteOrigin::CreateRoute),
        ];
        let routes = routes.into_iter().map(types::builders::RouteBuilder::build).collect();
        let table = RouteTable::builder().set_routes(Some(routes)).build();
        let family = Family::V6("fd00:1::/96".parse().unwrap());
        let read = read_table(&table, family, RANGE.parse().unwrap(), &lists);
        assert_eq!(destinations(&read), ["0.0.0.0/0", "10.32.0.0/13", "10.40.0.0/13", "10.47.0.0/16"]);
        assert_eq!(read.used, 6, "two are IPv4 or propagated, and the list counts as its entries");
        let default = &read.routes[&Ipv4Net::default()];
        assert_eq!(default.target, Target::Interface(InterfaceId("eni-narrow".into())));
    }

    #[test]
    fn the_entries_of_a_prefix_list_inside_the_range_are_routes_of_others() {
        let entries = ["10.33.0.0/16", "10.34.0.0/16", "192.0.2.0/24"].map(|cidr| cidr.parse().unwrap());
        let lists = Lists::from([("pl-1".to_owned(), Ok(entries.into()))]);
        let list = types::Route::builder().destination_prefix_list_id("pl-1").network_interface_id("eni-1");
        let beside = route("10.34.0.0/16").network_interface_id("eni-1");
        let table = read_with([list.origin(RouteOrigin::CreateRoute), beside], &lists);
        assert_eq!(destinations(&table), ["10.33.0.0/16", "10.34.0.0/16"]);
        let targets: Vec<String> = table.routes.values().map(|route| route.target.to_string()).collect();
        assert_eq!(targets, ["eni-1 (prefix list pl-1)", "eni-1"]);
        let created: Vec<bool> = table.routes.values().map(|route| route.created).collect();
        assert_eq!((created, table.used), (vec![false, true], 4));
    }

    fn destinations(table: &Table) -> Vec<String> {
        table.routes.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_lies_in_the_range_or_covers_it_is_seen_and_all_of_it_counts() {
        let table = read([
            route("10.0.0.0/16").gateway_id("local").origin(RouteOrigin::CreateRouteTable),
            route("0.0.0.0/0").gateway_id("igw-1"),
            route("10.32.0.0/13").network_interface_id("eni-1"),
            route("10.48.0.0/13").network_interface_id("eni-1"),
        ]);
        assert_eq!(destinations(&table), ["0.0.0.0/0", "10.32.0.0/13"]);
        assert_eq!(table.used, 4);
        assert_eq!(table.local, ["10.0.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn ipv6_routes_and_propagated_ones_have_quotas_of_their_own_and_a_prefix_list_counts() {
        let table = read([
            types::Route::builder().destination_ipv6_cidr_block("::/0").origin(RouteOrigin::CreateRoute),
            route("10.33.0.0/16").gateway_id("vgw-1").origin(RouteOrigin::EnableVgwRoutePropagation),
            types::Route::builder().destination_prefix_list_id("pl-1").origin(RouteOrigin::CreateRoute),
        ]);
        assert_eq!(table.used, 1);
        assert_eq!(destinations(&table), ["10.33.0.0/16"]);
    }

    #[test]
    fn a_static_route_hides_the_propagated_one_beside_it_in_whatever_order_they_come() {
        let created = || route("10.33.0.0/16").network_interface_id("eni-1");
        let learned =
            || route("10.33.0.0/16").gateway_id("vgw-1").origin(RouteOrigin::EnableVgwRoutePropagation);
        for table in [read([created(), learned()]), read([learned(), created()])] {
            assert!(table.routes.values().all(|route| route.created));
        }
    }

    #[test]
    fn a_route_that_is_no_canonical_cidr_is_skipped_but_counted() {
        let table = read([route("10.33.0.18/16").gateway_id("igw-1"), route("banana").gateway_id("igw-1")]);
        assert_eq!((destinations(&table), table.used), (vec![], 2));
    }

    #[test]
    fn a_route_leads_to_its_interface_also_where_the_instance_is_named() {
        let both = route("10.33.0.0/16").instance_id("i-1").network_interface_id("eni-1").build();
        assert_eq!(target(&both), Target::Interface(InterfaceId("eni-1".into())));
        let peering = route("10.33.0.0/16").vpc_peering_connection_id("pcx-1").build();
        assert_eq!(target(&peering), Target::Other("pcx-1".into()));
        assert_eq!(target(&route("10.33.0.0/16").build()), Target::Other("nothing".into()));
    }

    #[test]
    fn a_state_that_nobody_knew_is_neither_active_nor_a_blackhole() {
        let states = [
            ("active", RouteState::Active),
            ("blackhole", RouteState::Blackhole),
            ("filtered", RouteState::Other),
            ("new", RouteState::Other),
        ];
        for (name, expected) in states {
            let read = read_route(&route("10.33.0.0/16").state(types::RouteState::from(name)).build());
            assert_eq!(read.state, expected, "{name}");
        }
    }

    #[test]
    fn a_local_route_that_was_pointed_elsewhere_is_still_where_the_vpc_is() {
        let table =
            read([route("10.0.0.0/16").network_interface_id("eni-9").origin(RouteOrigin::CreateRouteTable)]);
        assert_eq!(table.local.len(), 1);
    }

    #[test]
    fn a_table_that_serves_a_gateway_is_never_used() {
        let edge = types::RouteTableAssociation::builder().gateway_id("igw-1").build();
        let subnet = types::RouteTableAssociation::builder().subnet_id("subnet-1").build();
        let tables = [("rtb-edge", edge), ("rtb-1", subnet)].map(|(id, association)| {
            RouteTable::builder().route_table_id(id).associations(association).build()
        });
        let kept = usable(tables.into());
        assert_eq!(kept.iter().filter_map(id).collect::<Vec<_>>(), [TableId("rtb-1".into())]);
    }
}
