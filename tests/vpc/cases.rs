//! What is asked of every cloud.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use futures_util::future::BoxFuture;
use ipnet::Ipv4Net;
use weavers::{
    addr::{Family, Prefix, Universe},
    state::{
        Ec2Action, Fault, FaultKind, InstanceState, InterfaceId, Route, RouteState, Side, SubnetId, TableId,
        Tables, Target, Vpc,
    },
    vpc::{Ec2, overlaps},
};

use crate::cloud::World;

/// Something that EC2 does, and the clouds that do not.
pub struct Case {
    pub name: &'static str,
    pub run: for<'a> fn(&'a World) -> BoxFuture<'a, Result<()>>,
    /// The cloud, and what it does instead.
    pub differs: &'static [(&'static str, &'static str)],
}

macro_rules! cases {
    ($($name:ident $(differs $differs:expr)?;)*) => {
        pub const ALL: &[Case] = &[$(Case {
            name: stringify!($name),
            run: |world| Box::pin($name(world)),
            differs: &[$($differs)?],
        }),*];
    };
}

cases! {
    a_created_route_is_seen_as_ours;
    a_route_that_is_there_cannot_be_created differs ("moto", "replaces the route");
    a_route_is_replaced_in_place;
    a_route_that_is_not_there_cannot_be_replaced;
    a_deleted_route_is_gone;
    a_route_that_is_not_there_is_as_good_as_deleted;
    a_table_that_is_gone_calls_for_another_look;
    an_interface_that_is_gone_calls_for_another_look;
    routes_of_ipv6_come_and_go_beside_those_of_ipv4;
    a_route_of_ipv6_that_is_there_calls_for_another_look differs ("moto", "replaces it");
    each_side_of_a_table_has_a_quota_of_its_own differs ("moto", "has no quota");
    the_table_of_the_subnet_is_found;
    a_subnet_without_a_table_has_the_main_one;
    a_subnet_that_changes_its_table_is_followed;
    a_subnet_that_leaves_the_main_table_is_followed;
    the_tables_of_other_subnets_are_read_too;
    a_table_that_serves_a_gateway_is_not_found;
    tables_that_bear_a_tag_are_found;
    tables_are_read_beyond_the_first_page;
    an_unknown_table_is_named;
    an_unknown_table_does_not_hide_the_others;
    a_table_that_serves_a_gateway_is_not_used;
    a_full_table_says_so differs ("moto", "has no quota");
    a_route_to_a_terminated_instance_is_a_blackhole differs ("moto", "calls every route active");
    the_check_of_the_own_interface_is_turned_off;
    a_denied_route_names_the_permission;
    a_denied_check_names_the_command;
    a_check_that_cannot_be_read_is_unread;
    a_range_inside_the_vpc_is_noticed;
    the_groups_of_the_own_interface_let_in_what_they_say;
    groups_that_may_not_be_read_name_the_command_that_reads_them;
    what_a_prefix_list_holds_inside_the_range_is_a_route_of_others differs ("standin", "knows no prefix lists");
    a_prefix_list_that_may_not_be_read_names_the_command_that_reads_it differs ("standin", "knows no prefix lists");
    a_throttled_call_is_known_as_such differs ("moto", "does not throttle");
    a_create_whose_answer_was_lost_calls_for_another_look differs ("moto", "loses no answer");
    peers_are_the_running_instances_that_bear_the_tag;
    an_instance_that_is_terminated_or_unknown_is_not_there;
    of_some_addresses_those_of_running_instances_are_told differs ("moto", "does not find other interfaces by their addresses");
    peers_have_the_subnets_of_their_instances;
    whatever_is_no_instance_has_no_subnet differs ("moto", "does not find other interfaces by their addresses");
    many_peers_are_asked_for_in_several_calls differs ("moto", "does not find other interfaces by their addresses");
    a_look_is_one_call differs ("moto", "does not count calls");
}

const RANGE: &str = "10.32.0.0/12";
const FIVE: [&str; 5] =
    ["CreateRoute", "DeleteRoute", "ReplaceRoute", "DescribeRouteTables", "DescribeInstances"];

// ===== peers =====

async fn an_instance_that_is_terminated_or_unknown_is_not_there(world: &World) -> Result<()> {
    let (own, other) = (world.ec2.identity().instance.clone(), world.neighbour_instance.clone());
    let asked = BTreeSet::from([own.clone(), other.clone(), "i-0123456789abcdef0".to_owned()]);
    let running = |ids: &[&String]| ids.iter().map(|id| ((*id).clone(), InstanceState::Running)).collect();
    ensure!(world.ec2.instances(&asked).await? == running(&[&own, &other]));
    world.console.terminate_neighbour().await?;
    ensure!(world.ec2.instances(&asked).await? == running(&[&own]));
    Ok(())
}

async fn peers_are_the_running_instances_that_bear_the_tag(world: &World) -> Result<()> {
    ensure!(world.ec2.peers("cluster", "prod").await? == BTreeSet::new());
    world.console.tag_both("cluster", "prod").await?;
    let both = world.ec2.peers("cluster", "prod").await?;
    ensure!(both.len() == 2 && both.contains(&world.ec2.identity().address), "{both:?}");
    ensure!(world.ec2.peers("cluster", "test").await? == BTreeSet::new());
    world.console.terminate_neighbour().await?;
    let left = world.ec2.peers("cluster", "prod").await?;
    ensure!(left == [world.ec2.identity().address].into(), "{left:?}");
    Ok(())
}

async fn of_some_addresses_those_of_running_instances_are_told(world: &World) -> Result<()> {
    world.console.tag_both("cluster", "prod").await?;
    let own = world.ec2.identity().address;
    let both = world.ec2.peers("cluster", "prod").await?;
    let asked: BTreeSet<Ipv4Addr> = both.iter().copied().chain(["192.0.2.1".parse()?]).collect();
    ensure!(world.ec2.running(&asked).await? == both);
    world.console.terminate_neighbour().await?;
    ensure!(world.ec2.running(&asked).await? == [own].into());
    Ok(())
}

async fn peers_have_the_subnets_of_their_instances(world: &World) -> Result<()> {
    world.console.tag_both("cluster", "prod").await?;
    let both = world.ec2.peers("cluster", "prod").await?;
    let places = world.ec2.places(&both).await?;
    let subnet = SubnetId(world.ec2.identity().subnet.clone());
    ensure!(places == both.into_iter().map(|address| (address, subnet.clone())).collect(), "{places:?}");
    Ok(())
}

async fn whatever_is_no_instance_has_no_subnet(world: &World) -> Result<()> {
    world.console.tag_both("cluster", "prod").await?;
    let both = world.ec2.peers("cluster", "prod").await?;
    world.console.terminate_neighbour().await?;
    let places = world.ec2.places(&both).await?;
    ensure!(places.into_keys().eq([world.ec2.identity().address]));
    ensure!(world.ec2.places(&["192.0.2.1".parse()?].into()).await?.is_empty());
    Ok(())
}

async fn many_peers_are_asked_for_in_several_calls(world: &World) -> Result<()> {
    let own = world.ec2.identity().address;
    let strangers = (0..450u32).map(|number| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 0)) + number));
    let places = world.ec2.places(&strangers.chain([own]).collect()).await?;
    ensure!(places.into_keys().eq([own]));
    Ok(())
}

// ===== routes =====

async fn a_created_route_is_seen_as_ours(world: &World) -> Result<()> {
    world.create("10.40.0.0/13").await?;
    let table = world.look().await?.tables.remove(&world.side()).context("table not read")?;
    let expected = Route { target: world.own(), state: RouteState::Active, created: true };
    ensure!(table.routes == [(cidr("10.40.0.0/13"), expected)].into(), "{table:?}");
    ensure!(table.used == 2 && table.local == [cidr("10.0.0.0/16")], "{table:?}");
    Ok(())
}

async fn a_route_that_is_there_cannot_be_created(world: &World) -> Result<()> {
    world.create("10.40.0.0/13").await?;
    let fault = refusal(world.create("10.40.0.0/13").await)?;
    ensure!(fault.kind == FaultKind::Outdated, "{fault:?}");
    Ok(())
}

async fn a_route_is_replaced_in_place(world: &World) -> Result<()> {
    let create = Ec2Action::CreateRoute {
        table: world.side(),
        destination: cidr("10.40.0.0/13"),
        interface: world.neighbour.clone(),
    };
    world.ec2.apply(&create).await?;
    world.replace("10.40.0.0/13").await?;
    ensure!(world.route("10.40.0.0/13").await?.map(|route| route.target) == Some(world.own()));
    Ok(())
}

async fn a_route_that_is_not_there_cannot_be_replaced(world: &World) -> Result<()> {
    let fault = refusal(world.replace("10.40.0.0/13").await)?;
    ensure!(fault.kind == FaultKind::Outdated, "{fault:?}");
    ensure!(fault.message.contains("10.40.0.0/13"), "{fault}");
    Ok(())
}

async fn a_deleted_route_is_gone(world: &World) -> Result<()> {
    world.create("10.40.0.0/13").await?;
    world.delete("10.40.0.0/13").await?;
    ensure!(world.route("10.40.0.0/13").await?.is_none());
    Ok(())
}

async fn a_route_that_is_not_there_is_as_good_as_deleted(world: &World) -> Result<()> {
    world.delete("10.40.0.0/13").await?;
    Ok(())
}

async fn a_table_that_is_gone_calls_for_another_look(world: &World) -> Result<()> {
    let create = Ec2Action::CreateRoute {
        table: TableId("rtb-0123456789abcdef0".into()).into(),
        destination: cidr("10.40.0.0/13"),
        interface: world.ec2.identity().interface.clone(),
    };
    let fault = refusal(world.ec2.apply(&create).await)?;
    ensure!(
        fault.kind == FaultKind::Outdated && fault.message.contains("rtb-0123456789abcdef0"),
        "{fault:?}"
    );
    Ok(())
}

async fn an_interface_that_is_gone_calls_for_another_look(world: &World) -> Result<()> {
    let create = Ec2Action::CreateRoute {
        table: world.side(),
        destination: cidr("10.40.0.0/13"),
        interface: InterfaceId("eni-0123456789abcdef0".into()),
    };
    let fault = refusal(world.ec2.apply(&create).await)?;
    ensure!(
        fault.kind == FaultKind::Outdated && fault.message.contains("eni-0123456789abcdef0"),
        "{fault:?}"
    );
    Ok(())
}

// ===== IPv6 =====

async fn routes_of_ipv6_come_and_go_beside_those_of_ipv4(world: &World) -> Result<()> {
    let (block, other) = ("10.40.0.0/13", "10.32.0.0/13");
    world.create(block).await?;
    world.create6(block).await?;
    world.create6(other).await?;
    let seen = world.look_at_both().await?;
    let of = |side: &Side| seen.tables[side].routes.keys().map(ToString::to_string).collect::<Vec<_>>();
    ensure!(of(&world.side()) == [block] && of(&world.side6()) == [other, block], "{seen:?}");
    ensure!(seen.tables[&world.side6()].used == 2, "{seen:?}");
    let interface = world.ec2.identity().interface.clone();
    let replace = Ec2Action::ReplaceRoute { table: world.side6(), destination: cidr(block), interface };
    world.ec2.apply(&replace).await?;
    for _twice in 0..2 {
        let delete = Ec2Action::DeleteRoute { table: world.side6(), destination: cidr(block) };
        world.ec2.apply(&delete).await?;
    }
    let seen = world.look_at_both().await?;
    ensure!(
        seen.tables[&world.side()].routes.len() == 1 && seen.tables[&world.side6()].routes.len() == 1,
        "{seen:?}"
    );
    Ok(())
}

async fn a_route_of_ipv6_that_is_there_calls_for_another_look(world: &World) -> Result<()> {
    world.create6("10.40.0.0/13").await?;
    let fault = refusal(world.create6("10.40.0.0/13").await)?;
    ensure!(
        fault.kind == FaultKind::Outdated && fault.message.contains("fd12:3456:789a:1::a28:0/109"),
        "{fault:?}"
    );
    Ok(())
}

async fn each_side_of_a_table_has_a_quota_of_its_own(world: &World) -> Result<()> {
    world.console.set_quota(world.table.clone(), 2).await?;
    world.create("10.40.0.0/13").await?;
    for block in ["10.32.0.0/16", "10.33.0.0/16"] {
        world.create6(block).await?;
    }
    for fault in [refusal(world.create6("10.34.0.0/16").await)?, refusal(world.create("10.34.0.0/16").await)?]
    {
        ensure!(fault.kind == FaultKind::Quota, "{fault:?}");
    }
    Ok(())
}

// ===== tables =====

async fn the_table_of_the_subnet_is_found(world: &World) -> Result<()> {
    for _look in 0..2 {
        ensure!(world.reads(&world.table).await?);
    }
    Ok(())
}

async fn a_subnet_without_a_table_has_the_main_one(world: &World) -> Result<()> {
    world.console.associate(None).await?;
    for _look in 0..2 {
        ensure!(world.reads(&world.main).await?);
    }
    Ok(())
}

async fn a_subnet_that_changes_its_table_is_followed(world: &World) -> Result<()> {
    ensure!(world.reads(&world.table).await?);
    let other = world.console.add_tables(1).await?.remove(0);
    world.console.associate(Some(other.clone())).await?;
    ensure!(world.reads(&other).await?);
    world.console.associate(None).await?;
    ensure!(world.reads(&world.main).await?);
    Ok(())
}

async fn a_subnet_that_leaves_the_main_table_is_followed(world: &World) -> Result<()> {
    world.console.associate(None).await?;
    ensure!(world.reads(&world.main).await?);
    world.console.associate(Some(world.table.clone())).await?;
    ensure!(world.reads(&world.table).await?);
    Ok(())
}

async fn the_tables_of_other_subnets_are_read_too(world: &World) -> Result<()> {
    let subnet = world.console.add_subnet().await?;
    ensure!(world.reads_for(&subnet).await? == [world.table.clone(), world.main.clone()].into());
    let other = world.console.add_tables(1).await?.remove(0);
    world.console.associate_other(subnet.clone(), other.clone()).await?;
    ensure!(world.reads_for(&subnet).await? == [world.table.clone(), other].into());
    Ok(())
}

async fn a_table_that_serves_a_gateway_is_not_found(world: &World) -> Result<()> {
    world.console.make_edge(world.main.clone()).await?;
    let subnet = world.console.add_subnet().await?;
    ensure!(world.reads_for(&subnet).await? == [world.table.clone()].into());
    Ok(())
}

async fn tables_that_bear_a_tag_are_found(world: &World) -> Result<()> {
    let tagged = Tables::Tagged("weave".to_owned(), "yes".to_owned());
    let fault = refusal(world.ec2.observe(&cidr(RANGE).into(), &tagged).await)?;
    ensure!(fault.kind == FaultKind::Invalid && fault.message.contains("weave=yes"), "{fault:?}");
    let tables = world.console.add_tables(2).await?;
    for table in &tables {
        world.console.tag_table(table.clone(), "weave", "yes").await?;
    }
    world.console.tag_table(world.table.clone(), "weave", "no").await?;
    let read = world.ec2.observe(&cidr(RANGE).into(), &tagged).await?;
    ensure!(ids(read) == tables.into_iter().collect());
    Ok(())
}

async fn tables_are_read_beyond_the_first_page(world: &World) -> Result<()> {
    let tables: BTreeSet<TableId> = world.console.add_tables(105).await?.into_iter().collect();
    let read = world.ec2.observe(&cidr(RANGE).into(), &Tables::Named(tables.clone())).await?;
    ensure!(ids(read) == tables);
    ensure!(world.reads(&world.table).await?, "the own one is found among them");
    Ok(())
}

async fn an_unknown_table_is_named(world: &World) -> Result<()> {
    let unknown = BTreeSet::from([TableId("rtb-0123456789abcdef0".into())]);
    let fault = refusal(world.ec2.observe(&cidr(RANGE).into(), &Tables::Named(unknown)).await)?;
    ensure!(fault.kind == FaultKind::Invalid && fault.message.contains("rtb-0123456789abcdef0"), "{fault:?}");
    Ok(())
}

async fn an_unknown_table_does_not_hide_the_others(world: &World) -> Result<()> {
    for unknown in ["rtb-0123456789abcdef0", "rtb-fffffffffffffffff"] {
        let selected = BTreeSet::from([TableId(unknown.into()), world.table.clone()]);
        for _look in 0..12 {
            let read = world.ec2.observe(&cidr(RANGE).into(), &Tables::Named(selected.clone())).await?;
            ensure!(read.tables.keys().eq([&world.side()]), "{unknown}: {read:?}");
        }
    }
    Ok(())
}

async fn a_table_that_serves_a_gateway_is_not_used(world: &World) -> Result<()> {
    let edge = world.console.add_tables(1).await?.remove(0);
    world.console.make_edge(edge.clone()).await?;
    let both = Tables::Named([edge.clone(), world.table.clone()].into());
    let read = world.ec2.observe(&cidr(RANGE).into(), &both).await?;
    ensure!(ids(read) == [world.table.clone()].into());
    let only = Tables::Named([edge.clone()].into());
    let fault = refusal(world.ec2.observe(&cidr(RANGE).into(), &only).await)?;
    ensure!(fault.kind == FaultKind::Invalid && fault.message.contains(&edge.0), "{fault:?}");
    Ok(())
}

async fn a_full_table_says_so(world: &World) -> Result<()> {
    world.console.set_quota(world.table.clone(), 3).await?;
    world.create("10.32.0.0/16").await?;
    world.create("10.33.0.0/16").await?;
    world.look().await?;
    for third in 34..36 {
        if let Err(fault) = world.create(&format!("10.{third}.0.0/16")).await {
            ensure!(fault.kind == FaultKind::Quota && fault.message.contains(" at 3 routes"), "{fault:?}");
            return Ok(());
        }
    }
    anyhow::bail!("a table for 3 routes took 5")
}

async fn a_route_to_a_terminated_instance_is_a_blackhole(world: &World) -> Result<()> {
    let create = Ec2Action::CreateRoute {
        table: world.side(),
        destination: cidr("10.40.0.0/13"),
        interface: world.neighbour.clone(),
    };
    world.ec2.apply(&create).await?;
    world.console.terminate_neighbour().await?;
    let route = world.route("10.40.0.0/13").await?.context("the route is gone")?;
    ensure!(route.state == RouteState::Blackhole, "{route:?}");
    world.replace("10.40.0.0/13").await?;
    let route = world.route("10.40.0.0/13").await?.context("the route is gone")?;
    ensure!(route.state == RouteState::Active && route.target == world.own(), "{route:?}");
    Ok(())
}

// ===== the check, and what is denied =====

async fn the_check_of_the_own_interface_is_turned_off(world: &World) -> Result<()> {
    ensure!(world.look().await?.source_dest_check == Some(true));
    world.ec2.apply(&world.disable_check()).await?;
    ensure!(world.look().await?.source_dest_check == Some(false));
    world.ec2.apply(&world.disable_check()).await?;
    Ok(())
}

async fn a_denied_route_names_the_permission(world: &World) -> Result<()> {
    let ec2 = world.console.restrict(&["DescribeRouteTables", "DescribeInstances"]).await?;
    let table = world.table.clone();
    let delete = Ec2Action::DeleteRoute { table: world.side(), destination: cidr("10.40.0.0/13") };
    let fault = refusal(ec2.apply(&delete).await)?;
    ensure!(fault.kind == FaultKind::Denied, "{fault:?}");
    let hint = fault.hint.context("no hint")?;
    ensure!(hint.contains("ec2:DeleteRoute") && hint.contains(&table.0), "{hint}");
    Ok(())
}

async fn a_denied_check_names_the_command(world: &World) -> Result<()> {
    let ec2 = world.console.restrict(&FIVE).await?;
    ensure!(look(&ec2).await?.source_dest_check == Some(true));
    let fault = refusal(ec2.apply(&world.disable_check()).await)?;
    ensure!(fault.kind == FaultKind::Denied, "{fault:?}");
    let interface = &world.ec2.identity().interface;
    let command = format!(
        "modify-network-interface-attribute --no-source-dest-check --network-interface-id {interface}"
    );
    ensure!(fault.hint.as_ref().is_some_and(|hint| hint.contains(&command)), "{fault:?}");
    Ok(())
}

async fn a_check_that_cannot_be_read_is_unread(world: &World) -> Result<()> {
    let ec2 = world.console.restrict(&["DescribeRouteTables"]).await?;
    let seen = look(&ec2).await?;
    ensure!(seen.source_dest_check.is_none() && seen.tables.contains_key(&world.side()), "{seen:?}");
    Ok(())
}

async fn a_range_inside_the_vpc_is_noticed(world: &World) -> Result<()> {
    let fault = overlaps(cidr("10.0.128.0/17"), &world.look().await?).context("not noticed")?;
    ensure!(fault.message.contains("10.0.0.0/16"), "{fault}");
    ensure!(overlaps(cidr(RANGE), &world.look().await?).is_none());
    Ok(())
}

async fn the_groups_of_the_own_interface_let_in_what_they_say(world: &World) -> Result<()> {
    let groups = world.ec2.security_groups().await?;
    ensure!(groups.len() == 1 && groups[0].id.starts_with("sg-"), "{groups:?}");
    let rules = groups[0].rules.len();
    world.console.let_in(6783, "10.0.0.0/16").await?;
    let groups = world.ec2.security_groups().await?;
    let new = groups[0].rules.iter().find(|rule| rule.ports == Some((6783, 6783))).context("not let in")?;
    ensure!(new.protocol == "tcp" && new.sources == [cidr("10.0.0.0/16")], "{new:?}");
    ensure!(groups[0].rules.len() == rules + 1, "{groups:?}");
    Ok(())
}

async fn groups_that_may_not_be_read_name_the_command_that_reads_them(world: &World) -> Result<()> {
    let ec2 = world.console.restrict(&FIVE).await?;
    let fault = refusal(ec2.security_groups().await)?;
    ensure!(fault.kind == FaultKind::Denied, "{fault:?}");
    let command = "aws ec2 describe-security-groups --group-ids sg-";
    ensure!(fault.hint.as_ref().is_some_and(|hint| hint.contains(command)), "{fault:?}");
    Ok(())
}

async fn what_a_prefix_list_holds_inside_the_range_is_a_route_of_others(world: &World) -> Result<()> {
    world.console.lead_list(world.table.clone(), "10.40.0.0/16").await?;
    let seen = world.look().await?;
    let route = seen.tables[&world.side()].routes.get(&cidr("10.40.0.0/16")).context("not seen")?;
    ensure!(!route.created && route.target.to_string().contains("(prefix list pl-"), "{route:?}");
    ensure!(world.ec2.unread_lists().is_empty(), "{:?}", world.ec2.unread_lists());
    Ok(())
}

async fn a_prefix_list_that_may_not_be_read_names_the_command_that_reads_it(world: &World) -> Result<()> {
    world.console.lead_list(world.table.clone(), "10.40.0.0/16").await?;
    let ec2 = world.console.restrict(&FIVE).await?;
    let seen = look(&ec2).await?;
    ensure!(!seen.tables[&world.side()].routes.contains_key(&cidr("10.40.0.0/16")), "{seen:?}");
    let unread = ec2.unread_lists();
    let command = "aws ec2 get-managed-prefix-list-entries --prefix-list-id pl-";
    let named = |fault: &Fault| fault.hint.as_ref().is_some_and(|hint| hint.contains(command));
    ensure!(unread.len() == 1 && unread.iter().all(named), "{unread:?}");
    Ok(())
}

// ===== bad days =====

async fn a_throttled_call_is_known_as_such(world: &World) -> Result<()> {
    world.console.throttle().await?;
    let fault = refusal(world.create("10.40.0.0/13").await)?;
    ensure!(fault.kind == FaultKind::Throttled, "{fault:?}");
    Ok(())
}

async fn a_create_whose_answer_was_lost_calls_for_another_look(world: &World) -> Result<()> {
    world.console.lose_an_answer().await?;
    let fault = refusal(world.create("10.40.0.0/13").await)?;
    ensure!(fault.kind == FaultKind::Outdated, "{fault:?}");
    ensure!(world.route("10.40.0.0/13").await?.map(|route| route.target) == Some(world.own()));
    Ok(())
}

async fn a_look_is_one_call(world: &World) -> Result<()> {
    world.ec2.apply(&world.disable_check()).await?;
    world.look().await?;
    let before = world.console.calls().await?;
    for _look in 0..9 {
        world.look().await?;
    }
    let after = world.console.calls().await?;
    let made = |action| after.get(action).copied().unwrap_or(0) - before.get(action).copied().unwrap_or(0);
    ensure!(made("DescribeRouteTables") == 9 && made("DescribeInstances") == 0, "{before:?} {after:?}");
    Ok(())
}

// ===== words of the cases =====

impl World {
    fn own(&self) -> Target {
        Target::Interface(self.ec2.identity().interface.clone())
    }

    fn disable_check(&self) -> Ec2Action {
        Ec2Action::DisableCheck { interface: self.ec2.identity().interface.clone() }
    }

    /// The side of IPv4 of the own table.
    fn side(&self) -> Side {
        self.table.clone().into()
    }

    /// The same of IPv6.
    fn side6(&self) -> Side {
        Side { table: self.table.clone(), family: Family::V6(prefix()) }
    }

    /// A look at both.
    async fn look_at_both(&self) -> Result<Vpc, Fault> {
        let universe = Universe { prefix: Some(prefix()), ..cidr(RANGE).into() };
        self.ec2.observe(&universe, &Tables::Serving(BTreeSet::new())).await
    }

    async fn create6(&self, destination: &str) -> Result<Option<String>, Fault> {
        let (table, interface) = (self.side6(), self.ec2.identity().interface.clone());
        self.ec2.apply(&Ec2Action::CreateRoute { table, destination: cidr(destination), interface }).await
    }

    async fn create(&self, destination: &str) -> Result<Option<String>, Fault> {
        let (table, interface) = (self.side(), self.ec2.identity().interface.clone());
        self.ec2.apply(&Ec2Action::CreateRoute { table, destination: cidr(destination), interface }).await
    }

    async fn replace(&self, destination: &str) -> Result<Option<String>, Fault> {
        let (table, interface) = (self.side(), self.ec2.identity().interface.clone());
        self.ec2.apply(&Ec2Action::ReplaceRoute { table, destination: cidr(destination), interface }).await
    }

    async fn delete(&self, destination: &str) -> Result<Option<String>, Fault> {
        let table = self.side();
        self.ec2.apply(&Ec2Action::DeleteRoute { table, destination: cidr(destination) }).await
    }

    async fn look(&self) -> Result<Vpc, Fault> {
        look(&self.ec2).await
    }

    /// Whether a look reads this table and no other.
    async fn reads(&self, table: &TableId) -> Result<bool> {
        Ok(ids(self.look().await?) == [table.clone()].into())
    }

    /// The tables that a look reads where a peer lives in that subnet.
    async fn reads_for(&self, subnet: &SubnetId) -> Result<BTreeSet<TableId>> {
        let tables = Tables::Serving([subnet.clone()].into());
        Ok(ids(self.ec2.observe(&cidr(RANGE).into(), &tables).await?))
    }

    async fn route(&self, destination: &str) -> Result<Option<Route>> {
        let mut tables = self.look().await?.tables;
        let table = tables.get_mut(&self.side()).context("table not read")?;
        Ok(table.routes.remove(&cidr(destination)))
    }
}

async fn look(ec2: &Ec2) -> Result<Vpc, Fault> {
    ec2.observe(&cidr(RANGE).into(), &Tables::Serving(BTreeSet::new())).await
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Fault>) -> Result<Fault> {
    match result {
        Ok(value) => anyhow::bail!("not refused: {value:?}"),
        Err(fault) => Ok(fault),
    }
}

/// The tables that were read.
fn ids(read: Vpc) -> BTreeSet<TableId> {
    read.tables.into_keys().map(|side| side.table).collect()
}

fn prefix() -> Prefix {
    "fd12:3456:789a:1::/96".parse().expect("it is written as a prefix")
}

fn cidr(text: &str) -> Ipv4Net {
    text.parse().expect("cases name CIDRs")
}
