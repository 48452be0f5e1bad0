use super::*;

const NOW: Timestamp = Timestamp::ZERO;

/// Two instances on one subnet, which is on a table of its own.
struct Pair {
    vpc: Vpc,
    table: TableId,
    a: (InstanceId, InterfaceId),
    b: (InstanceId, InterfaceId),
}

#[test]
fn a_packet_between_containers_arrives_only_when_route_and_both_checks_allow_it() {
    let mut pair = Pair::new();
    let ping = |pair: &Pair| pair.vpc.forward(&pair.a.1, ip("10.32.0.1"), ip("10.40.0.1"));
    assert_eq!(ping(&pair), None);
    pair.create("10.40.0.0/13", &pair.b.1.clone()).unwrap();
    assert_eq!(ping(&pair), None, "both checks are on");
    pair.check_off(&pair.a.1.clone());
    assert_eq!(ping(&pair), None, "the receiver's check is on");
    pair.check_off(&pair.b.1.clone());
    assert_eq!(ping(&pair), Some(pair.b.1.clone()));
    pair.vpc.set_power(NOW, &pair.b.0, Power::Stopped);
    assert_eq!(ping(&pair), None, "the receiver is stopped");
}

#[test]
fn hosts_reach_each_other_by_the_local_route_with_their_checks_on() {
    let pair = Pair::new();
    assert_eq!(pair.vpc.forward(&pair.a.1, ip("10.0.1.11"), ip("10.0.1.12")), Some(pair.b.1.clone()));
    assert_eq!(pair.vpc.forward(&pair.a.1, ip("10.0.1.99"), ip("10.0.1.12")), None);
}

#[test]
fn security_groups_are_told_only_to_whom_that_is_permitted() {
    let mut pair = Pair::new();
    let caller = Caller::Instance(pair.a.0.clone());
    let group = pair.vpc.interfaces()[&pair.a.1].groups[0].clone();
    let ask = |pair: &mut Pair, id: &str| {
        let find = Find { ids: vec![id.to_owned()], ..Find::default() };
        let reply = pair.vpc.call(NOW, &caller, &Call::DescribeSecurityGroups(find));
        reply.result.map_err(|error| error.code)
    };
    assert_eq!(ask(&mut pair, &group.0), Err("UnauthorizedOperation".into()));
    pair.vpc.permit(&caller, [Action::DescribeSecurityGroups]);
    let Ok(Answer::Groups { groups, .. }) = ask(&mut pair, &group.0) else { panic!("no groups") };
    assert_eq!(groups[0].ingress, [Ingress::from_itself(&group)]);
    assert_eq!(ask(&mut pair, "sg-1"), Err("InvalidGroup.NotFound".into()));
}

#[test]
fn a_longer_blackhole_wins_and_drops() {
    let mut pair = Pair::new();
    pair.check_off(&pair.a.1.clone());
    pair.check_off(&pair.b.1.clone());
    let gone = pair.vpc.attach_interface(NOW, &pair.b.0, &pair.subnet(), ip("10.0.1.50"));
    pair.create("10.32.0.0/12", &pair.b.1.clone()).unwrap();
    pair.create("10.40.0.0/16", &gone).unwrap();
    pair.vpc.delete_interface(NOW, &gone);
    assert_eq!(pair.vpc.forward(&pair.a.1, ip("10.32.0.1"), ip("10.40.0.1")), None);
    assert_eq!(pair.vpc.forward(&pair.a.1, ip("10.32.0.1"), ip("10.41.0.1")), Some(pair.b.1.clone()));
    assert_eq!(pair.state_of("10.40.0.0/16"), RouteState::Blackhole);
}

#[test]
fn a_route_outlives_its_instance_and_revives_with_a_stopped_one() {
    let mut pair = Pair::new();
    pair.create("10.40.0.0/13", &pair.b.1.clone()).unwrap();
    pair.vpc.set_power(NOW, &pair.b.0, Power::Stopped);
    assert_eq!(pair.state_of("10.40.0.0/13"), RouteState::Blackhole);
    pair.vpc.set_power(NOW, &pair.b.0, Power::Running);
    assert_eq!(pair.state_of("10.40.0.0/13"), RouteState::Active);
    pair.vpc.set_power(NOW, &pair.b.0, Power::Terminated);
    pair.vpc.set_power(NOW, &pair.b.0, Power::Running);
    assert_eq!(pair.state_of("10.40.0.0/13"), RouteState::Blackhole, "terminated is for ever");
    assert_eq!(pair.create("10.40.0.0/13", &pair.a.1.clone()), Err("RouteAlreadyExists".into()));
    assert_eq!(pair.replace("10.40.0.0/13", &pair.a.1.clone()), Ok(()));
    assert_eq!(pair.state_of("10.40.0.0/13"), RouteState::Active);
}

#[test]
fn create_clears_host_bits_and_delete_wants_the_very_text() {
    let mut pair = Pair::new();
    pair.create("100.68.0.18/18", &pair.a.1.clone()).unwrap();
    assert_eq!(pair.state_of("100.68.0.0/18"), RouteState::Active);
    assert_eq!(pair.delete("100.68.0.18/18"), Err("InvalidRoute.NotFound".into()));
    assert_eq!(pair.delete("100.68.0.0/18"), Ok(()));
    assert_eq!(pair.delete("100.68.0.0/18"), Err("InvalidRoute.NotFound".into()));
}

#[test]
fn replacing_what_is_missing_is_an_invalid_value() {
    let mut pair = Pair::new();
    let targets = Targets::interface(pair.a.1.0.clone());
    let call = Call::ReplaceRoute {
        table: pair.table.0.clone(),
        destination: "10.40.0.0/13".into(),
        targets,
        dry_run: false,
    };
    let error = pair.vpc.call(NOW, &Caller::Instance(pair.a.0.clone()), &call).result.unwrap_err();
    assert_eq!(error.code, "InvalidParameterValue");
    assert!(error.message.starts_with("There is no route defined for '10.40.0.0/13'"), "{error}");
}

#[test]
fn exactly_one_target_and_only_known_ids_are_accepted() {
    let mut pair = Pair::new();
    let a = pair.a.clone();
    let mut create = |targets| pair.send(pair.create_call("10.40.0.0/13", targets));
    assert_eq!(create(Targets::default()), Err("MissingParameter".into()));
    let both = Targets { instance: Some(a.0.0.clone()), ..Targets::interface(a.1.0.clone()) };
    assert_eq!(create(both), Err("InvalidParameterCombination".into()));
    assert_eq!(create(Targets::interface("banana")), Err("InvalidNetworkInterfaceId.Malformed".into()));
    assert_eq!(create(Targets::interface("eni-12345678")), Err("InvalidNetworkInterfaceID.NotFound".into()));
    assert_eq!(create(Targets { instance: Some(a.0.0), ..Targets::default() }), Ok(()));
    assert_eq!(pair.route("10.40.0.0/13").target, RouteTarget::Interface(a.1));
}

#[test]
fn an_instance_with_two_interfaces_is_no_target() {
    let mut pair = Pair::new();
    pair.vpc.attach_interface(NOW, &pair.a.0, &pair.subnet(), ip("10.0.1.50"));
    let targets = Targets { instance: Some(pair.a.0.0.clone()), ..Targets::default() };
    assert_eq!(pair.send(pair.create_call("10.40.0.0/13", targets)), Err("InvalidInstanceID".into()));
}

#[test]
fn the_local_route_cannot_be_hidden_nor_removed() {
    let mut pair = Pair::new();
    let to = pair.a.1.clone();
    assert_eq!(pair.create("10.0.0.0/16", &to), Err("RouteAlreadyExists".into()));
    assert_eq!(pair.create("10.0.7.0/24", &to), Err("InvalidParameterValue".into()), "no subnet");
    assert_eq!(pair.create("10.0.1.0/24", &to), Ok(()), "a whole subnet may be steered");
    assert_eq!(pair.create("169.254.168.0/24", &to), Err("InvalidParameterValue".into()));
    assert_eq!(pair.delete("10.0.0.0/16"), Err("InvalidParameterValue".into()));
}

#[test]
fn a_full_table_takes_no_route_until_one_goes() {
    let mut pair = Pair::new();
    pair.vpc.set_quota(NOW, &pair.table.clone(), 2);
    let to = pair.a.1.clone();
    assert_eq!(pair.create("10.32.0.0/13", &to), Ok(()));
    assert_eq!(pair.create("10.40.0.0/13", &to), Err("RouteLimitExceeded".into()));
    assert_eq!(pair.replace("10.32.0.0/13", &to), Ok(()), "a replacement takes no slot");
    pair.delete("10.32.0.0/13").unwrap();
    assert_eq!(pair.create("10.40.0.0/13", &to), Ok(()));
}

#[test]
fn a_refused_change_leaves_no_trace() {
    let mut pair = Pair::new();
    let before = pair.vpc.version();
    pair.delete("10.40.0.0/13").unwrap_err();
    assert_eq!(pair.vpc.version(), before);
}

#[test]
fn the_five_actions_are_permitted_and_more_on_request() {
    let mut pair = Pair::new();
    let call = Call::ModifyNetworkInterfaceAttribute {
        interface: pair.a.1.0.clone(),
        check: Check::Off,
        dry_run: false,
    };
    assert_eq!(pair.send(call.clone()), Err("UnauthorizedOperation".into()));
    let caller = Caller::Instance(pair.a.0.clone());
    pair.vpc.permit(&caller, [Action::ModifyNetworkInterfaceAttribute]);
    assert_eq!(pair.send(call), Ok(()));
    assert!(!pair.vpc.interfaces()[&pair.a.1].source_dest_check);
    assert_eq!(pair.vpc.calls()[&Action::ModifyNetworkInterfaceAttribute], 2);
}

#[test]
fn a_dry_run_tells_the_permission_and_changes_nothing() {
    let mut pair = Pair::new();
    let call = |pair: &Pair| Call::DeleteRoute {
        table: pair.table.0.clone(),
        destination: "10.40.0.0/13".into(),
        dry_run: true,
    };
    pair.create("10.40.0.0/13", &pair.a.1.clone()).unwrap();
    assert_eq!(pair.send(call(&pair)), Err("DryRunOperation".into()));
    assert_eq!(pair.state_of("10.40.0.0/13"), RouteState::Active);
    let denied = BTreeSet::from([Action::DeleteRoute]);
    pair.vpc.set_faults(Faults { denied, ..Faults::default() });
    assert_eq!(pair.send(call(&pair)), Err("UnauthorizedOperation".into()));
}

#[test]
fn a_bucket_empties_and_fills_again_with_time() {
    let mut pair = Pair::new();
    let throttle = Throttle::Bucket { capacity: 2, per_second: 4 };
    pair.vpc.set_faults(Faults { throttle, ..Faults::default() });
    let mut codes = Vec::new();
    for ms in [0, 0, 0, 100, 250, 300, 2000, 2000, 2000] {
        let at = Timestamp::from_micros(ms * 1000);
        codes.push(pair.read(at, &Find::default()).map_err(|error| error.status).err());
    }
    let (ok, slow) = (None, Some(503));
    assert_eq!(codes, [ok, ok, slow, slow, ok, slow, ok, ok, slow]);
}

#[test]
fn a_stale_read_shows_the_tables_of_a_while_ago() {
    let mut pair = Pair::new();
    pair.vpc.set_faults(Faults { stale_ms: 800, ..Faults::default() });
    pair.create_at(Timestamp::from_micros(1_000_000), "10.32.0.0/13");
    pair.create_at(Timestamp::from_micros(1_500_000), "10.40.0.0/13");
    let routes = |pair: &mut Pair, ms: u64| {
        let tables = pair.read(Timestamp::from_micros(ms * 1000), &Find::default()).unwrap();
        tables.iter().find(|view| view.id == pair.table).unwrap().routes.len() - 1
    };
    assert_eq!(routes(&mut pair, 1_600), 0);
    assert_eq!(routes(&mut pair, 1_900), 1);
    assert_eq!(routes(&mut pair, 2_400), 2);
}

#[test]
fn a_lost_answer_hides_a_change_that_was_made() {
    let mut pair = Pair::new();
    let lose = BTreeMap::from([(Action::CreateRoute, 1)]);
    pair.vpc.set_faults(Faults { lose, ..Faults::default() });
    let to = pair.a.1.clone();
    assert_eq!(pair.create("10.40.0.0/13", &to), Err("InternalError".into()));
    assert_eq!(pair.create("10.40.0.0/13", &to), Err("RouteAlreadyExists".into()));
}

#[test]
fn tables_are_found_by_subnet_and_an_implicit_association_is_not_one() {
    let mut pair = Pair::new();
    let lonely = pair.vpc.add_subnet(NOW, "10.0.2.0/24".parse().unwrap(), "eu-central-1b");
    let by = |subnet: &SubnetId| Find {
        filters: vec![("association.subnet-id".into(), vec![subnet.0.clone()])],
        ..Find::default()
    };
    let found = pair.read(NOW, &by(&pair.subnet())).unwrap();
    assert_eq!(found.iter().map(|view| &view.id).collect::<Vec<_>>(), [&pair.table]);
    assert!(pair.read(NOW, &by(&lonely)).unwrap().is_empty());
    assert_eq!(pair.vpc.table_of(&lonely), Some(pair.vpc.main_table()));
    let odd = Find { filters: vec![("route.colour".into(), vec!["red".into()])], ..Find::default() };
    assert_eq!(pair.read(NOW, &odd).unwrap_err().code, "InvalidParameterValue");
}

#[test]
fn pages_follow_each_other_and_their_size_has_bounds() {
    let mut pair = Pair::new();
    for _ in 0..10 {
        pair.vpc.add_table(NOW);
    }
    let mut find = Find { max_results: Some(5), ..Find::default() };
    let mut sizes = Vec::new();
    loop {
        let caller = Caller::Instance(pair.a.0.clone());
        let reply = pair.vpc.call(NOW, &caller, &Call::DescribeRouteTables(find.clone()));
        let Ok(Answer::Tables { tables, next_token }) = reply.result else { panic!("{reply:?}") };
        sizes.push(tables.len());
        find.next_token = next_token;
        if find.next_token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 2]);
    find.max_results = Some(101);
    assert_eq!(pair.read(NOW, &find).unwrap_err().code, "InvalidParameterValue");
    let find = Find { next_token: Some("bogus".into()), ..Find::default() };
    assert_eq!(pair.read(NOW, &find).unwrap_err().code, "InvalidPaginationToken");
}

impl Pair {
    fn new() -> Pair {
        let mut vpc = Vpc::new("10.0.0.0/16".parse().unwrap(), "eu-central-1");
        let subnet = vpc.add_subnet(NOW, "10.0.1.0/24".parse().unwrap(), "eu-central-1a");
        let table = vpc.add_table(NOW);
        vpc.associate(NOW, &subnet, Some(&table));
        let a = vpc.launch(NOW, &subnet, ip("10.0.1.11"));
        let b = vpc.launch(NOW, &subnet, ip("10.0.1.12"));
        Pair { vpc, table, a, b }
    }

    fn subnet(&self) -> SubnetId {
        self.vpc.interfaces()[&self.a.1].subnet.clone()
    }

    fn create_call(&self, destination: &str, targets: Targets) -> Call {
        let table = self.table.0.clone();
        Call::CreateRoute { table, destination: destination.into(), targets, dry_run: false }
    }

    /// Sends a call as the first instance; the code of a refusal.
    fn send(&mut self, call: Call) -> Result<(), String> {
        let caller = Caller::Instance(self.a.0.clone());
        self.vpc.call(NOW, &caller, &call).result.map(|_| ()).map_err(|error| error.code)
    }

    fn create(&mut self, destination: &str, to: &InterfaceId) -> Result<(), String> {
        self.send(self.create_call(destination, Targets::interface(to.0.clone())))
    }

    fn create_at(&mut self, at: Timestamp, destination: &str) {
        let call = self.create_call(destination, Targets::interface(self.a.1.0.clone()));
        self.vpc.call(at, &Caller::Console, &call).result.unwrap();
    }

    fn replace(&mut self, destination: &str, to: &InterfaceId) -> Result<(), String> {
        let (table, targets) = (self.table.0.clone(), Targets::interface(to.0.clone()));
        self.send(Call::ReplaceRoute { table, destination: destination.into(), targets, dry_run: false })
    }

    fn delete(&mut self, destination: &str) -> Result<(), String> {
        let table = self.table.0.clone();
        self.send(Call::DeleteRoute { table, destination: destination.into(), dry_run: false })
    }

    fn check_off(&mut self, interface: &InterfaceId) {
        let call = Call::ModifyNetworkInterfaceAttribute {
            interface: interface.0.clone(),
            check: Check::Off,
            dry_run: false,
        };
        self.vpc.call(NOW, &Caller::Console, &call).result.unwrap();
    }

    fn read(&mut self, at: Timestamp, find: &Find) -> Result<Vec<TableView>, ApiError> {
        let caller = Caller::Instance(self.a.0.clone());
        match self.vpc.call(at, &caller, &Call::DescribeRouteTables(find.clone())).result? {
            Answer::Tables { tables, .. } => Ok(tables),
            Answer::Done | Answer::Instances { .. } | Answer::Groups { .. } => panic!("no tables"),
        }
    }

    fn route(&self, destination: &str) -> RouteView {
        let destination = destination.parse().unwrap();
        let routes = self.vpc.routes(&self.table);
        routes.into_iter().find(|route| route.destination == destination).unwrap()
    }

    fn state_of(&self, destination: &str) -> RouteState {
        self.route(destination).state
    }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}
