//! In which subnets of our VPC the instances with given addresses are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use aws_sdk_ec2::types::{Filter, Instance};

use super::{Ec2, fault::Call, observe::filter};
use crate::{
    node::observe::peer_subnets::CALL_MAX,
    state::{Fault, SubnetId},
};

/// An instance that is down has its place, and may come back; one that is terminated has none.
const ALIVE: [&str; 4] = ["pending", "running", "stopping", "stopped"];
/// The first address of an instance, then that of any interface: few instances have several.
const FILTERS: [&str; 2] = ["private-ip-address", "network-interface.addresses.private-ip-address"];

impl Ec2 {
    /// The subnet of each of these addresses that is an instance's in our VPC; and of the instance's other addresses, since by
    /// which of them the packets of its containers leave is known to itself alone.
    pub async fn places(
        &self,
        addresses: &BTreeSet<Ipv4Addr>,
    ) -> Result<BTreeMap<Ipv4Addr, SubnetId>, Fault> {
        self.addresses(addresses, &ALIVE).await
    }

    /// The same for instances in these states only.
    pub(super) async fn addresses(
        &self,
        addresses: &BTreeSet<Ipv4Addr>,
        states: &[&str],
    ) -> Result<BTreeMap<Ipv4Addr, SubnetId>, Fault> {
        let mut found = BTreeMap::new();
        for name in FILTERS {
            let unknown: Vec<Ipv4Addr> =
                addresses.iter().filter(|address| !found.contains_key(*address)).copied().collect();
            for some in unknown.chunks(CALL_MAX) {
                let instances = self.with_addresses(name, some, states).await?;
                found.extend(instances.iter().flat_map(places_of));
            }
        }
        Ok(found)
    }

    async fn with_addresses(
        &self,
        name: &str,
        addresses: &[Ipv4Addr],
        states: &[&str],
    ) -> Result<Vec<Instance>, Fault> {
        let call = Call {
            operation: "DescribeInstances",
            subject: format!("the instances of {} peers", addresses.len()),
            resource: "*".to_owned(),
            by_hand: None,
            used: None,
        };
        let filters = vec![
            one_of(name, addresses.iter().map(ToString::to_string)),
            one_of("instance-state-name", states.iter().map(|&state| state.to_owned())),
            filter("vpc-id", &self.identity.vpc),
        ];
        self.instances_where(&call, filters).await
    }
}

fn one_of(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

/// Every address of an instance, with the subnet of its interface.
fn places_of(instance: &Instance) -> Vec<(Ipv4Addr, SubnetId)> {
    let interfaces = instance.network_interfaces().iter().filter_map(|one| Some((one, one.subnet_id()?)));
    let of_interfaces = interfaces.flat_map(|(interface, subnet)| {
        let addresses = interface.private_ip_addresses().iter().filter_map(|one| one.private_ip_address());
        addresses.map(move |address| (address, subnet))
    });
    let own = instance.private_ip_address().zip(instance.subnet_id());
    let all = own.into_iter().chain(of_interfaces);
    all.filter_map(|(address, subnet)| Some((address.parse().ok()?, SubnetId(subnet.to_owned())))).collect()
}
