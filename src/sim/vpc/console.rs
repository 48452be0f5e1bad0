//! What a colleague with a console does: nothing is refused, counted or delayed.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{GroupId, Ingress, Instance, InstanceId, Interface, Power, Subnet, SubnetId, Table, Vpc};
use crate::{
    state::{InterfaceId, TableId},
    time::Timestamp,
};

impl Vpc {
    /// A new subnet, on the main table until associated.
    pub fn add_subnet(&mut self, now: Timestamp, cidr: Ipv4Net, zone: &str) -> SubnetId {
        let state = self.change(now);
        let subnet = SubnetId(state.next_id("subnet"));
        state.subnets.insert(subnet.clone(), Subnet { cidr, zone: zone.to_owned(), table: None });
        subnet
    }

    /// A new route table that holds the local route only.
    pub fn add_table(&mut self, now: Timestamp) -> TableId {
        let state = self.change(now);
        let table = TableId(state.next_id("rtb"));
        let cidr = state.cidr;
        state.tables.insert(table.clone(), Table::new(cidr));
        table
    }

    /// Associates a subnet with a table; `None` leaves it to the main one.
    pub fn associate(&mut self, now: Timestamp, subnet: &SubnetId, table: Option<&TableId>) {
        if let Some(subnet) = self.change(now).subnets.get_mut(subnet) {
            subnet.table = table.cloned();
        }
    }

    /// Associates a table with a gateway: an edge table, of no use to us.
    pub fn associate_edge(&mut self, now: Timestamp, table: &TableId, gateway: &str) {
        self.edit_table(now, table, |table| table.edge = Some(gateway.to_owned()));
    }

    /// Sets how many routes a table may hold.
    pub fn set_quota(&mut self, now: Timestamp, table: &TableId, quota: usize) {
        self.edit_table(now, table, |table| table.quota = quota);
    }

    /// Tags a table.
    pub fn tag_table(&mut self, now: Timestamp, table: &TableId, key: &str, value: &str) {
        self.edit_table(now, table, |table| {
            table.tags.insert(key.to_owned(), value.to_owned());
        });
    }

    /// Puts a route there that a virtual gateway learned.
    pub fn propagate(&mut self, now: Timestamp, table: &TableId, destination: Ipv4Net, gateway: &str) {
        self.edit_table(now, table, |table| {
            table.propagated.insert(destination.trunc(), gateway.to_owned());
        });
    }

    /// Starts a new instance with one interface at `address`. It may make the five calls that
    /// weavers cannot do without; see [`Vpc::permit`].
    pub fn launch(
        &mut self,
        now: Timestamp,
        subnet: &SubnetId,
        address: Ipv4Addr,
    ) -> (InstanceId, InterfaceId) {
        let state = self.change(now);
        let instance = InstanceId(state.next_id("i"));
        let record = Instance { power: Power::Running, tags: BTreeMap::new() };
        state.instances.insert(instance.clone(), record);
        let interface = self.attach_interface(now, &instance, subnet, address);
        (instance, interface)
    }

    /// Gives an instance one more interface, under the next free device number.
    pub fn attach_interface(
        &mut self,
        now: Timestamp,
        instance: &InstanceId,
        subnet: &SubnetId,
        address: Ipv4Addr,
    ) -> InterfaceId {
        let state = self.change(now);
        let device = state.interfaces_of(instance).last().map_or(0, |(device, _)| device + 1);
        let interface = InterfaceId(state.next_id("eni"));
        let record = Interface {
            subnet: subnet.clone(),
            address,
            source_dest_check: true,
            groups: state.groups.keys().next().cloned().into_iter().collect(),
            attached: Some((instance.clone(), device)),
        };
        state.interfaces.insert(interface.clone(), record);
        interface
    }

    /// Detaches an interface from its instance; routes to it become blackholes.
    pub fn detach_interface(&mut self, now: Timestamp, interface: &InterfaceId) {
        if let Some(interface) = self.change(now).interfaces.get_mut(interface) {
            interface.attached = None;
        }
    }

    /// Deletes an interface; routes to it stay, as blackholes.
    pub fn delete_interface(&mut self, now: Timestamp, interface: &InterfaceId) {
        self.change(now).interfaces.remove(interface);
    }

    /// Sets what a security group lets in.
    pub fn set_ingress(&mut self, now: Timestamp, group: &GroupId, ingress: Vec<Ingress>) {
        if let Some(all) = self.change(now).groups.get_mut(group) {
            *all = ingress;
        }
    }

    /// Tags an instance.
    pub fn tag_instance(&mut self, now: Timestamp, instance: &InstanceId, key: &str, value: &str) {
        if let Some(instance) = self.change(now).instances.get_mut(instance) {
            instance.tags.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Stops, starts or terminates an instance; a terminated one stays so. False if it is unknown.
    pub fn set_power(&mut self, now: Timestamp, instance: &InstanceId, power: Power) -> bool {
        if !self.state.instances.contains_key(instance) {
            return false;
        }
        let state = self.change(now);
        if let Some(record) = state.instances.get_mut(instance)
            && record.power != Power::Terminated
        {
            record.power = power;
        }
        if power == Power::Terminated {
            state.interfaces.retain(|_, i| i.attached.as_ref().is_none_or(|(at, _)| at != instance));
        }
        true
    }

    /// Forgets an instance, as EC2 does within an hour of its termination.
    pub fn forget_instance(&mut self, now: Timestamp, instance: &InstanceId) {
        self.set_power(now, instance, Power::Terminated);
        self.change(now).instances.remove(instance);
    }

    fn edit_table(&mut self, now: Timestamp, table: &TableId, edit: impl FnOnce(&mut Table)) {
        if let Some(table) = self.change(now).tables.get_mut(table) {
            edit(table);
        }
    }
}
