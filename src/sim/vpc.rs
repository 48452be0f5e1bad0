//! A model of one VPC: what EC2 knows, what it answers, and where it delivers a packet.
//!
//! It is pure, so that the simulator calls it in its own time and the lab serves it over HTTP.
//! It keeps EC2's rules where they matter to a client of routes; it is not EC2. [`gate`] decides
//! whether a call is carried out at all, [`route`] changes tables, [`describe`] answers questions,
//! [`console`] is for whoever sets the scene.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use self::{
    call::{Action, Answer, Call, Caller, Check, Destination, Find, Reply, Targets},
    describe::{
        Association, InstanceView, InterfaceView, RouteView, TableView, power_name, private_dns_name,
        state_name,
    },
    error::ApiError,
    gate::{Faults, Metadata, Signatures, Throttle},
    group::{GroupId, GroupView, Ingress},
    route::{Origin, Route, RouteTarget},
};
pub use crate::state::SubnetId;
use crate::{
    state::{InterfaceId, RouteState, TableId},
    time::Timestamp,
};

mod call;
mod console;
mod filter;
mod describe;
mod error;
mod gate;
mod group;
mod route;

/// Routes a table holds unless told otherwise.
pub const QUOTA_DEFAULT: usize = 500;

/// Earlier states kept for stale reads, at most.
const HISTORY_LEN_MAX: usize = 4096;

/// An instance, `i-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub String);

/// One VPC, its permissions and its faults.
#[derive(Clone, Debug)]
pub struct Vpc {
    state: Arc<State>,
    /// Earlier states by the moment they ceased to be; kept only while reads are stale.
    history: VecDeque<(Timestamp, Arc<State>)>,
    gate: gate::Gate,
    version: u64,
}

/// What a describe call reads; as a whole, so that it can be read as of a while ago.
#[derive(Clone, Debug)]
struct State {
    vpc_id: String,
    account: String,
    region: String,
    cidr: Ipv4Net,
    subnets: BTreeMap<SubnetId, Subnet>,
    tables: BTreeMap<TableId, Table>,
    main: TableId,
    interfaces: BTreeMap<InterfaceId, Interface>,
    instances: BTreeMap<InstanceId, Instance>,
    /// Security groups and what they let in. The first is the default one.
    groups: BTreeMap<GroupId, Vec<Ingress>>,
    ids: u64,
}

/// A subnet and the table it is explicitly associated with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// Availability zone.
    pub zone: String,
    /// `None`: the VPC's main table, by implication.
    pub table: Option<TableId>,
}

/// A route table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    routes: BTreeMap<Ipv4Net, Route>,
    routes6: BTreeMap<Ipv6Net, Route>,
    /// Learned from a virtual gateway; they stand beside static ones and lose to them.
    propagated: BTreeMap<Ipv4Net, String>,
    quota: usize,
    tags: BTreeMap<String, String>,
    /// Gateway of an edge association.
    edge: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Where it is.
    pub subnet: SubnetId,
    /// Its private address.
    pub address: Ipv4Addr,
    /// Packets from or to other addresses are dropped while this is on.
    pub source_dest_check: bool,
    /// Its security groups.
    pub groups: Vec<GroupId>,
    /// The instance and the device number it is attached under.
    pub attached: Option<(InstanceId, u32)>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// How far it is in its life.
    pub power: Power,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// How far an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Up.
    Running,
    /// Down, with its interfaces; it may come back.
    Stopped,
    /// Gone; its interfaces are deleted.
    Terminated,
}

impl Vpc {
    /// An empty VPC with its main table, no subnet, and all calls answered at once.
    pub fn new(cidr: Ipv4Net, region: &str) -> Vpc {
        let main = TableId(id("rtb", 0));
        let group = GroupId(id("sg", 0));
        let state = State {
            vpc_id: id("vpc", 0),
            account: "123456789012".to_owned(),
            region: region.to_owned(),
            cidr,
            subnets: BTreeMap::new(),
            tables: BTreeMap::from([(main.clone(), Table::new(cidr))]),
            main,
            interfaces: BTreeMap::new(),
            instances: BTreeMap::new(),
            groups: BTreeMap::from([(group.clone(), vec![Ingress::from_itself(&group)])]),
            ids: 1,
        };
        Vpc { state: Arc::new(state), history: VecDeque::new(), gate: gate::Gate::default(), version: 0 }
    }

    // ===== calls =====

    /// Carries out a call, or says why not.
    pub fn call(&mut self, now: Timestamp, caller: &Caller, call: &Call) -> Reply {
        let after = self.gate.delay(caller);
        let result = self.answer(now, caller, call);
        let cut = result.is_ok() && self.gate.cut(caller, call.action());
        Reply { after, cut, result }
    }

    fn answer(&mut self, now: Timestamp, caller: &Caller, call: &Call) -> Result<Answer, ApiError> {
        let action = call.action();
        self.gate.admit(now, caller, action, call.dry_run())?;
        let answer = match call {
            Call::DescribeRouteTables(find) => self.read(now, caller).describe_tables(find)?,
            Call::DescribeInstances(find) => self.read(now, caller).describe_instances(find)?,
            Call::DescribeSecurityGroups(find) => self.read(now, caller).describe_groups(find)?,
            Call::CreateRoute { .. }
            | Call::ReplaceRoute { .. }
            | Call::DeleteRoute { .. }
            | Call::ModifyNetworkInterfaceAttribute { .. }
            | Call::ModifyInstanceAttribute { .. } => self.write(now, call)?,
        };
        self.gate.dismiss(caller, action)?;
        Ok(answer)
    }

    /// A refused change leaves no trace, not even a new version.
    fn write(&mut self, now: Timestamp, call: &Call) -> Result<Answer, ApiError> {
        let mut next = State::clone(&self.state);
        match call {
            Call::CreateRoute { table, destination, targets, .. } => {
                next.create_route(table, destination, targets)?;
            }
            Call::ReplaceRoute { table, destination, targets, .. } => {
                next.replace_route(table, destination, targets)?;
            }
            Call::DeleteRoute { table, destination, .. } => {
                next.delete_route(table, destination)?;
            }
            Call::ModifyNetworkInterfaceAttribute { interface, check, .. } => {
                next.set_interface_check(interface, *check)?;
            }
            Call::ModifyInstanceAttribute { instance, check, .. } => {
                next.set_instance_check(instance, *check)?;
            }
            Call::DescribeRouteTables(_) | Call::DescribeInstances(_) | Call::DescribeSecurityGroups(_) => {}
        }
        *self.change(now) = next;
        Ok(Answer::Done)
    }

    /// Allows an instance these calls besides the five.
    pub fn permit(&mut self, caller: &Caller, actions: impl IntoIterator<Item = Action>) {
        self.gate.permit(caller, actions);
    }

    /// What goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.gate.set_faults(faults);
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        self.gate.faults()
    }

    /// Calls of instances by action, answered or refused. The console's are not counted.
    pub fn calls(&self) -> BTreeMap<Action, u64> {
        self.gate.calls()
    }

    /// Of the calls of a caller, those that were too many.
    pub fn throttled_by(&self, caller: &Caller) -> BTreeMap<Action, u64> {
        self.gate.throttled_by(caller)
    }

    /// Calls of one instance by action.
    pub fn calls_by(&self, caller: &Caller) -> BTreeMap<Action, u64> {
        self.gate.calls_by(caller)
    }

    // ===== how things are =====

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where the VPC delivers a packet that `from` sends: the longest match in the table of its
    /// subnet, unless a source/destination check or a blackhole drops it.
    pub fn forward(
        &self,
        from: &InterfaceId,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> Option<InterfaceId> {
        let sender = self.state.interfaces.get(from)?;
        if !self.state.is_up(from) || sender.source_dest_check && sender.address != source {
            return None;
        }
        let table = self.table_of(&sender.subnet)?;
        let to = match self.state.lookup(table, destination)? {
            RouteTarget::Local => self.interface_at(destination)?,
            RouteTarget::Interface(interface) => interface,
            RouteTarget::Gateway(_) => return None,
        };
        let receiver = self.state.interfaces.get(&to)?;
        let accepts = !receiver.source_dest_check || receiver.address == destination;
        (self.state.is_up(&to) && accepts).then_some(to)
    }

    /// The same of IPv6, of which hosts of the model have no address: the check drops all of it where it is on.
    pub fn forward6(&self, from: &InterfaceId, destination: Ipv6Addr) -> Option<InterfaceId> {
        let sender = self.state.interfaces.get(from).filter(|sender| !sender.source_dest_check)?;
        let table = self.table_of(&sender.subnet)?;
        let RouteTarget::Interface(to) = self.state.lookup6(table, destination)? else { return None };
        let accepts = self.state.interfaces.get(&to).is_some_and(|receiver| !receiver.source_dest_check);
        (self.state.is_up(from) && self.state.is_up(&to) && accepts).then_some(to)
    }

    /// The table that serves a subnet: its own, else the main one.
    pub fn table_of(&self, subnet: &SubnetId) -> Option<&TableId> {
        self.state.subnets.get(subnet).map(|subnet| subnet.table.as_ref().unwrap_or(&self.state.main))
    }

    /// The routes of a table as they are now, ascending.
    pub fn routes(&self, table: &TableId) -> Vec<RouteView> {
        self.state.tables.get(table).map(|table| self.state.view_routes(table)).unwrap_or_default()
    }

    /// Those of IPv6.
    pub fn routes6(&self, table: &TableId) -> Vec<RouteView<Ipv6Net>> {
        self.state.tables.get(table).map(|table| self.state.view_routes6(table)).unwrap_or_default()
    }

    /// All tables.
    pub fn tables(&self) -> impl Iterator<Item = &TableId> {
        self.state.tables.keys()
    }

    /// The main table.
    pub fn main_table(&self) -> &TableId {
        &self.state.main
    }

    /// All interfaces.
    pub fn interfaces(&self) -> &BTreeMap<InterfaceId, Interface> {
        &self.state.interfaces
    }

    /// All instances that EC2 still knows.
    pub fn instances(&self) -> &BTreeMap<InstanceId, Instance> {
        &self.state.instances
    }

    /// All subnets.
    pub fn subnets(&self) -> &BTreeMap<SubnetId, Subnet> {
        &self.state.subnets
    }

    /// The interfaces of an instance by device number.
    pub fn interfaces_of(&self, instance: &InstanceId) -> Vec<(u32, InterfaceId)> {
        self.state.interfaces_of(instance)
    }

    /// The interface that has this private address.
    pub fn interface_at(&self, address: Ipv4Addr) -> Option<InterfaceId> {
        self.state.interfaces.iter().find(|(_, i)| i.address == address).map(|(id, _)| id.clone())
    }

    /// Whether packets reach this interface: it is attached to an instance that runs.
    pub fn is_up(&self, interface: &InterfaceId) -> bool {
        self.state.is_up(interface)
    }

    /// The VPC's id.
    pub fn id(&self) -> &str {
        &self.state.vpc_id
    }

    /// The VPC's addresses.
    pub fn cidr(&self) -> Ipv4Net {
        self.state.cidr
    }

    /// The AWS region it is in.
    pub fn region(&self) -> &str {
        &self.state.region
    }

    /// The AWS account that owns it.
    pub fn account(&self) -> &str {
        &self.state.account
    }

    /// The state to edit; the one before is kept while somebody may still read it.
    fn change(&mut self, now: Timestamp) -> &mut State {
        self.version += 1;
        let stale = self.gate.faults().stale();
        if stale.is_zero() {
            self.history.clear();
        } else {
            self.history.push_back((now, self.state.clone()));
            while self.history.len() > HISTORY_LEN_MAX
                || self.history.front().is_some_and(|(until, _)| now.since(*until) > stale)
            {
                self.history.pop_front();
            }
        }
        Arc::make_mut(&mut self.state)
    }

    /// The state that a describe call sees: as of a while ago, where reads are stale.
    fn read(&self, now: Timestamp, caller: &Caller) -> &State {
        let stale = if *caller == Caller::Console { Duration::ZERO } else { self.gate.faults().stale() };
        let seen = self.history.iter().find(|(until, _)| now.since(*until) < stale);
        seen.map_or(&self.state, |(_, state)| state)
    }
}

impl State {
    fn next_id(&mut self, kind: &str) -> String {
        self.ids += 1;
        id(kind, self.ids)
    }

    fn interfaces_of(&self, instance: &InstanceId) -> Vec<(u32, InterfaceId)> {
        let attached = self.interfaces.iter().filter_map(|(id, interface)| {
            let (at, device) = interface.attached.as_ref()?;
            (at == instance).then(|| (*device, id.clone()))
        });
        attached.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn is_up(&self, interface: &InterfaceId) -> bool {
        let at = self.interfaces.get(interface).and_then(|interface| interface.attached.as_ref());
        let instance = at.and_then(|(instance, _)| self.instances.get(instance));
        instance.is_some_and(|instance| instance.power == Power::Running)
    }

    /// A target that cannot take packets makes its route a blackhole; the route stays.
    fn route_state(&self, target: &RouteTarget) -> RouteState {
        match target {
            RouteTarget::Interface(interface) if !self.is_up(interface) => RouteState::Blackhole,
            RouteTarget::Interface(_) | RouteTarget::Local | RouteTarget::Gateway(_) => RouteState::Active,
        }
    }

    fn set_interface_check(&mut self, interface: &str, check: Check) -> Result<(), ApiError> {
        let id = self.known_interface(interface)?;
        if let Some(interface) = self.interfaces.get_mut(&id) {
            interface.source_dest_check = check == Check::On;
        }
        Ok(())
    }

    /// The check belongs to the interface, so the instance's form needs there to be just one.
    fn set_instance_check(&mut self, instance: &str, check: Check) -> Result<(), ApiError> {
        let id = self.only_interface(instance)?;
        self.set_interface_check(&id.0, check)
    }
}

/// Ids are those of EC2 in form: a kind and 17 hexadecimal digits.
fn id(kind: &str, number: u64) -> String {
    format!("{kind}-0{number:016x}")
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
